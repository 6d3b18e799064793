//! Where the data goes: a place that only we write to while we do, under a lease as a server has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::epoch::{Epoch, Fence, Predecessor, Unfenced};
use crate::base::random::Random;
use crate::base::record::{Batch, ChannelBatch, ClientWrite, RecoveredState};
use crate::base::time::Instant;
use crate::base::world;
use crate::config::Config;
use crate::election::lease::{Attempt, Lease, LeaseError, Owner};
use crate::proto::spb;
use crate::site::{self, Site};
use crate::store::{OutcomeUnknown, Store, StoreError};

/// How often the lease is shown to be held.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// Why the target takes nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It cannot be opened.
    #[error("the new store: {0}")]
    Store(#[from] StoreError),
    /// A commit broke off.
    #[error("the new store: {0}")]
    Commit(#[from] OutcomeUnknown),
    /// A commit was refused.
    #[error("the new store: channel {channel}: {why}")]
    Refused {
        /// Of which channel.
        channel: String,
        /// Why.
        why: String,
    },
    /// It cannot be locked.
    #[error("the new store: {0}")]
    Lease(#[from] LeaseError),
    /// Somebody has it.
    #[error("the new store is in use: {0}")]
    InUse(String),
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
    /// No chance to be had.
    #[error("cannot read entropy: {0}")]
    Entropy(io::Error),
}

/// The cluster ID in a store that is not complete: no server takes it for its own, and what it says
/// of it stands in the line with which it ends.
fn unfinished(cluster: &[u8]) -> Bytes {
    Bytes::from([b"unfinished import of ", cluster].concat())
}

/// The new store.
pub struct Target {
    site: Arc<dyn Site>,
    lease: Option<Box<dyn Lease>>,
    epoch: Epoch,
    share: Box<dyn Store>,
    confirmed_at: Instant,
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
        let site = site::of(config)?;
        site.prepare()?;
        let mut random = Random::new(world::entropy().map_err(TargetError::Entropy)?);
        let owner = Owner::this_process(&random.unique_id(), Vec::new(), None);
        let mut lease = site.lease(owner.or_silent_for(Duration::ZERO));
        let (fence, predecessor): (Arc<dyn Fence>, _) = match &mut lease {
            None => (Arc::new(Unfenced), Predecessor::Clean),
            Some(lease) => match lease.try_take()? {
                Attempt::Won(grant) => (grant.fence, grant.predecessor),
                Attempt::Held { why, .. } => return Err(TargetError::InUse(why)),
            },
        };
        if let Some(lease) = &mut lease {
            lease.settle()?;
        }
        let opened = site.open(&fence, predecessor)?;
        if let Some(found) = something_in(&opened.recovered) {
            if let Some(mut lease) = lease {
                lease.release(true)?;
            }
            return Err(TargetError::NotEmpty(found));
        }
        let none = || StoreError::Unusable("the store has no share".to_owned());
        let share = opened.shares.into_iter().next().ok_or_else(none)?;
        let (epoch, confirmed_at) = (fence.epoch(), world::instant());
        Ok(Self { site, lease, epoch, share, confirmed_at })
    }

    /// Whether no two subscriptions may have one number.
    #[must_use]
    pub fn numbers_subscriptions_as_one(&self) -> bool {
        self.site.numbers_subscriptions_as_one()
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
        self.share.maintain(world::now())?;
        self.commit(Batch { server: Some(server), durable: true, ..Batch::default() })?;
        self.share.close()?;
        if let Some(lease) = &mut self.lease {
            lease.release(true)?;
        }
        Ok(())
    }

    fn commit(&mut self, batch: Batch) -> Result<(), TargetError> {
        let now = world::instant();
        if let Some(lease) = &mut self.lease
            && CONFIRM_EVERY <= now.since(self.confirmed_at)
        {
            lease.confirm()?;
            self.confirmed_at = now;
        }
        let report = self.share.commit(self.epoch, &batch)?;
        if let Some(why) = report.clients_refused {
            let channel = "(server and clients)".to_owned();
            return Err(TargetError::Refused { channel, why });
        }
        for outcome in report.channels {
            if let Some(why) = outcome.refused {
                return Err(TargetError::Refused { channel: outcome.channel.to_string(), why });
            }
        }
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
