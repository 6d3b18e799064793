//! What is held of changes, and what is not known of them.

use super::*;
use crate::base::channel_limits::StoreLimits;
use crate::testing::checker::{Asking, Start};
use crate::testing::trace::Trace;

fn orders() -> ChannelName {
    ChannelName::from("orders")
}

fn mine() -> DurableKey {
    DurableKey { channel: orders(), name: "c1-mine".to_owned() }
}

fn data(sequence: u64) -> Bytes {
    Bytes::from(format!("message {sequence}"))
}

impl Checker {
    fn publish(&mut self, channel: &ChannelName, sequence: u64) {
        self.on_published(data(sequence), 1, sequence);
        self.on_acked(channel, data(sequence));
    }

    fn subscribe(&mut self, inbox: &str, channel: &ChannelName, durable: Option<&DurableKey>) {
        let inbox = &Subject::from(inbox.to_owned());
        let start = if durable.is_some() { Start::Remembered } else { Start::First };
        let (in_queue, in_flight_max) = (false, 100);
        self.on_asked(&Asking { inbox, channel, durable, in_queue, in_flight_max, start });
        self.on_confirmed(inbox);
        durable.into_iter().for_each(|key| self.on_durable_made(key));
    }

    fn deliver(&mut self, inbox: &str, channel: &ChannelName, sequence: u64, data: Bytes) {
        let subject = channel.to_bytes();
        let message = pb::MsgProto { sequence, subject, data, ..pb::MsgProto::default() };
        self.on_delivered(&Subject::from(inbox.to_owned()), &message);
    }

    fn broken(&self) -> Option<Promise> {
        self.violation().map(|violation| violation.promise)
    }
}

/// Goal: a checker that knows of so many messages of a channel, all of them told.
fn told(channel: &ChannelName, count: u64) -> Checker {
    let limits = StoreLimits::default().resolve().expect("no section is wrong");
    let mut checker = Checker::new(limits, Trace::new(false));
    checker.subscribe("reader", channel, None);
    for sequence in 1..=count {
        checker.publish(channel, sequence);
        checker.deliver("reader", channel, sequence, data(sequence));
    }
    checker
}

fn purge(checker: &mut Checker, extent: Extent, left: Option<(u64, u64)>) {
    checker.on_change_asked(1, &Matter::Purge { channel: orders(), extent });
    let state = |(first, last): (u64, u64)| ChannelState {
        first: Sequence(first),
        last: Sequence(last),
        message_count: last + 1 - first,
        byte_count: 0,
    };
    let ending = left.map_or(Ending::Unknown, |left| {
        Ending::Done(Outcome::Purged { removed: left.0 - 1, state: state(left) })
    });
    checker.on_change_ended(1, &ending);
}

fn audit(channel: &ChannelName, sequences: std::ops::RangeInclusive<u64>) -> Audit {
    let found = sequences.map(|sequence| (Sequence(sequence), data(sequence)));
    [(channel.clone(), found.collect())].into()
}

#[test]
fn what_was_purged_is_gone_and_nothing_else() {
    let broken = |extent, left, found| {
        let mut checker = told(&orders(), 9);
        purge(&mut checker, extent, left);
        checker.publish(&orders(), 10);
        checker.check_audit(&audit(&orders(), found));
        checker.broken()
    };
    let to = Extent::To(Sequence(4));
    assert_eq!(broken(to, Some((5, 9)), 5..=10), None);
    assert_eq!(broken(to, Some((5, 9)), 4..=10), Some(Promise::Changes), "one is back");
    assert_eq!(broken(to, Some((5, 9)), 6..=10), Some(Promise::P4), "one was not let go");
    assert_eq!(broken(to, Some((4, 9)), 4..=10), Some(Promise::Changes), "less than asked");
    assert_eq!(broken(to, Some((6, 9)), 6..=10), Some(Promise::Changes), "more than asked");
    // Nobody was told how it ended.
    assert_eq!(broken(to, None, 5..=10), None);
    assert_eq!(broken(to, None, 1..=10), None);
    assert_eq!(broken(to, None, 3..=10), Some(Promise::P4), "in part");
    assert_eq!(broken(Extent::Keep(2), None, 8..=10), None);
    assert_eq!(broken(Extent::Keep(2), None, 8..=9), Some(Promise::P1), "published later");
}

