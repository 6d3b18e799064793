//! What makes a start fail though the configuration could be read; texts of the reference

use std::path::Path;
use std::time::Duration;

use crate::base::certificate::own;
use crate::base::channel_limits::{ChannelLimits, StoreLimits};
use crate::base::crypto;
use crate::base::go::{self, quote, show, show_duration};
use crate::base::id::ChannelName;
use crate::base::nkey::{Credentials, UserKey};
use crate::base::subject;
use crate::config::draft::{Draft, FileDraft, LimitsDraft};
use crate::config::places::Places;
use crate::config::route;
use crate::config::{Config, ExternalConfig, SqlConfig, StoreKind, TlsConfig, World};

/// Why the start fails, and the options of a file that ask for it.
pub struct Wrong {
    /// The reference's text.
    text: String,
    /// As [`Places::behind`] takes them.
    options: &'static str,
}

impl Wrong {
    pub fn new(text: impl Into<String>, options: &'static str) -> Self {
        Self { text: text.into(), options }
    }

    /// The text, and where in a file it is asked for.
    pub fn at(self, places: &Places) -> String {
        self.text + &places.behind(self.options)
    }
}

/// Whether the files of a `tls` block can be read, and hold what they are for.
///
/// # Errors
/// The reference's text.
pub fn certificate_files(tls: &TlsConfig, world: &World<'_>) -> Result<(), String> {
    if let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) {
        key_pair(certificate, key, world)
            .map_err(|error| format!("error parsing X509 certificate/key pair: {error}"))?;
    }
    match &tls.ca_file {
        Some(file) => read(file, world).and_then(|pem| own::authorities(&pem)).map(drop),
        None => Ok(()),
    }
}

fn key_pair(path: &Path, key: &Path, world: &World<'_>) -> Result<(), String> {
    let (certificate, key) = (read(path, world)?, read(key, world)?);
    own::own_pair((path, &certificate), &key, &crypto::provider()).map(drop)
}

fn read(file: &Path, world: &World<'_>) -> Result<Vec<u8>, String> {
    (world.read)(file).map_err(|error| own::unreadable(file, &error))
}

/// The start errors of the streaming server, in the order in which the reference finds them.
///
/// # Errors
/// What follows `Failed to start: `.
pub fn streaming(draft: &Draft) -> Result<(), Wrong> {
    let store = draft.store.to_uppercase();
    match store.as_str() {
        "MEMORY" | "FILE" | "SQL" => {}
        other => return Err(Wrong::new(format!("unsupported store type: {other}"), STORE)),
    }
    if store == "FILE" {
        if draft.config.streaming.directory.is_none() {
            let text = "for FILE stores, root directory must be specified";
            return Err(Wrong::new(text, "streaming.store|streaming.dir"));
        }
        file(&draft.file)?;
    }
    if store == "SQL" {
        sql(&draft.config.streaming.sql)?;
    }
    limits(&draft.limits)?;
    channels(draft)?;
    if draft.io_batch_size < 0 {
        let text = format!("io_batch_size must not be negative ({})", draft.io_batch_size);
        return Err(Wrong::new(text, ""));
    }
    if store == "MEMORY" && draft.config.streaming.ft_group.is_some() {
        let text = "ft: only FILE or SQL stores supported in FT mode";
        return Err(Wrong::new(text, "streaming.ft_group"));
    }
    let streaming = &draft.config.streaming;
    if streaming.ft_group.as_deref().is_some_and(|group| !has_tokens(group)) {
        let text = "ft: unable to subscribe on ft subject: nats: invalid subject";
        return Err(Wrong::new(text, "streaming.ft_group"));
    }
    for (part, option) in [
        (&streaming.cluster_id, "streaming.cluster_id"),
        (&streaming.discover_prefix, "streaming.discover_prefix"),
    ] {
        if !is_subject(part) {
            let text = "could not subscribe to discover subject: nats: invalid subject";
            return Err(Wrong::new(text, option));
        }
    }
    administrators(draft)
}

