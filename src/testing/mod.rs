//! Fakes and the simulated group: small, always built.
//!
//! A whole active/standby group runs in one thread, from one seed: real engines, a shared store
//! that loses what was not synced, wires with delay, members that are killed and paused.

pub mod bus;
pub mod checker;
pub mod disk;
pub mod group;
pub mod member;
pub mod shared_store;
pub mod workload;