#[test]
fn an_empty_message_stands_in_where_everything_was_let_go() {
    let broken = |extent, left, at| {
        let mut checker = told(&orders(), 9);
        purge(&mut checker, extent, left);
        checker.subscribe("late", &orders(), None);
        checker.deliver("late", &orders(), at, Bytes::new());
        checker.broken()
    };
    assert_eq!(broken(Extent::All, Some((9, 9)), 9), None);
    assert_eq!(broken(Extent::All, None, 9), None);
    assert_eq!(broken(Extent::To(Sequence(4)), None, 9), Some(Promise::P4));
    assert_eq!(broken(Extent::To(Sequence(4)), Some((5, 9)), 5), Some(Promise::P4));
}

#[test]
fn a_durable_goes_on_where_it_was_reset_to() {
    let broken = |to, is_done, at| {
        let mut checker = told(&orders(), 9);
        checker.subscribe("first", &orders(), Some(&mine()));
        checker.on_change_asked(1, &Matter::Reset { key: mine(), to });
        let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
        checker.on_change_ended(1, &ending);
        checker.subscribe("second", &orders(), Some(&mine()));
        checker.deliver("second", &orders(), at, data(at));
        checker.broken()
    };
    let fourth = Position::At(Sequence(4));
    assert_eq!(broken(fourth, true, 4), None);
    assert_eq!(broken(fourth, true, 3), Some(Promise::Changes));
    assert_eq!(broken(fourth, false, 3), None, "nobody knows");
    assert_eq!(broken(Position::New, true, 9), Some(Promise::Changes));
    assert_eq!(broken(Position::First, true, 1), None);
}

#[test]
fn a_durable_is_owed_everything_from_where_it_was_reset_to() {
    let debt = |to, is_done| {
        let mut checker = told(&orders(), 9);
        checker.subscribe("first", &orders(), Some(&mine()));
        (1..=9).for_each(|at| checker.on_acknowledged(&Subject::from("first"), Sequence(at)));
        checker.set_now(Instant(1));
        checker.on_left(&Subject::from("first"));
        checker.on_change_asked(1, &Matter::Reset { key: mine(), to });
        let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
        checker.on_change_ended(1, &ending);
        checker.first_debt(&audit(&orders(), 1..=9))
    };
    let text = |at| Some(format!("orders:{at} for c1-mine"));
    assert_eq!(debt(Position::At(Sequence(4)), true), text(4));
    assert_eq!(debt(Position::First, true), text(1));
    assert_eq!(debt(Position::New, true), None);
    assert_eq!(debt(Position::At(Sequence(4)), false), None);
}

#[test]
fn nothing_comes_to_what_was_ended() {
    let broken = |matter: &Matter, is_done| {
        let mut checker = told(&orders(), 1);
        checker.subscribe("_INBOX.c1.1.sub.1", &orders(), None);
        checker.on_change_asked(1, matter);
        let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
        checker.on_change_ended(1, &ending);
        checker.publish(&orders(), 2);
        checker.deliver("_INBOX.c1.1.sub.1", &orders(), 2, data(2));
        checker.broken()
    };
    let closed = Matter::Subscription { inbox: Subject::from("_INBOX.c1.1.sub.1") };
    let client = Matter::Client { number: 1, life: 1 };
    let other = Matter::Client { number: 11, life: 1 };
    for (matter, is_done, expected) in [
        (&closed, true, Some(Promise::Changes)),
        (&closed, false, None),
        (&client, true, Some(Promise::Changes)),
        (&other, true, None),
    ] {
        assert_eq!(broken(matter, is_done), expected, "{matter:?}");
    }
}

fn closing() -> Matter {
    Matter::Subscription { inbox: Subject::from("_INBOX.c1.1.sub.1") }
}

