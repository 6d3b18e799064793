//! What is counted and timed while a server works, for whoever reads metrics: plain counters that
//! one thread adds to and any other reads, without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of times in microseconds: a sync of a fast disk, and one that stalls.
const MICROS: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of messages in a batch.
const COUNTS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384];

/// Values by how large they are.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Upper bounds, ascending.
    pub bounds: Vec<u64>,
    /// How many values were up to each bound and above the one before; the last one: beyond all.
    pub counts: Vec<u64>,
    /// Of all values.
    pub sum: u64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn add(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a time, in microseconds.
    pub fn took(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// What it has counted.
    #[must_use]
    pub fn read(&self) -> Observed {
        Observed {
            bounds: self.bounds.to_vec(),
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// Of the store of one event loop.
#[derive(Debug)]
pub struct StoreMeters {
    /// From a batch that is taken up to its answer.
    pub commit: Histogram,
    /// Of that, what waiting for the disk took.
    pub sync: Histogram,
    /// Of that, the look whether the epoch is still the newest.
    pub fence: Histogram,
    /// Messages in a batch.
    pub batch: Histogram,
    /// Jobs that waited when the last one was begun.
    pub waiting: AtomicU64,
}

impl Default for StoreMeters {
    fn default() -> Self {
        Self {
            commit: Histogram::new(MICROS),
            sync: Histogram::new(MICROS),
            fence: Histogram::new(MICROS),
            batch: Histogram::new(COUNTS),
            waiting: AtomicU64::new(0),
        }
    }
}

impl StoreMeters {
    /// A batch with so many messages was taken up.
    pub fn begins(&self, messages: usize, waiting: usize) {
        self.batch.add(u64::try_from(messages).unwrap_or(u64::MAX));
        self.waiting.store(u64::try_from(waiting).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Of all loops of a process; they go on counting from one activation to the next.
#[derive(Clone, Debug, Default)]
pub struct Meters(Arc<[Arc<StoreMeters>]>);

impl Meters {
    /// For so many loops.
    #[must_use]
    pub fn new(loops: u16) -> Self {
        Self((0..loops).map(|_| Arc::default()).collect())
    }

    /// Those of one loop.
    #[must_use]
    pub fn store(&self, index: usize) -> Arc<StoreMeters> {
        Arc::clone(&self.0[index])
    }

    /// Those of each loop, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &StoreMeters> {
        self.0.iter().map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_the_first_bound_that_holds_them() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11].into_iter().for_each(|value| histogram.add(value));
        let expected = Observed { bounds: vec![1, 10], counts: vec![2, 2, 1], sum: 24 };
        assert_eq!(histogram.read(), expected);
    }

    #[test]
    fn each_loop_counts_for_itself() {
        let meters = Meters::new(2);
        meters.store(1).begins(7, 3);
        let batches: Vec<u64> = meters.iter().map(|store| store.batch.read().sum).collect();
        assert_eq!(batches, [0, 7]);
    }
}
