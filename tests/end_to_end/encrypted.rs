//! TLS towards clients: required, verified, mapped to users, optional, by flags.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::server::{Launch, Server};
use crate::wire::{Conn, connect, error, message, publish, same};

/// An authority with a certificate for the server and one for a client, as files.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let server = [
            SanType::IpAddress("127.0.0.1".parse().unwrap()),
            SanType::DnsName("localhost".try_into().unwrap()),
        ];
        let client = [SanType::Rfc822Name("derek@example.org".try_into().unwrap())];
        for (name, names) in [("server", server.to_vec()), ("client", client.to_vec())] {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names;
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn server(&self, extra: &str, top: &str) -> Server {
        let (cert, key, ca) =
            (self.text("server.pem"), self.text("server.key"), self.text("ca.pem"));
        let text = format!(
            "tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\" {extra} }}\n{top}"
        );
        Launch::new(&[]).config(&text).start()
    }

    fn client(
        &self,
        has_certificate: bool,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(read_certificate(&self.path("ca.pem"))).unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(if has_certificate {
            let key = PrivateKeyDer::from_pem_file(self.path("client.key")).unwrap();
            let chain = vec![read_certificate(&self.path("client.pem"))];
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        })
    }
}

fn read_certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

const NEWEST: &rustls::SupportedProtocolVersion = &rustls::version::TLS13;

#[test]
fn info_comes_in_clear_then_the_handshake() {
    let certificates = Certificates::make();
    let server = certificates.server(", timeout: 0.7", "");
    let port = server.launch.port;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut conn = Conn::tls(port, &certificates.client(false, version));
        assert_eq!(conn.info["tls_required"], true);
        assert!(conn.info.get("tls_verify").is_none(), "{}", conn.info);
        conn.connect("");
        let big = [b'x'; 40_000];
        let asked = [b"SUB tls 1\r\n".to_vec(), publish("tls", &big)].concat();
        same(conn.ask(asked), message("tls", "1", &big), "a message over TLS");
    }
    let plain = Conn::open(port).fatal([connect(""), b"PING\r\n".to_vec()].concat());
    same(plain, b"", "a plain client is closed");
    let silent = Conn::open(port).until_closed();
    let told = error("Secure Connection - TLS Required");
    assert!(silent.is_empty() || silent == told, "a silent client saw {silent:?}");
}

#[test]
fn verification_wants_a_certificate_of_the_authority() {
    let certificates = Certificates::make();
    let server = certificates.server(", verify: true", "");
    let port = server.launch.port;
    let mut conn = Conn::tls(port, &certificates.client(true, NEWEST));
    assert_eq!(
        (&conn.info["tls_required"], &conn.info["tls_verify"]),
        (&true.into(), &true.into())
    );
    conn.connect("");
    let shown = server.json("/connz?auth=1");
    let peer = &shown["connections"][0]["tls_peer_certs"][0];
    assert_eq!(peer["cert_sha256"].as_str().map(str::len), Some(64), "{shown}");
    assert!(peer["subject"].as_str().is_some_and(|subject| subject.contains("CN=")), "{shown}");
    let without_auth = server.json("/connz");
    assert!(without_auth["connections"][0].get("tls_peer_certs").is_none(), "{without_auth}");
    let mut without = Conn::tls(port, &certificates.client(false, NEWEST));
    let seen = without.fatal([connect(""), b"PING\r\n".to_vec()].concat());
    same(seen, b"", "a client without a certificate");
}

#[test]
fn a_certificate_can_name_the_user() {
    let certificates = Certificates::make();
    let users = "authorization { users = [ { user: \"derek@example.org\", permissions \
                 { publish { deny: \"x\" } } }, { user: other } ] }";
    let server = certificates.server(", verify_and_map: true", users);
    let mut conn = Conn::tls(server.launch.port, &certificates.client(true, NEWEST));
    conn.connect("");
    let denied = error("Permissions Violation for Publish to \"x\"");
    same(conn.ask([publish("y", b""), publish("x", b"")].concat()), denied, "deny");
}

#[test]
fn the_certificate_counts_more_than_the_name_in_connect_and_the_password_counts_too() {
    let certificates = Certificates::make();
    let users = "authorization { users = [ { user: \"derek@example.org\", permissions \
                 { publish { deny: \"x\" } } }, { user: other, password: pw } ] }";
    let server = certificates.server(", verify_and_map: true", users);
    let client = certificates.client(true, NEWEST);
    let mut conn = Conn::tls(server.launch.port, &client);
    conn.connect("\"user\":\"other\"");
    let denied = error("Permissions Violation for Publish to \"x\"");
    same(conn.ask(publish("x", b"")), denied, "the certificate's user");
    server.log.wait("User \"other\" found in connect proto, but user required from cert");
    let mut refused = Conn::tls(server.launch.port, &client);
    let given = connect("\"user\":\"other\",\"pass\":\"pw\"");
    same(refused.fatal(given), error("Authorization Violation"), "a password that is not its");
    server.log.wait("authentication error - User \"derek@example.org\"");
}

#[test]
fn plain_clients_are_served_where_that_is_allowed() {
    let certificates = Certificates::make();
    let server = certificates.server("", "allow_non_tls: true");
    let mut conn = Conn::open(server.launch.port);
    assert_eq!(conn.info["tls_available"], true);
    assert!(conn.info.get("tls_required").is_none(), "{}", conn.info);
    conn.connect("");
    Conn::tls(server.launch.port, &certificates.client(false, NEWEST)).connect("");
}

#[test]
fn tls_by_flags_and_authentication_inside() {
    let certificates = Certificates::make();
    let [cert, key, ca] =
        ["server.pem", "server.key", "ca.pem"].map(|name| certificates.text(name));
    let flags = ["-tlsverify", "-tlscert", &cert, "-tlskey", &key, "-tlscacert", &ca];
    let server = Launch::new(&flags).start();
    Conn::tls(server.launch.port, &certificates.client(true, NEWEST)).connect("");
    let users = "authorization { user: derek, password: porkchop, timeout: 0.5 }";
    let server = certificates.server("", users);
    let open = || Conn::tls(server.launch.port, &certificates.client(false, NEWEST));
    open().connect("\"user\":\"derek\",\"pass\":\"porkchop\"");
    same(open().fatal(connect("")), error("Authorization Violation"), "no password");
    // The clock of the password starts behind the handshake, which a silent client has done.
    let mut silent = open();
    silent.send(b"");
    same(silent.until_closed(), error("Authentication Timeout"), "silent");
}
