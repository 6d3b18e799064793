//! What an operator has changed, as somebody sees it who asks for a change, is told how it ended or
//! is not, and looks at what clients get.
//!
//! What was answered is there from then on, whoever serves. What was not is there as a whole or not
//! at all, and nothing else is: so each rule holds for what both would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::promise::{On, Promise};
use super::{Asked, Audit, Checker, DurableKey};
use crate::base::id::{ChannelName, Sequence, Subject};
use crate::base::record::ChannelState;
use crate::base::time::Instant;
use crate::engine::administration::{Extent, Outcome, Position};
use crate::proto::pb;
use crate::testing::limits::{DROPPED, Kept};

/// What a change is about.
#[derive(Clone, Debug)]
pub enum Matter {
    /// The oldest messages of a channel.
    Purge {
        /// Which channel.
        channel: ChannelName,
        /// How many.
        extent: Extent,
    },
    /// The channel that may be deleted.
    Drop,
    /// A client, in this life.
    Client {
        /// Which.
        number: usize,
        /// Its life.
        life: u32,
    },
    /// A subscription that is open.
    Subscription {
        /// Where it gets messages.
        inbox: Subject,
    },
    /// A durable that goes on elsewhere.
    Reset {
        /// Which.
        key: DurableKey,
        /// Where.
        to: Position,
    },
    /// A durable that goes.
    Removal {
        /// Which.
        key: DurableKey,
    },
}

/// How a change ended.
#[derive(Debug)]
pub enum Ending {
    /// It is made.
    Done(Outcome),
    /// It is not made.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Ending {
    /// What an operator knows who is told this.
    #[must_use]
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            // The store has refused what the engine does all the same.
            Outcome::Refused(why) if HALF_DONE.iter().any(|text| why.starts_with(text)) => {
                Self::Unknown
            }
            Outcome::Refused(_) => Self::Refused,
            Outcome::Purged { .. } | Outcome::Gone => Self::Done(outcome),
        }
    }
}

/// Who is known so long after a take-over is not being ended any more.
const KNOWN_FOR_SURE: Duration = Duration::from_secs(3);

/// What a refusal begins with that refuses only to write down what is done.
const HALF_DONE: [&str; 2] = ["it is ended", "a client uses it as it was reset"];

/// Where a durable goes on that was reset.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// With that message.
    At(Sequence),
    /// Behind what so many publishes were answered for.
    Behind(usize),
}

/// What is known of changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    open: BTreeMap<u64, Open>,
    purges: BTreeMap<ChannelName, Purges>,
    drops: Vec<Dropped>,
    /// By inbox that an operator has ended: nothing comes that is published first as this one of
    /// the run, or later.
    ended: BTreeMap<Subject, usize>,
    /// By client: in which life an operator has asked to close it, and when it became clear that
    /// nobody will be told whether that was done.
    unclear: BTreeMap<usize, (u32, Instant)>,
    /// Clients that an operator has asked to close, ever.
    touched: BTreeSet<usize>,
    /// By client and life: when it was closed.
    closed: BTreeMap<(usize, u32), Instant>,
    /// Durables of which an operator has asked something: what they acknowledged may come again.
    loosened: BTreeSet<DurableKey>,
}

/// A change that is not answered.
#[derive(Debug)]
struct Open {
    matter: Matter,
    asked_at: Instant,
    /// Inboxes that end with it.
    inboxes: Vec<Subject>,
    /// So many publishes were answered.
    acked: usize,
}

/// What was let go of a channel.
#[derive(Debug, Default)]
struct Purges {
    /// Everything up to there is gone.
    floor: Sequence,
    /// Those that may have been made, or may not.
    maybe: BTreeMap<u64, Extent>,
    /// Where an empty message stands in for the last one that was let go.
    stand_ins: BTreeSet<Sequence>,
    /// What was published first as this one of the run, or later, no purge can have let go.
    published: usize,
}

