//! A running server's configuration, read anew: what changed, and what may not
//!
//! Facts: spec core NATS, 18.5 and 18.6. The streaming options are never reloaded. Unlike the
//! reference, all flags hold again, so a server that was started with `-n` can be reloaded.

use std::fmt::Display;
use std::path::PathBuf;

use crate::base::go::show;
use crate::config::checks::Wrong;
use crate::config::{
    ClusterConfig, Config, CoreConfig, RouteUrl, TlsConfig, World, checks, defaults, flags, options,
};

/// What a reload changed, for those who have to do something about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Lines for the log, in the order of the reference, without the last one.
    pub lines: Vec<String>,
    /// The log has to be configured anew.
    pub log: bool,
    /// Users, passwords, tokens or permissions changed: sessions have to be looked through.
    pub auth: bool,
    /// New connections of clients use other TLS options.
    pub tls: bool,
    /// Something of the cluster other than its routes changed.
    pub cluster: bool,
    /// Routes to solicit from now on.
    pub routes_added: Vec<RouteUrl>,
    /// Routes to close.
    pub routes_removed: Vec<RouteUrl>,
    /// Sizes, counts or times of sessions changed.
    pub sessions: bool,
    /// What clients are told about the server's address changed.
    pub advertise: bool,
    /// The file has to be written anew.
    pub pid_file: bool,
    /// The file has to be written anew.
    pub ports_file: bool,
}

/// What a running server listens on, where -1 asked for any free port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// For clients.
    pub client: u16,
    /// For routes; 0 = none.
    pub route: u16,
    /// For monitoring; 0 = none.
    pub monitor: u16,
}

/// How the line on a new limit of connections begins.
pub const CONNECTIONS_MAX: &str = "Reloaded: max_connections =";

const CLUSTER_NAME: &str = "Cluster name updated to";

/// How the lines begin that say where files of this process are.
pub const PID_FILE: &str = "Reloaded: pid_file =";
/// See [`PID_FILE`].
pub const PORTS_FILE_DIR: &str = "Reloaded: ports_file_dir =";

/// A warning, at the start too.
pub const ROUTES_UNVERIFIED: &str = "TLS certificate chain and hostname of solicited routes will \
    not be verified. DO NOT USE IN PRODUCTION!";

/// The line after a reload.
pub const RELOADED: &str = "Reloaded server configuration";

/// Reads the files that `args` name again, and compares with the running configuration.
///
/// # Errors
/// The reference's text; nothing changes then.
pub fn reload(
    old: &Config,
    ports: Ports,
    args: &[String],
    world: &World<'_>,
) -> Result<(Config, Changes), String> {
    if old.config_file.is_none() {
        return Err(
            "can only reload config when a file is provided using -c or --config".to_owned()
        );
    }
    let line = flags::parse(old.program, args).map_err(|error| error.to_string())?;
    let mut new =
        options::reloaded(old.program, &line, world).map_err(|error| error.to_string())?;
    new.streaming = old.streaming.clone();
    new.log.streaming.debug = old.log.streaming.debug;
    new.log.streaming.trace = old.log.streaming.trace;
    new.loops = old.loops;
    new.arguments.clone_from(&old.arguments);
    keep_ports(old, &mut new, ports);
    fixed(old, &new).and_then(|()| checks::core(&new)).map_err(|wrong| wrong.at(&new.places))?;
    let mut changes = Changes::default();
    compare_log(old, &new, &mut changes);
    compare_auth(old, &new, &mut changes);
    compare_cluster(old, &new, &mut changes);
    compare_core(old, &new, &mut changes);
    changes.set_in_order();
    Ok((new, changes))
}

