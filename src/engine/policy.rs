//! how often a message is delivered at most
//!
//! A channel with a limit counts deliveries, and each count is durable before its delivery leaves:
//! so nobody sees a message more often, whoever is active. A take-over may have counted one that
//! never left. What was delivered often enough, and is not acknowledged an ack wait later, becomes
//! a dead letter (`dead_letter.rs`).
//!
//! A delivery is entered as pending when it is staged, and its ack wait begins when it leaves. What
//! cannot leave when its count is durable, because its reader has no room any more or nobody
//! listens, is not counted after all: it goes out first when there is room, under the same count.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::delivery_count::{DeliveryCount, ReaderId};
use crate::base::delivery_policy::DeliveryPolicy;
use crate::base::id::{Sequence, Subject};
use crate::base::limits::REDELIVERY_SLACK;
use crate::base::planted::{self, Bug};
use crate::base::record::MessageRecord;
use crate::base::time::{Instant, Now, WallTime};
use crate::engine::channel::{Channel, Life};
use crate::engine::commit::After;
use crate::engine::delivery::Outgoing;
use crate::engine::refusal::Refusal;
use crate::engine::snapshot::Hold;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::engine::{Engine, Timer};

/// What a channel with a policy knows beside its messages.
#[derive(Debug)]
pub(super) struct Policed {
    pub(super) policy: DeliveryPolicy,
    counts: BTreeMap<ReaderId, BTreeMap<Sequence, Delivered>>,
    /// Whose messages are on their way to the channel of dead letters.
    pub(super) dead_letters: BTreeSet<(ReaderId, Sequence)>,
    /// When it was said last that this channel takes none.
    pub(super) complained_at: Option<Instant>,
    /// Messages before that one are from before that time.
    aged: Option<(WallTime, Sequence)>,
    /// A message was read and was too old: there may be more of them.
    has_read_outlived: bool,
}

/// How often one message was delivered to one reader.
#[derive(Clone, Copy, Debug)]
struct Delivered {
    count: u32,
    timestamp: WallTime,
    /// When the last one left; of one that a former active counted when this one began. `None`:
    /// its count is being written.
    left: Option<Instant>,
}

/// What a reader is sent after a restart: what it had pending, over all members of a group, and
/// what is behind its position.
#[derive(Default)]
struct Expected {
    behind: Sequence,
    pending: BTreeSet<Sequence>,
}

/// What becomes of a message that is to be delivered.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// It was delivered so often, and is delivered once more.
    Deliver(u32),
    /// It was delivered as often as it may be.
    DeadLetter(u32),
    /// The same, and its last delivery may still be acknowledged.
    Wait(Instant),
    /// Its count is being written, or its dead letter.
    UnderWay,
}

/// What such a delivery takes beside its message.
const COUNTED_BYTES: usize = 256;

/// A delivery that waits until its count is durable.
#[derive(Debug)]
pub(super) struct Counted {
    key: SubscriptionKey,
    /// A durable that was resumed meanwhile gets the message anew.
    ack_inbox: Subject,
    channel: usize,
    incarnation: u64,
    reader: ReaderId,
    record: MessageRecord,
    count: u32,
}

impl Counted {
    /// Whether it is that of one of these messages of a channel.
    pub(super) fn is_of(&self, channel: usize, is_one: impl Fn(Sequence) -> bool) -> bool {
        self.channel == channel && is_one(self.record.sequence)
    }

    /// What it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        COUNTED_BYTES + self.record.encoded.len()
    }
}

impl Policed {
    /// Of a channel that has a policy.
    pub(super) fn new(policy: DeliveryPolicy) -> Box<Self> {
        let (counts, dead_letters) = (BTreeMap::new(), BTreeSet::new());
        let (complained_at, aged, has_read_outlived) = (None, None, false);
        Box::new(Self { policy, counts, dead_letters, complained_at, aged, has_read_outlived })
    }

    /// Whether a message that was read is too old to be delivered.
    pub(super) fn is_outlived(&mut self, published: WallTime, now: WallTime) -> bool {
        let is_so = self.policy.is_outlived(published, now);
        self.has_read_outlived |= is_so;
        is_so
    }

    /// The first message that may not be too old, as far as that is known without reading any.
    pub(super) fn first_fresh(&self, now: WallTime) -> Sequence {
        // A clock that was set back makes what was too old young again.
        let known = self.aged.filter(|(at, _)| *at <= now - self.policy.ttl);
        known.map_or(Sequence::ZERO, |(_, first)| first)
    }