/// The channel that is deleted was to go.
#[derive(Debug)]
struct Dropped {
    number: u64,
    /// What was stored there, and in no deletion before.
    held: BTreeSet<Bytes>,
    /// Whether it is known to be gone.
    is_done: bool,
    /// What was published first as this one of the run, or later, did not go with it.
    published: Option<usize>,
}

impl Changes {
    /// Whether an empty message may stand there because of a purge.
    pub(super) fn may_stand_in(&self, channel: &ChannelName, at: Sequence) -> bool {
        self.purges.get(channel).is_some_and(|found| {
            let is_it = |extent: &Extent| match extent {
                Extent::All | Extent::Keep(0) => true,
                Extent::Keep(_) => false,
                Extent::To(to) => *to == at,
            };
            found.stand_ins.contains(&at) || found.maybe.values().any(is_it)
        })
    }

    /// Whether an operator may have let go of that message.
    pub(super) fn may_be_purged(&self, channel: &ChannelName, at: Sequence) -> bool {
        self.purges.get(channel).is_some_and(|found| {
            let is_it = |extent: &Extent| match extent {
                Extent::All | Extent::Keep(_) => true,
                Extent::To(to) => at <= *to,
            };
            at <= found.floor || found.maybe.values().any(is_it)
        })
    }

    fn floor(&self, channel: &ChannelName) -> Sequence {
        self.purges.get(channel).map_or(Sequence::ZERO, |found| found.floor)
    }
}

impl Checker {
    /// The last message of a channel that somebody was given.
    #[must_use]
    pub fn last_told(&self, channel: &ChannelName) -> Sequence {
        let told = self.told.get(channel).and_then(|told| told.keys().next_back());
        told.copied().unwrap_or(Sequence::ZERO)
    }

    /// An operator asks for a change. Nothing is expected any more of what may end with it.
    pub fn on_change_asked(&mut self, number: u64, matter: &Matter) {
        self.say(|| format!("change {number} is asked for: {matter:?}"));
        let ends = |inbox: &Subject, asked: &Asked| match matter {
            Matter::Purge { .. } | Matter::Reset { .. } | Matter::Removal { .. } => false,
            Matter::Drop => asked.channel.as_bytes() == DROPPED.as_bytes(),
            Matter::Client { number, .. } => is_of(inbox, *number),
            Matter::Subscription { inbox: ended } => inbox == ended,
        };
        let ending = self.asked.iter_mut().filter(|(inbox, asked)| ends(inbox, asked));
        let mut inboxes = Vec::new();
        for (inbox, asked) in ending {
            asked.is_doubtful = true;
            asked.in_flight_max = usize::MAX;
            asked.owed.clear();
            asked.suspended = asked.owed_from.take().or(asked.suspended);
            // What is acknowledged once it has ended nobody takes.
            self.changes.loosened.extend(asked.durable.clone());
            if asked.is_confirmed {
                inboxes.push(inbox.clone());
            }
        }
        match matter {
            Matter::Purge { channel, extent } => {
                let purges = self.changes.purges.entry(channel.clone()).or_default();
                purges.maybe.insert(number, *extent);
            }
            Matter::Drop => {
                let is_stored =
                    |acked: &super::Acked| acked.channel.as_bytes() == DROPPED.as_bytes();
                let stored = self.acked.iter().filter(|(_, acked)| is_stored(acked));
                let is_new = |data: &Bytes| {
                    let is_held = self.changes.drops.iter().any(|drop| drop.held.contains(data));
                    !is_held && !self.doubts.may_be_twice(data)
                };
                let held = stored.map(|(data, _)| data).filter(|data| is_new(data)).cloned();
                let held = held.collect();
                let drop = Dropped { number, held, is_done: false, published: None };
                self.changes.drops.push(drop);
            }
            Matter::Client { number, .. } => drop(self.changes.touched.insert(*number)),
            Matter::Subscription { .. } => (),
            Matter::Reset { key, .. } | Matter::Removal { key } => {
                self.changes.loosened.insert(key.clone());
                if let Some(durable) = self.durables.get_mut(key) {
                    durable.begins = None;
                }
                let of_key = |asked: &&mut Asked| asked.durable.as_ref() == Some(key);
                self.asked.values_mut().filter(of_key).for_each(|asked| asked.begins = None);
            }
        }
        let (matter, acked) = (matter.clone(), self.acked.len());
        self.changes.open.insert(number, Open { matter, asked_at: self.now, inboxes, acked });
    }

