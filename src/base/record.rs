//! Durable facts: what an engine asks to be written, and what a store gives back.

use bytes::Bytes;
use prost::Message as _;

use crate::base::delivery_count::DeliveryCount;
use crate::base::id::{ChannelName, ClientId, Sequence, SubscriptionId, Ticket};
use crate::base::time::WallTime;
use crate::proto::{pb, spb};

/// One message as stored, replayed and delivered: encoded once, when it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRecord {
    /// Its place in the channel.
    pub sequence: Sequence,
    /// When the server accepted it.
    pub timestamp: WallTime,
    /// The whole `pb.MsgProto`, without redelivery fields.
    pub encoded: Bytes,
}

impl MessageRecord {
    /// As stores keep a message.
    #[must_use]
    pub fn of(message: &pb::MsgProto) -> Self {
        Self {
            sequence: Sequence(message.sequence),
            timestamp: WallTime(message.timestamp),
            encoded: message.encode_to_vec().into(),
        }
    }

    /// What stands in the place of a message that nobody has, and keeps the next number of a
    /// channel whose messages are all gone: the Go server's formats have no other way to say it.
    #[must_use]
    pub fn stand_in(channel: &ChannelName, sequence: u64, timestamp: WallTime) -> Self {
        Self::of(&pb::MsgProto {
            sequence,
            subject: channel.to_bytes(),
            timestamp: timestamp.0,
            ..pb::MsgProto::default()
        })
    }
}

/// A change of one subscription's record (spec stores, 2.4).
#[derive(Clone, Debug, PartialEq)]
pub enum SubscriptionWrite {
    /// A new record; the id in it was chosen by the engine. (Boxed: records are few and long, the
    /// other writes many and short.)
    Create(Box<spb::SubState>),
    /// The record is replaced, its pending set kept.
    Update(Box<spb::SubState>),
    /// The record goes, with its pending set.
    Delete(SubscriptionId),
    /// A message was delivered and is not acknowledged yet.
    Sent(SubscriptionId, Sequence),
    /// A message was acknowledged.
    Acked(SubscriptionId, Sequence),
}

/// A change of the client registry.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientWrite {
    /// Adds or replaces the client of that ID.
    Add(spb::ClientInfo),
    /// Removes it; an unknown one is no error.
    Delete(ClientId),
}

/// What happens to the channel itself in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifecycle {
    /// It exists, and stays.
    #[default]
    Keep,
    /// It is created before anything else of this batch is written to it.
    Create,
    /// It is deleted with everything in it; nothing else is in this batch for it.
    Delete,
}

/// What an operator lets go of a channel: its oldest messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Purge {
    /// The oldest message that stays; at most the last one.
    pub first: Sequence,
    /// What takes the place of that one, where nothing is to be left of the messages: the Go
    /// server's formats have no other way to keep the number of the next one.
    pub stand_in: Option<MessageRecord>,
}

/// All that one batch writes to one channel, in this order: life cycle, messages, subscriptions,
/// counts of deliveries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelBatch {
    /// Which channel.
    pub channel: ChannelName,
    /// Whether it is created or deleted.
    pub lifecycle: Lifecycle,
    /// Of a channel that is created: what its first message comes behind, and that message is in
    /// this batch. 0 but for one that comes from another store, which has let go of its oldest.
    pub begins_after: Sequence,
    /// Dense and ascending, from the channel's last sequence + 1.
    pub messages: Vec<MessageRecord>,
    /// In the order in which they happened.
    pub subscriptions: Vec<SubscriptionWrite>,
    /// The oldest messages go; nothing else is in this batch for the channel.
    pub purge: Option<Purge>,
    /// How often messages were delivered. Those that are 0 are let go of once what else this batch
    /// says of their messages is durable.
    pub deliveries: Vec<DeliveryCount>,
}

/// What one engine writes in one commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Replaces the server's own record (first start, repair of a very old one).
    pub server: Option<spb::ServerInfo>,
    /// In order; written before the channels.
    pub clients: Vec<ClientWrite>,
    /// At most one entry a channel.
    pub channels: Vec<ChannelBatch>,
    /// False where nothing in it is answered for (acks, pending entries): it is written at once,
    /// and synced with a later batch or by the periodic sync.
    pub durable: bool,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.server.is_none() && self.clients.is_empty() && self.channels.is_empty()
    }
}

