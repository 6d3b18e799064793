//! where only a few messages of a subscription are out again at once

use std::time::Duration;

use super::policies::{ACK_WAIT, durable, server_with, with_policy};
use super::*;
use crate::base::delivery_policy::PolicyOverrides;
use crate::base::id::ChannelName;

fn few(count: u32) -> PolicyOverrides {
    PolicyOverrides { redelivered_max: Some(count), ..PolicyOverrides::default() }
}

/// Goal: of what a subscription does not acknowledge only so many are out again at once, in the
/// order in which they were due, and what is new goes on beside them.
#[test]
fn few_are_redelivered_at_once_and_new_ones_go_on() {
    with_policy(&few(1), |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &Options { in_flight_max: 2, ..durable() });
        server.publish("me", "orders", 6);
        server.expect("a:1 a:2");
        server.pass_secs(ACK_WAIT);
        server.expect("a:1*1 a:3 a:4");
        server.ack("a", "orders", &[1]);
        server.pass_secs(1);
        server.expect("a:2*1");
        server.ack("a", "orders", &[3, 4]);
        server.expect("a:5 a:6");
        server.ack("a", "orders", &[5, 6]);
        // The only one that is left comes each ack wait, as ever.
        server.pass_secs(2 * ACK_WAIT);
        server.expect("a:2*2 a:2*3");
        // A durable that comes back gets no more at once.
        server.publish("me", "orders", 2);
        server.expect("a:7 a:8");
        server.sub_close("me", "orders", "a");
        server.subscribe("me", "orders", "b", &Options { in_flight_max: 2, ..durable() });
        server.expect("b:2*4");
        server.ack("b", "orders", &[2]);
        server.pass_secs(1);
        server.expect("b:7*1");
    });
}

/// Goal: a member of a group has no more of them than another subscription.
#[test]
fn a_group_redelivers_few_to_each_member() {
    with_policy(&few(2), |mut server| {
        server.connect("me");
        let member = Options { queue: "q", in_flight_max: 10, ..durable() };
        server.subscribe("me", "orders", "a", &member);
        server.subscribe("me", "orders", "b", &member);
        server.publish("me", "orders", 20);
        assert_eq!(server.deliveries().len(), 20);
        server.pass_secs(ACK_WAIT);
        let again = server.deliveries();
        assert!((2..=4).contains(&again.len()), "{again:?}");
        // All of them come in turns.
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            server.pass_secs(ACK_WAIT);
            seen.extend(server.deliveries().into_iter().map(|(_, sequence, _)| sequence));
        }
        assert_eq!(seen.len(), 20, "{seen:?}");
    });
}

/// Goal: what waits at one member of a group goes to any that may take one more, soon: one whose
/// place is free again, one that joins, one that has room again.
#[test]
fn a_free_member_takes_what_waits_at_another() {
    with_policy(&few(1), |mut server| {
        server.connect("me");
        let member = Options { queue: "q", in_flight_max: 10, ..durable() };
        server.subscribe("me", "orders", "a", &member);
        server.publish("me", "orders", 6);
        server.expect("a:1 a:2 a:3 a:4 a:5 a:6");
        server.subscribe("me", "orders", "b", &member);
        server.pass_secs(ACK_WAIT);
        let mut came = server.deliveries();
        came.sort();
        assert_eq!(came, [("a".to_owned(), 2, 1), ("b".to_owned(), 1, 1)]);
        server.ack("b", "orders", &[1]);
        server.pass(Duration::from_millis(10));
        server.expect("b:3*1");
        server.subscribe("me", "orders", "c", &member);
        server.pass(Duration::from_millis(10));
        server.expect("c:4*1");
        server.set_room("b", false);
        server.ack("b", "orders", &[3]);
        server.pass(Duration::from_millis(10));
        server.expect("");
        server.set_room("b", true);
        server.pass(Duration::from_millis(10));
        server.expect("b:5*1");
        // The one with most to do is the only one with a place.
        server.publish("me", "orders", 9);
        assert_eq!(server.deliveries().len(), 9);
        server.ack("c", "orders", &[4]);
        server.pass(Duration::from_millis(10));
        server.expect("c:6*1");
    });
}

/// Goal: whichever member may take one more, of what waits the one that was due first comes next,
/// wherever it waits: a member that acknowledges nothing keeps none from being redelivered.
#[test]
fn what_was_due_first_goes_first_wherever_it_waits() {
    for taker in ["a", "b", "c"] {
        with_policy(&few(1), |mut server| {
            server.connect("me");
            let member = Options { queue: "q", in_flight_max: 10, ..durable() };
            server.subscribe("me", "orders", "a", &member);
            server.subscribe("me", "orders", "b", &member);
            server.publish("me", "orders", 8);
            assert_eq!(server.deliveries().len(), 8);
            server.pass_secs(ACK_WAIT);
            let mut came = server.deliveries();
            assert_eq!(came.len(), 2);
            if taker == "c" {
                server.subscribe("me", "orders", "c", &member);
                server.pass(Duration::from_millis(10));
                came = server.deliveries();
            }
            let mut order = Vec::new();
            while let Some((_, sequence, _)) = came.iter().find(|(inbox, ..)| inbox == taker) {
                order.push(*sequence);
                server.ack(taker, "orders", &[*sequence]);
                server.pass(Duration::from_millis(10));
                came = server.deliveries();
            }
            assert!(order[1..].is_sorted() && 6 <= order.len(), "{taker}: {order:?}");
        });
    }
}

