//! What stands in the log with `-DV` about each connection, held against the reference.
//!
//! `tests/data/log_lines.jsonl` has, for each connection, what was said on it and what the Go
//! server answered and logged.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde::Deserialize;

use crate::server::{Launch, PATIENCE, Server, wait_for};

/// Between two parts of what a connection says: what was read in one go is told by its place in it.
const PAUSE: Duration = Duration::from_millis(60);

/// One connection to the reference. Each letter of what was sent and answered stands for a byte.
#[derive(Deserialize)]
struct Recorded {
    config: String,
    send: Vec<String>,
    answer: String,
    /// Whether the server closed it.
    end: String,
    lines: Vec<String>,
}

fn configuration(name: &str) -> &'static str {
    match name {
        "plain" => "",
        "short" => "max_traced_msg_len: 5",
        "auth" => {
            "authorization { users: [{user: a, password: \"se cret\"}, {user: b, password: x, \
             permissions: {publish: ok, subscribe: {deny: \"no\"}}}] }"
        }
        "limits" => {
            "max_payload: 10, max_control_line: 512, max_subscriptions: 3, max_sub_tokens: 5"
        }
        _ => unreachable!("a row with the configuration {name}"),
    }
}

fn recorded() -> Vec<Recorded> {
    let text = include_str!("../data/log_lines.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}

/// What a connection says and hears: its number, the answer, and whether it was closed.
fn play(server: &Server, row: &Recorded) -> (u64, Vec<u8>, bool) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.launch.port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut heard, mut byte) = (Vec::new(), [0]);
    while !heard.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).unwrap();
        heard.push(byte[0]);
    }
    let info: serde_json::Value = serde_json::from_slice(&heard[5..]).unwrap();
    for (index, part) in row.send.iter().enumerate() {
        if index > 0 {
            std::thread::park_timeout(PAUSE);
        }
        // Who was closed meanwhile finds it out below.
        let _ = stream.write_all(&bytes(part));
    }
    let (mut answer, wanted) = (Vec::new(), bytes(&row.answer));
    let is_closed = loop {
        if row.end == "open" && wanted.len() <= answer.len() {
            break false;
        }
        match stream.read(&mut byte) {
            Ok(1..) => answer.push(byte[0]),
            Ok(0) => break true,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break true,
            Err(error) => panic!("{error}; heard {:?}", String::from_utf8_lossy(&answer)),
        }
    };
    (info["client_id"].as_u64().unwrap(), answer, is_closed)
}

/// `[ERR] text` by the number of the connection. Interests end in no certain order there.
fn lines_by_connection(log: &str) -> BTreeMap<u64, Vec<String>> {
    let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in log.lines() {
        let Some((head, rest)) = line.split_once(" - cid:") else { continue };
        let (number, text) = rest.split_once(" - ").unwrap();
        let level = head.split_whitespace().find(|word| word.starts_with('[') && word.len() == 5);
        let line = format!("{} {text}", level.unwrap());
        found.entry(number.parse().unwrap()).or_default().push(line);
    }
    found
}

fn in_order(mut lines: Vec<String>) -> Vec<String> {
    for run in lines.chunk_by_mut(|a, b| a.contains("[DELSUB") && b.contains("[DELSUB")) {
        run.sort();
    }
    lines
}

/// Goal: who reads the log, or searches it, finds for whatever a stranger says the lines that the
/// Go server writes: trace, debugging and errors, with what was not understood.
#[test]
fn what_a_stranger_says_is_logged_as_by_the_reference() {
    let mut wrong = Vec::new();
    for name in ["plain", "short", "auth", "limits"] {
        let text = format!("logtime: false, debug: true, trace: true\n{}\n", configuration(name));
        // With one loop the lines stand in the order in which things happened.
        let server = Launch::core(&[]).config(&text).loops(1).start();
        let rows: Vec<Recorded> = recorded().into_iter().filter(|row| row.config == name).collect();
        assert!(rows.len() > 3, "{name}");
        let played: Vec<_> = rows.iter().map(|row| play(&server, row)).collect();
        let is_told = |log: &str| {
            let found = lines_by_connection(log);
            let is_whole = |(row, (number, ..)): (&Recorded, &(u64, _, _))| {
                found.get(number).is_some_and(|lines| row.lines.len() <= lines.len())
            };
            rows.iter().zip(&played).filter(|pair| is_whole(*pair)).count() == rows.len()
        };
        // Lines that are missing are told below, each with what was said.
        let begun = std::time::Instant::now();
        wait_for("the lines", || {
            let is_late = begun.elapsed() > PATIENCE / 10;
            (is_late || is_told(&server.log.text())).then_some(())
        });
        let mut found = lines_by_connection(&server.log.text());
        for (row, (number, answer, is_closed)) in rows.into_iter().zip(played) {
            let lines = in_order(found.remove(&number).unwrap_or_default());
            let expected = in_order(row.lines);
            let is_same = answer == bytes(&row.answer) && is_closed == (row.end == "eof");
            if !is_same || lines != expected {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                wrong.push(format!("{:?}: {answer:?}, {lines:#?}, not {expected:#?}", row.send));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ, such as\n{}", wrong.len(), wrong[0]);
}
