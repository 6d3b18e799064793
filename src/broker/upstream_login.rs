//! How we log in to an external server: its INFO, TLS where one side asks for it, CONNECT.

use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::go::quote;
use crate::base::id::SessionId;
use crate::broker::kind::Kind;
use crate::broker::outbox::Outbox;
use crate::broker::read::Step;
use crate::broker::session::{Phase, Session, Timer};
use crate::broker::upstream::{Stage, write_sub};
use crate::broker::{Broker, Effect, UpstreamNews, settings};
use crate::wire::{CloseReason, Connect, Info, Op, encoder};

/// How long a server may take from the connection to the answer to CONNECT (spec protocol, 1.1).
const LOGIN_WITHIN: Duration = Duration::from_secs(2);

impl settings::Upstream {
    /// CONNECT to a server that has greeted (spec core NATS, 2.4).
    fn connect(&self, login: Option<&(String, Option<String>)>, info: &Info) -> Connect {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (user, pass, auth_token) = match login {
            Some((user, Some(password))) => (given(user), given(password), None),
            Some((token, None)) => (None, None, given(token)),
            None => (given(&self.user), given(&self.password), given(&self.token)),
        };
        // Of a seed alone servers know the public half; of credentials they know the JWT.
        let key = self.key.as_ref().filter(|_| self.jwt.is_some() || login.is_none());
        Connect {
            verbose: Some(false),
            pedantic: Some(false),
            echo: Some(true),
            user,
            pass,
            auth_token,
            jwt: self.jwt.clone().filter(|jwt| !jwt.is_empty()),
            nkey: key.filter(|_| self.jwt.is_none()).map(|key| key.public()),
            sig: key.map(|key| key.sign(&info.nonce)),
            tls_required: Some(self.wants_tls(info)),
            headers: Some(info.headers),
            no_responders: Some(info.headers),
            name: Some(self.name.clone()),
            lang: Some("rust".to_owned()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            protocol: Some(1),
            ..Connect::default()
        }
    }

    fn wants_tls(&self, info: &Info) -> bool {
        self.is_secure || info.tls_required
    }

    /// Why a server that greets so is of no use.
    fn objection(&self, info: &Info) -> Option<&'static str> {
        if self.is_secure && !info.tls_required && !info.tls_available {
            return Some("nats: secure connection not available");
        }
        if self.key.is_some() && self.jwt.is_none() && info.nonce.is_empty() {
            return Some("nats: nkeys not supported by the server");
        }
        None
    }
}

impl Broker {
    /// The connection to a server was made.
    pub(super) fn open_upstream(&mut self, id: SessionId, peer: SocketAddr) {
        let cid = self.counters.connection_ids.fetch_add(1, Ordering::Relaxed) + 1;
        let kind = Kind::Upstream(Box::default());
        let mut session = Session::new(id, cid, kind, peer, self.now);
        session.outbox = Outbox::with_gauge(Arc::clone(&self.counters.upstream));
        self.sessions.insert(session);
        match self.upstream.as_mut().filter(|link| !link.is_over) {
            Some(link) => link.session = Some(id),
            None => return self.end(id, CloseReason::ServerShutdown),
        }
        self.deadlines.arm((id, Timer::Auth), self.now.at + LOGIN_WITHIN);
    }

    pub(super) fn on_upstream_info(&mut self, id: SessionId, json: &[u8]) -> Step {
        // In receivers of a message.
        self.work += 16 + json.len() as u64 / 32;
        let info = match Info::decode(json) {
            Ok(info) => info,
            Err(error) => return self.fail_upstream(id, format!("nats: {error}")),
        };
        let Some(settings) = self.settings.upstream.clone() else { return Step::End };
        if let Some(link) = &mut self.upstream {
            link.servers.learn(&info.connect_urls, &mut self.random);
        }
        let Some(upstream) = self.sessions.upstream_mut(id) else { return Step::End };
        let is_first = upstream.stage == Stage::Greeted;
        upstream.info = Info { connect_urls: Vec::new(), ws_connect_urls: Vec::new(), ..info };
        if !is_first {
            return Step::Done;
        }
        if let Some(why) = settings.objection(&upstream.info) {
            return self.fail_upstream(id, why);
        }
        upstream.stage = Stage::Login;
        if settings.wants_tls(&upstream.info) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.phase = Phase::AwaitTls { is_optional: false };
            }
            return Step::Done;
        }
        self.begin_upstream(id);
        Step::Done
    }

    /// The server has greeted, and the connection is encrypted, if it has to be.
    pub(super) fn begin_upstream(&mut self, id: SessionId) {
        let Some(settings) = self.settings.upstream.clone() else { return };
        let Some(link) = &self.upstream else { return };
        let login = link.servers.current().and_then(|server| server.url.login.clone());
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Kind::Upstream(upstream) = &mut session.kind else { return };
        let json = settings.connect(login.as_ref(), &upstream.info).encode();
        upstream.on_ping();
        session.has_headers = upstream.info.headers;
        encoder::encode(&Op::Connect(&json), session.outbox.tail());
        encoder::encode(&Op::Ping, session.outbox.tail());
        session.outbox.seal(false);
        self.mark_dirty(id);
    }

    /// The login was right: what is listened to is told.
    pub(super) fn on_upstream_login(&mut self, id: SessionId) {
        self.deadlines.cancel(&(id, Timer::Auth));
        self.arm_first_ping(id);
        let Some(link) = &mut self.upstream else { return };
        link.tried = 0;
        link.logins += 1;
        link.logged = None;
        link.error = None;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if let Kind::Upstream(upstream) = &mut session.kind {
            // Those that come later are told as they come.
            upstream.stage = Stage::Telling { told: 0, until: link.last_sid };
        }
        let url = link.servers.current().map(|server| server.url.to_string()).unwrap_or_default();
        let (is_first, name) = (link.logins == 1, self.upstream_name());
        self.tell_interests_to(id);
        if is_first {
            self.effects.push_back(Effect::Upstream(UpstreamNews::LoggedIn));
            return;
        }
        let text =
            format!("connection {} reconnected to NATS Server at {}", quote(&name), quote(&url));
        self.say(log::Level::Info, text);
    }

    /// Tells a server the next part of what is listened to; whether there is more.
    pub(super) fn tell_some_interests(&mut self, id: SessionId, count: usize) -> bool {
        let Some(link) = &self.upstream else { return false };
        let Some(session) = self.sessions.get_mut(id).filter(|found| !found.is_ending()) else {
            return false;
        };
        let Some(Stage::Telling { told, until }) = session.upstream().map(|found| found.stage)
        else {
            return false;
        };
        let (mut last, mut written) = (told, 0);
        let left = (Bound::Excluded(told), Bound::Included(until.max(told)));
        for (sid, (subject, _)) in link.interests.range(left).take(count) {
            write_sub(session, subject, *sid);
            (last, written) = (*sid, written + 1);
        }
        let has_more = written == count;
        if let Kind::Upstream(upstream) = &mut session.kind {
            upstream.stage = Stage::Telling { told: last, until };
            if !has_more {
                upstream.on_ping();
                upstream.stage = Stage::Settling { answer: upstream.asked };
                encoder::encode(&Op::Ping, session.outbox.tail());
                session.outbox.seal(false);
            }
        }
        self.work += written as u64;
        self.mark_dirty(id);
        has_more
    }
}
