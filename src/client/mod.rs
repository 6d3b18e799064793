//! A small blocking streaming client: for our commands, examples and tests, and for users.
//!
//! One client is one NATS connection, with one thread that reads it. It moves on to the next
//! server of its list at once when its own is gone; the streaming session survives that, because
//! the server knows a client by its inboxes and not by its connection.
//!
//! Handlers run on the reader thread. They may publish asynchronously and acknowledge; a call that
//! would wait for the server fails there with [`ClientError::WouldDeadlock`].
//!
//! ```no_run
//! use stanby::client::{Client, Options, SubscriptionOptions};
//!
//! let options = Options::new(&["127.0.0.1:4222", "127.0.0.1:4223"], "test-cluster", "me");
//! let client = Client::connect(options)?;
//! let received = client.subscribe("orders", SubscriptionOptions::default(), |message| {
//!     println!("{}: {:?}", message.sequence, message.data);
//! })?;
//! client.publish("orders", b"one cup of tea".to_vec())?;
//! received.close()?;
//! client.close()?;
//! # Ok::<(), stanby::client::ClientError>(())
//! ```

mod address;
mod codec;
mod error;
mod link;
mod options;
mod publisher;
mod reader;
pub mod request;
mod stream;
mod subscription;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

pub use self::error::ClientError;
pub(crate) use self::link::{Dialled, dial_in_clear};
pub use self::options::{Options, StartAt, SubscriptionOptions};
pub use self::publisher::Unacked;
pub use self::subscription::{Message, Subscription};

use self::link::{End, Link, ReadHalf};
use self::publisher::{Bounds, Publisher};
use self::subscription::Delivery;
use crate::base::random::Random;
use crate::base::subject;
use crate::base::world;
use crate::proto::pb;

/// The version of the streaming protocol with pings (spec protocol, 4.5).
const PROTOCOL: i32 = 1;

/// Pause before a connect request that found no server is repeated.
const CONNECT_RETRY: Duration = Duration::from_millis(20);

/// A connected streaming client. All calls may be made from many threads.
pub struct Client {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("client_id", &self.shared.options.client_id).finish()
    }
}

/// What an interest of this client is for.
#[derive(Clone)]
enum Target {
    Heartbeat,
    Ping,
    /// Answers to requests: the last token of the subject says which.
    Request,
    PubAck,
    Delivery(Arc<Delivery>),
}

/// An answer to a request, or that nobody listens there.
enum Answer {
    Payload(Bytes),
    NoResponders,
}

/// Called on the reader thread with the answer, before anything that the server sent later.
type AnswerHandler = Box<dyn FnOnce(Answer) + Send>;

#[derive(Default)]
struct Inboxes {
    targets: BTreeMap<u64, Target>,
    requests: BTreeMap<String, AnswerHandler>,
}

/// What the client, its subscriptions and the reader thread share.
struct Shared {
    options: Arc<Options>,
    link: Link,
    publisher: Publisher,
    inboxes: Mutex<Inboxes>,
    random: Mutex<Random>,
    reader: OnceLock<ThreadId>,
    /// What the server said when it took us.
    session: OnceLock<pb::ConnectResponse>,
    conn_id: String,
    request_inbox: String,
    ack_inbox: String,
    ping_inbox: String,
    pings_out: AtomicI32,
    /// The server was asked to forget us: whether it has is its answer's to say.
    is_closing: AtomicBool,
    reconnects: AtomicU64,
    unheard: AtomicU64,
}

