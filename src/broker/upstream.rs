//! The one connection to an external NATS server, where engines and server are its clients.
//!
//! Loop 0 owns it. Whatever an engine or the server room says goes there, and nowhere else, even
//! where another room of this process listens: other servers have to hear it too, and what is for
//! us comes back. What is listened to is told as one SUB for each interest, under a number that is
//! never used again, so that what comes in is for that interest alone and for nobody once it has
//! ended: nothing from before an engine began can reach it. One connection carries all, so acks,
//! publishes and requests of a client come in the order in which it said them, which is what the
//! barriers of the protocol ask for (spec protocol, 1.3).
//!
//! ```text
//! Greeted ──INFO──► Login ──PONG──► Telling ─────► Settling ──PONG──► Up
//!          (TLS)    CONNECT, PING   SUBs           PING
//! ```
//!
//! Of very many SUBs each turn writes a portion (`backlog`).
//!
//! It is always read. While it is not up nothing is kept for it: engines hold deliveries back
//! (their inboxes have no room), and an answer that is lost is asked for again by its client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::go::quote;
use crate::base::id::{LoopIndex, SessionId, Subject};
use crate::base::time::Instant;
use crate::broker::delivery::{Message, Source};
use crate::broker::kind::Kind;
use crate::broker::mail::Mail;
use crate::broker::read::Step;
use crate::broker::route::HOME;
use crate::broker::session::{Phase, Session};
use crate::broker::upstream_servers::Servers;
use crate::broker::{Broker, Effect, EngineInterest, Post};
use crate::wire::op::Publish;
use crate::wire::{CloseReason, Info, Op, encoder, headers};

/// Between two rounds through all servers (spec protocol, 1.1).
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Servers that come back are not to be asked by all their clients at once.
const RETRY_SPREAD: Duration = Duration::from_millis(100);
/// The same where TLS makes each attempt dear.
const RETRY_SPREAD_TLS: Duration = Duration::from_secs(1);
/// Bytes of a PUB line beside its names.
const LINE_REST_BYTES: usize = 32;
/// Lines a second on what a server complains of; others are counted.
const COMPLAINTS_MAX: u32 = 10;
const COMPLAINTS_WITHIN: Duration = Duration::from_secs(1);
/// No server of the list could be reached; the reference's text.
const NO_SERVERS: &str = "nats: no servers available for connection";
/// What a refused connection is told as; of all errors this one says only that nobody is there.
const REFUSED: &str = "connection refused";

/// Where a session with an external server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// The connection is there, INFO has not come.
    #[default]
    Greeted,
    /// CONNECT and a PING are on their way.
    Login,
    /// It is being told what is listened to: up to the first number, of those up to the second.
    /// What rooms say before it knows all would be answered to nobody.
    Telling { told: u64, until: u64 },
    /// It was told what is listened to; this answer says that all of that is in force.
    Settling { answer: u64 },
    /// It was.
    Up,
}

/// What only the session with an external server has.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    pub stage: Stage,
    pub info: Info,
    /// PINGs to the server and its answers, counted.
    pub asked: u64,
    answered: u64,
    /// Whether the log has a line on what could not be said to it.
    has_complained: bool,
    /// What it has complained of lately, since then.
    complaints: u32,
    complaints_since: Instant,
}

impl Upstream {
    pub fn on_ping(&mut self) {
        self.asked += 1;
    }

    /// Whether it takes what rooms say.
    fn hears(&self) -> bool {
        matches!(self.stage, Stage::Settling { .. } | Stage::Up)
    }

    /// Whether it takes what is listened to.
    fn is_logged_in(&self) -> bool {
        self.hears() || matches!(self.stage, Stage::Telling { .. })
    }
}

/// What the driver of loop 0 is told of the external server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamNews {
    /// The first login was right.
    LoggedIn,
    /// No server could be logged in to at the start, for this reason.
    Failed(String),
    /// Whether a server takes what rooms say.
    Reachable(bool),
    /// It does not let us listen to something that we have to hear.
    Refused,
    /// A line for the log of the streaming server.
    Said(log::Level, String),
}

