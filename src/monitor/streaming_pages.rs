//! serverz, storez, clientsz, channelsz: the streaming server in the reference's documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::format::{LocalTime, uptime};
use super::process::Descriptors;
use super::query::Query;
use super::reply::Reply;
use super::sources::{Ask, LimitNumbers, Status, StreamingFacts, Unavailable};
use crate::base::id::{ChannelName, ClientId};
use crate::base::time::WallTime;
use crate::engine::snapshot::{
    ChannelSnapshot, ClientSnapshot, Snapshot, SubscriptionSnapshot, SubscriptionsByClient, Wanted,
};

/// The index; `isFTActive` is not listed, as in the reference.
pub const INDEX: &str = "<!DOCTYPE html>
<html lang=\"en\">
  <head><title>NATS Streaming: stanby</title></head>
  <body>
    <h1>NATS Streaming</h1>
    <a href=./streaming/serverz>server</a><br/>
    <a href=./streaming/storez>store</a><br/>
    <a href=./streaming/clientsz>clients</a><br/>
    <a href=./streaming/channelsz>channels</a><br/>
    <br/>
    <a href=https://docs.nats.io/legacy/stan/intro/monitoring/>help</a>
  </body>
</html>";

/// What all streaming pages are made of.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What was configured.
    pub facts: &'a StreamingFacts,
    /// What the engines hold.
    pub snapshot: &'a Snapshot,
    /// The time that the page shows.
    pub now: WallTime,
    /// What local time is ahead of UTC at a moment, in seconds.
    pub utc_offset: fn(WallTime) -> i64,
}

#[derive(Serialize)]
struct Serverz<'a> {
    cluster_id: &'a str,
    server_id: &'a str,
    version: &'a str,
    go: &'a str,
    state: &'static str,
    /// Ours: why this server is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
    now: LocalTime,
    start_time: LocalTime,
    uptime: String,
    clients: usize,
    subscriptions: usize,
    channels: usize,
    total_msgs: u64,
    total_bytes: u64,
    in_msgs: u64,
    in_bytes: u64,
    out_msgs: u64,
    out_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    open_fds: i64,
    #[serde(skip_serializing_if = "is_zero")]
    max_fds: i64,
}

#[derive(Serialize)]
struct Storez<'a> {
    cluster_id: &'a str,
    server_id: &'a str,
    now: LocalTime,
    #[serde(rename = "type")]
    kind: &'static str,
    limits: Limits<'a>,
    total_msgs: u64,
    total_bytes: u64,
    /// Ours: acknowledged messages that the database has lost since the process began.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_msgs: Option<u64>,
}

#[derive(Serialize)]
struct Limits<'a> {
    max_channels: u64,
    #[serde(flatten)]
    global: LimitNumbers,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    channels: &'a BTreeMap<String, LimitNumbers>,
}

/// A page of a list; which of the lists is there depends on the page.
#[derive(Serialize)]
struct Listing<'a> {
    cluster_id: &'a str,
    server_id: &'a str,
    now: LocalTime,
    offset: usize,
    limit: usize,
    count: usize,
    total: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<Vec<Clientz>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<Channelz>,
}

#[derive(Serialize)]
struct Clientz {
    id: String,
    hb_inbox: String,
    subs_count: usize,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    subscriptions: BTreeMap<String, Vec<Subscriptionz>>,
}

#[derive(Serialize)]
struct Channelz {
    name: String,
    msgs: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    subs_count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions: Vec<Subscriptionz>,
}

#[derive(Serialize)]
struct Subscriptionz {
    client_id: String,
    inbox: String,
    ack_inbox: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    durable_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    queue_name: String,
    is_durable: bool,
    is_offline: bool,
    max_inflight: i32,
    ack_wait: i32,
    last_sent: u64,
    pending_count: usize,
    is_stalled: bool,
}

