//! connecting, duplicates, heartbeats, pings, closing

use super::*;

const ALREADY: &str = "stan: clientID already registered";
const REPLACED: &str = "client has been replaced or is no longer registered";

#[test]
fn client_ids_and_heartbeat_inboxes_are_checked() {
    with_loops(|mut server| {
        let invalid = "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed";
        assert_eq!(
            server.try_connect("a.b", "c"),
            "stan: invalid clientID: only alphanumeric \
                                                    and `-` or `_` characters allowed"
        );
        assert_eq!(server.try_connect("a b", "c"), invalid);
        assert_eq!(server.try_connect_at("me", ""), "stan: invalid connection request");
        assert_eq!(server.try_connect("a*", "c"), invalid);
        assert_eq!(server.try_connect(&"x".repeat(300), "c"), "");
        assert_eq!(server.try_connect(&"x".repeat(2_000), "c"), "stan: invalid connection request");
    });
}

/// Goal: as with the reference, a connect request is not refused for its inbox. What could not
/// stand in a line of the protocol is sent nothing, and its client counts as silent.
#[test]
fn any_heartbeat_inbox_is_taken_and_nothing_is_sent_to_one_that_breaks_a_line() {
    for loops in [1, 2, 4] {
        let mut server = Script::with(loops, |settings| settings.heartbeat_failures_max = 0);
        let inboxes = [".", ">", "a.*", "a..b", "a b", "a\r\nPUB x 0"];
        for (number, inbox) in inboxes.iter().enumerate() {
            assert_eq!(server.try_connect_at(&format!("me-{number}"), inbox), "", "{inbox:?}");
        }
        server.pass_secs(30);
        let is_asked =
            |inbox: &&str| server.sent_to.iter().any(|to| to.as_bytes() == inbox.as_bytes());
        let asked: Vec<&str> = inboxes.into_iter().filter(|inbox| is_asked(inbox)).collect();
        assert_eq!(asked, [".", ">", "a.*", "a..b"]);
        server.pass_secs(10);
        assert_eq!(server.clients(), [""; 0]);
    }
}

#[test]
fn a_refused_record_refuses_the_client() {
    with_loops(|mut server| {
        server.refuse_clients(Some("disk full"));
        assert_eq!(server.try_connect("me", "c"), "disk full");
        server.refuse_clients(None);
        server.connect("me");
        server.publish("me", "orders", 1);
    });
}

/// Goal: as with the reference, a client whose connection broke while the store was slow asks again
/// and gets in; a third one is refused, as while a client is examined.
#[test]
fn a_connect_request_waits_for_what_came_before_it() {
    with_loops(|mut server| {
        server.set_pulse("me", Pulse::Gone);
        server.hold_commits();
        let mut ask = |connection| server.hand_in_connect("me", connection);
        let asked = ["first", "second", "third", "fourth"].map(&mut ask);
        let close = server.hand_in_close("me");
        server.run();
        let told = asked.each_ref().map(|reply| server.connect_error(reply));
        assert_eq!(told, ["?", "?", ALREADY, ALREADY]);
        server.release();
        server.run();
        let told = [&asked[0], &asked[1]].map(|reply| server.connect_error(reply));
        assert_eq!(told, [""; 2]);
        // The second one has taken the ID from the first, which was asked to close.
        assert_eq!(server.answer(&close), Some(Bytes::new()));
        assert_eq!(server.clients(), ["me"]);
        assert_eq!(server.ping("second"), "");
        assert_eq!(server.held_bytes(), 0);
    });
    with_loops(|mut server| {
        server.refuse_clients(Some("disk full"));
        server.hold_commits();
        let asked = ["first", "second"].map(|connection| server.hand_in_connect("me", connection));
        server.run();
        server.release();
        server.run();
        assert_eq!(asked.each_ref().map(|reply| server.connect_error(reply)), ["disk full"; 2]);
        assert_eq!(server.held_bytes(), 0);
    });
    with_loops(|mut server| {
        server.connect("me");
        server.hold_commits();
        let closes = [(); 2].map(|()| {
            let close = server.hand_in_close("me");
            server.hand_in_connect("me", "again");
            close
        });
        server.run();
        server.release();
        server.run();
        for close in closes {
            assert_eq!(server.answer(&close), Some(Bytes::new()));
        }
        assert_eq!(server.held_bytes(), 0);
    });
}

#[test]
fn the_id_of_a_live_client_is_refused_and_that_of_a_dead_one_is_free() {
    with_loops(|mut server| {
        server.connect("me");
        assert_eq!(server.try_connect("me", "new"), ALREADY);
        server.publish("me", "orders", 1);
        server.set_pulse("me", Pulse::Gone);
        server.log.clear();
        assert_eq!(server.try_connect("me", "new"), "");
        let told = server.log.iter().filter_map(|line| line.strip_prefix("[Client:me] "));
        let told: Vec<&str> = told.filter_map(|line| line.split(" (Inbox=").next()).collect();
        assert_eq!(told, ["Closed", "Replaced old client"]);
        assert_eq!(server.ping("c-me"), REPLACED);
        assert_eq!(server.ping("new"), "");
        let refused = "stan: invalid publish request";
        assert_eq!(server.try_publish("me", "orders", "x"), refused);
    });
}

