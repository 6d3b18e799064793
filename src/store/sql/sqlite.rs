//! Dialect for SQLite.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, Type, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, ffi, params_from_iter};

use crate::base::files::NotRegular;
use crate::base::world;
use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::sqlite_files::Files;

/// Statements kept prepared.
const STATEMENTS_MAX: usize = 160;
/// Pages (of 4 KiB) in the write-ahead log after which a commit copies them into the database: four
/// times SQLite's own, because each copying rewrites the same inner pages and syncs both files.
const CHECKPOINT_PAGES: i64 = 4_000;
/// Pause between two tries while another connection has the lock. SQLite's own grow to a tenth of a
/// second, and so would hardly ever meet the moment between two commits of a busy store.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// One connection to a database file.
pub struct Sqlite {
    connection: Connection,
    files: Files,
    /// Longest wait for a lock.
    timeout: Duration,
    /// After a commit with an unknown outcome nothing is done any more.
    is_broken: bool,
}

impl Sqlite {
    /// Opens the file. A lock of another process is waited for as long as `timeout`.
    ///
    /// # Errors
    /// [`SqlError`] when it cannot be opened or is no database.
    pub fn open(path: &Path, journal: &str, timeout: Duration) -> Result<Self, SqlError> {
        let failed = |error: rusqlite::Error| {
            SqlError::of_connection(failure(&error), &path.display(), &error)
        };
        // A wrong path is an error, not a new database: `sql init` makes the file.
        // Looked at and not opened: closing another descriptor of it would drop SQLite's locks.
        if let Ok(found) = std::fs::metadata(path)
            && !found.is_file()
        {
            let error = NotRegular::error(path, found.file_type());
            return Err(SqlError::of_connection(Failure::Denied, &path.display(), &error));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut files = Files::of(path);
        let _ = files.find_changed();
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|error| if path.exists() { failed(error) } else { missing(path, &error) })?;
        // We wait ourselves.
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let mut sqlite = Self { connection, files, timeout, is_broken: false };
        let set_journal = |it: &Connection| it.pragma_update(None, "journal_mode", journal);
        sqlite.patiently(set_journal).map_err(failed)?;
        let connection = &sqlite.connection;
        // A commit is on the disk when it returns.
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(failed)?;
        // Only a read opens the files beside the database.
        let read = |it: &Connection| it.execute_batch("SELECT count(*) FROM sqlite_master");
        sqlite.patiently(read).map_err(failed)?;
        sqlite.files.forget_beside();
        match sqlite.files.find_changed().map(Path::to_owned) {
            None => Ok(sqlite),
            Some(changed) => {
                let why = taken_away(changed);
                Err(SqlError::of_connection(Failure::Unreachable, &path.display(), &why))
            }
        }
    }

    /// Tries again while another connection has the lock. Not where that has ended a transaction:
    /// the rest of it must not be done alone.
    fn patiently<T>(
        &self,
        call: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if self.is_broken {
            let why = "the outcome of a commit is not known".to_owned();
            return Err(rusqlite::Error::ToSqlConversionFailure(why.into()));
        }
        let was_alone = self.connection.is_autocommit();
        let until = world::instant() + self.timeout;
        loop {
            let result = call(&self.connection);
            let is_busy = result.as_ref().is_err_and(|error| failure(error) == Failure::Busy);
            let may_go_on = self.connection.is_autocommit() == was_alone;
            if !is_busy || !may_go_on || until <= world::instant() {
                return result;
            }
            thread::park_timeout(LOCK_PAUSE);
        }
    }
}

fn taken_away(path: PathBuf) -> String {
    format!("{} was removed or replaced under the running server", path.display())
}

/// There is no such file: the line names the command that makes it.
fn missing(path: &Path, error: &rusqlite::Error) -> SqlError {
    let path = path.display();
    let command = format!("stanby sql init -sql_driver sqlite -sql_source {path}");
    let why = format!("there is no such file, run: {command}");
    SqlError::of_connection(failure(error), &path, &why)
}

