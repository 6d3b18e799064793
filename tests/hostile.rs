//! Small inputs that cost much: how long others wait meanwhile.
//!
//! It is compared what the same bytes cost among few and among many, and a sample of inputs arrives
//! for a second at the full rate of the loopback interface. With `STANBY_HOSTILE=full` all inputs
//! do, in turns with seconds without them, and a table says how long another client's PING waited
//! at most; `STANBY_HOSTILE_ROWS` names some of them, `STANBY_BIN` the program.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "what is measured here is time")]
#![allow(clippy::print_stdout, reason = "a table is printed")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/node.rs"]
#[allow(dead_code, reason = "shared with the tests of routes")]
mod node;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use node::{Kind, Node, PATIENCE, start};

const HELLO: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
    \"no_responders\":true,\"protocol\":1}\r\n";

/// How long each input arrives.
const ATTACK: Duration = Duration::from_secs(1);

/// Windows of that time, of which the middle one counts.
const WINDOWS: usize = 3;

/// Others may wait so many times as long as without the input.
const TIMES_MAX: u32 = 10;

/// What others wait for on a busy machine even when nothing arrives.
const NOISE: Duration = Duration::from_millis(2);

struct Wire {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    fn open(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(4 * PATIENCE)).unwrap();
        Self { socket, read: Vec::new() }
    }

    fn client(node: &Node) -> Self {
        let mut wire = Self::open(node.client_port);
        wire.ask(HELLO.as_bytes());
        wire
    }

    /// Sends `bytes` and waits until they are handled.
    fn ask(&mut self, bytes: &[u8]) {
        let mut socket = self.socket.try_clone().unwrap();
        let bytes = [bytes, b"PING\r\n"].concat();
        let sender = thread::spawn(move || socket.write_all(&bytes).unwrap());
        self.wait("PONG\r\n");
        sender.join().unwrap();
    }

    fn wait(&mut self, text: &str) {
        let mut chunk = [0; 64 * 1024];
        loop {
            if memchr::memmem::find(&self.read, text.as_bytes()).is_some() {
                self.read.clear();
                return;
            }
            let kept = self.read.len().saturating_sub(text.len());
            self.read.drain(..kept);
            let len = self.socket.read(&mut chunk).unwrap();
            assert!(len > 0, "the connection ended before {text:?}");
            self.read.extend_from_slice(&chunk[..len]);
        }
    }
}

/// The longest time that a PING waited, on any loop.
fn longest_wait(node: &Node, time: Duration) -> Duration {
    let wait = || {
        let mut wire = Wire::client(node);
        let end = Instant::now() + time;
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            let begin = Instant::now();
            wire.ask_ping();
            longest = longest.max(begin.elapsed());
        }
        longest
    };
    // New connections go to the loops in turns.
    thread::scope(|scope| {
        let other = scope.spawn(wait);
        wait().max(other.join().unwrap())
    })
}