/// Whoever may administer has to be somebody whom this server tells from all others.
fn administrators(draft: &Draft) -> Result<(), Wrong> {
    let named = &draft.config.streaming.administrators;
    let auth = &draft.config.core.auth;
    let wrong = |text: String| Err(Wrong::new(text, "streaming.administrators"));
    if !named.is_empty() && !draft.nats_servers.is_empty() {
        let text = "administrators: over an external NATS server it is not known who asks";
        return wrong(text.to_owned());
    }
    if !named.is_empty() && draft.config.streaming.partitioning {
        let text = "administrators: with partitioning several servers would answer at once";
        return wrong(text.to_owned());
    }
    let is_mapped = draft.config.core.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
    for name in named {
        if !auth.names(name) {
            return wrong(format!("administrators: {name:?} is no user of this server"));
        }
        if !is_mapped && !auth.has_password(name) {
            let text = format!("administrators: {name:?} has no password, and anybody can say it");
            return wrong(text);
        }
        if auth.no_auth_user.as_ref() == Some(name) {
            let text = format!("administrators: whoever gives no password is {name:?}");
            return wrong(text);
        }
    }
    Ok(())
}

const STORE: &str = "streaming.store";

/// Whether a text can be part of the streaming server's subjects.
fn is_subject(text: &str) -> bool {
    has_tokens(text) && text.split('.').all(|token| token != ">")
}

fn has_tokens(text: &str) -> bool {
    !text.contains([' ', '\t', '\r', '\n']) && text.split('.').all(|token| !token.is_empty())
}

/// What the reference's drivers would say, and where to find ours.
fn sql(sql: &SqlConfig) -> Result<(), Wrong> {
    match sql.driver.as_str() {
        // Compat: of PostgreSQL the environment alone may say everything.
        "mysql" | "sqlite" if sql.source.is_empty() => {
            let text = "for SQL stores, sql_source must be specified";
            Err(Wrong::new(text, "sql_options.source sql_options.driver streaming.store"))
        }
        "postgres" | "mysql" | "sqlite" => Ok(()),
        "" => {
            let text = "for SQL stores, sql_driver must be specified";
            Err(Wrong::new(text, "sql_options.driver streaming.store"))
        }
        other => {
            let name = go::quote(other);
            let text = format!("sql: unknown driver {name} (there are postgres, mysql, sqlite)");
            Err(Wrong::new(text, "sql_options.driver"))
        }
    }
}

/// Spec stores, section 6, validation errors.
fn file(file: &FileDraft) -> Result<(), Wrong> {
    let slices = "slice max values must be positive numbers";
    let checks = [
        (
            file.buffer_bytes >= 0,
            "buffer size value must be a positive number",
            "file_options.buffer_size",
        ),
        (
            file.read_buffer_bytes >= 0,
            "read buffer size value must be a positive number",
            "file_options.read_buffer_size",
        ),
        (
            file.compact_interval > 0,
            "compact interval value must at least be 1 seconds",
            "file_options.compact_interval",
        ),
        (
            file.compact_fragmentation > 0,
            "compact fragmentation value must at least be 1",
            "file_options.compact_frag",
        ),
        (
            file.compact_bytes_min >= 0,
            "compact minimum file size value must be a positive number",
            "file_options.compact_min_size",
        ),
        (
            (1..=i64::from(u32::MAX)).contains(&file.crc_polynomial),
            "crc polynomial should be between 1 and 4294967295",
            "file_options.crc_poly",
        ),
        (file.slice_messages_max >= 0, slices, "file_options.slice_max_msgs"),
        (file.slice_bytes_max >= 0, slices, "file_options.slice_max_bytes"),
        (file.slice_age_max >= 0, slices, "file_options.slice_max_age"),
        (
            file.descriptors_max >= 0,
            "file descriptor limit must be a positive number",
            "file_options.fds_limit",
        ),
        (
            file.parallel_recovery >= 1,
            "parallel recovery value must be at least 1",
            "file_options.parallel_recovery",
        ),
    ];
    match checks.iter().find(|(holds, _, _)| !holds) {
        Some((_, text, option)) => Err(Wrong::new(*text, option)),
        None => Ok(()),
    }
}

/// Spec stores, 9.3.
fn limits(limits: &LimitsDraft) -> Result<(), Wrong> {
    for (what, value, option) in [
        ("channels", limits.channels, "store_limits.max_channels"),
        ("subscriptions", limits.subscriptions, "store_limits.max_subs"),
        ("messages", limits.messages, "store_limits.max_msgs"),
        ("bytes", limits.bytes, "store_limits.max_bytes"),
    ] {
        if value < 0 {
            let text = format!("max {what} limit cannot be negative ({value})");
            return Err(Wrong::new(text, option));
        }
    }
    for (what, nanos, option) in [
        ("age", limits.age, "store_limits.max_age"),
        ("inactivity", limits.inactivity, "store_limits.max_inactivity"),
    ] {
        if nanos < 0 {
            let shown = show_duration(nanos);
            let text = format!("max {what} limit cannot be negative ({shown})");
            return Err(Wrong::new(text, option));
        }
    }
    Ok(())
}

