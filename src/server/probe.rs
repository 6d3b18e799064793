//! the stand-alone probe: does another server of this cluster answer? (spec protocol, 17.4)
//!
//! In a NATS cluster routes come up while it is asked, and several servers may begin at once, of
//! which none serves yet. So it asks again and again for a while, and answers who asks the same
//! meanwhile and comes later in the order of the inboxes, which are drawn at random: of those that
//! hear each other one stays.

use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::RecvTimeoutError;
use prost::Message;

use crate::base::id::Subject;
use crate::base::time::Instant;
use crate::base::world;
use crate::engine::effect::Level;
use crate::engine::refusal::Refusal;
use crate::proto::{pb, spb};
use crate::server::Server;
use crate::server::activation::ActivationError;
use crate::server::engine_driver::Mail;
use crate::server::event::Event;
use crate::server::interest_key::{Listener, SERVER_INBOX_PREFIX};
use crate::server::logging::streaming;

/// How long another server has to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// The same where routes are dialled, which have to come up first.
const ANSWER_BY_ROUTE_WITHIN: Duration = Duration::from_millis(750);
/// The same where the cluster has no configured name: servers that start at once have made up
/// different ones, part, agree on one, and dial again after a second.
const ANSWER_BY_NAMELESS_ROUTE_WITHIN: Duration = Duration::from_millis(1_750);
/// Between two probes in a NATS cluster.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// One look whether this server is alone.
struct Probe {
    /// Where answers go.
    inbox: Subject,
    request: pb::ConnectRequest,
    discovery: Subject,
    /// Whether other servers may hear it.
    has_cluster: bool,
    deadline: Instant,
}

impl Server {
    /// Asks for another server; nothing of ours listens to clients yet.
    ///
    /// # Errors
    /// [`ActivationError::NotAlone`] when one answers.
    pub(super) fn probe_alone(&mut self, info: &spb::ServerInfo) -> Result<(), ActivationError> {
        let probe = self.new_probe(info);
        let listening = [
            (probe.inbox.clone(), Listener::StandAloneProbe),
            (probe.discovery.clone(), Listener::ForeignProbe),
        ];
        // Who listens to its own question would never hear that nobody else does.
        let listening = &listening[..if probe.has_cluster { 2 } else { 1 }];
        for (subject, listener) in listening.iter().cloned() {
            self.mailboxes[0].deliver(Mail::Listen { subject, listener });
        }
        let answer = self.await_probe(&probe);
        for (subject, listener) in listening.iter().cloned() {
            self.mailboxes[0].deliver(Mail::Unlisten { subject, listener });
        }
        match answer {
            Some(payload) => Err(self.on_probe_answered(info, payload)),
            None => {
                streaming(Level::Debug, "Did not detect another server instance");
                Ok(())
            }
        }
    }

    fn new_probe(&mut self, info: &spb::ServerInfo) -> Probe {
        let cluster = self.config.core.cluster.as_ref();
        let has_cluster = cluster.is_some();
        let patience = match cluster {
            Some(cluster) if cluster.routes.is_empty() => ANSWER_WITHIN,
            Some(cluster) if cluster.name.is_none() => ANSWER_BY_NAMELESS_ROUTE_WITHIN,
            Some(_) => ANSWER_BY_ROUTE_WITHIN,
            None => ANSWER_WITHIN,
        };
        Probe {
            inbox: Subject::from(format!("{SERVER_INBOX_PREFIX}{}", self.random.unique_id())),
            request: pb::ConnectRequest {
                client_id: info.cluster_id.clone(),
                heartbeat_inbox: Bytes::from(format!("_INBOX.{}", self.random.unique_id())),
                ..pb::ConnectRequest::default()
            },
            discovery: Subject::from(info.discovery.clone()),
            has_cluster,
            deadline: Self::deadline_in(patience),
        }
    }

    fn ask(&self, probe: &Probe) {
        self.mailboxes[0].deliver(Mail::Publish {
            subject: probe.discovery.clone(),
            reply: Some(probe.inbox.clone()),
            payload: probe.request.encode_to_vec().into(),
        });
    }

    fn await_probe(&mut self, probe: &Probe) -> Option<Bytes> {
        self.ask(probe);
        let again =
            || if probe.has_cluster { Self::deadline_in(ASK_EVERY) } else { probe.deadline };
        let mut ask_at = again();
        loop {
            let now = world::instant();
            match self.events.recv_timeout(ask_at.min(probe.deadline).since(now)) {
                Ok(Event::Heard { listener: Listener::StandAloneProbe, payload, .. }) => {
                    return Some(payload);
                }
                Ok(Event::Heard { listener: Listener::ForeignProbe, payload, reply }) => {
                    self.on_foreign_probe(probe, payload, reply);
                }
                Ok(Event::NobodyListens { reply }) if reply == probe.inbox => {
                    if !probe.has_cluster {
                        return None;
                    }
                }
                Ok(event) => self.postponed.push_back(event),
                Err(RecvTimeoutError::Timeout) if now < probe.deadline => {
                    self.ask(probe);
                    ask_at = again();
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Another server looks whether it is alone: it is not, if it comes later. If it comes earlier,
    /// it hears our next question.
    fn on_foreign_probe(&self, probe: &Probe, payload: Bytes, reply: Option<Subject>) {
        let (Ok(request), Some(subject)) = (pb::ConnectRequest::decode(payload), reply) else {
            return;
        };
        let is_probe = request.client_id == probe.request.client_id;
        if !is_probe || request.heartbeat_inbox <= probe.request.heartbeat_inbox {
            return;
        }
        let response = pb::ConnectResponse {
            error: Refusal::AlreadyRegistered.text().into(),
            ..pb::ConnectResponse::default()
        };
        let payload = response.encode_to_vec().into();
        self.mailboxes[0].deliver(Mail::Publish { subject, reply: None, payload });
    }

    fn on_probe_answered(&mut self, info: &spb::ServerInfo, payload: Bytes) -> ActivationError {
        let response = match pb::ConnectResponse::decode(payload) {
            Ok(response) => response,
            Err(error) => {
                let text = "unmarshall error while detecting another server instance";
                return self.not_alone(format!("{text}: {error}"));
            }
        };
        if !response.close_requests.is_empty() {
            let request = pb::CloseRequest { client_id: info.cluster_id.clone() };
            self.mailboxes[0].deliver(Mail::Publish {
                subject: Subject::from(response.close_requests),
                reply: None,
                payload: request.encode_to_vec().into(),
            });
        }
        let id = String::from_utf8_lossy(&info.cluster_id).into_owned();
        self.not_alone(format!("discovered another streaming server with cluster ID {id:?}"))
    }

    /// At the start that is final, as with the reference. Whoever has served already is not ended
    /// by an answer that anybody can give.
    fn not_alone(&self, text: String) -> ActivationError {
        ActivationError::NotAlone { text, is_final: !self.has_served }
    }
}