/// How lines begin, in the reference's order: that of its options.
const ORDER: [&str; 36] = [
    "Reload: client_advertise =",
    "Reloaded: trace =",
    "Reloaded: debug =",
    "Reloaded: trace_verbose =",
    "Reloaded: logtime =",
    "Reloaded: logtime_utc =",
    CONNECTIONS_MAX,
    "Reloaded: authorization users",
    "Reloaded: accounts",
    "Reloaded: authorization username",
    "Reloaded: authorization password",
    "Reloaded: authorization token",
    "Reloaded: ping_interval =",
    "Reloaded: ping_max =",
    "Reloaded: authorization timeout =",
    "Reloaded: max_control_line =",
    "Reloaded: max_payload =",
    CLUSTER_NAME,
    "Reloaded: cluster",
    ROUTES_UNVERIFIED,
    PID_FILE,
    PORTS_FILE_DIR,
    "Reloaded: log_file =",
    "Reloaded: syslog =",
    "Reloaded: remote_syslog =",
    "Reloaded: log_format =",
    "Reloaded: dashboard user",
    "Reloaded: cluster routes",
    "Reloaded: tls timeout =",
    "Reloaded: tls =",
    "Reloaded: write_deadline =",
    "Reloaded: max_traced_msg_len =",
    "Reloaded: connect_error_reports =",
    "Reloaded: reconnect_error_reports =",
    "Reloaded: tags",
    "",
];

/// -1 is the port that it chose: whichever of both a file names, nothing has changed.
fn keep_ports(old: &Config, new: &mut Config, ports: Ports) {
    let keep = |old: i64, new: &mut i64, port: u16| {
        if (old == -1 && *new == i64::from(port)) || (*new == -1 && old == i64::from(port)) {
            *new = old;
        }
    };
    keep(old.core.port, &mut new.core.port, ports.client);
    keep(old.monitor.http_port, &mut new.monitor.http_port, ports.monitor);
    keep(old.monitor.https_port, &mut new.monitor.https_port, ports.monitor);
    if let (Some(old), Some(new)) = (&old.core.cluster, &mut new.core.cluster) {
        keep(old.port, &mut new.port, ports.route);
    }
}

/// What can only change with a restart, in the reference's order.
fn fixed(old: &Config, new: &Config) -> Result<(), Wrong> {
    let (a, b) = (&old.core, &new.core);
    same("ServerName", shown(&a.server_name), shown(&b.server_name))?;
    same("Host", &a.host, &b.host)?;
    same("Port", a.port, b.port)?;
    checks::advertised(b.client_advertise.as_deref()).map_err(|(value, reason)| {
        let text = format!("invalid ClientAdvertise value of {value}, err={reason}");
        Wrong::new(text, "top.client_advertise")
    })?;
    same("NoSublistCache", a.no_sublist_cache, b.no_sublist_cache)?;
    same("NoHeaderSupport", !a.has_headers, !b.has_headers)?;
    same("MaxSubs", a.interests_max.unwrap_or(0), b.interests_max.unwrap_or(0))?;
    same("MaxSubTokens", a.subject_tokens_max.unwrap_or(0), b.subject_tokens_max.unwrap_or(0))?;
    let no_auth = |config: &Config| shown(&config.core.auth.no_auth_user);
    let is_listed = |name: &str| b.auth.users.iter().any(|user| user.name == name);
    if b.auth.no_auth_user.is_some() || is_listed(&no_auth(old)) {
        same("NoAuthUser", no_auth(old), no_auth(new))?;
    }
    same("NoSystemAccount", !a.has_system_account, !b.has_system_account)?;
    let (pages, new_pages) = (&old.monitor, &new.monitor);
    same("HTTPHost", &pages.host, &new_pages.host)?;
    same("HTTPPort", pages.http_port, new_pages.http_port)?;
    same("HTTPBasePath", &pages.base_path, &new_pages.base_path)?;
    same("HTTPSPort", pages.https_port, new_pages.https_port)?;
    same("MaxPending", a.pending_bytes_max, b.pending_bytes_max)?;
    fixed_of_cluster(a.cluster.as_ref(), b.cluster.as_ref())?;
    same("LogSizeLimit", old.log.file_bytes_max, new.log.file_bytes_max)?;
    let is_mapped = |core: &CoreConfig| core.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
    same("TLSMap", is_mapped(a), is_mapped(b))?;
    same("AllowNonTLS", a.allow_non_tls, b.allow_non_tls)?;
    same("LameDuckDuration", show(a.lame_duck_duration), show(b.lame_duck_duration))?;
    same("LameDuckGracePeriod", show(a.lame_duck_grace), show(b.lame_duck_grace))
}

