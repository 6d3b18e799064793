//! `stanby move` by the real binary: a channel goes from one stopped server to another.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::server::{Launch, Server, binary};
use crate::stan::{Stan, all, ask, sequences};

/// The store of a server, as its configuration says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Encrypted,
    Sqlite,
}

fn launch(kind: Kind, more: &str) -> Launch {
    let launch = Launch::new(&[]);
    let place = launch.folder().join("data").display().to_string();
    let store = match kind {
        Kind::File => format!("store: file, dir: \"{place}\""),
        Kind::Encrypted => {
            format!("store: file, dir: \"{place}\", encrypt: true, encryption_key: \"hush\"")
        }
        Kind::Sqlite => {
            let source = ["-sql_driver", "sqlite", "-sql_source", &place];
            let made = Command::new(binary()).args(["sql", "init"]).args(source).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            format!("store: sql, sql_options {{ driver: sqlite, source: \"{place}\" }}")
        }
    };
    let launch = launch.config(&format!("streaming {{ {store}, {more} }}\n"));
    // It has a record of its cluster, as each server that has run.
    stop(launch.start());
    launch
}

fn stop(mut server: Server) {
    server.stop(Signal::SIGTERM);
}

fn relocate(channel: &str, from: &Path, to: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(["move", channel, "--from"]).arg(from).arg("--to").arg(to);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A durable with messages 21 to 25 acknowledged and 26 to 30 not, and a group with all of its own
/// acknowledged; the first 20 of 60 messages are gone by a limit.
fn fill(launch: &Launch) {
    let server = launch.start();
    let mut client = Stan::connect(launch.port, "worker");
    client.fill("orders", 1..=60);
    client.fill("news", 1..=3);
    let mut durable = all("orders");
    durable.durable_name = "d".into();
    durable.max_in_flight = 10;
    let mut group = durable.clone();
    group.q_group = "g".into();
    let sub = client.subscribe(durable);
    assert_eq!(sequences(&client.take(&sub, 10)), (21..=30).collect::<Vec<u64>>());
    (21..=25).for_each(|sequence| client.ack(&sub, sequence));
    let members = client.subscribe(group);
    let mut next = 21;
    while next <= 60 {
        for delivery in client.take(&members, 1) {
            assert_eq!(delivery.message.sequence, next);
            client.ack(&members, next);
            next += 1;
        }
    }
    // What the acknowledgements made room for.
    assert_eq!(sequences(&client.take(&sub, 5)), (31..=35).collect::<Vec<u64>>());
    client.leave(&sub, true).unwrap();
    client.leave(&members, true).unwrap();
    client.close().unwrap();
    stop(server);
}

const LIMITS: &str = "store_limits { max_msgs: 40 }";

fn messages_of(launch: &Launch, channel: &str) -> (u64, u64, u64) {
    let server = launch.start();
    let listed = server.json("/streaming/channelsz?subs=1");
    let channels = listed["channels"].as_array().cloned().unwrap_or_default();
    let found = channels.into_iter().find(|found| found["name"] == channel).unwrap_or_default();
    let number = |key: &str| found[key].as_u64().unwrap_or(0);
    let extent = (number("first_seq"), number("last_seq"), number("msgs"));
    stop(server);
    extent
}

/// Goal: a Go server that still runs on either directory has no lock there, and is noticed.
#[test]
fn a_directory_in_which_somebody_writes_without_its_lock_is_left() {
    let (from, to) = (launch(Kind::File, LIMITS), launch(Kind::File, LIMITS));
    fill(&from);
    let (from_file, to_file) = (from.config_path(), to.config_path());
    for launch in [&from, &to] {
        let path = launch.folder().join("data/server.dat");
        let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let refused = relocate("orders", &from_file, &to_file);
        assert_eq!(refused.status.code(), Some(1));
        let text = said(&refused);
        assert!(text.contains(&format!("{} is open for writing by", path.display())), "{text}");
        drop(writer);
    }
    let moved = relocate("orders", &from_file, &to_file);
    assert!(moved.status.success(), "{}", said(&moved));
}

/// Goal: whatever kind of store it goes to, nothing of a channel stays behind or is lost.
#[test]
fn a_channel_moves_with_all_that_belongs_to_it() {
    for (from_kind, to_kind) in [
        (Kind::File, Kind::File),
        (Kind::File, Kind::Sqlite),
        (Kind::Sqlite, Kind::Encrypted),
        (Kind::Encrypted, Kind::File),
    ] {
        eprintln!("from {from_kind:?} to {to_kind:?}");
        let (from, to) = (launch(from_kind, LIMITS), launch(to_kind, LIMITS));
        fill(&from);
        let server = to.start();
        let mut client = Stan::connect(to.port, "other");
        client.fill("others", 1..=2);
        let mut durable = ask("others");
        durable.durable_name = "d".into();
        client.subscribe(durable);
        client.close().unwrap();
        stop(server);

        let output = relocate("orders", &from.config_path(), &to.config_path());
        assert!(output.status.success(), "{}", said(&output));
        let expected =
            "moved channel orders: messages 21 to 60, 2 subscription(s), 10 delivery(ies)";
        assert!(said(&output).starts_with(expected), "{}", said(&output));

        let server = to.start();
        let mut client = Stan::connect(to.port, "worker");
        let replay = client.replay("orders", 40);
        assert_eq!(sequences(&replay), (21..=60).collect::<Vec<u64>>());
        let mut durable = all("orders");
        durable.durable_name = "d".into();
        let sub = client.subscribe(durable.clone());
        let again = client.take(&sub, 35);
        let is_again: Vec<bool> = again.iter().map(|it| it.message.redelivered).collect();
        assert_eq!(sequences(&again), (26..=60).collect::<Vec<u64>>());
        assert_eq!(is_again, [vec![true; 10], vec![false; 25]].concat());
        durable.q_group = "g".into();
        let members = client.subscribe(durable);
        client.fill("orders", 61..=61);
        assert_eq!(sequences(&client.take(&members, 1)), [61]);
        assert_eq!(sequences(&client.replay("others", 2)), [1, 2]);
        stop(server);

        let server = from.start();
        let channels = server.json("/streaming/channelsz");
        assert_eq!(channels["names"], serde_json::json!(["news"]));
        stop(server);
    }
}

/// Goal: what was broken off between the copy and its end is begun again, and comes to its end.
#[test]
fn a_move_that_was_broken_off_can_be_begun_again() {
    let (from, to) = (launch(Kind::File, LIMITS), launch(Kind::File, LIMITS));
    fill(&from);
    let (data, kept) = (from.folder().join("data"), from.folder().join("kept"));
    let copied = Command::new("cp").arg("-a").args([&data, &kept]).status().unwrap();
    assert!(copied.success());
    let moved = || relocate("orders", &from.config_path(), &to.config_path());
    assert!(moved().status.success());
    // As if the source had not been reached any more.
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    let output = moved();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(messages_of(&to, "orders"), (21, 60, 40));
    assert!(said(&moved()).contains("there is no channel orders"));
}

/// Goal: whatever the other store has of that name is its own, unless a move has left it there.
#[test]
fn a_channel_without_messages_takes_the_place_of_no_other() {
    let (from, to) = (launch(Kind::File, ""), launch(Kind::File, ""));
    let server = from.start();
    let mut client = Stan::connect(from.port, "worker");
    client.fill("orders", 1..=100);
    client.close().unwrap();
    stop(server);
    // All of them expire.
    let config = fs::read_to_string(from.config_path()).unwrap();
    let short = config.replacen(", ", ", store_limits { max_age: \"1ms\" }, ", 1);
    let short = from.clone().config(&short);
    assert_eq!(messages_of(&short, "orders"), (101, 100, 0));
    let server = to.start();
    let mut client = Stan::connect(to.port, "worker");
    client.fill("orders", 1..=50);
    client.close().unwrap();
    stop(server);
    let moved = || relocate("orders", &from.config_path(), &to.config_path());
    let output = moved();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("has one already, with other messages"), "{}", said(&output));
    assert_eq!(messages_of(&to, "orders"), (1, 50, 50));

    // Where there is none, its next number stays.
    let to = launch(Kind::File, "");
    let data = from.folder().join("data");
    let kept = from.folder().join("kept");
    assert!(Command::new("cp").arg("-a").args([&data, &kept]).status().unwrap().success());
    let moved = || relocate("orders", &from.config_path(), &to.config_path());
    assert!(moved().status.success());
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    let output = moved();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(messages_of(&to, "orders"), (100, 100, 1));
}

