//! what clients rely on, told in steps; each story runs with one, two and four engines
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::engine::effect::Service;
use crate::engine::script::{Options, Pulse, Script};
use crate::proto::pb::{self, StartPosition};
use crate::proto::spb;

mod administration;
mod again;
mod answers;
mod clients;
mod congestion;
mod crowd;
mod duplicates;
mod durables;
mod few_at_once;
mod groups;
mod limits;
mod partition;
mod policies;
mod recovery;
mod replay;
mod shuffled;
mod waits;

/// Runs a story with every number of engines.
fn with_loops(story: impl Fn(Script)) {
    for loops in [1, 2, 4] {
        story(Script::new(loops));
    }
}

fn options() -> Options {
    Options::default()
}

/// Goal: what anybody is told of is durable then; what is only sent or acked costs no sync.
#[test]
fn only_what_is_answered_is_synced() {
    with_loops(|mut server| {
        server.durable_count = 0;
        server.connect("me");
        assert_eq!(std::mem::take(&mut server.durable_count), 1);
        server.subscribe("me", "orders", "a", &options());
        assert!(0 < std::mem::take(&mut server.durable_count));
        server.publish("me", "orders", 1);
        server.expect("a:1");
        assert_eq!(std::mem::take(&mut server.durable_count), 1);
        server.ack("a", "orders", &[1]);
        assert_eq!(server.durable_count, 0);
        server.unsubscribe("me", "orders", "a");
        assert_eq!(std::mem::take(&mut server.durable_count), 1);
        assert_eq!(server.close("me"), "");
        assert!(0 < server.durable_count);
    });
}

#[test]
fn a_published_message_is_acked_and_delivered() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.ack("a", "orders", &[1, 2]);
        server.pass_secs(100);
        server.expect("");
        assert_eq!(server.close("me"), "");
        assert_eq!(server.try_publish("me", "orders", "x"), "stan: invalid publish request");
        assert_eq!(server.close("me"), "stan: unknown clientID");
    });
}

/// Goal: nothing that depends on a commit leaves before its report (P1).
#[test]
fn nothing_is_told_before_it_is_committed() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.hold_commits();
        let first = server.hand_in_publish("me", "orders", "1");
        let close = server.hand_in_close("me");
        server.run();
        assert_eq!(server.publish_error(&first), "?");
        assert_eq!(server.answer(&close), None);
        server.expect("");
        server.release();
        assert_eq!(server.publish_error(&first), "");
        assert_eq!(server.answer(&close), Some(Bytes::new()));
    });
}

#[test]
fn what_comes_while_a_commit_is_under_way_goes_into_the_next_one() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "orders", 1);
        server.hold_commits();
        let replies: Vec<_> = (0..5).map(|_| server.hand_in_publish("me", "orders", "x")).collect();
        server.run();
        server.release();
        for reply in replies {
            assert_eq!(server.publish_error(&reply), "");
        }
        server.subscribe("me", "orders", "a", &options());
        server.expect("a:1 a:2 a:3 a:4 a:5 a:6");
        assert!(server.credit_bytes > 0);
    });
}

#[test]
fn an_unacked_message_comes_again_until_it_is_acked() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.pass_secs(29);
        server.expect("");
        server.pass_secs(1);
        server.expect("a:1*1");
        server.pass_secs(30);
        server.expect("a:1*2");
        server.ack("a", "orders", &[1]);
        server.pass_secs(90);
        server.expect("");
    });
}

#[test]
fn each_message_is_redelivered_by_its_own_deadline() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.publish("me", "orders", 1);
        server.pass_secs(10);
        server.publish("me", "orders", 1);
        server.expect("a:1 a:2");
        server.pass_secs(20);
        server.expect("a:1*1");
        server.pass_secs(10);
        server.expect("a:2*1");
    });
}

