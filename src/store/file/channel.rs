//! One channel's folder: its open files, and what is done to them.

use std::collections::VecDeque;
use std::path::Path;

use crate::base::channel_limits::ChannelLimits;
use crate::base::id::ChannelName;
use crate::base::limits::SLICES_PER_BATCH_MAX;
use crate::base::planted::{self, Bug};
use crate::base::record::{ChannelState, RecoveredChannel};
use crate::base::time::{Instant, WallTime};
use crate::store::file::channel_reading::Reader;
use crate::store::file::compaction::Replacement;
use crate::store::file::context::{Context, refusal};
use crate::store::file::disk::{Access, DiskFile, Entry, Folder, Identity};
use crate::store::file::format::{
    ChannelFile, FILE_HEADER_LEN, SUBSCRIPTIONS_FILE, channel_file, slice_data_name,
    slice_index_name,
};
use crate::store::file::log::{Log, io_error};
use crate::store::file::recovery::FoundChannel;
use crate::store::file::removal::{Archivists, Place, open_file};
use crate::store::file::slices::{Messages, SliceLimits, SliceWrite};
use crate::store::file::subscriptions::Subscriptions;
use crate::store::{Action, StoreError};

/// The files of one slice that is written.
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) data: Log,
    pub(super) index: Log,
}

/// What is open of a channel.
#[derive(Default)]
pub(super) struct Handles {
    folder: Option<Box<dyn Folder>>,
    pub(super) tail: Option<Tail>,
    /// Slices that this batch has filled, until they are synced.
    finished: Vec<Tail>,
    subscriptions: Option<Log>,
    pub(super) reader: Option<Reader>,
}

/// A number that is taken again and again is not the work of former actives: each makes one slice.
const NUMBER_AHEAD_MAX: u64 = 8 * SLICES_PER_BATCH_MAX;
/// A folder that vanishes again and again is not the work of one late removal.
const CREATE_TRIES_MAX: usize = 8;

/// A folder for a new channel, and whether it was made just now.
type NewFolder = (Box<dyn Folder>, bool);

/// The folder of a new channel, and whether nobody else can have it open; `None` if it has to be
/// looked at again. An empty one that is there is no channel, whoever has made it, and is made
/// anew, so that who has it open can put nothing into the new one.
fn folder_for(
    ctx: &Context,
    root: &dyn Folder,
    name: &ChannelName,
) -> Result<Option<NewFolder>, StoreError> {
    let path = ctx.path(name.as_bytes(), b"");
    let error = |source| io_error(Action::Folder, &path, source);
    let is_fresh = match root.create_folder(name.as_bytes()) {
        Ok(()) => true,
        Err(found) if found.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(source) => return Err(error(source)),
    };
    if !is_fresh {
        match root.remove_folder(name.as_bytes()) {
            Ok(()) => return Ok(None),
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            // A mount stays where it is, though it be empty.
            Err(full) if full.kind() == std::io::ErrorKind::DirectoryNotEmpty => (),
            Err(mount) if mount.kind() == std::io::ErrorKind::ResourceBusy => (),
            Err(source) => return Err(error(source)),
        }
    }
    let folder = match root.folder(name.as_bytes()) {
        Ok(folder) => folder,
        Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(error(source)),
    };
    if is_fresh {
        return Ok(Some((folder, true)));
    }
    let place = Place { folder: folder.as_ref(), path: &path, fence: ctx.fence.as_ref() };
    if place.finish_deletion()? {
        return Ok(None);
    }
    let is_channel = |entry: &Entry| {
        !entry.is_folder && !matches!(channel_file(&entry.name), ChannelFile::Other)
    };
    if planted::is(Bug::LateCreateClears) {
        for entry in folder.list().map_err(error)? {
            folder.unlink(&entry.name).map_err(error)?;
        }
    }
    if folder.list().map_err(error)?.iter().any(is_channel) {
        ctx.fence.check()?;
        return Err(of_somebody_else(&path));
    }
    Ok(Some((folder, false)))
}

