//! What can be proved of a damaged file: whole records, torn tails, damage with records behind it.
//!
//! Nothing here reads or writes; recovery acts on what is found.

use crate::base::limits::UNSYNCED_BYTES_MAX;
use crate::store::file::format::{
    Corrupt, Crc, Decoded, Framing, IndexRecord, RECORD_HEADER_LEN, decode_record, message_place,
};

/// How the records of a file end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a whole record.
    Whole,
    /// With zeros from this offset on: a crash extended the file.
    Zeros(usize),
    /// With something from this offset on that is no record, and no record is behind it.
    Torn(usize),
    /// With a hole from this offset on as a power failure leaves it, and records behind it. Whoever
    /// may have written them without a sync was promised nothing of them.
    Hole(usize),
}

/// What a scan of a data file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The messages, sequences ascending. Of two with one sequence the later one is right: it was
    /// written by somebody who did not know of the other, because no index named it.
    pub records: Vec<IndexRecord>,
    /// Ranges of bytes that are no record, with records behind them.
    pub damaged: Vec<(usize, usize)>,
    /// How the file ends.
    pub ending: Ending,
}

/// Scans a whole data file from `start` on.
///
/// Checksums are always verified; without `must_verify`, a record that only fails its checksum is
/// taken all the same if it carries the next sequence.
#[must_use]
pub fn scan_messages(bytes: &[u8], start: usize, crc: &Crc, must_verify: bool) -> Scan {
    let mut scan = Scan { records: Vec::new(), damaged: Vec::new(), ending: Ending::Whole };
    let mut at = start;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return scan;
        }
        let expected = scan.records.last().map(|record| record.sequence + 1);
        if let Some((record, len)) = message_at(rest, at, crc, must_verify, expected) {
            while scan.records.last().is_some_and(|last| record.sequence <= last.sequence) {
                scan.records.pop();
            }
            scan.records.push(record);
            at += len;
            continue;
        }
        if rest.iter().all(|byte| *byte == 0) {
            scan.ending = Ending::Zeros(at);
            return scan;
        }
        let next =
            (1..rest.len()).find(|ahead| message_at(&rest[*ahead..], 0, crc, true, None).is_some());
        match next {
            Some(ahead) => {
                scan.damaged.push((at, at + ahead));
                at += ahead;
            }
            None => {
                scan.ending = Ending::Torn(at);
                return scan;
            }
        }
    }
}

/// The message at the front of `rest`, which lies at `at` in its file, and its length.
fn message_at(
    rest: &[u8],
    at: usize,
    crc: &Crc,
    must_verify: bool,
    expected: Option<u64>,
) -> Option<(IndexRecord, usize)> {
    // A message begins with its sequence, field 1; this spares the checksum of most garbage.
    if rest.get(RECORD_HEADER_LEN) != Some(&8) {
        return None;
    }
    let (decoded, is_proved) = match decode_record(rest, Framing::Plain, Some(crc)) {
        Ok(decoded) => (decoded, true),
        Err(_) if !must_verify => (decode_record(rest, Framing::Plain, None).ok()?, false),
        Err(_) => return None,
    };
    let Decoded::Record { payload, len, .. } = decoded else {
        return None;
    };
    let (sequence, timestamp) = message_place(payload).ok()?;
    let is_next = expected.is_none_or(|next| sequence == next);
    if sequence == 0 || !(is_proved || is_next) {
        return None;
    }
    let record = IndexRecord {
        sequence,
        offset: u64::try_from(at).ok()?,
        timestamp,
        size: u32::try_from(payload.len()).ok()?,
    };
    Some((record, len))
}

/// As the reference would say it of a hole that nothing explains.
pub const HOLE: &str = "unexpected EOF";

/// Bytes that a disk writes as a whole, or a multiple of them.
const SECTOR_LEN: usize = 512;

/// Bytes from a place in a file to the end of its sector.
#[must_use]
pub fn rest_of_sector(begin: usize) -> usize {
    SECTOR_LEN - begin % SECTOR_LEN
}

/// Whether a sector of these bytes, which lie at `begin` in their file and are no record, was never
/// written: so it looks after a power failure. It is of zeros from where the file had ended before,
/// which is where a record begins, or as a whole. Zeros anywhere else are somebody's data.
#[must_use]
pub fn is_unwritten(bytes: &[u8], begin: usize) -> bool {
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == 0);
    let Some((first, behind)) = bytes.split_at_checked(rest_of_sector(begin)) else { return false };
    is_zero(first) || behind.chunks_exact(SECTOR_LEN).any(is_zero)
}

