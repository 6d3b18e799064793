//! The log of one Raft node: entries by index, its term, and the numbers of its channels.
//!
//! Facts: spec clustering, A5 and A6. `raft.log` is a bbolt database with the buckets `logs` (index
//! as 8 bytes, big-endian → a msgpack map with the fields of an entry), `conf` (`CurrentTerm`) and
//! `channels` (name → number). The data of a command is encrypted if the node was started so.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use prost::Message as _;
use rmpv::ValueRef;

use crate::base::encryption::{Cipher, StoreKey};
use crate::import::bolt::{Bolt, BoltError, Bucket, ReadAt};
use crate::proto::spb;
use crate::store::encryption::payload::{self, DecryptError, Sealer};

/// Maps in a list in a map, each of which is counted twice.
const DEPTH_MAX: usize = 12;

/// Where an entry stands: the term counts before the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its number.
    pub index: u64,
}

/// A node that has, or had, a place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node ID.
    pub id: String,
    /// Whether it counts for a majority.
    pub is_voter: bool,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// An operation of the streaming server.
    Operation(Box<spb::RaftOperation>),
    /// The members from here on.
    Members(Vec<Member>),
    /// Something that the Raft library needs for itself.
    Nothing,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// What it holds.
    pub content: Content,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file.
    #[error(transparent)]
    Bolt(#[from] BoltError),
    /// A table is missing.
    #[error("it has no bucket {0:?}, so it is no log of a streaming server")]
    NoBucket(&'static str),
    /// An entry cannot be understood.
    #[error("entry {index} is damaged: {what}")]
    Entry {
        /// Its number.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
    /// An entry is encrypted, and no key was given.
    #[error(
        "entry {0} is encrypted: give the key of the cluster with --encrypt, and \
         NATS_STREAMING_ENCRYPTION_KEY or --encryption-key"
    )]
    NoKey(u64),
    /// An entry is encrypted with another key.
    #[error("entry {index} cannot be decrypted: {source}; is it the key of this cluster?")]
    Key {
        /// Its number.
        index: u64,
        /// What the cipher says.
        source: DecryptError,
    },
    /// Entries are missing.
    #[error("entry {expected} is missing: {found}")]
    Gap {
        /// The first one that is.
        expected: u64,
        /// What was found instead.
        found: String,
    },
}

/// A log that was opened.
pub struct RaftLog<S> {
    bolt: Bolt<S>,
    logs: Bucket,
    channels: BTreeMap<Vec<u8>, u64>,
    key: Option<StoreKey>,
    aes: OnceCell<Sealer>,
    chacha: OnceCell<Sealer>,
    /// The first entry, and the last one; `None` of an empty log.
    ends: Option<(Place, Place)>,
    term: u64,
}

