//! Random but legal clients.
//!
//! A client connects, publishes, subscribes (plain, durable, in durable queue groups), acknowledges
//! or forgets to, closes, and sometimes dies without a word. It answers heartbeats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::base::id::{ChannelName, Sequence, Subject};
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::proto::pb;
use crate::testing::bus::Parcel;
use crate::testing::checker::{Checker, DurableKey};

/// One client program.
#[derive(Debug)]
pub struct Client {
    number: usize,
    /// Counts its lives: inboxes of a former life belong to nobody.
    life: u32,
    state: State,
    subscriptions: BTreeMap<Subject, Subscription>,
    publishes: BTreeMap<Bytes, (ChannelName, Bytes)>,
    publish_count: u64,
    inbox_count: u64,
    is_retiring: bool,
}

#[derive(Debug, PartialEq)]
enum State {
    Away { until: Instant },
    Connecting { until: Instant },
    Online(Box<pb::ConnectResponse>),
}

#[derive(Debug)]
struct Subscription {
    channel: ChannelName,
    durable: Option<DurableKey>,
    ack_inbox: Option<Subject>,
    asked_until: Instant,
    unacked: BTreeSet<Sequence>,
}

/// What a client has at hand when it acts.
struct Turn<'a> {
    info: &'a pb::ConnectResponse,
    now: Instant,
    random: &'a mut Random,
    checker: &'a mut Checker,
}

