//! A channel's messages over several files, with their index: what is where, and what must go.
//!
//! Nothing here reads or writes. `Messages` says what to append ([`Messages::stage`]) and how many
//! of the oldest must go; whoever owns the files does it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::base::channel_limits::ChannelLimits;
use crate::base::id::Sequence;
use crate::base::planted::{self, Bug};
use crate::base::record::{ChannelState, MessageRecord};
use crate::base::time::WallTime;
use crate::store::file::format::{
    Crc, FILE_HEADER_LEN, INDEX_RECORD_LEN, IndexRecord, MESSAGE_OVERHEAD, RECORD_HEADER_LEN,
    encode_plain, index_offset,
};
use crate::store::file::options::FileOptions;

/// When a slice is full; 0 = never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SliceLimits {
    /// Messages in it, removed ones included.
    pub messages_max: u64,
    /// Bytes of it, index and removed messages included.
    pub bytes_max: u64,
    /// Time from its first message.
    pub age_max: Duration,
}

impl SliceLimits {
    /// From the options; if they set none, a quarter of the channel's limits (spec stores, 5.8).
    #[must_use]
    pub fn new(options: &FileOptions, limits: &ChannelLimits) -> Self {
        let given = Self {
            messages_max: u64::try_from(options.slice_messages_max).unwrap_or(0),
            bytes_max: u64::try_from(options.slice_bytes_max).unwrap_or(0),
            age_max: options.slice_age_max,
        };
        if given != Self::default() {
            return given;
        }
        let quarter = |limit: u64| if limit == 0 { 0 } else { (limit / 4).max(1) };
        Self {
            messages_max: quarter(limits.messages_max),
            bytes_max: quarter(limits.bytes_max),
            age_max: if limits.age_max.is_zero() {
                Duration::ZERO
            } else {
                (limits.age_max / 4).max(Duration::from_secs(1))
            },
        }
    }
}

/// One data file and its index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The number in its file names.
    pub number: u64,
    /// Sequence of its first record, removed or not.
    pub first: u64,
    /// Sequence of its last record.
    pub last: u64,
    /// Records in its index, removed ones included.
    pub record_count: u64,
    /// How many of the first of them were removed.
    pub removed_count: u64,
    /// Accounted bytes of all its records, removed ones included.
    pub bytes: u64,
    /// Length of the data file.
    pub data_len: u64,
    /// Timestamp of its first record.
    pub first_time: i64,
    /// Timestamp of its last record.
    pub last_time: i64,
}

impl Slice {
    /// Length of the index file.
    #[must_use]
    pub fn index_len(&self) -> u64 {
        index_offset(self.record_count)
    }

    /// Whether each sequence from its first to its last has a record.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.record_count == 0 || self.last - self.first + 1 == self.record_count
    }

    /// Whether something lies between its records, or before them, that is no record.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        let index_bytes = self.index_len() - FILE_HEADER_LEN;
        FILE_HEADER_LEN + self.bytes != self.data_len + index_bytes
    }

    /// Messages in it that were not removed.
    #[must_use]
    pub fn live_count(&self) -> u64 {
        self.record_count - self.removed_count
    }

    fn is_full(&self, limits: &SliceLimits, at: i64) -> bool {
        let age = u64::try_from(at.saturating_sub(self.first_time)).unwrap_or(0);
        (limits.messages_max != 0 && limits.messages_max <= self.record_count)
            || (limits.bytes_max != 0 && limits.bytes_max <= self.bytes)
            || (!limits.age_max.is_zero() && limits.age_max <= Duration::from_nanos(age))
    }

    fn push(&mut self, record: &IndexRecord) {
        if self.record_count == 0 {
            self.first = record.sequence;
            self.first_time = record.timestamp;
        }
        self.last = record.sequence;
        self.last_time = record.timestamp;
        self.record_count += 1;
        self.bytes += u64::from(record.size) + MESSAGE_OVERHEAD;
        self.data_len = record.end();
    }
}

