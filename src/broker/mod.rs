//! Broker of one core: handle(input, now), effects, next deadline
//!
//! Every loop has a broker with its own sessions and its own copy of the whole interest tree;
//! changes of interest travel between brokers as [`Mail`]. A broker owns the outbox of each of
//! its sessions; the reactor owns the sockets and moves bytes between both.

pub mod account;
#[cfg(test)]
mod account_tests;
pub mod asked;
pub mod auth;
mod backlog;
mod client;
mod delivery;
mod distinguished_name;
mod group;
mod hold;
mod kind;
#[cfg(test)]
mod kind_tests;
mod lifecycle;
pub mod listing;
mod login;
mod mail;
mod mesh;
pub mod outbox;
#[cfg(test)]
mod password_tests;
mod patterns;
mod peer_room;
mod publish;
mod read;
mod room;
#[cfg(test)]
mod room_tests;
mod route;
#[cfg(test)]
mod route_tests;
mod session;
pub mod settings;
pub mod snapshot;
mod sublist;
#[cfg(test)]
mod tests;
mod trace;
mod unheard;
#[cfg(test)]
mod work_tests;

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};

use crate::base::deadlines::Deadlines;
use crate::base::id::{AccountIndex, LoopIndex, SessionId, Subject};
use crate::base::limits::{SESSION_WORK_MAX, SESSION_WORK_MIN, TURN_WORK_MAX};
use crate::base::origin::Origin;
use crate::base::random::Random;
use crate::base::time::{Instant, Now, WallTime};
use crate::wire::{self, Info, Op, encoder};

pub use mail::Mail;
pub use settings::Settings;
pub use unheard::Discovery;

use account::Accounts;
use delivery::Source;
use session::{Session, Sessions, Timer};
use settings::Counters;
use snapshot::{ConnectionSnapshot, ServerSnapshot, Traffic};
use sublist::Interest;

/// One connection as its socket sees it.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The peer's address.
    pub peer: SocketAddr,
    /// What kind of connection it is.
    pub kind: ConnectionKind,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// A client of any NATS library.
    Client,
    /// A route that the peer opened to our cluster port.
    RouteAccepted,
    /// A route that we opened to `url`.
    RouteSolicited {
        /// As configured or gossiped, `host:port` with user information.
        url: String,
        /// Whether a person configured it: such ones are tried for ever.
        is_explicit: bool,
    },
}

/// What a TLS handshake found out about the peer.
#[derive(Clone, Debug, Default)]
pub struct TlsPeer {
    /// Protocol version, for monitoring: `1.2`, `1.3`.
    pub version: String,
    /// Cipher suite, for monitoring.
    pub cipher: String,
    /// DER of the client's own certificate, if it gave one that was verified.
    pub certificate: Option<Bytes>,
}

/// What to do after a read was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Everything whole in the buffer was consumed.
    NeedMore,
    /// An engine has no credit for the publish at the front of the buffer, or its receivers are
    /// too slow: do not read this connection; call again with the same buffer after
    /// [`Effect::Resume`].
    Paused,
    /// The session's share of the turn is used up: call again with the same buffer in the next
    /// one. There is no need to read more before.
    Yielded,
    /// The session switches to TLS now; the rest of the buffer belongs to the handshake.
    StartTls,
    /// The session is at its end: write out its outbox, then close the socket. An
    /// [`Effect::Close`] says so too.
    Close,
}

/// What an engine has to have free before something is handed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Credit {
    /// Nothing: it is bounded by what it answers.
    Free,
    /// Room for messages, in the engine that [`Settings::owner`] names.
    Messages,
    /// Room for requests, in all engines.
    Requests,
}

/// An interest of an engine, as the brokers keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineInterest {
    /// Which engine listens.
    pub engine: LoopIndex,
    /// In which account.
    pub account: AccountIndex,
    /// What the engine's driver recognises it by.
    pub key: u64,
    /// What has to be free before something that comes in is handed over.
    pub credit: Credit,
    /// Whether what comes in is let go soon: then it may share its memory with others.
    pub is_brief: bool,
}

