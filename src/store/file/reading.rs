//! Reads messages of one slice by its index; never by record lengths alone.
//!
//! The index is the authority for where a record lies: records that it does not name may lie
//! between those that it names (spec stores, section 0).

use std::path::Path;

use bytes::Bytes;

use crate::base::id::Sequence;
use crate::base::record::MessageRecord;
use crate::base::time::WallTime;
use crate::store::file::disk::DiskFile;
use crate::store::file::format::{
    Crc, Decoded, FILE_HEADER_LEN, Framing, INDEX_RECORD_LEN, IndexRecord, RECORD_HEADER_LEN,
    decode_record, index_offset, leading_sequence, message_place,
};
use crate::store::file::log::read_range;
use crate::store::file::slices::Slice;
use crate::store::{StoreError, file::unreadable};

/// Bytes before the payload of a record.
const HEADER_BYTES: u64 = RECORD_HEADER_LEN as u64;

/// The open files of a slice.
#[derive(Clone, Copy)]
pub struct SliceFiles<'a> {
    /// Its messages.
    pub data: &'a dyn DiskFile,
    /// Its index.
    pub index: &'a dyn DiskFile,
    /// The index file's path, for errors.
    pub path: &'a Path,
    /// The checksum to verify, if the options say so.
    pub crc: Option<&'a Crc>,
}

/// What is still wanted of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Messages.
    pub count: usize,
    /// Bytes; the first message is given whatever its size.
    pub bytes: usize,
}

