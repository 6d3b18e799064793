//! One connection of the monitoring port: what waits too long is an error.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::listener::Begun;
use super::places::Place;

/// How long a request may take from its first byte to the end of its header.
const HEADER_MAX: Duration = Duration::from_secs(5);

/// How long a connection may neither ask nor take an answer.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The bytes of a connection that is past its handshake.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Begun>>),
}

/// The time-outs of a connection.
#[derive(Clone, Copy)]
struct Times {
    header_max: Duration,
    idle_max: Duration,
}

/// One connection that is past its handshake.
pub(super) struct Connection {
    stream: Stream,
    place: Arc<Place>,
    times: Times,
    /// Since when there is neither a whole request nor a byte of an answer that left.
    idle_since: Instant,
    /// When the header that is being read began, and how many requests there were before it.
    header_since: Option<(Instant, u64)>,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    pub(super) fn new(stream: Stream, place: Arc<Place>) -> Self {
        Self::with_times(stream, place, Times { header_max: HEADER_MAX, idle_max: IDLE_MAX })
    }

    fn with_times(stream: Stream, place: Arc<Place>, times: Times) -> Self {
        let timer = Box::pin(sleep(times.idle_max));
        let idle_since = Instant::now();
        Self { stream, place, times, idle_since, header_since: None, timer }
    }

    /// Bytes of a header do not count as progress: who sends one each second would stay for ever.
    fn note_read(&mut self) {
        let requests = self.place.requests();
        if self.header_since.is_none_or(|(_, before)| before != requests) {
            self.header_since = Some((Instant::now(), requests));
        }
    }

    fn note_written(&mut self) {
        self.idle_since = Instant::now();
        self.place.note_progress();
    }

    fn deadline(&self) -> Instant {
        let requests = self.place.requests();
        match self.header_since {
            Some((since, before)) if before == requests => since + self.times.header_max,
            _ => self.idle_since + self.times.idle_max,
        }
    }

    /// Ends what waits too long.
    fn within_time<T>(
        &mut self,
        done: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if done.is_pending() {
            let deadline = self.deadline();
            self.timer.as_mut().reset(deadline);
            if self.timer.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        done
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
        if read.is_ready() {
            this.note_read();
        }
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
        if written.is_ready() {
            this.note_written();
        }
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

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::places::Places;
    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(20);

    async fn pair(times: Times) -> (TcpStream, Connection, Arc<Place>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let place = Arc::new(Places::new(1).take(from.ip()).unwrap());
        let connection = Connection::with_times(Stream::Plain(stream), Arc::clone(&place), times);
        (peer, connection, place)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn a_connection_that_asks_nothing_is_closed() {
        run(async {
            let times = Times { header_max: LONG, idle_max: SHORT };
            let (_peer, mut connection, _) = pair(times).await;
            let waited = connection.read_u8().await.unwrap_err();
            assert_eq!(waited.kind(), io::ErrorKind::TimedOut);
        });
    }

    /// Goal: bytes that come one by one do not keep a place; a whole request does.
    #[test]
    fn a_header_has_its_time_from_its_first_byte_on() {
        run(async {
            let times = Times { header_max: SHORT * 5, idle_max: LONG };
            let (mut peer, mut connection, place) = pair(times).await;
            let trickle = async move {
                while peer.write_all(b"?").await.is_ok() {
                    tokio::time::sleep(SHORT).await;
                }
            };
            let read = async move {
                for _ in 0..2 {
                    connection.read_u8().await.unwrap();
                }
                drop(place.answering());
                let mut count = 0_u32;
                let error = loop {
                    match connection.read_u8().await {
                        Ok(_) => count += 1,
                        Err(error) => break error,
                    }
                };
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                assert_ne!(count, 0, "the next header has a time of its own");
            };
            tokio::select! {
                () = trickle => {}
                () = read => {}
            }
        });
    }
}
