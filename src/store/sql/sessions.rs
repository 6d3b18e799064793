//! Sessions of one database: the lock that falls with its session, and how to end another's.

use crate::base::epoch::Epoch;
use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError, transaction};

/// PostgreSQL's key of the lock in releases that did not tell schemas apart: `stanby` in letters.
/// Who has a schema's lock shares this one, so that such a member has either both or none.
const OLD_KEY: u64 = 0x7374_616e_6279;
/// First half of PostgreSQL's key of the lock: `stan` in letters. Such locks are each database's
/// own; the second half says which of its schemas.
const LOCK_CLASS: u32 = 0x7374_616e;
/// First half of the key that the sessions of a store share: `stor` in letters.
const STORE_CLASS: u32 = 0x7374_6f72;
/// Second half: the schema in which the tables are.
const SCHEMA: &str = "(SELECT (relnamespace::int8 & 2147483647)::int4 FROM pg_class \
                      WHERE oid = to_regclass('StanbyEpoch'))";
/// How PostgreSQL shows the sessions of a store whose source gives them no name; releases that did
/// not tell schemas apart find them by it.
const STORE_NAME: &str = "stanby store";
/// The same where the tables are not in the usual schema: those releases must not find them.
const OTHER_STORE_NAME: &str = "stanby store@";
/// MySQL's name of the lock: of the whole server and without regard to case, so the database is in
/// it, and a long name or one with capitals by its sum.
const MYSQL_DATABASE: &str = "IF(CHAR_LENGTH(DATABASE()) <= 40 AND \
     BINARY DATABASE() = BINARY LOWER(DATABASE()), DATABASE(), \
     CONCAT(LEFT(DATABASE(), 8), MD5(DATABASE())))";
/// Most loops, each with a session.
const STORES_MAX: usize = 64;

fn mysql_lock() -> String {
    format!("CONCAT('stanby.', {MYSQL_DATABASE})")
}

/// Tries for the lock without waiting.
///
/// # Errors
/// [`SqlError`].
pub fn try_lock(dialect: &mut dyn Dialect) -> Result<bool, SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(false),
        Driver::Postgres => {
            let statement = format!(
                "SELECT CASE WHEN pg_try_advisory_lock({LOCK_CLASS}, {SCHEMA}) THEN CASE \
                 WHEN pg_try_advisory_lock_shared({OLD_KEY}) THEN 1 ELSE 2 END ELSE 0 END"
            );
            let rows = dialect.query(&statement, &[])?;
            match rows.first().map(|row| row[0].signed()) {
                Some(1) => Ok(true),
                Some(2) => unlock_schema(dialect).map(|()| false),
                Some(_) | None => Ok(false),
            }
        }
        Driver::Mysql => yes(dialect, &format!("SELECT GET_LOCK({}, 0)", mysql_lock())),
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
            let own = format!("SELECT pg_advisory_lock({LOCK_CLASS}, {SCHEMA})");
            if !wait_postgres(dialect, &own)? {
                return Ok(false);
            }
            if wait_postgres(dialect, &format!("SELECT pg_advisory_lock_shared({OLD_KEY})"))? {
                return Ok(true);
            }
            unlock_schema(dialect).map(|()| false)
        }
        Driver::Mysql => yes(dialect, &format!("SELECT GET_LOCK({}, 1)", mysql_lock())),
    }
}

/// Whether a statement that waits for a lock got it within a second. The lock is the session's and
/// outlives the transaction, the time-out does not.
fn wait_postgres(dialect: &mut dyn Dialect, statement: &str) -> Result<bool, SqlError> {
    let locked = transaction(dialect, |dialect| {
        dialect.run("SET LOCAL lock_timeout = 1000")?;
        dialect.query(statement, &[])
    });
    match locked {
        Ok(_) => Ok(true),
        Err(error) if error.failure == Failure::Busy => Ok(false),
        Err(error) => Err(error),
    }
}

fn unlock_schema(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    yes(dialect, &format!("SELECT pg_advisory_unlock({LOCK_CLASS}, {SCHEMA})")).map(drop)
}

/// Lets go of the lock.
///
/// # Errors
/// [`SqlError`].
pub fn unlock(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(()),
        Driver::Postgres => {
            yes(dialect, &format!("SELECT pg_advisory_unlock_shared({OLD_KEY})"))?;
            unlock_schema(dialect)
        }
        Driver::Mysql => yes(dialect, &format!("SELECT RELEASE_LOCK({})", mysql_lock())).map(drop),
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
pub fn mark_store(
    dialect: &mut dyn Dialect,
    epoch: Epoch,
    index: usize,
    is_named: bool,
) -> Result<(), SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(()),
        Driver::Postgres => {
            let mut statement = format!("SELECT pg_advisory_lock_shared({STORE_CLASS}, {SCHEMA})");
            if !is_named {
                statement.push_str(&format!(
                    ", set_config('application_name', CASE WHEN (SELECT relnamespace FROM pg_class \
                     WHERE oid = to_regclass('StanbyEpoch')) = to_regnamespace('public') \
                     THEN '{STORE_NAME} ' ELSE '{OTHER_STORE_NAME}' END || '{epoch} {index}', \
                     false)"
                ));
            }
            dialect.query(&statement, &[]).map(drop)
        }
        // An older session of a dead process may still have it for a moment; then that one is
        // ended and not this one, which is what is wanted.
        Driver::Mysql => {
            dialect.query(&format!("SELECT GET_LOCK({}, 0)", mysql_store(index)), &[]).map(drop)
        }
    }
}

fn mysql_store(index: usize) -> String {
    format!("CONCAT('stanby.store.{index}.', {MYSQL_DATABASE})")
}

/// Ends all sessions of stores: whoever calls this is about to begin a new epoch.
///
/// # Errors
/// [`SqlError`].
pub fn end_stores(dialect: &mut dyn Dialect) -> Result<(), SqlError> {
    match dialect.driver() {
        Driver::Sqlite => Ok(()),
        Driver::Postgres => {
            // Those of a release that did not tell schemas apart are in the usual one.
            let statement = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name LIKE '{STORE_NAME} %' \
                 AND (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('StanbyEpoch')) = \
                 to_regnamespace('public')"
            );
            dialect.query(&statement, &[])?;
            end_who_has(dialect, STORE_CLASS, SCHEMA, 2)
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
            end_who_has(dialect, LOCK_CLASS, SCHEMA, 2)?;
            let high = u32::try_from(OLD_KEY >> 32).unwrap_or_default();
            let low = (OLD_KEY & 0xffff_ffff).to_string();
            end_who_has(dialect, high, &low, 1)
        }
        Driver::Mysql => kill(dialect, &mysql_lock()),
    }
}

/// Ends PostgreSQL's sessions that have an advisory lock of this key: of two halves (`form` 2), or
/// a whole one that nobody shares.
fn end_who_has(
    dialect: &mut dyn Dialect,
    class: u32,
    object: &str,
    form: u8,
) -> Result<(), SqlError> {
    let statement = format!(
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d \
         ON d.oid = l.database WHERE d.datname = current_database() AND l.granted AND \
         l.locktype = 'advisory' AND l.classid = {class} AND l.objid = {object}::int8::oid AND \
         l.objsubid = {form} AND ({form} = 2 OR l.mode = 'ExclusiveLock')"
    );
    dialect.query(&statement, &[]).map(drop)
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
