//! What clients and operators were told, held against the promises, beside what the simulation did
//! to them: it asks no process what it thinks.

mod acknowledgements;
mod audits;
mod changes;
mod deliveries;
mod demands;
mod doubts;
mod members;
mod promise;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::base::channel_limits::ResolvedLimits;
use crate::base::id::{ChannelName, Sequence, Subject};
use crate::base::time::Instant;
use crate::proto::pb;
use crate::testing::faults::Moves;
use crate::testing::harm::Harm;
use crate::testing::limits::{self, DROPPED, Kept, POISON};
use crate::testing::trace::Trace;
use crate::testing::workload::{CHANNELS, GHOST};

use self::acknowledgements::Acknowledgements;
use self::changes::{Begin, Changes};
pub use self::changes::{Ending, Matter};
pub use self::demands::Start;
use self::doubts::{Doubts, Term};
pub use self::members::{Said, Seen};
use self::promise::On;
pub use self::promise::{Promise, Violation};

/// How long a publish may be answered and not yet marked as done to the member that keeps it, while
/// nothing goes wrong but that the active dies.
const IN_FLIGHT_FOR: Duration = Duration::from_millis(100);
/// The same where it may hang before it is replaced, and nobody may serve for as long as members
/// keep what they have. A network may part between an answer and its mark.
const UNMARKED_FOR: Duration = Duration::from_secs(13);
/// Answers of one turn of the active come to a connection within so long; their marks follow them
/// before the answers of later turns.
const TURN_FOR: Duration = Duration::from_millis(100);
/// How long ago a client has asked whose request may be stored and not be answered.
const UNDER_WAY: Range<Duration> = Duration::from_millis(2)..Duration::from_millis(40);
/// For so long after a take-over, or after a route broke, requests of before may still be answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);

/// What lies in a channel, as a client that reads all of it finds it.
pub type Audit = BTreeMap<ChannelName, BTreeMap<Sequence, Bytes>>;

/// Everything that clients of a simulated group were told.
#[derive(Debug)]
pub struct Checker {
    /// What the operator has said.
    limits: ResolvedLimits,
    /// What clients cannot know.
    doubts: Doubts,
    /// Payloads whose publishers got a positive pub-ack; payloads are unique in a run.
    acked: BTreeMap<Bytes, Acked>,
    /// Payloads whose publishers were told that they are not stored, and when.
    refused: BTreeMap<Bytes, Instant>,
    /// By connection: when a publish of it was answered last.
    answered: BTreeMap<u32, Instant>,
    /// By payload: when and how it was published first.
    published: BTreeMap<Bytes, Published>,
    /// What was delivered under which sequence: payload and timestamp.
    told: BTreeMap<ChannelName, BTreeMap<Sequence, (Bytes, i64)>>,
    /// By key of the durable: what its clients acknowledged.
    durables: BTreeMap<DurableKey, Durable>,
    /// What came to one of those that share a queue beside streaming.
    shared: BTreeSet<((&'static str, &'static str), Bytes)>,
    /// By client, sequence and payload: how often it came, where that is limited.
    deliveries: BTreeMap<(Bytes, u64, Bytes), u32>,
    /// By inbox: subscriptions of clients, as far as they were asked for.
    asked: BTreeMap<Subject, Asked>,
    /// By message of a channel that may have few subscriptions: those that were there and got it.
    crowds: BTreeMap<(ChannelName, Sequence), BTreeSet<Subject>>,
    acknowledgements: Acknowledgements,
    changes: Changes,
    /// Channels that go when nobody uses them: when somebody published there last.
    used: BTreeMap<ChannelName, Instant>,
    /// When the last fault ended.
    healed_at: Option<Instant>,
    taken_over_at: Instant,
    /// When a route broke last.
    broken_at: Option<Instant>,
    /// By client: its life.
    lives: BTreeMap<usize, u32>,
    violation: Option<Violation>,
    trace: Trace,
    now: Instant,
}

