//! What the power leaves of a batch that it interrupts, wherever it does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/stores.rs"]
mod stores;

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::errno::Errno;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use stanby::base::random::Random;
use stanby::base::record::{ChannelBatch, Lifecycle, SubscriptionWrite};
use stanby::proto::pb::MsgProto;
use stanby::store::file::disk::{Access, Disk};
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, StoreError};
use stanby::testing::disk::{Fault, Operation};
use stanby::testing::memory_disk::{Fate, MemoryDisk, ProcessId, World, rule};

use stores::{batch, fetch, fetch_whole, message_at, now, part, subscription};

const FIRST: ProcessId = ProcessId(1);
const NEXT: ProcessId = ProcessId(2);

/// A fence that is held under any epoch, until it is not.
struct Held(u64, Arc<AtomicBool>);

impl Fence for Held {
    fn epoch(&self) -> Epoch {
        Epoch(self.0)
    }

    fn check(&self) -> Result<(), FenceError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(FenceError::Unreadable(std::io::Error::other("it is over")));
        }
        Ok(())
    }
}

/// So many operations of the first process are done; then it is dead.
#[derive(Default)]
struct Deadline {
    left: Cell<usize>,
    is_reached: Cell<bool>,
}

impl World for Deadline {
    fn before(&self, process: ProcessId, _operation: Operation, _name: &[u8]) -> Fate {
        if process != FIRST {
            return Fate::Done;
        }
        self.is_reached.set(self.left.get() == 0);
        self.left.set(self.left.get().saturating_sub(1));
        if self.is_reached.get() { Fate::Dead } else { Fate::Done }
    }
}

/// Opens the store as a process, which has the epoch of its number.
fn try_open(
    on: (&MemoryDisk, i64),
    process: ProcessId,
    predecessor: Predecessor,
) -> Result<Opened, StoreError> {
    try_open_until(on, process, predecessor, Arc::default())
}

/// The same; once `is_over`, its epoch is no more.
fn try_open_until(
    on: (&MemoryDisk, i64),
    process: ProcessId,
    predecessor: Predecessor,
    is_over: Arc<AtomicBool>,
) -> Result<Opened, StoreError> {
    try_open_limited(on, process, predecessor, (is_over, &StoreLimits::default()))
}

/// The same with limits.
fn try_open_limited(
    (disk, slice_messages_max): (&MemoryDisk, i64),
    process: ProcessId,
    predecessor: Predecessor,
    (is_over, limits): (Arc<AtomicBool>, &StoreLimits),
) -> Result<Opened, StoreError> {
    let mut options = FileOptions::new(Path::new("/data"));
    options.slice_messages_max = slice_messages_max;
    let mounted = disk.mount(process);
    file::prepare_on(&mounted, &options)?;
    let opening = Opening {
        options: &options,
        limits,
        fence: Arc::new(Held(u64::from(process.0), is_over)),
        predecessor,
        loops: 1,
        now: now(1),
        survey: None,
    };
    file::open_on(Arc::new(mounted), opening)
}

fn open(disk: &MemoryDisk, process: ProcessId, predecessor: Predecessor) -> Opened {
    try_open((disk, 3), process, predecessor).unwrap()
}

fn commit(store: &mut dyn stanby::store::Store, process: ProcessId, part: ChannelBatch) {
    let report = store.commit(Epoch(u64::from(process.0)), &batch(vec![part])).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
}

/// What is found of a batch over several slices that ends after so many operations, if it does.
fn found_after(operations: usize, seed: u64) -> Option<Vec<u64>> {
    let disk = MemoryDisk::new(seed, seed.is_multiple_of(2));
    disk.keep_order();
    let mut store = open(&disk, FIRST, Predecessor::Clean).shares.remove(0);
    commit(store.as_mut(), FIRST, part("foo", Lifecycle::Create, 1..=2));
    let deadline = Rc::new(Deadline { left: Cell::new(operations), ..Deadline::default() });
    rule(Some(deadline.clone()));
    let _unknown = store.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 3..=9)]));
    rule(None);
    drop(store);
    disk.cut_power();
    let mut store = open(&disk, NEXT, Predecessor::Gone).shares.remove(0);
    deadline.is_reached.get().then(|| fetch(store.as_mut(), "foo", 1))
}