fn channels(draft: &Draft) -> Result<(), Wrong> {
    let names = &draft.config.streaming.limits.per_channel;
    for name in names.keys() {
        if !subject::is_channel_pattern(name.as_bytes()) {
            let text = format!("invalid channel name {}", quote(&name.to_string()));
            return Err(Wrong::new(text, "store_limits.channels"));
        }
    }
    if draft.config.streaming.partitioning && names.is_empty() {
        let text = "stan: no configured channel".to_owned();
        return Err(Wrong::new(text, "streaming.partitioning"));
    }
    let literal = names.keys().filter(|name| subject::is_channel_name(name.as_bytes())).count();
    let channels_max = draft.limits.channels;
    if channels_max > 0 && i64::try_from(literal).is_ok_and(|count| count > channels_max) {
        let text = format!(
            "too many channels defined ({literal}). The max channels limit is set to {channels_max}"
        );
        return Err(Wrong::new(text, "store_limits.channels store_limits.max_channels"));
    }
    policies(draft)
}

/// Whether the delivery policies fit together, and dead letters have a place.
fn policies(draft: &Draft) -> Result<(), Wrong> {
    const OPTIONS: &str = "store_limits.channels store_limits.max_deliveries \
                           store_limits.dead_letter";
    let streaming = &draft.config.streaming;
    if streaming.limits.policies.is_empty() {
        return Ok(());
    }
    // How many channels there may be was looked at before.
    let limits = StoreLimits { channels_max: 0, ..streaming.limits.clone() };
    let resolved = limits.resolve().map_err(|error| Wrong::new(error.to_string(), OPTIONS))?;
    if !streaming.partitioning {
        return Ok(());
    }
    for (_, policy) in resolved.policies() {
        let Some(target) = policy.dead_letter else { continue };
        let is_ours =
            |pattern: &ChannelName| subject::matches(pattern.as_bytes(), target.as_bytes());
        if !streaming.limits.per_channel.keys().any(is_ours) {
            let text = format!(
                "dead_letter \"{target}\" is none of the channels of this server, which are those \
                 of the channel limits; add it there"
            );
            return Err(Wrong::new(text, OPTIONS));
        }
    }
    Ok(())
}

/// Whether the core server's options fit together.
///
/// # Errors
/// The reference's text.
pub fn core(config: &Config) -> Result<(), Wrong> {
    let core = &config.core;
    if core.lame_duck_grace >= core.lame_duck_duration {
        let text = format!(
            "lame duck grace period ({}) should be strictly lower than lame duck duration ({})",
            show(core.lame_duck_grace),
            show(core.lame_duck_duration),
        );
        return Err(Wrong::new(text, "top.lame_duck_grace_period|top.lame_duck_duration"));
    }
    if core.payload_bytes_max > core.pending_bytes_max {
        let text = format!(
            "max_payload ({}) cannot be higher than max_pending ({})",
            core.payload_bytes_max, core.pending_bytes_max
        );
        return Err(Wrong::new(text, "top.max_payload|top.max_pending"));
    }
    let of_routes = core.cluster.as_ref().and_then(|cluster| cluster.tls.as_ref());
    for (tls, option) in [(core.tls.as_ref(), "top.tls"), (of_routes, "cluster.tls")] {
        if tls.is_some_and(|tls| tls.cert_file.is_none() || tls.key_file.is_none()) {
            let text = "tls: cert_file and key_file are missing: nobody could connect";
            return Err(Wrong::new(text, option));
        }
    }
    let Some(name) = &core.auth.no_auth_user else { return Ok(()) };
    let quoted = quote(name);
    if core.auth.users.is_empty() {
        let text = format!("no_auth_user: {quoted} present, but users are not defined");
        return Err(Wrong::new(text, "top.no_auth_user"));
    }
    if !core.auth.users.iter().any(|user| user.name == *name) {
        let text = format!(
            "no_auth_user: {quoted} not present as user in authorization block or account \
             configuration"
        );
        return Err(Wrong::new(text, "top.no_auth_user"));
    }
    Ok(())
}

