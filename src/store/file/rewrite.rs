//! A channel's newest messages, written anew into the first slice of this epoch.
//!
//! After a failed sync a later sync proves nothing, and a predecessor that was replaced may still
//! append to its slices, or cut them. So what it may not have synced is copied, synced, and only
//! then cut from the old slices. The rest of what it wrote is synced where it lies.

use crate::base::limits::SLICES_PER_BATCH_MAX;
use crate::base::planted::{self, Bug};
use crate::base::record::MessageRecord;
use crate::base::reserve::is_no_room;
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, is_refusal};
use crate::store::file::disk::{Access, Folder};
use crate::store::file::format::{
    FILE_HEADER_LEN, MESSAGE_OVERHEAD, slice_data_name, slice_index_name,
};
use crate::store::file::log::{io_error, path_below};
use crate::store::file::reading::{Budget, SliceFiles};
use crate::store::file::removal::{Place, open_file};
use crate::store::file::reserve::LEFT_BY_COPIES;
use crate::store::file::slices::{
    Messages, Overlap, Slice, SliceLimits, SliceWrite, StageRules, count,
};
use crate::store::{Action, StoreError};

/// Data and index.
const FILES_OF_SLICE: usize = 2;

/// The copy of a channel's newest messages that is not in use yet.
pub struct Rewrite {
    write: SliceWrite,
    /// The slice of the first copied message as it will be; no records if nothing of it stays.
    kept: Slice,
    /// How many slices behind it are copied as a whole.
    later_count: usize,
}

impl Rewrite {
    /// Makes the files of the copy. The caller has asked the fence since it was read, so it is no
    /// successor's, and neither is its number; and asks it again before [`Rewrite::write`].
    ///
    /// # Errors
    /// [`StoreError`]; then [`Rewrite::write`] makes them, or says why not.
    pub fn begin(
        &self,
        ctx: &Context,
        root: &dyn Folder,
        channel: &mut Channel,
    ) -> Result<(), StoreError> {
        channel.open_folder(ctx, root)?;
        self.overwrite_planted(channel);
        channel.begin_slice(ctx, self.write.slice.number)
    }

    /// Bytes of the messages that it holds in memory.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        u64::try_from(self.write.data.len()).unwrap_or(u64::MAX)
    }

    fn overwrite_planted(&self, channel: &Channel) {
        if planted::is(Bug::RecoveryUnfenced) {
            let number = self.write.slice.number;
            for name in [slice_index_name(number), slice_data_name(number)] {
                let _ = channel.folder().unlink(&name);
            }
        }
    }

    /// Writes the copy beside what it was made from; it is not synced. A full disk gives its
    /// reserve for it.
    ///
    /// # Errors
    /// [`StoreError`]; of one that only refuses, nothing is left.
    pub fn write(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        channel: &mut Channel,
    ) -> Result<(), StoreError> {
        if !channel.has_begun(self.write.slice.number) {
            channel.open_folder(ctx, root)?;
            // What was read is no successor's: so neither is the number of the copy.
            ctx.fence.check()?;
            self.overwrite_planted(channel);
        }
        let mut written = self.write_once(ctx, channel);
        if written.as_ref().is_err_and(is_uncreated)
            && ctx.reserve.release_files(root, FILES_OF_SLICE, LEFT_BY_COPIES)
        {
            written = self.write_once(ctx, channel);
        }
        if written.as_ref().is_err_and(is_refusal) && ctx.reserve.release_bytes(root) {
            written = self.write_once(ctx, channel);
        }
        written
    }

    fn write_once(&mut self, ctx: &Context, channel: &mut Channel) -> Result<(), StoreError> {
        let writes = std::slice::from_mut(&mut self.write);
        let written = channel.append(ctx, writes);
        if written.as_ref().is_err_and(is_refusal) {
            channel.undo(ctx, writes)?;
        }
        written
    }

    /// Reads the messages of a channel from `from` on; `None` if one of them is damaged.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn copy(
        ctx: &Context,
        root: &dyn Folder,
        channel: &mut Channel,
        from: u64,
    ) -> Result<Option<Self>, StoreError> {
        let slices = channel.messages.slices.iter().filter(|slice| from <= slice.last);
        let slices: Vec<Slice> = slices.cloned().collect();
        let mut records = Vec::new();
        let mut wanted = 0;
        let mut kept = None;
        for slice in &slices {
            let files = channel.read_slice(ctx, root, slice)?;
            files.with(ctx, |files| {
                let ordinal = files.ordinal_of(slice, from)?;
                wanted += slice.record_count - ordinal;
                if kept.is_none() {
                    let start = ordinal.saturating_sub(1);
                    // What is copied as a whole ends nowhere.
                    let around = match ordinal {
                        0 => Vec::new(),
                        _ => files.index_records(start, ordinal - start + 1)?,
                    };
                    let first = around.last().map_or(FILE_HEADER_LEN, |record| record.offset);
                    let last = around.first().filter(|_| start < ordinal);
                    kept = Some(Slice {
                        last: last.map_or(0, |record| record.sequence),
                        last_time: last.map_or(0, |record| record.timestamp),
                        record_count: ordinal,
                        data_len: first,
                        ..slice.clone()
                    });
                }
                let mut budget = Budget { count: usize::MAX, bytes: usize::MAX };
                // Of what may not be durable the checksum counts, whatever the options say.
                let files = SliceFiles { crc: Some(&ctx.crc), ..files };
                files.fetch(slice, from.max(slice.first), &mut budget, &mut records)
            })?;
        }
        // A damaged message stays where it is, with everything around it.
        let (Some(mut kept), true) = (kept, is_dense(&records) && count(&records) == wanted) else {
            return Ok(None);
        };
        let end = slices.first().map_or(0, |slice| slice.last);
        let copied = records.iter().filter(|record| record.sequence.get() <= end);
        kept.bytes = kept.bytes.saturating_sub(copied.map(accounted).sum());
        let records: Vec<MessageRecord> =
            records.into_iter().map(|record| channel.as_left(record)).collect();
        let fresh = Messages { number_max: channel.messages.number_max, ..Messages::default() };
        let rules = StageRules {
            limits: SliceLimits::default(),
            must_begin_slice: true,
            number_step: SLICES_PER_BATCH_MAX,
            crc: &ctx.crc,
        };
        let later_count = slices.len().saturating_sub(1);
        let write = fresh.stage(&records, &rules).pop();
        Ok(write.map(|write| Self { write, kept, later_count }))
    }

    /// Takes away a copy that was written and could not be synced. What a failed sync was to make
    /// durable no later one is believed to have, so neither it nor its number is used again.
    ///
    /// # Errors
    /// [`StoreError::HalfDone`], [`StoreError::Fenced`]; then a part of it may still be there.
    pub fn discard(self, ctx: &Context, channel: &mut Channel) -> Result<(), StoreError> {
        let number = self.write.slice.number;
        channel.messages.number_max = channel.messages.number_max.max(number);
        channel.undo(ctx, &[self.write])
    }

    /// Takes the copy into use. What the oldest of the old slices still has of it is left to
    /// [`cut_overlaps`], so that a cut that fails takes nothing away from readers; the other slices
    /// are superseded. The caller has synced the copy and asked the fence since.
    pub fn finish(self, channel: &mut Channel) {
        channel.close_slices();
        let Self { write, kept, later_count } = self;
        let messages = &mut channel.messages;
        let staying = messages.slices.len().saturating_sub(later_count + 1);
        let copied = messages.slices.split_off(staying);
        for old in copied {
            if kept.record_count == 0 || old.number != kept.number {
                messages.superseded.insert(old.number);
                continue;
            }
            messages.overlaps.push(Overlap {
                number: old.number,
                from: write.slice.first,
                last: old.last,
                last_time: old.last_time,
                must_stay: false,
            });
        }
        messages.slices.extend((kept.record_count != 0).then_some(kept));
        messages.number_max = write.slice.number;
        messages.slices.push_back(write.slice);
        messages.head.clear();
        channel.must_begin_slice = false;
    }
}

