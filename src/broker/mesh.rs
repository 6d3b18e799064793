//! Which routes there are: gossip, duplicates, the cluster's name, client URLs.

use std::collections::{BTreeMap, btree_map};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::go::quote;
use crate::base::id::{AccountIndex, SessionId};
use crate::base::limits::{
    ADDRESS_ROUTES_MAX, CLUSTER_URLS_MAX, DIALS_CROSS_WITHIN, GOSSIP_WAITING_MAX,
};
use crate::base::time::Instant;
use crate::base::user_info;
use crate::broker::Broker;
use crate::broker::dials::{Dials, Lost, LostHow};
use crate::broker::mail::Mail;
use crate::broker::read::Step;
use crate::broker::route::{HOME, Route};
use crate::broker::session::Session;
use crate::broker::settings::Settings;
use crate::wire::{CloseReason, Connect, Info, errors};

/// Account, subject and queue of an interest.
pub(super) type InterestKey = (AccountIndex, Bytes, Option<Bytes>);

/// How far a server is with its routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// A configured route, or one that a peer told of, may still come.
    UnderWay,
    /// Each is there, could not be had, or leads to this server itself.
    Ended {
        /// Changes with each route that comes or goes.
        changes: u64,
    },
}

/// The routes that this server looks for, and those it has.
#[derive(Debug, Default)]
pub(super) struct Routes {
    name: String,
    is_dynamic: bool,
    is_stopped: bool,
    /// How many local interests there are of each, over all loops.
    local: BTreeMap<InterestKey, u32>,
    /// The same of interests of engines for which is kept what clients send.
    engines: BTreeMap<(AccountIndex, Bytes), u32>,
    by_remote: BTreeMap<String, SessionId>,
    /// URLs for clients that the registered peers told, and how many of them told each.
    urls: BTreeMap<String, u32>,
    /// Registered routes that nobody vouches for, by the address that brought them.
    by_address: BTreeMap<IpAddr, usize>,
    pub(super) dials: Dials,
    /// How many routes were registered and how many of them have ended, together.
    changes: u64,
}

impl Routes {
    pub fn next_deadline(&self) -> Option<Instant> {
        self.dials.next_deadline()
    }

    pub fn cluster_name(&self) -> &str {
        &self.name
    }

    pub fn is_dynamic(&self) -> bool {
        self.is_dynamic
    }

    /// Sessions of the registered routes.
    pub fn registered(&self) -> Vec<SessionId> {
        self.by_remote.values().copied().collect()
    }

    pub fn registered_count(&self) -> usize {
        self.by_remote.len()
    }

    /// The first registered route behind the server `told`, in the order of their ids.
    pub fn next_registered(&self, told: Option<&str>) -> Option<(String, SessionId)> {
        let begin = told.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.by_remote.range::<str, _>((begin, Bound::Unbounded)).next();
        next.map(|(server, id)| (server.clone(), *id))
    }

    fn add_urls(&mut self, urls: &[String]) {
        for url in urls {
            *self.urls.entry(url.clone()).or_default() += 1;
        }
    }

