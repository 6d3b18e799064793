//! Connections of the monitoring port: with or without TLS, each with a place and a time-out.
//!
//! Handshakes run beside each other, so that a peer who never ends his keeps nobody waiting.

use std::convert::Infallible;
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Chain, Join};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Stream};
use super::places::{Place, Places};
use super::{Pages, answer};
use crate::base::go;
use crate::base::opening::{Beginning, NO_HANDSHAKE, Opening};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the machine refused a connection (no descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What the reference answers a request that came without TLS.
const HTTP_ON_HTTPS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// A connection whose first bytes were looked at.
pub(super) type Begun = Join<Chain<Cursor<Vec<u8>>, OwnedReadHalf>, OwnedWriteHalf>;

/// Accepts for ever. Each connection has a task of its own.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    pages: Arc<Pages>,
    places: Arc<Places>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Who finds no place is closed: everybody there is being answered at this moment.
        let Some(place) = places.take(peer.ip()) else { continue };
        let tls = tls.as_ref().map(|newest| TlsAcceptor::from(Arc::clone(&newest.borrow())));
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let place = Arc::new(place);
            tokio::select! {
                // Another one needs the place more.
                () = place.sent_away() => {}
                () = serve_one(stream, peer, tls, pages, Arc::clone(&place)) => {}
            }
        });
    }
}

async fn serve_one(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    pages: Arc<Pages>,
    place: Arc<Place>,
) {
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => match hand_shake(&tls, stream, peer).await {
            Ok(stream) => Stream::Tls(Box::new(stream)),
            Err(why) => {
                log::error!("monitoring: TLS handshake error from {peer}: {why}");
                return;
            }
        },
    };
    let connection = TokioIo::new(Connection::new(stream, Arc::clone(&place)));
    let service = service_fn(move |request: Request<Incoming>| {
        let (pages, place) = (Arc::clone(&pages), Arc::clone(&place));
        // No page has a use for a body.
        let (asked, _) = request.into_parts();
        async move {
            let answering = place.answering();
            let response = answer(&pages, &asked).await;
            drop(answering);
            let len = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
            place.hold(len);
            Ok::<_, Infallible>(response)
        }
    });
    if let Err(error) =
        http1::Builder::new().title_case_headers(true).serve_connection(connection, service).await
    {
        log::debug!("monitoring: connection of {peer} ended: {error}");
    }
}

/// As a whole: who sends one byte each second is a stranger too.
async fn hand_shake(
    tls: &TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<TlsStream<Begun>, String> {
    let done = tokio::time::timeout(HANDSHAKE_TIMEOUT, begin(tls, stream, peer)).await;
    done.unwrap_or_else(|_| Err("timeout".to_owned()))
}

async fn begin(
    tls: &TlsAcceptor,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Result<TlsStream<Begun>, String> {
    let local = stream.local_addr().map(|local| local.to_string()).unwrap_or_default();
    let failed =
        |error: &io::Error| format!("read tcp {local}->{peer}: read: {}", go::system_reason(error));
    let (mut opening, mut first, mut chunk) = (Opening::default(), Vec::new(), [0; 1024]);
    while opening.beginning() == Beginning::Unfinished {
        let count = stream.read(&mut chunk).await.map_err(|error| failed(&error))?;
        if count == 0 {
            return Err(opening.end_text().to_owned());
        }
        opening.follow(&chunk[..count]);
        first.extend_from_slice(&chunk[..count]);
    }
    match opening.beginning() {
        Beginning::Unfinished | Beginning::Tls => (),
        Beginning::Http => {
            // Who has gone meanwhile needs no answer.
            let _is_told = stream.write_all(HTTP_ON_HTTPS).await;
            return Err("client sent an HTTP request to an HTTPS server".to_owned());
        }
        Beginning::Other => return Err(NO_HANDSHAKE.to_owned()),
    }
    let (reader, writer) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(first).chain(reader), writer);
    tls.accept(stream).await.map_err(|error| {
        let of_tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
        match of_tls {
            Some(wrong) => opening.tell(wrong),
            None if error.kind() == io::ErrorKind::UnexpectedEof => opening.end_text().to_owned(),
            None => failed(&error),
        }
    })
}
