//! What a commit does to a share: each channel's part is written, synced, taken over or taken back.
//!
//! A part that is refused was taken back, or never begun. Whatever else goes wrong leaves as
//! [`OutcomeUnknown`]. Once the fence was asked after the sync, nothing fails any more: parts are
//! taken over in memory, and then it is tidied up (`tidying`).

use std::collections::BTreeMap;

use crate::base::id::ChannelName;
use crate::base::limits::SLICES_PER_BATCH_MAX;
use crate::base::planted::{self, Bug};
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, CommitReport, Lifecycle,
};
use crate::store::file::channel::Channel;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::{is_out_of_descriptors, refusal};
use crate::store::file::log::io_error;
use crate::store::file::purging::Floor;
use crate::store::file::registry::Change;
use crate::store::file::reserve::LEFT_BY_COMMITS;
use crate::store::file::share::{Share, recount};
use crate::store::file::slices::{SliceWrite, StageRules};
use crate::store::file::subscriptions::encode;
use crate::store::metering::timed;
use crate::store::{Action, OutcomeUnknown, StoreError, check_part};

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
    /// What it has decided to let go.
    floor: Option<Floor>,
}

impl<'a> Part<'a> {
    /// A part of which nothing is written yet.
    fn new(batch: &'a ChannelBatch) -> Self {
        Self {
            batch,
            writes: Vec::new(),
            subscriptions_len: None,
            refused: None,
            is_created: false,
            floor: None,
        }
    }
}

impl Share {
    /// Writes a batch, syncs it if it is durable, and asks the fence.
    ///
    /// # Errors
    /// As [`Store::commit`](crate::store::Store::commit).
    pub(super) fn write_batch(&mut self, batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
        self.raise_failure()?;
        let clients_refused = self.write_registry(batch)?;
        let mut fresh = self.prepare_fresh(batch)?;
        let mut parts = Vec::with_capacity(batch.channels.len());
        for channel in &batch.channels {
            let part = match fresh.remove(&channel.channel).transpose() {
                Ok(fresh) => self.write_part(channel, fresh)?,
                Err(text) => Part { refused: Some(text), ..Part::new(channel) },
            };
            parts.push(part);
        }
        self.write_deliveries(&mut parts)?;
        let unsynced = if batch.durable && self.ctx.options.sync {
            timed(|meters| &meters.sync, || self.sync())?
        } else {
            self.leave_dirty(batch)?
        };
        if let Some(text) = unsynced {
            if parts.iter().any(|part| part.refused.is_none() && is_deletion(part.batch)) {
                // It is gone, and a power failure may bring it back: neither can be answered.
                return Err(self.sync_refused(text).into());
            }
            for part in parts.iter_mut().filter(|part| part.refused.is_none()) {
                part.refused = Some(text.clone());
                self.take_back(part)?;
            }
        }
        if !planted::is(Bug::NoEpochCheck) {
            timed(|meters| &meters.fence, || self.ctx.fence.check())?;
        }
        let channels = parts.into_iter().map(|part| self.settle(part)).collect();
        Ok(CommitReport { clients_refused, channels })
    }

    /// Writes the counts of deliveries of all parts, or refuses those that have any.
    fn write_deliveries(&mut self, parts: &mut [Part<'_>]) -> Result<(), OutcomeUnknown> {
        let counted: Vec<&ChannelBatch> = parts
            .iter()
            .filter(|part| part.refused.is_none() && !part.batch.deliveries.is_empty())
            .map(|part| part.batch)
            .collect();
        if counted.is_empty() {
            return Ok(());
        }
        let written = self.deliveries.write(&self.ctx, self.root.as_ref(), &counted);
        match written {
            Ok(is_new) => self.is_root_renamed |= is_new,
            Err(error) => {
                let text = refusal(error)?;
                // What is only let go of may come back for once.
                let has_counts = |part: &&mut Part<'_>| {
                    let mut counts = part.batch.deliveries.iter();
                    part.refused.is_none() && counts.any(|count| 0 < count.count)
                };
                for part in parts.iter_mut().filter(has_counts) {
                    part.refused = Some(text.clone());
                    self.take_back(part)?;
                }
            }
        }
        Ok(())
    }

