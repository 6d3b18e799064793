//! Subscribing and leaving: what is refused, where subscriptions start, response before delivery.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use stanby::proto::pb::{self, StartPosition};

use crate::LOOPS;
use crate::server::{Launch, PATIENCE, Server, wait_for};
use crate::stan::{GARBAGE, NONE, Stan, all, ask, sequences};

const SHORT: Duration = Duration::from_millis(60);

fn each(check: impl Fn(&Server)) {
    for loops in LOOPS {
        check(&Launch::new(&["-mc", "0"]).loops(loops).start());
    }
}

fn error_of(stan: &mut Stan, subject: &Bytes, payload: &[u8]) -> String {
    let answer = pb::SubscriptionResponse::decode(stan.request(subject, payload)).unwrap();
    String::from_utf8(answer.error.to_vec()).unwrap()
}

/// Each request is wrong in this and in all later respects: the first one must be reported.
#[test]
fn the_first_fault_of_a_request_is_reported() {
    type Change = fn(&mut pb::SubscriptionRequest);
    let steps: [(Change, &str); 15] = [
        (|_| {}, "stan: clientID missing"),
        (|r| r.client_id = "nobody".into(), "stan: invalid ack wait time, should be >= 1s"),
        (|r| r.ack_wait_in_secs = -1, "stan: invalid ack wait time, should be >= 1s"),
        (|r| r.ack_wait_in_secs = 1, "stan: invalid MaxInflight, should be >= 1"),
        (|r| r.max_in_flight = -1, "stan: invalid MaxInflight, should be >= 1"),
        (|r| r.max_in_flight = 1, "stan: invalid start position"),
        (|r| r.start_position = -1, "stan: invalid start position"),
        (|r| r.start_position = 4, "stan: invalid subject"),
        (|r| r.subject = "sub.*".into(), "stan: invalid subject"),
        (|r| r.subject = "sub.>".into(), "stan: invalid subject"),
        (|r| r.subject = "su*b".into(), "stan: invalid subject"),
        (|r| r.subject = "sub..x".into(), "stan: invalid subject"),
        (|r| r.subject = "sub/x".into(), "stan: invalid subject"),
        (
            |r| {
                r.subject = "sub".into();
                (r.durable_name, r.q_group) = ("a:b".into(), "q".into());
            },
            "stan: unknown clientID",
        ),
        (
            |r| r.client_id = "sub-1".into(),
            "stan: durable name of a durable queue subscriber can't contain the character ':'",
        ),
    ];
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "sub-1");
        let subject = stan.subjects.sub_requests.clone();
        let mut request =
            pb::SubscriptionRequest { start_position: 5, ..pb::SubscriptionRequest::default() };
        for (change, text) in steps {
            change(&mut request);
            assert_eq!(error_of(&mut stan, &subject, &request.encode_to_vec()), text);
        }
        let invalid = "stan: invalid subscription request";
        let refusal = stan.request(&subject, GARBAGE);
        let wanted = pb::SubscriptionResponse { error: invalid.into(), ack_inbox: Bytes::new() };
        assert_eq!(refusal, wanted.encode_to_vec(), "nothing but the error");
        let named = pb::SubscriptionRequest { durable_name: "a:b".into(), ..ask("sub") };
        stan.subscribe(named.clone());
        let twice = "stan: duplicate durable registration";
        assert_eq!(stan.try_subscribe(named.clone()).map(drop), Err(twice.to_owned()));
        stan.subscribe(pb::SubscriptionRequest { subject: "sub2".into(), ..named.clone() });
        Stan::connect(server.launch.port, "sub-2").subscribe(named);
        let most = pb::SubscriptionRequest {
            max_in_flight: i32::MAX,
            ack_wait_in_secs: i32::MAX,
            ..ask("sub")
        };
        stan.subscribe(most);
    });
}

