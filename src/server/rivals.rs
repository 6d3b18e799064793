//! the question whether another server answers clients of this cluster ID

use prost::Message;

use crate::base::id::Subject;
use crate::election::input::Input;
use crate::proto::pb;
use crate::server::Server;
use crate::server::engine_driver::Mail;
use crate::server::interest_key::{Listener, SERVER_INBOX_PREFIX};

/// No client has this ID, so every server refuses it, and its log says who asks.
const NO_CLIENT: &str = "is another server active";

/// Our own engine answers, too.
const ANSWERS_OF_TWO: u32 = 2;

/// One question.
#[derive(Debug)]
pub(super) struct Rivals {
    /// Where answers go.
    inbox: Subject,
    /// How many came.
    answers: u32,
}

impl Server {
    /// Asks as a client asks for a server. Where other servers have other channels they all answer;
    /// there the lists of channels find who has the same ones.
    pub(super) fn ask_rivals(&mut self) {
        if self.config.streaming.partitioning {
            return;
        }
        self.end_rivals();
        let inbox = Subject::from(format!("{SERVER_INBOX_PREFIX}{}", self.random.unique_id()));
        let listener = Listener::Rival;
        self.mailboxes[0].deliver(Mail::Listen { subject: inbox.clone(), listener });
        let request = pb::ConnectRequest {
            client_id: NO_CLIENT.into(),
            heartbeat_inbox: inbox.as_bytes().to_vec().into(),
            ..pb::ConnectRequest::default()
        };
        self.mailboxes[0].deliver(Mail::Publish {
            subject: self.discovery.clone(),
            reply: Some(inbox.clone()),
            payload: request.encode_to_vec().into(),
        });
        self.rivals = Some(Rivals { inbox, answers: 0 });
    }

    /// Nobody is asked any more.
    pub(super) fn end_rivals(&mut self) {
        let Some(Rivals { inbox, .. }) = self.rivals.take() else { return };
        self.mailboxes[0].deliver(Mail::Unlisten { subject: inbox, listener: Listener::Rival });
    }

    pub(super) fn on_rival_heard(&mut self) {
        let Some(rivals) = &mut self.rivals else { return };
        rivals.answers += 1;
        if rivals.answers == ANSWERS_OF_TWO {
            self.tell(Input::RivalAnswered);
        }
    }
}
