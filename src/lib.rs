//! stanby: a fault-tolerant NATS Streaming server.

pub mod base;
pub mod broker;
pub mod engine;
pub mod net;
pub mod proto;
pub mod store;
pub mod wire;
