//! The INFO and CONNECT documents.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// INFO of a server, to clients (spec core NATS, 2.3) and to routes (10.3), in the order of the
/// reference; what is zero is left out where the reference leaves it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub struct Info {
    pub server_id: String,
    pub server_name: String,
    pub version: String,
    pub proto: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub git_commit: String,
    pub go: String,
    pub host: String,
    pub port: i64,
    pub headers: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub auth_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_verify: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tls_available: bool,
    pub max_payload: i64,
    #[serde(skip_serializing_if = "is_false")]
    pub jetstream: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub client_id: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_ip: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nonce: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    #[serde(skip_serializing_if = "is_false")]
    pub cluster_dynamic: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub connect_urls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub ws_connect_urls: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub ldm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<SubjectLists>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<SubjectLists>,
    #[serde(skip_serializing_if = "is_false")]
    pub lnoc: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_url: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub leafnode_urls: Vec<String>,
    /// The account that a connection is for, where a newer peer wants one of its own for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route_account: String,
    /// Ours: whether this server wants to be told of inboxes. Others pass over it.
    #[serde(skip_serializing_if = "is_false")]
    pub stanby_inboxes: bool,
    /// Ours: what has become of an inbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stanby_inbox: Option<InboxNews>,
}

/// The name of the account of everybody who is given no other.
pub const GLOBAL_ACCOUNT: &str = "$G";

/// What stanby servers tell each other of an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxNews {
    /// The account; said where it is not the one of everybody.
    #[serde(default = "global_account", skip_serializing_if = "is_global_account")]
    pub account: String,
    /// The subject.
    pub subject: String,
    /// What there is to tell.
    pub state: InboxState,
}

/// What there is to tell of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InboxState {
    /// From who delivers to who reads: it is held back when it is said to be full.
    Paced,
    /// From who reads to who delivers: there is no room.
    Full,
    /// There is room again.
    Free,
}

/// Permissions of a route as INFO shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectLists {
    /// What is allowed; everything if there is no list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// What is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
}

/// CONNECT of a client (spec core NATS, 2.4) or a route (10.3). Every field may be missing: a
/// later CONNECT changes only what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the protocol")]
pub struct Connect {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbose: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pedantic: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_responders: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_account: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_dynamic: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lnoc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// A document that is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DocumentError(#[from] serde_json::Error);

impl Info {
    /// Reads the argument of INFO. Unknown fields are ignored.
    ///
    /// # Errors
    /// When it is no JSON object, or a field has another type.
    pub fn decode(json: &[u8]) -> Result<Self, DocumentError> {
        decode(json)
    }

    /// The argument of INFO.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and lists always become JSON")
    }
}

impl Connect {
    /// Reads the argument of CONNECT. Unknown fields are ignored.
    ///
    /// # Errors
    /// When it is no JSON object, or a field has another type.
    pub fn decode(json: &[u8]) -> Result<Self, DocumentError> {
        decode(json)
    }

    /// The argument of CONNECT.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and flags always become JSON")
    }
}

/// Compat: as Go reads JSON, bytes that are not UTF-8 are replaced, `null` changes nothing, keys
/// may be in any letter case, and of a repeated key the last one counts; pinned by
/// `tests::documents_are_read_as_go_reads_them`.
fn decode<T: for<'de> Deserialize<'de>>(json: &[u8]) -> Result<T, DocumentError> {
    let written: Map<String, Value> = serde_json::from_str(&String::from_utf8_lossy(json))?;
    let fields = written.into_iter().filter(|(_, value)| !value.is_null());
    let known: Map<String, Value> =
        fields.map(|(key, value)| (key.to_ascii_lowercase(), value)).collect();
    Ok(serde_json::from_value(Value::Object(known))?)
}

/// `null` for a list means none.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn global_account() -> String {
    GLOBAL_ACCOUNT.to_owned()
}

fn is_global_account(name: &str) -> bool {
    name == GLOBAL_ACCOUNT
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
