//! Engine: handle(input, now), effects, next deadline, check_invariants

pub mod effect;
pub mod input;
pub mod request;
pub mod snapshot;

use std::time::Duration;

use crate::base::channel_limits::StoreLimits;
use crate::base::id::LoopIndex;
use crate::base::record::RecoveredChannel;
use crate::base::time::{Instant, Now};
use crate::engine::effect::Effect;
use crate::engine::input::Input;
use crate::proto::spb;

/// How the server was configured, as far as engines care; the same for all of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many engines share the channels and clients.
    pub loops: u16,
    /// Limits of the store and of each channel.
    pub limits: StoreLimits,
    /// Time between a client's heartbeats.
    pub heartbeat_interval: Duration,
    /// How long a heartbeat may stay unanswered.
    pub heartbeat_timeout: Duration,
    /// Failed heartbeats in a row that a client may have; one more closes it.
    pub heartbeat_failures_max: u32,
    /// Whether a subscribe request on an online durable replaces it.
    pub replace_durable: bool,
    /// Bytes that the longest legal inbox may have (`max_control_line` less the rest of a line).
    pub inbox_len_max: usize,
    /// Whether subscription ids are unique in the whole store (SQL) and not just in the channel.
    pub subscription_ids_store_wide: bool,
    /// Whether debug lines are logged; without it they are not even made.
    pub debug: bool,
    /// Whether trace lines are logged.
    pub trace: bool,
}

/// What one engine starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// Which engine.
    pub index: LoopIndex,
    /// The server's record: the subjects in it are the ones used.
    pub info: spb::ServerInfo,
    /// The record is new or repaired: engine 0 commits it before it serves.
    pub info_is_new: bool,
    /// All clients of the store; each engine keeps the home ones and knows the others.
    pub clients: Vec<spb::ClientInfo>,
    /// The channels of this engine.
    pub channels: Vec<RecoveredChannel>,
    /// Channels in the whole store.
    pub channel_count: u64,
    /// Highest subscription id in the whole store.
    pub subscription_id_max: u64,
    /// For inboxes and ids; another one for each engine and start.
    pub seed: u64,
}

/// The streaming engine of one loop.
pub struct Engine {}

impl Engine {
    /// An engine with what was recovered; its first effects are the interests it needs.
    #[must_use]
    pub fn recover(_settings: Settings, _start: Start, _now: Now) -> Self {
        unimplemented!()
    }

    /// Takes one input.
    pub fn handle(&mut self, _input: Input, _now: Now) {
        unimplemented!()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, _now: Now) {
        unimplemented!()
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// What the engine knows now, for monitoring.
    #[must_use]
    pub fn snapshot(&self) -> snapshot::Snapshot {
        unimplemented!()
    }

    /// The next thing that the engine asks for, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        unimplemented!()
    }
}