    fn remove_urls(&mut self, urls: &[String]) {
        for url in urls {
            if let btree_map::Entry::Occupied(mut entry) = self.urls.entry(url.clone()) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
    }

    /// Whether a configured route is still looked for, or one that a peer told of.
    pub fn search(&self) -> Search {
        let changes = self.changes;
        if self.dials.are_awaited() { Search::UnderWay } else { Search::Ended { changes } }
    }

    /// Whether there is a registered route to the server of this id.
    pub fn is_registered(&self, remote_id: &str) -> bool {
        self.by_remote.contains_key(remote_id)
    }

    /// Whether no route is wanted any more.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Server ids of the peers of the registered routes.
    pub fn remotes(&self) -> Vec<String> {
        self.by_remote.keys().cloned().collect()
    }

    /// Counts local interest; gives the new count if peers have to be told.
    pub fn count(
        &mut self,
        (account, subject, queue): (AccountIndex, &Bytes, Option<&Bytes>),
        change: i64,
    ) -> Option<u32> {
        let key = (account, subject.clone(), queue.cloned());
        let old = self.local.get(&key).copied().unwrap_or(0);
        let new = u32::try_from(i64::from(old) + change).expect("what goes has come before");
        if new == 0 {
            self.local.remove(&key);
        } else {
            self.local.insert(key, new);
        }
        (queue.is_some() || old == 0 || new == 0).then_some(new)
    }

    /// Counts interests of engines for which is kept what clients send; says whether there is one
    /// if that has changed.
    pub fn count_engine(
        &mut self,
        (account, subject): (AccountIndex, &Bytes),
        change: i64,
    ) -> Option<bool> {
        let key = (account, subject.clone());
        let old = self.engines.get(&key).copied().unwrap_or(0);
        let new = u32::try_from(i64::from(old) + change).expect("what goes has come before");
        if new == 0 {
            self.engines.remove(&key);
        } else {
            self.engines.insert(key, new);
        }
        (old == 0 || new == 0).then_some(new != 0)
    }

    /// Whether such an engine listens.
    pub fn is_engine_interest(&self, account: AccountIndex, subject: &Bytes) -> bool {
        !self.engines.is_empty() && self.engines.contains_key(&(account, subject.clone()))
    }

    /// The first `most` of what such engines listen to behind `told`.
    pub fn engine_interests_after(
        &self,
        told: Option<&(AccountIndex, Bytes)>,
        most: usize,
    ) -> Vec<(AccountIndex, Bytes)> {
        let begin = told.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.engines.range::<(AccountIndex, Bytes), _>((begin, Bound::Unbounded));
        range.take(most).map(|(key, _)| key.clone()).collect()
    }

    /// Whether somebody else than such an engine listens here, in no queue.
    pub fn is_local_interest(&self, account: AccountIndex, subject: &Bytes) -> bool {
        self.local.contains_key(&(account, subject.clone(), None))
    }

    /// The first `most` local interests from `begin` on, and how many there are of each.
    pub fn local_interest(
        &self,
        begin: Bound<&InterestKey>,
        most: usize,
    ) -> Vec<(InterestKey, u32)> {
        let range = self.local.range::<InterestKey, _>((begin, Bound::Unbounded));
        range.take(most).map(|(key, count)| (key.clone(), *count)).collect()
    }

    /// CONNECT to the peer at `url` (spec core NATS, 10.3).
    pub fn connect_document(&self, url: &str, settings: &Settings) -> Connect {
        let own_user = settings.cluster.as_ref().and_then(|cluster| cluster.user.clone());
        let credentials = Url::parse(url).user.or(own_user);
        let (user, pass) = credentials.unzip();
        Connect {
            echo: Some(true),
            verbose: Some(false),
            pedantic: Some(false),
            user,
            pass,
            tls_required: Some(settings.cluster.as_ref().is_some_and(|cluster| cluster.tls)),
            headers: Some(settings.headers),
            name: Some(settings.server_id.clone()),
            cluster: Some(self.name.clone()),
            cluster_dynamic: self.is_dynamic.then_some(true),
            lnoc: Some(true),
            ..Connect::default()
        }
    }
}

/// A route URL: `[scheme://][user:password@]host:port[/]`.
struct Url {
    user: Option<(String, String)>,
    address: String,
}

impl Url {
    fn parse(url: &str) -> Self {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
        let (user, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, rest),
        };
        let split = |user: &str| match user.split_once(':') {
            Some((name, password)) => (user_info::decode(name), user_info::decode(password)),
            None => (user_info::decode(user), String::new()),
        };
        Self { user: user.map(split), address: address.to_ascii_lowercase() }
    }
}

impl Broker {
    /// Asks for the configured routes.
    pub(super) fn start_routes(&mut self) {
        let Some(cluster) = self.settings.cluster.clone().filter(|_| self.home == HOME) else {
            return;
        };
        self.routes.name.clone_from(&cluster.name);
        self.routes.is_dynamic = cluster.is_dynamic;
        for url in cluster.routes {
            self.dial(url, true, String::new());
        }
    }

    /// No route is dialled any more.
    pub(super) fn stop_routes(&mut self) {
        self.routes.is_stopped = true;
        self.routes.dials = Dials::default();
    }

