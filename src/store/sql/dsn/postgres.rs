//! PostgreSQL: `key=value` pairs or a URL, what the environment says, the Go driver's defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Identity, Pem, Security, Source, duration, pairs, unescaped};
use crate::store::sql::dialect::Driver;

/// What each variable of the environment stands for, as the Go driver reads them.
const VARIABLES: [(&str, &str); 16] = [
    ("PGHOST", "host"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLSNI", "sslsni"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGCLIENTENCODING", "client_encoding"),
    ("PGDATESTYLE", "datestyle"),
    ("PGTZ", "timezone"),
];

/// Compat: variables that the Go driver refuses, because it does not do what they ask for.
const UNSUPPORTED: [&str; 11] = [
    "PGHOSTADDR",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGREALM",
    "PGREQUIRESSL",
    "PGSSLCRL",
    "PGREQUIREPEER",
    "PGKRBSRVNAME",
    "PGGSSLIB",
    "PGSYSCONFDIR",
    "PGLOCALEDIR",
];

/// Settings of the Go driver itself without a meaning here: how it encodes values, and whom it
/// would ask for a ticket if it could.
const MEANINGLESS: [&str; 4] =
    ["disable_prepared_binary_result", "binary_parameters", "krbsrvname", "krbspn"];

type Given = BTreeMap<String, String>;

pub(super) fn parse(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Source, String> {
    let mut given = environment(variable)?;
    let url = ["postgres://", "postgresql://"].iter().find_map(|it| text.strip_prefix(it));
    match url {
        Some(rest) => from_url(rest, &mut given)?,
        None => given.extend(words(text)?),
    }
    let mut source = Source::new(Driver::Postgres, 5432, variable);
    read_hosts(&mut source, &mut given)?;
    source.user = given.remove("user").filter(|it| !it.is_empty());
    source.password = given.remove("password");
    let database = given.remove("dbname").or_else(|| given.remove("database"));
    source.database = database.or_else(|| source.user.clone()).unwrap_or_default();
    let home = variable("HOME").filter(|it| !it.is_empty()).map(PathBuf::from);
    let file = variable("PGPASSFILE").filter(|it| !it.is_empty()).map(PathBuf::from);
    source.password_file = file.or_else(|| home.as_ref().map(|home| home.join(".pgpass")));
    read_timeouts(&mut source, &mut given)?;
    read_tls(&mut source, &mut given, home)?;
    read_driver_settings(&mut given)?;
    source.options = given.remove("options").unwrap_or_default();
    source.parameters = given.into_iter().collect();
    Ok(source)
}

fn environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Given, String> {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    if let Some(name) = UNSUPPORTED.into_iter().find(|name| is_set(name)) {
        return Err(format!("setting {name} not supported: remove it from the environment"));
    }
    let mut given = Given::new();
    for (name, key) in VARIABLES {
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            given.insert(key.to_owned(), value);
        }
    }
    // The optimiser's, which the Go driver passes on too.
    if let Some(value) = variable("PGGEQO").filter(|value| !value.is_empty()) {
        given.insert("geqo".to_owned(), value);
    }
    Ok(given)
}

/// `host=a,b port=1,2`: one port for all, or one each.
fn read_hosts(source: &mut Source, given: &mut Given) -> Result<(), String> {
    let hosts = given.remove("host").filter(|it| !it.is_empty());
    let hosts = hosts.unwrap_or_else(|| "localhost".to_owned());
    let ports = given.remove("port").filter(|it| !it.is_empty());
    let ports = ports.unwrap_or_else(|| "5432".to_owned());
    let number = |text: &str| match text {
        "" => Ok(5432),
        text => text.parse::<u16>().map_err(|_| format!("invalid port {text:?}")),
    };
    let ports = ports.split(',').map(number).collect::<Result<Vec<u16>, _>>()?;
    let names: Vec<&str> = hosts.split(',').collect();
    if ports.len() != 1 && ports.len() != names.len() {
        return Err(format!("{} port(s) for {} host(s)", ports.len(), names.len()));
    }
    let all = names.iter().enumerate().map(|(index, name)| {
        let name = if name.is_empty() { "localhost" } else { name };
        (name.to_owned(), ports[if ports.len() == 1 { 0 } else { index }])
    });
    let mut all: Vec<(String, u16)> = all.collect();
    (source.host, source.port) = all.remove(0);
    source.more_hosts = all;
    source.needs_writable = match given.remove("target_session_attrs").as_deref() {
        Some("read-write" | "primary") => true,
        Some("any") => false,
        Some(other) => {
            return Err(format!(
                "unsupported target_session_attrs {other:?}: a store writes, so \"read-write\", \
                 \"primary\" or \"any\""
            ));
        }
        // Of several, those that only follow are of no use.
        None => !source.more_hosts.is_empty(),
    };
    Ok(())
}

