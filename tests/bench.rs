//! `stanby bench` by the real binary: each kind of work, servers side by side, and what is refused.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/server.rs"]
mod server;
#[path = "support/wire.rs"]
mod wire;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::server::{Launch, Server, binary, wait_for};

fn bench(words: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("bench").args(words).stdin(Stdio::null());
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CONTEXT", "HOME"] {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// What a run against a server has measured.
fn measured(server: &Server, words: &str) -> Value {
    let address = server.address();
    let pid = server.pid().to_string();
    let place = ["--server", &address, "--pid", &pid, "--json"];
    let words: Vec<&str> = words.split(' ').chain(place).collect();
    let output = bench(&words);
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn counted(found: &Value, side: &str, messages: u64) {
    assert_eq!(found[side]["messages"], messages, "{found}");
    assert_eq!(found[side]["failed"], 0, "{found}");
    assert!(0.0 < found[side]["per_second"].as_f64().unwrap(), "{found}");
}

/// As [`counted`], where what comes with the last one counts too.
#[track_caller]
fn counted_about(found: &Value, side: &str, messages: u64) {
    let count = found[side]["messages"].as_u64().unwrap();
    assert!((messages..messages + 1_000).contains(&count), "{found}");
}

#[test]
fn channels_are_measured_both_ways() {
    let launch = Launch::new(&[]).file_store(None);
    let server = launch.start();
    let found = measured(&server, "streaming -n 3000 -p 2 --channels 3 --subscribers 2");
    counted(&found, "published", 3_000);
    counted(&found, "received", 6_000);
    for side in ["published", "received"] {
        assert!(found[side]["latency_microseconds"]["p99"].is_number(), "{found}");
    }
    assert!(found["server_cpu_seconds"].is_number() && found["server_memory_bytes"].is_number());
    let found = measured(&server, "streaming -n 500 --queue-members 3 --subject shared");
    counted(&found, "published", 500);
    counted(&found, "received", 500);
    // Payloads without room for a time, and one at a time.
    let found =
        measured(&server, "streaming -n 50 --in-flight 1 --size 0 --subscribers 1 --subject bare");
    counted(&found, "received", 50);
    assert_eq!(found["received"]["latency_microseconds"], serde_json::json!({}));
    let found =
        measured(&server, "streaming -p 0 --subscribers 1 --replay -n 500 --subject shared");
    counted(&found, "received", 500);
    // What comes of the first channel while the second one is subscribed to counts.
    let found = measured(&server, "streaming -p 0 --channels 3 --subscribers 2 --replay -n 3000");
    counted_about(&found, "received", 6_000);
    // Every client and every message is one that the server has seen.
    assert_eq!(server.json("/streaming/serverz")["clients"], 0);
    assert_eq!(server.json("/streaming/serverz")["total_msgs"], 3_550);
}

/// Goal: who waits for a server that refuses everything is told so, however much there is to do.
#[test]
fn a_server_that_takes_nothing_is_not_waited_for() {
    let server = Launch::new(&["-max_channels", "1"]).start();
    counted(&measured(&server, "streaming -n 5 --subject first"), "published", 5);
    let (address, all) = (server.address(), u64::MAX.to_string());
    let words = ["streaming", "-n", &all, "--subject", "second", "--server", &address];
    let output = bench(&words);
    let said = text(&output);
    let is_told = said.contains("the server refuses every message, ")
        && said.contains(" until now: too many channels");
    assert!(!output.status.success() && is_told, "{said}");
}

#[test]
fn plain_subjects_and_questions_are_measured() {
    let server = Launch::new(&[]).start();
    let found = measured(&server, "core -n 5000 --subscribers 2 --size 16");
    counted(&found, "published", 5_000);
    counted(&found, "received", 10_000);
    let found = measured(&server, "request -n 500 --in-flight 4 --queue-members 2");
    counted(&found, "published", 500);
    assert!(found["received"].is_null(), "{found}");
}

/// Goal: a command that starts the server by another program leaves it no more than one of its own.
#[test]
fn a_wrapped_server_is_ended_too() {
    let folder = tempfile::tempdir().unwrap();
    let (pid, script) = (folder.path().join("pid"), folder.path().join("start"));
    let stanby = binary().display().to_string();
    let lines = format!("#!/bin/sh\n{stanby} -p $1 -P {}\ntrue\n", pid.display());
    fs::write(&script, lines).unwrap();
    let with = format!("wrapped=sh {} {{port}}", script.display());
    let output = bench(&["streaming", "-n", "10", "--pairs", "1", "--with", &with]);
    assert!(output.status.success(), "{}", text(&output));
    let left = fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse().ok());
    // It is nobody's child any more, so nobody says when it is gone.
    let is_gone = |pid| kill(Pid::from_raw(pid), None).is_err().then_some(());
    wait_for("its end", || left.map_or(Some(()), is_gone));
}

/// Goal: a server that falls behind is seen to, because messages count from when they were due.
#[test]
fn a_given_rate_is_kept_and_latencies_count_from_when_messages_are_due() {
    let server = Launch::new(&[]).start();
    let found = measured(&server, "streaming -n 400 --rate 2000 --subscribers 1");
    counted(&found, "received", 400);
    let seconds = found["published"]["seconds"].as_f64().unwrap();
    assert!(0.19 < seconds, "the last one is due after 199.5 ms: {found}");
    // One that is stopped for a while: all that was due meanwhile waited, and not only one.
    let address = server.address();
    let words = ["streaming", "-n", "3000", "--rate", "1000", "--json", "--server", &address];
    let mut command = Command::new(binary());
    let child = command.arg("bench").args(words).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("some of it", || (450 < total(&server)).then_some(()));
    server.signal(Signal::SIGSTOP);
    let began = std::time::Instant::now();
    wait_for("a while", || (1_000 < began.elapsed().as_millis()).then_some(()));
    server.signal(Signal::SIGCONT);
    let output = child.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let p90 = found["published"]["latency_microseconds"]["p90"].as_f64().unwrap();
    assert!(100_000.0 < p90, "{found}");
}

fn total(server: &Server) -> u64 {
    server.json("/streaming/serverz")["total_msgs"].as_u64().unwrap()
}

#[test]
fn servers_are_started_measured_and_ended_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let stanby = binary().display().to_string();
    let with = |name: &str, store: &str| format!("{name}={stanby} -p {{port}} -m {{http}} {store}");
    let (one, other) = (with("memory", "-store memory"), with("file", "-store file -dir {dir}"));
    let (csv, svg, stores) = (path("a.csv"), path("a.svg"), path(""));
    let mut words =
        vec!["streaming", "-n", "300", "--pairs", "2", "--with", &one, "--with", &other];
    words.extend(["--csv", &csv, "--svg", &svg, "--folder", &stores]);
    let output = bench(&words);
    assert!(output.status.success(), "{}", text(&output));
    let shown = text(&output);
    assert!(shown.contains("file/memory") && shown.contains("start to ready (ms)"), "{shown}");
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 5);
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg"));
    // No server, store or log is left.
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "{left}");
    words.push("--json");
    let found: Value = serde_json::from_slice(&bench(&words).stdout).unwrap();
    assert_eq!(found["runs"].as_array().unwrap().len(), 4);
    assert_eq!(found["figures"]["published_per_second"]["memory"]["ratio"], 1.0);
}

