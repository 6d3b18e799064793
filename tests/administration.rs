//! What an operator changes at run time, by the real binary: shown, done, refused, and there after
//! a kill as a whole or not at all. `STANBY_ADMINISTRATION=full` runs 200 rounds with kills;
//! `STANBY_GO_SERVER` names a Go `nats-streaming-server` that opens the store after each change.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/commands.rs"]
mod commands;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::commands::{refused, said, stanby, told};
use crate::server::{Launch, READY, Server, binary, free_port, wait_for};
use crate::stan::{Stan, all, ask, sequences};

/// A server and the socket that it is asked on.
struct Asked {
    server: Server,
    socket: PathBuf,
}

fn launch(kind: &str) -> Launch {
    let launch = Launch::new(&[]);
    let socket = launch.folder().join("control.sock");
    let place = launch.folder().join("data").display().to_string();
    let store = match kind {
        "file" => format!("store: file, dir: \"{place}\""),
        "encrypted" => {
            format!("store: file, dir: \"{place}\", encrypt: true, encryption_key: \"hush\"")
        }
        "sqlite" => {
            let source = ["-sql_driver", "sqlite", "-sql_source", &place];
            let made = Command::new(binary()).args(["sql", "init"]).args(source).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            format!("store: sql, sql_options {{ driver: sqlite, source: \"{place}\" }}")
        }
        _ => "store: memory".to_owned(),
    };
    launch.config(&format!("streaming {{ {store} }}\n")).arg("-control_socket").arg(socket)
}

fn start(launch: &Launch) -> Asked {
    Asked { server: launch.start(), socket: launch.folder().join("control.sock") }
}

fn extent(channel: &Value) -> (u64, u64, u64) {
    let number = |key: &str| channel[key].as_u64().unwrap();
    (number("first"), number("last"), number("messages"))
}

fn info(socket: &Path, channel: &str) -> (u64, u64, u64) {
    extent(&told(socket, &["channel", "info", channel]))
}

/// What a Go server that opens the store shows of a channel, if there is one here.
fn go_shows(launch: &Launch, channel: &str) -> Option<(u64, u64, u64)> {
    let program = std::env::var_os("STANBY_GO_SERVER")?;
    let go = Launch::new(&[]).file_store(Some(&launch.folder().join("data")));
    let mut server = go.program(Path::new(&program)).start();
    let listed = server.json("/streaming/channelsz?subs=1");
    let found = listed["channels"].as_array().cloned().unwrap_or_default();
    let found = found.into_iter().find(|it| it["name"] == channel).unwrap_or_default();
    let number = |key: &str| found[key].as_u64().unwrap_or(0);
    server.stop(Signal::SIGTERM);
    Some((number("first_seq"), number("last_seq"), number("msgs")))
}

