//! Acknowledgements, max in flight and redelivery.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost::Message as _;
use stanby::proto::pb;

use crate::LOOPS;
use crate::server::{Launch, Server};
use crate::stan::{Delivery, GARBAGE, NONE, Stan, Sub, all, ask, sequences};

const SHORT: Duration = Duration::from_millis(60);

/// An ack wait is never over much earlier than it says.
const ALMOST_A_SECOND: Duration = Duration::from_millis(900);

fn each(check: impl Fn(&Server)) {
    for loops in LOOPS {
        check(&Launch::new(&[]).loops(loops).start());
    }
}

fn briefs(deliveries: &[Delivery]) -> Vec<(u64, u32)> {
    deliveries.iter().map(Delivery::brief).collect()
}

#[test]
fn max_in_flight_holds_and_each_ack_makes_room_for_one() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "flight-1");
        assert!(stan.fill("flight", 1..=10).is_empty());
        let sub = stan.subscribe(pb::SubscriptionRequest { max_in_flight: 3, ..all("flight") });
        assert_eq!(sequences(&stan.take(&sub, 3)), [1, 2, 3]);
        assert_eq!(stan.quiet(&sub, SHORT), NONE);
        stan.ack(&sub, 77);
        stan.send(&sub.ack_inbox, b"", GARBAGE);
        let elsewhere = pb::Ack { subject: "nowhere".into(), sequence: 1 };
        stan.send(&sub.ack_inbox, b"", &elsewhere.encode_to_vec());
        assert_eq!(stan.quiet(&sub, SHORT), NONE, "acks of other things");
        stan.ack(&sub, 2);
        assert_eq!(sequences(&stan.take(&sub, 1)), [4]);
        stan.ack(&sub, 2);
        stan.ack(&sub, 2);
        assert_eq!(stan.quiet(&sub, SHORT), NONE, "repeated acks");
        [1, 3, 4].into_iter().for_each(|sequence| stan.ack(&sub, sequence));
        assert_eq!(sequences(&stan.take(&sub, 3)), [5, 6, 7]);
        let one = stan.subscribe(pb::SubscriptionRequest { max_in_flight: 1, ..all("flight") });
        for wanted in 1..=5 {
            assert_eq!(sequences(&stan.take(&one, 1)), [wanted]);
            assert_eq!(stan.quiet(&one, Duration::from_millis(10)), NONE);
            stan.ack(&one, wanted);
        }
        assert_eq!(stan.quiet(&sub, Duration::ZERO), NONE, "the other one is still full");
    });
}

/// Everything up to the first delivery of a message.
fn take_until(stan: &mut Stan, sub: &Sub, sequence: u64) -> Vec<Delivery> {
    let mut found = Vec::new();
    while found.last().map(Delivery::brief) != Some((sequence, 0)) {
        found.extend(stan.take(sub, 1));
    }
    found
}

/// Deadlines go on while this test or its server waits for a processor: where a message could have
/// come once more by then, it may have.
#[test]
fn what_is_not_acknowledged_comes_again_by_its_own_deadline() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "redo-1");
        let request =
            pb::SubscriptionRequest { ack_wait_in_secs: 1, max_in_flight: 3, ..ask("redo") };
        let sub = stan.subscribe(request);
        let sent_at = Instant::now();
        assert!(stan.fill("redo", 1..=4).is_empty());
        let first = stan.take(&sub, 3);
        let again = stan.take(&sub, 3);
        assert_eq!(briefs(&again), [(1, 1), (2, 1), (3, 1)], "flagged, in order");
        for (before, after) in first.iter().zip(&again) {
            let (old, new) = (&before.message, &after.message);
            assert!(ALMOST_A_SECOND < after.at - sent_at, "{:?}", after.at - sent_at);
            let same = (&old.data, old.timestamp, &old.subject)
                == (&new.data, new.timestamp, &new.subject);
            assert!(same && new.redelivered && !old.redelivered, "the same message");
        }
        let more = stan.take_within(&sub, usize::MAX, Duration::from_millis(300));
        assert!(!sequences(&more).contains(&4), "there is no room");
        let acked_at = Instant::now();
        stan.ack(&sub, 2);
        let released = take_until(&mut stan, &sub, 4);
        let mut counts = BTreeMap::from([(1, 1), (2, 1), (3, 1)]);
        let mut note = |delivery: &Delivery| {
            let (sequence, count) = delivery.brief();
            let last = counts.insert(sequence, count);
            assert_eq!(count, last.map_or(0, |last| last + 1), "message {sequence}");
        };
        more.iter().chain(&released).for_each(&mut note);
        let fresh = stan.subscribe(all("redo"));
        assert_eq!(briefs(&stan.take(&fresh, 4)), [(1, 0), (2, 0), (3, 0), (4, 0)], "no flag");
        let mut third: Vec<Delivery> = Vec::new();
        while ![1, 3, 4].iter().all(|wanted| sequences(&third).contains(wanted)) {
            third.extend(stan.take(&sub, 1));
        }
        third.iter().for_each(&mut note);
        assert!(!sequences(&third).contains(&2), "acknowledged");
        let fourth = third.iter().find(|delivery| delivery.message.sequence == 4).unwrap();
        assert!(ALMOST_A_SECOND < fourth.at - acked_at);
        // Each of these makes room for one, so with the last of those all have been heard.
        [1, 3, 4].into_iter().for_each(|sequence| stan.ack(&sub, sequence));
        assert!(stan.fill("redo", 5..=7).is_empty());
        take_until(&mut stan, &sub, 7);
        let late = stan.quiet(&sub, Duration::from_millis(1_500));
        assert!(late.iter().all(|sequence| 4 < *sequence), "acknowledged: {late:?}");
    });
}

