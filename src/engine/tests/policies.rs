//! how often a message is delivered at most, and what becomes of it then

use std::collections::BTreeMap;

use super::*;
use crate::base::channel_limits::StoreLimits;
use crate::base::delivery_policy::{Policies, PolicyOverrides};
use crate::base::id::ChannelName;
use crate::base::random::Random;
use crate::engine::administration::{Change, Position};
use crate::engine::snapshot::Hold;

pub(super) const ACK_WAIT: u64 = 10;

fn limited(max: u32, change: impl FnOnce(&mut StoreLimits)) -> StoreLimits {
    let policy = PolicyOverrides {
        deliveries_max: Some(max),
        dead_letter: Some(ChannelName::from("dead.letters")),
        ..PolicyOverrides::default()
    };
    let mut limits = StoreLimits::default();
    for name in ["orders", "bulk"] {
        limits.per_channel.insert(ChannelName::from(name), Default::default());
        limits.policies.per_channel.insert(ChannelName::from(name), policy.clone());
    }
    change(&mut limits);
    limits
}

fn server(loops: u16, max: u32) -> Script {
    Script::with(loops, |settings| settings.limits = limited(max, |_| ()).resolve().unwrap())
}

fn with_max(max: u32, story: impl Fn(Script)) {
    for loops in [1, 2, 4] {
        story(server(loops, max));
    }
}

pub(super) fn durable() -> Options {
    Options { durable: "d", ack_wait: 10, ..options() }
}

fn origin_of(letter: &(Bytes, String)) -> serde_json::Value {
    serde_json::from_str(&letter.1).unwrap()
}

#[test]
fn what_is_never_acknowledged_ends_in_the_channel_of_dead_letters() {
    with_max(3, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.ack("a", "orders", &[2]);
        server.pass_secs(ACK_WAIT);
        server.expect("a:1*1");
        server.pass_secs(ACK_WAIT);
        server.expect("a:1*2");
        assert!(server.letters("dead.letters").is_empty());
        server.pass_secs(ACK_WAIT);
        server.expect("");
        let letters = server.letters("dead.letters");
        assert_eq!(letters.len(), 1);
        assert_eq!(server.contents("dead.letters"), server.contents("orders")[..1]);
        let origin = origin_of(&letters[0]);
        assert_eq!(origin["channel"], "orders");
        assert_eq!(origin["sequence"], 1);
        assert_eq!(origin["durable"], "d");
        assert_eq!(origin["client"], "me");
        assert_eq!(origin["deliveries"], 3);
        assert_eq!(origin.get("queue"), None);
        assert_eq!(server.snapshot().traffic.dead_letters, 1);
        // It is acknowledged: nothing is left of it, not even its count.
        assert!(server.stored("orders")[0].1.is_empty());
        assert_eq!(server.count_count("orders"), 0);
        server.pass_secs(10 * ACK_WAIT);
        server.expect("");
        server.restart();
        server.pass_secs(10 * ACK_WAIT);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 1);
    });
}

#[test]
fn who_reads_dead_letters_gets_them_at_once_and_for_ever() {
    with_max(1, |mut server| {
        server.connect("me");
        server.subscribe("me", "dead.letters", "d", &Options { ack_wait: 10, ..options() });
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.pass_secs(ACK_WAIT);
        server.expect("d:1");
        server.pass_secs(ACK_WAIT);
        server.expect("d:1*1");
    });
}

#[test]
fn channels_without_a_limit_are_as_ever() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "free", "a", &durable());
        server.publish("me", "free", 1);
        server.expect("a:1");
        server.durable_count = 0;
        for count in 1..10 {
            server.pass_secs(ACK_WAIT);
            server.expect(&format!("a:1*{count}"));
        }
        assert_eq!((server.durable_count, server.count_count("free")), (0, 0));
    });
}

