//! one subscription: position, in-flight set, life cycle
//!
//! ```text
//!             record written             left, durable
//!  Starting ────────────────► Online ────────────────► Offline
//!     ▲                                                   │
//!     └───────────────── subscribed again ────────────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::base::delivery_count::ReaderId;
use crate::base::go::show_time;
use crate::base::hash::QuickMap;
use crate::base::id::{ChannelName, ClientId, DurableName, QueueGroupName, Sequence, Subject};
use crate::base::id::{SubscriptionId, Ticket};
use crate::base::planted::{self, Bug};
use crate::base::random::Random;
use crate::base::record::{MessageRecord, StoreRead, SubscriptionWrite};
use crate::base::subject;
use crate::base::time::{Now, WallTime};
use crate::engine::Engine;
use crate::engine::channel::Found;
use crate::engine::commit::After;
use crate::engine::delivery::Reader;
use crate::engine::effect::{Effect, Interest, Level};
use crate::engine::pending::Pending;
use crate::engine::queue_group::{GroupKey, QueueGroup};
use crate::engine::redelivery::{Pass, PassKind};
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::reply::Reply;
use crate::engine::request::Request;
use crate::engine::snapshot::Hold;
use crate::engine::start::{Start, start_of};
use crate::proto::{pb, spb};

/// Names a subscription within its engine; never used again. Also the token of its ack inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SubscriptionKey(pub(super) u64);

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscriptionLife {
    /// Its record is being written; nothing is delivered to it.
    Starting,
    Online,
    /// A suspended durable, or the shadow of a durable queue group.
    Offline,
}

/// How to take a subscription back whose record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    Remove,
    /// It is offline again: a durable, or the shadow of its group.
    Suspend,
}

/// A subscription whose record is being written. The ack inbox tells it from a later one that
/// resumes the same record.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) key: SubscriptionKey,
    pub(super) ack_inbox: Subject,
    pub(super) reply: Reply,
    pub(super) undo: Undo,
}

/// A position in a channel, with what was read ahead of it.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    pub(super) last_sent: Sequence,
    /// Fetched and not delivered yet, ascending.
    pub(super) ahead: VecDeque<MessageRecord>,
    /// The fetch that is under way.
    pub(super) fetching: Option<Ticket>,
    /// Whether it waits for its share of a coming turn.
    pub(super) is_queued: bool,
}

/// One subscription, online or not.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    pub(super) channel: usize,
    pub(super) client: ClientId,
    pub(super) inbox: Subject,
    pub(super) ack_inbox: Subject,
    /// Of a plain durable; empty otherwise.
    pub(super) durable: DurableName,
    /// Empty for plain subscriptions; `<durable>:<group>` for durable groups.
    pub(super) queue: QueueGroupName,
    pub(super) group: Option<GroupKey>,
    /// As whom it reads, where deliveries are counted.
    pub(super) reader: ReaderId,
    pub(super) is_durable: bool,
    pub(super) in_flight_max: i32,
    pub(super) ack_wait_secs: i32,
    pub(super) life: SubscriptionLife,
    pub(super) cursor: Cursor,
    pub(super) pending: Pending,
    /// How often each message was redelivered; of a queue group it is the group that counts.
    pub(super) redeliveries: BTreeMap<Sequence, u32>,
    pub(super) is_stalled: bool,
    /// The connection that reads its inbox is full.
    pub(super) is_congested: bool,
    /// What has to go out before anything new does.
    pub(super) hold: Option<Hold>,
    /// Its client missed heartbeats.
    pub(super) is_failing: bool,
    pub(super) pass: Option<Box<Pass>>,
    /// For the debug line of its start.
    pub(super) start_text: String,
    /// Where the answer to its request goes, while that waits for the first messages.
    pub(super) unanswered: Option<Reply>,
}

