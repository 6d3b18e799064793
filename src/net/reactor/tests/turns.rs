//! Single turns, one after the other in the thread of the test, so that nothing happens by chance.

use super::*;
use crate::base::limits::MAILBOX_LEN_MAX;
use crate::broker::settings::ClientTls;
use crate::net::passwords::Passwords;
use crate::net::reactors::{Desk, Desks, Ports};
use crate::net::tls::tests::Authority;
use crate::net::tls::{ClientCertificate, Dialling, Layer, Serving};

/// Loops that turn when they are told to.
struct Desktop {
    reactors: Vec<Reactor<Answerer>>,
    events: Events,
    at: Option<SocketAddr>,
}

/// The first `running` of `loops` loops, and the mailboxes of the others.
fn desktop(running: usize, loops: u16) -> (Desktop, Vec<Receiver<Mail<Word>>>) {
    desktop_by((broker_settings(loops), rules()), running, loops)
}

fn desktop_by(
    (settings, rules): (broker::Settings, Rules),
    running: usize,
    loops: u16,
) -> (Desktop, Vec<Receiver<Mail<Word>>>) {
    let ports = Ports::open(anywhere().as_ref(), None).unwrap();
    let (at, mut ports) = (ports.client_address, Some(ports.into_ports()));
    let desks = Desks::<Word>::new(loops).unwrap();
    let (mut reactors, mut others) = (Vec::new(), Vec::new());
    let (settings, rules) = (Arc::new(settings), Arc::new(rules));
    let resolver = Resolver::start().unwrap();
    let passwords = Passwords::start().unwrap();
    for (Desk { poll, mailbox, pulse }, number) in desks.desks.into_iter().zip(0..) {
        if running <= usize::from(number) {
            others.push(mailbox);
            continue;
        }
        let home = LoopIndex(number);
        let parts = Parts {
            home,
            poll,
            mailbox,
            pulse,
            peers: desks.senders.clone(),
            broker: Broker::new(Arc::clone(&settings), home, 1, world::now()),
            driver: Answerer::default(),
            lease: LeaseClock::endless(),
            rules: Arc::clone(&rules),
            ports: ports.take().unwrap_or_default(),
            resolver: resolver.clone(),
            passwords: passwords.clone(),
            own_route_port: None,
            seed: 1,
        };
        reactors.push(Reactor::new(parts).unwrap());
    }
    (Desktop { reactors, events: Events::with_capacity(64), at }, others)
}

impl Desktop {
    /// One turn of one loop, which does not sleep.
    fn turn(&mut self, index: usize) {
        let reactor = &mut self.reactors[index];
        reactor.is_pressed = true;
        reactor.turn(&mut self.events);
    }

    /// Turns all loops until `client` has something to read.
    fn turn_until_heard(&mut self, client: &mut Client<TcpStream>) {
        let give_up_at = world::instant() + PATIENCE;
        while !has_news(client) {
            (0..self.reactors.len()).for_each(|index| self.turn(index));
            assert!(world::instant() < give_up_at, "no answer");
        }
    }

    fn connect(&mut self) -> Client<TcpStream> {
        let mut client = Client::over(plain(self.at));
        self.turn_until_heard(&mut client);
        client.expect_info();
        client.send("CONNECT {\"verbose\":false}\r\nPING\r\n");
        self.turn_until_heard(&mut client);
        client.expect("PONG");
        client
    }
}

fn has_news(client: &mut Client<TcpStream>) -> bool {
    client.stream.get_ref().set_nonblocking(true).unwrap();
    let has_news = client.stream.fill_buf().is_ok();
    client.stream.get_ref().set_nonblocking(false).unwrap();
    has_news
}

#[test]
fn mail_that_came_before_bytes_is_taken_before_they_are_handled() {
    let (mut loops, _) = desktop(2, 2);
    let (mut subscriber, mut publisher) = (loops.connect(), loops.connect());
    for round in 0..50 {
        subscriber.send(&format!("SUB s.{round} {round}\r\nPING\r\n"));
        while !has_news(&mut subscriber) {
            loops.turn(0);
        }
        subscriber.expect("PONG");
        // Both wait for the second loop now: the interest in its mailbox, the publish behind it.
        publisher.send(&format!("PUB s.{round} 1\r\nx\r\nPING\r\n"));
        while !has_news(&mut publisher) {
            loops.turn(1);
        }
        publisher.expect("PONG");
        loops.turn_until_heard(&mut subscriber);
        subscriber.expect(&format!("MSG s.{round} {round} 1"));
        subscriber.expect("x");
    }
}

