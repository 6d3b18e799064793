//! Whole loops with real sockets on free ports, and a small driver in the place of an engine.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::base::id::{AccountIndex, Subject};
use crate::broker::listing::Mark;
use crate::broker::snapshot::{Lists, ServerSnapshot, Wanted};
use crate::broker::{self, Credit, EngineDelivery, EngineInterest, Post, UpstreamNews};
use crate::net::reactors::{Listen, Reactors, Settings};
use crate::net::{Address, driver::CoreOnly};

/// Longer than anything here takes; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the tests tell the driver.
#[derive(Debug)]
enum Word {
    Pressure(bool),
    Gone,
}

/// Listens on `ask.>`, where each publish needs a credit, and answers every request.
#[derive(Default)]
struct Answerer {
    outcomes: VecDeque<Outcome<Word>>,
    has_begun: bool,
}

impl Answerer {
    const ENGINE: LoopIndex = LoopIndex(0);
}

impl Driver for Answerer {
    type Mail = Word;

    fn on_delivery(&mut self, delivery: EngineDelivery, _now: Now) {
        if let Some(subject) = delivery.names.into_reply() {
            let (account, head) = (delivery.origin.account, Bytes::from_static(b"re:"));
            let post = Post { account, subject, head, tail: delivery.payload, is_leased: true };
            self.outcomes.push_back(Outcome::Broker(Input::Publish { post, reply: None }));
        }
    }

    fn on_no_responders(&mut self, _reply: Subject, _now: Now) {}

    fn on_room(&mut self, _key: u64, _has_room: bool, _now: Now) {}

    fn on_flushed(&mut self, _token: u64) {}

    fn on_through(&mut self, _token: u64) {}
    fn on_outflown(&mut self, _token: u64) {}

    fn on_upstream(&mut self, _news: UpstreamNews) {}

    fn on_mail(&mut self, word: Word, _now: Now) {
        self.outcomes.push_back(Outcome::Broker(match word {
            Word::Pressure(is_high) => {
                Input::Pressure { engine: Self::ENGINE, credit: Credit::Messages, is_high }
            }
            Word::Gone => Input::EngineGone,
        }));
    }

    fn handle_timeout(&mut self, _now: Now) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn end_of_turn(&mut self, _now: Now) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let interest = EngineInterest {
                engine: Self::ENGINE,
                account: AccountIndex::GLOBAL,
                key: 1,
                credit: Credit::Messages,
                is_brief: true,
                keeper: None,
            };
            let input = Input::Listen { subject: "ask.>".into(), interest };
            self.outcomes.push_back(Outcome::Broker(input));
        }
    }

    fn poll_outcome(&mut self) -> Option<Outcome<Word>> {
        self.outcomes.pop_front()
    }
}

fn anywhere() -> Option<Listen> {
    let address = Address { host: "127.0.0.1".to_owned(), port: None };
    Some(Listen { address, patience: Duration::ZERO })
}

fn rules() -> Rules {
    Rules {
        client_tls: None,
        route_tls: None,
        dial_tls: None,
        dial_tls_name: None,
        upstream_tls: None,
    }
}

fn broker_settings(loops: u16) -> broker::Settings {
    broker::Settings { loops, server_id: "N".repeat(56), ..broker::Settings::default() }
}

fn start<D: Driver + 'static>(drivers: Vec<D>, lease: &LeaseClock) -> Reactors<D> {
    let broker = Arc::new(broker_settings(drivers.len().try_into().unwrap()));
    let settings = Settings { client: anywhere(), route: None, rules: rules() };
    Reactors::start(settings, &broker, lease, drivers).unwrap()
}

fn core(loops: usize) -> Reactors<CoreOnly> {
    start((0..loops).map(|_| CoreOnly).collect(), &LeaseClock::endless())
}

/// A NATS client as far as a test needs one, over any stream.
struct Client<S: Read + Write> {
    stream: BufReader<S>,
}

fn connect(at: Option<SocketAddr>) -> Client<TcpStream> {
    let mut client = Client::over(plain(at));
    client.expect_info();
    client.greet();
    client
}

fn plain(at: Option<SocketAddr>) -> TcpStream {
    let stream = TcpStream::connect(at.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl<S: Read + Write> Client<S> {
    fn over(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(64 * 1024, stream) }
    }

    fn expect_info(&mut self) {
        let line = self.line();
        assert!(line.starts_with("INFO {"), "{line}");
    }

    fn greet(&mut self) {
        self.send("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        self.sync();
    }

    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Everything sent so far was handled.
    fn sync(&mut self) {
        self.send("PING\r\n");
        self.expect("PONG");
    }

    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            // A reset is an end too, a time-out is none.
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "the connection goes on");
        }
    }
}

