//! limits of channels and subscriptions, names that differ by case, inactivity

use super::*;

#[test]
fn channels_are_limited_over_all_engines() {
    for loops in [1, 2, 4] {
        let mut server = Script::with(loops, |settings| settings.limits.channels_max = 5);
        server.connect("me");
        let errors: Vec<String> =
            (0..8).map(|n| server.try_publish("me", &format!("c{n}"), "x")).collect();
        assert_eq!(errors[..5], [""; 5]);
        assert_eq!(errors[5..], ["too many channels"; 3]);
        assert_eq!(server.try_subscribe("me", "c9", "a", &options()), "too many channels");
        server.publish("me", "c0", 1);
        server.restart();
        assert_eq!(server.try_publish("me", "c9", "x"), "too many channels");
    }
}

/// Goal: requests that wait for the keeper's grant keep their order.
#[test]
fn requests_for_a_new_channel_stay_in_order() {
    with_loops(|mut server| {
        server.connect("me");
        for round in 0..8 {
            let channel = format!("c{round}");
            server.hand_in_publish("me", &channel, "1");
            let new_only = Options { start: StartPosition::NewOnly, ..options() };
            let request = Script::subscribe_request("me", &channel, "a", &new_only);
            server.hand_in(Service::Subscribe, request);
            server.hand_in_publish("me", &channel, "2");
            server.run();
            server.expect("a:2");
        }
    });
}

#[test]
fn subscriptions_are_limited_by_their_records() {
    for loops in [1, 4] {
        let mut server =
            Script::with(loops, |settings| settings.limits.global.subscriptions_max = 2);
        server.connect("me");
        let durable = Options { durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &durable);
        server.sub_close("me", "foo", "a");
        server.subscribe("me", "foo", "b", &options());
        let refused = "too many subscriptions per channel";
        assert_eq!(server.try_subscribe("me", "foo", "c", &options()), refused);
        let queue = Options { queue: "q", durable: "e", ..options() };
        assert_eq!(server.try_subscribe("me", "foo", "c", &queue), refused);
        server.subscribe("me", "foo", "a", &durable);
        server.unsubscribe("me", "foo", "a");
        server.subscribe("me", "foo", "c", &queue);
    }
}

#[test]
fn names_that_differ_only_by_case_are_refused() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "Case.Channel", 1);
        let refused = "rejecting channel \"case.channel\" because channel \"Case.Channel\" \
                       alreay exists (different cases not allowed)";
        assert_eq!(server.try_publish("me", "case.channel", "x"), refused);
        server.log.clear();
        assert_eq!(server.try_subscribe("me", "case.channel", "a", &options()), refused);
        let line = format!("Unable to create subscription on \"case.channel\": {refused}");
        assert_eq!(server.log, [line]);
        server.publish("me", "Été", 1);
        assert!(server.try_publish("me", "éTÉ", "x").contains("different cases"));
        server.restart();
        assert_eq!(server.try_publish("me", "case.channel", "x"), refused);
        server.publish("me", "Case.Channel", 1);
        server.subscribe("me", "Case.Channel", "a", &options());
        server.expect("a:1 a:2");
    });
}

#[test]
fn the_oldest_messages_go_and_publishes_never_fail_for_it() {
    for loops in [1, 2] {
        let mut server = Script::with(loops, |settings| settings.limits.global.messages_max = 5);
        server.connect("me");
        server.subscribe("me", "foo", "one", &Options { in_flight_max: 1, ..options() });
        server.publish("me", "foo", 8);
        server.subscribe("me", "foo", "all", &options());
        server.expect("one:1 all:4 all:5 all:6 all:7 all:8");
        server.ack("one", "foo", &[1]);
        server.expect("one:4");
    }
}

fn with_inactivity(loops: u16) -> Script {
    let mut server = Script::with(loops, |settings| {
        settings.limits.global.inactivity_max = Duration::from_secs(10);
        settings.heartbeat_interval = Duration::from_secs(1_000);
    });
    server.connect("me");
    server
}

#[test]
fn an_idle_channel_is_deleted_and_begins_anew() {
    for loops in [1, 2, 4] {
        let mut server = with_inactivity(loops);
        server.publish("me", "foo", 2);
        server.pass_secs(6);
        server.publish("me", "foo", 1);
        server.pass_secs(9);
        assert!(server.has_channel("foo"));
        server.pass_secs(2);
        assert!(!server.has_channel("foo"));
        assert!(server.log.contains(&"Channel \"foo\" has been deleted".into()));
        server.publish("me", "foo", 1);
        server.subscribe("me", "foo", "a", &options());
        server.expect("a:1");
    }
}

