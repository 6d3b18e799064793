//! What a streaming client asks its server for: to be taken, to subscribe, to be forgotten

use prost::Message as _;

use super::BenchError;
use super::connection::{Connection, Said};
use crate::base::random::Random;
use crate::client::Options;
use crate::proto::pb;

/// The interest on which answers come.
const ANSWERS: u64 = 1;

/// The interest on which heartbeats come, which are answered with nothing.
pub(crate) const HEARTBEATS: u64 = 2;

/// The interest for acknowledgements of publishes.
pub(crate) const ACKS: u64 = 3;

/// From here on they are those of subscriptions.
pub(crate) const DELIVERIES: u64 = 10;

/// A client of a streaming server.
pub(crate) struct Client {
    /// Its connection.
    pub(crate) connection: Connection,
    /// Its ID.
    pub(crate) id: String,
    /// What tells it from a former one of that ID.
    pub(crate) conn_id: String,
    /// Where publishes are acknowledged.
    pub(crate) ack_inbox: String,
    answers: String,
    session: pb::ConnectResponse,
}

impl Client {
    /// Connects, and registers the client ID.
    pub(crate) fn connect(
        login: &Options,
        id: &str,
        random: &mut Random,
    ) -> Result<Self, BenchError> {
        let mut connection = Connection::open(login, id)?;
        let inbox = |random: &mut Random| format!("_INBOX.{}", random.unique_id());
        let (answers, heartbeats, ack_inbox) = (inbox(random), inbox(random), inbox(random));
        for (subject, sid) in [(&answers, ANSWERS), (&heartbeats, HEARTBEATS), (&ack_inbox, ACKS)] {
            connection.listen(subject, None, sid);
        }
        let conn_id = random.unique_id();
        let request = pb::ConnectRequest {
            client_id: id.as_bytes().to_vec().into(),
            heartbeat_inbox: heartbeats.into(),
            protocol: 1,
            conn_id: conn_id.as_bytes().to_vec().into(),
            ping_interval: 5,
            ping_max_out: 88,
        };
        let subject = format!("{}.{}", login.discover_prefix, login.cluster_id);
        let session = pb::ConnectResponse::default();
        let mut client =
            Self { connection, id: id.to_owned(), conn_id, ack_inbox, answers, session };
        let answer = client.ask("connect request", &subject, &request.encode_to_vec())?;
        client.session = decoded("connect request", &answer)?;
        refuse_if("connect request", &client.session.error)?;
        Ok(client)
    }

    /// How the subjects begin to which it publishes.
    pub(crate) fn publish_prefix(&self) -> String {
        String::from_utf8_lossy(&self.session.pub_prefix).into_owned()
    }

    /// Subscribes to a channel; gives the subject for acknowledgements.
    pub(crate) fn subscribe(
        &mut self,
        channel: &str,
        sid: u64,
        request: pb::SubscriptionRequest,
    ) -> Result<Vec<u8>, BenchError> {
        let inbox = format!("{}.{sid}", self.ack_inbox);
        self.connection.listen(&inbox, None, sid);
        let request = pb::SubscriptionRequest {
            client_id: self.id.as_bytes().to_vec().into(),
            subject: channel.as_bytes().to_vec().into(),
            inbox: inbox.into(),
            ..request
        };
        let subject = String::from_utf8_lossy(&self.session.sub_requests).into_owned();
        let answer = self.ask("subscribe request", &subject, &request.encode_to_vec())?;
        let answer: pb::SubscriptionResponse = decoded("subscribe request", &answer)?;
        refuse_if("subscribe request", &answer.error)?;
        Ok(answer.ack_inbox.to_vec())
    }

    /// Has the server forget it.
    pub(crate) fn close(mut self) -> Result<(), BenchError> {
        let request = pb::CloseRequest { client_id: self.id.as_bytes().to_vec().into() };
        let subject = String::from_utf8_lossy(&self.session.close_requests).into_owned();
        let answer = self.ask("close request", &subject, &request.encode_to_vec())?;
        let answer: pb::CloseResponse = decoded("close request", &answer)?;
        refuse_if("close request", &answer.error)
    }

    fn ask(
        &mut self,
        name: &'static str,
        subject: &str,
        request: &[u8],
    ) -> Result<Vec<u8>, BenchError> {
        self.connection.publish(subject.as_bytes(), Some(&self.answers), request);
        let answer = self.connection.expect(name, |said| match said {
            Said::Message { sid: ANSWERS, payload, .. } => Some(payload.to_vec()),
            Said::Message { .. } | Said::Pong => None,
        })?;
        // The header of a message that says that nobody listens.
        if answer.starts_with(b"NATS/1.0 503") {
            let reason = "no streaming server of this cluster ID listens".to_owned();
            return Err(BenchError::Refused { request: name, reason });
        }
        Ok(answer)
    }
}

fn decoded<M: prost::Message + Default>(
    request: &'static str,
    answer: &[u8],
) -> Result<M, BenchError> {
    M::decode(answer).map_err(|error| BenchError::Refused { request, reason: error.to_string() })
}

fn refuse_if(request: &'static str, error: &[u8]) -> Result<(), BenchError> {
    if error.is_empty() {
        return Ok(());
    }
    Err(BenchError::Refused { request, reason: String::from_utf8_lossy(error).into_owned() })
}
