//! connz: connections, open and closed, in every order that the reference knows.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::certificates::PeerCertificate;
use super::core_pages::View;
use super::format::{Time, duration, uptime};
use super::query::{BadParameter, Page, Query};
use super::reply::Reply;
use super::sources::{Ask, Unavailable};
use crate::base::time::WallTime;
use crate::broker::snapshot::{
    ConnectionSnapshot, Lists, ServerSnapshot, SubscriptionSnapshot, Wanted,
};

#[derive(Serialize)]
struct Connz<'a> {
    server_id: &'a str,
    now: Time,
    num_connections: usize,
    total: usize,
    offset: usize,
    limit: usize,
    /// Compat: `null` where the account is unknown.
    connections: Option<Vec<Connection<'a>>>,
}

#[derive(Serialize)]
struct Connection<'a> {
    cid: u64,
    kind: &'static str,
    #[serde(rename = "type")]
    protocol: &'static str,
    ip: String,
    port: u16,
    start: Time,
    last_activity: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<Time>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    rtt: String,
    uptime: String,
    idle: String,
    pending_bytes: usize,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: usize,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    lang: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tls_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tls_cipher_suite: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tls_peer_certs: Vec<PeerCertificate>,
    #[serde(skip_serializing_if = "str::is_empty")]
    authorized_user: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list_detail: Vec<Detail<'a>>,
}

/// One interest with all that is known of it.
#[derive(Serialize)]
pub(super) struct Detail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'static str>,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    qgroup: Option<&'a str>,
    sid: &'a str,
    msgs: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    cid: u64,
}

/// Which connections are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    Both,
}

/// What a request asks for, checked.
struct Choice<'a> {
    wanted: State,
    sort: Sort,
    shows_user: bool,
    shows_names: bool,
    shows_details: bool,
    page: Page,
    cid: u64,
    user: &'a str,
    account: &'a str,
    /// Nobody here has such a name.
    mqtt_client: &'a str,
}

/// Orders of `/connz` (spec core NATS, 14.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Cid,
    Subscriptions,
    Pending,
    OutMsgs,
    InMsgs,
    OutBytes,
    InBytes,
    Last,
    Idle,
    Uptime,
    Stop,
    Reason,
    Rtt,
}

impl Sort {
    fn decode(text: &str) -> Option<Self> {
        Some(match text {
            "" | "cid" | "start" => Self::Cid,
            "subs" => Self::Subscriptions,
            "pending" => Self::Pending,
            "msgs_to" => Self::OutMsgs,
            "msgs_from" => Self::InMsgs,
            "bytes_to" => Self::OutBytes,
            "bytes_from" => Self::InBytes,
            "last" => Self::Last,
            "idle" => Self::Idle,
            "uptime" => Self::Uptime,
            "stop" => Self::Stop,
            "reason" => Self::Reason,
            "rtt" => Self::Rtt,
            _ => return None,
        })
    }

    /// The sort is stable and the list is in order of `cid` before.
    fn apply(self, list: &mut [&ConnectionSnapshot], now: WallTime) {
        type Entry<'a> = &'a ConnectionSnapshot;
        let end = |c: Entry<'_>| c.closed.as_ref().map_or(now, |(at, _)| *at);
        let lived = |c: Entry<'_>| end(c).0 - c.start.0;
        let idle = |c: Entry<'_>| now.0 - c.last_activity.0;
        match self {
            Self::Cid => list.sort_by_key(|c| c.cid),
            Self::Subscriptions => list.sort_by_key(|c| Reverse(c.subscription_count)),
            Self::Pending => list.sort_by_key(|c| Reverse(c.pending_bytes)),
            Self::OutMsgs => list.sort_by_key(|c| Reverse(c.traffic.out_msgs)),
            Self::InMsgs => list.sort_by_key(|c| Reverse(c.traffic.in_msgs)),
            Self::OutBytes => list.sort_by_key(|c| Reverse(c.traffic.out_bytes)),
            Self::InBytes => list.sort_by_key(|c| Reverse(c.traffic.in_bytes)),
            Self::Last => list.sort_by_key(|c| Reverse(c.last_activity)),
            Self::Idle => list.sort_by_key(|c| Reverse(idle(c))),
            Self::Uptime => list.sort_by_key(|c| lived(c)),
            Self::Stop => list.sort_by_key(|c| Reverse(c.closed.as_ref().map(|(at, _)| *at))),
            Self::Reason => list.sort_by_key(|c| c.closed.as_ref().map(|(_, why)| why.clone())),
            Self::Rtt => list.sort_by_key(|c| Reverse(c.rtt)),
        }
    }
}

