//! what is published again within the window of its channel

use std::time::Duration;

use super::*;
use crate::base::channel_limits::StoreLimits;
use crate::base::delivery_policy::PolicyOverrides;
use crate::base::errand::{Again, Errand, Keeper};
use crate::base::id::{ChannelName, Subject};
use crate::engine::administration::{Change, Extent};

const WINDOW: u64 = 60;

fn limits() -> StoreLimits {
    let window = Some(Duration::from_secs(WINDOW));
    let policy = PolicyOverrides { dedup_window: window, ..PolicyOverrides::default() };
    let mut limits = StoreLimits::default();
    limits.per_channel.insert(ChannelName::from("orders"), Default::default());
    limits.policies.per_channel.insert(ChannelName::from("orders"), policy);
    limits
}

fn with_window(story: impl Fn(Script)) {
    for loops in [1, 2, 4] {
        let mut server =
            Script::with(loops, |settings| settings.limits = limits().resolve().unwrap());
        server.connect("me");
        story(server);
    }
}

impl Script {
    fn duplicates(&self) -> u64 {
        self.snapshot().traffic.duplicates
    }

    /// Publishes each, and takes the acks.
    #[track_caller]
    fn say(&mut self, texts: &[&str]) {
        for text in texts {
            assert_eq!(self.try_publish("me", "orders", text), "", "{text}");
        }
    }

    fn hand_in_order(&mut self, text: &str) -> Subject {
        self.hand_in_publish("me", "orders", text)
    }

    fn errors(&mut self, asked: &[Subject]) -> Vec<String> {
        asked.iter().map(|reply| self.publish_error(reply)).collect()
    }
}

/// Goal: a duplicate is acked, counted, logged and not stored; a window goes by the message that is
/// stored, and only for its channel.
#[test]
fn what_is_published_again_is_acked_and_not_stored() {
    with_window(|mut server| {
        server.subscribe("me", "orders", "a", &options());
        server.say(&["one", "two", "one", "", ""]);
        assert_eq!(server.contents("orders"), ["one", "two", ""]);
        server.expect("a:1 a:2 a:3");
        assert_eq!(server.duplicates(), 2);
        let line = "[Client:me] Not storing duplicate of message 1 subj=orders guid=guid";
        assert!(server.log.iter().any(|found| found == line), "{:?}", server.log);
        server.pass_secs(WINDOW);
        server.say(&["two"]);
        assert_eq!(server.duplicates(), 3);
        // A duplicate makes the window no longer.
        server.pass_secs(1);
        server.say(&["two", "two"]);
        assert_eq!(server.contents("orders"), ["one", "two", "", "two"]);
        for _ in 0..2 {
            assert_eq!(server.try_publish("me", "other", "one"), "");
        }
        assert_eq!(server.contents("other"), ["one", "one"]);
        assert_eq!(server.fetch_count, 0, "who has seen all of it reads nothing");
    });
}

/// Goal: the payload alone counts: a publisher that tries again under the guid that it has used,
/// and one that means a second message, are both acknowledged under their own; one is stored.
#[test]
fn a_guid_says_nothing_of_whether_it_is_the_same() {
    with_window(|mut server| {
        for guid in ["first", "first", "second"] {
            let request = Script::publish_request("me", "orders", "one");
            let mut message = crate::proto::pb::PubMsg::decode(request).unwrap();
            message.guid = Bytes::from(guid);
            let asked = server.hand_in(Service::Publish, message.encode_to_vec().into());
            server.run();
            let ack = crate::proto::pb::PubAck::decode(server.answer(&asked).unwrap()).unwrap();
            assert_eq!((&ack.guid[..], &ack.error[..]), (guid.as_bytes(), &b""[..]));
        }
        assert_eq!(server.contents("orders"), ["one"]);
        assert_eq!(server.duplicates(), 2);
    });
}

/// Goal: P1 holds for duplicates: none is acked before the message that is like it is durable, also
/// where that waits behind the commit under way; and credits come back.
#[test]
fn a_duplicate_waits_for_the_commit_of_its_message() {
    with_window(|mut server| {
        server.say(&["zero"]);
        server.credit_bytes = 0;
        server.hold_commits();
        let first = ["one", "one"].map(|text| server.hand_in_order(text));
        server.run();
        let second = ["two", "one", "two"].map(|text| server.hand_in_order(text));
        server.run();
        let known = server.hand_in_order("zero");
        server.run();
        assert_eq!(server.errors(&[known]), [""], "its message is durable");
        let asked = [&first[..], &second[..]].concat();
        assert_eq!(server.errors(&asked), ["?"; 5]);
        server.release_one();
        assert_eq!(server.errors(&first), ["", ""]);
        // It waits for the batch that fills, which is later than its message's.
        assert_eq!(server.errors(&second), ["?"; 3]);
        server.release();
        assert_eq!(server.errors(&second), ["", "", ""]);
        assert_eq!(server.contents("orders"), ["zero", "one", "two"]);
        assert_eq!(server.duplicates(), 4);
        let size = |text: &str| Script::publish_request("me", "orders", text).len();
        let sizes = ["one", "one", "two", "one", "two", "zero"].map(size);
        assert_eq!(server.credit_bytes, sizes.iter().sum::<usize>());
    });
}

