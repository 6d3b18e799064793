//! A group whose active dies or hands over: clients at other members, which try nothing again,
//! notice a pause.
//!
//! Three real members with routes. All clients are at one that is neither the active nor its
//! successor, and in the second half at the successor itself; the active is killed, ended or asked
//! to step down while much is under way. Times are a report, shown with `--nocapture`; what is
//! asserted is that nothing is lost, refused or left without an answer. `STANBY_GROUP=full` breaks
//! routes in every way, and has each answer come before a client would call its absence an error.

#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/relay.rs"]
mod relay;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use prost::Message as _;
use stanby::base::time::Instant;
use stanby::base::world;
use stanby::proto::pb;

use self::relay::Relay;
use self::server::{Launch, PATIENCE, READY, Server, free_port, wait_for};
use self::stan::{Stan, Sub, all, unique};

const CHANNELS: [&str; 4] = ["orders", "events", "jobs", "news"];
const PUBLISHERS: usize = 8;
/// Publishes of one publisher that may be unanswered.
const WINDOW: usize = 512;
/// How long clients wait for the answer to a request, whatever their language. How long a take-over
/// lasts is a figure of the machine, so only the whole form holds answers against it; otherwise
/// each request has its answer in the end.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
/// How long somebody waits here while a route is found to be dead, which takes seconds.
const LONG_PATIENCE: Duration = PATIENCE;
/// How long they wait for that of a publish.
const ACK_PATIENCE: Duration = PATIENCE;

fn is_full() -> bool {
    std::env::var("STANBY_GROUP").is_ok_and(|size| size == "full")
}

/// What the clients do until they are told to stop, and how long it took at most.
struct Load {
    /// How long a request may take.
    patience: Duration,
    is_over: AtomicBool,
    acked: AtomicU64,
    sent: AtomicU64,
    longest_ns: AtomicU64,
    sessions: AtomicU64,
}

