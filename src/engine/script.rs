//! the steps of a test in the words of the domain: several engines, a store, clients, one clock
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a failed unwrap is a failed test"
)]

mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::base::channel_limits::StoreLimits;
use crate::base::errand::Finished;
use crate::base::id::{ChannelName, LoopIndex, Sequence, Subject};
use crate::base::limits::{
    AHEAD_BYTES_MAX, UNSYNCED_BYTES_MAX, UNSYNCED_MESSAGE_BYTES_MAX, UNSYNCED_MESSAGES_MAX,
    unsynced_share,
};
use crate::base::placement;
use crate::base::random::Random;
use crate::base::record::{Batch, FetchRequest, MessageRecord, StoreAnswer, StoreRead};
use crate::base::time::{Instant, Now, WallTime};
use crate::engine::administration::{Change, Outcome};
use crate::engine::effect::{Effect, Interest};
use crate::engine::input::Input;
use crate::engine::shelf::{Shelf, recovered};
use crate::engine::snapshot::{Snapshot, Wanted};
use crate::engine::{Engine, Settings, Start, recovery};
use crate::proto::{pb, spb};

/// When the wall clock of a script starts.
const EPOCH: i64 = 1_700_000_000_000_000_000;

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
    wall_ahead: Duration,
    restarts: u64,
    /// What travels: to engine n from others under n, from its store under n + loops.
    mail: VecDeque<(usize, Input)>,
    /// Shuffles what has no promised order; what goes one way stays in order.
    random: Option<Random>,
    /// Commits and reads that the test holds back.
    is_holding: bool,
    is_holding_reads: bool,
    held: VecDeque<(usize, Input)>,
    /// Messages that the store cannot read.
    unreadable: BTreeSet<u64>,
    listens: BTreeMap<Subject, (usize, u64)>,
    /// Inboxes by engine and key, and those whose readers are full.
    watched: BTreeMap<(usize, u64), Subject>,
    congested: BTreeSet<Subject>,
    pulses: BTreeMap<Subject, Pulse>,
    /// Deliveries and answers, not looked at yet.
    sent: Vec<(Subject, pb::MsgProto)>,
    /// Where everything was sent, in order.
    pub(super) sent_to: Vec<Subject>,
    answers: BTreeMap<Subject, VecDeque<Bytes>>,
    /// Ack inboxes by delivery inbox.
    ack_inboxes: BTreeMap<String, Bytes>,
    pub(super) log: Vec<String>,
    pub(super) heartbeat_count: usize,
    pub(super) fetch_count: usize,
    pub(super) drained_count: usize,
    /// What operators were answered.
    pub(super) outcomes: Vec<(u64, Outcome)>,
    pub(super) credit_bytes: usize,
    /// Most deliveries that one engine asked for in one turn.
    pub(super) deliveries_max: usize,
    /// Batches that have to be synced.
    pub(super) durable_count: usize,
    reply_count: u64,
}

impl Script {
    pub(super) fn new(loops: u16) -> Self {
        Self::with(loops, |_| ())
    }

