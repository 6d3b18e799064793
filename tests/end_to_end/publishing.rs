//! Publishing: what is refused, what is stored, acks, order, names of any bytes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use stanby::proto::pb;

use crate::LOOPS;
use crate::server::{Launch, Server};
use crate::stan::{GARBAGE, NONE, Stan, all, sequences, unique};

const INVALID: &str = "stan: invalid publish request";

fn each(check: impl Fn(&Server)) {
    for loops in LOOPS {
        check(&Launch::new(&["-mc", "0"]).loops(loops).start());
    }
}

fn invalid() -> Result<(), String> {
    Err(INVALID.to_owned())
}

fn raw_publish(stan: &mut Stan, payload: &[u8]) -> pb::PubAck {
    let subject = [&stan.subjects.pub_prefix[..], b".raw"].concat();
    pb::PubAck::decode(stan.request(&subject, payload)).unwrap()
}

#[test]
fn what_cannot_be_published_takes_no_sequence() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "pub-1");
        for channel in ["", "*", ">", "pub.*", "pub.>", "pub*x", ".pub", "pub.", "pub..x", "pub/x"]
        {
            assert_eq!(stan.publish(channel, "x"), invalid(), "{channel:?}");
        }
        let good = stan.message("pub", "x");
        let changed = [
            pb::PubMsg { guid: Bytes::new(), ..good.clone() },
            pb::PubMsg { client_id: "stranger".into(), conn_id: Bytes::new(), ..good.clone() },
            pb::PubMsg { conn_id: "stale".into(), ..good.clone() },
        ];
        for message in &changed {
            assert_eq!(stan.publish_message(message), invalid(), "{message:?}");
        }
        let encoded = good.encode_to_vec();
        let wrong_type = [&encoded[..], b"\x10\x07"].concat();
        let group_end = [&encoded[..], b"\x0c"].concat();
        let payloads: [&[u8]; 4] = [GARBAGE, b"", &wrong_type, &group_end];
        for payload in payloads {
            assert_eq!(raw_publish(&mut stan, payload).error, INVALID, "{payload:?}");
        }
        let anybody = pb::PubMsg { client_id: "anybody".into(), ..good };
        stan.publish_message(&anybody).unwrap();
        stan.publish("pub", "x").unwrap();
        assert_eq!(sequences(&stan.replay("pub", 2)), [1, 2]);
    });
}

#[test]
fn messages_come_as_they_were_sent() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "pub-2");
        let guid = [b"\xff\x00 guid ".to_vec(), vec![b'g'; 5_000]].concat();
        let odd = pb::PubMsg { guid: guid.clone().into(), ..stan.message("pub", "") };
        let unknown = [odd.encode_to_vec(), b"\x92\x03\x03new".to_vec()].concat();
        let ack = raw_publish(&mut stan, &unknown);
        assert_eq!((&ack.guid[..], &ack.error[..]), (&guid[..], &b""[..]), "the ack");
        let full = pb::PubMsg {
            reply: Bytes::from_static(b"re\xff\xfeply"),
            sha256: "wrong".into(),
            ..stan.message("pub", b"\x00\xff\r\nPUB")
        };
        stan.publish_message(&full).unwrap();
        stan.publish_async(&stan.message("pub", "no ack"), b"");
        let elsewhere = stan.message("pub", "by payload").encode_to_vec();
        let subject = [&stan.subjects.pub_prefix[..], b".elsewhere"].concat();
        stan.request(&subject, &elsewhere);
        let twice = [stan.message("pub", "first").encode_to_vec(), b"\x2a\x04last".to_vec()];
        raw_publish(&mut stan, &twice.concat());
        let found = stan.replay("pub", 5);
        let data: Vec<&[u8]> = found.iter().map(|d| &d.message.data[..]).collect();
        let wanted: [&[u8]; 5] = [b"", b"\x00\xff\r\nPUB", b"no ack", b"by payload", b"last"];
        assert_eq!(data, wanted);
        assert_eq!(&found[1].message.reply[..], b"re\xff\xfeply");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let stamps: Vec<i64> = found.iter().map(|d| d.message.timestamp).collect();
        assert!(stamps.is_sorted() && u128::try_from(stamps[0]).unwrap() <= now, "{stamps:?}");
        let flags = found.iter().map(|d| (d.message.redelivered, d.message.crc32));
        assert!(flags.eq([(false, 0); 5]));
    });
}