/// Goal: one store has many names, and none of them makes it two.
#[test]
fn a_store_is_not_moved_into_itself() {
    for kind in [Kind::File, Kind::Sqlite] {
        let from = launch(kind, LIMITS);
        fill(&from);
        let data = from.folder().join("data");
        let (link, copy) = (from.folder().join("link"), from.folder().join("copy"));
        std::os::unix::fs::symlink(&data, &link).unwrap();
        let text = fs::read_to_string(from.config_path()).unwrap();
        let names = |path: &Path| text.replace(data.to_str().unwrap(), path.to_str().unwrap());
        let other = from.folder().join("other.conf");
        let mut texts = vec![text.clone(), names(&link)];
        if kind == Kind::Sqlite {
            fs::hard_link(&data, &copy).unwrap();
            texts.push(names(&copy));
            let asks = format!("{}?journal_mode=DELETE", data.display());
            texts.push(text.replace(data.to_str().unwrap(), &asks));
        }
        for text in texts {
            fs::write(&other, &text).unwrap();
            let output = relocate("orders", &from.config_path(), &other);
            assert_eq!(output.status.code(), Some(1), "{text}: {}", said(&output));
        }
        assert_eq!(messages_of(&from, "orders"), (21, 60, 40), "{kind:?}");
    }
}

