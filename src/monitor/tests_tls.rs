//! The pages over TLS.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::tests::free_port;
use super::*;
use crate::base::epoch::LeaseClock;
use crate::base::meters::Meters;
use crate::base::pulse::Vitals;

/// Both ends of TLS with one certificate that is its own authority.
fn both_ends() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn sources() -> Sources {
    Sources {
        status: Arc::default(),
        lease: LeaseClock::endless(),
        vitals: Vitals::default(),
        core: Arc::default(),
        streaming: None,
        meters: Meters::default(),
        group: Arc::default(),
        directory: None,
        viewer: Arc::default(),
        broker: Box::new(|_| Err(Unavailable("not asked".to_owned()))),
    }
}

fn healthz(monitor: &Monitor, client: Arc<ClientConfig>) -> std::io::Result<String> {
    let socket = TcpStream::connect(monitor.address())?;
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(client, name).unwrap();
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

#[test]
fn pages_come_over_tls_while_another_peer_never_ends_its_handshake() {
    let (server, client) = both_ends();
    let monitor = Monitor::start(free_port(), Some(server), "", sources()).unwrap();
    let _silent = TcpStream::connect(monitor.address()).unwrap();
    let response = healthz(&monitor, client).unwrap();
    assert!(response.ends_with("\r\n\r\n{\"status\":\"ok\"}"), "{response}");
}

/// Goal: a certificate that was renewed and loaded again is the one that is shown.
#[test]
fn a_new_certificate_is_shown_from_the_next_connection_on() {
    let ((old, old_client), (new, new_client)) = (both_ends(), both_ends());
    let monitor = Monitor::start(free_port(), Some(old), "", sources()).unwrap();
    assert!(healthz(&monitor, Arc::clone(&old_client)).is_ok());
    assert!(healthz(&monitor, Arc::clone(&new_client)).is_err());
    monitor.set_tls(new);
    assert!(healthz(&monitor, new_client).is_ok());
    assert!(healthz(&monitor, old_client).is_err());
}
