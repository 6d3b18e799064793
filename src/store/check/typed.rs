//! a file of records with kinds, clients.dat or subs.dat: each record, and what a start makes of it

use std::io;
use std::path::Path;

use super::finding::{Findings, Weight};
use super::records::{self, Bytes, Fate, Found};
use crate::store::file::format::{Corrupt, Crc, FILE_HEADER_LEN, Framing};
use crate::store::file::log::is_no_header;
use crate::store::file::repair::Reading;

const CUT: &str = "a start cuts it off and keeps it in a file beside: whoever wrote it was not \
                   answered for it, unless the disk lost it afterwards";
const ZEROS: &str = "a start cuts them off: a crash extended the file";
const HOLE: &str = "a start goes on in front of it after a crash, and is refused if the server before \
                    had stopped cleanly";
const REFUSED: &str =
    "a start is refused, for whole records follow: restore the file from a backup";
const HEADER: &str = "a start completes the header; records that it had are lost";
const VERSION: &str = "a start is refused: restore the file from a backup";

/// What a record means beside those before it; what is wrong with it, if anything.
pub(super) type Take<'a, R> = &'a mut dyn FnMut(R) -> Option<(String, Weight, &'static str)>;

/// Goes through the file at `path`.
pub(super) fn look<R>(
    path: &Path,
    crc: Option<&Crc>,
    reading: Reading<R>,
    take: Take<'_, R>,
    findings: &mut Findings,
) -> io::Result<()> {
    let mut bytes = Bytes::open(path)?;
    if let Err(why) = bytes.version()? {
        let is_begun = is_no_header(bytes.at(0, FILE_HEADER_LEN)?)
            && (bytes.len < FILE_HEADER_LEN || records::is_zero_from(&mut bytes, 0)?);
        let means = if is_begun { HEADER } else { VERSION };
        findings.add(Weight::Damage, (path, Some(0)), why, means);
        return Ok(());
    }
    let (mut at, mut is_refused) = (FILE_HEADER_LEN, false);
    loop {
        let found = records::read(&mut bytes, at, Framing::Typed, crc)?;
        if at == FILE_HEADER_LEN {
            records::note_first(&found, findings);
        }
        let (what, end) = match found {
            Found::Record { kind, payload, end } => match reading(kind, &payload) {
                Ok(record) => {
                    if let Some((what, weight, means)) = take(record) {
                        findings.add(weight, (path, Some(at)), what, means);
                    }
                    at = end;
                    continue;
                }
                Err(why) => {
                    // Its checksum fits, so it was written so.
                    findings.add(Weight::Damage, (path, Some(at)), why.to_string(), VERSION);
                    at = end;
                    continue;
                }
            },
            Found::Corrupt { why: why @ Corrupt::Crc { .. }, end } => (why.to_string(), Some(end)),
            Found::Corrupt { why, .. } => (why.to_string(), None),
            Found::Torn => ("it ends inside of a record".to_owned(), None),
            Found::Zeros => ("zeros in the place of a record".to_owned(), None),
            Found::End => return Ok(()),
        };
        if is_refused {
            findings.add(Weight::Damage, (path, Some(at)), what, REFUSED);
        } else {
            let (weight, means) = match records::fate(&mut bytes, at, crc, reading)? {
                Fate::Cut if records::is_zero_from(&mut bytes, at)? => (Weight::Mended, ZEROS),
                Fate::Cut if end.is_none() => (Weight::Mended, CUT),
                // It has its whole length, which a write that broke off does not leave.
                Fate::Cut => (Weight::Damage, CUT),
                Fate::Hole => (Weight::Damage, HOLE),
                Fate::Refused => (Weight::Damage, REFUSED),
            };
            findings.add(weight, (path, Some(at)), what, means);
            is_refused = means == REFUSED;
        }
        // A length that reaches beyond the file is none, and behind a cut there is nothing.
        match end.filter(|_| is_refused) {
            Some(end) => at = end,
            None => return Ok(()),
        }
    }
}
