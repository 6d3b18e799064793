//! User and password in the text of a URL, where every byte that means something there is escaped.

use std::fmt::Write as _;

/// A user, and a password if there is one, as they stand before the `@` of a URL.
#[must_use]
pub fn encode(user: &str, password: Option<&str>) -> String {
    let mut text = String::new();
    escape(&mut text, user);
    if let Some(password) = password {
        text.push(':');
        escape(&mut text, password);
    }
    text
}

fn escape(text: &mut String, plain: &str) {
    for byte in plain.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
}

/// Takes `%xx` out; what is no such sequence stays.
#[must_use]
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let is_hex = |pair: &&[u8]| pair.iter().all(u8::is_ascii_hexdigit);
        let hex = behind.get(..2).filter(|_| *byte == b'%').filter(is_hex);
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_escaped_means_nothing_and_comes_back(user in ".*", password in ".*") {
            let text = encode(&user, Some(&password));
            prop_assert!(!text.contains(['/', '?', '@', '#']));
            let (found, secret) = text.split_once(':').expect("one colon stands between them");
            prop_assert_eq!((decode(found), decode(secret)), (user, password));
        }

        #[test]
        fn whatever_is_no_escape_stays(text in "[^%]*") {
            prop_assert_eq!(decode(&text), text);
        }
    }
}
