//! Durable subscriptions over close, lost connections, restarts and replacement.

use std::time::Duration;

use nix::sys::signal::Signal;
use stanby::proto::pb::{self, StartPosition};

use crate::LOOPS;
use crate::server::{Launch, Server};
use crate::stan::{Delivery, NONE, Stan, all, ask, sequences};

const SHORT: Duration = Duration::from_millis(60);

fn named(channel: &str, room: i32) -> pb::SubscriptionRequest {
    pb::SubscriptionRequest {
        durable_name: "d".into(),
        ack_wait_in_secs: 60,
        max_in_flight: room,
        ..all(channel)
    }
}

fn flags(deliveries: &[Delivery]) -> Vec<(u64, bool)> {
    deliveries.iter().map(|d| (d.message.sequence, d.message.redelivered)).collect()
}

fn each(check: impl Fn(&Server)) {
    for loops in LOOPS {
        check(&Launch::new(&[]).loops(loops).start());
    }
}

#[test]
fn a_durable_goes_on_where_it_stopped() {
    each(|server| {
        let port = server.launch.port;
        let mut stan = Stan::connect(port, "dur-1");
        assert!(stan.fill("dur", 1..=10).is_empty());
        let old = stan.subscribe(named("dur", 5));
        stan.take(&old, 5);
        [1, 2, 4].into_iter().for_each(|sequence| stan.ack(&old, sequence));
        stan.take(&old, 3);
        stan.leave(&old, true).unwrap();
        assert!(stan.fill("dur", 11..=12).is_empty());
        assert_eq!(stan.quiet(&old, SHORT), NONE, "a closed durable gets nothing");
        let new = pb::SubscriptionRequest {
            start_position: StartPosition::NewOnly.into(),
            ..named("dur", 100)
        };
        let resumed = stan.subscribe(new);
        let wanted = [
            (3, true),
            (5, true),
            (6, true),
            (7, true),
            (8, true),
            (9, false),
            (10, false),
            (11, false),
            (12, false),
        ];
        assert_eq!(flags(&stan.take(&resumed, 9)), wanted, "pending first");
        assert_ne!(resumed.ack_inbox, old.ack_inbox);
        stan.ack(&old, 3);
        stan.close().unwrap();
        let mut stan = Stan::connect(port, "dur-1");
        let resumed = stan.subscribe(named("dur", 2));
        let wanted = [3, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(sequences(&stan.take(&resumed, 9)), wanted, "whatever the new max in flight");
        [3, 5, 6, 7, 8, 9, 10].into_iter().for_each(|sequence| stan.ack(&resumed, sequence));
        stan.publish("dur", "13").unwrap();
        assert_eq!(stan.quiet(&resumed, SHORT), NONE, "new messages wait for room");
        stan.ack(&resumed, 11);
        assert_eq!(sequences(&stan.take(&resumed, 1)), [13]);
        stan.ack(&resumed, 12);
        stan.ack(&resumed, 13);
        stan.flush();
        drop(stan);
        let mut stan = Stan::connect(port, "dur-1");
        let resumed = stan.subscribe(named("dur", 100));
        assert_eq!(stan.quiet(&resumed, SHORT), NONE, "a lost connection keeps the acks");
        stan.leave(&resumed, false).unwrap();
        let anew = stan.subscribe(named("dur", 100));
        assert!(sequences(&stan.take(&anew, 13)).into_iter().eq(1..=13), "deleted");
        let last = |name: &str| pb::SubscriptionRequest {
            durable_name: name.to_owned().into(),
            start_position: StartPosition::LastReceived.into(),
            ..ask("dur")
        };
        let upper = stan.subscribe(last("D"));
        assert_eq!(sequences(&stan.take(&upper, 1)), [13], "names are case-sensitive");
        let mut other = Stan::connect(port, "dur-2");
        let same_name = other.subscribe(last("d"));
        assert_eq!(sequences(&other.take(&same_name, 1)), [13], "another client's durable");
    });
}

#[test]
fn a_durable_is_replaced_where_that_is_asked_for() {
    for loops in LOOPS {
        let server = Launch::new(&["-replace_durable"]).loops(loops).start();
        let mut stan = Stan::connect(server.launch.port, "replace-1");
        let old = stan.subscribe(named("replace", 10));
        let new = stan.subscribe(named("replace", 10));
        stan.publish("replace", "1").unwrap();
        assert_eq!(sequences(&stan.take(&new, 1)), [1]);
        assert_eq!(stan.quiet(&old, SHORT), NONE);
        assert_eq!(stan.leave(&old, true), Err("stan: invalid subscription".to_owned()));
        stan.leave(&new, true).unwrap();
    }
}

/// The file store over kill -9 and over SIGTERM: nothing acknowledged is lost, clients go on.
#[test]
fn sessions_and_durables_survive_the_process() {
    for (loops, signal) in
        LOOPS.into_iter().zip([Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL])
    {
        let launch = Launch::new(&[]).file_store(None).loops(loops);
        let mut server = launch.start();
        let mut stan = Stan::connect(launch.port, "keeps");
        let sub = stan.subscribe(named("kept", 5));
        assert!(stan.fill("kept", 1..=20).is_empty());
        assert_eq!(sequences(&stan.take(&sub, 5)), [1, 2, 3, 4, 5]);
        [1, 2, 4].into_iter().for_each(|sequence| stan.ack(&sub, sequence));
        assert_eq!(sequences(&stan.take(&sub, 3)), [6, 7, 8]);
        drop(stan);
        server.stop(signal);
        let server = launch.start();
        let mut stan = Stan::connect(launch.port, "keeps");
        let resumed = stan.subscribe(named("kept", 100));
        let mut found = Vec::new();
        while found.last() != Some(&(20, false)) {
            found.extend(flags(&stan.take(&resumed, 1)));
        }
        // Which of the acks and deliveries were stored before a kill is not promised; that what
        // was not acknowledged comes, and everything after it, is.
        let sequences: Vec<u64> = found.iter().map(|(sequence, _)| *sequence).collect();
        assert!([3].iter().chain(&[5, 6, 7, 8]).all(|sequence| sequences.contains(sequence)));
        assert!((9..=20).all(|sequence| sequences.contains(&sequence)), "{sequences:?}");
        stan.publish("kept", "21").unwrap();
        drop(server);
    }
}
