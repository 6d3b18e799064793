//! The file store over real directories: what it writes, reads back and removes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "support/stores.rs"]
mod stores;

use std::fs;
use std::time::Duration;

use prost::Message;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::Predecessor;
use stanby::base::id::{ChannelName, ClientId, Sequence, SubscriptionId};
use stanby::base::record::{ClientWrite, Lifecycle, MessageRecord, SubscriptionWrite};
use stanby::base::time::WallTime;
use stanby::proto::{pb, spb};
use stanby::store::Wanted;
use stanby::store::file::FileOptions;

use stores::{NOTHING, START, batch, commit, fetch, now, open, open_as, part, subscription};

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
        SubscriptionWrite::Create(subscription(1).into()),
        SubscriptionWrite::Sent(SubscriptionId(1), Sequence(1)),
        SubscriptionWrite::Sent(SubscriptionId(1), Sequence(2)),
        SubscriptionWrite::Acked(SubscriptionId(1), Sequence(1)),
        SubscriptionWrite::Create(subscription(2).into()),
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

/// Goal: what a share says of itself between two commits is what the next opening finds.
#[test]
fn an_inventory_is_what_opening_finds() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let store = opened.shares[0].as_mut();
    let parts = ["a", "b", "c"].map(|name| part(name, Lifecycle::Create, 1..=5));
    let mut first = batch(parts.into());
    let client = spb::ClientInfo { id: "me".into(), ..spb::ClientInfo::default() };
    first.clients = vec![ClientWrite::Add(client)];
    first.channels[1].subscriptions = vec![
        SubscriptionWrite::Create(subscription(1).into()),
        SubscriptionWrite::Sent(SubscriptionId(1), Sequence(1)),
        SubscriptionWrite::Sent(SubscriptionId(1), Sequence(3)),
    ];
    commit(store, &first);
    let mut later = part("b", Lifecycle::Keep, 6..=7);
    later.subscriptions = vec![SubscriptionWrite::Acked(SubscriptionId(1), Sequence(1))];
    commit(store, &batch(vec![later]));
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let wanted = Wanted::Names { after: after.clone(), count_max: 2 };
        let found = store.inventory(&wanted).unwrap().names;
        let Some(last) = found.last() else { break };
        after = Some(last.clone());
        names.extend(found);
    }
    let mut channel = |name: &ChannelName| store.inventory(&Wanted::Channel(name.clone())).unwrap();
    let channels: Vec<_> = names.iter().map(|name| channel(name).channel.unwrap()).collect();
    assert_eq!(channel(&"nobody".into()).channel, None);
    let clients = store.inventory(&Wanted::Clients).unwrap().clients;
    store.close().unwrap();
    let found = open(root.path()).recovered;
    assert_eq!(channels, found.channels);
    assert_eq!(clients, found.clients);
    assert_eq!(channels[1].subscriptions[0].pending, [Sequence(3)]);
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
    let mut first = batch(vec![part("foo", Lifecycle::Create, NOTHING)]);
    first.channels[0].messages = vec![MessageRecord {
        sequence: Sequence(1),
        timestamp: WallTime(START),
        encoded: record.encode_to_vec().into(),
    }];
    let empty = pb::MsgProto { sequence: 2, data: "".into(), ..record };
    commit(opened.shares[0].as_mut(), &first);
    first.channels[0].lifecycle = Lifecycle::Keep;
    first.channels[0].messages = vec![MessageRecord {
        sequence: Sequence(2),
        timestamp: WallTime(START),
        encoded: empty.encode_to_vec().into(),
    }];
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
    commit(store, &batch(vec![part("foo", Lifecycle::Delete, NOTHING)]));
    assert!(!root.path().join("foo").exists());
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
    assert_eq!(fetch(store, "foo", 0), vec![1, 2]);
}

#[test]
fn after_an_unclean_predecessor_files_are_fresh() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=5)]);
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
    commit(opened.shares[0].as_mut(), &first);
    drop(opened);
    let options = FileOptions::new(root.path());
    let inode = |name: &str| {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(root.path().join(name)).unwrap())
    };
    let old_inode = inode("foo/subs.dat");
    let mut again = open_as(&options, &StoreLimits::default(), Predecessor::Gone).unwrap();
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