/// Goal: each count is durable before its delivery leaves.
#[test]
fn nothing_is_delivered_before_its_count_is_durable() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        assert_eq!(server.count_count("orders"), 1);
        server.hold_commits();
        server.pass_secs(ACK_WAIT);
        server.expect("");
        // It is counted, and the server dies before it leaves.
        server.release_nothing();
        server.restart();
        server.pass_secs(2 * ACK_WAIT);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 1);
    });
}

#[test]
fn counts_survive_restarts() {
    with_max(4, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        let mut came = vec![server.got()];
        for _ in 0..4 {
            server.restart();
            server.pass_secs(ACK_WAIT);
            came.push(server.got());
        }
        came.retain(|came| !came.is_empty());
        assert_eq!(came.join(" "), "a:1 a:1*1 a:1*2 a:1*3");
        assert_eq!(server.letters("dead.letters").len(), 1);
    });
}

#[test]
fn a_durable_that_leaves_and_comes_back_is_the_same_reader() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.sub_close("me", "orders", "a");
        server.subscribe("me", "orders", "b", &durable());
        server.expect("b:1*1");
        server.sub_close("me", "orders", "b");
        server.pass_secs(4);
        server.subscribe("me", "orders", "c", &durable());
        server.expect("");
        // Until an ack wait after its last delivery it may still be acknowledged.
        server.pass_secs(5);
        assert_eq!(server.letters("dead.letters").len(), 0);
        server.pass_secs(1);
        assert_eq!(server.letters("dead.letters").len(), 1);
        // Another durable counts for itself.
        server.connect("you");
        server.subscribe("you", "orders", "e", &durable());
        server.expect("e:1");
    });
}

/// Goal: what was delivered as often as it may be is acknowledged after all, by a durable that
/// comes back and behind a take-over.
#[test]
fn the_last_delivery_can_be_acknowledged_behind_a_restart() {
    with_max(1, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.pass_secs(9);
        server.restart();
        // Its deadline by the clock is over, and who serves now does not know when it was sent.
        server.pass_secs(9);
        server.ack("a", "orders", &[1]);
        server.sub_close("me", "orders", "a");
        server.subscribe("me", "orders", "b", &durable());
        assert_eq!(server.letters("dead.letters").len(), 0);
        server.ack("b", "orders", &[2]);
        server.pass_secs(5 * ACK_WAIT);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 0);
        assert_eq!(server.count_count("orders"), 0);
    });
}

/// Goal: a connection that becomes full, or that nobody reads any more, while a delivery is being
/// counted gets nothing, and the count is given back.
#[test]
fn what_finds_no_room_when_it_is_counted_is_not_counted() {
    with_max(1, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.ack("a", "orders", &[1]);
        server.hold_commits();
        for _ in 0..3 {
            let _ = server.hand_in_publish("me", "orders", "x");
        }
        server.run();
        server.release_one();
        server.set_room("a", false);
        server.release();
        server.pass_secs(5 * ACK_WAIT);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 0);
        server.set_room("a", true);
        server.expect("a:2 a:3 a:4");
        server.pass_secs(ACK_WAIT);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 3);
    });
}

