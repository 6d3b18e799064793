//! From other systems into a store of ours: the nodes of a Raft cluster.
//!
//! The store that comes of it holds what the cluster had acknowledged: messages, clients, durables,
//! queue groups, and what was sent and not acknowledged. Sources are only read. What is decided is
//! logic (`members`, `compare`, `course`, `replay`, `in_log`, `extent`); files and stores are
//! touched by `node`, `snapshot` and `messages`.
//!
//! Reading order: `bolt`, `raft_log`, `snapshot` (what lies where), `members` (whose log counts),
//! `compare`, `course` and `whole` (whether all fits together), `replay` (what the log says),
//! `extent`, `in_log` and `messages` (what is where of a channel), `node`, `error`,
//! `cluster`.

pub mod bolt;
pub mod cluster;
pub mod compare;
pub mod course;
pub mod error;
pub mod extent;
pub mod in_log;
pub mod members;
pub mod messages;
pub mod node;
pub mod raft_log;
pub mod replay;
pub mod snapshot;
mod whole;
