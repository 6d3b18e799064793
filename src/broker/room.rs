//! Whether those who read what an engine delivers have room for more.
//!
//! An engine has the inboxes of its subscriptions watched. When the outbox of a connection that
//! listens to one (without wildcards) is full, the engine is told so for all inboxes of that
//! connection, and again when half of it was taken: it holds back for those subscriptions alone,
//! and nobody is cut off who reads at all. Where the connection belongs to another loop, its gauge
//! says how full it is, what is in the mail included, and its owner mails when there is room.
//!
//! An inbox may need a listener (`Input::Watch`): there is no room while nobody is known to listen,
//! by its name or by a pattern, here or behind a route. Patterns that come and go have those looked
//! at that nobody names, in portions.
//!
//! With an external NATS server all inboxes have one reader, the connection to that server: nobody
//! here sees further. While it is not there, none of them has room.
//!
//! What waits for one connection is at most [`DELIVERY_PENDING_BYTES_MAX`] and what each engine
//! sends in one turn ([`crate::base::limits::TURN_BYTES_MAX`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::hash::QuickMap;
use crate::base::id::{AccountIndex, LoopIndex, SessionId};
use crate::base::limits::DELIVERY_PENDING_BYTES_MAX;
use crate::broker::last_word::ROOM_WORK;
use crate::broker::mail::{InboxName, Mail};
use crate::broker::outbox::Gauge;
use crate::broker::settings::Settings;
use crate::broker::sublist::{Found, Interest, Matched};
use crate::broker::{Broker, Effect};
use crate::wire::InboxState;

/// Nodes of patterns that are looked at for one inbox that nobody names.
const PATTERN_NODES_MAX: u64 = 4_096;

/// The inboxes that an engine has watched, and who listens to them.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    inboxes: QuickMap<u64, Inbox>,
    keys: QuickMap<InboxName, SmallVec<[u64; 1]>>,
    readers: BTreeMap<SessionId, Reader>,
    /// The connection to the external server, if there is to be one.
    upstream: Option<UpstreamReader>,
    /// Whether nothing is delivered because a former active may have something to say, or clients
    /// of this process.
    pub is_hearing_out: bool,
    /// Of the inboxes that need a listener those without one that names them: whether a pattern
    /// matches them is looked up when patterns come and go.
    unnamed: BTreeSet<u64>,
    /// Routes to members that may have something to say before what is behind them is delivered to.
    untold: BTreeSet<SessionId>,
}

/// The connection to the external server as a reader of all inboxes.
#[derive(Debug)]
struct UpstreamReader {
    gauge: Arc<Gauge>,
    is_reachable: bool,
    is_full: bool,
}

#[derive(Debug)]
struct Inbox {
    name: InboxName,
    /// Who listens, once for each interest: mostly one.
    sessions: SmallVec<[SessionId; 1]>,
    /// The routes behind which a reader is full.
    full_behind: SmallVec<[SessionId; 1]>,
    /// Whether there is no room while nobody listens.
    needs_listener: bool,
    /// Whether a pattern matches it, as far as that matters.
    is_matched: bool,
}

impl Inbox {
    fn is_unnamed(&self) -> bool {
        self.needs_listener && self.sessions.is_empty()
    }

    fn is_unheard(&self) -> bool {
        self.is_unnamed() && !self.is_matched
    }
}

/// A connection that listens to inboxes.
#[derive(Debug)]
struct Reader {
    gauge: Arc<Gauge>,
    /// What it listens to, with the number of its interests in each.
    keys: BTreeMap<u64, usize>,
    is_full: bool,
    /// Whose message was one too many: the others come first when there is room.
    last: u64,
}

impl Settings {
    /// Bytes in an outbox beyond which engines hold back.
    pub(super) fn delivery_high(&self) -> usize {
        (self.max_pending / 4).min(DELIVERY_PENDING_BYTES_MAX)
    }

    /// Bytes down to which they go on.
    pub(super) fn delivery_low(&self) -> usize {
        self.delivery_high() / 2
    }
}

impl Rooms {
    /// Somebody listens; gives the keys of that inbox if it is watched.
    fn on_interest(&mut self, interest: &Interest) -> SmallVec<[u64; 1]> {
        let keys = self.keys.get(&interest.inbox()).cloned().unwrap_or_default();
        for key in &keys {
            self.link(*key, interest);
        }
        keys
    }

