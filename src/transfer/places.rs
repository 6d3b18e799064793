//! The two stores of a transfer, before anything is read of one or written to the other.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::proto::spb;
use crate::site;
use crate::site::new_store::is_unfinished;
use crate::site::place::{Place, PlaceError};
use crate::transfer::error::TransferError;

/// Whether both may be used, as far as their paths show.
///
/// # Errors
/// [`TransferError`].
pub(super) fn check(from: &Config, to: &Config) -> Result<(), TransferError> {
    if !from.is_lasting() || !to.is_lasting() {
        return Err(TransferError::Memory);
    }
    let paths = [
        path_of(from).map_err(TransferError::Source)?,
        path_of(to).map_err(TransferError::Target)?,
    ];
    if paths[0].is_some() && paths[0] == paths[1] {
        return Err(TransferError::OneStore);
    }
    if let [Some(from), Some(to)] = &paths
        && lies_in(to, from)
    {
        return Err(TransferError::Nested { path: to.clone() });
    }
    paths.into_iter().flatten().try_for_each(check_user)
}

/// Whether a path, which need not be there, lies below that folder.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let parent = path.ancestors().skip(1).find_map(|parent| parent.canonicalize().ok());
    let folder = folder.canonicalize().ok();
    parent.zip(folder).is_some_and(|(parent, folder)| parent.starts_with(folder))
}

/// Whether a new store may be made there.
///
/// # Errors
/// [`TransferError`].
pub(super) fn check_target(to: &Config) -> Result<(), TransferError> {
    let path = path_of(to).map_err(TransferError::Target)?;
    path.map_or(Ok(()), check_user)
}

/// Where it lies on this machine, if it does.
fn path_of(config: &Config) -> Result<Option<PathBuf>, PlaceError> {
    Ok(site::of(config)?.path())
}

/// A server that may not read what we make would not start any more.
fn check_user(path: PathBuf) -> Result<(), TransferError> {
    let user = nix::unistd::geteuid().as_raw();
    // What is not there is told by whoever opens it.
    let Ok(found) = fs::metadata(&path) else { return Ok(()) };
    let owner = found.uid();
    if owner == user { Ok(()) } else { Err(TransferError::User { path, owner, user }) }
}

/// Opens the store that has something, for reading: it lets go of nothing meanwhile. Its server's
/// record comes with it.
///
/// # Errors
/// [`TransferError`]; of what is no store nothing is made one.
pub(super) fn open_source(config: &Config) -> Result<(Place, spb::ServerInfo), TransferError> {
    if let Some(folder) = &config.streaming.directory {
        let missing = |why: String| TransferError::NoStore { path: folder.clone(), why };
        let mut entries = fs::read_dir(folder).map_err(|error| missing(error.to_string()))?;
        if entries.next().is_none() {
            return Err(missing("it is empty".to_owned()));
        }
    }
    let source = Place::open_unlimited(config).map_err(TransferError::Source)?;
    let server = source.recovered().server.clone().ok_or(TransferError::NewSource)?;
    let cluster = String::from_utf8_lossy(&server.cluster_id).into_owned();
    match is_unfinished(&cluster) {
        true => Err(TransferError::Unfinished(cluster)),
        false => Ok((source, server)),
    }
}
