//! A hole that a power failure has left in the newest messages of a channel.
//!
//! Blocks reach the disk in any order, and a sync that fails may have written any of them. So of
//! messages that were never made durable the later ones may be there and the earlier ones not; the
//! blocks that are missing read as zeros. Nothing behind such a hole was acknowledged: the sync
//! that would have covered it covers all of the slice. A slice that was continued after it was
//! synced, or has another one behind it, has no such hole. Damage of any other kind may have whole
//! messages behind it that were acknowledged, and is never cut.
//!
//! A Go server continues a slice that has a hole, and looks at its end only. So nothing is cut
//! where no process of ours has opened the store before, nor where more lies behind the hole than
//! we ever leave without a sync, or what was stamped much later.

use std::path::Path;

use crate::base::limits::{UNSYNCED_BYTES_MAX, UNSYNCED_MESSAGES_MAX};
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, refusal};
use crate::store::file::cutting;
use crate::store::file::disk::{Access, DiskFile, Folder};
use crate::store::file::format::{
    FILE_HEADER_LEN, IndexRecord, cut_name, index_offset, slice_data_name, slice_index_name,
};
use crate::store::file::log::{io_error, path_below, read_range};
use crate::store::file::removal::{Place, open_file};
use crate::store::file::repair;
use crate::store::file::reserve::LEFT_BY_TAKE_OVER;
use crate::store::file::slice_recovery::is_proved;
use crate::store::file::slices::{Overlap, Slice};
use crate::store::{Action, Notice, StoreError};

/// Messages that were under way when the power went are stamped within that time; nobody starts
/// a machine and another server on it so soon.
const UNDER_WAY_MAX: i64 = 30_000_000_000;

/// Where whole messages end that have no hole before them.
struct Hole {
    /// How many messages of the slice lie before it.
    ordinal: u64,
    /// The sequence that is missing first.
    sequence: u64,
    /// From where to where there is no message.
    begin: u64,
    end: u64,
}

/// Cuts the newest slice where a power failure has taken messages from `from` on, or just before;
/// gives the line for the operator. Then the channel has to be read again.
///
/// # Errors
/// [`StoreError`].
pub fn close(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
    from: u64,
) -> Result<Option<Notice>, StoreError> {
    let mut slices = channel.messages.slices.iter().rev();
    let Some(slice) = slices.next().cloned() else { return Ok(None) };
    let before = slices.next().map(|slice| slice.last);
    let found = match find(ctx, root, channel, (&slice, before, from)) {
        Ok(found) => found,
        Err(error) => refusal(error).map(|_| None)?,
    };
    let Some(hole) = found else {
        let front = match find_front(ctx, root, channel, (&slice, before, from)) {
            Ok(front) => front,
            Err(error) => refusal(error).map(|_| None)?,
        };
        return front.map(|hole| cut(ctx, root, channel, (&slice, &hole))).transpose();
    };
    let is_around = |old: &&Overlap| (old.from..=old.last).contains(&hole.sequence);
    let around: Vec<u64> =
        channel.messages.overlaps.iter().filter(is_around).map(|old| old.number).collect();
    for number in around {
        let holds = match holds(ctx, root, channel, (number, hole.sequence)) {
            Ok(holds) => holds,
            Err(error) => refusal(error).map(|_| true)?,
        };
        if holds {
            return Ok(None);
        }
    }
    cut(ctx, root, channel, (&slice, &hole)).map(Some)
}

/// Whether a channel begins with a hole, which nothing before it shows: its only slice lacks what
/// was written to its front.
///
/// # Errors
/// [`StoreError`].
pub fn begins(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
    from: u64,
) -> Result<bool, StoreError> {
    let slices = &channel.messages.slices;
    let only = slices.front().filter(|slice| slices.len() == 1 && from <= slice.first).cloned();
    let Some(slice) = only else { return Ok(false) };
    match find_front(ctx, root, channel, (&slice, None, from)) {
        Ok(found) => Ok(found.is_some()),
        Err(error) => refusal(error).map(|_| false),
    }
}

/// Whether an old slice has a message: that it lies between two that it has says nothing, because
/// the same power failure may have left a hole in both.
fn holds(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
    (number, sequence): (u64, u64),
) -> Result<bool, StoreError> {
    let path = ctx.path(channel.name.as_bytes(), &slice_data_name(number));
    let slice = Slice { number, ..Slice::default() };
    let files = channel.read_slice(ctx, root, &slice)?;
    files.with(ctx, |files| {
        let size = |file: &dyn DiskFile| {
            file.size().map_err(|source| io_error(Action::Read, &path, source))
        };
        let count = size(files.index)? / index_offset(1).saturating_sub(index_offset(0));
        let records = files.index_records(0, count)?;
        let Some(record) = records.iter().find(|record| record.sequence == sequence) else {
            return Ok(false);
        };
        is_proved((files.data, size(files.data)?, &path), record, &ctx.crc)
    })
}

