//! One share of the store: the channels of one loop, owned by one worker.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::{Epoch, FenceError};
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{Batch, CommitReport, FetchRequest, MessageRecord};
use crate::base::time::{Instant, Now, WallTime};
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, is_out_of_descriptors, refusal, unless_replaced};
use crate::store::file::deliveries::Deliveries;
use crate::store::file::disk::Folder;
use crate::store::file::log::{io_error, reason};
use crate::store::file::registry::Registry;
use crate::store::file::removal::Archivists;
use crate::store::file::sync::Pace;
use crate::store::{Action, Inventory, Maintained, OutcomeUnknown, Store, StoreError, Wanted};

/// Files of slices that nobody reads are closed after this time.
const IDLE_CLOSE: Duration = Duration::from_secs(1);

/// The channels of one loop.
pub struct Share {
    pub(super) ctx: Arc<Context>,
    pub(super) registry: Arc<Registry>,
    /// Opened before anything is written, so that its syncs report every failure since.
    pub(super) root: Box<dyn Folder>,
    /// The file system that can be synced as a whole, if any. That makes durable what lies on it,
    /// and nothing else: each file says where it lies.
    pub(super) synced_device: Option<u64>,
    pub(super) channels: BTreeMap<ChannelName, Box<Channel>>,
    /// Names in the root changed since it was synced.
    pub(super) is_root_renamed: bool,
    /// Channels with files open, the least recently used first.
    pub(super) recency: BTreeMap<u64, ChannelName>,
    pub(super) use_count: u64,
    pub(super) open_count: usize,
    pub(super) open_max: usize,
    pub(super) expiries: BTreeSet<(WallTime, ChannelName)>,
    /// Channels written and not synced.
    pub(super) dirty: BTreeSet<ChannelName>,
    pub(super) dirty_since: Option<Instant>,
    /// Dirty files were closed: only a sync of the whole file system still reaches them.
    pub(super) must_sync_filesystem: bool,
    /// Whether messages were written whose sync was put off: nobody is left whom a sync that finds
    /// no room could refuse them to.
    pub(super) holds_put_off: bool,
    /// A dirty file was closed, and the disk had no room for it: as if the next sync said so.
    pub(super) unsynced: Option<String>,
    /// A failed sync that nobody waited for.
    pub(super) failure: Option<StoreError>,
    /// Channels with files that are no longer needed: they were left when the store was opened, or
    /// could not be removed.
    pub(super) untidy: BTreeSet<ChannelName>,
    /// The last of them that was tried, if others wait behind it.
    pub(super) tidied_until: Option<ChannelName>,
    /// Whether more of what was purged can be removed at once.
    pub(super) is_purging: bool,
    /// Channels that are gone but for their files.
    pub(super) doomed: BTreeMap<ChannelName, Box<Channel>>,
    pub(super) pace: Pace,
    pub(super) has_readers: bool,
    pub(super) archivists: Archivists,
    /// How often messages were delivered.
    pub(super) deliveries: Deliveries,
    pub(super) now: Now,
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
    pub channels: BTreeMap<ChannelName, Box<Channel>>,
    /// Descriptors that it may keep open.
    pub open_max: usize,
    /// How often its messages were delivered.
    pub deliveries: Deliveries,
    /// The time.
    pub now: Now,
}

impl Share {
    /// A share that is ready for commits.
    #[must_use]
    pub fn new(parts: ShareParts) -> Self {
        let mut share = Self {
            synced_device: synced_device(parts.root.as_ref()),
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
            holds_put_off: false,
            unsynced: None,
            failure: None,
            untidy: BTreeSet::new(),
            tidied_until: None,
            is_purging: false,
            doomed: BTreeMap::new(),
            pace: Pace::default(),
            has_readers: false,
            archivists: Archivists::default(),
            deliveries: parts.deliveries,
            now: parts.now,
        };
        for (name, channel) in &mut share.channels {
            channel.close_files();
            share.expiries.extend(channel.expires_at.map(|at| (at, name.clone())));
            if channel.is_untidy() {
                share.untidy.insert(name.clone());
            }
        }
        share
    }

