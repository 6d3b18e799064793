//! Routes between real servers: ours and the Go `nats-server`, in both directions.
//!
//! `STANBY_PEER` names another Go server than the system's `nats-server`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/nats.rs"]
mod nats;
#[path = "support/node.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile peers")]
mod node;

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stanby::base::time::WallTime;
use stanby::base::world;
use stanby::client::{Client, Options, StartAt, SubscriptionOptions};
use stanby::election::heartbeat::{Heartbeat, encode_heartbeat};
use tempfile::TempDir;

use nats::{Msg, Nats, arrive, settle, unique};
use node::{Kind, Node, PATIENCE, start};

/// Two servers with a route between them; the second solicits.
fn pair(first: Kind, second: Kind) -> (Node, Node) {
    let first = start(first).run();
    let second = start(second).to(&first).run();
    (first, second)
}

/// Runs a test with each of both sides as the one that solicits.
fn both_ways(test: impl Fn(&Node, &Node)) {
    for (first, second) in [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core)] {
        let (first, second) = pair(first, second);
        test(&first, &second);
        test(&second, &first);
    }
}

/// Both connected, and each seen by the other.
fn clients(from: &Node, to: &Node) -> (Nats, Nats) {
    let (mut from, mut to) = (Nats::connect(from), Nats::connect(to));
    settle(&mut from, &mut to);
    settle(&mut to, &mut from);
    (from, to)
}

