//! mends a file of records with kinds, `clients.dat` or `subs.dat`

use std::io;
use std::path::Path;

use super::super::records::{self, Bytes, Found};
use super::MendError;
use super::files::{Hand, Piece, failed, push};
use crate::store::file::format::{
    Crc, FILE_HEADER_LEN, Framing, RECORD_HEADER_LEN, VERSION_HEADER,
};
use crate::store::file::repair::Reading;

/// Where records of a file begin and end, and what lies between them.
#[derive(Debug, Default)]
struct Parts {
    whole: Vec<(u64, u64)>,
    lost: Vec<(u64, u64)>,
    has_header: bool,
}

/// Makes a file with all records that can be proved, if something else stands there too, or if
/// there is no file; `take` gets each record. `means` is what the loss of a record means.
pub(super) fn mend<R>(
    hand: &mut Hand<'_, '_>,
    folder: &Path,
    (name, means): (&[u8], &'static str),
    (crc, has_checksums): (&Crc, bool),
    reading: Reading<R>,
    mut take: impl FnMut(R),
) -> Result<(), MendError> {
    let path = folder.join(String::from_utf8_lossy(name).as_ref());
    let mut pieces = vec![Piece::New(VERSION_HEADER.to_vec())];
    if !hand.exists(&path)? {
        let _ = hand.replace(&path, &pieces)?;
        hand.note(&path, "it was missing, and is made without a record".to_owned(), means);
        return Ok(());
    }
    let found = parts(&path, crc, has_checksums, reading, &mut take).map_err(failed(&path))?;
    if found.has_header && found.lost.is_empty() {
        return Ok(());
    }
    for (from, to) in found.whole {
        push(&mut pieces, Piece::Of { path: path.clone(), from, to });
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
    take: &mut impl FnMut(R),
) -> io::Result<Parts> {
    let mut bytes = Bytes::open(path)?;
    let mut parts = Parts { has_header: bytes.version()?.is_ok(), ..Parts::default() };
    let mut at = FILE_HEADER_LEN.min(bytes.len);
    let rules = has_checksums.then_some(crc);
    while at < bytes.len {
        if let Some((record, end)) = record_at(&mut bytes, at, rules, reading)? {
            take(record);
            parts.whole.push((at, end));
            at = end;
            continue;
        }
        // Without checksums nothing behind it can be proved.
        let next = if has_checksums { next(&mut bytes, at, crc, reading)? } else { None };
        let end = next.unwrap_or(bytes.len);
        parts.lost.push((at, end));
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
