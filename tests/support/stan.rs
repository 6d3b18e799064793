//! A streaming client on one raw connection: requests as they are on the wire, no thread.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use stanby::proto::pb::{self, StartPosition};

use crate::server::PATIENCE;
use crate::wire::{Conn, Nothing};

/// Field 1, length-delimited, longer than what follows: no protobuf message.
pub const GARBAGE: &[u8] = b"\x0a\x7fgarbage";

/// The cluster ID that servers have unless told otherwise.
pub const CLUSTER: &str = "test-cluster";

static NEXT: AtomicU64 = AtomicU64::new(1);

/// No sequence at all.
pub const NONE: [u64; 0] = [];

/// A name that nothing else in this program has.
pub fn unique() -> String {
    format!("{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What came on one of the client's inboxes.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The NATS subject.
    pub subject: Vec<u8>,
    /// Where an answer would go.
    pub reply: Vec<u8>,
    /// The payload; of an answer with a header only the status code, such as `503`.
    pub data: Bytes,
    /// When.
    pub at: Instant,
    /// Grows with each arrival.
    pub order: u64,
}

/// One delivery of a streaming message.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What was delivered.
    pub message: pb::MsgProto,
    /// When.
    pub at: Instant,
    /// Grows with each arrival on the connection.
    pub order: u64,
}

impl Delivery {
    /// Sequence and redelivery count: what most tests look at.
    pub fn brief(&self) -> (u64, u32) {
        (self.message.sequence, self.message.redelivery_count)
    }
}

/// The sequences of deliveries.
pub fn sequences(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.message.sequence).collect()
}

/// A subscription of a [`Stan`].
#[derive(Clone, Debug)]
pub struct Sub {
    /// The channel.
    pub channel: Bytes,
    /// Where deliveries come.
    pub inbox: Vec<u8>,
    /// Where acks go.
    pub ack_inbox: Bytes,
    /// The arrival number of the answer to the request.
    pub response_order: u64,
}

/// How to subscribe, with the defaults of clients.
pub fn ask(channel: impl AsRef<[u8]>) -> pb::SubscriptionRequest {
    pb::SubscriptionRequest {
        subject: Bytes::copy_from_slice(channel.as_ref()),
        max_in_flight: 1_024,
        ack_wait_in_secs: 30,
        ..pb::SubscriptionRequest::default()
    }
}

/// Everything from the first message on.
pub fn all(channel: impl AsRef<[u8]>) -> pb::SubscriptionRequest {
    pb::SubscriptionRequest { start_position: StartPosition::First.into(), ..ask(channel) }
}

/// A session on one NATS connection of its own.
pub struct Stan {
    /// The connection.
    pub conn: Conn,
    /// What the server said when it took us.
    pub subjects: pb::ConnectResponse,
    /// The client ID.
    pub id: Bytes,
    /// The connection ID.
    pub conn_id: Bytes,
    /// Whether heartbeats are answered.
    pub answers_heartbeats: bool,
    /// Heartbeats so far.
    pub heartbeats: Vec<Arrived>,
    inbox: String,
    arrivals: u64,
    arrived: BTreeMap<Vec<u8>, VecDeque<Arrived>>,
}

impl Stan {
    /// A connection that listens on its inboxes and has no session yet.
    pub fn bare(port: u16, options: &str) -> Self {
        let headers = "\"headers\":true,\"no_responders\":true";
        let comma = if options.is_empty() { "" } else { "," };
        let mut conn = Conn::client(port, &format!("{headers}{comma}{options}"));
        let inbox = format!("_INBOX.{}", unique());
        conn.send(format!("SUB {inbox}.> 1\r\n"));
        Self {
            conn,
            subjects: pb::ConnectResponse::default(),
            id: Bytes::new(),
            conn_id: Bytes::from(unique()),
            answers_heartbeats: true,
            heartbeats: Vec::new(),
            inbox,
            arrivals: 0,
            arrived: BTreeMap::new(),
        }
    }

