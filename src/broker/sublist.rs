//! The interest tree: subject → interests, choice in a queue.
//!
//! Every loop has one with the interests of all loops. Subjects without wildcards are one hash
//! look-up; the others are a tree by tokens. What was found for a subject is kept, until an
//! interest that could change it comes or goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;

use crate::base::hash::QuickMap;
use crate::base::id::SessionId;
use crate::base::subject;
use crate::broker::EngineInterest;
use crate::broker::account::Permissions;
use crate::broker::outbox::Gauge;
use crate::broker::snapshot::SubscriptionsSnapshot;

/// Subjects whose receivers are remembered (spec core NATS, 1.2).
const CACHE_LEN_MAX: usize = 1024;

/// One SUB of a client, or one RS+ of a route. Shared by the trees of all loops; only the loop
/// that owns the session writes the numbers in it.
#[derive(Debug)]
pub struct Interest {
    /// Who listens.
    pub session: SessionId,
    /// Whether the listener is a route.
    pub is_route: bool,
    /// On what.
    pub subject: Bytes,
    /// In which queue.
    pub queue: Option<Bytes>,
    /// What the client calls it; empty for a route.
    pub sid: Bytes,
    /// Looked at for each message, where the subject can match something denied.
    pub filter: Option<Arc<Permissions>>,
    /// How many bytes wait for the listener.
    pub gauge: Arc<Gauge>,
    /// Messages delivered.
    pub delivered: AtomicU64,
    /// Messages after which it ends; 0 for none.
    pub delivered_max: AtomicU64,
    /// Members that it stands for in a queue: more than one only for a route.
    pub weight: AtomicU32,
    /// Whether it ended; a tree may still have it.
    pub is_gone: AtomicBool,
    /// Whether its subject has no wildcard.
    pub is_literal: bool,
    /// Whether the peer that delivers to it holds back when it is told that there is no room.
    pub is_paced_by_peer: AtomicBool,
}

impl Interest {
    /// Whether it ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Whether a message on `subject` must not be delivered.
    #[must_use]
    pub fn is_filtered(&self, subject: &[u8]) -> bool {
        self.filter.as_ref().is_some_and(|permissions| permissions.is_filtered(subject))
    }
}

/// An engine's interest as it lies in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineEntry {
    /// Which one.
    pub interest: EngineInterest,
    /// Length of the subject's literal prefix with the dot behind it: what follows it in a
    /// subject names the channel.
    pub prefix_len: usize,
}

/// All receivers of a subject.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// Interests without a queue.
    pub plain: Vec<Arc<Interest>>,
    /// The members of each queue, ordered by name.
    pub queues: Vec<(Bytes, Vec<Arc<Interest>>)>,
    /// Engines. Of engines that listen to the same subject with the same key (a service that each
    /// loop offers) there is one: `home`'s own if it is among them.
    pub engines: Vec<EngineEntry>,
}

