//! Engine: handle(input, now), effects, next deadline, check_invariants

pub mod administration;
mod answer;
mod channel;
mod client;
mod commit;
mod congestion;
mod crowd;
pub mod dead_letter;
mod delivery;
mod draining;
mod duplicates;
pub mod effect;
mod few_at_once;
pub mod input;
mod leave;
mod message;
mod partition;
mod pending;
mod policy;
pub mod publication;
mod publish;
mod queue_group;
pub mod recovery;
mod redelivery;
pub mod refusal;
mod reply;
pub mod request;
mod roster;
#[cfg(test)]
mod script;
#[cfg(test)]
mod shelf;
pub mod snapshot;
mod start;
mod subscription;
#[cfg(test)]
mod tests;
mod undecodable;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::channel_limits::ResolvedLimits;
use crate::base::deadlines::Deadlines;
use crate::base::errand::Finished;
use crate::base::id::{ClientId, LoopIndex, Subject};
use crate::base::partition::Partition;
use crate::base::random::Random;
use crate::base::record::{RecoveredChannel, StoreAnswer};
use crate::base::time::{Instant, Now};
use crate::engine::channel::Channels;
use crate::engine::client::Clients;
use crate::engine::commit::{After, Commits};
use crate::engine::dead_letter::DeadLettersUnderWay;
use crate::engine::delivery::Reads;
use crate::engine::duplicates::Pasts;
use crate::engine::effect::{Effect, Interest, Level, Service};
use crate::engine::input::{Input, PeerMessage};
use crate::engine::message::Encoder;
use crate::engine::partition::EarlyRequests;
use crate::engine::refusal::Refusal;
use crate::engine::reply::{Done, Reply};
use crate::engine::request::Request;
use crate::engine::snapshot::Traffic;
use crate::engine::subscription::{SubscriptionKey, Subscriptions};
use crate::proto::spb;

/// How the server was configured, as far as engines care; the same for all of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many engines share the channels and clients.
    pub loops: u16,
    /// Limits of the store and of each channel.
    pub limits: ResolvedLimits,
    /// Time between a client's heartbeats.
    pub heartbeat_interval: Duration,
    /// How long a heartbeat may stay unanswered.
    pub heartbeat_timeout: Duration,
    /// Failed heartbeats in a row that a client may have; one more closes it.
    pub heartbeat_failures_max: u32,
    /// Whether a subscribe request on an online durable replaces it.
    pub replace_durable: bool,
    /// Bytes that the longest legal inbox may have (`max_control_line` less the rest of a line).
    pub inbox_len_max: usize,
    /// Whether subscription ids are unique in the whole store (SQL) and not just in the channel.
    pub subscription_ids_store_wide: bool,
    /// The channels that this server has, where others of the cluster ID have other ones; `None`:
    /// all.
    pub partition: Option<Arc<Partition>>,
    /// How many bytes longer a message can be in the store than it is here: batches are bounded by
    /// what is written.
    pub message_overhead_max: usize,
    /// Whether batches wait for those who were answered before it is measured whether that is
    /// quicker.
    pub gathers_first: bool,
    /// Whether debug lines are logged; without it they are not even made.
    pub debug: bool,
    /// Whether trace lines are logged.
    pub trace: bool,
}

/// What one engine starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// Which engine.
    pub index: LoopIndex,
    /// The server's record: the subjects in it are the ones used.
    pub info: spb::ServerInfo,
    /// The record is new or repaired: engine 0 commits it before it serves.
    pub info_is_new: bool,
    /// All clients of the store; each engine keeps the home ones and knows the others.
    pub clients: Vec<spb::ClientInfo>,
    /// The channels of this engine.
    pub channels: Vec<RecoveredChannel>,
    /// Channels in the whole store.
    pub channel_count: u64,
    /// Highest subscription id in the whole store.
    pub subscription_id_max: u64,
    /// For inboxes and ids; another one for each engine and start.
    pub seed: u64,
}

/// The token of the inbox on which clients answer the engine's own requests.
const ANSWERS: u64 = 0;

/// Channels up to which all of them are checked after each input, in debug builds.
const CHECKED_CHANNELS_MAX: usize = 64;

/// What an engine waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A client is to be asked whether it lives.
    Heartbeat(ClientId),
    /// A heartbeat has to be answered.
    Answer(ClientId, u64),
    /// The holder of a client ID that somebody else wants has to answer.
    Probe(ClientId, u64),
    /// Pending messages of a subscription are due again.
    Redelivery(SubscriptionKey),
    /// The client of a request that came early has to be registered.
    Arrival(u64),
    /// A channel (slot and incarnation) was without subscriptions for long enough.
    Inactivity(usize, u64),
}

