//! URLs of routes and of the cluster's listener

use std::num::{IntErrorKind, ParseIntError};

use crate::base::go::quote;
use crate::base::user_info::decode;
use crate::config::RouteUrl;

/// What a cluster URL says about the listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// Host name or address.
    pub host: String,
    /// Port; -1 = any free one, 0 = no listener.
    pub port: i64,
    /// Decoded.
    pub username: Option<String>,
    /// Decoded.
    pub password: Option<String>,
}

/// The parts of `scheme://user:password@host:port`, whatever the scheme.
struct Parts<'a> {
    user_info: Option<&'a str>,
    address: &'a str,
}

fn split(url: &str) -> Parts<'_> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user_info, address)) => Parts { user_info: Some(user_info), address },
        None => Parts { user_info: None, address: authority },
    }
}

/// Host and port of an address; IPv6 addresses stand in brackets.
///
/// # Errors
/// The reference's text.
pub fn split_host_port(address: &str) -> Result<(String, &str), String> {
    let wrong = |why: &str| match address {
        "" => why.to_owned(),
        address => format!("address {address}: {why}"),
    };
    let missing = || wrong(MISSING_PORT);
    let (before, port) = address.rsplit_once(':').ok_or_else(missing)?;
    let host = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) =
                rest.split_once(']').ok_or_else(|| wrong("missing ']' in address"))?;
            match tail.strip_prefix(':') {
                Some(end) if end == port => host,
                Some(_) => return Err(wrong("too many colons in address")),
                None => return Err(missing()),
            }
        }
        None if before.contains(':') => return Err(wrong("too many colons in address")),
        None => before,
    };
    for (sign, why) in [('[', "unexpected '[' in address"), (']', "unexpected ']' in address")] {
        if host.contains(sign) || port.contains(sign) {
            return Err(wrong(why));
        }
    }
    Ok((host.to_owned(), port))
}

const MISSING_PORT: &str = "missing port in address";

/// Host and port that are told to others in the place of the real ones; `port` is the real one,
/// which stands for one that is left out, 0 or -1.
///
/// # Errors
/// The reference's text.
pub fn advertised(text: &str, port: u16) -> Result<(String, u16), String> {
    let with_port = format!("{text}:{port}");
    let (host, number) = match split_host_port(text) {
        Err(why) if why.ends_with(MISSING_PORT) => split_host_port(&with_port)?,
        found => found?,
    };
    let number = number.trim();
    let told: i64 = number.parse().map_err(|error: ParseIntError| {
        let is_long = matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow);
        let why = if is_long { "value out of range" } else { "invalid syntax" };
        format!("strconv.Atoi: parsing {}: {why}", quote(number))
    })?;
    let told = u16::try_from(told).ok().filter(|told| *told != 0);
    Ok((host.trim().to_owned(), told.unwrap_or(port)))
}

fn credentials(user_info: Option<&str>) -> (Option<String>, Option<String>) {
    match user_info {
        None => (None, None),
        Some(info) => match info.split_once(':') {
            Some((user, password)) => (Some(decode(user)), Some(decode(password))),
            None => (Some(decode(info)), None),
        },
    }
}

/// The URL behind `-cluster`.
///
/// # Errors
/// The reference's text.
pub fn parse_listen(url: &str) -> Result<Listen, String> {
    let parts = split(url);
    let (host, port) = split_host_port(parts.address)?;
    let port = port.parse().map_err(|_| format!("could not parse port {}", quote(port)))?;
    let (username, password) = credentials(parts.user_info);
    if username.is_some() && password.is_none() {
        return Err("expected cluster password to be set".to_owned());
    }
    Ok(Listen { host, port, username, password })
}

