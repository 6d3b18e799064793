//! varz, routez, subsz, healthz: the core server in the reference's documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;

use super::connection_pages::{Detail, details, names};
use super::format::{Number, Time, duration, nanos, uptime};
use super::query::{BadParameter, Page, Query};
use super::reply::Reply;
use super::sources::{Ask, ClusterFacts, CoreFacts, Status, Unavailable};
use crate::base::markup::escaped;
use crate::base::pulse::Stall;
use crate::base::subject;
use crate::base::time::WallTime;
use crate::broker::snapshot::{
    Lists, RouteSnapshot, ServerSnapshot, SubjectLists, SubscriptionSnapshot,
    SubscriptionsSnapshot, Wanted,
};

/// The index, with links to the pages that there are.
#[must_use]
pub fn index(has_streaming: bool, base_path: &str) -> String {
    let streaming = if has_streaming { "    <a href=/streaming>Streaming</a><br/>\n" } else { "" };
    // Beside this page where there is no base path: so the link leads through a proxy too.
    let place = if base_path.is_empty() { "." } else { base_path };
    let dashboard = format!("    <a href=\"{}/dashboard\">Dashboard</a><br/>\n", escaped(place));
    format!("{INDEX_BEGIN}{streaming}{dashboard}{INDEX_END}")
}

const INDEX_BEGIN: &str = "<!DOCTYPE html>
<html lang=\"en\">
  <head><title>NATS: stanby</title></head>
  <body>
    <h1>NATS</h1>
    <a href=./varz>General</a><br/>
    <a href=./connz>Connections</a><br/>
    <a href=./subsz>Subscriptions</a><br/>
    <a href=./routez>Routes</a><br/>
    <a href=./healthz>Health Probe</a><br/>
";

const INDEX_END: &str = "    <br/>
    <a href=https://docs.nats.io/running-a-nats-service/nats_admin/monitoring>Help</a>
  </body>
</html>";

/// `/healthz`: without line breaks, as in the reference. Beside the listeners it asks those that
/// work: `hung` is an event loop that has not got on.
#[must_use]
pub fn healthz(status: &Status, hung: Option<Stall>) -> Reply {
    let error = if !status.closed_listeners.is_empty() {
        let names = status.closed_listeners.join(", ");
        format!("failed to be ready for connections after 1ms: {names}")
    } else if let Some(hung) = hung {
        hung.to_string()
    } else {
        return Reply::Json(StatusCode::OK, "{\"status\":\"ok\"}".to_owned());
    };
    let json = format!("{{\"status\":\"error\",\"error\":\"{error}\"}}");
    Reply::Json(StatusCode::SERVICE_UNAVAILABLE, json)
}

/// The account of all clients.
pub(super) const ACCOUNT: &str = "$G";

/// The account of the reference's own messages, which nobody uses here.
pub(super) const SYSTEM_ACCOUNT: &str = "$SYS";

/// What all core pages are made of.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What was configured.
    pub facts: &'a CoreFacts,
    /// What the brokers hold.
    pub snapshot: &'a ServerSnapshot,
}

/// What `/varz` shows of the process and of the pages themselves.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Resident bytes.
    pub resident_bytes: u64,
    /// Percent of a core.
    pub cpu_percent: f64,
    /// Cores of the machine.
    pub cores: usize,
    /// Requests by page.
    pub requests: BTreeMap<String, u64>,
}