#[test]
fn no_more_than_max_in_flight_are_sent_and_each_ack_makes_room() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "orders", 10);
        let options = Options { in_flight_max: 3, ..options() };
        server.subscribe("me", "orders", "a", &options);
        server.expect("a:1 a:2 a:3");
        server.ack("a", "orders", &[77]);
        server.ack("a", "nowhere", &[1]);
        server.expect("");
        server.ack("a", "orders", &[2]);
        server.expect("a:4");
        server.ack("a", "orders", &[2, 2]);
        server.expect("");
        server.ack("a", "orders", &[1, 3, 4]);
        server.expect("a:5 a:6 a:7");
        // Redeliveries do not count, and come though the subscription is stalled.
        server.pass_secs(30);
        server.expect("a:5*1 a:6*1 a:7*1");
    });
}

#[test]
fn a_subscription_that_left_gets_nothing() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.sub_close("me", "orders", "a");
        server.publish("me", "orders", 1);
        server.pass_secs(100);
        server.expect("");
        assert!(server.stored("orders").is_empty());
        let invalid = "stan: invalid subscription";
        assert_eq!(server.leave(Service::Unsubscribe, "me", "orders", "a"), invalid);
        assert_eq!(
            server.leave(Service::Unsubscribe, "me", "nowhere", "a"),
            "stan: unknown channel"
        );
    });
}

#[test]
fn only_its_owner_ends_a_subscription_also_by_its_delivery_inbox() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        server.subscribe("me", "orders", "a", &options());
        let unknown = "stan: unknown clientID";
        assert_eq!(server.leave(Service::Unsubscribe, "you", "orders", "a"), unknown);
        assert_eq!(server.leave(Service::SubscriptionClose, "who", "orders", "a"), unknown);
        server.publish("you", "orders", 1);
        server.expect("a:1");
        server.forget_ack_inbox("a");
        server.sub_close("me", "orders", "a");
        server.publish("you", "orders", 1);
        server.expect("");
    });
}

#[test]
fn garbage_gets_the_refusal_of_its_service() {
    with_loops(|mut server| {
        server.connect("me");
        for (service, field, expected) in [
            (Service::Connect, 5, "stan: invalid connection request"),
            (Service::Publish, 2, "stan: invalid publish request"),
            (Service::Subscribe, 3, "stan: invalid subscription request"),
            (Service::Unsubscribe, 3, "stan: invalid unsubscribe request"),
            (Service::SubscriptionClose, 3, "stan: invalid unsubscribe request"),
            (Service::Close, 1, "stan: invalid close request"),
        ] {
            let reply = server.hand_in(service, Bytes::from_static(b"\x0a\x7fgarbage"));
            server.run();
            let mut wanted = vec![field << 3 | 2, u8::try_from(expected.len()).unwrap()];
            wanted.extend_from_slice(expected.as_bytes());
            assert_eq!(server.answer(&reply).as_deref(), Some(&wanted[..]), "{service:?}");
        }
    });
}

#[test]
fn publishes_are_checked() {
    with_loops(|mut server| {
        server.connect("me");
        let refused = "stan: invalid publish request";
        for channel in ["", "*", ">", "pub.*", "pub.>", "pub*x", ".pub", "pub.", "pub..x", "p/x"] {
            assert_eq!(server.try_publish("me", channel, "x"), refused, "{channel}");
        }
        assert_eq!(server.try_publish("stranger", "orders", "x"), refused);
        server.publish("me", "orders", 1);
        server.subscribe("me", "orders", "a", &options());
        server.expect("a:1");
    });
}

#[test]
fn what_the_store_refuses_is_answered_and_takes_no_sequence() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.refuse("orders", Some("no space left on device"));
        server.hold_commits();
        let first = server.hand_in_publish("me", "orders", "x");
        server.run();
        // These wait in the batch behind the refused one.
        let second = server.hand_in_publish("me", "orders", "y");
        let elsewhere = server.hand_in_publish("me", "other", "z");
        let new = Script::subscribe_request(
            "me",
            "orders",
            "b",
            &Options { start: StartPosition::NewOnly, ..options() },
        );
        let subscribed = server.hand_in(Service::Subscribe, new);
        server.run();
        server.refuse("orders", None);
        server.release();
        assert_eq!(server.publish_error(&first), "no space left on device");
        assert_eq!(server.publish_error(&second), "no space left on device");
        assert_eq!(server.publish_error(&elsewhere), "");
        assert!(server.answer(&subscribed).is_some());
        server.publish("me", "orders", 1);
        server.expect("a:3 b:3");
    });
}

