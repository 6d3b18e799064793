//! Makes many files durable: one after the other, a few at once, or with their file system.

use std::io;
use std::thread;
use std::time::Duration;

use crate::base::time::Instant;
use crate::store::file::disk::{DiskFile, Folder};
use crate::store::progress;

/// Up to so many files are synced one after the other: the first commit to a channel after a
/// take-over has three, and a sync of the file system waits for whatever others have written there.
const SYNCED_IN_TURN_MAX: usize = 4;

/// The slower way is tried again after so many times what it took: its trials cost a five
/// hundredth of the time.
const TRIAL_PAUSE_FACTOR: u32 = 500;
/// And not before this.
const TRIAL_PAUSE_MIN: Duration = Duration::from_secs(1);
/// What one measurement weighs against those before it.
const BLEND: u32 = 8;

/// More files are synced apart only where that is known to be quicker.
const TRIED_APART_MAX: usize = 16;

/// A machine has always something to write, ours too: so much of it costs nothing that counts.
const UNWRITTEN_FREE: u64 = 64 * 1024 * 1024;
/// What is above that counts as if the disk wrote so many bytes a second.
const WRITTEN_A_SECOND: u64 = 256 * 1024 * 1024;
/// Where nobody can say what it has to write, a neighbour may be busy.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);
/// How long it is believed.
const UNWRITTEN_KNOWN: Duration = Duration::from_millis(20);
/// What a file's own sync counts for before one was measured.
const APART_GUESS: Duration = Duration::from_millis(1);

/// How a few files are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Each by itself: pays for each file, whoever else writes to the disk.
    Apart,
    /// With the whole file system: pays once, but for what others have written as well.
    Together,
}

/// Learns which way of syncing is the quicker one, here and now.
///
/// One sync of the file system halves the time of a message's two files, and is worth far more
/// with many, where nobody else writes much to it; beside a busy neighbour it can take seconds.
/// So the quicker one is used, and the other is tried now and then; and the file system is synced,
/// be it for a trial, only where what the machine has still to write does not make it the slower
/// one.
#[derive(Debug, Default)]
pub struct Pace {
    /// For each file.
    apart: Option<Duration>,
    together: Option<Duration>,
    trial_at: Instant,
    /// How long what the machine had still to write holds up a sync of the file system, and until
    /// when that is believed.
    held_up: (Duration, Instant),
}

impl Pace {
    /// How to sync `file_count` files at `now`, where the machine has still to write so many bytes.
    pub fn choose(
        &mut self,
        file_count: usize,
        now: Instant,
        unwritten: impl Fn() -> Option<u64>,
    ) -> Way {
        let way = self.learned(file_count, now);
        if way == Way::Apart {
            return way;
        }
        if self.held_up.1 <= now {
            let wait = unwritten().map_or(UNKNOWN_WAIT, wait_for);
            self.held_up = (wait, now + UNWRITTEN_KNOWN);
        }
        let wait = self.held_up.0;
        let apart = times(self.apart.unwrap_or(APART_GUESS), file_count);
        let is_slower = !wait.is_zero() && apart < wait + self.together.unwrap_or_default();
        if is_slower { Way::Apart } else { Way::Together }
    }

    /// What the measurements say, or that one is due.
    fn learned(&self, file_count: usize, now: Instant) -> Way {
        let (Some(apart), Some(together)) = (self.apart, self.together) else {
            let is_first = self.together.is_some() || !is_wide(file_count);
            return if is_first && self.apart.is_none() { Way::Apart } else { Way::Together };
        };
        let apart = times(apart, file_count);
        let is_trial = self.trial_at <= now && file_count <= TRIED_APART_MAX;
        if is_trial == (together <= apart) { Way::Apart } else { Way::Together }
    }

    /// What [`Pace::choose`] said at `began` for so many files took until `now`.
    pub fn learn(&mut self, way: Way, file_count: usize, began: Instant, now: Instant) {
        let took = now.since(began);
        let is_trial = self.trial_at <= began && file_count <= TRIED_APART_MAX;
        let (known, sample) = match way {
            Way::Apart => {
                let count = u32::try_from(file_count.max(1)).unwrap_or(u32::MAX);
                (&mut self.apart, took / count)
            }
            Way::Together => (&mut self.together, took),
        };
        *known = Some(match *known {
            Some(before) if !is_trial => before - before / BLEND + sample / BLEND,
            Some(_) | None => sample,
        });
        if self.apart.is_none() || self.together.is_none() {
            self.trial_at = now;
        } else if is_trial {
            self.trial_at = now + TRIAL_PAUSE_MIN.max(took.saturating_mul(TRIAL_PAUSE_FACTOR));
        }
    }
}

/// How long others' bytes hold up a sync of the file system.
fn wait_for(unwritten: u64) -> Duration {
    let above = unwritten.saturating_sub(UNWRITTEN_FREE);
    Duration::from_millis(above.saturating_mul(1_000) / WRITTEN_A_SECOND)
}

