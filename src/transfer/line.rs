//! One line of an exported store: a JSON object with a checksum, to values and back.

use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::base::base64;
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{ChannelState, MessageRecord, RecoveredChannel, RecoveredSubscription};
use crate::base::time::WallTime;
use crate::proto::{pb, spb};

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// A text, or bytes that are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// UTF-8.
    Plain(String),
    /// Anything else.
    Encoded {
        /// The bytes.
        base64: String,
    },
}

impl Default for Text {
    fn default() -> Self {
        Self::Plain(String::new())
    }
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => Self::Encoded { base64: base64::encode(bytes) },
        }
    }

    fn bytes(&self) -> Result<Bytes, String> {
        match self {
            Self::Plain(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            Self::Encoded { base64 } => decoded(base64),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Plain(text) if text.is_empty())
    }
}

fn decoded(text: &str) -> Result<Bytes, String> {
    base64::decode(text).map(Bytes::from).ok_or_else(|| "it has base64 that is none".to_owned())
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// The first one.
    Head(Head),
    /// A client that is registered.
    Client(Client),
    /// A channel; its messages and subscriptions follow.
    Channel(Channel),
    /// A message of the channel before.
    Message(Message),
    /// A subscription of the channel before, behind its messages.
    Subscription(Subscription),
    /// The last one.
    End {
        /// How many lines are before it.
        lines: u64,
    },
}

/// Whose store it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the server's record")]
pub struct Head {
    /// Of these lines.
    pub format: u32,
    /// Of stanby, that has written them.
    pub release: String,
    pub cluster_id: Text,
    pub discovery: Text,
    pub publish: Text,
    pub subscribe: Text,
    pub unsubscribe: Text,
    pub close: Text,
    pub sub_close: Text,
    pub acks_subs: Text,
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub node_id: Text,
    /// How many clients follow.
    pub clients: usize,
    /// How many channels follow.
    pub channels: usize,
}

/// The part of a head that each format has.
#[derive(Debug, Deserialize)]
pub struct Preface {
    /// Must be `head`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the lines.
    pub format: u32,
    /// That has written them.
    pub release: String,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the client's record")]
pub struct Client {
    pub id: Text,
    pub heartbeat_inbox: Text,
    pub connection_id: Text,
    pub protocol: i32,
    pub ping_interval: i32,
    pub ping_max_out: i32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_leaving: bool,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Its name.
    pub name: Text,
    /// Sequence of its oldest message.
    pub first: u64,
    /// Highest sequence that it ever had.
    pub last: u64,
    /// How many messages follow.
    pub messages: u64,
    /// Time of its last message, nanoseconds since 1970.
    pub last_timestamp: i64,
    /// How many subscriptions follow behind them.
    pub subscriptions: usize,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Its number.
    pub sequence: u64,
    /// Nanoseconds since 1970.
    pub timestamp: i64,
    /// Where its publisher asked for an answer.
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub reply: Text,
    /// The payload, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Of a message with more than that: as it is stored, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded: Option<String>,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are those of the subscription's record")]
pub struct Subscription {
    pub id: u64,
    pub client_id: Text,
    pub inbox: Text,
    pub ack_inbox: Text,
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub queue_group: Text,
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub durable_name: Text,
    pub max_in_flight: i32,
    pub ack_wait_seconds: i32,
    pub last_sent: u64,
    pub is_durable: bool,
    pub is_closed: bool,
    /// Sequences that were delivered and not acknowledged.
    pub pending: Vec<u64>,
}

impl Head {
    /// Of a server's record, and what follows.
    #[must_use]
    pub fn of(server: &spb::ServerInfo, clients: usize, channels: usize) -> Self {
        Self {
            format: FORMAT,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: Text::of(&server.cluster_id),
            discovery: Text::of(&server.discovery),
            publish: Text::of(&server.publish),
            subscribe: Text::of(&server.subscribe),
            unsubscribe: Text::of(&server.unsubscribe),
            close: Text::of(&server.close),
            sub_close: Text::of(&server.sub_close),
            acks_subs: Text::of(&server.acks_subs),
            node_id: Text::of(&server.node_id),
            clients,
            channels,
        }
    }