impl Wire {
    fn ask_ping(&mut self) {
        self.socket.write_all(b"PING\r\n").unwrap();
        self.wait("PONG\r\n");
    }
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

/// What arrives for a second.
enum Input {
    /// Said once before, and then said again and again on the same connection.
    Flood { before: String, flood: String },
    /// Said once before by others, one on each loop; and what is said then again and again.
    Crowd { others: String, flood: String },
    /// The same as a flood, by a server of the cluster.
    Peer { flood: String },
    /// Said on one connection to the route port after the other, each time until it is closed.
    Peers(fn(usize) -> String),
    /// Said on one connection of a client after the other, which are closed at once.
    Clients(fn(usize) -> String),
    /// Said before; then the connection is closed.
    Leaver(String),
    /// Said before; then these pages are asked for again and again.
    Pages { before: String, pages: [&'static str; 2] },
    /// Requests to the streaming server, by what begins their subjects there.
    Requests { before: String, flood: fn(&Prefixes) -> Vec<u8> },
}

/// Where the streaming server takes requests, as it has told a client.
struct Prefixes {
    publish: String,
    subscribe: String,
    close: String,
    ping: String,
}

impl Prefixes {
    fn ask(node: &Node) -> Self {
        let mut wire = Wire::client(node);
        let request = "\n\u{1}c\u{12}\u{2}hb";
        let ask = format!("SUB in 1\r\nPUB _STAN.discover.test-cluster in 7\r\n{request}\r\n");
        wire.socket.write_all(ask.as_bytes()).unwrap();
        let mut told = Vec::new();
        while memchr::memmem::find(&told, b"_STAN.subclose.").is_none() {
            let mut chunk = [0; 4096];
            let len = wire.socket.read(&mut chunk).unwrap();
            told.extend_from_slice(&chunk[..len]);
        }
        let told = String::from_utf8_lossy(&told).into_owned();
        let prefix = |kind: &str| {
            let at = told.find(&format!("_STAN.{kind}.")).unwrap();
            let is_part = |letter: &char| letter.is_ascii_alphanumeric() || "._".contains(*letter);
            told[at..].chars().take_while(is_part).collect()
        };
        Self {
            publish: prefix("pub"),
            subscribe: prefix("sub"),
            close: prefix("close"),
            ping: "_STAN.discover.test-cluster.pings".to_owned(),
        }
    }
}

/// Keeps a connection full of `bytes` until `is_over`.
fn flood(mut wire: Wire, bytes: &[u8], is_over: &AtomicBool) {
    let mut drain = wire.socket.try_clone().unwrap();
    let drained = thread::spawn(move || {
        let mut chunk = [0; 64 * 1024];
        while drain.read(&mut chunk).is_ok_and(|len| len > 0) {}
    });
    wire.socket.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut at = 0;
    while !is_over.load(Ordering::Relaxed) {
        match wire.socket.write(&bytes[at..]) {
            Ok(len) => at = (at + len) % bytes.len(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
            Err(_) => break,
        }
    }
    // The server may have closed it.
    let _ = wire.socket.shutdown(Shutdown::Both);
    drained.join().unwrap();
}

fn dial_again_and_again(port: u16, said: fn(usize) -> String, is_over: &AtomicBool) {
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let mut wire = Wire::open(port);
                    wire.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    let text = said(count.fetch_add(1, Ordering::Relaxed));
                    // A server that hangs up early is free to.
                    let _ = wire.socket.write_all(text.as_bytes());
                    let mut chunk = [0; 64 * 1024];
                    for _ in 0..2 {
                        if !wire.socket.read(&mut chunk).is_ok_and(|len| len > 0) {
                            break;
                        }
                    }
                }
            });
        }
    });
}

fn poll_pages(node: &Node, pages: [&str; 2], is_over: &AtomicBool) {
    thread::scope(|scope| {
        for page in pages {
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(node.page(page).starts_with("HTTP/1.0 200"), "{page}");
                }
            });
        }
    });
}

/// The longest wait while `input` arrives.
fn attack(node: &Node, input: &Input, time: Duration) -> Duration {
    let is_over = AtomicBool::new(false);
    let ready = |before: &str| {
        let mut wire = Wire::client(node);
        wire.ask(before.as_bytes());
        wire
    };
    thread::scope(|scope| {
        let is_over = &is_over;
        let mut kept = Vec::new();
        let flood_from =
            |wire: Wire, bytes: Vec<u8>| scope.spawn(move || flood(wire, &bytes, is_over));
        match input {
            Input::Flood { before, flood } => {
                flood_from(ready(before), flood.clone().into_bytes());
            }
            Input::Crowd { others, flood } => {
                kept.extend((0..2).map(|_| ready(others)));
                (0..2).for_each(|_| {
                    flood_from(ready(""), flood.clone().into_bytes());
                });
            }
            Input::Peer { flood } => {
                let mut wire = Wire::open(node.route_port);
                wire.ask(PEER.as_bytes());
                flood_from(wire, flood.clone().into_bytes());
            }
            Input::Peers(said) => {
                scope.spawn(move || dial_again_and_again(node.route_port, *said, is_over));
            }
            Input::Clients(said) => {
                scope.spawn(move || dial_again_and_again(node.client_port, *said, is_over));
            }
            Input::Leaver(before) => drop(ready(before)),
            Input::Pages { before, pages } => {
                kept.push(ready(before));
                scope.spawn(move || poll_pages(node, *pages, is_over));
            }
            Input::Requests { before, flood } => {
                let bytes = flood(&Prefixes::ask(node));
                flood_from(ready(before), bytes);
            }
        }
        // Who only listens is read too, so that nobody is slow.
        for wire in &kept {
            let mut drain = wire.socket.try_clone().unwrap();
            scope.spawn(move || {
                let mut chunk = [0; 64 * 1024];
                while drain.read(&mut chunk).is_ok_and(|len| len > 0) {}
            });
        }
        let longest = longest_wait(node, time);
        is_over.store(true, Ordering::Relaxed);
        for wire in &kept {
            let _ = wire.socket.shutdown(Shutdown::Both);
        }
        longest
    })
}

