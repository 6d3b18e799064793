//! What a client's operations do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};

use crate::base::id::SessionId;
use crate::base::subject;
use crate::broker::asked::Asked;
use crate::broker::auth::{self, Decision, Identity, Refusal};
use crate::broker::group::Places;
use crate::broker::mail::Mail;
use crate::broker::outbox::COPY_LEN_MAX;
use crate::broker::publish::{detach_frame, take_frame};
use crate::broker::session::{Phase, Session, Timer, Verifying};
use crate::broker::sublist::Interest;
use crate::broker::{Broker, Effect, Flow};
use crate::wire::{
    CloseReason, Connect, Info, Limits, Op, Parsed, ProtocolError, Side, encoder, errors,
};

/// What becomes of the connection after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The operation is done.
    Done,
    /// It has to wait.
    Paused,
    /// The session is at its end.
    End,
}

impl Broker {
    /// Handles every whole operation at the front of `input` and takes it out.
    pub(super) fn read_all(&mut self, id: SessionId, input: &mut BytesMut) -> Flow {
        let limit = self.work_done() + self.share;
        loop {
            if limit <= self.work_done() && !input.is_empty() {
                return Flow::Yielded;
            }
            self.work += 1;
            let Some(session) = self.sessions.get_mut(id) else {
                input.clear();
                return Flow::Close;
            };
            session.is_paused = false;
            match &session.phase {
                Phase::Ending { .. } => {
                    input.clear();
                    return Flow::Close;
                }
                Phase::AwaitTls { is_optional } => match (is_optional, input.first()) {
                    (_, None) => return Flow::NeedMore,
                    (true, Some(byte)) if *byte != TLS_HANDSHAKE => self.on_plain(id),
                    (_, Some(_)) => return Flow::StartTls,
                },
                Phase::Open if session.verifying.is_some() => {
                    session.is_paused = true;
                    return Flow::Paused;
                }
                Phase::Open => (),
            }
            match self.read_one(id, input) {
                None => return Flow::NeedMore,
                Some(Step::Done) => (),
                Some(Step::Paused) => return Flow::Paused,
                Some(Step::End) => {
                    input.clear();
                    return Flow::Close;
                }
            }
        }
    }

    /// One operation; `None` if there is no whole one.
    fn read_one(&mut self, id: SessionId, input: &mut BytesMut) -> Option<Step> {
        let session = self.sessions.get_mut(id)?;
        let first = *input.first()?;
        if session.is_auth_pending && !first.eq_ignore_ascii_case(&b'c') {
            let step = self.on_operation_before_connect(id);
            if step != Step::Done {
                return Some(step);
            }
        }
        let limits = self.limits(id)?;
        let is_stranger = limits.side == Side::Stranger;
        let (step, len) = match crate::wire::parse(input, &limits) {
            Ok(Parsed::NeedMore { len }) => {
                let missing = len.unwrap_or(0).saturating_sub(input.len());
                input.reserve(missing);
                return None;
            }
            Ok(Parsed::Op { op: Op::Publish(publish), len }) => {
                let matched = self.sublist.matches(publish.subject);
                if self.must_wait(id, publish.subject, matched.as_deref()) {
                    return Some(Step::Paused);
                }
                if self.settings.is_traced {
                    self.trace_in(id, &input[..len]);
                }
                if publish.payload.len() > COPY_LEN_MAX {
                    let frame = take_frame(input, len, matched.as_deref());
                    return Some(self.on_long_publish(id, &frame, matched.as_deref(), &limits));
                }
                (self.on_publish(id, &publish, None, matched.as_deref()), len)
            }
            Ok(Parsed::Op { op: Op::RouteMessage(message), len })
                if message.message.payload.len() > COPY_LEN_MAX =>
            {
                if self.settings.is_traced {
                    self.trace_in(id, &input[..len]);
                }
                let frame = detach_frame(input, len);
                let Ok(Parsed::Op { op, .. }) = crate::wire::parse(&frame, &limits) else {
                    unreachable!("it was parsed a moment ago");
                };
                return Some(self.on_route_op(id, &op, Some(&frame)));
            }
            Ok(Parsed::Op { op, len }) => {
                if self.settings.is_traced {
                    self.trace_in(id, &input[..len]);
                }
                (self.on_op(id, &op), len)
            }
            Err(error) => return Some(self.on_protocol_error(id, &error)),
        };
        if step == Step::Done {
            input.advance(len);
        }
        if step == Step::Done && is_stranger {
            return Some(self.on_introduction(id, len));
        }
        Some(step)
    }

