//! a file of counts of deliveries: each of its records

use std::io;
use std::path::Path;

use super::finding::{Findings, Weight};
use super::records::{self, Bytes};
use crate::store::file::deliveries::{HEADER, RECORD_LEN, is_record};

pub(super) const LOST: &str = "what was counted there is counted anew: its messages may be delivered more often \
                               than max_deliveries";
const TORN: &str = "a start passes over it: whoever wrote it was not answered for it";

/// Where records begin and end, and what lies between them.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub has_header: bool,
    pub whole: Vec<(u64, u64)>,
    pub lost: Vec<(u64, u64)>,
}

/// Reads a file; behind something that is no record the next one is looked for byte by byte.
pub(super) fn parts(bytes: &mut Bytes) -> io::Result<Parts> {
    let header_len = HEADER.len() as u64;
    let has_header = bytes.at(0, header_len)? == HEADER;
    let mut parts = Parts { has_header, ..Parts::default() };
    let mut at = header_len.min(bytes.len);
    while at < bytes.len {
        let mut next = at;
        while next < bytes.len && !is_record(bytes.at(next, RECORD_LEN as u64)?) {
            next += 1;
        }
        if at < next {
            parts.lost.push((at, next));
        }
        at = next;
        if at < bytes.len {
            at += RECORD_LEN as u64;
            parts.whole.push((next, at));
        }
    }
    Ok(parts)
}

/// Goes through the file at `path`.
pub(super) fn look(path: &Path, findings: &mut Findings) -> io::Result<()> {
    let mut bytes = Bytes::open(path)?;
    let parts = parts(&mut bytes)?;
    if !parts.has_header {
        let what = "it does not begin as a file of counts".to_owned();
        // One that was only begun has no record either.
        let is_begun = bytes.len <= HEADER.len() as u64 && records::is_zero_from(&mut bytes, 0)?;
        let begun = (Weight::Mended, TORN);
        let (weight, means) = if is_begun { begun } else { (Weight::Damage, LOST) };
        findings.add(weight, (path, Some(0)), what, means);
    }
    for (from, to) in parts.lost {
        let is_torn = to == bytes.len
            && (to - from < RECORD_LEN as u64 || records::is_zero_from(&mut bytes, from)?);
        let torn = (Weight::Mended, TORN);
        let (weight, means) = if is_torn { torn } else { (Weight::Damage, LOST) };
        let what = format!("{} bytes are no record", to - from);
        findings.add(weight, (path, Some(from)), what, means);
    }
    Ok(())
}
