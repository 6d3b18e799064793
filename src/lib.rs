//! stanby: a fault-tolerant NATS Streaming server.

pub mod base;
pub mod broker;
pub mod election;
pub mod engine;
pub mod net;
pub mod proto;
pub mod store;
