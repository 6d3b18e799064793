//! A hand-over between engines that have much: what is left goes in portions and in its order, and
//! nothing that a successor delivers overtakes what its predecessor has delivered.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::ledger_tests::{again, begin, end, hang_up, heard, member, payloads, say};
use super::route_tests::{carry, join};
use super::tests::{Process, post};
use super::*;
use crate::base::epoch::Epoch;
use crate::base::id::Subject;
use crate::base::limits::{HEARD_OUT_WITHIN, PREDECESSOR_ENDS_WITHIN};

/// Nothing but portions.
const A_MOMENT: Duration = Duration::from_millis(1);

fn publish(process: &mut Process, home: u16, payload: &str) {
    let now = process.now;
    let post = post("inbox", payload.as_bytes());
    process.loops[usize::from(home)].publish(&post, None, now);
    process.settle();
}

fn is_resumed(process: &Process, id: SessionId) -> bool {
    let resumes = |effect: &Effect| matches!(effect, Effect::Resume { session } if *session == id);
    process.effects.iter().any(resumes)
}

/// Goal: what a former active has delivered comes to a client of another member before what its
/// successor delivers, by whichever route it comes first; who hangs is waited for a moment only.
#[test]
fn nothing_that_a_successor_delivers_overtakes_its_predecessor() {
    for (loops, has_ended) in [(1, true), (2, true), (1, false)] {
        let [mut ours, mut first, mut second] = ["a", "b", "c"].map(|name| member(loops, name));
        let (to_first, at_first) = join(&mut ours, &mut first);
        let (to_second, at_second) = join(&mut ours, &mut second);
        let client = ours.client(loops - 1, "");
        ours.send(client, b"SUB inbox 1\r\n");
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        carry(&mut ours, to_second, &mut second, at_second);
        publish(&mut first, loops - 1, "1");
        let mut under_way = first.take(at_first);
        end(&mut first);
        under_way.push_str(&first.take(at_first));
        begin(&mut second, 2, false);
        publish(&mut second, loops - 1, "2");
        let now = second.now;
        second.loops[0].handle(Input::Ready { epoch: Epoch(2) }, now);
        second.settle();
        carry(&mut ours, to_second, &mut second, at_second);
        assert_eq!(ours.take(client), "");
        assert_eq!(ours.flows[&to_second], Flow::Paused);
        if has_ended {
            ours.send(to_first, under_way.as_bytes());
        } else {
            ours.pass(PREDECESSOR_ENDS_WITHIN);
        }
        assert!(is_resumed(&ours, to_second));
        ours.read(to_second);
        let expected = if has_ended { "MSG inbox 1 1\r\n1\r\n" } else { "" };
        assert_eq!(ours.take(client), format!("{expected}MSG inbox 1 1\r\n2\r\n"));
        say(&mut ours, client, "pub.a", "served");
        carry(&mut ours, to_second, &mut second, at_second);
        assert_eq!(payloads(&heard(&mut second)), ["served"]);
    }
}

/// Goal: as long as something of a former active comes it is waited for, but not for ever.
#[test]
fn who_still_says_something_is_waited_for_longer() {
    let [mut ours, mut first, mut second] = ["a", "b", "c"].map(|name| member(1, name));
    let (to_first, at_first) = join(&mut ours, &mut first);
    let (to_second, at_second) = join(&mut ours, &mut second);
    let client = ours.client(0, "");
    ours.send(client, b"SUB inbox 1\r\n");
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    begin(&mut second, 2, true);
    carry(&mut ours, to_second, &mut second, at_second);
    publish(&mut second, 0, "2");
    carry(&mut ours, to_second, &mut second, at_second);
    let step = PREDECESSOR_ENDS_WITHIN - Duration::from_millis(50);
    for _ in 1..HEARD_OUT_WITHIN.as_millis() / step.as_millis() {
        ours.pass(step);
        assert!(!is_resumed(&ours, to_second));
        ours.send(to_first, b"RMSG $G inbox 1\r\n1\r\n");
    }
    ours.pass(step);
    assert!(is_resumed(&ours, to_second));
}

