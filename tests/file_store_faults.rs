//! The file store when something goes wrong: full disks, former actives, half-done work, damage.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "support/limited_disk.rs"]
mod limited_disk;
#[path = "support/stores.rs"]
mod stores;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor, Unfenced};
use stanby::base::id::{ChannelName, Sequence, SubscriptionId};
use stanby::base::limits;
use stanby::base::record::{Batch, Lifecycle, SubscriptionWrite};
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, OutcomeUnknown, Remedy, StoreError};

use limited_disk::{LimitedDisk, Limits};
use stores::{NOTHING, batch, commit, fetch, message, now, open, open_as, part, subscription};

/// A fence of any epoch that can be lost.
#[derive(Default)]
struct TestFence {
    epoch: AtomicU64,
    is_lost: AtomicBool,
}

impl TestFence {
    fn of(epoch: u64) -> Arc<Self> {
        let fence = Self::default();
        fence.epoch.store(epoch, Ordering::Relaxed);
        Arc::new(fence)
    }
}

impl Fence for TestFence {
    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    fn check(&self) -> Result<(), FenceError> {
        if self.is_lost.load(Ordering::Relaxed) {
            let (ours, found) = (self.epoch(), self.epoch().next());
            return Err(FenceError::Superseded { ours, found, owner: "successor".to_owned() });
        }
        Ok(())
    }
}

fn open_epoch(root: &Path, fence: &Arc<TestFence>, predecessor: Predecessor) -> Opened {
    let options = FileOptions::new(root);
    let fence: Arc<dyn Fence> = Arc::clone(fence) as Arc<dyn Fence>;
    file::open(&options, &StoreLimits::default(), fence, predecessor, 1, now(1)).unwrap()
}

fn open_limited(root: &Path, limits: &Arc<Limits>) -> Opened {
    let options = FileOptions::new(root);
    file::open_on(
        Arc::new(LimitedDisk(Arc::clone(limits))),
        Opening {
            options: &options,
            limits: &StoreLimits::default(),
            fence: Arc::new(Unfenced),
            predecessor: Predecessor::Clean,
            loops: 1,
            now: now(1),
            survey: None,
        },
    )
    .unwrap()
}

/// Message 6 of `foo`, by the former active and by its successor.
fn sixth(data: &str) -> Batch {
    let mut sixth = batch(vec![part("foo", Lifecycle::Keep, NOTHING)]);
    sixth.channels[0].messages = vec![message("foo", 6, data)];
    sixth
}

fn data_of(root: &Path, channel: &str) -> Vec<String> {
    let found = format_checker::read_store(root);
    let messages = &found.channels[channel].messages;
    messages.iter().map(|found| String::from_utf8(found.data.clone()).unwrap()).collect()
}

/// Goal: a full disk refuses one channel's part, whatever byte it fails at; nothing of it is left,
/// and service resumes by itself.
#[test]
fn a_full_disk_refuses_and_resumes_by_itself() {
    for room in [0, 1, 30, 60, 200, 300] {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits::roomy();
        let mut opened = open_limited(root.path(), &limits);
        let store = opened.shares[0].as_mut();
        commit(
            store,
            &batch(vec![
                part("foo", Lifecycle::Create, 1..=5),
                part("bar", Lifecycle::Create, 1..=5),
            ]),
        );
        limits.room.store(room, Ordering::Relaxed);
        let next = batch(vec![part("foo", Lifecycle::Keep, 6..=10)]);
        let report = store.commit(Epoch(1), &next).unwrap();
        let refused = report.channels[0].refused.clone().unwrap_or_else(|| panic!("room {room}"));
        assert!(refused.contains("no space left on device"), "{refused}");
        assert_eq!(report.channels[0].state.last, Sequence(5));
        assert_eq!(fetch(store, "foo", 0), vec![1, 2, 3, 4, 5]);
        format_checker::read_store(root.path());
        limits.room.store(i64::MAX, Ordering::Relaxed);
        commit(store, &next);
        assert_eq!(fetch(store, "foo", 0), (1..=10).collect::<Vec<_>>());
        drop(opened);
        assert_eq!(format_checker::read_store(root.path()).channels["foo"].messages.len(), 10);
        assert_eq!(open(root.path()).recovered.channels[1].state.last, Sequence(10));
    }
}

