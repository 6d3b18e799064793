//! SIGTERM to the active under load: it syncs and releases first, and nothing acknowledged is lost.
//!
//! The times are a report, never asserted; 20 rounds: `tests/run --full failover`.

#[path = "../examples/failover/drill/mod.rs"]
mod drill;

use std::io::{self, Write};
use std::path::PathBuf;

use self::drill::{DrillError, Ending, Plan};

/// What a shell shows for a process that SIGTERM ended, and the reference's exit code for it.
const TERMINATED: i32 = 143;

/// The binary under test: what cargo built for it, or what `STANBY_BIN` names.
fn server() -> PathBuf {
    let named = std::env::var_os("STANBY_BIN").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_stanby")))
}

#[test]
fn a_terminated_active_loses_nothing_and_says_so_by_its_exit_code() -> Result<(), DrillError> {
    let folder = tempfile::tempdir().map_err(DrillError::io("cannot make a folder"))?;
    let plan = Plan {
        rounds: 4,
        loops: Some(2),
        channels: 3,
        durables: 2,
        queue_members: 2,
        ending: Ending::Terminate,
        ..Plan::new(server())
    };
    let report = drill::run(&plan, folder.path(), &mut |_| ())?;
    let mut text = Vec::new();
    report.write(&mut text).map_err(DrillError::io("cannot write to memory"))?;
    let text = String::from_utf8_lossy(&text);
    // Shown with `--nocapture`; what went wrong is in the assertion as well.
    let _ = writeln!(io::stderr(), "{text}");
    assert!(report.is_sound(), "{text}");
    let codes: Vec<_> = report.exits.iter().map(std::process::ExitStatus::code).collect();
    assert_eq!(codes, [Some(TERMINATED); 4]);
    Ok(())
}