impl SliceFiles<'_> {
    /// Up to `count` index records from the one with this number on.
    ///
    /// # Errors
    /// When the index cannot be read or is damaged.
    pub fn index_records(&self, ordinal: u64, count: u64) -> Result<Vec<IndexRecord>, StoreError> {
        let entries = self.index_entries(ordinal, count)?.into_iter();
        entries.map(|entry| entry.map_err(|error| unreadable(self.path, &error))).collect()
    }

    fn index_record(&self, ordinal: u64) -> Result<IndexRecord, StoreError> {
        let found = self.index_records(ordinal, 1)?;
        found.first().copied().ok_or_else(|| unreadable(self.path, &"unexpected EOF"))
    }

    /// Number of the first record for which `is_reached` holds; it holds for all behind it.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn partition(
        &self,
        slice: &Slice,
        is_reached: impl Fn(&IndexRecord) -> bool,
    ) -> Result<u64, StoreError> {
        let (mut low, mut high) = (slice.removed_count, slice.record_count);
        while low < high {
            let middle = low + (high - low) / 2;
            let record = match self.index_record(middle) {
                Err(error) if slice.is_dense() => {
                    let found = self.index_records_found(slice, middle, 1)?;
                    found.first().copied().ok_or(error)?
                }
                record => record?,
            };
            if is_reached(&record) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// Number of the first record at or after `sequence`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn ordinal_of(&self, slice: &Slice, sequence: u64) -> Result<u64, StoreError> {
        if slice.is_dense() {
            let ordinal = sequence.saturating_sub(slice.first);
            return Ok(ordinal.clamp(slice.removed_count, slice.record_count));
        }
        self.partition(slice, |record| sequence <= record.sequence)
    }

    /// Sequence of the first message at or after `at`; `None` if all are older.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find_time(&self, slice: &Slice, at: WallTime) -> Result<Option<u64>, StoreError> {
        let ordinal = self.partition(slice, |record| at.0 <= record.timestamp)?;
        if ordinal == slice.record_count {
            return Ok(None);
        }
        if slice.is_dense() {
            return Ok(Some(slice.first + ordinal));
        }
        Ok(Some(self.index_record(ordinal)?.sequence))
    }

    /// As [`SliceFiles::index_records`], of a slice in which no sequence is missing. A damaged one
    /// is looked for in the data, behind the one before, and left out where it is not found.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn index_records_found(
        &self,
        slice: &Slice,
        ordinal: u64,
        count: u64,
    ) -> Result<Vec<IndexRecord>, StoreError> {
        Ok(self.index_records_each(slice, ordinal, count)?.into_iter().flatten().collect())
    }

    /// The oldest messages that are not removed, of which `first` is the first: only what is known
    /// of them. One that is damaged in index and data stands there without a size and as old as the
    /// next one, so that the limits go on behind it.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn oldest_records(
        &self,
        slice: &Slice,
        first: u64,
        count: u64,
    ) -> Result<Vec<IndexRecord>, StoreError> {
        let found = match self.index_records(slice.removed_count, count) {
            Ok(records) => return Ok(records),
            Err(_) => self.index_records_each(slice, slice.removed_count, count)?,
        };
        let mut sequence = first;
        let mut records = Vec::with_capacity(found.len());
        for record in &found {
            let unknown = IndexRecord { sequence, offset: 0, timestamp: slice.last_time, size: 0 };
            records.push(record.unwrap_or(unknown));
            sequence = records.last().map_or(sequence, |record| record.sequence + 1);
        }
        let mut timestamp = slice.last_time;
        for (record, found) in records.iter_mut().zip(&found).rev() {
            timestamp = found.map_or(timestamp, |found| found.timestamp);
            record.timestamp = timestamp;
        }
        Ok(records)
    }

    /// What is found of each of these index records.
    fn index_records_each(
        &self,
        slice: &Slice,
        ordinal: u64,
        count: u64,
    ) -> Result<Vec<Option<IndexRecord>>, StoreError> {
        let mut records = Vec::new();
        // Where the next record begins, if that is known.
        let mut begin = match ordinal.checked_sub(1) {
            Some(before) => self.index_entries(before, 1)?.pop().and_then(Result::ok),
            None => None,
        }
        .map_or((ordinal == 0).then_some(FILE_HEADER_LEN), |record| Some(record.end()));
        let entries = self.index_entries(ordinal, count)?;
        for (sequence, entry) in (slice.first + ordinal..).zip(entries) {
            let found = match entry {
                Ok(record) => Some(record),
                Err(_) if !slice.is_dense() => None,
                Err(error) => {
                    let found = self.record_in_data(slice, sequence, begin)?;
                    log::error!(
                        "{}: message {sequence} is {}",
                        unreadable(self.path, &error),
                        if found.is_some() { "found in the data" } else { "passed over" }
                    );
                    found
                }
            };
            begin = found.map(|record| record.end());
            records.push(found);
        }
        Ok(records)
    }

    /// What the index has at these places, or what is wrong with that.
    fn index_entries(
        &self,
        ordinal: u64,
        count: u64,
    ) -> Result<Vec<Result<IndexRecord, String>>, StoreError> {
        let len = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(INDEX_RECORD_LEN);
        let bytes = read_range(self.index, index_offset(ordinal), len, self.path)?;
        let decoded = |chunk: &[u8]| {
            let chunk = chunk.first_chunk().expect("chunks_exact gives whole chunks");
            let record = IndexRecord::decode(chunk, self.crc).map_err(|error| error.to_string())?;
            record.ok_or_else(|| "index record of zeros".to_owned())
        };
        Ok(bytes.chunks_exact(INDEX_RECORD_LEN).map(decoded).collect())
    }

    /// What the index should say of a message that begins there; `None` if another one does.
    fn record_in_data(
        &self,
        slice: &Slice,
        sequence: u64,
        begin: Option<u64>,
    ) -> Result<Option<IndexRecord>, StoreError> {
        let Some(offset) = begin.filter(|begin| begin + HEADER_BYTES <= slice.data_len) else {
            return Ok(None);
        };
        let size = peek_size(&read_range(self.data, offset, RECORD_HEADER_LEN, self.path)?);
        let mut record = IndexRecord { sequence, offset, timestamp: 0, size };
        if slice.data_len < record.end() {
            return Ok(None);
        }
        let len = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(RECORD_HEADER_LEN);
        let bytes = Bytes::from(read_range(self.data, offset, len, self.path)?);
        let Ok(payload) = payload_at(&bytes, 0, &record, self.crc) else { return Ok(None) };
        let Ok((_, timestamp)) = message_place(&payload) else { return Ok(None) };
        record.timestamp = timestamp;
        Ok(Some(record))
    }

    /// Messages from `from` on, as far as the budget goes; gives where to go on. A damaged one is
    /// logged and passed over: behind it may lie others that were acknowledged.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn fetch(
        &self,
        slice: &Slice,
        from: u64,
        budget: &mut Budget,
        out: &mut Vec<MessageRecord>,
    ) -> Result<u64, StoreError> {
        let ordinal = self.ordinal_of(slice, from)?;
        let wanted = u64::try_from(budget.count).unwrap_or(u64::MAX);
        let count = (slice.record_count - ordinal).min(wanted);
        let records = match self.index_records(ordinal, count) {
            Err(_) if slice.is_dense() => self.index_records_found(slice, ordinal, count)?,
            records => records?,
        };
        let mut rest = records.as_slice();
        while let Some(run_len) = run_len(rest, budget) {
            let (run, behind) = rest.split_at(run_len);
            self.read_run(slice, run, budget, out)?;
            rest = behind;
        }
        let done = records.len() - rest.len();
        let is_all = rest.is_empty();
        let is_end = is_all && ordinal + count == slice.record_count;
        Ok(match records[..done].last() {
            // Those at its end may have been left out.
            _ if is_all && !is_end && slice.is_dense() => slice.first + ordinal + count,
            Some(last) if !is_end => last.sequence + 1,
            _ => slice.last + 1,
        })
    }

    /// Reads records that lie one behind the other, in one read.
    fn read_run(
        &self,
        slice: &Slice,
        run: &[IndexRecord],
        budget: &mut Budget,
        out: &mut Vec<MessageRecord>,
    ) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        if slice.data_len < last.end() {
            return Err(unreadable(self.path, &"an index record points behind the data"));
        }
        let len = usize::try_from(last.end() - first.offset).unwrap_or(usize::MAX);
        let bytes = Bytes::from(read_range(self.data, first.offset, len, self.path)?);
        for record in run {
            let start = usize::try_from(record.offset - first.offset).unwrap_or(usize::MAX);
            budget.count = budget.count.saturating_sub(1);
            let size = usize::try_from(record.size).unwrap_or(usize::MAX);
            budget.bytes = budget.bytes.saturating_sub(size + RECORD_HEADER_LEN);
            match payload_at(&bytes, start, record, self.crc) {
                Ok(encoded) => out.push(MessageRecord {
                    sequence: Sequence(record.sequence),
                    timestamp: WallTime(record.timestamp),
                    encoded,
                }),
                Err(reason) => log::error!(
                    "Error looking up message {} in {}: {reason}; it is passed over. Keep a copy \
                     of the channel (`cp -a {} COPY`), then stop the server and restore the data \
                     file from a backup",
                    record.sequence,
                    self.path.display(),
                    self.path.parent().unwrap_or(self.path).display(),
                ),
            }
        }
        Ok(())
    }
}

