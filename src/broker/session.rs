//! One connection's protocol state, from INFO to close.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::base::id::SessionId;
use crate::base::time::{Instant, Now, WallTime};
use crate::broker::account::{Permissions, Replies};
use crate::broker::asked::Asked;
use crate::broker::auth::{Credentials, Identity};
use crate::broker::outbox::{Gauge, Outbox};
use crate::broker::route::RouteState;
use crate::broker::snapshot::{ConnectionSnapshot, SubscriptionSnapshot, Traffic};
use crate::broker::sublist::Interest;
use crate::broker::{ConnectionKind, TlsPeer};
use crate::wire::Connect;

/// Where a session is in its life.
///
/// ```text
/// AwaitTls ──handshake──► Open ──► Ending
///    └───────────refused────────────▲
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// INFO went out; a TLS handshake has to (or, if optional, may) come next.
    AwaitTls {
        /// Whether the client may go on without.
        is_optional: bool,
    },
    /// Operations are handled.
    Open,
    /// Nothing is read any more; what waits may still go out.
    Ending {
        /// Why.
        reason: String,
        /// How many interests it had.
        subscription_count: usize,
        /// The first of them.
        subscriptions: Vec<SubscriptionSnapshot>,
    },
}

/// What can come due for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The TLS handshake.
    Tls,
    /// CONNECT.
    Auth,
    /// The next PING.
    Ping,
    /// Bytes wait for too long.
    Write,
    /// A held publisher looks again whether its receivers have room.
    Stall,
}

/// What CONNECT said about how to talk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub is_verbose: bool,
    pub is_pedantic: bool,
    pub has_echo: bool,
    pub asked_headers: bool,
    pub has_headers: bool,
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
            has_headers: false,
            wants_no_responders: false,
            protocol: 0,
        }
    }
}

/// What is needed seldom; apart, so that sessions stay small.
#[derive(Debug, Default)]
pub(super) struct About {
    pub name: String,
    pub lang: String,
    pub version: String,
    pub account: String,
    pub is_new_account: bool,
    pub nkey: String,
    pub credentials: Credentials,
    /// Whom authentication found.
    pub user: Option<String>,
    pub tls: Option<TlsPeer>,
    /// The inboxes of which a peer was told that this connection is full: by route and subject,
    /// where the stream ended then.
    pub full_for: BTreeMap<(SessionId, Bytes), u64>,
}

/// A publisher that waits for slow receivers.
#[derive(Debug)]
pub(super) struct Stall {
    /// It goes on then in any case.
    pub until: Instant,
    /// The receivers.
    pub receivers: Vec<Arc<Gauge>>,
}

/// A password that is being looked at.
#[derive(Debug)]
pub(super) struct Verifying {
    /// What it is held against.
    pub hash: String,
    /// Who the session is then.
    pub identity: Identity,
    /// The question.
    pub asked: Arc<Asked>,
}

/// PING and PONG of one connection.
#[derive(Debug, Default)]
pub(super) struct Pinging {
    pub unanswered: u32,
    pub sent_at: Instant,
    pub heard_at: Instant,
    pub rtt: Option<Duration>,
    /// Whether the client's first PING was answered: it gets INFO from then on.
    pub is_first_answered: bool,
}

/// One connection's protocol state.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub cid: u64,
    pub kind: ConnectionKind,
    pub peer: SocketAddr,
    pub phase: Phase,
    pub outbox: Outbox,
    pub is_dirty: bool,
    /// Whether it counts among the clients of the process.
    pub is_counted: bool,
    /// Whether CONNECT has still to prove who it is.
    pub is_auth_pending: bool,
    pub has_connected: bool,
    /// Whether the last read ended with `Flow::Paused`.
    pub is_paused: bool,
    pub stall: Option<Stall>,
    /// Whether the publish at the front was stalled as long as it may be.
    pub is_stall_waived: bool,
    pub options: Options,
    pub interests: BTreeMap<Bytes, Arc<Interest>>,
    pub permissions: Option<Arc<Permissions>>,
    pub replies: Replies,
    pub ping: Pinging,
    pub traffic: Traffic,
    pub started: Now,
    pub active_at: WallTime,
    /// Where the stream ended when the write deadline was set, and when that was.
    pub write_mark: Option<(u64, Instant)>,
    /// Which list of `connect_urls` it knows.
    pub urls_version: u64,
    /// Its password is being looked at.
    pub verifying: Option<Verifying>,
    /// The hash that its password was found to belong to.
    pub verified_hash: Option<String>,
    /// Up to where what goes out was shown in the log.
    pub traced_to: u64,
    pub about: Box<About>,
    pub route: Option<Box<RouteState>>,
}

impl Session {
    pub fn new(id: SessionId, kind: ConnectionKind, peer: SocketAddr, now: Now) -> Self {
        Self {
            id,
            cid: 0,
            kind,
            peer,
            phase: Phase::Open,
            outbox: Outbox::default(),
            is_dirty: false,
            is_counted: false,
            is_auth_pending: false,
            has_connected: false,
            is_paused: false,
            stall: None,
            is_stall_waived: false,
            options: Options::default(),
            interests: BTreeMap::new(),
            permissions: None,
            replies: Replies::default(),
            ping: Pinging { heard_at: now.at, sent_at: now.at, ..Pinging::default() },
            traffic: Traffic::default(),
            started: now,
            active_at: now.wall,
            write_mark: None,
            urls_version: 0,
            verifying: None,
            verified_hash: None,
            traced_to: 0,
            about: Box::default(),
            route: None,
        }
    }

