//! what clients ask in a script, and what they are told
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::base::errand::Errand;
use crate::base::id::Subject;
use crate::engine::effect::Service;
use crate::engine::input::Input;
use crate::engine::request::{self, Placement};
use crate::engine::script::{Options, Pulse, Script, text};
use crate::proto::pb;

impl Script {
    /// Hands a request in without waiting for what it leads to.
    pub(in crate::engine) fn hand_in(&mut self, service: Service, payload: Bytes) -> Subject {
        self.hand_in_kept(service, payload, None)
    }

    /// The same of one that somebody keeps.
    pub(in crate::engine) fn hand_in_kept(
        &mut self,
        service: Service,
        payload: Bytes,
        errand: Option<Errand>,
    ) -> Subject {
        self.reply_count += 1;
        let reply = Subject::from(format!("reply.{}", self.reply_count));
        let request = request::decode(service, payload);
        let index = match request.placement(self.settings.loops) {
            Placement::Loop(index) => index.index(),
            // Any: it must not matter.
            Placement::Here => self.reply_count as usize % self.engines.len(),
            Placement::Dropped => return reply,
        };
        let (reply_to, origin) = (Some(reply.clone()), Arc::default());
        let input = Input::Request { request, reply: reply_to, origin, errand };
        self.mail.push_back((index, input));
        reply
    }

    /// The answer to a request; `None` if there is none yet.
    pub(in crate::engine) fn answer(&mut self, reply: &Subject) -> Option<Bytes> {
        self.answers.get_mut(reply).and_then(VecDeque::pop_front)
    }

    pub(in crate::engine) fn set_pulse(&mut self, client: &str, pulse: Pulse) {
        self.pulses.insert(Subject::from(format!("hb.{client}")), pulse);
    }

    pub(in crate::engine) fn connect_request(client: &str, inbox: &str, connection: &str) -> Bytes {
        let request = pb::ConnectRequest {
            client_id: Bytes::from(client.to_owned()),
            heartbeat_inbox: Bytes::from(inbox.to_owned()),
            protocol: 1,
            conn_id: Bytes::from(connection.to_owned()),
            ping_interval: 5,
            ping_max_out: 88,
        };
        request.encode_to_vec().into()
    }

    pub(in crate::engine) fn hand_in_connect(&mut self, client: &str, connection: &str) -> Subject {
        let inbox = format!("hb.{client}");
        self.hand_in(Service::Connect, Self::connect_request(client, &inbox, connection))
    }

    /// Connects a client that answers heartbeats; its connection ID is `c-<client>`.
    pub(in crate::engine) fn connect(&mut self, client: &str) {
        self.set_pulse(client, Pulse::Alive);
        assert_eq!(self.try_connect(client, &format!("c-{client}")), "");
    }

    /// Connects a client with this heartbeat inbox; the error.
    pub(in crate::engine) fn try_connect_at(&mut self, client: &str, inbox: &str) -> String {
        let request = Self::connect_request(client, inbox, &format!("c-{client}"));
        let reply = self.hand_in(Service::Connect, request);
        self.run();
        self.connect_error(&reply)
    }

    /// The error of a connect request; `?` if it was not answered.
    pub(in crate::engine) fn try_connect(&mut self, client: &str, connection: &str) -> String {
        let reply = self.hand_in_connect(client, connection);
        self.run();
        self.connect_error(&reply)
    }

