//! What a commit does to a share: each channel's part is written, synced, taken over or taken back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::id::ChannelName;
use crate::base::limits::SLICES_PER_BATCH_MAX;
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, CommitReport, Lifecycle,
};
use crate::base::time::Instant;
use crate::store::file::channel::Channel;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::{Context, is_out_of_descriptors, refusal};
use crate::store::file::disk::Folder;
use crate::store::file::format::FILE_HEADER_LEN;
use crate::store::file::log::io_error;
use crate::store::file::registry::Change;
use crate::store::file::report::report_limits;
use crate::store::file::share::{Share, recount};
use crate::store::file::slices::{SliceWrite, StageRules};
use crate::store::file::subscriptions::encode;
use crate::store::{Action, StoreError};

/// Beyond so many fresh files in one batch, one sync of the file system is cheaper.
const REPLACEMENTS_SYNCED_APART_MAX: usize = 4;

/// One channel's part of a batch, on its way.
struct Part<'a> {
    batch: &'a ChannelBatch,
    writes: Vec<SliceWrite>,
    /// Length of subs.dat before.
    subscriptions_len: Option<u64>,
    refused: Option<String>,
    /// Whether the channel was created for it.
    is_created: bool,
}

impl Share {
    /// Writes a batch, syncs it if it is durable, and asks the fence.
    ///
    /// # Errors
    /// As [`Store::commit`](crate::store::Store::commit).
    pub(super) fn write_batch(&mut self, batch: &Batch) -> Result<CommitReport, StoreError> {
        let clients_refused = self.write_registry(batch)?;
        let mut fresh = self.prepare_fresh(batch)?;
        let mut parts = Vec::with_capacity(batch.channels.len());
        for channel in &batch.channels {
            let part = match fresh.remove(&channel.channel).transpose() {
                Ok(fresh) => self.write_part(channel, fresh)?,
                Err(text) => Part {
                    batch: channel,
                    writes: Vec::new(),
                    subscriptions_len: None,
                    refused: Some(text),
                    is_created: false,
                },
            };
            parts.push(part);
        }
        if batch.durable && self.ctx.options.sync {
            if let Some(text) = self.sync()? {
                for part in parts.iter_mut().filter(|part| part.refused.is_none()) {
                    part.refused = Some(text.clone());
                    self.take_back(part)?;
                }
            }
        } else {
            self.leave_dirty(batch)?;
        }
        self.ctx.fence.check()?;
        let settled: Result<Vec<_>, _> = parts.into_iter().map(|part| self.settle(part)).collect();
        Ok(CommitReport { clients_refused, channels: settled? })
    }