#[test]
fn a_full_disk_refuses_a_new_channel_and_creates_it_later() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits::roomy();
    let mut opened = open_limited(root.path(), &limits);
    let store = opened.shares[0].as_mut();
    limits.room.store(2, Ordering::Relaxed);
    let create = batch(vec![part("foo", Lifecycle::Create, 1..=2)]);
    let report = store.commit(Epoch(1), &create).unwrap();
    assert!(report.channels[0].refused.is_some());
    limits.room.store(i64::MAX, Ordering::Relaxed);
    commit(store, &create);
    assert_eq!(fetch(store, "foo", 0), vec![1, 2]);
}

#[test]
fn no_room_at_sync_refuses_and_any_other_failure_steps_down() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits::roomy();
    let mut opened = open_limited(root.path(), &limits);
    let store = opened.shares[0].as_mut();
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=5)]);
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
    commit(store, &first);
    limits.sync_error.store(28, Ordering::Relaxed);
    let mut next = batch(vec![part("foo", Lifecycle::Keep, 6..=7)]);
    next.channels[0].subscriptions = vec![SubscriptionWrite::Sent(SubscriptionId(1), Sequence(1))];
    let report = store.commit(Epoch(1), &next).unwrap();
    assert!(report.channels[0].refused.is_some());
    assert_eq!(report.channels[0].state.last, Sequence(5));
    limits.sync_error.store(0, Ordering::Relaxed);
    commit(store, &next);
    let found = format_checker::read_store(root.path());
    assert_eq!(found.channels["foo"].messages.len(), 7);
    assert_eq!(found.channels["foo"].pending[&1].len(), 1);
    limits.sync_error.store(5, Ordering::Relaxed);
    let error = store.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 8..=8)]));
    assert_eq!(error.unwrap_err().remedy(), Remedy::StepDown);
}

/// Goal: what a former active appends after its successor has begun is read by nobody, where the
/// successor has written; the successor's message is the one that stays.
#[test]
fn late_appends_of_a_former_active_lose() {
    let root = tempfile::tempdir().unwrap();
    let (old_fence, new_fence) = (TestFence::of(1), TestFence::of(2));
    let mut former = open_epoch(root.path(), &old_fence, Predecessor::Clean);
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=5)]);
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
    commit(former.shares[0].as_mut(), &first);
    let mut successor = open_epoch(root.path(), &new_fence, Predecessor::Replaced);
    assert_eq!(successor.recovered.channels[0].state.last, Sequence(5));
    successor.shares[0].commit(Epoch(2), &sixth("right")).unwrap();
    old_fence.is_lost.store(true, Ordering::Relaxed);
    let mut late = sixth("late");
    late.channels[0].subscriptions = vec![SubscriptionWrite::Delete(SubscriptionId(1))];
    let error = former.shares[0].commit(Epoch(1), &late).unwrap_err();
    assert_eq!(error.remedy(), Remedy::StepDown);
    assert!(matches!(error, OutcomeUnknown(StoreError::Fenced(_))), "no file is missing: {error}");
    assert_eq!(fetch(successor.shares[0].as_mut(), "foo", 0), (1..=6).collect::<Vec<_>>());
    assert_eq!(data_of(root.path(), "foo").last().unwrap(), "right");
    drop(successor);
    let again = open_epoch(root.path(), &TestFence::of(3), Predecessor::Gone);
    assert_eq!(again.recovered.channels[0].state.message_count, 6);
    assert_eq!(again.recovered.channels[0].subscriptions.len(), 1);
    assert_eq!(data_of(root.path(), "foo").last().unwrap(), "right");
}

/// Goal: the same where the successor had not copied the tail, because it was old.
#[test]
fn an_old_slice_is_cut_where_a_later_one_begins() {
    let root = tempfile::tempdir().unwrap();
    let (old_fence, new_fence) = (TestFence::of(1), TestFence::of(2));
    let mut former = open_epoch(root.path(), &old_fence, Predecessor::Clean);
    let mut recent = part("recent", Lifecycle::Create, NOTHING);
    let later = |sequence| stores::message_at("recent", sequence, 10_000_000_000);
    recent.messages = (1..=1 + limits::UNSYNCED_MESSAGES_MAX as u64).map(later).collect();
    let first = batch(vec![part("foo", Lifecycle::Create, 1..=5), recent]);
    commit(former.shares[0].as_mut(), &first);
    let mut successor = open_epoch(root.path(), &new_fence, Predecessor::Replaced);
    successor.shares[0].commit(Epoch(2), &sixth("right")).unwrap();
    // Its fence was asked before the pause: it appends, and answers nobody.
    former.shares[0].commit(Epoch(1), &sixth("late")).unwrap();
    assert_eq!(fetch(successor.shares[0].as_mut(), "foo", 0), (1..=6).collect::<Vec<_>>());
    drop(successor);
    let mut again = open_epoch(root.path(), &TestFence::of(3), Predecessor::Gone);
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (1..=6).collect::<Vec<_>>());
    assert_eq!(data_of(root.path(), "foo").last().unwrap(), "right");
}

