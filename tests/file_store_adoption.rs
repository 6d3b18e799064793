//! What a predecessor may not have synced is written anew: the newest messages of the whole store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "support/limited_disk.rs"]
mod limited_disk;
#[path = "support/stores.rs"]
mod stores;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use stanby::base::id::Sequence;
use stanby::base::limits::UNSYNCED_BYTES_MAX;
use stanby::base::record::{ChannelBatch, Lifecycle, MessageRecord};
use stanby::base::time::WallTime;
use stanby::proto::pb;
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, Remedy, StoreError};

use limited_disk::{LimitedDisk, Limits};
use stores::{START, batch, fetch, now, open, part};

const SECOND: i64 = 1_000_000_000;

/// A fence that is held under any epoch.
struct Held(u64);

impl Fence for Held {
    fn epoch(&self) -> Epoch {
        Epoch(self.0)
    }

    fn check(&self) -> Result<(), FenceError> {
        Ok(())
    }
}

fn open_epoch(options: &FileOptions, epoch: u64, predecessor: Predecessor) -> Opened {
    let fence = Arc::new(Held(epoch));
    file::open(options, &StoreLimits::default(), fence, predecessor, 1, now(1)).unwrap()
}

/// A channel's part: each message with so many bytes, the first stamped at `second`, each further
/// one a second later.
fn stamped(
    channel: &str,
    lifecycle: Lifecycle,
    sequences: std::ops::RangeInclusive<u64>,
    (second, len): (i64, usize),
) -> ChannelBatch {
    let first = i64::try_from(*sequences.start()).unwrap();
    let message = |sequence: u64| {
        let later = i64::try_from(sequence).unwrap() - first;
        let timestamp = START + (second + later) * SECOND;
        let encoded = pb::MsgProto {
            sequence,
            subject: channel.as_bytes().to_vec().into(),
            data: vec![b'x'; len].into(),
            timestamp,
            ..pb::MsgProto::default()
        };
        MessageRecord {
            sequence: Sequence(sequence),
            timestamp: WallTime(timestamp),
            encoded: encoded.encode_to_vec().into(),
        }
    };
    ChannelBatch {
        messages: sequences.map(message).collect(),
        ..part(channel, lifecycle, stores::NOTHING)
    }
}

fn write(opened: &mut Opened, epoch: u64, part: ChannelBatch) {
    let report = opened.shares[0].commit(Epoch(epoch), &batch(vec![part])).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
}

/// Records in the index of a slice; 0 if there is none.
fn record_count(root: &Path, channel: &str, number: u64) -> u64 {
    let path = root.join(format!("{channel}/msgs.{number}.idx"));
    fs::metadata(path).map_or(0, |found| (found.len() - 4) / 32)
}

/// Goal: however old a message is beside the newest of the store, and however many slices it takes
/// to reach it: a sync that stalled may have been for it.
#[test]
fn the_newest_messages_are_written_anew_over_all_channels_and_slices() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.slice_messages_max = 3;
    let mut former = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut former, 1, stamped("slow", Lifecycle::Create, 1..=8, (0, 10)));
    write(&mut former, 1, stamped("busy", Lifecycle::Create, 1..=5, (600, 10)));
    drop(former);
    let mut again = open_epoch(&options, 2, Predecessor::Gone);
    let found = format_checker::read_store(root.path());
    for (channel, last) in [("slow", 8), ("busy", 5)] {
        assert_eq!(found.channels[channel].slices.iter().filter(|n| **n <= 3).count(), 0);
        assert_eq!(fetch(again.shares[0].as_mut(), channel, 0), (1..=last).collect::<Vec<_>>());
    }
    write(&mut again, 2, stamped("slow", Lifecycle::Keep, 9..=9, (700, 10)));
    assert_eq!(fetch(again.shares[0].as_mut(), "slow", 7), [7, 8, 9]);
}