impl Client {
    /// Connects to the first server of the list that takes us, and registers the client ID.
    ///
    /// While a standby is taking over nobody listens; the request is repeated until the time-out. A
    /// request that was lost with its connection is not: the time-out tells.
    ///
    /// # Errors
    /// When no server can be reached, none answers in time, or the client ID is refused.
    pub fn connect(options: Options) -> Result<Self, ClientError> {
        let seed = world::entropy()
            .map_err(|source| ClientError::Io { action: "cannot read entropy", source })?;
        let mut random = Random::new(seed);
        let options = Arc::new(options);
        let (link, reader) = Link::open(Arc::clone(&options))?;
        let shared = Arc::new(Shared {
            conn_id: random.unique_id(),
            request_inbox: format!("_INBOX.{}", random.unique_id()),
            ack_inbox: format!("_STAN.acks.{}", random.unique_id()),
            ping_inbox: format!("_INBOX.{}", random.unique_id()),
            random: Mutex::new(random),
            options,
            link,
            publisher: Publisher::default(),
            inboxes: Mutex::default(),
            reader: OnceLock::new(),
            session: OnceLock::new(),
            pings_out: AtomicI32::new(0),
            is_closing: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
        });
        let client = Self::start(shared, reader)?;
        client.shared.register()?;
        Ok(client)
    }

    fn start(shared: Arc<Shared>, half: ReadHalf) -> Result<Self, ClientError> {
        let thread_shared = Arc::clone(&shared);
        let reader = thread::Builder::new()
            .name("stanby-client".to_owned())
            .spawn(move || reader::run(&thread_shared, half))
            .map_err(|source| ClientError::Io { action: "cannot start a thread", source })?;
        // A handler cannot run before the first subscribe, which is after this.
        let _ = shared.reader.set(reader.thread().id());
        Ok(Self { shared, reader: Some(reader) })
    }

    /// Publishes and waits until the server has stored the message; gives its GUID.
    ///
    /// # Errors
    /// When the server refuses it, or no ack comes in time: then it may be stored or not.
    pub fn publish(&self, channel: &str, data: impl Into<Bytes>) -> Result<String, ClientError> {
        self.shared.check_may_wait()?;
        let (tell, told) = mpsc::sync_channel(1);
        let guid = self.publish_async(channel, data, move |_, result| {
            // The receiver waits until the handler was called.
            let _ = tell.send(result);
        })?;
        match told.recv_timeout(self.shared.options.ack_timeout) {
            Ok(result) => result?,
            Err(_) => {
                self.shared.publisher.forget(&guid);
                return Err(ClientError::AckTimeout);
            }
        }
        Ok(guid)
    }

    /// Publishes without waiting for the ack; gives the GUID, with which `on_ack` is called once,
    /// on the reader thread, when the server has stored or refused the message, or when the ack
    /// time-out is over. With too many publishes in flight it waits for room.
    ///
    /// # Errors
    /// When nothing was published; `on_ack` is not called then.
    pub fn publish_async(
        &self,
        channel: &str,
        data: impl Into<Bytes>,
        on_ack: impl FnOnce(&str, Result<(), ClientError>) + Send + 'static,
    ) -> Result<String, ClientError> {
        check_channel(channel)?;
        let shared = &self.shared;
        let guid = shared.unique_id();
        let publish =
            Unacked { guid: guid.clone(), channel: channel.to_owned(), data: data.into() };
        let bounds = Bounds {
            ack_timeout: shared.options.ack_timeout,
            in_flight_max: shared.options.in_flight_max,
            may_wait: shared.check_may_wait().is_ok(),
        };
        shared.publisher.enter(publish.clone(), Box::new(on_ack), bounds)?;
        if let Err(error) = shared.send_publish(publish) {
            shared.publisher.forget(&guid);
            return Err(error);
        }
        Ok(guid)
    }

    /// Publishes whose ack has not come yet.
    #[must_use]
    pub fn unacked(&self) -> Vec<Unacked> {
        self.shared.publisher.unacked()
    }

    /// Sends an unacknowledged publish again, with the same GUID and a new ack time-out.
    ///
    /// The server may have stored it already; then it is stored twice.
    ///
    /// # Errors
    /// When nothing with this GUID waits, or nothing can be sent.
    pub fn resend(&self, guid: &str) -> Result<(), ClientError> {
        let publish = self.shared.publisher.renew(guid, self.shared.options.ack_timeout);
        self.shared.send_publish(publish.ok_or_else(|| ClientError::UnknownGuid(guid.to_owned()))?)
    }

    /// Waits until every publish is acknowledged or failed, at most `timeout`; whether that is so.
    #[must_use]
    pub fn wait_acked(&self, timeout: Duration) -> bool {
        self.shared.publisher.wait_idle(timeout)
    }

