//! what the rooms are told, from what the user wrote

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::base::certificate::own;
use crate::base::channel_limits::ResolvedLimits;
use crate::base::id::ChannelName;
use crate::base::nkey::{Credentials, UserKey};
use crate::base::partition::Partition;
use crate::base::random::Random;
use crate::base::user_info;
use crate::broker::Discovery;
use crate::broker::account::{self, Permissions, Responses};
use crate::broker::settings as broker;
use crate::config::{self, Config, Program, TlsConfig};
use crate::engine::{self, request};
use crate::net::dial::Target;
use crate::net::tls::{ClientCertificate, Dialling, Files, Serving, TlsError};
use crate::net::{Address, Listen, Rules};
use crate::site::Site;

/// Bytes of a protocol line that are not the subject: `MSG`, sid, reply and sizes of a delivery.
const LINE_REST_BYTES: usize = 256;

/// How long a TLS handshake may take where no TLS is configured: shown in monitoring.
pub(super) const TLS_TIMEOUT: Duration = Duration::from_secs(2);

/// What engines are told.
#[must_use]
pub fn engine(config: &Config, site: &dyn Site, limits: &ResolvedLimits) -> engine::Settings {
    let streaming = &config.streaming;
    engine::Settings {
        loops: config.loops,
        limits: limits.clone(),
        heartbeat_interval: streaming.heartbeat_interval,
        heartbeat_timeout: streaming.heartbeat_timeout,
        heartbeat_failures_max: streaming.heartbeat_failures_max,
        replace_durable: streaming.replace_durable,
        inbox_len_max: config.core.control_line_bytes_max.saturating_sub(LINE_REST_BYTES).max(64),
        subscription_ids_store_wide: site.numbers_subscriptions_as_one(),
        partition: partition(config),
        message_overhead_max: site.message_overhead_max(),
        gathers_first: false,
        debug: config.log.streaming.debug || config.log.streaming.trace,
        trace: config.log.streaming.trace,
    }
}

/// The channels of this server, where others of its cluster ID have other ones.
pub(super) fn partition(config: &Config) -> Option<Arc<Partition>> {
    let streaming = &config.streaming;
    let channels = streaming.limits.per_channel.keys().map(ChannelName::to_bytes);
    streaming.partitioning.then(|| Arc::new(Partition::new(channels)))
}

/// What brokers are told that only the start knows.
#[derive(Clone, Debug)]
pub struct Found {
    /// The server's public id, as in INFO.
    pub server_id: String,
    /// Where the port for clients really is.
    pub client_port: u16,
    /// Where the port for routes really is.
    pub route_port: Option<u16>,
    /// Shared by all loops and all reloads.
    pub counters: Arc<broker::Counters>,
    /// The cluster's name if none is configured: made up once.
    pub made_up_cluster: String,
    /// The external server, and who we are there.
    pub upstream: Option<Arc<broker::Upstream>>,
}

impl Found {
    /// A name for a cluster that was given none.
    #[must_use]
    pub fn made_up_cluster(random: &mut Random) -> String {
        random.unique_id()
    }
}

