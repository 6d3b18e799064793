//! A row of the shared database, renewed and compared.
//!
//! Three things together: the database's own lock of a session (`Session`), which falls when its
//! holder dies, so that a standby knows at once; the Go server's `StoreLock` row and tick, so that
//! servers of both kinds exclude each other; and the epoch, raised in the transaction that takes
//! the row. Writers of the store compare both rows in each of their transactions.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use crate::base::time::{Instant, WallTime};
use crate::base::world;
use crate::election::epoch_files::{self, Owner};
use crate::election::lease::{Attempt, Grant, Holder, Lease, LeaseError, Wake};
use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError, Value, transaction};
use crate::store::sql::dsn::Source;
use crate::store::sql::{self, schema, sessions};

/// After how long without a tick a Go server's row is taken: three probes of 1.5 s, as the Go
/// server does (spec stores, 8.12).
const FOREIGN_STILL_FOR: Duration = Duration::from_millis(4_500);
/// Pause between looks at a row that somebody else holds.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two looks that count as watching, beside half the steal time.
const GAP_MAX: Duration = Duration::from_millis(1_500);
/// Longest identity that the column takes.
const LOCK_ID_LEN_MAX: usize = 30;
/// Pause between tries where the database cannot wait for its lock within a call.
const LOCK_POLL_PAUSE: Duration = Duration::from_millis(50);
/// From here on a call has time for a wait of a whole second.
const LONG_CALL: Duration = Duration::from_millis(1_200);

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
    /// The holder before was ended by us, and may still run.
    has_replaced: bool,
}

/// Which database, and how long a call may take.
#[derive(Clone, Debug)]
struct Place {
    source: Source,
    call_timeout: Duration,
}

