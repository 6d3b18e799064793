//! Broker of one core: handle(input, now), effects, next deadline
//!
//! Every loop has a broker with its own sessions and its own copy of the whole interest tree;
//! changes of interest travel between brokers as [`Mail`]. A broker owns the outbox of each of
//! its sessions; the reactor owns the sockets and moves bytes between both.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::id::{LoopIndex, SessionId, Subject};
use crate::base::time::{Instant, Now};

/// How the server was configured, as far as brokers care; the same for all of them.
#[derive(Clone, Debug)]
pub struct Settings {}

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
    /// An engine has no credit for the publish at the front of the buffer: do not read this
    /// connection; call again with the same buffer after [`Broker::set_pressure`] went down.
    Paused,
    /// The session switches to TLS now; the rest of the buffer belongs to the handshake.
    StartTls,
    /// The session is at its end: write out its outbox, then close the socket.
    Close,
}

/// An interest of an engine, as the brokers keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineInterest {
    /// Which engine listens.
    pub engine: LoopIndex,
    /// What the engine's driver recognises it by.
    pub key: u64,
    /// Whether what comes in needs a credit of the engine that the last tokens of the subject
    /// (behind the literal prefix of the interest) name as a channel.
    pub needs_credit: bool,
}

/// A message that an engine's interest matched; given to the driver of the loop it arrived on.
#[derive(Clone, Debug)]
pub struct EngineDelivery {
    /// Which interest.
    pub interest: EngineInterest,
    /// The subject it was published on.
    pub subject: Subject,
    /// Where an answer should go.
    pub reply: Option<Subject>,
    /// The payload without NATS headers.
    pub payload: Bytes,
    /// The session that sent it; `None` if it came from an engine.
    pub origin: Option<SessionId>,
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
    /// Open a connection for a route to `url`.
    Dial {
        /// `host:port` with user information.
        url: String,
        /// Whether a person configured it.
        is_explicit: bool,
    },
    /// A line for the log.
    Log {
        /// How important.
        level: log::Level,
        /// The line without prefix.
        text: String,
    },
}

/// What brokers of one process tell each other.
#[derive(Debug)]
pub enum Mail {}

/// Core NATS as one loop sees it.
pub struct Broker {}

impl Broker {
    /// A broker without sessions.
    #[must_use]
    pub fn new(_settings: Arc<Settings>, _home: LoopIndex, _seed: u64, _now: Now) -> Self {
        unimplemented!()
    }

    /// A connection was made: INFO (or what its kind starts with) goes to its outbox.
    pub fn open(&mut self, _session: SessionId, _hello: Hello, _now: Now) {
        unimplemented!()
    }

    /// The TLS handshake of a session is done.
    pub fn tls_established(&mut self, _session: SessionId, _peer: TlsPeer, _now: Now) {
        unimplemented!()
    }

    /// Handles every whole operation at the front of `input` and takes it out.
    pub fn read(&mut self, _session: SessionId, _input: &mut BytesMut, _now: Now) -> Flow {
        unimplemented!()
    }

    /// The socket of a session is gone, or must go, for `reason`.
    pub fn closed(&mut self, _session: SessionId, _reason: &str, _now: Now) {
        unimplemented!()
    }

    /// Something from the broker of another loop.
    pub fn handle_mail(&mut self, _from: LoopIndex, _mail: Mail, _now: Now) {
        unimplemented!()
    }

    /// An engine of this loop publishes. `leased` bytes leave only while the lease is valid.
    pub fn publish(
        &mut self,
        _subject: &Subject,
        _reply: Option<&Subject>,
        _head: &Bytes,
        _tail: &Bytes,
        _now: Now,
    ) {
        unimplemented!()
    }

    /// The engine of this loop listens from now on; all brokers are told.
    pub fn listen(&mut self, _subject: &Subject, _interest: EngineInterest) {
        unimplemented!()
    }

    /// The engine of this loop no longer listens.
    pub fn unlisten(&mut self, _subject: &Subject, _interest: EngineInterest) {
        unimplemented!()
    }

    /// The engine of this loop is gone (lease lost): all its interests go, and nothing of what it
    /// published and is not yet on a socket leaves this loop.
    pub fn engine_gone(&mut self) {
        unimplemented!()
    }

    /// Whether publishes for the engine of `engine` have to wait (see [`Flow::Paused`]).
    pub fn set_pressure(&mut self, _engine: LoopIndex, _is_high: bool) {
        unimplemented!()
    }

    /// Pings, time-outs, write deadlines that are due.
    pub fn handle_timeout(&mut self, _now: Now) {
        unimplemented!()
    }

    /// When [`Broker::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// The next thing that the broker asks for, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        unimplemented!()
    }

    /// A session of this loop whose outbox got bytes since the last call; each at most once.
    pub fn poll_dirty(&mut self) -> Option<SessionId> {
        unimplemented!()
    }

    /// The bytes that wait for a session.
    pub fn outbox(&mut self, _session: SessionId) -> Option<&mut outbox::Outbox> {
        unimplemented!()
    }
}

/// Bytes that wait for one connection.
pub mod outbox {
    use std::io::IoSlice;

    /// Bytes that wait for one connection; the bound; slow-consumer verdict.
    #[derive(Debug, Default)]
    pub struct Outbox {}

    impl Outbox {
        /// Bytes that wait.
        #[must_use]
        pub fn len(&self) -> usize {
            unimplemented!()
        }

        /// Whether nothing waits.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        /// The front of what waits, for one vectored write. With `lease_is_valid` false it ends
        /// before the first message that an engine sent (but for the rest of one that was begun).
        pub fn slices<'a>(&'a self, _lease_is_valid: bool, _out: &mut Vec<IoSlice<'a>>) {
            unimplemented!()
        }

        /// The first `len` bytes were taken by the socket.
        pub fn advance(&mut self, _len: usize) {
            unimplemented!()
        }
    }
}