/// Goal: whatever the store, a purge shows what it has done, lasts, and a Go server finds the same.
#[test]
fn a_channel_is_shown_and_purged() {
    for kind in ["memory", "file", "encrypted", "sqlite"] {
        let launch = launch(kind);
        let mut asked = start(&launch);
        let mut client = Stan::connect(launch.port, "me");
        client.fill("orders", 1..=20);
        client.fill("orders.eu", 1..=3);
        client.fill("news", 1..=1);
        let names = |pattern: &[&str]| -> Vec<String> {
            let listed = told(&asked.socket, &[&["channel", "ls"], pattern].concat());
            let listed = listed.as_array().unwrap().iter();
            listed.map(|it| it["channel"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&[]), ["news", "orders", "orders.eu"]);
        assert_eq!(names(&["orders.>"]), ["orders.eu"]);
        let table = said(&stanby(&asked.socket, &["channel", "ls"]));
        assert!(table.starts_with("CHANNEL    MESSAGES  BYTES  FIRST  LAST\n"), "{table}");

        let done = told(&asked.socket, &["channel", "purge", "orders", "--keep", "5"]);
        assert_eq!((done["removed"].as_u64(), extent(&done)), (Some(15), (16, 20, 5)), "{kind}");
        let text = said(&stanby(&asked.socket, &["channel", "purge", "orders", "--to-seq", "17"]));
        assert_eq!(text, "channel orders: 2 messages are gone, 3 are left: 18 to 20\n");
        let future = "2200-01-01T00:00:00Z";
        let text = said(&stanby(&asked.socket, &["channel", "purge", "news", "--before", future]));
        assert_eq!(text, "channel news: 0 messages are gone, 1 is left: 1\n");
        let text = said(&stanby(&asked.socket, &["channel", "purge", "orders", "--before", "1h"]));
        assert_eq!(text, "channel orders: 0 messages are gone, 3 are left: 18 to 20\n");
        let line = asked.server.log.wait("asked to purge channel \"orders\" up to message 17: 2");
        assert!(line.contains("User ") && line.contains("(process "), "{line}");
        assert_eq!(sequences(&client.replay("orders", 3)), [18, 19, 20]);
        if kind == "memory" {
            continue;
        }
        asked.server.kill();
        if kind == "file"
            && let Some(shown) = go_shows(&launch, "orders")
        {
            assert_eq!(shown, (18, 20, 3));
        }
        let mut asked = start(&launch);
        assert_eq!(info(&asked.socket, "orders"), (18, 20, 3), "{kind}");
        let done = told(&asked.socket, &["channel", "purge", "orders"]);
        assert_eq!((done["removed"].as_u64(), extent(&done)), (Some(2), (20, 20, 1)), "{kind}");
        asked.server.kill();
        if kind == "file"
            && let Some(shown) = go_shows(&launch, "orders")
        {
            assert_eq!(shown, (20, 20, 1));
        }
        let asked = start(&launch);
        let mut client = Stan::connect(launch.port, "you");
        client.fill("orders", 21..=21);
        assert_eq!(info(&asked.socket, "orders"), (20, 21, 2), "{kind}");
        let left = client.replay("orders", 2);
        assert_eq!(sequences(&left), [20, 21]);
        assert!(left[0].message.data.is_empty(), "{kind}: nothing is left of its payload");
        let folder = launch.folder().join("data/orders");
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let is_left = |name: &String| name.starts_with("purged") || name.starts_with("emptied");
        assert_eq!(names.find(is_left), None, "{kind}: the purge is finished");
    }
}

/// Goal: of a large slice what stays is written anew if it is little; else it lies there until
/// then, and is hidden, also from the next member.
#[test]
fn what_stays_of_a_large_slice_is_written_anew_if_it_is_little() {
    let launch = launch("file");
    let mut asked = start(&launch);
    let mut client = Stan::connect(launch.port, "me");
    let payload = vec![b'x'; 512 * 1024];
    (0..40).for_each(|_| client.publish("orders", &payload).unwrap());
    let left = || -> Vec<String> {
        let names = std::fs::read_dir(launch.folder().join("data/orders")).unwrap().flatten();
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "subs.dat").collect();
        names.sort();
        names
    };
    told(&asked.socket, &["channel", "purge", "orders", "--to-seq", "1"]);
    assert_eq!(left(), ["msgs.1.dat", "msgs.1.idx", "purged.2"]);
    asked.server.kill();
    let asked = start(&launch);
    assert_eq!(info(&asked.socket, "orders"), (2, 40, 39));
    told(&asked.socket, &["channel", "purge", "orders", "--keep", "2"]);
    assert_eq!(info(&asked.socket, "orders"), (39, 40, 2));
    let names = left();
    assert!(names.len() == 2 && names[0] != "msgs.1.dat", "{names:?}");
}

