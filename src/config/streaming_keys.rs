//! The streaming half of a configuration file: keys, aliases, types
//!
//! Facts: spec configuration, 3.1 to 3.9. Keys have no case. Unknown ones are ignored, as by the
//! reference, but never in silence: a store that is not what was written costs data. Those that the
//! reference knows and we do not support yet stop the start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::channel_limits::ChannelOverrides;
use crate::base::delivery_policy::PolicyOverrides;
use crate::base::encryption::Secret;
use crate::base::go;
use crate::base::id::ChannelName;
use crate::base::subject;
use crate::config::core_keys::{self, Fault, NOT_UTF8};
use crate::config::draft::{Draft, control_place};
use crate::config::nearest::nearest;
use crate::config::options::IMPORT_HINT;
use crate::config::policy_keys;
use crate::config::tree::{Entry, Item, Map, Value};
use crate::config::{ControlPlace, StoreKind};

/// Applies one entry.
type Apply = fn(&mut Draft, &Entry) -> Result<(), Fault>;

/// A map and all that it may have.
struct Section {
    /// As files name it.
    name: &'static str,
    keys: &'static [(&'static str, Apply)],
}

impl Section {
    fn find(&self, key: &str) -> Option<&'static (&'static str, Apply)> {
        let has_name = |names: &str| names.split(' ').any(|name| name == key);
        self.keys.iter().find(|(names, _)| has_name(names))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().flat_map(|(names, _)| names.split(' '))
    }
}

static TOP: Section = Section { name: "streaming", keys: TOP_KEYS };
static TLS: Section = Section { name: "tls", keys: TLS_KEYS };
static LIMITS: Section = Section { name: "store_limits", keys: LIMITS_KEYS };
static FILE: Section = Section { name: "file_options", keys: FILE_KEYS };
static SQL: Section = Section { name: "sql_options", keys: SQL_KEYS };

/// Where a key may belong that stands in another map.
static SECTIONS: [&Section; 5] = [&TOP, &LIMITS, &FILE, &SQL, &TLS];

/// The names of the keys of a map.
#[cfg(test)]
pub(super) fn names(map: &str) -> Vec<&'static str> {
    SECTIONS.iter().filter(|section| section.name == map).flat_map(|it| it.names()).collect()
}

/// Keys of the limits of one channel.
const CHANNEL_KEYS: &str = "msu max_subs max_subscriptions maxsubscriptions mm max_msgs maxmsgs \
     max_count maxcount mb max_bytes maxbytes ma max_age maxage mi max_inactivity maxinactivity";

/// Keys of the streaming map.
const TOP_KEYS: &[(&str, Apply)] = &[
    ("id cid cluster_id", |d, e| set(&mut d.config.streaming.cluster_id, string(e))),
    ("discover_prefix", |d, e| set(&mut d.config.streaming.discover_prefix, string(e))),
    ("store st store_type storetype", store),
    ("dir datastore", |d, e| {
        let directory = file(e)?;
        if directory.is_some() {
            ask_for(d, StoreKind::File, e);
        }
        d.config.streaming.directory = directory;
        Ok(())
    }),
    ("sd stan_debug", |d, e| set(&mut d.config.log.streaming.debug, boolean(e))),
    ("sv stan_trace", |d, e| set(&mut d.config.log.streaming.trace, boolean(e))),
    ("ns nats_server nats_server_url", |d, e| set(&mut d.nats_servers, string(e))),
    ("secure", |d, e| set(&mut d.config.streaming.client_tls.secure, boolean(e))),
    ("tls", |d, e| section(d, map(e, "TLS")?, &TLS)),
    ("limits store_limits storelimits", |d, e| section(d, map(e, "store limits")?, &LIMITS)),
    ("file file_options", |d, e| {
        ask_for(d, StoreKind::File, e);
        section(d, map(e, "file options")?, &FILE)
    }),
    ("sql sql_options", |d, e| {
        ask_for(d, StoreKind::Sql, e);
        section(d, map(e, "SQL options")?, &SQL)
    }),
    ("cluster", |_, e| map(e, "cluster").and_then(|_| refuse_cluster(e))),
    ("hbi hb_interval server_to_client_hb_interval", |d, e| {
        set(&mut d.config.streaming.heartbeat_interval, duration(e))
    }),
    ("hbt hb_timeout server_to_client_hb_timeout", |d, e| {
        set(&mut d.config.streaming.heartbeat_timeout, duration(e))
    }),
    ("hbf hb_fail_count server_to_client_hb_fail_count", |d, e| {
        let count = integer(e).map(|n| u32::try_from(n.max(0)).unwrap_or(u32::MAX));
        set(&mut d.config.streaming.heartbeat_failures_max, count)
    }),
    ("ft_group ft_group_name", |d, e| {
        let group = string(e).map(|text| Some(text).filter(|text| !text.is_empty()));
        set(&mut d.config.streaming.ft_group, group)
    }),
    ("ft_steal_after", |d, e| set(&mut d.steal_after, nanos(e))),
    ("control_socket", |d, e| set(&mut d.config.streaming.control, control(e))),
    ("administrators", |d, e| {
        set(&mut d.config.streaming.administrators, strings(e).map(BTreeSet::from_iter))
    }),
    ("loops", |d, e| set(&mut d.loops, integer(e).map(Some))),
    ("partitioning", |d, e| set(&mut d.config.streaming.partitioning, boolean(e))),
    ("encrypt", |d, e| set(&mut d.encryption.is_asked, boolean(e))),
    ("encryption_cipher", |d, e| set(&mut d.encryption.cipher, string(e))),
    ("encryption_key", |d, e| {
        d.encryption.key = Some(secret(e)?);
        d.encryption.is_asked = true;
        Ok(())
    }),
    ("replace_durable replace_durables replace_duplicate_durable replace_duplicate_durables", {
        |d, e| set(&mut d.config.streaming.replace_durable, boolean(e))
    }),
    // Only connections to an external server use these; inside one process there are none.
    ("credentials", |d, e| set(&mut d.external.credentials_file, file(e))),
    ("username user", |d, e| set(&mut d.external.username, string(e))),
    ("password pass", |d, e| set(&mut d.external.password, string(e))),
    ("token", |d, e| set(&mut d.external.token, string(e))),
    ("nkey_seed_file", |d, e| set(&mut d.config.streaming.nkey_seed_file, file(e))),
    ("syslog_name", only_text),
];