/// One route to solicit. As in the reference, a route without a port, or to nobody, is a route: the
/// log says what is wrong with it at each attempt.
///
/// # Errors
/// The reference's text, if it is no URL.
pub fn parse(url: &str) -> Result<RouteUrl, String> {
    let wrong = || format!("error parsing route url [{}]", quote(url));
    let url = url.trim();
    let Some((scheme, _)) = url.split_once("://") else {
        // What has no authority has no address. A scheme begins with a letter.
        let is_scheme = |scheme: &str| scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        return match url.split_once(':') {
            Some((scheme, _)) if !is_scheme(scheme) => Err(wrong()),
            _ => Ok(RouteUrl { url: url.to_owned(), ..RouteUrl::default() }),
        };
    };
    let Parts { user_info, address } = split(url);
    let port = match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(wrong)?.1,
        None => address.rfind(':').map_or("", |at| &address[at..]),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || address.contains('%') {
        return Err(wrong());
    }
    let (username, password) = credentials(user_info);
    let shown = format!("{scheme}://{address}");
    Ok(RouteUrl { url: shown, address: address.to_owned(), username, password })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn routes_have_a_host_a_port_and_credentials() {
        let route = parse("nats-route://ruser:T0p%40@127.0.0.1:4246").unwrap();
        assert_eq!(route.url, "nats-route://127.0.0.1:4246");
        assert_eq!(route.address, "127.0.0.1:4246");
        assert_eq!(route.username.as_deref(), Some("ruser"));
        assert_eq!(route.password.as_deref(), Some("T0p@"));
        for (url, address) in [
            ("nats://[::1]:4248", "[::1]:4248"),
            ("nats://[::1]", "[::1]"),
            ("nats://a", "a"),
            ("nats://a:0", "a:0"),
            ("nats://:1", ":1"),
            ("nats://a:99999", "a:99999"),
            ("nats://u:p@a", "a"),
            ("foo", ""),
            ("foo:25999", ""),
            ("", ""),
        ] {
            assert_eq!(parse(url).unwrap().address, address, "{url}");
        }
        for url in ["nats://a:x", "127.0.0.1:6222", "nats://%zz", "nats://[::1", "nats://[::1]x"] {
            let error = parse(url).unwrap_err();
            assert_eq!(error, format!("error parsing route url [\"{url}\"]"));
        }
    }

    /// What nats-server 2.9.24 tells, or why it does not start.
    #[test]
    fn what_is_advertised_is_taken_apart_as_the_reference_does() {
        for (text, told) in [
            ("a", Ok(("a", 4222))),
            ("a:5", Ok(("a", 5))),
            ("a b:5", Ok(("a b", 5))),
            ("[::1]", Ok(("::1", 4222))),
            ("[::1]:5", Ok(("::1", 5))),
            (":5", Ok(("", 5))),
            ("a:0", Ok(("a", 4222))),
            ("a:-1", Ok(("a", 4222))),
            ("a: 5 ", Ok(("a", 5))),
            ("::1", Err("address ::1: too many colons in address")),
            ("a:b:c", Err("address a:b:c: too many colons in address")),
            ("http://a:5", Err("address http://a:5: too many colons in address")),
            ("a:5,b:6", Err("address a:5,b:6: too many colons in address")),
            ("[::1", Err("address [::1: missing ']' in address")),
            ("[::1]:5:6", Err("address [::1]:5:6: too many colons in address")),
            ("a[b]:5", Err("address a[b]:5: unexpected '[' in address")),
            ("1.2.3.4:x", Err("strconv.Atoi: parsing \"x\": invalid syntax")),
            ("a:", Err("strconv.Atoi: parsing \"\": invalid syntax")),
        ] {
            let told = told.map(|(host, port)| (host.to_owned(), port)).map_err(str::to_owned);
            assert_eq!(advertised(text, 4222), told, "{text}");
        }
    }

    #[test]
    fn cluster_urls_are_refused_in_the_words_of_the_reference() {
        for (url, error) in [
            ("foo", "missing port in address"),
            ("nats://127.0.0.1", "address 127.0.0.1: missing port in address"),
            ("nats://::1:5", "address ::1:5: too many colons in address"),
            ("nats://x@127.0.0.1:1", "expected cluster password to be set"),
        ] {
            assert_eq!(parse_listen(url).unwrap_err(), error);
        }
        let listen = parse_listen("nats://a:b@0.0.0.0:-1").unwrap();
        assert_eq!((listen.host.as_str(), listen.port), ("0.0.0.0", -1));
        assert_eq!(listen.password.as_deref(), Some("b"));
    }
}