/// Subject and reply of a message, in one piece of memory.
#[derive(Clone, Debug)]
pub struct Names {
    bytes: Bytes,
    subject_len: usize,
}

impl From<Subject> for Names {
    fn from(subject: Subject) -> Self {
        Self { subject_len: subject.as_bytes().len(), bytes: subject.to_bytes() }
    }
}

impl Names {
    /// The subject that it was published on.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.bytes[..self.subject_len]
    }

    /// The same, without the reply.
    #[must_use]
    pub fn into_subject(mut self) -> Subject {
        self.bytes.truncate(self.subject_len);
        Subject::from(self.bytes)
    }

    /// Where an answer should go.
    #[must_use]
    pub fn into_reply(mut self) -> Option<Subject> {
        self.bytes.advance(self.subject_len);
        (!self.bytes.is_empty()).then(|| Subject::from(self.bytes))
    }
}

/// What an engine publishes.
#[derive(Clone, Debug)]
pub struct Post {
    /// In which account.
    pub account: AccountIndex,
    /// Where to.
    pub subject: Subject,
    /// First part of the payload.
    pub head: Bytes,
    /// Second part of the payload, often empty.
    pub tail: Bytes,
}

/// A message that an engine's interest matched; given to the driver of the loop it arrived on.
#[derive(Clone, Debug)]
pub struct EngineDelivery {
    /// Which interest.
    pub interest: EngineInterest,
    /// Its subject and reply.
    pub names: Names,
    /// The payload without NATS headers.
    pub payload: Bytes,
    /// Who sent it.
    pub origin: Origin,
}

/// What a broker asks of its reactor, in order.
#[derive(Debug)]
pub enum Effect {
    /// A message for an engine.
    ToEngine(EngineDelivery),
    /// An engine's request (a publish with a reply) found nobody.
    NoResponders {
        /// The reply subject that the engine gave.
        reply: Subject,
    },
    /// Those who listen to an inbox that this loop's engine watches are full, or have room.
    Room {
        /// Under which key it is watched.
        key: u64,
        /// Whether more may be delivered.
        has_room: bool,
    },
    /// Something for the broker of another loop.
    Mail {
        /// Which loop.
        to: LoopIndex,
        /// What.
        mail: Mail,
    },
    /// Close the socket of a session; after its outbox is written, or at once.
    Close {
        /// Which session.
        session: SessionId,
        /// Whether what waits in the outbox goes out first (bounded by the write deadline).
        flush: bool,
    },
    /// What a paused session waited for is there: call [`Broker::read`] with its buffer again.
    Resume {
        /// Which session.
        session: SessionId,
    },
    /// Open a connection for a route to `url`. Only loop 0 asks for it, and owns all routes.
    Dial {
        /// `host:port` with user information.
        url: String,
        /// Whether a person configured it.
        is_explicit: bool,
    },
    /// Find out, away from this loop, whether `password` belongs to `hash` (bcrypt); the answer
    /// comes by [`Broker::verified`].
    Verify {
        /// Whose.
        session: SessionId,
        /// Whether it is a route, and its peer's address: those who share one share the turns.
        on_behalf: (bool, IpAddr),
        /// What it gave.
        password: String,
        /// What is known.
        hash: String,
        /// Whether somebody waits for the answer.
        asked: Arc<asked::Asked>,
    },
    /// A line for the log.
    Log {
        /// How important.
        level: log::Level,
        /// The line without prefix.
        text: String,
    },
}

