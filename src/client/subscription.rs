//! One streaming subscription of this client, and the messages that it gets.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use prost::Message as _;

use super::Shared;
use super::error::ClientError;
use crate::proto::pb;

/// Called with each message, on the client's reader thread.
pub(super) type MessageHandler = Box<dyn FnMut(Message) + Send>;

/// A message of a channel.
#[derive(Debug)]
pub struct Message {
    /// The channel.
    pub channel: String,
    /// Its place in the channel.
    pub sequence: u64,
    /// When the server accepted it, in Unix nanoseconds.
    pub timestamp: i64,
    /// Whether it was sent before and not acknowledged.
    pub is_redelivered: bool,
    /// How often it was sent before.
    pub redelivery_count: u32,
    /// What was published.
    pub data: Bytes,
    acker: Acker,
}

impl Message {
    /// Acknowledges the message, here or on any other thread.
    ///
    /// # Errors
    /// When the client has ended, or too much already waits for a connection; the server then
    /// redelivers.
    pub fn ack(&self) -> Result<(), ClientError> {
        self.acker.ack()
    }
}

/// What an ack of one message needs.
#[derive(Clone)]
struct Acker {
    shared: Arc<Shared>,
    ack_inbox: Bytes,
    channel: Bytes,
    sequence: u64,
}

impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acker").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Acker {
    fn ack(&self) -> Result<(), ClientError> {
        let ack = pb::Ack { subject: self.channel.clone(), sequence: self.sequence };
        self.shared.link.publish(&self.ack_inbox, b"", &ack.encode_to_vec())
    }
}

/// What the reader thread needs to hand messages over.
pub(super) struct Delivery {
    pub(super) inbox: String,
    pub(super) ack_inbox: OnceLock<Bytes>,
    pub(super) is_manual: bool,
    pub(super) handler: Mutex<MessageHandler>,
}

impl Delivery {
    /// Hands one delivered payload over; what is not a message is passed over.
    pub(super) fn deliver(&self, shared: &Arc<Shared>, payload: &Bytes) {
        let Ok(message) = pb::MsgProto::decode(payload.clone()) else { return };
        // The server answers a subscribe request before it delivers.
        let Some(ack_inbox) = self.ack_inbox.get() else { return };
        let acker = Acker {
            shared: Arc::clone(shared),
            ack_inbox: ack_inbox.clone(),
            channel: message.subject.clone(),
            sequence: message.sequence,
        };
        let auto_acker = (!self.is_manual).then(|| acker.clone());
        let message = Message {
            channel: String::from_utf8_lossy(&message.subject).into_owned(),
            sequence: message.sequence,
            timestamp: message.timestamp,
            is_redelivered: message.redelivered,
            redelivery_count: message.redelivery_count,
            data: message.data,
            acker,
        };
        (self.handler.lock().unwrap_or_else(PoisonError::into_inner))(message);
        if let Some(acker) = auto_acker {
            // An ack that cannot be sent means one more delivery, which is allowed.
            let _ = acker.ack();
        }
    }
}

/// A subscription. Dropping it changes nothing: messages go on coming until it is closed.
pub struct Subscription {
    pub(super) shared: Arc<Shared>,
    pub(super) channel: String,
    pub(super) sid: u64,
    pub(super) delivery: Arc<Delivery>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Subscription {
    /// Ends the subscription; the server remembers the position of a durable.
    ///
    /// # Errors
    /// When the server refuses or does not answer in time.
    pub fn close(self) -> Result<(), ClientError> {
        let subject = self.shared.subjects().sub_close_requests.clone();
        self.leave(&subject, "close subscription")
    }

    /// Ends the subscription; the server forgets a durable.
    ///
    /// # Errors
    /// When the server refuses or does not answer in time.
    pub fn unsubscribe(self) -> Result<(), ClientError> {
        let subject = self.shared.subjects().unsub_requests.clone();
        self.leave(&subject, "unsubscribe")
    }

    fn leave(self, subject: &Bytes, request: &'static str) -> Result<(), ClientError> {
        self.shared.forget_interest(self.sid);
        let ask = pb::UnsubscribeRequest {
            client_id: self.shared.client_id(),
            subject: Bytes::copy_from_slice(self.channel.as_bytes()),
            inbox: self.delivery.ack_inbox.get().cloned().unwrap_or_default(),
            durable_name: Bytes::new(),
        };
        let answer = self.shared.request(subject, &ask.encode_to_vec(), request)?;
        let answer = pb::SubscriptionResponse::decode(answer).unwrap_or_default();
        super::check_refusal(&answer.error)
    }
}
