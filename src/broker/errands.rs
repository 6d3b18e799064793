//! What other members keep for the engines of this process, and what of it is done.
//!
//! An input of a peer names its ledger there and its number in it. Engines finish inputs in any
//! order; the peer is told up to which number all is done, and which single ones are beyond that,
//! once a turn and behind the answers, so that a mark never overtakes what it is about. What a
//! former route was told of it the peer may not have heard: what becomes of a number that comes
//! again by a new one `repeats` says, and of what has not come by that one nothing is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;

use bytes::BytesMut;

use crate::base::epoch::Epoch;
use crate::base::errand::{Again, Errand, Finished, Keeper};
use crate::base::id::{LoopIndex, SessionId};
use crate::base::limits::{ERRANDS_LEDGERS_MAX, ERRANDS_OPEN_MAX};
use crate::base::planted::{self, Bug};
use crate::broker::delivery::{Message, Source};
use crate::broker::ledger::home_of;
use crate::broker::mail::Mail;
use crate::broker::read::Step;
use crate::broker::repeats::{Repeats, Waiting};
use crate::broker::route::HOME;
use crate::broker::sublist::Matched;
use crate::broker::{Broker, Effect};
use crate::wire::op::{Mark, marks};
use crate::wire::{CloseReason, Kept, Op, encoder};

/// Peers without a route whose inputs are remembered.
const PEERS_MAX: usize = 64;

/// Bytes of marks in one line.
const MARKS_LEN_MAX: usize = 16 * 1024;

/// The inputs of one ledger of a peer.
#[derive(Debug, Default)]
struct Window {
    /// The last one that came.
    last: u64,
    /// The route by which one came last.
    route: Option<SessionId>,
    /// The last one that came by it.
    seen: u64,
    /// Those that are not done, or behind one that is not; with whether they are.
    open: VecDeque<(u64, bool)>,
    /// Those that are done behind one that is not, and of which the peer has still to be told.
    beyond: Vec<u64>,
    /// Up to where it was told that all is done.
    told: u64,
}

impl Window {
    /// Up to where all is done, as far as it has come by the present route; `answering` is the
    /// first that is answered once more.
    fn done_to(&self, answering: Option<u64>) -> u64 {
        let open = self.open.front().map(|(number, _)| *number);
        let first = open.into_iter().chain(answering).min();
        first.map_or(self.last, |number| number.saturating_sub(1)).min(self.seen)
    }

    /// One has come by a route. What was told by a former one was not heard, as far as is known.
    fn on_come(&mut self, route: SessionId, number: u64) {
        if self.route != Some(route) {
            self.route = Some(route);
            self.told = 0;
            self.beyond.clear();
        }
        self.seen = number;
    }

    /// Where one is that is not done, or behind one that is not. Mostly none is missing between.
    fn place_of(&self, number: u64) -> Option<usize> {
        let (first, _) = self.open.front()?;
        let place = usize::try_from(number.checked_sub(*first)?).ok()?;
        if self.open.get(place).is_some_and(|(found, _)| *found == number) {
            return Some(place);
        }
        self.open.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// Whether one that has come is done.
    fn is_done(&self, number: u64) -> bool {
        self.place_of(number).is_none_or(|place| self.open[place].1)
    }

    /// One that is done is not; false if all up to it was.
    fn reopen(&mut self, number: u64) -> bool {
        let place = self.place_of(number);
        if let Some(place) = place {
            self.open[place].1 = false;
        }
        place.is_some()
    }

    /// One is done, maybe behind one that is answered once more; says how many are no longer open
    /// because of it.
    fn on_done(&mut self, number: u64, is_behind: bool) -> usize {
        if let Some(place) = self.place_of(number)
            && !std::mem::replace(&mut self.open[place].1, true)
            && (0 < place || is_behind)
        {
            self.beyond.push(number);
        }
        let mut count = 0;
        while self.open.front().is_some_and(|(_, is_done)| *is_done) {
            self.open.pop_front();
            count += 1;
        }
        count
    }

    /// What the peer has still to be told.
    fn marks(&mut self, answering: Option<u64>) -> impl Iterator<Item = Mark> + use<> {
        let (done_to, seen) = (self.done_to(answering), self.seen);
        let up_to = (self.told < done_to).then_some(Mark::UpTo(done_to));
        self.told = done_to;
        let beyond = std::mem::take(&mut self.beyond).into_iter();
        let beyond = beyond.filter(move |number| done_to < *number && *number <= seen);
        up_to.into_iter().chain(beyond.map(Mark::Single))
    }
}

/// The inputs of one peer.
#[derive(Debug)]
struct Peer {
    route: Option<SessionId>,
    windows: BTreeMap<u64, Window>,
    repeats: Repeats,
    open_count: usize,
    /// With more ledgers than that it is looked which are still needed.
    ledgers_max: usize,
}

impl Peer {
    fn new(route: SessionId) -> Self {
        Self {
            route: Some(route),
            windows: BTreeMap::new(),
            repeats: Repeats::default(),
            open_count: 0,
            ledgers_max: ERRANDS_LEDGERS_MAX,
        }
    }