#[test]
fn messages_cross_with_reply_headers_and_large_payloads() {
    both_ways(|from, to| {
        let (mut publisher, mut subscriber) = clients(from, to);
        let (plain, wild) = (subscriber.subscribe("foo.a", ""), subscriber.subscribe("*.b.>", ""));
        settle(&mut publisher, &mut subscriber);
        publisher.publish("foo.a", "", b"one");
        publisher.publish("foo.a", "back.to.me", b"");
        publisher.publish_with_header("x.b.c", b"NATS/1.0\r\nKey: value\r\n\r\n", b"two");
        publisher.publish("nobody", "", b"is not heard");
        let large: Vec<u8> =
            (0..1024 * 1024_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        publisher.publish("foo.a", "", &large);
        let one = subscriber.next(&plain);
        assert_eq!(
            (one.subject.as_str(), one.reply, &one.payload[..]),
            ("foo.a", None, &b"one"[..])
        );
        assert_eq!(subscriber.next(&plain).reply.as_deref(), Some("back.to.me"));
        let two = subscriber.next(&wild);
        assert_eq!(two.header, b"NATS/1.0\r\nKey: value\r\n\r\n");
        assert_eq!((two.subject.as_str(), &two.payload[..]), ("x.b.c", &b"two"[..]));
        assert!(subscriber.next(&plain).payload == large, "a large payload arrives whole");
        publisher.publish_with_header("foo.a", b"NATS/1.0\r\n\r\n", &large[..1024 * 1024 - 12]);
        assert_eq!(subscriber.next(&plain).payload.len(), 1024 * 1024 - 12);
        assert_eq!(publisher.errors, Vec::<String>::new());
    });
}

#[test]
fn every_message_crosses_once_and_in_order() {
    const COUNT: usize = 20_000;
    both_ways(|from, to| {
        let (mut publisher, mut subscriber) = clients(from, to);
        let subject = unique("stream.");
        let sid = subscriber.subscribe(&subject, "");
        settle(&mut publisher, &mut subscriber);
        for n in 0..COUNT {
            publisher.publish(&subject, "", n.to_string().as_bytes());
        }
        publisher.sync();
        for n in 0..COUNT {
            assert_eq!(subscriber.next(&sid).payload, n.to_string().as_bytes());
        }
        arrive(&mut publisher, &mut subscriber);
        assert_eq!(subscriber.take(&sid), Vec::<Msg>::new());
    });
}

/// Three members, two of them on one side: each message goes to one, and each gets its share.
#[test]
fn queue_groups_share_by_the_number_of_members_across_a_route() {
    const COUNT: usize = 900;
    both_ways(|near, far| {
        let (mut one, mut others) = clients(near, far);
        let subject = unique("work.");
        let near_sid = one.subscribe(&subject, "workers");
        let far_sids = [(); 2].map(|()| others.subscribe(&subject, "workers"));
        settle(&mut one, &mut others);
        settle(&mut others, &mut one);
        let mut publisher = Nats::connect(near);
        for _ in 0..COUNT {
            publisher.publish(&subject, "", b"job");
        }
        arrive(&mut publisher, &mut others);
        publisher.sync();
        one.sync();
        let counts = [
            one.take(&near_sid).len(),
            others.take(&far_sids[0]).len(),
            others.take(&far_sids[1]).len(),
        ];
        assert_eq!(counts.iter().sum::<usize>(), COUNT, "{counts:?}");
        // A third each; seven standard deviations of room.
        assert!(counts.iter().all(|count| (200..=400).contains(count)), "{counts:?}");
    });
}

#[test]
fn a_queue_member_that_leaves_gets_no_more() {
    both_ways(|near, far| {
        let (mut publisher, mut member) = clients(near, far);
        let mut stays = Nats::connect(far);
        let subject = unique("work.");
        let leaving = member.subscribe(&subject, "workers");
        let staying = stays.subscribe(&subject, "workers");
        settle(&mut publisher, &mut member);
        settle(&mut publisher, &mut stays);
        member.send(format!("UNSUB {leaving}\r\n"));
        member.sync();
        for _ in 0..50 {
            publisher.publish(&subject, "", b"job");
        }
        arrive(&mut publisher, &mut stays);
        assert_eq!(stays.take(&staying).len(), 50);
        drop(stays);
        assert_no_responders(&mut publisher, &subject);
    });
}

/// Asks until the answer is that nobody listens: word of it travels.
fn assert_no_responders(asker: &mut Nats, subject: &str) {
    let inbox = unique("_INBOX.");
    let sid = asker.subscribe(&inbox, "");
    let said_so = |nats: &Nats| {
        nats.inbox.iter().any(|msg| msg.sid == sid && msg.header.starts_with(b"NATS/1.0 503\r\n"))
    };
    for _ in 0..10_000 {
        asker.publish(subject, &inbox, b"");
        asker.sync();
        if said_so(asker) {
            return;
        }
    }
    panic!("{subject}: nobody says that nobody listens");
}

#[test]
fn requests_are_answered_across_a_route_or_by_nobody() {
    both_ways(|near, far| {
        let (mut asker, mut answerer) = clients(near, far);
        let subject = unique("service.");
        assert_no_responders(&mut asker, &subject);
        let sid = answerer.subscribe(&subject, "");
        settle(&mut asker, &mut answerer);
        for round in 0..20 {
            let inbox = unique("_INBOX.");
            let answers = asker.subscribe(&inbox, "");
            asker.publish(&subject, &inbox, b"question");
            let question = answerer.next(&sid);
            let payload = format!("answer {round}");
            answerer.publish(&question.reply.unwrap(), "", payload.as_bytes());
            assert_eq!(asker.next(&answers).payload, payload.as_bytes());
        }
        answerer.send(format!("UNSUB {sid}\r\n"));
        assert_no_responders(&mut asker, &subject);
    });
}

/// The URLs that a new client is told.
fn urls_told_by(node: &Node) -> Vec<u16> {
    let info = Nats::open(node.client_port).infos.pop().unwrap();
    urls_in(&info)
}

fn urls_in(info: &str) -> Vec<u16> {
    let Some((_, list)) = info.split_once("\"connect_urls\":[") else { return Vec::new() };
    let list = list.split(']').next().unwrap();
    let port = |url: &str| url.trim_matches('"').rsplit(':').next().unwrap().parse().unwrap();
    let mut ports: Vec<u16> = list.split(',').map(port).collect();
    ports.sort_unstable();
    ports
}

/// Every two of three servers find each other through the third, and tell their clients of all.
#[test]
fn three_servers_find_each_other_and_tell_their_clients() {
    for kinds in [
        [Kind::Go, Kind::Core, Kind::Go],
        [Kind::Core, Kind::Go, Kind::Go],
        [Kind::Core, Kind::Go, Kind::Core],
        [Kind::Go, Kind::Core, Kind::Core],
    ] {
        let hub = start(kinds[0]).named("mesh").run();
        let mut early = Nats::connect(&hub);
        let left = start(kinds[1]).named("mesh").to(&hub).run();
        let right = start(kinds[2]).named("mesh").to(&hub).run();
        let nodes = [&hub, &left, &right];
        let mut ports = nodes.map(|node| node.client_port).to_vec();
        ports.sort_unstable();
        early.wait("INFO with all servers", |nats| urls_in(nats.infos.last().unwrap()) == ports);
        let (mut on_left, mut on_right) = clients(&left, &right);
        for node in nodes {
            wait_urls(node, &ports);
        }
        let sid = on_right.subscribe("once", "");
        settle(&mut on_left, &mut on_right);
        on_left.publish("once", "", b"one hop");
        arrive(&mut on_left, &mut on_right);
        assert_eq!(on_right.take(&sid).len(), 1, "{kinds:?}");
        drop(left);
        let mut ports = vec![hub.client_port, right.client_port];
        ports.sort_unstable();
        early.wait("INFO without the one that is gone", |nats| {
            urls_in(nats.infos.last().unwrap()) == ports
        });
    }
}

/// Waits until clients are told of these ports, new ones as well as those that are there.
fn wait_urls(node: &Node, ports: &[u16]) {
    let mut client = Nats::connect(node);
    client.wait("INFO with all servers", |nats| urls_in(nats.infos.last().unwrap()) == ports);
    // A route may still give way to another one between the same two servers.
    let give_up_at = world::instant() + PATIENCE;
    while urls_told_by(node) != ports {
        assert!(world::instant() < give_up_at, "{ports:?} are not told to who is new");
    }
}

#[test]
fn a_peer_that_does_not_advertise_is_not_told_to_clients() {
    for (hidden, open) in [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core)] {
        let hidden = start(hidden).with(&["--no_advertise"]).run();
        let open = start(open).to(&hidden).run();
        let (mut one, mut other) = clients(&hidden, &open);
        assert_eq!(urls_told_by(&hidden), Vec::<u16>::new());
        assert_eq!(urls_told_by(&open), Vec::<u16>::new());
        for client in [&mut one, &mut other] {
            client.sync();
            assert!(client.infos.iter().all(|info| urls_in(info).is_empty()));
        }
    }
}

