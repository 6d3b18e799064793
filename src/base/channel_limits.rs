//! What a channel may hold: count, size, age, subscriptions, inactivity; inheritance by pattern.
//!
//! Facts: spec stores, section 9. In the values below 0 means "no limit".

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::delivery_policy::{self, DeliveryPolicy, Policies};
use crate::base::id::ChannelName;
use crate::base::subject;

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
    /// What becomes of messages that nobody acknowledges; its sections are among those above.
    pub policies: Policies,
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
            policies: Policies::default(),
        }
    }
}

/// Why limits are refused at the start; the texts are the reference's (spec stores, 9.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// A global limit below 0. Only configuration can meet it: here limits have no sign.
    #[error("max {limit} limit cannot be negative ({value})")]
    Negative {
        /// `channels`, `subscriptions`, `messages`, `bytes`, `age` or `inactivity`.
        limit: &'static str,
        /// As the user wrote it.
        value: String,
    },
    /// A section's name is neither a channel name nor a pattern.
    #[error("invalid channel name {0:?}")]
    ChannelName(ChannelName),
    /// More literal names have a section than there may be channels.
    #[error("too many channels defined ({defined}). The max channels limit is set to {max}")]
    TooManyChannels {
        /// Literal names with a section.
        defined: usize,
        /// [`StoreLimits::channels_max`].
        max: u64,
    },
    /// A policy contradicts itself or another one.
    #[error("{place}: {text}")]
    Policy {
        /// Which section it is.
        place: String,
        /// What is wrong.
        text: String,
    },
}

impl LimitsError {
    /// A policy of a section, or of the limits of all channels, is wrong.
    #[must_use]
    pub fn policy(section: Option<String>, text: String) -> Self {
        let place = match section {
            Some(name) => format!("the section of channel \"{name}\""),
            None => "store_limits".to_owned(),
        };
        Self::Policy { place, text }
    }
}

/// One section with what it means after inheritance, for the start-up print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEntry {
    /// Name or pattern.
    pub name: ChannelName,
    /// How many wider sections its own values inherit from.
    pub level: usize,
    /// Its limits.
    pub limits: ChannelLimits,
    /// What it inherits from: the limits of the next wider section, or the global ones.
    pub inherited: ChannelLimits,
}

/// Limits after inheritance: what a channel of any name may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedLimits {
    /// See [`StoreLimits::channels_max`].
    pub channels_max: u64,
    /// For channels that no section matches.
    pub global: ChannelLimits,
    names: Level,
    /// Widest first (spec stores, 9.4).
    entries: Vec<ResolvedEntry>,
    by_name: BTreeMap<ChannelName, ChannelLimits>,
    policies: Policies,
}

impl StoreLimits {
    /// Checks names and counts, and resolves inheritance (spec stores, 9.3 and 9.4).
    ///
    /// # Errors
    /// The reference's start-up errors.
    pub fn resolve(&self) -> Result<ResolvedLimits, LimitsError> {
        let mut names = Level::default();
        for name in self.per_channel.keys() {
            if !subject::is_channel_pattern(name.as_bytes()) {
                return Err(LimitsError::ChannelName(name.clone()));
            }
            names.insert(name);
        }
        let is_literal = |name: &&ChannelName| !subject::has_wildcard(name.as_bytes());
        let defined = self.per_channel.keys().filter(is_literal).count();
        if self.channels_max > 0 && u64::try_from(defined).is_ok_and(|n| n > self.channels_max) {
            return Err(LimitsError::TooManyChannels { defined, max: self.channels_max });
        }
        let mut resolved = ResolvedLimits {
            channels_max: self.channels_max,
            global: self.global,
            names,
            entries: Vec::new(),
            by_name: BTreeMap::new(),
            policies: self.policies.clone(),
        };
        for name in resolved.names.widest_first() {
            resolved.inherit(&name, &self.per_channel);
        }
        delivery_policy::check(&resolved)?;
        Ok(resolved)
    }
}

impl ResolvedLimits {
    /// The limits of the channel `name`: of the narrowest section that matches it.
    #[must_use]
    pub fn of(&self, name: &ChannelName) -> ChannelLimits {
        let narrowest = self.names.matching(name).pop();
        narrowest.and_then(|entry| self.by_name.get(&entry).copied()).unwrap_or(self.global)
    }

    /// The policy of the channel `name`; `None` if there is none.
    #[must_use]
    pub fn policy_of(&self, name: &ChannelName) -> Option<DeliveryPolicy> {
        if self.policies.is_empty() {
            return None;
        }
        let mut policy = self.policies.global.over(&DeliveryPolicy::default());
        for section in self.names.matching(name) {
            if let Some(overrides) = self.policies.per_channel.get(&section) {
                policy = overrides.over(&policy);
            }
        }
        (policy != DeliveryPolicy::default()).then_some(policy)
    }

