//! Accepts, and pauses when full

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::base::descriptors::{self, Admission, Purpose};
use crate::base::time::Instant;
use crate::base::world;

/// Connections that wait to be accepted; the kernel cuts it to its own bound.
const BACKLOG: i32 = 4096;
/// How long between two looks at a port that somebody still holds.
const PORT_RETRY: Duration = Duration::from_millis(10);
/// The first pause after a failed accept; it doubles with each that follows (spec core, 1.2).
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause after a failed accept.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections accepted in one turn of the loop.
const ACCEPTS_PER_TURN: usize = 128;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or address as configured; empty = everywhere.
    pub host: String,
    /// `None` = any free port.
    pub port: Option<u16>,
}

/// Why a port could not be opened; shown in the words that scripts know from the reference.
#[derive(Debug, thiserror::Error)]
#[error("listen tcp {address}: {action}{}", system_text(.source))]
pub struct ListenError {
    /// As configured.
    pub address: String,
    /// The step that failed, with a colon; empty if it was the whole.
    pub action: &'static str,
    /// The system's reason.
    pub source: io::Error,
}

/// The system's reason as C programs print it, in lower case and without a number.
///
/// Compat: log lines such as `bind: address already in use` are matched by people's scripts.
/// Pinned by `a_port_in_use_is_told_in_the_words_of_the_reference`.
#[must_use]
pub fn system_text(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(code) => Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text,
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port.unwrap_or(0);
        if self.host.contains(':') && !self.host.starts_with('[') {
            write!(f, "[{}]:{port}", self.host)
        } else {
            write!(f, "{}:{port}", self.host)
        }
    }
}

impl Address {
    /// The socket address to bind, and whether one of the other family is fine too.
    fn resolve(&self) -> io::Result<(SocketAddr, bool)> {
        let port = self.port.unwrap_or(0);
        let everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if self.host.is_empty() {
            return Ok((SocketAddr::new(everywhere, port), true));
        }
        let literal = self.host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            // Compat: the reference listens on both families where "everywhere" was said, in
            // either family's words. Pinned by `everywhere_means_both_address_families`.
            Ok(ip) if ip.is_unspecified() => Ok((SocketAddr::new(everywhere, port), true)),
            Ok(ip) => Ok((SocketAddr::new(ip, port), false)),
            Err(_) => {
                let found: Vec<_> = (self.host.as_str(), port).to_socket_addrs()?.collect();
                let first = found.iter().find(|at| at.is_ipv4()).or_else(|| found.first());
                let first = first.ok_or_else(|| io::Error::other("no such host"))?;
                Ok((*first, false))
            }
        }
    }
}

/// Opens a port. While somebody else still holds it (a predecessor that is dying), tries again
/// until `patience` is over.
///
/// # Errors
/// [`ListenError`] with the reference's text.
pub fn bind(address: &Address, patience: Duration) -> Result<TcpListener, ListenError> {
    let fail = |(action, source)| ListenError { address: address.to_string(), action, source };
    let (at, is_dual) = address.resolve().map_err(|source| fail(("lookup: ", source)))?;
    let give_up_at = world::instant() + patience;
    loop {
        match open(at, is_dual) {
            Ok(listener) => return Ok(listener),
            Err((_, error)) if is_held(&error) && world::instant() < give_up_at => {
                // Nothing reports that a foreign port becomes free: look again, up to a bound.
                let pause = crossbeam_channel::after(PORT_RETRY);
                pause.recv().expect("a timer always fires");
            }
            Err(failure) => return Err(fail(failure)),
        }
    }
}

/// Whether a port could be opened, but for who may hold it now.
///
/// # Errors
/// As [`bind`].
pub fn check(address: &Address) -> Result<(), ListenError> {
    let fail = |(action, source)| ListenError { address: address.to_string(), action, source };
    let (at, is_dual) = address.resolve().map_err(|source| fail(("lookup: ", source)))?;
    match on_either_family(at, is_dual, bound) {
        Ok(_) => Ok(()),
        Err((_, error)) if is_held(&error) => Ok(()),
        Err(failure) => Err(fail(failure)),
    }
}

