//! Dialect for PostgreSQL.
//!
//! The client is asynchronous; its runtime lives in here and runs during calls alone, so that each
//! call can be given up after a time.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::dsn::{Source, Tls};
use crate::store::sql::postgres_tls::Connector;

/// Statements kept prepared; beyond it all are prepared anew.
const STATEMENTS_MAX: usize = 160;

/// One connection to a server.
pub struct Postgres {
    runtime: Runtime,
    client: Client,
    statements: BTreeMap<String, Statement>,
    call_timeout: Duration,
    /// After a call that got no answer, what comes next is unknown.
    is_broken: bool,
}

/// Why there is no connection.
enum Refused {
    Tls(std::io::Error),
    Server(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Refused {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl Postgres {
    /// Connects.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn connect(source: &Source, call_timeout: Duration) -> Result<Self, SqlError> {
        let refused = |why: &dyn std::fmt::Display| {
            SqlError::of_connection(Failure::Unreachable, source, why)
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| refused(&error))?;
        let config = config(source, call_timeout);
        let connecting = async {
            match &source.tls {
                Tls::Off => {
                    let (client, connection) = config.connect(NoTls).await?;
                    tokio::spawn(connection);
                    Ok(client)
                }
                tls @ (Tls::Unverified | Tls::Verified { .. }) => {
                    let connector = Connector::new(tls, &source.host).map_err(Refused::Tls)?;
                    let (client, connection) = config.connect(connector).await?;
                    tokio::spawn(connection);
                    Ok(client)
                }
            }
        };
        let connected =
            runtime.block_on(async { tokio::time::timeout(call_timeout, connecting).await });
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(Refused::Tls(error))) => return Err(refused(&error)),
            Ok(Err(Refused::Server(error))) => {
                let (failure, why) = (failure(&error), reason(&error));
                return Err(SqlError::of_connection(failure, source, &why));
            }
            Err(_) => return Err(refused(&"no answer in time")),
        };
        let statements = BTreeMap::new();
        let mut connected = Self { runtime, client, statements, call_timeout, is_broken: false };
        // The server must give up too: a statement that waits there keeps the session's locks, and
        // so does a transaction whose owner stands still.
        let (whole, half) = (call_timeout.as_millis(), call_timeout.as_millis() / 2);
        connected.run(&format!(
            "SET statement_timeout = {whole}; SET lock_timeout = {half}; \
             SET idle_in_transaction_session_timeout = {whole}"
        ))?;
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
        let prepared = told(&mut self.is_broken, statement, asked)?;
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

fn told<T>(is_broken: &mut bool, statement: &str, asked: Asked<T>) -> Result<T, SqlError> {
    let (failure, why) = match asked {
        Some(Ok(answer)) => return Ok(answer),
        Some(Err(error)) => (failure(&error), reason(&error)),
        None => (Failure::Unreachable, "no answer in time".to_owned()),
    };
    *is_broken |= failure == Failure::Unreachable;
    Err(SqlError::of_statement(failure, statement, &why))
}

fn config(source: &Source, call_timeout: Duration) -> Config {
    let mut config = Config::new();
    config
        .host(&source.host)
        .port(source.port)
        .dbname(&source.database)
        .application_name("stanby")
        .connect_timeout(call_timeout)
        .ssl_mode(match source.tls {
            Tls::Off => tokio_postgres::config::SslMode::Disable,
            Tls::Unverified | Tls::Verified { .. } => tokio_postgres::config::SslMode::Require,
        });
    if let Some(user) = &source.user {
        config.user(user);
    }
    if let Some(password) = &source.password {
        config.password(password);
    }
    config
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
        told(&mut self.is_broken, statement, asked)
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        self.check(statement)?;
        let row =
            |row: &tokio_postgres::Row| (0..row.len()).map(|index| value(row, index)).collect();
        if values.is_empty() && !self.statements.contains_key(statement) {
            // One round trip instead of two: a take-over asks many such questions once.
            let text = numbered(statement);
            let asked = self.client.query_typed(&text, &[]);
            let asked = within(&self.runtime, self.call_timeout, asked);
            let rows = told(&mut self.is_broken, statement, asked)?;
            return Ok(rows.iter().map(row).collect());
        }
        let prepared = self.prepared(statement)?;
        let values: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let asked = self.client.query(&prepared, &values);
        let asked = within(&self.runtime, self.call_timeout, asked);
        let rows = told(&mut self.is_broken, statement, asked)?;
        Ok(rows.iter().map(row).collect())
    }

    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        self.check(statement)?;
        self.prepared(statement).map(drop)
    }

    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        self.check(statement)?;
        let asked = self.client.batch_execute(statement);
        let asked = within(&self.runtime, self.call_timeout, asked);
        told(&mut self.is_broken, statement, asked)
    }
}

/// A column that is neither number, boolean, text nor bytes counts as empty: we ask for none.
fn value(row: &tokio_postgres::Row, index: usize) -> Value {
    row.try_get::<_, Option<Value>>(index).ok().flatten().unwrap_or(Value::Null)
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
            Self::Integer(number) => number.to_sql(to, out),
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
            Type::BYTEA => Self::Bytes(Bytes::copy_from_slice(raw)),
            Type::TEXT | Type::VARCHAR | Type::NAME => Self::Text(String::from_sql(from, raw)?),
            // Of functions without a value, such as taking a lock.
            _ => Self::Null,
        })
    }

    fn accepts(_from: &Type) -> bool {
        true
    }
}

/// The server's own words, where it has some; else the cause behind the cause.
fn reason(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(error), _) => format!("pq: {}", error.message()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

fn failure(error: &tokio_postgres::Error) -> Failure {
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
