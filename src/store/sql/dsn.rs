//! Source strings: the Go drivers' forms and URLs → where the database is, and as whom.
//!
//! Whatever a source says is applied, refused, or named in a warning: nothing is passed over.

pub(super) mod address;
mod hosts;
mod mysql;
mod postgres;
mod url;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::go;
use crate::base::time::Instant;
use crate::store::sql::dialect::Driver;

pub use self::hosts::Seen;
pub(super) use self::hosts::{Primary, Watched};

/// Where a database is and as whom to speak to it. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// Which database.
    pub driver: Driver,
    /// Host name, or the folder or path of a unix socket if it begins with `/`.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Further hosts and their ports, tried in order where the first does not answer or takes no
    /// writes.
    pub more_hosts: Vec<(String, u16)>,
    /// What this process has seen of them.
    pub seen: Seen,
    /// User, if one is named.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Where PostgreSQL's passwords are, if the source has none.
    pub password_file: Option<PathBuf>,
    /// The database; of SQLite the file. Empty = the server's own choice.
    pub database: String,
    /// Whether and how the connection is encrypted.
    pub tls: Tls,
    /// Longest wait for an answer, if the source names one.
    pub call_timeout: Option<Duration>,
    /// Longest wait for a connection, if the source names one.
    pub connect_timeout: Option<Duration>,
    /// PostgreSQL's command line for the session.
    pub options: String,
    /// Run-time parameters of PostgreSQL, variables of a MySQL session, as the source has them.
    pub parameters: Vec<(String, String)>,
    /// MySQL's own switches that have a meaning here.
    pub switches: Switches,
    /// Whether a server that takes no writes is passed over.
    pub needs_writable: bool,
    /// SQLite's journal mode.
    pub journal: String,
    /// What cannot be done as the source has it, a line each.
    pub warnings: Vec<String>,
}

/// What the Go driver for MySQL is told beside variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// The password may go in clear, to a server that asks for it so.
    pub allows_clear_password: bool,
    /// The password's hash may be of the kind before MySQL 4.1.
    pub allows_old_password: bool,
    /// Longest packet to send; `None` = what the server takes.
    pub packet_bytes_max: Option<usize>,
    /// Character sets, the first that the server knows counts.
    pub charsets: Vec<String>,
    /// Order of characters.
    pub collation: Option<String>,
}

/// How much of the other end is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// In clear.
    Off,
    /// Encrypted where the server offers it; whoever answers is believed.
    Preferred,
    /// Encrypted; whoever answers is believed.
    Encrypted,
    /// As `Authority` if the file of authorities is there, else as `Encrypted`.
    AuthorityIfThere,
    /// The certificate must be signed by an authority. Compat: made out to the host too where the
    /// host is a name and is told to the server, as the Go driver for PostgreSQL does.
    Authority,
    /// The certificate must be signed by an authority, and be made out to the host.
    Full,
}

/// Encryption on the way to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// How much is verified.
    pub security: Security,
    /// Authorities that are believed; `None` = the system's.
    pub authorities: Option<Pem>,
    /// Our own certificate and its key.
    pub identity: Option<Identity>,
    /// Whether the server is told which host is wanted.
    pub sends_name: bool,
    /// Where the system's authorities are.
    pub system: SystemAuthorities,
}

/// Where the system keeps the authorities that it trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemAuthorities {
    /// `SSL_CERT_FILE`.
    pub file: Option<PathBuf>,
    /// `SSL_CERT_DIR`.
    pub folders: Vec<PathBuf>,
}

/// A certificate for ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// With those that signed it behind it.
    pub certificate: Pem,
    /// Its key.
    pub key: Pem,
    /// A file of the usual place, which need not be there.
    pub is_default: bool,
}

/// PEM: the name of a file, or the text itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file.
    File(PathBuf),
    /// As it is; may be a key.
    Text(String),
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Text(_) => f.write_str("text"),
        }
    }
}