#[test]
fn leaving_names_what_is_unknown() {
    each(|server| {
        let port = server.launch.port;
        let (mut stan, mut other) =
            (Stan::connect(port, "unsub-1"), Stan::connect(port, "unsub-2"));
        let sub = stan.subscribe(ask("unsub"));
        let request = |id: &str, channel: &str, inbox: &[u8]| pb::UnsubscribeRequest {
            client_id: Bytes::copy_from_slice(id.as_bytes()),
            subject: Bytes::copy_from_slice(channel.as_bytes()),
            inbox: Bytes::copy_from_slice(inbox),
            ..pb::UnsubscribeRequest::default()
        };
        let cases = [
            (request("unsub-1", "nowhere", &sub.ack_inbox), "stan: unknown channel"),
            (request("unsub-1", "unsub", b"_INBOX.nothing"), "stan: invalid subscription"),
            (request("unsub-2", "unsub", &sub.ack_inbox), "stan: unknown clientID"),
            (request("stranger", "unsub", &sub.ack_inbox), "stan: unknown clientID"),
        ];
        for (request, text) in &cases {
            for close in [false, true] {
                assert_eq!(stan.leave_with(request, close), Err((*text).to_owned()));
            }
        }
        for subject in
            [&stan.subjects.unsub_requests, &stan.subjects.sub_close_requests].map(Bytes::clone)
        {
            assert_eq!(error_of(&mut stan, &subject, GARBAGE), "stan: invalid unsubscribe request");
            assert_eq!(error_of(&mut stan, &subject, b""), "stan: unknown channel");
        }
        other.publish("unsub", "x").unwrap();
        assert_eq!(sequences(&stan.take(&sub, 1)), [1], "it survives refused requests");
        stan.leave_with(&request("unsub-1", "unsub", &sub.inbox), true).unwrap();
        other.publish("unsub", "y").unwrap();
        assert_eq!(stan.quiet(&sub, SHORT), NONE);
        let durable = pb::SubscriptionRequest { durable_name: "d".into(), ..ask("unsub") };
        let durable = stan.subscribe(durable);
        stan.leave(&durable, true).unwrap();
        let offline = Err("stan: invalid subscription".to_owned());
        assert_eq!(stan.leave(&durable, false), offline, "an offline durable");
    });
}

#[test]
fn start_positions() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "start-1");
        assert!(stan.fill("start", 1..=3).is_empty());
        let early = stan.subscribe(all("start"));
        stan.take(&early, 3);
        // Between the third and the fourth passes time enough to point into.
        assert_eq!(stan.quiet(&early, Duration::from_millis(400)), NONE);
        assert!(stan.fill("start", 4..=5).is_empty());
        let fourth = stan.take(&early, 2)[0].message.timestamp;
        let since = |stamp: i64| {
            let now = std::time::SystemTime::now();
            let now = now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_nanos();
            i64::try_from(now).unwrap() - stamp
        };
        let at = |position: StartPosition, sequence: u64, delta: i64| pb::SubscriptionRequest {
            start_position: position.into(),
            start_sequence: sequence,
            start_time_delta: delta,
            ..ask("start")
        };
        let hour = 3_600_000_000_000;
        let cases = [
            ("new only", at(StartPosition::NewOnly, 0, 0), 6),
            ("last received", at(StartPosition::LastReceived, 0, 0), 5),
            ("first", at(StartPosition::First, 0, 0), 1),
            ("sequence in range", at(StartPosition::SequenceStart, 4, 0), 4),
            ("sequence 0", at(StartPosition::SequenceStart, 0, 0), 1),
            ("sequence beyond the end", at(StartPosition::SequenceStart, 100, 0), 6),
            ("an hour ago", at(StartPosition::TimeDeltaStart, 0, hour), 1),
            ("now", at(StartPosition::TimeDeltaStart, 0, 0), 6),
            ("in an hour", at(StartPosition::TimeDeltaStart, 0, -hour), 6),
        ];
        let subs: Vec<_> =
            cases.iter().map(|(_, request, _)| stan.subscribe(request.clone())).collect();
        // A moment goes by until the server counts back; less than it may, sooner or later.
        let between = wait_for("a quick answer", || {
            let begun = Instant::now();
            let ago = since(fourth - 200_000_000);
            let sub = stan.subscribe(at(StartPosition::TimeDeltaStart, 0, ago));
            if begun.elapsed() < Duration::from_millis(150) {
                return Some(sub);
            }
            stan.leave(&sub, true).unwrap();
            None
        });
        stan.publish("start", "6").unwrap();
        for ((what, _, first), sub) in cases.iter().zip(&subs) {
            let count = usize::try_from(7 - first).unwrap();
            assert!(sequences(&stan.take(sub, count)).into_iter().eq(*first..=6), "{what}");
        }
        assert_eq!(sequences(&stan.take(&between, 3)), [4, 5, 6], "between two messages");
        for sub in &subs {
            assert_eq!(stan.quiet(sub, Duration::ZERO), NONE, "nothing more");
        }
        let empty: Vec<_> = (0..5)
            .map(|start_position| {
                let request =
                    pb::SubscriptionRequest { start_position, start_sequence: 3, ..ask("empty") };
                stan.subscribe(request)
            })
            .collect();
        assert!(stan.fill("empty", 1..=2).is_empty());
        for sub in &empty {
            assert_eq!(sequences(&stan.take(sub, 2)), [1, 2], "on an empty channel");
        }
    });
}

