//! Scripted failover testing: a scenario becomes a plan, what clients were told becomes a verdict.
//!
//! Logic: `scenario`, `step`, `expectation` (text to plan), `ledger`, `tally`, `verdict` (what
//! clients were told, and what is wrong with it), `report` (that as a table, JSON, JUnit or a
//! page). Shell: `process`, `members`, `external`, `watch`, `load`, `relay`, `disk`, `by_hand`
//! (programs, sockets, files),
//! and `course`, which does one step after the other; `patience` ends each of their waits. It knows
//! servers as processes and addresses only, so any server that speaks the protocol can be drilled.

mod attached;
mod by_hand;
pub(crate) mod course;
mod database;
mod disk;
mod error;
pub(crate) mod expectation;
mod external;
mod group;
pub(crate) mod ledger;
mod load;
mod members;
mod patience;
mod process;
mod relay;
pub(crate) mod report;
pub(crate) mod scenario;
pub(crate) mod shipped;
pub(crate) mod step;
mod tally;
pub(crate) mod verdict;
mod watch;

pub(crate) use self::error::DrillError;

/// Whether a text is a scenario, and its parts fit together.
///
/// # Errors
/// The first thing that is wrong with it, and where.
pub fn check(text: &str) -> Result<(), String> {
    let scenario = scenario::parse(text).map_err(|error| error.to_string())?;
    scenario.check().map_err(|error| error.to_string())
}
