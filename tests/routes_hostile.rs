//! The route port among strangers: whatever they send, the server goes on, small and talkative.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/nats.rs"]
#[allow(dead_code, reason = "shared with the tests of routes")]
mod nats;
#[path = "support/node.rs"]
#[allow(dead_code, reason = "shared with the tests of routes")]
mod node;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use stanby::base::random::Random;

use nats::{Nats, settle};
use node::{Kind, Node, PATIENCE, start};

const PEER: &str = "CONNECT {\"cluster\":\"c\"}\r\n\
    INFO {\"server_id\":\"NX\",\"server_name\":\"x\",\"cluster\":\"c\",\"proto\":2,\
    \"host\":\"127.0.0.1\",\"port\":1,\"headers\":true}\r\n";

/// Sends what it can: a server that hangs up early is free to, one that does not read is not.
fn send(socket: &mut TcpStream, bytes: &[u8]) {
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    if let Err(error) = socket.write_all(bytes) {
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
}

/// An introduction of a server that nobody else is.
fn introduction(number: u64) -> Vec<u8> {
    PEER.replace("NX", &format!("NX{number}")).into_bytes()
}

/// A route that is registered.
fn peer(node: &Node, number: u64) -> TcpStream {
    let mut socket = stranger(node);
    send(&mut socket, &introduction(number));
    send(&mut socket, b"PING\r\n");
    wait_text(&mut socket, "PONG\r\n");
    socket
}

/// Reads until `text` has come.
fn wait_text(socket: &mut TcpStream, text: &str) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let len = socket.read(&mut chunk).unwrap();
        assert!(len > 0, "no {text:?} in {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..len]);
    }
}

