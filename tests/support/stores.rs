//! Words in which tests of the file store are told.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::sync::Arc;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Predecessor, Unfenced};
use stanby::base::id::{ChannelName, Sequence, Ticket};
use stanby::base::record::{
    Batch, ChannelBatch, CommitReport, FetchRequest, Lifecycle, MessageRecord,
};
use stanby::base::time::{Instant, Now, WallTime};
use stanby::proto::{pb, spb};
use stanby::store::file::{self, FileOptions};
use stanby::store::{Opened, Store, StoreError};

use prost::Message;

/// No sequence at all.
pub const NOTHING: std::ops::RangeInclusive<u64> = std::ops::RangeInclusive::new(1, 0);

/// When the tests begin, in Unix nanoseconds.
pub const START: i64 = 1_700_000_000_000_000_000;

/// Both clocks, so many seconds after the start.
pub fn now(seconds: u64) -> Now {
    let nanos = seconds * 1_000_000_000;
    Now { at: Instant(nanos), wall: WallTime(START + i64::try_from(nanos).unwrap()) }
}

/// A message as the engine encodes it.
pub fn message(channel: &str, sequence: u64, data: &str) -> MessageRecord {
    let timestamp = START + i64::try_from(sequence).unwrap();
    let encoded = pb::MsgProto {
        sequence,
        subject: channel.as_bytes().to_vec().into(),
        data: data.as_bytes().to_vec().into(),
        timestamp,
        ..pb::MsgProto::default()
    }
    .encode_to_vec();
    MessageRecord {
        sequence: Sequence(sequence),
        timestamp: WallTime(timestamp),
        encoded: encoded.into(),
    }
}

/// A channel's part of a batch, with messages of these sequences.
pub fn part(
    channel: &str,
    lifecycle: Lifecycle,
    sequences: std::ops::RangeInclusive<u64>,
) -> ChannelBatch {
    ChannelBatch {
        channel: ChannelName::from(channel),
        lifecycle,
        messages: sequences
            .map(|sequence| message(channel, sequence, &format!("m{sequence}")))
            .collect(),
        ..ChannelBatch::default()
    }
}

/// A durable batch.
pub fn batch(channels: Vec<ChannelBatch>) -> Batch {
    Batch { channels, durable: true, ..Batch::default() }
}

/// Opens a store with one loop.
pub fn open_as(
    options: &FileOptions,
    limits: &StoreLimits,
    predecessor: Predecessor,
) -> Result<Opened, StoreError> {
    file::prepare(options)?;
    file::open(options, limits, Arc::new(Unfenced), predecessor, 1, now(1))
}

/// Opens a store with defaults, after a clean predecessor.
pub fn open(root: &Path) -> Opened {
    open_as(&FileOptions::new(root), &StoreLimits::default(), Predecessor::Clean).unwrap()
}

/// Commits; nothing may be refused.
pub fn commit(store: &mut dyn Store, batch: &Batch) -> CommitReport {
    let report = store.commit(Epoch(1), batch).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
    report
}

/// All sequences from one on, read in small bites.
pub fn fetch(store: &mut dyn Store, channel: &str, from: u64) -> Vec<u64> {
    fetch_whole(store, channel, from).iter().map(|message| message.sequence).collect()
}

/// The same with what they say.
pub fn fetch_whole(store: &mut dyn Store, channel: &str, from: u64) -> Vec<pb::MsgProto> {
    let mut found = Vec::new();
    let mut from = Sequence(from);
    loop {
        let request = FetchRequest {
            ticket: Ticket(0),
            channel: ChannelName::from(channel),
            from,
            count_max: 7,
            bytes_max: 1_000,
        };
        let messages = store.fetch(&request).unwrap();
        let Some(last) = messages.last() else { return found };
        from = last.sequence.next();
        for message in messages {
            let decoded = pb::MsgProto::decode(message.encoded).unwrap();
            assert_eq!(decoded.sequence, message.sequence.get());
            found.push(decoded);
        }
    }
}

/// A subscription of that id.
pub fn subscription(id: u64) -> spb::SubState {
    spb::SubState {
        id,
        client_id: "me".into(),
        inbox: "inbox".into(),
        ack_inbox: "ack".into(),
        max_in_flight: 1024,
        ack_wait_in_secs: 30,
        ..spb::SubState::default()
    }
}

/// A message that much later than [`message`], in nanoseconds.
pub fn message_at(channel: &str, sequence: u64, later: i64) -> MessageRecord {
    let record = message(channel, sequence, "later");
    let mut decoded = pb::MsgProto::decode(record.encoded).unwrap();
    decoded.timestamp += later;
    MessageRecord {
        sequence: record.sequence,
        timestamp: WallTime(decoded.timestamp),
        encoded: decoded.encode_to_vec().into(),
    }
}
