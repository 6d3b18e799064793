//! Every byte layout and file name; encode and decode; no I/O.
//!
//! Integers are little-endian. Each file starts with its version (u32, 1). Then records:
//!
//! | offset | size | field                                                              |
//! |--------|------|--------------------------------------------------------------------|
//! | 0      | 4    | payload size; in clients.dat and subs.dat the top byte is the kind |
//! | 4      | 4    | CRC-32 of the payload                                              |
//! | 8      | …    | payload, protobuf                                                  |
//!
//! An index file has 32 bytes a message instead: sequence (u64), offset of the record (i64),
//! timestamp (i64), payload size (u32), CRC-32 of these 28 bytes (u32). (Spec stores, section 4.)

use prost::Message;

use crate::proto::{pb, spb};
use crate::store::file::deliveries::Number;
use crate::store::file::purging::Floor;

/// The version header of every file.
pub const VERSION_HEADER: [u8; 4] = [1, 0, 0, 0];
/// Offset of the first record.
pub const FILE_HEADER_LEN: u64 = 4;
/// Bytes before a record's payload.
pub const RECORD_HEADER_LEN: usize = 8;
/// Bytes of one index record.
pub const INDEX_RECORD_LEN: usize = 32;
/// Bytes of a checksum.
const CRC_LEN: usize = 4;
/// What the store's own accounting adds to a message: record header and index record.
pub const MESSAGE_OVERHEAD: u64 = 40;
/// Most payload bytes of a record with a kind.
pub const TYPED_PAYLOAD_MAX: usize = 0xFF_FFFF;

/// The server's record.
pub const SERVER_FILE: &[u8] = b"server.dat";
/// The client registry.
pub const CLIENTS_FILE: &[u8] = b"clients.dat";
/// The subscriptions of a channel.
pub const SUBSCRIPTIONS_FILE: &[u8] = b"subs.dat";
/// The witness of the option to truncate.
pub const TRUNCATE_WITNESS: &[u8] = b".truncate.lck";
/// Space set aside so that small records can be written on a full disk.
pub const RESERVE_FILE: &[u8] = b".stanby.reserve";

const REMOVED_PREFIX: &str = "removed.";
const DELETED_PREFIX: &str = "deleted.";
const PURGED_PREFIX: &str = "purged.";
const EMPTIED_PREFIX: &str = "emptied.";
/// In the root each name of ours begins with a dot: no channel's name can (spec stores, 3).
const REPLACEMENT_PREFIX: &str = ".stanby.replacement.";
/// What earlier releases wrote instead.
const FORMER_REPLACEMENT_PREFIX: &str = "stanby.replacement.";
const SETTLED_PREFIX: &str = ".stanby.settled.";
const DELIVERIES_PREFIX: &str = ".stanby.deliveries.";
const CUT_PREFIX: &str = "cut.";
const ROOT_CUT_PREFIX: &str = ".stanby.cut.";

/// Kinds of records in clients.dat.
pub mod client_kind {
    /// A client was added or replaced.
    pub const ADD: u8 = 1;
    /// A client was removed.
    pub const DELETE: u8 = 2;
}

/// Kinds of records in subs.dat.
pub mod subscription_kind {
    /// A subscription with nothing pending.
    pub const NEW: u8 = 1;
    /// Its record was replaced.
    pub const UPDATE: u8 = 2;
    /// It is gone.
    pub const DELETE: u8 = 3;
    /// A message was acknowledged.
    pub const ACK: u8 = 4;
    /// A message was delivered.
    pub const MESSAGE: u8 = 5;
}

/// CRC-32 with the polynomial of the options (reflected, all ones before and after).
#[derive(Clone, Debug)]
pub struct Crc {
    table: Option<Box<[u32; 256]>>,
}

impl Crc {
    /// The usual polynomial, which the CPU helps with.
    pub const IEEE: u32 = 0xEDB8_8320;

    /// A checksum by `polynomial`, in reversed notation.
    #[must_use]
    pub fn new(polynomial: u32) -> Self {
        if polynomial == Self::IEEE {
            return Self { table: None };
        }
        let mut table = Box::new([0; 256]);
        for (entry, byte) in table.iter_mut().zip(0_u32..) {
            *entry = (0..8)
                .fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ polynomial } else { crc >> 1 });
        }
        Self { table: Some(table) }
    }

    /// The checksum of `bytes`.
    #[must_use]
    pub fn of(&self, bytes: &[u8]) -> u32 {
        let Some(table) = &self.table else {
            return crc32fast::hash(bytes);
        };
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            let [low, ..] = crc.to_le_bytes();
            (crc >> 8) ^ table[usize::from(low ^ byte)]
        })
    }
}

