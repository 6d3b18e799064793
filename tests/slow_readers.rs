//! Who reads makes progress: readers slower than memory get everything and are not cut off.
//!
//! Small sizes with a low `max_pending` by default. `STANBY_SLOW_READERS=full` runs the sizes that
//! are promised with the usual settings, beside the Go servers that `STANBY_GO_SERVER` (streaming)
//! and `STANBY_PEER` (core) name, and prints a table.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a reader's rate needs a clock")]
#![allow(clippy::print_stdout, reason = "figures are printed, not asserted")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use stanby::proto::pb;

use server::{Launch, PATIENCE, Server, wait_for};
use stan::{Stan, all, unique};

/// One test at a time: each fills the machine.
static ALONE: Mutex<()> = Mutex::new(());

/// What a reader takes in a second.
const RATE: usize = 20_000_000;

fn is_full() -> bool {
    std::env::var("STANBY_SLOW_READERS").is_ok_and(|size| size == "full")
}

/// What is delivered to one connection.
#[derive(Clone, Copy, Debug)]
struct Story {
    channels: usize,
    count: usize,
    size: usize,
}

impl Story {
    fn total(&self) -> usize {
        self.channels * self.count
    }
}

fn stories() -> Vec<Story> {
    if is_full() {
        return vec![
            Story { channels: 1, count: 150, size: 1_000_000 },
            Story { channels: 1, count: 1_000, size: 100_000 },
            Story { channels: 12, count: 1_000, size: 10_000 },
        ];
    }
    vec![
        Story { channels: 1, count: 80, size: 200_000 },
        Story { channels: 1, count: 1_000, size: 16_000 },
        Story { channels: 12, count: 300, size: 4_000 },
    ]
}

/// The settings of a server: in a small run the bound is passed by far with little data.
fn settings() -> &'static str {
    if is_full() { "" } else { "max_pending: 1000000\nmax_payload: 500000\n" }
}

/// A reader on a raw socket: takes so much a second and no more.
struct Reader {
    stream: BufReader<TcpStream>,
    rate: usize,
    read_bytes: usize,
    begun: Instant,
}

impl Reader {
    /// Connects and listens to these subjects.
    fn connect(port: u16, subjects: &[String], rate: usize) -> Self {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let stream = BufReader::with_capacity(64 * 1024, socket);
        let mut reader = Self { stream, rate, read_bytes: 0, begun: Instant::now() };
        let mut hello = wire::connect("");
        for (sid, subject) in subjects.iter().enumerate() {
            hello.extend_from_slice(format!("SUB {subject} {sid}\r\n").as_bytes());
        }
        hello.extend_from_slice(b"PING\r\n");
        reader.socket().write_all(&hello).unwrap();
        while reader.line().unwrap() != "PONG" {}
        reader.begun = Instant::now();
        reader
    }

    fn socket(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = self.stream.read_line(&mut line).ok()?;
        self.read_bytes += len;
        (len > 0).then(|| line.trim_end().to_owned())
    }

    /// The next message; `None` when the connection ends.
    fn message(&mut self) -> Option<Vec<u8>> {
        loop {
            let line = self.line()?;
            if line == "PING" {
                self.socket().write_all(b"PONG\r\n").ok()?;
            }
            assert!(!line.starts_with("-ERR"), "{line}");
            if line.starts_with("MSG ") {
                let size: usize = line.rsplit(' ').next()?.parse().unwrap();
                let mut payload = vec![0; size + 2];
                self.fill(&mut payload)?;
                payload.truncate(size);
                return Some(payload);
            }
        }
    }

    fn fill(&mut self, payload: &mut [u8]) -> Option<()> {
        for piece in payload.chunks_mut(16 * 1024) {
            self.stream.read_exact(piece).ok()?;
            self.read_bytes += piece.len();
            self.keep_pace();
        }
        Some(())
    }

    fn keep_pace(&self) {
        let due = Duration::from_secs_f64(self.read_bytes as f64 / self.rate as f64);
        loop {
            let early = due.saturating_sub(self.begun.elapsed());
            if early.is_zero() {
                return;
            }
            thread::park_timeout(early);
        }
    }
}

/// What came of a story.
#[derive(Debug)]
struct Outcome {
    delivered: usize,
    again: usize,
    is_cut: bool,
    took: Duration,
}

