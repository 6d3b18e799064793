//! What a take-over has written anew lies in old slices, too, until these are removed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/stores.rs"]
mod stores;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::errno::Errno;
use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use stanby::base::id::Sequence;
use stanby::base::record::{Batch, ChannelBatch, ClientWrite, Lifecycle, Purge};
use stanby::proto::spb;
use stanby::store::file::disk::Disk;
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, Store};
use stanby::testing::disk::{Fault, Operation};
use stanby::testing::memory_disk::{Fate, MemoryDisk, ProcessId, World, rule};

use stores::{NOTHING, batch, fetch_whole, now, part};

const FIRST: ProcessId = ProcessId(1);
const NEXT: ProcessId = ProcessId(2);
const THIRD: ProcessId = ProcessId(3);
const LAST: ProcessId = ProcessId(4);

const CHANNEL_COUNT: usize = 17;
/// In each of them, over two slices.
const MESSAGE_COUNT: u64 = 3;
/// More than the tidying of three channels takes; the others are as these.
const OPERATIONS_FOLLOWED: usize = 30;

fn name_of(number: usize) -> String {
    format!("c{number}")
}

/// A fence that is held under any epoch, until it is not.
struct Held(u64, Arc<AtomicBool>);

impl Fence for Held {
    fn epoch(&self) -> Epoch {
        Epoch(self.0)
    }

    fn check(&self) -> Result<(), FenceError> {
        if self.1.load(Ordering::SeqCst) {
            return Err(FenceError::Unreadable(std::io::Error::other("it is over")));
        }
        Ok(())
    }
}

/// Opens the store as a process, which has the epoch of its number until it is over.
fn open(
    disk: &MemoryDisk,
    process: ProcessId,
    predecessor: Predecessor,
    is_over: &Arc<AtomicBool>,
) -> Opened {
    let mut options = FileOptions::new(Path::new("/data"));
    options.slice_messages_max = 2;
    let mounted = disk.mount(process);
    file::prepare_on(&mounted, &options).unwrap();
    let opening = Opening {
        options: &options,
        limits: &StoreLimits::default(),
        fence: Arc::new(Held(u64::from(process.0), Arc::clone(is_over))),
        predecessor,
        loops: 1,
        now: now(1),
        survey: None,
    };
    file::open_on(Arc::new(mounted), opening).unwrap()
}

/// The first member's store, which is new, with these options.
fn begin(disk: &MemoryDisk, options: &FileOptions) -> Box<dyn Store> {
    let mounted = disk.mount(FIRST);
    file::prepare_on(&mounted, options).unwrap();
    let opening = Opening {
        options,
        limits: &StoreLimits::default(),
        fence: Arc::new(Held(1, Arc::default())),
        predecessor: Predecessor::Clean,
        loops: 1,
        now: now(1),
        survey: None,
    };
    file::open_on(Arc::new(mounted), opening).unwrap().shares.remove(0)
}

/// Writes to all channels.
fn publish(
    store: &mut dyn Store,
    process: ProcessId,
    (lifecycle, first, last): (Lifecycle, u64, u64),
) {
    let parts = (0..CHANNEL_COUNT).map(|number| part(&name_of(number), lifecycle, first..=last));
    let report = store.commit(Epoch(u64::from(process.0)), &batch(parts.collect())).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
}

/// A disk with many channels, of which one member has written all, and is gone.
fn written() -> MemoryDisk {
    let disk = MemoryDisk::new(1, true);
    disk.keep_order();
    let mut first = open(&disk, FIRST, Predecessor::Clean, &Arc::default()).shares.remove(0);
    publish(first.as_mut(), FIRST, (Lifecycle::Create, 1, MESSAGE_COUNT));
    disk
}

/// The numbers of the slices in the folder of a channel, and whatever waits to be removed.
fn slices(disk: &MemoryDisk, number: usize) -> BTreeSet<String> {
    let root = disk.mount(FIRST).open_root(Path::new("/data")).unwrap();
    let entries = root.folder(name_of(number).as_bytes()).unwrap().list().unwrap();
    let names = entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap());
    names.filter(|name| name.contains("msgs.")).collect()
}

/// Whether nothing is left but what the second member has made.
fn is_tidy(disk: &MemoryDisk) -> bool {
    let is_new = |name: &String| name.starts_with("msgs.100");
    (0..CHANNEL_COUNT).all(|number| slices(disk, number).iter().all(is_new))
}