/// The streaming engine of one loop.
pub struct Engine {
    settings: Settings,
    index: LoopIndex,
    info: spb::ServerInfo,
    random: Random,
    /// `_INBOX.<id>`: clients answer on what follows it.
    reply_prefix: String,
    effects: VecDeque<Effect>,
    timers: Deadlines<Timer>,
    clients: Clients,
    early: EarlyRequests,
    channels: Channels,
    subscriptions: Subscriptions,
    commits: Commits,
    reads: Reads,
    encoder: Encoder,
    traffic: Traffic,
    /// Bytes of publishes that were answered since the last [`Effect::Credit`].
    credit_bytes: usize,
    done: Done,
    /// What is on its way to channels of dead letters.
    dead_letters: DeadLettersUnderWay,
    pasts: Pasts,
    is_draining: bool,
    /// Whether all that began here is done.
    is_finished: bool,
    /// Other engines of which the same is known.
    finished_peers: usize,
    is_drained: bool,
}

impl Engine {
    /// An engine with what was recovered; its first effects are the interests it needs.
    ///
    /// Engine 0 listens to the request subjects for all, after its commit of the server's record
    /// if that is new.
    #[must_use]
    pub fn recover(settings: Settings, start: Start, now: Now) -> Self {
        let mut random = Random::new(start.seed);
        let reply_prefix = format!("_INBOX.{}", random.unique_id());
        let subscriptions = Subscriptions::new(&mut random);
        let commits = Commits::new(&settings);
        let mut engine = Self {
            settings,
            index: start.index,
            info: start.info,
            random,
            reply_prefix,
            effects: VecDeque::new(),
            timers: Deadlines::default(),
            clients: Clients::default(),
            early: EarlyRequests::default(),
            channels: Channels::default(),
            subscriptions,
            commits,
            reads: Reads::default(),
            encoder: Encoder::default(),
            traffic: Traffic::default(),
            credit_bytes: 0,
            done: Done::default(),
            dead_letters: DeadLettersUnderWay::default(),
            pasts: Pasts::default(),
            is_draining: false,
            is_finished: false,
            finished_peers: 0,
            is_drained: false,
        };
        engine.channels.count = start.channel_count;
        let loops = u64::from(engine.settings.loops.max(1));
        let own = u64::from(engine.index.0);
        let base = start.subscription_id_max + 1;
        engine.subscriptions.next_id = base + (own + loops - base % loops) % loops;
        let subject = Subject::from(format!("{}.*", engine.reply_prefix));
        engine.effects.push_back(Effect::Listen { subject, interest: Interest::Own(ANSWERS) });
        let leaving = start.clients.iter().filter(|info| info.is_leaving);
        let leaving: Vec<ClientId> = leaving.map(|info| ClientId::from(info.id.clone())).collect();
        for info in start.clients {
            engine.recover_client(info, now);
        }
        engine.channels.reserve(start.channels.len());
        for channel in start.channels {
            engine.recover_channel(channel, now);
        }
        if engine.index == LoopIndex(0) {
            if start.info_is_new {
                engine.commits.server(engine.info.clone());
                engine.do_after(After::Serve, now);
            } else {
                engine.listen_to_services();
            }
        }
        engine.end_recovered_clients(&leaving, now);
        engine.start_recovered(now);
        engine.flush(now);
        engine
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Now) {
        if self.is_drained {
            return;
        }
        match input {
            Input::Request { request, reply, origin: _, errand } if !self.is_draining => {
                let is_publish = matches!(request, Request::Publish(_));
                let reply = self.done.reply(reply, errand, is_publish);
                self.take_request(request, reply, now);
            }
            // Whoever keeps it goes on keeping it.
            Input::Request { .. } => (),
            Input::Inbox { token: ANSWERS, subject, .. } => self.on_answer(&subject, true, now),
            Input::Inbox { token, payload, errand, .. } => {
                self.on_ack(SubscriptionKey(token), payload, now);
                if errand.is_some() {
                    self.commits.hold(self.done.reply(None, errand, false));
                }
            }
            Input::Room { key, has_room } => self.on_room(SubscriptionKey(key), has_room, now),
            Input::NoResponders { reply } => self.on_answer(&reply, false, now),
            Input::Peer { from, message } => self.on_peer(from, message, now),
            Input::Store(StoreAnswer::Committed { ticket, report, batch: _ }) => {
                self.on_committed(ticket, report, now);
            }
            Input::Store(StoreAnswer::Fetched { ticket, result }) => {
                self.on_fetched(ticket, result, now);
            }
            Input::Store(StoreAnswer::FoundTime { ticket, result }) => {
                self.on_found_time(ticket, result, now);
            }
            Input::Store(StoreAnswer::Trimmed { channel, state }) => {
                self.on_trimmed(&channel, state);
            }
            Input::Administer { token, change } => self.administer(token, change, now),
            Input::EndOfTurn => self.end_turn(now),
            Input::Drain => self.begin_draining(),
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Does what is due at `now`; what that stages is handed out at once, so that it does not
    /// depend on another turn.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.is_draining {
            return self.end_turn(now);
        }
        self.go_on(now);
        while let Some(timer) = self.timers.pop_due(now.at) {
            match timer {
                Timer::Heartbeat(client) => self.on_heartbeat_due(&client, now),
                Timer::Answer(_, question) | Timer::Probe(_, question) => {
                    self.on_question_due(question, now);
                }
                Timer::Arrival(number) => self.on_client_missing(number, now),
                Timer::Redelivery(key) => self.on_redelivery_due(key, now),
                Timer::Inactivity(index, incarnation) => self.on_inactive(index, incarnation, now),
            }
        }
        self.end_turn(now);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.reads.is_ready() && !self.is_draining {
            return Some(Instant(0));
        }
        let due_at = self.commits.due_at();
        if self.is_draining {
            return due_at.and(Some(Instant(0)));
        }
        due_at.into_iter().chain(self.timers.next_deadline()).min()
    }