/// Keys of `tls`: the streaming server as a client.
const TLS_KEYS: &[(&str, Apply)] = &[
    ("client_cert", |d, e| set(&mut d.config.streaming.client_tls.cert_file, file(e))),
    ("client_key", |d, e| set(&mut d.config.streaming.client_tls.key_file, file(e))),
    ("client_ca client_cacert", |d, e| set(&mut d.config.streaming.client_tls.ca_file, file(e))),
    ("server_name server_hostname", |d, e| {
        let name = string(e).map(|name| Some(name).filter(|name| !name.is_empty()));
        set(&mut d.config.streaming.client_tls.server_name, name)
    }),
    ("skip_verify insecure", |d, e| {
        set(&mut d.config.streaming.client_tls.skip_verify, boolean(e))
    }),
];

/// Keys of `store_limits`.
const LIMITS_KEYS: &[(&str, Apply)] = &[
    ("mc max_channels maxchannels", |d, e| set(&mut d.limits.channels, integer(e))),
    ("channels channels_limits channelslimits per_channel per_channel_limits", per_channel),
    ("msu max_subs max_subscriptions maxsubscriptions", |d, e| {
        set(&mut d.limits.subscriptions, integer(e))
    }),
    ("mm max_msgs maxmsgs max_count maxcount", |d, e| set(&mut d.limits.messages, integer(e))),
    ("mb max_bytes maxbytes", |d, e| set(&mut d.limits.bytes, integer(e))),
    ("ma max_age maxage", |d, e| set(&mut d.limits.age, nanos(e))),
    ("mi max_inactivity maxinactivity", |d, e| set(&mut d.limits.inactivity, nanos(e))),
    ("max_deliveries", policy),
    ("dead_letter", policy),
    ("back_off", policy),
    ("max_redelivered_in_flight", policy),
    ("ttl", policy),
    ("dedup_window", policy),
];

