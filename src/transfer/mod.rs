//! From one store to another, as lines of JSON, and back.
//!
//! Reading order: `origin` (what messages are read from), `channel` (one channel, copied and read
//! back), `places` (which two stores), `relocation` (a channel that moves), `store_copy` (all of a
//! store), `whole` (from another store), `backup` (from one that is served), `line`, `lines` and
//! `export` (as text, and back), `error`.

pub mod backup;
pub mod channel;
pub mod error;
pub mod export;
pub mod line;
pub mod lines;
pub mod origin;
mod places;
pub mod relocation;
pub mod store_copy;
pub mod whole;
