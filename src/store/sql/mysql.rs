//! Dialect for MySQL and MariaDB.

use std::time::Duration;

use bytes::Bytes;
use mysql::consts::ColumnType;
use mysql::error::tls::TlsError;
use mysql::prelude::Queryable;
use mysql::{Column, Conn, DriverError, Params};

use crate::base::certificate::{self, REMEDY};
use crate::base::world;
use crate::store::sql::dialect::{Dialect, Driver, Failure, Row, SqlError, Value};
use crate::store::sql::dsn::{Source, Watched};
use crate::store::sql::mysql_login::Login;
use crate::store::sql::{galera, mysql_login, texts};

/// One connection to a server.
pub struct Mysql {
    connection: Conn,
    /// After a call that got no answer, what comes next is unknown.
    is_broken: bool,
    /// The longest packet that the server takes, or that the source allows.
    packet_bytes_max: usize,
    /// The node of a cluster.
    node: Option<String>,
    host: Watched,
}

impl Mysql {
    /// Connects.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn connect(source: &Source, call_timeout: Duration) -> Result<Self, SqlError> {
        let Login { connection, greeting, host } = mysql_login::log_in(source, call_timeout)?;
        let limits = [source.switches.packet_bytes_max, greeting.packet_bytes_max];
        let packet_bytes_max = limits.into_iter().flatten().min().unwrap_or(usize::MAX);
        let node = greeting.node;
        let mut connected = Self { connection, is_broken: false, packet_bytes_max, node, host };
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
        let began = world::instant();
        ask(&mut self.connection).map_err(|error| {
            let mut failure = failure(&error);
            // A node that the cluster has lost says of a read that a lock was not given in time.
            if failure == Failure::Busy
                && self.node.is_some()
                && !galera::is_ready(&mut self.connection)
            {
                failure = Failure::Unreachable;
            }
            if failure == Failure::Unreachable {
                self.is_broken = true;
                self.host.unanswered(began, world::instant());
            }
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

    fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    fn statement_bytes_max(&self) -> usize {
        self.packet_bytes_max
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
        self.ask(statement, |connection| {
            connection.exec_drop(statement, parameters(values))?;
            Ok(connection.affected_rows())
        })
    }

    fn query(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>, SqlError> {
        self.ask(statement, |connection| {
            connection.exec::<mysql::Row, _, _>(statement, parameters(values))
        })
        .and_then(|rows| rows.into_iter().map(|row| values_of(statement, row)).collect())
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
        let began = world::instant();
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
        self.host.unanswered(began, world::instant());
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

fn values_of(statement: &str, row: mysql::Row) -> Result<Row, SqlError> {
    let columns = row.columns();
    let value = |(from, column): (mysql::Value, &Column)| {
        value(from, column.column_type()).ok_or_else(|| {
            let why = "neither a whole number of 64 bits nor bytes";
            SqlError::of_column(statement, &column.name_str(), &why)
        })
    };
    row.unwrap().into_iter().zip(columns.iter()).map(value).collect()
}

fn value(from: mysql::Value, of: ColumnType) -> Option<Value> {
    Some(match from {
        mysql::Value::NULL => Value::Null,
        mysql::Value::Int(number) => Value::Integer(number),
        mysql::Value::UInt(number) => Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
        mysql::Value::Float(number) => Value::of_fraction(number.into())?,
        mysql::Value::Double(number) => Value::of_fraction(number)?,
        mysql::Value::Bytes(digits)
            if matches!(of, ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL) =>
        {
            Value::of_decimal(std::str::from_utf8(&digits).ok()?)?
        }
        mysql::Value::Bytes(bytes) => Value::Bytes(Bytes::from(bytes)),
        mysql::Value::Date(..) | mysql::Value::Time(..) => return None,
    })
}

/// The server's own words, where it has some.
pub(super) fn reason(error: &mysql::Error) -> String {
    let text = match error {
        mysql::Error::MySqlError(error) => {
            return format!("Error {} ({}): {}", error.code, error.state, error.message);
        }
        mysql::Error::IoError(error) => texts::of_call(error),
        mysql::Error::TlsError(TlsError::Tls(error)) => certificate::text_of(error),
        mysql::Error::TlsError(error) => error.to_string(),
        mysql::Error::CodecError(error) => {
            let call = std::error::Error::source(error).and_then(|source| source.downcast_ref());
            call.map_or_else(|| error.to_string(), texts::of_call)
        }
        mysql::Error::DriverError(error) => of_driver(error),
        mysql::Error::UrlError(_)
        | mysql::Error::FromValueError(_)
        | mysql::Error::FromRowError(_) => error.to_string(),
    };
    let whole = error.to_string();
    if UNREADABLE.iter().any(|kind| whole.contains(kind)) {
        return format!(
            "{text}: the server's certificate has to be of X.509 version 3 and no authority \
             itself; {REMEDY}"
        );
    }
    text
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the library's errors grow with each version")]
fn of_driver(error: &DriverError) -> String {
    let said = match error {
        DriverError::TlsNotSupported => "TLS requested but server does not support TLS",
        DriverError::ConnectTimeout | DriverError::Timeout => "i/o timeout",
        DriverError::CleartextPluginDisabled => {
            "this user requires clear text authentication. If you still want to use it, please add \
             'allowCleartextPasswords=1' to your DSN"
        }
        DriverError::OldMysqlPasswordDisabled => {
            "this user requires old password authentication. If you still want to use it, please \
             add 'allowOldPasswords=1' to your DSN. See also \
             https://github.com/go-sql-driver/mysql/wiki/old_passwords"
        }
        DriverError::PacketTooLarge => {
            "packet for query is too large. Try adjusting the `Config.MaxAllowedPacket`"
        }
        DriverError::UnknownAuthPlugin(name) => {
            return format!("this authentication plugin is not supported: {name}");
        }
        other => return other.to_string(),
    };
    said.to_owned()
}

/// What the driver's TLS calls the kinds of certificates that it cannot use.
const UNREADABLE: [&str; 2] = ["UnsupportedCertVersion", "CaUsedAsEndEntity"];

pub(super) fn failure(error: &mysql::Error) -> Failure {
    let error = match error {
        mysql::Error::MySqlError(error) => error,
        // Nothing of it was sent.
        mysql::Error::CodecError(error) if error.to_string().contains("max_allowed_packet") => {
            return Failure::BadValue;
        }
        mysql::Error::DriverError(DriverError::PacketTooLarge) => return Failure::BadValue,
        mysql::Error::IoError(_)
        | mysql::Error::CodecError(_)
        | mysql::Error::DriverError(_)
        | mysql::Error::UrlError(_)
        | mysql::Error::TlsError(_)
        | mysql::Error::FromValueError(_)
        | mysql::Error::FromRowError(_) => return Failure::Unreachable,
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
        // A node without its cluster, before a commit and at one of a single statement.
        1047 | 1180 => Failure::Unreachable,
        // Shut down, killed, connection killed, ended at rest, too many connections.
        1053 | 1317 | 1927 | 4031 | 1040 | 1152 | 1158..=1161 => Failure::Unreachable,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only NULL is nothing; a number of another type is a whole one, or an error.
    #[test]
    fn numbers_of_other_types_are_whole_or_an_error() {
        let decimal = ColumnType::MYSQL_TYPE_NEWDECIMAL;
        let double = ColumnType::MYSQL_TYPE_DOUBLE;
        let digits = |text: &str| mysql::Value::Bytes(text.into());
        for (from, of, expected) in [
            (mysql::Value::NULL, double, Some(Value::Null)),
            (mysql::Value::Double(1_000.0), double, Some(Value::Integer(1_000))),
            (mysql::Value::Float(-7.0), double, Some(Value::Integer(-7))),
            (mysql::Value::Double(1.5), double, None),
            (mysql::Value::Double(1e19), double, None),
            (mysql::Value::Double(f64::NAN), double, None),
            (digits("12.00"), decimal, Some(Value::Integer(12))),
            (digits("4400"), decimal, Some(Value::Integer(4_400))),
            (digits("12.50"), decimal, None),
            (digits("12345678901234567890"), decimal, None),
            (digits("12.00"), ColumnType::MYSQL_TYPE_BLOB, Some(Value::Bytes("12.00".into()))),
            (mysql::Value::Date(2026, 1, 1, 0, 0, 0, 0), double, None),
        ] {
            assert_eq!(value(from.clone(), of), expected, "{from:?}");
        }
    }
}
