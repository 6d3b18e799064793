//! What clients of this process have sent for the engines and the active has not done yet.
//!
//! Each member keeps what its own clients send to the engines of the active, be that a publish, a
//! request or an ack, until the active says that it is done. A successor, here or at another
//! member, gets what is left, in the order of each session, as inputs of its engines and not as
//! messages for anybody else. Whether the active handed over or died makes no difference: nothing
//! is passed on by it.
//!
//! While this process serves itself, what its clients send ends with it, so nothing of that is
//! copied but requests, which a hand-over can find half done. Where nobody serves, all is kept.
//! It is bounded: beyond that, clients which send more are not read, as where an engine has no
//! credit (`hold`). Who serves is decided by `serving`, of what others keep for us `errands` knows.
//!
//! A successor is told what is left in portions, a ledger after the other. Until the turn of a
//! ledger has come and all of it is said, what its session sends goes behind that; and if somebody
//! else serves before that, all begins anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::base::epoch::Epoch;
use crate::base::errand::{Again, Errand, Keeper};
use crate::base::id::{AccountIndex, LoopIndex, SessionId};
use crate::base::limits::{
    LEDGER_BYTES_MAX, LEDGER_ENTRY_BYTES, LEDGER_SESSION_BYTES_MAX, SESSION_WORK_MAX,
};
use crate::base::planted::{self, Bug};
use crate::broker::delivery::{Message, Source};
use crate::broker::mail::Mail;
use crate::broker::outbox::COPY_LEN_MAX;
use crate::broker::route::HOME;
use crate::broker::serving::View;
use crate::broker::sublist::{BYTES_PER_WORK, Matched};
use crate::broker::{Broker, Credit, Effect, EngineInterest, Names};
use crate::wire::op::Mark;
use crate::wire::{Kept, Op, encoder};

/// The number of a loop in that of a ledger lies above so many bits.
const LOOP_SHIFT: u32 = 48;

/// Work of saying one input to a peer, in receivers of a message.
const PARCEL_WORK: u64 = 4;

/// One input.
#[derive(Debug)]
struct Entry {
    number: u64,
    account: AccountIndex,
    names: Names,
    payload: Bytes,
}

impl Entry {
    fn cost(&self) -> usize {
        LEDGER_ENTRY_BYTES + self.names.len() + self.payload.len()
    }
}

/// What one session has sent; it outlives the session until it is empty.
#[derive(Debug)]
struct Ledger {
    session: SessionId,
    /// What was said to the last one who served, and is not done.
    entries: VecDeque<Entry>,
    /// What comes behind that, and was not said to anybody who serves now.
    waiting: VecDeque<Entry>,
    /// Of both.
    bytes: usize,
    /// The number of the last entry that there was.
    last: u64,
    /// Up to which number engines may have had all.
    sent: u64,
    /// Which view it was when `entries` were said.
    view_count: u64,
}

impl Ledger {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.waiting.is_empty()
    }

    /// Somebody else serves: all of it has to be said once more.
    fn begin_anew(&mut self, view_count: u64) {
        let mut all = std::mem::take(&mut self.entries);
        all.append(&mut self.waiting);
        self.waiting = all;
        self.view_count = view_count;
        self.spoil();
    }

    /// The next one to be said, and whether engines may have had it before.
    fn next_waiting(&mut self) -> Option<(Entry, bool)> {
        let entry = self.waiting.pop_front()?;
        let is_again = entry.number <= self.sent;
        self.sent = self.sent.max(entry.number);
        Some((entry, is_again))
    }

    /// What the planted bugs make of what is kept.
    fn spoil(&mut self) {
        if planted::is(Bug::KeptTwice)
            && let Some(Entry { account, names, payload, .. }) = self.waiting.back()
        {
            self.last += 1;
            let (number, names, payload) = (self.last, names.clone(), payload.clone());
            self.waiting.push_back(Entry { number, account: *account, names, payload });
        }
        if planted::is(Bug::KeptDropped) && 1 < self.waiting.len() {
            self.waiting.pop_back();
        }
        if let (true, [.., first, second]) =
            (planted::is(Bug::KeptTurned), self.waiting.make_contiguous())
        {
            std::mem::swap(&mut first.names, &mut second.names);
            std::mem::swap(&mut first.payload, &mut second.payload);
        }
    }
}

