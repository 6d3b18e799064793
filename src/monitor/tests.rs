//! The pages against bodies recorded from the reference, and over HTTP.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::base::epoch::LeaseClock;
use crate::base::id::{AccountIndex, ChannelName, ClientId, Sequence};
use crate::base::meters::Meters;
use crate::base::pulse::{Pulse, Vitals};
use crate::base::record::ChannelState;
use crate::base::time::WallTime;
use crate::broker::snapshot::{
    ConnectionSnapshot, ServerSnapshot, SubscriptionSnapshot, SubscriptionsSnapshot,
    Traffic as CoreTraffic,
};
use crate::engine::snapshot::{
    self as engine, ChannelSnapshot, ClientSnapshot, Snapshot, Totals, Traffic,
};

fn recorded(file: &str) -> String {
    let path = format!("{}/tests/data/http/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn document(file: &str) -> Value {
    serde_json::from_str(&recorded(file)).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap()
}

/// `2026-11-22T16:52:52.652659558Z`, all of that day.
fn time(value: &Value) -> WallTime {
    let text = text(value);
    let rest = text.strip_prefix("2026-11-22T").unwrap().strip_suffix('Z').unwrap();
    let (clock, digits) = rest.split_once('.').unwrap_or((rest, ""));
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap());
    let nanos: i64 = format!("{digits:0<9}").parse().unwrap();
    WallTime((1_795_305_600 + seconds) * 1_000_000_000 + nanos)
}

fn facts() -> StreamingFacts {
    let shown = document("streaming_serverz");
    let channel = |name: &str| document("streaming_storez")["limits"][name].as_i64().unwrap();
    StreamingFacts {
        cluster_id: text(&shown["cluster_id"]),
        server_id: text(&shown["server_id"]),
        version: text(&shown["version"]),
        go: text(&shown["go"]),
        store: "FILE",
        started: time(&shown["start_time"]),
        channels_max: 100,
        global: LimitNumbers {
            max_msgs: channel("max_msgs"),
            max_bytes: channel("max_bytes"),
            max_age: 0,
            max_subscriptions: channel("max_subscriptions"),
            max_inactivity: 0,
        },
        ..StreamingFacts::default()
    }
}

fn subscription(shown: &Value) -> engine::SubscriptionSnapshot {
    engine::SubscriptionSnapshot {
        client: ClientId::from(text(&shown["client_id"])),
        inbox: text(&shown["inbox"]).into(),
        ack_inbox: text(&shown["ack_inbox"]).into(),
        durable_name: text(&shown["durable_name"]).into(),
        queue_name: text(&shown["queue_name"]).into(),
        is_durable: flag(&shown["is_durable"]),
        is_offline: flag(&shown["is_offline"]),
        is_stalled: flag(&shown["is_stalled"]),
        in_flight_max: i32::try_from(number(&shown["max_inflight"])).unwrap(),
        ack_wait_secs: i32::try_from(number(&shown["ack_wait"])).unwrap(),
        last_sent: Sequence(number(&shown["last_sent"])),
        pending_count: usize::try_from(number(&shown["pending_count"])).unwrap(),
        ..engine::SubscriptionSnapshot::default()
    }
}

fn channel(shown: &Value) -> ChannelSnapshot {
    let subscriptions = shown["subscriptions"].as_array().into_iter().flatten();
    ChannelSnapshot {
        channel: ChannelName::from(text(&shown["name"])),
        state: ChannelState {
            first: Sequence(number(&shown["first_seq"])),
            last: Sequence(number(&shown["last_seq"])),
            message_count: number(&shown["msgs"]),
            byte_count: number(&shown["bytes"]),
        },
        subscriptions: subscriptions.map(subscription).collect(),
    }
}

