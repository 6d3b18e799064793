//! One channel's folder: its open files, and what is done to them.

use crate::base::channel_limits::ChannelLimits;
use crate::base::id::{ChannelName, Sequence};
use crate::base::planted::{self, Bug};
use crate::base::record::{ChannelState, RecoveredChannel};
use crate::base::time::{Instant, WallTime};
use crate::store::file::channel_reading::Reader;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::{Context, refusal};
use crate::store::file::disk::{Access, DiskFile, Folder, Identity};
use crate::store::file::format::{
    FILE_HEADER_LEN, SUBSCRIPTIONS_FILE, slice_data_name, slice_index_name,
};
use crate::store::file::log::{Log, io_error};
use crate::store::file::purging::Floor;
use crate::store::file::recovery::FoundChannel;
use crate::store::file::removal::{Archivists, Place, open_file};
use crate::store::file::slices::{Messages, SliceLimits};
use crate::store::file::subscriptions::Subscriptions;
use crate::store::file::tail::Tail;
use crate::store::{Action, StoreError};

/// Slices whose files are removed at once, however many an operator has let go of: commits wait
/// meanwhile, and a large file takes a file system its time.
const PURGED_SLICES_AT_ONCE: usize = 8;
/// The same where a limit lets go of them, which are rarely many.
const SLICES_REMOVED_AT_ONCE: usize = 64;

/// What is open of a channel.
#[derive(Default)]
pub(super) struct Handles {
    folder: Option<Box<dyn Folder>>,
    pub(super) tail: Option<Tail>,
    /// Slices that this batch has filled, until they are synced.
    pub(super) finished: Vec<Tail>,
    pub(super) subscriptions: Option<Log>,
    pub(super) reader: Option<Reader>,
}

/// One channel.
pub struct Channel {
    /// Its name.
    pub name: ChannelName,
    /// Captured when it was created or recovered.
    pub limits: ChannelLimits,
    /// When a slice is full.
    pub slice_limits: SliceLimits,
    /// Its messages.
    pub messages: Messages,
    /// Its subscriptions.
    pub subscriptions: Subscriptions,
    /// Length of subs.dat; `None` if there is none.
    pub subscriptions_len: Option<u64>,
    /// Whether a predecessor may still have the last slice open.
    pub must_begin_slice: bool,
    /// Whether a predecessor may still have subs.dat open.
    pub must_replace_subscriptions: bool,
    /// When the oldest message expires.
    pub expires_at: Option<WallTime>,
    /// What an operator has left, until nothing else lies in the files.
    pub floor: Floor,
    /// Whether the message that an operator has emptied is written anew without its payload.
    pub is_rewritten: bool,
    /// The purge whose rest is damaged, and is not written anew.
    pub unwritten_floor: Option<Floor>,
    /// When subs.dat was last compacted.
    pub compacted_at: Option<Instant>,
    /// Whether names in the folder changed since it was synced.
    pub is_renamed: bool,
    /// When its files were last used; the share's own count.
    pub used_at: u64,
    /// Open descriptors that its share has counted.
    pub counted_open: usize,
    identity: Identity,
    pub(super) handles: Handles,
}

impl Channel {
    /// From what recovery found.
    #[must_use]
    pub fn recovered(
        ctx: &Context,
        name: ChannelName,
        found: FoundChannel,
        must_settle: bool,
    ) -> Self {
        let limits = ctx.limits.of(&name);
        let mut channel = Self {
            slice_limits: SliceLimits::new(&ctx.options, &limits),
            limits,
            messages: Messages {
                overlaps: found.overlaps,
                hollow: found.hollow,
                ..Messages::new(found.slices, found.number_max)
            },
            subscriptions: found.subscriptions,
            subscriptions_len: found.subscriptions_len,
            must_begin_slice: must_settle && !planted::is(Bug::SliceContinued),
            must_replace_subscriptions: (must_settle && !planted::is(Bug::SubscriptionsContinued))
                || found.subscriptions_len.is_none(),
            expires_at: None,
            floor: found.floor,
            is_rewritten: false,
            unwritten_floor: None,
            compacted_at: None,
            is_renamed: false,
            used_at: 0,
            counted_open: 0,
            identity: found.identity,
            handles: Handles { folder: found.folder, ..Handles::default() },
            name,
        };
        // Data behind the last slice's number was found under numbers without messages.
        channel.messages.number_max = found.number_max.max(channel.messages.number_max);
        channel
    }

    /// As the engine gets it at recovery.
    #[must_use]
    pub fn to_recovered(&self) -> RecoveredChannel {
        RecoveredChannel {
            channel: self.name.clone(),
            state: self.messages.state(),
            last_timestamp: WallTime(self.messages.last_time),
            subscriptions: self.subscriptions.recovered(),
            subscription_id_max: self.subscriptions.id_max(),
            // They lie in no file of the channel.
            deliveries: Vec::new(),
        }
    }

