//! what a restart or a take-over keeps

use super::*;
use crate::base::id::ClientId;
use crate::engine::administration::Change;

#[test]
fn everything_goes_on_after_a_restart_without_any_request() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "plain", &options());
        server.subscribe("me", "foo", "member", &Options { queue: "q", ..options() });
        server.subscribe("me", "foo", "dur", &Options { durable: "d", ..options() });
        server.publish("me", "foo", 1);
        server.ack("plain", "foo", &[1]);
        server.ack("member", "foo", &[1]);
        server.ack("dur", "foo", &[1]);
        server.expect("plain:1 dur:1 member:1");
        server.restart();
        server.expect("");
        assert_eq!(server.ping("c-me"), "");
        server.publish("me", "foo", 1);
        server.expect("plain:2 dur:2 member:2");
        server.ack("plain", "foo", &[2]);
        assert_eq!(server.stored("foo")[0].1, [0_u64; 0]);
        server.sub_close("me", "foo", "plain");
    });
}

/// Goal: an acknowledgement that a slow loop has decoded for a former engine names nothing in the
/// next one.
#[test]
fn no_token_of_a_former_engine_is_used_again() {
    with_loops(|mut server| {
        server.connect("me");
        for inbox in ["a", "b", "c"] {
            server.subscribe("me", "foo", inbox, &options());
        }
        let before = server.ack_tokens();
        server.restart();
        server.subscribe("me", "foo", "d", &options());
        let after = server.ack_tokens();
        assert_eq!((before.len(), after.len()), (3, 4));
        assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    });
}

/// Goal: deadlines after a restart come from timestamps, and counts begin again at 1.
#[test]
fn recovered_pending_messages_are_due_by_their_timestamps() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 2, ..options() });
        server.publish("me", "foo", 1);
        server.pass_secs(20);
        server.publish("me", "foo", 2);
        server.pass_secs(11);
        server.expect("a:1 a:2 a:1*1");
        server.restart();
        server.expect("a:1*1");
        server.pass_secs(19);
        server.expect("a:2*1");
        server.ack("a", "foo", &[1]);
        server.expect("a:3");
    });
}

/// Goal: a position that is newer than the messages that were staged with it does not hide those
/// that take their place.
#[test]
fn a_position_that_outlived_its_messages_is_not_believed() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 3);
        let new_only = Options { start: pb::StartPosition::NewOnly, ..options() };
        server.subscribe("me", "foo", "dur", &Options { durable: "d", ..new_only });
        server.lose_messages_after("foo", 1);
        server.restart();
        server.publish("me", "foo", 1);
        server.expect("dur:2");
    });
}

/// Goal: nor does the next take-over believe it, when other messages have those sequences.
#[test]
fn a_position_that_outlived_its_messages_is_written_anew() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 3);
        let new_only = Options { start: pb::StartPosition::NewOnly, ..options() };
        server.subscribe("me", "foo", "dur", &Options { durable: "d", ..new_only });
        server.sub_close("me", "foo", "dur");
        server.lose_messages_after("foo", 1);
        server.restart();
        server.publish("me", "foo", 2);
        server.restart();
        server.subscribe("me", "foo", "dur", &Options { durable: "d", ..options() });
        server.expect("dur:2 dur:3");
    });
}

/// Goal: what is pending was sent: a record that says less makes no message new again.
#[test]
fn a_position_that_was_written_late_makes_nothing_new_again() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "dur", &Options { durable: "d", ..options() });
        server.publish("me", "foo", 3);
        server.expect("dur:1 dur:2 dur:3");
        server.forget_positions("foo");
        server.restart();
        server.expect("");
        server.ack("dur", "foo", &[1, 2, 3]);
        server.publish("me", "foo", 1);
        server.expect("dur:4");
    });
}

#[test]
fn room_that_is_left_is_used_at_once_after_a_restart() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 2, ..options() });
        server.publish("me", "foo", 4);
        server.expect("a:1 a:2");
        server.hold_commits();
        server.ack("a", "foo", &[1]);
        server.release();
        server.expect("a:3");
        server.ack("a", "foo", &[2, 3]);
        server.expect("a:4");
        server.restart();
        server.publish("me", "foo", 2);
        server.expect("a:5");
    });
}

