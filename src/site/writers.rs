//! Who writes in the directory of a store without having its lock: a Go server that stands alone.
//!
//! What such a server acknowledges after another one has read the directory is lost, and both write
//! into the same files. It keeps files open to write, which the kernel of its machine tells.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGIO;
use signal_hook::flag;

use crate::base::files::{self, Access, Links};
use crate::base::world;
use crate::store::StoreError;
use crate::store::file::format::{ChannelFile, channel_file};

/// What a Go server has open while it runs; with `-file_fds_limit` maybe others in their place.
const ROOT_FILES: [&str; 2] = ["server.dat", "clients.dat"];
/// What every channel has.
const SUBSCRIPTIONS: &str = "subs.dat";
/// Files of channels that are looked at beside them.
const CHANNEL_FILES_MAX: usize = 4_096;
/// Processes that are looked at, to name the one that writes.
const PROCESSES_MAX: usize = 65_536;
/// How long a process that dies may still have its files open.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at it.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Somebody who has a file of a store open to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    path: PathBuf,
    /// Its number and name, where this process may know.
    process: Option<(u32, String)>,
}

impl Writer {
    /// What it has open, and who it is.
    #[must_use]
    pub fn who(&self) -> String {
        let who = match &self.process {
            Some((pid, name)) => format!("process {pid} ({name})"),
            None => "another process".to_owned(),
        };
        format!("{} is open for writing by {who}", self.path.display())
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, which holds no lock of this directory, as a nats-streaming-server without -ft_group: \
             end it first, or what it acknowledges from now on is lost",
            self.who()
        )
    }
}

/// Who writes in `root` although the caller has its lock; nobody where the kernel cannot tell.
#[must_use]
pub fn find(root: &Path) -> Option<Writer> {
    // A handler in place of the end of the process.
    flag::register(SIGIO, Arc::default()).ok()?;
    ROOT_FILES
        .into_iter()
        .map(|name| root.join(name))
        .chain(channel_files(root).take(CHANNEL_FILES_MAX))
        .find_map(writer_of)
}

/// Waits until nobody writes there any more, which a process that was killed does for a moment.
///
/// # Errors
/// [`StoreError::Unusable`], which names who does.
pub(super) fn await_none(root: &Path) -> Result<(), StoreError> {
    let until = world::instant() + PATIENCE;
    while let Some(writer) = find(root) {
        if until <= world::instant() {
            return Err(StoreError::Unusable(writer.to_string()));
        }
        thread::park_timeout(LOOK_PAUSE);
    }
    Ok(())
}

fn channel_files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    // What else lies there, open or not, is nobody's store.
    let folders = entries(root).filter(|entry| {
        let is_folder = entry.file_type().is_ok_and(|it| it.is_dir());
        is_folder && entry.path().join(SUBSCRIPTIONS).is_file()
    });
    let files = folders.flat_map(move |folder| entries(&folder.path()));
    let is_of_channel = |entry: &fs::DirEntry| {
        matches!(
            channel_file(entry.file_name().as_bytes()),
            ChannelFile::Data(_) | ChannelFile::Index(_) | ChannelFile::Subscriptions
        )
    };
    files.filter(is_of_channel).map(|entry| entry.path())
}

fn writer_of(path: PathBuf) -> Option<Writer> {
    let file = files::open(&path, Access::Read, Links::Refused).ok()?;
    if files::has_writer(&file) != Some(true) {
        return None;
    }
    let found = file.metadata().ok()?;
    let process = process_with((found.dev(), found.ino()));
    Some(Writer { path, process })
}

/// Which process has this file open to write, as far as this user may see.
fn process_with(file: (u64, u64)) -> Option<(u32, String)> {
    let processes = fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find_map(|pid: u32| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let open = fs::read_dir(process.join("fd")).ok()?.flatten();
        let mut ours = open.filter(|entry| {
            let found = fs::metadata(entry.path());
            found.is_ok_and(|found| (found.dev(), found.ino()) == file)
        });
        let is_writer = ours.any(|entry| {
            let info = process.join("fdinfo").join(entry.file_name());
            flags(&info).is_some_and(|flags| flags & 0o3 != 0)
        });
        let name = || files::read(&process.join("comm"), 64).unwrap_or_default();
        is_writer.then(|| (pid, String::from_utf8_lossy(name().trim_ascii()).into_owned()))
    })
}

/// What a descriptor was opened with.
fn flags(info: &Path) -> Option<u32> {
    let text = String::from_utf8(files::read(info, 4_096).ok()?).ok()?;
    let digits = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(digits.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// Goal: whichever file of a store is written, its writer is found, and named.
    #[test]
    fn whoever_writes_in_a_store_is_found_and_named() {
        let root = tempfile::tempdir().unwrap();
        let channel = root.path().join("orders");
        fs::create_dir(&channel).unwrap();
        let paths = [
            root.path().join("server.dat"),
            root.path().join("clients.dat"),
            channel.join("subs.dat"),
            channel.join("msgs.7.idx"),
        ];
        paths.iter().for_each(|path| fs::write(path, "").unwrap());
        fs::write(root.path().join("other"), "").unwrap();
        let _other = files::open(&root.path().join("other"), Access::Update, Links::Refused);
        assert_eq!(find(root.path()), None);
        for path in paths {
            let writer = files::open(&path, Access::Update, Links::Refused).unwrap();
            let found = find(root.path()).unwrap();
            assert_eq!(found.path, path);
            assert_eq!(found.process.as_ref().map(|found| found.0), Some(std::process::id()));
            drop(writer);
            assert_eq!(find(root.path()), None);
        }
        assert_eq!(find(&root.path().join("none")), None);
    }
}