    /// Subscribes; `handler` gets each message on the reader thread.
    ///
    /// # Errors
    /// When the server refuses or does not answer in time.
    pub fn subscribe(
        &self,
        channel: &str,
        options: SubscriptionOptions,
        handler: impl FnMut(Message) + Send + 'static,
    ) -> Result<Subscription, ClientError> {
        let shared = &self.shared;
        shared.check_may_wait()?;
        let delivery = Arc::new(Delivery {
            inbox: format!("_INBOX.{}", shared.unique_id()),
            ack_inbox: OnceLock::new(),
            is_manual: options.manual_acks,
            handler: Mutex::new(Box::new(handler)),
        });
        let sid = shared.listen(&delivery.inbox, Target::Delivery(Arc::clone(&delivery)))?;
        let result = shared.ask_subscribe(channel, &options, &delivery);
        if let Err(error) = result {
            shared.forget_interest(sid);
            return Err(error);
        }
        Ok(Subscription { shared: Arc::clone(shared), channel: channel.to_owned(), sid, delivery })
    }

    /// How often this client moved to another connection.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.shared.reconnects.load(Ordering::Relaxed)
    }

    /// How many publishes no streaming server has heard, because none was active: to be sent again
    /// a little later. The servers do not say which ones.
    #[must_use]
    pub fn unheard(&self) -> u64 {
        self.shared.unheard.load(Ordering::Relaxed)
    }

    /// The server that this client is connected to, as `host:port`; `None` while it looks for
    /// another one.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        self.shared.link.server().map(ToString::to_string)
    }

    /// Why the client can do no more, once that is so.
    #[must_use]
    pub fn lost(&self) -> Option<ClientError> {
        self.shared.link.ended().map(|end| end.to_error())
    }

    /// Takes the client ID back and closes the connection. The server closes all subscriptions.
    ///
    /// # Errors
    /// When the server refuses or does not answer in time; the connection is closed all the same.
    pub fn close(self) -> Result<(), ClientError> {
        let subject = self.shared.subjects().close_requests.clone();
        let ask = pb::CloseRequest { client_id: self.shared.client_id() };
        self.shared.is_closing.store(true, Ordering::Relaxed);
        let answer = self.shared.request(&subject, &ask.encode_to_vec(), "close")?;
        let answer = pb::CloseResponse::decode(answer).unwrap_or_default();
        check_refusal(&answer.error)
    }
}

impl Drop for Client {
    /// Without [`Client::close`] the server keeps the client ID until its heartbeats fail.
    fn drop(&mut self) {
        self.shared.link.end(End::Closed);
        if let Some(reader) = self.reader.take()
            && reader.thread().id() != thread::current().id()
        {
            // A handler that panicked has already ended the thread, and said so.
            let _ = reader.join();
        }
    }
}

impl Shared {
    /// Listens on all inboxes, and registers the client ID.
    fn register(&self) -> Result<(), ClientError> {
        let heartbeat_inbox = format!("_INBOX.{}", self.unique_id());
        self.listen(&heartbeat_inbox, Target::Heartbeat)?;
        self.listen(&self.ping_inbox, Target::Ping)?;
        self.listen(&format!("{}.*", self.request_inbox), Target::Request)?;
        self.listen(&self.ack_inbox, Target::PubAck)?;
        let options = &self.options;
        let seconds = i32::try_from(options.ping_interval.as_secs()).unwrap_or(i32::MAX);
        let ask = pb::ConnectRequest {
            client_id: self.client_id(),
            heartbeat_inbox: heartbeat_inbox.into(),
            protocol: PROTOCOL,
            conn_id: self.conn_id.clone().into(),
            ping_interval: seconds,
            ping_max_out: options.ping_max_out,
        };
        let subject = Bytes::from(format!("{}.{}", options.discover_prefix, options.cluster_id));
        let answer = self.request(&subject, &ask.encode_to_vec(), "connect")?;
        let answer = pb::ConnectResponse::decode(answer)
            .map_err(|error| ClientError::Refused(format!("invalid connect response: {error}")))?;
        check_refusal(&answer.error)?;
        // Set once: there is one connect request.
        let _ = self.session.set(answer);
        Ok(())
    }

