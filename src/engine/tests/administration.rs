//! what an operator changes while clients go on

use super::*;
use crate::base::channel_limits::StoreLimits;
use crate::base::id::{ChannelName, ClientId, Sequence, SubscriptionId};
use crate::base::record::ChannelState;
use crate::engine::Settings;
use crate::engine::administration::{Change, Extent, Outcome, Position};

fn purge(channel: &str, extent: Extent) -> Change {
    Change::Purge { channel: ChannelName::from(channel), extent }
}

impl Script {
    /// How the change that was asked for last has ended.
    #[track_caller]
    fn outcome_of(&mut self, change: Change) -> Outcome {
        self.administer(7, change);
        let [(7, outcome)] = &std::mem::take(&mut self.outcomes)[..] else {
            panic!("one answer for one question");
        };
        outcome.clone()
    }

    #[track_caller]
    fn purged(&mut self, channel: &str, extent: Extent) -> (u64, ChannelState) {
        let outcome = self.outcome_of(purge(channel, extent));
        let Outcome::Purged { removed, state } = outcome else { panic!("{outcome:?}") };
        (removed, state)
    }

    #[track_caller]
    fn refused(&mut self, change: Change) -> String {
        let outcome = self.outcome_of(change);
        let Outcome::Refused(why) = outcome else { panic!("{outcome:?}") };
        why
    }
}

#[test]
fn the_oldest_messages_go_and_numbers_go_on() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 10);
        let (removed, state) = server.purged("foo", Extent::Keep(4));
        assert_eq!((removed, state.first, state.last), (6, Sequence(7), Sequence(10)));
        let (removed, state) = server.purged("foo", Extent::To(Sequence(8)));
        assert_eq!((removed, state.first, state.message_count), (2, Sequence(9), 2));
        for done in [Extent::Keep(2), Extent::Keep(99), Extent::To(Sequence(3))] {
            assert_eq!(server.purged("foo", done), (0, state), "{done:?}");
        }
        server.subscribe("me", "foo", "a", &options());
        server.expect("a:9 a:10");
        server.restart();
        server.publish("me", "foo", 1);
        server.subscribe("me", "foo", "b", &options());
        assert!(server.got().contains("b:9 b:10 b:11"));
    });
}

/// Goal: of everything an empty message is left; who has got its number gets nothing once more, and
/// who begins later gets it empty, from memory and from the store.
#[test]
fn an_emptied_channel_delivers_one_empty_message() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &options());
        server.publish("me", "foo", 3);
        server.expect("a:1 a:2 a:3");
        let (removed, state) = server.purged("foo", Extent::All);
        assert_eq!((removed, state.first, state.last), (2, Sequence(3), Sequence(3)));
        server.expect("");
        server.subscribe("me", "foo", "b", &options());
        server.expect("b:3");
        let (removed, _) = server.purged("foo", Extent::All);
        assert_eq!(removed, 0);
        server.publish("me", "foo", 1);
        assert!(server.got().contains("a:4"));
    });
}

#[test]
fn what_was_purged_is_not_delivered_again() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &Options { ack_wait: 5, ..options() });
        server.publish("me", "foo", 4);
        server.expect("a:1 a:2 a:3 a:4");
        server.purged("foo", Extent::To(Sequence(3)));
        server.pass_secs(6);
        server.expect("a:4*1");
        server.ack("a", "foo", &[4]);
        server.pass_secs(6);
        server.expect("");
    });
}

#[test]
fn a_purge_is_answered_behind_its_commit_and_what_was_published_before_it() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 2);
        server.hold_commits();
        for text in ["3", "4", "5"] {
            server.hand_in_publish("me", "foo", text);
        }
        server.administer(1, purge("foo", Extent::Keep(1)));
        server.administer(2, purge("foo", Extent::All));
        server.hand_in_publish("me", "foo", "6");
        assert!(server.outcomes.is_empty(), "nothing is committed");
        server.release();
        let outcomes = std::mem::take(&mut server.outcomes);
        let [(1, first), (2, second)] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert!(matches!(first, Outcome::Purged { removed: 4, .. }), "{first:?}");
        assert!(matches!(second, Outcome::Purged { removed: 0, .. }), "{second:?}");
        server.subscribe("me", "foo", "a", &options());
        server.expect("a:5 a:6");
    });
}

