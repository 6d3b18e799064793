//! Connections of the monitoring port: bounded in number, with or without TLS.
//!
//! Handshakes run beside each other, so that a peer who never ends his keeps nobody waiting.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Most connections at a time; more of them wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may neither ask nor take an answer: idle ones must not take all places.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Pause after the machine refused a connection (no descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Length of the kernel's queue.
const BACKLOG: i32 = 128;

/// Opens the monitoring port; `0.0.0.0` and an empty host stand for both address families.
///
/// # Errors
/// When the address cannot be resolved or is taken.
pub fn bind(host: &str, port: u16) -> io::Result<StdListener> {
    if matches!(host, "" | "0.0.0.0" | "::") {
        // Where the machine has no IPv6 the second attempt finds the first family alone.
        let both = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
        if let Ok(listener) = bind_one(both) {
            return Ok(listener);
        }
        return bind_one((std::net::Ipv4Addr::UNSPECIFIED, port).into());
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address of {host}"));
    for address in (host, port).to_socket_addrs()? {
        match bind_one(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Ready connections, for axum.
pub(super) struct Ready {
    address: SocketAddr,
    connections: mpsc::Receiver<(Connection, SocketAddr)>,
}

/// One connection that is past its handshake; a read or write that waits too long is an error.
pub(super) struct Connection {
    stream: Stream,
    idle_max: Duration,
    idle: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: Stream, permit: OwnedSemaphorePermit, idle_max: Duration) -> Self {
        Self { stream, idle_max, idle: Box::pin(sleep(idle_max)), _permit: permit }
    }

    /// Ends what waits too long; what is done begins the time anew.
    fn within_time<T>(
        &mut self,
        done: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.idle.as_mut().reset(Instant::now() + self.idle_max);
        } else if self.idle.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        done
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Ready {
    /// Starts to accept.
    pub(super) fn start(
        listener: StdListener,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let (tell, connections) = mpsc::channel(1);
        tokio::spawn(accept_all(listener, tls.map(TlsAcceptor::from), tell));
        Ok(Self { address, connections })
    }
}

async fn accept_all(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    tell: mpsc::Sender<(Connection, SocketAddr)>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (tls, tell) = (tls.clone(), tell.clone());
        tokio::spawn(async move {
            let stream = match tls {
                None => Stream::Plain(stream),
                Some(tls) => match hand_shake(&tls, stream).await {
                    Ok(stream) => Stream::Tls(Box::new(stream)),
                    Err(error) => {
                        log::debug!("monitoring: TLS handshake of {peer} failed: {error}");
                        return;
                    }
                },
            };
            // Fails when the pages were shut down meanwhile.
            let _ = tell.send((Connection::new(stream, permit, IDLE_MAX), peer)).await;
        });
    }
}

async fn hand_shake(tls: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

impl axum::serve::Listener for Ready {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(ready) => ready,
            // The accepting task ends with the runtime only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        this.within_time(read, context)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        this.within_time(written, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_connection_that_asks_nothing_gives_its_place_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let places = Arc::new(Semaphore::new(1));
            let permit = Arc::clone(&places).try_acquire_owned().unwrap();
            let idle_max = Duration::from_millis(20);
            let mut connection = Connection::new(Stream::Plain(stream), permit, idle_max);
            peer.write_all(b"?").await.unwrap();
            assert_eq!(connection.read_u8().await.unwrap(), b'?');
            let waited = connection.read_u8().await.unwrap_err();
            assert_eq!(waited.kind(), io::ErrorKind::TimedOut);
            drop(connection);
            assert_eq!(places.available_permits(), 1);
        });
    }
}
