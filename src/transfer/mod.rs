//! From one stopped server to another: a channel that moves between two stores.

pub mod channel;
