//! `stanby check --repair` over damaged stores of the Go server.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/folders.rs"]
mod folders;
#[path = "support/stores.rs"]
mod stores;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Predecessor, Unfenced};
use stanby::base::random::Random;
use stanby::base::record::{Lifecycle, SubscriptionWrite};
use stanby::proto::spb;
use stanby::store::check::{self, Change, Finding, MendError, Mender, Report, Rules, Weight};
use stanby::store::file::FileOptions;
use stanby::store::file::format::{Crc, IndexRecord, VERSION_HEADER};

use folders::copy;
use stores::{batch, commit, fetch_whole, open, open_as, part, subscription};

fn look(root: &Path) -> Report {
    check::directory(root, Rules::default(), &mut |_| ()).unwrap()
}

fn mend(root: &Path) -> Result<Vec<Change>, MendError> {
    let mut mender = Mender { fence: &Unfenced, confirm: &mut || Ok(()), say: &mut |_| () };
    check::mend(&look(root), Rules::default(), &mut mender)
}

/// Every file with what is in it, by its path below the root.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_owned();
        (name, fs::read(path).unwrap())
    };
    folders::files(root).into_iter().map(named).collect()
}

type Messages = BTreeMap<(String, u64), (i64, Bytes)>;

/// All messages, as a start reads them from a copy of the directory.
fn messages(root: &Path) -> Messages {
    let folder = tempfile::tempdir().unwrap();
    copy(root, folder.path());
    let mut opened = open(folder.path());
    let mut found = BTreeMap::new();
    for channel in opened.recovered.channels {
        let name = channel.channel.to_string();
        for message in fetch_whole(opened.shares[0].as_mut(), &name, channel.state.first.0) {
            found.insert((name.clone(), message.sequence), (message.timestamp, message.data));
        }
    }
    found
}

/// A store with durables, clients and several channels, as the Go server left it.
fn recorded(root: &Path) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores/b-durables"), root);
}

/// A channel of 30 messages in slices of 10, with a durable that got 25 of them.
fn sliced(root: &Path) {
    let options = FileOptions { slice_messages_max: 10, ..FileOptions::new(root) };
    let mut opened = open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=10)]);
    let state = spb::SubState { last_sent: 25, ..subscription(1) };
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(state.into())];
    first.server = Some(spb::ServerInfo { cluster_id: "c".into(), ..spb::ServerInfo::default() });
    let share = opened.shares[0].as_mut();
    commit(share, &first);
    commit(share, &batch(vec![part("foo", Lifecycle::Keep, 11..=20)]));
    commit(share, &batch(vec![part("foo", Lifecycle::Keep, 21..=30)]));
    share.close().unwrap();
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

/// Damages one file or two; says how many.
fn damage(root: &Path, random: &mut Random) -> usize {
    let names: Vec<PathBuf> = files(root)
        .into_iter()
        .filter(|(name, bytes)| {
            let is_data = name.extension().is_some_and(|end| end == "dat" || end == "idx");
            is_data && !name.to_string_lossy().contains("damaged") && 4 < bytes.len()
        })
        .map(|(name, _)| root.join(name))
        .collect();
    let file = &names[below(random, names.len())];
    let mut bytes = fs::read(file).unwrap();
    match random.below(6) {
        0 | 1 => {
            let at = below(random, bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        2 => bytes.truncate(below(random, bytes.len())),
        3 => {
            let at = below(random, bytes.len());
            let end = (at + 1 + below(random, 600)).min(bytes.len());
            bytes[at..end].fill(0);
        }
        4 => {
            let at = below(random, bytes.len());
            let end = (at + 1 + below(random, 300)).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|byte| *byte = random.below(251).to_le_bytes()[0]);
        }
        _ => {
            let other = &names[below(random, names.len())];
            let others = fs::read(other).unwrap();
            fs::write(other, &bytes).unwrap();
            fs::write(file, others).unwrap();
            return 2;
        }
    }
    fs::write(file, bytes).unwrap();
    1
}

/// Sequences of a channel that a change calls lost.
fn lost(changes: &[Change]) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    for Change { file, what, .. } in changes {
        let named = what.strip_prefix("lost messages: ");
        for range in named.into_iter().flat_map(|named| named.split(", ")) {
            let (first, last) = range.split_once(" to ").unwrap_or((range, range));
            for sequence in first.parse().unwrap()..=last.parse::<u64>().unwrap() {
                found.insert((file.to_string_lossy().replace('/', "."), sequence));
            }
        }
    }
    found
}