    /// An operator is told how a change ended, or will never be.
    pub fn on_change_ended(&mut self, number: u64, ending: &Ending) {
        self.say(|| format!("change {number} ends: {ending:?}"));
        let Some(open) = self.changes.open.remove(&number) else { return };
        let is_done = matches!(ending, Ending::Done(_));
        let is_refused = matches!(ending, Ending::Refused);
        match &open.matter {
            Matter::Purge { channel, extent } => self.end_purge(number, channel, *extent, ending),
            Matter::Drop => self.end_drop(number, is_done, is_refused),
            Matter::Client { number, life } if is_done => {
                self.changes.closed.insert((*number, *life), self.now);
            }
            Matter::Client { number, life } if !is_refused => {
                self.changes.unclear.insert(*number, (*life, self.now));
            }
            Matter::Reset { key, to } if !is_refused => self.end_reset(key, *to, &open, is_done),
            Matter::Removal { key } if is_done => {
                let is_reopened = |asked: &Asked| {
                    asked.durable.as_ref() == Some(key) && open.asked_at <= asked.confirmed_at
                };
                if !self.asked.values().any(is_reopened) {
                    self.durables.remove(key);
                }
            }
            Matter::Client { .. }
            | Matter::Subscription { .. }
            | Matter::Reset { .. }
            | Matter::Removal { .. } => (),
        }
        if is_refused {
            self.restore(&open.inboxes);
        }
        if is_done {
            let order = self.published.len();
            for inbox in &open.inboxes {
                self.changes.ended.insert(inbox.clone(), order);
                let key = self.asked.get(inbox).and_then(|asked| asked.durable.clone());
                if let Some(key) = key {
                    self.doubts.on_closed(&key, inbox);
                }
            }
        }
    }

    /// What may have been ended was not: it gets everything, as before.
    fn restore(&mut self, inboxes: &[Subject]) {
        for inbox in inboxes {
            let is_ending =
                self.asked.get(inbox).is_some_and(|it| self.may_end(inbox, &it.channel));
            if let Some(asked) = self.asked.get_mut(inbox).filter(|_| !is_ending) {
                asked.is_doubtful = false;
                asked.owed_from = asked.suspended.take().or(asked.owed_from);
            }
        }
    }

    /// A client is told that it is known. If it was to be closed, and nobody was told how that
    /// ended, it is there with all that it has.
    pub fn on_known(&mut self, (number, life): (usize, u32), now: Instant) {
        let Some((asked_life, at)) = self.changes.unclear.get(&number).copied() else { return };
        let since = at.max(self.taken_over_at);
        if asked_life != life || now.since(since) < KNOWN_FOR_SURE {
            return;
        }
        self.changes.unclear.remove(&number);
        let of_client = self.asked.iter().filter(|(inbox, _)| is_of(inbox, number));
        let suspended = of_client.filter(|(_, asked)| asked.suspended.is_some());
        let suspended: Vec<Subject> = suspended.map(|(inbox, _)| inbox.clone()).collect();
        self.restore(&suspended);
    }

    fn end_purge(&mut self, number: u64, channel: &ChannelName, extent: Extent, ending: &Ending) {
        let published = self.published.len();
        let is_exact = self.kept(channel) == Kept::All;
        let Some(purges) = self.changes.purges.get_mut(channel) else { return };
        match ending {
            Ending::Refused => drop(purges.maybe.remove(&number)),
            Ending::Unknown => purges.published = published,
            Ending::Done(Outcome::Purged { removed, state }) => {
                purges.maybe.remove(&number);
                purges.published = published;
                if state.message_count != 0 {
                    purges.floor = purges.floor.max(state.first.prev());
                }
                if is_emptied(extent, state) {
                    purges.stand_ins.insert(state.last);
                }
                if let Some(text) = not_as_asked(extent, *removed, state, is_exact) {
                    let text = format!("{extent:?} of {channel}: {text}");
                    self.fail_on(Promise::Changes, On::Channel(channel), text);
                }
            }
            Ending::Done(Outcome::Gone | Outcome::Refused(_)) => (),
        }
    }