/// Goal: what may have been ended, and was not, is held to all that it was held to before: a
/// client's refused end excuses no bound, and nothing that it is owed.
#[test]
fn a_refused_end_excuses_nothing() {
    let inbox = Subject::from("_INBOX.c1.1.sub.1");
    let asked_for = |ending: Option<Ending>, is_asked_first: bool| {
        let mut checker = told(&orders(), 1);
        if is_asked_first {
            checker.subscribe("_INBOX.c1.1.sub.1", &orders(), None);
        }
        let matter = Matter::Client { number: 1, life: 1 };
        let matter = if is_asked_first { closing() } else { matter };
        checker.on_change_asked(1, &matter);
        if !is_asked_first {
            checker.subscribe("_INBOX.c1.1.sub.1", &orders(), None);
        }
        ending.into_iter().for_each(|ending| checker.on_change_ended(1, &ending));
        checker
    };
    for is_asked_first in [true, false] {
        let debt = |ending, is_forgotten: bool| {
            let mut checker = asked_for(ending, is_asked_first);
            if is_forgotten {
                checker.deliver("_INBOX.c1.1.sub.1", &orders(), 1, data(1));
                checker.on_forgotten(&inbox, Sequence(1));
            }
            checker.first_debt(&audit(&orders(), 1..=1)).is_some()
        };
        for is_forgotten in [true, false] {
            assert!(debt(Some(Ending::Refused), is_forgotten), "{is_asked_first}");
            assert!(!debt(Some(Ending::Unknown), is_forgotten), "{is_asked_first}");
            assert!(!debt(None, is_forgotten), "{is_asked_first}");
        }
        // What it may have at once it may have whether it is to end or not.
        for ending in [None, Some(Ending::Refused), Some(Ending::Unknown)] {
            let mut checker = asked_for(ending, is_asked_first);
            for sequence in 2..=102 {
                checker.publish(&orders(), sequence);
                checker.deliver("_INBOX.c1.1.sub.1", &orders(), sequence, data(sequence));
            }
            assert_eq!(checker.broken(), Some(Promise::Subscriptions), "{is_asked_first}");
        }
    }
}

/// Goal: one change that is refused says nothing of another one that is not.
#[test]
fn one_refusal_says_nothing_of_another_change() {
    let mut checker = told(&orders(), 1);
    checker.subscribe("_INBOX.c1.1.sub.1", &orders(), None);
    checker.on_change_asked(1, &Matter::Client { number: 1, life: 1 });
    checker.on_change_ended(1, &Ending::Unknown);
    checker.on_change_asked(2, &closing());
    checker.on_change_ended(2, &Ending::Refused);
    assert_eq!(checker.first_debt(&audit(&orders(), 1..=1)), None);
    // It is known in that life later, so it was not closed.
    checker.on_known((1, 1), Instant(10_000_000_000));
    assert!(checker.first_debt(&audit(&orders(), 1..=1)).is_some());
}

/// Goal: a durable is where it was after a change of it was refused.
#[test]
fn a_refused_reset_excuses_nothing() {
    let broken = |ending: &Ending, at| {
        let mut checker = told(&orders(), 9);
        checker.subscribe("first", &orders(), Some(&mine()));
        let to = Position::At(Sequence(4));
        checker.on_change_asked(1, &Matter::Reset { key: mine(), to });
        checker.on_change_ended(1, &Ending::Done(Outcome::Gone));
        checker.on_change_asked(2, &Matter::Reset { key: mine(), to: Position::First });
        checker.on_change_ended(2, ending);
        checker.subscribe("second", &orders(), Some(&mine()));
        checker.deliver("second", &orders(), at, data(at));
        checker.broken()
    };
    assert_eq!(broken(&Ending::Refused, 3), Some(Promise::Changes));
    assert_eq!(broken(&Ending::Refused, 4), None);
    assert_eq!(broken(&Ending::Unknown, 3), None);
}