/// What brokers are told.
#[must_use]
pub fn broker(config: &Config, found: &Found) -> broker::Settings {
    let core = &config.core;
    let is_own = config.streaming.external.is_none();
    // Compat: over an external server the pages show the port that would have been.
    let own_port = u16::try_from(core.port).unwrap_or_default();
    let client_port = if is_own { found.client_port } else { own_port };
    let advertised = advertised(core.client_advertise.as_deref(), client_port);
    let (host, port) = advertised.clone().unwrap_or((core.host.clone(), client_port));
    let cluster = core.cluster.as_ref().filter(|_| is_own);
    let cluster = cluster.map(|cluster| self::cluster(cluster, found));
    broker::Settings {
        loops: config.loops,
        server_id: found.server_id.clone(),
        server_name: core.server_name.clone().unwrap_or_else(|| found.server_id.clone()),
        version: config::banner::CORE_VERSION.to_owned(),
        host,
        port,
        client_urls: client_urls(core, advertised, found.client_port),
        max_payload: core.payload_bytes_max,
        max_control_line: core.control_line_bytes_max,
        max_connections: unlimited_as_zero(core.connections_max),
        max_subscriptions: unlimited_as_zero(core.interests_max),
        max_sub_tokens: core.subject_tokens_max.map_or(0, usize::from),
        max_pending: core.pending_bytes_max,
        write_deadline: core.write_deadline,
        ping_interval: core.ping_interval,
        ping_max: core.pings_max,
        headers: core.has_headers,
        tls: client_tls(config),
        tls_timeout: core.tls.as_ref().map_or(TLS_TIMEOUT, |tls| tls.timeout),
        auth: auth(&core.auth, core.tls.as_ref().is_some_and(|tls| tls.verify_and_map)),
        cluster_name: core.cluster_name.clone().unwrap_or_default(),
        cluster,
        upstream: found.upstream.clone(),
        owner: request::owner_of_publish,
        discovery: (config.program == Program::Streaming).then(|| Discovery {
            prefix: config.streaming.discover_prefix.clone(),
            cluster_id: config.streaming.cluster_id.clone(),
            is_alone: config.streaming.ft_group.is_none() && !config.streaming.partitioning,
        }),
        group: group(config),
        is_traced: config.log.core.trace,
        is_debugged: config.log.core.debug,
        traced_bytes_max: config.core.traced_bytes_max,
        counters: Arc::clone(&found.counters),
        ..broker::Settings::default()
    }
}

/// What the members of a group know each other by.
fn group(config: &Config) -> String {
    let streaming = &config.streaming;
    let name = streaming.ft_group.as_ref().filter(|_| config.program == Program::Streaming);
    name.map_or_else(String::new, |name| format!("{}/{name}", streaming.cluster_id))
}