/// Goal: who looks is told why a subscription gets nothing new, whatever the reason.
#[test]
fn it_is_told_why_a_subscription_gets_nothing_new() {
    with_max(3, |mut server| {
        let why = |server: &Script| {
            let snapshot = server.snapshot();
            let channel = snapshot.channels.iter().find(|it| it.channel.as_bytes() == b"orders");
            channel.and_then(|it| it.subscriptions[0].hold)
        };
        server.connect("me");
        server.subscribe("me", "orders", "a", &Options { in_flight_max: 2, ..durable() });
        server.publish("me", "orders", 1);
        assert_eq!(why(&server), None);
        server.set_room("a", false);
        assert_eq!(why(&server), Some(Hold::NoRoom));
        server.set_room("a", true);
        server.publish("me", "orders", 1);
        assert_eq!(why(&server), Some(Hold::Full));
        server.hold_reads();
        server.restart();
        assert_eq!(why(&server), Some(Hold::Recovered));
        server.release();
        server.sub_close("me", "orders", "a");
        assert_eq!(why(&server), None, "it is offline");
        let _ = server.got();
        server.subscribe("me", "orders", "b", &Options { in_flight_max: 9, ..durable() });
        server.expect("b:1*1 b:2*1");
        server.hold_commits();
        let _ = server.hand_in_publish("me", "orders", "x");
        server.run();
        server.release_one();
        server.set_room("b", false);
        server.release();
        assert_eq!(why(&server), Some(Hold::Counted));
        server.set_room("b", true);
        server.pass_secs(1);
        assert_eq!(why(&server), None);
        server.expect("b:3");
    });
}

/// Goal: what found no room keeps what comes behind it back, in order, and never for good.
#[test]
fn what_found_no_room_holds_nobody_back_for_ever() {
    // It is acknowledged before it is tried again.
    with_max(5, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &Options { ack_wait: 10, ..options() });
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.hold_commits();
        server.pass_secs(ACK_WAIT);
        server.set_room("a", false);
        server.release();
        server.set_room("a", true);
        server.ack("a", "orders", &[1]);
        server.pass_secs(1);
        server.expect("");
        server.publish("me", "orders", 1);
        server.expect("a:2");
    });
    // Its client misses a heartbeat meanwhile, and is well again.
    with_max(5, |mut server| {
        server.connect("me");
        server.connect("other");
        server.subscribe("me", "orders", "a", &Options { ack_wait: 3_600, ..options() });
        server.set_pulse("me", Pulse::Silent);
        server.pass_secs(41);
        server.hold_commits();
        for _ in 0..3 {
            let _ = server.hand_in_publish("other", "orders", "x");
        }
        server.run();
        server.release_one();
        server.set_room("a", false);
        server.release();
        server.pass_secs(1);
        server.expect("");
        server.set_pulse("me", Pulse::Alive);
        server.set_room("a", true);
        server.pass_secs(60);
        server.expect("a:1 a:2 a:3");
    });
}

/// Goal: a store that stalls for longer than the ack wait uses up no count, and no memory.
#[test]
fn a_stalled_store_counts_a_delivery_once() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.hold_commits();
        server.pass_secs(20 * ACK_WAIT);
        let held = server.held_bytes();
        server.pass_secs(20 * ACK_WAIT);
        assert!(server.held_bytes() <= held + 1_024, "{held}");
        server.expect("");
        server.release();
        server.expect("a:1*1");
        server.pass_secs(ACK_WAIT - 1);
        assert_eq!(server.letters("dead.letters").len(), 0);
        server.pass_secs(1);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 1);
    });
}

/// Goal: a dead letter of a group names the member that has the message.
#[test]
fn a_dead_letter_of_a_group_is_of_the_member_that_has_it() {
    with_max(1, |mut server| {
        let member = Options { queue: "q", ..durable() };
        server.connect("me");
        server.connect("you");
        server.subscribe("me", "orders", "a", &member);
        server.subscribe("you", "orders", "b", &member);
        server.publish("me", "orders", 4);
        let came = server.deliveries();
        server.pass_secs(ACK_WAIT);
        let letters = server.letters("dead.letters");
        assert_eq!(letters.len(), 4);
        for letter in &letters {
            let origin = origin_of(letter);
            let had = came.iter().find(|(_, sequence, _)| origin["sequence"] == *sequence);
            let client = if had.is_some_and(|(inbox, ..)| inbox == "a") { "me" } else { "you" };
            assert_eq!(origin["client"], client);
        }
    });
}

