//! The NATS connection below a streaming client: one server at a time, then the next.
//!
//! Writers share one socket under a lock; the reader thread owns the other half. While there is
//! no connection, what is written waits, up to a bound; interests are told again to each server
//! before it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::address::Address;
use super::codec::{self, Incoming, Login};
use super::error::ClientError;
use super::options::Options;
use super::stream::Stream;
use crate::base::time::Instant;
use crate::base::world;
use crate::wire::Info;

/// How often the reader looks at its deadlines while nothing comes in.
const TICK: Duration = Duration::from_millis(20);

/// What one read takes from the socket at most.
const READ_BYTES: usize = 64 * 1024;

/// The write half and what it needs when it comes back.
#[derive(Debug, Default)]
struct WriteHalf {
    socket: Option<Stream>,
    /// Subject by `sid`: told to each new server.
    interests: BTreeMap<u64, Bytes>,
    last_sid: u64,
    /// Whole operations that wait for a connection.
    waiting: BytesMut,
    scratch: BytesMut,
    /// Index of the server that was reached last.
    server: usize,
    /// Why nothing can be sent any more.
    ended: Option<End>,
}

/// Why a link is of no use any more.
#[derive(Clone, Debug)]
pub(super) enum End {
    Closed,
    Lost(String),
}

impl End {
    pub(super) fn to_error(&self) -> ClientError {
        match self {
            Self::Closed => ClientError::Closed,
            Self::Lost(reason) => ClientError::ConnectionLost(reason.clone()),
        }
    }
}

/// The shared part: everybody may write, the reader thread connects and reads.
#[derive(Debug)]
pub(super) struct Link {
    options: Arc<Options>,
    addresses: Vec<Address>,
    half: Mutex<WriteHalf>,
    ended: Condvar,
}

/// The read half; belongs to one thread.
#[derive(Debug)]
pub(super) struct ReadHalf {
    socket: Stream,
    input: BytesMut,
    chunk: Vec<u8>,
    /// Index of the server in use.
    server: usize,
}

impl Link {
    /// Connects to the first server that takes us.
    pub(super) fn open(options: Arc<Options>) -> Result<(Self, ReadHalf), ClientError> {
        let addresses = options
            .servers
            .iter()
            .flat_map(|server| server.split(','))
            .map(Address::decode)
            .collect::<Result<Vec<_>, _>>()?;
        let link = Self {
            options,
            addresses,
            half: Mutex::new(WriteHalf::default()),
            ended: Condvar::new(),
        };
        let mut reason = "no server was named".to_owned();
        for server in 0..link.addresses.len() {
            match link.dial(server) {
                Ok(reader) => return Ok((link, reader)),
                Err(error) => reason = format!("{}: {error}", link.addresses[server]),
            }
        }
        Err(ClientError::NoServer(reason))
    }

    /// Adds an interest and gives its number.
    pub(super) fn listen(&self, subject: &str) -> Result<u64, ClientError> {
        let mut half = self.half();
        half.check()?;
        half.last_sid += 1;
        let sid = half.last_sid;
        let subject = Bytes::copy_from_slice(subject.as_bytes());
        half.interests.insert(sid, subject.clone());
        if half.socket.is_some() {
            half.write(|out| codec::encode_listen(out, &subject, sid), usize::MAX)?;
        }
        Ok(sid)
    }

    /// Removes an interest.
    pub(super) fn unlisten(&self, sid: u64) {
        let mut half = self.half();
        if half.interests.remove(&sid).is_some() && half.socket.is_some() {
            // Without a connection there is nothing to take back.
            let _ = half.write(|out| codec::encode_unlisten(out, sid), usize::MAX);
        }
    }

    /// Publishes on a core subject.
    pub(super) fn publish(
        &self,
        subject: &[u8],
        reply: &[u8],
        payload: &[u8],
    ) -> Result<(), ClientError> {
        let mut half = self.half();
        half.check()?;
        let bound = self.options.pending_bytes_max;
        half.write(|out| codec::encode_publish(out, subject, reply, payload), bound)
    }

    /// Answers a PING of the server.
    pub(super) fn pong(&self) {
        let mut half = self.half();
        if half.socket.is_some() {
            let _ = half.write(codec::encode_pong, usize::MAX);
        }
    }

    /// Ends the link: the reader returns soon, and nothing can be sent any more.
    pub(super) fn end(&self, end: End) {
        let mut half = self.half();
        half.ended.get_or_insert(end);
        half.disconnect();
        self.ended.notify_all();
    }

    /// Why the link ended, if it did.
    pub(super) fn ended(&self) -> Option<End> {
        self.half().ended.clone()
    }

