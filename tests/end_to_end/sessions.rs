//! Streaming sessions: connect, duplicate client IDs, pings, heartbeats, close.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use stanby::proto::pb;

use crate::LOOPS;
use crate::server::{Launch, Server, wait_for};
use crate::stan::{CLUSTER, GARBAGE, NONE, Stan, ask, unique};

const INVALID_CONNECT: &str = "stan: invalid connection request";
const INVALID_ID: &str =
    "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed";
const REGISTERED: &str = "stan: clientID already registered";
const REPLACED: &str = "client has been replaced or is no longer registered";
const INVALID_PUBLISH: &str = "stan: invalid publish request";
const UNKNOWN_CLIENT: &str = "stan: unknown clientID";

fn each(check: impl Fn(&Server)) {
    for loops in LOOPS {
        check(&Launch::new(&[]).loops(loops).start());
    }
}

fn refused(text: &str) -> Result<(), String> {
    Err(text.to_owned())
}

fn connect_error(stan: &mut Stan, payload: &[u8]) -> String {
    let answer = stan.request(b"_STAN.discover.test-cluster", payload);
    let answer = pb::ConnectResponse::decode(answer).unwrap();
    String::from_utf8(answer.error.to_vec()).unwrap()
}

#[test]
fn a_connect_request_names_the_subjects() {
    each(|server| {
        let mut stan = Stan::bare(server.launch.port, "");
        let request = pb::ConnectRequest {
            client_id: "con-1".into(),
            heartbeat_inbox: stan.own("heartbeat"),
            protocol: 1,
            conn_id: "c".into(),
            ping_interval: 7,
            ping_max_out: 9,
        };
        stan.register_with(CLUSTER, &request).unwrap();
        let wanted = pb::ConnectResponse {
            pub_prefix: "_STAN.pub.test-cluster".into(),
            sub_requests: "_STAN.sub.test-cluster".into(),
            unsub_requests: "_STAN.unsub.test-cluster".into(),
            close_requests: "_STAN.close.test-cluster".into(),
            sub_close_requests: "_STAN.subclose.test-cluster".into(),
            ping_requests: "_STAN.discover.test-cluster.pings".into(),
            ping_interval: 7,
            ping_max_out: 9,
            protocol: 1,
            ..pb::ConnectResponse::default()
        };
        assert_eq!(stan.subjects, wanted);
        let mut old = Stan::bare(server.launch.port, "");
        let request = pb::ConnectRequest {
            client_id: "con-0".into(),
            protocol: 0,
            conn_id: Bytes::new(),
            heartbeat_inbox: old.own("heartbeat"),
            ..request
        };
        old.register_with(CLUSTER, &request).unwrap();
        let wanted = pb::ConnectResponse {
            ping_requests: Bytes::new(),
            ping_interval: 0,
            ping_max_out: 0,
            ..wanted
        };
        assert_eq!(old.subjects, wanted, "protocol 0");
        old.publish("con", "x").unwrap();
    });
}

#[test]
fn connect_requests_that_cannot_be_taken() {
    each(|server| {
        let mut stan = Stan::bare(server.launch.port, "");
        let no_inbox =
            pb::ConnectRequest { client_id: "x".into(), ..pb::ConnectRequest::default() };
        let malformed: [&[u8]; 5] = [b"", GARBAGE, &no_inbox.encode_to_vec(), b"\x0b", b"\x08\x05"];
        for payload in malformed {
            assert_eq!(connect_error(&mut stan, payload), INVALID_CONNECT, "{payload:?}");
        }
        let ids: [&[u8]; 8] =
            [b"", b"a b", b"a.b", b"a:b", b"a,b", b"a*", "\u{e9}".as_bytes(), b"\xff"];
        for id in ids {
            let request = pb::ConnectRequest {
                client_id: Bytes::copy_from_slice(id),
                heartbeat_inbox: stan.own("heartbeat"),
                ..pb::ConnectRequest::default()
            };
            assert_eq!(connect_error(&mut stan, &request.encode_to_vec()), INVALID_ID, "{id:?}");
        }
        let refusal = stan.request(b"_STAN.discover.test-cluster", b"");
        let wanted =
            pb::ConnectResponse { error: INVALID_CONNECT.into(), ..pb::ConnectResponse::default() };
        assert_eq!(refusal, wanted.encode_to_vec(), "nothing but the error");
        assert_eq!(stan.request(b"_STAN.discover.other", b""), "503", "another cluster");
        let long = "L".repeat(300);
        stan.register(CLUSTER, &long).unwrap();
        stan.close().unwrap();
        Stan::connect(server.launch.port, &long).close().unwrap();
    });
}

#[test]
fn a_live_client_keeps_its_id_and_a_dead_one_does_not() {
    each(|server| {
        let port = server.launch.port;
        let mut alive = Stan::connect(port, "alive");
        let mut rival = Stan::bare(port, "");
        let request = pb::ConnectRequest {
            client_id: "alive".into(),
            heartbeat_inbox: rival.own("heartbeat"),
            ..pb::ConnectRequest::default()
        };
        let reply = rival.own("answer");
        rival.send(b"_STAN.discover.test-cluster", &reply, &request.encode_to_vec());
        // The server asks the holder; both are read here in turn.
        let answer = wait_for("a verdict on the duplicate", || {
            alive.flush();
            rival.next_on(&reply, Duration::from_millis(5))
        });
        let answer = pb::ConnectResponse::decode(answer.data).unwrap();
        assert_eq!(answer.error, REGISTERED);
        alive.publish("dup", "still here").unwrap();
        drop(Stan::connect(port, "dead"));
        Stan::connect(port, "dead").publish("dup", "the heir").unwrap();
    });
}