    /// Sends a request and waits for its answer. Where nobody listens it is repeated.
    fn request(
        &self,
        subject: &Bytes,
        payload: &[u8],
        request: &'static str,
    ) -> Result<Bytes, ClientError> {
        self.check_may_wait()?;
        let deadline = world::instant() + self.options.timeout;
        loop {
            let (tell, told) = mpsc::sync_channel(1);
            let token = self.send_request(subject, payload, move |answer| {
                // The asker may have given up.
                let _ = tell.send(answer);
            })?;
            let left = deadline.since(world::instant());
            match told.recv_timeout(left) {
                Ok(Answer::Payload(payload)) => return Ok(payload),
                Ok(Answer::NoResponders) if world::instant() < deadline => {
                    self.pause_before_retry()?;
                }
                Ok(Answer::NoResponders) | Err(_) => {
                    self.inboxes().requests.remove(&token);
                    self.link.ended().map_or(Ok(()), |end| Err(end.to_error()))?;
                    return Err(ClientError::RequestTimeout { request });
                }
            }
        }
    }

    fn pause_before_retry(&self) -> Result<(), ClientError> {
        if self.link.pause(CONNECT_RETRY) {
            return Ok(());
        }
        Err(self.link.ended().unwrap_or(End::Closed).to_error())
    }

    fn send_request(
        &self,
        subject: &Bytes,
        payload: &[u8],
        on_answer: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<String, ClientError> {
        let token = self.unique_id();
        let reply = format!("{}.{token}", self.request_inbox);
        self.inboxes().requests.insert(token.clone(), Box::new(on_answer));
        if let Err(error) = self.link.publish(subject, reply.as_bytes(), payload) {
            self.inboxes().requests.remove(&token);
            return Err(error);
        }
        Ok(token)
    }

    /// Asks for a subscription. The reader thread notes the ack inbox before it reads on, because
    /// messages may follow the answer directly.
    fn ask_subscribe(
        &self,
        channel: &str,
        options: &SubscriptionOptions,
        delivery: &Arc<Delivery>,
    ) -> Result<(), ClientError> {
        let ask = subscription_request(channel, options, delivery, self.client_id());
        let (tell, told) = mpsc::sync_channel(1);
        let noting = Arc::clone(delivery);
        let subject = self.subjects().sub_requests.clone();
        let token = self.send_request(&subject, &ask.encode_to_vec(), move |answer| {
            let result = match answer {
                Answer::Payload(payload) => note_ack_inbox(&noting, payload),
                Answer::NoResponders => Err(ClientError::RequestTimeout { request: "subscribe" }),
            };
            // The asker may have given up.
            let _ = tell.send(result);
        })?;
        match told.recv_timeout(self.options.timeout) {
            Ok(result) => result,
            Err(_) => {
                self.inboxes().requests.remove(&token);
                self.take_back(channel, delivery);
                Err(ClientError::RequestTimeout { request: "subscribe" })
            }
        }
    }

    /// The server may have made a subscription that we know nothing of (spec protocol, 24).
    fn take_back(&self, channel: &str, delivery: &Delivery) {
        let ask = pb::UnsubscribeRequest {
            client_id: self.client_id(),
            subject: Bytes::copy_from_slice(channel.as_bytes()),
            inbox: Bytes::copy_from_slice(delivery.inbox.as_bytes()),
            durable_name: Bytes::new(),
        };
        let subject = self.subjects().sub_close_requests.clone();
        // Nobody waits for an answer to this.
        let _ = self.link.publish(&subject, b"", &ask.encode_to_vec());
    }

    fn send_publish(&self, publish: Unacked) -> Result<(), ClientError> {
        let prefix = &self.subjects().pub_prefix;
        let mut subject = Vec::with_capacity(prefix.len() + 1 + publish.channel.len());
        subject.extend_from_slice(prefix);
        subject.push(b'.');
        subject.extend_from_slice(publish.channel.as_bytes());
        let message = pb::PubMsg {
            client_id: self.client_id(),
            guid: publish.guid.into(),
            subject: publish.channel.into(),
            reply: Bytes::new(),
            data: publish.data,
            conn_id: Bytes::copy_from_slice(self.conn_id.as_bytes()),
            sha256: Bytes::new(),
        };
        self.link.publish(&subject, self.ack_inbox.as_bytes(), &message.encode_to_vec())
    }

    fn listen(&self, subject: &str, target: Target) -> Result<u64, ClientError> {
        // Under one lock, so that the reader finds the target of whatever comes in.
        let mut inboxes = self.inboxes();
        let sid = self.link.listen(subject)?;
        inboxes.targets.insert(sid, target);
        Ok(sid)
    }

    fn forget_interest(&self, sid: u64) {
        self.inboxes().targets.remove(&sid);
        self.link.unlisten(sid);
    }

    fn check_may_wait(&self) -> Result<(), ClientError> {
        if self.reader.get() == Some(&thread::current().id()) {
            return Err(ClientError::WouldDeadlock);
        }
        Ok(())
    }

    /// The subjects that the server gave us.
    fn subjects(&self) -> &pb::ConnectResponse {
        self.session.get().expect("a client is given out only after it was registered")
    }

    fn client_id(&self) -> Bytes {
        Bytes::copy_from_slice(self.options.client_id.as_bytes())
    }

    fn unique_id(&self) -> String {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).unique_id()
    }

