//! The file store over real directories: what it writes, reads back, repairs and refuses.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Predecessor, Unfenced};
use stanby::base::id::{ChannelName, ClientId, Sequence, SubscriptionId, Ticket};
use stanby::base::record::{
    Batch, ChannelBatch, ClientWrite, CommitReport, FetchRequest, Lifecycle, MessageRecord,
    SubscriptionWrite,
};
use stanby::base::time::{Instant, Now, WallTime};
use stanby::proto::{pb, spb};
use stanby::store::file::{self, FileOptions};
use stanby::store::{Opened, Store, StoreError};

use prost::Message;

const START: i64 = 1_700_000_000_000_000_000;

fn now(seconds: u64) -> Now {
    let nanos = seconds * 1_000_000_000;
    Now { at: Instant(nanos), wall: WallTime(START + i64::try_from(nanos).unwrap()) }
}

fn message(channel: &str, sequence: u64, data: &str) -> MessageRecord {
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

fn part(
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
        subscriptions: Vec::new(),
    }
}

fn batch(channels: Vec<ChannelBatch>) -> Batch {
    Batch { channels, durable: true, ..Batch::default() }
}

fn open_as(
    options: &FileOptions,
    limits: &StoreLimits,
    predecessor: Predecessor,
) -> Result<Opened, StoreError> {
    file::prepare(options)?;
    file::open(options, limits, Arc::new(Unfenced), predecessor, 1, now(1))
}

fn open(root: &Path) -> Opened {
    open_as(&FileOptions::new(root), &StoreLimits::default(), Predecessor::Clean).unwrap()
}

fn commit(store: &mut dyn Store, batch: &Batch) -> CommitReport {
    let report = store.commit(Epoch(1), batch).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
    report
}

fn fetch(store: &mut dyn Store, channel: &str, from: u64) -> Vec<u64> {
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
            found.push(decoded.sequence);
        }
    }
}

fn subscription(id: u64) -> spb::SubState {
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

#[test]
fn what_was_committed_is_recovered() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    assert_eq!(opened.recovered.server, None);
    let store = &mut opened.shares[0];
    let mut first =
        batch(vec![part("foo", Lifecycle::Create, 1..=20), part("bar", Lifecycle::Create, 1..=3)]);
    first.server = Some(spb::ServerInfo { cluster_id: "c".into(), ..spb::ServerInfo::default() });
    first.clients = vec![
        ClientWrite::Add(spb::ClientInfo { id: "me".into(), ..spb::ClientInfo::default() }),
        ClientWrite::Add(spb::ClientInfo { id: "you".into(), ..spb::ClientInfo::default() }),
        ClientWrite::Delete(ClientId::from("me")),
    ];
    first.channels[0].subscriptions = vec![
        SubscriptionWrite::Create(subscription(1)),
        SubscriptionWrite::Sent(SubscriptionId(1), Sequence(1)),
        SubscriptionWrite::Sent(SubscriptionId(1), Sequence(2)),
        SubscriptionWrite::Acked(SubscriptionId(1), Sequence(1)),
        SubscriptionWrite::Create(subscription(2)),
        SubscriptionWrite::Delete(SubscriptionId(2)),
    ];
    commit(store.as_mut(), &first);
    assert_eq!(fetch(store.as_mut(), "foo", 1), (1..=20).collect::<Vec<_>>());
    store.close().unwrap();
    let mut again = open(root.path());
    assert!(again.notices.is_empty(), "{:?}", again.notices);
    assert_eq!(again.recovered.server.as_ref().unwrap().cluster_id, "c");
    assert_eq!(again.recovered.clients.len(), 1);
    let foo =
        again.recovered.channels.iter().find(|c| c.channel == ChannelName::from("foo")).unwrap();
    assert_eq!((foo.state.first, foo.state.last), (Sequence(1), Sequence(20)));
    assert_eq!(foo.state.message_count, 20);
    assert_eq!(foo.last_timestamp, WallTime(START + 20));
    assert_eq!(foo.subscriptions.len(), 1);
    assert_eq!(foo.subscriptions[0].pending, vec![Sequence(2)]);
    assert_eq!(foo.subscriptions[0].state.last_sent, 2);
    assert_eq!(foo.subscription_id_max, SubscriptionId(2));
    let store = again.shares[0].as_mut();
    assert_eq!(fetch(store, "foo", 18), vec![18, 19, 20]);
    commit(store, &batch(vec![part("foo", Lifecycle::Keep, 21..=22)]));
    assert_eq!(fetch(store, "foo", 20), vec![20, 21, 22]);
    assert!(root.path().join("foo/msgs.1.dat").exists());
    assert!(!root.path().join("foo/msgs.2.dat").exists(), "a clean predecessor's slice goes on");
}