/// Goal: a copy that a crash has torn gives way to the longer tail that it was made from.
#[test]
fn a_torn_copy_of_a_tail_does_not_hide_the_tail() {
    let root = tempfile::tempdir().unwrap();
    let mut former = open(root.path());
    commit(former.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=9)]));
    drop(former);
    let folder = root.path().join("foo");
    let (data, index) = (
        fs::read(folder.join("msgs.1.dat")).unwrap(),
        fs::read(folder.join("msgs.1.idx")).unwrap(),
    );
    let offset = |ordinal: usize| {
        let at = 4 + 32 * ordinal + 8;
        usize::try_from(u64::from_le_bytes(index[at..at + 8].try_into().unwrap())).unwrap()
    };
    // Records 5 to 7 of 5 to 9.
    let copy = [&[1, 0, 0, 0], &data[offset(4)..offset(7)]].concat();
    fs::write(folder.join("msgs.1001.dat"), copy).unwrap();
    let mut again = open(root.path());
    assert_eq!(again.recovered.channels[0].state.message_count, 9);
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (1..=9).collect::<Vec<_>>());
}

#[test]
fn what_an_earlier_epoch_half_removed_is_put_back() {
    let root = tempfile::tempdir().unwrap();
    let mut former = open_epoch(root.path(), &TestFence::of(1), Predecessor::Clean);
    commit(former.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
    drop(former);
    let folder = root.path().join("foo");
    for name in ["msgs.1.dat", "msgs.1.idx", "subs.dat"] {
        fs::rename(folder.join(name), folder.join(format!("removed.1.{name}"))).unwrap();
    }
    fs::write(root.path().join("stanby.replacement.1.7"), "late").unwrap();
    let again = open_epoch(root.path(), &TestFence::of(2), Predecessor::Clean);
    assert_eq!(again.recovered.channels[0].state.message_count, 5);
    assert!(folder.join("subs.dat").exists());
    assert!(!root.path().join("stanby.replacement.1.7").exists());
}

/// Goal: a channel is deleted with folders that somebody has put into its own.
#[test]
fn a_channel_with_folders_in_it_is_deleted() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let store = opened.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=3)]));
    fs::create_dir_all(root.path().join("foo/backup/of/today")).unwrap();
    fs::write(root.path().join("foo/backup/of/msgs.1.dat"), "copy").unwrap();
    fs::write(root.path().join("foo/backup/note"), "mine").unwrap();
    commit(store, &batch(vec![part("foo", Lifecycle::Delete, NOTHING)]));
    assert!(!root.path().join("foo").exists());
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
    assert_eq!(fetch(store, "foo", 0), [1, 2]);
}

/// Goal: what a former active takes away while its successor serves, the successor still reads and
/// writes, and so does the next one.
#[test]
fn a_former_active_removes_nothing() {
    for is_written in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let mut former = open_epoch(root.path(), &TestFence::of(1), Predecessor::Clean);
        let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=5)]);
        first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
        commit(former.shares[0].as_mut(), &first);
        let mut successor = open_epoch(root.path(), &TestFence::of(2), Predecessor::Replaced);
        let folder = root.path().join("foo");
        // What it did until it asked its fence again.
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name().into_string().unwrap();
            fs::rename(entry.path(), folder.join(format!("removed.1.{name}"))).unwrap();
        }
        assert_eq!(fetch(successor.shares[0].as_mut(), "foo", 0), (1..=5).collect::<Vec<_>>());
        if is_written {
            successor.shares[0].commit(Epoch(2), &sixth("right")).unwrap();
        }
        drop(successor);
        let again = open_epoch(root.path(), &TestFence::of(3), Predecessor::Gone);
        let state = again.recovered.channels[0].state;
        assert_eq!(state.message_count, 5 + u64::from(is_written));
        assert_eq!(again.recovered.channels[0].subscriptions.len(), 1);
    }
}

