//! How a session with MySQL or MariaDB begins: encryption, variables, what the session is set to.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use mysql::consts::CapabilityFlags;
use mysql::{ClientIdentity, Conn, DriverError, OptsBuilder, SslOpts};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::base::crypto;
use crate::base::world;
use crate::store::sql::dialect::{Failure, SqlError};
use crate::store::sql::dsn::{Identity, Pem, Security, Source, Tls, Watched};
use crate::store::sql::galera::{self, Greeting};
use crate::store::sql::mysql::{failure, reason};
use crate::store::sql::{roots, texts};

/// How long one of several hosts may take to give a session.
const LOGIN_MAX: Duration = Duration::from_secs(2);
/// Statements kept prepared.
const STATEMENTS_MAX: usize = 160;

/// What a session is set to before the source's own variables. A lower isolation takes no locks on
/// gaps between rows, which other loops insert into; nothing here reads twice and compares. In
/// seconds: the server must give up too, because a statement that waits there keeps the session's
/// locks.
const FIRST: [&str; 2] = [
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION innodb_lock_wait_timeout = 1",
];

/// What a session is set to whatever the source says: no statement is a part of a transaction that
/// nobody ends, and no value is cut off in silence.
const LAST: &str = "SET SESSION autocommit = 1, \
                    sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')";

/// A session that has begun.
pub(super) struct Login {
    pub(super) connection: Conn,
    pub(super) greeting: Greeting,
    pub(super) host: Watched,
}

/// Why a host gave no session.
type Refused = (Failure, String);

/// Begins a session with the first host that gives one.
///
/// # Errors
/// [`SqlError`] with what each of the hosts said.
pub(super) fn log_in(source: &Source, call_timeout: Duration) -> Result<Login, SqlError> {
    let hosts = source.hosts(world::instant());
    let has_others = hosts.len() > 1;
    let (mut failure, mut reasons) = (Failure::Unreachable, Vec::new());
    for (host, port) in hosts {
        let began = world::instant();
        let (class, why) = match log_in_at(source, (&host, port), has_others, call_timeout) {
            Ok((connection, greeting)) => {
                let host = source.seen.watch(&host, port, call_timeout);
                return Ok(Login { connection, greeting, host });
            }
            Err(refused) => refused,
        };
        if call_timeout.min(LOGIN_MAX) / 2 <= world::instant().since(began) {
            source.seen.hung(&host, port, world::instant());
        }
        failure = class;
        reasons.push(if has_others { format!("{host}:{port}: {why}") } else { why });
    }
    Err(SqlError::of_connection(failure, source, &reasons.join("; ")))
}

fn log_in_at(
    source: &Source,
    (host, port): (&str, u16),
    has_others: bool,
    call_timeout: Duration,
) -> Result<(Conn, Greeting), Refused> {
    let refused = |error: mysql::Error| (failure(&error), refusal(&error, host, port));
    let unreadable = |error: io::Error| (Failure::Unreachable, texts::of_call(&error));
    // The file of authorities has to stay until the handshake is over.
    let trusted = trusted(&source.tls).map_err(unreadable)?;
    // The driver asks the process for its cryptography.
    let _ = crypto::provider();
    let options = options(source, host, port, call_timeout);
    let dial = |options: OptsBuilder| {
        let encrypted = options.clone().ssl_opts(encryption(&source.tls, trusted.as_ref()));
        match Conn::new(encrypted) {
            Err(mysql::Error::DriverError(DriverError::TlsNotSupported))
                if source.tls.security == Security::Preferred =>
            {
                Conn::new(options)
            }
            connected => connected,
        }
    };
    if has_others && LOGIN_MAX < call_timeout {
        // One that hangs must not take the time of a long call, and a session keeps its time-out.
        dial(self::options(source, host, port, LOGIN_MAX)).map_err(refused)?;
    }
    let mut connection = dial(options).map_err(refused)?;
    set(&mut connection, source).map_err(refused)?;
    let greeting = galera::greet(&mut connection).map_err(refused)?;
    let greeting = greeting.map_err(|why| (Failure::Unreachable, why))?;
    // Of several, those that only follow are of no use.
    if has_others && greeting.is_read_only {
        return Err((Failure::Unreachable, "it takes no writes (read_only is on)".to_owned()));
    }
    Ok((connection, greeting))
}