/// What must hold of a mended store, whatever was wrong with it.
fn holds(
    root: &Path,
    (whole, damaged): (&Messages, &BTreeMap<PathBuf, Vec<u8>>),
    changes: &[Change],
    is_one: bool,
) {
    let after = look(root);
    assert_eq!(after.start_fails, None, "{changes:?}");
    // Nobody can say what stood in the server's record; a start makes a new one.
    let is_known = |file: &Path| file != Path::new("server.dat");
    let damage = |it: &&Finding| it.weight == Weight::Damage && is_known(&it.file);
    assert_eq!(after.findings.iter().filter(damage).count(), 0, "{after:?} after {changes:?}");
    let (found, lost) = (messages(root), lost(changes));
    for (place, message) in &found {
        match lost.contains(place) {
            true => assert!(message.1.is_empty(), "{place:?}: {changes:?}"),
            false => assert_eq!(Some(message), whole.get(place), "{place:?}: {changes:?}"),
        }
    }
    let is_there = |place: &&(String, u64)| found.contains_key(*place) || lost.contains(*place);
    let silent: Vec<_> = whole.keys().filter(|place| !is_there(place)).collect();
    // Where both files of a slice are damaged, nobody knows what they held.
    assert!(!is_one || silent.is_empty(), "{silent:?}: {changes:?}");
    let kept: BTreeSet<Vec<u8>> = files(root).into_values().collect();
    for (name, bytes) in damaged {
        assert!(kept.contains(bytes), "{} is gone: {changes:?}", name.display());
    }
    assert_eq!(mend(root).unwrap(), [], "it is mended at once");
}

/// Goal: after any damage of one or of several files a start serves, each message is there bit by
/// bit or was named as lost, and each file that was replaced is kept.
#[test]
fn whatever_is_damaged_a_mended_store_starts_and_lacks_what_was_named() {
    let mut random = Random::new(30_112_026);
    for round in 0..100 {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        if round % 2 == 0 {
            recorded(&root)
        } else {
            sliced(&root)
        }
        let whole = messages(&root);
        let times = 1 + random.below(3);
        let count: usize = (0..times).map(|_| damage(&root, &mut random)).sum();
        let damaged = files(&root);
        let report = look(&root);
        if !report.is_damaged() && !report.needs_start() {
            assert_eq!(mend(&root).unwrap(), [], "round {round}");
            continue;
        }
        let changes = mend(&root).unwrap();
        holds(&root, (&whole, &damaged), &changes, count == 1);
    }
}

/// Goal: what is lost is exactly what was damaged, and the sequences go on.
#[test]
fn a_damaged_message_costs_itself_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    sliced(root);
    let whole = messages(root);
    let file = root.join("foo/msgs.2.dat");
    let mut bytes = fs::read(&file).unwrap();
    bytes[14] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let damaged = files(root);
    let changes = mend(root).unwrap();
    assert_eq!(lost(&changes), BTreeSet::from([("foo".to_owned(), 11)]), "{changes:?}");
    holds(root, (&whole, &damaged), &changes, true);
    assert_eq!(messages(root).len(), 30);
    assert_eq!(fs::read(root.join("foo/damaged.1.msgs.2.dat")).unwrap(), bytes);
}

/// Goal: messages that are gone at the end keep their numbers, so that nobody is given them again.
#[test]
fn a_channel_that_has_lost_its_end_goes_on_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    sliced(root);
    fs::remove_file(root.join("foo/msgs.3.dat")).unwrap();
    fs::remove_file(root.join("foo/msgs.3.idx")).unwrap();
    let changes = mend(root).unwrap();
    let named: BTreeSet<u64> = lost(&changes).into_iter().map(|(_, sequence)| sequence).collect();
    assert_eq!(named, (21..=25).collect(), "{changes:?}");
    assert_eq!(open(root).recovered.channels[0].state.last.0, 25);
}

/// Goal: a purge that names a message behind the last one tells that some are missing, and none of
/// their numbers is given out again.
#[test]
fn a_purge_beyond_the_end_keeps_the_numbers() {
    for name in ["purged.29", "emptied.30"] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        sliced(root);
        fs::write(root.join("foo").join(name), "").unwrap();
        fs::remove_file(root.join("foo/msgs.3.dat")).unwrap();
        fs::remove_file(root.join("foo/msgs.3.idx")).unwrap();
        let report = look(root);
        let file = Path::new("foo").join(name);
        let is_it = |found: &&Finding| found.file == file && found.weight == Weight::Damage;
        assert!(report.findings.iter().any(|found| is_it(&found)), "{report:?}");
        let changes = mend(root).unwrap();
        let last = name.split_once('.').unwrap().1.parse().unwrap();
        let named: BTreeSet<u64> = lost(&changes).into_iter().map(|(_, at)| at).collect();
        assert_eq!(named, (21..=last).collect(), "{changes:?}");
        assert_eq!(open(root).recovered.channels[0].state.last.0, last);
    }
}

