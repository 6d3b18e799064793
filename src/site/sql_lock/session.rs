//! A session with the database's own lock, and the thread that waits for that lock.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Place, rows};
use crate::base::files::{self, Access, Links};
use crate::base::time::Instant;
use crate::base::world;
use crate::election::keeper;
use crate::election::lease::{Holder, Wake};
use crate::site::epoch_files;
use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError};
use crate::store::sql::dsn::Source;
use crate::store::sql::{self, sessions};

/// Pause between tries where the database cannot wait for its lock within a call.
const LOCK_POLL_PAUSE: Duration = Duration::from_millis(50);
/// Processes that are looked at for the one that has the lock.
const PROCESSES_MAX: usize = 65_536;
/// A process that was not looked at for longer may have let go of the lock meanwhile.
const SUSPECT_GAP_MAX: Duration = Duration::from_secs(1);
/// From here on a call has time for a wait of a whole second.
const LONG_CALL: Duration = Duration::from_millis(1_200);

/// A connection, and the database's own lock that lives as long as it.
pub(super) struct Session {
    /// The connection.
    pub(super) dialect: Box<dyn Dialect>,
    /// SQLite knows no such lock: a file beside the database has it.
    file: Option<File>,
    /// Where SQLite's disk is tried.
    proof_path: Option<PathBuf>,
    /// Whether the lock is ours.
    pub(super) is_locked: bool,
    /// Who else has SQLite's, and claims no epoch.
    suspect: Option<Suspect>,
}

impl Session {
    pub(super) fn open(place: &Place) -> Result<Self, SqlError> {
        let dialect = sql::connect(&place.source, place.call_timeout)?;
        let file = match place.source.driver {
            Driver::Sqlite => {
                let path = lock_path(place);
                let failed =
                    |error| SqlError::of_connection(Failure::Denied, &path.display(), &error);
                Some(files::open(&path, Access::Keep(0o666), Links::Refused).map_err(failed)?)
            }
            Driver::Postgres | Driver::Mysql => None,
        };
        let is_file = place.source.driver == Driver::Sqlite;
        let proof_path = is_file.then(|| proof_path(place));
        Ok(Self { dialect, file, proof_path, is_locked: false, suspect: None })
    }

    pub(super) fn try_lock(&mut self) -> Result<bool, SqlError> {
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
    pub(super) fn lock(&mut self, call_timeout: Duration) -> Result<bool, SqlError> {
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

    pub(super) fn unlock(&mut self) -> Result<(), SqlError> {
        if !std::mem::take(&mut self.is_locked) {
            return Ok(());
        }
        match &self.file {
            Some(file) => epoch_files::unlock(file).map_err(|error| no_file_lock(&error)),
            None => sessions::unlock(self.dialect.as_mut()),
        }
    }

    /// Writes something that is durable when this returns, and takes it away again. What keeps us
    /// from writing may keep the holder from it too: then it moves no role.
    pub(super) fn prove(&mut self, place: &Place, holder_pid: u32) -> Result<(), SqlError> {
        let Some(path) = &self.proof_path else {
            return rows::prove(self.dialect.as_mut());
        };
        // The lock alone: with it held for a write, on a disk that is slow, we would be in the way.
        if !is_in_the_way(holder_pid, place) {
            self.dialect.run("BEGIN EXCLUSIVE")?;
            self.dialect.run("ROLLBACK")?;
        }
        // A file beside the database shows the disk.
        let made = files::open(path, Access::Replace(0o600), Links::Refused);
        let written = made.and_then(|file| file.sync_all());
        let removed = written.and_then(|()| std::fs::remove_file(path));
        removed.map_err(|error| SqlError::of_statement(Failure::Other, "proof", &error))
    }

    /// Takes the lock from a holder that hangs; or the reason why it cannot.
    pub(super) fn end_holder(
        &mut self,
        place: &Place,
        (here, holder): (&str, &Holder),
        patience: Duration,
    ) -> Result<Result<(), String>, SqlError> {
        match &self.file {
            Some(_) => {
                let path = lock_path(place);
                Ok(end_process(&path, (here, holder), &mut self.suspect, patience))
            }
            None => sessions::end_holder(self.dialect.as_mut()).map(Ok),
        }
    }
}

/// The file of a database of SQLite's. SQLite follows a link, and has its other files beside what
/// that leads to: whoever comes by another name has to meet there.
pub(in crate::site) fn real_path(source: &Source) -> PathBuf {
    let given = PathBuf::from(&source.database);
    std::fs::canonicalize(&given).unwrap_or(given)
}

fn beside(place: &Place, ending: &str) -> PathBuf {
    let mut path = real_path(&place.source).into_os_string();
    path.push(ending);
    path.into()
}

fn lock_path(place: &Place) -> PathBuf {
    beside(place, ".stanby.lck")
}

/// Whether a process has a lock of SQLite's that keeps others from writing: the one to write, and
/// without a write-ahead log one to read too.
fn is_in_the_way(pid: u32, place: &Place) -> bool {
    let (path, shared) = (real_path(&place.source), beside(place, "-shm"));
    let is_logged = place.source.journal.eq_ignore_ascii_case("wal");
    let holds = |path: &Path, kinds: &[&str]| holds_lock(pid, path, kinds).unwrap_or(false);
    holds(&shared, &["WRITE"])
        || holds(&path, if is_logged { &["WRITE"] } else { &["WRITE", "READ"] })
}

fn proof_path(place: &Place) -> PathBuf {
    beside(place, &format!(".stanby.proof.{}", std::process::id()))
}

fn no_file_lock(error: &io::Error) -> SqlError {
    SqlError::of_statement(Failure::Other, "lock of the file beside the database", error)
}

/// Which process of ours has had the lock without claiming an epoch, from when on, and until when
/// it was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    pid: u32,
    since: Instant,
    seen_at: Instant,
}

/// A stopped process keeps SQLite's lock as long as it lives: it is killed, if it is the recorded
/// holder and the kernel says that the lock beside the database is its own, or another process of
/// ours that has had it for `patience`. One that has just got it is about to claim.
fn end_process(
    path: &Path,
    (here, holder): (&str, &Holder),
    suspect: &mut Option<Suspect>,
    patience: Duration,
) -> Result<(), String> {
    let pid = match recorded(path, here, holder) {
        Ok(pid) => pid,
        Err(why) => overdue(claimant(path), suspect, (patience, world::instant())).ok_or(why)?,
    };
    let number = i32::try_from(pid).map_err(|error| error.to_string())?;
    let target = nix::unistd::Pid::from_raw(number);
    nix::sys::signal::kill(target, nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| format!("process {pid} cannot be ended: {error}"))
}

/// The process that has the lock, if it has been seen with it for long.
fn overdue(
    found: Option<u32>,
    suspect: &mut Option<Suspect>,
    (patience, now): (Duration, Instant),
) -> Option<u32> {
    let is_same = |known: &Suspect| {
        Some(known.pid) == found && now.since(known.seen_at) < SUSPECT_GAP_MAX.max(patience / 2)
    };
    let since = suspect.filter(is_same).map_or(now, |known| known.since);
    *suspect = found.map(|pid| Suspect { pid, since, seen_at: now });
    found.filter(|_| patience <= now.since(since))
}

/// The recorded holder, if it has the lock.
fn recorded(path: &Path, here: &str, holder: &Holder) -> Result<u32, String> {
    let pid = holder.pid;
    if pid == 0 {
        return Err("it is not known which process that is: it must be ended by hand".to_owned());
    }
    if holder.host != here {
        return Err(format!("process {pid} runs on {} and must be ended there", holder.host));
    }
    let hidden = |error: io::Error| format!("it is not known what process {pid} holds: {error}");
    if pid == std::process::id() || !holds_lock(pid, path, &["WRITE"]).map_err(hidden)? {
        let path = path.display();
        return Err(format!("process {pid} is not the one that has the lock of {path}"));
    }
    Ok(pid)
}

/// Which other process has the lock, if it is a server of ours: it has a keeper. Who died while it
/// had an epoch is the recorded one for as long as nobody claims the next.
fn claimant(path: &Path) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find(|pid| {
        let is_other = *pid != std::process::id();
        is_other && holds_lock(*pid, path, &["WRITE"]).unwrap_or(false) && has_keeper(*pid)
    })
}

