//! How the server was configured, as far as brokers care.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::base::id::LoopIndex;
use crate::base::limits::ROUTE_PENDING_BYTES_MIN;
use crate::base::nkey::UserKey;
use crate::base::server_url::ServerUrl;
use crate::broker::Discovery;
use crate::broker::account::Permissions;
use crate::broker::outbox::Gauge;

/// How the server was configured, as far as brokers care; the same for all of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many loops the process has.
    pub loops: u16,
    /// `server_id` of INFO: a public key of type server, 56 characters.
    pub server_id: String,
    /// `server_name` of INFO; if none is configured the caller puts the id here.
    pub server_name: String,
    /// `version` of INFO.
    pub version: String,
    /// `go` of INFO: clients only want a string.
    pub go: String,
    /// `host` of INFO: what is listened on, or of `client_advertise`.
    pub host: String,
    /// `port` of INFO: the real one, or of `client_advertise`.
    pub port: u16,
    /// This server's own `connect_urls`, computed by the caller (spec core NATS, 2.3).
    pub client_urls: Vec<String>,
    /// Most bytes of a message.
    pub max_payload: usize,
    /// Most bytes of arguments in a line of a client.
    pub max_control_line: usize,
    /// Most client connections of the process; 0 is no limit.
    pub max_connections: usize,
    /// Most interests of a connection; 0 is no limit.
    pub max_subscriptions: usize,
    /// Most tokens in the subject of an interest; 0 is no limit.
    pub max_sub_tokens: usize,
    /// Most bytes that wait for one client.
    pub max_pending: usize,
    /// How long bytes may wait for one connection.
    pub write_deadline: Duration,
    /// Time between PINGs.
    pub ping_interval: Duration,
    /// PINGs that may be unanswered.
    pub ping_max: u32,
    /// Whether headers are supported.
    pub headers: bool,
    /// TLS on the client port.
    pub tls: ClientTls,
    /// How long a TLS handshake may take.
    pub tls_timeout: Duration,
    /// Who may connect.
    pub auth: Auth,
    /// The cluster; `None` without routes.
    pub cluster: Option<Cluster>,
    /// Cluster name that clients are told even without routes.
    pub cluster_name: String,
    /// Where clients look for the streaming server of this process; `None` without one.
    pub discovery: Option<Discovery>,
    /// What the group is called whose members keep for each other what clients have sent; empty
    /// where there is none.
    pub group: String,
    /// The external server that engines are clients of; `None` where this one is theirs.
    pub upstream: Option<Arc<Upstream>>,
    /// Whose a message for engines is.
    pub owner: Owner,
    /// Whether all operations are shown in the log.
    pub is_traced: bool,
    /// Whether lines of debugging are wanted.
    pub is_debugged: bool,
    /// Most bytes of a payload that are shown then; 0 is no limit.
    pub traced_bytes_max: usize,
    /// Numbers that all loops share. Of the settings of a reload only the first ones count.
    pub counters: Arc<Counters>,
}

impl Settings {
    /// Most bytes that wait for one route, beside deliveries and what a new route is told at once.
    pub(super) fn route_pending_max(&self) -> usize {
        self.max_pending.saturating_mul(2).max(ROUTE_PENDING_BYTES_MIN)
    }
}

/// Which of so many loops has the engine to which a message with this payload belongs, if it came
/// in on the loop that is named; `None` if it belongs to none. It is what engines go by: brokers
/// know nothing of channels, whatever a subject looks like.
pub type Owner = fn(payload: &[u8], home: LoopIndex, loops: u16) -> Option<LoopIndex>;

/// TLS on the client port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientTls {
    /// None.
    #[default]
    Off,
    /// Each client has to begin a handshake after INFO.
    Required {
        /// Whether a client needs a certificate.
        verify: bool,
    },
    /// Clients with and without TLS (`allow_non_tls`).
    Available {
        /// Whether a client with TLS needs a certificate.
        verify: bool,
    },
}

/// Who may connect (spec core NATS, 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Users by name.
    pub users: Vec<User>,
    /// The only user and its password.
    pub user: Option<(String, String)>,
    /// The only token.
    pub token: Option<String>,
    /// The user that a client without credentials is.
    pub no_auth_user: Option<String>,
    /// Whether the user is the one that the certificate names (`verify_and_map`).
    pub tls_map: bool,
    /// How long a client may take for CONNECT.
    pub timeout: Duration,
}

