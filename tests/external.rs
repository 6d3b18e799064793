//! Streaming servers over an external core NATS server: ours, and the Go server where there is one.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "patience needs a clock")]
#![allow(clippy::print_stdout, reason = "figures are printed, not asserted")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/left_out.rs"]
mod left_out;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use nix::sys::signal::Signal;
use stanby::client::{Client, Options, StartAt, SubscriptionOptions};

use server::{LOOPS, Launch, PATIENCE, Server, free_port, wait_for};
use stan::{Stan, all, ask, sequences};

/// The Go core server: `STANBY_PEER` names it, or it is the system's.
fn go_server() -> Option<PathBuf> {
    let named = std::env::var_os("STANBY_PEER").map(PathBuf::from);
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let mut found = folders.into_iter().map(|folder| folder.join("nats-server"));
    let found = named.or_else(|| found.find(|file| file.is_file()));
    if found.is_none() {
        left_out::note("the Go nats-server");
    }
    found
}

/// The core servers that there are to run over, with these arguments.
fn cores(arguments: &[&str]) -> Vec<Launch> {
    let ours = Launch::core(arguments);
    let go = go_server().map(|program| Launch::core(arguments).program(&program));
    std::iter::once(ours).chain(go).collect()
}

fn url(core: &Launch) -> String {
    format!("nats://127.0.0.1:{}", core.port)
}

/// A streaming server over `core`.
fn over(core: &Launch) -> Launch {
    Launch::new(&["-ns", &url(core)])
}

/// What such a server ends with at its start.
fn refused(launch: &Launch) -> String {
    let mut server = launch.spawn();
    assert_eq!(server.wait_exit().code(), Some(1), "{}", server.log.text());
    let text = server.log.text();
    let line = text.lines().find(|line| line.contains("[FTL]")).unwrap_or_else(|| panic!("{text}"));
    line.split_once("[FTL] ").unwrap().1.to_owned()
}

/// A publisher that goes on through outages, and what was acknowledged to it.
struct Publisher {
    client: Client,
    acked: Arc<Mutex<BTreeSet<u64>>>,
    last: u64,
}

impl Publisher {
    fn new(core: &Launch, id: &str) -> Self {
        let mut options = Options::new(&[&url(core)], stan::CLUSTER, id);
        // What an outage took is known for lost soon, and sent again under another number.
        options.ack_timeout = Duration::from_secs(1);
        let client = Client::connect(options).unwrap();
        Self { client, acked: Arc::default(), last: 0 }
    }

    /// Publishes one more message and does not wait.
    fn publish(&mut self) {
        self.last += 1;
        let (number, acked) = (self.last, Arc::clone(&self.acked));
        let on_ack = move |_: &str, result: Result<(), _>| {
            if result.is_ok() {
                acked.lock().unwrap().insert(number);
            }
        };
        // Without a connection and without room nothing is published: the next one may be.
        let _ = self.client.publish_async("foo", number.to_string(), on_ack);
    }