    /// Forgets ledgers of which nothing is open, if there are many; of all others something is.
    fn tidy(&mut self) {
        if self.ledgers_max < self.windows.len() {
            let repeats = &self.repeats;
            let is_open = |ledger: u64, window: &Window| {
                !window.open.is_empty() || repeats.first_answering(ledger).is_some()
            };
            self.windows.retain(|ledger, window| is_open(*ledger, window));
            self.repeats.tidy(|ledger| self.windows.contains_key(&ledger));
            self.ledgers_max = ERRANDS_LEDGERS_MAX.max(2 * self.windows.len());
        }
    }

    /// One is done; the same input, if it has come again meanwhile: then it is not.
    fn on_done(&mut self, finished: Finished) -> Option<Waiting> {
        let Errand { ledger, number, .. } = finished.errand;
        let window = self.windows.get_mut(&ledger)?;
        let waiting = self.repeats.on_done((ledger, number), finished.is_unstored);
        if waiting.is_some() {
            return waiting;
        }
        if self.repeats.end((ledger, number)) {
            window.beyond.push(number);
            self.open_count -= 1;
        } else {
            self.open_count -= window.on_done(number, self.repeats.is_answering_some());
        }
        None
    }

    /// What the peer has still to be told of a ledger.
    fn marks(&mut self, ledger: u64) -> impl Iterator<Item = Mark> + use<> {
        let answering = self.repeats.first_answering(ledger);
        let window = self.windows.get_mut(&ledger);
        let window = window.filter(|window| window.route == self.route);
        window.map(|window| window.marks(answering)).into_iter().flatten()
    }
}

/// The inputs of all peers; loop 0 has them.
#[derive(Debug, Default)]
pub(super) struct Errands {
    peers: BTreeMap<NonZeroU32, Peer>,
    by_remote: BTreeMap<String, NonZeroU32>,
    last_number: Option<NonZeroU32>,
    /// Ledgers of which there is something to tell.
    news: BTreeSet<(NonZeroU32, u64)>,
    /// The one that was put there last: mostly it is put there again and again.
    latest: Option<(NonZeroU32, u64)>,
}

impl Errands {
    /// New engines begin: what was taken before is nothing to them.
    pub fn begin(&mut self) {
        for peer in self.peers.values_mut() {
            peer.windows.clear();
            peer.repeats = Repeats::default();
            peer.open_count = 0;
        }
        self.take_news();
    }

    fn peer(&mut self, remote_id: &str, route: SessionId) -> NonZeroU32 {
        if let Some(number) = self.by_remote.get(remote_id) {
            if let Some(peer) = self.peers.get_mut(number) {
                peer.route = Some(route);
            }
            return *number;
        }
        if PEERS_MAX <= self.peers.len() {
            self.peers.retain(|_, peer| peer.route.is_some());
            let peers = &self.peers;
            self.by_remote.retain(|_, number| peers.contains_key(number));
        }
        let number = self.last_number.map_or(NonZeroU32::MIN, |last| last.saturating_add(1));
        self.last_number = Some(number);
        self.by_remote.insert(remote_id.to_owned(), number);
        self.peers.insert(number, Peer::new(route));
        number
    }

    fn on_done(&mut self, number: NonZeroU32, finished: Finished) -> Option<Waiting> {
        let waiting = self.peers.get_mut(&number)?.on_done(finished);
        self.note(number, finished.errand.ledger);
        waiting
    }

    /// There is something to tell of a ledger.
    fn note(&mut self, number: NonZeroU32, ledger: u64) {
        if self.latest != Some((number, ledger)) {
            self.latest = Some((number, ledger));
            self.news.insert((number, ledger));
        }
    }

    /// What has come by a route and is not done: ledgers, and up to which number.
    pub fn undone(&self, route: SessionId) -> BTreeMap<u64, u64> {
        let Some(peer) = self.peer_of(route) else { return BTreeMap::new() };
        let come = peer.windows.iter().filter(|(_, window)| window.route == Some(route));
        let undone = come.filter(|(ledger, window)| {
            window.done_to(peer.repeats.first_answering(**ledger)) < window.seen
        });
        undone.map(|(ledger, window)| (*ledger, window.seen)).collect()
    }

