//! What tidies up after commits: old messages and their slices, subs.dat, channels that are gone.
//!
//! Nothing here is part of a commit, and nothing here fails one: what goes wrong is said once and
//! tried again later. Only a failed sync is remembered and ends the store at its next operation.

use std::ops::Bound;
use std::time::Duration;

use crate::base::id::ChannelName;
use crate::base::time::{Instant, WallTime};
use crate::store::file::channel::Channel;
use crate::store::file::context::Context;
use crate::store::file::disk::Folder;
use crate::store::file::format::FILE_HEADER_LEN;
use crate::store::file::report::report_limits;
use crate::store::file::reserve::LEFT_BY_OTHERS;
use crate::store::file::share::Share;
use crate::store::{Remedy, StoreError};

/// How soon what could not be tidied up is tried again.
const TIDY_RETRY: Duration = Duration::from_secs(1);
/// So many channels are tidied up at once: commits wait meanwhile.
const TIDIED_AT_ONCE: usize = 16;
/// How soon the next ones are.
const TIDY_PAUSE: Duration = Duration::from_millis(10);
/// How soon an index that cannot be read is asked again for what expires.
const EXPIRY_RETRY: Duration = Duration::from_secs(5);

impl Share {
    /// Takes what the limits do not allow out of the accounts; true if anything went.
    pub(super) fn trim(&mut self, name: &ChannelName, now: Option<WallTime>) -> bool {
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let Some(channel) = self.channels.get_mut(name) else { return false };
        if let Some(at) = channel.expires_at {
            self.expiries.remove(&(at, name.clone()));
        }
        let is_trimmed = match (channel.trim(ctx, root, now), now) {
            (Ok(is_trimmed), Some(_)) => is_trimmed,
            (Ok(is_trimmed), None) => {
                // What an operator has let go says nothing of limits.
                if is_trimmed && channel.messages.first != channel.floor.first {
                    report_limits(channel);
                }
                is_trimmed
            }
            (Err(error), Some(now)) => {
                log::error!("Error during expiration: {error}");
                channel.expires_at = Some(now + EXPIRY_RETRY);
                false
            }
            (Err(error), None) => {
                log::error!("Unable to remove first message: {error}");
                false
            }
        };
        self.expiries.extend(channel.expires_at.map(|at| (at, name.clone())));
        is_trimmed
    }

    /// Removes dead slices of a channel, compacts its subs.dat if that is due, and closes files of
    /// others if too much is open.
    pub(super) fn tidy(&mut self, name: &ChannelName, may_compact: bool) {
        // On a disk that takes no rename, each commit would try in vain.
        if !self.untidy.contains(name) {
            self.remove_dead_slices(name);
        }
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        if let Some(channel) = self.channels.get_mut(name) {
            if may_compact && is_compaction_due(ctx, channel, self.now.at) {
                compact(ctx, root, channel, self.now.at);
                self.dirty.insert(name.clone());
            }
            self.has_readers |= channel.has_reader();
        }
        if let Err(error) = self.touch(name) {
            self.failure.get_or_insert(error);
        }
    }

    /// Removes what was left when the store was opened, and what could not be removed since; a part
    /// of it, and the next part soon.
    pub(super) fn tidy_again(&mut self) {
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let count_before = self.doomed.len();
        self.doomed.retain(|_, channel| channel.delete(ctx, root).is_err());
        self.is_root_renamed |= self.doomed.len() != count_before;
        self.is_purging = false;
        let behind = self.tidied_until.take().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.untidy.range((behind, Bound::Unbounded));
        let names: Vec<ChannelName> = rest.take(TIDIED_AT_ONCE).cloned().collect();
        // Whoever was replaced meanwhile touches nothing.
        if names.is_empty() || self.ctx.fence.check().is_err() {
            return;
        }
        let is_all = names.len() < TIDIED_AT_ONCE;
        let mut names = names.into_iter().peekable();
        while let Some(name) = names.next() {
            self.untidy.remove(&name);
            let is_costly = self.remove_dead_slices(&name);
            // Its folder is open now.
            if let Err(error) = self.touch(&name) {
                self.failure.get_or_insert(error);
            }
            if names.peek().map_or(!is_all, |_| is_costly) {
                self.tidied_until = Some(name);
                break;
            }
        }
    }