    fn acked_count(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    /// Publishes until so many more are acknowledged.
    fn publish_acked(&mut self, count: usize) {
        let wanted = self.acked_count() + count;
        wait_for("acks of published messages", || {
            self.publish();
            (wanted <= self.acked_count()).then_some(())
        });
    }
}

/// The numbers that a channel holds; those that are wanted are waited for.
fn stored(core: &Launch, id: &str, wanted: &BTreeSet<u64>) -> BTreeSet<u64> {
    let client = Client::connect(Options::new(&[&url(core)], stan::CLUSTER, id)).unwrap();
    let (told, heard) = mpsc::channel();
    let options = SubscriptionOptions { start: StartAt::First, ..SubscriptionOptions::default() };
    let subscription = client
        .subscribe("foo", options, move |message| {
            let _ = told.send(String::from_utf8_lossy(&message.data).parse().unwrap());
        })
        .unwrap();
    let mut found = BTreeSet::new();
    while !wanted.is_subset(&found) {
        let Ok(number) = heard.recv_timeout(PATIENCE) else { break };
        found.insert(number);
    }
    while let Ok(number) = heard.recv_timeout(Duration::from_millis(300)) {
        found.insert(number);
    }
    subscription.unsubscribe().unwrap();
    client.close().unwrap();
    found
}

/// Everything that was acknowledged is there.
fn check_kept(core: &Launch, publisher: &Publisher) {
    let acked = publisher.acked.lock().unwrap().clone();
    let found = stored(core, "checker", &acked);
    let lost: Vec<_> = acked.difference(&found).collect();
    assert!(lost.is_empty(), "{} acknowledged, lost: {lost:?}", acked.len());
    println!("{} acknowledged, {} stored, none lost", acked.len(), found.len());
}

/// Goal: clients of the external server have what they have of a server of its own: messages, acks,
/// redelivery, durables, the order of acks and requests, heartbeats and pings.
#[test]
fn clients_are_served_through_an_external_server() {
    for core in cores(&[]) {
        for loops in LOOPS {
            let _core = core.start();
            let server = over(&core).loops(loops).start();
            let mut client = Stan::connect(core.port, "me");
            assert_eq!(client.fill("foo", 1..=100), Vec::<String>::new());
            let mut request = all("foo");
            request.durable_name = "d".into();
            request.max_in_flight = 7;
            request.ack_wait_in_secs = 1;
            let sub = client.subscribe(request.clone());
            assert_eq!(sequences(&client.take(&sub, 7)), (1..=7).collect::<Vec<_>>());
            let again = client.take(&sub, 7);
            assert!(again.iter().all(|delivery| delivery.message.redelivered));
            // Whatever was acknowledged before a close is not delivered again.
            for sequence in 1..=7 {
                client.ack(&sub, sequence);
            }
            client.leave(&sub, true).unwrap();
            let sub = client.subscribe(request);
            assert_eq!(sequences(&client.take(&sub, 1)), [8]);
            let conn_id = client.conn_id.clone();
            client.ping(&conn_id).unwrap();
            client.close().unwrap();
            // One that answers when the server asks whether it is still there.
            let options = Options::new(&[&url(&core)], stan::CLUSTER, "me");
            let lively = Client::connect(options).unwrap();
            let refused = Stan::try_connect(core.port, "me").err().unwrap_or_default();
            assert_eq!(refused, "stan: clientID already registered");
            lively.close().unwrap();
            drop(server);
        }
    }
}

/// Goal: it opens no port for clients or routes, says nothing of a core server, and its pages are
/// there.
#[test]
fn no_port_is_open_but_that_of_the_pages() {
    let core = Launch::core(&[]);
    let _core = core.start();
    let route_port = free_port();
    let launch = over(&core).arg("-cluster").arg(format!("nats://127.0.0.1:{route_port}"));
    let mut server = launch.start();
    assert!(wire::Conn::try_open(launch.port).is_none(), "a port for clients is open");
    assert!(wire::Conn::try_open(route_port).is_none(), "a port for routes is open");
    let page = server.json("/streaming/serverz");
    assert_eq!(page["state"], "STANDALONE");
    assert_eq!(server.json("/varz")["connections"], 0);
    let log = server.log.text();
    for word in ["Server is ready", "Listening for", "Starting nats-server\n", "Cluster name"] {
        let core_lines = log.lines().filter(|line| !line.contains("STREAM: "));
        let found: Vec<_> = core_lines.filter(|line| line.contains(word)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
    assert_eq!(server.stop(Signal::SIGTERM), Some(143));
}

/// Goal: what the reference refuses at a start is refused in its words, and so is what it passes
/// over.
#[test]
fn a_start_that_cannot_log_in_says_why() {
    let guarded: Vec<Launch> = cores(&["--user", "me", "--pass", "right"]);
    for core in &guarded {
        let _core = core.start();
        for place in ["127.0.0.1", "me:wrong@127.0.0.1", "token@127.0.0.1"] {
            let ns = format!("nats://{place}:{}", core.port);
            let line = refused(&Launch::new(&["-ns", &ns]));
            assert_eq!(line, "STREAM: Failed to start: nats: Authorization Violation", "{place}");
        }
        let line = refused(&over(core).arg("-secure"));
        assert_eq!(line, "STREAM: Failed to start: nats: secure connection not available");
        let right = format!("nats://me:right@127.0.0.1:{}", core.port);
        drop(Launch::new(&["-ns", &right]).start());
        drop(over(core).arg("-user").arg("me").arg("-pass").arg("right").start());
        drop(over(core).config("streaming { user: me, password: right }").start());
    }
    let nobody = free_port();
    for ns in [format!("nats://127.0.0.1:{nobody}"), format!("a:b@localhost:{nobody},127.0.0.1")] {
        let line = refused(&Launch::new(&["-ns", &ns]));
        assert_eq!(line, "STREAM: Failed to start: nats: no servers available for connection");
    }
    let line = refused(&Launch::new(&["-ns", "localhost:4222"]));
    assert_eq!(line, "STREAM: Failed to start: malformed url: localhost:4222");
    let nonsense = Launch::new(&["-ns", "nats://127.0.0.1:1"]);
    std::fs::write(nonsense.folder().join("junk"), "nonsense\n").unwrap();
    for (keys, why) in [
        (
            "credentials: junk",
            "error signing nonce: unable to extract key pair from file \"junk\": ",
        ),
        ("credentials: none", "nats: open none: no such file or directory"),
        ("nkey_seed_file: junk", "nkeys: no nkey seed found"),
    ] {
        let line = refused(&nonsense.clone().config(&format!("streaming {{ {keys} }}")));
        assert!(line.starts_with(&format!("STREAM: Failed to start: {why}")), "{line}");
    }
}

/// What the Go tools have made: an operator with an account and a user, whose seed is a plain nkey
/// too.
fn made(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/external").join(name)
}

/// Runs one of our commands to its end, with these variables; what it said, or why it failed.
fn command(args: &[&str], variables: &[(&str, &str)]) -> Result<String, String> {
    let mut command = std::process::Command::new(server::binary());
    command.args(args).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Goal: who signs what the server sends is let in: with the seed of an nkey, and with a file of
/// credentials. Nonsense in the place of that file, read by SIGHUP, takes the login from nobody.
#[test]
fn seeds_and_credentials_open_a_server_that_asks_for_them() {
    let Some(program) = go_server() else { return };
    for (core, key, file) in [
        ("nkey.conf", "nkey_seed_file", "user.seed"),
        ("operator.conf", "credentials", "user.creds"),
    ] {
        let core = Launch::core(&["-c", &made(core).display().to_string()]).program(&program);
        let mut nats = core.start();
        assert_eq!(refused(&over(&core)), "STREAM: Failed to start: nats: Authorization Violation");
        let launch = over(&core).config(&format!("streaming {{ {key}: login }}"));
        let login = launch.folder().join("login");
        std::fs::copy(made(file), &login).unwrap();
        let server = launch.start();
        // So are our own commands.
        let file = made(file).display().to_string();
        let (url, option) = (url(&core), if key == "credentials" { "--creds" } else { "--nkey" });
        let variable = if key == "credentials" { "NATS_CREDS" } else { "NATS_NKEY" };
        command(&["pub", "-s", &url, option, &file, "foo", "given"], &[]).unwrap();
        command(&["pub", "foo", "found"], &[("NATS_URL", &url), (variable, &file)]).unwrap();
        let error = command(&["pub", "-s", &url, "foo", "none"], &[]).unwrap_err();
        assert!(error.contains("Authorization Violation"), "{error}");
        std::fs::write(&login, "nonsense").unwrap();
        let mark = server.log.len();
        server.signal(Signal::SIGHUP);
        server.log.wait_after(mark, "Reload: ");
        assert!(!server.log.text().contains("Reloaded the credentials"));
        nats.kill();
        server.log.wait_after(mark, "has been disconnected: ");
        let _nats = core.start();
        server.log.wait_after(mark, "reconnected to NATS Server at ");
    }
}

/// A root, and a certificate of its for this machine that is good on both sides.
fn certificates(folder: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, text) in
        [("ca.pem", issuer.pem()), ("own.pem", certificate.pem()), ("own.key", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// Goal: TLS is used where the server asks for it, and both sides are who they say; what is wrong
/// with a certificate is told in the reference's words.
#[test]
fn tls_where_the_server_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (ca, own, key) = (path("ca.pem"), path("own.pem"), path("own.key"));
    let asks = ["-tls", "-tlscert", &own, "-tlskey", &key, "-tlsverify", "-tlscacert", &ca];
    for core in cores(&asks) {
        let _core = core.start();
        let keys = |more: &str| {
            let own = format!("client_cert: \"{own}\", client_key: \"{key}\"");
            format!("streaming {{ tls {{ client_ca: \"{ca}\", {own} {more} }} }}")
        };
        let by_name = format!("tls://localhost:{}", core.port);
        let server = Launch::new(&["-ns", &by_name]).config(&keys("")).start();
        let log = server.log.text();
        assert!(!log.contains("[ERR]"), "{log}");
        commands_speak_tls(&by_name, (&ca, &own, &key));
        drop(server);
        let other = keys(", server_name: another");
        let line = refused(&over(&core).config(&other));
        let why = "Failed to start: tls: failed to verify certificate: x509: certificate is valid";
        assert!(line.contains(why), "{line}");
        let none = format!("streaming {{ tls {{ client_ca: \"{ca}\" }} }}");
        let line = refused(&over(&core).config(&none));
        assert!(line.starts_with("STREAM: Failed to start: remote error: tls: "), "{line}");
        let line = refused(&over(&core));
        assert!(line.contains("x509: certificate signed by unknown authority"), "{line}");
    }
}

/// Goal: our own commands speak TLS by options and by variables, however much there is to say, and
/// trust nobody else.
fn commands_speak_tls(url: &str, (ca, own, key): (&str, &str, &str)) {
    let tls = ["-s", url, "--tlsca", ca, "--tlscert", own, "--tlskey", key];
    let with = |words: &[&str]| command(&[words, &tls[..]].concat(), &[]);
    let long = "x".repeat(20_000);
    with(&["pub", "-n", "500", "--async", "tls", &long]).unwrap();
    let said = with(&["sub", "--all", "-n", "500", "tls"]).unwrap();
    assert_eq!(said.matches(&long).count(), 500);
    let found = [("NATS_URL", url), ("NATS_CA", ca), ("NATS_CERT", own), ("NATS_KEY", key)];
    command(&["pub", "tls", "by variables"], &found).unwrap();
    let error = command(&["pub", "tls", "x"], &found[..2]).unwrap_err();
    assert!(error.contains("stanby pub: "), "{error}");
    let others = tempfile::tempdir().unwrap();
    certificates(others.path());
    let other = others.path().join("ca.pem").display().to_string();
    let error = command(&["pub", "-s", url, "--tlsca", &other, "tls", "x"], &[]).unwrap_err();
    assert!(error.contains("TLS with the server failed"), "{error}");
}

/// Goal: a user with the permissions that the operator's guide names can run the server.
#[test]
fn the_permissions_of_the_guide_are_enough() {
    let rights = "{ publish: [\"_STAN.>\", \"_INBOX.>\"], subscribe: [\"_STAN.>\", \"_INBOX.>\"] }";
    let users = format!(
        "[ {{ user: s, password: p, permissions: {rights} }}, {{ user: c, password: p }} ]"
    );
    for core in cores(&[]) {
        let core = core.config(&format!("authorization {{ users: {users} }}\n"));
        let _core = core.start();
        let ns = format!("nats://s:p@127.0.0.1:{}", core.port);
        let server = Launch::new(&["-ns", &ns]).start();
        let url = format!("nats://c:p@127.0.0.1:{}", core.port);
        let client = Client::connect(Options::new(&[&url], stan::CLUSTER, "me")).unwrap();
        client.publish("foo", "x").unwrap();
        client.close().unwrap();
        let log = server.log.text();
        assert!(!log.contains("Permissions Violation"), "{log}");
    }
}

/// Goal: a second server of the same cluster ID is refused at its start, be it that both begin at
/// once; one with another is not.
#[test]
fn of_two_servers_of_one_cluster_id_one_is_refused() {
    for core in cores(&[]) {
        let _core = core.start();
        let first = over(&core).start();
        let line = refused(&over(&core));
        let why = "discovered another streaming server with cluster ID \"test-cluster\"";
        assert_eq!(line, format!("STREAM: Failed to start: {why}"));
        drop(over(&core).arg("-cid").arg("other").start());
        drop(first);
        let mut both = [over(&core).spawn(), over(&core).spawn()];
        let begun = wait_for("one of both stays", || {
            let ready = both.iter().filter(|it| it.log.text().contains(server::READY)).count();
            let ended = both.iter_mut().filter_map(|it| (!it.is_running()).then_some(())).count();
            (ready + ended == 2).then_some(ready)
        });
        assert_eq!(begun, 1, "{}\n{}", both[0].log.text(), both[1].log.text());
    }
}

/// Goal: when NATS is killed and started again nothing that was acknowledged is lost, the service
/// goes on, and neither the lease nor a client is lost for it.
#[test]
fn nothing_is_lost_when_nats_is_killed_and_restarted() {
    for core in cores(&[]) {
        for loops in [1, 2] {
            let mut nats = core.start();
            let mut server = over(&core).file_store(None).loops(loops).start();
            let mut publisher = Publisher::new(&core, "pub");
            for _ in 0..3 {
                publisher.publish_acked(200);
                let mark = server.log.len();
                nats.kill();
                server.log.wait_after(mark, "has been disconnected: ");
                nats = core.start();
                server.log.wait_after(mark, "reconnected to NATS Server at ");
                publisher.publish_acked(50);
            }
            assert!(server.is_running());
            let log = server.log.text();
            assert_eq!(log.matches(server::READY).count(), 1, "{log}");
            assert!(!log.contains("Timed out on heartbeats"), "{log}");
            check_kept(&core, &publisher);
        }
    }
}

/// Goal: a server that disappears for a while and is replaced by another one elsewhere is found
/// there, and what was delivered and not acknowledged comes again.
#[test]
fn another_nats_takes_the_place_of_one_that_is_gone() {
    for (first, second) in cores(&[]).into_iter().zip(cores(&[])) {
        let ns = format!("{},{}", url(&first), url(&second));
        let mut nats = first.start();
        let server = Launch::new(&["-ns", &ns]).file_store(None).start();
        let mut client = Stan::connect(first.port, "me");
        assert_eq!(client.fill("foo", 1..=10), Vec::<String>::new());
        let mut request = all("foo");
        (request.durable_name, request.ack_wait_in_secs) = ("d".into(), 1);
        let sub = client.subscribe(request.clone());
        assert_eq!(client.take(&sub, 10).len(), 10);
        client.ack(&sub, 1);
        client.flush();
        wait_for("the ack", || {
            let page = server.json("/streaming/channelsz?channel=foo&subs=1");
            (page["subscriptions"][0]["pending_count"] == 9).then_some(())
        });
        let mark = server.log.len();
        nats.kill();
        server.log.wait_after(mark, "unable to connect to an external NATS server: ");
        let _second = second.start();
        server.log.wait_after(mark, "reconnected to NATS Server at ");
        let mut again = Stan::bare(second.port, "");
        // The client itself comes by the other way: the server knows it, and its subscription.
        (again.id, again.conn_id) = (client.id.clone(), client.conn_id.clone());
        again.subjects = client.subjects.clone();
        let inbox = String::from_utf8_lossy(&sub.inbox).into_owned();
        again.conn.send(format!("SUB {inbox} 9\r\n"));
        let mut seen = BTreeSet::new();
        wait_for("redelivery of what was not acknowledged", || {
            let delivery = again.take(&sub, 1).remove(0);
            assert!(delivery.message.redelivered);
            seen.insert(delivery.message.sequence);
            (seen.len() == 9).then_some(())
        });
        assert_eq!(seen, (2..=10).collect());
    }
}

/// Goal: what was delivered before an outage is not delivered again at its end, and what is
/// published after it comes once, in order.
#[test]
fn an_outage_costs_no_redelivery() {
    let core = Launch::core(&[]);
    let mut nats = core.start();
    let server = over(&core).start();
    let listened = |nats: &Server| nats.json("/varz")["subscriptions"].as_u64().unwrap();
    let own = listened(&nats);
    let mut client = Stan::connect(core.port, "me");
    let mut request = ask("foo");
    (request.durable_name, request.ack_wait_in_secs) = ("d".into(), 30);
    let sub = client.subscribe(request);
    assert_eq!(client.fill("foo", 1..=5), Vec::<String>::new());
    assert_eq!(client.take(&sub, 5).len(), 5);
    let mark = server.log.len();
    nats.kill();
    server.log.wait_after(mark, "has been disconnected: ");
    let nats = core.start();
    server.log.wait_after(mark, "reconnected to NATS Server at ");
    // It says so first, and then what it listens to.
    wait_for("its subscriptions", || (own <= listened(&nats)).then_some(()));
    let mut again = Stan::bare(core.port, "");
    (again.id, again.conn_id) = (client.id.clone(), client.conn_id.clone());
    again.subjects = client.subjects.clone();
    let inbox = String::from_utf8_lossy(&sub.inbox).into_owned();
    again.conn.send(format!("SUB {inbox} 9\r\n"));
    again.flush();
    assert_eq!(again.fill("foo", 6..=20), Vec::<String>::new());
    let deliveries = again.take(&sub, 15);
    let expected: Vec<_> = (6..=20).map(|sequence| (sequence, 0)).collect();
    assert_eq!(deliveries.iter().map(stan::Delivery::brief).collect::<Vec<_>>(), expected);
}

fn pair(core: &Launch, launch: &Launch) -> [Server; 2] {
    let active = launch.clone().arg("-ft_group").arg("ft").start();
    let standby = over(core).file_store(Some(&launch.folder().join("store")));
    let standby = standby.arg("-ft_group").arg("ft").spawn();
    standby.log.wait("Starting in standby mode");
    [active, standby]
}

/// Goal: a pair over one external server loses nothing when the active is killed, and its clients
/// need no other address.
#[test]
fn a_pair_over_one_external_server_survives_a_kill() {
    for core in cores(&[]) {
        let _core = core.start();
        let launch = over(&core).file_store(None).loops(2);
        let [mut active, mut standby] = pair(&core, &launch);
        let mut publisher = Publisher::new(&core, "pub");
        for round in 0..3 {
            publisher.publish_acked(300);
            active.kill();
            standby.log.wait(server::READY);
            publisher.publish_acked(50);
            let next = over(&core).file_store(Some(&launch.folder().join("store")));
            let next = next.arg("-ft_group").arg("ft").loops(1 + round % 2).spawn();
            next.log.wait("Starting in standby mode");
            active = std::mem::replace(&mut standby, next);
        }
        check_kept(&core, &publisher);
    }
}

/// Goal: a pair keeps its roles while NATS is away: the lease is the store's, and nobody is lost.
#[test]
fn a_pair_keeps_its_roles_while_nats_is_away() {
    let core = Launch::core(&[]);
    let mut nats = core.start();
    let launch = over(&core).file_store(None);
    let [active, standby] = pair(&core, &launch);
    let mut publisher = Publisher::new(&core, "pub");
    publisher.publish_acked(100);
    let ready = "/streaming/healthz?ready=1";
    for server in [&active, &standby] {
        wait_for("both are ready", || (server.get(ready).status == 200).then_some(()));
    }
    nats.kill();
    for server in [&active, &standby] {
        server.log.wait("unable to connect to an external NATS server: ");
        let reply = wait_for("nobody is ready", || {
            Some(server.get(ready)).filter(|reply| reply.status == 503)
        });
        assert!(reply.body.contains("the external NATS server is away"), "{reply:?}");
    }
    let _nats = core.start();
    for server in [&active, &standby] {
        server.log.wait("reconnected to NATS Server at ");
        wait_for("both are ready again", || (server.get(ready).status == 200).then_some(()));
    }
    publisher.publish_acked(100);
    assert!(!standby.log.text().contains(server::READY));
    check_kept(&core, &publisher);
}

/// Goal: servers of one cluster ID with different channels are one for their clients, over one
/// external server too; who has a channel of another does not start.
#[test]
fn partitions_over_one_external_server() {
    let text = |name: &str| {
        format!(
            "streaming {{ partitioning: true, store_limits {{ channels {{ {name}: {{}} }} }} }}"
        )
    };
    for core in cores(&[]) {
        let _core = core.start();
        let _orders = over(&core).config(&text("orders")).start();
        let _news = over(&core).config(&text("news")).start();
        let line = refused(&over(&core).config(&text("orders")));
        assert!(
            line.contains("channel \"orders\" causes conflict with channels on server"),
            "{line}"
        );
        let options = Options::new(&[&url(&core)], stan::CLUSTER, "me");
        let client = Client::connect(options).unwrap();
        for channel in ["orders", "news"] {
            client.publish(channel, "x").unwrap();
            let (told, heard) = mpsc::channel();
            let start = StartAt::First;
            let options = SubscriptionOptions { start, ..SubscriptionOptions::default() };
            let handler = move |message: stanby::client::Message| {
                let _ = told.send(message.sequence);
            };
            let subscription = client.subscribe(channel, options, handler).unwrap();
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(1), "{channel}");
            subscription.unsubscribe().unwrap();
        }
        client.close().unwrap();
    }
}

/// Goal: what is too much for the store is answered with an error and never left unread: NATS
/// would take the server for a slow consumer.
#[test]
fn the_connection_is_read_however_much_comes() {
    let core = Launch::core(&[]);
    let _core = core.start();
    let server = over(&core).file_store(None).start();
    let mut client = Stan::connect(core.port, "me");
    let reply = client.own("acks");
    let message = client.message("foo", vec![b'x'; 512 * 1024]);
    let (mut stored, mut refused) = (0, 0);
    // A quick disk may take one burst.
    wait_for("a refusal", || {
        let count = 400;
        for _ in 0..count {
            client.publish_async(&message, &reply);
        }
        for _ in 0..count {
            let ack = client.next_on(&reply, PATIENCE).expect("an answer to each publish");
            let text = String::from_utf8_lossy(&ack.data).into_owned();
            match text.contains("too many publishes under way") {
                true => refused += 1,
                false => stored += 1,
            }
        }
        (refused > 0).then_some(())
    });
    println!("{stored} stored, {refused} refused");
    assert!(stored > 0);
    let log = server.log.text();
    assert!(!log.contains("has been disconnected"), "{log}");
    client.publish("foo", "after").unwrap();
}