fn unlimited_as_zero(limit: Option<u64>) -> usize {
    limit.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

fn client_tls(config: &Config) -> broker::ClientTls {
    match &config.core.tls {
        None => broker::ClientTls::Off,
        Some(tls) if config.core.allow_non_tls => {
            broker::ClientTls::Available { verify: tls.verify || tls.verify_and_map }
        }
        Some(tls) => broker::ClientTls::Required { verify: tls.verify || tls.verify_and_map },
    }
}

fn auth(from: &config::AuthConfig, tls_map: bool) -> broker::Auth {
    let user = |user: &config::User| broker::User {
        name: user.name.clone(),
        password: user.password.clone(),
        permissions: user.permissions.as_ref().map(|from| Arc::new(permissions(from))),
        connection_types: user.connection_types.iter().cloned().collect(),
    };
    broker::Auth {
        users: from.users.iter().map(user).collect(),
        user: from
            .username
            .as_ref()
            .map(|name| (name.clone(), from.password.clone().unwrap_or_default())),
        token: from.token.clone(),
        no_auth_user: from.no_auth_user.clone(),
        tls_map,
        timeout: from.timeout,
    }
}

fn permissions(from: &config::Permissions) -> Permissions {
    let rules = |from: &config::SubjectRules| account::SubjectRules {
        allow: from.allow.clone(),
        deny: from.deny.clone(),
    };
    Permissions {
        publish: rules(&from.publish),
        subscribe: rules(&from.subscribe),
        responses: from.responses.map(|from| Responses {
            max: from.count_max.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
            ttl: from.ttl,
        }),
    }
}

fn cluster(from: &config::ClusterConfig, found: &Found) -> broker::Cluster {
    let port = found.route_port.unwrap_or(0);
    let advertised = advertised(from.advertise.as_deref(), port);
    let is_advertised = advertised.is_some();
    let (host, port) = advertised.unwrap_or((from.host.clone(), port));
    let credentials = |name: &Option<String>, password: &Option<String>| {
        name.as_ref().map(|name| (name.clone(), password.clone().unwrap_or_default()))
    };
    broker::Cluster {
        name: from.name.clone().unwrap_or_else(|| found.made_up_cluster.clone()),
        is_dynamic: from.name.is_none(),
        host,
        port,
        is_advertised,
        routes: from.routes.iter().map(route_text).collect(),
        user: credentials(&from.username, &from.password),
        auth_timeout: from.auth_timeout,
        tls: from.tls.is_some(),
        no_advertise: from.no_advertise,
        connect_retries: from.connect_retries,
        permissions: from.permissions.as_ref().map(|from| Arc::new(permissions(from))),
    }
}

/// `user:password@host:port`, as routes are dialled.
fn route_text(route: &config::RouteUrl) -> String {
    let address = &route.address;
    match &route.username {
        Some(user) => {
            format!("{}@{address}", user_info::encode(user, route.password.as_deref()))
        }
        None => address.clone(),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Host and port of an `advertise` value, if there is one that was found to be right.
fn advertised(text: Option<&str>, port: u16) -> Option<(String, u16)> {
    config::route::advertised(text.filter(|text| !text.is_empty())?, port).ok()
}

/// What other servers tell their clients of this one (spec core NATS, 2.3).
fn client_urls(
    core: &config::CoreConfig,
    advertised: Option<(String, u16)>,
    port: u16,
) -> Vec<String> {
    if let Some((host, port)) = advertised {
        return vec![format!("{}:{port}", bracketed(&host))];
    }
    if matches!(core.host.as_str(), "0.0.0.0" | "::" | "") {
        let addresses = crate::server::files::local_addresses();
        let outside = addresses.iter().filter(|address| is_advertised(**address));
        return outside.map(|ip| format!("{}:{port}", bracketed(&ip.to_string()))).collect();
    }
    vec![format!("{}:{port}", bracketed(&core.host))]
}

/// Whether an address of this machine means the same one elsewhere: a link-local address leads
/// nowhere without the name of an interface.
fn is_advertised(address: IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// Where to listen; -1 = any free port.
#[must_use]
pub fn listen(host: &str, port: i64, patience: Duration) -> Listen {
    let port = (port >= 0).then(|| u16::try_from(port).unwrap_or(u16::MAX));
    Listen { address: Address { host: host.to_owned(), port }, patience }
}

/// How connections are treated.
///
/// # Errors
/// [`TlsError`] when a certificate, key or authority cannot be used.
pub fn rules(config: &Config) -> Result<Rules, TlsError> {
    let core = &config.core;
    let cluster = core.cluster.as_ref();
    let client_tls = core.tls.as_ref().map(serving).transpose()?;
    let route = cluster.and_then(|cluster| cluster.tls.as_ref());
    let route_tls = route
        .map(|tls| Serving::load(&files(tls), ClientCertificate::Required, tls.timeout))
        .transpose()?;
    let dial_tls =
        route.map(|tls| Dialling::load(&files(tls), tls.insecure, tls.timeout)).transpose()?;
    let is_name = |host: &String| host.parse::<IpAddr>().is_err();
    let routes = cluster.into_iter().flat_map(|cluster| &cluster.routes);
    let names = routes.filter_map(|route| Some(Target::parse(&route.address).ok()?.host));
    let dial_tls_name = names.into_iter().find(is_name);
    Ok(Rules {
        client_tls,
        route_tls,
        dial_tls,
        dial_tls_name,
        upstream_tls: upstream_tls(config)?,
    })
}

/// How long a TLS handshake with an external server may take; the whole login has a bound as well.
const UPSTREAM_TLS_TIMEOUT: Duration = Duration::from_secs(2);

/// TLS of the connection to an external server. Whether it is used that server says, too; who does
/// not ask for it can be without certificates to believe.
fn upstream_tls(config: &Config) -> Result<Option<Dialling>, TlsError> {
    let Some(external) = &config.streaming.external else { return Ok(None) };
    let tls = &config.streaming.client_tls;
    let files = Files {
        cert: tls.cert_file.clone().unwrap_or_default(),
        key: tls.key_file.clone().unwrap_or_default(),
        ca: tls.ca_file.clone(),
        ..Files::default()
    };
    match Dialling::load(&files, tls.skip_verify, UPSTREAM_TLS_TIMEOUT) {
        Ok(dialling) => Ok(Some(dialling)),
        Err(TlsError::NoRoots) if !is_secure(config, external) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an external server is spoken to by TLS only.
fn is_secure(config: &Config, external: &config::ExternalConfig) -> bool {
    let tls = &config.streaming.client_tls;
    let asks = tls.secure || tls.skip_verify || tls.server_name.is_some();
    let has_file = tls.ca_file.is_some() || tls.cert_file.is_some();
    asks || has_file || external.servers.iter().any(|server| server.is_tls)
}

/// The external server that the streaming server runs over, if there is one, and who it is there.
///
/// # Errors
/// The reference's text, where a file of credentials cannot be used.
pub fn upstream(config: &Config) -> Result<Option<Arc<broker::Upstream>>, String> {
    let streaming = &config.streaming;
    let Some(external) = &streaming.external else { return Ok(None) };
    let auth = &config.core.auth;
    // Compat: what the command line and the core server's part of the file say goes first.
    let first = |core: &Option<String>, own: &String| match core {
        Some(text) if !text.is_empty() => text.clone(),
        Some(_) | None => own.clone(),
    };
    let read = |file: &Path| {
        let text = crate::base::files::read_text(file).map(Zeroizing::new);
        text.map_err(|error| format!("nats: {}", own::unreadable(file, &error)))
    };
    let (mut jwt, mut key) = (None, None);
    if let Some(file) = &external.credentials_file {
        let found = Credentials::decode(&read(file)?).map_err(|error| error.to_string())?;
        (jwt, key) = (Some(found.jwt), Some(found.key));
    } else if let Some(file) = &streaming.nkey_seed_file {
        let found = UserKey::find(&read(file)?).and_then(UserKey::of_user);
        key = Some(found.map_err(|error| error.to_string())?);
    }
    Ok(Some(Arc::new(broker::Upstream {
        name: format!("_NSS-{}-general", streaming.cluster_id),
        servers: external.servers.clone(),
        is_secure: is_secure(config, external),
        tls_name: streaming.client_tls.server_name.clone(),
        user: first(&auth.username, &external.username),
        password: first(&auth.password, &external.password),
        token: first(&auth.token, &external.token),
        jwt,
        key: key.map(Arc::new),
    })))
}

/// TLS of the monitoring pages, which ask nobody for a certificate.
///
/// # Errors
/// [`TlsError`] when a certificate or key cannot be used.
pub fn serving_pages(tls: &TlsConfig) -> Result<Serving, TlsError> {
    Serving::load(&files(tls), ClientCertificate::NotAsked, tls.timeout)
}

/// TLS of clients.
///
/// # Errors
/// [`TlsError`] when a certificate, key or authority cannot be used.
pub fn serving(tls: &TlsConfig) -> Result<Serving, TlsError> {
    let certificate = if tls.verify || tls.verify_and_map {
        ClientCertificate::Required
    } else {
        ClientCertificate::NotAsked
    };
    Serving::load(&files(tls), certificate, tls.timeout)
}

fn files(tls: &TlsConfig) -> Files {
    Files {
        cert: tls.cert_file.clone().unwrap_or_default(),
        key: tls.key_file.clone().unwrap_or_default(),
        ca: tls.ca_file.clone(),
        cipher_suites: tls.cipher_suites.clone(),
        curves: tls.curves.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn an_address_is_advertised_where_it_means_the_same_elsewhere() {
        for (address, expected) in [
            ("10.0.0.5", true),
            ("192.0.2.1", true),
            ("fd00::1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("fe80::2ff:fe00:1", false),
            ("ff02::1", false),
            ("::", false),
        ] {
            assert_eq!(is_advertised(address.parse().unwrap()), expected, "{address}");
        }
    }
}
