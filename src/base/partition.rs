//! the channels that one of several servers of a cluster ID has (spec protocol, 18)

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::subject::{has_wildcard, matches};

/// The channels of one server: names and patterns, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    literals: BTreeSet<Bytes>,
    patterns: Vec<Bytes>,
}

/// Comparisons of one name with one pattern that a list of another server may cost; how long it may
/// be, anybody can choose.
const COMPARISONS_MAX: usize = 4_000_000;

/// What two servers have both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Nothing.
    Nothing,
    /// A channel, or a pattern that the other's covers.
    Channel(Bytes),
    /// A pattern of one and a pattern of the other that some names fit both; the Go server does not
    /// find that.
    Overlap(Bytes, Bytes),
    /// The lists are too long to be compared.
    Unknown,
}

impl Partition {
    /// Those of a list of names and patterns.
    #[must_use]
    pub fn new(channels: impl IntoIterator<Item = Bytes>) -> Self {
        let (patterns, literals): (BTreeSet<Bytes>, _) =
            channels.into_iter().partition(|name| has_wildcard(name));
        Self { literals, patterns: patterns.into_iter().collect() }
    }

    /// Whether a channel of this name is among them.
    #[must_use]
    pub fn has(&self, channel: &[u8]) -> bool {
        self.literals.contains(channel) || self.pattern_of(channel).is_some()
    }

    /// All names and patterns.
    pub fn entries(&self) -> impl Iterator<Item = &Bytes> {
        self.literals.iter().chain(&self.patterns)
    }

    /// The fewest of them that cover all.
    pub fn widest(&self) -> impl Iterator<Item = &Bytes> {
        self.entries().filter(|entry| {
            // One token is less than what `>` stands for.
            let is_deep = |name: &[u8]| name == b">" || name.ends_with(b".>");
            !self.patterns.iter().any(|pattern| {
                pattern != *entry
                    && matches(pattern, entry)
                    && (is_deep(pattern) || !is_deep(entry))
            })
        })
    }

    /// What this server and `other` have both. Looked at as the Go server does: theirs among ours,
    /// then ours among theirs.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Shared {
        let cost = |names: &Self, patterns: &Self| {
            let count = names.literals.len() + names.patterns.len();
            count.saturating_mul(patterns.patterns.len())
        };
        if COMPARISONS_MAX < cost(self, other).saturating_add(cost(other, self)) {
            return Shared::Unknown;
        }
        let has = |whole: &Self, name: &Bytes| whole.has(name) || whole.patterns.contains(name);
        let theirs = other.entries().find(|name| has(self, name));
        if let Some(name) = theirs.or_else(|| self.entries().find(|name| has(other, name))) {
            return Shared::Channel(name.clone());
        }
        for ours in &self.patterns {
            if let Some(theirs) = other.patterns.iter().find(|theirs| overlap(ours, theirs)) {
                return Shared::Overlap(ours.clone(), theirs.clone());
            }
        }
        Shared::Nothing
    }

    fn pattern_of(&self, channel: &[u8]) -> Option<&Bytes> {
        self.patterns.iter().find(|pattern| matches(pattern, channel))
    }
}

/// Whether some name fits both patterns.
fn overlap(one: &[u8], other: &[u8]) -> bool {
    let mut others = other.split(|byte| *byte == b'.');
    for token in one.split(|byte| *byte == b'.') {
        match (token, others.next()) {
            (b">", Some(_)) | (_, Some(b">")) => return true,
            (_, None) => return false,
            (b"*", Some(_)) | (_, Some(b"*")) => (),
            (literal, Some(found)) if literal == found => (),
            (_, Some(_)) => return false,
        }
    }
    others.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(names: &[&'static str]) -> Partition {
        Partition::new(names.iter().map(|name| Bytes::from_static(name.as_bytes())))
    }

    fn shared(ours: &[&'static str], theirs: &[&'static str]) -> Shared {
        partition(ours).shared_with(&partition(theirs))
    }

    fn channel(name: &'static str) -> Shared {
        Shared::Channel(Bytes::from_static(name.as_bytes()))
    }

    #[test]
    fn a_channel_is_there_by_its_name_or_by_a_pattern() {
        let partition = partition(&["a", "b.*", "c.>"]);
        for name in ["a", "b.x", "c.x", "c.x.y"] {
            assert!(partition.has(name.as_bytes()), "{name}");
        }
        for name in ["b", "b.x.y", "c", "d", "a.x"] {
            assert!(!partition.has(name.as_bytes()), "{name}");
        }
    }

    /// Goal: no message comes twice where a pattern and a name that it covers both have limits.
    #[test]
    fn what_a_wider_pattern_covers_is_not_listened_to_apart() {
        let partition = partition(&["a.b", "a.*", "a.>", "b.*", "c"]);
        let widest: Vec<&[u8]> = partition.widest().map(|name| &name[..]).collect();
        assert_eq!(widest, [&b"c"[..], b"a.>", b"b.*"]);
    }

    #[test]
    fn conflicts_are_found_both_ways_and_overlaps_beside() {
        assert_eq!(shared(&["a", "b"], &["c", "b"]), channel("b"));
        assert_eq!(shared(&["a.*"], &["a.b"]), channel("a.b"));
        assert_eq!(shared(&["a.b"], &["a.*"]), channel("a.b"));
        assert_eq!(shared(&["a.>"], &["a.*"]), channel("a.*"));
        assert_eq!(shared(&["a.*"], &["a.*"]), channel("a.*"));
        assert_eq!(shared(&["a.*"], &["b.*"]), Shared::Nothing);
        assert_eq!(shared(&["a"], &["a.b"]), Shared::Nothing);
        let (ours, theirs) = (Bytes::from_static(b"a.*"), Bytes::from_static(b"*.b"));
        assert_eq!(shared(&["a.*"], &["*.b"]), Shared::Overlap(ours, theirs));
        assert_eq!(shared(&["a.*.c"], &["*.b"]), Shared::Nothing);
        assert!(matches!(shared(&["a.*.c"], &["a.b.>"]), Shared::Overlap(..)));
    }

    /// Goal: what anybody can send costs a bounded time.
    #[test]
    fn lists_that_are_too_long_are_not_compared() {
        let patterns = |prefix: &str| {
            Partition::new((0..3_000).map(|n| Bytes::from(format!("{prefix}.{n}.*"))))
        };
        assert_eq!(patterns("a").shared_with(&patterns("b")), Shared::Unknown);
        let names = Partition::new((0..200_000).map(|n| Bytes::from(format!("a.{n}"))));
        assert_eq!(names.shared_with(&partition(&["b.*", "a.7"])), channel("a.7"));
    }
}
