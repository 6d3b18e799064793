//! The real disk, where the folders of some names lie on another file system, and which remembers
//! what a power cut would take.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use stanby::store::file::disk::{
    Access, Disk, DiskFile, Entry, FileState, Folder, Identity, RealDisk, Stamp,
};
use stanby::store::file::watch::Watch;

const EBUSY: i32 = 16;
const EXDEV: i32 = 18;
const EROFS: i32 = 30;

/// What lies where.
#[derive(Default)]
pub struct Mounts {
    /// Folders that are mounts.
    names: Vec<&'static str>,
    /// Whether what is mounted takes no file.
    is_read_only: bool,
    /// Files that were written and not synced: whether on the other file system, and the inode.
    unsynced: Mutex<BTreeSet<(bool, u64)>>,
}

impl Mounts {
    /// Folders of these names are mounts.
    pub fn of(names: &[&'static str]) -> Arc<Self> {
        Arc::new(Self { names: names.to_vec(), ..Self::default() })
    }

    /// And what is mounted takes no file.
    pub fn read_only(names: &[&'static str]) -> Arc<Self> {
        Arc::new(Self { names: names.to_vec(), is_read_only: true, ..Self::default() })
    }

    /// How many files of the other file system a power cut would harm.
    pub fn unsynced_count(&self) -> usize {
        self.unsynced.lock().unwrap().iter().filter(|(is_mount, _)| *is_mount).count()
    }
}

/// See the first line of the file.
pub struct MountedDisk(pub Arc<Mounts>);

struct MountedFolder(Box<dyn Folder>, Arc<Mounts>, bool);

struct MountedFile {
    file: Box<dyn DiskFile>,
    mounts: Arc<Mounts>,
    key: (bool, u64),
}

fn error<T>(code: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(code))
}

impl Disk for MountedDisk {
    fn create_root(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_root(path)
    }

    fn open_root(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        Ok(Box::new(MountedFolder(RealDisk.open_root(path)?, Arc::clone(&self.0), false)))
    }
}

impl MountedFolder {
    fn is_mount(&self, name: &[u8]) -> bool {
        !self.2 && self.1.names.iter().any(|mount| mount.as_bytes() == name)
    }

    fn is_refused(&self) -> bool {
        self.2 && self.1.is_read_only
    }
}

impl Folder for MountedFolder {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list()
    }

    fn folder(&self, name: &[u8]) -> io::Result<Box<dyn Folder>> {
        Ok(Box::new(Self(self.0.folder(name)?, Arc::clone(&self.1), self.is_mount(name))))
    }

    fn create_folder(&self, name: &[u8]) -> io::Result<()> {
        self.0.create_folder(name)
    }

    fn remove_folder(&self, name: &[u8]) -> io::Result<()> {
        if self.is_mount(name) { error(EBUSY) } else { self.0.remove_folder(name) }
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Box<dyn DiskFile>> {
        if self.is_refused() && access != Access::Read {
            return error(EROFS);
        }
        let file = self.0.open(name, access)?;
        let key = (self.2, self.0.stamp(name)?.inode);
        Ok(Box::new(MountedFile { file, mounts: Arc::clone(&self.1), key }))
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.0.rename_new(from, to)
    }

    fn rename_into(&self, from: &[u8], target: &dyn Folder, to: &[u8]) -> io::Result<()> {
        let target = target.as_any().downcast_ref::<Self>().unwrap();
        if self.2 != target.2 {
            return error(EXDEV);
        }
        self.0.rename_into(from, target.0.as_ref(), to)
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        if let Ok(stamp) = self.0.stamp(name) {
            self.1.unsynced.lock().unwrap().remove(&(self.2, stamp.inode));
        }
        self.0.unlink(name)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn can_sync_filesystem(&self) -> bool {
        true
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        self.1.unsynced.lock().unwrap().retain(|(is_mount, _)| *is_mount != self.2);
        Ok(())
    }

    fn identity(&self) -> io::Result<Identity> {
        let found = self.0.identity()?;
        Ok(Identity { device: found.device + u64::from(self.2), ..found })
    }

    fn stamp(&self, path: &[u8]) -> io::Result<Stamp> {
        self.0.stamp(path)
    }

    fn watch(&self) -> io::Result<Watch> {
        self.0.watch()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DiskFile for MountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.mounts.unsynced.lock().unwrap().insert(self.key);
        self.file.append(bytes)
    }

    fn describe(&self) -> io::Result<FileState> {
        let found = self.file.describe()?;
        Ok(FileState { device: found.device + u64::from(self.key.0), ..found })
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.mounts.unsynced.lock().unwrap().remove(&self.key);
        Ok(())
    }
}