/// Core NATS as one loop sees it.
pub struct Broker {
    settings: Arc<Settings>,
    counters: Arc<Counters>,
    home: LoopIndex,
    /// The time of the input that is being handled.
    now: Now,
    random: Random,
    sessions: Sessions,
    accounts: Accounts,
    /// Interests of this loop's engine.
    listening: BTreeSet<(Subject, EngineInterest)>,
    /// Engines that have no credit of a kind to give.
    pressed: BTreeSet<(Credit, LoopIndex)>,
    /// Sessions that wait for a credit.
    paused: BTreeSet<SessionId>,
    /// Who reads what this loop's engine delivers.
    rooms: room::Rooms,
    deadlines: Deadlines<(SessionId, Timer)>,
    effects: VecDeque<Effect>,
    /// Room for what messages for engines are copied to; used again when they are gone.
    chunk: BytesMut,
    dirty: VecDeque<SessionId>,
    /// INFO as clients get it, but for what is about the client.
    info: Info,
    /// Counts the changes of `connect_urls`.
    urls_version: u64,
    /// Whether clients are being sent to other servers.
    is_lame_duck: bool,
    routes: mesh::Routes,
    started_at: WallTime,
    settings_loaded_at: WallTime,
    connections_total: u64,
    slow_consumers: u64,
    traffic: Traffic,
    closed: VecDeque<ConnectionSnapshot>,
    /// How many are not remembered any more.
    closed_dropped: u64,
    unheard: unheard::Unheard,
    /// Interests that are remembered of those.
    closed_subscriptions: usize,
    /// What was done, in receivers of a message that were looked at; but for what the tree counts.
    work: u64,
    /// How much of it may be done for one session before others have their turn.
    share: u64,
    backlog: backlog::Backlog,
}

impl Broker {
    /// A broker without sessions. Configured routes are asked for at once (by loop 0).
    #[must_use]
    pub fn new(settings: Arc<Settings>, home: LoopIndex, seed: u64, now: Now) -> Self {
        let mut broker = Self {
            counters: Arc::clone(&settings.counters),
            home,
            now,
            random: Random::new(seed),
            sessions: Sessions::default(),
            accounts: Accounts::new(home),
            listening: BTreeSet::new(),
            pressed: BTreeSet::new(),
            paused: BTreeSet::new(),
            rooms: room::Rooms::default(),
            deadlines: Deadlines::default(),
            effects: VecDeque::new(),
            chunk: BytesMut::with_capacity(delivery::CHUNK_LEN),
            dirty: VecDeque::new(),
            info: Self::client_info(&settings, Vec::new()),
            urls_version: 0,
            is_lame_duck: false,
            routes: mesh::Routes::default(),
            started_at: now.wall,
            settings_loaded_at: now.wall,
            connections_total: 0,
            slow_consumers: 0,
            traffic: Traffic::default(),
            closed: VecDeque::new(),
            closed_dropped: 0,
            unheard: unheard::Unheard::default(),
            closed_subscriptions: 0,
            work: 0,
            share: SESSION_WORK_MAX,
            backlog: backlog::Backlog::default(),
            settings,
        };
        broker.start_routes();
        broker
    }

    /// A connection was made: INFO (or what its kind starts with) goes to its outbox.
    ///
    /// Routes are opened on loop 0 only. Where routes use TLS, the handshake comes first: nothing
    /// is sent before [`Broker::tls_established`].
    pub fn open(&mut self, session: SessionId, hello: Hello, now: Now) {
        self.now = now;
        self.on_open(session, hello);
    }

    /// A [`Effect::Dial`] came to nothing, for `reason`.
    pub fn dial_failed(&mut self, url: &str, reason: &str, now: Now) {
        self.now = now;
        self.on_dial_failed(url, reason);
    }

    /// The TLS handshake of a session is done.
    pub fn tls_established(&mut self, session: SessionId, peer: TlsPeer, now: Now) {
        self.now = now;
        self.on_tls_established(session, peer);
    }