/// Goal: limits are for servers: what expires meanwhile moves too, and is let go of there.
#[test]
fn a_channel_moves_while_its_messages_expire() {
    let limits = "store_limits { max_age: \"3s\" }";
    let (from, to) = (launch(Kind::File, limits), launch(Kind::File, limits));
    let server = from.start();
    let mut client = Stan::connect(from.port, "worker");
    client.fill("orders", 1..=200);
    client.close().unwrap();
    stop(server);
    let output = relocate("orders", &from.config_path(), &to.config_path());
    // On a machine that is slower than that it is refused, and moves nothing.
    if output.status.success() {
        assert!(said(&output).contains("messages 1 to 200"), "{}", said(&output));
    } else {
        assert!(said(&output).contains("let go of messages after 3s"), "{}", said(&output));
    }
}

/// Goal: what is encrypted stays readable with its key, whoever forgets to name it.
#[test]
fn a_store_whose_key_is_not_named_is_not_moved_in_clear() {
    let key = || Launch::new(&["-encrypt", "-encryption_key", "hush"]);
    let from = key();
    let place = from.folder().join("data").display().to_string();
    let from = from.config(&format!("streaming {{ store: file, dir: \"{place}\" }}\n"));
    stop(from.start());
    let server = from.start();
    let mut client = Stan::connect(from.port, "worker");
    client.fill("orders", 1..=5);
    client.close().unwrap();
    stop(server);
    let to = launch(Kind::Encrypted, "");
    let output = relocate("orders", &from.config_path(), &to.config_path());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("look encrypted, and no key is given"), "{}", said(&output));
    let mut command = Command::new(binary());
    command.args(["move", "orders", "--encrypt", "--from"]).arg(from.config_path());
    command.arg("--to").arg(to.config_path()).env("NATS_STREAMING_ENCRYPTION_KEY", "hush");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let server = to.start();
    let replay = Stan::connect(to.port, "reader").replay("orders", 5);
    assert_eq!(sequences(&replay), [1, 2, 3, 4, 5]);
    assert!(!replay[0].message.data.starts_with(&[2]) && !replay[0].message.data.starts_with(&[1]));
    stop(server);
}

