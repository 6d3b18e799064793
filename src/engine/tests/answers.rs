//! when a subscribe request is answered

use super::*;
use crate::base::id::Subject;

fn hand_in(server: &mut Script, inbox: &str, options: &Options) -> Subject {
    let request = Script::subscribe_request("me", "foo", inbox, options);
    server.hand_in(Service::Subscribe, request)
}

/// The subjects that something was sent to since the last look, in order.
fn sent_to(server: &mut Script) -> Vec<Subject> {
    std::mem::take(&mut server.sent_to)
}

/// Goal: whoever handled the answer finds the first messages right behind it.
#[test]
fn the_answer_waits_for_the_first_read_and_goes_before_its_messages() {
    let durable = Options { durable: "d", ..options() };
    let group = Options { queue: "g", ..options() };
    for options in [options(), durable, group] {
        with_loops(|mut server| {
            server.connect("me");
            server.publish("me", "foo", 2);
            server.hold_reads();
            let reply = hand_in(&mut server, "a", &options);
            server.run();
            assert!(server.answer(&reply).is_none());
            sent_to(&mut server);
            server.release();
            let inbox = Subject::from("in.a");
            assert_eq!(sent_to(&mut server), [reply.clone(), inbox.clone(), inbox]);
            server.expect("a:1 a:2");
        });
    }
}

#[test]
fn a_resumed_durable_is_answered_right_before_what_is_sent_again() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        let durable = Options { durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &durable);
        server.expect("a:1");
        server.sub_close("me", "foo", "a");
        server.hold_reads();
        let reply = hand_in(&mut server, "b", &durable);
        server.run();
        assert!(server.answer(&reply).is_none());
        sent_to(&mut server);
        server.release();
        assert_eq!(sent_to(&mut server), [reply, Subject::from("in.b")]);
        server.expect("b:1*1");
    });
}

#[test]
fn no_answer_is_lost_when_the_read_is_not_waited_for() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        server.hold_reads();
        let leaving = hand_in(&mut server, "a", &options());
        let staying = hand_in(&mut server, "b", &options());
        server.run();
        server.close("me");
        assert!(server.answer(&leaving).is_some(), "the client closed");
        assert!(server.answer(&staying).is_some(), "the client closed");
        server.connect("me");
        let draining = hand_in(&mut server, "c", &options());
        server.run();
        assert!(server.answer(&draining).is_none());
        server.drain_all();
        assert!(server.answer(&draining).is_some(), "nothing is delivered any more");
        server.release();
        assert!(server.answer(&draining).is_none(), "once is enough");
        server.expect("");
    });
}

#[test]
fn a_subscription_with_nothing_to_read_is_answered_at_once() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        server.hold_reads();
        let new_only = Options { start: StartPosition::NewOnly, ..options() };
        let reply = hand_in(&mut server, "a", &new_only);
        server.run();
        assert!(server.answer(&reply).is_some());
        assert_eq!(server.fetch_count, 0);
    });
}

/// Goal: who has no room for what was read for its request is answered all the same.
#[test]
fn a_read_for_which_there_is_no_room_is_answered() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 2);
        server.hold_reads();
        let reply = hand_in(&mut server, "a", &options());
        server.run();
        server.set_room("a", false);
        assert!(server.answer(&reply).is_none());
        server.release();
        assert!(server.answer(&reply).is_some());
        server.expect("");
        server.set_room("a", true);
        server.expect("a:1 a:2");
    });
}