/// A message whose publisher knows that it is stored.
#[derive(Debug)]
struct Acked {
    channel: ChannelName,
    /// Which one of the run.
    order: usize,
    /// When its publisher was told.
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Published {
    connection: u32,
    /// Which one of its publisher it is.
    number: u64,
    /// Which one of the run.
    order: usize,
}

/// A durable that was made.
#[derive(Debug, Default)]
struct Durable {
    /// What its clients acknowledged, and when they did last.
    acked: BTreeMap<Sequence, Instant>,
    /// It must get what was published first from then on, by the order in the run.
    owed_from: usize,
    /// And of that what lies there, or behind it.
    floor: Sequence,
    /// Where an operator has let it go on, as far as that is known.
    begins: Option<Begin>,
}

/// A subscription that a client asked for.
#[derive(Debug)]
struct Asked {
    channel: ChannelName,
    durable: Option<DurableKey>,
    in_queue: bool,
    /// `usize::MAX` once the client has left it.
    in_flight_max: usize,
    /// Delivered to it and not acknowledged by it.
    held: BTreeSet<Sequence>,
    /// Acknowledged by it at any time: an ack can cross a redelivery.
    settled: BTreeSet<Sequence>,
    /// Whatever was delivered to it.
    seen: BTreeSet<Sequence>,
    /// The last one that was not called a redelivery.
    last_fresh: Sequence,
    /// In which term it was asked for.
    term: Term,
    /// Its durable may have been open then.
    may_be_open: bool,
    /// Somebody was told that it is there.
    is_confirmed: bool,
    /// The client acts as if these never came: they have to come again.
    owed: BTreeSet<Sequence>,
    /// Where it was asked to begin.
    start: Start,
    /// When it was asked for.
    asked_at: Instant,
    /// When it was confirmed.
    confirmed_at: Instant,
    /// So many publishes were acknowledged when it was asked for.
    acked_before: usize,
    /// So many had been sent.
    published_before: usize,
    /// Its channel had to be gone by then, because nobody used it.
    was_unused: bool,
    /// The highest sequence that anybody was given when it was asked for.
    told_before: Sequence,
    /// By number: changes that may have ended it, or may end it yet. Until they are refused, or
    /// turn out not to be made, it is owed nothing.
    doubts: BTreeSet<u64>,
    /// Where its durable was reset to before it was asked for.
    begins: Option<Begin>,
    /// Up to where its channel had been purged when it was asked for.
    purged_before: Sequence,
    /// Once it is confirmed, until it is left: whatever is published first from then on comes,
    /// by the order in the run.
    owed_from: Option<usize>,
}

impl Asked {
    /// From where it is owed everything, if it is sure that it is there.
    fn is_owed_from(&self) -> Option<usize> {
        self.owed_from.filter(|_| self.doubts.is_empty())
    }
}

/// What all members of the durable queue group are called by.
pub const GROUP: &str = "group";
/// Durables that begin with what is published later are called so at the end.
pub const NEWS: &str = "-news";

/// What a durable, or a durable queue group, is known by in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableKey {
    /// Its channel.
    pub channel: ChannelName,
    /// Client and durable name; of a queue group its name.
    pub name: String,
}

/// What a client asks for.
#[derive(Debug)]
pub struct Asking<'a> {
    /// Where deliveries go.
    pub inbox: &'a Subject,
    /// Of which channel.
    pub channel: &'a ChannelName,
    /// What remembers its position.
    pub durable: Option<&'a DurableKey>,
    /// Whether others share its messages.
    pub in_queue: bool,
    /// Most messages that may be unacknowledged.
    pub in_flight_max: usize,
    /// Where it begins.
    pub start: Start,
}

impl Checker {
    /// One that writes down what clients do and are told.
    #[must_use]
    pub fn new(limits: ResolvedLimits, trace: Trace) -> Self {
        Self {
            limits,
            doubts: Doubts::default(),
            acked: BTreeMap::new(),
            refused: BTreeMap::new(),
            answered: BTreeMap::new(),
            published: BTreeMap::new(),
            told: BTreeMap::new(),
            durables: BTreeMap::new(),
            shared: BTreeSet::new(),
            deliveries: BTreeMap::new(),
            asked: BTreeMap::new(),
            crowds: BTreeMap::new(),
            acknowledgements: Acknowledgements::default(),
            changes: Changes::default(),
            used: BTreeMap::new(),
            healed_at: None,
            taken_over_at: Instant(0),
            broken_at: None,
            lives: BTreeMap::new(),
            violation: None,
            trace,
            now: Instant(0),
        }
    }

