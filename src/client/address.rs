//! A server's address as people write it, taken apart.

use std::fmt;

use super::error::ClientError;

const PORT_DEFAULT: u16 = 4222;

/// One server: where it is, and who to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Name or number, brackets of IPv6 removed.
    pub(super) host: String,
    pub(super) port: u16,
    /// User and password; a user without password is a token.
    pub(super) login: Option<(String, Option<String>)>,
    /// Whether it asks for TLS.
    pub(super) is_tls: bool,
}

impl Address {
    /// Takes `[nats://][user[:password]@]host[:port]` apart, or the same with `tls://`.
    pub(super) fn decode(text: &str) -> Result<Self, ClientError> {
        let invalid = || ClientError::InvalidAddress(text.to_owned());
        let rest = match text.trim().split_once("://") {
            Some(("nats" | "tcp" | "tls", rest)) => rest,
            Some(_) => return Err(invalid()),
            None => text.trim(),
        };
        let is_tls = text.trim().starts_with("tls://");
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(decode_login(login)), place),
            None => (None, rest),
        };
        let (host, port) = decode_place(place).ok_or_else(invalid)?;
        if host.is_empty() {
            return Err(invalid());
        }
        Ok(Self { host, port, login, is_tls })
    }
}

/// The place without user and password, so that it can be shown.
impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(formatter, "[{}]:{}", self.host, self.port);
        }
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

fn decode_login(login: &str) -> (String, Option<String>) {
    match login.split_once(':') {
        Some((user, password)) => (unescaped(user), Some(unescaped(password))),
        None => (unescaped(login), None),
    }
}

fn decode_place(place: &str) -> Option<(String, u16)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => PORT_DEFAULT,
            None => return None,
        };
        return Some((host.to_owned(), port));
    }
    match place.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((place.to_owned(), PORT_DEFAULT)),
    }
}

/// `%40` and the like, as in every URL; what is no escape stays as it is.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let digits = text.get(index + 1..index + 3).filter(|_| bytes[index] == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                index += 3;
            }
            None => {
                plain.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn check(text: &str, host: &str, port: u16, login: Option<(&str, Option<&str>)>) {
        let address = Address::decode(text).unwrap();
        assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
        let found = address.login.as_ref().map(|(user, word)| (user.as_str(), word.as_deref()));
        assert_eq!(found, login, "{text}");
    }

    #[test]
    fn an_address_may_leave_out_all_but_the_host() {
        check("localhost", "localhost", 4222, None);
        check("nats://127.0.0.1:15", "127.0.0.1", 15, None);
        check("nats://me:p%40ss@host:1", "host", 1, Some(("me", Some("p@ss"))));
        check("nats://token@host", "host", 4222, Some(("token", None)));
        check("nats://[::1]:4333/", "::1", 4333, None);
        check("[::1]", "::1", 4222, None);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "http://a", "host:port", "nats://:4222", "[::1", "[::1]x", "a:70000"] {
            assert!(Address::decode(text).is_err(), "{text}");
        }
    }
}