    /// Writes one channel's part; what is refused is taken back.
    fn write_part<'a>(
        &mut self,
        batch: &'a ChannelBatch,
        fresh: Option<Replacement>,
    ) -> Result<Part<'a>, StoreError> {
        let mut part = Part {
            batch,
            writes: Vec::new(),
            subscriptions_len: None,
            refused: None,
            is_created: false,
        };
        let name = &batch.channel;
        let mut written = self.write_once(&mut part, fresh);
        if written.as_ref().is_err_and(is_out_of_descriptors) {
            self.take_back(&mut part)?;
            self.close_all_files()?;
            let is_settled = self.channels.get(name).is_none_or(|c| !c.must_replace_subscriptions);
            if is_settled {
                written = self.write_once(&mut part, None);
            }
        }
        if let Err(error) = written {
            part.refused = Some(refusal(error)?);
            self.take_back(&mut part)?;
        }
        if self.channels.contains_key(name) {
            self.dirty.insert(name.clone());
            self.touch(name)?;
        }
        Ok(part)
    }

    fn write_once(
        &mut self,
        part: &mut Part<'_>,
        fresh: Option<Replacement>,
    ) -> Result<(), StoreError> {
        let name = &part.batch.channel;
        match part.batch.lifecycle {
            Lifecycle::Create => {
                part.is_created |= self.create(name)?;
                self.write_records(part, fresh)
            }
            Lifecycle::Keep => self.write_records(part, fresh),
            Lifecycle::Delete => self.delete(name),
        }
    }

    /// Creates a channel; false if it was there.
    fn create(&mut self, name: &ChannelName) -> Result<bool, StoreError> {
        if self.channels.contains_key(name) {
            return Ok(false);
        }
        let channel = Channel::create(&self.ctx, self.root.as_ref(), name)?;
        self.is_root_renamed = true;
        self.channels.insert(name.clone(), channel);
        Ok(true)
    }

    fn delete(&mut self, name: &ChannelName) -> Result<(), StoreError> {
        let Some(channel) = self.forget(name) else {
            return Ok(());
        };
        self.is_root_renamed = true;
        channel.delete(&self.ctx, self.root.as_ref())
    }

    fn write_records(
        &mut self,
        part: &mut Part<'_>,
        fresh: Option<Replacement>,
    ) -> Result<(), StoreError> {
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let batch = part.batch;
        let Some(channel) = self.channels.get_mut(&batch.channel) else {
            return Err(StoreError::Unusable(format!(
                "channel {} is not in the store",
                batch.channel
            )));
        };
        channel.open_folder(ctx, root)?;
        if let Some(fresh) = fresh {
            channel.replace_subscriptions(ctx, root, fresh)?;
        }
        let rules = StageRules {
            limits: channel.slice_limits,
            must_begin_slice: channel.must_begin_slice,
            number_step: if channel.must_begin_slice { SLICES_PER_BATCH_MAX } else { 1 },
            crc: &ctx.crc,
        };
        let writes = channel.messages.stage(batch.channel.as_bytes(), &batch.messages, &rules);
        part.writes = writes;
        channel.append(ctx, &part.writes)?;
        let mut records = Vec::new();
        encode(&mut records, &batch.subscriptions, &ctx.crc)
            .map_err(|error| StoreError::Unusable(error.to_string()))?;
        if records.is_empty() {
            return Ok(());
        }
        let len_before = channel.subscriptions_len;
        let mut written = channel.append_subscriptions(ctx, &records);
        if let Err(error) = written {
            refusal(error)?;
            // A full disk: this is what the reserve is for.
            ctx.release_reserve(root);
            written = channel.append_subscriptions(ctx, &records);
        }
        written?;
        part.subscriptions_len = len_before;
        Ok(())
    }

    /// Takes back what a refused part has written.
    fn take_back(&mut self, part: &mut Part<'_>) -> Result<(), StoreError> {
        let name = &part.batch.channel;
        if std::mem::take(&mut part.is_created) {
            part.writes.clear();
            return self.delete(name);
        }
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let Some(channel) = self.channels.get_mut(name) else {
            return Ok(());
        };
        channel.open_folder(ctx, root)?;
        channel.undo(ctx, &part.writes)?;
        part.writes.clear();
        if let Some(len) = part.subscriptions_len.take() {
            channel.rewind_subscriptions(ctx, len)?;
        }
        recount(&mut self.open_count, channel);
        Ok(())
    }

    /// Fresh subs.dat files for channels that this epoch writes for the first time: written and
    /// synced together, then the fence is asked once for all.
    fn prepare_fresh(
        &mut self,
        batch: &Batch,
    ) -> Result<BTreeMap<ChannelName, Result<Replacement, String>>, StoreError> {
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let mut fresh = BTreeMap::new();
        for part in batch.channels.iter().filter(|part| part.lifecycle != Lifecycle::Delete) {
            let Some(channel) = self.channels.get_mut(&part.channel) else { continue };
            if !channel.must_replace_subscriptions {
                continue;
            }
            let mut made = channel.prepare_subscriptions(ctx, root);
            if let Err(error) = made {
                refusal(error)?;
                ctx.release_reserve(root);
                made = channel.prepare_subscriptions(ctx, root);
            }
            let made = match made {
                Ok(made) => Ok(made),
                Err(error) => Err(refusal(error)?),
            };
            fresh.insert(part.channel.clone(), made);
        }
        if fresh.is_empty() {
            return Ok(fresh);
        }
        if REPLACEMENTS_SYNCED_APART_MAX < fresh.len() && self.can_sync_filesystem {
            root.sync_filesystem()
                .map_err(|source| io_error(Action::Sync, ctx.root_path(), source))?;
            fresh.values_mut().flatten().for_each(Replacement::mark_synced);
        } else {
            for made in fresh.values_mut().flatten() {
                made.sync()?;
            }
        }
        ctx.fence.check()?;
        Ok(fresh)
    }

    /// Takes a kept part over, and gives what the channel holds now.
    fn settle(&mut self, part: Part<'_>) -> Result<ChannelOutcome, StoreError> {
        let name = part.batch.channel.clone();
        let Some(channel) = self.channels.get_mut(&name) else {
            return Ok(ChannelOutcome {
                channel: name,
                refused: part.refused,
                state: ChannelState::default(),
            });
        };
        if part.refused.is_some() {
            let state = channel.state();
            return Ok(ChannelOutcome { channel: name, refused: part.refused, state });
        }
        if !part.writes.is_empty() {
            channel.must_begin_slice = false;
            channel.messages.apply(part.writes);
        }
        let mut may_compact = false;
        for write in &part.batch.subscriptions {
            may_compact |= channel.subscriptions.apply(write);
        }
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        if let Some(at) = channel.expires_at {
            self.expiries.remove(&(at, name.clone()));
        }
        match channel.trim(ctx, root, None) {
            Ok(true) => report_limits(channel),
            Ok(false) => (),
            Err(error) => log::error!("Unable to remove first message: {error}"),
        }
        self.expiries.extend(channel.expires_at.map(|at| (at, name.clone())));
        channel.remove_dead_slices(ctx, root, &mut self.archivists)?;
        if may_compact && is_compaction_due(ctx, channel, self.now.at) {
            compact(ctx, root, channel, self.now.at)?;
            self.dirty.insert(name.clone());
        }
        let outcome =
            ChannelOutcome { channel: name.clone(), refused: None, state: channel.state() };
        self.has_readers |= channel.has_reader();
        self.touch(&name)?;
        Ok(outcome)
    }

    fn write_registry(&mut self, batch: &Batch) -> Result<Option<String>, StoreError> {
        if batch.server.is_none() && batch.clients.is_empty() {
            return Ok(None);
        }
        let change = Change {
            server: batch.server.as_ref(),
            clients: &batch.clients,
            must_sync: batch.durable && self.ctx.options.sync,
            now: self.now.at,
        };
        let mut written = self.registry.write(&self.ctx, self.root.as_ref(), &change);
        if let Err(error) = written {
            refusal(error)?;
            self.ctx.release_reserve(self.root.as_ref());
            written = self.registry.write(&self.ctx, self.root.as_ref(), &change);
        }
        match written {
            Ok(_) => Ok(None),
            Err(error) => refusal(error).map(Some),
        }
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

/// Rewrites subs.dat. On a full disk the old one stays.
fn compact(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
    now: Instant,
) -> Result<(), StoreError> {
    let prepared =
        channel.prepare_subscriptions(ctx, root).and_then(|mut fresh| match fresh.sync() {
            Ok(()) => Ok(fresh),
            Err(error) => {
                fresh.discard(root);
                Err(error)
            }
        });
    match prepared {
        Ok(fresh) => {
            ctx.fence.check()?;
            channel.replace_subscriptions(ctx, root, fresh)?;
            channel.compacted_at = Some(now);
            Ok(())
        }
        Err(error) => refusal(error).map(|text| {
            log::warn!("Unable to compact the subscriptions of {}: {text}", channel.name);
        }),
    }
}