    /// Notes that a channel was used, and closes others if too much is open.
    ///
    /// # Errors
    /// That of a sync before a file is closed, unless the disk is full: the next sync says that.
    pub(super) fn touch(&mut self, name: &ChannelName) -> Result<(), StoreError> {
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
            if self.synced_device.is_some_and(|device| channel.is_reached_by_sync_of(device)) {
                self.must_sync_filesystem = true;
            } else {
                match channel.sync_files(&self.ctx) {
                    Ok(()) => {
                        channel.mark_synced();
                        self.dirty.remove(name);
                    }
                    Err(error) => self.unsynced = Some(refusal(error)?),
                }
            }
        }
        channel.close_files();
        recount(&mut self.open_count, channel);
        Ok(())
    }

    pub(super) fn close_all_files(&mut self) -> Result<(), StoreError> {
        while let Some((_, name)) = self.recency.pop_first() {
            self.close_channel_files(&name)?;
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, name: &ChannelName) -> Option<Box<Channel>> {
        let channel = self.channels.remove(name)?;
        self.open_count -= channel.counted_open;
        self.recency.remove(&channel.used_at);
        self.dirty.remove(name);
        self.expiries.retain(|(_, other)| other != name);
        Some(channel)
    }

    fn expire(&mut self, maintained: &mut Maintained) {
        let now = self.now.wall;
        while let Some((at, name)) = self.expiries.first().cloned() {
            if now < at {
                break;
            }
            self.expiries.pop_first();
            if self.trim(&name, Some(now)) {
                let state =
                    self.channels.get(&name).map(|channel| channel.state()).unwrap_or_default();
                maintained.trimmed.push((name.clone(), state));
            }
            self.tidy(&name, false);
        }
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
        [expiry, sync, idle, self.tidy_in()].into_iter().flatten().min()
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
    fn commit(&mut self, epoch: Epoch, batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
        self.check_epoch(epoch)?;
        let written = self.write_batch(batch);
        let fence = self.ctx.fence.as_ref();
        written.map_err(|OutcomeUnknown(error)| unless_replaced(error, fence).into())
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
        self.has_readers |=
            self.channels.get(&request.channel).is_some_and(|channel| channel.has_reader());
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

    fn inventory(&mut self, wanted: &Wanted) -> Result<Inventory, StoreError> {
        self.ctx.fence.check()?;
        let mut found = Inventory { epoch: self.ctx.fence.epoch(), ..Inventory::default() };
        match wanted {
            Wanted::Clients => found.clients = self.registry.clients(),
            Wanted::Names { after, count_max } => {
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let names = self.channels.range::<ChannelName, _>((from, Bound::Unbounded));
                found.names = names.take(*count_max).map(|(name, _)| name.clone()).collect();
            }
            Wanted::Channel(name) => {
                found.channel = self.channels.get(name).map(|channel| channel.to_recovered());
            }
        }
        Ok(found)
    }

    fn maintain(&mut self, now: Now) -> Result<Maintained, StoreError> {
        self.now = now;
        let mut maintained = Maintained::default();
        self.tidy_again();
        self.expire(&mut maintained);
        self.close_idle_readers();
        self.raise_failure()?;
        self.auto_sync()?;
        self.archivists.poll();
        self.deliveries.tidy(&self.ctx, self.root.as_ref())?;
        self.ctx.reserve.set_bytes_aside(self.root.as_ref());
        let epoch = self.ctx.fence.epoch().0;
        self.ctx.reserve.set_files_aside(self.root.as_ref(), epoch);
        maintained.next_in = self.next_in();
        Ok(maintained)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.ctx.fence.check()?;
        self.raise_failure()?;
        self.remove_superseded()?;
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

/// The file system of a folder, if it can be synced as a whole.
fn synced_device(root: &dyn Folder) -> Option<u64> {
    let identity = root.can_sync_filesystem().then(|| root.identity().ok());
    identity.flatten().map(|root| root.device)
}

/// Counts what a channel has open since it was last counted.
pub(super) fn recount(open_count: &mut usize, channel: &mut Channel) {
    *open_count = *open_count + channel.open_count() - channel.counted_open;
    channel.counted_open = channel.open_count();
}