fn times(one: Duration, count: usize) -> Duration {
    one.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Whether there are more files than are synced one after the other.
fn is_wide(file_count: usize) -> bool {
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
    let count = files.first().map_or(1, |file| file.syncs_at_once());
    sync_at_once(files, count, |file| file.sync())
}

/// Syncs files and folders, in no order: those that go together share the file system's own commit.
///
/// # Errors
/// As [`sync_files`].
pub fn sync_files_and_folders(
    files: &[Box<dyn DiskFile>],
    folders: &[&dyn Folder],
) -> io::Result<()> {
    enum One<'a> {
        File(&'a dyn DiskFile),
        Folder(&'a dyn Folder),
    }
    let of_folders = folders.first().map(|folder| folder.syncs_at_once());
    let count = files.first().map(|file| file.syncs_at_once()).or(of_folders).unwrap_or(1);
    let files = files.iter().map(|file| One::File(file.as_ref()));
    let all: Vec<One<'_>> = files.chain(folders.iter().map(|one| One::Folder(*one))).collect();
    sync_at_once(&all, count, |one| match one {
        One::File(file) => file.sync(),
        One::Folder(folder) => folder.sync(),
    })
}

fn sync_at_once<T: Sync>(
    all: &[T],
    thread_count: usize,
    sync: impl Fn(&T) -> io::Result<()> + Copy + Send,
) -> io::Result<()> {
    let share_len = all.len().div_ceil(thread_count.max(1)).max(1);
    let (own, others) = all.split_at(share_len.min(all.len()));
    thread::scope(|scope| {
        let helpers: Vec<_> = others
            .chunks(share_len)
            .map(|share| (share, progress::help(scope, move || share.iter().try_for_each(sync))))
            .collect();
        let own = own.iter().try_for_each(sync);
        helpers
            .into_iter()
            .map(|(share, helper)| match helper {
                Ok(helper) => progress::of_helper(helper),
                Err(_) => share.iter().try_for_each(sync),
            })
            .fold(own, io::Result::and)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Syncs two files again and again for `seconds`, where both ways take so many microseconds;
    /// gives how often each was chosen.
    fn sync_for(pace: &mut Pace, clock: &mut Instant, seconds: u64, costs: [u64; 2]) -> [u64; 2] {
        let end = *clock + Duration::from_secs(seconds);
        let mut counts = [0; 2];
        while *clock < end {
            let way = pace.choose(2, *clock, || Some(0));
            let index = usize::from(way == Way::Together);
            counts[index] += 1;
            let began = *clock;
            *clock = *clock + Duration::from_micros(costs[index]);
            pace.learn(way, 2, began, *clock);
        }
        counts
    }

    /// Goal: a thread that cannot be had costs speed and nothing else.
    #[test]
    fn without_helpers_everything_is_synced_all_the_same() {
        for is_alone in [false, true] {
            progress::ALONE.set(is_alone);
            let counts = [const { AtomicUsize::new(0) }; 20];
            let synced = sync_at_once(&counts, 8, |count| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            assert!(synced.is_ok());
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{counts:?}");
            let failed = sync_at_once(&[0, 1, 2], 3, |number| match number {
                2 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(()),
            });
            assert_eq!(failed.map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
        }
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
    fn many_files_are_synced_together_unless_the_disk_has_a_busy_neighbour() {
        let (mut pace, mut clock) = (Pace::default(), Instant(0));
        assert_eq!(pace.choose(512, clock, || Some(0)), Way::Together, "nothing is known yet");
        sync_for(&mut pace, &mut clock, 2, [1_000, 2_000]);
        assert_eq!(pace.choose(2, clock, || Some(0)), Way::Apart);
        assert_eq!(pace.choose(5, clock, || Some(0)), Way::Together);
        sync_for(&mut pace, &mut clock, 10, [1_000, 900_000]);
        assert_eq!(pace.choose(512, clock, || Some(0)), Way::Apart);
        assert_eq!(pace.choose(5_000, clock, || Some(0)), Way::Together);
    }
    /// Goal: nobody's ack waits for what a neighbour has written, as long as it is not known to be
    /// quick, nor afterwards.
    #[test]
    fn a_file_system_that_has_much_to_write_is_not_synced_for_a_few_files() {
        let much = || Some(1 << 30);
        let (mut pace, mut clock) = (Pace::default(), Instant(0));
        assert_eq!(pace.choose(6, clock, much), Way::Apart, "nothing is known yet");
        pace.learn(Way::Apart, 6, clock, clock + Duration::from_millis(6));
        clock = clock + Duration::from_secs(3_600);
        for _ in 0..10 {
            clock = clock + Duration::from_secs(60);
            assert_eq!(pace.choose(2, clock, much), Way::Apart, "not for a trial");
            pace.learn(Way::Apart, 2, clock, clock + Duration::from_millis(2));
        }
        assert_eq!(pace.choose(100_000, clock, much), Way::Together, "each by itself takes longer");
        clock = clock + UNWRITTEN_KNOWN;
        sync_for(&mut pace, &mut clock, 10, [1_000, 500]);
        assert_eq!(pace.choose(2, clock, || Some(0)), Way::Together, "known to be quick");
        clock = clock + UNWRITTEN_KNOWN;
        assert_eq!(pace.choose(2, clock, much), Way::Apart, "a neighbour has begun to write");
        clock = clock + UNWRITTEN_KNOWN;
        assert_eq!(pace.choose(2, clock, || None), Way::Apart, "nobody knows of one");
        assert_eq!(pace.choose(100_000, clock, || None), Way::Together, "it would take longer");
    }
}
