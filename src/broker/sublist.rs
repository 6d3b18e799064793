//! The interest tree: subject → interests, choice in a queue.
//!
//! Every loop has one for each account, with the interests of all loops. Subjects without
//! wildcards are one hash look-up; the others are a tree by tokens. What was found for a subject is
//! kept, until an interest that could change it comes or goes. The members of queues are not a part
//! of that: they are asked for where they are, so that a member may come and go at the price of
//! one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use crate::base::hash::QuickMap;
use crate::base::id::{AccountIndex, SessionId};
use crate::base::subject;
use crate::broker::account::Permissions;
use crate::broker::group::{Group, Places, Slot};
use crate::broker::kind::Rules;
use crate::broker::mail::InboxName;
use crate::broker::matched::Listing;
use crate::broker::outbox::Gauge;
use crate::broker::patterns::{self, Content, Patterns};
use crate::broker::session::Session;
use crate::broker::snapshot::SubscriptionsSnapshot;
use crate::broker::{Credit, EngineInterest};

pub use crate::broker::matched::{Matched, QueueMatch};

/// Subjects whose receivers are remembered (spec core NATS, 1.2).
const CACHE_LEN_MAX: usize = 1024;

/// Receivers that are remembered over all subjects: what one change of an interest may have to
/// forget at once.
const CACHE_FANOUT_MAX: u64 = 64 * 1024;

/// Nodes that were looked at in vain, from which on that is remembered.
const WORTH_A_PLACE: u64 = 64;

/// Nodes that are looked at to find a listener of one session.
const LISTENER_SEARCH_MAX: u64 = 4 * 1024;

/// Work of an interest that comes or goes, in receivers of a message, but for its names.
pub(super) const INTEREST_WORK: usize = 4;

/// Bytes of a name that are looked at in the time of one receiver.
pub(super) const BYTES_PER_WORK: usize = 64;

/// Up to so many queues of a subject are a list.
const LISTED_QUEUES_MAX: usize = 8;

/// One SUB of a client, or one RS+ of a route. Shared by the trees of all loops; only the loop
/// that owns the session writes the numbers in it.
#[derive(Debug)]
pub struct Interest {
    /// Who listens.
    pub session: SessionId,
    /// In which account.
    pub account: AccountIndex,
    /// What its listener's kind gets.
    pub rules: &'static Rules,
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
    /// Where it lies in the trees.
    pub places: Places,
}

impl Interest {
    /// An interest of `session`, with its subject, queue and name, which may share their memory.
    pub(super) fn new(
        session: &Session,
        account: AccountIndex,
        (subject, queue, sid): (Bytes, Option<Bytes>, Bytes),
        loops: u16,
    ) -> Self {
        Self {
            session: session.id,
            account,
            rules: session.rules(),
            is_literal: !subject::has_wildcard(&subject),
            subject,
            queue,
            sid,
            filter: None,
            gauge: session.outbox.gauge(),
            delivered: AtomicU64::new(0),
            delivered_max: AtomicU64::new(0),
            weight: AtomicU32::new(1),
            is_gone: AtomicBool::new(false),
            is_paced_by_peer: AtomicBool::new(false),
            places: Places::new(loops),
        }
    }

    /// What it takes to add or remove it, in receivers of a message: its names are looked at byte
    /// by byte, on each loop.
    pub fn work(&self) -> usize {
        INTEREST_WORK + self.name_work()
    }

    /// That of its names alone.
    pub fn name_work(&self) -> usize {
        (self.subject.len() + self.sid.len()) / BYTES_PER_WORK
    }

    /// Its subject as that of an inbox.
    pub(super) fn inbox(&self) -> InboxName {
        (self.account, self.subject.clone())
    }

    /// Whether it ended, or its listener did.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed) || self.gauge.is_closed()
    }

    /// Whether a message on `subject` must not be delivered.
    #[must_use]
    pub fn is_filtered(&self, subject: &[u8]) -> bool {
        self.filter.as_ref().is_some_and(|permissions| permissions.is_filtered(subject))
    }
}

/// What a search came to.
#[derive(Debug)]
pub enum Found {
    /// All receivers; `None` if there are none.
    All(Option<Arc<Matched>>),
    /// Some are found, more may be: it has to go on.
    Some,
}

