//! One cluster route: what to tell the peer, what it told us.
//!
//! Loop 0 owns all routes: it sees the interest of every loop, so it can say what the whole
//! process wants. Messages go one hop: what came in by a route is for local receivers only
//! (spec core NATS, 10). `mesh` decides which routes there are.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};

use crate::base::epoch::Epoch;
use crate::base::go::quote;
use crate::base::id::{AccountIndex, LoopIndex, SessionId};
use crate::base::limits::PEER_URLS_MAX;
use crate::base::subject;
use crate::base::time::Instant;
use crate::broker::account::SubjectRules;
use crate::broker::auth::{self, Credentials, Decision};
use crate::broker::delivery::{Message, Source, is_spread};
use crate::broker::kind::Kind;
use crate::broker::mail::Mail;
use crate::broker::past::Past;
use crate::broker::read::Step;
use crate::broker::session::{Claim, Phase, Session, Timer};
use crate::broker::settings::{Auth, Cluster};
use crate::broker::snapshot::RouteSnapshot;
use crate::broker::sublist::{Interest, Matched};
use crate::broker::{Broker, EngineInterest};
use crate::wire::connect::{LEDGER_VERSION, SubjectLists};
use crate::wire::op::{RouteInterest, RouteMessage};
use crate::wire::{CloseReason, Connect, Info, Kept, Op, encoder, errors};

/// The loop that owns all routes.
pub const HOME: LoopIndex = LoopIndex(0);

/// Version of the route protocol that this server speaks.
const ROUTE_PROTOCOL: i64 = 2;

/// Letters of a nonce.
const NONCE_LEN: usize = 15;

/// Bytes that a peer may take to say who it is.
const INTRODUCTION_LEN_MAX: usize = 256 * 1024;

/// Work of an RS+ that adds nothing, in receivers of a message: other loops may hear of it.
const RESUBSCRIBE_WORK: u64 = 2;

/// What only a route's session has.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// Where to dial it again: as configured or gossiped, or from the INFO of an accepted one.
    pub url: Option<String>,
    /// Whether this very connection was dialled from here.
    pub is_dialled: bool,
    /// Whether it is dialled again from here when it ends.
    pub did_solicit: bool,
    pub is_explicit: bool,
    /// Whether a duplicate of it was closed: it dials again when it drops, because the other
    /// side may have closed the other of the two.
    pub is_retried: bool,
    /// Whether it must not come back: a route to ourselves.
    pub is_final: bool,
    /// Whether one of both found a fault with the other.
    pub is_refused: bool,
    /// The peer's INFO, once it came.
    pub info: Option<Box<Info>>,
    pub is_registered: bool,
    pub registered_at: Instant,
    /// Whether it is one of those that its address may bring.
    pub is_counted: bool,
    /// Bytes that it said before.
    introduction_len: usize,
    /// What the next message is that its peer keeps, if it does not say otherwise.
    pub kept: Option<Kept>,
    /// The same of what it is told: said only where it is another one.
    pub told_kept: Option<Kept>,
    /// The peer's number as one that keeps inputs, once it has sent one.
    pub keeper: Option<NonZeroU32>,
    /// What it carries from before this process became active.
    pub past: Past,
}

impl Route {
    /// One that we opened to `url`.
    pub fn solicited(url: String, is_explicit: bool) -> Self {
        let (is_dialled, did_solicit) = (true, true);
        Self { url: Some(url), is_dialled, did_solicit, is_explicit, ..Self::default() }
    }

    /// The peer's server id; empty before its INFO.
    pub fn remote_id(&self) -> &str {
        self.info.as_ref().map_or("", |info| &info.server_id)
    }
}

fn lists(rules: &SubjectRules) -> Option<SubjectLists> {
    let deny = Some(rules.deny.clone()).filter(|deny| !deny.is_empty());
    let allow = rules.allow.clone();
    (allow.is_some() || deny.is_some()).then_some(SubjectLists { allow, deny })
}

