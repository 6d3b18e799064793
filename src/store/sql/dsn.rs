//! Source strings: the Go drivers' forms and URLs → where the database is, and as whom.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::store::sql::dialect::Driver;

/// Where a database is and as whom to speak to it. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// Which database.
    pub driver: Driver,
    /// Host name, or the folder or path of a unix socket if it begins with `/`.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User, if one is named.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// The database; of SQLite the file.
    pub database: String,
    /// Whether and how the connection is encrypted.
    pub tls: Tls,
    /// Longest wait for an answer, if the source names one.
    pub call_timeout: Option<Duration>,
    /// SQLite's journal mode.
    pub journal: String,
}

/// Encryption on the way to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// None.
    Off,
    /// Encrypted; whoever answers is believed.
    Unverified,
    /// Encrypted; the certificate must be signed by one of this file (or of the system), and be
    /// made out to the host.
    Verified {
        /// Authorities, PEM.
        ca_file: Option<PathBuf>,
    },
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
        write!(f, "{}://{user}{host}:{port}/{database}", self.driver.name())
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
            Driver::Sqlite => sqlite(text),
            Driver::Postgres => postgres(text, variable),
            Driver::Mysql => mysql(text),
        };
        parsed.map_err(|why| SourceError { driver: driver.name(), why })
    }

    fn new(driver: Driver, port: u16) -> Self {
        Self {
            driver,
            host: "127.0.0.1".to_owned(),
            port,
            user: None,
            password: None,
            database: String::new(),
            tls: Tls::Off,
            call_timeout: None,
            journal: "WAL".to_owned(),
        }
    }

    /// The shortest of the source's time-outs counts: ours covers a whole call.
    fn limit_calls(&mut self, timeout: Duration) {
        if !timeout.is_zero() {
            self.call_timeout = Some(self.call_timeout.map_or(timeout, |it| it.min(timeout)));
        }
    }
}

