//! Exact texts of -ERR lines.
//!
//! And of the reasons why a connection was closed, which monitoring shows (spec core NATS, 2.11
//! and 2.13).

use std::fmt;

use crate::base::go::{quote, quote_any};
use crate::wire::states;

/// Authentication failed, or an operation came before CONNECT.
pub const AUTHORIZATION_VIOLATION: &str = "Authorization Violation";
/// No CONNECT in time.
pub const AUTHENTICATION_TIMEOUT: &str = "Authentication Timeout";
/// Too many PINGs without an answer.
pub const STALE_CONNECTION: &str = "Stale Connection";
/// The server is full.
pub const CONNECTIONS_EXCEEDED: &str = "maximum connections exceeded";
/// The connection has as many interests as it may.
pub const SUBSCRIPTIONS_EXCEEDED: &str = "maximum subscriptions exceeded";
/// A malformed SUB subject.
pub const INVALID_SUBJECT: &str = "Invalid Subject";
/// A malformed PUB subject of a pedantic client.
pub const INVALID_PUBLISH_SUBJECT: &str = "Invalid Publish Subject";
/// A protocol number other than 0 and 1.
pub const INVALID_CLIENT_PROTOCOL: &str = "invalid client protocol";
/// `no_responders` without `headers`.
pub const NO_RESPONDERS_REQUIRES_HEADERS: &str = "no responders requires headers support";
/// The TLS handshake did not come in time.
pub const TLS_REQUIRED: &str = "Secure Connection - TLS Required";
/// What begins no operation.
pub const UNKNOWN_OPERATION: &str = "Unknown Protocol Operation";
/// A line that is too long.
pub const CONTROL_LINE_EXCEEDED: &str = "maximum control line exceeded";
/// A message that is too long.
pub const PAYLOAD_EXCEEDED: &str = "Maximum Payload Violation";
/// A client on the cluster port.
pub const ROUTE_PORT: &str = "attempted to connect to route port";
/// A malformed RS+ subject.
pub const INVALID_SUBSCRIPTION: &str = "Invalid Subscription";

/// Bytes of a line that an error shows.
const SNIPPET_LEN_MAX: usize = 128;

/// Bytes that an error shows from the one on that begins no operation.
const UNKNOWN_SNIPPET_LEN_MAX: usize = 32;

/// The beginning of `bytes`, in the way of the reference: where there are not that many, the last
/// one is missing.
fn snippet(bytes: &[u8], len_max: usize) -> &[u8] {
    bytes.get(..len_max).unwrap_or(&bytes[..bytes.len().saturating_sub(1)])
}

/// Bytes that are no operation, as the log tells of them; `at` is their place in what was read.
#[must_use]
pub fn no_operation(who: &str, (state, at): (u8, usize), bytes: &[u8]) -> String {
    let shown = quote_any(snippet(bytes, UNKNOWN_SNIPPET_LEN_MAX));
    format!("{who} parser ERROR, state={state}, i={at}: proto='{shown}...'")
}

/// What a peer's bytes can do wrong; it closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// No operation begins like this, or a payload does not end where it was said to.
    #[error("Unknown Protocol Operation")]
    UnknownOperation {
        /// Where in the reference's parser that would be found out.
        state: u8,
        /// The byte that shows it, from the beginning of the operation.
        at: usize,
    },
    /// The arguments of a line are too long.
    #[error(
        "maximum control line exceeded: State {state}, max_control_line {max}, \
        Buffer len {unfinished_len} (snip: {snippet}...)"
    )]
    ControlLineTooLong {
        /// Where in the reference's parser that would be found out.
        state: u8,
        /// What is allowed, in bytes.
        max: usize,
        /// Bytes of a line that has no end yet.
        unfinished_len: usize,
        /// How its arguments begin, quoted.
        snippet: String,
    },
    /// A message is too long.
    #[error("maximum payload exceeded: {size} vs {max}")]
    PayloadTooLarge {
        /// What was announced, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        max: usize,
    },
    /// HPUB where headers were not agreed on.
    #[error("message headers not supported")]
    HeadersNotSupported,
    /// The arguments of an operation are not what they must be.
    #[error("{step} {what}: {line}")]
    Arguments {
        /// The operation, in the reference's words.
        step: &'static str,
        /// What is wrong, in the reference's words.
        what: &'static str,
        /// The arguments, as the reference shows them.
        line: String,
    },
}

impl ProtocolError {
    /// Wrong arguments of an operation; keeps a snippet of the line.
    pub(crate) fn arguments(step: &'static str, what: &'static str, line: &[u8]) -> Self {
        let line = quote_any(&line[..line.len().min(SNIPPET_LEN_MAX)]);
        Self::Arguments { step, what, line }
    }

