//! Acknowledgements, max in flight and redelivery.

use std::time::Duration;

use prost::Message as _;
use stanby::proto::pb;

use crate::LOOPS;
use crate::server::{Launch, Server};
use crate::stan::{Delivery, GARBAGE, NONE, Stan, all, ask, sequences};

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

#[test]
fn what_is_not_acknowledged_comes_again_by_its_own_deadline() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "redo-1");
        let request =
            pb::SubscriptionRequest { ack_wait_in_secs: 1, max_in_flight: 3, ..ask("redo") };
        let sub = stan.subscribe(request);
        assert!(stan.fill("redo", 1..=4).is_empty());
        let first = stan.take(&sub, 3);
        let again = stan.take(&sub, 3);
        assert_eq!(briefs(&again), [(1, 1), (2, 1), (3, 1)], "flagged, in order");
        for (before, after) in first.iter().zip(&again) {
            let (old, new) = (&before.message, &after.message);
            assert!(ALMOST_A_SECOND < after.at - before.at, "{:?}", after.at - before.at);
            let same = (&old.data, old.timestamp, &old.subject)
                == (&new.data, new.timestamp, &new.subject);
            assert!(same && new.redelivered && !old.redelivered, "the same message");
        }
        assert_eq!(stan.quiet(&sub, Duration::from_millis(300)), NONE);
        stan.ack(&sub, 2);
        let released = stan.take(&sub, 1);
        assert_eq!(briefs(&released), [(4, 0)]);
        let fresh = stan.subscribe(all("redo"));
        assert_eq!(briefs(&stan.take(&fresh, 4)), [(1, 0), (2, 0), (3, 0), (4, 0)], "no flag");
        let third = stan.take(&sub, 3);
        assert_eq!(briefs(&third), [(1, 2), (3, 2), (4, 1)]);
        assert!(ALMOST_A_SECOND < third[2].at - released[0].at);
        [1, 3, 4].into_iter().for_each(|sequence| stan.ack(&sub, sequence));
        assert_eq!(stan.quiet(&sub, Duration::from_millis(1_500)), NONE, "acknowledged");
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
        stan.take(&durable, 6);
        stan.leave(&durable, true).unwrap();
        let resumed = stan.subscribe(named);
        assert_eq!(briefs(&stan.take(&resumed, 3)), [(1, 2), (2, 2), (3, 2)]);
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