impl Dialect for Sqlite {
    fn driver(&self) -> Driver {
        Driver::Sqlite
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        let changed = self.patiently(|connection| {
            connection.prepare_cached(statement)?.execute(params_from_iter(values))
        });
        let changed = changed.map_err(|error| failed(statement, &error))?;
        Ok(u64::try_from(changed).unwrap_or(u64::MAX))
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        let found = self.patiently(|connection| rows(connection, statement, values));
        found.map_err(|error| failed(statement, &error))
    }

    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        let prepared = self.patiently(|connection| connection.prepare_cached(statement).map(drop));
        prepared.map_err(|error| failed(statement, &error))
    }

    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        let done = self.patiently(|connection| connection.execute_batch(statement));
        done.map_err(|error| failed(statement, &error))
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        let statement = "COMMIT";
        let done = self.patiently(|connection| connection.execute_batch(statement));
        let Err(error) = done else {
            return match self.files.find_changed().map(Path::to_owned) {
                None => Ok(()),
                Some(changed) => {
                    self.is_broken = true;
                    Err(SqlError::of_unknown_commit(&taken_away(changed)))
                }
            };
        };
        let is_open = !self.connection.is_autocommit();
        let was_rolled_back = match failure(&error) {
            // Without a write-ahead log readers can be in the way of a commit too.
            Failure::Busy => is_open,
            Failure::Full | Failure::BadValue | Failure::Duplicate => true,
            Failure::Unreachable
            | Failure::Unknown
            | Failure::Missing
            | Failure::ReadOnly
            | Failure::Denied
            | Failure::Other => false,
        };
        if is_open {
            self.run("ROLLBACK")?;
        }
        if was_rolled_back {
            return Err(failed(statement, &error));
        }
        // What was written may be found as committed by whoever opens the file next.
        self.is_broken = true;
        Err(SqlError::of_unknown_commit(&error))
    }
}

fn rows(connection: &Connection, statement: &str, values: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let mut prepared = connection.prepare_cached(statement)?;
    let width = prepared.column_count();
    let mut rows = prepared.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = (0..width).map(|index| {
            value(row.get_ref(index)?).ok_or_else(|| {
                let name = row.as_ref().column_name(index).unwrap_or_default().to_owned();
                rusqlite::Error::InvalidColumnType(index, name, Type::Real)
            })
        });
        found.push(columns.collect::<Result<Row, _>>()?);
    }
    Ok(found)
}

/// `None` for a number that is no whole one of 64 bits.
fn value(from: ValueRef<'_>) -> Option<Value> {
    Some(match from {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        // No column of ours is of that type, but somebody may have altered one.
        ValueRef::Real(number) => Value::of_fraction(number)?,
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
    })
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn failed(statement: &str, error: &rusqlite::Error) -> SqlError {
    SqlError::of_statement(failure(error), statement, error)
}

fn is_duplicate(error: &rusqlite::Error) -> bool {
    let keys = [ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_UNIQUE];
    error.sqlite_error().is_some_and(|error| keys.contains(&error.extended_code))
}

fn failure(error: &rusqlite::Error) -> Failure {
    let text = error.to_string();
    if text.contains("no such table") || text.contains("no such column") {
        return Failure::Missing;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Busy,
        Some(ErrorCode::DiskFull) => Failure::Full,
        Some(ErrorCode::ConstraintViolation) if is_duplicate(error) => Failure::Duplicate,
        Some(ErrorCode::TooBig | ErrorCode::TypeMismatch | ErrorCode::ConstraintViolation) => {
            Failure::BadValue
        }
        Some(ErrorCode::ReadOnly) => Failure::ReadOnly,
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            Failure::Denied
        }
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => Failure::Unreachable,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn open(path: &Path, timeout: Duration) -> Sqlite {
        Sqlite::open(path, "WAL", timeout).unwrap()
    }

    /// Goal: a number of another type is a whole one, or an error that names its column.
    #[test]
    fn numbers_of_other_types_are_whole_or_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        rusqlite::Connection::open(&path).unwrap();
        let mut sqlite = open(&path, Duration::from_secs(1));
        let found = sqlite.query("SELECT 1000.0, NULL, -7e0", &[]).unwrap();
        assert_eq!(found, [[Value::Integer(1_000), Value::Null, Value::Integer(-7)]]);
        for wrong in ["1.5", "1e19"] {
            let error = sqlite.query(&format!("SELECT {wrong} AS maxseq"), &[]).unwrap_err();
            assert!(error.text.contains("maxseq"), "{error}");
        }
    }

    /// Goal: a lock of another connection is waited for, and not longer than was said.
    #[test]
    fn a_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::File::create(&path).unwrap();
        let mut holder = open(&path, Duration::ZERO);
        holder.run("CREATE TABLE t (x INTEGER)").unwrap();
        holder.run("BEGIN IMMEDIATE").unwrap();
        let error = open(&path, Duration::from_millis(5)).run("BEGIN IMMEDIATE").unwrap_err();
        assert_eq!(error.failure, Failure::Busy, "{error}");
        let mut waiter = open(&path, Duration::from_secs(60));
        let waiting =
            thread::spawn(move || waiter.execute("INSERT INTO t VALUES (?)", &[Value::Integer(1)]));
        // What is read is not kept from anybody meanwhile.
        let mut reader = open(&path, Duration::ZERO);
        assert_eq!(reader.query("SELECT x FROM t", &[]).unwrap(), Vec::<Row>::new());
        holder.run("COMMIT").unwrap();
        assert_eq!(waiting.join().unwrap(), Ok(1));
        assert_eq!(reader.query("SELECT x FROM t", &[]).unwrap(), [[Value::Integer(1)]]);
    }
}
