//! Lines to the machine's syslog or to a syslog server

use std::io::{self, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::LogError;

/// Facility of local lines: daemon.
const DAEMON: u8 = 3;

/// Facility of lines to a server: kern.
const KERN: u8 = 0;

/// Where local daemons listen.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

enum Wire {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// A connection to syslog.
pub(super) struct Syslog {
    wire: Wire,
    facility: u8,
    tag: String,
}

impl Syslog {
    /// The daemon of this machine.
    pub(super) fn local() -> Result<Self, LogError> {
        match SOCKETS.iter().find_map(|socket| unix(Path::new(socket)).ok()) {
            Some(wire) => Ok(Self { wire, facility: DAEMON, tag: tag() }),
            None => Err(LogError::Syslog(io::Error::other("Unix syslog delivery error"))),
        }
    }

    /// A server by its URL.
    pub(super) fn remote(url: &str) -> Result<Self, LogError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let address = rest.split('/').next().unwrap_or_default();
        let wire = match scheme {
            "udp" => udp(address),
            "tcp" => TcpStream::connect(address).map(Wire::Tcp),
            "unix" => unix(Path::new(rest)),
            other => return Err(LogError::Scheme(other.to_owned())),
        };
        let wire = wire.map_err(LogError::Syslog)?;
        Ok(Self { wire, facility: KERN, tag: tag() })
    }

    /// Sends one line; one that cannot be sent is lost.
    pub(super) fn send(&mut self, severity: u8, text: &str) {
        let pid = std::process::id();
        let text = text.trim_end();
        let line = format!("<{}>{}[{pid}]: {text}\n", self.facility * 8 + severity, self.tag);
        let _ = match &mut self.wire {
            Wire::Unix(socket) => socket.send(line.as_bytes()).map(|_| ()),
            Wire::Udp(socket) => socket.send(line.as_bytes()).map(|_| ()),
            Wire::Tcp(stream) => stream.write_all(line.as_bytes()),
        };
    }
}

fn unix(path: &Path) -> io::Result<Wire> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    // A daemon that hangs must not stop the server.
    socket.set_nonblocking(true)?;
    Ok(Wire::Unix(socket))
}

fn udp(address: &str) -> io::Result<Wire> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    Ok(Wire::Udp(socket))
}

fn tag() -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "stanby".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_line_arrives_with_facility_and_severity() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let url = format!("udp://{}", server.local_addr().unwrap());
        Syslog::remote(&url).unwrap().send(5, "hello\r");
        let mut bytes = [0; 256];
        let len = server.recv(&mut bytes).unwrap();
        let line = String::from_utf8_lossy(&bytes[..len]).into_owned();
        assert!(line.starts_with("<5>"), "{line}");
        assert!(line.ends_with("]: hello\n"), "{line}");
    }

    #[test]
    fn other_schemes_are_refused() {
        let error = Syslog::remote("foo://x").err().unwrap();
        assert_eq!(error.to_string(), "error invalid network type: \"foo\"");
        let error = Syslog::remote("x").err().unwrap();
        assert_eq!(error.to_string(), "error invalid network type: \"\"");
    }
}