/// All of it, however slow the machine is: no turn takes long.
fn tidy(store: &mut dyn Store) {
    for second in 0..=CHANNEL_COUNT {
        let _unknown = store.maintain(now(1 + second as u64));
    }
}

/// Each message is there once, whole, up to `last`.
fn assert_whole(store: &mut dyn Store, last: u64, case: &str) {
    for number in 0..CHANNEL_COUNT {
        let found = fetch_whole(store, &name_of(number), 1);
        let found: Vec<(u64, Vec<u8>)> =
            found.into_iter().map(|message| (message.sequence, message.data.to_vec())).collect();
        let expected: Vec<(u64, Vec<u8>)> =
            (1..=last).map(|sequence| (sequence, format!("m{sequence}").into_bytes())).collect();
        assert_eq!(found, expected, "{} {case}", name_of(number));
    }
}

/// A disk that takes no rename of a slice: there is no room for a longer name.
struct Full;

impl World for Full {
    fn before(&self, _process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        let is_slice = String::from_utf8_lossy(name).contains("msgs.");
        if operation == Operation::Rename && is_slice {
            Fate::Fails(Fault::Refused(Errno::ENOSPC))
        } else {
            Fate::Done
        }
    }
}

/// Opens the store on a disk that is full, which has room from then on.
fn open_on_full(
    disk: &MemoryDisk,
    process: ProcessId,
    predecessor: Predecessor,
    is_over: &Arc<AtomicBool>,
) -> Opened {
    rule(Some(Rc::new(Full)));
    let opened = open(disk, process, predecessor, is_over);
    rule(None);
    opened
}

/// Goal: once a store is open, each message lies in one file: a Go server that opens it after a
/// kill counts what lies twice twice, and its limits let go of messages by that.
#[test]
fn what_was_written_anew_lies_once_as_soon_as_the_store_is_open() {
    let disk = written();
    let mut opened = open(&disk, NEXT, Predecessor::Gone, &Arc::default());
    assert!(is_tidy(&disk), "{:?}", slices(&disk, 0));
    assert_whole(opened.shares[0].as_mut(), MESSAGE_COUNT, "open");
}

/// Goal: where there was no room for that, it goes once the store serves, and with a stop.
#[test]
fn old_slices_that_a_full_disk_keeps_go_when_there_is_room() {
    let disk = written();
    let mut opened = open_on_full(&disk, NEXT, Predecessor::Gone, &Arc::default());
    let store = opened.shares[0].as_mut();
    assert!(!is_tidy(&disk));
    publish(store, NEXT, (Lifecycle::Keep, 4, 4));
    assert_whole(store, 4, "before");
    tidy(store);
    assert!(is_tidy(&disk), "{:?}", slices(&disk, 0));
    assert_whole(store, 4, "after");

    let disk = written();
    let mut opened = open_on_full(&disk, NEXT, Predecessor::Gone, &Arc::default());
    assert!(!is_tidy(&disk));
    opened.shares[0].close().unwrap();
    assert!(is_tidy(&disk), "{:?}", slices(&disk, 0));
}

/// After so many operations the process is dead, if it gets so far.
struct Deadline {
    process: ProcessId,
    left: Cell<usize>,
    is_reached: Cell<bool>,
}