    /// Both sides must have one name; a made-up one gives way (spec core NATS, 10.4).
    ///
    /// Where it is the peer's that gives way, the peer does so when it reads ours: the connection
    /// stays, because closing it would only cost the time until the next attempt.
    pub(super) fn agree_on_name(&mut self, id: SessionId, name: &str, is_dynamic: bool) -> bool {
        let routes = &mut self.routes;
        if name.is_empty() || name == routes.name {
            return true;
        }
        if !(routes.is_dynamic && (!is_dynamic || name > routes.name.as_str())) {
            return is_dynamic;
        }
        name.clone_into(&mut routes.name);
        routes.is_dynamic = is_dynamic;
        self.log(log::Level::Info, format!("Cluster name updated to {name}"));
        let name = Arc::new(name.to_owned());
        self.on_cluster_name(&name);
        self.mail_all(&Mail::ClusterName(name));
        // Those that are still being made were told the former name too.
        let is_other_route = |session: &&Session| {
            session.id != id && session.route().is_some() && !session.is_ending()
        };
        let others: Vec<SessionId> =
            self.sessions.iter().filter(is_other_route).map(|session| session.id).collect();
        for other in others {
            self.end(other, CloseReason::ClusterNameConflict);
        }
        true
    }

    /// The name of the cluster as clients are told it.
    pub(super) fn on_cluster_name(&mut self, name: &str) {
        name.clone_into(&mut self.info.cluster);
    }

    /// A route whose INFO was found good: it is the one to its peer, or a duplicate.
    pub(super) fn register(&mut self, id: SessionId, info: &Info) -> Step {
        if let Some(existing) = self.routes.by_remote.get(&info.server_id).copied() {
            if !self.must_yield(existing, id, &info.server_id) {
                return self.on_duplicate(id, existing, &info.server_id);
            }
            self.yield_route(existing, id);
        }
        // Whoever has authenticated is a peer; anybody else can come any number of times.
        let cluster = self.settings.cluster.as_ref();
        let is_open = cluster.is_some_and(|cluster| cluster.user.is_none() && !cluster.tls);
        let now = self.now.at;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        let peer = session.peer;
        let Some(route) = session.route_mut() else { return Step::End };
        if is_open && !route.did_solicit {
            let count = self.routes.by_address.entry(network_of(peer.ip())).or_default();
            if ADDRESS_ROUTES_MAX <= *count {
                return self.refuse_crowd(id, peer.ip());
            }
            *count += 1;
            route.is_counted = true;
        }
        (route.is_registered, route.registered_at) = (true, now);
        if let Some(url) = route.url.as_ref().filter(|_| route.did_solicit) {
            self.routes.dials.remove(url);
        }
        self.routes.changes += 1;
        self.routes.by_remote.insert(info.server_id.clone(), id);
        self.await_keeper(id);
        self.routes.add_urls(&info.connect_urls);
        let text = format!("Registering remote route {}", quote(&info.server_id));
        self.log_about(id, log::Level::Debug, &text);
        self.send_local_interest(id);
        let mut forwarded = Info { nonce: String::new(), ..info.clone() };
        if forwarded.ip.is_empty() {
            let address = std::net::SocketAddr::new(peer.ip(), 0);
            let host = address.to_string();
            let host = host.strip_suffix(":0").unwrap_or(&host);
            forwarded.ip = format!("nats-route://{host}:{}/", info.port);
        }
        self.introduce(id, &forwarded);
        self.urls_changed();
        Step::Done
    }

    fn refuse_crowd(&mut self, id: SessionId, address: IpAddr) -> Step {
        self.send_error(id, errors::CONNECTIONS_EXCEEDED);
        let text = format!(
            "No more than {ADDRESS_ROUTES_MAX} routes from {address} are taken while the cluster \
             has neither an authorization nor TLS"
        );
        self.refuse(id, &text, CloseReason::ConnectionsExceeded)
    }

    /// Where two members of a group dial each other at once, each has registered another one of two
    /// connections when it hears of the second, and would close the one that the other keeps. So
    /// both keep that of the member whose ID is the lower one.
    fn must_yield(&self, existing: SessionId, new: SessionId, remote_id: &str) -> bool {
        let (Some(kept), Some(other)) = (self.sessions.route(existing), self.sessions.route(new))
        else {
            return false;
        };
        let is_ours_first = &*self.settings.server_id < remote_id;
        let have_crossed = self.now.at.since(kept.registered_at) < DIALS_CROSS_WITHIN;
        let is_theirs = kept.is_dialled != is_ours_first && other.is_dialled == is_ours_first;
        is_theirs && have_crossed && self.is_sibling(new)
    }