/// A search that goes on.
#[derive(Debug)]
pub struct Search {
    tokens: patterns::Search,
    /// How often the tree had changed when it began.
    begun_at: u64,
    visited: u64,
    listing: Listing,
}

/// The members of one queue that listen on one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupId {
    place: usize,
    /// No other group ever has it: a message that is given out in portions asks for groups that
    /// may have gone meanwhile, and others may have come in their places.
    number: u64,
}

/// A slot of the groups of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    part: usize,
    slot: usize,
    /// Where to begin among the members there.
    pub member: u64,
}

/// Everybody who listens on one subject or pattern.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub plain: Group,
    /// What few subjects have.
    pub more: Option<Box<More>>,
}

#[derive(Debug, Default)]
pub(super) struct More {
    pub queues: Queues,
    pub engines: Vec<EngineInterest>,
}

impl Content for Entries {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.more.is_none()
    }
}

impl Entries {
    fn drop_empty(&mut self) {
        self.more.take_if(|more| more.queues.is_empty() && more.engines.is_empty());
    }
}

/// The groups of a subject by the name of their queue.
#[derive(Debug)]
pub(super) enum Queues {
    Few(Vec<(Bytes, GroupId)>),
    Many(BTreeMap<Bytes, GroupId>),
}

impl Default for Queues {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Queues {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    fn get(&self, name: &Bytes) -> Option<GroupId> {
        match self {
            Self::Few(list) => list.iter().find(|(known, _)| known == name).map(|(_, id)| *id),
            Self::Many(map) => map.get(name).copied(),
        }
    }

    fn insert(&mut self, name: Bytes, group: GroupId) {
        match self {
            Self::Few(list) if list.len() < LISTED_QUEUES_MAX => list.push((name, group)),
            Self::Few(list) => {
                let listed = std::mem::take(list).into_iter();
                *self = Self::Many(listed.chain([(name, group)]).collect());
            }
            Self::Many(map) => {
                map.insert(name, group);
            }
        }
    }

    fn remove(&mut self, name: &Bytes) {
        match self {
            Self::Few(list) => list.retain(|(known, _)| known != name),
            Self::Many(map) => {
                map.remove(name);
            }
        }
    }

    pub fn each(&self, mut act: impl FnMut(&Bytes, GroupId)) {
        match self {
            Self::Few(list) => list.iter().for_each(|(name, id)| act(name, *id)),
            Self::Many(map) => map.iter().for_each(|(name, id)| act(name, *id)),
        }
    }
}

/// The members of a queue on one subject.
#[derive(Debug, Default)]
struct QueueGroup {
    number: u64,
    clients: Group,
    routes: Group,
}

impl QueueGroup {
    fn of(&mut self, interest: &Interest) -> &mut Group {
        if interest.rules.shares_copies { &mut self.routes } else { &mut self.clients }
    }
}

/// The interest tree of one account, as one loop has it.
#[derive(Debug, Default)]
pub struct Sublist {
    home: u16,
    literal: QuickMap<Bytes, Entries>,
    wild: Patterns<Entries>,
    groups: Slab<QueueGroup>,
    cache: QuickMap<Bytes, Arc<Matched>>,
    len: u64,
    insert_count: u64,
    remove_count: u64,
    match_count: u64,
    hit_count: u64,
    fanout_max: u64,
    fanout_total: u64,
    /// Nodes and entries that were looked at, for the budgets of turns.
    visited: u64,
}

impl Sublist {
    /// An empty tree of the loop with this number.
    #[must_use]
    pub fn new(home: u16) -> Self {
        Self { home, ..Self::default() }
    }

    /// Adds an interest. Its subject was checked to be valid.
    pub fn insert(&mut self, interest: Arc<Interest>) {
        self.insert_count += 1;
        self.len += 1;
        self.visited += 1;
        let subject = interest.subject.clone();
        let home = self.home;
        let Some(name) = interest.queue.clone() else {
            self.entries(&subject).plain.insert(interest, home);
            self.on_change(&subject);
            return;
        };
        let queues = &mut self.entries(&subject).more.get_or_insert_default().queues;
        if let Some(group) = queues.get(&name) {
            self.groups[group.place].of(&interest).insert(interest, home);
            return;
        }
        // As many have come before as interests, at most.
        let number = self.insert_count;
        let mut group = QueueGroup { number, ..QueueGroup::default() };
        group.of(&interest).insert(interest, home);
        let id = GroupId { place: self.groups.insert(group), number };
        let more = self.entries(&subject).more.get_or_insert_default();
        more.queues.insert(name, id);
        self.on_change(&subject);
    }