/// The longest waits without and with `input`: of several windows in turns the middle one, because
/// a busy machine makes any single one long.
fn compare(node: &Node, input: &Input) -> (Duration, Duration) {
    let mut windows: Vec<(Duration, Duration)> = (0..WINDOWS)
        .map(|_| {
            // What the window before has left behind is worked off first.
            longest_wait(node, ATTACK / 4);
            (longest_wait(node, ATTACK), attack(node, input, ATTACK))
        })
        .collect();
    let mut middle = |of: fn(&(Duration, Duration)) -> Duration| {
        windows.sort_by_key(of);
        of(&windows[WINDOWS / 2])
    };
    (middle(|window| window.0), middle(|window| window.1))
}

/// The shortest of the longest waits of several windows: a busy machine makes some of them long,
/// and an input that holds others up makes all of them long. None follows one that is short enough.
fn attack_until_quick(node: &Node, input: &Input) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..SAMPLE_WINDOWS {
        best = best.min(attack(node, input, ATTACK));
        if best <= SAMPLE_MAX {
            break;
        }
    }
    best
}

fn urls_of(count: usize) -> impl Fn(usize) -> String {
    move |number| {
        let urls: Vec<String> = (0..count).map(|n| format!("\"10.{number}.1.1:{n}\"")).collect();
        format!(
            "CONNECT {{\"cluster\":\"c\"}}\r\nINFO {{\"server_id\":\"N{number}\",\
             \"server_name\":\"n{number}\",\"cluster\":\"c\",\"port\":1,\
             \"connect_urls\":[{}]}}\r\nPING\r\n",
            urls.join(",")
        )
    }
}

const PEER: &str = "CONNECT {\"cluster\":\"c\"}\r\n\
    INFO {\"server_id\":\"NX\",\"server_name\":\"x\",\"cluster\":\"c\",\"port\":1}\r\n";

/// Patterns of `len` tokens and two more, of which each is `a` or a wildcard.
fn combinations(len: usize) -> String {
    let tokens = |n: usize| (0..len).map(move |bit| if n >> bit & 1 == 0 { "a" } else { "*" });
    lines(1 << len, |n| format!("SUB {}.*.z {n}\r\n", tokens(n).collect::<Vec<_>>().join(".")))
}

fn inputs() -> Vec<(&'static str, Input)> {
    let mut all = of_clients();
    all.extend(of_searches());
    all.extend(of_peers());
    all.extend(of_tools());
    all
}

