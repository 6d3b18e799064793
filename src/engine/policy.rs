//! how often a message is delivered at most, and where it goes then
//!
//! A channel with a limit counts deliveries, and each count is durable before its delivery leaves:
//! so nobody sees a message more often, whoever is active. A take-over may have counted one that
//! never left. What was delivered often enough and is not acknowledged is published to the channel
//! of dead letters, which may be another engine's, and acknowledged here when it is durable there:
//! a take-over in between puts it there twice, and none loses it. If that channel refuses it, it
//! stays pending, is not delivered any more, and is tried again with the next redelivery.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde::Serialize;

use crate::base::delivery_count::{DeliveryCount, ReaderId};
use crate::base::delivery_policy::DeliveryPolicy;
use crate::base::id::{ChannelName, LoopIndex, Sequence, Subject};
use crate::base::limits::{DEAD_LETTERS_BYTES_MAX, DEAD_LETTERS_RETRY};
use crate::base::placement;
use crate::base::planted::{self, Bug};
use crate::base::record::MessageRecord;
use crate::base::time::{Instant, Now, WallTime};
use crate::engine::channel::{Channel, Life};
use crate::engine::commit::After;
use crate::engine::delivery::Outgoing;
use crate::engine::effect::{Effect, Level};
use crate::engine::input::PeerMessage;
use crate::engine::publication::Publication;
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::reply::Reply;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::engine::{Engine, Timer};
use crate::proto::pb;

/// A longer reply field of a message is not said of its dead letter.
const REPLY_LEN_MAX: usize = 1_024;

/// A line that a channel of dead letters refuses them is not said more often for one channel.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// What a channel with a policy knows beside its messages.
#[derive(Debug)]
pub(super) struct Policed {
    policy: DeliveryPolicy,
    readers: BTreeMap<ReaderId, BTreeMap<Sequence, Delivered>>,
    /// Dead letters that are not answered yet.
    burying: BTreeSet<(ReaderId, Sequence)>,
    complained_at: Option<Instant>,
}

/// How often one message was delivered to one reader.
#[derive(Clone, Copy, Debug)]
struct Delivered {
    count: u32,
    timestamp: WallTime,
}

/// Bytes of dead letters that are not answered yet, of all channels.
#[derive(Debug, Default)]
pub(super) struct Graves {
    bytes: usize,
}

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

/// What a dead letter was, for the engine that has it pending.
#[derive(Clone, Debug)]
pub struct Burial {
    channel: usize,
    incarnation: u64,
    reader: ReaderId,
    sequence: Sequence,
    /// Of the letter.
    bytes: usize,
}

/// A message on its way to the channel of dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    publication: Publication,
    burial: Burial,
}

/// Who waits for the publish of a dead letter.
#[derive(Debug)]
pub(super) struct Mourner {
    from: LoopIndex,
    burial: Burial,
}

/// Where a dead letter comes from: JSON in the reply field, which every client can read. Channel,
/// sequence, and durable, queue group or inbox tell one that is there twice.
#[derive(Serialize)]
struct Origin<'a> {
    channel: &'a str,
    sequence: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    durable: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    queue: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    inbox: &'a str,
    client: &'a str,
    deliveries: u32,
    timestamp: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    reply: &'a str,
}

impl Policed {
    /// Of a channel that has a policy.
    pub(super) fn new(policy: DeliveryPolicy) -> Box<Self> {
        let (readers, burying) = (BTreeMap::new(), BTreeSet::new());
        Box::new(Self { policy, readers, burying, complained_at: None })
    }

    /// How often a message was redelivered to a reader, as far as is known.
    pub(super) fn redelivered(&self, reader: ReaderId, sequence: Sequence) -> u32 {
        let known = self.readers.get(&reader).and_then(|of_reader| of_reader.get(&sequence));
        known.map_or(0, |delivered| delivered.count.saturating_sub(1))
    }

    fn known(&self, reader: ReaderId, record: &MessageRecord) -> Option<u32> {
        let delivered = self.readers.get(&reader)?.get(&record.sequence)?;
        (delivered.timestamp == record.timestamp).then_some(delivered.count)
    }

    fn set(&mut self, count: DeliveryCount) {
        let DeliveryCount { reader, sequence, timestamp, count } = count;
        let of_reader = self.readers.entry(reader).or_default();
        of_reader.insert(sequence, Delivered { count, timestamp });
    }

