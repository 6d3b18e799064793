//! mends the slices of a channel: each message that can be proved, in its place, and a fresh index

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::records::{self, Bytes, Found};
use super::MendError;
use super::files::{Hand, Piece, failed, push};
use super::messages::{Course, Entry, ranges};
use crate::store::file::format::{
    ChannelFile, Crc, FILE_HEADER_LEN, Framing, INDEX_RECORD_LEN, IndexRecord, RECORD_HEADER_LEN,
    VERSION_HEADER, channel_file, encode_plain, gap_filler, index_offset, slice_data_name,
    slice_index_name,
};

/// Empty messages that are made up in one channel: beyond that a number is more likely wrong than
/// everything else lost.
const MADE_MAX: u64 = 10_000_000;

const STOOD_IN: &str = "nobody has them any more: empty messages stand in for them";
const IN_FRONT: &str = "nobody has them any more: the channel begins behind them";
const LEFT_OUT: &str = "no message can be made out there";
const SET_ASIDE: &str = "nothing of it is needed";

/// What one slice holds.
#[derive(Debug, Default)]
struct Held {
    entries: Vec<Entry>,
    lost: Vec<(u64, u64)>,
    /// Whether both files are there and begin as they should.
    is_whole: bool,
}

type Rules<'a> = (&'a Crc, bool);

/// Writes the slices of `folder` anew in which something is not as it should be. Subscriptions were
/// sent messages up to `sent`.
pub(super) fn mend(
    hand: &mut Hand<'_, '_>,
    folder: &Path,
    rules: Rules<'_>,
    sent: u64,
) -> Result<(), MendError> {
    let numbers = numbers(&hand.listed(folder)?);
    let (mut course, mut held) = (Course::default(), BTreeMap::new());
    for number in &numbers {
        let found = read(folder, *number, rules, &mut course).map_err(failed(folder))?;
        found.entries.iter().for_each(|entry| course.take(*number, *entry));
        held.insert(*number, found);
    }
    let last = course.last_named().max(sent);
    let is_all_gone = course.entries.is_empty() && last != 0;
    let missing = course.missing(last);
    if MADE_MAX < missing {
        return Err(MendError::TooMany { path: folder.to_owned(), missing, last });
    }
    let slice_of_none = numbers.last().copied().unwrap_or(1);
    let made = course.fill(last, slice_of_none);
    let mut wanted: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
    for (number, entry) in &course.entries {
        wanted.entry(*number).or_default().push(*entry);
    }
    let all: BTreeSet<u64> = numbers.iter().chain(wanted.keys()).copied().collect();
    let mut ready = Vec::new();
    for number in all {
        let before = held.remove(&number).unwrap_or_default();
        let entries = wanted.remove(&number).unwrap_or_default();
        if !before.is_whole || !before.lost.is_empty() || before.entries != entries {
            ready.push(write(hand, folder, number, rules.0, (before, &entries))?);
        }
    }
    // Some of them have taken from the files of others in front of them, so nothing is replaced
    // before, and the last is replaced first: what was taken is then always in one of both.
    for slice in ready.into_iter().rev() {
        put(hand, slice)?;
    }
    let in_front = course.lost_in_front();
    if !in_front.is_empty() {
        hand.note(folder, format!("lost messages: {}", ranges(&in_front)), IN_FRONT);
    }
    if !made.is_empty() {
        hand.note(folder, format!("lost messages: {}", ranges(&made)), STOOD_IN);
    }
    if is_all_gone {
        hand.note(folder, format!("nothing is left of its messages up to {last}"), IN_FRONT);
    }
    Ok(())
}

fn numbers(files: &[PathBuf]) -> BTreeSet<u64> {
    let number = |path: &PathBuf| match channel_file(path.file_name()?.as_bytes()) {
        ChannelFile::Data(number) | ChannelFile::Index(number) => Some(number),
        ChannelFile::Subscriptions
        | ChannelFile::Removed(..)
        | ChannelFile::Deleted(_)
        | ChannelFile::Purged(_)
        | ChannelFile::Invalid
        | ChannelFile::Other => None,
    };
    files.iter().filter_map(number).collect()
}

fn paths(folder: &Path, number: u64) -> (PathBuf, PathBuf) {
    let path = |name: Vec<u8>| folder.join(String::from_utf8_lossy(&name).as_ref());
    (path(slice_data_name(number)), path(slice_index_name(number)))
}