/// Goal: what a durable acknowledged and the server took comes again only if a change may have
/// been made by which it does.
#[test]
fn acknowledgements_count_unless_a_change_is_open() {
    let broken = |matter: Matter, ending: Option<Ending>, is_later: bool| {
        let mut checker = told(&orders(), 3);
        checker.on_linked(7, 0);
        checker.on_takeover(0);
        checker.subscribe("_INBOX.c1.1.sub.1", &orders(), Some(&mine()));
        checker.on_publish_sent(&data(90), &orders(), 7);
        checker.on_publish_stored(&data(90), &orders());
        checker.deliver("_INBOX.c1.1.sub.1", &orders(), 1, data(1));
        let acknowledge = |checker: &mut Checker| {
            let inbox = Subject::from("_INBOX.c1.1.sub.1");
            checker.on_ack_sent(&inbox, Sequence(1), 7);
            checker.on_publish_sent(&data(91), &orders(), 7);
            checker.on_publish_stored(&data(91), &orders());
        };
        if !is_later {
            acknowledge(&mut checker);
        }
        checker.on_change_asked(1, &matter);
        ending.into_iter().for_each(|ending| checker.on_change_ended(1, &ending));
        if is_later {
            acknowledge(&mut checker);
        }
        let sequence = Sequence(1);
        checker.taken(&Subject::from("_INBOX.c1.1.sub.1"), sequence).is_some()
    };
    let reset = || Matter::Reset { key: mine(), to: Position::First };
    for is_later in [false, true] {
        assert!(broken(reset(), Some(Ending::Refused), is_later));
        assert!(!broken(reset(), Some(Ending::Unknown), is_later));
        assert!(!broken(reset(), None, is_later));
    }
    assert!(broken(closing(), Some(Ending::Done(Outcome::Gone)), false), "it stays taken");
    assert!(!broken(reset(), Some(Ending::Done(Outcome::Gone)), false), "it was reset");
    assert!(broken(reset(), Some(Ending::Done(Outcome::Gone)), true));
}

/// Goal: a purge of which nobody knows lets go of nothing that was published when it was over.
#[test]
fn an_unknown_purge_takes_nothing_of_later() {
    let mut checker = told(&orders(), 3);
    purge(&mut checker, Extent::Keep(2), None);
    checker.publish(&orders(), 4);
    checker.deliver("reader", &orders(), 4, data(4));
    let may_be = |at| checker.may_be_purged(&orders(), Sequence(at));
    assert_eq!([may_be(1), may_be(3), may_be(4)], [true, true, false]);
}

/// Goal: a client is unknown in the lives in which it may have been closed, and in no others.
#[test]
fn a_client_is_unknown_only_in_a_life_in_which_it_may_be_closed() {
    let broken = |ending: Option<Ending>, life| {
        let limits = StoreLimits::default().resolve().expect("no section is wrong");
        let mut checker = Checker::new(limits, Trace::new(false)).calm(true);
        checker.on_life(1, 2);
        checker.on_change_asked(1, &Matter::Client { number: 1, life: 2 });
        ending.into_iter().for_each(|ending| checker.on_change_ended(1, &ending));
        checker.on_life(1, life);
        checker.on_unknown((1, life), Instant(1), || "unknown".to_owned());
        checker.broken().is_some()
    };
    assert!(!broken(None, 2) && !broken(Some(Ending::Unknown), 2));
    assert!(!broken(Some(Ending::Done(Outcome::Gone)), 2));
    assert!(broken(Some(Ending::Refused), 2));
    assert!(broken(Some(Ending::Unknown), 3));
}

#[test]
fn a_channel_is_deleted_with_all_that_it_held_or_not_at_all() {
    let dropped = ChannelName::from(DROPPED);
    let broken = |is_done, found: &[u64]| {
        let mut checker = told(&dropped, 3);
        checker.on_change_asked(1, &Matter::Drop);
        let ending = if is_done { Ending::Done(Outcome::Gone) } else { Ending::Unknown };
        checker.on_change_ended(1, &ending);
        checker.publish(&dropped, 4);
        let found = found.iter().map(|at| (Sequence(*at), data(*at)));
        checker.check_audit(&[(dropped.clone(), found.collect())].into());
        checker.broken()
    };
    assert_eq!(broken(true, &[4]), None);
    assert_eq!(broken(true, &[3, 4]), Some(Promise::Changes));
    assert_eq!(broken(false, &[1, 2, 3, 4]), None);
    assert_eq!(broken(false, &[4]), None);
    assert_eq!(broken(false, &[2, 3, 4]), Some(Promise::Changes), "in part");
    assert_eq!(broken(true, &[]), Some(Promise::P1), "published later");
}