/// Goal: a store that was encrypted for a time is not moved as it lies, and nothing stays of it.
#[test]
fn a_store_that_was_encrypted_for_a_time_is_not_moved_in_clear() {
    let clear = Launch::new(&[]);
    let place = clear.folder().join("data").display().to_string();
    let clear = clear.config(&format!("streaming {{ store: file, dir: \"{place}\" }}\n"));
    let key = Launch::new(&["-encrypt", "-encryption_key", "hush"]);
    let key = key.config(&format!("streaming {{ store: file, dir: \"{place}\" }}\n"));
    for (launch, range) in [(&clear, 1..=5), (&key, 6..=10), (&clear, 11..=15)] {
        let server = launch.start();
        let mut client = Stan::connect(launch.port, "worker");
        client.fill("orders", range);
        client.close().unwrap();
        stop(server);
    }
    let to = launch(Kind::Encrypted, "");
    let output = relocate("orders", &clear.config_path(), &to.config_path());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("look encrypted, and no key is given"), "{}", said(&output));
    assert_eq!(messages_of(&to, "orders"), (0, 0, 0));
    assert_eq!(messages_of(&clear, "orders"), (1, 15, 15));
}

/// Goal: a command that was refused leaves no mark of a server that has died.
#[test]
fn a_refused_move_gives_both_stores_back() {
    let (from, to) = (launch(Kind::File, LIMITS), launch(Kind::File, LIMITS));
    fill(&from);
    let refused = relocate("nobody", &from.config_path(), &to.config_path());
    assert_eq!(refused.status.code(), Some(1));
    for launch in [&from, &to] {
        let folder = launch.folder().join("data");
        let epochs = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let newest = epochs
            .filter_map(|path| {
                let number = path.to_str()?.rsplit_once(".stanby.epoch.")?.1.parse::<u64>().ok()?;
                Some((number, path))
            })
            .max()
            .unwrap();
        assert_eq!(fs::read(newest.1).unwrap()[42], b'r', "{folder:?}");
    }
}

/// Goal: a clear no, and both stores as they were.
#[test]
fn what_cannot_move_stays_where_it_is() {
    let from = launch(Kind::File, LIMITS);
    fill(&from);
    let refuses = |to: &Launch, channel: &str, why: &str| {
        let output = relocate(channel, &from.config_path(), &to.config_path());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(why), "{why}: {}", said(&output));
    };
    let to = launch(Kind::File, LIMITS);
    refuses(&to, "nobody", "there is no channel nobody");
    refuses(&to, "orders.*", "is no name of a channel");
    refuses(&launch(Kind::File, "cluster_id: other"), "orders", "of different clusters");
    for (limits, why) in [
        ("max_msgs: 7", "allow 7 message(s), and there are 40"),
        ("max_bytes: 1000", "allow 1000 byte(s), and there are"),
        ("max_subs: 1", "allow 1 subscription(s), and there are 2"),
        ("max_age: \"1ms\"", "let go of messages after 1ms"),
    ] {
        let narrow = launch(Kind::File, &format!("store_limits {{ {limits} }}"));
        refuses(&narrow, "orders", "limits of the store that is to have orders");
        refuses(&narrow, "orders", why);
        assert_eq!(messages_of(&narrow, "orders"), (0, 0, 0));
    }

    let server = to.start();
    refuses(&to, "orders", "it is in use; stop its server first");
    let mut client = Stan::connect(to.port, "other");
    client.fill("orders", 1..=2);
    client.close().unwrap();
    stop(server);
    refuses(&to, "orders", "has one already, with other messages");
    assert_eq!(messages_of(&to, "orders"), (1, 2, 2));

    let fresh = Launch::new(&[]).config("streaming { store: file, dir: \"data\" }\n");
    fs::write(fresh.config_path(), "streaming { store: memory }\n").unwrap();
    refuses(&fresh, "orders", "a store in memory is gone with its server");
    let folder = fresh.folder().join("data").display().to_string();
    let text = format!("streaming {{ store: file, dir: \"{folder}\" }}\n");
    fs::write(fresh.config_path(), text).unwrap();
    refuses(&fresh, "orders", "was never used: start its server once");
    fs::write(fresh.config_path(), "streaming { store: \n").unwrap();
    refuses(&fresh, "orders", "server.conf");
    assert_eq!(messages_of(&from, "orders"), (21, 60, 40));
}