#[test]
fn messages_go_from_loop_to_loop_in_order() {
    const COUNT: usize = 5_000;
    for loops in [1, 2, 4] {
        let server = core(loops);
        let mut subscribers: Vec<_> = (0..loops).map(|_| connect(server.client_address)).collect();
        for subscriber in &mut subscribers {
            subscriber.send("SUB a 1\r\n");
            subscriber.sync();
        }
        let mut publisher = connect(server.client_address);
        let text: String = (0..COUNT).map(|n| format!("PUB a 5\r\n{n:05}\r\n")).collect();
        publisher.send(&text);
        for subscriber in &mut subscribers {
            for n in 0..COUNT {
                subscriber.expect("MSG a 1 5");
                subscriber.expect(&format!("{n:05}"));
            }
        }
        server.stop(PATIENCE);
    }
}

/// Goal: whoever was told that its SUB is in force gets what is published after that, on any loop.
#[test]
fn an_interest_is_seen_before_the_publish_that_follows_it() {
    let server = core(4);
    let mut publishers: Vec<_> = (0..4).map(|_| connect(server.client_address)).collect();
    let mut subscriber = connect(server.client_address);
    for round in 0..200 {
        subscriber.send(&format!("SUB s.{round} {round}\r\n"));
        subscriber.sync();
        for publisher in &mut publishers {
            publisher.send(&format!("PUB s.{round} 1\r\nx\r\n"));
        }
        for _ in 0..publishers.len() {
            subscriber.expect(&format!("MSG s.{round} {round} 1"));
            subscriber.expect("x");
        }
    }
    server.stop(PATIENCE);
}

#[test]
fn a_driver_hears_and_answers_on_every_loop() {
    let server = start(vec![Answerer::default()], &LeaseClock::endless());
    let mut client = connect(server.client_address);
    client.send("SUB inbox 7\r\n");
    client.sync();
    client.send("PUB ask.me inbox 5\r\nhello\r\n");
    client.expect("MSG inbox 7 8");
    client.expect("re:hello");
    server.stop(PATIENCE);
}

#[test]
fn a_connection_without_credit_waits_and_holds_nobody_up() {
    let server = start(vec![Answerer::default()], &LeaseClock::endless());
    let driver = server.mailbox(LoopIndex(0));
    let mut asking = connect(server.client_address);
    asking.send("SUB inbox 7\r\n");
    asking.sync();
    assert!(driver.deliver(Word::Pressure(true)));
    let mut other = connect(server.client_address);
    asking.send("PUB ask.me inbox 1\r\n1\r\nPING\r\nPUB ask.me inbox 1\r\n2\r\n");
    // Many turns go by, and whatever the paused one said is not handled in any.
    for _ in 0..50 {
        other.sync();
    }
    asking.stream.get_ref().set_nonblocking(true).unwrap();
    assert!(asking.stream.fill_buf().is_err(), "nothing may be answered yet");
    asking.stream.get_ref().set_nonblocking(false).unwrap();
    assert!(driver.deliver(Word::Pressure(false)));
    let mut lines: Vec<_> = (0..5).map(|_| asking.line()).collect();
    lines.sort();
    assert_eq!(lines, ["MSG inbox 7 4", "MSG inbox 7 4", "PONG", "re:1", "re:2"]);
    server.stop(PATIENCE);
}

#[test]
fn who_waits_for_the_credit_of_an_engine_goes_on_when_it_is_gone() {
    let server = start(vec![Answerer::default()], &LeaseClock::endless());
    let driver = server.mailbox(LoopIndex(0));
    assert!(driver.deliver(Word::Pressure(true)));
    let mut asking = connect(server.client_address);
    asking.send("PUB ask.me 1\r\n1\r\nPING\r\n");
    connect(server.client_address).sync();
    assert!(driver.deliver(Word::Gone));
    asking.expect("PONG");
    server.stop(PATIENCE);
}

#[test]
fn what_an_engine_says_waits_for_the_lease() {
    let lease = LeaseClock::default();
    let server = start(vec![Answerer::default()], &lease);
    let mut client = connect(server.client_address);
    client.send("SUB inbox 7\r\n");
    client.sync();
    client.send("PUB ask.me inbox 1\r\n1\r\n");
    let mut other = connect(server.client_address);
    other.sync();
    client.stream.get_ref().set_nonblocking(true).unwrap();
    assert!(client.stream.fill_buf().is_err(), "there is no lease");
    client.stream.get_ref().set_nonblocking(false).unwrap();
    lease.confirm(world::instant(), PATIENCE);
    client.expect("MSG inbox 7 4");
    client.expect("re:1");
    lease.revoke();
    client.send("PUB ask.me inbox 1\r\n2\r\n");
    other.sync();
    assert!(server.mailbox(LoopIndex(0)).deliver(Word::Gone));
    // The engine is gone and its word with it: the answer to PING is all that comes.
    client.sync();
    server.stop(PATIENCE);
}

