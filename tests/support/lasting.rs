//! Lasting stores of each kind: as a command line names them, and all that lies in one.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use stanby::base::id::{ChannelName, Sequence, SubscriptionId};
use stanby::base::record::{
    Batch, ChannelBatch, ClientWrite, Lifecycle, MessageRecord, RecoveredChannel, SubscriptionWrite,
};
use stanby::config::options::{self, Request};
use stanby::config::{Config, Program, World};
use stanby::proto::{pb, spb};
use stanby::site::place::{Place, PlaceError};
use stanby::store::source::unlimited;

use crate::databases;
use crate::server::{binary, wait_for};

/// What names the key.
pub const KEY: &str = "NATS_STREAMING_ENCRYPTION_KEY";

/// The cluster of all stores that are filled here.
pub const CLUSTER: &str = "test-cluster";

/// Opens a store that nobody has. A program that another test starts has for a moment, until it is
/// itself, what this process has open: also a lock that has just been let go of.
pub fn open(config: &Config) -> Place {
    wait_for("the lock", || match Place::open_unlimited(config) {
        Err(PlaceError::InUse(_)) => None,
        other => Some(other.unwrap()),
    })
}

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Encrypted,
    Sqlite,
    Postgres,
    Mysql,
}

impl Kind {
    /// Those that there are on this machine.
    pub fn all() -> Vec<Self> {
        let mut kinds = vec![Self::File, Self::Encrypted, Self::Sqlite];
        kinds.extend(databases::postgres_address().map(|_| Self::Postgres));
        kinds.extend(databases::mysql_address().map(|_| Self::Mysql));
        kinds
    }
}

/// A store that is there, or a place for one.
pub struct Store {
    pub kind: Kind,
    /// As a command takes it.
    pub name: String,
    folder: tempfile::TempDir,
    line: Vec<String>,
}

impl Store {
    /// A place for one; a database has its tables.
    pub fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (driver, source) = match kind {
            Kind::File | Kind::Encrypted => (None, at.join("data").display().to_string()),
            Kind::Sqlite => {
                databases::sqlite(at);
                (Some("sqlite"), at.join("store.db").display().to_string())
            }
            Kind::Postgres => {
                databases::postgres(at);
                let address = databases::postgres_address().unwrap();
                (Some("postgres"), format!("{address} dbname={}", databases::name(at)))
            }
            Kind::Mysql => {
                databases::mysql(at);
                let address = databases::mysql_address().unwrap();
                (Some("mysql"), format!("{address}/{}", databases::name(at)))
            }
        };
        let (name, line) = match driver {
            None => (source.clone(), vec!["-store", "file", "-dir", &source]),
            Some(driver) => (
                format!("{driver}:{source}"),
                vec!["-store", "sql", "-sql_driver", driver, "-sql_source", &source],
            ),
        };
        let line = line.into_iter().map(str::to_owned).collect();
        Self { kind, name, folder, line }
    }

    /// The folder in which it lies, if it does.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// As its server would have it, without limits.
    pub fn config(&self) -> Box<Config> {
        let world = World {
            read: &|_| Err(io::ErrorKind::NotFound.into()),
            variable: &|_| None,
            secret: &|name| (name == KEY).then(|| b"hush".to_vec()),
            cores: 1,
        };
        let mut line = self.line.clone();
        line.extend((self.kind == Kind::Encrypted).then(|| "-encrypt".to_owned()));
        let Request::Serve(mut config) = options::load(Program::Streaming, &line, &world).unwrap()
        else {
            panic!("{line:?} starts no server");
        };
        config.streaming.limits = unlimited();
        config
    }

    pub fn open(&self) -> Place {
        open(&self.config())
    }

    /// All that lies there, read as a server would.
    pub fn contents(&self) -> Contents {
        let mut place = self.open();
        let mut clients = place.recovered().clients.clone();
        clients.sort_by(|one, other| one.id.cmp(&other.id));
        let server = place.recovered().server.clone();
        let channels = place.recovered().channels.clone();
        let channels = channels.into_iter().map(|it| channel(&mut place, it)).collect();
        place.close().unwrap();
        Contents { server, clients, channels }
    }

    /// Writes what each test copies: a channel of `count` messages from number 21 on with two
    /// durables, a queue group and one that is online; one of a few; one that was never used; and
    /// one whose messages are all gone.
    pub fn fill(&self, count: u64) {
        let mut place = self.open();
        let clients = ["me", "other"].map(|id| {
            ClientWrite::Add(spb::ClientInfo {
                id: id.into(),
                hb_inbox: format!("_INBOX.{id}").into(),
                conn_id: Bytes::from(format!("connection of {id}")),
                protocol: 1,
                ping_interval: 5,
                ping_max_out: 3,
                is_leaving: false,
            })
        });
        let server = Some(server_info());
        let batch = Batch { server, clients: clients.into(), durable: true, ..Batch::default() };
        place.commit(batch).unwrap();
        write_messages(&mut place, "orders", 21..=20 + count);
        write_messages(&mut place, "orders.late", 1..=3);
        place.write(created("quiet")).unwrap();
        let alone = MessageRecord::stand_in(&"gone".into(), 7, stanby::base::time::WallTime(9));
        let begins_after = Sequence(6);
        place
            .write(ChannelBatch { begins_after, messages: vec![alone], ..created("gone") })
            .unwrap();
        let mut writes = Vec::new();
        let number = &mut 0;
        for (name, group, client, last_sent, pending) in [
            ("d", "", "me", 30, vec![22, 25, 30]),
            ("closed", "", "", 40, vec![]),
            ("g", "workers", "other", 33, vec![31, 33]),
            ("", "", "me", 24, vec![21]),
        ] {
            *number += 1;
            let state = subscription(*number, (name, group, client), last_sent);
            writes.push(SubscriptionWrite::Create(state.into()));
            let id = SubscriptionId(*number);
            writes.extend(pending.into_iter().map(|it| SubscriptionWrite::Sent(id, Sequence(it))));
        }
        let channel = ChannelName::from("orders");
        let part = ChannelBatch { channel, subscriptions: writes, ..ChannelBatch::default() };
        place.write(part).unwrap();
        place.close().unwrap();
    }
}