#[test]
fn offline_durables_stay_offline() {
    with_loops(|mut server| {
        server.connect("me");
        let durable = Options { durable: "d", ack_wait: 1, ..options() };
        let group = Options { queue: "q", ..durable.clone() };
        server.subscribe("me", "foo", "a", &durable);
        server.subscribe("me", "foo", "g", &group);
        server.publish("me", "foo", 1);
        server.expect("a:1 g:1");
        server.sub_close("me", "foo", "a");
        server.sub_close("me", "foo", "g");
        server.restart();
        server.publish("me", "foo", 1);
        server.pass_secs(10);
        server.expect("");
        server.subscribe("me", "foo", "a", &durable);
        server.expect("a:1*1 a:2");
        server.subscribe("me", "foo", "g", &group);
        server.expect("g:1*1 g:2");
    });
}

#[test]
fn a_message_that_moved_to_another_member_is_recovered_there() {
    with_loops(|mut server| {
        server.connect("me");
        let member = Options { queue: "q", ack_wait: 5, ..options() };
        server.subscribe("me", "foo", "a", &member);
        server.publish("me", "foo", 1);
        server.subscribe("me", "foo", "b", &member);
        server.pass_secs(5);
        server.expect("a:1 b:1*1");
        server.restart();
        // In the first pass after a restart only the member that had it gets it.
        server.expect("b:1*1");
        server.ack("b", "foo", &[1]);
        server.restart();
        server.pass_secs(60);
        server.expect("");
    });
}

#[test]
fn subscriptions_of_lost_clients_are_not_restored() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        server.subscribe("me", "foo", "plain", &options());
        server.subscribe("me", "foo", "dur", &Options { durable: "d", ..options() });
        server.subscribe("me", "foo", "member", &Options { queue: "q", ..options() });
        let ghost = Options { queue: "q", durable: "d", ..options() };
        server.subscribe("me", "foo", "ghost", &ghost);
        server.lose_client("me");
        server.log.clear();
        server.restart();
        let warning = "Not recovering ghost durable queue subscriber: [me]:[d:q] subject=foo \
                       inbox=in.ghost";
        assert_eq!(server.log.iter().filter(|line| *line == warning).count(), 1);
        server.publish("you", "foo", 1);
        server.expect("");
        assert_eq!(server.stored("foo").len(), 3, "the ghost's record is gone");
        assert_eq!(server.snapshot().subscription_count(), 1, "the durable is offline");
        server.log.clear();
        server.restart();
        assert!(!server.log.iter().any(|line| line == warning));
    });
}

#[test]
fn of_several_shadows_the_highest_wins() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 5);
        for (id, last_sent) in [(1, 2), (2, 4), (3, 1)] {
            server.store_subscription(
                "foo",
                spb::SubState {
                    id,
                    q_group: "d:q".into(),
                    inbox: "in.old".into(),
                    ack_inbox: format!("ack.{id}").into(),
                    max_in_flight: 10,
                    ack_wait_in_secs: 30,
                    last_sent,
                    is_durable: true,
                    ..Default::default()
                },
            );
        }
        server.restart();
        let warning = "Duplicate shadow durable queue consumer (subid=2) for group \"d:q\"";
        assert!(server.log.contains(&warning.into()), "{:?}", server.log);
        server.subscribe("me", "foo", "a", &Options { queue: "q", durable: "d", ..options() });
        server.expect("a:5");
    });
}

#[test]
fn ack_inboxes_of_any_form_go_on_working() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        server.store_subscription(
            "foo",
            spb::SubState {
                id: 1,
                client_id: "me".into(),
                inbox: "in.old".into(),
                ack_inbox: "_STAN.acks.strange.foo".into(),
                max_in_flight: 1,
                ack_wait_in_secs: 30,
                durable_name: "d".into(),
                ..Default::default()
            },
        );
        server.restart();
        server.expect("old:1");
        server.publish("me", "foo", 1);
        server.set_ack_inbox("old", "_STAN.acks.strange.foo");
        server.ack("old", "foo", &[1]);
        server.expect("old:2");
    });
}

