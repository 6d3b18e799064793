//! records of a file, read piece by piece: a file may be larger than memory

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::finding::Findings;
use crate::base::files::{self, Access, Links};
use crate::proto::pb;
use crate::store::file::format::{
    Corrupt, Crc, Decoded, FILE_HEADER_LEN, Framing, RECORD_HEADER_LEN, check_version, decode,
    decode_record,
};
use crate::store::file::repair::{self, Ending, Reading};

pub(super) const UNREADABLE: &str = "this message is not delivered";
const FOREIGN: &str =
    "a start delivers it as one of this channel: was a file put into another folder?";

/// Longest record that is believed: far beyond what a server takes.
const RECORD_LEN_MAX: u64 = 256 * 1024 * 1024;

/// Bytes that are read at once.
const WINDOW_LEN: usize = 1024 * 1024;

/// An open file, and the part of it that was read last.
pub(super) struct Bytes {
    file: File,
    pub len: u64,
    window: Vec<u8>,
    begins_at: u64,
}

impl Bytes {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = files::open(path, Access::Read, Links::Refused)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len, window: Vec::new(), begins_at: 0 })
    }

    /// The bytes from `at` on, `len` of them or up to the end of the file.
    pub fn at(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let end = at.saturating_add(len).min(self.len);
        let at = at.min(end);
        let has = self.begins_at <= at && end <= self.begins_at + self.window.len() as u64;
        if !has {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).max(WINDOW_LEN);
            let rest = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            self.window.resize(wanted.min(rest), 0);
            self.begins_at = at;
            self.file.read_exact_at(&mut self.window, at)?;
        }
        let from = usize::try_from(at - self.begins_at).unwrap_or(usize::MAX);
        let to = usize::try_from(end - self.begins_at).unwrap_or(usize::MAX);
        Ok(&self.window[from..to])
    }

    /// What is wrong with its version, if anything.
    pub fn version(&mut self) -> io::Result<Result<(), String>> {
        self.at(0, FILE_HEADER_LEN).map(check_version)
    }
}

/// What stands somewhere in a file.
pub(super) enum Found {
    Record {
        kind: u8,
        payload: Vec<u8>,
        end: u64,
    },
    /// It cannot be believed; the next one would begin at `end`.
    Corrupt {
        why: Corrupt,
        end: u64,
    },
    /// The file ends inside of it, or its length is none.
    Torn,
    Zeros,
    End,
}

/// The record at `at`.
pub(super) fn read(
    bytes: &mut Bytes,
    at: u64,
    framing: Framing,
    crc: Option<&Crc>,
) -> io::Result<Found> {
    let header_len = RECORD_HEADER_LEN as u64;
    let Some(header) = bytes.at(at, header_len)?.first_chunk::<RECORD_HEADER_LEN>().copied() else {
        return Ok(if at < bytes.len { Found::Torn } else { Found::End });
    };
    let [s0, s1, s2, s3, ..] = header;
    let size = match framing {
        Framing::Plain => u32::from_le_bytes([s0, s1, s2, s3]),
        Framing::Typed => u32::from_le_bytes([s0, s1, s2, 0]),
    };
    let size = u64::from(size);
    if RECORD_LEN_MAX < size {
        return Ok(Found::Torn);
    }
    let end = at + header_len + size;
    let whole = bytes.at(at, header_len + size)?;
    Ok(match decode_record(whole, framing, crc) {
        Ok(Decoded::Record { kind, payload, .. }) => {
            Found::Record { kind, payload: payload.to_vec(), end }
        }
        Ok(Decoded::Zeros) => Found::Zeros,
        Ok(Decoded::Torn) => Found::Torn,
        Ok(Decoded::End) => Found::End,
        Err(why) => Found::Corrupt { why, end },
    })
}

/// What is wrong with something that lies in the place of a message, and what it means.
pub(super) type Wrong = (String, &'static str);

/// Sequence and time of a message of the channel that `data` is a file of.
pub(super) fn message(payload: &[u8], data: &Path) -> Result<(u64, i64), Wrong> {
    let channel = data.parent().and_then(Path::file_name).unwrap_or_default().as_bytes();
    let found = decode::<pb::MsgProto>(payload).map_err(|why| (why.to_string(), UNREADABLE))?;
    if found.sequence == 0 {
        return Err(("a message without a sequence".to_owned(), UNREADABLE));
    }
    let subject = found.subject.as_ref();
    if subject != channel && !subject.is_empty() {
        let what = format!("a message of channel {}", String::from_utf8_lossy(subject));
        return Err((what, FOREIGN));
    }
    Ok((found.sequence, found.timestamp))
}

/// Remembers how the checksum of a file's first record is.
pub(super) fn note_first(found: &Found, findings: &mut Findings) {
    match found {
        Found::Record { .. } => findings.first_checksum(true),
        Found::Corrupt { why: Corrupt::Crc { .. }, .. } => findings.first_checksum(false),
        Found::Corrupt { .. } | Found::Torn | Found::Zeros | Found::End => (),
    }
}

/// What becomes of a file of records with kinds where something at `at` is no record of it.
pub(super) enum Fate {
    /// A start goes on in front of it.
    Cut,
    /// It looks as after a power failure, with records behind it: a start goes on in front of it,
    /// unless whoever wrote it had let go with everything synced.
    Hole,
    /// A start is refused.
    Refused,
}

/// Judged as a start does, which reads such a file as a whole, too.
pub(super) fn fate<R>(
    bytes: &mut Bytes,
    at: u64,
    crc: Option<&Crc>,
    reading: Reading<R>,
) -> io::Result<Fate> {
    let whole = bytes.at(0, bytes.len)?;
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let usual = Crc::new(Crc::IEEE);
    let checksums = (crc.unwrap_or(&usual), crc.is_some());
    Ok(match repair::replay(whole, at, checksums, reading, |_| ()) {
        Ok(Ending::Whole | Ending::Zeros(_) | Ending::Torn(_)) => Fate::Cut,
        Ok(Ending::Hole(_)) => Fate::Hole,
        Err(_) => Fate::Refused,
    })
}

/// Whether nothing but zeros stands from `at` on.
pub(super) fn is_zero_from(bytes: &mut Bytes, at: u64) -> io::Result<bool> {
    let mut at = at;
    while at < bytes.len {
        let part = bytes.at(at, WINDOW_LEN as u64)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}
