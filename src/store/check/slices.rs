//! one slice of a channel: its index against its data, record by record

use std::io;
use std::path::{Path, PathBuf};

use super::finding::{Findings, Weight};
use super::records::{self, Bytes, Found, UNREADABLE};
use crate::store::file::format::{
    Crc, FILE_HEADER_LEN, Framing, INDEX_RECORD_LEN, IndexRecord, index_offset,
};
use crate::store::file::log::is_no_header;

const UNKNOWN: &str = "what lies there is not delivered";
const TORN: &str = "a start cuts it off and keeps it in a file beside; only a crash in the midst of a \
                    write leaves it, before anything was acknowledged";
const UNINDEXED: &str = "a start takes it into the index, or cuts it off and keeps it beside where the \
                         store shows that it was never acknowledged";
const REBUILT: &str = "a start makes the index anew from the data";
const BEGUN: &str = "a kill came before it held a message: a start of stanby begins it anew, and one \
                     of the Go server is refused";
const BEYOND: &str = "a start goes on without them";
const REFUSED: &str = "a start is refused: restore the file from a backup";

/// Sequence and time of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub sequence: u64,
    pub timestamp: i64,
}

/// The two files of a slice.
pub(super) struct Slice {
    pub data: Option<PathBuf>,
    pub index: Option<PathBuf>,
}

/// What lies in front of a slice.
#[derive(Clone, Copy)]
pub(super) struct Before {
    /// Whether there is no data in front of it, but some behind it.
    pub is_none: bool,
    /// The last message there.
    pub last: u64,
}

/// Goes through both files; `each` gets the messages that can be told, in their order.
pub(super) fn look(
    slice: &Slice,
    before: Before,
    crc: Option<&Crc>,
    findings: &mut Findings,
    each: &mut dyn FnMut(Place, &mut Findings),
) {
    match (&slice.data, &slice.index) {
        (Some(data), Some(index)) => {
            told(data, index_and_data(data, index, crc, findings, each), findings);
        }
        (Some(data), None) => {
            let what = "it has no index".to_owned();
            findings.add(Weight::Mended, (data, None), what, REBUILT);
            told(data, data_from(data, FILE_HEADER_LEN, crc, findings, each), findings);
        }
        (None, Some(index)) => {
            told(index, index_alone(index, before, crc, findings, each), findings);
        }
        (None, None) => (),
    }
}

/// A file that cannot be read is a finding like others.
fn told(path: &Path, result: io::Result<()>, findings: &mut Findings) {
    if let Err(error) = result {
        findings.unreadable(path, &error, UNKNOWN);
    }
}

/// An index without data, by what a start makes of it.
fn index_alone(
    index: &Path,
    before: Before,
    crc: Option<&Crc>,
    findings: &mut Findings,
    each: &mut dyn FnMut(Place, &mut Findings),
) -> io::Result<()> {
    let mut rows = Bytes::open(index)?;
    let mut places = Vec::new();
    while let Some(row) = row_at(&mut rows, index_offset(places.len() as u64))? {
        let decoded = IndexRecord::decode(&row, crc);
        if places.is_empty() {
            findings.first_checksum(decoded.is_ok());
        }
        let Ok(Some(IndexRecord { sequence, timestamp, .. })) = decoded else { break };
        places.push(Place { sequence, timestamp });
    }
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        let what = "it has no data and names no message".to_owned();
        let means = "it keeps the number of a slice from being used again";
        findings.add(Weight::Note, (index, None), what, means);
        return Ok(());
    };
    let what = format!("the data of messages {} to {} is missing", first.sequence, last.sequence);
    let (weight, means) = if before.is_none {
        (Weight::Damage, "a start removes the index: they are older than all others")
    } else if last.sequence <= before.last {
        (Weight::Mended, "a start removes the index: older slices hold all of them")
    } else {
        (Weight::Damage, "a start puts empty ones in the place of those that no older slice holds")
    };
    findings.add(weight, (index, None), what, means);
    if !before.is_none {
        let missing = places.into_iter().filter(|place| before.last < place.sequence);
        missing.for_each(|place| each(place, findings));
    }
    Ok(())
}

fn row_at(rows: &mut Bytes, at: u64) -> io::Result<Option<[u8; INDEX_RECORD_LEN]>> {
    Ok(rows.at(at, INDEX_RECORD_LEN as u64)?.first_chunk().copied())
}

/// Messages of an index that the data does not have, or not yet been seen to have.
#[derive(Default)]
struct Unproved {
    places: Vec<Place>,
    /// The first and the last that lie beyond the end of the data, and where the first begins.
    beyond: Option<(u64, u64, u64)>,
}

