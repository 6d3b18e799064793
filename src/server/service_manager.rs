//! tells a service manager what becomes of the process (`sd_notify`): ready, and the role
//!
//! Nothing is waited for: a manager that does not listen misses it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// The manager, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    is_told_ready: bool,
    is_stopping: bool,
}

impl ServiceManager {
    /// The one that listens at `path`; a name that begins with `@` is an abstract one.
    pub fn new(path: Option<&Path>) -> Self {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let connected = path.and_then(|path| match connect(path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn!(target: crate::log::CORE, "NOTIFY_SOCKET {}: {error}", path.display());
                None
            }
        });
        Self { socket: connected, is_told_ready: false, is_stopping: false }
    }

    /// Whoever waited for the start goes on: clients are served, or would be by a take-over.
    pub fn ready(&mut self, status: &str) {
        let ready = if self.is_told_ready { "" } else { "READY=1\n" };
        self.is_told_ready = true;
        self.tell(&format!("{ready}STATUS={status}"));
    }

    /// What people see beside the process.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={status}"));
    }

    /// The process is about to end.
    pub fn stopping(&mut self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
        self.is_stopping = true;
    }

    fn tell(&self, text: &str) {
        if let (Some(socket), false) = (&self.socket, self.is_stopping) {
            // What a manager misses it asks nobody for.
            let _ = socket.send(text.as_bytes());
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
