//! start positions and reading from the store

use super::*;
use crate::base::limits::{FETCHES_MAX, RECENT_BYTES_MAX};

fn at(start: StartPosition) -> Options {
    Options { start, ..options() }
}

fn from_sequence(sequence: u64) -> Options {
    Options { start: StartPosition::SequenceStart, sequence, ..options() }
}

fn ago(secs: u64) -> Options {
    let ago = Duration::from_secs(secs);
    Options { start: StartPosition::TimeDeltaStart, ago, ..options() }
}

#[test]
fn start_positions_mean_what_they_say() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 5);
        server.pass_secs(10);
        server.publish("me", "foo", 5);
        server.pass_secs(10);
        for (name, options, expected) in [
            ("new", at(StartPosition::NewOnly), 11),
            ("last", at(StartPosition::LastReceived), 10),
            ("first", at(StartPosition::First), 1),
            ("four", from_sequence(4), 4),
            ("zero", from_sequence(0), 1),
            ("beyond", from_sequence(100), 11),
            ("old", ago(3_600), 1),
            ("between", ago(15), 6),
            ("now", ago(0), 11),
        ] {
            server.subscribe("me", "foo", name, &options);
            let replayed: Vec<String> =
                (expected..=10).map(|sequence| format!("{name}:{sequence}")).collect();
            server.expect(&replayed.join(" "));
        }
        server.publish("me", "foo", 1);
        server.expect("new:11 last:11 first:11 four:11 zero:11 beyond:11 old:11 between:11 now:11");
    });
}

#[test]
fn on_an_empty_channel_every_position_is_the_first_message() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &at(StartPosition::NewOnly));
        server.subscribe("me", "foo", "b", &at(StartPosition::LastReceived));
        server.subscribe("me", "foo", "c", &from_sequence(3));
        server.subscribe("me", "foo", "d", &ago(5));
        server.publish("me", "foo", 1);
        server.expect("a:1 b:1 c:1 d:1");
    });
}

#[test]
fn a_new_only_subscription_starts_exactly_between_two_publishes() {
    with_loops(|mut server| {
        server.connect("me");
        server.hold_commits();
        server.hand_in_publish("me", "foo", "before");
        let request = Script::subscribe_request("me", "foo", "a", &at(StartPosition::NewOnly));
        server.hand_in(Service::Subscribe, request);
        server.hand_in_publish("me", "foo", "after");
        server.run();
        server.release();
        server.expect("a:2");
    });
}

#[test]
fn a_long_replay_comes_in_order_and_joins_what_is_published_meanwhile() {
    with_loops(|mut server| {
        server.connect("me");
        for _ in 0..3_000 {
            server.hand_in_publish("me", "foo", "x");
        }
        server.run();
        let options = Options { in_flight_max: 10_000, ..options() };
        let request = Script::subscribe_request("me", "foo", "a", &options);
        server.hand_in(Service::Subscribe, request);
        for _ in 0..3_000 {
            server.hand_in_publish("me", "foo", "x");
        }
        server.run();
        let expected: Vec<String> = (1..=6_000).map(|n| format!("a:{n}")).collect();
        server.expect(&expected.join(" "));
        assert!(server.fetch_count >= 3, "the store was read");
    });
}

/// Goal: a subscriber with little room does not cost a fetch a message.
#[test]
fn what_was_read_ahead_serves_later_acks() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 50);
        let options = Options { in_flight_max: 1, ..options() };
        server.subscribe("me", "foo", "a", &options);
        for sequence in 1..=50 {
            server.expect(&format!("a:{sequence}"));
            server.ack("a", "foo", &[sequence]);
        }
        server.expect("");
        assert_eq!(server.fetch_count, 1);
    });
}

/// Goal: subscribers who keep up are served from memory.
#[test]
fn a_subscriber_who_keeps_up_costs_no_fetch() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &options());
        server.publish("me", "foo", 100);
        assert!(server.got().ends_with("a:100"));
        assert_eq!(server.fetch_count, 0);
    });
}

#[test]
fn removed_messages_are_passed_over() {
    with_loops(|mut server| {
        server.connect("me");
        let one = Options { in_flight_max: 1, ..options() };
        server.subscribe("me", "foo", "slow", &one);
        server.publish("me", "foo", 6);
        server.expect("slow:1");
        server.expire("foo", 4);
        server.subscribe("me", "foo", "new", &options());
        server.expect("new:5 new:6");
        server.ack("slow", "foo", &[1]);
        server.expect("slow:5");
        // All gone: the next message is the next one.
        server.expire("foo", 6);
        server.ack("slow", "foo", &[5]);
        server.subscribe("me", "foo", "last", &at(StartPosition::LastReceived));
        server.expect("");
        server.publish("me", "foo", 1);
        server.expect("slow:7 new:7 last:7");
    });
}

/// Goal: what a reader has read ahead and the store has removed since is not delivered.
#[test]
fn what_was_read_ahead_and_is_removed_is_passed_over() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 6);
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 1, ..options() });
        server.expect("a:1");
        server.expire("foo", 4);
        server.ack("a", "foo", &[1]);
        server.expect("a:5");
        assert_eq!(server.fetch_count, 1, "it was read ahead");
        server.ack("a", "foo", &[5]);
        server.expect("a:6");
        assert!(server.has_nothing_ahead());
    });
}

