//! How a TLS handshake begins on the wire, and what is told of one that comes to nothing.
//!
//! Who knocks at the wrong door (a browser, a scanner, a load balancer's check) is known by the
//! header of its first record, before a library has seen it. Pinned by
//! `end_to_end::wrong_door::who_knocks_at_the_wrong_door_is_told_as_by_the_reference`.

use rustls::{Error, InvalidMessage};

use crate::base::certificate::text_of;

/// Bytes of a record's header.
const HEADER_LEN: usize = 5;

/// Those, and the type, length and version of the first message.
const OPENING_LEN: usize = 11;

/// The longest record before a version is agreed on.
const RECORD_LEN_MAX: usize = 16_384 + 2_048;

/// How long the reference lets a message be.
const TOO_LONG: &str = "maximum of 65536 bytes";

/// What five bytes are that begin no handshake.
pub const NO_HANDSHAKE: &str = "tls: first record does not look like a TLS handshake";

/// How requests begin, as far as the reference knows them by it.
const REQUESTS: [&[u8; HEADER_LEN]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];

/// What a peer has begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Too little to tell.
    Unfinished,
    /// A record of TLS.
    Tls,
    /// A request of HTTP.
    Http,
    /// Anything else.
    Other,
}

/// What a peer has said, as far as that is told of a handshake that comes to nothing.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Its first bytes.
    first: Vec<u8>,
    /// The header of the record that is not whole.
    header: Vec<u8>,
    /// What is missing of that record.
    missing: usize,
}

impl Opening {
    /// Takes note of what came.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        let wanted = OPENING_LEN - self.first.len();
        self.first.extend_from_slice(&bytes[..wanted.min(bytes.len())]);
        while !bytes.is_empty() {
            let is_in_header = self.missing == 0;
            let wanted = if is_in_header { HEADER_LEN - self.header.len() } else { self.missing };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if is_in_header {
                self.header.extend_from_slice(taken);
                if let [_, _, _, high, low] = self.header[..] {
                    self.missing = usize::from(u16::from_be_bytes([high, low]));
                }
            } else {
                self.missing -= taken.len();
            }
            if self.missing == 0 && self.header.len() == HEADER_LEN {
                self.header.clear();
            }
        }
    }

    /// What it has begun with.
    #[must_use]
    pub fn beginning(&self) -> Beginning {
        const ALERT: u8 = 21;
        const HANDSHAKE: u8 = 22;
        let Some(header) = self.first.first_chunk::<HEADER_LEN>() else {
            return Beginning::Unfinished;
        };
        match header {
            [ALERT | HANDSHAKE, ..0x10, ..] => Beginning::Tls,
            header if REQUESTS.contains(&header) => Beginning::Http,
            _ => Beginning::Other,
        }
    }

    /// What is told of a peer that goes away now.
    #[must_use]
    pub fn end_text(&self) -> &'static str {
        if self.header.is_empty() { "EOF" } else { "unexpected EOF" }
    }

    /// What is told of an error.
    #[must_use]
    pub fn tell(&self, error: &Error) -> String {
        let mut first = [0; OPENING_LEN];
        first[..self.first.len()].copy_from_slice(&self.first);
        let [_, _, _, high, low, _, length @ .., major, minor] = first;
        let record_len = usize::from(u16::from_be_bytes([high, low]));
        if RECORD_LEN_MAX < record_len {
            return format!("tls: oversized record received with length {record_len}");
        }
        let text = text_of(error);
        if matches!(error, Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge)) {
            let [high, middle, low] = length;
            let len = u32::from_be_bytes([0, high, middle, low]);
            return format!("tls: handshake message of length {len} bytes exceeds {TOO_LONG}");
        }
        if matches!(error, Error::PeerIncompatible(_)) && text.ends_with("unsupported versions") {
            // Who speaks these has no list of versions: the reference counts down from its own.
            match (major, minor) {
                (3, 2) => return format!("{text}: [302 301]"),
                (3, 1) => return format!("{text}: [301]"),
                _ => (),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(bytes: &[u8]) -> Opening {
        let mut opening = Opening::default();
        for byte in bytes {
            opening.follow(&[*byte]);
        }
        opening
    }

    #[test]
    fn a_peer_is_known_by_its_first_five_bytes() {
        for (bytes, expected) in [
            (&b""[..], Beginning::Unfinished),
            (b"GET ", Beginning::Unfinished),
            (b"\x16\x03\x01\x00", Beginning::Unfinished),
            (b"GET / HTTP/1.1", Beginning::Http),
            (b"OPTIONS *", Beginning::Http),
            (b"GETS /", Beginning::Other),
            (b"\x16\x03\x01\x00\x05", Beginning::Tls),
            (b"\x15\x03\x01\x00\x02", Beginning::Tls),
            (b"\x16\x10\x01\x00\x05", Beginning::Other),
            (b"\x17\x03\x03\x00\x05", Beginning::Other),
            (b"PING\r\n", Beginning::Other),
        ] {
            assert_eq!(opening(bytes).beginning(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn who_leaves_between_two_records_leaves_nothing_unfinished() {
        for (bytes, expected) in [
            (&b""[..], "EOF"),
            (b"\x16", "unexpected EOF"),
            (b"\x16\x03\x01\x00\x02", "unexpected EOF"),
            (b"\x16\x03\x01\x00\x02a", "unexpected EOF"),
            (b"\x16\x03\x01\x00\x02ab", "EOF"),
            (b"\x16\x03\x01\x00\x02ab\x16\x03\x01\x00\x00", "EOF"),
            (b"\x16\x03\x01\x00\x02ab\x16\x03", "unexpected EOF"),
        ] {
            assert_eq!(opening(bytes).end_text(), expected, "{bytes:?}");
        }
    }
}