    fn link(&mut self, key: u64, interest: &Interest) {
        let Some(inbox) = self.inboxes.get_mut(&key) else { return };
        inbox.sessions.push(interest.session);
        let reader = self.readers.entry(interest.session).or_insert_with(|| Reader {
            gauge: Arc::clone(&interest.gauge),
            keys: BTreeMap::new(),
            is_full: false,
            last: 0,
        });
        *reader.keys.entry(key).or_default() += 1;
    }

    /// Takes one interest of a session in an inbox out.
    fn unlink(&mut self, key: u64, session: SessionId) {
        if let Some(inbox) = self.inboxes.get_mut(&key)
            && let Some(at) = inbox.sessions.iter().position(|found| *found == session)
        {
            inbox.sessions.swap_remove(at);
            inbox.full_behind.retain(|route| *route != session);
        }
        let Some(reader) = self.readers.get_mut(&session) else { return };
        if let Some(count) = reader.keys.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                reader.keys.remove(&key);
            }
        }
        if reader.keys.is_empty() {
            self.readers.remove(&session);
        }
    }

    /// There is to be an external server; it is not there yet.
    pub(super) fn set_upstream(&mut self, gauge: Arc<Gauge>) {
        let (is_reachable, is_full) = (false, false);
        self.upstream = Some(UpstreamReader { gauge, is_reachable, is_full });
    }

    /// The external server has come or gone; gives the keys of all inboxes.
    pub(super) fn set_reachable(&mut self, is_reachable: bool) -> Vec<u64> {
        if let Some(upstream) = &mut self.upstream {
            upstream.is_reachable = is_reachable;
            upstream.is_full = false;
        }
        self.sorted_keys()
    }

    pub(super) fn sorted_keys(&self) -> Vec<u64> {
        let mut keys: Vec<u64> = self.inboxes.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Without the inboxes, but with what is known of the external server and of former actives.
    pub(super) fn emptied(self) -> Self {
        let Self { upstream, is_hearing_out, untold, .. } = self;
        Self { upstream, is_hearing_out, untold, ..Self::default() }
    }

    pub(super) fn is_watched(&self, key: u64) -> bool {
        self.inboxes.contains_key(&key)
    }

    pub(super) fn has_room(&self, key: u64) -> bool {
        if self.is_hearing_out {
            return false;
        }
        if let Some(upstream) = &self.upstream {
            return upstream.is_reachable && !upstream.is_full;
        }
        let is_full = |session| {
            self.readers.get(session).is_some_and(|reader| reader.is_full)
                || self.untold.contains(session)
        };
        self.inboxes.get(&key).is_none_or(|inbox| {
            inbox.full_behind.is_empty()
                && !inbox.sessions.iter().any(is_full)
                && !inbox.is_unheard()
        })
    }

    /// Whether what is behind a route may be delivered to; gives the keys of inboxes there.
    pub(super) fn set_untold(&mut self, route: SessionId, is_so: bool) -> Vec<u64> {
        if is_so {
            self.untold.insert(route);
        } else {
            self.untold.remove(&route);
        }
        let reader = self.readers.get(&route);
        reader.map(|reader| reader.keys.keys().copied().collect()).unwrap_or_default()
    }

    /// The keys of an inbox for which it changes that a reader behind `route` is full or not.
    pub(super) fn set_behind(
        &mut self,
        route: SessionId,
        inbox: &InboxName,
        has_room: bool,
    ) -> Vec<u64> {
        let keys = self.keys.get(inbox).cloned().unwrap_or_default();
        let mut changed = Vec::new();
        for key in keys {
            let could = self.has_room(key);
            if let Some(inbox) = self.inboxes.get_mut(&key) {
                inbox.full_behind.retain(|other| *other != route);
                if !has_room && inbox.sessions.contains(&route) {
                    inbox.full_behind.push(route);
                }
            }
            if could != self.has_room(key) {
                changed.push(key);
            }
        }
        changed
    }
}

impl Broker {
    /// How much is known of inboxes and who listens to them.
    #[cfg(test)]
    pub(super) fn watched_count(&self) -> usize {
        self.engines.rooms.inboxes.len()
            + self.engines.rooms.keys.len()
            + self.engines.rooms.readers.len()
    }

