//! A connection of one thread, which sends and reads without waiting for either

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use super::BenchError;
use crate::base::time::Instant;
use crate::base::world;
use crate::client::{self, Dialled, Options};
use crate::wire::{self, Limits, Op, Parsed};

/// Bytes that one read takes at most.
const READ_LEN: usize = 256 * 1024;

/// How long a request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Bytes that are kept of what comes before an answer, as deliveries while channels are subscribed
/// to.
const OTHERS_LEN_MAX: usize = 1 << 30;

/// What is said of a connection that has ended without a word.
const HUNG_UP: &str = "the server hung up";

/// What the server has said.
#[derive(Debug)]
pub(crate) enum Said<'a> {
    /// A message for one of our interests.
    Message {
        /// Whose.
        sid: u64,
        /// On which subject.
        subject: &'a [u8],
        /// Where an answer goes.
        reply: Option<&'a [u8]>,
        /// What is in it, with its headers.
        payload: &'a [u8],
    },
    /// An answer to our PING.
    Pong,
}

impl Said<'_> {
    /// Appends a message as it came.
    fn keep(&self, others: &mut Vec<u8>) {
        let Self::Message { sid, subject, reply, payload } = self else { return };
        others.extend_from_slice(b"MSG ");
        others.extend_from_slice(subject);
        others.extend_from_slice(format!(" {sid} ").as_bytes());
        if let Some(reply) = reply {
            others.extend_from_slice(reply);
            others.push(b' ');
        }
        others.extend_from_slice(format!("{}\r\n", payload.len()).as_bytes());
        others.extend_from_slice(payload);
        others.extend_from_slice(b"\r\n");
    }
}

/// A connection that is logged in.
pub(crate) struct Connection {
    socket: mio::net::TcpStream,
    poll: Poll,
    events: Events,
    /// What waits to be sent; its beginning is sent already.
    out: Vec<u8>,
    sent: usize,
    /// What came; its beginning is read already.
    input: Vec<u8>,
    read: usize,
    filled: usize,
    limits: Limits,
    /// The longest payload that the server takes.
    payload_max: Option<usize>,
    others_len_max: usize,
    name: String,
}

impl Connection {
    /// Logs in.
    pub(crate) fn open(login: &Options, name: &str) -> Result<Self, BenchError> {
        let named = Options { name: name.to_owned(), ..login.clone() };
        let Dialled { socket, came, max_payload } = client::dial_in_clear(&named)?;
        socket.set_nonblocking(true).map_err(BenchError::io("cannot set up a socket"))?;
        let mut socket = mio::net::TcpStream::from_std(socket);
        let poll = Poll::new().map_err(BenchError::io("cannot watch a socket"))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = poll.registry().register(&mut socket, Token(0), both);
        registered.map_err(BenchError::io("cannot watch a socket"))?;
        let filled = came.len();
        let mut input = came.to_vec();
        input.resize(filled + READ_LEN, 0);
        Ok(Self {
            socket,
            poll,
            events: Events::with_capacity(4),
            out: Vec::new(),
            sent: 0,
            input,
            read: 0,
            filled,
            limits: Limits::server(),
            payload_max: usize::try_from(max_payload).ok().filter(|max| *max != 0),
            others_len_max: OTHERS_LEN_MAX,
            name: name.to_owned(),
        })
    }

    /// Whether the server takes a message of so many bytes, `size` of which a user has asked for.
    /// Else it would hang up, and what it says then need not arrive.
    pub(crate) fn check_len(&self, len: usize, size: usize) -> Result<(), BenchError> {
        let Some(max) = self.payload_max.filter(|max| *max < len) else { return Ok(()) };
        let size_max = max.saturating_sub(len.saturating_sub(size));
        Err(BenchError::TooLong { len, max, size_max })
    }

    /// What is sent next is appended here.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes that wait to be sent.
    pub(crate) fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Listens on a subject.
    pub(crate) fn listen(&mut self, subject: &str, queue: Option<&str>, sid: u64) {
        let queue = queue.map(|queue| format!(" {queue}")).unwrap_or_default();
        self.out.extend_from_slice(format!("SUB {subject}{queue} {sid}\r\n").as_bytes());
    }