impl Load {
    fn new(patience: Duration) -> Self {
        let [acked, sent, longest_ns, sessions] = [(); 4].map(|()| AtomicU64::new(0));
        Self { patience, is_over: AtomicBool::new(false), acked, sent, longest_ns, sessions }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn note(&self, since: Instant) -> Duration {
        let took = world::instant().since(since);
        let nanos = u64::try_from(took.as_nanos()).unwrap();
        self.longest_ns.fetch_max(nanos, Ordering::Relaxed);
        took
    }

    fn unacked(&self) -> u64 {
        let acked = self.acked.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(acked)
    }
}

/// Publishes with many in flight; gives all that was published, each of it acknowledged.
fn publisher(port: u16, number: usize, load: &Load) -> Vec<Bytes> {
    let mut client = Stan::connect(port, &format!("publisher-{number}"));
    let reply = client.own(&unique());
    let (mut open, mut all) = (BTreeMap::new(), Vec::new());
    loop {
        while !load.is_over() && open.len() < WINDOW {
            let data = Bytes::from(format!("{number}:{:08}", all.len()));
            let message = client.message(CHANNELS[all.len() % CHANNELS.len()], &data);
            client.publish_async(&message, &reply);
            load.sent.fetch_add(1, Ordering::Relaxed);
            open.insert(message.guid, world::instant());
            all.push(data);
        }
        if open.is_empty() {
            break;
        }
        let ack = client.next_on(&reply, ACK_PATIENCE).expect("every publish is answered");
        let ack = pb::PubAck::decode(ack.data).expect("an ack");
        assert_eq!(ack.error, "", "publisher {number}");
        // Of what is stored twice after a kill the second answer names nothing.
        if let Some(since) = open.remove(&ack.guid) {
            load.acked.fetch_add(1, Ordering::Relaxed);
            load.note(since);
        }
    }
    client.close().unwrap();
    all
}

/// Takes all of some channels by durables, acknowledges each by hand; gives what came.
fn subscriber(port: u16, channels: &[&str], load: &Load, wanted: &AtomicU64) -> BTreeSet<Bytes> {
    let mut client = Stan::connect(port, &format!("subscriber-{}", channels[0]));
    let subs: Vec<Sub> = channels
        .iter()
        .map(|channel| {
            let request = pb::SubscriptionRequest {
                durable_name: "dur".into(),
                // What a route has taken with it comes again then.
                ack_wait_in_secs: 10,
                ..all(channel)
            };
            client.subscribe(request)
        })
        .collect();
    let mut seen = BTreeSet::new();
    let mut quiet_since = world::instant();
    loop {
        for sub in &subs {
            while let Some(arrived) = client.next_on(&sub.inbox, Duration::from_millis(2)) {
                let message = pb::MsgProto::decode(arrived.data).unwrap();
                client.ack(sub, message.sequence);
                seen.insert(message.data);
                quiet_since = world::instant();
            }
        }
        let is_whole = load.is_over() && wanted.load(Ordering::Relaxed) <= seen.len() as u64;
        let is_stuck = PATIENCE < world::instant().since(quiet_since);
        if is_whole || load.is_over() && is_stuck {
            return seen;
        }
    }
}

/// Connects, subscribes, publishes, leaves and closes, again and again.
fn passer_by(port: u16, number: usize, load: &Load) {
    let mut count = 0;
    while !load.is_over() {
        let mut begun = world::instant();
        let step = |what: &str, begun: &mut Instant| {
            let took = load.note(*begun);
            assert!(took < load.patience, "{what} took {took:?}");
            *begun = world::instant();
        };
        let mut client = Stan::connect(port, &format!("passer-by-{number}"));
        step("connect", &mut begun);
        let durable = if count % 2 == 0 { "" } else { "passing" };
        let request = pb::SubscriptionRequest { durable_name: durable.into(), ..all("passing") };
        let sub = client.subscribe(request);
        step("subscribe", &mut begun);
        client.publish("passing", "x").unwrap();
        step("publish", &mut begun);
        client.ping(&client.conn_id.clone()).unwrap();
        step("ping", &mut begun);
        client.leave(&sub, count % 3 == 0).unwrap();
        step("leave", &mut begun);
        client.close().unwrap();
        step("close", &mut begun);
        load.sessions.fetch_add(1, Ordering::Relaxed);
        count += 1;
    }
}

/// A group over one directory, joined by routes.
struct Group {
    members: Vec<Server>,
    /// Where commands reach each of them.
    sockets: Vec<PathBuf>,
    /// What their only route leads through.
    relay: Option<Relay>,
}

impl Group {
    /// Three members; the first is active, the others wait for it in their order.
    fn start(root: &Path, loops: u16) -> Self {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let url = |port: &u16| format!("nats://127.0.0.1:{port}");
        let (mut members, mut sockets) = (Vec::new(), Vec::new());
        for port in &ports {
            let others: Vec<String> =
                ports.iter().filter(|other| *other != port).map(url).collect();
            let launch = Launch::new(&["-ft_group", "trio", "-cluster", &url(port)]);
            let socket = root.join(format!("{port}.sock"));
            let launch = launch.arg("-routes").arg(others.join(",")).loops(loops);
            let launch = launch.arg("-control_socket").arg(&socket);
            let member = launch.file_store(Some(&root.join("store"))).spawn();
            member.log.wait(if members.is_empty() { READY } else { "holds " });
            members.push(member);
            sockets.push(socket);
        }
        let last = &members[2];
        wait_for("two routes", || (last.json("/routez")["num_routes"] == 2).then_some(()));
        // Made up by each, and the same: otherwise some routes would be closed again.
        let name = |member: &Server| member.json("/varz")["cluster"]["name"].clone();
        assert!(members.iter().all(|member| name(member) == name(&members[0])));
        Self { members, sockets, relay: None }
    }

