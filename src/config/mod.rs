//! Config: checked and typed; all that other rooms ever see
//!
//! Nothing here but `machine` reads a file, the environment or the machine: what flags and files
//! say comes in through `options::load`, with a [`World`] that reads for it.

mod auth_keys;
pub mod banner;
mod checks;
mod core_keys;
mod defaults;
pub mod draft;
pub mod file;
pub mod flag_table;
pub mod flags;
pub mod machine;
pub(crate) mod nearest;
pub mod options;
pub mod places;
mod policy_keys;
pub mod reload;
pub(crate) mod route;
mod streaming_keys;
mod tls_keys;
pub mod tree;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroize as _;

pub use checks::{CLIENT_PORT, MONITOR_PORTS, ROUTE_PORT};

use crate::base::channel_limits::StoreLimits;
use crate::base::encryption::StoreKey;
use crate::base::server_url::ServerUrl;
use crate::log;

/// What configuration may ask of the machine; the shell fills it, tests fake it.
pub struct World<'a> {
    /// Reads a whole file.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The bytes of one that holds a secret, whatever they are.
    pub secret: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    /// Cores of the machine: one less is the default of `--loops`.
    pub cores: u16,
}

/// Which of its names the executable was called by: it decides flags, texts and exit codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// `stanby` or `nats-streaming-server`: a streaming server with a core server inside.
    #[default]
    Streaming,
    /// `nats-server`: a core server and nothing else.
    Core,
}

impl Program {
    /// The name that texts and process look-ups use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Streaming => "nats-streaming-server",
            Self::Core => "nats-server",
        }
    }

    /// Exit code after SIGTERM (spec configuration, section 6.1; core NATS, 18.2).
    #[must_use]
    pub fn terminated_code(self) -> u8 {
        match self {
            Self::Streaming => 143,
            Self::Core => 1,
        }
    }
}

/// Arguments as they were given; may hold a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Arguments(pub Vec<String>);

impl Arguments {
    /// All but the keys of encryption, which are written over.
    #[must_use]
    pub fn without_keys(program: Program, mut args: Vec<String>) -> Self {
        for (at, from) in flags::keys(program, &args) {
            let left = args[at][..from].to_owned();
            args[at].zeroize();
            args[at] = left;
        }
        Self(args)
    }
}

impl std::fmt::Debug for Arguments {
    /// Their number alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arguments({} not shown)", self.0.len())
    }
}

/// Everything that a process is told when it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Streaming server or core server.
    pub program: Program,
    /// Event loops, at least 1 and at most `base::limits::LOOPS_MAX`.
    pub loops: u16,
    /// The arguments behind the executable's name: read again when the server reloads.
    pub arguments: Arguments,
    /// The configuration file of the core half, as the user wrote it (for its log line).
    pub config_file: Option<PathBuf>,
    /// Where the process writes its id at start; never removed.
    pub pid_file: Option<PathBuf>,
    /// Where a service manager listens for what becomes of the process (`NOTIFY_SOCKET`).
    pub notify_socket: Option<PathBuf>,
    /// Where the control socket may lie, best first, unless the options name a place.
    pub control_folders: Vec<PathBuf>,
    /// Folder of `<program>_<pid>.ports`, which lists what the process listens on.
    pub ports_file_dir: Option<PathBuf>,
    /// The core NATS server.
    pub core: CoreConfig,
    /// The streaming server; not used by [`Program::Core`].
    pub streaming: StreamingConfig,
    /// Where log lines go, and which (spec configuration, 7).
    pub log: log::Settings,
    /// The HTTP pages.
    pub monitor: MonitorConfig,
    /// Lines for stderr before the log exists (`file:line:column: …`).
    pub warnings: Vec<String>,
    /// Where the files say what.
    pub places: places::Places,
    /// What makes the start fail although the configuration could be read: to be logged after
    /// the first banner lines, with exit code 1.
    pub start_error: Option<StartError>,
}