/// Goal: sequences have no gap, whatever of a batch has reached the disk (P4).
#[test]
fn a_power_failure_in_a_batch_over_several_slices_leaves_no_gap() {
    let mut seen = [0; 2];
    for seed in 0..40 {
        for operations in 0.. {
            let Some(found) = found_after(operations, seed) else { break };
            let expected: Vec<u64> = (1..).take(found.len()).collect();
            assert_eq!(found, expected, "seed {seed}, after {operations} operations");
            seen[usize::from(2 < found.len())] += 1;
        }
    }
    assert!(seen.iter().all(|count| 100 < *count), "both were seen: {seen:?}");
}

/// Before some operation of the first process, another one takes over, which ends after so many.
struct Meeting {
    first: Deadline,
    next: Rc<Deadline>,
    disk: MemoryDisk,
    is_over: Arc<AtomicBool>,
}

impl World for Meeting {
    fn before(&self, process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        if process == NEXT {
            return self.next.before(FIRST, operation, name);
        }
        let was_over = self.is_over.load(Ordering::Relaxed);
        if !was_over && self.first.before(process, operation, name) == Fate::Dead {
            self.is_over.store(true, Ordering::Relaxed);
            drop(try_open((&self.disk, 3), NEXT, Predecessor::Replaced));
        }
        Fate::Done
    }
}

/// What a third process finds; `None` where one of the two came to its end before.
fn found_after_meeting(first: usize, next: usize) -> Option<Vec<u64>> {
    const THIRD: ProcessId = ProcessId(3);
    let disk = MemoryDisk::new(1, false);
    let is_over = Arc::new(AtomicBool::new(false));
    let opened = try_open_until((&disk, 3), FIRST, Predecessor::Clean, Arc::clone(&is_over));
    let mut store = opened.unwrap().shares.remove(0);
    commit(store.as_mut(), FIRST, part("foo", Lifecycle::Create, 1..=2));
    let deadline = |operations| Deadline { left: Cell::new(operations), ..Deadline::default() };
    let (first, next) = (deadline(first), Rc::new(deadline(next)));
    let meeting = Meeting { first, next: Rc::clone(&next), disk: disk.clone(), is_over };
    rule(Some(Rc::new(meeting)));
    let _unknown = store.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 3..=9)]));
    rule(None);
    drop(store);
    let mut store = open(&disk, THIRD, Predecessor::Gone).shares.remove(0);
    next.is_reached.get().then(|| fetch(store.as_mut(), "foo", 1))
}

/// Goal: a former active that goes on with a batch over several slices, whatever a successor has
/// done that has ended early, leaves no gap (P3, P4).
#[test]
fn a_batch_that_goes_on_after_a_take_over_that_broke_off_leaves_no_gap() {
    let mut seen = 0;
    for first in 0.. {
        let mut was_reached = false;
        for next in 0.. {
            let Some(found) = found_after_meeting(first, next) else { break };
            let expected: Vec<u64> = (1..).take(found.len()).collect();
            assert_eq!(found, expected, "{first} and {next} operations");
            assert!(2 <= found.len(), "{first} and {next} operations");
            (was_reached, seen) = (true, seen + 1);
        }
        if !was_reached {
            break;
        }
    }
    assert!(500 < seen, "{seen}");
}

/// Before some operation of the first process, another one takes over, and goes on until the limits
/// have let go of all that it found and of what it wrote first.
struct Overtaking {
    first: Deadline,
    disk: MemoryDisk,
    is_over: Arc<AtomicBool>,
}