/// Goal: engines of this process deliver nothing before what their predecessor has delivered has
/// come by its route, and then they do.
#[test]
fn engines_here_deliver_when_their_predecessor_is_heard_out() {
    for (loops, has_ended) in [(1, true), (2, true), (2, false)] {
        let [mut ours, mut first] = ["a", "b"].map(|name| member(loops, name));
        let (to_first, at_first) = join(&mut ours, &mut first);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        end(&mut first);
        let last_words = first.take(at_first);
        begin(&mut ours, 2, true);
        let inbox = Subject::from("inbox");
        ours.loops[usize::from(loops) - 1].watch(7, AccountIndex::GLOBAL, &inbox);
        ours.settle();
        let rooms = |process: &Process| -> Vec<bool> {
            let room = |effect: &Effect| {
                let Effect::Room { key: 7, has_room } = effect else { return None };
                Some(*has_room)
            };
            process.effects.iter().filter_map(room).collect()
        };
        assert_eq!(rooms(&ours), [false]);
        if has_ended {
            ours.send(to_first, last_words.as_bytes());
            carry(&mut ours, to_first, &mut first, at_first);
        } else {
            ours.pass(PREDECESSOR_ENDS_WITHIN);
        }
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours), [false, true]);
        ours.loops[0].watch(8, AccountIndex::GLOBAL, &inbox);
        ours.settle();
        let is_room = |effect: &Effect| matches!(effect, Effect::Room { key: 8, has_room: true });
        assert!(ours.effects.iter().any(is_room));
    }
}

/// Goal: what a client has sent while nobody served comes to the successor in portions and in its
/// order, and what it sends meanwhile behind it; so it is if another one serves before that.
#[test]
fn what_is_left_is_said_in_portions_and_in_order() {
    const COUNT: usize = 40_000;
    for (loops, is_here) in [(1, false), (2, false), (1, true), (2, true)] {
        let [mut ours, mut second, mut third] = ["a", "b", "c"].map(|name| member(loops, name));
        let mut first = member(1, "d");
        let (to_first, at_first) = join(&mut ours, &mut first);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        hang_up(&mut ours, to_first);
        let client = ours.client(loops - 1, "");
        (0..COUNT).for_each(|n| say(&mut ours, client, "pub.a", &n.to_string()));
        let (to_second, at_second) = join(&mut ours, &mut second);
        // It has to be told all that is wanted here before it gets anything.
        ours.pass(A_MOMENT);
        carry(&mut ours, to_second, &mut second, at_second);
        begin(&mut second, 2, true);
        let told = second.take(at_second);
        ours.send(to_second, told.as_bytes());
        let said = ours.take(to_second);
        let begun = said.matches("KMSG ").count();
        assert!(0 < begun && begun < COUNT, "{begun} in one turn");
        say(&mut ours, client, "pub.a", "meanwhile");
        if is_here {
            hang_up(&mut ours, to_second);
            begin(&mut ours, 3, true);
            let taken = heard(&mut ours);
            let count = taken.len();
            assert!((1..COUNT).contains(&count), "{count} in one turn");
            say(&mut ours, client, "pub.a", "behind");
            ours.pass(A_MOMENT);
            say(&mut ours, client, "pub.a", "at once");
            let more = heard(&mut ours);
            let all: Vec<_> = taken.into_iter().chain(more).collect();
            let last: Vec<_> = payloads(&all)[COUNT..].to_vec();
            assert_eq!(last, ["meanwhile", "behind", "at once"]);
            assert_eq!(again(&all[..COUNT]), is_again(begun, COUNT));
            assert!(all[..COUNT].iter().zip(0..).all(|((found, _), n)| *found == n.to_string()));
            continue;
        }
        hang_up(&mut ours, to_second);
        let (to_third, at_third) = join(&mut ours, &mut third);
        begin(&mut third, 3, true);
        carry(&mut ours, to_third, &mut third, at_third);
        say(&mut ours, client, "pub.a", "behind");
        ours.pass(A_MOMENT);
        say(&mut ours, client, "pub.a", "at once");
        carry(&mut ours, to_third, &mut third, at_third);
        let all = heard(&mut third);
        assert_eq!(payloads(&all)[COUNT..], ["meanwhile", "behind", "at once"]);
        assert_eq!(again(&all[..COUNT]), is_again(begun, COUNT));
        assert!(all[..COUNT].iter().zip(0..).all(|((found, _), n)| *found == n.to_string()));
    }
}