    fn inboxes(&self) -> MutexGuard<'_, Inboxes> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel is part of the subject of each publish: what is none would break the operation.
fn check_channel(channel: &str) -> Result<(), ClientError> {
    let bytes = channel.as_bytes();
    if subject::is_channel_name(bytes) && subject::is_literal(bytes) {
        return Ok(());
    }
    Err(ClientError::InvalidChannel(channel.to_owned()))
}

fn note_ack_inbox(delivery: &Delivery, payload: Bytes) -> Result<(), ClientError> {
    let answer = pb::SubscriptionResponse::decode(payload)
        .map_err(|error| ClientError::Refused(format!("invalid subscribe response: {error}")))?;
    check_refusal(&answer.error)?;
    // A second answer (there is none) would change nothing.
    let _ = delivery.ack_inbox.set(answer.ack_inbox);
    Ok(())
}

fn check_refusal(error: &Bytes) -> Result<(), ClientError> {
    if error.is_empty() {
        return Ok(());
    }
    Err(ClientError::Refused(String::from_utf8_lossy(error).into_owned()))
}

fn subscription_request(
    channel: &str,
    options: &SubscriptionOptions,
    delivery: &Delivery,
    client_id: Bytes,
) -> pb::SubscriptionRequest {
    let (start_position, start_sequence, start_time_delta) = match options.start {
        StartAt::NewOnly => (pb::StartPosition::NewOnly, 0, 0),
        StartAt::LastReceived => (pb::StartPosition::LastReceived, 0, 0),
        StartAt::TimeDelta(ago) => {
            let nanos = i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX);
            (pb::StartPosition::TimeDeltaStart, 0, nanos)
        }
        StartAt::Sequence(sequence) => (pb::StartPosition::SequenceStart, sequence, 0),
        StartAt::First => (pb::StartPosition::First, 0, 0),
    };
    let text = |name: &Option<String>| Bytes::from(name.clone().unwrap_or_default());
    pb::SubscriptionRequest {
        client_id,
        subject: Bytes::copy_from_slice(channel.as_bytes()),
        q_group: text(&options.queue),
        inbox: Bytes::copy_from_slice(delivery.inbox.as_bytes()),
        max_in_flight: options.in_flight_max,
        ack_wait_in_secs: i32::try_from(options.ack_wait.as_secs()).unwrap_or(i32::MAX),
        durable_name: text(&options.durable),
        start_position: start_position.into(),
        start_sequence,
        start_time_delta,
    }
}

#[cfg(test)]
mod tests;