#[test]
fn a_loop_reads_nothing_while_another_is_behind_with_its_mail() {
    let (mut loops, others) = desktop(1, 2);
    let mut client = loops.connect();
    let behind = loops.reactors[0].peers[1].clone();
    while !behind.is_full() {
        assert!(behind.send(Mail::Control(Control::StopAccepting)));
    }
    client.send("PING\r\n");
    for _ in 0..100 {
        loops.turn(0);
    }
    assert!(loops.reactors[0].is_held);
    assert!(!has_news(&mut client));
    let taken = std::iter::from_fn(|| others[0].take()).count();
    assert!(MAILBOX_LEN_MAX < taken);
    loops.turn_until_heard(&mut client);
    client.expect("PONG");
}

/// Goal: whoever asks for a TLS handshake, and however many do at one time, one of them is computed
/// in a turn, and all others' bytes are handled in the same turn.
#[test]
fn one_handshake_is_computed_in_a_turn() {
    let authority = Authority::new();
    let files = authority.files("localhost");
    let serving = Serving::load(&files, ClientCertificate::NotAsked, PATIENCE).unwrap();
    let dialling = Dialling::load(&files, false, PATIENCE).unwrap();
    let tls = ClientTls::Available { verify: false };
    let settings = broker::Settings { tls, tls_timeout: PATIENCE, ..broker_settings(1) };
    let rules = Rules { client_tls: Some(serving), ..rules() };
    let (mut loops, _) = desktop_by((settings, rules), 1, 1);
    let mut other = loops.connect();
    let mut strangers: Vec<_> = (0..8)
        .map(|_| {
            let mut stranger = Client::over(plain(loops.at));
            loops.turn_until_heard(&mut stranger);
            stranger.expect_info();
            stranger
        })
        .collect();
    for stranger in &mut strangers {
        let mut hello = Layer::dial(&dialling, "localhost").unwrap();
        hello.write_sealed(stranger.stream.get_mut()).unwrap();
    }
    other.send("PING\r\n");
    let mut answered = 0;
    let mut pong_after = None;
    let give_up_at = world::instant() + PATIENCE;
    while answered < strangers.len() {
        loops.turn(0);
        let now = strangers.iter_mut().filter_map(|one| has_news(one).then_some(())).count();
        assert!(now <= answered + 1, "{now} are answered after a turn, {answered} before");
        answered = now;
        if has_news(&mut other) && pong_after.is_none() {
            pong_after = Some(answered);
        }
        assert!(world::instant() < give_up_at, "{answered} are answered");
    }
    assert!(pong_after.is_some_and(|answered| answered <= 1), "{pong_after:?}");
}

#[test]
fn a_loop_that_has_nothing_to_do_sleeps_until_its_deadline() {
    let (mut loops, _) = desktop(1, 1);
    let _client = loops.connect();
    loops.turn(0);
    let reactor = &mut loops.reactors[0];
    reactor.is_pressed = false;
    let sleep = reactor.sleep_time(world::instant());
    // The first PING comes within 2 s and a fifth.
    assert!(!sleep.is_zero() && sleep < Duration::from_secs(3), "{sleep:?}");
}

#[test]
fn connections_go_to_the_loops_in_turns_and_leave_nothing_behind() {
    let (mut loops, _) = desktop(2, 2);
    let clients: Vec<_> = (0..10).map(|_| loops.connect()).collect();
    assert_eq!(loops.reactors.iter().map(|one| one.table.len()).collect::<Vec<_>>(), [5, 5]);
    drop(clients);
    let give_up_at = world::instant() + PATIENCE;
    while loops.reactors.iter().any(|one| !one.table.is_empty()) {
        loops.turn(0);
        loops.turn(1);
        assert!(world::instant() < give_up_at, "connections stay");
    }
    assert!(loops.reactors.iter().all(|one| one.timers.is_empty()));
}