impl World for Deadline {
    fn before(&self, process: ProcessId, _operation: Operation, _name: &[u8]) -> Fate {
        if process != self.process {
            return Fate::Done;
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 {
            self.is_reached.set(true);
            return Fate::Dead;
        }
        Fate::Done
    }
}

/// Goal: wherever the tidying breaks off, with a power failure or without one, before something was
/// written behind it or after, and wherever the next one breaks off: each message is there once.
#[test]
fn a_tidying_that_breaks_off_takes_nothing() {
    for (is_written, is_cut) in [(false, false), (false, true), (true, false), (true, true)] {
        for operations in 0..OPERATIONS_FOLLOWED {
            let case = format!("{operations} {is_written} {is_cut}");
            let disk = written();
            let mut last = MESSAGE_COUNT;
            for process in [NEXT, THIRD] {
                let mut opened = open_on_full(&disk, process, Predecessor::Gone, &Arc::default());
                let store = opened.shares[0].as_mut();
                if is_written {
                    last += 1;
                    publish(store, process, (Lifecycle::Keep, last, last));
                }
                let left = Cell::new(operations);
                let deadline = Rc::new(Deadline { process, left, is_reached: Cell::default() });
                rule(Some(deadline.clone()));
                tidy(store);
                rule(None);
                assert!(deadline.is_reached.get(), "it breaks off");
                drop(opened);
                if is_cut {
                    disk.cut_power();
                }
            }
            let mut opened = open(&disk, LAST, Predecessor::Gone, &Arc::default());
            assert_whole(opened.shares[0].as_mut(), last, &case);
        }
    }
}

/// Stands still before one operation.
struct Standing {
    left: Cell<usize>,
    stands: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl World for Standing {
    fn before(&self, _process: ProcessId, _operation: Operation, _name: &[u8]) -> Fate {
        let left = self.left.replace(self.left.get().wrapping_sub(1));
        if left == 0 {
            self.stands.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
        Fate::Done
    }
}

/// What the successor does while the former active stands still.
#[derive(Clone, Copy, Debug)]
enum Successor {
    Reads,
    Writes,
    /// It writes, and tidies up.
    Tidies,
}

fn stand_and_go_on(operations: usize, successor: Successor) {
    let disk = written();
    let is_over = Arc::<AtomicBool>::default();
    let (stands, is_standing) = mpsc::channel();
    let (goes_on, go_on) = mpsc::channel();
    let former = thread::spawn({
        let (disk, is_over) = (disk.clone(), Arc::clone(&is_over));
        move || {
            let mut opened = open_on_full(&disk, NEXT, Predecessor::Gone, &is_over);
            rule(Some(Rc::new(Standing { left: Cell::new(operations), stands, go_on })));
            tidy(opened.shares[0].as_mut());
            rule(None);
        }
    });
    is_standing.recv().unwrap();
    is_over.store(true, Ordering::SeqCst);
    let mut opened = open(&disk, THIRD, Predecessor::Replaced, &Arc::default());
    let store = opened.shares[0].as_mut();
    let mut last = MESSAGE_COUNT;
    let case = format!("{operations} {successor:?}");
    if !matches!(successor, Successor::Reads) {
        last += 1;
        publish(store, THIRD, (Lifecycle::Keep, last, last));
    }
    if matches!(successor, Successor::Tidies) {
        tidy(store);
    }
    goes_on.send(()).unwrap();
    former.join().unwrap();
    assert_whole(store, last, &case);
    publish(store, THIRD, (Lifecycle::Keep, last + 1, last + 1));
    tidy(store);
    assert_whole(store, last + 1, &case);
    drop(opened);
    let mut opened = open(&disk, LAST, Predecessor::Gone, &Arc::default());
    assert_whole(opened.shares[0].as_mut(), last + 1, &case);
}

/// Goal: a former active that was stopped anywhere in its tidying changes nothing of what its
/// successor reads, nor of what the one after that finds (P3).
#[test]
fn a_former_active_that_goes_on_tidying_changes_nothing() {
    for successor in [Successor::Reads, Successor::Writes, Successor::Tidies] {
        (0..OPERATIONS_FOLLOWED).for_each(|operations| stand_and_go_on(operations, successor));
    }
}

/// Goal: however much an operator lets go of, commits wait for a few slices at a time.
#[test]
fn a_purge_takes_few_slices_away_at_once() {
    const SLICES: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let options = FileOptions { slice_messages_max: 2, ..FileOptions::new(folder.path()) };
    let mut opened =
        stores::open_as(&options, &StoreLimits::default(), Predecessor::Clean).unwrap();
    let share = opened.shares[0].as_mut();
    stores::commit(share, &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
    for slice in 1..SLICES {
        let more = part("foo", Lifecycle::Keep, 2 * slice + 1..=2 * slice + 2);
        stores::commit(share, &batch(vec![more]));
    }
    let files = || {
        let entries = std::fs::read_dir(folder.path().join("foo")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("msgs.") && name.ends_with(".dat")).count()
    };
    let mut left = files();
    assert_eq!(left as u64, SLICES);
    let last = 2 * SLICES;
    let purge = Purge { first: Sequence(last - 2), stand_in: None };
    let purged = ChannelBatch { purge: Some(purge), ..part("foo", Lifecycle::Keep, NOTHING) };
    let report = stores::commit(share, &batch(vec![purged]));
    let state = report.channels[0].state;
    assert_eq!((state.first.get(), state.last.get(), state.message_count), (last - 2, last, 3));
    assert_eq!(stores::fetch(share, "foo", 1), [last - 2, last - 1, last]);
    let mark = folder.path().join(format!("foo/purged.{}", last - 2));
    for seconds in 2.. {
        let now = files();
        // Eight, and eight more once what stays of one is written anew; each is data and index.
        assert!(left.saturating_sub(now) <= 17, "{left} slices, then {now}");
        left = now;
        if !mark.exists() {
            break;
        }
        let maintained = share.maintain(stores::now(seconds)).unwrap();
        assert!(maintained.next_in.is_some() || !mark.exists(), "{left} slices are left");
    }
    assert!(left <= 2, "{left} slices are left");
    assert_eq!(stores::fetch(share, "foo", 1), [last - 2, last - 1, last]);
    share.close().unwrap();
    let opened = stores::open(folder.path());
    assert_eq!(opened.recovered.channels[0].state, state);
}

/// Goal: a limit is kept however fast slices die: no file of what is gone waits.
#[test]
fn slices_that_a_limit_lets_go_of_are_removed_with_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let options = FileOptions { slice_messages_max: 2, ..FileOptions::new(folder.path()) };
    let mut limits = StoreLimits::default();
    limits.global.messages_max = 4;
    let mut opened = stores::open_as(&options, &limits, Predecessor::Clean).unwrap();
    let share = opened.shares[0].as_mut();
    stores::commit(share, &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
    for round in 0..20 {
        let first = 3 + 60 * round;
        stores::commit(share, &batch(vec![part("foo", Lifecycle::Keep, first..=first + 59)]));
        let entries = std::fs::read_dir(folder.path().join("foo")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left = names.filter(|name| name.ends_with(".dat") && name.starts_with("msgs.")).count();
        assert!(left <= 4, "{left} slices are left in round {round}");
    }
}

/// Goal: however many slices a limit lets go of at once, commits wait for a part of them only.
#[test]
fn very_many_slices_that_a_limit_lets_go_of_go_in_turns() {
    const SLICES: u64 = 300;
    let folder = tempfile::tempdir().unwrap();
    let options = FileOptions { slice_messages_max: 2, ..FileOptions::new(folder.path()) };
    let mut limits = StoreLimits::default();
    limits.global.age_max = std::time::Duration::from_secs(100);
    let mut opened = stores::open_as(&options, &limits, Predecessor::Clean).unwrap();
    let share = opened.shares[0].as_mut();
    stores::commit(share, &batch(vec![part("foo", Lifecycle::Create, 1..=2 * SLICES)]));
    let files = || {
        let entries = std::fs::read_dir(folder.path().join("foo")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("msgs.") && name.ends_with(".dat")).count() as u64
    };
    assert_eq!(files(), SLICES);
    let (mut left, mut turns) = (SLICES, 0);
    while 1 < left {
        assert!(turns < 100, "{left} slices are left");
        let maintained = share.maintain(now(1_000 + turns)).unwrap();
        let before = std::mem::replace(&mut left, files());
        // Those of a turn's own, and those that are tried again.
        assert!(before - left <= 128, "{before} slices, then {left}");
        assert!(left <= 1 || maintained.next_in.is_some(), "nobody comes back for {left} slices");
        turns += 1;
    }
    assert!(2 < turns, "{turns} turns");
}

/// A disk that has no room so often when a slice is synced, from when it is armed.
#[derive(Clone, Default)]
struct NoRoomToSync(Rc<Cell<usize>>);

impl World for NoRoomToSync {
    fn before(&self, _process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        let left = self.0.get();
        if operation != Operation::SyncFile || !name.starts_with(b"msgs.") || left == 0 {
            return Fate::Done;
        }
        self.0.set(left - 1);
        Fate::Fails(Fault::Refused(Errno::ENOSPC))
    }
}

/// The first member keeps the last of three messages in each channel, of slices of two.
fn purge_all(store: &mut dyn Store) {
    let purge = || Some(Purge { first: Sequence(2), stand_in: None });
    let purged = |number| {
        let part = part(&name_of(number), Lifecycle::Keep, NOTHING);
        ChannelBatch { purge: purge(), ..part }
    };
    let report = store.commit(Epoch(1), &batch((0..CHANNEL_COUNT).map(purged).collect())).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
}

fn sequences(store: &mut dyn Store) -> Vec<Vec<u64>> {
    let found = |number| {
        let found = fetch_whole(store, &name_of(number), 1);
        found.into_iter().map(|message| message.sequence).collect()
    };
    (0..CHANNEL_COUNT).map(found).collect()
}

/// Goal: after a sync that failed, what it was to cover is no message's only copy, nor a second one
/// beside another; and the answer of nobody hangs on it.
#[test]
fn a_copy_that_could_not_be_synced_is_taken_back() {
    for (failures, publishes_between) in [(1, true), (1, false), (40, true), (40, false)] {
        let case = format!("{failures} syncs find no room, {publishes_between}");
        let disk = MemoryDisk::new(1, false);
        disk.keep_order();
        let mut store = open(&disk, FIRST, Predecessor::Clean, &Arc::default()).shares.remove(0);
        publish(store.as_mut(), FIRST, (Lifecycle::Create, 1, MESSAGE_COUNT));
        let world = NoRoomToSync::default();
        rule(Some(Rc::new(world.clone())));
        world.0.set(failures);
        purge_all(store.as_mut());
        let mut last = MESSAGE_COUNT;
        if publishes_between {
            world.0.set(0);
            last += 1;
            publish(store.as_mut(), FIRST, (Lifecycle::Keep, last, last));
            world.0.set(failures);
        }
        for second in 2..=60 {
            store.maintain(now(second)).unwrap();
        }
        assert_eq!(world.0.get(), 0, "{case}");
        last += 1;
        publish(store.as_mut(), FIRST, (Lifecycle::Keep, last, last));
        let expected = vec![(2..=last).collect::<Vec<u64>>(); CHANNEL_COUNT];
        assert_eq!(sequences(store.as_mut()), expected, "{case}");
        store.close().unwrap();
        drop(store);
        rule(None);
        for number in 0..CHANNEL_COUNT {
            let kept = usize::try_from(last - 1).unwrap();
            let files = slices(&disk, number);
            assert!(files.len() <= 2 * kept.div_ceil(2) + 2, "{case}: {files:?}");
        }
        disk.cut_power();
        let mut next = open(&disk, NEXT, Predecessor::Gone, &Arc::default());
        let states = next.recovered.channels.iter().map(|found| found.state.message_count);
        assert!(states.eq([last - 1; CHANNEL_COUNT]), "{case}: {:?}", next.recovered.channels);
        assert_eq!(sequences(next.shares[0].as_mut()), expected, "{case}");
    }
}

/// Goal: messages whose sync was put off are refused to nobody, so a sync of them that finds no
/// room ends the store; it is not forgotten by the next one, which finds nothing left to write.
#[test]
fn a_sync_that_was_put_off_and_finds_no_room_ends_the_store() {
    for by_time in [false, true] {
        let disk = MemoryDisk::new(1, false);
        let mut options = FileOptions::new(Path::new("/data"));
        options.auto_sync = Some(std::time::Duration::from_secs(1));
        let mut store = begin(&disk, &options);
        let part = part("foo", Lifecycle::Create, 1..=1);
        let put_off = Batch { durable: false, ..batch(vec![part]) };
        store.commit(Epoch(1), &put_off).unwrap();
        let world = NoRoomToSync::default();
        rule(Some(Rc::new(world.clone())));
        world.0.set(1);
        if by_time {
            store.maintain(now(60)).unwrap_err();
        } else {
            let clients = vec![ClientWrite::Add(spb::ClientInfo::default())];
            let of_clients = Batch { clients, durable: true, ..Batch::default() };
            store.commit(Epoch(1), &of_clients).unwrap_err();
        }
        assert_eq!(world.0.get(), 0);
        rule(None);
    }
}

/// Goal: what was made durable by and by stays so where it is written anew.
#[test]
fn what_a_purge_writes_anew_is_durable_where_nothing_is_synced_with_a_commit() {
    for seed in 0..20 {
        let disk = MemoryDisk::new(seed, seed % 2 == 0);
        disk.keep_order();
        let mut options = FileOptions::new(Path::new("/data"));
        (options.sync, options.slice_messages_max) = (false, 2);
        options.auto_sync = Some(std::time::Duration::from_secs(1));
        let mut store = begin(&disk, &options);
        publish(store.as_mut(), FIRST, (Lifecycle::Create, 1, MESSAGE_COUNT));
        store.maintain(now(5)).unwrap();
        purge_all(store.as_mut());
        store.maintain(now(6)).unwrap();
        drop(store);
        disk.cut_power();
        let mut next = open(&disk, NEXT, Predecessor::Gone, &Arc::default());
        let found = sequences(next.shares[0].as_mut());
        assert!(found.iter().all(|found| found.ends_with(&[2, 3])), "{seed}: {found:?}");
    }
}