    fn kept(&self, channel: &ChannelName) -> Kept {
        limits::kept(&self.limits, channel)
    }

    /// Nothing goes wrong in this run: everybody is answered, and every clock is right.
    #[must_use]
    pub fn calm(self, is_calm: bool) -> Self {
        Self { doubts: Doubts::new(is_calm), ..self }
    }

    /// Nothing goes wrong but that the active changes in this way.
    #[must_use]
    pub fn moved(mut self, moves: Option<Moves>) -> Self {
        self.doubts.set_moves(moves);
        self
    }

    /// The active dies, in a run in which nothing else goes wrong: what was not answered may be
    /// stored twice.
    pub fn on_active_killed(&mut self) {
        self.doubt_unanswered(IN_FLIGHT_FOR);
    }

    /// Whether a request for a subscription may be with the active, or its answer under way.
    #[must_use]
    pub fn is_asked_for_some(&self) -> bool {
        let is_fresh = |asked: &Asked| {
            let since = self.now.since(asked.asked_at);
            !asked.is_confirmed && UNDER_WAY.contains(&since)
        };
        self.asked.values().any(is_fresh)
    }

    /// What was not answered, or since so short a time and in the last turn of which its publisher
    /// heard, may be there twice.
    fn doubt_unanswered(&mut self, since: Duration) {
        let is_last = |connection: u32, at: Instant| {
            let last = self.answered.get(&connection);
            last.is_none_or(|last| last.since(at) < TURN_FOR)
        };
        let is_open = |(data, published): &(&Bytes, &Published)| {
            let acked = self.acked.get(*data).map(|acked| acked.at);
            let at = acked.or_else(|| self.refused.get(*data).copied());
            at.is_none_or(|at| self.now.since(at) < since && is_last(published.connection, at))
        };
        let open = self.published.iter().filter(is_open).map(|(data, _)| data.clone());
        let open: Vec<Bytes> = open.collect();
        open.into_iter().for_each(|data| self.doubts.on_repeated(data));
    }

    /// A route breaks, in a run in which nothing else goes wrong but that the active changes: what
    /// was answered may be answered again, and what was refused may be taken. Nothing may be stored
    /// twice.
    pub fn on_route_broken(&mut self) {
        self.broken_at = Some(self.now);
        let is_fresh = |at: &Instant| self.now.since(*at) < IN_FLIGHT_FOR;
        let refused = self.refused.iter().filter(|(_, at)| is_fresh(at));
        let refused: Vec<Bytes> = refused.map(|(data, _)| data.clone()).collect();
        refused.into_iter().for_each(|data| self.doubts.on_repeated(data));
    }

    fn is_route_fresh(&self) -> bool {
        self.broken_at.is_some_and(|at| self.now.since(at) < ANSWERED_WITHIN)
    }

    /// Whether routes break in this run, and nothing else goes wrong but that the active changes.
    #[must_use]
    pub fn has_broken_routes(&self) -> bool {
        self.doubts.moves().is_some()
    }

    /// A publish or request is answered once more.
    pub fn on_answered_again(&mut self, text: impl FnOnce() -> String) {
        if self.doubts.moves() == Some(Moves::HandOvers) && !self.is_route_fresh() {
            self.fail(Promise::Sessions, text());
        }
    }

    /// Something comes for a subscription whose request was not answered yet: its client does not
    /// know it.
    pub fn on_delivered_unanswered(&mut self, inbox: &Subject, sequence: u64) {
        if self.is_calm() || self.doubts.moves().is_some() {
            let text = format!("{inbox} gets {sequence} before its request is answered");
            self.fail(Promise::Sessions, text);
        }
    }

