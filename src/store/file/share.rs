//! One share of the store: the channels of one loop, owned by one worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::{Epoch, FenceError};
use crate::base::id::{ChannelName, Sequence};
use crate::base::limits::SLICES_PER_BATCH_MAX;
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, CommitReport, FetchRequest, Lifecycle,
    MessageRecord,
};
use crate::base::time::{Instant, Now, WallTime};
use crate::base::world;
use crate::store::file::channel::Channel;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::{Context, is_out_of_descriptors, refusal};
use crate::store::file::disk::{DiskFile, Folder};
use crate::store::file::format::FILE_HEADER_LEN;
use crate::store::file::log::{io_error, reason};
use crate::store::file::registry::{Change, Registry};
use crate::store::file::removal::Archivists;
use crate::store::file::report::report_limits;
use crate::store::file::slices::{SliceWrite, StageRules};
use crate::store::file::subscriptions::encode;
use crate::store::file::sync::{Pace, Way, sync_files};
use crate::store::{Action, Maintained, Store, StoreError};

/// Files of slices that nobody reads are closed after this time.
const IDLE_CLOSE: Duration = Duration::from_secs(1);
/// How soon an index that cannot be read is asked again for what expires.
const EXPIRY_RETRY: Duration = Duration::from_secs(5);
/// Beyond so many fresh files in one batch, one sync of the file system is cheaper.
const REPLACEMENTS_SYNCED_APART_MAX: usize = 4;

/// The channels of one loop.
pub struct Share {
    ctx: Arc<Context>,
    registry: Arc<Registry>,
    /// Opened before anything is written, so that its syncs report every failure since.
    root: Box<dyn Folder>,
    can_sync_filesystem: bool,
    channels: BTreeMap<ChannelName, Channel>,
    /// Names in the root changed since it was synced.
    is_root_renamed: bool,
    /// Channels with files open, the least recently used first.
    recency: BTreeMap<u64, ChannelName>,
    use_count: u64,
    open_count: usize,
    open_max: usize,
    expiries: BTreeSet<(WallTime, ChannelName)>,
    /// Channels written and not synced.
    dirty: BTreeSet<ChannelName>,
    dirty_since: Option<Instant>,
    /// Dirty files were closed: only a sync of the whole file system still reaches them.
    must_sync_filesystem: bool,
    pace: Pace,
    has_readers: bool,
    archivists: Archivists,
    now: Now,
}

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

/// What a share is made of.
pub struct ShareParts {
    /// What all shares have in common.
    pub ctx: Arc<Context>,
    /// Server and clients.
    pub registry: Arc<Registry>,
    /// An open root of its own.
    pub root: Box<dyn Folder>,
    /// Its channels.
    pub channels: BTreeMap<ChannelName, Channel>,
    /// Descriptors that it may keep open.
    pub open_max: usize,
    /// The time.
    pub now: Now,
}

impl Share {
    /// A share that is ready for commits.
    #[must_use]
    pub fn new(parts: ShareParts) -> Self {
        let mut share = Self {
            can_sync_filesystem: parts.root.can_sync_filesystem(),
            ctx: parts.ctx,
            registry: parts.registry,
            root: parts.root,
            channels: parts.channels,
            is_root_renamed: false,
            recency: BTreeMap::new(),
            use_count: 0,
            open_count: 0,
            open_max: parts.open_max,
            expiries: BTreeSet::new(),
            dirty: BTreeSet::new(),
            dirty_since: None,
            must_sync_filesystem: false,
            pace: Pace::default(),
            has_readers: false,
            archivists: Archivists::default(),
            now: parts.now,
        };
        for (name, channel) in &mut share.channels {
            channel.close_files();
            share.expiries.extend(channel.expires_at.map(|at| (at, name.clone())));
        }
        share
    }

    /// Notes that a channel was used, and closes others if too much is open.
    fn touch(&mut self, name: &ChannelName) -> Result<(), StoreError> {
        self.use_count += 1;
        if let Some(channel) = self.channels.get_mut(name) {
            recount(&mut self.open_count, channel);
            self.recency.remove(&channel.used_at);
            channel.used_at = self.use_count;
            if channel.open_count() != 0 {
                self.recency.insert(self.use_count, name.clone());
            }
        }
        while self.open_max < self.open_count && 1 < self.recency.len() {
            let Some((_, oldest)) = self.recency.pop_first() else { break };
            self.close_channel_files(&oldest)?;
        }
        Ok(())
    }

