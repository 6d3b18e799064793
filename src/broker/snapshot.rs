//! Current state as plain structs, for monitoring.
//!
//! Each loop gives its own part; [`ServerSnapshot::merge`] puts the parts of all loops together.
//! Interest that other loops own is in none of the lists, so nothing is counted twice.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::AccountIndex;
use crate::base::time::{Instant, WallTime};
pub use crate::wire::connect::SubjectLists;

/// Which lists a snapshot has. Each costs turns of a loop in proportion to its length, so a page
/// asks for those that it shows, and counts are kept without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Open client connections.
    pub open: bool,
    /// Closed ones.
    pub closed: bool,
    /// Registered routes.
    pub routes: bool,
    /// The interests of connections and routes that are listed.
    pub subscriptions: bool,
}

impl Lists {
    /// All that there are.
    pub const ALL: Self = Self { open: true, closed: true, routes: true, subscriptions: true };
}

/// What a page asks of the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Which lists.
    pub lists: Lists,
    /// Only the open connections with these numbers; all if `None`.
    pub only: Option<Arc<BTreeSet<u64>>>,
    /// Only interests that match this literal subject; all if it is empty.
    pub matching: Arc<str>,
}

impl From<Lists> for Wanted {
    fn from(lists: Lists) -> Self {
        Self { lists, ..Self::default() }
    }
}

/// What one loop's broker, or after merging the whole process, knows (spec core NATS, 14).
#[derive(Clone, Debug, Default)]
pub struct ServerSnapshot {
    /// When it was taken, by the wall clock.
    pub taken_at: WallTime,
    /// When it was taken, by the clock of deadlines: what `last_activity` and `start` refer to.
    pub taken: Instant,
    /// When the broker was made.
    pub started_at: WallTime,
    /// When the settings were last replaced; the start if never.
    pub settings_loaded_at: WallTime,
    /// Client connections of all kinds ever accepted, refused ones included.
    pub connections_total: u64,
    /// What all sessions ever received and sent.
    pub traffic: Traffic,
    /// Clients that were cut because they did not read.
    pub slow_consumers: u64,
    /// URLs that clients are told (`connect_urls` of INFO).
    pub connect_urls: Vec<String>,
    /// What routes may say to this server, if not everything.
    pub import: Option<SubjectLists>,
    /// What routes may hear of it, if not everything.
    pub export: Option<SubjectLists>,
    /// How many client connections the process has.
    pub open_count: u64,
    /// Connections that are not read until a store has room for what they send.
    pub held_count: u64,
    /// Server ids of the peers of registered routes.
    pub remotes: Vec<String>,
    /// Open client connections, ascending by `cid`; if asked for.
    pub connections: Vec<ConnectionSnapshot>,
    /// Closed client connections, oldest first, at most [`CLOSED_MAX`]; if asked for.
    pub closed: Vec<ConnectionSnapshot>,
    /// Registered routes, ascending by `rid`; if asked for.
    pub routes: Vec<RouteSnapshot>,
    /// The names of the accounts.
    pub accounts: Vec<String>,
    /// The interest trees of all of them.
    pub subscriptions: SubscriptionsSnapshot,
}

/// Closed connections that are remembered.
pub const CLOSED_MAX: usize = 10_000;

/// Messages and payload bytes (headers included) in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages received.
    pub in_msgs: u64,
    /// Messages sent, a copy for each receiver.
    pub out_msgs: u64,
    /// Payload bytes received.
    pub in_bytes: u64,
    /// Payload bytes sent.
    pub out_bytes: u64,
}

/// One client connection.
#[derive(Clone, Debug)]
pub struct ConnectionSnapshot {
    /// Its number, as in INFO `client_id`.
    pub cid: u64,
    /// Its account, a place in [`ServerSnapshot::accounts`].
    pub account: AccountIndex,
    /// The loop that owns it.
    pub home: u16,
    /// The peer's address.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub start: WallTime,
    /// Last CONNECT, SUB, UNSUB, PUB, or message delivered to it.
    pub last_activity: WallTime,
    /// When and why it was closed.
    pub closed: Option<(WallTime, String)>,
    /// Round trip time, once measured.
    pub rtt: Option<Duration>,
    /// Bytes that wait in its outbox.
    pub pending_bytes: usize,
    /// What it sent and got.
    pub traffic: Traffic,
    /// `name` of CONNECT.
    pub name: String,
    /// `lang` of CONNECT.
    pub lang: String,
    /// `version` of CONNECT.
    pub version: String,
    /// TLS version and cipher suite, if it uses TLS.
    pub tls: Option<(String, String)>,
    /// DER of the certificate it showed.
    pub tls_certificate: Option<bytes::Bytes>,
    /// Whom it claimed to be, or was taken for; a token in clear if that is what it gave.
    pub authorized_user: String,
    /// How many interests it has.
    pub subscription_count: usize,
    /// Its interests, ascending by `sid`; if asked for.
    pub subscriptions: Vec<SubscriptionSnapshot>,
}

/// One interest of a client or a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSnapshot {
    /// The subject.
    pub subject: String,
    /// The queue.
    pub queue: Option<String>,
    /// What the client calls it; of a route the key text.
    pub sid: String,
    /// Messages delivered.
    pub msgs: u64,
    /// The limit of UNSUB; 0 if none.
    pub max: u64,
    /// The connection that has it.
    pub cid: u64,
}