#[test]
fn what_cannot_be_purged_is_refused_in_words() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 2);
        let unknown = server.refused(purge("bar", Extent::All));
        assert_eq!(unknown, "there is no channel \"bar\"");
        let beyond = server.refused(purge("foo", Extent::To(Sequence(3))));
        assert_eq!(beyond, "channel \"foo\" has no message 3: its last one is 2");
        server.refuse("foo", Some("no space left"));
        assert_eq!(server.refused(purge("foo", Extent::Keep(1))), "no space left");
        server.refuse("foo", None);
        assert_eq!(server.purged("foo", Extent::Keep(1)).0, 1);
        server.subscribe("me", "new", "a", &options());
        assert_eq!(server.purged("new", Extent::All), (0, ChannelState::default()));
    });
}

#[test]
fn a_channel_goes_with_its_subscriptions_only_if_it_is_forced() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 2);
        server.subscribe("me", "foo", "a", &options());
        server.subscribe("me", "foo", "b", &Options { durable: "d", ..options() });
        server.subscribe("me", "foo", "c", &Options { queue: "q", durable: "d", ..options() });
        server.subscribe("me", "foo", "e", &Options { durable: "off", ..options() });
        server.sub_close("me", "foo", "e");
        server.got();
        let channel = ChannelName::from("foo");
        let delete = |with_subscriptions| Change::DeleteChannel {
            channel: channel.clone(),
            with_subscriptions,
        };
        let why = server.refused(delete(false));
        assert_eq!(why, "channel \"foo\" has subscriptions: it goes with them only if forced");
        assert_eq!(server.outcome_of(delete(true)), Outcome::Gone);
        assert!(!server.has_channel("foo"));
        assert_eq!(server.refused(delete(true)), "there is no channel \"foo\"");
        server.publish("me", "foo", 1);
        server.expect("");
        server.subscribe("me", "foo", "f", &options());
        server.expect("f:1");
        let leave = server.leave(Service::Unsubscribe, "me", "foo", "a");
        assert_eq!(leave, "stan: invalid subscription");
    });
}

/// Goal: what subscribers do while their channel is being deleted goes with it, or is written once
/// the store has refused that.
#[test]
fn subscriptions_go_on_until_their_channel_is_gone() {
    for is_refused in [false, true] {
        with_loops(|mut server| {
            server.connect("me");
            server.publish("me", "foo", 2);
            server.subscribe("me", "foo", "a", &options());
            server.subscribe("me", "foo", "b", &Options { durable: "d", ..options() });
            server.expect("a:1 a:2 b:1 b:2");
            server.refuse("foo", is_refused.then_some("no space left"));
            server.hold_commits();
            let channel = ChannelName::from("foo");
            server.administer(1, Change::DeleteChannel { channel, with_subscriptions: true });
            server.ack("b", "foo", &[1]);
            let reply = server.hand_in_publish("me", "foo", "3");
            server.run();
            server.refuse("foo", None);
            server.release();
            let outcome = server.outcomes.pop().unwrap().1;
            assert_eq!(server.publish_error(&reply), "");
            if is_refused {
                assert_eq!(outcome, Outcome::Refused("no space left".to_owned()));
                server.expect("a:3 b:3");
                assert_eq!(server.stored("foo")[1].1, [2, 3]);
            } else {
                assert_eq!(outcome, Outcome::Gone);
                server.expect("");
                assert!(server.has_channel("foo") && server.stored("foo").is_empty());
                server.subscribe("me", "foo", "c", &options());
                server.expect("c:1");
            }
        });
    }
}

#[test]
fn a_closed_client_is_gone_and_may_come_again() {
    with_loops(|mut server| {
        server.connect("me");
        server.subscribe("me", "foo", "a", &Options { durable: "d", ..options() });
        server.publish("me", "foo", 1);
        server.expect("a:1");
        let close = || Change::CloseClient(ClientId::from("me"));
        assert_eq!(server.outcome_of(close()), Outcome::Gone);
        assert!(!server.has_client_record("me"));
        assert_eq!(server.refused(close()), "there is no client \"me\"");
        assert_eq!(server.stored("foo").len(), 1, "its durable stays");
        server.connect("me");
        server.subscribe("me", "foo", "b", &Options { durable: "d", ..options() });
        server.expect("b:1*1");
    });
}

