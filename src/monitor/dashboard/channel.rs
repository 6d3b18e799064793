//! One channel: its limits, who reads it, and its last messages for whoever may see them.

use std::fmt::Write as _;

use axum::http::StatusCode;
use prost::Message;
use serde_json::{Value, json};

use super::now::millis;
use super::rows::{no_streaming, text};
use super::{Shown, lock};
use crate::base::id::{ChannelName, Sequence, Ticket};
use crate::base::record::{FetchRequest, MessageRecord};
use crate::base::world;
use crate::engine::snapshot::{ChannelSnapshot, Hold, SubscriptionSnapshot, Wanted};
use crate::monitor::Pages;
use crate::monitor::query::Query;
use crate::proto::pb;

/// Subscriptions of an answer.
const SUBSCRIPTIONS_MAX: usize = 200;

/// Messages of an answer.
const MESSAGES_MAX: u64 = 10;

/// What is read of a store for an answer; one message may be larger.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// What is shown of a payload.
const PAYLOAD_BYTES_MAX: usize = 2 * 1024;

impl Pages {
    /// The channel that `name` says.
    pub(super) fn channel_document(&self, query: &Query) -> Result<Value, Shown> {
        let Some(streaming) = &self.sources.streaming else { return Err(no_streaming()) };
        let found = self.found(query)?;
        let limits = streaming.facts.load().limits_of(&found.channel);
        let offset = query.lenient_page().offset;
        let last = found.state.last.get();
        let mut all: Vec<&SubscriptionSnapshot> = found.subscriptions.iter().collect();
        // Whoever is behind most comes first: that is what people look for.
        all.sort_by_key(|one| (!one.is_stalled, one.last_sent.get()));
        let shown = all.iter().skip(offset).take(SUBSCRIPTIONS_MAX);
        let shown: Vec<Value> = shown.map(|one| subscription(one, last)).collect();
        Ok(json!({
            "at": millis(world::now().wall.0),
            "name": text(found.channel.as_bytes()),
            "messages": found.state.message_count,
            "bytes": found.state.byte_count,
            "first": found.state.first.get(),
            "last": last,
            "limits": limits,
            "offset": offset,
            "limit": SUBSCRIPTIONS_MAX,
            "found": all.len(),
            "rows": shown,
        }))
    }

    /// Messages from `from` on, or the last ones.
    pub(super) fn messages_document(&self, query: &Query) -> Result<Value, Shown> {
        let Some(streaming) = &self.sources.streaming else { return Err(no_streaming()) };
        let from = query
            .uint("from")
            .map_err(|error| Shown::refused(StatusCode::BAD_REQUEST, &error.to_string()))?;
        // One look at a time: a store that is slow has enough to do.
        let _only = lock(&self.board.peek);
        self.is_active().map_err(|why| unreadable(&why))?;
        let ChannelSnapshot { channel, state, .. } = self.found(query)?;
        let (first, last) = (state.first.get(), state.last.get());
        let newest = last.saturating_sub(MESSAGES_MAX - 1);
        let from = if from == 0 { newest } else { from }.max(first).max(1);
        let request = FetchRequest {
            ticket: Ticket::default(),
            channel: channel.clone(),
            from: Sequence(from),
            count_max: usize::try_from(MESSAGES_MAX).unwrap_or(1),
            bytes_max: READ_BYTES_MAX,
        };
        let read = if last < from { Vec::new() } else { (streaming.messages)(request)? };
        // What was read by a process that was replaced meanwhile is not shown.
        self.is_active().map_err(|why| unreadable(&why))?;
        let shown: Vec<Value> = read.iter().map(message).collect();
        Ok(json!({
            "name": text(channel.as_bytes()),
            "first": first,
            "last": last,
            "from": from,
            "payload_max": PAYLOAD_BYTES_MAX,
            "rows": shown,
        }))
    }

    fn found(&self, query: &Query) -> Result<ChannelSnapshot, Shown> {
        let Some(streaming) = &self.sources.streaming else { return Err(no_streaming()) };
        let name = query.text("name");
        let wanted = Wanted::Channels([ChannelName::from(name)].into());
        let mut channels = (streaming.engine)(wanted)?.channels.into_iter();
        // The engine finds a name in any case of letters.
        let found = channels.find(|found| text(found.channel.as_bytes()) == name);
        found.ok_or_else(|| {
            let why = match self.is_active() {
                Ok(()) => "there is no channel of that name",
                Err(_) => "channels are shown by the active, and this server is not active",
            };
            Shown::refused(StatusCode::NOT_FOUND, why)
        })
    }
}

fn unreadable(why: &str) -> Shown {
    let why = format!("messages are read by the active only: {why}");
    Shown::refused(StatusCode::SERVICE_UNAVAILABLE, &why)
}

fn subscription(found: &SubscriptionSnapshot, last: u64) -> Value {
    json!({
        "client": text(found.client.as_bytes()),
        "inbox": text(found.inbox.as_bytes()),
        "durable": text(found.durable_name.as_bytes()),
        "queue": text(found.queue_name.as_bytes()),
        "is_durable": found.is_durable,
        "is_offline": found.is_offline,
        "is_stalled": found.is_stalled,
        "waits": found.hold.map(Hold::text),
        "in_flight_max": found.in_flight_max,
        "ack_wait_secs": found.ack_wait_secs,
        "last_sent": found.last_sent.get(),
        "behind": last.saturating_sub(found.last_sent.get()),
        "pending": found.pending_count,
    })
}

fn message(record: &MessageRecord) -> Value {
    let sequence = record.sequence.get();
    let at = millis(record.timestamp.0);
    let Ok(message) = pb::MsgProto::decode(record.encoded.clone()) else {
        return json!({ "sequence": sequence, "at": at, "size": null, "hex": "" });
    };
    let cut = &message.data[..message.data.len().min(PAYLOAD_BYTES_MAX)];
    json!({ "sequence": sequence, "at": at, "size": message.data.len(), "hex": hex(cut) })
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Text never fails to be written to.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::WallTime;

    #[test]
    fn a_payload_is_shown_up_to_a_bound() {
        let data = vec![0xab; PAYLOAD_BYTES_MAX + 1];
        let stored = pb::MsgProto {
            sequence: 7,
            timestamp: 5_000_000,
            data: data.into(),
            ..pb::MsgProto::default()
        };
        let shown = message(&MessageRecord::of(&stored));
        assert_eq!(shown["sequence"], 7);
        assert_eq!(shown["at"], 5);
        assert_eq!(shown["size"], PAYLOAD_BYTES_MAX + 1);
        let hex = shown["hex"].as_str().unwrap_or_default();
        assert_eq!(hex.len(), PAYLOAD_BYTES_MAX * 2);
        assert!(hex.starts_with("abab"));
    }

    #[test]
    fn what_cannot_be_decoded_is_shown_without_a_payload() {
        let record = MessageRecord {
            sequence: Sequence(1),
            timestamp: WallTime(0),
            encoded: bytes::Bytes::from_static(b"\xff\xff"),
        };
        assert_eq!(message(&record)["size"], Value::Null);
    }
}