/// Rule: a former active appends to no subs.dat that is still read: where a take-over left it,
/// because there were many, the first write to the channel replaces it.
#[test]
fn what_a_take_over_of_many_channels_leaves_is_fresh_with_its_first_write() {
    let root = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let mut opened = open(root.path());
    let mut first = batch(names.iter().map(|name| part(name, Lifecycle::Create, 1..=3)).collect());
    for created in &mut first.channels {
        created.subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
    }
    commit(opened.shares[0].as_mut(), &first);
    drop(opened);
    let inode = |name: &str| {
        let path = root.path().join(name).join("subs.dat");
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
    };
    let old: Vec<u64> = names.iter().map(|name| inode(name)).collect();
    let options = FileOptions::new(root.path());
    let mut again = open_as(&options, &StoreLimits::default(), Predecessor::Gone).unwrap();
    assert_eq!(names.iter().map(|name| inode(name)).collect::<Vec<_>>(), old, "they were left");
    commit(again.shares[0].as_mut(), &batch(vec![part("c3", Lifecycle::Keep, 4..=4)]));
    for (name, old) in names.iter().zip(old) {
        assert_eq!(inode(name) != old, name == "c3", "{name}");
    }
    drop(again);
    let last = open(root.path());
    assert!(last.recovered.channels.iter().all(|found| found.subscriptions.len() == 1));
}

#[test]
fn dead_subscription_records_are_compacted_away() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.compact_bytes_min = 0;
    let mut opened = open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let store = opened.shares[0].as_mut();
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=100)]);
    let sent = |n| SubscriptionWrite::Sent(SubscriptionId(1), Sequence(n));
    let acked = |n| SubscriptionWrite::Acked(SubscriptionId(1), Sequence(n));
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
    first.channels[0].subscriptions.extend((1..=100).map(sent));
    commit(store, &first);
    let path = root.path().join("foo/subs.dat");
    let full = fs::metadata(&path).unwrap().len();
    let mut acks = batch(vec![part("foo", Lifecycle::Keep, NOTHING)]);
    acks.channels[0].subscriptions = (1..=90).map(acked).collect();
    commit(store, &acks);
    let compacted = fs::metadata(&path).unwrap().len();
    assert!(compacted < full / 4, "{compacted} of {full}");
    acks.channels[0].subscriptions = vec![acked(91)];
    commit(store, &acks);
    let found = format_checker::read_store(root.path());
    assert_eq!(found.channels["foo"].pending[&1], (92..=100).collect());
    drop(opened);
    let again = open(root.path());
    let found = &again.recovered.channels[0].subscriptions[0];
    assert_eq!(found.state.last_sent, 100);
    assert_eq!(found.pending.len(), 9);
}

#[test]
fn clients_are_compacted_and_never_lost() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.compact_bytes_min = 0;
    let mut opened = open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let mut change = batch(Vec::new());
    let info = |n: u64| spb::ClientInfo {
        id: format!("client-{n}").into_bytes().into(),
        ..spb::ClientInfo::default()
    };
    change.clients = (0..100).map(|n| ClientWrite::Add(info(n))).collect();
    commit(opened.shares[0].as_mut(), &change);
    let full = fs::metadata(root.path().join("clients.dat")).unwrap().len();
    change.clients = (10..100)
        .map(|n| ClientWrite::Delete(ClientId::from(format!("client-{n}"))))
        .chain([ClientWrite::Delete(ClientId::from("nobody"))])
        .collect();
    commit(opened.shares[0].as_mut(), &change);
    let compacted = fs::metadata(root.path().join("clients.dat")).unwrap().len();
    assert!(compacted < full / 4, "{compacted} of {full}");
    assert_eq!(format_checker::read_store(root.path()).clients.len(), 10);
    assert_eq!(open(root.path()).recovered.clients.len(), 10);
}

