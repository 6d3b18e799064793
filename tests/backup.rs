//! `stanby backup` of a server under load, by the real binary, with kills in between.
//!
//! `STANBY_COPY=full`: fifty of them (`tests/run --full copy`). `STANBY_GO_SERVER`: a Go streaming
//! server, which opens each of them too.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a wait for a condition needs a bound")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

#[path = "support/databases.rs"]
mod databases;
#[path = "support/lasting.rs"]
mod lasting;
#[path = "support/server.rs"]
mod server;
#[path = "support/stan.rs"]
mod stan;
#[path = "support/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use prost::Message as _;
use stanby::client::{Client, Options, StartAt, SubscriptionOptions};
use stanby::config::options::{self, Request};
use stanby::config::{Config, Program, World};
use stanby::proto::pb;
use stanby::store::source::unlimited;

use crate::lasting::{Kind, Store, command, must, must_print, must_refuse, said};
use crate::server::{Launch, Server, free_port, wait_for};
use crate::stan::{CLUSTER, Stan};

const CHANNELS: [&str; 3] = ["orders", "orders.late", "news"];

fn rounds() -> usize {
    let is_full = std::env::var_os("STANBY_COPY").is_some_and(|found| found == "full");
    if is_full { 50 } else { 5 }
}

/// Publishers, one a channel, and a durable that acknowledges two of three.
struct Load {
    is_over: Arc<AtomicBool>,
    /// What was acknowledged, in its order, by channel.
    acked: Arc<Mutex<BTreeMap<&'static str, Vec<u64>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(port: u16) -> Self {
        let (is_over, acked) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let mut load = Self { is_over, acked, threads: Vec::new() };
        for channel in CHANNELS {
            let (is_over, acked) = (Arc::clone(&load.is_over), Arc::clone(&load.acked));
            let publish = move || publish(port, channel, &is_over, &acked);
            load.threads.push(thread::spawn(publish));
        }
        let is_over = Arc::clone(&load.is_over);
        load.threads.push(thread::spawn(move || subscribe(port, &is_over)));
        load
    }

    fn acked(&self) -> BTreeMap<&'static str, Vec<u64>> {
        self.acked.lock().unwrap().clone()
    }

    /// Waits until each channel has more than it has now.
    fn wait_for_more(&self, more: usize) {
        let before = self.acked();
        let count =
            |acked: &BTreeMap<&'static str, Vec<u64>>, name| acked.get(name).map_or(0, Vec::len);
        wait_for("publishes", || {
            let now = self.acked();
            let has_more = |name: &&'static str| count(&before, *name) + more <= count(&now, *name);
            CHANNELS.iter().all(has_more).then_some(())
        });
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn client(port: u16, id: &str) -> Client {
    let address = format!("127.0.0.1:{port}");
    let ack_timeout = Duration::from_secs(2);
    Client::connect(Options { ack_timeout, ..Options::new(&[&address], CLUSTER, id) }).unwrap()
}

fn publish(
    port: u16,
    channel: &'static str,
    is_over: &AtomicBool,
    acked: &Mutex<BTreeMap<&'static str, Vec<u64>>>,
) {
    let client = client(port, &channel.replace('.', "-"));
    let mut number = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let data = [number.to_be_bytes().as_slice(), &[b'x'; 200]].concat();
        // One without an answer may be there or not.
        if client.publish(channel, data).is_ok() {
            acked.lock().unwrap().entry(channel).or_default().push(number);
        }
    }
    let _ = client.close();
}

fn subscribe(port: u16, is_over: &AtomicBool) {
    let client = client(port, "reader");
    let options = SubscriptionOptions {
        durable: Some("d".to_owned()),
        start: StartAt::First,
        manual_acks: true,
        ..SubscriptionOptions::default()
    };
    let received = client.subscribe("orders", options, |message| {
        if message.sequence % 3 != 0 {
            let _ = message.ack();
        }
    });
    let _received = received.unwrap();
    while !is_over.load(Ordering::Relaxed) {
        thread::park_timeout(Duration::from_millis(20));
    }
    let _ = client.close();
}

