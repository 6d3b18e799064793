//! Monitoring pages of a live server: names and order of fields as recorded, values, health.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use stanby::proto::pb;

use crate::LOOPS;
use crate::server::{Launch, Server, binary, free_port, wait_for};
use crate::stan::{Stan, ask};
use crate::wire::Conn;

/// The names of a document's fields in the order in which they are written, with their depth.
fn names(json: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for line in json.lines() {
        let depth = line.len() - line.trim_start().len();
        let name = line.trim_start().strip_prefix('"').and_then(|rest| rest.split_once("\": "));
        if let Some((name, _)) = name {
            found.push((depth, name.to_owned()));
        }
    }
    found
}

fn recorded(file: &str) -> String {
    let path = format!("{}/tests/data/http/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// A server on which something has happened, and its clients.
fn busy(loops: u16) -> (Server, Vec<Stan>) {
    let server = Launch::new(&[]).loops(loops).start();
    let port = server.launch.port;
    let (mut one, mut two) = (Stan::connect(port, "one"), Stan::connect(port, "two"));
    let plain = one.subscribe(ask("jobs"));
    let named = pb::SubscriptionRequest { durable_name: "d".into(), ..ask("jobs") };
    let durable = two.subscribe(named.clone());
    two.subscribe(pb::SubscriptionRequest { q_group: "q".into(), ..named });
    assert!(one.fill("jobs", 1..=10).is_empty());
    assert!(one.fill("other", 1..=3).is_empty());
    one.take(&plain, 10);
    two.take(&durable, 10);
    (1..=4).for_each(|sequence| one.ack(&plain, sequence));
    one.flush();
    (server, vec![one, two])
}

#[test]
fn fields_are_named_and_ordered_as_recorded() {
    let (server, _clients) = busy(2);
    for (page, file) in [
        ("/streaming/serverz", "streaming_serverz"),
        ("/streaming/storez", "streaming_storez"),
        ("/streaming/channelsz?channel=jobs", "streaming_channelsz__channel-jobs"),
        ("/streaming/clientsz?client=one", "streaming_clientsz__client-c-nd"),
        ("/subsz", "subsz"),
    ] {
        let reply = server.get(page);
        assert_eq!(reply.status, 200, "{page}");
        assert_eq!(names(&reply.body), names(&recorded(file)), "{page}: {}", reply.body);
    }
    let found = names(&server.get("/varz").body);
    let wanted = names(&recorded("varz"));
    // The two differ in the pages that were asked for so far; and ours names no commit of Go code.
    let common = |all: Vec<(usize, String)>| -> Vec<(usize, String)> {
        let is_common = |name: &str| !name.starts_with('/') && name != "git_commit";
        all.into_iter().filter(|(_, name)| is_common(name)).collect()
    };
    assert_eq!(common(found), common(wanted), "/varz");
    let routes = names(&server.get("/routez").body);
    assert_eq!(routes, names(&recorded("routez")), "/routez");
}

#[test]
fn pages_answer_as_the_reference_where_something_is_unknown() {
    let (server, _clients) = busy(1);
    for (page, status, body) in [
        ("/nosuch", 404, "404 page not found\n"),
        ("/streaming/clientsz?client=nope", 404, "Client nope not found\n"),
        ("/streaming/channelsz?channel=nope", 404, "Channel nope not found\n"),
        ("/streaming/isFTActive", 204, ""),
    ] {
        let reply = server.get(page);
        assert_eq!((reply.status, reply.body.as_str()), (status, body), "{page}");
    }
    let head = server.get("/streaming/serverz").head;
    assert!(head.contains("Content-Type: application/json"), "{head}");
    assert!(head.contains("Access-Control-Allow-Origin: *"), "{head}");
    let callback = server.get("/streaming/serverz?callback=fn");
    assert!(callback.body.starts_with("fn({") && callback.body.ends_with("})"), "{callback:?}");
    assert_eq!(server.get("/healthz").status, 200);
    // A harness takes the server for ready when its own interests are counted.
    assert!(7 <= server.json("/subsz")["num_subscriptions"].as_u64().unwrap());
}

#[test]
fn values_say_what_happened() {
    for loops in LOOPS {
        let (server, _clients) = busy(loops);
        let page = wait_for("the acks on the page", || {
            let page = server.json("/streaming/channelsz?channel=jobs&subs=1");
            let pending = page["subscriptions"].as_array().unwrap().iter();
            let mut pending = pending.filter_map(|sub| sub["pending_count"].as_u64());
            pending.any(|count| count == 6).then_some(page)
        });
        let found = (&page["name"], &page["msgs"], &page["first_seq"], &page["last_seq"]);
        assert_eq!(found, (&"jobs".into(), &10.into(), &1.into(), &10.into()), "{page}");
        assert_eq!(page["subscriptions"].as_array().unwrap().len(), 3, "{page}");
        let serverz = server.json("/streaming/serverz");
        for (key, value) in [("clients", 2), ("subscriptions", 3), ("channels", 2)] {
            assert_eq!(serverz[key], value, "{key} with {loops} loops: {serverz}");
        }
        assert_eq!((&serverz["total_msgs"], &serverz["in_msgs"]), (&13.into(), &13.into()));
        assert_eq!(
            (&serverz["state"], &serverz["version"]),
            (&"STANDALONE".into(), &"0.25.6".into())
        );
        let list = server.json("/streaming/channelsz");
        assert_eq!(list["names"], json!(["jobs", "other"]));
        let clients = server.json("/streaming/clientsz?limit=1&offset=1");
        assert_eq!((&clients["count"], &clients["total"]), (&1.into(), &2.into()), "{clients}");
        let varz = server.json("/varz");
        assert!(varz["in_msgs"].as_u64() > Some(20) && varz["mem"].as_u64() > Some(0), "{varz}");
        let connz = server.json("/connz?subs=1");
        let connections = connz["connections"].as_array().unwrap();
        assert!(2 <= connections.len() && connections.iter().all(|c| c["cid"].is_u64()), "{connz}");
    }
}

/// A time zone file (RFC 8536) of a place that is always 5 h 30 min ahead.
fn zone_file() -> Vec<u8> {
    let header = |types: u8, letters: u8| {
        let mut header = b"TZif2".to_vec();
        header.resize(15 + 5, 0);
        for count in [0, 0, 0, 0, types, letters] {
            header.extend([0, 0, 0, count]);
        }
        header
    };
    let mut file = header(0, 0);
    file.extend(header(1, 4));
    file.extend(19_800_i32.to_be_bytes());
    file.extend([0, 0]);
    file.extend(b"IST\0\nIST-5:30\n");
    file
}

#[test]
fn streaming_pages_show_local_time_and_core_pages_utc() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zone");
    std::fs::write(&file, zone_file()).unwrap();
    let zone = format!("TZ=:{}", file.display());
    let server = Launch::new(&[]).through(&["env", &zone]).start();
    for page in ["serverz", "storez", "clientsz", "channelsz"] {
        let page = server.json(&format!("/streaming/{page}"));
        let now = page["now"].as_str().unwrap();
        assert!(now.ends_with("+05:30"), "{page}");
    }
    let varz = server.json("/varz");
    assert!(varz["now"].as_str().unwrap().ends_with('Z'), "{varz}");
}

#[test]
fn pages_about_what_is_not_there_are_empty() {
    let (server, clients) = busy(1);
    for (page, mut wanted) in [
        ("gatewayz", json!({ "outbound_gateways": {}, "inbound_gateways": {} })),
        ("leafz", json!({ "leafnodes": 0, "leafs": null })),
    ] {
        let found = server.json(&format!("/{page}"));
        wanted["server_id"] = server.json("/varz")["server_id"].clone();
        wanted["now"] = found["now"].clone();
        assert_eq!(found, wanted, "{page}");
    }
    let jsz = server.json("/jsz?accounts=1");
    assert_eq!((&jsz["disabled"], &jsz["api"]["total"]), (&true.into(), &0.into()), "{jsz}");
    let account = &server.json("/accstatz")["account_statz"][0];
    assert_eq!((&account["acc"], &account["conns"]), (&"$G".into(), &clients.len().into()));
    assert!(account["received"]["msgs"].as_u64() >= Some(13), "{account}");
    assert_eq!(server.get("/leafz?subs=x").status, 400);
}

#[test]
fn a_cluster_that_has_only_a_name_is_shown() {
    for (config, cluster) in [("", "{}"), ("cluster { name: far }\n", r#"{"name":"far"}"#)] {
        let server = Launch::core(&[]).config(config).start();
        assert_eq!(server.json("/varz")["cluster"].to_string(), cluster);
    }
}

#[test]
fn the_system_account_is_shown_unless_it_is_switched_off() {
    for (config, account) in [("", "$SYS"), ("no_sys_acc: true\n", "")] {
        let server = Launch::new(&[]).config(config).start();
        let varz = server.json("/varz");
        assert_eq!(varz["system_account"].as_str().unwrap_or_default(), account, "{varz}");
        let page = server.json("/accstatz?unused=1");
        let names = page["account_statz"].as_array().unwrap().iter().map(|found| &found["acc"]);
        let expected = ["$G", account];
        let expected = expected.iter().filter(|name| !name.is_empty());
        assert!(names.eq(expected), "{page}");
    }
}

#[test]
fn filters_that_match_nothing_show_nothing() {
    let (server, _clients) = busy(1);
    let connz = server.json("/connz?mqtt_client=x");
    assert_eq!((&connz["num_connections"], &connz["connections"]), (&0.into(), &json!([])));
    let all = server.json("/connz");
    assert_eq!((&connz["total"], &connz["server_id"]), (&all["total"], &all["server_id"]));
    assert_ne!(connz["total"], 0, "{connz}");
    assert_eq!(server.json("/subsz?acc=other")["num_subscriptions"], 0);
    assert!(server.json("/subsz?acc=$G")["num_subscriptions"].as_u64() > Some(0));
}

#[test]
fn varz_shows_tags_and_the_address_that_clients_are_told() {
    let config = "server_tags: [\"Rack:1\", b]\nclient_advertise: \"elsewhere:77\"\n";
    let server = Launch::new(&[]).config(config).start();
    let varz = server.json("/varz");
    assert_eq!(varz["tags"], json!(["rack:1", "b"]), "{varz}");
    assert_eq!((&varz["host"], &varz["port"]), (&"elsewhere".into(), &77.into()), "{varz}");
    assert_eq!(varz["http_base_path"], "", "{varz}");
}

#[test]
fn a_durable_that_left_while_it_was_stalled_stays_stalled() {
    let launch = Launch::new(&[]).file_store(None);
    let mut server = launch.start();
    let mut stan = Stan::connect(server.launch.port, "me");
    let request =
        pb::SubscriptionRequest { durable_name: "d".into(), max_in_flight: 1, ..ask("foo") };
    let durable = stan.subscribe(request);
    assert!(stan.fill("foo", 1..=3).is_empty());
    stan.take(&durable, 1);
    let page = "/streaming/channelsz?channel=foo&subs=1";
    assert_eq!(server.json(page)["subscriptions"][0]["is_stalled"], true);
    stan.close().unwrap();
    let check = |server: &Server| {
        let left = &server.json(page)["subscriptions"][0];
        let found = (&left["is_offline"], &left["is_stalled"]);
        assert_eq!(found, (&true.into(), &true.into()), "{left}");
    };
    check(&server);
    server.stop(Signal::SIGTERM);
    check(&launch.start());
}

#[test]
fn storez_shows_the_limits() {
    let server = Launch::new(&["-mc", "7", "-mm", "5", "-ma", "2s"]).start();
    let storez = server.json("/streaming/storez");
    let limits = &storez["limits"];
    let found = (&limits["max_channels"], &limits["max_msgs"], &limits["max_age"]);
    assert_eq!(found, (&7.into(), &5.into(), &Value::from(2_000_000_000_u64)), "{storez}");
    assert_eq!(storez["type"], "MEMORY");
}

/// A pair on one directory with routes to each other.
pub fn pair(loops: u16) -> [Launch; 2] {
    let first = Launch::new(&["-ft_group", "pair"]).file_store(None).loops(loops);
    let store = first.folder().join("store");
    let second = Launch::new(&["-ft_group", "pair"]).file_store(Some(&store)).loops(loops);
    let ports = [free_port(), free_port()];
    let with_routes = |launch: Launch, own: u16, other: u16| {
        let listen = format!("nats://127.0.0.1:{own}");
        launch.arg("-cluster").arg(listen).arg("-routes").arg(format!("nats://127.0.0.1:{other}"))
    };
    [with_routes(first, ports[0], ports[1]), with_routes(second, ports[1], ports[0])]
}

fn health(server: &Server) -> [u16; 3] {
    ["live", "ready", "active"]
        .map(|what| server.get(&format!("/streaming/healthz?{what}=1")).status)
}

#[test]
fn health_tells_the_active_from_the_standby() {
    for loops in LOOPS {
        let [first, second] = pair(loops);
        let mut active = first.start();
        assert_eq!(health(&active), [200, 200, 200]);
        assert_eq!(active.get("/streaming/isFTActive").status, 200);
        assert_eq!(active.json("/streaming/serverz")["state"], "FT_ACTIVE");
        let standby = second.spawn();
        wait_for("a ready standby", || (health(&standby) == [200, 200, 503]).then_some(()));
        assert_eq!(standby.get("/streaming/isFTActive").status, 204);
        assert_eq!(standby.json("/streaming/serverz")["state"], "FT_STANDBY");
        let why = standby.get("/streaming/healthz?active=1").body;
        assert!(why.contains("standby"), "{why}");
        // Clients of the standby are served by the active.
        let mut stan = Stan::connect(second.port, "across");
        stan.publish("foo", "1").unwrap();
        active.kill();
        wait_for("the take-over", || (health(&standby) == [200, 200, 200]).then_some(()));
        stan.publish("foo", "2").unwrap();
        assert_eq!(stan.replay("foo", 2).len(), 2);
    }
}

#[test]
fn a_standby_without_a_route_is_live_but_not_ready() {
    let first = Launch::new(&["-ft_group", "pair"]).file_store(None);
    let store = first.folder().join("store");
    let _active = first.start();
    let second = Launch::new(&["-ft_group", "pair"]).file_store(Some(&store)).spawn();
    wait_for("a standby", || (health(&second)[0] == 200).then_some(()));
    second.log.wait("standby");
    let ready = second.get("/streaming/healthz?ready=1");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(!ready.body.is_empty(), "with the reason");
}

#[test]
fn pages_are_answered_while_clients_come_and_go() {
    let server = Launch::new(&[]).loops(2).start();
    for turn in 0..20 {
        let conns: Vec<Conn> = (0..20).map(|_| Conn::client(server.launch.port, "")).collect();
        assert!(20 <= server.json("/connz")["num_connections"].as_u64().unwrap(), "{turn}");
        drop(conns);
    }
    wait_for("all to be gone", || {
        let left = server.json("/varz")["connections"].as_u64().unwrap();
        (left < 20).then_some(())
    });
}

/// Runs `stanby top`.
fn top(args: &[&str]) -> std::process::Output {
    Command::new(binary()).arg("top").args(args).output().unwrap()
}

#[test]
fn top_shows_a_server_where_there_is_no_terminal() {
    let (server, _clients) = busy(2);
    let url = format!("http://127.0.0.1:{}", server.launch.http);
    let output = top(&[&url, "--sort", "name"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(text.contains("STANDALONE") && text.contains("channels 2  messages 13"), "{text}");
    let jobs: Vec<&str> = row("jobs").split_whitespace().collect();
    assert_eq!((jobs[1], &jobs[4..6], jobs[7]), ("10", &["1", "10"][..], "3"), "{text}");
    assert!(text.find("jobs") < text.find("other"), "{text}");

    let output = top(&[&url, "--json", "--channels", "1", "--sort", "pending"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["server"]["total_msgs"], 13, "{document}");
    assert_eq!(document["channels"].as_array().unwrap().len(), 1, "{document}");
    assert_eq!(document["channel_total"], 2, "{document}");
    assert_eq!(document["channels"][0]["channel"], "jobs", "{document}");
}

#[test]
fn top_says_where_nobody_answers() {
    let closed = free_port();
    let refused = |args: &[&str], expected: &str| {
        let output = top(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{expected}: {text}");
    };
    let url = format!("http://127.0.0.1:{closed}");
    refused(&[&url], "does the server run, and with -m PORT?");
    refused(&["nats://127.0.0.1:4222"], "is not the URL of a monitoring port");
    refused(&["https://127.0.0.1:1", "--tlsca", "/nowhere"], "it cannot be asked by https");
    let server = Launch::new(&[]).start();
    let url = format!("http://127.0.0.1:{}", server.launch.port);
    refused(&[&url, "--once"], "is this the monitoring port");
}