fn of_clients() -> Vec<(&'static str, Input)> {
    let flood = |before, flood: &str| Input::Flood { before, flood: flood.to_owned() };
    let long = vec!["a"; 2_000].join(".");
    let header = format!("NATS/1.0\r\nX: {}\r\n\r\n", "x".repeat(50_000));
    vec![
        (
            "requests that nobody hears, 20,000 SUBs",
            flood(lines(20_000, |n| format!("SUB in.{n} {n}\r\n")), "PUB svc in.none 0\r\n\r\n"),
        ),
        (
            "PUBs to a queue of 20,000 members",
            flood(lines(20_000, |n| format!("SUB one q {n}\r\n")), "PUB one 0\r\n\r\n"),
        ),
        (
            "40,000 SUBs and UNSUBs on one subject",
            Input::Flood {
                before: lines(40_000, |n| format!("SUB one {n}\r\n")),
                flood: lines(40_000, |n| format!("UNSUB {n}\r\n"))
                    + &lines(40_000, |n| format!("SUB one {n}\r\n")),
            },
        ),
        (
            "PUBs with 1,000 receivers each",
            flood(lines(1_000, |n| format!("SUB one {n}\r\n")), "PUB one 0\r\n\r\n"),
        ),
        (
            "200,000 interests that end at once",
            Input::Leaver(lines(200_000, |n| format!("SUB one.{} q{} {n}\r\n", n % 1_000, n % 7))),
        ),
        (
            "PUBs with 100,000 receivers each",
            flood(lines(100_000, |n| format!("SUB one {n}\r\n")), "PUB one 0\r\n\r\n"),
        ),
        (
            "PUBs with 1,000 receivers on each loop",
            Input::Crowd {
                others: lines(1_000, |n| format!("SUB one {n}\r\n")),
                flood: "PUB one 0\r\n\r\n".to_owned(),
            },
        ),
        (
            "SUBs and UNSUBs of others on each loop",
            Input::Crowd {
                others: String::new(),
                flood: lines(10_000, |n| format!("SUB a.{n} {n}\r\n"))
                    + &lines(10_000, |n| format!("UNSUB {n}\r\n")),
            },
        ),
        ("PUBs with 2,000 tokens", flood(String::new(), &format!("PUB {long} 0\r\n\r\n"))),
        (
            "SUBs and UNSUBs with 2,000 tokens",
            flood(String::new(), &format!("SUB *.{long} 1\r\nUNSUB 1\r\n")),
        ),
        (
            "HPUBs with 50 KB of headers",
            flood(
                "SUB one 1\r\n".to_owned(),
                &format!("HPUB one {0} {0}\r\n{header}\r\n", header.len()),
            ),
        ),
        (
            "CONNECTs with 4 KB of JSON",
            flood(
                String::new(),
                &format!("CONNECT {{\"verbose\":false,\"x\":[{}1]}}\r\n", "1,".repeat(1_900)),
            ),
        ),
        ("connections that say PING and go", Input::Clients(|_| HELLO.to_owned() + "PING\r\n")),
    ]
}

fn of_searches() -> Vec<(&'static str, Input)> {
    let none = |len: usize, count| {
        let tokens = vec!["a"; len].join(".");
        lines(count, move |n| format!("PUB {tokens}.x.y{n} 0\r\n\r\n"))
    };
    let flood = |before, flood| Input::Flood { before, flood };
    let all = vec!["a"; 13].join(".");
    vec![
        ("PUBs that match none of 8,192 patterns", flood(combinations(13), none(13, 1))),
        ("PUBs, each another, and 8,192 patterns", flood(combinations(13), none(13, 5_000))),
        ("PUBs, each another, and 65,536 patterns", flood(combinations(16), none(16, 5_000))),
        (
            "the same while patterns come and go",
            flood(
                combinations(13),
                lines(5_000, |n| format!("PUB {all}.x.y{n} 0\r\n\r\nSUB *.q q\r\nUNSUB q\r\n")),
            ),
        ),
        (
            "requests whose replies 8,192 patterns miss",
            flood(combinations(13), lines(5_000, |n| format!("PUB none {all}.x.y{n} 0\r\n\r\n"))),
        ),
    ]
}

fn of_peers() -> Vec<(&'static str, Input)> {
    vec![
        (
            "RS+ and RS- of a peer",
            Input::Peer {
                flood: lines(10_000, |n| format!("RS+ $G a.{n}\r\n"))
                    + &lines(10_000, |n| format!("RS- $G a.{n}\r\n")),
            },
        ),
        (
            "INFOs of a peer about others",
            Input::Peer {
                flood: lines(5_000, |n| {
                    format!(
                        "INFO {{\"server_id\":\"N{n}\",\"server_name\":\"n{n}\",\
                         \"cluster\":\"c\",\"ip\":\"nats-route://127.0.0.1:1/\"}}\r\n"
                    )
                }),
            },
        ),
        ("INFOs with 40,000 connect URLs", Input::Peers(|n| urls_of(40_000)(n))),
        ("INFOs with 2,000 connect URLs", Input::Peers(|n| urls_of(2_000)(n))),
        (
            "wrong passwords of routes (bcrypt)",
            Input::Peers(|n| {
                format!("CONNECT {{\"user\":\"u\",\"pass\":\"wrong{n}\",\"cluster\":\"c\"}}\r\n")
            }),
        ),
    ]
}