/// Why there is no session.
fn refusal(error: &mysql::Error, host: &str, port: u16) -> String {
    let mysql::Error::DriverError(error_of_driver) = error else { return reason(error) };
    if let DriverError::CouldNotConnect(Some((_, why, kind))) = error_of_driver {
        texts::of_dial(host, port, *kind, why)
    } else if *error_of_driver == DriverError::ConnectTimeout {
        texts::of_dial(host, port, io::ErrorKind::TimedOut, "")
    } else {
        reason(error)
    }
}

fn options(source: &Source, host: &str, port: u16, call_timeout: Duration) -> OptsBuilder {
    let connect_timeout = source.connect_timeout.map_or(call_timeout, |it| it.min(call_timeout));
    let options = OptsBuilder::new()
        .user(source.user.as_deref())
        .pass(source.password.as_deref())
        .db_name(Some(source.database.as_str()))
        .prefer_socket(false)
        .stmt_cache_size(STATEMENTS_MAX)
        .tcp_connect_timeout(Some(connect_timeout))
        .read_timeout(Some(call_timeout))
        .write_timeout(Some(call_timeout))
        .max_allowed_packet(source.switches.packet_bytes_max)
        .enable_cleartext_plugin(source.switches.allows_clear_password)
        .secure_auth(!source.switches.allows_old_password)
        .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
        .init(FIRST.to_vec());
    if host.starts_with('/') {
        options.socket(Some(host))
    } else {
        options.ip_or_hostname(Some(host)).tcp_port(port)
    }
}

/// A file of authorities, and what it lives in if it was made for this.
struct Trusted {
    path: PathBuf,
    _memory: Option<fs::File>,
}

fn trusted(tls: &Tls) -> io::Result<Option<Trusted>> {
    match (&tls.authorities, tls.security) {
        (_, Security::Off | Security::Preferred | Security::Encrypted) => Ok(None),
        (Some(Pem::File(path)), _) => Ok(Some(Trusted { path: path.clone(), _memory: None })),
        (Some(Pem::Text(_)) | None, _) => {
            let memory = memfd_create(c"authorities", MFdFlags::MFD_CLOEXEC)?;
            let mut memory = fs::File::from(memory);
            memory.write_all(&roots::text(tls)?)?;
            let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
            Ok(Some(Trusted { path, _memory: Some(memory) }))
        }
    }
}

fn encryption(tls: &Tls, trusted: Option<&Trusted>) -> Option<SslOpts> {
    let options = match tls.security {
        Security::Off => return None,
        Security::Preferred | Security::Encrypted => SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true),
        Security::AuthorityIfThere | Security::Authority | Security::Full => {
            SslOpts::default().with_root_cert_path(trusted.map(|it| it.path.clone()))
        }
    };
    let identity = tls.identity.as_ref().and_then(|identity| match identity {
        Identity { certificate: Pem::File(certificate), key: Pem::File(key), .. } => {
            Some(ClientIdentity::new(certificate.clone(), key.clone()))
        }
        Identity { .. } => None,
    });
    Some(options.with_client_identity(identity))
}

/// The source's character set and variables, in the order of the Go driver; the server refuses what
/// it does not know.
fn set(connection: &mut Conn, source: &Source) -> mysql::Result<()> {
    use mysql::prelude::Queryable;

    let switches = &source.switches;
    if let Some(collation) = &switches.collation {
        let charset = collation.split('_').next().unwrap_or(collation);
        let names = match charset {
            "binary" => "SET NAMES binary".to_owned(),
            charset => format!("SET NAMES {charset} COLLATE {collation}"),
        };
        connection.query_drop(names)?;
    }
    let mut unknown = None;
    for charset in &switches.charsets {
        unknown = connection.query_drop(format!("SET NAMES {charset}")).err();
        if unknown.is_none() {
            break;
        }
    }
    if let Some(error) = unknown {
        return Err(error);
    }
    if !source.parameters.is_empty() {
        let each = source.parameters.iter().map(|(name, value)| format!("{name} = {value}"));
        connection.query_drop(format!("SET {}", each.collect::<Vec<_>>().join(", ")))?;
    }
    connection.query_drop(LAST)
}