impl Config {
    /// Whether what the server keeps is there when its process is gone.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.streaming.store != StoreKind::Memory
    }

    /// The options that say where the data lies, as [`places::Places::behind`] takes them.
    #[must_use]
    pub fn data_options(&self) -> &'static str {
        match self.streaming.store {
            StoreKind::Sql => "sql_options.source sql_options.driver",
            StoreKind::Memory | StoreKind::File => "streaming.dir",
        }
    }
}

/// Why a start fails that got as far as its log (spec configuration, section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The streaming server's options do not fit together.
    Streaming(String),
    /// The monitoring pages cannot be shown.
    Monitoring(String),
    /// A listener cannot be what the core server was told; the whole line.
    Core(String),
}

impl StartError {
    /// Target and text of the fatal line.
    #[must_use]
    pub fn fatal_line(&self) -> (&'static str, String) {
        match self {
            Self::Streaming(text) => (log::STREAM, format!("Failed to start: {text}")),
            Self::Monitoring(text) => (log::CORE, format!("Can't start monitoring: {text}")),
            Self::Core(line) => (log::CORE, line.clone()),
        }
    }
}

/// The core NATS server.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreConfig {
    /// Address to listen on, as written; `0.0.0.0` stands for both address families.
    pub host: String,
    /// Port for clients; -1 = any free one. One that is none is a [`StartError`].
    pub port: i64,
    /// `host[:port]` that clients are told instead of the listener's address.
    pub client_advertise: Option<String>,
    /// Name of the server; `None` = its id.
    pub server_name: Option<String>,
    /// What operators call it in monitoring: lower case, each once.
    pub tags: Vec<String>,
    /// Most connections of clients; `None` = no limit.
    pub connections_max: Option<u64>,
    /// Most interests of one connection; `None` = no limit.
    pub interests_max: Option<u64>,
    /// Most tokens in a subject to listen on; `None` = no limit.
    pub subject_tokens_max: Option<u8>,
    /// Bytes of the longest protocol line of a client.
    pub control_line_bytes_max: usize,
    /// Bytes of the largest message, headers included.
    pub payload_bytes_max: usize,
    /// Bytes that may wait for one client before it is cut off.
    pub pending_bytes_max: usize,
    /// Time between pings of the server.
    pub ping_interval: Duration,
    /// Pings without an answer after which a connection is stale.
    pub pings_max: u32,
    /// How long a write may stand still.
    pub write_deadline: Duration,
    /// Bytes of a message shown in a trace line; 0 = all.
    pub traced_bytes_max: usize,
    /// How long lame duck mode takes to close all clients.
    pub lame_duck_duration: Duration,
    /// How long lame duck mode waits before it begins.
    pub lame_duck_grace: Duration,
    /// Whether clients may send headers.
    pub has_headers: bool,
    /// Whether the interest tree was to have no cache; it has none.
    pub no_sublist_cache: bool,
    /// `trace_verbose`, which is `trace` here: what it adds is the system account's.
    pub is_trace_verbose: bool,
    /// Whether times in UTC were asked for; the log of the streaming server knows none.
    pub asks_for_utc: bool,
    /// Whether monitoring names the system account; nobody uses it here.
    pub has_system_account: bool,
    /// Failed first attempts to connect a route: each n-th is logged.
    pub connect_error_reports: u32,
    /// Failed further attempts to connect a route: each n-th is logged.
    pub reconnect_error_reports: u32,
    /// Who may connect and what they may do.
    pub auth: AuthConfig,
    /// TLS for clients.
    pub tls: Option<TlsConfig>,
    /// Whether clients without TLS are served beside those with it.
    pub allow_non_tls: bool,
    /// Routes to other servers; `None` = no cluster.
    pub cluster: Option<ClusterConfig>,
    /// The cluster's name where there is no port for routes; clients are told it all the same.
    pub cluster_name: Option<String>,
}

