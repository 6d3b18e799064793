//! A store without its server, opened by a command as the server would: under its lease and with an
//! epoch of its own, so that a server that runs all the same, or another command, is told, and
//! neither can write where the other does.

use std::io;
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
    /// Somebody has it.
    #[error("it is in use; stop its server first, and each that stands by: {0}")]
    InUse(String),
    /// No chance to be had.
    #[error("cannot read entropy: {0}")]
    Entropy(io::Error),
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
    /// What was written last may be there or not, or be dropped by a sync that failed.
    is_broken: bool,
    /// Whether what is written is synced with all else, once, and not as it is written.
    puts_off_syncs: bool,
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
    /// Locks and opens the store that `config` describes. What was repaired at that goes to the
    /// log, as at the start of a server.
    ///
    /// # Errors
    /// [`PlaceError`]; then it was given back.
    pub fn open(config: &Config) -> Result<Self, PlaceError> {
        Self::open_as(Config { loops: 1, ..config.clone() })
    }

    /// The same of a store that is to be kept whole: meanwhile it lets go of nothing by limits.
    ///
    /// # Errors
    /// [`PlaceError`]; then it was given back.
    pub fn open_unlimited(config: &Config) -> Result<Self, PlaceError> {
        let mut config = Config { loops: 1, ..config.clone() };
        config.streaming.limits = unlimited();
        Self::open_as(config)
    }

    fn open_as(config: Config) -> Result<Self, PlaceError> {
        let (site, (fence, predecessor, mut lease)) = take(config)?;
        let settled = lease.as_mut().map_or(Ok(()), |lease| lease.settle());
        let opened = settled.map_err(PlaceError::from);
        match opened.and_then(|()| open_under(site.as_ref(), &fence, predecessor)) {
            Ok((recovered, share)) => Ok(Self {
                site,
                lease,
                epoch: fence.epoch(),
                fence,
                share,
                confirmed_at: world::instant(),
                recovered,
                is_broken: false,
                puts_off_syncs: false,
            }),
            Err(error) => {
                // That one is told.
                let _ = lease.map(|mut lease| lease.release(false));
                Err(error)
            }
        }
    }

    /// Writes what is held back, and reads all anew, as the next server will; nobody else can have
    /// it meanwhile.
    ///
    /// # Errors
    /// [`PlaceError`]; then not all may be durable, and it is of no more use.
    pub fn reopen(&mut self) -> Result<(), PlaceError> {
        self.finish()?;
        self.puts_off_syncs = false;
        self.is_broken = true;
        let site = self.site.as_ref();
        (self.recovered, self.share) = open_under(site, &self.fence, Predecessor::Clean)?;
        self.is_broken = false;
        self.confirm_now()
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

    /// What channels hold need not be durable before [`Place::reopen`]: of many channels that is a
    /// few syncs and not one of each. For what counts for nothing before it is whole.
    pub fn put_off_syncs(&mut self) {
        self.puts_off_syncs = true;
    }

    /// Writes a part of a channel durably, unless that was put off; what it holds then.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn write(&mut self, part: ChannelBatch) -> Result<ChannelState, PlaceError> {
        let durable = !self.puts_off_syncs;
        self.commit(Batch { channels: vec![part], durable, ..Batch::default() })
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
            return Err(PlaceError::Refused(format!("server and clients: {why}")));
        }
        let Some(outcome) = report.channels.into_iter().next() else {
            return Ok(ChannelState::default());
        };
        match outcome.refused {
            None => Ok(outcome.state),
            Some(why) => Err(PlaceError::Refused(format!("channel {}: {why}", outcome.channel))),
        }
    }

    /// Shows that it is still ours, now and then.
    ///
    /// # Errors
    /// [`PlaceError::Lease`].
    pub fn confirm(&mut self) -> Result<(), PlaceError> {
        confirm(&mut self.lease, &mut self.confirmed_at, CONFIRM_EVERY)
    }

    fn confirm_now(&mut self) -> Result<(), PlaceError> {
        confirm(&mut self.lease, &mut self.confirmed_at, Duration::ZERO)
    }

    /// Writes what is held back.
    ///
    /// # Errors
    /// [`PlaceError::Store`].
    pub fn maintain(&mut self) -> Result<(), PlaceError> {
        let done = self.share.maintain(world::now());
        self.is_broken |= done.is_err();
        done?;
        Ok(())
    }

    /// Writes and syncs what is held back. What a sync has dropped no later one brings back: after
    /// an error it is never given back as synced.
    fn finish(&mut self) -> Result<(), PlaceError> {
        self.maintain()?;
        let done = self.share.close();
        self.is_broken |= done.is_err();
        Ok(done?)
    }

    /// Writes what is held back, and lets go of it.
    ///
    /// # Errors
    /// [`PlaceError`]; then not all may be durable.
    pub fn close(mut self) -> Result<(), PlaceError> {
        self.finish()?;
        if let Some(mut lease) = self.lease.take() {
            lease.release(true)?;
        }
        Ok(())
    }
}