/// Whether records of a file have a kind in the top byte of their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// server.dat and slices.
    Plain,
    /// clients.dat and subs.dat.
    Typed,
}

/// What stands at a record's boundary.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole record; the next one begins `len` bytes further.
    Record {
        /// Its kind; 0 without kinds.
        kind: u8,
        /// Its payload.
        payload: &'a [u8],
        /// Its length with its header.
        len: usize,
    },
    /// The file ends here.
    End,
    /// A header of zeros: a crash extended the file; the data ends here.
    Zeros,
    /// The file ends inside of the record.
    Torn,
}

/// Why a record cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// The checksum does not fit.
    #[error("corrupted data, expected crc to be {stored:#010x}, got {computed:#010x}")]
    Crc {
        /// As read.
        stored: u32,
        /// As it should be.
        computed: u32,
    },
    /// The payload is no message of its kind.
    #[error("proto: {0}")]
    Payload(String),
    /// The kind is none of clients.dat.
    #[error("invalid client record type: {0}")]
    ClientKind(u8),
    /// The kind is none of subs.dat.
    #[error("unexpected record type: {0}")]
    SubscriptionKind(u8),
}

/// Reads one record from the front of `bytes`, which reach to the end of the file.
///
/// # Errors
/// [`Corrupt::Crc`], if `crc` is given and does not fit.
pub fn decode_record<'a>(
    bytes: &'a [u8],
    framing: Framing,
    crc: Option<&Crc>,
) -> Result<Decoded<'a>, Corrupt> {
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_LEN>() else {
        return Ok(if bytes.is_empty() { Decoded::End } else { Decoded::Torn });
    };
    let [s0, s1, s2, s3, c0, c1, c2, c3] = *header;
    let stored = u32::from_le_bytes([c0, c1, c2, c3]);
    let (kind, size) = match framing {
        Framing::Plain => (0, u32::from_le_bytes([s0, s1, s2, s3])),
        Framing::Typed => (s3, u32::from_le_bytes([s0, s1, s2, 0])),
    };
    if kind == 0 && size == 0 && stored == 0 {
        return Ok(Decoded::Zeros);
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    // Compat: the reference takes a header without any payload byte for a clean end; what is
    // written behind it is lost. For us it is torn (spec stores, Q1).
    let Some(payload) = rest.get(..size) else {
        return Ok(Decoded::Torn);
    };
    if let Some(crc) = crc {
        let computed = crc.of(payload);
        if stored != computed {
            return Err(Corrupt::Crc { stored, computed });
        }
    }
    Ok(Decoded::Record { kind, payload, len: RECORD_HEADER_LEN + payload.len() })
}

/// Appends a message's record to `out`.
pub fn encode_plain(out: &mut Vec<u8>, payload: &[u8], crc: &Crc) {
    let size = u32::try_from(payload.len()).expect("a message is bounded by max_payload");
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&crc.of(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Appends a record with a kind to `out`.
///
/// # Errors
/// The reference's text, if the payload is too big for the format.
pub fn encode_typed(
    out: &mut Vec<u8>,
    kind: u8,
    message: &impl Message,
    crc: &Crc,
) -> Result<(), RecordTooBig> {
    let len = message.encoded_len();
    if TYPED_PAYLOAD_MAX < len {
        return Err(RecordTooBig);
    }
    let [s0, s1, s2, _] = u32::try_from(len).map_err(|_| RecordTooBig)?.to_le_bytes();
    out.extend_from_slice(&[s0, s1, s2, kind]);
    let crc_at = out.len();
    out.extend_from_slice(&[0; CRC_LEN]);
    message.encode_raw(out);
    let sum = crc.of(&out[crc_at + CRC_LEN..]).to_le_bytes();
    out[crc_at..crc_at + CRC_LEN].copy_from_slice(&sum);
    Ok(())
}

/// A payload that the format's 24 bits of size cannot describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record size too big")]
pub struct RecordTooBig;

/// One message in an index file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRecord {
    /// The message's sequence.
    pub sequence: u64,
    /// Where its record begins in the data file.
    pub offset: u64,
    /// Its timestamp in Unix nanoseconds.
    pub timestamp: i64,
    /// Its size, without the record's header.
    pub size: u32,
}

impl IndexRecord {
    /// Where the next record begins in the data file.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset
            .saturating_add(u64::from(self.size))
            .saturating_add(u64::try_from(RECORD_HEADER_LEN).unwrap_or(0))
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>, crc: &Crc) {
        let start = out.len();
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        let checksum = crc.of(&out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
    }

    /// Reads one record; `None` for a record of zeros.
    ///
    /// # Errors
    /// [`Corrupt::Crc`], if `crc` is given and does not fit.
    pub fn decode(
        bytes: &[u8; INDEX_RECORD_LEN],
        crc: Option<&Crc>,
    ) -> Result<Option<Self>, Corrupt> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (fields, stored) = bytes.split_last_chunk::<4>().expect("32 bytes have a last 4");
        let stored = u32::from_le_bytes(*stored);
        if let Some(crc) = crc {
            let computed = crc.of(fields);
            if stored != computed {
                return Err(Corrupt::Crc { stored, computed });
            }
        }
        let word = |at: usize| -> u64 {
            fields[at..at + 8].iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
        };
        let [.., z0, z1, z2, z3] = *fields else { unreachable!("28 bytes have a last 4") };
        Ok(Some(Self {
            sequence: word(0),
            offset: word(8),
            timestamp: word(16).cast_signed(),
            size: u32::from_le_bytes([z0, z1, z2, z3]),
        }))
    }
}

