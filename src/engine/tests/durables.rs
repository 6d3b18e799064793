//! durable subscriptions: suspend, resume, replace

use super::*;

fn durable() -> Options {
    Options { durable: "d", ack_wait: 60, ..options() }
}

#[test]
fn a_resumed_durable_gets_its_pending_messages_first() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 10);
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 5, ..durable() });
        server.ack("a", "foo", &[1, 2, 4]);
        server.expect("a:1 a:2 a:3 a:4 a:5 a:6 a:7 a:8");
        let old_ack_inbox = server.ack_inbox("a");
        server.sub_close("me", "foo", "a");
        let (record, pending) = server.stored("foo").remove(0);
        assert!(record.is_closed && record.is_durable);
        assert_eq!((&record.client_id[..], record.last_sent), (&b"me"[..], 8));
        assert_eq!(pending, [3, 5, 6, 7, 8]);
        server.publish("me", "foo", 2);
        server.expect("");
        let resumed = Options { start: StartPosition::NewOnly, ..durable() };
        server.subscribe("me", "foo", "b", &resumed);
        server.expect("b:3*1 b:5*1 b:6*1 b:7*1 b:8*1 b:9 b:10 b:11 b:12");
        assert_ne!(server.ack_inbox("b"), old_ack_inbox);
        // The count goes on, and a smaller max in flight holds new ones back only.
        assert_eq!(server.close("me"), "");
        server.connect("me");
        server.publish("me", "foo", 1);
        server.subscribe("me", "foo", "c", &Options { in_flight_max: 2, ..durable() });
        server.expect("c:3*2 c:5*2 c:6*2 c:7*2 c:8*2 c:9*1 c:10*1 c:11*1 c:12*1");
        server.ack("c", "foo", &[3, 5, 6, 7, 8, 9, 10]);
        server.expect("");
        server.ack("c", "foo", &[11]);
        server.expect("c:13");
    });
}

#[test]
fn an_online_durable_cannot_be_subscribed_twice() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        server.subscribe("me", "foo", "a", &durable());
        let refused = "stan: duplicate durable registration";
        assert_eq!(server.try_subscribe("me", "foo", "b", &durable()), refused);
        server.subscribe("you", "foo", "c", &durable());
        server.subscribe("me", "bar", "d", &durable());
        server.subscribe("me", "foo", "e", &Options { durable: "D", ..durable() });
    });
}

#[test]
fn unsubscribe_deletes_a_durable_that_is_online() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &durable());
        server.sub_close("me", "foo", "a");
        let offline = server.leave(Service::Unsubscribe, "me", "foo", "a");
        assert_eq!(offline, "stan: invalid subscription");
        server.subscribe("me", "foo", "b", &durable());
        server.publish("me", "foo", 1);
        server.expect("b:1");
        server.unsubscribe("me", "foo", "b");
        assert!(server.stored("foo").is_empty());
        server.subscribe("me", "foo", "c", &durable());
        server.expect("c:1");
    });
}

#[test]
fn replace_durable_takes_over_an_online_one() {
    for loops in [1, 2, 4] {
        let mut server = Script::with(loops, |settings| settings.replace_durable = true);
        server.connect("me");
        server.subscribe("me", "foo", "a", &durable());
        server.publish("me", "foo", 1);
        server.expect("a:1");
        server.subscribe("me", "foo", "b", &durable());
        server.expect("b:1*1");
        server.publish("me", "foo", 1);
        server.expect("b:2");
        let old = server.leave(Service::SubscriptionClose, "me", "foo", "a");
        assert_eq!(old, "stan: invalid subscription");
        assert_eq!(server.stored("foo").len(), 1);
    }
}

#[test]
fn a_refused_resume_leaves_the_durable_offline() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &durable());
        server.publish("me", "foo", 1);
        server.expect("a:1");
        server.sub_close("me", "foo", "a");
        server.refuse("foo", Some("no"));
        assert_eq!(server.try_subscribe("me", "foo", "b", &durable()), "no");
        assert_eq!(server.try_subscribe("me", "foo", "x", &options()), "no");
        server.refuse("foo", None);
        server.publish("me", "foo", 1);
        assert!(server.stored("foo")[0].0.is_closed);
        server.subscribe("me", "foo", "b", &durable());
        server.expect("b:1*1 b:2");
        assert_eq!(server.snapshot().subscription_count(), 1);
    });
}

