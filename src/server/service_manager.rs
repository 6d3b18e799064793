//! tells a service manager what becomes of the process (`sd_notify`): ready, and the role
//!
//! Nothing is waited for: a manager that has no room is told again, and one that does not listen
//! misses it.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use crate::base::time::Instant;
use crate::base::world;

/// How soon a manager whose socket is full is told again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The manager, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// What it has still to hear, and when it is told again.
    untold: Option<(String, Instant)>,
    is_told_ready: bool,
    is_stopping: bool,
}

impl ServiceManager {
    /// The one that listens at `path`; a name that begins with `@` is an abstract one.
    pub fn new(path: Option<&Path>) -> Self {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let socket = path.and_then(|path| match connect(path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn!(target: crate::log::CORE, "NOTIFY_SOCKET {}: {error}", path.display());
                None
            }
        });
        Self { socket, untold: None, is_told_ready: false, is_stopping: false }
    }

    /// Whoever waited for the start goes on: clients are served, or would be by a take-over.
    pub fn ready(&mut self, status: &str) {
        let ready = if self.is_told_ready { "" } else { "READY=1\n" };
        self.is_told_ready = true;
        self.tell(format!("{ready}STATUS={status}"));
    }

    /// What people see beside the process.
    pub fn status(&mut self, status: &str) {
        self.tell(format!("STATUS={status}"));
    }

    /// The process is about to end.
    pub fn stopping(&mut self) {
        self.tell("STOPPING=1\nSTATUS=stopping".to_owned());
        self.is_stopping = true;
    }

    /// When [`ServiceManager::due`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.untold.as_ref().map(|(_, at)| *at)
    }

    /// Tells again what could not be told.
    pub fn due(&mut self, now: Instant) {
        if let Some((text, _)) = self.untold.take_if(|(_, at)| *at <= now) {
            self.send(text);
        }
    }

    fn tell(&mut self, text: String) {
        if self.is_stopping {
            return;
        }
        let text = match self.untold.take() {
            Some((before, _)) => format!("{before}\n{text}"),
            None => text,
        };
        self.send(text);
    }

    fn send(&mut self, text: String) {
        let Some(socket) = &self.socket else { return };
        match socket.send(text.as_bytes()) {
            // It is full: a unit that never hears of it would stay in its start.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.untold = Some((text, world::instant() + RETRY_AFTER));
            }
            // A manager that is gone misses it.
            Ok(_) | Err(_) => (),
        }
    }
}

fn connect(path: &Path) -> std::io::Result<UnixDatagram> {
    let address = match path.as_os_str().as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}