impl Matched {
    /// Whether nobody listens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.queues.is_empty() && self.engines.is_empty()
    }

    /// Whether a message waits in outboxes: somebody other than engines listens.
    #[must_use]
    pub fn has_receivers(&self) -> bool {
        !self.plain.is_empty() || !self.queues.is_empty()
    }

    fn len(&self) -> usize {
        let in_queues: usize = self.queues.iter().map(|(_, members)| members.len()).sum();
        self.plain.len() + in_queues + self.engines.len()
    }

    fn add(&mut self, entries: &Entries, home: u16) {
        self.plain.extend(entries.plain.iter().cloned());
        for interest in &entries.queued {
            let Some(name) = &interest.queue else { continue };
            let at = match self.queues.binary_search_by(|(found, _)| found.cmp(name)) {
                Ok(at) => at,
                Err(at) => {
                    self.queues.insert(at, (name.clone(), Vec::new()));
                    at
                }
            };
            self.queues[at].1.push(Arc::clone(interest));
        }
        for (index, entry) in entries.engines.iter().enumerate() {
            let is_chosen = entry.interest.engine.0 == home
                || !entries.engines.iter().enumerate().any(|(other_index, other)| {
                    other.interest.key == entry.interest.key
                        && (other.interest.engine.0 == home || other_index < index)
                });
            if is_chosen {
                self.engines.push(*entry);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Entries {
    plain: Vec<Arc<Interest>>,
    queued: Vec<Arc<Interest>>,
    engines: Vec<EngineEntry>,
}

impl Entries {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.queued.is_empty() && self.engines.is_empty()
    }

    fn insert(&mut self, interest: Arc<Interest>) {
        if interest.queue.is_some() {
            self.queued.push(interest);
        } else {
            self.plain.push(interest);
        }
    }

    fn remove(&mut self, interest: &Arc<Interest>) -> bool {
        let list = if interest.queue.is_some() { &mut self.queued } else { &mut self.plain };
        let Some(at) = list.iter().position(|found| Arc::ptr_eq(found, interest)) else {
            return false;
        };
        list.swap_remove(at);
        if list.is_empty() {
            *list = Vec::new();
        }
        true
    }
}

/// One token of subjects with wildcards, and what can follow it.
#[derive(Debug, Default)]
struct Node {
    here: Entries,
    /// Interests whose last token is `>` at this place.
    rest: Entries,
    literal: QuickMap<Bytes, Node>,
    star: Option<Box<Node>>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.here.is_empty()
            && self.rest.is_empty()
            && self.literal.is_empty()
            && self.star.is_none()
    }

    /// The entries of a pattern; made on the way.
    fn entries(&mut self, pattern: &[u8]) -> &mut Entries {
        let (token, rest) = split_token(pattern);
        if token == b">" {
            return &mut self.rest;
        }
        let next = if token == b"*" {
            &mut **self.star.get_or_insert_default()
        } else if self.literal.contains_key(token) {
            self.literal.get_mut(token).expect("it was found a line above")
        } else {
            self.literal.entry(Bytes::copy_from_slice(token)).or_default()
        };
        match rest {
            Some(rest) => next.entries(rest),
            None => &mut next.here,
        }
    }

    /// Changes the entries of a pattern, and drops the nodes that are empty after it.
    fn change<R: Default>(&mut self, pattern: &[u8], act: impl FnOnce(&mut Entries) -> R) -> R {
        let (token, rest) = split_token(pattern);
        if token == b">" {
            return act(&mut self.rest);
        }
        let next =
            if token == b"*" { self.star.as_deref_mut() } else { self.literal.get_mut(token) };
        let Some(next) = next else { return R::default() };
        let done = match rest {
            Some(rest) => next.change(rest, act),
            None => act(&mut next.here),
        };
        if next.is_empty() {
            if token == b"*" {
                self.star = None;
            } else {
                self.literal.remove(token);
            }
        }
        done
    }

    fn collect(&self, subject: &[u8], home: u16, found: &mut Matched) {
        if !self.rest.is_empty() {
            found.add(&self.rest, home);
        }
        let (token, rest) = split_token(subject);
        for next in [self.literal.get(token), self.star.as_deref()].into_iter().flatten() {
            match rest {
                Some(rest) => next.collect(rest, home, found),
                None => found.add(&next.here, home),
            }
        }
    }
}

fn split_token(subject: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'.', subject) {
        Some(at) => (&subject[..at], Some(&subject[at + 1..])),
        None => (subject, None),
    }
}

fn has_empty_token(subject: &[u8]) -> bool {
    subject.is_empty()
        || subject.first() == Some(&b'.')
        || subject.last() == Some(&b'.')
        || memchr::memmem::find(subject, b"..").is_some()
}

/// The interest tree of one loop.
#[derive(Debug, Default)]
pub struct Sublist {
    home: u16,
    literal: QuickMap<Bytes, Entries>,
    wild: Node,
    cache: QuickMap<Bytes, Arc<Matched>>,
    len: u64,
    insert_count: u64,
    remove_count: u64,
    match_count: u64,
    hit_count: u64,
    fanout_max: u64,
    fanout_total: u64,
}

impl Sublist {
    /// An empty tree of the loop with this number.
    #[must_use]
    pub fn new(home: u16) -> Self {
        Self { home, ..Self::default() }
    }

    /// Adds an interest. Its subject was checked to be valid.
    pub fn insert(&mut self, interest: Arc<Interest>) {
        let subject = interest.subject.clone();
        self.entries(&subject).insert(interest);
        self.on_change(&subject);
        self.insert_count += 1;
        self.len += 1;
    }