/// An object without anything in it: a part that this server does not have.
#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "the document has them")]
struct Varz<'a> {
    server_id: &'a str,
    server_name: &'a str,
    version: &'a str,
    proto: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    git_commit: &'a str,
    go: &'a str,
    host: &'a str,
    port: u16,
    #[serde(skip_serializing_if = "is_false")]
    auth_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_verify: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    ip: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    connect_urls: &'a [String],
    max_connections: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_subscriptions: u64,
    ping_interval: i64,
    ping_max: u32,
    http_host: &'a str,
    http_port: u16,
    http_base_path: &'a str,
    https_port: u16,
    auth_timeout: Number,
    max_control_line: usize,
    max_payload: usize,
    max_pending: usize,
    cluster: Cluster<'a>,
    gateway: Nothing,
    leaf: Nothing,
    mqtt: Nothing,
    websocket: Nothing,
    jetstream: Nothing,
    tls_timeout: Number,
    write_deadline: i64,
    start: Time,
    now: Time,
    uptime: String,
    mem: u64,
    cores: usize,
    gomaxprocs: usize,
    cpu: Number,
    connections: u64,
    total_connections: u64,
    routes: usize,
    remotes: usize,
    leafnodes: u64,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    slow_consumers: u64,
    subscriptions: u64,
    http_req_stats: &'a BTreeMap<String, u64>,
    config_load_time: Time,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    system_account: &'static str,
    ocsp_peer_cache: Nothing,
}

#[derive(Default, Serialize)]
struct Cluster<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    addr: &'a str,
    #[serde(skip_serializing_if = "is_zero_port")]
    cluster_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_timeout: Option<Number>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    urls: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_timeout: Option<Number>,
    #[serde(skip_serializing_if = "is_false")]
    tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_verify: bool,
}

/// `/varz`.
#[must_use]
pub fn varz(view: View<'_>, usage: &Usage) -> Reply {
    let View { facts, snapshot } = view;
    let remotes: BTreeSet<&str> = snapshot.remotes.iter().map(String::as_str).collect();
    let traffic = snapshot.traffic;
    Reply::document(&Varz {
        server_id: &facts.server_id,
        server_name: &facts.server_name,
        version: &facts.version,
        proto: 1,
        git_commit: &facts.git_commit,
        go: &facts.go,
        host: &facts.host,
        port: facts.port,
        auth_required: facts.auth_required,
        tls_required: facts.tls_required,
        tls_verify: facts.tls_verify,
        ip: &facts.ip,
        connect_urls: &snapshot.connect_urls,
        max_connections: facts.connections_max,
        max_subscriptions: facts.interests_max,
        ping_interval: nanos(facts.ping_interval),
        ping_max: facts.pings_max,
        http_host: &facts.http_host,
        http_port: facts.http_port,
        http_base_path: &facts.http_base_path,
        https_port: facts.https_port,
        auth_timeout: Number(facts.auth_timeout.as_secs_f64()),
        max_control_line: facts.control_line_bytes_max,
        max_payload: facts.payload_bytes_max,
        max_pending: facts.pending_bytes_max,
        cluster: facts.cluster.as_ref().map_or_else(Cluster::default, cluster),
        gateway: Nothing {},
        leaf: Nothing {},
        mqtt: Nothing {},
        websocket: Nothing {},
        jetstream: Nothing {},
        tls_timeout: Number(facts.tls_timeout.as_secs_f64()),
        write_deadline: nanos(facts.write_deadline),
        start: Time(snapshot.started_at),
        now: Time(snapshot.taken_at),
        uptime: uptime(snapshot.started_at, snapshot.taken_at),
        mem: usage.resident_bytes,
        cores: usage.cores,
        gomaxprocs: usage.cores,
        cpu: Number(usage.cpu_percent),
        connections: snapshot.open_count,
        total_connections: snapshot.connections_total,
        routes: snapshot.remotes.len(),
        remotes: remotes.len(),
        leafnodes: 0,
        in_msgs: traffic.in_msgs,
        out_msgs: traffic.out_msgs,
        in_bytes: traffic.in_bytes,
        out_bytes: traffic.out_bytes,
        slow_consumers: snapshot.slow_consumers,
        subscriptions: snapshot.subscriptions.num_subscriptions,
        http_req_stats: &usage.requests,
        config_load_time: Time(snapshot.settings_loaded_at),
        tags: &facts.tags,
        system_account: if facts.has_system_account { SYSTEM_ACCOUNT } else { "" },
        ocsp_peer_cache: Nothing {},
    })
}