/// Keys of `file`.
const FILE_KEYS: &[(&str, Apply)] = &[
    ("compact compact_enabled", |d, e| {
        set(&mut d.config.streaming.file.compact_enabled, boolean(e))
    }),
    ("compact_frag compact_fragmentation", |d, e| {
        set(&mut d.file.compact_fragmentation, integer(e))
    }),
    ("compact_interval", |d, e| set(&mut d.file.compact_interval, integer(e))),
    ("compact_min_size", |d, e| set(&mut d.file.compact_bytes_min, integer(e))),
    ("buffer_size", |d, e| set(&mut d.file.buffer_bytes, integer(e))),
    ("crc do_crc", |d, e| set(&mut d.config.streaming.file.crc, boolean(e))),
    ("crc_poly", |d, e| set(&mut d.file.crc_polynomial, integer(e))),
    ("sync do_sync sync_on_flush", |d, e| set(&mut d.config.streaming.file.sync, boolean(e))),
    ("slice_max_msgs slice_max_count slice_msgs slice_count", |d, e| {
        set(&mut d.file.slice_messages_max, integer(e))
    }),
    ("slice_max_bytes slice_max_size slice_bytes slice_size", |d, e| {
        set(&mut d.file.slice_bytes_max, integer(e))
    }),
    ("slice_max_age slice_age slice_max_time slice_time_limit", |d, e| {
        set(&mut d.file.slice_age_max, nanos(e))
    }),
    ("slice_archive_script slice_archive slice_script", |d, e| {
        set(&mut d.config.streaming.file.slice_archive_script, file(e))
    }),
    ("file_descriptors_limit fds_limit", |d, e| set(&mut d.file.descriptors_max, integer(e))),
    ("parallel_recovery", |d, e| set(&mut d.file.parallel_recovery, integer(e))),
    ("file_read_buffer_size read_buffer_size", |d, e| {
        set(&mut d.file.read_buffer_bytes, integer(e))
    }),
    ("file_auto_sync auto_sync", |d, e| set(&mut d.file.auto_sync, nanos(e))),
];

/// Keys of `sql`.
const SQL_KEYS: &[(&str, Apply)] = &[
    ("driver", |d, e| set(&mut d.config.streaming.sql.driver, string(e))),
    ("source", |d, e| set(&mut d.config.streaming.sql.source, string(e))),
    ("no_caching", |d, e| set(&mut d.config.streaming.sql.no_caching, boolean(e))),
    ("max_open_conns max_conns", |d, e| {
        set(&mut d.config.streaming.sql.connections_max, integer(e).map(positive))
    }),
    ("bulk_insert_limit", |d, e| {
        set(&mut d.config.streaming.sql.bulk_insert_limit, integer(e).map(positive))
    }),
];