#[test]
fn the_bytes_are_those_of_the_reference() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let record = pb::MsgProto {
        sequence: 1,
        subject: "foo".into(),
        data: "hello".into(),
        timestamp: START,
        ..pb::MsgProto::default()
    };
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=0)]);
    first.channels[0].messages = vec![MessageRecord {
        sequence: Sequence(1),
        timestamp: WallTime(START),
        encoded: record.encode_to_vec().into(),
    }];
    let mut third = message("foo", 3, "x");
    third.timestamp = WallTime(START);
    commit(opened.shares[0].as_mut(), &first);
    first.channels[0].lifecycle = Lifecycle::Keep;
    first.channels[0].messages = vec![third];
    commit(opened.shares[0].as_mut(), &first);
    let data = fs::read(root.path().join("foo/msgs.1.dat")).unwrap();
    let index = fs::read(root.path().join("foo/msgs.1.idx")).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(
        hex(&data[..61]),
        "01000000\
         1800000041bda5ba08011203666f6f220568656c6c6f288080a8b1e39fe7cb17\
         11000000b39e374e08021203666f6f288080a8b1e39fe7cb17"
    );
    assert_eq!(
        hex(&index[..68]),
        "01000000\
         010000000000000004000000000000000000\
         2a36fe9c971718000000c543fb4f\
         0200000000000000240000000000000000002a36fe9c971711000000635bd12a"
    );
}

#[test]
fn old_messages_go_with_their_slices() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.slice_messages_max = 10;
    let mut limits = StoreLimits::default();
    limits.global.messages_max = 25;
    limits.global.age_max = Duration::from_secs(100);
    let mut opened = open_as(&options, &limits, Predecessor::Clean).unwrap();
    let store = opened.shares[0].as_mut();
    let report = commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=47)]));
    let state = report.channels[0].state;
    assert_eq!((state.first, state.last, state.message_count), (Sequence(23), Sequence(47), 25));
    assert_eq!(fetch(store, "foo", 0), (23..=47).collect::<Vec<_>>());
    assert!(!root.path().join("foo/msgs.2.dat").exists());
    assert!(root.path().join("foo/msgs.3.dat").exists());
    assert_eq!(
        store.find_time(&ChannelName::from("foo"), WallTime(START + 30)).unwrap(),
        Sequence(30)
    );
    assert_eq!(store.find_time(&ChannelName::from("foo"), WallTime(0)).unwrap(), Sequence(23));
    assert_eq!(
        store.find_time(&ChannelName::from("foo"), WallTime(i64::MAX)).unwrap(),
        Sequence(48)
    );
    let kept = store.maintain(now(50)).unwrap();
    assert!(kept.trimmed.is_empty());
    let trimmed = store.maintain(now(101)).unwrap().trimmed;
    let state = trimmed[0].1;
    assert_eq!(
        (state.first, state.last, state.message_count, state.byte_count),
        (Sequence(48), Sequence(47), 0, 0)
    );
    assert_eq!(fetch(store, "foo", 0), Vec::<u64>::new());
    store.close().unwrap();
    assert!(root.path().join("foo/msgs.5.dat").exists(), "the last slice keeps the sequence");
    let again = open_as(&options, &limits, Predecessor::Clean).unwrap();
    assert_eq!(again.recovered.channels[0].state.last, Sequence(47));
}

#[test]
fn a_deleted_channel_is_gone_and_can_be_made_again() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let store = opened.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
    commit(store, &batch(vec![part("foo", Lifecycle::Delete, 1..=0)]));
    assert!(!root.path().join("foo").exists());
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
    assert_eq!(fetch(store, "foo", 0), vec![1, 2]);
}

#[test]
fn after_an_unclean_predecessor_files_are_fresh() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=5)]);
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1))];
    commit(opened.shares[0].as_mut(), &first);
    drop(opened);
    let options = FileOptions::new(root.path());
    let mut again = open_as(&options, &StoreLimits::default(), Predecessor::Gone).unwrap();
    let inode = |name: &str| {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(root.path().join(name)).unwrap())
    };
    let old_inode = inode("foo/subs.dat");
    let store = again.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Keep, 6..=7)]));
    assert_ne!(inode("foo/subs.dat"), old_inode);
    assert!(root.path().join("foo/msgs.1001.dat").exists());
    assert_eq!(fetch(store, "foo", 0), (1..=7).collect::<Vec<_>>());
    drop(again);
    let last = open(root.path());
    assert_eq!(last.recovered.channels[0].state.message_count, 7);
    assert_eq!(last.recovered.channels[0].subscriptions.len(), 1);
}
