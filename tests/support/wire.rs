//! A NATS client on a raw socket that sees every byte the server sent.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::server::PATIENCE;

/// A header block with one key.
pub const HEADER: &[u8] = b"NATS/1.0\r\nKey: Value\r\n\r\n";

/// Why no further operation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// The server closed the connection.
    Closed,
    /// Not within the time allowed.
    InTime,
}

/// What a connection runs over: TCP, or TLS over TCP.
pub trait Stream: Read + Write + Send {
    /// The socket at the bottom, for its time-outs.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref()
    }
}

/// One connection. Operations of the server come as bytes, payload and line ends included.
pub struct Conn {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// The document of the first INFO.
    pub info: serde_json::Value,
    /// PINGs of the server, answered in passing.
    pub pings: usize,
    marks: usize,
}

impl Conn {
    /// Connects and reads INFO.
    pub fn open(port: u16) -> Self {
        Self::over(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap())
    }

    /// Connects and reads INFO; `None` when nobody listens or INFO does not come.
    pub fn try_open(port: u16) -> Option<Self> {
        let mut conn = Self::silent(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?);
        let line = conn.op_within(PATIENCE).ok()?;
        conn.info = serde_json::from_slice(line.strip_prefix(b"INFO ")?).ok()?;
        Some(conn)
    }

    /// With a small receive buffer, so that little waits in the kernel when nobody reads.
    pub fn narrow(port: u16) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let address = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    /// A connection on which nothing was read yet.
    pub fn silent(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let (buffer, info) = (Vec::new(), serde_json::Value::Null);
        Self { stream: Box::new(stream), buffer, info, pings: 0, marks: 0 }
    }

    fn over(stream: TcpStream) -> Self {
        let mut conn = Self::silent(stream);
        conn.read_info();
        conn
    }

    fn read_info(&mut self) {
        let line = self.op();
        let text = line.strip_prefix(b"INFO ").unwrap_or_else(|| panic!("{}", show(&line)));
        self.info = serde_json::from_slice(text).unwrap();
    }

    /// Continues over TLS, after INFO.
    pub fn tls(port: u16, config: &std::sync::Arc<rustls::ClientConfig>) -> Self {
        let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        plain.set_nodelay(true).unwrap();
        // Byte by byte: what follows the line belongs to TLS.
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            plain.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        let name = "localhost".try_into().unwrap();
        let session = rustls::ClientConnection::new(std::sync::Arc::clone(config), name).unwrap();
        let stream = rustls::StreamOwned::new(session, plain);
        let info = serde_json::from_slice(line.strip_prefix(b"INFO ").unwrap()).unwrap();
        Self { stream: Box::new(stream), buffer: Vec::new(), info, pings: 0, marks: 0 }
    }

    /// A client with these options, quiet (neither verbose nor pedantic) unless they say otherwise.
    pub fn client(port: u16, options: &str) -> Self {
        let mut conn = Self::open(port);
        conn.connect(options);
        conn
    }

    /// CONNECT and a round trip; `options` are the inside of a JSON object, or empty.
    pub fn connect(&mut self, options: &str) {
        let answer = self.ask(connect(options));
        assert!(answer.is_empty(), "CONNECT {options} was answered {}", show(&answer));
    }

    /// Sends bytes; a connection that the server has closed takes them too.
    pub fn send(&mut self, data: impl AsRef<[u8]>) -> &mut Self {
        match self.stream.write_all(data.as_ref()).and_then(|()| self.stream.flush()) {
            Ok(()) => {}
            Err(error) if is_closed(error.kind()) => {}
            Err(error) => panic!("sending: {error}"),
        }
        self
    }