impl Subscription {
    pub(super) fn ack_wait(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.ack_wait_secs).unwrap_or(0))
    }

    /// As whom it reads, over restarts and take-overs.
    pub(super) fn reader_id(&self) -> ReaderId {
        let Self { queue, durable, client, inbox, .. } = self;
        if !queue.is_empty() {
            ReaderId::of_group(queue.as_bytes())
        } else if durable.is_empty() {
            ReaderId::of_inbox(client.as_bytes(), inbox.as_bytes())
        } else {
            ReaderId::of_durable(client.as_bytes(), durable.as_bytes())
        }
    }

    pub(super) fn is_online(&self) -> bool {
        self.life == SubscriptionLife::Online
    }

    /// Whether it may be sent something, as far as its connection and what comes first go.
    pub(super) fn is_ready(&self) -> bool {
        self.is_online() && self.hold.is_none() && !self.is_congested
    }

    /// Why it gets no new messages now.
    pub(super) fn holdup(&self) -> Option<Hold> {
        let of_room = self.is_congested.then_some(Hold::NoRoom);
        let of_acks = self.is_stalled.then_some(Hold::Full);
        self.hold.or(of_room).or(of_acks).filter(|_| self.is_online())
    }

    pub(super) fn is_full(&self) -> bool {
        let more = usize::from(planted::is(Bug::OneTooManyInFlight));
        let aside = self.pending.aside_count();
        usize::try_from(self.in_flight_max).unwrap_or(0) + aside + more <= self.pending.len()
    }

    /// Its record as stored (spec protocol, 5.4).
    pub(super) fn record(&self) -> spb::SubState {
        let is_offline = self.life == SubscriptionLife::Offline;
        let is_shadow = is_offline && self.group.is_some();
        spb::SubState {
            id: self.id.0,
            client_id: if is_shadow { Bytes::new() } else { self.client.to_bytes() },
            q_group: self.queue.to_bytes(),
            inbox: self.inbox.to_bytes(),
            ack_inbox: self.ack_inbox.to_bytes(),
            max_in_flight: self.in_flight_max,
            ack_wait_in_secs: self.ack_wait_secs,
            durable_name: self.durable.to_bytes(),
            last_sent: self.cursor.last_sent.0,
            is_durable: self.is_durable,
            is_closed: is_offline && !is_shadow,
        }
    }
}

/// Keys begin at one of so many places.
const KEY_BEGINNINGS: u64 = 1 << 24;
/// More than an engine ever uses.
const KEYS_APART: u64 = 1 << 38;

/// The subscriptions and groups of one engine.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    pub(super) by_key: QuickMap<SubscriptionKey, Subscription>,
    pub(super) groups: QuickMap<GroupKey, QueueGroup>,
    pub(super) by_ack_inbox: QuickMap<Subject, SubscriptionKey>,
    last_key: u64,
    /// Store-wide ids: the next one of this engine.
    pub(super) next_id: u64,
    /// Subscribe requests that wait for a look-up by time.
    pub(super) finding: QuickMap<Ticket, (WallTime, pb::SubscriptionRequest, Reply)>,
}

impl Subscriptions {
    /// None yet. Keys begin somewhere else in each engine: what was decoded for a former one, and
    /// comes late, must name nothing in the next.
    pub(super) fn new(random: &mut Random) -> Self {
        Self { last_key: random.below(KEY_BEGINNINGS) * KEYS_APART, ..Self::default() }
    }

    /// Where a reader is, if it is still there.
    pub(super) fn cursor_mut(&mut self, reader: Reader) -> Option<&mut Cursor> {
        match reader {
            Reader::Plain(key) => self.by_key.get_mut(&key).map(|found| &mut found.cursor),
            Reader::Group(key) => self.groups.get_mut(&key).map(|found| &mut found.cursor),
        }
    }

    /// A key that was never used.
    pub(super) fn new_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }
}

/// `<client>-<channel>-<durable>`.
pub(super) fn durable_key(client: &[u8], channel: &[u8], durable: &[u8]) -> Bytes {
    Bytes::from([client, b"-", channel, b"-", durable].concat())
}

/// The name of a request's queue group; empty for a plain subscription.
fn group_name(request: &pb::SubscriptionRequest) -> QueueGroupName {
    if request.q_group.is_empty() || request.durable_name.is_empty() {
        return QueueGroupName::from(&request.q_group[..]);
    }
    QueueGroupName::from(&[&request.durable_name[..], b":", &request.q_group[..]].concat()[..])
}

impl Engine {
    /// A subscribe request (spec protocol, 9.1).
    pub(super) fn on_subscribe(
        &mut self,
        request: pb::SubscriptionRequest,
        reply: Reply,
        now: Now,
    ) {
        if let Err(refusal) = self.check_subscribe(&request) {
            return self.refuse_subscribe(&request, &reply, &refusal);
        }
        if !self.has_in_partition(&request.subject) {
            // Another server may have it.
            return;
        }
        if self.is_joining(&request.client_id)
            || !self.clients.known.contains_key(&request.client_id[..])
        {
            if self.settings.partition.is_none() {
                let refusal = Refusal::UnknownClient;
                self.refuse_subscribe(&request, &reply, &refusal);
            } else if let Err(reply) = self.await_subscriber(&request, reply, now) {
                self.refuse_early_subscribe(&request, &reply);
            }
            return;
        }
        let name = ChannelName::from(request.subject.clone());
        match self.find_or_create(&name, now) {
            Ok(Found::Channel(index)) => self.subscribe_to(index, request, reply, None, now),
            Ok(Found::Wait) => {
                self.wait_for_channel(&name, Request::Subscribe(Box::new(request)), reply);
            }
            Err(refusal) => self.refuse_subscribe(&request, &reply, &refusal),
        }
    }

