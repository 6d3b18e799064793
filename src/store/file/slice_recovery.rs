//! One slice as recovery finds it: its index is believed, or made anew from the data.
//!
//! Messages are not scanned where their index can be believed: its last record must describe the
//! last record of the data. What lies behind the last indexed record was never acknowledged,
//! because the index is written, and synced, before an acknowledgement leaves.

use std::path::Path;

use crate::store::file::compaction::Replacement;
use crate::store::file::context::refusal;
use crate::store::file::disk::{Access, DiskFile};
use crate::store::file::evidence::Hole;
use crate::store::file::format::{
    Decoded, FILE_HEADER_LEN, Framing, INDEX_RECORD_LEN, IndexRecord, MESSAGE_OVERHEAD,
    check_version, cut_name, decode_record, index_offset, message_place, slice_data_name,
    slice_index_name,
};
use crate::store::file::log::{
    RECORDS_START, io_error, is_half_begun, is_no_header, lacks_header, read_range, read_whole,
};
use crate::store::file::recovery::ChannelReader;
use crate::store::file::repair::{Ending, Scan, scan_messages};
use crate::store::file::slices::Slice;
use crate::store::{Action, StoreError};

/// Index files up to this many bytes are read and checked whole: one read costs no more than two.
const INDEX_CHECKED_BYTES_MAX: u64 = 64 * 1024;
/// Of longer ones so many of the last records: a power failure may have left a hole there.
const INDEX_TAIL_COUNT: u64 = 512;

struct FoundIndex {
    /// All records, if they were read.
    records: Option<Vec<IndexRecord>>,
    first: IndexRecord,
    last: IndexRecord,
    count: u64,
}