    /// The arguments of an operation are too long; has the line no end yet, so many bytes are here.
    pub(crate) fn too_long(state: u8, max: usize, unfinished_len: usize, line: &[u8]) -> Self {
        let snippet = quote_any(snippet(line, SNIPPET_LEN_MAX));
        Self::ControlLineTooLong { state, max, unfinished_len, snippet }
    }

    /// Whether the line of the operation is whole, and something else is wrong.
    pub(crate) fn is_behind_line(&self) -> bool {
        match self {
            Self::UnknownOperation { state, .. } => states::is_at_payload_end(*state),
            Self::ControlLineTooLong { .. } => false,
            Self::PayloadTooLarge { .. } | Self::HeadersNotSupported | Self::Arguments { .. } => {
                true
            }
        }
    }

    /// Why the connection is closed.
    #[must_use]
    pub fn reason(&self) -> CloseReason {
        match self {
            Self::ControlLineTooLong { .. } => CloseReason::ControlLineExceeded,
            Self::PayloadTooLarge { .. } => CloseReason::PayloadExceeded,
            Self::UnknownOperation { .. } | Self::HeadersNotSupported | Self::Arguments { .. } => {
                CloseReason::ProtocolViolation
            }
        }
    }
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts below say what each means")]
pub enum CloseReason {
    ClientClosed,
    AuthenticationTimeout,
    AuthenticationFailure,
    TlsHandshakeFailure,
    SlowConsumerPendingBytes,
    SlowConsumerWriteDeadline,
    ParseError,
    StaleConnection,
    ProtocolViolation,
    BadClientProtocolVersion,
    IncorrectPort,
    ConnectionsExceeded,
    PayloadExceeded,
    ControlLineExceeded,
    DuplicateRoute,
    RouteRemoved,
    ServerShutdown,
    NoRespondersRequiresHeaders,
    ClusterNameConflict,
    DuplicateServerName,
}

impl CloseReason {
    /// The text that monitoring shows.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ClientClosed => "Client Closed",
            Self::AuthenticationTimeout => "Authentication Timeout",
            Self::AuthenticationFailure => "Authentication Failure",
            Self::TlsHandshakeFailure => "TLS Handshake Failure",
            Self::SlowConsumerPendingBytes => "Slow Consumer (Pending Bytes)",
            Self::SlowConsumerWriteDeadline => "Slow Consumer (Write Deadline)",
            Self::ParseError => "Parse Error",
            Self::StaleConnection => "Stale Connection",
            Self::ProtocolViolation => "Protocol Violation",
            Self::BadClientProtocolVersion => "Bad Client Protocol Version",
            Self::IncorrectPort => "Incorrect Port",
            Self::ConnectionsExceeded => "Maximum Connections Exceeded",
            Self::PayloadExceeded => "Maximum Message Payload Exceeded",
            Self::ControlLineExceeded => "Maximum Control Line Exceeded",
            Self::DuplicateRoute => "Duplicate Route",
            Self::RouteRemoved => "Route Removed",
            Self::ServerShutdown => "Server Shutdown",
            Self::NoRespondersRequiresHeaders => "No Responders Requires Headers",
            Self::ClusterNameConflict => "Cluster Name Conflict",
            Self::DuplicateServerName => "Duplicate Server Name",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A publish that permissions refuse.
#[must_use]
pub fn publish_violation(subject: &[u8]) -> String {
    format!("Permissions Violation for Publish to {}", quote_any(subject))
}

/// A publish whose reply is reserved.
#[must_use]
pub fn reply_violation(reply: &[u8]) -> String {
    format!("Permissions Violation for Publish with Reply of {}", quote_any(reply))
}

/// A SUB that permissions refuse.
#[must_use]
pub fn subscription_violation(subject: &[u8], queue: Option<&[u8]>) -> String {
    let queue = queue.map(|queue| format!(" using queue {}", quote_any(queue)));
    let subject = quote_any(subject);
    format!("Permissions Violation for Subscription to {subject}{}", queue.unwrap_or_default())
}

/// A SUB with more tokens than `max_sub_tokens`.
#[must_use]
pub fn too_many_tokens(subject: &[u8]) -> String {
    let subject = quote_any(subject);
    format!("Permissions Violation for Subscription to {subject}, too many tokens")
}

/// An interest that a reload took away.
#[must_use]
pub fn subscription_removed(subject: &[u8], sid: &[u8]) -> String {
    let (subject, sid) = (quote_any(subject), quote_any(sid));
    format!("Permissions Violation for Subscription to {subject} (sid {sid})")
}

/// A peer of another cluster.
#[must_use]
pub fn cluster_name_rejected(remote: &str, own: &str) -> String {
    let (remote, own) = (quote(remote), quote(own));
    format!("Rejecting connection, cluster name {remote} does not match {own}")
}