    /// The server of the present connection; `None` between two connections.
    pub(super) fn server(&self) -> Option<&Address> {
        let half = self.half();
        half.socket.is_some().then(|| &self.addresses[half.server])
    }

    /// Waits for `pause` or until the link ends; whether it goes on.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let half = self.half();
        let (half, _) = self
            .ended
            .wait_timeout_while(half, pause, |half| half.ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        half.ended.is_none()
    }

    /// Finds a new server after `reader` lost its own: the next in the list first. Between two
    /// attempts `meanwhile` is called.
    pub(super) fn reconnect(
        &self,
        reader: &mut ReadHalf,
        meanwhile: impl Fn(),
    ) -> Result<(), ClientError> {
        self.half().disconnect();
        let give_up_at = world::instant() + self.options.reconnect_for;
        let mut tries = 0;
        loop {
            tries += 1;
            self.half().check()?;
            let server = (reader.server + tries) % self.addresses.len();
            let reason = match self.dial(server) {
                Ok(found) => {
                    *reader = found;
                    return Ok(());
                }
                Err(error) => format!("{}: {error}", self.addresses[server]),
            };
            if world::instant() >= give_up_at {
                return Err(ClientError::NoServer(reason));
            }
            meanwhile();
            if tries % self.addresses.len() == 0 {
                self.pause(self.options.reconnect_wait);
            }
        }
    }

    /// Connects to one server, tells it all interests, and sends what waited.
    fn dial(&self, server: usize) -> Result<ReadHalf, ClientError> {
        let address = &self.addresses[server];
        let socket = Stream::new(connect_tcp(address, self.options.timeout)?);
        let mut reader =
            ReadHalf { socket, input: BytesMut::new(), chunk: vec![0; READ_BYTES], server };
        reader.hand_shake(address, &self.options)?;
        let mut writer = reader.socket.try_clone().map_err(io_error("cannot share a socket"))?;
        let mut half = self.half();
        half.check()?;
        let mut out = BytesMut::new();
        for (sid, subject) in &half.interests {
            codec::encode_listen(&mut out, subject, *sid);
        }
        out.extend_from_slice(&half.waiting);
        writer.write_all(&out).map_err(io_error("cannot write to the server"))?;
        half.waiting.clear();
        half.socket = Some(writer);
        half.server = server;
        Ok(reader)
    }

    fn half(&self) -> MutexGuard<'_, WriteHalf> {
        self.half.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is logged in, for who speaks on it himself.
pub(crate) struct Dialled {
    /// In clear.
    pub(crate) socket: TcpStream,
    /// What has come on it already.
    pub(crate) came: BytesMut,
    /// The longest payload that the server takes, as it says; 0 if it does not say it.
    pub(crate) max_payload: i64,
}

/// Logs in at the first server of `options` that can be reached. In clear only.
pub(crate) fn dial_in_clear(options: &Options) -> Result<Dialled, ClientError> {
    let mut reason = None;
    for server in options.servers.iter().flat_map(|server| server.split(',')) {
        let address = Address::decode(server)?;
        let dialled = connect_tcp(&address, options.timeout).and_then(|socket| {
            let (input, chunk) = (BytesMut::new(), vec![0; READ_BYTES]);
            let mut half = ReadHalf { socket: Stream::new(socket), input, chunk, server: 0 };
            let max_payload = half.hand_shake(&address, options)?.max_payload;
            let ReadHalf { socket, input: came, .. } = half;
            let socket = socket.into_clear().ok_or(ClientError::OnlyClear)?;
            Ok(Dialled { socket, came, max_payload })
        });
        match dialled {
            Ok(dialled) => return Ok(dialled),
            Err(error) => reason = Some(format!("{address}: {error}")),
        }
    }
    Err(ClientError::NoServer(reason.unwrap_or_else(|| "no server was named".to_owned())))
}

impl WriteHalf {
    fn check(&self) -> Result<(), ClientError> {
        self.ended.as_ref().map_or(Ok(()), |end| Err(end.to_error()))
    }

    /// Writes one whole operation, or keeps it for the next connection.
    fn write(
        &mut self,
        encode: impl FnOnce(&mut BytesMut),
        waiting_bytes_max: usize,
    ) -> Result<(), ClientError> {
        self.scratch.clear();
        encode(&mut self.scratch);
        if let Some(socket) = &mut self.socket {
            if socket.write_all(&self.scratch).is_ok() {
                return Ok(());
            }
            // The server cannot have used an operation that it did not get whole.
            self.disconnect();
        }
        if self.waiting.len() + self.scratch.len() > waiting_bytes_max {
            return Err(ClientError::PendingFull(self.waiting.len()));
        }
        self.waiting.extend_from_slice(&self.scratch);
        Ok(())
    }