/// Goal: what a command cannot do it says in words, and changes nothing.
#[test]
fn what_cannot_be_done_is_refused_in_words() {
    let launch = launch("file");
    let asked = start(&launch);
    let mut client = Stan::connect(launch.port, "me");
    client.fill("orders", 1..=3);
    let sub = client.subscribe(ask("orders"));
    let cases: [(&[&str], &str); 13] = [
        (&["channel", "info", "none"], "there is no channel \"none\""),
        (&["channel", "purge", "none"], "there is no channel \"none\""),
        (&["channel", "rm", "none"], "there is no channel \"none\""),
        (&["channel", "purge", "orders", "--before", "none"], "invalid time"),
        (&["channel", "purge", "none", "--before", "1h"], "there is no channel \"none\""),
        (&["channel", "purge", "orders", "--to-seq", "4"], "has no message 4: its last one is 3"),
        (&["channel", "purge", "orders.*"], "means several channels: name one"),
        (&["channel", "purge", "or\u{7}ders"], "there is no channel \"or\\aders\""),
        (&["channel", "ls", "a..b"], "is no pattern of channels"),
        (&["channel", "rm", "orders"], "it goes with them only if forced"),
        (&["client", "rm", "none"], "there is no client \"none\""),
        (&["subscription", "rm", "orders", "99"], "has no subscription 99"),
        (&["durable", "rm", "orders", "d"], "has no durable \"d\""),
    ];
    for (words, expected) in cases {
        let output = stanby(&asked.socket, words);
        let text = said(&output);
        assert!(!output.status.success() && text.contains(expected), "{words:?}: {text}");
    }
    let both =
        stanby(&asked.socket, &["channel", "purge", "orders", "--keep", "1", "--to-seq", "1"]);
    assert!(
        !both.status.success() && said(&both).contains("cannot be used with"),
        "{}",
        said(&both)
    );
    assert_eq!(info(&asked.socket, "orders"), (1, 3, 3));
    client.fill("orders", 4..=4);
    assert_eq!(sequences(&client.take(&sub, 1)), [4]);
    asked.server.signal(Signal::SIGSTOP);
    let text = refused(&asked.socket, &["channel", "ls"]);
    assert!(text.contains("the server does not answer"), "{text}");
    asked.server.signal(Signal::SIGCONT);
}

/// Goal: clients, subscriptions, durables and channels are ended as commands ask, and stay so.
#[test]
fn clients_durables_and_channels_are_ended() {
    for kind in ["file", "sqlite"] {
        let launch = launch(kind);
        let mut asked = start(&launch);
        let mut client = Stan::connect(launch.port, "worker");
        client.fill("orders", 1..=5);
        let plain = client.subscribe(all("orders"));
        let mut durable = all("orders");
        durable.durable_name = "d".into();
        let mut group = durable.clone();
        group.q_group = "g".into();
        client.take(&plain, 5);
        let sub = client.subscribe(durable.clone());
        client.take(&sub, 5);
        client.subscribe(group);
        let listed = told(&asked.socket, &["subscription", "ls", "orders"]);
        assert_eq!(listed.as_array().unwrap().len(), 3);
        let id = listed[0]["id"].as_u64().unwrap().to_string();
        let table = said(&stanby(&asked.socket, &["subscription", "ls"]));
        assert!(table.contains("5 of"), "{table}");
        told(&asked.socket, &["subscription", "rm", "orders", &id]);
        let used = refused(&asked.socket, &["durable", "rm", "orders", "d"]);
        assert!(used.contains("is in use by client worker"), "{used}");
        assert_eq!(told(&asked.socket, &["client", "ls"])[0]["client"], "worker");
        told(&asked.socket, &["client", "rm", "worker"]);
        assert_eq!(told(&asked.socket, &["client", "ls"]).as_array().unwrap().len(), 0);
        assert_eq!(told(&asked.socket, &["durable", "ls"]).as_array().unwrap().len(), 2);
        // One that is named twice is gone by the second time, and each error is of what was named.
        let some = refused(&asked.socket, &["durable", "rm", "orders", "d", "none", "d"]);
        for name in ["d", "none"] {
            let line = format!("durable {name}: channel \"orders\" has no durable \"{name}\"");
            assert!(some.contains(&line), "{some}");
        }
        assert!(some.contains("durable d of channel orders is removed"), "{some}");
        told(&asked.socket, &["durable", "rm", "orders", "d:g"]);
        asked.server.kill();
        let mut asked = start(&launch);
        let left = told(&asked.socket, &["subscription", "ls", "orders"]);
        assert_eq!(left.as_array().unwrap().len(), 0, "{kind}: {left}");
        let mut client = Stan::connect(launch.port, "worker");
        let sub = client.subscribe(durable);
        assert_eq!(client.take(&sub, 5)[0].brief(), (1, 0), "{kind}: a new one");
        told(&asked.socket, &["channel", "rm", "orders", "--force"]);
        asked.server.kill();
        let asked = start(&launch);
        assert_eq!(told(&asked.socket, &["channel", "ls"]).as_array().unwrap().len(), 0, "{kind}");
    }
}

