//! Where the data goes: a place that only we write to while we do, under a lease as a server has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::base::record::{Batch, ChannelBatch, ClientWrite, RecoveredState};
use crate::config::Config;
use crate::proto::spb;
use crate::site::place::{Place, PlaceError};

/// Why the target takes nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
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

/// The cluster ID in a store that is not complete: no server takes it for its own, and what it says
/// of it stands in the line with which it ends.
fn unfinished(cluster: &[u8]) -> Bytes {
    Bytes::from([b"unfinished import of ", cluster].concat())
}

/// The new store.
pub struct Target {
    place: Place,
}

impl Target {
    /// Locks and opens it; it must be empty. Of a directory that has something else in it nothing
    /// is touched.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn open(config: &Config) -> Result<Self, TargetError> {
        if let Some(folder) = &config.streaming.directory {
            check_empty(folder)?;
        }
        let place = Place::open_to_take(config)?;
        match something_in(place.recovered()) {
            None => Ok(Self { place }),
            Some(found) => Err(TargetError::NotEmpty(found)),
        }
    }

    /// Whether no two subscriptions may have one number.
    #[must_use]
    pub fn numbers_subscriptions_as_one(&self) -> bool {
        self.place.numbers_subscriptions_as_one()
    }

    /// Marks it as not complete.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn begin(&mut self, server: &spb::ServerInfo) -> Result<(), TargetError> {
        let cluster_id = unfinished(&server.cluster_id);
        let server = Some(spb::ServerInfo { cluster_id, ..server.clone() });
        self.commit(Batch { server, durable: true, ..Batch::default() })
    }

    /// Writes a part of a channel.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn write(&mut self, part: ChannelBatch) -> Result<(), TargetError> {
        self.commit(Batch { channels: vec![part], durable: true, ..Batch::default() })
    }

    /// Writes clients.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn write_clients(&mut self, clients: Vec<spb::ClientInfo>) -> Result<(), TargetError> {
        let clients = clients.into_iter().map(ClientWrite::Add).collect();
        self.commit(Batch { clients, durable: true, ..Batch::default() })
    }

    /// Marks it as complete, and lets go of it.
    ///
    /// # Errors
    /// [`TargetError`]; then it may not be complete.
    pub fn finish(mut self, server: spb::ServerInfo) -> Result<(), TargetError> {
        // What a store holds back is written before the mark goes.
        self.place.maintain()?;
        self.commit(Batch { server: Some(server), durable: true, ..Batch::default() })?;
        Ok(self.place.close()?)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), TargetError> {
        self.place.commit(batch)?;
        Ok(())
    }
}

/// A folder may be there, with nothing in it.
fn check_empty(folder: &Path) -> Result<(), TargetError> {
    let failed = |source| TargetError::Io { path: folder.to_owned(), source };
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    match entries.next() {
        None => Ok(()),
        Some(entry) => {
            let path = entry.map_err(failed)?.path();
            Err(TargetError::NotEmpty(format!("there is {}", path.display())))
        }
    }
}

fn something_in(found: &RecoveredState) -> Option<String> {
    if let Some(server) = &found.server {
        let cluster = String::from_utf8_lossy(&server.cluster_id);
        return Some(format!("it is that of cluster {cluster:?}"));
    }
    let channel = found.channels.first().map(|it| format!("it has channel {}", it.channel));
    channel.or((!found.clients.is_empty()).then(|| "it has clients".to_owned()))
}
