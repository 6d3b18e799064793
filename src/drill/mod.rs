//! Scripted failover testing: a scenario becomes a plan, what clients were told becomes a verdict.
//!
//! Logic: `scenario`, `step`, `expectation` (text to plan), `ledger`, `verdict` (what clients were
//! told, and what is wrong with it), `report` (that as a table, JSON, JUnit or a page). Shell:
//! `members`, `watch`, `load`, `relay`, `disk` (processes, sockets, files), and `course`, which
//! does one step after the other. It knows servers as processes and addresses only, so any server
//! that speaks the protocol can be drilled.

mod attached;
pub mod course;
mod database;
mod disk;
mod error;
pub mod expectation;
mod group;
pub mod ledger;
mod load;
mod members;
mod relay;
pub mod report;
pub mod scenario;
pub mod shipped;
pub mod step;
pub mod verdict;
mod watch;

pub use self::error::DrillError;