/// Goal: an index that is another slice's, or a number that only one of both files says where there
/// are no checksums, makes nothing of a message that is there.
#[test]
fn who_says_something_else_than_the_data_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    sliced(root);
    let whole = messages(root);
    // Three times the messages, and all at other times.
    let mut rows = VERSION_HEADER.to_vec();
    let usual = Crc::new(Crc::IEEE);
    for sequence in 1..=90 {
        IndexRecord { sequence, offset: 4 + sequence * 40, timestamp: 7, size: 32 }
            .encode(&mut rows, &usual);
    }
    fs::write(root.join("foo/msgs.3.idx"), &rows).unwrap();
    fs::write(root.join("foo/msgs.1.idx"), rows).unwrap();
    let changes = mend(root).unwrap();
    assert_eq!(lost(&changes), BTreeSet::new(), "{changes:?}");
    assert_eq!(messages(root), whole);
    // Message 13 says that it is 5.
    let file = root.join("foo/msgs.2.dat");
    let mut bytes = fs::read(&file).unwrap();
    let record_len = (bytes.len() - 4) / 10;
    let at = 4 + 2 * record_len + 8 + 1;
    assert_eq!(bytes[at], 13);
    bytes[at] = 5;
    fs::write(&file, bytes).unwrap();
    let rules = Rules::without_checksums();
    let report = check::directory(root, rules, &mut |_| ()).unwrap();
    let mut mender = Mender { fence: &Unfenced, confirm: &mut || Ok(()), say: &mut |_| () };
    let changes = check::mend(&report, rules, &mut mender).unwrap();
    assert_eq!(lost(&changes), BTreeSet::from([("foo".to_owned(), 13)]), "{changes:?}");
    let found = messages(root);
    for (place, message) in whole.iter().filter(|((_, sequence), _)| *sequence != 13) {
        assert_eq!(found.get(place), Some(message), "{place:?}");
    }
}

/// Goal: counts of deliveries are looked at record by record, and those that can be proved stay.
#[test]
fn counts_of_deliveries_are_looked_at_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    sliced(root);
    let file = root.join(".stanby.deliveries.1.1.0");
    let record = |number: u8| {
        let mut bytes = vec![number; 52];
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    };
    let whole = [b"stanby#1".to_vec(), record(1), record(2), record(3)].concat();
    fs::write(&file, &whole).unwrap();
    let weights = || {
        let of_file = look(root).findings.into_iter();
        let of_file = of_file.filter(|found| found.file == Path::new(".stanby.deliveries.1.1.0"));
        of_file.map(|found| (found.weight, found.offset)).collect::<Vec<_>>()
    };
    assert_eq!(weights(), []);
    fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    assert_eq!(weights(), [(Weight::Mended, Some(120))]);
    let without_a_byte = [&whole[..80], &whole[81..]].concat();
    for (damaged, at, kept) in [
        (without_a_byte, 64, [record(1), record(3)].concat()),
        ([b"stanby#2".to_vec(), whole[8..].to_vec()].concat(), 0, whole[8..].to_vec()),
        ([whole.clone(), vec![7; 60]].concat(), 176, whole[8..].to_vec()),
    ] {
        fs::write(&file, &damaged).unwrap();
        assert_eq!(weights(), [(Weight::Damage, Some(at))]);
        let changes = mend(root).unwrap();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(fs::read(&file).unwrap(), [b"stanby#1".to_vec(), kept].concat());
        assert_eq!(weights(), []);
        assert!(files(root).into_values().any(|bytes| bytes == damaged), "{changes:?}");
    }
}

/// Goal: nothing is changed where that would make things worse.
#[test]
fn a_store_that_cannot_be_judged_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let options = FileOptions { crc_polynomial: 0x82f6_3b78, ..FileOptions::new(root) };
    let mut opened = open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let share = opened.shares[0].as_mut();
    commit(share, &batch(vec![part("foo", Lifecycle::Create, 1..=10)]));
    commit(share, &batch(vec![part("bar", Lifecycle::Create, 1..=10)]));
    share.close().unwrap();
    let before = files(root);
    assert!(matches!(mend(root), Err(MendError::OtherRules)));
    assert_eq!(files(root), before);
}

