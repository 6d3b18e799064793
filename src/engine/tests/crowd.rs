//! a store that does not answer: what waits for it is bounded, and nothing is lost by that

use super::*;
use crate::base::limits::{ENGINE_REQUESTS_BYTES_MAX, REQUEST_BYTES};

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
