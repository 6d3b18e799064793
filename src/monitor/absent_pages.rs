//! gatewayz, leafz, jsz, accstatz: pages about parts that this server does not have, so that tools
//! which ask for all pages find nothing instead of an error.

use std::collections::BTreeMap;

use serde::Serialize;

use super::core_pages::{ACCOUNT, SYSTEM_ACCOUNT, View};
use super::format::Time;
use super::query::{BadParameter, Query};
use super::reply::Reply;

/// What every page begins with.
#[derive(Serialize)]
struct Head<'a> {
    server_id: &'a str,
    now: Time,
}

impl<'a> Head<'a> {
    fn of(view: View<'a>) -> Self {
        Self { server_id: &view.facts.server_id, now: Time(view.snapshot.taken_at) }
    }
}

#[derive(Serialize)]
struct Gatewayz<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    outbound_gateways: BTreeMap<(), ()>,
    inbound_gateways: BTreeMap<(), ()>,
}

/// `/gatewayz`.
///
/// # Errors
/// When a parameter is not what it must be.
pub fn gatewayz(view: View<'_>, query: &Query) -> Result<Reply, BadParameter> {
    query.flag("accs")?;
    Ok(Reply::document(&Gatewayz {
        head: Head::of(view),
        outbound_gateways: BTreeMap::new(),
        inbound_gateways: BTreeMap::new(),
    }))
}

#[derive(Serialize)]
struct Leafz<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    leafnodes: usize,
    leafs: Option<()>,
}

/// `/leafz`.
///
/// # Errors
/// When a parameter is not what it must be.
pub fn leafz(view: View<'_>, query: &Query) -> Result<Reply, BadParameter> {
    query.flag("subs")?;
    Ok(Reply::document(&Leafz { head: Head::of(view), leafnodes: 0, leafs: None }))
}

#[derive(Serialize)]
struct Jsz<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    disabled: bool,
    config: JetStreamConfig,
    memory: u64,
    storage: u64,
    reserved_memory: u64,
    reserved_storage: u64,
    accounts: u64,
    ha_assets: u64,
    api: JetStreamApi,
    streams: u64,
    consumers: u64,
    messages: u64,
    bytes: u64,
}

#[derive(Default, Serialize)]
struct JetStreamConfig {
    max_memory: u64,
    max_storage: u64,
}

#[derive(Default, Serialize)]
struct JetStreamApi {
    total: u64,
    errors: u64,
}

/// `/jsz`.
///
/// # Errors
/// When a parameter is not what it must be.
pub fn jsz(view: View<'_>, query: &Query) -> Result<Reply, BadParameter> {
    for name in ["accounts", "streams", "consumers", "config", "leader-only", "raft"] {
        query.flag(name)?;
    }
    Ok(Reply::document(&Jsz {
        head: Head::of(view),
        disabled: true,
        config: JetStreamConfig::default(),
        memory: 0,
        storage: 0,
        reserved_memory: 0,
        reserved_storage: 0,
        accounts: 0,
        ha_assets: 0,
        api: JetStreamApi::default(),
        streams: 0,
        consumers: 0,
        messages: 0,
        bytes: 0,
    }))
}

#[derive(Serialize)]
struct Accstatz<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    account_statz: Vec<AccountStatistics>,
}

#[derive(Default, Serialize)]
struct AccountStatistics {
    acc: &'static str,
    conns: u64,
    leafnodes: usize,
    total_conns: u64,
    sent: Volume,
    received: Volume,
    slow_consumers: u64,
}

#[derive(Default, Serialize)]
struct Volume {
    msgs: u64,
    bytes: u64,
}

/// `/accstatz`: the account of all clients, if it has connections or `unused` ones are asked for,
/// and then the one that nobody uses here too.
///
/// # Errors
/// When a parameter is not what it must be.
pub fn accstatz(view: View<'_>, query: &Query) -> Result<Reply, BadParameter> {
    let shows_unused = query.flag("unused")?;
    let (connections, traffic) = (view.snapshot.open_count, view.snapshot.traffic);
    let account = AccountStatistics {
        acc: ACCOUNT,
        conns: connections,
        leafnodes: 0,
        total_conns: connections,
        sent: Volume { msgs: traffic.out_msgs, bytes: traffic.out_bytes },
        received: Volume { msgs: traffic.in_msgs, bytes: traffic.in_bytes },
        slow_consumers: view.snapshot.slow_consumers,
    };
    let system = AccountStatistics { acc: SYSTEM_ACCOUNT, ..AccountStatistics::default() };
    let has_system = shows_unused && view.facts.has_system_account;
    let is_shown = shows_unused || connections > 0;
    let shown = is_shown.then_some(account).into_iter().chain(has_system.then_some(system));
    Ok(Reply::document(&Accstatz { head: Head::of(view), account_statz: shown.collect() }))
}
