//! The real binary on real sockets: what clients, operators and tools rely on, by exact answers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(clippy::print_stdout, reason = "figures are printed, not asserted")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "../support/server.rs"]
mod server;
#[path = "../support/stan.rs"]
mod stan;
#[path = "../support/wire.rs"]
mod wire;

mod acks;
mod authentication;
mod checked;
mod command_line;
mod core_limits;
mod core_protocol;
mod durables;
mod encrypted;
mod first_hour;
mod hindrances;
mod log_lines;
mod monitoring;
mod publishing;
mod queues;
mod sessions;
mod store_limits;
mod subscribing;
mod told;
mod wrong_door;

use server::LOOPS;
