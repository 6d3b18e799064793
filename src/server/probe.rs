//! the stand-alone probe: does another server of this cluster answer? (spec protocol, 17.4)
//!
//! In a NATS cluster routes come up while it is asked, and several servers may begin at once, of
//! which none serves yet. So it asks again and again until each route is there, could not be had or
//! leads to this server itself, and for the time of an answer from then on. Meanwhile it answers
//! who asks the same and comes later in the order of the inboxes, which are drawn at random: of
//! those that hear each other one stays.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::base::id::Subject;
use crate::base::time::Instant;
use crate::base::world;
use crate::broker::Search;
use crate::election::input::Input;
use crate::engine::effect::Level;
use crate::engine::refusal::Refusal;
use crate::net::Control;
use crate::proto::pb;
use crate::server::Server;
use crate::server::engine_driver::Mail;
use crate::server::event::{self, Event};
use crate::server::interest_key::{Listener, SERVER_INBOX_PREFIX};
use crate::server::logging::streaming;

/// How long another server has to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// How long routes may take to come up. Who hangs up again and again or never says who it is holds
/// up nobody for longer.
const ROUTES_WITHIN: Duration = Duration::from_secs(10);
/// Longer than any process runs.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Between two probes in a NATS cluster.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// One look whether this server is alone.
#[derive(Debug)]
pub(super) struct Probe {
    term: u64,
    /// Where answers go.
    inbox: Subject,
    request: pb::ConnectRequest,
    discovery: Subject,
    /// Whether other servers may hear it.
    has_cluster: bool,
    /// When it is asked again; in a NATS cluster only.
    ask_at: Instant,
    deadline: Instant,
    /// Whether nobody else was found: then whoever asks comes later.
    is_over: bool,
    /// What the routes were found to be, and since when.
    routes: Option<(Search, Instant)>,
}

impl Probe {
    pub fn next_deadline(&self) -> Option<Instant> {
        (!self.is_over).then(|| self.ask_at.min(self.deadline))
    }

    /// Whether who asks this hears that it is not alone.
    fn refuses(&self, request: &pb::ConnectRequest) -> bool {
        let (own, theirs) = (&self.request.heartbeat_inbox, &request.heartbeat_inbox);
        let is_later = own < theirs || self.is_over && own != theirs;
        request.client_id == self.request.client_id && is_later
    }

    /// Whether all who are there had the time to answer.
    fn were_all_asked(&self, now: Instant) -> bool {
        let were_asked = match self.routes {
            Some((Search::Ended { .. }, since)) => since + ANSWER_WITHIN <= now,
            _ => false,
        };
        were_asked || self.deadline <= now
    }

    fn listening(&self) -> Vec<(Subject, Listener)> {
        let answers = (self.inbox.clone(), Listener::StandAloneProbe);
        let questions = (self.discovery.clone(), Listener::ForeignProbe);
        // Who listens to its own question would never hear that nobody else does.
        if self.has_cluster { vec![answers, questions] } else { vec![answers] }
    }
}

impl Server {
    /// Asks for another server; nothing of ours listens to clients yet.
    pub(super) fn ask_around(&mut self, term: u64) {
        let probe = self.new_probe(term);
        for (subject, listener) in probe.listening() {
            self.mailboxes[0].deliver(Mail::Listen { subject, listener });
        }
        self.ask(&probe);
        if probe.has_cluster {
            self.ask_for_routes();
        }
        self.probe = Some(probe);
    }

    /// Nobody is asked any more.
    pub(super) fn end_probe(&mut self) -> Option<Probe> {
        let probe = self.probe.take()?;
        for (subject, listener) in probe.listening() {
            self.mailboxes[0].deliver(Mail::Unlisten { subject, listener });
        }
        Some(probe)
    }

    /// Whether other servers of the cluster ID may hear this one: in a NATS cluster of its own, or
    /// over one external server.
    pub(super) fn hears_others(&self) -> bool {
        self.found.upstream.is_some() || self.config.core.cluster.is_some()
    }

    /// How long others may take to hear this server. Over an external one that is however long that
    /// takes to come: until then nobody is served.
    pub(super) fn others_within(&self) -> Duration {
        if self.found.upstream.is_some() { FOR_EVER } else { ROUTES_WITHIN }
    }

    fn new_probe(&mut self, term: u64) -> Probe {
        let has_cluster = self.hears_others();
        let patience = if has_cluster { self.others_within() } else { ANSWER_WITHIN };
        let now = world::instant();
        let deadline = now + patience;
        Probe {
            term,
            inbox: Subject::from(format!("{SERVER_INBOX_PREFIX}{}", self.random.unique_id())),
            request: pb::ConnectRequest {
                client_id: self.cluster_id.clone(),
                heartbeat_inbox: Bytes::from(format!("_INBOX.{}", self.random.unique_id())),
                ..pb::ConnectRequest::default()
            },
            discovery: self.discovery.clone(),
            has_cluster,
            ask_at: if has_cluster { now + ASK_EVERY } else { deadline },
            deadline,
            is_over: false,
            routes: None,
        }
    }

    fn ask(&self, probe: &Probe) {
        self.mailboxes[0].deliver(Mail::Publish {
            subject: probe.discovery.clone(),
            reply: Some(probe.inbox.clone()),
            payload: probe.request.encode_to_vec().into(),
        });
    }