/// What to append to one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceWrite {
    /// The slice as it will be.
    pub slice: Slice,
    /// Whether its files have to be created.
    pub is_new: bool,
    /// Bytes for the data file.
    pub data: Vec<u8>,
    /// Bytes for the index file, after the data.
    pub index: Vec<u8>,
}

/// What an old slice still has on the disk, though a later one holds it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The number of the old slice; without other messages it is not among the slices.
    pub number: u64,
    /// Sequence of the first message that a later slice holds too.
    pub from: u64,
    /// Sequence of the last message in its files.
    pub last: u64,
    /// Timestamp of that one.
    pub last_time: i64,
    /// Whether the later slice is not proved to be durable.
    pub must_stay: bool,
}

/// A channel's messages.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// The slices that hold messages, in the order of their numbers.
    pub slices: VecDeque<Slice>,
    /// What is taken out of them and was not cut.
    pub overlaps: Vec<Overlap>,
    /// Numbers of slices that held nothing when they were found, and whose files are there.
    pub hollow: Vec<u64>,
    /// Numbers of slices of which a later one holds everything durably, and whose files are there.
    pub superseded: BTreeSet<u64>,
    /// Highest slice number found in the folder.
    pub number_max: u64,
    /// Sequence of the oldest message kept; `last` + 1 if none is.
    pub first: u64,
    /// Highest sequence ever stored.
    pub last: u64,
    /// Messages kept.
    pub message_count: u64,
    /// Their accounted bytes.
    pub byte_count: u64,
    /// Timestamp of the newest message ever stored that is known.
    pub last_time: i64,
    /// Index records of the oldest messages kept, as far as they were read.
    pub head: VecDeque<IndexRecord>,
    /// Whether the operator was told that the channel drops messages.
    pub is_limit_reported: bool,
}

impl Messages {
    /// From recovered slices, in the order of their numbers; empty ones count only by number.
    #[must_use]
    pub fn new(slices: VecDeque<Slice>, number_max: u64) -> Self {
        let mut messages = Self { number_max, ..Self::default() };
        for slice in &slices {
            let is_first = messages.last == 0;
            messages.first = if is_first { slice.first } else { messages.first.min(slice.first) };
            if messages.last <= slice.last {
                messages.last = slice.last;
                messages.last_time = slice.last_time;
            }
            messages.message_count += slice.record_count;
            messages.byte_count += slice.bytes;
        }
        messages.slices = slices;
        messages
    }

    /// As the engine sees it.
    #[must_use]
    pub fn state(&self) -> ChannelState {
        ChannelState {
            first: Sequence(self.first),
            last: Sequence(self.last),
            message_count: self.message_count,
            byte_count: self.byte_count,
        }
    }

    /// What to write for `records`, which continue the channel. A new slice gets `number_step` more
    /// than the highest number.
    ///
    /// # Panics
    /// If a record does not continue the one before it: what is passed over in silence would be
    /// acknowledged and not there.
    #[must_use]
    pub fn stage(&self, records: &[MessageRecord], rules: &StageRules<'_>) -> Vec<SliceWrite> {
        let data_len = records.iter().map(|record| RECORD_HEADER_LEN + record.encoded.len()).sum();
        let mut staging = Staging {
            writes: Vec::new(),
            lens: (data_len, records.len() * INDEX_RECORD_LEN),
            number_max: self.number_max,
            number_step: rules.number_step,
            rules,
        };
        if let (Some(slice), false) = (self.slices.back(), rules.must_begin_slice) {
            staging.writes.push(SliceWrite {
                slice: slice.clone(),
                is_new: false,
                data: Vec::new(),
                index: Vec::new(),
            });
        }
        let mut last = self.last;
        for record in records {
            let sequence = record.sequence.get();
            let continues =
                last == 0 || sequence == last + 1 || planted::is(Bug::SequencePassedOver);
            assert!(continues, "message {sequence} behind {last}");
            staging.roll(record.timestamp.0);
            staging.append(sequence, record.timestamp.0, &record.encoded);
            last = sequence;
        }
        staging.writes.retain(|write| !write.data.is_empty());
        staging.writes
    }

