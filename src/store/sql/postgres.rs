//! Dialect for PostgreSQL.
//!
//! The client is asynchronous; its runtime lives in here and runs during calls alone, so that each
//! call can be given up after a time.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use crate::base::world;
use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::dsn::{Source, Watched};
use crate::store::sql::postgres_login::{self, Login, Warning};
use crate::store::sql::postgres_numeric;
use crate::store::sql::texts;

/// Statements kept prepared; beyond it all are prepared anew.
const STATEMENTS_MAX: usize = 160;

/// A server's time-out for statements would end the wait for a synchronous standby, and with it the
/// commit would count as done.
const COMMIT: &str = "SET LOCAL statement_timeout = 0; COMMIT";

/// One connection to a server.
pub struct Postgres {
    runtime: Runtime,
    client: Client,
    statements: BTreeMap<String, Statement>,
    call_timeout: Duration,
    host: Watched,
    /// Reads and writes the socket.
    connection: JoinHandle<()>,
    /// The last warning of the server that nobody has taken.
    warning: Warning,
    /// A statement of the open transaction failed: a COMMIT would silently roll back.
    has_failed: bool,
    /// After a call that got no answer, what comes next is unknown.
    is_broken: bool,
}

impl Postgres {
    /// Connects.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn connect(source: &Source, call_timeout: Duration) -> Result<Self, SqlError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| SqlError::of_connection(Failure::Unreachable, source, &error))?;
        let Login { client, connection, warning, host, .. } =
            runtime.block_on(postgres_login::log_in(source, call_timeout))?;
        let mut connected = Self {
            runtime,
            client,
            statements: BTreeMap::new(),
            call_timeout,
            host,
            connection,
            warning,
            has_failed: false,
            is_broken: false,
        };
        connected.run(&postgres_login::settings(source, call_timeout))?;
        Ok(connected)
    }

    fn prepared(&mut self, statement: &str) -> Result<Statement, SqlError> {
        if let Some(prepared) = self.statements.get(statement) {
            return Ok(prepared.clone());
        }
        if STATEMENTS_MAX <= self.statements.len() {
            self.statements.clear();
        }
        let text = numbered(statement);
        let asked = self.client.prepare(&text);
        let asked = within(&self.runtime, self.call_timeout, asked);
        let prepared = self.told(statement, asked)?;
        self.statements.insert(statement.to_owned(), prepared.clone());
        Ok(prepared)
    }

    fn check(&self, statement: &str) -> Result<(), SqlError> {
        if !self.is_broken {
            return Ok(());
        }
        let why = "the connection was lost before";
        Err(SqlError::of_statement(Failure::Unreachable, statement, &why))
    }

    fn told<T>(&mut self, statement: &str, asked: Asked<T>) -> Result<T, SqlError> {
        let (failure, why) = match asked {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(error)) => (failure(&error), reason(&error)),
            None => {
                self.host.no_answer(world::instant());
                (Failure::Unreachable, "no answer in time".to_owned())
            }
        };
        self.has_failed = true;
        if failure == Failure::Unreachable {
            self.break_off();
        }
        Err(SqlError::of_statement(failure, statement, &why))
    }

    /// Closes the socket: nothing that is under way there is waited for, or asked to end.
    fn break_off(&mut self) {
        self.is_broken = true;
        self.connection.abort();
        self.runtime.block_on(tokio::task::yield_now());
    }

    fn take_warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn unknown_commit(&mut self, why: &str) -> SqlError {
        self.break_off();
        SqlError::of_unknown_commit(&why)
    }
}

type Asked<T> = Option<Result<T, tokio_postgres::Error>>;

