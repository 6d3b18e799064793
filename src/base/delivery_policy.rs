//! What a channel does with messages that its subscribers do not acknowledge; inheritance by
//! pattern as for limits. The Go server has none of it: without a policy everything is as there.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::channel_limits::{LimitsError, ResolvedLimits};
use crate::base::id::ChannelName;
use crate::base::subject;

/// What one section of the configuration says; `None` = inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyOverrides {
    /// See [`DeliveryPolicy::deliveries_max`].
    pub deliveries_max: Option<u32>,
    /// See [`DeliveryPolicy::dead_letter`].
    pub dead_letter: Option<ChannelName>,
}

/// The policy of one channel, fully resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// How often a message is delivered to one subscription, durable or queue group; 0 = for ever.
    pub deliveries_max: u32,
    /// The channel that gets what was delivered so often and not acknowledged.
    pub dead_letter: Option<ChannelName>,
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
        }
    }
}

impl DeliveryPolicy {
    /// Whether deliveries are counted.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.deliveries_max > 0
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