/// Goal: a message that cannot be read stays pending, is tried again with the next timer, and
/// keeps no other from its reader, after a restart too.
#[test]
fn a_pending_message_that_cannot_be_read_holds_back_no_other() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &options());
        server.publish("me", "foo", 3);
        server.expect("a:1 a:2 a:3");
        server.damage(&[2]);
        server.restart();
        server.pass_secs(31);
        server.expect("a:1*1 a:3*1");
        assert!(server.fetch_count < 10, "{} reads", server.fetch_count);
        server.ack("a", "foo", &[1, 3]);
        server.damage(&[]);
        server.pass_secs(31);
        server.expect("a:2*1");
    });
}

/// Goal: one that is acked while it is being read is pending no more, whatever comes of the read.
#[test]
fn a_message_that_is_acked_while_its_read_fails_is_not_pending_again() {
    with_loops(|mut server| {
        server.connect("me");
        let one = Options { in_flight_max: 1, durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &one);
        server.publish("me", "foo", 2);
        server.expect("a:1");
        server.damage(&[1]);
        server.hold_reads();
        server.restart();
        server.pass_secs(31);
        server.ack("a", "foo", &[1]);
        server.release();
        server.expect("a:2");
        server.ack("a", "foo", &[2]);
        server.damage(&[]);
        server.pass_secs(31);
        server.expect("");
    });
}

/// Goal: a pending message that is gone makes room at its redelivery.
#[test]
fn a_removed_pending_message_is_settled_when_it_is_due() {
    with_loops(|mut server| {
        server.connect("me");
        let one = Options { in_flight_max: 1, ..options() };
        server.subscribe("me", "foo", "a", &one);
        server.publish("me", "foo", 3);
        server.expect("a:1");
        server.expire("foo", 1);
        server.expect("");
        server.pass_secs(30);
        server.expect("a:2");
        assert_eq!(server.stored("foo")[0].1, [2]);
    });
}

/// Goal: no subscription gets more than its share of a turn, however much room it has (P6).
#[test]
fn a_turn_delivers_no_more_than_its_budget() {
    with_loops(|mut server| {
        server.connect("me");
        let roomy = Options { in_flight_max: 1_000_000, ..options() };
        for inbox in ["a", "b"] {
            server.subscribe("me", "foo", inbox, &roomy);
        }
        server.publish("me", "foo", 1);
        server.hold_commits();
        server.hand_in_publish("me", "foo", "x");
        server.run();
        for _ in 0..5_000 {
            server.hand_in_publish("me", "foo", "x");
        }
        server.run();
        server.release();
        server.subscribe("me", "foo", "late", &roomy);
        let got = server.got();
        for inbox in ["a", "b", "late"] {
            let of_inbox = got.split(' ').filter(|word| word.starts_with(&format!("{inbox}:")));
            assert_eq!(of_inbox.count(), 5_002);
        }
        assert!(server.deliveries_max > 1_000, "{}", server.deliveries_max);
        assert!(server.deliveries_max <= 3 * 1_024, "{}", server.deliveries_max);
    });
}

/// Goal: readers that have to wait for the reads of others get theirs.
#[test]
fn more_readers_than_reads_at_a_time_get_their_messages() {
    let mut server = Script::new(1);
    server.connect("me");
    server.publish("me", "foo", 2);
    server.hold_reads();
    let count = FETCHES_MAX + 3;
    for number in 0..count {
        let inbox = format!("reader{number}");
        let request = Script::subscribe_request("me", "foo", &inbox, &options());
        server.hand_in(Service::Subscribe, request);
    }
    server.run();
    assert_eq!(server.fetch_count, FETCHES_MAX);
    server.release();
    assert_eq!(server.deliveries().len(), 2 * count);
}

/// Goal: what is kept in memory for readers is bounded, however far behind they are.
#[test]
fn messages_kept_in_memory_are_bounded() {
    let mut server = Script::new(1);
    server.connect("me");
    server.subscribe("me", "foo", "a", &Options { in_flight_max: 1, ..options() });
    let data = "x".repeat(1024 * 1024);
    for _ in 0..=RECENT_BYTES_MAX / data.len() {
        assert_eq!(server.try_publish("me", "foo", &data), "");
    }
    let kept_bytes = server.recent_bytes();
    assert!(0 < kept_bytes && kept_bytes <= RECENT_BYTES_MAX, "{kept_bytes}");
}

/// Goal: what a reader that leaves has read ahead keeps no other from reading ahead.
#[test]
fn what_a_leaving_reader_read_ahead_no_longer_counts() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 5);
        server.subscribe("me", "foo", "a", &Options { in_flight_max: 1, ..options() });
        server.expect("a:1");
        assert!(!server.has_nothing_ahead(), "more than one message was read");
        server.unsubscribe("me", "foo", "a");
        assert!(server.has_nothing_ahead());
    });
}

/// Goal: after a restart pending messages cost reads by how they lie, not one each.
#[test]
fn pending_messages_that_lie_side_by_side_are_read_at_once() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &options());
        server.publish("me", "foo", 9);
        server.expect("a:1 a:2 a:3 a:4 a:5 a:6 a:7 a:8 a:9");
        let fetch_count = server.fetch_count;
        server.restart();
        server.pass_secs(31);
        server.expect("a:1*1 a:2*1 a:3*1 a:4*1 a:5*1 a:6*1 a:7*1 a:8*1 a:9*1");
        assert!(server.fetch_count <= fetch_count + 3, "{}", server.fetch_count - fetch_count);
    });
}