type Taken = (Arc<dyn Fence>, Predecessor, Option<Box<dyn Lease>>);

fn take(mut config: Config) -> Result<(Arc<dyn Site>, Taken), PlaceError> {
    // No group is at work, and a Go server that is would hold no lock.
    config.streaming.ft_group = None;
    let site = site::of(&config)?;
    site.prepare()?;
    let mut random = Random::new(world::entropy().map_err(PlaceError::Entropy)?);
    let owner = Owner::this_process(&random.unique_id(), Vec::new(), None);
    let taken: Taken = match site.lease(owner) {
        None => (Arc::new(Unfenced), Predecessor::Clean, None),
        Some(mut lease) => match lease.try_take()? {
            Attempt::Won(grant) => (grant.fence, grant.predecessor, Some(lease)),
            Attempt::Held { why, .. } => return Err(PlaceError::InUse(why)),
        },
    };
    Ok((site, taken))
}

/// A store that nobody else can have meanwhile and that is not opened: what is damaged may not be.
pub struct Held {
    lease: Option<Box<dyn Lease>>,
    fence: Arc<dyn Fence>,
    predecessor: Predecessor,
    confirmed_at: Instant,
}

impl Drop for Held {
    /// Gives it back as it was found: what its last server has not synced nobody has since.
    fn drop(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            let _ = lease.release(self.predecessor == Predecessor::Clean);
        }
    }
}

impl Held {
    /// Locks the store that `config` describes.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn take(config: Config) -> Result<Self, PlaceError> {
        let (_, (fence, predecessor, lease)) = take(config)?;
        Ok(Self { lease, fence, predecessor, confirmed_at: world::instant() })
    }

    /// What says whether somebody else has taken it since.
    #[must_use]
    pub fn fence(&self) -> Arc<dyn Fence> {
        Arc::clone(&self.fence)
    }

    /// Shows that it is still ours, now and then.
    ///
    /// # Errors
    /// [`PlaceError::Lease`].
    pub fn confirm(&mut self) -> Result<(), PlaceError> {
        confirm(&mut self.lease, &mut self.confirmed_at, CONFIRM_EVERY)
    }
}

/// Shows that a lease is still ours, if that was not shown for a while.
fn confirm(
    lease: &mut Option<Box<dyn Lease>>,
    confirmed_at: &mut Instant,
    every: Duration,
) -> Result<(), PlaceError> {
    let now = world::instant();
    if let Some(lease) = lease
        && every <= now.since(*confirmed_at)
    {
        lease.confirm()?;
        *confirmed_at = now;
    }
    Ok(())
}

