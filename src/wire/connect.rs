//! The INFO and CONNECT documents.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::wire::json::{self, DocumentError, Kind, Schema};

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
    /// Ours: the group that this server keeps what its clients send for, if it understands the
    /// operations for that.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stanby_ledger: String,
    /// Ours: which of those operations. Members that understand others keep nothing for each other.
    #[serde(skip_serializing_if = "is_zero")]
    pub stanby_ledger_version: u64,
    /// Ours: what has become of an inbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stanby_inbox: Option<InboxNews>,
}

/// Counts the changes of what members of a group tell each other of inputs that they keep.
pub const LEDGER_VERSION: u64 = 3;

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
    pub jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_dynamic: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lnoc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// What a client's CONNECT may have.
const OF_CLIENT: Schema = Schema {
    name: "ClientOpts",
    fields: &[
        ("echo", Kind::Bool),
        ("verbose", Kind::Bool),
        ("pedantic", Kind::Bool),
        ("tls_required", Kind::Bool),
        ("nkey", Kind::Text),
        ("jwt", Kind::Text),
        ("sig", Kind::Text),
        ("auth_token", Kind::Text),
        ("user", Kind::Text),
        ("pass", Kind::Text),
        ("name", Kind::Text),
        ("lang", Kind::Text),
        ("version", Kind::Text),
        ("protocol", Kind::Whole(64, true)),
        ("account", Kind::Text),
        ("new_account", Kind::Bool),
        ("headers", Kind::Bool),
        ("no_responders", Kind::Bool),
        ("import", Kind::Object("SubjectPermission")),
        ("export", Kind::Object("SubjectPermission")),
    ],
};

/// What a route's CONNECT may have; and `lang`, by which a client is told.
const OF_ROUTE: Schema = Schema {
    name: "connectInfo",
    fields: &[
        ("echo", Kind::Bool),
        ("verbose", Kind::Bool),
        ("pedantic", Kind::Bool),
        ("user", Kind::Text),
        ("pass", Kind::Text),
        ("tls_required", Kind::Bool),
        ("headers", Kind::Bool),
        ("name", Kind::Text),
        ("cluster", Kind::Text),
        ("cluster_dynamic", Kind::Bool),
        ("lnoc", Kind::Bool),
        ("gateway", Kind::Text),
        ("lang", Kind::Text),
    ],
};

/// What INFO may have.
const OF_SERVER: Schema = Schema {
    name: "Info",
    fields: &[
        ("server_id", Kind::Text),
        ("server_name", Kind::Text),
        ("version", Kind::Text),
        ("proto", Kind::Whole(64, true)),
        ("git_commit", Kind::Text),
        ("go", Kind::Text),
        ("host", Kind::Text),
        ("port", Kind::Whole(64, true)),
        ("headers", Kind::Bool),
        ("auth_required", Kind::Bool),
        ("tls_required", Kind::Bool),
        ("tls_verify", Kind::Bool),
        ("tls_available", Kind::Bool),
        ("max_payload", Kind::Whole(32, true)),
        ("jetstream", Kind::Bool),
        ("ip", Kind::Text),
        ("client_id", Kind::Whole(64, false)),
        ("client_ip", Kind::Text),
        ("nonce", Kind::Text),
        ("cluster", Kind::Text),
        ("cluster_dynamic", Kind::Bool),
        ("domain", Kind::Text),
        ("connect_urls", Kind::Texts),
        ("ws_connect_urls", Kind::Texts),
        ("ldm", Kind::Bool),
        ("import", Kind::Object("SubjectPermission")),
        ("export", Kind::Object("SubjectPermission")),
        ("lnoc", Kind::Bool),
        ("gateway", Kind::Text),
        ("gateway_url", Kind::Text),
        ("leafnode_urls", Kind::Texts),
        ("route_account", Kind::Text),
        ("stanby_inboxes", Kind::Bool),
        ("stanby_ledger", Kind::Text),
        ("stanby_ledger_version", Kind::Whole(64, false)),
        ("stanby_inbox", Kind::Object("InboxNews")),
    ],
};

impl Info {
    /// Reads the argument of INFO. Unknown fields are ignored.
    ///
    /// # Errors
    /// When it is no JSON object, or a field has another type.
    pub fn decode(json: &[u8]) -> Result<Self, DocumentError> {
        decode(json, &OF_SERVER)
    }

    /// The argument of INFO.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and lists always become JSON")
    }
}

impl Connect {
    /// Reads the argument of a client's CONNECT. Unknown fields are ignored.
    ///
    /// # Errors
    /// When it is no JSON object, or a field has another type.
    pub fn decode(json: &[u8]) -> Result<Self, DocumentError> {
        decode(json, &OF_CLIENT)
    }

    /// Reads the argument of a route's CONNECT, as [`Connect::decode`] that of a client.
    ///
    /// # Errors
    /// When it is no JSON object, or a field has another type.
    pub fn decode_route(json: &[u8]) -> Result<Self, DocumentError> {
        // As the reference, which takes it for a client's before it looks where it came from.
        json::read(json, &OF_CLIENT)?;
        decode(json, &OF_ROUTE)
    }

    /// The argument of CONNECT.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and flags always become JSON")
    }
}

/// Compat: as Go reads JSON; pinned by `tests::documents_are_read_as_go_reads_them`.
fn decode<T: for<'de> Deserialize<'de>>(json: &[u8], schema: &Schema) -> Result<T, DocumentError> {
    let fields = json::read(json, schema)?;
    serde_json::from_value(Value::Object(fields)).map_err(|error| DocumentError(error.to_string()))
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