    /// Takes an interest out; false if it is not there.
    pub fn remove(&mut self, interest: &Arc<Interest>) -> bool {
        let subject = interest.subject.clone();
        let is_removed = self.change(&subject, |entries| entries.remove(interest));
        if is_removed {
            self.on_change(&subject);
            self.remove_count += 1;
            self.len -= 1;
        }
        is_removed
    }

    /// Adds an engine's interest; nothing happens if it is there.
    pub fn listen(&mut self, subject: &[u8], interest: EngineInterest) -> bool {
        let prefix_len = literal_prefix_len(subject);
        let entry = EngineEntry { interest, prefix_len };
        let entries = self.entries(subject);
        if entries.engines.contains(&entry) {
            return false;
        }
        entries.engines.push(entry);
        entries.engines.sort_by_key(|entry| entry.interest);
        self.on_change(subject);
        self.len += 1;
        self.insert_count += 1;
        true
    }

    /// Takes an engine's interest out; false if it is not there.
    pub fn unlisten(&mut self, subject: &[u8], interest: EngineInterest) -> bool {
        let is_removed = self.change(subject, |entries| {
            let count = entries.engines.len();
            entries.engines.retain(|entry| entry.interest != interest);
            entries.engines.len() < count
        });
        if is_removed {
            self.on_change(subject);
            self.len -= 1;
            self.remove_count += 1;
        }
        is_removed
    }

    /// All receivers of a literal subject; `None` if there are none.
    pub fn matches(&mut self, subject: &[u8]) -> Option<Arc<Matched>> {
        self.match_count += 1;
        if let Some(found) = self.cache.get(subject) {
            self.hit_count += 1;
            return Some(Arc::clone(found)).filter(|found| !found.is_empty());
        }
        if has_empty_token(subject) {
            return None;
        }
        let mut found = Matched::default();
        if let Some(entries) = self.literal.get(subject) {
            found.add(entries, self.home);
        }
        self.wild.collect(subject, self.home, &mut found);
        // Subjects that nobody listens to are legion (replies); they are not worth a place.
        if found.is_empty() {
            return None;
        }
        if self.cache.len() >= CACHE_LEN_MAX {
            self.clear_cache();
        }
        let fanout = found.len() as u64;
        self.fanout_max = self.fanout_max.max(fanout);
        self.fanout_total += fanout;
        let found = Arc::new(found);
        self.cache.insert(Bytes::copy_from_slice(subject), Arc::clone(&found));
        Some(found)
    }

    /// The interests in exactly this subject, none of them with wildcards.
    pub fn literal_interests(&self, subject: &[u8]) -> Vec<Arc<Interest>> {
        let entries = self.literal.get(subject).into_iter();
        entries.flat_map(|found| found.plain.iter().chain(&found.queued)).cloned().collect()
    }

    /// Figures for monitoring.
    #[must_use]
    pub fn snapshot(&self) -> SubscriptionsSnapshot {
        SubscriptionsSnapshot {
            num_subscriptions: self.len,
            num_cache: self.cache.len() as u64,
            num_inserts: self.insert_count,
            num_removes: self.remove_count,
            num_matches: self.match_count,
            num_cache_hits: self.hit_count,
            max_fanout: self.fanout_max,
            total_fanout: self.fanout_total,
        }
    }

    fn entries(&mut self, subject: &[u8]) -> &mut Entries {
        if subject::has_wildcard(subject) {
            return self.wild.entries(subject);
        }
        if !self.literal.contains_key(subject) {
            self.literal.insert(Bytes::copy_from_slice(subject), Entries::default());
        }
        self.literal.get_mut(subject).expect("it was inserted above")
    }

    fn change<R: Default>(&mut self, subject: &[u8], act: impl FnOnce(&mut Entries) -> R) -> R {
        if subject::has_wildcard(subject) {
            return self.wild.change(subject, act);
        }
        let Some(entries) = self.literal.get_mut(subject) else { return R::default() };
        let done = act(entries);
        if entries.is_empty() {
            self.literal.remove(subject);
        }
        done
    }

    /// Forgets what the change of an interest in `subject` can make wrong.
    fn on_change(&mut self, subject: &[u8]) {
        if subject::has_wildcard(subject) {
            self.clear_cache();
        } else if let Some(old) = self.cache.remove(subject) {
            self.fanout_total = self.fanout_total.saturating_sub(old.len() as u64);
        }
    }

