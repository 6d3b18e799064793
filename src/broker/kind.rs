//! The kinds of sessions: what each has, what it may send, and what it gets.
//!
//! | kind | who is at the other end | what it may send | what its operations do |
//! |---|---|---|---|
//! | client | a client of any NATS library | [`Side::Client`] | `client`, `login`, `publish` |
//! | route | a server of our cluster | [`Side::Stranger`], then [`Side::Route`] | `route`, `mesh` |
//! | upstream | an external server, whose client we are | [`Side::Server`] | `upstream…` |
//!
//! A kind that is to come is a variant of [`Kind`] with a state of its own, a row of [`Rules`], and
//! a table of verbs in the parser; the compiler then names every place that has to know it. A
//! client behind a WebSocket is no kind: only its bytes are framed in another way.
//! `kind_tests` states which verb each kind may send, before and after its handshake.

use std::time::Duration;

use crate::base::id::SessionId;
use crate::broker::client::Client;
use crate::broker::read::Step;
use crate::broker::route::Route;
use crate::broker::session::Session;
use crate::broker::settings::Settings;
use crate::broker::upstream::Upstream;
use crate::broker::{Broker, ConnectionKind, Hello};
use crate::wire::{Limits, Op, Side};

/// What a session is, with what only such a session has.
#[derive(Debug)]
pub(super) enum Kind {
    Client(Box<Client>),
    Route(Box<Route>),
    Upstream(Box<Upstream>),
}

/// What differs between the kinds beside their operations; the same for all sessions of a kind.
#[derive(Debug)]
pub struct Rules {
    /// What its number is called in the log (spec core NATS, 2.14).
    pub(super) number_name: &'static str,
    /// What it is called when it ends, and how important that is.
    pub(super) ended: (&'static str, log::Level),
    /// What its TLS handshake is called.
    pub(super) handshake_name: &'static str,
    /// Whether a server is at the other end.
    pub(super) is_server: bool,
    /// First PING at the latest (spec core NATS, 1.2).
    pub(super) first_ping: Duration,
    /// Whether it is pinged however much else it says.
    pub(super) is_always_pinged: bool,
    /// Whether it is slow only if it takes nothing at all: cutting it off costs much.
    pub(super) is_slow_when_still: bool,
    /// Whether it gets what came in by a route: messages go one hop.
    pub(super) hears_routes: bool,
    /// Whether it gets one copy of a message for all its interests, of queues too.
    pub(super) shares_copies: bool,
    /// Whether routes are told of its interests.
    pub(super) is_announced: bool,
}

/// The row of clients.
pub(super) const CLIENT: Rules = Rules {
    number_name: "cid",
    ended: ("Client", log::Level::Debug),
    handshake_name: "TLS handshake",
    is_server: false,
    first_ping: Duration::from_secs(2),
    is_always_pinged: false,
    is_slow_when_still: false,
    hears_routes: true,
    shares_copies: false,
    is_announced: true,
};

/// The row of routes.
pub(super) const ROUTE: Rules = Rules {
    number_name: "rid",
    ended: ("Router", log::Level::Info),
    handshake_name: "TLS route handshake",
    is_server: true,
    first_ping: Duration::from_secs(1),
    is_always_pinged: true,
    is_slow_when_still: true,
    hears_routes: false,
    shares_copies: true,
    is_announced: false,
};

/// The row of external servers.
pub(super) const UPSTREAM: Rules = Rules {
    number_name: "uid",
    ended: ("Upstream", log::Level::Debug),
    handshake_name: "TLS handshake",
    is_server: true,
    first_ping: Duration::from_secs(120),
    is_always_pinged: true,
    is_slow_when_still: true,
    hears_routes: false,
    shares_copies: false,
    is_announced: false,
};

impl Kind {
    /// The row of this kind.
    pub fn rules(&self) -> &'static Rules {
        match self {
            Self::Client(_) => &CLIENT,
            Self::Route(_) => &ROUTE,
            Self::Upstream(_) => &UPSTREAM,
        }
    }

