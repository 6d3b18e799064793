//! A row of the shared database, renewed and compared.
//!
//! Three things together: the database's own lock of a session (`Session`), which falls when its
//! holder dies, so that a standby knows at once; the Go server's `StoreLock` row and tick, so that
//! servers of both kinds exclude each other; and the epoch, raised in the transaction that takes
//! the row. Writers of the store compare both rows in each of their transactions.

mod fence;
mod rows;
mod session;

use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::{Epoch, Fence, Predecessor};
use crate::base::time::Instant;
use crate::base::world;
use crate::election::keeper;
use crate::election::lease::{Attempt, Grant, Holder, Lease, LeaseError, Owner, Wake};
use crate::election::sight::{self, Mark, Proof};
use crate::log::STREAM;
use crate::store::sql::dialect::{Driver, Failure, SqlError, transaction};
use crate::store::sql::dsn::Source;
use crate::store::sql::{schema, sessions};

use self::fence::SqlFence;
use self::rows::{Claim, Rows};
pub(super) use self::session::real_path;
use self::session::{Session, Waiter};

/// After how long without a tick a Go server's row is taken: three probes of 1.5 s, as the Go
/// server does (spec stores, 8.12).
const FOREIGN_STILL_FOR: Duration = Duration::from_millis(4_500);
/// Pause between looks at a row that somebody else holds.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two looks that count as watching, beside half the steal time.
const GAP_MAX: Duration = Duration::from_millis(1_500);
/// After the database was away, a standby lets the former active come first for so long: that one
/// knows what it acknowledged, and finds out if the database lost some of it.
const HEAD_START: Duration = Duration::from_secs(1);
/// The column takes nothing above the epoch that follows this one, which could have no successor:
/// no server gets so far.
const EPOCH_LAST: Epoch = Epoch(u64::MAX / 2 - 2);
/// Longest identity that the column takes.
const LOCK_ID_LEN_MAX: usize = 30;

/// The lease of a shared database.
pub struct SqlLease {
    place: Place,
    owner: Owner,
    /// Zero = never take an epoch from a living holder.
    steal_after: Duration,
    session: Option<Session>,
    waiter: Option<Waiter>,
    held: Option<Arc<SqlFence>>,
    /// What a holder showed last.
    stillness: Option<Seen>,
    /// The database took a write of ours since then.
    proof: Proof,
    /// The rows as they were read last.
    last_rows: Option<Rows>,
    /// The database could not be reached, and somebody else was active before.
    was_away: bool,
    /// Until then that one comes first.
    yields_until: Option<Instant>,
    /// Highest epoch that was ever seen, also if the database forgot it since.
    epoch_max: Epoch,
    /// The epoch that this process held last; `None` after a clean release.
    own_last: Option<Epoch>,
    /// The holder before was ended by us, and may still run.
    has_replaced: bool,
    /// In a cluster: the lock of our node is free, and the holder has that of another one.
    is_elsewhere: bool,
    /// In a cluster: the node that our record names.
    node_told: Option<String>,
}

/// Which database, and how long a call may take.
#[derive(Clone, Debug)]
struct Place {
    source: Source,
    call_timeout: Duration,
}

/// A sign of life: of ours the epoch and its counter, of a Go server its identity and tick; that a
/// member of ours has the lock while the newest epoch is nobody's shows none.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    Own(Epoch, u64),
    Unclaimed(Epoch),
    Foreign(String, u64),
}

/// A sign of life that was watched: since when, and when last.
#[derive(Clone, Debug)]
struct Seen {
    sign: Sign,
    since: Instant,
    last_read_at: Instant,
}

impl SqlLease {
    /// A lease of the database for `owner`; `call_timeout` is shorter than the lease bound.
    #[must_use]
    pub fn new(
        source: Source,
        call_timeout: Duration,
        owner: Owner,
        steal_after: Duration,
    ) -> Self {
        let call_timeout = source.call_timeout.map_or(call_timeout, |it| it.min(call_timeout));
        Self {
            place: Place { source, call_timeout },
            owner: owner.or_silent_for(keeper::stall_bound(steal_after)),
            steal_after,
            session: None,
            waiter: None,
            held: None,
            stillness: None,
            proof: Proof::default(),
            last_rows: None,
            was_away: false,
            yields_until: None,
            epoch_max: Epoch::default(),
            own_last: None,
            has_replaced: false,
            is_elsewhere: false,
            node_told: None,
        }
    }