    /// A session, which must be granted.
    pub fn connect(port: u16, id: &str) -> Self {
        Self::try_connect(port, id).unwrap_or_else(|error| panic!("{id}: {error}"))
    }

    /// A session, or the server's refusal.
    pub fn try_connect(port: u16, id: &str) -> Result<Self, String> {
        let mut stan = Self::bare(port, "");
        stan.register(CLUSTER, id)?;
        Ok(stan)
    }

    /// Asks for a session with the usual request.
    pub fn register(&mut self, cluster: &str, id: &str) -> Result<(), String> {
        let request = pb::ConnectRequest {
            client_id: Bytes::copy_from_slice(id.as_bytes()),
            heartbeat_inbox: self.own("heartbeat"),
            protocol: 1,
            conn_id: self.conn_id.clone(),
            ping_interval: 5,
            ping_max_out: 3,
        };
        self.register_with(cluster, &request)
    }

    /// Asks for a session with this request.
    pub fn register_with(
        &mut self,
        cluster: &str,
        request: &pb::ConnectRequest,
    ) -> Result<(), String> {
        let subject = format!("_STAN.discover.{cluster}");
        let answer = self.request(subject.as_bytes(), &request.encode_to_vec());
        let answer = pb::ConnectResponse::decode(answer).unwrap();
        refusal(&answer.error)?;
        self.id = request.client_id.clone();
        self.conn_id = request.conn_id.clone();
        self.subjects = answer;
        Ok(())
    }

    /// An inbox of this connection.
    pub fn own(&self, last: &str) -> Bytes {
        Bytes::from(format!("{}.{last}", self.inbox))
    }

    /// Publishes on NATS.
    pub fn send(&mut self, subject: &[u8], reply: &[u8], payload: &[u8]) {
        let mut bytes = b"PUB ".to_vec();
        bytes.extend_from_slice(subject);
        if !reply.is_empty() {
            bytes.push(b' ');
            bytes.extend_from_slice(reply);
        }
        bytes.extend_from_slice(format!(" {}\r\n", payload.len()).as_bytes());
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.conn.send(bytes);
    }

    /// A request and its answer, which must come.
    pub fn request(&mut self, subject: &[u8], payload: &[u8]) -> Bytes {
        self.request_arrival(subject, payload).data
    }

    fn request_arrival(&mut self, subject: &[u8], payload: &[u8]) -> Arrived {
        let reply = self.own(&unique());
        self.send(subject, &reply, payload);
        let asked = String::from_utf8_lossy(subject).into_owned();
        self.next_on(&reply, PATIENCE).unwrap_or_else(|| panic!("no answer on {asked}"))
    }