fn fixed_of_cluster(a: Option<&ClusterConfig>, b: Option<&ClusterConfig>) -> Result<(), Wrong> {
    let listen = |cluster: Option<&ClusterConfig>| {
        cluster.map_or((String::new(), 0), |cluster| (cluster.host.clone(), cluster.port))
    };
    let ((a_host, a_port), (b_host, b_port)) = (listen(a), listen(b));
    same("cluster host", a_host, b_host)?;
    same("cluster port", a_port, b_port)?;
    checks::advertised(b.and_then(|cluster| cluster.advertise.as_deref())).map_err(
        |(value, reason)| {
            let text = format!("invalid Cluster.Advertise value of {value}, err={reason}");
            Wrong::new(text, "cluster.advertise")
        },
    )
}

fn same<T: PartialEq + Display>(field: &str, old: T, new: T) -> Result<(), Wrong> {
    if old == new {
        return Ok(());
    }
    let options = FIXED.iter().find(|(name, _)| *name == field).map_or("", |(_, options)| options);
    let text = format!("config reload not supported for {field}: old={old}, new={new}");
    Err(Wrong::new(text, options))
}

/// The options behind what the reference calls what only a restart changes.
const FIXED: [(&str, &str); 21] = [
    ("ServerName", "top.server_name"),
    ("Host", "top.listen|top.host"),
    ("Port", "top.listen|top.port"),
    ("NoSublistCache", "top.disable_sublist_cache"),
    ("NoHeaderSupport", "top.no_header_support"),
    ("MaxSubs", "top.max_subscriptions"),
    ("MaxSubTokens", "top.max_sub_tokens"),
    ("NoAuthUser", "top.no_auth_user"),
    ("NoSystemAccount", "top.no_system_account"),
    ("HTTPHost", "top.http|top.https top.listen|top.host"),
    ("HTTPPort", "top.http|top.http_port"),
    ("HTTPBasePath", "top.http_base_path"),
    ("HTTPSPort", "top.https|top.https_port"),
    ("MaxPending", "top.max_pending"),
    ("cluster host", "cluster.listen|cluster.host"),
    ("cluster port", "cluster.listen|cluster.port"),
    ("LogSizeLimit", "top.log_size_limit"),
    ("TLSMap", "top.tls"),
    ("AllowNonTLS", "top.allow_non_tls"),
    ("LameDuckDuration", "top.lame_duck_duration"),
    ("LameDuckGracePeriod", "top.lame_duck_grace_period"),
];