/// Who may connect and what they may do (spec core NATS, 6 and 7).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthConfig {
    /// The only user's name.
    pub username: Option<String>,
    /// The only user's password, plain or bcrypt.
    pub password: Option<String>,
    /// A token instead of users, plain or bcrypt.
    pub token: Option<String>,
    /// Users with permissions, in the order of the file.
    pub users: Vec<User>,
    /// The user that clients without credentials are; one of `users`.
    pub no_auth_user: Option<String>,
    /// How long a client has to authenticate.
    pub timeout: Duration,
}

impl AuthConfig {
    /// Whether clients have to prove who they are.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.username.is_some() || self.token.is_some() || !self.users.is_empty()
    }

    /// Whether there is a user of that name.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.password_of(name).is_some()
    }

    /// Whether who says to be that user has to know something.
    #[must_use]
    pub fn has_password(&self, name: &str) -> bool {
        self.password_of(name).is_some_and(|password| !password.is_empty())
    }

    fn password_of(&self, name: &str) -> Option<&str> {
        let is_only = self.username.as_deref() == Some(name);
        let only = is_only.then(|| self.password.as_deref().unwrap_or_default());
        let listed = self.users.iter().find(|user| user.name == name);
        only.or_else(|| listed.map(|user| &user.password[..]))
    }
}

/// One user of the `authorization` block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password, plain or bcrypt; may be empty.
    pub password: String,
    /// What it may do, default permissions filled in; `None` = everything.
    pub permissions: Option<Permissions>,
    /// Kinds of connections it may use (`STANDARD`, `WEBSOCKET`, …); empty = all.
    pub connection_types: BTreeSet<String>,
}

/// What a user or a route may do (spec core NATS, 7).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Permissions {
    /// Subjects it may publish on.
    pub publish: SubjectRules,
    /// Subjects it may listen on; an entry may be `<subject> <queue>`.
    pub subscribe: SubjectRules,
    /// Whether it may answer what it was asked.
    pub responses: Option<ResponseRule>,
}

/// Allowed and denied subjects; what is denied wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubjectRules {
    /// `None` = everything; an empty list = nothing (publish) or everything (subscribe).
    pub allow: Option<Vec<String>>,
    /// Empty = nothing is denied.
    pub deny: Vec<String>,
}

/// `allow_responses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseRule {
    /// Answers to one request; `None` = no limit.
    pub count_max: Option<u64>,
    /// How long after the request; `None` = for ever.
    pub ttl: Option<Duration>,
}

/// TLS of one listener, and of what it dials (spec core NATS, 16.6).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsConfig {
    /// PEM of the server's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM of its private key.
    pub key_file: Option<PathBuf>,
    /// PEM of the authorities that peers are verified with; `None` = the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether a peer has to show a certificate that verifies.
    pub verify: bool,
    /// Whether the user is found by the client's certificate.
    pub verify_and_map: bool,
    /// Whether certificates of dialled servers are not verified.
    pub insecure: bool,
    /// Go's names, in order of preference; empty = the defaults.
    pub cipher_suites: Vec<String>,
    /// `X25519`, `CurveP256` …; empty = the defaults.
    pub curves: Vec<String>,
    /// How long a handshake may take.
    pub timeout: Duration,
}

/// Routes to other servers (spec core NATS, 16.2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterConfig {
    /// Name of the cluster; `None` = made up at start.
    pub name: Option<String>,
    /// Address to listen on for routes.
    pub host: String,
    /// Port for routes; -1 = any free one.
    pub port: i64,
    /// Credentials that a peer must show, and that we show where the route names none.
    pub username: Option<String>,
    /// See `username`.
    pub password: Option<String>,
    /// How long a route has to authenticate.
    pub auth_timeout: Duration,
    /// `publish` = import, `subscribe` = export.
    pub permissions: Option<Permissions>,
    /// Routes to solicit, as URLs with user information, in order, without doubles.
    pub routes: Vec<RouteUrl>,
    /// TLS of routes, which always verifies both sides.
    pub tls: Option<TlsConfig>,
    /// `host[:port]` that peers are told instead of the listener's address.
    pub advertise: Option<String>,
    /// Whether clients are not told of the other servers.
    pub no_advertise: bool,
    /// Further attempts for a route that was learned from a peer.
    pub connect_retries: u32,
}

