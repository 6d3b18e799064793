//! stage a message; hold its ack until it is durable

use crate::base::id::{ChannelName, Sequence};
use crate::base::planted::{self, Bug};
use crate::base::record::MessageRecord;
use crate::base::subject;
use crate::base::time::{Now, WallTime};
use crate::engine::Engine;
use crate::engine::channel::Found;
use crate::engine::commit::StagedPublish;
use crate::engine::effect::{Effect, Level};
use crate::engine::publication::Publication;
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::reply::Reply;
use crate::engine::request::Request;
use crate::engine::start::creation_failed;

impl Engine {
    /// A publish came in (spec protocol, 8.1).
    pub(super) fn on_publish(&mut self, publication: Publication, reply: Reply, now: Now) {
        if reply.is_done() {
            return self.ack_stored(&publication, reply);
        }
        self.traffic.in_messages += 1;
        self.traffic.in_bytes += publication.size() as u64;
        // One that another server has may be in the store all the same.
        let is_ours = self.has_in_partition(publication.subject());
        let open = self.channels.find_open(publication.subject()).filter(|_| is_ours);
        let is_valid = !publication.guid().is_empty()
            && (open.is_some() || is_ours && subject::is_channel_name(publication.subject()))
            && self.clients.is_valid(publication.client_id(), publication.connection_id());
        if let (true, Some(index)) = (is_valid, open) {
            self.stage_publish(index, publication, reply, now);
        } else if is_valid {
            self.publish_valid(publication, reply, true, now);
        } else {
            // Compat: the reference looks at the client last; pinned by
            // `tests::a_publish_of_a_stranger_is_traced_before_it_is_refused`.
            if self.settings.trace
                && !publication.guid().is_empty()
                && subject::is_channel_name(publication.subject())
            {
                let channel = ChannelName::from(publication.subject());
                self.trace_of(RECEIVED, &channel, &publication);
            }
            if let Err((publication, reply)) = self.await_publisher(publication, reply, now) {
                self.refuse_stranger(&publication, &reply);
            }
        }
    }

    /// Answers a publish that is none, or whose client is not registered.
    pub(super) fn refuse_stranger(&mut self, publication: &Publication, reply: &Reply) {
        self.log(Level::Error, || {
            format!("Received invalid client publish message {}", in_full(publication))
        });
        self.refuse_publish(publication.guid(), reply, &Refusal::InvalidPublish);
        self.credit_bytes += publication.size();
    }

    /// Stages a publish whose client was known when it came. `is_granted` is false where the
    /// keeper said no to its channel.
    pub(super) fn publish_valid(
        &mut self,
        publication: Publication,
        reply: Reply,
        is_granted: bool,
        now: Now,
    ) {
        if let Some(index) = self.channels.find_deleting(publication.subject()) {
            // Compat: the reference takes publishes one after the other with deletions, so they
            // never meet one; pinned by limits::a_publish_during_a_deletion_makes_the_channel_anew.
            return self.park(index, Request::Publish(publication), reply);
        }
        let name = ChannelName::from(publication.subject());
        let found = if is_granted {
            self.find_or_create(&name, now)
        } else {
            Err(Refusal::TooManyChannels)
        };
        let index = match found {
            Ok(Found::Channel(index)) => index,
            Ok(Found::Wait) => {
                self.wait_for_channel(&name, Request::Publish(publication), reply);
                return;
            }
            Err(refusal) => {
                if reply.dead_letter.is_none() {
                    self.log_publish_error(publication.client_id(), &name, &refusal);
                }
                self.refuse_publish(publication.guid(), &reply, &refusal);
                self.give_credit(&publication, &reply);
                return;
            }
        };
        self.stage_publish(index, publication, reply, now);
    }

    /// Stages the message of a publish, unless its channel has it already.
    fn stage_publish(&mut self, index: usize, publication: Publication, reply: Reply, now: Now) {
        self.trace_publish(RECEIVED, index, &publication);
        if self.channels.slab[index].window.is_some() {
            return self.judge_publish(index, publication, reply, now);
        }
        self.stage_message(index, publication, reply, now);
    }

    /// Gives a message its place and its time, and stages it.
    pub(super) fn stage_message(
        &mut self,
        index: usize,
        publication: Publication,
        reply: Reply,
        now: Now,
    ) -> (Sequence, WallTime) {
        let channel = &mut self.channels.slab[index];
        channel.last = channel.last.next();
        channel.last_timestamp = channel.next_timestamp(now);
        if planted::is(Bug::TimeGoesBack) {
            channel.last_timestamp = now.wall;
        }
        channel.last_activity = now.at;
        let (sequence, timestamp) = (channel.last, channel.last_timestamp);
        let encoded = self.encoder.message(&publication, sequence, timestamp);
        let record = MessageRecord { sequence, timestamp, encoded };
        if planted::is(Bug::DeliveredEarly) {
            channel.state.last = channel.last;
            channel.recent.push_back(record.clone());
        }
        if planted::is(Bug::AckBeforeCommit)
            && let Some(subject) = reply.to.clone()
        {
            let payload = self.encoder.pub_ack(publication.guid(), b"").into();
            self.effects.push_back(Effect::Send { subject, reply: None, payload });
        }
        self.commits.message(channel, record, StagedPublish { channel: index, publication, reply });
        (sequence, timestamp)
    }

    /// The message of `publish` is durable.
    pub(super) fn ack_publish(&mut self, publish: StagedPublish) {
        let StagedPublish { channel, publication, reply } = publish;
        self.trace_publish("Acking Publisher", channel, &publication);
        self.ack_stored(&publication, reply);
    }