/// What an engine, or the server room, says to everybody.
#[derive(Clone, Debug)]
pub struct Said {
    post: Post,
    reply: Option<Subject>,
    is_paced: bool,
}

/// Somebody who waits until all that it listens to is in force.
#[derive(Debug)]
struct Flush {
    /// The answer that says so; `None` where the connection is not up.
    answer: Option<u64>,
    from: LoopIndex,
    token: u64,
}

/// What there is beside the session, which comes and goes.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub servers: Servers,
    pub session: Option<SessionId>,
    /// Attempts since the last pause.
    pub tried: usize,
    /// How often it was logged in to one.
    pub logins: u64,
    /// The attempt at the start has failed, or the process ends: nobody is dialled any more.
    pub is_over: bool,
    dial_at: Option<Instant>,
    /// Why the last attempt, or the session, failed.
    pub error: Option<String>,
    /// The last one that the log has as an error.
    pub logged: Option<String>,
    sids: BTreeMap<(Subject, EngineInterest), u64>,
    pub interests: BTreeMap<u64, (Subject, EngineInterest)>,
    pub last_sid: u64,
    flushes: Vec<Flush>,
}

impl Link {
    pub fn next_deadline(&self) -> Option<Instant> {
        self.dial_at
    }

    #[cfg(test)]
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }
}

impl Broker {
    /// Begins to look for an external server, if there is to be one.
    pub(super) fn start_upstream(&mut self) {
        let Some(upstream) = self.settings.upstream.clone() else { return };
        self.engines.rooms.set_upstream(Arc::clone(&self.counters.upstream));
        if self.home == HOME {
            let servers = Servers::new(&upstream.servers, &mut self.random);
            self.upstream = Some(Box::new(Link { servers, ..Link::default() }));
            self.dial_upstream();
        }
    }

    fn dial_upstream(&mut self) {
        let tls_name = self.settings.upstream.as_ref().and_then(|found| found.tls_name.clone());
        let Some(link) = &mut self.upstream else { return };
        let Some(server) = link.servers.current() else { return };
        let name = tls_name.or_else(|| server.tls_name.clone());
        let tls_name = name.unwrap_or_else(|| server.url.host.clone());
        let address = server.url.address();
        self.effects.push_back(Effect::DialUpstream { address, tls_name });
    }

    /// No connection could be made.
    pub(super) fn on_upstream_dial_failed(&mut self, reason: &str) {
        if let Some(link) = &mut self.upstream {
            link.error = Some(reason.to_owned());
        }
        self.on_upstream_failed();
    }