#[test]
fn a_silent_client_is_replaced_after_the_probe() {
    each(|server| {
        let port = server.launch.port;
        let mut silent = Stan::connect(port, "silent");
        silent.answers_heartbeats = false;
        let plain = silent.subscribe(ask("dup.plain"));
        let durable = pb::SubscriptionRequest { durable_name: "d".into(), ..ask("dup.durable") };
        let old = silent.subscribe(durable.clone());
        silent.publish("dup.durable", "1").unwrap();
        silent.take(&old, 1);
        let begun = Instant::now();
        let mut heir = Stan::connect(port, "silent");
        assert!(Duration::from_millis(400) < begun.elapsed(), "{:?}", begun.elapsed());
        silent.flush();
        let probe = silent.heartbeats.pop().expect("a probe");
        assert!(probe.data.is_empty() && !probe.reply.is_empty(), "{probe:?}");
        let id = silent.conn_id.clone();
        assert_eq!(silent.ping(&id), refused(REPLACED));
        assert_eq!(silent.publish("dup", "x"), refused(INVALID_PUBLISH));
        heir.publish("dup.plain", "x").unwrap();
        silent.flush();
        assert_eq!(silent.quiet(&plain, Duration::from_millis(50)), NONE, "its subscriptions");
        let resumed = heir.subscribe(durable);
        assert_eq!(heir.take(&resumed, 1)[0].brief(), (1, 1), "the durable is the ID's");
    });
}

#[test]
fn pings_tell_clients_whether_they_are_known() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "ping-1");
        let ping = pb::Ping { conn_id: stan.conn_id.clone() }.encode_to_vec();
        let subject = stan.subjects.ping_requests.clone();
        assert!(stan.request(&subject, &ping).is_empty(), "an empty answer");
        assert_eq!(stan.ping(b"stranger"), refused(REPLACED));
        let reply = stan.own("no-answer");
        stan.send(&subject, &reply, b"");
        stan.send(&subject, &reply, GARBAGE);
        stan.request(&subject, &ping);
        assert!(stan.next_on(&reply, Duration::ZERO).is_none(), "malformed pings get no answer");
    });
}

#[test]
fn closing_ends_everything_of_a_client() {
    each(|server| {
        let port = server.launch.port;
        let (mut leaver, mut other) = (Stan::connect(port, "leaver"), Stan::connect(port, "other"));
        let sub = leaver.subscribe(ask("close"));
        let request = pb::CloseRequest { client_id: "leaver".into() }.encode_to_vec();
        let subject = other.subjects.close_requests.clone();
        assert!(other.request(&subject, &request).is_empty(), "anybody may close it");
        assert_eq!(leaver.publish("close", "x"), refused(INVALID_PUBLISH));
        let again = leaver.try_subscribe(ask("close"));
        assert_eq!(again.map(drop), refused(UNKNOWN_CLIENT));
        other.publish("close", "x").unwrap();
        assert_eq!(leaver.quiet(&sub, Duration::from_millis(50)), NONE);
        let error = |stan: &mut Stan, payload: &[u8]| {
            let answer = stan.request(&subject, payload);
            String::from_utf8(pb::CloseResponse::decode(answer).unwrap().error.to_vec()).unwrap()
        };
        assert_eq!(error(&mut other, &request), UNKNOWN_CLIENT);
        assert_eq!(error(&mut other, GARBAGE), "stan: invalid close request");
        assert_eq!(error(&mut other, b""), UNKNOWN_CLIENT);
    });
}

#[test]
fn heartbeats_find_the_silent_and_the_gone() {
    for loops in LOOPS {
        let flags = ["-hbi", "200ms", "-hbt", "200ms", "-hbf", "1"];
        let server = Launch::new(&flags).loops(loops).start();
        let port = server.launch.port;
        let (mut healthy, mut silent) =
            (Stan::connect(port, "healthy"), Stan::connect(port, "silent"));
        silent.answers_heartbeats = false;
        let gone = Stan::connect(port, "gone").conn_id.clone();
        let group =
            pb::SubscriptionRequest { q_group: "q".into(), ack_wait_in_secs: 60, ..ask("hb") };
        let held = silent.subscribe(group.clone());
        healthy.publish("hb", "1").unwrap();
        silent.take(&held, 1);
        let staying = healthy.subscribe(group);
        let moved = healthy.take(&staying, 1);
        assert_eq!(moved[0].brief(), (1, 1), "its queue messages move to another member");
        silent.flush();
        assert!(2 <= silent.heartbeats.len(), "{:?}", silent.heartbeats);
        let id = silent.conn_id.clone();
        assert_eq!(silent.ping(&id), refused(REPLACED));
        assert_eq!(silent.publish("hb", "x"), refused(INVALID_PUBLISH));
        wait_for("the end of the client whose connection is gone", || {
            (healthy.ping(&gone) == refused(REPLACED)).then_some(())
        });
        wait_for("heartbeats of the healthy client", || {
            healthy.flush();
            (8 < healthy.heartbeats.len()).then_some(())
        });
        healthy.publish("hb", unique()).unwrap();
    }
}