    /// A delivery that was counted did not leave.
    fn take_back(&mut self, reader: ReaderId, sequence: Sequence) {
        let of_reader = self.readers.get_mut(&reader);
        if let Some(delivered) = of_reader.and_then(|known| known.get_mut(&sequence)) {
            delivered.count = delivered.count.saturating_sub(1);
        }
    }

    fn forget(&mut self, reader: ReaderId, sequence: Sequence) -> Option<DeliveryCount> {
        let of_reader = self.readers.get_mut(&reader)?;
        let Delivered { timestamp, .. } = of_reader.remove(&sequence)?;
        if of_reader.is_empty() {
            self.readers.remove(&reader);
        }
        Some(DeliveryCount { reader, sequence, timestamp, count: 0 })
    }
}

/// Who reads by a subscription, over restarts and take-overs.
pub(super) fn reader_of(subscription: &Subscription) -> ReaderId {
    let Subscription { queue, durable, client, inbox, .. } = subscription;
    if !queue.is_empty() {
        ReaderId::of(&[b"queue", queue.as_bytes()])
    } else if durable.is_empty() {
        ReaderId::of(&[b"inbox", client.as_bytes(), inbox.as_bytes()])
    } else {
        ReaderId::of(&[b"durable", client.as_bytes(), durable.as_bytes()])
    }
}

impl Outgoing<'_> {
    /// Counts one delivery, and sends the message when that is durable; or buries it.
    pub(super) fn send_counted(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        record: MessageRecord,
        is_again: bool,
    ) {
        let reader = reader_of(subscription);
        self.reads.count_sent(record.encoded.len());
        self.enter(key, subscription, channel, record.sequence, is_again);
        let (index, incarnation) = (subscription.channel, channel.incarnation);
        let Some(policed) = &mut channel.policed else { return };
        if channel.life == Life::Deleting || policed.burying.contains(&(reader, record.sequence)) {
            return;
        }
        // Whoever has sent it before may not have counted.
        let before = policed.known(reader, &record).unwrap_or(u32::from(is_again));
        if policed.policy.deliveries_max <= before {
            let sequence = record.sequence;
            let burial = Burial { channel: index, incarnation, reader, sequence, bytes: 0 };
            return self.bury(key, subscription, channel, &record, before, burial);
        }
        let count = before + 1;
        let MessageRecord { sequence, timestamp, .. } = record;
        let written = DeliveryCount { reader, sequence, timestamp, count };
        policed.set(written);
        self.commits.delivery(index, channel, written);
        if planted::is(Bug::CountNotDurable) {
            let again = Some(before).filter(|before| *before > 0);
            return self.emit(key, subscription, &channel.name, record, again);
        }
        let ack_inbox = subscription.ack_inbox.clone();
        let counted =
            Counted { key, ack_inbox, channel: index, incarnation, reader, record, count };
        let staged = self.commits.after(After::Deliver(Box::new(counted)));
        assert!(staged.is_none(), "its count was staged just now");
    }

    /// Sends a message to the channel of dead letters.
    fn bury(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        record: &MessageRecord,
        deliveries: u32,
        mut burial: Burial,
    ) {
        let Some(policed) = &mut channel.policed else { return };
        let Some(target) = policed.policy.dead_letter.clone() else { return };
        let Ok(message) = pb::MsgProto::decode(record.encoded.clone()) else { return };
        if DEAD_LETTERS_BYTES_MAX < self.graves.bytes {
            // It is still due, and tried again soon.
            if let Some(due) = subscription.pending.get_mut(record.sequence) {
                *due = Some(self.now.at + DEAD_LETTERS_RETRY);
            }
            self.timers.arm(Timer::Redelivery(key), self.now.at + DEAD_LETTERS_RETRY);
            return;
        }
        let reply = origin(subscription, &channel.name, &message, deliveries);
        let publication = pb::PubMsg {
            client_id: subscription.client.to_bytes(),
            guid: Bytes::from_static(b"dead-letter"),
            subject: target.to_bytes(),
            reply: reply.into(),
            data: message.data,
            ..pb::PubMsg::default()
        };
        let publication = Publication::decode(publication.encode_to_vec().into());
        let publication = publication.expect("what the generated encoder wrote can be read");
        policed.burying.insert((burial.reader, burial.sequence));
        burial.bytes = publication.size();
        self.graves.bytes += burial.bytes;
        let to = placement::of_channel(&target, self.loops);
        let letter = Box::new(DeadLetter { publication, burial });
        self.effects.push_back(Effect::Tell { to, message: PeerMessage::DeadLetter(letter) });
    }
}