impl Tls {
    /// In clear.
    fn off(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let folders = variable("SSL_CERT_DIR").unwrap_or_default();
        let folders = folders.split(':').filter(|it| !it.is_empty()).map(PathBuf::from).collect();
        let file = variable("SSL_CERT_FILE").filter(|it| !it.is_empty()).map(PathBuf::from);
        Self {
            security: Security::Off,
            authorities: None,
            identity: None,
            sends_name: true,
            system: SystemAuthorities { file, folders },
        }
    }
}

/// What is wrong with a source string; never repeats it, because of the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid SQL source for driver {driver}: {why}")]
pub struct SourceError {
    driver: &'static str,
    why: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.driver == Driver::Sqlite {
            return write!(f, "sqlite:{}", self.database);
        }
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let Self { host, port, database, .. } = self;
        write!(f, "{}://{user}{host}:{port}", self.driver.name())?;
        for (host, port) in &self.more_hosts {
            write!(f, ",{host}:{port}")?;
        }
        write!(f, "/{database}")
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Source {
    /// Reads the source string of `driver`; `variable` gives what the environment says
    /// (PostgreSQL's `PGHOST` and so on).
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn parse(
        driver: Driver,
        text: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SourceError> {
        let parsed = match driver {
            Driver::Sqlite => sqlite(text, variable),
            Driver::Postgres => postgres::parse(text, variable),
            Driver::Mysql => mysql::parse(text, variable),
        };
        parsed.map_err(|why| SourceError { driver: driver.name(), why })
    }

    fn new(driver: Driver, port: u16, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            driver,
            host: "127.0.0.1".to_owned(),
            port,
            more_hosts: Vec::new(),
            seen: Seen::default(),
            user: None,
            password: None,
            password_file: None,
            database: String::new(),
            tls: Tls::off(variable),
            call_timeout: None,
            connect_timeout: None,
            options: String::new(),
            parameters: Vec::new(),
            switches: Switches::default(),
            needs_writable: false,
            journal: "WAL".to_owned(),
            warnings: Vec::new(),
        }
    }

    /// All hosts with their ports, in the order in which they are tried now.
    #[must_use]
    pub fn hosts(&self, now: Instant) -> Vec<(String, u16)> {
        let first = (self.host.clone(), self.port);
        let named = std::iter::once(first).chain(self.more_hosts.iter().cloned()).collect();
        self.seen.sorted(named, now)
    }

    /// Whether the source itself names this parameter or variable.
    #[must_use]
    pub fn says(&self, name: &str) -> bool {
        let in_words = |text: &str| text.to_lowercase().replace('-', "_").contains(name);
        self.parameters.iter().any(|(key, _)| in_words(key)) || in_words(&self.options)
    }

    /// The shortest of the source's time-outs counts: ours covers a whole call.
    fn limit_calls(&mut self, timeout: Duration) {
        if !timeout.is_zero() {
            self.call_timeout = Some(self.call_timeout.map_or(timeout, |it| it.min(timeout)));
        }
    }
}

/// A path, or `file:` or `sqlite:` before it, and `?journal_mode=…` behind it.
fn sqlite(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Source, String> {
    let mut source = Source::new(Driver::Sqlite, 0, variable);
    let rest = text.strip_prefix("sqlite:").or_else(|| text.strip_prefix("file:")).unwrap_or(text);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Err("no file is named".to_owned());
    }
    for (key, value) in pairs(parameters)? {
        match key.trim_start_matches('_') {
            "journal_mode" | "journal" => {
                let mode = value.to_uppercase();
                if !["WAL", "DELETE", "TRUNCATE", "PERSIST"].contains(&mode.as_str()) {
                    return Err("journal_mode must be WAL, DELETE, TRUNCATE or PERSIST".to_owned());
                }
                source.journal = mode;
            }
            other => return Err(format!("unknown parameter {other:?}")),
        }
    }
    path.clone_into(&mut source.database);
    Ok(source)
}

fn pairs(parameters: &str) -> Result<Vec<(String, String)>, String> {
    let each = parameters.split('&').filter(|pair| !pair.is_empty());
    each.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((url::unescaped(key, url::Part::Query)?, url::unescaped(value, url::Part::Query)?))
    })
    .collect()
}

/// A Go duration; one below 0 is none.
fn duration(text: &str) -> Result<Duration, String> {
    Ok(Duration::from_nanos(u64::try_from(go::duration(text)?).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