    /// Gives the socket up; the reader notices the end of its half.
    fn disconnect(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.shutdown();
        }
    }
}

impl ReadHalf {
    /// The next thing from the server; `None` when `TICK` passed without one.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, ClientError> {
        loop {
            if let Some(incoming) = codec::decode(&mut self.input)? {
                return Ok(Some(incoming));
            }
            match self.socket.read(&mut self.chunk) {
                Ok(0) => {
                    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(ClientError::Io { action: "the server hung up", source });
                }
                Ok(len) => self.input.extend_from_slice(&self.chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(io_error("cannot read from the server")(error)),
            }
        }
    }

    /// Logs in (INFO, TLS where one side asks for it, CONNECT, PING, PONG); what the server has
    /// said of itself.
    fn hand_shake(&mut self, address: &Address, options: &Options) -> Result<Info, ClientError> {
        // A server that holds publishers back does not read; the ack would come too late anyway.
        let set_up = self.socket.set_up(TICK, options.ack_timeout);
        set_up.map_err(io_error("cannot set up a socket"))?;
        let deadline = world::instant() + options.timeout;
        let greeting = self.expect(deadline, |incoming| match incoming {
            Incoming::Info(info) => Some(info),
            Incoming::Received(_)
            | Incoming::Ping
            | Incoming::Pong
            | Incoming::Error(_)
            | Incoming::Other => None,
        })?;
        let is_asked = options.is_secure || address.is_tls;
        if greeting.tls_required || is_asked {
            if !greeting.tls_required && !greeting.tls_available {
                return Err(ClientError::NoTls);
            }
            let config = options.tls.clone().ok_or(ClientError::NeedsTls)?;
            if !self.input.is_empty() {
                // Anybody on the way can have said it. Once TLS has begun it would be believed.
                let source = io::Error::other("something was said in clear in front of it");
                return Err(io_error("TLS with the server failed")(source));
            }
            let begun = self.socket.begin_tls(config, &address.host, options.timeout);
            begun.map_err(io_error("TLS with the server failed"))?;
        }
        let mut out = BytesMut::new();
        let login = login(address, options, &greeting)?;
        codec::encode_connect(&mut out, &options.name, &login);
        self.socket.write_all(&out).map_err(io_error("cannot write to the server"))?;
        self.expect(deadline, |incoming| matches!(incoming, Incoming::Pong).then_some(()))?;
        Ok(*greeting)
    }

    fn expect<T>(
        &mut self,
        deadline: Instant,
        expected: impl Fn(Incoming) -> Option<T>,
    ) -> Result<T, ClientError> {
        while world::instant() < deadline {
            match self.next()? {
                Some(Incoming::Error(text)) => return Err(ClientError::Refused(text)),
                Some(incoming) => {
                    if let Some(found) = expected(incoming) {
                        return Ok(found);
                    }
                }
                None => (),
            }
        }
        let source = io::Error::from(io::ErrorKind::TimedOut);
        Err(ClientError::Io { action: "the server does not answer", source })
    }
}

/// Who we are there: what the address says goes before the options. A key signs what the server
/// has sent.
fn login(address: &Address, options: &Options, greeting: &Info) -> Result<Login, ClientError> {
    let mut login = match &address.login {
        Some((token, None)) => Login { token: Some(token.clone()), ..Login::default() },
        Some((user, password)) => {
            Login { user: Some(user.clone()), password: password.clone(), ..Login::default() }
        }
        None => Login {
            user: options.user.clone(),
            password: options.password.clone(),
            token: options.token.clone(),
            ..Login::default()
        },
    };
    let key = options.key.as_ref();
    if let Some(key) = key.filter(|_| options.jwt.is_some() || address.login.is_none()) {
        if options.jwt.is_none() && greeting.nonce.is_empty() {
            return Err(ClientError::NoKeys);
        }
        login.jwt.clone_from(&options.jwt);
        login.nkey = options.jwt.is_none().then(|| key.public());
        login.signature = Some(key.sign(&greeting.nonce));
    }
    Ok(login)
}

fn connect_tcp(address: &Address, timeout: Duration) -> Result<TcpStream, ClientError> {
    let places = (address.host.as_str(), address.port)
        .to_socket_addrs()
        .map_err(io_error("cannot look up the server"))?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in places {
        match TcpStream::connect_timeout(&place, timeout) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(io_error("cannot connect")(last))
}

/// How a read says that its time is over differs between systems.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> ClientError {
    move |source| ClientError::Io { action, source }
}