/// `/streaming/serverz`.
#[must_use]
pub fn serverz(view: View<'_>, status: &Status, descriptors: Descriptors) -> Reply {
    let View { facts, snapshot, now, .. } = view;
    Reply::document(&Serverz {
        cluster_id: &facts.cluster_id,
        server_id: &facts.server_id,
        version: &facts.version,
        go: &facts.go,
        state: status.state.name(),
        trouble: status.trouble.as_deref().or(status.rival.as_deref()),
        now: view.local(now),
        start_time: view.local(facts.started),
        uptime: uptime(facts.started, now),
        clients: snapshot.totals.clients,
        subscriptions: snapshot.totals.subscriptions,
        channels: snapshot.totals.channels,
        total_msgs: snapshot.totals.messages,
        total_bytes: snapshot.totals.bytes,
        in_msgs: snapshot.traffic.in_messages,
        in_bytes: snapshot.traffic.in_bytes,
        out_msgs: snapshot.traffic.out_messages,
        out_bytes: snapshot.traffic.out_bytes,
        open_fds: descriptors.open,
        max_fds: descriptors.max,
    })
}

/// `/streaming/storez`.
#[must_use]
pub fn storez(view: View<'_>) -> Reply {
    let View { facts, snapshot, now, .. } = view;
    Reply::document(&Storez {
        cluster_id: &facts.cluster_id,
        server_id: &facts.server_id,
        now: view.local(now),
        kind: facts.store,
        limits: Limits {
            max_channels: facts.channels_max,
            global: facts.global,
            channels: &facts.per_channel,
        },
        total_msgs: snapshot.totals.messages,
        total_bytes: snapshot.totals.bytes,
        lost_msgs: facts.lost_messages,
    })
}

/// `/streaming/clientsz`.
#[must_use]
pub fn clientsz(view: View<'_>, query: &Query) -> Reply {
    let shows_subscriptions = query.int("subs") == Ok(1);
    let id = query.text("client");
    let by_client = view.snapshot.subscriptions_by_client();
    if !id.is_empty() {
        let wanted = ClientId::from(id);
        let found = view.snapshot.clients.iter().find(|found| found.client == wanted);
        return match found {
            Some(found) => Reply::document(&clientz(&by_client, found, shows_subscriptions)),
            None => Reply::not_found(format!("Client {id} not found")),
        };
    }
    let page = query.lenient_page();
    let shown = page.of(&view.snapshot.clients);
    let clients: Vec<Clientz> =
        shown.iter().map(|found| clientz(&by_client, found, shows_subscriptions)).collect();
    let total = view.snapshot.clients.len();
    Reply::document(&Listing {
        count: clients.len(),
        clients: Some(clients),
        ..view.listing((page.offset, page.limit), total)
    })
}

/// What `/streaming/clientsz` has to know: all clients, and the subscriptions of those it shows.
pub(super) fn ask_clientsz(
    ask: &Ask<Wanted, Snapshot>,
    query: &Query,
) -> Result<Snapshot, Unavailable> {
    let mut known = ask(Wanted::Clients)?;
    let shown: BTreeSet<ClientId> = match query.text("client") {
        "" => {
            let shown = query.lenient_page().of(&known.clients).iter();
            shown.map(|found| found.client.clone()).collect()
        }
        id => BTreeSet::from([ClientId::from(id)]),
    };
    if !shown.is_empty() {
        known.channels = ask(Wanted::Of(Arc::new(shown)))?.channels;
    }
    Ok(known)
}

/// What `/streaming/channelsz` has to know: the channels that it shows, with subscriptions if they
/// are asked for, and all others by name.
pub(super) fn ask_channelsz(
    ask: &Ask<Wanted, Snapshot>,
    query: &Query,
) -> Result<Snapshot, Unavailable> {
    let name = query.text("channel");
    if !name.is_empty() {
        return ask(Wanted::Channels([ChannelName::from(name)].into()));
    }
    let mut known = ask(Wanted::Names)?;
    let page = query.lenient_page();
    if query.int("subs") == Ok(1) {
        let shown = page.of(&known.channels).iter().map(|found| found.channel.clone()).collect();
        for found in ask(Wanted::Channels(shown))?.channels {
            let at = known.channels.binary_search_by(|one| one.channel.cmp(&found.channel));
            // One that was made meanwhile is not on this page.
            if let Ok(at) = at {
                known.channels[at] = found;
            }
        }
    }
    Ok(known)
}