    /// Somebody listens, maybe to an inbox that is watched.
    pub(super) fn on_reader_come(&mut self, interest: &Interest) {
        let keys = self.engines.rooms.on_interest(interest);
        for key in &keys {
            // Whoever waited for a listener has one.
            if self.engines.rooms.unnamed.remove(key) && self.engines.rooms.has_room(*key) {
                self.effects.push_back(Effect::Room { key: *key, has_room: true });
            }
        }
        if keys.is_empty() || !interest.rules.is_server {
            return;
        }
        if self.engines.rooms.untold.contains(&interest.session) {
            self.effects.extend(keys.into_iter().map(|key| Effect::Room { key, has_room: false }));
        }
        self.tell_peer(interest.session, &interest.inbox(), InboxState::Paced);
    }

    pub(super) fn on_watch(&mut self, key: u64, name: InboxName, needs_listener: bool) {
        let interests = self.accounts[name.0].literal_interests(&name.1);
        self.engines.rooms.keys.entry(name.clone()).or_default().push(key);
        let (sessions, full_behind) = (SmallVec::new(), SmallVec::new());
        let inbox = Inbox { name, sessions, full_behind, needs_listener, is_matched: false };
        self.engines.rooms.inboxes.insert(key, inbox);
        if needs_listener && interests.is_empty() {
            self.engines.rooms.unnamed.insert(key);
            self.look_for_pattern(key);
        }
        let high = self.settings.delivery_high();
        for interest in interests {
            self.engines.rooms.link(key, &interest);
            if interest.rules.is_server {
                self.tell_peer(interest.session, &interest.inbox(), InboxState::Paced);
            }
            if high < interest.gauge.delivery_bytes() {
                self.on_full(interest.session, key);
            }
        }
        let has_room = self.engines.rooms.has_room(key);
        self.effects.push_back(Effect::Room { key, has_room });
    }

    /// A message went to the external server: whether one more, for whomever, would be too many.
    pub(super) fn look_for_upstream_room(&mut self) {
        let (home, high, low) =
            (self.home, self.settings.delivery_high(), self.settings.delivery_low());
        let Some(upstream) = &mut self.engines.rooms.upstream else { return };
        let is_high = high < upstream.gauge.delivery_bytes();
        if !is_high || upstream.is_full || !upstream.gauge.watch(home, low) {
            return;
        }
        upstream.is_full = true;
        for key in self.engines.rooms.sorted_keys() {
            self.effects.push_back(Effect::Room { key, has_room: false });
        }
    }

    /// The external server has taken what waited.
    fn on_upstream_room(&mut self) {
        let Some(upstream) = &mut self.engines.rooms.upstream else { return };
        if !std::mem::take(&mut upstream.is_full) || !upstream.is_reachable {
            return;
        }
        for key in self.engines.rooms.sorted_keys() {
            self.effects.push_back(Effect::Room { key, has_room: true });
        }
    }