    fn check_subscribe(&self, request: &pb::SubscriptionRequest) -> Result<(), Refusal> {
        if request.client_id.is_empty() {
            return Err(Refusal::ClientIdMissing);
        }
        if request.ack_wait_in_secs <= 0 {
            return Err(Refusal::InvalidAckWait);
        }
        if request.max_in_flight <= 0 {
            return Err(Refusal::InvalidInFlightMax);
        }
        if pb::StartPosition::try_from(request.start_position).is_err() {
            return Err(Refusal::InvalidStart);
        }
        if !subject::is_channel_name(&request.subject) {
            return Err(Refusal::InvalidSubject);
        }
        Ok(())
    }

    /// The channel exists. `found` is what a look-up by time gave.
    fn subscribe_to(
        &mut self,
        index: usize,
        request: pb::SubscriptionRequest,
        reply: Reply,
        found: Option<(WallTime, Sequence)>,
        now: Now,
    ) {
        self.stop_inactivity(index);
        if let Err((refusal, reply)) = self.try_subscribe(index, &request, reply, found, now) {
            self.refuse_subscribe(&request, &reply, &refusal);
            if self.channels.slab[index].request_count == 0 {
                self.start_inactivity(index, now);
            }
        }
    }

    #[allow(clippy::result_large_err, reason = "it is moved on at once")]
    fn try_subscribe(
        &mut self,
        index: usize,
        request: &pb::SubscriptionRequest,
        reply: Reply,
        found: Option<(WallTime, Sequence)>,
        now: Now,
    ) -> Result<(), (Refusal, Reply)> {
        if let Some(key) = self.subscribed_before(index, request, &reply) {
            self.answer_again(key, reply);
            return Ok(());
        }
        // These engines have made it or refused it, and it is not there: of one that is over its
        // client has heard, since it has ended it. It is not made once more.
        if reply.is_done() {
            return Err((Refusal::InvalidSubscribe, reply));
        }
        let group_name = group_name(request);
        let channel = &self.channels.slab[index];
        let mut durable = None;
        if !group_name.is_empty() {
            if request.durable_name.contains(&b':') {
                return Err((Refusal::ColonInDurable, reply));
            }
        } else if !request.durable_name.is_empty() {
            let name = channel.name.as_bytes();
            let key = durable_key(&request.client_id, name, &request.durable_name);
            durable = channel.durables.get(&key).copied();
        }
        if !subject::is_literal(&request.inbox) || self.settings.inbox_len_max < request.inbox.len()
        {
            return Err((Refusal::InvalidSubscribe, reply));
        }
        let group = channel.groups.get(&group_name).copied();
        if let Some(key) = durable {
            let is_online = self.subscriptions.by_key[&key].life != SubscriptionLife::Offline;
            if is_online && !self.settings.replace_durable {
                return Err((Refusal::DuplicateDurable, reply));
            }
            if is_online {
                self.remove_subscription(key, false, now);
                self.stop_inactivity(index);
            }
            self.resume(key, request, reply, now);
            return Ok(());
        }
        if let Some(key) = group.and_then(|group| self.subscriptions.groups[&group].shadow) {
            self.resume(key, request, reply, now);
            return Ok(());
        }
        let start = if group.is_some() {
            Start::After(Sequence::ZERO, String::new())
        } else if let Some((at, sequence)) = found {
            let at = show_time(at.0);
            Start::After(sequence.prev(), format!("from time time='{at}' seq={sequence}"))
        } else {
            start_of(request, channel, now)
        };
        match start {
            Start::Find(at) => {
                self.find_time(index, at, request, reply);
                Ok(())
            }
            Start::After(last_sent, text) => {
                self.create(index, request, reply, (last_sent, text), now)
            }
        }
    }

