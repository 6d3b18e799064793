//! Users, passwords, tokens and permissions of a configuration file
//!
//! Facts: spec core NATS, 7.6 and 16.5. Nothing here is ignored: an access rule that is not
//! understood stops the start.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::go::{self, quote};
use crate::base::subject;
use crate::config::core_keys::{Fault, Reader, integer, map, not_negative, string, text};
use crate::config::tree::{Entry, Item, Map, Value};
use crate::config::{PageUser, Permissions, ResponseRule, SubjectRules, User};

const CONNECTION_TYPES: [&str; 6] =
    ["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS"];

/// Answers that `allow_responses` grants without numbers.
const RESPONSE_DEFAULT: ResponseRule =
    ResponseRule { count_max: Some(1), ttl: Some(Duration::from_secs(120)) };

/// An `authorization` block as read.
#[derive(Default)]
struct Block {
    username: Option<String>,
    password: Option<String>,
    token: Option<String>,
    timeout: Option<Duration>,
    users: Option<Vec<User>>,
    default_permissions: Option<Permissions>,
}

/// The block of clients.
pub(super) fn authorization(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let mut block = read(reader, entry)?;
    let has_user = block.username.is_some() || block.password.is_some();
    if has_user && block.token.is_some() {
        return Err(Fault::new(entry, "Cannot have a user/pass and token"));
    }
    let mut users = block.users.take().unwrap_or_default();
    if !users.is_empty() {
        if block.username.is_some() {
            return Err(Fault::new(entry, "Can not have a single user/pass and a users array"));
        }
        if block.token.is_some() {
            return Err(Fault::new(entry, "Can not have a token and a users array"));
        }
    }
    let mut names = BTreeSet::new();
    for user in &mut users {
        if !names.insert(user.name.clone()) {
            let name = quote(&user.name);
            return Err(Fault::new(entry, format!("Duplicate user {name} detected")));
        }
        if user.permissions.is_none() {
            user.permissions.clone_from(&block.default_permissions);
        }
    }
    let auth = &mut reader.draft.config.core.auth;
    auth.username = block.username;
    auth.password = block.password;
    auth.token = block.token;
    auth.users = users;
    reader.draft.auth_timeout = block.timeout;
    Ok(())
}

/// Who may see messages on the dashboard. A block that names nobody is refused: whoever wrote it
/// wanted to let somebody see them.
pub(super) fn dashboard(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let mut user = PageUser::default();
    for inner in map(entry)? {
        match inner.key.to_lowercase().as_str() {
            "user" | "username" => user.name = string(inner)?,
            "pass" | "password" => user.password = string(inner)?,
            _ => reader.note(Fault::unknown(inner)),
        }
    }
    if user.name.is_empty() || user.password.is_empty() || user.name.contains(':') {
        let text = "dashboard needs a user (without a colon) and a password";
        return Err(Fault::new(entry, text));
    }
    reader.draft.config.monitor.viewer = Some(user);
    Ok(())
}

/// The block of routes.
pub(super) fn cluster_authorization(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let block = read(reader, entry)?;
    if block.users.is_some() {
        return Err(Fault::new(entry, "Cluster authorization does not allow multiple users"));
    }
    if block.token.is_some() {
        return Err(Fault::new(entry, "Cluster authorization does not support tokens"));
    }
    let cluster = &mut reader.draft.cluster;
    cluster.username = block.username;
    cluster.password = block.password;
    if let Some(permissions) = block.default_permissions {
        cluster.permissions = Some(without_responses(entry, permissions)?);
    }
    reader.draft.cluster_auth_timeout = block.timeout;
    Ok(())
}

/// What routes import and export.
pub(super) fn cluster_permissions(reader: &mut Reader<'_>, entry: &Entry) -> Result<(), Fault> {
    let permissions = without_responses(entry, permissions(entry)?)?;
    reader.draft.cluster.permissions = Some(permissions);
    Ok(())
}

fn without_responses(entry: &Entry, permissions: Permissions) -> Result<Permissions, Fault> {
    if permissions.responses.is_some() {
        return Err(Fault::new(entry, "Cluster permissions do not support dynamic responses"));
    }
    Ok(permissions)
}

