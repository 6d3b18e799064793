//! How much room the file system of a store has left, looked up where it holds nobody up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::statvfs::statvfs;

/// Not looked up yet.
const UNKNOWN: u64 = u64::MAX;

/// The room of one file system. A disk that does not answer holds up one thread, which nobody waits
/// for.
#[derive(Debug)]
pub struct Room {
    path: Option<PathBuf>,
    last: Arc<Last>,
}

#[derive(Debug)]
struct Last {
    is_looking: AtomicBool,
    bytes: AtomicU64,
}

impl Room {
    /// Of the file system that has `path`; `None`: the store has no directory here.
    #[must_use]
    pub fn of(path: Option<PathBuf>) -> Self {
        let last = Last { is_looking: AtomicBool::new(false), bytes: AtomicU64::new(UNKNOWN) };
        Self { path, last: Arc::new(last) }
    }

    /// What was found the last time, in bytes, and has it looked up for the next.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        let path = self.path.clone()?;
        let last = Arc::clone(&self.last);
        if !last.is_looking.swap(true, Ordering::AcqRel) {
            let look = move || {
                let found =
                    statvfs(&path).map(|found| found.blocks_available() * found.fragment_size());
                last.bytes.store(found.unwrap_or(UNKNOWN), Ordering::Relaxed);
                last.is_looking.store(false, Ordering::Release);
            };
            if thread::Builder::new().name("room".to_owned()).spawn(look).is_err() {
                self.last.is_looking.store(false, Ordering::Release);
            }
        }
        Some(self.last.bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_known_after_the_first_look() {
        assert_eq!(Room::of(None).left(), None);
        let room = Room::of(Some(std::env::temp_dir()));
        while room.left().is_none() {
            thread::yield_now();
        }
        let nowhere = Room::of(Some("/nowhere/at/all".into()));
        assert_eq!(nowhere.left(), None);
        while nowhere.last.is_looking.load(Ordering::Acquire) {
            thread::yield_now();
        }
        assert_eq!(nowhere.left(), None, "it was looked up");
    }
}
