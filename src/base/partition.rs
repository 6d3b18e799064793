//! the channels that one of several servers of a cluster ID has (spec protocol, 18)

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::subject::{has_wildcard, is_channel_pattern};

/// The channels of one server: names and patterns, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    literals: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    tree: Tree,
}

/// Pairs of patterns that are looked at for an overlap, which is only warned of; how many another
/// server has, anybody can choose.
const PAIRS_MAX: usize = 100_000;

/// Tokens in all patterns of another server; each takes some hundred bytes while they are compared.
const PATTERN_TOKENS_MAX: usize = 64 * 1024;

/// What two servers have both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Nothing that was found.
    Nothing,
    /// A channel, or a pattern that the other's covers.
    Channel(Bytes),
    /// A pattern of one and a pattern of the other that some names fit both; the Go server does not
    /// find that.
    Overlap(Bytes, Bytes),
}

impl Partition {
    /// Those of a list of names and patterns.
    #[must_use]
    pub fn new(channels: impl IntoIterator<Item = Bytes>) -> Self {
        let (patterns, literals): (BTreeSet<Bytes>, _) =
            channels.into_iter().partition(|name| has_wildcard(name));
        let mut tree = Tree::default();
        patterns.iter().for_each(|pattern| tree.insert(pattern));
        Self { literals, patterns, tree }
    }

    /// Those that another server tells; `None` where they are none, or take too much to compare.
    #[must_use]
    pub fn told(channels: Vec<Bytes>) -> Option<Self> {
        let tokens = |name: &Bytes| 1 + name.iter().filter(|byte| **byte == b'.').count();
        let patterns = channels.iter().filter(|name| has_wildcard(name));
        let is_small = patterns.map(tokens).sum::<usize>() <= PATTERN_TOKENS_MAX;
        let is_legal = channels.iter().all(|name| is_channel_pattern(name));
        (is_small && is_legal).then(|| Self::new(channels))
    }

    /// Whether a channel of this name is among them.
    #[must_use]
    pub fn has(&self, channel: &[u8]) -> bool {
        self.literals.contains(channel) || self.tree.count(channel, Among::All, 1) > 0
    }

    /// All names and patterns.
    pub fn entries(&self) -> impl Iterator<Item = &Bytes> {
        self.literals.iter().chain(&self.patterns)
    }

    /// The fewest of them that cover all.
    pub fn widest(&self) -> impl Iterator<Item = &Bytes> {
        let literals = self.literals.iter();
        let literals = literals.filter(|name| self.tree.count(name, Among::All, 1) == 0);
        let patterns = self.patterns.iter().filter(|pattern| {
            // One token is less than what `>` stands for. Each fits itself.
            let is_deep = pattern.split(|byte| *byte == b'.').next_back() == Some(b">");
            let among = if is_deep { Among::Deep } else { Among::All };
            self.tree.count(pattern, among, 2) < 2
        });
        literals.chain(patterns)
    }

    /// What this server and `other` have both. Looked at as the Go server does: theirs among ours,
    /// then ours among theirs.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Shared {
        let theirs = other.entries().find(|name| self.has(name));
        if let Some(name) = theirs.or_else(|| self.entries().find(|name| other.has(name))) {
            return Shared::Channel(name.clone());
        }
        let pairs =
            self.patterns.iter().flat_map(|one| other.patterns.iter().map(move |it| (one, it)));
        match pairs.take(PAIRS_MAX).find(|(one, other)| overlap(one, other)) {
            Some((one, other)) => Shared::Overlap(one.clone(), other.clone()),
            None => Shared::Nothing,
        }
    }
}

/// Names and patterns by their tokens: a name is looked up in the steps of its own length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    by_token: BTreeMap<Bytes, usize>,
    /// Behind `*`.
    any: Option<usize>,
    /// Whether an entry ends here.
    is_end: bool,
    /// Whether one ends here in `>`.
    is_deep: bool,
}

/// Which entries count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Among {
    All,
    /// Those that end in `>`.
    Deep,
}