    fn on_protocol_error(&mut self, id: SessionId, error: &ProtocolError) -> Step {
        self.log_about(id, log::Level::Error, &error.to_string());
        if let Some(text) = error.reply() {
            self.send_error(id, text);
        }
        self.end(id, error.reason());
        Step::End
    }

    fn limits(&self, id: SessionId) -> Option<Limits> {
        let session = self.sessions.get(id)?;
        if let Some(route) = &session.route {
            let is_known = route.is_registered;
            return Some(if is_known { Limits::route() } else { Limits::stranger() });
        }
        Some(Limits {
            side: Side::Client,
            control_line_max: self.settings.max_control_line,
            payload_max: self.settings.max_payload,
            has_headers: session.options.has_headers,
        })
    }

    fn on_op(&mut self, id: SessionId, op: &Op<'_>) -> Step {
        if self.sessions.get(id).is_some_and(|session| !session.is_client()) {
            return self.on_route_op(id, op, None);
        }
        match op {
            Op::Subscribe { subject, queue, sid } => self.on_subscribe(id, subject, *queue, sid),
            Op::Unsubscribe { sid, max } => self.on_unsubscribe(id, sid, *max),
            Op::Connect(json) => self.on_connect(id, json),
            Op::Ping => self.on_ping(id),
            Op::Pong => self.on_pong(id),
            Op::Ok => Step::Done,
            Op::Info(json) => {
                self.work += document_work(json);
                match Info::decode(json) {
                    Ok(_) => Step::Done,
                    Err(error) => {
                        self.refuse(id, &error.to_string(), CloseReason::ProtocolViolation)
                    }
                }
            }
            Op::Err(text) => {
                let text = format!("Client Error {}", String::from_utf8_lossy(text));
                self.refuse(id, &text, CloseReason::ParseError)
            }
            Op::Publish(_) => unreachable!("publishes are handled before"),
            Op::Message { .. }
            | Op::RouteSubscribe { .. }
            | Op::RouteUnsubscribe(_)
            | Op::RouteMessage(_)
            | Op::Account(..) => unreachable!("the parser gives none of these for a client"),
        }
    }

    /// Logs what is wrong and closes without telling the client.
    pub(super) fn refuse(&mut self, id: SessionId, text: &str, reason: CloseReason) -> Step {
        self.log_about(id, log::Level::Error, text);
        self.end(id, reason);
        Step::End
    }

    /// The first operation is not CONNECT though credentials are asked for.
    fn on_operation_before_connect(&mut self, id: SessionId) -> Step {
        let is_client = self.sessions.get(id).is_some_and(Session::is_client);
        if is_client && self.settings.auth.no_auth_user.is_some() {
            let found = auth::decide(&self.settings.auth, &auth::Credentials::default(), None);
            if let (Ok(Decision::Known(identity)), Some(session)) =
                (found, self.sessions.get_mut(id))
            {
                session.about.user = identity.user;
                session.permissions = identity.permissions;
                session.is_auth_pending = false;
                self.deadlines.cancel(&(id, Timer::Auth));
                return Step::Done;
            }
        }
        self.violation(id)
    }

    /// Tells the peer that it may not connect, and closes.
    pub(super) fn violation(&mut self, id: SessionId) -> Step {
        self.send_error(id, errors::AUTHORIZATION_VIOLATION);
        self.end(id, CloseReason::AuthenticationFailure);
        Step::End
    }

