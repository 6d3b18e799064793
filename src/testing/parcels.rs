//! What clients say to a NATS server and hear of it, as bytes and as messages.

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::base::id::Subject;
use crate::base::random::Random;
use crate::wire::{Op, encoder};

/// One message of the NATS protocol.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Where to.
    pub subject: Subject,
    /// Where an answer goes.
    pub reply: Option<Subject>,
    /// What.
    pub payload: Bytes,
}

/// What a client makes of an operation that it hears.
#[derive(Debug)]
pub enum Heard {
    /// It has to answer.
    Ping,
    /// For one of its inboxes.
    Message(Parcel),
    /// Nothing that it acts on.
    Other,
}

/// What `op` is to a client.
#[must_use]
pub fn heard(op: &Op<'_>) -> Heard {
    match op {
        Op::Ping => Heard::Ping,
        Op::Message { message, .. } => {
            let header_len = message.header_len.unwrap_or(0);
            // Nobody listens where it has asked.
            if 0 < header_len && message.payload.len() == header_len {
                return Heard::Other;
            }
            Heard::Message(Parcel {
                subject: Subject::from(message.subject),
                reply: message.reply.map(Subject::from),
                payload: Bytes::copy_from_slice(&message.payload[header_len..]),
            })
        }
        Op::Info(_)
        | Op::Connect(_)
        | Op::Publish(_)
        | Op::Subscribe { .. }
        | Op::Unsubscribe { .. }
        | Op::Pong
        | Op::Ok
        | Op::Err(_)
        | Op::RouteSubscribe { .. }
        | Op::RouteUnsubscribe(_)
        | Op::RouteMessage(_)
        | Op::Account(..)
        | Op::EngineInterest { .. }
        | Op::EngineState { .. }
        | Op::Kept(_)
        | Op::Done { .. }
        | Op::Told { .. } => Heard::Other,
    }
}

/// Says that a client listens to `subject`.
pub fn encode_subscribe(subject: &Subject, number: u64, out: &mut BytesMut) {
    let sid = number.to_string();
    let op = Op::Subscribe { subject: subject.as_bytes(), queue: None, sid: sid.as_bytes() };
    encoder::encode(&op, out);
}

/// A message of the streaming protocol.
#[must_use]
pub fn parcel(subject: &str, reply: Option<Subject>, message: &impl Message) -> Parcel {
    let payload = Bytes::from(message.encode_to_vec());
    Parcel { subject: Subject::from(subject), reply, payload }
}

/// One of so many.
#[must_use]
pub fn choose(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).unwrap_or(0)
}

/// A subject that a server has named.
#[must_use]
pub fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a subject ends with.
#[must_use]
pub fn last_token(subject: &Subject) -> String {
    subject.to_string().rsplit('.').next().unwrap_or_default().to_owned()
}