/// Goal: wherever the server is killed while an operator closes a client, and killed once more
/// while the next one is at it, the client is there with all that it has, or gone with all of it;
/// what others share with it goes to them.
#[test]
fn a_client_that_is_closed_is_there_whole_or_not_at_all() {
    const CHANNELS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    for (kill, second) in (0..5).flat_map(|kill| (0..4).map(move |second| (kill, second))) {
        with_loops(|mut server| {
            server.connect("me");
            server.connect("you");
            for name in CHANNELS {
                server.subscribe("me", name, name, &options());
            }
            let group = Options { queue: "q", ..options() };
            server.subscribe("me", "g", "mine", &group);
            server.publish("you", "g", 2);
            server.subscribe("you", "g", "yours", &group);
            server.expect("mine:1 mine:2");
            server.hold_commits();
            server.administer(7, Change::CloseClient(ClientId::from("me")));
            for count in [kill, second] {
                (0..count).for_each(|_| server.release_one());
                server.release_nothing();
                server.hold_commits();
                server.restart();
            }
            server.release();
            let stored = CHANNELS.iter().filter(|name| !server.stored(name).is_empty()).count();
            let is_there = server.has_client_record("me");
            let is_answered = matches!(&server.outcomes[..], [(7, Outcome::Gone)]);
            assert!(!(is_answered && is_there), "what is answered is done");
            assert_eq!(stored, if is_there { CHANNELS.len() } else { 0 }, "{kill} {second}");
            server.got();
            server.pass_secs(40);
            let redelivered = if is_there { "mine:1*" } else { "yours:1*" };
            assert!(server.got().contains(redelivered), "{kill} {second}");
        });
    }
}

/// Goal: an end that the store has not taken is not answered as done.
#[test]
fn a_closed_client_whose_end_is_not_written_is_not_answered_as_gone() {
    with_loops(|mut server| {
        server.connect("me");
        server.refuse_clients(Some("no space left"));
        let why = server.refused(Change::CloseClient(ClientId::from("me")));
        assert_eq!(why, "it is ended, and not written: no space left");
        assert!(server.has_client_record("me"));
    });
}

#[test]
fn a_subscription_is_closed_and_an_unused_durable_removed() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 1);
        server.subscribe("me", "foo", "a", &options());
        server.subscribe("me", "foo", "b", &Options { durable: "d", ..options() });
        server.subscribe("me", "foo", "c", &Options { queue: "q", durable: "d", ..options() });
        server.got();
        let channel = || ChannelName::from("foo");
        let ids: Vec<u64> = server.stored("foo").iter().map(|(state, _)| state.id).collect();
        let [plain, durable, group] = ids.map_to_ids();
        let remove = |id| Change::RemoveDurable { channel: channel(), id };
        let close = |id| Change::CloseSubscription { channel: channel(), id };
        assert_eq!(server.refused(remove(plain)), format!("subscription {plain} is no durable"));
        let used = format!("durable {durable} is in use by client me");
        assert_eq!(server.refused(remove(durable)), used);
        for id in [plain, durable, group] {
            assert_eq!(server.outcome_of(close(id)), Outcome::Gone);
        }
        assert_eq!(server.stored("foo").len(), 2, "durables stay");
        assert_eq!(server.refused(close(durable)), format!("subscription {durable} is not in use"));
        let unknown = server.refused(close(plain));
        assert_eq!(unknown, format!("channel \"foo\" has no subscription {plain}"));
        server.publish("me", "foo", 1);
        server.expect("");
        for id in [durable, group] {
            assert_eq!(server.outcome_of(remove(id)), Outcome::Gone);
        }
        assert!(server.stored("foo").is_empty());
        server.restart();
        server.subscribe("me", "foo", "d", &Options { durable: "d", ..options() });
        server.subscribe("me", "foo", "e", &Options { queue: "q", durable: "d", ..options() });
        server.expect("d:1 d:2 e:1 e:2");
    });
}

/// Goal: who still uses a channel of which an unused durable is removed counts as before: the
/// channel is not deleted as one that nobody uses.
#[test]
fn a_channel_is_used_whose_unused_durable_is_removed() {
    for queue in ["", "q"] {
        let inactivity = Duration::from_secs(10);
        let limits = move |settings: &mut Settings| {
            let mut limits = StoreLimits::default();
            limits.global.inactivity_max = inactivity;
            settings.limits = limits.resolve().expect("no section is wrong");
        };
        let mut server = Script::with(1, limits);
        server.connect("me");
        server.publish("me", "foo", 1);
        server.subscribe("me", "foo", "a", &options());
        server.subscribe("me", "foo", "b", &Options { durable: "d", queue, ..options() });
        server.sub_close("me", "foo", "b");
        let id = SubscriptionId(server.stored("foo").last().expect("a record").0.id);
        let remove = Change::RemoveDurable { channel: ChannelName::from("foo"), id };
        assert_eq!(server.outcome_of(remove), Outcome::Gone);
        server.subscribe("me", "foo", "c", &options());
        server.sub_close("me", "foo", "c");
        server.pass_secs(60);
        assert!(server.has_channel("foo"));
    }
}

