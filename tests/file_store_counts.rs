//! The file store and how often messages were delivered: files of its own, under the root.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/stores.rs"]
mod stores;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use nix::errno::Errno;

use stanby::base::channel_limits::{ChannelOverrides, StoreLimits};
use stanby::base::delivery_count::{DeliveryCount, ReaderId};
use stanby::base::delivery_policy::PolicyOverrides;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use stanby::base::id::{ChannelName, Sequence};
use stanby::base::record::{Batch, ChannelBatch, Lifecycle};
use stanby::base::time::WallTime;
use stanby::store::file::disk::{Access, Disk};
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, Store};
use stanby::testing::disk::{Fault, Operation};
use stanby::testing::memory_disk::{Fate, MemoryDisk, ProcessId, World, rule};

use stores::{NOTHING, batch, now, part};

const ROOT: &str = "/data";
const FILES: &[u8] = b".stanby.deliveries.";

/// A fence that holds.
struct Held(u64);

impl Fence for Held {
    fn epoch(&self) -> Epoch {
        Epoch(self.0)
    }

    fn check(&self) -> Result<(), FenceError> {
        Ok(())
    }
}

/// A process opens the store under the epoch of its number; deliveries of `foo` are counted.
fn open(disk: &MemoryDisk, process: u32) -> Opened {
    let mut options = FileOptions::new(Path::new(ROOT));
    options.compact_bytes_min = 0;
    let mut limits = StoreLimits::default();
    let policy = PolicyOverrides {
        deliveries_max: Some(9),
        dead_letter: Some(ChannelName::from("dead")),
        ..PolicyOverrides::default()
    };
    limits.per_channel.insert(ChannelName::from("foo"), ChannelOverrides::default());
    limits.policies.per_channel.insert(ChannelName::from("foo"), policy);
    let mounted = disk.mount(ProcessId(process));
    file::prepare_on(&mounted, &options).unwrap();
    let opening = Opening {
        options: &options,
        limits: &limits,
        fence: Arc::new(Held(u64::from(process))),
        predecessor: Predecessor::Gone,
        loops: 1,
        now: now(1),
        survey: None,
    };
    file::open_on(Arc::new(mounted), opening).unwrap()
}

/// One message, and how often it was delivered; 0: its reader begins anew.
fn counted(lifecycle: Lifecycle, count: u32) -> Batch {
    let messages = if lifecycle == Lifecycle::Create { 1..=1 } else { NOTHING };
    let count = DeliveryCount {
        reader: ReaderId([1; 16]),
        sequence: Sequence(1),
        timestamp: WallTime(1),
        count,
        is_gone: count == 0,
    };
    let part = part("foo", lifecycle, messages);
    batch(vec![ChannelBatch { deliveries: vec![count], ..part }])
}

fn commit(store: &mut dyn Store, epoch: u64, batch: &Batch) -> bool {
    let report = store.commit(Epoch(epoch), batch).unwrap();
    report.channels.iter().all(|outcome| outcome.refused.is_none())
}

