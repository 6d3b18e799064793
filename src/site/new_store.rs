//! A new store: a place that only we write to while we do, and that no server takes before all is
//! there.
//!
//! Until then its record has a cluster ID that says what was begun, and of which cluster.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::base::record::{Batch, ChannelBatch, ClientWrite, RecoveredState};
use crate::config::Config;
use crate::proto::spb;
use crate::site;
use crate::site::place::{Place, PlaceError};
use crate::store::{StoreError, UNFINISHED};

/// Why a new store takes nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum NewStoreError {
    /// It cannot be used.
    #[error("the new store: {0}")]
    Place(#[from] PlaceError),
    /// It has data.
    #[error("the new store is not empty: {0}; nothing was written to it")]
    NotEmpty(String),
    /// A folder cannot be looked at.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// By what a new store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// From a Raft cluster; what was broken off is begun in another place.
    Import,
    /// From another store; what was broken off goes on.
    Copy,
    /// From an exported store; as with a copy.
    Restore,
    /// From a store that somebody serves; what was broken off is begun in another place.
    Backup,
}

impl Work {
    /// The cluster ID in a store that is not complete: no server takes it for its own, and what it
    /// says of it stands in the line with which it ends. What was begun in clear is not gone on
    /// with where it is to be encrypted.
    fn mark(self, cluster: &[u8], is_encrypted: bool) -> Bytes {
        let encrypted: &[u8] = if is_encrypted { b"encrypted " } else { b"" };
        let begun: &[u8] = match self {
            Self::Import => b"import of ",
            Self::Copy => b"copy of ",
            Self::Restore => b"restore of ",
            Self::Backup => b"backup of ",
        };
        Bytes::from([UNFINISHED.as_bytes(), encrypted, begun, cluster].concat())
    }
}

/// Whether a cluster ID is the mark of a store that is not complete: no cluster's own has a blank.
#[must_use]
pub fn is_unfinished(cluster: &str) -> bool {
    cluster.starts_with(UNFINISHED)
}

/// What was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// What the same work has left that was broken off.
    Begun,
    /// A complete store of this cluster. It is for reading alone.
    Whole,
}

/// The new store.
pub struct NewStore {
    place: Place,
    work: Work,
    is_encrypted: bool,
}

impl NewStore {
    /// Locks and opens it; it must be empty. Of a directory that has something else in it nothing
    /// is touched.
    ///
    /// # Errors
    /// [`NewStoreError`].
    pub fn open(config: &Config, work: Work, cluster: &[u8]) -> Result<Self, NewStoreError> {
        if let Some(folder) = &config.streaming.directory {
            match entries(folder)?.into_iter().next() {
                None => (),
                Some(path) => return Err(not_empty(&path)),
            }
            mark(config, work, cluster)?;
        }
        let place = Place::open_unlimited(config)?;
        match something_in(place.recovered(), &work.mark(cluster, is_encrypted(config))) {
            None => Ok(Self { place, work, is_encrypted: is_encrypted(config) }),
            Some(found) => Err(NewStoreError::NotEmpty(found)),
        }
    }

    /// The same of one that may also have what this work has left of `cluster`, or all of it.
    ///
    /// # Errors
    /// [`NewStoreError`].
    pub fn open_or_go_on(
        config: &Config,
        work: Work,
        cluster: &[u8],
    ) -> Result<(Self, Found), NewStoreError> {
        let mut is_fresh = false;
        if let Some(folder) = &config.streaming.directory {
            check_folder(config, folder, work, cluster)?;
            is_fresh = site::of(config)?.peek_server().is_none();
            if is_fresh {
                mark(config, work, cluster)?;
            }
        }
        let place = Place::open_unlimited(config)?;
        let found = match &place.recovered().server {
            Some(server) => match judge(server, config, work, cluster)? {
                Found::Begun if is_fresh => Found::Nothing,
                found @ (Found::Nothing | Found::Begun | Found::Whole) => found,
            },
            None => match something_in(place.recovered(), &[]) {
                None => Found::Nothing,
                Some(found) => return Err(NewStoreError::NotEmpty(found)),
            },
        };
        Ok((Self { place, work, is_encrypted: is_encrypted(config) }, found))
    }

    /// What is read and written.
    pub fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    /// Whether no two subscriptions may have one number.
    #[must_use]
    pub fn numbers_subscriptions_as_one(&self) -> bool {
        self.place.numbers_subscriptions_as_one()
    }

