//! Two layers that talk to each other in memory, with certificates made for the test.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(2);

/// A root, and what it signs, as PEM files.
pub struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    /// A certificate for `name`, good on both sides of a connection.
    pub fn files(&self, name: &str) -> Files {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        fs::write(path("pem"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        let ca = Some(self.dir.path().join("ca.pem"));
        Files { cert: path("pem"), key: path("key"), ca, ..Files::default() }
    }
}

/// The client's side of a TLS connection over a socket of its own.
pub fn client(
    dialling: &Dialling,
    socket: std::net::TcpStream,
) -> rustls::StreamOwned<ClientConnection, std::net::TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(Arc::clone(&dialling.config), name).unwrap();
    rustls::StreamOwned::new(session, socket)
}

/// Moves bytes between both until nobody has anything to say; then what each side read.
fn talk(client: &mut Layer, server: &mut Layer) -> Result<(BytesMut, BytesMut), Broken> {
    let (mut to_client, mut to_server) = (BytesMut::new(), BytesMut::new());
    while client.has_sealed() || server.has_sealed() {
        let mut wire = Vec::new();
        client.write_sealed(&mut wire).unwrap();
        server.open(&wire, &mut to_server)?;
        wire.clear();
        server.write_sealed(&mut wire).unwrap();
        client.open(&wire, &mut to_client)?;
    }
    Ok((to_client, to_server))
}

fn connect(
    serving: &Serving,
    dialling: &Dialling,
    name: &str,
) -> Result<(TlsPeer, TlsPeer), Broken> {
    let (mut client, mut server) = (Layer::dial(dialling, name)?, Layer::serve(serving)?);
    talk(&mut client, &mut server)?;
    let peers = (client.poll_established().unwrap(), server.poll_established().unwrap());
    assert!(client.poll_established().is_none());
    Ok(peers)
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let authority = Authority::new();
    let files = authority.files("localhost");
    let serving = Serving::load(&files, ClientCertificate::Required, TIMEOUT).unwrap();
    let dialling = Dialling::load(&files, false, TIMEOUT).unwrap();
    let (seen_by_client, seen_by_server) = connect(&serving, &dialling, "localhost").unwrap();
    for peer in [&seen_by_client, &seen_by_server] {
        assert_eq!(peer.version, "1.3");
        assert!(peer.cipher.starts_with("TLS_AES_"), "{}", peer.cipher);
    }
    let own = CertificateDer::from_pem_file(&files.cert).unwrap();
    assert_eq!(seen_by_server.certificate.unwrap(), own.as_ref());
}

#[test]
fn a_certificate_for_another_name_or_of_another_root_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (ours, theirs) = (authority.files("localhost"), stranger.files("localhost"));
    let serving = Serving::load(&ours, ClientCertificate::NotAsked, TIMEOUT).unwrap();
    let dialling = Dialling::load(&ours, false, TIMEOUT).unwrap();
    assert!(connect(&serving, &dialling, "other.example").is_err());
    let foreign = Dialling::load(&theirs, false, TIMEOUT).unwrap();
    assert!(connect(&serving, &foreign, "localhost").is_err());
    let insecure = Dialling::load(&theirs, true, TIMEOUT).unwrap();
    assert!(connect(&serving, &insecure, "localhost").is_ok());
    let strict = Serving::load(&ours, ClientCertificate::Required, TIMEOUT).unwrap();
    assert!(connect(&strict, &insecure, "localhost").is_err());
}

#[test]
fn much_plain_text_goes_through_in_bounded_pieces() {
    let authority = Authority::new();
    let files = authority.files("localhost");
    let serving = Serving::load(&files, ClientCertificate::NotAsked, TIMEOUT).unwrap();
    let dialling = Dialling::load(&files, false, TIMEOUT).unwrap();
    let mut client = Layer::dial(&dialling, "localhost").unwrap();
    let mut server = Layer::serve(&serving).unwrap();
    talk(&mut client, &mut server).unwrap();
    let text: Vec<u8> = (0..300_000_usize).map(|n| n.to_le_bytes()[0]).collect();
    let (mut sent, mut read) = (0, BytesMut::new());
    while sent < text.len() {
        let taken = client.seal(&[IoSlice::new(&text[sent..])]);
        assert!(0 < taken && taken <= SEALED_BYTES_MAX);
        sent += taken;
        let (_, plain) = talk(&mut client, &mut server).unwrap();
        read.extend_from_slice(&plain);
    }
    assert_eq!(read, text);
}

#[test]
fn what_is_not_tls_is_refused() {
    let files = Authority::new();
    let files_of_server = files.files("localhost");
    let serving = Serving::load(&files_of_server, ClientCertificate::NotAsked, TIMEOUT).unwrap();
    let mut server = Layer::serve(&serving).unwrap();
    assert!(server.open(b"CONNECT {}\r\nPING\r\n", &mut BytesMut::new()).is_err());
}

#[test]
fn suites_and_curves_are_chosen_by_the_names_of_go() {
    let authority = Authority::new();
    let mut files = authority.files("localhost");
    files.cipher_suites = vec!["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".to_owned()];
    files.curves = vec!["CurveP256".to_owned()];
    let serving = Serving::load(&files, ClientCertificate::NotAsked, TIMEOUT).unwrap();
    let dialling = Dialling::load(&files, false, TIMEOUT).unwrap();
    connect(&serving, &dialling, "localhost").unwrap();
    files.curves = vec!["CurveP521".to_owned()];
    let only = Serving::load(&files, ClientCertificate::NotAsked, TIMEOUT).unwrap();
    assert!(connect(&only, &dialling, "localhost").is_err(), "no curve in common");
    let dialling = Dialling::load(&files, false, TIMEOUT).unwrap();
    connect(&only, &dialling, "localhost").unwrap();
    let load = |files: &Files| Serving::load(files, ClientCertificate::NotAsked, TIMEOUT);
    files.curves = vec!["CurveP9".to_owned()];
    let error = load(&files).unwrap_err().to_string();
    assert_eq!(error, "unrecognized curve preference CurveP9");
    files.cipher_suites = vec!["TLS_NONE".to_owned()];
    assert_eq!(load(&files).unwrap_err().to_string(), "unrecognized cipher TLS_NONE");
}

#[test]
fn a_file_that_is_wrong_is_named() {
    let authority = Authority::new();
    let good = authority.files("localhost");
    let load = |files: &Files| {
        Serving::load(files, ClientCertificate::Required, TIMEOUT).unwrap_err().to_string()
    };
    let missing = Files { cert: "/nowhere/cert.pem".into(), ..good.clone() };
    assert!(load(&missing).contains("/nowhere/cert.pem"));
    let other = authority.files("other");
    let mixed = Files { key: other.key, ..good.clone() };
    assert!(load(&mixed).starts_with("error parsing X509 certificate/key pair"));
    let rootless = Files { ca: Some(good.key.clone()), ..good };
    assert!(load(&rootless).starts_with("failed to parse root ca certificate"));
}
