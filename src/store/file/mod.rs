//! Store over a directory, in the reference's format byte for byte.
//!
//! Reading order: `format` (layouts), `slices` and `subscriptions` (what files say, without I/O),
//! `disk`, `log` and `watch` (the way to the disk), `recovery`, `slice_recovery` and `evidence`,
//! `survey` and `opening`, `channel` and `channel_reading`, `share`, `commit` and `tidying`.
//! Why each operation may come late, from a former active: `docs/file-store.md`.
//! A folder under the root is a channel; of our own there are only files there.

mod adoption;
mod channel;
mod channel_reading;
mod commit;
mod compaction;
mod context;
mod creation;
mod cutting;
pub mod deliveries;
pub mod disk;
mod evidence;
pub mod format;
pub(in crate::store) mod log;
mod opening;
mod options;
pub mod overlay;
pub mod purging;
mod reading;
mod recovery;
mod registry;
mod removal;
pub(in crate::store) mod repair;
mod report;
mod reserve;
mod rewrite;
mod settled;
mod share;
mod share_sync;
mod slice_recovery;
mod slices;
mod subscriptions;
pub mod survey;
mod sync;
mod tail;
mod tidying;
mod unsynced;
pub mod watch;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{AccessFlags, eaccess};
use prost::Message as _;

use crate::base::channel_limits::StoreLimits;
use crate::base::epoch::{Fence, Predecessor};
use crate::base::files;
use crate::base::time::Now;
use crate::base::world;
use crate::proto::spb;
use crate::store::{Action, Opened, StoreError};

pub use self::opening::{Opening, open_on};
pub use self::options::FileOptions;

use self::disk::{Access, Disk, Folder, RealDisk};
use self::format::{Crc, TRUNCATE_WITNESS};
use self::log::{io_error, path_below, reason};

/// The server's record, as paths and lines name it.
const SERVER_FILE_NAME: &str = "server.dat";

const TRUNCATED_TWICE: &str = "file store should not be opened consecutively with the \
    TruncateUnexpectedEOF option set to true";

/// What is done before the lease is held: checks options, creates the root, guards the option to
/// truncate (spec stores, 5.1).
///
/// # Errors
/// [`StoreError::Unusable`] with the reference's text.
pub fn prepare(options: &FileOptions) -> Result<(), StoreError> {
    prepare_on(&RealDisk, options)
}

/// [`prepare`] on another disk.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_on(disk: &dyn Disk, options: &FileOptions) -> Result<(), StoreError> {
    options.validate()?;
    disk.create_root(&options.root).map_err(|error| rootless(&options.root, &error))?;
    let root = open_root(disk, &options.root)?;
    if !options.truncate_bad_eof {
        return match root.unlink(TRUNCATE_WITNESS) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => {
                let path = path_below(&options.root, b"", TRUNCATE_WITNESS);
                Err(io_error(Action::Replace, &path, source))
            }
        };
    }
    root.open(TRUNCATE_WITNESS, Access::CreateNew)
        .map(drop)
        .map_err(|_| StoreError::Unusable(TRUNCATED_TWICE.to_owned()))
}

/// Whether [`prepare`] would do; nothing is made.
///
/// # Errors
/// As [`prepare`].
pub fn check(options: &FileOptions) -> Result<(), StoreError> {
    options.validate()?;
    let root = &options.root;
    let nearest = root.ancestors().find(|path| !path.as_os_str().is_empty() && path.exists());
    if nearest != Some(root.as_path()) {
        let nearest = nearest.unwrap_or(Path::new("."));
        return world::may_make_in(nearest).map_err(|error| rootless(root, &error));
    }
    if !root.is_dir() {
        let error = std::io::ErrorKind::NotADirectory.into();
        return Err(rootless(root, &error));
    }
    let witness = path_below(root, b"", TRUNCATE_WITNESS);
    if options.truncate_bad_eof && witness.exists() {
        return Err(StoreError::Unusable(TRUNCATED_TWICE.to_owned()));
    }
    Ok(())
}

/// There is no root, and none can be made; the step that failed is named as by the reference.
fn rootless(root: &Path, error: &std::io::Error) -> StoreError {
    let mut prefixes: Vec<&Path> = root.ancestors().collect();
    prefixes.reverse();
    let named = |path: &&&Path| !path.as_os_str().is_empty() && !path.is_dir();
    let failed = prefixes.iter().find(named).map_or(root, |path| *path);
    let reason = if failed.exists() { "not a directory".to_owned() } else { reason(error) };
    StoreError::Unusable(format!(
        "unable to create the root directory [{}]: mkdir {}: {reason}",
        root.display(),
        failed.display(),
    ))
}

