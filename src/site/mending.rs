//! Mends a damaged store in a directory, under its lock.

use std::io;
use std::path::Path;

use super::epoch_files;
use super::place::{Held, PlaceError};
use super::writers;
use crate::config::Config;
use crate::store::check::{self, Change, CheckError, MendError, Mender, Report, Rules};

/// Why a store was not mended, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be looked through.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// It cannot be had.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Somebody writes there without a lock, as a Go server does that is alone.
    #[error("{0}: stop its server first")]
    Written(String),
    /// Its epochs cannot be listed.
    #[error("its epochs: {0}")]
    Unlisted(io::Error),
    /// A member that stands by would take it for one that hangs.
    #[error("a server stands by for it ({0} is locked): stop that one, too")]
    StandsBy(String),
    /// It cannot be rewritten.
    #[error(transparent)]
    Mend(#[from] MendError),
}

/// Mends the store that `found` is the report of, and that `config` describes too; says what was
/// done.
///
/// # Errors
/// [`Error`]; what was done before is whole, and the rest as it was.
pub fn mend(
    config: &Config,
    found: &Report,
    rules: Rules,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Change>, Error> {
    if !found.is_damaged() && !found.needs_start() {
        return Ok(Vec::new());
    }
    // A repair that is refused leaves nothing there, no epoch either.
    check::may_mend(found)?;
    let directory = &found.directory;
    let mut held = Held::take(config.clone())?;
    refuse_written(directory)?;
    refuse_standby(directory)?;
    // Whoever had it until now may have changed it.
    let report = check::directory(directory, rules, say)?;
    let fence = held.fence();
    let mut confirm = || held.confirm().map_err(|error| error.to_string());
    let mut mender = Mender { fence: fence.as_ref(), confirm: &mut confirm, say };
    Ok(check::mend(&report, rules, &mut mender)?)
}

fn refuse_written(directory: &Path) -> Result<(), Error> {
    match writers::find(directory) {
        Some(writer) => Err(Error::Written(writer.who())),
        None => Ok(()),
    }
}

fn refuse_standby(directory: &Path) -> Result<(), Error> {
    let listing = epoch_files::list(directory).map_err(Error::Unlisted)?;
    for name in listing.claims {
        if epoch_files::is_locked(&directory.join(&name)).map_err(Error::Unlisted)? {
            return Err(Error::StandsBy(name));
        }
    }
    Ok(())
}