    pub(super) fn on_unwatch(&mut self, key: u64) {
        let Some(inbox) = self.engines.rooms.inboxes.get(&key) else { return };
        let (name, sessions) = (inbox.name.clone(), inbox.sessions.clone());
        for session in sessions {
            self.engines.rooms.unlink(key, session);
        }
        self.engines.rooms.inboxes.remove(&key);
        self.engines.rooms.unnamed.remove(&key);
        if let Some(keys) = self.engines.rooms.keys.get_mut(&name) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.engines.rooms.keys.remove(&name);
            }
        }
    }

    /// A message went to an inbox: whether one more would be too many.
    pub(super) fn look_for_room(&mut self, key: u64, account: AccountIndex, matched: &Matched) {
        let high = self.settings.delivery_high();
        let is_full = |interest: &&Arc<Interest>| {
            high < interest.gauge.delivery_bytes() && interest.is_literal
        };
        let sublist = &self.accounts[account];
        let queued = matched.queues.iter().flat_map(|queue| sublist.listeners(&queue.groups));
        let all = matched.plain.iter().chain(&matched.routes).chain(queued);
        // Mostly there is none, and nothing to remember.
        let full: Vec<SessionId> = all.filter(is_full).map(|interest| interest.session).collect();
        for session in full {
            self.on_full(session, key);
        }
    }

    #[cold]
    fn on_full(&mut self, session: SessionId, key: u64) {
        let (home, low) = (self.home, self.settings.delivery_low());
        let Some(reader) = self.engines.rooms.readers.get_mut(&session) else { return };
        if reader.is_full || !reader.gauge.watch(home, low) {
            return;
        }
        reader.is_full = true;
        reader.last = key;
        let told = reader.keys.keys().map(|key| Effect::Room { key: *key, has_room: false });
        self.effects.extend(told);
    }

    /// Less waits for a session of this loop; true if somebody has to be told.
    pub(super) fn on_less_pending(&mut self, id: SessionId) -> bool {
        let low = self.settings.delivery_low();
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let watchers = session.outbox.take_watchers(low);
        let has_room = session.outbox.delivery_len() <= low;
        let told_peers =
            has_room && session.client().is_some_and(|client| !client.full_for.is_empty());
        if told_peers {
            self.tell_peers_room(id);
        }
        if watchers == 0 {
            return told_peers;
        }
        for to in (0..self.settings.loops).map(LoopIndex).filter(|to| watchers & (1 << to.0) != 0) {
            if to == self.home {
                self.on_room(id);
            } else {
                self.effects.push_back(Effect::Mail { to, mail: Mail::Room(id) });
            }
        }
        true
    }

    /// A connection has room again: its inboxes go on in turns.
    pub(super) fn on_room(&mut self, session: SessionId) {
        if self.engines.rooms.upstream.is_some() {
            return self.on_upstream_room();
        }
        let Some(reader) = self.engines.rooms.readers.get_mut(&session) else { return };
        if !std::mem::take(&mut reader.is_full) {
            return;
        }
        let reader = &self.engines.rooms.readers[&session];
        let later = reader.keys.range((Bound::Excluded(reader.last), Bound::Unbounded));
        let in_turns = later.chain(reader.keys.range(..=reader.last));
        for (key, _) in in_turns {
            if self.engines.rooms.has_room(*key) {
                self.effects.push_back(Effect::Room { key: *key, has_room: true });
            }
        }
    }

    /// Whether a pattern matches an inbox that needs a listener. Where that takes a long search
    /// there are very many patterns, and one of them may.
    fn look_for_pattern(&mut self, key: u64) {
        let Some(inbox) = self.engines.rooms.inboxes.get_mut(&key) else { return };
        let (account, subject) = &inbox.name;
        let found = self.accounts[*account].matches_some(subject, PATTERN_NODES_MAX, &mut None);
        inbox.is_matched = match found {
            Found::All(found) => found.is_some(),
            Found::Some => true,
        };
        self.work += ROOM_WORK;
    }

    /// A pattern came or went.
    pub(super) fn on_pattern(&mut self) {
        let rooms = &self.engines.rooms;
        if rooms.upstream.is_none() && !rooms.unnamed.is_empty() {
            self.backlog.unnamed.0 = rooms.unnamed.len();
            self.work_off();
        }
    }

    /// Looks at inboxes that need a listener, in turns, and tells the engine of those for which
    /// that has changed.
    pub(super) fn look_at_unnamed(&mut self, limit: u64) {
        while self.backlog.unnamed.0 > 0 && self.work_done() < limit {
            let rooms = &self.engines.rooms;
            let (left, from) = self.backlog.unnamed;
            let next = rooms.unnamed.range(from..).next().or_else(|| rooms.unnamed.first());
            let Some(key) = next.copied() else {
                self.backlog.unnamed = (0, 0);
                return;
            };
            self.backlog.unnamed = (left - 1, key.saturating_add(1));
            let could = rooms.has_room(key);
            self.look_for_pattern(key);
            let has_room = self.engines.rooms.has_room(key);
            if could != has_room {
                self.effects.push_back(Effect::Room { key, has_room });
            }
        }
    }

    /// An interest ended: nobody waits for who listened.
    pub(super) fn on_reader_gone(&mut self, interest: &Interest) {
        let Some(keys) = self.engines.rooms.keys.get(&interest.inbox()).cloned() else { return };
        let session = interest.session;
        for key in keys {
            let had_room = self.engines.rooms.has_room(key);
            self.engines.rooms.unlink(key, session);
            if self.engines.rooms.inboxes.get(&key).is_some_and(Inbox::is_unnamed) {
                self.engines.rooms.unnamed.insert(key);
                self.look_for_pattern(key);
            }
            let has_room = self.engines.rooms.has_room(key);
            if had_room != has_room {
                self.effects.push_back(Effect::Room { key, has_room });
            }
        }
    }
}
