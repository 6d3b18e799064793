//! What a streaming client says to a core server and hears from it, by way of `wire`.

use bytes::{Buf, Bytes, BytesMut};

use super::error::ClientError;
use crate::wire::{self, Limits, Op, Parsed, encoder, headers, op};

/// Sent as `lang` of CONNECT.
const LANG: &str = "rust";

/// Who we are, as CONNECT says it.
#[derive(Clone, Debug, Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) token: Option<String>,
    pub(super) jwt: Option<String>,
    /// The public half of a key that the server knows.
    pub(super) nkey: Option<String>,
    pub(super) signature: Option<String>,
}

/// One thing that the server said.
#[derive(Debug)]
pub(super) enum Incoming {
    Info(Box<wire::Info>),
    Received(Received),
    Ping,
    Pong,
    /// `-ERR`, without quotes.
    Error(String),
    Other,
}

/// A message for one of our interests.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) sid: u64,
    pub(super) subject: Bytes,
    pub(super) reply: Option<Bytes>,
    /// Without headers.
    pub(super) payload: Bytes,
    /// Whether it only says that nobody listens to what we sent.
    pub(super) is_no_responders: bool,
}

/// Takes the next whole operation out of `input`; `None` if there is none yet.
pub(super) fn decode(input: &mut BytesMut) -> Result<Option<Incoming>, ClientError> {
    let parsed = wire::parse(input, &Limits::server())
        .map_err(|error| ClientError::ConnectionLost(error.to_string()))?;
    let (incoming, len) = match parsed {
        Parsed::NeedMore { .. } => return Ok(None),
        Parsed::Op { op, len } => (incoming(&op), len),
    };
    input.advance(len);
    Ok(Some(incoming))
}

fn incoming(op: &Op<'_>) -> Incoming {
    match op {
        // What is none is as good as an empty one: it asks for nothing.
        Op::Info(json) => Incoming::Info(wire::Info::decode(json).unwrap_or_default().into()),
        Op::Ping => Incoming::Ping,
        Op::Pong => Incoming::Pong,
        Op::Err(text) => {
            let text = String::from_utf8_lossy(text);
            Incoming::Error(text.trim().trim_matches('\'').to_owned())
        }
        Op::Message { message, sid } => received(message, sid),
        Op::Ok
        | Op::Connect(_)
        | Op::Publish(_)
        | Op::Subscribe { .. }
        | Op::Unsubscribe { .. }
        | Op::RouteSubscribe { .. }
        | Op::RouteUnsubscribe(_)
        | Op::RouteMessage(_)
        | Op::Account(..)
        | Op::EngineInterest { .. }
        | Op::EngineState { .. }
        | Op::Kept(_)
        | Op::Done { .. }
        | Op::Told { .. } => Incoming::Other,
    }
}

fn received(message: &op::Publish<'_>, sid: &[u8]) -> Incoming {
    // All our interests have decimal numbers: what has none is not for us.
    let Some(sid) = std::str::from_utf8(sid).ok().and_then(|sid| sid.parse().ok()) else {
        return Incoming::Other;
    };
    let header_len = message.header_len.unwrap_or(0).min(message.payload.len());
    let (block, payload) = message.payload.split_at(header_len);
    Incoming::Received(Received {
        sid,
        subject: Bytes::copy_from_slice(message.subject),
        reply: message.reply.map(Bytes::copy_from_slice),
        payload: Bytes::copy_from_slice(payload),
        is_no_responders: payload.is_empty() && headers::status(block) == Some(503),
    })
}

/// Appends CONNECT and the PING whose PONG says that the server took us.
pub(super) fn encode_connect(out: &mut BytesMut, name: &str, login: &Login) {
    let connect = wire::Connect {
        echo: Some(true),
        verbose: Some(false),
        pedantic: Some(false),
        user: login.user.clone(),
        pass: login.password.clone(),
        auth_token: login.token.clone(),
        jwt: login.jwt.clone(),
        nkey: login.nkey.clone(),
        sig: login.signature.clone(),
        headers: Some(true),
        no_responders: Some(true),
        name: Some(name.to_owned()),
        lang: Some(LANG.to_owned()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        protocol: Some(1),
        ..wire::Connect::default()
    };
    encoder::encode(&Op::Connect(&connect.encode()), out);
    encoder::encode(&Op::Ping, out);
}

/// Appends SUB.
pub(super) fn encode_listen(out: &mut BytesMut, subject: &[u8], sid: u64) {
    let sid = sid.to_string();
    encoder::encode(&Op::Subscribe { subject, queue: None, sid: sid.as_bytes() }, out);
}

/// Appends UNSUB.
pub(super) fn encode_unlisten(out: &mut BytesMut, sid: u64) {
    encoder::encode(&Op::Unsubscribe { sid: sid.to_string().as_bytes(), max: None }, out);
}

/// Appends PUB; an empty `reply` is none.
pub(super) fn encode_publish(out: &mut BytesMut, subject: &[u8], reply: &[u8], payload: &[u8]) {
    let reply = (!reply.is_empty()).then_some(reply);
    encoder::encode(&Op::Publish(op::Publish { subject, reply, header_len: None, payload }), out);
}

/// Appends PONG.
pub(super) fn encode_pong(out: &mut BytesMut) {
    encoder::encode(&Op::Pong, out);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_message_is_taken_out_only_when_it_is_whole() {
        let mut input = BytesMut::from(&b"MSG a.b 7 c 3\r\nxy"[..]);
        assert!(decode(&mut input).unwrap().is_none());
        input.extend_from_slice(b"z\r\nPING\r\n");
        let Some(Incoming::Received(received)) = decode(&mut input).unwrap() else {
            panic!("no message")
        };
        assert_eq!((received.sid, &received.subject[..]), (7, &b"a.b"[..]));
        assert_eq!(received.reply.as_deref(), Some(&b"c"[..]));
        assert_eq!(&received.payload[..], b"xyz");
        assert!(!received.is_no_responders);
        assert!(matches!(decode(&mut input).unwrap(), Some(Incoming::Ping)));
        assert!(input.is_empty());
    }

    #[test]
    fn nobody_listening_is_told_from_an_empty_answer() {
        let mut input =
            BytesMut::from(&b"HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\nMSG a 1 0\r\n\r\n"[..]);
        for expected in [true, false] {
            let Some(Incoming::Received(received)) = decode(&mut input).unwrap() else {
                panic!("no message")
            };
            assert_eq!(received.is_no_responders, expected);
            assert!(received.payload.is_empty());
        }
    }

    #[test]
    fn a_refusal_is_given_without_quotes() {
        let mut input = BytesMut::from(&b"-ERR 'Authorization Violation'\r\n"[..]);
        let Some(Incoming::Error(text)) = decode(&mut input).unwrap() else { panic!("no error") };
        assert_eq!(text, "Authorization Violation");
    }
}