/// `None` if there was no answer in time.
fn within<T>(
    runtime: &Runtime,
    timeout: Duration,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Asked<T> {
    runtime.block_on(async { tokio::time::timeout(timeout, call).await }).ok()
}

impl Dialect for Postgres {
    fn driver(&self) -> Driver {
        Driver::Postgres
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        self.check(statement)?;
        let prepared = self.prepared(statement)?;
        let asked = self.client.execute_raw(&prepared, values);
        let asked = within(&self.runtime, self.call_timeout, asked);
        self.told(statement, asked)
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        self.check(statement)?;
        if values.is_empty() && !self.statements.contains_key(statement) {
            // One round trip instead of two: a take-over asks many such questions once.
            let text = numbered(statement);
            let asked = self.client.query_typed(&text, &[]);
            let asked = within(&self.runtime, self.call_timeout, asked);
            let rows = self.told(statement, asked)?;
            return values_of(statement, &rows);
        }
        let prepared = self.prepared(statement)?;
        let values: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let asked = self.client.query(&prepared, &values);
        let asked = within(&self.runtime, self.call_timeout, asked);
        let rows = self.told(statement, asked)?;
        values_of(statement, &rows)
    }

    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        self.check(statement)?;
        self.prepared(statement).map(drop)
    }

    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        self.check(statement)?;
        self.has_failed &= statement != Driver::Postgres.begin();
        let asked = self.client.batch_execute(statement);
        let asked = within(&self.runtime, self.call_timeout, asked);
        self.told(statement, asked)
    }

    /// A server that gives up the wait for its synchronous standby answers COMMIT with success and
    /// a warning.
    fn commit(&mut self) -> Result<(), SqlError> {
        self.check("COMMIT")?;
        if self.has_failed {
            let why = "a statement of the transaction failed";
            let error = SqlError::of_statement(Failure::Other, "COMMIT", &why);
            return self.run("ROLLBACK").and(Err(error));
        }
        let _ = self.take_warning();
        let asked = self.client.batch_execute(COMMIT);
        let asked = within(&self.runtime, self.call_timeout, asked);
        match (asked, self.take_warning()) {
            (Some(Ok(())), None) => Ok(()),
            (Some(Ok(())), Some(warning)) => Err(self.unknown_commit(&format!("pq: {warning}"))),
            (Some(Err(error)), _) if was_rolled_back(&error) => {
                // It has ended already, unless the error was not the COMMIT's own.
                self.run("ROLLBACK")?;
                Err(SqlError::of_statement(failure(&error), "COMMIT", &reason(&error)))
            }
            (Some(Err(error)), _) => Err(self.unknown_commit(&reason(&error))),
            // The primary waits for a standby: another host may be the one by now.
            (None, _) => {
                self.host.no_answer(world::instant());
                Err(self.unknown_commit("no answer in time"))
            }
        }
    }
}

/// # Errors
/// [`SqlError`] that names a column whose number is none that a server could have written.
fn values_of(statement: &str, rows: &[tokio_postgres::Row]) -> Result<Vec<Row>, SqlError> {
    let value = |row: &tokio_postgres::Row, index: usize| {
        row.try_get::<_, Option<Value>>(index).map(|found| found.unwrap_or(Value::Null)).map_err(
            |error| {
                let column = row.columns().get(index).map_or("", |column| column.name());
                SqlError::of_column(statement, column, &reason(&error))
            },
        )
    };
    rows.iter().map(|row| (0..row.len()).map(|index| value(row, index)).collect()).collect()
}

/// `?` become `$1`, `$2` …; back-quotes go.
fn numbered(statement: &str) -> String {
    let mut text = String::with_capacity(statement.len() + 64);
    let mut count = 0;
    for letter in statement.chars() {
        match letter {
            '?' => {
                count += 1;
                text.push('$');
                text.push_str(&count.to_string());
            }
            '`' => {}
            other => text.push(other),
        }
    }
    text
}