#[test]
fn a_silent_client_is_replaced_after_the_probe_and_nobody_gets_between() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("other");
        server.subscribe("me", "orders", "plain", &options());
        let durable = Options { durable: "d", ..options() };
        server.subscribe("me", "orders", "dur", &durable);
        server.publish("other", "orders", 1);
        server.expect("plain:1 dur:1");
        server.set_pulse("me", Pulse::Silent);
        let second = server.hand_in_connect("me", "second");
        server.run();
        assert_eq!(server.connect_error(&second), "?");
        assert_eq!(server.try_connect("me", "third"), ALREADY);
        server.connect("another");
        server.pass(Duration::from_millis(499));
        assert_eq!(server.connect_error(&second), "?");
        server.pass(Duration::from_millis(1));
        assert_eq!(server.connect_error(&second), "");
        assert_eq!(server.ping("c-me"), REPLACED);
        server.publish("other", "orders", 1);
        server.expect("");
        server.subscribe("me", "orders", "dur", &durable);
        server.expect("dur:1*1 dur:2");
    });
}

#[test]
fn a_client_that_misses_heartbeats_is_dropped_after_all_allowed_failures() {
    for loops in [1, 2, 4] {
        let mut server = Script::with(loops, |settings| settings.heartbeat_failures_max = 2);
        server.connect("me");
        server.connect("other");
        server.subscribe("me", "orders", "a", &options());
        server.set_pulse("me", Pulse::Silent);
        // Three times 30 s of interval and 10 s of waiting.
        server.pass_secs(119);
        assert_eq!(server.clients(), ["me", "other"]);
        server.pass_secs(1);
        assert_eq!(server.clients(), ["other"]);
        assert!(server.log.contains(&"[Client:me] Timed out on heartbeats".into()));
        server.publish("other", "orders", 1);
        server.expect("");
        server.set_pulse("other", Pulse::Gone);
        server.pass_secs(120);
        assert_eq!(server.clients(), [""; 0]);
    }
}

#[test]
fn an_answered_heartbeat_starts_the_count_anew() {
    let mut server = Script::with(2, |settings| settings.heartbeat_failures_max = 1);
    server.connect("me");
    for _ in 0..5 {
        server.set_pulse("me", Pulse::Gone);
        server.pass_secs(30);
        server.set_pulse("me", Pulse::Alive);
        server.pass_secs(30);
    }
    assert_eq!(server.clients(), ["me"]);
}

/// Goal: plain subscriptions of a client with failed heartbeats get no redeliveries, and a ping
/// has the client asked at once, which ends that.
#[test]
fn failed_heartbeats_hold_redeliveries_back_until_a_ping_clears_them() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("other");
        server.pass_secs(5);
        server.subscribe("me", "orders", "a", &Options { ack_wait: 100, ..options() });
        server.publish("other", "orders", 1);
        server.expect("a:1");
        server.set_pulse("me", Pulse::Gone);
        server.pass_secs(40);
        // New messages still come.
        server.publish("other", "orders", 1);
        server.expect("a:2");
        server.pass_secs(60);
        server.expect("");
        server.set_pulse("me", Pulse::Alive);
        assert_eq!(server.ping("c-me"), "");
        server.pass(Duration::from_millis(1));
        server.pass_secs(100);
        server.expect("a:1*1 a:2*1");
    });
}

#[test]
fn a_ping_of_an_unknown_connection_is_refused() {
    with_loops(|mut server| {
        assert_eq!(server.ping("stranger"), REPLACED);
        server.connect("me");
        assert_eq!(server.ping("c-me"), "");
        assert_eq!(server.ping(""), "?");
        assert_eq!(server.close("me"), "");
        assert_eq!(server.ping("c-me"), REPLACED);
    });
}

#[test]
fn publish_then_close_keeps_the_publishes() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("other");
        let replies: Vec<_> =
            (0..20).map(|n| server.hand_in_publish("me", &format!("c{}", n % 7), "x")).collect();
        let close = server.hand_in_close("me");
        server.run();
        assert_eq!(server.answer(&close), Some(Bytes::new()));
        for reply in replies {
            assert_eq!(server.publish_error(&reply), "");
        }
    });
}

#[test]
fn acks_before_a_close_count() {
    with_loops(|mut server| {
        server.connect("me");
        let durable = Options { durable: "d", ..options() };
        server.subscribe("me", "orders", "a", &durable);
        server.publish("me", "orders", 3);
        server.expect("a:1 a:2 a:3");
        for sequence in 1..=3 {
            server.hand_in_ack("a", "orders", sequence);
        }
        let close = server.hand_in_close("me");
        server.run();
        assert_eq!(server.answer(&close), Some(Bytes::new()));
        assert_eq!(server.stored("orders")[0].1, [0_u64; 0]);
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable);
        server.expect("");
    });
}

#[test]
fn connect_and_close_at_once_are_answered_in_order() {
    with_loops(|mut server| {
        let connect = server.hand_in_connect("me", "c");
        let close = server.hand_in_close("me");
        let again = server.hand_in_connect("me", "c2");
        server.run();
        assert_eq!(server.connect_error(&connect), "");
        assert_eq!(server.answer(&close), Some(Bytes::new()));
        assert_eq!(server.connect_error(&again), "");
        assert_eq!(server.clients(), ["me"]);
    });
}

#[test]
fn a_client_that_closes_may_ping_until_it_is_forgotten() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &Options { durable: "d", ..options() });
        let close = server.hand_in_close("me");
        let pings: Vec<_> = (0..4).map(|_| server.hand_in_ping("c-me")).collect();
        server.run();
        assert_eq!(server.answer(&close), Some(Bytes::new()));
        for ping in pings {
            assert_eq!(server.ping_error(&ping), "");
        }
        assert_eq!(server.ping("c-me"), REPLACED);
        assert_ne!(server.try_publish("me", "orders", "x"), "");
    });
}
