//! registered clients, heartbeats, replacing a duplicate
//!
//! A client has one home engine, the only writer of its record; every engine knows every client,
//! to refuse requests of unknown ones. A connect request is answered after the record is written
//! and all engines know the client; a close request after all have forgotten it and wrote what
//! that changes (spec protocol, 1.3 and sections 6, 7, 13).
//!
//! ```text
//!            connect             all know it
//!  (none) ──────────► Joining ──────────────► Live ◄──answered── Probing
//!    ▲                                        │  └────duplicate────►│
//!    └──────── all forgot it ── Leaving ◄─────┴─────────silent──────┘
//! ```
//!
//! The subscriptions of a client end in many batches, and its record goes in one behind them. One
//! that does not go of its own accord is not to be there in part after a take-over, registered and
//! without what it has subscribed to: so its record says first that it leaves, and whoever recovers
//! such a record ends the client.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use crate::base::hash::QuickMap;
use crate::base::id::{ClientId, ConnectionId, LoopIndex, Subject};
use crate::base::limits::DUPLICATE_PROBE_TIMEOUT;
use crate::base::planted::{self, Bug};
use crate::base::record::ClientWrite;
use crate::base::subject;
use crate::base::time::Now;
use crate::engine::administration::Outcome;
use crate::engine::commit::After;
use crate::engine::effect::{Effect, Level, Payload};
use crate::engine::input::{ClientEntry, PeerMessage};
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::reply::Reply;
use crate::engine::snapshot::Hold;
use crate::engine::subscription::SubscriptionKey;
use crate::engine::{Engine, Timer};
use crate::proto::{pb, spb};

/// The version of the client protocol that the reference speaks.
const PROTOCOL: i32 = 1;

/// What every engine knows of a client.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) connection: ConnectionId,
    /// Its subscriptions in this engine's channels, in order of creation.
    pub(super) subscriptions: BTreeSet<SubscriptionKey>,
    pub(super) is_failing: bool,
}

/// A connect request that waits.
#[derive(Debug)]
struct Asker {
    request: pb::ConnectRequest,
    reply: Reply,
    /// Whether another one of this name had to go first.
    is_replacing: bool,
}

impl Asker {
    /// Whether a former active has registered just this one.
    fn is_done(&self, info: &spb::ClientInfo) -> bool {
        self.reply.is_again()
            && self.request.conn_id == info.conn_id
            && self.request.heartbeat_inbox == info.hb_inbox
    }

    /// Without a hold on the bytes that it came with.
    fn detached(self) -> Self {
        let request = pb::ConnectRequest {
            client_id: detached(&self.request.client_id),
            heartbeat_inbox: detached(&self.request.heartbeat_inbox),
            conn_id: detached(&self.request.conn_id),
            ..self.request
        };
        Self { request, ..self }
    }
}

/// What came for a client ID while an earlier request of it was under way: it is looked at when
/// that is done, as with the reference.
#[derive(Debug)]
enum Waiting {
    Connect(Box<Asker>),
    /// With where the answer goes.
    Close(Reply),
}

/// Where a client stands at its home.
#[derive(Debug)]
enum Stage {
    /// Its record is being written, or other engines have not confirmed yet.
    Joining {
        reply: Reply,
        is_replacing: bool,
        missing_count: usize,
        waiting: Vec<Waiting>,
    },
    Live,
    /// Another connect request named its ID: it was asked whether it lives.
    Probing(Box<Asker>),
    /// Engines forget it.
    Leaving {
        reply: Option<Reply>,
        missing_count: usize,
        waiting: Vec<Waiting>,
    },
}

/// A client at its home.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) info: spb::ClientInfo,
    stage: Stage,
    pub(super) failed_heartbeats: u32,
    /// The heartbeat request that is not answered yet.
    heartbeat: Option<u64>,
    /// Operators that wait for its end.
    operators: Vec<u64>,
}

/// What a request to a client's heartbeat inbox is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Heartbeat,
    Probe,
}