fn read_timeouts(source: &mut Source, given: &mut Given) -> Result<(), String> {
    let is_timeout = |key: &str| ["readtimeout", "writetimeout"].contains(&key);
    for (key, value) in std::mem::take(given) {
        if is_timeout(&key.to_lowercase()) {
            source.limit_calls(duration(&key, value.trim_matches('\''))?);
        } else {
            given.insert(key, value);
        }
    }
    if let Some(text) = given.remove("connect_timeout") {
        let seconds: i64 = text
            .parse()
            .map_err(|_| format!("invalid value for parameter connect_timeout: {text:?}"))?;
        let seconds = u64::try_from(seconds).unwrap_or(0);
        source.connect_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
    }
    Ok(())
}

fn read_tls(source: &mut Source, given: &mut Given, home: Option<PathBuf>) -> Result<(), String> {
    let is_text = given.remove("sslinline").as_deref() == Some("true");
    let pem = |text: String| match is_text {
        true => Pem::Text(text),
        false => Pem::File(PathBuf::from(text)),
    };
    let mut taken = |key: &str| given.remove(key).filter(|it| !it.is_empty());
    source.tls.sends_name = taken("sslsni").is_none_or(|it| it.starts_with('1'));
    source.tls.authorities = taken("sslrootcert").map(pem);
    let usual = |name: &str| home.as_ref().map(|home| home.join(".postgresql").join(name));
    let certificate = taken("sslcert");
    let is_default = certificate.is_none() && !is_text;
    let certificate = certificate.map(pem).or_else(|| usual("postgresql.crt").map(Pem::File));
    let key = taken("sslkey").map(pem).or_else(|| usual("postgresql.key").map(Pem::File));
    source.tls.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key, is_default }),
        (Some(_), None) if !is_default => return Err("sslcert is named, and no sslkey".to_owned()),
        (Some(_) | None, _) => None,
    };
    let mode = given.remove("sslmode");
    source.tls.security = match mode.as_deref().unwrap_or_default() {
        _ if source.host.starts_with('/') => Security::Off,
        "disable" => Security::Off,
        "" | "require" if source.tls.authorities.is_some() => Security::AuthorityIfThere,
        "" | "require" => Security::Encrypted,
        "verify-ca" => Security::Authority,
        "verify-full" => Security::Full,
        other => {
            return Err(format!(
                "unsupported sslmode {other:?}; only \"require\" (default), \"verify-full\", \
                 \"verify-ca\", and \"disable\" supported"
            ));
        }
    };
    Ok(())
}

fn read_driver_settings(given: &mut Given) -> Result<(), String> {
    for key in MEANINGLESS {
        let value = given.remove(key);
        let is_switch = !key.starts_with("krb");
        if let Some(value) = value.filter(|value| is_switch && value != "yes" && value != "no") {
            return Err(format!("unrecognized value {value:?} for {key}"));
        }
    }
    if let Some(name) = given.remove("fallback_application_name") {
        given.entry("application_name".to_owned()).or_insert(name);
    }
    let encoding: String = given
        .remove("client_encoding")
        .unwrap_or_else(|| "UTF8".to_owned())
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    if !["utf8", "unicode"].contains(&encoding.to_lowercase().as_str()) {
        return Err("client_encoding must be absent or 'UTF8'".to_owned());
    }
    match given.get("datestyle") {
        Some(style) if style != "ISO, MDY" => {
            Err(format!("setting datestyle must be absent or ISO, MDY; got {style}"))
        }
        Some(_) | None => Ok(()),
    }
}

fn from_url(rest: &str, given: &mut Given) -> Result<(), String> {
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
    let each = address.split(',').map(|address| match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (address, ""),
    });
    let (hosts, ports): (Vec<&str>, Vec<&str>) =
        each.map(|(host, port)| (host.trim_start_matches('[').trim_end_matches(']'), port)).unzip();
    put("host", &hosts.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", &ports.join(","))?;
    }
    for (key, value) in pairs(parameters)? {
        // Compat: the Go driver passes over empty ones of a URL.
        if !value.is_empty() {
            given.insert(key, value);
        }
    }
    Ok(())
}

/// `key = value key='a value'`: blanks around the sign, a backslash before what is meant as it is.
fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|it| it.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Ok(found);
        }
        let mut key = String::new();
        while let Some(letter) = letters.next_if(|it| !it.is_whitespace() && *it != '=') {
            key.push(letter);
        }
        while letters.next_if(|it| it.is_whitespace()).is_some() {}
        if letters.next() != Some('=') {
            // The word may be a part of a password.
            return Err("missing = behind a key".to_owned());
        }
        while letters.next_if(|it| it.is_whitespace()).is_some() {}
        let quote = letters.next_if_eq(&'\'');
        let mut value = String::new();
        loop {
            match letters.next() {
                Some('\'') if quote.is_some() => break,
                Some('\\') => {
                    value.push(letters.next().ok_or("missing character after backslash")?)
                }
                Some(letter) if quote.is_none() && letter.is_whitespace() => break,
                Some(letter) => value.push(letter),
                None if quote.is_some() => return Err("a quoted value has no end".to_owned()),
                None => break,
            }
        }
        found.push((key, value));
    }
}
