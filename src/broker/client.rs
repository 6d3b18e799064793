//! A client's session: what it has, and what its operations do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::base::go::quote_any;
use crate::base::id::SessionId;
use crate::base::subject;
use crate::base::time::Instant;
use crate::broker::Broker;
use crate::broker::account::{Permissions, Replies};
use crate::broker::auth::Credentials;
use crate::broker::kind::Kind;
use crate::broker::mail::InboxName;
use crate::broker::outbox::Gauge;
use crate::broker::read::Step;
use crate::broker::session::{Phase, Session, Timer};
use crate::broker::settings::ClientTls;
use crate::broker::snapshot::ConnectionSnapshot;
use crate::broker::sublist::Interest;
use crate::wire::{CloseReason, Connect, Info, Op, errors};

/// What only a client's session has.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub options: Options,
    pub permissions: Option<Arc<Permissions>>,
    pub replies: Replies,
    pub stall: Option<Stall>,
    /// Whether the publish at the front was stalled as long as it may be.
    pub is_stall_waived: bool,
    /// Whether it counts among the clients of the process.
    pub is_counted: bool,
    pub has_connected: bool,
    /// Whether its first PING was answered: it gets INFO from then on.
    pub is_first_ping_answered: bool,
    /// The ledger of what it has sent for engines; 0 before there is one.
    pub ledger: u64,
    /// Which list of `connect_urls` it knows.
    pub urls_version: u64,
    /// The inboxes of which a peer was told that this connection is full: by route and subject,
    /// where the stream ended then.
    pub full_for: BTreeMap<(SessionId, InboxName), u64>,
    pub credentials: Credentials,
    /// The hash that its password was found to belong to.
    pub verified_hash: Option<String>,
    /// The account that CONNECT asks for.
    pub asked_account: String,
    pub is_new_account: bool,
    name: String,
    lang: String,
    version: String,
    nkey: String,
}

/// What CONNECT said about how to talk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub is_verbose: bool,
    pub is_pedantic: bool,
    pub has_echo: bool,
    pub asked_headers: bool,
    pub wants_no_responders: bool,
    pub protocol: i64,
}

impl Default for Options {
    /// What holds before any CONNECT (spec core NATS, 2.4).
    fn default() -> Self {
        Self {
            is_verbose: true,
            is_pedantic: true,
            has_echo: true,
            asked_headers: false,
            wants_no_responders: false,
            protocol: 0,
        }
    }
}

/// A publisher that waits for slow receivers.
#[derive(Debug)]
pub(super) struct Stall {
    /// It goes on then in any case.
    pub until: Instant,
    /// The receivers.
    pub receivers: Vec<Arc<Gauge>>,
}

impl Client {
    /// Takes over what a CONNECT names; the rest stays as it was.
    pub fn apply(&mut self, connect: Connect) {
        let options = &mut self.options;
        set(&mut options.is_verbose, connect.verbose);
        set(&mut options.is_pedantic, connect.pedantic);
        set(&mut options.has_echo, connect.echo);
        set(&mut options.asked_headers, connect.headers);
        set(&mut options.wants_no_responders, connect.no_responders);
        set(&mut options.protocol, connect.protocol);
        set(&mut self.name, connect.name);
        set(&mut self.lang, connect.lang);
        set(&mut self.version, connect.version);
        set(&mut self.asked_account, connect.account);
        set(&mut self.is_new_account, connect.new_account);
        set(&mut self.nkey, connect.nkey);
        let former = self.credentials.clone();
        set(&mut self.credentials.user, connect.user);
        set(&mut self.credentials.password, connect.pass);
        set(&mut self.credentials.token, connect.auth_token);
        if self.credentials != former {
            self.verified_hash = None;
        }
        self.has_connected = true;
    }