/// What of a store is looked at: messages, and each subscription's place.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    messages: BTreeMap<String, Vec<(u64, u64)>>,
    durables: usize,
}

/// Opens it as a server does.
fn look(directory: &Path) -> Seen {
    let mut place = lasting::open(&config(directory));
    let mut seen = Seen::default();
    for channel in place.recovered().channels.clone() {
        let (mut next, mut messages) = (channel.state.first, Vec::new());
        loop {
            let found = place.read(&channel.channel, next).unwrap();
            let Some(last) = found.last() else { break };
            next = last.sequence.next();
            messages.extend(found.iter().map(|message| {
                let decoded = pb::MsgProto::decode(message.encoded.clone()).unwrap();
                let number = decoded.data.get(..8).map(|bytes| bytes.try_into().unwrap());
                (message.sequence.get(), number.map_or(0, u64::from_be_bytes))
            }));
        }
        for it in &channel.subscriptions {
            let last = channel.state.last;
            assert!(it.state.last_sent <= last.get(), "{} is ahead of {last}", it.state.last_sent);
            assert!(it.pending.iter().all(|sequence| *sequence <= last), "{:?}", it.pending);
            seen.durables += usize::from(it.state.is_durable);
        }
        seen.messages.insert(channel.channel.to_string(), messages);
    }
    place.close().unwrap();
    seen
}

fn config(directory: &Path) -> Box<Config> {
    let world = World {
        read: &|_| Err(std::io::ErrorKind::NotFound.into()),
        variable: &|_| None,
        secret: &|_| None,
        cores: 1,
    };
    let line = ["-store", "file", "-dir", directory.to_str().unwrap()].map(str::to_owned);
    let Request::Serve(mut config) = options::load(Program::Streaming, &line, &world).unwrap()
    else {
        panic!("{line:?} starts no server");
    };
    config.streaming.limits = unlimited();
    config
}

/// A server with a control socket of its own.
struct Served {
    launch: Launch,
    store: PathBuf,
    socket: String,
}

impl Served {
    fn new(args: &[&str]) -> Self {
        let launch = Launch::new(args).loops(2);
        let store = launch.folder().join("store");
        let socket = launch.folder().join("control.sock").display().to_string();
        let launch = launch.file_store(None).arg("-control_socket").arg(&socket);
        Self { launch, store, socket }
    }

    fn words<'a>(&'a self, to: &'a Path) -> Vec<&'a str> {
        vec!["backup", "--json", "--socket", &self.socket, to.to_str().unwrap()]
    }
}

/// The Go server serves what is there.
fn opened_by_the_go_server(directory: &Path, seen: &Seen) {
    let Some(path) = std::env::var_os("STANBY_GO_SERVER") else { return };
    let launch = Launch::new(&[]).program(Path::new(&path)).file_store(Some(directory));
    let mut server = launch.start();
    let listed = server.json("/streaming/channelsz?subs=1");
    for channel in listed["channels"].as_array().unwrap() {
        let messages = &seen.messages[channel["name"].as_str().unwrap()];
        assert_eq!(channel["msgs"].as_u64(), Some(messages.len() as u64), "{channel}");
    }
    server.stop(Signal::SIGTERM);
}

fn refused_by_a_server(directory: &Path) {
    let mut server = Launch::new(&[]).file_store(Some(directory)).spawn();
    assert_eq!(server.wait_exit().code(), Some(1), "{}", server.log.text());
    let said = "does not match recovered value of \"unfinished backup of test-cluster\"";
    assert!(server.log.text().contains(said), "{}", server.log.text());
    let checked = Command::new(env!("CARGO_BIN_EXE_stanby")).arg("check").arg(directory).output();
    let checked = checked.unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(3), "{said}");
    assert!(said.contains("unfinished backup of test-cluster"), "{said}");
}

