//! `stanby check --lock`: what it says of directories and databases, with another machine too.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/databases.rs"]
mod databases;
#[path = "lock_trial/of_databases.rs"]
mod of_databases;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use stanby::election::lease::{Attempt, Lease, Owner};
use stanby::site::file_lock::FileLease;

fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stanby"));
    command.arg("check").arg(directory).arg("--lock");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Goal: a directory of this machine does, and nothing of the trial is left there.
#[test]
fn two_processes_of_this_machine_try_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path()).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for line in [
        "ok       two processes exclude each other: ",
        "ok       a killed process lets go: ",
        "ok       whose lock it is: ",
        "ok       of two that claim one epoch one has it: 50 times",
        "ok       a new epoch is seen: ",
        "ok       a write is synced: ",
        "This directory will do for a group (tried between two processes of this machine",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// Goal: what a killed trial has left the next one removes.
#[test]
fn a_killed_trial_leaves_nothing_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = command(folder.path()).stdout(Stdio::null()).spawn().unwrap();
    let is_begun = |name: &String| name.starts_with(".stanby.trial.") && name.ends_with(".lock");
    while !names(folder.path()).iter().any(is_begun) {
        assert!(killed.try_wait().unwrap().is_none(), "it has ended before it could be killed");
        thread::park_timeout(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_ne!(names(folder.path()), Vec::<String>::new());
    let output = command(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// Goal: an active server there goes on, and keeps its lock.
#[test]
fn a_server_that_runs_there_is_not_disturbed() {
    let folder = tempfile::tempdir().unwrap();
    let owner = Owner::this_process("active", Vec::new(), None);
    let mut lease = FileLease::new(folder.path(), owner, Duration::from_secs(5));
    assert!(matches!(lease.try_take().unwrap(), Attempt::Won(_)));
    lease.settle().unwrap();
    let before = names(folder.path());
    let output = command(folder.path()).arg("--json").output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["will_do"], true, "{document}");
    assert_eq!(document["steps"].as_array().unwrap().len(), 6);
    assert!(document["mount"]["kind"].is_string(), "{document}");
    lease.confirm().unwrap();
    assert_eq!(names(folder.path()), before);
}

/// The other machine, and its address.
fn listening(directory: &Path) -> (Child, String) {
    let mut command = command(directory);
    command.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().rsplit(' ').next().unwrap().to_owned();
    (child, address)
}

/// Goal: a trial with another machine takes the same steps, and both end.
#[test]
fn another_machine_takes_part() {
    let folder = tempfile::tempdir().unwrap();
    let (mut other, address) = listening(folder.path());
    let output = command(folder.path()).args(["--peer", &address]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(&format!("(tried with {address})")), "{said}");
    assert!(other.wait().unwrap().success());
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// Goal: a machine that has another directory below that name is found out.
#[test]
fn another_directory_of_the_same_name_is_seen() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut other, address) = listening(others.path());
    let output = command(ours.path()).args(["--peer", &address]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("is it another directory?"), "{said}");
    assert!(other.wait().unwrap().success());
}

/// Answers the first who connects with these bytes.
fn stranger(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(bytes).unwrap();
    });
    address
}

/// Goal: what cannot be tried is said in one line, and nothing is claimed of the directory.
#[test]
fn what_cannot_be_tried_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |directory: &Path, args: &[&str], expected: &str| {
        let output = command(directory).args(args).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{expected}\n{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    let nowhere = folder.path().join("nowhere");
    refused(&nowhere, &[], "No such file or directory");
    refused(Path::new("/proc"), &[], "/proc: ");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    refused(folder.path(), &["--peer", &closed], "does `stanby check --lock --listen` run there?");
    refused(folder.path(), &["--peer", "nonsense"], "nonsense: ");
    for bytes in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xff\n", &[b'x'; 10_000]] {
        refused(folder.path(), &["--peer", &stranger(bytes)], "127.0.0.1:");
    }
    refused(folder.path(), &["--listen", "256.0.0.1:1"], "256.0.0.1:1: ");
    let output = command(folder.path()).arg("--repair").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(names(folder.path()), Vec::<String>::new());
}
