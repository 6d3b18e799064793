//! The real disk with less room than it has, and with syncs that can fail.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::any::Any;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicUsize, Ordering};

use stanby::store::file::disk::{
    Access, Disk, DiskFile, Entry, FileState, Folder, Identity, RealDisk, Stamp,
};
use stanby::store::file::watch::Watch;

const ENOSPC: i32 = 28;

/// What can be switched while the store is open.
#[derive(Default)]
pub struct Limits {
    /// Bytes that can still be appended.
    pub room: AtomicI64,
    /// Bytes that can be appended once the reserve is given up.
    pub reserve: AtomicI64,
    /// Error number of the next syncs; 0 = they succeed.
    pub sync_error: AtomicI32,
    /// The same of renames.
    pub rename_error: AtomicI32,
    /// The same of truncations.
    pub truncate_error: AtomicI32,
    /// Files opened so far.
    pub open_count: AtomicUsize,
    /// Whether syncs of the whole disk can be relied on.
    pub can_sync_filesystem: AtomicBool,
    /// Whether the system gives watches.
    pub has_watch: AtomicBool,
    /// Whether stamps are the real disk's; else they are of the content, as tests are faster than
    /// clocks.
    pub has_real_stamps: AtomicBool,
    /// Stamps taken so far.
    pub stamp_count: AtomicUsize,
}

impl Limits {
    /// A disk with room for everything.
    pub fn roomy() -> Arc<Self> {
        Arc::new(Self { room: AtomicI64::new(i64::MAX), ..Self::default() })
    }

    fn sync(&self) -> io::Result<()> {
        failure(&self.sync_error)
    }
}

fn failure(code: &AtomicI32) -> io::Result<()> {
    match code.load(Ordering::Relaxed) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// See the first line of the file.
pub struct LimitedDisk(pub Arc<Limits>);

struct LimitedFolder(Box<dyn Folder>, Arc<Limits>);

struct LimitedFile(Box<dyn DiskFile>, Arc<Limits>);

impl Disk for LimitedDisk {
    fn create_root(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_root(path)
    }

    fn open_root(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        Ok(Box::new(LimitedFolder(RealDisk.open_root(path)?, Arc::clone(&self.0))))
    }
}

impl Folder for LimitedFolder {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list()
    }

    fn folder(&self, name: &[u8]) -> io::Result<Box<dyn Folder>> {
        Ok(Box::new(Self(self.0.folder(name)?, Arc::clone(&self.1))))
    }

    fn create_folder(&self, name: &[u8]) -> io::Result<()> {
        self.0.create_folder(name)
    }

    fn remove_folder(&self, name: &[u8]) -> io::Result<()> {
        self.0.remove_folder(name)
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Box<dyn DiskFile>> {
        self.1.open_count.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(LimitedFile(self.0.open(name, access)?, Arc::clone(&self.1))))
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        failure(&self.1.rename_error)?;
        self.0.rename(from, to)
    }

    fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.0.rename_new(from, to)
    }

    fn rename_into(&self, from: &[u8], target: &dyn Folder, to: &[u8]) -> io::Result<()> {
        failure(&self.1.rename_error)?;
        let target = target.as_any().downcast_ref::<Self>().unwrap();
        self.0.rename_into(from, target.0.as_ref(), to)
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.0.unlink(name)?;
        if name == b".stanby.reserve" {
            let given = self.1.reserve.swap(0, Ordering::Relaxed);
            let room = self.1.room.load(Ordering::Relaxed);
            self.1.room.store(room.saturating_add(given), Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.1.sync()
    }

    fn can_sync_filesystem(&self) -> bool {
        self.1.can_sync_filesystem.load(Ordering::Relaxed)
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        self.1.sync()
    }

    fn identity(&self) -> io::Result<Identity> {
        self.0.identity()
    }

    fn stamp(&self, path: &[u8]) -> io::Result<Stamp> {
        self.1.stamp_count.fetch_add(1, Ordering::Relaxed);
        let stamp = self.0.stamp(path)?;
        if self.1.has_real_stamps.load(Ordering::Relaxed) {
            return Ok(stamp);
        }
        let mut parts = path.splitn(2, |byte| *byte == b'/');
        let folder = self.0.folder(parts.next().unwrap())?;
        let content = match parts.next() {
            Some(file) => {
                let mut bytes = vec![0; usize::try_from(stamp.len).unwrap()];
                folder.open(file, Access::Read)?.read_at(&mut bytes, 0)?;
                bytes
            }
            None => {
                let mut names = folder.list()?;
                names.sort();
                names.into_iter().flat_map(|entry| entry.name).collect()
            }
        };
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Ok(Stamp { changed_at: i64::try_from(hasher.finish() >> 6).unwrap(), ..stamp })
    }

    fn watch(&self) -> io::Result<Watch> {
        match self.1.has_watch.load(Ordering::Relaxed) {
            true => self.0.watch(),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DiskFile for LimitedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    /// Writes what there is room for, as a full disk does.
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let wanted = i64::try_from(bytes.len()).unwrap();
        let room = self.1.room.load(Ordering::Relaxed);
        let given = wanted.min(room);
        self.1.room.store(room - given, Ordering::Relaxed);
        self.0.append(&bytes[..usize::try_from(given).unwrap()])?;
        if given < wanted { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }

    fn describe(&self) -> io::Result<FileState> {
        self.0.describe()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        failure(&self.1.truncate_error)?;
        self.0.truncate(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.sync()
    }
}
