//! A watch over files and folders: the kernel tells which of them changed.
//!
//! It is on a file itself and not on its name, so a change is told whatever way it came: by another
//! process, under another name, through a file server of this machine. Only writes to mapped memory
//! are not told; no server of this format makes any.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// Which of the things that are watched.
pub type WatchId = WatchDescriptor;

/// What has changed since it was added or last asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// These, each of which has to be added anew to be watched further.
    Of(Vec<WatchId>),
    /// More than the kernel could remember: perhaps everything.
    Unknown,
}

/// Watches what lies below one folder.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    folder: File,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the system gives no more watches.
    pub fn below(folder: &File) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, folder: folder.try_clone()? })
    }

    /// Watches the file or folder at a path below the folder until its next change.
    ///
    /// # Errors
    /// When there is none, or the system's number of watches is used up.
    pub fn add(&self, path: &[u8]) -> io::Result<WatchId> {
        // The kernel knows no form of this call that takes a folder's descriptor.
        let folder = format!("/proc/self/fd/{}/", self.folder.as_raw_fd());
        let path = [folder.as_bytes(), path].concat();
        Ok(self.inotify.add_watch(&path[..], of_every_change())?)
    }

    /// What has changed; does not wait.
    ///
    /// # Errors
    /// As the system says; then anything may have changed.
    pub fn changes(&self) -> io::Result<Changes> {
        let mut changed = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) if events.iter().any(is_overflow) => return Ok(Changes::Unknown),
                Ok(events) => changed.extend(events.into_iter().map(|event| event.wd)),
                Err(Errno::EAGAIN) => return Ok(Changes::Of(changed)),
                Err(Errno::EINTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_overflow(event: &InotifyEvent) -> bool {
    event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
}

/// Reading is no change. Once is enough: so the busy channels of an active cost nothing.
fn of_every_change() -> AddWatchFlags {
    AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONESHOT
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use super::*;

    fn watch_below(root: &Path) -> Watch {
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(root.join("folder/file"), b"content").unwrap();
        fs::hard_link(root.join("folder/file"), root.join("other name")).unwrap();
        Watch::below(&File::open(root).unwrap()).unwrap()
    }

    fn append(path: &Path) {
        fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    }

    /// Goal: each change of a file or of a folder's names is told, by whatever name it was made.
    #[test]
    fn every_change_is_told() {
        let changes: [fn(&Path); 7] = [
            |root| append(&root.join("folder/file")),
            |root| append(&root.join("other name")),
            |root| {
                File::options()
                    .write(true)
                    .open(root.join("folder/file"))
                    .unwrap()
                    .set_len(1)
                    .unwrap()
            },
            |root| fs::write(root.join("folder/new"), b"").unwrap(),
            |root| fs::remove_file(root.join("folder/file")).unwrap(),
            |root| fs::rename(root.join("folder/file"), root.join("folder/moved")).unwrap(),
            |root| fs::rename(root.join("folder"), root.join("moved")).unwrap(),
        ];
        for (number, make) in changes.into_iter().enumerate() {
            let root = tempfile::tempdir().unwrap();
            let watch = watch_below(root.path());
            let folder = watch.add(b"folder").unwrap();
            let file = watch.add(b"folder/file").unwrap();
            fs::read(root.path().join("folder/file")).unwrap();
            assert_eq!(watch.changes().unwrap(), Changes::Of(Vec::new()), "reading is no change");
            make(root.path());
            let Changes::Of(changed) = watch.changes().unwrap() else { panic!("too much changed") };
            let is_told = changed.contains(&folder) || changed.contains(&file);
            assert!(is_told, "change {number}: {changed:?}");
        }
    }

    /// Goal: a change is told once, and again only if it was added again.
    #[test]
    fn what_changed_must_be_added_anew() {
        let root = tempfile::tempdir().unwrap();
        let watch = watch_below(root.path());
        let path = root.path().join("folder/file");
        let first = watch.add(b"folder/file").unwrap();
        append(&path);
        assert_ne!(watch.changes().unwrap(), Changes::Of(Vec::new()));
        append(&path);
        assert_eq!(watch.changes().unwrap(), Changes::Of(Vec::new()));
        let second = watch.add(b"folder/file").unwrap();
        assert_ne!(first, second);
        append(&path);
        let Changes::Of(changed) = watch.changes().unwrap() else { panic!("too much changed") };
        assert!(changed.contains(&second));
        assert!(watch.add(b"no such file").is_err());
    }

    /// Goal: more changes than the kernel remembers are not taken for none.
    #[test]
    fn too_many_changes_are_said() {
        let root = tempfile::tempdir().unwrap();
        let watch = watch_below(root.path());
        let queued_max = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let queued_max: usize = queued_max.trim().parse().unwrap();
        // Each change and the end of its watch are told.
        for _ in 0..=queued_max / 2 {
            watch.add(b"folder/file").unwrap();
            append(&root.path().join("folder/file"));
        }
        assert_eq!(watch.changes().unwrap(), Changes::Unknown);
    }
}
