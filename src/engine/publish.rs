//! stage a message; hold its ack until it is durable

use crate::base::id::{ChannelName, ClientId, Subject};
use crate::base::record::MessageRecord;
use crate::base::subject;
use crate::base::time::Now;
use crate::engine::Engine;
use crate::engine::channel::Found;
use crate::engine::commit::StagedPublish;
use crate::engine::effect::{Effect, Level};
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::request::Request;
use crate::engine::start::creation_failed;
use crate::proto::pb;

impl Engine {
    /// A publish came in (spec protocol, 8.1).
    pub(super) fn on_publish(
        &mut self,
        message: pb::PubMsg,
        payload_size: usize,
        reply: Option<Subject>,
        now: Now,
    ) {
        self.traffic.in_messages += 1;
        self.traffic.in_bytes += payload_size as u64;
        let open = self.channels.find_open(&message.subject);
        let is_valid = !message.guid.is_empty()
            && (open.is_some() || subject::is_channel_name(&message.subject))
            && self.clients.is_valid(&message.client_id, &message.conn_id);
        if let (true, Some(index)) = (is_valid, open) {
            self.stage_publish(index, message, payload_size, reply, now);
        } else if is_valid {
            self.publish_valid(message, payload_size, reply, true, now);
        } else {
            self.log(Level::Error, || {
                format!(
                    "Received invalid client publish message clientID:{} guid:{} subject:{}",
                    quoted(&message.client_id),
                    quoted(&message.guid),
                    quoted(&message.subject),
                )
            });
            self.refuse_publish(&message.guid, reply, &Refusal::InvalidPublish);
            self.credit_bytes += payload_size;
        }
    }

    /// Stages a publish whose client was known when it came. `is_granted` is false where the
    /// keeper said no to its channel.
    pub(super) fn publish_valid(
        &mut self,
        message: pb::PubMsg,
        payload_size: usize,
        reply: Option<Subject>,
        is_granted: bool,
        now: Now,
    ) {
        if let Some(index) = self.channels.find_deleting(&message.subject) {
            // Compat: the reference takes publishes one after the other with deletions, so they
            // never meet one; pinned by limits::a_publish_during_a_deletion_makes_the_channel_anew.
            return self.park(index, Request::Publish { message, payload_size }, reply);
        }
        let name = ChannelName::from(message.subject.clone());
        let found = if is_granted {
            self.find_or_create(&name, now)
        } else {
            Err(Refusal::TooManyChannels)
        };
        let index = match found {
            Ok(Found::Channel(index)) => index,
            Ok(Found::Wait) => {
                let request = Request::Publish { message, payload_size };
                self.wait_for_channel(&name, request, reply);
                return;
            }
            Err(refusal) => {
                self.log_publish_error(&message.client_id, &name, &refusal);
                self.refuse_publish(&message.guid, reply, &refusal);
                self.credit_bytes += payload_size;
                return;
            }
        };
        self.stage_publish(index, message, payload_size, reply, now);
    }

    /// Gives a message its place and stages it.
    fn stage_publish(
        &mut self,
        index: usize,
        message: pb::PubMsg,
        payload_size: usize,
        reply: Option<Subject>,
        now: Now,
    ) {
        self.trace_publish(
            "Received message from publisher",
            &message.client_id,
            index,
            &message.guid,
        );
        let channel = &mut self.channels.slab[index];
        channel.last = channel.last.next();
        channel.last_timestamp = channel.last_timestamp.max(now.wall);
        channel.last_activity = now.at;
        let encoded = self.encoder.message(&message, channel.last, channel.last_timestamp);
        let record =
            MessageRecord { sequence: channel.last, timestamp: channel.last_timestamp, encoded };
        let publish = StagedPublish {
            channel: index,
            client: ClientId::from(message.client_id),
            guid: message.guid,
            reply,
            payload_size,
        };
        self.commits.message(channel, record, publish);
    }

    /// The message of `publish` is durable.
    pub(super) fn ack_publish(&mut self, publish: StagedPublish) {
        self.credit_bytes += publish.payload_size;
        let client = publish.client.as_bytes();
        self.trace_publish("Acking Publisher", client, publish.channel, &publish.guid);
        if let Some(subject) = publish.reply {
            let payload = self.encoder.pub_ack(&publish.guid, b"").into();
            self.effects.push_back(Effect::Send { subject, reply: None, payload });
        }
    }

    /// The store did not take the message of `publish`.
    pub(super) fn refuse_staged(&mut self, publish: &StagedPublish, refusal: &Refusal) {
        self.credit_bytes += publish.payload_size;
        if let Some(channel) = self.channels.slab.get(publish.channel) {
            let name = channel.name.clone();
            self.log_publish_error(publish.client.as_bytes(), &name, refusal);
        }
        self.refuse_publish(&publish.guid, publish.reply.clone(), refusal);
    }

    /// Answers a publish with an error.
    pub(super) fn refuse_publish(
        &mut self,
        guid: &[u8],
        reply: Option<Subject>,
        refusal: &Refusal,
    ) {
        if let Some(subject) = reply {
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

    fn trace_publish(&mut self, what: &str, client: &[u8], index: usize, guid: &[u8]) {
        if self.settings.trace {
            let (client, guid) = (String::from_utf8_lossy(client), String::from_utf8_lossy(guid));
            let name = self.channels.slab[index].name.clone();
            let line = format!("[Client:{client}] {what} subj={name} guid={guid}");
            self.log(Level::Trace, || line);
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