fn is_held(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

type Failure = (&'static str, io::Error);

fn open(at: SocketAddr, is_dual: bool) -> Result<TcpListener, Failure> {
    on_either_family(at, is_dual, |at, is_dual| {
        let socket = bound(at, is_dual)?;
        socket.listen(BACKLOG).map_err(|error| ("listen: ", error))?;
        Ok(TcpListener::from_std(socket.into()))
    })
}

fn on_either_family<T>(
    at: SocketAddr,
    is_dual: bool,
    open_one: impl Fn(SocketAddr, bool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match open_one(at, is_dual) {
        // A kernel without IPv6 has still one of the two families.
        Err((_, error)) if is_dual && error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            open_one(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), at.port()), false)
        }
        other => other,
    }
}

/// A socket that has its address and does not listen yet.
fn bound(at: SocketAddr, is_dual: bool) -> Result<Socket, Failure> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let step = |action: &'static str| move |error| (action, error);
    let socket = Socket::new(Domain::for_address(at), kind, Some(Protocol::TCP))
        .map_err(step("socket: "))?;
    if at.is_ipv6() {
        socket.set_only_v6(!is_dual).map_err(step("setsockopt: "))?;
    }
    // Connections of a predecessor that are still being closed must not hold the port.
    socket.set_reuse_address(true).map_err(step("setsockopt: "))?;
    socket.bind(&at.into()).map_err(step("bind: "))?;
    Ok(socket)
}

/// Where a listener really is, with a port.
///
/// # Errors
/// [`ListenError`] when the kernel does not say.
pub fn local_address(listener: &TcpListener, address: &Address) -> Result<SocketAddr, ListenError> {
    listener.local_addr().map_err(|source| ListenError {
        address: address.to_string(),
        action: "getsockname: ",
        source,
    })
}

/// What a round of accepting came to.
#[must_use]
#[derive(Debug)]
pub enum Accepted {
    /// Nobody waits any more; an event will come.
    Drained,
    /// No further event is promised: accept again in the next turn.
    BudgetSpent,
    /// It does not work now: accept again at this moment. The text is for the log.
    Paused(Instant, String),
}

/// A connection that was accepted, with the right to its descriptor.
#[derive(Debug)]
pub struct Newcomer {
    /// The connection.
    pub socket: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// Kept as long as the connection.
    pub admission: Admission,
}

/// One open port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// As log lines call its connections: `Client`, `Route`.
    name: &'static str,
    purpose: Purpose,
    pause: Duration,
}

impl Listener {
    /// A port for connections of one purpose.
    #[must_use]
    pub fn new(socket: TcpListener, purpose: Purpose) -> Self {
        let name = match purpose {
            Purpose::Client => "Client",
            Purpose::Route => "Route",
        };
        Self { socket, name, purpose, pause: Duration::ZERO }
    }

    /// The socket, to be registered.
    pub fn source(&mut self) -> &mut TcpListener {
        &mut self.socket
    }

    /// Accepts who waits, within a budget, and gives each to `adopt`.
    pub fn accept(&mut self, now: Instant, mut adopt: impl FnMut(Newcomer)) -> Accepted {
        let plan = world::descriptor_plan();
        for _ in 0..ACCEPTS_PER_TURN {
            match self.socket.accept() {
                Ok((socket, peer)) => {
                    let Some(admission) = descriptors::CONNECTIONS.admit(plan, self.purpose) else {
                        drop(socket);
                        return self.pause(now, &out_of_descriptors());
                    };
                    self.pause = Duration::ZERO;
                    adopt(Newcomer { socket, peer: canonical(peer), admission });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Accepted::Drained;
                }
                Err(error) if is_the_peers(&error) => (),
                Err(error) => return self.pause(now, &error),
            }
        }
        Accepted::BudgetSpent
    }