impl World for Overtaking {
    fn before(&self, process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        let was_over = self.is_over.load(Ordering::Relaxed);
        if !was_over && self.first.before(process, operation, name) == Fate::Dead {
            self.is_over.store(true, Ordering::Relaxed);
            let mut four = StoreLimits::default();
            four.global.messages_max = 4;
            let held = (Arc::default(), &four);
            let opened = try_open_limited((&self.disk, 3), NEXT, Predecessor::Replaced, held);
            let mut opened = opened.unwrap();
            let last = opened.recovered.channels[0].state.last.0;
            let store = opened.shares[0].as_mut();
            for first in (last + 1..last + 30).step_by(3) {
                commit(store, NEXT, part("foo", Lifecycle::Keep, first..=first + 2));
                store.maintain(now(first)).unwrap();
            }
        }
        Fate::Done
    }
}

/// Goal: what a former active writes into a slice that it makes late never surfaces, though nothing
/// that superseded it is there any more (P3, P4).
#[test]
fn a_slice_that_is_made_late_holds_nothing() {
    const THIRD: ProcessId = ProcessId(3);
    for operations in 0.. {
        let disk = MemoryDisk::new(1, false);
        let is_over = Arc::new(AtomicBool::new(false));
        let opened = try_open_until((&disk, 3), FIRST, Predecessor::Clean, Arc::clone(&is_over));
        let mut store = opened.unwrap().shares.remove(0);
        commit(store.as_mut(), FIRST, part("foo", Lifecycle::Create, 1..=2));
        let first = Deadline { left: Cell::new(operations), ..Deadline::default() };
        let overtaking = Overtaking { first, disk: disk.clone(), is_over: Arc::clone(&is_over) };
        rule(Some(Rc::new(overtaking)));
        let _unknown = store.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 3..=12)]));
        rule(None);
        drop(store);
        if !is_over.load(Ordering::Relaxed) {
            assert!(30 < operations, "{operations}");
            break;
        }
        let mut store = open(&disk, THIRD, Predecessor::Gone).shares.remove(0);
        let found = fetch(store.as_mut(), "foo", 1);
        assert!(3 < found.len(), "{found:?} after {operations} operations");
        let is_dense = found.windows(2).all(|two| two[0] + 1 == two[1]);
        assert!(is_dense, "{found:?} after {operations} operations");
    }
}

/// Before some operation of the first process, another one takes over, which stands still before
/// one of its own until the first has ended.
struct Crossing {
    first: Deadline,
    disk: MemoryDisk,
    next: (usize, usize),
    is_over: Arc<AtomicBool>,
    successor: RefCell<Option<Successor>>,
}

/// Tells it to go on; what it has found.
type Successor = (mpsc::Sender<()>, thread::JoinHandle<Option<Vec<u64>>>);

/// Stands still before one operation, and ends after some more.
struct Standing {
    left: Cell<usize>,
    more: Cell<usize>,
    stood: Cell<bool>,
    stands: mpsc::Sender<bool>,
    go_on: mpsc::Receiver<()>,
}

impl World for Standing {
    fn before(&self, _process: ProcessId, _operation: Operation, _name: &[u8]) -> Fate {
        if self.left.get() == 0 && !self.stood.replace(true) {
            self.stands.send(true).unwrap();
            self.go_on.recv().unwrap();
        }
        let left = if self.stood.get() { &self.more } else { &self.left };
        let is_over = left.get() == 0;
        left.set(left.get().saturating_sub(1));
        if is_over { Fate::Dead } else { Fate::Done }
    }
}

impl World for Crossing {
    fn before(&self, process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        let was_over = self.is_over.load(Ordering::Relaxed);
        if !was_over && self.first.before(process, operation, name) == Fate::Dead {
            self.is_over.store(true, Ordering::Relaxed);
            let (stands, is_standing) = mpsc::channel();
            let (goes_on, go_on) = mpsc::channel();
            let (disk, (left, more)) = (self.disk.clone(), self.next);
            let thread = thread::spawn(move || {
                let ended = stands.clone();
                let (left, more, stood) = (Cell::new(left), Cell::new(more), Cell::default());
                rule(Some(Rc::new(Standing { left, more, stood, stands, go_on })));
                let opened = try_open((&disk, 3), NEXT, Predecessor::Replaced);
                rule(None);
                let _ = ended.send(false);
                opened.ok().map(|mut opened| fetch(opened.shares[0].as_mut(), "foo", 1))
            });
            if is_standing.recv().unwrap() {
                self.successor.replace(Some((goes_on, thread)));
            } else {
                thread.join().unwrap();
            }
        }
        Fate::Done
    }
}