    /// What such a session may send now.
    #[inline]
    pub fn limits(&self, has_headers: bool, settings: &Settings) -> Limits {
        match self {
            Self::Client(_) => Limits {
                side: Side::Client,
                control_line_max: settings.max_control_line,
                payload_max: settings.max_payload,
                has_headers,
            },
            Self::Route(route) if route.is_registered => Limits::route(),
            Self::Route(_) => Limits::stranger(),
            Self::Upstream(_) => Limits::server(),
        }
    }
}

impl Broker {
    /// A connection was made.
    pub(super) fn on_open(&mut self, id: SessionId, hello: Hello) {
        match hello.kind {
            ConnectionKind::Client => self.open_client(id, hello.peer),
            ConnectionKind::RouteAccepted => self.open_route(id, hello.peer, Route::default()),
            ConnectionKind::RouteSolicited { url, is_explicit } => {
                self.open_route(id, hello.peer, Route::solicited(url, is_explicit));
            }
            ConnectionKind::Upstream { .. } => self.open_upstream(id, hello.peer),
        }
    }

    /// The connection is encrypted, if it has to be.
    pub(super) fn on_ready(&mut self, id: SessionId) {
        match self.sessions.get(id).map(|session| &session.kind) {
            Some(Kind::Client(_)) => self.arm_auth(id),
            Some(Kind::Route(_)) => self.begin_route(id),
            Some(Kind::Upstream(_)) => self.begin_upstream(id),
            None => (),
        }
    }

    /// An operation, but for messages.
    pub(super) fn on_op(&mut self, id: SessionId, op: &Op<'_>) -> Step {
        match self.sessions.get(id).map(|session| &session.kind) {
            Some(Kind::Client(_)) => self.on_client_op(id, op),
            Some(Kind::Route(_)) => self.on_route_op(id, op),
            Some(Kind::Upstream(_)) => self.on_upstream_op(id, op),
            None => Step::End,
        }
    }

    /// The first operation is not CONNECT though credentials are asked for.
    pub(super) fn on_operation_before_connect(&mut self, id: SessionId) -> Step {
        match self.sessions.get(id).map(|session| &session.kind) {
            Some(Kind::Client(_)) => self.admit_anonymous(id),
            Some(Kind::Route(_) | Kind::Upstream(_)) | None => self.violation(id),
        }
    }

    /// A session is at its end, and its interests are gone.
    pub(super) fn on_ended(&mut self, id: SessionId) {
        match self.sessions.get(id).map(|session| &session.kind) {
            Some(Kind::Route(_)) => self.on_route_ended(id),
            Some(Kind::Upstream(_)) => self.on_upstream_ended(id),
            Some(Kind::Client(_)) | None => (),
        }
    }
}

impl Session {
    pub fn rules(&self) -> &'static Rules {
        self.kind.rules()
    }

    /// What only a client has.
    #[inline]
    pub fn client(&self) -> Option<&Client> {
        match &self.kind {
            Kind::Client(client) => Some(client),
            Kind::Route(_) | Kind::Upstream(_) => None,
        }
    }

    /// What only a client has.
    #[inline]
    pub fn client_mut(&mut self) -> Option<&mut Client> {
        match &mut self.kind {
            Kind::Client(client) => Some(client),
            Kind::Route(_) | Kind::Upstream(_) => None,
        }
    }

    /// What only a route has.
    pub fn route(&self) -> Option<&Route> {
        match &self.kind {
            Kind::Route(route) => Some(route),
            Kind::Client(_) | Kind::Upstream(_) => None,
        }
    }

    /// What only the session with an external server has.
    pub fn upstream(&self) -> Option<&Upstream> {
        match &self.kind {
            Kind::Upstream(upstream) => Some(upstream),
            Kind::Client(_) | Kind::Route(_) => None,
        }
    }

    /// What only the session with an external server has.
    pub fn upstream_mut(&mut self) -> Option<&mut Upstream> {
        match &mut self.kind {
            Kind::Upstream(upstream) => Some(upstream),
            Kind::Client(_) | Kind::Route(_) => None,
        }
    }

    /// What only a route has.
    pub fn route_mut(&mut self) -> Option<&mut Route> {
        match &mut self.kind {
            Kind::Route(route) => Some(route),
            Kind::Client(_) | Kind::Upstream(_) => None,
        }
    }
}