    fn end_drop(&mut self, number: u64, is_done: bool, is_refused: bool) {
        let published = Some(self.published.len());
        if is_refused {
            // What it held goes with a later one, if at all.
            return self.changes.drops.retain(|drop| drop.number != number);
        }
        if let Some(drop) = self.changes.drops.iter_mut().find(|drop| drop.number == number) {
            drop.is_done = is_done;
            drop.published = published;
        }
    }

    /// What was not acknowledged after it was asked for is owed anew; where it may not have been
    /// made, only what is owed in both cases.
    fn end_reset(&mut self, key: &DurableKey, to: Position, open: &Open, is_done: bool) {
        let published = self.published.len();
        // It may be there though nobody was told so.
        let durable = self.durables.entry(key.clone()).or_default();
        let (floor, owed_from) = match to {
            Position::First => (Sequence::ZERO, 0),
            Position::At(at) => (at, 0),
            Position::Last | Position::New => (Sequence::ZERO, published),
        };
        if is_done {
            durable.acked.retain(|_, at| open.asked_at <= *at);
            durable.floor = floor;
            durable.owed_from = owed_from;
            durable.begins = match to {
                Position::At(at) => Some(Begin::At(at)),
                Position::New => Some(Begin::Behind(open.acked)),
                Position::First | Position::Last => None,
            };
        } else {
            durable.floor = durable.floor.max(floor);
            durable.owed_from = durable.owed_from.max(owed_from);
        }
    }

    /// Where a subscription begins whose durable was reset.
    pub(super) fn begins(&self, key: Option<&DurableKey>) -> Option<Begin> {
        key.and_then(|key| self.durables.get(key)?.begins)
    }

    /// Up to where an operator has let go of a channel, as somebody was told.
    pub(super) fn purged_to(&self, channel: &ChannelName) -> Sequence {
        self.changes.floor(channel)
    }

    /// Whether a subscription that is asked for now may end by a change that is not answered.
    pub(super) fn may_end(&self, inbox: &Subject, channel: &ChannelName) -> bool {
        self.changes.open.values().any(|open| match &open.matter {
            Matter::Drop => channel.as_bytes() == DROPPED.as_bytes(),
            Matter::Client { number, .. } => is_of(inbox, *number),
            Matter::Purge { .. }
            | Matter::Subscription { .. }
            | Matter::Reset { .. }
            | Matter::Removal { .. } => false,
        })
    }

    /// Whether an empty message may be there because of a purge.
    pub(super) fn is_purge_stand_in(&self, channel: &ChannelName, at: Sequence) -> bool {
        self.changes.may_stand_in(channel, at)
    }

    /// Whether an operator may have let go of a message that somebody had got.
    pub(super) fn may_be_purged(&self, channel: &ChannelName, at: Sequence) -> bool {
        self.changes.may_be_purged(channel, at)
    }

    /// The same of one of which only is known what it was, and when it was published.
    pub(super) fn may_be_let_go(&self, channel: &ChannelName, data: &Bytes) -> bool {
        let order = self.published.get(data).map(|published| published.order);
        self.changes.purges.get(channel).is_some_and(|found| {
            let is_open = |number| self.changes.open.contains_key(number);
            order.is_none_or(|order| order < found.published) || found.maybe.keys().any(is_open)
        })
    }

    /// Whether what a durable acknowledged may come again.
    pub(super) fn is_loosened(&self, key: &DurableKey) -> bool {
        self.changes.loosened.contains(key)
    }