/// A slice that is to be replaced.
struct Ready {
    data: PathBuf,
    index: PathBuf,
    /// Both files, if there is a message for them.
    new: Option<(PathBuf, PathBuf)>,
    lost: Vec<(u64, u64)>,
}

fn write(
    hand: &mut Hand<'_, '_>,
    folder: &Path,
    number: u64,
    crc: &Crc,
    (before, entries): (Held, &[Entry]),
) -> Result<Ready, MendError> {
    let (data, index) = paths(folder, number);
    let mut ready = Ready { data, index, new: None, lost: before.lost };
    if !entries.is_empty() {
        let (data, rows) = layout(folder, entries, crc);
        let data = hand.write(&ready.data, &data)?;
        ready.new = Some((data, hand.write(&ready.index, &[Piece::New(rows)])?));
    }
    Ok(ready)
}

/// The data first: with it the old index does not fit, and is not needed.
fn put(hand: &mut Hand<'_, '_>, slice: Ready) -> Result<(), MendError> {
    let Ready { data, index, new, lost } = slice;
    let Some((new_data, new_index)) = new else {
        for path in [&index, &data] {
            if hand.exists(path)? {
                hand.take_away(path, "it holds no message that is whole", SET_ASIDE)?;
            }
        }
        return Ok(());
    };
    let kept = hand.put(&new_data, &data)?;
    let _ = hand.put(&new_index, &index)?;
    let Some(kept) = kept else {
        hand.note(&data, "it is made, with its index".to_owned(), "as the channel says");
        return Ok(());
    };
    if lost.is_empty() {
        let what = format!("written anew, with its index; the old one is kept as {kept}");
        hand.note(&data, what, "each message that it had is there");
    }
    for (from, to) in lost {
        let what = format!("bytes {from} to {to} are left out; they are kept in {kept}");
        hand.note(&data, what, LEFT_OUT);
    }
    Ok(())
}

/// The bytes of a slice's data and of its index.
fn layout(folder: &Path, entries: &[Entry], crc: &Crc) -> (Vec<Piece>, Vec<u8>) {
    let channel = folder.file_name().unwrap_or_default().as_bytes();
    let mut pieces = vec![Piece::New(VERSION_HEADER.to_vec())];
    let mut rows = VERSION_HEADER.to_vec();
    let mut offset = FILE_HEADER_LEN;
    for Entry { sequence, timestamp, size, lies } in entries {
        let mut row =
            IndexRecord { sequence: *sequence, offset, timestamp: *timestamp, size: *size };
        match lies {
            Some((number, from)) => {
                let to = from + RECORD_HEADER_LEN as u64 + u64::from(*size);
                let path = paths(folder, *number).0;
                push(&mut pieces, Piece::Of { path, from: *from, to });
            }
            None => {
                let payload = gap_filler(channel, *sequence, *timestamp);
                row.size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                let mut record = Vec::new();
                encode_plain(&mut record, &payload, crc);
                push(&mut pieces, Piece::New(record));
            }
        }
        row.encode(&mut rows, crc);
        offset = row.end();
    }
    (pieces, rows)
}

/// Reads both files of a slice; what its index names goes to `course`.
fn read(
    folder: &Path,
    number: u64,
    (crc, has_checksums): Rules<'_>,
    course: &mut Course,
) -> io::Result<Held> {
    let rules = has_checksums.then_some(crc);
    let (data, index) = paths(folder, number);
    let (all_rows, named, index_len) = match Bytes::open(&index) {
        Ok(mut bytes) => {
            let (all, named) = rows(&mut bytes, rules)?;
            (all, named, bytes.len)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Default::default(),
        Err(error) => return Err(error),
    };
    let mut bytes = match Bytes::open(&data) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            names(course, &named, &[]);
            return Ok(Held::default());
        }
        Err(error) => return Err(error),
    };
    let mut held = Held { is_whole: bytes.version()?.is_ok(), ..Held::default() };
    let mut at = FILE_HEADER_LEN.min(bytes.len);
    while at < bytes.len {
        let found = message_at((&data, &mut bytes), (number, at), rules)?;
        // Without checksums a number that the index does not confirm is none.
        let is_doubted = |entry: &Entry| {
            let row = named.get(&at).filter(|row| row.timestamp == entry.timestamp);
            !has_checksums && row.is_some_and(|row| row.sequence != entry.sequence)
        };
        if let Some((entry, end)) = found.filter(|(entry, _)| !is_doubted(entry)) {
            held.entries.push(entry);
            at = end;
            continue;
        }
        let end = next((&data, &mut bytes), (number, at), rules, &named)?.unwrap_or(bytes.len);
        held.lost.push((at, end));
        at = end;
    }
    names(course, &named, &held.entries);
    let is_row = |(row, entry): (&IndexRecord, &Entry)| {
        let Entry { sequence, timestamp, size, lies } = *entry;
        *row == IndexRecord { sequence, offset: lies.map_or(0, |(_, at)| at), timestamp, size }
    };
    held.is_whole &= all_rows.len() == held.entries.len()
        && all_rows.iter().zip(&held.entries).all(is_row)
        && index_len == index_offset(all_rows.len() as u64);
    Ok(held)
}