    /// The policy for all channels, and that of each section that has one.
    pub fn policies(&self) -> impl Iterator<Item = (Option<&ChannelName>, DeliveryPolicy)> {
        let global = self.policies.global.over(&DeliveryPolicy::default());
        let sections = self.entries.iter().filter_map(|entry| {
            self.policy_of(&entry.name).map(|policy| (Some(&entry.name), policy))
        });
        let global = (global != DeliveryPolicy::default()).then_some((None, global));
        global.into_iter().chain(sections)
    }

    /// Whether deliveries of any channel are counted.
    #[must_use]
    pub fn counts_deliveries(&self) -> bool {
        self.policies().any(|(_, policy)| policy.counts())
    }

    /// All sections, widest first.
    #[must_use]
    pub fn entries(&self) -> &[ResolvedEntry] {
        &self.entries
    }

    /// Most tokens that a section's name has.
    #[must_use]
    pub fn levels(&self) -> usize {
        let tokens = |entry: &ResolvedEntry| entry.name.as_bytes().split(|b| *b == b'.').count();
        self.entries.iter().map(tokens).max().unwrap_or(0)
    }

    /// Resolves all that matches `name`, each from the one before it.
    fn inherit(&mut self, name: &ChannelName, sections: &BTreeMap<ChannelName, ChannelOverrides>) {
        let mut parent = self.global;
        for (level, entry) in self.names.matching(name).into_iter().enumerate() {
            let written = sections.get(&entry).copied().unwrap_or_default();
            let limits = match self.by_name.get(&entry) {
                Some(known) => *known,
                None => written.over(parent),
            };
            self.by_name.insert(entry.clone(), limits);
            if entry == *name {
                let entry = ResolvedEntry { name: entry, level, limits, inherited: parent };
                self.entries.push(entry);
            }
            parent = limits;
        }
    }
}

impl ChannelOverrides {
    /// What this section says, and `parent` where it says nothing.
    fn over(self, parent: ChannelLimits) -> ChannelLimits {
        ChannelLimits {
            messages_max: self.messages_max.unwrap_or(parent.messages_max),
            bytes_max: self.bytes_max.unwrap_or(parent.bytes_max),
            age_max: self.age_max.unwrap_or(parent.age_max),
            subscriptions_max: self.subscriptions_max.unwrap_or(parent.subscriptions_max),
            inactivity_max: self.inactivity_max.unwrap_or(parent.inactivity_max),
        }
    }
}

/// The sections' names as a tree of tokens: `>` and `*` are nodes of their own beside literals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Level {
    full: Option<ChannelName>,
    any: Option<Box<Node>>,
    literals: BTreeMap<Vec<u8>, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    entry: Option<ChannelName>,
    next: Level,
}

impl Level {
    fn insert(&mut self, name: &ChannelName) {
        let mut level = self;
        let mut tokens = name.as_bytes().split(|byte| *byte == b'.').peekable();
        while let Some(token) = tokens.next() {
            if token == b">" {
                level.full = Some(name.clone());
                return;
            }
            let node = match token {
                b"*" => &mut **level.any.get_or_insert_default(),
                literal => level.literals.entry(literal.to_vec()).or_default(),
            };
            if tokens.peek().is_none() {
                node.entry = Some(name.clone());
            }
            level = &mut node.next;
        }
    }

    /// The entries that match `name`, widest first. A wildcard in `name` matches wildcards only.
    fn matching(&self, name: &ChannelName) -> Vec<ChannelName> {
        let tokens: Vec<&[u8]> = name.as_bytes().split(|byte| *byte == b'.').collect();
        let mut found = Vec::new();
        self.collect_matching(&tokens, &mut found);
        found
    }

    fn collect_matching(&self, tokens: &[&[u8]], found: &mut Vec<ChannelName>) {
        let Some((token, rest)) = tokens.split_first() else {
            return;
        };
        found.extend(self.full.clone());
        for node in self.any.as_deref().into_iter().chain(self.literals.get(*token)) {
            if rest.is_empty() {
                found.extend(node.entry.clone());
            } else {
                node.next.collect_matching(rest, found);
            }
        }
    }