impl<S: ReadAt> RaftLog<S> {
    /// Opens a log.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(source: S, key: Option<StoreKey>) -> Result<Self, LogError> {
        let bolt = Bolt::open(source)?;
        let named =
            |name: &'static str| bolt.bucket(name.as_bytes())?.ok_or(LogError::NoBucket(name));
        let (logs, conf) = (named("logs")?, named("conf")?);
        let mut channels = BTreeMap::new();
        // Servers before 0.16 had none.
        if let Some(bucket) = bolt.bucket(b"channels")? {
            for pair in bolt.entries_from(&bucket, b"")? {
                let (name, number) = pair?;
                channels.insert(name, number_of(&number).unwrap_or(0));
            }
        }
        let mut term = 0;
        if let Some(pair) = bolt.entries_from(&conf, b"CurrentTerm")?.next() {
            let (name, number) = pair?;
            if name == b"CurrentTerm" {
                term = number_of(&number).unwrap_or(0);
            }
        }
        let (aes, chacha) = (OnceCell::new(), OnceCell::new());
        let mut log = Self { bolt, logs, channels, key, aes, chacha, ends: None, term };
        let first = log.bolt.entries_from(&log.logs, b"")?.next().transpose()?;
        let last = log.bolt.last(&log.logs)?;
        if let (Some(first), Some(last)) = (first, last) {
            // What it holds may be encrypted; where it stands is not.
            let place =
                |(key, value): (Vec<u8>, Vec<u8>)| raw_entry(&key, &value).map(|raw| raw.place);
            log.ends = Some((place(first)?, place(last)?));
        }
        Ok(log)
    }

    /// The first entry and the last one; `None` of an empty log.
    #[must_use]
    pub fn ends(&self) -> Option<(Place, Place)> {
        self.ends
    }

    /// The newest term that the node has heard of.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The number of the channel of that name in the node's store; 0 if it is not known.
    #[must_use]
    pub fn channel_number(&self, name: &[u8]) -> u64 {
        self.channels.get(name).copied().unwrap_or(0)
    }

    /// One entry.
    ///
    /// # Errors
    /// [`LogError`]; also where there is none of that number.
    pub fn entry(&self, index: u64) -> Result<Entry, LogError> {
        let found = self.entries_from(index)?.next().transpose()?;
        match found {
            Some(entry) if entry.place.index == index => Ok(entry),
            other => {
                let found = other.map_or_else(
                    || "the log ends before it".to_owned(),
                    |entry| format!("entry {} comes next", entry.place.index),
                );
                Err(LogError::Gap { expected: index, found })
            }
        }
    }

    /// The entries from `index` on.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn entries_from(
        &self,
        index: u64,
    ) -> Result<impl Iterator<Item = Result<Entry, LogError>> + use<'_, S>, LogError> {
        let pairs = self.bolt.entries_from(&self.logs, &index.to_be_bytes())?;
        Ok(pairs.map(|pair| {
            let (key, value) = pair?;
            self.decode(&key, &value)
        }))
    }

    /// The first of the entries that lead up to the one at `place`, with none missing: they are the
    /// ones that every node has there. `None` where another entry, or none, is at that place.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn leads_up_to(&self, place: Place) -> Result<Option<u64>, LogError> {
        let (mut first, mut before) = (0, Place::default());
        for pair in self.bolt.entries_from(&self.logs, b"")? {
            let (key, value) = pair?;
            let found = raw_entry(&key, &value)?.place;
            if place.index < found.index {
                break;
            }
            if found.index != before.index + 1 || first == 0 {
                first = found.index;
            }
            before = found;
        }
        Ok((before == place && first != 0).then_some(first))
    }

    /// The newest members that an entry from `index` on names; `None` if none does. Nothing is
    /// decrypted for it.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn newest_members(&self, index: u64) -> Result<Option<Vec<Member>>, LogError> {
        let mut newest = None;
        for pair in self.bolt.entries_from(&self.logs, &index.to_be_bytes())? {
            let (key, value) = pair?;
            if raw_entry(&key, &value)?.kind == CONFIGURATION
                && let Content::Members(found) = self.decode(&key, &value)?.content
            {
                newest = Some(found);
            }
        }
        Ok(newest)
    }

    /// The entries from `index` on as they lie there, encrypted or not.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) fn raw_entries_from(
        &self,
        index: u64,
    ) -> Result<impl Iterator<Item = Result<RawEntry, LogError>> + use<'_, S>, LogError> {
        let pairs = self.bolt.entries_from(&self.logs, &index.to_be_bytes())?;
        Ok(pairs.map(|pair| {
            let (key, value) = pair?;
            raw_entry(&key, &value)
        }))
    }

    /// The data of an entry of this log, decrypted.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) fn plain(&self, entry: &RawEntry) -> Result<Vec<u8>, LogError> {
        match entry.kind {
            COMMAND => self.decrypted(entry.place.index, entry.data.clone()),
            _ => Ok(entry.data.clone()),
        }
    }

    /// Whether one of the two pages that say what counts of the file is damaged.
    #[must_use]
    pub(super) fn has_damaged_meta(&self) -> bool {
        self.bolt.has_damaged_meta()
    }

    /// Whether an entry there can follow one of the term `before`: terms only grow, and a node has
    /// written down a term before it takes entries of it.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) fn check_term(&self, place: Place, before: u64) -> Result<(), LogError> {
        let damaged = |what: String| Err(LogError::Entry { index: place.index, what });
        if place.term < before {
            return damaged(format!("its term {} comes behind {before}", place.term));
        }
        if 0 < self.term && self.term < place.term {
            return damaged(format!("its term {} is to come: it is {}", place.term, self.term));
        }
        Ok(())
    }

    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Entry, LogError> {
        let raw = raw_entry(key, value)?;
        let index = raw.place.index;
        let damaged = |what: String| LogError::Entry { index, what };
        let content = match raw.kind {
            COMMAND => {
                let data = self.decrypted(index, raw.data)?;
                let operation = spb::RaftOperation::decode(data.as_slice());
                let operation = operation.map_err(|error| damaged(error.to_string()))?;
                Content::Operation(Box::new(operation))
            }
            CONFIGURATION => {
                let members = members(&raw.data);
                Content::Members(members.ok_or_else(|| damaged("its members".to_owned()))?)
            }
            NOOP | BARRIER if raw.data.is_empty() => Content::Nothing,
            kind => return Err(damaged(format!("its kind {kind} does not go with its content"))),
        };
        Ok(Entry { place: raw.place, content })
    }

    fn decrypted(&self, index: u64, data: Vec<u8>) -> Result<Vec<u8>, LogError> {
        // No operation begins with the byte of a cipher.
        let Some(cipher) = payload::cipher_of(&data) else { return Ok(data) };
        let key = self.key.as_ref().ok_or(LogError::NoKey(index))?;
        let sealer = match cipher {
            Cipher::Aes => &self.aes,
            Cipher::ChaCha => &self.chacha,
        };
        let sealer = sealer.get_or_init(|| Sealer::new(cipher, &key.of_log()));
        sealer.decrypt(&data).map_err(|source| LogError::Key { index, source })
    }
}

