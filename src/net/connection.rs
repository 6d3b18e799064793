//! One socket: buffers, readiness, read turn, write turn
//!
//! Sockets are registered once, for both directions and by edges; what an edge said is remembered
//! here until a read or write finds the socket dry or full. An idle connection has no buffer.

use std::io::{self, IoSlice, Read, Write};
use std::mem;
use std::net::SocketAddr;

use bytes::BytesMut;
use mio::net::TcpStream;

use crate::base::descriptors::Admission;
use crate::base::epoch::LeaseClock;
use crate::base::go::system_reason;
use crate::base::limits::READ_BUDGET_BYTES;
use crate::base::world;
use crate::broker::outbox::Outbox;
use crate::broker::{ConnectionKind, TlsPeer};
use crate::net::tls::{Broken, Layer};

/// Unhandled input up to this length is copied out of the shared block that it would hold.
const COPIED_INPUT_MAX: usize = 8 * 1024;
/// Bytes of a shared block that input of many connections is put in, one after the other.
const ARENA_BYTES: usize = 64 * 1024;

/// What a reactor reads with: one chunk for all its connections, which none of them keeps.
#[derive(Debug)]
pub struct ReadPool {
    chunk: Box<[u8]>,
    arena: BytesMut,
}

impl Default for ReadPool {
    fn default() -> Self {
        Self {
            chunk: vec![0; READ_BUDGET_BYTES].into_boxed_slice(),
            arena: BytesMut::with_capacity(ARENA_BYTES),
        }
    }
}

/// Puts `bytes` behind what `input` holds: in the shared block, unless that is much or the session
/// has made room for a message whose length it knows.
fn gather(arena: &mut BytesMut, input: &mut BytesMut, bytes: &[u8]) {
    if COPIED_INPUT_MAX < input.len() || has_room(input) {
        input.extend_from_slice(bytes);
        return;
    }
    arena.reserve(input.len() + bytes.len());
    arena.extend_from_slice(input);
    arena.extend_from_slice(bytes);
    *input = arena.split();
}

fn has_room(input: &BytesMut) -> bool {
    COPIED_INPUT_MAX < input.capacity() - input.len()
}

/// What a read turn came to.
#[must_use]
#[derive(Debug)]
pub enum Turn {
    /// An event will tell when there is more.
    Drained,
    /// No further event is promised: put the connection on the ready list.
    BudgetSpent,
    /// Nothing more will come, for this reason.
    Ended(End),
}

/// Why nothing more comes from a socket.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The peer is through.
    #[error("Client Closed")]
    Closed,
    /// The connection is broken.
    #[error("Read Error")]
    Failed(#[source] io::Error),
    /// The peer does not speak TLS, or not with us.
    #[error("TLS Handshake Failure")]
    Tls(#[source] Broken),
}

/// What a write turn came to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// Nothing waits any more.
    All,
    /// There is more, and the socket may have room for it.
    More,
    /// The socket is full; an event will come.
    Blocked,
    /// What waits may leave only under a valid lease.
    AwaitsLease,
    /// What waits goes out when the handshake is done.
    AwaitsPeer,
}

/// What lies between the socket and the session.
#[derive(Debug)]
enum Stage {
    /// Not connected yet.
    Connecting,
    /// Nothing.
    Plain,
    /// TLS.
    Tls(Box<Layer>),
}

/// One socket and what has been read from it and not been handled.
#[derive(Debug)]
pub struct Connection {
    /// The socket, to be registered.
    pub socket: TcpStream,
    /// The peer's address.
    pub peer: SocketAddr,
    /// Who is at the other end.
    pub kind: ConnectionKind,
    /// Bytes that were read and not handled.
    pub input: BytesMut,
    /// Bytes that were read before TLS began.
    early: BytesMut,
    /// Set when nothing more comes.
    pub ended: Option<End>,
    /// The reactor's notes.
    pub notes: Notes,
    stage: Stage,
    is_readable: bool,
    is_writable: bool,
    is_hung_up: bool,
    /// Whether encrypted bytes that wait may answer for the lease.
    is_sealed_under_lease: bool,
    established: Option<TlsPeer>,
    /// The right to the socket's descriptor; it goes back behind the socket.
    _admission: Option<Admission>,
}

/// What a reactor remembers of a connection, so that its lists name each at most once.
#[derive(Debug, Default)]
pub struct Notes {
    /// Its session was opened in the broker.
    pub is_open: bool,
    /// It is on the list of those to read.
    pub is_ready: bool,
    /// It is on the list of those with bytes to handle.
    pub is_arrived: bool,
    /// It is on the list of those to write.
    pub is_unsent: bool,
    /// It is on the list of those that wait for the lease.
    pub awaits_lease: bool,
    /// An engine has no credit for what it said.
    pub is_paused: bool,
    /// It is to be closed when its outbox is written.
    pub closing: Option<&'static str>,
}

