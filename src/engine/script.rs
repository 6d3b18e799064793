//! the steps of a test in the words of the domain: several engines, a store, clients, one clock

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::base::id::{ChannelName, ClientId, LoopIndex, Sequence, Subject, SubscriptionId};
use crate::base::placement;
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, ClientWrite, CommitReport, FetchRequest,
    Lifecycle, MessageRecord, RecoveredChannel, RecoveredSubscription, SubscriptionWrite,
};
use crate::base::time::{Instant, Now, WallTime};
use crate::engine::effect::{Effect, Interest, Service};
use crate::engine::input::Input;
use crate::engine::request::{self, Placement};
use crate::engine::{Engine, Settings, Start, recovery};
use crate::proto::{pb, spb};

/// When the wall clock of a script starts.
const EPOCH: i64 = 1_700_000_000_000_000_000;

#[derive(Clone, Default)]
struct StoredChannel {
    messages: BTreeMap<Sequence, MessageRecord>,
    last: Sequence,
    subscriptions: BTreeMap<u64, (spb::SubState, BTreeSet<Sequence>)>,
    id_max: u64,
}

impl StoredChannel {
    fn state(&self) -> ChannelState {
        ChannelState {
            first: self.messages.keys().next().copied().unwrap_or(if self.last.0 == 0 {
                Sequence::ZERO
            } else {
                self.last.next()
            }),
            last: self.last,
            message_count: self.messages.len() as u64,
            byte_count: self.messages.values().map(|m| m.encoded.len() as u64).sum(),
        }
    }
}

/// The store of a script: shared by its engines, and what a restart starts from.
#[derive(Default)]
struct Shelf {
    server: Option<spb::ServerInfo>,
    clients: BTreeMap<Bytes, spb::ClientInfo>,
    channels: BTreeMap<ChannelName, StoredChannel>,
    messages_max: usize,
    refusals: BTreeMap<ChannelName, String>,
    clients_refused: Option<String>,
}

impl Shelf {
    fn commit(&mut self, batch: &Batch) -> CommitReport {
        if let Some(server) = &batch.server {
            self.server = Some(server.clone());
        }
        let clients_refused = self.clients_refused.clone().filter(|_| !batch.clients.is_empty());
        if clients_refused.is_none() {
            for write in &batch.clients {
                match write {
                    ClientWrite::Add(info) => {
                        self.clients.insert(info.id.clone(), info.clone());
                    }
                    ClientWrite::Delete(client) => {
                        self.clients.remove(client.as_bytes());
                    }
                }
            }
        }
        let channels = batch.channels.iter().map(|part| self.commit_part(part)).collect();
        CommitReport { clients_refused, channels }
    }

    fn commit_part(&mut self, part: &ChannelBatch) -> ChannelOutcome {
        let name = part.channel.clone();
        let refused = self.refusals.get(&name).cloned();
        if refused.is_some() {
            let state = self.channels.get(&name).map(StoredChannel::state).unwrap_or_default();
            return ChannelOutcome { channel: name, refused, state };
        }
        match part.lifecycle {
            Lifecycle::Delete => {
                assert!(part.messages.is_empty() && part.subscriptions.is_empty());
                self.channels.remove(&name).expect("a channel that is deleted exists");
                let state = ChannelState::default();
                return ChannelOutcome { channel: name, refused: None, state };
            }
            Lifecycle::Create => {
                let old = self.channels.insert(name.clone(), StoredChannel::default());
                assert!(old.is_none(), "{name} is created twice");
            }
            Lifecycle::Keep => (),
        }
        let channel = self.channels.get_mut(&name).expect("a channel is created before it is used");
        for record in &part.messages {
            assert_eq!(record.sequence, channel.last.next(), "sequences are dense");
            let newest = channel.messages.values().next_back();
            assert!(newest.is_none_or(|old| old.timestamp <= record.timestamp), "P4");
            channel.last = record.sequence;
            channel.messages.insert(record.sequence, record.clone());
            while self.messages_max > 0 && self.messages_max < channel.messages.len() {
                channel.messages.pop_first();
            }
        }
        for write in &part.subscriptions {
            apply(channel, write);
        }
        ChannelOutcome { channel: name, refused: None, state: channel.state() }
    }

