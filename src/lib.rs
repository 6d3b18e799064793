//! stanby: a fault-tolerant NATS Streaming server.
//!
//! One process holds a core NATS server and the streaming engine on a thread-per-core event loop.
//! All processes that point at one store elect one active by an exclusive lock; the others stand
//! by and take over. The rooms, in reading order; who may import whom is a
//! table in `tests/tidy.rs`:
//!
//! | room | what it is |
//! |---|---|
//! | [`base`], [`proto`], [`log`] | words that every room shares |
//! | [`wire`] | NATS bytes to values and back |
//! | [`broker`] | core NATS as logic: who may speak, who hears it |
//! | [`engine`] | NATS Streaming as logic: clients, channels, subscriptions, redelivery |
//! | [`store`] | the durable truth: one contract, several keepers |
//! | [`election`] | who is active, as logic; the keeper of the lease |
//! | [`net`] | the only sockets: one event loop a core |
//! | [`monitor`] | HTTP for people and tools; sees snapshots and counters only |
//! | [`config`] | what the user wrote, checked and typed |
//! | [`client`] | a small streaming client |
//! | [`site`] | where the data lies: the one object that knows the kind of store; lock, epoch |
//! | [`import`] | what other systems have kept, into a store of ours |
//! | [`transfer`] | what a server has kept, into another store, a backup, lines of JSON |
//! | [`server`] | where the rooms meet |
//! | `programs` | servers that tools start: process groups, ports, logs |
//! | [`drill`] | failover by a script: members, load, what is done to them, a verdict |
//! | [`bench`](mod@bench) | load for a server of any make, and what it cost |
//! | [`cli`] | the commands a person types |
//! | [`testing`] | the simulated group |
//!
//! Absences, the sentences to keep true:
//!
//! 1. `base` (but for `base::world` and `base::files`), `wire`, `broker`, `engine` and `election`'s
//!    member read no clock, file, socket, random source or environment; logic never imports those.
//! 2. Whether data lies in memory, in files or in a database is known to `store` and `site` only
//!    (and to `config`, which reads it); what a server needs of the place is asked of one `Site`.
//! 3. Nothing is written to a store without an epoch; only a `site` makes a lease.
//! 4. No pub-ack leaves before the commit that covers it.
//! 5. No queue without a bound; no loop over peers or messages without a budget.
//! 6. No lock is shared by two rooms, but for the one around the newest snapshot.
//! 7. Logic never iterates over a hash map.
//! 8. Every text that a client, a script or a log reader may match exists once.

pub mod base;
pub mod bench;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod drill;
pub mod election;
pub mod engine;
pub mod import;
pub mod log;
pub mod monitor;
pub mod net;
mod programs;
pub mod proto;
pub mod server;
pub mod site;
pub mod store;
pub mod testing;
pub mod transfer;
pub mod wire;