impl Broker {
    /// A route's connection was made.
    pub(super) fn open_route(&mut self, id: SessionId, peer: SocketAddr, route: Route) {
        let cid = self.counters.connection_ids.fetch_add(1, Ordering::Relaxed) + 1;
        let did_solicit = route.did_solicit;
        let mut session = Session::new(id, cid, Kind::Route(Box::new(route)), peer, self.now);
        let Some(cluster) = self.settings.cluster.clone().filter(|_| self.home == HOME) else {
            self.sessions.insert(session);
            self.end(id, CloseReason::RouteRemoved);
            return;
        };
        session.is_auth_pending = !did_solicit && cluster.user.is_some();
        if cluster.tls {
            session.phase = Phase::AwaitTls { is_optional: false };
            self.deadlines.arm((id, Timer::Tls), self.now.at + self.settings.tls_timeout);
        }
        self.sessions.insert(session);
        if !cluster.tls {
            self.begin_route(id);
        }
    }

    /// The connection is ready (encrypted, if it has to be). Both say INFO at once; before it, who
    /// dialled says CONNECT.
    pub(super) fn begin_route(&mut self, id: SessionId) {
        let Some(cluster) = self.settings.cluster.clone() else { return };
        // Compat: the reference has one, which nobody signs; pinned by `both_sides_say_info_first`.
        let info = Info { nonce: self.nonce(), ..self.route_info(&cluster) };
        let Some(session) = self.sessions.get_mut(id) else { return };
        let route = session.route().filter(|route| route.did_solicit);
        let url = route.and_then(|route| route.url.clone());
        let did_solicit = url.is_some();
        if let Some(url) = url {
            let json = self.routes.connect_document(&url, &self.settings).encode();
            encoder::encode(&Op::Connect(&json), session.outbox.tail());
        }
        write_info(session, &info);
        self.mark_dirty(id);
        if did_solicit {
            self.log_about(id, log::Level::Debug, "Route connect msg sent");
        }
        if did_solicit || cluster.user.is_some() {
            self.deadlines.arm((id, Timer::Auth), self.now.at + cluster.auth_timeout);
        }
        self.log_about(id, log::Level::Info, "Route connection created");
        self.arm_first_ping(id);
    }