impl ChannelReader<'_> {
    /// Reads one slice, and repairs what a crash left.
    ///
    /// # Errors
    /// As [`Recovery::channel`](crate::store::file::recovery::Recovery::channel).
    pub(super) fn slice(
        &mut self,
        number: u64,
        has_index: bool,
        is_last: bool,
    ) -> Result<Slice, StoreError> {
        let name = slice_data_name(number);
        let index_name = slice_index_name(number);
        let path = self.file_path(&name);
        let mut data = self.open(&name)?;
        let mut header = read_range(data.as_ref(), 0, RECORDS_START, &path)?;
        if is_no_header(&header) {
            if !self.complete_data(number, data.as_ref())? {
                return Ok(Slice { number, ..Slice::default() });
            }
            data = self.open(&name)?;
            header = read_range(data.as_ref(), 0, RECORDS_START, &path)?;
        }
        let data_len = data.size().map_err(|source| io_error(Action::Read, &path, source))?;
        if self.is_half_born(data_len, &index_name, has_index)? {
            self.give_up(number)?;
            return Ok(Slice { number, ..Slice::default() });
        }
        check_version(&header).map_err(|reason| self.message_error(&name, &reason))?;
        if !has_index {
            return self.rebuild(number, data.as_ref(), Vec::new(), true);
        }
        let index = self.open(&index_name)?;
        let index_path = self.file_path(&index_name);
        if lacks_header(index.as_ref(), &index_path)? {
            // A crash can take the content of a file that was new, and leave that of another.
            return self.rebuild(number, data.as_ref(), Vec::new(), true);
        }
        match self.read_index(index.as_ref(), &index_name)? {
            Ok(None) if data_len == FILE_HEADER_LEN => {
                self.hollow.push(number);
                Ok(Slice { number, data_len, ..Slice::default() })
            }
            Ok(None) => self.rebuild(number, data.as_ref(), Vec::new(), false),
            Ok(Some(found)) if self.is_proved(data.as_ref(), data_len, &found.last, &path)? => {
                self.accept(number, data.as_ref(), data_len, &found, is_last)
            }
            Ok(Some(found)) => {
                let text = format!(
                    "Error with index file \"{}\": the last record does not describe the last \
                     message. Truncating and recovering from data file",
                    self.file_path(&index_name).display(),
                );
                self.notice(true, text);
                let kept = match found.records {
                    Some(records) => records,
                    None => self.all_index_records(index.as_ref(), &index_name)?,
                };
                self.rebuild(number, data.as_ref(), kept, false)
            }
            Err(kept) => {
                let text = format!(
                    "Error with index file \"{}\": damaged behind {} records. Truncating and \
                     recovering from data file",
                    self.file_path(&index_name).display(),
                    kept.len(),
                );
                self.notice(true, text);
                self.rebuild(number, data.as_ref(), kept, false)
            }
        }
    }

    /// The header of a data file never reached the disk. If nothing is behind it, the slice is as
    /// if it had never been begun, and goes; else the file gets a header, and the rest is judged as
    /// always. True if there is a slice.
    fn complete_data(&mut self, number: u64, data: &dyn DiskFile) -> Result<bool, StoreError> {
        let (name, index_name) = (slice_data_name(number), slice_index_name(number));
        let path = self.file_path(&name);
        self.place()?;
        if !is_half_begun(data, &path)? {
            let len = data.size().map_err(|source| io_error(Action::Read, &path, source))?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let behind = read_range(data, FILE_HEADER_LEN, len, &path)?;
            self.put_whole(&name, &behind)?;
            return Ok(true);
        }
        let named = match self.folder.open(&index_name, Access::Read) {
            Ok(index) => self.all_index_records(index.as_ref(), &index_name)?.len(),
            Err(_) => 0,
        };
        self.give_up(number)?;
        if named != 0 {
            let text = format!(
                "File \"{}\" has no content, and is removed with its index, which names {named} \
                 messages; none was acknowledged unless the disk lost them afterwards",
                path.display(),
            );
            self.notice(true, text);
        }
        Ok(false)
    }

    /// Whether a kill fell between the creation of the files and their first record.
    fn is_half_born(
        &self,
        data_len: u64,
        index_name: &[u8],
        has_index: bool,
    ) -> Result<bool, StoreError> {
        if FILE_HEADER_LEN < data_len {
            return Ok(false);
        }
        let index_len = if has_index {
            let path = self.file_path(index_name);
            let index = self.open(index_name)?;
            index.size().map_err(|source| io_error(Action::Read, &path, source))?
        } else {
            0
        };
        let (shorter, longer) = (data_len.min(index_len), data_len.max(index_len));
        Ok(shorter < FILE_HEADER_LEN && longer <= FILE_HEADER_LEN)
    }

    /// What the index says; `Err` gives the records that are whole, if it is damaged behind them.
    #[allow(clippy::type_complexity, reason = "the inner result is a finding, not an error")]
    fn read_index(
        &self,
        index: &dyn DiskFile,
        name: &[u8],
    ) -> Result<Result<Option<FoundIndex>, Vec<IndexRecord>>, StoreError> {
        let path = self.file_path(name);
        let len = index.size().map_err(|source| io_error(Action::Read, &path, source))?;
        let is_small = len <= INDEX_CHECKED_BYTES_MAX;
        let wanted = if is_small { len } else { index_offset(1) };
        let bytes = read_range(index, 0, usize::try_from(wanted).unwrap_or(usize::MAX), &path)?;
        check_version(&bytes).map_err(|reason| self.message_error(name, &reason))?;
        let record_bytes = len - FILE_HEADER_LEN;
        let count = record_bytes / 32;
        if is_small {
            let (records, is_whole) = self.parse_index(&bytes[RECORDS_START..]);
            return Ok(match (records.first().copied(), records.last().copied()) {
                _ if !is_whole => Err(records),
                (Some(first), Some(last)) => {
                    Ok(Some(FoundIndex { count, first, last, records: Some(records) }))
                }
                _ => Ok(None),
            });
        }
        let tail_count = INDEX_TAIL_COUNT.min(count);
        let tail_len = usize::try_from(tail_count).unwrap_or(usize::MAX) * INDEX_RECORD_LEN;
        let tail = read_range(index, index_offset(count - tail_count), tail_len, &path)?;
        let (first, is_first_whole) = self.parse_index(&bytes[RECORDS_START..]);
        let (last, is_last_whole) = self.parse_index(&tail);
        match (first.first(), last.last()) {
            (Some(first), Some(last))
                if record_bytes.is_multiple_of(32) && is_first_whole && is_last_whole =>
            {
                Ok(Ok(Some(FoundIndex { records: None, first: *first, last: *last, count })))
            }
            _ => Ok(Err(self.all_index_records(index, name)?)),
        }
    }

    /// The whole records at the front of an index.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn all_index_records(
        &self,
        index: &dyn DiskFile,
        name: &[u8],
    ) -> Result<Vec<IndexRecord>, StoreError> {
        let path = self.file_path(name);
        let len = index.size().map_err(|source| io_error(Action::Read, &path, source))?;
        let bytes = read_range(index, 0, usize::try_from(len).unwrap_or(usize::MAX), &path)?;
        Ok(self.parse_index(bytes.get(RECORDS_START..).unwrap_or_default()).0)
    }

    /// The whole records at the front, ascending; and whether that is all.
    fn parse_index(&self, bytes: &[u8]) -> (Vec<IndexRecord>, bool) {
        let crc = self.recovery.must_verify.then_some(self.recovery.crc);
        let mut records: Vec<IndexRecord> = Vec::with_capacity(bytes.len() / INDEX_RECORD_LEN);
        for chunk in bytes.chunks_exact(INDEX_RECORD_LEN) {
            let chunk = chunk.first_chunk().expect("chunks_exact gives whole chunks");
            match IndexRecord::decode(chunk, crc) {
                Ok(Some(record))
                    if records.last().is_none_or(|last| {
                        last.sequence < record.sequence && last.end() <= record.offset
                    }) =>
                {
                    records.push(record);
                }
                _ => return (records, false),
            }
        }
        let is_whole = bytes.len().is_multiple_of(INDEX_RECORD_LEN);
        (records, is_whole)
    }

    /// Whether the data, which is so long, holds the message that `record` describes. The checksum
    /// counts here even if the options say that it is not verified.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn is_proved(
        &self,
        data: &dyn DiskFile,
        data_len: u64,
        record: &IndexRecord,
        path: &Path,
    ) -> Result<bool, StoreError> {
        if data_len < record.end() || record.offset < FILE_HEADER_LEN {
            return Ok(false);
        }
        let len = usize::try_from(record.end() - record.offset).unwrap_or(usize::MAX);
        let bytes = read_range(data, record.offset, len, path)?;
        Ok(match decode_record(&bytes, Framing::Plain, Some(self.recovery.crc)) {
            Ok(Decoded::Record { payload, .. }) => {
                u32::try_from(payload.len()).ok() == Some(record.size)
                    && message_place(payload).is_ok_and(|(found, _)| found == record.sequence)
            }
            _ => false,
        })
    }

    /// The index is believed. What lies behind it in the last slice is cut before we write there.
    fn accept(
        &mut self,
        number: u64,
        data: &dyn DiskFile,
        data_len: u64,
        found: &FoundIndex,
        is_last: bool,
    ) -> Result<Slice, StoreError> {
        let end = found.last.end();
        let name = slice_data_name(number);
        if is_last && end < data_len {
            let why = ("", "the index had not reached them");
            self.cut_unanswered(data, &name, (end, data_len), why)?;
        }
        if let Some(records) = &found.records {
            return Ok(slice_of(number, records, end));
        }
        Ok(Slice {
            number,
            first: found.first.sequence,
            last: found.last.sequence,
            record_count: found.count,
            removed_count: 0,
            // Exact where nothing lies between the indexed records.
            bytes: end - FILE_HEADER_LEN + 32 * found.count,
            data_len: end,
            first_time: found.first.timestamp,
            last_time: found.last.timestamp,
        })
    }

    /// Cuts a slice where a power failure has taken messages, and gives what is left of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn cut_at(&mut self, slice: &Slice, hole: &Hole) -> Result<Slice, StoreError> {
        let (name, index_name) = (slice_data_name(slice.number), slice_index_name(slice.number));
        // The index first: what it does not name was never acknowledged.
        let index = self.open(&index_name)?;
        self.truncate(index.as_ref(), &index_name, index_offset(hole.ordinal))?;
        let place =
            format!(", where a power failure has left nothing of message {}", hole.sequence);
        let why = (place.as_str(), "they were never synced");
        let data = self.open(&name)?;
        self.cut_unanswered(data.as_ref(), &name, (hole.begin, slice.data_len), why)?;
        self.slice(slice.number, true, true)
    }

    /// Cuts what nobody was answered for, and says where and why. So a disk that is too full to
    /// keep it does not stop the server.
    fn cut_unanswered(
        &mut self,
        data: &dyn DiskFile,
        name: &[u8],
        (end, data_len): (u64, u64),
        (place, reason): (&str, &str),
    ) -> Result<(), StoreError> {
        let what_became = match self.cut(data, name, end, data_len) {
            Ok(false) if place.is_empty() => return Ok(()),
            Ok(_) => {
                let kept = cut_name(self.place()?.fence.epoch().0, name, end);
                format!("kept in \"{}\"", String::from_utf8_lossy(&kept))
            }
            Err(error) => {
                let text = refusal(error)?;
                self.truncate(data, name, end)?;
                format!("not kept ({text})")
            }
        };
        self.notice(
            true,
            format!(
                "File \"{}\" has been truncated to offset: {end}{place}. The {} bytes behind it are \
                 {what_became}; none was acknowledged: {reason}",
                self.file_path(name).display(),
                data_len - end,
            ),
        );
        Ok(())
    }

    /// Makes the index say what the data proves, starting from the records in `kept` that it does.
    fn rebuild(
        &mut self,
        number: u64,
        data: &dyn DiskFile,
        mut kept: Vec<IndexRecord>,
        is_missing: bool,
    ) -> Result<Slice, StoreError> {
        // Whoever may not write the index need not read all of the data for it.
        self.place()?;
        let name = slice_data_name(number);
        let path = self.file_path(&name);
        let bytes =
            read_whole(data, &path)?.map_err(|reason| self.message_error(&name, &reason))?;
        let data_len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let indexed_end = kept.last().map_or(FILE_HEADER_LEN, IndexRecord::end);
        while let Some(last) = kept.last() {
            if self.is_proved(data, data_len, last, &path)? {
                break;
            }
            kept.pop();
        }
        let start = kept.last().map_or(FILE_HEADER_LEN, IndexRecord::end);
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let scan = scan_messages(&bytes, start, self.recovery.crc, self.recovery.must_verify);
        let end = self.report_scan(&name, data, &scan, (data_len, indexed_end, is_missing))?;
        let last = kept.last().map_or(0, |record| record.sequence);
        kept.extend(scan.records.into_iter().filter(|record| last < record.sequence));
        self.write_index(number, &kept)?;
        Ok(slice_of(number, &kept, end))
    }

    /// Cuts a torn tail, names damage, and gives the length of the data file.
    fn report_scan(
        &mut self,
        name: &[u8],
        data: &dyn DiskFile,
        scan: &Scan,
        (data_len, indexed_end, is_missing): (u64, u64, bool),
    ) -> Result<u64, StoreError> {
        let path = self.file_path(name);
        for (from, to) in &scan.damaged {
            self.notice(true, format!(
                "Corrupted record in file \"{}\": bytes {from} to {to} are no message; they are \
                 passed over and left as they are. Messages in them are lost: restore the file \
                 from a backup if they matter",
                path.display(),
            ));
        }
        match scan.ending {
            Ending::Whole => Ok(data_len),
            Ending::Zeros(at) => {
                let end = u64::try_from(at).unwrap_or(data_len);
                self.truncate(data, name, end)?;
                Ok(end)
            }
            Ending::Torn(at) | Ending::Hole(at) => {
                let end = u64::try_from(at).unwrap_or(data_len);
                self.cut(data, name, end, data_len)?;
                let epoch = self.place()?.fence.epoch().0;
                let doubt = if is_missing || end < indexed_end {
                    "an acknowledged message may have been among them"
                } else {
                    "none was acknowledged: the index had not reached them"
                };
                self.notice(true, format!(
                    "Unexpected EOF for file \"{0}\". File \"{0}\" has been truncated to offset: \
                     {end}. The {1} bytes behind it are kept in \"{2}\"; {doubt}",
                    path.display(),
                    data_len - end,
                    String::from_utf8_lossy(&cut_name(epoch, name, end)),
                ));
                Ok(end)
            }
        }
    }

    /// Puts a whole new index in place: cut and written on in place, it would for a moment say less
    /// than is known, and what a last index has not reached counts as never acknowledged.
    fn write_index(&self, number: u64, records: &[IndexRecord]) -> Result<(), StoreError> {
        let mut bytes = Vec::with_capacity(INDEX_RECORD_LEN * records.len());
        for record in records {
            record.encode(&mut bytes, self.recovery.crc);
        }
        self.put_whole(&slice_index_name(number), &bytes)
    }

    /// Puts a new file in the place of `name`: its header, and `records`.
    fn put_whole(&self, name: &[u8], records: &[u8]) -> Result<(), StoreError> {
        let fence = self.place()?.fence;
        let mut fresh = Replacement::write(self.spare()?, self.recovery.root_path, records)?;
        if let Err(error) = fresh.sync() {
            fresh.discard(self.root);
            return Err(error);
        }
        fence.check()?;
        fresh.put(self.root, Some(self.folder), name, fence)?;
        self.folder.sync().map_err(|source| io_error(Action::Sync, &self.path, source))
    }
}

/// The slice that these index records describe.
pub(super) fn slice_of(number: u64, records: &[IndexRecord], data_len: u64) -> Slice {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Slice { number, data_len, ..Slice::default() };
    };
    let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
    let sizes: u64 = records.iter().map(|record| u64::from(record.size)).sum();
    Slice {
        number,
        first: first.sequence,
        last: last.sequence,
        record_count: count,
        removed_count: 0,
        bytes: sizes + MESSAGE_OVERHEAD * count,
        data_len,
        first_time: first.timestamp,
        last_time: last.timestamp,
    }
}