/// The server's record of a store that another process may be writing; `None` if it cannot be told.
#[must_use]
pub fn peek_server(options: &FileOptions) -> Option<spb::ServerInfo> {
    peek_server_on(&RealDisk, options)
}

/// [`peek_server`] on another disk.
#[must_use]
pub fn peek_server_on(disk: &dyn Disk, options: &FileOptions) -> Option<spb::ServerInfo> {
    let root = disk.open_root(&options.root).ok()?;
    registry::peek_server(root.as_ref())
}

/// Makes a new directory of a store, or takes an empty one, with the record of its server in it
/// before anything else. What another process was quicker to make stays as it is.
///
/// # Errors
/// [`StoreError::Unusable`], [`StoreError::Io`].
pub fn begin(options: &FileOptions, server: &spb::ServerInfo) -> Result<(), StoreError> {
    begin_on(&RealDisk, options, server)
}

/// So many that were killed while they began are passed over.
const SPARES_MAX: u64 = 100;

/// [`begin`] on this disk.
///
/// # Errors
/// As [`begin`].
pub fn begin_on(
    disk: &dyn Disk,
    options: &FileOptions,
    server: &spb::ServerInfo,
) -> Result<(), StoreError> {
    options.validate()?;
    disk.create_root(&options.root).map_err(|error| rootless(&options.root, &error))?;
    let root = open_root(disk, &options.root)?;
    let path = path_below(&options.root, b"", format::SERVER_FILE);
    let path = path.as_path();
    let failed = |action: Action| move |source| io_error(action, path, source);
    if root.open(format::SERVER_FILE, Access::Read).is_ok() {
        return Ok(());
    }
    // Whole at once under its name: a kill must not leave a record that nobody can read. What a
    // kill leaves is of no epoch, and the next opening takes it away.
    let is_taken = |opened: &std::io::Result<_>| is_there_already(opened.as_ref().err());
    let spares = (0..SPARES_MAX).map(|number| format::replacement_name(0, number));
    let mut opened = spares.map(|spare| (root.open(&spare, Access::CreateNew), spare));
    let free = opened.find(|(opened, _)| !is_taken(opened));
    let Some((file, spare)) = free else {
        let error = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(failed(Action::Open)(error));
    };
    let file = file.map_err(failed(Action::Open))?;
    let crc = Crc::new(u32::try_from(options.crc_polynomial).unwrap_or(Crc::IEEE));
    let mut bytes = format::VERSION_HEADER.to_vec();
    format::encode_plain(&mut bytes, &server.encode_to_vec(), &crc);
    file.append(&bytes).and_then(|()| file.sync()).map_err(failed(Action::Append))?;
    let renamed = root.rename_new(&spare, format::SERVER_FILE);
    if is_there_already(renamed.as_ref().err()) {
        return Ok(());
    }
    renamed.and_then(|()| root.sync()).map_err(failed(Action::Replace))
}

fn is_there_already(error: Option<&std::io::Error>) -> bool {
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
}

/// Whether this user may write in the root: asked where a server alone starts, which ends in the
/// reference's words if not.
///
/// # Errors
/// [`StoreError::Unusable`].
pub fn check_rights(options: &FileOptions) -> Result<(), StoreError> {
    let server = options.root.join(SERVER_FILE_NAME);
    let denied = |error: &std::io::Error| {
        let text = "unable to recover server file";
        let path = server.display();
        let line = format!("{text} {SERVER_FILE_NAME:?}: open {path}: {}", reason(error));
        StoreError::Unusable(line)
    };
    match files::open(&server, files::Access::Update, files::Links::Followed) {
        Ok(_) => (),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
        Err(error) => return Err(denied(&error)),
    }
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    let found = eaccess(&options.root, wanted).map_err(std::io::Error::from);
    found.map_err(|error| denied(&error))
}

/// Recovers the store under `fence`, whose epoch was claimed before, and gives a share for each of
/// `loops`.
///
/// # Errors
/// [`StoreError::Corrupt`] and [`StoreError::Unusable`] with the reference's text where it has
/// one, [`StoreError::Io`], [`StoreError::Fenced`].
pub fn open(
    options: &FileOptions,
    limits: &StoreLimits,
    fence: Arc<dyn Fence>,
    predecessor: Predecessor,
    loops: u16,
    now: Now,
) -> Result<Opened, StoreError> {
    let opening = Opening { options, limits, fence, predecessor, loops, now, survey: None };
    open_on(Arc::new(RealDisk), opening)
}

fn open_root(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Folder>, StoreError> {
    disk.open_root(path).map_err(|source| io_error(Action::Open, path, source))
}

/// What was read is not what it should be: an error of this read, not of the whole store.
fn unreadable(path: &Path, what: &dyn Display) -> StoreError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_string());
    io_error(Action::Read, path, source)
}
