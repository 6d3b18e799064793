//! servers of one cluster ID with different channels

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::base::limits::ENGINE_REQUESTS_BYTES_MAX;
use crate::base::partition::Partition;

const ALREADY: &str = "stan: clientID already registered";
const INVALID: &str = "stan: invalid publish request";

fn with_partition(story: impl Fn(Script)) {
    for loops in [1, 2, 4] {
        story(Script::with(loops, |settings| {
            let names = [&b"orders"[..], b"news.*"].map(Bytes::from_static);
            settings.partition = Some(Arc::new(Partition::new(names)));
        }));
    }
}

/// Goal: another server may have what this one has not, so nobody is told no.
#[test]
fn requests_for_channels_of_others_are_not_answered() {
    with_partition(|mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &options());
        server.subscribe("me", "news.paris", "b", &options());
        assert_eq!(server.try_subscribe("me", "foreign", "c", &options()), "?");
        for service in [Service::Unsubscribe, Service::SubscriptionClose] {
            assert_eq!(server.leave(service, "me", "foreign", "c"), "?");
        }
        let wildcard = server.try_subscribe("me", "news.*", "c", &options());
        assert_eq!(wildcard, "stan: invalid subject");
        server.publish("me", "news.paris", 1);
        assert_eq!(
            server.try_publish("me", "foreign", "x"),
            INVALID,
            "no server has it under that"
        );
        assert!(!server.has_channel("foreign"));
        server.unsubscribe("me", "orders", "a");
    });
}

/// Goal: a client that another server has registered first is waited for, in its order.
#[test]
fn what_comes_before_its_client_waits_for_it() {
    with_partition(|mut server| {
        let first = server.hand_in_publish("me", "orders", "first");
        let request = Script::subscribe_request("me", "orders", "a", &options());
        let subscribe = server.hand_in(Service::Subscribe, request);
        let second = server.hand_in_publish("me", "orders", "second");
        server.run();
        server.pass(Duration::from_millis(900));
        assert!(server.answer(&subscribe).is_none());
        server.connect("me");
        assert_eq!(server.publish_error(&first), "");
        assert_eq!(server.publish_error(&second), "");
        assert!(server.answer(&subscribe).is_some());
        assert_eq!(server.contents("orders"), ["first", "second"]);
        server.pass_secs(5);
        assert_eq!(server.held_bytes(), 0);
    });
}

/// Goal: whose own connect request is here waits as long as that, whatever it has sent.
#[test]
fn a_client_that_joins_is_no_stranger() {
    with_partition(|mut server| {
        server.hold_commits();
        let connect = server.hand_in_connect("me", "c-me");
        server.run();
        let large = "x".repeat(100_000);
        let replies: Vec<_> =
            (0..100).map(|_| server.hand_in_publish("me", "orders", &large)).collect();
        server.run();
        server.pass_secs(3);
        for reply in &replies {
            assert_eq!(server.publish_error(reply), "?");
        }
        server.release();
        assert_eq!(server.connect_error(&connect), "");
        for reply in &replies {
            assert_eq!(server.publish_error(reply), "");
        }
        server.refuse_clients(Some("disk full"));
        let connect = server.hand_in_connect("you", "c-you");
        let publish = server.hand_in_publish("you", "orders", "x");
        server.run();
        assert_eq!(server.connect_error(&connect), "disk full");
        server.pass_secs(2);
        assert_eq!(server.publish_error(&publish), INVALID);
    });
}

/// Goal: what a client asks for after its connect request is of that, not of a life that it
/// replaces.
#[test]
fn a_subscription_waits_for_the_newest_life_of_its_client() {
    with_partition(|mut server| {
        for (pulse, expected) in [(Pulse::Gone, ""), (Pulse::Silent, ""), (Pulse::Alive, ALREADY)] {
            server.connect("me");
            server.set_pulse("me", pulse);
            let connect = server.hand_in_connect("me", "c-2");
            let request = Script::subscribe_request("me", "orders", "a", &options());
            let subscribe = server.hand_in(Service::Subscribe, request);
            server.run();
            server.pass_secs(2);
            assert_eq!(server.connect_error(&connect), expected, "{pulse:?}");
            let answer = server.answer(&subscribe).expect("an answer");
            let response = pb::SubscriptionResponse::decode(answer).expect("a response");
            assert_eq!(response.error, "", "{pulse:?}");
            assert_eq!(server.stored("orders").len(), 1, "{pulse:?}");
            server.set_pulse("me", Pulse::Alive);
            server.close("me");
            server.run();
        }
    });
}

/// Goal: who does not come is refused, from then on at once, and is welcome later.
#[test]
fn a_client_that_does_not_come_is_refused() {
    with_partition(|mut server| {
        let publish = server.hand_in_publish("me", "orders", "x");
        let request = Script::subscribe_request("you", "orders", "a", &options());
        let subscribe = server.hand_in(Service::Subscribe, request);
        server.run();
        server.pass(Duration::from_millis(1_100));
        assert_eq!(server.publish_error(&publish), INVALID);
        assert!(server.answer(&subscribe).is_some());
        let line = "[Client:you] Rejecting subscription on \"orders\": connection not created yet";
        assert!(server.log.iter().any(|found| found == line), "{:?}", server.log);
        assert_eq!(server.try_publish("me", "orders", "x"), INVALID, "at once");
        let refused = server.try_subscribe("you", "orders", "a", &options());
        assert_eq!(refused, "stan: invalid subscription request");
        server.connect("me");
        server.connect("you");
        server.publish("me", "orders", 1);
        server.subscribe("you", "orders", "a", &options());
    });
}

/// Goal: made-up clients keep a bounded number of requests waiting, and none of a stranger's
/// publishes keeps the credit of others for long.
#[test]
fn only_so_many_requests_wait_for_their_clients() {
    with_partition(|mut server| {
        let most = 16 * 1024;
        let replies: Vec<_> = (0..most + 500)
            .map(|n| server.hand_in_publish(&format!("nobody-{n}"), "orders", "x"))
            .collect();
        server.run();
        assert_eq!(server.held_bytes(), 0, "publishes of strangers hold back no delivery");
        let answered = |server: &mut Script| {
            replies.iter().filter(|reply| server.answer(reply).is_some()).count()
        };
        assert_eq!(answered(&mut server), 500);
        server.pass_secs(2);
        assert_eq!(answered(&mut server), most);
        let large = "x".repeat(3_000_000);
        let kept = server.hand_in_publish("large", "orders", &large);
        assert_eq!(server.try_publish("larger", "orders", &large), INVALID);
        assert_eq!(server.publish_error(&kept), "?");
        server.pass_secs(2);
        for number in 0..2_000 {
            let client = format!("nobody-{number}");
            let request = Script::subscribe_request(&client, "orders", "a", &options());
            server.hand_in(Service::Subscribe, request);
        }
        server.run();
        assert!(server.held_bytes() <= ENGINE_REQUESTS_BYTES_MAX / 16);
    });
}