/// Goal: a backup under load has all that was acknowledged before it began, of each channel a
/// prefix, and no subscription ahead of it; one whose server was killed is taken by nobody.
#[test]
fn backups_under_load_are_whole() {
    let served = Served::new(&["-mm", "0", "-mb", "0"]);
    let folder = tempfile::tempdir().unwrap();
    let mut server: Server = served.launch.start();
    let load = Load::begin(served.launch.port);
    let mut backups = Vec::new();
    for round in 0..rounds() {
        load.wait_for_more(if rounds() == 5 { 50 } else { 400 });
        let to = folder.path().join(round.to_string());
        let before = load.acked();
        let mut backup = command(&served.words(&to));
        let child = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if round % 5 == 4 {
            wait_for("a backup that has begun", || to.join("news").exists().then_some(()));
            server.kill();
            server = served.launch.start();
        }
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            assert_eq!(round % 5, 4, "{}", said(&output));
            assert!(said(&output).contains("the server ended before"), "{}", said(&output));
            refused_by_a_server(&to);
            continue;
        }
        let seen = look(&to);
        for (channel, acked) in before {
            let has = seen.messages.get(channel).map(Vec::as_slice).unwrap_or_default();
            let numbers: std::collections::BTreeSet<u64> = has.iter().map(|(_, it)| *it).collect();
            let lost: Vec<&u64> = acked.iter().filter(|number| !numbers.contains(number)).collect();
            assert!(lost.is_empty(), "round {round}: {channel} lost {lost:?} of {}", acked.len());
        }
        assert_eq!(seen.durables, 1, "round {round}");
        opened_by_the_go_server(&to, &seen);
        backups.push(seen);
    }
    load.end();
    server.stop(Signal::SIGTERM);
    let now = look(&served.store);
    for (round, backup) in backups.iter().enumerate() {
        for (channel, messages) in &backup.messages {
            assert!(now.messages[channel].starts_with(messages), "backup {round} of {channel}");
        }
    }
    eprintln!("{} backups are whole, of {}", backups.len(), rounds());
    assert!(rounds() * 4 / 5 <= backups.len());
}