/// What the reference held when its pages were recorded.
fn recorded_engine() -> Snapshot {
    let totals = document("streaming_serverz");
    let clients = document("streaming_clientsz");
    let channels = document("streaming_channelsz__subs-1");
    let total = |name: &str| usize::try_from(number(&totals[name])).unwrap();
    Snapshot {
        work: 0,
        totals: Totals {
            clients: total("clients"),
            channels: total("channels"),
            subscriptions: total("subscriptions"),
            messages: number(&totals["total_msgs"]),
            bytes: number(&totals["total_bytes"]),
        },
        clients: clients["clients"]
            .as_array()
            .unwrap()
            .iter()
            .map(|shown| ClientSnapshot {
                client: ClientId::from(text(&shown["id"])),
                heartbeat_inbox: text(&shown["hb_inbox"]).into(),
                ..ClientSnapshot::default()
            })
            .collect(),
        channels: channels["channels"].as_array().unwrap().iter().map(channel).collect(),
        traffic: Traffic {
            in_messages: number(&totals["in_msgs"]),
            in_bytes: number(&totals["in_bytes"]),
            out_messages: number(&totals["out_msgs"]),
            out_bytes: number(&totals["out_bytes"]),
            redelivered_messages: 0,
            dead_letters: 0,
            dead_letters_refused: 0,
            outlived: 0,
            duplicates: 0,
        },
    }
}

fn core_subscriptions(shown: &Value) -> Vec<SubscriptionSnapshot> {
    let names = document("connz__subs-1_auth-1");
    let mut connections = names["connections"].as_array().unwrap().iter();
    let found = connections.find(|found| found["cid"] == shown["cid"]).unwrap();
    let subjects = found["subscriptions_list"].as_array().into_iter().flatten();
    let subscriptions = subjects.map(|subject| SubscriptionSnapshot {
        subject: text(subject),
        queue: None,
        sid: "1".to_owned(),
        msgs: 0,
        max: 0,
        cid: number(&shown["cid"]),
    });
    subscriptions.collect()
}

fn go_duration(text: &str) -> Duration {
    let split = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap();
    let unit_secs = match &text[split..] {
        "µs" => 1e-6,
        "ms" => 1e-3,
        _ => 1.0,
    };
    Duration::from_nanos(
        format!("{:.0}", text[..split].parse::<f64>().unwrap() * unit_secs * 1e9).parse().unwrap(),
    )
}

fn core_traffic(shown: &Value) -> CoreTraffic {
    CoreTraffic {
        in_msgs: number(&shown["in_msgs"]),
        out_msgs: number(&shown["out_msgs"]),
        in_bytes: number(&shown["in_bytes"]),
        out_bytes: number(&shown["out_bytes"]),
    }
}

fn connection(shown: &Value) -> ConnectionSnapshot {
    let port = u16::try_from(number(&shown["port"])).unwrap();
    ConnectionSnapshot {
        cid: number(&shown["cid"]),
        account: AccountIndex::GLOBAL,
        home: 0,
        peer: SocketAddr::new(text(&shown["ip"]).parse().unwrap(), port),
        start: time(&shown["start"]),
        last_activity: time(&shown["last_activity"]),
        closed: None,
        rtt: Some(go_duration(&text(&shown["rtt"]))),
        pending_bytes: 0,
        traffic: core_traffic(shown),
        name: text(&shown["name"]),
        lang: text(&shown["lang"]),
        version: text(&shown["version"]),
        tls: None,
        tls_certificate: None,
        authorized_user: String::new(),
        subscription_count: core_subscriptions(shown).len(),
        subscriptions: core_subscriptions(shown),
    }
}

/// What the reference's core server held when its pages were recorded.
fn recorded_broker() -> ServerSnapshot {
    let varz = document("varz");
    let connz = document("connz");
    ServerSnapshot {
        taken_at: time(&connz["now"]),
        started_at: time(&varz["start"]),
        settings_loaded_at: time(&varz["config_load_time"]),
        connections_total: number(&varz["total_connections"]),
        traffic: core_traffic(&varz),
        accounts: vec!["$G".to_owned()],
        open_count: number(&varz["connections"]),
        connections: connz["connections"].as_array().unwrap().iter().map(connection).collect(),
        subscriptions: SubscriptionsSnapshot {
            num_subscriptions: 124,
            num_cache: 66,
            num_inserts: 148,
            num_removes: 24,
            num_matches: 171,
            num_cache_hits: 76,
            max_fanout: 1,
            total_fanout: 64,
        },
        ..ServerSnapshot::default()
    }
}