/// What the server of these stores has written of itself.
pub fn server_info() -> spb::ServerInfo {
    spb::ServerInfo {
        cluster_id: CLUSTER.into(),
        discovery: "_STAN.discover.test-cluster".into(),
        publish: "_STAN.pub.x".into(),
        subscribe: "_STAN.sub.x".into(),
        unsubscribe: "_STAN.unsub.x".into(),
        close: "_STAN.close.x".into(),
        sub_close: "_STAN.subclose.x".into(),
        acks_subs: "_STAN.ack.x".into(),
        ..spb::ServerInfo::default()
    }
}

fn subscription(
    id: u64,
    (name, group, client): (&str, &str, &str),
    last_sent: u64,
) -> spb::SubState {
    let durable_name = match (group, name) {
        ("", name) => name.to_owned(),
        (group, name) => format!("{name}:{group}"),
    };
    spb::SubState {
        id,
        client_id: Bytes::from(client.to_owned()),
        q_group: Bytes::from(if group.is_empty() { String::new() } else { durable_name.clone() }),
        inbox: Bytes::from(format!("_INBOX.{id}")),
        ack_inbox: Bytes::from(format!("_STAN.ack.{id}")),
        max_in_flight: 10,
        ack_wait_in_secs: 30,
        durable_name: Bytes::from(durable_name),
        last_sent,
        is_durable: !name.is_empty(),
        is_closed: client.is_empty(),
    }
}

fn created(channel: &str) -> ChannelBatch {
    let lifecycle = Lifecycle::Create;
    ChannelBatch { channel: channel.into(), lifecycle, ..ChannelBatch::default() }
}

fn write_messages(place: &mut Place, channel: &str, numbers: RangeInclusive<u64>) {
    let begins_after = Sequence(numbers.start() - 1);
    let mut part = ChannelBatch { begins_after, ..created(channel) };
    let end = *numbers.end();
    for number in numbers {
        part.messages.push(message(channel, number));
        if part.messages.len() == 2_000 || number == end {
            let next = ChannelBatch { channel: channel.into(), ..ChannelBatch::default() };
            place.write(std::mem::replace(&mut part, next)).unwrap();
        }
    }
}

pub fn message(channel: &str, sequence: u64) -> MessageRecord {
    let mut data = format!("message {sequence} of {channel} ").into_bytes();
    data.extend([0, 255, b'"', b'\n'].repeat(usize::try_from(sequence % 20).unwrap()));
    MessageRecord::of(&pb::MsgProto {
        sequence,
        subject: Bytes::from(channel.to_owned()),
        reply: if sequence.is_multiple_of(7) { "answer.here".into() } else { Bytes::new() },
        data: data.into(),
        timestamp: 1_700_000_000_000_000_000 + i64::try_from(sequence).unwrap() * 1_000_003,
        ..pb::MsgProto::default()
    })
}

/// All that lies in a store; numbers of subscriptions are the store's.
#[derive(Debug, PartialEq)]
pub struct Contents {
    pub server: Option<spb::ServerInfo>,
    pub clients: Vec<spb::ClientInfo>,
    pub channels: Vec<ChannelContents>,
}

#[derive(Debug, PartialEq)]
pub struct ChannelContents {
    pub name: ChannelName,
    pub extent: (u64, u64, u64),
    /// A digest: they may be a million.
    pub messages: u64,
    pub subscriptions: Vec<(String, Vec<Sequence>)>,
}

fn channel(place: &mut Place, found: RecoveredChannel) -> ChannelContents {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let (mut digest, mut next) = (DefaultHasher::new(), found.state.first);
    loop {
        let messages = place.read(&found.channel, next).unwrap();
        let Some(last) = messages.last() else { break };
        next = last.sequence.next();
        for message in &messages {
            (message.sequence.get(), message.timestamp.0, &message.encoded).hash(&mut digest);
        }
    }
    let subscriptions = found.subscriptions.into_iter().map(|mut it| {
        it.state.id = 0;
        (format!("{:?}", it.state), it.pending)
    });
    let mut subscriptions: Vec<_> = subscriptions.collect();
    subscriptions.sort();
    let state = found.state;
    ChannelContents {
        name: found.channel,
        extent: (state.first.get(), state.last.get(), state.message_count),
        messages: digest.finish(),
        subscriptions,
    }
}

/// A command of ours that has the key.
pub fn stanby(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(words).env(KEY, "hush");
    command
}

/// What it said, both ways.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Runs it; it must do what it is told.
pub fn must(words: &[&str]) -> String {
    let output = stanby(words);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    said(&output)
}

/// Runs it; it must do what it is told: the document that it prints. How far it is, which a command
/// that takes long says beside it, is no part of it.
pub fn must_print(words: &[&str]) -> serde_json::Value {
    let output = stanby(words);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

/// Runs it; it must say no, with this in its words.
pub fn must_refuse(words: &[&str], why: &str) {
    let output = stanby(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", said(&output));
    assert!(said(&output).contains(why), "{words:?}: {} has no {why:?}", said(&output));
}