/// Goal: a close that the store refused is written with the next batch of the channel.
#[test]
fn a_refused_suspension_is_written_later() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &durable());
        server.refuse("foo", Some("no"));
        server.sub_close("me", "foo", "a");
        server.refuse("foo", None);
        assert!(!server.stored("foo")[0].0.is_closed);
        server.publish("me", "foo", 1);
        assert!(server.stored("foo")[0].0.is_closed);
    });
}

/// Goal: wherever the writing of refused entries breaks off, what was delivered and not
/// acknowledged comes again.
#[test]
fn a_part_of_refused_entries_passes_over_no_message() {
    for count in 0..8 {
        with_loops(|mut server| {
            server.connect("me");
            server.subscribe("me", "foo", "a", &Options { in_flight_max: 2, ..durable() });
            server.publish("me", "foo", 4);
            server.expect("a:1 a:2");
            server.refuse("foo", Some("no"));
            server.ack("a", "foo", &[1, 2]);
            server.expect("a:3 a:4");
            server.tear(count);
            server.ack("a", "foo", &[4]);
            let (state, pending) = &server.stored("foo")[0];
            let is_kept = state.last_sent < 3 || pending.contains(&3);
            assert!(is_kept, "{count}: {} sent, of which {pending:?} wait", state.last_sent);
        });
    }
}

/// Goal: the entry of a delivery that the store refused is written before a later position is.
#[test]
fn a_refused_entry_of_a_delivery_is_written_later() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 2, ..durable() });
        server.publish("me", "foo", 3);
        server.expect("a:1 a:2");
        server.refuse("foo", Some("no"));
        server.ack("a", "foo", &[1]);
        server.expect("a:3");
        server.refuse("foo", None);
        server.publish("me", "foo", 1);
        server.ack("a", "foo", &[2]);
        server.expect("a:4");
        assert_eq!(server.stored("foo")[0].1, [1, 3, 4], "without 3 it would count as acked");
    });
}

#[test]
fn the_delivery_inbox_must_be_a_legal_subject() {
    with_loops(|mut server| {
        server.connect("me");
        let invalid = "stan: invalid subscription request";
        for inbox in ["a b", "a..b", "a.*", &"x".repeat(5_000)] {
            assert_eq!(server.try_subscribe("me", "foo", inbox, &options()), invalid);
        }
        server.subscribe("me", "foo", "ok", &options());
    });
}

#[test]
fn subscribe_requests_are_checked_in_order() {
    with_loops(|mut server| {
        server.connect("me");
        let ok = options();
        for (client, channel, options, expected) in [
            ("", "foo", Options { ack_wait: 0, ..ok.clone() }, "stan: clientID missing"),
            (
                "who",
                "*",
                Options { ack_wait: 0, in_flight_max: 0, ..ok.clone() },
                "stan: invalid ack wait time, should be >= 1s",
            ),
            (
                "who",
                "*",
                Options { in_flight_max: -1, ..ok.clone() },
                "stan: invalid MaxInflight, should be >= 1",
            ),
            ("who", "foo.*", ok.clone(), "stan: invalid subject"),
            ("who", "foo", ok.clone(), "stan: unknown clientID"),
        ] {
            assert_eq!(server.try_subscribe(client, channel, "a", &options), expected);
        }
    });
}

/// Goal: requests that come without waiting for answers each get the answer that is theirs.
#[test]
fn subscribe_close_and_subscribe_at_once_leave_the_last_one_online() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        server.hold_commits();
        let request = |inbox: &str| Script::subscribe_request("me", "foo", inbox, &durable());
        let first = server.hand_in(Service::Subscribe, request("a"));
        server.run();
        server.forget_ack_inbox("a");
        let close = server.hand_in_leave(Service::SubscriptionClose, "me", "foo", "a");
        let second = server.hand_in(Service::Subscribe, request("b"));
        server.run();
        server.release();
        assert_eq!(server.answer(&first).unwrap(), &b"\x1a\x16stan: unknown clientID"[..]);
        assert_eq!(server.answer(&close), Some(Bytes::new()));
        assert!(server.answer(&second).unwrap().starts_with(b"\x12"));
        server.expect("b:1");
        assert!(!server.stored("foo")[0].0.is_closed);
    });
}

