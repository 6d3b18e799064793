//! What a channel does with messages that its subscribers do not acknowledge, and with those that
//! are published again; inheritance by pattern as for limits. The Go server has none of it: without
//! a policy everything is as there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::base::channel_limits::{LimitsError, ResolvedLimits};
use crate::base::id::ChannelName;
use crate::base::subject;
use crate::base::time::WallTime;

/// What one section of the configuration says; `None` = inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyOverrides {
    /// See [`DeliveryPolicy::deliveries_max`].
    pub deliveries_max: Option<u32>,
    /// See [`DeliveryPolicy::dead_letter`].
    pub dead_letter: Option<ChannelName>,
    /// See [`DeliveryPolicy::back_off`].
    pub back_off: Option<Vec<Duration>>,
    /// See [`DeliveryPolicy::ttl`].
    pub ttl: Option<Duration>,
    /// See [`DeliveryPolicy::redelivered_max`].
    pub redelivered_max: Option<u32>,
    /// See [`DeliveryPolicy::dedup_window`].
    pub dedup_window: Option<Duration>,
}

/// The policy of one channel, fully resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// How often a message is delivered to one subscription, durable or queue group; 0 = for ever.
    pub deliveries_max: u32,
    /// The channel that gets what was delivered so often and not acknowledged.
    pub dead_letter: Option<ChannelName>,
    /// How long after its first, second, … delivery a message is delivered again, instead of the
    /// subscription's ack wait; the last one repeats. Empty: the ack wait.
    pub back_off: Vec<Duration>,
    /// What is older is not delivered any more; 0 = everything is.
    pub ttl: Duration,
    /// How many messages may be with a subscription for more than the first time; 0 = all that it
    /// has. Then those that were delivered before do not keep new ones off.
    pub redelivered_max: u32,
    /// What has the payload of a message that is stored for no longer is not stored again; 0 =
    /// everything is.
    pub dedup_window: Duration,
}

/// The policies of a whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// For channels that no section matches, and what sections inherit from.
    pub global: PolicyOverrides,
    /// By literal name or pattern.
    pub per_channel: BTreeMap<ChannelName, PolicyOverrides>,
}

impl PolicyOverrides {
    /// Whether it says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What this section says, and `parent` where it says nothing.
    #[must_use]
    pub fn over(&self, parent: &DeliveryPolicy) -> DeliveryPolicy {
        DeliveryPolicy {
            deliveries_max: self.deliveries_max.unwrap_or(parent.deliveries_max),
            dead_letter: self.dead_letter.clone().or_else(|| parent.dead_letter.clone()),
            back_off: self.back_off.clone().unwrap_or_else(|| parent.back_off.clone()),
            ttl: self.ttl.unwrap_or(parent.ttl),
            redelivered_max: self.redelivered_max.unwrap_or(parent.redelivered_max),
            dedup_window: self.dedup_window.unwrap_or(parent.dedup_window),
        }
    }
}

impl DeliveryPolicy {
    /// Whether deliveries are counted.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.deliveries_max > 0
    }

    /// Whether anything is delivered otherwise than without a policy.
    #[must_use]
    pub fn acts(&self) -> bool {
        let has_waits = !self.back_off.is_empty();
        self.counts() || has_waits || !self.ttl.is_zero() || self.redelivered_max > 0
    }

    /// How long a message is waited for that was delivered so often, by a subscription with that
    /// ack wait.
    #[must_use]
    pub fn wait(&self, ack_wait: Duration, deliveries: u32) -> Duration {
        let last = self.back_off.len().saturating_sub(1);
        let at = usize::try_from(deliveries.saturating_sub(1)).unwrap_or(last).min(last);
        self.back_off.get(at).copied().unwrap_or(ack_wait)
    }

    /// Whether a message of that age is delivered no more.
    #[must_use]
    pub fn is_outlived(&self, published: WallTime, now: WallTime) -> bool {
        let age = u64::try_from(now.0.saturating_sub(published.0)).unwrap_or(0);
        !self.ttl.is_zero() && self.ttl < Duration::from_nanos(age)
    }
}

impl Policies {
    /// Whether there is any policy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.global.is_empty() && self.per_channel.values().all(PolicyOverrides::is_empty)
    }
}

/// Whether the policies make sense together.
///
/// # Errors
/// [`LimitsError::Policy`], with the section to be changed.
pub fn check(limits: &ResolvedLimits) -> Result<(), LimitsError> {
    let mut targets = BTreeSet::new();
    for (section, policy) in limits.policies() {
        let name = section.map(ToString::to_string);
        if policy.counts() && policy.dead_letter.is_none() {
            let text = "has max_deliveries and no dead_letter: say where messages go then";
            return Err(LimitsError::policy(name, text.to_owned()));
        }
        let target = policy.dead_letter.as_ref().filter(|_| policy.counts());
        targets.extend(target.map(|target| (target.clone(), name)));
    }
    for (target, section) in targets {
        if !subject::is_channel_name(target.as_bytes()) {
            let text = format!("dead_letter \"{target}\" is no channel name");
            return Err(LimitsError::policy(section, text));
        }
        check_circle(limits, &target, section)?;
    }
    Ok(())
}

/// A dead letter that is delivered too often goes on to the next channel, and never comes back.
fn check_circle(
    limits: &ResolvedLimits,
    target: &ChannelName,
    section: Option<String>,
) -> Result<(), LimitsError> {
    let mut way = vec![target.clone()];
    while let Some(policy) = way.last().and_then(|last| limits.policy_of(last)) {
        let Some(next) = policy.dead_letter.filter(|_| policy.deliveries_max > 0) else { break };
        if way.contains(&next) {
            let shown: Vec<String> = way.iter().map(|name| format!("\"{name}\"")).collect();
            let text = format!(
                "dead letters would go round in a circle: {} -> \"{next}\"; give \"{target}\" a \
                 section of its own with max_deliveries: 0",
                shown.join(" -> ")
            );
            return Err(LimitsError::policy(section, text));
        }
        way.push(next);
    }
    Ok(())
}