    fn lock_id(&self) -> &str {
        let id = self.owner.server_id.as_str();
        id.get(..LOCK_ID_LEN_MAX).unwrap_or(id)
    }

    /// A session that works, and whether it has the database's lock.
    fn locked_session(&mut self) -> Result<bool, LeaseError> {
        match self.waiter.as_ref().and_then(Waiter::take) {
            Some(Ok(session)) => {
                self.waiter = None;
                self.session = Some(session);
                return Ok(true);
            }
            Some(Err(error)) => {
                self.waiter = None;
                return Err(self.failed(&error));
            }
            None => {}
        }
        if self.session.is_none() {
            let opened = Session::open(&self.place).and_then(|mut session| {
                schema::prepare(session.dialect.as_mut())?;
                Ok(session)
            });
            self.session = Some(opened.map_err(|error| self.failed(&error))?);
        }
        if self.waiter.is_some() {
            return Ok(false);
        }
        self.with_session(Session::try_lock)
    }

    /// Asks the session; one that fails is given up, and with it its lock.
    fn ask<T>(
        &mut self,
        ask: impl FnOnce(&mut Session) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let Some(session) = &mut self.session else {
            let text = "no connection to the database".to_owned();
            return Err(SqlError { failure: Failure::Unreachable, text });
        };
        ask(session).inspect_err(|error| {
            if error.failure != Failure::Busy {
                self.session = None;
            }
        })
    }

    fn with_session<T>(
        &mut self,
        ask: impl FnOnce(&mut Session) -> Result<T, SqlError>,
    ) -> Result<T, LeaseError> {
        self.ask(ask).map_err(|error| self.failed(&error))
    }

    /// Notes that the database is away.
    fn failed(&mut self, error: &SqlError) -> LeaseError {
        let own = self.owner.server_id.as_str();
        let others = self.last_rows.as_ref().is_some_and(|rows| rows.is_held_by_other(own));
        // Whatever the database says of a session that it has ended: only a conflict is none.
        self.was_away |= error.failure != Failure::Busy && self.held.is_none() && others;
        failure(error)
    }

    /// Whether the former active still comes first: from when the database is there again.
    fn yields(&mut self) -> bool {
        let now = world::instant();
        if std::mem::take(&mut self.was_away) {
            self.yields_until = Some(now + HEAD_START);
        }
        let yields = self.yields_until.is_some_and(|until| now < until);
        if !yields {
            self.yields_until = None;
        }
        yields
    }

    /// Reads the rows, and says so if the database has forgotten what was read before.
    fn look(&mut self) -> Result<Rows, SqlError> {
        let seen = self.ask(|session| rows::read(session.dialect.as_mut()))?;
        let before = self.last_rows.as_ref().map(Rows::age);
        if let Some((epoch, counter)) = before.filter(|before| seen.age() < *before) {
            let (found, found_counter) = seen.age();
            log::error!(
                target: STREAM,
                "the database lost commits: epoch {epoch} had given {counter} sign(s) of life, now \
                 epoch {found} with {found_counter} is there; what was acknowledged in between is \
                 gone"
            );
        }
        self.epoch_max = self.epoch_max.max(seen.epoch);
        self.last_rows = Some(seen.clone());
        Ok(seen)
    }

    /// How long `sign` has been the same. Only what was watched counts: a gap between two looks
    /// (this process or its machine stood still) starts it anew.
    fn still_for(&mut self, sign: Sign) -> Duration {
        let now = world::instant();
        let known = self.stillness.as_ref().filter(|seen| {
            seen.sign == sign && now.since(seen.last_read_at) <= GAP_MAX + self.steal_after / 2
        });
        let since = known.map_or(now, |seen| seen.since);
        self.stillness = Some(Seen { sign, since, last_read_at: now });
        now.since(since)
    }

    /// Whether this release can go on after the one that has written last.
    fn can_follow(&self, seen: &Rows) -> Result<(), LeaseError> {
        let Some(holder) = &seen.holder else { return Ok(()) };
        self.owner.writer.can_follow(&holder.writer, &self.place.source)
    }