#[test]
fn what_stands_in_for_a_purged_message_begins_to_count_anew() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.pass_secs(ACK_WAIT);
        server.expect("a:1*1 a:2*1");
        let channel = ChannelName::from("orders");
        let change = Change::Purge { channel, extent: crate::engine::administration::Extent::All };
        server.administer(7, change);
        assert_eq!(server.count_count("orders"), 1, "that of what is gone");
        server.pass_secs(ACK_WAIT);
        server.expect("a:2");
        server.pass_secs(ACK_WAIT);
        server.expect("a:2*1");
        assert_eq!(server.letters("dead.letters").len(), 0);
    });
}

/// Goal: what an operator purges while its redelivery is being counted is neither delivered nor
/// counted, and what stands in for it begins anew.
#[test]
fn what_is_purged_while_it_is_counted_does_not_leave() {
    use crate::engine::administration::Extent;
    for (extent, came, counts) in [(Extent::All, "a:3", 1), (Extent::Keep(1), "a:3*1", 1)] {
        with_max(3, |mut server| {
            server.connect("me");
            server.subscribe("me", "orders", "a", &durable());
            server.publish("me", "orders", 3);
            server.expect("a:1 a:2 a:3");
            server.hold_commits();
            let channel = ChannelName::from("orders");
            server.administer(7, Change::Purge { channel, extent });
            server.pass_secs(ACK_WAIT);
            server.expect("");
            server.release_one();
            server.release();
            let kept = if came == "a:3" { "" } else { came };
            server.expect(kept);
            server.pass_secs(ACK_WAIT);
            server.expect(if came == "a:3" { came } else { "a:3*2" });
            assert_eq!(server.count_count("orders"), counts);
            assert_eq!(server.letters("dead.letters").len(), 0);
        });
    }
}

/// Goal: counts of all members of a group are there behind a take-over, whoever has the message.
#[test]
fn counts_of_a_large_group_are_recovered() {
    let mut server = server(1, 3);
    let member = Options { queue: "q", in_flight_max: 10_000, ..durable() };
    server.connect("me");
    for number in 0..500 {
        server.subscribe("me", "orders", &number.to_string(), &member);
    }
    server.publish("me", "orders", 2_000);
    assert_eq!(server.count_count("orders"), 2_000);
    server.restart();
    assert_eq!(server.count_count("orders"), 2_000);
    let _ = server.deliveries();
    server.pass_secs(2 * ACK_WAIT);
    let again = server.deliveries();
    assert!(again.iter().all(|(.., count)| (1..=2).contains(count)));
    assert!(2_000 <= again.len(), "{}", again.len());
}

#[test]
fn a_group_counts_over_its_members() {
    with_max(3, |mut server| {
        let member = Options { queue: "q", ..durable() };
        server.connect("me");
        server.subscribe("me", "orders", "a", &member);
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.subscribe("me", "orders", "b", &member);
        server.unsubscribe("me", "orders", "a");
        server.pass_secs(1);
        server.expect("b:1*1");
        server.restart();
        server.pass_secs(ACK_WAIT);
        server.expect("b:1*2");
        server.pass_secs(ACK_WAIT);
        server.expect("");
        let origin = origin_of(&server.letters("dead.letters")[0]);
        assert_eq!((&origin["queue"], &origin["durable"]), (&"q".into(), &"d".into()));
    });
}

/// Goal: a channel of dead letters that takes nothing loses nothing, and nothing is delivered more
/// often for it.
#[test]
fn what_the_channel_of_dead_letters_refuses_is_kept_and_tried_again() {
    with_max(1, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "dead.letters", 1);
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.refuse("dead.letters", Some("no room"));
        server.log.clear();
        for _ in 0..5 {
            server.pass_secs(ACK_WAIT);
            server.expect("");
        }
        let said = server.log.iter().filter(|line| line.contains("does not take it: no room"));
        assert!((1..=6).contains(&said.count()), "{:?}", server.log);
        assert_eq!(server.stored("orders")[0].1, [1, 2]);
        assert!(server.snapshot().traffic.dead_letters_refused >= 4);
        // A late ack is one all the same.
        server.ack("a", "orders", &[2]);
        server.restart();
        server.refuse("dead.letters", None);
        server.pass_secs(2 * ACK_WAIT);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 2);
        assert!(server.stored("orders")[0].1.is_empty());
    });
}

