//! What is set aside, so that a full disk keeps nobody from taking over, delivering and
//! acknowledging: it refuses publishes, and nothing else.
//!
//! One file of many bytes, which is given up where something finds no room; and files that get the
//! name of what cannot be created (`base/reserve.rs`).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::base::reserve::{FILE_BYTES, FILE_COUNT, file_name, file_number, is_no_room};
use crate::store::file::disk::{Access, DiskFile, Entry, Folder};
use crate::store::file::format::{RESERVE_FILE, replacement_name};

/// Bytes set aside, so that acknowledgements can be written on a full disk.
const RESERVE_BYTES: u64 = 1024 * 1024;

/// Files that are left for the next epoch and the registry.
pub const LEFT_BY_COMMITS: u8 = 4;
/// Files that a take-over leaves for what it serves afterwards.
pub const LEFT_BY_TAKE_OVER: u8 = 8;
/// Files that the copies of what a predecessor may not have synced leave: each takes two.
pub const LEFT_BY_COPIES: u8 = 16;
/// All of them are left, and the bytes too: what is made can wait, or be refused.
pub const LEFT_BY_OTHERS: u8 = FILE_COUNT;

/// Numbers the replacements of one process, and what is on the way to its name.
pub static REPLACEMENTS: AtomicU64 = AtomicU64::new(0);

/// What lies on the disk of it, as far as is known: a member that stands by takes a file too.
#[derive(Debug, Default)]
pub struct Reserve {
    has_bytes: AtomicBool,
    /// By number.
    files: AtomicU32,
}

impl Reserve {
    /// Learns what there is from the names under the root.
    pub fn find(&self, entries: &[Entry]) {
        let has_bytes = entries.iter().any(|entry| entry.name == RESERVE_FILE);
        self.has_bytes.store(has_bytes, Ordering::Relaxed);
        let numbers = entries.iter().filter_map(|entry| file_number(&entry.name));
        let files = numbers.fold(0, |files, number| files | bit(number));
        self.files.store(files, Ordering::Relaxed);
    }

    /// Sets the files aside that are missing, as far as there is room.
    pub fn set_files_aside(&self, root: &dyn Folder, epoch: u64) {
        let found = self.files.load(Ordering::Relaxed);
        for number in (0..FILE_COUNT).filter(|number| found & bit(*number) == 0) {
            if !set_file_aside(root, epoch, number) {
                return;
            }
            self.files.fetch_or(bit(number), Ordering::Relaxed);
        }
    }

    /// Sets the bytes aside, if there is room.
    pub fn set_bytes_aside(&self, root: &dyn Folder) {
        if self.has_bytes.load(Ordering::Relaxed) {
            return;
        }
        let is_there = match root.open(RESERVE_FILE, Access::CreateNew) {
            Ok(file) => match file.allocate(RESERVE_BYTES) {
                Ok(()) => true,
                Err(_) => {
                    // Without room, or on a file system that cannot: there is no reserve.
                    let _ = root.unlink(RESERVE_FILE);
                    false
                }
            },
            Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
        };
        self.has_bytes.store(is_there, Ordering::Relaxed);
    }

    /// Gives the bytes up; true if that may have made room.
    pub fn release_bytes(&self, root: &dyn Folder) -> bool {
        self.has_bytes.swap(false, Ordering::Relaxed) && root.unlink(RESERVE_FILE).is_ok()
    }

    /// Gives up `count` files, but for the first `left`; true if that may have made room.
    pub fn release_files(&self, root: &dyn Folder, count: usize, left: u8) -> bool {
        let taken = (left..FILE_COUNT).rev().filter(|number| self.claim(*number));
        let gone = taken.filter(|number| root.unlink(file_name(*number).as_bytes()).is_ok());
        gone.take(count).count() == count
    }

    /// Whether the file of that number was there, and is its caller's now.
    fn claim(&self, number: u8) -> bool {
        self.files.fetch_and(!bit(number), Ordering::Relaxed) & bit(number) != 0
    }
}

/// Makes one, if it is not there; false if there is no room. It is complete before it gets the name
/// by which others take it: who stands still in between has nothing of theirs open.
fn set_file_aside(root: &dyn Folder, epoch: u64, number: u8) -> bool {
    let own = replacement_name(epoch, REPLACEMENTS.fetch_add(1, Ordering::Relaxed));
    let Ok(file) = root.open(&own, Access::CreateNew) else { return false };
    // Where space cannot be set aside at all, the file itself is.
    let has_room = !file.allocate(FILE_BYTES).is_err_and(|error| is_no_room(&error));
    drop(file);
    let named = if has_room {
        root.rename_new(&own, file_name(number).as_bytes())
    } else {
        Err(io::ErrorKind::StorageFull.into())
    };
    let Err(error) = named else { return true };
    let _ = root.unlink(&own);
    error.kind() == io::ErrorKind::AlreadyExists
}

fn bit(number: u8) -> u32 {
    1 << number
}

/// The way to a reserve, for what may take from it.
#[derive(Clone, Copy)]
pub struct Spare<'a> {
    /// What there is.
    pub reserve: &'a Reserve,
    /// Where it lies.
    pub root: &'a dyn Folder,
    /// Of the process that takes it.
    pub epoch: u64,
    /// Files that are left for others.
    pub left: u8,
}

impl Spare<'_> {
    /// Opens a file that must not exist; where no other can be made, one of the reserve gets its
    /// name.
    ///
    /// # Errors
    /// As the system says.
    pub fn open_new(&self, folder: &dyn Folder, name: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        match folder.open(name, Access::CreateNew) {
            Err(error) if is_no_room(&error) => self.take(folder, name).unwrap_or(Err(error)),
            done => done,
        }
    }

    /// The same with all that is to be in it, durably.
    ///
    /// # Errors
    /// As the system says; then there is no such file.
    pub fn make(&self, folder: &dyn Folder, name: &[u8], bytes: &[u8]) -> io::Result<()> {
        let attempt = || {
            let file = self.open_new(folder, name)?;
            file.append(bytes).and_then(|()| file.sync()).inspect_err(|_| {
                // A part of it helps nobody, and takes room.
                let _ = folder.unlink(name);
            })
        };
        match attempt() {
            Err(error) if is_no_room(&error) && self.release_bytes() => attempt(),
            done => done,
        }
    }

    /// Gives the bytes up for what cannot wait; true if that may have made room.
    #[must_use]
    pub fn release_bytes(&self) -> bool {
        self.left < FILE_COUNT && self.reserve.release_bytes(self.root)
    }

    /// `None` if there is none, or none for this folder: it may lie on another file system. A name
    /// of our epoch comes first, as the last one may be taken, and must never show the old content.
    fn take(&self, folder: &dyn Folder, name: &[u8]) -> Option<io::Result<Box<dyn DiskFile>>> {
        let own = replacement_name(self.epoch, REPLACEMENTS.fetch_add(1, Ordering::Relaxed));
        for number in (self.left..FILE_COUNT).rev().filter(|number| self.reserve.claim(*number)) {
            let from = file_name(number);
            match self.root.rename_into(from.as_bytes(), folder, &own) {
                Ok(()) => (),
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    self.reserve.files.fetch_or(bit(number), Ordering::Relaxed);
                    return None;
                }
                Err(_) => continue,
            }
            let emptied = folder.open(&own, Access::Append).and_then(|file| {
                file.truncate(0)?;
                Ok(file)
            });
            // What keeps that name after an error, the next take-over removes.
            let Ok(file) = emptied else { continue };
            return Some(folder.rename_new(&own, name).map(|()| file));
        }
        None
    }
}
