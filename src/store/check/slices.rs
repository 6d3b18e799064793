//! one slice of a channel: its index against its data, record by record

use std::io;
use std::path::{Path, PathBuf};

use super::finding::{Findings, Weight};
use super::records::{self, Bytes, Found};
use crate::store::file::format::{
    Crc, FILE_HEADER_LEN, Framing, INDEX_RECORD_LEN, IndexRecord, index_offset, message_place,
};

const UNREADABLE: &str = "this message is not delivered";
const UNKNOWN: &str = "what lies there is not delivered";
const TORN: &str = "a start cuts it off and keeps it in a file beside; only a crash in the midst of a \
                    write leaves it, before anything was acknowledged";
const UNINDEXED: &str = "a start takes it into the index, or cuts it off and keeps it beside where the \
                         store shows that it was never acknowledged";
const REBUILT: &str = "a start makes the index anew from the data";

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

/// Goes through both files; `each` gets the messages that can be told, in their order.
pub(super) fn look(
    slice: &Slice,
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
            let what = "the data of this index is missing".to_owned();
            let means = "its messages are gone; empty ones stand in where others follow";
            findings.add(Weight::Damage, (index, None), what, means);
        }
        (None, None) => (),
    }
}

/// A file that cannot be read is a finding like others.
fn told(path: &Path, result: io::Result<()>, findings: &mut Findings) {
    if let Err(error) = result {
        findings.add(Weight::Damage, (path, None), error.to_string(), UNKNOWN);
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
    for (path, file) in [(index, &mut rows), (data, &mut bytes)] {
        if let Err(why) = file.version()? {
            let means = if path == index { REBUILT } else { UNKNOWN };
            let weight = if path == index { Weight::Mended } else { Weight::Damage };
            findings.add(weight, (path, Some(0)), why, means);
        }
    }
    let (mut ordinal, mut next_at) = (0, FILE_HEADER_LEN);
    loop {
        let row_at = index_offset(ordinal);
        let Some(row) = rows.at(row_at, 32)?.first_chunk::<INDEX_RECORD_LEN>().copied() else {
            if row_at < rows.len {
                let what = format!("it ends {} bytes behind its last record", rows.len - row_at);
                findings.add(Weight::Mended, (index, Some(row_at)), what, REBUILT);
            }
            break;
        };
        ordinal += 1;
        match IndexRecord::decode(&row, crc) {
            Ok(Some(found)) => {
                let at = (data, &mut bytes);
                let known = against_data(&found, (index, row_at), at, (next_at, crc), findings)?;
                next_at = found.end().max(next_at);
                if let Some(place) = known {
                    each(place, findings);
                }
            }
            Ok(None) => {
                let what = "it goes on with zeros".to_owned();
                findings.add(Weight::Mended, (index, Some(row_at)), what, REBUILT);
                break;
            }
            Err(why) => {
                findings.add(Weight::Mended, (index, Some(row_at)), why.to_string(), REBUILT);
                // The data says where the next one begins.
                let (place, end) = record_at(data, &mut bytes, (next_at, crc), findings)?;
                next_at = end.unwrap_or(next_at);
                if let Some(place) = place {
                    each(place, findings);
                }
            }
        }
    }
    if next_at < bytes.len {
        drop(bytes);
        let what = "its index ends before".to_owned();
        findings.add(Weight::Mended, (data, Some(next_at)), what, UNINDEXED);
        return data_from(data, next_at, crc, findings, each);
    }
    if bytes.len < next_at {
        let what = format!("it has {} bytes, and its index {next_at}", bytes.len);
        findings.add(Weight::Damage, (data, Some(bytes.len)), what, UNREADABLE);
    }
    Ok(())
}

/// One row of an index, and what lies where it points.
fn against_data(
    row: &IndexRecord,
    (index, row_at): (&Path, u64),
    (data, bytes): (&Path, &mut Bytes),
    (expected_at, crc): (u64, Option<&Crc>),
    findings: &mut Findings,
) -> io::Result<Option<Place>> {
    let IndexRecord { sequence, offset, timestamp, .. } = *row;
    let place = Place { sequence, timestamp };
    if offset != expected_at {
        let what =
            format!("message {sequence} begins at {offset} of the data, not at {expected_at}");
        findings.add(Weight::Damage, (index, Some(row_at)), what, UNREADABLE);
    }
    let (found, end) = record_at(data, bytes, (offset, crc), findings)?;
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
    Ok(Some(place))
}

/// The message of a record, and where the next one begins.
fn record_at(
    data: &Path,
    bytes: &mut Bytes,
    (at, crc): (u64, Option<&Crc>),
    findings: &mut Findings,
) -> io::Result<(Option<Place>, Option<u64>)> {
    let (what, end) = match records::read(bytes, at, Framing::Plain, crc)? {
        Found::Record { payload, end, .. } => match message_place(&payload) {
            Ok((sequence, timestamp)) => {
                return Ok((Some(Place { sequence, timestamp }), Some(end)));
            }
            Err(why) => (why.to_string(), Some(end)),
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
        match records::read(&mut bytes, at, Framing::Plain, crc)? {
            Found::Record { payload, end, .. } => {
                match message_place(&payload) {
                    Ok((sequence, timestamp)) => each(Place { sequence, timestamp }, findings),
                    Err(why) => {
                        findings.add(Weight::Damage, (data, Some(at)), why.to_string(), UNREADABLE);
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