/// Goal: as many bytes as may be written and not synced are written anew, the newest by timestamp;
/// the rest stays where it is.
#[test]
fn as_much_is_written_anew_as_may_not_be_synced() {
    const LEN: usize = 100_000;
    let root = tempfile::tempdir().unwrap();
    let options = FileOptions::new(root.path());
    let mut former = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut former, 1, stamped("even", Lifecycle::Create, 1..=30, (0, LEN)));
    write(&mut former, 1, stamped("late", Lifecycle::Create, 1..=30, (10, LEN)));
    drop(former);
    let mut again = open_epoch(&options, 2, Predecessor::Gone);
    let stays = record_count(root.path(), "even", 1) + record_count(root.path(), "late", 1);
    let anew = UNSYNCED_BYTES_MAX.div_ceil(LEN + 30) as u64;
    assert!((60 - anew - 1..=60 - anew).contains(&stays), "{stays} stay");
    // The ten oldest are of one channel, the ten newest of the other.
    let of_late = record_count(root.path(), "late", 1);
    assert!(of_late + 10 <= record_count(root.path(), "even", 1) + 1, "{of_late}");
    for channel in ["even", "late"] {
        assert_eq!(fetch(again.shares[0].as_mut(), channel, 0), (1..=30).collect::<Vec<_>>());
    }
    drop(again);
    let mut last = open_epoch(&options, 3, Predecessor::Clean);
    assert_eq!(fetch(last.shares[0].as_mut(), "even", 0), (1..=30).collect::<Vec<_>>());
}

/// Goal: without syncs nobody was promised anything, and nothing is written anew.
#[test]
fn without_syncs_nothing_is_written_anew() {
    let root = tempfile::tempdir().unwrap();
    let options = FileOptions { sync: false, ..FileOptions::new(root.path()) };
    let mut former = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=8, (0, 10)));
    drop(former);
    let again = open_epoch(&options, 2, Predecessor::Gone);
    assert_eq!(record_count(root.path(), "foo", 1), 8);
    assert_eq!(again.recovered.channels[0].state.last, Sequence(8));
}

/// Goal: what a former epoch had made durable when it opened the store is not written again.
#[test]
fn what_a_former_epoch_made_durable_stays() {
    let root = tempfile::tempdir().unwrap();
    let options = FileOptions::new(root.path());
    let mut first = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut first, 1, stamped("foo", Lifecycle::Create, 1..=5, (0, 10)));
    write(&mut first, 1, stamped("bar", Lifecycle::Create, 1..=1, (10, 10)));
    drop(first);
    let mut second = open_epoch(&options, 2, Predecessor::Gone);
    write(&mut second, 2, stamped("bar", Lifecycle::Keep, 2..=2, (20, 10)));
    drop(second);
    assert_eq!(record_count(root.path(), "foo", 1_001), 5);
    let mut third = open_epoch(&options, 3, Predecessor::Gone);
    assert_eq!(record_count(root.path(), "foo", 1_001), 5, "it lies where the second put it");
    assert_eq!(record_count(root.path(), "bar", 1_001), 0);
    assert_eq!(fetch(third.shares[0].as_mut(), "bar", 0), [1, 2]);
}

/// Goal: a copy over several slices that a crash has torn hides nothing of them.
#[test]
fn a_torn_copy_of_several_slices_gives_way() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.slice_messages_max = 3;
    let mut former = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=9, (0, 10)));
    drop(former);
    let data = |number: u64| fs::read(root.path().join(format!("foo/msgs.{number}.dat"))).unwrap();
    let record_len = (data(1).len() - 4) / 3;
    for torn_len in [2, 5, 7] {
        // Records 2 and on, as far as they got.
        let records = [&data(1)[4 + record_len..], &data(2)[4..], &data(3)[4..]].concat();
        let copy = [&[1, 0, 0, 0], &records[..torn_len * record_len]].concat();
        fs::write(root.path().join("foo/msgs.1003.dat"), copy).unwrap();
        let mut again = open(root.path());
        let found = fetch(again.shares[0].as_mut(), "foo", 0);
        assert_eq!(found, (1..=9).collect::<Vec<_>>(), "{torn_len}");
        drop(again);
        assert!(!root.path().join("foo/msgs.1003.dat").exists());
    }
}