/// Goal: nothing waits any more at a member that has left, and what waited there goes on.
#[test]
fn nothing_waits_at_a_member_that_has_left() {
    for leaves in [Script::sub_close, Script::unsubscribe] {
        with_policy(&few(1), |mut server| {
            server.connect("me");
            let member = Options { queue: "q", in_flight_max: 10, ..durable() };
            server.subscribe("me", "orders", "a", &member);
            server.publish("me", "orders", 4);
            server.pass_secs(ACK_WAIT);
            server.expect("a:1 a:2 a:3 a:4 a:1*1");
            server.subscribe("me", "orders", "b", &Options { in_flight_max: 1, ..member });
            server.pass(Duration::from_millis(10));
            server.expect("b:2*1");
            leaves(&mut server, "me", "orders", "a");
            let mut seen = Vec::new();
            for _ in 0..8 {
                server.pass_secs(ACK_WAIT);
                for (_, sequence, _) in server.deliveries() {
                    seen.push(sequence);
                    server.ack("b", "orders", &[sequence]);
                }
            }
            seen.sort_unstable();
            seen.dedup();
            assert!([1, 3, 4].iter().all(|it| seen.contains(it)), "{seen:?}");
            // Alone it is suspended, and what waited at it waits at nobody.
            server.publish("me", "orders", 3);
            server.pass_secs(ACK_WAIT);
            server.sub_close("me", "orders", "b");
            server.pass_secs(ACK_WAIT);
        });
    }
}

/// Goal: what becomes a dead letter takes nobody's place, and waits for none.
#[test]
fn dead_letters_need_no_place_among_the_few() {
    let policy = PolicyOverrides {
        deliveries_max: Some(2),
        dead_letter: Some(ChannelName::from("dead.letters")),
        redelivered_max: Some(1),
        ..PolicyOverrides::default()
    };
    for queue in ["", "q"] {
        with_policy(&policy, |mut server| {
            server.connect("me");
            server.subscribe("me", "orders", "a", &Options { queue, ..durable() });
            server.publish("me", "orders", 4);
            server.expect("a:1 a:2 a:3 a:4");
            server.pass_secs(ACK_WAIT);
            server.expect("a:1*1");
            // It goes as soon as it is due, though another is out from then on and others wait.
            server.pass_secs(ACK_WAIT);
            server.expect("a:2*1");
            assert_eq!(server.letters("dead.letters").len(), 1);
            server.ack("a", "orders", &[2]);
            server.pass_secs(1);
            server.expect("a:3*1");
            server.pass_secs(3 * ACK_WAIT);
            server.expect("a:4*1");
            assert_eq!(server.letters("dead.letters").len(), 3);
            assert!(server.stored("orders")[0].1.is_empty());
        });
    }
}

/// Goal: a store that stalls lets out no more than a few, counts each once, and loses no place.
#[test]
fn a_stalled_store_keeps_few_out() {
    let policy = PolicyOverrides {
        deliveries_max: Some(3),
        dead_letter: Some(ChannelName::from("dead.letters")),
        redelivered_max: Some(2),
        ..PolicyOverrides::default()
    };
    with_policy(&policy, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 5);
        server.expect("a:1 a:2 a:3 a:4 a:5");
        server.hold_commits();
        server.pass_secs(20 * ACK_WAIT);
        let held = server.held_bytes();
        server.pass_secs(20 * ACK_WAIT);
        assert!(server.held_bytes() <= held + 8 * 1_024, "{held}");
        server.expect("");
        server.release();
        let mut came = Vec::new();
        for _ in 0..200 {
            server.pass_secs(1);
            let now = server.deliveries();
            assert!(now.len() <= 2, "{now:?}");
            came.extend(now);
        }
        for sequence in 1..=5 {
            let counts = came.iter().filter(|(_, found, _)| *found == sequence);
            assert!(counts.map(|(.., count)| *count).eq([1, 2]), "{sequence}: {came:?}");
        }
        assert_eq!(server.letters("dead.letters").len(), 5);
    });
}

/// Goal: 100,000 that wait in 100 subscriptions hold up nobody: one goes out where one is
/// acknowledged, in the order in which they were due, and nothing else is sent or read.
#[test]
fn a_hundred_thousand_may_wait() {
    const READERS: usize = 100;
    let mut server = server_with(&few(1), 1);
    server.connect("me");
    for reader in 0..READERS {
        let options = Options { in_flight_max: 1_000, ..Options { durable: "", ..durable() } };
        server.subscribe("me", "orders", &reader.to_string(), &options);
    }
    server.publish("me", "orders", 1_000);
    assert_eq!(server.deliveries().len(), READERS * 1_000);
    server.pass_secs(ACK_WAIT);
    let fetch_count = server.fetch_count;
    server.deliveries_max = 0;
    for round in 1..=20 {
        let came = server.deliveries();
        assert_eq!(came.len(), READERS);
        for (inbox, sequence, _) in came {
            assert_eq!(sequence, round);
            server.ack(&inbox, "orders", &[sequence]);
        }
        server.pass(Duration::from_millis(10));
    }
    assert_eq!((server.fetch_count, server.deliveries_max), (fetch_count, READERS));
}