#[test]
fn active_subscriptions_keep_a_channel_and_offline_durables_do_not() {
    for loops in [1, 2, 4] {
        let mut server = with_inactivity(loops);
        server.subscribe("me", "foo", "a", &options());
        server.subscribe("me", "foo", "d", &Options { durable: "d", ..options() });
        server.subscribe("me", "foo", "q", &Options { queue: "q", durable: "d", ..options() });
        server.pass_secs(100);
        server.sub_close("me", "foo", "d");
        server.unsubscribe("me", "foo", "a");
        server.pass_secs(100);
        assert!(server.has_channel("foo"));
        assert_eq!(server.close("me"), "");
        server.pass_secs(9);
        assert!(server.has_channel("foo"));
        server.pass_secs(1);
        assert!(!server.has_channel("foo"));
        assert_eq!(server.snapshot().subscription_count(), 0);
    }
}

#[test]
fn a_recovered_channel_and_one_of_a_refused_subscribe_are_deleted_too() {
    for loops in [1, 2, 4] {
        let mut server = with_inactivity(loops);
        server.publish("me", "foo", 1);
        server.restart();
        server.pass_secs(9);
        let colon = Options { queue: "q", durable: "a:b", ..options() };
        assert_ne!(server.try_subscribe("me", "foo", "a", &colon), "");
        server.pass_secs(9);
        assert!(server.has_channel("foo"));
        server.pass_secs(1);
        assert!(!server.has_channel("foo"));
    }
}

#[test]
fn publishes_to_a_channel_that_cannot_be_created_are_refused_in_their_order() {
    with_loops(|mut server| {
        server.connect("me");
        server.refuse("foo", Some("no"));
        server.hold_commits();
        let first = server.hand_in_publish("me", "foo", "1");
        server.run();
        // The creation is under way: these wait for the next batch.
        let later = ["2", "3"].map(|data| server.hand_in_publish("me", "foo", data));
        server.run();
        server.sent_to.clear();
        server.release();
        let replies = [&[first][..], &later].concat();
        let order: Vec<_> = server.sent_to.iter().filter(|to| replies.contains(to)).collect();
        assert_eq!(order, replies.iter().collect::<Vec<_>>());
        for reply in &replies {
            assert_eq!(server.publish_error(reply), "no");
        }
        assert!(!server.has_channel("foo"));
    });
}

#[test]
fn a_deletion_that_the_store_refuses_is_tried_again() {
    for loops in [1, 2, 4] {
        let mut server = with_inactivity(loops);
        server.publish("me", "foo", 1);
        server.refuse("foo", Some("busy"));
        server.pass_secs(10);
        assert!(server.log.contains(&"Error deleting channel \"foo\": busy".into()));
        server.refuse("foo", None);
        assert!(server.has_channel("foo"));
        server.pass_secs(10);
        assert!(!server.has_channel("foo"));
    }
}

#[test]
fn a_deleted_channel_makes_room_for_another() {
    for loops in [1, 2, 4] {
        let mut server = Script::with(loops, |settings| {
            settings.limits.channels_max = 2;
            settings.limits.global.inactivity_max = Duration::from_secs(10);
        });
        server.connect("me");
        server.publish("me", "a", 1);
        server.publish("me", "b", 1);
        assert_eq!(server.try_publish("me", "c", "x"), "too many channels");
        server.pass_secs(11);
        server.publish("me", "c", 1);
        server.publish("me", "d", 1);
        assert_eq!(server.try_publish("me", "e", "x"), "too many channels");
    }
}

#[test]
fn a_publish_during_a_deletion_makes_the_channel_anew() {
    for loops in [1, 2, 4] {
        let mut server = with_inactivity(loops);
        server.publish("me", "foo", 3);
        server.hold_commits();
        server.pass_secs(10);
        let waiting = server.hand_in_publish("me", "foo", "new");
        server.run();
        assert_eq!(server.publish_error(&waiting), "?");
        server.release();
        assert_eq!(server.publish_error(&waiting), "");
        assert_eq!(server.contents("foo"), ["new"]);
    }
}