impl Unproved {
    /// One that reaches beyond the end of the data.
    fn is_beyond(&mut self, row: &IndexRecord) {
        let (first, _, at) = self.beyond.unwrap_or((row.sequence, 0, row.offset));
        self.beyond = Some((first, row.sequence, at));
    }

    /// Tells what lies beyond the end of `data`.
    fn tell(&mut self, (data, len): (&Path, u64), findings: &mut Findings) {
        let Some((first, last, at)) = self.beyond.take() else { return };
        let what = match first == last {
            true => format!("message {first} of its index is not whole: it ends at {len}"),
            false => {
                format!("messages {first} to {last} of its index are not whole: it ends at {len}")
            }
        };
        findings.add(Weight::Damage, (data, Some(at)), what, BEYOND);
    }
}

fn index_and_data(
    data: &Path,
    index: &Path,
    crc: Option<&Crc>,
    findings: &mut Findings,
    each: &mut dyn FnMut(Place, &mut Findings),
) -> io::Result<()> {
    let mut rows = Bytes::open(index)?;
    let mut bytes = Bytes::open(data)?;
    versions((index, &mut rows), (data, &mut bytes), findings)?;
    let (mut ordinal, mut next_at) = (0, FILE_HEADER_LEN);
    // A start counts what its index says, up to the last message that the data proves.
    let mut unproved = Unproved::default();
    loop {
        let begin = index_offset(ordinal);
        let Some(row) = row_at(&mut rows, begin)? else {
            if begin < rows.len {
                let what = format!("it ends {} bytes behind its last record", rows.len - begin);
                findings.add(Weight::Mended, (index, Some(begin)), what, REBUILT);
            }
            break;
        };
        ordinal += 1;
        let decoded = IndexRecord::decode(&row, crc);
        if ordinal == 1 {
            findings.first_checksum(decoded.is_ok());
        }
        let known = match decoded {
            Ok(Some(found)) if bytes.len < found.end() => {
                unproved.is_beyond(&found);
                continue;
            }
            Ok(Some(found)) => {
                let at = (data, &mut bytes);
                let is_proved = against_data(&found, (index, begin), at, (next_at, crc), findings)?;
                next_at = found.end().max(next_at);
                let place = Place { sequence: found.sequence, timestamp: found.timestamp };
                if !is_proved {
                    unproved.places.push(place);
                }
                is_proved.then_some(place)
            }
            Ok(None) => {
                let what = "it goes on with zeros".to_owned();
                findings.add(Weight::Mended, (index, Some(begin)), what, REBUILT);
                break;
            }
            Err(why) => {
                findings.add(Weight::Mended, (index, Some(begin)), why.to_string(), REBUILT);
                // The data says where the next one begins.
                let (place, end) = record_at(data, &mut bytes, (next_at, crc), findings)?;
                next_at = end.unwrap_or(next_at);
                place
            }
        };
        if let Some(place) = known {
            unproved.tell((data, bytes.len), findings);
            unproved.places.drain(..).for_each(|place| each(place, findings));
            each(place, findings);
        }
    }
    if unproved.beyond.is_some() {
        unproved.tell((data, bytes.len), findings);
    } else if next_at < bytes.len {
        behind_index((data, bytes), next_at, crc, findings, each)?;
    }
    Ok(())
}

/// What is wrong with the versions of both files.
fn versions(
    (index, rows): (&Path, &mut Bytes),
    (data, bytes): (&Path, &mut Bytes),
    findings: &mut Findings,
) -> io::Result<()> {
    let is_empty = rows.len <= FILE_HEADER_LEN;
    for (path, file) in [(index, rows), (data, bytes)] {
        if let Err(why) = file.version()? {
            let is_begun = is_no_header(file.at(0, FILE_HEADER_LEN)?);
            let (weight, means) = match (is_begun, path == index) {
                (false, _) => (Weight::Damage, REFUSED),
                (true, true) => (Weight::Mended, REBUILT),
                (true, false) if is_empty => (Weight::Mended, BEGUN),
                (true, false) => (Weight::Damage, UNKNOWN),
            };
            findings.add(weight, (path, Some(0)), why, means);
        }
    }
    Ok(())
}

