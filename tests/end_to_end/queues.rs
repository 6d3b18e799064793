//! Queue groups of streaming subscriptions.

use std::time::Duration;

use stanby::proto::pb::{self, StartPosition};

use crate::LOOPS;
use crate::server::{Launch, Server, wait_for};
use crate::stan::{Delivery, NONE, Stan, all, ask, sequences};

const SHORT: Duration = Duration::from_millis(60);

fn each(check: impl Fn(&Server)) {
    for loops in LOOPS {
        check(&Launch::new(&[]).loops(loops).start());
    }
}

fn group(channel: &str) -> pb::SubscriptionRequest {
    pb::SubscriptionRequest { q_group: "q".into(), ack_wait_in_secs: 60, ..ask(channel) }
}

fn sorted(mut sequences: Vec<u64>) -> Vec<u64> {
    sequences.sort_unstable();
    sequences
}

#[test]
fn each_message_goes_to_one_member() {
    each(|server| {
        let port = server.launch.port;
        let (mut one, mut two) = (Stan::connect(port, "queue-1"), Stan::connect(port, "queue-2"));
        let first = one.subscribe(group("queue"));
        let second = two.subscribe(group("queue"));
        let plain = one.subscribe(ask("queue"));
        assert!(two.fill("queue", 1..=100).is_empty());
        assert_eq!(one.take(&plain, 100).len(), 100, "a plain subscription beside them");
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        wait_for("all of the queue's messages", || {
            mine.extend(one.quiet(&first, SHORT));
            theirs.extend(two.quiet(&second, SHORT));
            (100 <= mine.len() + theirs.len()).then_some(())
        });
        assert!(25 <= mine.len() && 25 <= theirs.len(), "{} {}", mine.len(), theirs.len());
        let together = [mine, theirs].concat();
        assert!(sorted(together).into_iter().eq(1..=100));
        let joining = pb::SubscriptionRequest {
            start_position: StartPosition::First.into(),
            ..group("queue")
        };
        let late = two.subscribe(joining);
        assert_eq!(two.quiet(&late, SHORT), NONE, "the start of a joining member is ignored");
        one.leave(&first, true).unwrap();
        two.leave(&second, true).unwrap();
        two.leave(&late, true).unwrap();
        assert!(one.fill("queue", 101..=103).is_empty());
        let last = pb::SubscriptionRequest {
            start_position: StartPosition::LastReceived.into(),
            ..group("queue")
        };
        let anew = one.subscribe(last);
        assert_eq!(sequences(&one.take(&anew, 1)), [103], "a group ends with its last member");
        let durable = pb::SubscriptionRequest { durable_name: "d".into(), ..group("queue") };
        let durable = one.subscribe(durable);
        one.publish("queue", "x").unwrap();
        let found = [one.take(&durable, 1), one.take(&anew, 1)].concat();
        assert_eq!(sequences(&found), [104, 104], "two groups of one name");
    });
}

#[test]
fn stalled_members_do_not_stall_the_group() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "queue-3");
        let with_room =
            |room: i32| pb::SubscriptionRequest { max_in_flight: room, ..group("stall") };
        let (busy, free) = (stan.subscribe(with_room(1)), stan.subscribe(with_room(5)));
        assert!(stan.fill("stall", 1..=8).is_empty());
        let (one, five) = (stan.take(&busy, 1), stan.take(&free, 5));
        let held = [sequences(&one), sequences(&five)].concat();
        assert_eq!(sorted(held), [1, 2, 3, 4, 5, 6]);
        assert_eq!(stan.quiet(&free, SHORT), NONE, "all are stalled");
        stan.ack(&free, five[0].message.sequence);
        assert_eq!(sequences(&stan.take(&free, 1)), [7], "an ack makes room");
        let joined = stan.subscribe(with_room(100));
        assert_eq!(sequences(&stan.take(&joined, 1)), [8], "a joining member has room");
        stan.publish("stall", "9").unwrap();
        assert_eq!(sequences(&stan.take(&joined, 1)), [9]);
        assert_eq!(stan.quiet(&busy, Duration::ZERO), NONE);
    });
}

#[test]
fn a_leavers_messages_move_to_the_others() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "queue-4");
        let leaver = stan.subscribe(group("move"));
        assert!(stan.fill("move", 1..=3).is_empty());
        stan.take(&leaver, 3);
        let stayer = stan.subscribe(pb::SubscriptionRequest { max_in_flight: 1, ..group("move") });
        stan.ack(&leaver, 2);
        stan.leave(&leaver, true).unwrap();
        let moved: Vec<_> = stan.take(&stayer, 2).iter().map(Delivery::brief).collect();
        assert_eq!(moved, [(1, 1), (3, 1)]);
        assert_eq!(stan.quiet(&stayer, SHORT), NONE, "what was acknowledged does not move");
    });
}