/// Offset of the index record with this number in its file.
#[must_use]
pub fn index_offset(ordinal: u64) -> u64 {
    FILE_HEADER_LEN + 32 * ordinal
}

/// Whether `header`, the first bytes of a file, is a version that we know.
///
/// # Errors
/// The reference's text.
pub fn check_version(header: &[u8]) -> Result<(), String> {
    match header.first_chunk::<4>() {
        None if header.is_empty() => Err("unable to verify file version: EOF".to_owned()),
        None => Err("unable to verify file version: unexpected EOF".to_owned()),
        Some(bytes) => match u32::from_le_bytes(*bytes) {
            1 => Ok(()),
            found => Err(format!("unsupported file version: {found} (supports [1..1])")),
        },
    }
}

/// Sequence and timestamp of an encoded `MsgProto`.
///
/// # Errors
/// [`Corrupt::Payload`].
pub fn message_place(payload: &[u8]) -> Result<(u64, i64), Corrupt> {
    let message = pb::MsgProto::decode(payload).map_err(|e| Corrupt::Payload(e.to_string()))?;
    Ok((message.sequence, message.timestamp))
}

/// The sequence that an encoded `MsgProto` starts with; `None` if it starts otherwise.
#[must_use]
pub fn leading_sequence(payload: &[u8]) -> Option<u64> {
    let (tag, mut rest) = payload.split_first()?;
    (*tag == 8).then_some(())?;
    prost::encoding::decode_varint(&mut rest).ok()
}

/// A message without data, for a sequence that nothing was published under (spec stores, 5.5).
#[must_use]
pub fn gap_filler(channel: &[u8], sequence: u64, timestamp: i64) -> Vec<u8> {
    pb::MsgProto {
        sequence,
        subject: bytes::Bytes::copy_from_slice(channel),
        timestamp,
        ..pb::MsgProto::default()
    }
    .encode_to_vec()
}

/// A record of subs.dat.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscriptionRecord {
    /// See [`subscription_kind::NEW`].
    New(spb::SubState),
    /// See [`subscription_kind::UPDATE`].
    Update(spb::SubState),
    /// See [`subscription_kind::DELETE`].
    Delete(u64),
    /// See [`subscription_kind::ACK`]: subscription and sequence.
    Ack(u64, u64),
    /// See [`subscription_kind::MESSAGE`]: subscription and sequence.
    Message(u64, u64),
}

/// Reads the payload of a record of subs.dat.
///
/// # Errors
/// [`Corrupt::Payload`] or [`Corrupt::SubscriptionKind`].
pub fn decode_subscription(kind: u8, payload: &[u8]) -> Result<SubscriptionRecord, Corrupt> {
    let update = || decode::<spb::SubStateUpdate>(payload);
    Ok(match kind {
        subscription_kind::NEW => SubscriptionRecord::New(decode(payload)?),
        subscription_kind::UPDATE => SubscriptionRecord::Update(decode(payload)?),
        subscription_kind::DELETE => {
            SubscriptionRecord::Delete(decode::<spb::SubStateDelete>(payload)?.id)
        }
        subscription_kind::ACK => {
            update().map(|found| SubscriptionRecord::Ack(found.id, found.seqno))?
        }
        subscription_kind::MESSAGE => {
            update().map(|found| SubscriptionRecord::Message(found.id, found.seqno))?
        }
        other => return Err(Corrupt::SubscriptionKind(other)),
    })
}

