//! Which messages a predecessor may have written and not synced: the newest of the whole store.
//!
//! Its workers kept a bound on them (`base/limits.rs`), so as many of the newest messages over all
//! channels contain them, however long a sync stalled. What was there when a former epoch had
//! opened the store is durable since then; a small file under the root says up to when that was.

use std::collections::BinaryHeap;

use crate::base::limits::{UNSYNCED_BYTES_MAX, UNSYNCED_MESSAGES_MAX, unsynced_share};
use crate::store::StoreError;
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, refusal};
use crate::store::file::disk::Folder;
use crate::store::file::format::{FILE_HEADER_LEN, IndexRecord, MESSAGE_OVERHEAD};
use crate::store::file::opening::Recovered;
use crate::store::file::settled::Settled;
use crate::store::file::slices::Slice;

/// Index records read at once.
const READ_COUNT: u64 = 256;

/// The sequence from which on each channel may not be synced, of those at `candidates`.
///
/// # Errors
/// [`StoreError`].
pub fn unsynced(
    (ctx, root): (&Context, &dyn Folder),
    settled: Settled,
    channels: &mut [Recovered],
    candidates: &[usize],
) -> Result<Vec<Option<u64>>, StoreError> {
    let mut froms = vec![None; channels.len()];
    let mut tails: Vec<Tail> = Vec::new();
    tails.resize_with(channels.len(), Tail::default);
    let times = candidates.iter().map(|&at| (channels[at].channel.messages.last_time, at));
    let mut newest: BinaryHeap<(i64, usize)> = times.collect();
    let weight_max = unsynced_share(UNSYNCED_BYTES_MAX, settled.loops());
    let (mut count, mut bytes) = (0, 0);
    while let Some((time, at)) = newest.pop() {
        if UNSYNCED_MESSAGES_MAX <= count || UNSYNCED_BYTES_MAX <= bytes {
            break;
        }
        let (tail, channel) = (&mut tails[at], &mut channels[at].channel);
        let Some(record) = tail.newest(ctx, root, channel)? else { continue };
        if record.timestamp < settled.since() {
            continue;
        }
        if record.timestamp < time {
            newest.push((record.timestamp, at));
            continue;
        }
        tail.records.pop();
        froms[at] = Some(record.sequence);
        count += 1;
        bytes += usize::try_from(record.size).unwrap_or(usize::MAX).min(weight_max);
        // Its next one is at most as new.
        newest.push((time, at));
    }
    Ok(froms)
}

/// A channel's index from its end on.
#[derive(Default)]
struct Tail {
    records: Vec<IndexRecord>,
    /// Which slice from the back, and where in it reading goes on.
    slice: usize,
    end: Option<u64>,
}

impl Tail {
    /// The newest record that was not taken yet.
    fn newest(
        &mut self,
        ctx: &Context,
        root: &dyn Folder,
        channel: &mut Channel,
    ) -> Result<Option<IndexRecord>, StoreError> {
        while self.records.is_empty() {
            let Some(slice) = channel.messages.slices.iter().rev().nth(self.slice).cloned() else {
                return Ok(None);
            };
            let end = self.end.unwrap_or(slice.record_count);
            if end <= slice.removed_count {
                self.slice += 1;
                self.end = None;
                continue;
            }
            if let (Some(record), 1) = (only_record(&slice), end) {
                (self.records, self.end) = (vec![record], Some(0));
                continue;
            }
            let start = end.saturating_sub(READ_COUNT).max(slice.removed_count);
            let files = channel.read_slice(ctx, root, &slice)?;
            let read = files.with(ctx, |files| files.index_records(start, end - start));
            channel.close_files();
            match read {
                Ok(records) => self.records = records,
                // Damage: nothing behind it is written anew.
                Err(error) => {
                    refusal(error)?;
                    return Ok(None);
                }
            }
            self.end = Some(start);
        }
        Ok(self.records.last().copied())
    }
}

/// Of a slice with a single message everything is known; where it lies nobody asks.
fn only_record(slice: &Slice) -> Option<IndexRecord> {
    let size = u32::try_from(slice.bytes.checked_sub(MESSAGE_OVERHEAD)?).ok()?;
    let (sequence, timestamp) = (slice.last, slice.last_time);
    let record = IndexRecord { sequence, offset: FILE_HEADER_LEN, timestamp, size };
    (slice.record_count == 1).then_some(record)
}