    /// The active hands over or dies, in a run in which nothing else goes wrong.
    pub fn on_moved(&mut self) {
        self.doubts.on_moved();
    }

    /// Whether that has happened.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.doubts.has_moved()
    }

    /// Whether a request may be one that was sent to two actives: what makes no sense to the second
    /// it takes for done.
    #[must_use]
    pub fn may_be_asked_again(&self) -> bool {
        self.now.since(self.taken_over_at) < ANSWERED_WITHIN || self.is_route_fresh()
    }

    /// A client waits in vain for the answer to its connect request.
    pub fn on_unconnected(&mut self, now: Instant, text: impl FnOnce() -> String) {
        self.on_let_down(now, text);
    }

    /// The disk refuses something.
    pub fn on_troubled(&mut self) {
        self.doubts.on_troubled();
    }

    /// A durable is called open. That may be so if its client cannot know that it is not, or a full
    /// disk has kept its end from being written.
    pub fn on_locked_out(&mut self, inbox: &Subject) {
        let Some(asked) = self.asked.get(inbox) else { return };
        if !asked.may_be_open && !self.doubts.may_be_unwritten() {
            let (channel, text) = (asked.channel.clone(), "nobody has its durable open");
            let on = On::Subscriptions(&channel);
            self.fail_on(Promise::Sessions, on, format!("{inbox} is refused: {text}"));
        }
    }

    /// Somebody publishes as a client that has closed, and is not refused. That may be so if a full
    /// disk has kept its end from being written, as with the reference.
    pub fn on_haunted(&mut self, client: usize) {
        if !self.doubts.may_be_unwritten() {
            let text = format!("c{client} has closed, and publishes as who it was");
            self.fail_on(Promise::Sessions, On::Clients, text);
        }
    }

    /// A disk does not give back something as it was given.
    pub fn on_harm(&mut self, harm: &Harm) {
        self.say(|| format!("the disk: {harm:?}"));
        self.doubts.on_harm(harm);
    }

    /// The store is refused, for a reason that stays. That may be so if a disk has changed what it
    /// is refused for; then nobody is served any more.
    pub fn on_store_refused(&mut self, text: &str) {
        if !self.doubts.on_store_refused(text) {
            self.fail(Promise::P1, format!("the store is refused: {text}"));
        }
    }

    /// Whether nobody can serve what a disk has changed.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.doubts.is_refused()
    }

    /// Whether nothing goes wrong in this run.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.doubts.is_calm()
    }

    /// What clients do and are told next, they do and are told then.
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    fn say(&self, text: impl FnOnce() -> String) {
        self.trace.say(self.now, text);
    }

    /// A promise is broken, whatever a disk has done; the first one counts.
    pub fn fail(&mut self, promise: Promise, text: String) {
        self.fail_on(promise, On::Nothing, text);
    }

    /// A promise is broken, which hangs on something; the first one counts.
    fn fail_on(&mut self, promise: Promise, on: On<'_>, text: String) {
        if self.doubts.may_break(promise, on) {
            return;
        }
        let violation = Violation { promise, text };
        self.say(|| format!("broken: {violation}"));
        self.violation.get_or_insert(violation);
    }

    /// The first broken promise.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A message is published for the first time, as number `number` of its publisher.
    pub fn on_published(&mut self, payload: Bytes, connection: u32, number: u64) {
        let order = self.published.len();
        self.published.insert(payload, Published { connection, number, order });
    }

    /// A publisher was told that `payload` is stored.
    pub fn on_acked(&mut self, channel: &ChannelName, payload: Bytes) {
        self.say(|| format!("{payload:?} in {channel} is acked"));
        let order = self.acked.len();
        let acked = Acked { channel: channel.clone(), order, at: self.now };
        self.on_answered(&payload);
        self.acked.entry(payload).or_insert(acked);
    }

    fn on_answered(&mut self, payload: &Bytes) {
        // What was published again was answered by another way than it was published first.
        if !self.doubts.may_be_twice(payload)
            && let Some(published) = self.published.get(payload)
        {
            self.answered.insert(published.connection, self.now);
        }
    }

    /// A publisher was told that `payload` is not stored.
    pub fn on_refused(&mut self, payload: Bytes) {
        self.say(|| format!("{payload:?} is refused"));
        self.on_answered(&payload);
        self.refused.entry(payload).or_insert(self.now);
    }

    /// A publisher tries again, so what it publishes may be there twice.
    pub fn on_repeated(&mut self, payload: Bytes) {
        self.say(|| format!("{payload:?} is published again"));
        self.doubts.on_repeated(payload);
    }

    /// A client asks for a subscription.
    pub fn on_asked(&mut self, asking: &Asking) {
        let told = self.told.get(asking.channel);
        let last_told = told.and_then(|told| told.keys().next_back().copied());
        let own = asking.durable.filter(|_| !asking.in_queue);
        let may_be_open = own.is_none_or(|key| self.doubts.on_asked(key, asking.inbox));
        let asked = Asked {
            channel: asking.channel.clone(),
            durable: asking.durable.cloned(),
            in_queue: asking.in_queue,
            in_flight_max: asking.in_flight_max,
            held: BTreeSet::new(),
            settled: BTreeSet::new(),
            seen: BTreeSet::new(),
            last_fresh: Sequence::ZERO,
            term: self.doubts.term(),
            may_be_open,
            is_confirmed: false,
            owed: BTreeSet::new(),
            start: asking.start,
            asked_at: self.now,
            confirmed_at: self.now,
            acked_before: self.acked.len(),
            published_before: self.published.len(),
            was_unused: self.is_unused(asking.channel, self.now),
            told_before: last_told.unwrap_or(Sequence::ZERO),
            doubts: self.may_end(asking.inbox, asking.channel),
            begins: self.begins(asking.durable),
            purged_before: self.purged_to(asking.channel),
            owed_from: None,
        };
        self.say(|| format!("asks: {asking:?}"));
        self.asked.insert(asking.inbox.clone(), asked);
    }

    /// A client begins a new life.
    pub fn on_life(&mut self, number: usize, life: u32) {
        self.lives.insert(number, life);
    }

    /// A client begins a new life, in which nothing of a subscription is left. The server closes
    /// what it has confirmed; what was not answered may still come true.
    pub fn on_outlived(&mut self, inbox: &Subject) {
        self.on_left(inbox);
        if let Some(asked) = self.asked.get(inbox)
            && let Some(key) = asked.durable.as_ref().filter(|_| asked.is_confirmed)
        {
            self.doubts.on_closed(key, inbox);
        }
    }

    /// A client was told that its durable, which it asked for with this inbox, is closed.
    pub fn on_durable_closed(&mut self, key: &DurableKey, inbox: &Subject) {
        self.doubts.on_closed(key, inbox);
    }

    /// A client left a subscription, or forgot all of a former life.
    pub fn on_left(&mut self, inbox: &Subject) {
        self.say(|| format!("{inbox} is left"));
        if let Some(asked) = self.asked.get_mut(inbox) {
            asked.in_flight_max = usize::MAX;
            asked.owed.clear();
            asked.owed_from = None;
        }
    }

    /// A client was told that its subscription is there.
    pub fn on_confirmed(&mut self, inbox: &Subject) {
        self.say(|| format!("{inbox} is confirmed"));
        let order = self.published.len();
        if let Some(asked) = self.asked.get_mut(inbox) {
            asked.is_confirmed = true;
            // What was delivered as often as it may be does not come.
            let is_poison = asked.channel.as_bytes() == POISON.as_bytes();
            asked.owed_from = Some(order).filter(|_| !is_poison);
            asked.confirmed_at = self.now;
        }
    }

    /// The client of `inbox` acts as if a message never came.
    pub fn on_forgotten(&mut self, inbox: &Subject, sequence: Sequence) {
        self.say(|| format!("{inbox} acts as if {sequence} never came"));
        if let Some(asked) = self.asked.get_mut(inbox)
            && !asked.settled.contains(&sequence)
        {
            asked.owed.insert(sequence);
        }
    }

    /// A member has become active: what its predecessor sent last it may not know of.
    pub fn on_takeover(&mut self, member: usize) {
        self.doubts.on_active(member);
        self.taken_over_at = self.now;
        if self.doubts.moves().is_none() {
            // Its predecessor may have stored it, and nobody can have said so; or a publisher was
            // told, and the member that keeps it was not.
            self.doubt_unanswered(UNMARKED_FOR);
        }
    }

    /// A client acknowledges what it got on `inbox`; the ack may never arrive.
    pub fn on_acknowledged(&mut self, inbox: &Subject, sequence: Sequence) {
        self.say(|| format!("{inbox} acknowledges {sequence}"));
        let Some(asked) = self.asked.get_mut(inbox) else { return };
        asked.held.remove(&sequence);
        asked.settled.insert(sequence);
        if let Some(durable) = asked.durable.as_ref().and_then(|key| self.durables.get_mut(key)) {
            durable.acked.insert(sequence, self.now);
        }
    }

    /// One of those that listen to a pattern as one queue got a message: nobody else of it does.
    pub fn on_shared(&mut self, queue: (&'static str, &'static str), text: Bytes) {
        if !self.shared.insert((queue, text.clone())) {
            self.fail(Promise::Core, format!("two of queue {queue:?} got {text:?}"));
        }
    }

    /// A subscriber was given `message` on `inbox`.
    pub fn on_delivered(&mut self, inbox: &Subject, message: &pb::MsgProto) {
        let channel = ChannelName::from(message.subject.clone());
        let sequence = Sequence(message.sequence);
        self.say(|| {
            let (data, count) = (&message.data, message.redelivery_count);
            format!("{inbox} gets {channel}:{sequence} {data:?}, redelivery {count}")
        });
        self.on_given(inbox, sequence);
        self.check_deliveries(&channel, inbox, message);
        if self.limits.of(&channel).inactivity_max.is_zero()
            && channel.as_bytes() != DROPPED.as_bytes()
        {
            self.check_told(&channel, sequence, message);
        }
        let on = On::Delivery(&channel, sequence);
        let unwanted = self.unwanted(inbox, message);
        let mut broken: Vec<_> =
            unwanted.map(|text| (Promise::Subscriptions, text)).into_iter().collect();
        broken.extend(self.taken(inbox, sequence).map(|text| (Promise::P5, text)));
        broken.extend(self.unchanged(inbox, message).map(|text| (Promise::Changes, text)));
        let beyond = self.beyond(inbox, message);
        // What a limit removes is in flight no longer, and its subscriber is not told.
        let keeps_all = self.kept(&channel) == Kept::All;
        let purged = self.purged_of(inbox, &channel, sequence);
        let Some(asked) = self.asked.get_mut(inbox) else { return };
        let is_blurred = self.doubts.is_earlier(asked.term);
        // Who hands over has written down what it has delivered, and it comes before what follows.
        let is_order_blurred = is_blurred && self.doubts.moves() != Some(Moves::HandOvers)
            || channel.as_bytes() == POISON.as_bytes();
        let place = format!("{channel}:{sequence} on {inbox}");
        let (is_new, is_repeat) = (asked.seen.insert(sequence), message.redelivered);
        if !asked.settled.contains(&sequence) {
            asked.held.insert(sequence);
        }
        asked.owed.remove(&sequence);
        if asked.channel != channel {
            let text = format!("{place}: not the channel that was asked for");
            broken.push((Promise::Subscriptions, text));
        }
        if is_repeat != (message.redelivery_count > 0) {
            let text = format!("{place}: a redelivery has a count, and nothing else has");
            broken.push((Promise::P5, text));
        }
        if !is_new && !is_repeat && !is_blurred {
            let text = format!("{place} came again without being called a redelivery");
            broken.push((Promise::P5, text));
        }
        if !is_repeat && sequence < asked.last_fresh && !is_order_blurred {
            broken.push((Promise::P4, format!("{place} came after {}", asked.last_fresh)));
        }
        if !is_repeat {
            asked.last_fresh = sequence;
            let is_there = |held: &&Sequence| {
                let on = On::Message(&channel, **held);
                !purged.contains(*held) && !self.doubts.excuses(on)
            };
            let held = asked.held.iter().filter(is_there).count();
            let is_alone = !asked.in_queue && !is_blurred;
            if keeps_all && is_alone && asked.in_flight_max < held {
                let text = format!("{place}: {held} in flight of {}", asked.in_flight_max);
                broken.push((Promise::Subscriptions, text));
            }
        }
        for (promise, text) in broken {
            self.fail_on(promise, on, text);
        }
        for text in beyond {
            self.fail_on(Promise::Limits, On::Channel(&channel), text);
        }
    }

    /// Of a message and those that a subscription holds, those that an operator may have let go of.
    fn purged_of(
        &self,
        inbox: &Subject,
        channel: &ChannelName,
        sequence: Sequence,
    ) -> BTreeSet<Sequence> {
        let held = self.asked.get(inbox).into_iter().flat_map(|asked| asked.held.iter().copied());
        held.chain([sequence]).filter(|at| self.may_be_purged(channel, *at)).collect()
    }

    fn check_told(&mut self, channel: &ChannelName, sequence: Sequence, message: &pb::MsgProto) {
        let on = On::Message(channel, sequence);
        let told = (message.data.clone(), message.timestamp);
        let known = self.told.entry(channel.clone()).or_default();
        let first_told = known.entry(sequence).or_insert_with(|| told.clone());
        let may_be_emptied = first_told.1 == told.1
            && (first_told.0.is_empty() || told.0.is_empty())
            && self.changes.may_stand_in(channel, sequence);
        if *first_told != told && !may_be_emptied {
            let text = format!("two messages under {channel}:{sequence}: {first_told:?}, {told:?}");
            self.fail_on(Promise::P4, on, text);
        }
        if self.refused.contains_key(&message.data) && !self.doubts.may_be_twice(&message.data) {
            let text = format!("{channel}:{sequence} was refused and is delivered");
            self.fail_on(Promise::P9, on, text);
        }
        if message.data.is_empty() {
            self.check_stand_in(channel, sequence);
            return;
        }
        let may_be_ghost = message.data == GHOST && self.doubts.may_be_unwritten();
        if !may_be_ghost && !self.published.contains_key(&message.data) {
            let text = format!("nobody has published {channel}:{sequence}: {:?}", message.data);
            self.fail(Promise::Genuine, text);
        }
    }

    /// An empty message stands in for what a disk has lost, which nobody had been told is stored.
    fn check_stand_in(&mut self, channel: &ChannelName, sequence: Sequence) {
        if self.changes.may_stand_in(channel, sequence) {
            return;
        }
        let on = On::Message(channel, sequence);
        let Some(lost) = self.doubts.lost_at(channel, sequence) else {
            let text = format!("an empty message is {channel}:{sequence}, where nothing was lost");
            return self.fail_on(Promise::P1, on, text);
        };
        let is_acked = |data: &&Bytes| {
            let acked = self.acked.get(*data).is_some_and(|acked| acked.channel == *channel);
            acked && !self.doubts.may_be_twice(data)
        };
        if let Some(data) = lost.iter().find(is_acked) {
            let text = format!("{data:?} was acked, and an empty message is {channel}:{sequence}");
            self.fail_on(Promise::P1, on, text);
        }
    }

    /// Whether something is owed to `key`.
    #[must_use]
    pub fn counts_on(&self, key: &DurableKey) -> bool {
        self.durables.contains_key(key)
    }

    /// A durable was created: from the first message on, or from now on.
    pub fn on_durable_made(&mut self, key: &DurableKey) {
        let owed_from = if key.name.ends_with(NEWS) { self.published.len() } else { 0 };
        let made = Durable { owed_from, ..Durable::default() };
        self.durables.entry(key.clone()).or_insert(made);
    }

    /// A durable that did not acknowledge a message of the audit: it must be delivered until it
    /// does.
    #[must_use]
    pub fn first_debt(&self, audit: &Audit) -> Option<String> {
        let of_durables = self.durables.iter().find_map(|(key, durable)| {
            let found = audit.get(&key.channel)?;
            let last = found.keys().next_back()?;
            let is_kept = |sequence: &&Sequence| match self.kept(&key.channel) {
                Kept::All => true,
                Kept::Newest(count) => last.get() < sequence.get() + count,
                Kept::Some => false,
            };
            // What stands in for a lost message was published by nobody: whether it came before the
            // durable cannot be told. Who had got what an operator has let go gets nothing for it.
            let is_owed = |sequence: Sequence, data: &Bytes| match self.published.get(data) {
                Some(published) => durable.owed_from <= published.order,
                None => {
                    durable.owed_from == 0 && !self.changes.may_stand_in(&key.channel, sequence)
                }
            };
            let can_be = |at| !self.doubts.excuses(On::Delivery(&key.channel, at));
            let is_missing = |(sequence, data): &(&Sequence, &Bytes)| {
                let is_behind = durable.floor <= **sequence;
                let is_owed = is_behind && is_owed(**sequence, data);
                is_kept(sequence) && is_owed && can_be(**sequence)
            };
            let mut missing = found.iter().filter(is_missing).map(|(sequence, _)| sequence);
            let missing = missing.find(|sequence| !durable.acked.contains_key(sequence));
            missing.map(|sequence| format!("{}:{sequence} for {}", key.channel, key.name))
        });
        let of_others = || {
            // Of a queue another member may get it.
            let alone = self
                .asked
                .iter()
                .filter(|(_, asked)| !asked.in_queue && self.kept(&asked.channel) == Kept::All)
                .filter(|(_, asked)| asked.doubts.is_empty());
            let first = |asked: &'_ Asked| {
                let on = |at| On::Delivery(&asked.channel, at);
                let is_there = |at: &Sequence| !self.may_be_purged(&asked.channel, *at);
                let mut owed = asked.owed.iter().copied().filter(is_there);
                owed.find(|at| !self.doubts.excuses(on(*at)))
            };
            alone.flat_map(|(inbox, asked)| first(asked).map(|at| (inbox, asked, at))).next()
        };
        let text = |(inbox, asked, sequence): (&Subject, &Asked, Sequence)| {
            format!("{}:{sequence} for {inbox}, once more", asked.channel)
        };
        of_durables
            .or_else(|| of_others().map(text))
            .or_else(|| self.first_undelivered(audit))
            .or_else(|| self.first_without_dead_letter(audit))
    }

    /// What a subscription that is there was never sent, though it has to be.
    fn first_undelivered(&self, audit: &Audit) -> Option<String> {
        let is_alone = |asked: &Asked| !asked.in_queue && self.kept(&asked.channel) == Kept::All;
        self.asked.iter().filter(|(_, asked)| is_alone(asked)).find_map(|(inbox, asked)| {
            let mut found = audit.get(&asked.channel)?.iter();
            let (sequence, _) = found.find(|(sequence, data)| {
                let on = On::Delivery(&asked.channel, **sequence);
                !asked.seen.contains(sequence)
                    && self.is_due(asked, **sequence, data)
                    && !self.doubts.excuses(on)
            })?;
            Some(format!("{}:{sequence} for {inbox}", asked.channel))
        })
    }

    /// Whether somebody was told of a message that the audit has not reached.
    #[must_use]
    pub fn knows_more_than(&self, audit: &Audit) -> bool {
        self.told.iter().filter(|(channel, _)| is_read(channel)).any(|(channel, told)| {
            let read = audit.get(channel).and_then(|found| found.keys().next_back());
            let is_there = |at: &&Sequence| !self.doubts.excuses(On::Message(channel, **at));
            read < told.keys().rfind(is_there)
        })
    }

    /// How many publishes were acknowledged.
    #[must_use]
    pub fn acked_count(&self) -> usize {
        self.acked.len()
    }
}

/// Whether somebody reads it at the end.
fn is_read(channel: &ChannelName) -> bool {
    CHANNELS.iter().any(|name| channel.as_bytes() == name.as_bytes())
}