    /// Two members, which reach each other by a relay alone; the first is active. What a route has
    /// to say within seconds it says, or is closed.
    fn start_apart(root: &Path, loops: u16) -> Self {
        let target = free_port();
        let relay = Relay::to(target);
        let cluster = format!("nats://127.0.0.1:{target}");
        let dialled = format!("nats://127.0.0.1:{}", relay.port);
        let own = format!("nats://127.0.0.1:{}", free_port());
        let member = |args: &[&str]| {
            let launch = Launch::new(&["-ft_group", "pair"]).config(PING_SOON);
            let launch = args.iter().fold(launch, |launch, arg| launch.arg(*arg));
            launch.loops(loops).file_store(Some(&root.join("store"))).spawn()
        };
        let first = member(&["-cluster", &cluster]);
        first.log.wait(READY);
        let second = member(&["-cluster", &own, "-routes", &dialled]);
        second.log.wait("holds ");
        let is_ready = || second.get("/streaming/healthz?ready=1").status == 200;
        wait_for("a standby that hears the active", || is_ready().then_some(()));
        Self { members: vec![first, second], sockets: Vec::new(), relay: Some(relay) }
    }

    /// Waits until another member than those that are dead serves.
    fn wait_active(&self, dead: usize) -> usize {
        wait_for("a successor", || {
            let is_active = |server: &Server| !server.log.text().matches(READY).count().eq(&0);
            (dead..self.members.len()).find(|place| is_active(&self.members[*place]))
        })
    }
}

/// What is in a channel, read from the first message on.
fn read(client: &mut Stan, channel: &str) -> Vec<Bytes> {
    let marker = Bytes::from(unique());
    client.publish(channel, &marker).unwrap();
    let sub = client.subscribe(all(channel));
    let mut found = Vec::new();
    loop {
        let next = client.take(&sub, 1).remove(0).message;
        client.ack(&sub, next.sequence);
        if next.data == marker {
            client.leave(&sub, true).unwrap();
            return found;
        }
        found.push(next.data);
    }
}

/// The threads of all clients.
struct Clients {
    publishers: Vec<JoinHandle<Vec<Bytes>>>,
    subscribers: Vec<JoinHandle<BTreeSet<Bytes>>>,
    passers_by: Vec<JoinHandle<()>>,
    /// How many messages each subscriber gets, once that is known.
    wanted: [Arc<AtomicU64>; 2],
}

impl Clients {
    fn start(port: u16, load: &Arc<Load>) -> Self {
        let wanted = [0, 1].map(|_| Arc::new(AtomicU64::new(u64::MAX)));
        let publishers = (0..PUBLISHERS).map(|number| {
            let load = Arc::clone(load);
            thread::spawn(move || publisher(port, number, &load))
        });
        let halves = [&CHANNELS[..2], &CHANNELS[2..]].into_iter().zip(&wanted);
        let subscribers = halves.map(|(channels, wanted)| {
            let (load, wanted) = (Arc::clone(load), Arc::clone(wanted));
            thread::spawn(move || subscriber(port, channels, &load, &wanted))
        });
        let passers_by = (0..2).map(|number| {
            let load = Arc::clone(load);
            thread::spawn(move || passer_by(port, number, &load))
        });
        Self {
            publishers: publishers.collect(),
            subscribers: subscribers.collect(),
            passers_by: passers_by.collect(),
            wanted,
        }
    }