    pub(in crate::engine) fn connect_error(&mut self, reply: &Subject) -> String {
        match self.answer(reply) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::ConnectResponse::decode(answer).unwrap().error),
        }
    }

    pub(in crate::engine) fn hand_in_close(&mut self, client: &str) -> Subject {
        let request = pb::CloseRequest { client_id: Bytes::from(client.to_owned()) };
        self.hand_in(Service::Close, request.encode_to_vec().into())
    }

    pub(in crate::engine) fn close(&mut self, client: &str) -> String {
        let reply = self.hand_in_close(client);
        self.run();
        match self.answer(&reply) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::CloseResponse::decode(answer).unwrap().error),
        }
    }

    pub(in crate::engine) fn hand_in_ping(&mut self, connection: &str) -> Subject {
        let ping = pb::Ping { conn_id: Bytes::from(connection.to_owned()) };
        self.hand_in(Service::Ping, ping.encode_to_vec().into())
    }

    /// The error of a ping with a connection ID.
    pub(in crate::engine) fn ping(&mut self, connection: &str) -> String {
        let reply = self.hand_in_ping(connection);
        self.run();
        self.ping_error(&reply)
    }

    pub(in crate::engine) fn ping_error(&mut self, reply: &Subject) -> String {
        match self.answer(reply) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::PingResponse::decode(answer).unwrap().error),
        }
    }

    pub(in crate::engine) fn hand_in_publish(
        &mut self,
        client: &str,
        channel: &str,
        data: &str,
    ) -> Subject {
        self.hand_in(Service::Publish, Self::publish_request(client, channel, data))
    }

    pub(in crate::engine) fn publish_request(client: &str, channel: &str, data: &str) -> Bytes {
        let message = pb::PubMsg {
            client_id: Bytes::from(client.to_owned()),
            guid: Bytes::from_static(b"guid"),
            subject: Bytes::from(channel.to_owned()),
            data: Bytes::from(data.to_owned()),
            conn_id: Bytes::from(format!("c-{client}")),
            ..Default::default()
        };
        message.encode_to_vec().into()
    }

    /// The error of a publish; `?` if it was not answered.
    pub(in crate::engine) fn try_publish(
        &mut self,
        client: &str,
        channel: &str,
        data: &str,
    ) -> String {
        let reply = self.hand_in_publish(client, channel, data);
        self.run();
        self.publish_error(&reply)
    }

    pub(in crate::engine) fn publish_error(&mut self, reply: &Subject) -> String {
        match self.answer(reply) {
            None => "?".to_owned(),
            Some(answer) => {
                let ack = pb::PubAck::decode(answer).unwrap();
                assert_eq!(ack.guid, "guid");
                text(&ack.error)
            }
        }
    }

    pub(in crate::engine) fn publish(&mut self, client: &str, channel: &str, count: usize) {
        for number in 0..count {
            assert_eq!(self.try_publish(client, channel, &format!("{number}")), "");
        }
    }

    pub(in crate::engine) fn subscribe_request(
        client: &str,
        channel: &str,
        inbox: &str,
        options: &Options,
    ) -> Bytes {
        let request = pb::SubscriptionRequest {
            client_id: Bytes::from(client.to_owned()),
            subject: Bytes::from(channel.to_owned()),
            q_group: Bytes::from_static(options.queue.as_bytes()),
            inbox: Bytes::from(format!("in.{inbox}")),
            max_in_flight: options.in_flight_max,
            ack_wait_in_secs: options.ack_wait,
            durable_name: Bytes::from_static(options.durable.as_bytes()),
            start_position: options.start.into(),
            start_sequence: options.sequence,
            start_time_delta: i64::try_from(options.ago.as_nanos()).unwrap(),
        };
        request.encode_to_vec().into()
    }

    /// Subscribes; deliveries are named after `inbox`. Gives the error.
    pub(in crate::engine) fn try_subscribe(
        &mut self,
        client: &str,
        channel: &str,
        inbox: &str,
        options: &Options,
    ) -> String {
        let request = Self::subscribe_request(client, channel, inbox, options);
        let sent_count = self.sent.len();
        let reply = self.hand_in(Service::Subscribe, request);
        self.run();
        let Some(answer) = self.answer(&reply) else {
            assert_eq!(sent_count, self.sent.len(), "nothing is delivered before the answer");
            return "?".to_owned();
        };
        let response = pb::SubscriptionResponse::decode(answer).unwrap();
        if response.error.is_empty() {
            assert!(self.listens.contains_key(&response.ack_inbox[..]), "acks are listened for");
            self.ack_inboxes.insert(inbox.to_owned(), response.ack_inbox);
        }
        text(&response.error)
    }

    pub(in crate::engine) fn subscribe(
        &mut self,
        client: &str,
        channel: &str,
        inbox: &str,
        o: &Options,
    ) {
        assert_eq!(self.try_subscribe(client, channel, inbox, o), "");
    }

    /// Hands a request in that leaves by the ack inbox of `inbox`, or by itself.
    pub(in crate::engine) fn hand_in_leave(
        &mut self,
        service: Service,
        client: &str,
        channel: &str,
        inbox: &str,
    ) -> Subject {
        let inbox = self
            .ack_inboxes
            .get(inbox)
            .cloned()
            .unwrap_or_else(|| Bytes::from(format!("in.{inbox}")));
        let request = pb::UnsubscribeRequest {
            client_id: Bytes::from(client.to_owned()),
            subject: Bytes::from(channel.to_owned()),
            inbox,
            durable_name: Bytes::new(),
        };
        self.hand_in(service, request.encode_to_vec().into())
    }

    /// Unsubscribes or closes by the ack inbox of `inbox`. Gives the error.
    pub(in crate::engine) fn leave(
        &mut self,
        service: Service,
        client: &str,
        channel: &str,
        inbox: &str,
    ) -> String {
        let reply = self.hand_in_leave(service, client, channel, inbox);
        self.run();
        match self.answer(&reply) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::SubscriptionResponse::decode(answer).unwrap().error),
        }
    }

    pub(in crate::engine) fn unsubscribe(&mut self, client: &str, channel: &str, inbox: &str) {
        assert_eq!(self.leave(Service::Unsubscribe, client, channel, inbox), "");
    }

    pub(in crate::engine) fn sub_close(&mut self, client: &str, channel: &str, inbox: &str) {
        assert_eq!(self.leave(Service::SubscriptionClose, client, channel, inbox), "");
    }

    /// Acknowledges messages of a channel on the ack inbox of `inbox`.
    pub(in crate::engine) fn ack(&mut self, inbox: &str, channel: &str, sequences: &[u64]) {
        let subject = Subject::from(self.ack_inboxes[inbox].clone());
        for &sequence in sequences {
            let ack = pb::Ack { subject: Bytes::from(channel.to_owned()), sequence };
            if let Some(&(index, token)) = self.listens.get(&subject) {
                let payload = Bytes::from(ack.encode_to_vec());
                let input = Input::Inbox {
                    token,
                    subject: subject.clone(),
                    payload,
                    origin: Arc::default(),
                    errand: None,
                };
                self.mail.push_back((index, input));
            }
        }
        self.run();
    }

    /// Hands an ack in without waiting for what it leads to.
    pub(in crate::engine) fn hand_in_ack(&mut self, inbox: &str, channel: &str, sequence: u64) {
        let subject = Subject::from(self.ack_inboxes[inbox].clone());
        let ack = pb::Ack { subject: Bytes::from(channel.to_owned()), sequence };
        if let Some(&(index, token)) = self.listens.get(&subject) {
            let payload = Bytes::from(ack.encode_to_vec());
            let origin = Arc::default();
            self.mail
                .push_back((index, Input::Inbox { token, subject, payload, origin, errand: None }));
        }
    }
}
