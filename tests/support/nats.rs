//! A NATS client by hand: what goes over its socket is what a test says, and nothing else.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::node::{Node, PATIENCE};

/// How long to wait for a probe before it is sent again.
const PROBE_AGAIN: Duration = Duration::from_millis(20);

/// Makes subjects that nobody else uses.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A subject (or queue, or sid) that was not used before.
pub fn unique(stem: &str) -> String {
    format!("{stem}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A message that came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Msg {
    pub subject: String,
    pub sid: String,
    pub reply: Option<String>,
    pub header: Vec<u8>,
    pub payload: Vec<u8>,
}

/// One connection.
pub struct Nats {
    reader: BufReader<TcpStream>,
    /// Messages that were read and not yet taken.
    pub inbox: VecDeque<Msg>,
    /// Every INFO that came, the newest last.
    pub infos: Vec<String>,
    /// Every -ERR that came.
    pub errors: Vec<String>,
    pongs: u64,
    next_sid: u64,
}

enum Read1 {
    Something,
    Nothing,
    End,
}

impl Nats {
    /// Connects to a node, as a client with headers that wants to know of missing responders.
    pub fn connect(node: &Node) -> Self {
        let mut nats = Self::open(node.client_port);
        nats.send(
            "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
             \"no_responders\":true,\"protocol\":1,\"lang\":\"hand\",\"version\":\"1\"}\r\n",
        );
        nats.sync();
        nats
    }

    /// A connection to a port, with the server's first INFO read.
    pub fn open(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        let reader = BufReader::with_capacity(64 * 1024, socket);
        let mut nats = Self {
            reader,
            inbox: VecDeque::new(),
            infos: Vec::new(),
            errors: Vec::new(),
            pongs: 0,
            next_sid: 1,
        };
        nats.wait("INFO", |nats| !nats.infos.is_empty());
        nats
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Subscribes and gives the sid.
    pub fn subscribe(&mut self, subject: &str, queue: &str) -> String {
        let sid = self.next_sid.to_string();
        self.next_sid += 1;
        self.send(format!("SUB {subject} {queue} {sid}\r\n"));
        sid
    }

    /// Publishes.
    pub fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        let line = format!("PUB {subject} {reply} {}\r\n", payload.len());
        self.send([line.as_bytes(), payload, b"\r\n"].concat());
    }

    /// Publishes with headers; `header` is the whole block.
    pub fn publish_with_header(&mut self, subject: &str, header: &[u8], payload: &[u8]) {
        let total = header.len() + payload.len();
        let line = format!("HPUB {subject} {} {total}\r\n", header.len());
        self.send([line.as_bytes(), header, payload, b"\r\n"].concat());
    }

    /// Waits until the server has handled all that was sent.
    pub fn sync(&mut self) {
        let pongs = self.pongs + 1;
        self.send("PING\r\n");
        self.wait("PONG", |nats| nats.pongs >= pongs);
    }

    /// Reads until `is_there`.
    pub fn wait(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) {
        assert!(
            self.wait_for(PATIENCE, &is_there),
            "waited for {what}; inbox {:?}, infos {:?}, errors {:?}",
            self.inbox.len(),
            self.infos.last(),
            self.errors
        );
    }

    /// Reads until `is_there`, or time is up or the connection ended; gives whether it is there.
    pub fn wait_for(&mut self, patience: Duration, is_there: impl Fn(&Self) -> bool) -> bool {
        let deadline = now() + patience;
        while !is_there(self) {
            match self.read(deadline) {
                Read1::Something => (),
                Read1::Nothing | Read1::End => return is_there(self),
            }
        }
        true
    }

    /// Waits for the next message of a subscription.
    pub fn next(&mut self, sid: &str) -> Msg {
        self.wait("a message", |nats| nats.inbox.iter().any(|msg| msg.sid == sid));
        let at = self.inbox.iter().position(|msg| msg.sid == sid).unwrap();
        self.inbox.remove(at).unwrap()
    }

    /// Takes what is there of a subscription.
    pub fn take(&mut self, sid: &str) -> Vec<Msg> {
        let (taken, left): (VecDeque<Msg>, _) =
            self.inbox.drain(..).partition(|msg| msg.sid == sid);
        self.inbox = left;
        taken.into()
    }

    /// Waits for the end of the connection.
    pub fn wait_end(&mut self) {
        let deadline = now() + PATIENCE;
        loop {
            match self.read(deadline) {
                Read1::Something => (),
                Read1::End => return,
                Read1::Nothing => panic!("the connection does not end; errors {:?}", self.errors),
            }
        }
    }

    fn read(&mut self, deadline: Instant) -> Read1 {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Read1::Nothing;
        }
        self.reader.get_ref().set_read_timeout(Some(left)).unwrap();
        match self.reader.fill_buf() {
            Ok([]) => return Read1::End,
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Read1::Nothing,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Read1::Nothing,
            Err(_) => return Read1::End,
        }
        // The operation has begun; the rest of it is on its way.
        self.reader.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = String::new();
        if self.reader.read_line(&mut line).is_err() || !line.ends_with('\n') {
            return Read1::End;
        }
        self.on_line(line.trim_end())
    }

    fn on_line(&mut self, line: &str) -> Read1 {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        match words.next().unwrap_or_default() {
            "INFO" => self.infos.push(line.to_owned()),
            "-ERR" => self.errors.push(line.to_owned()),
            "PONG" => self.pongs += 1,
            "PING" => self.send("PONG\r\n"),
            "MSG" => self.on_msg(&words.collect::<Vec<_>>(), false),
            "HMSG" => self.on_msg(&words.collect::<Vec<_>>(), true),
            // Routes have more, which nobody looks at here.
            _ => (),
        }
        Read1::Something
    }

    fn on_msg(&mut self, words: &[&str], has_header: bool) {
        let sizes = if has_header { 2 } else { 1 };
        let (names, sizes) = words.split_at(words.len() - sizes);
        let size = |at: usize| sizes[at].parse::<usize>().unwrap();
        let total = size(sizes.len() - 1);
        let mut bytes = vec![0; total + 2];
        self.reader.read_exact(&mut bytes).unwrap();
        assert!(bytes.ends_with(b"\r\n"), "a payload ends where it is said to");
        bytes.truncate(total);
        let header_len = if has_header { size(0) } else { 0 };
        let payload = bytes.split_off(header_len);
        self.inbox.push_back(Msg {
            subject: names[0].to_owned(),
            sid: names[1].to_owned(),
            reply: names.get(2).map(|reply| (*reply).to_owned()),
            header: bytes,
            payload,
        });
    }
}

/// Waits until what `to` has subscribed so far is known to the server of `from`: interest travels
/// in order, so a newer one shows it.
pub fn settle(from: &mut Nats, to: &mut Nats) {
    let subject = unique("settled.");
    let sid = to.subscribe(&subject, "");
    let deadline = now() + PATIENCE;
    loop {
        assert!(now() < deadline, "interest does not reach the other server");
        from.publish(&subject, "", b"");
        let is_there = |nats: &Nats| nats.inbox.iter().any(|msg| msg.sid == sid);
        if to.wait_for(PROBE_AGAIN, is_there) {
            break;
        }
    }
    to.send(format!("UNSUB {sid}\r\n"));
    to.sync();
    to.take(&sid);
}

/// Waits until what `from` has published so far has reached `to`: messages travel in order.
pub fn arrive(from: &mut Nats, to: &mut Nats) {
    let subject = unique("arrived.");
    let sid = to.subscribe(&subject, "");
    settle(from, to);
    from.publish(&subject, "", b"");
    to.next(&sid);
}

#[allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
fn now() -> Instant {
    Instant::now()
}
