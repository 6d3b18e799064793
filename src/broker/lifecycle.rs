//! How sessions begin and end, and what comes due in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::go::show;
use crate::base::id::SessionId;
use crate::broker::auth::Refusal;
use crate::broker::client::Client;
use crate::broker::read::Step;
use crate::broker::route::write_info;
use crate::broker::session::{Phase, Session, Timer};
use crate::broker::settings::{ClientTls, Settings};
use crate::broker::snapshot::CLOSED_MAX;
use crate::broker::{Broker, Effect, TlsPeer};
use crate::wire::{CloseReason, Info, Op, encoder, errors};

/// Interests that are remembered of a connection that was closed.
const CLOSED_SUBSCRIPTIONS_MAX: usize = 1024;

/// Interests that are remembered of all connections that were closed.
const CLOSED_SUBSCRIPTIONS_TOTAL: usize = 64 * 1024;

/// After this time the round trip is measured again.
const RTT_INTERVAL: Duration = Duration::from_secs(3600);

/// A first PING comes up to this part of its time later, so that they spread.
const PING_SPREAD_PERCENT: u64 = 20;

impl Broker {
    /// A client that may use TLS does not.
    pub(super) fn on_plain(&mut self, id: SessionId) {
        self.deadlines.cancel(&(id, Timer::Tls));
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Open;
        }
        self.arm_auth(id);
    }

    /// The TLS handshake of a session is done.
    pub(super) fn on_tls_established(&mut self, id: SessionId, peer: TlsPeer) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        self.deadlines.cancel(&(id, Timer::Tls));
        let line = format!("TLS version {}, cipher suite {}", peer.version, peer.cipher);
        session.tls = Some(Box::new(peer));
        if session.is_ending() {
            return;
        }
        session.phase = Phase::Open;
        self.log_about(id, log::Level::Debug, &line);
        self.on_ready(id);
    }

    pub(super) fn arm_auth(&mut self, id: SessionId) {
        if self.sessions.get(id).is_some_and(|session| session.is_auth_pending) {
            self.deadlines.arm((id, Timer::Auth), self.now.at + self.settings.auth.timeout);
        }
    }

    /// INFO as clients get it.
    pub(super) fn send_info(&mut self, id: SessionId) {
        let version = self.urls_version;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (client_id, client_ip) = (session.cid, session.peer.ip().to_string());
        if let Some(client) = session.client_mut() {
            client.urls_version = version;
        }
        write_info(session, &Info { client_id, client_ip, ..self.info.clone() });
        self.mark_dirty(id);
    }

    /// Whether it is a client that wants to hear of changes.
    pub(super) fn hears_info(&self, id: SessionId) -> bool {
        let session = self.sessions.get(id).filter(|session| !session.is_ending());
        session.and_then(Session::client).is_some_and(Client::hears_info)
    }

    /// The client list of `connect_urls` is another one.
    pub(super) fn on_connect_urls(&mut self, urls: Arc<Vec<String>>) {
        if *urls == self.info.connect_urls {
            return;
        }
        self.info.connect_urls = urls.to_vec();
        self.urls_version += 1;
        self.inform_clients();
    }

    /// Peers and clients are told that clients have to go elsewhere (spec core NATS, 18.4).
    ///
    /// Each loop tells its own clients; the one that owns the routes tells the peers too.
    pub(super) fn on_lame_duck(&mut self) {
        self.is_lame_duck = true;
        if let Some(cluster) = self.settings.cluster.clone() {
            let info = self.route_info(&cluster);
            for id in self.routes.registered() {
                if let Some(session) = self.sessions.get_mut(id) {
                    write_info(session, &info);
                    self.mark_dirty(id);
                }
            }
        }
        let own = &self.settings.client_urls;
        self.info.connect_urls.retain(|url| !own.contains(url));
        self.urls_version += 1;
        // Only this one INFO says so; what is told later (another list) does not.
        self.info.ldm = true;
        for id in self.sessions.ids() {
            if self.hears_info(id) {
                self.send_info(id);
            }
        }
        self.info.ldm = false;
    }

    /// What INFO to clients says, but for the client.
    pub(super) fn client_info(settings: &Settings, connect_urls: Vec<String>) -> Info {
        let (tls_required, tls_available, tls_verify) = match settings.tls {
            ClientTls::Off => (false, false, false),
            ClientTls::Required { verify } => (true, false, verify),
            ClientTls::Available { verify } => (false, true, verify),
        };
        let auth = &settings.auth;
        let cluster = settings.cluster.as_ref().map(|cluster| cluster.name.clone());
        Info {
            server_id: settings.server_id.clone(),
            server_name: settings.server_name.clone(),
            version: settings.version.clone(),
            proto: 1,
            go: settings.go.clone(),
            host: settings.host.clone(),
            port: i64::from(settings.port),
            headers: settings.headers,
            auth_required: auth.is_required() && auth.no_auth_user.is_none(),
            tls_required,
            tls_verify,
            tls_available,
            max_payload: i64::try_from(settings.max_payload).unwrap_or(i64::MAX),
            cluster: cluster.unwrap_or_else(|| settings.cluster_name.clone()),
            connect_urls,
            ..Info::default()
        }
    }

    /// Ends a session: what waits for it still goes out.
    pub(super) fn end(&mut self, id: SessionId, reason: CloseReason) {
        self.finish(id, reason.text(), true, true);
    }

    /// Ends a session at once.
    pub(super) fn cut(&mut self, id: SessionId, reason: CloseReason) {
        self.finish(id, reason.text(), false, true);
    }

    /// Takes all that a session had away; the session itself stays until its socket is gone.
    fn finish(&mut self, id: SessionId, reason: &str, flush: bool, has_socket: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.is_ending() {
            return;
        }
        let rules = session.rules();
        let shown = if rules.is_server { 0 } else { CLOSED_SUBSCRIPTIONS_MAX };
        let subscriptions = session.first_subscriptions(shown);
        let subscription_count = session.interests.len();
        let reason_kept = reason.to_owned();
        session.phase = Phase::Ending { reason: reason_kept, subscription_count, subscriptions };
        self.tell_peers_room(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.outbox.gauge().close();
        let interests = std::mem::take(&mut session.interests);
        if let Some(verifying) = session.verifying.take() {
            verifying.asked.drop_unbegun();
        }
        if !flush {
            session.outbox.clear();
        }
        if let Some(client) = session.client_mut() {
            client.stall = None;
            if std::mem::take(&mut client.is_counted) {
                self.counters.clients.fetch_sub(1, Ordering::Relaxed);
            }
        }
        for timer in [Timer::Tls, Timer::Auth, Timer::Ping, Timer::Stall] {
            self.deadlines.cancel(&(id, timer));
        }
        self.engines.paused.remove(&id);
        self.on_ledger_left(id);
        let (name, level) = rules.ended;
        self.log_about(id, level, &format!("{name} connection closed: {reason}"));
        if self.settings.is_traced {
            // Not of all: a stranger may have had a million of them.
            for interest in interests.values().take(CLOSED_SUBSCRIPTIONS_MAX) {
                self.trace_end(interest);
            }
        }
        self.leave(interests);
        self.on_ended(id);
        if has_socket {
            self.effects.push_back(Effect::Close { session: id, flush });
        }
    }

    /// The socket of a session is gone.
    pub(super) fn on_closed(&mut self, id: SessionId, reason: &str) {
        self.finish(id, reason, false, false);
        let Some(session) = self.sessions.remove(id) else { return };
        self.deadlines.cancel(&(id, Timer::Write));
        let Phase::Ending { reason, .. } = &session.phase else { return };
        if *reason == CloseReason::ConnectionsExceeded.text() {
            return;
        }
        if let Some(mut snapshot) = session.connection_snapshot() {
            let others: usize = self.closed_subscriptions;
            if others + snapshot.subscriptions.len() > CLOSED_SUBSCRIPTIONS_TOTAL {
                snapshot.subscriptions = Vec::new();
            }
            self.closed_subscriptions += snapshot.subscriptions.len();
            snapshot.closed = Some((self.now.wall, reason.clone()));
            // The bound is that of the process.
            if self.closed.len() >= CLOSED_MAX / usize::from(self.settings.loops.max(1)) {
                let gone = self.closed.pop_front();
                self.closed_dropped += 1;
                let gone = gone.map_or(0, |gone| gone.subscriptions.len());
                self.closed_subscriptions -= gone;
            }
            self.closed.push_back(snapshot);
        }
    }

    /// Sets the timer of the first PING, which comes early and at a random moment.
    pub(super) fn arm_first_ping(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let first = self.settings.ping_interval.min(session.rules().first_ping);
        let spread =
            u64::try_from(first.as_nanos()).unwrap_or(u64::MAX) / 100 * PING_SPREAD_PERCENT;
        let late = Duration::from_nanos(self.random.below(spread.max(1)));
        self.deadlines.arm((id, Timer::Ping), self.now.at + first + late);
    }

    /// Handles one deadline.
    pub(super) fn on_due(&mut self, id: SessionId, timer: Timer) {
        match timer {
            Timer::Tls => {
                self.send_error(id, errors::TLS_REQUIRED);
                self.log_about(id, log::Level::Error, "TLS handshake timeout");
                self.cut(id, CloseReason::TlsHandshakeFailure);
            }
            // Its password is being looked at this moment: the answer comes soon.
            Timer::Auth if self.has_begun_verifying(id) => (),
            Timer::Auth if self.sessions.upstream_mut(id).is_some() => {
                self.fail_upstream(id, "nats: timeout");
            }
            Timer::Auth => {
                self.log_about(id, log::Level::Debug, errors::AUTHENTICATION_TIMEOUT);
                self.send_error(id, errors::AUTHENTICATION_TIMEOUT);
                self.end(id, CloseReason::AuthenticationTimeout);
            }
            Timer::Ping => self.on_ping_due(id),
            Timer::Write => self.on_write_due(id),
            Timer::Stall => self.on_stall_due(id),
        }
    }

    fn has_begun_verifying(&self, id: SessionId) -> bool {
        let verifying = self.sessions.get(id).and_then(|session| session.verifying.as_ref());
        verifying.is_some_and(|verifying| !verifying.asked.drop_unbegun())
    }

    fn on_ping_due(&mut self, id: SessionId) {
        let now = self.now;
        let interval = self.settings.ping_interval;
        let is_debugged = self.settings.is_debugged;
        if is_debugged && let Some(session) = self.sessions.get(id) {
            let text = format!("{} Ping Timer", session.rules().ended.0);
            self.log_about(id, log::Level::Debug, &text);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let is_always_due = session.rules().is_always_pinged;
        let ping = &mut session.ping;
        // What CONNECT told of the round trip is an estimate: the first PING measures it, and finds
        // a connection that is half open.
        let is_rtt_due = ping.sent_at.is_none_or(|at| now.at.since(at) > RTT_INTERVAL);
        let is_quiet = now.at.since(ping.heard_at) >= interval;
        // A paused connection is not read: that its PONG is not seen is our doing. And nothing goes
        // out in clear while a handshake is awaited.
        let is_mute = session.is_paused || matches!(session.phase, Phase::AwaitTls { .. });
        if is_mute || !(is_quiet || is_rtt_due || is_always_due) {
            if is_debugged && !is_mute {
                let ago = now.at.since(ping.heard_at) + Duration::from_millis(500);
                let ago = show(Duration::from_secs(ago.as_secs()));
                let text = format!("Delaying PING due to remote client data or ping {ago} ago");
                self.log_about(id, log::Level::Debug, &text);
            }
            self.deadlines.arm((id, Timer::Ping), now.at + interval);
            return;
        }
        if ping.unanswered >= self.settings.ping_max {
            if session.upstream().is_some() {
                self.fail_upstream(id, "nats: stale connection");
                return;
            }
            self.log_about(id, log::Level::Debug, "Stale Client Connection - Closing");
            self.send_error(id, errors::STALE_CONNECTION);
            self.end(id, CloseReason::StaleConnection);
            return;
        }
        ping.unanswered += 1;
        ping.sent_at = Some(now.at);
        encoder::encode(&Op::Ping, session.outbox.tail());
        session.outbox.seal(false);
        if let Some(route) = session.route_mut() {
            route.past.on_ping();
        }
        if let Some(upstream) = session.upstream_mut() {
            upstream.on_ping();
        }
        self.deadlines.arm((id, Timer::Ping), now.at + interval);
        self.mark_dirty(id);
    }

    pub(super) fn on_pong(&mut self, id: SessionId) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        if let (Some(sent_at), 1..) = (session.ping.sent_at, session.ping.unanswered) {
            session.ping.rtt = Some(now.at.since(sent_at));
        }
        session.ping.unanswered = 0;
        if let Some(route) = session.route_mut() {
            route.past.on_pong();
        }
        Step::Done
    }

    /// The bytes that waited when the deadline was set have to be gone (spec core NATS, 5.2).
    fn on_write_due(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some((mark, marked_at)) = session.write_mark.take() else { return };
        if session.outbox.taken() >= mark {
            self.arm_write(id);
            return;
        }
        let due = marked_at + self.settings.write_deadline;
        if self.now.at < due {
            session.write_mark = Some((mark, marked_at));
            self.deadlines.arm((id, Timer::Write), due);
            return;
        }
        if session.is_ending() {
            session.outbox.clear();
            self.effects.push_back(Effect::Close { session: id, flush: false });
            return;
        }
        if matches!(session.phase, Phase::AwaitTls { .. }) {
            self.cut(id, CloseReason::TlsHandshakeFailure);
            return;
        }
        if !session.is_auth_pending {
            let line = format!(
                "Slow Consumer Detected: WriteDeadline of {:?} exceeded with {} total bytes.",
                self.settings.write_deadline,
                session.outbox.len()
            );
            self.slow_consumers += 1;
            self.log_about(id, log::Level::Info, &line);
        }
        self.cut(id, CloseReason::SlowConsumerWriteDeadline);
    }

    /// Sets the write deadline of a session. The timer of an earlier one is left to fire: then it
    /// is seen that the mark has moved, which is cheaper than a change of the table each time.
    pub(super) fn arm_write(&mut self, id: SessionId) {
        let now = self.now.at;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let is_armed = session.write_mark.is_some();
        let is_met = session.write_mark.is_none_or(|(mark, _)| session.outbox.taken() >= mark);
        if !is_met || session.outbox.is_empty() {
            return;
        }
        // A route is slow only if it takes nothing at all: cutting it off costs much. So is who
        // reads an engine's deliveries, which are held back: nobody else waits.
        let mark = if session.rules().is_slow_when_still || session.outbox.delivery_len() > 0 {
            session.outbox.taken() + 1
        } else {
            session.outbox.end_position()
        };
        session.write_mark = Some((mark, now));
        if !is_armed {
            self.deadlines.arm((id, Timer::Write), now + self.settings.write_deadline);
        }
    }

    /// Whether this client has to go for `max_connections` to hold. All loops ask at once: each
    /// client takes its own place off the count, so that not one more is closed than has to be.
    fn is_one_too_many(&mut self, id: SessionId) -> bool {
        let clients_max = self.settings.max_connections as u64;
        let Some(client) = self.sessions.client_mut(id).filter(|client| client.is_counted) else {
            return false;
        };
        let one_less = |count| (clients_max > 0 && count > clients_max).then(|| count - 1);
        let clients = &self.counters.clients;
        if clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return false;
        }
        client.is_counted = false;
        true
    }

    /// Puts new settings in force; only those who lost their right are closed
    /// (spec core NATS, 0 and 18.6).
    pub(super) fn on_reload(&mut self, settings: Arc<Settings>) {
        let is_auth_changed = self.settings.auth != settings.auth;
        self.settings = settings;
        self.settings_loaded_at = self.now.wall;
        let urls = std::mem::take(&mut self.info.connect_urls);
        self.info = Self::client_info(&self.settings, urls);
        for id in self.sessions.ids() {
            let Some(session) = self.sessions.get(id) else { continue };
            let Some(client) = session.client().filter(|_| !session.is_ending()) else { continue };
            let has_connected = client.has_connected;
            if self.is_one_too_many(id) {
                self.log_about(id, log::Level::Error, errors::CONNECTIONS_EXCEEDED);
                self.send_error(id, errors::CONNECTIONS_EXCEEDED);
                self.end(id, CloseReason::ConnectionsExceeded);
                continue;
            }
            // Who has not given credentials yet is asked for them when CONNECT comes.
            if !is_auth_changed || !has_connected {
                continue;
            }
            match self.authenticate(id) {
                Ok(()) => self.review_interests(id),
                Err(Refusal::UnknownUser) => self.end(id, CloseReason::ClientClosed),
                Err(Refusal::Mismatch) => {
                    self.violation(id);
                }
            }
        }
        self.on_cluster_reload();
    }
}