    pub(super) fn with(loops: u16, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            loops,
            limits: StoreLimits::default().resolve().unwrap(),
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(10),
            heartbeat_failures_max: 10,
            replace_durable: false,
            inbox_len_max: 1_000,
            subscription_ids_store_wide: false,
            partition: None,
            message_overhead_max: 0,
            gathers_first: false,
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
            wall_ahead: Duration::ZERO,
            restarts: 0,
            mail: VecDeque::new(),
            random: None,
            is_holding: false,
            is_holding_reads: false,
            held: VecDeque::new(),
            unreadable: BTreeSet::new(),
            listens: BTreeMap::new(),
            watched: BTreeMap::new(),
            congested: BTreeSet::new(),
            pulses: BTreeMap::new(),
            sent: Vec::new(),
            sent_to: Vec::new(),
            answers: BTreeMap::new(),
            ack_inboxes: BTreeMap::new(),
            log: Vec::new(),
            heartbeat_count: 0,
            fetch_count: 0,
            drained_count: 0,
            outcomes: Vec::new(),
            credit_bytes: 0,
            deliveries_max: 0,
            durable_count: 0,
            reply_count: 0,
        };
        script.restart();
        script
    }

    fn now(&self) -> Now {
        let nanos = u64::try_from(self.at.as_nanos()).unwrap();
        let wall = WallTime(EPOCH + i64::try_from(nanos).unwrap());
        Now { at: Instant(nanos), wall: wall + self.wall_ahead }
    }

    /// The wall clock is so many seconds ahead from now on.
    pub(super) fn set_wall_ahead(&mut self, secs: u64) {
        self.wall_ahead = Duration::from_secs(secs);
    }

    /// The tokens of the inboxes on which acknowledgements arrive.
    pub(super) fn ack_tokens(&self) -> BTreeSet<u64> {
        let tokens = self.listens.values().map(|(_, token)| *token);
        tokens.filter(|token| !matches!(*token, 0 | u64::MAX)).collect()
    }

    /// Kills all engines, and starts new ones from what the store holds.
    pub(super) fn restart(&mut self) {
        self.restarts += 1;
        self.listens.clear();
        self.watched.clear();
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
            if let Some((way, input)) = self.next_mail() {
                let index = way % self.engines.len();
                self.engines[index].handle(input, now);
                is_quiet = false;
            }
            if is_quiet {
                return;
            }
        }
        panic!("the engines never come to rest");
    }

    fn next_mail(&mut self) -> Option<(usize, Input)> {
        let Some(random) = &mut self.random else {
            return self.mail.pop_front();
        };
        if self.mail.is_empty() {
            return None;
        }
        let picked = usize::try_from(random.below(self.mail.len() as u64)).unwrap();
        let way = self.mail[picked].0;
        let first = self.mail.iter().position(|(found, _)| *found == way)?;
        self.mail.remove(first)
    }

    /// From now on what has no promised order is shuffled.
    pub(super) fn shuffle(&mut self, seed: u64) {
        self.random = Some(Random::new(seed));
    }

    /// Carries out what an engine asks for; true if there was something.
    fn drain(&mut self, index: usize) -> bool {
        let mut is_busy = false;
        let sent_count = self.sent.len();
        while let Some(effect) = self.engines[index].poll_effect() {
            is_busy = true;
            self.carry_out(index, effect);
        }
        self.deliveries_max = self.deliveries_max.max(self.sent.len() - sent_count);
        is_busy
    }

    fn carry_out(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Send { subject, reply, payload } => {
                let payload = Bytes::from([&payload.head[..], &payload.tail[..]].concat());
                self.on_sent(index, subject, reply.map(|reply| *reply), payload);
            }
            Effect::Deliver { key, inbox, payload } => {
                assert_eq!(self.watched.get(&(index, key)), Some(&inbox), "it is watched");
                let payload = Bytes::from([&payload.head[..], &payload.tail[..]].concat());
                self.on_sent(index, inbox, None, payload);
            }
            Effect::Watch { key, inbox, needs_listener: _ } => {
                let has_room = !self.congested.contains(&inbox);
                let old = self.watched.insert((index, key), inbox);
                assert!(old.is_none(), "one inbox for each subscription");
                let now = self.now();
                self.engines[index].handle(Input::Room { key, has_room }, now);
            }
            Effect::Unwatch { key } => {
                self.watched.remove(&(index, key)).expect("only what is watched is given up");
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
                self.durable_count += usize::from(batch.durable);
                assert_bounded(&batch, &self.settings);
                let report = self.shelf.commit(&batch);
                let way = index + self.engines.len();
                let input = Input::Store(StoreAnswer::Committed { ticket, report, batch });
                if self.is_holding {
                    self.held.push_back((way, input));
                } else {
                    self.mail.push_back((way, input));
                }
            }
            Effect::Answer { token, outcome } => {
                self.outcomes.push((token, outcome));
            }
            Effect::Read(StoreRead::Fetch(request)) => {
                self.fetch_count += 1;
                let result = self.read(&request);
                let (way, ticket) = (index + self.engines.len(), request.ticket);
                let queue = if self.is_holding_reads { &mut self.held } else { &mut self.mail };
                queue.push_back((way, Input::Store(StoreAnswer::Fetched { ticket, result })));
            }
            Effect::Read(StoreRead::FindTime { ticket, channel, at }) => {
                let result = Ok(self.shelf.find_time(&channel, at));
                let way = index + self.engines.len();
                self.mail.push_back((way, Input::Store(StoreAnswer::FoundTime { ticket, result })));
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

    /// What the store reads, up to the first message that it cannot read.
    fn read(&self, request: &FetchRequest) -> Result<Vec<MessageRecord>, String> {
        let mut records = self.shelf.fetch(request);
        let is_damaged = |record: &MessageRecord| self.unreadable.contains(&record.sequence.0);
        match records.iter().position(is_damaged) {
            Some(0) => Err("damaged".to_owned()),
            Some(count) => {
                records.truncate(count);
                Ok(records)
            }
            None => Ok(records),
        }
    }

    /// From now on the store can read all messages but these.
    pub(super) fn damage(&mut self, sequences: &[u64]) {
        self.unreadable = sequences.iter().copied().collect();
    }

    /// The connection that reads `inbox` is full, or has room again.
    pub(super) fn set_room(&mut self, inbox: &str, has_room: bool) {
        let inbox = Subject::from(format!("in.{inbox}"));
        let is_changed = if has_room {
            self.congested.remove(&inbox)
        } else {
            self.congested.insert(inbox.clone())
        };
        assert!(is_changed);
        let keys = self.watched.iter().filter(|(_, found)| **found == inbox);
        for (index, key) in keys.map(|(found, _)| *found).collect::<Vec<_>>() {
            self.mail.push_back((index, Input::Room { key, has_room }));
        }
        self.run();
    }

    fn on_sent(&mut self, index: usize, subject: Subject, reply: Option<Subject>, payload: Bytes) {
        self.sent_to.push(subject.clone());
        if let Some(reply) = reply {
            self.heartbeat_count += 1;
            match self.pulses.get(&subject).copied().unwrap_or(Pulse::Gone) {
                Pulse::Alive => self.mail.push_back((
                    index,
                    Input::Inbox {
                        token: 0,
                        subject: reply,
                        payload: Bytes::new(),
                        origin: Arc::default(),
                        errand: None,
                    },
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

    /// What is read from the store comes only with `release` from now on.
    pub(super) fn hold_reads(&mut self) {
        self.is_holding_reads = true;
    }

    pub(super) fn release(&mut self) {
        self.is_holding = false;
        self.is_holding_reads = false;
        self.mail.append(&mut self.held);
        self.run();
    }

    /// The first of the reports that are held back comes.
    pub(super) fn release_one(&mut self) {
        self.mail.extend(self.held.pop_front());
        self.run();
    }

    /// What is held back never comes: what is to follow is a restart.
    pub(super) fn release_nothing(&mut self) {
        self.is_holding = false;
        self.is_holding_reads = false;
        self.held.clear();
    }

    /// From now on the store refuses what is written to `channel`.
    pub(super) fn refuse(&mut self, channel: &str, text: Option<&str>) {
        match text {
            Some(text) => self.shelf.refusals.insert(ChannelName::from(channel), text.to_owned()),
            None => self.shelf.refusals.remove(&ChannelName::from(channel)),
        };
    }

    /// From now on the beginning of what is refused is written: so many entries of subscriptions.
    pub(super) fn tear(&mut self, count: usize) {
        self.shelf.torn_after = count;
    }

    pub(super) fn refuse_clients(&mut self, text: Option<&str>) {
        self.shelf.clients_refused = text.map(str::to_owned);
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

    pub(super) fn has_client_record(&self, client: &str) -> bool {
        self.shelf.clients.contains_key(client.as_bytes())
    }

    /// An operator asks for a change; answered under `token`.
    pub(super) fn administer(&mut self, token: u64, change: Change) {
        let loops = self.settings.loops;
        let index = match &change {
            Change::CloseClient(client) => placement::of_client(client, loops),
            Change::Purge { channel, .. }
            | Change::DeleteChannel { channel, .. }
            | Change::CloseSubscription { channel, .. }
            | Change::ResetDurable { channel, .. }
            | Change::RemoveDurable { channel, .. } => placement::of_channel(channel, loops),
        };
        self.mail.push_back((index.index(), Input::Administer { token, change }));
        self.run();
    }

    /// Messages of a channel that the store removes, up to `last`.
    pub(super) fn expire(&mut self, channel: &str, last: u64) {
        let name = ChannelName::from(channel);
        let stored = self.shelf.channels.get_mut(&name).unwrap();
        stored.messages.retain(|sequence, _| last < sequence.0);
        let state = stored.state();
        let index = placement::of_channel(&name, self.settings.loops).index();
        let trimmed = StoreAnswer::Trimmed { channel: name, state };
        self.mail.push_back((index, Input::Store(trimmed)));
        self.run();
    }

    /// Messages behind `last` that a power cut took, before anybody was told of them.
    pub(super) fn lose_messages_after(&mut self, channel: &str, last: u64) {
        let stored = self.shelf.channels.get_mut(&ChannelName::from(channel)).unwrap();
        stored.messages.retain(|sequence, _| sequence.0 <= last);
        stored.last = Sequence(last);
    }

    /// The records of the channel's subscriptions, as if they had been written before anything was
    /// sent.
    pub(super) fn forget_positions(&mut self, channel: &str) {
        let stored = self.shelf.channels.get_mut(&ChannelName::from(channel)).unwrap();
        stored.subscriptions.values_mut().for_each(|(state, _)| state.last_sent = 0);
    }

    /// The numbers of the inputs that are done since the last call.
    pub(super) fn done(&mut self) -> Vec<u64> {
        self.finished().into_iter().map(|(number, _)| number).collect()
    }

    /// The same, with whether they are publishes that are not stored.
    pub(super) fn finished(&mut self) -> Vec<(u64, bool)> {
        let all = self.engines.iter_mut().flat_map(|engine| engine.take_done());
        let number = |finished: Finished| (finished.errand.number, finished.is_unstored);
        let mut numbers: Vec<(u64, bool)> = all.map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    pub(super) fn drain_all(&mut self) {
        for index in 0..self.engines.len() {
            self.mail.push_back((index, Input::Drain));
        }
        self.run();
    }

    pub(super) fn listed(&self, wanted: &Wanted) -> Snapshot {
        Snapshot::merge(self.engines.iter().map(|engine| engine.snapshot(wanted)).collect())
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let whole = self.listed(&Wanted::All);
        let counted = (whole.clients.len(), whole.channels.len(), whole.subscription_count());
        let totals = whole.totals;
        assert_eq!((totals.clients, totals.channels, totals.subscriptions), counted);
        whole
    }

    /// What waits for the store beside messages, in all engines.
    pub(super) fn held_bytes(&self) -> usize {
        self.engines.iter().map(Engine::held_bytes).sum()
    }

    /// Bytes of messages that are kept in memory for those who keep up.
    pub(super) fn recent_bytes(&self) -> usize {
        let channels = self.engines.iter().flat_map(|engine| engine.channels.slab.iter());
        let recent = channels.flat_map(|(_, channel)| &channel.recent);
        recent.map(|record| record.encoded.len()).sum()
    }

    /// Whether readers may read ahead as much as if nobody had.
    pub(super) fn has_nothing_ahead(&mut self) -> bool {
        self.engines.iter_mut().all(|engine| {
            let is_free = engine.reads.try_keep(AHEAD_BYTES_MAX);
            engine.reads.give_up(if is_free { AHEAD_BYTES_MAX } else { 0 });
            is_free
        })
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

    /// Puts messages into a channel of the store up to `last`, and starts the engines anew.
    pub(super) fn store_messages(&mut self, channel: &str, last: u64) {
        let stored = self.shelf.channels.get_mut(&ChannelName::from(channel)).unwrap();
        let timestamp = stored.messages.values().next_back().unwrap().timestamp;
        for sequence in stored.last.0 + 1..=last {
            let subject = Bytes::from(channel.to_owned());
            let message =
                pb::MsgProto { sequence, subject, timestamp: timestamp.0, ..Default::default() };
            let encoded = Bytes::from(message.encode_to_vec());
            let sequence = Sequence(sequence);
            stored.messages.insert(sequence, MessageRecord { sequence, timestamp, encoded });
            stored.last = sequence;
        }
        self.restart();
    }

    /// What a client knows of a subscription that it did not make in this run.
    pub(super) fn set_ack_inbox(&mut self, inbox: &str, ack_inbox: &'static str) {
        self.ack_inboxes.insert(inbox.to_owned(), Bytes::from_static(ack_inbox.as_bytes()));
    }

    /// From now on `inbox` leaves by its delivery inbox.
    pub(super) fn forget_ack_inbox(&mut self, inbox: &str) {
        self.ack_inboxes.remove(inbox);
    }

    pub(super) fn ack_inbox(&self, inbox: &str) -> Bytes {
        self.ack_inboxes[inbox].clone()
    }

    pub(super) fn loops(&self) -> usize {
        self.engines.len()
    }

    /// The data of every message that the store holds in a channel, in order.
    pub(super) fn contents(&self, channel: &str) -> Vec<String> {
        let Some(stored) = self.shelf.channels.get(&ChannelName::from(channel)) else {
            return Vec::new();
        };
        let decoded = stored.messages.values().map(|record| {
            let message = pb::MsgProto::decode(record.encoded.clone()).unwrap();
            assert_eq!(message.sequence, record.sequence.0);
            assert_eq!(message.timestamp, record.timestamp.0);
            text(&message.data)
        });
        decoded.collect()
    }

    /// The payload and the reply of each message that the store holds in a channel.
    pub(super) fn letters(&self, channel: &str) -> Vec<(Bytes, String)> {
        let stored = self.shelf.channels.get(&ChannelName::from(channel));
        let records = stored.into_iter().flat_map(|stored| stored.messages.values());
        let decoded = records.map(|record| {
            let message = pb::MsgProto::decode(record.encoded.clone()).unwrap();
            (message.data, text(&message.reply))
        });
        decoded.collect()
    }

    /// How many counts of deliveries the store holds for a channel.
    pub(super) fn count_count(&self, channel: &str) -> usize {
        let stored = self.shelf.channels.get(&ChannelName::from(channel));
        stored.map_or(0, |stored| stored.deliveries.len())
    }

    /// Deliveries since the last look: inbox, sequence, redelivery count.
    pub(super) fn deliveries(&mut self) -> Vec<(String, u64, u32)> {
        let sent = std::mem::take(&mut self.sent);
        let named = sent.into_iter().map(|(subject, message)| {
            let inbox = subject.to_string().trim_start_matches("in.").to_owned();
            (inbox, message.sequence, message.redelivery_count)
        });
        named.collect()
    }
}

/// As the store worker does.
fn assert_bounded(batch: &Batch, settings: &Settings) {
    let (loops, overhead) = (settings.loops, settings.message_overhead_max);
    let messages = || batch.channels.iter().flat_map(|part| &part.messages);
    let count = messages().count();
    let count_max = unsynced_share(UNSYNCED_MESSAGES_MAX, loops);
    assert!(count <= count_max, "a batch of {count} messages: at most {count_max}");
    let counted = |message: &MessageRecord| {
        (message.encoded.len() + overhead).min(UNSYNCED_MESSAGE_BYTES_MAX)
    };
    let bytes = messages().map(counted).sum::<usize>();
    let bytes_max = unsynced_share(UNSYNCED_BYTES_MAX, loops);
    assert!(bytes <= bytes_max, "a batch of {bytes} bytes: at most {bytes_max}");
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