/// One registered route.
#[derive(Clone, Debug)]
pub struct RouteSnapshot {
    /// Its number, from the same counter as those of clients.
    pub rid: u64,
    /// The peer's server id.
    pub remote_id: String,
    /// The peer's server name.
    pub remote_name: String,
    /// Whether we opened it.
    pub did_solicit: bool,
    /// Whether a person configured it.
    pub is_configured: bool,
    /// The peer's address.
    pub peer: SocketAddr,
    /// When the connection was made.
    pub start: WallTime,
    /// Last message or interest.
    pub last_activity: WallTime,
    /// Round trip time, once measured.
    pub rtt: Option<Duration>,
    /// What the peer lets in, as it says.
    pub import: Option<SubjectLists>,
    /// What the peer lets out, as it says.
    pub export: Option<SubjectLists>,
    /// Bytes that wait in its outbox.
    pub pending_bytes: usize,
    /// What it sent and got.
    pub traffic: Traffic,
    /// How many interests the peer has.
    pub subscription_count: usize,
    /// The peer's interests; if asked for.
    pub subscriptions: Vec<SubscriptionSnapshot>,
}

/// Figures of the interest tree. Counts are of the whole tree, so that merging takes one loop's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SubscriptionsSnapshot {
    /// Interests in it, those of routes and engines included.
    pub num_subscriptions: u64,
    /// Subjects in the match cache.
    pub num_cache: u64,
    /// Interests ever added.
    pub num_inserts: u64,
    /// Interests ever removed.
    pub num_removes: u64,
    /// Look-ups.
    pub num_matches: u64,
    /// Look-ups that the cache answered.
    pub num_cache_hits: u64,
    /// Most receivers of one cached subject.
    pub max_fanout: u64,
    /// Receivers of all cached subjects.
    pub total_fanout: u64,
}

impl Traffic {
    /// A message of so many bytes came in.
    pub(super) fn came_in(&mut self, size: usize) {
        self.in_msgs += 1;
        self.in_bytes += size as u64;
    }

    /// A message of so many bytes went out.
    pub(super) fn went_out(&mut self, size: usize) {
        self.out_msgs += 1;
        self.out_bytes += size as u64;
    }

    /// Adds what another loop counted.
    pub fn add(&mut self, other: Self) {
        self.in_msgs += other.in_msgs;
        self.out_msgs += other.out_msgs;
        self.in_bytes += other.in_bytes;
        self.out_bytes += other.out_bytes;
    }
}

impl ServerSnapshot {
    /// Adds the lists of the next portion of the same loop. An entry may go on there.
    pub fn append(&mut self, next: Self) {
        let Self { connections, closed, routes, .. } = next;
        for mut found in connections {
            match self.connections.last_mut().filter(|last| last.cid == found.cid) {
                Some(last) => last.subscriptions.append(&mut found.subscriptions),
                None => self.connections.push(found),
            }
        }
        for mut found in routes {
            match self.routes.last_mut().filter(|last| last.rid == found.rid) {
                Some(last) => last.subscriptions.append(&mut found.subscriptions),
                None => self.routes.push(found),
            }
        }
        self.closed.extend(closed);
    }

    /// Takes over the interests that were asked for later of some connections.
    pub fn fill_in(&mut self, told: Vec<ConnectionSnapshot>) {
        for found in told {
            let at = self.connections.binary_search_by_key(&found.cid, |one| one.cid);
            // One that has come since is not known here.
            if let Ok(at) = at {
                self.connections[at].subscriptions = found.subscriptions;
            }
        }
    }

    /// Puts the parts of all loops together; the order of `parts` does not matter.
    #[must_use]
    pub fn merge(parts: Vec<Self>) -> Self {
        let mut parts = parts.into_iter();
        let Some(mut whole) = parts.next() else { return Self::default() };
        for part in parts {
            whole.taken_at = whole.taken_at.max(part.taken_at);
            whole.taken = whole.taken.max(part.taken);
            whole.started_at = whole.started_at.min(part.started_at);
            whole.settings_loaded_at = whole.settings_loaded_at.max(part.settings_loaded_at);
            whole.connections_total += part.connections_total;
            whole.slow_consumers += part.slow_consumers;
            whole.held_count += part.held_count;
            whole.traffic.add(part.traffic);
            if whole.connect_urls.is_empty() {
                whole.connect_urls = part.connect_urls;
            }
            // Each loop tells the count of the process.
            whole.open_count = whole.open_count.max(part.open_count);
            whole.remotes.extend(part.remotes);
            whole.connections.extend(part.connections);
            whole.closed.extend(part.closed);
            whole.routes.extend(part.routes);
            whole.subscriptions.merge(part.subscriptions);
        }
        whole.connections.sort_by_key(|connection| connection.cid);
        whole.closed.sort_by_key(|connection| connection.closed.as_ref().map(|(at, _)| *at));
        let surplus = whole.closed.len().saturating_sub(CLOSED_MAX);
        whole.closed.drain(..surplus);
        whole.routes.sort_by_key(|route| route.rid);
        whole
    }
}

impl SubscriptionsSnapshot {
    /// Every loop has the whole tree, so counts are not added up; look-ups are.
    fn merge(&mut self, other: Self) {
        self.num_subscriptions = self.num_subscriptions.max(other.num_subscriptions);
        self.num_inserts = self.num_inserts.max(other.num_inserts);
        self.num_removes = self.num_removes.max(other.num_removes);
        self.num_cache += other.num_cache;
        self.num_matches += other.num_matches;
        self.num_cache_hits += other.num_cache_hits;
        self.max_fanout = self.max_fanout.max(other.max_fanout);
        self.total_fanout += other.total_fanout;
    }
}