#[test]
fn what_is_offline_is_shown_with_its_last_client_and_as_stalled_as_it_was() {
    with_loops(|mut server| {
        server.connect("me");
        let full = Options { in_flight_max: 1, ..durable() };
        server.subscribe("me", "foo", "a", &full);
        server.subscribe("me", "foo", "b", &Options { queue: "q", ..full });
        server.publish("me", "foo", 2);
        server.expect("a:1 b:1");
        assert_eq!(server.close("me"), "");
        let shown = |server: &Script| {
            let channel = server.snapshot().channels.remove(0);
            let mut shown: Vec<_> = channel
                .subscriptions
                .iter()
                .map(|found| {
                    let client = String::from_utf8_lossy(found.client.as_bytes()).into_owned();
                    (found.queue_name.is_empty(), found.is_offline, found.is_stalled, client)
                })
                .collect();
            shown.sort_unstable();
            shown
        };
        let (queue, plain) = (false, true);
        let me = || "me".to_owned();
        assert_eq!(shown(&server), [(queue, true, true, me()), (plain, true, true, me())]);
        // The record of a group without members names nobody.
        assert!(server.stored("foo").iter().any(|(record, _)| record.client_id.is_empty()));
        server.restart();
        let nobody = String::new();
        assert_eq!(shown(&server), [(queue, true, true, nobody), (plain, true, true, me())]);
    });
}

/// Goal: a durable that comes back with less room than it has pending goes on when it has acked.
#[test]
fn a_durable_with_more_pending_than_it_may_have_goes_on_after_its_acks() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &durable());
        server.publish("me", "foo", 3);
        server.expect("a:1 a:2 a:3");
        server.sub_close("me", "foo", "a");
        server.publish("me", "foo", 2);
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 1, ..durable() });
        server.expect("a:1*1 a:2*1 a:3*1");
        server.ack("a", "foo", &[1, 2, 3]);
        server.expect("a:4");
        server.ack("a", "foo", &[4]);
        server.expect("a:5");
    });
}

/// Goal: a position that was taken from messages that the store then refused is not written.
#[test]
fn a_durable_that_began_after_refused_messages_gets_those_that_take_their_place() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        server.refuse("foo", Some("no"));
        server.hold_commits();
        server.hand_in_publish("me", "foo", "refused");
        server.run();
        let new_only = Options { start: StartPosition::NewOnly, ..durable() };
        server.hand_in(Service::Subscribe, Script::subscribe_request("me", "foo", "a", &new_only));
        server.run();
        server.refuse("foo", None);
        server.set_room("a", false);
        server.release();
        server.publish("me", "foo", 2);
        server.restart();
        server.set_room("a", true);
        server.expect("a:2 a:3");
    });
}

/// Goal: what the store refused of a durable and what is asked of it meanwhile are written in the
/// order in which they were asked for.
#[test]
fn a_durable_that_came_back_while_its_end_was_refused_is_not_written_as_closed() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &durable());
        server.refuse("foo", Some("no"));
        server.hold_commits();
        server.hand_in_leave(Service::SubscriptionClose, "me", "foo", "a");
        server.run();
        let request = Script::subscribe_request("me", "foo", "b", &durable());
        server.hand_in(Service::Subscribe, request);
        server.run();
        server.refuse("foo", None);
        server.release();
        server.publish("me", "foo", 1);
        assert!(server.stored("foo").iter().all(|(state, _)| !state.is_closed));
    });
}

/// Goal: who comes back with less room than it has pending messages goes on once they are acked.
#[test]
fn a_durable_that_comes_back_with_less_room_goes_on_when_it_has_some() {
    with_loops(|mut server| {
        server.connect("me");
        let durable = Options { durable: "d", in_flight_max: 2, ..options() };
        server.publish("me", "foo", 4);
        server.subscribe("me", "foo", "a", &durable);
        server.expect("a:1 a:2");
        server.sub_close("me", "foo", "a");
        server.subscribe("me", "foo", "b", &Options { in_flight_max: 1, ..durable });
        server.expect("b:1*1 b:2*1");
        // Whatever the store does meanwhile: the report of a commit would have it go on, too.
        server.hold_commits();
        server.ack("b", "foo", &[1]);
        server.expect("");
        server.ack("b", "foo", &[2]);
        server.expect("b:3");
        server.release();
        server.expect("");
    });
}