#[test]
fn a_replay_joins_live_messages_without_gap_or_repetition() {
    each(|server| {
        let mut publisher = Stan::connect(server.launch.port, "live-p");
        let mut reader = Stan::connect(server.launch.port, "live-s");
        for number in 0..3_000 {
            publisher.publish_async(&publisher.message("live", number.to_string()), b"");
        }
        let request = pb::SubscriptionRequest { max_in_flight: 10_000, ..all("live") };
        let sub = reader.subscribe(request);
        assert!(sequences(&reader.take(&sub, 3_000)).into_iter().eq(1..=3_000));
    });
}

#[test]
fn the_response_comes_before_the_first_delivery() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "order-1");
        assert!(stan.fill("order", 1..=20).is_empty());
        for (queue, durable) in [("", ""), ("", "d"), ("q", ""), ("q", "d")] {
            for _ in 0..10 {
                let request = pb::SubscriptionRequest {
                    q_group: queue.into(),
                    durable_name: durable.into(),
                    ..all("order")
                };
                let sub = stan.subscribe(request);
                let first = stan.take(&sub, 1);
                assert!(sub.response_order < first[0].order, "{queue:?} {durable:?}");
                stan.leave(&sub, false).unwrap();
            }
        }
        let both = stan.own("both");
        let request = pb::SubscriptionRequest {
            client_id: stan.id.clone(),
            inbox: both.clone(),
            max_in_flight: 9,
            ..all("order")
        };
        let subject = stan.subjects.sub_requests.clone();
        stan.send(&subject, &both, &request.encode_to_vec());
        let first = stan.next_on(&both, PATIENCE).unwrap();
        assert!(!pb::SubscriptionResponse::decode(first.data).unwrap().ack_inbox.is_empty());
        for wanted in 1..=9 {
            let next = stan.next_on(&both, PATIENCE).unwrap();
            assert_eq!(pb::MsgProto::decode(next.data).unwrap().sequence, wanted);
        }
    });
}

#[test]
fn new_only_starts_exactly_between_two_publishes() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "between");
        for turn in 1..=20 {
            stan.publish("between", "before").unwrap();
            let sub = stan.subscribe(ask("between"));
            stan.publish("between", "after").unwrap();
            assert_eq!(sequences(&stan.take(&sub, 1)), [2 * turn]);
            stan.leave(&sub, true).unwrap();
        }
    });
}