fn run(args: &[&str], path: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stanby"));
    let Output { status, stdout, stderr } =
        command.arg("check").args(args).arg(path).output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[test]
fn the_command_mends_and_says_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    sliced(root);
    let before = files(root);
    let (code, text) = run(&["--repair"], root);
    assert!(code == Some(0) && text.contains("Nothing was changed."), "{text}");
    assert_eq!(files(root), before);
    let file = root.join("foo/msgs.2.dat");
    let mut bytes = fs::read(&file).unwrap();
    bytes[14] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let (code, text) = run(&["--repair"], root);
    assert_eq!(code, Some(0), "{text}");
    for said in
        ["foo: lost messages: 11;", "are left out; they are kept in damaged.", "afterwards:"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    let (code, text) = run(&["--json"], root);
    assert_eq!(code, Some(0), "{text}");
    fs::write(root.join("foo/subs.dat"), [1, 0, 0, 0, 9, 9]).unwrap();
    fs::remove_file(root.join("foo/msgs.1.dat")).unwrap();
    let (code, text) = run(&["--repair", "--json"], root);
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(!told["changes"].as_array().unwrap().is_empty(), "{text}");
    assert_eq!(told["after"]["start_fails"], serde_json::Value::Null, "{text}");
}

/// Goal: a store that a server uses is not mended under its feet.
#[test]
fn a_store_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    sliced(root);
    fs::write(root.join("foo/msgs.2.dat"), [1, 0, 0, 0, 9]).unwrap();
    let damaged = files(root);
    let writer = fs::File::options().append(true).open(root.join("server.dat")).unwrap();
    let (code, text) = run(&["--repair"], root);
    drop(writer);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("server.dat"), "{text}");
    for (name, bytes) in damaged {
        assert_eq!(fs::read(root.join(&name)).unwrap(), bytes, "{}", name.display());
    }
}

/// Goal: a server that stands by is not made to believe that the repair is an active that hangs.
#[test]
fn a_store_that_a_server_stands_by_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    sliced(root);
    fs::write(root.join("foo/msgs.2.dat"), [1, 0, 0, 0, 9]).unwrap();
    let claim = root.join(".stanby.claim.a");
    fs::write(&claim, "").unwrap();
    let file = fs::File::options().read(true).write(true).open(&claim).unwrap();
    stanby::site::epoch_files::lock(&file).unwrap();
    let (code, text) = run(&["--repair"], root);
    assert!(code == Some(1) && text.contains("stands by for it"), "{text}");
    drop(file);
    let (code, text) = run(&["--repair"], root);
    assert_eq!(code, Some(0), "{text}");
}

/// Goal: whoever is killed at any step leaves a store that can be mended with the same result.
#[test]
fn a_repair_that_breaks_off_loses_nothing() {
    for steps in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        sliced(root);
        let whole = messages(root);
        for (name, at) in [("foo/msgs.1.dat", 130), ("foo/msgs.2.dat", 14), ("foo/msgs.3.idx", 6)] {
            let mut bytes = fs::read(root.join(name)).unwrap();
            bytes[at] ^= 1;
            fs::write(root.join(name), bytes).unwrap();
        }
        let damaged = files(root);
        let mut left = steps;
        let mut confirm = || match left {
            0 => Err("it is over".to_owned()),
            _ => {
                left -= 1;
                Ok(())
            }
        };
        let mut mender = Mender { fence: &Unfenced, confirm: &mut confirm, say: &mut |_| () };
        let first = check::mend(&look(root), Rules::default(), &mut mender);
        let has_ended = first.is_ok();
        let changes = if has_ended { first.unwrap() } else { mend(root).unwrap() };
        let found = messages(root);
        assert_eq!(found.len(), 30, "{steps}: {changes:?}");
        let lost: Vec<u64> = found
            .iter()
            .filter(|(place, message)| whole.get(*place) != Some(*message))
            .map(|((_, sequence), _)| *sequence)
            .collect();
        assert_eq!(lost, [5, 11], "{steps}: {changes:?}");
        let kept: BTreeSet<Vec<u8>> = files(root).into_values().collect();
        assert!(damaged.values().all(|bytes| kept.contains(bytes)), "{steps}");
        if has_ended {
            return;
        }
    }
}