/// What the second and a third process find; `None` where one of the two came to its end before.
fn found_after_crossing(
    first: usize,
    next: (usize, usize),
) -> Option<(Option<Vec<u64>>, Vec<u64>)> {
    const THIRD: ProcessId = ProcessId(3);
    let disk = MemoryDisk::new(1, false);
    let is_over = Arc::new(AtomicBool::new(false));
    let opened = try_open_until((&disk, 3), FIRST, Predecessor::Clean, Arc::clone(&is_over));
    let mut store = opened.unwrap().shares.remove(0);
    commit(store.as_mut(), FIRST, part("foo", Lifecycle::Create, 1..=2));
    let crossing = Rc::new(Crossing {
        first: Deadline { left: Cell::new(first), ..Deadline::default() },
        disk: disk.clone(),
        next,
        is_over,
        successor: RefCell::default(),
    });
    rule(Some(crossing.clone()));
    let _unknown = store.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 3..=7)]));
    rule(None);
    drop(store);
    let (goes_on, thread) = crossing.successor.take()?;
    goes_on.send(()).unwrap();
    let found = thread.join().unwrap();
    let mut store = open(&disk, THIRD, Predecessor::Gone).shares.remove(0);
    Some((found, fetch(store.as_mut(), "foo", 1)))
}

/// Goal: the same where the successor stands still before some operation meanwhile, and ends soon
/// after it, or not.
#[test]
fn a_batch_that_goes_on_in_the_midst_of_a_take_over_leaves_no_gap() {
    let mut seen = 0;
    for (first, more) in (0..).flat_map(|first| [5, usize::MAX].map(|more| (first, more))) {
        let mut was_reached = false;
        for next in 0.. {
            let Some((found, at_last)) = found_after_crossing(first, (next, more)) else { break };
            for found in found.iter().chain([&at_last]) {
                let expected: Vec<u64> = (1..).take(found.len()).collect();
                assert_eq!(*found, expected, "{first}, {next} and {more} operations");
                assert!(2 <= found.len(), "{first}, {next} and {more} operations");
            }
            (was_reached, seen) = (true, seen + 1);
        }
        if !was_reached {
            break;
        }
    }
    assert!(500 < seen, "{seen}");
}

/// Long messages, so that each takes sectors of its own; those of each process are others.
fn long(process: ProcessId, lifecycle: Lifecycle, sequences: RangeInclusive<u64>) -> ChannelBatch {
    let message = |sequence| {
        let mut record = message_at("foo", sequence, i64::from(process.0));
        let mut bytes = record.encoded.to_vec();
        // An unknown field, which is kept.
        bytes.extend([0xfa, 0x07, 0xac, 0x02]);
        bytes.extend([b'a' + u8::try_from(process.0).unwrap(); 300]);
        record.encoded = bytes.into();
        record
    };
    // As many records of subscriptions, so that these take some sectors, too.
    let subscriptions = sequences.clone().map(|sequence| {
        let id = u64::from(process.0) * 1_000 + sequence;
        SubscriptionWrite::Create(subscription(id).into())
    });
    ChannelBatch {
        subscriptions: subscriptions.collect(),
        messages: sequences.map(message).collect(),
        ..part("foo", lifecycle, stores::NOTHING)
    }
}

/// From some operation on, a number of syncs of a process fail, or it is dead.
struct Trouble {
    process: ProcessId,
    from: usize,
    syncs_fail: bool,
    count: Cell<usize>,
}

impl World for Trouble {
    fn before(&self, process: ProcessId, operation: Operation, _name: &[u8]) -> Fate {
        if process != self.process {
            return Fate::Done;
        }
        let number = self.count.replace(self.count.get() + 1);
        let is_sync = matches!(operation, Operation::SyncFile | Operation::SyncFilesystem);
        if number < self.from {
            Fate::Done
        } else if !self.syncs_fail {
            Fate::Dead
        } else if is_sync {
            Fate::Fails(Fault::Refused(Errno::EIO))
        } else {
            Fate::Done
        }
    }
}

