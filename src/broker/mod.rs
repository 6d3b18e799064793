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
mod dials;
mod distinguished_name;
pub mod effect;
mod engines;
mod errands;
mod former;
mod group;
#[cfg(test)]
mod hand_over_tests;
mod hold;
pub mod input;
mod kind;
#[cfg(test)]
mod kind_tests;
mod last_word;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod lifecycle;
pub mod listing;
mod login;
mod mail;
mod matched;
mod mesh;
#[cfg(test)]
mod mesh_work_tests;
pub mod outbox;
mod outflow;
#[cfg(test)]
mod password_tests;
mod past;
mod patterns;
mod peer_room;
mod publish;
mod read;
mod recent;
mod repeats;
#[cfg(test)]
mod repeats_tests;
mod room;
#[cfg(test)]
mod room_tests;
mod route;
#[cfg(test)]
mod route_tests;
mod serving;
mod session;
pub mod settings;
pub mod snapshot;
mod spread;
mod sublist;
#[cfg(test)]
mod tests;
mod told;
#[cfg(test)]
mod told_tests;
mod trace;
mod unheard;
mod upstream;
mod upstream_login;
mod upstream_servers;
#[cfg(test)]
mod upstream_tests;
#[cfg(test)]
mod work_tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use crate::base::deadlines::Deadlines;
use crate::base::id::{AccountIndex, LoopIndex, SessionId};
use crate::base::limits::{SESSION_WORK_MAX, SESSION_WORK_MIN, TURN_WORK_MAX};
use crate::base::random::Random;
use crate::base::time::{Instant, Now, WallTime};
use crate::wire::{Info, Op, encoder};

pub use effect::Effect;
pub use engines::{Credit, EngineDelivery, EngineInterest, Names, Post};
pub use input::Input;
pub use mail::Mail;
pub use mesh::Search;
pub use settings::Settings;
pub use unheard::Discovery;
pub use upstream::UpstreamNews;

use account::Accounts;
use engines::Engines;
use session::{Phase, Session, Sessions, Timer};
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
    /// An external server that we are a client of.
    Upstream {
        /// `host:port`.
        address: String,
        /// Whose certificate it must show, if it comes to TLS.
        tls_name: String,
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
    engines: Engines,
    ledgers: ledger::Ledgers,
    errands: errands::Errands,
    serving: serving::Serving,
    outflow: Option<outflow::Outflow>,
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
    /// The connection to the external server; of loop 0, if there is to be one.
    upstream: Option<Box<upstream::Link>>,
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
            engines: Engines::default(),
            ledgers: ledger::Ledgers::default(),
            errands: errands::Errands::default(),
            serving: serving::Serving::default(),
            outflow: None,
            deadlines: Deadlines::default(),
            effects: VecDeque::new(),
            chunk: BytesMut::with_capacity(delivery::CHUNK_LEN),
            dirty: VecDeque::new(),
            info: Self::client_info(&settings, Vec::new()),
            urls_version: 0,
            is_lame_duck: false,
            routes: mesh::Routes::default(),
            upstream: None,
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
        broker.hold_engines();
        broker.start_routes();
        broker.start_upstream();
        broker
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.now = now;
        self.on_input(input);
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

    /// The socket of a session took something; true if somebody waited for that.
    pub fn wrote(&mut self, session: SessionId) -> bool {
        self.look_at_outflow();
        self.on_less_pending(session)
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

    /// How far this server is with its routes, or with its external server; of loop 0, which owns
    /// them.
    #[must_use]
    pub fn route_search(&self) -> Search {
        if self.settings.upstream.is_some() {
            let search = |changes| Search::Ended { changes };
            return self.upstream_logins().map_or(Search::UnderWay, search);
        }
        self.routes.search()
    }

    /// Whether a client has still to begin with TLS.
    #[must_use]
    pub fn awaits_handshake(&self, session: SessionId) -> bool {
        let session = self.sessions.get(session).filter(|found| found.client().is_some());
        session.is_some_and(|found| found.phase == Phase::AwaitTls { is_optional: false })
    }

    /// Pings, time-outs, write deadlines that are due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        while let Some((session, timer)) = self.deadlines.pop_due(now.at) {
            self.on_due(session, timer);
        }
        self.on_route_deadlines();
        self.on_upstream_due();
        self.on_serving_due();
        self.look_at_outflow();
        if self.has_more_to_say() {
            self.say_some_again();
        }
        self.on_portion_due();
    }

    /// When [`Broker::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let portion = self.backlog.next_deadline(self.now.at);
        let upstream = self.upstream.as_ref().and_then(|link| link.next_deadline());
        let routes = self.routes.next_deadline();
        let serving = self.serving.next_deadline();
        let outflow = self.outflow.as_ref().map(outflow::Outflow::until);
        let again = self.has_more_to_say().then_some(self.now.at);
        let timers = self.deadlines.next_deadline();
        let all = [timers, routes, upstream, portion, serving, outflow, again];
        all.into_iter().flatten().min()
    }

    /// The next thing that the broker asks for, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A session of this loop whose outbox got bytes since the last call; each at most once.
    /// An outbox is emptied only after this had no more to name.
    pub fn poll_dirty(&mut self) -> Option<SessionId> {
        self.tell_done();
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
        let cluster = self.settings.cluster.as_ref();
        let (import, export) = cluster.map(Self::route_lists).unwrap_or_default();
        ServerSnapshot {
            taken_at: now.wall,
            taken: now.at,
            started_at: self.started_at,
            settings_loaded_at: self.settings_loaded_at,
            connections_total: self.connections_total,
            traffic: self.traffic,
            slow_consumers: self.slow_consumers,
            connect_urls: self.info.connect_urls.clone(),
            import,
            export,
            open_count: self.counters.clients.load(Ordering::Relaxed),
            held_count: self.engines.paused.len() as u64,
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
        self.on_reader_come(&interest);
        let is_pattern = !interest.is_literal;
        self.accounts[interest.account].insert(interest);
        if is_pattern {
            self.on_pattern();
        }
    }

    fn remove_from_tree(&mut self, interests: &[Arc<Interest>]) {
        for interest in interests {
            if self.accounts[interest.account].remove(interest) {
                self.on_reader_gone(interest);
                if !interest.is_literal {
                    self.on_pattern();
                }
                if interest.rules.is_announced {
                    let queue = interest.queue.as_ref();
                    self.announce((interest.account, &interest.subject, queue), -1);
                }
            }
        }
    }

    /// A session of this loop listens.
    fn add_interest(&mut self, interest: Arc<Interest>) {
        self.work += interest.work() as u64;
        let Some(session) = self.sessions.get_mut(interest.session) else { return };
        session.interests.insert(interest.sid.clone(), Arc::clone(&interest));
        self.add_to_tree(Arc::clone(&interest));
        self.mail_all(&Mail::Interest(interest));
    }

    /// An interest of this loop's session ends.
    fn end_interest(&mut self, interest: &Arc<Interest>) {
        self.work += interest.work() as u64;
        if self.settings.is_traced {
            self.trace_end(interest);
        }
        interest.is_gone.store(true, Ordering::Relaxed);
        if let Some(session) = self.sessions.get_mut(interest.session) {
            session.interests.remove(&interest.sid);
        }
        let interests = vec![Arc::clone(interest)];
        self.remove_from_tree(&interests);
        self.mail_all(&Mail::InterestsGone(interests));
    }
}