    /// The subscription that a former active has made for just this request. Inboxes are never used
    /// twice, so whoever is asked for with one that is here is here.
    fn subscribed_before(
        &self,
        index: usize,
        request: &pb::SubscriptionRequest,
        reply: &Reply,
    ) -> Option<SubscriptionKey> {
        if !reply.is_again() {
            return None;
        }
        let known = self.clients.known.get(&request.client_id[..])?;
        let is_it = |key: &&SubscriptionKey| {
            let found = self.subscriptions.by_key.get(*key);
            found.is_some_and(|found| {
                found.channel == index
                    && found.is_online()
                    && found.inbox.as_bytes() == &request.inbox[..]
            })
        };
        known.subscriptions.iter().find(is_it).copied()
    }

    fn find_time(
        &mut self,
        index: usize,
        at: WallTime,
        request: &pb::SubscriptionRequest,
        reply: Reply,
    ) {
        let channel = &mut self.channels.slab[index];
        channel.request_count += 1;
        let ticket = self.reads.new_ticket();
        self.subscriptions.finding.insert(ticket, (at, request.clone(), reply));
        let channel = channel.name.clone();
        self.effects.push_back(Effect::Read(StoreRead::FindTime { ticket, channel, at }));
    }

    /// A look-up by time came back.
    pub(super) fn on_found_time(
        &mut self,
        ticket: Ticket,
        result: Result<Sequence, String>,
        now: Now,
    ) {
        let Some((at, request, reply)) = self.subscriptions.finding.remove(&ticket) else {
            return self.on_age_found(ticket, result, now);
        };
        let Some(index) = self.channels.find(&request.subject) else {
            return self.refuse_subscribe(&request, &reply, &Refusal::ChannelDeleting);
        };
        let channel = &mut self.channels.slab[index];
        channel.request_count = channel.request_count.saturating_sub(1);
        // Compat: the client may have gone while the store looked; spec protocol 9.1, step 15.
        let refusal = match &result {
            Err(text) => Some(Refusal::Store(text.clone())),
            Ok(_) => self.check_subscribe(&request).err(),
        };
        match (refusal, result) {
            (None, Ok(sequence)) => {
                self.subscribe_to(index, request, reply, Some((at, sequence)), now);
            }
            (refusal, _) => {
                let refusal = refusal.unwrap_or(Refusal::UnknownClient);
                self.refuse_subscribe(&request, &reply, &refusal);
                self.start_inactivity(index, now);
            }
        }
    }

    fn new_ack_inbox(&mut self) -> Subject {
        Subject::from(format!("_INBOX.{}", self.random.unique_id()))
    }

    #[allow(clippy::result_large_err, reason = "it is moved on at once")]
    fn create(
        &mut self,
        index: usize,
        request: &pb::SubscriptionRequest,
        reply: Reply,
        (last_sent, start_text): (Sequence, String),
        now: Now,
    ) -> Result<(), (Refusal, Reply)> {
        let channel = &self.channels.slab[index];
        if channel.subscriptions_max != 0 && channel.subscriptions_max <= channel.record_count {
            return Err((Refusal::TooManySubscriptions, reply));
        }
        let queue = group_name(request);
        let is_plain = queue.is_empty();
        let durable = if is_plain { &request.durable_name[..] } else { b"" };
        let mut subscription = Subscription {
            id: self.new_subscription_id(index),
            channel: index,
            client: ClientId::from(&request.client_id[..]),
            inbox: Subject::from(&request.inbox[..]),
            ack_inbox: self.new_ack_inbox(),
            durable: DurableName::from(durable),
            queue,
            group: None,
            reader: ReaderId::default(),
            is_durable: !request.durable_name.is_empty(),
            in_flight_max: request.max_in_flight,
            ack_wait_secs: request.ack_wait_in_secs,
            life: SubscriptionLife::Starting,
            cursor: Cursor { last_sent, ..Cursor::default() },
            pending: Pending::default(),
            redeliveries: BTreeMap::new(),
            is_stalled: false,
            is_congested: false,
            hold: None,
            is_failing: false,
            pass: None,
            start_text,
            unanswered: None,
        };
        if self.channels.slab[index].counts() {
            subscription.reader = subscription.reader_id();
        }
        let (record, ack_inbox) = (subscription.record(), subscription.ack_inbox.clone());
        let key = self.adopt(subscription);
        let channel = &mut self.channels.slab[index];
        channel.record_count += 1;
        self.commits.subscription(index, channel, SubscriptionWrite::Create(record.into()));
        self.do_after(After::Start(Starting { key, ack_inbox, reply, undo: Undo::Remove }), now);
        Ok(())
    }

