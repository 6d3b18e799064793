//! Core NATS: what closes a connection and what it says, limits, PINGs, slow readers.

use std::time::{Duration, Instant};

use crate::server::{Launch, PATIENCE, wait_for};
use crate::wire::{Conn, HEADER, Nothing, error, message, publish, publish_headers, same};

const UNKNOWN: &str = "Unknown Protocol Operation";
const TOO_LONG: &str = "maximum control line exceeded";
const TOO_LARGE: &str = "Maximum Payload Violation";

#[test]
fn wrong_operations_close_and_say_why() {
    let long = "a".repeat(4_200);
    let cases: [(&str, &str); 28] = [
        ("ZZZ\r\n", UNKNOWN),
        (" PING\r\n", UNKNOWN),
        ("\r\nPING\r\n", UNKNOWN),
        ("PUBS foo 1\r\n", UNKNOWN),
        ("SUBZZZ foo 1\r\n", UNKNOWN),
        ("SUB\r\n", UNKNOWN),
        ("PUB foo 2\r\nabc\r\n", UNKNOWN),
        ("RS+ $G foo\r\n", UNKNOWN),
        ("RMSG $G foo 1\r\nx\r\n", UNKNOWN),
        ("LS+ foo\r\n", UNKNOWN),
        ("A+ foo\r\n", UNKNOWN),
        ("MSG foo 1 1\r\nx\r\n", UNKNOWN),
        ("PUB foo\r\n", ""),
        ("PUB foo a b 1\r\n", ""),
        ("PUB foo -1\r\n", ""),
        ("PUB foo 1a\r\n", ""),
        ("PUB foo 18446744073709551615123\r\n", ""),
        ("SUB foo\r\n", ""),
        ("UNSUB 1 2 3\r\n", ""),
        ("INFO {x\r\n", ""),
        ("-ERR 'no'\r\n", ""),
        ("HPUB x 5 3\r\n", ""),
        ("PUB foo 1048577\r\n", TOO_LARGE),
        ("HPUB x 12 1048577\r\n", TOO_LARGE),
        (&format!("PUB {long} 0\r\n"), TOO_LONG),
        (&format!("CONNECT {{\"name\":\"{long}\"}}\r\n"), TOO_LONG),
        (&format!("SUB {long}"), TOO_LONG),
        ("HPUB nothing 1 1\r\n\u{7f}\r\nZ\r\n", UNKNOWN),
    ];
    let server = Launch::new(&[]).start();
    for (data, text) in cases {
        let mut conn = Conn::client(server.launch.port, "\"headers\":true");
        let wanted = if text.is_empty() { Vec::new() } else { error(text) };
        same(conn.fatal(data), wanted, &format!("{:.60}", data.trim_end()));
    }
    let mut conn = Conn::client(server.launch.port, "");
    same(conn.fatal(publish_headers("x", HEADER, b"")), b"", "HPUB without CONNECT headers");
    let mut conn = Conn::client(server.launch.port, "");
    let exact = format!("long.{}", "a".repeat(4_096 - 5 - 2));
    same(conn.ask(publish(&exact, b"")), b"", "4,096 bytes of arguments are allowed");
}

#[test]
fn configured_limits_hold() {
    let text = "max_payload: 1000\nmax_control_line: 512\nmax_sub_tokens: 8\nmax_subscriptions: 24";
    let server = Launch::new(&[]).config(text).start();
    let port = server.launch.port;
    let mut conn = Conn::client(port, "");
    let whole = [b'x'; 1_000];
    let asked = [b"SUB small 1\r\n".to_vec(), publish("small", &whole)].concat();
    same(conn.ask(asked), message("small", "1", &whole), "a payload of 1,000");
    same(conn.fatal(b"PUB small 1001\r\n"), error(TOO_LARGE), "one of 1,001");
    let line = format!("PUB {} 0\r\n", "a".repeat(512));
    same(Conn::client(port, "").fatal(line), error(TOO_LONG), "control line");
    let mut conn = Conn::client(port, "");
    same(conn.ask(b"SUB 1.2.3.4.5.6.7.8 t\r\n"), b"", "eight tokens");
    let text = "Permissions Violation for Subscription to \"1.2.3.4.5.6.7.8.9\", too many tokens";
    same(conn.ask(b"SUB 1.2.3.4.5.6.7.8.9 u\r\n"), error(text), "nine tokens");
    let many: String = (1..=24).map(|number| format!("SUB many.{number} {number}\r\n")).collect();
    same(conn.ask(many), error("maximum subscriptions exceeded"), "the 25th");
    let asked = [b"UNSUB 3\r\nSUB many.x 99\r\n".to_vec(), publish("many.x", b"")].concat();
    same(conn.ask(asked), message("many.x", "99", b""), "a freed place is used");
}