/// The files of counts, with what is in them.
fn files(disk: &MemoryDisk) -> Vec<(Vec<u8>, Vec<u8>)> {
    let root = disk.mount(ProcessId(0)).open_root(Path::new(ROOT)).unwrap();
    let entries = root.list().unwrap().into_iter();
    let names = entries.map(|entry| entry.name).filter(|name| name.starts_with(FILES));
    let read = |name: Vec<u8>| {
        let file = root.open(&name, Access::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        (name, bytes)
    };
    names.map(read).collect()
}

fn counts_found(opened: &Opened) -> Vec<u32> {
    let found = opened.recovered.channels.iter().find(|found| found.channel.as_bytes() == b"foo");
    found.unwrap().deliveries.iter().map(|found| found.count).collect()
}

/// Goal: a file of counts that a former active makes late says nothing to anybody, also where its
/// successor has found none and written none.
#[test]
fn what_a_former_active_counts_late_counts_for_nobody() {
    let disk = MemoryDisk::new(1, true);
    let mut first = open(&disk, 1);
    assert!(commit(
        first.shares[0].as_mut(),
        1,
        &batch(vec![part("foo", Lifecycle::Create, 1..=1)])
    ));
    let second = open(&disk, 2);
    assert_eq!(counts_found(&second), [0; 0]);
    drop(second);
    // It was about to make its first file.
    let elsewhere = MemoryDisk::new(2, true);
    let mut twin = open(&elsewhere, 1);
    assert!(commit(twin.shares[0].as_mut(), 1, &counted(Lifecycle::Create, 3)));
    let late = files(&elsewhere).into_iter().find(|(name, _)| !name.ends_with(b".0.0")).unwrap();
    let root = disk.mount(ProcessId(1)).open_root(Path::new(ROOT)).unwrap();
    root.open(&late.0, Access::CreateNew).unwrap().append(&late.1).unwrap();
    let third = open(&disk, 3);
    assert_eq!(counts_found(&third), [0; 0]);
}

/// A disk that has no room so often when a file of counts is synced or written.
#[derive(Clone)]
struct NoRoom(Operation, Rc<Cell<usize>>);

impl World for NoRoom {
    fn before(&self, _process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        let left = self.1.get();
        if operation != self.0 || !name.starts_with(FILES) || left == 0 {
            return Fate::Done;
        }
        self.1.set(left - 1);
        Fate::Fails(Fault::Refused(Errno::ENOSPC))
    }
}

/// Goal: counts that a full disk refuses leave no files behind, neither while it is full nor
/// afterwards, and what was answered is there.
#[test]
fn refused_counts_leave_no_files() {
    for operation in [Operation::SyncFile, Operation::Append] {
        let disk = MemoryDisk::new(3, false);
        disk.keep_order();
        let mut first = open(&disk, 1);
        let share = first.shares[0].as_mut();
        assert!(commit(share, 1, &counted(Lifecycle::Create, 1)));
        let no_room = NoRoom(operation, Rc::default());
        rule(Some(Rc::new(no_room.clone())));
        for round in 2..40 {
            no_room.1.set(usize::from(round % 3 != 0));
            let is_kept = commit(share, 1, &counted(Lifecycle::Keep, round));
            assert_eq!(is_kept, round % 3 == 0, "{operation:?} {round}");
            assert!(files(&disk).len() <= 4, "{operation:?}: {:?}", files(&disk).len());
            share.maintain(now(u64::from(round))).unwrap();
        }
        rule(None);
        share.maintain(now(100)).unwrap();
        // What the epoch has found, and one.
        assert_eq!(files(&disk).len(), 2, "{operation:?}");
        drop(first);
        disk.cut_power();
        assert_eq!(counts_found(&open(&disk, 2)), [39], "{operation:?}");
    }
}

/// A disk on which files of counts can be neither synced nor removed, while it is armed.
#[derive(Clone, Default)]
struct Stuck(Rc<Cell<bool>>);

impl World for Stuck {
    fn before(&self, _process: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        let is_stuck = [Operation::SyncFile, Operation::Unlink].contains(&operation);
        if is_stuck && self.0.get() && name.starts_with(FILES) {
            return Fate::Fails(Fault::Refused(Errno::ENOSPC));
        }
        Fate::Done
    }
}

/// Goal: a file that was to be written anew, and of which a copy is left that is not durable, takes
/// nothing away of what is counted later.
#[test]
fn what_is_counted_behind_a_copy_that_failed_counts() {
    let disk = MemoryDisk::new(5, false);
    disk.keep_order();
    let mut first = open(&disk, 1);
    let share = first.shares[0].as_mut();
    assert!(commit(share, 1, &counted(Lifecycle::Create, 1)));
    for round in 2..20 {
        assert!(commit(share, 1, &counted(Lifecycle::Keep, round)));
    }
    let stuck = Stuck::default();
    rule(Some(Rc::new(stuck.clone())));
    let before = files(&disk).len();
    stuck.0.set(true);
    share.maintain(now(2)).unwrap();
    stuck.0.set(false);
    assert_eq!(files(&disk).len(), before + 1, "the copy is left");
    assert!(commit(share, 1, &counted(Lifecycle::Keep, 30)));
    rule(None);
    drop(first);
    assert_eq!(counts_found(&open(&disk, 2)), [30]);
}
