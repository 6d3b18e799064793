//! Lines to the machine's syslog or to a syslog server
//!
//! The forms are those of the reference's library: RFC 3164 with a short date and without a host
//! for whoever is on this machine, with a full date and this machine's name for a server.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::zone::Zone;
use super::{LogError, system_text};
use crate::base::time::{Instant, WallTime};
use crate::base::world;

/// Facility of local lines: daemon.
const DAEMON: u8 = 3;

/// Facility of lines to a server: kern.
const KERN: u8 = 0;

/// Where local daemons listen.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// How long a server may take to accept a connection, and any of them to take a line.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Between two attempts to reach who did not answer; lines meanwhile are lost.
const RETRY: Duration = Duration::from_secs(1);

/// Whom lines are for.
enum Target {
    /// The daemon of this machine.
    Local,
    /// A stream or datagram socket by its path.
    Unix(PathBuf),
    /// A server by its address.
    Udp(String),
    /// A server by its address.
    Tcp(String),
}

enum Wire {
    Datagrams(UnixDatagram),
    Stream(UnixStream),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// A connection to syslog; it is made again when it breaks.
pub(super) struct Syslog {
    target: Target,
    wire: Option<Wire>,
    retry_at: Instant,
    facility: u8,
    tag: String,
    host: String,
    zone: Zone,
}

impl Syslog {
    /// The daemon of this machine.
    pub(super) fn local() -> Result<Self, LogError> {
        Self::open(Target::Local, DAEMON)
    }

    /// A server by its URL.
    pub(super) fn remote(url: &str) -> Result<Self, LogError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let address = rest.split('/').next().unwrap_or_default().to_owned();
        let target = match scheme {
            "udp" => Target::Udp(address),
            "tcp" => Target::Tcp(address),
            "unix" => Target::Unix(PathBuf::from(rest)),
            other => return Err(LogError::Scheme(other.to_owned())),
        };
        Self::open(target, KERN)
    }

    fn open(target: Target, facility: u8) -> Result<Self, LogError> {
        let wire = target.connect().map_err(|error| LogError::Syslog(target.refusal(&error)))?;
        let name = nix::unistd::gethostname().unwrap_or_default();
        Ok(Self {
            target,
            host: match name.to_string_lossy() {
                name if name.is_empty() => wire.own_address(),
                name => name.into_owned(),
            },
            wire: Some(wire),
            retry_at: Instant(0),
            facility,
            tag: tag(),
            zone: Zone::local(),
        })
    }

    /// Sends one line, over a new connection if the old one is broken.
    ///
    /// # Errors
    /// The line is lost.
    pub(super) fn send(&mut self, severity: u8, text: &str, at: WallTime) -> io::Result<()> {
        let line = self.line(severity, text, at);
        if let Some(wire) = &mut self.wire {
            match wire.send(line.as_bytes()) {
                Ok(()) => return Ok(()),
                // Who takes nothing for so long is not asked for it once more at once.
                Err(error) if is_timeout(&error) => self.retry_at = world::instant() + RETRY,
                Err(_) => {}
            }
            // A part of the line may have been sent: the next one must not stand behind it.
            self.wire = None;
        }
        if world::instant() < self.retry_at {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // From here on until a whole line is sent, an error puts off the next attempt.
        self.retry_at = world::instant() + RETRY;
        let mut wire = self.target.connect()?;
        wire.send(line.as_bytes())?;
        self.wire = Some(wire);
        Ok(())
    }

    fn line(&self, severity: u8, text: &str, at: WallTime) -> String {
        let priority = self.facility * 8 + severity;
        let (tag, pid, text) = (&self.tag, std::process::id(), text.trim_end());
        match self.target {
            Target::Local | Target::Unix(_) => {
                let stamp = self.zone.short_stamp(at);
                format!("<{priority}>{stamp} {tag}[{pid}]: {text}\n")
            }
            Target::Udp(_) | Target::Tcp(_) => {
                let (stamp, host) = (self.zone.full_stamp(at), &self.host);
                format!("<{priority}>{stamp} {host} {tag}[{pid}]: {text}\n")
            }
        }
    }
}

impl Target {
    fn connect(&self) -> io::Result<Wire> {
        match self {
            Self::Local => {
                let sockets = SOCKETS.iter().map(Path::new);
                let mut found = sockets.clone().find_map(|socket| datagrams(socket).ok());
                if found.is_none() {
                    found = sockets.clone().find_map(|socket| stream(socket).ok());
                }
                found.ok_or_else(|| io::Error::other("Unix syslog delivery error"))
            }
            // Daemons usually take datagrams, where the reference asks for a stream.
            Self::Unix(path) => stream(path).or_else(|error| datagrams(path).map_err(|_| error)),
            Self::Udp(address) => udp(address),
            Self::Tcp(address) => tcp(address),
        }
    }

