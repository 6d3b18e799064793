//! What the slices of a channel prove together: which of them count, and where its messages end.
//!
//! One rule holds for all of them: what no sync has covered ends at its first gap. Blocks reach the
//! disk in any order, and a sync that fails may have written any of them, so a power failure can
//! leave later messages and take earlier ones; the blocks that are missing read as zeros. A sync
//! covers all of a slice: behind such a hole it holds nothing that anybody was told of. Damage of
//! any other kind may have acknowledged messages behind it, and ends nothing.
//!
//! Of two slices that hold a message the later one counts, from its first message on. One that
//! holds no more than the older ones, and less than it should, is a copy of them that was never in
//! use: all of a copy is synced before. Then the older ones count.
//!
//! What only the end of the newest slice holds is cut where its messages may not be durable, and
//! nowhere else: a Go server goes on behind a hole, and so does a store after a restored backup.
//! Neither has as little behind it as we leave without a sync, stamped so soon.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use crate::base::limits::{UNSYNCED_BYTES_MAX, UNSYNCED_MESSAGES_MAX};
use crate::store::StoreError;
use crate::store::file::context::refusal;
use crate::store::file::format::{FILE_HEADER_LEN, IndexRecord, slice_data_name, slice_index_name};
use crate::store::file::log::read_range;
use crate::store::file::reading::SliceFiles;
use crate::store::file::recovery::ChannelReader;
use crate::store::file::repair::{is_unwritten, rest_of_sector};
use crate::store::file::slices::Slice;

/// Messages that were under way when the power went are stamped within that time; nobody starts
/// a machine and another server on it so soon.
const UNDER_WAY_MAX: i64 = 30_000_000_000;

/// When each message was stamped, and its size, by sequence: two that agree in this are one.
type Stamps = BTreeMap<u64, (i64, u32)>;

/// What the files of one slice prove of the messages in a range.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    number: u64,
    first: u64,
    last: u64,
    /// Whole messages without a hole before them.
    counted: Stamps,
    hole: Option<Hole>,
    /// Whether anything in it is no message, for whatever reason.
    is_damaged: bool,
}

/// Where a power failure has taken messages of a slice.
#[derive(Debug)]
pub(super) struct Hole {
    /// How many messages of the slice lie before it.
    pub(super) ordinal: u64,
    /// One that is missing.
    pub(super) sequence: u64,
    pub(super) begin: u64,
    /// The first sequence that the index has at it, or behind it.
    next: u64,
    /// Whole messages behind it.
    behind: Stamps,
    /// Whether all of that may have been written without a sync.
    is_of_one_batch: bool,
}

/// What becomes of a slice.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It goes: a copy that was never in use.
    GivenUp,
    /// It ends there.
    Cut(Hole),
}

/// The messages that count of slices in the order of their numbers.
pub(super) fn run(slices: &[Evidence]) -> Stamps {
    let mut run = Stamps::new();
    for slice in slices.iter().filter(|slice| !slice.counted.is_empty()) {
        let end = run.keys().next_back().copied().unwrap_or(0);
        let is_less = slice.hole.is_some() || slice.last < end;
        if is_less && slice.counted.iter().all(|(at, stamp)| run.get(at) == Some(stamp)) {
            continue;
        }
        run.split_off(slice.counted.keys().next().unwrap_or(&0));
        run.extend(&slice.counted);
    }
    run
}

/// What becomes of slices, in the order in which it has to be done. From `doubt` on, messages may
/// not be durable; `is_settled`: whoever wrote them has let go with everything synced.
pub(super) fn judge(
    mut slices: Vec<Evidence>,
    doubt: Option<u64>,
    is_settled: bool,
) -> Vec<(u64, Verdict)> {
    let mut verdicts = Vec::new();
    loop {
        let places = (0..slices.len()).rev();
        let is_idle =
            |place: &usize| slices[*place].is_idle_copy(&run(&slices[..*place]), is_settled);
        let found = places.clone().find(is_idle);
        if let Some(place) = found {
            verdicts.push((slices.remove(place).number, Verdict::GivenUp));
            continue;
        }
        let newest = slices.last_mut().filter(|slice| slice.may_be_cut(doubt));
        let Some((newest, hole)) =
            newest.and_then(|slice| slice.hole.take().map(|hole| (slice, hole)))
        else {
            return verdicts;
        };
        newest.last = newest.counted.keys().next_back().copied().unwrap_or(0);
        verdicts.push((newest.number, Verdict::Cut(hole)));
        if newest.counted.is_empty() {
            slices.pop();
        }
    }
}