    /// It is the next server's turn: at once, or after a pause where all had theirs.
    fn on_upstream_failed(&mut self) {
        let (now, is_tls) = (self.now.at, self.settings.upstream.as_ref());
        let is_tls = is_tls.is_some_and(|upstream| upstream.is_secure);
        let spread = if is_tls { RETRY_SPREAD_TLS } else { RETRY_SPREAD };
        let late = self.random.below(u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX));
        let Some(link) = &mut self.upstream else { return };
        if link.is_over {
            return;
        }
        link.servers.turn();
        link.tried += 1;
        if link.tried < link.servers.len() {
            self.note_upstream_error();
            return self.dial_upstream();
        }
        link.tried = 0;
        if link.logins == 0 {
            link.is_over = true;
            let error = link.error.take().filter(|error| !error.contains(REFUSED));
            let text = error.unwrap_or_else(|| NO_SERVERS.to_owned());
            self.effects.push_back(Effect::Upstream(UpstreamNews::Failed(text)));
            return;
        }
        link.dial_at = Some(now + RETRY_AFTER + Duration::from_nanos(late));
        self.note_upstream_error();
    }

    /// The log has each reason once until one server is there again.
    fn note_upstream_error(&mut self) {
        let Some(link) = self.upstream.as_mut().filter(|link| link.logins > 0) else { return };
        let Some(error) = link.error.take() else { return };
        if link.logged.as_ref() == Some(&error) {
            return;
        }
        let text = format!("unable to connect to an external NATS server: {error}");
        link.logged = Some(error);
        self.say(log::Level::Error, text);
    }

    pub(super) fn say(&mut self, level: log::Level, text: String) {
        self.effects.push_back(Effect::Upstream(UpstreamNews::Said(level, text)));
    }

    pub(super) fn on_upstream_due(&mut self) {
        let now = self.now.at;
        let Some(link) = &mut self.upstream else { return };
        if link.dial_at.take_if(|at| *at <= now).is_some() {
            self.dial_upstream();
        }
    }

    /// What a server's operations do.
    pub(super) fn on_upstream_op(&mut self, id: SessionId, op: &Op<'_>) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.ping.heard_at = now.at;
        session.active_at = now.wall;
        match op {
            Op::Info(json) => self.on_upstream_info(id, json),
            Op::Message { message, sid } => self.on_upstream_message(id, message, sid),
            Op::Ping => {
                self.send_pong(id);
                Step::Done
            }
            Op::Pong => self.on_upstream_pong(id),
            Op::Ok => Step::Done,
            Op::Err(text) => self.on_upstream_err(id, text),
            Op::Connect(_)
            | Op::Publish(_)
            | Op::Subscribe { .. }
            | Op::Unsubscribe { .. }
            | Op::RouteSubscribe { .. }
            | Op::RouteUnsubscribe(_)
            | Op::RouteMessage(_)
            | Op::Account(..)
            | Op::EngineInterest { .. }
            | Op::EngineState { .. }
            | Op::Kept(_)
            | Op::Done { .. }
            | Op::Told { .. } => unreachable!("the parser gives none of these for a server"),
        }
    }

    /// Ends the session for this reason.
    pub(super) fn fail_upstream(&mut self, id: SessionId, why: impl Into<String>) -> Step {
        if let Some(link) = &mut self.upstream {
            link.error = Some(why.into());
        }
        self.cut(id, CloseReason::ClientClosed);
        Step::End
    }

    fn on_upstream_pong(&mut self, id: SessionId) -> Step {
        let step = self.on_pong(id);
        let Some(upstream) = self.sessions.upstream_mut(id) else { return Step::End };
        upstream.answered = upstream.asked.min(upstream.answered + 1);
        let answered = upstream.answered;
        match upstream.stage {
            Stage::Greeted => {
                return self.fail_upstream(id, "nats: protocol exception, INFO not received");
            }
            Stage::Login => self.on_upstream_login(id),
            Stage::Settling { answer } if answer <= answered => {
                upstream.stage = Stage::Up;
                self.on_upstream_up();
            }
            Stage::Telling { .. } | Stage::Settling { .. } | Stage::Up => (),
        }
        if let Some(link) = &mut self.upstream {
            let is_due = |flush: &mut Flush| flush.answer.is_some_and(|answer| answer <= answered);
            let due: Vec<Flush> = link.flushes.extract_if(.., is_due).collect();
            due.into_iter().for_each(|flush| self.answer_flush(&flush));
        }
        step
    }

    pub(super) fn upstream_name(&self) -> String {
        self.settings.upstream.as_ref().map(|found| found.name.clone()).unwrap_or_default()
    }

    /// All that is listened to is in force.
    fn on_upstream_up(&mut self) {
        self.spread_reachable(true);
        let Some(link) = &mut self.upstream else { return };
        let waiting: Vec<Flush> =
            link.flushes.extract_if(.., |flush| flush.answer.is_none()).collect();
        waiting.into_iter().for_each(|flush| self.answer_flush(&flush));
    }

    fn spread_reachable(&mut self, is_reachable: bool) {
        self.on_upstream_reachable(is_reachable);
        self.mail_all(&Mail::UpstreamReachable(is_reachable));
        self.effects.push_back(Effect::Upstream(UpstreamNews::Reachable(is_reachable)));
    }

    /// Engines deliver only while an external server takes what they say.
    pub(super) fn on_upstream_reachable(&mut self, is_reachable: bool) {
        for key in self.engines.rooms.set_reachable(is_reachable) {
            self.effects.push_back(Effect::Room { key, has_room: is_reachable });
        }
    }

    fn on_upstream_err(&mut self, id: SessionId, text: &[u8]) -> Step {
        let text = String::from_utf8_lossy(text);
        let text = text.trim().trim_matches('\'');
        let is_up = self.sessions.upstream_mut(id).is_some_and(|found| found.is_logged_in());
        let is_permission = text.to_lowercase().starts_with("permissions violation");
        if !(is_up && is_permission) {
            return self.fail_upstream(id, format!("nats: {text}"));
        }
        if text.to_lowercase().starts_with("permissions violation for subscription") {
            self.effects.push_back(Effect::Upstream(UpstreamNews::Refused));
        }
        let (name, now) = (self.upstream_name(), self.now.at);
        let Some(upstream) = self.sessions.upstream_mut(id) else { return Step::End };
        let mut unsaid = 0;
        if COMPLAINTS_WITHIN <= now.since(upstream.complaints_since) {
            unsaid = upstream.complaints.saturating_sub(COMPLAINTS_MAX);
            (upstream.complaints, upstream.complaints_since) = (0, now);
        }
        upstream.complaints = upstream.complaints.saturating_add(1);
        let is_said = upstream.complaints <= COMPLAINTS_MAX;
        if unsaid != 0 {
            let text = format!("{unsaid} more error(s) on connection {name} were not said");
            self.say(log::Level::Error, text);
        }
        if is_said {
            let text = format!("Asynchronous error on connection {name}: nats: {text}");
            self.say(log::Level::Error, text);
        }
        Step::Done
    }

    /// What came for one interest; it goes no further.
    fn on_upstream_message(&mut self, id: SessionId, message: &Publish<'_>, sid: &[u8]) -> Step {
        let size = message.payload.len();
        self.traffic.came_in(size);
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        session.traffic.came_in(size);
        let account = session.origin.account;
        let sid = std::str::from_utf8(sid).ok().and_then(|sid| sid.parse().ok());
        let interest =
            sid.and_then(|sid: u64| Some(self.upstream.as_ref()?.interests.get(&sid)?.1));
        // One that has ended meanwhile.
        let Some(interest) = interest else { return Step::Done };
        if is_no_responders(message) {
            self.on_upstream_unheard(interest, message.subject);
            return Step::Done;
        }
        let message = Message::said(account, message, None);
        self.deliver_to_engines(&[interest], &message, &Source::Upstream { session: id });
        Step::Done
    }

    /// Nobody listens to what a room has asked.
    fn on_upstream_unheard(&mut self, interest: EngineInterest, reply: &[u8]) {
        let reply = Subject::from(Bytes::copy_from_slice(reply));
        if interest.engine == self.home {
            self.effects.push_back(Effect::NoResponders { reply });
        } else {
            let mail = Mail::NoResponders(reply);
            self.effects.push_back(Effect::Mail { to: interest.engine, mail });
        }
    }

    /// A room listens from now on.
    pub(super) fn tell_upstream(&mut self, subject: &Subject, interest: EngineInterest) {
        let Some(link) = &mut self.upstream else { return };
        link.last_sid += 1;
        let sid = link.last_sid;
        link.sids.insert((subject.clone(), interest), sid);
        link.interests.insert(sid, (subject.clone(), interest));
        if let Some(session) = link.session.and_then(|id| self.sessions.get_mut(id))
            && session.upstream().is_some_and(Upstream::is_logged_in)
            && !session.is_ending()
        {
            write_sub(session, subject, sid);
            let id = session.id;
            self.mark_dirty(id);
        }
    }

    /// A room no longer listens.
    pub(super) fn untell_upstream(&mut self, subject: &Subject, interest: EngineInterest) {
        let Some(link) = &mut self.upstream else { return };
        let Some(sid) = link.sids.remove(&(subject.clone(), interest)) else { return };
        link.interests.remove(&sid);
        // One that it was not told yet it does not mind.
        if let Some(session) = link.session.and_then(|id| self.sessions.get_mut(id))
            && session.upstream().is_some_and(Upstream::is_logged_in)
            && !session.is_ending()
        {
            let sid = sid.to_string();
            let op = Op::Unsubscribe { sid: sid.as_bytes(), max: None };
            encoder::encode(&op, session.outbox.tail());
            session.outbox.seal(false);
            let id = session.id;
            self.mark_dirty(id);
        }
    }

    /// A room of this loop says something.
    pub(super) fn say_upstream(&mut self, post: &Post, reply: Option<&Subject>, is_paced: bool) {
        if self.home == HOME {
            return self.give_upstream(post, reply, is_paced);
        }
        if is_paced {
            self.counters.upstream.on_mailed(post.head.len() + post.tail.len());
        }
        let said = Said { post: post.clone(), reply: reply.cloned(), is_paced };
        let mail = Mail::Upstream(Box::new(said));
        self.effects.push_back(Effect::Mail { to: HOME, mail });
    }

    /// A room of another loop says something.
    pub(super) fn on_said(&mut self, said: &Said) {
        if said.is_paced {
            self.counters.upstream.on_arrived(said.post.head.len() + said.post.tail.len());
        }
        self.give_upstream(&said.post, said.reply.as_ref(), said.is_paced);
        let session = self.upstream.as_ref().and_then(|link| link.session);
        if let Some(id) = session.filter(|_| said.is_paced) {
            self.on_less_pending(id);
        }
    }

    fn give_upstream(&mut self, post: &Post, reply: Option<&Subject>, is_paced: bool) {
        let Some(id) = self.upstream.as_ref().and_then(|link| link.session) else { return };
        let line_max = self.settings.max_control_line;
        let Some(session) = self.sessions.get_mut(id).filter(|found| !found.is_ending()) else {
            return;
        };
        let Some(upstream) = session.upstream().filter(|upstream| upstream.hears()) else { return };
        let message = post.message(reply, is_paced);
        let size = message.len();
        let payload_max = usize::try_from(upstream.info.max_payload).unwrap_or(usize::MAX);
        let names_len = message.subject.len() + message.reply.map_or(0, <[u8]>::len);
        let why = if is_no_word(message.subject) || message.reply.is_some_and(is_no_word) {
            Some("nats: invalid subject")
        } else if line_max < names_len + LINE_REST_BYTES {
            Some("nats: maximum control line exceeded")
        } else {
            (payload_max < size).then_some("nats: maximum payload exceeded")
        };
        if let Some(why) = why {
            let subject = String::from_utf8_lossy(message.subject).into_owned();
            return self.complain_upstream(id, &subject, why);
        }
        encoder::publish_line(session.outbox.tail(), (message.subject, message.reply), size);
        message.write_payload(false, is_paced, &mut session.outbox);
        session.traffic.went_out(size);
        self.traffic.went_out(size);
        self.mark_dirty(id);
        self.look_at_route(id);
    }

    /// What can never be said is left out: who hears it would hang up. The log has the first.
    fn complain_upstream(&mut self, id: SessionId, subject: &str, why: &str) {
        let name = self.upstream_name();
        let Some(upstream) = self.sessions.upstream_mut(id) else { return };
        if std::mem::replace(&mut upstream.has_complained, true) {
            return;
        }
        let text = format!("Asynchronous error on connection {name}, subject {subject}: {why}");
        self.say(log::Level::Error, text);
    }

    /// The driver of this loop is to be told when all that was listened to before is in force.
    pub(super) fn on_flush(&mut self, token: u64) {
        if self.settings.upstream.is_none() {
            self.effects.push_back(Effect::Flushed { token });
        } else if self.home == HOME {
            self.flush_upstream(self.home, token);
        } else {
            let mail = Mail::Flush(self.home, token);
            self.effects.push_back(Effect::Mail { to: HOME, mail });
        }
    }

    /// A PING behind the SUBs: its answer says that they are in force.
    pub(super) fn flush_upstream(&mut self, from: LoopIndex, token: u64) {
        let Some(link) = &mut self.upstream else { return };
        let session = link.session.and_then(|id| self.sessions.get_mut(id));
        let mut answer = None;
        if let Some(session) = session.filter(|found| !found.is_ending())
            && let Kind::Upstream(upstream) = &mut session.kind
            && upstream.hears()
        {
            upstream.on_ping();
            answer = Some(upstream.asked);
            encoder::encode(&Op::Ping, session.outbox.tail());
            session.outbox.seal(false);
            let id = session.id;
            self.mark_dirty(id);
        }
        if let Some(link) = &mut self.upstream {
            // Of a term that is over nobody waits any more.
            link.flushes.retain(|former| former.from != from);
            link.flushes.push(Flush { answer, from, token });
        }
    }

    fn answer_flush(&mut self, flush: &Flush) {
        let token = flush.token;
        if flush.from == self.home {
            self.effects.push_back(Effect::Flushed { token });
        } else {
            let mail = Mail::Flushed(token);
            self.effects.push_back(Effect::Mail { to: flush.from, mail });
        }
    }

    /// The session has ended: another one is looked for.
    pub(super) fn on_upstream_ended(&mut self, id: SessionId) {
        let name = self.upstream_name();
        let Some(session) = self.sessions.get(id) else { return };
        let was_up = session.upstream().is_some_and(Upstream::is_logged_in);
        let Phase::Ending { reason, .. } = &session.phase else { return };
        // The reactor says of a peer that has hung up what is said of a client.
        let reason = if reason == CloseReason::ClientClosed.text() { "EOF" } else { reason };
        let reason = reason.to_owned();
        let Some(link) = self.upstream.as_mut().filter(|link| link.session == Some(id)) else {
            return;
        };
        link.session = None;
        for flush in &mut link.flushes {
            flush.answer = None;
        }
        let error = link.error.take().unwrap_or(reason);
        let is_over = link.is_over;
        if was_up {
            self.spread_reachable(false);
            if !is_over {
                let name = quote(&name);
                let text = format!("connection {name} has been disconnected: {error}");
                self.say(log::Level::Error, text);
            }
        } else if let Some(link) = &mut self.upstream {
            link.error = Some(error);
        }
        self.on_upstream_failed();
    }

    /// The process ends: nobody is looked for any more.
    pub(super) fn stop_upstream(&mut self) {
        if let Some(link) = &mut self.upstream {
            link.is_over = true;
            link.dial_at = None;
        }
    }

    /// How often there was a login, if there is one now.
    pub(super) fn upstream_logins(&self) -> Option<u64> {
        let link = self.upstream.as_ref()?;
        let session = self.sessions.get(link.session?)?;
        session.upstream().is_some_and(|found| found.stage == Stage::Up).then_some(link.logins)
    }
}

/// Nobody could say anything on a subject that is more than one word.
pub(super) fn write_sub(session: &mut Session, subject: &Subject, sid: u64) {
    if is_no_word(subject.as_bytes()) {
        return;
    }
    let sid = sid.to_string();
    let op = Op::Subscribe { subject: subject.as_bytes(), queue: None, sid: sid.as_bytes() };
    encoder::encode(&op, session.outbox.tail());
    session.outbox.seal(false);
}

/// Whether a name would be more than one word of a line, or none.
fn is_no_word(name: &[u8]) -> bool {
    name.is_empty() || name.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Whether a server says that nobody listens to a request (spec core NATS, 2.8).
fn is_no_responders(message: &Publish<'_>) -> bool {
    let has_status = message.payload.starts_with(headers::NO_RESPONDERS.trim_ascii_end());
    has_status && message.header_len == Some(message.payload.len())
}
