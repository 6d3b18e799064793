//! Everything that a broker can ask of its reactor (closed enum).

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::id::{LoopIndex, SessionId, Subject};
use crate::broker::asked::Asked;
use crate::broker::{EngineDelivery, Mail, UpstreamNews};

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
    /// What a paused session waited for is there: call [`crate::broker::Broker::read`] with its
    /// buffer again.
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
    /// Open a connection to an external server. Only loop 0 asks for it.
    DialUpstream {
        /// `host:port`.
        address: String,
        /// Whose certificate it must show, if it comes to TLS.
        tls_name: String,
    },
    /// What becomes of the external server.
    Upstream(UpstreamNews),
    /// All that was listened to before an [`crate::broker::Input::Flush`] is in force.
    Flushed {
        /// As it was given.
        token: u64,
    },
    /// All that clients had sent for engines before an [`crate::broker::Input::SeeThrough`] is
    /// done.
    Through {
        /// As it was given.
        token: u64,
    },
    /// What engines had answered before an [`crate::broker::Input::Outflow`] is on the sockets, or
    /// it took too long.
    Outflown {
        /// As it was given.
        token: u64,
    },
    /// Find out, away from this loop, whether `password` belongs to `hash` (bcrypt); the answer
    /// comes by [`crate::broker::input::Input::Verified`].
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
        asked: Arc<Asked>,
    },
    /// A line for the log.
    Log {
        /// How important.
        level: log::Level,
        /// The line without prefix.
        text: String,
    },
}
