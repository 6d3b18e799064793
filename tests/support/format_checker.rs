//! Reads a store directory by the format's rules (spec stores, section 4).
//!
//! It shares nothing with the code that writes: own checksum, own protobuf reading. It panics with
//! the file's name where a rule is broken, and gives what the directory says.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// One message as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundMessage {
    /// From record and index.
    pub sequence: u64,
    /// From record and index.
    pub timestamp: u64,
    /// The payload that was published.
    pub data: Vec<u8>,
}

/// One channel as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundChannel {
    /// In the order of slices and index records.
    pub messages: Vec<FoundMessage>,
    /// Pending sequences by subscription id.
    pub pending: BTreeMap<u64, BTreeSet<u64>>,
    /// Numbers of the slices.
    pub slices: Vec<u64>,
}

/// A whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundStore {
    /// Whether server.dat has a record.
    pub has_server: bool,
    /// Ids of the clients.
    pub clients: BTreeSet<Vec<u8>>,
    /// By name.
    pub channels: BTreeMap<String, FoundChannel>,
}

/// Reads the store in `root`.
pub fn read_store(root: &Path) -> FoundStore {
    let mut store = FoundStore::default();
    let server = body(&root.join("server.dat"));
    store.has_server = !server.is_empty();
    if store.has_server {
        let (_, payload, rest) = record(&server, false, "server.dat");
        assert!(rest.is_empty() && !payload.is_empty(), "server.dat has one record");
    }
    let clients = body(&root.join("clients.dat"));
    let mut rest = clients.as_slice();
    while !rest.is_empty() {
        let (kind, payload, next) = record(rest, true, "clients.dat");
        let id = bytes_field(payload, 1).unwrap_or_default();
        match kind {
            1 => drop(store.clients.insert(id)),
            2 => drop(store.clients.remove(&id)),
            other => panic!("clients.dat: record of kind {other}"),
        }
        rest = next;
    }
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let name = entry.file_name().into_string().unwrap();
            if is_channel(&entry.path()) {
                store.channels.insert(name.clone(), read_channel(&entry.path(), &name));
            }
        }
    }
    store
}

/// What a creation or a deletion leaves without files is none.
fn is_channel(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name == "subs.dat" || name.starts_with("msgs.")
    })
}

fn read_channel(folder: &Path, name: &str) -> FoundChannel {
    let mut channel = FoundChannel::default();
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let middle = file.strip_prefix("msgs.").and_then(|rest| rest.strip_suffix(".dat"));
        channel.slices.extend(middle.map(|number| number.parse::<u64>().unwrap()));
    }
    channel.slices.sort_unstable();
    let last = channel.slices.last().copied();
    for number in channel.slices.clone() {
        let is_last = Some(number) == last;
        read_slice(folder, number, is_last, name, &mut channel.messages);
    }
    for pair in channel.messages.windows(2) {
        assert_eq!(pair[0].sequence + 1, pair[1].sequence, "{name}: sequences are dense");
        assert!(pair[0].timestamp <= pair[1].timestamp, "{name}: timestamps do not fall");
    }
    let subs = body(&folder.join("subs.dat"));
    let mut rest = subs.as_slice();
    while !rest.is_empty() {
        let (kind, payload, next) = record(rest, true, name);
        let id = number_field(payload, 1).unwrap_or(0);
        match kind {
            1 => drop(channel.pending.insert(id, BTreeSet::new())),
            2 => drop(channel.pending.entry(id).or_default()),
            3 => drop(channel.pending.remove(&id)),
            4 | 5 => {
                let sequence = number_field(payload, 2).unwrap_or(0);
                if let Some(pending) = channel.pending.get_mut(&id) {
                    if kind == 5 {
                        pending.insert(sequence);
                    } else {
                        pending.remove(&sequence);
                    }
                }
            }
            other => panic!("{name}: subscription record of kind {other}"),
        }
        rest = next;
    }
    channel
}

fn read_slice(folder: &Path, number: u64, is_last: bool, name: &str, out: &mut Vec<FoundMessage>) {
    let file = format!("{name}/msgs.{number}");
    let data = body(&folder.join(format!("msgs.{number}.dat")));
    let index = body(&folder.join(format!("msgs.{number}.idx")));
    assert_eq!(index.len() % 32, 0, "{file}.idx has whole records");
    let mut end = 0;
    for fields in index.chunks(32) {
        let stored = u32::from_le_bytes(fields[28..].try_into().unwrap());
        assert_eq!(checksum(&fields[..28]), stored, "{file}.idx: checksum");
        let word = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().unwrap());
        let offset = usize::try_from(word(8)).unwrap() - 4;
        assert!(end <= offset, "{file}.idx: offsets ascend");
        let (_, payload, rest) = record(&data[offset..], false, &file);
        let size = u32::from_le_bytes(fields[24..28].try_into().unwrap());
        assert_eq!(payload.len(), usize::try_from(size).unwrap(), "{file}: size");
        end = data.len() - rest.len();
        let sequence = number_field(payload, 1).unwrap();
        let timestamp = number_field(payload, 5).unwrap_or(0);
        assert_eq!((sequence, timestamp), (word(0), word(16)), "{file}: index and data agree");
        assert_eq!(bytes_field(payload, 2).unwrap(), name.as_bytes(), "{file}: subject");
        let data = bytes_field(payload, 4).unwrap_or_default();
        out.push(FoundMessage { sequence, timestamp, data });
    }
    assert!(!is_last || end == data.len(), "{file}.dat: nothing lies behind the indexed records");
}

/// A file without its version header.
fn body(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(&bytes[..4], [1, 0, 0, 0], "{}: version", path.display());
    bytes[4..].to_vec()
}

/// Kind, payload, and what follows.
fn record<'a>(bytes: &'a [u8], is_typed: bool, file: &str) -> (u8, &'a [u8], &'a [u8]) {
    assert!(8 <= bytes.len(), "{file}: a whole header");
    let (kind, top) = if is_typed { (bytes[3], 0) } else { (0, bytes[3]) };
    let size = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], top]);
    let end = 8 + usize::try_from(size).unwrap();
    assert!(end <= bytes.len(), "{file}: a whole record");
    let payload = &bytes[8..end];
    let stored = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    assert_eq!(checksum(payload), stored, "{file}: checksum");
    (kind, payload, &bytes[end..])
}

/// CRC-32 (IEEE), a bit at a time.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn field(mut rest: &[u8], wanted: u64) -> Option<Field<'_>> {
    let mut found = None;
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let value = match tag & 7 {
            0 => Field::Number(varint(&mut rest)),
            2 => {
                let len = usize::try_from(varint(&mut rest)).unwrap();
                let (bytes, next) = rest.split_at(len);
                rest = next;
                Field::Bytes(bytes)
            }
            other => panic!("wire type {other}"),
        };
        if tag >> 3 == wanted {
            found = Some(value);
        }
    }
    found
}

fn varint(rest: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, next) = rest.split_first().unwrap();
        *rest = next;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

fn number_field(payload: &[u8], wanted: u64) -> Option<u64> {
    match field(payload, wanted)? {
        Field::Number(value) => Some(value),
        Field::Bytes(_) => None,
    }
}

fn bytes_field(payload: &[u8], wanted: u64) -> Option<Vec<u8>> {
    match field(payload, wanted)? {
        Field::Number(_) => None,
        Field::Bytes(value) => Some(value.to_vec()),
    }
}