fn core_facts() -> CoreFacts {
    let shown = document("varz");
    CoreFacts {
        server_id: text(&shown["server_id"]),
        server_name: text(&shown["server_name"]),
        version: text(&shown["version"]),
        git_commit: text(&shown["git_commit"]),
        go: text(&shown["go"]),
        host: text(&shown["host"]),
        port: 15222,
        connections_max: 65536,
        ping_interval: Duration::from_secs(120),
        pings_max: 2,
        http_host: text(&shown["http_host"]),
        http_port: 15223,
        auth_timeout: Duration::from_secs(2),
        control_line_bytes_max: 4096,
        payload_bytes_max: 1_048_576,
        pending_bytes_max: 67_108_864,
        tls_timeout: Duration::from_secs(2),
        write_deadline: Duration::from_secs(10),
        has_system_account: true,
        ..CoreFacts::default()
    }
}

fn body(reply: Reply) -> String {
    match reply {
        Reply::Json(_, body) | Reply::BadRequest(body) | Reply::Html(body) => body,
        Reply::Text { text, .. } => format!("{text}\n"),
        Reply::Metrics { text, .. } => text,
        Reply::Empty(_) => String::new(),
    }
}

fn check_streaming(file: &str, page: &str, query: &str) {
    let expected = recorded(file);
    let now = serde_json::from_str::<Value>(&expected).map_or(WallTime(0), |shown| {
        if shown["now"].is_null() { WallTime(0) } else { time(&shown["now"]) }
    });
    let (facts, mut snapshot) = (facts(), recorded_engine());
    if file == "streaming_channelsz__channel-jobs_subs-1" {
        // The reference lists queue groups in another order each time.
        let jobs = snapshot.channels.iter_mut().find(|found| *found.channel.as_bytes() == *b"jobs");
        *jobs.unwrap() = channel(&document(file));
    }
    let view = streaming_pages::View { facts: &facts, snapshot: &snapshot, now, utc_offset: |_| 0 };
    let query = Query::new(Some(query));
    let reply = match page {
        "serverz" => streaming_pages::serverz(
            view,
            &Status::default(),
            Descriptors { open: 48, max: 20_000 },
        ),
        "storez" => streaming_pages::storez(view),
        "clientsz" => streaming_pages::clientsz(view, &query),
        _ => streaming_pages::channelsz(view, &query),
    };
    assert_eq!(body(reply), expected, "{file}");
}

#[test]
fn streaming_pages_are_those_of_the_reference() {
    check_streaming("streaming_serverz", "serverz", "");
    check_streaming("streaming_storez", "storez", "");
    check_streaming("streaming_clientsz", "clientsz", "");
    check_streaming("streaming_clientsz__limit-x", "clientsz", "limit=x");
    check_streaming("streaming_clientsz__limit-2_offset-1", "clientsz", "limit=2&offset=1");
    check_streaming("streaming_clientsz__subs-1", "clientsz", "subs=1");
    check_streaming("streaming_clientsz__client-c-nd", "clientsz", "client=c-nd");
    check_streaming("streaming_clientsz__client-c-nd_subs-1", "clientsz", "client=c-nd&subs=1");
    check_streaming("streaming_clientsz__client-nope", "clientsz", "client=nope");
    check_streaming("streaming_channelsz", "channelsz", "subs=true");
    check_streaming("streaming_channelsz__limit-2_offset-1", "channelsz", "limit=2&offset=1");
    check_streaming("streaming_channelsz__subs-1", "channelsz", "subs=1");
    check_streaming("streaming_channelsz__subs-1_limit-1", "channelsz", "subs=1&limit=1");
    check_streaming("streaming_channelsz__channel-jobs", "channelsz", "channel=jobs");
    check_streaming("streaming_channelsz__channel-jobs_subs-1", "channelsz", "channel=jobs&subs=1");
    check_streaming("streaming_channelsz__channel-nope", "channelsz", "channel=nope");
}

#[test]
fn empty_lists_are_written_or_left_out_as_in_the_reference() {
    let (facts, snapshot) = (StreamingFacts::default(), Snapshot::default());
    let view = streaming_pages::View {
        facts: &facts,
        snapshot: &snapshot,
        now: WallTime(0),
        utc_offset: |_| 0,
    };
    let head = "{\n  \"cluster_id\": \"\",\n  \"server_id\": \"\",\n  \
                \"now\": \"1970-01-01T00:00:00Z\",\n  \"offset\": 0,\n  \"limit\": 1024,\n  \
                \"count\": 0,\n  \"total\": 0";
    let query = Query::new(Some("subs=1"));
    let channels = body(streaming_pages::channelsz(view, &query));
    assert_eq!(channels, format!("{head}\n}}"));
    let clients = body(streaming_pages::clientsz(view, &query));
    assert_eq!(clients, format!("{head},\n  \"clients\": []\n}}"));
}