/// Goal: what limits let go of while it is copied is not missed, and the rest is a whole channel.
#[test]
fn a_channel_that_lets_go_of_messages_is_backed_up() {
    let served = Served::new(&["-mm", "40"]);
    let folder = tempfile::tempdir().unwrap();
    let mut server = served.launch.start();
    let load = Load::begin(served.launch.port);
    for round in 0..3 {
        load.wait_for_more(60);
        let to = folder.path().join(round.to_string());
        must(&served.words(&to));
        let seen = look(&to);
        for messages in seen.messages.values() {
            assert!(!messages.is_empty() && messages.len() <= 40, "{messages:?}");
            assert!(messages.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{messages:?}");
        }
        opened_by_the_go_server(&to, &seen);
    }
    load.end();
    server.stop(Signal::SIGTERM);
}

/// Goal: a backup is a store: a server begins over it, and any kind of store is made of it.
#[test]
fn a_backup_is_restored() {
    let served = Served::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut server = served.launch.start();
    let mut client = Stan::connect(served.launch.port, "worker");
    client.fill("orders", 1..=20);
    let mut durable = stan::all("orders");
    durable.durable_name = "d".into();
    durable.max_in_flight = 5;
    let sub = client.subscribe(durable.clone());
    assert_eq!(stan::sequences(&client.take(&sub, 5)), [1, 2, 3, 4, 5]);
    let to = folder.path().join("monday");
    let told = must_print(&served.words(&to));
    assert_eq!((&told["messages"], &told["subscriptions"]), (&20.into(), &1.into()), "{told}");
    client.fill("orders", 21..=30);
    server.stop(Signal::SIGTERM);

    for kind in Kind::all() {
        let store = Store::new(kind);
        let mut words = vec!["restore", to.to_str().unwrap(), &store.name];
        words.extend((kind == Kind::Encrypted).then_some("--to-encrypted"));
        let text = must(&words);
        assert!(text.contains("channel orders: messages 1 to 20, 1 subscription(s), 5 "), "{text}");
    }
    let launch = Launch::new(&[]).file_store(Some(&to));
    let mut server = launch.start();
    let mut client = Stan::connect(launch.port, "other");
    assert_eq!(client.replay("orders", 20).len(), 20);
    server.stop(Signal::SIGTERM);
}

/// Goal: any member of a group on this machine may be asked, and the active one does it.
#[test]
fn of_a_group_the_active_one_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let ports = [free_port(), free_port()];
    let members = [0, 1].map(|own| {
        let socket = folder.path().join(format!("{own}.sock")).display().to_string();
        let cluster = format!("nats://127.0.0.1:{}", ports[own]);
        let routes = format!("nats://127.0.0.1:{}", ports[1 - own]);
        let group = ["-ft_group", "g", "-cluster", &cluster, "-routes", &routes];
        let launch = Launch::new(&group).arg("-control_socket").arg(&socket);
        (launch.file_store(Some(&store)), socket)
    });
    let mut active = members[0].0.start();
    let mut standby = members[1].0.spawn();
    let mut client = Stan::connect(members[0].0.port, "worker");
    client.fill("orders", 1..=20);
    let socket = &members[1].1;
    wait_for("members that know each other", || {
        let told = command(&["status", "--json", "--socket", socket]).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&told.stdout).ok()?;
        let members = status["members"].as_array()?;
        (members.len() == 2 && members.iter().all(|it| it["trouble"].is_null())).then_some(())
    });
    let to = folder.path().join("monday");
    let text = must(&["backup", "--socket", socket, to.to_str().unwrap()]);
    assert!(text.starts_with("copied 1 channel(s), 20 message(s)"), "{text}");
    assert_eq!(look(&to).messages["orders"].len(), 20);
    // Who stands by refuses it at once.
    let question = format!("{{\"ask\":\"backup\",\"to\":\"{}/no\"}}\n", folder.path().display());
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "{\"refused\":\"this member is not active\"}\n");
    standby.stop(Signal::SIGTERM);
    active.stop(Signal::SIGTERM);
}

/// Goal: what is no place for a backup is refused, and so is a store that has other tools.
#[test]
fn what_cannot_be_backed_up_is_refused() {
    let served = Served::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let free = folder.path().join("free");
    let refuses = |served: &Served, to: &Path, why: &str| must_refuse(&served.words(to), why);
    refuses(&served, &free, "control.sock");
    let mut server = served.launch.start();
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "mine").unwrap();
    refuses(&served, &full, "the new store is not empty: there is ");
    refuses(&served, &served.store, "the new store is not empty: there is ");
    refuses(&served, &served.store.join("inside"), "lies in the store itself");
    assert!(!served.store.join("inside").exists());
    refuses(&served, Path::new("/dev/null/there"), "/dev/null");
    server.stop(Signal::SIGTERM);

    let memory = Launch::new(&[]);
    let socket = memory.folder().join("control.sock").display().to_string();
    let memory = memory.arg("-control_socket").arg(&socket);
    let (launch, store) = (memory, PathBuf::new());
    let mut server = launch.start();
    let memory = Served { launch, store, socket };
    refuses(&memory, &free, "a store in memory is gone with its server");
    server.stop(Signal::SIGTERM);

    let sqlite = Store::new(Kind::Sqlite);
    let source = sqlite.folder().join("store.db").display().to_string();
    let launch = Launch::new(&["-store", "sql", "-sql_driver", "sqlite", "-sql_source", &source]);
    let socket = launch.folder().join("control.sock").display().to_string();
    let (launch, store) = (launch.arg("-control_socket").arg(&socket), PathBuf::new());
    let mut server = launch.start();
    let over_sql = Served { launch, store, socket };
    refuses(&over_sql, &free, "a database is backed up by its own tool");
    server.stop(Signal::SIGTERM);
    assert!(!free.exists(), "nothing is made");
}
