//! The newest slice of a channel: appended to, filled, and taken back if a batch is refused.

use crate::base::limits::SLICES_PER_BATCH_MAX;
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, refusal};
use crate::store::file::disk::{Access, DiskFile};
use crate::store::file::format::{FILE_HEADER_LEN, slice_data_name, slice_index_name};
use crate::store::file::log::{Log, io_error};
use crate::store::file::removal::{Place, open_file};
use crate::store::file::slices::SliceWrite;
use crate::store::{Action, StoreError};

/// The files of one slice that is written.
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) data: Log,
    pub(super) index: Log,
}

/// A number that is taken again and again is not the work of former actives: each makes one slice.
const NUMBER_AHEAD_MAX: u64 = 8 * SLICES_PER_BATCH_MAX;

fn is_name_taken(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { action: Action::Open, source, .. }
        if source.kind() == std::io::ErrorKind::AlreadyExists)
}

impl Channel {
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
        let names = [slice_data_name(tail.number), slice_index_name(tail.number)];
        for (log, name) in [&mut tail.data, &mut tail.index].into_iter().zip(names) {
            if ctx.options.sync && log.is_dirty() {
                let path = ctx.path(self.name.as_bytes(), &name);
                log.file().sync().map_err(|source| io_error(Action::Sync, &path, source))?;
                log.mark_synced();
            }
        }
        Ok(())
    }

    fn open_tail(&self, ctx: &Context, write: &SliceWrite) -> Result<Tail, StoreError> {
        let number = write.slice.number;
        if write.is_new {
            let tail = self.create_tail(ctx, number)?;
            // A successor that came before looks at these names no more. It supersedes what it
            // has found, and the limits may let go of all that does.
            ctx.fence.check()?;
            return Ok(tail);
        }
        let (data_name, index_name) = (slice_data_name(number), slice_index_name(number));
        let slice = self.messages.slices.back().expect("only a known slice is continued");
        let data = self.open_log(ctx, &data_name, slice.data_len)?;
        let index = self.open_log(ctx, &index_name, slice.index_len())?;
        Ok(Tail { number, data, index })
    }

    /// Makes the files of a slice that does not count yet.
    fn create_tail(&self, ctx: &Context, number: u64) -> Result<Tail, StoreError> {
        let (data_name, index_name) = (slice_data_name(number), slice_index_name(number));
        let data_path = ctx.path(self.name.as_bytes(), &data_name);
        let index_path = ctx.path(self.name.as_bytes(), &index_name);
        // The index first: if a successor removes what it finds of a slice that was just begun,
        // and the rest is made too late, no index is left that speaks of data that is gone.
        let index = Log::create(self.folder(), &index_name, &index_path)?;
        match Log::create(self.folder(), &data_name, &data_path) {
            Ok(data) => Ok(Tail { number, data, index }),
            Err(error) => {
                // Left over, it names no message, and the next slice gets another number.
                let _ = self.folder().unlink(&index_name);
                Err(error)
            }
        }
    }

    /// Makes the files of a new slice, to which [`Channel::append`] writes. The caller asks the
    /// fence between the two, once for as many channels as it likes.
    ///
    /// # Errors
    /// [`StoreError`]; then there is no such slice.
    pub fn begin_slice(&mut self, ctx: &Context, number: u64) -> Result<(), StoreError> {
        let tail = self.create_tail(ctx, number)?;
        // What was written of the one before is synced with the rest.
        self.handles.finished.extend(self.handles.tail.replace(tail));
        self.is_renamed = true;
        Ok(())
    }

    /// Makes the newest slice durable, with its names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync_tail(&mut self, ctx: &Context) -> Result<(), StoreError> {
        if let Some(tail) = &mut self.handles.tail {
            let path = ctx.path(self.name.as_bytes(), &slice_data_name(tail.number));
            for log in [&mut tail.data, &mut tail.index] {
                log.file().sync().map_err(|source| io_error(Action::Sync, &path, source))?;
                log.mark_synced();
            }
        }
        self.is_renamed = true;
        self.sync_folder(ctx)
    }

    /// Whether the slice of that number was begun, and is open.
    #[must_use]
    pub fn has_begun(&self, number: u64) -> bool {
        self.handles.tail.as_ref().is_some_and(|tail| tail.number == number)
    }

    /// Takes back what [`Channel::append`] wrote of `writes`. What is cut was written by this
    /// process for this batch, and a successor that has seen it has written it anew. Its files may
    /// have been closed since; and a slice that could not be made may be there all the same, made
    /// by a successor under the same number.
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
        // What was filled before is still to be synced.
        self.handles.finished = tails;
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
                    // What has that name may be a successor's, unless the fence holds after that.
                    ctx.fence.check()?;
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
}
