//! What the power leaves of a batch that it interrupts, wherever it does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/stores.rs"]
mod stores;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Predecessor, Unfenced};
use stanby::base::record::Lifecycle;
use stanby::store::Opened;
use stanby::store::file::{self, FileOptions, Opening};
use stanby::testing::disk::Operation;
use stanby::testing::memory_disk::{Fate, MemoryDisk, ProcessId, World, rule};

use stores::{batch, commit, fetch, now, part};

const FIRST: ProcessId = ProcessId(1);
const NEXT: ProcessId = ProcessId(2);

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

fn open(disk: &MemoryDisk, process: ProcessId, predecessor: Predecessor) -> Opened {
    let mut options = FileOptions::new(Path::new("/data"));
    options.slice_messages_max = 3;
    let mounted = disk.mount(process);
    file::prepare_on(&mounted, &options).unwrap();
    let opening = Opening {
        options: &options,
        limits: &StoreLimits::default(),
        fence: Arc::new(Unfenced),
        predecessor,
        loops: 1,
        now: now(1),
        survey: None,
    };
    file::open_on(Arc::new(mounted), opening).unwrap()
}

/// What is found of a batch over several slices that ends after so many operations, if it does.
fn found_after(operations: usize, seed: u64) -> Option<Vec<u64>> {
    let disk = MemoryDisk::new(seed, seed.is_multiple_of(2));
    disk.keep_order();
    let mut store = open(&disk, FIRST, Predecessor::Clean).shares.remove(0);
    commit(store.as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
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
