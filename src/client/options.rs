//! How to reach the servers, and how to subscribe: every choice with its default.

use std::sync::Arc;
use std::time::Duration;

use crate::base::nkey::UserKey;

/// How to reach the servers and how patient to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// `[nats://][user[:password]@]host[:port]`, or with `tls://`; tried in this order, and again
    /// in a circle.
    pub servers: Vec<String>,
    /// The cluster ID of the streaming server.
    pub cluster_id: String,
    /// `[a-zA-Z0-9_-]+`, unique in the cluster.
    pub client_id: String,
    /// The name of the NATS connection, for monitoring.
    pub name: String,
    /// Where an address has no user of its own.
    pub user: Option<String>,
    /// Belongs to `user`.
    pub password: Option<String>,
    /// Sent as `auth_token` where the address has no user.
    pub token: Option<String>,
    /// Who the user is, as its account has signed it; belongs to `key`.
    pub jwt: Option<String>,
    /// Signs what the server sends, where the address has no user.
    pub key: Option<Arc<UserKey>>,
    /// How to speak TLS, where the server or an address (`tls://`) asks for it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether to speak it with every server.
    pub is_secure: bool,
    /// How the discovery subject begins.
    pub discover_prefix: String,
    /// For TCP connects and for each request but publish.
    pub timeout: Duration,
    /// How long a publish waits for its ack, and the socket for a server that does not read.
    pub ack_timeout: Duration,
    /// Publishes without an ack; more of them wait.
    pub in_flight_max: usize,
    /// Bytes kept for sending while there is no connection.
    pub pending_bytes_max: usize,
    /// Pause after every server of the list refused.
    pub reconnect_wait: Duration,
    /// How long to try, in all, before the connection is given up.
    pub reconnect_for: Duration,
    /// How often to ask the server for a sign of life; whole seconds.
    pub ping_interval: Duration,
    /// So many unanswered pings end the connection.
    pub ping_max_out: i32,
}

impl Options {
    /// The reference client's defaults (spec protocol, section 24).
    #[must_use]
    pub fn new(servers: &[&str], cluster_id: &str, client_id: &str) -> Self {
        Self {
            servers: servers.iter().map(|server| (*server).to_owned()).collect(),
            cluster_id: cluster_id.to_owned(),
            client_id: client_id.to_owned(),
            name: client_id.to_owned(),
            user: None,
            password: None,
            token: None,
            jwt: None,
            key: None,
            tls: None,
            is_secure: false,
            discover_prefix: "_STAN.discover".to_owned(),
            timeout: Duration::from_secs(2),
            ack_timeout: Duration::from_secs(30),
            in_flight_max: 16_384,
            pending_bytes_max: 8 << 20,
            reconnect_wait: Duration::from_millis(20),
            reconnect_for: Duration::from_secs(120),
            ping_interval: Duration::from_secs(5),
            ping_max_out: 88,
        }
    }
}

/// Where a new subscription starts; ignored where a durable or queue group goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// With what is published from now on.
    #[default]
    NewOnly,
    /// With the last message stored.
    LastReceived,
    /// With the first message not older than this, by the server's clock.
    TimeDelta(Duration),
    /// With this sequence, or the nearest that exists.
    Sequence(u64),
    /// With the oldest message stored.
    First,
}

/// How to subscribe.
#[derive(Clone, Debug)]
pub struct SubscriptionOptions {
    /// Where to start.
    pub start: StartAt,
    /// The queue group to join.
    pub queue: Option<String>,
    /// The name under which the server remembers the position.
    pub durable: Option<String>,
    /// Whether the handler acknowledges by [`super::Message::ack`]; otherwise the client does when
    /// the handler has returned.
    pub manual_acks: bool,
    /// Messages that the server sends without their ack; at least 1.
    pub in_flight_max: i32,
    /// After how long the server redelivers; whole seconds, at least 1.
    pub ack_wait: Duration,
}

impl Default for SubscriptionOptions {
    fn default() -> Self {
        Self {
            start: StartAt::NewOnly,
            queue: None,
            durable: None,
            manual_acks: false,
            in_flight_max: 1_024,
            ack_wait: Duration::from_secs(30),
        }
    }
}
