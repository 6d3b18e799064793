//! what becomes of a message that was delivered as often as it may be
//!
//! It is published to the channel of dead letters, which may be another engine's, and acknowledged
//! here when it is durable there: a take-over in between puts it there twice, and none loses it. If
//! that channel refuses it, it stays pending, is not delivered any more, and is tried again with
//! the next redelivery.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde::Serialize;

use crate::base::delivery_count::ReaderId;
use crate::base::delivery_policy::DeliveryPolicy;
use crate::base::id::{ChannelName, LoopIndex, Sequence};
use crate::base::limits::{DEAD_LETTERS_BYTES_MAX, DEAD_LETTERS_RETRY};
use crate::base::placement;
use crate::base::record::MessageRecord;
use crate::base::time::Now;
use crate::engine::Engine;
use crate::engine::channel::Channel;
use crate::engine::delivery::Outgoing;
use crate::engine::effect::{Effect, Level};
use crate::engine::input::PeerMessage;
use crate::engine::publication::Publication;
use crate::engine::queue_group::GroupKey;
use crate::engine::refusal::quoted;
use crate::engine::reply::Reply;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::proto::pb;

/// A longer reply field of a message is not said of its dead letter.
const REPLY_LEN_MAX: usize = 1_024;

/// A line that a channel of dead letters refuses them is not said more often for one channel.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// Bytes of dead letters that are not answered yet, of all channels.
#[derive(Debug, Default)]
pub(super) struct DeadLettersUnderWay {
    bytes: usize,
}

/// A message that waits for its dead letter to be durable.
#[derive(Clone, Debug)]
pub struct Awaiting {
    channel: usize,
    incarnation: u64,
    reader: ReaderId,
    /// Who has it pending; in a group another member may have it meanwhile.
    key: SubscriptionKey,
    group: Option<GroupKey>,
    sequence: Sequence,
    /// Of the dead letter.
    bytes: usize,
}

/// A message on its way to the channel of dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    publication: Publication,
    awaiting: Awaiting,
}

/// Who is told what became of a dead letter.
#[derive(Debug)]
pub(super) struct DeadLetterSender {
    from: LoopIndex,
    awaiting: Awaiting,
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

impl Outgoing<'_> {
    /// Sends a message to the channel of dead letters.
    pub(super) fn send_dead_letter(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        record: &MessageRecord,
        deliveries: u32,
    ) {
        let Some(policed) = &mut channel.policed else { return };
        let Some(target) = policed.policy.dead_letter.clone() else { return };
        let Ok(message) = pb::MsgProto::decode(record.encoded.clone()) else { return };
        if DEAD_LETTERS_BYTES_MAX < self.dead_letters.bytes {
            let until = self.now.at + DEAD_LETTERS_RETRY;
            return self.postpone(key, subscription, record.sequence, until);
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
        policed.dead_letters.insert((subscription.reader, record.sequence));
        let awaiting = Awaiting {
            channel: subscription.channel,
            incarnation: channel.incarnation,
            reader: subscription.reader,
            key,
            group: subscription.group,
            sequence: record.sequence,
            bytes: publication.size(),
        };
        self.dead_letters.bytes += awaiting.bytes;
        let to = placement::of_channel(&target, self.loops);
        let letter = Box::new(DeadLetter { publication, awaiting });
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
    /// Another engine, or this one, has a dead letter for a channel here.
    pub(super) fn on_dead_letter(&mut self, from: LoopIndex, letter: DeadLetter, now: Now) {
        if self.is_draining {
            return;
        }
        let DeadLetter { publication, awaiting } = letter;
        let reply = Reply::of_dead_letter(DeadLetterSender { from, awaiting });
        self.publish_valid(publication, reply, true, now);
    }

    /// Tells who waits for it what became of a dead letter.
    pub(super) fn answer_dead_letter(
        &mut self,
        sender: &DeadLetterSender,
        refused: Option<String>,
    ) {
        self.tell(sender.from, PeerMessage::DeadLetterDone(sender.awaiting.clone(), refused));
    }

    /// A dead letter is durable, or was refused.
    pub(super) fn on_dead_letter_done(
        &mut self,
        awaiting: &Awaiting,
        refused: Option<String>,
        now: Now,
    ) {
        let Awaiting { channel: index, incarnation, reader, sequence, bytes, .. } = *awaiting;
        // Its channel may be gone, and the room for it is free all the same.
        self.dead_letters.bytes = self.dead_letters.bytes.saturating_sub(bytes);
        let Some(channel) = self.channels.slab.get_mut(index) else { return };
        let Some(policed) = channel.policed.as_mut().filter(|_| channel.incarnation == incarnation)
        else {
            return;
        };
        if !policed.dead_letters.remove(&(reader, sequence)) {
            return;
        }
        if let Some(why) = refused {
            return self.complain(index, sequence, &why, now);
        }
        self.traffic.dead_letters += 1;
        if let Some(key) = self.holder_of(awaiting) {
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
        let DeliveryPolicy { deliveries_max, dead_letter, .. } = &policed.policy;
        let target = dead_letter.as_ref().map(|target| quoted(target.as_bytes()));
        let line = format!(
            "Channel {name}: message {sequence} was delivered {deliveries_max} times, and channel {} \
             does not take it: {why}; it is kept, and tried again with its next redelivery",
            target.unwrap_or_default()
        );
        self.log(Level::Error, || line);
    }

    /// Who has the message of a dead letter pending.
    fn holder_of(&self, awaiting: &Awaiting) -> Option<SubscriptionKey> {
        let Awaiting { key, group, sequence, .. } = *awaiting;
        let by_key = &self.subscriptions.by_key;
        let has_it =
            |key: &SubscriptionKey| by_key.get(key).is_some_and(|it| it.pending.contains(sequence));
        if has_it(&key) {
            return Some(key);
        }
        // It was dealt to another member when the one that had it left.
        let group = self.subscriptions.groups.get(&group?)?;
        group.members.iter().chain(&group.shadow).find(|key| has_it(key)).copied()
    }
}