#[test]
fn a_peer_has_to_know_the_clusters_password() {
    for (first, second) in [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core)] {
        // A Go server whose own name is not given leaves for its name before it reads the refusal.
        let start = |kind| start(kind).named("guarded");
        let guarded = start(first).user("ruser:t0pS3cret").run();
        let stranger = start(second).user("ruser:wrong").to(&guarded).run();
        guarded.wait_log("authentication error");
        stranger.wait_log("Authorization Violation");
        // The stranger may think it has one until it reads the refusal.
        assert_eq!(guarded.routes(), 0);
        let nobody = start(second).to(&guarded).run();
        nobody.wait_log("Authorization Violation");
        let friend = start(second).user("ruser:t0pS3cret").to(&guarded).run();
        clients(&guarded, &friend);
        assert_eq!((guarded.routes(), friend.routes()), (1, 1));
    }
}

#[test]
fn servers_agree_on_the_name_of_their_cluster_or_part() {
    for (first, second) in [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core)] {
        let named = start(first).named("east").run();
        let nameless = start(second).to(&named).run();
        nameless.wait_log("Cluster name updated to east");
        clients(&named, &nameless);
        if first == Kind::Core {
            let conflicts = named.logged("Cluster Name Conflict");
            assert!(conflicts.is_empty(), "no attempt is lost: {conflicts:?}");
        }
        let other = start(second).named("west").to(&named).run();
        named.wait_log("cluster name \"west\" does not match \"east\"");
        assert_eq!(other.routes(), 0);
        let asked = start(first).run();
        let asker = start(second).named("south").to(&asked).run();
        asked.wait_log("Cluster name updated to south");
        clients(&asked, &asker);
        let (one, two) = pair(first, second);
        clients(&one, &two);
        for server in [&one, &two] {
            // What is logged before it is there too then.
            server.wait_log("Registering remote route");
        }
        let updates = one.logged("Cluster name updated").len();
        assert_eq!(updates + two.logged("Cluster name updated").len(), 1);
    }
}

/// Both dial; one of both connections stays, and it comes back when a server restarts.
#[test]
fn servers_that_dial_each_other_keep_one_route() {
    for (first, second) in
        [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core), (Kind::Core, Kind::Core)]
    {
        let mut seen = start(second).named("twins").run();
        seen.kill();
        let one = start(first).named("twins").dialling(seen.route_port).run();
        for _ in 0..3 {
            let mut two = start(second).named("twins").at(&seen).to(&one).run();
            let (mut publisher, mut subscriber) = clients(&one, &two);
            let sid = subscriber.subscribe("once", "");
            settle(&mut publisher, &mut subscriber);
            for _ in 0..100 {
                publisher.publish("once", "", b"");
            }
            arrive(&mut publisher, &mut subscriber);
            assert_eq!(subscriber.take(&sid).len(), 100);
            assert_eq!((one.routes(), two.routes()), (1, 1));
            two.kill();
        }
    }
}

