//! What flags and files ask for, before it is checked

use std::path::PathBuf;
use std::time::Duration;

use crate::base::encryption::{Cipher, Secret, StoreKey};
use crate::base::limits::{LOOPS_MAX, STEAL_AFTER_MIN};
use crate::base::server_url::ServerUrl;
use crate::config::checks::{self, Wrong};
use crate::config::flags::Given;
use crate::config::{
    ClientTlsConfig, ClusterConfig, Config, ControlPlace, CoreConfig, ExternalConfig, Program,
    RouteUrl, StartError, StoreKind, TlsConfig, World, defaults, route,
};
use crate::log::Format;

/// Limits as given: a negative one is a start error.
#[derive(Clone, Debug)]
pub struct LimitsDraft {
    /// Most channels.
    pub channels: i64,
    /// Most subscriptions of a channel.
    pub subscriptions: i64,
    /// Most messages of a channel.
    pub messages: i64,
    /// Most bytes of a channel.
    pub bytes: i64,
    /// Nanoseconds that a message is kept.
    pub age: i64,
    /// Idle nanoseconds of a channel.
    pub inactivity: i64,
}

/// Numbers of the file store as given.
#[derive(Clone, Debug)]
pub struct FileDraft {
    /// Percent.
    pub compact_fragmentation: i64,
    /// Seconds.
    pub compact_interval: i64,
    /// Bytes.
    pub compact_bytes_min: i64,
    /// Bytes.
    pub buffer_bytes: i64,
    /// Bytes.
    pub read_buffer_bytes: i64,
    /// Reversed notation.
    pub crc_polynomial: i64,
    /// Messages.
    pub slice_messages_max: i64,
    /// Bytes.
    pub slice_bytes_max: i64,
    /// Nanoseconds.
    pub slice_age_max: i64,
    /// Open files.
    pub descriptors_max: i64,
    /// Channels.
    pub parallel_recovery: i64,
    /// Nanoseconds.
    pub auto_sync: i64,
}

/// What is said of encryption at rest.
#[derive(Clone, Debug, Default)]
pub struct EncryptionDraft {
    /// `encrypt`, or a key.
    pub is_asked: bool,
    /// The cipher's name as written.
    pub cipher: String,
    /// The key of a file.
    pub key: Option<Secret>,
    /// The key of the flag, which counts where a file names none.
    pub key_flag: Secret,
}

/// The environment variable whose key counts before all others.
pub const KEY_VARIABLE: &str = "NATS_STREAMING_ENCRYPTION_KEY";

impl EncryptionDraft {
    /// Compat: a key asks for encryption, whatever else is said; a file's key counts before the
    /// flag's. Pinned by `encryption_is_asked_for_as_the_reference_is`.
    fn key(&self, world: &World<'_>) -> Option<Secret> {
        let given = self.key.as_ref().unwrap_or(&self.key_flag);
        if !self.is_asked && given.is_empty() {
            return None;
        }
        let of_environment = (world.secret)(KEY_VARIABLE).map(Secret::new);
        Some(of_environment.filter(|key| !key.is_empty()).unwrap_or_else(|| given.clone()))
    }
}

/// The TLS flags, which replace what the file says.
#[derive(Clone, Debug, Default)]
pub struct TlsFlags {
    /// `-tls`.
    pub tls: Option<bool>,
    /// `-tlsverify`.
    pub verify: Option<bool>,
    /// `-tlscert`.
    pub cert: Option<PathBuf>,
    /// `-tlskey`.
    pub key: Option<PathBuf>,
    /// `-tlscacert`.
    pub ca: Option<PathBuf>,
}

