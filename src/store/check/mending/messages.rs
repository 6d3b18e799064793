//! which messages a channel has, from all of its slices, and which ones it has had

use std::collections::{BTreeMap, BTreeSet};

/// A message of the channel, and where its record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub sequence: u64,
    pub timestamp: i64,
    /// Without the record's header.
    pub size: u32,
    /// Slice and offset; `None` for one that stands in for a lost one.
    pub lies: Option<(u64, u64)>,
}

/// The messages of a channel in their order, each with the slice that it belongs to.
#[derive(Debug, Default)]
pub(super) struct Course {
    pub entries: Vec<(u64, Entry)>,
    /// Those that a later slice, or a later record, has taken the place of.
    spare: BTreeMap<u64, Entry>,
    /// Messages that an index names, with their times.
    named: BTreeMap<u64, i64>,
}

impl Course {
    /// The next message that a slice holds. Of two with one sequence the later one counts: it was
    /// written by somebody who went on in front of the other.
    pub fn take(&mut self, slice: u64, entry: Entry) {
        while let Some((_, last)) = self.entries.pop_if(|(_, last)| entry.sequence <= last.sequence)
        {
            self.spare.insert(last.sequence, last);
        }
        self.entries.push((slice, entry));
    }

    /// An index says that there is a message.
    pub fn name(&mut self, sequence: u64, timestamp: i64) {
        self.named.insert(sequence, timestamp);
    }

    /// The last message that there is, or that an index names.
    pub fn last_named(&self) -> u64 {
        let known = self.entries.last().map_or(0, |(_, entry)| entry.sequence);
        self.named.last_key_value().map_or(known, |(sequence, _)| known.max(*sequence))
    }

    /// Messages that an index names, in front of the first one that there is.
    pub fn lost_in_front(&self) -> BTreeSet<u64> {
        let first = self.entries.first().map_or(0, |(_, entry)| entry.sequence);
        self.named.range(..first).map(|(sequence, _)| *sequence).collect()
    }

    /// How many messages are not there between the first one and `last`.
    pub fn missing(&self, last: u64) -> u64 {
        let first = self.entries.first().map_or(last, |(_, entry)| entry.sequence);
        let wanted = (last + 1).saturating_sub(first);
        wanted.saturating_sub(self.entries.len() as u64)
    }

    /// Puts something in each gap: what lies elsewhere, or an empty message. Gives the sequences
    /// of the empty ones.
    pub fn fill(&mut self, last: u64, slice_of_none: u64) -> BTreeSet<u64> {
        let mut made = BTreeSet::new();
        let held = std::mem::take(&mut self.entries);
        let mut before: Option<(u64, Entry)> = None;
        for (slice, entry) in held {
            if let Some((slice_before, entry_before)) = before {
                let missing = entry_before.sequence + 1..entry.sequence;
                let times = (entry_before.timestamp, entry.timestamp);
                self.put(missing, (slice_before, times), &mut made);
            }
            self.entries.push((slice, entry));
            before = Some((slice, entry));
        }
        match before {
            Some((slice, entry)) => {
                let times = (entry.timestamp, i64::MAX);
                self.put(entry.sequence + 1..last + 1, (slice, times), &mut made);
            }
            // One is enough for the channel not to begin again at 1.
            None if last != 0 => {
                self.put(last..last + 1, (slice_of_none, (0, i64::MAX)), &mut made)
            }
            None => (),
        }
        made
    }

    /// What is made up is no older than what is in front of it, and no younger than what is behind.
    fn put(
        &mut self,
        missing: std::ops::Range<u64>,
        (slice, (before, behind)): (u64, (i64, i64)),
        made: &mut BTreeSet<u64>,
    ) {
        let mut timestamp = before;
        for sequence in missing {
            let entry = self.spare.get(&sequence).copied().unwrap_or_else(|| {
                made.insert(sequence);
                let named = self.named.get(&sequence).copied().unwrap_or(timestamp);
                timestamp = named.min(behind).max(timestamp);
                Entry { sequence, timestamp, size: 0, lies: None }
            });
            timestamp = entry.timestamp;
            self.entries.push((slice, entry));
        }
    }
}

/// Sequences as people read them: `3, 7 to 9`.
pub(super) fn ranges(sequences: &BTreeSet<u64>) -> String {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for sequence in sequences {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == *sequence => *last = *sequence,
            _ => found.push((*sequence, *sequence)),
        }
    }
    let shown = found.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    });
    shown.collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, offset: u64) -> Entry {
        Entry { sequence, timestamp: 10, size: 1, lies: Some((1, offset)) }
    }

    fn course(taken: &[(u64, u64, u64)]) -> Course {
        let mut course = Course::default();
        for (slice, sequence, offset) in taken {
            course.take(*slice, entry(*sequence, *offset));
        }
        course
    }

    fn held(course: &Course) -> Vec<(u64, u64, bool)> {
        let shown = |(slice, entry): &(u64, Entry)| (*slice, entry.sequence, entry.lies.is_some());
        course.entries.iter().map(shown).collect()
    }

    /// Goal: a later slice counts, and what it lacks comes from an earlier one.
    #[test]
    fn a_gap_is_filled_from_another_slice_before_anything_is_made_up() {
        let mut course =
            course(&[(1, 1, 4), (1, 2, 5), (1, 3, 6), (1, 4, 7), (2, 2, 4), (2, 4, 6)]);
        assert_eq!(course.fill(5, 1), BTreeSet::from([5]));
        let wanted = [(1, 1, true), (2, 2, true), (2, 3, true), (2, 4, true), (2, 5, false)];
        assert_eq!(held(&course), wanted);
        assert_eq!(course.entries[2].1.lies, Some((1, 6)));
    }

    #[test]
    fn a_channel_that_has_lost_all_keeps_its_number() {
        let mut course = Course::default();
        course.name(7, 9);
        assert_eq!((course.last_named(), course.missing(7)), (7, 1));
        assert_eq!(course.fill(7, 4), BTreeSet::from([7]));
        assert_eq!(held(&course), [(4, 7, false)]);
        assert_eq!(course.entries[0].1.timestamp, 9);
        assert_eq!(Course::default().fill(0, 1), BTreeSet::new());
    }

    #[test]
    fn sequences_are_told_in_ranges() {
        assert_eq!(ranges(&BTreeSet::from([1, 3, 4, 5, 9])), "1, 3 to 5, 9");
        assert_eq!(ranges(&BTreeSet::new()), "");
    }
}
