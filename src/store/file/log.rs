//! One append-only file: append, read at, sync.
//!
//! It knows the length that the file must have. Another length means that somebody else writes; a
//! file without a name, that somebody has removed or replaced it.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::planted::{self, Bug};
use crate::store::file::disk::{Access, DiskFile, Folder};
use crate::store::file::format::{VERSION_HEADER, check_version};
use crate::store::{Action, StoreError};

/// A file that only grows, and by our hand alone.
pub struct Log {
    file: Box<dyn DiskFile>,
    len: u64,
    synced_len: u64,
    /// The file system it lies on.
    device: u64,
    /// Whether it had a name: not every file system counts them.
    had_name: bool,
}

impl Log {
    /// Creates the file with its version header; the name must be free.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(folder: &dyn Folder, name: &[u8], path: &Path) -> Result<Self, StoreError> {
        let file = folder
            .open(name, Access::CreateNew)
            .map_err(|source| io_error(Action::Open, path, source))?;
        Self::begin(file, folder, name, path)
    }

    /// Writes the version header of a file that was just made.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then there is no such file.
    pub fn begin(
        file: Box<dyn DiskFile>,
        folder: &dyn Folder,
        name: &[u8],
        path: &Path,
    ) -> Result<Self, StoreError> {
        let mut log = Self { file, len: 0, synced_len: 0, device: 0, had_name: false };
        if let Err(error) = log.append(&VERSION_HEADER, path) {
            // It holds nothing, and its name is nobody else's.
            let _ = folder.unlink(name);
            return Err(error);
        }
        Ok(log)
    }

    /// A file that was opened and must have `len` bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Intruder`].
    pub fn of(file: Box<dyn DiskFile>, len: u64, path: &Path) -> Result<Self, StoreError> {
        let mut log = Self { file, len, synced_len: len, device: 0, had_name: false };
        log.check(path)?;
        Ok(log)
    }

    /// Opens a file that must have `len` bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Intruder`].
    pub fn open(
        folder: &dyn Folder,
        name: &[u8],
        len: u64,
        path: &Path,
    ) -> Result<Self, StoreError> {
        let file = folder
            .open(name, Access::Append)
            .map_err(|source| io_error(Action::Open, path, source))?;
        Self::of(file, len, path)
    }

    /// Writes at the end, and looks whether it is the end that we know, of a file that is found:
    /// afterwards, for who writes at the same time, and before, because a record at the front of
    /// what somebody has emptied makes a file that nobody can open.
    ///
    /// # Errors
    /// [`StoreError::Io`] (a part may have been written), [`StoreError::Intruder`],
    /// [`StoreError::Vanished`].
    pub fn append(&mut self, bytes: &[u8], path: &Path) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.len != 0 {
            self.check(path)?;
        }
        self.file.append(bytes).map_err(|source| io_error(Action::Append, path, source))?;
        self.len += u64::try_from(bytes.len()).unwrap_or(0);
        self.check(path)
    }

    /// Cuts what was appended after the file had `len` bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn rewind(&mut self, len: u64, path: &Path) -> Result<(), StoreError> {
        self.file.truncate(len).map_err(|source| io_error(Action::Replace, path, source))?;
        self.len = len;
        self.synced_len = self.synced_len.min(len);
        Ok(())
    }

    /// Bytes in the file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether something was written since the last sync.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.synced_len < self.len
    }

    /// Everything written is durable, by a sync of this file or of its file system.
    pub fn mark_synced(&mut self) {
        self.synced_len = self.len;
    }

    /// Whether a sync of the file system `device` makes it durable.
    #[must_use]
    pub fn is_on(&self, device: u64) -> bool {
        self.device == device
    }

    /// The open file, for reads and syncs.
    #[must_use]
    pub fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    fn check(&mut self, path: &Path) -> Result<(), StoreError> {
        let found = self.file.describe();
        let found = found.map_err(|source| io_error(Action::Append, path, source))?;
        self.device = found.device;
        if found.link_count == 0 && self.had_name && !planted::is(Bug::LateRename) {
            return Err(StoreError::Vanished { path: path.to_owned() });
        }
        self.had_name = found.link_count != 0;
        let (expected, found) = (self.len, found.len);
        // Where a file is shared with a former active, this is what notices it.
        let is_shared =
            planted::is(Bug::SliceContinued) || planted::is(Bug::SubscriptionsContinued);
        if found != expected && !is_shared {
            return Err(StoreError::Intruder { path: path.to_owned(), expected, found });
        }
        Ok(())
    }
}

/// Most that is read at once: the index of 128 million messages. A file whose length says more was
/// made longer by somebody else, and memory is not to be asked for it.
const READ_LEN_MAX: usize = 4 * 1024 * 1024 * 1024;