    /// Whether all up to a number of a ledger is done that has come by a route.
    pub fn is_done(&self, route: SessionId, (ledger, number): (u64, u64)) -> bool {
        let Some(peer) = self.peer_of(route) else { return true };
        let answering = peer.repeats.first_answering(ledger);
        let window = peer.windows.get(&ledger);
        window.is_none_or(|window| number <= window.done_to(answering))
    }

    fn peer_of(&self, route: SessionId) -> Option<&Peer> {
        self.peers.values().find(|peer| peer.route == Some(route))
    }

    fn take_news(&mut self) -> BTreeSet<(NonZeroU32, u64)> {
        self.latest = None;
        std::mem::take(&mut self.news)
    }
}

impl Broker {
    /// A peer says of the message that follows that it is for engines.
    pub(super) fn on_kept(&mut self, id: SessionId, kept: Kept) -> Step {
        let Some(route) = self.sessions.route_mut(id) else { return Step::End };
        if route.keeper.is_some() {
            route.kept = Some(kept);
            return Step::Done;
        }
        if !self.is_sibling(id) {
            return self.refuse_stranger(id);
        }
        let Some(route) = self.sessions.route_mut(id) else { return Step::End };
        route.kept = Some(kept);
        route.keeper = Some(self.errands.peer(route.remote_id(), id));
        Step::Done
    }

    /// A message for the engines of this process alone.
    pub(super) fn on_kept_message(
        &mut self,
        id: SessionId,
        kept: Kept,
        message: &Message<'_>,
        matched: Option<&Matched>,
    ) -> Step {
        // What was said to others, or to former ones, they get again who come next.
        if self.serving.own_epoch() != Some(Epoch(kept.epoch)) {
            return Step::Done;
        }
        let source = Source::Route { session: id, names: b"" };
        if kept.ledger == 0 {
            if let Some(matched) = matched {
                self.deliver_here(matched, message, &source, None);
            }
            return Step::Done;
        }
        let keeper = self.sessions.route(id).and_then(|route| route.keeper);
        let Some(number) = keeper else { return Step::End };
        let Some(peer) = self.errands.peers.get_mut(&number) else { return Step::End };
        peer.tidy();
        if ERRANDS_OPEN_MAX <= peer.open_count {
            let text =
                format!("Route Error: {ERRANDS_OPEN_MAX} inputs are not done, and more come");
            return self.refuse(id, &text, CloseReason::ProtocolViolation);
        }
        let window = peer.windows.entry(kept.ledger).or_default();
        window.on_come(id, kept.number);
        let again = if kept.number <= window.last {
            let Some(again) = self.come_again((id, number), kept, message) else {
                return Step::Done;
            };
            again
        } else {
            window.last = kept.number;
            window.open.push_back((kept.number, false));
            peer.open_count += 1;
            Again::perhaps(kept.is_again)
        };
        let (keeper, ledger) = (Keeper::Peer(number), kept.ledger);
        let errand = Errand { keeper, ledger, number: kept.number, again };
        let is_taken =
            matched.is_some_and(|found| self.deliver_here(found, message, &source, Some(errand)));
        if !is_taken || planted::is(Bug::MarkEarly) {
            self.dismiss(number, errand, message.reply.is_some());
        }
        self.step_of(id)
    }

    /// An input has come again to the engines that have had it; what they are told of it, if it is
    /// handed to them now.
    fn come_again(
        &mut self,
        (route, number): (SessionId, NonZeroU32),
        kept: Kept,
        message: &Message<'_>,
    ) -> Option<Again> {
        self.errands.note(number, kept.ledger);
        let peer = self.errands.peers.get_mut(&number)?;
        let window = peer.windows.get_mut(&kept.ledger)?;
        let place = (kept.ledger, kept.number);
        let is_done = window.is_done(kept.number) && !peer.repeats.is_answering(place);
        if message.reply.is_none() {
            if is_done {
                window.beyond.push(kept.number);
            }
            return None;
        }
        if !is_done {
            let (names, payload) = message.to_engines(&mut self.chunk);
            let account = message.account;
            peer.repeats.wait(place, Waiting { route, account, names, payload });
            return None;
        }
        if !window.reopen(kept.number) {
            peer.repeats.begin(place);
            peer.open_count += 1;
        }
        Some(peer.repeats.again(place))
    }

    /// Nobody takes an input. Who has taken it before has done it all the same.
    fn dismiss(&mut self, number: NonZeroU32, errand: Errand, is_answered: bool) {
        let is_unstored = is_answered && errand.again != Again::Done;
        self.finish_errand(number, Finished { errand, is_unstored });
    }