/// `/streaming/channelsz`.
#[must_use]
pub fn channelsz(view: View<'_>, query: &Query) -> Reply {
    let shows_subscriptions = query.int("subs") == Ok(1);
    let name = query.text("channel");
    if !name.is_empty() {
        let mut channels = view.snapshot.channels.iter();
        return match channels.find(|found| text(found.channel.as_bytes()) == name) {
            Some(found) => Reply::document(&channelz(found, shows_subscriptions)),
            None => Reply::not_found(format!("Channel {name} not found")),
        };
    }
    let page = query.lenient_page();
    let shown = page.of(&view.snapshot.channels);
    let mut listing = view.listing((page.offset, page.limit), view.snapshot.channels.len());
    listing.count = shown.len();
    if shows_subscriptions {
        listing.channels = shown.iter().map(|found| channelz(found, true)).collect();
    } else {
        listing.names = shown.iter().map(|found| text(found.channel.as_bytes())).collect();
    }
    Reply::document(&listing)
}

impl<'a> View<'a> {
    fn local(&self, at: WallTime) -> LocalTime {
        LocalTime { at, utc_offset: (self.utc_offset)(at) }
    }

    fn listing(&self, (offset, limit): (usize, usize), total: usize) -> Listing<'a> {
        Listing {
            cluster_id: &self.facts.cluster_id,
            server_id: &self.facts.server_id,
            now: self.local(self.now),
            offset,
            limit,
            count: 0,
            total,
            clients: None,
            names: Vec::new(),
            channels: Vec::new(),
        }
    }
}

fn clientz(
    by_client: &SubscriptionsByClient<'_>,
    client: &ClientSnapshot,
    shows_subscriptions: bool,
) -> Clientz {
    let mut subs_count = 0;
    let mut subscriptions: BTreeMap<String, Vec<Subscriptionz>> = BTreeMap::new();
    for (channel, subscription) in by_client.get(&client.client).into_iter().flatten() {
        subs_count += 1;
        if shows_subscriptions {
            let list = subscriptions.entry(text(channel.as_bytes())).or_default();
            list.push(subscriptionz(subscription));
        }
    }
    Clientz {
        id: text(client.client.as_bytes()),
        hb_inbox: text(client.heartbeat_inbox.as_bytes()),
        subs_count,
        subscriptions,
    }
}

fn channelz(channel: &ChannelSnapshot, shows_subscriptions: bool) -> Channelz {
    let shown: &[SubscriptionSnapshot] =
        if shows_subscriptions { &channel.subscriptions } else { &[] };
    Channelz {
        name: text(channel.channel.as_bytes()),
        msgs: channel.state.message_count,
        bytes: channel.state.byte_count,
        first_seq: channel.state.first.get(),
        last_seq: channel.state.last.get(),
        subs_count: channel.subscriptions.len(),
        subscriptions: shown.iter().map(subscriptionz).collect(),
    }
}

fn subscriptionz(subscription: &SubscriptionSnapshot) -> Subscriptionz {
    Subscriptionz {
        client_id: text(subscription.client.as_bytes()),
        inbox: text(subscription.inbox.as_bytes()),
        ack_inbox: text(subscription.ack_inbox.as_bytes()),
        durable_name: text(subscription.durable_name.as_bytes()),
        queue_name: text(subscription.queue_name.as_bytes()),
        is_durable: subscription.is_durable,
        is_offline: subscription.is_offline,
        max_inflight: subscription.in_flight_max,
        ack_wait: subscription.ack_wait_secs,
        last_sent: subscription.last_sent.get(),
        pending_count: subscription.pending_count,
        is_stalled: subscription.is_stalled,
    }
}

/// Names need not be UTF-8; JSON must.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}
