//! Rewrites a file without its dead records, and puts it in the old one's place.
//!
//! The new file is first made in the root under a name of its epoch and synced; then the fence is
//! asked; then it is renamed. A successor unlinks such names before it reads: a late rename finds
//! no source, or its owner finds the later epoch. So a former active that holds the old file open
//! writes to a file that nobody reads any more.
//! A channel's folder that is a mount takes no file from the root: there the file is copied into
//! the folder, under the same name, and everything else is as before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::base::epoch::Fence;
use crate::base::reserve::is_no_room;
use crate::store::file::disk::{Access, DiskFile, Folder};
use crate::store::file::format::{FILE_HEADER_LEN, replacement_name};
use crate::store::file::log::{Log, io_error, path_below, read_range};
use crate::store::file::reserve::{REPLACEMENTS, Spare};
use crate::store::{Action, StoreError};

/// A file that waits to replace another.
pub struct Replacement {
    name: Vec<u8>,
    path: PathBuf,
    log: Log,
}

impl Replacement {
    /// Writes `records` to a new file in the root. It is not synced.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then there is no such file.
    pub fn write(spare: Spare<'_>, root_path: &Path, records: &[u8]) -> Result<Self, StoreError> {
        let root = spare.root;
        let name = replacement_name(spare.epoch, REPLACEMENTS.fetch_add(1, Ordering::Relaxed));
        let path = path_below(root_path, b"", &name);
        let attempt = || {
            let file = spare.open_new(root, &name);
            let file = file.map_err(|source| io_error(Action::Open, &path, source))?;
            // What is left of it after an error, the next take-over removes.
            let log = filled(file, (root, &name), &path, records);
            log.inspect_err(|_| drop(root.unlink(&name)))
        };
        let mut written = attempt();
        if written.as_ref().is_err_and(is_cut_short) && spare.release_bytes() {
            written = attempt();
        }
        written.map(|log| Self { name: name.clone(), path: path.clone(), log })
    }

    /// Its name in the root until it is put in place.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Makes its content durable.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let synced = self.log.file().sync();
        synced.map_err(|source| io_error(Action::Sync, &self.path, source))?;
        self.log.mark_synced();
        Ok(())
    }

    /// Whether a sync of the file system `device` makes it durable.
    #[must_use]
    pub fn is_on(&self, device: u64) -> bool {
        self.log.is_on(device)
    }

    /// A sync of the file system has made its content durable.
    pub fn mark_synced(&mut self) {
        self.log.mark_synced();
    }

    /// Puts it in the place of `name` in `target`. The caller has asked the fence since the sync.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then the old file is in its place. [`StoreError::Fenced`].
    pub fn put(
        self,
        root: &dyn Folder,
        target: Option<&dyn Folder>,
        name: &[u8],
        fence: &dyn Fence,
    ) -> Result<Log, StoreError> {
        let done = match target {
            Some(target) => root.rename_into(&self.name, target, name),
            None => root.rename(&self.name, name),
        };
        if let (Err(source), Some(target)) = (&done, target)
            && source.kind() == io::ErrorKind::CrossesDevices
        {
            return self.put_copy(root, target, name, fence);
        }
        if let Err(source) = done {
            let error = io_error(Action::Replace, &self.path, source);
            self.discard(root);
            return Err(error);
        }
        Ok(self.log)
    }

    /// Puts a copy of it in place, made where it can be renamed.
    fn put_copy(
        self,
        root: &dyn Folder,
        target: &dyn Folder,
        name: &[u8],
        fence: &dyn Fence,
    ) -> Result<Log, StoreError> {
        let len = usize::try_from(self.log.len()).unwrap_or(usize::MAX);
        let records = read_range(self.log.file(), FILE_HEADER_LEN, len, &self.path);
        let copied = records
            .and_then(|records| written(target, &self.name, &self.path, &records))
            .and_then(|mut log| {
                let synced = log.file().sync();
                synced.map_err(|source| io_error(Action::Sync, &self.path, source))?;
                log.mark_synced();
                fence.check()?;
                let renamed = target.rename(&self.name, name);
                renamed.map_err(|source| io_error(Action::Replace, &self.path, source))?;
                Ok(log)
            });
        if copied.is_err() {
            // What is left, the next take-over removes.
            let _ = target.unlink(&self.name);
        }
        self.discard(root);
        copied
    }

    /// Gives it up.
    pub fn discard(self, root: &dyn Folder) {
        // What is left, the next take-over removes.
        let _ = root.unlink(&self.name);
    }
}

/// Whether there was no room for what was to be in it.
fn is_cut_short(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { action: Action::Append, source, .. } if is_no_room(source))
}

fn written(
    folder: &dyn Folder,
    name: &[u8],
    path: &Path,
    records: &[u8],
) -> Result<Log, StoreError> {
    let file = folder.open(name, Access::CreateNew);
    let file = file.map_err(|source| io_error(Action::Open, path, source))?;
    filled(file, (folder, name), path, records)
}

fn filled(
    file: Box<dyn DiskFile>,
    (folder, name): (&dyn Folder, &[u8]),
    path: &Path,
    records: &[u8],
) -> Result<Log, StoreError> {
    let mut log = Log::begin(file, folder, name, path)?;
    log.append(records, path)?;
    Ok(log)
}