#[test]
fn a_configured_route_is_dialled_until_its_peer_is_there_and_again_after_a_restart() {
    for (first, second) in [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core)] {
        let mut late = start(second).named("late").run();
        late.kill();
        let dialler = start(first).named("late").dialling(late.route_port).run();
        dialler.wait_log("Error trying to connect to route (attempt 1)");
        for _ in 0..2 {
            late = start(second).named("late").at(&late).run();
            clients(&dialler, &late);
            clients(&late, &dialler);
            late.kill();
        }
    }
}

/// A root, and one certificate that it signed, good on both sides of a connection.
fn certificate(dir: &Path) -> String {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, cert) = (file("ca.pem", &issuer.pem()), file("cert.pem", &made.pem()));
    let key = file("key.pem", &key.serialize_pem());
    let tls = format!("cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, timeout: 5");
    file("cluster.conf", &format!("cluster {{ tls {{ {tls} }} }}\n"))
}

#[test]
fn routes_are_encrypted_where_the_cluster_says_so() {
    let (dir, foreign) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (config, other_config) = (certificate(dir.path()), certificate(foreign.path()));
    for (first, second) in
        [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core), (Kind::Core, Kind::Core)]
    {
        let one = start(first).with(&["-c", &config]).run();
        let two = start(second).with(&["-c", &config]).to(&one).run();
        let (mut publisher, mut subscriber) = clients(&one, &two);
        let sid = subscriber.subscribe("large", "");
        settle(&mut publisher, &mut subscriber);
        publisher.publish("large", "", &vec![b'x'; 500_000]);
        assert_eq!(subscriber.next(&sid).payload.len(), 500_000);
        let stranger = start(second).with(&["-c", &other_config]).to(&one).run();
        one.wait_log("TLS route handshake error");
        stranger.wait_log("TLS route handshake error");
        assert_eq!(stranger.routes(), 0);
    }
}

fn client_of(nodes: &[&Node], name: &str) -> Client {
    let servers: Vec<String> =
        nodes.iter().map(|node| format!("127.0.0.1:{}", node.client_port)).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    Client::connect(Options::new(&servers, "test-cluster", name)).unwrap()
}

/// What a channel has, from its first message on.
fn read_channel(client: &Client, channel: &str, count: usize) -> Vec<u64> {
    let (tell, told) = mpsc::channel();
    let options = SubscriptionOptions { start: StartAt::First, ..Default::default() };
    let subscription = client
        .subscribe(channel, options, move |message| {
            let _ = tell.send(message.sequence);
        })
        .unwrap();
    let sequences = (0..count).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    subscription.close().unwrap();
    sequences
}

#[test]
fn streaming_clients_of_a_go_server_reach_the_engine_through_the_route() {
    for solicits in [Kind::Go, Kind::Streaming] {
        let (go, streaming);
        if solicits == Kind::Go {
            streaming = start(Kind::Streaming).run();
            go = start(Kind::Go).to(&streaming).run();
        } else {
            go = start(Kind::Go).run();
            streaming = start(Kind::Streaming).to(&go).run();
        }
        clients(&streaming, &go);
        let client = client_of(&[&go], "far");
        for n in 0..200_u32 {
            client.publish("orders", n.to_string().into_bytes()).unwrap();
        }
        assert_eq!(read_channel(&client, "orders", 200), (1..=200).collect::<Vec<u64>>());
        let near = client_of(&[&streaming], "near");
        assert_eq!(read_channel(&near, "orders", 200).len(), 200);
        near.close().unwrap();
        client.close().unwrap();
    }
}