#[test]
fn core_pages_are_those_of_the_reference() {
    let (facts, mut snapshot) = (core_facts(), recorded_broker());
    let view = core_pages::View { facts: &facts, snapshot: &snapshot };
    let none = Query::default();
    assert_eq!(body(connection_pages::connz(view, &none).unwrap()), recorded("connz"));
    assert_eq!(body(core_pages::subsz(view, &none).unwrap()), recorded("subsz"));

    snapshot.taken_at = time(&document("connz__subs-1_auth-1")["now"]);
    let view = core_pages::View { facts: &facts, snapshot: &snapshot };
    let all = Query::new(Some("subs=1&auth=1"));
    let expected = recorded("connz__subs-1_auth-1");
    assert_eq!(body(connection_pages::connz(view, &all).unwrap()), expected);

    snapshot.taken_at = time(&document("routez")["now"]);
    let view = core_pages::View { facts: &facts, snapshot: &snapshot };
    assert_eq!(body(core_pages::routez(view, &none).unwrap()), recorded("routez"));

    let varz = document("varz");
    snapshot.taken_at = time(&varz["now"]);
    let usage = core_pages::Usage {
        resident_bytes: number(&varz["mem"]),
        cpu_percent: 2.0,
        cores: 2,
        requests: [("/".to_owned(), 1), ("/varz".to_owned(), 1)].into(),
    };
    let view = core_pages::View { facts: &facts, snapshot: &snapshot };
    assert_eq!(body(core_pages::varz(view, &usage)), recorded("varz"));
}

/// Subjects of one page of `/connz`, as its first field tells them apart.
fn cids(snapshot: &ServerSnapshot, query: &str) -> String {
    let facts = core_facts();
    let view = core_pages::View { facts: &facts, snapshot };
    match connection_pages::connz(view, &Query::new(Some(query))) {
        Err(error) => error.0,
        Ok(reply) => {
            let shown: Value = serde_json::from_str(&body(reply)).unwrap();
            let found = shown["connections"].as_array().into_iter().flatten();
            let cids: Vec<String> = found.map(|one| one["cid"].to_string()).collect();
            format!("{} of {}", cids.join(" "), shown["total"])
        }
    }
}

#[test]
fn connections_are_chosen_and_sorted_as_asked() {
    let mut snapshot = recorded_broker();
    snapshot.connections.truncate(3);
    let mut closed = snapshot.connections.remove(2);
    closed.closed = Some((snapshot.taken_at, "Client Closed".to_owned()));
    closed.authorized_user = "joe".to_owned();
    snapshot.closed.push(closed);
    for (query, expected) in [
        ("", "4 5 of 2"),
        ("sort=msgs_to", "5 4 of 2"),
        ("sort=msgs_from", "4 5 of 2"),
        ("sort=uptime", "5 4 of 2"),
        ("sort=rtt&limit=1", "4 of 2"),
        ("offset=1", "5 of 2"),
        ("state=CLOSED&sort=stop", "6 of 1"),
        ("state=any", "4 5 6 of 3"),
        ("state=all&cid=6", "6 of 3"),
        ("cid=5", "5 of 2"),
        ("state=all&cid=5", " of 3"),
        ("state=all&user=joe", "6 of 3"),
        ("acc=other", " of 0"),
        ("acc=$G", "4 5 of 2"),
        ("sort=foo", "invalid sorting option: foo"),
        ("sort=stop", "sort by stop only valid on closed connections"),
        ("sort=reason&state=all", "sort by reason only valid on closed connections"),
        ("state=foo", "Error decoding state for foo"),
    ] {
        assert_eq!(cids(&snapshot, query), expected, "{query}");
    }
}