/// `/connz`.
///
/// # Errors
/// When a parameter is not what it must be.
pub fn connz(view: View<'_>, query: &Query) -> Result<Reply, BadParameter> {
    let choice = choice(query)?;
    let now = view.snapshot.taken_at;
    let is_account = choice.account.is_empty() || account(view.snapshot, &choice).is_some();
    if !is_account {
        return Ok(document("", now, &choice, 0, None));
    }
    let shown = shown(view.snapshot, &choice);
    let shown = shown.iter().map(|found| connection(found, &choice, now)).collect();
    let (open_count, closed_count) = counts(view.snapshot, &choice);
    let total = open_count + closed_count;
    Ok(document(&view.facts.server_id, now, &choice, total, Some(shown)))
}

/// The account whose connections are wanted; `None` for all.
fn account(snapshot: &ServerSnapshot, choice: &Choice<'_>) -> Option<usize> {
    snapshot.accounts.iter().position(|name| name == choice.account)
}

/// How many there are of those that are wanted, open and closed.
fn counts(snapshot: &ServerSnapshot, choice: &Choice<'_>) -> (usize, usize) {
    let open_count = if choice.wanted == State::Closed { 0 } else { snapshot.connections.len() };
    let closed_count = if choice.wanted == State::Open { 0 } else { snapshot.closed.len() };
    (open_count, closed_count)
}

/// The connections of the page, in its order.
fn shown<'a>(snapshot: &'a ServerSnapshot, choice: &Choice<'_>) -> Vec<&'a ConnectionSnapshot> {
    let (open, closed) = (snapshot.connections.iter(), snapshot.closed.iter());
    let (open_count, closed_count) = counts(snapshot, choice);
    let account = account(snapshot, choice);
    // Compat: with a cid, anything but "open" looks into the closed ones only.
    let is_one_open = choice.cid > 0 && choice.wanted == State::Open;
    let skips_open = choice.cid > 0 && choice.wanted == State::Both;
    let mut list: Vec<&ConnectionSnapshot> = open
        .take(if skips_open { 0 } else { open_count })
        .chain(closed.take(closed_count))
        .filter(|found| choice.cid == 0 || found.cid == choice.cid)
        .filter(|_| choice.mqtt_client.is_empty() || is_one_open)
        .filter(|found| account.is_none_or(|account| found.account.index() == account))
        .filter(|found| choice.user.is_empty() || found.authorized_user == choice.user)
        .collect();
    choice.sort.apply(&mut list, snapshot.taken_at);
    choice.page.of(&list).to_vec()
}

fn document(
    server_id: &str,
    now: WallTime,
    choice: &Choice<'_>,
    total: usize,
    connections: Option<Vec<Connection<'_>>>,
) -> Reply {
    Reply::document(&Connz {
        server_id,
        now: Time(now),
        num_connections: connections.as_ref().map_or(0, Vec::len),
        total,
        offset: choice.page.offset,
        limit: choice.page.limit,
        connections,
    })
}

/// What `/connz` has to know: all connections of a kind, and the interests of those it shows.
pub(super) fn ask(
    ask: &Ask<Wanted, ServerSnapshot>,
    lists: Lists,
    query: &Query,
) -> Result<ServerSnapshot, Unavailable> {
    let mut known = ask(Lists { subscriptions: false, ..lists }.into())?;
    let Ok(choice) = choice(query) else { return Ok(known) };
    if !lists.subscriptions || !lists.open {
        return Ok(known);
    }
    let shown: BTreeSet<u64> = shown(&known, &choice).iter().map(|found| found.cid).collect();
    let only = Some(Arc::new(shown));
    let lists = Lists { open: true, subscriptions: true, ..Lists::default() };
    let told = ask(Wanted { lists, only, ..Wanted::default() })?;
    known.fill_in(told.connections);
    Ok(known)
}