/// What flags and files ask for; defaults, then files, then flags are written over each other.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Everything that needs no check.
    pub config: Config,
    /// `-loops`.
    pub loops: Option<i64>,
    /// The store's name as written.
    pub store: String,
    /// What only one kind of store has, and who asked for it.
    pub asked_for: Vec<(StoreKind, String)>,
    /// Limits as given.
    pub limits: LimitsDraft,
    /// Numbers of the file store as given.
    pub file: FileDraft,
    /// `-io_batch_size`.
    pub io_batch_size: i64,
    /// Name of the log's format; empty = the usual one.
    pub log_format: String,
    /// Nanoseconds of `ft_steal_after`.
    pub steal_after: i64,
    /// Encryption at rest.
    pub encryption: EncryptionDraft,
    /// Address to listen on; empty = all.
    pub host: String,
    /// Address of the pages; empty = as `host`.
    pub monitor_host: String,
    /// Seconds to authenticate; `None` = by TLS.
    pub auth_timeout: Option<Duration>,
    /// The `cluster` block and its flags; a cluster only if the port is not 0.
    pub cluster: ClusterConfig,
    /// Seconds for routes to authenticate; `None` = by TLS.
    pub cluster_auth_timeout: Option<Duration>,
    /// `-cluster`.
    pub cluster_url: Option<String>,
    /// `-routes`.
    pub routes: Option<String>,
    /// `-DV`, `-DVV`.
    pub core_debug_trace: Option<bool>,
    /// `-SDV`.
    pub streaming_debug_trace: Option<bool>,
    /// The TLS flags.
    pub tls_flags: TlsFlags,
    /// Whether a flag of the server's TLS was given.
    pub has_tls_flag: bool,
    /// The external NATS servers, as written; empty = none.
    pub nats_servers: String,
    /// Who the streaming server is there.
    pub external: ExternalConfig,
}

/// What the environment may say of a database: all that the Go driver for PostgreSQL reads or
/// refuses, where a user's own files are, and whose certificates the machine believes.
const SQL_VARIABLES: &str = "PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGPASSFILE \
     PGSERVICE PGSERVICEFILE PGREALM PGOPTIONS PGAPPNAME PGSSLMODE PGSSLCERT PGSSLKEY \
     PGSSLROOTCERT PGSSLSNI PGREQUIRESSL PGSSLCRL PGREQUIREPEER PGKRBSRVNAME PGGSSLIB \
     PGCONNECT_TIMEOUT PGCLIENTENCODING PGDATESTYLE PGTZ PGGEQO PGSYSCONFDIR PGLOCALEDIR HOME \
     SSL_CERT_FILE SSL_CERT_DIR";

