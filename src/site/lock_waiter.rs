//! A thread that waits in the kernel for the locks of a file, so that the end of who has them is
//! noticed at once.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::election::lease::Wake;
use crate::site::{epoch_files, root_lock};

/// A thread that blocks in the kernel for one file's locks.
///
/// It cannot be called back; when it is no longer wanted, it lets go of them as soon as it has
/// them.
pub(super) struct Waiter {
    slot: Arc<Mutex<Slot>>,
    /// Device and inode of the file.
    identity: (u64, u64),
}

#[derive(Debug)]
enum Slot {
    Blocked,
    /// It has the first lock and blocks for the second.
    Halfway,
    Done(io::Result<Option<File>>),
    Abandoned,
}

impl Slot {
    fn come_halfway(&mut self) {
        if !matches!(self, Self::Abandoned) {
            *self = Self::Halfway;
        }
    }
}

/// What became of a wait.
pub(super) enum Waited {
    /// It lasts.
    Blocked {
        /// Only for the second lock.
        is_halfway: bool,
    },
    /// It is over: with the file, if its locks are wanted.
    Done(io::Result<Option<File>>),
}

/// What a waiter is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To have both locks of the lock file.
    LockFile,
    /// To learn that the one lock of an epoch's file was let go.
    EpochsEnd,
}

impl Waiter {
    /// Begins to wait; `wake` is called when it is over.
    ///
    /// # Errors
    /// When the file or the system refuses.
    pub(super) fn spawn(file: File, wake: &Wake, wanted: Wanted) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        let slot = Arc::new(Mutex::new(Slot::Blocked));
        let (shared, wake) = (Arc::clone(&slot), Arc::clone(wake));
        thread::Builder::new().name("lock-waiter".to_owned()).spawn(move || {
            let locked = match wanted {
                Wanted::EpochsEnd => epoch_files::lock(&file).map(|()| None),
                Wanted::LockFile => {
                    let halfway = || hold(&shared).come_halfway();
                    root_lock::wait_for_both(&file, halfway).map(|()| Some(file))
                }
            };
            let mut slot = hold(&shared);
            if !matches!(*slot, Slot::Abandoned) {
                *slot = Slot::Done(locked);
                drop(slot);
                wake();
            }
        })?;
        Ok(Self { slot, identity })
    }

    /// Whether what it waits for is the file of that name.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == self.identity)
    }

    /// Whether the wait is over.
    pub(super) fn is_done(&self) -> bool {
        matches!(*hold(&self.slot), Slot::Done(_))
    }

    /// What became of it; granted locks are handed out once.
    pub(super) fn take(&self) -> Waited {
        let mut slot = hold(&self.slot);
        match std::mem::replace(&mut *slot, Slot::Blocked) {
            Slot::Done(result) => Waited::Done(result),
            Slot::Halfway => {
                *slot = Slot::Halfway;
                Waited::Blocked { is_halfway: true }
            }
            Slot::Blocked | Slot::Abandoned => Waited::Blocked { is_halfway: false },
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        *hold(&self.slot) = Slot::Abandoned;
    }
}

fn hold(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