impl Evidence {
    /// Whether it is what a crash has left of a copy of the older ones, of which `run` counts, or
    /// what a former active has made too late, before it was in use.
    fn is_idle_copy(&self, run: &Stamps, is_settled: bool) -> bool {
        let behind = self.hole.iter().flat_map(|hole| &hole.behind);
        let all: Stamps =
            self.counted.iter().chain(behind).map(|(at, stamp)| (*at, *stamp)).collect();
        if all.iter().any(|(at, stamp)| run.get(at).is_some_and(|older| older != stamp)) {
            return false;
        }
        let is_held = all.keys().all(|at| run.contains_key(at));
        // What it alone has behind such a hole is what a power failure has left, or it is damaged
        // and may have been acknowledged: nobody cuts as much, nor behind a clean end.
        let is_torn = |hole: &Hole| is_held || (!is_settled && hole.is_of_one_batch);
        let fills = |hole: &Hole| run.contains_key(&hole.sequence);
        if self.hole.as_ref().is_some_and(|hole| fills(hole) && is_torn(hole)) {
            return true;
        }
        if !is_held {
            return false;
        }
        let end = run.keys().next_back().copied().unwrap_or(0);
        let lacks = |(at, _)| !all.contains_key(at);
        let is_less =
            self.last < end || self.is_damaged || run.range(self.first..=self.last).any(lacks);
        self.last <= end && is_less
    }

    fn may_be_cut(&self, doubt: Option<u64>) -> bool {
        let is_doubtful = |hole: &Hole| doubt.is_some_and(|from| from <= hole.next);
        self.hole.as_ref().is_some_and(|hole| hole.is_of_one_batch && is_doubtful(hole))
    }
}