/// How many of the first records lie one behind the other and fit the budget; `None` if none.
fn run_len(records: &[IndexRecord], budget: &Budget) -> Option<usize> {
    let first = records.first()?;
    if budget.count == 0 || budget.bytes == 0 {
        return None;
    }
    let mut len = 1;
    for pair in records.windows(2) {
        let [one, next] = pair else { break };
        let bytes = usize::try_from(next.end().saturating_sub(first.offset)).unwrap_or(usize::MAX);
        if next.offset != one.end() || budget.bytes < bytes || budget.count <= len {
            break;
        }
        len += 1;
    }
    Some(len)
}

/// The payload of the record at `start`, if it is the one that the index means.
fn payload_at(
    bytes: &Bytes,
    start: usize,
    record: &IndexRecord,
    crc: Option<&Crc>,
) -> Result<Bytes, String> {
    let tail = bytes.get(start..).unwrap_or_default();
    let end =
        tail.len().min(usize::try_from(record.size).unwrap_or(usize::MAX) + RECORD_HEADER_LEN);
    match decode_record(&tail[..end], Framing::Plain, crc) {
        Ok(Decoded::Record { payload, .. }) => {
            let size = payload.len();
            if u32::try_from(size).ok() != Some(record.size) {
                return Err(format!("expected size to be {}, got {size}", record.size));
            }
            let found = match leading_sequence(payload) {
                Some(found) => found,
                None => message_place(payload).map_err(|error| error.to_string())?.0,
            };
            if found != record.sequence {
                return Err(format!("the record there is message {found}"));
            }
            Ok(bytes.slice(start + RECORD_HEADER_LEN..start + RECORD_HEADER_LEN + size))
        }
        Ok(Decoded::Zeros) => Err("end of file padded with zeros".to_owned()),
        Ok(Decoded::End | Decoded::Torn) => {
            Err(format!("expected size to be {}, got {}", record.size, peek_size(tail)))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn peek_size(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |size| u32::from_le_bytes(*size))
}