#[test]
fn the_server_record_is_made_once_and_its_subjects_are_kept() {
    use crate::engine::recovery::{DISCOVER_PREFIX, server_info};
    let (info, is_new) = server_info(None, "orders", DISCOVER_PREFIX).unwrap();
    assert!(is_new);
    assert_eq!(info.discovery, "_STAN.discover.orders");
    assert_eq!(info.sub_close, "_STAN.subclose.orders");
    let (kept, is_new) = server_info(Some(info.clone()), "orders", "other").unwrap();
    assert_eq!((kept, is_new), (info.clone(), false));
    let old = spb::ServerInfo { sub_close: Bytes::new(), ..info.clone() };
    assert_eq!(server_info(Some(old), "orders", "other").unwrap(), (info.clone(), true));
    assert_eq!(
        server_info(Some(info), "bills", "x").unwrap_err().to_string(),
        "cluster ID \"bills\" does not match recovered value of \"orders\""
    );
}

#[test]
fn timestamps_do_not_fall_and_ids_are_not_reused_over_restarts() {
    for loops in [1, 2, 4] {
        let mut server =
            Script::with(loops, |settings| settings.subscription_ids_store_wide = true);
        server.connect("me");
        for round in 0..3 {
            for channel in ["a", "b", "c", "d", "e"] {
                server.publish("me", channel, 1);
                server.subscribe("me", channel, &format!("{channel}{round}"), &options());
            }
            server.restart();
        }
        let mut ids: Vec<u64> = ["a", "b", "c", "d", "e"]
            .iter()
            .flat_map(|channel| server.stored(channel))
            .map(|(record, _)| record.id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 15);
    }
}

#[test]
fn messages_of_a_ghost_go_to_its_group() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        let member = Options { queue: "q", durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &member);
        server.subscribe("you", "foo", "b", &member);
        server.publish("you", "foo", 1);
        server.expect("a:1");
        server.lose_client("me");
        server.restart();
        server.pass_secs(1);
        server.expect("b:1*1");
        assert_eq!(server.stored("foo").len(), 1, "the ghost's record is gone");
    });
}

/// Goal: what a client had that a former active was about to end is tried before anything new, as
/// all that its group had is, and nothing new before that of the others either: it comes to one of
/// them that had nothing, who is tried first.
#[test]
fn what_a_group_had_comes_before_what_is_new_where_a_client_is_ended() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        let member = Options { queue: "q", ..options() };
        server.subscribe("me", "foo", "leaver", &member);
        server.publish("you", "foo", 1);
        server.subscribe("you", "foo", "heir", &member);
        server.subscribe("you", "foo", "other", &member);
        server.publish("you", "foo", 2);
        server.expect("leaver:1 heir:2 other:3");
        server.ack("heir", "foo", &[2]);
        server.pass_secs(31);
        server.got();
        server.hold_commits();
        server.administer(7, Change::CloseClient(ClientId::from("me")));
        server.release_nothing();
        server.hold_reads();
        server.restart();
        server.publish("you", "foo", 1);
        server.expect("");
        server.release();
        let got = server.got();
        let place = |text: &str| got.find(text).unwrap_or_else(|| panic!("{text}: {got}"));
        let new = place(":4");
        assert!(place(":1*1") < new && place(":3*1") < new, "{got}");
    });
}

#[test]
fn the_record_of_a_client_goes_after_those_of_its_subscriptions() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        let member = Options { queue: "q", durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &member);
        server.subscribe("you", "foo", "b", &member);
        server.publish("you", "foo", 1);
        server.expect("a:1");
        server.hold_commits();
        let answer = server.hand_in_close("me");
        server.run();
        assert!(server.has_client_record("me"), "whether the ends are written is not known yet");
        server.release();
        assert!(!server.has_client_record("me"));
        assert!(server.answer(&answer).is_some());
        server.restart();
        server.pass_secs(30);
        server.expect("b:1*1");
    });
}
