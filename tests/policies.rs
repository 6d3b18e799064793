//! Delivery policies by the real binary: poison messages, consumers and kills in between.
//! `STANBY_POLICIES=full` sends 200 of them and kills more often, over each store;
//! `STANBY_GO_SERVER` names a Go `nats-streaming-server` that opens the store afterwards.
//! PostgreSQL and MariaDB are those of `tests/support/databases.sh`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]
#![allow(clippy::print_stdout, reason = "the whole form tells what it has seen")]

#[path = "support/databases.rs"]
mod databases;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use prost::Message;
use serde_json::Value;
use stanby::proto::pb;

use crate::server::{Launch, Server, binary};
use crate::stan::{Delivery, Stan, all};

const DELIVERIES_MAX: u32 = 3;
const POLICY: &str = "store_limits { channels {
    poison { max_deliveries: 3, dead_letter: \"dead.poison\" }
    patient { back_off: [\"400ms\", \"900ms\", \"2s\"] }
    once { dedup_window: \"1h\" }
} }";

fn is_full() -> bool {
    std::env::var_os("STANBY_POLICIES").is_some_and(|found| found == "full")
}

/// A server with a store of its own; a database has its tables.
fn launch(kind: &str) -> Launch {
    let launch = Launch::new(&[]);
    let folder = launch.folder();
    let name = || databases::name(folder);
    let source = match kind {
        "sqlite" => {
            databases::sqlite(folder);
            Some(folder.join("store.db").display().to_string())
        }
        "postgres" => {
            databases::postgres(folder);
            databases::postgres_address().map(|address| format!("{address} dbname={}", name()))
        }
        "mysql" => {
            databases::mysql(folder);
            databases::mysql_address().map(|address| format!("{address}/{}", name()))
        }
        _ => None,
    };
    let store = match source {
        Some(source) => {
            format!("store: sql, sql_options {{ driver: {kind}, source: \"{source}\" }}")
        }
        None => format!("store: {kind}, dir: \"{}\"", folder.join("data").display()),
    };
    launch.config(&format!("streaming {{ {store}\n {POLICY} }}\n"))
}

/// The stores that there are.
fn kinds() -> Vec<&'static str> {
    let mut kinds = vec!["file", "sqlite"];
    kinds.extend(databases::postgres_address().map(|_| "postgres"));
    kinds.extend(databases::mysql_address().map(|_| "mysql"));
    kinds
}

fn durable(in_flight_max: i32) -> pb::SubscriptionRequest {
    pb::SubscriptionRequest {
        durable_name: "d".into(),
        ack_wait_in_secs: 1,
        max_in_flight: in_flight_max,
        ..all("poison")
    }
}

/// Where a dead letter says that it comes from.
fn origin(letter: &Delivery) -> Value {
    serde_json::from_slice(&letter.message.reply).unwrap()
}

/// A number that differs from round to round, and not from run to run.
fn varied(round: u64, below: u64) -> u64 {
    round.wrapping_mul(2_654_435_761) % below
}

/// The dead letters that there are, read by a subscription of their own.
fn letters(server: &mut Server, client: &mut Stan) -> Vec<Delivery> {
    let listed = server.json("/streaming/channelsz?channel=dead.poison");
    let count = usize::try_from(listed["msgs"].as_u64().unwrap()).unwrap();
    let sub = client.subscribe(pb::SubscriptionRequest {
        max_in_flight: i32::try_from(count.max(1)).unwrap(),
        ..all("dead.poison")
    });
    let found = client.take(&sub, count);
    client.leave(&sub, false).unwrap();
    found
}

fn payload(number: u64) -> Vec<u8> {
    [format!("poison {number} ").as_bytes(), &[0, 255, 10]].concat()
}

/// Lives of a server in which nothing is acknowledged: how often each message was seen.
fn suffer(launch: &Launch, kills: u64, count: u64) -> (Server, BTreeMap<u64, u32>) {
    let mut server = launch.start();
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    let mut publisher = Stan::connect(launch.port, "publisher");
    for number in 1..=count {
        publisher.publish("poison", payload(number)).unwrap();
    }
    for life in 0..=kills {
        let mut client = Stan::connect(launch.port, "consumer");
        let in_flight_max = i32::try_from(1 + varied(life + 1, count)).unwrap();
        let sub = client.subscribe(durable(in_flight_max));
        let lives = Duration::from_millis(200 + varied(life + 7, 2_300));
        let is_last = life == kills;
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let pause = if is_last { Duration::from_millis(200) } else { lives };
            let came = client.take_within(&sub, usize::MAX, pause);
            for delivery in &came {
                let times = seen.entry(delivery.message.sequence).or_default();
                *times += 1;
                let again = delivery.message.redelivery_count;
                assert!(*times <= DELIVERIES_MAX, "{:?} is the {times}.", delivery.brief());
                assert!(*times <= again + 1, "{:?} is the {times}.", delivery.brief());
            }
            if !is_last || came.is_empty() && is_settled(&mut server, count) {
                break;
            }
            assert!(Instant::now() < until, "{life}: some are not dead letters: {seen:?}");
        }
        if !is_last {
            server.kill();
            server = launch.start();
        }
    }
    (server, seen)
}