/// Goal: as long as a copy may not be durable, what it was made from stays: a power failure takes
/// the copy.
#[test]
fn an_old_slice_is_not_cut_before_the_later_one_is_durable() {
    let root = tempfile::tempdir().unwrap();
    let options = FileOptions::new(root.path());
    let mut former = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=5, (0, 10)));
    drop(former);
    let limits = Limits::roomy();
    for epoch in [2, 3] {
        limits.sync_error.store(5, Ordering::Relaxed);
        let failed = open_limited((&options, &limits), epoch, Predecessor::Gone);
        assert!(failed.is_err(), "the copy could not be synced");
        assert_eq!(record_count(root.path(), "foo", 1), 5, "{epoch}");
        assert_eq!(record_count(root.path(), "foo", 1 + 1_000 * (epoch - 1)), 5, "{epoch}");
    }
    limits.sync_error.store(0, Ordering::Relaxed);
    limits.room.store(0, Ordering::Relaxed);
    let mut full = open_limited((&options, &limits), 4, Predecessor::Gone).unwrap();
    assert_eq!(fetch(full.shares[0].as_mut(), "foo", 0), [1, 2, 3, 4, 5]);
    assert_eq!(record_count(root.path(), "foo", 1), 5, "nothing was written anew");
    drop(full);
    limits.room.store(i64::MAX, Ordering::Relaxed);
    let mut last = open_limited((&options, &limits), 5, Predecessor::Gone).unwrap();
    assert_eq!(fetch(last.shares[0].as_mut(), "foo", 0), [1, 2, 3, 4, 5]);
    assert_eq!(format_checker::read_store(root.path()).channels["foo"].slices.len(), 1);
    assert_eq!(record_count(root.path(), "foo", 1), 0, "it was written anew and synced");
}

/// Goal: that others have served behind a copy whose sync had failed, and released with everything
/// synced, does not make it durable: what it was made from stays until it is written anew.
#[test]
fn a_copy_that_was_not_synced_is_not_believed_because_others_have_served_behind_it() {
    // What lies behind it is little, or more than a take-over writes anew.
    for (behind, len) in [(1, 10), (50, 100_000)] {
        let root = tempfile::tempdir().unwrap();
        let options = FileOptions::new(root.path());
        let mut former = open_epoch(&options, 1, Predecessor::Clean);
        write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=5, (0, 10)));
        drop(former);
        let limits = Limits::roomy();
        limits.sync_error.store(5, Ordering::Relaxed);
        let failed = open_limited((&options, &limits), 2, Predecessor::Gone);
        assert!(failed.is_err(), "the copy could not be synced");
        limits.sync_error.store(0, Ordering::Relaxed);
        limits.room.store(0, Ordering::Relaxed);
        let mut full = open_limited((&options, &limits), 3, Predecessor::Gone).unwrap();
        limits.room.store(i64::MAX, Ordering::Relaxed);
        write(&mut full, 3, stamped("foo", Lifecycle::Keep, 6..=5 + behind, (60, len)));
        full.shares[0].close().unwrap();
        let all: Vec<u64> = (1..=5 + behind).collect();
        for (epoch, predecessor) in [(4, Predecessor::Clean), (5, Predecessor::Gone)] {
            let mut next = open_limited((&options, &limits), epoch, predecessor).unwrap();
            assert_eq!(fetch(next.shares[0].as_mut(), "foo", 0), all);
            let is_written_anew = predecessor == Predecessor::Gone && behind == 1;
            let stays = if is_written_anew { 0 } else { 5 };
            assert_eq!(record_count(root.path(), "foo", 1), stays, "{behind} {epoch}");
        }
    }
}

/// Goal: a member that found a slice of some number may make the next one long after it was
/// replaced: whoever removes that slice leaves the number, so that all later ones choose higher
/// ones.
#[test]
fn the_highest_number_of_a_slice_is_never_forgotten() {
    const HEADER: [u8; 4] = [1, 0, 0, 0];
    let begun: [&[(&str, &[u8])]; 4] = [
        &[("msgs.5000.idx", &HEADER)],
        &[("msgs.5000.idx", &[]), ("msgs.5000.dat", &HEADER)],
        &[("msgs.5000.dat", &[1])],
        &[("msgs.5000.dat", &[0; 4]), ("msgs.5000.idx", &HEADER)],
    ];
    for files in begun {
        let root = tempfile::tempdir().unwrap();
        let options = FileOptions::new(root.path());
        let mut former = open_epoch(&options, 1, Predecessor::Clean);
        write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=5, (0, 10)));
        drop(former);
        for (name, bytes) in files {
            fs::write(root.path().join("foo").join(name), bytes).unwrap();
        }
        // It knows the number, and is stopped before it makes a slice of its own.
        drop(open_epoch(&options, 2, Predecessor::Clean));
        let mut last = open_epoch(&options, 3, Predecessor::Replaced);
        assert_eq!(fetch(last.shares[0].as_mut(), "foo", 0), [1, 2, 3, 4, 5]);
        let found = format_checker::read_store(root.path());
        let numbers = &found.channels["foo"].slices;
        let (old, new) = numbers.split_at(numbers.iter().take_while(|one| **one == 1).count());
        assert!(old.len() < numbers.len() && 6_000 <= new[0], "{files:?}: {numbers:?}");
    }
}