    /// Publishes.
    pub(crate) fn publish(&mut self, subject: &[u8], reply: Option<&str>, payload: &[u8]) {
        push_publish(&mut self.out, subject, reply, payload);
    }

    /// Sends what it can, without waiting; whether anything went out.
    pub(crate) fn send(&mut self) -> Result<bool, BenchError> {
        let before = self.sent;
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(self.hung_up(&error)),
            }
        }
        let has_sent = before < self.sent;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        Ok(has_sent)
    }

    /// Reads what is there, without waiting, and gives it to `take` until that breaks off; what is
    /// left then comes the next time. Whether anything was there. PINGs are answered here.
    pub(crate) fn receive(
        &mut self,
        mut take: impl FnMut(Said<'_>, &mut Vec<u8>) -> ControlFlow<()>,
    ) -> Result<bool, BenchError> {
        if self.give(&mut take)? {
            return Ok(true);
        }
        self.make_room();
        match self.socket.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(self.ended(HUNG_UP.to_owned())),
            Ok(len) => self.filled += len,
            Err(error) if is_nothing(&error) => return Ok(false),
            Err(error) => return Err(self.ended(error.to_string())),
        }
        self.give(&mut take)?;
        Ok(true)
    }

    /// Gives what is whole of what came; whether anything was.
    fn give(
        &mut self,
        take: &mut impl FnMut(Said<'_>, &mut Vec<u8>) -> ControlFlow<()>,
    ) -> Result<bool, BenchError> {
        let mut has_given = false;
        loop {
            let parsed = wire::parse(&self.input[self.read..self.filled], &self.limits);
            let (op, len) = match parsed {
                Ok(Parsed::Op { op, len }) => (op, len),
                Ok(Parsed::NeedMore { .. }) => break,
                Err(error) => return Err(self.ended(error.to_string())),
            };
            has_given = true;
            let mut flow = ControlFlow::Continue(());
            if let Op::Message { message, sid } = op {
                let sid = std::str::from_utf8(sid).ok().and_then(|sid| sid.parse().ok());
                let said = Said::Message {
                    sid: sid.unwrap_or(0),
                    subject: message.subject,
                    reply: message.reply,
                    payload: message.payload,
                };
                flow = take(said, &mut self.out);
            } else if let Op::Err(text) = op {
                let reason = String::from_utf8_lossy(text).trim().to_owned();
                return Err(self.ended(reason));
            } else if matches!(op, Op::Pong) {
                flow = take(Said::Pong, &mut self.out);
            } else if matches!(op, Op::Ping) {
                self.out.extend_from_slice(b"PONG\r\n");
            }
            self.read += len;
            if flow.is_break() {
                break;
            }
        }
        Ok(has_given)
    }

    /// What came while something else was waited for comes first.
    fn put_back(&mut self, others: &[u8]) {
        if !others.is_empty() {
            let rest = [others, &self.input[self.read..self.filled]].concat();
            (self.read, self.filled) = (0, rest.len());
            self.input = rest;
            self.input.resize(self.filled + READ_LEN, 0);
        }
    }

    /// What is not whole moves to the front; a message that does not fit makes the buffer grow.
    fn make_room(&mut self) {
        self.input.copy_within(self.read..self.filled, 0);
        self.filled -= self.read;
        self.read = 0;
        if self.filled == self.input.len() {
            self.input.resize(2 * self.filled, 0);
        }
    }

    /// Waits until something can be sent or read, or until then.
    pub(crate) fn wait(&mut self, until: Instant) -> Result<(), BenchError> {
        let timeout = until.since(world::instant());
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(BenchError::io("cannot watch a socket")(error)),
        }
    }

    /// Sends everything and reads until `found` gives something.
    pub(crate) fn expect<T>(
        &mut self,
        request: &'static str,
        mut found: impl FnMut(&Said<'_>) -> Option<T>,
    ) -> Result<T, BenchError> {
        let until = world::instant() + ANSWER_WITHIN;
        let (mut answer, mut others) = (None, Vec::new());
        while world::instant() < until && answer.is_none() {
            self.send()?;
            let is_read = self.receive(|said, _| {
                answer = found(&said);
                if answer.is_some() {
                    return ControlFlow::Break(());
                }
                said.keep(&mut others);
                ControlFlow::Continue(())
            })?;
            if self.others_len_max < others.len() {
                let reason = format!("no answer within {} bytes", self.others_len_max);
                return Err(BenchError::Refused { request, reason });
            }
            if !is_read {
                self.wait(until)?;
            }
        }
        self.put_back(&others);
        answer.ok_or_else(|| BenchError::Refused { request, reason: "no answer".to_owned() })
    }

    /// Waits until the server has taken everything that was sent before.
    pub(crate) fn flush(&mut self) -> Result<(), BenchError> {
        self.out.extend_from_slice(b"PING\r\n");
        self.expect("PING", |said| matches!(said, Said::Pong).then_some(()))
    }

    /// What the server has said before it hung up tells more than what the system says of that.
    fn hung_up(&mut self, error: &io::Error) -> BenchError {
        loop {
            match self.receive(|_, _| ControlFlow::Continue(())) {
                Ok(true) => (),
                Err(BenchError::Ended { reason, .. }) if reason != HUNG_UP => {
                    return self.ended(reason);
                }
                Ok(false) | Err(_) => return self.ended(error.to_string()),
            }
        }
    }

    fn ended(&self, reason: String) -> BenchError {
        BenchError::Ended { who: self.name.clone(), reason }
    }
}

