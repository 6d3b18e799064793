//! Inputs that somebody keeps: when they are done, and what becomes of those that come again.

use std::num::NonZeroU32;

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::base::errand::{Again, Errand, Keeper};
use crate::engine::effect::Service;
use crate::proto::pb;

fn errand(number: u64, may_be_done: bool) -> Option<Errand> {
    let again = Again::perhaps(may_be_done);
    Some(Errand { keeper: Keeper::Peer(NonZeroU32::MIN), ledger: 1, number, again })
}

fn publish(guid: &str) -> Bytes {
    let message = pb::PubMsg {
        client_id: "me".into(),
        guid: Bytes::from(guid.to_owned()),
        subject: "foo".into(),
        data: "x".into(),
        conn_id: "c-me".into(),
        ..pb::PubMsg::default()
    };
    message.encode_to_vec().into()
}

fn close() -> Bytes {
    pb::CloseRequest { client_id: "me".into() }.encode_to_vec().into()
}

fn leave(inbox: &str) -> Bytes {
    let request = pb::UnsubscribeRequest {
        client_id: "me".into(),
        subject: "foo".into(),
        inbox: Bytes::from(inbox.to_owned()),
        ..pb::UnsubscribeRequest::default()
    };
    request.encode_to_vec().into()
}

/// Goal: an input is done when its answer has been given, and not before its commit.
#[test]
fn an_input_is_done_when_it_is_answered() {
    for loops in [1, 2, 4] {
        let mut server = Script::new(loops);
        let connect = Script::connect_request("me", "hb.me", "c-me");
        server.hold_commits();
        let asked = server.hand_in_kept(Service::Connect, connect, errand(1, false));
        server.run();
        assert_eq!((server.answer(&asked), server.done()), (None, vec![]));
        server.release();
        assert!(server.answer(&asked).is_some());
        assert_eq!(server.done(), [1]);
        let options = Options::default();
        let request = Script::subscribe_request("me", "foo", "a", &options);
        server.hold_commits();
        let replies = [
            server.hand_in_kept(Service::Subscribe, request, errand(2, false)),
            server.hand_in_kept(Service::Publish, publish("g1"), errand(3, false)),
        ];
        let nonsense = Bytes::from_static(b"\x0a\x7fgarbage");
        server.hand_in_kept(Service::Close, nonsense, errand(4, false));
        server.run();
        assert_eq!(server.done(), [4], "what is refused is done");
        server.release();
        assert!(replies.iter().all(|reply| server.answer(reply).is_some()));
        assert_eq!(server.done(), [2, 3]);
        server.hand_in_kept(Service::Close, close(), errand(5, false));
        server.run();
        assert_eq!(server.done(), [5]);
    }
}

/// Goal: what a former active has done already is answered as done when it comes again; what comes
/// for the first time is answered as ever.
#[test]
fn what_is_done_already_is_answered_as_done() {
    for loops in [1, 2, 4] {
        let mut server = Script::new(loops);
        server.connect("me");
        let durable = Options { durable: "dur", ..Options::default() };
        for (inbox, options) in [("a", &Options::default()), ("b", &durable)] {
            assert_eq!(server.try_subscribe("me", "foo", inbox, options), "");
        }
        let subscribed_to = server.stored("foo").len();
        server.restart();
        let connect = Script::connect_request("me", "hb.me", "c-me");
        let asked = server.hand_in_kept(Service::Connect, connect, errand(1, true));
        server.run();
        assert_eq!(server.connect_error(&asked), "");
        for (inbox, options) in [("a", &Options::default()), ("b", &durable)] {
            let request = Script::subscribe_request("me", "foo", inbox, options);
            let asked = server.hand_in_kept(Service::Subscribe, request, errand(2, true));
            server.run();
            let answer = server.answer(&asked).expect("it is answered");
            let answer = pb::SubscriptionResponse::decode(answer).expect("it is one");
            assert_eq!((&answer.error[..], answer.ack_inbox), (&b""[..], server.ack_inbox(inbox)));
        }
        assert_eq!(server.stored("foo").len(), subscribed_to, "none was made anew");
        let mut outcomes = Vec::new();
        for is_again in [false, true] {
            for (service, request) in
                [(Service::Unsubscribe, leave("gone")), (Service::SubscriptionClose, leave("gone"))]
            {
                let asked = server.hand_in_kept(service, request, errand(3, is_again));
                server.run();
                let answer = server.answer(&asked).expect("it is answered");
                outcomes.push(answer.is_empty());
            }
        }
        assert_eq!(outcomes, [false, false, true, true]);
        assert_eq!(server.close("me"), "");
        let outcomes = [false, true].map(|is_again| {
            let asked = server.hand_in_kept(Service::Close, close(), errand(4, is_again));
            server.run();
            server.answer(&asked).expect("it is answered").is_empty()
        });
        assert_eq!(outcomes, [false, true]);
    }
}

