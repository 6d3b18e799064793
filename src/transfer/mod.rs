//! From one stopped server to another: a channel that moves between two stores.
//!
//! Reading order: `place` (a store that nobody else writes to meanwhile), `channel` (what moves).

pub mod channel;
pub mod place;
