//! Directories that the reference wrote open as their manifests say.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/folders.rs"]
mod folders;
#[path = "support/format_checker.rs"]
mod format_checker;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use serde_json::Value;

use stanby::base::channel_limits::{ChannelLimits, StoreLimits};
use stanby::base::encryption::{Cipher, Secret, StoreKey};
use stanby::base::epoch::{Epoch, Predecessor, Unfenced};
use stanby::base::id::{ChannelName, Sequence, Ticket};
use stanby::base::record::{Batch, ChannelBatch, FetchRequest, MessageRecord, RecoveredChannel};
use stanby::base::time::{Instant, Now, WallTime};
use stanby::proto::pb;
use stanby::store::encryption;
use stanby::store::file::{self, FileOptions};
use stanby::store::{Opened, Store, StoreError};

const NOW: Now = Now { at: Instant(1), wall: WallTime(1_900_000_000_000_000_000) };

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores").join(name)
}

fn manifest(name: &str) -> Value {
    serde_json::from_slice(&fs::read(data(&format!("{name}.json"))).unwrap()).unwrap()
}

/// A copy that the test may change.
fn copy(name: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    folders::copy(&data(name), root.path());
    root
}

fn unlimited() -> StoreLimits {
    StoreLimits {
        channels_max: 0,
        global: ChannelLimits {
            messages_max: 0,
            bytes_max: 0,
            age_max: Duration::ZERO,
            subscriptions_max: 0,
            inactivity_max: Duration::ZERO,
        },
        per_channel: BTreeMap::new(),
        ..StoreLimits::default()
    }
}

fn open(root: &Path, options: impl FnOnce(&mut FileOptions)) -> Result<Opened, StoreError> {
    let mut given = FileOptions::new(root);
    options(&mut given);
    file::prepare(&given)?;
    file::open(&given, &unlimited(), Arc::new(Unfenced), Predecessor::Gone, 1, NOW)
}

/// Opens what lies in `root` with the key of its manifest.
fn open_encrypted(root: &Path, manifest: &Value) -> Opened {
    let key = Secret::new(text(&manifest["key"]).to_vec());
    let opened = open(root, |_| ()).unwrap();
    encryption::around(opened, &StoreKey::of(&key, Cipher::Aes), 1)
}

fn text(value: &Value) -> &[u8] {
    value.as_str().unwrap().as_bytes()
}

fn fetch_all(store: &mut dyn Store, channel: &ChannelName) -> Vec<(MessageRecord, pb::MsgProto)> {
    let mut found = Vec::new();
    let mut from = Sequence(0);
    loop {
        let request = FetchRequest {
            ticket: Ticket(0),
            channel: channel.clone(),
            from,
            count_max: 100,
            bytes_max: 10_000,
        };
        let messages = store.fetch(&request).unwrap();
        let Some(last) = messages.last() else { return found };
        from = last.sequence.next();
        for message in messages {
            let decoded = pb::MsgProto::decode(message.encoded.clone()).unwrap();
            found.push((message, decoded));
        }
    }
}

/// The payload that the recorder published (fixtures, payload rule).
fn payload(channel: &str, sequence: u64, params: &Value) -> Option<Vec<u8>> {
    let base = params.get(0)?.as_u64()?;
    let modulus = params.get(1)?.as_u64()?;
    let prefix = format!("{channel}:{sequence}:").into_bytes();
    let added = if modulus == 0 { 0 } else { sequence % modulus };
    let len = usize::try_from(base + added).unwrap().max(prefix.len());
    let filler = (0..).map(|i| b'a' + u8::try_from((sequence + i) % 26).unwrap());
    Some(prefix.iter().copied().chain(filler).take(len).collect())
}