#[test]
fn acks_and_messages_keep_the_order_of_the_publishes() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "pub-3");
        let sub = stan.subscribe(pb::SubscriptionRequest { max_in_flight: 5_000, ..all("order") });
        let reply = stan.own("acks");
        let messages: Vec<pb::PubMsg> =
            (0..1_000).map(|number: u32| stan.message("order", number.to_string())).collect();
        messages.iter().for_each(|message| stan.publish_async(message, &reply));
        let found = stan.take(&sub, 1_000);
        assert!(sequences(&found).into_iter().eq(1..=1_000), "dense");
        let data = found.iter().map(|delivery| &delivery.message.data);
        assert!(data.eq(messages.iter().map(|message| &message.data)), "in publish order");
        for message in &messages {
            let ack = stan.next_on(&reply, crate::server::PATIENCE).unwrap();
            assert_eq!(pb::PubAck::decode(ack.data).unwrap().guid, message.guid);
        }
    });
}

#[test]
fn names_that_differ_only_by_case_are_refused() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "case-1");
        stan.publish("Case.Channel", "1").unwrap();
        let text = "rejecting channel \"case.channel\" because channel \"Case.Channel\" alreay \
                    exists (different cases not allowed)";
        assert_eq!(stan.publish("case.channel", "2"), Err(text.to_owned()));
        assert_eq!(stan.try_subscribe(all("case.channel")).map(drop), Err(text.to_owned()));
        stan.publish("\u{c9}t\u{e9}", "1").unwrap();
        let found = stan.publish("\u{e9}t\u{c9}", "2").unwrap_err();
        assert!(found.contains("different cases not allowed"), "beyond ASCII: {found}");
        stan.publish("Case.Channel", "3").unwrap();
        assert_eq!(sequences(&stan.replay("Case.Channel", 2)), [1, 2]);
    });
}

#[test]
fn names_may_be_any_bytes() {
    each(|server| {
        let mut stan = Stan::bare(server.launch.port, "");
        let request = pb::ConnectRequest {
            client_id: "bytes-1".into(),
            heartbeat_inbox: stan.own("heartbeat"),
            protocol: 1,
            conn_id: Bytes::from_static(b"\x00\xff\n id"),
            ..pb::ConnectRequest::default()
        };
        stan.register_with("test-cluster", &request).unwrap();
        stan.ping(b"\x00\xff\n id").unwrap();
        let channel: &[u8] = b"bytes \x01\xff\xfe\\ channel";
        stan.publish(channel, "x").unwrap();
        let inbox = [&stan.own("\u{fffd}")[..], b"\xff\xfe", unique().as_bytes()].concat();
        let named = pb::SubscriptionRequest {
            inbox: inbox.into(),
            durable_name: Bytes::from_static(b"dur\xff\xfe"),
            ack_wait_in_secs: 1,
            ..all(channel)
        };
        let sub = stan.subscribe(named.clone());
        assert_eq!(stan.take(&sub, 1)[0].message.subject, channel);
        stan.ack(&sub, 1);
        stan.leave(&sub, true).unwrap();
        stan.publish(channel, "y").unwrap();
        let resumed = stan.subscribe(named);
        assert_eq!(sequences(&stan.take(&resumed, 1)), [2], "the ack counted");
        let group = pb::SubscriptionRequest {
            q_group: Bytes::from_static(b"q\x80"),
            durable_name: Bytes::from_static(b"d\x81"),
            ..all(channel)
        };
        let member = stan.subscribe(group.clone());
        stan.take(&member, 2);
        stan.ack(&member, 1);
        stan.leave(&member, true).unwrap();
        let member = stan.subscribe(group);
        assert_eq!(sequences(&stan.take(&member, 1)), [2]);
        assert_eq!(stan.quiet(&member, Duration::from_millis(20)), NONE);
    });
}

#[test]
fn publish_then_close_stores_everything() {
    each(|server| {
        let (mut leaver, mut other) = (
            Stan::connect(server.launch.port, "leaver"),
            Stan::connect(server.launch.port, "other"),
        );
        for number in 0..300 {
            leaver.publish_async(&leaver.message("last", number.to_string()), b"");
        }
        leaver.close().unwrap();
        let data: Vec<Bytes> =
            other.replay("last", 300).into_iter().map(|delivery| delivery.message.data).collect();
        assert!(data.into_iter().eq((0..300).map(|number: i32| Bytes::from(number.to_string()))));
    });
}
