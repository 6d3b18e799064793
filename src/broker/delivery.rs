//! Where a message goes: matching, choice in queues, bytes into outboxes.
//!
//! A message is matched once, on the loop where it arrived. Receivers there get it at once; those
//! of other loops are picked here and get it by mail.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::base::errand::Errand;
use crate::base::hash::QuickMap;
use crate::base::id::{AccountIndex, LoopIndex, SessionId, Subject};
use crate::base::origin::Origin;
use crate::broker::kind::Kind;
use crate::broker::mail::{Delivery, Mail, Pick, PickList, RoutePick};
use crate::broker::outbox::{COPY_LEN_MAX, Outbox};
use crate::broker::sublist::{Cursor, Interest, Matched, QueueMatch};
use crate::broker::{Broker, Credit, Effect, EngineDelivery, EngineInterest, Names, Post};
use crate::wire::op::{Publish, words};
use crate::wire::parser::{ROUTE_LINE_MAX, ROUTE_NAMES_LINE_MAX};
use crate::wire::{CloseReason, encoder};

/// Work of an engine with what it is given, in receivers of a message: requests are decoded, looked
/// up and answered in the same turn, those that make no sense too.
const ENGINE_WORK: u64 = 16;

/// So many bytes that are copied for each receiver take about as long as one more receiver.
const BYTES_PER_WORK: usize = 256;

/// Bytes that messages for engines share in one allocation.
pub(super) const CHUNK_LEN: usize = 64 * 1024;

/// A part of a payload: a view, and the shared bytes behind it where there are some.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    bytes: &'a [u8],
    shared: Option<&'a Bytes>,
}

impl<'a> Part<'a> {
    pub fn new(bytes: &'a [u8], shared: Option<&'a Bytes>) -> Self {
        Self { bytes, shared }
    }

    pub fn shared(bytes: &'a Bytes) -> Self {
        Self { bytes, shared: Some(bytes) }
    }

    fn write(&self, skip: usize, outbox: &mut Outbox) {
        let bytes = &self.bytes[skip..];
        match self.shared {
            Some(shared) if bytes.len() > COPY_LEN_MAX => {
                outbox.put_shared(shared.slice_ref(bytes));
            }
            Some(_) | None => outbox.put_copy(bytes),
        }
    }
}

/// A message on its way.
pub(super) struct Message<'a> {
    pub account: AccountIndex,
    pub subject: &'a [u8],
    pub reply: Option<&'a [u8]>,
    /// Length of the header block at the start of the first part.
    pub header_len: usize,
    pub parts: [Part<'a>; 2],
    /// Whether an engine sent it.
    pub is_leased: bool,
    /// Whether that engine holds more back while there is no room: a delivery to a subscription.
    pub is_paced: bool,
    /// The route of a peer that is to be told if the receiver is full.
    pub via: Option<SessionId>,
}

impl Post {
    /// As a message on its way.
    pub(super) fn message<'a>(&'a self, reply: Option<&'a Subject>, is_paced: bool) -> Message<'a> {
        Message {
            account: self.account,
            subject: self.subject.as_bytes(),
            reply: reply.map(Subject::as_bytes),
            header_len: 0,
            parts: [Part::shared(&self.head), Part::shared(&self.tail)],
            is_leased: self.is_leased,
            is_paced,
            via: None,
        }
    }
}

impl<'a> Message<'a> {
    /// What a session has said before, for engines.
    pub fn of_ledger(account: AccountIndex, names: &'a Names, payload: &'a Bytes) -> Self {
        Self {
            account,
            subject: names.subject(),
            reply: names.reply(),
            header_len: 0,
            parts: [Part::shared(payload), Part::new(b"", None)],
            is_leased: false,
            is_paced: false,
            via: None,
        }
    }

    /// What a session says; `frame` is the whole of it, where receivers share its payload.
    pub fn said(account: AccountIndex, publish: &Publish<'a>, frame: Option<&'a Bytes>) -> Self {
        Self {
            account,
            subject: publish.subject,
            reply: publish.reply,
            header_len: publish.header_len.unwrap_or(0),
            parts: [Part::new(publish.payload, frame), Part::new(b"", None)],
            is_leased: false,
            is_paced: false,
            via: None,
        }
    }
}

