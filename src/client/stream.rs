//! The bytes of one connection, in clear or through TLS; one thread reads them, and one at a time
//! writes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// What one read takes from the socket at most.
const READ_BYTES: usize = 64 * 1024;

/// A connection, or one half of it.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<Tls>,
}

/// Both halves have the session; each its own socket. It is never locked while a socket is waited
/// for, so that who writes to a server that does not read keeps nobody from reading.
#[derive(Debug)]
struct Tls {
    session: Arc<Mutex<ClientConnection>>,
    /// Of the half that reads: what came in, and is not taken yet.
    plain: BytesMut,
    sealed: Vec<u8>,
}

impl Stream {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, tls: None }
    }

    /// The same connection, for another thread.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let tls = self.tls.as_ref().map(|tls| Tls::over(Arc::clone(&tls.session)));
        Ok(Self { socket: self.socket.try_clone()?, tls })
    }

    pub(super) fn set_up(&self, read: Duration, write: Duration) -> io::Result<()> {
        self.socket.set_nodelay(true)?;
        self.socket.set_write_timeout(Some(write))?;
        self.socket.set_read_timeout(Some(read))
    }

    /// Goes on with TLS; the server must have a certificate of that name.
    pub(super) fn begin_tls(
        &mut self,
        config: Arc<ClientConfig>,
        host: &str,
        within: Duration,
    ) -> io::Result<()> {
        let read = self.socket.read_timeout()?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        self.socket.set_read_timeout(Some(within))?;
        while session.is_handshaking() {
            session.complete_io(&mut self.socket)?;
        }
        self.socket.set_read_timeout(read)?;
        self.tls = Some(Tls::over(Arc::new(Mutex::new(session))));
        Ok(())
    }

    /// The socket itself, unless it speaks TLS.
    pub(super) fn into_clear(self) -> Option<TcpStream> {
        self.tls.is_none().then_some(self.socket)
    }

    /// Ends both halves.
    pub(super) fn shutdown(&self) {
        // Fails where the peer was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Tls {
    fn over(session: Arc<Mutex<ClientConnection>>) -> Self {
        Self { session, plain: BytesMut::new(), sealed: Vec::new() }
    }

    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what came by the socket, and puts what it says into `plain`.
    fn take_in(&mut self, mut sealed: &[u8]) -> io::Result<()> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chunk = [0; 4096];
        loop {
            if !sealed.is_empty() {
                session.read_tls(&mut sealed)?;
            }
            session.process_new_packets().map_err(io::Error::other)?;
            loop {
                match session.reader().read(&mut chunk) {
                    Ok(0) => break,
                    Ok(len) => self.plain.extend_from_slice(&chunk[..len]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if sealed.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        // What came with the end of the handshake is in the session already.
        tls.take_in(&[])?;
        while tls.plain.is_empty() {
            tls.sealed.resize(READ_BYTES, 0);
            let len = self.socket.read(&mut tls.sealed)?;
            if len == 0 {
                return Ok(0);
            }
            let sealed = std::mem::take(&mut tls.sealed);
            tls.take_in(&sealed[..len])?;
            tls.sealed = sealed;
        }
        let len = tls.plain.len().min(buffer.len());
        buffer[..len].copy_from_slice(&tls.plain[..len]);
        tls.plain.advance(len);
        Ok(len)
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.socket.write(buffer) };
        let mut sealed = Vec::with_capacity(buffer.len() + 64);
        {
            let mut session = tls.session();
            session.writer().write_all(buffer)?;
            while session.wants_write() {
                session.write_tls(&mut sealed)?;
            }
        }
        self.socket.write_all(&sealed)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