    fn on_connect(&mut self, id: SessionId, json: &[u8]) -> Step {
        self.work += document_work(json);
        let connect = match Connect::decode(json) {
            Ok(connect) => connect,
            Err(error) => {
                return self.refuse(id, &error.to_string(), CloseReason::ProtocolViolation);
            }
        };
        let (now, has_headers) = (self.now, self.settings.headers);
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        let former = session.about.credentials.clone();
        session.apply(connect, has_headers);
        if session.about.credentials != former {
            session.verified_hash = None;
        }
        session.active_at = now.wall;
        session.ping.heard_at = now.at;
        if session.ping.rtt.is_none() {
            session.ping.rtt = Some(now.at.since(session.started.at));
        }
        session.has_connected = true;
        self.arm_first_ping(id);
        match self.authenticate(id) {
            Err(refusal) => self.on_refusal(id, refusal),
            Ok(()) if self.sessions.get(id).is_some_and(|found| found.verifying.is_some()) => {
                // Until then its turn has to come: many passwords may wait before it.
                self.deadlines.arm((id, Timer::Auth), now.at + self.settings.auth.timeout);
                Step::Done
            }
            Ok(()) => self.on_authenticated(id),
        }
    }

    /// Whether a client's password is right was found out.
    pub(super) fn on_verified(&mut self, id: SessionId, hash: &str, is_right: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        // After a reload another hash may be the one that counts.
        let asked = session.verifying.take_if(|verifying| verifying.hash == hash);
        let Some(Verifying { hash, identity, .. }) = asked else { return };
        let is_client = session.is_client();
        self.resume(id);
        self.deadlines.cancel(&(id, Timer::Auth));
        if !is_client {
            self.on_route_verified(id, is_right);
            return;
        }
        if !is_right {
            self.on_refusal(id, Refusal::Mismatch);
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let is_first = session.verified_hash.replace(hash).is_none();
        session.about.user = identity.user;
        session.permissions = identity.permissions;
        session.is_auth_pending = false;
        if is_first {
            self.on_authenticated(id);
        } else {
            self.review_interests(id);
        }
    }

    /// A client is known: what else its CONNECT asks for.
    fn on_authenticated(&mut self, id: SessionId) -> Step {
        self.deadlines.cancel(&(id, Timer::Auth));
        let Some(session) = self.sessions.get(id) else { return Step::End };
        let (about, options) = (&session.about, session.options);
        if !about.account.is_empty() || about.is_new_account {
            return self.violation(id);
        }
        if !(0..=1).contains(&options.protocol) {
            self.send_error(id, errors::INVALID_CLIENT_PROTOCOL);
            self.end(id, CloseReason::BadClientProtocolVersion);
            return Step::End;
        }
        if options.wants_no_responders && !options.has_headers {
            self.send_error(id, errors::NO_RESPONDERS_REQUIRES_HEADERS);
            self.end(id, CloseReason::NoRespondersRequiresHeaders);
            return Step::End;
        }
        self.send_ok(id);
        Step::Done
    }

    /// Holds a client's credentials against the settings. A hashed password is looked at
    /// elsewhere: until [`Broker::verified`] the session has its former rights and is not read.
    pub(super) fn authenticate(&mut self, id: SessionId) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let tls = session.about.tls.as_ref();
        let certificate = tls.and_then(|tls| tls.certificate.as_deref());
        let credentials = &session.about.credentials;
        let identity = match auth::decide(&self.settings.auth, credentials, certificate)? {
            Decision::Known(identity) => identity,
            Decision::Hashed { hash, identity }
                if session.verified_hash.as_ref() == Some(&hash) =>
            {
                identity
            }
            Decision::Hashed { hash, identity } => {
                let password = auth::secret_of(&self.settings.auth, credentials).to_owned();
                self.verify(id, password, (hash, identity));
                return Ok(());
            }
        };
        session.about.user = identity.user;
        session.permissions = identity.permissions;
        session.is_auth_pending = false;
        Ok(())
    }