#[test]
fn a_full_server_greets_refuses_and_takes_again() {
    let server = Launch::new(&[]).config("max_connections: 12").start();
    let port = server.launch.port;
    let full = "maximum connections exceeded";
    let try_client = || {
        let mut conn = Conn::open(port);
        conn.send(b"CONNECT {\"verbose\":false}\r\nPING\r\n");
        (conn.op() == b"PONG\r\n").then_some(conn)
    };
    let mut held = Vec::new();
    while let Some(conn) = try_client() {
        held.push(conn);
        assert!(held.len() <= 12, "nobody is refused");
    }
    assert!(4 <= held.len(), "{}", held.len());
    same(Conn::open(port).until_closed(), error(full), "refused");
    held.pop();
    held.push(wait_for("a place for a new client", try_client));
}

#[test]
fn silent_clients_are_pinged_and_cut_and_busy_ones_left_alone() {
    let server = Launch::new(&[]).config("ping_interval: \"400ms\"\nping_max: 2").start();
    let mut silent = Conn::client(server.launch.port, "");
    let wanted = [b"PING\r\n".repeat(2), error("Stale Connection")].concat();
    same(silent.until_closed(), wanted, "silent");
    let mut answering = Conn::client(server.launch.port, "");
    let begun = Instant::now();
    while answering.pings < 4 {
        assert!(begun.elapsed() < PATIENCE, "{} PINGs", answering.pings);
        assert_eq!(answering.op_within(Duration::from_millis(100)), Err(Nothing::InTime));
    }
    same(answering.ask(b""), b"", "a client that answers stays");
}

/// Publishes 24 MB to a subscriber that does not read; it must be cut off and nobody else harmed.
fn choke(config: &str, reason: &str) {
    let server = Launch::new(&[]).config(config).start();
    let mut slow = Conn::narrow(server.launch.port);
    slow.connect("");
    slow.ask(b"SUB choke 1\r\n");
    let mut publisher = Conn::client(server.launch.port, "");
    for _ in 0..24 {
        publisher.send(publish("choke", &[b'x'; 1_000_000]));
    }
    publisher.ask(b"");
    wait_for("a slow consumer in /varz", || {
        (server.json("/varz")["slow_consumers"] == 1).then_some(())
    });
    slow.until_closed();
    let closed = server.json("/connz?state=closed");
    let reasons: Vec<&str> = closed["connections"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|conn| conn["reason"].as_str())
        .filter(|reason| reason.contains("Slow"))
        .collect();
    assert_eq!(reasons, [reason]);
    let mut fresh = Conn::client(server.launch.port, "");
    fresh.ask(b"SUB choke 1\r\n");
    publisher.send(publish("choke", b"on"));
    same(fresh.op(), message("choke", "1", b"on"), "after the cut");
}

#[test]
fn a_slow_reader_is_cut_at_max_pending() {
    choke("max_pending: 2MB\nwrite_deadline: \"30s\"", "Slow Consumer (Pending Bytes)");
}

#[test]
fn a_slow_reader_is_cut_at_the_write_deadline() {
    choke("write_deadline: \"500ms\"", "Slow Consumer (Write Deadline)");
}

#[test]
fn a_lame_duck_is_not_healthy() {
    let config = "lame_duck_duration: \"30s\", lame_duck_grace_period: \"20s\"\n";
    let server = Launch::core(&[]).config(config).start();
    let _client = Conn::client(server.launch.port, "");
    assert_eq!(server.get("/healthz").status, 200);
    server.signal(nix::sys::signal::Signal::SIGUSR2);
    server.log.wait("Entering lame duck mode, stop accepting new clients");
    let health = wait_for("another answer", || {
        Some(server.get("/healthz")).filter(|answer| answer.status != 200)
    });
    assert_eq!(health.status, 503);
    let expected = "failed to be ready for connections after 1ms: server";
    assert!(health.body.contains(expected), "{}", health.body);
}

#[test]
fn lame_duck_is_no_mode_of_a_streaming_server() {
    let server = Launch::new(&[]).start();
    let mut old = Conn::client(server.launch.port, "");
    server.signal(nix::sys::signal::Signal::SIGUSR2);
    same(old.ask(b""), b"", "old client");
    same(Conn::client(server.launch.port, "").ask(b""), b"", "new client");
}