/// One configured route.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteUrl {
    /// As it is shown: without user information.
    pub url: String,
    /// `host:port`, or what else stands there: only who dials finds out.
    pub address: String,
    /// User, decoded.
    pub username: Option<String>,
    /// Password, decoded.
    pub password: Option<String>,
}

/// The streaming server (spec configuration, 2 and 3).
#[derive(Clone, Debug, PartialEq)]
pub struct StreamingConfig {
    /// Part of every subject.
    pub cluster_id: String,
    /// Prefix of the discovery subject.
    pub discover_prefix: String,
    /// Where channels are kept.
    pub store: StoreKind,
    /// Folder of the file store; `None` if none was given (a start error with that store).
    pub directory: Option<PathBuf>,
    /// Options of the file store.
    pub file: FileConfig,
    /// Options of the SQL store.
    pub sql: SqlConfig,
    /// Limits of the store and its channels.
    pub limits: StoreLimits,
    /// Time between heartbeats to a client.
    pub heartbeat_interval: Duration,
    /// How long a heartbeat may stay unanswered.
    pub heartbeat_timeout: Duration,
    /// Failed heartbeats in a row that a client may have; one more closes it.
    pub heartbeat_failures_max: u32,
    /// Name of the fault-tolerance group; `None` = a stand-alone server.
    pub ft_group: Option<String>,
    /// How long an active may stand still before a standby replaces it; `None` = for ever.
    pub steal_after: Option<Duration>,
    /// Where commands of this machine reach the server.
    pub control: ControlPlace,
    /// Users who may ask the active server over NATS for what commands of its machine may; empty =
    /// nobody.
    pub administrators: BTreeSet<String>,
    /// Whether a subscribe request on an online durable replaces it.
    pub replace_durable: bool,
    /// Whether this server has only the channels that have limits of their own, and others of the
    /// cluster ID have others.
    pub partitioning: bool,
    /// Messages of one batch as the reference bounds them; ours has `base::limits`.
    pub io_batch_size: u64,
    /// The external NATS server that it runs over; `None` = its own.
    pub external: Option<ExternalConfig>,
    /// The seed that its connections sign with.
    pub nkey_seed_file: Option<PathBuf>,
    /// What stored payloads are encrypted with; `None` = they are not.
    pub encryption: Option<StoreKey>,
    /// TLS of the streaming server's own connections; they exist only with an external server.
    pub client_tls: ClientTlsConfig,
}

/// Where commands of this machine reach a running server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ControlPlace {
    /// In the first folder that will do; without one they do not.
    #[default]
    AnyFolder,
    /// There; a start that cannot have it fails.
    At(PathBuf),
    /// They do not.
    Nowhere,
}

/// An external NATS server, and who the streaming server is there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExternalConfig {
    /// Where such servers are; empty where what is written is a [`StartError`].
    pub servers: Vec<ServerUrl>,
    /// User, where neither a URL nor `-user` names one.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Token, where neither a URL nor `-auth` has one.
    pub token: String,
    /// File with a user's JWT and seed.
    pub credentials_file: Option<PathBuf>,
}

impl std::fmt::Debug for ExternalConfig {
    /// Without password and token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { servers, username, credentials_file, password: _, token: _ } = self;
        f.debug_struct("ExternalConfig")
            .field("servers", servers)
            .field("username", username)
            .field("credentials_file", credentials_file)
            .finish_non_exhaustive()
    }
}

/// Where channels are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// In memory, gone with the process.
    #[default]
    Memory,
    /// In files.
    File,
    /// In a database.
    Sql,
}

