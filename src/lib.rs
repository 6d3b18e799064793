//! stanby: a fault-tolerant NATS Streaming server.

pub mod base;
pub mod broker;
pub mod config;
pub mod engine;
pub mod log;
pub mod net;
pub mod proto;
pub mod store;