#[test]
fn interests_are_found_by_a_subject_that_they_match() {
    let (facts, snapshot) = (core_facts(), recorded_broker());
    let view = core_pages::View { facts: &facts, snapshot: &snapshot };
    let list = |query: &str| core_pages::subsz(view, &Query::new(Some(query))).map(body);
    let shown: Value =
        serde_json::from_str(&list("subs=1&test=_STAN.pub.test-cluster.foo").unwrap()).unwrap();
    assert_eq!(shown["total"], 1);
    assert_eq!(shown["subscriptions_list"][0]["subject"], "_STAN.pub.test-cluster.>");
    assert_eq!(shown["subscriptions_list"][0]["account"], "$G");
    assert_eq!(list("subs=1&offset=900").unwrap(), recorded("subsz"));
    let error = list("test=*").unwrap_err();
    assert_eq!(error.0, "invalid test subject, must be valid publish subject: *");
}

/// A server whose engines do not answer until the test lets them.
fn served(status: Arc<Published<Status>>, gate: mpsc::Receiver<()>) -> Monitor {
    watched(status, gate, Vitals::default())
}

fn watched(status: Arc<Published<Status>>, gate: mpsc::Receiver<()>, vitals: Vitals) -> Monitor {
    let gate = Mutex::new(gate);
    let sources = Sources {
        status,
        lease: LeaseClock::endless(),
        vitals,
        core: Arc::new(Published::new(core_facts())),
        streaming: Some(Streaming {
            facts: Arc::new(Published::new(facts())),
            utc_offset: |_| 0,
            messages: Box::new(|_| Ok(Vec::new())),
            engine: Box::new(move |_| {
                let _ = gate.lock().unwrap().recv();
                Ok(recorded_engine())
            }),
        }),
        meters: Meters::default(),
        group: Arc::default(),
        directory: None,
        viewer: Arc::default(),
        broker: Box::new(|_| Err(Unavailable("the reactors do not answer".to_owned()))),
    };
    Monitor::start(free_port(), None, "/base/", sources).unwrap()
}