    pub fn is_client(&self) -> bool {
        self.kind == ConnectionKind::Client
    }

    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// Whether it is a client that wants to hear of changes.
    pub fn hears_info(&self) -> bool {
        self.is_client()
            && !self.is_ending()
            && self.options.protocol >= 1
            && self.ping.is_first_answered
    }

    /// What log lines about it begin with (spec core NATS, 2.14).
    pub fn log_prefix(&self) -> String {
        let letter = if self.is_client() { "cid" } else { "rid" };
        format!("{} - {letter}:{}", self.peer, self.cid)
    }

    /// Takes over what a CONNECT names; the rest stays as it was.
    pub fn apply(&mut self, connect: Connect, server_has_headers: bool) {
        let options = &mut self.options;
        set(&mut options.is_verbose, connect.verbose);
        set(&mut options.is_pedantic, connect.pedantic);
        set(&mut options.has_echo, connect.echo);
        set(&mut options.asked_headers, connect.headers);
        set(&mut options.wants_no_responders, connect.no_responders);
        set(&mut options.protocol, connect.protocol);
        options.has_headers = options.asked_headers && server_has_headers;
        let about = &mut *self.about;
        set(&mut about.name, connect.name);
        set(&mut about.lang, connect.lang);
        set(&mut about.version, connect.version);
        set(&mut about.account, connect.account);
        set(&mut about.is_new_account, connect.new_account);
        set(&mut about.nkey, connect.nkey);
        set(&mut about.credentials.user, connect.user);
        set(&mut about.credentials.password, connect.pass);
        set(&mut about.credentials.token, connect.auth_token);
    }

    /// The state for monitoring.
    pub fn snapshot(&self, has_subscriptions: bool) -> ConnectionSnapshot {
        let about = &self.about;
        let named = [&about.nkey, about.user.as_ref().unwrap_or(&about.credentials.user)];
        let user = named.into_iter().find(|name| !name.is_empty());
        ConnectionSnapshot {
            cid: self.cid,
            home: self.id.home.0,
            peer: self.peer,
            start: self.started.wall,
            last_activity: self.active_at,
            closed: None,
            rtt: self.ping.rtt,
            pending_bytes: self.outbox.len(),
            traffic: self.traffic,
            name: about.name.clone(),
            lang: about.lang.clone(),
            version: about.version.clone(),
            tls: about.tls.as_ref().map(|tls| (tls.version.clone(), tls.cipher.clone())),
            tls_certificate: about.tls.as_ref().and_then(|tls| tls.certificate.clone()),
            authorized_user: user.unwrap_or(&about.credentials.token).clone(),
            subscription_count: match &self.phase {
                Phase::Ending { subscription_count, .. } => *subscription_count,
                Phase::AwaitTls { .. } | Phase::Open => self.interests.len(),
            },
            subscriptions: match &self.phase {
                Phase::Ending { subscriptions, .. } => subscriptions.clone(),
                Phase::AwaitTls { .. } | Phase::Open => {
                    self.subscription_snapshots(has_subscriptions)
                }
            },
        }
    }

    /// Nothing where they are not asked for.
    pub fn subscription_snapshots(&self, is_wanted: bool) -> Vec<SubscriptionSnapshot> {
        self.first_subscriptions(if is_wanted { usize::MAX } else { 0 })
    }

    pub fn first_subscriptions(&self, most: usize) -> Vec<SubscriptionSnapshot> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.interests
            .iter()
            .take(most)
            .map(|(sid, interest)| SubscriptionSnapshot {
                subject: text(&interest.subject),
                queue: interest.queue.as_deref().map(text),
                sid: text(sid),
                msgs: interest.delivered.load(Ordering::Relaxed),
                max: interest.delivered_max.load(Ordering::Relaxed),
                cid: self.cid,
            })
            .collect()
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The sessions of one loop, by slot.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Option<Box<Session>>>,
}

impl Sessions {
    pub fn insert(&mut self, session: Session) {
        let index = slot_index(session.id);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        assert!(self.slots[index].is_none(), "the slot of {:?} is in use", session.id);
        self.slots[index] = Some(Box::new(session));
    }

    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(slot_index(id))?.as_deref().filter(|session| session.id == id)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(slot_index(id))?.as_deref_mut().filter(|session| session.id == id)
    }

    pub fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        self.get(id)?;
        self.slots[slot_index(id)].take()
    }

    /// All sessions in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().filter_map(|slot| slot.as_deref())
    }

    /// All sessions in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.slots.iter_mut().filter_map(|slot| slot.as_deref_mut())
    }

    /// How many slots there are, used or not.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The session in a slot.
    pub fn at(&self, slot: usize) -> Option<&Session> {
        self.slots.get(slot)?.as_deref()
    }

    pub fn ids(&self) -> Vec<SessionId> {
        self.iter().map(|session| session.id).collect()
    }
}

fn slot_index(id: SessionId) -> usize {
    usize::try_from(id.slot).expect("a slot is an index into a table in memory")
}