/// Goal: a durable that is reset begins where it was told, now, after a kill, and for a Go server.
#[test]
fn a_durable_is_reset() {
    for kind in ["file", "sqlite"] {
        let launch = launch(kind);
        let mut asked = start(&launch);
        let mut client = Stan::connect(launch.port, "worker");
        client.fill("orders", 1..=9);
        let mut durable = all("orders");
        durable.durable_name = "d".into();
        let sub = client.subscribe(durable.clone());
        client.take(&sub, 9);
        client.ack(&sub, 1);
        client.flush();
        let reset = ["durable", "reset", "orders", "d", "--to", "7"];
        let used = refused(&asked.socket, &reset);
        assert!(used.contains("is in use by client worker"), "{used}");
        client.leave(&sub, true).unwrap();
        told(&asked.socket, &reset);
        asked.server.kill();
        if kind == "file"
            && let Some(program) = std::env::var_os("STANBY_GO_SERVER")
        {
            let go = Launch::new(&[]).file_store(Some(&launch.folder().join("data")));
            let mut server = go.program(Path::new(&program)).start();
            let listed = server.json("/streaming/channelsz?channel=orders&subs=1");
            let shown = &listed["subscriptions"][0];
            let found = (shown["last_sent"].as_u64(), shown["pending_count"].as_u64());
            assert_eq!(found, (Some(6), Some(0)), "{listed}");
            server.stop(Signal::SIGTERM);
        }
        let asked = start(&launch);
        let mut client = Stan::connect(launch.port, "worker");
        let sub = client.subscribe(durable.clone());
        let got: Vec<_> = client.take(&sub, 3).iter().map(stan::Delivery::brief).collect();
        assert_eq!(got, [(7, 0), (8, 0), (9, 0)], "{kind}");
        client.leave(&sub, true).unwrap();
        for (to, expected) in [("1h", 1), ("last", 9), ("first", 1)] {
            told(&asked.socket, &["durable", "reset", "orders", "d", "--to", to]);
            let sub = client.subscribe(durable.clone());
            assert_eq!(client.take(&sub, 1)[0].brief(), (expected, 0), "{kind} {to}");
            client.leave(&sub, true).unwrap();
        }
    }
}