    fn close_channel_files(&mut self, name: &ChannelName) -> Result<(), StoreError> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Ok(());
        };
        if self.dirty.contains(name) {
            if self.can_sync_filesystem {
                self.must_sync_filesystem = true;
            } else {
                let path = self.ctx.path(name.as_bytes(), b"");
                for file in channel.dirty_files() {
                    file.sync().map_err(|source| io_error(Action::Sync, &path, source))?;
                }
                channel.sync_folder(&self.ctx)?;
                channel.mark_synced();
                self.dirty.remove(name);
            }
        }
        channel.close_files();
        recount(&mut self.open_count, channel);
        Ok(())
    }

    fn forget(&mut self, name: &ChannelName) -> Option<Channel> {
        let channel = self.channels.remove(name)?;
        self.open_count -= channel.counted_open;
        self.recency.remove(&channel.used_at);
        self.dirty.remove(name);
        self.expiries.retain(|(_, other)| other != name);
        Some(channel)
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

    fn close_all_files(&mut self) -> Result<(), StoreError> {
        while let Some((_, name)) = self.recency.pop_first() {
            self.close_channel_files(&name)?;
        }
        Ok(())
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

    /// Syncs what is dirty. `Ok(Some(text))` if the disk had no room for it.
    fn sync(&mut self) -> Result<Option<String>, StoreError> {
        let synced = self.sync_dirty();
        match synced {
            Ok(()) => {
                for name in std::mem::take(&mut self.dirty) {
                    if let Some(channel) = self.channels.get_mut(&name) {
                        channel.mark_synced();
                        recount(&mut self.open_count, channel);
                    }
                }
                self.dirty_since = None;
                self.is_root_renamed = false;
                self.must_sync_filesystem = false;
                Ok(None)
            }
            Err(error) => {
                let text = refusal(error)?;
                // What the kernel has dropped no later sync brings back: say it all anew.
                for name in &self.dirty {
                    if let Some(channel) = self.channels.get_mut(name) {
                        channel.must_replace_subscriptions = true;
                    }
                }
                Ok(Some(text))
            }
        }
    }

    fn sync_dirty(&mut self) -> Result<(), StoreError> {
        let ctx = self.ctx.as_ref();
        let mut files: Vec<&dyn DiskFile> = Vec::new();
        let mut folder_count = usize::from(self.is_root_renamed);
        for name in &self.dirty {
            if let Some(channel) = self.channels.get(name) {
                files.extend(channel.dirty_files());
                folder_count += usize::from(channel.is_renamed);
            }
        }
        let sync_error = |source| io_error(Action::Sync, ctx.root_path(), source);
        let count = files.len() + folder_count;
        if self.must_sync_filesystem {
            return self.root.sync_filesystem().map_err(sync_error);
        }
        if self.can_sync_filesystem && count != 0 {
            let began = world::instant();
            let way = self.pace.choose(count, began);
            match way {
                Way::Together => self.root.sync_filesystem().map_err(sync_error)?,
                Way::Apart => sync_files(&files).map_err(sync_error)?,
            }
            // Names are rarely new: only what each message needs is compared.
            if way == Way::Together || folder_count == 0 {
                self.pace.learn(way, count, began, world::instant());
            }
            if way == Way::Together {
                return Ok(());
            }
        } else {
            sync_files(&files).map_err(sync_error)?;
        }
        drop(files);
        for name in &self.dirty {
            if let Some(channel) = self.channels.get_mut(name) {
                channel.sync_folder(ctx)?;
            }
        }
        if self.is_root_renamed {
            self.root.sync().map_err(sync_error)?;
        }
        Ok(())
    }

    /// What nobody waits for is synced by a later commit, or after the time of `auto_sync`.
    fn leave_dirty(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if !self.dirty.is_empty() && self.dirty_since.is_none() {
            self.dirty_since = Some(self.now.at);
        }
        for part in &batch.channels {
            if let Some(channel) = self.channels.get_mut(&part.channel) {
                channel.close_finished(&self.ctx)?;
                recount(&mut self.open_count, channel);
            }
        }
        Ok(())
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

    fn expire(&mut self, maintained: &mut Maintained) -> Result<(), StoreError> {
        let now = self.now.wall;
        while let Some((at, name)) = self.expiries.first().cloned() {
            if now < at {
                break;
            }
            self.expiries.pop_first();
            let (ctx, root) = (self.ctx.as_ref(), self.root.as_ref());
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            match channel.trim(ctx, root, Some(now)) {
                Ok(true) => maintained.trimmed.push((name.clone(), channel.state())),
                Ok(false) => (),
                Err(error) => {
                    log::error!("Error during expiration: {error}");
                    channel.expires_at = Some(now + EXPIRY_RETRY);
                }
            }
            self.expiries.extend(channel.expires_at.map(|at| (at, name.clone())));
            channel.remove_dead_slices(ctx, root, &mut self.archivists)?;
            self.has_readers |= channel.has_reader();
            self.touch(&name)?;
        }
        Ok(())
    }

    fn close_idle_readers(&mut self) {
        if !std::mem::take(&mut self.has_readers) {
            return;
        }
        for channel in self.channels.values_mut() {
            channel.close_reader();
            recount(&mut self.open_count, channel);
        }
    }

    fn auto_sync(&mut self) -> Result<(), StoreError> {
        let (Some(period), Some(since)) = (self.ctx.options.auto_sync, self.dirty_since) else {
            return Ok(());
        };
        if self.now.at.since(since) < period {
            return Ok(());
        }
        if let Some(text) = self.sync()? {
            log::error!("Unable to sync the store: {text}");
            self.dirty_since = Some(self.now.at);
        }
        Ok(())
    }

    fn next_in(&self) -> Option<Duration> {
        let expiry = self.expiries.first().map(|(at, _)| {
            let nanos = at.0.saturating_sub(self.now.wall.0);
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
        });
        let sync = self
            .ctx
            .options
            .auto_sync
            .zip(self.dirty_since)
            .map(|(period, since)| period.saturating_sub(self.now.at.since(since)));
        let idle = (self.has_readers || !self.archivists.is_idle()).then_some(IDLE_CLOSE);
        [expiry, sync, idle].into_iter().flatten().min()
    }

    fn check_epoch(&self, epoch: Epoch) -> Result<(), StoreError> {
        let found = self.ctx.fence.epoch();
        if epoch == found {
            return Ok(());
        }
        let owner = "this store's own fence".to_owned();
        Err(StoreError::Fenced(FenceError::Superseded { ours: epoch, found, owner }))
    }
}

impl Store for Share {
    fn commit(&mut self, epoch: Epoch, batch: &Batch) -> Result<CommitReport, StoreError> {
        self.check_epoch(epoch)?;
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

    fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
        let Some(channel) = self.channels.get_mut(&request.channel) else {
            return Ok(Vec::new());
        };
        let mut found = channel.fetch(&self.ctx, self.root.as_ref(), request);
        if found.as_ref().is_err_and(is_out_of_descriptors) {
            self.touch(&request.channel)?;
            self.close_all_files()?;
            let Some(channel) = self.channels.get_mut(&request.channel) else {
                return Ok(Vec::new());
            };
            found = channel.fetch(&self.ctx, self.root.as_ref(), request);
        }
        self.has_readers |= self.channels.get(&request.channel).is_some_and(Channel::has_reader);
        self.touch(&request.channel)?;
        found
    }

    fn find_time(&mut self, channel: &ChannelName, at: WallTime) -> Result<Sequence, StoreError> {
        let Some(found) = self.channels.get_mut(channel) else {
            return Ok(Sequence::ZERO);
        };
        let sequence = found.find_time(&self.ctx, self.root.as_ref(), at);
        self.has_readers |= found.has_reader();
        self.touch(channel)?;
        sequence
    }

    fn maintain(&mut self, now: Now) -> Result<Maintained, StoreError> {
        self.now = now;
        let mut maintained = Maintained::default();
        self.expire(&mut maintained)?;
        self.close_idle_readers();
        self.auto_sync()?;
        self.archivists.poll();
        self.ctx.set_reserve_aside(self.root.as_ref());
        maintained.next_in = self.next_in();
        Ok(maintained)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.ctx.fence.check()?;
        if let Some(text) = self.sync()? {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            log::error!("Unable to sync the store: {text}: {}", reason(&source));
            return Err(io_error(Action::Sync, self.ctx.root_path(), source));
        }
        for channel in self.channels.values_mut() {
            channel.close_files();
            recount(&mut self.open_count, channel);
        }
        self.recency.clear();
        self.archivists.finish();
        Ok(())
    }
}

/// Counts what a channel has open since it was last counted.
fn recount(open_count: &mut usize, channel: &mut Channel) {
    *open_count = *open_count + channel.open_count() - channel.counted_open;
    channel.counted_open = channel.open_count();
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