fn shown(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

fn shown_path(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

impl Changes {
    /// Puts the lines into the reference's order.
    fn set_in_order(&mut self) {
        let is_whole = |line: &str, begin: &str| !begin.ends_with('=') && line == begin;
        self.lines.sort_by_key(|line| {
            let whole = ORDER.iter().position(|begin| is_whole(line, begin));
            whole.or_else(|| ORDER.iter().position(|begin| line.starts_with(begin)))
        });
    }

    /// Notes a change of one option with its line.
    fn note<T: PartialEq>(&mut self, old: &T, new: &T, line: impl FnOnce() -> String) -> bool {
        let has_changed = old != new;
        if has_changed {
            self.lines.push(line());
        }
        has_changed
    }
}

fn compare_log(old: &Config, new: &Config, changes: &mut Changes) {
    let (a, b) = (&old.log, &new.log);
    let notes = [
        changes
            .note(&a.core.trace, &b.core.trace, || format!("Reloaded: trace = {}", b.core.trace)),
        changes
            .note(&a.core.debug, &b.core.debug, || format!("Reloaded: debug = {}", b.core.debug)),
        changes
            .note(&a.timestamps, &b.timestamps, || format!("Reloaded: logtime = {}", b.timestamps)),
        a.utc != b.utc,
        changes
            .note(&a.format, &b.format, || format!("Reloaded: log_format = {}", b.format.name())),
        changes.note(&a.file, &b.file, || format!("Reloaded: log_file = {}", shown_path(&b.file))),
        changes.note(&a.syslog, &b.syslog, || format!("Reloaded: syslog = {}", b.syslog)),
        changes.note(&a.remote_syslog, &b.remote_syslog, || {
            format!("Reloaded: remote_syslog = {}", shown(&b.remote_syslog))
        }),
    ];
    changes.log = notes.contains(&true);
    let (a, b) = (&old.core, &new.core);
    changes.note(&a.is_trace_verbose, &b.is_trace_verbose, || {
        format!("Reloaded: trace_verbose = {}", b.is_trace_verbose)
    });
    changes.note(&a.asks_for_utc, &b.asks_for_utc, || {
        format!("Reloaded: logtime_utc = {}", b.asks_for_utc)
    });
    let (a, b) = (old.core.traced_bytes_max, new.core.traced_bytes_max);
    if changes.note(&a, &b, || format!("Reloaded: max_traced_msg_len = {b}")) {
        changes.sessions = true;
    }
}

fn compare_auth(old: &Config, new: &Config, changes: &mut Changes) {
    let (a, b) = (&old.core, &new.core);
    let timeout =
        |tls: &Option<TlsConfig>| tls.as_ref().map_or(defaults::AUTH_TIMEOUT, |tls| tls.timeout);
    let timed = |tls: &Option<TlsConfig>| {
        tls.clone().map(|tls| TlsConfig { timeout: defaults::AUTH_TIMEOUT, ..tls })
    };
    let is_timed_otherwise = changes.note(&timeout(&a.tls), &timeout(&b.tls), || {
        format!("Reloaded: tls timeout = {}", timeout(&b.tls).as_secs_f64())
    });
    changes.tls = is_timed_otherwise || timed(&a.tls) != timed(&b.tls);
    // Compat: the reference says so each time, because what is in use never equals what is read.
    // Pinned by `each_option_is_reloaded_or_refused_as_by_the_reference`.
    if a.tls.is_some() || b.tls.is_some() {
        let state = if b.tls.is_some() { "enabled" } else { "disabled" };
        changes.lines.push(format!("Reloaded: tls = {state}"));
    }
    let (a, b) = (&a.auth, &b.auth);
    let notes = [
        changes.note(&a.username, &b.username, || "Reloaded: authorization username".to_owned()),
        changes.note(&a.password, &b.password, || "Reloaded: authorization password".to_owned()),
        changes.note(&a.token, &b.token, || "Reloaded: authorization token".to_owned()),
        a.users != b.users,
        a.no_auth_user != b.no_auth_user,
    ];
    changes.auth = notes.contains(&true);
    // Compat: the reference cannot tell whether these have changed, and says them each time.
    // Pinned by `lines_are_those_of_the_reference_in_its_order`.
    changes.lines.push("Reloaded: authorization users".to_owned());
    changes.lines.push("Reloaded: accounts".to_owned());
    if changes.note(&a.timeout, &b.timeout, || {
        format!("Reloaded: authorization timeout = {}", b.timeout.as_secs_f64())
    }) {
        changes.sessions = true;
    }
}

fn compare_cluster(old: &Config, new: &Config, changes: &mut Changes) {
    let (Some(a), Some(b)) = (&old.core.cluster, &new.core.cluster) else { return };
    let without_routes =
        |cluster: &ClusterConfig| ClusterConfig { routes: Vec::new(), ..cluster.clone() };
    changes.cluster =
        changes.note(&without_routes(a), &without_routes(b), || "Reloaded: cluster".to_owned());
    // Compat: authorities that were read never equal those that are in use. Pinned by
    // `each_option_is_reloaded_or_refused_as_by_the_reference`.
    let has_authorities = b.tls.as_ref().is_some_and(|tls| tls.ca_file.is_some());
    if has_authorities && !changes.cluster {
        changes.cluster = true;
        changes.lines.push("Reloaded: cluster".to_owned());
    }
    if let Some(name) = b.name.as_ref().filter(|name| a.name.as_ref() != Some(*name)) {
        changes.lines.push(format!("{CLUSTER_NAME} {name}"));
    }
    if changes.cluster && b.tls.as_ref().is_some_and(|tls| tls.insecure) {
        changes.lines.push(ROUTES_UNVERIFIED.to_owned());
    }
    let missing = |from: &[RouteUrl], there: &[RouteUrl]| -> Vec<RouteUrl> {
        from.iter().filter(|route| !there.contains(route)).cloned().collect()
    };
    changes.routes_removed = missing(&a.routes, &b.routes);
    changes.routes_added = missing(&b.routes, &a.routes);
    if !changes.routes_added.is_empty() || !changes.routes_removed.is_empty() {
        changes.lines.push("Reloaded: cluster routes".to_owned());
    }
}

fn compare_core(old: &Config, new: &Config, changes: &mut Changes) {
    let (a, b) = (&old.monitor.viewer, &new.monitor.viewer);
    changes.note(a, b, || "Reloaded: dashboard user".to_owned());
    let (a, b) = (&old.core, &new.core);
    // Compat: one that is taken out stays where it is, and nothing is said of it.
    changes.pid_file = new.pid_file.is_some()
        && changes.note(&old.pid_file, &new.pid_file, || {
            format!("{PID_FILE} {}", shown_path(&new.pid_file))
        });
    changes.ports_file = changes.note(&old.ports_file_dir, &new.ports_file_dir, || {
        format!("{PORTS_FILE_DIR} {}", shown_path(&new.ports_file_dir))
    });
    changes.advertise = changes.note(&a.client_advertise, &b.client_advertise, || {
        // Compat: without the "ed" of all others. Pinned by
        // `lines_are_those_of_the_reference_in_its_order`.
        format!("Reload: client_advertise = {}", shown(&b.client_advertise))
    });
    changes.note(&a.tags, &b.tags, || "Reloaded: tags".to_owned());
    let notes = [
        changes.note(&a.connections_max, &b.connections_max, || {
            let count = b.connections_max.map_or("-1".to_owned(), |count| count.to_string());
            format!("Reloaded: max_connections = {count}")
        }),
        changes.note(&a.control_line_bytes_max, &b.control_line_bytes_max, || {
            format!("Reloaded: max_control_line = {}", b.control_line_bytes_max)
        }),
        changes.note(&a.payload_bytes_max, &b.payload_bytes_max, || {
            format!("Reloaded: max_payload = {}", b.payload_bytes_max)
        }),
        changes.note(&a.ping_interval, &b.ping_interval, || {
            format!("Reloaded: ping_interval = {}", show(b.ping_interval))
        }),
        changes
            .note(&a.pings_max, &b.pings_max, || format!("Reloaded: ping_max = {}", b.pings_max)),
        changes.note(&a.write_deadline, &b.write_deadline, || {
            format!("Reloaded: write_deadline = {}", show(b.write_deadline))
        }),
        changes.note(&a.connect_error_reports, &b.connect_error_reports, || {
            format!("Reloaded: connect_error_reports = {}", b.connect_error_reports)
        }),
        changes.note(&a.reconnect_error_reports, &b.reconnect_error_reports, || {
            format!("Reloaded: reconnect_error_reports = {}", b.reconnect_error_reports)
        }),
    ];
    changes.sessions |= notes.contains(&true);
}

#[cfg(test)]
mod tests;