    /// With the database's lock: takes the row and the epoch, unless a Go server lives.
    fn claim(&mut self) -> Result<Attempt, LeaseError> {
        if self.yields() {
            self.with_session(Session::unlock)?;
            return Ok(Attempt::Held { holder: None, why: HEAD_START_GIVEN.to_owned() });
        }
        let seen = self.look().map_err(|error| self.failed(&error))?;
        if let Err(error) = self.can_follow(&seen) {
            // Who can go on with it needs the lock.
            self.with_session(Session::unlock)?;
            return Err(error);
        }
        self.is_elsewhere = self.has_other_node(&seen);
        if let Some(holder) = seen.holder.as_ref().filter(|_| self.is_elsewhere) {
            if let Some(why) = self.lives(holder)? {
                self.with_session(Session::unlock)?;
                return Ok(Attempt::Held { holder: Some(holder.clone()), why });
            }
            self.has_replaced = true;
        }
        let mut is_stolen = false;
        if let Some((id, tick)) = seen.foreign() {
            if self.still_for(Sign::Foreign(id, tick)) < FOREIGN_STILL_FOR {
                self.with_session(Session::unlock)?;
                return Ok(Attempt::Held { holder: None, why: FOREIGN_HOLDER.to_owned() });
            }
            is_stolen = true;
        }
        if EPOCH_LAST <= self.epoch_max {
            self.with_session(Session::unlock)?;
            return Err(LeaseError::Never(format!(
                "{}: the epoch {} in the table StanbyEpoch is damaged: none can follow it; stop all \
                 servers of the group, then run UPDATE StanbyEpoch SET epoch=1",
                self.place.source, self.epoch_max
            )));
        }
        // Above all that were seen: a database that lost commits must not give one twice.
        let mut epoch = self.epoch_max.next();
        if self.own_last == Some(seen.epoch) && seen.was_foreign() {
            // A Go server was active since, and raised none: what we know is not the last.
            epoch = epoch.next();
        }
        let claim = Claim {
            found: seen.epoch,
            epoch,
            lock_id: self.lock_id().to_owned(),
            owner: self.owner.clone(),
            steals_from: is_stolen.then(|| seen.lock.clone()).flatten(),
            node: self.node(),
        };
        let claimed = self.with_session(|session| claim.run(session.dialect.as_mut()));
        let claimed = match claimed {
            Ok(claimed) => claimed,
            // A transaction of a former active is in the way: it is one that nobody needs.
            Err(error) => {
                self.end_store_sessions();
                return Err(error);
            }
        };
        let Some(checked_at) = claimed else {
            return Ok(Attempt::Held { holder: None, why: "another member was faster".to_owned() });
        };
        let predecessor = match (self.has_replaced, seen.holder.is_none() || seen.is_released) {
            (true, _) => Predecessor::Replaced,
            (false, true) => Predecessor::Clean,
            (false, false) => Predecessor::Gone,
        };
        self.has_replaced = false;
        self.is_elsewhere = false;
        self.node_told = claim.node;
        self.stillness = None;
        self.last_rows = Some(Rows::claimed(claim.epoch, &claim.owner.server_id));
        self.epoch_max = claim.epoch;
        self.own_last = Some(claim.epoch);
        let owner = claim.owner.server_id.clone();
        let fence = Arc::new(SqlFence::new(self.place.clone(), claim.epoch, owner));
        self.held = Some(Arc::clone(&fence));
        Ok(Attempt::Won(Grant { fence, predecessor, checked_at }))
    }

    /// The node of a cluster that our session is with.
    fn node(&self) -> Option<String> {
        self.session.as_ref().and_then(|session| session.dialect.node()).map(str::to_owned)
    }

    /// In a cluster the lock is one node's own: that it is free says nothing of a holder that was
    /// with another node.
    fn has_other_node(&self, seen: &Rows) -> bool {
        let Some(node) = self.node() else { return false };
        seen.is_held_by_other(&self.owner.server_id) && seen.node.as_ref() != Some(&node)
    }

    /// With the lock of our node: why a holder that is with another one is not followed yet. What
    /// tells that it is dead is its sign of life alone, also where nobody who hangs is replaced.
    fn lives(&mut self, holder: &Holder) -> Result<Option<String>, LeaseError> {
        let steal_after = match sight::patience_with(holder, self.steal_after) {
            Duration::ZERO => keeper::stall_bound(Duration::ZERO).max(holder.silence_max),
            patience => patience,
        };
        let still_for = self.still_for(Sign::Own(holder.epoch, holder.counter));
        let mark = Mark::Life(holder.epoch, holder.counter);
        let is_proven = self.is_proven(mark, holder.pid, (still_for, steal_after))?;
        if is_proven && steal_after <= still_for {
            return Ok(None);
        }
        let Holder { server_id, epoch, .. } = holder;
        Ok(Some(format!(
            "server {server_id} (epoch {epoch}) holds the lock of another node of the cluster: it \
             is followed when it gave no sign of life for {steal_after:?}"
        )))
    }