/// A path, or `file:` or `sqlite:` before it, and `?journal_mode=…` behind it.
fn sqlite(text: &str) -> Result<Source, String> {
    let mut source = Source::new(Driver::Sqlite, 0);
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

/// `[user[:password]@][protocol[(address)]]/dbname[?k=v&…]`, or a `mysql://` URL.
fn mysql(text: &str) -> Result<Source, String> {
    let mut source = Source::new(Driver::Mysql, 3306);
    let scheme = ["mysql://", "mariadb://"].iter().find_map(|it| text.strip_prefix(it));
    let is_url = scheme.is_some();
    let rest = scheme.unwrap_or(text);
    // Passwords may hold slashes; names of databases do not.
    let (head, tail) = rest.rsplit_once('/').ok_or("missing the slash before the database name")?;
    let (database, parameters) = tail.split_once('?').unwrap_or((tail, ""));
    source.database = unescaped(database)?;
    let (login, address) = head.rsplit_once('@').unwrap_or(("", head));
    let decoded = |text: &str| if is_url { unescaped(text) } else { Ok(text.to_owned()) };
    if !login.is_empty() {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        source.user = Some(decoded(user)?);
        source.password = Some(decoded(password)?).filter(|it| !it.is_empty());
    }
    let (protocol, address) = match address.split_once('(') {
        Some((protocol, rest)) => {
            (protocol, rest.strip_suffix(')').ok_or("missing ) behind the address")?)
        }
        None if is_url => ("tcp", address),
        None => (address, ""),
    };
    match protocol {
        "" | "tcp" if address.is_empty() => {}
        "" | "tcp" => host_port(&mut source, address)?,
        "unix" => address.clone_into(&mut source.host),
        other => return Err(format!("unknown protocol {other:?}")),
    }
    for (key, value) in pairs(parameters)? {
        match key.as_str() {
            "readTimeout" | "writeTimeout" => source.limit_calls(duration(&key, &value)?),
            "timeout" => drop(duration(&key, &value)?),
            "tls" => {
                source.tls = match value.as_str() {
                    "false" | "preferred" => Tls::Off,
                    "true" => Tls::Verified { ca_file: None },
                    "skip-verify" => Tls::Unverified,
                    other => return Err(format!("unknown tls setting {other:?}")),
                }
            }
            "sslrootcert" => source.tls = Tls::Verified { ca_file: Some(PathBuf::from(value)) },
            // What the other parameters of the Go driver ask for is so here, or without meaning.
            _ => {}
        }
    }
    Ok(source)
}

/// `key=value` pairs or a `postgres://` URL; what neither says comes from the environment.
fn postgres(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Source, String> {
    let mut given = BTreeMap::new();
    for (key, name) in [
        ("host", "PGHOST"),
        ("port", "PGPORT"),
        ("user", "PGUSER"),
        ("password", "PGPASSWORD"),
        ("dbname", "PGDATABASE"),
        ("sslmode", "PGSSLMODE"),
        ("sslrootcert", "PGSSLROOTCERT"),
    ] {
        if let Some(value) = variable(name) {
            given.insert(key.to_owned(), value);
        }
    }
    let url = ["postgres://", "postgresql://"].iter().find_map(|it| text.strip_prefix(it));
    match url {
        Some(rest) => postgres_url(rest, &mut given)?,
        None => given.extend(words(text)?),
    }
    let mut source = Source::new(Driver::Postgres, 5432);
    source.host = given.remove("host").unwrap_or_else(|| "localhost".to_owned());
    if let Some(port) = given.remove("port") {
        source.port = port.parse().map_err(|_| format!("invalid port {port:?}"))?;
    }
    source.user = given.remove("user").or_else(|| variable("USER"));
    source.password = given.remove("password");
    let database = given.remove("dbname").or_else(|| source.user.clone());
    source.database = database.unwrap_or_default();
    for (key, value) in &given {
        if ["readtimeout", "writetimeout"].contains(&key.to_lowercase().as_str()) {
            source.limit_calls(duration(key, value.trim_matches('\''))?);
        }
    }
    let ca_file = given.remove("sslrootcert").map(PathBuf::from);
    source.tls = match given.remove("sslmode").as_deref() {
        Some("disable") => Tls::Off,
        Some("require" | "prefer" | "allow") | None if ca_file.is_none() => Tls::Unverified,
        Some("require" | "verify-ca" | "verify-full") | None => Tls::Verified { ca_file },
        Some(other) => return Err(format!("unsupported sslmode {other:?}")),
    };
    if source.host.starts_with('/') {
        source.tls = Tls::Off;
    }
    Ok(source)
}

fn postgres_url(rest: &str, given: &mut BTreeMap<String, String>) -> Result<(), String> {
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (head, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, address) = head.rsplit_once('@').unwrap_or(("", head));
    let mut put = |key: &str, value: &str| -> Result<(), String> {
        if !value.is_empty() {
            given.insert(key.to_owned(), unescaped(value)?);
        }
        Ok(())
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    put("user", user)?;
    put("password", password)?;
    put("dbname", database)?;
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (address, ""),
    };
    put("host", host.trim_start_matches('[').trim_end_matches(']'))?;
    put("port", port)?;
    given.extend(pairs(parameters)?);
    Ok(())
}

/// `key=value key='a value'`, with a backslash before a quote.
fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').ok_or("missing = behind a key")?;
        let behind = behind.trim_start();
        let is_quoted = behind.starts_with('\'');
        let mut value = String::new();
        let mut is_escaped = false;
        let mut end = behind.len();
        for (index, letter) in behind.char_indices().skip(usize::from(is_quoted)) {
            if is_escaped {
                value.push(letter);
                is_escaped = false;
            } else if letter == '\\' {
                is_escaped = true;
            } else if (is_quoted && letter == '\'') || (!is_quoted && letter.is_whitespace()) {
                end = index + letter.len_utf8();
                break;
            } else {
                value.push(letter);
            }
        }
        if is_quoted && (end == behind.len() && !behind.ends_with('\'')) {
            return Err("a quoted value has no end".to_owned());
        }
        let key = key.trim();
        if key.is_empty() || !key.chars().all(|it| it.is_ascii_alphanumeric() || it == '_') {
            return Err("a key that is no word".to_owned());
        }
        found.push((key.to_owned(), value));
        rest = behind[end..].trim_start();
    }
    Ok(found)
}