/// Goal: what the limits let go because newer messages are there goes when those are durable: until
/// then a power failure may take them, and they were promised to nobody.
#[test]
fn what_the_limits_let_go_stays_until_the_newer_messages_are_durable() {
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.slice_messages_max = 3;
    let mut nine = StoreLimits::default();
    nine.global.messages_max = 9;
    let limits = Limits::roomy();
    let open = |epoch, predecessor| open_with((&options, &nine), &limits, epoch, predecessor);
    let mut former = open(1, Predecessor::Clean).unwrap();
    write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=9, (0, 10)));
    limits.sync_error.store(5, Ordering::Relaxed);
    let unknown = batch(vec![stamped("foo", Lifecycle::Keep, 10..=12, (9, 10))]);
    assert!(former.shares[0].commit(Epoch(1), &unknown).is_err());
    drop(former);
    assert!(open(2, Predecessor::Gone).is_err(), "it could not make them durable either");
    assert_eq!(record_count(root.path(), "foo", 1), 3, "nine were promised, from the first on");
    limits.sync_error.store(0, Ordering::Relaxed);
    let mut last = open(3, Predecessor::Gone).unwrap();
    assert_eq!(fetch(last.shares[0].as_mut(), "foo", 0), [4, 5, 6, 7, 8, 9, 10, 11, 12]);
    for second in [1, 2] {
        last.shares[0].maintain(now(second)).unwrap();
    }
    assert_eq!(record_count(root.path(), "foo", 1), 0, "they are durable by now");
}

fn open_limited(
    (options, limits): (&FileOptions, &Arc<Limits>),
    epoch: u64,
    predecessor: Predecessor,
) -> Result<Opened, StoreError> {
    open_with((options, &StoreLimits::default()), limits, epoch, predecessor)
}

fn open_with(
    (options, of_store): (&FileOptions, &StoreLimits),
    limits: &Arc<Limits>,
    epoch: u64,
    predecessor: Predecessor,
) -> Result<Opened, StoreError> {
    let opening = Opening {
        options,
        limits: of_store,
        fence: Arc::new(Held(epoch)),
        predecessor,
        loops: 1,
        now: now(1),
        survey: None,
    };
    file::open_on(Arc::new(LimitedDisk(Arc::clone(limits))), opening)
}

/// Goal: nothing of an adopted tail is counted or delivered before it is in the successor's hands.
/// Without room for the copy, a member that may still live could cut what was delivered.
#[test]
fn a_full_disk_puts_off_the_take_over_from_a_member_that_may_still_live() {
    let root = tempfile::tempdir().unwrap();
    let options = FileOptions::new(root.path());
    let mut former = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=5, (0, 10)));
    let limits = Limits::roomy();
    limits.room.store(0, Ordering::Relaxed);
    let full = open_limited((&options, &limits), 2, Predecessor::Replaced);
    assert_eq!(full.err().unwrap().remedy(), Remedy::Refuse, "it can be tried again");
    // Nobody else writes any more: what lies there is synced, and stays.
    let mut last = open_limited((&options, &limits), 3, Predecessor::Gone).unwrap();
    assert_eq!(fetch(last.shares[0].as_mut(), "foo", 0), [1, 2, 3, 4, 5]);
    assert_eq!(record_count(root.path(), "foo", 1), 5);
}

