//! Who knocks at the wrong door: what each port answers and logs, held against the reference.
//!
//! `tests/data/wrong_door.jsonl` has, for each port with and without TLS and for each beginning,
//! what the Go server answered and logged.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde::Deserialize;
use socket2::SockRef;

use crate::server::{Launch, PATIENCE, Server, free_port, wait_for};

/// A stranger that is not closed leaves by itself after this time.
const STAY: Duration = Duration::from_millis(150);

/// One stranger. Each letter of what was sent and answered stands for a byte.
#[derive(Deserialize)]
struct Recorded {
    tls: bool,
    port: String,
    send: String,
    /// How it leaves, if it is not closed: `close` or `reset`.
    act: String,
    answer: String,
    /// Whether the server closed it.
    end: String,
    lines: Vec<String>,
}

fn recorded() -> Vec<Recorded> {
    let text = include_str!("../data/wrong_door.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A server whose three ports have TLS, or not; and its port for routes.
fn start(has_tls: bool) -> (Server, u16) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (launch, route_port) = (Launch::core(&[]), free_port());
    let path = |name: &str| launch.folder().join(name).display().to_string();
    fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let files = format!("cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{cert}\"");
    let tls = format!("tls {{ {files}, timeout: 20 }}");
    let tls = if has_tls { tls } else { String::new() };
    let text = format!(
        "logtime: false\n{tls}\ncluster {{ name: X, listen: \"127.0.0.1:{route_port}\", \
         {tls} }}\n"
    );
    let pages_port = launch.http.to_string();
    let launch = launch.config(&text).loops(1);
    let launch =
        if has_tls { launch.arg("-m").arg("0").arg("-ms").arg(pages_port) } else { launch };
    let server = launch.start();
    (server, route_port)
}

/// What a stranger hears, and whether it was closed.
fn knock(port: u16, row: &Recorded) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (mut heard, mut byte) = (Vec::new(), [0]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Clients and, without TLS, routes are greeted.
    if row.port == "client" {
        while !heard.ends_with(b"\r\n") {
            stream.read_exact(&mut byte).unwrap();
            heard.push(byte[0]);
        }
        heard.clear();
    }
    let _ = stream.write_all(
        &row.send
            .chars()
            .map(|letter| u8::try_from(u32::from(letter)).unwrap())
            .collect::<Vec<_>>(),
    );
    let begun = Instant::now();
    let is_closed = row.act == "close"
        && loop {
            let wait = if row.end == "eof" { PATIENCE } else { STAY };
            let left = wait.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left)).unwrap();
            match stream.read(&mut byte) {
                Ok(1..) => heard.push(byte[0]),
                Ok(0) => break true,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break true,
                Err(_) => break false,
            }
        };
    if row.act == "reset" {
        std::thread::park_timeout(STAY);
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    (heard, is_closed)
}

/// Lines about one stranger without what is another each time.
fn shown(line: &str) -> Option<String> {
    let (_, line) = line.split_once("] [")?;
    let is_shown = line.starts_with("ERR]") || line.starts_with("INF]");
    let words = line.split(' ').map(|word| match word.split_once("127.0.0.1:") {
        _ if word.starts_with("cid:") || word.starts_with("rid:") => format!("{}:N", &word[..3]),
        Some(("", rest)) if rest.contains("->") => "ADDR->ADDR:".to_owned(),
        Some(("", rest)) if rest.ends_with(':') => "ADDR:".to_owned(),
        Some(("", _)) => "ADDR".to_owned(),
        _ => word.to_owned(),
    });
    is_shown.then(|| format!("[{}", words.collect::<Vec<_>>().join(" ")))
}

/// What was answered, but for the document of INFO and, over TLS, for an alert: which of them tells
/// best what is wrong is the library's to say, and whether it says it.
fn answer_of(heard: &[u8]) -> String {
    let text = letters(heard);
    match text.split_once("\r\n") {
        Some((first, rest)) if first.starts_with("INFO {") => format!("INFO\r\n{rest}"),
        _ if heard.first() == Some(&21) => "alert".to_owned(),
        _ => text,
    }
}

/// Goal: a scraper with the wrong scheme, a load balancer's check and a scanner are told what the
/// Go server tells them, and the operator sees in the log who it was and why it failed.
#[test]
fn who_knocks_at_the_wrong_door_is_told_as_by_the_reference() {
    let mut wrong = Vec::new();
    for has_tls in [true, false] {
        let (server, route_port) = start(has_tls);
        for row in recorded().into_iter().filter(|row| row.tls == has_tls) {
            let port = match row.port.as_str() {
                "client" => server.launch.port,
                "monitor" => server.launch.http,
                _ => route_port,
            };
            let before = server.log.len();
            let (heard, is_closed) = knock(port, &row);
            let told = || {
                let text = server.log.text();
                text.lines().skip(before).filter_map(shown).collect::<Vec<_>>()
            };
            let begun = Instant::now();
            wait_for("lines", || {
                let is_late = begun.elapsed() > PATIENCE / 10;
                (is_late || row.lines.len() <= told().len()).then_some(())
            });
            let (found, expected) = (answer_of(&heard), answer_of(&bytes_of(&row.answer)));
            let (lines, is_eof) = (told(), row.end == "eof");
            let is_answered =
                found == expected || (expected.as_str(), found.as_str()) == ("alert", "");
            if !is_answered || lines != row.lines || is_closed != is_eof {
                let row = (&row.port, row.tls, &row.send, &row.act, expected, &row.lines, is_eof);
                wrong.push(format!("{row:?}: {found:?}, {lines:?}, {is_closed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}