    fn fetch(&self, request: &FetchRequest) -> Vec<MessageRecord> {
        let Some(channel) = self.channels.get(&request.channel) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let mut found = Vec::new();
        for record in channel.messages.range(request.from..).map(|(_, record)| record) {
            if request.count_max <= found.len() || request.bytes_max <= bytes {
                break;
            }
            bytes += record.encoded.len();
            found.push(record.clone());
        }
        found
    }

    fn find_time(&self, channel: &ChannelName, at: WallTime) -> Sequence {
        let channel = &self.channels[channel];
        let found = channel.messages.values().find(|record| at <= record.timestamp);
        found.map_or(channel.last.next(), |record| record.sequence)
    }
}

fn apply(channel: &mut StoredChannel, write: &SubscriptionWrite) {
    match write {
        SubscriptionWrite::Create(state) => {
            assert!(channel.id_max < state.id, "ids grow");
            channel.id_max = state.id;
            channel.subscriptions.insert(state.id, (state.clone(), BTreeSet::new()));
        }
        SubscriptionWrite::Update(state) => {
            channel.subscriptions.entry(state.id).or_default().0 = state.clone();
        }
        SubscriptionWrite::Delete(id) => {
            channel.subscriptions.remove(&id.0);
        }
        SubscriptionWrite::Sent(id, sequence) => {
            if let Some((state, pending)) = channel.subscriptions.get_mut(&id.0) {
                state.last_sent = state.last_sent.max(sequence.0);
                pending.insert(*sequence);
            }
        }
        SubscriptionWrite::Acked(id, sequence) => {
            if let Some((_, pending)) = channel.subscriptions.get_mut(&id.0) {
                pending.remove(sequence);
            }
        }
    }
}

/// How a client answers what the server asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    Alive,
    Silent,
    Gone,
}

/// What a test asks for in a subscription; the client's and channel's names are arguments.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) queue: &'static str,
    pub(super) durable: &'static str,
    pub(super) in_flight_max: i32,
    pub(super) ack_wait: i32,
    pub(super) start: pb::StartPosition,
    pub(super) sequence: u64,
    pub(super) ago: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: "",
            durable: "",
            in_flight_max: 1_000,
            ack_wait: 30,
            start: pb::StartPosition::First,
            sequence: 0,
            ago: Duration::ZERO,
        }
    }
}

/// Several engines with a store and clients, in one thread.
pub(super) struct Script {
    pub(super) settings: Settings,
    engines: Vec<Engine>,
    shelf: Shelf,
    at: Duration,
    restarts: u64,
    /// What travels between engines and from the store, in order.
    mail: VecDeque<(usize, Input)>,
    /// Commits that the test holds back.
    is_holding: bool,
    held: VecDeque<(usize, Input)>,
    listens: BTreeMap<Subject, (usize, u64)>,
    pulses: BTreeMap<Subject, Pulse>,
    /// Deliveries and answers, not looked at yet.
    sent: Vec<(Subject, pb::MsgProto)>,
    answers: BTreeMap<Subject, VecDeque<Bytes>>,
    /// Ack inboxes by delivery inbox.
    ack_inboxes: BTreeMap<String, Bytes>,
    pub(super) log: Vec<String>,
    pub(super) heartbeat_count: usize,
    pub(super) fetch_count: usize,
    pub(super) drained_count: usize,
    pub(super) credit_bytes: usize,
    reply_count: u64,
}

impl Script {
    pub(super) fn new(loops: u16) -> Self {
        Self::with(loops, |_| ())
    }

