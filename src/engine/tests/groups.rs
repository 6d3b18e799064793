//! queue groups: turns, stalling, leaving, late acks

use super::*;
use crate::engine::delivery::Reads;
use crate::engine::roster::tests::LOOKS;

fn member() -> Options {
    Options { queue: "q", ack_wait: 60, ..options() }
}

#[test]
fn each_message_goes_to_one_member_in_turns() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        server.subscribe("me", "foo", "a", &member());
        server.subscribe("you", "foo", "b", &member());
        server.subscribe("me", "foo", "plain", &options());
        server.publish("me", "foo", 4);
        server.expect("plain:1 a:1 plain:2 b:2 plain:3 a:3 plain:4 b:4");
    });
}

#[test]
fn the_last_member_takes_the_turn_of_one_that_left() {
    with_loops(|mut server| {
        server.connect("me");
        for inbox in ["a", "b", "c"] {
            server.subscribe("me", "foo", inbox, &member());
        }
        server.publish("me", "foo", 1);
        server.expect("a:1");
        server.ack("a", "foo", &[1]);
        // Next in turn: b, c, a. The last of them takes the place of the first.
        server.unsubscribe("me", "foo", "b");
        server.publish("me", "foo", 3);
        server.expect("a:2 c:3 a:4");
    });
}

#[test]
fn a_stalled_member_does_not_stall_the_group_but_all_together_do() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "busy", &Options { in_flight_max: 1, ..member() });
        server.subscribe("me", "foo", "free", &Options { in_flight_max: 3, ..member() });
        server.publish("me", "foo", 7);
        server.expect("busy:1 free:2 free:3 free:4");
        server.ack("free", "foo", &[3]);
        server.expect("free:5");
        server.subscribe("me", "foo", "joined", &member());
        server.expect("joined:6 joined:7");
    });
}

#[test]
fn a_member_that_is_filled_by_what_another_left_does_not_stop_the_group() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "gone", &member());
        server.subscribe("me", "foo", "small", &Options { in_flight_max: 1, ..member() });
        server.subscribe("me", "foo", "big", &member());
        server.publish("me", "foo", 1);
        server.expect("gone:1");
        server.unsubscribe("me", "foo", "gone");
        server.publish("me", "foo", 3);
        server.expect("big:2 big:3 big:4");
    });
}

#[test]
fn the_start_position_of_a_joining_member_is_ignored() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 3);
        let new_only = Options { start: StartPosition::NewOnly, ..member() };
        server.subscribe("me", "foo", "a", &new_only);
        server.subscribe("me", "foo", "b", &member());
        server.expect("");
        server.unsubscribe("me", "foo", "a");
        server.sub_close("me", "foo", "b");
        assert!(server.stored("foo").is_empty());
        // The group is gone: a new one starts anew.
        server.subscribe(
            "me",
            "foo",
            "c",
            &Options { start: StartPosition::LastReceived, ..member() },
        );
        server.expect("c:3");
    });
}

#[test]
fn pending_messages_of_a_leaver_move_to_the_others_at_once() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        server.subscribe("me", "foo", "leaver", &member());
        server.publish("you", "foo", 3);
        server.expect("leaver:1 leaver:2 leaver:3");
        server.subscribe("you", "foo", "stayer", &Options { in_flight_max: 1, ..member() });
        server.ack("leaver", "foo", &[2]);
        assert_eq!(server.close("me"), "");
        server.expect("");
        server.pass(Duration::from_millis(100));
        server.expect("stayer:1*1 stayer:3*1");
        let stored = server.stored("foo");
        assert_eq!(stored.len(), 1);
        assert_eq!((stored[0].0.last_sent, &stored[0].1[..]), (3, &[1, 3][..]));
        server.ack("stayer", "foo", &[1, 3]);
        server.pass_secs(200);
        server.expect("");
    });
}

#[test]
fn the_position_survives_the_member_that_had_it() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &member());
        server.publish("me", "foo", 3);
        server.ack("a", "foo", &[1, 2, 3]);
        server.expect("a:1 a:2 a:3");
        server.subscribe("me", "foo", "b", &member());
        server.sub_close("me", "foo", "a");
        server.restart();
        server.publish("me", "foo", 1);
        server.expect("b:4");
    });
}

#[test]
fn redelivery_prefers_an_idle_member_and_the_group_shares_the_count() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "slow", &Options { ack_wait: 1, ..member() });
        server.publish("me", "foo", 1);
        server.expect("slow:1");
        server.subscribe("me", "foo", "idle", &Options { ack_wait: 1, ..member() });
        server.pass_secs(1);
        server.expect("idle:1*1");
        assert_eq!(server.stored("foo")[0].1, [0_u64; 0]);
        assert_eq!(server.stored("foo")[1].1, [1]);
        server.pass_secs(1);
        server.expect("slow:1*2");
        // A late ack by a member that no longer has it settles it for the group.
        server.ack("idle", "foo", &[1]);
        assert_eq!(server.stored("foo")[0].1, [0_u64; 0]);
        server.pass_secs(10);
        server.expect("");
    });
}

#[test]
fn a_member_with_failed_heartbeats_is_avoided() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        server.subscribe("me", "foo", "failing", &Options { ack_wait: 50, ..member() });
        server.publish("you", "foo", 1);
        server.expect("failing:1");
        server.subscribe("you", "foo", "healthy", &member());
        server.set_pulse("me", Pulse::Gone);
        server.pass_secs(30);
        server.publish("you", "foo", 3);
        server.expect("healthy:2 healthy:3 healthy:4");
        server.pass_secs(20);
        server.expect("healthy:1*1");
    });
}

