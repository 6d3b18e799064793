//! What is read of a channel: messages, times, and the oldest ones that the limits let go.

use crate::base::id::Sequence;
use crate::base::record::{FetchRequest, MessageRecord};
use crate::base::time::WallTime;
use crate::store::file::channel::Channel;
use crate::store::file::context::Context;
use crate::store::file::disk::{Access, DiskFile, Folder};
use crate::store::file::format::{IndexRecord, slice_data_name, slice_index_name};
use crate::store::file::log::io_error;
use crate::store::file::reading::{Budget, SliceFiles};
use crate::store::file::removal::open_file;
use crate::store::file::slices::Slice;
use crate::store::{Action, StoreError};

/// Index records read at once while old messages are removed.
const HEAD_READ_COUNT: u64 = 1_024;
/// Index records of the oldest messages that are remembered between removals.
const HEAD_KEPT_COUNT: usize = 32;

/// The files of a slice that is only read.
pub(super) struct Reader {
    number: u64,
    data: Box<dyn DiskFile>,
    index: Box<dyn DiskFile>,
}

impl Channel {
    /// Closes the files of a slice that is only read; true if there were any.
    pub fn close_reader(&mut self) -> bool {
        self.handles.reader.take().is_some()
    }

    /// Whether files of a slice that is only read are open.
    #[must_use]
    pub fn has_reader(&self) -> bool {
        self.handles.reader.is_some()
    }

    /// Messages from the request's start on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn fetch(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        request: &FetchRequest,
    ) -> Result<Vec<MessageRecord>, StoreError> {
        let full = Budget { count: request.count_max.max(1), bytes: request.bytes_max.max(1) };
        let mut out = Vec::new();
        let mut budget = full;
        let mut from = request.from.get().max(self.oldest_given());
        while from <= self.messages.last {
            let Some(slice) = self.messages.slice_at(from).cloned() else {
                break;
            };
            let files = self.read_slice(ctx, root, &slice)?;
            from = match files.with(ctx, |files| files.fetch(&slice, from, &mut budget, &mut out)) {
                Ok(from) => from,
                // What lies before what cannot be read is given.
                Err(_) if !out.is_empty() => break,
                Err(error) => return Err(error),
            };
            if out.is_empty() {
                // Everything so far was damaged: that nothing is given means that there is none.
                budget = full;
            }
            if budget.count == 0 || budget.bytes == 0 || (!out.is_empty() && from <= slice.last) {
                break;
            }
        }
        Ok(out.into_iter().map(|record| self.as_left(record)).collect())
    }

    /// See [`crate::store::Store::find_time`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn find_time(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        at: WallTime,
    ) -> Result<Sequence, StoreError> {
        if self.messages.last == 0 {
            return Ok(Sequence::ZERO);
        }
        let slices = self.messages.slices.iter();
        let candidates: Vec<Slice> = slices
            .filter(|slice| slice.live_count() != 0 && at.0 <= slice.last_time)
            .cloned()
            .collect();
        for slice in candidates {
            let files = self.read_slice(ctx, root, &slice)?;
            if let Some(found) = files.with(ctx, |files| files.find_time(&slice, at))? {
                return Ok(Sequence(found.max(self.oldest_given())));
            }
        }
        Ok(Sequence(self.messages.last).next())
    }

    /// Opens the files of a slice for reading.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read_slice(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        slice: &Slice,
    ) -> Result<OpenSlice<'_>, StoreError> {
        let number = slice.number;
        let path = ctx.path(self.name.as_bytes(), &slice_index_name(number));
        let is_tail = self.handles.tail.as_ref().is_some_and(|tail| tail.number == number);
        let is_open = self.handles.reader.as_ref().is_some_and(|reader| reader.number == number);
        if !is_tail && !is_open {
            self.open_folder(ctx, root)?;
            let open = |name: Vec<u8>| {
                let path = ctx.path(self.name.as_bytes(), &name);
                open_file(self.folder(), &name, Access::Read, ctx.fence.as_ref())
                    .map_err(|source| io_error(Action::Read, &path, source))
            };
            let reader = Reader {
                number,
                data: open(slice_data_name(number))?,
                index: open(slice_index_name(number))?,
            };
            self.handles.reader = Some(reader);
        }
        if let (true, Some(tail)) = (is_tail, &self.handles.tail) {
            return Ok(OpenSlice { data: tail.data.file(), index: tail.index.file(), path });
        }
        let reader = self.handles.reader.as_ref().expect("it was opened just now");
        Ok(OpenSlice { data: reader.data.as_ref(), index: reader.index.as_ref(), path })
    }

    /// The oldest message's index record.
    fn oldest(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
    ) -> Result<Option<IndexRecord>, StoreError> {
        if let Some(record) = self.messages.head.front() {
            return Ok(Some(*record));
        }
        let first = self.messages.first;
        let oldest = self.messages.slices.iter().find(|slice| slice.live_count() != 0);
        let Some(slice) = oldest.cloned() else {
            return Ok(None);
        };
        let count = slice.live_count().min(HEAD_READ_COUNT);
        let files = self.read_slice(ctx, root, &slice)?;
        let records = files.with(ctx, |files| files.oldest_records(&slice, first, count))?;
        self.messages.head = records.into();
        Ok(self.messages.head.front().copied())
    }

    /// Takes what the limits do not allow out of the accounts; true if anything went.
    ///
    /// # Errors
    /// [`StoreError`] when the index cannot be read.
    pub fn trim(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        now: Option<WallTime>,
    ) -> Result<bool, StoreError> {
        let count_before = self.messages.message_count;
        self.expires_at = None;
        if self.is_below_floor() {
            self.messages.remove_slices_below(self.floor.first);
        }
        while self.messages.message_count != 0 {
            let is_over = self.messages.is_over(&self.limits) || self.is_below_floor();
            if !is_over && self.limits.age_max.is_zero() {
                break;
            }
            let oldest = match self.messages.oldest_time() {
                Some(at) => Some(at),
                None => self.oldest(ctx, root)?.map(|record| record.timestamp),
            };
            let is_expired = oldest
                .zip(now)
                .is_some_and(|(oldest, now)| self.messages.is_expired(&self.limits, oldest, now));
            if let (Some(oldest), false, false) = (oldest, is_over, is_expired) {
                self.expires_at = Some(WallTime(oldest) + self.limits.age_max);
                break;
            }
            let Some(record) = self.oldest(ctx, root)? else {
                break;
            };
            self.messages.head.pop_front();
            self.messages.remove_first(&record);
        }
        self.messages.head.truncate(HEAD_KEPT_COUNT);
        self.messages.head.shrink_to(HEAD_KEPT_COUNT);
        Ok(self.messages.message_count != count_before)
    }
}

/// The open files of a slice that is being read.
pub struct OpenSlice<'a> {
    data: &'a dyn DiskFile,
    index: &'a dyn DiskFile,
    path: std::path::PathBuf,
}

impl OpenSlice<'_> {
    /// Reads from it.
    ///
    /// # Errors
    /// As `read`.
    pub fn with<T>(
        &self,
        ctx: &Context,
        read: impl FnOnce(SliceFiles<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read(SliceFiles {
            data: self.data,
            index: self.index,
            path: &self.path,
            crc: ctx.verifying_crc(),
        })
    }
}