/// What `/connz` has to know; an error if the parameters cannot be read.
pub(super) fn lists(query: &Query) -> Result<Lists, BadParameter> {
    let choice = choice(query)?;
    Ok(Lists {
        open: choice.wanted != State::Closed,
        closed: choice.wanted != State::Open,
        routes: false,
        subscriptions: choice.shows_names || choice.shows_details,
    })
}

fn choice(query: &Query) -> Result<Choice<'_>, BadParameter> {
    let sort_text = query.text("sort");
    let shows_user = query.flag("auth")?;
    let shows_details = query.text("subs") == "detail";
    let shows_names = !shows_details && query.flag("subs")?;
    let offset = query.int("offset")?;
    let limit = query.int("limit")?;
    let cid = query.uint("cid")?;
    let state = query.text("state");
    let wanted = match state.to_ascii_lowercase().as_str() {
        "" | "open" => State::Open,
        "closed" => State::Closed,
        "any" | "all" => State::Both,
        _ => return Err(BadParameter(format!("Error decoding state for {state}"))),
    };
    let sort = Sort::decode(sort_text)
        .ok_or_else(|| BadParameter(format!("invalid sorting option: {sort_text}")))?;
    if matches!(sort, Sort::Stop | Sort::Reason) && wanted != State::Closed {
        let text = format!("sort by {sort_text} only valid on closed connections");
        return Err(BadParameter(text));
    }
    let page = if cid > 0 { Page::new(0, 1) } else { Page::new(offset, limit) };
    let (user, account) = (query.text("user"), query.text("acc"));
    let mqtt_client = query.text("mqtt_client");
    Ok(Choice {
        wanted,
        sort,
        shows_user,
        shows_names,
        shows_details,
        page,
        cid,
        user,
        account,
        mqtt_client,
    })
}

fn connection<'a>(
    found: &'a ConnectionSnapshot,
    choice: &Choice<'_>,
    now: WallTime,
) -> Connection<'a> {
    let end = found.closed.as_ref().map_or(now, |(at, _)| *at);
    let (tls_version, tls_cipher_suite) = match &found.tls {
        Some((version, cipher)) => (version.as_str(), cipher.as_str()),
        None => ("", ""),
    };
    Connection {
        cid: found.cid,
        kind: "Client",
        protocol: "nats",
        ip: found.peer.ip().to_string(),
        port: found.peer.port(),
        start: Time(found.start),
        last_activity: Time(found.last_activity),
        stop: found.closed.as_ref().map(|(at, _)| Time(*at)),
        reason: found.closed.as_ref().map_or("", |(_, reason)| reason),
        rtt: duration(found.rtt.unwrap_or_default()),
        uptime: uptime(found.start, end),
        idle: uptime(found.last_activity, end),
        pending_bytes: found.pending_bytes,
        in_msgs: found.traffic.in_msgs,
        out_msgs: found.traffic.out_msgs,
        in_bytes: found.traffic.in_bytes,
        out_bytes: found.traffic.out_bytes,
        subscriptions: found.subscription_count,
        name: &found.name,
        lang: &found.lang,
        version: &found.version,
        tls_version,
        tls_cipher_suite,
        tls_peer_certs: if choice.shows_user {
            found.tls_certificate.iter().filter_map(|der| PeerCertificate::decode(der)).collect()
        } else {
            Vec::new()
        },
        authorized_user: if choice.shows_user { &found.authorized_user } else { "" },
        subscriptions_list: if choice.shows_names {
            names(&found.subscriptions)
        } else {
            Vec::new()
        },
        subscriptions_list_detail: if choice.shows_details {
            details(&found.subscriptions, None)
        } else {
            Vec::new()
        },
    }
}

/// The subjects of interests.
pub(super) fn names(subscriptions: &[SubscriptionSnapshot]) -> Vec<&str> {
    subscriptions.iter().map(|found| found.subject.as_str()).collect()
}

/// Interests in detail; `account` where the page names it.
pub(super) fn details<'a>(
    subscriptions: impl IntoIterator<Item = &'a SubscriptionSnapshot>,
    account: Option<&'static str>,
) -> Vec<Detail<'a>> {
    let subscriptions = subscriptions.into_iter();
    let details = subscriptions.map(|found| Detail {
        account,
        subject: &found.subject,
        qgroup: found.queue.as_deref(),
        sid: &found.sid,
        msgs: found.msgs,
        max: found.max,
        cid: found.cid,
    });
    details.collect()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
