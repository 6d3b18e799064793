//! Where a NATS server is, and who to be there, as URLs say it.

use std::fmt;

use crate::base::user_info;

/// The port of a server whose URL names none.
const PORT_DEFAULT: &str = "4222";

/// One server.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Name or address, without the brackets of IPv6.
    pub host: String,
    /// The port as it is written: whether it is one is found out by who dials.
    pub port: String,
    /// Whether the URL asks for TLS.
    pub is_tls: bool,
    /// User and password, decoded; a user without password is a token.
    pub login: Option<(String, Option<String>)>,
}

/// Why a text is no list of servers; in the words of the reference where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// One server needs `scheme://host:port`.
    #[error("malformed url: {0}")]
    Malformed(String),
    /// It has no port.
    #[error("address {0}: missing port in address")]
    NoPort(String),
    /// It is none at all.
    #[error("parse \"{0}\": invalid server URL")]
    Invalid(String),
    /// Servers are spoken to over TCP.
    #[error("{0}: WebSocket is not supported for the connection to an external NATS server")]
    WebSocket(String),
}

impl ServerUrl {
    /// Reads the servers of `-ns`: one `scheme://host:port`, or several with commas between, where
    /// scheme and port may be left out (spec configuration, 4).
    ///
    /// # Errors
    /// [`UrlError`], without any password.
    pub fn decode_list(text: &str) -> Result<Vec<Self>, UrlError> {
        if text.contains(['@', ',']) {
            // A template may leave nothing between two commas.
            let all = text.split(',').map(|one| one.trim_matches(' '));
            let all: Vec<&str> = all.filter(|one| !one.is_empty()).collect();
            if all.is_empty() {
                return Err(UrlError::Malformed(text.to_owned()));
            }
            return all.into_iter().map(Self::decode).collect();
        }
        let mut parts = text.split("://");
        let (Some(_), Some(place), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(UrlError::Malformed(text.to_owned()));
        };
        let url = Self::decode(text)?;
        if Self::split_place(place).is_some_and(|(_, port)| port.is_none()) {
            return Err(UrlError::NoPort(place.to_owned()));
        }
        Ok(vec![url])
    }

    /// Reads `[scheme://][user[:password]@]host[:port][/]`.
    ///
    /// # Errors
    /// [`UrlError`], without any password.
    pub fn decode(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
        let rest = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(decode_login(login)), place),
            None => (None, rest),
        };
        if matches!(scheme, "ws" | "wss") {
            return Err(UrlError::WebSocket(format!("{scheme}://{place}")));
        }
        let invalid = || UrlError::Invalid(place.to_owned());
        let (host, port) = Self::split_place(place).ok_or_else(invalid)?;
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(invalid());
        }
        let port = port.filter(|port| !port.is_empty()).unwrap_or(PORT_DEFAULT).to_owned();
        Ok(Self { host: host.to_owned(), port, is_tls: scheme == "tls", login })
    }

    fn split_place(place: &str) -> Option<(&str, Option<&str>)> {
        if let Some(rest) = place.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            return match rest.strip_prefix(':') {
                Some(port) => Some((host, Some(port))),
                None if rest.is_empty() => Some((host, None)),
                None => None,
            };
        }
        Some(place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))))
    }

    /// `host:port`, as it is dialled.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            return format!("[{}]:{}", self.host, self.port);
        }
        format!("{}:{}", self.host, self.port)
    }
}

/// Without user and password.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "tls" } else { "nats" };
        let login = if self.login.is_some() { "[REDACTED]@" } else { "" };
        write!(f, "{scheme}://{login}{}", self.address())
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn decode_login(login: &str) -> (String, Option<String>) {
    match login.split_once(':') {
        Some((user, password)) => (user_info::decode(user), Some(user_info::decode(password))),
        None => (user_info::decode(login), None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Vec<String> {
        let urls = ServerUrl::decode_list(text).unwrap();
        let login = |url: &ServerUrl| match &url.login {
            None => String::new(),
            Some((user, None)) => format!("{user} "),
            Some((user, Some(password))) => format!("{user}:{password} "),
        };
        let shown = |url: &ServerUrl| {
            format!("{}{}{}", login(url), url.address(), if url.is_tls { " tls" } else { "" })
        };
        urls.iter().map(shown).collect()
    }

    #[test]
    fn servers_are_read_as_by_the_reference() {
        for (text, expected) in [
            ("nats://localhost:4222", vec!["localhost:4222"]),
            ("tcp://localhost:1", vec!["localhost:1"]),
            ("tls://h:1", vec!["h:1 tls"]),
            ("nats://[::1]:5", vec!["[::1]:5"]),
            ("nats://u:p%40ss@h:1", vec!["u:p@ss h:1"]),
            ("token@h", vec!["token h:4222"]),
            (
                "a, nats://u:p@b:7,tls://c:,[::1]",
                vec!["a:4222", "u:p b:7", "c:4222 tls", "[::1]:4222"],
            ),
            // Whether there is such a port is found out where it is dialled.
            ("nats://h:99999", vec!["h:99999"]),
        ] {
            assert_eq!(list(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_server_is_refused_and_no_password_is_shown() {
        for (text, why) in [
            ("localhost:4222", "malformed url: localhost:4222"),
            ("a://b://c:1", "malformed url: a://b://c:1"),
            ("nats://localhost", "address localhost: missing port in address"),
            ("nats://[::1]", "address [::1]: missing port in address"),
            ("nats://:4222", "parse \":4222\": invalid server URL"),
            ("nats://u:secret@", "parse \"\": invalid server URL"),
            (", ,", "malformed url: , ,"),
            ("nats://u:secret@[::1", "parse \"[::1\": invalid server URL"),
            (
                "ws://u:secret@h:1",
                "ws://h:1: WebSocket is not supported for the connection to an external NATS server",
            ),
        ] {
            assert_eq!(ServerUrl::decode_list(text).unwrap_err().to_string(), why, "{text}");
        }
        assert_eq!(ServerUrl::decode_list("a,, b,").unwrap().len(), 2);
        let url = ServerUrl::decode("nats://user:secret@h:1").unwrap();
        assert_eq!(url.to_string(), "nats://[REDACTED]@h:1");
        assert!(!format!("{url:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_or_refused(text in ".*") {
            if let Ok(urls) = ServerUrl::decode_list(&text) {
                prop_assert!(urls.iter().all(|url| !url.host.is_empty()));
            }
        }
    }
}
