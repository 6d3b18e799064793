//! The Disk trait: open, append, read at, sync, rename; the real one.
//!
//! Everything that the file store does to a disk goes through here, so that tests can lose writes,
//! fill the disk or pause a process before any operation. Names are resolved from an open
//! folder's descriptor: a folder that was removed takes no late file.

use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, FallocateFlags, OFlag, RenameFlags, fallocate, openat, renameat, renameat2,
};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, linkat, syncfs, unlinkat};

use crate::base::files;
use crate::store::file::watch::Watch;
use crate::store::progress::noted;

/// How a file is opened. All can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It exists and is only read.
    Read,
    /// It exists; writes go to its end.
    Append,
    /// It must not exist; writes go to its end.
    CreateNew,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, any bytes.
    pub name: Vec<u8>,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// What tells a folder from a later one of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The file system it lies on, which need not be that of the folder it is in.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// When it was created, in Unix nanoseconds; 0 where the file system does not say.
    pub created: u128,
}

/// What a change of a file or of a folder's names leaves behind, whoever makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Its inode.
    pub inode: u64,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last changed, in Unix nanoseconds: the kernel's own mark, which nobody can set.
    pub changed_at: i64,
}

/// What an open file is at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// The file system it lies on.
    pub device: u64,
    /// Its length in bytes.
    pub len: u64,
    /// How many names it has: none once it was removed, or another file was put in its place.
    pub link_count: u64,
}

/// A disk: the way to the root folder.
pub trait Disk: Send + Sync {
    /// Creates the folder and its parents, if they are missing.
    ///
    /// # Errors
    /// As the system says.
    fn create_root(&self, path: &Path) -> io::Result<()>;

    /// Opens the root.
    ///
    /// # Errors
    /// As the system says.
    fn open_root(&self, path: &Path) -> io::Result<Box<dyn Folder>>;
}

/// An open folder.
pub trait Folder: Send + Sync {
    /// Its names, in no order.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Opens a folder in it.
    ///
    /// # Errors
    /// As the system says.
    fn folder(&self, name: &[u8]) -> io::Result<Box<dyn Folder>>;

    /// Creates a folder in it.
    ///
    /// # Errors
    /// As the system says.
    fn create_folder(&self, name: &[u8]) -> io::Result<()>;

    /// Removes an empty folder in it.
    ///
    /// # Errors
    /// As the system says.
    fn remove_folder(&self, name: &[u8]) -> io::Result<()>;

    /// Opens a file in it. What is no regular file is refused, and never waited for.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, name: &[u8], access: Access) -> io::Result<Box<dyn DiskFile>>;

    /// Renames inside of it; an existing target is replaced.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()>;

    /// Renames inside of it, if the new name is free: the system decides that, whoever else gives
    /// names at the same time.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or as the system says.
    fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()>;

    /// Moves a file of it into `target`, a folder of the same disk; an existing one is replaced.
    ///
    /// # Errors
    /// As the system says.
    fn rename_into(&self, from: &[u8], target: &dyn Folder, to: &[u8]) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn unlink(&self, name: &[u8]) -> io::Result<()>;

    /// Makes its names durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync(&self) -> io::Result<()>;

    /// Whether [`Folder::sync_filesystem`] reports every failure since this folder was opened.
    fn can_sync_filesystem(&self) -> bool;

    /// Makes everything durable that was written to its file system.
    ///
    /// # Errors
    /// As the system says.
    fn sync_filesystem(&self) -> io::Result<()>;

    /// Bytes that the machine has still to write, whoever wrote them: at most so many does
    /// [`Folder::sync_filesystem`] wait for. `None` if nobody can say.
    fn unwritten_len(&self) -> Option<u64> {
        Some(0)
    }

    /// How many syncs on its disk are worth being under way at once.
    fn syncs_at_once(&self) -> usize {
        SYNCS_AT_ONCE
    }

    /// Which folder this is.
    ///
    /// # Errors
    /// As the system says.
    fn identity(&self) -> io::Result<Identity>;

    /// The stamp of what lies at a path below it; the path may lead through one folder.
    ///
    /// # Errors
    /// As the system says.
    fn stamp(&self, path: &[u8]) -> io::Result<Stamp>;