    /// The TLS handshake of a session came to nothing, for `reason`; its socket is closed.
    pub fn tls_failed(&mut self, session: SessionId, reason: &str, now: Now) {
        self.now = now;
        if let Some(found) = self.sessions.get(session) {
            let text = format!("{} error: {reason}", found.rules().handshake_name);
            self.log_about(session, log::Level::Error, &text);
        }
        self.on_closed(session, crate::wire::CloseReason::TlsHandshakeFailure.text());
    }

    /// So many sessions are read in this turn: each gets its share of it.
    pub fn share_turn(&mut self, sessions: usize) {
        let share = TURN_WORK_MAX / (sessions as u64).max(1);
        self.share = share.clamp(SESSION_WORK_MIN, SESSION_WORK_MAX);
    }

    /// What was done, in receivers of a message that were looked at: for budgets.
    #[must_use]
    pub fn work_done(&self) -> u64 {
        self.work + self.accounts.visited()
    }

    /// Handles whole operations at the front of `input`, as many as the session's share of the
    /// turn allows, and takes them out.
    pub fn read(&mut self, session: SessionId, input: &mut BytesMut, now: Now) -> Flow {
        self.now = now;
        self.read_all(session, input)
    }

    /// What an [`Effect::Verify`] came to.
    pub fn verified(&mut self, session: SessionId, hash: &str, is_right: bool, now: Now) {
        self.now = now;
        self.on_verified(session, hash, is_right);
    }

    /// The socket of a session is gone, or must go, for `reason`.
    pub fn closed(&mut self, session: SessionId, reason: &str, now: Now) {
        self.now = now;
        self.on_closed(session, reason);
    }

    /// An engine of this loop publishes. Its bytes leave only while the lease is valid.
    pub fn publish(&mut self, post: &Post, reply: Option<&Subject>, now: Now) {
        self.now = now;
        let message = post.message(reply, false);
        let matched = self.accounts[post.account].matches(message.subject);
        let is_heard =
            matched.is_some_and(|matched| self.deliver(&matched, &message, &Source::Engine));
        if let (false, Some(reply)) = (is_heard, reply) {
            self.effects.push_back(Effect::NoResponders { reply: reply.clone() });
        }
    }

    /// An engine of this loop sends a message of a channel to a subscription's inbox, which it has
    /// watched under `key`.
    pub fn deliver_to_inbox(&mut self, key: u64, post: &Post, now: Now) {
        self.now = now;
        let message = post.message(None, true);
        if let Some(matched) = self.accounts[post.account].matches(message.subject) {
            self.deliver(&matched, &message, &Source::Engine);
            self.look_for_room(key, post.account, &matched);
        }
    }

    /// Tells the engine of this loop, from now on and at once, whether those who listen to `inbox`
    /// without wildcards have room: [`Effect::Room`].
    pub fn watch(&mut self, key: u64, account: AccountIndex, inbox: &Subject) {
        self.on_watch(key, (account, inbox.detached().to_bytes()));
    }

    /// No longer.
    pub fn unwatch(&mut self, key: u64) {
        self.on_unwatch(key);
    }

    /// The socket of a session took something; true if somebody waited for that.
    pub fn wrote(&mut self, session: SessionId) -> bool {
        self.on_less_pending(session)
    }

    /// The engine of this loop listens from now on; all brokers are told.
    pub fn listen(&mut self, subject: &Subject, interest: EngineInterest) {
        let subject = subject.detached();
        if self.listening.insert((subject.clone(), interest)) {
            self.on_engine_listens(&subject, interest);
            self.mail_all(&Mail::Listen(subject, interest));
        }
    }

    /// The engine of this loop no longer listens.
    pub fn unlisten(&mut self, subject: &Subject, interest: EngineInterest) {
        if self.listening.remove(&(subject.clone(), interest)) {
            self.on_engine_unlistens(subject, interest);
            self.mail_all(&Mail::Unlisten(subject.clone(), interest));
        }
    }