    /// Takes over what was written.
    pub fn apply(&mut self, writes: Vec<SliceWrite>) {
        for write in writes {
            let slice = write.slice;
            let (count_before, bytes_before) = match self.slices.back() {
                Some(back) if back.number == slice.number => (back.record_count, back.bytes),
                _ => (0, 0),
            };
            self.message_count += slice.record_count - count_before;
            self.byte_count += slice.bytes - bytes_before;
            if self.first == 0 {
                self.first = slice.first;
            }
            self.last = slice.last;
            self.last_time = self.last_time.max(slice.last_time);
            self.number_max = self.number_max.max(slice.number);
            if write.is_new {
                self.slices.push_back(slice);
            } else if let Some(back) = self.slices.back_mut() {
                *back = slice;
            }
        }
    }

    /// Bytes of the slices that reach to `sequence` or behind it.
    #[must_use]
    pub fn bytes_from(&self, sequence: u64) -> u64 {
        let slices = self.slices.iter().filter(|slice| sequence <= slice.last);
        slices.map(|slice| slice.bytes).sum()
    }

    /// Whether an old slice holds what no later one is proved to hold.
    #[must_use]
    pub fn has_kept_overlap(&self) -> bool {
        self.overlaps.iter().any(|old| old.must_stay)
    }

    /// Whether the oldest message must go because of count or size.
    #[must_use]
    pub fn is_over(&self, limits: &ChannelLimits) -> bool {
        1 < self.message_count
            && ((limits.messages_max != 0 && limits.messages_max < self.message_count)
                || (limits.bytes_max != 0 && limits.bytes_max < self.byte_count))
    }

    /// Whether the oldest message, with this timestamp, is too old at `now`.
    #[must_use]
    pub fn is_expired(&self, limits: &ChannelLimits, timestamp: i64, now: WallTime) -> bool {
        self.message_count != 0
            && !limits.age_max.is_zero()
            && WallTime(timestamp) + limits.age_max <= now
    }

    /// Timestamp of the oldest message kept, if that is known without its index record.
    #[must_use]
    pub fn oldest_time(&self) -> Option<i64> {
        let of_slice = || {
            let slice = self.slices.iter().find(|slice| slice.live_count() != 0)?;
            (slice.removed_count == 0).then_some(slice.first_time)
        };
        self.head.front().map(|record| record.timestamp).or_else(of_slice)
    }

    /// Takes the message that `record` describes, the oldest, out of the accounts.
    pub fn remove_first(&mut self, record: &IndexRecord) {
        let front = self.slices.iter_mut().find(|slice| slice.live_count() != 0);
        let Some(slice) = front else {
            unreachable!("a message that is counted lies in a slice");
        };
        slice.removed_count += 1;
        self.message_count -= 1;
        self.byte_count = self.byte_count.saturating_sub(u64::from(record.size) + MESSAGE_OVERHEAD);
        self.first = record.sequence + 1;
        if slice.live_count() == 0 {
            let mut rest = self.slices.iter().filter(|slice| slice.live_count() != 0);
            // Of what was damaged, the size was not known.
            self.byte_count = rest.clone().map(|slice| slice.bytes).sum();
            self.first = rest.next().map_or(self.last + 1, |slice| slice.first);
        }
    }

    /// Takes out of the accounts the oldest slices that hold nothing from `floor` on. Nothing of
    /// them is read: however much an operator lets go of, commits do not wait for it.
    pub fn remove_slices_below(&mut self, floor: u64) {
        let live = self.slices.iter_mut().filter(|slice| slice.live_count() != 0);
        let mut is_any_gone = false;
        for slice in live.take_while(|slice| slice.last < floor) {
            self.message_count -= slice.live_count();
            slice.removed_count = slice.record_count;
            is_any_gone = true;
        }
        if is_any_gone {
            let mut rest = self.slices.iter().filter(|slice| slice.live_count() != 0);
            self.byte_count = rest.clone().map(|slice| slice.bytes).sum();
            self.first = rest.next().map_or(self.last + 1, |slice| slice.first);
            let first = self.first;
            self.head.retain(|record| first <= record.sequence);
        }
    }