    /// Writes one channel's part; what is refused is taken back.
    fn write_part<'a>(
        &mut self,
        batch: &'a ChannelBatch,
        fresh: Option<Replacement>,
    ) -> Result<Part<'a>, OutcomeUnknown> {
        let mut part = Part::new(batch);
        let name = &batch.channel;
        let last = self.channels.get(name).map(|channel| channel.state().last);
        if let Err(text) = check_part(batch, last) {
            part.refused = Some(text);
            if let Some(fresh) = fresh {
                fresh.discard(self.root.as_ref());
            }
            return Ok(part);
        }
        let mut written = self.write_once(&mut part, fresh);
        if written.as_ref().is_err_and(is_out_of_descriptors) {
            self.close_all_files()?;
            self.take_back(&mut part)?;
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
                self.create(name)?;
                part.is_created = true;
                self.write_records(part, fresh)
            }
            Lifecycle::Keep => self.write_records(part, fresh),
            Lifecycle::Delete => self.delete(name),
        }
    }

    fn create(&mut self, name: &ChannelName) -> Result<(), StoreError> {
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        if let Some(mut former) = self.doomed.remove(name)
            && let Err(error) = former.delete(ctx, root)
        {
            self.doomed.insert(name.clone(), former);
            return Err(error);
        }
        let channel = Channel::create(ctx, root, name)?;
        self.is_root_renamed = true;
        self.channels.insert(name.clone(), Box::new(channel));
        Ok(())
    }

    /// The channel is gone for everybody, and what is left of its files is nobody's.
    ///
    /// # Errors
    /// [`StoreError`]; then all of it is there, or this process steps down.
    fn delete(&mut self, name: &ChannelName) -> Result<(), StoreError> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Ok(());
        };
        self.is_root_renamed = true;
        channel.delete(&self.ctx, self.root.as_ref())?;
        self.forget(name);
        self.deliveries.forget_channel(name);
        Ok(())
    }

    /// Removes what was made for a channel of which nobody was told, at once or later.
    fn give_up(&mut self, name: &ChannelName) -> Result<(), StoreError> {
        let Some(mut channel) = self.forget(name) else {
            return Ok(());
        };
        self.deliveries.forget_channel(name);
        self.is_root_renamed = true;
        match channel.delete(&self.ctx, self.root.as_ref()) {
            Ok(()) => Ok(()),
            Err(error @ StoreError::Fenced(_)) => Err(error),
            Err(error) => {
                log::warn!("Unable to remove the files of channel {name}: {error}; tried again");
                self.doomed.insert(name.clone(), channel);
                Ok(())
            }
        }
    }

    fn write_records(
        &mut self,
        part: &mut Part<'_>,
        fresh: Option<Replacement>,
    ) -> Result<(), StoreError> {
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let batch = part.batch;
        let channel = self.channels.get_mut(&batch.channel).expect("it was checked, or created");
        let mut records = Vec::new();
        let encoded = encode(&mut records, &batch.subscriptions, &ctx.crc);
        let opened = if encoded.is_ok() { channel.open_folder(ctx, root) } else { Ok(()) };
        match fresh {
            Some(fresh) if encoded.is_ok() && opened.is_ok() => {
                channel.replace_subscriptions(ctx, root, fresh)?;
            }
            Some(fresh) => fresh.discard(root),
            None => {}
        }
        opened?;
        if let Err(error) = encoded {
            part.refused = Some(error.to_string());
            return Ok(());
        }
        let rules = StageRules {
            limits: channel.slice_limits,
            must_begin_slice: channel.must_begin_slice,
            number_step: if channel.must_begin_slice { SLICES_PER_BATCH_MAX } else { 1 },
            crc: &ctx.crc,
        };
        if let Some(purge) = &batch.purge {
            let floor = Floor::of(purge);
            // Before it is tried: a file server may have done what it says that it has not.
            part.floor = (channel.floor < floor).then_some(floor);
            channel.put_floor(ctx, root, floor)?;
        }
        part.writes = channel.messages.stage(&batch.messages, &rules);
        channel.append(ctx, &mut part.writes)?;
        if records.is_empty() {
            return Ok(());
        }
        let len_before = channel.subscriptions_len;
        let mut written = channel.append_subscriptions(ctx, &records);
        if let Err(error) = written {
            refusal(error)?;
            // A full disk: this is what the reserve is for.
            ctx.reserve.release_bytes(root);
            written = channel.append_subscriptions(ctx, &records);
        }
        written?;
        part.subscriptions_len = len_before;
        Ok(())
    }

    /// Takes back what a refused part has written.
    ///
    /// # Errors
    /// None that could be taken for a refusal: a part of it may still be there.
    fn take_back(&mut self, part: &mut Part<'_>) -> Result<(), OutcomeUnknown> {
        let name = &part.batch.channel;
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let Some(channel) = self.channels.get_mut(name) else {
            return Ok(());
        };
        if planted::is(Bug::RefusedStays) {
            return Ok(());
        }
        let writes = std::mem::take(&mut part.writes);
        if !writes.is_empty() {
            channel.open_folder(ctx, root)?;
            channel.undo(ctx, &writes)?;
        }
        if let Some(len) = part.subscriptions_len.take() {
            channel.open_folder(ctx, root)?;
            channel.rewind_subscriptions(ctx, len)?;
        }
        if let Some(floor) = part.floor.take() {
            channel.take_floor_back(ctx, root, floor)?;
        }
        recount(&mut self.open_count, channel);
        if std::mem::take(&mut part.is_created) {
            // It is empty now, and nobody was told of it.
            self.give_up(name)?;
        }
        Ok(())
    }

    /// Fresh subs.dat files for channels that this epoch writes for the first time: written and
    /// synced together, then the fence is asked once for all.
    fn prepare_fresh(
        &mut self,
        batch: &Batch,
    ) -> Result<BTreeMap<ChannelName, Result<Replacement, String>>, OutcomeUnknown> {
        let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
        let mut fresh = BTreeMap::new();
        for part in batch.channels.iter().filter(|part| part.lifecycle != Lifecycle::Delete) {
            let Some(channel) = self.channels.get_mut(&part.channel) else { continue };
            if !channel.must_replace_subscriptions {
                continue;
            }
            let made = match channel.prepare_subscriptions(ctx, root, LEFT_BY_COMMITS) {
                Ok(made) => Ok(made),
                Err(error) => Err(refusal(error)?),
            };
            fresh.insert(part.channel.clone(), made);
        }
        if fresh.is_empty() {
            return Ok(fresh);
        }
        let is_wide = REPLACEMENTS_SYNCED_APART_MAX < fresh.len();
        let device = self.synced_device.filter(|_| is_wide);
        let synced_together = device.map(|_| {
            let synced = root.sync_filesystem();
            synced.map_err(|source| io_error(Action::Sync, ctx.root_path(), source))
        });
        let unsynced = synced_together.and_then(Result::err).map(refusal).transpose()?;
        // That was told of everything that is dirty, too, and is told once.
        self.unsynced = unsynced.clone().or(self.unsynced.take());
        for made in fresh.values_mut() {
            let Ok(replacement) = made else { continue };
            let refused = match &unsynced {
                Some(text) => Some(text.clone()),
                None if device.is_some_and(|device| replacement.is_on(device)) => {
                    replacement.mark_synced();
                    None
                }
                None => replacement.sync().err().map(refusal).transpose()?,
            };
            if let Some(text) = refused
                && let Ok(replacement) = std::mem::replace(made, Err(text))
            {
                replacement.discard(root);
            }
        }
        if !planted::is(Bug::LateRename) {
            ctx.fence.check()?;
        }
        Ok(fresh)
    }

    /// Takes a kept part over, and gives what the channel holds now.
    fn settle(&mut self, part: Part<'_>) -> ChannelOutcome {
        let name = part.batch.channel.clone();
        let Some(channel) = self.channels.get_mut(&name) else {
            let (refused, state) = (part.refused, ChannelState::default());
            return ChannelOutcome { channel: name, refused, state };
        };
        if part.refused.is_some() {
            let state = channel.state();
            return ChannelOutcome { channel: name, refused: part.refused, state };
        }
        if !part.writes.is_empty() {
            channel.must_begin_slice = false;
            channel.messages.apply(part.writes);
        }
        if let Some(floor) = part.floor {
            channel.floor = floor;
            channel.is_rewritten = false;
        }
        self.deliveries.apply(&self.ctx, part.batch);
        let mut may_compact = false;
        for write in &part.batch.subscriptions {
            may_compact |= channel.subscriptions.apply(write);
        }
        self.trim(&name, None);
        self.tidy(&name, may_compact);
        let state = self.channels.get(&name).map(|channel| channel.state()).unwrap_or_default();
        ChannelOutcome { channel: name, refused: None, state }
    }

    fn write_registry(&mut self, batch: &Batch) -> Result<Option<String>, OutcomeUnknown> {
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
            self.ctx.reserve.release_bytes(self.root.as_ref());
            written = self.registry.write(&self.ctx, self.root.as_ref(), &change);
        }
        match written {
            Ok(_) => Ok(None),
            Err(error) => Ok(Some(refusal(error)?)),
        }
    }
}

fn is_deletion(part: &ChannelBatch) -> bool {
    part.lifecycle == Lifecycle::Delete
}
