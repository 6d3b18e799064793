//! Small inputs that cost much: how long others wait meanwhile.
//!
//! By default it is compared what the same bytes cost among few and among many. With
//! `STANBY_HOSTILE=full` each input arrives for a second at the full rate of the loopback
//! interface, and a table says how long another client's PING waited at most; `STANBY_BIN` names
//! the program.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "what is measured here is time")]
#![allow(clippy::print_stdout, reason = "a table is printed")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/node.rs"]
#[allow(dead_code, reason = "shared with the tests of routes")]
mod node;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use node::{Kind, Node, PATIENCE, start};

const HELLO: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
    \"no_responders\":true,\"protocol\":1}\r\n";

/// How long each input arrives.
const ATTACK: Duration = Duration::from_secs(1);

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
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
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

/// The longest time that a PING waited.
fn longest_wait(node: &Node, time: Duration) -> Duration {
    let mut wire = Wire::client(node);
    let end = Instant::now() + time;
    let mut longest = Duration::ZERO;
    while Instant::now() < end {
        let begin = Instant::now();
        wire.ask_ping();
        longest = longest.max(begin.elapsed());
    }
    longest
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
    /// Said on one connection to the route port after the other, each time until it is closed.
    Peers(fn(usize) -> String),
    /// Said before; then the connection is closed.
    Leaver(String),
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

/// The longest wait while `input` arrives.
fn attack(node: &Node, input: &Input, time: Duration) -> Duration {
    let is_over = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        match input {
            Input::Flood { before, flood: bytes } => {
                let mut wire = Wire::client(node);
                wire.ask(before.as_bytes());
                let is_over = Arc::clone(&is_over);
                scope.spawn(move || flood(wire, bytes.as_bytes(), &is_over));
            }
            Input::Peers(said) => {
                let (port, is_over) = (node.route_port, Arc::clone(&is_over));
                scope.spawn(move || dial_again_and_again(port, *said, &is_over));
            }
            Input::Leaver(before) => {
                let mut wire = Wire::client(node);
                wire.ask(before.as_bytes());
                drop(wire);
            }
        }
        let longest = longest_wait(node, time);
        is_over.store(true, Ordering::Relaxed);
        longest
    })
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

fn inputs() -> Vec<(&'static str, Input)> {
    let combinations = |n: usize| {
        let tokens: Vec<&str> =
            (0..13).map(|bit| if n >> bit & 1 == 0 { "a" } else { "*" }).collect();
        format!("SUB {}.*.z {n}\r\n", tokens.join("."))
    };
    let flood = |before, flood: &str| Input::Flood { before, flood: flood.to_owned() };
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
            "PUBs that match none of 8,192 patterns",
            flood(
                lines(8_192, combinations),
                &format!("PUB {}.x.y 0\r\n\r\n", vec!["a"; 13].join(".")),
            ),
        ),
        (
            "200,000 interests that end at once",
            Input::Leaver(lines(200_000, |n| format!("SUB one.{} q{} {n}\r\n", n % 1_000, n % 7))),
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

/// A node whose routes have to give a password that is known as a hash, or none.
fn guarded(has_password: bool) -> (Node, tempfile::NamedTempFile) {
    let config = tempfile::NamedTempFile::new().unwrap();
    let hash = bcrypt::hash("right", 9).unwrap();
    let text = format!("cluster {{ authorization {{ user: u, password: \"{hash}\" }} }}\n");
    std::fs::write(config.path(), if has_password { &text } else { "" }).unwrap();
    let path = config.path().display().to_string();
    let start = start(Kind::Core).named("c").with(&["-c", &path]);
    // The flag's user would take the place of the file's.
    (start.run(), config)
}

/// Goal: whatever arrives, another client's PING waits at most ten times as long as without it.
#[test]
fn others_do_not_wait_for_hostile_inputs() {
    if std::env::var("STANBY_HOSTILE").is_ok_and(|size| size == "full") {
        println!("{:<45} {:>12} {:>12}", "input", "without", "with it");
        let mut late = Vec::new();
        for (name, input) in inputs() {
            let (node, _config) = guarded(name.contains("passwords"));
            let before = longest_wait(&node, ATTACK);
            let with = attack(&node, &input, ATTACK);
            println!("{name:<45} {before:>12.1?} {with:>12.1?}");
            if with > before.max(NOISE) * TIMES_MAX {
                late.push(name);
            }
        }
        assert!(late.is_empty(), "too late: {late:?}");
    }
}

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