fn positive(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// Keys of a core `cluster` block, by which a shared top level is told from streaming clustering.
const CORE_CLUSTER_KEYS: &str = "name listen port host net authorization routes tls \
     cluster_advertise advertise no_advertise connect_retries permissions";

/// Applies what a file says about the streaming server.
///
/// Unlike the reference, a `cluster` block at the top level of a file without a `streaming` block
/// is the core server's if it has only the core server's keys.
///
/// # Errors
/// The first thing that is wrong, in the reference's words, behind the place where it stands.
pub fn apply(draft: &mut Draft, file: &Map) -> Result<(), String> {
    apply_file(draft, file).map_err(|fault| fault.show())
}

fn apply_file(draft: &mut Draft, file: &Map) -> Result<(), Fault> {
    if let Some(entry) = block(file) {
        return section(draft, map(entry, "streaming section")?, &TOP);
    }
    for entry in file {
        let key = entry.key.to_lowercase();
        if key == "cluster" && is_core_cluster(&entry.value) {
            continue;
        }
        // What no half knows is named for the whole file, and the core half names what it misses
        // in maps that are its own too.
        let known = draft.config.warnings.len();
        if let Some((names, apply)) = TOP.find(&key) {
            draft.config.places.note(TOP.name, names, &entry.at);
            apply(draft, entry)?;
        }
        if core_keys::is_known(&key) {
            draft.config.warnings.truncate(known);
        }
    }
    Ok(())
}

/// The streaming server's own block of a file; all of the file where there is none.
fn block(file: &Map) -> Option<&Entry> {
    file.iter().rev().find(|entry| entry.key.eq_ignore_ascii_case("streaming"))
}

/// Warns of what stands at the top level of a file, and means nothing there to either half.
pub fn warn_of_unknown(draft: &mut Draft, file: &Map) {
    let has_block = block(file).is_some();
    for entry in file {
        let key = entry.key.to_lowercase();
        let is_own = key == "streaming" || (!has_block && TOP.find(&key).is_some());
        if !is_own && !core_keys::is_known(&key) && !entry.is_variable.get() {
            let own = TOP.names().filter(|_| !has_block);
            let known: Vec<&str> = core_keys::names().chain(["streaming"]).chain(own).collect();
            draft.config.warnings.push(unknown(entry, "at the top level", &known));
        }
    }
}

/// What a warning says of a key that nobody knows where it stands.
fn unknown(entry: &Entry, place: &str, known: &[&str]) -> String {
    let key = entry.key.to_lowercase();
    let home = |key: &str| SECTIONS.iter().find(|section| section.find(key).is_some());
    let hint = if let Some(section) = home(&key) {
        format!("; it belongs into \"{}\"", section.name)
    } else if core_keys::is_known(&key) {
        "; it belongs to the top level of the file".to_owned()
    } else if let Some(name) = nearest(&key, known.iter().copied()) {
        format!("; the nearest known one is \"{name}\"")
    } else {
        let all = SECTIONS.iter().flat_map(|section| section.names());
        nearest(&key, all).map_or_else(String::new, |name| {
            let home = home(name).map_or("", |section| section.name);
            format!("; the nearest known one is \"{name}\", which belongs into \"{home}\"")
        })
    };
    format!("{}: unknown field {} {place} is ignored{hint}", entry.at, go::quote(&entry.key))
}

fn is_core_cluster(value: &Value) -> bool {
    let Value::Map(map) = value else { return false };
    map.iter().all(|entry| {
        let key = entry.key.to_lowercase();
        CORE_CLUSTER_KEYS.split_whitespace().any(|known| known == key)
    })
}

fn section(draft: &mut Draft, map: &Map, section: &Section) -> Result<(), Fault> {
    let mut given: Vec<(&str, &Entry)> = Vec::new();
    for entry in map {
        match section.find(&entry.key.to_lowercase()) {
            Some((names, apply)) => {
                draft.config.places.note(section.name, names, &entry.at);
                apply(draft, entry)?;
                let earlier = given.iter().find(|(known, _)| known == names);
                if let Some((_, earlier)) = earlier {
                    // With the reference it is chance which one of both counts.
                    draft.config.warnings.push(format!(
                        "{}: field {} sets what {} at {} has set",
                        entry.at,
                        go::quote(&entry.key),
                        go::quote(&earlier.key),
                        earlier.at,
                    ));
                }
                given.push((names, entry));
            }
            None if entry.is_variable.get() => {}
            None => {
                let known: Vec<&str> = section.names().collect();
                let place = format!("in \"{}\"", section.name);
                draft.config.warnings.push(unknown(entry, &place, &known));
            }
        }
    }
    Ok(())
}

fn set<T>(field: &mut T, value: Result<T, Fault>) -> Result<(), Fault> {
    *field = value?;
    Ok(())
}

fn ask_for(draft: &mut Draft, store: StoreKind, entry: &Entry) {
    draft.asked_for.push((store, format!("{}: field {}", entry.at, go::quote(&entry.key))));
}

fn store(draft: &mut Draft, entry: &Entry) -> Result<(), Fault> {
    let name = string(entry)?;
    match name.to_uppercase().as_str() {
        "MEMORY" | "FILE" | "SQL" => {
            draft.store = name;
            Ok(())
        }
        "RAFT" => Err(Fault::new(entry, "store type RAFT is not supported by stanby yet")),
        _ => Err(Fault::new(entry, format!("unknown store type: {name}"))),
    }
}

fn per_channel(draft: &mut Draft, entry: &Entry) -> Result<(), Fault> {
    for channel in map(entry, "per channel limits")? {
        let limits = map(channel, "channel limits")?;
        // What was no UTF-8 would limit some other channel.
        let is_text = !channel.key.contains(char::REPLACEMENT_CHARACTER);
        if !is_text || !subject::is_channel_pattern(channel.key.as_bytes()) {
            let text = format!("invalid channel name {}", go::quote(&channel.key));
            return Err(Fault::new(channel, text));
        }
        let mut policy = PolicyOverrides::default();
        let overrides = overrides(draft, &mut policy, limits)?;
        let name = ChannelName::from(channel.key.as_str());
        let limits = &mut draft.config.streaming.limits;
        if !policy.is_empty() {
            limits.policies.per_channel.insert(name.clone(), policy);
        }
        limits.per_channel.insert(name, overrides);
    }
    Ok(())
}

/// An explicit 0 or less means "no limit"; a key that is absent inherits.
fn overrides(
    draft: &mut Draft,
    policy: &mut PolicyOverrides,
    map: &Map,
) -> Result<ChannelOverrides, Fault> {
    let count = |entry| integer(entry).map(|value| Some(u64::try_from(value).unwrap_or(0)));
    let mut overrides = ChannelOverrides::default();
    for entry in map {
        match entry.key.to_lowercase().as_str() {
            "msu" | "max_subs" | "max_subscriptions" | "maxsubscriptions" => {
                overrides.subscriptions_max = count(entry)?;
            }
            "mm" | "max_msgs" | "maxmsgs" | "max_count" | "maxcount" => {
                overrides.messages_max = count(entry)?;
            }
            "mb" | "max_bytes" | "maxbytes" => overrides.bytes_max = count(entry)?,
            "ma" | "max_age" | "maxage" => overrides.age_max = Some(duration(entry)?),
            "mi" | "max_inactivity" | "maxinactivity" => {
                overrides.inactivity_max = Some(duration(entry)?);
            }
            _ if policy_keys::take(policy, entry)? || entry.is_variable.get() => {}
            _ => {
                let known = CHANNEL_KEYS.split_whitespace();
                let known: Vec<&str> = known.chain(policy_keys::KEYS.split(' ')).collect();
                let text = unknown(entry, "in the limits of a channel", &known);
                draft.config.warnings.push(text);
            }
        }
    }
    Ok(overrides)
}

/// What becomes of messages that nobody acknowledges, in all channels.
fn policy(draft: &mut Draft, entry: &Entry) -> Result<(), Fault> {
    policy_keys::take(&mut draft.config.streaming.limits.policies.global, entry).map(drop)
}

/// A path, or `off`, which without quotes is no text in the language of the file.
fn control(entry: &Entry) -> Result<ControlPlace, Fault> {
    match entry.value {
        Value::Bool(false) => return Ok(ControlPlace::Nowhere),
        Value::Bool(true) => {
            let text = "control_socket is a path or off; leave it out for the usual folders";
            return Err(Fault::new(entry, text));
        }
        Value::String(_)
        | Value::Bytes(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Date(_)
        | Value::Array(_)
        | Value::Map(_) => (),
    }
    string(entry).map(|text| control_place(&text))
}

fn refuse_cluster(entry: &Entry) -> Result<(), Fault> {
    let Fault { at, text } = Fault::unsupported(entry);
    Err(Fault { at, text: text + IMPORT_HINT })
}

fn only_text(_draft: &mut Draft, entry: &Entry) -> Result<(), Fault> {
    string(entry).map(|_| ())
}

fn wrong_type(entry: &Entry, wanted: &str) -> Fault {
    let (key, have) = (&entry.key, entry.value.kind());
    Fault::new(entry, format!("parameter \"{key}\" value is expected to be {wanted}, got {have}"))
}

fn map<'a>(entry: &'a Entry, what: &str) -> Result<&'a Map, Fault> {
    if let Value::Map(map) = &entry.value {
        Ok(map)
    } else {
        let value = &entry.value;
        Err(Fault::new(entry, format!("expected {what} to be a map/struct, got {value}")))
    }
}