/// Appends a PUB.
pub(crate) fn push_publish(out: &mut Vec<u8>, subject: &[u8], reply: Option<&str>, payload: &[u8]) {
    out.extend_from_slice(b"PUB ");
    out.extend_from_slice(subject);
    if let Some(reply) = reply {
        out.push(b' ');
        out.extend_from_slice(reply.as_bytes());
    }
    out.extend_from_slice(format!(" {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{BufRead, BufReader};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// A connection to somebody who takes a client and then does this.
    fn connected(then: impl FnOnce(TcpStream) + Send + 'static) -> Connection {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"INFO {\"max_payload\":100}\r\n").unwrap();
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.unwrap() != "PING") {}
            socket.write_all(b"PONG\r\n").unwrap();
            then(socket);
        });
        Connection::open(&Options::new(&[&address], "c", "me"), "me").unwrap()
    }

    /// Goal: whoever talks without end, and does not answer, takes neither memory nor time without
    /// end.
    #[test]
    fn a_peer_that_talks_without_end_is_left() {
        let mut connection =
            connected(|mut socket| while socket.write_all(b"MSG a 7 3\r\nabc\r\n").is_ok() {});
        connection.others_len_max = 10_000;
        let error = connection.flush().unwrap_err();
        assert_eq!(error.to_string(), "PING: no answer within 10000 bytes");
        let mut connection = connected(|mut socket| {
            let _ = socket.write_all(b"MSG a 7 ");
            while socket.write_all(&[b'9'; 1_000]).is_ok() {}
        });
        assert!(matches!(connection.flush(), Err(BenchError::Ended { .. })));
    }

    /// Goal: what a server has said before it hung up is what is shown, though it is found out in
    /// writing.
    #[test]
    fn a_server_that_hangs_up_while_we_write_is_heard() {
        let mut connection = connected(|mut socket| {
            socket.write_all(b"-ERR 'Maximum Payload Violation'\r\n").unwrap();
        });
        let error = loop {
            connection.out().resize(1 << 20, b'x');
            if let Err(error) = connection.send() {
                break error;
            }
        };
        assert_eq!(error.to_string(), "me: 'Maximum Payload Violation'");
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_sent() {
        let connection = connected(drop);
        assert!(connection.check_len(100, 90).is_ok());
        let error = connection.check_len(101, 90).unwrap_err().to_string();
        assert!(error.contains("101 bytes") && error.contains("--size 89 at most"), "{error}");
    }
}