impl Message<'_> {
    pub fn len(&self) -> usize {
        self.parts[0].bytes.len() + self.parts[1].bytes.len()
    }

    /// What each receiver costs: what is copied for each counts.
    pub fn weight(&self) -> usize {
        weight(self.subject, self.reply, self.len())
    }

    /// Its length, and that of its headers, for a receiver that does or does not understand them.
    fn sizes(&self, has_headers: bool) -> (Option<usize>, usize) {
        match (has_headers, self.header_len) {
            (_, 0) => (None, self.len()),
            (true, header_len) => (Some(header_len), self.len()),
            (false, header_len) => (None, self.len() - header_len),
        }
    }

    /// Whether its whole payload is short enough to be copied.
    fn is_short(&self) -> bool {
        self.len() <= COPY_LEN_MAX
    }

    pub fn write_payload(&self, with_headers: bool, is_paced: bool, outbox: &mut Outbox) {
        let skip = if with_headers { 0 } else { self.header_len };
        self.parts[0].write(skip, outbox);
        self.parts[1].write(0, outbox);
        outbox.put_copy(b"\r\n");
        if is_paced {
            outbox.seal_delivery(self.is_leased);
        } else {
            outbox.seal(self.is_leased);
        }
    }

    /// Its names and its payload without headers, for engines. What is not shared is copied to the
    /// end of `block`.
    pub fn to_engines(&self, block: &mut BytesMut) -> (Names, Bytes) {
        let [head, tail] = self.parts;
        let body = &head.bytes[self.header_len..];
        let shared = head.shared.filter(|_| tail.bytes.is_empty());
        let reply = self.reply.unwrap_or_default();
        let names_len = self.subject.len() + reply.len();
        let len = names_len + if shared.is_some() { 0 } else { body.len() + tail.bytes.len() };
        block.reserve(len);
        block.extend_from_slice(self.subject);
        block.extend_from_slice(reply);
        if shared.is_none() {
            block.extend_from_slice(body);
            block.extend_from_slice(tail.bytes);
        }
        let mut bytes = block.split().freeze();
        let payload = match shared {
            Some(shared) => shared.slice_ref(body),
            None => bytes.split_off(names_len),
        };
        (Names { bytes, subject_len: self.subject.len() }, payload)
    }

    /// Itself for another loop. What is not shared is copied to the end of `block`: names and a
    /// short payload, which are copied once more when they get there.
    fn to_delivery(&self, block: &mut BytesMut) -> Delivery {
        let names_len = self.subject.len() + self.reply.map_or(0, <[u8]>::len);
        block.reserve(names_len + self.unshared_len());
        block.extend_from_slice(self.subject);
        block.extend_from_slice(self.reply.unwrap_or_default());
        let [head, tail] = self.parts.map(|part| match part.shared {
            Some(shared) if !part.bytes.is_empty() => Some(shared.slice_ref(part.bytes)),
            Some(_) => Some(Bytes::new()),
            None => {
                block.extend_from_slice(part.bytes);
                None
            }
        });
        let mut copied = block.split().freeze();
        let subject = copied.split_to(self.subject.len());
        let reply = self.reply.map(|reply| copied.split_to(reply.len()));
        let head = head.unwrap_or_else(|| copied.split_to(self.parts[0].bytes.len()));
        let tail = tail.unwrap_or(copied);
        let (header_len, is_leased, is_paced) = (self.header_len, self.is_leased, self.is_paced);
        let (account, via, to) = (self.account, self.via, PickList::new());
        Delivery { account, subject, reply, header_len, head, tail, is_leased, is_paced, via, to }
    }

    fn unshared_len(&self) -> usize {
        self.parts.iter().filter(|part| part.shared.is_none()).map(|part| part.bytes.len()).sum()
    }
}

/// By which way a message came.
pub(super) enum Source<'a> {
    Client {
        session: SessionId,
        has_echo: bool,
    },
    Engine,
    /// For the interests of engines that it was sent for.
    Upstream {
        session: SessionId,
    },
    /// `names` has those of the queues that it is for, with blanks between.
    Route {
        session: SessionId,
        names: &'a [u8],
    },
}