/// All ledgers of one loop.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    by_id: BTreeMap<u64, Ledger>,
    bytes: usize,
    last_id: u64,
    /// Whose marks count: the engines that got what is kept.
    epoch: Epoch,
    /// Counts how often somebody else served, or nobody.
    view_count: u64,
    /// From which ledger on what is left has still to be said to who serves.
    again_from: Option<u64>,
    /// Whether a portion of that is being said.
    is_saying_again: bool,
    /// Whether it has to be told when all of it was said, and requests of it are answered.
    owes_told: bool,
    /// Those that engines of this process were given of it, and have not answered.
    handed_in: BTreeSet<(u64, u64)>,
    /// Whether a session was held back because there is too much.
    is_pressed: bool,
    /// Nothing more is taken until the process ends.
    is_ending: bool,
    /// This is told when nothing is left.
    ending: Option<u64>,
}

impl Ledgers {
    /// All of a ledger up to a number is done.
    fn remove_to(&mut self, id: u64, number: u64) {
        let Some(ledger) = self.by_id.get_mut(&id) else { return };
        let mut removed = 0;
        for part in [&mut ledger.entries, &mut ledger.waiting] {
            while let Some(entry) = part.front().filter(|entry| entry.number <= number) {
                removed += entry.cost();
                part.pop_front();
            }
        }
        ledger.bytes = ledger.bytes.saturating_sub(removed);
        self.bytes = self.bytes.saturating_sub(removed);
    }

    /// One of a ledger is done.
    fn remove_one(&mut self, id: u64, number: u64) {
        let Some(ledger) = self.by_id.get_mut(&id) else { return };
        let take = |part: &mut VecDeque<Entry>| {
            let place = part.binary_search_by_key(&number, |entry| entry.number);
            place.ok().and_then(|place| part.remove(place))
        };
        let found = take(&mut ledger.entries).or_else(|| take(&mut ledger.waiting));
        let Some(entry) = found else { return };
        ledger.bytes = ledger.bytes.saturating_sub(entry.cost());
        self.bytes = self.bytes.saturating_sub(entry.cost());
    }
}

/// The loop of a ledger.
pub(super) fn home_of(ledger: u64) -> Option<LoopIndex> {
    u16::try_from(ledger >> LOOP_SHIFT).ok().map(LoopIndex)
}

/// An input on its way to the engines of another member.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub(super) route: SessionId,
    pub(super) kept: Kept,
    pub(super) account: AccountIndex,
    pub(super) names: Names,
    pub(super) payload: Bytes,
}

impl Broker {
    /// Whether what clients send for engines is kept.
    pub(super) fn keeps(&self) -> bool {
        !self.settings.group.is_empty() && self.settings.upstream.is_none()
    }

    /// An interest of an engine as it is kept for.
    pub(super) fn as_kept(&self, interest: EngineInterest) -> EngineInterest {
        EngineInterest { keeper: interest.keeper.filter(|_| self.keeps()), ..interest }
    }

    /// A message for engines for which is kept what clients send; false if nobody takes it.
    pub(super) fn deliver_to_kept(
        &mut self,
        matched: &Matched,
        message: &Message<'_>,
        source: &Source<'_>,
    ) -> bool {
        match source {
            Source::Client { session, .. } => self.keep(*session, matched, message, source),
            Source::Engine => {
                self.ask_everybody(matched, message);
                self.deliver_here(matched, message, source, None)
            }
            // What a member of our group says for engines it says in another way.
            Source::Route { session, .. } if self.is_sibling(*session) => false,
            Source::Route { .. } => self.deliver_here(matched, message, source, None),
            Source::Upstream { .. } => self.deliver_here(matched, message, source, None),
        }
    }