/// What a record of a file says, by its kind and its payload.
pub type Reading<R> = fn(u8, &[u8]) -> Result<R, Corrupt>;

/// Replays records with kinds from `start` on. What is a record of this file, and what is not, is
/// told by `read`: by it records are also looked for behind what is none.
///
/// # Errors
/// [`Corrupt`], if a damaged record has whole ones behind it, or a whole one makes no sense.
pub fn replay<R>(
    bytes: &[u8],
    start: usize,
    (crc, must_verify): (&Crc, bool),
    read: Reading<R>,
    mut on_record: impl FnMut(R),
) -> Result<Ending, Corrupt> {
    let mut at = start;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let verified = decode_record(rest, Framing::Typed, must_verify.then_some(crc));
        match verified {
            Ok(Decoded::Record { kind, payload, len }) => {
                on_record(read(kind, payload)?);
                at += len;
            }
            Ok(Decoded::End) => return Ok(Ending::Whole),
            Ok(Decoded::Zeros) if rest.iter().all(|byte| *byte == 0) => {
                return Ok(Ending::Zeros(at));
            }
            Ok(Decoded::Zeros | Decoded::Torn) => {
                return end_of(rest, at, crc, read, Corrupt::Payload(HOLE.to_owned()));
            }
            Err(error) => return end_of(rest, at, crc, read, error),
        }
    }
}

/// How a file ends of which `rest`, which lies at `at`, begins with no record; an error if it is
/// damage that has a record behind it.
fn end_of<R>(
    rest: &[u8],
    at: usize,
    crc: &Crc,
    read: Reading<R>,
    error: Corrupt,
) -> Result<Ending, Corrupt> {
    match next_typed_record(rest, crc, read) {
        None => Ok(Ending::Torn(at)),
        // More than that nobody leaves without a sync.
        Some(next) if rest.len() <= UNSYNCED_BYTES_MAX && is_unwritten(&rest[..next], at) => {
            Ok(Ending::Hole(at))
        }
        Some(_) => Err(error),
    }
}

