//! Limits of channels, subscriptions, messages, bytes, age and inactivity.

use std::time::Duration;

use stanby::proto::pb::{self, StartPosition};

use crate::LOOPS;
use crate::server::{Launch, wait_for};
use crate::stan::{NONE, Stan, all, ask, sequences};

const SHORT: Duration = Duration::from_millis(60);

fn refused(text: &str) -> Result<(), String> {
    Err(text.to_owned())
}

#[test]
fn counts_are_limited() {
    for loops in LOOPS {
        let server = Launch::new(&["-mc", "3", "-msu", "2", "-mm", "5"]).loops(loops).start();
        let mut stan = Stan::connect(server.launch.port, "limit-1");
        let named =
            pb::SubscriptionRequest { durable_name: "d".into(), max_in_flight: 1, ..ask("limit") };
        let durable = stan.subscribe(named.clone());
        stan.publish("limit", "1").unwrap();
        stan.take(&durable, 1);
        stan.ack(&durable, 1);
        stan.leave(&durable, true).unwrap();
        assert!(stan.fill("limit", 2..=8).is_empty());
        let plain = stan.subscribe(all("limit"));
        assert_eq!(sequences(&stan.take(&plain, 5)), [4, 5, 6, 7, 8], "the oldest are dropped");
        let full = refused("too many subscriptions per channel");
        assert_eq!(stan.try_subscribe(ask("limit")).map(drop), full, "an offline durable counts");
        let queue = pb::SubscriptionRequest { q_group: "q".into(), ..ask("limit") };
        assert_eq!(stan.try_subscribe(queue).map(drop), full, "queues count too");
        let resumed = stan.subscribe(named);
        assert_eq!(sequences(&stan.take(&resumed, 1)), [4], "resuming counts once");
        stan.leave(&resumed, false).unwrap();
        let below = pb::SubscriptionRequest {
            start_position: StartPosition::SequenceStart.into(),
            start_sequence: 2,
            ..ask("limit")
        };
        let below = stan.subscribe(below);
        assert_eq!(sequences(&stan.take(&below, 5)), [4, 5, 6, 7, 8], "from the first there is");
        stan.publish("limit2", "1").unwrap();
        stan.subscribe(ask("limit3"));
        let full = refused("too many channels");
        assert_eq!(stan.publish("limit4", "1"), full);
        assert_eq!(stan.try_subscribe(ask("limit4")).map(drop), full);
        stan.publish("limit2", "2").unwrap();
        // A pending message that the limit dropped is forgotten at its redelivery and makes room.
        let pending =
            pb::SubscriptionRequest { max_in_flight: 1, ack_wait_in_secs: 1, ..all("limit2") };
        let pending = stan.subscribe(pending);
        stan.take(&pending, 1);
        assert!(stan.fill("limit2", 3..=8).is_empty());
        assert_eq!(stan.take(&pending, 1)[0].brief(), (4, 0));
    }
}

#[test]
fn bytes_are_limited() {
    for loops in LOOPS {
        let server = Launch::new(&["-mb", "2000"]).loops(loops).start();
        let mut stan = Stan::connect(server.launch.port, "bytes-1");
        for _ in 0..10 {
            stan.publish("bytes", [0; 500]).unwrap();
        }
        stan.publish("bytes", vec![0; 5_000]).unwrap();
        let replay = stan.subscribe(all("bytes"));
        assert_eq!(sequences(&stan.take(&replay, 1)), [11], "the last is kept even if too big");
        assert_eq!(stan.quiet(&replay, SHORT), NONE);
    }
}

#[test]
fn age_is_limited() {
    for loops in LOOPS {
        let server = Launch::new(&["-ma", "1s"]).loops(loops).start();
        let mut stan = Stan::connect(server.launch.port, "age-1");
        let sub = stan.subscribe(ask("age"));
        assert!(stan.fill("age", 1..=11).is_empty());
        stan.take(&sub, 11);
        wait_for("expiry of all messages", || {
            let sub = stan.subscribe(all("age"));
            let found = stan.quiet(&sub, Duration::from_millis(20));
            stan.leave(&sub, true).unwrap();
            found.is_empty().then_some(())
        });
        stan.publish("age", "12").unwrap();
        assert_eq!(sequences(&stan.take(&sub, 1)), [12], "sequences go on");
        let expired = pb::SubscriptionRequest {
            start_position: StartPosition::SequenceStart.into(),
            start_sequence: 3,
            ..ask("age")
        };
        // One that was expired, too, when it was asked for is published anew.
        let mut last = 12;
        let found = wait_for("a message that is young enough", || {
            let expired = stan.subscribe(expired.clone());
            let found = stan.quiet(&expired, SHORT);
            stan.leave(&expired, true).unwrap();
            if found.is_empty() {
                stan.publish("age", "more").unwrap();
                last += 1;
            }
            (!found.is_empty()).then_some(found)
        });
        assert!(12 <= found[0] && found[0] <= last, "an expired start is the first: {found:?}");
    }
}

#[test]
fn channels_that_nobody_uses_are_deleted() {
    for loops in LOOPS {
        let server = Launch::new(&["-mi", "1s"]).loops(loops).start();
        let mut stan = Stan::connect(server.launch.port, "idle-1");
        for channel in ["idle", "idle.watched", "idle.durable"] {
            stan.publish(channel, "old").unwrap();
        }
        let watched = stan.subscribe(ask("idle.watched"));
        let named = pb::SubscriptionRequest { durable_name: "d".into(), ..all("idle.durable") };
        let durable = stan.subscribe(named);
        stan.leave(&durable, true).unwrap();
        wait_for("deletion of the idle channels", || {
            stan.flush();
            let page = server.json("/streaming/channelsz");
            (page["total"] == 1).then_some(())
        });
        for channel in ["idle", "idle.durable"] {
            stan.publish(channel, "new").unwrap();
            let found = stan.replay(channel, 1);
            assert_eq!(found[0].message.sequence, 1, "{channel} begins anew");
        }
        stan.publish("idle.watched", "new").unwrap();
        assert_eq!(sequences(&stan.take(&watched, 1)), [2], "a subscription keeps its channel");
    }
}