    fn ask_for_routes(&self) {
        let events = self.events_in.clone();
        let done = move |search| event::post(&events, Event::RouteSearch(search));
        self.mailboxes[0].control(Control::RouteSearch { done: Box::new(done) });
    }

    /// The time of an answer begins anew with each route that comes or goes.
    pub(super) fn on_route_search(&mut self, search: Search, now: Instant) {
        let Some(probe) = &mut self.probe else { return };
        if probe.routes.is_none_or(|(former, _)| former != search) {
            probe.routes = Some((search, now));
        }
    }

    pub(super) fn on_probe_due(&mut self, now: Instant) {
        let is_due = |probe: &mut Probe| probe.next_deadline().is_some_and(|at| at <= now);
        let Some(mut probe) = self.probe.take_if(is_due) else { return };
        let is_over = probe.were_all_asked(now);
        if !is_over {
            self.ask(&probe);
            self.ask_for_routes();
            probe.ask_at = now + ASK_EVERY;
        }
        self.probe = Some(probe);
        if is_over {
            self.on_alone();
        }
    }

    pub(super) fn on_probe_unheard(&mut self, reply: &Subject) {
        let is_alone =
            |probe: &Probe| probe.inbox == *reply && !probe.has_cluster && !probe.is_over;
        if self.probe.as_ref().is_some_and(is_alone) {
            self.on_alone();
        }
    }

    /// Whoever asks from now on is answered here, until the engine does.
    fn on_alone(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        probe.is_over = true;
        let term = probe.term;
        streaming(Level::Debug, "Did not detect another server instance");
        self.tell(Input::FoundAlone { term });
    }

    /// Another server looks whether it is alone: it is not, if it comes later. If it comes earlier,
    /// it hears our next question.
    pub(super) fn on_foreign_probe(&mut self, payload: Bytes, reply: Option<Subject>) {
        let Some(probe) = &self.probe else { return };
        let (Ok(request), Some(subject)) = (pb::ConnectRequest::decode(payload), reply) else {
            return;
        };
        if !probe.refuses(&request) {
            return;
        }
        let response = pb::ConnectResponse {
            error: Refusal::AlreadyRegistered.text().into(),
            ..pb::ConnectResponse::default()
        };
        let payload = response.encode_to_vec().into();
        self.mailboxes[0].deliver(Mail::Publish { subject, reply: None, payload });
    }

    pub(super) fn on_probe_answered(&mut self, payload: Bytes) {
        if self.probe.as_ref().is_none_or(|probe| probe.is_over) {
            return;
        }
        let Some(probe) = self.end_probe() else { return };
        let text = match pb::ConnectResponse::decode(payload) {
            Ok(response) => {
                self.forget(&response);
                let id = String::from_utf8_lossy(&self.cluster_id);
                format!("discovered another streaming server with cluster ID {id:?}")
            }
            Err(error) => {
                format!("unmarshall error while detecting another server instance: {error}")
            }
        };
        self.tell(Input::FoundAnother { term: probe.term, text });
    }

    /// Whoever took the question for a client's is told that the client is gone.
    fn forget(&self, response: &pb::ConnectResponse) {
        if response.close_requests.is_empty() {
            return;
        }
        let request = pb::CloseRequest { client_id: self.cluster_id.clone() };
        self.mailboxes[0].deliver(Mail::Publish {
            subject: Subject::from(response.close_requests.clone()),
            reply: None,
            payload: request.encode_to_vec().into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(inbox: &'static str) -> Probe {
        Probe {
            term: 1,
            inbox: Subject::from("_STAN.inbox".to_owned()),
            request: request("mine", inbox),
            discovery: Subject::from("_STAN.discover.mine".to_owned()),
            has_cluster: true,
            ask_at: Instant::default(),
            deadline: Instant::default(),
            is_over: false,
            routes: None,
        }
    }

    fn request(client_id: &'static str, heartbeat_inbox: &'static str) -> pb::ConnectRequest {
        pb::ConnectRequest {
            client_id: client_id.into(),
            heartbeat_inbox: heartbeat_inbox.into(),
            ..pb::ConnectRequest::default()
        }
    }

    /// Goal: of servers that ask at once one stays, and who has found itself alone stays.
    #[test]
    fn who_comes_later_is_refused_and_everybody_once_the_question_is_over() {
        let mut asking = probe("inbox.5");
        for (is_over, earlier) in [(false, false), (true, true)] {
            asking.is_over = is_over;
            assert_eq!(asking.refuses(&request("mine", "inbox.1")), earlier);
            assert!(asking.refuses(&request("mine", "inbox.7")));
            assert!(!asking.refuses(&request("mine", "inbox.5")), "its own question");
            assert!(!asking.refuses(&request("another", "inbox.7")));
        }
    }

    #[test]
    fn an_answer_has_its_time_from_when_the_routes_are_there() {
        let mut asking = probe("inbox.5");
        let at = |millis| Instant::default() + Duration::from_millis(millis);
        asking.deadline = at(10_000);
        assert!(!asking.were_all_asked(at(9_999)));
        asking.routes = Some((Search::UnderWay, at(0)));
        assert!(!asking.were_all_asked(at(9_999)));
        asking.routes = Some((Search::Ended { changes: 1 }, at(1_000)));
        assert!(!asking.were_all_asked(at(1_249)));
        assert!(asking.were_all_asked(at(1_250)));
        asking.routes = Some((Search::UnderWay, at(0)));
        assert!(asking.were_all_asked(at(10_000)), "nobody holds up a start for ever");
    }
}