    /// Whether it wants to hear of changes.
    pub fn hears_info(&self) -> bool {
        self.options.protocol >= 1 && self.is_first_ping_answered
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

impl Session {
    /// The state of a client for monitoring; of an open one without its interests.
    pub fn connection_snapshot(&self) -> Option<ConnectionSnapshot> {
        let client = self.client()?;
        let credentials = &client.credentials;
        let named = [&client.nkey, self.origin.user.as_ref().unwrap_or(&credentials.user)];
        let user = named.into_iter().find(|name| !name.is_empty());
        let (subscription_count, subscriptions) = match &self.phase {
            Phase::Ending { subscription_count, subscriptions, .. } => {
                (*subscription_count, subscriptions.clone())
            }
            Phase::AwaitTls { .. } | Phase::Open => (self.interests.len(), Vec::new()),
        };
        Some(ConnectionSnapshot {
            cid: self.cid,
            account: self.origin.account,
            home: self.id.home.0,
            peer: self.peer,
            start: self.started.wall,
            last_activity: self.active_at,
            closed: None,
            rtt: self.ping.rtt,
            pending_bytes: self.outbox.len(),
            traffic: self.traffic,
            name: client.name.clone(),
            lang: client.lang.clone(),
            version: client.version.clone(),
            tls: self.tls.as_ref().map(|tls| (tls.version.clone(), tls.cipher.clone())),
            tls_certificate: self.tls.as_ref().and_then(|tls| tls.certificate.clone()),
            authorized_user: user.unwrap_or(&credentials.token).clone(),
            subscription_count,
            subscriptions,
        })
    }
}

impl Broker {
    /// A client's connection was made.
    pub(super) fn open_client(&mut self, id: SessionId, peer: SocketAddr) {
        let counters = Arc::clone(&self.counters);
        let cid = counters.connection_ids.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Client { urls_version: self.urls_version, ..Client::default() };
        let mut session = Session::new(id, cid, Kind::Client(Box::new(client)), peer, self.now);
        self.connections_total += 1;
        session.phase = match self.settings.tls {
            ClientTls::Off => Phase::Open,
            ClientTls::Required { .. } => Phase::AwaitTls { is_optional: false },
            ClientTls::Available { .. } => Phase::AwaitTls { is_optional: true },
        };
        session.is_auth_pending = self.settings.auth.is_required();
        let is_open = session.phase == Phase::Open;
        self.sessions.insert(session);
        self.send_info(id);
        self.log_about(id, log::Level::Debug, "Client connection created");
        let clients_max = self.settings.max_connections as u64;
        let others = counters.clients.fetch_add(1, Ordering::Relaxed);
        if clients_max > 0 && others >= clients_max {
            counters.clients.fetch_sub(1, Ordering::Relaxed);
            self.log_about(id, log::Level::Error, errors::CONNECTIONS_EXCEEDED);
            self.send_error(id, errors::CONNECTIONS_EXCEEDED);
            self.end(id, CloseReason::ConnectionsExceeded);
            return;
        }
        if let Some(client) = self.sessions.client_mut(id) {
            client.is_counted = true;
        }
        if is_open {
            self.arm_auth(id);
        } else {
            self.deadlines.arm((id, Timer::Tls), self.now.at + self.settings.tls_timeout);
        }
        // With CONNECT this becomes the early first one.
        self.deadlines.arm((id, Timer::Ping), self.now.at + self.settings.ping_interval);
    }

    /// What a client's operations do; its publishes are handled before.
    pub(super) fn on_client_op(&mut self, id: SessionId, op: &Op<'_>) -> Step {
        match op {
            Op::Subscribe { subject, queue, sid } => self.on_subscribe(id, subject, *queue, sid),
            Op::Unsubscribe { sid, max } => self.on_unsubscribe(id, sid, *max),
            Op::Connect(json) => self.on_connect(id, json),
            Op::Ping => self.on_ping(id),
            Op::Pong => self.on_pong(id),
            Op::Ok => Step::Done,
            Op::Info(json) => match self.document(id, json, Info::decode) {
                Some(_) => Step::Done,
                None => Step::End,
            },
            Op::Err(text) => {
                let text = format!("Client Error {}", String::from_utf8_lossy(text));
                self.refuse(id, &text, CloseReason::ParseError)
            }
            Op::Publish(_)
            | Op::RouteMessage(_)
            | Op::Message { .. }
            | Op::RouteSubscribe { .. }
            | Op::RouteUnsubscribe(_)
            | Op::Account(..)
            | Op::EngineInterest { .. }
            | Op::EngineState { .. }
            | Op::Kept(_)
            | Op::Done { .. }
            | Op::Told { .. } => unreachable!("the parser gives none of these for a client"),
        }
    }

    fn on_ping(&mut self, id: SessionId) -> Step {
        let (now, newest) = (self.now, self.urls_version);
        self.send_pong(id);
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = now.at;
        let Some(client) = session.client_mut() else { return Step::End };
        let is_first = !client.is_first_ping_answered && client.has_connected;
        client.is_first_ping_answered |= is_first;
        if is_first && client.urls_version != newest && client.options.protocol >= 1 {
            self.send_info(id);
        }
        Step::Done
    }

    fn on_subscribe(
        &mut self,
        id: SessionId,
        subject: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
    ) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = now.at;
        session.active_at = now.wall;
        let count = session.interests.len();
        let is_known = session.interests.contains_key(sid);
        if self.refuse_subscription(id, (subject, queue, sid), count) {
            return Step::Done;
        }
        if is_known {
            self.send_ok(id);
            return Step::Done;
        }
        if !subject::is_valid(subject) {
            self.send_error(id, errors::INVALID_SUBJECT);
            return Step::Done;
        }
        let loops = self.settings.loops;
        let Some(session) = self.sessions.get(id) else { return Step::End };
        let interest = Arc::new(new_interest(session, (subject, queue, sid), loops));
        self.add_interest(interest);
        self.send_ok(id);
        Step::Done
    }

    /// Tells the client, and the log, in the order of the reference; false if it may listen.
    fn refuse_subscription(
        &mut self,
        id: SessionId,
        (subject, queue, sid): (&[u8], Option<&[u8]>, &[u8]),
        count: usize,
    ) -> bool {
        let sid = String::from_utf8_lossy(sid);
        let Some(session) = self.sessions.get(id) else { return false };
        let user = || session.user_text();
        let permissions = session.client().and_then(|client| client.permissions.as_ref());
        let is_permitted = queue != Some(b"_sys_")
            && permissions.is_none_or(|permissions| permissions.may_subscribe(subject, queue));
        let text = || quote_any(subject);
        if !is_permitted {
            let named = queue.map(|name| format!(", Queue: {}", quote_any(name)));
            let (user, named) = (user(), named.unwrap_or_default());
            let text = text();
            let line = format!("Subscription Violation - {user}, Subject {text}{named}, SID {sid}");
            self.send_error(id, &errors::subscription_violation(subject, queue));
            self.log_about(id, log::Level::Error, &line);
            return true;
        }
        let tokens_max = self.settings.max_sub_tokens;
        if tokens_max > 0 && subject.split(|byte| *byte == b'.').count() > tokens_max {
            let (user, text) = (user(), text());
            let line = format!(
                "Subscription Violation Too Many Tokens - {user}, Subject {text}, SID {sid}"
            );
            self.send_error(id, &errors::too_many_tokens(subject));
            self.log_about(id, log::Level::Error, &line);
            return true;
        }
        if self.settings.max_subscriptions > 0 && count >= self.settings.max_subscriptions {
            self.log_about(id, log::Level::Error, errors::SUBSCRIPTIONS_EXCEEDED);
            self.send_error(id, errors::SUBSCRIPTIONS_EXCEEDED);
            return true;
        }
        false
    }

    fn on_unsubscribe(&mut self, id: SessionId, sid: &[u8], max: Option<u64>) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = now.at;
        session.active_at = now.wall;
        let interest = session.interests.get(sid).cloned();
        self.send_ok(id);
        if let Some(interest) = interest {
            let delivered = interest.delivered.load(Ordering::Relaxed);
            match max.filter(|max| *max > delivered) {
                Some(max) => interest.delivered_max.store(max, Ordering::Relaxed),
                None => self.end_interest(&interest),
            }
        }
        Step::Done
    }

