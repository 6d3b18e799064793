//! A store is copied: all of its channels, or some, into a new one.
//!
//! The source stays as it is. The target is marked as not complete until all was read back from
//! it. What was broken off goes on where it stopped, with what of it is equal still.

use crate::base::epoch::FenceError;
use crate::base::record::RecoveredChannel;
use crate::base::subject;
use crate::config::Config;
use crate::site::new_store::Work;
use crate::store::StoreError;
use crate::transfer::channel;
use crate::transfer::error::TransferError;
use crate::transfer::places;
use crate::transfer::store_copy::{self, Progress, Report, StoreCopy};

/// What is to be copied.
pub struct Request<'a> {
    /// The store that has it.
    pub from: &'a Config,
    /// The store that is to have it.
    pub to: &'a Config,
    /// Which channels, as subjects with wildcards; all of them if there is none.
    pub patterns: &'a [String],
}

/// Copies a store; `tell` hears after each commit how far it is.
///
/// # Errors
/// [`TransferError`]; then the target is not complete, and says so.
pub fn copy(
    request: &Request<'_>,
    tell: &mut dyn FnMut(&Progress<'_>),
) -> Result<Report, TransferError> {
    let Request { from, to, patterns } = *request;
    places::check(from, to)?;
    let (mut source, server) = places::open_source(from)?;
    let channels = selected(source.recovered().channels.iter(), patterns)?;
    let is_in_clear = from.streaming.encryption.is_none();
    for channel in &channels {
        channel::check_readable(&mut source, is_in_clear, channel)?;
    }
    store_copy::check_limits(&mut source, to, &channels)?;
    let (target, found) = store_copy::open_target(to, Work::Copy, &server.cluster_id)?;
    // Whoever opens a store ends the epoch of who had it open: by whatever name.
    match source.check() {
        Ok(()) => (),
        Err(FenceError::Superseded { .. }) => return Err(TransferError::OneStore),
        Err(error) => return Err(TransferError::Source(StoreError::from(error).into())),
    }
    let clients = source.recovered().clients.clone();
    let copy = StoreCopy { source: &mut source, server, clients, channels: &channels, is_in_clear };
    let report = copy.run(target, found, tell)?;
    source.close().map_err(TransferError::Source)?;
    Ok(report)
}

/// Those whose names match any of `patterns`.
pub(super) fn selected<'a>(
    channels: impl Iterator<Item = &'a RecoveredChannel>,
    patterns: &[String],
) -> Result<Vec<RecoveredChannel>, TransferError> {
    let matches = |pattern: &String, channel: &RecoveredChannel| {
        subject::matches(pattern.as_bytes(), channel.channel.as_bytes())
    };
    let is_meant = |channel: &&RecoveredChannel| {
        patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, channel))
    };
    let found: Vec<RecoveredChannel> = channels.filter(is_meant).cloned().collect();
    match patterns.iter().find(|pattern| !found.iter().any(|it| matches(pattern, it))) {
        None => Ok(found),
        Some(pattern) => Err(TransferError::NoMatch(pattern.clone())),
    }
}
