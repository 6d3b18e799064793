//! One connection's protocol state, from INFO to close.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::go::quote;
use crate::base::id::SessionId;
use crate::base::origin::Origin;
use crate::base::time::{Instant, Now, WallTime};
use crate::broker::TlsPeer;
use crate::broker::asked::Asked;
use crate::broker::auth::Identity;
use crate::broker::client::Client;
use crate::broker::kind::Kind;
use crate::broker::outbox::Outbox;
use crate::broker::recent::Recent;
use crate::broker::route::Route;
use crate::broker::snapshot::{SubscriptionSnapshot, Traffic};
use crate::broker::spread::Spread;
use crate::broker::sublist::{Interest, Search};
use crate::broker::upstream::Upstream;

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

/// A password that is being looked at.
#[derive(Debug)]
pub(super) struct Verifying {
    /// What it is held against.
    pub hash: String,
    /// Who the session is then.
    pub claim: Claim,
    /// The question.
    pub asked: Arc<Asked>,
}

/// Who a session says to be.
#[derive(Debug)]
pub(super) enum Claim {
    /// A user.
    User(Identity),
    /// A server of a cluster: its name, and whether that was made up.
    Server((String, bool)),
}

/// PING and PONG of one connection.
#[derive(Debug, Default)]
pub(super) struct Pinging {
    pub unanswered: u32,
    /// The latest PING.
    pub sent_at: Option<Instant>,
    pub heard_at: Instant,
    pub rtt: Option<Duration>,
}

/// One connection's protocol state, as far as all kinds have it.
#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub cid: u64,
    /// What it is, with what only such a session has.
    pub kind: Kind,
    /// Who is at the other end, as engines are told it.
    pub origin: Arc<Origin>,
    pub peer: SocketAddr,
    pub phase: Phase,
    pub outbox: Outbox,
    pub is_dirty: bool,
    /// Whether CONNECT has still to prove who it is.
    pub is_auth_pending: bool,
    /// Whether the last read ended with `Flow::Paused`.
    pub is_paused: bool,
    /// The receivers of the message at the front, as far as they were looked for.
    pub search: Option<Box<Search>>,
    /// The receivers of the message before.
    pub recent: Option<Box<Recent>>,
    /// What is left of the message at the front, where some of its receivers have got it.
    pub spread: Option<Box<Spread>>,
    /// Whether it understands headers, as this server does.
    pub has_headers: bool,
    pub interests: BTreeMap<Bytes, Arc<Interest>>,
    pub ping: Pinging,
    pub traffic: Traffic,
    pub started: Now,
    pub active_at: WallTime,
    /// Where the stream ended when the write deadline was set, and when that was.
    pub write_mark: Option<(u64, Instant)>,
    /// Its password is being looked at.
    pub verifying: Option<Verifying>,
    /// Up to where what goes out was shown in the log.
    pub traced_to: u64,
    pub tls: Option<Box<TlsPeer>>,
}

impl Session {
    pub fn new(id: SessionId, cid: u64, kind: Kind, peer: SocketAddr, now: Now) -> Self {
        Self {
            id,
            cid,
            kind,
            origin: Arc::new(Origin { connection: Some(id), ..Origin::default() }),
            peer,
            phase: Phase::Open,
            outbox: Outbox::default(),
            is_dirty: false,
            is_auth_pending: false,
            is_paused: false,
            search: None,
            recent: None,
            spread: None,
            has_headers: false,
            interests: BTreeMap::new(),
            ping: Pinging { heard_at: now.at, ..Pinging::default() },
            traffic: Traffic::default(),
            started: now,
            active_at: now.wall,
            write_mark: None,
            verifying: None,
            traced_to: 0,
            tls: None,
        }
    }

    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// As log lines name its user.
    pub fn user_text(&self) -> String {
        format!("User {}", quote(self.origin.user.as_deref().unwrap_or("N/A")))
    }

    /// What log lines about it begin with (spec core NATS, 2.14).
    pub fn log_prefix(&self) -> String {
        format!("{} - {}:{}", self.peer, self.rules().number_name, self.cid)
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

    #[inline]
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(slot_index(id))?.as_deref().filter(|session| session.id == id)
    }

    #[inline]
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(slot_index(id))?.as_deref_mut().filter(|session| session.id == id)
    }

    #[inline]
    pub fn client(&self, id: SessionId) -> Option<&Client> {
        self.get(id).and_then(Session::client)
    }

    #[inline]
    pub fn client_mut(&mut self, id: SessionId) -> Option<&mut Client> {
        self.get_mut(id).and_then(Session::client_mut)
    }

    pub fn route(&self, id: SessionId) -> Option<&Route> {
        self.get(id).and_then(Session::route)
    }

    pub fn route_mut(&mut self, id: SessionId) -> Option<&mut Route> {
        self.get_mut(id).and_then(Session::route_mut)
    }

    pub fn upstream_mut(&mut self, id: SessionId) -> Option<&mut Upstream> {
        self.get_mut(id).and_then(Session::upstream_mut)
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
