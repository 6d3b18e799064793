//! The store of a stopped server, opened as the server would: under its lease and with an epoch of
//! its own, so that a server that runs all the same, or another command, is told, and neither can
//! write where the other does.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::{Epoch, Fence, FenceError, Predecessor, Unfenced};
use crate::base::id::{ChannelName, Sequence, Ticket};
use crate::base::random::Random;
use crate::base::record::{
    Batch, ChannelBatch, ChannelState, FetchRequest, MessageRecord, RecoveredChannel,
    RecoveredState,
};
use crate::base::time::Instant;
use crate::base::world;
use crate::config::Config;
use crate::election::lease::{Attempt, Lease, LeaseError, Owner};
use crate::site::{self, Site};
use crate::store::source::unlimited;
use crate::store::{OutcomeUnknown, Store, StoreError};

/// How often the lease is shown to be held.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// What is read at once, and written in one commit.
const READ_COUNT_MAX: usize = 512;
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A commit broke off.
    #[error(transparent)]
    Commit(#[from] OutcomeUnknown),
    /// A commit was refused.
    #[error("{0}")]
    Refused(String),
    /// It cannot be locked.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// What is made now would belong to another user than what is there.
    #[error("{} belongs to user {owner}, and this is user {user}: run it as that one", .path.display())]
    User {
        /// Where it lies.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Somebody has it.
    #[error("it is in use; stop its server first, and each that stands by: {0}")]
    InUse(String),
    /// No chance to be had.
    #[error("cannot read entropy: {0}")]
    Entropy(io::Error),
}

/// A server that may not read what we make would not start any more.
fn check_user(site: &dyn Site) -> Result<(), PlaceError> {
    let user = nix::unistd::geteuid().as_raw();
    let Some(path) = site.path() else { return Ok(()) };
    // What is not there is told by whoever opens it.
    let Ok(found) = std::fs::metadata(&path) else { return Ok(()) };
    let owner = found.uid();
    if owner == user { Ok(()) } else { Err(PlaceError::User { path, owner, user }) }
}

/// An opened store with all that it holds.
pub struct Place {
    site: Arc<dyn Site>,
    lease: Option<Box<dyn Lease>>,
    fence: Arc<dyn Fence>,
    epoch: Epoch,
    share: Box<dyn Store>,
    confirmed_at: Instant,
    recovered: RecoveredState,
    /// What was written last may be there or not.
    is_broken: bool,
}

impl Drop for Place {
    /// Gives it back, whatever happens.
    fn drop(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            let is_synced = !self.is_broken && self.share.close().is_ok();
            // It fails where the store does; then it falls with this process.
            let _ = lease.release(is_synced);
        }
    }
}