    /// The next operation, PINGs of the server included; an unfinished one stays in the buffer.
    pub fn raw_op(&mut self, within: Duration) -> Result<Vec<u8>, Nothing> {
        let begun = Instant::now();
        loop {
            if let Some(len) = whole(&self.buffer) {
                return Ok(self.buffer.drain(..len).collect());
            }
            let left = within.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Nothing::InTime);
            }
            self.fill(left)?;
        }
    }

    fn fill(&mut self, within: Duration) -> Result<(), Nothing> {
        let mut chunk = [0; 65_536];
        self.stream.socket().set_read_timeout(Some(within)).unwrap();
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Nothing::Closed),
            Ok(len) => {
                self.buffer.extend_from_slice(&chunk[..len]);
                Ok(())
            }
            Err(error) if is_closed(error.kind()) => Err(Nothing::Closed),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(Nothing::InTime),
        }
    }

    /// The next operation; PINGs of the server are answered and left out.
    pub fn op_within(&mut self, within: Duration) -> Result<Vec<u8>, Nothing> {
        let begun = Instant::now();
        loop {
            let op = self.raw_op(within.saturating_sub(begun.elapsed()))?;
            if op != b"PING\r\n" {
                return Ok(op);
            }
            self.pings += 1;
            self.send(b"PONG\r\n");
        }
    }

    /// The next operation, which must come.
    pub fn op(&mut self) -> Vec<u8> {
        let op = self.op_within(PATIENCE);
        op.unwrap_or_else(|why| panic!("{why:?}; buffered {}", show(&self.buffer)))
    }

    /// The next operations, which must come.
    pub fn ops(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.op()).collect()
    }

    /// Everything up to the end of the connection, which must come; PINGs are not answered.
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut seen = Vec::new();
        loop {
            match self.raw_op(PATIENCE) {
                Ok(op) => seen.extend(op),
                Err(Nothing::Closed) => return seen,
                Err(Nothing::InTime) => panic!("not closed; seen {}", show(&seen)),
            }
        }
    }

    /// Sends data and a PING: everything that came before the PONG. The server answers in order,
    /// so this is all that data caused on this connection.
    pub fn ask(&mut self, data: impl AsRef<[u8]>) -> Vec<u8> {
        self.send(data).send(b"PING\r\n");
        let mut seen = Vec::new();
        loop {
            let op = self.op();
            if op == b"PONG\r\n" {
                return seen;
            }
            seen.extend(op);
        }
    }

    /// Everything that came here up to what `publisher` has sent so far. A message of the publisher
    /// marks the end: the order from one connection to another is promised.
    pub fn hear(&mut self, publisher: &mut Self) -> Vec<u8> {
        self.marks += 1;
        let subject = format!("_MARK.{}.{}", self.info["client_id"], self.marks);
        let sid = format!("mark{}", self.marks);
        let mut seen = self.ask(format!("SUB {subject} {sid}\r\nUNSUB {sid} 1\r\n"));
        publisher.send(publish(&subject, b""));
        let end = message(&subject, &sid, b"");
        loop {
            let op = self.op();
            if op == end {
                return seen;
            }
            seen.extend(op);
        }
    }

    /// Sends data and expects the server to close: what it said before that.
    pub fn fatal(&mut self, data: impl AsRef<[u8]>) -> Vec<u8> {
        self.send(data);
        self.until_closed()
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
    )
}

/// The length of the whole operation at the front of `bytes`, if it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let line = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let text = bytes[..line].trim_ascii_end();
    let has_payload = text.starts_with(b"MSG ") || text.starts_with(b"HMSG ");
    if !has_payload {
        return Some(line);
    }
    let size = text.rsplit(|byte| *byte == b' ').next()?;
    let size: usize = std::str::from_utf8(size).ok()?.parse().ok()?;
    let len = line + size + 2;
    (len <= bytes.len()).then_some(len)
}

/// Bytes as a person reads them.
pub fn show(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(400)];
    format!("{:?} ({} bytes)", String::from_utf8_lossy(shown), bytes.len())
}

/// Fails with readable texts when two byte strings differ.
#[track_caller]
pub fn same(found: impl AsRef<[u8]>, wanted: impl AsRef<[u8]>, what: &str) {
    let (found, wanted) = (found.as_ref(), wanted.as_ref());
    assert!(found == wanted, "{what}: {}, not {}", show(found), show(wanted));
}

/// A CONNECT line; `options` are the inside of a JSON object and come after the quiet defaults.
pub fn connect(options: &str) -> Vec<u8> {
    let comma = if options.is_empty() { "" } else { "," };
    format!("CONNECT {{\"verbose\":false,\"pedantic\":false{comma}{options}}}\r\n").into_bytes()
}

/// A PUB.
pub fn publish(subject: &str, payload: &[u8]) -> Vec<u8> {
    framed(format!("PUB {subject} {}\r\n", payload.len()), &[payload])
}

/// A PUB with a reply subject.
pub fn ask_for(subject: &str, reply: &str, payload: &[u8]) -> Vec<u8> {
    framed(format!("PUB {subject} {reply} {}\r\n", payload.len()), &[payload])
}

/// An HPUB.
pub fn publish_headers(subject: &str, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let sizes = format!("{} {}", header.len(), header.len() + payload.len());
    framed(format!("HPUB {subject} {sizes}\r\n"), &[header, payload])
}

/// A MSG.
pub fn message(subject: &str, sid: &str, payload: &[u8]) -> Vec<u8> {
    framed(format!("MSG {subject} {sid} {}\r\n", payload.len()), &[payload])
}

/// A MSG with a reply subject.
pub fn request(subject: &str, sid: &str, reply: &str, payload: &[u8]) -> Vec<u8> {
    framed(format!("MSG {subject} {sid} {reply} {}\r\n", payload.len()), &[payload])
}

/// An HMSG.
pub fn message_headers(subject: &str, sid: &str, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let sizes = format!("{} {}", header.len(), header.len() + payload.len());
    framed(format!("HMSG {subject} {sid} {sizes}\r\n"), &[header, payload])
}

fn framed(line: String, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = line.into_bytes();
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// An -ERR.
pub fn error(text: &str) -> Vec<u8> {
    format!("-ERR '{text}'\r\n").into_bytes()
}

/// How many MSG of that subject and sid are in `bytes`.
pub fn count(bytes: &[u8], subject: &str, sid: &str) -> usize {
    let head = format!("MSG {subject} {sid} ").into_bytes();
    bytes.windows(head.len()).filter(|window| *window == head).count()
}