impl StoreKind {
    /// As log lines and monitoring name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "MEMORY",
            Self::File => "FILE",
            Self::Sql => "SQL",
        }
    }
}

/// Options of the SQL store (spec stores, 8.13).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SqlConfig {
    /// `postgres`, `mysql` or `sqlite`.
    pub driver: String,
    /// Where the database is, and as whom; may hold a password.
    pub source: String,
    /// Whether nothing is held back.
    pub no_caching: bool,
    /// Connections that may be open; 0 = no limit.
    pub connections_max: usize,
    /// Rows of one `INSERT`; 0 = as many as are good.
    pub bulk_insert_limit: usize,
    /// What the environment says of the database (`PGHOST` and so on); may hold a password.
    pub variables: BTreeMap<String, String>,
}

impl std::fmt::Debug for SqlConfig {
    /// Without source and variables: they may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            driver,
            no_caching,
            connections_max,
            bulk_insert_limit,
            source: _,
            variables: _,
        } = self;
        f.debug_struct("SqlConfig")
            .field("driver", driver)
            .field("no_caching", no_caching)
            .field("connections_max", connections_max)
            .field("bulk_insert_limit", bulk_insert_limit)
            .finish_non_exhaustive()
    }
}

/// Options of the file store (spec stores, section 6).
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// Whether client and subscription files are compacted.
    pub compact_enabled: bool,
    /// Dead records in percent from which a file is compacted; at least 1.
    pub compact_fragmentation: u32,
    /// Shortest time between compactions of one file.
    pub compact_interval: Duration,
    /// Smallest file that is compacted, in bytes.
    pub compact_bytes_min: u64,
    /// Bytes of the write buffer; 0 = none.
    pub buffer_bytes: usize,
    /// Bytes read ahead; 0 = none.
    pub read_buffer_bytes: usize,
    /// Whether checksums are verified when reading.
    pub crc: bool,
    /// Polynomial of the checksum, reversed notation.
    pub crc_polynomial: u32,
    /// Whether an acknowledged message is synced.
    pub sync: bool,
    /// Messages of a slice; 0 = as the channel's limits suggest.
    pub slice_messages_max: u64,
    /// Bytes of a slice with its index; 0 = no limit.
    pub slice_bytes_max: u64,
    /// Time span of a slice; zero = no limit.
    pub slice_age_max: Duration,
    /// Run for each slice that is removed.
    pub slice_archive_script: Option<PathBuf>,
    /// Open files aimed at; 0 = no limit.
    pub descriptors_max: u64,
    /// Channels recovered at the same time; at least 1.
    pub parallel_recovery: usize,
    /// Whether a torn tail may be cut off at the first start.
    pub truncate_bad_eof: bool,
    /// Time between syncs of what nobody waits for; `None` = never.
    pub auto_sync: Option<Duration>,
}

/// TLS of the streaming server as a client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientTlsConfig {
    /// Whether TLS is used without any file.
    pub secure: bool,
    /// PEM of the certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM of the key.
    pub key_file: Option<PathBuf>,
    /// PEM of the authorities.
    pub ca_file: Option<PathBuf>,
    /// Name that the server's certificate must have.
    pub server_name: Option<String>,
    /// Whether the server's certificate is not verified.
    pub skip_verify: bool,
}

/// The HTTP pages.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitorConfig {
    /// Address to listen on.
    pub host: String,
    /// Port without TLS; 0 = off, -1 = any free one.
    pub http_port: i64,
    /// Port with the TLS of `core.tls`; 0 = off, -1 = any free one.
    pub https_port: i64,
    /// Prefix of all paths; `/` = none.
    pub base_path: String,
    /// Who may see messages on the dashboard.
    pub viewer: Option<PageUser>,
}

/// A user of the HTTP pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageUser {
    /// Its name.
    pub name: String,
    /// Its password, plain or a bcrypt hash.
    pub password: String,
}

impl MonitorConfig {
    /// Whether there are pages at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.http_port != 0 || self.https_port != 0
    }
}
