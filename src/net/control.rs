//! What a reactor is told by other threads, and how connections are treated

use std::sync::Arc;
use std::time::Duration;

use crate::base::id::SessionId;
use crate::broker::listing::Mark;
use crate::broker::snapshot::{ServerSnapshot, Wanted};
use crate::broker::{self, ConnectionKind};
use crate::net::dial::{Found, Target};
use crate::net::listener::Newcomer;
use crate::net::mailbox::{Letter, Sender};
use crate::net::tls::{Dialling, Serving};

/// What comes in from other threads.
pub enum Mail<M> {
    /// From the broker of another loop.
    Broker(broker::Mail),
    /// For the driver.
    Driver(M),
    /// For the reactor itself.
    Control(Control),
}

impl<M> Letter for Mail<M> {
    fn work(&self) -> usize {
        match self {
            Self::Broker(mail) => mail.work(),
            Self::Driver(_) | Self::Control(_) => 0,
        }
    }
}

/// What a reactor can be told.
pub enum Control {
    /// Own this connection from now on.
    Adopt {
        /// The connection, not yet registered.
        newcomer: Newcomer,
        /// What kind of connection it is.
        kind: ConnectionKind,
    },
    /// A name that was looked up for a connection that we open.
    Found {
        /// The route.
        route: Route,
        /// The result.
        found: Found,
    },
    /// A password was held against its hash.
    Verified {
        /// Whose it is.
        session: SessionId,
        /// The hash.
        hash: String,
        /// Whether it belongs to it.
        is_right: bool,
    },
    /// Tell a portion of what the broker knows.
    List {
        /// What of it.
        wanted: Wanted,
        /// Where the portion begins.
        from: Mark,
        /// Gets it, and where the next one begins if there is more.
        done: Box<dyn FnOnce(ServerSnapshot, Option<Mark>) + Send>,
    },
    /// The sessions of the loop's clients.
    Clients {
        /// Gets them.
        done: Box<dyn FnOnce(Vec<SessionId>) + Send>,
    },
    /// How far loop 0 is with the routes.
    RouteSearch {
        /// Gets that.
        done: Box<dyn FnOnce(broker::Search) + Send>,
    },
    /// Put new settings of the broker in force.
    Settings(Arc<broker::Settings>),
    /// Tell peers and clients that clients have to go elsewhere.
    EnterLameDuck,
    /// Close this connection, after what waits for it is written (for a bounded time).
    Close {
        /// Which; one of another loop, or one that is gone, is nobody.
        session: SessionId,
        /// Why, in the words of the reference (spec core NATS, 2.13).
        reason: &'static str,
    },
    /// Handle connections that are made from now on by other rules.
    Reload(Arc<Rules>),
    /// Close the listener for clients; connections stay.
    StopAccepting,
    /// Close the listeners at once, then all connections, after a bounded time for what waits in
    /// their outboxes; then end the loop.
    Stop {
        /// How long outboxes may take.
        flush_for: Duration,
    },
}

/// A route, or the connection to an external server, that is being opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it is to become.
    pub kind: ConnectionKind,
    /// Whom its URL means.
    pub target: Target,
}

/// How connections are treated; the same for all loops.
#[derive(Clone, Debug)]
pub struct Rules {
    /// TLS for clients.
    pub client_tls: Option<Serving>,
    /// TLS for accepted routes.
    pub route_tls: Option<Serving>,
    /// TLS for routes that we open.
    pub dial_tls: Option<Dialling>,
    /// The host name that a route's certificate is verified against where its URL has only an
    /// address: the first host name among the configured routes.
    pub dial_tls_name: Option<String>,
    /// TLS of the connection to an external server, if it can be had.
    pub upstream_tls: Option<Dialling>,
}

/// The mailbox of a reactor, for other threads.
pub struct Mailbox<M> {
    sender: Sender<Mail<M>>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<M> Mailbox<M> {
    /// The mailbox behind `sender`.
    #[must_use]
    pub fn new(sender: Sender<Mail<M>>) -> Self {
        Self { sender }
    }

    /// Mail for the driver; false if the loop has ended.
    pub fn deliver(&self, mail: M) -> bool {
        self.sender.send(Mail::Driver(mail))
    }

    /// Makes the loop turn, whatever it waits for.
    pub fn wake(&self) {
        self.sender.wake();
    }

    /// Word for the reactor; false if the loop has ended.
    pub fn control(&self, control: Control) -> bool {
        self.sender.send(Mail::Control(control))
    }
}
