//! The header block of HPUB and HMSG.
//!
//! `NATS/1.0[ <status>]\r\n`, then `Key: Value\r\n` lines, then an empty line (spec core NATS, 2.8).

/// What a request gets that nobody listens to.
pub const NO_RESPONDERS: &[u8] = b"NATS/1.0 503\r\n\r\n";

const VERSION: &[u8] = b"NATS/1.0";

/// The status of a header block, such as `503`.
#[must_use]
pub fn status(block: &[u8]) -> Option<u16> {
    let line = block.strip_prefix(VERSION)?.strip_prefix(b" ")?;
    let digits = line.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The value of the first line with this key, without the blanks around it; keys are compared
/// without regard to case.
#[must_use]
pub fn value<'a>(block: &'a [u8], key: &str) -> Option<&'a [u8]> {
    block.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        name.eq_ignore_ascii_case(key.as_bytes()).then(|| value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_values_are_found() {
        assert_eq!(status(NO_RESPONDERS), Some(503));
        let block = b"NATS/1.0\r\nAb: one \r\nCd:two\r\n\r\n";
        assert_eq!(status(block), None);
        assert_eq!(value(block, "ab"), Some(&b"one"[..]));
        assert_eq!(value(block, "cd"), Some(&b"two"[..]));
        assert_eq!(value(block, "ef"), None);
    }
}