impl Source<'_> {
    fn connection(&self) -> Option<SessionId> {
        match self {
            Source::Client { session, .. }
            | Source::Upstream { session }
            | Source::Route { session, .. } => Some(*session),
            Source::Engine => None,
        }
    }

    pub fn is_route(&self) -> bool {
        matches!(self, Source::Route { .. })
    }

    /// Whether a message from here is given to its receivers in portions.
    fn must_spread(&self, matched: &Matched, message: &Message<'_>) -> bool {
        let names = match self {
            Source::Engine | Source::Upstream { .. } => return false,
            Source::Client { .. } => None,
            Source::Route { names, .. } => Some(*names),
        };
        has_many_receivers(matched, message.weight(), names)
    }

    /// Whether `interest` may get the message as far as where it came from goes.
    fn allows(&self, interest: &Interest) -> bool {
        match self {
            Source::Client { session, has_echo } => *has_echo || interest.session != *session,
            Source::Engine => true,
            Source::Upstream { .. } => false,
            Source::Route { .. } => interest.rules.hears_routes,
        }
    }
}

/// Who gets a message later: by mail, or one copy a route. Few, and mostly nobody.
#[derive(Debug, Default)]
pub(super) struct Picks {
    loops: Vec<(LoopIndex, PickList)>,
    routes: Vec<RoutePick>,
    /// Where each of many routes is in the list.
    route_places: Option<QuickMap<SessionId, usize>>,
}

/// Up to so many routes are looked through one by one.
const LISTED_ROUTES_MAX: usize = 16;

impl Picks {
    fn is_empty(&self) -> bool {
        self.loops.is_empty() && self.routes.is_empty()
    }

    fn of_loop(&mut self, home: LoopIndex) -> &mut PickList {
        let known = self.loops.iter().position(|(other, _)| *other == home);
        let at = known.unwrap_or_else(|| {
            self.loops.push((home, PickList::default()));
            self.loops.len() - 1
        });
        &mut self.loops[at].1
    }

    /// The copy for a route; it is for `interest` too.
    fn of_route(&mut self, interest: &Interest) -> &mut RoutePick {
        let session = interest.session;
        let at = self.place_of_route(session);
        if at == self.routes.len() {
            let gauge = Arc::clone(&interest.gauge);
            self.routes.push(RoutePick { session, queues: Vec::new(), gauge, is_literal: false });
        }
        self.routes[at].is_literal |= interest.is_literal;
        &mut self.routes[at]
    }

    /// Where a route is in the list; its end if it is new there.
    fn place_of_route(&mut self, session: SessionId) -> usize {
        let count = self.routes.len();
        if count < LISTED_ROUTES_MAX {
            let known = self.routes.iter().position(|other| other.session == session);
            return known.unwrap_or(count);
        }
        let places = self.route_places.get_or_insert_with(|| {
            self.routes.iter().map(|route| route.session).zip(0..).collect()
        });
        *places.entry(session).or_insert(count)
    }
}

/// What each receiver of a message costs, in receivers of one with short names and a payload that
/// is short, or is shared.
fn weight(subject: &[u8], reply: Option<&[u8]>, payload_len: usize) -> usize {
    let copied_payload_len = if payload_len <= COPY_LEN_MAX { payload_len } else { 0 };
    let copied_len = subject.len() + reply.map_or(0, <[u8]>::len) + copied_payload_len;
    1 + copied_len / BYTES_PER_WORK
}

/// Work that a message of a session makes at once; the rest of very many receivers gets it in
/// portions.
const AT_ONCE_MAX: usize = 8 * 1024;

/// Choosing a member of one of many queues takes about as long as so many receivers.
pub(super) const CHOICE_WORK: usize = 12;

/// Up to so many queues get a message at once.
const QUEUES_AT_ONCE_MAX: usize = 512;

/// Up to so many bytes of names of queues are looked through at once.
const NAMES_AT_ONCE_MAX: usize = 4 * 1024;