    /// Removes what a later slice holds too, so that whoever opens the store next finds each
    /// message once. What cannot be removed does not keep the store from being closed.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], or that of a file that had to be closed.
    pub(super) fn remove_superseded(&mut self) -> Result<(), StoreError> {
        let is_left = |channel: &Channel| !channel.messages.superseded.is_empty();
        let left = self.channels.iter().filter(|(_, channel)| is_left(channel));
        let names: Vec<ChannelName> = left.map(|(name, _)| name.clone()).collect();
        for name in names {
            let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            match channel.remove_superseded(ctx, root) {
                Ok(()) => (),
                Err(error @ StoreError::Fenced(_)) => return Err(error),
                Err(error) => {
                    log::warn!("Unable to remove old slices of channel {name}: {error}");
                }
            }
            self.touch(&name)?;
        }
        Ok(())
    }

    /// How soon there is something to try again.
    pub(super) fn tidy_in(&self) -> Option<Duration> {
        if self.tidied_until.is_some() || self.is_purging {
            return Some(TIDY_PAUSE);
        }
        (!self.untidy.is_empty() || !self.doomed.is_empty()).then_some(TIDY_RETRY)
    }

    /// True if it took long: what stays of a purge was written anew.
    fn remove_dead_slices(&mut self, name: &ChannelName) -> bool {
        let is_below_floor =
            self.channels.get(name).is_some_and(|channel| channel.is_below_floor());
        if is_below_floor && !self.trim(name, None) {
            // What an operator has let go could not be counted.
            self.untidy.insert(name.clone());
            return false;
        }
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let Some(channel) = self.channels.get_mut(name) else { return false };
        if let Err(error) = channel.remove_dead_slices(ctx, root, &mut self.archivists) {
            log::warn!("Unable to remove old slices of channel {name}: {error}; tried again");
            self.untidy.insert(name.clone());
            return false;
        }
        let finished = channel.finish_purge(ctx, root, &mut self.archivists);
        let is_costly = *finished.as_ref().unwrap_or(&true);
        if let Err(error) = finished {
            log::warn!("Unable to finish the purge of channel {name}: {error}; tried again");
            self.untidy.insert(name.clone());
            if error.remedy() == Remedy::StepDown {
                self.failure.get_or_insert(error);
            }
        }
        if channel.has_more_dead_slices() {
            self.untidy.insert(name.clone());
            self.is_purging = true;
        }
        if channel.is_renamed {
            self.dirty.insert(name.clone());
        }
        is_costly
    }

    /// What a sync that nobody waited for has told.
    ///
    /// # Errors
    /// That.
    pub(super) fn raise_failure(&mut self) -> Result<(), StoreError> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

fn is_compaction_due(ctx: &Context, channel: &Channel, now: Instant) -> bool {
    let options = &ctx.options;
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    let len = channel.subscriptions_len.unwrap_or(FILE_HEADER_LEN) - FILE_HEADER_LEN;
    let interval = Duration::from_secs(unsigned(options.compact_interval_secs));
    options.compact_enabled
        && unsigned(options.compact_bytes_min) <= len
        && channel.subscriptions.is_fragmented(unsigned(options.compact_fragmentation))
        && channel.compacted_at.is_none_or(|at| interval <= now.since(at))
}

/// Rewrites subs.dat. If that fails the old one stays.
fn compact(ctx: &Context, root: &dyn Folder, channel: &mut Channel, now: Instant) {
    let counts = channel.subscriptions.counts();
    channel.compacted_at = Some(now);
    let prepared = channel.prepare_subscriptions(ctx, root, LEFT_BY_OTHERS);
    let done = prepared.and_then(|mut fresh| {
        if let Err(error) = fresh.sync() {
            fresh.discard(root);
            return Err(error);
        }
        ctx.fence.check()?;
        channel.replace_subscriptions(ctx, root, fresh)
    });
    if let Err(error) = done {
        channel.subscriptions.restore_counts(counts);
        log::warn!("Unable to compact the subscriptions of {}: {error}", channel.name);
    }
}