fn cluster(facts: &ClusterFacts) -> Cluster<'_> {
    let seconds = |time: Duration| (!time.is_zero()).then_some(Number(time.as_secs_f64()));
    Cluster {
        name: &facts.name,
        addr: &facts.host,
        cluster_port: facts.port,
        auth_timeout: seconds(facts.auth_timeout),
        urls: &facts.urls,
        tls_timeout: seconds(facts.tls_timeout),
        tls_required: facts.is_tls,
        tls_verify: facts.is_tls,
    }
}

#[derive(Serialize)]
struct Routez<'a> {
    server_id: &'a str,
    server_name: &'a str,
    now: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<&'a SubjectLists>,
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<&'a SubjectLists>,
    num_routes: usize,
    routes: Vec<Route<'a>>,
}

#[derive(Serialize)]
struct Route<'a> {
    rid: u64,
    remote_id: &'a str,
    remote_name: &'a str,
    did_solicit: bool,
    is_configured: bool,
    ip: String,
    port: u16,
    start: Time,
    last_activity: Time,
    rtt: String,
    uptime: String,
    idle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<&'a SubjectLists>,
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<&'a SubjectLists>,
    pending_size: usize,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list_detail: Vec<Detail<'a>>,
}

/// `/routez`.
///
/// # Errors
/// When a parameter is not what it must be.
pub fn routez(view: View<'_>, query: &Query) -> Result<Reply, BadParameter> {
    let shows_details = query.text("subs") == "detail";
    let shows_names = !shows_details && query.flag("subs")?;
    let now = view.snapshot.taken_at;
    let routes: Vec<Route<'_>> = view
        .snapshot
        .routes
        .iter()
        .map(|found| Route {
            subscriptions_list: if shows_names { names(&found.subscriptions) } else { Vec::new() },
            subscriptions_list_detail: if shows_details {
                details(&found.subscriptions, None)
            } else {
                Vec::new()
            },
            ..route(found, now)
        })
        .collect();
    Ok(Reply::document(&Routez {
        server_id: &view.facts.server_id,
        server_name: &view.facts.configured_name,
        now: Time(now),
        import: view.snapshot.import.as_ref(),
        export: view.snapshot.export.as_ref(),
        num_routes: routes.len(),
        routes,
    }))
}

/// What `/routez` has to know; an error if the parameters cannot be read.
pub(super) fn routez_lists(query: &Query) -> Result<Lists, BadParameter> {
    let subscriptions = query.text("subs") == "detail" || query.flag("subs")?;
    Ok(Lists { routes: true, subscriptions, ..Lists::default() })
}

/// What `/subsz` has to know: of how many interests there are without a subject that they have to
/// match, those of the connections on its page are enough.
pub(super) fn ask_subsz(
    ask: &Ask<Wanted, ServerSnapshot>,
    lists: Lists,
    query: &Query,
) -> Result<ServerSnapshot, Unavailable> {
    let test = query.text("test");
    let (true, Ok(page)) = (lists.open, query.page()) else { return ask(lists.into()) };
    if !test.is_empty() {
        let wanted = Wanted { lists, matching: test.into(), ..Wanted::default() };
        // What is no literal subject is refused by the page.
        return ask(if subject::is_literal(test.as_bytes()) {
            wanted
        } else {
            Lists::default().into()
        });
    }
    let mut known = ask(Lists { subscriptions: false, ..lists }.into())?;
    let end = page.offset.saturating_add(page.limit);
    let mut count = 0;
    let mut only = BTreeSet::new();
    for found in &known.connections {
        let next = count + found.subscription_count;
        if page.offset < next && count < end && count < next {
            only.insert(found.cid);
        }
        count = next;
    }
    if !only.is_empty() {
        let told = ask(Wanted { lists, only: Some(Arc::new(only)), ..Wanted::default() })?;
        known.fill_in(told.connections);
    }
    Ok(known)
}

/// What `/subsz` has to know.
pub(super) fn subsz_lists(query: &Query) -> Lists {
    let is_listed = query.flag("subs") == Ok(true);
    Lists { open: is_listed, subscriptions: is_listed, ..Lists::default() }
}