#[test]
fn a_client_of_the_standby_reaches_the_active_and_keeps_its_session_when_that_dies() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().display().to_string();
    let arguments = ["-store", "file", "-dir", &folder, "-ft_group", "ft"];
    let mut active = start(Kind::Streaming).with(&arguments).run();
    active.wait_log("Streaming Server is ready");
    let standby = start(Kind::Streaming).with(&arguments).to(&active).run();
    clients(&active, &standby);
    let client = client_of(&[&standby], "me");
    for _ in 0..100 {
        client.publish("orders", b"before".to_vec()).unwrap();
    }
    active.kill();
    standby.wait_log("Streaming Server is ready");
    for _ in 0..100 {
        client.publish("orders", b"after".to_vec()).unwrap();
    }
    assert_eq!(read_channel(&client, "orders", 200), (1..=200).collect::<Vec<u64>>());
    client.close().unwrap();
}

fn ready(node: &Node) -> String {
    node.page("/streaming/healthz?ready=1")
}

fn wait_ready(node: &Node, is_ready: bool) {
    let give_up_at = world::instant() + PATIENCE;
    while ready(node).starts_with("HTTP/1.0 200") != is_ready {
        assert!(world::instant() < give_up_at, "{}", ready(node));
    }
}

/// Goal: where a directory is not shared in truth, both members say so, and neither of them is
/// ready; what anybody can send changes nothing.
#[test]
fn two_actives_with_two_stores_are_both_not_ready() {
    let folders = [(); 2].map(|()| TempDir::new().unwrap());
    let [one, other] = [0, 1].map(|index: usize| {
        let folder = folders[index].path().display().to_string();
        start(Kind::Streaming).with(&["-store", "file", "-dir", &folder, "-ft_group", "ft"])
    });
    let first = one.run();
    first.wait_log("Streaming Server is ready");
    let heartbeat = Heartbeat { server_id: "forged".to_owned().into(), active_since: WallTime(1) };
    let mut forger = Nats::connect(&first);
    while first.logged("is another server active").is_empty() {
        forger.publish("_STAN.ft.test-cluster.ft", "", &encode_heartbeat(&heartbeat));
        forger.sync();
    }
    assert!(ready(&first).starts_with("HTTP/1.0 200"), "{}", ready(&first));

    let mut second = other.to(&first).run();
    for node in [&first, &second] {
        wait_ready(node, false);
        let page = ready(node);
        assert!(page.contains("look whether their stores are one"), "{page}");
        assert!(node.page("/streaming/serverz").contains("is active in this group too"));
    }
    second.kill();
    wait_ready(&first, true);
}

/// The core server's SIGUSR2: clients are told where else to go, then they are sent away.
#[test]
fn a_lame_duck_sends_its_clients_to_its_peers_and_stops() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("duck.conf");
    fs::write(&config, "lame_duck_duration: \"30s\", lame_duck_grace_period: \"1s\"\n").unwrap();
    let config = config.display().to_string();
    for (first, second) in [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core)] {
        let mut duck = start(first).with(&["-c", &config]).run();
        let peer = start(second).to(&duck).run();
        let mut stays = Nats::connect(&peer);
        for server in [&peer, &duck] {
            wait_urls(server, &sorted([duck.client_port, peer.client_port]));
        }
        let mut leaves: Vec<Nats> = (0..3).map(|_| Nats::connect(&duck)).collect();
        duck.signal("USR2");
        duck.wait_log("Entering lame duck mode, stop accepting new clients");
        for client in &mut leaves {
            client
                .wait("INFO with ldm", |nats| nats.infos.last().unwrap().contains("\"ldm\":true"));
            assert_eq!(urls_in(client.infos.last().unwrap()), vec![peer.client_port]);
        }
        stays.wait("INFO without the duck", |nats| {
            urls_in(nats.infos.last().unwrap()) == [peer.client_port]
        });
        assert!(!stays.infos.last().unwrap().contains("\"ldm\":true"));
        let page = duck.page("/healthz");
        assert!(page.contains("failed to be ready for connections after 1ms: server"), "{page}");
        duck.signal("TERM");
        duck.wait_log("Closing existing clients");
        for client in &mut leaves {
            client.wait_end();
        }
        assert_eq!(duck.wait_exit(), Some(0));
    }
}