/// Where a whole record follows behind the first byte.
fn next_typed_record<R>(rest: &[u8], crc: &Crc, read: Reading<R>) -> Option<usize> {
    (1..rest.len()).find(|ahead| {
        let bytes = &rest[*ahead..];
        // Kinds of both files are 1 to 5, payloads are protobuf and not empty.
        let is_plausible = bytes.get(3).is_some_and(|kind| (1..=5).contains(kind));
        is_plausible
            && matches!(
                decode_record(bytes, Framing::Typed, Some(crc)),
                Ok(Decoded::Record { kind, payload, .. })
                    if !payload.is_empty() && read(kind, payload).is_ok()
            )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;
    use crate::store::file::format::{
        VERSION_HEADER, client_kind, decode_client, decode_subscription, encode_plain,
        encode_typed, gap_filler,
    };

    type Index = proptest::sample::Index;

    const START: usize = VERSION_HEADER.len();

    /// A data file with these sequences.
    fn file(sequences: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut bytes = VERSION_HEADER.to_vec();
        for sequence in sequences {
            encode_plain(&mut bytes, &gap_filler(b"foo", sequence, 7), &crc());
        }
        bytes
    }

    fn crc() -> Crc {
        Crc::new(Crc::IEEE)
    }

    fn sequences(scan: &Scan) -> Vec<u64> {
        scan.records.iter().map(|record| record.sequence).collect()
    }

    #[test]
    fn of_two_messages_with_one_sequence_the_later_one_counts() {
        let scan = scan_messages(&file([1, 2, 3, 2, 3, 4]), START, &crc(), true);
        assert_eq!(sequences(&scan), vec![1, 2, 3, 4]);
        assert!(scan.records.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
        let first_len = u64::try_from(file([1]).len()).unwrap();
        assert_eq!(scan.records[0].end(), first_len);
        assert!(first_len * 2 < scan.records[1].offset);
    }

    #[test]
    fn an_unproved_checksum_is_taken_for_the_next_sequence_if_checks_are_off() {
        let mut bytes = file([1, 2, 3]);
        let second = file([1]).len();
        bytes[second + 4] ^= 1;
        let strict = scan_messages(&bytes, START, &crc(), true);
        assert_eq!(sequences(&strict), vec![1, 3]);
        assert_eq!(strict.damaged.len(), 1);
        let lenient = scan_messages(&bytes, START, &crc(), false);
        assert_eq!(sequences(&lenient), vec![1, 2, 3]);
    }

    proptest! {
        #[test]
        fn a_cut_file_gives_all_whole_messages(count in 1_u64..20, at in any::<Index>()) {
            let whole = file(1..=count);
            let len = START + at.index(whole.len() - START + 1);
            let scan = scan_messages(&whole[..len], START, &crc(), true);
            let expected: Vec<u64> =
                (1..=count).filter(|last| file(1..=*last).len() <= len).collect();
            let end = file(expected.iter().copied()).len();
            prop_assert_eq!(sequences(&scan), expected);
            let ending = if end == len { Ending::Whole } else { Ending::Torn(end) };
            prop_assert_eq!(scan.ending, ending);
        }

        #[test]
        fn a_flipped_bit_costs_one_message(count in 1_u64..20, at in any::<Index>()) {
            let mut bytes = file(1..=count);
            let at = START + at.index(bytes.len() - START);
            bytes[at] ^= 1;
            let scan = scan_messages(&bytes, START, &crc(), true);
            let lost = (1..=count).find(|last| at < file(1..=*last).len()).unwrap();
            let expected: Vec<u64> = (1..=count).filter(|one| *one != lost).collect();
            prop_assert_eq!(sequences(&scan), expected);
        }

        #[test]
        fn damage_anywhere_takes_messages_and_invents_none(
            count in 1_u64..20,
            places in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        ) {
            let whole = file(1..=count);
            let mut bytes = whole.clone();
            for (place, byte) in places {
                let at = place.index(bytes.len());
                bytes[at] = byte;
            }
            let known = scan_messages(&whole, START, &crc(), true).records;
            let scan = scan_messages(&bytes, START, &crc(), true);
            prop_assert!(scan.records.iter().all(|record| known.contains(record)));
            prop_assert!(scan.records.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
            if bytes == whole {
                prop_assert_eq!(scan.records, known);
            }
            // Without checksums nothing can be told; it ends, and gives no sequence twice.
            let scan = scan_messages(&bytes, START, &crc(), false);
            prop_assert!(scan.records.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
        }

    }

    #[test]
    fn damage_before_whole_records_is_never_cut() {
        for at in [0, 1, 8, 9] {
            let mut bytes = Vec::new();
            for id in 1..4 {
                let delete = crate::proto::spb::SubStateDelete { id };
                encode_typed(&mut bytes, 3, &delete, &crc()).unwrap();
            }
            bytes[at] ^= 0x40;
            let replayed = replay(&bytes, 0, (&crc(), true), decode_subscription, |_| ());
            assert!(replayed.is_err(), "{at}: {replayed:?}");
        }
    }

    /// Goal: the same holds of clients.dat, whose records are none of subs.dat.
    #[test]
    fn damage_before_whole_clients_is_never_cut() {
        let mut whole = Vec::new();
        let mut last_at = 0;
        for id in ["me", "you", "it"] {
            last_at = whole.len();
            let info = crate::proto::spb::ClientInfo {
                id: id.into(),
                hb_inbox: format!("_INBOX.{id}").into(),
                ..Default::default()
            };
            encode_typed(&mut whole, client_kind::ADD, &info, &crc()).unwrap();
        }
        for (at, bit) in (0..last_at).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let replayed = replay(&bytes, 0, (&crc(), true), decode_client, |_| ());
            assert!(replayed.is_err(), "bit {bit} of {at}: {replayed:?}");
        }
        let torn = replay(&whole[..whole.len() - 1], 0, (&crc(), true), decode_client, |_| ());
        assert_eq!(torn, Ok(Ending::Torn(last_at)));
    }

    /// Goal: zeros are somebody's data, unless they are where a sector was never written.
    #[test]
    fn only_a_sector_that_was_never_written_is_a_hole() {
        let filled = |len: usize, zeros: std::ops::Range<usize>| {
            let mut bytes = vec![7; len];
            bytes[zeros].fill(0);
            bytes
        };
        for (begin, len, zeros, is_hole) in [
            // From where the file had ended before to the end of its sector.
            (100, 1000, 0..412, true),
            (100, 412, 0..412, true),
            // A whole sector in the midst of a long message.
            (100, 2000, 412..924, true),
            (512, 600, 0..512, true),
            // A payload of zeros that crosses sectors, with one that is filled to its end by them.
            (100, 2000, 300..412, false),
            (100, 2000, 396..900, false),
            (100, 2000, 413..1400, false),
            (100, 2000, 10..412, false),
            (100, 300, 0..300, false),
        ] {
            assert_eq!(
                is_unwritten(&filled(len, zeros.clone()), begin),
                is_hole,
                "{begin} {zeros:?}"
            );
        }
    }
}
