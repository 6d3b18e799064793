//! Removes files so that a former active can take nothing away from its successor.
//!
//! Each file is renamed, inside of its folder, to a name of this epoch; then the fence is asked;
//! only then is it unlinked. What is found under such a name of an earlier epoch was not removed
//! by the right to do so and is put back; limits remove it again.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::base::epoch::Fence;
use crate::store::file::disk::{Entry, Folder};
use crate::store::file::format::{ChannelFile, channel_file, removed_name};
use crate::store::file::log::{io_error, path_below};
use crate::store::{Action, StoreError};

/// Folders in folders that are removed with a channel: each takes a descriptor meanwhile.
const FOLDERS_NESTED_MAX: usize = 32;

/// Where a removal happens.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The open folder.
    pub folder: &'a dyn Folder,
    /// Its path, for errors.
    pub path: &'a Path,
    /// The right to do it.
    pub fence: &'a dyn Fence,
}

impl Place<'_> {
    fn error(&self, name: &[u8], source: std::io::Error) -> StoreError {
        io_error(Action::Replace, &path_below(self.path, b"", name), source)
    }

    /// Removes files that exist; a name that is free is no error. After an error it can be tried
    /// again with the same names, and goes on where it broke off.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Fenced`].
    pub fn remove(&self, names: &[Vec<u8>]) -> Result<(), StoreError> {
        let epoch = self.fence.epoch().0;
        for name in names {
            match self.folder.rename(name, &removed_name(epoch, name)) {
                Ok(()) => (),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
                Err(error) => return Err(self.error(name, error)),
            }
        }
        self.fence.check()?;
        for away in names.iter().map(|name| removed_name(epoch, name)) {
            match self.folder.unlink(&away) {
                Ok(()) => (),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
                Err(error) => return Err(self.error(&away, error)),
            }
        }
        Ok(())
    }

    /// Removes everything: files of the format as [`Place::remove`] does, and folders that somebody
    /// else has put there with all that is in them.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Fenced`].
    pub fn clear(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let (folders, files): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.is_folder);
        let mut names: Vec<Vec<u8>> = files.into_iter().map(|entry| entry.name).collect();
        // Subscriptions last: whatever is left of a broken removal is a whole channel.
        names.sort();
        self.remove(&names)?;
        folders.iter().try_for_each(|entry| {
            let removed = remove_tree(self.folder, &entry.name, FOLDERS_NESTED_MAX);
            removed.map_err(|source| self.error(&entry.name, source))
        })
    }

    /// Renames files for the archive script.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Fenced`].
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.fence.check()?;
        self.folder.rename(from, to).map_err(|source| self.error(from, source))
    }

    /// Puts back what an earlier epoch has half removed; true if there was any.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_back(&self, entries: &[Entry]) -> Result<bool, StoreError> {
        let mut is_changed = false;
        for entry in entries {
            let ChannelFile::Removed(epoch, name) = channel_file(&entry.name) else {
                continue;
            };
            if epoch == self.fence.epoch().0 {
                continue;
            }
            is_changed = true;
            let is_free = !entries.iter().any(|other| other.name == name);
            let done = if is_free {
                self.folder.rename(&entry.name, &name)
            } else {
                self.folder.unlink(&entry.name)
            };
            done.map_err(|source| self.error(&entry.name, source))?;
        }
        Ok(is_changed)
    }
}

fn remove_tree(parent: &dyn Folder, name: &[u8], depth_max: usize) -> io::Result<()> {
    let Some(depth_max) = depth_max.checked_sub(1) else {
        return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
    };
    let folder = parent.folder(name)?;
    for entry in folder.list()? {
        if entry.is_folder {
            remove_tree(folder.as_ref(), &entry.name, depth_max)?;
        } else {
            folder.unlink(&entry.name)?;
        }
    }
    parent.remove_folder(name)
}

/// Scripts that archive removed slices, until they have ended.
#[derive(Debug, Default)]
pub struct Archivists {
    running: Vec<Archivist>,
}

#[derive(Debug)]
struct Archivist {
    child: Child,
    script: PathBuf,
    channel: String,
    data: PathBuf,
    index: PathBuf,
}

impl Archivists {
    /// Starts the script for one slice: script, channel, data file, index file (spec stores, 5.8).
    pub fn start(&mut self, script: &Path, channel: &[u8], data: PathBuf, index: PathBuf) {
        let channel = String::from_utf8_lossy(channel).into_owned();
        let started = Command::new(script)
            .args([Path::new(&channel), &data, &index])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Ok(child) => {
                let script = script.to_owned();
                self.running.push(Archivist { child, script, channel, data, index });
            }
            Err(error) => report_failure(script, &error.to_string(), ""),
        }
    }

    /// Whether a script runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Reports scripts that have ended.
    pub fn poll(&mut self) {
        let mut running = Vec::new();
        for mut archivist in self.running.drain(..) {
            match archivist.child.try_wait() {
                Ok(None) => running.push(archivist),
                Ok(Some(_)) | Err(_) => archivist.finish(),
            }
        }
        self.running = running;
    }

    /// Waits for all scripts to end.
    pub fn finish(&mut self) {
        for archivist in self.running.drain(..) {
            archivist.finish();
        }
    }
}

impl Archivist {
    fn finish(self) {
        match self.child.wait_with_output() {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                if output.status.success() {
                    log::info!(
                        "Output of archive script for {} ({} and {}): {text}",
                        self.channel,
                        self.data.display(),
                        self.index.display(),
                    );
                } else {
                    report_failure(&self.script, &output.status.to_string(), &text);
                }
            }
            Err(error) => report_failure(&self.script, &error.to_string(), ""),
        }
    }
}

fn report_failure(script: &Path, error: &str, output: &str) {
    log::info!("Error invoking archive script {script:?}: {error} (output={output})");
}
