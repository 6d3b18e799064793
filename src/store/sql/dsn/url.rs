//! A URL as the Go driver for PostgreSQL reads it: → its `key='value'` pairs.

use std::collections::BTreeMap;

use super::address;
use crate::base::go::quote;

/// Which part of a URL a text is: each has letters of its own that stand for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Name, password, path.
    Plain,
    /// Host.
    Host,
    /// Parameters, where a plus is a space.
    Query,
}

/// The pairs of `scheme://…`. Errors never show more of the URL than what is wrong in it, because
/// of the password.
///
/// # Errors
/// The reference's text.
pub(super) fn pairs(url: &str) -> Result<String, String> {
    let wrong = |reason: String| format!("parse \"…\": {reason}");
    let (text, fragment) = url.split_once('#').unwrap_or((url, ""));
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(wrong("net/url: invalid control character in URL".to_owned()));
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let login_and_host = authority.rsplit_once('@');
    let host = login_and_host.map_or(authority, |(_, host)| host);
    // What is before an `@` further behind may be a password that ought to be escaped.
    let is_login = login_and_host.is_none() && url.contains('@');
    let host = read_host(host, is_login).map_err(wrong)?;
    let mut pairs = Vec::new();
    if let Some((login, _)) = login_and_host {
        let (user, password) = read_login(login).map_err(wrong)?;
        pairs.push(("user".to_owned(), user));
        pairs.push(("password".to_owned(), password));
    }
    let path = unescaped(path, Part::Plain).map_err(wrong)?;
    unescaped(fragment, Part::Plain).map_err(wrong)?;
    // Ours: several hosts, each with its port.
    match address::split(&host).ok().filter(|_| !host.contains(',')) {
        Some((name, port)) => {
            pairs.push(("host".to_owned(), name.to_owned()));
            pairs.push(("port".to_owned(), port.to_owned()));
        }
        None => pairs.push(("host".to_owned(), host)),
    }
    pairs.push(("dbname".to_owned(), path.strip_prefix('/').unwrap_or(&path).to_owned()));
    pairs.extend(parameters(query));
    // Compat: empty ones are passed over, and of two the last in this order counts.
    let shown = |(key, value): (String, String)| {
        format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    };
    let mut shown: Vec<String> =
        pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(shown).collect();
    shown.sort();
    Ok(shown.join(" "))
}

/// Compat: of a key that is there twice the first counts, and what cannot be read is passed over.
fn parameters(query: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Ok(key), Ok(value)) = (unescaped(key, Part::Query), unescaped(value, Part::Query)) {
            found.entry(key).or_insert(value);
        }
    }
    found
}

fn read_host(text: &str, is_login: bool) -> Result<String, String> {
    let port = if text.starts_with('[') {
        text.rsplit_once(']').ok_or("missing ']' in host")?.1
    } else {
        text.rfind(':').map_or("", |at| &text[at..])
    };
    let is_port = port.is_empty() || port.starts_with(':');
    if !is_port || !port.bytes().skip(1).all(|byte| byte.is_ascii_digit()) {
        let shown = if is_login { quote("…") } else { quote(port) };
        return Err(format!("invalid port {shown} after host"));
    }
    unescaped(text, Part::Host)
}

fn read_login(text: &str) -> Result<(String, String), String> {
    let is_legal = |it: char| it.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(it);
    if !text.chars().all(is_legal) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    Ok((unescaped(user, Part::Plain)?, unescaped(password, Part::Plain)?))
}

/// Without `%xx`.
///
/// # Errors
/// The reference's text.
pub(super) fn unescaped(text: &str, part: Part) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let all = rest;
        rest = behind;
        match *first {
            b'%' => {
                let digits = rest.get(..2).and_then(|it| std::str::from_utf8(it).ok());
                let is_hex = |it: &&str| it.bytes().all(|byte| byte.is_ascii_hexdigit());
                let byte = digits.filter(is_hex).and_then(|it| u8::from_str_radix(it, 16).ok());
                // Compat: a host may have letters of other scripts so, and a percent sign.
                let byte = byte.filter(|it| part != Part::Host || *it >= 0x80 || *it == b'%');
                let Some(byte) = byte else {
                    let shown = String::from_utf8_lossy(&all[..all.len().min(3)]).into_owned();
                    return Err(format!("invalid URL escape {}", quote(&shown)));
                };
                bytes.push(byte);
                rest = &rest[2..];
            }
            b'+' if part == Part::Query => bytes.push(b' '),
            byte if part == Part::Host && byte.is_ascii() && !is_of_host(byte) => {
                let shown = quote(&char::from(byte).to_string());
                return Err(format!("invalid character {shown} in host name"));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}
