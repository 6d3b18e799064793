//! mends a file of records with kinds, `clients.dat` or `subs.dat`

use std::io;
use std::path::Path;

use super::super::records::{self, Bytes, Found};
use super::MendError;
use super::files::{Hand, Piece, failed, push};
use crate::proto::spb;
use crate::store::file::format::{
    Crc, FILE_HEADER_LEN, Framing, RECORD_HEADER_LEN, VERSION_HEADER, decode,
};
use crate::store::file::repair::Reading;

/// Where records of a file begin and end, and what lies between them.
#[derive(Debug, Default)]
struct Parts {
    whole: Vec<(u64, u64)>,
    lost: Vec<(u64, u64)>,
    has_header: bool,
}

/// What becomes of what is read, and what has to be said beside it.
pub(super) trait Take<R> {
    /// The next record.
    fn take(&mut self, record: R);
    /// Here something was lost.
    fn lose(&mut self);
    /// Records for the end of the new file.
    fn more(&self, crc: &Crc) -> Vec<u8>;
}

/// Nothing.
pub(super) struct NoTake;

impl<R> Take<R> for NoTake {
    fn take(&mut self, _: R) {}

    fn lose(&mut self) {}

    fn more(&self, _: &Crc) -> Vec<u8> {
        Vec::new()
    }
}

/// The server's file with its record alone, if that is whole.
pub(super) fn whole_server(path: &Path, crc: Option<&Crc>) -> io::Result<Option<Vec<Piece>>> {
    let mut bytes = Bytes::open(path)?;
    let found = records::read(&mut bytes, FILE_HEADER_LEN, Framing::Plain, crc)?;
    let Found::Record { payload, end, .. } = found else { return Ok(None) };
    let is_whole = decode::<spb::ServerInfo>(&payload).is_ok_and(|it| !it.cluster_id.is_empty());
    let record = Piece::Of { path: path.to_owned(), from: FILE_HEADER_LEN, to: end };
    Ok(is_whole.then(|| vec![Piece::New(VERSION_HEADER.to_vec()), record]))
}

/// Makes a file with all records that can be proved, if something else stands there too, or if
/// there is no file; `take` gets each record. `means` is what the loss of a record means.
pub(super) fn mend<R>(
    hand: &mut Hand<'_, '_>,
    folder: &Path,
    (name, means): (&[u8], &'static str),
    (crc, has_checksums): (&Crc, bool),
    reading: Reading<R>,
    take: &mut impl Take<R>,
) -> Result<(), MendError> {
    let path = folder.join(String::from_utf8_lossy(name).as_ref());
    let mut pieces = vec![Piece::New(VERSION_HEADER.to_vec())];
    if !hand.exists(&path)? {
        let _ = hand.replace(&path, &pieces)?;
        hand.note(&path, "it was missing, and is made without a record".to_owned(), means);
        return Ok(());
    }
    let found = parts(&path, crc, has_checksums, reading, take).map_err(failed(&path))?;
    if found.has_header && found.lost.is_empty() {
        return Ok(());
    }
    for (from, to) in found.whole {
        push(&mut pieces, Piece::Of { path: path.clone(), from, to });
    }
    let more = take.more(crc);
    if !more.is_empty() {
        push(&mut pieces, Piece::New(more));
    }
    let kept = hand.replace(&path, &pieces)?.unwrap_or_default();
    if !found.has_header {
        let what = format!("its header is made anew; the old file is kept as {kept}");
        hand.note(&path, what, "nothing");
    }
    for (from, to) in found.lost {
        let what = format!("bytes {from} to {to} are no record and left out; kept in {kept}");
        hand.note(&path, what, means);
    }
    Ok(())
}

fn parts<R>(
    path: &Path,
    crc: &Crc,
    has_checksums: bool,
    reading: Reading<R>,
    take: &mut impl Take<R>,
) -> io::Result<Parts> {
    let mut bytes = Bytes::open(path)?;
    let mut parts = Parts { has_header: bytes.version()?.is_ok(), ..Parts::default() };
    let mut at = FILE_HEADER_LEN.min(bytes.len);
    let rules = has_checksums.then_some(crc);
    while at < bytes.len {
        if let Some((record, end)) = record_at(&mut bytes, at, rules, reading)? {
            take.take(record);
            parts.whole.push((at, end));
            at = end;
            continue;
        }
        // Without checksums nothing behind it can be proved.
        let next = if has_checksums { next(&mut bytes, at, crc, reading)? } else { None };
        let end = next.unwrap_or(bytes.len);
        parts.lost.push((at, end));
        take.lose();
        at = end;
    }
    Ok(parts)
}

fn record_at<R>(
    bytes: &mut Bytes,
    at: u64,
    crc: Option<&Crc>,
    reading: Reading<R>,
) -> io::Result<Option<(R, u64)>> {
    let found = records::read(bytes, at, Framing::Typed, crc)?;
    let Found::Record { kind, payload, end } = found else { return Ok(None) };
    Ok(reading(kind, &payload).ok().map(|record| (record, end)))
}

/// Where the next whole record begins behind `at`.
fn next<R>(bytes: &mut Bytes, at: u64, crc: &Crc, reading: Reading<R>) -> io::Result<Option<u64>> {
    for ahead in at + 1..bytes.len {
        let header = bytes.at(ahead, RECORD_HEADER_LEN as u64 + 1)?;
        // Kinds of both files are 1 to 5, and no payload is empty.
        let is_plausible = matches!(header, [a, b, c, 1..=5, ..] if (*a, *b, *c) != (0, 0, 0));
        if is_plausible && record_at(bytes, ahead, Some(crc), reading)?.is_some() {
            return Ok(Some(ahead));
        }
    }
    Ok(None)
}