    /// What is wrong with sending a message to a subscription by what an operator has changed.
    pub(super) fn unchanged(&self, inbox: &Subject, message: &pb::MsgProto) -> Option<String> {
        let asked = self.asked.get(inbox)?;
        let (channel, at) = (&asked.channel, Sequence(message.sequence));
        let place = format!("{channel}:{at} for {inbox}");
        let order = self.published.get(&message.data).map(|published| published.order);
        let is_after = |from: &usize| order.is_some_and(|order| *from <= order);
        if self.changes.ended.get(inbox).is_some_and(is_after) {
            return Some(format!("{place} comes, and an operator has ended that before"));
        }
        if channel.as_bytes() == DROPPED.as_bytes() {
            let drops = self.changes.drops.iter().filter(|drop| drop.is_done);
            let is_gone = |drop: &Dropped| {
                let is_before = drop.published.is_some_and(|from| from <= asked.published_before);
                is_before && drop.held.contains(&message.data)
            };
            let is_back = drops.filter(|drop| is_gone(drop)).count() != 0;
            let is_once = !self.doubts.may_be_twice(&message.data);
            return (is_back && is_once).then(|| format!("{place} was deleted with its channel"));
        }
        if at <= asked.purged_before {
            return Some(format!("{place} was let go before that was asked for"));
        }
        let is_before = match asked.begins? {
            Begin::At(first) => at < first,
            Begin::Behind(acked) => {
                let is_older = self.acked.get(&message.data).is_some_and(|it| it.order < acked);
                is_older && !self.doubts.may_be_twice(&message.data)
            }
        };
        is_before.then(|| format!("{place} lies before where its durable was reset to"))
    }

    /// A publish was taken from a client in a life in which it was closed before it sent that.
    pub fn on_publish_taken(&mut self, (number, life): (usize, u32), sent_at: Instant) {
        let closed = self.changes.closed.get(&(number, life));
        if closed.is_some_and(|at| *at < sent_at) && !self.doubts.may_be_unwritten() {
            let text = format!("c{number} was closed, and publishes as who it was");
            self.fail_on(Promise::Changes, On::Clients, text);
        }
    }

    /// A client is told that nobody knows it. That may be so if an operator has closed it.
    pub fn on_unknown(&mut self, number: usize, now: Instant, text: impl FnOnce() -> String) {
        if !self.changes.touched.contains(&number) {
            self.on_let_down(now, text);
        }
    }

    /// Whether the channel that may be deleted has to be read in the end.
    #[must_use]
    pub fn reads_dropped(&self) -> bool {
        !self.changes.drops.is_empty()
    }

    /// The first message that has to be there, of a channel that everything stays in: as an
    /// operator was told, or as a change that nobody was told of has left it.
    pub(super) fn first_kept(&self, channel: &ChannelName, found: Sequence) -> Sequence {
        let Some(purges) = self.changes.purges.get(channel) else { return Sequence::ZERO.next() };
        let first = purges.floor.next();
        let leaves = |extent: &Extent| match extent {
            Extent::All | Extent::Keep(_) => true,
            Extent::To(to) => found == to.next() || found == *to,
        };
        let is_left = first < found && purges.maybe.values().any(leaves);
        if is_left { found } else { first }
    }

    /// What a client finds at the end that should be gone.
    pub(super) fn not_gone(&self, audit: &Audit) -> Vec<(Promise, String)> {
        let mut broken = Vec::new();
        for (channel, messages) in audit {
            let floor = self.changes.floor(channel);
            let first = messages.keys().next().filter(|first| **first <= floor);
            let first = first.filter(|at| !self.doubts.excuses(On::Message(channel, **at)));
            if let Some(at) = first.filter(|_| !self.doubts.excuses(On::Channel(channel))) {
                let text = format!("{channel}:{at} was let go, as everything up to {floor}");
                broken.push((Promise::Changes, text));
            }
            let purges = self.changes.purges.get(channel);
            let emptied = purges.into_iter().flat_map(|purges| &purges.stand_ins);
            let held = emptied.filter_map(|at| Some((*at, messages.get(at)?)));
            let mut held = held.filter(|(at, data)| {
                !data.is_empty() && !self.doubts.excuses(On::Message(channel, *at))
            });
            if let Some((at, data)) =
                held.next().filter(|_| !self.doubts.excuses(On::Channel(channel)))
            {
                let text = format!("{channel}:{at} was emptied, and is {data:?}");
                broken.push((Promise::Changes, text));
            }
        }
        let channel = ChannelName::from(DROPPED);
        let Some(found) = audit.get(&channel) else { return broken };
        if self.doubts.excuses(On::Channel(&channel)) {
            return broken;
        }
        let found: BTreeSet<&Bytes> = found.values().collect();
        let is_once = |data: &&Bytes| !self.doubts.may_be_twice(data);
        for drop in &self.changes.drops {
            let held: Vec<&Bytes> = drop.held.iter().filter(is_once).collect();
            let there: Vec<&&Bytes> = held.iter().filter(|data| found.contains(**data)).collect();
            let some = there.first().filter(|_| drop.is_done || there.len() < held.len());
            if let Some(data) = some {
                let (some, all) = (there.len(), held.len());
                let text = format!("{data:?} is there, {some} of {all} that went with {channel}");
                broken.push((Promise::Changes, text));
            }
        }
        broken.extend(self.lost_of_dropped(&channel, &found));
        broken
    }

