//! The core half of a configuration file: keys, synonyms, types
//!
//! Facts: spec core NATS, section 16. All errors are collected, each with file, line and column.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::go;
use crate::config::auth_keys;
use crate::config::draft::Draft;
use crate::config::route::split_host_port;
use crate::config::tls_keys;
use crate::config::tree::{Entry, Map, Position, Value};
use crate::config::{Program, World, route};

/// Only a path may be in another encoding: names and passwords are compared with what clients send.
pub(super) const NOT_UTF8: &str = "the text is not UTF-8; save the file in that encoding";

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where.
    pub at: Position,
    /// What.
    pub text: String,
}

impl Fault {
    /// Something wrong with `entry`.
    pub fn new(entry: &Entry, text: impl Into<String>) -> Self {
        Self { at: entry.at.clone(), text: text.into() }
    }

    /// The reference knows the key, and this server does not yet.
    pub fn unsupported(entry: &Entry) -> Self {
        Self::new(entry, format!("key \"{}\" is not supported by stanby yet", entry.key))
    }

    /// Nobody knows the key; a variable may have any name.
    pub fn unknown(entry: &Entry) -> Result<(), Self> {
        if entry.is_variable.get() {
            return Ok(());
        }
        Err(Self::new(entry, format!("unknown field {}", go::quote(&entry.key))))
    }

    pub fn show(&self) -> String {
        format!("{}: {}", self.at, self.text)
    }
}

/// What a file is applied to.
pub(super) struct Reader<'a> {
    /// What it changes.
    pub draft: &'a mut Draft,
    /// For certificate files.
    pub world: &'a World<'a>,
    /// What is wrong.
    pub errors: Vec<String>,
    /// What is only strange.
    pub warnings: Vec<String>,
}

impl Reader<'_> {
    /// Notes what is wrong and goes on.
    pub fn note(&mut self, outcome: Result<(), Fault>) {
        if let Err(fault) = outcome {
            self.errors.push(fault.show());
        }
    }

    fn warn(&mut self, entry: &Entry, reason: &str) {
        let key = entry.key.to_lowercase();
        let field = go::quote(&key);
        self.warnings.push(format!("{}: invalid use of field {field}: {reason}", entry.at));
    }
}