/// Goal: messages are read, found and shown with who has not acknowledged them.
#[test]
fn messages_are_shown_and_what_waits_for_whom() {
    let launch = launch("file");
    let asked = start(&launch);
    let mut client = Stan::connect(launch.port, "worker");
    client.fill("orders", 1..=3_000);
    client.publish("orders", [0xff, 0x00]).unwrap();
    client.publish("orders", "\u{1b}[2J").unwrap();
    let sequences = |found: &Value| -> Vec<u64> {
        found.as_array().unwrap().iter().map(|it| it["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(told(&asked.socket, &["msg", "get", "orders", "17"])["text"], "17");
    let none = refused(&asked.socket, &["msg", "get", "orders", "3003"]);
    assert!(none.contains("has no message 3003"), "{none}");
    let newest = told(&asked.socket, &["msg", "ls", "orders", "-n", "2"]);
    assert_eq!((sequences(&newest), &newest[0]["hex"]), (vec![3_001, 3_002], &"ff00".into()));
    let all = told(&asked.socket, &["msg", "ls", "orders", "--from", "1", "-n", "5000"]);
    assert_eq!(sequences(&all), (1..=3_002).collect::<Vec<_>>());
    let found = told(&asked.socket, &["msg", "find", "orders", "299", "-n", "3"]);
    assert_eq!(sequences(&found), [299, 1_299, 2_299]);
    let found = told(&asked.socket, &["msg", "find", "orders", "299", "--from", "2300"]);
    assert_eq!(sequences(&found), (2_990..=2_999).collect::<Vec<_>>());
    let table = said(&stanby(&asked.socket, &["msg", "ls", "orders", "-n", "1"]));
    assert!(table.ends_with("\\u{1b}[2J\n"), "nothing reaches the terminal as it is: {table}");

    let mut request = all_of_few("orders");
    request.ack_wait_in_secs = 1;
    let sub = client.subscribe(request);
    client.take(&sub, 3);
    client.ack(&sub, 2);
    // Delivered once more.
    client.take(&sub, 1);
    client.take(&sub, 1);
    let waiting = told(&asked.socket, &["pending", "orders", "--client", "worker"]);
    assert_eq!(sequences(&waiting)[..2], [1, 3]);
    assert!(waiting[0]["since"].as_i64().is_some(), "{waiting}");
    let again = wait_for("a redelivery that is counted", || {
        let waiting = told(&asked.socket, &["pending", "orders"]);
        waiting[0]["redelivered"].as_u64().filter(|count| 0 < *count)
    });
    assert!(0 < again);
    let nobody = told(&asked.socket, &["pending", "orders", "--client", "nobody"]);
    assert_eq!(sequences(&nobody), [0; 0]);
}

fn all_of_few(channel: &str) -> stanby::proto::pb::SubscriptionRequest {
    let mut request = all(channel);
    request.max_in_flight = 3;
    request
}

/// Goal: two who ask at once are both answered, and what both wanted is done.
#[test]
fn two_who_ask_at_once_are_both_answered() {
    let launch = launch("file");
    let asked = start(&launch);
    Stan::connect(launch.port, "me").fill("orders", 1..=100);
    let askers = ["30", "60"].map(|to| {
        let socket = asked.socket.clone();
        thread::spawn(move || told(&socket, &["channel", "purge", "orders", "--to-seq", to]))
    });
    let removed: u64 =
        askers.into_iter().map(|it| it.join().unwrap()["removed"].as_u64().unwrap()).sum();
    assert_eq!((removed, info(&asked.socket, "orders")), (60, (61, 100, 40)));
}

/// Goal: a standby leads to the active member of its machine, and a change is there after the
/// take-over.
#[test]
fn a_standby_leads_to_the_active_member() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ports) = (folder.path().join("store"), [free_port(), free_port()]);
    let member = |own: usize| {
        let socket = folder.path().join(format!("{own}.sock"));
        let cluster = format!("nats://127.0.0.1:{}", ports[own]);
        let routes = format!("nats://127.0.0.1:{}", ports[1 - own]);
        let launch = Launch::new(&["-ft_group", "g", "-cluster", &cluster, "-routes", &routes]);
        let server = launch.file_store(Some(&store)).arg("-control_socket").arg(&socket).spawn();
        Asked { server, socket }
    };
    let mut active = member(0);
    active.server.log.wait(READY);
    let standby = member(1);
    standby.server.log.wait("Control socket is");
    wait_for("a standby that knows who is active", || {
        let output = stanby(&standby.socket, &["status"]);
        output.status.success().then_some(())
    });
    Stan::connect(active.server.launch.port, "me").fill("orders", 1..=10);
    let done = told(&standby.socket, &["channel", "purge", "orders", "--keep", "3"]);
    assert_eq!(extent(&done), (8, 10, 3));
    active.server.kill();
    standby.server.log.wait(READY);
    assert_eq!(info(&standby.socket, "orders"), (8, 10, 3));
}

/// Rounds of the test with kills.
fn rounds() -> u64 {
    let is_full = std::env::var_os("STANBY_ADMINISTRATION").is_some_and(|found| found == "full");
    if is_full { 200 } else { 4 }
}

/// What a command asks for while the server is killed, and whether it is there.
const CHANGES: [&[&str]; 4] = [
    &["durable", "rm", "jobs", "d"],
    &["durable", "reset", "jobs", "d", "--to", "3"],
    &["channel", "rm", "jobs", "--force"],
    &["channel", "purge", "jobs"],
];

/// Goal: with kills in between an answered change of any kind is there, and one that was not
/// answered is there as a whole or not at all.
#[test]
fn every_change_survives_a_kill_as_a_whole_or_not_at_all() {
    for kind in ["file", "sqlite"] {
        let launch = launch(kind);
        let mut answered = 0;
        for round in 0..rounds() {
            let mut asked = start(&launch);
            let mut client = Stan::connect(launch.port, &format!("c{round}"));
            client.fill("jobs", 1..=5);
            let mut durable = all("jobs");
            durable.durable_name = "d".into();
            let sub = client.subscribe(durable);
            client.take(&sub, 5);
            client.leave(&sub, true).unwrap();
            let url = format!("nats://127.0.0.1:{}", launch.port);
            let mut load = Command::new(binary());
            load.args(["pub", "-s", &url, "-n", "1000000", "-a", "orders", "load"]);
            let mut load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let change = usize::try_from(round % 4).unwrap();
            let mut command = Command::new(binary());
            command.args(CHANGES[change]).arg("--socket").arg(&asked.socket);
            let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            thread::park_timeout(Duration::from_millis(round * 41 % 130));
            asked.server.kill();
            load.kill().unwrap();
            load.wait().unwrap();
            let output = command.wait_with_output().unwrap();
            let asked = start(&launch);
            let listed = told(&asked.socket, &["channel", "ls", "jobs"]);
            let subs = listed[0].is_object().then(|| {
                let subs = told(&asked.socket, &["subscription", "ls", "jobs"]);
                let number = |one: &Value, key: &str| one[key].as_u64().unwrap();
                let subs = subs.as_array().unwrap().iter();
                subs.map(|one| (number(one, "last_sent"), number(one, "pending"))).collect()
            });
            let mut subs: Option<Vec<(u64, u64)>> = subs;
            if kind == "sqlite" {
                // There what is pending is written within a second.
                subs.iter_mut().flatten().filter(|one| one.0 == 5).for_each(|one| one.1 = 5);
            }
            let held = listed[0].is_object().then(|| extent(&listed[0]));
            let untouched = (Some(vec![(5, 5)]), Some((1, 5, 5)));
            let done = match change {
                0 => (Some(vec![]), Some((1, 5, 5))),
                1 => (Some(vec![(2, 0)]), Some((1, 5, 5))),
                2 => (None, None),
                _ => (Some(vec![(5, 5)]), Some((5, 5, 1))),
            };
            let found = (subs, held);
            let is_done = found == done;
            assert!(is_done || found == untouched, "{kind} {:?}: {found:?}", CHANGES[change]);
            if output.status.success() {
                answered += 1;
                assert!(is_done, "{kind} {:?}: {}", CHANGES[change], said(&output));
            }
            if found.1.is_some() {
                told(&asked.socket, &["channel", "rm", "jobs", "--force"]);
            }
        }
        eprintln!("{kind}: {answered} of {} were answered", rounds());
    }
}

/// Goal: under load and with kills in between an answered purge is there, and one that was not
/// answered is there as a whole or not at all.
#[test]
fn a_purge_survives_a_kill_as_a_whole_or_not_at_all() {
    for kind in ["file", "sqlite"] {
        let launch = launch(kind);
        let mut answered = 0;
        let mut before_last = 0;
        for round in 0..rounds() {
            let mut asked = start(&launch);
            let mut client = Stan::connect(launch.port, &format!("c{round}"));
            assert!(client.fill("orders", 1..=50).is_empty());
            let (first, last, _) = info(&asked.socket, "orders");
            assert_eq!(before_last + 50, last, "{kind}: numbers go on");
            let url = format!("nats://127.0.0.1:{}", launch.port);
            let mut load = Command::new(binary());
            load.args(["pub", "-s", &url, "-n", "1000000", "-a", "orders", "load"]);
            let mut load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let to = first + (last - first) / 2;
            let words = ["channel", "purge", "orders", "--to-seq", &to.to_string()];
            let words: Vec<&str> =
                if round % 3 == 2 { words[..3].to_vec() } else { words.to_vec() };
            let mut command = Command::new(binary());
            command.args(&words).arg("--socket").arg(&asked.socket);
            let purge = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // Sooner or later than the answer: each moment is of interest.
            thread::park_timeout(Duration::from_millis(round * 37 % 120));
            asked.server.kill();
            load.kill().unwrap();
            load.wait().unwrap();
            let output = purge.wait_with_output().unwrap();
            let mut asked = start(&launch);
            let (now_first, now_last, count) = info(&asked.socket, "orders");
            assert!(last <= now_last, "{kind}: a message is lost");
            assert_eq!(count, now_last + 1 - now_first, "{kind}: what is left is dense");
            let is_done = if words.len() == 3 { last <= now_first } else { now_first == to + 1 };
            let is_undone = now_first == first;
            assert!(is_done || is_undone, "{kind}: {first} to {last}, now from {now_first}");
            if output.status.success() {
                answered += 1;
                assert!(is_done, "{kind}: answered and not there: {}", said(&output));
            }
            before_last = now_last;
            asked.server.kill();
            if kind == "file"
                && round % 5 == 0
                && let Some((go_first, go_last, _)) = go_shows(&launch, "orders")
            {
                assert_eq!((go_first, go_last), (now_first, now_last), "the Go server");
            }
        }
        eprintln!("{kind}: {answered} of {} were answered", rounds());
    }
}