fn fill(port: u16, story: &Story) -> Stan {
    let mut stan = Stan::connect(port, &unique());
    let reply = stan.own("acks");
    let data = vec![b'x'; story.size];
    let mut unacked = 0;
    for channel in 0..story.channels {
        for _ in 0..story.count {
            let message = stan.message(format!("channel.{channel}"), &data);
            stan.publish_async(&message, &reply);
            unacked += 1;
            if unacked == 16 {
                stan.next_on(&reply, PATIENCE).expect("an ack");
                unacked -= 1;
            }
        }
    }
    for _ in 0..unacked {
        stan.next_on(&reply, PATIENCE).expect("an ack");
    }
    stan
}

/// Delivers everything to one slow connection to `server`.
fn deliver(stan: &mut Stan, server: &Server, story: &Story, ack_wait: i32) -> Outcome {
    deliver_behind(stan, (server, server), story, ack_wait)
}

/// The same where the client is at home with another server than the connection that reads.
fn deliver_behind(
    stan: &mut Stan,
    (home, reading): (&Server, &Server),
    story: &Story,
    ack_wait: i32,
) -> Outcome {
    let inboxes: Vec<String> = (0..story.channels).map(|_| format!("in.{}", unique())).collect();
    let mut reader = Reader::connect(reading.launch.port, &inboxes, RATE);
    if home.pid() != reading.pid() {
        let last = inboxes.last().unwrap();
        wait_for("interest behind the route", || {
            home.get("/routez?subs=1").body.contains(last).then_some(())
        });
    }
    let begun = Instant::now();
    for (channel, inbox) in inboxes.iter().enumerate() {
        let mut request = all(format!("channel.{channel}"));
        request.inbox = Bytes::from(inbox.clone());
        request.durable_name = Bytes::from_static(b"durable");
        request.max_in_flight = i32::try_from(story.count).unwrap();
        request.ack_wait_in_secs = ack_wait;
        stan.subscribe(request);
    }
    let mut seen = BTreeSet::new();
    let mut outcome = Outcome { delivered: 0, again: 0, is_cut: false, took: Duration::ZERO };
    while outcome.delivered < story.total() {
        let Some(payload) = reader.message() else {
            outcome.is_cut = true;
            break;
        };
        let message = pb::MsgProto::decode(Bytes::from(payload)).unwrap();
        if seen.insert((message.subject, message.sequence)) {
            outcome.delivered += 1;
        } else {
            outcome.again += 1;
        }
    }
    outcome.took = begun.elapsed();
    outcome
}

fn slow_consumers(server: &Server) -> u64 {
    server.json("/varz")["slow_consumers"].as_u64().unwrap()
}

fn report(what: &str, story: &Story, outcome: &Outcome) {
    let Story { channels, count, size } = story;
    let (delivered, again) = (outcome.delivered, outcome.again);
    println!(
        "{what:<28} {channels:>3} x {count:>5} x {size:>7}: {delivered} of {} delivered, {again} again, \
         {} in {:.1} s",
        story.total(),
        if outcome.is_cut { "cut off" } else { "not cut" },
        outcome.took.as_secs_f64(),
    );
}

fn check(story: &Story, outcome: &Outcome, server: &Server) {
    assert!(!outcome.is_cut, "{story:?}: {outcome:?}\n{}", server.log.text());
    assert_eq!(outcome.delivered, story.total());
    assert_eq!(outcome.again, 0, "nothing is sent twice within the ack wait");
    assert_eq!(slow_consumers(server), 0);
}

/// The Go server to be measured beside ours, if one is named.
fn beside(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|_| is_full()).map(PathBuf::from)
}

#[test]
fn a_subscriber_slower_than_memory_gets_everything() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for story in stories() {
        for loops in [1, 3] {
            let launch = Launch::new(&[]).config(settings()).file_store(None).loops(loops);
            let server = launch.start();
            let mut stan = fill(server.launch.port, &story);
            let outcome = deliver(&mut stan, &server, &story, 600);
            report(&format!("ours, {loops} loops"), &story, &outcome);
            check(&story, &outcome, &server);
        }
        if let Some(program) = beside("STANBY_GO_SERVER") {
            let server = Launch::new(&[]).file_store(None).program(&program).start();
            let mut stan = fill(server.launch.port, &story);
            report("Go", &story, &deliver(&mut stan, &server, &story, 600));
        }
    }
}