    /// The engine of this loop is gone (lease lost): all its interests go, and nothing of what
    /// engines published and is not yet on a socket leaves this loop. The other loops do the same
    /// when they get the mail; that bytes stay put until then is the lease check's doing.
    pub fn engine_gone(&mut self) {
        for (subject, interest) in std::mem::take(&mut self.listening) {
            self.on_engine_unlistens(&subject, interest);
            self.mail_all(&Mail::Unlisten(subject, interest));
        }
        self.rooms = room::Rooms::default();
        self.purge_leased(self.home);
        self.mail_all(&Mail::EngineGone);
    }

    /// Whether what needs `credit` of the engine of `engine` has to wait (see [`Flow::Paused`]).
    pub fn set_pressure(&mut self, engine: LoopIndex, credit: Credit, is_high: bool) {
        if is_high {
            self.pressed.insert((credit, engine));
            return;
        }
        if self.pressed.remove(&(credit, engine)) {
            for session in std::mem::take(&mut self.paused) {
                self.resume(session);
            }
        }
    }

    /// Puts new settings in force; closes only those who lost their right to be here.
    pub fn reload(&mut self, settings: Arc<Settings>, now: Now) {
        self.now = now;
        self.on_reload(settings, now);
    }

    /// Tells peers and clients that this server takes no more clients and will send away those
    /// that it has (spec core NATS, 18.4).
    pub fn enter_lame_duck(&mut self, now: Now) {
        self.now = now;
        self.on_lame_duck();
    }

    /// The sessions of this loop's clients, in the order of their connections.
    #[must_use]
    pub fn clients(&self) -> Vec<SessionId> {
        let is_here = |session: &&Session| session.client().is_some() && !session.is_ending();
        let mut clients: Vec<(u64, SessionId)> =
            self.sessions.iter().filter(is_here).map(|found| (found.cid, found.id)).collect();
        clients.sort_unstable();
        clients.into_iter().map(|(_, id)| id).collect()
    }

    /// Ends all sessions: what waits for them still goes out.
    pub fn shut_down(&mut self, now: Now) {
        self.now = now;
        self.stop_routes();
        for session in self.sessions.ids() {
            self.end(session, crate::wire::CloseReason::ServerShutdown);
        }
    }