#[track_caller]
fn refused(words: &[&str], part: &str) {
    let output = bench(words);
    assert!(!output.status.success(), "{words:?}: {}", text(&output));
    assert!(text(&output).contains(part), "{words:?}: {}", text(&output));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let launch = Launch::new(&[]);
    let server = launch.start();
    let address = server.address();
    refused(&["streaming", "-p", "0"], "nobody publishes and nobody subscribes");
    refused(&["streaming", "-n", "1", "-p", "2"], "fewer messages than publishers");
    refused(&["jetstream", "--subscribers", "1"], "leave --subscribers");
    refused(&["request", "--queue-members", "0"], "somebody who answers");
    refused(&["streaming", "--in-flight", "0"], "--in-flight");
    refused(&["streaming", "-n", "0"], "--messages");
    refused(&["nonsense"], "nonsense");
    refused(&["core", "--with", "a=b"], "{port}");
    refused(&["core", "--with", "a=/none/such {port}"], "cannot run /none/such");
    refused(&["core", "--with", "a=/bin/false {port}"], "it has ended");
    refused(&["core", "--with", "a=b {port}", "--csv", "/none/a.csv"], "/none/a.csv");
    refused(&["core", "-s", &address, "--pid", "0"], "no process on this machine");
    refused(&["core", "-s", &address, "--csv", "x"], "--with");
    refused(&["core", "--with", "a=b {port}", "--csv", "x", "--svg", "x"], "need a file each");
    refused(&["core", "-s", "127.0.0.1:1"], "Connection refused");
    refused(
        &["streaming", "-s", &address, "-c", "other"],
        "no streaming server of this cluster ID",
    );
    let too_long = "the server takes 1048576 (max_payload): give --size 1048576 at most";
    refused(&["core", "-s", &address, "--size", "1048577", "-n", "1"], too_long);
    refused(&["streaming", "-s", &address, "--size", "1048576"], "max_payload): give --size 1048");
    refused(&["streaming", "--subject", "a..b"], "invalid name \"a..b\"");
    refused(&["jetstream", "-s", &address], "no JetStream answers here");
}