impl Draft {
    /// All defaults.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self {
            config: Config::new(program),
            loops: None,
            store: "MEMORY".to_owned(),
            asked_for: Vec::new(),
            limits: LimitsDraft {
                channels: 100,
                subscriptions: 1_000,
                messages: 1_000_000,
                bytes: 1_024_000_000,
                age: 0,
                inactivity: 0,
            },
            file: FileDraft {
                compact_fragmentation: 50,
                compact_interval: 300,
                compact_bytes_min: 1024 * 1024,
                buffer_bytes: 2 * 1024 * 1024,
                read_buffer_bytes: 2 * 1024 * 1024,
                crc_polynomial: i64::from(defaults::CRC_POLYNOMIAL),
                slice_messages_max: 0,
                slice_bytes_max: 64 * 1024 * 1024,
                slice_age_max: 0,
                descriptors_max: 0,
                parallel_recovery: 1,
                auto_sync: 60_000_000_000,
            },
            io_batch_size: 0,
            log_format: String::new(),
            steal_after: 5_000_000_000,
            encryption: EncryptionDraft::default(),
            host: String::new(),
            monitor_host: String::new(),
            auth_timeout: None,
            cluster: ClusterConfig::default(),
            cluster_auth_timeout: None,
            cluster_url: None,
            routes: None,
            core_debug_trace: None,
            streaming_debug_trace: None,
            tls_flags: TlsFlags::default(),
            has_tls_flag: false,
            nats_servers: String::new(),
            external: ExternalConfig::default(),
        }
    }

    /// `-user`: takes the place of a token and of users from the file.
    pub fn user(&mut self, given: &Given) {
        self.config.core.auth.username = text(given);
    }

    /// `-pass`.
    pub fn pass(&mut self, given: &Given) {
        self.config.core.auth.password = text(given);
    }

    /// `-auth`.
    pub fn token(&mut self, given: &Given) {
        self.config.core.auth.token = text(given);
    }

    /// One of the files of `-tls_client_…`.
    pub fn tls_client(
        &mut self,
        given: &Given,
        field: fn(&mut ClientTlsConfig) -> &mut Option<PathBuf>,
    ) {
        *field(&mut self.config.streaming.client_tls) = path(given);
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// What the reference says before it starts anything, with exit code 1.
    pub fn finish(mut self, world: &World<'_>) -> Result<Config, String> {
        self.finish_core(world)?;
        if self.config.program == Program::Streaming {
            self.finish_streaming(world)?;
        }
        self.look_for_start_errors(world)?;
        Ok(self.config)
    }

    /// The configuration of a running server, whose streaming part stays as it is.
    ///
    /// # Errors
    /// As [`Draft::finish`].
    pub fn finish_reload(mut self, world: &World<'_>) -> Result<Config, String> {
        self.finish_core(world)?;
        Ok(self.config)
    }

    fn finish_core(&mut self, world: &World<'_>) -> Result<(), String> {
        self.finish_log_format()?;
        self.finish_log();
        self.finish_zeros();
        self.finish_hosts();
        self.finish_tls(world)?;
        self.finish_cluster()?;
        self.finish_auth();
        self.finish_loops(world.cores)?;
        let value = |name: &str| Some((name.to_owned(), (world.variable)(name)?));
        let variables = SQL_VARIABLES.split_whitespace().filter_map(value);
        self.config.streaming.sql.variables = variables.collect();
        Ok(())
    }

    fn look_for_start_errors(&mut self, world: &World<'_>) -> Result<(), String> {
        let places = self.config.places.clone();
        let shown = |wrong: Wrong| wrong.at(&places);
        let core = checks::core(&self.config).map_err(shown);
        if self.config.program == Program::Core {
            // The core server says so before it has a log.
            core?;
        } else if let (None, Err(text)) = (&self.config.start_error, core) {
            self.config.start_error = Some(StartError::Streaming(text));
        }
        if self.config.start_error.is_none() {
            let error = checks::monitoring(&self.config).err().map(shown);
            self.config.start_error = error.map(StartError::Monitoring);
        }
        // Over an external server no port for clients or routes is opened.
        if self.config.start_error.is_none() && self.config.streaming.external.is_none() {
            let error = checks::listeners(&self.config).err().map(shown);
            self.config.start_error = error.map(StartError::Core);
        }
        if self.config.program == Program::Streaming && self.config.start_error.is_none() {
            let error = checks::own_connections(&self.config, world).err().map(shown);
            self.config.start_error = error.map(StartError::Streaming);
        }
        Ok(())
    }

    fn finish_log(&mut self) {
        let log = &mut self.config.log;
        if let Some(is_on) = self.core_debug_trace {
            log.core.debug = is_on;
            log.core.trace = is_on;
        }
        if let Some(is_on) = self.streaming_debug_trace {
            log.streaming.debug = is_on;
            log.streaming.trace = is_on;
        }
        // Compat: the reference's streaming log knows no UTC.
        self.config.core.asks_for_utc = log.utc;
        log.utc &= self.config.program == Program::Core;
    }

    /// Compat: 0 asks for the default; pinned by `a_zero_asks_for_the_default`.
    fn finish_zeros(&mut self) {
        let default = CoreConfig::default();
        let core = &mut self.config.core;
        unless_zero(&mut core.control_line_bytes_max, default.control_line_bytes_max);
        unless_zero(&mut core.payload_bytes_max, default.payload_bytes_max);
        unless_zero(&mut core.pending_bytes_max, default.pending_bytes_max);
        unless_zero(&mut core.ping_interval, default.ping_interval);
        unless_zero(&mut core.pings_max, default.pings_max);
        unless_zero(&mut core.write_deadline, default.write_deadline);
        unless_zero(&mut core.lame_duck_grace, default.lame_duck_grace);
        unless_zero(&mut core.connect_error_reports, default.connect_error_reports);
        unless_zero(&mut core.reconnect_error_reports, default.reconnect_error_reports);
        for tls in [&mut core.tls, &mut self.cluster.tls].into_iter().flatten() {
            unless_zero(&mut tls.timeout, defaults::AUTH_TIMEOUT);
        }
        self.auth_timeout = self.auth_timeout.filter(|timeout| !timeout.is_zero());
        self.cluster_auth_timeout = self.cluster_auth_timeout.filter(|timeout| !timeout.is_zero());
    }

    fn finish_hosts(&mut self) {
        if !self.host.is_empty() {
            self.config.core.host.clone_from(&self.host);
        }
        if self.config.core.port == 0 {
            self.config.core.port = 4222;
        }
        let host =
            if self.monitor_host.is_empty() { &self.config.core.host } else { &self.monitor_host };
        self.config.monitor.host.clone_from(host);
        let base_path = &mut self.config.monitor.base_path;
        if base_path.is_empty() && self.config.program == Program::Core {
            "/".clone_into(base_path);
        }
    }

    /// Any flag of the server's TLS asks for certificate and key (spec configuration, Q6).
    fn finish_tls(&mut self, world: &World<'_>) -> Result<(), String> {
        let flags = std::mem::take(&mut self.tls_flags);
        if flags.tls == Some(false) {
            self.config.core.tls = None;
            return Ok(());
        }
        if !self.has_tls_flag {
            return Ok(());
        }
        let mut tls = self.config.core.tls.take().unwrap_or_else(|| TlsConfig {
            timeout: defaults::AUTH_TIMEOUT,
            ..TlsConfig::default()
        });
        tls.cert_file = flags.cert.or(tls.cert_file);
        tls.key_file = flags.key.or(tls.key_file);
        tls.ca_file = flags.ca.or(tls.ca_file);
        tls.verify = flags.verify.unwrap_or(tls.verify);
        if tls.cert_file.is_none() {
            return Err("TLS Server certificate must be present and valid".to_owned());
        }
        if tls.key_file.is_none() {
            return Err("TLS Server private key must be present and valid".to_owned());
        }
        checks::certificate_files(&tls, world)?;
        self.config.core.tls = Some(tls);
        Ok(())
    }

    fn finish_cluster(&mut self) -> Result<(), String> {
        let from_flag = self.cluster_url.take();
        let has_listen_flag = from_flag.is_some();
        if let Some(url) = from_flag {
            if url.is_empty() {
                self.cluster.port = 0;
                self.config.core.cluster = None;
                return Ok(());
            }
            let listen = route::parse_listen(&url)?;
            self.cluster.host = listen.host;
            self.cluster.port = listen.port;
            self.cluster.username = listen.username;
            self.cluster.password = listen.password;
        }
        let routes_flag = self.routes.take();
        if let Some(urls) = &routes_flag {
            self.cluster.routes = parse_routes(urls)?;
        }
        if self.cluster.port == 0 {
            // Compat: only the flag asks for a listener; routes of a file are idle without one.
            let is_asked = routes_flag.is_some_and(|urls| !urls.is_empty());
            if is_asked && !has_listen_flag && self.cluster.host.is_empty() {
                return Err(
                    "solicited routes require cluster capabilities, e.g. --cluster".to_owned()
                );
            }
            self.config.core.cluster_name = self.cluster.name.take();
            return Ok(());
        }
        let mut cluster = std::mem::take(&mut self.cluster);
        if cluster.host.is_empty() {
            defaults::EVERYWHERE.clone_into(&mut cluster.host);
        }
        cluster.auth_timeout = auth_timeout(self.cluster_auth_timeout, cluster.tls.as_ref());
        self.config.core.cluster = Some(cluster);
        Ok(())
    }

    fn finish_auth(&mut self) {
        let core = &mut self.config.core;
        core.auth.timeout = auth_timeout(self.auth_timeout, core.tls.as_ref());
    }

    fn finish_loops(&mut self, cores: u16) -> Result<(), String> {
        self.config.loops = match self.loops {
            // A core is left to the store workers and to everybody else, and more channels and
            // clients meet on one loop: a message between two costs about twice as much.
            None | Some(0) => cores.saturating_sub(1).clamp(1, LOOPS_MAX),
            Some(loops) => match u16::try_from(loops) {
                Ok(loops) if loops <= LOOPS_MAX => loops,
                _ => {
                    let place = self.config.places.behind("streaming.loops");
                    let text = "loops must be between 1 and";
                    return Err(format!("{text} {LOOPS_MAX}, got {loops}{place}"));
                }
            },
        };
        Ok(())
    }

    fn finish_log_format(&mut self) -> Result<(), String> {
        if self.log_format.is_empty() {
            return Ok(());
        }
        let Some(format) = Format::of(&self.log_format) else {
            let place = self.config.places.behind("top.log_format");
            return Err(format!(
                "log_format must be text or json, got {:?}{place}",
                self.log_format
            ));
        };
        self.config.log.format = format;
        Ok(())
    }

    fn finish_streaming(&mut self, world: &World<'_>) -> Result<(), String> {
        let place = self.config.places.behind("streaming.ft_steal_after");
        if self.steal_after < 0 {
            return Err(format!("ft_steal_after must not be negative{place}"));
        }
        let nanos = self.steal_after.unsigned_abs();
        if nanos > 0 && Duration::from_nanos(nanos) < STEAL_AFTER_MIN {
            return Err(format!(
                "ft_steal_after must be 0 (never) or at least {STEAL_AFTER_MIN:?}{place}"
            ));
        }
        self.config.streaming.steal_after = (nanos > 0).then(|| Duration::from_nanos(nanos));
        let error = checks::streaming(self).and_then(|()| self.finish_encryption(world)).err();
        let error = error.map(|wrong| wrong.at(&self.config.places));
        self.config.start_error = error.map(StartError::Streaming);
        self.finish_external();
        checks::fill_streaming(self);
        self.warn_of_other_store();
        Ok(())
    }

    fn finish_external(&mut self) {
        if self.nats_servers.is_empty() {
            return;
        }
        let mut external = std::mem::take(&mut self.external);
        match ServerUrl::decode_list(&self.nats_servers) {
            Ok(servers) => external.servers = servers,
            Err(error) => {
                let wrong = Wrong::new(error.to_string(), "streaming.ns");
                let text = wrong.at(&self.config.places);
                self.config.start_error.get_or_insert(StartError::Streaming(text));
            }
        }
        self.config.streaming.external = Some(external);
    }

    fn finish_encryption(&mut self, world: &World<'_>) -> Result<(), Wrong> {
        let given = std::mem::take(&mut self.encryption);
        let Some(key) = given.key(world) else { return Ok(()) };
        let cipher = Cipher::named(&given.cipher).ok_or_else(|| {
            Wrong::new("encryption cipher not supported", "streaming.encryption_cipher")
        })?;
        if key == given.key_flag && key.is_lossy() {
            let text = format!(
                "encryption_key: a key that is not UTF-8 cannot be given by a flag; give it in \
                 the variable {KEY_VARIABLE} or in a file"
            );
            return Err(Wrong::new(text, ""));
        }
        if key.is_empty() {
            let options = "streaming.encryption_key|streaming.encrypt";
            return Err(Wrong::new("encryption key required", options));
        }
        self.config.streaming.encryption = Some(StoreKey::of(&key, cipher));
        Ok(())
    }

    /// Who names a folder or a database, and not the store that it is for, would keep nothing.
    fn warn_of_other_store(&mut self) {
        let store = self.config.streaming.store;
        for (wanted, asker) in std::mem::take(&mut self.asked_for) {
            if store == wanted || (wanted, store) == (StoreKind::File, StoreKind::Sql) {
                continue;
            }
            let loss = match store {
                StoreKind::Memory => ", which loses everything when the process ends",
                StoreKind::File | StoreKind::Sql => "",
            };
            let (store, wanted) = (store.name(), wanted.name());
            self.config.warnings.push(format!(
                "{asker} has no effect: it is for store {wanted}, and the store is {store}{loss}"
            ));
        }
    }
}