    /// So many random bytes as text, as the reference has them in INFO.
    fn nonce(&mut self) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let letter = |place| LETTERS.get(usize::try_from(place).ok()?).copied();
        let letters = (0..NONCE_LEN).filter_map(|_| letter(self.random.below(64)));
        letters.map(char::from).collect()
    }

    /// What a stranger said is through. However long it goes on, it is not listened to for ever.
    pub(super) fn on_introduction(&mut self, id: SessionId, len: usize) -> Step {
        let Some(route) = self.sessions.route_mut(id) else { return Step::End };
        route.introduction_len += len;
        if INTRODUCTION_LEN_MAX < route.introduction_len && !route.is_registered {
            let text = "Route says much and not who it is";
            return self.refuse(id, text, CloseReason::ProtocolViolation);
        }
        Step::Done
    }

    /// What routes may say to this server, and hear of it.
    pub(super) fn route_lists(cluster: &Cluster) -> (Option<SubjectLists>, Option<SubjectLists>) {
        let permissions = cluster.permissions.as_ref();
        let import = permissions.and_then(|found| lists(&found.publish));
        (import, permissions.and_then(|found| lists(&found.subscribe)))
    }

    /// INFO as routes get it (spec core NATS, 10.3).
    pub(super) fn route_info(&self, cluster: &Cluster) -> Info {
        let (import, export) = Self::route_lists(cluster);
        let urls = if cluster.no_advertise { &[][..] } else { &self.settings.client_urls[..] };
        Info {
            proto: ROUTE_PROTOCOL,
            host: cluster.host.clone(),
            port: i64::from(cluster.port),
            auth_required: cluster.user.is_some(),
            tls_required: cluster.tls,
            tls_verify: cluster.tls,
            tls_available: false,
            ip: if cluster.is_advertised {
                format!("nats-route://{}:{}/", cluster.host, cluster.port)
            } else {
                String::new()
            },
            cluster: self.routes.cluster_name().to_owned(),
            cluster_dynamic: self.routes.is_dynamic(),
            connect_urls: urls.to_vec(),
            import,
            export,
            lnoc: true,
            stanby_inboxes: true,
            stanby_ledger: if self.keeps() { self.settings.group.clone() } else { String::new() },
            stanby_ledger_version: if self.keeps() { LEDGER_VERSION } else { 0 },
            ldm: self.is_lame_duck,
            ..self.info.clone()
        }
    }

    /// What a route's operations do.
    pub(super) fn on_route_op(&mut self, id: SessionId, op: &Op<'_>) -> Step {
        if let Some(session) = self.sessions.get_mut(id) {
            session.ping.heard_at = self.now.at;
        }
        match op {
            Op::Connect(json) => self.on_route_connect(id, json),
            Op::Info(json) => self.on_route_info(id, json),
            Op::RouteSubscribe { interest, weight } => {
                self.on_route_subscribe(id, interest, *weight)
            }
            Op::RouteUnsubscribe(interest) => self.on_route_unsubscribe(id, interest),
            Op::RouteMessage(_) => unreachable!("messages are handled before"),
            Op::Ping => {
                self.send_pong(id);
                Step::Done
            }
            Op::Pong => self.on_pong(id),
            Op::EngineInterest { epoch, account, subject, is_listening } => {
                self.on_engine_interest(id, Epoch(*epoch), (account, subject, *is_listening))
            }
            Op::EngineState { epoch, state } => self.on_engine_state(id, Epoch(*epoch), *state),
            Op::Kept(kept) => self.on_kept(id, *kept),
            Op::Done { epoch, marks } => self.on_marks(id, Epoch(*epoch), marks),
            Op::Told { epoch } => self.on_told(id, Epoch(*epoch)),
            Op::Ok | Op::Account(..) => Step::Done,
            Op::Err(text) => {
                let text = format!("Route Error {}", String::from_utf8_lossy(text));
                self.refuse(id, &text, CloseReason::ParseError)
            }
            Op::Publish(_) | Op::Subscribe { .. } | Op::Unsubscribe { .. } | Op::Message { .. } => {
                unreachable!("the parser gives none of these for a route")
            }
        }
    }

    fn on_route_connect(&mut self, id: SessionId, json: &[u8]) -> Step {
        let Some(connect) = self.document(id, json, Connect::decode_route) else {
            return Step::End;
        };
        if connect.lang.as_ref().is_some_and(|lang| !lang.is_empty()) {
            self.log_about(id, log::Level::Error, errors::ROUTE_PORT);
            self.send_error(id, errors::ROUTE_PORT);
            self.end(id, CloseReason::IncorrectPort);
            return Step::End;
        }
        if let Some(gateway) = connect.gateway.as_ref().filter(|gateway| !gateway.is_empty()) {
            let text = format!("Rejecting connection from gateway \"{gateway}\" on the Route port");
            self.send_error(id, &text);
            return self.refuse(id, &text, CloseReason::IncorrectPort);
        }
        let named =
            (connect.cluster.clone().unwrap_or_default(), connect.cluster_dynamic.unwrap_or(false));
        let Some(cluster) = self.settings.cluster.clone() else { return Step::End };
        if cluster.user.is_some() {
            let auth = Auth { user: cluster.user.clone(), ..Auth::default() };
            let credentials = Credentials {
                user: connect.user.clone().unwrap_or_default(),
                password: connect.pass.clone().unwrap_or_default(),
                token: String::new(),
            };
            match auth::decide(&auth, &credentials, None) {
                Ok(Decision::Known(_)) => (),
                Ok(Decision::Hashed { hash, .. }) => {
                    self.verify(id, credentials.password, (hash, Claim::Server(named)));
                    self.await_turn(id, cluster.auth_timeout);
                    return Step::Done;
                }
                Err(_) => return self.refuse_route(id),
            }
        }
        self.on_route_admitted(id, &named)
    }

    pub(super) fn refuse_route(&mut self, id: SessionId) -> Step {
        self.log_about(id, log::Level::Error, "authentication error");
        self.violation(id)
    }

    /// The peer may be here.
    pub(super) fn on_route_admitted(
        &mut self,
        id: SessionId,
        (name, is_dynamic): &(String, bool),
    ) -> Step {
        self.deadlines.cancel(&(id, Timer::Auth));
        if let Some(session) = self.sessions.get_mut(id) {
            session.is_auth_pending = false;
        }
        if !self.agree_on_name(id, name, *is_dynamic) {
            let text = errors::cluster_name_rejected(name, self.routes.cluster_name());
            self.send_error(id, &text);
            return self.refuse(id, &text, CloseReason::ClusterNameConflict);
        }
        Step::Done
    }

    fn on_route_info(&mut self, id: SessionId, json: &[u8]) -> Step {
        let Some(mut info) = self.document(id, json, Info::decode) else { return Step::End };
        // All of them go to each client: so many that none could use them are not passed on.
        info.connect_urls.truncate(PEER_URLS_MAX);
        info.ws_connect_urls.truncate(PEER_URLS_MAX);
        let Some(route) = self.sessions.route(id) else { return Step::End };
        if route.info.is_none() {
            return self.on_first_info(id, info);
        }
        if !info.gateway.is_empty() {
            return Step::Done;
        }
        if let Some(news) = &info.stanby_inbox
            && info.server_id == route.remote_id()
        {
            self.on_inbox_news(id, news);
            return Step::Done;
        }
        if info.server_id != route.remote_id() {
            self.on_gossip(&info);
        } else if info.ldm {
            self.forget_urls(id);
        }
        Step::Done
    }

    /// Checks and registration (spec core NATS, 10.4).
    fn on_first_info(&mut self, id: SessionId, info: Info) -> Step {
        let own_id = self.settings.server_id.clone();
        let has_headers = info.headers && self.settings.headers;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.has_headers = has_headers;
        let peer = session.peer;
        let Some(route) = session.route_mut() else { return Step::End };
        let did_solicit = route.did_solicit;
        if route.url.is_none() {
            let address = match peer.ip() {
                std::net::IpAddr::V4(ip) => format!("{ip}:{}", info.port),
                std::net::IpAddr::V6(ip) => format!("[{ip}]:{}", info.port),
            };
            route.url = Some(if info.ip.is_empty() { address } else { info.ip.clone() });
        }
        route.info = Some(Box::new(info.clone()));
        if info.server_id == own_id {
            route.is_final = true;
            self.log_about(id, log::Level::Debug, "Detected route to self, ignoring");
            self.end(id, CloseReason::DuplicateRoute);
            return Step::End;
        }
        if !info.route_account.is_empty() {
            // A newer peer tries a connection for one account beside the one for all; it learns
            // from our INFO that we have none. Registered, it could displace the other.
            let text = format!("No dedicated route for account {}", quote(&info.route_account));
            self.log_about(id, log::Level::Debug, &text);
            self.end(id, CloseReason::DuplicateRoute);
            return Step::End;
        }
        let is_agreed = self.agree_on_name(id, &info.cluster, info.cluster_dynamic);
        if did_solicit {
            self.deadlines.cancel(&(id, Timer::Auth));
        }
        if !is_agreed {
            let text = errors::cluster_name_rejected(&info.cluster, self.routes.cluster_name());
            return self.refuse(id, &text, CloseReason::ClusterNameConflict);
        }
        if !did_solicit && info.server_name == self.settings.server_name {
            let text = format!("Remote server has a duplicate name: {}", quote(&info.server_name));
            return self.refuse(id, &text, CloseReason::DuplicateServerName);
        }
        self.register(id, &info)
    }

    fn on_route_subscribe(
        &mut self,
        id: SessionId,
        wanted: &RouteInterest<'_>,
        weight: u32,
    ) -> Step {
        self.work += RESUBSCRIBE_WORK;
        // Other accounts are those of Go peers.
        let Some(account) = self.accounts.find(wanted.account) else { return Step::Done };
        if !subject::is_valid(wanted.subject) {
            self.send_error(id, errors::INVALID_SUBSCRIPTION);
            return Step::Done;
        }
        if !self.may_export(wanted.subject) {
            let subject = String::from_utf8_lossy(wanted.subject);
            let text = format!("Can not export {subject:?}, ignoring remote subscription request");
            self.log_about(id, log::Level::Debug, &text);
            return Step::Done;
        }
        let key = key_of(account, wanted);
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.active_at = self.now.wall;
        if let Some(known) = session.interests.get(&key).cloned() {
            known.weight.store(weight, Ordering::Relaxed);
            self.accounts[account].reweigh(&known);
            self.mail_all(&Mail::Weight(known));
            return Step::Done;
        }
        let queue_at = key.len() - wanted.queue.map_or(0, <[u8]>::len);
        let subject_end = queue_at - usize::from(wanted.queue.is_some());
        let subject = key.slice(subject_end - wanted.subject.len()..subject_end);
        let names = (subject, wanted.queue.map(|_| key.slice(queue_at..)), key);
        let interest = Interest::new(session, account, names, self.settings.loops);
        let weight = AtomicU32::new(weight);
        self.note_rival(id, account, &interest.subject);
        self.add_interest(Arc::new(Interest { weight, ..interest }));
        Step::Done
    }

    /// Another server of our cluster ID that is heard while we serve as the only one. If it does
    /// not end, clients are answered by both, and whoever runs them has to know.
    fn note_rival(&mut self, id: SessionId, account: AccountIndex, subject: &[u8]) {
        let discovery = self.settings.discovery.as_ref();
        let Some(discovery) = discovery.filter(|one| one.is_alone && one.is_own(subject)) else {
            return;
        };
        if !self.accounts[account].is_served(subject) {
            return;
        }
        if !self.unheard.may_name_rival(self.now.at) {
            return;
        }
        let text = format!(
            "Another streaming server of cluster ID {:?} has come into this NATS cluster; if it \
             stays, give one of both another ID, or both one store and -ft_group",
            discovery.cluster_id
        );
        self.log_about(id, log::Level::Warn, &text);
    }

    fn on_route_unsubscribe(&mut self, id: SessionId, gone: &RouteInterest<'_>) -> Step {
        let Some(account) = self.accounts.find(gone.account) else { return Step::Done };
        let key = key_of(account, gone);
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.active_at = self.now.wall;
        if let Some(interest) = session.interests.get(&key).cloned() {
            self.end_interest(&interest);
        }
        Step::Done
    }

    pub(super) fn on_route_message(
        &mut self,
        id: SessionId,
        routed: &RouteMessage<'_>,
        frame: Option<&Bytes>,
        matched: Option<&Matched>,
    ) -> Step {
        let publish = &routed.message;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = self.now.at;
        session.active_at = self.now.wall;
        session.traffic.came_in(publish.payload.len());
        self.traffic.came_in(publish.payload.len());
        let Some(account) = self.accounts.find(routed.account) else {
            if !routed.is_kept {
                return Step::Done;
            }
            // Engines have said that they listen there, or nobody would keep anything for it.
            let text = "Route Error: it keeps something for an account that is not here";
            return self.refuse(id, text, CloseReason::ProtocolViolation);
        };
        if routed.is_kept {
            let route = self.sessions.route_mut(id);
            let kept = route.and_then(|route| route.kept.replace(route.kept?.next()));
            let Some(kept) = kept else {
                let text = "Route Error: a message is kept, and nothing was said of it";
                return self.refuse(id, text, CloseReason::ProtocolViolation);
            };
            let message = Message::said(account, publish, frame);
            return self.on_kept_message(id, kept, &message, matched);
        }
        let message = Message {
            via: self.hears_of_inboxes(id).then_some(id),
            ..Message::said(account, publish, frame)
        };
        let source = Source::Route { session: id, names: routed.queues };
        if let Some(matched) = matched {
            self.deliver(matched, &message, &source);
        }
        let step = self.step_of(id);
        match matched {
            Some(matched)
                if step == Step::Done && is_spread(matched, publish, Some(routed.queues)) =>
            {
                Step::Yielded
            }
            Some(_) | None => step,
        }
    }

    /// Local interest changed by `change`: tells all routes (spec core NATS, 4.5).
    pub(super) fn announce(
        &mut self,
        (account, subject, queue): (AccountIndex, &Bytes, Option<&Bytes>),
        change: i64,
    ) {
        if self.home != HOME || self.settings.cluster.is_none() {
            return;
        }
        let Some(count) = self.routes.count((account, subject, queue), change) else { return };
        if !self.may_import(subject) {
            return;
        }
        // Others than siblings were told of it because an engine listens.
        let is_told = queue.is_none() && self.routes.is_engine_interest(account, subject);
        for id in self.routes.registered() {
            self.work += 1;
            if is_told && !self.is_sibling(id) {
                continue;
            }
            if let Some(session) = self.sessions.get_mut(id).filter(|found| !found.is_ending()) {
                let name = self.accounts.name(account);
                write_interest(session, (name, subject, queue), count);
                self.mark_dirty(id);
                self.look_at_route(id);
            }
        }
    }

    /// An engine listens, or no longer: siblings hear that it is one, others what they always hear.
    pub(super) fn announce_engine(
        &mut self,
        interest: EngineInterest,
        subject: &Bytes,
        change: i64,
    ) {
        let account = interest.account;
        let Some(epoch) = interest.keeper else {
            return self.announce((account, subject, None), change);
        };
        if self.home != HOME {
            return;
        }
        if 0 < change {
            self.on_own_engine(epoch);
        }
        let Some(is_listening) = self.routes.count_engine((account, subject), change) else {
            return;
        };
        if self.settings.cluster.is_none() || !self.may_import(subject) {
            return;
        }
        let is_told = self.routes.is_local_interest(account, subject);
        for id in self.routes.registered() {
            self.work += 1;
            let is_sibling = self.is_sibling(id);
            let session = self.sessions.get_mut(id).filter(|found| !found.is_ending());
            let Some(session) = session else { continue };
            let name = self.accounts.name(account);
            if is_sibling && self.serving.is_over(epoch) {
                continue;
            }
            if is_sibling {
                write_engine_interest(session, (name, subject), epoch, is_listening);
            } else if !is_told {
                write_interest(session, (name, subject, None), u32::from(is_listening));
            }
            self.mark_dirty(id);
            self.look_at_route(id);
        }
    }

    /// Whether interest in `subject` is told to peers.
    pub(super) fn may_import(&self, subject: &[u8]) -> bool {
        let cluster = self.settings.cluster.as_ref();
        let permissions = cluster.and_then(|cluster| cluster.permissions.as_ref());
        permissions.is_none_or(|permissions| permissions.publish.allows(subject, true))
    }

    /// Whether peers may be interested in `subject`.
    fn may_export(&self, subject: &[u8]) -> bool {
        let cluster = self.settings.cluster.as_ref();
        let permissions = cluster.and_then(|cluster| cluster.permissions.as_ref());
        permissions.is_none_or(|permissions| permissions.subscribe.allows(subject, true))
    }

    /// A registered route for monitoring, without its interests.
    pub(super) fn route_snapshot(session: &Session) -> Option<RouteSnapshot> {
        let route = session.route().filter(|route| route.is_registered)?;
        let info = route.info.as_ref()?;
        Some(RouteSnapshot {
            rid: session.cid,
            remote_id: info.server_id.clone(),
            remote_name: info.server_name.clone(),
            did_solicit: route.did_solicit,
            is_configured: route.is_explicit,
            peer: session.peer,
            start: session.started.wall,
            last_activity: session.active_at,
            rtt: session.ping.rtt,
            import: info.import.clone(),
            export: info.export.clone(),
            pending_bytes: session.outbox.len(),
            traffic: session.traffic,
            subscription_count: session.interests.len(),
            subscriptions: Vec::new(),
        })
    }
}