fn of_tools() -> Vec<(&'static str, Input)> {
    let requests = |before, flood| Input::Requests { before, flood };
    let many = lines(100_000, |n| format!("SUB x.{n} {n}\r\n"));
    vec![
        (
            "connz and subsz about 100,000 SUBs",
            Input::Pages {
                before: many.clone(),
                pages: ["/connz?subs=1&sort=subs", "/subsz?subs=1&limit=100000"],
            },
        ),
        (
            "subsz with a subject, 100,000 SUBs",
            Input::Pages { before: many, pages: ["/subsz?subs=1&test=x.77", "/varz"] },
        ),
        (
            "publishes that are no protobuf",
            requests(String::new(), |at| {
                format!("PUB {}.foo in 3\r\n\u{7f}\u{7f}\u{7f}\r\n", at.publish).into_bytes()
            }),
        ),
        (
            "requests of nobody to all services",
            requests("SUB _STAN.> 1\r\n".to_owned(), |at| {
                let all = [&at.subscribe, &at.close, &at.ping];
                let one = |to: &&String| format!("PUB {to} in 3\r\n\n\u{1}x\r\n");
                all.iter().map(one).collect::<String>().into_bytes()
            }),
        ),
        (
            "connect requests, each another client",
            requests(String::new(), |_| {
                let one = |n| {
                    format!(
                        "PUB _STAN.discover.test-cluster in 14\r\n\n\u{8}c{n:07}\u{12}\u{2}hb\r\n"
                    )
                };
                lines(20_000, one).into_bytes()
            }),
        ),
        (
            "publishes whose acks 8,192 patterns miss",
            requests(combinations(13), |at| {
                let reply = vec!["a"; 13].join(".");
                let one = |n| {
                    format!(
                        "PUB {}.foo {reply}.x.y{n} 12\r\n\n\u{1}c\u{12}\u{2}g1\u{1a}\u{3}foo\r\n",
                        at.publish
                    )
                };
                lines(5_000, one).into_bytes()
            }),
        ),
    ]
}

/// A node whose routes have to give a password that is known as a hash, or none.
fn guarded(kind: Kind, has_password: bool) -> (Node, tempfile::NamedTempFile) {
    let config = tempfile::NamedTempFile::new().unwrap();
    let hash = bcrypt::hash("right", 9).unwrap();
    let text = format!("cluster {{ authorization {{ user: u, password: \"{hash}\" }} }}\n");
    std::fs::write(config.path(), if has_password { &text } else { "" }).unwrap();
    let path = config.path().display().to_string();
    let start = start(kind).named("c").with(&["-c", &path]);
    // The flag's user would take the place of the file's.
    (start.run(), config)
}

/// Goal: whatever arrives, another client's PING waits at most ten times as long as without it. A
/// sample of the inputs has to keep within a second only, which a busy machine and a program that
/// is not optimised allow, and a loop that stands still for seconds does not.
#[test]
fn others_do_not_wait_for_hostile_inputs() {
    let is_full = std::env::var("STANBY_HOSTILE").is_ok_and(|size| size == "full");
    let wanted = std::env::var("STANBY_HOSTILE_ROWS").unwrap_or_default();
    let is_wanted = |name: &str| {
        name.contains(&wanted) && (is_full || SAMPLE.iter().any(|part| name.contains(part)))
    };
    println!("{:<45} {:>12} {:>12}", "input", "without", "with it");
    let mut late = Vec::new();
    for (name, input) in inputs().into_iter().filter(|(name, _)| is_wanted(name)) {
        let is_for_engines = matches!(input, Input::Requests { .. });
        let kind = if is_for_engines { Kind::Streaming } else { Kind::Core };
        let (node, _config) = guarded(kind, name.contains("passwords"));
        let (before, with) = if is_full {
            compare(&node, &input)
        } else {
            (Duration::ZERO, attack_until_quick(&node, &input))
        };
        println!("{name:<45} {before:>12.1?} {with:>12.1?}");
        let most = if is_full { before.max(NOISE) * TIMES_MAX } else { SAMPLE_MAX };
        if with > most {
            late.push(name);
        }
    }
    assert!(late.is_empty(), "too late: {late:?}");
}