    /// Takes an interest out; false if it is not there.
    pub fn remove(&mut self, interest: &Arc<Interest>) -> bool {
        let subject = interest.subject.clone();
        let home = self.home;
        self.visited += 1;
        let is_removed = match &interest.queue {
            None => {
                let is_removed =
                    self.change(&subject, |entries| entries.plain.remove(interest, home));
                if is_removed {
                    self.on_change(&subject);
                }
                is_removed
            }
            Some(name) => self.remove_member(&subject, name, interest),
        };
        if is_removed {
            self.remove_count += 1;
            self.len -= 1;
        }
        is_removed
    }

    fn remove_member(&mut self, subject: &Bytes, name: &Bytes, gone: &Arc<Interest>) -> bool {
        let Some(id) = self.group_of(subject, name) else { return false };
        let home = self.home;
        let group = &mut self.groups[id.place];
        if !group.of(gone).remove(gone, home) {
            return false;
        }
        if group.clients.is_empty() && group.routes.is_empty() {
            self.groups.remove(id.place);
            self.change(subject, |entries| {
                if let Some(more) = &mut entries.more {
                    more.queues.remove(name);
                }
                entries.drop_empty();
            });
            self.on_change(subject);
        }
        true
    }

    fn group_of(&self, subject: &[u8], name: &Bytes) -> Option<GroupId> {
        let entries = if subject::has_wildcard(subject) {
            self.wild.get(subject)
        } else {
            self.literal.get(subject)
        };
        entries?.more.as_ref()?.queues.get(name)
    }

    /// A route's interest in a queue stands for another number of members than before.
    pub fn reweigh(&mut self, interest: &Arc<Interest>) {
        let Some(name) = &interest.queue else { return };
        if let Some(id) = self.group_of(&interest.subject, name) {
            self.groups[id.place].of(interest).reweigh(interest);
        }
    }

    /// Whether an engine takes requests on this subject.
    pub fn is_served(&self, subject: &[u8]) -> bool {
        let more = self.literal.get(subject).and_then(|entries| entries.more.as_ref());
        let takes_requests =
            |interest: &EngineInterest| interest.credit == Credit::Requests && interest.is_here();
        more.is_some_and(|more| more.engines.iter().any(takes_requests))
    }

    /// Adds an engine's interest; nothing happens if it is there.
    pub fn listen(&mut self, subject: &[u8], interest: EngineInterest) -> bool {
        let engines = &mut self.entries(subject).more.get_or_insert_default().engines;
        if engines.contains(&interest) {
            return false;
        }
        engines.push(interest);
        engines.sort_unstable();
        self.on_change(subject);
        self.len += u64::from(interest.is_here());
        self.insert_count += 1;
        true
    }

    /// Takes an engine's interest out; false if it is not there.
    pub fn unlisten(&mut self, subject: &[u8], interest: EngineInterest) -> bool {
        let is_removed = self.change(subject, |entries| {
            let Some(more) = &mut entries.more else { return false };
            let count = more.engines.len();
            more.engines.retain(|other| *other != interest);
            let is_removed = more.engines.len() < count;
            entries.drop_empty();
            is_removed
        });
        if is_removed {
            self.on_change(subject);
            self.len -= u64::from(interest.is_here());
            self.remove_count += 1;
        }
        is_removed
    }

    /// All receivers of a literal subject; `None` if there are none.
    pub fn matches(&mut self, subject: &[u8]) -> Option<Arc<Matched>> {
        match self.find(subject, u64::MAX) {
            Found::All(found) => found,
            Found::Some => unreachable!("there is no bound"),
        }
    }

