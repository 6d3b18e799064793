//! NATS bytes to values and back.
//!
//! Knows the text protocol of clients and of routes and nothing else: who may do what is decided
//! by `broker`. Used by the server, and by everything that is a client of one.

pub mod connect;
pub mod encoder;
pub mod errors;
pub mod headers;
mod json;
pub mod op;
pub mod parser;
mod states;

pub use connect::{Connect, GLOBAL_ACCOUNT, InboxNews, InboxState, Info};
pub use errors::{CloseReason, ProtocolError};
pub use json::DocumentError;
pub use op::{EngineState, Kept, Op};
#[cfg(test)]
pub(crate) use parser::verbs;
pub use parser::{Limits, Parsed, Side, parse};

#[cfg(test)]
mod tests;