    pub(super) fn new_subscription_id(&mut self, index: usize) -> SubscriptionId {
        let channel = &mut self.channels.slab[index];
        let id = if self.settings.subscription_ids_store_wide {
            let id = self.subscriptions.next_id;
            self.subscriptions.next_id += u64::from(self.settings.loops.max(1));
            id
        } else {
            channel.subscription_id_max + 1
        };
        channel.subscription_id_max = channel.subscription_id_max.max(id);
        SubscriptionId(id)
    }

    /// Puts a subscription that is not offline where it belongs.
    pub(super) fn adopt(&mut self, subscription: Subscription) -> SubscriptionKey {
        let key = SubscriptionKey(self.subscriptions.new_key());
        let index = subscription.channel;
        let position = subscription.cursor.last_sent;
        if !subscription.durable.is_empty() {
            let channel = &mut self.channels.slab[index];
            let name = durable_key(
                subscription.client.as_bytes(),
                channel.name.as_bytes(),
                subscription.durable.as_bytes(),
            );
            channel.durables.insert(name, key);
        }
        let queue = subscription.queue.clone();
        self.subscriptions.by_key.insert(key, subscription);
        if !queue.is_empty() {
            self.join_group(index, &queue, key, position);
        }
        self.go_online(key);
        key
    }

    /// Enters an online subscription in its channel's and its client's lists.
    fn go_online(&mut self, key: SubscriptionKey) {
        let subscription = &self.subscriptions.by_key[&key];
        let channel = &mut self.channels.slab[subscription.channel];
        channel.active_count += 1;
        if subscription.group.is_none() {
            channel.plain.push(key);
        }
        self.subscriptions.by_ack_inbox.insert(subscription.ack_inbox.clone(), key);
        if let Some(known) = self.clients.known.get_mut(&subscription.client) {
            known.subscriptions.insert(key);
        }
    }