/// The clients as one engine sees them.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) known: QuickMap<ClientId, Known>,
    by_connection: QuickMap<ConnectionId, ClientId>,
    /// Connections of clients that leave, until their records are gone: they may do nothing any
    /// more, but were not replaced.
    leaving: BTreeSet<ConnectionId>,
    pub(super) homes: BTreeMap<ClientId, Home>,
    /// Requests to clients that are not answered yet, by the last token of their reply subject.
    questions: QuickMap<u64, (ClientId, Question)>,
    last_question: u64,
    /// Requests of clients that are only joining or leaving.
    pub(super) waiting_count: usize,
}

impl Clients {
    /// Whether a request with these IDs comes from a registered client (spec protocol, 6.3).
    pub(super) fn is_valid(&self, client: &[u8], connection: &[u8]) -> bool {
        if connection.is_empty() {
            self.known.contains_key(client)
        } else {
            self.by_connection.contains_key(connection)
        }
    }

    /// Clients that can be found by their connection's ID.
    pub(super) fn connection_count(&self) -> usize {
        self.by_connection.len()
    }

    /// Whether nobody is coming or going.
    pub(super) fn are_settled(&self) -> bool {
        self.homes.values().all(|home| matches!(home.stage, Stage::Live | Stage::Probing(_)))
    }

    fn know(&mut self, client: ClientId, connection: ConnectionId) {
        if !connection.is_empty() {
            self.by_connection.insert(connection.clone(), client.clone());
        }
        self.known.insert(client, Known { connection, ..Known::default() });
    }

    fn forget(&mut self, client: &ClientId) -> Option<Known> {
        let known = self.known.remove(client)?;
        if self.by_connection.get(&known.connection) == Some(client) {
            self.by_connection.remove(&known.connection);
            self.leaving.insert(known.connection.clone());
        }
        Some(known)
    }

    fn ask(&mut self, client: &ClientId, question: Question) -> u64 {
        self.last_question += 1;
        self.questions.insert(self.last_question, (client.clone(), question));
        self.last_question
    }
}