    /// A registered route gives way to a new one to the same peer.
    fn yield_route(&mut self, existing: SessionId, new: SessionId) {
        let Some(kept) = self.sessions.route_mut(existing) else { return };
        kept.is_final = true;
        let solicited = Some((kept.url.clone(), kept.is_explicit)).filter(|_| kept.did_solicit);
        self.end(existing, CloseReason::DuplicateRoute);
        self.on_duplicate_closed(new, solicited);
    }

    fn on_duplicate(&mut self, new: SessionId, existing: SessionId, remote_id: &str) -> Step {
        let text = format!("Detected duplicate remote route {remote_id:?}");
        self.log_about(new, log::Level::Debug, &text);
        let solicited = self.sessions.route(new).filter(|route| route.did_solicit);
        let solicited = solicited.map(|route| (route.url.clone(), route.is_explicit));
        self.on_duplicate_closed(existing, solicited);
        self.end(new, CloseReason::DuplicateRoute);
        Step::End
    }

    /// A route is the one to its peer in place of another, which may have been solicited.
    fn on_duplicate_closed(&mut self, id: SessionId, other: Option<(Option<String>, bool)>) {
        let Some(kept) = self.sessions.route_mut(id) else { return };
        kept.is_retried = true;
        if let Some((url, is_explicit)) = other.filter(|_| !kept.did_solicit) {
            kept.did_solicit = true;
            kept.url = url;
            kept.is_explicit = is_explicit;
        }
    }

    /// A route is at its end: it is dialled again if it should be there (spec core NATS, 10.7).
    pub(super) fn on_route_ended(&mut self, id: SessionId) {
        self.on_claimant_gone(id);
        self.on_keeper_gone(id);
        self.on_keeper_lost(id);
        let Some(route) = self.sessions.route(id) else { return };
        let remote_id = route.remote_id().to_owned();
        let (is_explicit, did_solicit) = (route.is_explicit, route.did_solicit);
        let (is_final, is_retried) = (route.is_final, route.is_retried);
        let how = match route {
            Route { is_registered: true, .. } => LostHow::WasThere,
            Route { is_refused: true, .. } => LostHow::Refused,
            _ => LostHow::HungUp,
        };
        let url = route.url.clone();
        if how == LostHow::WasThere && self.routes.by_remote.get(&remote_id) == Some(&id) {
            self.unregister(id, &remote_id);
        }
        let Some(url) = url else { return };
        // Where a peer that dialled us says that it is found changes nothing of what is configured.
        if did_solicit && is_final {
            self.routes.dials.remove(&url);
        } else if !is_final && (did_solicit || (is_retried && !self.is_configured(&url))) {
            self.redial(url, Lost { remote_id, is_explicit, how });
        }
    }

    fn unregister(&mut self, id: SessionId, remote_id: &str) {
        self.routes.by_remote.remove(remote_id);
        self.routes.changes += 1;
        for url in self.routes.dials.take_known(remote_id) {
            let remote_id = remote_id.to_owned();
            self.redial(url, Lost { remote_id, is_explicit: true, how: LostHow::WasThere });
        }
        let Some(session) = self.sessions.get(id) else { return };
        let address = network_of(session.peer.ip());
        let Some(route) = session.route() else { return };
        if let Some(info) = &route.info {
            self.routes.remove_urls(&info.connect_urls);
        }
        if let btree_map::Entry::Occupied(mut count) = self.routes.by_address.entry(address)
            && route.is_counted
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.urls_changed();
    }