const CHANNELS: [&str; 3] = ["orders", "events.eu", "Jobs"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const AWAY_MAX_MS: u64 = 4_000;
const UNACKED_PUBLISHES_MAX: usize = 64;
const SUBSCRIPTIONS_MAX: usize = 4;

impl Client {
    /// The client program of that number, which connects first at `now`.
    #[must_use]
    pub fn new(number: usize, now: Instant) -> Self {
        Self {
            number,
            life: 0,
            state: State::Away { until: now },
            subscriptions: BTreeMap::new(),
            publishes: BTreeMap::new(),
            publish_count: 0,
            inbox_count: 0,
            is_retiring: false,
        }
    }

    /// Whether `subject` is one that this client listens on.
    #[must_use]
    pub fn listens(&self, subject: &Subject) -> bool {
        let is_alive = !matches!(self.state, State::Away { .. });
        is_alive && subject.as_bytes().starts_with(self.prefix().as_bytes())
    }

    /// From now on it publishes nothing, forgets nothing, and does not leave.
    pub fn retire(&mut self) {
        self.is_retiring = true;
    }

    fn prefix(&self) -> String {
        format!("_INBOX.c{}.{}.", self.number, self.life)
    }

    fn id(&self) -> Bytes {
        Bytes::from(format!("c{}", self.number))
    }

    fn connection(&self) -> Bytes {
        Bytes::from(format!("c{}-{}", self.number, self.life))
    }

    fn inbox(&mut self, kind: &str) -> Subject {
        self.inbox_count += 1;
        Subject::from(format!("{}{kind}.{}", self.prefix(), self.inbox_count))
    }

    /// What it does by itself at `now`.
    pub fn act(&mut self, now: Instant, random: &mut Random, checker: &mut Checker) -> Vec<Parcel> {
        match &self.state {
            State::Away { until } | State::Connecting { until } if *until <= now => {
                self.connect(now, checker)
            }
            State::Away { .. } | State::Connecting { .. } => Vec::new(),
            State::Online(info) => {
                let info = (**info).clone();
                self.act_online(&mut Turn { info: &info, now, random, checker })
            }
        }
    }

    fn connect(&mut self, now: Instant, checker: &mut Checker) -> Vec<Parcel> {
        self.life += 1;
        for inbox in std::mem::take(&mut self.subscriptions).keys() {
            checker.on_left(inbox);
        }
        self.publishes.clear();
        self.state = State::Connecting { until: now + CONNECT_TIMEOUT };
        let request = pb::ConnectRequest {
            client_id: self.id(),
            heartbeat_inbox: self.inbox("hb").to_bytes(),
            protocol: 1,
            conn_id: self.connection(),
            ping_interval: 5,
            ping_max_out: 88,
        };
        let reply = Some(self.inbox("connected"));
        vec![parcel("_STAN.discover.test-cluster", reply, &request)]
    }

    fn act_online(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        self.subscriptions.retain(|_, s| s.ack_inbox.is_some() || turn.now < s.asked_until);
        if self.is_retiring {
            return self.act_retiring(turn);
        }
        match turn.random.below(100) {
            0..=54 => self.publish(turn),
            55..=69 => self.subscribe(turn),
            70..=89 => self.acknowledge_late(turn),
            90..=95 => self.leave_one(turn),
            96 => self.close(turn),
            97 => {
                self.go_away(turn);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Opens each durable that the checker still counts on, and acknowledges everything.
    fn act_retiring(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        for channel in CHANNELS.map(ChannelName::from) {
            for in_queue in [false, true] {
                let key = self.durable_key(&channel, in_queue);
                let is_open = self.subscriptions.values().any(|s| s.durable.as_ref() == Some(&key));
                if !is_open && turn.checker.counts_on(&key) {
                    return self.subscribe_durable(key, turn);
                }
            }
        }
        self.acknowledge_late(turn)
    }

    fn publish(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for _ in 0..=turn.random.below(4) {
            if UNACKED_PUBLISHES_MAX <= self.publishes.len() {
                break;
            }
            self.publish_count += 1;
            let channel = ChannelName::from(CHANNELS[choose(turn.random, CHANNELS.len())]);
            let guid = Bytes::from(format!("g{}-{}", self.number, self.publish_count));
            let data = Bytes::from(format!("payload {} of c{}", self.publish_count, self.number));
            let message = pb::PubMsg {
                client_id: self.id(),
                guid: guid.clone(),
                subject: channel.to_bytes(),
                data: data.clone(),
                conn_id: self.connection(),
                ..pb::PubMsg::default()
            };
            self.publishes.insert(guid, (channel.clone(), data));
            let subject = format!("{}.{channel}", text(&turn.info.pub_prefix));
            let reply = Some(Subject::from(format!("{}acks", self.prefix())));
            parcels.push(parcel(&subject, reply, &message));
        }
        parcels
    }

    fn durable_key(&self, channel: &ChannelName, in_queue: bool) -> DurableKey {
        let name = if in_queue { "group".to_owned() } else { format!("c{}-mine", self.number) };
        DurableKey { channel: channel.clone(), name }
    }

    fn subscribe(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        if SUBSCRIPTIONS_MAX <= self.subscriptions.len() {
            return Vec::new();
        }
        let channel = ChannelName::from(CHANNELS[choose(turn.random, CHANNELS.len())]);
        match turn.random.below(3) {
            0 => self.subscribe_plain(channel, turn),
            kind => {
                let key = self.durable_key(&channel, kind == 1);
                let is_open = self.subscriptions.values().any(|s| s.durable.as_ref() == Some(&key));
                if is_open && kind == 2 {
                    return Vec::new();
                }
                self.subscribe_durable(key, turn)
            }
        }
    }

    fn subscribe_plain(&mut self, channel: ChannelName, turn: &mut Turn) -> Vec<Parcel> {
        let request = pb::SubscriptionRequest {
            start_position: i32::try_from(turn.random.below(5)).unwrap_or(0),
            start_sequence: turn.random.below(20),
            start_time_delta: i64::try_from(turn.random.below(3_000_000_000)).unwrap_or(0),
            ..pb::SubscriptionRequest::default()
        };
        self.ask(channel, None, request, turn)
    }

    fn subscribe_durable(&mut self, key: DurableKey, turn: &mut Turn) -> Vec<Parcel> {
        let in_queue = key.name == "group";
        let request = pb::SubscriptionRequest {
            durable_name: Bytes::from_static(b"mine"),
            q_group: Bytes::from_static(if in_queue { b"group" } else { b"" }),
            start_position: pb::StartPosition::First.into(),
            ..pb::SubscriptionRequest::default()
        };
        self.ask(key.channel.clone(), Some(key), request, turn)
    }

    fn ask(
        &mut self,
        channel: ChannelName,
        durable: Option<DurableKey>,
        request: pb::SubscriptionRequest,
        turn: &mut Turn,
    ) -> Vec<Parcel> {
        let inbox = self.inbox("sub");
        let in_flight_max = 1 + turn.random.below(8);
        let request = pb::SubscriptionRequest {
            client_id: self.id(),
            subject: channel.to_bytes(),
            inbox: inbox.to_bytes(),
            max_in_flight: i32::try_from(in_flight_max).unwrap_or(1),
            ack_wait_in_secs: 1 + i32::try_from(turn.random.below(2)).unwrap_or(0),
            ..request
        };
        let in_flight_max = usize::try_from(in_flight_max).unwrap_or(1);
        turn.checker.on_asked(&inbox, durable.as_ref(), in_flight_max);
        let subscription = Subscription {
            channel,
            durable,
            ack_inbox: None,
            asked_until: turn.now + REQUEST_TIMEOUT,
            unacked: BTreeSet::new(),
        };
        self.subscriptions.insert(inbox.clone(), subscription);
        let reply = Subject::from(format!("{inbox}.asked"));
        vec![parcel(&text(&turn.info.sub_requests), Some(reply), &request)]
    }

    fn acknowledge_late(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        let forgets = !self.is_retiring && turn.random.below(3) == 0;
        for (inbox, subscription) in &mut self.subscriptions {
            let Some(ack_inbox) = &subscription.ack_inbox else { continue };
            if forgets {
                continue;
            }
            for sequence in std::mem::take(&mut subscription.unacked) {
                turn.checker.on_acknowledged(inbox, sequence);
                let ack =
                    pb::Ack { subject: subscription.channel.to_bytes(), sequence: sequence.get() };
                parcels.push(parcel(&ack_inbox.to_string(), None, &ack));
            }
        }
        parcels
    }

    fn leave_one(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let open: Vec<Subject> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.ack_inbox.is_some())
            .map(|(inbox, _)| inbox.clone())
            .collect();
        if open.is_empty() {
            return Vec::new();
        }
        let inbox = &open[choose(turn.random, open.len())];
        let Some(subscription) = self.subscriptions.remove(inbox) else { return Vec::new() };
        turn.checker.on_left(inbox);
        // Durables only close: if the answer is lost nobody knows whether one still exists.
        let unsubscribes = subscription.durable.is_none() && turn.random.below(2) == 0;
        let request = pb::UnsubscribeRequest {
            client_id: self.id(),
            subject: subscription.channel.to_bytes(),
            inbox: subscription.ack_inbox.map(|inbox| inbox.to_bytes()).unwrap_or_default(),
            durable_name: Bytes::new(),
        };
        let info = turn.info;
        let subject = if unsubscribes { &info.unsub_requests } else { &info.sub_close_requests };
        let reply = Some(self.inbox("left"));
        vec![parcel(&text(subject), reply, &request)]
    }

    fn close(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let request = pb::CloseRequest { client_id: self.id() };
        let parcels = vec![parcel(&text(&turn.info.close_requests), None, &request)];
        self.go_away(turn);
        parcels
    }

    fn go_away(&mut self, turn: &mut Turn) {
        let until = turn.now + Duration::from_millis(1 + turn.random.below(AWAY_MAX_MS));
        self.state = State::Away { until };
    }

    /// A message for one of its inboxes.
    pub fn receive(
        &mut self,
        parcel: &Parcel,
        now: Instant,
        checker: &mut Checker,
    ) -> Option<Parcel> {
        let subject = parcel.subject.to_string();
        let kind = subject.split('.').nth(3).unwrap_or_default();
        match kind {
            "hb" => {
                let subject = parcel.reply.clone()?;
                Some(Parcel { subject, reply: None, payload: Bytes::new() })
            }
            "connected" => {
                self.on_connected(&parcel.payload, now);
                None
            }
            "acks" => {
                self.on_pub_ack(&parcel.payload, checker);
                None
            }
            "sub" if subject.ends_with(".asked") => {
                self.on_subscribed(&subject, &parcel.payload, now, checker);
                None
            }
            "sub" => {
                self.on_message(&parcel.subject, &parcel.payload, checker);
                None
            }
            _ => None,
        }
    }

    fn on_connected(&mut self, payload: &Bytes, now: Instant) {
        let response = pb::ConnectResponse::decode(payload.clone()).expect("made by an engine");
        if !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        self.state = if response.error.is_empty() {
            State::Online(Box::new(response))
        } else {
            State::Away { until: now + Duration::from_millis(300) }
        };
    }

    fn on_pub_ack(&mut self, payload: &Bytes, checker: &mut Checker) {
        let ack = pb::PubAck::decode(payload.clone()).expect("made by an engine");
        let Some((channel, data)) = self.publishes.remove(&ack.guid) else { return };
        if ack.error.is_empty() {
            checker.on_acked(&channel, data);
        } else {
            checker.on_refused(data);
        }
    }

    fn on_subscribed(
        &mut self,
        subject: &str,
        payload: &Bytes,
        now: Instant,
        checker: &mut Checker,
    ) {
        let inbox = Subject::from(subject.trim_end_matches(".asked"));
        let response = pb::SubscriptionResponse::decode(payload.clone()).expect("by an engine");
        if !response.error.is_empty() {
            self.subscriptions.remove(&inbox);
            if self.is_retiring {
                // A lost answer can have left its own durable open: a new life replaces the old.
                self.state = State::Away { until: now };
            }
        } else if let Some(subscription) = self.subscriptions.get_mut(&inbox) {
            subscription.ack_inbox = Some(Subject::from(response.ack_inbox));
            if let Some(key) = &subscription.durable {
                checker.on_durable_made(key);
            }
        }
    }

    fn on_message(&mut self, inbox: &Subject, payload: &Bytes, checker: &mut Checker) {
        let message = pb::MsgProto::decode(payload.clone()).expect("made by an engine");
        checker.on_delivered(&message);
        let Some(subscription) = self.subscriptions.get_mut(inbox) else { return };
        assert_eq!(subscription.channel.as_bytes(), &message.subject[..]);
        assert!(!message.redelivered || message.redelivery_count > 0, "a redelivery is counted");
        subscription.unacked.insert(Sequence(message.sequence));
    }
}

fn parcel(subject: &str, reply: Option<Subject>, message: &impl Message) -> Parcel {
    let payload = Bytes::from(message.encode_to_vec());
    Parcel { subject: Subject::from(subject), reply, payload }
}

fn choose(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).unwrap_or(0)
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