    /// Tells a publisher that its message is in the store.
    fn ack_stored(&mut self, publication: &Publication, mut reply: Reply) {
        if let Some(sender) = reply.dead_letter.take() {
            return self.answer_dead_letter(&sender, None);
        }
        self.credit_bytes += publication.size();
        reply.on_stored();
        if let Some(subject) = &reply.to {
            let subject = subject.clone();
            let payload = self.encoder.pub_ack(publication.guid(), b"").into();
            self.effects.push_back(Effect::Send { subject, reply: None, payload });
        }
    }

    /// The store did not take the message of `publish`.
    pub(super) fn refuse_staged(&mut self, publish: &StagedPublish, refusal: &Refusal) {
        self.give_credit(&publish.publication, &publish.reply);
        // Who waits for a dead letter says so itself, and not each time.
        let channel = self.channels.slab.get(publish.channel);
        if let Some(channel) = channel.filter(|_| publish.reply.dead_letter.is_none()) {
            let name = channel.name.clone();
            self.log_publish_error(publish.publication.client_id(), &name, refusal);
        }
        if planted::is(Bug::RefusedIsAcked)
            && let Some(subject) = publish.reply.to.clone()
        {
            let payload = self.encoder.pub_ack(publish.publication.guid(), b"").into();
            self.effects.push_back(Effect::Send { subject, reply: None, payload });
            return;
        }
        self.refuse_publish(publish.publication.guid(), &publish.reply, refusal);
    }

    /// Answers a publish with an error.
    pub(super) fn refuse_publish(&mut self, guid: &[u8], reply: &Reply, refusal: &Refusal) {
        if let Some(sender) = &reply.dead_letter {
            return self.answer_dead_letter(sender, Some(refusal.text()));
        }
        if let Some(subject) = reply.to.clone() {
            let payload = self.encoder.pub_ack(guid, refusal.text().as_bytes()).into();
            self.effects.push_back(Effect::Send { subject, reply: None, payload });
        }
    }

    fn log_publish_error(&mut self, client: &[u8], channel: &ChannelName, refusal: &Refusal) {
        if *refusal == Refusal::TooManyChannels {
            self.log(Level::Error, || creation_failed(channel.as_bytes()));
        }
        let subject = [&self.info.publish[..], b".", channel.as_bytes()].concat();
        self.log(Level::Error, || {
            format!(
                "[Client:{}] Error processing message for subject {}: {}",
                String::from_utf8_lossy(client),
                quoted(&subject),
                refusal.text(),
            )
        });
    }

    fn trace_publish(&mut self, what: &str, index: usize, publication: &Publication) {
        if self.settings.trace {
            let name = self.channels.slab[index].name.clone();
            self.trace_of(what, &name, publication);
        }
    }

    fn trace_of(&mut self, what: &str, channel: &ChannelName, publication: &Publication) {
        let client = String::from_utf8_lossy(publication.client_id());
        let guid = String::from_utf8_lossy(publication.guid());
        let line = format!("[Client:{client}] {what} subj={channel} guid={guid}");
        self.log(Level::Trace, || line);
    }

    /// A publish was refused: what it took of the room for publishes is free again.
    fn give_credit(&mut self, publication: &Publication, reply: &Reply) {
        if reply.dead_letter.is_none() {
            self.credit_bytes += publication.size();
        }
    }

    /// Gives back the credit of publishes that were answered.
    pub(super) fn emit_credit(&mut self) {
        let bytes = std::mem::take(&mut self.credit_bytes);
        if bytes > 0 {
            self.effects.push_back(Effect::Credit { bytes });
        }
    }
}

const RECEIVED: &str = "Received message from publisher";

/// Bytes of a field that a line of the log shows.
const SHOWN_BYTES_MAX: usize = 256;

/// A publish as the reference's lines show one: the fields that are not empty. A field that is long
/// is cut, because anybody can send it.
fn in_full(publication: &Publication) -> String {
    let fields = [
        ("clientID", publication.client_id()),
        ("guid", publication.guid()),
        ("subject", publication.subject()),
        ("reply", publication.reply()),
        ("data", publication.data()),
        ("connID", publication.connection_id()),
    ];
    let mut text = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let shown = &value[..value.len().min(SHOWN_BYTES_MAX)];
        let cut = if shown.len() < value.len() { "..." } else { "" };
        text.push_str(&format!("{name}:\"{}{cut}\" ", escaped(shown)));
    }
    text
}

/// As the text form of protobuf shows bytes.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\{other:03o}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::proto::pb;

    #[test]
    fn a_publish_is_shown_as_by_the_reference() {
        let shown = |message: &pb::PubMsg| {
            in_full(&Publication::decode(Bytes::from(message.encode_to_vec())).unwrap())
        };
        let message = pb::PubMsg {
            client_id: "me".into(),
            guid: "g".into(),
            subject: "foo".into(),
            data: b"a\"b\\\n\x01\xff".to_vec().into(),
            conn_id: "c1".into(),
            ..pb::PubMsg::default()
        };
        assert_eq!(
            shown(&message),
            "clientID:\"me\" guid:\"g\" subject:\"foo\" data:\"a\\\"b\\\\\\n\\001\\377\" connID:\"c1\" "
        );
        let long = pb::PubMsg { data: vec![b'x'; 1_000].into(), ..message };
        assert!(shown(&long).contains(&format!("data:\"{}...\"", "x".repeat(256))));
    }
}