    /// What is older need not be read: the time for which the store is asked, before the next read,
    /// where it last had read in vain.
    pub(super) fn time_to_find(&mut self, now: WallTime) -> Option<WallTime> {
        let is_wanted = std::mem::take(&mut self.has_read_outlived);
        is_wanted.then(|| now - self.policy.ttl)
    }

    /// The store says which message is the first that is from that time or later.
    pub(super) fn set_aged(&mut self, at: WallTime, first: Sequence) {
        self.aged = Some((at, first));
    }

    /// How often a message was redelivered to a reader, as far as is known.
    pub(super) fn redelivered(&self, reader: ReaderId, sequence: Sequence) -> u32 {
        let known = self.counts.get(&reader).and_then(|of_reader| of_reader.get(&sequence));
        known.map_or(0, |delivered| delivered.count.saturating_sub(1))
    }

    /// Whether a delivery waits until its count is durable.
    pub(super) fn is_being_counted(&self, reader: ReaderId, sequence: Sequence) -> bool {
        let known = self.counts.get(&reader).and_then(|of_reader| of_reader.get(&sequence));
        known.is_some_and(|delivered| delivered.left.is_none())
    }

    fn known(&self, reader: ReaderId, record: &MessageRecord) -> Option<Delivered> {
        let delivered = self.counts.get(&reader)?.get(&record.sequence)?;
        (delivered.timestamp == record.timestamp).then_some(*delivered)
    }

    fn judge(
        &self,
        subscription: &Subscription,
        record: &MessageRecord,
        is_again: bool,
        now: Instant,
    ) -> Verdict {
        let reader = subscription.reader;
        if self.dead_letters.contains(&(reader, record.sequence)) {
            return Verdict::UnderWay;
        }
        let Some(known) = self.known(reader, record) else {
            // Whoever has sent it before may not have counted.
            return Verdict::Deliver(u32::from(is_again));
        };
        let Some(left) = known.left else { return Verdict::UnderWay };
        if known.count < self.policy.deliveries_max {
            return Verdict::Deliver(known.count);
        }
        let until = left + self.policy.wait(subscription.ack_wait(), known.count);
        if now + REDELIVERY_SLACK < until {
            return Verdict::Wait(until);
        }
        Verdict::DeadLetter(known.count)
    }

    fn set(&mut self, count: DeliveryCount, left: Option<Instant>) {
        let DeliveryCount { reader, sequence, timestamp, count, .. } = count;
        let of_reader = self.counts.entry(reader).or_default();
        of_reader.insert(sequence, Delivered { count, timestamp, left });
    }

    fn known_mut(&mut self, reader: ReaderId, sequence: Sequence) -> Option<&mut Delivered> {
        self.counts.get_mut(&reader)?.get_mut(&sequence)
    }

    /// A delivery that was counted did not leave.
    fn take_back(&mut self, reader: ReaderId, sequence: Sequence, now: Instant) {
        if let Some(delivered) = self.known_mut(reader, sequence) {
            delivered.count = delivered.count.saturating_sub(1);
            delivered.left = Some(now);
        }
    }

    fn forget(&mut self, reader: ReaderId, sequence: Sequence) -> Option<DeliveryCount> {
        let of_reader = self.counts.get_mut(&reader)?;
        let Delivered { timestamp, .. } = of_reader.remove(&sequence)?;
        if of_reader.is_empty() {
            self.counts.remove(&reader);
        }
        Some(DeliveryCount { reader, sequence, timestamp, count: 0, is_gone: false })
    }

    /// What takes back the counts of a message, whoever reads it.
    pub(super) fn without(&self, sequence: Sequence) -> Vec<DeliveryCount> {
        let of_message = self.counts.iter().filter_map(|(reader, of_reader)| {
            let Delivered { timestamp, .. } = *of_reader.get(&sequence)?;
            let reader = *reader;
            Some(DeliveryCount { reader, sequence, timestamp, count: 0, is_gone: true })
        });
        of_message.collect()
    }

    /// Another message has that number now: nobody has seen it.
    pub(super) fn begin_anew(&mut self, sequence: Sequence) {
        for of_reader in self.counts.values_mut() {
            if let Some(delivered) = of_reader.get_mut(&sequence) {
                delivered.count = 0;
            }
        }
    }
}