fn check_subscriptions(found: &RecoveredChannel, expected: &Value) {
    let expected = expected.as_array().unwrap();
    assert_eq!(found.subscriptions.len(), expected.len(), "{}", found.channel);
    for (found, expected) in found.subscriptions.iter().zip(expected) {
        let state = &found.state;
        assert_eq!(state.id, expected["id"].as_u64().unwrap());
        assert_eq!(state.client_id, text(&expected["client_id"]));
        assert_eq!(state.inbox, text(&expected["inbox"]));
        assert_eq!(state.ack_inbox, text(&expected["ack_inbox"]));
        assert_eq!(state.q_group, text(&expected["qgroup"]));
        assert_eq!(state.durable_name, text(&expected["durable_name"]));
        assert_eq!(i64::from(state.ack_wait_in_secs), expected["ack_wait_secs"].as_i64().unwrap());
        assert_eq!(i64::from(state.max_in_flight), expected["max_in_flight"].as_i64().unwrap());
        assert_eq!(state.is_durable, expected["is_durable"].as_bool().unwrap());
        assert_eq!(state.is_closed, expected["is_closed"].as_bool().unwrap());
        assert_eq!(state.last_sent, expected["last_sent"].as_u64().unwrap(), "sub {}", state.id);
        let pending: Vec<u64> = found.pending.iter().map(|sequence| sequence.get()).collect();
        let wanted = expected["pending"].as_array();
        let wanted: Vec<u64> =
            wanted.map_or(Vec::new(), |all| all.iter().map(|one| one.as_u64().unwrap()).collect());
        assert_eq!(pending, wanted, "pending of {}", state.id);
    }
}

