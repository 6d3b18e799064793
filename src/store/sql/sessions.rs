//! Sessions of one database: the lock that falls with its session, and how to end another's.

use crate::base::epoch::Epoch;
use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError, transaction};

/// PostgreSQL's key of the lock: `stanby` in letters. Such locks are each database's own.
const ADVISORY_KEY: u64 = 0x7374_616e_6279;
/// How PostgreSQL shows the sessions of a store.
const STORE_NAME: &str = "stanby store";
/// MySQL's name of the lock: of the whole server, so the database is in it.
const MYSQL_LOCK: &str = "CONCAT('stanby.', LEFT(DATABASE(), 40))";
/// Most loops, each with a session.
const STORES_MAX: usize = 64;

/// Tries for the lock without waiting.
///
/// # Errors
/// [`SqlError`].
pub fn try_lock(dialect: &mut dyn Dialect) -> Result<bool, SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(false),
        Driver::Postgres => yes(dialect, &format!("SELECT pg_try_advisory_lock({ADVISORY_KEY})")),
        Driver::Mysql => yes(dialect, &format!("SELECT GET_LOCK({MYSQL_LOCK}, 0)")),
    }
}

/// Waits for the lock up to a second.
///
/// # Errors
/// [`SqlError`].
pub fn lock_within_a_second(dialect: &mut dyn Dialect) -> Result<bool, SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(false),
        Driver::Postgres => {
            // The lock is the session's and outlives the transaction, the time-out does not.
            let locked = transaction(dialect, |dialect| {
                dialect.run("SET LOCAL lock_timeout = 1000")?;
                dialect.query(&format!("SELECT pg_advisory_lock({ADVISORY_KEY})"), &[])
            });
            match locked {
                Ok(_) => Ok(true),
                Err(error) if error.failure == Failure::Busy => Ok(false),
                Err(error) => Err(error),
            }
        }
        Driver::Mysql => yes(dialect, &format!("SELECT GET_LOCK({MYSQL_LOCK}, 1)")),
    }
}

/// Lets go of the lock.
///
/// # Errors
/// [`SqlError`].
pub fn unlock(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(()),
        Driver::Postgres => {
            yes(dialect, &format!("SELECT pg_advisory_unlock({ADVISORY_KEY})")).map(drop)
        }
        Driver::Mysql => yes(dialect, &format!("SELECT RELEASE_LOCK({MYSQL_LOCK})")).map(drop),
    }
}

fn yes(dialect: &mut dyn Dialect, statement: &str) -> Result<bool, SqlError> {
    let rows = dialect.query(statement, &[])?;
    Ok(rows.first().is_some_and(|row| row[0].signed() == 1))
}

/// Marks the session of a store's share, so that a successor finds it.
///
/// # Errors
/// [`SqlError`].
pub fn mark_store(dialect: &mut dyn Dialect, epoch: Epoch, index: usize) -> Result<(), SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(()),
        Driver::Postgres => {
            dialect.run(&format!("SET application_name = '{STORE_NAME} {epoch} {index}'"))
        }
        // An older session of a dead process may still have it for a moment; then that one is
        // ended and not this one, which is what is wanted.
        Driver::Mysql => {
            dialect.query(&format!("SELECT GET_LOCK({}, 0)", mysql_store(index)), &[]).map(drop)
        }
    }
}

fn mysql_store(index: usize) -> String {
    format!("CONCAT('stanby.store.{index}.', LEFT(DATABASE(), 40))")
}

/// Ends all sessions of stores: whoever calls this is about to begin a new epoch.
///
/// # Errors
/// [`SqlError`].
pub fn end_stores(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(()),
        Driver::Postgres => {
            let statement = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name LIKE '{STORE_NAME} %'"
            );
            dialect.query(&statement, &[]).map(drop)
        }
        Driver::Mysql => (0..STORES_MAX).try_for_each(|index| kill(dialect, &mysql_store(index))),
    }
}

/// Ends the session that has the lock.
///
/// # Errors
/// [`SqlError`].
pub fn end_holder(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(()),
        Driver::Postgres => {
            let (high, low) = (ADVISORY_KEY >> 32, ADVISORY_KEY & 0xffff_ffff);
            let statement = format!(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d \
                 ON d.oid = l.database WHERE d.datname = current_database() AND l.granted AND \
                 l.locktype = 'advisory' AND l.classid = {high} AND l.objid = {low}"
            );
            dialect.query(&statement, &[]).map(drop)
        }
        Driver::Mysql => kill(dialect, MYSQL_LOCK),
    }
}

/// Ends MySQL's session that has the lock of this name, if one has.
fn kill(dialect: &mut dyn Dialect, lock: &str) -> Result<(), SqlError> {
    let rows = dialect.query(&format!("SELECT IS_USED_LOCK({lock})"), &[])?;
    match rows.first().map(|row| row[0].unsigned()) {
        // One that ended by itself meanwhile is no trouble.
        Some(id) if id > 0 => match dialect.run(&format!("KILL {id}")) {
            Err(error) if error.failure == Failure::Denied => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
        Some(_) | None => Ok(()),
    }
}