/// Seeds that are run without being asked for.
const SEEDS: u64 = 3_000;
/// Seeds at which several slices had each lost their front, and hid it from one another.
const FRONTS_LOST: [u64; 8] = [10_171, 12_334, 73_220, 78_362, 92_503, 94_703, 109_657, 125_549];

/// A number that the environment gives.
fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// Goal: blocks reach the disk in any order, and whoever takes over may fail as well, with further
/// power failures. What was acknowledged is there, once, and no sequence is missing (P1, P4).
/// `STANBY_SEEDS` says how many seeds from `STANBY_FIRST_SEED` on are run.
#[test]
fn whatever_blocks_power_failures_take_they_leave_no_gap() {
    let first = number_of("STANBY_FIRST_SEED").unwrap_or(0);
    let seeds = first..first + number_of("STANBY_SEEDS").unwrap_or(SEEDS);
    let shortened: u64 = seeds.chain(FRONTS_LOST).map(after_power_failures).sum();
    assert!(20 < shortened, "holes were seen: {shortened}");
}

/// Interrupts a batch and what takes over, with up to three power failures; gives how often the end
/// of a slice was cut at last.
fn after_power_failures(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let disk = MemoryDisk::new(seed, seed.is_multiple_of(2));
    if seed.is_multiple_of(3) {
        disk.keep_order();
    }
    let trouble = |process, random: &mut Random, most| {
        let from = usize::try_from(random.below(most)).unwrap();
        let (syncs_fail, count) = (random.below(3) != 0, Cell::default());
        rule(Some(Rc::new(Trouble { process, from, syncs_fail, count })));
    };
    let mut store = try_open((&disk, 0), FIRST, Predecessor::Clean).unwrap().shares.remove(0);
    // The first messages of a channel may be the ones that are interrupted.
    let is_new = random.below(3) == 0;
    if !is_new {
        commit(store.as_mut(), FIRST, long(FIRST, Lifecycle::Create, 1..=3));
    }
    trouble(FIRST, &mut random, 16);
    let last = 4 + random.below(12);
    let (lifecycle, before) = if is_new { (Lifecycle::Create, 0) } else { (Lifecycle::Keep, 3) };
    let unknown = batch(vec![long(FIRST, lifecycle, before + 1..=last)]);
    let acked = if store.commit(Epoch(1), &unknown).is_ok() { last } else { before };
    drop(store);
    let mut process = NEXT;
    let mut cuts_before_last = random.below(3);
    for _ in 0..4 {
        if cuts_before_last == 0 {
            break;
        }
        trouble(process, &mut random, 60);
        let opened = try_open((&disk, 0), process, Predecessor::Gone);
        rule(None);
        drop(opened);
        if random.below(2) == 0 {
            disk.cut_power();
            cuts_before_last -= 1;
        }
        process.0 += 1;
    }
    rule(None);
    disk.cut_power();
    served_twice(&disk, process, acked, seed)
}

/// What was acknowledged before the last power failure is there, and what is acknowledged now is
/// there after the next one.
fn served_twice(disk: &MemoryDisk, first: ProcessId, acked_before: u64, seed: u64) -> u64 {
    let (mut acked, mut shortened) = (acked_before, 0);
    for process in [first, ProcessId(first.0 + 1)] {
        let mut opened = try_open((disk, 0), process, Predecessor::Gone).unwrap();
        let Some(channel) = opened.recovered.channels.first() else {
            assert_eq!(acked, 0, "seed {seed}: a channel is gone");
            break;
        };
        let state = channel.state;
        let messages = fetch_whole(opened.shares[0].as_mut(), "foo", 1);
        let found: Vec<u64> = messages.iter().map(|message| message.sequence).collect();
        let all: Vec<u64> = (1..=state.last.get()).collect();
        assert_eq!(found, all, "seed {seed}, {process:?}");
        let is_acked = |message: &&MsgProto| message.sequence <= acked_before;
        let is_there = |message: &MsgProto| !message.data.is_empty();
        assert!(messages.iter().filter(is_acked).all(is_there), "seed {seed}: stood in for");
        assert!(acked <= state.last.get(), "seed {seed}: {acked} were acknowledged");
        let cut = opened.notices.iter().filter(|one| one.text.contains("has left nothing"));
        shortened += u64::from(cut.count() != 0);
        acked = state.last.get() + 2;
        let more = long(process, Lifecycle::Keep, state.last.get() + 1..=acked);
        commit(opened.shares[0].as_mut(), process, more);
        drop(opened);
        disk.cut_power();
    }
    shortened
}