/// All that a place holds, and what it is read and written by.
fn open_under(
    site: &dyn Site,
    fence: &Arc<dyn Fence>,
    predecessor: Predecessor,
) -> Result<(RecoveredState, Box<dyn Store>), PlaceError> {
    let opened = site.open(fence, predecessor)?;
    for notice in &opened.notices {
        if notice.is_warning {
            log::warn!("{}", notice.text);
        } else {
            log::info!("{}", notice.text);
        }
    }
    let none = || StoreError::Unusable("the store has no share".to_owned());
    Ok((opened.recovered, opened.shares.into_iter().next().ok_or_else(none)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::base::record::CommitReport;
    use crate::base::time::{Now, WallTime};
    use crate::config::options::{self, Request};
    use crate::config::{Program, World};
    use crate::election::lease::Wake;
    use crate::store::{Action, Maintained};

    /// Syncs fail until none is left to fail.
    struct Disk {
        failing_maintains: u32,
        failing_closes: u32,
    }

    fn sync(failing: &mut u32) -> Result<(), StoreError> {
        let Some(left) = failing.checked_sub(1) else { return Ok(()) };
        *failing = left;
        let path = Path::new("msgs.1.dat").to_owned();
        let text = "sync msgs.1.dat: input/output error".to_owned();
        Err(StoreError::Io { action: Action::Sync, path, text, source: io::Error::other("EIO") })
    }

    impl Store for Disk {
        fn commit(&mut self, _: Epoch, _: &Batch) -> Result<CommitReport, OutcomeUnknown> {
            Ok(CommitReport::default())
        }

        fn fetch(&mut self, _: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
            Ok(Vec::new())
        }

        fn find_time(&mut self, _: &ChannelName, _: WallTime) -> Result<Sequence, StoreError> {
            Ok(Sequence::ZERO)
        }

        fn maintain(&mut self, _: Now) -> Result<Maintained, StoreError> {
            sync(&mut self.failing_maintains).map(|()| Maintained::default())
        }

        fn close(&mut self) -> Result<(), StoreError> {
            sync(&mut self.failing_closes)
        }
    }

    /// Keeps how it was given back.
    struct Given(Arc<Mutex<Vec<bool>>>);

    impl Lease for Given {
        fn try_take(&mut self) -> Result<Attempt, LeaseError> {
            unreachable!("it is held")
        }

        fn wait(&mut self, _: &Wake) -> Result<Duration, LeaseError> {
            Ok(CONFIRM_EVERY)
        }

        fn settle(&mut self) -> Result<(), LeaseError> {
            Ok(())
        }

        fn confirm(&mut self) -> Result<(), LeaseError> {
            Ok(())
        }

        fn mark_stuck(&mut self, _: Option<Instant>) -> Result<(), LeaseError> {
            Ok(())
        }

        fn release(&mut self, clean: bool) -> Result<(), LeaseError> {
            self.0.lock().unwrap().push(clean);
            Ok(())
        }
    }

    fn place(disk: Disk) -> (Place, Arc<Mutex<Vec<bool>>>) {
        let world = World {
            read: &|_| Err(io::ErrorKind::NotFound.into()),
            variable: &|_| None,
            secret: &|_| None,
            cores: 1,
        };
        let Request::Serve(config) = options::load(Program::Streaming, &[], &world).unwrap() else {
            panic!("it starts no server");
        };
        let released = Arc::default();
        let place = Place {
            site: site::of(&config).unwrap(),
            lease: Some(Box::new(Given(Arc::clone(&released)))),
            fence: Arc::new(Unfenced),
            epoch: Epoch(1),
            share: Box::new(disk),
            confirmed_at: world::instant(),
            recovered: RecoveredState::default(),
            is_broken: false,
            puts_off_syncs: false,
        };
        (place, released)
    }

    /// Goal: a kernel tells of a lost write once; a later sync that succeeds makes nothing of it
    /// durable, and the next server must not rely on it.
    #[test]
    fn what_a_failed_sync_dropped_is_never_given_back_as_synced() {
        for (failing_maintains, failing_closes, is_clean) in
            [(0, 0, true), (1, 0, false), (0, 1, false)]
        {
            let (opened, released) = place(Disk { failing_maintains, failing_closes });
            assert_eq!(opened.close().is_ok(), is_clean);
            assert_eq!(*released.lock().unwrap(), [is_clean]);
            let (mut opened, released) = place(Disk { failing_maintains, failing_closes });
            assert_eq!(opened.reopen().is_ok(), is_clean);
            drop(opened);
            assert_eq!(*released.lock().unwrap(), [is_clean]);
        }
        let (opened, released) = place(Disk { failing_maintains: 0, failing_closes: 0 });
        drop(opened);
        assert_eq!(*released.lock().unwrap(), [true]);
    }
}
