//! Removes files so that a former active can take nothing away from its successor.
//!
//! Each file is renamed, inside of its folder, to a name of this epoch; then the fence is asked;
//! only then is it unlinked. What is found under such a name of an earlier epoch was not removed
//! by the right to do so and is put back: when a store is opened, and while it is served, as a
//! former active may have been stopped just before its rename. A channel goes in one step: once
//! all of its files have such names, one of them is renamed to say that none of them comes back.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::base::epoch::Fence;
use crate::base::go;
use crate::base::world;
use crate::store::file::disk::{Access, DiskFile, Entry, Folder};
use crate::store::file::format::{
    ChannelFile, channel_file, deleted_name, removed_name, slice_data_name,
};
use crate::store::file::log::{io_error, path_below};
use crate::store::{Action, StoreError};

/// Folders in folders that are removed with a channel: each takes a descriptor meanwhile.
const FOLDERS_NESTED_MAX: usize = 32;
/// A file is put back so often before it counts as missing: each time, another former active has
/// been stopped before a rename, and goes on just now.
const PUT_BACK_MAX: usize = 8;

/// Opens a file; what a former active has taken away since the store was opened is put back.
///
/// # Errors
/// As the system says.
pub fn open_file(
    folder: &dyn Folder,
    name: &[u8],
    access: Access,
    fence: &dyn Fence,
) -> io::Result<Box<dyn DiskFile>> {
    for _ in 0..PUT_BACK_MAX {
        match folder.open(name, access) {
            Err(error) if is_missing(&error) => {
                let Some(away) = taken_away(folder, name, fence)? else {
                    return Err(error);
                };
                match folder.rename_new(&away, name) {
                    Err(error) if !is_missing(&error) && !is_taken(&error) => return Err(error),
                    Ok(()) | Err(_) => (),
                }
            }
            done => return done,
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

/// The name that an earlier epoch has given to `name`.
fn taken_away(folder: &dyn Folder, name: &[u8], fence: &dyn Fence) -> io::Result<Option<Vec<u8>>> {
    let ours = fence.epoch().0;
    let is_it = |found: &Vec<u8>| {
        let ChannelFile::Removed(epoch, was) = channel_file(found) else { return false };
        epoch < ours && was == name
    };
    Ok(folder.list()?.into_iter().map(|entry| entry.name).find(is_it))
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

/// How long scripts are waited for where a store is closed.
const SCRIPTS_WAITED_FOR: Duration = Duration::from_millis(500);
/// Pause between two looks at them.
const SCRIPTS_LOOKED_AT: Duration = Duration::from_millis(5);
/// Bytes of its output that are shown.
const OUTPUT_MAX: usize = 16 * 1024;

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
    /// [`StoreError::Io`], [`StoreError::Fenced`]; what is not removed has its name, or a name that
    /// the next call finds.
    pub fn remove(&self, names: &[Vec<u8>]) -> Result<(), StoreError> {
        let taken = self.take_away(names)?;
        self.unlink(&taken)
    }

    /// Gives files names of this epoch, all or none, and asks the fence. Gives the names.
    fn take_away(&self, names: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, StoreError> {
        let epoch = self.fence.epoch().0;
        let mut taken = Vec::new();
        for (count, name) in names.iter().enumerate() {
            let away = removed_name(epoch, name);
            match self.folder.rename(name, &away) {
                Ok(()) => taken.push(away),
                Err(error) if is_missing(&error) => taken.extend(self.away_already(name)?),
                Err(error) => {
                    // This one too: a file server may have done what it says that it has not.
                    self.give_back(&names[..=count])?;
                    return Err(self.error(name, error));
                }
            }
        }
        self.fence.check()?;
        Ok(taken)
    }

    /// What a removal, of whatever epoch, has made of a name that is free.
    fn away_already(&self, name: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let entries = self.folder.list().map_err(|source| self.error(name, source))?;
        let found = entries.into_iter().map(|entry| entry.name).filter(
            |found| matches!(channel_file(found), ChannelFile::Removed(_, was) if was == name),
        );
        Ok(found.collect())
    }

    /// Takes back what was taken away.
    ///
    /// # Errors
    /// One that makes this process step down: the next one puts back what is missing.
    fn give_back(&self, names: &[Vec<u8>]) -> Result<(), StoreError> {
        for name in names {
            match self.folder.rename_new(&removed_name(self.fence.epoch().0, name), name) {
                Err(error) if !is_missing(&error) && !is_taken(&error) => {
                    let text = format!("a file that was to be removed did not come back: {error}");
                    return Err(self.error(name, io::Error::other(text)));
                }
                Ok(()) | Err(_) => (),
            }
        }
        Ok(())
    }

    /// Unlinks what has a name of an epoch; a successor may have put it back, or unlinked it.
    fn unlink(&self, names: &[Vec<u8>]) -> Result<(), StoreError> {
        for name in names {
            match self.folder.unlink(name) {
                Err(error) if !is_missing(&error) => return Err(self.error(name, error)),
                Ok(()) | Err(_) => (),
            }
        }
        Ok(())
    }

    /// Takes everything in the folder away for ever, as one step: files of the format, and folders
    /// that somebody else has put there with all that is in them. False if the step was made and
    /// something is left, which whoever opens the store next removes.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Fenced`]; then everything is there, or this process steps
    /// down.
    pub fn clear(&self) -> Result<bool, StoreError> {
        let list = || self.folder.list().map_err(|source| self.error(b"", source));
        let mut entries = list()?;
        // What was listed is no successor's.
        self.fence.check()?;
        if self.finish_deletion()? {
            return Ok(true);
        }
        if self.put_back_until(&entries, self.fence.epoch().0)? {
            entries = list()?;
            self.fence.check()?;
        }
        let mut names: Vec<Vec<u8>> = entries
            .into_iter()
            .filter(|entry| !entry.is_folder && !is_removal(entry))
            .map(|entry| entry.name)
            .collect();
        names.sort();
        let taken = self.take_away(&names)?;
        if let Some(last) = names.last() {
            let epoch = self.fence.epoch().0;
            let (away, mark) = (removed_name(epoch, last), deleted_name(epoch, last));
            if let Err(error) = self.folder.rename(&away, &mark) {
                self.fence.check()?;
                // Were it done all the same, what is given back would be no whole channel.
                let source = io::Error::other(format!("a deletion was not finished: {error}"));
                return Err(self.error(last, source));
            }
        }
        if self.unlink(&taken).and_then(|()| self.finish_deletion()).is_ok() {
            return Ok(true);
        }
        // The step is made: what nobody can make durable now is neither done nor refused.
        let synced = self.folder.sync();
        synced.map_err(|source| io_error(Action::Sync, self.path, source).half_done())?;
        Ok(false)
    }

    /// Unlinks what a deletion has left, its mark last; true if there was one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn finish_deletion(&self) -> Result<bool, StoreError> {
        let entries = self.folder.list().map_err(|source| self.error(b"", source))?;
        let mark_of = |entry: &Entry| {
            let ChannelFile::Deleted(epoch) = channel_file(&entry.name) else { return None };
            Some(epoch)
        };
        let Some(newest) = entries.iter().filter_map(mark_of).max() else {
            return Ok(false);
        };
        let (mut removed, mut marks) = (Vec::new(), Vec::new());
        for entry in &entries {
            let name = &entry.name;
            if entry.is_folder {
                let gone = remove_tree(self.folder, name, FOLDERS_NESTED_MAX);
                gone.map_err(|source| self.error(name, source))?;
            } else if let ChannelFile::Removed(epoch, _) = channel_file(name)
                && epoch <= newest
            {
                removed.push(name.clone());
            } else if mark_of(entry).is_some() {
                marks.push(name.clone());
            }
        }
        self.unlink(&removed)?;
        self.unlink(&marks)?;
        Ok(true)
    }

    /// Renames the files of a slice for the archive script, both or none.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Fenced`].
    pub fn archive(&self, names: &[Vec<u8>], archived: &[Vec<u8>]) -> Result<(), StoreError> {
        self.take_away(names)?;
        for (name, to) in names.iter().zip(archived) {
            let away = removed_name(self.fence.epoch().0, name);
            if let Err(source) = self.folder.rename(&away, to) {
                // Those that have their new names are no longer a part of the channel.
                self.give_back(names)?;
                return Err(self.error(name, source));
            }
        }
        Ok(())
    }

    /// Gives a file that was made here its name, which must be free.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Fenced`].
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.fence.check()?;
        self.folder.rename_new(from, to).map_err(|source| self.error(from, source))
    }

    /// Puts back what an earlier epoch has half removed; true if there was any.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_back(&self, entries: &[Entry]) -> Result<bool, StoreError> {
        // Before the first epoch nobody has removed anything.
        self.put_back_until(entries, self.fence.epoch().0.saturating_sub(1))
    }

    /// Puts back what was half removed by an epoch up to `last`.
    fn put_back_until(&self, entries: &[Entry], last: u64) -> Result<bool, StoreError> {
        let mut names: BTreeSet<Vec<u8>> = entries.iter().map(|entry| entry.name.clone()).collect();
        let removed = entries.iter().filter_map(|entry| {
            let ChannelFile::Removed(epoch, was) = channel_file(&entry.name) else { return None };
            (epoch <= last).then_some((entry.name.as_slice(), was))
        });
        let removed: Vec<(&[u8], Vec<u8>)> = removed.collect();
        names.extend(removed.iter().map(|(_, was)| was.clone()));
        for (away, was) in &removed {
            let done = if is_orphan(was, &names) {
                self.folder.unlink(away)
            } else {
                match self.folder.rename_new(away, was) {
                    Err(error) if is_taken(&error) => self.folder.unlink(away),
                    done => done,
                }
            };
            match done {
                // A former active has gone on with its removal, or come to its end.
                Err(error) if !is_missing(&error) => return Err(self.error(away, error)),
                Ok(()) | Err(_) => (),
            }
        }
        Ok(!removed.is_empty())
    }
}

/// Whether the name was given by a removal.
pub fn is_removal(entry: &Entry) -> bool {
    matches!(channel_file(&entry.name), ChannelFile::Removed(..) | ChannelFile::Deleted(_))
}

/// Whether this is an index whose messages were already unlinked.
fn is_orphan(name: &[u8], names: &BTreeSet<Vec<u8>>) -> bool {
    let ChannelFile::Index(number) = channel_file(name) else { return false };
    !names.contains(&slice_data_name(number))
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
    /// What it says is written into memory, so that it can go on without us, and nobody waits for a
    /// program that it has left behind.
    output: File,
    script: PathBuf,
    channel: String,
    data: PathBuf,
    index: PathBuf,
}

impl Archivists {
    /// Starts the script for one slice: script, channel, data file, index file (spec stores, 5.8).
    pub fn start(&mut self, script: &Path, channel: &[u8], data: PathBuf, index: PathBuf) {
        let channel = String::from_utf8_lossy(channel).into_owned();
        let started = memfd_create(c"archive-script", MFdFlags::MFD_CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|output| {
                let output = File::from(output);
                let mut command = Command::new(script);
                command.args([Path::new(&channel), &data, &index]).stdin(Stdio::null());
                command.stdout(output.try_clone()?).stderr(output.try_clone()?);
                Ok((command.spawn()?, output))
            });
        match started {
            Ok((child, output)) => {
                let script = script.to_owned();
                self.running.push(Archivist { child, output, script, channel, data, index });
            }
            Err(error) => {
                let (name, reason) = (script.display(), go::system_reason(&error));
                report_failure(script, &format!("fork/exec {name}: {reason}"), "");
            }
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
                Ok(Some(status)) => archivist.report(status),
                Err(error) => report_failure(&archivist.script, &go::system_reason(&error), ""),
            }
        }
        self.running = running;
    }

    /// Waits for all scripts to end, but not for one that hangs: who closes the store is on the way
    /// to letting go of the lease.
    pub fn finish(&mut self) {
        let until = world::instant() + SCRIPTS_WAITED_FOR;
        self.poll();
        while !self.is_idle() && world::instant() < until {
            thread::park_timeout(SCRIPTS_LOOKED_AT);
            self.poll();
        }
        for archivist in self.running.drain(..) {
            log::warn!(
                "The archive script {:?} for {} ({} and {}) still runs, and is not waited for",
                archivist.script,
                archivist.channel,
                archivist.data.display(),
                archivist.index.display(),
            );
        }
    }
}

impl Archivist {
    fn report(self, status: ExitStatus) {
        let mut said = vec![0; OUTPUT_MAX];
        let len = self.output.read_at(&mut said, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&said[..len]);
        if status.success() {
            log::info!(
                "Output of archive script for {} ({} and {}): {text}",
                self.channel,
                self.data.display(),
                self.index.display(),
            );
        } else {
            report_failure(&self.script, &ended(status), &text);
        }
    }
}

/// How a process ended, in the words of the reference.
fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "signal: killed".to_owned(),
        (None, Some(15)) => "signal: terminated".to_owned(),
        (None, Some(6)) => "signal: aborted".to_owned(),
        (None, Some(number)) => format!("signal: signal {number}"),
        (None, None) => status.to_string(),
    }
}

fn report_failure(script: &Path, error: &str, output: &str) {
    log::info!("Error invoking archive script {script:?}: {error} (output={output})");
}