    /// What was published, and what durables got; nobody has failed.
    fn end(self, load: &Load) -> (Vec<Vec<Bytes>>, BTreeSet<Bytes>) {
        load.is_over.store(true, Ordering::Relaxed);
        let ended = self.publishers.into_iter().map(JoinHandle::join);
        let published: Vec<Vec<Bytes>> =
            ended.map(|all| all.expect("no publisher fails")).collect();
        let count: u64 = published.iter().map(|all| all.len() as u64).sum();
        let of_first = |all: &Vec<Bytes>| all.len() as u64 / 4 * 2 + (all.len() as u64 % 4).min(2);
        let of_first = published.iter().map(of_first).sum();
        self.wanted[0].store(of_first, Ordering::Relaxed);
        self.wanted[1].store(count - of_first, Ordering::Relaxed);
        for thread in self.passers_by {
            thread.join().expect("no passer-by fails");
        }
        let ended = self.subscribers.into_iter().map(JoinHandle::join);
        let seen = ended.flat_map(|seen| seen.expect("no subscriber fails")).collect();
        (published, seen)
    }
}

/// How many are stored twice; panics where one is missing or the order is not kept.
fn check(channels: &BTreeMap<&str, Vec<Bytes>>, published: &[Vec<Bytes>]) -> usize {
    let mut twice = 0;
    for (number, all) in published.iter().enumerate() {
        for (place, channel) in CHANNELS.iter().enumerate() {
            let prefix = format!("{number}:");
            let is_own = |data: &&Bytes| data.starts_with(prefix.as_bytes());
            let mut seen = BTreeSet::new();
            let stored: Vec<&Bytes> = channels[channel].iter().filter(is_own).collect();
            let first: Vec<&Bytes> =
                stored.iter().copied().filter(|data| seen.insert(*data)).collect();
            let wanted: Vec<&Bytes> = all.iter().skip(place).step_by(CHANNELS.len()).collect();
            assert_eq!(first, wanted, "publisher {number} in {channel}: each once, in its order");
            twice += stored.len() - first.len();
        }
    }
    twice
}

/// Ends the active as often as there is a successor, and says how long clients waited.
fn end_actives(group: &mut Group, load: &Load, (loops, signal): (u16, Signal)) {
    for dead in 0..2 {
        wait_load(load);
        let (unacked, longest) = (load.unacked(), load.longest_ns.swap(0, Ordering::Relaxed));
        group.members[dead].stop(signal);
        let active = group.wait_active(dead + 1);
        let acked = load.acked.load(Ordering::Relaxed);
        wait_for("acks", || (acked + 2_000 < load.acked.load(Ordering::Relaxed)).then_some(()));
        let _ = writeln!(
            io::stderr(),
            "{loops} loops, {signal}: {unacked} unacked; member {active} serves; longest before \
             {:?}, then {:?}",
            Duration::from_nanos(longest),
            Duration::from_nanos(load.longest_ns.load(Ordering::Relaxed)),
        );
        if active == 2 {
            return;
        }
    }
}

/// Waits until much is under way.
fn wait_load(load: &Load) {
    let before = load.acked.load(Ordering::Relaxed);
    wait_for("a load", || {
        let acked = load.acked.load(Ordering::Relaxed);
        (before + 2_000 < acked && 100 < load.unacked()).then_some(())
    });
}

/// Has whoever is active step down, again and again.
fn step_down(group: &mut Group, load: &Load, loops: u16) {
    for _ in 0..4 {
        wait_load(load);
        load.longest_ns.store(0, Ordering::Relaxed);
        // Who has just stepped down, or just sees another one active, is no successor yet.
        let said = wait_for("a successor that is ready", || {
            let mut asked = Command::new(server::binary());
            let output = asked.args(["step-down", "--socket"]).arg(&group.sockets[0]).output();
            let output = output.unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            let words = ["not ready", "no other member of", "not active", "between two roles"];
            let is_early = words.iter().any(|word| said.contains(word));
            assert!(output.status.success() || is_early, "{said}");
            output.status.success().then_some(said)
        });
        let longest = Duration::from_nanos(load.longest_ns.load(Ordering::Relaxed));
        let _ = writeln!(io::stderr(), "{loops} loops: {}; longest {longest:?}", said.trim_end());
    }
}

/// A route that says nothing is found to be dead within a few seconds.
const PING_SOON: &str = "ping_interval: \"2s\"\nping_max: 1\n";

/// Breaks the route between the members again and again.
fn break_route(group: &mut Group, load: &Load, (loops, is_silent): (u16, bool)) {
    let relay = group.relay.as_ref().unwrap();
    for _ in 0..if is_silent { 2 } else { 8 } {
        wait_load(load);
        load.longest_ns.store(0, Ordering::Relaxed);
        let unacked = load.unacked();
        if is_silent {
            relay.swallow();
        } else {
            relay.cut();
        }
        let acked = load.acked.load(Ordering::Relaxed);
        wait_for("acks", || (acked + 4_000 < load.acked.load(Ordering::Relaxed)).then_some(()));
        let longest = Duration::from_nanos(load.longest_ns.load(Ordering::Relaxed));
        let _ = writeln!(
            io::stderr(),
            "{loops} loops, a route that {}: {unacked} unacked; longest {longest:?}",
            if is_silent { "is silent" } else { "breaks" },
        );
    }
}

/// What happens to a group.
type Events = fn(&mut Group, &Load, u16);

/// How many publishes are stored twice after `events`; panics where one is lost or refused.
fn under_load(loops: u16, events: Events) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let group = Group::start(folder.path(), loops);
    let patience = if is_full() { CLIENT_PATIENCE } else { LONG_PATIENCE };
    under_load_in(group, (loops, patience), events)
}

