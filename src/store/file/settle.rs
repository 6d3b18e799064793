//! A predecessor's last batch, written anew into the first slice of this epoch.
//!
//! After a failed sync a later sync proves nothing, and a predecessor that was replaced may still
//! append to its slice, or cut it. So what may have been its last batch is copied, synced, and only
//! then cut from the old slice. The rest of what it wrote is synced where it lies.

use crate::base::id::Sequence;
use crate::base::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, SLICES_PER_BATCH_MAX};
use crate::base::record::MessageRecord;
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, refusal};
use crate::store::file::disk::{Access, Folder};
use crate::store::file::format::{
    IndexRecord, gap_filler, index_offset, slice_data_name, slice_index_name,
};
use crate::store::file::log::{io_error, path_below};
use crate::store::file::reading::Budget;
use crate::store::file::removal::Place;
use crate::store::file::slices::{Messages, Slice, SliceLimits, SliceWrite, StageRules, count};
use crate::store::{Action, StoreError};

/// Messages this much older than the newest of the store were not in a last batch, in nanoseconds:
/// a batch holds what arrived while the one before it was synced.
const LAST_BATCH_SPAN: i64 = 1_000_000_000;

/// The copy of a channel's tail that is not in use yet.
pub struct Rewrite {
    write: SliceWrite,
    /// Records of the old slice before the copied ones.
    kept_count: u64,
    /// The last of those.
    kept_last: Option<IndexRecord>,
    /// Where the data of the old slice will end.
    kept_len: u64,
}

/// Timestamp from which messages may have been in the last batch of a store, given its newest.
#[must_use]
pub fn last_batch_since(newest: i64) -> i64 {
    newest.saturating_sub(LAST_BATCH_SPAN)
}

/// Fills the sequences that are missing between `records`: the reference's slices have none.
fn without_gaps(channel: &[u8], records: Vec<MessageRecord>) -> Vec<MessageRecord> {
    let mut dense: Vec<MessageRecord> = Vec::with_capacity(records.len());
    for record in records {
        let next = dense.last().map_or(record.sequence, |last| last.sequence.next());
        for missing in next.get()..record.sequence.get() {
            let filler = gap_filler(channel, missing, record.timestamp.0);
            let sequence = Sequence(missing);
            dense.push(MessageRecord { sequence, encoded: filler.into(), ..record.clone() });
        }
        dense.push(record);
    }
    dense
}

impl Rewrite {
    /// Copies what the predecessor may have written last to a channel; `None` if there is nothing,
    /// or no room for it. The copy is not synced.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(
        ctx: &Context,
        root: &dyn Folder,
        channel: &mut Channel,
        since: i64,
    ) -> Result<Option<Self>, StoreError> {
        let Some(slice) = channel.messages.slices.back().cloned() else {
            return Ok(None);
        };
        if slice.live_count() == 0 || slice.last_time < since {
            return Ok(None);
        }
        let Some(rewrite) = Self::copy(ctx, root, channel, &slice, since)? else {
            return Ok(None);
        };
        channel.open_folder(ctx, root)?;
        let writes = std::slice::from_ref(&rewrite.write);
        if let Err(error) = channel.append(ctx, writes) {
            refusal(error)?;
            channel.undo(ctx, writes)?;
            return Ok(None);
        }
        Ok(Some(rewrite))
    }

    fn copy(
        ctx: &Context,
        root: &dyn Folder,
        channel: &mut Channel,
        slice: &Slice,
        since: i64,
    ) -> Result<Option<Self>, StoreError> {
        let number_max = channel.messages.number_max;
        let files = channel.read_slice(ctx, root, slice)?;
        let bytes_max = u64::try_from(BATCH_BYTES_MAX).unwrap_or(u64::MAX);
        let count_max = u64::try_from(BATCH_MESSAGES_MAX).unwrap_or(u64::MAX);
        let start = slice.data_len.saturating_sub(bytes_max);
        let (ordinal, kept_last, first, records) = files.with(ctx, |files| {
            let ordinal = files
                .partition(slice, |record| since <= record.timestamp && start <= record.offset)?
                .max(slice.record_count.saturating_sub(count_max));
            let kept = files.index_records(ordinal.saturating_sub(1), 2)?;
            let first = kept.get(usize::from(ordinal != 0)).copied();
            let mut records = Vec::new();
            if let Some(first) = first {
                let mut budget = Budget { count: usize::MAX, bytes: usize::MAX };
                files.fetch(slice, first.sequence, &mut budget, &mut records)?;
            }
            let kept_last = kept.first().copied().filter(|_| ordinal != 0);
            Ok((ordinal, kept_last, first, records))
        })?;
        // A damaged message stays where it is, with everything behind it.
        let Some(first) = first.filter(|_| count(&records) == slice.record_count - ordinal) else {
            return Ok(None);
        };
        let fresh = Messages { number_max, ..Messages::default() };
        let rules = StageRules {
            limits: SliceLimits::default(),
            must_begin_slice: true,
            number_step: SLICES_PER_BATCH_MAX,
            crc: &ctx.crc,
        };
        let records = without_gaps(channel.name.as_bytes(), records);
        let mut writes = fresh.stage(&records, &rules);
        Ok(writes.pop().map(|write| Self {
            write,
            kept_count: ordinal,
            kept_last,
            kept_len: first.offset,
        }))
    }

    /// Takes the copy into use and cuts the old slice. The caller has synced the copy and asked the
    /// fence since.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn finish(
        self,
        ctx: &Context,
        root: &dyn Folder,
        channel: &mut Channel,
    ) -> Result<(), StoreError> {
        channel.close_files();
        channel.open_folder(ctx, root)?;
        let Some(mut old) = channel.messages.slices.pop_back() else {
            return Ok(());
        };
        let names = [slice_data_name(old.number), slice_index_name(old.number)];
        let path = ctx.path(channel.name.as_bytes(), b"");
        let folder = channel.folder();
        if let Some(last) = self.kept_last {
            for (name, len) in names.iter().zip([self.kept_len, index_offset(self.kept_count)]) {
                folder.open(name, Access::Append).and_then(|file| file.truncate(len)).map_err(
                    |source| io_error(Action::Replace, &path_below(&path, b"", name), source),
                )?;
            }
            old.last = last.sequence;
            old.last_time = last.timestamp;
            old.record_count = self.kept_count;
            old.bytes -= self.write.slice.bytes;
            old.data_len = self.kept_len;
            channel.messages.slices.push_back(old);
        } else {
            Place { folder, path: &path, fence: ctx.fence.as_ref() }.remove(&names)?;
        }
        let fresh = self.write.slice;
        channel.messages.number_max = fresh.number;
        channel.messages.slices.push_back(fresh);
        channel.messages.head.clear();
        channel.must_begin_slice = false;
        Ok(())
    }
}