#[test]
fn a_channel_of_dead_letters_that_may_not_be_made_holds_them() {
    for loops in [1, 2, 4] {
        let mut server = Script::with(loops, |settings| {
            let change = |limits: &mut StoreLimits| limits.channels_max = 2;
            settings.limits = limited(1, change).resolve().unwrap();
        });
        server.connect("me");
        server.publish("me", "free", 1);
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.pass_secs(3 * ACK_WAIT);
        server.expect("");
        assert!(!server.has_channel("dead.letters"));
        assert_eq!(server.stored("orders")[0].1, [1]);
    }
}

#[test]
fn a_full_disk_delivers_nothing_uncounted() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.refuse("orders", Some("no room"));
        server.pass_secs(5 * ACK_WAIT);
        server.expect("");
        server.refuse("orders", None);
        server.pass_secs(ACK_WAIT);
        server.expect("a:1*1");
        server.pass_secs(ACK_WAIT);
        server.expect("");
        assert_eq!(server.letters("dead.letters").len(), 1);
    });
}

/// Goal: a reader that goes while the disk is full leaves nothing for the next one of its name.
#[test]
fn a_full_disk_keeps_no_counts_of_who_is_gone() {
    with_max(3, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.refuse("orders", Some("no room"));
        server.unsubscribe("me", "orders", "a");
        assert_eq!(server.count_count("orders"), 1);
        server.refuse("orders", None);
        server.publish("me", "orders", 1);
        assert_eq!(server.count_count("orders"), 0);
        server.subscribe("me", "orders", "b", &durable());
        server.expect("b:1 b:2");
    });
}

/// Goal: a reader that goes while the disk refuses a purge leaves nothing either.
#[test]
fn a_refused_purge_keeps_no_counts_of_who_is_gone() {
    with_max(3, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 2);
        server.expect("a:1 a:2");
        server.refuse("orders", Some("no room"));
        server.unsubscribe("me", "orders", "a");
        let channel = ChannelName::from("orders");
        let keep = crate::engine::administration::Extent::Keep(1);
        server.administer(7, Change::Purge { channel, extent: keep });
        assert_eq!(server.count_count("orders"), 2);
        server.refuse("orders", None);
        server.publish("me", "orders", 1);
        assert_eq!(server.count_count("orders"), 0);
    });
}

/// Goal: a purge of everything that does not happen, because what came before it was refused, lets
/// go of no count.
#[test]
fn a_purge_that_is_overtaken_lets_go_of_no_count() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.hold_commits();
        server.refuse("orders", Some("no room"));
        server.pass_secs(ACK_WAIT);
        server.refuse("orders", None);
        let channel = ChannelName::from("orders");
        let change = Change::Purge { channel, extent: crate::engine::administration::Extent::All };
        server.administer(7, change);
        server.release();
        assert_eq!(server.count_count("orders"), 1);
    });
}

#[test]
fn a_durable_that_is_reset_begins_to_count_anew() {
    with_max(2, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.sub_close("me", "orders", "a");
        let (channel, to) = (ChannelName::from("orders"), Position::First);
        let id = crate::base::id::SubscriptionId(server.stored("orders")[0].0.id);
        server.administer(7, Change::ResetDurable { channel, id, to });
        server.subscribe("me", "orders", "b", &durable());
        server.expect("b:1");
        server.restart();
        server.pass_secs(ACK_WAIT);
        server.expect("b:1*1");
    });
}

