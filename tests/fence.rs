//! Doubt about who is active, with the real binary and its real file lock: never both are.
//!
//! More rounds: `tests/run --full fence`.

#[path = "../examples/fence/trials/mod.rs"]
mod trials;

#[path = "support/left_out.rs"]
mod left_out;

use std::path::PathBuf;

use self::trials::drill::DrillError;
use self::trials::{Doubt, Findings};

fn check(
    trial: impl FnOnce(&trials::drill::Plan, &std::path::Path) -> Result<Findings, DrillError>,
) -> Result<(), DrillError> {
    let folder = tempfile::tempdir().map_err(DrillError::io("cannot make a folder"))?;
    let plan = trials::plan(server());
    let findings = trial(&plan, folder.path())?;
    assert!(findings.faults.is_empty(), "{findings:#?}");
    assert!(findings.stored > 0);
    Ok(())
}

/// Whether there can be mount namespaces; if not, that is said in the last line.
fn can_blind() -> Result<bool, DrillError> {
    let folder = tempfile::tempdir().map_err(DrillError::io("cannot make a folder"))?;
    let why_not = trials::why_not_blinded(folder.path());
    if why_not.is_some() {
        left_out::note("mount namespaces");
    }
    Ok(why_not.is_none())
}

/// The binary under test: what cargo built for it, or what `STANBY_BIN` names.
fn server() -> PathBuf {
    let named = std::env::var_os("STANBY_BIN").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_stanby")))
}

#[test]
fn a_paused_active_is_replaced_and_comes_back_as_a_standby() -> Result<(), DrillError> {
    check(|plan, folder| trials::run(Doubt::Paused, 2, plan, folder))
}

#[test]
fn a_paused_active_says_nothing_late() -> Result<(), DrillError> {
    check(|plan, folder| trials::run_witness(Doubt::Paused, plan, folder))
}

#[test]
fn of_two_that_hold_the_lock_only_the_later_one_commits() -> Result<(), DrillError> {
    if can_blind()? {
        check(|plan, folder| trials::run(Doubt::Blinded, 1, plan, folder))?;
    }
    Ok(())
}

#[test]
fn of_two_that_hold_the_lock_the_earlier_one_falls_silent() -> Result<(), DrillError> {
    if can_blind()? {
        check(|plan, folder| trials::run_witness(Doubt::Blinded, plan, folder))?;
    }
    Ok(())
}

#[test]
fn a_removed_lock_file_changes_no_role() -> Result<(), DrillError> {
    check(|plan, folder| trials::run(Doubt::LockRemoved, 2, plan, folder))
}

#[test]
fn a_replaced_lock_file_changes_no_role() -> Result<(), DrillError> {
    check(|plan, folder| trials::run(Doubt::LockReplaced, 2, plan, folder))
}

#[test]
fn an_active_without_its_lock_steps_down_and_service_resumes() -> Result<(), DrillError> {
    check(|plan, folder| trials::run(Doubt::LockUsurped, 1, plan, folder))
}