pub(super) fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn send(monitor: &Monitor, target: &str) -> TcpStream {
    let mut socket = TcpStream::connect(monitor.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

fn receive(mut socket: TcpStream) -> (String, String) {
    let mut response = String::new();
    socket.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

fn fetch(monitor: &Monitor, target: &str) -> (String, String) {
    receive(send(monitor, target))
}

/// Goal: a script that looks for a header as the reference writes it finds it.
#[test]
fn names_of_headers_are_written_as_by_the_reference() {
    let (open, gate) = mpsc::channel();
    drop(open);
    let monitor = served(Arc::default(), gate);
    let mut response = String::new();
    send(&monitor, "/streaming/channelsz").read_to_string(&mut response).unwrap();
    for name in ["Content-Type", "Content-Length", "Date"] {
        assert!(response.contains(&format!("\r\n{name}: ")), "{name}: {response}");
    }
}

#[test]
fn status_and_headers_are_those_of_the_reference() {
    let (open, gate) = mpsc::channel();
    drop(open);
    let monitor = served(Arc::default(), gate);

    let (head, body) = fetch(&monitor, "/streaming/channelsz?channel=jobs");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert_eq!(body, recorded("streaming_channelsz__channel-jobs"));

    let (head, body) = fetch(&monitor, "/streaming/channelsz?channel=jobs&callback=cb");
    assert!(head.contains("content-type: application/javascript"), "{head}");
    assert!(!head.contains("access-control-allow-origin"), "{head}");
    assert_eq!(body, format!("cb({})", recorded("streaming_channelsz__channel-jobs")));

    for target in ["/nosuch", "/", "/varz", "/base/", "/streaming/", "/base/streaming/serverz"] {
        let (head, body) = fetch(&monitor, target);
        assert!(head.starts_with("http/1.1 404"), "{target}: {head}");
        assert!(head.contains("content-type: text/plain; charset=utf-8"), "{head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert_eq!(body, recorded("nosuch"), "{target}");
    }

    for target in ["/base", "/streaming"] {
        let (head, _) = fetch(&monitor, target);
        assert!(head.starts_with("http/1.1 200"), "{target}: {head}");
        assert!(head.contains("content-type: text/html; charset=utf-8"), "{target}: {head}");
    }
    assert!(fetch(&monitor, "/base").1.contains("<a href=/streaming>"));
    assert!(!core_pages::index(false, "").contains("streaming"), "a core server has no such page");
    assert_eq!(fetch(&monitor, "/base/healthz").1, recorded("healthz"));
    let (head, body) = fetch(&monitor, "/base/varz");
    assert!(head.starts_with("http/1.1 500"), "{head}");
    assert!(body.ends_with("the reactors do not answer\n"), "{body}");
}

#[test]
fn a_server_that_takes_no_clients_is_not_healthy() {
    let (_open, gate) = mpsc::channel();
    let status = Arc::new(Published::default());
    let monitor = served(Arc::clone(&status), gate);
    assert!(fetch(&monitor, "/base/healthz").0.starts_with("http/1.1 200"));
    status.set(Status { closed_listeners: vec!["server"], ..Status::default() });
    let (head, body) = fetch(&monitor, "/base/healthz");
    assert!(head.starts_with("http/1.1 503"), "{head}");
    let error = "failed to be ready for connections after 1ms: server";
    assert_eq!(body, format!("{{\"status\":\"error\",\"error\":\"{error}\"}}"));
}

#[test]
fn only_the_active_of_a_group_says_that_it_is_active() {
    let (_open, gate) = mpsc::channel();
    let status = Arc::new(Published::default());
    let monitor = served(Arc::clone(&status), gate);
    for (state, expected) in
        [(State::FtActive, "200"), (State::FtStandby, "204"), (State::Standalone, "204")]
    {
        status.set(Status { state, ..Status::default() });
        let (head, body) = fetch(&monitor, "/streaming/isFTActive");
        assert!(head.starts_with(&format!("http/1.1 {expected}")), "{head}");
        assert!(!head.contains("content-type"), "{head}");
        assert_eq!(body, "");
    }
}

#[test]
fn health_is_answered_while_the_engines_keep_every_other_page_waiting() {
    let (open, gate) = mpsc::channel();
    let status = Arc::new(Published::default());
    let monitor = served(Arc::clone(&status), gate);
    let waiting: Vec<TcpStream> = (0..8).map(|_| send(&monitor, "/streaming/serverz")).collect();

    let mut standby = Status { state: State::FtStandby, ..Status::default() };
    standby.watches_lock = true;
    status.set(standby.clone());
    check_health(&monitor, "live=1", 200, "ok\n");
    check_health(
        &monitor,
        "ready=1",
        503,
        "standby, but it hears no heartbeat of the active: no route to it, or another -ft_group\n",
    );
    standby.has_route_to_active = true;
    status.set(standby);
    check_health(&monitor, "ready=1", 200, "ok\n");
    check_health(&monitor, "active=1", 503, "standby\n");
    let active = Status { state: State::FtActive, is_serving: true, ..Status::default() };
    status.set(active);
    check_health(&monitor, "active=1", 200, "ok\n");
    check_health(&monitor, "", 200, "ok\n");

    drop(open);
    for socket in waiting {
        assert!(receive(socket).0.starts_with("http/1.1 200"));
    }
}

#[test]
fn what_hangs_is_not_ready_and_only_a_hung_loop_is_not_live() {
    let (_open, gate) = mpsc::channel();
    let active = Status { state: State::FtActive, is_serving: true, ..Status::default() };
    let event_loop = Arc::new(Pulse::default());
    // Whoever works hangs, as if the bound had passed.
    let vitals = Vitals::new(vec![Arc::clone(&event_loop)], Duration::ZERO);
    let monitor = watched(Arc::new(Published::new(active)), gate, vitals.clone());
    check_health(&monitor, "ready=1", 200, "ok\n");

    vitals.store(0).beat(world::instant());
    let reason = "the store of event loop 0 makes no progress: its disk or database does not \
                  answer, for 0 s\n";
    for query in ["", "ready=1", "active=1"] {
        check_health(&monitor, query, 503, reason);
    }
    check_health(&monitor, "live=1", 200, "ok\n");
    vitals.store(0).rest();
    check_health(&monitor, "ready=1", 200, "ok\n");

    event_loop.beat(world::instant());
    for query in ["", "ready=1", "active=1", "live=1"] {
        check_health(&monitor, query, 503, "event loop 0 hangs, for 0 s\n");
    }
}

fn check_health(monitor: &Monitor, query: &str, status: u16, expected: &str) {
    let (head, body) = fetch(monitor, &format!("/streaming/healthz?{query}"));
    assert!(head.starts_with(&format!("http/1.1 {status}")), "{query}: {head}");
    assert_eq!(body, expected, "{query}");
}

/// Goal: who opens connections and asks nothing, or asks byte by byte, locks nobody out; nor do
/// requests that wait for engines which do not answer.
#[test]
fn a_crowd_without_requests_locks_nobody_out() {
    let (open, gate) = mpsc::channel();
    let monitor = served(Arc::default(), gate);
    let places = usize::try_from(world::descriptor_plan().monitoring).unwrap();
    let waiting_max = places / WAITING_PART;
    let ask = |_| send(&monitor, "/streaming/serverz");
    let waiting: Vec<TcpStream> = (0..waiting_max + 16).map(ask).collect();
    // From now on they keep their places.
    while !fetch(&monitor, "/base/varz").0.starts_with("http/1.1 503") {}
    let mut crowd = Vec::new();
    for _ in 0..places + 40 {
        let mut slow = TcpStream::connect(monitor.address()).unwrap();
        slow.write_all(b"GET /varz HTTP/1.1\r\nHo").unwrap();
        crowd.push(slow);
    }
    check_health(&monitor, "live=1", 200, "ok\n");
    assert!(fetch(&monitor, "/base/varz").0.starts_with("http/1.1 503"), "too many wait");
    drop(open);
    // Who asked when too many waited may have had to go.
    let answer = |mut socket: TcpStream| {
        let mut response = String::new();
        socket.read_to_string(&mut response).map_or(String::new(), |_| response)
    };
    let answers = waiting.into_iter().map(answer);
    let shown = answers.filter(|response| response.starts_with("HTTP/1.1 200")).count();
    assert_eq!(shown, waiting_max, "none of them lost its place");
    let (head, _) = fetch(&monitor, "/base/varz");
    assert!(head.starts_with("http/1.1 500"), "it is asked again: {head}");
}

/// Goal: a page costs the loops what it shows; figures cost nothing.
#[test]
fn pages_ask_the_loops_for_the_lists_that_they_show() {
    let none = Lists::default();
    let open = Lists { open: true, ..none };
    for (page, query, wanted) in [
        (Core::Varz, "", none),
        (Core::Jsz, "", none),
        (Core::Accstatz, "unused=1", none),
        (Core::Subsz, "", none),
        (Core::Subsz, "subs=1", Lists { subscriptions: true, ..open }),
        (Core::Connz, "", open),
        (Core::Connz, "subs=detail", Lists { subscriptions: true, ..open }),
        (Core::Connz, "state=closed", Lists { closed: true, ..none }),
        (Core::Connz, "state=all", Lists { closed: true, ..open }),
        (Core::Routez, "", Lists { routes: true, ..none }),
        (Core::Routez, "subs=1", Lists { routes: true, subscriptions: true, ..none }),
    ] {
        assert_eq!(lists(page, &Query::new(Some(query))), Ok(wanted), "{page:?} {query}");
    }
    let asked = |page: fn(&Ask<Wanted, Snapshot>, &Query) -> Result<Snapshot, Unavailable>,
                 query| {
        let all = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&all);
        let ask: Ask<Wanted, Snapshot> = Box::new(move |wanted| {
            kept.lock().unwrap().push(wanted);
            Ok(recorded_engine())
        });
        page(&ask, &Query::new(Some(query))).unwrap();
        std::mem::take(&mut *all.lock().unwrap())
    };
    let channels = |names: &[&str]| {
        Wanted::Channels(names.iter().map(|name| ChannelName::from(*name)).collect())
    };
    let names: Vec<String> =
        recorded_engine().channels.iter().map(|found| found.channel.to_string()).collect();
    let ask_metrics: fn(&Ask<Wanted, Snapshot>, &Query) -> Result<Snapshot, Unavailable> =
        |ask, query| Ok(metrics::asked(ask, &metrics::Choice::of(query).unwrap()).unwrap());
    assert_eq!(asked(ask_metrics, ""), [Wanted::AllChannels]);
    assert_eq!(asked(ask_metrics, "subs=0"), [Wanted::Names]);
    assert_eq!(asked(ask_metrics, "channels=b,a,b"), [channels(&["a", "b"])]);
    assert_eq!(asked(ask_metrics, "channels=b&subs=0"), [Wanted::Names]);
    assert_eq!(asked(ask_metrics, "channels=-"), [Wanted::Totals]);
    let ask_channelsz = streaming_pages::ask_channelsz;
    assert_eq!(asked(ask_channelsz, ""), [Wanted::Names]);
    assert_eq!(asked(ask_channelsz, "channel=a&subs=1"), [channels(&["a"])]);
    let second = [Wanted::Names, channels(&[&names[1]])];
    assert_eq!(asked(ask_channelsz, "subs=1&offset=1&limit=1"), second);
    let one = Wanted::Of(Arc::new([ClientId::from("x")].into()));
    assert_eq!(asked(streaming_pages::ask_clientsz, "client=x"), [Wanted::Clients, one]);
}

/// What our HTTP library does otherwise with targets that no tool asks for.
const EXCEPTIONS: [&str; 3] = [
    // The fragment of an address is not sent by any client; here it is no part of the query.
    "/connz?subs=1#x",
    // A proxy's request without a path means the index, without a redirect to it.
    "http://example.com",
    "http://example.com?x=1",
];

fn answers_as(monitor: &Monitor, asked: &Value) -> Result<(), String> {
    let (method, target) = (text(&asked["method"]), text(&asked["target"]));
    let mut socket = TcpStream::connect(monitor.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    socket.read_to_end(&mut response).unwrap();
    let response = String::from_utf8_lossy(&response).into_owned();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut found = vec![("status", status.clone())];
    let mut wanted = vec![("status", asked["status"].to_string())];
    // What is not HTTP at all is refused by the library, in fewer words.
    if status != "400" {
        found.push(("location", header("location").unwrap_or_default()));
        wanted.push(("location", text(&asked["location"])));
        found.push(("content type", header("content-type").unwrap_or_default()));
        wanted.push(("content type", text(&asked["content_type"])));
    }
    if matches!(status.as_str(), "301" | "404") {
        found.push(("body", body.to_owned()));
        wanted.push(("body", text(&asked["body"])));
    }
    if let Some(keys) = asked["keys"].as_array() {
        // The first names tell the pages from each other.
        let count = keys.len().min(4);
        let lines = body.lines().filter_map(|line| line.trim_start().strip_prefix('"'));
        let names = lines.filter_map(|line| Some(line.split_once("\":")?.0.to_owned()));
        if 1 < count {
            found.push(("names", names.take(count).collect::<Vec<_>>().join(" ")));
            wanted.push(("names", keys.iter().take(count).map(text).collect::<Vec<_>>().join(" ")));
        }
    }
    if found == wanted { Ok(()) } else { Err(format!("{method} {target}: {found:?}, {wanted:?}")) }
}

/// Goal: any target is answered, redirected or refused as by the reference, whose answers were
/// recorded.
#[test]
fn paths_are_cleaned_and_redirected_as_recorded() {
    let path = format!("{}/tests/data/http/paths.json", env!("CARGO_MANIFEST_DIR"));
    let asked: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for base in ["", "/nats"] {
        let sources = Sources {
            status: Arc::default(),
            lease: LeaseClock::endless(),
            vitals: Vitals::default(),
            core: Arc::new(Published::new(core_facts())),
            streaming: Some(Streaming {
                facts: Arc::new(Published::new(facts())),
                utc_offset: |_| 0,
                messages: Box::new(|_| Ok(Vec::new())),
                engine: Box::new(|_| Ok(Snapshot::default())),
            }),
            meters: Meters::default(),
            group: Arc::default(),
            directory: None,
            viewer: Arc::default(),
            broker: Box::new(|_| Ok(recorded_broker())),
        };
        let monitor = Monitor::start(free_port(), None, base, sources).unwrap();
        let asked = asked.iter().filter(|asked| text(&asked["base"]) == base);
        let asked = asked.filter(|asked| !EXCEPTIONS.contains(&text(&asked["target"]).as_str()));
        let wrong: Vec<String> =
            asked.filter_map(|asked| answers_as(&monitor, asked).err()).collect();
        assert!(wrong.is_empty(), "base {base:?}:\n{}", wrong.join("\n"));
    }
}