/// `INFO <json> \r\n`.
pub(super) fn write_info(session: &mut Session, info: &Info) {
    encode_info(info, session.outbox.tail());
    session.outbox.seal(false);
}

/// The same, to be said to many.
pub(super) fn encode_info(info: &Info, out: &mut BytesMut) {
    out.extend_from_slice(b"INFO ");
    out.extend_from_slice(&info.encode());
    out.extend_from_slice(b" \r\n");
}

/// What is wanted here of a subject, in the account of this name.
pub(super) fn write_interest(
    session: &mut Session,
    (account, subject, queue): (&str, &[u8], Option<&Bytes>),
    count: u32,
) {
    let (account, queue) = (account.as_bytes(), queue.map(|queue| &queue[..]));
    let interest = RouteInterest { origin: None, account, subject, queue };
    let op = match count {
        0 => Op::RouteUnsubscribe(interest),
        weight => Op::RouteSubscribe { interest, weight },
    };
    encoder::encode(&op, session.outbox.tail());
    session.outbox.seal(false);
}

/// What an engine of an epoch listens to, in the account of this name, or no longer.
pub(super) fn write_engine_interest(
    session: &mut Session,
    (account, subject): (&str, &[u8]),
    epoch: Epoch,
    is_listening: bool,
) {
    let (epoch, account) = (epoch.0, account.as_bytes());
    let op = Op::EngineInterest { epoch, account, subject, is_listening };
    encoder::encode(&op, session.outbox.tail());
    session.outbox.seal(false);
}

/// What tells a route's interests apart: `<subject>` or `<subject> <queue>`; of other accounts than
/// that of everybody with their number and a blank before it, which is in no subject.
fn key_of(account: AccountIndex, interest: &RouteInterest<'_>) -> Bytes {
    let mut key = Vec::new();
    if account != AccountIndex::GLOBAL {
        key.extend_from_slice(format!("{} ", account.0).as_bytes());
    }
    key.extend_from_slice(interest.subject);
    if let Some(queue) = interest.queue {
        key.push(b' ');
        key.extend_from_slice(queue);
    }
    Bytes::from(key)
}