fn is_again(begun: usize, count: usize) -> Vec<bool> {
    (0..count).map(|n| n < begun).collect()
}

/// Goal: the end of engines with very many subscriptions is no turn that others wait for, and at no
/// moment is what clients send for them unheard.
#[test]
fn the_end_of_very_many_subscriptions_is_done_in_portions() {
    const COUNT: usize = 20_000;
    for is_planned in [true, false] {
        let [mut ours, mut second] = ["a", "b"].map(|name| member(2, name));
        let (to_second, at_second) = join(&mut ours, &mut second);
        let epoch = Epoch(1);
        for n in 0..COUNT {
            ours.loops[1].listen(&Subject::from(format!("ack.{n}")), of_subscription(1, n, 1));
        }
        begin(&mut ours, 1, true);
        carry(&mut ours, to_second, &mut second, at_second);
        let now = ours.now;
        if is_planned {
            let letters = letters_of(&mut ours, 0, Input::Park { epoch });
            assert!(letters < 4_096, "{letters} in one turn");
            ours.loops[1].handle(Input::Park { epoch }, now);
            ours.settle();
        }
        for home in [0, 1] {
            let letters = letters_of(&mut ours, home, Input::EngineGone);
            assert!(letters < 4_096, "{letters} in one turn");
        }
        let client = ours.client(0, "");
        say(&mut ours, client, &format!("ack.{}", COUNT - 1), "early");
        ours.pass(A_MOMENT);
        assert!(ours.loops.iter().all(|broker| broker.backlog.retiring.is_empty()));
        say(&mut ours, client, &format!("ack.{}", COUNT / 2), "late");
        for n in [COUNT - 1, COUNT / 2] {
            second.loops[0].listen(&Subject::from(format!("ack.{n}")), of_subscription(0, n, 2));
        }
        begin(&mut second, 2, true);
        carry(&mut ours, to_second, &mut second, at_second);
        assert_eq!(payloads(&heard(&mut second)), ["early", "late"]);
        let asked = Subject::from("ack.7");
        let is_kept = |broker: &mut Broker| {
            let matched = broker.accounts[AccountIndex::GLOBAL].matches(asked.as_bytes());
            matched.is_some_and(|matched| !matched.kept.is_empty())
        };
        ours.pass(A_MOMENT);
        assert!(!ours.loops.iter_mut().any(is_kept), "somebody else serves");
    }
}

fn of_subscription(engine: u16, number: usize, epoch: u64) -> EngineInterest {
    EngineInterest {
        engine: LoopIndex(engine),
        account: AccountIndex::GLOBAL,
        key: 100 + number as u64,
        credit: Credit::Free,
        is_brief: true,
        keeper: Some(Epoch(epoch)),
    }
}

/// Gives a loop one input; says how many letters it makes at once.
fn letters_of(process: &mut Process, home: usize, input: Input) -> usize {
    let now = process.now;
    process.loops[home].handle(input, now);
    let letters = process.loops[home].effects.iter();
    let count = letters.filter(|effect| matches!(effect, Effect::Mail { .. })).count();
    process.settle();
    count
}