/// Goal: a folder without files is no channel, and a channel can be made there; one with files that
/// somebody else has made is read before anything is written to it.
#[test]
fn a_folder_of_somebody_else_is_not_cleared() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    let mut opened = open_epoch(root.path(), &TestFence::of(1), Predecessor::Clean);
    assert_eq!(opened.recovered.channels.len(), 0);
    commit(opened.shares[0].as_mut(), &batch(vec![part("empty", Lifecycle::Create, 1..=2)]));
    // Another member makes it, and answers for its messages.
    let mut other = open_epoch(root.path(), &TestFence::of(2), Predecessor::Replaced);
    let create = batch(vec![part("foo", Lifecycle::Create, 1..=3)]);
    other.shares[0].commit(Epoch(2), &create).unwrap();
    let error = opened.shares[0].commit(Epoch(1), &create).unwrap_err();
    assert_eq!(error.remedy(), Remedy::StepDown);
    assert_eq!(fetch(other.shares[0].as_mut(), "foo", 0), vec![1, 2, 3]);
    assert_eq!(format_checker::read_store(root.path()).channels["foo"].messages.len(), 3);
}

/// Goal: a deletion that was decided is finished by whoever opens the store next, and one that was
/// not is undone.
#[test]
fn a_deletion_happens_whole_or_not_at_all() {
    for is_decided in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let mut former = open_epoch(root.path(), &TestFence::of(1), Predecessor::Clean);
        commit(former.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
        drop(former);
        let folder = root.path().join("foo");
        for name in ["msgs.1.dat", "msgs.1.idx", "subs.dat"] {
            fs::rename(folder.join(name), folder.join(format!("removed.1.{name}"))).unwrap();
        }
        if is_decided {
            let (away, mark) = ("removed.1.subs.dat", "deleted.1.subs.dat");
            fs::rename(folder.join(away), folder.join(mark)).unwrap();
            fs::remove_file(folder.join("removed.1.msgs.1.dat")).unwrap();
        }
        let again = open_epoch(root.path(), &TestFence::of(2), Predecessor::Gone);
        assert_eq!(again.recovered.channels.len(), usize::from(!is_decided));
        assert_eq!(folder.exists(), !is_decided);
    }
}

/// Goal: an index that has to be made anew never says less than before, not for a moment: what the
/// last index does not name counts as never acknowledged.
#[test]
fn a_new_index_is_put_in_place_whole() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=9)]));
    drop(opened);
    let path = root.path().join("foo/msgs.1.idx");
    let mut index = fs::read(&path).unwrap();
    index[4 + 32 * 3] ^= 1;
    fs::write(&path, index).unwrap();
    let limits = Limits::roomy();
    limits.room.store(40, Ordering::Relaxed);
    let options = FileOptions::new(root.path());
    let full = file::open_on(
        Arc::new(LimitedDisk(Arc::clone(&limits))),
        Opening {
            options: &options,
            limits: &StoreLimits::default(),
            fence: TestFence::of(2),
            predecessor: Predecessor::Gone,
            loops: 1,
            now: now(1),
            survey: None,
        },
    );
    assert!(full.is_err(), "there is no room for the new index");
    let mut again = open_epoch(root.path(), &TestFence::of(3), Predecessor::Gone);
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (1..=9).collect::<Vec<_>>());
}

#[test]
fn somebody_else_who_writes_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let store = opened.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
    let path = root.path().join("foo/msgs.1.dat");
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(b"intruder");
    fs::write(&path, bytes).unwrap();
    let error = store.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 6..=6)]));
    assert!(matches!(error, Err(OutcomeUnknown(StoreError::Intruder { .. }))), "{error:?}");
}