type Apply = fn(&mut Reader<'_>, &Entry) -> Result<(), Fault>;

/// Keys of the top level.
static TOP: &[(&str, Apply)] = &[
    ("listen", |r, e| {
        let (host, port) = listen(e)?;
        r.draft.config.core.port = port;
        set_host(&mut r.draft.host, host);
        Ok(())
    }),
    ("port", |r, e| set(&mut r.draft.config.core.port, integer(e))),
    ("host net", |r, e| set(&mut r.draft.host, string(e))),
    ("client_advertise", |r, e| set(&mut r.draft.config.core.client_advertise, text(e))),
    ("server_name", |r, e| set(&mut r.draft.config.core.server_name, text(e))),
    ("debug", |r, e| set(&mut r.draft.config.log.core.debug, boolean(e))),
    ("trace", |r, e| set(&mut r.draft.config.log.core.trace, boolean(e))),
    ("trace_verbose", |r, e| {
        let is_on = boolean(e)?;
        r.draft.config.core.is_trace_verbose = is_on;
        r.draft.config.log.core.trace |= is_on;
        Ok(())
    }),
    ("logtime", |r, e| set(&mut r.draft.config.log.timestamps, boolean(e))),
    ("logtime_utc", |r, e| set(&mut r.draft.config.log.utc, boolean(e))),
    ("log_format", |r, e| set(&mut r.draft.log_format, string(e))),
    ("logfile log_file", |r, e| set(&mut r.draft.config.log.file, file(e))),
    ("logfile_size_limit log_size_limit", |r, e| {
        set(&mut r.draft.config.log.file_bytes_max, unsigned(e))
    }),
    ("syslog", |r, e| set(&mut r.draft.config.log.syslog, boolean(e))),
    ("remote_syslog", |r, e| set(&mut r.draft.config.log.remote_syslog, text(e))),
    ("pidfile pid_file", |r, e| set(&mut r.draft.config.pid_file, file(e))),
    ("ports_file_dir", |r, e| set(&mut r.draft.config.ports_file_dir, file(e))),
    ("max_control_line", |r, e| set(&mut r.draft.config.core.control_line_bytes_max, small(e))),
    ("max_payload", |r, e| {
        let is_core = r.draft.config.program == Program::Core;
        let bytes = match integer(e) {
            Ok(-1) if is_core => Ok(PAYLOAD_BYTES_MOST),
            _ => small(e),
        };
        set(&mut r.draft.config.core.payload_bytes_max, bytes)
    }),
    ("max_pending", |r, e| {
        let bytes = not_negative(e, integer(e)?)?;
        r.draft.config.core.pending_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(())
    }),
    ("max_connections max_conn", |r, e| {
        let count = integer(e).map(|value| match value {
            0 => Some(65_536),
            value => u64::try_from(value).ok(),
        });
        set(&mut r.draft.config.core.connections_max, count)
    }),
    ("max_subscriptions max_subs", |r, e| {
        let count = integer(e).map(|value| u64::try_from(value).ok().filter(|count| *count > 0));
        set(&mut r.draft.config.core.interests_max, count)
    }),
    ("max_sub_tokens max_subscription_tokens", sub_tokens),
    ("max_traced_msg_len", |r, e| {
        let bytes = integer(e).map(|value| usize::try_from(value).unwrap_or(0));
        set(&mut r.draft.config.core.traced_bytes_max, bytes)
    }),
    ("ping_interval", |r, e| {
        r.draft.config.core.ping_interval = seconds_or_duration(r, e)?;
        Ok(())
    }),
    ("ping_max", |r, e| set(&mut r.draft.config.core.pings_max, count(e))),
    ("write_deadline", |r, e| {
        r.draft.config.core.write_deadline = seconds_or_duration(r, e)?;
        Ok(())
    }),
    ("lame_duck_duration", lame_duck_duration),
    ("lame_duck_grace_period", lame_duck_grace),
    ("http", |r, e| {
        let (host, port) = listen(e)?;
        r.draft.config.monitor.http_port = port;
        set_host(&mut r.draft.monitor_host, host);
        Ok(())
    }),
    ("https", |r, e| {
        let (host, port) = listen(e)?;
        r.draft.config.monitor.https_port = port;
        set_host(&mut r.draft.monitor_host, host);
        Ok(())
    }),
    ("http_port monitor_port", |r, e| set(&mut r.draft.config.monitor.http_port, integer(e))),
    ("https_port", |r, e| set(&mut r.draft.config.monitor.https_port, integer(e))),
    ("http_base_path", |r, e| set(&mut r.draft.config.monitor.base_path, string(e))),
    ("dashboard", auth_keys::dashboard),
    ("authorization", auth_keys::authorization),
    ("no_auth_user", |r, e| set(&mut r.draft.config.core.auth.no_auth_user, text(e))),
    ("no_header_support", |r, e| {
        set(&mut r.draft.config.core.has_headers, boolean(e).map(|is_off| !is_off))
    }),
    ("tls", |r, e| {
        let tls = tls_keys::read(r, e, tls_keys::Place::Clients)?;
        r.draft.config.core.tls = Some(tls);
        Ok(())
    }),
    ("allow_non_tls", |r, e| set(&mut r.draft.config.core.allow_non_tls, boolean(e))),
    ("cluster", cluster),
    ("connect_error_reports", |r, e| set(&mut r.draft.config.core.connect_error_reports, count(e))),
    ("reconnect_error_reports", |r, e| {
        set(&mut r.draft.config.core.reconnect_error_reports, count(e))
    }),
    ("server_tags", tags),
    ("disable_sublist_cache no_sublist_cache", |r, e| {
        set(&mut r.draft.config.core.no_sublist_cache, boolean(e))
    }),
    ("no_system_account no_system no_sys_acc", |r, e| {
        set(&mut r.draft.config.core.has_system_account, boolean(e).map(|is_off| !is_off))
    }),
    // Harnesses always name a folder for JetStream; without JetStream it asks for nothing.
    ("store_dir storedir", |_, e| file(e).map(|_| ())),
    ("prof_port", |_, e| if integer(e)? == 0 { Ok(()) } else { Err(Fault::unsupported(e)) }),
];

/// Keys that the reference knows and this server does not yet: an access rule is never ignored.
const UNSUPPORTED: &str = "accounts jetstream gateway leaf leafnodes default_js_domain \
     mqtt websocket ws mappings maps operator operators root roots root_operator root_operators \
     resolver account_resolver accounts_resolver resolver_tls resolver_preload \
     resolver_pinned_accounts trusted trusted_keys system_account system ocsp ocsp_cache";

/// Whether a key of [`UNSUPPORTED`] has a value with which it changes nothing in the reference
/// either: files made from templates name features that they leave off.
fn asks_for_nothing(key: &str, value: &Value) -> bool {
    match key {
        "accounts" | "resolver_pinned_accounts" => is_empty(value),
        "default_js_domain" | "mappings" | "maps" | "resolver_tls" | "resolver_preload" => {
            matches!(value, Value::Map(_)) && is_empty(value)
        }
        "gateway" | "leaf" | "leafnodes" | "mqtt" | "websocket" | "ws" => {
            has_only(value, "port", &Value::Integer(0))
        }
        "trusted" | "trusted_keys" => matches!(value, Value::Array(_)) && is_empty(value),
        "system_account" | "system" => matches!(value, Value::String(text) if text.is_empty()),
        // Without an operator nobody asks the resolver.
        "resolver" | "account_resolver" | "accounts_resolver" => {
            matches!(value, Value::String(text)
                if ["mem", "memory"].contains(&text.to_lowercase().as_str()))
        }
        "ocsp" | "ocsp_cache" => *value == Value::Bool(false),
        "jetstream" => match value {
            Value::Bool(is_on) => !is_on,
            Value::String(text) => ["disable", "disabled"].contains(&text.to_lowercase().as_str()),
            Value::Map(_) => !is_empty(value) && has_only(value, "enabled", &Value::Bool(false)),
            Value::Bytes(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Date(_)
            | Value::Array(_) => false,
        },
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Map(map) if map.iter().next().is_none())
        || matches!(value, Value::Array(items) if items.is_empty())
}

/// Whether `value` is a map with nothing in it but `key`, and that with the value `off`.
fn has_only(value: &Value, key: &str, off: &Value) -> bool {
    let Value::Map(map) = value else { return false };
    map.iter().all(|entry| entry.key.eq_ignore_ascii_case(key) && entry.value == *off)
}

/// Keys of `cluster`.
static CLUSTER: &[(&str, Apply)] = &[
    ("name", |r, e| set(&mut r.draft.cluster.name, text(e))),
    ("listen", |r, e| {
        let (host, port) = listen(e)?;
        r.draft.cluster.port = port;
        set_host(&mut r.draft.cluster.host, host);
        Ok(())
    }),
    ("port", |r, e| set(&mut r.draft.cluster.port, integer(e))),
    ("host net", |r, e| set(&mut r.draft.cluster.host, string(e))),
    ("authorization", auth_keys::cluster_authorization),
    ("routes", routes),
    ("tls", |r, e| {
        let mut tls = tls_keys::read(r, e, tls_keys::Place::Routes)?;
        // Routes always verify both sides.
        tls.verify = true;
        r.draft.cluster.tls = Some(tls);
        Ok(())
    }),
    ("cluster_advertise advertise", |r, e| set(&mut r.draft.cluster.advertise, text(e))),
    ("no_advertise", |r, e| set(&mut r.draft.cluster.no_advertise, boolean(e))),
    ("connect_retries", |r, e| set(&mut r.draft.cluster.connect_retries, count(e))),
    ("permissions", auth_keys::cluster_permissions),
];

/// Applies what a file says about the core server.
///
/// # Errors
/// All that is strange and all that is wrong, a line each.
pub fn apply(draft: &mut Draft, file: &Map, world: &World<'_>) -> Result<(), String> {
    let program = draft.config.program;
    let mut reader = Reader { draft, world, errors: Vec::new(), warnings: Vec::new() };
    for entry in file {
        let key = entry.key.to_lowercase();
        let outcome = if let Some((names, apply)) = find(TOP, &key) {
            reader.draft.config.places.note("top", names, &entry.at);
            apply(&mut reader, entry)
        } else if UNSUPPORTED.split_whitespace().any(|known| known == key) {
            if asks_for_nothing(&key, &entry.value) {
                Ok(())
            } else {
                Err(Fault::unsupported(entry))
            }
        } else if program == Program::Core {
            Fault::unknown(entry)
        } else {
            // The streaming server's own keys live in the same file.
            Ok(())
        };
        reader.note(outcome);
    }
    let Reader { draft, errors, warnings, .. } = reader;
    if !errors.is_empty() {
        return Err([warnings, errors].concat().join("\n"));
    }
    draft.config.warnings.extend(warnings);
    Ok(())
}

/// Whether a file may have `key`, which is in lower case, at its top level for the core server.
pub(super) fn is_known(key: &str) -> bool {
    names().any(|name| name == key)
}

/// The names that the core server knows at the top level of a file.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TOP.iter().flat_map(|(names, _)| names.split(' ')).chain(UNSUPPORTED.split_whitespace())
}

type Key = (&'static str, Apply);

/// The names of the keys of `cluster`.
#[cfg(test)]
pub(super) fn cluster_names() -> impl Iterator<Item = &'static str> {
    CLUSTER.iter().flat_map(|(names, _)| names.split(' '))
}

fn find(keys: &'static [Key], key: &str) -> Option<&'static Key> {
    keys.iter().find(|(names, _)| names.split(' ').any(|name| name == key))
}

fn cluster(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let Value::Map(map) = &entry.value else {
        let have = entry.value.type_name();
        return Err(Fault::new(entry, format!("Expected map to define cluster, got {have}")));
    };
    for inner in map {
        let outcome = match find(CLUSTER, &inner.key.to_lowercase()) {
            Some((names, apply)) => {
                reader.draft.config.places.note("cluster", names, &inner.at);
                apply(reader, inner)
            }
            // What belongs to streaming clustering is named by the streaming half.
            None => Fault::unknown(inner),
        };
        reader.note(outcome);
    }
    Ok(())
}

fn routes(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let Value::Array(items) = &entry.value else {
        return Err(wrong_type(entry, "[]interface {}"));
    };
    let mut routes = Vec::new();
    for item in items {
        let Value::String(url) = &item.value else {
            let text = conversion(item.value.type_name(), "string");
            reader.note(Err(Fault { at: item.at.clone(), text }));
            continue;
        };
        match route::parse(url) {
            Ok(route) if routes.contains(&route) => {
                reader.warn(entry, "Duplicate route entry detected");
            }
            Ok(route) => routes.push(route),
            Err(text) => reader.note(Err(Fault { at: item.at.clone(), text })),
        }
    }
    reader.draft.cluster.routes = routes;
    Ok(())
}

/// One tag or a list of them, as the reference keeps them.
fn tags(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let texts = match &entry.value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => items.iter().map(|item| text_of(&item.value)).collect(),
        Value::Bytes(_)
        | Value::Bool(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Date(_)
        | Value::Map(_) => None,
    };
    let Some(texts) = texts else {
        let have = entry.value.type_name();
        return Err(Fault::new(entry, format!("error parsing tags: unsupported type {have}")));
    };
    let mut tags: Vec<String> = Vec::new();
    for tag in texts.into_iter().map(|text| text.trim().to_lowercase()) {
        if !tag.is_empty() && !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    reader.draft.config.core.tags = tags;
    Ok(())
}

fn text_of(value: &Value) -> Option<&String> {
    if let Value::String(text) = value { Some(text) } else { None }
}

fn sub_tokens(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let key = entry.key.to_lowercase();
    let value = integer(entry)?;
    if value <= 0 {
        return Err(Fault::new(entry, format!("{key} value can not be negative")));
    }
    let tokens =
        u8::try_from(value).map_err(|_| Fault::new(entry, format!("{key} value is too big")))?;
    reader.draft.config.core.subject_tokens_max = Some(tokens);
    Ok(())
}

fn lame_duck_duration(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let nanos = go::duration(&string(entry)?)
        .map_err(|error| Fault::new(entry, format!("error parsing lame_duck_duration: {error}")))?;
    let duration = Duration::from_nanos(nanos.max(0).unsigned_abs());
    if duration < Duration::from_secs(30) {
        let shown = go::show_duration(nanos);
        return Err(Fault::new(
            entry,
            format!("invalid lame_duck_duration of {shown}, minimum is 30 seconds"),
        ));
    }
    reader.draft.config.core.lame_duck_duration = duration;
    Ok(())
}

fn lame_duck_grace(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let nanos = go::duration(&string(entry)?).map_err(|error| {
        Fault::new(entry, format!("error parsing lame_duck_grace_period: {error}"))
    })?;
    let nanos = u64::try_from(nanos)
        .map_err(|_| Fault::new(entry, "invalid lame_duck_grace_period, needs to be positive"))?;
    reader.draft.config.core.lame_duck_grace = Duration::from_nanos(nanos);
    Ok(())
}

/// A duration, or a number of seconds with a warning.
fn seconds_or_duration(reader: &mut Reader<'_>, entry: &Entry) -> Result<Duration, Fault> {
    let key = entry.key.to_lowercase();
    let nanos = if let Value::String(text) = &entry.value {
        go::duration(text)
            .map_err(|error| Fault::new(entry, format!("error parsing {key}: {error}")))?
    } else {
        reader.warn(entry, &format!("{key} should be converted to a duration"));
        integer(entry)?.saturating_mul(1_000_000_000)
    };
    not_negative(entry, nanos).map(Duration::from_nanos)
}

/// A port, or `host:port`.
fn listen(entry: &Entry) -> Result<(Option<String>, i64), Fault> {
    if let Value::Integer(port) = entry.value {
        return Ok((None, port));
    }
    let Value::String(text) = &entry.value else {
        let have = entry.value.type_name();
        return Err(Fault::new(entry, format!("expected port or host:port, got {have}")));
    };
    let wrong = |what: &str, text: &str| {
        Fault::new(entry, format!("could not parse {what} {}", go::quote(text)))
    };
    let (host, port) = split_host_port(text).map_err(|_| wrong("address string", text))?;
    let port = port.parse().map_err(|_| wrong("port", port))?;
    Ok((Some(host), port))
}

fn set_host(field: &mut String, host: Option<String>) {
    if let Some(host) = host {
        *field = host;
    }
}

fn set<T>(field: &mut T, value: Result<T, Fault>) -> Result<(), Fault> {
    *field = value?;
    Ok(())
}

/// A wrong type in the words of the reference.
pub(super) fn conversion(have: &str, wanted: &str) -> String {
    format!("interface conversion: interface {{}} is {have}, not {wanted}")
}

fn wrong_type(entry: &Entry, wanted: &str) -> Fault {
    Fault::new(entry, conversion(entry.value.type_name(), wanted))
}

/// The map of an entry.
pub(super) fn map(entry: &Entry) -> Result<&Map, Fault> {
    if let Value::Map(map) = &entry.value {
        Ok(map)
    } else {
        Err(wrong_type(entry, "map[string]interface {}"))
    }
}

/// The text of an entry.
pub(super) fn string(entry: &Entry) -> Result<String, Fault> {
    if let Value::String(text) = &entry.value {
        return Ok(text.clone());
    }
    let is_bytes = matches!(entry.value, Value::Bytes(_));
    Err(if is_bytes { Fault::new(entry, NOT_UTF8) } else { wrong_type(entry, "string") })
}

/// The path of an entry, if there is any.
fn file(entry: &Entry) -> Result<Option<PathBuf>, Fault> {
    let path = entry.value.path().ok_or_else(|| wrong_type(entry, "string"))?;
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}

/// The text of an entry, if there is any.
pub(super) fn text(entry: &Entry) -> Result<Option<String>, Fault> {
    string(entry).map(|text| Some(text).filter(|text| !text.is_empty()))
}

fn boolean(entry: &Entry) -> Result<bool, Fault> {
    if let Value::Bool(value) = &entry.value { Ok(*value) } else { Err(wrong_type(entry, "bool")) }
}

/// The whole number of an entry.
pub(super) fn integer(entry: &Entry) -> Result<i64, Fault> {
    if let Value::Integer(value) = &entry.value {
        Ok(*value)
    } else {
        Err(wrong_type(entry, "int64"))
    }
}

fn unsigned(entry: &Entry) -> Result<u64, Fault> {
    integer(entry).map(|value| u64::try_from(value).unwrap_or(0))
}

fn count(entry: &Entry) -> Result<u32, Fault> {
    integer(entry).map(|value| u32::try_from(value.max(0)).unwrap_or(u32::MAX))
}

/// What a core server takes for a payload without a limit (-1): as much as goes over a route.
const PAYLOAD_BYTES_MOST: usize = 64 * 1024 * 1024;

/// A size of at most 2^31 - 1 bytes.
fn small(entry: &Entry) -> Result<usize, Fault> {
    let value = integer(entry)?;
    if value > i64::from(i32::MAX) {
        let key = entry.key.to_lowercase();
        return Err(Fault::new(entry, format!("{key} value is too big")));
    }
    not_negative(entry, value).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
}

/// Compat: with less than nothing the reference starts, and nobody can be served, which ends its
/// streaming server; pinned by `less_than_nothing_is_refused_with_its_place`.
pub(super) fn not_negative(entry: &Entry, value: i64) -> Result<u64, Fault> {
    u64::try_from(value).map_err(|_| {
        let key = entry.key.to_lowercase();
        Fault::new(entry, format!("{key} must not be negative: nobody could be served"))
    })
}
