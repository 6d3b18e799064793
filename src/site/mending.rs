//! Mends a damaged store in a directory, under its lock.
//!
//! What `store::check` rewrites comes first, and then what a start puts right, as a start does it:
//! that of the Go server would not.

use std::path::Path;

use super::place::{Held, Place, PlaceError};
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
    /// It cannot be rewritten.
    #[error(transparent)]
    Mend(#[from] MendError),
}

/// Mends the store in `directory`, which `config` describes too; says what was done.
///
/// # Errors
/// [`Error`]; what was done before is whole, and the rest as it was.
pub fn mend(
    config: &Config,
    directory: &Path,
    rules: Rules,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let mut report = check::directory(directory, rules, say)?;
    if report.is_damaged() {
        changes = rewrite(config, directory, rules, say)?;
        report = check::directory(directory, rules, say)?;
    }
    if report.needs_start() && report.start_fails.is_none() {
        refuse_written(directory)?;
        Place::open_to_take(config)?.close()?;
        changes.extend(report.start.into_iter().map(Change::of_start));
    }
    Ok(changes)
}

fn rewrite(
    config: &Config,
    directory: &Path,
    rules: Rules,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Change>, Error> {
    let mut held = Held::take(config.clone())?;
    refuse_written(directory)?;
    // Whoever had it until now may have changed it.
    let report: Report = check::directory(directory, rules, say)?;
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