fn read(reader: &mut Reader<'_>, entry: &Entry) -> Result<Block, Fault> {
    let mut block = Block::default();
    for inner in map(entry)? {
        match inner.key.to_lowercase().as_str() {
            "user" | "username" => block.username = text(inner)?,
            "pass" | "password" => block.password = text(inner)?,
            "token" => block.token = text(inner)?,
            "timeout" => block.timeout = Some(timeout(inner)?),
            "users" => block.users = Some(users(reader, inner)?),
            "default_permission" | "default_permissions" | "permissions" => {
                block.default_permissions = Some(permissions(inner)?);
            }
            _ => reader.note(Fault::unknown(inner)),
        }
    }
    Ok(block)
}

/// Compat: a time-out that is no number counts as one second; pinned by
/// `a_timeout_that_is_no_number_is_one_second`.
fn timeout(entry: &Entry) -> Result<Duration, Fault> {
    let one = Duration::from_secs(1);
    Ok(match &entry.value {
        Value::Integer(seconds) => Duration::from_secs(not_negative(entry, *seconds)?),
        Value::Float(seconds) if *seconds < 0.0 => Duration::from_secs(not_negative(entry, -1)?),
        Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).unwrap_or(one),
        Value::String(_)
        | Value::Bytes(_)
        | Value::Bool(_)
        | Value::Date(_)
        | Value::Array(_)
        | Value::Map(_) => one,
    })
}

fn users(reader: &mut Reader<'_>, entry: &Entry) -> Result<Vec<User>, Fault> {
    let Value::Array(items) = &entry.value else {
        let value = &entry.value;
        return Err(Fault::new(entry, format!("Expected users field to be an array, got {value}")));
    };
    items.iter().map(|item| user(reader, item)).collect()
}

fn user(reader: &mut Reader<'_>, item: &Item) -> Result<User, Fault> {
    let fault = |text: String| Fault { at: item.at.clone(), text };
    let Value::Map(map) = &item.value else {
        let value = &item.value;
        return Err(fault(format!("Expected user entry to be a map/struct, got {value}")));
    };
    let mut user = User::default();
    for entry in map {
        match entry.key.to_lowercase().as_str() {
            "user" | "username" => user.name = string(entry)?,
            "pass" | "password" => user.password = string(entry)?,
            "permission" | "permissions" | "authorization" => {
                user.permissions = Some(permissions(entry)?);
            }
            "allowed_connection_types" | "connection_types" | "clients" => {
                user.connection_types = connection_types(entry)?;
            }
            "nkey" => return Err(Fault::unsupported(entry)),
            _ => reader.note(Fault::unknown(entry)),
        }
    }
    if user.name.is_empty() {
        // Compat: the reference points at what it read last.
        let at = map.iter().next_back().map_or(&item.at, |entry| &entry.at).clone();
        return Err(Fault { at, text: "User entry requires a user".to_owned() });
    }
    Ok(user)
}

fn connection_types(entry: &Entry) -> Result<BTreeSet<String>, Fault> {
    let mut types = BTreeSet::new();
    for value in one_or_more(&entry.value) {
        let Value::String(text) = value else {
            let have = value.type_name();
            let text = format!("error parsing allowed connection types: unsupported type {have}");
            return Err(Fault::new(entry, text));
        };
        let name = text.to_uppercase();
        if !CONNECTION_TYPES.contains(&name.as_str()) {
            let text = format!("invalid connection types [{}]", quote(&name));
            return Err(Fault::new(entry, text));
        }
        types.insert(name);
    }
    Ok(types)
}

fn one_or_more(value: &Value) -> Vec<&Value> {
    if let Value::Array(items) = value {
        items.iter().map(|item| &item.value).collect()
    } else {
        vec![value]
    }
}

