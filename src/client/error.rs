//! What can go wrong between this client and its servers.

use std::io;

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A server address is not `[nats://][user[:password]@]host[:port]`, or the same with `tls://`.
    #[error("invalid server address {0:?}: expected [nats://][user[:password]@]host[:port]")]
    InvalidAddress(String),
    /// The server takes only clients that speak TLS, and nothing says whom to trust.
    #[error(
        "TLS is required, and this machine has no trusted certificates: name those of the server"
    )]
    NeedsTls,
    /// TLS is asked for here, and the server has none.
    #[error("the server does not speak TLS")]
    NoTls,
    /// The server, or an option, asks for TLS where bytes are counted.
    #[error("connections that measure are in clear: name a port without TLS")]
    OnlyClear,
    /// A key is to be shown to a server that does not ask for one.
    #[error("nkeys not supported by the server")]
    NoKeys,
    /// No server could be reached, or each of them refused; the last reason.
    #[error("no NATS server available: {0}")]
    NoServer(String),
    /// No streaming server answered a request in time.
    #[error("{request} request timeout")]
    RequestTimeout {
        /// `connect`, `subscribe`, `unsubscribe` or `close`.
        request: &'static str,
    },
    /// A published message was not acknowledged in time. It may be stored all the same.
    #[error("publish ack timeout")]
    AckTimeout,
    /// A channel that no message can be published to.
    #[error(
        "invalid channel name {0:?}: it takes words with dots between, without blanks, \"/\", \
         \"*\" and \">\""
    )]
    InvalidChannel(String),
    /// Too many publishes wait for their ack, and none was acknowledged in time.
    #[error("{0} publishes wait for their ack")]
    TooManyInFlight(usize),
    /// The streaming server refused; its words.
    #[error("{0}")]
    Refused(String),
    /// The server says that this client was replaced, or it no longer answers pings.
    #[error("connection lost: {0}")]
    ConnectionLost(String),
    /// `close` was called.
    #[error("the client is closed")]
    Closed,
    /// What waits for a connection has reached its bound ([`super::Options::pending_bytes_max`]).
    #[error("not connected, and {0} bytes already wait to be sent")]
    PendingFull(usize),
    /// The call would wait for the thread that it was made on: a handler may not wait.
    #[error("a handler may not make calls that wait for the server")]
    WouldDeadlock,
    /// No unacknowledged publish has this GUID.
    #[error("no publish with GUID {0} waits for an ack")]
    UnknownGuid(String),
    /// Something that the machine refused.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// What a streaming server answers to a second client of one ID (spec protocol, 6).
const CLIENT_ID_TAKEN: &str = "stan: clientID already registered";

impl ClientError {
    /// Whether the server refused because another client that is alive has this client ID.
    #[must_use]
    pub fn is_client_id_taken(&self) -> bool {
        matches!(self, Self::Refused(text) if text == CLIENT_ID_TAKEN)
    }
}