/// Up to so many bytes of names are in one line: peers take no longer one.
const ROUTE_NAMES_LEN_MAX: usize = ROUTE_NAMES_LINE_MAX - ROUTE_LINE_MAX;

/// What a session says costs so much for each receiver.
pub(super) fn weight_of(publish: &Publish<'_>) -> usize {
    weight(publish.subject, publish.reply, publish.payload.len())
}

/// Those without a queue who get a message of a session at once, if each costs so much.
pub(super) fn first_part(matched: &Matched, weight: usize) -> &[Arc<Interest>] {
    &matched.plain[..matched.plain.len().min(AT_ONCE_MAX / weight)]
}

/// Whether a message of a session is given to its receivers in portions. A peer names the queues
/// that its message is for.
pub(super) fn is_spread(matched: &Matched, publish: &Publish<'_>, names: Option<&[u8]>) -> bool {
    has_many_receivers(matched, weight_of(publish), names)
}

fn has_many_receivers(matched: &Matched, weight: usize, names: Option<&[u8]>) -> bool {
    let exceeds = |most: usize, count: usize| most < count.saturating_mul(weight);
    let has_many_queues = match names {
        None => exceeds(QUEUES_AT_ONCE_MAX, matched.queues.len()) && 1 < matched.queues.len(),
        Some(names) => exceeds(NAMES_AT_ONCE_MAX, names.len()),
    };
    has_many_queues || exceeds(AT_ONCE_MAX, matched.plain.len())
}

impl Broker {
    /// Gives a message to everybody who listens; false if nobody does. Where very many listen to
    /// what a session says, the session goes on with it in its next turns (`spread`).
    pub(super) fn deliver(
        &mut self,
        matched: &Matched,
        message: &Message<'_>,
        source: &Source<'_>,
    ) -> bool {
        let is_heard =
            matched.has_receivers() && self.deliver_to_sessions(matched, message, source);
        let is_kept = !matched.kept.is_empty() && self.deliver_to_kept(matched, message, source);
        if !matched.engines.is_empty() {
            if self.is_past(source) {
                let is_harmless = |interest: &&EngineInterest| interest.credit == Credit::Free;
                let harmless: Vec<_> =
                    matched.engines.iter().filter(is_harmless).copied().collect();
                self.deliver_to_engines(&harmless, message, source);
            } else {
                self.deliver_to_engines(&matched.engines, message, source);
            }
        }
        is_heard || is_kept || !matched.engines.is_empty()
    }

    fn deliver_to_sessions(
        &mut self,
        matched: &Matched,
        message: &Message<'_>,
        source: &Source<'_>,
    ) -> bool {
        let mut picks = Picks::default();
        if source.must_spread(matched, message) {
            // The others get it later.
            let first = first_part(matched, message.weight());
            self.offer_all(first, message, source, &mut picks);
            self.hand_over(message, picks);
            return true;
        }
        let mut is_delivered = self.offer_all(&matched.plain, message, source, &mut picks);
        if let Source::Route { names, .. } = source {
            let mut queues: SmallVec<[&[u8]; 4]> = words(names).collect();
            if queues.len() > 1 {
                queues.sort_unstable();
                queues.dedup();
            }
            self.work += queues.len() as u64;
            for queue in queues.iter().filter_map(|name| matched.queue(name)) {
                is_delivered |= self.choose_named(queue, message, source, &mut picks);
            }
        } else {
            self.work += matched.queues.len() as u64;
            is_delivered |= if matched.queues.is_empty() {
                self.give_routes(matched, message, &mut picks)
            } else {
                self.pick_routes(matched, &mut picks)
            };
            for queue in &matched.queues {
                is_delivered |= self.choose(queue, message, source, &mut picks);
            }
        }
        if !picks.is_empty() {
            self.hand_over(message, picks);
        }
        is_delivered
    }

