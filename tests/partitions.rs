//! Servers of one cluster ID, each with channels of its own, over routes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/nats.rs"]
#[allow(dead_code, reason = "shared with the tests of routes")]
mod nats;
#[path = "support/node.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile peers")]
mod node;

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use stanby::base::time::WallTime;
use stanby::client::{Client, Options, StartAt, SubscriptionOptions};
use stanby::election::heartbeat::{Heartbeat, encode_heartbeat};
use stanby::server::channel_list::{ListMessage, decode_message, encode_list, encode_message};
use tempfile::TempDir;

use nats::{Nats, settle};
use node::{Kind, Node, PATIENCE, Start, start};

/// A server with these channels.
fn server_of(dir: &Path, name: &str, channels: &[&str]) -> Start {
    let channels: Vec<String> = channels.iter().map(|name| format!("\"{name}\": {{}}")).collect();
    let text = format!(
        "streaming {{ partitioning: true, store_limits {{ channels {{ {} }} }} }}\n",
        channels.join(", ")
    );
    let file = dir.join(format!("{name}.conf"));
    fs::write(&file, text).unwrap();
    // Without a name routes come and go until the servers have agreed on one.
    start(Kind::Streaming).named("parts").with(&["-SD", "-sc", &file.display().to_string()])
}

fn client_of(node: &Node, id: &str) -> Client {
    let server = format!("127.0.0.1:{}", node.client_port);
    Client::connect(Options::new(&[&server], "test-cluster", id)).unwrap()
}

/// One that does not wait long for those that do not answer.
fn hasty_client_of(node: &Node, id: &str) -> Client {
    let server = format!("127.0.0.1:{}", node.client_port);
    let mut options = Options::new(&[&server], "test-cluster", id);
    options.ack_timeout = Duration::from_secs(2);
    Client::connect(options).unwrap()
}

fn read_all(client: &Client, channel: &str, count: usize) -> Vec<Vec<u8>> {
    let (told, heard) = mpsc::channel();
    let options = SubscriptionOptions { start: StartAt::First, ..SubscriptionOptions::default() };
    let subscription = client
        .subscribe(channel, options, move |message| {
            let _ = told.send(message.data.to_vec());
        })
        .unwrap();
    let found = (0..count).map(|_| heard.recv_timeout(PATIENCE).unwrap()).collect();
    subscription.unsubscribe().unwrap();
    found
}

fn channels_of(node: &Node) -> String {
    let page = node.page("/streaming/channelsz");
    page.split_once("\r\n\r\n").unwrap().1.split_whitespace().collect()
}

/// Goal: clients see one server, wherever they are, and each channel is on one.
#[test]
fn two_servers_with_different_channels_are_one_for_clients() {
    let dir = TempDir::new().unwrap();
    let orders = ["orders", "orders.*", "orders.paris"];
    let first = server_of(dir.path(), "first", &orders).run();
    first.wait_log("Publish subjects root:      _STAN.pub.test-cluster");
    let second = server_of(dir.path(), "second", &["news.>"]).to(&first).run();
    settle(&mut Nats::connect(&first), &mut Nats::connect(&second));
    for (node, id) in [(&first, "one"), (&second, "two")] {
        let client = client_of(node, id);
        for channel in ["orders", "orders.paris", "news.of.today"] {
            client.publish(channel, id.as_bytes().to_vec()).unwrap();
        }
        client.close().unwrap();
        let hasty = hasty_client_of(node, "hasty");
        assert!(hasty.publish("nobody", b"x".to_vec()).is_err());
        hasty.close().unwrap();
    }
    let client = client_of(&second, "reader");
    for channel in ["orders", "orders.paris", "news.of.today"] {
        assert_eq!(read_all(&client, channel, 2), [b"one".to_vec(), b"two".to_vec()], "{channel}");
    }
    client.close().unwrap();
    assert!(
        channels_of(&first).contains("[\"orders\",\"orders.paris\"]"),
        "{}",
        channels_of(&first)
    );
    assert!(channels_of(&second).contains("[\"news.of.today\"]"), "{}", channels_of(&second));
}

/// Goal: what two servers have both is found at the start of the second, whichever is wider.
#[test]
fn a_second_server_with_a_channel_of_the_first_does_not_start() {
    let dir = TempDir::new().unwrap();
    let mut first = server_of(dir.path(), "first", &["orders", "news.*"]).run();
    for (channels, shared) in [
        (&["a", "orders"][..], "orders"),
        (&["news.paris"], "news.paris"),
        (&["news.>"], "news.>"),
        (&["*"], "orders"),
    ] {
        let mut second = server_of(dir.path(), "second", channels).to(&first).spawn();
        assert_eq!(second.wait_exit(), Some(1));
        let line = second.wait_log("Failed to start: channel ");
        let conflict = format!("channel {shared:?} causes conflict with channels on server ");
        assert!(line.contains(&conflict), "{line}");
    }
    let third = server_of(dir.path(), "third", &["*.paris"]).to(&first).run();
    let overlap = first.wait_log("overlap: a channel of both would be served twice");
    assert!(overlap.contains("[WRN]") && overlap.contains("\"*.paris\""), "{overlap}");
    assert!(first.is_running());
    drop(third);
}

