//! PostgreSQL: `key=value` pairs or a URL, what the environment says, the Go driver's defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{self, Address};
use super::{Identity, Pem, Security, Source, duration, url};
use crate::base::go;
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
    let is_url = is_of_url(text);
    let pairs = if is_url { url::pairs(text)? } else { text.to_owned() };
    let mut source = Source::new(Driver::Postgres, 5432, variable);
    let pairs = read_timeouts(&mut source, &pairs, is_url)?;
    // Compat: a URL with blanks before it.
    let pairs = if is_of_url(&pairs) { url::pairs(&pairs)? } else { pairs };
    given.extend(words(&pairs)?);
    if given.contains_key("") {
        return Err("a parameter without a name".to_owned());
    }
    read_driver_settings(&mut given)?;
    read_connect_timeout(&mut source, &mut given)?;
    read_hosts(&mut source, &mut given)?;
    source.user = given.remove("user");
    source.password = given.remove("password");
    let other_name = given.remove("database");
    let database = given.remove("dbname").or(other_name);
    source.database = database.or_else(|| source.user.clone()).unwrap_or_default();
    let home = variable("HOME").filter(|it| !it.is_empty()).map(PathBuf::from);
    let file = variable("PGPASSFILE").filter(|it| !it.is_empty()).map(PathBuf::from);
    source.password_file = file.or_else(|| home.as_ref().map(|home| home.join(".pgpass")));
    read_tls(&mut source, &mut given, home)?;
    source.options = given.remove("options").unwrap_or_default();
    source.parameters = given.into_iter().collect();
    Ok(source)
}

fn is_of_url(text: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|it| text.starts_with(it))
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

/// One host and its port, or (ours) several: `host=a,b port=1,2`, one port for all or one each, or
/// `host=a:1,b:2`.
fn read_hosts(source: &mut Source, given: &mut Given) -> Result<(), String> {
    let host = given.remove("host").filter(|it| !it.is_empty());
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    let port = given.remove("port").unwrap_or_else(|| "5432".to_owned());
    let mut all = if host.contains(',') || port.contains(',') {
        several(&host, &port)?
    } else if host.starts_with('/') {
        let number = port.parse().map_err(|_| format!("invalid port {port:?}"))?;
        vec![(host, number)]
    } else {
        let Address { host, port } = address::parse("tcp", &address::join(&host, &port), None)?;
        vec![(host, port)]
    };
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

fn several(hosts: &str, ports: &str) -> Result<Vec<(String, u16)>, String> {
    let number = |text: &str| match text {
        "" => Ok(5432),
        text => text.parse::<u16>().map_err(|_| format!("invalid port {text:?}")),
    };
    let ports = ports.split(',').map(number).collect::<Result<Vec<u16>, _>>()?;
    let names: Vec<&str> = hosts.split(',').collect();
    if ports.len() != 1 && ports.len() != names.len() {
        return Err(format!("{} port(s) for {} host(s)", ports.len(), names.len()));
    }
    let each = names.iter().enumerate().map(|(index, name)| {
        let port = ports[if ports.len() == 1 { 0 } else { index }];
        let (name, port) = match address::split(name) {
            Ok((name, own)) => (name, number(own)?),
            Err(_) => (name.trim_matches(['[', ']']), port),
        };
        let name = if name.is_empty() { "localhost" } else { name };
        Ok((name.to_owned(), port))
    });
    each.collect()
}

/// Takes the two time-outs out of the pairs, which the Go server does before its driver sees them.
/// Compat: blanks between pairs, and within a value, are one each; pinned by
/// `sources_mean_what_they_mean_to_the_go_drivers`.
fn read_timeouts(source: &mut Source, pairs: &str, is_url: bool) -> Result<String, String> {
    let mut rest = Vec::new();
    for word in pairs.split_whitespace() {
        let mut parts = word.split('=');
        let name = match parts.next().unwrap_or_default().to_lowercase().as_str() {
            "readtimeout" => "readTimeout",
            "writetimeout" => "writeTimeout",
            _ => {
                rest.push(word);
                continue;
            }
        };
        let value = parts.next().ok_or_else(|| format!("unable to parse {name}: no value"))?;
        // Ours: there the quotes of a URL's values are in the way.
        let inner = if is_url { value.trim_matches('\'') } else { value };
        let wrong = |reason| format!("unable to parse {name}: {reason}");
        source.limit_calls(duration(inner).or_else(|_| duration(value)).map_err(wrong)?);
    }
    Ok(rest.join(" "))
}

fn read_connect_timeout(source: &mut Source, given: &mut Given) -> Result<(), String> {
    let Some(text) = given.remove("connect_timeout").filter(|text| text != "0") else {
        return Ok(());
    };
    let seconds = go::decimal_integer("ParseInt", &text)
        .map_err(|error| format!("invalid value for parameter connect_timeout: {error}"))?;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    if seconds == 0 {
        return Err(format!("dial tcp: i/o timeout (connect_timeout is {text})"));
    }
    source.connect_timeout = Some(Duration::from_secs(seconds));
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
                "pq: unsupported sslmode {other:?}; only \"require\" (default), \"verify-full\", \
                 \"verify-ca\", and \"disable\" supported"
            ));
        }
    };
    Ok(())
}

fn read_driver_settings(given: &mut Given) -> Result<(), String> {
    if let Some(name) = given.remove("fallback_application_name") {
        given.entry("application_name".to_owned()).or_insert(name);
    }
    let encoding = given.remove("client_encoding").unwrap_or_else(|| "UTF8".to_owned());
    let encoding: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    if !["utf8", "unicode"].contains(&encoding.to_lowercase().as_str()) {
        return Err("client_encoding must be absent or 'UTF8'".to_owned());
    }
    if let Some(style) = given.get("datestyle").filter(|style| *style != "ISO, MDY") {
        return Err(format!("setting datestyle must be absent or ISO, MDY; got {style}"));
    }
    for key in MEANINGLESS {
        let value = given.remove(key);
        let is_switch = !key.starts_with("krb");
        if let Some(value) = value.filter(|value| is_switch && value != "yes" && value != "no") {
            return Err(format!("unrecognized value {} for {key}", go::quote(&value)));
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
            return Err("missing \"=\" after \"…\" in connection info string\"".to_owned());
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
                None if quote.is_some() => {
                    return Err(
                        "unterminated quoted string literal in connection string".to_owned()
                    );
                }
                None => break,
            }
        }
        found.push((key, value));
    }
}