    /// The next thing that the engine asks for, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The inputs that are done since the last call: what they were answered was asked for before.
    #[must_use]
    pub fn take_done(&mut self) -> Vec<Finished> {
        self.done.take()
    }

    fn end_turn(&mut self, now: Now) {
        self.look_at_held();
        self.emit_credit();
        self.flush(now);
        self.reads.begin_turn();
    }

    fn on_request(&mut self, request: Request, reply: Reply, now: Now) {
        match request {
            Request::Connect(request) => self.on_connect(*request, reply, now),
            Request::Publish(publication) => self.on_publish(publication, reply, now),
            Request::Subscribe(request) => self.on_subscribe(*request, reply, now),
            Request::Unsubscribe(request) => self.on_leave(*request, true, reply, now),
            Request::SubscriptionClose(request) => self.on_leave(*request, false, reply, now),
            Request::Close(request) => self.on_close(&request.client_id, reply, now),
            Request::Ping(ping) => self.on_ping(&ping, &reply, now),
            Request::Undecodable { service, guid, reason } => {
                self.on_undecodable(service, &guid, &reason, &reply);
            }
            Request::Ignored => (),
        }
    }

    fn on_undecodable(&mut self, service: Service, guid: &Bytes, reason: &str, reply: &Reply) {
        let info = &self.info;
        let from = |subject: &Bytes| String::from_utf8_lossy(subject).into_owned();
        let line = match service {
            Service::Connect => {
                format!("[Client:?] Invalid conn request: ClientID=, Inbox=, err={reason}")
            }
            Service::Publish => format!("Unable to unmarshal PubMsg: {reason}"),
            Service::Subscribe => {
                format!("Invalid Subscription request from {}: {reason}", from(&info.subscribe))
            }
            Service::Unsubscribe => {
                format!("Invalid unsub request from {}", from(&info.unsubscribe))
            }
            Service::SubscriptionClose => {
                format!("Invalid sub close request from {}", from(&info.sub_close))
            }
            Service::Close => {
                format!("Received invalid close request, subject={}", from(&info.close))
            }
            Service::Ping => String::new(),
        };
        self.log(Level::Error, || line);
        match service {
            Service::Connect => self.refuse_connect(reply, &Refusal::InvalidConnect),
            Service::Publish => self.refuse_publish(guid, reply, &Refusal::InvalidPublish),
            Service::Subscribe => self.respond_refusal(reply, &Refusal::InvalidSubscribe),
            Service::Unsubscribe | Service::SubscriptionClose => {
                self.respond_refusal(reply, &Refusal::InvalidUnsubscribe);
            }
            Service::Close => self.refuse_close(reply, &Refusal::InvalidClose),
            Service::Ping => (),
        }
    }