    fn widest_first(&self) -> Vec<ChannelName> {
        let mut found: Vec<ChannelName> = self.full.iter().cloned().collect();
        for node in self.any.as_deref().into_iter().chain(self.literals.values()) {
            found.extend(node.entry.clone());
            found.extend(node.next.widest_first());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// Sections as (name, messages, bytes, age, subscriptions, inactivity); 0 = inherit.
    const SECTIONS: [(&str, [u64; 5], [u64; 5]); 12] = [
        ("*.>", [0, 0, 0, 5, 0], [11, 12, 13, 5, 15]),
        ("*.*", [0, 2, 0, 0, 0], [11, 2, 13, 5, 15]),
        ("foo.>", [10, 0, 0, 0, 0], [10, 2, 13, 5, 15]),
        ("foo.*.>", [0, 20, 0, 0, 0], [10, 20, 13, 5, 15]),
        ("foo.*.*.>", [0, 0, 30, 0, 0], [10, 20, 30, 5, 15]),
        ("foo.a.b.c", [0, 0, 0, 40, 0], [10, 20, 30, 40, 15]),
        ("foo.d.e.f", [50, 0, 60, 0, 0], [50, 20, 60, 5, 15]),
        ("foo.baz", [0, 70, 0, 80, 0], [10, 70, 13, 80, 15]),
        ("bar.*.>", [90, 0, 0, 0, 0], [90, 12, 13, 5, 15]),
        ("bar.baz.>", [0, 100, 0, 0, 110], [90, 100, 13, 5, 110]),
        ("bar.baz.boz", [0, 0, 0, 0, 120], [90, 100, 13, 5, 120]),
        ("bar.baz.bat", [0, 0, 0, 0, 110], [90, 100, 13, 5, 110]),
    ];

    fn limits([messages, bytes, age, subscriptions, inactivity]: [u64; 5]) -> ChannelLimits {
        ChannelLimits {
            messages_max: messages,
            bytes_max: bytes,
            age_max: Duration::from_nanos(age),
            subscriptions_max: subscriptions,
            inactivity_max: Duration::from_nanos(inactivity),
        }
    }

    fn overrides([messages, bytes, age, subscriptions, inactivity]: [u64; 5]) -> ChannelOverrides {
        let number = |value: u64| (value != 0).then_some(value);
        ChannelOverrides {
            messages_max: number(messages),
            bytes_max: number(bytes),
            age_max: number(age).map(Duration::from_nanos),
            subscriptions_max: number(subscriptions),
            inactivity_max: number(inactivity).map(Duration::from_nanos),
        }
    }

    fn named(names: &[&str]) -> StoreLimits {
        let entry = |name: &&str| (ChannelName::from(*name), ChannelOverrides::default());
        StoreLimits { per_channel: names.iter().map(entry).collect(), ..StoreLimits::default() }
    }

    #[test]
    fn sections_inherit_from_the_next_wider_one() {
        let section =
            |(name, written, _): &(&str, _, _)| (ChannelName::from(*name), overrides(*written));
        let store = StoreLimits {
            channels_max: 0,
            global: limits([11, 12, 13, 14, 15]),
            per_channel: SECTIONS.iter().map(section).collect(),
            policies: Policies::default(),
        };
        let resolved = store.resolve().unwrap();
        for (name, _, expected) in SECTIONS {
            let found = resolved.entries().iter().find(|e| e.name == ChannelName::from(name));
            assert_eq!(found.map(|e| e.limits), Some(limits(expected)), "{name}");
        }
        assert_eq!(resolved.of(&ChannelName::from("foo.bar")), limits([10, 2, 13, 5, 15]));
        assert_eq!(resolved.of(&ChannelName::from("foo")), limits([11, 12, 13, 14, 15]));
        assert_eq!(resolved.of(&ChannelName::from("x.y")), limits([11, 2, 13, 5, 15]));
        assert_eq!(resolved.levels(), 4);
    }

    #[test]
    fn sections_come_widest_first() {
        let names = ["bar", "bar.*", "bar.baz", "bar.>", "bar.*.bat", "bar.baz.*", "bar.baz.>"];
        let resolved = named(&names).resolve().unwrap();
        let order: Vec<String> = resolved.entries().iter().map(|e| e.name.to_string()).collect();
        let expected = ["bar", "bar.>", "bar.*", "bar.*.bat", "bar.baz", "bar.baz.>", "bar.baz.*"];
        assert_eq!(order, expected);
        let resolved = named(&["*.*", "foo.>", "*.>", ">", "foo.*.>"]).resolve().unwrap();
        let order: Vec<String> = resolved.entries().iter().map(|e| e.name.to_string()).collect();
        assert_eq!(order, [">", "*.>", "*.*", "foo.>", "foo.*.>"]);
    }

    #[test]
    fn no_limit_in_a_section_overrides_a_global_limit() {
        let mut store = named(&["foo"]);
        let section = ChannelOverrides { messages_max: Some(0), ..ChannelOverrides::default() };
        store.per_channel.insert(ChannelName::from("foo"), section);
        assert_eq!(store.resolve().unwrap().of(&ChannelName::from("foo")).messages_max, 0);
    }

    #[test]
    fn bad_names_and_too_many_literal_names_are_refused() {
        for name in ["foo.*bar", "foo.**.bar", "foo.>.bar", "foo.", ".foo", "foo/bar", ""] {
            let error = named(&[name]).resolve().unwrap_err();
            assert_eq!(error.to_string(), format!("invalid channel name {name:?}"));
        }
        let mut store = named(&["a", "b", "c", "*.>", ">"]);
        store.channels_max = 2;
        let expected = "too many channels defined (3). The max channels limit is set to 2";
        assert_eq!(store.resolve().unwrap_err().to_string(), expected);
        store.channels_max = 3;
        assert!(store.resolve().is_ok());
    }
}
