//! What differs between databases: statements, types, error classes.
//!
//! Statements are written once, with `?` for values and back-quotes around `row`; a dialect makes
//! of that what its database takes. Texts that only one database knows are chosen by [`Driver`].

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::store::{Action, StoreError};

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A file, by the library that is built in.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
}

impl Driver {
    /// The driver of that name, as `-sql_driver` takes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Sqlite, Self::Postgres, Self::Mysql].into_iter().find(|it| it.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        }
    }

    /// Behind a `SELECT`: nobody may change these rows until we commit. On PostgreSQL it blocks
    /// `FOR UPDATE`, but not an update of the tick by our own keeper.
    #[must_use]
    pub fn share_lock(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR KEY SHARE",
            Self::Mysql => " LOCK IN SHARE MODE",
        }
    }

    /// Behind a `SELECT`: these rows will be changed.
    #[must_use]
    pub fn update_lock(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres | Self::Mysql => " FOR UPDATE",
        }
    }

    /// Begins a transaction that will write.
    #[must_use]
    pub fn begin(self) -> &'static str {
        match self {
            // Taken now, so that it cannot fail between a read and a write.
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres | Self::Mysql => "BEGIN",
        }
    }
}

/// What is bound to a statement or comes back in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number, or a boolean.
    Integer(i64),
    /// Characters.
    Text(String),
    /// Bytes.
    Bytes(Bytes),
}

impl Value {
    /// What a column that can hold fractions has, where that is a whole number of 64 bits.
    #[must_use]
    pub fn of_fraction(number: f64) -> Option<Self> {
        // Written out it is exact, and beyond 64 bits it is no number that can be read.
        let whole = (number.fract() == 0.0).then(|| format!("{number:.0}"))?;
        whole.parse().ok().map(Self::Integer)
    }

    /// The same of decimal digits, with or without decimals.
    #[must_use]
    pub fn of_decimal(digits: &str) -> Option<Self> {
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let is_whole = decimals.bytes().all(|digit| digit == b'0');
        is_whole.then(|| whole.parse().ok().map(Self::Integer))?
    }

    /// As a number; 0 if there is none.
    #[must_use]
    pub fn signed(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            // Sums come as decimal digits from MySQL.
            Self::Text(text) => text.parse().unwrap_or(0),
            Self::Bytes(bytes) => {
                std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
            }
            Self::Null => 0,
        }
    }

    /// As a whole number that is not negative; `None` if it is none.
    #[must_use]
    pub fn whole(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Text(_) | Self::Bytes(_) => self.text().parse().ok(),
            Self::Null => None,
        }
    }

    /// As a number that is not negative.
    #[must_use]
    pub fn unsigned(&self) -> u64 {
        u64::try_from(self.signed()).unwrap_or(0)
    }

    /// As bytes; none if there are none.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Null | Self::Integer(_) => Bytes::new(),
        }
    }

    /// As characters.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// One row of an answer.
pub type Row = Vec<Value>;

/// One connection. Every call ends within the connection's time-out; after a call that did not,
/// all others fail.
pub trait Dialect: Send {
    /// Which database.
    fn driver(&self) -> Driver;

    /// The node that this session is with, where the database is a cluster whose nodes know nothing
    /// of each other's locks and certify what is to be committed; another name after each start.
    fn node(&self) -> Option<&str> {
        None
    }

    /// Runs a prepared statement; how many rows it found to change.
    ///
    /// # Errors
    /// [`SqlError`].
    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError>;

    /// Runs a prepared statement for its rows.
    ///
    /// # Errors
    /// [`SqlError`].
    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError>;

    /// Bytes that one statement may hold with all of its values.
    fn statement_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Makes a statement ready that will be run often, before it is needed.
    ///
    /// # Errors
    /// [`SqlError`].
    fn prepare(&mut self, statement: &str) -> Result<(), SqlError>;

    /// Runs one statement without values and without preparing it.
    ///
    /// # Errors
    /// [`SqlError`].
    fn run(&mut self, statement: &str) -> Result<(), SqlError>;

    /// Ends the transaction for good. The database is never asked to give a commit up: a commit
    /// that takes too long costs the connection, and its outcome is unknown.
    ///
    /// # Errors
    /// [`Failure::Unknown`] when nobody knows whether it took effect, or is as durable as it should
    /// be; this connection fails from then on. With every other class nothing was kept.
    fn commit(&mut self) -> Result<(), SqlError>;
}