/// What a channel's store holds.
///
/// Nothing ever stored: all 0. All removed: `first` = `last` + 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelState {
    /// Sequence of the oldest message kept.
    pub first: Sequence,
    /// Highest sequence ever stored.
    pub last: Sequence,
    /// Messages kept.
    pub message_count: u64,
    /// Their bytes in the store's own accounting (spec stores, 2.3).
    pub byte_count: u64,
}

/// How one channel's part of a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelOutcome {
    /// Which channel.
    pub channel: ChannelName,
    /// Its state after the batch; or, if nothing of the channel's part was kept, the text that
    /// clients are told (the reference's words where it has some), and its state as it was.
    pub refused: Option<String>,
    /// What the channel holds now.
    pub state: ChannelState,
}

/// A commit that was written, synced if it had to be, and checked against the fence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// The text that clients are told if the server or client records could not be written.
    pub clients_refused: Option<String>,
    /// One for each channel of the batch, in its order.
    pub channels: Vec<ChannelOutcome>,
}

/// A request to read messages, from the first that exists at or after `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// Which channel.
    pub channel: ChannelName,
    /// Where to start.
    pub from: Sequence,
    /// Stop before this many messages are exceeded; at least 1.
    pub count_max: usize,
    /// Stop when the encoded messages reach this many bytes; one message is always given.
    pub bytes_max: usize,
}

/// What an engine asks its share of the store for, beside commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRead {
    /// Messages; answered with [`StoreAnswer::Fetched`].
    Fetch(FetchRequest),
    /// The sequence that a start time means; answered with [`StoreAnswer::FoundTime`].
    FindTime {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Which channel.
        channel: ChannelName,
        /// The time.
        at: WallTime,
    },
}

/// What a share of the store tells its engine.
#[derive(Clone, Debug)]
pub enum StoreAnswer {
    /// The commit of `ticket` is written, synced if it had to be, and checked against the fence.
    Committed {
        /// Of which commit.
        ticket: Ticket,
        /// How it ended.
        report: CommitReport,
        /// What was to be written. Where it was made it is let go of as well: its messages share
        /// counters that two threads would take from each other.
        batch: Box<Batch>,
    },
    /// The answer to a fetch.
    Fetched {
        /// Of which fetch.
        ticket: Ticket,
        /// The messages, ascending; or the text of why they could not be read.
        result: Result<Vec<MessageRecord>, String>,
    },
    /// The answer to a look-up by time.
    FoundTime {
        /// Of which look-up.
        ticket: Ticket,
        /// The sequence; or the text for the client.
        result: Result<Sequence, String>,
    },
    /// Messages were removed by age or limits outside of a commit.
    Trimmed {
        /// Of which channel.
        channel: ChannelName,
        /// What is left.
        state: ChannelState,
    },
}

/// One subscription as recovered.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveredSubscription {
    /// Its record, with `last_sent` up to date.
    pub state: spb::SubState,
    /// Delivered and not acknowledged, ascending.
    pub pending: Vec<Sequence>,
}

/// One channel as recovered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecoveredChannel {
    /// Its name.
    pub channel: ChannelName,
    /// What it holds.
    pub state: ChannelState,
    /// Timestamp of its last message; 0 if there is none: new ones are not earlier (P4).
    pub last_timestamp: WallTime,
    /// All subscription records.
    pub subscriptions: Vec<RecoveredSubscription>,
    /// Highest subscription id that was ever used in it, as far as is known.
    pub subscription_id_max: SubscriptionId,
    /// How often messages were delivered, where that is counted.
    pub deliveries: Vec<DeliveryCount>,
}

/// Everything a store held when it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecoveredState {
    /// The server's record; `None` for a fresh store, or one that lost it.
    pub server: Option<spb::ServerInfo>,
    /// All registered clients.
    pub clients: Vec<spb::ClientInfo>,
    /// All channels, ordered by name.
    pub channels: Vec<RecoveredChannel>,
}