    /// An input of a peer is done; if it has come again meanwhile, it is answered once more.
    fn finish_errand(&mut self, number: NonZeroU32, finished: Finished) {
        let waiting = self.errands.on_done(number, finished);
        if waiting.is_none() && !self.serving.untold.is_waiting() {
            return;
        }
        let Some(peer) = self.errands.peers.get(&number) else { return };
        let Some(waiting) = waiting else {
            if let Some(route) = peer.route {
                self.on_answered(route, finished.errand.ledger);
            }
            return;
        };
        let Errand { ledger, number: at, .. } = finished.errand;
        let errand = Errand { again: peer.repeats.again((ledger, at)), ..finished.errand };
        let Waiting { route, account, names, payload } = waiting;
        let matched = self.accounts[account].matches(names.subject());
        let message = Message::of_ledger(account, &names, &payload);
        let source = Source::Route { session: route, names: b"" };
        let is_taken =
            matched.is_some_and(|found| self.deliver_here(&found, &message, &source, Some(errand)));
        if !is_taken {
            self.dismiss(number, errand, true);
        }
    }

    /// Engines have done these.
    pub(super) fn on_done(&mut self, finished: Vec<Finished>) {
        let mut by_loop: BTreeMap<LoopIndex, Vec<Finished>> = BTreeMap::new();
        for one in finished {
            let errand = one.errand;
            let home = match errand.keeper {
                Keeper::Own => home_of(errand.ledger),
                Keeper::Peer(_) => Some(HOME),
            };
            match (home, errand.keeper) {
                (Some(home), _) if home != self.home => {
                    by_loop.entry(home).or_default().push(one);
                }
                (_, Keeper::Own) => self.on_own_done(errand),
                (_, Keeper::Peer(peer)) => self.finish_errand(peer, one),
            }
        }
        for (to, finished) in by_loop {
            self.effects.push_back(Effect::Mail { to, mail: Mail::Done(finished) });
        }
    }

    /// Tells each peer what is done; the answers are in their outboxes.
    pub(super) fn tell_done(&mut self) {
        if self.errands.news.is_empty() {
            return;
        }
        let news = self.errands.take_news();
        // Also of those that take nothing more.
        let Some(epoch) = self.serving.begun_epoch() else { return };
        let mut line = BytesMut::new();
        let mut news = news.into_iter().peekable();
        while let Some((number, ledger)) = news.next() {
            let Some(peer) = self.errands.peers.get_mut(&number) else { continue };
            let is_last = news.peek().is_none_or(|(next, _)| *next != number);
            // Without a route it hears of it when it says it again.
            let route = peer.route;
            for mark in peer.marks(ledger) {
                encoder::mark(&mut line, ledger, mark);
                if MARKS_LEN_MAX < line.len() {
                    self.write_done(route, epoch, &mut line);
                }
            }
            if is_last {
                self.write_done(route, epoch, &mut line);
            }
        }
    }

    /// Says a line of marks to a peer, if it has a route and there are some. It is empty then.
    fn write_done(&mut self, route: Option<SessionId>, epoch: Epoch, line: &mut BytesMut) {
        let marks = line.split();
        let Some(route) = route.filter(|_| !marks.is_empty()) else { return };
        let session = self.sessions.get_mut(route).filter(|found| !found.is_ending());
        let Some(session) = session else { return };
        encoder::encode(&Op::Done { epoch: epoch.0, marks: &marks }, session.outbox.tail());
        // Without the lease they stay here, as the answers before them do.
        session.outbox.seal(true);
        self.mark_dirty(route);
        self.look_at_route(route);
    }

    /// A peer's engines have done what is kept here.
    pub(super) fn on_marks(&mut self, id: SessionId, epoch: Epoch, line: &[u8]) -> Step {
        if !self.is_sibling(id) {
            return self.refuse_stranger(id);
        }
        for (ledger, mark) in marks(line).flatten() {
            self.work += 1;
            match home_of(ledger).filter(|home| home.0 < self.settings.loops) {
                Some(HOME) => self.on_mark(epoch, ledger, mark),
                Some(to) => {
                    let mail = Mail::Mark(epoch, ledger, mark);
                    self.effects.push_back(Effect::Mail { to, mail });
                }
                None => {
                    let text = "Route Error: it has done what nobody keeps";
                    return self.refuse(id, text, CloseReason::ProtocolViolation);
                }
            }
        }
        Step::Done
    }

    /// A route is at its end; what its peer keeps it may tell again by another one.
    pub(super) fn on_keeper_gone(&mut self, id: SessionId) {
        for peer in self.errands.peers.values_mut().filter(|peer| peer.route == Some(id)) {
            peer.route = None;
            peer.repeats.forget_waiting();
        }
    }
}