    /// The oldest slices without any message left, as long as another one follows. They stay until
    /// their files are gone.
    #[must_use]
    pub fn dead_slices(&self) -> Vec<Slice> {
        let older = self.slices.len().saturating_sub(1);
        let slices = self.slices.iter().take(older);
        slices.take_while(|slice| slice.live_count() == 0).cloned().collect()
    }

    /// Slices that held nothing and are not the newest. A former active may write to them late, and
    /// the limits may let go of what supersedes that: so their files go first.
    pub fn hollow_slices(&self) -> impl Iterator<Item = u64> {
        let newest = self.slices.back().map_or(0, |slice| slice.number);
        self.hollow.iter().copied().filter(move |number| *number < newest)
    }

    /// The slice that holds `sequence`, or else the first that begins after it. Where two hold
    /// it, the later one is right.
    #[must_use]
    pub fn slice_at(&self, sequence: u64) -> Option<&Slice> {
        let holds = |slice: &&Slice| {
            slice.first <= sequence && sequence <= slice.last && slice.record_count != 0
        };
        self.slices
            .iter()
            .rev()
            .find(holds)
            .or_else(|| self.slices.iter().find(|slice| sequence < slice.first))
    }
}

/// How many messages there are, as the accounts count.
#[must_use]
pub fn count(records: &[MessageRecord]) -> u64 {
    u64::try_from(records.len()).unwrap_or(u64::MAX)
}

/// By what rules records are laid into slices.
#[derive(Clone, Copy, Debug)]
pub struct StageRules<'a> {
    /// When a slice is full.
    pub limits: SliceLimits,
    /// Whether the last slice may not be continued.
    pub must_begin_slice: bool,
    /// What the first new slice's number is above the highest one.
    pub number_step: u64,
    /// The checksum.
    pub crc: &'a Crc,
}

struct Staging<'a> {
    writes: Vec<SliceWrite>,
    /// Bytes of data and index for all records.
    lens: (usize, usize),
    number_max: u64,
    number_step: u64,
    rules: &'a StageRules<'a>,
}

impl Staging<'_> {
    /// Begins a slice if the last one is full.
    fn roll(&mut self, at: i64) {
        let is_full =
            self.writes.last().is_some_and(|write| write.slice.is_full(&self.rules.limits, at));
        if is_full {
            self.begin_slice();
        }
    }

    fn begin_slice(&mut self) {
        self.number_max += self.number_step;
        self.number_step = 1;
        self.writes.push(SliceWrite {
            slice: Slice { number: self.number_max, data_len: FILE_HEADER_LEN, ..Slice::default() },
            is_new: true,
            data: Vec::new(),
            index: Vec::new(),
        });
    }

    fn append(&mut self, sequence: u64, timestamp: i64, payload: &[u8]) {
        if self.writes.is_empty() {
            self.begin_slice();
        }
        let is_first = self.writes.len() == 1;
        let Some(write) = self.writes.last_mut() else {
            unreachable!("a slice was just begun");
        };
        if is_first && write.data.is_empty() {
            // Most batches go to one slice.
            write.data.reserve_exact(self.lens.0);
            write.index.reserve_exact(self.lens.1);
        }
        let record = IndexRecord {
            sequence,
            offset: write.slice.data_len,
            timestamp,
            size: u32::try_from(payload.len()).expect("a message is bounded by max_payload"),
        };
        encode_plain(&mut write.data, payload, self.rules.crc);
        record.encode(&mut write.index, self.rules.crc);
        write.slice.push(&record);
    }
}