#[test]
fn what_is_purged_needs_no_count() {
    with_max(3, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &durable());
        server.publish("me", "orders", 3);
        server.expect("a:1 a:2 a:3");
        assert_eq!(server.count_count("orders"), 3);
        server.expire("orders", 2);
        server.pass_secs(ACK_WAIT);
        server.expect("a:3*1");
        assert_eq!(server.count_count("orders"), 1);
        server.unsubscribe("me", "orders", "a");
        assert_eq!(server.count_count("orders"), 0);
    });
}

/// Goal: what was counted for a channel or a reader that is not there any more counts for nobody.
#[test]
fn counts_of_others_are_given_up() {
    with_max(3, |mut server| {
        server.connect("me");
        server.subscribe("me", "orders", "a", &Options { durable: "", ..durable() });
        server.publish("me", "orders", 1);
        server.expect("a:1");
        server.pass_secs(ACK_WAIT);
        server.expect("a:1*1");
        server.lose_client("me");
        server.restart();
        server.pass_secs(1);
        assert_eq!(server.count_count("orders"), 0);
        server.connect("me");
        server.subscribe("me", "orders", "b", &Options { durable: "", ..durable() });
        server.expect("b:1");
    });
    // Without a limit nothing is kept of them.
    let mut server = server(2, 3);
    server.connect("me");
    server.subscribe("me", "orders", "a", &durable());
    server.publish("me", "orders", 1);
    assert_eq!(server.count_count("orders"), 1);
    server.settings.limits = StoreLimits::default().resolve().unwrap();
    server.restart();
    assert_eq!(server.count_count("orders"), 0);
}

/// A server with one policy, of the channel `orders`.
pub(super) fn server_with(policy: &PolicyOverrides, loops: u16) -> Script {
    Script::with(loops, |settings| {
        let mut limits = StoreLimits::default();
        limits.per_channel.insert(ChannelName::from("orders"), Default::default());
        limits.policies.per_channel.insert(ChannelName::from("orders"), policy.clone());
        settings.limits = limits.resolve().unwrap();
    })
}

/// The same for each number of loops.
pub(super) fn with_policy(policy: &PolicyOverrides, story: impl Fn(Script)) {
    [1, 2, 4].into_iter().for_each(|loops| story(server_with(policy, loops)));
}

/// Goal: a channel that is not created leaves nothing to be written, also where who has subscribed
/// in a later batch is refused with it, and has counts that were to go.
#[test]
fn a_channel_that_is_refused_leaves_no_counts() {
    for loops in [1, 2, 4] {
        let limits = limited(2, |_| ());
        let mut server =
            Script::with(loops, |settings| settings.limits = limits.resolve().unwrap());
        server.connect("me");
        server.refuse("orders", Some("no room"));
        server.hold_commits();
        let published = server.hand_in_publish("me", "orders", "one");
        server.run();
        let request = Script::subscribe_request("me", "orders", "a", &options());
        let subscribed = server.hand_in(Service::Subscribe, request);
        server.run();
        server.release();
        assert_eq!(server.publish_error(&published), "no room");
        assert!(server.answer(&subscribed).is_some(), "it is refused too");
        server.refuse("orders", None);
        server.subscribe("me", "orders", "b", &options());
        server.publish("me", "orders", 1);
        server.expect("b:1");
    }
}