impl Outgoing<'_> {
    /// Enters one delivery of a channel that counts them, and does what is due with it.
    pub(super) fn send_counted(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        record: MessageRecord,
        is_again: bool,
    ) {
        let Some(policed) = &channel.policed else { return };
        let verdict = policed.judge(subscription, &record, is_again, self.now.at);
        self.reads.count_sent(record.encoded.len());
        let again = Some(policed.redelivered(subscription.reader, record.sequence) + 1);
        self.enter(key, subscription, channel, record.sequence, again.filter(|_| is_again));
        if channel.life == Life::Deleting {
            return;
        }
        match verdict {
            Verdict::UnderWay => (),
            Verdict::Deliver(before) => self.count(key, subscription, channel, record, before),
            Verdict::DeadLetter(count) => {
                self.send_dead_letter(key, subscription, channel, &record, count);
            }
            Verdict::Wait(until) => self.postpone(key, subscription, record.sequence, until),
        }
    }

    /// Stages the count of a delivery, which leaves when that is durable.
    fn count(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        record: MessageRecord,
        before: u32,
    ) {
        let Some(policed) = &mut channel.policed else { return };
        let MessageRecord { sequence, timestamp, .. } = record;
        let (reader, count) = (subscription.reader, before + 1);
        let written = DeliveryCount { reader, sequence, timestamp, count, is_gone: false };
        let is_early = planted::is(Bug::CountNotDurable);
        policed.set(written, is_early.then_some(self.now.at));
        let index = subscription.channel;
        self.commits.delivery(index, channel, written);
        if is_early {
            let again = Some(before).filter(|before| *before > 0);
            return self.emit(key, subscription, &channel.name, record, again);
        }
        let (ack_inbox, incarnation) = (subscription.ack_inbox.clone(), channel.incarnation);
        let counted =
            Counted { key, ack_inbox, channel: index, incarnation, reader, record, count };
        let staged = self.commits.after(After::Deliver(Box::new(counted)));
        assert!(staged.is_none(), "its count was staged just now");
    }

    /// A pending message is due at `until`, and not before.
    pub(super) fn postpone(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        sequence: Sequence,
        until: Instant,
    ) {
        subscription.pending.postpone(sequence, until);
        self.arm_by(key, until);
    }

    /// The redelivery timer of a subscription goes off at `at`, if it does not before.
    pub(super) fn arm_by(&mut self, key: SubscriptionKey, at: Instant) {
        let armed = self.timers.deadline(&Timer::Redelivery(key));
        if armed.is_none_or(|armed| at < armed) && !planted::is(Bug::NoRedelivery) {
            self.timers.arm(Timer::Redelivery(key), at);
        }
    }

    /// The count of a delivery is durable: it leaves.
    fn leave(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        (record, count): (MessageRecord, u32),
    ) {
        let (sequence, now) = (record.sequence, self.now.at);
        let known = channel.policed.as_mut();
        let known = known.and_then(|policed| policed.known_mut(subscription.reader, sequence));
        if let Some(known) = known {
            known.left = Some(now);
        }
        let until = now + channel.wait(subscription, count);
        self.arm_by(key, until);
        subscription.pending.postpone(sequence, until);
        let again = Some(count - 1).filter(|again| *again > 0);
        self.emit(key, subscription, &channel.name, record, again);
    }
}

impl Engine {
    /// The count of a delivery is durable, or was refused: it leaves, if its reader is still there
    /// and has room.
    pub(super) fn deliver_counted(
        &mut self,
        counted: Counted,
        refused: &[(usize, Refusal)],
        now: Now,
    ) {
        let Counted { key, ack_inbox, channel: index, incarnation, reader, record, count } =
            counted;
        let sequence = record.sequence;
        let (mut out, subscriptions, channels) = self.outgoing(now);
        let Some(channel) = channels.slab.get_mut(index) else { return };
        if channel.incarnation != incarnation {
            return;
        }
        let is_refused = refused.iter().any(|(found, _)| *found == index);
        let found = subscriptions.by_key.get_mut(&key).filter(|found| {
            found.is_online() && found.ack_inbox == ack_inbox && found.pending.contains(sequence)
        });
        if let Some(found) = found {
            if !is_refused && !found.is_congested {
                return out.leave(key, found, channel, (record, count));
            }
            if !is_refused {
                out.postpone(key, found, sequence, now.at);
                // A group has no order, and the others of it do not wait.
                if found.group.is_none() {
                    found.hold.get_or_insert(Hold::Counted);
                }
            }
        }
        if let Some(policed) = &mut channel.policed {
            policed.take_back(reader, sequence, now.at);
        }
    }