    /// Has a password looked at elsewhere.
    pub(super) fn verify(
        &mut self,
        id: SessionId,
        password: String,
        (hash, identity): (String, Identity),
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let asked = Arc::new(Asked::default());
        let verifying = Verifying { hash: hash.clone(), identity, asked: Arc::clone(&asked) };
        if let Some(former) = session.verifying.replace(verifying) {
            former.asked.drop_unbegun();
        }
        let on_behalf = (!session.is_client(), session.peer.ip());
        self.effects.push_back(Effect::Verify { session: id, on_behalf, password, hash, asked });
    }

    fn on_refusal(&mut self, id: SessionId, _refusal: Refusal) -> Step {
        let user = self.sessions.get(id).map(|session| session.about.credentials.user.clone());
        let text = if self.settings.auth.users.is_empty() {
            "authentication error".to_owned()
        } else {
            format!("authentication error - User {:?}", user.unwrap_or_default())
        };
        self.log_about(id, log::Level::Error, &text);
        self.violation(id)
    }

    fn on_ping(&mut self, id: SessionId) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = now.at;
        encoder::encode(&Op::Pong, session.outbox.tail());
        session.outbox.seal(false);
        let is_first = !session.ping.is_first_answered && session.has_connected;
        session.ping.is_first_answered |= is_first;
        let is_outdated = session.urls_version != self.urls_version;
        if is_first && is_outdated && session.options.protocol >= 1 {
            self.send_info(id);
        }
        self.mark_dirty(id);
        Step::Done
    }

    pub(super) fn on_pong(&mut self, id: SessionId) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        if session.ping.unanswered > 0 {
            session.ping.rtt = Some(now.at.since(session.ping.sent_at));
        }
        session.ping.unanswered = 0;
        Step::Done
    }

    fn on_subscribe(
        &mut self,
        id: SessionId,
        subject: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
    ) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = now.at;
        session.active_at = now.wall;
        let count = session.interests.len();
        let is_known = session.interests.contains_key(sid);
        if let Some(text) = self.subscribe_refusal(id, subject, queue, count) {
            self.send_error(id, &text);
            return Step::Done;
        }
        if is_known {
            self.send_ok(id);
            return Step::Done;
        }
        if !subject::is_valid(subject) {
            self.send_error(id, errors::INVALID_SUBJECT);
            return Step::Done;
        }
        let loops = self.settings.loops;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        let interest = Arc::new(new_interest(session, (subject, queue, sid), loops));
        self.add_interest(id, interest);
        self.send_ok(id);
        Step::Done
    }

    fn subscribe_refusal(
        &mut self,
        id: SessionId,
        subject: &[u8],
        queue: Option<&[u8]>,
        count: usize,
    ) -> Option<String> {
        let session = self.sessions.get(id)?;
        let is_permitted = queue != Some(b"_sys_")
            && session
                .permissions
                .as_ref()
                .is_none_or(|permissions| permissions.may_subscribe(subject, queue));
        let text = String::from_utf8_lossy(subject);
        if !is_permitted {
            let queue = queue.map(String::from_utf8_lossy);
            let user = user_text(session);
            let line = format!("Subscription Violation - {user}, Subject {text:?}");
            let refusal = errors::subscription_violation(&text, queue.as_deref());
            self.log_about(id, log::Level::Error, &line);
            return Some(refusal);
        }
        let tokens_max = self.settings.max_sub_tokens;
        if tokens_max > 0 && subject.split(|byte| *byte == b'.').count() > tokens_max {
            return Some(errors::too_many_tokens(&text));
        }
        if self.settings.max_subscriptions > 0 && count >= self.settings.max_subscriptions {
            self.log_about(id, log::Level::Error, errors::SUBSCRIPTIONS_EXCEEDED);
            return Some(errors::SUBSCRIPTIONS_EXCEEDED.to_owned());
        }
        None
    }

    fn on_unsubscribe(&mut self, id: SessionId, sid: &[u8], max: Option<u64>) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = now.at;
        session.active_at = now.wall;
        if let Some(interest) = session.interests.get(sid).cloned() {
            let delivered = interest.delivered.load(Ordering::Relaxed);
            match max.filter(|max| *max > delivered) {
                Some(max) => interest.delivered_max.store(max, Ordering::Relaxed),
                None => self.end_interest(&interest),
            }
        }
        self.send_ok(id);
        Step::Done
    }

    /// Puts a session's new permissions in force on the interests that it has: takes away those
    /// that are no longer allowed, and changes what the others must not hear.
    pub(super) fn review_interests(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let permissions = session.permissions.clone();
        let user = user_text(session);
        let interests: Vec<Arc<Interest>> = session.interests.values().cloned().collect();
        for old in interests {
            let (subject, queue) = (&old.subject[..], old.queue.as_deref());
            if !permissions.as_ref().is_none_or(|found| found.may_subscribe(subject, queue)) {
                let subject = String::from_utf8_lossy(&old.subject);
                let sid = String::from_utf8_lossy(&old.sid);
                self.send_error(id, &errors::subscription_removed(&subject, &sid));
                let line =
                    format!("Removed sub {subject:?} (sid {sid:?}) for {user} - not authorized");
                self.log_about(id, log::Level::Info, &line);
                self.end_interest(&old);
                continue;
            }
            let Some(session) = self.sessions.get(id) else { return };
            let new = new_interest(session, (subject, queue, &old.sid), self.settings.loops);
            if new.filter == old.filter {
                continue;
            }
            let (delivered, max) = (&old.delivered, &old.delivered_max);
            new.delivered.store(delivered.load(Ordering::Relaxed), Ordering::Relaxed);
            new.delivered_max.store(max.load(Ordering::Relaxed), Ordering::Relaxed);
            self.end_interest(&old);
            self.add_interest(id, Arc::new(new));
        }
    }

    fn add_interest(&mut self, id: SessionId, interest: Arc<Interest>) {
        self.work += INTEREST_WORK;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.interests.insert(interest.sid.clone(), Arc::clone(&interest));
        self.add_to_tree(Arc::clone(&interest));
        self.mail_all(&Mail::Interest(interest));
    }
}

