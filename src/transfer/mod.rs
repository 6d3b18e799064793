//! From the store of one stopped server to that of another.
//!
//! Reading order: `origin` (what messages are read from), `channel` (one channel, copied and read
//! back), `places` (which two stores), `relocation` (a channel that moves), `whole` (a store that
//! is copied), `error`.

pub mod channel;
pub mod error;
pub mod origin;
mod places;
pub mod relocation;
pub mod whole;