impl Tree {
    fn insert(&mut self, entry: &Bytes) {
        let mut at = 0;
        for token in entry.split(|byte| *byte == b'.') {
            if token == b">" {
                self.nodes[at].is_deep = true;
                return;
            }
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = if token == b"*" {
                *node.any.get_or_insert(new)
            } else {
                *node.by_token.entry(entry.slice_ref(token)).or_insert(new)
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].is_end = true;
    }

    /// How many entries fit `name`, whose tokens are taken as they are; no more than `most` are
    /// counted.
    fn count(&self, name: &[u8], among: Among, most: usize) -> usize {
        let (mut places, mut found) = (vec![0], 0);
        for token in name.split(|byte| *byte == b'.') {
            let nodes = || places.iter().map(|place: &usize| &self.nodes[*place]);
            found += nodes().filter(|node| node.is_deep).count();
            if most <= found {
                return most;
            }
            let next = nodes().flat_map(|node| [node.by_token.get(token).copied(), node.any]);
            places = next.flatten().collect();
        }
        let ends = places.iter().filter(|place| self.nodes[**place].is_end).count();
        (found + if among == Among::All { ends } else { 0 }).min(most)
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
    use proptest::prelude::*;

    use super::*;
    use crate::base::subject::matches;

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

    /// Goal: what anybody can send costs no more than it is long.
    #[test]
    fn long_lists_are_compared_in_steps_of_their_length() {
        let patterns = |prefix: &str| {
            Partition::new((0..30_000).map(|n| Bytes::from(format!("{prefix}.{n}.*"))))
        };
        assert_eq!(patterns("a").shared_with(&patterns("b")), Shared::Nothing);
        let names = Partition::new((0..200_000).map(|n| Bytes::from(format!("a.{n}"))));
        assert_eq!(names.shared_with(&partition(&["b.*", "a.7"])), channel("a.7"));
        // Each place of a name of ours may be taken by a wildcard of theirs.
        let wild = (0..1 << 9).map(|bits: u32| {
            let tokens = (0..9).map(|place| if bits >> place & 1 == 1 { "*" } else { "a" });
            Bytes::from(tokens.chain(["b"]).collect::<Vec<_>>().join("."))
        });
        let ours =
            Partition::new((0..100).map(|n| Bytes::from(format!("{}.{n}", ["a"; 9].join(".")))));
        assert_eq!(Partition::new(wild).shared_with(&ours), Shared::Nothing);
        assert_eq!(patterns("a").widest().count(), 30_000);
    }

    /// Goal: what is no list of channels, or takes far more memory than its own length, is not
    /// compared.
    #[test]
    fn what_no_honest_server_tells_is_not_compared() {
        let told = |names: Vec<Bytes>| Partition::told(names).is_some();
        assert!(told((0..20_000).map(|n| Bytes::from(format!("a.{n}.*"))).collect()));
        assert!(!told((0..30_000).map(|n| Bytes::from(format!("a.{n}.*"))).collect()));
        assert!(told((0..200_000).map(|n| Bytes::from(format!("a.{n}"))).collect()));
        for illegal in [&b""[..], b".", b"a..b", b"a.>.b", b"a/b"] {
            assert!(!told(vec![Bytes::from_static(illegal)]), "{illegal:?}");
        }
        assert!(!told(vec![Bytes::from(vec![b'.'; 60_000])]));
    }

    proptest! {
        /// Goal: the tree finds what comparing one by one finds.
        #[test]
        fn a_tree_finds_what_fits(
            entries in proptest::collection::vec("([ab*](\\.[ab*]){0,3}(\\.>)?|>)", 0..8),
            name in "[ab*](\\.[ab*>]){0,4}",
        ) {
            let entries: BTreeSet<Bytes> = entries.into_iter().map(Bytes::from).collect();
            let fits = entries.iter().filter(|entry| matches(entry, name.as_bytes())).count();
            let mut tree = Tree::default();
            entries.iter().for_each(|entry| tree.insert(entry));
            prop_assert_eq!(tree.count(name.as_bytes(), Among::All, usize::MAX), fits);
            prop_assert_eq!(Partition::new(entries).has(name.as_bytes()), fits > 0);
        }
    }
}