/// One user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password, plain or a bcrypt hash.
    pub password: String,
    /// What it may do; `None` is everything. Default permissions are already applied.
    pub permissions: Option<Arc<Permissions>>,
    /// `allowed_connection_types`, in upper case; empty is all.
    pub connection_types: Vec<String>,
}

/// The cluster that this server is part of (spec core NATS, 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name; made up by the caller if none is configured, with `is_dynamic`.
    pub name: String,
    /// Whether the name was made up.
    pub is_dynamic: bool,
    /// Host of INFO to routes: what is listened on, or of `cluster_advertise`.
    pub host: String,
    /// Port of INFO to routes.
    pub port: u16,
    /// Whether host and port are those of `cluster_advertise`.
    pub is_advertised: bool,
    /// `host:port` of configured routes, with user information where given.
    pub routes: Vec<String>,
    /// User and password that a peer must give.
    pub user: Option<(String, String)>,
    /// How long a peer may take for CONNECT.
    pub auth_timeout: Duration,
    /// Whether routes use TLS.
    pub tls: bool,
    /// Whether `connect_urls` stay among servers.
    pub no_advertise: bool,
    /// More attempts at gossiped routes.
    pub connect_retries: u32,
    /// What peers may hear and say of this server.
    pub permissions: Option<Arc<Permissions>>,
}

/// The external NATS server that the engines are clients of, and who they are there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Upstream {
    /// What the connection is called.
    pub name: String,
    /// Where such servers are.
    pub servers: Vec<ServerUrl>,
    /// Whether it has to be TLS. Where a server asks for it, it is TLS anyway.
    pub is_secure: bool,
    /// The name that its certificate must have; `None` is that of its URL.
    pub tls_name: Option<String>,
    /// The user, where a URL names nobody.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The token, where a URL names nobody.
    pub token: String,
    /// What the user's credentials say of it.
    pub jwt: Option<String>,
    /// What it signs with.
    pub key: Option<Arc<UserKey>>,
}

impl std::fmt::Debug for Upstream {
    /// Without whatever lets somebody in.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, is_secure, tls_name, user, .. } = self;
        f.debug_struct("Upstream")
            .field("name", name)
            .field("is_secure", is_secure)
            .field("tls_name", tls_name)
            .field("user", user)
            .finish_non_exhaustive()
    }
}

/// Numbers that all loops of a process share.
#[derive(Debug, Default)]
pub struct Counters {
    /// Last connection number given.
    pub connection_ids: AtomicU64,
    /// Clients that are connected.
    pub clients: AtomicU64,
    /// What waits for the external server.
    pub upstream: Arc<Gauge>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            loops: 1,
            server_id: String::new(),
            server_name: String::new(),
            version: "2.9.24".to_owned(),
            go: "go1.20.14".to_owned(),
            host: "0.0.0.0".to_owned(),
            port: 4222,
            client_urls: Vec::new(),
            max_payload: 1024 * 1024,
            max_control_line: 4096,
            max_connections: 64 * 1024,
            max_subscriptions: 0,
            max_sub_tokens: 0,
            max_pending: 64 * 1024 * 1024,
            write_deadline: Duration::from_secs(10),
            ping_interval: Duration::from_secs(120),
            ping_max: 2,
            headers: true,
            tls: ClientTls::Off,
            tls_timeout: Duration::from_secs(2),
            auth: Auth::default(),
            cluster: None,
            cluster_name: String::new(),
            discovery: None,
            group: String::new(),
            upstream: None,
            owner: |_, home, _| Some(home),
            is_traced: false,
            is_debugged: false,
            traced_bytes_max: 0,
            counters: Arc::default(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            user: None,
            token: None,
            no_auth_user: None,
            tls_map: false,
            timeout: Duration::from_secs(2),
        }
    }
}

impl Auth {
    /// Whether a client has to say who it is.
    #[must_use]
    pub fn is_required(&self) -> bool {
        !self.users.is_empty() || self.user.is_some() || self.token.is_some()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: String::new(),
            is_dynamic: false,
            host: "0.0.0.0".to_owned(),
            port: 6222,
            is_advertised: false,
            routes: Vec::new(),
            user: None,
            auth_timeout: Duration::from_secs(2),
            tls: false,
            no_advertise: false,
            connect_retries: 0,
            permissions: None,
        }
    }
}