/// What is tried without being asked for.
const SAMPLE: [&str; 4] =
    ["receivers on each loop", "65,536 patterns", "on one subject", "subsz about"];

/// In how many windows that is tried before others count as held up.
const SAMPLE_WINDOWS: usize = 10;

/// How long others may wait there.
const SAMPLE_MAX: Duration = Duration::from_secs(1);

/// How long `bytes` take after `before`, at best.
fn cost(before: &str, bytes: &str) -> Duration {
    let node = start(Kind::Core).named("c").run();
    let mut wire = Wire::client(&node);
    wire.ask(before.as_bytes());
    let once = |_| {
        let begin = Instant::now();
        wire.ask(bytes.as_bytes());
        begin.elapsed()
    };
    (0..3).map(once).min().unwrap()
}

/// Goal: the same bytes cost about the same among few and among many. They cost hundreds of times
/// as much where each operation looks at all others.
#[test]
fn inputs_cost_the_same_among_few_and_among_many() {
    type Line = fn(usize) -> String;
    let inboxes: Line = |n| format!("SUB in.{n} {n}\r\n");
    let members: Line = |n| format!("SUB one q {n}\r\n");
    let same: Line = |n| format!("SUB one {n}\r\n");
    let leave = lines(2_000, |n| format!("SUB one x{n}\r\nSUB one y{n}\r\nUNSUB x{n}\r\n"))
        + &lines(2_000, |n| format!("UNSUB y{n}\r\n"));
    for (what, line, bytes) in [
        ("requests that nobody hears", inboxes, "PUB svc in.none 0\r\n\r\n".repeat(4_000)),
        ("a queue", members, "PUB one 0\r\n\r\n".repeat(4_000)),
        ("the end of interests", same, leave),
    ] {
        let few = cost(&lines(20, line), &bytes);
        let many = cost(&lines(20_000, line), &bytes);
        assert!(many < few * 20, "{what}: {few:?} among few, {many:?} among many");
    }
}

/// Goal: passwords wait for their turn; a right one is never called wrong, and none is lost.
#[test]
fn a_right_password_behind_many_wrong_ones_is_right() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let hash = bcrypt::hash("right", 6).unwrap();
    let text = format!("authorization {{ user: u, password: \"{hash}\", timeout: 60 }}\n");
    std::fs::write(config.path(), text).unwrap();
    let node = start(Kind::Core).with(&["-c", &config.path().display().to_string()]).run();
    let connect = |password: &str| {
        format!("CONNECT {{\"user\":\"u\",\"pass\":\"{password}\",\"verbose\":false}}\r\nPING\r\n")
    };
    let mut wrong: Vec<Wire> = (0..1_300).map(|_| Wire::open(node.client_port)).collect();
    let mut late: Vec<Wire> = (0..300).map(|_| Wire::open(node.client_port)).collect();
    let mut right = Wire::open(node.client_port);
    for wire in &mut wrong {
        wire.socket.write_all(connect("wrong").as_bytes()).unwrap();
    }
    for wire in &mut late {
        wire.socket.write_all(connect("wrong").as_bytes()).unwrap();
        let _ = wire.socket.shutdown(Shutdown::Write);
    }
    right.socket.write_all(connect("right").as_bytes()).unwrap();
    right.wait("PONG\r\n");
    for mut wire in wrong {
        wire.wait("-ERR 'Authorization Violation'\r\n");
    }
}
