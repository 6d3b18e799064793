//! What an operator has changed, as somebody sees it who asks for a change, is told how it ended or
//! is not, and looks at what clients get.
//!
//! What was answered is there from then on, whoever serves. What was not is there as a whole or not
//! at all, and nothing else is: so each rule holds for what both would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;

use super::doubts::Term;
use super::promise::{On, Promise};
use super::{Asked, Audit, Checker, DurableKey};
use crate::base::id::{ChannelName, Sequence, Subject};
use crate::base::record::ChannelState;
use crate::base::time::Instant;
use crate::engine::administration::{Extent, Outcome, Position};
use crate::proto::pb;
use crate::testing::limits::{DROPPED, Kept};

/// What an operator asks to change.
#[derive(Clone, Debug)]
pub enum Matter {
    /// The oldest messages of a channel are to be let go of.
    Purge {
        /// The channel that they are in.
        channel: ChannelName,
        /// Which of its messages go, or how many of the newest stay.
        extent: Extent,
    },
    /// The one channel of a run that is there to be deleted ([`DROPPED`]) is to be deleted.
    Drop,
    /// A client is to be closed.
    Client {
        /// The number of the client program, `n` in the client ID `cn`.
        number: usize,
        /// Which of its lives it was in when the operator asked: it begins a new one whenever it
        /// connects, with other inboxes.
        life: u32,
    },
    /// A subscription that a client has open is to be closed.
    Subscription {
        /// Where it gets messages, which no other subscription of the run does.
        inbox: Subject,
    },
    /// A durable that nobody uses is to go on from another position.
    Reset {
        /// What the durable is known by.
        key: DurableKey,
        /// The position from which it goes on.
        to: Position,
    },
    /// A durable that nobody uses is to be removed.
    Removal {
        /// What the durable is known by.
        key: DurableKey,
    },
}

/// How a change ended, as far as its operator knows.
#[derive(Debug)]
pub enum Ending {
    /// It was answered as done: it is there from then on, whoever serves.
    Done(Outcome),
    /// It was refused: nothing has changed.
    Refused,
    /// Whoever was asked died without an answer, or could not write down what it had done: the
    /// change is made as a whole, or not at all.
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
    /// By client: that nobody will be told whether it was closed.
    unclear: BTreeMap<usize, Unclear>,
    /// By client: in which lives an operator may have closed it; it may be unknown then.
    touched: BTreeMap<usize, RangeInclusive<u32>>,
    /// By client and life: when it was closed.
    closed: BTreeMap<(usize, u32), Instant>,
    /// By durable: what may have changed of it, so that what it acknowledges may not be taken.
    loosened: BTreeMap<DurableKey, Loosened>,
}

/// A client that may have been closed, or not.
#[derive(Debug, Default)]
struct Unclear {
    /// In which life an operator has asked for that last.
    life: u32,
    /// When it became clear that nobody will be told.
    at: Instant,
    /// The changes, by number.
    numbers: BTreeSet<u64>,
}

/// What may have changed of a durable.
#[derive(Debug, Default)]
struct Loosened {
    /// Changes that are not answered, by number.
    open: BTreeSet<u64>,
    /// In which term it became clear that nobody will be told of one of them: whoever was asked may
    /// still make it, until somebody takes over.
    unclear: Option<Term>,
}

/// A change that is not answered. What it keeps of before is as it was again if it is refused.
#[derive(Debug)]
struct Open {
    matter: Matter,
    asked_at: Instant,
    /// Inboxes that end with it.
    inboxes: Vec<Subject>,
    /// Durables that it ends, resets or takes the user from.
    durables: BTreeSet<DurableKey>,
    /// How many publishes had been answered.
    acked: usize,
    /// Where the durable was to go on that it resets or removes.
    begins: Option<Begin>,
    /// The same of who uses that durable, or did.
    begins_of: Vec<(Subject, Begin)>,
}

/// What was let go of a channel.
#[derive(Debug, Default)]
struct Purges {
    /// Everything up to there is gone.
    floor: Sequence,
    /// By number: those that may have been made, or may not.
    maybe: BTreeMap<u64, Maybe>,
    /// Where an empty message stands in for the last one that was let go.
    stand_ins: BTreeSet<Sequence>,
    /// What was published first as this one of the run, or later, no purge can have let go.
    published: usize,
}

/// A purge of which nobody knows whether it was made.
#[derive(Clone, Copy, Debug)]
struct Maybe {
    extent: Extent,
    /// It is over: what was published first as this one of the run, or later, it has not let go.
    published: Option<usize>,
}