fn origin(
    subscription: &Subscription,
    channel: &ChannelName,
    message: &pb::MsgProto,
    deliveries: u32,
) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let queue = text(subscription.queue.as_bytes());
    let (durable, queue) = match queue.split_once(':') {
        Some((durable, queue)) if subscription.is_durable => (durable.to_owned(), queue.to_owned()),
        _ => (text(subscription.durable.as_bytes()), queue),
    };
    // Dead letters of dead letters would have it in each other, and escaped each time.
    let reply = text(&message.reply);
    let reply = if reply.len() <= REPLY_LEN_MAX { reply } else { String::new() };
    let is_nameless = durable.is_empty() && queue.is_empty();
    let inbox = if is_nameless { text(subscription.inbox.as_bytes()) } else { String::new() };
    let origin = Origin {
        channel: &text(channel.as_bytes()),
        sequence: message.sequence,
        durable: &durable,
        queue: &queue,
        inbox: &inbox,
        client: &text(subscription.client.as_bytes()),
        deliveries,
        timestamp: message.timestamp,
        reply: &reply,
    };
    serde_json::to_string(&origin).unwrap_or_default()
}

impl Engine {
    /// The count of a delivery is durable, or was refused: it leaves, if its reader is still there.
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
        match found.filter(|_| !is_refused) {
            Some(found) => {
                let again = Some(count - 1).filter(|again| *again > 0);
                out.emit(key, found, &channel.name, record, again);
            }
            None => {
                if let Some(policed) = &mut channel.policed {
                    policed.take_back(reader, sequence);
                }
            }
        }
    }

    /// Another engine, or this one, has a dead letter for a channel here.
    pub(super) fn on_dead_letter(&mut self, from: LoopIndex, letter: DeadLetter, now: Now) {
        if self.is_draining {
            return;
        }
        let DeadLetter { publication, burial } = letter;
        let reply = Reply::of_dead_letter(Mourner { from, burial });
        self.publish_valid(publication, reply, true, now);
    }

    /// Tells who waits for it what became of a dead letter.
    pub(super) fn answer_mourner(&mut self, mourner: &Mourner, refused: Option<String>) {
        self.tell(mourner.from, PeerMessage::DeadLetterDone(mourner.burial.clone(), refused));
    }

    /// A dead letter is durable, or was refused.
    pub(super) fn on_dead_letter_done(
        &mut self,
        burial: &Burial,
        refused: Option<String>,
        now: Now,
    ) {
        let Burial { channel: index, incarnation, reader, sequence, bytes } = *burial;
        // Its channel may be gone, and the room for it is free all the same.
        self.graves.bytes = self.graves.bytes.saturating_sub(bytes);
        let Some(channel) = self.channels.slab.get_mut(index) else { return };
        let Some(policed) = channel.policed.as_mut().filter(|_| channel.incarnation == incarnation)
        else {
            return;
        };
        if !policed.burying.remove(&(reader, sequence)) {
            return;
        }
        if let Some(why) = refused {
            return self.complain(index, sequence, &why, now);
        }
        self.traffic.dead_letters += 1;
        if let Some(key) = self.holder(index, reader, sequence) {
            self.settle(key, sequence, now);
        }
        // Behind its acknowledgement: never the other way round, or it would be counted anew.
        self.forget_delivery(index, reader, sequence);
    }

    /// It stays pending: nothing is lost, and nothing is delivered more often than it may be.
    fn complain(&mut self, index: usize, sequence: Sequence, why: &str, now: Now) {
        self.traffic.dead_letters_refused += 1;
        let channel = &mut self.channels.slab[index];
        let name = quoted(channel.name.as_bytes());
        let Some(policed) = &mut channel.policed else { return };
        if policed.complained_at.is_some_and(|at| now.at.since(at) < COMPLAINT_PAUSE) {
            return;
        }
        policed.complained_at = Some(now.at);
        let DeliveryPolicy { deliveries_max, dead_letter } = &policed.policy;
        let target = dead_letter.as_ref().map(|target| quoted(target.as_bytes()));
        let line = format!(
            "Channel {name}: message {sequence} was delivered {deliveries_max} times, and channel {} \
             does not take it: {why}; it is kept, and tried again with its next redelivery",
            target.unwrap_or_default()
        );
        self.log(Level::Error, || line);
    }

    /// The subscription of a reader that has a message pending.
    fn holder(
        &self,
        index: usize,
        reader: ReaderId,
        sequence: Sequence,
    ) -> Option<SubscriptionKey> {
        let mut keys = self.readers_of(index);
        keys.find(|key| {
            self.subscriptions
                .by_key
                .get(key)
                .is_some_and(|found| found.pending.contains(sequence) && reader_of(found) == reader)
        })
    }

    /// All subscriptions of a channel.
    fn readers_of(&self, index: usize) -> impl Iterator<Item = SubscriptionKey> + '_ {
        let channel = &self.channels.slab[index];
        let groups = &self.subscriptions.groups;
        let groups = channel.groups.values().filter_map(|key| groups.get(key));
        let members = groups.flat_map(|group| group.members.iter().chain(&group.shadow));
        channel.plain.iter().chain(channel.durables.values()).chain(members).copied()
    }

    /// A message needs no count for this subscription any more.
    pub(super) fn forget_delivery_to(&mut self, key: SubscriptionKey, sequence: Sequence) {
        let Some(found) = self.subscriptions.by_key.get(&key) else { return };
        if self.channels.slab[found.channel].policed.is_some() {
            let (index, reader) = (found.channel, reader_of(found));
            self.forget_delivery(index, reader, sequence);
        }
    }

    fn forget_delivery(&mut self, index: usize, reader: ReaderId, sequence: Sequence) {
        let channel = &mut self.channels.slab[index];
        let policed = channel.policed.as_mut();
        if let Some(write) = policed.and_then(|policed| policed.forget(reader, sequence)) {
            self.commits.delivery(index, channel, write);
        }
    }

    /// A reader is gone, or begins anew.
    pub(super) fn forget_reader(&mut self, index: usize, reader: ReaderId) -> Vec<DeliveryCount> {
        let Some(channel) = self.channels.slab.get_mut(index) else { return Vec::new() };
        let policed = channel.policed.as_mut();
        let gone = policed.and_then(|policed| policed.readers.remove(&reader));
        let mut before = Vec::new();
        for (sequence, Delivered { timestamp, count }) in gone.into_iter().flatten() {
            let was = DeliveryCount { reader, sequence, timestamp, count };
            self.commits.delivery(index, channel, DeliveryCount { count: 0, ..was });
            before.push(was);
        }
        before
    }

    /// The reader is where it was: so are its counts.
    pub(super) fn take_back_reader(&mut self, index: usize, counts: Vec<DeliveryCount>) {
        let Some(channel) = self.channels.slab.get_mut(index) else { return };
        for count in counts {
            if let Some(policed) = channel.policed.as_mut() {
                policed.set(count);
            }
            self.commits.delivery(index, channel, count);
        }
    }

    /// What was counted before a restart, for those who are still there and may see the message
    /// again.
    pub(super) fn recover_deliveries(&mut self, index: usize, deliveries: Vec<DeliveryCount>) {
        if deliveries.is_empty() {
            return;
        }
        let by_key = &self.subscriptions.by_key;
        let mut readers: BTreeMap<ReaderId, Vec<&Subscription>> = BTreeMap::new();
        for found in self.readers_of(index).filter_map(|key| by_key.get(&key)) {
            readers.entry(reader_of(found)).or_default().push(found);
        }
        let position = |found: &Subscription| {
            let group = found.group.and_then(|key| self.subscriptions.groups.get(&key));
            group.map_or(found.cursor.last_sent, |group| group.cursor.last_sent)
        };
        let is_live = |count: &DeliveryCount| {
            readers.get(&count.reader).is_some_and(|found| {
                found.iter().any(|one| {
                    one.pending.contains(count.sequence) || position(one) < count.sequence
                })
            })
        };
        let (live, gone): (Vec<DeliveryCount>, Vec<DeliveryCount>) =
            deliveries.into_iter().partition(is_live);
        let channel = &mut self.channels.slab[index];
        let mut gone = gone;
        match channel.policed.as_mut().filter(|policed| policed.policy.counts()) {
            Some(policed) => live.into_iter().for_each(|count| policed.set(count)),
            None => gone.extend(live),
        }
        for count in gone {
            self.commits.delivery(index, channel, DeliveryCount { count: 0, ..count });
        }
    }
}