    fn clear_cache(&mut self) {
        self.cache.clear();
        self.fanout_max = 0;
        self.fanout_total = 0;
    }
}

fn literal_prefix_len(subject: &[u8]) -> usize {
    let mut len = 0;
    for token in subject.split(|byte| *byte == b'.') {
        if matches!(token, b"*" | b">") {
            break;
        }
        len += token.len() + 1;
    }
    len.min(subject.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::LoopIndex;
    use proptest::prelude::*;

    fn interest(subject: &str, queue: Option<&str>) -> Arc<Interest> {
        Arc::new(Interest {
            session: SessionId { home: LoopIndex(0), slot: 0, generation: 0 },
            is_route: false,
            subject: Bytes::copy_from_slice(subject.as_bytes()),
            queue: queue.map(|queue| Bytes::copy_from_slice(queue.as_bytes())),
            sid: Bytes::new(),
            filter: None,
            gauge: Arc::default(),
            delivered: AtomicU64::new(0),
            delivered_max: AtomicU64::new(0),
            weight: AtomicU32::new(1),
            is_gone: AtomicBool::new(false),
            is_literal: !subject::has_wildcard(subject.as_bytes()),
            is_paced_by_peer: AtomicBool::new(false),
        })
    }

    fn token() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "c", "*", ">", "a*"]).prop_map(str::to_owned)
    }

    fn subject_strategy() -> impl Strategy<Value = String> {
        prop::collection::vec(token(), 1..4).prop_map(|tokens| tokens.join("."))
    }

    proptest! {
        /// Goal: the tree, with its cache, finds what comparing each interest finds.
        #[test]
        fn the_tree_agrees_with_plain_comparison(
            steps in prop::collection::vec((subject_strategy(), any::<bool>(), 0..30_usize), 1..60),
            probes in prop::collection::vec(subject_strategy(), 1..6),
        ) {
            let mut tree = Sublist::new(0);
            let mut model: Vec<Arc<Interest>> = Vec::new();
            for (pattern, is_queue, victim) in steps {
                if victim < model.len() {
                    let gone = model.swap_remove(victim);
                    prop_assert!(tree.remove(&gone));
                    prop_assert!(!tree.remove(&gone));
                } else if subject::is_valid(pattern.as_bytes()) {
                    let new = interest(&pattern, is_queue.then_some("q"));
                    tree.insert(Arc::clone(&new));
                    model.push(new);
                }
                for probe in &probes {
                    let expected = model
                        .iter()
                        .filter(|one| subject::matches(&one.subject, probe.as_bytes()))
                        .count();
                    let found = tree.matches(probe.as_bytes()).map_or(0, |found| found.len());
                    prop_assert_eq!(found, expected, "{}", probe);
                }
            }
            for one in &model {
                tree.remove(one);
            }
            prop_assert!(tree.wild.is_empty() && tree.literal.is_empty());
        }
    }

    #[test]
    fn a_service_of_all_engines_is_found_once() {
        let mut tree = Sublist::new(1);
        for engine in 0..3 {
            let interest = EngineInterest {
                engine: LoopIndex(engine),
                key: 7,
                credit: crate::broker::Credit::Messages,
                is_brief: true,
            };
            assert!(tree.listen(b"_STAN.pub.x.>", interest));
            assert!(!tree.listen(b"_STAN.pub.x.>", interest));
        }
        let found = tree.matches(b"_STAN.pub.x.foo.bar").expect("engines listen");
        assert_eq!(found.engines.len(), 1);
        assert_eq!(found.engines[0].interest.engine, LoopIndex(1));
        assert_eq!(&b"_STAN.pub.x.foo.bar"[found.engines[0].prefix_len..], b"foo.bar");
    }

    #[test]
    fn subjects_with_empty_tokens_match_nothing() {
        let mut tree = Sublist::new(0);
        tree.insert(interest(">", None));
        for subject in ["", ".a", "a.", "a..b", "."] {
            assert!(tree.matches(subject.as_bytes()).is_none(), "{subject}");
        }
        assert!(tree.matches(b"a").is_some());
    }
}
