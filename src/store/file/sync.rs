//! Makes many files durable: one after the other, or a few at once.

use std::io;
use std::thread;

use crate::store::file::disk::DiskFile;

/// Up to so many files are synced one after the other: the first commit to a channel after a
/// take-over has three, and a sync of the file system waits for whatever others have written there.
const SYNCED_IN_TURN_MAX: usize = 4;
/// Threads that sync at once; more do not help the disk.
const THREADS_MAX: usize = 8;

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