    /// Deliveries whose counts are not written yet, of messages that an operator has let go
    /// meanwhile: they do not leave, and are not counted.
    pub(super) fn drop_purged(
        &mut self,
        index: usize,
        is_gone: impl Fn(Sequence) -> bool,
        now: Instant,
    ) {
        for counted in self.commits.take_counted(index, is_gone) {
            if let Some(policed) = self.channels.slab[index].policed.as_mut() {
                policed.take_back(counted.reader, counted.record.sequence, now);
            }
        }
    }

    /// Whether a message was delivered to a subscription as often as it may be.
    pub(super) fn is_used_up(&self, key: SubscriptionKey, record: &MessageRecord) -> bool {
        let Some(found) = self.subscriptions.by_key.get(&key) else { return false };
        let policed = self.channels.slab[found.channel].policed.as_ref();
        policed.is_some_and(|policed| {
            let known = policed.known(found.reader, record);
            let most = policed.policy.deliveries_max;
            policed.policy.counts() && known.is_some_and(|known| most <= known.count)
        })
    }

    /// A message needs no count for this subscription any more.
    pub(super) fn forget_delivery_to(&mut self, key: SubscriptionKey, sequence: Sequence) {
        let Some(found) = self.subscriptions.by_key.get(&key) else { return };
        if self.channels.slab[found.channel].policed.is_some() {
            let (index, reader) = (found.channel, found.reader);
            self.forget_delivery(index, reader, sequence);
        }
    }

    pub(super) fn forget_delivery(&mut self, index: usize, reader: ReaderId, sequence: Sequence) {
        let channel = &mut self.channels.slab[index];
        let policed = channel.policed.as_mut();
        if let Some(write) = policed.and_then(|policed| policed.forget(reader, sequence)) {
            self.commits.delivery(index, channel, write);
        }
    }

    /// A reader is gone, or begins anew.
    pub(super) fn forget_reader(&mut self, index: usize, reader: ReaderId) -> Vec<DeliveryCount> {
        let Some(channel) = self.channels.slab.get_mut(index) else { return Vec::new() };
        let policed = channel.policed.as_mut().filter(|policed| policed.policy.counts());
        let Some(policed) = policed else { return Vec::new() };
        let gone = policed.counts.remove(&reader).unwrap_or_default();
        // Also what its acknowledgements have let go of, and a store may still have.
        self.commits.delivery(index, channel, DeliveryCount::none_of(reader));
        let before = gone.into_iter().map(|(sequence, delivered)| {
            let Delivered { timestamp, count, .. } = delivered;
            DeliveryCount { reader, sequence, timestamp, count, is_gone: false }
        });
        before.collect()
    }

    /// The reader is where it was: so are its counts.
    pub(super) fn take_back_reader(
        &mut self,
        index: usize,
        counts: Vec<DeliveryCount>,
        now: Instant,
    ) {
        let Some(channel) = self.channels.slab.get_mut(index) else { return };
        for count in counts {
            if let Some(policed) = channel.policed.as_mut() {
                policed.set(count, Some(now));
            }
            self.commits.delivery(index, channel, count);
        }
    }

    /// What was counted before a restart, for those who are still there and may see the message
    /// again.
    pub(super) fn recover_deliveries(
        &mut self,
        index: usize,
        deliveries: Vec<DeliveryCount>,
        now: Instant,
    ) {
        if deliveries.is_empty() {
            return;
        }
        let wanted: BTreeSet<ReaderId> = deliveries.iter().map(|count| count.reader).collect();
        let mut readers: BTreeMap<ReaderId, Expected> = BTreeMap::new();
        for key in self.subscriptions_of(index) {
            let found = &self.subscriptions.by_key[&key];
            if wanted.contains(&found.reader) {
                let group = found.group.and_then(|key| self.subscriptions.groups.get(&key));
                let cursor = group.map_or(&found.cursor, |group| &group.cursor);
                let expected = readers.entry(found.reader).or_default();
                expected.behind = cursor.last_sent;
                expected.pending.extend(found.pending.sequences());
            }
        }
        let is_live = |count: &DeliveryCount| {
            readers.get(&count.reader).is_some_and(|expected| {
                expected.behind < count.sequence || expected.pending.contains(&count.sequence)
            })
        };
        let counts = self.channels.slab[index].counts();
        let (live, gone): (Vec<DeliveryCount>, Vec<DeliveryCount>) =
            deliveries.into_iter().partition(|count| counts && is_live(count));
        let channel = &mut self.channels.slab[index];
        if let Some(policed) = channel.policed.as_mut() {
            live.into_iter().for_each(|count| policed.set(count, Some(now)));
        }
        for count in gone {
            let gone = DeliveryCount { count: 0, is_gone: true, ..count };
            self.commits.delivery(index, channel, gone);
        }
    }
}