    /// Whether the database took a write of ours and the holder stood still after that too: one
    /// whose disk stalls for all moves no role. It is asked for in time for a replacement.
    fn is_proven(
        &mut self,
        mark: Mark,
        holder_pid: u32,
        (still_for, steal_after): (Duration, Duration),
    ) -> Result<bool, LeaseError> {
        let now = world::instant();
        let proven_for = self.proof.observe(mark, (now, now), GAP_MAX + self.steal_after / 2);
        if let Some(proven_for) = proven_for {
            return Ok(steal_after / 3 <= proven_for);
        }
        if !steal_after.is_zero() && steal_after / 2 <= still_for {
            let place = self.place.clone();
            let proven = self.with_session(|session| session.prove(&place, holder_pid));
            if proven.is_err() && !place.source.more_hosts.is_empty() {
                // A former primary goes on being read: the next session may be with another host.
                self.session = None;
            }
            proven?;
            self.proof.give(mark, world::instant());
        }
        Ok(false)
    }

    fn end_store_sessions(&mut self) {
        if self.session.is_none() {
            self.session = Session::open(&self.place).ok();
        }
        if let Some(session) = &mut self.session {
            // Tried again with the next claim.
            let _ = sessions::end_stores(session.dialect.as_mut());
        }
    }

    /// Without the database's lock: somebody has it, and is ended if it gives no sign of life.
    fn watch(&mut self) -> Result<Attempt, LeaseError> {
        let is_sqlite = self.place.source.driver == Driver::Sqlite;
        let seen = match (self.look(), &self.last_rows) {
            (Ok(seen), _) => seen,
            // Without a write-ahead log, who hangs inside a transaction keeps readers out too:
            // that is no sign of life either.
            (Err(error), Some(last)) if is_sqlite && error.failure == Failure::Busy => last.clone(),
            (Err(error), _) => return Err(self.failed(&error)),
        };
        self.was_away = false;
        self.is_elsewhere = false;
        self.can_follow(&seen)?;
        let holder = seen.holder.clone();
        let Some(found) = holder.as_ref().filter(|_| !seen.is_released) else {
            return self.watch_claimant(seen.epoch);
        };
        let still_for = self.still_for(Sign::Own(found.epoch, found.counter));
        let steal_after = sight::patience_with(found, self.steal_after);
        let mark = Mark::Life(found.epoch, found.counter);
        let is_proven = self.is_proven(mark, found.pid, (still_for, steal_after))?;
        let Holder { server_id, host, pid, epoch, .. } = found;
        let whom = format!("server {server_id} (epoch {epoch}, process {pid} on {host})");
        let longer = sight::of_longer_patience(found, self.steal_after);
        let mut why = format!("{whom} holds the lock of {}{longer}", self.place.source);
        let is_still = !steal_after.is_zero() && steal_after <= still_for;
        if is_still && is_proven {
            match self.cut_off(found)? {
                Ok(()) => why = format!("{whom} gave no sign of life and was cut off"),
                Err(text) => why = format!("{why}; it gives no sign of life, but {text}"),
            }
        }
        Ok(Attempt::Held { holder, why })
    }

    /// A member of ours has the lock (Go servers do not know it), and the newest epoch is nobody's:
    /// it is about to claim the next one, or stands still before that and is cut off.
    fn watch_claimant(&mut self, epoch: Epoch) -> Result<Attempt, LeaseError> {
        let still_for = self.still_for(Sign::Unclaimed(epoch));
        let nobody = Holder { epoch, ..Holder::default() };
        let times = (still_for, self.steal_after);
        let is_proven = self.is_proven(Mark::Unclaimed(epoch), nobody.pid, times)?;
        let source = &self.place.source;
        let mut why =
            format!("a member that is about to claim the next epoch has the lock of {source}");
        if !self.steal_after.is_zero() && self.steal_after <= still_for && is_proven {
            let lasts = format!("for {still_for:.1?} a member had the lock and claimed no epoch");
            match self.cut_off(&nobody)? {
                Ok(()) => why = format!("{lasts}: it was cut off"),
                Err(text) => why = format!("{lasts}, but {text}"),
            }
        }
        Ok(Attempt::Held { holder: None, why })
    }