impl Place {
    /// Locks and opens the store of the server that `config` describes. What was repaired at that
    /// goes to the log, as at the start of a server.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn open(config: &Config) -> Result<Self, PlaceError> {
        Self::open_as(Config { loops: 1, ..config.clone() })
    }

    /// The same of a store that is to take something: meanwhile it lets go of nothing by limits.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn open_to_take(config: &Config) -> Result<Self, PlaceError> {
        let mut config = Config { loops: 1, ..config.clone() };
        config.streaming.limits = unlimited();
        Self::open_as(config)
    }

    fn open_as(mut config: Config) -> Result<Self, PlaceError> {
        // No group is at work, and a Go server that is would hold no lock.
        config.streaming.ft_group = None;
        let site = site::of(&config)?;
        check_user(site.as_ref())?;
        site.prepare()?;
        let mut random = Random::new(world::entropy().map_err(PlaceError::Entropy)?);
        let owner = Owner::this_process(&random.unique_id(), Vec::new(), None);
        let mut lease = site.lease(owner);
        let (fence, predecessor): (Arc<dyn Fence>, _) = match &mut lease {
            None => (Arc::new(Unfenced), Predecessor::Clean),
            Some(lease) => match lease.try_take()? {
                Attempt::Won(grant) => (grant.fence, grant.predecessor),
                Attempt::Held { why, .. } => return Err(PlaceError::InUse(why)),
            },
        };
        if let Some(lease) = &mut lease {
            lease.settle()?;
        }
        let opened = site.open(&fence, predecessor)?;
        for notice in &opened.notices {
            if notice.is_warning {
                log::warn!("{}", notice.text);
            } else {
                log::info!("{}", notice.text);
            }
        }
        let none = || StoreError::Unusable("the store has no share".to_owned());
        let share = opened.shares.into_iter().next().ok_or_else(none)?;
        let (epoch, confirmed_at) = (fence.epoch(), world::instant());
        Ok(Self {
            site,
            lease,
            fence,
            epoch,
            share,
            confirmed_at,
            recovered: opened.recovered,
            is_broken: false,
        })
    }

    /// Whether two configurations name one place, as far as that can be told without opening it.
    ///
    /// # Errors
    /// [`PlaceError::Store`].
    pub fn are_one(one: &Config, other: &Config) -> Result<bool, PlaceError> {
        let path = |config| Ok::<_, PlaceError>(site::of(config)?.path());
        let one = path(one)?;
        Ok(one.is_some() && one == path(other)?)
    }

    /// Whether nobody has opened it since.
    ///
    /// # Errors
    /// [`FenceError`].
    pub fn check(&self) -> Result<(), FenceError> {
        self.fence.check()
    }

    /// All that it held when it was opened.
    #[must_use]
    pub fn recovered(&self) -> &RecoveredState {
        &self.recovered
    }

    /// A channel that it held when it was opened.
    #[must_use]
    pub fn channel(&self, name: &ChannelName) -> Option<&RecoveredChannel> {
        self.recovered.channels.iter().find(|found| found.channel == *name)
    }

    /// The next messages of a channel from `from` on, ascending, as many as are read at once; none
    /// behind the last one.
    ///
    /// # Errors
    /// [`PlaceError::Store`].
    pub fn read(
        &mut self,
        channel: &ChannelName,
        from: Sequence,
    ) -> Result<Vec<MessageRecord>, PlaceError> {
        Ok(self.share.fetch(&FetchRequest {
            ticket: Ticket(0),
            channel: channel.clone(),
            from,
            count_max: READ_COUNT_MAX,
            bytes_max: READ_BYTES_MAX,
        })?)
    }

    /// Whether no two subscriptions may have one number.
    #[must_use]
    pub fn numbers_subscriptions_as_one(&self) -> bool {
        self.site.numbers_subscriptions_as_one()
    }

    /// Writes a part of a channel durably; what it holds then.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn write(&mut self, part: ChannelBatch) -> Result<ChannelState, PlaceError> {
        self.commit(Batch { channels: vec![part], durable: true, ..Batch::default() })
    }

    /// Writes a batch; what its channel holds then, if it has one.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn commit(&mut self, batch: Batch) -> Result<ChannelState, PlaceError> {
        self.confirm()?;
        let report = self.share.commit(self.epoch, &batch);
        self.is_broken |= report.is_err();
        let report = report?;
        if let Some(why) = report.clients_refused {
            return Err(PlaceError::Refused(why));
        }
        let Some(outcome) = report.channels.into_iter().next() else {
            return Ok(ChannelState::default());
        };
        outcome.refused.map_or(Ok(outcome.state), |why| Err(PlaceError::Refused(why)))
    }

    /// Shows that it is still ours, now and then.
    ///
    /// # Errors
    /// [`PlaceError::Lease`].
    pub fn confirm(&mut self) -> Result<(), PlaceError> {
        let now = world::instant();
        if let Some(lease) = &mut self.lease
            && CONFIRM_EVERY <= now.since(self.confirmed_at)
        {
            lease.confirm()?;
            self.confirmed_at = now;
        }
        Ok(())
    }

    /// Writes what is held back, and lets go of it.
    ///
    /// # Errors
    /// [`PlaceError`]; then not all may be durable.
    pub fn close(mut self) -> Result<(), PlaceError> {
        self.share.maintain(world::now())?;
        self.share.close()?;
        if let Some(mut lease) = self.lease.take() {
            lease.release(true)?;
        }
        Ok(())
    }
}
