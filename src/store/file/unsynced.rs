//! Which messages a predecessor may have written and not synced: the newest of the whole store.
//!
//! Its workers kept a bound on them (`base/limits.rs`), so as many of the newest messages over all
//! channels contain them, however long a sync stalled. What was there when a former epoch had
//! opened the store is durable since then; a small file under the root says up to when that was.

use std::collections::BinaryHeap;

use crate::base::limits::{LOOPS_MAX, UNSYNCED_BYTES_MAX, UNSYNCED_MESSAGES_MAX, unsynced_share};
use crate::store::StoreError;
use crate::store::file::channel::Channel;
use crate::store::file::context::{Context, refusal};
use crate::store::file::disk::{Access, Entry, Folder};
use crate::store::file::format::{IndexRecord, settled_epoch, settled_name};
use crate::store::file::log::read_range;
use crate::store::file::opening::Recovered;

/// Two messages of different channels may be stamped in another order than they were written in,
/// in nanoseconds.
const STAMPS_OVERLAP: i64 = 1_000_000_000;
/// Index records read at once.
const READ_COUNT: u64 = 256;
/// Bytes of the file that says what is durable.
const SETTLED_LEN_MAX: usize = 128;

/// What a former epoch had made durable before it served, and how many loops it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Timestamp of the newest message then.
    newest: i64,
    loops: u16,
}

impl Settled {
    /// Nothing is known to be durable.
    const NOTHING: Self = Self { newest: i64::MIN, loops: LOOPS_MAX };

    /// What the newest such file says. One that cannot be read says nothing.
    #[must_use]
    pub fn read(root: &dyn Folder, files: &[Entry]) -> Self {
        let names = files.iter().filter(|file| !file.is_folder).map(|file| &file.name);
        let newest = names.max_by_key(|name| settled_epoch(name));
        let Some(name) = newest.filter(|name| settled_epoch(name).is_some()) else {
            return Self::NOTHING;
        };
        let bytes = root.open(name, Access::Read).ok().and_then(|file| {
            read_range(file.as_ref(), 0, SETTLED_LEN_MAX, std::path::Path::new("")).ok()
        });
        bytes.and_then(|bytes| Self::parse(&bytes)).unwrap_or(Self::NOTHING)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix(" end\n")?;
        let (newest, loops) = text.strip_prefix("newest ")?.split_once(" loops ")?;
        Some(Self { newest: newest.parse().ok()?, loops: loops.parse().ok()? })
    }

    /// Says for the next epoch what is durable now. It only spares work: without room for it, the
    /// next one writes more anew.
    pub fn write(ctx: &Context, root: &dyn Folder, files: &[Entry], newest: i64, loops: u16) {
        let epoch = ctx.fence.epoch().0;
        let text = format!("newest {newest} loops {loops} end\n");
        let written = root
            .open(&settled_name(epoch), Access::CreateNew)
            .and_then(|file| file.append(text.as_bytes()));
        if written.is_err() {
            return;
        }
        let former = |name: &[u8]| settled_epoch(name).is_some_and(|found| found < epoch);
        for file in files.iter().filter(|file| former(&file.name)) {
            // If it stays, the newer one counts.
            let _ = root.unlink(&file.name);
        }
    }

    /// Whether messages of a channel may have been written after it.
    #[must_use]
    pub fn may_lack(&self, channel: &Channel) -> bool {
        channel.messages.message_count != 0 && self.since() <= channel.messages.last_time
    }

    /// Whether what was stamped then is durable, wherever it lies.
    #[must_use]
    pub fn has(&self, stamp: i64) -> bool {
        stamp < self.since()
    }

    fn since(&self) -> i64 {
        self.newest.saturating_sub(STAMPS_OVERLAP)
    }
}

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
    let weight_max = unsynced_share(UNSYNCED_BYTES_MAX, settled.loops);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_file_says_what_is_durable() {
        let whole = b"newest 17 loops 2 end\n";
        assert_eq!(Settled::parse(whole), Some(Settled { newest: 17, loops: 2 }));
        for len in 0..whole.len() {
            assert_eq!(Settled::parse(&whole[..len]), None, "{len}");
        }
    }
}