/// The first hole at `from` or behind it.
fn find(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
    (slice, before, from): (&Slice, Option<u64>, u64),
) -> Result<Option<Hole>, StoreError> {
    let path = ctx.path(channel.name.as_bytes(), &slice_data_name(slice.number));
    let files = channel.read_slice(ctx, root, slice)?;
    files.with(ctx, |files| {
        let start = files.ordinal_of(slice, from.max(slice.first))?.saturating_sub(1);
        let records = files.index_records(start, slice.record_count - start)?;
        let is_proved =
            |record: &IndexRecord| is_proved((files.data, slice.data_len, &path), record, &ctx.crc);
        let is_first = start == 0;
        // The first slice of a channel begins with its first message.
        let begins_with = before.map(|last| last + 1).or((slice.number == 1).then_some(1));
        let mut end = FILE_HEADER_LEN;
        let mut expected = begins_with.filter(|_| is_first);
        for (ordinal, record) in (start..).zip(&records) {
            let is_behind = expected.is_some_and(|expected| expected != record.sequence);
            // What lies before those that may be lost is known to be whole.
            let is_whole = (ordinal == start && !is_first) || is_proved(record)?;
            if is_whole && !is_behind {
                (end, expected) = (record.end(), Some(record.sequence + 1));
                continue;
            }
            let Some(sequence) = expected else { return Ok(None) };
            let begin = if is_behind { end } else { record.offset };
            let place = usize::try_from(ordinal - start).unwrap_or(usize::MAX);
            let mut hole = Hole { ordinal, sequence, begin, end: slice.data_len };
            for next in &records[place..] {
                if is_proved(next)? {
                    hole.end = next.offset;
                    break;
                }
            }
            let before = place.checked_sub(1).and_then(|place| records.get(place));
            let is_ours = is_of_one_batch(before, &records[place..]);
            return Ok((is_ours && is_unwritten(files.data, &hole, &path)?).then_some(hole));
        }
        Ok(None)
    })
}

/// A hole at the front of the newest slice, whose messages are whole: it was never in use, because
/// whoever uses one has synced all of it. What is damaged lies before it, or it is all there is.
fn find_front(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
    (slice, before, from): (&Slice, Option<u64>, u64),
) -> Result<Option<Hole>, StoreError> {
    if before.is_some_and(|last| last < from) {
        return Ok(None);
    }
    let path = ctx.path(channel.name.as_bytes(), &slice_data_name(slice.number));
    let files = channel.read_slice(ctx, root, slice)?;
    files.with(ctx, |files| {
        let records = files.index_records(0, slice.record_count)?;
        let Some(first) = records.first() else { return Ok(None) };
        let (begin, end) = (FILE_HEADER_LEN, first.offset);
        let sequence = first.sequence.saturating_sub(1);
        let hole = Hole { ordinal: 0, sequence, begin, end };
        if end <= begin
            || !is_of_one_batch(None, &records)
            || !is_unwritten(files.data, &hole, &path)?
        {
            return Ok(None);
        }
        for record in &records {
            if !is_proved((files.data, slice.data_len, &path), record, &ctx.crc)? {
                return Ok(None);
            }
        }
        Ok(Some(hole))
    })
}

/// Whether all of this may have been written without a sync behind the message `before`.
fn is_of_one_batch(before: Option<&IndexRecord>, behind: &[IndexRecord]) -> bool {
    let (Some(first), Some(last)) = (before.or(behind.first()), behind.last()) else {
        return true;
    };
    let bytes = behind.iter().map(|record| u64::from(record.size)).fold(0, u64::saturating_add);
    let is_small = usize::try_from(bytes).is_ok_and(|bytes| bytes <= UNSYNCED_BYTES_MAX);
    let is_soon = last.timestamp.saturating_sub(first.timestamp) <= UNDER_WAY_MAX;
    behind.len() <= UNSYNCED_MESSAGES_MAX && (is_small || behind.len() == 1) && is_soon
}

/// Whether a power failure explains it.
fn is_unwritten(data: &dyn DiskFile, hole: &Hole, path: &Path) -> Result<bool, StoreError> {
    let len = usize::try_from(hole.end.saturating_sub(hole.begin)).unwrap_or(usize::MAX);
    let bytes = read_range(data, hole.begin, len, path)?;
    Ok(repair::is_unwritten(&bytes, usize::try_from(hole.begin).unwrap_or(0)))
}

/// Cuts index and data, durably; a disk without room for what is cut does not keep it.
fn cut(
    ctx: &Context,
    root: &dyn Folder,
    channel: &mut Channel,
    (slice, hole): (&Slice, &Hole),
) -> Result<Notice, StoreError> {
    channel.close_files();
    channel.open_folder(ctx, root)?;
    let path = ctx.path(channel.name.as_bytes(), b"");
    let fence = ctx.fence.as_ref();
    let place = Place { folder: channel.folder(), path: &path, fence };
    let open = |name: &[u8]| {
        open_file(place.folder, name, Access::Append, fence)
            .map_err(|source| io_error(Action::Open, &path_below(&path, b"", name), source))
    };
    let (name, index_name) = (slice_data_name(slice.number), slice_index_name(slice.number));
    // The index first: what it does not name was never acknowledged.
    let index = open(&index_name)?;
    cutting::truncate(place, (index.as_ref(), &index_name), index_offset(hole.ordinal))?;
    let data = open(&name)?;
    let spare = ctx.spare(root, LEFT_BY_TAKE_OVER);
    let kept = cutting::cut(place, spare, (data.as_ref(), &name, hole.begin, slice.data_len));
    let what_became = match kept {
        Ok(_) => {
            let kept = cut_name(fence.epoch().0, &name, hole.begin);
            format!("kept in \"{}\"", String::from_utf8_lossy(&kept))
        }
        Err(error) => {
            let text = refusal(error)?;
            cutting::truncate(place, (data.as_ref(), &name), hole.begin)?;
            format!("not kept ({text})")
        }
    };
    let text = format!(
        "File \"{}\" has been truncated to offset: {}, where a power failure has left nothing of \
         message {}. The {} bytes behind it are {what_became}; none was acknowledged: they were \
         never synced",
        path_below(&path, b"", &name).display(),
        hole.begin,
        hole.sequence,
        slice.data_len - hole.begin,
    );
    Ok(Notice { is_warning: true, text })
}