/// Whether the pages can be shown.
///
/// # Errors
/// What follows `Can't start monitoring: `.
pub fn monitoring(config: &Config) -> Result<(), Wrong> {
    let monitor = &config.monitor;
    if monitor.http_port != 0 && monitor.https_port != 0 {
        let text = format!(
            "can't specify both HTTP ({}) and HTTPs ({}) ports",
            monitor.http_port, monitor.https_port
        );
        return Err(Wrong::new(text, MONITOR_PORTS));
    }
    if monitor.https_port != 0 && config.core.tls.is_none() {
        return Err(Wrong::new("TLS cert and key required for HTTPS", "top.https|top.https_port"));
    }
    // One of them is 0.
    port(monitor.http_port.saturating_add(monitor.https_port)).map_err(|text| {
        Wrong::new(format!("can't listen to the monitor port: {text}"), MONITOR_PORTS)
    })
}

/// The options that say where the pages are.
pub const MONITOR_PORTS: &str = "top.http|top.https|top.http_port|top.https_port";

/// The options that say where clients connect.
pub const CLIENT_PORT: &str = "top.listen|top.host top.port";

/// The options that say where other servers connect.
pub const ROUTE_PORT: &str = "cluster.listen|cluster.host cluster.port";

/// Whether the listeners of the core server can be what they are told.
///
/// # Errors
/// The reference's fatal line.
pub fn listeners(config: &Config) -> Result<(), Wrong> {
    let core = &config.core;
    let (host, number) = (joined_host(&core.host), core.port);
    port(number).and_then(|()| address(&core.host, number)).map_err(|text| {
        let text = format!("Error listening on port: {host}:{number}, {}", quote(&text));
        Wrong::new(text, "top.listen|top.port")
    })?;
    advertised(core.client_advertise.as_deref()).map_err(|(value, reason)| {
        let what = "Error setting server INFO with ClientAdvertise value of";
        Wrong::new(format!("{what} {value}, err={reason}"), "top.client_advertise")
    })?;
    let Some(cluster) = &core.cluster else { return Ok(()) };
    port(cluster.port).map_err(|text| {
        let text = format!("Error listening on router port: {} - {text}", cluster.port);
        Wrong::new(text, "cluster.listen|cluster.port")
    })?;
    advertised(cluster.advertise.as_deref()).map_err(|(value, reason)| {
        let what = "Error setting route INFO with Cluster.Advertise value of";
        Wrong::new(format!("{what} {value}, err={reason}"), "cluster.advertise")
    })
}