/// Messages that an index names, unless it is the index of another slice: nothing that it says of
/// what the data holds is so.
fn names(course: &mut Course, named: &BTreeMap<u64, IndexRecord>, entries: &[Entry]) {
    let times: BTreeMap<u64, i64> = entries.iter().map(|it| (it.sequence, it.timestamp)).collect();
    let is_so = |row: &IndexRecord| times.get(&row.sequence).map(|time| *time == row.timestamp);
    let mut said = named.values().filter_map(is_so).peekable();
    if said.peek().is_some() && !said.any(|is_so| is_so) {
        return;
    }
    named.values().for_each(|row| course.name(row.sequence, row.timestamp));
}

/// The rows of an index that can be believed, up to the first that cannot, and all of them by where
/// their records begin.
fn rows(
    bytes: &mut Bytes,
    crc: Option<&Crc>,
) -> io::Result<(Vec<IndexRecord>, BTreeMap<u64, IndexRecord>)> {
    let (mut all, mut named) = (Vec::new(), BTreeMap::new());
    let is_headed = bytes.version()?.is_ok();
    for ordinal in 0.. {
        let row = bytes.at(index_offset(ordinal), INDEX_RECORD_LEN as u64)?;
        let Some(row) = row.first_chunk::<INDEX_RECORD_LEN>() else { break };
        if let Ok(Some(row)) = IndexRecord::decode(row, crc) {
            if is_headed && all.len() as u64 == ordinal {
                all.push(row);
            }
            named.insert(row.offset, row);
        }
    }
    Ok((all, named))
}

fn message_at(
    (data, bytes): (&Path, &mut Bytes),
    (slice, at): (u64, u64),
    crc: Option<&Crc>,
) -> io::Result<Option<(Entry, u64)>> {
    let found = records::read(bytes, at, Framing::Plain, crc)?;
    let Found::Record { payload, end, .. } = found else { return Ok(None) };
    let Ok((sequence, timestamp)) = records::message(&payload, data) else { return Ok(None) };
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    Ok(Some((Entry { sequence, timestamp, size, lies: Some((slice, at)) }, end)))
}

/// Where the next message begins behind something that is none: where that says that it ends, else
/// where the index says, else wherever a whole one is found.
fn next(
    (data, bytes): (&Path, &mut Bytes),
    (slice, at): (u64, u64),
    crc: Option<&Crc>,
    named: &BTreeMap<u64, IndexRecord>,
) -> io::Result<Option<u64>> {
    if let Found::Corrupt { end, .. } = records::read(bytes, at, Framing::Plain, crc)?
        && message_at((data, bytes), (slice, end), crc)?.is_some()
    {
        return Ok(Some(end));
    }
    for (offset, row) in named.range(at + 1..) {
        let found = message_at((data, bytes), (slice, *offset), crc)?;
        if found.is_some_and(|(entry, _)| entry.sequence == row.sequence) {
            return Ok(Some(*offset));
        }
    }
    if crc.is_none() {
        return Ok(None);
    }
    for ahead in at + 1..bytes.len {
        // A message begins with its sequence, field 1; this spares the checksum of most garbage.
        let header = bytes.at(ahead, RECORD_HEADER_LEN as u64 + 1)?;
        let is_plausible = header.get(RECORD_HEADER_LEN) == Some(&8);
        if is_plausible && message_at((data, bytes), (slice, ahead), crc)?.is_some() {
            return Ok(Some(ahead));
        }
    }
    Ok(None)
}