/// Goal: what becomes of a message becomes of its duplicates: all are refused, and the next one
/// like it is stored.
#[test]
fn a_duplicate_fails_with_its_message() {
    with_window(|mut server| {
        server.say(&["zero"]);
        server.hold_commits();
        server.refuse("orders", Some("no room"));
        let first = ["one", "one"].map(|text| server.hand_in_order(text));
        server.run();
        let second = ["one", "two", "two", "zero"].map(|text| server.hand_in_order(text));
        server.run();
        server.refuse("orders", None);
        server.release();
        assert_eq!(server.errors(&first), ["no room", "no room"]);
        assert_eq!(server.errors(&second), ["no room", "no room", "no room", ""]);
        server.say(&["two", "one", "zero"]);
        assert_eq!(server.contents("orders"), ["zero", "two", "one"]);
        server.say(&["two", "one"]);
        assert_eq!(server.contents("orders").len(), 3);
    });
}

/// Goal: a channel that is not created has no duplicates either.
#[test]
fn a_duplicate_fails_with_its_channel() {
    with_window(|mut server| {
        server.refuse("orders", Some("no channel"));
        let asked = ["one", "one"].map(|text| server.hand_in_order(text));
        server.run();
        assert_eq!(server.errors(&asked), ["no channel", "no channel"]);
        server.refuse("orders", None);
        server.say(&["one", "one"]);
        assert_eq!(server.contents("orders"), ["one"]);
    });
}

/// Goal: a successor reads the window before it judges; publishes wait meanwhile, in their order,
/// and other channels do not.
#[test]
fn a_successor_knows_what_was_stored_before() {
    with_window(|mut server| {
        server.say(&["too old"]);
        server.pass_secs(WINDOW + 1);
        server.say(&["one", "two"]);
        server.pass_secs(WINDOW / 2);
        for number in 0..3_000 {
            server.say(&[&number.to_string()]);
        }
        server.restart();
        server.fetch_count = 0;
        assert_eq!(server.try_publish("me", "other", "one"), "");
        assert_eq!(server.fetch_count, 0, "nobody has published to it");
        server.hold_reads();
        let texts = ["two", "new", "2999", "too old", "new"];
        let asked = texts.map(|text| server.hand_in_order(text));
        server.run();
        assert_eq!(server.errors(&asked), ["?"; 5]);
        assert_eq!(server.try_publish("me", "other", "two"), "");
        server.release();
        assert_eq!(server.errors(&asked), [""; 5]);
        assert_eq!(server.contents("orders")[3_003..], ["new", "too old"]);
        assert_eq!((server.duplicates(), server.fetch_count), (3, 3));
        // Its time goes by the message's, not by the restart.
        server.pass_secs(WINDOW / 2 + 1);
        server.say(&["two", "2999"]);
        assert_eq!(server.contents("orders")[3_005..], ["two"]);
    });
}

/// Goal: whatever is under way when a server is killed, nothing acked is missing, and nothing is
/// stored twice within the window.
#[test]
fn kills_and_publishes_that_come_again() {
    with_window(|mut server| {
        let mut kill_count = 0;
        for round in 0..40_u64 {
            let text = (round / 4).to_string();
            if round % 3 == 1 {
                server.hold_commits();
            }
            let asked = [server.hand_in_order(&text), server.hand_in_order(&text)];
            server.run();
            if round % 3 == 1 {
                server.release_nothing();
                server.restart();
                // What is durable is a duplicate at once.
                let expected = if round % 4 == 0 { "?" } else { "" };
                assert_eq!(server.errors(&asked), [expected; 2]);
                server.say(&[&text]);
                kill_count += 1;
            } else {
                assert_eq!(server.errors(&asked), ["", ""]);
            }
        }
        let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        assert_eq!(server.contents("orders"), expected);
        assert_eq!(kill_count, 13);
    });
}