/// As the reference puts a host before a port.
fn joined_host(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// An IPv6 address stands without brackets where it has an option of its own.
fn address(host: &str, port: i64) -> Result<(), String> {
    let joined = joined_host(host);
    let Some(inner) = joined.strip_prefix('[').filter(|_| host.contains(':')) else {
        return Ok(());
    };
    let (before, behind) = inner.split_once(']').unwrap_or((inner, ""));
    let why = match behind.chars().next() {
        Some(':') => "too many colons in address",
        Some(_) => "missing port in address",
        None if before.contains('[') => "unexpected '[' in address",
        None => return Ok(()),
    };
    Err(format!("listen tcp: address {joined}:{port}: {why}"))
}

/// -1 stands for any free port.
fn port(port: i64) -> Result<(), String> {
    if (-1..=i64::from(u16::MAX)).contains(&port) {
        return Ok(());
    }
    Err(format!("listen tcp: address {port}: invalid port"))
}

/// What the reference's streaming server needs to connect to itself, as far as it is the user's
/// mistake if it is not there.
///
/// # Errors
/// The reference's text.
pub fn own_connections(config: &Config, world: &World<'_>) -> Result<(), Wrong> {
    let tls = &config.streaming.client_tls;
    if let Some(file) = &config.streaming.nkey_seed_file {
        let option = "streaming.nkey_seed_file";
        let unreadable = |error| Wrong::new(format!("nats: {error}"), option);
        let seed = read(file, world).map_err(unreadable)?;
        if config.streaming.external.is_some() {
            let key = UserKey::find(&seed).and_then(UserKey::of_user);
            key.map_err(|error| Wrong::new(error.to_string(), option))?;
        }
        let is_seed = |line: &[u8]| [b"SU", b"SA", b"SO"].iter().any(|it| line.starts_with(*it));
        if !seed.split(|byte| *byte == b'\n').any(|line| is_seed(line.trim_ascii_start())) {
            return Err(Wrong::new("nkeys: no nkey seed found", option));
        }
    }
    if let Some(external) = &config.streaming.external {
        credentials(config, external, world)?;
    }
    if let Some(file) = &tls.ca_file {
        let wrong = |text| Wrong::new(text, "tls.client_ca");
        let pem = read(file, world).map_err(|error| {
            wrong(format!("nats: error loading or parsing rootCA file: {error}"))
        })?;
        let name = quote(&file.display().to_string());
        own::authorities(&pem)
            .map_err(|_| wrong(format!("nats: failed to parse root certificate from {name}")))?;
    }
    if let Some(certificate) = &tls.cert_file {
        let key = tls.key_file.clone().unwrap_or_default();
        key_pair(certificate, &key, world).map_err(|error| {
            let text = format!("nats: error loading client certificate: {error}");
            Wrong::new(text, "tls.client_key|tls.client_cert")
        })?;
    }
    let files = tls.ca_file.is_some() || tls.cert_file.is_some();
    let asks = tls.secure || tls.skip_verify || tls.server_name.is_some() || files;
    if asks && config.core.tls.is_none() && config.streaming.external.is_none() {
        let text = "nats: secure connection not available";
        let options =
            "streaming.secure|tls.server_name|tls.skip_verify|tls.client_cert|tls.client_ca";
        return Err(Wrong::new(text, options));
    }
    Ok(())
}

/// Whether the credentials of the streaming server at an external server can be used.
fn credentials(config: &Config, external: &ExternalConfig, world: &World<'_>) -> Result<(), Wrong> {
    let Some(file) = &external.credentials_file else { return Ok(()) };
    let wrong = |text| Wrong::new(text, "streaming.credentials");
    if config.streaming.nkey_seed_file.is_some() {
        return Err(wrong("nats: user callback and nkey defined".to_owned()));
    }
    let text = read(file, world).map_err(|error| wrong(format!("nats: {error}")))?;
    let found = Credentials::decode(&text);
    found.map(drop).map_err(|error| {
        let name = quote(&file.display().to_string());
        wrong(format!("error signing nonce: unable to extract key pair from file {name}: {error}"))
    })
}

/// `host` or `host:port`; otherwise the value and the reason. One that is empty asks for nothing.
pub(super) fn advertised(value: Option<&str>) -> Result<(), (&str, String)> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(()) };
    // Whatever the port is that stands for one which is left out.
    route::advertised(value, 1).map(drop).map_err(|why| (value, why))
}

/// Fills the typed options from the numbers; what is a start error is cut to its range.
pub fn fill_streaming(draft: &mut Draft) {
    let is = |name: &str| draft.store.eq_ignore_ascii_case(name);
    let store = match (is("FILE"), is("SQL")) {
        (true, _) => StoreKind::File,
        (_, true) => StoreKind::Sql,
        (false, false) => StoreKind::Memory,
    };
    let streaming = &mut draft.config.streaming;
    streaming.store = store;
    streaming.limits.channels_max = unsigned(draft.limits.channels);
    streaming.limits.global = ChannelLimits {
        messages_max: unsigned(draft.limits.messages),
        bytes_max: unsigned(draft.limits.bytes),
        age_max: nanos(draft.limits.age),
        subscriptions_max: unsigned(draft.limits.subscriptions),
        inactivity_max: nanos(draft.limits.inactivity),
    };
    let given = &draft.file;
    let file = &mut streaming.file;
    file.compact_fragmentation = u32::try_from(given.compact_fragmentation).unwrap_or(u32::MAX);
    file.compact_interval = Duration::from_secs(unsigned(given.compact_interval));
    file.compact_bytes_min = unsigned(given.compact_bytes_min);
    file.buffer_bytes = usize::try_from(given.buffer_bytes).unwrap_or(0);
    file.read_buffer_bytes = usize::try_from(given.read_buffer_bytes).unwrap_or(0);
    file.crc_polynomial = u32::try_from(given.crc_polynomial).unwrap_or(1);
    file.slice_messages_max = unsigned(given.slice_messages_max);
    file.slice_bytes_max = unsigned(given.slice_bytes_max);
    file.slice_age_max = nanos(given.slice_age_max);
    file.descriptors_max = unsigned(given.descriptors_max);
    file.parallel_recovery = usize::try_from(given.parallel_recovery).unwrap_or(1);
    file.auto_sync = (given.auto_sync > 0).then(|| nanos(given.auto_sync));
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn nanos(value: i64) -> Duration {
    Duration::from_nanos(unsigned(value))
}