/// A record of clients.dat.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientRecord {
    /// See [`client_kind::ADD`].
    Add(spb::ClientInfo),
    /// See [`client_kind::DELETE`].
    Delete(spb::ClientDelete),
}

/// Reads the payload of a record of clients.dat.
///
/// # Errors
/// [`Corrupt::Payload`] or [`Corrupt::ClientKind`].
pub fn decode_client(kind: u8, payload: &[u8]) -> Result<ClientRecord, Corrupt> {
    Ok(match kind {
        client_kind::ADD => ClientRecord::Add(decode(payload)?),
        client_kind::DELETE => ClientRecord::Delete(decode(payload)?),
        other => return Err(Corrupt::ClientKind(other)),
    })
}

/// Reads a protobuf payload; strings in it share nothing with `payload`.
///
/// # Errors
/// [`Corrupt::Payload`].
pub fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Corrupt> {
    M::decode(payload).map_err(|error| Corrupt::Payload(error.to_string()))
}

/// The data file of a slice.
#[must_use]
pub fn slice_data_name(number: u64) -> Vec<u8> {
    format!("msgs.{number}.dat").into_bytes()
}

/// The index file of a slice.
#[must_use]
pub fn slice_index_name(number: u64) -> Vec<u8> {
    format!("msgs.{number}.idx").into_bytes()
}

/// What a file of a channel's folder is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelFile {
    /// Data of the slice of that number.
    Data(u64),
    /// Index of the slice of that number.
    Index(u64),
    /// Subscriptions.
    Subscriptions,
    /// A file that a removal has renamed: its epoch and former name.
    Removed(u64, Vec<u8>),
    /// Says that all that a removal of that epoch has renamed is to go, and nothing to be put back.
    Deleted(u64),
    /// Says that an operator has let everything before a message go.
    Purged(Floor),
    /// A name that the reference refuses as a slice.
    Invalid,
    /// Nothing of the format.
    Other,
}

/// Sorts the name of a file in a channel's folder.
#[must_use]
pub fn channel_file(name: &[u8]) -> ChannelFile {
    if name == SUBSCRIPTIONS_FILE {
        return ChannelFile::Subscriptions;
    }
    if let Some((epoch, rest)) = split_epoch(name, REMOVED_PREFIX) {
        return ChannelFile::Removed(epoch, rest.to_vec());
    }
    if let Some((epoch, _)) = split_epoch(name, DELETED_PREFIX) {
        return ChannelFile::Deleted(epoch);
    }
    for (prefix, is_emptied) in [(PURGED_PREFIX, false), (EMPTIED_PREFIX, true)] {
        if let Some(first) = name.strip_prefix(prefix.as_bytes()).and_then(slice_number) {
            return ChannelFile::Purged(Floor { first, is_emptied });
        }
    }
    let Some(rest) = name.strip_prefix(b"msgs.") else {
        return ChannelFile::Other;
    };
    if let Some(number) = rest.strip_suffix(b".idx").and_then(slice_number) {
        return ChannelFile::Index(number);
    }
    if rest == b"dat" || rest.ends_with(b".dat") {
        let number = rest.strip_suffix(b".dat").and_then(slice_number);
        return number.map_or(ChannelFile::Invalid, ChannelFile::Data);
    }
    ChannelFile::Other
}

/// Whether the format defines a file of that name in a channel's folder. Nobody touches any other,
/// but to delete the channel.
#[must_use]
pub fn is_channel_file(name: &[u8]) -> bool {
    match channel_file(name) {
        ChannelFile::Data(_)
        | ChannelFile::Index(_)
        | ChannelFile::Subscriptions
        | ChannelFile::Removed(..)
        | ChannelFile::Deleted(_)
        | ChannelFile::Purged(_) => true,
        ChannelFile::Invalid | ChannelFile::Other => false,
    }
}

/// Whether the format defines a file of that name in the root that holds data, or is about to
/// replace one that does.
#[must_use]
pub fn is_root_file(name: &[u8]) -> bool {
    name == SERVER_FILE || name == CLIENTS_FILE || replacement_epoch(name).is_some()
}