    /// What was published behind each deletion of a channel is there.
    fn lost_of_dropped(
        &self,
        channel: &ChannelName,
        found: &BTreeSet<&Bytes>,
    ) -> Option<(Promise, String)> {
        let ends = self.changes.drops.iter().map(|drop| drop.published);
        let from = ends.collect::<Option<Vec<usize>>>()?.into_iter().max()?;
        let is_later = |data: &Bytes| {
            self.published.get(data).is_some_and(|published| from <= published.order)
        };
        let of_channel = self.acked.iter().filter(|(_, acked)| acked.channel == *channel);
        let mut later = of_channel.map(|(data, _)| data).filter(|data| is_later(data));
        let lost = later.find(|data| !found.contains(*data) && !self.doubts.may_be_gone(data))?;
        Some((Promise::P1, format!("{lost:?} was acked and is 0 times in {channel}")))
    }
}

/// Whether an inbox is of that client.
fn is_of(inbox: &Subject, number: usize) -> bool {
    inbox.as_bytes().starts_with(format!("_INBOX.c{number}.").as_bytes())
}

/// Whether of everything that was there one empty message is left.
fn is_emptied(extent: Extent, state: &ChannelState) -> bool {
    let is_all = match extent {
        Extent::All | Extent::Keep(0) => true,
        Extent::Keep(_) => false,
        Extent::To(to) => to == state.last,
    };
    is_all && state.first == state.last && state.last != Sequence::ZERO
}