/// Cuts from the old slices what later ones hold, as far as it need not stay. Those that hold
/// nothing else are superseded.
///
/// # Errors
/// [`StoreError`].
pub fn cut_overlaps(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
) -> Result<(), StoreError> {
    if channel.messages.overlaps.iter().all(|old| old.must_stay) {
        return Ok(());
    }
    let Messages { slices, overlaps, .. } = &channel.messages;
    let slice_of = |old: &Overlap| slices.iter().find(|slice| slice.number == old.number);
    let done = || overlaps.iter().filter(|old| !old.must_stay);
    let cut: Vec<Slice> = done().filter_map(slice_of).cloned().collect();
    let is_whole = |old: &&Overlap| slice_of(old).is_none();
    let superseded: Vec<u64> = done().filter(is_whole).map(|old| old.number).collect();
    if !cut.is_empty() {
        channel.open_folder(ctx, root)?;
        ctx.fence.check()?;
        let path = ctx.path(channel.name.as_bytes(), b"");
        let place = Place { folder: channel.folder(), path: &path, fence: ctx.fence.as_ref() };
        cut.iter().try_for_each(|slice| end_slice(place, slice))?;
        channel.close_reader();
    }
    channel.messages.superseded.extend(superseded);
    channel.messages.overlaps.retain(|old| old.must_stay);
    Ok(())
}

/// Cuts what the files of a slice have behind its messages; the index first.
fn end_slice(place: Place<'_>, slice: &Slice) -> Result<(), StoreError> {
    let names = [slice_index_name(slice.number), slice_data_name(slice.number)];
    for (name, len) in names.iter().zip([slice.index_len(), slice.data_len]) {
        open_file(place.folder, name, Access::Append, place.fence)
            .and_then(|file| if len < file.size()? { file.truncate(len) } else { Ok(()) })
            .map_err(|source| {
                io_error(Action::Replace, &path_below(place.path, b"", name), source)
            })?;
    }
    Ok(())
}

/// Whether there was no room for another file.
fn is_uncreated(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { action: Action::Open, source, .. } if is_no_room(source))
}

fn is_dense(records: &[MessageRecord]) -> bool {
    records.windows(2).all(|pair| matches!(pair, [a, b] if a.sequence.next() == b.sequence))
}

fn accounted(record: &MessageRecord) -> u64 {
    u64::try_from(record.encoded.len()).unwrap_or(u64::MAX).saturating_add(MESSAGE_OVERHEAD)
}
