//! A publisher with a window: one thread, which writes as the usual clients do, a buffer at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use stanby::base::random::Random;
use stanby::base::world;
use stanby::proto::pb;
use stanby::wire::{self, Limits, Op, Parsed, encoder, op};

/// Bytes that one read takes: more than all acks of a window.
const READ_BYTES: usize = 256 * 1024;
/// Bytes that one write sends: the Go client's buffer.
const WRITE_BYTES: usize = 32 * 1024;
/// How long the server may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The numbers of our interests.
const HEARTBEATS: &[u8] = b"1";
const ANSWERS: &[u8] = b"2";
const ACKS: &[u8] = b"3";

/// A registered client.
pub struct Publisher {
    socket: TcpStream,
    input: BytesMut,
    chunk: Vec<u8>,
    out: BytesMut,
    random: Random,
    client_id: String,
    conn_id: String,
    inbox: String,
    session: pb::ConnectResponse,
}

/// How one run went.
pub struct Run {
    /// From the first publish to the last ack.
    pub time: Duration,
    /// Acks that came in one read: a commit's acks come together.
    pub batches: Vec<usize>,
}

/// What was heard.
enum Heard {
    Ack,
    Answer(Bytes),
    Heartbeat(Bytes),
    Ping,
    Refusal(String),
    Other,
}

impl Publisher {
    /// Connects to `address` and registers a client.
    pub fn connect(address: &str, cluster_id: &str) -> io::Result<Self> {
        let mut random = Random::new(world::entropy()?);
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut publisher = Self {
            socket,
            input: BytesMut::new(),
            chunk: vec![0; READ_BYTES],
            out: BytesMut::new(),
            client_id: format!("load-{}", random.unique_id()),
            conn_id: random.unique_id(),
            inbox: format!("_INBOX.{}", random.unique_id()),
            random,
            session: pb::ConnectResponse::default(),
        };
        publisher.register(cluster_id)?;
        Ok(publisher)
    }

    fn register(&mut self, cluster_id: &str) -> io::Result<()> {
        let connect = wire::Connect {
            verbose: Some(false),
            protocol: Some(1),
            headers: Some(true),
            no_responders: Some(true),
            ..wire::Connect::default()
        };
        encoder::encode(&Op::Connect(&connect.encode()), &mut self.out);
        for (sid, end) in [(HEARTBEATS, "heartbeat"), (ANSWERS, "answer"), (ACKS, "ack")] {
            let subject = format!("{}.{end}", self.inbox);
            let interest = Op::Subscribe { subject: subject.as_bytes(), queue: None, sid };
            encoder::encode(&interest, &mut self.out);
        }
        let request = pb::ConnectRequest {
            client_id: self.client_id.clone().into(),
            heartbeat_inbox: format!("{}.heartbeat", self.inbox).into(),
            conn_id: self.conn_id.clone().into(),
            ..pb::ConnectRequest::default()
        };
        let answer = self.ask(&format!("_STAN.discover.{cluster_id}"), &request.encode_to_vec())?;
        self.session = pb::ConnectResponse::decode(answer).map_err(io::Error::other)?;
        refuse(&self.session.error)
    }

    /// Publishes `count` messages of `len` bytes to `channel`, never more than `window` without an
    /// ack.
    pub fn run(
        &mut self,
        channel: &str,
        count: usize,
        len: usize,
        window: usize,
    ) -> io::Result<Run> {
        let subject = [&self.session.pub_prefix[..], b".", channel.as_bytes()].concat();
        let reply = format!("{}.ack", self.inbox);
        let mut publish = pb::PubMsg {
            client_id: self.client_id.clone().into(),
            subject: channel.to_owned().into(),
            data: vec![b'x'; len].into(),
            conn_id: self.conn_id.clone().into(),
            ..pb::PubMsg::default()
        };
        let (mut sent, mut acked) = (0, 0);
        let mut batches = Vec::new();
        let begun = world::instant();
        while acked < count {
            while sent < count && sent - acked < window {
                publish.guid = self.random.unique_id().into();
                let payload = publish.encode_to_vec();
                self.say(&subject, reply.as_bytes(), &payload);
                sent += 1;
                if WRITE_BYTES <= self.out.len() {
                    self.flush()?;
                }
            }
            self.flush()?;
            let mut acks = 0;
            self.read(|heard| acks += usize::from(matches!(heard, Heard::Ack)))?;
            acked += acks;
            if acks > 0 {
                batches.push(acks);
            }
        }
        Ok(Run { time: world::instant().since(begun), batches })
    }