impl Connection {
    /// A connection that is made.
    #[must_use]
    pub fn new(socket: TcpStream, peer: SocketAddr, kind: ConnectionKind) -> Self {
        Self {
            socket,
            peer,
            kind,
            input: BytesMut::new(),
            early: BytesMut::new(),
            ended: None,
            notes: Notes::default(),
            stage: Stage::Plain,
            is_readable: false,
            is_writable: true,
            is_hung_up: false,
            is_sealed_under_lease: false,
            established: None,
            _admission: None,
        }
    }

    /// With the right to its descriptor, as every connection of a server has one.
    #[must_use]
    pub fn admitted(self, admission: Admission) -> Self {
        Self { _admission: Some(admission), ..self }
    }

    /// A connection that is being made.
    #[must_use]
    pub fn connecting(socket: TcpStream, peer: SocketAddr, kind: ConnectionKind) -> Self {
        let mut connection = Self::new(socket, peer, kind);
        connection.stage = Stage::Connecting;
        connection.is_writable = false;
        connection
    }

    /// Whether it leads to an external server.
    #[must_use]
    pub fn is_upstream(&self) -> bool {
        matches!(self.kind, ConnectionKind::Upstream { .. })
    }

    /// Whether it is being made.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting)
    }

    /// Looks whether a connection that was being made is.
    ///
    /// # Errors
    /// The reason why it could not be made.
    pub fn try_connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => {
                self.stage = Stage::Plain;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// TLS begins; bytes that came early belong to its handshake, and wait for its turn.
    pub fn wrap(&mut self, layer: Layer) {
        self.stage = Stage::Tls(Box::new(layer));
        self.early = mem::take(&mut self.input);
    }

    /// Whether a handshake is to be done first.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        matches!(&self.stage, Stage::Tls(layer) if !layer.is_established())
    }

    /// What is told of a peer that goes away before its handshake is done, or of a server.
    #[must_use]
    pub fn handshake_end(&self, end: &End) -> String {
        match (end, &self.stage) {
            (End::Failed(error), _) => {
                let local = self.socket.local_addr().map(|found| found.to_string());
                let (local, why) = (local.unwrap_or_default(), system_reason(error));
                format!("read tcp {local}->{}: read: {why}", self.peer)
            }
            (End::Tls(broken), _) => broken.to_string(),
            (End::Closed, Stage::Tls(layer)) => layer.end_text().to_owned(),
            (End::Closed, Stage::Plain | Stage::Connecting) => "EOF".to_owned(),
        }
    }

    /// Who the peer is, once, when the handshake is done.
    pub fn poll_established(&mut self) -> Option<TlsPeer> {
        self.established.take()
    }

    /// Remembers what an event said.
    pub fn on_event(&mut self, event: &mio::event::Event) {
        self.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.is_writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        self.is_hung_up |= event.is_read_closed() || event.is_error();
    }

    /// Whether a read may bring something, and the session would take it.
    #[must_use]
    pub fn can_read(&self) -> bool {
        let Notes { is_paused, closing, .. } = self.notes;
        let is_heard = !is_paused && closing.is_none() && self.ended.is_none();
        (self.is_readable || !self.early.is_empty()) && is_heard && !self.is_connecting()
    }

    /// Whether a write may succeed.
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.is_writable && !self.is_connecting()
    }

    /// Reads until the socket is dry or this connection's share of the turn is used up.
    pub fn read_turn(&mut self, pool: &mut ReadPool) -> Turn {
        let mut read_bytes = 0;
        if !self.early.is_empty() {
            let early = mem::take(&mut self.early);
            if let Err(end) = self.receive(&mut pool.arena, &early) {
                return Turn::Ended(end);
            }
        }
        while read_bytes < READ_BUDGET_BYTES {
            match self.socket.read(&mut pool.chunk) {
                Ok(0) => return Turn::Ended(End::Closed),
                Ok(len) => {
                    read_bytes += len;
                    let ReadPool { chunk, arena } = pool;
                    if let Err(end) = self.receive(arena, &chunk[..len]) {
                        return Turn::Ended(end);
                    }
                    // A short read of a stream says that it is dry; but behind a hang-up no
                    // further edge comes, so its end must be met now.
                    if len < chunk.len() && !self.is_hung_up {
                        self.is_readable = false;
                        return Turn::Drained;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Turn::Drained;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Turn::Ended(End::Failed(error)),
            }
        }
        Turn::BudgetSpent
    }

    /// Takes in what the socket gave.
    fn receive(&mut self, arena: &mut BytesMut, bytes: &[u8]) -> Result<(), End> {
        let Stage::Tls(layer) = &mut self.stage else {
            gather(arena, &mut self.input, bytes);
            return Ok(());
        };
        let outcome = layer.open(bytes, &mut self.input);
        if let Some(peer) = layer.poll_established() {
            self.established = Some(peer);
        }
        let is_ended = layer.is_ended();
        outcome.map_err(End::Tls)?;
        if is_ended { Err(End::Closed) } else { Ok(()) }
    }

    /// After a round of handling: what is left must not hold a block that others share.
    pub fn shrink_input(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        } else if self.input.len() <= COPIED_INPUT_MAX && !has_room(&self.input) {
            self.input = BytesMut::from(&self.input[..]);
        }
    }

    /// Writes the front of what waits, with one call where there is no TLS.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn write_turn(
        &mut self,
        outbox: Option<&mut Outbox>,
        lease: &LeaseClock,
        scratch: &mut Vec<IoSlice<'static>>,
    ) -> io::Result<Wrote> {
        match &mut self.stage {
            Stage::Connecting => Ok(Wrote::AwaitsPeer),
            Stage::Plain => self.write_plain(outbox, lease, scratch),
            Stage::Tls(_) => self.write_sealed(outbox, lease, scratch),
        }
    }

    fn write_plain(
        &mut self,
        outbox: Option<&mut Outbox>,
        lease: &LeaseClock,
        scratch: &mut Vec<IoSlice<'static>>,
    ) -> io::Result<Wrote> {
        let Some(outbox) = outbox.filter(|outbox| !outbox.is_empty()) else {
            return Ok(Wrote::All);
        };
        let mut slices = mem::take(scratch);
        // Asked as late as possible: a process that was paused finds out before it speaks.
        outbox.slices(lease.is_valid(world::instant()), &mut slices);
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = if len == 0 { Ok(0) } else { write_some(&mut self.socket, &slices) };
        *scratch = recycle(slices);
        if len == 0 {
            return Ok(Wrote::AwaitsLease);
        }
        let written = written?;
        outbox.advance(written);
        if outbox.is_empty() {
            return Ok(Wrote::All);
        }
        if written < len {
            self.is_writable = false;
            return Ok(Wrote::Blocked);
        }
        Ok(Wrote::More)
    }

    fn write_sealed(
        &mut self,
        outbox: Option<&mut Outbox>,
        lease: &LeaseClock,
        scratch: &mut Vec<IoSlice<'static>>,
    ) -> io::Result<Wrote> {
        let Stage::Tls(layer) = &mut self.stage else {
            unreachable!("only TLS is sealed");
        };
        let mut outbox = outbox.filter(|outbox| !outbox.is_empty());
        if let Some(outbox) = outbox.as_mut()
            && layer.is_established()
            && !layer.has_sealed()
        {
            let is_valid = lease.is_valid(world::instant());
            let mut slices = mem::take(scratch);
            outbox.slices(is_valid, &mut slices);
            let sealed = if slices.is_empty() { 0 } else { layer.seal(&slices) };
            *scratch = recycle(slices);
            if sealed == 0 {
                return Ok(Wrote::AwaitsLease);
            }
            outbox.advance(sealed);
            self.is_sealed_under_lease = is_valid;
        }
        // What was encrypted under a lease cannot be told apart any more: it waits as a whole,
        // until the lease is confirmed or the write deadline ends the connection.
        if layer.has_sealed() && self.is_sealed_under_lease && !lease.is_valid(world::instant()) {
            return Ok(Wrote::AwaitsLease);
        }
        match layer.write_sealed(&mut self.socket) {
            Ok(()) => self.is_sealed_under_lease = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_writable = false;
                return Ok(Wrote::Blocked);
            }
            Err(error) => return Err(error),
        }
        match outbox.filter(|outbox| !outbox.is_empty()) {
            Some(_) if layer.is_established() => Ok(Wrote::More),
            Some(_) => Ok(Wrote::AwaitsPeer),
            None => Ok(Wrote::All),
        }
    }

    /// Whether encrypted bytes wait that only a valid lease lets out. They cannot be taken back:
    /// when what an engine said must not leave any more, the connection has to go.
    #[must_use]
    pub fn holds_leased(&self) -> bool {
        self.is_sealed_under_lease && self.has_sealed()
    }

    /// Whether encrypted bytes wait for the socket.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        matches!(&self.stage, Stage::Tls(layer) if layer.has_sealed())
    }

    /// The last words before the socket is dropped; nobody waits for them.
    pub fn say_goodbye(&mut self) {
        if let Stage::Tls(layer) = &mut self.stage
            && !self.is_sealed_under_lease
        {
            layer.seal_end();
            if layer.write_sealed(&mut self.socket).is_err() {
                return;
            }
        }
        if self.socket.shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        // A close with unread bytes resets the connection, and the peer may lose the -ERR that
        // tells it why: take what is there, within a bound.
        let mut rest = [0; 4096];
        for _ in 0..16 {
            match self.socket.read(&mut rest) {
                Ok(0) | Err(_) => return,
                Ok(_) => (),
            }
        }
    }
}

fn write_some(socket: &mut TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match socket.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => return Ok(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
}

/// The same allocation for slices of another lifetime.
fn recycle(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'static>> {
    slices.clear();
    slices.into_iter().map(|_| unreachable!("it was cleared")).collect()
}

#[cfg(test)]
mod tests;
