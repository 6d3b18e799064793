//! Dialect for MySQL and MariaDB.

use std::time::Duration;

use bytes::Bytes;
use mysql::prelude::Queryable;
use mysql::{Conn, Params};

use crate::base::certificate::REMEDY;
use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::dsn::Source;
use crate::store::sql::mysql_login;

/// One connection to a server.
pub struct Mysql {
    connection: Conn,
    /// After a call that got no answer, what comes next is unknown.
    is_broken: bool,
}

impl Mysql {
    /// Connects.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn connect(source: &Source, call_timeout: Duration) -> Result<Self, SqlError> {
        let connection = mysql_login::log_in(source, call_timeout)?;
        let mut connected = Self { connection, is_broken: false };
        // MariaDB ends the transaction of an owner that stands still; MySQL cannot, and says so.
        let seconds = call_timeout.as_secs().max(1);
        match connected.run(&format!("SET SESSION idle_transaction_timeout = {seconds}")) {
            Err(error) if error.failure == Failure::Unreachable => Err(error),
            Ok(()) | Err(_) => Ok(connected),
        }
    }

    fn ask<T>(
        &mut self,
        statement: &str,
        ask: impl FnOnce(&mut Conn) -> mysql::Result<T>,
    ) -> Result<T, SqlError> {
        if self.is_broken {
            let why = "the connection was lost before";
            return Err(SqlError::of_statement(Failure::Unreachable, statement, &why));
        }
        ask(&mut self.connection).map_err(|error| {
            let failure = failure(&error);
            self.is_broken |= failure == Failure::Unreachable;
            SqlError::of_statement(failure, statement, &reason(&error))
        })
    }
}

impl Mysql {
    /// What the server says beside its answer, in its words.
    fn warnings(&mut self) -> String {
        let found = self.connection.query::<(String, u32, String), _>("SHOW WARNINGS");
        let line = |(level, code, text)| format!("{level} {code}: {text}");
        let lines: Vec<String> = found.unwrap_or_default().into_iter().map(line).collect();
        if lines.is_empty() { "it came with warnings".to_owned() } else { lines.join("; ") }
    }
}

/// Whether the server says with this answer to a COMMIT that nothing was kept: a deadlock (in a
/// cluster also one that is found at the end), the end of a lock's wait, a group's refusal.
fn was_rolled_back(code: u16) -> bool {
    [1205, 1213, 3101].contains(&code)
}

impl Dialect for Mysql {
    fn driver(&self) -> Driver {
        Driver::Mysql
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        self.ask(statement, |connection| {
            connection.exec_drop(statement, parameters(values))?;
            Ok(connection.affected_rows())
        })
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        self.ask(statement, |connection| {
            let rows: Vec<mysql::Row> = connection.exec(statement, parameters(values))?;
            Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(value).collect()).collect())
        })
    }

    fn prepare(&mut self, statement: &str) -> Result<(), SqlError> {
        self.ask(statement, |connection| connection.prep(statement).map(drop))
    }

    fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        self.ask(statement, |connection| connection.query_drop(statement))
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        let statement = "COMMIT";
        if self.is_broken {
            // It was never sent.
            return self.run(statement);
        }
        let why = match self.connection.query_drop(statement) {
            Ok(()) if self.connection.warnings() == 0 => return Ok(()),
            Ok(()) => self.warnings(),
            Err(mysql::Error::MySqlError(error)) if was_rolled_back(error.code) => {
                self.run("ROLLBACK")?;
                let error = mysql::Error::MySqlError(error);
                return Err(SqlError::of_statement(failure(&error), statement, &reason(&error)));
            }
            Err(error) => reason(&error),
        };
        self.is_broken = true;
        Err(SqlError::of_unknown_commit(&why))
    }
}

fn parameters(values: &[Value]) -> Params {
    if values.is_empty() {
        return Params::Empty;
    }
    let parameter = |value: &Value| match value {
        Value::Null => mysql::Value::NULL,
        Value::Integer(number) => mysql::Value::Int(*number),
        Value::Text(text) => mysql::Value::Bytes(text.as_bytes().to_vec()),
        Value::Bytes(bytes) => mysql::Value::Bytes(bytes.to_vec()),
    };
    Params::Positional(values.iter().map(parameter).collect())
}

fn value(from: mysql::Value) -> Value {
    match from {
        mysql::Value::Int(number) => Value::Integer(number),
        mysql::Value::UInt(number) => Value::from(number),
        mysql::Value::Bytes(bytes) => Value::Bytes(Bytes::from(bytes)),
        mysql::Value::NULL
        | mysql::Value::Float(_)
        | mysql::Value::Double(_)
        | mysql::Value::Date(..)
        | mysql::Value::Time(..) => Value::Null,
    }
}

/// The server's own words, where it has some.
pub(super) fn reason(error: &mysql::Error) -> String {
    if let mysql::Error::MySqlError(error) = error {
        return format!("Error {}: {}", error.code, error.message);
    }
    let text = error.to_string();
    if UNREADABLE.iter().any(|kind| text.contains(kind)) {
        return format!(
            "{text}: the server's certificate has to be of X.509 version 3 and no authority \
             itself; {REMEDY}"
        );
    }
    text
}

/// What the driver's TLS calls the kinds of certificates that it cannot use.
const UNREADABLE: [&str; 2] = ["UnsupportedCertVersion", "CaUsedAsEndEntity"];

pub(super) fn failure(error: &mysql::Error) -> Failure {
    let mysql::Error::MySqlError(error) = error else {
        return Failure::Unreachable;
    };
    match error.code {
        // Lock wait time-out, deadlock.
        1205 | 1213 | 3101 => Failure::Busy,
        // Disk full, table full, no room left for a temporary file.
        1021 | 1114 | 1041 => Failure::Full,
        // Too long, out of range, wrong characters, larger than a packet.
        1406 | 1264 | 1366 | 1153 | 1048 => Failure::BadValue,
        1062 => Failure::Duplicate,
        // No such database, table, column.
        1049 | 1146 | 1054 => Failure::Missing,
        1290 | 1792 | 1836 => Failure::ReadOnly,
        1044 | 1045 | 1142 | 1143 | 1227 | 1095 | 1698 => Failure::Denied,
        // Shut down, killed, connection killed, too many connections.
        1053 | 1317 | 1927 | 1040 | 1152 | 1158..=1161 => Failure::Unreachable,
        _ => Failure::Other,
    }
}