/// Goal: 200 messages that nobody acknowledges, and a kill whenever: never delivered more than N
/// times, never fewer than N less the kills, and each is a dead letter.
#[test]
fn poison_messages_and_kills() {
    const COUNT: u64 = 200;
    for seed in 0_u32..12 {
        let (index, max) = (usize::try_from(seed % 3).unwrap(), 1 + seed % 5);
        let loops = [1, 2, 4][index];
        let mut server = server(loops, max);
        let mut random = Random::new(seed.into());
        server.shuffle(seed.into());
        server.connect("me");
        let in_flight_max = [3, 50, 1_000][index];
        server.subscribe("me", "bulk", "a", &Options { in_flight_max, ..durable() });
        server.publish("me", "bulk", 200);
        let (mut delivered, mut kills) = (BTreeMap::<u64, u32>::new(), 0);
        for _ in 0..4_000 {
            let letters = server.letters("dead.letters");
            let buried = letters.iter().map(|letter| origin_of(letter)["sequence"].as_u64());
            if buried.collect::<std::collections::BTreeSet<_>>().len() == 200 {
                break;
            }
            if random.below(20) == 0 && kills < 6 {
                server.hold_commits();
                server.pass_secs(random.below(ACK_WAIT + 5));
                server.release_nothing();
                server.restart();
                kills += 1;
            }
            server.pass_secs(1);
            for (_, sequence, again) in server.deliveries() {
                let count = delivered.entry(sequence).or_default();
                *count += 1;
                assert!(*count <= max, "seed {seed}: {sequence} was delivered {count} times");
                assert!(*count <= again + 1, "seed {seed}: {sequence} has a count too low");
            }
        }
        server.pass_secs(3 * ACK_WAIT);
        assert_eq!(server.deliveries(), [], "seed {seed}");
        let letters = server.letters("dead.letters");
        let mut buried: BTreeMap<u64, u32> = BTreeMap::new();
        for letter in &letters {
            *buried.entry(origin_of(letter)["sequence"].as_u64().unwrap()).or_default() += 1;
        }
        assert_eq!(buried.len() as u64, COUNT, "seed {seed}: each is a dead letter");
        assert!(buried.values().all(|count| *count <= 1 + kills), "seed {seed}");
        for sequence in 1..=COUNT {
            let count = delivered.get(&sequence).copied().unwrap_or(0);
            assert!(max <= count + kills, "seed {seed}: {sequence}: {count} times, {kills} kills");
        }
        assert!(server.stored("bulk")[0].1.is_empty(), "seed {seed}: each is acknowledged");
        assert_eq!(server.count_count("bulk"), 0, "seed {seed}");
    }
}

fn resolve(sections: &[(&str, Option<u32>, Option<&str>)]) -> Result<(), String> {
    let mut limits = StoreLimits { policies: Policies::default(), ..StoreLimits::default() };
    for (name, deliveries_max, dead_letter) in sections {
        let dead_letter = dead_letter.map(ChannelName::from);
        let policy = PolicyOverrides {
            deliveries_max: *deliveries_max,
            dead_letter,
            ..PolicyOverrides::default()
        };
        if name.is_empty() {
            limits.policies.global = policy;
        } else {
            limits.per_channel.insert(ChannelName::from(*name), Default::default());
            limits.policies.per_channel.insert(ChannelName::from(*name), policy);
        }
    }
    limits.resolve().map(drop).map_err(|error| error.to_string())
}

#[test]
fn policies_that_contradict_themselves_are_refused() {
    let circle = |sections: &[_]| {
        let error = resolve(sections).unwrap_err();
        assert!(error.contains("in a circle"), "{error}");
    };
    circle(&[("orders", Some(3), Some("orders"))]);
    circle(&[("a", Some(3), Some("b")), ("b", Some(2), Some("a"))]);
    circle(&[("orders.*", Some(3), Some("orders.dead"))]);
    circle(&[("", Some(3), Some("dead"))]);
    assert_eq!(resolve(&[("", Some(3), Some("dead")), ("dead", Some(0), None)]), Ok(()));
    assert_eq!(resolve(&[("a", Some(3), Some("b")), ("b", Some(2), Some("c"))]), Ok(()));
    assert_eq!(resolve(&[("a.>", None, Some("dead")), ("a.b", Some(2), None)]), Ok(()));
    let error = resolve(&[("a.>", Some(2), None)]).unwrap_err();
    let expected = "the section of channel \"a.>\": has max_deliveries and no dead_letter: say \
                    where messages go then";
    assert_eq!(error, expected);
}
