//! the limits of one channel: which pattern matches it, and what that inherits
//!
//! Facts: spec stores, 9.4.

use std::cmp::Ordering;

use crate::base::channel_limits::{ChannelLimits, ChannelOverrides, StoreLimits};
use crate::base::id::ChannelName;

/// The limits of `channel`: those of the narrowest entry that matches it, else the global ones.
pub(super) fn of_channel(limits: &StoreLimits, channel: &ChannelName) -> ChannelLimits {
    resolve(limits, channel.as_bytes(), None)
}

/// The resolved limits of the narrowest entry that matches `name`, of those wider than `below`.
fn resolve(limits: &StoreLimits, name: &[u8], below: Option<&[u8]>) -> ChannelLimits {
    let narrowest = limits
        .per_channel
        .iter()
        .filter(|(entry, _)| covers(entry.as_bytes(), name))
        .filter(|(entry, _)| below.is_none_or(|bound| rank(entry.as_bytes(), bound).is_lt()))
        .max_by(|(a, _), (b, _)| rank(a.as_bytes(), b.as_bytes()));
    match narrowest {
        None => limits.global,
        // Each entry inherits from the next wider one that covers the entry itself.
        Some((entry, overrides)) => {
            let parent = resolve(limits, entry.as_bytes(), Some(entry.as_bytes()));
            overlay(&parent, overrides)
        }
    }
}

fn overlay(parent: &ChannelLimits, overrides: &ChannelOverrides) -> ChannelLimits {
    ChannelLimits {
        messages_max: overrides.messages_max.unwrap_or(parent.messages_max),
        bytes_max: overrides.bytes_max.unwrap_or(parent.bytes_max),
        age_max: overrides.age_max.unwrap_or(parent.age_max),
        subscriptions_max: overrides.subscriptions_max.unwrap_or(parent.subscriptions_max),
        inactivity_max: overrides.inactivity_max.unwrap_or(parent.inactivity_max),
    }
}

/// Whether `entry` matches `name`; a wildcard in the name is matched by wildcards only.
fn covers(entry: &[u8], name: &[u8]) -> bool {
    let mut name_tokens = name.split(|byte| *byte == b'.');
    for token in entry.split(|byte| *byte == b'.') {
        match (token, name_tokens.next()) {
            (b">", Some(_)) => return true,
            (_, None) => return false,
            (b"*", Some(_)) => (),
            (literal, Some(found)) if literal == found => (),
            (_, Some(_)) => return false,
        }
    }
    name_tokens.next().is_none()
}

/// Wider entries first: on each level `>`, then `*`, then literals.
fn rank(a: &[u8], b: &[u8]) -> Ordering {
    let ranks = |entry: &[u8]| -> Vec<u8> {
        entry
            .split(|byte| *byte == b'.')
            .map(|token| match token {
                b">" => 0,
                b"*" => 1,
                _ => 2,
            })
            .collect()
    };
    ranks(a).cmp(&ranks(b))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn secs(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    fn limits() -> StoreLimits {
        let none = ChannelOverrides::default();
        let entries = [
            ("*.>", ChannelOverrides { subscriptions_max: Some(5), ..none }),
            ("*.*", ChannelOverrides { bytes_max: Some(2), ..none }),
            ("foo.>", ChannelOverrides { messages_max: Some(10), ..none }),
            ("foo.*.>", ChannelOverrides { bytes_max: Some(20), ..none }),
            ("foo.*.*.>", ChannelOverrides { age_max: secs(30), ..none }),
            ("foo.a.b.c", ChannelOverrides { subscriptions_max: Some(40), ..none }),
            ("foo.baz", ChannelOverrides { bytes_max: Some(70), ..none }),
            ("bar.*.>", ChannelOverrides { messages_max: Some(90), ..none }),
            ("bar.baz.>", ChannelOverrides { inactivity_max: secs(110), ..none }),
        ];
        StoreLimits {
            channels_max: 0,
            global: ChannelLimits {
                messages_max: 11,
                bytes_max: 12,
                age_max: Duration::from_secs(13),
                subscriptions_max: 14,
                inactivity_max: Duration::from_secs(15),
            },
            per_channel: entries.map(|(name, found)| (ChannelName::from(name), found)).into(),
        }
    }

    #[test]
    fn the_narrowest_entry_counts_and_inherits_from_wider_ones() {
        let limits = limits();
        for (channel, expected) in [
            ("one", (11, 12, 13, 14, 15)),
            ("some.thing", (11, 2, 13, 5, 15)),
            ("foo.bar", (10, 2, 13, 5, 15)),
            ("foo.x.y", (10, 20, 13, 5, 15)),
            ("foo.a.b.c", (10, 20, 30, 40, 15)),
            ("foo.baz", (10, 70, 13, 5, 15)),
            ("bar.baz.x", (90, 12, 13, 5, 110)),
        ] {
            let found = of_channel(&limits, &ChannelName::from(channel));
            let found = (
                found.messages_max,
                found.bytes_max,
                found.age_max.as_secs(),
                found.subscriptions_max,
                found.inactivity_max.as_secs(),
            );
            assert_eq!(found, expected, "{channel}");
        }
    }
}