impl ChannelReader<'_> {
    /// Removes, or cuts, what does not count of the slices that were found.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn settle(&mut self, found: &mut VecDeque<Slice>) -> Result<(), StoreError> {
        let doubt = self.recovery.doubt;
        let range = match (overlap_of(found), doubt) {
            (None, None) => return Ok(()),
            (Some(overlap), None) => overlap,
            (overlap, Some(from)) => overlap.map_or(from, |one| from.min(*one.start()))..=u64::MAX,
        };
        let evidence = match self.evidence(found.iter(), &range) {
            // What cannot be read stays as it is.
            Err(error) if doubt.is_some() => return refusal(error).map(drop),
            evidence => evidence?,
        };
        for (number, verdict) in judge(evidence, doubt, self.recovery.is_settled) {
            let Some(place) = found.iter().position(|slice| slice.number == number) else {
                continue;
            };
            let Some(slice) = found.remove(place) else { continue };
            match verdict {
                Verdict::GivenUp => self.give_up(number)?,
                Verdict::Cut(hole) => {
                    let slice = self.cut_at(&slice, &hole)?;
                    if slice.record_count != 0 {
                        found.insert(place, slice);
                    }
                }
            }
        }
        Ok(())
    }

    /// What slices prove of the messages in a range. Those that do not reach to it prove nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn evidence<'s>(
        &self,
        slices: impl Iterator<Item = &'s Slice>,
        range: &RangeInclusive<u64>,
    ) -> Result<Vec<Evidence>, StoreError> {
        let (begin, end) = (range.start().saturating_sub(1), range.end().saturating_add(1));
        let near = slices.filter(|slice| slice.first <= end && begin <= slice.last);
        near.map(|slice| self.evidence_of(slice, range)).collect()
    }

    fn evidence_of(
        &self,
        slice: &Slice,
        range: &RangeInclusive<u64>,
    ) -> Result<Evidence, StoreError> {
        let (name, index_name) = (slice_data_name(slice.number), slice_index_name(slice.number));
        let (data, index) = (self.open(&name)?, self.open(&index_name)?);
        let path = self.file_path(&name);
        let files =
            SliceFiles { data: data.as_ref(), index: index.as_ref(), path: &path, crc: None };
        // One more on either side: what lies outside of the range is known to be whole.
        let start = files.ordinal_of(slice, *range.start())?.saturating_sub(1);
        let end = files.ordinal_of(slice, range.end().saturating_add(1))?;
        let records = files.index_records(start, (end + 1).min(slice.record_count) - start)?;
        let is_whole = |record: &IndexRecord| {
            let is_sure = !range.contains(&record.sequence);
            Ok(is_sure || self.is_proved(data.as_ref(), slice.data_len, record, &path)?)
        };
        let wholes = records.iter().map(is_whole).collect::<Result<Vec<bool>, StoreError>>()?;
        let mut found = Evidence {
            number: slice.number,
            first: slice.first,
            last: slice.last,
            is_damaged: slice.has_damage() || wholes.contains(&false),
            ..Evidence::default()
        };
        let stamp = |record: &IndexRecord| (record.sequence, (record.timestamp, record.size));
        let nexts = next_wholes(&wholes);
        let (mut end, mut expected, mut looked_to) = (FILE_HEADER_LEN, None, None);
        for (place, (record, is_whole)) in records.iter().zip(&wholes).enumerate() {
            let ordinal = start + u64::try_from(place).unwrap_or(u64::MAX);
            let is_front = ordinal == 0 && range.contains(&record.sequence);
            let is_next = expected.is_none_or(|expected| expected == record.sequence);
            let lacks_front = is_front && *is_whole && end < record.offset;
            if !is_whole || !is_next || lacks_front {
                let begin = if is_next && !is_front { record.offset } else { end };
                let next = nexts[place].and_then(|next| records.get(next));
                let hole_end = next.map_or(slice.data_len, |next| next.offset);
                // Of a row of damage that was looked at to its end, the first sector is new.
                let is_known = looked_to.replace(hole_end) == Some(hole_end);
                let len = usize::try_from(hole_end.saturating_sub(begin)).unwrap_or(usize::MAX);
                let begin_at = usize::try_from(begin).unwrap_or(0);
                let len = if is_known { len.min(rest_of_sector(begin_at)) } else { len };
                let bytes = read_range(data.as_ref(), begin, len, &path)?;
                if is_unwritten(&bytes, begin_at) {
                    let behind = records.iter().zip(&wholes).skip(place);
                    let behind = behind.filter(|(_, whole)| **whole);
                    let before = place.checked_sub(1).and_then(|place| records.get(place));
                    let missing = if lacks_front { record.sequence - 1 } else { record.sequence };
                    found.hole = Some(Hole {
                        ordinal,
                        sequence: expected.unwrap_or(missing),
                        begin,
                        next: record.sequence,
                        behind: behind.map(|(record, _)| stamp(record)).collect(),
                        is_of_one_batch: is_of_one_batch(before, &records[place..]),
                    });
                    break;
                }
            }
            found.counted.extend(is_whole.then(|| stamp(record)));
            (end, expected) = (record.end(), Some(record.sequence + 1));
        }
        Ok(found)
    }
}

/// From each place on, the first that is whole.
fn next_wholes(wholes: &[bool]) -> Vec<Option<usize>> {
    let mut nexts = vec![None; wholes.len()];
    let mut next = None;
    for (place, is_whole) in wholes.iter().enumerate().rev() {
        next = is_whole.then_some(place).or(next);
        nexts[place] = next;
    }
    nexts
}