    pub(super) fn with(loops: u16, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            loops,
            limits: crate::base::channel_limits::StoreLimits::default(),
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(10),
            heartbeat_failures_max: 10,
            replace_durable: false,
            inbox_len_max: 1_000,
            subscription_ids_store_wide: false,
            debug: true,
            trace: false,
        };
        change(&mut settings);
        let shelf = Shelf {
            messages_max: usize::try_from(settings.limits.global.messages_max).unwrap(),
            ..Shelf::default()
        };
        let mut script = Self {
            settings,
            engines: Vec::new(),
            shelf,
            at: Duration::from_secs(1_000),
            restarts: 0,
            mail: VecDeque::new(),
            is_holding: false,
            held: VecDeque::new(),
            listens: BTreeMap::new(),
            pulses: BTreeMap::new(),
            sent: Vec::new(),
            answers: BTreeMap::new(),
            ack_inboxes: BTreeMap::new(),
            log: Vec::new(),
            heartbeat_count: 0,
            fetch_count: 0,
            drained_count: 0,
            credit_bytes: 0,
            reply_count: 0,
        };
        script.restart();
        script
    }

    fn now(&self) -> Now {
        let nanos = u64::try_from(self.at.as_nanos()).unwrap();
        Now { at: Instant(nanos), wall: WallTime(EPOCH + i64::try_from(nanos).unwrap()) }
    }

    /// Kills all engines, and starts new ones from what the store holds.
    pub(super) fn restart(&mut self) {
        self.restarts += 1;
        self.listens.clear();
        self.mail.clear();
        self.held.clear();
        self.engines.clear();
        let (info, info_is_new) = recovery::server_info(
            self.shelf.server.clone(),
            "test-cluster",
            recovery::DISCOVER_PREFIX,
        )
        .unwrap();
        for index in 0..self.settings.loops {
            let mine = self.shelf.channels.iter().filter(|(name, _)| {
                placement::of_channel(name, self.settings.loops) == LoopIndex(index)
            });
            let channels = mine.map(|(name, stored)| recovered(name, stored)).collect();
            let start = Start {
                index: LoopIndex(index),
                info: info.clone(),
                info_is_new,
                clients: self.shelf.clients.values().cloned().collect(),
                channels,
                channel_count: self.shelf.channels.len() as u64,
                subscription_id_max: self
                    .shelf
                    .channels
                    .values()
                    .map(|c| c.id_max)
                    .max()
                    .unwrap_or(0),
                seed: self.restarts * 1_000 + u64::from(index),
            };
            self.engines.push(Engine::recover(self.settings.clone(), start, self.now()));
        }
        self.run();
    }

    /// Lets everything happen that is under way, without time passing.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            let now = self.now();
            let mut is_quiet = true;
            for index in 0..self.engines.len() {
                self.engines[index].handle(Input::EndOfTurn, now);
                is_quiet &= !self.drain(index);
                if self.engines[index].next_deadline() == Some(Instant(0)) {
                    self.engines[index].handle_timeout(now);
                    self.drain(index);
                    is_quiet = false;
                }
            }
            if let Some((index, input)) = self.mail.pop_front() {
                self.engines[index].handle(input, now);
                is_quiet = false;
            }
            if is_quiet {
                return;
            }
        }
        panic!("the engines never come to rest");
    }

    /// Carries out what an engine asks for; true if there was something.
    fn drain(&mut self, index: usize) -> bool {
        let mut is_busy = false;
        while let Some(effect) = self.engines[index].poll_effect() {
            is_busy = true;
            self.carry_out(index, effect);
        }
        is_busy
    }

    fn carry_out(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Send { subject, reply, payload } => {
                let payload = Bytes::from([&payload.head[..], &payload.tail[..]].concat());
                self.on_sent(index, subject, reply, payload);
            }
            Effect::Listen { subject, interest } => {
                let token = match interest {
                    Interest::Own(token) => token,
                    Interest::Service(_) => u64::MAX,
                };
                let old = self.listens.insert(subject.clone(), (index, token));
                assert!(old.is_none(), "{subject} is listened to twice");
            }
            Effect::Unlisten { subject, .. } => {
                self.listens.remove(&subject).expect("only what is listened to is given up");
            }
            Effect::Commit { ticket, batch } => {
                let report = self.shelf.commit(&batch);
                let input = Input::Committed { ticket, report };
                if self.is_holding {
                    self.held.push_back((index, input));
                } else {
                    self.mail.push_back((index, input));
                }
            }
            Effect::Fetch(request) => {
                self.fetch_count += 1;
                let result = Ok(self.shelf.fetch(&request));
                self.mail.push_back((index, Input::Fetched { ticket: request.ticket, result }));
            }
            Effect::FindTime { ticket, channel, at } => {
                let result = Ok(self.shelf.find_time(&channel, at));
                self.mail.push_back((index, Input::FoundTime { ticket, result }));
            }
            Effect::Tell { to, message } => {
                let from = LoopIndex(u16::try_from(index).unwrap());
                self.mail.push_back((to.index(), Input::Peer { from, message }));
            }
            Effect::Log { text, .. } => self.log.push(text),
            Effect::Credit { bytes } => self.credit_bytes += bytes,
            Effect::Drained => self.drained_count += 1,
        }
    }

    fn on_sent(&mut self, index: usize, subject: Subject, reply: Option<Subject>, payload: Bytes) {
        if let Some(reply) = reply {
            self.heartbeat_count += 1;
            match self.pulses.get(&subject).copied().unwrap_or(Pulse::Gone) {
                Pulse::Alive => self.mail.push_back((
                    index,
                    Input::Inbox { token: 0, subject: reply, payload: Bytes::new() },
                )),
                Pulse::Silent => (),
                Pulse::Gone => self.mail.push_back((index, Input::NoResponders { reply })),
            }
        } else if subject.as_bytes().starts_with(b"in.") {
            self.sent.push((subject, pb::MsgProto::decode(payload).unwrap()));
        } else {
            self.answers.entry(subject).or_default().push_back(payload);
        }
    }

    /// Time goes on, and what is due in it happens when it is due.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.at + duration;
        self.run();
        loop {
            let next = self.engines.iter().filter_map(Engine::next_deadline).min();
            let next = next.map(|at| Duration::from_nanos(at.0)).filter(|at| *at <= end);
            let Some(next) = next else {
                break;
            };
            self.at = self.at.max(next);
            let now = self.now();
            for engine in &mut self.engines {
                engine.handle_timeout(now);
            }
            self.run();
        }
        self.at = end;
        self.run();
    }

    pub(super) fn pass_secs(&mut self, secs: u64) {
        self.pass(Duration::from_secs(secs));
    }

    /// The store's reports come only with `release` from now on.
    pub(super) fn hold_commits(&mut self) {
        self.is_holding = true;
    }

    pub(super) fn release(&mut self) {
        self.is_holding = false;
        self.mail.append(&mut self.held);
        self.run();
    }

    /// From now on the store refuses what is written to `channel`.
    pub(super) fn refuse(&mut self, channel: &str, text: Option<&str>) {
        match text {
            Some(text) => self.shelf.refusals.insert(ChannelName::from(channel), text.to_owned()),
            None => self.shelf.refusals.remove(&ChannelName::from(channel)),
        };
    }

    pub(super) fn refuse_clients(&mut self, text: Option<&str>) {
        self.shelf.clients_refused = text.map(str::to_owned);
    }

    /// Hands a request in without waiting for what it leads to.
    pub(super) fn hand_in(&mut self, service: Service, payload: Bytes) -> Subject {
        self.reply_count += 1;
        let reply = Subject::from(format!("reply.{}", self.reply_count));
        let request = request::decode(service, payload);
        let index = match request.placement(self.settings.loops) {
            Placement::Loop(index) => index.index(),
            // Any: it must not matter.
            Placement::Here => self.reply_count as usize % self.engines.len(),
            Placement::Dropped => return reply,
        };
        let input = Input::Request { request, reply: Some(reply.clone()) };
        self.mail.push_back((index, input));
        reply
    }

    /// The answer to a request; `None` if there is none yet.
    pub(super) fn answer(&mut self, reply: &Subject) -> Option<Bytes> {
        self.answers.get_mut(reply).and_then(VecDeque::pop_front)
    }

    fn ask(&mut self, service: Service, payload: Bytes) -> Option<Bytes> {
        let reply = self.hand_in(service, payload);
        self.run();
        self.answer(&reply)
    }

    pub(super) fn set_pulse(&mut self, client: &str, pulse: Pulse) {
        self.pulses.insert(Subject::from(format!("hb.{client}")), pulse);
    }

    fn connect_request(client: &str, connection: &str) -> Bytes {
        let request = pb::ConnectRequest {
            client_id: Bytes::from(client.to_owned()),
            heartbeat_inbox: Bytes::from(format!("hb.{client}")),
            protocol: 1,
            conn_id: Bytes::from(connection.to_owned()),
            ping_interval: 5,
            ping_max_out: 88,
        };
        request.encode_to_vec().into()
    }

    pub(super) fn hand_in_connect(&mut self, client: &str, connection: &str) -> Subject {
        self.hand_in(Service::Connect, Self::connect_request(client, connection))
    }

    /// Connects a client that answers heartbeats; its connection ID is `c-<client>`.
    pub(super) fn connect(&mut self, client: &str) {
        self.set_pulse(client, Pulse::Alive);
        assert_eq!(self.try_connect(client, &format!("c-{client}")), "");
    }

    /// The error of a connect request; `?` if it was not answered.
    pub(super) fn try_connect(&mut self, client: &str, connection: &str) -> String {
        let reply = self.hand_in_connect(client, connection);
        self.run();
        self.connect_error(&reply)
    }

    pub(super) fn connect_error(&mut self, reply: &Subject) -> String {
        match self.answer(reply) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::ConnectResponse::decode(answer).unwrap().error),
        }
    }

    pub(super) fn hand_in_close(&mut self, client: &str) -> Subject {
        let request = pb::CloseRequest { client_id: Bytes::from(client.to_owned()) };
        self.hand_in(Service::Close, request.encode_to_vec().into())
    }

    pub(super) fn close(&mut self, client: &str) -> String {
        let reply = self.hand_in_close(client);
        self.run();
        match self.answer(&reply) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::CloseResponse::decode(answer).unwrap().error),
        }
    }

    /// The error of a ping with a connection ID.
    pub(super) fn ping(&mut self, connection: &str) -> String {
        let ping = pb::Ping { conn_id: Bytes::from(connection.to_owned()) };
        match self.ask(Service::Ping, ping.encode_to_vec().into()) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::PingResponse::decode(answer).unwrap().error),
        }
    }

    pub(super) fn hand_in_publish(&mut self, client: &str, channel: &str, data: &str) -> Subject {
        let message = pb::PubMsg {
            client_id: Bytes::from(client.to_owned()),
            guid: Bytes::from_static(b"guid"),
            subject: Bytes::from(channel.to_owned()),
            data: Bytes::from(data.to_owned()),
            conn_id: Bytes::from(format!("c-{client}")),
            ..Default::default()
        };
        self.hand_in(Service::Publish, message.encode_to_vec().into())
    }

    /// The error of a publish; `?` if it was not answered.
    pub(super) fn try_publish(&mut self, client: &str, channel: &str, data: &str) -> String {
        let reply = self.hand_in_publish(client, channel, data);
        self.run();
        self.publish_error(&reply)
    }

    pub(super) fn publish_error(&mut self, reply: &Subject) -> String {
        match self.answer(reply) {
            None => "?".to_owned(),
            Some(answer) => {
                let ack = pb::PubAck::decode(answer).unwrap();
                assert_eq!(ack.guid, "guid");
                text(&ack.error)
            }
        }
    }

    pub(super) fn publish(&mut self, client: &str, channel: &str, count: usize) {
        for number in 0..count {
            assert_eq!(self.try_publish(client, channel, &format!("{number}")), "");
        }
    }

    pub(super) fn subscribe_request(
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
    pub(super) fn try_subscribe(
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

    pub(super) fn subscribe(&mut self, client: &str, channel: &str, inbox: &str, o: &Options) {
        assert_eq!(self.try_subscribe(client, channel, inbox, o), "");
    }

    /// Unsubscribes or closes by the ack inbox of `inbox`. Gives the error.
    pub(super) fn leave(
        &mut self,
        service: Service,
        client: &str,
        channel: &str,
        inbox: &str,
    ) -> String {
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
        match self.ask(service, request.encode_to_vec().into()) {
            None => "?".to_owned(),
            Some(answer) => text(&pb::SubscriptionResponse::decode(answer).unwrap().error),
        }
    }

    pub(super) fn unsubscribe(&mut self, client: &str, channel: &str, inbox: &str) {
        assert_eq!(self.leave(Service::Unsubscribe, client, channel, inbox), "");
    }

    pub(super) fn sub_close(&mut self, client: &str, channel: &str, inbox: &str) {
        assert_eq!(self.leave(Service::SubscriptionClose, client, channel, inbox), "");
    }

    /// Acknowledges messages of a channel on the ack inbox of `inbox`.
    pub(super) fn ack(&mut self, inbox: &str, channel: &str, sequences: &[u64]) {
        let subject = Subject::from(self.ack_inboxes[inbox].clone());
        for &sequence in sequences {
            let ack = pb::Ack { subject: Bytes::from(channel.to_owned()), sequence };
            if let Some(&(index, token)) = self.listens.get(&subject) {
                let payload = Bytes::from(ack.encode_to_vec());
                let input = Input::Inbox { token, subject: subject.clone(), payload };
                self.mail.push_back((index, input));
            }
        }
        self.run();
    }

    /// What was delivered since the last look: `inbox:sequence`, and `*count` for redeliveries.
    pub(super) fn got(&mut self) -> String {
        let sent = std::mem::take(&mut self.sent);
        let words = sent.iter().map(|(subject, message)| {
            let inbox = subject.to_string().trim_start_matches("in.").to_owned();
            assert_eq!(message.redelivered, message.redelivery_count > 0);
            match message.redelivery_count {
                0 => format!("{inbox}:{}", message.sequence),
                count => format!("{inbox}:{}*{count}", message.sequence),
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Everything delivered must be this.
    #[track_caller]
    pub(super) fn expect(&mut self, expected: &str) {
        let got = self.got();
        assert_eq!(got, expected);
    }

    /// The subscription records of a channel in the store, by id, with their pending sequences.
    pub(super) fn stored(&self, channel: &str) -> Vec<(spb::SubState, Vec<u64>)> {
        let Some(stored) = self.shelf.channels.get(&ChannelName::from(channel)) else {
            return Vec::new();
        };
        let found = stored.subscriptions.values();
        found.map(|(s, pending)| (s.clone(), pending.iter().map(|s| s.0).collect())).collect()
    }

    pub(super) fn has_channel(&self, channel: &str) -> bool {
        self.shelf.channels.contains_key(&ChannelName::from(channel))
    }

    /// A client's record as if its process had died with a server that lost it.
    pub(super) fn lose_client(&mut self, client: &str) {
        self.shelf.clients.remove(client.as_bytes());
    }

    /// Messages of a channel that the store removes, up to `last`.
    pub(super) fn expire(&mut self, channel: &str, last: u64) {
        let name = ChannelName::from(channel);
        let stored = self.shelf.channels.get_mut(&name).unwrap();
        stored.messages.retain(|sequence, _| last < sequence.0);
        let state = stored.state();
        let index = placement::of_channel(&name, self.settings.loops).index();
        self.mail.push_back((index, Input::Trimmed { channel: name, state }));
        self.run();
    }

    pub(super) fn drain_all(&mut self) {
        for index in 0..self.engines.len() {
            self.mail.push_back((index, Input::Drain));
        }
        self.run();
    }

    pub(super) fn snapshot(&self) -> crate::engine::snapshot::Snapshot {
        let parts = self.engines.iter().map(Engine::snapshot).collect();
        crate::engine::snapshot::Snapshot::merge(parts)
    }

    pub(super) fn clients(&self) -> Vec<String> {
        self.snapshot().clients.iter().map(|found| found.client.to_string()).collect()
    }

    /// A record for a recovered channel that no client of this run made.
    pub(super) fn store_subscription(&mut self, channel: &str, state: spb::SubState) {
        let stored = self.shelf.channels.get_mut(&ChannelName::from(channel)).unwrap();
        stored.id_max = stored.id_max.max(state.id);
        stored.subscriptions.insert(state.id, (state, BTreeSet::new()));
    }

    pub(super) fn home_of(&self, client: &str) -> usize {
        placement::of_client(&ClientId::from(client), self.settings.loops).index()
    }
}

fn recovered(name: &ChannelName, stored: &StoredChannel) -> RecoveredChannel {
    let subscriptions = stored.subscriptions.values().map(|(state, pending)| {
        RecoveredSubscription { state: state.clone(), pending: pending.iter().copied().collect() }
    });
    RecoveredChannel {
        channel: name.clone(),
        state: stored.state(),
        last_timestamp: stored.messages.values().next_back().map_or(WallTime(0), |m| m.timestamp),
        subscriptions: subscriptions.collect(),
        subscription_id_max: SubscriptionId(stored.id_max),
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
