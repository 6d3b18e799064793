//! Clients with TLS against whole loops.

use super::*;
use crate::broker::settings::ClientTls;
use crate::net::tls::tests::{Authority, client};
use crate::net::tls::{ClientCertificate, Dialling, Serving};

struct Secure {
    server: Reactors<Answerer>,
    dialling: Dialling,
    /// The files vanish with it.
    _authority: Authority,
}

fn serve(tls: ClientTls, certificate: ClientCertificate, lease: &LeaseClock) -> Secure {
    let authority = Authority::new();
    let files = authority.files("localhost");
    let serving = Serving::load(&files, certificate, PATIENCE).unwrap();
    let dialling = Dialling::load(&files, false, PATIENCE).unwrap();
    let broker = Arc::new(broker::Settings { tls, tls_timeout: PATIENCE, ..broker_settings(1) });
    let rules = Rules { client_tls: Some(serving), ..rules() };
    let settings = Settings { client: anywhere(), route: None, rules };
    let server = Reactors::start(settings, &broker, lease, vec![Answerer::default()]).unwrap();
    Secure { server, dialling, _authority: authority }
}

impl Secure {
    fn connect(&self) -> Client<impl Read + Write + use<>> {
        let mut plain = Client::over(plain(self.server.client_address));
        plain.expect_info();
        let mut secure = Client::over(client(&self.dialling, plain.stream.into_inner()));
        secure.greet();
        secure
    }
}

const REQUIRED: ClientTls = ClientTls::Required { verify: true };
const AVAILABLE: ClientTls = ClientTls::Available { verify: false };

#[test]
fn a_client_with_a_certificate_talks_through_tls() {
    let secure = serve(REQUIRED, ClientCertificate::Required, &LeaseClock::endless());
    let mut subscriber = secure.connect();
    subscriber.send("SUB a 1\r\n");
    subscriber.sync();
    let mut publisher = secure.connect();
    let payload = "0123456789".repeat(30_000);
    for _ in 0..3 {
        publisher.send(&format!("PUB a {}\r\n{payload}\r\n", payload.len()));
    }
    for _ in 0..3 {
        subscriber.expect("MSG a 1 300000");
        assert_eq!(subscriber.line(), payload);
    }
    secure.server.stop(PATIENCE);
    subscriber.expect_end();
}

#[test]
fn who_does_not_speak_tls_where_it_is_required_is_closed() {
    let secure = serve(REQUIRED, ClientCertificate::Required, &LeaseClock::endless());
    let mut client = Client::over(plain(secure.server.client_address));
    client.expect_info();
    client.send("CONNECT {}\r\nPING\r\n");
    client.expect_end();
    secure.connect().sync();
    secure.server.stop(PATIENCE);
}

#[test]
fn both_kinds_are_welcome_where_tls_is_a_choice() {
    let secure = serve(AVAILABLE, ClientCertificate::NotAsked, &LeaseClock::endless());
    let mut with = secure.connect();
    let mut without = connect(secure.server.client_address);
    with.send("SUB a 1\r\n");
    with.sync();
    without.send("PUB a 1\r\nx\r\n");
    with.expect("MSG a 1 1");
    with.expect("x");
    secure.server.stop(PATIENCE);
}

/// Goal: encryption does not let an engine's word out without a lease.
#[test]
fn under_tls_too_an_engine_needs_its_lease() {
    let lease = LeaseClock::default();
    let secure = serve(REQUIRED, ClientCertificate::Required, &lease);
    let mut client = secure.connect();
    client.send("SUB inbox 7\r\n");
    client.sync();
    client.send("PUB ask.me inbox 1\r\n1\r\n");
    // An answer in order behind what may not leave: its engine goes, so only the PONG comes.
    client.send("PING\r\n");
    let mut other = secure.connect();
    other.sync();
    assert!(secure.server.mailbox(LoopIndex(0)).deliver(Word::Gone));
    client.expect("PONG");
    client.sync();
    secure.server.stop(PATIENCE);
}

/// Goal: what was encrypted under a lease and is not on the socket when the engine goes never
/// leaves. It cannot be told apart from the rest, so the connection ends.
#[test]
fn an_encrypted_word_of_a_gone_engine_ends_the_connection() {
    let lease = LeaseClock::default();
    lease.confirm(world::instant(), PATIENCE);
    let secure = serve(REQUIRED, ClientCertificate::Required, &lease);
    let mut deaf = secure.connect();
    deaf.send("SUB inbox 7\r\n");
    deaf.sync();
    let mut asking = secure.connect();
    let payload = "x".repeat(1_000_000);
    // More than all buffers between both ends of a connection take.
    for _ in 0..30 {
        asking.send(&format!("PUB ask.me inbox {}\r\n{payload}\r\n", payload.len()));
    }
    asking.sync();
    lease.revoke();
    assert!(secure.server.mailbox(LoopIndex(0)).deliver(Word::Gone));
    asking.sync();
    lease.confirm(world::instant(), PATIENCE);
    deaf.expect_end();
    secure.server.stop(PATIENCE);
}

/// Goal: a client that waits for our goodbye before it closes its socket does not wait for ever.
#[test]
fn a_goodbye_in_tls_is_answered_after_the_last_words_were_heard() {
    let secure = serve(REQUIRED, ClientCertificate::Required, &LeaseClock::endless());
    let mut witness = secure.connect();
    witness.send("SUB a 1\r\n");
    witness.sync();
    let mut plain = Client::over(plain(secure.server.client_address));
    plain.expect_info();
    let mut leaving = client(&secure.dialling, plain.stream.into_inner());
    leaving.write_all(b"CONNECT {\"verbose\":false}\r\nPUB a 1\r\nx\r\n").unwrap();
    leaving.conn.send_close_notify();
    leaving.flush().unwrap();
    Client::over(leaving).expect_end();
    witness.expect("MSG a 1 1");
    witness.expect("x");
    secure.server.stop(PATIENCE);
}