    /// Puts a session's new permissions in force on the interests that it has: takes away those
    /// that are no longer allowed, and changes what the others must not hear.
    pub(super) fn review_interests(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(client) = session.client() else { return };
        let (permissions, user) = (client.permissions.clone(), session.user_text());
        let interests: Vec<Arc<Interest>> = session.interests.values().cloned().collect();
        for old in interests {
            let (subject, queue) = (&old.subject[..], old.queue.as_deref());
            if !permissions.as_ref().is_none_or(|found| found.may_subscribe(subject, queue)) {
                self.send_error(id, &errors::subscription_removed(&old.subject, &old.sid));
                let (subject, sid) = (quote_any(&old.subject), quote_any(&old.sid));
                let line = format!("Removed sub {subject} (sid {sid}) for {user} - not authorized");
                self.log_about(id, log::Level::Info, &line);
                self.end_interest(&old);
                continue;
            }
            let Some(session) = self.sessions.get(id) else { return };
            let new = new_interest(session, (subject, queue, &old.sid), self.settings.loops);
            if new.filter == old.filter {
                continue;
            }
            let (delivered, max) = (&old.delivered, &old.delivered_max);
            new.delivered.store(delivered.load(Ordering::Relaxed), Ordering::Relaxed);
            new.delivered_max.store(max.load(Ordering::Relaxed), Ordering::Relaxed);
            self.end_interest(&old);
            self.add_interest(Arc::new(new));
        }
    }
}

fn new_interest(
    session: &Session,
    (subject, queue, sid): (&[u8], Option<&[u8]>, &[u8]),
    loops: u16,
) -> Interest {
    let account = session.origin.account;
    let permissions = session.client().and_then(|client| client.permissions.as_ref());
    let filter = permissions.filter(|found| found.needs_filter(subject)).cloned();
    // One block for all names: interests are many.
    let names = Bytes::from([subject, sid, queue.unwrap_or_default()].concat());
    let sid_end = subject.len() + sid.len();
    let (subject, sid) = (names.slice(..subject.len()), names.slice(subject.len()..sid_end));
    let queue = queue.map(|_| names.slice(sid_end..));
    Interest { filter, ..Interest::new(session, account, (subject, queue, sid), loops) }
}