/// Goal: what is due again does not flood who is slow, and others do not wait for it.
#[test]
fn redeliveries_wait_for_a_slow_reader_and_others_do_not() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let story = Story { channels: 1, count: 5_000, size: 10_000 };
    let server = Launch::new(&[]).config(settings()).loops(2).start();
    let port = server.launch.port;
    let mut stan = fill(port, &story);
    let reading = &server;
    let outcome = thread::scope(|scope| {
        let slow = scope.spawn(move || deliver(&mut stan, reading, &story, 1));
        read_quickly(port, &story);
        slow.join().unwrap()
    });
    report("ours, an ack wait of 1 s", &story, &outcome);
    assert!(!outcome.is_cut);
    assert_eq!(outcome.delivered, story.total());
    // Nothing is acked here, so what is due again shares the connection with what is new.
    assert!(outcome.again <= 3 * story.total(), "{outcome:?}");
    assert_eq!(slow_consumers(&server), 0);
}

fn read_quickly(port: u16, story: &Story) {
    let mut quick = Stan::connect(port, "quick");
    // Its inboxes lie under one wildcard, so little may be in flight.
    let sub = quick.subscribe(pb::SubscriptionRequest { max_in_flight: 16, ..all("channel.0") });
    for _ in 0..story.total() {
        let delivery = quick.take(&sub, 1);
        quick.ack(&sub, delivery[0].message.sequence);
    }
}

/// A streaming server, and a core server behind a route to it.
fn pair(launches: impl Fn(&[&str], bool) -> Launch) -> (Server, Server) {
    let ports = [server::free_port(), server::free_port()];
    let urls = ports.map(|port| format!("nats://127.0.0.1:{port}"));
    let home = launches(&["-cluster", &urls[0]], true).start();
    let far = launches(&["-cluster", &urls[1], "-routes", &urls[0]], false).start();
    wait_for("the route", || (home.json("/routez")["num_routes"] == 1).then_some(()));
    (home, far)
}

/// Goal: over a route too who reads makes progress, and the route stays.
#[test]
fn a_slow_subscriber_behind_a_route_gets_everything() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for story in stories() {
        let (home, far) = pair(|args, is_home| {
            let launch = if is_home { Launch::new(args) } else { Launch::core(args) };
            launch.config(settings()).loops(2)
        });
        let mut stan = fill(home.launch.port, &story);
        let outcome = deliver_behind(&mut stan, (&home, &far), &story, 600);
        report("ours, over a route", &story, &outcome);
        check(&story, &outcome, &far);
        assert_eq!(slow_consumers(&home), 0);
        let (Some(go), Some(peer)) = (beside("STANBY_GO_SERVER"), beside("STANBY_PEER")) else {
            continue;
        };
        let (home, far) = pair(|args, is_home| match is_home {
            true => Launch::new(args).program(&go),
            false => Launch::core(args).program(&peer),
        });
        let mut stan = fill(home.launch.port, &story);
        report("Go, over a route", &story, &deliver_behind(&mut stan, (&home, &far), &story, 600));
    }
}

/// Publishes to itself on one connection while it reads; gives how long that took.
fn to_oneself(port: u16, total: usize, size: usize) -> (usize, Duration) {
    let mut reader = Reader::connect(port, &["self".to_owned()], 10 * RATE);
    let mut socket = reader.socket().try_clone().unwrap();
    let begun = Instant::now();
    let writer = thread::spawn(move || {
        let publish = wire::publish("self", &vec![b'x'; size]);
        for _ in 0..total / size {
            if socket.write_all(&publish).is_err() {
                return;
            }
        }
    });
    let mut count = 0;
    while count < total / size && reader.message().is_some() {
        count += 1;
    }
    writer.join().unwrap();
    (count, begun.elapsed())
}

#[test]
fn who_publishes_to_itself_gets_everything() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let total = if is_full() { 100 << 20 } else { 20_000_000 };
    for size in [100_000, 1_000] {
        let server = Launch::core(&[]).config(settings()).start();
        let (count, took) = to_oneself(server.launch.port, total, size);
        println!("ours: {count} of {} x {size} to oneself in {took:.2?}", total / size);
        assert_eq!(count, total / size, "{}", server.log.text());
        wait_for("no verdict", || (slow_consumers(&server) == 0).then_some(()));
        if let Some(program) = beside("STANBY_PEER") {
            let server = Launch::core(&[]).program(&program).start();
            let (count, took) = to_oneself(server.launch.port, total, size);
            println!("Go:   {count} of {} x {size} to oneself in {took:.2?}", total / size);
        }
    }
}