    /// The same in portions: looks at about `most` nodes. If that is not enough, what is known so
    /// far is kept in `search`, for the next call with the same subject.
    pub fn matches_some(
        &mut self,
        subject: &[u8],
        most: u64,
        search: &mut Option<Box<Search>>,
    ) -> Found {
        let known = search.take().filter(|search| search.tokens.subject == subject);
        let Some(mut known) = known else {
            let found = self.find(subject, most);
            if matches!(found, Found::Some) {
                // Where it stopped is not known: what was seen is seen once more.
                *search = Some(Box::new(Search {
                    tokens: patterns::Search::new(subject),
                    begun_at: self.change_count(),
                    visited: 0,
                    listing: Listing::default(),
                }));
            }
            return found;
        };
        let visited = self.wild.go_on(&mut known.tokens, most);
        self.visited += visited;
        known.visited += visited;
        if !known.tokens.is_done() {
            *search = Some(known);
            return Found::Some;
        }
        if !self.list_some(&mut known, most.saturating_sub(visited)) {
            *search = Some(known);
            return Found::Some;
        }
        let found = known.listing.found;
        // What is remembered must be right from now on, not from when the search began.
        let is_lasting = known.begun_at == self.change_count();
        Found::All(self.complete(subject, found, known.visited, is_lasting))
    }

    /// Lists about `most` of the receivers that a search has found; true if these are all.
    fn list_some(&mut self, search: &mut Search, most: u64) -> bool {
        let Search { tokens, listing, .. } = search;
        let mut listed = 0;
        while listing.patterns_done <= tokens.found.len() {
            if most.max(1) <= listed {
                self.visited += listed;
                return false;
            }
            let entries = match listing.patterns_done.checked_sub(1) {
                None => self.literal.get(&tokens.subject[..]),
                Some(at) => self.wild.at(&tokens.found[at].0, tokens.found[at].1),
            };
            listed += 1 + listing.add_some(entries, self.home, most);
        }
        self.visited += listed;
        true
    }

    fn find(&mut self, subject: &[u8], most: u64) -> Found {
        self.match_count += 1;
        if let Some(found) = self.cache.get(subject) {
            self.hit_count += 1;
            return Found::All(Some(Arc::clone(found)).filter(|found| !found.is_empty()));
        }
        if subject::has_empty_token(subject) {
            return Found::All(None);
        }
        let mut found = Matched::default();
        let mut queue_count = 0;
        let mut add = |entries: &Entries| {
            queue_count += entries.more.as_ref().map_or(0, |more| more.queues.len()) as u64;
            if queue_count <= most {
                found.add(entries, self.home);
            }
        };
        self.literal.get(subject).into_iter().for_each(&mut add);
        let (visited, is_whole) = self.wild.matches(subject, most, &mut add);
        self.visited += visited + found.fanout();
        if !is_whole || most < queue_count {
            return Found::Some;
        }
        Found::All(self.complete(subject, found, visited, true))
    }

    /// Remembers what was found after so many nodes, where it is right from now on.
    fn complete(
        &mut self,
        subject: &[u8],
        mut found: Matched,
        visited: u64,
        is_lasting: bool,
    ) -> Option<Arc<Matched>> {
        // Subjects that nobody listens to are legion (replies); they are not worth a place unless
        // it was much work to find that out.
        if found.is_empty() && visited < WORTH_A_PLACE {
            return None;
        }
        found.join();
        let fanout = found.fanout();
        let found = Arc::new(found);
        if is_lasting && fanout <= CACHE_FANOUT_MAX {
            if self.cache.len() >= CACHE_LEN_MAX || self.fanout_total + fanout > CACHE_FANOUT_MAX {
                self.clear_cache();
            }
            self.fanout_max = self.fanout_max.max(fanout);
            self.fanout_total += fanout;
            self.cache.insert(Bytes::copy_from_slice(subject), Arc::clone(&found));
        }
        Some(found).filter(|found| !found.is_empty())
    }

    /// A session has remembered who gets its message.
    #[inline]
    pub(super) fn count_recalled(&mut self, has_receivers: bool) {
        self.match_count += 1;
        self.hit_count += u64::from(has_receivers);
    }

    /// How many interests have come or gone: while it stays, so does what was found.
    #[inline]
    pub(super) fn change_count(&self) -> u64 {
        self.insert_count + self.remove_count
    }

