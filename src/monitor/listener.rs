//! Connections of the monitoring port: with or without TLS, each with a place and a time-out.
//!
//! Handshakes run beside each other, so that a peer who never ends his keeps nobody waiting.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Stream};
use super::places::{Place, Places};
use super::{Pages, answer};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the machine refused a connection (no descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

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
        Some(tls) => match hand_shake(&tls, stream).await {
            Ok(stream) => Stream::Tls(Box::new(stream)),
            Err(error) => {
                log::debug!("monitoring: TLS handshake of {peer} failed: {error}");
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
            let response = answer(&pages, &asked.method, &asked.uri).await;
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

async fn hand_shake(tls: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}
