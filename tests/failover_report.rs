//! Failovers under load with the real binary, by `stanby drill`: nothing acknowledged is lost,
//! stored again or turned, whatever the number of loops, and whoever is told to end says how.
//!
//! The times are a report, never asserted; many rounds: `tests/run --full failover`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/server.rs"]
mod server;

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::server::binary;

/// Rounds of each test: enough that each place is active more than once.
const ROUNDS: usize = 3;

/// What a shell shows for a process that SIGTERM ended, and the reference's exit code for it.
const TERMINATED: i32 = 143;

/// Runs one of the scenarios of `tests/drills`; all that it expects has to hold.
fn drill(scenario: &str, options: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drills").join(scenario);
    let mut command = Command::new(binary());
    command.arg("drill").arg(file).args(options).arg("--json").env("TMPDIR", folder.path());
    let output = command.output().unwrap();
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    let report: Value = serde_json::from_slice(&out).unwrap_or_else(|_| panic!("{err}"));
    // Shown with `--nocapture`; what went wrong is in the assertion as well.
    let _ = writeln!(io::stderr(), "{options:?}\n{}", report["found"]);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    report
}

fn check(loops: u16) {
    let (rounds, loops) = (ROUNDS.to_string(), format!("--argument=--loops={loops}"));
    let report = drill("kill.toml", &["--rounds", &rounds, &loops]);
    let kills = report["events"].as_array().unwrap().iter().filter(|it| it["disturbs"] == true);
    assert_eq!(kills.count(), ROUNDS);
}

#[test]
fn nothing_acknowledged_is_lost_with_one_loop() {
    check(1);
}

#[test]
fn nothing_acknowledged_is_lost_with_two_loops() {
    check(2);
}

#[test]
fn nothing_acknowledged_is_lost_with_four_loops() {
    check(4);
}

/// Goal: an active that is told to end syncs and releases first, and says so by its exit code.
#[test]
fn a_terminated_active_loses_nothing_and_says_so_by_its_exit_code() {
    let report = drill("term.toml", &["--rounds", "4", "--argument=--loops=2"]);
    let events = report["events"].as_array().unwrap().iter().map(|it| it["what"].as_str().unwrap());
    let ends: Vec<&str> = events.filter(|what| what.contains("had ended")).collect();
    let is_told = |end: &&str| end.ends_with(&format!("had ended: exit status: {TERMINATED}"));
    assert!(ends.len() == 4 && ends.iter().all(is_told), "{ends:?}");
}