#[test]
fn what_a_server_refuses_is_counted_with_its_words() {
    let server = Launch::new(&["-max_channels", "1"]).start();
    let found = measured(&server, "streaming -n 100 --channels 2 --in-flight 4");
    assert_eq!(
        (&found["published"]["messages"], &found["published"]["failed"]),
        (&50.into(), &50.into())
    );
    let address = server.address();
    let output = bench(&["streaming", "-n", "10", "--channels", "2", "-s", &address]);
    assert!(text(&output).contains("5 failed, the first: too many channels"), "{}", text(&output));
}

/// Somebody who takes a client and then says this.
fn peer(said: &'static [u8]) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"INFO {\"max_payload\":1048576}\r\n").unwrap();
        let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
        while lines.next().is_some_and(|line| line.unwrap() != "PING") {}
        let _ = socket.write_all(&[b"PONG\r\n", said].concat());
        // Until the other one goes.
        lines.by_ref().map_while(Result::ok).for_each(drop);
    });
    address
}

#[test]
fn a_server_that_says_nonsense_or_goes_ends_it() {
    refused(&["core", "-s", &peer(b"-ERR 'Stale Connection'\r\n"), "-n", "1000000000"], "Stale");
    refused(&["core", "-s", &peer(b"NONSENSE\r\n"), "-n", "1000000000"], "bench-");
    refused(&["core", "-s", &peer(b"MSG a 3 x\r\n"), "-n", "1000000000"], "bench-");
}

#[test]
fn an_interrupt_ends_it_and_its_servers() {
    let folder = tempfile::tempdir().unwrap();
    let stanby = binary().display().to_string();
    let with = format!("one={stanby} -p {{port}} -P {}/pid", folder.path().display());
    let stores = folder.path().display().to_string();
    let mut command = Command::new(binary());
    command.args(["bench", "streaming", "-n", "1000000000", "--with", &with, "--folder", &stores]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid: i32 = wait_for("a server", || {
        fs::read_to_string(folder.path().join("pid")).ok()?.trim().parse().ok()
    });
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(text(&output).contains("interrupted"), "{}", text(&output));
    assert!(kill(Pid::from_raw(pid), None).is_err(), "the server is left");
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name != "pid").collect();
    assert!(left.is_empty(), "{left:?}");
}