    /// Unregisters the client.
    pub fn close(mut self) -> io::Result<()> {
        let request = pb::CloseRequest { client_id: self.client_id.clone().into() };
        let subject = String::from_utf8_lossy(&self.session.close_requests).into_owned();
        let answer = self.ask(&subject, &request.encode_to_vec())?;
        refuse(&pb::CloseResponse::decode(answer).map_err(io::Error::other)?.error)
    }

    fn say(&mut self, subject: &[u8], reply: &[u8], payload: &[u8]) {
        let reply = (!reply.is_empty()).then_some(reply);
        let publish = op::Publish { subject, reply, header_len: None, payload };
        encoder::encode(&Op::Publish(publish), &mut self.out);
    }

    fn ask(&mut self, subject: &str, request: &[u8]) -> io::Result<Bytes> {
        let reply = format!("{}.answer", self.inbox);
        self.say(subject.as_bytes(), reply.as_bytes(), request);
        self.flush()?;
        let mut answer = None;
        while answer.is_none() {
            self.read(|heard| {
                if let Heard::Answer(bytes) = heard {
                    answer = Some(bytes);
                }
            })?;
        }
        Ok(answer.unwrap_or_default())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads once; `hear` is told what came in whole.
    fn read(&mut self, mut hear: impl FnMut(Heard)) -> io::Result<()> {
        match self.socket.read(&mut self.chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => self.input.extend_from_slice(&self.chunk[..len]),
        }
        loop {
            let parsed = wire::parse(&self.input, &Limits::server()).map_err(io::Error::other)?;
            let Parsed::Op { op, len } = parsed else { return Ok(()) };
            let heard = heard(&op)?;
            self.input.advance(len);
            match heard {
                Heard::Ping => encoder::encode(&Op::Pong, &mut self.out),
                Heard::Heartbeat(reply) => self.say(&reply, b"", b""),
                Heard::Refusal(text) => return Err(io::Error::other(text)),
                other @ (Heard::Ack | Heard::Answer(_) | Heard::Other) => hear(other),
            }
        }
    }
}

fn heard(op: &Op<'_>) -> io::Result<Heard> {
    let (message, sid) = match op {
        Op::Message { message, sid } => (message, *sid),
        Op::Ping => return Ok(Heard::Ping),
        Op::Err(text) => return Ok(Heard::Refusal(String::from_utf8_lossy(text).into_owned())),
        Op::Info(_)
        | Op::Connect(_)
        | Op::Publish(_)
        | Op::Subscribe { .. }
        | Op::Unsubscribe { .. }
        | Op::Pong
        | Op::Ok
        | Op::RouteSubscribe { .. }
        | Op::RouteUnsubscribe(_)
        | Op::RouteMessage(_)
        | Op::Account(..)
        | Op::EngineInterest { .. }
        | Op::EngineState { .. }
        | Op::Kept(_)
        | Op::Done { .. }
        | Op::Told { .. } => return Ok(Heard::Other),
    };
    if message.header_len.is_some() {
        // Streaming servers send no headers; a core server tells that nobody listens.
        return Err(io::Error::other("no streaming server listens"));
    }
    let payload = message.payload;
    Ok(match sid {
        ACKS => {
            let ack = pb::PubAck::decode(payload).map_err(io::Error::other)?;
            refuse(&ack.error)?;
            Heard::Ack
        }
        ANSWERS => Heard::Answer(Bytes::copy_from_slice(payload)),
        HEARTBEATS => Heard::Heartbeat(Bytes::copy_from_slice(message.reply.unwrap_or_default())),
        _ => Heard::Other,
    })
}

/// The server's own words, if it has some against it.
fn refuse(error: &[u8]) -> io::Result<()> {
    match error {
        b"" => Ok(()),
        text => Err(io::Error::other(String::from_utf8_lossy(text).into_owned())),
    }
}