/// Goal: what is stored no more counts as not seen, at once and behind a restart: a publisher is
/// never told that something is there which is not.
#[test]
fn what_is_gone_is_stored_again() {
    with_window(|mut server| {
        let channel = || ChannelName::from("orders");
        for restarts in [false, true] {
            server.say(&["one", "two", "three"]);
            server.administer(1, Change::Purge { channel: channel(), extent: Extent::Keep(1) });
            if restarts {
                server.restart();
            }
            server.say(&["three", "one"]);
            assert_eq!(server.contents("orders"), ["three", "one"]);
            server.administer(2, Change::Purge { channel: channel(), extent: Extent::All });
            if restarts {
                server.restart();
            }
            // What stands in for the last message is one with an empty payload.
            server.say(&["one", "three", ""]);
            assert_eq!(server.contents("orders"), ["", "one", "three"]);
            let with_subscriptions = true;
            server.administer(3, Change::DeleteChannel { channel: channel(), with_subscriptions });
        }
        assert!(!server.has_channel("orders"));
        server.say(&["one"]);
        assert_eq!(server.contents("orders"), ["one"]);
    });
}

/// Goal: what a limit has removed is stored again, also by a successor, and while another message
/// is on its way; a duplicate of what is left is none the less one.
#[test]
fn what_a_limit_has_removed_is_stored_again() {
    with_window(|mut server| {
        server.say(&["one", "two", "three"]);
        server.expire("orders", 1);
        server.say(&["one", "two"]);
        assert_eq!(server.contents("orders"), ["two", "three", "one"]);
        server.expire("orders", 2);
        server.restart();
        server.hold_reads();
        let asked = ["two", "three", "two"].map(|text| server.hand_in_order(text));
        server.run();
        // It goes while the window is read.
        server.expire("orders", 3);
        server.release();
        assert_eq!(server.errors(&asked), [""; 3]);
        assert_eq!(server.contents("orders"), ["one", "two", "three"]);
        server.say(&["one", "two", "three"]);
        assert_eq!(server.contents("orders").len(), 3);
    });
}

/// Goal: a channel that goes while its window is read takes no publish along.
#[test]
fn a_channel_may_go_while_publishes_wait() {
    with_window(|mut server| {
        server.say(&["one"]);
        server.restart();
        server.hold_reads();
        let asked = server.hand_in_order("one");
        server.run();
        let (channel, with_subscriptions) = (ChannelName::from("orders"), true);
        server.administer(1, Change::DeleteChannel { channel, with_subscriptions });
        assert_eq!(server.errors(&[asked]), [""], "it has made the channel anew");
        server.release();
        server.say(&["one"]);
        assert_eq!(server.contents("orders"), ["one"]);
    });
}

/// Goal: a purge while the window is read leaves nothing of what it took.
#[test]
fn a_purge_while_the_window_is_read_counts() {
    with_window(|mut server| {
        server.say(&["one", "two"]);
        server.restart();
        server.hold_reads();
        let asked = ["two", "one"].map(|text| server.hand_in_order(text));
        server.run();
        let channel = ChannelName::from("orders");
        server.administer(1, Change::Purge { channel, extent: Extent::All });
        server.release();
        assert_eq!(server.errors(&asked), ["", ""]);
        assert_eq!(server.contents("orders"), ["", "two", "one"]);
    });
}

/// Goal: what the store cannot read keeps nobody waiting: it is stored again, and the rest is seen.
#[test]
fn what_cannot_be_read_is_not_seen() {
    with_window(|mut server| {
        server.say(&["one", "two", "three"]);
        server.restart();
        server.damage(&[2]);
        server.say(&["one", "two", "three"]);
        assert_eq!(server.duplicates(), 2);
        let line = "Channel \"orders\": duplicates of message 2 are stored: it cannot be read \
                    (damaged)";
        assert!(server.log.iter().any(|found| found == line), "{:?}", server.log);
        server.damage(&[]);
        assert_eq!(server.contents("orders"), ["one", "two", "three", "two"]);
    });
}

/// Goal: a planned stop keeps no publish that waits: a successor gets it.
#[test]
fn a_publish_that_waits_is_given_back() {
    with_window(|mut server| {
        server.say(&["one"]);
        server.restart();
        server.hold_reads();
        let errand = Errand { keeper: Keeper::Own, ledger: 1, number: 7, again: Again::First };
        let asked = server.hand_in_kept(
            Service::Publish,
            Script::publish_request("me", "orders", "new"),
            Some(errand),
        );
        server.run();
        server.drain_all();
        server.release();
        assert_eq!(server.errors(&[asked]), ["?"]);
        assert!(server.done().is_empty());
        assert_eq!(server.drained_count, server.loops());
        server.restart();
        let asked = server.hand_in_kept(
            Service::Publish,
            Script::publish_request("me", "orders", "new"),
            Some(errand),
        );
        server.run();
        assert_eq!(server.errors(&[asked]), [""]);
        assert_eq!(server.contents("orders"), ["one", "new"]);
    });
}