    fn on_peer(&mut self, from: LoopIndex, message: PeerMessage, now: Now) {
        match message {
            PeerMessage::ClientJoining(client, is_joining) => {
                self.on_client_joining(&client, is_joining, now);
            }
            PeerMessage::ClientAdded(entry) => self.on_client_added(from, entry, now),
            PeerMessage::ClientAddedSeen(client) => self.on_client_added_seen(&client, now),
            PeerMessage::ClientRemoved(client) => self.forget_client(from, &client, now),
            PeerMessage::ClientRemovedSeen(client) => self.on_client_removed_seen(&client, now),
            PeerMessage::ClientGone(connection) => self.on_client_gone(&connection),
            PeerMessage::HeartbeatsFailing(client, is_failing) => {
                self.mark_failing(&client, is_failing, now);
            }
            PeerMessage::PingedWhileFailing(client) => self.on_pinged_while_failing(client, now),
            PeerMessage::ChannelWanted(name) => self.on_channel_wanted(from, name),
            PeerMessage::ChannelGranted(name, is_granted) => {
                self.on_channel_granted(&name, is_granted, now);
            }
            PeerMessage::ChannelGone(_) => self.on_channel_gone(),
            PeerMessage::DeadLetter(letter) => self.on_dead_letter(from, *letter, now),
            PeerMessage::DeadLetterDone(awaiting, refused) => {
                self.on_dead_letter_done(&awaiting, refused, now);
            }
            PeerMessage::Finished => self.on_peer_finished(),
        }
    }

    fn pings_subject(&self) -> Bytes {
        Bytes::from([&self.info.discovery[..], b".pings"].concat())
    }

    /// Serves clients from now on (spec protocol, 1.2).
    fn listen_to_services(&mut self) {
        let publish = |channels: &[u8]| Bytes::from([&self.info.publish, channels].join(&b'.'));
        let publishes = match &self.settings.partition {
            Some(partition) => partition.widest().map(|entry| publish(entry)).collect(),
            None => vec![publish(b">")],
        };
        let requests = [
            (self.info.discovery.clone(), Service::Connect),
            (self.info.subscribe.clone(), Service::Subscribe),
            (self.info.unsubscribe.clone(), Service::Unsubscribe),
            (self.info.sub_close.clone(), Service::SubscriptionClose),
            (self.info.close.clone(), Service::Close),
            (self.pings_subject(), Service::Ping),
        ];
        let publishes = publishes.into_iter().map(|subject| (subject, Service::Publish));
        for (subject, service) in publishes.chain(requests) {
            let interest = Interest::Service(service);
            self.effects.push_back(Effect::Listen { subject: Subject::from(subject), interest });
        }
    }

    /// A line for the log; it is not even made if nobody wants its level.
    fn log(&mut self, level: Level, text: impl FnOnce() -> String) {
        let is_wanted = match level {
            Level::Error | Level::Warning | Level::Info => true,
            Level::Debug => self.settings.debug,
            Level::Trace => self.settings.trace,
        };
        if is_wanted {
            self.effects.push_back(Effect::Log { level, text: text() });
        }
    }

    /// What must hold between two inputs. Only what the last input can have touched cheaply:
    /// tests with many channels and clients run this after each.
    fn check_invariants(&self) {
        assert!(
            self.subscriptions.by_ack_inbox.len() <= self.subscriptions.by_key.len(),
            "an ack inbox belongs to a subscription"
        );
        assert!(self.clients.known.len() + 1 > self.clients.connection_count());
        if self.channels.slab.len() > CHECKED_CHANNELS_MAX {
            return;
        }
        for (index, channel) in &self.channels.slab {
            let name = &channel.name;
            assert!(channel.state.last <= channel.last, "{name}: committed beyond what was given");
            let first = channel.state.first;
            assert!(first <= channel.state.last.next(), "{name}: first beyond last");
            let newest = channel.recent.back().map(|record| record.sequence);
            assert!(newest.is_none_or(|newest| newest <= channel.state.last), "{name}: P1");
            let seen = channel.window.as_ref().and_then(|window| window.newest());
            assert!(seen.is_none_or(|seen| seen <= channel.last), "{name}: seen and not there");
            let mut active_count = channel.plain.len();
            for key in channel.groups.values() {
                let group = &self.subscriptions.groups[key];
                assert_eq!(group.channel, index, "{name}: a group of another channel");
                assert!(!group.members.is_empty() || group.shadow.is_some(), "{name}: no member");
                active_count += group.members.len();
                let mut waiters = group.waiters.keys();
                let is_member = |key| group.members.contains(key);
                assert!(waiters.all(is_member), "{name}: something waits at no member");
            }
            assert_eq!(channel.active_count, active_count, "{name}: active subscriptions");
            for key in channel.plain.iter() {
                let found = &self.subscriptions.by_key[key];
                assert!(found.cursor.last_sent <= channel.last, "{name}: position beyond the end");
                let is_served = self.timers.deadline(&Timer::Redelivery(*key)).is_some()
                    || found.pass.is_some()
                    || found.pending.is_empty()
                    || !found.is_online();
                assert!(is_served || self.is_draining, "{name}: nobody redelivers (P5)");
            }
        }
    }
}