/// Goal: a connect request that comes again does not take the place of another client.
#[test]
fn a_request_that_comes_again_is_no_pass() {
    let mut server = Script::new(2);
    server.connect("me");
    let connect = Script::connect_request("me", "hb.me", "another");
    let asked = server.hand_in_kept(Service::Connect, connect, errand(1, true));
    server.run();
    assert_ne!(server.connect_error(&asked), "");
}

/// Goal: what an engine has taken it finishes when it drains, over all engines; what waits for
/// somebody else and has changed nothing is not done.
#[test]
fn who_drains_finishes_what_it_has_taken_or_gives_it_back() {
    for loops in [1, 2, 4] {
        let mut server = Script::new(loops);
        server.connect("me");
        server.connect("held");
        server.set_pulse("held", Pulse::Silent);
        server.hold_commits();
        let join = Script::connect_request("new", "hb.new", "c-new");
        let waits = Script::connect_request("held", "hb.held", "c-other");
        let request = Script::subscribe_request("me", "foo", "a", &Options::default());
        let taken = [
            server.hand_in_kept(Service::Connect, join, errand(1, false)),
            server.hand_in_kept(Service::Subscribe, request, errand(2, false)),
            server.hand_in_kept(Service::Publish, publish("g1"), errand(3, false)),
        ];
        let waiting = server.hand_in_kept(Service::Connect, waits, errand(4, false));
        server.run();
        let closing = server.hand_in_kept(Service::Close, close(), errand(5, false));
        server.run();
        server.drain_all();
        server.release();
        let late = server.hand_in_kept(Service::Publish, publish("g2"), errand(6, false));
        server.run();
        let answered = |reply: &_| server.answer(reply).is_some();
        assert!(taken.iter().chain([&closing]).all(answered), "{loops} loops");
        assert!([waiting, late].iter().all(|reply| server.answer(reply).is_none()));
        assert_eq!(server.done(), [1, 2, 3, 5]);
        assert_eq!(server.drained_count, usize::from(loops));
    }
}

/// Goal: a publish of which these engines know that it is stored is acknowledged under its GUID,
/// whoever its client was, and stored no second time; what was refused is known as not stored.
#[test]
fn a_publish_that_these_engines_have_stored_is_only_acknowledged() {
    for loops in [1, 2, 4] {
        let mut server = Script::new(loops);
        server.connect("me");
        let first = server.hand_in_kept(Service::Publish, publish("g1"), errand(1, false));
        server.run();
        assert!(server.answer(&first).is_some());
        assert_eq!(server.finished(), [(1, false)]);
        assert_eq!(server.close("me"), "");
        let known = errand(1, false).map(|errand| Errand { again: Again::Done, ..errand });
        let again = server.hand_in_kept(Service::Publish, publish("g1"), known);
        let refused = server.hand_in_kept(Service::Publish, publish("g2"), errand(2, true));
        server.run();
        let ack = |server: &mut Script, reply| {
            let answer = server.answer(reply).expect("it is answered");
            let ack = pb::PubAck::decode(answer).expect("it is an ack");
            (ack.guid, ack.error.is_empty())
        };
        assert_eq!(ack(&mut server, &again), ("g1".into(), true));
        assert_eq!(ack(&mut server, &refused), ("g2".into(), false));
        assert_eq!(server.finished(), [(1, false), (2, true)]);
        assert_eq!(server.contents("foo").len(), 1);
    }
}

/// Goal: a subscription that these engines have made and that is over is not made once more: nobody
/// would read it.
#[test]
fn a_subscription_that_is_over_is_not_made_once_more() {
    for loops in [1, 2, 4] {
        let mut server = Script::new(loops);
        server.connect("me");
        assert_eq!(server.try_subscribe("me", "foo", "a", &Options::default()), "");
        let known = errand(1, false).map(|errand| Errand { again: Again::Done, ..errand });
        let request = Script::subscribe_request("me", "foo", "a", &Options::default());
        let there = server.hand_in_kept(Service::Subscribe, request.clone(), known);
        server.run();
        let error = |server: &mut Script, reply| {
            let answer = server.answer(reply).expect("it is answered");
            pb::SubscriptionResponse::decode(answer).expect("it is one").error
        };
        assert_eq!(error(&mut server, &there), "");
        server.unsubscribe("me", "foo", "a");
        assert_eq!(server.stored("foo").len(), 0);
        let over = server.hand_in_kept(Service::Subscribe, request, known);
        server.run();
        assert_ne!(error(&mut server, &over), "");
        assert_eq!(server.stored("foo").len(), 0);
    }
}