    /// A watch over what lies below it.
    ///
    /// # Errors
    /// When the system gives none.
    fn watch(&self) -> io::Result<Watch>;

    /// For [`Folder::rename_into`] to recognize folders of its own disk.
    fn as_any(&self) -> &dyn Any;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` until `buffer` is full or the file ends; gives how much was read.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at the end; after an error a part of them may be there.
    ///
    /// # Errors
    /// As the system says.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    /// What it is now.
    ///
    /// # Errors
    /// As the system says.
    fn describe(&self) -> io::Result<FileState>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn size(&self) -> io::Result<u64>;

    /// Cuts it.
    ///
    /// # Errors
    /// As the system says.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Sets space aside for it.
    ///
    /// # Errors
    /// As the system says.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes its content durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync(&self) -> io::Result<()>;

    /// How many syncs on its disk are worth being under way at once.
    fn syncs_at_once(&self) -> usize {
        SYNCS_AT_ONCE
    }
}

/// Syncs of a real disk that are under way at once; more do not help it.
const SYNCS_AT_ONCE: usize = 8;

/// The machine's own disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_root(&self, path: &Path) -> io::Result<()> {
        noted(fs::create_dir_all(path))
    }

    fn open_root(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        let handle = noted(files::open_folder(path))?;
        Ok(Box::new(RealFolder { handle }))
    }
}

struct RealFolder {
    handle: File,
}

impl RealFolder {
    fn open_at(&self, name: &[u8], flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        Ok(noted(openat(&self.handle, name, flags | OFlag::O_CLOEXEC, mode))?)
    }
}

impl Folder for RealFolder {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut folder = Dir::from_fd(self.open_at(b".", flags, Mode::empty())?)?;
        let mut entries = Vec::new();
        for entry in folder.iter() {
            let entry = noted(entry)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let is_folder = match entry.file_type() {
                Some(found) => found == nix::dir::Type::Directory,
                // As the entry itself says elsewhere: a link is no folder, whatever it leads to.
                None => match fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(found) => found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits(),
                    Err(Errno::ENOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            entries.push(Entry { name: name.to_vec(), is_folder });
        }
        Ok(entries)
    }

    fn folder(&self, name: &[u8]) -> io::Result<Box<dyn Folder>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let handle = File::from(self.open_at(name, flags, Mode::empty())?);
        Ok(Box::new(Self { handle }))
    }

    fn create_folder(&self, name: &[u8]) -> io::Result<()> {
        Ok(noted(mkdirat(&self.handle, name, Mode::from_bits_truncate(0o777)))?)
    }

    fn remove_folder(&self, name: &[u8]) -> io::Result<()> {
        Ok(noted(unlinkat(&self.handle, name, UnlinkatFlags::RemoveDir))?)
    }

    fn open(&self, name: &[u8], access: Access) -> io::Result<Box<dyn DiskFile>> {
        let flags = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Append => OFlag::O_RDWR | OFlag::O_APPEND,
            Access::CreateNew => OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL,
        };
        // A pipe, a socket or a device of that name must not hold us up.
        let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = self.open_at(name, flags, Mode::from_bits_truncate(0o666)).map(File::from);
        // What the system says of a socket, a folder and a link in circles.
        const NO_FILE: [Errno; 3] = [Errno::ENXIO, Errno::EISDIR, Errno::ELOOP];
        let is_no_file = match &opened {
            Ok(handle) => access != Access::CreateNew && !handle.metadata()?.is_file(),
            Err(error) => NO_FILE.iter().any(|no| error.raw_os_error() == Some(*no as i32)),
        };
        if is_no_file {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no regular file"));
        }
        opened.map(|handle| Box::new(RealFile(handle)) as Box<dyn DiskFile>)
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        Ok(noted(renameat(&self.handle, from, &self.handle, to))?)
    }

    fn rename_new(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (folder, flags) = (&self.handle, RenameFlags::RENAME_NOREPLACE);
        match renameat2(folder, from, folder, to, flags) {
            // A file system without it (NFS): a link refuses a name that is taken too.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                linkat(folder, from, folder, to, AtFlags::empty())?;
                Ok(unlinkat(folder, from, UnlinkatFlags::NoRemoveDir)?)
            }
            done => Ok(done?),
        }
    }

    fn rename_into(&self, from: &[u8], target: &dyn Folder, to: &[u8]) -> io::Result<()> {
        let target = target.as_any().downcast_ref::<Self>();
        let target = target.expect("folders of one store lie on one disk");
        Ok(noted(renameat(&self.handle, from, &target.handle, to))?)
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        Ok(noted(unlinkat(&self.handle, name, UnlinkatFlags::NoRemoveDir))?)
    }

    fn sync(&self) -> io::Result<()> {
        noted(self.handle.sync_all())
    }

    fn can_sync_filesystem(&self) -> bool {
        let is_known = fstatfs(self.handle.as_fd()).is_ok_and(|found| {
            let kind = found.filesystem_type();
            kind == EXT4_SUPER_MAGIC || kind == XFS_SUPER_MAGIC || kind == BTRFS_SUPER_MAGIC
        });
        is_known && is_kernel_since(5, 8)
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        Ok(noted(syncfs(&self.handle))?)
    }

    fn unwritten_len(&self) -> Option<u64> {
        unwritten_len(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn identity(&self) -> io::Result<Identity> {
        let found = self.handle.metadata()?;
        let created = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let created = created.map_or(0, |at| at.as_nanos());
        Ok(Identity { device: found.dev(), inode: found.ino(), created })
    }

    fn stamp(&self, path: &[u8]) -> io::Result<Stamp> {
        let found = fstatat(&self.handle, path, AtFlags::empty())?;
        let changed_at = found.st_ctime.saturating_mul(1_000_000_000) + found.st_ctime_nsec;
        let len = u64::try_from(found.st_size).unwrap_or(0);
        Ok(Stamp { inode: found.st_ino, len, changed_at })
    }

    fn watch(&self) -> io::Result<Watch> {
        Watch::below(&self.handle)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a page of `/proc/meminfo` says of it.
fn unwritten_len(page: &str) -> Option<u64> {
    let kilobytes_of = |wanted: &str| {
        page.lines().find_map(|line| line.strip_prefix(wanted)?.split_ascii_whitespace().next())
    };
    let bytes_of = |wanted| Some(kilobytes_of(wanted)?.parse::<u64>().ok()?.saturating_mul(1024));
    Some(bytes_of("Dirty:")?.saturating_add(bytes_of("Writeback:")?))
}

/// Before 5.8 `syncfs` swallows write-back errors.
fn is_kernel_since(major: u32, minor: u32) -> bool {
    let Ok(names) = nix::sys::utsname::uname() else {
        return false;
    };
    let release = names.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) <= found
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read_len = 0;
        while read_len < buffer.len() {
            let at = offset + u64::try_from(read_len).unwrap_or(u64::MAX);
            match noted(self.0.read_at(&mut buffer[read_len..], at)) {
                Ok(0) => break,
                Ok(len) => read_len += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(read_len)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        noted(io::Write::write_all(&mut &self.0, bytes))
    }

    fn describe(&self) -> io::Result<FileState> {
        let found = self.0.metadata()?;
        Ok(FileState { device: found.dev(), len: found.len(), link_count: found.nlink() })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        noted(self.0.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        Ok(noted(fallocate(&self.0, FallocateFlags::empty(), 0, len))?)
    }

    fn sync(&self) -> io::Result<()> {
        noted(self.0.sync_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_still_to_write_is_read_from_its_page() {
        let page = "MemTotal: 100 kB\nDirty:              12 kB\nWriteback:  \t30 kB\n";
        assert_eq!(unwritten_len(page), Some(42 * 1024));
        assert_eq!(unwritten_len("Dirty: 1 kB\nWriteback: x kB\nWritebackTmp: 9 kB\n"), None);
        assert_eq!(unwritten_len("Dirty: 1 kB\n"), None);
        assert_eq!(unwritten_len(""), None);
        let page = std::fs::read_to_string("/proc/meminfo").expect("a Linux machine has it");
        assert!(["Dirty:", "Writeback:"].iter().all(|name| page.contains(name)), "{page}");
    }
}