#[test]
fn a_closed_subscription_gets_no_redelivery_and_a_durable_keeps_its_counts() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "redo-2");
        assert!(stan.fill("redo2", 1..=3).is_empty());
        let plain = stan.subscribe(pb::SubscriptionRequest { ack_wait_in_secs: 1, ..all("redo2") });
        stan.take(&plain, 3);
        stan.leave(&plain, true).unwrap();
        let named = pb::SubscriptionRequest {
            ack_wait_in_secs: 1,
            durable_name: "d".into(),
            ..all("redo2")
        };
        let durable = stan.subscribe(named.clone());
        let mut seen = sequences(&stan.take(&durable, 6));
        stan.leave(&durable, true).unwrap();
        // Nothing comes behind the answer, but more may have come before it.
        seen.extend(stan.quiet(&durable, Duration::ZERO));
        let resumed = stan.subscribe(named);
        let wanted = [1, 2, 3].map(|sequence| {
            let count = seen.iter().filter(|one| **one == sequence).count();
            (sequence, u32::try_from(count).unwrap())
        });
        assert_eq!(briefs(&stan.take(&resumed, 3)), wanted);
        assert_eq!(stan.quiet(&plain, Duration::ZERO), NONE, "nothing for the closed one");
    });
}

#[test]
fn acks_before_a_leave_count() {
    each(|server| {
        let port = server.launch.port;
        let (mut stan, mut other) =
            (Stan::connect(port, "leave-1"), Stan::connect(port, "leave-2"));
        let named = pb::SubscriptionRequest { durable_name: "d".into(), ..all("leave") };
        for turn in 0..6 {
            assert!(other.fill("leave", turn * 30 + 1..=turn * 30 + 30).is_empty());
            let sub = stan.subscribe(named.clone());
            let found = stan.take(&sub, 30);
            assert!(found.iter().all(|delivery| !delivery.message.redelivered), "turn {turn}");
            found.iter().for_each(|delivery| stan.ack(&sub, delivery.message.sequence));
            stan.leave(&sub, true).unwrap();
        }
        let sub = stan.subscribe(named.clone());
        assert!(other.fill("leave", 181..=230).is_empty());
        stan.take(&sub, 50).iter().for_each(|delivery| stan.ack(&sub, delivery.message.sequence));
        stan.close().unwrap();
        let mut heir = Stan::connect(port, "leave-1");
        let sub = heir.subscribe(named);
        assert_eq!(heir.quiet(&sub, SHORT), NONE, "acks before a close");
        let group = pb::SubscriptionRequest { q_group: "q".into(), ..all("leave") };
        let leaver = heir.subscribe(group.clone());
        let held = heir.take(&leaver, 230);
        let stayer = other.subscribe(group);
        held.iter().for_each(|delivery| heir.ack(&leaver, delivery.message.sequence));
        heir.leave(&leaver, false).unwrap();
        assert_eq!(other.quiet(&stayer, Duration::from_millis(200)), NONE, "nothing moves");
    });
}
