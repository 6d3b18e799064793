//! Fail-overs under load with the real binary: nothing acknowledged is lost, doubled or reordered.
//!
//! The times are a report, never asserted; many rounds: `cargo run --example failover -- --rounds`.

#[path = "../examples/failover/drill/mod.rs"]
mod drill;

use std::io::{self, Write};
use std::path::PathBuf;

use self::drill::{DrillError, Plan};

/// Rounds of each test: enough that each place is active more than once.
const ROUNDS: usize = 3;

fn check(loops: u16) -> Result<(), DrillError> {
    let folder = tempfile::tempdir().map_err(|error| DrillError(error.to_string()))?;
    let plan = Plan {
        rounds: ROUNDS,
        loops: Some(loops),
        channels: 3,
        durables: 2,
        queue_members: 2,
        ..Plan::new(PathBuf::from(env!("CARGO_BIN_EXE_stanby")))
    };
    let report = drill::run(&plan, folder.path(), &mut |_| ())?;
    let mut text = Vec::new();
    report.write(&mut text).map_err(|error| DrillError(error.to_string()))?;
    let text = String::from_utf8_lossy(&text);
    // Shown with `--nocapture`; what went wrong is in the assertion as well.
    let _ = writeln!(io::stderr(), "{loops} loops\n{text}");
    assert!(report.is_sound(), "{text}");
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_with_one_loop() -> Result<(), DrillError> {
    check(1)
}

#[test]
fn nothing_acknowledged_is_lost_with_two_loops() -> Result<(), DrillError> {
    check(2)
}

#[test]
fn nothing_acknowledged_is_lost_with_four_loops() -> Result<(), DrillError> {
    check(4)
}