const COMMAND: u64 = 0;
const NOOP: u64 = 1;
const BARRIER: u64 = 4;
const CONFIGURATION: u64 = 5;

/// An entry as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawEntry {
    pub(super) place: Place,
    pub(super) kind: u64,
    pub(super) data: Vec<u8>,
}

impl RawEntry {
    /// The members that it names, in the order of their IDs.
    pub(super) fn members(&self) -> Option<Vec<Member>> {
        let mut members = members(&self.data).filter(|_| self.kind == CONFIGURATION)?;
        members.sort_by(|one, other| one.id.cmp(&other.id));
        Some(members)
    }
}

fn raw_entry(key: &[u8], value: &[u8]) -> Result<RawEntry, LogError> {
    let index = number_of(key).unwrap_or(0);
    let damaged = |what: &str| LogError::Entry { index, what: what.to_owned() };
    let fields = map(value).ok_or_else(|| damaged("it is no msgpack map"))?;
    let number = |name: &str| field(&fields, name).and_then(ValueRef::as_u64);
    let (Some(term), Some(kind)) = (number("Term"), number("Type")) else {
        return Err(damaged("it has no term or type"));
    };
    if number("Index") != Some(index) || index == 0 {
        return Err(damaged("it has another index"));
    }
    let data = field(&fields, "Data").and_then(bytes).unwrap_or_default().to_vec();
    Ok(RawEntry { place: Place { term, index }, kind, data })
}

/// The members that a record of the Raft library names.
fn members(data: &[u8]) -> Option<Vec<Member>> {
    let fields = map(data)?;
    let ValueRef::Array(servers) = field(&fields, "Servers")? else { return None };
    let member = |server: &ValueRef<'_>| {
        let ValueRef::Map(fields) = server else { return None };
        let id = String::from_utf8_lossy(bytes(field(fields, "ID")?)?).into_owned();
        Some(Member { id, is_voter: field(fields, "Suffrage")?.as_u64()? == VOTER })
    };
    servers.iter().map(member).collect()
}

/// The suffrage of a member that counts for a majority.
pub(super) const VOTER: u64 = 0;

type Fields<'a> = Vec<(ValueRef<'a>, ValueRef<'a>)>;

fn map(mut data: &[u8]) -> Option<Fields<'_>> {
    let value = rmpv::decode::read_value_ref_with_max_depth(&mut data, DEPTH_MAX).ok()?;
    if let ValueRef::Map(fields) = value { Some(fields) } else { None }
}

fn field<'a, 'b>(
    fields: &'b [(ValueRef<'a>, ValueRef<'a>)],
    name: &str,
) -> Option<&'b ValueRef<'a>> {
    let is_it = |key: &ValueRef<'_>| bytes(key) == Some(name.as_bytes());
    fields.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value)
}

/// Texts and bytes are one kind there; what is not there is nil.
fn bytes<'b>(value: &'b ValueRef<'_>) -> Option<&'b [u8]> {
    if let ValueRef::String(text) = value {
        return Some(text.as_bytes());
    }
    if let ValueRef::Binary(bytes) = value { Some(bytes) } else { None }
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests;
