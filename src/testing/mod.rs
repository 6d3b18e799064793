//! Fakes and the simulated group: small, always built.
//!
//! A whole active/standby group runs, one thread at a time, from one seed: real brokers, routes,
//! engines, engine drivers, store workers and file stores, over a disk that loses what was not
//! synced, locks, wires with delay, and members that are killed, paused and cut off before any
//! operation.
//!
//! Reading order: `plan` and `group` (the run), `baton` (its threads), `process` (one member),
//! `memory_disk`, `harm`, `leases`, `wires`, `faults`, `limits`, `workload`, `parcels`, `chatter`,
//! `nonsense`, `operator`, `checker`, `campaign` (many seeds, and one made small). `disk` is for
//! tests of the file store alone.

pub mod baton;
pub mod campaign;
pub mod chatter;
pub mod checker;
pub mod disk;
pub mod faults;
pub mod group;
pub mod harm;
pub mod leases;
pub mod limits;
pub mod memory_disk;
pub mod nonsense;
pub mod operator;
pub mod parcels;
pub mod plan;
pub mod process;
pub mod trace;
pub mod wires;
pub mod workload;