    /// # Errors
    /// What is wrong with it.
    pub fn server(&self) -> Result<spb::ServerInfo, String> {
        Ok(spb::ServerInfo {
            cluster_id: self.cluster_id.bytes()?,
            discovery: self.discovery.bytes()?,
            publish: self.publish.bytes()?,
            subscribe: self.subscribe.bytes()?,
            unsubscribe: self.unsubscribe.bytes()?,
            close: self.close.bytes()?,
            sub_close: self.sub_close.bytes()?,
            acks_subs: self.acks_subs.bytes()?,
            node_id: self.node_id.bytes()?,
        })
    }
}

impl Client {
    /// Of a client's record.
    #[must_use]
    pub fn of(client: &spb::ClientInfo) -> Self {
        Self {
            id: Text::of(&client.id),
            heartbeat_inbox: Text::of(&client.hb_inbox),
            connection_id: Text::of(&client.conn_id),
            protocol: client.protocol,
            ping_interval: client.ping_interval,
            ping_max_out: client.ping_max_out,
            is_leaving: client.is_leaving,
        }
    }

    /// # Errors
    /// What is wrong with it.
    pub fn client(&self) -> Result<spb::ClientInfo, String> {
        Ok(spb::ClientInfo {
            id: self.id.bytes()?,
            hb_inbox: self.heartbeat_inbox.bytes()?,
            conn_id: self.connection_id.bytes()?,
            protocol: self.protocol,
            ping_interval: self.ping_interval,
            ping_max_out: self.ping_max_out,
            is_leaving: self.is_leaving,
        })
    }
}

impl Channel {
    /// Of what a store has.
    #[must_use]
    pub fn of(channel: &RecoveredChannel) -> Self {
        Self {
            name: Text::of(channel.channel.as_bytes()),
            first: channel.state.first.get(),
            last: channel.state.last.get(),
            messages: channel.state.message_count,
            last_timestamp: channel.last_timestamp.0,
            subscriptions: channel.subscriptions.len(),
        }
    }

    /// Without its subscriptions, whose lines come later.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn channel(&self) -> Result<RecoveredChannel, String> {
        if NUMBER_MAX < self.last {
            return Err(format!("no channel gets as far as message {}", self.last));
        }
        let (first, last) = (Sequence(self.first), Sequence(self.last));
        let state = ChannelState { first, last, message_count: self.messages, byte_count: 0 };
        let is_dense = match self.messages {
            0 => self.last == 0 || self.first == self.last.saturating_add(1),
            count => self.first != 0 && self.first.checked_add(count - 1) == Some(self.last),
        };
        if !is_dense {
            let Self { first, last, messages, .. } = self;
            return Err(format!("{messages} message(s) are not those from {first} to {last}"));
        }
        Ok(RecoveredChannel {
            channel: ChannelName::from(&self.name.bytes()?[..]),
            state,
            last_timestamp: WallTime(self.last_timestamp),
            ..RecoveredChannel::default()
        })
    }
}

impl Message {
    /// Of a message of `channel`.
    #[must_use]
    pub fn of(channel: &ChannelName, record: &MessageRecord) -> Self {
        let (sequence, timestamp) = (record.sequence.get(), record.timestamp.0);
        let plain = pb::MsgProto::decode(record.encoded.clone()).ok().map(|found| {
            let (reply, data) = (Text::of(&found.reply), Some(base64::encode(&found.data)));
            Self { sequence, timestamp, reply, data, encoded: None }
        });
        let is_all = |plain: &Self| plain.record(channel).is_ok_and(|again| again == *record);
        plain.filter(is_all).unwrap_or_else(|| {
            let encoded = Some(base64::encode(&record.encoded));
            Self { sequence, timestamp, encoded, ..Self::default() }
        })
    }