/// The sequences that several slices hold.
fn overlap_of(slices: &VecDeque<Slice>) -> Option<RangeInclusive<u64>> {
    let mut overlap: Option<RangeInclusive<u64>> = None;
    let mut end = 0;
    for slice in slices {
        if slice.first <= end {
            let first = overlap.map_or(slice.first, |one| slice.first.min(*one.start()));
            overlap = Some(first..=end);
        }
        end = end.max(slice.last);
    }
    overlap
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A slice with these messages, all stamped by `writer`, and a hole in front of those behind.
    fn slice(number: u64, writer: i64, counted: &[u64], hole: Option<(u64, &[u64])>) -> Evidence {
        let stamps = |of: &[u64]| of.iter().map(|at| (*at, (writer, 100))).collect();
        let ends = counted.iter().chain(hole.iter().flat_map(|(_, behind)| *behind));
        Evidence {
            number,
            first: ends.clone().min().copied().unwrap_or(0),
            last: ends.max().copied().unwrap_or(0),
            counted: stamps(counted),
            is_damaged: hole.is_some(),
            hole: hole.map(|(sequence, behind)| Hole {
                ordinal: u64::try_from(counted.len()).unwrap_or(0),
                sequence,
                begin: FILE_HEADER_LEN,
                next: sequence,
                behind: stamps(behind),
                is_of_one_batch: true,
            }),
        }
    }

    fn check(slices: Vec<Evidence>, doubt: Option<u64>, expected: &[(u64, &str)]) {
        let what = format!("{slices:?} {doubt:?}");
        let verdicts = judge(slices, doubt, false);
        let names = verdicts.iter().map(|(number, verdict)| match verdict {
            Verdict::GivenUp => (*number, "goes"),
            Verdict::Cut(_) => (*number, "cut"),
        });
        assert_eq!(names.collect::<Vec<_>>(), expected, "{what}");
    }

    /// Goal: the newest slice ends at its first hole, where it may not be durable, and only there.
    #[test]
    fn what_no_sync_has_covered_ends_at_its_first_gap() {
        let one = || vec![slice(1, 1, &[1, 2, 3], Some((4, &[5, 6])))];
        check(one(), None, &[]);
        check(one(), Some(5), &[]);
        check(one(), Some(4), &[(1, "cut")]);
        let mut much = one();
        much[0].hole.iter_mut().for_each(|hole| hole.is_of_one_batch = false);
        check(much, Some(1), &[]);
        // Behind it another one was begun: it was synced before.
        let continued = [one(), vec![slice(2, 1, &[7, 8], None)]];
        check(continued.into_iter().flatten().collect(), Some(1), &[]);
        // Several that have lost their fronts.
        let fronts = || vec![slice(1, 1, &[], Some((1, &[3]))), slice(9, 1, &[], Some((1, &[4])))];
        check(fronts(), None, &[]);
        check(fronts(), Some(1), &[(9, "cut"), (1, "cut")]);
    }

    /// Goal: a copy that was never in use takes nothing from what it was copied from; one that was
    /// in use gives way to nothing.
    #[test]
    fn of_a_copy_and_what_it_was_copied_from_the_one_that_was_in_use_counts() {
        let old = || slice(1, 1, &[1, 2, 3, 4], None);
        for (copy, expected) in [
            // Whole, and written on.
            (slice(9, 1, &[3, 4], None), &[][..]),
            (slice(9, 1, &[3, 4, 5], None), &[]),
            // It ends before, has lost its midst, or all.
            (slice(9, 1, &[2, 3], None), &[(9, "goes")]),
            (slice(9, 1, &[2], Some((3, &[4]))), &[(9, "goes")]),
            (slice(9, 1, &[2], Some((3, &[5]))), &[(9, "goes")]),
            (slice(9, 1, &[], Some((2, &[3, 4]))), &[(9, "goes")]),
            // What the older one has, a former active has written later.
            (slice(9, 2, &[3], None), &[]),
            (slice(9, 2, &[3], Some((4, &[5]))), &[]),
        ] {
            check(vec![old(), copy], None, expected);
        }
        let in_use = slice(9, 2, &[3], Some((4, &[5])));
        check(vec![old(), in_use], Some(3), &[(9, "cut")]);
        // What nobody else has stays where all was synced, and where it is more than a batch.
        let damaged = || slice(9, 1, &[2], Some((3, &[5])));
        assert!(judge(vec![old(), damaged()], None, true).is_empty());
        let mut much = damaged();
        much.hole.iter_mut().for_each(|hole| hole.is_of_one_batch = false);
        check(vec![old(), much], None, &[]);
        // The older one has a hole itself: together they reach as far as the copy does.
        let torn = || slice(1, 1, &[1, 2], Some((3, &[4])));
        check(vec![torn(), slice(9, 1, &[2, 3], Some((4, &[5])))], Some(1), &[(9, "cut")]);
        let expected = [(9, "cut"), (9, "goes"), (1, "cut")];
        check(vec![torn(), slice(9, 1, &[2], Some((3, &[4])))], Some(1), &expected);
    }
}
