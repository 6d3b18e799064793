//! CONNECT of a client: who it is, and how it wants to talk.

use std::sync::Arc;
use std::time::Duration;

use crate::base::go::quote;
use crate::base::id::SessionId;
use crate::base::origin::Origin;
use crate::broker::asked::Asked;
use crate::broker::auth::{self, Credentials, Decision, Identity, Refusal};
use crate::broker::kind::Kind;
use crate::broker::read::Step;
use crate::broker::session::{Claim, Timer, Verifying};
use crate::broker::{Broker, Effect};
use crate::wire::{CloseReason, Connect, errors};

/// How many authentication time-outs a password may wait for its turn.
const TURN_PATIENCE: u32 = 15;

impl Broker {
    /// A client that says something before CONNECT is the user of those who give no credentials.
    pub(super) fn admit_anonymous(&mut self, id: SessionId) -> Step {
        if self.settings.auth.no_auth_user.is_some()
            && let Ok(Decision::Known(identity)) =
                auth::decide(&self.settings.auth, &Credentials::default(), None)
        {
            self.admit(id, identity);
            self.deadlines.cancel(&(id, Timer::Auth));
            return Step::Done;
        }
        self.on_refusal(id)
    }

    /// From now on a client is `identity`.
    fn admit(&mut self, id: SessionId, identity: Identity) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.is_auth_pending = false;
        let Identity { account, user, permissions } = identity;
        session.origin = Arc::new(Origin { account, connection: Some(id), user });
        if let Some(client) = session.client_mut() {
            client.permissions = permissions;
        }
    }

    /// Tells the peer that it may not connect, and closes.
    pub(super) fn violation(&mut self, id: SessionId) -> Step {
        self.send_error(id, errors::AUTHORIZATION_VIOLATION);
        self.end(id, CloseReason::AuthenticationFailure);
        Step::End
    }

    pub(super) fn on_connect(&mut self, id: SessionId, json: &[u8]) -> Step {
        let Some(connect) = self.document(id, json, Connect::decode) else { return Step::End };
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        let Kind::Client(client) = &mut session.kind else { return Step::End };
        client.apply(connect);
        session.has_headers = client.options.asked_headers && self.settings.headers;
        session.active_at = now.wall;
        session.ping.heard_at = now.at;
        if session.ping.rtt.is_none() {
            session.ping.rtt = Some(now.at.since(session.started.at));
        }
        self.arm_first_ping(id);
        match self.authenticate(id) {
            Err(_) => self.on_refusal(id),
            Ok(()) if self.sessions.get(id).is_some_and(|found| found.verifying.is_some()) => {
                self.await_turn(id, self.settings.auth.timeout);
                Step::Done
            }
            Ok(()) => self.on_authenticated(id),
        }
    }

    /// Whether a password is right was found out.
    pub(super) fn on_verified(&mut self, id: SessionId, hash: &str, is_right: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        // After a reload another hash may be the one that counts.
        let asked = session.verifying.take_if(|verifying| verifying.hash == hash);
        let Some(Verifying { hash, claim, .. }) = asked else { return };
        self.resume(id);
        self.deadlines.cancel(&(id, Timer::Auth));
        match claim {
            Claim::User(identity) if is_right => self.on_user_verified(id, hash, identity),
            Claim::User(_) => {
                self.on_refusal(id);
            }
            Claim::Server(named) if is_right => {
                self.on_route_admitted(id, &named);
            }
            Claim::Server(_) => {
                self.refuse_route(id);
            }
        }
    }

    fn on_user_verified(&mut self, id: SessionId, hash: String, identity: Identity) {
        self.admit(id, identity);
        let Some(client) = self.sessions.client_mut(id) else { return };
        if client.verified_hash.replace(hash).is_none() {
            self.on_authenticated(id);
        } else {
            self.review_interests(id);
        }
    }

    /// A client is known: what else its CONNECT asks for.
    fn on_authenticated(&mut self, id: SessionId) -> Step {
        self.deadlines.cancel(&(id, Timer::Auth));
        let Some(session) = self.sessions.get(id) else { return Step::End };
        let Some(client) = session.client() else { return Step::End };
        let (options, has_headers) = (client.options, session.has_headers);
        if !client.asked_account.is_empty() || client.is_new_account {
            return self.on_refusal(id);
        }
        if !(0..=1).contains(&options.protocol) {
            self.send_error(id, errors::INVALID_CLIENT_PROTOCOL);
            self.end(id, CloseReason::BadClientProtocolVersion);
            self.log_about(id, log::Level::Error, errors::INVALID_CLIENT_PROTOCOL);
            return Step::End;
        }
        if options.wants_no_responders && !has_headers {
            self.send_error(id, errors::NO_RESPONDERS_REQUIRES_HEADERS);
            self.end(id, CloseReason::NoRespondersRequiresHeaders);
            self.log_about(id, log::Level::Error, errors::NO_RESPONDERS_REQUIRES_HEADERS);
            return Step::End;
        }
        self.send_ok(id);
        Step::Done
    }

    /// Holds a client's credentials against the settings. A hashed password is looked at
    /// elsewhere: until the answer comes, the session has its former rights and is not read.
    pub(super) fn authenticate(&mut self, id: SessionId) -> Result<(), Refusal> {
        self.warn_of_name(id);
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let Some(client) = session.client() else { return Ok(()) };
        let certificate = session.tls.as_ref().and_then(|tls| tls.certificate.as_deref());
        match auth::decide(&self.settings.auth, &client.credentials, certificate)? {
            Decision::Hashed { hash, identity } if client.verified_hash.as_ref() != Some(&hash) => {
                let password = auth::secret_of(&self.settings.auth, &client.credentials).to_owned();
                self.verify(id, password, (hash, Claim::User(identity)));
            }
            Decision::Known(identity) | Decision::Hashed { identity, .. } => {
                self.admit(id, identity);
            }
        }
        Ok(())
    }

    /// Who has said in time who it is waits for us from now on; not for ever, because strangers can
    /// ask, too.
    pub(super) fn await_turn(&mut self, id: SessionId, timeout: Duration) {
        self.deadlines.arm((id, Timer::Auth), self.now.at + timeout * TURN_PATIENCE);
    }

    /// Has a password looked at elsewhere.
    pub(super) fn verify(
        &mut self,
        id: SessionId,
        password: String,
        (hash, claim): (String, Claim),
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let asked = Arc::new(Asked::default());
        let verifying = Verifying { hash: hash.clone(), claim, asked: Arc::clone(&asked) };
        if let Some(former) = session.verifying.replace(verifying) {
            former.asked.drop_unbegun();
        }
        let on_behalf = (session.rules().is_server, session.peer.ip());
        self.effects.push_back(Effect::Verify { session: id, on_behalf, password, hash, asked });
    }

    /// A name in CONNECT beside a certificate that says who it is counts for nothing.
    fn warn_of_name(&mut self, id: SessionId) {
        let Some(client) = self.sessions.client(id) else { return };
        let name = &client.credentials.user;
        if name.is_empty() || self.user_of_certificate(id).is_none() {
            return;
        }
        let text =
            format!("User {} found in connect proto, but user required from cert", quote(name));
        self.log(log::Level::Warn, text);
    }

    fn user_of_certificate(&self, id: SessionId) -> Option<&str> {
        let tls = self.sessions.get(id)?.tls.as_ref()?;
        auth::user_of_certificate(&self.settings.auth, tls.certificate.as_deref())
    }

    fn on_refusal(&mut self, id: SessionId) -> Step {
        let text = if self.settings.auth.users.is_empty() {
            "authentication error".to_owned()
        } else {
            let given = self.sessions.client(id).map_or("", |client| &client.credentials.user);
            let name = self.user_of_certificate(id).unwrap_or(given);
            format!("authentication error - User {}", quote(name))
        };
        self.log_about(id, log::Level::Error, &text);
        self.violation(id)
    }
}