/// Goal: whatever the store, nobody sees a message more than N times, nor fewer than N less the
/// kills, and each is a dead letter with its payload; then a Go server opens the store.
#[test]
fn poison_messages_become_dead_letters_whatever_is_killed() {
    let (count, kills) = if is_full() { (200, 12) } else { (20, 2) };
    for kind in kinds() {
        let launch = launch(kind);
        let (mut server, seen) = suffer(&launch, kills, count);
        let mut client = Stan::connect(launch.port, "reader");
        let letters = letters(&mut server, &mut client);
        let mut dead: BTreeMap<u64, u64> = BTreeMap::new();
        for letter in &letters {
            let origin = origin(letter);
            let sequence = origin["sequence"].as_u64().unwrap();
            *dead.entry(sequence).or_default() += 1;
            assert_eq!(letter.message.data, payload(sequence));
            assert_eq!((&origin["channel"], &origin["durable"]), (&"poison".into(), &"d".into()));
            assert_eq!(origin["deliveries"], DELIVERIES_MAX);
        }
        for sequence in 1..=count {
            let times = seen.get(&sequence).copied().unwrap_or(0);
            assert!(u64::from(DELIVERIES_MAX) <= u64::from(times) + kills, "{kind}: {sequence}");
            let copies = dead.get(&sequence).copied().unwrap_or(0);
            assert!((1..=1 + kills).contains(&copies), "{kind}: {sequence}: {copies}");
        }
        let fewest = seen.values().min().copied().unwrap_or(0);
        println!(
            "{kind}: {count} messages, {kills} kills: each was delivered {fewest} to \
                  {DELIVERIES_MAX} times; {} dead letters",
            letters.len()
        );
        let shown = server.get("/metrics").body;
        assert!(shown.contains("stanby_dead_letters_total"), "{shown}");
        assert_eq!(pending(&mut server), Some(0), "{kind}: each is acknowledged");
        server.stop(Signal::SIGTERM);
        if kind == "file" {
            go_opens(&launch, letters.len());
        }
    }
}

/// The durable as the server shows it.
fn shown(server: &mut Server) -> Option<Value> {
    let listed = server.json("/streaming/channelsz?channel=poison&subs=1");
    let subs = listed["subscriptions"].as_array().cloned().unwrap_or_default();
    subs.into_iter().find(|sub| sub["durable_name"] == "d")
}

/// What the durable has pending.
fn pending(server: &mut Server) -> Option<u64> {
    shown(server)?["pending_count"].as_u64()
}

/// Whether the durable was sent all, and nothing of it waits.
fn is_settled(server: &mut Server, count: u64) -> bool {
    shown(server).is_some_and(|sub| sub["last_sent"] == count && sub["pending_count"] == 0)
}

/// A Go server takes the store as it is, counts and all; and stanby takes it again afterwards.
fn go_opens(launch: &Launch, letters_count: usize) {
    let Some(program) = std::env::var_os("STANBY_GO_SERVER") else { return };
    let data = launch.folder().join("data");
    let ours = || {
        let names = std::fs::read_dir(&data).unwrap().flatten().map(|entry| entry.file_name());
        let is_ours =
            |name: &std::ffi::OsString| name.to_string_lossy().starts_with(".stanby.deliveries.");
        names.filter(is_ours).count()
    };
    assert!(0 < ours(), "there are files of counts");
    let go = Launch::new(&[]).file_store(Some(&data));
    let mut server = go.program(Path::new(&program)).start();
    let listed = server.json("/streaming/channelsz?subs=1");
    let channels = listed["channels"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = channels.iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names.len(), 2, "no file of ours is a channel: {names:?}");
    let dead = channels.iter().find(|it| it["name"] == "dead.poison").unwrap();
    assert_eq!(dead["msgs"].as_u64(), u64::try_from(letters_count).ok());
    server.stop(Signal::SIGTERM);
    let mut again = launch.start();
    assert_eq!(pending(&mut again), Some(0));
    again.stop(Signal::SIGTERM);
}

/// Goal: a consumer that was killed uses up nothing: its first delivery goes to whoever listens
/// next, and is the first.
#[test]
fn what_nobody_hears_is_not_delivered() {
    let launch = launch("file");
    let mut server = launch.start();
    let mut consumer = Stan::connect(launch.port, "consumer");
    let sub = consumer.subscribe(durable(10));
    let mut publisher = Stan::connect(launch.port, "publisher");
    drop(consumer);
    let until = Instant::now() + Duration::from_secs(10);
    while server.json("/varz")["connections"] != 1 {
        assert!(Instant::now() < until, "its connection stays");
    }
    publisher.publish("poison", payload(1)).unwrap();
    let mut listener = Stan::bare(launch.port, "");
    listener.conn.send([b"SUB ", &sub.inbox[..], b" 9\r\n"].concat());
    for again in 0..DELIVERIES_MAX {
        let came = listener.next_on(&sub.inbox, Duration::from_secs(10)).unwrap();
        let message = pb::MsgProto::decode(came.data).unwrap();
        assert_eq!((message.sequence, message.redelivery_count), (1, again));
    }
    server.stop(Signal::SIGTERM);
}