/// Goal: a message that is damaged in another way than by blocks that were never written may have
/// acknowledged ones behind it: nothing is cut.
#[test]
fn damage_that_is_no_hole_is_never_cut() {
    let disk = MemoryDisk::new(1, true);
    let mut store = try_open((&disk, 0), FIRST, Predecessor::Clean).unwrap().shares.remove(0);
    commit(store.as_mut(), FIRST, long(FIRST, Lifecycle::Create, 1..=9));
    drop(store);
    let root = disk.mount(FIRST).open_root(Path::new("/data")).unwrap();
    let folder = root.folder(b"foo").unwrap();
    let file = folder.open(b"msgs.1.dat", Access::Append).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    let record_len = (bytes.len() - 4) / 9;
    for at in 0..40 {
        bytes[4 + 4 * record_len + 100 + at] = 0;
    }
    file.truncate(0).unwrap();
    file.append(&bytes).unwrap();
    let mut again = try_open((&disk, 0), NEXT, Predecessor::Gone).unwrap();
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 1), [1, 2, 3, 4, 6, 7, 8, 9]);
}

/// The one whose copy finds no room for its files, and stands still before it takes back what it
/// could not make, while another takes over, copies into a slice of the same number, and serves.
struct Overtaken {
    disk: MemoryDisk,
    /// How often it opened an index that was to be new.
    tries: Cell<usize>,
    is_over: Arc<AtomicBool>,
}

impl World for Overtaken {
    fn before(&self, process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        if process != NEXT || !name.ends_with(b"msgs.1001.idx") || operation == Operation::Rename {
            return Fate::Done;
        }
        self.tries.set(self.tries.get() + 1);
        match self.tries.get() {
            1 => Fate::Fails(Fault::Refused(Errno::ENOSPC)),
            2 => {
                let third = ProcessId(3);
                let mut successor = open(&self.disk, third, Predecessor::Replaced);
                commit(successor.shares[0].as_mut(), third, part("foo", Lifecycle::Keep, 4..=5));
                self.is_over.store(true, Ordering::Relaxed);
                Fate::Done
            }
            _ => Fate::Done,
        }
    }
}

/// Goal: what a process could not make it does not take back: under that name there may be the
/// files of a successor (P3).
#[test]
fn who_could_not_make_a_slice_cuts_nothing_of_its_successor() {
    let disk = MemoryDisk::new(1, true);
    disk.keep_order();
    let mut first = open(&disk, FIRST, Predecessor::Clean);
    commit(first.shares[0].as_mut(), FIRST, part("foo", Lifecycle::Create, 1..=3));
    drop(first);
    let is_over = Arc::<AtomicBool>::default();
    let tries = Cell::default();
    let world = Rc::new(Overtaken { disk: disk.clone(), tries, is_over: Arc::clone(&is_over) });
    rule(Some(world.clone()));
    let opened = try_open_until((&disk, 3), NEXT, Predecessor::Gone, is_over);
    rule(None);
    assert!(opened.is_err(), "it is replaced");
    assert!(1 < world.tries.get(), "it was overtaken");
    let mut last = open(&disk, ProcessId(4), Predecessor::Gone).shares.remove(0);
    assert_eq!(fetch(last.as_mut(), "foo", 1), [1, 2, 3, 4, 5]);
}