    fn pause(&mut self, now: Instant, error: &io::Error) -> Accepted {
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        let at = self.socket.local_addr().map(|at| at.to_string()).unwrap_or_default();
        let text = format!(
            "Temporary {} Accept Error(accept tcp {at}: accept4: {}), sleeping {}ms",
            self.name,
            system_text(error),
            self.pause.as_millis()
        );
        Accepted::Paused(now + self.pause, text)
    }
}

/// Nothing is left for connections; the words are those of a process that has none at all.
#[must_use]
pub fn out_of_descriptors() -> io::Error {
    io::Error::from_raw_os_error(Errno::EMFILE as i32)
}

/// Whether an accept failed because that one peer went away while it waited.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// The address as its own family writes it: a socket for both shows IPv4 peers as IPv6.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::net::TcpStream as Client;
    use std::thread;

    use mio::{Events, Interest, Poll, Token};

    use super::*;

    fn anywhere(host: &str) -> Address {
        Address { host: host.to_owned(), port: None }
    }

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn everywhere_means_both_address_families() {
        for host in ["0.0.0.0", "::", ""] {
            let listener = bind(&anywhere(host), Duration::ZERO).unwrap();
            let port = port(&listener);
            Client::connect(("127.0.0.1", port)).unwrap();
            Client::connect(("::1", port)).unwrap();
        }
    }

    #[test]
    fn one_address_is_one_address() {
        let listener = bind(&anywhere("127.0.0.1"), Duration::ZERO).unwrap();
        assert!(Client::connect(("::1", port(&listener))).is_err());
        let named = bind(&anywhere("localhost"), Duration::ZERO).unwrap();
        assert!(named.local_addr().unwrap().ip().is_loopback());
    }

    #[test]
    fn a_port_in_use_is_told_in_the_words_of_the_reference() {
        let listener = bind(&anywhere("0.0.0.0"), Duration::ZERO).unwrap();
        let port = port(&listener);
        let taken = Address { host: "0.0.0.0".to_owned(), port: Some(port) };
        let error = bind(&taken, Duration::from_millis(25)).unwrap_err();
        let text = format!("listen tcp 0.0.0.0:{port}: bind: address already in use");
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_port_is_taken_as_soon_as_its_holder_dies() {
        let holder = bind(&anywhere("127.0.0.1"), Duration::ZERO).unwrap();
        let address = Address { host: "127.0.0.1".to_owned(), port: Some(port(&holder)) };
        assert!(bind(&address, Duration::ZERO).is_err());
        let heir = thread::spawn(move || bind(&address, Duration::from_secs(30)));
        drop(holder);
        heir.join().unwrap().unwrap();
    }

    #[test]
    fn pauses_after_failures_double_up_to_their_bound() {
        let socket = bind(&anywhere("127.0.0.1"), Duration::ZERO).unwrap();
        let mut listener = Listener::new(socket, Purpose::Client);
        let full = io::Error::from_raw_os_error(Errno::EMFILE as i32);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let Accepted::Paused(until, text) = listener.pause(Instant(0), &full) else {
                panic!("a failure pauses");
            };
            assert!(text.starts_with("Temporary Client Accept Error(accept tcp 127.0.0.1:"));
            assert!(text.contains(": accept4: too many open files"), "{text}");
            pauses.push(Duration::from_nanos(until.0).as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn who_waits_is_accepted_with_the_address_of_its_family() {
        let socket = bind(&anywhere("0.0.0.0"), Duration::ZERO).unwrap();
        let port = port(&socket);
        let mut listener = Listener::new(socket, Purpose::Client);
        let mut poll = Poll::new().unwrap();
        poll.registry().register(listener.source(), Token(1), Interest::READABLE).unwrap();
        let client = Client::connect(("127.0.0.1", port)).unwrap();
        poll.poll(&mut Events::with_capacity(4), None).unwrap();
        let mut peers = Vec::new();
        let outcome = listener.accept(Instant(0), |newcomer| peers.push(newcomer.peer));
        assert!(matches!(outcome, Accepted::Drained));
        assert_eq!(peers, [client.local_addr().unwrap()]);
    }
}