fn route(found: &RouteSnapshot, now: WallTime) -> Route<'_> {
    Route {
        rid: found.rid,
        remote_id: &found.remote_id,
        remote_name: &found.remote_name,
        did_solicit: found.did_solicit,
        is_configured: found.is_configured,
        ip: found.peer.ip().to_string(),
        port: found.peer.port(),
        start: Time(found.start),
        last_activity: Time(found.last_activity),
        rtt: duration(found.rtt.unwrap_or_default()),
        uptime: uptime(found.start, now),
        idle: uptime(found.last_activity, now),
        import: found.import.as_ref(),
        export: found.export.as_ref(),
        pending_size: found.pending_bytes,
        in_msgs: found.traffic.in_msgs,
        out_msgs: found.traffic.out_msgs,
        in_bytes: found.traffic.in_bytes,
        out_bytes: found.traffic.out_bytes,
        subscriptions: found.subscription_count,
        subscriptions_list: Vec::new(),
        subscriptions_list_detail: Vec::new(),
    }
}

#[derive(Serialize)]
struct Statistics {
    num_subscriptions: u64,
    num_cache: u64,
    num_inserts: u64,
    num_removes: u64,
    num_matches: u64,
    cache_hit_rate: Number,
    max_fanout: u64,
    avg_fanout: Number,
}

#[derive(Serialize)]
struct Subsz<'a> {
    server_id: &'a str,
    now: Time,
    #[serde(flatten)]
    statistics: Statistics,
    total: usize,
    offset: usize,
    limit: usize,
    subscriptions_list: Vec<Detail<'a>>,
}

/// `/subsz` and `/subscriptionsz`.
///
/// # Errors
/// When a parameter is not what it must be.
pub fn subsz(view: View<'_>, query: &Query) -> Result<Reply, BadParameter> {
    let shows_list = query.flag("subs")?;
    let Page { offset, limit } = query.page()?;
    let test = query.text("test");
    if !test.is_empty() && !subject::is_literal(test.as_bytes()) {
        let text = format!("invalid test subject, must be valid publish subject: {test}");
        return Err(BadParameter(text));
    }
    let account = query.text("acc");
    if !account.is_empty() && account != ACCOUNT {
        return Ok(Reply::document(&statistics(SubscriptionsSnapshot::default())));
    }
    let statistics = statistics(view.snapshot.subscriptions);
    // Of connections that are not on the page there are only counts.
    let mut place = 0;
    let mut shown: Vec<&SubscriptionSnapshot> = Vec::new();
    for connection in view.snapshot.connections.iter().filter(|_| shows_list) {
        let told = connection.subscriptions.iter().filter(|found| {
            test.is_empty() || subject::matches(found.subject.as_bytes(), test.as_bytes())
        });
        if connection.subscriptions.is_empty() && test.is_empty() {
            place += connection.subscription_count;
        }
        for found in told {
            if (offset..offset.saturating_add(limit)).contains(&place) {
                shown.push(found);
            }
            place += 1;
        }
    }
    if shown.is_empty() {
        return Ok(Reply::document(&statistics));
    }
    Ok(Reply::document(&Subsz {
        server_id: &view.facts.server_id,
        now: Time(view.snapshot.taken_at),
        statistics,
        total: shown.len(),
        offset,
        limit,
        subscriptions_list: details(shown.iter().copied(), Some(ACCOUNT)),
    }))
}

fn statistics(tree: SubscriptionsSnapshot) -> Statistics {
    Statistics {
        num_subscriptions: tree.num_subscriptions,
        num_cache: tree.num_cache,
        num_inserts: tree.num_inserts,
        num_removes: tree.num_removes,
        num_matches: tree.num_matches,
        cache_hit_rate: ratio(tree.num_cache_hits, tree.num_matches),
        max_fanout: tree.max_fanout,
        avg_fanout: ratio(tree.total_fanout, tree.num_cache),
    }
}

/// 0 where there is nothing to divide by.
#[allow(clippy::cast_precision_loss, reason = "a rate for people; 2^53 look-ups are far away")]
fn ratio(part: u64, whole: u64) -> Number {
    Number(if whole == 0 { 0.0 } else { part as f64 / whole as f64 })
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero_port(number: &u16) -> bool {
    *number == 0
}