#[test]
fn durable_and_non_durable_groups_of_one_name_are_two_groups() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "plain", &member());
        server.subscribe("me", "foo", "durable", &Options { durable: "d", ..member() });
        server.publish("me", "foo", 1);
        let got = server.got();
        assert!(got == "durable:1 plain:1" || got == "plain:1 durable:1", "{got}");
        let names: Vec<Bytes> = server.stored("foo").into_iter().map(|s| s.0.q_group).collect();
        assert_eq!(names, ["q", "d:q"]);
        let refused = Options { durable: "a:b", ..member() };
        assert_eq!(
            server.try_subscribe("me", "foo", "x", &refused),
            "stan: durable name of a durable queue subscriber can't contain the character ':'"
        );
    });
}

#[test]
fn a_durable_group_outlives_its_members() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        let durable = Options { durable: "d", ..member() };
        server.publish("me", "foo", 6);
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 4, ..durable.clone() });
        server.expect("a:1 a:2 a:3 a:4");
        server.ack("a", "foo", &[1, 3]);
        server.expect("a:5 a:6");
        server.sub_close("me", "foo", "a");
        let (record, pending) = server.stored("foo").remove(0);
        assert_eq!(
            (&record.client_id[..], record.last_sent, record.is_closed),
            (&b""[..], 6, false)
        );
        assert_eq!(pending, [2, 4, 5, 6]);
        server.publish("me", "foo", 1);
        server.subscribe("you", "foo", "b", &durable);
        server.expect("b:2*1 b:4*1 b:5*1 b:6*1 b:7");
        server.subscribe("me", "foo", "c", &durable);
        server.expect("");
        assert_eq!(server.close("you"), "");
        server.pass(Duration::from_millis(100));
        server.expect("c:2*2 c:4*2 c:5*2 c:6*2 c:7*1");
        server.unsubscribe("me", "foo", "c");
        assert!(server.stored("foo").is_empty());
    });
}

/// Goal: what was handed over is not sent again before its ack wait is over.
#[test]
fn a_message_that_was_handed_over_gets_a_whole_ack_wait() {
    with_loops(|mut server| {
        server.connect("me");
        let three = Options { ack_wait: 3, ..member() };
        server.subscribe("me", "foo", "a", &three);
        server.subscribe("me", "foo", "b", &three);
        server.publish("me", "foo", 1);
        server.expect("a:1");
        server.unsubscribe("me", "foo", "a");
        server.pass(Duration::from_millis(100));
        server.expect("b:1*1");
        server.pass(Duration::from_millis(2_900));
        server.expect("");
        server.pass(Duration::from_millis(100));
        server.expect("b:1*2");
    });
}

#[test]
fn a_member_whose_record_is_refused_takes_no_messages_along() {
    with_loops(|mut server| {
        server.connect("me");
        let durable = Options { durable: "d", ..member() };
        server.subscribe("me", "foo", "old", &durable);
        server.publish("me", "foo", 1);
        server.expect("old:1");
        server.refuse("foo", Some("no"));
        server.hold_commits();
        let joining = Script::subscribe_request("me", "foo", "new", &durable);
        let joining = server.hand_in(Service::Subscribe, joining);
        server.run();
        server.refuse("foo", None);
        // The only member that has a record leaves while that of the other one is under way.
        server.hand_in_leave(Service::SubscriptionClose, "me", "foo", "old");
        server.run();
        server.release();
        let answer = server.answer(&joining).unwrap();
        let error = pb::SubscriptionResponse::decode(answer).unwrap().error;
        assert_eq!(error, "no");
        for inbox in ["later", "after_a_restart"] {
            server.subscribe("me", "foo", inbox, &durable);
            server.expect(&format!("{inbox}:1*1"));
            server.sub_close("me", "foo", inbox);
            server.restart();
        }
    });
}

/// Goal: a client that was most of a large group leaves without everybody looking at everybody.
#[test]
fn what_a_leaver_costs_does_not_grow_with_the_size_of_its_group() {
    let looks_of = |member_count: usize, name: &'static str| {
        let mut server = Script::new(1);
        server.connect("me");
        server.connect("you");
        let options = Options { in_flight_max: 1, durable: name, ..member() };
        server.subscribe("you", "foo", "other", &options);
        let inboxes: Vec<String> = (0..member_count).map(|n| format!("i{n}")).collect();
        for inbox in &inboxes {
            server.subscribe("me", "foo", inbox, &options);
        }
        // All are full, and there is more to come.
        server.publish("me", "foo", member_count + 10);
        let before = LOOKS.get();
        assert_eq!(server.close("me"), "");
        LOOKS.get() - before
    };
    for name in ["", "durable"] {
        let (few, many) = (looks_of(20, name), looks_of(200, name));
        assert!(many <= 20 * few.max(20), "{name}: {few} for 20 members, {many} for 200");
    }
}

/// Goal: choosing among very many members for each message leaves others their turn.
#[test]
fn a_large_group_gets_less_in_a_turn() {
    let sent_in_a_turn = |member_count: usize| {
        let mut reads = Reads::default();
        let burst = reads.begin_burst();
        let mut sent = 0;
        while reads.may_send(burst) {
            reads.count_choice(member_count);
            sent += 1;
            if sent == 10_000 {
                break;
            }
        }
        sent
    };
    assert_eq!(sent_in_a_turn(10), 10_000, "a small group costs nothing that counts");
    assert_eq!(sent_in_a_turn(100_000), 1);
    let looks = sent_in_a_turn(5_000) * 5_000;
    assert!(looks <= 50_000, "{looks}");
}