fn has_keeper(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut names = threads.filter_map(|thread| files::read(&thread.path().join("comm"), 64).ok());
    names.any(|name| name.trim_ascii() == keeper::THREAD.as_bytes())
}

/// Whether a process holds a lock of these kinds on the file: by what the kernel tells of each of
/// its open files. (To ask by opening the file would, where it is the database's own, end the locks
/// that SQLite has on it in this process.)
fn holds_lock(pid: u32, path: &Path, kinds: &[&str]) -> io::Result<bool> {
    let wanted = std::fs::canonicalize(path)?;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // It may have been closed since.
        if !std::fs::read_link(entry.path()).is_ok_and(|target| target == wanted) {
            continue;
        }
        let number = entry.file_name();
        let facts = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
        let facts = std::fs::read_to_string(facts)?;
        let mut locks = facts.lines().filter(|line| line.starts_with("lock:"));
        if locks.any(|line| line.split_whitespace().any(|word| kinds.contains(&word))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A thread that waits for the lock with a session of its own, which then is the lease's.
pub(super) struct Waiter {
    slot: Arc<Mutex<Slot>>,
}

enum Slot {
    Waiting,
    Done(Result<Session, SqlError>),
    Abandoned,
}

impl Waiter {
    pub(super) fn spawn(place: Place, wake: &Wake) -> io::Result<Self> {
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
    pub(super) fn take(&self) -> Option<Result<Session, SqlError>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: who has just got the lock is about to claim, and is not ended for what another one
    /// had left undone; nor is one of which nobody knows that it had it all the time.
    #[test]
    fn only_who_had_the_lock_for_long_is_overdue() {
        let patience = Duration::from_secs(2);
        let at = |millis: u64| Instant::default() + Duration::from_millis(millis);
        let mut suspect = None;
        let mut seen =
            |found: Option<u32>, millis: u64| overdue(found, &mut suspect, (patience, at(millis)));
        assert_eq!(seen(Some(7), 0), None);
        assert_eq!(seen(Some(7), 900), None);
        assert_eq!(seen(Some(8), 1_800), None, "another one");
        assert_eq!(seen(None, 2_000), None);
        assert_eq!(seen(Some(8), 2_100), None, "it had let go");
        assert_eq!(seen(Some(8), 3_000), None);
        assert_eq!(seen(Some(8), 3_900), None);
        assert_eq!(seen(Some(8), 4_100), Some(8));
        assert_eq!(seen(Some(8), 9_000), None, "nobody has looked meanwhile");
    }
}