#[test]
fn a_channel_that_cannot_be_created_is_forgotten() {
    with_loops(|mut server| {
        server.connect("me");
        server.refuse("orders", Some("mkdir failed"));
        assert_eq!(server.try_publish("me", "orders", "x"), "mkdir failed");
        assert_eq!(server.try_subscribe("me", "orders", "a", &options()), "mkdir failed");
        assert!(server.log.contains(&"Creating channel \"orders\" failed: mkdir failed".into()));
        server.refuse("orders", None);
        server.subscribe("me", "orders", "a", &options());
        server.publish("me", "orders", 1);
        server.expect("a:1");
    });
}

/// Goal: what is behind a refused creation in the next batch is refused too, and nothing else.
#[test]
fn requests_behind_a_refused_creation_are_refused_with_it() {
    with_loops(|mut server| {
        server.connect("me");
        server.hold_commits();
        server.refuse("orders", Some("mkdir failed"));
        let first = server.hand_in_publish("me", "orders", "x");
        server.run();
        let second = server.hand_in_publish("me", "orders", "y");
        let request = Script::subscribe_request("me", "orders", "a", &options());
        let subscribed = server.hand_in(Service::Subscribe, request);
        let third = server.hand_in_publish("me", "other", "y");
        server.run();
        server.refuse("orders", None);
        server.release();
        assert_eq!(server.publish_error(&first), "mkdir failed");
        assert_eq!(server.publish_error(&second), "mkdir failed");
        assert_eq!(server.publish_error(&third), "");
        assert_eq!(server.answer(&subscribed).unwrap(), &b"\x1a\x0cmkdir failed"[..]);
        server.publish("me", "orders", 1);
    });
}

/// Goal: whoever asked for something of another channel hears what became of that, not of what is
/// staged later.
#[test]
fn a_refused_creation_leaves_every_other_answer_with_its_record() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "orders", 1);
        server.hold_commits();
        server.refuse("new", Some("mkdir failed"));
        server.refuse("orders", Some("no space"));
        let first = server.hand_in_publish("me", "new", "x");
        server.run();
        let durable = Options { durable: "d", ..options() };
        let request = Script::subscribe_request("me", "orders", "a", &durable);
        let subscribed = server.hand_in(Service::Subscribe, request);
        server.run();
        server.release();
        assert_eq!(server.publish_error(&first), "mkdir failed");
        assert_eq!(server.answer(&subscribed).unwrap(), &b"\x1a\x08no space"[..]);
    });
}

#[test]
fn draining_hands_over_what_is_staged_and_takes_nothing_new() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.hold_commits();
        let staged = server.hand_in_publish("me", "orders", "x");
        server.run();
        server.drain_all();
        let late = server.hand_in_publish("me", "orders", "y");
        server.run();
        let idle_count = server.drained_count;
        server.release();
        assert_eq!(server.drained_count, server.loops());
        assert!(idle_count < server.loops());
        assert_eq!(server.publish_error(&staged), "");
        assert_eq!(server.publish_error(&late), "?");
        server.restart();
        server.expect("a:1");
    });
}

#[test]
fn a_durable_that_comes_back_to_pending_messages_is_logged() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        for queue in ["", "q"] {
            let durable = Options { queue, durable: "d", ..options() };
            server.subscribe("me", "foo", "a", &durable);
            server.sub_close("me", "foo", "a");
            server.log.clear();
            server.subscribe("me", "foo", "a", &durable);
            let name = if queue.is_empty() { "durable=d" } else { "durable=d:q" };
            let wanted = format!(", {name}");
            let is_said = |line: &String| {
                line.starts_with("[Client:me] Redelivering to subid=") && line.ends_with(&wanted)
            };
            assert_eq!(server.log.iter().filter(|line| is_said(line)).count(), 1, "{name}");
            server.unsubscribe("me", "foo", "a");
        }
    });
}