    /// The copies for routes that have interests without a queue, where there are none with one:
    /// those of this loop get theirs at once.
    fn give_routes(&mut self, matched: &Matched, message: &Message<'_>, picks: &mut Picks) -> bool {
        self.work += matched.routes.len() as u64;
        let mut is_delivered = false;
        for route in matched.routes.iter().filter(|route| !route.gauge.is_closed()) {
            is_delivered = true;
            if route.session.home == self.home {
                self.give_route(route.session, (b"", route.is_literal), message);
            } else {
                picks.of_route(route);
            }
        }
        is_delivered
    }

    /// The copies for routes that have interests without a queue.
    pub(super) fn pick_routes(&mut self, matched: &Matched, picks: &mut Picks) -> bool {
        self.work += matched.routes.len() as u64;
        for route in matched.routes.iter().filter(|route| !route.gauge.is_closed()) {
            picks.of_route(route);
        }
        !picks.routes.is_empty()
    }

    /// Gives a message to one member of a queue that a peer has named.
    pub(super) fn choose_named(
        &mut self,
        queue: &QueueMatch,
        message: &Message<'_>,
        source: &Source<'_>,
        picks: &mut Picks,
    ) -> bool {
        self.choose(queue, message, source, picks)
            // The members that the peer knew of have left: another server's get it, rather than
            // nobody (spec core NATS, 4.3).
            || self.choose(queue, message, &Source::Engine, picks)
    }

    fn offer_all(
        &mut self,
        interests: &[Arc<Interest>],
        message: &Message<'_>,
        source: &Source<'_>,
        picks: &mut Picks,
    ) -> bool {
        let mut is_delivered = false;
        self.work += (interests.len() * message.weight()) as u64;
        for interest in interests {
            if source.allows(interest) {
                is_delivered |= self.offer(interest, message, picks);
            }
        }
        is_delivered
    }

    /// Gives a message to more of very many receivers.
    pub(super) fn deliver_more(
        &mut self,
        interests: &[Arc<Interest>],
        message: &Message<'_>,
        source: &Source<'_>,
    ) {
        let mut picks = Picks::default();
        self.offer_all(interests, message, source, &mut picks);
        self.hand_over(message, picks);
    }

    /// Gives a message to one interest, here or by way of `picks`.
    fn offer(
        &mut self,
        interest: &Arc<Interest>,
        message: &Message<'_>,
        picks: &mut Picks,
    ) -> bool {
        if interest.is_gone() {
            return false;
        }
        if interest.is_filtered(message.subject) {
            return false;
        }
        if interest.session.home == self.home {
            return self.give(interest, message);
        }
        let pick = Pick::Client(Arc::clone(interest));
        picks.of_loop(interest.session.home).push(pick);
        true
    }

    /// Gives a message to one member of a queue, beginning at a random one.
    pub(super) fn choose(
        &mut self,
        queue: &QueueMatch,
        message: &Message<'_>,
        source: &Source<'_>,
        picks: &mut Picks,
    ) -> bool {
        let (account, groups) = (message.account, &queue.groups[..]);
        // What came in by a route goes to no other one.
        let with_routes = !source.is_route();
        let total = self.accounts[account].weight(groups, with_routes);
        if total == 0 {
            return false;
        }
        self.work += (groups.len() + message.weight() - 1) as u64;
        let drawn = self.random.below(total);
        let start = self.accounts[account].draw(groups, with_routes, drawn);
        let slot_count = self.accounts[account].slot_count(groups, with_routes);
        // First those with room: a member that is slow for a moment is not driven to its end.
        for with_room in [true, false] {
            let mut at = start;
            for _ in 0..slot_count {
                if self.offer_slot((queue, at, with_room), message, source, picks) {
                    return true;
                }
                at = self.accounts[account].next(groups, with_routes, at);
                self.work += 1;
            }
        }
        false
    }