/// Goal: a real client sees the waits of a back-off, within a tenth of each. Only in the whole
/// form: it takes as long as the waits do, and another program may have the machine meanwhile.
#[test]
fn the_waits_of_a_back_off_are_kept() {
    if !is_full() {
        return;
    }
    let launch = launch("file");
    let mut server = launch.start();
    let mut client = Stan::connect(launch.port, "patient");
    let sub = client.subscribe(all("patient"));
    client.publish("patient", "x").unwrap();
    let came = client.take(&sub, 6);
    for (pair, wanted) in came.windows(2).zip([400, 900, 2_000, 2_000, 2_000]) {
        let (wait, wanted) = (pair[1].at.duration_since(pair[0].at), Duration::from_millis(wanted));
        println!("{wait:?} instead of {wanted:?}");
        assert!(wait.abs_diff(wanted) <= wanted / 10, "{wait:?} instead of {wanted:?}");
    }
    server.stop(Signal::SIGTERM);
}

/// Goal: what is published again is acknowledged and not stored, also by a server that comes after
/// a kill, whatever the store; and is stored where the window is not meant.
#[test]
fn what_is_published_again_is_not_stored() {
    const COUNT: usize = 300;
    for kind in kinds() {
        let launch = launch(kind);
        let mut server = launch.start();
        let texts: Vec<String> = (0..COUNT).map(|number| format!("order {number}")).collect();
        let stored = |server: &Server, channel: &str| {
            server.json(&format!("/streaming/channelsz?channel={channel}"))["msgs"].as_u64()
        };
        for life in 0..3 {
            let mut client = Stan::connect(launch.port, "me");
            // In the first life half of them are new each time.
            for text in if life == 0 { &texts[..COUNT / 2] } else { &texts } {
                client.publish("once", text).unwrap();
            }
            client.publish("once", "order 0").unwrap();
            client.publish("other", "order 0").unwrap();
            let count = if life == 0 { COUNT / 2 } else { COUNT };
            assert_eq!(stored(&server, "once"), u64::try_from(count).ok(), "{kind}, {life}");
            let duplicates = 1 + if life == 1 { COUNT / 2 } else { COUNT * (life / 2) };
            let shown = server.get("/metrics").body;
            let line = format!("stanby_duplicate_messages_total {duplicates}\n");
            assert!(shown.contains(&line), "{kind}, {life}: {shown}");
            server.kill();
            server = launch.start();
        }
        assert_eq!(stored(&server, "other"), Some(3));
        let mut reader = Stan::connect(launch.port, "reader");
        let data: Vec<_> =
            reader.replay("once", COUNT).into_iter().map(|it| it.message.data).collect();
        assert!(data.iter().zip(&texts).all(|(data, text)| data == text.as_bytes()));
        server.stop(Signal::SIGTERM);
    }
}

/// Goal: what is wrong in a configuration is said by `-t`, with its place.
#[test]
fn a_test_of_the_configuration_says_what_is_wrong() {
    for (policy, text) in [
        ("poison { max_deliveries: 0x }", "max_deliveries"),
        ("poison { max_deliveries: -2, dead_letter: d }", ": max_deliveries is -2: it has to be"),
        ("poison { max_deliveries: 2, dead_letter: \"d.>\" }", "is a pattern"),
        ("poison { max_deliveries: 2 }", "max_deliveries and no dead_letter"),
        ("poison { max_deliveries: 2, dead_letter: poison }", "round in a circle"),
        ("poison { back_off: [\"1s\", \"5ms\"] }", "back_off has a wait of 5ms: 100ms at least"),
        ("poison { dedup_window: \"-1s\" }", "dedup_window is below 0"),
        ("poison { dedup_window: \"169h\" }", "dedup_window is 169h0m0s: it has to be from 1ms to"),
    ] {
        let launch = Launch::new(&[]);
        let file = launch.folder().join("wrong.conf");
        let text_of_file = format!("streaming {{ store_limits {{ channels {{\n {policy} }} }} }}");
        std::fs::write(&file, text_of_file).unwrap();
        let output = Command::new(binary()).arg("-c").arg(&file).arg("-t").output().unwrap();
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat())
            .into_owned();
        assert!(!output.status.success() && said.contains(text), "{policy}: {said}");
        assert!(said.contains("wrong.conf:"), "{policy}: {said}");
    }
}