/// The same of a group whose last member has all clients.
fn under_load_in(
    mut group: Group,
    (loops, patience): (u16, Duration),
    events: impl FnOnce(&mut Group, &Load, u16),
) -> usize {
    let port = group.members.last().unwrap().launch.port;
    let load = Arc::new(Load::new(patience));
    let clients = Clients::start(port, &load);
    events(&mut group, &load, loops);
    let (published, seen) = clients.end(&load);
    let mut reader = Stan::connect(port, "reader");
    let channels: BTreeMap<&str, Vec<Bytes>> =
        CHANNELS.iter().map(|channel| (*channel, read(&mut reader, channel))).collect();
    let twice = check(&channels, &published);
    let missing = published.iter().flatten().filter(|data| !seen.contains(*data)).count();
    assert_eq!(missing, 0, "durables get each message");
    let _ = writeln!(
        io::stderr(),
        "{loops} loops: {} published and acknowledged, {twice} stored twice, {} sessions",
        published.iter().map(Vec::len).sum::<usize>(),
        load.sessions.load(Ordering::Relaxed)
    );
    twice
}

/// Goal: a killed active is a pause for clients of other members: no publish, request or ack of
/// theirs is lost or refused, and the order of each publisher is kept.
#[test]
fn a_killed_active_is_a_pause_for_clients_of_other_members() {
    for loops in [1, 2] {
        under_load(loops, |group, load, loops| end_actives(group, load, (loops, Signal::SIGKILL)));
    }
}

/// Goal: a step-down is the same pause for clients of all members that stay, and nothing is stored
/// twice.
#[test]
fn a_member_that_steps_down_costs_no_publish_and_doubles_none() {
    for loops in [1, 2] {
        assert_eq!(under_load(loops, step_down), 0, "{loops} loops: stored twice");
    }
}

/// Goal: SIGTERM to the active is a step-down, too, for clients of other members.
#[test]
fn an_active_that_is_terminated_costs_no_publish_and_doubles_none() {
    for loops in [1, 2] {
        assert_eq!(
            under_load(loops, |group, load, loops| {
                end_actives(group, load, (loops, Signal::SIGTERM));
            }),
            0,
            "{loops} loops: stored twice"
        );
    }
}

/// Goal: a route that breaks between two members that live, or says nothing any more, is a pause,
/// too: what was in it is answered, and nothing is stored twice.
#[test]
fn a_route_that_breaks_costs_no_publish_and_doubles_none() {
    let breaks = [(1, false), (2, true), (1, true), (2, false)];
    for (loops, is_silent) in &breaks[..if is_full() { breaks.len() } else { 2 }] {
        let folder = tempfile::tempdir().unwrap();
        let group = Group::start_apart(folder.path(), *loops);
        let twice = under_load_in(group, (*loops, LONG_PATIENCE), |group, load, loops| {
            break_route(group, load, (loops, *is_silent));
        });
        assert_eq!(twice, 0, "{loops} loops: stored twice");
    }
}
