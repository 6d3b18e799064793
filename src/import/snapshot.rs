//! A snapshot of the Raft library: a folder with `meta.json` and `state.bin`.
//!
//! Facts: spec clustering, A7. The folder's name is `<term>-<index>-<milliseconds>`; one that was
//! not finished ends with `.tmp`. The state is its length (u32, little-endian) and a
//! `RaftSnapshot`; its CRC-64 (ECMA) stands in the meta data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;
use serde::Deserialize;

use crate::base::base64;
use crate::base::files;
use crate::import::raft_log::{Member, Place, VOTER};
use crate::proto::spb;

const META_FILE: &str = "meta.json";
const STATE_FILE: &str = "state.bin";
const META_LEN_MAX: u64 = 16 * 1024 * 1024;
/// Its length is a number of 32 bits.
const STATE_LEN_MAX: u64 = 4 + u32::MAX as u64;
/// Versions of the Raft library's meta data that we know.
const VERSION_MAX: u64 = 1;

/// One snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The last entry that is in it.
    pub place: Place,
    /// The members then.
    pub members: Vec<Member>,
    /// Clients, channels and subscriptions.
    pub state: spb::RaftSnapshot,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    version: u64,
    index: u64,
    term: u64,
    configuration: Configuration,
    #[serde(rename = "CRC", default)]
    crc: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    servers: Option<Vec<Server>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    suffrage: u64,
    #[serde(rename = "ID")]
    id: String,
}

/// The newest snapshot below a node's Raft folder that can be read, as the library takes it, and
/// why newer ones cannot. `None` if there is none.
///
/// # Errors
/// When the folder cannot be listed, or there are snapshots and none can be read.
pub fn newest(folder: &Path) -> Result<(Option<Snapshot>, Vec<SnapshotError>), SnapshotError> {
    let mut errors = Vec::new();
    for (place, path) in candidates(&folder.join("snapshots"))? {
        match read(&path, place) {
            Ok(snapshot) => return Ok((Some(snapshot), errors)),
            Err(error) => errors.push(error),
        }
    }
    match errors.is_empty() {
        true => Ok((None, errors)),
        false => Err(errors.swap_remove(0)),
    }
}

/// Finished snapshots with where they end by their names, the newest first.
fn candidates(folder: &Path) -> Result<Vec<(Place, PathBuf)>, SnapshotError> {
    let failed = |source| SnapshotError::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Some(numbers) = name.to_str().and_then(numbers) else { continue };
        found.push((numbers, folder.join(&name)));
    }
    found.sort_by_key(|(numbers, _)| std::cmp::Reverse(*numbers));
    let place = |[term, index, _]: [u64; 3]| Place { term, index };
    Ok(found.into_iter().map(|(numbers, path)| (place(numbers), path)).collect())
}

/// Term, index and time in a folder's name.
fn numbers(name: &str) -> Option<[u64; 3]> {
    let mut numbers = name.split('-').map(|part| part.parse::<u64>().ok());
    let found = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(found)
}

/// The meta data have no checksum, so where it ends must stand in the name as well.
fn read(folder: &Path, named: Place) -> Result<Snapshot, SnapshotError> {
    let file = |name: &str, len_max: u64| {
        let path = folder.join(name);
        let bytes = files::read(&path, len_max);
        bytes.map_err(|source| SnapshotError::Io { path, source })
    };
    let meta = decode_meta(&file(META_FILE, META_LEN_MAX)?)
        .map_err(|what| SnapshotError::Damaged { path: folder.join(META_FILE), what })?;
    let place = Place { term: meta.term, index: meta.index };
    if place != named {
        let what = format!("it is for entry {} of term {}", place.index, place.term);
        return Err(SnapshotError::Damaged { path: folder.join(META_FILE), what });
    }
    let state = decode_state(&file(STATE_FILE, STATE_LEN_MAX)?, meta.crc.as_deref())
        .map_err(|what| SnapshotError::Damaged { path: folder.join(STATE_FILE), what })?;
    let servers = meta.configuration.servers.unwrap_or_default().into_iter();
    let members = servers
        .map(|server| Member { id: server.id, is_voter: server.suffrage == VOTER })
        .collect();
    Ok(Snapshot { place, members, state })
}

fn decode_meta(bytes: &[u8]) -> Result<Meta, String> {
    let meta: Meta = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if VERSION_MAX < meta.version {
        return Err(format!("version {} is not known", meta.version));
    }
    Ok(meta)
}

/// The state in the bytes of `state.bin`, of which `crc` is the checksum in base64.
///
/// # Errors
/// What is wrong with it.
pub fn decode_state(bytes: &[u8], crc: Option<&str>) -> Result<spb::RaftSnapshot, String> {
    let computed = base64::encode(&crc64(bytes).to_be_bytes());
    if crc != Some(computed.as_str()) {
        return Err(format!("its checksum is {computed}, not {}", crc.unwrap_or("there")));
    }
    let Some((len, state)) = bytes.split_first_chunk::<4>() else {
        // As the server takes it.
        return if bytes.is_empty() {
            Ok(spb::RaftSnapshot::default())
        } else {
            Err(SHORT.to_owned())
        };
    };
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
    let state = state.get(..len).ok_or(SHORT)?;
    spb::RaftSnapshot::decode(state).map_err(|error| error.to_string())
}

const SHORT: &str = "it is cut short";

/// CRC-64 with the polynomial of ECMA-182, reflected, all ones before and after.
fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;
    let mut table = [0; 256];
    for (entry, byte) in table.iter_mut().zip(0_u64..) {
        let step = |crc: u64, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
        *entry = (0..8).fold(byte, step);
    }
    !bytes.iter().fold(u64::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ table[usize::from(low ^ byte)]
    })
}

#[cfg(test)]
mod tests;
