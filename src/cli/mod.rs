//! One file a command: what a person types.

pub mod connection;
pub mod publish;
pub mod subscribe;
