//! Entries that the logs of more than one node have: by the rules of Raft those of one index and
//! one term are the same, and all before them are as well.

use std::collections::BTreeMap;

use crate::import::bolt::ReadAt;
use crate::import::raft_log::{LogError, RaftLog, RawEntry};

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Compared {
    /// The first entry that is not the same everywhere.
    pub difference: Option<Difference>,
    /// Logs that could not be read to their end, and why.
    pub unread: Vec<(usize, LogError)>,
}

/// An entry that is not the same in all logs that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its number.
    pub index: u64,
    /// Which logs have the same, the fewest first.
    pub alike: Vec<Vec<usize>>,
}

/// One log, entry after entry.
struct Reader<I> {
    entries: I,
    head: Option<RawEntry>,
    is_behind_gap: bool,
    error: Option<LogError>,
}

impl<I: Iterator<Item = Result<RawEntry, LogError>>> Reader<I> {
    fn advance(&mut self) {
        let before = self.head.take().map_or(0, |entry| entry.place.index);
        match self.entries.next() {
            Some(Ok(entry)) => {
                self.is_behind_gap = entry.place.index != before + 1;
                self.head = Some(entry);
            }
            Some(Err(error)) => self.error = Some(error),
            None => (),
        }
    }

    fn at(&self, index: u64) -> Option<&RawEntry> {
        self.head.as_ref().filter(|entry| entry.place.index == index)
    }
}

/// Compares all logs with each other, one entry of each at a time. One that cannot be read is
/// compared up to there.
#[must_use]
pub fn compare<S: ReadAt>(logs: &[&RaftLog<S>]) -> Compared {
    let mut compared = Compared::default();
    let mut readers = Vec::new();
    for (at, log) in logs.iter().enumerate() {
        match log.raw_entries_from(0) {
            Ok(entries) => {
                let (head, error) = (None, None);
                let mut reader = Reader { entries, head, is_behind_gap: false, error };
                reader.advance();
                readers.push((at, reader));
            }
            Err(error) => compared.unread.push((at, error)),
        }
    }
    // Pairs whose entries are of different terms, and from where on.
    let mut parted: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    let heads = |readers: &[(usize, Reader<_>)]| {
        readers.iter().filter_map(|(_, it)| it.head.as_ref().map(|head| head.place.index)).min()
    };
    while let Some(index) = heads(&readers)
        && compared.difference.is_none()
    {
        let here = readers.iter().filter_map(|(at, it)| Some((*at, it, it.at(index)?)));
        let here: Vec<_> = here.collect();
        for (nth, (one, reader, entry)) in here.iter().enumerate() {
            for (other, beside, found) in &here[nth + 1..] {
                if reader.is_behind_gap || beside.is_behind_gap {
                    parted.remove(&(*one, *other));
                }
                let since = parted.get(&(*one, *other)).copied();
                if entry.place.term != found.place.term {
                    parted.entry((*one, *other)).or_insert(index);
                } else if since.is_some() || !is_same((logs[*one], entry), (logs[*other], found)) {
                    let index = since.unwrap_or(index);
                    compared.difference = Some(Difference { index, alike: alike(logs, index) });
                }
            }
        }
        for (_, reader) in &mut readers {
            if reader.at(index).is_some() {
                reader.advance();
            }
        }
    }
    let errors = readers.into_iter().filter_map(|(at, reader)| Some((at, reader.error?)));
    compared.unread.extend(errors);
    compared
}

type Found<'a, S> = (&'a RaftLog<S>, &'a RawEntry);

/// Each node has encrypted its own, and has written the first members down by itself, in an order
/// of its own. What cannot be decrypted is for the one who reads it.
fn is_same<S: ReadAt>((log, one): Found<'_, S>, (beside, other): Found<'_, S>) -> bool {
    if one == other {
        return true;
    }
    if one.place != other.place || one.kind != other.kind {
        return false;
    }
    if let (Some(one), Some(other)) = (one.members(), other.members()) {
        return one == other;
    }
    match (log.plain(one), beside.plain(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => true,
    }
}

fn alike<S: ReadAt>(logs: &[&RaftLog<S>], index: u64) -> Vec<Vec<usize>> {
    let mut found: Vec<(Vec<usize>, RawEntry)> = Vec::new();
    for (at, log) in logs.iter().enumerate() {
        let entry = log.raw_entries_from(index).ok().and_then(|mut it| it.next()?.ok());
        let Some(entry) = entry.filter(|entry| entry.place.index == index) else { continue };
        let same = found.iter_mut().find(|(of, it)| is_same((logs[of[0]], it), (log, &entry)));
        match same {
            Some((of, _)) => of.push(at),
            None => found.push((vec![at], entry)),
        }
    }
    let mut alike: Vec<_> = found.into_iter().map(|(of, _)| of).collect();
    alike.sort_by_key(Vec::len);
    alike
}

#[cfg(test)]
mod tests;