    /// The engines of this process that serve and that a message is for. What clients send waits
    /// while a predecessor may still say what of it is done; what others send them they take.
    fn engines_here<'a>(
        &self,
        matched: &'a Matched,
        source: &Source<'_>,
    ) -> impl Iterator<Item = &'a EngineInterest> + use<'a> {
        let epoch = match (source, self.serving.view()) {
            (_, View::Here(epoch)) => Some(epoch),
            (Source::Client { .. }, _) => None,
            (Source::Engine | Source::Route { .. } | Source::Upstream { .. }, _) => {
                self.serving.open_epoch()
            }
        };
        // What a member of our group says names the engines that it is for.
        let is_past = self.is_past(source)
            && !matches!(source, Source::Route { session, .. } if self.is_sibling(*session));
        let kept = if epoch.is_some() { &matched.kept[..] } else { &[] };
        kept.iter().filter(move |one| {
            let may_hear = !is_past || one.credit == Credit::Free;
            one.is_here() && one.keeper == epoch && may_hear
        })
    }

    /// Gives a message to the engines of this process, if they serve.
    pub(super) fn deliver_here(
        &mut self,
        matched: &Matched,
        message: &Message<'_>,
        source: &Source<'_>,
        errand: Option<Errand>,
    ) -> bool {
        // One of them answers for all: several listen to one subject only where others have other
        // channels, and then to different ones.
        let mut errand = errand;
        let mut is_taken = false;
        for engine in self.engines_here(matched, source) {
            let engines = std::slice::from_ref(engine);
            self.deliver_to_engines_of((engines, errand.take()), message, source);
            is_taken = true;
        }
        is_taken
    }

    fn keep(
        &mut self,
        id: SessionId,
        matched: &Matched,
        message: &Message<'_>,
        source: &Source<'_>,
    ) -> bool {
        // Who is behind with what it has said before says this behind it.
        let view = if self.is_behind(id) { View::Away } else { self.serving.view() };
        if matches!(view, View::Here(_)) {
            let Some(engine) = self.engines_here(matched, source).next() else { return false };
            if engine.credit != Credit::Requests {
                return self.deliver_here(matched, message, source, None);
            }
        }
        let (names, payload) = message.to_engines(&mut self.chunk);
        let is_sent = !matches!(view, View::Away | View::Nobody);
        // What another loop says for this one is a copy of what is kept here.
        let is_mailed = self.home != HOME && matches!(view, View::Behind { .. });
        let mailed = is_mailed.then(|| (names.clone(), payload.clone()));
        let entered = self.enter(id, (message.account, names, payload), is_sent);
        let Some((ledger, number)) = entered else { return false };
        match view {
            View::Here(_) => {
                let errand = Errand { keeper: Keeper::Own, ledger, number, again: Again::First };
                return self.deliver_here(matched, message, source, Some(errand));
            }
            View::Behind { route, epoch } => {
                let kept = Kept { epoch: epoch.0, ledger, number, is_again: false };
                match mailed {
                    Some((names, payload)) => {
                        let account = message.account;
                        self.send_parcel(Parcel { route, kept, account, names, payload });
                    }
                    None => self.write_kept(route, kept, message),
                }
            }
            View::Away | View::Nobody => (),
        }
        true
    }

    /// Puts a message into the ledger of its session.
    fn enter(
        &mut self,
        id: SessionId,
        (account, names, payload): (AccountIndex, Names, Bytes),
        is_sent: bool,
    ) -> Option<(u64, u64)> {
        let ledgers = &mut self.ledgers;
        let client = self.sessions.client_mut(id)?;
        if client.ledger == 0 || !ledgers.by_id.contains_key(&client.ledger) {
            ledgers.last_id += 1;
            client.ledger = (u64::from(self.home.0) << LOOP_SHIFT) | ledgers.last_id;
            let ledger = Ledger {
                session: id,
                entries: VecDeque::new(),
                waiting: VecDeque::new(),
                bytes: 0,
                last: 0,
                sent: 0,
                view_count: ledgers.view_count,
            };
            ledgers.by_id.insert(client.ledger, ledger);
        }
        let ledger = ledgers.by_id.get_mut(&client.ledger)?;
        ledger.last += 1;
        let entry = Entry { number: ledger.last, account, names, payload };
        ledger.bytes += entry.cost();
        ledgers.bytes += entry.cost();
        if is_sent {
            ledger.sent = ledger.last;
            ledger.view_count = ledgers.view_count;
            ledger.entries.push_back(entry);
        } else {
            ledger.waiting.push_back(entry);
        }
        Some((client.ledger, ledger.last))
    }

    fn send_parcel(&mut self, parcel: Parcel) {
        if self.home == HOME {
            return self.write_parcel(&parcel);
        }
        self.effects.push_back(Effect::Mail { to: HOME, mail: Mail::Parcel(Box::new(parcel)) });
    }

    /// Says an input to the peer whose engines it is for.
    pub(super) fn write_parcel(&mut self, parcel: &Parcel) {
        let Parcel { route, kept, account, names, payload } = parcel;
        self.write_kept(*route, *kept, &Message::of_ledger(*account, names, payload));
    }

    fn write_kept(&mut self, id: SessionId, kept: Kept, message: &Message<'_>) {
        let session = self.sessions.get_mut(id);
        let Some(session) = session.filter(|found| !found.is_ending()) else { return };
        let Some(route) = session.route_mut() else { return };
        let is_next = route.told_kept.replace(kept.next()) == Some(kept);
        let len = message.len() - message.header_len;
        let names_len = message.subject.len() + message.reply.map_or(0, <[u8]>::len);
        let copied_len = if len <= COPY_LEN_MAX { len } else { 0 };
        let tail = session.outbox.tail_for(2 * encoder::MESSAGE_FRAME_MAX + names_len + copied_len);
        if !is_next {
            encoder::encode(&Op::Kept(kept), tail);
        }
        let account = self.accounts.name(message.account).as_bytes();
        encoder::kept_message_line(tail, account, (message.subject, message.reply), len);
        message.write_payload(false, false, &mut session.outbox);
        session.traffic.went_out(len);
        self.traffic.went_out(len);
        self.mark_dirty(id);
        self.look_at_route(id);
    }

    /// What this process itself asks of whoever serves goes to every member that says it does.
    fn ask_everybody(&mut self, matched: &Matched, message: &Message<'_>) {
        let routes = self.serving.claimants(&matched.kept);
        if routes.is_empty() {
            return;
        }
        let (names, payload) = message.to_engines(&mut self.chunk);
        for (route, epoch) in routes {
            let (names, payload) = (names.clone(), payload.clone());
            let kept = Kept { epoch: epoch.0, ledger: 0, number: 0, is_again: false };
            self.send_parcel(Parcel { route, kept, account: message.account, names, payload });
        }
    }

    /// Whether something that a session has sent before has still to be said to who serves.
    fn is_behind(&self, id: SessionId) -> bool {
        if self.ledgers.again_from.is_none() {
            return false;
        }
        let ledger = self.sessions.client(id).map_or(0, |client| client.ledger);
        self.ledgers.by_id.get(&ledger).is_some_and(|ledger| {
            let is_anew = ledger.view_count != self.ledgers.view_count;
            !ledger.waiting.is_empty() || is_anew && !ledger.entries.is_empty()
        })
    }

    /// Somebody else serves now, and gets what is left, or nobody.
    pub(super) fn send_again(&mut self) {
        self.ledgers.view_count += 1;
        self.ledgers.again_from = match self.serving.view() {
            View::Behind { epoch, .. } | View::Here(epoch) => {
                self.ledgers.epoch = epoch;
                Some(0)
            }
            View::Away | View::Nobody => None,
        };
        self.ledgers.owes_told = self.ledgers.again_from.is_some();
        self.ledgers.handed_in.clear();
        self.say_some_again();
    }

    /// Whether something is left to be said.
    pub(super) fn has_more_to_say(&self) -> bool {
        self.ledgers.again_from.is_some()
    }

    /// A portion of what is left is said to who serves.
    pub(super) fn say_some_again(&mut self) {
        if self.ledgers.is_saying_again {
            return;
        }
        self.ledgers.is_saying_again = true;
        let limit = self.work_done() + SESSION_WORK_MAX;
        while let Some(from) = self.ledgers.again_from.filter(|_| self.work_done() < limit) {
            self.work += 1;
            let view_count = self.ledgers.view_count;
            let next = self.ledgers.by_id.range(from..).next().map(|(id, _)| *id);
            let is_all = next.is_none_or(|id| self.say_ledger_again(id, limit));
            // A route that takes no more is closed, and then nobody serves.
            if view_count == self.ledgers.view_count {
                self.ledgers.again_from = next.map(|id| if is_all { id + 1 } else { id });
            }
        }
        self.ledgers.is_saying_again = false;
        self.look_whether_told();
        self.relieve_ledgers();
    }

    fn look_whether_told(&mut self) {
        let is_said = self.ledgers.again_from.is_none() && self.ledgers.handed_in.is_empty();
        if is_said && std::mem::take(&mut self.ledgers.owes_told) {
            self.tell_all_is_told();
        }
    }

    /// Says what is left of a ledger, as far as there is work left for it; true if that was all.
    fn say_ledger_again(&mut self, id: u64, limit: u64) -> bool {
        let (view, view_count) = (self.serving.view(), self.ledgers.view_count);
        while self.work_done() < limit && view_count == self.ledgers.view_count {
            let Some(ledger) = self.ledgers.by_id.get_mut(&id) else { return true };
            if ledger.view_count != view_count {
                ledger.begin_anew(view_count);
            }
            let session = ledger.session;
            let Some((entry, is_again)) = ledger.next_waiting() else {
                self.drop_ended_ledger(id);
                return true;
            };
            self.work += PARCEL_WORK + (entry.payload.len() / BYTES_PER_WORK) as u64;
            if let View::Behind { route, epoch } = view {
                let kept = Kept { epoch: epoch.0, ledger: id, number: entry.number, is_again };
                let (names, payload) = (entry.names.clone(), entry.payload.clone());
                let account = entry.account;
                ledger.entries.push_back(entry);
                self.send_parcel(Parcel { route, kept, account, names, payload });
            } else {
                ledger.bytes = ledger.bytes.saturating_sub(entry.cost());
                self.ledgers.bytes = self.ledgers.bytes.saturating_sub(entry.cost());
                self.hand_in((id, session), entry, is_again);
            }
        }
        false
    }

    /// The engines of this process get what is left. Only requests stay here until they are done.
    fn hand_in(&mut self, (id, session): (u64, SessionId), entry: Entry, is_again: bool) {
        let (number, again) = (entry.number, Again::perhaps(is_again));
        let matched = self.accounts[entry.account].matches(entry.names.subject());
        let Some(matched) = matched else { return };
        let source = Source::Client { session, has_echo: true };
        let Some(engine) = self.engines_here(&matched, &source).next() else { return };
        let (names, payload) = (entry.names.clone(), entry.payload.clone());
        let message = Message::of_ledger(entry.account, &names, &payload);
        // Also of what stays here no longer: it was taken from its client, and is not refused.
        let errand = Errand { keeper: Keeper::Own, ledger: id, number, again };
        if engine.credit == Credit::Requests
            && let Some(ledger) = self.ledgers.by_id.get_mut(&id)
        {
            ledger.bytes += entry.cost();
            self.ledgers.bytes += entry.cost();
            ledger.entries.push_back(entry);
            self.ledgers.handed_in.insert((id, number));
        }
        self.deliver_here(&matched, &message, &source, Some(errand));
    }

    /// The active has done something of a ledger of this loop. What was never sent to it it cannot
    /// have done, whatever it says.
    pub(super) fn on_mark(&mut self, epoch: Epoch, id: u64, mark: Mark) {
        let Some(ledger) = self.ledgers.by_id.get(&id) else { return };
        if epoch != self.ledgers.epoch {
            return;
        }
        match mark {
            Mark::UpTo(number) => self.ledgers.remove_to(id, number.min(ledger.sent)),
            Mark::Single(number) if number <= ledger.sent => self.ledgers.remove_one(id, number),
            Mark::Single(_) => (),
        }
        self.drop_ended_ledger(id);
        self.relieve_ledgers();
    }

    /// The engines of this process have done one input of a session of this loop.
    pub(super) fn on_own_done(&mut self, errand: Errand) {
        self.ledgers.remove_one(errand.ledger, errand.number);
        if self.ledgers.handed_in.remove(&(errand.ledger, errand.number)) {
            self.look_whether_told();
        }
        self.drop_ended_ledger(errand.ledger);
        self.relieve_ledgers();
    }

    /// Nobody has come to serve for long: what was sent was heard by nobody.
    pub(super) fn give_up_kept(&mut self) {
        let mut count = 0;
        for ledger in self.ledgers.by_id.values_mut() {
            count += ledger.entries.len() + ledger.waiting.len();
            ledger.entries.clear();
            ledger.waiting.clear();
            ledger.bytes = 0;
        }
        self.ledgers.bytes = 0;
        let sessions = &self.sessions;
        self.ledgers.by_id.retain(|_, ledger| sessions.client(ledger.session).is_some());
        self.relieve_ledgers();
        if 0 < count {
            let text = format!(
                "No streaming server has become active for some time: {count} publishes, requests \
                 and acks of clients of this member are dropped"
            );
            self.log(log::Level::Warn, text);
        }
    }

    /// A session is at its end.
    pub(super) fn on_ledger_left(&mut self, id: SessionId) {
        let ledger = self.sessions.client(id).map_or(0, |client| client.ledger);
        self.drop_ended_ledger(ledger);
    }

    fn drop_ended_ledger(&mut self, id: u64) {
        let Some(ledger) = self.ledgers.by_id.get(&id) else { return };
        let is_open = self.sessions.get(ledger.session).is_some_and(|found| !found.is_ending());
        if ledger.is_empty() && !is_open {
            self.ledgers.by_id.remove(&id);
        }
    }

    /// Whether a client has to wait because too much of what it and others sent is not done.
    pub(super) fn is_ledger_full(&mut self, id: SessionId, matched: &Matched) -> bool {
        let is_here = matches!(self.serving.view(), View::Here(_)) && !self.is_behind(id);
        if matched.kept.is_empty() || is_here {
            return false;
        }
        if self.ledgers.is_ending {
            return true;
        }
        let ledger = self.sessions.client(id).map_or(0, |client| client.ledger);
        let own_bytes = self.ledgers.by_id.get(&ledger).map_or(0, |ledger| ledger.bytes);
        let is_full = self.ledger_share() <= self.ledgers.bytes && 0 < own_bytes
            || LEDGER_SESSION_BYTES_MAX <= own_bytes;
        self.ledgers.is_pressed |= is_full;
        is_full
    }

    /// The process is about to end, and another member serves: what clients have sent is seen
    /// through, and they are read no more.
    pub(super) fn on_see_through(&mut self, token: u64) {
        self.ledgers.is_ending = true;
        self.ledgers.ending = Some(token);
        self.look_whether_through();
    }

    fn look_whether_through(&mut self) {
        if self.ledgers.bytes == 0
            && let Some(token) = self.ledgers.ending.take()
        {
            self.effects.push_back(Effect::Through { token });
        }
    }

    fn ledger_share(&self) -> usize {
        LEDGER_BYTES_MAX / usize::from(self.settings.loops.max(1))
    }

    /// Lets clients that were held back look again.
    fn relieve_ledgers(&mut self) {
        self.look_whether_through();
        if self.ledgers.is_pressed && self.ledgers.bytes <= self.ledger_share() / 4 * 3 {
            self.ledgers.is_pressed = false;
            for session in std::mem::take(&mut self.engines.paused) {
                self.resume(session);
            }
        }
    }
}