#[test]
fn routez_shows_what_routes_may_say_and_hear() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("rights.conf");
    let rights = "cluster { permissions { import: [\"a.>\"], export: { deny: \"x\" } } }\n";
    fs::write(&config, rights).unwrap();
    let config = config.display().to_string();
    for (first, second) in [(Kind::Core, Kind::Go), (Kind::Go, Kind::Core)] {
        let node = start(first).with(&["-c", &config]).run();
        let peer = start(second).to(&node).run();
        for server in [&node, &peer] {
            wait_urls(server, &sorted([node.client_port, peer.client_port]));
        }
        let (own, other) = (routez(&node), routez(&peer));
        for shown in [&own, &other["routes"][0]] {
            assert_eq!(shown["import"], serde_json::json!({ "allow": ["a.>"] }), "{shown}");
            assert_eq!(shown["export"], serde_json::json!({ "deny": ["x"] }), "{shown}");
        }
        assert!(own["routes"][0].get("import").is_none(), "{own}");
        assert!(other.get("import").is_none() && other.get("export").is_none(), "{other}");
    }
}

/// Goal: how long a route's answers take is measured without being asked for, and shown.
#[test]
fn routez_shows_a_round_trip_time() {
    both_ways(|node, _| {
        let deadline = world::instant() + PATIENCE;
        loop {
            // It is "0s" until a first PING was answered, and null while there is no route yet.
            let shown = routez(node)["routes"][0]["rtt"].as_str().unwrap_or_default().to_owned();
            if shown != "0s" && shown.ends_with('s') {
                break;
            }
            assert!(world::instant() < deadline, "{shown}");
        }
    });
}

fn routez(node: &Node) -> serde_json::Value {
    let page = node.page("/routez");
    let (_, body) = page.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn sorted<const N: usize>(mut ports: [u16; N]) -> Vec<u16> {
    ports.sort_unstable();
    ports.to_vec()
}

#[test]
fn operations_are_traced_as_the_go_server_does() {
    let mut traces = Vec::new();
    for kind in [Kind::Core, Kind::Go] {
        let node = start(kind).with(&["-V", "--max_traced_msg_len", "4"]).run();
        let mut client = Nats::open(node.client_port);
        client.send(
            "CONNECT {\"verbose\":true,\"user\":\"u\",\"pass\":\"s3cret\"}\r\nSUB foo  q 1\r\n\
             UNSUB 1 2\r\nPUB foo bar 5\r\nhello\r\nPUB foo 2\r\n\"\n\r\nSUB a..b 2\r\nPING\r\n",
        );
        node.wait_log("->> [PONG]");
        // Newer Go servers name the user in between.
        let shown = |line: &String| {
            let marks = ["<<- ", "->> ", "<-> "];
            let at = marks.iter().filter_map(|mark| line.find(mark)).min().unwrap();
            line[at..].to_owned()
        };
        let lines = node.logged("[TRC] 127.0.0.1:");
        // They also show payloads that go out.
        let is_old = |line: &String| !line.starts_with("->> MSG_PAYLOAD");
        traces.push(lines.iter().map(shown).filter(is_old).collect::<Vec<String>>());
    }
    assert_eq!(traces[0], traces[1]);
}

/// What is there already.
const INSTANT: Duration = Duration::from_millis(1);

/// A hash that takes long to check must not hold up anybody else.
#[test]
fn a_costly_password_check_holds_up_nobody_else() {
    const TRIES: usize = 5;
    let config = tempfile::NamedTempFile::new().unwrap();
    let hash = bcrypt::hash("s3cret", 12).unwrap();
    let users = format!("{{user: slow, password: {hash:?}}}, {{user: quick, password: q}}");
    fs::write(config.path(), format!("authorization {{ users: [ {users} ], timeout: 60 }}\n"))
        .unwrap();
    let node = start(Kind::Core).with(&["-c", &config.path().display().to_string()]).run();
    let connect = |user: &str, password: &str| {
        let mut client = Nats::open(node.client_port);
        client.send(format!(
            "CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{password}\"}}\r\n"
        ));
        client
    };
    let is_waiting = |nats: &Nats| nats.errors.is_empty();
    // Who is behind the others never is before them; who is not may be seen late here, not always.
    let is_before = (0..TRIES).any(|_| {
        let mut slow: Vec<Nats> = (0..4).map(|_| connect("slow", "s3cret")).collect();
        let mut wrong = connect("slow", "wrong");
        let mut quick = connect("quick", "q");
        quick.sync();
        let is_before = is_waiting(&wrong) && !wrong.wait_for(INSTANT, |nats| !is_waiting(nats));
        slow.iter_mut().for_each(Nats::sync);
        wrong.wait_end();
        assert_eq!(wrong.errors, ["-ERR 'Authorization Violation'"]);
        is_before
    });
    assert!(is_before, "it was held up each time");
}
