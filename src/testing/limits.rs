//! What the operator of a simulated group has limited, and what a checker may not expect then.

use std::time::Duration;

use crate::base::channel_limits::{ChannelOverrides, ResolvedLimits, StoreLimits};
use crate::base::delivery_policy::{Policies, PolicyOverrides};
use crate::base::id::ChannelName;
use crate::testing::workload::CHANNELS;

/// A channel of few subscriptions, which nobody reads at the end.
pub const CROWDED: &str = "few";
/// A channel whose messages are acknowledged by nobody, and where they go then.
pub const POISON: &str = "poison";
/// Where dead letters go.
pub const DEAD_LETTERS: &str = "graves";
/// How often a message of it is delivered at most.
const DELIVERIES_MAX: u32 = 3;
/// Before each further one, in milliseconds.
const WAITS: [u64; 2] = [400, 1_300];
/// What is older is not delivered, in the channel of few subscriptions.
const TTL: Duration = Duration::from_secs(2);
/// Where nothing is stored twice, though clients try again.
const ONCE: &str = "orders";
/// A channel that an operator deletes at times, with all that is in it.
pub const DROPPED: &str = "dropped";
/// Channels that go when nobody uses them begin so.
pub const PASSING: &str = "passing.";

/// How much of a channel stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Everything, for ever.
    All,
    /// The newest messages, so many.
    Newest(u64),
    /// Some of the newest messages.
    Some,
}

/// Limits of every kind, and channels without any beside them.
#[must_use]
pub fn tight() -> StoreLimits {
    let none = ChannelOverrides::default;
    let sections = [
        ("Jobs", ChannelOverrides { messages_max: Some(20), ..none() }),
        ("events.us", ChannelOverrides { bytes_max: Some(2_000), ..none() }),
        ("late", ChannelOverrides { age_max: Some(Duration::from_secs(3)), ..none() }),
        (CROWDED, ChannelOverrides { subscriptions_max: Some(2), ..none() }),
        (POISON, none()),
        (ONCE, none()),
        (
            "passing.*",
            ChannelOverrides { inactivity_max: Some(Duration::from_millis(500)), ..none() },
        ),
    ];
    let policy = PolicyOverrides {
        deliveries_max: Some(DELIVERIES_MAX),
        dead_letter: Some(ChannelName::from(DEAD_LETTERS)),
        back_off: Some(WAITS.map(Duration::from_millis).to_vec()),
        redelivered_max: Some(8),
        ..PolicyOverrides::default()
    };
    let short_lived = PolicyOverrides { ttl: Some(TTL), ..PolicyOverrides::default() };
    let window = Some(Duration::from_secs(24 * 3_600));
    let once = PolicyOverrides { dedup_window: window, ..PolicyOverrides::default() };
    let policies = Policies {
        per_channel: [
            (ChannelName::from(POISON), policy),
            (ChannelName::from(CROWDED), short_lived),
            (ChannelName::from(ONCE), once),
        ]
        .into(),
        ..Policies::default()
    };
    StoreLimits {
        channels_max: CHANNELS.len() as u64 + 7,
        policies,
        per_channel: sections.map(|(name, limits)| (ChannelName::from(name), limits)).into(),
        ..StoreLimits::default()
    }
}

/// How much of a channel stays under these limits.
#[must_use]
pub fn kept(limits: &ResolvedLimits, channel: &ChannelName) -> Kept {
    let (usual, of_channel) = (StoreLimits::default().global, limits.of(channel));
    if channel.as_bytes() == DROPPED.as_bytes() {
        return Kept::Some;
    }
    // What is a dead letter, or too old, is with its subscriber no longer, who is not told.
    let has_policy = limits.policy_of(channel).is_some_and(|policy| policy.acts());
    if has_policy || !of_channel.age_max.is_zero() || of_channel.bytes_max < usual.bytes_max {
        Kept::Some
    } else if of_channel.messages_max < usual.messages_max {
        Kept::Newest(of_channel.messages_max)
    } else {
        Kept::All
    }
}
