//! Clients that leave: a subscription, or for a while, with and without a word; and what a server
//! may not take from one that is gone.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::{BRIEF, CHANNELS, Client, State, Turn};
use crate::base::id::{ChannelName, Subject};
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::proto::pb;
use crate::testing::checker::{Checker, DurableKey, GROUP};
use crate::testing::limits::POISON;
use crate::testing::parcels::{Parcel, choose, last_token, parcel, text};

/// What a client is known by that has closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    id: Bytes,
    connection: Bytes,
    pub_prefix: Bytes,
}

const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Long enough for another member to take over, at times.
const CLOSED_FOR: Duration = Duration::from_millis(1_500);
const AWAY_MAX_MS: u64 = 4_000;
/// What a client that has closed tries to publish.
pub const GHOST: &[u8] = b"a ghost's";

impl Client {
    pub(super) fn leave_one(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let open: Vec<Subject> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.ack_inbox.is_some())
            .map(|(inbox, _)| inbox.clone())
            .collect();
        if open.is_empty() {
            return Vec::new();
        }
        let inbox = open[choose(turn.random, open.len())].clone();
        let Some(subscription) = self.forget(&inbox, turn.checker) else { return Vec::new() };
        // Durables of which something is expected only close: if the answer is lost nobody knows
        // whether one still exists.
        let is_poisoned = subscription.channel.as_bytes() == POISON.as_bytes();
        let unsubscribes =
            subscription.durable.is_none() && !is_poisoned && turn.random.below(2) == 0;
        let durable_name = Bytes::from_static(if subscription.is_brief { BRIEF } else { b"" });
        let request = pb::UnsubscribeRequest {
            client_id: self.id(),
            subject: subscription.channel.to_bytes(),
            inbox: subscription.ack_inbox.map(|inbox| inbox.to_bytes()).unwrap_or_default(),
            durable_name,
        };
        let info = turn.info;
        let subject = if unsubscribes { &info.unsub_requests } else { &info.sub_close_requests };
        let reply = self.inbox("left");
        if let Some(key) = subscription.durable {
            self.leaving.insert(last_token(&reply), (key, inbox));
        }
        vec![parcel(&text(subject), Some(reply), &request)]
    }

    pub(super) fn close(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let request = pb::CloseRequest { client_id: self.id() };
        let reply = Some(self.inbox("closed"));
        let parcels = vec![parcel(&text(&turn.info.close_requests), reply, &request)];
        let (id, connection) = (self.id(), self.connection());
        let gone = Gone { id, connection, pub_prefix: turn.info.pub_prefix.clone() };
        self.state = State::Closing { until: turn.now + CLOSE_TIMEOUT, gone };
        parcels
    }

    /// Its close is answered: nobody may publish as who it was.
    pub(super) fn on_closed(&mut self, payload: &Bytes, now: Instant) {
        let State::Closing { gone, .. } = &self.state else { return };
        let response = pb::CloseResponse::decode(payload.clone());
        if response.is_ok_and(|response| response.error.is_empty()) {
            self.gone = Some(gone.clone());
        }
        let until = now + CLOSED_FOR;
        self.state = State::Away { until };
        self.hangs_up = true;
    }

    /// It publishes as who it was before it closed, which has to be refused.
    pub(super) fn haunt(&mut self, gone: Gone) -> Parcel {
        let message = pb::PubMsg {
            client_id: gone.id,
            guid: Bytes::from_static(b"ghost"),
            subject: Bytes::from_static(CHANNELS[0].as_bytes()),
            data: Bytes::from_static(GHOST),
            conn_id: gone.connection,
            ..pb::PubMsg::default()
        };
        let subject = format!("{}.{}", text(&gone.pub_prefix), CHANNELS[0]);
        let reply = Some(self.inbox("ghost"));
        parcel(&subject, reply, &message)
    }

    pub(super) fn on_ghost(&self, payload: &Bytes, checker: &mut Checker) {
        if pb::PubAck::decode(payload.clone()).is_ok_and(|ack| ack.error.is_empty()) {
            checker.on_haunted(self.number);
        }
    }

    /// A durable that was left can be opened again.
    pub(super) fn on_left(&mut self, number: &str, payload: &Bytes, checker: &mut Checker) {
        let Some((key, inbox)) = self.leaving.remove(number) else { return };
        let response = pb::SubscriptionResponse::decode(payload.clone());
        let is_left = response.is_ok_and(|response| response.error.is_empty());
        if is_left {
            checker.on_durable_closed(&key, &inbox);
        }
    }

    /// Its number and life, while it has a session, as far as it knows.
    #[must_use]
    pub fn session(&self) -> Option<(usize, u32)> {
        matches!(self.state, State::Online(_)).then_some((self.number, self.life))
    }

    /// Somebody has told its user that an operator has ended this subscription.
    pub fn on_ended(&mut self, inbox: &Subject, checker: &mut Checker) {
        if self.subscriptions.contains_key(inbox) {
            let _ = self.forget(inbox, checker);
        }
    }

    /// The same of all in that channel.
    pub fn on_channel_ended(&mut self, channel: &ChannelName, checker: &mut Checker) {
        let of_channel = self.subscriptions.iter().filter(|(_, one)| one.channel == *channel);
        let inboxes: Vec<Subject> = of_channel.map(|(inbox, _)| inbox.clone()).collect();
        inboxes.iter().for_each(|inbox| self.on_ended(inbox, checker));
    }

    /// It begins a new life soon: the server no longer knows it, or not as it is.
    pub(super) fn start_anew(&mut self, now: Instant) {
        self.state = State::Away { until: now + Duration::from_millis(300) };
        self.hangs_up = true;
    }

    /// Opens each durable that the checker still counts on, and acknowledges everything.
    pub(super) fn act_retiring(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        for channel in CHANNELS.map(ChannelName::from) {
            for name in [self.own_durable(), self.news_durable(), GROUP.to_owned()] {
                let key = DurableKey { channel: channel.clone(), name };
                let is_open = self.subscriptions.values().any(|s| s.durable.as_ref() == Some(&key));
                if !is_open && turn.checker.counts_on(&key) {
                    return self.subscribe_durable(key, turn);
                }
            }
        }
        self.acknowledge_late(turn)
    }

    pub(super) fn go_away(&mut self, now: Instant, random: &mut Random) {
        let until = now + Duration::from_millis(1 + random.below(AWAY_MAX_MS));
        self.state = State::Away { until };
        self.hangs_up = true;
    }
}
