//! What a channel may hold: count, size, age, subscriptions, inactivity; inheritance by pattern.
//!
//! Facts: spec stores, section 9. In the values below 0 means "no limit".

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::id::ChannelName;

/// The limits of one channel, fully resolved; captured when the channel is created or recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Most messages kept; 0 = no limit.
    pub messages_max: u64,
    /// Most bytes kept, in the store's own accounting; 0 = no limit.
    pub bytes_max: u64,
    /// How long a message is kept; zero = for ever.
    pub age_max: Duration,
    /// Most subscription records; 0 = no limit.
    pub subscriptions_max: u64,
    /// How long a channel without activity and subscriptions lives; zero = for ever.
    pub inactivity_max: Duration,
}

/// What one per-channel section of the configuration says; `None` = inherit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelOverrides {
    /// See [`ChannelLimits::messages_max`].
    pub messages_max: Option<u64>,
    /// See [`ChannelLimits::bytes_max`].
    pub bytes_max: Option<u64>,
    /// See [`ChannelLimits::age_max`].
    pub age_max: Option<Duration>,
    /// See [`ChannelLimits::subscriptions_max`].
    pub subscriptions_max: Option<u64>,
    /// See [`ChannelLimits::inactivity_max`].
    pub inactivity_max: Option<Duration>,
}

/// The limits of a whole store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most channels; 0 = no limit.
    pub channels_max: u64,
    /// For channels that no pattern matches, and what patterns inherit from.
    pub global: ChannelLimits,
    /// By literal name or pattern with `*` and `>`.
    pub per_channel: BTreeMap<ChannelName, ChannelOverrides>,
}

impl Default for StoreLimits {
    /// The reference's defaults (spec protocol, section 20).
    fn default() -> Self {
        Self {
            channels_max: 100,
            global: ChannelLimits {
                messages_max: 1_000_000,
                bytes_max: 1_024_000_000,
                age_max: Duration::ZERO,
                subscriptions_max: 1_000,
                inactivity_max: Duration::ZERO,
            },
            per_channel: BTreeMap::new(),
        }
    }
}