#[test]
fn a_reader_that_was_away_misses_nothing() {
    const LEN: usize = 100_000;
    const COUNT: usize = 300;
    let server = core(2);
    let mut subscriber = connect(server.client_address);
    subscriber.send("SUB a 1\r\n");
    subscriber.sync();
    let mut publisher = connect(server.client_address);
    for n in 0..COUNT {
        let payload = format!("{n:05}").repeat(LEN / 5);
        publisher.send(&format!("PUB a {LEN}\r\n{payload}\r\n"));
    }
    publisher.sync();
    for n in 0..COUNT {
        subscriber.expect(&format!("MSG a 1 {LEN}"));
        subscriber.expect(&format!("{n:05}").repeat(LEN / 5));
    }
    server.stop(PATIENCE);
}

#[test]
fn a_client_that_never_reads_is_cut_off_and_holds_nobody_up() {
    let broker = broker::Settings { max_pending: 2 * 1024 * 1024, ..broker_settings(1) };
    let settings = Settings { client: anywhere(), route: None, rules: rules() };
    let lease = LeaseClock::endless();
    let server = Reactors::start(settings, &Arc::new(broker), &lease, vec![CoreOnly]).unwrap();
    let mut deaf = connect(server.client_address);
    deaf.send("SUB a 1\r\n");
    deaf.sync();
    let mut publisher = connect(server.client_address);
    let payload = "x".repeat(1_000_000);
    for _ in 0..30 {
        publisher.send(&format!("PUB a {}\r\n{payload}\r\n", payload.len()));
    }
    publisher.sync();
    deaf.expect_end();
    server.stop(PATIENCE);
}

/// Goal: a peer that does not read cannot keep a server from ending.
#[test]
fn stopping_waits_no_longer_than_it_was_told() {
    let server = core(1);
    let mut deaf = connect(server.client_address);
    deaf.send("SUB a 1\r\n");
    deaf.sync();
    let mut publisher = connect(server.client_address);
    let payload = "x".repeat(1_000_000);
    for _ in 0..30 {
        publisher.send(&format!("PUB a {}\r\n{payload}\r\n", payload.len()));
    }
    publisher.sync();
    let begun = world::instant();
    server.stop(Duration::from_millis(50));
    assert!(world::instant().since(begun) < PATIENCE / 2);
}

#[test]
fn brokers_are_looked_at_and_a_connection_is_closed_by_its_name() {
    let server = core(2);
    let mut client = connect(server.client_address);
    let (sender, receiver) = crossbeam_channel::bounded(2);
    server.tell_all(|| {
        let sender = sender.clone();
        let done = Box::new(move |part, _| sender.send(part).unwrap());
        Control::List { wanted: Wanted::from(Lists::ALL), from: Mark::default(), done }
    });
    let seen = [receiver.recv().unwrap(), receiver.recv().unwrap()]
        .map(|seen: ServerSnapshot| seen.connections.first().map(|connection| connection.home));
    assert_eq!(seen.iter().flatten().count(), 1, "{seen:?}");
    let home = LoopIndex(seen[0].or(seen[1]).unwrap());
    let session = SessionId { home, slot: 0, generation: 1 };
    let reason = "Server Shutdown";
    let other = SessionId { home: LoopIndex(1 - home.0), ..session };
    server.tell_all(|| Control::Close { session: other, reason });
    client.sync();
    server.tell_all(|| Control::Close { session, reason });
    client.expect_end();
    server.stop(PATIENCE);
}

#[test]
fn nobody_new_is_accepted_after_the_word_and_the_others_stay() {
    let server = core(2);
    let mut client = connect(server.client_address);
    server.tell_all(|| Control::StopAccepting);
    // The first loop has had the word when it has answered a later question.
    let (sender, receiver) = crossbeam_channel::bounded(2);
    server.tell_all(|| {
        let sender = sender.clone();
        Control::Clients { done: Box::new(move |clients| drop(sender.send(clients))) }
    });
    receiver.iter().take(2).for_each(drop);
    assert!(TcpStream::connect(server.client_address.unwrap()).is_err());
    client.sync();
    server.stop(PATIENCE);
    client.expect_end();
}

#[test]
fn stopping_writes_what_waits_and_closes_the_port() {
    let server = core(2);
    let at = server.client_address;
    let mut subscriber = connect(at);
    subscriber.send("SUB a 1\r\n");
    subscriber.sync();
    let mut publisher = connect(at);
    publisher.send(&format!("PUB a 500000\r\n{}\r\n", "x".repeat(500_000)));
    publisher.sync();
    server.stop(PATIENCE);
    subscriber.expect("MSG a 1 500000");
    assert_eq!(subscriber.line().len(), 500_000);
    subscriber.expect_end();
    assert!(TcpStream::connect(at.unwrap()).is_err());
}

mod routes;
mod secure;
mod turns;