/// Reads `len` bytes at `offset`; fewer where the file ends.
///
/// # Errors
/// [`StoreError::Io`], also if there are too many.
pub fn read_range(
    file: &dyn DiskFile,
    offset: u64,
    len: usize,
    path: &Path,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    if READ_LEN_MAX < len || bytes.try_reserve_exact(len).is_err() {
        let text = format!("{len} bytes are more than can be read at once");
        let source = io::Error::new(io::ErrorKind::FileTooLarge, text);
        return Err(io_error(Action::Read, path, source));
    }
    bytes.resize(len, 0);
    let read_len =
        file.read_at(&mut bytes, offset).map_err(|source| io_error(Action::Read, path, source))?;
    bytes.truncate(read_len);
    Ok(bytes)
}

/// Reads a whole file and checks its version; `Ok(Err(text))` if that is not ours.
///
/// # Errors
/// [`StoreError::Io`].
pub fn read_whole(file: &dyn DiskFile, path: &Path) -> Result<Result<Vec<u8>, String>, StoreError> {
    let len = file.size().map_err(|source| io_error(Action::Read, path, source))?;
    let bytes = read_range(file, 0, usize::try_from(len).unwrap_or(usize::MAX), path)?;
    Ok(check_version(&bytes).map(|()| bytes))
}

/// Whether the version header never reached the disk, as a crash can leave it: the file ends inside
/// of it, or its length came first, and zeros stand where it should be.
///
/// # Errors
/// [`StoreError::Io`].
pub fn lacks_header(file: &dyn DiskFile, path: &Path) -> Result<bool, StoreError> {
    Ok(is_no_header(&read_range(file, 0, RECORDS_START, path)?))
}

/// The same of the first bytes of a file.
#[must_use]
pub fn is_no_header(bytes: &[u8]) -> bool {
    let is_short = bytes.len() < RECORDS_START && VERSION_HEADER.starts_with(bytes);
    is_short || bytes.iter().all(|byte| *byte == 0)
}

/// Whether a file ends in the middle of its version header, or is nothing but zeros: a torn tail,
/// in front of which nothing was written.
///
/// # Errors
/// [`StoreError::Io`].
pub fn is_half_begun(file: &dyn DiskFile, path: &Path) -> Result<bool, StoreError> {
    if !lacks_header(file, path)? {
        return Ok(false);
    }
    let len = file.size().map_err(|source| io_error(Action::Read, path, source))?;
    let bytes = read_range(file, 0, usize::try_from(len).unwrap_or(usize::MAX), path)?;
    Ok(bytes.len() < RECORDS_START || bytes.iter().all(|byte| *byte == 0))
}

/// Completes the version header of such a file, durably; gives the line for the operator.
///
/// # Errors
/// [`StoreError::Io`].
pub fn complete_header(file: &dyn DiskFile, path: &Path) -> Result<String, StoreError> {
    let mut header = read_range(file, 0, RECORDS_START, path)?;
    let len = file.size().map_err(|source| io_error(Action::Read, path, source))?;
    if !VERSION_HEADER.starts_with(&header) {
        header.clear();
        file.truncate(0).map_err(|source| io_error(Action::Replace, path, source))?;
    }
    file.append(&VERSION_HEADER[header.len()..])
        .map_err(|source| io_error(Action::Append, path, source))?;
    file.sync().map_err(|source| io_error(Action::Sync, path, source))?;
    let what = if header.is_empty() && len != 0 {
        format!("its {len} bytes were zeros, without a version header")
    } else {
        format!("it ended after {len} bytes, inside of its version header")
    };
    Ok(format!(
        "Unexpected EOF for file \"{}\": {what}, which is complete now. Records that it may have \
         had are lost: restore it from a backup if they matter",
        path.display()
    ))
}

/// The header's length as an index into a whole file.
pub const RECORDS_START: usize = VERSION_HEADER.len();

/// An error of the disk in the words of the reference: operation, path, the system's reason.
#[must_use]
pub fn io_error(action: Action, path: &Path, source: io::Error) -> StoreError {
    let verb = match action {
        Action::Open => "open",
        Action::Folder => "mkdir",
        Action::Read => "read",
        Action::Append => "write",
        Action::Sync => "sync",
        Action::Replace => "rename",
    };
    let text = format!("{verb} {}: {}", path.display(), reason(&source));
    StoreError::Io { action, path: path.to_owned(), text, source }
}

/// The system's reason as the reference prints it.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else {
        return error.to_string();
    };
    let text = nix::errno::Errno::from_raw(code).desc();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// The path of a name below the root, for errors and log lines.
#[must_use]
pub fn path_below(root: &Path, folder: &[u8], name: &[u8]) -> PathBuf {
    let mut path = root.to_owned();
    for part in [folder, name] {
        if !part.is_empty() {
            path.push(String::from_utf8_lossy(part).as_ref());
        }
    }
    path
}
