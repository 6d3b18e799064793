//! Why a request is none, in the words of the reference's decoder: they stand in the log.
//!
//! Whether it is one the generated decoder says; this reads the bytes again and finds the reason.

use crate::engine::effect::Service;

/// How a value is written.
const NUMBER: u64 = 0;
const BYTES: u64 = 2;

/// A kind of request: its name, and its fields with the names of the reference.
type Kind = (&'static str, &'static [(u64, &'static str, u64)]);

const CONNECT: Kind = (
    "ConnectRequest",
    &[
        (1, "ClientID", BYTES),
        (2, "HeartbeatInbox", BYTES),
        (3, "Protocol", NUMBER),
        (4, "ConnID", BYTES),
        (5, "PingInterval", NUMBER),
        (6, "PingMaxOut", NUMBER),
    ],
);
const PUBLISH: Kind = (
    "PubMsg",
    &[
        (1, "ClientID", BYTES),
        (2, "Guid", BYTES),
        (3, "Subject", BYTES),
        (4, "Reply", BYTES),
        (5, "Data", BYTES),
        (6, "ConnID", BYTES),
        (10, "Sha256", BYTES),
    ],
);
const SUBSCRIBE: Kind = (
    "SubscriptionRequest",
    &[
        (1, "ClientID", BYTES),
        (2, "Subject", BYTES),
        (3, "QGroup", BYTES),
        (4, "Inbox", BYTES),
        (5, "MaxInFlight", NUMBER),
        (6, "AckWaitInSecs", NUMBER),
        (7, "DurableName", BYTES),
        (10, "StartPosition", NUMBER),
        (11, "StartSequence", NUMBER),
        (12, "StartTimeDelta", NUMBER),
    ],
);
const UNSUBSCRIBE: Kind = (
    "UnsubscribeRequest",
    &[
        (1, "ClientID", BYTES),
        (2, "Subject", BYTES),
        (3, "Inbox", BYTES),
        (4, "DurableName", BYTES),
    ],
);
const CLOSE: Kind = ("CloseRequest", &[(1, "ClientID", BYTES)]);
const PING: Kind = ("Ping", &[(1, "ConnID", BYTES)]);

fn kind_of(service: Service) -> Kind {
    match service {
        Service::Connect => CONNECT,
        Service::Publish => PUBLISH,
        Service::Subscribe => SUBSCRIBE,
        Service::Unsubscribe | Service::SubscriptionClose => UNSUBSCRIBE,
        Service::Close => CLOSE,
        Service::Ping => PING,
    }
}

/// What the reference finds wrong with a request of this service; nothing if it would take it.
pub(super) fn reason(service: Service, bytes: &[u8]) -> Option<String> {
    let (name, fields) = kind_of(service);
    let mut reader = Reader { len: bytes.len(), rest: bytes };
    while !reader.rest.is_empty() {
        if let Err(why) = reader.field(name, fields) {
            return Some(why);
        }
    }
    None
}

struct Reader<'a> {
    /// Of all that there is.
    len: usize,
    rest: &'a [u8],
}

const CUT: &str = "unexpected EOF";
const NEGATIVE: &str = "proto: negative length found during unmarshaling";

impl Reader<'_> {
    fn field(&mut self, name: &str, fields: &[(u64, &str, u64)]) -> Result<(), String> {
        let whole = self.rest;
        let tag = self.number()?;
        let wire = tag & 7;
        if wire == 4 {
            return Err(format!("proto: {name}: wiretype end group for non-group"));
        }
        // A field's number has 32 bits there.
        let number = i64::try_from(tag >> 3 & u64::from(u32::MAX)).unwrap_or_default();
        let number = if number > i64::from(i32::MAX) { number - (1 << 32) } else { number };
        if number <= 0 {
            return Err(format!("proto: {name}: illegal tag {number} (wire type {tag})"));
        }
        let known = fields.iter().find(|(known, ..)| i64::try_from(*known) == Ok(number));
        let Some((_, field, expected)) = known else {
            self.rest = whole;
            return self.skip();
        };
        if wire != *expected {
            return Err(format!("proto: wrong wireType = {wire} for field {field}"));
        }
        let value = self.number()?;
        if *expected == BYTES { self.pass(value) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(CUT)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".to_owned())
    }

    fn pass(&mut self, len: u64) -> Result<(), String> {
        let end = (self.len - self.rest.len()) as u64 + len.min(i64::MAX.cast_unsigned() + 1);
        if i64::try_from(end).is_err() {
            return Err(NEGATIVE.to_owned());
        }
        let rest = usize::try_from(len).ok().and_then(|len| self.rest.get(len..));
        self.rest = rest.ok_or(CUT)?;
        Ok(())
    }

    /// Passes over a field that nobody knows, with all that is in a group.
    fn skip(&mut self) -> Result<(), String> {
        let mut depth = 0_usize;
        loop {
            let wire = self.number()? & 7;
            match wire {
                NUMBER => {
                    self.number()?;
                }
                1 => self.pass(8)?,
                BYTES => {
                    let len = self.number()?;
                    self.pass(len)?;
                }
                3 => depth += 1,
                4 if depth == 0 => return Err("proto: unexpected end of group".to_owned()),
                4 => depth -= 1,
                5 => self.pass(4)?,
                _ => return Err(format!("proto: illegal wireType {wire}")),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// Goal: the log says of each request that is none what the Go server says of it.
    #[test]
    fn what_is_no_request_is_told_in_the_words_of_the_reference() {
        let recorded = include_str!("../../tests/data/undecodable.jsonl");
        let mut count = 0;
        for line in recorded.lines() {
            let (name, hex, expected): (String, String, String) =
                serde_json::from_str(line).unwrap();
            let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
            let services = [
                Service::Connect,
                Service::Publish,
                Service::Subscribe,
                Service::Unsubscribe,
                Service::Close,
            ];
            let service = services.into_iter().find(|service| kind_of(*service).0 == name);
            assert_eq!(reason(service.unwrap(), &bytes), Some(expected), "{name} {hex}");
            count += 1;
        }
        assert!(count > 400, "{count}");
    }
}