/// Runs `work` in a transaction that is committed if it ends well.
///
/// # Errors
/// What `work` says, or why it could not begin or commit. Nothing was written then, unless it is
/// [`Failure::Unknown`].
pub fn transaction<T, E: From<SqlError>>(
    dialect: &mut dyn Dialect,
    work: impl FnOnce(&mut dyn Dialect) -> Result<T, E>,
) -> Result<T, E> {
    dialect.run(dialect.driver().begin())?;
    let result = work(dialect);
    match result {
        Ok(value) => {
            dialect.commit()?;
            Ok(value)
        }
        Err(error) => {
            // A connection that is gone rolls back by itself.
            let _ = dialect.run("ROLLBACK");
            Err(error)
        }
    }
}

/// Runs an `INSERT` of so many rows and counts them: a trigger, a rule or a row policy of the
/// database may leave some out without a word, and what is answered for has to be there.
///
/// # Errors
/// [`Failure::BadValue`], where fewer were stored; [`SqlError`].
pub fn insert_rows(
    dialect: &mut dyn Dialect,
    statement: &str,
    values: &[Value],
    row_count: usize,
) -> Result<(), SqlError> {
    let stored = dialect.execute(statement, values)?;
    if u64::try_from(row_count).is_ok_and(|wanted| wanted <= stored) {
        return Ok(());
    }
    let why = format!(
        "the database stored {stored} of {row_count} rows: look for a trigger, a rule or a row \
         policy on that table"
    );
    Err(SqlError::of_statement(Failure::BadValue, statement, &why))
}

/// What kind of failure: what to do about it depends on this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it was lost, or did not answer in time.
    Unreachable,
    /// A COMMIT was sent, and nobody knows whether it took effect.
    Unknown,
    /// Another transaction is in the way; all that this one did is undone.
    Busy,
    /// The database has no room.
    Full,
    /// The database does not take these values: too long, or not of that type.
    BadValue,
    /// A row with that key is there already.
    Duplicate,
    /// A table or column is not there.
    Missing,
    /// It takes no writes.
    ReadOnly,
    /// User, password or rights.
    Denied,
    /// Something else.
    Other,
}

impl Failure {
    /// Whether the same can succeed later without that anybody changes something.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Self::Unreachable | Self::Busy)
    }
}

/// A statement that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SqlError {
    /// Its class.
    pub failure: Failure,
    /// The line, in the reference's form.
    pub text: String,
}

impl SqlError {
    /// A statement that failed (spec stores, 8.4).
    #[must_use]
    pub fn of_statement(failure: Failure, statement: &str, why: &dyn fmt::Display) -> Self {
        Self { failure, text: format!("sql: error executing {statement:?}: {why}") }
    }

    /// A commit with an unknown outcome.
    #[must_use]
    pub fn of_unknown_commit(why: &dyn fmt::Display) -> Self {
        let text = format!(
            "sql: it is not known whether a COMMIT took effect: {why}; the next activation reads \
             what is there"
        );
        Self { failure: Failure::Unknown, text }
    }

    /// A column whose value is not what a server has written there: read as nothing, positions
    /// and sequences would begin anew.
    #[must_use]
    pub fn of_column(statement: &str, column: &str, why: &dyn fmt::Display) -> Self {
        let why = format!(
            "column {column}: {why}: give it the type that it has in the script of the tables"
        );
        Self::of_statement(Failure::Other, statement, &why)
    }

    /// A connection that could not be made; `whom` names no password.
    #[must_use]
    pub fn of_connection(
        failure: Failure,
        whom: &dyn fmt::Display,
        why: &dyn fmt::Display,
    ) -> Self {
        Self { failure, text: format!("sql: unable to connect to {whom}: {why}") }
    }

    /// As the store tells it.
    #[must_use]
    pub fn into_store_error(self, action: Action) -> StoreError {
        let is_unknown = self.failure == Failure::Unknown;
        let action = if is_unknown { Action::Sync } else { action };
        let kind = match self.failure {
            Failure::Full => io::ErrorKind::StorageFull,
            Failure::Unreachable => io::ErrorKind::ConnectionAborted,
            Failure::Busy => io::ErrorKind::ResourceBusy,
            Failure::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            Failure::Denied => io::ErrorKind::PermissionDenied,
            Failure::BadValue | Failure::Duplicate => io::ErrorKind::InvalidData,
            Failure::Unknown | Failure::Missing | Failure::Other => io::ErrorKind::Other,
        };
        let Self { text, .. } = self;
        StoreError::Io { action, path: "sql".into(), text, source: kind.into() }
    }
}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        error.into_store_error(Action::Append)
    }
}