    /// The interests in exactly this subject, none of them with wildcards.
    pub fn literal_interests(&self, subject: &[u8]) -> Vec<Arc<Interest>> {
        let Some(entries) = self.literal.get(subject) else { return Vec::new() };
        let mut slots: Vec<&Slot> = entries.plain.slots().iter().collect();
        if let Some(more) = &entries.more {
            more.queues.each(|_, id| {
                let group = &self.groups[id.place];
                slots.extend(group.clients.slots().iter().chain(group.routes.slots()));
            });
        }
        slots.into_iter().flat_map(Slot::interests).cloned().collect()
    }

    /// An interest of `session` without a queue that a literal subject matches. It is not looked
    /// for without end: a reply of ten tokens is found whatever others listen to.
    pub fn interest_of(&mut self, session: SessionId, subject: &[u8]) -> Option<Arc<Interest>> {
        if subject::has_empty_token(subject) {
            return None;
        }
        let of_session =
            |entries: &Entries| entries.plain.slot_of(session).map(|slot| Arc::clone(slot.first()));
        let mut found = self.literal.get(subject).and_then(of_session);
        if found.is_none() {
            let (visited, _) = self.wild.matches(subject, LISTENER_SEARCH_MAX, |entries| {
                found = found.take().or_else(|| of_session(entries));
            });
            self.visited += visited;
        }
        found
    }

    /// The queue of this name that a literal subject reaches, without a look at the others.
    pub fn queue_of(&mut self, subject: &[u8], name: &Bytes) -> QueueMatch {
        let of_name = |entries: &Entries| entries.more.as_ref()?.queues.get(name);
        let mut groups: SmallVec<[GroupId; 1]> =
            self.literal.get(subject).and_then(of_name).into_iter().collect();
        let (visited, _) = self.wild.matches(subject, LISTENER_SEARCH_MAX, |entries| {
            groups.extend(of_name(entries));
        });
        self.visited += visited;
        QueueMatch { name: name.clone(), groups }
    }

    /// Members of a queue, weighted; with or without those that routes stand for.
    #[must_use]
    pub fn weight(&self, groups: &[GroupId], with_routes: bool) -> u64 {
        parts(groups, with_routes)
            .map(|part| self.part(groups, part).map_or(0, Group::weight))
            .sum()
    }

    /// The slot of the `member`-th of them.
    #[must_use]
    pub fn draw(&self, groups: &[GroupId], with_routes: bool, mut member: u64) -> Cursor {
        for part in parts(groups, with_routes) {
            let Some(group) = self.part(groups, part) else { continue };
            let weight = group.weight();
            if member < weight {
                let (slot, member) = group.draw(member);
                return Cursor { part, slot, member };
            }
            member -= weight;
        }
        Cursor { part: 0, slot: 0, member: 0 }
    }

    /// The cursor of the next slot; behind the last comes the first.
    #[must_use]
    pub fn next(&self, groups: &[GroupId], with_routes: bool, at: Cursor) -> Cursor {
        let len = |part| self.part(groups, part).map_or(0, |group| group.slots().len());
        if at.slot + 1 < len(at.part) {
            return Cursor { part: at.part, slot: at.slot + 1, member: 0 };
        }
        let all = parts(groups, with_routes);
        let others = all.clone().skip_while(|part| *part <= at.part).chain(all);
        let part = others.into_iter().find(|part| len(*part) > 0).unwrap_or(0);
        Cursor { part, slot: 0, member: 0 }
    }

    /// The slot at a cursor.
    #[must_use]
    pub fn slot(&self, groups: &[GroupId], at: Cursor) -> Option<&Slot> {
        self.part(groups, at.part)?.slots().get(at.slot)
    }

    /// How many slots the groups of a queue have.
    #[must_use]
    pub fn slot_count(&self, groups: &[GroupId], with_routes: bool) -> usize {
        let len = |part| self.part(groups, part).map_or(0, |group| group.slots().len());
        parts(groups, with_routes).map(len).sum()
    }

