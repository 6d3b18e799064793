//! The two locks on the Go server's lock file: taking them, and telling whose they are.
//!
//! Both on one descriptor: one of the open file, on all of the file, with which the Go server's own
//! conflicts, and `flock`. Who has both lets go of all of the first one but `OWN_LEN` bytes, and
//! that is what everybody else is told of it. No Go server locks a part of the file, so such a lock
//! is of a member of ours, which whoever claims a later epoch may pass over. It is proof on every
//! file system that tells the extent of another's lock; process numbers are not: they say nothing
//! over a network, and 0 of another name space. What has another extent is not known to be ours: a
//! Go server, a release before this mark, one of us that still waits for the second lock (it may
//! be somebody else's), or a network file system that keeps both kinds as one.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::base::files::{self, Access, Links};
use crate::site::epoch_files;

/// How many bytes from the first on one of ours keeps locked: `STAN` in letters, so that nobody
/// locks as many by chance. Few enough for lock managers that count in 32 bits.
const OWN_LEN: i64 = 0x5354_414e;

/// How a try for both locks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    /// Both are ours.
    Taken,
    /// Somebody has the first one.
    Held,
    /// Somebody has the `flock` alone.
    Flocked,
}

/// Tries for both locks without waiting.
///
/// # Errors
/// When the file cannot be locked at all.
pub(super) fn try_both(file: &File) -> io::Result<Tried> {
    if !epoch_files::try_lock(file)? {
        return Ok(Tried::Held);
    }
    match file.try_lock() {
        Ok(()) => mark(file),
        Err(TryLockError::WouldBlock) => return Ok(Tried::Flocked),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(Tried::Taken)
}

/// Takes both locks, however long that takes; `halfway` is called with the first one. A dying
/// owner's `flock` goes an instant after its other lock: who only tried for it then would find it
/// held, and nothing would tell when it goes.
///
/// # Errors
/// When the file cannot be locked at all.
pub(super) fn wait_for_both(file: &File, halfway: impl FnOnce()) -> io::Result<()> {
    epoch_files::lock(file)?;
    halfway();
    loop {
        match file.lock() {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    mark(file);
    Ok(())
}

/// Shows whose the locks are. Where that cannot be done they are locks all the same.
fn mark(file: &File) {
    let rest = libc::flock { l_start: OWN_LEN, ..epoch_files::whole_file(libc::F_UNLCK) };
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&rest));
}

/// Whether a member of ours is known to have both locks of the file at `path`.
///
/// # Errors
/// Those of opening, and of file systems without locks.
pub fn is_of_stanby(path: &Path) -> io::Result<bool> {
    let file = match files::open(path, Access::Read, Links::Followed) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut found = epoch_files::whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found))?;
    let is_locked = i32::from(found.l_type) == libc::F_WRLCK;
    Ok(is_locked && (found.l_start, found.l_len) == (0, OWN_LEN))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn open(path: &Path) -> File {
        files::open(path, Access::Keep(0o666), Links::Followed).unwrap()
    }

    #[test]
    fn who_has_both_locks_shows_that_it_is_one_of_ours_and_keeps_all_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_of_stanby(&path).unwrap(), "there is no such file");
        let (ours, other) = (open(&path), open(&path));
        assert!(!is_of_stanby(&path).unwrap(), "nobody has it");
        assert_eq!(try_both(&ours).unwrap(), Tried::Taken);
        assert!(is_of_stanby(&path).unwrap());
        assert_eq!(try_both(&other).unwrap(), Tried::Held);
        // As a Go server asks for it.
        let whole = epoch_files::whole_file(libc::F_WRLCK);
        let asked = fcntl(&other, FcntlArg::F_SETLK(&whole));
        assert_eq!(asked, Err(nix::Error::EAGAIN));
        drop(ours);
        wait_for_both(&other, || assert!(!is_of_stanby(&path).unwrap(), "halfway")).unwrap();
        assert!(is_of_stanby(&path).unwrap());
    }

    #[test]
    fn any_other_lock_is_not_known_to_be_one_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = |kind: i32, start, len| {
            let file = open(&path);
            let flock = libc::flock { l_start: start, l_len: len, ..epoch_files::whole_file(kind) };
            fcntl(&file, FcntlArg::F_OFD_SETLK(&flock)).unwrap();
            file
        };
        let others = [
            (libc::F_WRLCK, 0, 0),
            (libc::F_WRLCK, 0, OWN_LEN - 1),
            (libc::F_WRLCK, 1, OWN_LEN),
            (libc::F_RDLCK, 0, OWN_LEN),
        ];
        for (kind, start, len) in others {
            let _other = lock(kind, start, len);
            assert!(!is_of_stanby(&path).unwrap(), "{kind} {start} {len}");
        }
        // Another's lock on the rest is no longer in the way, and none of ours is let go for it.
        let ours = open(&path);
        assert_eq!(try_both(&ours).unwrap(), Tried::Taken);
        let _rest = lock(libc::F_WRLCK, OWN_LEN, 0);
        assert!(is_of_stanby(&path).unwrap());
    }
}
