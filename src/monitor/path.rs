//! What the target of a request means: paths are cleaned as the reference's server does
//!
//! Tools ask for `//streaming/serverz` and follow the redirect that they get there.

use axum::http::{Method, Uri};

/// What to do with a request, before anything is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A clean path, decoded; looked up as it is.
    Path(String),
    /// Not a clean one: the client is sent to this location.
    Moved(String),
    /// Nothing that could be a path.
    Bad,
    /// `*`, which asks about the server as such; whether that is allowed with the method.
    Server {
        /// Only with `OPTIONS`.
        is_allowed: bool,
    },
}

impl Target {
    /// Reads the target of a request.
    pub(super) fn read(method: &Method, uri: &Uri) -> Self {
        let raw = uri.path();
        if raw == "*" {
            return Self::Server { is_allowed: method == Method::OPTIONS };
        }
        if !raw.starts_with('/') {
            return Self::Bad;
        }
        let Some(path) = decoded(raw.as_bytes()) else { return Self::Bad };
        let clean = cleaned(&path);
        if clean != path {
            let mut location = encoded(&clean);
            if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
                location.push('?');
                query.bytes().for_each(|byte| push_ascii(&mut location, byte));
            }
            return Self::Moved(location);
        }
        // No page has a name that is not UTF-8: what such a path becomes here is none either.
        Self::Path(String::from_utf8_lossy(&path).into_owned())
    }
}

/// `None` if a percent sign does not stand before two digits.
fn decoded(raw: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            path.push(*first);
            continue;
        }
        let (digits, after) = after.split_first_chunk::<2>()?;
        path.push(digit(digits[0])? << 4 | digit(digits[1])?);
        rest = after;
    }
    Some(path)
}

fn digit(letter: u8) -> Option<u8> {
    let value = char::from(letter).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Without empty names, `.` and `..`; a slash at the end stays.
fn cleaned(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let mut clean = Vec::with_capacity(path.len());
    for name in &names {
        clean.push(b'/');
        clean.extend_from_slice(name);
    }
    if names.is_empty() || path.ends_with(b"/") {
        clean.push(b'/');
    }
    clean
}

/// Percent signs for everything that the reference does not write as it is.
fn encoded(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(char::from(*byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' => text.push(char::from(*byte)),
            b'/' | b':' | b';' | b'=' | b'@' => text.push(char::from(*byte)),
            other => push_escaped(&mut text, *other),
        }
    }
    text
}

fn push_ascii(text: &mut String, byte: u8) {
    if byte.is_ascii() {
        text.push(char::from(byte));
    } else {
        push_escaped(text, byte);
    }
}

fn push_escaped(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn read(target: &str) -> Target {
        Target::read(&Method::GET, &target.parse().unwrap())
    }

    #[test]
    fn a_clean_path_is_looked_up_decoded() {
        for (target, path) in [
            ("/varz", "/varz"),
            ("/varz/", "/varz/"),
            ("/%76arz?x=//", "/varz"),
            ("/streaming%2Fserverz", "/streaming/serverz"),
            ("/..varz", "/..varz"),
            ("/a+b", "/a+b"),
        ] {
            assert_eq!(read(target), Target::Path(path.to_owned()), "{target}");
        }
    }

    #[test]
    fn any_other_path_is_moved_to_the_clean_one_with_its_query() {
        for (target, location) in [
            ("//", "/"),
            ("//streaming/serverz", "/streaming/serverz"),
            ("/a/./b/../c//?x=/../y", "/a/c/?x=/../y"),
            ("/../%2e%2e/varz", "/varz"),
            ("//%FF%20|&", "/%FF%20%7C&"),
        ] {
            assert_eq!(read(target), Target::Moved(location.to_owned()), "{target}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert_eq!(read("/%zz"), Target::Bad);
        assert_eq!(read("/%2"), Target::Bad);
        assert_eq!(read("varz"), Target::Bad);
        assert_eq!(read("*"), Target::Server { is_allowed: false });
    }
}
