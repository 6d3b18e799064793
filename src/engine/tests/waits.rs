//! when a message is redelivered, and when it is too old for that

use super::policies::{ACK_WAIT, durable, with_policy};
use super::*;
use crate::base::delivery_policy::PolicyOverrides;
use crate::base::id::ChannelName;

fn waits() -> PolicyOverrides {
    let back_off = [1, 5, 30].map(Duration::from_secs).to_vec();
    PolicyOverrides { back_off: Some(back_off), ..PolicyOverrides::default() }
}

/// When each redelivery of message `sequence` came, in seconds, within so many of them.
fn redelivered_at(server: &mut Script, sequence: u64, secs: u64) -> Vec<f64> {
    let mut came = Vec::new();
    for tenth in 1..=secs * 10 {
        server.pass(Duration::from_millis(100));
        let deliveries = server.deliveries();
        let of_message = deliveries.iter().filter(|(_, found, _)| *found == sequence);
        #[allow(clippy::cast_precision_loss, reason = "it is small")]
        came.extend(of_message.map(|_| tenth as f64 / 10.0));
    }
    came
}

/// Goal: the waits of the list, within a tenth of each; the last one repeats.
#[test]
fn a_back_off_sets_the_pause_before_each_redelivery() {
    let expected = [1.0, 6.0, 36.0, 66.0, 96.0];
    let counting = PolicyOverrides {
        deliveries_max: Some(50),
        dead_letter: Some(ChannelName::from("dead.letters")),
        ..waits()
    };
    for policy in [waits(), counting] {
        for queue in ["", "q"] {
            with_policy(&policy, |mut server| {
                server.connect("me");
                server.subscribe("me", "orders", "a", &Options { queue, ..durable() });
                server.publish("me", "orders", 1);
                server.expect("a:1");
                let came = redelivered_at(&mut server, 1, 120);
                assert_eq!(came.len(), expected.len(), "{came:?}");
                let mut before = (0.0, 0.0);
                for (came, expected) in came.into_iter().zip(expected) {
                    let (wait, wanted) = (came - before.0, expected - before.1);
                    assert!((wait - wanted).abs() <= wanted / 10.0, "{wait} instead of {wanted}");
                    before = (came, expected);
                }
            });
        }
    }
}

/// Goal: each message has its own place in the list: one that waits long holds up none that does
/// not, and what comes later is due sooner.
#[test]
fn each_message_backs_off_for_itself() {
    with_policy(&waits(), |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.pass_secs(10);
        let _ = server.got();
        // The first one waits for half a minute now.
        server.publish("me", "orders", 1);
        server.expect("a:2");
        server.pass_secs(1);
        server.expect("a:2*1");
        server.ack("a", "orders", &[2]);
        server.pass_secs(24);
        server.expect("");
        server.pass_secs(2);
        server.expect("a:1*3");
    });
}

/// Goal: a take-over shortens no wait: with a limit on deliveries the list goes on where it was,
/// without one it begins again.
#[test]
fn a_back_off_goes_on_behind_a_restart() {
    for (max, pause) in [(Some(50), 30), (None, 1)] {
        let dead_letter = max.map(|_| ChannelName::from("dead.letters"));
        let policy = PolicyOverrides { deliveries_max: max, dead_letter, ..waits() };
        with_policy(&policy, |mut server| {
            server.connect("me");
            server.subscribe("me", "orders", "a", &durable());
            server.publish("me", "orders", 1);
            server.pass_secs(7);
            server.expect("a:1 a:1*1 a:1*2");
            server.restart();
            let came = redelivered_at(&mut server, 1, 31);
            let first = came.first().copied().unwrap_or_default();
            assert!((first - f64::from(pause)).abs() <= f64::from(pause) / 10.0, "{came:?}");
        });
    }
}

fn short_lived(secs: u64) -> PolicyOverrides {
    PolicyOverrides { ttl: Some(Duration::from_secs(secs)), ..PolicyOverrides::default() }
}

/// Goal: what is older than the time to live is not delivered, and counts as acknowledged in its
/// order; it stays stored, and nobody is held up by it.
#[test]
fn what_is_older_than_its_time_to_live_is_passed_over() {
    with_policy(&short_lived(60), |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &Options { in_flight_max: 2, ..durable() });
        server.publish("me", "orders", 4);
        server.expect("a:1 a:2");
        server.sub_close("me", "orders", "a");
        server.pass_secs(61);
        server.publish("me", "orders", 1);
        // A durable that comes back sees neither what it had pending nor what waited for it.
        server.subscribe("me", "orders", "b", &Options { in_flight_max: 2, ..durable() });
        server.expect("b:5");
        assert_eq!(server.stored("orders")[0].1, [5]);
        assert_eq!(server.stored("orders")[0].0.last_sent, 5);
        assert_eq!(server.contents("orders").len(), 5);
        assert_eq!(server.snapshot().traffic.outlived, 4);
        server.restart();
        server.pass_secs(ACK_WAIT);
        server.expect("b:5*1");
        // It is redelivered until it is too old.
        server.pass_secs(70);
        assert!(server.got().starts_with("b:5*"));
        server.pass_secs(100);
        server.expect("");
        assert!(server.stored("orders")[0].1.is_empty());
    });
}

/// Goal: what is too old is passed over without being read, but for what tells that there is some;
/// one position is written for all of it.
#[test]
fn what_is_too_old_is_not_read() {
    for queue in ["", "q"] {
        with_policy(&short_lived(60), |mut server| {
            server.connect("me");
            let options = Options { queue, in_flight_max: 2_000, ..durable() };
            server.subscribe("me", "orders", "a", &options);
            server.publish("me", "orders", 2_000);
            assert_eq!(server.deliveries().len(), 2_000);
            server.sub_close("me", "orders", "a");
            server.publish("me", "orders", 3_000);
            server.pass_secs(61);
            server.publish("me", "orders", 2);
            server.restart();
            server.fetch_count = 0;
            server.subscribe("me", "orders", "b", &options);
            server.expect("b:5001 b:5002");
            assert!(server.fetch_count <= 4, "{}", server.fetch_count);
            assert_eq!(server.snapshot().traffic.outlived, 5_000);
            assert_eq!(server.stored("orders")[0].1, [5_001, 5_002]);
            assert!(server.deliveries_max <= 2_000);
        });
    }
}

#[test]
fn a_group_passes_over_what_is_too_old() {
    with_policy(&short_lived(30), |mut server| {
        server.connect("me");
        server.publish("me", "orders", 3);
        server.pass_secs(31);
        let member = Options { queue: "q", ..durable() };
        server.subscribe(
            "me",
            "orders",
            "a",
            &Options { start: crate::proto::pb::StartPosition::First, ..member },
        );
        server.publish("me", "orders", 1);
        server.expect("a:4");
        server.pass_secs(ACK_WAIT);
        server.expect("a:4*1");
        server.pass_secs(100);
        let _ = server.got();
        server.pass_secs(100);
        server.expect("");
    });
}