/// Compares every fact of the manifest; `unreadable` messages are counted but not given.
fn check_facts(opened: &mut Opened, manifest: &Value, unreadable: &[(&str, u64)]) {
    let server = opened.recovered.server.as_ref().unwrap();
    assert_eq!(server.cluster_id, text(&manifest["server_info"]["ClusterID"]));
    assert_eq!(server.acks_subs, text(&manifest["server_info"]["AcksSubs"]));
    let mut clients: Vec<_> = opened.recovered.clients.iter().map(|c| c.id.to_vec()).collect();
    clients.sort();
    let mut wanted: Vec<_> =
        manifest["clients"].as_array().unwrap().iter().map(|c| text(&c["id"]).to_vec()).collect();
    wanted.sort();
    assert_eq!(clients, wanted);
    for client in manifest["clients"].as_array().unwrap() {
        let found = opened.recovered.clients.iter().find(|c| c.id == text(&client["id"])).unwrap();
        assert_eq!(found.hb_inbox, text(&client["hb_inbox"]));
        assert_eq!(found.conn_id, text(&client["conn_id"]));
        assert_eq!(i64::from(found.protocol), client["protocol"].as_i64().unwrap());
        assert_eq!(i64::from(found.ping_interval), client["ping_interval"].as_i64().unwrap());
        assert_eq!(i64::from(found.ping_max_out), client["ping_max_out"].as_i64().unwrap());
    }
    let channels = manifest["channels"].as_object().unwrap();
    assert_eq!(opened.recovered.channels.len(), channels.len());
    for (name, expected) in channels {
        let key = ChannelName::from(name.as_str());
        let found = opened.recovered.channels.iter().find(|c| c.channel == key).unwrap();
        let state = found.state;
        assert_eq!(state.first.get(), expected["first"].as_u64().unwrap(), "{name}");
        assert_eq!(state.last.get(), expected["last"].as_u64().unwrap(), "{name}");
        assert_eq!(state.message_count, expected["count"].as_u64().unwrap(), "{name}");
        assert_eq!(state.byte_count, expected["bytes"].as_u64().unwrap(), "{name}");
        check_subscriptions(found, &expected["subscriptions"]);
        let messages = fetch_all(opened.shares[0].as_mut(), &key);
        let wanted: Vec<_> = expected["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|m| !unreadable.contains(&(name.as_str(), m[0].as_u64().unwrap())))
            .collect();
        assert_eq!(messages.len(), wanted.len(), "{name}");
        for ((record, message), wanted) in messages.iter().zip(wanted) {
            assert_eq!(message.sequence, wanted[0].as_u64().unwrap(), "{name}");
            assert_eq!(record.sequence.get(), message.sequence);
            assert_eq!(message.timestamp, wanted[1].as_i64().unwrap(), "{name}");
            assert_eq!(record.timestamp.0, message.timestamp);
            assert_eq!(message.data.len() as u64, wanted[2].as_u64().unwrap(), "{name}");
            if let Some(data) = payload(name, message.sequence, &manifest["payload_params"][name]) {
                assert_eq!(message.data, data, "{name} {}", message.sequence);
            }
        }
    }
}

/// Publishes one more message to each channel and reads the directory by the format's rules.
fn check_goes_on(opened: &mut Opened, root: &Path, has_damage: bool) {
    let channels: Vec<ChannelBatch> = opened
        .recovered
        .channels
        .iter()
        .map(|found| {
            let sequence = found.state.last.next();
            let message = pb::MsgProto {
                sequence: sequence.get(),
                subject: found.channel.to_bytes(),
                data: "one more".into(),
                timestamp: NOW.wall.0,
                ..pb::MsgProto::default()
            };
            let encoded = message.encode_to_vec().into();
            ChannelBatch {
                channel: found.channel.clone(),
                messages: vec![MessageRecord { sequence, timestamp: NOW.wall, encoded }],
                ..ChannelBatch::default()
            }
        })
        .collect();
    let batch = Batch { channels, durable: true, ..Batch::default() };
    let report = opened.shares[0].commit(Epoch(1), &batch).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
    if has_damage {
        return;
    }
    let store = format_checker::read_store(root);
    for outcome in report.channels {
        let found = &store.channels[&outcome.channel.to_string()];
        assert_eq!(found.messages.last().unwrap().sequence, outcome.state.last.get());
        assert_eq!(found.messages.len() as u64, outcome.state.message_count);
    }
}

fn check(name: &str) {
    let (root, manifest) = (copy(name), manifest(name));
    let mut opened = open(root.path(), |_| ()).unwrap();
    assert!(opened.notices.is_empty(), "{name}: {:?}", opened.notices);
    check_facts(&mut opened, &manifest, &[]);
    check_goes_on(&mut opened, root.path(), false);
}

/// Opens a damaged store; gives the lines for the operator. A second start has nothing to say.
fn check_repaired(name: &str) -> Vec<String> {
    let (root, manifest) = (copy(name), manifest(name));
    let opened = open(root.path(), |_| ()).unwrap();
    let lines = opened.notices.iter().map(|notice| notice.text.clone()).collect();
    drop(opened);
    let mut opened = open(root.path(), |_| ()).unwrap();
    assert!(opened.notices.is_empty(), "{name}: {:?}", opened.notices);
    check_facts(&mut opened, &manifest, &[]);
    check_goes_on(&mut opened, root.path(), false);
    lines
}

#[test]
fn plain_stores_open_as_recorded() {
    for name in ["a-simple", "b-durables", "j-ftgroup", "k-inactivity", "e-killed"] {
        check(name);
    }
}

#[test]
fn slices_open_as_recorded() {
    check("c-slices");
}

#[test]
fn expired_messages_come_back_without_a_limit_and_go_with_it() {
    check("g-allexpired");
    let root = copy("g-allexpired");
    let mut limits = unlimited();
    limits.global.age_max = Duration::from_secs(1);
    let options = FileOptions::new(root.path());
    let opened =
        file::open(&options, &limits, Arc::new(Unfenced), Predecessor::Clean, 1, NOW).unwrap();
    let gone = opened.recovered.channels.iter().find(|c| c.channel == ChannelName::from("gone"));
    let state = gone.unwrap().state;
    assert_eq!((state.first.get(), state.last.get()), (101, 100));
    assert_eq!((state.message_count, state.byte_count), (0, 0));
}

#[test]
fn a_store_written_without_checks_opens_with_and_without_them() {
    check("f-nocrc");
    let root = copy("f-nocrc");
    let mut opened = open(root.path(), |options| options.crc = false).unwrap();
    check_facts(&mut opened, &manifest("f-nocrc"), &[]);
}

#[test]
fn without_their_indexes_stores_open_the_same() {
    for name in ["b-durables", "c-slices"] {
        let root = copy(name);
        for entry in fs::read_dir(root.path()).unwrap() {
            let folder = entry.unwrap().path();
            for file in fs::read_dir(&folder).into_iter().flatten() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "idx") {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        let mut opened = open(root.path(), |_| ()).unwrap();
        assert!(opened.notices.is_empty(), "{:?}", opened.notices);
        check_facts(&mut opened, &manifest(name), &[]);
        check_goes_on(&mut opened, root.path(), false);
    }
}

#[test]
fn an_encrypted_store_opens_as_its_manifest_says() {
    let (root, manifest) = (copy("d-encrypted-aes"), manifest("d-encrypted-aes"));
    let mut opened = open_encrypted(root.path(), &manifest);
    assert_eq!(encryption::notice::notice(&opened.recovered.channels, &mut opened.shares), None);
    check_facts(&mut opened, &manifest, &[]);
    check_goes_on(&mut opened, root.path(), false);
    for file in fs::read_dir(root.path().join("orders")).unwrap() {
        let stored = fs::read(file.unwrap().path()).unwrap();
        assert!(!stored.windows(8).any(|part| part == b"one more"), "it is stored encrypted");
    }
    let mut opened = open_encrypted(root.path(), &manifest);
    let messages = fetch_all(opened.shares[0].as_mut(), &ChannelName::from("orders"));
    assert_eq!(messages.last().unwrap().1.data, "one more");
}

#[test]
fn torn_tails_are_cut_and_named() {
    let check = |name: &str, file: &str, doubt: &str| {
        let lines = check_repaired(name);
        let line = lines.last().unwrap();
        assert!(line.contains(file) && line.contains("has been truncated to offset"), "{line}");
        assert!(line.contains(doubt), "{line}");
    };
    check(
        "e3-cut-msgs-dat",
        "orders/msgs.1.dat",
        "an acknowledged message may have been among them",
    );
    check("e5-cut-subs", "orders/subs.dat", "kept in");
    check("e6-cut-clients", "clients.dat", "kept in");
    check("e9-enospc-torn", "torn/msgs.1.dat", "none was acknowledged");
}

#[test]
fn a_corrupt_message_is_passed_over_and_left() {
    let (root, manifest) = (copy("e7-corrupt-msg"), manifest("e7-corrupt-msg"));
    let before = fs::read(root.path().join("orders/msgs.1.dat")).unwrap();
    let damaged = damaged_sequence(&before);
    let mut opened = open(root.path(), |_| ()).unwrap();
    check_facts(&mut opened, &manifest, &[("orders", damaged)]);
    check_goes_on(&mut opened, root.path(), true);
    assert_eq!(fs::read(root.path().join("orders/msgs.1.dat")).unwrap(), before);
}

/// The message that byte 5832 belongs to.
fn damaged_sequence(data: &[u8]) -> u64 {
    let (mut at, mut sequence) = (4, 1);
    loop {
        let size = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
        let end = at + 8 + usize::try_from(size).unwrap();
        if 5832 < end {
            return sequence;
        }
        (at, sequence) = (end, sequence + 1);
    }
}

#[test]
fn a_cut_server_record_is_refused_in_the_references_words() {
    let root = copy("e8-cut-server");
    let error = open(root.path(), |_| ()).err().unwrap().to_string();
    let path = root.path().join("server.dat");
    assert_eq!(error, format!("unable to recover server file {path:?}: unexpected EOF"));
}

/// Goal: what the lost index described is found; what it never described gives way to it.
#[test]
fn every_message_that_can_be_proved_survives_orphans_without_an_index() {
    let root = copy("e11-orphans-noindex");
    let mut opened = open(root.path(), |_| ()).unwrap();
    assert!(opened.notices.iter().any(|notice| notice.text.contains("bytes 212849 to 212992")));
    let state = opened.recovered.channels[0].state;
    assert_eq!(state.first, Sequence(1));
    let torn = ChannelName::from("torn");
    let messages = fetch_all(opened.shares[0].as_mut(), &torn);
    let sequences: Vec<u64> = messages.iter().map(|(_, message)| message.sequence).collect();
    assert_eq!(sequences, (1..=state.last.get()).collect::<Vec<_>>());
    assert!(1025 < state.last.get());
    // The orphans under 1026 and so on were never acknowledged; the later records were.
    let data = fs::read(data("e11-orphans-noindex").join("torn/msgs.1.dat")).unwrap();
    for (_, message) in &messages[1025..] {
        let encoded = message.encode_to_vec();
        let at = data.windows(encoded.len()).rposition(|window| window == encoded).unwrap();
        assert!(212_992 <= at, "{} comes from behind the tear", message.sequence);
    }
    let opened = open(root.path(), |_| ()).unwrap();
    assert!(opened.notices.is_empty(), "{:?}", opened.notices);
    assert_eq!(opened.recovered.channels[0].state, state);
}