    /// A peer tells of another server (spec core NATS, 10.6).
    pub(super) fn on_gossip(&mut self, info: &Info) {
        let Some(cluster) = self.settings.cluster.clone() else { return };
        let address = format!("{}:{}", info.host, info.port).to_ascii_lowercase();
        let is_configured = cluster.routes.iter().any(|url| Url::parse(url).address == address);
        let is_known = info.server_id == self.settings.server_id
            || self.routes.by_remote.contains_key(&info.server_id)
            || self.routes.dials.seeks(&info.server_id);
        let is_full = GOSSIP_WAITING_MAX <= self.routes.dials.len();
        if is_configured || is_known || is_full || info.ip.is_empty() || self.routes.is_stopped {
            return;
        }
        let address = Url::parse(&info.ip).address;
        let url = match cluster.user.filter(|_| info.auth_required) {
            Some((user, password)) => {
                format!("{}@{address}", user_info::encode(&user, Some(&password)))
            }
            None => address,
        };
        self.dial(url, false, info.server_id.clone());
    }

    /// A peer takes no more clients: they are not sent to it.
    pub(super) fn forget_urls(&mut self, id: SessionId) {
        let route = self.sessions.route_mut(id).filter(|route| route.is_registered);
        if let Some(info) = route.and_then(|route| route.info.as_mut()) {
            self.routes.remove_urls(&std::mem::take(&mut info.connect_urls));
        }
        self.urls_changed();
    }

    /// What clients are told: our URLs, then those of our peers; nothing before a peer has any.
    pub(super) fn update_urls(&mut self) {
        // Whoever is sent away now finds the peers that it was told of, not those that are left
        // while one route after the other is closed.
        if self.routes.is_stopped {
            return;
        }
        let is_silent = self.settings.cluster.as_ref().is_none_or(|cluster| cluster.no_advertise);
        let most = if is_silent { 0 } else { CLUSTER_URLS_MAX };
        let mut urls: Vec<String> = self.routes.urls.keys().take(most).cloned().collect();
        self.work += urls.len() as u64;
        // Compat: a server whose last peer is gone goes on telling its own URLs; pinned by
        // `clients_learn_the_urls_of_the_cluster`.
        let is_told = !urls.is_empty() || !self.info.connect_urls.is_empty();
        if is_told && !is_silent && !self.is_lame_duck {
            urls.splice(..0, self.settings.client_urls.iter().cloned());
        }
        let urls = Arc::new(urls);
        self.on_connect_urls(Arc::clone(&urls));
        self.mail_all(&Mail::ConnectUrls(urls));
    }

    /// Routes that are no longer configured go, new ones are dialled.
    pub(super) fn on_cluster_reload(&mut self) {
        let Some(cluster) = self.settings.cluster.clone().filter(|_| self.home == HOME) else {
            return;
        };
        let mut present = Vec::new();
        for id in self.sessions.ids() {
            let Some(session) = self.sessions.get(id).filter(|found| !found.is_ending()) else {
                continue;
            };
            let Some(route) = session.route().filter(|route| route.is_explicit) else { continue };
            let Some(url) = route.url.clone() else { continue };
            if cluster.routes.contains(&url) {
                present.push(url);
            } else {
                let address = Url::parse(&url).address;
                self.end(id, CloseReason::RouteRemoved);
                self.log(log::Level::Info, format!("Removed route nats://{address}"));
            }
        }
        self.routes.dials.keep_configured(&cluster.routes);
        for url in cluster.routes {
            if !present.contains(&url) && !self.routes.dials.is_known(&url) {
                self.dial(url, true, String::new());
            }
        }
        self.urls_changed();
    }
}

/// What counts as one address: of IPv6 a host has as many as it wants of its network.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            std::net::Ipv6Addr::from_bits(bits >> 64 << 64).into()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        for (address, network) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::"),
        ] {
            let (address, network): (IpAddr, IpAddr) =
                (address.parse().unwrap(), network.parse().unwrap());
            assert_eq!(network_of(address), network);
        }
    }

    #[test]
    fn urls_with_and_without_users_and_schemes() {
        for (url, user, address) in [
            ("a:6222", None, "a:6222"),
            ("nats-route://A:6222/", None, "a:6222"),
            ("nats://u:p@[::1]:6222", Some(("u", "p")), "[::1]:6222"),
            ("u%3a:a%2Fb%40@a:6222", Some(("u:", "a/b@")), "a:6222"),
        ] {
            let found = Url::parse(url);
            assert_eq!(found.address, address);
            let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
            assert_eq!(found.user, user);
        }
    }
}