/// A sign of life: of ours the epoch and its counter, of a Go server its identity and tick.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    Own(Epoch, u64),
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
            owner,
            steal_after,
            session: None,
            waiter: None,
            held: None,
            stillness: None,
            has_replaced: false,
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
                return Err(failure(&error));
            }
            None => {}
        }
        if self.session.is_none() {
            let mut session = Session::open(&self.place).map_err(|error| failure(&error))?;
            schema::prepare(session.dialect.as_mut()).map_err(|error| failure(&error))?;
            self.session = Some(session);
        }
        if self.waiter.is_some() {
            return Ok(false);
        }
        self.with_session(Session::try_lock)
    }

    /// Asks the session; one that fails is given up, and with it its lock.
    fn with_session<T>(
        &mut self,
        ask: impl FnOnce(&mut Session) -> Result<T, SqlError>,
    ) -> Result<T, LeaseError> {
        let Some(session) = &mut self.session else {
            return Err(LeaseError::NotNow("no connection to the database".to_owned()));
        };
        ask(session).map_err(|error| {
            if error.failure != Failure::Busy {
                self.session = None;
            }
            failure(&error)
        })
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

    /// With the database's lock: takes the row and the epoch, unless a Go server lives.
    fn claim(&mut self) -> Result<Attempt, LeaseError> {
        let seen = self.with_session(|session| rows(session.dialect.as_mut()))?;
        let mut is_stolen = false;
        if let Some((id, tick)) = seen.foreign() {
            if self.still_for(Sign::Foreign(id, tick)) < FOREIGN_STILL_FOR {
                self.with_session(Session::unlock)?;
                return Ok(Attempt::Held { holder: None, why: FOREIGN_HOLDER.to_owned() });
            }
            is_stolen = true;
        }
        let claim = Claim {
            epoch: seen.epoch.next(),
            lock_id: self.lock_id().to_owned(),
            owner: self.owner.clone(),
            steals_from: is_stolen.then(|| seen.lock.clone()).flatten(),
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
        self.stillness = None;
        let fence = Arc::new(SqlFence {
            place: self.place.clone(),
            epoch: claim.epoch,
            connection: Mutex::new(None),
        });
        self.held = Some(Arc::clone(&fence));
        Ok(Attempt::Won(Grant { fence, predecessor, checked_at }))
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
        let seen = self.with_session(|session| rows(session.dialect.as_mut()))?;
        let holder = seen.holder.clone();
        let Some(found) = &holder else {
            let why = "another member is about to take the lock".to_owned();
            return Ok(Attempt::Held { holder: None, why });
        };
        let still_for = self.still_for(Sign::Own(found.epoch, found.counter));
        let Holder { server_id, host, pid, epoch, .. } = found;
        let whom = format!("server {server_id} (epoch {epoch}, process {pid} on {host})");
        let mut why = format!("{whom} holds the lock of {}", self.place.source);
        if !self.steal_after.is_zero() && self.steal_after <= still_for && !seen.is_released {
            let (place, here) = (self.place.clone(), self.owner.host.clone());
            let ended = self.with_session(|session| session.end_holder(&place, &here, found))?;
            match ended {
                Ok(()) => {
                    self.has_replaced = true;
                    self.end_store_sessions();
                    why = format!("{whom} gave no sign of life and was cut off");
                }
                Err(text) => why = format!("{why}; it gives no sign of life, but {text}"),
            }
        }
        Ok(Attempt::Held { holder, why })
    }
}

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
        if self.held.is_none() && self.waiter.is_none() && !has_lock && !is_foreign {
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
            transaction(session.dialect.as_mut(), |dialect| tick(dialect, fence.epoch, &lock_id))
        })?;
        match lost {
            Some(why) => Err(LeaseError::Lost(why)),
            None if is_locked => Ok(()),
            None => Err(LeaseError::NotNow(format!(
                "another session holds the lock of {}",
                self.place.source
            ))),
        }
    }

    fn release(&mut self, clean: bool) -> Result<(), LeaseError> {
        self.waiter = None;
        self.stillness = None;
        let Some(fence) = self.held.take() else {
            self.session = None;
            return Ok(());
        };
        let lock_id = self.lock_id().to_owned();
        let released = self.with_session(|session| {
            let given_back = transaction(session.dialect.as_mut(), |dialect| {
                give_back(dialect, fence.epoch, &lock_id, clean)
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

/// The rows that say who holds the lease.
struct Rows {
    epoch: Epoch,
    /// Identity of the epoch's owner in `StoreLock`.
    lock_id: String,
    /// The Go server's row.
    lock: Option<(String, u64)>,
    holder: Option<Holder>,
    is_released: bool,
}

impl Rows {
    /// Identity and tick of a holder that is none of ours.
    fn foreign(&self) -> Option<(String, u64)> {
        self.lock.clone().filter(|(id, _)| !id.is_empty() && *id != self.lock_id)
    }
}

fn rows(dialect: &mut dyn Dialect) -> Result<Rows, SqlError> {
    let epochs = dialect.query("SELECT epoch, lockid FROM StanbyEpoch", &[])?;
    let locks = dialect.query("SELECT id, tick FROM StoreLock", &[])?;
    let holders = dialect.query(
        "SELECT epoch, counter, released, record FROM StanbyHolder WHERE uniquerow=1",
        &[],
    )?;
    let holder = holders.first();
    Ok(Rows {
        epoch: Epoch(epochs.first().map_or(0, |row| row[0].unsigned())),
        lock_id: epochs.first().map(|row| row[1].text()).unwrap_or_default(),
        lock: locks.first().map(|row| (row[0].text(), row[1].unsigned())),
        holder: holder.map(|row| {
            let (epoch, counter) = (Epoch(row[0].unsigned()), row[1].unsigned());
            Holder { epoch, counter, ..decode(&row[3].text()) }
        }),
        is_released: holder.is_some_and(|row| row[2].signed() != 0),
    })
}

/// What a claim writes.
struct Claim {
    epoch: Epoch,
    lock_id: String,
    owner: Owner,
    /// A Go server's row that stood still, as it was seen.
    steals_from: Option<(String, u64)>,
}

impl Claim {
    /// Raises the epoch and takes the row; `None` if somebody else was faster.
    fn run(&self, dialect: &mut dyn Dialect) -> Result<Option<Instant>, SqlError> {
        transaction(dialect, |dialect| {
            let lock = dialect.driver().update_lock();
            let before = Value::from(self.epoch.0 - 1);
            let rows = dialect.query(&format!("SELECT epoch FROM StanbyEpoch{lock}"), &[])?;
            let checked_at = world::instant();
            let locks = dialect.query(&format!("SELECT id, tick FROM StoreLock{lock}"), &[])?;
            let found = locks.first().map(|row| (row[0].text(), row[1].unsigned()));
            if self.steals_from.is_some() && found != self.steals_from {
                // It ticked between our look and now.
                return Ok(None);
            }
            let values = [self.epoch.0.into(), self.lock_id.as_str().into(), self.owner_id()];
            if rows.is_empty() {
                let insert = "INSERT INTO StanbyEpoch (epoch, lockid, owner) VALUES (?,?,?)";
                dialect.execute(insert, &values)?;
            } else {
                let update = "UPDATE StanbyEpoch SET epoch=?, lockid=?, owner=? WHERE epoch=?";
                let values = [values.as_slice(), &[before]].concat();
                if dialect.execute(update, &values)? != 1 {
                    return Ok(None);
                }
            }
            let own = [Value::from(self.lock_id.as_str()), Value::Integer(1)];
            let write = match found {
                None => "INSERT INTO StoreLock (id, tick) VALUES (?, ?)",
                Some(_) => "UPDATE StoreLock SET id=?, tick=?",
            };
            dialect.execute(write, &own)?;
            dialect.execute("DELETE FROM StanbyHolder", &[])?;
            let insert = "INSERT INTO StanbyHolder (epoch, counter, released, record) \
                          VALUES (?,0,0,?)";
            dialect.execute(insert, &[self.epoch.0.into(), encode(&self.owner).into()])?;
            Ok(Some(checked_at))
        })
    }

    fn owner_id(&self) -> Value {
        Value::from(self.owner.server_id.as_str())
    }
}

/// One sign of life; the reason if the lease is lost.
fn tick(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    lock_id: &str,
) -> Result<Option<String>, SqlError> {
    let update = "UPDATE StanbyHolder SET counter=counter+1 WHERE epoch=?";
    if dialect.execute(update, &[epoch.0.into()])? != 1 {
        return Ok(Some(format!("a later epoch than {epoch} has begun")));
    }
    let update = "UPDATE StoreLock SET tick=tick+1 WHERE id=?";
    if dialect.execute(update, &[lock_id.into()])? == 0 {
        return Ok(Some("lost store lock: another server wrote itself into it".to_owned()));
    }
    Ok(None)
}

fn give_back(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    lock_id: &str,
    clean: bool,
) -> Result<(), SqlError> {
    let released = Value::Integer(i64::from(clean));
    let update = "UPDATE StanbyHolder SET released=? WHERE epoch=?";
    if dialect.execute(update, &[released, epoch.0.into()])? == 1 {
        dialect.execute("UPDATE StoreLock SET id='', tick=0 WHERE id=?", &[lock_id.into()])?;
    }
    Ok(())
}

fn encode(owner: &Owner) -> String {
    serde_json::json!({
        "server_id": owner.server_id,
        "host": owner.host,
        "pid": owner.pid,
        "since": world::now().wall.0,
        "addresses": owner.addresses,
        "control": owner.control_path,
    })
    .to_string()
}

fn decode(record: &str) -> Holder {
    let found: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    let addresses = found["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    Holder {
        server_id: text("server_id"),
        host: text("host"),
        pid: found["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        since: WallTime(found["since"].as_i64().unwrap_or(0)),
        addresses: addresses.iter().filter_map(|it| it.as_str()).map(str::to_owned).collect(),
        control_path: found["control"].as_str().map(str::to_owned),
        ..Holder::default()
    }
}

fn failure(error: &SqlError) -> LeaseError {
    match error.failure {
        Failure::Missing | Failure::Denied | Failure::ReadOnly => {
            LeaseError::Never(error.to_string())
        }
        Failure::Unreachable
        | Failure::Busy
        | Failure::Full
        | Failure::BadValue
        | Failure::Other => LeaseError::NotNow(error.to_string()),
    }
}

/// A connection, and the database's own lock that lives as long as it.
struct Session {
    dialect: Box<dyn Dialect>,
    /// SQLite knows no such lock: a file beside the database has it.
    file: Option<File>,
    is_locked: bool,
}

impl Session {
    fn open(place: &Place) -> Result<Self, SqlError> {
        let dialect = sql::connect(&place.source, place.call_timeout)?;
        let file = match place.source.driver {
            Driver::Sqlite => {
                let path = lock_path(place);
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(false);
                let failed =
                    |error| SqlError::of_connection(Failure::Denied, &path.display(), &error);
                Some(options.open(&path).map_err(failed)?)
            }
            Driver::Postgres | Driver::Mysql => None,
        };
        Ok(Self { dialect, file, is_locked: false })
    }

    fn try_lock(&mut self) -> Result<bool, SqlError> {
        if self.is_locked {
            return Ok(true);
        }
        self.is_locked = match &self.file {
            Some(file) => epoch_files::try_lock(file).map_err(|error| no_file_lock(&error))?,
            None => sessions::try_lock(self.dialect.as_mut())?,
        };
        Ok(self.is_locked)
    }

    /// Waits for the lock, in a database no longer than a call may take.
    fn lock(&mut self, call_timeout: Duration) -> Result<bool, SqlError> {
        self.is_locked = match &self.file {
            Some(file) => {
                epoch_files::lock(file).map_err(|error| no_file_lock(&error))?;
                true
            }
            None if call_timeout < LONG_CALL => {
                let is_locked = sessions::try_lock(self.dialect.as_mut())?;
                if !is_locked {
                    // The database tells nobody that its lock is free.
                    thread::park_timeout(LOCK_POLL_PAUSE);
                }
                is_locked
            }
            None => sessions::lock_within_a_second(self.dialect.as_mut())?,
        };
        Ok(self.is_locked)
    }

    fn unlock(&mut self) -> Result<(), SqlError> {
        if !std::mem::take(&mut self.is_locked) {
            return Ok(());
        }
        match &self.file {
            Some(file) => epoch_files::unlock(file).map_err(|error| no_file_lock(&error)),
            None => sessions::unlock(self.dialect.as_mut()),
        }
    }

    /// Takes the lock from a holder that hangs; or the reason why it cannot.
    fn end_holder(
        &mut self,
        place: &Place,
        here: &str,
        holder: &Holder,
    ) -> Result<Result<(), String>, SqlError> {
        match &self.file {
            Some(_) => Ok(end_process(&lock_path(place), here, holder)),
            None => sessions::end_holder(self.dialect.as_mut()).map(Ok),
        }
    }
}

fn lock_path(place: &Place) -> PathBuf {
    PathBuf::from(format!("{}.stanby.lck", place.source.database))
}

fn no_file_lock(error: &std::io::Error) -> SqlError {
    SqlError::of_statement(Failure::Other, "lock of the file beside the database", error)
}

/// A stopped process keeps SQLite's lock as long as it lives: it is killed, if it is on this
/// machine and has the lock file open.
fn end_process(path: &std::path::Path, here: &str, holder: &Holder) -> Result<(), String> {
    let pid = holder.pid;
    if holder.host != here {
        return Err(format!("process {pid} runs on {} and must be ended there", holder.host));
    }
    let wanted = std::fs::canonicalize(path).map_err(|error| error.to_string())?;
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let mut entries = entries.map_err(|error| format!("process {pid} is hidden: {error}"))?;
    let is_open = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.and_then(|it| std::fs::read_link(it.path())).is_ok_and(|target| target == wanted)
    };
    if pid == std::process::id() || !entries.any(is_open) {
        return Err(format!("process {pid} is not the one that holds it"));
    }
    let pid = i32::try_from(pid).map_err(|error| error.to_string())?;
    let target = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(target, nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| format!("process {pid} cannot be ended: {error}"))
}

/// A thread that waits for the lock with a session of its own, which then is the lease's.
struct Waiter {
    slot: Arc<Mutex<Slot>>,
}

enum Slot {
    Waiting,
    Done(Result<Session, SqlError>),
    Abandoned,
}

impl Waiter {
    fn spawn(place: Place, wake: &Wake) -> std::io::Result<Self> {
        let slot = Arc::new(Mutex::new(Slot::Waiting));
        let (shared, wake) = (Arc::clone(&slot), Arc::clone(wake));
        thread::Builder::new().name("lock-waiter".to_owned()).spawn(move || {
            let mut waited = Session::open(&place);
            loop {
                let mut is_done = true;
                if let Ok(session) = &mut waited {
                    match session.lock(place.call_timeout) {
                        Ok(is_locked) => is_done = is_locked,
                        Err(error) => waited = Err(error),
                    }
                }
                let mut slot = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if matches!(*slot, Slot::Abandoned) {
                    return;
                }
                if is_done {
                    *slot = Slot::Done(waited);
                    drop(slot);
                    return wake();
                }
            }
        })?;
        Ok(Self { slot })
    }

    /// What became of it, once.
    fn take(&self) -> Option<Result<Session, SqlError>> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *slot, Slot::Waiting) {
            Slot::Done(result) => Some(result),
            Slot::Waiting | Slot::Abandoned => None,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Slot::Abandoned;
    }
}

/// The right to write under one epoch, asked over a connection of its own.
struct SqlFence {
    place: Place,
    epoch: Epoch,
    connection: Mutex<Option<Box<dyn Dialect>>>,
}

impl SqlFence {
    fn look(&self) -> Result<Option<(Epoch, String)>, SqlError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dialect = match connection.take() {
            Some(dialect) => dialect,
            None => sql::connect(&self.place.source, self.place.call_timeout)?,
        };
        let rows = dialect.query("SELECT epoch, owner FROM StanbyEpoch", &[])?;
        *connection = Some(dialect);
        Ok(rows.first().map(|row| (Epoch(row[0].unsigned()), row[1].text())))
    }
}

impl Fence for SqlFence {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn check(&self) -> Result<(), FenceError> {
        let unreadable =
            |error: SqlError| FenceError::Unreadable(std::io::Error::other(error.to_string()));
        // A connection that broke meanwhile is replaced once.
        let found = self.look().or_else(|_| self.look()).map_err(unreadable)?;
        match found {
            Some((found, owner)) if found != self.epoch => {
                Err(FenceError::Superseded { ours: self.epoch, found, owner })
            }
            Some(_) => Ok(()),
            None => Err(FenceError::Unreadable(std::io::Error::other("StanbyEpoch is empty"))),
        }
    }
}