    /// A durable or shadow comes back (spec protocol, 15.3 and 14.4).
    fn resume(
        &mut self,
        key: SubscriptionKey,
        request: &pb::SubscriptionRequest,
        reply: Reply,
        now: Now,
    ) {
        let ack_inbox = self.new_ack_inbox();
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            unreachable!("an offline subscription is in the table until it is deleted");
        };
        found.client = ClientId::from(&request.client_id[..]);
        found.inbox = Subject::from(&request.inbox[..]);
        found.ack_inbox = ack_inbox.clone();
        found.in_flight_max = request.max_in_flight;
        found.ack_wait_secs = request.ack_wait_in_secs;
        found.life = SubscriptionLife::Starting;
        found.is_stalled = false;
        found.is_failing = false;
        found.hold = (!found.pending.is_empty()).then_some(Hold::Resumed);
        found.start_text = String::new();
        if planted::is(Bug::DurableStartsAnew) {
            found.cursor.last_sent = self.channels.slab[found.channel].last;
        }
        let (record, index, group) = (found.record(), found.channel, found.group);
        if let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
            group.shadow = None;
            group.members.push(key);
        }
        self.go_online(key);
        let channel = &mut self.channels.slab[index];
        self.commits.subscription(index, channel, SubscriptionWrite::Update(record.into()));
        self.do_after(After::Start(Starting { key, ack_inbox, reply, undo: Undo::Suspend }), now);
    }

    /// The record is written: answer, then deliver (spec protocol, 9.2).
    pub(super) fn start_subscription(&mut self, starting: Starting, now: Now) {
        let key = starting.key;
        let Some(found) = self.starting(&starting) else {
            // It ended, or was taken over, before it began.
            return self.respond_refusal(&starting.reply, &Refusal::UnknownClient);
        };
        found.life = SubscriptionLife::Online;
        found.unanswered = Some(starting.reply);
        // Nothing is sent before it is known whether there is room: the next input says so.
        found.is_congested = true;
        let (subject, inbox, index) = (found.ack_inbox.clone(), found.inbox.clone(), found.channel);
        let has_pending = !found.pending.is_empty();
        let group = found.group;
        self.effects.push_back(Effect::Listen { subject, interest: Interest::Own(key.0) });
        self.log_started(key);
        if let Some(group) = group {
            self.absorb_shadow(group, now);
        }
        if has_pending {
            self.arm_redelivery(key, now);
            self.begin_pass(key, PassKind::Resume, now);
        }
        let needs_listener = self.channels.slab[index].counts();
        self.effects.push_back(Effect::Watch { key: key.0, inbox, needs_listener });
        if self.is_draining {
            // Nothing is delivered any more, with which the answer could go.
            self.answer(key);
        }
    }

    fn log_started(&mut self, key: SubscriptionKey) {
        if !self.settings.debug {
            return;
        }
        let found = &self.subscriptions.by_key[&key];
        let is_joining = found.group.is_some_and(|group| {
            self.subscriptions.groups.get(&group).is_some_and(|group| group.members.len() > 1)
        });
        let verb = match (found.start_text.is_empty(), is_joining) {
            (false, _) => "Started new",
            (true, true) => "Added member to",
            (true, false) => "Resumed",
        };
        self.log_life(key, verb);
    }

    /// The life-cycle debug line (spec protocol, section 23).
    pub(super) fn log_life(&mut self, key: SubscriptionKey, verb: &str) {
        if !self.settings.debug {
            return;
        }
        let found = &self.subscriptions.by_key[&key];
        let which = if !found.queue.is_empty() {
            format!(" queue={},", found.queue)
        } else if !found.durable.is_empty() {
            format!(" durable={},", found.durable)
        } else {
            String::new()
        };
        let is_start = verb == "Started new" && !found.start_text.is_empty();
        let text = format!(
            "[Client:{}] {verb} {}{}subscription, subject={}, inbox={},{which} subid={}{}{}",
            found.client,
            if found.is_durable { "durable " } else { "" },
            if found.queue.is_empty() { "" } else { "queue " },
            self.channels.slab[found.channel].name,
            found.inbox,
            found.id,
            if is_start { ", sending " } else { "" },
            if is_start { &found.start_text } else { "" },
        );
        self.effects.push_back(Effect::Log { level: Level::Debug, text });
    }

    /// The store did not take the record of a new or resumed subscription.
    pub(super) fn undo_subscription(&mut self, starting: &Starting, refusal: &Refusal, now: Now) {
        let Starting { key, ref reply, undo, .. } = *starting;
        let Some(found) = self.starting(starting) else {
            return self.respond_refusal(reply, refusal);
        };
        let index = found.channel;
        match undo {
            Undo::Remove if found.pending.is_empty() => {
                self.drop_subscription(key);
                let channel = &mut self.channels.slab[index];
                channel.record_count = channel.record_count.saturating_sub(1);
            }
            // Messages that were sent before, or handed over by a member that left meanwhile, go on
            // to the other members, or wait.
            Undo::Remove | Undo::Suspend => self.remove_subscription(key, false, now),
        }
        self.start_inactivity(index, now);
        let text = refusal.text();
        let name = self.channels.slab[index].name.clone();
        let channel = String::from_utf8_lossy(name.as_bytes());
        self.log(Level::Error, || format!("Unable to add subscription for {channel}: {text}"));
        let channel = quoted(name.as_bytes());
        self.log(Level::Error, || format!("Unable to create subscription on {channel}: {text}"));
        self.respond_refusal(reply, refusal);
    }

    /// The subscription that waits for its record under this ack inbox.
    fn starting(&mut self, starting: &Starting) -> Option<&mut Subscription> {
        let found = self.subscriptions.by_key.get_mut(&starting.key)?;
        let is_same = found.ack_inbox == starting.ack_inbox;
        (is_same && found.life == SubscriptionLife::Starting).then_some(found)
    }

    /// All subscriptions of a channel, online or not.
    pub(super) fn subscriptions_of(
        &self,
        index: usize,
    ) -> impl Iterator<Item = SubscriptionKey> + '_ {
        let (channel, by_key) = (&self.channels.slab[index], &self.subscriptions.by_key);
        // Online ones are among the plain ones.
        let is_offline = |key: &&SubscriptionKey| {
            by_key.get(*key).is_some_and(|found| found.life == SubscriptionLife::Offline)
        };
        let durables = channel.durables.values().filter(is_offline);
        let groups = channel.groups.values().filter_map(|key| self.subscriptions.groups.get(key));
        let members = groups.flat_map(|group| group.members.iter().chain(&group.shadow));
        channel.plain.iter().chain(durables).chain(members).copied()
    }

    pub(super) fn channel_of(&self, key: SubscriptionKey) -> Option<usize> {
        self.subscriptions.by_key.get(&key).map(|found| found.channel)
    }

    /// A `SubscriptionResponse` with nothing but an error.
    pub(super) fn respond_refusal(&mut self, reply: &Reply, refusal: &Refusal) {
        let response =
            pb::SubscriptionResponse { ack_inbox: Bytes::new(), error: refusal.text().into() };
        self.respond(reply, response.encode_to_vec().into());
    }
}