fn permissions(entry: &Entry) -> Result<Permissions, Fault> {
    let Value::Map(map) = &entry.value else {
        let value = &entry.value;
        return Err(Fault::new(
            entry,
            format!("Expected permissions to be a map/struct, got {value}"),
        ));
    };
    let mut permissions = Permissions::default();
    for inner in map {
        match inner.key.to_lowercase().as_str() {
            "pub" | "publish" | "import" => permissions.publish = rules(inner)?,
            "sub" | "subscribe" | "export" => permissions.subscribe = rules(inner)?,
            "allow_responses" | "publish_allow_responses" => {
                permissions.responses = responses(inner)?;
            }
            _ => return Err(unknown_permission(inner)),
        }
    }
    if permissions.responses.is_some() && permissions.publish.allow.is_none() {
        // Only answers, unless something else is allowed too.
        permissions.publish.allow = Some(Vec::new());
    }
    Ok(permissions)
}

fn unknown_permission(entry: &Entry) -> Fault {
    Fault::new(entry, format!("Unknown field {} parsing permissions", quote(&entry.key)))
}

fn rules(entry: &Entry) -> Result<SubjectRules, Fault> {
    let Value::Map(map) = &entry.value else {
        let allow = subjects(&entry.value).map_err(|text| Fault::new(entry, text))?;
        return Ok(SubjectRules { allow: unless_empty(allow), deny: Vec::new() });
    };
    rules_of_map(map)
}

// Compat: a list that is empty allows everything, as if it were not there; only `allow_responses`
// by itself forbids all but answers.
fn unless_empty(allow: Vec<String>) -> Option<Vec<String>> {
    (!allow.is_empty()).then_some(allow)
}

fn rules_of_map(map: &Map) -> Result<SubjectRules, Fault> {
    let mut rules = SubjectRules::default();
    for entry in map {
        let subjects = || subjects(&entry.value).map_err(|text| Fault::new(entry, text));
        match entry.key.to_lowercase().as_str() {
            "allow" => rules.allow = unless_empty(subjects()?),
            "deny" => rules.deny = subjects()?,
            _ => {
                let key = quote(&entry.key);
                return Err(Fault::new(
                    entry,
                    format!(
                        "Unknown field name {key} parsing subject permissions, only 'allow' or \
                         'deny' are permitted"
                    ),
                ));
            }
        }
    }
    Ok(rules)
}

fn subjects(value: &Value) -> Result<Vec<String>, String> {
    if !matches!(value, Value::String(_) | Value::Array(_)) {
        let have = value.type_name();
        return Err(format!(
            "Expected subject permissions to be a subject, or array of subjects, got {have}"
        ));
    }
    let mut subjects = Vec::new();
    for value in one_or_more(value) {
        let Value::String(text) = value else {
            return Err("Subject in permissions array cannot be cast to string".to_owned());
        };
        let mut words = text.split_whitespace();
        let is_subject = words.next().is_some_and(|word| subject::is_valid(word.as_bytes()));
        let is_queue = words.next().is_none_or(|word| subject::is_valid(word.as_bytes()));
        if !is_subject || !is_queue || words.next().is_some() {
            return Err(format!("subject {} is not a valid subject", quote(text)));
        }
        subjects.push(text.clone());
    }
    Ok(subjects)
}

fn responses(entry: &Entry) -> Result<Option<ResponseRule>, Fault> {
    if let Value::Bool(is_on) = &entry.value {
        return Ok(is_on.then_some(RESPONSE_DEFAULT));
    }
    let Value::Map(map) = &entry.value else {
        let text = "error parsing response permissions, expected a boolean or a map";
        return Err(Fault::new(entry, text));
    };
    let mut rule = RESPONSE_DEFAULT;
    for inner in map {
        match inner.key.to_lowercase().as_str() {
            "max" | "max_msgs" | "max_messages" | "max_responses" => match integer(inner)? {
                0 => {}
                value => rule.count_max = u64::try_from(value).ok(),
            },
            "expires" | "expiration" | "ttl" => match expires(inner)? {
                0 => {}
                value => rule.ttl = u64::try_from(value).ok().map(Duration::from_nanos),
            },
            _ => return Err(unknown_permission(inner)),
        }
    }
    Ok(Some(rule))
}

fn expires(entry: &Entry) -> Result<i64, Fault> {
    let Value::String(text) = &entry.value else {
        return Err(Fault::new(entry, "error parsing expires, not a duration string"));
    };
    go::duration(text).map_err(|error| Fault::new(entry, format!("error parsing expires: {error}")))
}