/// The empty subs.dat of a new channel; `None` if the folder has vanished.
fn first_subscriptions(
    ctx: &Context,
    root: &dyn Folder,
    (folder, name): (&dyn Folder, &ChannelName),
) -> Result<Option<Log>, StoreError> {
    // Complete at once: a kill must not leave a file without its header.
    let made =
        Replacement::write(root, ctx.root_path(), ctx.fence.as_ref(), &[]).and_then(|fresh| {
            ctx.fence.check()?;
            fresh.put(root, Some(folder), SUBSCRIPTIONS_FILE, ctx.fence.as_ref())
        });
    match made {
        Ok(log) => Ok(Some(log)),
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            ctx.fence.check()?;
            Ok(None)
        }
        Err(error) => {
            // Without files it is no channel; if it stays, the next try takes it over.
            let _ = root.remove_folder(name.as_bytes());
            Err(of_this_folder(ctx, name, error))
        }
    }
}

/// Where only this folder takes no file, as a mount may, the store is not to blame: the channel is
/// refused, and all others are served.
fn of_this_folder(ctx: &Context, name: &ChannelName, error: StoreError) -> StoreError {
    use std::io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    let kinds = [CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy];
    let is_its_own = |source: &std::io::Error| kinds.contains(&source.kind());
    if !matches!(&error, StoreError::Io { source, .. } if is_its_own(source)) {
        return error;
    }
    let StoreError::Io { source, .. } = error else { return error };
    io_error(Action::Folder, &ctx.path(name.as_bytes(), b""), source)
}

fn is_name_taken(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { action: Action::Open, source, .. }
        if source.kind() == std::io::ErrorKind::AlreadyExists)
}