fn stranger(node: &Node) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", node.route_port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Reads to the end of the connection.
fn wait_end(mut socket: TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no end in sight"),
            // It hung up with bytes of ours unread.
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn assert_serves(node: &mut Node) {
    assert!(node.is_running());
    let (mut one, mut other) = (Nats::connect(node), Nats::connect(node));
    settle(&mut one, &mut other);
}

#[test]
fn what_is_no_route_is_told_so_closed_and_logged() {
    let mut node = start(Kind::Core).named("c").run();
    for (bytes, answer, line) in [
        ("GET / HTTP/1.1\r\n\r\n", "Unknown Protocol Operation", "Router parser ERROR, state="),
        ("\x16\x03\x01\x02\x00", "Unknown Protocol Operation", "Router parser ERROR, state="),
        (
            "CONNECT {\"lang\":\"go\"}\r\nPING\r\n",
            "attempted to connect to route port",
            "attempted to connect to route port",
        ),
        (
            "CONNECT {\"cluster\":\"d\"}\r\n",
            "does not match",
            "cluster name \"d\" does not match \"c\"",
        ),
        ("CONNECT not json\r\n", "", "Protocol Violation"),
        ("INFO {\"port\":\"x\"}\r\n", "", "Protocol Violation"),
        ("RS+ $G a\r\n", "Unknown Protocol Operation", "Router parser ERROR, state="),
        ("RMSG $G a 1\r\nx\r\n", "Unknown Protocol Operation", "Router parser ERROR, state="),
        ("-ERR 'go away'\r\n", "", "Route Error 'go away'"),
    ] {
        let mut socket = stranger(&node);
        send(&mut socket, bytes.as_bytes());
        let found = wait_end(socket);
        assert!(found.contains(answer), "{bytes:?} is answered {found:?}");
        node.wait_log(line);
        assert_serves(&mut node);
    }
    assert_eq!(node.routes(), 0);
}

#[test]
fn what_a_peer_may_not_say_ends_the_route() {
    let mut node = start(Kind::Core).named("c").run();
    for ((bytes, answer, line), number) in [
        ("RMSG $G a\r\n", "", "processRoutedMsgArgs Parse Error"),
        ("RMSG $G a 12x\r\n", "", "processRoutedMsgArgs Bad or Missing Size"),
        ("RMSG $G a 999999999\r\n", "Maximum Payload Violation", "maximum payload exceeded"),
        ("HMSG $G a 5 2\r\n", "", "Header Size larger then TotalSize"),
        ("RS+ $G\r\n", "", "processRemoteSub Parse Error"),
        ("RS- \r\n", "", "processRemoteUnsub Parse Error"),
        ("-ERR 'leave us'\r\n", "", "Route Error 'leave us'"),
    ]
    .into_iter()
    .zip(0..)
    {
        let mut socket = peer(&node, number);
        send(&mut socket, bytes.as_bytes());
        let found = wait_end(socket);
        assert!(found.contains(answer), "{bytes:?} is answered {found:?}");
        node.wait_log(line);
        assert_serves(&mut node);
    }
    assert_eq!(node.routes(), 0);
}

/// Random bytes, and random pieces of what routes say, behind a good and behind no introduction.
#[test]
fn garbage_is_survived() {
    const PIECES: [&str; 16] = [
        "RMSG $G a 1\r\nx\r\n",
        "RMSG $G a.b + r q 2\r\nxy\r\n",
        "RMSG ",
        "RS+ $G a\r\n",
        "RS+ $G a q 4294967296\r\n",
        "RS- $G a\r\n",
        "LS+ o $G a\r\n",
        "LS-  $G a\r\n",
        "LMSG o $G a 0 1\r\nx\r\n",
        "HMSG $G a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        "A+ b\r\n",
        "PING\r\n",
        "PONG\r\n",
        "INFO {\"server_id\":\"NY\",\"ip\":\"nats-route://127.0.0.1:1/\"}\r\n",
        "\r\n",
        "+OK\r\n",
    ];
    let mut node = start(Kind::Core).named("c").run();
    let mut random = Random::new(7);
    let mut peer_count = 0;
    for round in 0..300 {
        let mut socket = if round % 2 == 0 { peer(&node, round) } else { stranger(&node) };
        peer_count += (round + 1) % 2;
        let mut bytes = Vec::new();
        for _ in 0..random.below(200) {
            if random.below(10) == 0 {
                bytes.push(u8::try_from(random.below(256)).unwrap());
            } else {
                let at = usize::try_from(random.below(PIECES.len() as u64)).unwrap();
                bytes.extend_from_slice(PIECES[at].as_bytes());
            }
        }
        send(&mut socket, &bytes);
        // It reads all of it, or hangs up.
        let _ = socket.shutdown(Shutdown::Write);
        wait_end(socket);
    }
    assert_serves(&mut node);
    // Garbage came from peers, not from strangers only.
    node.wait_log_times("Registering remote route \"NX", usize::try_from(peer_count).unwrap());
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

/// A peer that promises much and sends little, many times, takes no memory; a line without an end
/// is cut off.
#[test]
fn promises_take_no_memory() {
    let mut node = start(Kind::Core).named("c").run();
    assert_serves(&mut node);
    let before = node.resident_bytes();
    let mut sockets: Vec<TcpStream> = (0..100).map(|number| peer(&node, number)).collect();
    for socket in &mut sockets {
        send(socket, b"RMSG $G a 60000000\r\nonly this");
    }
    assert_serves(&mut node);
    drop(sockets);
    for _ in 0..20 {
        let mut socket = stranger(&node);
        send(&mut socket, &[b"CONNECT ", &vec![b'x'; 2 << 20][..]].concat());
        wait_end(socket);
    }
    node.wait_log_times("maximum control line exceeded", 20);
    assert_serves(&mut node);
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

#[test]
fn who_does_not_introduce_itself_to_a_guarded_port_is_shown_out() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let text = "cluster { authorization { user: u, password: p, timeout: 0.2 } }\n";
    std::fs::write(config.path(), text).unwrap();
    let path = config.path().display().to_string();
    let mut node = start(Kind::Core).user("u:p").with(&["-c", &path]).run();
    let silent = stranger(&node);
    assert!(wait_end(silent).contains("Authentication Timeout"));
    for bytes in ["PING\r\n", "RS+ $G >\r\n", "INFO {}\r\n"] {
        let mut socket = stranger(&node);
        send(&mut socket, bytes.as_bytes());
        assert!(wait_end(socket).contains("Authorization Violation"), "{bytes:?}");
    }
    assert_serves(&mut node);
}