#[test]
fn redelivery_prefers_an_idle_member_and_late_acks_settle() {
    each(|server| {
        let mut stan = Stan::connect(server.launch.port, "queue-5");
        let waits = |seconds: i32, channel: &str| pb::SubscriptionRequest {
            ack_wait_in_secs: seconds,
            ..group(channel)
        };
        let slow = stan.subscribe(waits(1, "idle"));
        stan.publish("idle", "1").unwrap();
        stan.take(&slow, 1);
        let idle = stan.subscribe(waits(1, "idle"));
        // It comes to the other one once more where that joined late.
        let (sequence, count) = stan.take(&idle, 1)[0].brief();
        assert!(sequence == 1 && 1 <= count, "{sequence} {count}");
        stan.ack(&slow, 1);
        stan.ack(&idle, 1);
        let first = stan.subscribe(waits(1, "late"));
        stan.publish("late", "1").unwrap();
        stan.take(&first, 1);
        // With a longer wait the new holder would keep the message; only the late ack settles it.
        let holder = stan.subscribe(waits(2, "late"));
        stan.take(&holder, 1);
        stan.ack(&first, 1);
        wait_for("the late ack", || {
            let page = server.json("/streaming/channelsz?channel=late&subs=1");
            let subscriptions = page["subscriptions"].as_array().unwrap();
            assert_eq!(subscriptions.len(), 2, "{page}");
            subscriptions.iter().all(|sub| sub["pending_count"] == 0).then_some(())
        });
        // What came before that was right.
        stan.flush();
        for sub in [&first, &holder, &slow, &idle] {
            stan.quiet(sub, Duration::ZERO);
        }
        assert_eq!(stan.quiet(&first, Duration::from_millis(2_500)), NONE);
        let rest = [stan.quiet(&holder, SHORT), stan.quiet(&slow, SHORT), stan.quiet(&idle, SHORT)];
        assert_eq!(rest.concat(), NONE);
    });
}

#[test]
fn durable_queues_outlive_their_members() {
    each(|server| {
        let port = server.launch.port;
        let (mut one, mut two) = (Stan::connect(port, "dq-1"), Stan::connect(port, "dq-2"));
        let named = pb::SubscriptionRequest {
            durable_name: "d".into(),
            start_position: StartPosition::First.into(),
            ..group("dq")
        };
        assert!(one.fill("dq", 1..=6).is_empty());
        let member = one.subscribe(pb::SubscriptionRequest { max_in_flight: 4, ..named.clone() });
        one.take(&member, 4);
        one.ack(&member, 1);
        one.ack(&member, 3);
        one.take(&member, 2);
        one.leave(&member, true).unwrap();
        assert!(one.fill("dq", 7..=7).is_empty());
        let rejoined = two.subscribe(named.clone());
        let found: Vec<_> = two.take(&rejoined, 5).iter().map(|d| d.message.redelivered).collect();
        assert_eq!(found, [true, true, true, true, false], "pending first");
        let second = one.subscribe(named.clone());
        assert_eq!(one.quiet(&second, SHORT), NONE, "a further member starts with nothing");
        two.close().unwrap();
        let moved = sorted(sequences(&one.take(&second, 5)));
        assert_eq!(moved, [2, 4, 5, 6, 7], "a closed client's messages move");
        moved.iter().for_each(|sequence| one.ack(&second, *sequence));
        one.close().unwrap();
        let mut heir = Stan::connect(port, "dq-1");
        heir.publish("dq", "8").unwrap();
        let member = heir.subscribe(named.clone());
        assert_eq!(sequences(&heir.take(&member, 1)), [8], "the group outlives its clients");
        heir.leave(&member, false).unwrap();
        let member = heir.subscribe(named);
        assert!(sequences(&heir.take(&member, 8)).into_iter().eq(1..=8), "deleted with the last");
        let other = pb::SubscriptionRequest { durable_name: "d2".into(), ..all("dq") };
        let other = heir.subscribe(pb::SubscriptionRequest { q_group: "q".into(), ..other });
        assert_eq!(sequences(&heir.take(&other, 8)).len(), 8, "another name, another group");
    });
}