#[test]
fn more_channels_than_descriptors_are_served() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.descriptors_max = 20;
    let mut opened = open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let store = opened.shares[0].as_mut();
    let name = |n: u64| format!("channel.{n}");
    commit(store, &batch((0..100).map(|n| part(&name(n), Lifecycle::Create, 1..=3)).collect()));
    commit(store, &batch((0..100).map(|n| part(&name(n), Lifecycle::Keep, 4..=6)).collect()));
    for n in 0..100 {
        assert_eq!(fetch(store, &name(n), 0), vec![1, 2, 3, 4, 5, 6]);
    }
    let open_files = fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
        let target = fs::read_link(entry.as_ref().unwrap().path());
        target.is_ok_and(|target| target.starts_with(root.path()))
    });
    assert!(open_files.count() <= 20);
    assert_eq!(format_checker::read_store(root.path()).channels.len(), 100);
}

#[test]
fn removed_slices_are_archived() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let script = outside.path().join("archive.sh");
    let target = outside.path().join("calls");
    fs::write(&script, format!("#!/bin/sh\necho \"$1 $2 $3\" >> {}\n", target.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = FileOptions::new(root.path());
    options.slice_messages_max = 10;
    options.slice_archive_script = Some(script);
    let mut limits = StoreLimits::default();
    limits.global.messages_max = 5;
    let mut opened = open_as(&options, &limits, Predecessor::Clean).unwrap();
    let store = opened.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=15)]));
    // A busy machine may not even have begun it when the store is closed.
    for _ in 0..2_000 {
        if !fs::read(&target).unwrap_or_default().is_empty() {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    store.close().unwrap();
    let path = |name: &str| root.path().join("foo").join(name).display().to_string();
    let expected = format!("foo {} {}\n", path("msgs.1.dat.bak"), path("msgs.1.idx.bak"));
    assert_eq!(fs::read_to_string(&target).unwrap(), expected);
    assert!(root.path().join("foo/msgs.1.dat.bak").exists());
}

/// Goal: nobody waits for a script that hangs, or for a program that it has left behind: who closes
/// the store is about to let go of the lease.
#[test]
fn a_script_that_hangs_holds_nobody_up() {
    use std::os::unix::fs::PermissionsExt;
    for text in ["sleep 20; touch $1.ended", "(sleep 20; touch $1.ended) & exit 0"] {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let script = outside.path().join("archive.sh");
        let text = format!("#!/bin/sh\ncd {}\n{text}\n", outside.path().display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut options = FileOptions::new(root.path());
        options.slice_messages_max = 10;
        options.slice_archive_script = Some(script);
        let mut limits = StoreLimits::default();
        limits.global.messages_max = 5;
        let mut opened = open_as(&options, &limits, Predecessor::Clean).unwrap();
        let store = opened.shares[0].as_mut();
        commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=15)]));
        store.close().unwrap();
        assert!(!outside.path().join("foo.ended").exists());
    }
}

/// Goal: each loop's share writes its own channels; clients are shared by all.
#[test]
fn several_shares_write_one_store() {
    use stanby::base::epoch::{Epoch, Unfenced};
    use stanby::base::placement;
    use stanby::store::file;
    let root = tempfile::tempdir().unwrap();
    let options = FileOptions::new(root.path());
    let limits = StoreLimits::default();
    let fence = std::sync::Arc::new(Unfenced);
    let mut opened = file::open(&options, &limits, fence, Predecessor::Clean, 4, now(1)).unwrap();
    std::thread::scope(|scope| {
        for (index, share) in opened.shares.iter_mut().enumerate() {
            scope.spawn(move || {
                let is_home = |name: &String| {
                    placement::of_channel(&ChannelName::from(name.as_str()), 4).index() == index
                };
                let names = (0..40).map(|n| format!("channel.{n}")).filter(is_home);
                for name in names {
                    let mut change = batch(vec![part(&name, Lifecycle::Create, 1..=4)]);
                    change.clients = vec![ClientWrite::Add(spb::ClientInfo {
                        id: name.replace('.', "-").into_bytes().into(),
                        ..spb::ClientInfo::default()
                    })];
                    let report = share.commit(Epoch(1), &change).unwrap();
                    assert_eq!(report.channels[0].refused, None);
                    share.close().unwrap();
                }
            });
        }
    });
    drop(opened);
    let found = format_checker::read_store(root.path());
    assert_eq!((found.channels.len(), found.clients.len()), (40, 40));
    let again = open(root.path());
    assert_eq!(again.recovered.channels.len(), 40);
    assert!(again.recovered.channels.iter().all(|c| c.state.last == Sequence(4)));
}
