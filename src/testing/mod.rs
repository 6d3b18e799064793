//! Fakes and the simulated group: small, always built.
//!
//! A whole active/standby group runs in one thread, from one seed: real brokers, routes, engines,
//! engine drivers, store workers and file stores, over a disk that loses what was not synced,
//! locks, wires with delay, and members that are killed, paused and cut off before any operation.
//!
//! Reading order: `group` (the run), `process` (one member), `memory_disk`, `leases`, `wires`,
//! `faults`, `workload` and `checker`, `campaign` (many seeds, and one made small). `disk` is for
//! tests of the file store alone.

pub mod campaign;
pub mod checker;
pub mod disk;
pub mod faults;
pub mod group;
pub mod leases;
pub mod memory_disk;
pub mod process;
pub mod trace;
pub mod wires;
pub mod workload;
