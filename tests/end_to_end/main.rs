//! The real binary on real sockets: what clients, operators and tools rely on, by exact answers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "../support/server.rs"]
mod server;
#[path = "../support/stan.rs"]
mod stan;
#[path = "../support/wire.rs"]
mod wire;

mod acks;
mod authentication;
mod core_limits;
mod core_protocol;
mod durables;
mod encrypted;
mod publishing;
mod queues;
mod sessions;
mod store_limits;
mod subscribing;

/// Numbers of event loops with which the heart of the protocol is tried: what is global must not
/// depend on which loop a connection or a channel belongs to.
pub const LOOPS: [u16; 3] = [1, 2, 4];