fn of_somebody_else(path: &Path) -> StoreError {
    let text = "it is in use by somebody else; it will be read when the store is opened again";
    io_error(Action::Folder, path, std::io::Error::other(text))
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
                ..Messages::new(found.slices, found.number_max)
            },
            subscriptions: found.subscriptions,
            subscriptions_len: found.subscriptions_len,
            must_begin_slice: must_settle && !planted::is(Bug::SliceContinued),
            must_replace_subscriptions: (must_settle && !planted::is(Bug::SubscriptionsContinued))
                || found.subscriptions_len.is_none(),
            expires_at: None,
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

    /// A channel that is new on the disk: its folder with an empty subs.dat.
    ///
    /// # Errors
    /// [`StoreError`]; then the folder may be there, and the next try takes it over.
    pub fn create(
        ctx: &Context,
        root: &dyn Folder,
        name: &ChannelName,
    ) -> Result<Self, StoreError> {
        let path = ctx.path(name.as_bytes(), b"");
        for _ in 0..CREATE_TRIES_MAX {
            let Some((folder, is_fresh)) = folder_for(ctx, root, name)? else { continue };
            let identity = folder.identity().map_err(|source| {
                let _ = root.remove_folder(name.as_bytes());
                io_error(Action::Open, &path, source)
            })?;
            // Last of all: what fails before it leaves no channel.
            let Some(log) = first_subscriptions(ctx, root, (folder.as_ref(), name))? else {
                continue;
            };
            let found = FoundChannel {
                identity,
                is_elsewhere: false,
                folder: Some(folder),
                slices: VecDeque::new(),
                overlaps: Vec::new(),
                number_max: 0,
                subscriptions: Subscriptions::default(),
                subscriptions_len: Some(log.len()),
                notices: Vec::new(),
            };
            let mut channel = Self::recovered(ctx, name.clone(), found, false);
            channel.must_begin_slice = !is_fresh;
            channel.handles.subscriptions = Some(log);
            channel.is_renamed = true;
            return Ok(channel);
        }
        Err(of_somebody_else(&path))
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
        }
    }

    /// What it holds.
    #[must_use]
    pub fn state(&self) -> ChannelState {
        self.messages.state()
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

    /// Appends messages: data first, then the index. A new slice gets another number where a former
    /// active has made one of its number since the store was opened; what that holds, the higher
    /// number supersedes.
    ///
    /// # Errors
    /// [`StoreError`]; a part may be written, and [`Channel::undo`] takes it back.
    pub fn append(&mut self, ctx: &Context, writes: &mut [SliceWrite]) -> Result<(), StoreError> {
        let mut ahead = 0;
        for write in writes {
            if write.is_new {
                write.slice.number += ahead;
            }
            if self.handles.tail.as_ref().is_none_or(|tail| tail.number != write.slice.number) {
                self.finish_tail(ctx)?;
                let mut opened = self.open_tail(ctx, write);
                while opened.as_ref().is_err_and(is_name_taken) && ahead < NUMBER_AHEAD_MAX {
                    ctx.fence.check()?;
                    ahead += SLICES_PER_BATCH_MAX;
                    write.slice.number += SLICES_PER_BATCH_MAX;
                    opened = self.open_tail(ctx, write);
                }
                self.handles.tail = Some(opened?);
                self.is_renamed |= write.is_new;
            }
            let number = write.slice.number;
            let data_path = ctx.path(self.name.as_bytes(), &slice_data_name(number));
            let index_path = data_path.with_extension("idx");
            if let Some(tail) = &mut self.handles.tail {
                tail.data.append(&write.data, &data_path)?;
                tail.index.append(&write.index, &index_path)?;
            }
        }
        Ok(())
    }

    /// A slice that this batch has filled is made durable before the next one begins: else a power
    /// failure may take its end and leave what follows, and sequences are missing between them.
    fn finish_tail(&mut self, ctx: &Context) -> Result<(), StoreError> {
        let Some(tail) = self.handles.tail.take() else { return Ok(()) };
        // In this order: `undo` looks for it there.
        self.handles.finished.push(tail);
        let Some(tail) = self.handles.finished.last_mut() else { return Ok(()) };
        for log in [&mut tail.data, &mut tail.index] {
            if ctx.options.sync && log.is_dirty() {
                let path = ctx.path(self.name.as_bytes(), &slice_data_name(tail.number));
                log.file().sync().map_err(|source| io_error(Action::Sync, &path, source))?;
                log.mark_synced();
            }
        }
        Ok(())
    }

    fn open_tail(&self, ctx: &Context, write: &SliceWrite) -> Result<Tail, StoreError> {
        let number = write.slice.number;
        let (data_name, index_name) = (slice_data_name(number), slice_index_name(number));
        let data_path = ctx.path(self.name.as_bytes(), &data_name);
        let index_path = ctx.path(self.name.as_bytes(), &index_name);
        if write.is_new {
            // The index first: if a successor removes what it finds of a slice that was just begun,
            // and the rest is made too late, no index is left that speaks of data that is gone.
            let index = Log::create(self.folder(), &index_name, &index_path)?;
            let data = match Log::create(self.folder(), &data_name, &data_path) {
                Ok(data) => data,
                Err(error) => {
                    // Left over, it names no message, and the next slice gets another number.
                    let _ = self.folder().unlink(&index_name);
                    return Err(error);
                }
            };
            return Ok(Tail { number, data, index });
        }
        let slice = self.messages.slices.back().expect("only a known slice is continued");
        let data = self.open_log(ctx, &data_name, slice.data_len)?;
        let index = self.open_log(ctx, &index_name, slice.index_len())?;
        Ok(Tail { number, data, index })
    }

    /// Opens a file to write on. The fence is asked once it is open: what has that name later may
    /// be a successor's.
    fn open_log(&self, ctx: &Context, name: &[u8], len: u64) -> Result<Log, StoreError> {
        let path = ctx.path(self.name.as_bytes(), name);
        let file = open_file(self.folder(), name, Access::Append, ctx.fence.as_ref())
            .map_err(|source| io_error(Action::Open, &path, source))?;
        ctx.fence.check()?;
        Log::of(file, len, &path)
    }

    /// Takes back what [`Channel::append`] wrote of `writes`. What is cut was written by this
    /// process for this batch, and a successor that has seen it has written it anew.
    ///
    /// # Errors
    /// [`StoreError::HalfDone`], [`StoreError::Fenced`]; then a part of it may still be there.
    pub fn undo(&mut self, ctx: &Context, writes: &[SliceWrite]) -> Result<(), StoreError> {
        ctx.fence.check()?;
        let mut tails = std::mem::take(&mut self.handles.finished);
        tails.extend(self.handles.tail.take());
        // The last first: whatever is left if this breaks off has no gap.
        for write in writes.iter().rev() {
            let number = write.slice.number;
            let place = tails.iter().position(|tail| tail.number == number);
            let tail = place.map(|place| tails.swap_remove(place));
            let (data, index) = match &tail {
                Some(tail) => (Some(tail.data.file()), Some(tail.index.file())),
                None => (None, None),
            };
            let (data_len, index_len) = match self.messages.slices.back() {
                Some(slice) if !write.is_new => (slice.data_len, slice.index_len()),
                Some(_) | None => (FILE_HEADER_LEN, FILE_HEADER_LEN),
            };
            // The index first: what it does not name was never acknowledged.
            self.cut_back(ctx, index, &slice_index_name(number), index_len)?;
            self.cut_back(ctx, data, &slice_data_name(number), data_len)?;
            if write.is_new {
                self.remove_unborn(ctx, number)?;
            }
        }
        Ok(())
    }

    /// Cuts a file to a length that it had before this batch. One that is not there was not made.
    fn cut_back(
        &mut self,
        ctx: &Context,
        open: Option<&dyn DiskFile>,
        name: &[u8],
        len: u64,
    ) -> Result<(), StoreError> {
        let path = ctx.path(self.name.as_bytes(), name);
        let failed = |action, source| io_error(action, &path, source).half_done();
        let found;
        let file = match open {
            Some(file) => file,
            None => match open_file(self.folder(), name, Access::Append, ctx.fence.as_ref()) {
                Ok(file) => {
                    found = file;
                    found.as_ref()
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed(Action::Open, error)),
            },
        };
        if file.size().map_err(|source| failed(Action::Read, source))? <= len {
            return Ok(());
        }
        file.truncate(len).map_err(|source| failed(Action::Replace, source))?;
        if !ctx.options.sync {
            return Ok(());
        }
        if let Err(source) = file.sync() {
            refusal(io_error(Action::Sync, &path, source)).map_err(StoreError::half_done)?;
            // The disk has no room to say so. The next batch goes to a slice that counts instead.
            self.must_begin_slice = true;
        }
        Ok(())
    }

    /// Removes the files of a slice that was made for a refused batch and holds nothing. If they
    /// stay, the next slice gets another number.
    fn remove_unborn(&mut self, ctx: &Context, number: u64) -> Result<(), StoreError> {
        let path = ctx.path(self.name.as_bytes(), b"");
        let place = Place { folder: self.folder(), path: &path, fence: ctx.fence.as_ref() };
        match place.remove(&[slice_data_name(number), slice_index_name(number)]) {
            Ok(()) => Ok(()),
            Err(error @ StoreError::Fenced(_)) => Err(error),
            Err(error) => {
                log::warn!("Unable to remove a slice that holds nothing: {error}");
                self.messages.number_max = self.messages.number_max.max(number);
                Ok(())
            }
        }
    }

    /// Makes a fresh subs.dat with what is live; it is not in place yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn prepare_subscriptions(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
    ) -> Result<Replacement, StoreError> {
        let records = self
            .subscriptions
            .compacted(&ctx.crc)
            .map_err(|error| StoreError::Unusable(error.to_string()))?;
        Replacement::write(root, ctx.root_path(), ctx.fence.as_ref(), &records)
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
    pub fn is_dirty_on(&self, device: u64) -> bool {
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

    /// Closes slices that were filled and that no commit waits for.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn close_finished(&mut self, ctx: &Context) -> Result<(), StoreError> {
        for tail in std::mem::take(&mut self.handles.finished) {
            for log in [&tail.data, &tail.index].into_iter().filter(|_| ctx.options.sync) {
                let path = ctx.path(self.name.as_bytes(), &slice_data_name(tail.number));
                log.file().sync().map_err(|source| io_error(Action::Sync, &path, source))?;
            }
        }
        Ok(())
    }

    /// Closes what is open. The caller has synced what has to be.
    pub fn close_files(&mut self) {
        self.handles = Handles::default();
    }

    /// Removes the files of slices without messages, unless they may hold the only durable copy of
    /// one that is kept. It can be tried again after an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_dead_slices(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        archivists: &mut Archivists,
    ) -> Result<(), StoreError> {
        let dead = self.messages.dead_slices();
        let first = self.messages.first;
        if dead.is_empty() || self.messages.overlaps.iter().any(|old| first <= old.last) {
            return Ok(());
        }
        self.handles.reader = None;
        self.open_folder(ctx, root)?;
        let path = ctx.path(self.name.as_bytes(), b"");
        let place = Place { folder: self.folder(), path: &path, fence: ctx.fence.as_ref() };
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