/// Goal: what a neighbour has emptied gets no record in the place of its header, and an emptied
/// index costs nothing.
#[test]
fn what_was_emptied_under_the_store_is_not_written_to() {
    for (name, left) in [("foo/msgs.1.idx", 0), ("foo/msgs.1.dat", 0), ("foo/msgs.1.dat", 90)] {
        let root = tempfile::tempdir().unwrap();
        let mut opened = open(root.path());
        let store = opened.shares[0].as_mut();
        commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
        let file = fs::OpenOptions::new().write(true).open(root.path().join(name)).unwrap();
        file.set_len(left).unwrap();
        let error = store.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 6..=6)]));
        assert!(matches!(error, Err(OutcomeUnknown(StoreError::Intruder { .. }))), "{error:?}");
        assert_eq!(file.metadata().unwrap().len(), left, "{name}");
        drop(opened);
        if name.ends_with(".idx") {
            let mut again = open_epoch(root.path(), &TestFence::of(2), Predecessor::Gone);
            let found = fetch(again.shares[0].as_mut(), "foo", 0);
            assert_eq!(found[..5], [1, 2, 3, 4, 5]);
        }
    }
}

/// Changes a bit of the index record of one of the five messages of `foo`, and of the message too.
fn damage(root: &Path, sequence: u64, data_too: bool) {
    for name in ["foo/msgs.1.idx", "foo/msgs.1.dat"].iter().take(1 + usize::from(data_too)) {
        let file = fs::OpenOptions::new().read(true).write(true).open(root.join(name)).unwrap();
        let record_len = (file.metadata().unwrap().len() - 4) / 5;
        let at = if name.ends_with(".idx") {
            4 + (sequence - 1) * record_len + 3
        } else {
            3 + sequence * record_len
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }
}

/// Goal: the limits go on behind a message that is damaged in index and data, and in the end no
/// byte of it is counted.
#[test]
fn limits_go_on_behind_a_damaged_message() {
    let mut limits = StoreLimits::default();
    limits.global.messages_max = 5;
    let mut bytes = Vec::new();
    for damaged in 0..=5 {
        let root = tempfile::tempdir().unwrap();
        let mut options = FileOptions::new(root.path());
        options.slice_messages_max = 5;
        let fence = TestFence::of(1);
        let opened = file::open(&options, &limits, fence, Predecessor::Clean, 1, now(1));
        let mut store = opened.unwrap().shares.remove(0);
        commit(store.as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
        if damaged != 0 {
            damage(root.path(), damaged, true);
        }
        for last in 6..=10 {
            let next = batch(vec![part("foo", Lifecycle::Keep, last..=last)]);
            let state = store.commit(Epoch(1), &next).unwrap().channels[0].state;
            assert_eq!((state.first, state.message_count), (Sequence(last - 4), 5), "{damaged}");
            bytes.extend((last == 10).then_some(state.byte_count));
        }
    }
    assert!(bytes.iter().all(|count| *count == bytes[0]), "{bytes:?}");
}

/// Goal: a record of an index that is damaged while the store serves takes no message from readers,
/// as long as the data has it, and none but its own otherwise.
#[test]
fn a_damaged_index_record_hides_no_other_message() {
    for damaged in 1..=5 {
        for data_too in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let mut opened = open(root.path());
            let store = opened.shares[0].as_mut();
            commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
            damage(root.path(), damaged, data_too);
            let expected: Vec<u64> =
                (1..=5).filter(|sequence| !data_too || *sequence != damaged).collect();
            assert_eq!(fetch(store, "foo", 1), expected, "{damaged}, data too: {data_too}");
            let behind: Vec<u64> =
                expected.iter().copied().filter(|sequence| damaged <= *sequence).collect();
            assert_eq!(fetch(store, "foo", damaged), behind, "from {damaged} on");
            if !data_too {
                let name = ChannelName::from("foo");
                for sequence in 1..=5 {
                    let at = message("foo", sequence, "").timestamp;
                    assert_eq!(store.find_time(&name, at).unwrap(), Sequence(sequence));
                }
            }
        }
    }
}

#[test]
fn bad_files_are_refused_in_the_references_words() {
    let check = |file: &str, content: &[u8], expected: &str| {
        let root = tempfile::tempdir().unwrap();
        let mut opened = open(root.path());
        commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
        drop(opened);
        fs::write(root.path().join(file), content).unwrap();
        let options = FileOptions::new(root.path());
        let error = open_as(&options, &StoreLimits::default(), Predecessor::Clean).err().unwrap();
        assert_eq!(error.remedy(), Remedy::Stop);
        assert_eq!(error.to_string(), expected);
    };
    let version = "unsupported file version: 2 (supports [1..1])";
    check(
        "server.dat",
        &[2, 0, 0, 0],
        &format!("unable to recover server file \"server.dat\": {version}"),
    );
    check(
        "clients.dat",
        &[2, 0, 0, 0],
        &format!("unable to recover client file \"clients.dat\": {version}"),
    );
    check(
        "foo/subs.dat",
        &[2, 0, 0, 0],
        &format!("unable to recover subscription store for [foo]: {version}"),
    );
    for file in ["msgs.1.dat", "msgs.1.idx"] {
        let prefix = format!("unable to recover message store for [foo](file: \"foo/{file}\"): ");
        check(&format!("foo/{file}"), &[2, 0, 0, 0], &format!("{prefix}{version}"));
    }
    check(
        "foo/msgs.1.dat",
        &[2],
        "unable to recover message store for [foo](file: \"foo/msgs.1.dat\"): \
         unable to verify file version: unexpected EOF",
    );
    for name in ["msgs.a.dat", "msgs.001.dat", "msgs.+7.dat"] {
        let prefix = format!("unable to recover message store for [foo](file: \"foo/{name}\"): ");
        let text = format!("{prefix}message log has an invalid name: {name}");
        check(&format!("foo/{name}"), &[1, 0, 0, 0], &text);
    }
}

/// Goal: a tail that nobody was told of does not stop a take-over on a full disk.
#[test]
fn a_torn_tail_on_a_full_disk_is_cut_and_not_kept() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
    drop(opened);
    let path = root.path().join("foo/msgs.1.dat");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [whole.as_slice(), b"half a record"].concat()).unwrap();
    let limits = Limits::roomy();
    limits.room.store(0, Ordering::Relaxed);
    let mut again = open_limited(root.path(), &limits);
    assert!(
        again.notices[0].text.contains("13 bytes behind it are not kept"),
        "{:?}",
        again.notices
    );
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), vec![1, 2, 3, 4, 5]);
}