fn is_client_id(id: &[u8]) -> bool {
    !id.is_empty() && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// A copy of its own: a stored field must not keep a read buffer alive.
fn detached(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

impl Engine {
    /// A client of the store; each engine knows it, its home keeps it.
    pub(super) fn recover_client(&mut self, info: spb::ClientInfo, now: Now) {
        let client = ClientId::from(info.id.clone());
        self.clients.know(client.clone(), ConnectionId::from(info.conn_id.clone()));
        if self.is_home(&client) {
            self.timers
                .arm(Timer::Heartbeat(client.clone()), now.at + self.settings.heartbeat_interval);
            let home = Home {
                info,
                stage: Stage::Live,
                failed_heartbeats: 0,
                heartbeat: None,
                operators: Vec::new(),
            };
            self.clients.homes.insert(client, home);
        }
    }

    fn is_home(&self, client: &ClientId) -> bool {
        crate::base::placement::of_client(client, self.settings.loops) == self.index
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = LoopIndex> + use<> {
        let index = self.index;
        (0..self.settings.loops).map(LoopIndex).filter(move |peer| *peer != index)
    }

    fn peer_count(&self) -> usize {
        usize::from(self.settings.loops.saturating_sub(1))
    }

    /// A connect request (spec protocol, 6.1).
    pub(super) fn on_connect(&mut self, request: pb::ConnectRequest, reply: Reply, now: Now) {
        let inbox = &request.heartbeat_inbox;
        // Compat: any other inbox is taken, be it that nobody can listen there; pinned by
        // `any_heartbeat_inbox_is_taken_and_nothing_is_sent_to_one_that_breaks_a_line`.
        if inbox.is_empty() || self.settings.inbox_len_max < inbox.len() {
            self.log(Level::Error, || {
                format!(
                    "[Client:?] Invalid conn request: ClientID={}, Inbox={}, err=<nil>",
                    String::from_utf8_lossy(&request.client_id),
                    String::from_utf8_lossy(&request.heartbeat_inbox),
                )
            });
            return self.refuse_connect(&reply, &Refusal::InvalidConnect);
        }
        if !is_client_id(&request.client_id) {
            self.log(Level::Error, || {
                format!(
                    "[Client:{}] Invalid ClientID, only alphanumeric and `-` or `_` characters \
                     allowed",
                    String::from_utf8_lossy(&request.client_id)
                )
            });
            return self.refuse_connect(&reply, &Refusal::InvalidClientId);
        }
        self.on_asker(Asker { request, reply, is_replacing: false }, now);
    }

    /// A connect request that can be granted, if nobody else has its client ID.
    fn on_asker(&mut self, asker: Asker, now: Now) {
        let client = ClientId::from(asker.request.client_id.clone());
        let Some(home) = self.clients.homes.get_mut(&client) else {
            return self.join(asker, now);
        };
        if asker.is_done(&home.info) && matches!(home.stage, Stage::Live) {
            return self.welcome(&client, &asker.reply);
        }
        match &mut home.stage {
            Stage::Live => {
                home.stage = Stage::Probing(Box::new(asker.detached()));
                let inbox = Subject::from(home.info.hb_inbox.clone());
                let question = self.clients.ask(&client, Question::Probe);
                self.send_question(inbox, question);
                self.tell_joining(&client, true, now);
                self.timers.arm(Timer::Probe(client, question), now.at + DUPLICATE_PROBE_TIMEOUT);
            }
            // One of them waits, as one is examined; nobody gets between one that is replaced and
            // who replaces it.
            Stage::Joining { waiting, is_replacing: false, .. }
            | Stage::Leaving { waiting, .. }
                if !waiting.iter().any(|one| matches!(one, Waiting::Connect(_))) =>
            {
                waiting.push(Waiting::Connect(Box::new(asker.detached())));
                self.clients.waiting_count += 1;
                self.tell_joining(&client, true, now);
            }
            Stage::Joining { .. } | Stage::Leaving { .. } | Stage::Probing(_) => {
                self.log(Level::Debug, || {
                    format!("[Client:{client}] Connect failed; already connected")
                });
                self.refuse_connect(&asker.reply, &Refusal::AlreadyRegistered);
            }
        }
    }

    /// Connect requests that wait for somebody else are not taken.
    pub(super) fn give_back_askers(&mut self) {
        for home in self.clients.homes.values_mut() {
            match &mut home.stage {
                Stage::Live => (),
                Stage::Probing(_) => {
                    let stage = std::mem::replace(&mut home.stage, Stage::Live);
                    if let Stage::Probing(asker) = stage {
                        asker.reply.give_back();
                    }
                }
                Stage::Joining { waiting, .. } | Stage::Leaving { waiting, .. } => {
                    let count = waiting.len();
                    for one in std::mem::take(waiting) {
                        match one {
                            Waiting::Connect(asker) => asker.reply.give_back(),
                            Waiting::Close(_) => waiting.push(one),
                        }
                    }
                    self.clients.waiting_count -= count - waiting.len();
                }
            }
        }
    }

    fn join(&mut self, asker: Asker, now: Now) {
        let Asker { request, reply, is_replacing } = asker;
        let info = spb::ClientInfo {
            id: detached(&request.client_id),
            hb_inbox: detached(&request.heartbeat_inbox),
            conn_id: detached(&request.conn_id),
            protocol: request.protocol,
            ping_interval: request.ping_interval,
            ping_max_out: request.ping_max_out,
            is_leaving: false,
        };
        let client = ClientId::from(info.id.clone());
        self.commits.client(ClientWrite::Add(info.clone()));
        self.tell_joining(&client, true, now);
        let (missing_count, waiting) = (self.peer_count(), Vec::new());
        let stage = Stage::Joining { reply, is_replacing, missing_count, waiting };
        let home =
            Home { info, stage, failed_heartbeats: 0, heartbeat: None, operators: Vec::new() };
        self.clients.homes.insert(client.clone(), home);
        self.do_after(After::Announce(client), now);
    }

    /// The record of a joining client is written.
    pub(super) fn announce_client(&mut self, client: &ClientId, now: Now) {
        let Some(home) = self.clients.homes.get(client) else {
            return;
        };
        let connection = ConnectionId::from(home.info.conn_id.clone());
        self.clients.know(client.clone(), connection.clone());
        for peer in self.peers() {
            let entry = ClientEntry { client: client.clone(), connection: connection.clone() };
            self.tell(peer, PeerMessage::ClientAdded(entry));
        }
        self.on_client_arrived(client, now);
        if self.peer_count() == 0 {
            self.joined(client, now);
        }
    }

    /// The store did not take the record of a joining client.
    pub(super) fn refuse_client(&mut self, client: &ClientId, refusal: &Refusal, now: Now) {
        let Some(home) = self.clients.homes.remove(client) else {
            return;
        };
        let text = refusal.text();
        self.log(Level::Error, || format!("[Client:{client}] Error registering client: {text}"));
        self.tell_joining(client, false, now);
        if let Stage::Joining { reply, waiting, .. } = home.stage {
            self.refuse_connect(&reply, refusal);
            self.go_on_with(client, waiting, now);
        }
    }

    /// What came before them is done.
    fn go_on_with(&mut self, client: &ClientId, waiting: Vec<Waiting>, now: Now) {
        self.clients.waiting_count -= waiting.len();
        for one in waiting {
            match one {
                Waiting::Connect(asker) => self.on_asker(*asker, now),
                Waiting::Close(reply) => self.on_close(client.as_bytes(), reply, now),
            }
        }
    }

    /// Another engine registered a client.
    pub(super) fn on_client_added(&mut self, from: LoopIndex, entry: ClientEntry, now: Now) {
        let client = entry.client.detached();
        self.clients.know(client.clone(), entry.connection.detached());
        self.on_client_arrived(&client, now);
        self.tell(from, PeerMessage::ClientAddedSeen(client));
    }

    /// Another engine knows the joining client.
    pub(super) fn on_client_added_seen(&mut self, client: &ClientId, now: Now) {
        if let Some(Home { stage: Stage::Joining { missing_count, .. }, .. }) =
            self.clients.homes.get_mut(client)
        {
            *missing_count -= 1;
            if *missing_count == 0 {
                self.joined(client, now);
            }
        }
    }

    fn joined(&mut self, client: &ClientId, now: Now) {
        let Some(home) = self.clients.homes.get_mut(client) else {
            return;
        };
        let Stage::Joining { reply, is_replacing, waiting, .. } =
            std::mem::replace(&mut home.stage, Stage::Live)
        else {
            unreachable!("only a joining client has joined");
        };
        let inbox = home.info.hb_inbox.clone();
        self.timers
            .arm(Timer::Heartbeat(client.clone()), now.at + self.settings.heartbeat_interval);
        self.welcome(client, &reply);
        self.log(Level::Debug, || {
            let what = if is_replacing { "Replaced old client" } else { "Connected" };
            format!("[Client:{client}] {what} (Inbox={})", String::from_utf8_lossy(&inbox))
        });
        self.go_on_with(client, waiting, now);
    }

    /// Answers the connect request of a client that is registered.
    fn welcome(&mut self, client: &ClientId, reply: &Reply) {
        let pings = self.pings_subject();
        let Some(home) = self.clients.homes.get(client) else {
            return;
        };
        let is_pinging = PROTOCOL <= home.info.protocol;
        let response = pb::ConnectResponse {
            pub_prefix: self.info.publish.clone(),
            sub_requests: self.info.subscribe.clone(),
            unsub_requests: self.info.unsubscribe.clone(),
            close_requests: self.info.close.clone(),
            sub_close_requests: self.info.sub_close.clone(),
            ping_requests: if is_pinging { pings } else { Bytes::new() },
            ping_interval: if is_pinging { home.info.ping_interval } else { 0 },
            ping_max_out: if is_pinging { home.info.ping_max_out } else { 0 },
            protocol: PROTOCOL,
            ..Default::default()
        };
        self.respond(reply, response.encode_to_vec().into());
    }

    pub(super) fn refuse_connect(&mut self, reply: &Reply, refusal: &Refusal) {
        let response = pb::ConnectResponse { error: refusal.text().into(), ..Default::default() };
        self.respond(reply, response.encode_to_vec().into());
    }

    /// A close request (spec protocol, 13.2).
    pub(super) fn on_close(&mut self, client: &[u8], reply: Reply, now: Now) {
        let stage = self.clients.homes.get_mut(client).map(|home| &mut home.stage);
        match stage {
            Some(Stage::Joining { waiting, .. }) => {
                waiting.push(Waiting::Close(reply));
                self.clients.waiting_count += 1;
            }
            Some(Stage::Leaving { waiting, .. }) if !waiting.is_empty() => {
                waiting.push(Waiting::Close(reply));
                self.clients.waiting_count += 1;
            }
            Some(Stage::Live | Stage::Probing(_)) => {
                self.leave(&ClientId::from(client), Some(reply), now);
            }
            None if reply.is_again() => self.respond(&reply, Bytes::new()),
            Some(Stage::Leaving { .. }) | None => {
                self.log(Level::Error, || {
                    format!(
                        "Unknown client {} in close request",
                        crate::engine::refusal::quoted(client)
                    )
                });
                self.refuse_close(&reply, &Refusal::UnknownClient);
            }
        }
    }

    pub(super) fn refuse_close(&mut self, reply: &Reply, refusal: &Refusal) {
        let response = pb::CloseResponse { error: refusal.text().into() };
        self.respond(reply, response.encode_to_vec().into());
    }

    /// Closes a client: for a request (with where its answer goes), or by itself.
    fn leave(&mut self, client: &ClientId, reply: Option<Reply>, now: Now) {
        let missing_count = self.peer_count() + 1;
        let Some(home) = self.clients.homes.get_mut(client) else {
            return;
        };
        let is_asked_for = reply.is_some();
        let leaving = Stage::Leaving { reply, missing_count, waiting: Vec::new() };
        let stage = std::mem::replace(&mut home.stage, leaving);
        if let (Stage::Probing(asker), Stage::Leaving { waiting, .. }) = (stage, &mut home.stage) {
            waiting.push(Waiting::Connect(Box::new(Asker { is_replacing: true, ..*asker })));
            self.clients.waiting_count += 1;
        }
        home.heartbeat = None;
        self.timers.cancel(&Timer::Heartbeat(client.clone()));
        if is_asked_for || planted::is(Bug::ClientUnmarked) {
            // Who has asked is gone, or asks again.
            return self.end_client(client, now);
        }
        home.info.is_leaving = true;
        self.commits.client(ClientWrite::Add(home.info.clone()));
        self.do_after(After::Marked(client.clone()), now);
    }

    /// Nothing keeps a client any more: each engine ends what it has here.
    pub(super) fn end_client(&mut self, client: &ClientId, now: Now) {
        for peer in self.peers() {
            self.tell(peer, PeerMessage::ClientRemoved(client.clone()));
        }
        self.forget_client(self.index, client, now);
    }

    /// What a former active has begun to end: each engine ends its part by itself, before it
    /// delivers anything.
    pub(super) fn end_recovered_clients(&mut self, leaving: &[ClientId], now: Now) {
        for client in leaving {
            let missing_count = self.peer_count() + 1;
            if let Some(home) = self.clients.homes.get_mut(client) {
                self.timers.cancel(&Timer::Heartbeat(client.clone()));
                home.stage = Stage::Leaving { reply: None, missing_count, waiting: Vec::new() };
            }
            let home = crate::base::placement::of_client(client, self.settings.loops);
            self.forget_client(home, client, now);
        }
    }

    /// A client goes: its subscriptions end here, then its home is told.
    pub(super) fn forget_client(&mut self, home: LoopIndex, client: &ClientId, now: Now) {
        if let Some(known) = self.clients.forget(client) {
            self.close_subscriptions(client, &known.subscriptions, now);
        }
        self.do_after(After::Forgotten { home, client: client.clone() }, now);
    }

    /// What a leaving client left here is written.
    pub(super) fn forgotten(&mut self, home: LoopIndex, client: ClientId, now: Now) {
        if home == self.index {
            self.on_client_removed_seen(&client, now);
        } else {
            self.tell(home, PeerMessage::ClientRemovedSeen(client));
        }
    }

    /// One more engine has forgotten the leaving client.
    pub(super) fn on_client_removed_seen(&mut self, client: &ClientId, now: Now) {
        let Some(Home { stage: Stage::Leaving { missing_count, .. }, .. }) =
            self.clients.homes.get_mut(client)
        else {
            return;
        };
        *missing_count -= 1;
        if *missing_count == 0 {
            // Not before the end of its subscriptions is written everywhere: a store that has the
            // member of a group and not its client drops the member, and with it what it was sent
            // and did not acknowledge (P5).
            self.commits.client(ClientWrite::Delete(client.clone()));
            self.do_after(After::Unregistered(client.clone()), now);
        }
    }

    /// The record of a client that left is gone.
    pub(super) fn unregistered(&mut self, client: &ClientId, refused: Option<&Refusal>, now: Now) {
        let Some(Home { stage: Stage::Leaving { reply, waiting, .. }, info, operators, .. }) =
            self.clients.homes.remove(client)
        else {
            return;
        };
        let connection = ConnectionId::from(info.conn_id.clone());
        for peer in self.peers() {
            self.tell(peer, PeerMessage::ClientGone(connection.clone()));
        }
        self.on_client_gone(&connection);
        let inbox = String::from_utf8_lossy(&info.hb_inbox).into_owned();
        self.log(Level::Debug, || format!("[Client:{client}] Closed (Inbox={inbox})"));
        if let Some(reply) = reply {
            self.respond(&reply, Bytes::new());
        }
        self.closed_for_operators(operators, refused);
        self.go_on_with(client, waiting, now);
    }

    /// An operator closes a client; answered when nothing is left of it.
    pub(super) fn close_for_operator(
        &mut self,
        token: u64,
        client: &ClientId,
        now: Now,
    ) -> Result<Option<Outcome>, String> {
        let shown = quoted(client.as_bytes());
        let home = self.clients.homes.get_mut(client);
        let home = home.ok_or_else(|| format!("there is no client {shown}"))?;
        let is_leaving = match &home.stage {
            Stage::Joining { .. } => {
                return Err(format!("client {shown} is only connecting: ask again"));
            }
            Stage::Live | Stage::Probing(_) => false,
            Stage::Leaving { .. } => true,
        };
        home.operators.push(token);
        if !is_leaving {
            self.leave(client, None, now);
        }
        Ok(None)
    }

    /// No engine has anything of that client any more.
    pub(super) fn on_client_gone(&mut self, connection: &ConnectionId) {
        self.clients.leaving.remove(connection);
    }

    fn send_question(&mut self, inbox: Subject, question: u64) {
        if !subject::fits_a_line(inbox.as_bytes()) {
            // Nobody can listen there: it is a question without an answer.
            return;
        }
        let reply = Subject::from(format!("{}.{question}", self.reply_prefix));
        let payload = Payload::default();
        self.effects.push_back(Effect::Send { subject: inbox, reply: Some(reply.into()), payload });
    }

    /// Something came on the reply subject of a question, or nobody heard the question.
    pub(super) fn on_answer(&mut self, reply: &Subject, is_answered: bool, now: Now) {
        let token = reply.as_bytes().rsplit(|byte| *byte == b'.').next();
        let number = token.and_then(|token| std::str::from_utf8(token).ok()?.parse().ok());
        if let Some(number) = number {
            self.on_question_done(number, is_answered, now);
        }
    }

    /// A question was not answered in time.
    pub(super) fn on_question_due(&mut self, question: u64, now: Now) {
        self.on_question_done(question, false, now);
    }

    fn on_question_done(&mut self, number: u64, is_answered: bool, now: Now) {
        let Some((client, question)) = self.clients.questions.remove(&number) else {
            return;
        };
        match question {
            Question::Probe => {
                self.timers.cancel(&Timer::Probe(client.clone(), number));
                self.on_probed(&client, is_answered, now);
            }
            Question::Heartbeat => {
                self.timers.cancel(&Timer::Answer(client.clone(), number));
                self.on_heartbeat_done(&client, number, is_answered, now);
            }
        }
    }

    fn on_probed(&mut self, client: &ClientId, is_alive: bool, now: Now) {
        let Some(home) = self.clients.homes.get_mut(client) else {
            return;
        };
        if !matches!(home.stage, Stage::Probing(_)) {
            return;
        }
        if !is_alive {
            return self.leave(client, None, now);
        }
        if let Stage::Probing(asker) = std::mem::replace(&mut home.stage, Stage::Live) {
            self.log(Level::Debug, || {
                format!("[Client:{client}] Connect failed; already connected")
            });
            self.refuse_connect(&asker.reply, &Refusal::AlreadyRegistered);
            self.tell_joining(client, false, now);
        }
    }

    /// It is time to ask a client for a heartbeat (spec protocol, 7.1).
    pub(super) fn on_heartbeat_due(&mut self, client: &ClientId, now: Now) {
        let Some(home) = self.clients.homes.get(client) else {
            return;
        };
        let inbox = Subject::from(home.info.hb_inbox.clone());
        let question = self.clients.ask(client, Question::Heartbeat);
        if let Some(home) = self.clients.homes.get_mut(client) {
            home.heartbeat = Some(question);
        }
        self.send_question(inbox, question);
        let due = now.at + self.settings.heartbeat_timeout;
        self.timers.arm(Timer::Answer(client.clone(), question), due);
    }

    fn on_heartbeat_done(&mut self, client: &ClientId, number: u64, is_ok: bool, now: Now) {
        let Some(home) = self.clients.homes.get_mut(client) else {
            return;
        };
        if home.heartbeat != Some(number) {
            return;
        }
        home.heartbeat = None;
        let was_failing = home.failed_heartbeats > 0;
        home.failed_heartbeats = if is_ok { 0 } else { home.failed_heartbeats + 1 };
        if self.settings.heartbeat_failures_max < home.failed_heartbeats {
            self.log(Level::Error, || format!("[Client:{client}] Timed out on heartbeats"));
            return self.leave(client, None, now);
        }
        self.timers
            .arm(Timer::Heartbeat(client.clone()), now.at + self.settings.heartbeat_interval);
        let is_failing = !is_ok;
        if is_failing != was_failing {
            for peer in self.peers() {
                self.tell(peer, PeerMessage::HeartbeatsFailing(client.clone(), is_failing));
            }
            self.mark_failing(client, is_failing, now);
        }
    }

    /// The client's heartbeats began to fail, or work again.
    pub(super) fn mark_failing(&mut self, client: &ClientId, is_failing: bool, now: Now) {
        if let Some(known) = self.clients.known.get_mut(client) {
            known.is_failing = is_failing;
            for key in &known.subscriptions {
                if let Some(found) = self.subscriptions.by_key.get_mut(key) {
                    found.is_failing = is_failing;
                    if found.hold == Some(Hold::Counted) && !is_failing {
                        self.timers.arm(Timer::Redelivery(*key), now.at);
                    }
                }
            }
        }
    }

    /// A client asks whether it is still registered (spec protocol, 7.2).
    pub(super) fn on_ping(&mut self, ping: &pb::Ping, reply: &Reply, now: Now) {
        let connection: &[u8] = &ping.conn_id;
        let client = self.clients.by_connection.get(connection).cloned();
        let Some(client) = client.filter(|_| !connection.is_empty()) else {
            if self.clients.leaving.contains(connection) {
                return self.respond(reply, Bytes::new());
            }
            let response = pb::PingResponse { error: Refusal::Replaced.text().into() };
            return self.respond(reply, response.encode_to_vec().into());
        };
        self.respond(reply, Bytes::new());
        if !self.clients.known.get(&client).is_some_and(|known| known.is_failing) {
            return;
        }
        let home = crate::base::placement::of_client(&client, self.settings.loops);
        if home == self.index {
            self.on_pinged_while_failing(client, now);
        } else {
            self.tell(home, PeerMessage::PingedWhileFailing(client));
        }
    }

    /// A client that missed heartbeats pinged: ask it again soon.
    pub(super) fn on_pinged_while_failing(&mut self, client: ClientId, now: Now) {
        let is_idle = self.clients.homes.get(&client).is_some_and(|home| {
            home.failed_heartbeats > 0
                && home.heartbeat.is_none()
                && matches!(home.stage, Stage::Live | Stage::Probing(_))
        });
        if is_idle {
            let due = now.at + crate::base::limits::PING_HEARTBEAT_DELAY;
            self.timers.arm(Timer::Heartbeat(client), due);
        }
    }
}