    /// What it holds.
    #[must_use]
    pub fn state(&self) -> ChannelState {
        let mut state = self.messages.state();
        let oldest = Sequence(self.oldest_given());
        if state.first < oldest && state.message_count != 0 {
            // Of what an operator has let go the bytes are not counted yet.
            let left = (state.last.get() + 1).saturating_sub(oldest.get());
            state.message_count = state.message_count.min(left);
            state.first = oldest;
        }
        state
    }

    /// The oldest message that anybody is given. What an operator has let go is not, even while the
    /// index cannot be read that says how much it is.
    #[must_use]
    pub fn oldest_given(&self) -> u64 {
        self.messages.first.max(self.floor.first)
    }

    /// Descriptors that it has open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        let handles = &self.handles;
        usize::from(handles.folder.is_some())
            + usize::from(handles.subscriptions.is_some())
            + 2 * usize::from(handles.tail.is_some())
            + 2 * usize::from(handles.reader.is_some())
            + 2 * handles.finished.len()
    }

    /// Opens the folder, and makes sure that it is the one that we know.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Intruder`].
    pub fn open_folder(&mut self, ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
        if self.handles.folder.is_some() {
            return Ok(());
        }
        let path = ctx.path(self.name.as_bytes(), b"");
        let open_error = |source| io_error(Action::Open, &path, source);
        let folder = root.folder(self.name.as_bytes()).map_err(open_error)?;
        let found = folder.identity().map_err(open_error)?;
        if found != self.identity {
            return Err(StoreError::Intruder {
                path,
                expected: self.identity.inode,
                found: found.inode,
            });
        }
        self.handles.folder = Some(folder);
        Ok(())
    }

    /// The open folder.
    ///
    /// # Panics
    /// If [`Channel::open_folder`] was not called before.
    #[must_use]
    pub fn folder(&self) -> &dyn Folder {
        self.handles.folder.as_deref().expect("open_folder was called before")
    }

    /// Opens a file to write on. The fence is asked once it is open: what has that name later may
    /// be a successor's.
    pub(super) fn open_log(&self, ctx: &Context, name: &[u8], len: u64) -> Result<Log, StoreError> {
        let path = ctx.path(self.name.as_bytes(), name);
        let file = open_file(self.folder(), name, Access::Append, ctx.fence.as_ref())
            .map_err(|source| io_error(Action::Open, &path, source))?;
        ctx.fence.check()?;
        Log::of(file, len, &path)
    }

    /// Makes a fresh subs.dat with what is live, which leaves so many files of the reserve; it is
    /// not in place yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn prepare_subscriptions(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        left: u8,
    ) -> Result<Replacement, StoreError> {
        let records = self
            .subscriptions
            .compacted(&ctx.crc)
            .map_err(|error| StoreError::Unusable(error.to_string()))?;
        Replacement::write(ctx.spare(root, left), ctx.root_path(), &records)
    }

    /// Puts a fresh subs.dat in place. The caller has synced it and asked the fence.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn replace_subscriptions(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        fresh: Replacement,
    ) -> Result<(), StoreError> {
        self.open_folder(ctx, root)?;
        let (folder, fence) = (self.handles.folder.as_deref(), ctx.fence.as_ref());
        let log = fresh.put(root, folder, SUBSCRIPTIONS_FILE, fence)?;
        self.subscriptions_len = Some(log.len());
        self.handles.subscriptions = Some(log);
        self.must_replace_subscriptions = false;
        self.is_renamed = true;
        Ok(())
    }

    /// Appends to subs.dat.
    ///
    /// # Errors
    /// [`StoreError`]; the file is as before, but for [`StoreError::HalfDone`].
    pub fn append_subscriptions(&mut self, ctx: &Context, bytes: &[u8]) -> Result<(), StoreError> {
        let path = ctx.path(self.name.as_bytes(), SUBSCRIPTIONS_FILE);
        let len = self.subscriptions_len.unwrap_or(FILE_HEADER_LEN);
        let mut log = match self.handles.subscriptions.take() {
            Some(log) => log,
            None => self.open_log(ctx, SUBSCRIPTIONS_FILE, len)?,
        };
        if let Err(error) = log.append(bytes, &path) {
            ctx.fence.check()?;
            log.rewind(len, &path).map_err(StoreError::half_done)?;
            self.handles.subscriptions = Some(log);
            return Err(error);
        }
        self.subscriptions_len = Some(log.len());
        self.handles.subscriptions = Some(log);
        Ok(())
    }

    /// Cuts subs.dat to a length that it had before this batch.
    ///
    /// # Errors
    /// [`StoreError::HalfDone`], [`StoreError::Fenced`].
    pub fn rewind_subscriptions(&mut self, ctx: &Context, len: u64) -> Result<(), StoreError> {
        ctx.fence.check()?;
        let path = ctx.path(self.name.as_bytes(), SUBSCRIPTIONS_FILE);
        let written_len = self.subscriptions_len.unwrap_or(len);
        let mut log = match self.handles.subscriptions.take() {
            Some(log) => log,
            None => self
                .open_log(ctx, SUBSCRIPTIONS_FILE, written_len)
                .map_err(StoreError::half_done)?,
        };
        log.rewind(len, &path).map_err(StoreError::half_done)?;
        // What is answered as refused does not come back with the power.
        if ctx.options.sync
            && let Err(source) = log.file().sync()
        {
            refusal(io_error(Action::Sync, &path, source)).map_err(StoreError::half_done)?;
            // The disk has no room to say so. The next batch writes a file that counts instead.
            self.must_replace_subscriptions = true;
        }
        self.handles.subscriptions = Some(log);
        self.subscriptions_len = Some(len);
        Ok(())
    }

    /// Files that are written and not synced.
    pub fn dirty_files(&self) -> impl Iterator<Item = &dyn DiskFile> {
        let skipped = usize::from(planted::is(Bug::IndexBeforeData));
        self.dirty_logs().map(Log::file).skip(skipped)
    }

    /// Whether a sync of the file system `device` makes all durable that is not synced.
    #[must_use]
    pub fn is_reached_by_sync_of(&self, device: u64) -> bool {
        self.dirty_logs().all(|log| log.is_on(device)) && self.identity.device == device
    }

    fn dirty_logs(&self) -> impl Iterator<Item = &Log> {
        let tails = self.handles.finished.iter().chain(&self.handles.tail);
        tails
            .flat_map(|tail| [&tail.data, &tail.index])
            .chain(&self.handles.subscriptions)
            .filter(|log| log.is_dirty())
    }

    /// Makes everything durable by itself.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync_files(&mut self, ctx: &Context) -> Result<(), StoreError> {
        let path = ctx.path(self.name.as_bytes(), b"");
        for file in self.dirty_files() {
            file.sync().map_err(|source| io_error(Action::Sync, &path, source))?;
        }
        self.sync_folder(ctx)
    }

    /// Makes durable what a sync of the file system `device` has not reached.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync_beyond(&mut self, ctx: &Context, device: u64) -> Result<(), StoreError> {
        let path = ctx.path(self.name.as_bytes(), b"");
        let beyond = self.dirty_logs().filter(|log| !log.is_on(device));
        for log in beyond {
            log.file().sync().map_err(|source| io_error(Action::Sync, &path, source))?;
        }
        self.sync_folder(ctx)
    }

    /// Makes the names in its folder durable.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync_folder(&mut self, ctx: &Context) -> Result<(), StoreError> {
        if let (true, Some(folder)) = (self.is_renamed, &self.handles.folder) {
            let path = ctx.path(self.name.as_bytes(), b"");
            folder.sync().map_err(|source| io_error(Action::Sync, &path, source))?;
        }
        self.is_renamed = false;
        Ok(())
    }

    /// Everything written is durable.
    pub fn mark_synced(&mut self) {
        self.is_renamed = false;
        self.handles.finished.clear();
        let tails = self.handles.tail.iter_mut();
        tails.flat_map(|tail| [&mut tail.data, &mut tail.index]).for_each(Log::mark_synced);
        self.handles.subscriptions.iter_mut().for_each(Log::mark_synced);
    }

    /// Closes slices that were filled and that no commit waits for; true if something of them is
    /// not synced, which only a sync of the file system makes durable then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn close_finished(&mut self, ctx: &Context) -> Result<bool, StoreError> {
        let mut is_unsynced = false;
        for tail in std::mem::take(&mut self.handles.finished) {
            for log in [&tail.data, &tail.index] {
                if !ctx.options.sync {
                    is_unsynced |= log.is_dirty();
                    continue;
                }
                let path = ctx.path(self.name.as_bytes(), &slice_data_name(tail.number));
                log.file().sync().map_err(|source| io_error(Action::Sync, &path, source))?;
            }
        }
        Ok(is_unsynced)
    }

    /// Closes the files of messages, of which a copy is in use by now.
    pub(super) fn close_slices(&mut self) {
        let Handles { tail, finished, reader, .. } = &mut self.handles;
        (*tail, *reader) = (None, None);
        finished.clear();
    }

    /// Closes what is open. The caller has synced what has to be.
    pub fn close_files(&mut self) {
        self.handles = Handles::default();
    }

    /// Whether files of slices that are no longer needed are there.
    #[must_use]
    pub fn is_untidy(&self) -> bool {
        let messages = &self.messages;
        self.floor.is_set()
            || !messages.superseded.is_empty()
            || messages.hollow_slices().next().is_some()
            || !messages.dead_slices().is_empty()
    }

    /// Removes the files of slices of which a later one holds everything durably. It can be tried
    /// again after an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_superseded(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
    ) -> Result<(), StoreError> {
        if self.messages.superseded.is_empty() {
            return Ok(());
        }
        self.open_folder(ctx, root)?;
        let path = ctx.path(self.name.as_bytes(), b"");
        let place = Place { folder: self.folder(), path: &path, fence: ctx.fence.as_ref() };
        let numbers = self.messages.superseded.iter();
        let names_of = |number: &u64| [slice_data_name(*number), slice_index_name(*number)];
        place.remove(&numbers.flat_map(names_of).collect::<Vec<_>>())?;
        self.messages.superseded.clear();
        Ok(())
    }

    /// Slices without messages that are removed at once.
    fn removed_at_once(&self) -> usize {
        if self.floor.is_set() { PURGED_SLICES_AT_ONCE } else { SLICES_REMOVED_AT_ONCE }
    }

    /// Whether slices without messages are left that may be removed.
    #[must_use]
    pub fn has_more_dead_slices(&self) -> bool {
        let first = self.messages.first;
        let is_needed = self.messages.overlaps.iter().any(|old| first <= old.last);
        !is_needed && !self.messages.dead_slices().is_empty()
    }

    /// Removes the files of slices without messages but the newest, unless they may hold the only
    /// durable copy of one that is kept; of many the oldest. What is superseded
    /// goes before what supersedes it. It can be tried again after an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_dead_slices(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        archivists: &mut Archivists,
    ) -> Result<(), StoreError> {
        self.remove_superseded(ctx, root)?;
        let mut dead = self.messages.dead_slices();
        dead.truncate(self.removed_at_once());
        let first = self.messages.first;
        let hollow: Vec<u64> = self.messages.hollow_slices().collect();
        let is_needed = self.messages.overlaps.iter().any(|old| first <= old.last);
        if (dead.is_empty() && hollow.is_empty()) || is_needed {
            return Ok(());
        }
        self.handles.reader = None;
        self.open_folder(ctx, root)?;
        let path = ctx.path(self.name.as_bytes(), b"");
        let place = Place { folder: self.folder(), path: &path, fence: ctx.fence.as_ref() };
        let names_of = |number: &u64| [slice_data_name(*number), slice_index_name(*number)];
        place.remove(&hollow.iter().flat_map(names_of).collect::<Vec<_>>())?;
        let mut names = Vec::new();
        let mut archived = Vec::new();
        let is_dead = |number| dead.iter().any(|slice| slice.number == number);
        for old in self.messages.overlaps.iter().filter(|old| !is_dead(old.number)) {
            names.extend([slice_data_name(old.number), slice_index_name(old.number)]);
        }
        for slice in &dead {
            let (data, index) = (slice_data_name(slice.number), slice_index_name(slice.number));
            if ctx.options.slice_archive_script.is_none() {
                names.extend([data, index]);
                continue;
            }
            let away = |name: &[u8]| [name, b".bak"].concat();
            let (data_away, index_away) = (away(&data), away(&index));
            let files = [data.clone(), index.clone()];
            if place.archive(&files, &[data_away.clone(), index_away.clone()]).is_err() {
                names.extend([data, index, data_away]);
                continue;
            }
            archived.push((slice.number, data_away, index_away));
        }
        let removed = place.remove(&names);
        for (number, data, index) in archived {
            let Some(script) = &ctx.options.slice_archive_script else { continue };
            let [data, index] = [data, index].map(|name| ctx.path(self.name.as_bytes(), &name));
            archivists.start(script, self.name.as_bytes(), data, index);
            self.messages.slices.retain(|slice| slice.number != number);
        }
        removed?;
        self.messages.hollow.retain(|number| !hollow.contains(number));
        self.messages.overlaps.clear();
        let number_max = dead.last().map_or(0, |slice| slice.number);
        self.messages.slices.retain(|slice| number_max < slice.number);
        Ok(())
    }

    /// Removes the channel with everything in its folder. It can be tried again after an error.
    ///
    /// # Errors
    /// [`StoreError`]; then everything of it may still be there.
    pub fn delete(&mut self, ctx: &Context, root: &dyn Folder) -> Result<(), StoreError> {
        self.open_folder(ctx, root)?;
        let path = ctx.path(self.name.as_bytes(), b"");
        let place = Place { folder: self.folder(), path: &path, fence: ctx.fence.as_ref() };
        if place.clear()? && root.remove_folder(self.name.as_bytes()).is_ok() {
            return Ok(());
        }
        log::warn!(
            "Channel {} is deleted, but its folder {} could not be removed; a later start tries \
             again",
            self.name,
            path.display()
        );
        Ok(())
    }
}