#[test]
fn slices_that_a_kill_left_half_born_are_no_obstacle() {
    let cases: [(&[u8], Option<&[u8]>); 4] = [
        (b"", None),
        (b"\x01\x00\x00\x00", Some(b"")),
        (b"\x01", Some(b"")),
        (b"\x01\x00\x00\x00", None),
    ];
    for (data, index) in cases {
        let root = tempfile::tempdir().unwrap();
        let mut opened = open(root.path());
        commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
        drop(opened);
        fs::write(root.path().join("foo/msgs.2.dat"), data).unwrap();
        if let Some(index) = index {
            fs::write(root.path().join("foo/msgs.2.idx"), index).unwrap();
        }
        let mut again = open(root.path());
        commit(again.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Keep, 6..=6)]));
        assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), (1..=6).collect::<Vec<_>>());
    }
}

#[test]
fn tails_of_zeros_are_tolerated() {
    for (file, count) in
        [("foo/msgs.1.dat", 8), ("foo/msgs.1.idx", 32), ("foo/subs.dat", 8), ("clients.dat", 8)]
    {
        let root = tempfile::tempdir().unwrap();
        let mut opened = open(root.path());
        commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
        drop(opened);
        let path = root.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(vec![0; count]);
        fs::write(&path, bytes).unwrap();
        let mut again = open(root.path());
        commit(again.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Keep, 6..=7)]));
        assert_eq!(
            fetch(again.shares[0].as_mut(), "foo", 0),
            (1..=7).collect::<Vec<_>>(),
            "{file}"
        );
        assert_eq!(format_checker::read_store(root.path()).channels["foo"].messages.len(), 7);
    }
}

#[test]
fn a_store_that_lost_its_server_record_says_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
    drop(opened);
    fs::remove_file(root.path().join("server.dat")).unwrap();
    let again = open(root.path());
    assert_eq!(again.recovered.server, None);
    assert_eq!(again.recovered.channels[0].channel, ChannelName::from("foo"));
}

#[test]
fn the_option_to_truncate_is_refused_twice_in_a_row() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path().join("new/root"));
    options.truncate_bad_eof = true;
    file::prepare(&options).unwrap();
    let error = file::prepare(&options).unwrap_err().to_string();
    assert!(error.starts_with("file store should not be opened consecutively"), "{error}");
    options.truncate_bad_eof = false;
    file::prepare(&options).unwrap();
    options.truncate_bad_eof = true;
    file::prepare(&options).unwrap();
}