    /// In the words of the reference.
    fn refusal(&self, error: &io::Error) -> String {
        let why = system_text(error);
        match self {
            Self::Local => why,
            Self::Unix(path) => format!("dial unix {}: connect: {why}", path.display()),
            Self::Udp(address) => format!("dial udp {address}: {why}"),
            Self::Tcp(address) => format!("dial tcp {address}: connect: {why}"),
        }
    }
}

impl Wire {
    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagrams(socket) => socket.send(line).map(|_| ()),
            Self::Stream(stream) => stream.write_all(line),
            Self::Udp(socket) => socket.send(line).map(|_| ()),
            Self::Tcp(stream) => stream.write_all(line),
        }
    }

    fn own_address(&self) -> String {
        let address = match self {
            Self::Datagrams(_) | Self::Stream(_) => return "localhost".to_owned(),
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(stream) => stream.local_addr(),
        };
        address.map_or_else(|_| "localhost".to_owned(), |address| address.to_string())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn datagrams(path: &Path) -> io::Result<Wire> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    Ok(Wire::Datagrams(socket))
}

fn stream(path: &Path) -> io::Result<Wire> {
    let stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(Wire::Stream(stream))
}

fn udp(address: &str) -> io::Result<Wire> {
    of_each(address, |address| {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        Ok(Wire::Udp(socket))
    })
}

fn tcp(address: &str) -> io::Result<Wire> {
    of_each(address, |address| {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Wire::Tcp(stream))
    })
}

/// The first address of a name that answers.
fn of_each(address: &str, connect: impl Fn(SocketAddr) -> io::Result<Wire>) -> io::Result<Wire> {
    let mut last = io::Error::other("no such host");
    for address in address.to_socket_addrs()? {
        match connect(address) {
            Ok(wire) => return Ok(wire),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tag() -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "stanby".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;

    use super::*;

    /// 22 November 2023, 09:05:02 UTC.
    const AT: WallTime = WallTime(1_700_643_902_004_518_000);

    fn received(server: &UdpSocket) -> String {
        let mut bytes = [0; 256];
        let len = server.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    #[test]
    fn a_line_to_a_server_has_full_time_and_host() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let url = format!("udp://{}", server.local_addr().unwrap());
        let mut syslog = Syslog::remote(&url).unwrap();
        syslog.zone = Zone::utc();
        syslog.send(5, "hello\r", AT).unwrap();
        let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
        let (tag, pid) = (tag(), std::process::id());
        let wanted = format!("<5>2023-11-22T09:05:02Z {host} {tag}[{pid}]: hello\n");
        assert_eq!(received(&server), wanted);
    }

    #[test]
    fn a_line_on_this_machine_has_short_time_and_no_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::remote(&format!("unix://{}", path.display())).unwrap();
        syslog.zone = Zone::utc();
        let third = WallTime(AT.0 - 19 * 86_400 * 1_000_000_000);
        syslog.send(3, "hello", third).unwrap();
        let mut bytes = [0; 256];
        let len = server.recv(&mut bytes).unwrap();
        let (tag, pid) = (tag(), std::process::id());
        let wanted = format!("<3>Nov  3 09:05:02 {tag}[{pid}]: hello\n");
        assert_eq!(String::from_utf8_lossy(&bytes[..len]), wanted);
    }

    /// Goal: a restarted server gets the lines from its restart on, without a restart of ours.
    #[test]
    fn a_broken_connection_is_made_again() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", server.local_addr().unwrap());
        let mut syslog = Syslog::remote(&url).unwrap();
        drop(server.accept().unwrap());
        // The first line after the end may still be taken by the kernel.
        let next = std::thread::spawn(move || server.accept().unwrap().0);
        while !next.is_finished() {
            let _ = syslog.send(5, "again", AT);
        }
        syslog.send(5, "there", AT).unwrap();
        let mut lines = BufReader::new(next.join().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with(": there")));
    }

    /// Goal: a server that accepts and reads nothing costs a bounded time, not the log.
    #[test]
    fn a_server_that_reads_nothing_is_left_after_a_bounded_time() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", server.local_addr().unwrap());
        let mut syslog = Syslog::remote(&url).unwrap();
        let (mut stuck, _) = server.accept().unwrap();
        let text = "x".repeat(1024 * 1024);
        let refused = (0..64).find(|_| syslog.send(5, &text, AT).is_err());
        assert!(refused.is_some(), "64 MiB are more than any socket buffer");
        assert!(syslog.wire.is_none(), "a line that was cut ends its connection");
        assert!(stuck.read(&mut [0; 16]).unwrap() != 0);
    }

    #[test]
    fn what_cannot_be_reached_is_said_in_the_words_of_the_reference() {
        let refused = |url: &str| Syslog::remote(url).err().unwrap().to_string();
        assert_eq!(refused("foo://x"), "error invalid network type: \"foo\"");
        assert_eq!(refused("x"), "error invalid network type: \"\"");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let wanted = format!(
            "error connecting to syslog: \"dial tcp {closed}: connect: connection refused\""
        );
        assert_eq!(refused(&format!("tcp://{closed}")), wanted);
    }
}