    /// Takes the lock from whoever has it and hangs; or the reason why that cannot be done.
    fn cut_off(&mut self, holder: &Holder) -> Result<Result<(), String>, LeaseError> {
        let (place, here) = (self.place.clone(), self.owner.host.clone());
        let patience = self.steal_after;
        let ended =
            self.with_session(|session| session.end_holder(&place, (&here, holder), patience))?;
        if ended.is_ok() {
            self.has_replaced = true;
            self.end_store_sessions();
        }
        Ok(ended)
    }
}

const HEAD_START_GIVEN: &str = "the database was away: the former active, which knows what it \
                                acknowledged, comes first for a moment";
const FOREIGN_HOLDER: &str = "the row in StoreLock is held by a Go server: it is taken only when \
                              its tick stands still";

impl Lease for SqlLease {
    fn try_take(&mut self) -> Result<Attempt, LeaseError> {
        assert!(self.held.is_none(), "the lease is ours already");
        if self.locked_session()? { self.claim() } else { self.watch() }
    }

    fn wait(&mut self, wake: &Wake) -> Result<Duration, LeaseError> {
        let has_lock = self.session.as_ref().is_some_and(|session| session.is_locked);
        let is_foreign = matches!(self.stillness, Some(Seen { sign: Sign::Foreign(..), .. }));
        let looks_only = is_foreign || self.is_elsewhere || self.yields_until.is_some();
        if self.held.is_none() && self.waiter.is_none() && !has_lock && !looks_only {
            let waiter = Waiter::spawn(self.place.clone(), wake);
            let waiter = waiter.map_err(|error| LeaseError::NotNow(error.to_string()))?;
            self.waiter = Some(waiter);
        }
        let patience = if self.steal_after.is_zero() { LOOK_PAUSE } else { self.steal_after / 8 };
        Ok(LOOK_PAUSE.min(patience))
    }

    fn settle(&mut self) -> Result<(), LeaseError> {
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), LeaseError> {
        let Some(fence) = self.held.clone() else {
            return Err(LeaseError::Lost("the lease is not held".to_owned()));
        };
        let lock_id = self.lock_id().to_owned();
        let is_locked = self.locked_session()?;
        let lost = self.with_session(|session| {
            transaction(session.dialect.as_mut(), |dialect| {
                rows::tick(dialect, fence.epoch(), &lock_id)
            })
        })?;
        if let (None, Some(rows)) = (&lost, &mut self.last_rows) {
            rows.on_ticked();
        }
        let node = self.node();
        if lost.is_none() && node != self.node_told {
            self.with_session(|session| {
                rows::tell_node(session.dialect.as_mut(), fence.epoch(), node.as_deref())
            })?;
            self.node_told = node;
        }
        match lost {
            Some(why) => Err(LeaseError::Lost(why)),
            None if is_locked => Ok(()),
            None => Err(LeaseError::NotNow(format!(
                "another session holds the lock of {}",
                self.place.source
            ))),
        }
    }

    fn mark_stuck(&mut self, since: Option<Instant>) -> Result<(), LeaseError> {
        let Some(fence) = self.held.clone() else {
            return Ok(());
        };
        self.with_session(|session| {
            rows::mark_stuck(session.dialect.as_mut(), fence.epoch(), since)
        })
    }

    fn release(&mut self, clean: bool) -> Result<(), LeaseError> {
        self.own_last = self.own_last.filter(|_| !clean);
        self.waiter = None;
        self.stillness = None;
        let Some(fence) = self.held.take() else {
            self.session = None;
            return Ok(());
        };
        let lock_id = self.lock_id().to_owned();
        let released = self.with_session(|session| {
            let given_back = transaction(session.dialect.as_mut(), |dialect| {
                rows::give_back(dialect, fence.epoch(), &lock_id, clean)
            });
            let unlocked = session.unlock();
            given_back.and(unlocked)
        });
        self.session = None;
        released
    }
}

impl Drop for SqlLease {
    fn drop(&mut self) {
        if let Some(session) = &mut self.session {
            // So that it is free at once; the end of the connection frees it too.
            let _ = session.unlock();
        }
    }
}

fn failure(error: &SqlError) -> LeaseError {
    match error.failure {
        Failure::Missing | Failure::Denied | Failure::ReadOnly => {
            LeaseError::Never(error.to_string())
        }
        Failure::Unreachable
        | Failure::Unknown
        | Failure::Busy
        | Failure::Full
        | Failure::BadValue
        | Failure::Duplicate
        | Failure::Other => LeaseError::NotNow(error.to_string()),
    }
}