    /// # Errors
    /// What is wrong with it.
    pub fn record(&self, channel: &ChannelName) -> Result<MessageRecord, String> {
        let (sequence, timestamp) = (Sequence(self.sequence), WallTime(self.timestamp));
        match (&self.data, &self.encoded) {
            (Some(data), None) => Ok(MessageRecord::of(&pb::MsgProto {
                sequence: self.sequence,
                subject: channel.to_bytes(),
                reply: self.reply.bytes()?,
                data: decoded(data)?,
                timestamp: self.timestamp,
                ..pb::MsgProto::default()
            })),
            (None, Some(encoded)) => {
                let encoded = decoded(encoded)?;
                // What clients are shown must be what it is kept under.
                let is_other = pb::MsgProto::decode(encoded.clone()).is_ok_and(|found| {
                    let named = (found.sequence, found.timestamp, &found.subject[..]);
                    named != (self.sequence, self.timestamp, channel.as_bytes())
                });
                if is_other {
                    return Err("what is encoded is another message".to_owned());
                }
                Ok(MessageRecord { sequence, timestamp, encoded })
            }
            _ => Err("a message has either data or encoded".to_owned()),
        }
    }
}

impl Subscription {
    /// Of a subscription's record, and what is pending.
    #[must_use]
    pub fn of(subscription: &RecoveredSubscription) -> Self {
        let state = &subscription.state;
        Self {
            id: state.id,
            client_id: Text::of(&state.client_id),
            inbox: Text::of(&state.inbox),
            ack_inbox: Text::of(&state.ack_inbox),
            queue_group: Text::of(&state.q_group),
            durable_name: Text::of(&state.durable_name),
            max_in_flight: state.max_in_flight,
            ack_wait_seconds: state.ack_wait_in_secs,
            last_sent: state.last_sent,
            is_durable: state.is_durable,
            is_closed: state.is_closed,
            pending: subscription.pending.iter().map(|sequence| sequence.get()).collect(),
        }
    }

    /// Of a channel that holds `channel`: what lies beyond it counts as not sent, as at a start.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn subscription(&self, channel: &ChannelState) -> Result<RecoveredSubscription, String> {
        let Self { id, last_sent, .. } = self;
        if NUMBER_MAX < *id {
            return Err(format!("no subscription has the number {id}"));
        }
        if let Some(wrong) = self.pending.iter().find(|one| **one == 0 || *last_sent < **one) {
            return Err(format!("message {wrong} is pending, and {last_sent} was sent last"));
        }
        if self.max_in_flight < 0 || self.ack_wait_seconds < 0 {
            return Err("its bounds are negative".to_owned());
        }
        let state = spb::SubState {
            id: self.id,
            client_id: self.client_id.bytes()?,
            q_group: self.queue_group.bytes()?,
            inbox: self.inbox.bytes()?,
            ack_inbox: self.ack_inbox.bytes()?,
            max_in_flight: self.max_in_flight,
            ack_wait_in_secs: self.ack_wait_seconds,
            durable_name: self.durable_name.bytes()?,
            last_sent: self.last_sent.min(channel.last.get()),
            is_durable: self.is_durable,
            is_closed: self.is_closed,
        };
        let pending = self.pending.iter().copied().map(Sequence);
        let pending = pending.filter(|sequence| *sequence <= channel.last).collect();
        Ok(RecoveredSubscription { state, pending })
    }
}

/// Numbers of messages and subscriptions, which are counted one by one, are far below.
const NUMBER_MAX: u64 = 1 << 62;

/// How a line ends that has a checksum: eight digits stand between these.
const CRC_BEGIN: &[u8] = b",\"crc\":\"";
const CRC_END: &[u8] = b"\"}";
const CRC_LEN: usize = CRC_BEGIN.len() + 8 + CRC_END.len();