/// What the data has behind the end of its index.
fn behind_index(
    (data, mut bytes): (&Path, Bytes),
    at: u64,
    crc: Option<&Crc>,
    findings: &mut Findings,
    each: &mut dyn FnMut(Place, &mut Findings),
) -> io::Result<()> {
    // Of what is torn it is said there.
    let behind = records::read(&mut bytes, at, Framing::Plain, crc)?;
    if !matches!(behind, Found::Torn | Found::Zeros) {
        let what = "its index ends before".to_owned();
        findings.add(Weight::Mended, (data, Some(at)), what, UNINDEXED);
    }
    data_from(data, at, crc, findings, each)
}

/// One row of an index, and what lies where it points; whether there is a message.
fn against_data(
    row: &IndexRecord,
    (index, row_at): (&Path, u64),
    (data, bytes): (&Path, &mut Bytes),
    (expected_at, crc): (u64, Option<&Crc>),
    findings: &mut Findings,
) -> io::Result<bool> {
    let IndexRecord { sequence, offset, timestamp, .. } = *row;
    let place = Place { sequence, timestamp };
    if offset != expected_at {
        let what =
            format!("message {sequence} begins at {offset} of the data, not at {expected_at}");
        findings.add(Weight::Damage, (index, Some(row_at)), what, UNREADABLE);
    }
    let (found, end) = record_at(data, bytes, (offset, crc), findings)?;
    let is_message = found.is_some();
    if let Some(found) = found.filter(|found| *found != place) {
        let what = format!(
            "message {sequence} of {timestamp} in the index is {} of {} in the data",
            found.sequence, found.timestamp
        );
        findings.add(Weight::Damage, (index, Some(row_at)), what, UNREADABLE);
    } else if end.is_some_and(|end| end != row.end()) {
        let what = format!("message {sequence} has another length than in the data");
        findings.add(Weight::Damage, (index, Some(row_at)), what, UNREADABLE);
    }
    Ok(is_message)
}

/// The message of a record, and where the next one begins.
fn record_at(
    data: &Path,
    bytes: &mut Bytes,
    (at, crc): (u64, Option<&Crc>),
    findings: &mut Findings,
) -> io::Result<(Option<Place>, Option<u64>)> {
    let found = records::read(bytes, at, Framing::Plain, crc)?;
    if at == FILE_HEADER_LEN {
        records::note_first(&found, findings);
    }
    let (what, end) = match found {
        Found::Record { payload, end, .. } => match records::message(&payload, data) {
            Ok((sequence, timestamp)) => {
                return Ok((Some(Place { sequence, timestamp }), Some(end)));
            }
            Err((what, means)) => {
                findings.add(Weight::Damage, (data, Some(at)), what, means);
                return Ok((None, Some(end)));
            }
        },
        Found::Corrupt { why, end } => (why.to_string(), Some(end)),
        Found::Torn => ("the file ends inside of this record".to_owned(), None),
        Found::Zeros => ("zeros in the place of a record".to_owned(), None),
        Found::End => ("the file ends before this record".to_owned(), None),
    };
    findings.add(Weight::Damage, (data, Some(at)), what, UNREADABLE);
    Ok((None, end))
}

/// What lies in a data file from `at` on, without an index.
fn data_from(
    data: &Path,
    at: u64,
    crc: Option<&Crc>,
    findings: &mut Findings,
    each: &mut dyn FnMut(Place, &mut Findings),
) -> io::Result<()> {
    let mut bytes = Bytes::open(data)?;
    let mut at = at;
    loop {
        let found = records::read(&mut bytes, at, Framing::Plain, crc)?;
        if at == FILE_HEADER_LEN {
            records::note_first(&found, findings);
        }
        match found {
            Found::Record { payload, end, .. } => {
                match records::message(&payload, data) {
                    Ok((sequence, timestamp)) => each(Place { sequence, timestamp }, findings),
                    Err((what, means)) => {
                        findings.add(Weight::Damage, (data, Some(at)), what, means);
                    }
                }
                at = end;
            }
            Found::Corrupt { why, end } => {
                findings.add(Weight::Damage, (data, Some(at)), why.to_string(), UNREADABLE);
                at = end;
            }
            Found::Torn => {
                let what = "it ends inside of a record".to_owned();
                findings.add(Weight::Mended, (data, Some(at)), what, TORN);
                return Ok(());
            }
            Found::Zeros => {
                let is_tail = records::is_zero_from(&mut bytes, at)?;
                let what = if is_tail { "it ends in zeros" } else { "zeros, and more behind them" };
                let weight = if is_tail { Weight::Mended } else { Weight::Damage };
                let means = if is_tail { TORN } else { UNKNOWN };
                findings.add(weight, (data, Some(at)), what.to_owned(), means);
                return Ok(());
            }
            Found::End => return Ok(()),
        }
    }
}
