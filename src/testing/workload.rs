//! Random but legal clients: NATS bytes to any member, and the streaming protocol in them.
//!
//! A client connects, publishes (and tries again when no answer comes), subscribes (plain, durable,
//! in queue groups), acknowledges or forgets to, closes, and sometimes dies without a word. It
//! answers heartbeats, and looks for another member when its connection is gone. One of them, the
//! auditor, reads all that there is at the end.

mod auditing;
mod leaving;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use crate::base::id::{ChannelName, Sequence, Subject};
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::proto::pb;
use crate::testing::chatter::Chatter;
use crate::testing::checker::{Asking, Audit, Checker, DurableKey, GROUP, NEWS, Promise, Start};
use crate::testing::limits::{CROWDED, DROPPED, PASSING, POISON};
use crate::testing::nonsense;
use crate::testing::parcels::{
    Heard, Parcel, choose, encode_subscribe, heard, last_token, parcel, text,
};
use crate::testing::wires::End;
use crate::wire::op::Publish;
use crate::wire::{self, Limits, Op, Parsed, encoder};

pub use self::leaving::GHOST;
use self::leaving::Gone;

/// One client program.
#[derive(Debug)]
pub struct Client {
    number: usize,
    /// Counts its lives: inboxes of a former life belong to nobody.
    life: u32,
    state: State,
    subscriptions: BTreeMap<Subject, Subscription>,
    publishes: BTreeMap<Bytes, Publication>,
    publish_count: u64,
    guid_count: u64,
    message_count: u64,
    heartbeat_count: u64,
    /// Who it was when the server let it go, until it has tried to publish as that.
    gone: Option<Gone>,
    /// By number of a request to leave: which inbox leaves which durable.
    leaving: BTreeMap<String, (DurableKey, Subject)>,
    inbox_count: u64,
    is_retiring: bool,
    is_auditor: bool,
    /// The active had changed before it asked for its session, so that there was one.
    is_heard: bool,
    /// It uses channels that nobody reads at the end, too.
    is_roaming: bool,
    /// An operator changes things meanwhile.
    is_administered: bool,
    hangs_up: bool,
    /// What it found, if it is the auditor.
    audit: Audit,
    /// The last message that the auditor published in each channel.
    markers: BTreeMap<ChannelName, Marker>,
    /// A channel that has to be gone, and whether the auditor has read its own message there.
    probe: Option<(ChannelName, bool)>,
    /// It asks then whether the server still knows it.
    ping_at: Instant,
    link: Option<End>,
    /// It looks for a member then.
    link_at: Instant,
    input: BytesMut,
    /// What it says with the next bytes: interests that began and ended.
    saying: BytesMut,
    /// By subject: the number of the interest.
    interests: BTreeMap<Subject, u64>,
    interest_count: u64,
    chatter: Chatter,
}

/// A publish that was not answered yet.
#[derive(Debug)]
struct Publication {
    channel: ChannelName,
    data: Bytes,
    sent_at: Instant,
    /// It is published again then.
    until: Instant,
}

/// How far the auditor is with a channel.
#[derive(Debug, Default)]
struct Marker {
    payload: Bytes,
    is_acked: bool,
    until: Instant,
}

