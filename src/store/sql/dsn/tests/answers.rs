//! Sources against what the Go drivers make of them
//!
//! `tests/data/sql_sources.jsonl` has one source a line and what the Go server's drivers did with
//! it: refused it before they had a connection, or asked for a session as somebody, with these
//! parameters. What differs on purpose is in [`is_ours`] and in `docs/compatibility.md`.

use serde_json::{Map, Value as Json};

use super::*;
use crate::store::sql::dsn::address;

fn text<'a>(answer: &'a Json, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

/// Whether an error says what the reference says; `…` stands for what may be a password.
fn is_said(found: &str, expected: &str) -> bool {
    let found = found.split_once(": ").map_or(found, |(_, why)| why);
    let found = found.split_once(" (write ").map_or(found, |(why, _)| why);
    let (begin, end) = (found.split('…').next(), found.split('…').next_back());
    match found.contains('…') {
        true => expected.starts_with(begin.unwrap()) && expected.ends_with(end.unwrap()),
        false => found == expected,
    }
}

/// What differs on purpose.
fn is_ours(source: &str, answer: &Json, found: &Result<Source, SourceError>) -> bool {
    let error = text(answer, "err");
    let is_url = source.contains("://");
    match found {
        // Files are read, and the time runs out, when the session begins.
        Ok(_) if ["open /nowhere", "tls: ", "x509: "].iter().any(|it| error.starts_with(it)) => {
            true
        }
        Err(_) if error.contains("i/o timeout") => true,
        // Time-outs in a URL.
        Ok(_) => is_url && error.contains("invalid duration \"'"),
        // Names go into a statement as they are; a service that nobody means; who takes no writes.
        Err(found) => {
            let found = found.to_string();
            ["invalid parameter", "without a name", "tcp/http:", "target_session_attrs"]
                .iter()
                .any(|part| found.contains(part))
        }
    }
}

fn seconds(answer: &Json, key: &str) -> Option<Duration> {
    let nanos = answer[key].as_u64().filter(|nanos| *nanos > 0);
    nanos.map(Duration::from_nanos)
}

/// What a source asks for, in the words of the recording.
fn asked(source: &Source, answer: &Json) -> Json {
    let mut asked = Map::new();
    let mut put = |key: &str, value: Json| drop(asked.insert(key.to_owned(), value));
    let address = if source.host.starts_with('/') && source.driver == Driver::Postgres {
        format!("{}/.s.PGSQL.{}", source.host, source.port)
    } else if source.host.starts_with('/') {
        source.host.clone()
    } else {
        address::join(&source.host, &source.port.to_string())
    };
    put("address", address.into());
    put("password", source.password.clone().unwrap_or_default().into());
    let call = [seconds(answer, "read"), seconds(answer, "write")].into_iter().flatten().min();
    put("calls", (source.call_timeout == call).into());
    put("timeout", (source.connect_timeout == seconds(answer, "timeout")).into());
    let mut session: Map<String, Json> =
        source.parameters.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    session
        .retain(|key, value| key != "datestyle" && !(key == "extra_float_digits" && value == "2"));
    if !source.options.is_empty() {
        session.insert("options".to_owned(), source.options.as_str().into());
    }
    put("session", session.into());
    put("tls", format!("{:?}", source.tls.security).into());
    if let Some(user) = &source.user {
        put("user", user.as_str().into());
        put("database", source.database.as_str().into());
    }
    asked.into()
}

/// The same of an answer.
fn expected(driver: Driver, source: &Source, answer: &Json) -> Json {
    let mut expected = Map::new();
    let mut put = |key: &str, value: Json| drop(expected.insert(key.to_owned(), value));
    let here = if driver == Driver::Mysql { "127.0.0.1" } else { "localhost" };
    let address = text(answer, "address");
    let shown = match address::split(address) {
        Ok((host, port)) if !address.starts_with('/') => {
            let host = if host.is_empty() { here } else { host };
            let port = match port {
                "" => "0",
                "mysql" => "3306",
                "postgresql" => "5432",
                port => port,
            };
            address::join(host, port)
        }
        // The Go driver gives it the usual port.
        Err(_) if !address.starts_with('/') && driver == Driver::Mysql => {
            address::join(address, "3306")
        }
        _ => address.to_owned(),
    };
    put("address", shown.into());
    put("password", text(answer, "password").into());
    put("calls", true.into());
    put("timeout", true.into());
    let is_mysql = driver == Driver::Mysql;
    let mut session = answer[if is_mysql { "parameters" } else { "startup" }]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let user = session.remove("user").filter(|_| !is_mysql);
    let database = session.remove("database").filter(|_| !is_mysql);
    // Ours: which of several hosts is used.
    session.retain(|key, _| !(is_mysql && key == "charset") && key != "target_session_attrs");
    put("session", session.into());
    let security = match (is_mysql, text(answer, "tls")) {
        (true, "true") => Security::Full,
        (true, "skip-verify") if answer["fallback"] == true => Security::Preferred,
        (true, "skip-verify") => Security::Encrypted,
        (true, "preferred") => Security::Preferred,
        (true, _) => Security::Off,
        // Which of the ways is not seen from outside.
        (false, _) if answer["tls"] == true && source.tls.security != Security::Off => {
            source.tls.security
        }
        (false, _) => Security::Off,
    };
    put("tls", format!("{security:?}").into());
    if source.user.is_some() {
        let user = user.unwrap_or_else(|| text(answer, "user").into());
        put(
            "database",
            database.unwrap_or_else(|| match is_mysql {
                true => text(answer, "database").into(),
                false => user.clone(),
            }),
        );
        put("user", user);
    }
    expected.into()
}

fn wrong(driver: Driver, source: &str, answer: &Json) -> Option<String> {
    // As where the answers were made.
    let variable = |name: &str| (name == "HOME").then(|| "/nowhere".to_owned());
    let found = Source::parse(driver, source, &variable);
    match (&found, answer["err"].as_str()) {
        (Err(_), _) if answer["panic"].is_string() => None,
        (Err(found), Some(expected)) if is_said(&found.to_string(), expected) => None,
        (_, _) if is_ours(source, answer, &found) => None,
        (Err(found), expected) => Some(format!("expected {expected:?}\n  found {found}")),
        (Ok(_), Some(expected)) => Some(format!("expected {expected}\n  found a source")),
        // A handshake that failed says nothing of the rest.
        (Ok(_), None) if answer["verifies"] == true => None,
        // Ours: several hosts.
        (Ok(_), None) if text(answer, "address").contains(',') => None,
        (Ok(found), None) => {
            let (expected, found) = (expected(driver, found, answer), asked(found, answer));
            (found != expected).then(|| format!("expected {expected}\n  found    {found}"))
        }
    }
}

#[test]
fn sources_mean_what_they_mean_to_the_go_drivers() {
    let recorded = include_str!("../../../../../tests/data/sql_sources.jsonl");
    let mut differing = Vec::new();
    let mut count = 0;
    for line in recorded.lines() {
        let (driver, source, answer): (String, String, Json) = serde_json::from_str(line).unwrap();
        count += 1;
        let driver = Driver::named(&driver).unwrap();
        // No source at all is refused before any driver sees it.
        if driver == Driver::Mysql && source.is_empty() {
            continue;
        }
        if let Some(difference) = wrong(driver, &source, &answer) {
            differing.push(format!("{source:?}\n  {difference}"));
        }
    }
    assert!(differing.is_empty(), "{} of {count}:\n{}", differing.len(), differing.join("\n"));
    assert!(count > 900);
}