/// Goal: a durable that is reset gets nothing of before again, and begins where it was told, now
/// and after a restart.
#[test]
fn an_unused_durable_is_reset() {
    for has_restarts in [true, false] {
        with_loops(|server| reset_often(server, has_restarts));
    }
}

fn reset_often(mut server: Script, has_restarts: bool) {
    {
        server.connect("me");
        server.publish("me", "foo", 6);
        for queue in ["", "q"] {
            let wanted = Options { durable: "d", queue, in_flight_max: 4, ..options() };
            server.subscribe("me", "foo", "a", &wanted);
            server.ack("a", "foo", &[1]);
            server.expect("a:1 a:2 a:3 a:4 a:5");
            let channel = || ChannelName::from("foo");
            let id_of = |server: &Script| {
                SubscriptionId(server.stored("foo").last().expect("a record").0.id)
            };
            let reset = |id, to| Change::ResetDurable { channel: channel(), id, to };
            let id = id_of(&server);
            let used = server.refused(reset(id, Position::First));
            assert_eq!(used, format!("durable {id} is in use by client me"));
            server.sub_close("me", "foo", "a");
            let beyond = server.refused(reset(id, Position::At(Sequence(8))));
            assert_eq!(beyond, "there is no message 8: the last one is 6");
            for (to, expected) in [
                (Position::At(Sequence(4)), "b:4 b:5 b:6"),
                (Position::New, ""),
                (Position::Last, "b:6"),
                (Position::First, "b:1 b:2 b:3 b:4"),
            ] {
                let (id, count) = (id_of(&server), server.stored("foo").len());
                assert_eq!(server.outcome_of(reset(id, to)), Outcome::Gone);
                assert_eq!(server.stored("foo").len(), count, "the old record is gone");
                if has_restarts {
                    server.restart();
                    server.got();
                }
                server.subscribe("me", "foo", "b", &wanted);
                server.expect(expected);
                server.sub_close("me", "foo", "b");
            }
            assert!(server.refused(reset(id, Position::First)).contains("no subscription"));
        }
    }
}

/// Goal: a reset that the store refuses changes nothing, now or after a take-over.
#[test]
fn a_durable_whose_reset_is_refused_is_where_it_was() {
    for has_restart in [false, true] {
        with_loops(|mut server| {
            server.connect("me");
            server.publish("me", "foo", 6);
            for queue in ["", "q"] {
                let wanted = Options { durable: "d", queue, in_flight_max: 4, ..options() };
                server.subscribe("me", "foo", "a", &wanted);
                server.ack("a", "foo", &[1]);
                server.sub_close("me", "foo", "a");
                server.got();
                let before = server.stored("foo");
                let id = SubscriptionId(before.last().unwrap().0.id);
                let channel = ChannelName::from("foo");
                server.refuse("foo", Some("no space left"));
                let reset = Change::ResetDurable { channel, id, to: Position::New };
                assert_eq!(server.refused(reset), "no space left");
                server.refuse("foo", None);
                // Whatever was put off is written with it.
                server.publish("me", "foo", 1);
                assert_eq!(server.stored("foo"), before);
                if has_restart {
                    server.restart();
                    server.got();
                }
                server.subscribe("me", "foo", "b", &wanted);
                server.pass_secs(31);
                let got = server.got();
                assert!(
                    ["b:2*1", "b:3*1", "b:4*1", "b:5*1"].iter().all(|it| got.contains(it)),
                    "{got}"
                );
                server.ack("b", "foo", &[2, 3, 4, 5]);
                assert!(server.got().starts_with("b:6"));
                server.sub_close("me", "foo", "b");
            }
        });
    }
}