fn unless_zero<T: Default + PartialEq>(field: &mut T, default: T) {
    if *field == T::default() {
        *field = default;
    }
}

/// Spec core NATS, 1.1: 2 s, and with TLS one second more than its handshake may take.
fn auth_timeout(given: Option<Duration>, tls: Option<&TlsConfig>) -> Duration {
    given.unwrap_or_else(|| match tls {
        Some(tls) => tls.timeout + Duration::from_secs(1),
        None => defaults::AUTH_TIMEOUT,
    })
}

fn parse_routes(urls: &str) -> Result<Vec<RouteUrl>, String> {
    let mut routes: Vec<RouteUrl> = Vec::new();
    if urls.is_empty() {
        return Ok(routes);
    }
    // Compat: nothing between two commas is a route too, which nobody can be dialled for; pinned by
    // `tests::routes_of_the_command_line_are_those_of_the_reference`.
    for url in urls.split(',').map(str::trim) {
        let route = route::parse(url)?;
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    Ok(routes)
}

/// Where the control socket is to be; an empty text names no place.
pub(super) fn control_place(text: &str) -> ControlPlace {
    match text {
        "" => ControlPlace::AnyFolder,
        "off" => ControlPlace::Nowhere,
        path => ControlPlace::At(PathBuf::from(path)),
    }
}

/// A text that is not empty.
pub(super) fn text(given: &Given) -> Option<String> {
    Some(given.text()).filter(|text| !text.is_empty())
}

/// A path that is not empty.
pub(super) fn path(given: &Given) -> Option<PathBuf> {
    text(given).map(PathBuf::from)
}

/// A duration; a negative one is none.
pub(super) fn duration(given: &Given) -> Duration {
    Duration::from_nanos(given.number().max(0).unsigned_abs())
}

/// A count of at most 32 bits; a negative one is 0.
pub(super) fn count(given: &Given) -> u32 {
    u32::try_from(given.number().max(0)).unwrap_or(u32::MAX)
}

/// A size in bytes; a negative one is 0.
pub(super) fn size(given: &Given) -> usize {
    usize::try_from(given.number().max(0)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