    /// Gives a message to one interest of a session that is in a queue, if the session has room
    /// (or has none, as is asked for).
    fn offer_slot(
        &mut self,
        (queue, at, with_room): (&QueueMatch, Cursor, bool),
        message: &Message<'_>,
        source: &Source<'_>,
        picks: &mut Picks,
    ) -> bool {
        let Some(slot) = self.accounts[message.account].slot(&queue.groups, at) else {
            return false;
        };
        let (first, count) = (slot.first(), slot.interests().len());
        let has_room = first.gauge.pending_bytes() <= self.settings.max_pending / 2;
        if has_room != with_room || !source.allows(first) || first.gauge.is_closed() {
            return false;
        }
        if first.rules.shares_copies {
            let names = &mut picks.of_route(first).queues;
            if ROUTE_NAMES_LEN_MAX < names.len() + queue.name.len() {
                return false;
            }
            names.extend_from_slice(&queue.name);
            names.push(b' ');
            return true;
        }
        if first.is_filtered(message.subject) {
            return false;
        }
        let begin = usize::try_from(at.member).unwrap_or(0);
        for step in 0..count {
            let slot = self.accounts[message.account].slot(&queue.groups, at);
            let member = slot.and_then(|slot| slot.interests().get((begin + step) % count));
            let Some(member) = member.cloned() else { return false };
            self.work += 1;
            if self.offer(&member, message, picks) {
                return true;
            }
        }
        false
    }

    /// Gives a message to what was picked on other loops; the copies of routes can still become
    /// those of more queues.
    pub(super) fn hand_over_to_loops(&mut self, message: &Message<'_>, picks: &mut Picks) {
        let loops = std::mem::take(&mut picks.loops);
        self.hand_over(message, Picks { loops, ..Picks::default() });
    }

    /// Gives a message to what was picked: routes, and other loops.
    pub(super) fn hand_over(&mut self, message: &Message<'_>, mut picks: Picks) {
        let routes = std::mem::take(&mut picks.routes);
        for route in routes {
            if route.session.home == self.home {
                self.give_route(route.session, (&route.queues, route.is_literal), message);
            } else {
                picks.of_loop(route.session.home).push(Pick::Route(route));
            }
        }
        let mut loops = picks.loops;
        if message.is_paced {
            for pick in loops.iter().flat_map(|(_, picked)| picked) {
                pick.gauge().on_mailed(message.len());
            }
        }
        let Some((last, picked)) = loops.pop() else { return };
        let delivery = message.to_delivery(&mut self.chunk);
        for (to, picked) in loops {
            let delivery = Delivery { to: picked, ..delivery.clone() };
            self.effects.push_back(Effect::Mail { to, mail: Mail::Deliver(Box::new(delivery)) });
        }
        let delivery = Box::new(Delivery { to: picked, ..delivery });
        self.effects.push_back(Effect::Mail { to: last, mail: Mail::Deliver(delivery) });
    }

    /// Who sent a message, as engines are told it.
    fn origin_of(&self, source: &Source<'_>, account: AccountIndex) -> Arc<Origin> {
        let session = source.connection().and_then(|id| self.sessions.get(id));
        let origin = session.map_or(&self.engines.origin, |session| &session.origin);
        if origin.account == account {
            return Arc::clone(origin);
        }
        // A route speaks for many accounts.
        Arc::new(Origin { account, ..Origin::clone(origin) })
    }

    pub(super) fn deliver_to_engines(
        &mut self,
        engines: &[EngineInterest],
        message: &Message<'_>,
        source: &Source<'_>,
    ) {
        self.deliver_to_engines_of((engines, None), message, source);
    }

    /// The same of a message that somebody keeps until it is done.
    pub(super) fn deliver_to_engines_of(
        &mut self,
        (engines, errand): (&[EngineInterest], Option<Errand>),
        message: &Message<'_>,
        source: &Source<'_>,
    ) {
        let origin = self.origin_of(source, message.account);
        let is_brief = |interest: &EngineInterest| interest.is_brief;
        let (names, payload) = if engines.iter().all(is_brief) {
            message.to_engines(&mut self.chunk)
        } else {
            message.to_engines(&mut BytesMut::new())
        };
        let to_engine = |to: &EngineInterest, names, payload, origin| {
            let (engine, key) = (to.engine, to.key);
            Effect::ToEngine(EngineDelivery { engine, key, names, payload, origin, errand })
        };
        self.work += ENGINE_WORK * engines.len() as u64;
        let Some((last, others)) = engines.split_last() else { return };
        for interest in others {
            let (names, payload, origin) = (names.clone(), payload.clone(), origin.clone());
            self.effects.push_back(to_engine(interest, names, payload, origin));
        }
        self.effects.push_back(to_engine(last, names, payload, origin));
    }