#[test]
fn a_subscription_that_finds_no_room_is_logged() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &Options { durable: "d", ..options() });
        server.log.clear();
        let refused = "stan: duplicate durable registration";
        let again = Options { durable: "d", ..options() };
        assert_eq!(server.try_subscribe("me", "foo", "b", &again), refused);
        assert_eq!(
            server.log,
            [
                "[Client:me] Duplicate durable subscription registration".to_owned(),
                format!("Unable to create subscription on \"foo\": {refused}"),
            ]
        );
    });
}

/// Goal: as with the reference, a publish is traced before its client is looked at, and of a
/// subscribe request of somebody unknown nothing is said.
#[test]
fn a_publish_of_a_stranger_is_traced_before_it_is_refused() {
    for loops in [1, 2, 4] {
        let mut server = Script::with(loops, |settings| settings.trace = true);
        assert_eq!(server.try_publish("nobody", "foo", "x"), "stan: invalid publish request");
        assert_eq!(
            server.log[0],
            "[Client:nobody] Received message from publisher subj=foo guid=guid"
        );
        assert!(server.log[1].starts_with("Received invalid client publish message "));
        server.log.clear();
        assert_eq!(server.try_publish("nobody", "foo.*", "x"), "stan: invalid publish request");
        assert_eq!(server.log.len(), 1, "a channel that is none: {:?}", server.log);
        server.log.clear();
        let refused = server.try_subscribe("nobody", "foo", "a", &options());
        assert_eq!((refused.as_str(), server.log.len()), ("stan: unknown clientID", 0));
    }
}

#[test]
fn moments_in_the_log_are_dates() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        server.pass_secs(10);
        server.publish("me", "foo", 1);
        server.log.clear();
        let since = |ago| {
            let start = pb::StartPosition::TimeDeltaStart;
            Options { start, ago: Duration::from_secs(ago), ..options() }
        };
        server.subscribe("me", "foo", "looked_up", &since(5));
        server.pass_secs(1);
        server.subscribe("me", "foo", "after_all", &since(0));
        let said =
            |line: &String| line.split_once("sending from time time='").map(|it| it.1.to_owned());
        let moments: Vec<String> = server.log.iter().filter_map(said).collect();
        let ends: Vec<_> = moments.iter().map(|text| text.split_once(" +0000 UTC' seq=")).collect();
        assert_eq!(ends.iter().flatten().map(|it| it.1).collect::<Vec<_>>(), ["2", "3"]);
    });
}

#[test]
fn the_life_of_a_subscription_is_logged() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 3);
        server.log.clear();
        let queue = Options { queue: "q", durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &Options { durable: "dur", ..options() });
        server.sub_close("me", "foo", "a");
        server.subscribe("me", "foo", "a", &Options { durable: "dur", ..options() });
        server.unsubscribe("me", "foo", "a");
        server.subscribe("me", "foo", "b", &queue);
        server.subscribe("me", "foo", "c", &queue);
        server.sub_close("me", "foo", "c");
        server.sub_close("me", "foo", "b");
        let lines: Vec<&str> = server
            .log
            .iter()
            .filter_map(|line| line.strip_prefix("[Client:me] "))
            .filter_map(|line| line.split(" subscription").next())
            .collect();
        assert_eq!(
            lines,
            [
                "Started new durable",
                "Suspended durable",
                "Resumed durable",
                "Redelivering to subid=1, durable=dur",
                "Removed durable",
                "Started new durable queue",
                "Added member to durable queue",
                "Removed member from durable queue",
                "Suspended durable queue",
            ]
        );
        assert!(server.log.iter().any(|line| line
            == "[Client:me] Started new durable subscription, subject=foo, inbox=in.a, \
                durable=dur, subid=1, sending from beginning, seq=1"));
    });
}
