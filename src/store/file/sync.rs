//! Makes many files durable: one after the other, a few at once, or with their file system.

use std::io;
use std::thread;
use std::time::Duration;

use crate::base::time::Instant;
use crate::store::file::disk::DiskFile;

/// Up to so many files are synced one after the other.
const SYNCED_IN_TURN_MAX: usize = 2;
/// Threads that sync at once; more do not help the disk.
const THREADS_MAX: usize = 8;

/// The slower way is tried again after so many times what it took: its trials cost a five
/// hundredth of the time.
const TRIAL_PAUSE_FACTOR: u32 = 500;
/// And not before this.
const TRIAL_PAUSE_MIN: Duration = Duration::from_secs(1);
/// What one measurement weighs against those before it.
const BLEND: u32 = 8;

/// How a few files are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Each by itself: pays for each file, whoever else writes to the disk.
    Apart,
    /// With the whole file system: pays once, but for what others have written as well.
    Together,
}

/// Learns which way of syncing a message's two files is the quicker one, here and now.
///
/// One sync of the file system halves the time where nobody else writes much to it; beside a
/// busy neighbour it can take seconds. So the quicker one is used, and the other is tried now
/// and then.
#[derive(Debug, Default)]
pub struct Pace {
    apart: Option<Duration>,
    together: Option<Duration>,
    trial_at: Instant,
}

impl Pace {
    /// How to sync `file_count` files at `now`.
    #[must_use]
    pub fn choose(&self, file_count: usize, now: Instant) -> Way {
        if is_wide(file_count) {
            return Way::Together;
        }
        let (Some(apart), Some(together)) = (self.apart, self.together) else {
            return if self.apart.is_none() { Way::Apart } else { Way::Together };
        };
        match (together <= apart, self.trial_at <= now) {
            (true, false) | (false, true) => Way::Together,
            (true, true) | (false, false) => Way::Apart,
        }
    }

    /// What [`Pace::choose`] said at `began` for a few files took until `now`.
    pub fn learn(&mut self, way: Way, began: Instant, now: Instant) {
        let took = now.since(began);
        let is_trial = self.trial_at <= began;
        let known = match way {
            Way::Apart => &mut self.apart,
            Way::Together => &mut self.together,
        };
        *known = Some(match *known {
            Some(before) if !is_trial => before - before / BLEND + took / BLEND,
            Some(_) | None => took,
        });
        if is_trial {
            self.trial_at = now + TRIAL_PAUSE_MIN.max(took.saturating_mul(TRIAL_PAUSE_FACTOR));
        }
        if self.apart.is_none() || self.together.is_none() {
            self.trial_at = now;
        }
    }
}

/// Whether one sync of the whole file system is cheaper than one for each file.
#[must_use]
pub fn is_wide(file_count: usize) -> bool {
    SYNCED_IN_TURN_MAX < file_count
}

/// Syncs all files.
///
/// # Errors
/// The first failure; then nothing is known of the others.
pub fn sync_files(files: &[&dyn DiskFile]) -> io::Result<()> {
    if !is_wide(files.len()) {
        return files.iter().try_for_each(|file| file.sync());
    }
    let share_len = files.len().div_ceil(THREADS_MAX);
    thread::scope(|scope| {
        let sync_share = |share: &[&dyn DiskFile]| share.iter().try_for_each(|file| file.sync());
        let threads: Vec<_> =
            files.chunks(share_len).map(|share| scope.spawn(move || sync_share(share))).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a sync panicked")))
            })
            .fold(Ok(()), io::Result::and)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syncs two files again and again for `seconds`, where both ways take so many microseconds;
    /// gives how often each was chosen.
    fn sync_for(pace: &mut Pace, clock: &mut Instant, seconds: u64, costs: [u64; 2]) -> [u64; 2] {
        let end = *clock + Duration::from_secs(seconds);
        let mut counts = [0; 2];
        while *clock < end {
            let way = pace.choose(2, *clock);
            let index = usize::from(way == Way::Together);
            counts[index] += 1;
            let began = *clock;
            *clock = *clock + Duration::from_micros(costs[index]);
            pace.learn(way, began, *clock);
        }
        counts
    }

    #[test]
    fn the_quicker_way_is_used_and_a_change_is_noticed() {
        let (mut pace, mut clock) = (Pace::default(), Instant(0));
        let [apart, together] = sync_for(&mut pace, &mut clock, 10, [1_000, 500]);
        assert!(apart <= 11 && 19_000 < together, "{apart} {together}");
        // A neighbour begins to write: one look a trial is all that the slow way gets.
        let [apart, together] = sync_for(&mut pace, &mut clock, 100, [1_000, 400_000]);
        assert!(90_000 < apart && together <= 9, "{apart} {together}");
        // It ends: found at the next trial, which the last slow one has put off.
        sync_for(&mut pace, &mut clock, 200, [1_000, 500]);
        let [apart, together] = sync_for(&mut pace, &mut clock, 10, [1_000, 500]);
        assert!(apart <= 11 && 19_000 < together, "{apart} {together}");
    }

    #[test]
    fn many_files_are_always_synced_together() {
        let (mut pace, mut clock) = (Pace::default(), Instant(0));
        sync_for(&mut pace, &mut clock, 2, [1, 1_000_000]);
        assert_eq!(pace.choose(2, clock), Way::Apart);
        assert_eq!(pace.choose(3, clock), Way::Together);
    }
}