    /// Waits for an arrival on an inbox.
    pub fn next_on(&mut self, subject: &[u8], within: Duration) -> Option<Arrived> {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.arrived.get_mut(subject).and_then(VecDeque::pop_front) {
                return Some(found);
            }
            let left = within.saturating_sub(begun.elapsed());
            match self.conn.op_within(left) {
                Ok(op) => self.note(&op),
                Err(Nothing::InTime) => return None,
                Err(Nothing::Closed) => panic!("the server closed the connection"),
            }
        }
    }

    /// Takes in everything that the server sent up to now.
    pub fn flush(&mut self) {
        let seen = self.conn.ask(b"");
        let mut rest: &[u8] = &seen;
        while let Some(len) = op_len(rest) {
            self.note(&rest[..len]);
            rest = &rest[len..];
        }
    }

    fn note(&mut self, op: &[u8]) {
        let line = op.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let words: Vec<&[u8]> = op[..line].trim_ascii_end().split(|byte| *byte == b' ').collect();
        let (sizes, has_header) = match words[0] {
            b"MSG" => (1, false),
            b"HMSG" => (2, true),
            _ => return,
        };
        let middle = &words[3..words.len() - sizes];
        let payload = &op[line..op.len() - 2];
        let status = payload.get(9..12).unwrap_or_default();
        self.arrivals += 1;
        let arrived = Arrived {
            subject: words[1].to_vec(),
            reply: middle.first().map(|reply| reply.to_vec()).unwrap_or_default(),
            data: Bytes::copy_from_slice(if has_header { status } else { payload }),
            at: Instant::now(),
            order: self.arrivals,
        };
        if arrived.subject.ends_with(b".heartbeat") {
            if self.answers_heartbeats {
                self.send(&arrived.reply, b"", b"");
            }
            self.heartbeats.push(arrived);
            return;
        }
        self.arrived.entry(arrived.subject.clone()).or_default().push_back(arrived);
    }

    // ---- publishing

    /// The message that this client would publish.
    pub fn message(&self, channel: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> pb::PubMsg {
        pb::PubMsg {
            client_id: self.id.clone(),
            guid: Bytes::from(unique()),
            subject: Bytes::copy_from_slice(channel.as_ref()),
            data: Bytes::copy_from_slice(data.as_ref()),
            conn_id: self.conn_id.clone(),
            ..pb::PubMsg::default()
        }
    }

    /// Sends a message without waiting for its ack, which comes on `reply`.
    pub fn publish_async(&mut self, message: &pb::PubMsg, reply: &[u8]) {
        // The channel in the payload decides; a subject cannot hold every byte.
        let subject = [&self.subjects.pub_prefix[..], b".x"].concat();
        self.send(&subject, reply, &message.encode_to_vec());
    }

    /// Publishes and waits for the ack.
    pub fn publish_message(&mut self, message: &pb::PubMsg) -> Result<(), String> {
        let reply = self.own(&unique());
        self.publish_async(message, &reply);
        let ack = self.next_on(&reply, PATIENCE).expect("a publish ack");
        let ack = pb::PubAck::decode(ack.data).unwrap();
        assert_eq!(
            ack.guid,
            if ack.error.is_empty() { message.guid.clone() } else { ack.guid.clone() }
        );
        refusal(&ack.error)
    }

    /// Publishes and waits for the ack.
    pub fn publish(
        &mut self,
        channel: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
    ) -> Result<(), String> {
        self.publish_message(&self.message(channel, data))
    }

    /// Publishes these numbers as texts, waits for all acks, and gives the errors among them.
    pub fn fill(&mut self, channel: &str, numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
        let reply = self.own(&unique());
        let mut waiting = 0;
        for number in numbers {
            self.publish_async(&self.message(channel, number.to_string()), &reply);
            waiting += 1;
        }
        (0..waiting)
            .filter_map(|_| {
                let ack = self.next_on(&reply, PATIENCE).expect("a publish ack");
                refusal(&pb::PubAck::decode(ack.data).unwrap().error).err()
            })
            .collect()
    }

    // ---- subscribing

    /// Subscribes; client ID and inbox are filled in where they are absent.
    pub fn try_subscribe(&mut self, mut request: pb::SubscriptionRequest) -> Result<Sub, String> {
        if request.client_id.is_empty() {
            request.client_id = self.id.clone();
        }
        if request.inbox.is_empty() {
            request.inbox = self.own(&unique());
        }
        let subject = self.subjects.sub_requests.clone();
        let arrival = self.request_arrival(&subject, &request.encode_to_vec());
        let answer = pb::SubscriptionResponse::decode(arrival.data).unwrap();
        refusal(&answer.error)?;
        Ok(Sub {
            channel: request.subject,
            inbox: request.inbox.to_vec(),
            ack_inbox: answer.ack_inbox,
            response_order: arrival.order,
        })
    }

    /// Subscribes, which must be granted.
    pub fn subscribe(&mut self, request: pb::SubscriptionRequest) -> Sub {
        self.try_subscribe(request).unwrap_or_else(|error| panic!("subscribe: {error}"))
    }

    /// The next deliveries; fewer when they do not all come within the time.
    pub fn take_within(&mut self, sub: &Sub, count: usize, within: Duration) -> Vec<Delivery> {
        let begun = Instant::now();
        let mut taken = Vec::new();
        while taken.len() < count {
            let left = within.saturating_sub(begun.elapsed());
            let Some(arrived) = self.next_on(&sub.inbox, left) else { break };
            let message = pb::MsgProto::decode(arrived.data).unwrap();
            taken.push(Delivery { message, at: arrived.at, order: arrived.order });
        }
        taken
    }

    /// The next deliveries, which must come.
    pub fn take(&mut self, sub: &Sub, count: usize) -> Vec<Delivery> {
        let taken = self.take_within(sub, count, PATIENCE);
        assert_eq!(taken.len(), count, "deliveries; came {:?}", sequences(&taken));
        taken
    }

    /// What comes within that time: for showing that something does not come.
    pub fn quiet(&mut self, sub: &Sub, within: Duration) -> Vec<u64> {
        sequences(&self.take_within(sub, usize::MAX, within))
    }

    /// Acknowledges.
    pub fn ack(&mut self, sub: &Sub, sequence: u64) {
        let ack = pb::Ack { subject: sub.channel.clone(), sequence };
        self.send(&sub.ack_inbox, b"", &ack.encode_to_vec());
    }

    /// Reads `count` messages from the first on, in order, by a subscription of its own.
    pub fn replay(&mut self, channel: impl AsRef<[u8]>, count: usize) -> Vec<Delivery> {
        let sub = self.subscribe(all(channel));
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            let next = self.take(&sub, 1);
            self.ack(&sub, next[0].message.sequence);
            deliveries.extend(next);
        }
        self.leave(&sub, true).unwrap();
        deliveries
    }

    /// An unsubscribe request, or (`close`) one that keeps the durable.
    pub fn leave(&mut self, sub: &Sub, close: bool) -> Result<(), String> {
        let request = pb::UnsubscribeRequest {
            client_id: self.id.clone(),
            subject: sub.channel.clone(),
            inbox: sub.ack_inbox.clone(),
            ..pb::UnsubscribeRequest::default()
        };
        self.leave_with(&request, close)
    }

    /// An unsubscribe or sub close request of this content.
    pub fn leave_with(
        &mut self,
        request: &pb::UnsubscribeRequest,
        close: bool,
    ) -> Result<(), String> {
        let subjects = &self.subjects;
        let subject =
            if close { &subjects.sub_close_requests } else { &subjects.unsub_requests }.clone();
        let answer = self.request(&subject, &request.encode_to_vec());
        refusal(&pb::SubscriptionResponse::decode(answer).unwrap().error)
    }

    /// Pings the server with this connection ID.
    pub fn ping(&mut self, conn_id: &[u8]) -> Result<(), String> {
        let subject = self.subjects.ping_requests.clone();
        let ping = pb::Ping { conn_id: Bytes::copy_from_slice(conn_id) };
        let answer = self.request(&subject, &ping.encode_to_vec());
        refusal(&pb::PingResponse::decode(answer).unwrap().error)
    }

    /// Ends the session.
    pub fn close(&mut self) -> Result<(), String> {
        let subject = self.subjects.close_requests.clone();
        let request = pb::CloseRequest { client_id: self.id.clone() };
        let answer = self.request(&subject, &request.encode_to_vec());
        refusal(&pb::CloseResponse::decode(answer).unwrap().error)
    }
}

fn refusal(error: &Bytes) -> Result<(), String> {
    if error.is_empty() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(error).into_owned())
}

/// The length of the operation at the front of bytes that hold whole operations only.
fn op_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let text = bytes[..line].trim_ascii_end();
    if !text.starts_with(b"MSG ") && !text.starts_with(b"HMSG ") {
        return Some(line);
    }
    let size = text.rsplit(|byte| *byte == b' ').next()?;
    let size: usize = std::str::from_utf8(size).ok()?.parse().ok()?;
    Some(line + size + 2)
}