/// Goal: a list that needs very many messages is looked at as a whole.
#[test]
fn a_long_list_is_compared_to_its_end() {
    let dir = TempDir::new().unwrap();
    let core = dir.path().join("core.conf");
    fs::write(&core, "max_payload: 1024\n").unwrap();
    let core = core.display().to_string();
    let mut first = server_of(dir.path(), "first", &["zz"]).with(&["-c", &core]).run();
    let names: Vec<String> = (0..4_000).map(|n| format!("{}{n:05}", "a".repeat(35))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["zz"]).collect();
    let second = server_of(dir.path(), "second", &names).with(&["-mc", "0", "-c", &core]);
    let mut second = second.to(&first).spawn();
    assert_eq!(second.wait_exit(), Some(1));
    second.wait_log("Failed to start: channel \"zz\" causes conflict");
    assert!(first.is_running());
}

/// Goal: two that meet when both serve already end both, as with the reference.
#[test]
fn a_conflict_that_comes_with_a_route_ends_both() {
    let dir = TempDir::new().unwrap();
    let mut first = server_of(dir.path(), "first", &["orders"]).run();
    let mut second = server_of(dir.path(), "second", &["orders"]).run();
    let bridge = start(Kind::Core).named("parts").to(&first).to(&second).run();
    for node in [&mut first, &mut second] {
        assert_eq!(node.wait_exit(), Some(1));
        let line = node.wait_log("Partitioning error: ");
        assert!(line.contains("[FTL] STREAM: "), "{line}");
        assert!(line.contains("channel \"orders\" causes conflict"), "{line}");
    }
    drop(bridge);
}

/// Goal: a member of a group takes over a partition as it takes over a store.
#[test]
fn a_pair_serves_one_partition() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data").display().to_string();
    let arguments = ["-store", "file", "-dir", &data, "-ft_group", "orders"];
    let other = server_of(dir.path(), "other", &["news"]).run();
    let member = |name| server_of(dir.path(), name, &["orders"]).with(&arguments).to(&other);
    let mut active = member("active").run();
    active.wait_log("Streaming Server is ready");
    settle(&mut Nats::connect(&other), &mut Nats::connect(&active));
    let standby = member("standby").run();
    let client = client_of(&other, "me");
    client.publish("orders", b"1".to_vec()).unwrap();
    client.publish("news", b"1".to_vec()).unwrap();
    active.kill();
    standby.wait_log("Streaming Server is ready");
    settle(&mut Nats::connect(&other), &mut Nats::connect(&standby));
    client.publish("orders", b"2".to_vec()).unwrap();
    assert_eq!(read_all(&client, "orders", 2), [b"1".to_vec(), b"2".to_vec()]);
    client.close().unwrap();

    // Other partitions answer clients too: that makes no second active of this group.
    let server_id = Bytes::from_static(b"forged");
    let heartbeat = encode_heartbeat(&Heartbeat { server_id, active_since: WallTime(1) });
    let mut forger = Nats::connect(&standby);
    while standby.logged("\"forged\" claims to be active").len() < 2 {
        forger.publish("_STAN.ft.test-cluster.orders", "", &heartbeat);
        forger.sync();
    }
    let page = standby.page("/streaming/healthz?ready=1");
    assert!(page.starts_with("HTTP/1.0 200"), "{page}");
}

/// Goal: what anybody can send to servers gets an answer or none, and changes nothing.
#[test]
fn lists_of_strangers_harm_nobody() {
    let dir = TempDir::new().unwrap();
    let mut server = server_of(dir.path(), "server", &["orders", "news.*"]).run();
    let mut stranger = Nats::connect(&server);
    let inbox = stranger.subscribe("answers", "");
    let id = Bytes::from_static(b"stranger");
    let list = |name: &'static [u8]| {
        let names = [Bytes::from_static(name)];
        encode_list(&id, names.iter(), 1_000).unwrap().remove(0)
    };
    let torn = ListMessage { server_id: id.clone(), data: Bytes::from_static(b"\x09\x00abc") };
    for bytes in [Bytes::new(), Bytes::from_static(b"\x0a\x7f"), encode_message(&torn)] {
        stranger.publish("_STAN.part.test-cluster", "answers", &bytes);
    }
    stranger.publish("_STAN.part.test-cluster", "", &list(b"orders"));
    for (name, shared) in [(&b"orders"[..], &b"orders"[..]), (b"news.x", b"news.x"), (b"else", b"")]
    {
        stranger.publish("_STAN.part.test-cluster", "answers", &list(name));
        let answer = decode_message(Bytes::from(stranger.next(&inbox).payload)).unwrap();
        assert_eq!(answer.data, shared);
    }
    server.wait_log("[ERR] STREAM: Error processing partitioning request: ");
    assert!(server.is_running());
    client_of(&server, "me").publish("orders", b"served".to_vec()).unwrap();
}

/// Goal: a name that fits into no message ends the start and says why.
#[test]
fn a_channel_that_no_message_can_tell_ends_the_start() {
    let dir = TempDir::new().unwrap();
    let name = "a".repeat(2_000);
    let more = dir.path().join("core.conf");
    fs::write(&more, "max_payload: 1024\n").unwrap();
    let core = more.display().to_string();
    let mut server = server_of(dir.path(), "server", &[&name]).with(&["-c", &core]).spawn();
    assert_eq!(server.wait_exit(), Some(1));
    server.wait_log("message payload too small to send channels list");
}