/// The name of a file that a removal of `epoch` has taken away.
#[must_use]
pub fn removed_name(epoch: u64, name: &[u8]) -> Vec<u8> {
    [format!("{REMOVED_PREFIX}{epoch}.").as_bytes(), name].concat()
}

/// What the last file of a channel is called once `epoch` has decided that the channel goes.
#[must_use]
pub fn deleted_name(epoch: u64, name: &[u8]) -> Vec<u8> {
    [format!("{DELETED_PREFIX}{epoch}.").as_bytes(), name].concat()
}

/// The name of the file that says which message is the oldest that an operator has left.
#[must_use]
pub fn floor_name(floor: Floor) -> Vec<u8> {
    let prefix = if floor.is_emptied { EMPTIED_PREFIX } else { PURGED_PREFIX };
    format!("{prefix}{}", floor.first).into_bytes()
}

/// The name, in the root, of a file of `epoch` that will replace another.
#[must_use]
pub fn replacement_name(epoch: u64, counter: u64) -> Vec<u8> {
    format!("{REPLACEMENT_PREFIX}{epoch}.{counter}").into_bytes()
}

/// The epoch of a replacement that was not put in place, if a file of that name is one.
#[must_use]
pub fn replacement_epoch(name: &[u8]) -> Option<u64> {
    let found = split_epoch(name, REPLACEMENT_PREFIX)
        .or_else(|| split_epoch(name, FORMER_REPLACEMENT_PREFIX));
    found.map(|(epoch, _)| epoch)
}

/// The name, in the channel's folder or the root, of bytes cut from `name` at `offset`.
#[must_use]
pub fn cut_name(epoch: u64, name: &[u8], offset: u64) -> Vec<u8> {
    let prefix = if name == CLIENTS_FILE { ROOT_CUT_PREFIX } else { CUT_PREFIX };
    [
        prefix.as_bytes(),
        epoch.to_string().as_bytes(),
        b".",
        name,
        b".",
        offset.to_string().as_bytes(),
    ]
    .concat()
}

/// The name, in the root, of what `epoch` says of what is durable.
#[must_use]
pub fn settled_name(epoch: u64) -> Vec<u8> {
    format!("{SETTLED_PREFIX}{epoch}").into_bytes()
}

/// The epoch of such a name.
#[must_use]
pub fn settled_epoch(name: &[u8]) -> Option<u64> {
    name.strip_prefix(SETTLED_PREFIX.as_bytes()).and_then(parse_number)
}

/// The name, in the root, of a file of counts of deliveries.
#[must_use]
pub fn deliveries_name(number: Number) -> Vec<u8> {
    let Number { epoch, generation, share } = number;
    format!("{DELIVERIES_PREFIX}{epoch}.{generation}.{share}").into_bytes()
}

/// What such a name says.
#[must_use]
pub fn deliveries_number(name: &[u8]) -> Option<Number> {
    let mut numbers = name.strip_prefix(DELIVERIES_PREFIX.as_bytes())?.split(|byte| *byte == b'.');
    let mut next = || numbers.next().and_then(slice_number);
    let number = Number { epoch: next()?, generation: next()?, share: next()? };
    numbers.next().is_none().then_some(number)
}

/// The present name of a file of the root that an earlier release has cut from another.
#[must_use]
pub fn renamed_cut(name: &[u8]) -> Option<Vec<u8>> {
    let (epoch, rest) = split_epoch(name, CUT_PREFIX)?;
    let offset = rest.strip_prefix(CLIENTS_FILE)?.strip_prefix(b".").and_then(parse_number)?;
    Some(cut_name(epoch, CLIENTS_FILE, offset))
}

fn split_epoch<'a>(name: &'a [u8], prefix: &str) -> Option<(u64, &'a [u8])> {
    let rest = name.strip_prefix(prefix.as_bytes())?;
    let dot = rest.iter().position(|byte| *byte == b'.')?;
    Some((parse_number(&rest[..dot])?, &rest[dot + 1..]))
}

/// A number as it stands in the name of a slice. The name is made from it again, so one that is
/// written in another way (`001`, `+1`) is none: another file would be opened.
fn slice_number(digits: &[u8]) -> Option<u64> {
    parse_number(digits).filter(|number| number.to_string().as_bytes() == digits)
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // The reference reads a signed number.
    u64::try_from(text.parse::<i64>().ok()?).ok()
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