fn string(entry: &Entry) -> Result<String, Fault> {
    if let Value::String(text) = &entry.value {
        return Ok(text.clone());
    }
    let is_bytes = matches!(entry.value, Value::Bytes(_));
    Err(if is_bytes { Fault::new(entry, NOT_UTF8) } else { wrong_type(entry, "string") })
}

/// A list of texts; one alone may stand without brackets.
fn strings(entry: &Entry) -> Result<Vec<String>, Fault> {
    let Value::Array(items) = &entry.value else { return Ok(vec![string(entry)?]) };
    let text = |item: &Item| {
        let Value::String(text) = &item.value else {
            let have = item.value.type_name();
            return Err(Fault::new(entry, format!("expected names of users, got {have}")));
        };
        Ok(text.clone())
    };
    items.iter().map(text).collect()
}

/// The path of an entry, if there is any.
fn file(entry: &Entry) -> Result<Option<PathBuf>, Fault> {
    let path = entry.value.path().ok_or_else(|| wrong_type(entry, "string"))?;
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}

/// Any bytes.
fn secret(entry: &Entry) -> Result<Secret, Fault> {
    match &entry.value {
        Value::String(text) => Ok(Secret::new(text.clone().into_bytes())),
        Value::Bytes(bytes) => Ok(Secret::new(bytes.clone())),
        Value::Bool(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Date(_)
        | Value::Array(_)
        | Value::Map(_) => Err(wrong_type(entry, "string")),
    }
}

fn boolean(entry: &Entry) -> Result<bool, Fault> {
    if let Value::Bool(value) = &entry.value { Ok(*value) } else { Err(wrong_type(entry, "bool")) }
}

fn integer(entry: &Entry) -> Result<i64, Fault> {
    if let Value::Integer(value) = &entry.value {
        Ok(*value)
    } else {
        Err(wrong_type(entry, "int64"))
    }
}

fn nanos(entry: &Entry) -> Result<i64, Fault> {
    go::duration(&string(entry)?).map_err(|text| Fault::new(entry, text))
}

fn duration(entry: &Entry) -> Result<Duration, Fault> {
    Ok(Duration::from_nanos(u64::try_from(nanos(entry)?).unwrap_or(0)))
}