#[derive(Debug, PartialEq)]
enum State {
    Away {
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
    /// It has said that it goes.
    Closing {
        until: Instant,
        gone: Gone,
    },
    Online(Box<pb::ConnectResponse>),
}

/// What a client does.
#[derive(Debug, Default)]
pub struct Doing {
    /// What it sends.
    pub bytes: Bytes,
    /// It leaves its connection, after that.
    pub hangs_up: bool,
}

#[derive(Debug)]
struct Subscription {
    channel: ChannelName,
    durable: Option<DurableKey>,
    ack_inbox: Option<Subject>,
    /// The connection by which it was asked for.
    asked_by: Option<End>,
    is_brief: bool,
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

/// The channels that are read at the end.
pub const CHANNELS: [&str; 6] = ["orders", "events.eu", "Jobs", "events.us", "late", "later"];
/// The name of a durable of which nothing is expected.
const BRIEF: &[u8] = b"brief";
/// What its inboxes are for.
const KINDS: [&str; 9] = [
    "hb.*",
    "connected.*",
    "pinged.*",
    "asked.*",
    "left.*",
    "closed.*",
    "ghost.*",
    "refused.*",
    "acks",
];
/// Of so many messages one is long.
const PUBLISHES_PER_LONG: u64 = 12;
const LONG_LEN: usize = 1_300;
/// One of so many things that a client does has nothing to do with streaming.
const ACTS_PER_CHAT: u64 = 8;
/// One of so many requests has to be refused.
const ACTS_PER_NONSENSE: u64 = 50;
/// Another channel is used after so many publishes of a client.
const PUBLISHES_BEFORE_NEXT: u64 = 12;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
const UNACKED_PUBLISHES_MAX: usize = 64;
const SUBSCRIPTIONS_MAX: usize = 4;
const FORGOTTEN_EVERY: u64 = 7;
const PING_EVERY: Duration = Duration::from_secs(1);
const LINK_PAUSE_MAX_MS: u64 = 200;

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
            guid_count: 0,
            message_count: 0,
            heartbeat_count: 0,
            gone: None,
            leaving: BTreeMap::new(),
            inbox_count: 0,
            is_retiring: false,
            is_auditor: false,
            is_heard: false,
            is_roaming: false,
            is_administered: false,
            hangs_up: false,
            audit: Audit::new(),
            markers: BTreeMap::new(),
            probe: None,
            ping_at: now,
            link: None,
            link_at: now,
            input: BytesMut::new(),
            saying: BytesMut::new(),
            interests: BTreeMap::new(),
            interest_count: 0,
            chatter: Chatter::default(),
        }
    }

    /// The one that reads all that there is.
    #[must_use]
    pub fn auditor(number: usize, now: Instant) -> Self {
        Self { is_auditor: true, is_retiring: true, ..Self::new(number, now) }
    }

    /// It uses channels that nobody reads at the end, too.
    #[must_use]
    pub fn roaming(self) -> Self {
        Self { is_roaming: true, ..self }
    }

    /// It uses the channel that an operator deletes, too.
    #[must_use]
    pub fn administered(self, is_administered: bool) -> Self {
        Self { is_administered, ..self }
    }

    /// Its connection, if it has one.
    #[must_use]
    pub fn link(&self) -> Option<End> {
        self.link
    }

    /// Whether it looks for a member now.
    #[must_use]
    pub fn seeks_link(&self, now: Instant) -> bool {
        self.link.is_none() && self.link_at <= now && !matches!(self.state, State::Away { .. })
    }

    /// It found a member, or `None`. Gives what it says first: all that it listens to.
    pub fn on_linked(&mut self, link: Option<End>, now: Instant, random: &mut Random) -> Bytes {
        self.link = link;
        self.input.clear();
        self.saying.clear();
        self.chatter.restart();
        if link.is_none() {
            let pause = Duration::from_millis(1 + random.below(LINK_PAUSE_MAX_MS));
            self.link_at = now + pause;
            return Bytes::new();
        }
        let mut bytes = BytesMut::new();
        let (is_verbose, is_pedantic) = (self.number % 3 == 1, self.number % 3 == 2);
        let options = format!(
            r#"{{"verbose":{is_verbose},"pedantic":{is_pedantic},"headers":true,"no_responders":true}}"#
        );
        encoder::encode(&Op::Connect(options.as_bytes()), &mut bytes);
        for (subject, number) in &self.interests {
            encode_subscribe(subject, *number, &mut bytes);
        }
        if matches!(self.state, State::Connecting { .. }) {
            let ghost = self.gone.take().map(|gone| self.haunt(gone));
            let parcels: Vec<Parcel> = ghost.into_iter().chain([self.connect_request()]).collect();
            let requests = self.encode(&parcels);
            bytes.extend_from_slice(&requests);
        }
        bytes.freeze()
    }

    fn listen(&mut self, subject: Subject) {
        self.interest_count += 1;
        encode_subscribe(&subject, self.interest_count, &mut self.saying);
        self.interests.insert(subject, self.interest_count);
    }

    fn unlisten(&mut self, subject: &Subject) {
        if let Some(number) = self.interests.remove(subject) {
            let sid = number.to_string();
            let op = Op::Unsubscribe { sid: sid.as_bytes(), max: None };
            encoder::encode(&op, &mut self.saying);
        }
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
    pub fn act(&mut self, now: Instant, random: &mut Random, checker: &mut Checker) -> Doing {
        let parcels = match &self.state {
            State::Away { until } | State::Connecting { until } if *until <= now => {
                self.connect(now, checker)
            }
            State::Closing { until, .. } if *until <= now => {
                self.go_away(now, random);
                Vec::new()
            }
            State::Away { .. } | State::Connecting { .. } | State::Closing { .. } => Vec::new(),
            // It sends nothing into the void, and acts again when it has found a member.
            State::Online(_) if self.link.is_none() => Vec::new(),
            State::Online(info) => {
                let info = (**info).clone();
                self.act_online(&mut Turn { info: &info, now, random, checker })
            }
        };
        let bytes = self.encode(&parcels);
        Doing { bytes, hangs_up: std::mem::take(&mut self.hangs_up) }
    }

    fn encode(&mut self, parcels: &[Parcel]) -> Bytes {
        let mut bytes = std::mem::take(&mut self.saying);
        for parcel in parcels {
            let op = Op::Publish(Publish {
                subject: parcel.subject.as_bytes(),
                reply: parcel.reply.as_ref().map(Subject::as_bytes),
                header_len: None,
                payload: &parcel.payload,
            });
            encoder::encode(&op, &mut bytes);
        }
        bytes.freeze()
    }

    /// Bytes of its connection; gives what it answers.
    pub fn receive(&mut self, bytes: &[u8], now: Instant, checker: &mut Checker) -> Bytes {
        self.input.extend_from_slice(bytes);
        let mut parcels = Vec::new();
        loop {
            let mut input = std::mem::take(&mut self.input);
            let (heard, len) = match wire::parse(&input, &Limits::server()) {
                Ok(Parsed::NeedMore { .. }) => (None, 0),
                Ok(Parsed::Op { op: Op::Message { message, sid }, len })
                    if self.chatter.hear(sid, &message, checker) =>
                {
                    (Some(Heard::Other), len)
                }
                Ok(Parsed::Op { op, len }) => (Some(heard(&op)), len),
                Err(error) => {
                    let text = format!("a client hears what is no NATS: {error}");
                    checker.fail(Promise::Core, text);
                    (None, 0)
                }
            };
            input.advance(len);
            self.input = input;
            match heard {
                None => break,
                Some(Heard::Ping) => encoder::encode(&Op::Pong, &mut self.saying),
                Some(Heard::Message(parcel)) => {
                    parcels.extend(self.on_parcel(&parcel, now, checker));
                }
                Some(Heard::Other) => (),
            }
        }
        self.encode(&parcels)
    }

    fn connect(&mut self, now: Instant, checker: &mut Checker) -> Vec<Parcel> {
        if self.is_heard && matches!(self.state, State::Connecting { .. }) {
            checker.on_unconnected(now, || format!("c{} connects, without an answer", self.number));
        }
        self.is_heard = checker.has_moved();
        self.life += 1;
        checker.on_life(self.number, self.life);
        let subscriptions = std::mem::take(&mut self.subscriptions);
        for inbox in subscriptions.keys() {
            checker.on_outlived(inbox);
        }
        self.publishes.clear();
        self.leaving.clear();
        self.markers.clear();
        self.probe = None;
        self.audit.clear();
        self.interests.clear();
        self.saying.clear();
        for kind in KINDS {
            let subject = Subject::from(format!("{}{kind}", self.prefix()));
            self.listen(subject);
        }
        self.state = State::Connecting { until: now + CONNECT_TIMEOUT };
        // A new life has a connection of its own.
        self.hangs_up = true;
        self.link_at = now;
        Vec::new()
    }

    fn connect_request(&mut self) -> Parcel {
        let request = pb::ConnectRequest {
            client_id: self.id(),
            heartbeat_inbox: self.inbox("hb").to_bytes(),
            protocol: 1,
            conn_id: self.connection(),
            ping_interval: 5,
            ping_max_out: 88,
        };
        let reply = Some(self.inbox("connected"));
        parcel("_STAN.discover.test-cluster", reply, &request)
    }

    fn act_online(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let late = |s: &Subscription| s.ack_inbox.is_none() && s.asked_until <= turn.now;
        let lost: Vec<Subject> =
            self.subscriptions.iter().filter(|(_, s)| late(s)).map(|(i, _)| i.clone()).collect();
        for inbox in lost {
            turn.checker
                .on_let_down(turn.now, || format!("{inbox} is asked for, without an answer"));
            self.forget(&inbox, turn.checker);
        }
        if self.ping_at <= turn.now {
            self.ping_at = turn.now + PING_EVERY;
            let ping = pb::Ping { conn_id: self.connection() };
            let reply = Some(self.inbox("pinged"));
            return vec![parcel(&text(&turn.info.ping_requests), reply, &ping)];
        }
        if self.is_auditor {
            return self.act_auditing(turn);
        }
        if self.is_retiring {
            return self.act_retiring(turn);
        }
        if turn.random.below(ACTS_PER_CHAT) == 0 {
            self.chat(turn);
            return Vec::new();
        }
        if turn.random.below(ACTS_PER_NONSENSE) == 0 {
            let (own, reply) = ((self.id(), self.connection()), self.inbox("refused"));
            return vec![nonsense::request(turn.info, own, reply, turn.random)];
        }
        match turn.random.below(100) {
            0..=44 => self.publish(turn),
            45..=54 => self.publish_again(turn),
            55..=69 => self.subscribe(turn),
            70..=89 => self.acknowledge_late(turn),
            90..=95 => self.leave_one(turn),
            96 => self.close(turn),
            97 => {
                self.go_away(turn.now, turn.random);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Something beside streaming.
    fn chat(&mut self, turn: &mut Turn) {
        let reply = format!("{}left.0", self.prefix());
        let place = (self.number, self.interest_count + 1);
        let is_used = self.chatter.act(place, reply.as_bytes(), turn.random, &mut self.saying);
        self.interest_count += u64::from(is_used);
    }

    /// A message that was never published before.
    fn message(&mut self, channel: &ChannelName, turn: &mut Turn) -> (Parcel, Bytes) {
        self.publish_count += 1;
        let mut data = format!("payload {} of c{}", self.publish_count, self.number);
        if !self.is_auditor && turn.random.below(PUBLISHES_PER_LONG) == 0 {
            data.push_str(&".".repeat(LONG_LEN));
        }
        let data = Bytes::from(data);
        if let Some(link) = self.link {
            turn.checker.on_published(data.clone(), link.connection, self.publish_count);
        }
        (self.publish_data(channel, &data, turn), data)
    }

    fn publish_data(&mut self, channel: &ChannelName, data: &Bytes, turn: &mut Turn) -> Parcel {
        self.guid_count += 1;
        let guid = Bytes::from(format!("g{}-{}", self.number, self.guid_count));
        let message = pb::PubMsg {
            client_id: self.id(),
            guid: guid.clone(),
            subject: channel.to_bytes(),
            data: data.clone(),
            conn_id: self.connection(),
            ..pb::PubMsg::default()
        };
        let (channel, data) = (channel.clone(), data.clone());
        let subject = format!("{}.{channel}", text(&turn.info.pub_prefix));
        if let Some(link) = self.link {
            turn.checker.on_publish_sent(&guid, &channel, link.connection);
            turn.checker.on_used(&channel);
        }
        let until = turn.now + ACK_TIMEOUT;
        let sent_at = turn.now;
        self.publishes.insert(guid, Publication { channel, data, sent_at, until });
        let reply = Some(Subject::from(format!("{}acks", self.prefix())));
        parcel(&subject, reply, &message)
    }

    /// More and more of them, so that channels are made throughout a run.
    fn some_channel(&self, random: &mut Random) -> ChannelName {
        let used = usize::try_from(self.publish_count / PUBLISHES_BEFORE_NEXT).unwrap_or(0);
        ChannelName::from(CHANNELS[choose(random, CHANNELS.len().min(2 + used))])
    }

    fn publish(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for _ in 0..=turn.random.below(4) {
            if UNACKED_PUBLISHES_MAX <= self.publishes.len() {
                break;
            }
            let is_to_go = self.is_administered && turn.random.below(10) == 0;
            let channel = match self.is_roaming.then(|| turn.random.below(12)) {
                _ if is_to_go => ChannelName::from(DROPPED),
                Some(0) => ChannelName::from(CROWDED),
                Some(1) => ChannelName::from(format!("{PASSING}{}", turn.random.below(8))),
                Some(2 | 3) => ChannelName::from(POISON),
                Some(_) | None => self.some_channel(turn.random),
            };
            parcels.push(self.message(&channel, turn).0);
        }
        parcels
    }

    /// What was not answered in time is published again, as clients do.
    fn publish_again(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let late = self.publishes.iter().find(|(_, publication)| publication.until <= turn.now);
        let Some((guid, _)) = late else { return Vec::new() };
        let guid = guid.clone();
        let Some(Publication { channel, data, .. }) = self.publishes.remove(&guid) else {
            return Vec::new();
        };
        turn.checker.on_let_down(turn.now, || format!("{data:?} is published, without an answer"));
        turn.checker.on_repeated(data.clone());
        vec![self.publish_data(&channel, &data, turn)]
    }

    fn own_durable(&self) -> String {
        format!("c{}-mine", self.number)
    }

    fn news_durable(&self) -> String {
        format!("c{}{NEWS}", self.number)
    }

    fn subscribe(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        if SUBSCRIPTIONS_MAX <= self.subscriptions.len() {
            return Vec::new();
        }
        if self.is_roaming && turn.random.below(8) == 0 {
            return self.subscribe_plain(ChannelName::from(CROWDED), b"", turn);
        }
        if self.is_roaming && turn.random.below(4) == 0 {
            return self.subscribe_poisoned(turn);
        }
        if self.is_administered && turn.random.below(10) == 0 {
            return self.subscribe_plain(ChannelName::from(DROPPED), b"", turn);
        }
        let channel = self.some_channel(turn.random);
        let name = match turn.random.below(8) {
            0 => return self.subscribe_plain(channel, b"", turn),
            1 => return self.subscribe_plain(channel, b"workers", turn),
            2 => return self.subscribe_briefly(channel, turn),
            3 | 4 => GROUP.to_owned(),
            5 => self.news_durable(),
            _ => self.own_durable(),
        };
        let key = DurableKey { channel, name };
        let is_open = self.subscriptions.values().any(|s| s.durable.as_ref() == Some(&key));
        if is_open && key.name != GROUP {
            return Vec::new();
        }
        self.subscribe_durable(key, turn)
    }

    /// A durable of which nothing is expected: it may be unsubscribed.
    fn subscribe_briefly(&mut self, channel: ChannelName, turn: &mut Turn) -> Vec<Parcel> {
        if self.subscriptions.values().any(|s| s.is_brief && s.channel == channel) {
            return Vec::new();
        }
        let request = pb::SubscriptionRequest {
            durable_name: Bytes::from_static(BRIEF),
            start_position: i32::try_from(turn.random.below(5)).unwrap_or(0),
            start_sequence: turn.random.below(20),
            start_time_delta: i64::try_from(turn.random.below(3_000_000_000)).unwrap_or(0),
            ..pb::SubscriptionRequest::default()
        };
        self.ask(channel, None, request, turn)
    }

    /// A durable that acknowledges nothing, and is never unsubscribed.
    fn subscribe_poisoned(&mut self, turn: &mut Turn) -> Vec<Parcel> {
        let channel = ChannelName::from(POISON);
        if self.subscriptions.values().any(|found| found.channel == channel) {
            return Vec::new();
        }
        let request = pb::SubscriptionRequest {
            durable_name: Bytes::from_static(b"poisoned"),
            start_position: pb::StartPosition::First.into(),
            ..pb::SubscriptionRequest::default()
        };
        self.ask(channel, None, request, turn)
    }

    fn subscribe_plain(
        &mut self,
        channel: ChannelName,
        queue: &'static [u8],
        turn: &mut Turn,
    ) -> Vec<Parcel> {
        let request = pb::SubscriptionRequest {
            q_group: Bytes::from_static(queue),
            start_position: i32::try_from(turn.random.below(5)).unwrap_or(0),
            start_sequence: turn.random.below(20),
            start_time_delta: i64::try_from(turn.random.below(3_000_000_000)).unwrap_or(0),
            ..pb::SubscriptionRequest::default()
        };
        self.ask(channel, None, request, turn)
    }

    fn subscribe_durable(&mut self, key: DurableKey, turn: &mut Turn) -> Vec<Parcel> {
        let (in_queue, is_news) = (key.name == GROUP, key.name.ends_with(NEWS));
        let start = if is_news { pb::StartPosition::NewOnly } else { pb::StartPosition::First };
        let request = pb::SubscriptionRequest {
            durable_name: Bytes::from_static(if is_news { b"news" } else { b"mine" }),
            q_group: Bytes::from(if in_queue { GROUP } else { "" }),
            start_position: start.into(),
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
        self.listen(inbox.clone());
        let in_flight_max = if self.is_auditor { 64 } else { 1 + turn.random.below(8) };
        let request = pb::SubscriptionRequest {
            client_id: self.id(),
            subject: channel.to_bytes(),
            inbox: inbox.to_bytes(),
            max_in_flight: i32::try_from(in_flight_max).unwrap_or(1),
            ack_wait_in_secs: 1 + i32::try_from(turn.random.below(2)).unwrap_or(0),
            ..request
        };
        turn.checker.on_asked(&Asking {
            inbox: &inbox,
            channel: &channel,
            durable: durable.as_ref(),
            in_queue: !request.q_group.is_empty(),
            in_flight_max: usize::try_from(in_flight_max).unwrap_or(1),
            start: Start::of(&request),
        });
        let subscription = Subscription {
            channel,
            durable,
            ack_inbox: None,
            asked_by: self.link,
            is_brief: request.durable_name.as_ref() == BRIEF,
            asked_until: turn.now + REQUEST_TIMEOUT,
            unacked: BTreeSet::new(),
        };
        let number = last_token(&inbox);
        let reply = Subject::from(format!("{}asked.{number}", self.prefix()));
        self.subscriptions.insert(inbox, subscription);
        vec![parcel(&text(&turn.info.sub_requests), Some(reply), &request)]
    }

    /// A request that was not answered: whether the server knows of it nobody can tell.
    fn forget(&mut self, inbox: &Subject, checker: &mut Checker) -> Option<Subscription> {
        checker.on_left(inbox);
        self.unlisten(inbox);
        self.subscriptions.remove(inbox)
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
                if let Some(link) = self.link {
                    turn.checker.on_ack_sent(inbox, sequence, link.connection);
                }
                let ack =
                    pb::Ack { subject: subscription.channel.to_bytes(), sequence: sequence.get() };
                parcels.push(parcel(&ack_inbox.to_string(), None, &ack));
            }
        }
        parcels
    }

    /// Each refusal has a text, which begins like all of them.
    fn on_nonsense(&self, payload: &Bytes, checker: &mut Checker) {
        let is_done = payload.is_empty() && checker.may_be_asked_again();
        if !is_done && !payload.windows(REFUSAL.len()).any(|text| text == REFUSAL) {
            let text =
                format!("c{} asks for nonsense, and is not refused: {payload:?}", self.number);
            checker.fail(Promise::Sessions, text);
        }
    }

    /// A message for one of its inboxes; gives its answer.
    fn on_parcel(
        &mut self,
        parcel: &Parcel,
        now: Instant,
        checker: &mut Checker,
    ) -> Option<Parcel> {
        if !parcel.subject.as_bytes().starts_with(self.prefix().as_bytes()) {
            return None;
        }
        let subject = parcel.subject.to_string();
        let mut names = subject.split('.').skip(3);
        let (kind, number) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        match kind {
            "hb" => {
                // Three in a row would be its end. Where one that it sends can be lost, it misses
                // one of two only, and none where a route takes two with it.
                self.heartbeat_count += 1;
                let is_missed = if checker.has_broken_routes() {
                    false
                } else if checker.is_calm() {
                    !self.heartbeat_count.is_multiple_of(3)
                } else {
                    !self.is_retiring && self.heartbeat_count.is_multiple_of(2)
                };
                if is_missed {
                    return None;
                }
                let subject = parcel.reply.clone()?;
                return Some(Parcel { subject, reply: None, payload: Bytes::new() });
            }
            "connected" => self.on_connected(&parcel.payload, now),
            "acks" => self.on_pub_ack(&parcel.payload, now, checker),
            "asked" => {
                let inbox = Subject::from(format!("{}sub.{number}", self.prefix()));
                self.on_subscribed(&inbox, &parcel.payload, now, checker);
            }
            "sub" => self.on_message(&parcel.subject, &parcel.payload, checker),
            "pinged" => self.on_pinged(&parcel.payload, now, checker),
            "closed" => self.on_closed(&parcel.payload, now),
            "ghost" => self.on_ghost(&parcel.payload, checker),
            "refused" => self.on_nonsense(&parcel.payload, checker),
            "left" => self.on_left(number, &parcel.payload, checker),
            _ => (),
        }
        None
    }

    fn on_connected(&mut self, payload: &Bytes, now: Instant) {
        if !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        match pb::ConnectResponse::decode(payload.clone()) {
            Ok(response) if response.error.is_empty() && !response.pub_prefix.is_empty() => {
                self.state = State::Online(Box::new(response));
            }
            // Nobody listens, or it is too early.
            Ok(_) | Err(_) => self.start_anew(now),
        }
    }

    fn on_pinged(&mut self, payload: &Bytes, now: Instant, checker: &mut Checker) {
        let response = pb::PingResponse::decode(payload.clone());
        let is_online = matches!(self.state, State::Online(_));
        let is_unknown = response.is_ok_and(|response| !response.error.is_empty());
        if is_online && !is_unknown {
            checker.on_known((self.number, self.life), now);
        }
        if is_online && is_unknown {
            checker.on_unknown((self.number, self.life), now, || {
                format!("c{} is known no longer", self.number)
            });
            self.start_anew(now);
        }
    }

    fn on_pub_ack(&mut self, payload: &Bytes, now: Instant, checker: &mut Checker) {
        let Ok(ack) = pb::PubAck::decode(payload.clone()) else { return };
        let Some(publication) = self.publishes.remove(&ack.guid) else {
            return checker
                .on_answered_again(|| format!("publish {:?} is answered twice", ack.guid));
        };
        let Publication { channel, data, sent_at, .. } = publication;
        if !ack.error.is_empty() {
            checker.on_refused(data);
            let is_online = matches!(self.state, State::Online(_));
            if !self.is_auditor && is_online && ack.error.as_ref() == UNKNOWN_CLIENT {
                checker.on_unknown((self.number, self.life), now, || {
                    format!("c{} may publish no longer", self.number)
                });
                self.start_anew(now);
            }
            return;
        }
        if let Some(marker) = self.markers.get_mut(&channel).filter(|m| m.payload == data) {
            marker.is_acked = true;
        }
        checker.on_publish_taken((self.number, self.life), sent_at);
        checker.on_publish_stored(&ack.guid, &channel);
        checker.on_acked(&channel, data);
    }

    fn on_subscribed(
        &mut self,
        inbox: &Subject,
        payload: &Bytes,
        now: Instant,
        checker: &mut Checker,
    ) {
        let response = pb::SubscriptionResponse::decode(payload.clone());
        let error = response.as_ref().map(|response| response.error.clone()).unwrap_or_default();
        let Some(response) = response.ok().filter(|response| !response.ack_inbox.is_empty()) else {
            let is_known = self.forget(inbox, checker).is_some();
            if is_known && error.as_ref() == DUPLICATE_DURABLE {
                checker.on_locked_out(inbox);
            }
            if self.is_retiring {
                // A lost answer can have left its own durable open: a new life replaces the old.
                self.start_anew(now);
            }
            return;
        };
        if let Some(subscription) = self.subscriptions.get_mut(inbox) {
            subscription.ack_inbox = Some(Subject::from(response.ack_inbox));
            checker.on_confirmed(inbox);
            if let Some(key) = &subscription.durable {
                checker.on_durable_made(key);
            }
        }
    }

    fn on_message(&mut self, inbox: &Subject, payload: &Bytes, checker: &mut Checker) {
        let Ok(message) = pb::MsgProto::decode(payload.clone()) else {
            let text = format!("what comes on {inbox} is no message");
            return checker.fail(Promise::Genuine, text);
        };
        let Some(subscription) = self.subscriptions.get_mut(inbox) else { return };
        if subscription.ack_inbox.is_none() && subscription.asked_by == self.link {
            checker.on_delivered_unanswered(inbox, message.sequence);
        }
        checker.on_delivered(inbox, &message);
        if subscription.channel.as_bytes() == POISON.as_bytes() {
            return;
        }
        let sequence = Sequence(message.sequence);
        // Some it takes for lost, however often it gets them.
        self.message_count += 1;
        if !self.is_retiring && self.message_count.is_multiple_of(FORGOTTEN_EVERY) {
            subscription.unacked.remove(&sequence);
            checker.on_forgotten(inbox, sequence);
        } else {
            subscription.unacked.insert(sequence);
        }
        if self.is_auditor {
            let channel = ChannelName::from(message.subject.clone());
            if let Some((_, is_read)) = self.probe.as_mut().filter(|(probe, _)| *probe == channel) {
                let own = self.markers.get(&channel);
                *is_read |= own.is_some_and(|marker| marker.payload == message.data);
                return;
            }
            self.audit.entry(channel).or_default().insert(sequence, message.data);
        }
    }
}

/// What a publisher is told that the server does not know (spec protocol, 7).
const UNKNOWN_CLIENT: &[u8] = b"stan: invalid publish request";
/// What a client is told whose durable is open (spec protocol, 9).
const DUPLICATE_DURABLE: &[u8] = b"stan: duplicate durable registration";
/// What each refusal begins with.
const REFUSAL: &[u8] = b"stan: ";
