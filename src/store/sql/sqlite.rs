//! Dialect for SQLite.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, params_from_iter};

use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};

/// Statements kept prepared.
const STATEMENTS_MAX: usize = 160;
/// Pages (of 4 KiB) in the write-ahead log after which a commit copies them into the database: four
/// times SQLite's own, because each copying rewrites the same inner pages and syncs both files.
const CHECKPOINT_PAGES: i64 = 4_000;

/// One connection to a database file.
pub struct Sqlite {
    connection: Connection,
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
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|error| if path.exists() { failed(error) } else { missing(path, &error) })?;
        connection.busy_timeout(timeout).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update(None, "journal_mode", journal).map_err(failed)?;
        // A commit is on the disk when it returns.
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(failed)?;
        Ok(Self { connection })
    }
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
        let prepared = self.connection.prepare_cached(statement);
        let changed = prepared.and_then(|mut it| it.execute(params_from_iter(values)));
        let changed = changed.map_err(|error| failed(statement, &error))?;
        Ok(u64::try_from(changed).unwrap_or(u64::MAX))
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        let failed = |error: rusqlite::Error| failed(statement, &error);
        let mut prepared = self.connection.prepare_cached(statement).map_err(failed)?;
        let width = prepared.column_count();
        let mut rows = prepared.query(params_from_iter(values)).map_err(failed)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let columns = (0..width).map(|index| row.get_ref(index).map(value));
            found.push(columns.collect::<Result<Row, _>>().map_err(failed)?);
        }
        Ok(found)
    }

    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        let prepared = self.connection.prepare_cached(statement);
        prepared.map(drop).map_err(|error| failed(statement, &error))
    }

    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        self.connection.execute_batch(statement).map_err(|error| failed(statement, &error))
    }
}

fn value(from: ValueRef<'_>) -> Value {
    match from {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        // No column of ours is of that type; a sum of nothing may be.
        ValueRef::Real(number) => Value::Text(number.to_string()),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
    }
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

fn failure(error: &rusqlite::Error) -> Failure {
    let text = error.to_string();
    if text.contains("no such table") || text.contains("no such column") {
        return Failure::Missing;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Busy,
        Some(ErrorCode::DiskFull) => Failure::Full,
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