    /// Pings, time-outs, write deadlines that are due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        while let Some((session, timer)) = self.deadlines.pop_due(now.at) {
            self.on_due(session, timer);
        }
        self.on_route_deadlines();
        self.on_portion_due();
    }

    /// When [`Broker::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let portion = self.backlog.next_deadline(self.now.at);
        let all = [self.deadlines.next_deadline(), self.routes.next_deadline(), portion];
        all.into_iter().flatten().min()
    }

    /// The next thing that the broker asks for, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A session of this loop whose outbox got bytes since the last call; each at most once.
    /// An outbox is emptied only after this had no more to name.
    pub fn poll_dirty(&mut self) -> Option<SessionId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(session) = self.sessions.get_mut(id) {
                session.is_dirty = false;
                return Some(id);
            }
        }
        None
    }

    /// The bytes that wait for a session.
    pub fn outbox(&mut self, session: SessionId) -> Option<&mut outbox::Outbox> {
        self.sessions.get_mut(session).map(|session| &mut session.outbox)
    }

    /// The state of this loop, for monitoring, without any list.
    fn figures(&self, now: Now) -> ServerSnapshot {
        ServerSnapshot {
            taken_at: now.wall,
            taken: now.at,
            started_at: self.started_at,
            settings_loaded_at: self.settings_loaded_at,
            connections_total: self.connections_total,
            traffic: self.traffic,
            slow_consumers: self.slow_consumers,
            connect_urls: self.info.connect_urls.clone(),
            open_count: self.counters.clients.load(Ordering::Relaxed),
            remotes: self.routes.remotes(),
            accounts: self.accounts.names(),
            subscriptions: self.accounts[AccountIndex::GLOBAL].snapshot(),
            ..ServerSnapshot::default()
        }
    }

    fn resume(&mut self, session: SessionId) {
        if self.sessions.get(session).is_some_and(|session| session.is_paused) {
            self.effects.push_back(Effect::Resume { session });
        }
    }

    fn mark_dirty(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        // Nothing is written between two marks of one turn: the first has set the deadline.
        if !session.is_dirty {
            session.is_dirty = true;
            self.dirty.push_back(id);
            self.arm_write(id);
        }
        if self.settings.is_traced {
            self.trace_out(id);
        }
    }

    fn send_error(&mut self, id: SessionId, text: &str) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        encoder::error(session.outbox.tail(), text);
        session.outbox.seal(false);
        self.mark_dirty(id);
    }

    /// `+OK`, if the client wants to be told.
    fn send_ok(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.client().is_some_and(|client| client.options.is_verbose) {
            encoder::encode(&Op::Ok, session.outbox.tail());
            session.outbox.seal(false);
            self.mark_dirty(id);
        }
    }

    fn send_pong(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        encoder::encode(&Op::Pong, session.outbox.tail());
        session.outbox.seal(false);
        self.mark_dirty(id);
    }

    fn log(&mut self, level: log::Level, text: String) {
        self.work += 1;
        self.effects.push_back(Effect::Log { level, text });
    }

    fn log_about(&mut self, id: SessionId, level: log::Level, text: &str) {
        let Some(session) = self.sessions.get(id) else { return };
        let text = format!("{} - {text}", session.log_prefix());
        self.log(level, text);
    }

    fn add_to_tree(&mut self, interest: Arc<Interest>) {
        if interest.rules.is_announced {
            self.announce((interest.account, &interest.subject, interest.queue.as_ref()), 1);
        }
        if self.rooms.on_interest(&interest) && interest.rules.is_server {
            self.tell_peer(interest.session, &interest.inbox(), wire::InboxState::Paced);
        }
        self.accounts[interest.account].insert(interest);
    }

    fn remove_from_tree(&mut self, interests: &[Arc<Interest>]) {
        for interest in interests {
            if self.accounts[interest.account].remove(interest) {
                self.on_reader_gone(interest);
                if interest.rules.is_announced {
                    let queue = interest.queue.as_ref();
                    self.announce((interest.account, &interest.subject, queue), -1);
                }
            }
        }
    }

    /// A session of this loop listens.
    fn add_interest(&mut self, interest: Arc<Interest>) {
        let Some(session) = self.sessions.get_mut(interest.session) else { return };
        session.interests.insert(interest.sid.clone(), Arc::clone(&interest));
        self.add_to_tree(Arc::clone(&interest));
        self.mail_all(&Mail::Interest(interest));
    }

    /// An interest of this loop's session ends.
    fn end_interest(&mut self, interest: &Arc<Interest>) {
        self.work += client::INTEREST_WORK;
        interest.is_gone.store(true, Ordering::Relaxed);
        if let Some(session) = self.sessions.get_mut(interest.session) {
            session.interests.remove(&interest.sid);
        }
        let interests = vec![Arc::clone(interest)];
        self.remove_from_tree(&interests);
        self.mail_all(&Mail::InterestsGone(interests));
    }

    fn on_engine_listens(&mut self, subject: &Subject, interest: EngineInterest) {
        if self.accounts[interest.account].listen(subject.as_bytes(), interest) {
            self.announce((interest.account, &subject.to_bytes(), None), 1);
        }
    }

    fn on_engine_unlistens(&mut self, subject: &Subject, interest: EngineInterest) {
        if self.accounts[interest.account].unlisten(subject.as_bytes(), interest) {
            self.announce((interest.account, &subject.to_bytes(), None), -1);
        }
    }

    /// What an engine published is not to leave any more.
    fn purge_leased(&mut self, _engine: LoopIndex) {
        for session in self.sessions.iter_mut() {
            session.outbox.purge_leased();
        }
    }
}
