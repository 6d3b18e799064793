//! Dialect for MySQL and MariaDB.

use std::time::Duration;

use bytes::Bytes;
use mysql::consts::CapabilityFlags;
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, Params, SslOpts};

use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::dsn::{Source, Tls};

/// Statements kept prepared.
const STATEMENTS_MAX: usize = 160;

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
        let is_socket = source.host.starts_with('/');
        let mut options = OptsBuilder::new()
            .user(source.user.as_deref())
            .pass(source.password.as_deref())
            .db_name(Some(source.database.as_str()))
            .prefer_socket(false)
            .stmt_cache_size(STATEMENTS_MAX)
            .tcp_connect_timeout(Some(call_timeout))
            .read_timeout(Some(call_timeout))
            .write_timeout(Some(call_timeout))
            .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
            // A lower isolation takes no locks on gaps between rows, which other loops insert
            // into; nothing here reads twice and compares.
            .init(vec![
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
                // In seconds. The server must give up too: a statement that waits there keeps
                // the session's locks.
                "SET SESSION innodb_lock_wait_timeout = 1",
            ]);
        options = if is_socket {
            options.socket(Some(source.host.as_str()))
        } else {
            options.ip_or_hostname(Some(source.host.as_str())).tcp_port(source.port)
        };
        let tls = match &source.tls {
            Tls::Off => None,
            Tls::Unverified => Some(
                SslOpts::default()
                    .with_danger_accept_invalid_certs(true)
                    .with_danger_skip_domain_validation(true),
            ),
            Tls::Verified { ca_file } => {
                Some(SslOpts::default().with_root_cert_path(ca_file.clone()))
            }
        };
        let connection = Conn::new(options.ssl_opts(tls))
            .map_err(|error| SqlError::of_connection(failure(&error), source, &reason(&error)))?;
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
fn reason(error: &mysql::Error) -> String {
    if let mysql::Error::MySqlError(error) = error {
        return format!("Error {}: {}", error.code, error.message);
    }
    error.to_string()
}

fn failure(error: &mysql::Error) -> Failure {
    let mysql::Error::MySqlError(error) = error else {
        return Failure::Unreachable;
    };
    match error.code {
        // Lock wait time-out, deadlock.
        1205 | 1213 => Failure::Busy,
        // Disk full, table full, no room left for a temporary file.
        1021 | 1114 | 1041 => Failure::Full,
        // Too long, out of range, wrong characters, twice, larger than a packet.
        1406 | 1264 | 1366 | 1062 | 1153 | 1048 => Failure::BadValue,
        // No such database, table, column.
        1049 | 1146 | 1054 => Failure::Missing,
        1290 | 1792 | 1836 => Failure::ReadOnly,
        1044 | 1045 | 1142 | 1143 | 1227 | 1095 | 1698 => Failure::Denied,
        // Shut down, killed, connection killed, too many connections.
        1053 | 1317 | 1927 | 1040 | 1152 | 1158..=1161 => Failure::Unreachable,
        _ => Failure::Other,
    }
}