/// Whether more was let go than was asked for, or less; `is_exact` where nothing else removes
/// anything.
fn not_as_asked(
    extent: Extent,
    removed: u64,
    state: &ChannelState,
    is_exact: bool,
) -> Option<String> {
    let (first, last) = (state.first, state.last);
    let wanted = match extent {
        Extent::All | Extent::Keep(0) => last,
        Extent::Keep(kept) => Sequence(last.get().saturating_sub(kept)).next(),
        Extent::To(to) => to.next().min(last),
    };
    let is_less = first < wanted && state.message_count != 0;
    let is_more = is_exact && removed != 0 && wanted < first;
    (is_less || is_more).then(|| format!("{first} is the first that is left, of {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::channel_limits::StoreLimits;
    use crate::testing::checker::{Asking, Start};
    use crate::testing::trace::Trace;

    fn orders() -> ChannelName {
        ChannelName::from("orders")
    }

    fn mine() -> DurableKey {
        DurableKey { channel: orders(), name: "c1-mine".to_owned() }
    }

    fn data(sequence: u64) -> Bytes {
        Bytes::from(format!("message {sequence}"))
    }

    impl Checker {
        fn publish(&mut self, channel: &ChannelName, sequence: u64) {
            self.on_published(data(sequence), 1, sequence);
            self.on_acked(channel, data(sequence));
        }

        fn subscribe(&mut self, inbox: &str, channel: &ChannelName, durable: Option<&DurableKey>) {
            let inbox = &Subject::from(inbox.to_owned());
            let start = if durable.is_some() { Start::Remembered } else { Start::First };
            let (in_queue, in_flight_max) = (false, 100);
            self.on_asked(&Asking { inbox, channel, durable, in_queue, in_flight_max, start });
            self.on_confirmed(inbox);
            durable.into_iter().for_each(|key| self.on_durable_made(key));
        }

        fn deliver(&mut self, inbox: &str, channel: &ChannelName, sequence: u64, data: Bytes) {
            let subject = channel.to_bytes();
            let message = pb::MsgProto { sequence, subject, data, ..pb::MsgProto::default() };
            self.on_delivered(&Subject::from(inbox.to_owned()), &message);
        }

        fn broken(&self) -> Option<Promise> {
            self.violation().map(|violation| violation.promise)
        }
    }

    /// Goal: a checker that knows of so many messages of a channel, all of them told.
    fn told(channel: &ChannelName, count: u64) -> Checker {
        let limits = StoreLimits::default().resolve().expect("no section is wrong");
        let mut checker = Checker::new(limits, Trace::new(false));
        checker.subscribe("reader", channel, None);
        for sequence in 1..=count {
            checker.publish(channel, sequence);
            checker.deliver("reader", channel, sequence, data(sequence));
        }
        checker
    }

    fn purge(checker: &mut Checker, extent: Extent, left: Option<(u64, u64)>) {
        checker.on_change_asked(1, &Matter::Purge { channel: orders(), extent });
        let state = |(first, last): (u64, u64)| ChannelState {
            first: Sequence(first),
            last: Sequence(last),
            message_count: last + 1 - first,
            byte_count: 0,
        };
        let ending = left.map_or(Ending::Unknown, |left| {
            Ending::Done(Outcome::Purged { removed: left.0 - 1, state: state(left) })
        });
        checker.on_change_ended(1, &ending);
    }

    fn audit(channel: &ChannelName, sequences: std::ops::RangeInclusive<u64>) -> Audit {
        let found = sequences.map(|sequence| (Sequence(sequence), data(sequence)));
        [(channel.clone(), found.collect())].into()
    }

    #[test]
    fn what_was_purged_is_gone_and_nothing_else() {
        let broken = |extent, left, found| {
            let mut checker = told(&orders(), 9);
            purge(&mut checker, extent, left);
            checker.publish(&orders(), 10);
            checker.check_audit(&audit(&orders(), found));
            checker.broken()
        };
        let to = Extent::To(Sequence(4));
        assert_eq!(broken(to, Some((5, 9)), 5..=10), None);
        assert_eq!(broken(to, Some((5, 9)), 4..=10), Some(Promise::Changes), "one is back");
        assert_eq!(broken(to, Some((5, 9)), 6..=10), Some(Promise::P4), "one was not let go");
        assert_eq!(broken(to, Some((4, 9)), 4..=10), Some(Promise::Changes), "less than asked");
        assert_eq!(broken(to, Some((6, 9)), 6..=10), Some(Promise::Changes), "more than asked");
        // Nobody was told how it ended.
        assert_eq!(broken(to, None, 5..=10), None);
        assert_eq!(broken(to, None, 1..=10), None);
        assert_eq!(broken(to, None, 3..=10), Some(Promise::P4), "in part");
        assert_eq!(broken(Extent::Keep(2), None, 8..=10), None);
        assert_eq!(broken(Extent::Keep(2), None, 8..=9), Some(Promise::P1), "published later");
    }

    #[test]
    fn an_empty_message_stands_in_where_everything_was_let_go() {
        let broken = |extent, left, at| {
            let mut checker = told(&orders(), 9);
            purge(&mut checker, extent, left);
            checker.subscribe("late", &orders(), None);
            checker.deliver("late", &orders(), at, Bytes::new());
            checker.broken()
        };
        assert_eq!(broken(Extent::All, Some((9, 9)), 9), None);
        assert_eq!(broken(Extent::All, None, 9), None);
        assert_eq!(broken(Extent::To(Sequence(4)), None, 9), Some(Promise::P4));
        assert_eq!(broken(Extent::To(Sequence(4)), Some((5, 9)), 5), Some(Promise::P4));
    }

    #[test]
    fn a_durable_goes_on_where_it_was_reset_to() {
        let broken = |to, is_done, at| {
            let mut checker = told(&orders(), 9);
            checker.subscribe("first", &orders(), Some(&mine()));
            checker.on_change_asked(1, &Matter::Reset { key: mine(), to });
            let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
            checker.on_change_ended(1, &ending);
            checker.subscribe("second", &orders(), Some(&mine()));
            checker.deliver("second", &orders(), at, data(at));
            checker.broken()
        };
        let fourth = Position::At(Sequence(4));
        assert_eq!(broken(fourth, true, 4), None);
        assert_eq!(broken(fourth, true, 3), Some(Promise::Changes));
        assert_eq!(broken(fourth, false, 3), None, "nobody knows");
        assert_eq!(broken(Position::New, true, 9), Some(Promise::Changes));
        assert_eq!(broken(Position::First, true, 1), None);
    }

    #[test]
    fn a_durable_is_owed_everything_from_where_it_was_reset_to() {
        let debt = |to, is_done| {
            let mut checker = told(&orders(), 9);
            checker.subscribe("first", &orders(), Some(&mine()));
            (1..=9).for_each(|at| checker.on_acknowledged(&Subject::from("first"), Sequence(at)));
            checker.set_now(Instant(1));
            checker.on_left(&Subject::from("first"));
            checker.on_change_asked(1, &Matter::Reset { key: mine(), to });
            let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
            checker.on_change_ended(1, &ending);
            checker.first_debt(&audit(&orders(), 1..=9))
        };
        let text = |at| Some(format!("orders:{at} for c1-mine"));
        assert_eq!(debt(Position::At(Sequence(4)), true), text(4));
        assert_eq!(debt(Position::First, true), text(1));
        assert_eq!(debt(Position::New, true), None);
        assert_eq!(debt(Position::At(Sequence(4)), false), None);
    }

    #[test]
    fn nothing_comes_to_what_was_ended() {
        let broken = |matter: &Matter, is_done| {
            let mut checker = told(&orders(), 1);
            checker.subscribe("_INBOX.c1.1.sub.1", &orders(), None);
            checker.on_change_asked(1, matter);
            let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
            checker.on_change_ended(1, &ending);
            checker.publish(&orders(), 2);
            checker.deliver("_INBOX.c1.1.sub.1", &orders(), 2, data(2));
            checker.broken()
        };
        let closed = Matter::Subscription { inbox: Subject::from("_INBOX.c1.1.sub.1") };
        let client = Matter::Client { number: 1, life: 1 };
        let other = Matter::Client { number: 11, life: 1 };
        for (matter, is_done, expected) in [
            (&closed, true, Some(Promise::Changes)),
            (&closed, false, None),
            (&client, true, Some(Promise::Changes)),
            (&other, true, None),
        ] {
            assert_eq!(broken(matter, is_done), expected, "{matter:?}");
        }
    }

    #[test]
    fn a_channel_is_deleted_with_all_that_it_held_or_not_at_all() {
        let dropped = ChannelName::from(DROPPED);
        let broken = |is_done, found: &[u64]| {
            let mut checker = told(&dropped, 3);
            checker.on_change_asked(1, &Matter::Drop);
            let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
            checker.on_change_ended(1, &ending);
            checker.publish(&dropped, 4);
            let found = found.iter().map(|at| (Sequence(*at), data(*at)));
            checker.check_audit(&[(dropped.clone(), found.collect())].into());
            checker.broken()
        };
        assert_eq!(broken(true, &[4]), None);
        assert_eq!(broken(true, &[3, 4]), Some(Promise::Changes));
        assert_eq!(broken(false, &[1, 2, 3, 4]), None);
        assert_eq!(broken(false, &[4]), None);
        assert_eq!(broken(false, &[2, 3, 4]), Some(Promise::Changes), "in part");
        assert_eq!(broken(true, &[]), Some(Promise::P1), "published later");
    }
}