fn pairs(parameters: &str) -> Result<Vec<(String, String)>, String> {
    let each = parameters.split('&').filter(|pair| !pair.is_empty());
    each.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((unescaped(key)?, unescaped(value)?))
    })
    .collect()
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|it| std::str::from_utf8(it).ok());
        let byte = digits.and_then(|it| u8::from_str_radix(it, 16).ok());
        bytes.push(byte.ok_or("a percent sign without two hexadecimal digits")?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

fn host_port(source: &mut Source, address: &str) -> Result<(), String> {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (address, ""),
    };
    if !host.is_empty() {
        source.host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    }
    if !port.is_empty() {
        source.port = port.parse().map_err(|_| format!("invalid port {port:?}"))?;
    }
    Ok(())
}

/// A Go duration: numbers with units, added up.
fn duration(key: &str, text: &str) -> Result<Duration, String> {
    let bad = || format!("unable to parse {key}: time: invalid duration {text:?}");
    let mut total = 0.0;
    let mut rest = text;
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit() && it != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..].find(|it: char| it.is_ascii_digit()).map(|it| it + digits);
        let unit_end = unit_end.unwrap_or(rest.len());
        let seconds = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        total += number * seconds;
        rest = &rest[unit_end..];
    }
    if text.is_empty() {
        return Err(bad());
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn parse(driver: Driver, text: &str) -> Source {
        Source::parse(driver, text, &|_| None).unwrap()
    }

    #[test]
    fn the_mysql_forms_of_the_go_documentation_are_read() {
        let source = parse(Driver::Mysql, "nss:password@/nss_db");
        assert_eq!(source.to_string(), "mysql://nss@127.0.0.1:3306/nss_db");
        assert_eq!(source.password.as_deref(), Some("password"));
        let text = "nss:p@s/s@tcp(10.0.0.1:3307)/nss_db?readTimeout=5s&writeTimeout=1m1.5s";
        let source = parse(Driver::Mysql, text);
        assert_eq!(source.to_string(), "mysql://nss@10.0.0.1:3307/nss_db");
        assert_eq!(source.password.as_deref(), Some("p@s/s"));
        assert_eq!(source.call_timeout, Some(Duration::from_secs(5)));
        assert_eq!(parse(Driver::Mysql, "u@unix(/run/my.sock)/db").host, "/run/my.sock");
        let source = parse(Driver::Mysql, "mysql://u:a%40b@[::1]:99/db?tls=skip-verify");
        assert_eq!((source.host.as_str(), source.port), ("::1", 99));
        assert_eq!((source.password.as_deref(), source.tls), (Some("a@b"), Tls::Unverified));
    }

    #[test]
    fn the_postgres_forms_of_the_go_documentation_are_read() {
        let text = "dbname=nss_db readTimeout=5s writeTimeout=250ms sslmode=disable";
        let source = parse(Driver::Postgres, text);
        assert_eq!(source.to_string(), "postgres://localhost:5432/nss_db");
        assert_eq!(source.call_timeout, Some(Duration::from_millis(250)));
        let text = "user=postgres password='it''s' host=10.0.0.1 port=5433 sslmode=disable";
        assert!(Source::parse(Driver::Postgres, text, &|_| None).is_err());
        let text = r"user=me password='it\'s a' host=10.0.0.1 port=5433 sslmode=disable";
        let source = parse(Driver::Postgres, text);
        assert_eq!(source.to_string(), "postgres://me@10.0.0.1:5433/me");
        assert_eq!(source.password.as_deref(), Some("it's a"));
        let text = "postgres://me:p%2Fw@h:1/db?sslmode=verify-full&readTimeout=5s";
        let source = parse(Driver::Postgres, text);
        assert_eq!(source.to_string(), "postgres://me@h:1/db");
        assert_eq!(source.tls, Tls::Verified { ca_file: None });
        assert_eq!(source.call_timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn passwords_are_never_shown() {
        for (driver, text) in [
            (Driver::Mysql, "nss:secret@/db"),
            (Driver::Postgres, "user=a password=secret sslmode=disable"),
        ] {
            let source = parse(driver, text);
            assert!(!format!("{source} {source:?}").contains("secret"));
        }
        let error = Source::parse(Driver::Mysql, "nss:secret@tcp(h:p)/db", &|_| None);
        assert!(!error.unwrap_err().to_string().contains("secret"));
    }
}