    /// An interest of each session that is in a queue.
    pub fn listeners<'a>(
        &'a self,
        groups: &'a [GroupId],
    ) -> impl Iterator<Item = &'a Arc<Interest>> + Clone {
        let all = parts(groups, true).filter_map(|part| self.part(groups, part));
        all.flat_map(|group| group.slots().iter().map(Slot::first))
    }

    /// Clients and routes of each group are a part each.
    fn part(&self, groups: &[GroupId], part: usize) -> Option<&Group> {
        let id = groups.get(part / 2)?;
        let group = self.groups.get(id.place).filter(|group| group.number == id.number)?;
        Some(if part.is_multiple_of(2) { &group.clients } else { &group.routes })
    }

    /// Nodes and entries that were looked at.
    #[inline]
    #[must_use]
    pub fn visited(&self) -> u64 {
        self.visited
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
            return self.wild.entry(subject);
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
            self.fanout_total = self.fanout_total.saturating_sub(old.fanout());
        }
    }

    fn clear_cache(&mut self) {
        self.cache.clear();
        self.fanout_max = 0;
        self.fanout_total = 0;
    }
}

fn parts(groups: &[GroupId], with_routes: bool) -> impl Iterator<Item = usize> + Clone + use<> {
    (0..groups.len() * 2).step_by(if with_routes { 1 } else { 2 })
}

#[cfg(test)]
pub(in crate::broker) mod tests {
    use super::*;
    use crate::base::id::LoopIndex;
    use crate::base::time::Now;
    use crate::broker::kind::Kind;
    use proptest::prelude::*;

    fn interest(subject: &str, queue: Option<&str>) -> Arc<Interest> {
        interest_of(0, subject, queue)
    }

    /// An interest of the session in this slot.
    pub fn interest_of(slot: u32, subject: &str, queue: Option<&str>) -> Arc<Interest> {
        let id = SessionId { home: LoopIndex(0), slot, generation: 0 };
        let peer = ([127, 0, 0, 1], 5000).into();
        let session = Session::new(id, 0, Kind::Client(Box::default()), peer, Now::default());
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let names = (bytes(subject), queue.map(bytes), Bytes::new());
        Arc::new(Interest::new(&session, AccountIndex::GLOBAL, names, 1))
    }

    /// All interests that are found for a subject.
    fn found_len(tree: &mut Sublist, subject: &[u8]) -> usize {
        let Some(found) = tree.matches(subject) else { return 0 };
        let members = |queue: &QueueMatch| tree.weight(&queue.groups, true);
        let in_queues: u64 = found.queues.iter().map(members).sum();
        found.plain.len()
            + found.engines.len()
            + found.kept.len()
            + usize::try_from(in_queues).unwrap_or(0)
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
            steps in prop::collection::vec(
                (subject_strategy(), any::<bool>(), 0..30_usize, 0..20_u32),
                1..60,
            ),
            probes in prop::collection::vec(subject_strategy(), 1..6),
        ) {
            let mut tree = Sublist::new(0);
            let mut model: Vec<Arc<Interest>> = Vec::new();
            for (pattern, is_queue, victim, slot) in steps {
                if victim < model.len() {
                    let gone = model.swap_remove(victim);
                    prop_assert!(tree.remove(&gone));
                    prop_assert!(!tree.remove(&gone));
                } else if subject::is_valid(pattern.as_bytes()) {
                    let new = interest_of(slot, &pattern, is_queue.then_some("q"));
                    tree.insert(Arc::clone(&new));
                    model.push(new);
                }
                for probe in &probes {
                    let expected = model
                        .iter()
                        .filter(|one| subject::matches(&one.subject, probe.as_bytes()))
                        .count();
                    let found = found_len(&mut tree, probe.as_bytes());
                    prop_assert_eq!(found, expected, "{}", probe);
                }
            }
            for one in &model {
                tree.remove(one);
            }
            let is_empty = tree.wild.is_empty() && tree.literal.is_empty();
            prop_assert!(is_empty && tree.groups.is_empty());
        }
    }

    #[test]
    fn a_service_of_all_engines_is_found_once() {
        let mut tree = Sublist::new(1);
        for engine in 0..3 {
            let interest = EngineInterest {
                engine: LoopIndex(engine),
                account: AccountIndex::GLOBAL,
                key: 7,
                credit: crate::broker::Credit::Messages,
                is_brief: true,
                keeper: None,
            };
            assert!(tree.listen(b"_STAN.pub.x.>", interest));
            assert!(!tree.listen(b"_STAN.pub.x.>", interest));
        }
        let found = tree.matches(b"_STAN.pub.x.foo.bar").expect("engines listen");
        assert_eq!(found.engines.len(), 1);
        assert_eq!(found.engines[0].engine, LoopIndex(1));
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