/// Goal: a dead letter says where it comes from: two that are alike are both there.
#[test]
fn dead_letters_are_no_duplicates() {
    let mut server = Script::with(2, |settings| {
        let mut limits = limits();
        let policy = PolicyOverrides {
            deliveries_max: Some(1),
            dead_letter: Some(ChannelName::from("orders")),
            ..PolicyOverrides::default()
        };
        limits.per_channel.insert(ChannelName::from("bulk"), Default::default());
        limits.policies.per_channel.insert(ChannelName::from("bulk"), policy);
        settings.limits = limits.resolve().unwrap();
    });
    server.connect("me");
    server.subscribe("me", "bulk", "a", &Options { ack_wait: 10, ..options() });
    for _ in 0..2 {
        assert_eq!(server.try_publish("me", "bulk", "one"), "");
    }
    server.pass_secs(30);
    assert_eq!(server.contents("orders"), ["one", "one"]);
    server.say(&["one"]);
    assert_eq!(server.contents("orders"), ["one", "one"]);
}

/// Goal: a dead letter that is refused leaves nothing: what is like it and stored is found as
/// before.
#[test]
fn a_refused_dead_letter_hides_no_duplicate() {
    for loops in [1, 2] {
        let mut server = Script::with(loops, |settings| {
            let mut limits = limits();
            let policy = PolicyOverrides {
                deliveries_max: Some(1),
                dead_letter: Some(ChannelName::from("orders")),
                ..PolicyOverrides::default()
            };
            limits.per_channel.insert(ChannelName::from("bulk"), Default::default());
            limits.policies.per_channel.insert(ChannelName::from("bulk"), policy);
            settings.limits = limits.resolve().unwrap();
        });
        server.connect("me");
        server.say(&["one", "two"]);
        server.subscribe("me", "bulk", "a", &Options { ack_wait: 10, ..options() });
        for text in ["one", "two", "one"] {
            assert_eq!(server.try_publish("me", "bulk", text), "");
        }
        server.refuse("orders", Some("no room"));
        server.pass_secs(11);
        let errors = |line: &&String| line.contains("does not take it: no room");
        assert!(server.log.iter().any(|line| errors(&line)), "{:?}", server.log);
        server.refuse("orders", None);
        server.say(&["one", "two"]);
        assert_eq!(server.contents("orders"), ["one", "two"]);
        server.pass_secs(11);
        assert_eq!(server.contents("orders").len(), 5, "the dead letters came");
        server.say(&["one", "two"]);
        assert_eq!(server.contents("orders").len(), 5);
    }
}

/// Goal: a message that is refused and whose clock was far ahead ends nobody's window.
#[test]
fn what_is_refused_ends_no_window() {
    with_window(|mut server| {
        server.say(&["one"]);
        server.refuse("orders", Some("no room"));
        server.set_wall_ahead(10 * WINDOW);
        assert_eq!(server.try_publish("me", "orders", "two"), "no room");
        server.refuse("orders", None);
        server.set_wall_ahead(0);
        server.say(&["one"]);
        assert_eq!(server.contents("orders"), ["one"]);
        server.pass_secs(WINDOW + 1);
        server.say(&["one"]);
        assert_eq!(server.contents("orders"), ["one", "one"]);
    });
}

/// Goal: what is older than its channel keeps messages is not taken for stored, though it is there
/// until it is removed.
#[test]
fn what_has_outlived_its_channel_is_not_taken_for_stored() {
    let mut limits = limits();
    limits.global.age_max = Duration::from_secs(10);
    let mut server = Script::with(1, |settings| settings.limits = limits.resolve().unwrap());
    server.connect("me");
    server.say(&["one"]);
    server.pass_secs(9);
    server.say(&["one"]);
    assert_eq!(server.contents("orders"), ["one"]);
    server.pass_secs(2);
    server.say(&["one"]);
    assert_eq!(server.contents("orders"), ["one", "one"]);
}

/// Goal: what limits let go of before a publish would be stored is no reason not to store it: the
/// last one that was acknowledged is the last one that is there.
#[test]
fn what_limits_are_about_to_let_go_of_is_not_taken_for_stored() {
    for bytes_max in [0, 40] {
        for loops in [1, 2] {
            let mut limits = limits();
            if bytes_max == 0 {
                limits.global.messages_max = 1;
            } else {
                limits.global.bytes_max = bytes_max;
            }
            let mut server =
                Script::with(loops, |settings| settings.limits = limits.resolve().unwrap());
            server.connect("me");
            for texts in [&["on", "off", "on"][..], &["off", "on", "off", "on", "off"]] {
                server.hold_commits();
                let asked: Vec<Subject> =
                    texts.iter().map(|text| server.hand_in_order(text)).collect();
                server.release();
                assert!(server.errors(&asked).iter().all(String::is_empty));
                let contents = server.contents("orders");
                assert_eq!(
                    contents.last().map(String::as_str),
                    texts.last().copied(),
                    "{contents:?}"
                );
            }
        }
    }
}