/// Work of an interest that comes or goes, in receivers of a message.
pub(super) const INTEREST_WORK: u64 = 4;

/// Work of a JSON document, in receivers of a message.
pub(super) fn document_work(json: &[u8]) -> u64 {
    16 + json.len() as u64 / 32
}

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

fn new_interest(
    session: &Session,
    (subject, queue, sid): (&[u8], Option<&[u8]>, &[u8]),
    loops: u16,
) -> Interest {
    let filter = session.permissions.as_ref().filter(|found| found.needs_filter(subject));
    // One block for all names: interests are many.
    let names = Bytes::from([subject, sid, queue.unwrap_or_default()].concat());
    let sid_end = subject.len() + sid.len();
    Interest {
        session: session.id,
        is_route: false,
        subject: names.slice(..subject.len()),
        queue: queue.map(|_| names.slice(sid_end..)),
        sid: names.slice(subject.len()..sid_end),
        filter: filter.cloned(),
        gauge: session.outbox.gauge(),
        delivered: AtomicU64::new(0),
        delivered_max: AtomicU64::new(0),
        weight: AtomicU32::new(1),
        is_gone: AtomicBool::new(false),
        is_literal: !subject::has_wildcard(subject),
        is_paced_by_peer: AtomicBool::new(false),
        places: Places::new(loops),
    }
}

pub(super) fn user_text(session: &Session) -> String {
    match &session.about.user {
        Some(user) => format!("User {user:?}"),
        None => "User \"N/A\"".to_owned(),
    }
}
