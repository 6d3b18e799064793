//! Load for a server of any make, and what it cost: rates, latencies, CPU and memory.
//!
//! Each publisher and subscriber is a thread with a socket of its own that waits for nothing but
//! the server: what is sent is a frame made once, of which only a number and a time differ, and
//! what comes is read where it lies. With a rate given, a message counts from when it was due and
//! not from when there was room for it, so that a server that stops for a second is seen to have
//! stopped (no coordinated omission).

pub(crate) mod compare;
pub(crate) mod connection;
pub mod fields;
pub(crate) mod frame;
pub(crate) mod jetstream;
pub(crate) mod plan;
pub(crate) mod publisher;
pub(crate) mod ratios;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod streaming;
pub(crate) mod subscriber;
pub(crate) mod usage;

use std::io;

use crate::client::ClientError;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The numbers do not fit together.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// The server could not be reached, or has refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server has ended a connection, or said why it will.
    #[error("{who}: {reason}")]
    Ended {
        /// Which of our connections.
        who: String,
        /// What the server said last.
        reason: String,
    },
    /// The server has answered a request with an error, or not at all.
    #[error("{request}: {reason}")]
    Refused {
        /// What was asked for.
        request: &'static str,
        /// Its words.
        reason: String,
    },
    /// The server would take no message.
    #[error(
        "each message would have {len} bytes with what a client adds, and the server takes {max} \
         (max_payload): give --size {size_max} at most, or have it take more"
    )]
    TooLong {
        /// Of a message, with what a client adds.
        len: usize,
        /// That the server takes.
        max: usize,
        /// The longest payload that it would take.
        size_max: usize,
    },
    /// The server takes no message at all.
    #[error("the server refuses every message, {count} until now: {reason}")]
    TakesNothing {
        /// Answers, each of them an error.
        count: u64,
        /// The first of them.
        reason: String,
    },
    /// Nothing came for a long time.
    #[error("nothing came for {seconds} s: {done}{} {what}", of_so_many(*.wanted))]
    Stalled {
        /// So long.
        seconds: u64,
        /// So far.
        done: u64,
        /// Of so many; none where nobody knows how many there will be.
        wanted: Option<u64>,
        /// Acknowledgements or deliveries.
        what: &'static str,
    },
    /// A process was named that is none.
    #[error("no process on this machine has the number of --pid")]
    NoProcess,
    /// Somebody has ended it.
    #[error("interrupted")]
    Interrupted,
    /// The machine.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl BenchError {
    /// For `map_err`.
    pub fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// For a text that begins with what was done of them.
fn of_so_many(wanted: Option<u64>) -> String {
    wanted.map_or_else(String::new, |wanted| format!(" of {wanted}"))
}
