//! a store that does not answer: what waits for it is bounded, and nothing is lost by that

use std::sync::Arc;

use super::*;
use crate::base::limits::{
    ENGINE_REQUESTS_BYTES_MAX, LOOPS_MAX, REQUEST_BYTES, UNSYNCED_BYTES_MAX, UNSYNCED_MESSAGES_MAX,
    unsynced_share,
};
use crate::engine::snapshot::Wanted;

const REFUSED: &str = "stan: too many requests under way, try again";

/// Goal: requests that arrive all the same (by routes) are refused beyond a bound.
#[test]
fn a_stuck_store_bounds_what_waits_for_it() {
    let mut server = Script::new(1);
    server.connect("me");
    server.hold_commits();
    let count = 3 * ENGINE_REQUESTS_BYTES_MAX / REQUEST_BYTES;
    let asked: Vec<_> =
        (0..count).map(|n| server.hand_in_connect(&format!("c{n}"), &format!("n{n}"))).collect();
    server.run();
    let bound = 2 * ENGINE_REQUESTS_BYTES_MAX + 4 * REQUEST_BYTES;
    assert!(server.held_bytes() <= bound, "{}", server.held_bytes());
    let answers: Vec<String> = asked.iter().map(|reply| server.connect_error(reply)).collect();
    let refused_count = answers.iter().filter(|answer| *answer == REFUSED).count();
    let waiting_count = answers.iter().filter(|answer| *answer == "?").count();
    assert_eq!(refused_count + waiting_count, count);
    assert!(0 < refused_count && 0 < waiting_count);
    server.release();
    assert_eq!(server.held_bytes(), 0);
    assert_eq!(server.clients().len(), 1 + waiting_count);
}

/// Goal: acks are never refused; what they and deliveries change is bounded by what is delivered.
#[test]
fn deliveries_wait_for_a_stuck_store_and_acks_do_not() {
    let mut server = Script::new(1);
    server.connect("me");
    server.publish("me", "foo", 1);
    let total = ENGINE_REQUESTS_BYTES_MAX / 64 + 50_000;
    server.store_messages("foo", total as u64);
    let wide = Options { in_flight_max: i32::MAX, ..options() };
    server.set_room("a", false);
    server.subscribe("me", "foo", "a", &wide);
    server.hold_commits();
    server.set_room("a", true);
    let mut sent: Vec<u64> = Vec::new();
    sent.extend(server.deliveries().iter().map(|(_, sequence, _)| *sequence));
    assert!(sent.len() < total, "all were sent though the store took nothing");
    let held_bytes = server.held_bytes();
    assert!(
        held_bytes <= ENGINE_REQUESTS_BYTES_MAX / 2,
        "requests still get through: {held_bytes}"
    );
    server.ack("a", "foo", &sent[..1_000]);
    assert!(held_bytes < server.held_bytes(), "acks are taken");
    assert!(server.deliveries().is_empty());
    server.release();
    sent.extend(server.deliveries().iter().map(|(_, sequence, _)| *sequence));
    assert_eq!(sent.len(), total);
    assert_eq!(server.held_bytes(), 0);
    assert_eq!(server.stored("foo")[0].1.len(), total - 1_000);
}

/// Goal: what a page lists is copied in portions, of which each is little (the driver of the test
/// looks at that); everything is in one of them, and nothing in two.
#[test]
fn long_lists_are_told_in_portions() {
    for loops in [1, 4] {
        let mut server =
            Script::with(loops, |settings| settings.limits.global.subscriptions_max = 2_000);
        for number in 0..90 {
            server.connect(&format!("client-{number}"));
            server.publish(&format!("client-{number}"), &format!("channel-{number}"), 1);
        }
        for number in 0..2_000 {
            let client = format!("client-{}", number % 90);
            server.subscribe(&client, "orders", &format!("inbox-{number}"), &options());
        }
        let all = server.snapshot();
        let orders = all.channels.iter().find(|found| found.subscriptions.len() > 1).unwrap();
        let ids: std::collections::BTreeSet<_> =
            orders.subscriptions.iter().map(|found| found.id).collect();
        assert_eq!((orders.subscriptions.len(), ids.len()), (2_000, 2_000));
        assert_eq!((all.clients.len(), all.channels.len()), (90, 91));
        let clients = ["client-7".into(), "client-8".into()].into();
        let of_two = server.listed(&Wanted::Of(Arc::new(clients)));
        assert_eq!((of_two.channels.len(), of_two.subscription_count()), (1, 46));
        let names = ["orders".into(), "channel-3".into(), "absent".into()].into();
        let two = server.listed(&Wanted::Channels(names));
        assert_eq!((two.channels.len(), two.subscription_count()), (2, 2_000));
        assert_eq!(server.listed(&Wanted::Names).channels.len(), 91);
        let totals = server.listed(&Wanted::Totals);
        assert!(totals.channels.is_empty() && totals.clients.is_empty());
        assert_eq!(totals.totals, all.totals);
    }
}

/// Goal: a batch has no more messages than a successor looks for; the script counts each.
#[test]
fn what_waits_for_a_stuck_store_is_written_in_bounded_batches() {
    let mut server = Script::new(LOOPS_MAX);
    server.connect("me");
    server.hold_commits();
    let count = 3 * unsynced_share(UNSYNCED_MESSAGES_MAX, LOOPS_MAX);
    (0..count).for_each(|n| drop(server.hand_in_publish("me", "foo", &n.to_string())));
    server.run();
    server.release();
    assert_eq!(server.contents("foo").len(), count);
}

/// Goal: nor has it more bytes; a message that is larger than the bound has a batch of its own.
#[test]
fn batches_are_bounded_by_the_bytes_of_their_messages_too() {
    let mut server = Script::new(LOOPS_MAX);
    server.connect("me");
    server.hold_commits();
    let bytes_max = unsynced_share(UNSYNCED_BYTES_MAX, LOOPS_MAX);
    let sizes = [1, bytes_max * 3 / 5, bytes_max * 3 / 5, bytes_max * 2, bytes_max / 2, 1];
    for size in sizes {
        server.hand_in_publish("me", "foo", &"x".repeat(size));
    }
    server.run();
    server.release();
    let stored = server.contents("foo").iter().map(String::len).collect::<Vec<_>>();
    assert_eq!(stored, sizes);
}

/// Goal: what counts is how long messages are where they are written, encrypted for example.
#[test]
fn batches_are_bounded_by_the_bytes_that_a_store_makes_of_their_messages() {
    let overhead = 1_000;
    let mut server = Script::with(LOOPS_MAX, |settings| settings.message_overhead_max = overhead);
    server.connect("me");
    server.hold_commits();
    let count = 3 * unsynced_share(UNSYNCED_BYTES_MAX, LOOPS_MAX) / overhead;
    (0..count).for_each(|n| drop(server.hand_in_publish("me", "foo", &n.to_string())));
    server.run();
    server.release();
    assert_eq!(server.contents("foo").len(), count);
}