/// Goal: of two resets at once the second is asked to wait: if the store refuses both, nothing is
/// lost.
#[test]
fn a_durable_is_reset_once_at_a_time() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 3);
        let wanted = Options { durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &wanted);
        server.sub_close("me", "foo", "a");
        let before = server.stored("foo");
        let channel = || ChannelName::from("foo");
        let reset = |id| Change::ResetDurable { channel: channel(), id, to: Position::New };
        let id = SubscriptionId(before[0].0.id);
        server.hold_commits();
        server.refuse("foo", Some("no space left"));
        server.administer(1, reset(id));
        // It has one of the next numbers now.
        (1..=8).for_each(|more| server.administer(1 + more, reset(SubscriptionId(id.0 + more))));
        server.release();
        let outcomes = std::mem::take(&mut server.outcomes);
        let said = outcomes.iter().map(|(_, outcome)| match outcome {
            Outcome::Refused(why) => why.as_str(),
            other @ (Outcome::Purged { .. } | Outcome::Gone) => panic!("{other:?}"),
        });
        let said: Vec<&str> = said.filter(|why| !why.contains("no subscription")).collect();
        assert_eq!(said, ["it is being reset just now: ask again", "no space left"]);
        server.refuse("foo", None);
        server.publish("me", "foo", 1);
        assert_eq!(server.stored("foo"), before);
    });
}

/// Goal: a purge that was counted from messages that are refused meanwhile takes none of those that
/// were to stay.
#[test]
fn a_purge_takes_no_more_than_was_meant() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 10);
        server.hold_commits();
        server.refuse("foo", Some("no space left"));
        server.hand_in_publish("me", "foo", "11");
        server.hand_in_publish("me", "foo", "12");
        server.run();
        server.refuse("foo", None);
        server.administer(1, purge("foo", Extent::Keep(5)));
        server.release();
        let outcomes = std::mem::take(&mut server.outcomes);
        let [(1, Outcome::Refused(why))] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert!(why.contains("nothing is let go; ask again"), "{why}");
        let (removed, state) = server.purged("foo", Extent::Keep(5));
        assert_eq!((removed, state.first, state.last), (5, Sequence(6), Sequence(10)));
    });
}

/// Goal: what is published behind a purge goes on when the store refuses that.
#[test]
fn a_purge_that_is_refused_refuses_no_publish() {
    with_loops(|mut server| {
        server.connect("me");
        server.publish("me", "foo", 2);
        server.hold_commits();
        server.refuse("foo", Some("no space left"));
        server.administer(1, purge("foo", Extent::Keep(1)));
        server.refuse("foo", None);
        server.hand_in_publish("me", "foo", "3");
        server.release();
        let outcomes = std::mem::take(&mut server.outcomes);
        assert!(matches!(&outcomes[..], [(1, Outcome::Refused(_))]), "{outcomes:?}");
        server.subscribe("me", "foo", "a", &options());
        server.expect("a:1 a:2 a:3");
    });
}

/// Goal: a durable of a group that somebody is about to join is used.
#[test]
fn a_durable_that_is_being_joined_is_neither_removed_nor_reset() {
    with_loops(|mut server| {
        server.connect("me");
        server.connect("you");
        let shared = Options { queue: "q", durable: "d", ..options() };
        server.subscribe("me", "foo", "a", &shared);
        let id = SubscriptionId(server.stored("foo")[0].0.id);
        server.hold_commits();
        server.hand_in(Service::Subscribe, Script::subscribe_request("you", "foo", "b", &shared));
        server.run();
        server.hand_in_leave(Service::SubscriptionClose, "me", "foo", "a");
        server.run();
        let channel = || ChannelName::from("foo");
        server.administer(1, Change::RemoveDurable { channel: channel(), id });
        server.administer(2, Change::ResetDurable { channel: channel(), id, to: Position::First });
        server.release();
        let outcomes = std::mem::take(&mut server.outcomes);
        for (_, outcome) in &outcomes {
            let Outcome::Refused(why) = outcome else { panic!("{outcomes:?}") };
            assert!(why.ends_with("is in use by client you"), "{why}");
        }
        assert_eq!(outcomes.len(), 2);
        server.publish("me", "foo", 1);
        server.expect("b:1");
    });
}

trait ToIds {
    fn map_to_ids(self) -> [SubscriptionId; 3];
}

impl ToIds for Vec<u64> {
    fn map_to_ids(self) -> [SubscriptionId; 3] {
        let ids: [u64; 3] = self.try_into().unwrap();
        ids.map(SubscriptionId)
    }
}