impl ToSql for Value {
    fn to_sql(
        &self,
        to: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) if *to == Type::INT4 => i32::try_from(*number)?.to_sql(to, out),
            Self::Integer(number) if *to == Type::BOOL => (*number != 0).to_sql(to, out),
            Self::Integer(number) if *to == Type::NUMERIC => {
                out.extend_from_slice(&postgres_numeric::encode(*number));
                Ok(IsNull::No)
            }
            // Eight bytes of a number would be another value in a column of another type.
            Self::Integer(number) if *to == Type::INT8 => number.to_sql(to, out),
            Self::Integer(_) => Err(format!("a column of type {to} takes no whole number").into()),
            Self::Text(text) => text.to_sql(to, out),
            Self::Bytes(bytes) => bytes.as_ref().to_sql(to, out),
        }
    }

    fn accepts(_to: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(
        from: &Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *from {
            Type::INT2 => Self::Integer(i16::from_sql(from, raw)?.into()),
            Type::INT4 => Self::Integer(i32::from_sql(from, raw)?.into()),
            Type::INT8 => Self::Integer(i64::from_sql(from, raw)?),
            Type::BOOL => Self::Integer(bool::from_sql(from, raw)?.into()),
            Type::NUMERIC => {
                let number = postgres_numeric::decode(raw);
                Self::Integer(number.ok_or("no whole number of 64 bits")?)
            }
            Type::FLOAT4 | Type::FLOAT8 => {
                let number = if *from == Type::FLOAT4 {
                    f32::from_sql(from, raw)?.into()
                } else {
                    f64::from_sql(from, raw)?
                };
                Self::of_fraction(number).ok_or("no whole number of 64 bits")?
            }
            Type::OID => Self::Integer(u32::from_sql(from, raw)?.into()),
            Type::BYTEA => Self::Bytes(Bytes::copy_from_slice(raw)),
            Type::TEXT | Type::VARCHAR | Type::NAME => Self::Text(String::from_sql(from, raw)?),
            // Blanks at its end are those of the type.
            Type::BPCHAR => Self::Text(String::from_sql(from, raw)?.trim_end_matches(' ').into()),
            // Of functions without a value, such as taking a lock.
            Type::VOID => Self::Null,
            _ => return Err(format!("type {from} is not read").into()),
        })
    }

    fn accepts(_from: &Type) -> bool {
        true
    }
}

/// The server's own words, where it has some; else the cause behind the cause.
pub(super) fn reason(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(error), _) => format!("pq: {}", error.message()),
        (None, Some(source)) => match source.downcast_ref::<io::Error>() {
            Some(source) => texts::of_call(source),
            None if source.to_string() == NO_TLS => {
                "pq: SSL is not enabled on the server".to_owned()
            }
            None => format!("{error}: {source}"),
        },
        (None, None) => error.to_string(),
    }
}

/// How the library says that a server has no TLS.
const NO_TLS: &str = "server does not support TLS";

/// Whether the server says with this answer to a COMMIT that nothing was kept: conflicts, checks
/// that were left for the end, no room. What is not in this list may come from something between
/// us and the server.
fn was_rolled_back(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| match code.code() {
        // The outcome of the statement is not known there either.
        "40003" => false,
        "53100" | "53200" | "25P02" => true,
        other => ["23", "40"].iter().any(|class| other.starts_with(class)),
    })
}

pub(super) fn failure(error: &tokio_postgres::Error) -> Failure {
    let Some(code) = error.code() else {
        // A value that does not fit its column is found before it is sent.
        let is_value = error.to_string().starts_with("error serializing parameter");
        return if is_value { Failure::BadValue } else { Failure::Unreachable };
    };
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return Failure::ReadOnly;
    }
    if *code == SqlState::QUERY_CANCELED || *code == SqlState::LOCK_NOT_AVAILABLE {
        return Failure::Busy;
    }
    match code.code() {
        "42501" | "28000" | "28P01" => Failure::Denied,
        "42P01" | "42703" | "3D000" | "3F000" => Failure::Missing,
        "53100" | "53200" => Failure::Full,
        "23505" => Failure::Duplicate,
        other => match other.get(..2) {
            Some("22" | "23" | "54") => Failure::BadValue,
            Some("40") => Failure::Busy,
            Some("08" | "57" | "53") => Failure::Unreachable,
            _ => Failure::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_get_postgres_placeholders() {
        let found = numbered("SELECT `row` FROM t WHERE a=? AND b IN (?,?)");
        assert_eq!(found, "SELECT row FROM t WHERE a=$1 AND b IN ($2,$3)");
    }
}