    /// Puts a message into the outbox of a client of this loop; false if it does not want it.
    pub(super) fn give(&mut self, interest: &Arc<Interest>, message: &Message<'_>) -> bool {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(interest.session) else { return false };
        let max = interest.delivered_max.load(Ordering::Relaxed);
        let count = interest.delivered.load(Ordering::Relaxed) + 1;
        if session.is_ending() || interest.is_gone() || (max > 0 && count > max) {
            return false;
        }
        interest.delivered.store(count, Ordering::Relaxed);
        let has_headers = session.has_headers;
        let (header_len, size) = message.sizes(has_headers);
        let names = (message.subject, &interest.sid[..], message.reply);
        let names_len = names.0.len() + names.1.len() + names.2.map_or(0, <[u8]>::len);
        let copied_len = if message.is_short() { message.len() } else { 0 };
        let tail = session.outbox.tail_for(encoder::MESSAGE_FRAME_MAX + names_len + copied_len);
        encoder::message_line(tail, names, header_len, size);
        // A listener with wildcards is nobody whom an engine would wait for.
        let is_paced = interest.is_literal
            && (message.is_paced
                || (message.via.is_some() && interest.is_paced_by_peer.load(Ordering::Relaxed)));
        message.write_payload(has_headers, is_paced, &mut session.outbox);
        session.traffic.went_out(size);
        self.traffic.went_out(size);
        session.active_at = now.wall;
        if let (Some(reply), Kind::Client(client)) = (message.reply, &mut session.kind)
            && let Some(responses) = client.permissions.as_ref().and_then(|found| found.responses)
        {
            client.replies.record(reply, responses, now.at);
        }
        if session.outbox.unpaced_len() > self.settings.max_pending {
            self.on_pending_exceeded(interest.session, self.settings.max_pending);
            return true;
        }
        if let Some(route) = message.via
            && interest.is_literal
            && self.settings.delivery_high() < session.outbox.delivery_len()
        {
            self.tell_peer_full(route, interest);
        }
        let is_last = max > 0 && count == max;
        if is_last && self.settings.is_debugged {
            let sid = String::from_utf8_lossy(&interest.sid);
            let text = format!("Auto-unsubscribe limit of {max} reached for sid '{sid}'");
            self.log_about(interest.session, log::Level::Debug, &text);
        }
        self.mark_dirty(interest.session);
        if is_last {
            self.end_interest(interest);
        }
        true
    }

    fn on_pending_exceeded(&mut self, session: SessionId, max: usize) {
        self.slow_consumers += 1;
        let text = format!("Slow Consumer Detected: MaxPending of {max} Exceeded");
        self.log_about(session, log::Level::Info, &text);
        self.cut(session, CloseReason::SlowConsumerPendingBytes);
    }

    /// Puts a message into the outbox of a route of this loop, for some queues.
    pub(super) fn give_route(
        &mut self,
        id: SessionId,
        (queues, is_literal): (&[u8], bool),
        message: &Message<'_>,
    ) {
        let session = self.sessions.get_mut(id);
        let Some(session) = session.filter(|found| !found.is_ending()) else { return };
        let has_headers = session.has_headers;
        let (header_len, size) = message.sizes(has_headers);
        encoder::route_message_line(
            session.outbox.tail(),
            self.accounts.name(message.account).as_bytes(),
            (message.subject, message.reply),
            queues,
            (header_len, size),
        );
        let is_paced = message.is_paced && is_literal;
        message.write_payload(has_headers, is_paced, &mut session.outbox);
        session.traffic.went_out(size);
        self.traffic.went_out(size);
        self.mark_dirty(id);
        self.look_at_route(id);
    }

    /// A route that takes less than what is said to it cannot be held back: it is closed.
    pub(super) fn look_at_route(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let max = self.settings.route_pending_max();
        if max < session.outbox.unpaced_len() {
            self.on_pending_exceeded(id, max);
        }
    }
}
