//! the stand-alone probe: does another server of this cluster answer? (spec protocol, 17.4)

use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::RecvTimeoutError;
use prost::Message;

use crate::base::id::Subject;
use crate::base::world;
use crate::engine::effect::Level;
use crate::proto::{pb, spb};
use crate::server::activation::ActivationError;
use crate::server::engine_driver::Mail;
use crate::server::event::Event;
use crate::server::interest_key::{Listener, SERVER_INBOX_PREFIX};
use crate::server::logging::streaming;
use crate::server::Server;

/// How long another server has to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

impl Server {
    /// Asks for another server; nothing of ours listens yet.
    ///
    /// # Errors
    /// [`ActivationError::NotAlone`] when one answers.
    pub(super) fn probe_alone(&mut self, info: &spb::ServerInfo) -> Result<(), ActivationError> {
        let inbox = Subject::from(format!("{SERVER_INBOX_PREFIX}{}", self.random.unique_id()));
        let listener = Listener::StandAloneProbe;
        self.mailboxes[0].deliver(Mail::Listen { subject: inbox.clone(), listener });
        let request = pb::ConnectRequest {
            client_id: info.cluster_id.clone(),
            heartbeat_inbox: Bytes::from(format!("_INBOX.{}", self.random.unique_id())),
            ..pb::ConnectRequest::default()
        };
        self.mailboxes[0].deliver(Mail::Publish {
            subject: Subject::from(info.discovery.clone()),
            reply: Some(inbox.clone()),
            payload: request.encode_to_vec().into(),
        });
        let answer = self.await_probe(&inbox);
        self.mailboxes[0].deliver(Mail::Unlisten { subject: inbox, listener });
        match answer {
            Some(payload) => Err(self.on_probe_answered(info, payload)),
            None => {
                streaming(Level::Debug, "Did not detect another server instance");
                Ok(())
            }
        }
    }

    fn await_probe(&mut self, inbox: &Subject) -> Option<Bytes> {
        let deadline = Self::deadline_in(ANSWER_WITHIN);
        loop {
            match self.events.recv_timeout(deadline.since(world::instant())) {
                Ok(Event::Heard { listener: Listener::StandAloneProbe, payload }) => {
                    return Some(payload);
                }
                Ok(Event::NobodyListens { reply }) if reply == *inbox => return None,
                Ok(event) => {
                    self.postponed.push_back(event);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn on_probe_answered(&mut self, info: &spb::ServerInfo, payload: Bytes) -> ActivationError {
        let response = match pb::ConnectResponse::decode(payload) {
            Ok(response) => response,
            Err(error) => {
                let text = "unmarshall error while detecting another server instance";
                return ActivationError::NotAlone(format!("{text}: {error}"));
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
        let text = format!("discovered another streaming server with cluster ID {id:?}");
        ActivationError::NotAlone(text)
    }
}