#[test]
fn the_reserve_makes_room_for_the_copy() {
    let root = tempfile::tempdir().unwrap();
    let options = FileOptions::new(root.path());
    let mut former = open_epoch(&options, 1, Predecessor::Clean);
    write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=5, (0, 10)));
    let limits = Limits::roomy();
    limits.room.store(0, Ordering::Relaxed);
    limits.reserve.store(1_024 * 1_024, Ordering::Relaxed);
    let mut again = open_limited((&options, &limits), 2, Predecessor::Replaced).unwrap();
    assert_eq!(record_count(root.path(), "foo", 1), 0, "it was copied");
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 0), [1, 2, 3, 4, 5]);
}

/// A fence that holds up to some question: as that is answered, a successor begins.
struct Overtaken {
    left: AtomicUsize,
    successor: Box<dyn Fn() + Send + Sync>,
}

impl Fence for Overtaken {
    fn epoch(&self) -> Epoch {
        Epoch(2)
    }

    fn check(&self) -> Result<(), FenceError> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 1 {
            (self.successor)();
        }
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        let owner = "the successor".to_owned();
        let over = FenceError::Superseded { ours: Epoch(2), found: Epoch(3), owner };
        if left == 0 { Err(over) } else { Ok(()) }
    }
}

/// Goal: a copy that is refused takes nothing back from the files of a successor, which has chosen
/// the same number.
#[test]
fn what_is_taken_back_is_no_successors_of_the_same_number() {
    let mut overtaken_count = 0;
    for asked in 1..=8 {
        let root = tempfile::tempdir().unwrap();
        let options = FileOptions::new(root.path());
        let mut former = open_epoch(&options, 1, Predecessor::Clean);
        write(&mut former, 1, stamped("foo", Lifecycle::Create, 1..=5, (0, 10)));
        drop(former);
        let folder = root.path().join("foo");
        let files = ["idx", "dat"].map(|kind| {
            let bytes = fs::read(folder.join(format!("msgs.1.{kind}"))).unwrap();
            (folder.join(format!("msgs.1001.{kind}")), bytes)
        });
        let of_successor = files.clone();
        let make = move || {
            of_successor.iter().for_each(|(path, bytes)| {
                fs::write(path, bytes).unwrap();
            })
        };
        let fence = Overtaken { left: AtomicUsize::new(asked), successor: Box::new(make) };
        let fence = Arc::new(fence);
        let limits = Limits::roomy();
        limits.room.store(0, Ordering::Relaxed);
        let opening = Opening {
            options: &options,
            limits: &StoreLimits::default(),
            fence: Arc::clone(&fence) as Arc<dyn Fence>,
            predecessor: Predecessor::Replaced,
            loops: 1,
            now: now(1),
            survey: None,
        };
        let opened = file::open_on(Arc::new(LimitedDisk(limits)), opening);
        assert!(opened.is_err(), "{asked}: there is no room");
        if fence.left.load(Ordering::Relaxed) == 0 {
            overtaken_count += 1;
            for (path, bytes) in &files {
                assert_eq!(fs::read(path).ok().as_ref(), Some(bytes), "{asked}: {path:?}");
            }
        }
    }
    assert!(2 <= overtaken_count, "{overtaken_count}");
}

/// Goal: what is refused is taken back, also where its files were closed since, because so many
/// others were opened.
#[test]
fn what_is_refused_is_taken_back_from_files_that_were_closed() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let root = tempfile::tempdir().unwrap();
    let mut options = FileOptions::new(root.path());
    options.descriptors_max = 10;
    let limits = Limits::roomy();
    let mut opened = open_limited((&options, &limits), 1, Predecessor::Clean).unwrap();
    let parts = NAMES.map(|name| stamped(name, Lifecycle::Create, 1..=1, (0, 10)));
    opened.shares[0].commit(Epoch(1), &batch(parts.to_vec())).unwrap();
    limits.sync_error.store(28, Ordering::Relaxed);
    let parts = NAMES.map(|name| stamped(name, Lifecycle::Keep, 2..=2, (1, 10)));
    let report = opened.shares[0].commit(Epoch(1), &batch(parts.to_vec())).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_some()), "{report:?}");
    limits.sync_error.store(0, Ordering::Relaxed);
    for name in NAMES {
        assert_eq!(record_count(root.path(), name, 1), 1, "{name}");
    }
}