/// One deletion of the channel that is there to be deleted, asked for by an operator.
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
            let is_it = |maybe: &Maybe| match maybe.extent {
                Extent::All | Extent::Keep(0) => true,
                Extent::Keep(_) => false,
                Extent::To(to) => to == at,
            };
            found.stand_ins.contains(&at) || found.maybe.values().any(is_it)
        })
    }

    /// Whether an operator may have let go of that message, which was published first as that one
    /// of the run, as far as that is known.
    pub(super) fn may_be_purged(
        &self,
        channel: &ChannelName,
        at: Sequence,
        order: Option<usize>,
    ) -> bool {
        self.purges.get(channel).is_some_and(|found| {
            let is_it = |maybe: &Maybe| {
                let is_later =
                    order.zip(maybe.published).is_some_and(|(order, from)| from <= order);
                let is_in = match maybe.extent {
                    Extent::All | Extent::Keep(_) => true,
                    Extent::To(to) => at <= to,
                };
                is_in && !is_later
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

    /// An operator asks for a change. Until it is known how that ended, nothing is expected of what
    /// may end with it; what is sent all the same is held to what was asked for.
    pub fn on_change_asked(&mut self, number: u64, matter: &Matter) {
        self.say(|| format!("change {number} is asked for: {matter:?}"));
        let ends = |inbox: &Subject, asked: &Asked| match matter {
            Matter::Purge { .. } | Matter::Reset { .. } | Matter::Removal { .. } => false,
            Matter::Drop => asked.channel.as_bytes() == DROPPED.as_bytes(),
            Matter::Client { number, .. } => is_of(inbox, *number),
            Matter::Subscription { inbox: ended } => inbox == ended,
        };
        let ending = self.asked.iter_mut().filter(|(inbox, asked)| ends(inbox, asked));
        let mut open = Open {
            matter: matter.clone(),
            asked_at: self.now,
            inboxes: Vec::new(),
            durables: BTreeSet::new(),
            acked: self.acked.len(),
            begins: None,
            begins_of: Vec::new(),
        };
        for (inbox, asked) in ending {
            asked.doubts.insert(number);
            // What is acknowledged once it has ended nobody takes.
            open.durables.extend(asked.durable.clone());
            if asked.is_confirmed {
                open.inboxes.push(inbox.clone());
            }
        }
        match matter {
            Matter::Purge { channel, extent } => {
                let purges = self.changes.purges.entry(channel.clone()).or_default();
                purges.maybe.insert(number, Maybe { extent: *extent, published: None });
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
            Matter::Client { .. } | Matter::Subscription { .. } => (),
            Matter::Reset { key, .. } | Matter::Removal { key } => {
                open.durables.insert(key.clone());
                open.begins = self.durables.get_mut(key).and_then(|it| it.begins.take());
                let of_key = |asked: &Asked| asked.durable.as_ref() == Some(key);
                let users = self.asked.iter_mut().filter(|(_, asked)| of_key(asked));
                let begun =
                    users.filter_map(|(inbox, it)| Some((inbox.clone(), it.begins.take()?)));
                open.begins_of = begun.collect();
            }
        }
        for key in &open.durables {
            self.changes.loosened.entry(key.clone()).or_default().open.insert(number);
            self.acknowledgements.forget_under_way(key);
        }
        self.changes.open.insert(number, open);
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
            Matter::Client { number: client, life } if !is_refused => {
                if is_done {
                    self.changes.closed.insert((*client, *life), self.now);
                } else {
                    let unclear = self.changes.unclear.entry(*client).or_default();
                    (unclear.life, unclear.at) = (*life, self.now);
                    unclear.numbers.insert(number);
                }
                // It may have begun anew before that was done.
                let last = self.lives.get(client).copied().unwrap_or(*life).max(*life);
                let touched = self.changes.touched.entry(*client).or_insert(*life..=last);
                *touched = *touched.start()..=last;
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
        self.end_loosening(number, &open, ending);
        if is_refused {
            self.restore(&[number].into());
            self.restore_begins(&open);
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

    /// These changes were not made: what they may have ended gets everything, as before, if nothing
    /// else may have ended it.
    fn restore(&mut self, numbers: &BTreeSet<u64>) {
        let asked = self.asked.values_mut();
        asked.for_each(|asked| asked.doubts.retain(|number| !numbers.contains(number)));
    }

    /// A durable goes on where it was to before a change that was refused.
    fn restore_begins(&mut self, open: &Open) {
        if let Matter::Reset { key, .. } | Matter::Removal { key } = &open.matter
            && !self.is_loosened(key)
            && let Some(durable) = self.durables.get_mut(key)
        {
            durable.begins = durable.begins.or(open.begins);
            for (inbox, begin) in &open.begins_of {
                if let Some(asked) = self.asked.get_mut(inbox) {
                    asked.begins = asked.begins.or(Some(*begin));
                }
            }
        }
    }

    /// What a durable acknowledges counts again once it is known how each change of it has ended;
    /// what it had acknowledged does only where that cannot have changed.
    fn end_loosening(&mut self, number: u64, open: &Open, ending: &Ending) {
        let is_kept = matches!(open.matter, Matter::Client { .. } | Matter::Subscription { .. });
        for key in &open.durables {
            let Some(loosened) = self.changes.loosened.get_mut(key) else { continue };
            loosened.open.remove(&number);
            if matches!(ending, Ending::Unknown) {
                loosened.unclear = Some(self.doubts.term());
            }
            if loosened.open.is_empty() && loosened.unclear.is_none() {
                self.changes.loosened.remove(key);
            }
            if !is_kept && !matches!(ending, Ending::Refused) {
                self.acknowledgements.forget_stored(key);
            }
        }
    }

    /// A client is told that it is known. If it was to be closed, and nobody was told how that
    /// ended, it is there with all that it has.
    pub fn on_known(&mut self, (number, life): (usize, u32), now: Instant) {
        let Some(unclear) = self.changes.unclear.get(&number) else { return };
        let since = unclear.at.max(self.taken_over_at);
        if unclear.life != life || now.since(since) < KNOWN_FOR_SURE {
            return;
        }
        if let Some(unclear) = self.changes.unclear.remove(&number) {
            self.restore(&unclear.numbers);
        }
    }

    fn end_purge(&mut self, number: u64, channel: &ChannelName, extent: Extent, ending: &Ending) {
        let published = self.published.len();
        let is_exact = self.kept(channel) == Kept::All;
        let Some(purges) = self.changes.purges.get_mut(channel) else { return };
        match ending {
            Ending::Refused => drop(purges.maybe.remove(&number)),
            Ending::Unknown => {
                purges.published = published;
                if let Some(maybe) = purges.maybe.get_mut(&number) {
                    maybe.published = Some(published);
                }
            }
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

    /// Changes that are not answered and may end a subscription that is asked for now, by number.
    pub(super) fn may_end(&self, inbox: &Subject, channel: &ChannelName) -> BTreeSet<u64> {
        let may_end = |open: &Open| match &open.matter {
            Matter::Drop => channel.as_bytes() == DROPPED.as_bytes(),
            Matter::Client { number, .. } => is_of(inbox, *number),
            Matter::Purge { .. }
            | Matter::Subscription { .. }
            | Matter::Reset { .. }
            | Matter::Removal { .. } => false,
        };
        let ending = self.changes.open.iter().filter(|(_, open)| may_end(open));
        ending.map(|(number, _)| *number).collect()
    }

    /// Whether an empty message may be there because of a purge.
    pub(super) fn is_purge_stand_in(&self, channel: &ChannelName, at: Sequence) -> bool {
        self.changes.may_stand_in(channel, at)
    }

    /// Whether an operator may have let go of a message that somebody had got.
    pub(super) fn may_be_purged(&self, channel: &ChannelName, at: Sequence) -> bool {
        let told = self.told.get(channel).and_then(|told| told.get(&at));
        let published = told.and_then(|(data, _)| self.published.get(data));
        self.changes.may_be_purged(channel, at, published.map(|published| published.order))
    }

    /// The same of one of which only is known what it was, and when it was published.
    pub(super) fn may_be_let_go(&self, channel: &ChannelName, data: &Bytes) -> bool {
        let order = self.published.get(data).map(|published| published.order);
        self.changes.purges.get(channel).is_some_and(|found| {
            let is_open = |number| self.changes.open.contains_key(number);
            order.is_none_or(|order| order < found.published) || found.maybe.keys().any(is_open)
        })
    }

    /// Whether it is open what a durable acknowledged that is taken.
    pub(super) fn is_loosened(&self, key: &DurableKey) -> bool {
        self.changes.loosened.get(key).is_some_and(|loosened| {
            let is_unclear = loosened.unclear.is_some_and(|term| !self.doubts.is_earlier(term));
            !loosened.open.is_empty() || is_unclear
        })
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

    /// A client is told in a life that nobody knows it. That may be so if an operator has closed
    /// it, or is about to.
    pub fn on_unknown(
        &mut self,
        (number, life): (usize, u32),
        now: Instant,
        text: impl FnOnce() -> String,
    ) {
        let closes = |open: &Open| match open.matter {
            // Who was to be closed may have begun anew before that was done.
            Matter::Client { number: closing, life: from } => closing == number && from <= life,
            Matter::Purge { .. }
            | Matter::Drop
            | Matter::Subscription { .. }
            | Matter::Reset { .. }
            | Matter::Removal { .. } => false,
        };
        let is_closing = self.changes.open.values().any(closes);
        let is_touched = self.changes.touched.get(&number).is_some_and(|it| it.contains(&life));
        if !is_closing && !is_touched {
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
        let leaves = |maybe: &Maybe| match maybe.extent {
            Extent::All | Extent::Keep(_) => true,
            Extent::To(to) => found == to.next() || found == to,
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
mod tests;
