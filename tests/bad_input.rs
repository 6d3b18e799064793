//! Bad input of every kind: a clear no, nobody else disturbed, nothing acknowledged lost.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "bad_input/bytes.rs"]
mod bytes_on_ports;
#[path = "bad_input/directories.rs"]
mod directories;
#[path = "bad_input/full_disk.rs"]
mod full_disk;
#[path = "support/left_out.rs"]
mod left_out;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;