    /// Marks it as not complete.
    ///
    /// # Errors
    /// [`NewStoreError`].
    pub fn begin(&mut self, server: &spb::ServerInfo) -> Result<(), NewStoreError> {
        let cluster_id = self.work.mark(&server.cluster_id, self.is_encrypted);
        let server = Some(spb::ServerInfo { cluster_id, ..server.clone() });
        self.commit(Batch { server, durable: true, ..Batch::default() })
    }

    /// Writes a part of a channel.
    ///
    /// # Errors
    /// [`NewStoreError`].
    pub fn write(&mut self, part: ChannelBatch) -> Result<(), NewStoreError> {
        self.commit(Batch { channels: vec![part], durable: true, ..Batch::default() })
    }

    /// Writes clients.
    ///
    /// # Errors
    /// [`NewStoreError`].
    pub fn write_clients(&mut self, clients: Vec<spb::ClientInfo>) -> Result<(), NewStoreError> {
        let clients = clients.into_iter().map(ClientWrite::Add).collect();
        self.commit(Batch { clients, durable: true, ..Batch::default() })
    }

    /// Marks it as complete, and lets go of it.
    ///
    /// # Errors
    /// [`NewStoreError`]; then it may not be complete.
    pub fn finish(mut self, server: spb::ServerInfo) -> Result<(), NewStoreError> {
        // What a store holds back is written before the mark goes.
        self.place.maintain()?;
        self.commit(Batch { server: Some(server), durable: true, ..Batch::default() })?;
        Ok(self.place.close()?)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), NewStoreError> {
        self.place.commit(batch)?;
        Ok(())
    }
}

/// What is in a folder; nothing in one that is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, NewStoreError> {
    let failed = |source| NewStoreError::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

fn not_empty(path: &Path) -> NewStoreError {
    NewStoreError::NotEmpty(format!("there is {}", path.display()))
}

/// Says what is begun before anything else is there: whoever is killed at any moment leaves
/// nothing that a server takes for an empty store.
fn mark(config: &Config, work: Work, cluster: &[u8]) -> Result<(), NewStoreError> {
    let cluster_id = work.mark(cluster, is_encrypted(config));
    let server = spb::ServerInfo { cluster_id, ..spb::ServerInfo::default() };
    Ok(site::of(config)?.begin(&server)?)
}

/// Without the store's lock, so that nothing of what is not ours is touched.
fn check_folder(
    config: &Config,
    folder: &Path,
    work: Work,
    cluster: &[u8],
) -> Result<(), NewStoreError> {
    let entries = entries(folder)?;
    let site = site::of(config)?;
    if let Some(server) = site.peek_server() {
        return judge(&server, config, work, cluster).map(drop);
    }
    // Work that was broken off before it said so has left no more than a lock and empty files.
    let is_of_an_opening = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        name.starts_with(b".stanby.")
            || matches!(name, b".rootdir.lck" | b"server.dat" | b"clients.dat")
    };
    match entries.iter().find(|path| !is_of_an_opening(path)) {
        None => Ok(()),
        Some(path) => Err(not_empty(path)),
    }
}

fn is_encrypted(config: &Config) -> bool {
    config.streaming.encryption.is_some()
}

fn judge(
    server: &spb::ServerInfo,
    config: &Config,
    work: Work,
    cluster: &[u8],
) -> Result<Found, NewStoreError> {
    match &server.cluster_id {
        id if *id == work.mark(cluster, is_encrypted(config)) => Ok(Found::Begun),
        id if *id == cluster => Ok(Found::Whole),
        _ => Err(NewStoreError::NotEmpty(of_cluster(server))),
    }
}

fn of_cluster(server: &spb::ServerInfo) -> String {
    let cluster = String::from_utf8_lossy(&server.cluster_id);
    format!("it is that of cluster {cluster:?}")
}

/// What there is beside the mark of who has begun just now.
fn something_in(found: &RecoveredState, mark: &[u8]) -> Option<String> {
    if let Some(server) = found.server.as_ref().filter(|server| server.cluster_id != mark) {
        return Some(of_cluster(server));
    }
    let channel = found.channels.first().map(|it| format!("it has channel {}", it.channel));
    channel.or((!found.clients.is_empty()).then(|| "it has clients".to_owned()))
}

impl From<StoreError> for NewStoreError {
    fn from(error: StoreError) -> Self {
        Self::Place(error.into())
    }
}