/// Appends a line with its checksum, and the end of the line.
pub fn encode(out: &mut Vec<u8>, line: &Line) {
    let begin = out.len();
    serde_json::to_writer(&mut *out, line).expect("texts and numbers are always JSON");
    // The checksum is one more field.
    out.pop();
    let crc = crc32fast::hash(&out[begin..]);
    out.extend_from_slice(CRC_BEGIN);
    out.extend_from_slice(format!("{crc:08x}").as_bytes());
    out.extend_from_slice(CRC_END);
    out.push(b'\n');
}

/// What a line says, without the end of the line. One that somebody has changed may have no
/// checksum any more.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with the line's number.
pub fn decode(line: &[u8]) -> Result<Line, String> {
    let whole = unsealed(line)?;
    serde_json::from_slice(&whole).map_err(|error| format!("it is not a line of a store: {error}"))
}

/// The head of any format.
///
/// # Errors
/// As [`decode`].
pub fn decode_preface(line: &[u8]) -> Result<Preface, String> {
    let not_one = |_| "this is no exported store: the first line is not its head".to_owned();
    let preface: Preface = serde_json::from_slice(line).map_err(not_one)?;
    if preface.kind != "head" {
        return Err("this is no exported store: the first line is not its head".to_owned());
    }
    Ok(preface)
}

/// The line without its checksum, which is compared.
fn unsealed(line: &[u8]) -> Result<Vec<u8>, String> {
    let Some(begin) = line.len().checked_sub(CRC_LEN) else { return Ok(line.to_vec()) };
    let (body, seal) = line.split_at(begin);
    let digits = seal.strip_prefix(CRC_BEGIN).and_then(|rest| rest.strip_suffix(CRC_END));
    let Some(digits) = digits else { return Ok(line.to_vec()) };
    let computed = format!("{:08x}", crc32fast::hash(body));
    if computed.as_bytes() != digits {
        return Err("its checksum is of another line: it was damaged, or changed (then take out \
                    its \"crc\")"
            .to_owned());
    }
    let mut whole = body.to_vec();
    whole.push(b'}');
    Ok(whole)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    fn line(bytes: &[u8]) -> Line {
        let record = MessageRecord::of(&pb::MsgProto {
            sequence: 7,
            subject: "orders".into(),
            data: Bytes::copy_from_slice(bytes),
            timestamp: 8,
            ..pb::MsgProto::default()
        });
        Line::Message(Message::of(&"orders".into(), &record))
    }

    #[test]
    fn a_message_that_has_more_than_its_parts_is_kept_as_it_lies() {
        let channel = ChannelName::from("orders");
        let odd = MessageRecord {
            sequence: Sequence(7),
            timestamp: WallTime(8),
            encoded: Bytes::from_static(b"\xff no message"),
        };
        let kept = Message::of(&channel, &odd);
        assert!(kept.data.is_none());
        assert_eq!(kept.record(&channel).unwrap(), odd);
    }

    #[test]
    fn a_channel_is_dense() {
        let at = |first, last, messages| {
            let name = Text::of(b"orders");
            Channel { name, first, last, messages, last_timestamp: 0, subscriptions: 0 }.channel()
        };
        assert!(at(0, 0, 0).is_ok() && at(8, 7, 0).is_ok() && at(21, 30, 10).is_ok());
        for (first, last, messages) in [(1, 30, 29), (0, 1, 2), (u64::MAX, 1, 3), (9, 7, 0)] {
            assert!(at(first, last, messages).is_err(), "{first} {last} {messages}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            let line = line(&bytes);
            encode(&mut out, &line);
            prop_assert_eq!(out.pop(), Some(b'\n'));
            prop_assert!(!out.contains(&b'\n'));
            prop_assert_eq!(decode(&out).unwrap(), line);
        }

        #[test]
        fn a_bit_that_flips_is_noticed(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut out = Vec::new();
            encode(&mut out, &line(b"some bytes"));
            out.pop();
            let at = at.index(out.len());
            out[at] ^= 1 << bit;
            prop_assert!(decode(&out).is_err(), "{}", String::from_utf8_lossy(&out));
        }

        #[test]
        fn no_bytes_are_more_than_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode(&bytes);
            let _ = decode_preface(&bytes);
        }
    }
}
