//! What clients send for engines while these come and go: whole servers, driven by hand.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::route_tests::{carry, join, route_to, server};
use super::tests::Process;
use super::*;
use crate::base::epoch::Epoch;
use crate::base::errand::{Again, Errand, Finished, Keeper};
use crate::base::id::Subject;
use crate::base::limits::{
    LEDGER_SESSION_BYTES_MAX, OUTFLOW_WITHIN, PARKED_FOR, PREDECESSOR_ENDS_WITHIN,
};
use crate::wire::connect::LEDGER_VERSION;

/// A member of the group.
pub(super) fn member(loops: u16, name: &str) -> Process {
    server(loops, name, |settings, _| settings.group = "test/group".to_owned())
}

/// Engines of all loops begin to serve under an epoch, if they do so whole.
pub(super) fn begin(process: &mut Process, epoch: u64, is_whole: bool) {
    let now = process.now;
    for (engine, broker) in (0..).map(LoopIndex).zip(&mut process.loops) {
        let interest = |key, credit, keeper| EngineInterest {
            engine,
            account: AccountIndex::GLOBAL,
            key,
            credit,
            is_brief: true,
            keeper,
        };
        let keeper = Some(Epoch(epoch));
        broker.listen(&Subject::from("beat"), interest(1, Credit::Free, None));
        broker.listen(&Subject::from("sub.x"), interest(2, Credit::Requests, keeper));
        broker.listen(&Subject::from("pub.>"), interest(3, Credit::Messages, keeper));
        if engine.0 == 0 {
            broker.listen(&Subject::from("ack.1"), interest(4, Credit::Free, keeper));
        }
    }
    process.settle();
    if is_whole {
        process.loops[0].handle(Input::Ready { epoch: Epoch(epoch) }, now);
        process.settle();
    }
}

pub(super) fn end(process: &mut Process) {
    let now = process.now;
    for broker in &mut process.loops {
        broker.handle(Input::EngineGone, now);
    }
    process.settle();
}

/// What engines of a process were given, and who keeps it.
pub(super) fn heard(process: &mut Process) -> Vec<(String, Option<Errand>)> {
    let given = process.effects.drain(..).filter_map(|effect| {
        let Effect::ToEngine(delivery) = effect else { return None };
        Some((String::from_utf8_lossy(&delivery.payload).into_owned(), delivery.errand))
    });
    given.collect()
}

pub(super) fn payloads(heard: &[(String, Option<Errand>)]) -> Vec<&str> {
    heard.iter().map(|(payload, _)| &payload[..]).collect()
}

pub(super) fn again(heard: &[(String, Option<Errand>)]) -> Vec<bool> {
    heard.iter().map(|(_, errand)| errand.unwrap().again != Again::First).collect()
}

pub(super) fn say(process: &mut Process, client: SessionId, subject: &str, payload: &str) {
    let line = format!("PUB {subject} re {}\r\n{payload}\r\n", payload.len());
    process.send(client, line.as_bytes());
}

pub(super) fn done(process: &mut Process, home: u16, errands: &[(String, Option<Errand>)]) {
    finish(process, home, errands, false);
}

/// The same of publishes, of which none may be in the store.
pub(super) fn finish(
    process: &mut Process,
    home: u16,
    errands: &[(String, Option<Errand>)],
    is_unstored: bool,
) {
    let finished = |errand: Errand| Finished { errand, is_unstored };
    let done = errands.iter().filter_map(|(_, errand)| errand.map(finished)).collect();
    let now = process.now;
    process.loops[usize::from(home)].handle(Input::Done(done), now);
    process.settle();
}

pub(super) fn hang_up(process: &mut Process, route: SessionId) {
    let now = process.now;
    process.loops[0].closed(route, "Client Closed", now);
    process.settle();
}

/// Goal: what an active that dies had not done its successor gets, in order, and before whatever is
/// said later; what was done it does not get.
#[test]
fn a_successor_gets_what_a_dead_active_had_not_done() {
    for loops in [1, 2] {
        let [mut ours, mut first, mut second] = ["a", "b", "c"].map(|name| member(loops, name));
        let (to_first, at_first) = join(&mut ours, &mut first);
        let (to_second, at_second) = join(&mut ours, &mut second);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        let clients = [ours.client(0, ""), ours.client(loops - 1, "")];
        for (client, name) in clients.into_iter().zip(["x", "y"]) {
            say(&mut ours, client, "pub.a", &format!("{name}1"));
            say(&mut ours, client, "sub.x", &format!("{name}2"));
            say(&mut ours, client, "ack.1", &format!("{name}3"));
        }
        carry(&mut ours, to_first, &mut first, at_first);
        let taken = heard(&mut first);
        assert_eq!(payloads(&taken), ["x1", "x2", "x3", "y1", "y2", "y3"]);
        assert_eq!(again(&taken), [false; 6]);
        // Of the first client two are done, of the other one only the last.
        done(&mut first, loops - 1, &[taken[1].clone(), taken[5].clone(), taken[0].clone()]);
        carry(&mut ours, to_first, &mut first, at_first);
        hang_up(&mut ours, to_first);
        say(&mut ours, clients[0], "pub.a", "x4");
        assert_eq!(ours.take(to_second), "", "nobody serves");
        begin(&mut second, 2, false);
        carry(&mut ours, to_second, &mut second, at_second);
        say(&mut ours, clients[0], "sub.x", "x5");
        carry(&mut ours, to_second, &mut second, at_second);
        assert_eq!(payloads(&heard(&mut second)), [""; 0], "it has not said all");
        let now = second.now;
        second.loops[0].handle(Input::Ready { epoch: Epoch(2) }, now);
        second.settle();
        carry(&mut ours, to_second, &mut second, at_second);
        say(&mut ours, clients[0], "pub.a", "x6");
        carry(&mut ours, to_second, &mut second, at_second);
        let taken = heard(&mut second);
        let of = |name: &str| -> Vec<(String, Option<Errand>)> {
            taken.iter().filter(|(payload, _)| payload.starts_with(name)).cloned().collect()
        };
        assert_eq!(payloads(&of("x")), ["x3", "x4", "x5", "x6"]);
        assert_eq!(again(&of("x")), [true, false, false, false]);
        assert_eq!(payloads(&of("y")), ["y1", "y2"]);
        assert_eq!(again(&of("y")), [true; 2]);
    }
}

/// Goal: a successor in this very process gets it too, and only requests stay until they are done.
#[test]
fn engines_of_this_process_get_what_is_left() {
    for loops in [1, 2] {
        let (mut ours, mut first) = (member(loops, "a"), member(loops, "b"));
        let (to_first, at_first) = join(&mut ours, &mut first);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        let client = ours.client(loops - 1, "");
        say(&mut ours, client, "pub.a", "1");
        say(&mut ours, client, "sub.x", "2");
        hang_up(&mut ours, to_first);
        begin(&mut ours, 2, true);
        say(&mut ours, client, "pub.a", "3");
        let taken = heard(&mut ours);
        assert_eq!(payloads(&taken), ["1", "2", "3"]);
        let errands = taken.iter().filter_map(|(_, errand)| *errand);
        let found: Vec<_> = errands.map(|one| (one.keeper, one.again)).collect();
        assert_eq!(
            found,
            [(Keeper::Own, Again::Perhaps); 2],
            "what was taken before is never refused"
        );
        // It hands over: what it had begun and not done goes to whoever comes next.
        say(&mut ours, client, "sub.x", "4");
        let more = heard(&mut ours);
        done(&mut ours, 0, &taken);
        end(&mut ours);
        say(&mut ours, client, "pub.a", "5");
        assert_eq!(payloads(&heard(&mut ours)), [""; 0]);
        let mut second = member(loops, "c");
        let (to_second, at_second) = join(&mut ours, &mut second);
        begin(&mut second, 3, true);
        carry(&mut ours, to_second, &mut second, at_second);
        let taken = heard(&mut second);
        assert_eq!(payloads(&taken), ["4", "5"]);
        assert_eq!(again(&taken), [true, false]);
        assert_eq!(payloads(&more), ["4"]);
    }
}

/// Goal: from the moment on when engines are closed, what clients say goes to nobody but their
/// successor; what they have taken they finish and mark, and then nothing comes again.
#[test]
fn a_planned_hand_over_gives_each_input_to_one_engine() {
    for loops in [1, 2] {
        let [mut ours, mut first, mut second] = ["a", "b", "c"].map(|name| member(loops, name));
        let (to_first, at_first) = join(&mut ours, &mut first);
        let (to_second, at_second) = join(&mut ours, &mut second);
        let (from_first, from_second) = join(&mut first, &mut second);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        let (far, near) = (ours.client(loops - 1, ""), first.client(loops - 1, ""));
        say(&mut ours, far, "pub.a", "far 1");
        say(&mut first, near, "pub.a", "near 1");
        carry(&mut ours, to_first, &mut first, at_first);
        let taken = heard(&mut first);
        assert_eq!(payloads(&taken), ["near 1", "far 1"]);
        let now = first.now;
        for broker in first.loops.iter_mut().rev() {
            broker.handle(Input::Park { epoch: Epoch(1) }, now);
        }
        first.settle();
        say(&mut ours, far, "pub.a", "far 2");
        say(&mut first, near, "sub.x", "near 2");
        carry(&mut ours, to_first, &mut first, at_first);
        say(&mut ours, far, "pub.a", "far 3");
        carry(&mut ours, to_first, &mut first, at_first);
        assert_eq!(payloads(&heard(&mut first)), [""; 0], "they take nothing more");
        done(&mut first, 0, &taken);
        let marks = first.take(at_first);
        end(&mut first);
        begin(&mut second, 2, true);
        carry(&mut ours, to_second, &mut second, at_second);
        carry(&mut first, from_first, &mut second, from_second);
        assert_eq!(
            payloads(&heard(&mut second)),
            ["near 2"],
            "of the other one the end is awaited"
        );
        ours.send(to_first, marks.as_bytes());
        carry(&mut ours, to_first, &mut first, at_first);
        carry(&mut ours, to_second, &mut second, at_second);
        assert_eq!(payloads(&heard(&mut second)), ["far 2", "far 3"]);
    }
}

/// Goal: a planned end waits until what engines have answered is on the sockets, for a while.
#[test]
fn an_end_waits_for_the_answers_to_leave() {
    let mut process = member(1, "a");
    begin(&mut process, 1, true);
    let client = process.client(0, "");
    process.send(client, b"SUB re 1\r\n");
    let now = process.now;
    let is_outflown = |process: &Process| {
        let flows = |effect: &Effect| matches!(effect, Effect::Outflown { token: 7 });
        process.effects.iter().any(flows)
    };
    for is_read in [true, false] {
        process.effects.clear();
        process.loops[0].publish(&super::tests::post("re", b"ok"), None, now);
        process.loops[0].handle(Input::Outflow { token: 7 }, now);
        process.settle();
        assert!(!is_outflown(&process));
        if is_read {
            process.take(client);
            process.loops[0].wrote(client);
        } else {
            process.pass(OUTFLOW_WITHIN);
        }
        process.settle();
        assert!(is_outflown(&process));
    }
}

/// Goal: who ends while another member serves reads no more of what clients send for engines, and
/// says so when all that was read is done.
#[test]
fn an_end_sees_through_what_was_read() {
    for loops in [1, 2] {
        let [mut ours, mut first] = ["a", "b"].map(|name| member(loops, name));
        let (to_first, at_first) = join(&mut ours, &mut first);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        let client = ours.client(loops - 1, "");
        say(&mut ours, client, "pub.a", "read");
        let now = ours.now;
        for broker in &mut ours.loops {
            broker.handle(Input::SeeThrough { token: 7 }, now);
        }
        ours.settle();
        let through = |process: &Process| {
            let is_it = |effect: &&Effect| matches!(effect, Effect::Through { token: 7 });
            process.effects.iter().filter(is_it).count()
        };
        assert_eq!(through(&ours), usize::from(loops) - 1, "loops without clients are through");
        say(&mut ours, client, "pub.a", "not read");
        carry(&mut ours, to_first, &mut first, at_first);
        let taken = heard(&mut first);
        assert_eq!(payloads(&taken), ["read"]);
        done(&mut first, 0, &taken);
        carry(&mut ours, to_first, &mut first, at_first);
        assert_eq!(through(&ours), usize::from(loops));
        ours.read(client);
        assert_eq!(ours.flows[&client], Flow::Paused, "it stays so until the process ends");
    }
}

/// Goal: a mark goes behind the answers, says each thing that is done once, and once a turn.
#[test]
fn marks_are_told_together_and_behind_the_answers() {
    let (mut ours, mut first) = (member(1, "a"), member(2, "b"));
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 7, true);
    carry(&mut ours, to_first, &mut first, at_first);
    let client = ours.client(0, "");
    ours.send(client, b"SUB re 1\r\n");
    (0..4).for_each(|n| say(&mut ours, client, "pub.a", &n.to_string()));
    carry(&mut ours, to_first, &mut first, at_first);
    let taken = heard(&mut first);
    let ledger = taken[0].1.unwrap().ledger;
    done(&mut first, 1, &[taken[2].clone()]);
    assert_eq!(first.take(at_first), format!("DONE 7 {ledger} =3\r\n"), "behind a gap");
    done(&mut first, 1, &[taken[0].clone()]);
    let now = first.now;
    first.loops[1].publish(&super::tests::post("re", b"ok"), None, now);
    first.settle();
    done(&mut first, 1, &[taken[1].clone()]);
    let said = first.take(at_first);
    assert_eq!(said, format!("RMSG $G re 2\r\nok\r\nDONE 7 {ledger} 3\r\n"));
}

/// Goal: what was said to a member under its former epoch it does not take under the next one,
/// unless it is told again; nor twice by two routes.
#[test]
fn nothing_is_taken_twice() {
    let (mut ours, mut first) = (member(1, "a"), member(1, "b"));
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    let client = ours.client(0, "");
    say(&mut ours, client, "pub.a", "1");
    let carried = ours.take(to_first);
    end(&mut first);
    begin(&mut first, 2, true);
    first.send(at_first, carried.as_bytes());
    assert_eq!(payloads(&heard(&mut first)), [""; 0], "it was for the former engines");
    carry(&mut ours, to_first, &mut first, at_first);
    let taken = heard(&mut first);
    assert_eq!((payloads(&taken), again(&taken)), (vec!["1"], vec![true]));
    say(&mut ours, client, "pub.a", "2");
    carry(&mut ours, to_first, &mut first, at_first);
    // The route breaks and comes back: the same engines have both.
    hang_up(&mut ours, to_first);
    hang_up(&mut first, at_first);
    let (to_first, at_first) = join(&mut ours, &mut first);
    say(&mut ours, client, "pub.a", "3");
    carry(&mut ours, to_first, &mut first, at_first);
    let more = heard(&mut first);
    assert_eq!(payloads(&more), ["2", "3"]);
    done(&mut first, 0, &[taken[0].clone(), more[0].clone(), more[1].clone()]);
    // Nobody can tell by which route they have answered these.
    let repeated = heard(&mut first);
    assert_eq!((payloads(&repeated), again(&repeated)), (vec!["1", "2"], vec![true; 2]));
    done(&mut first, 0, &repeated);
    let said = first.take(at_first);
    assert!(said.ends_with(" 3\r\n") && said.starts_with("DONE 2 "), "{said}");
}

/// Goal: a successor waits for the last words of a predecessor that is still there, for a while.
#[test]
fn a_successor_waits_for_the_last_word_of_its_predecessor() {
    for has_ended in [true, false] {
        let [mut ours, mut first, mut second] = ["a", "b", "c"].map(|name| member(1, name));
        let (to_first, at_first) = join(&mut ours, &mut first);
        let (to_second, at_second) = join(&mut ours, &mut second);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        let client = ours.client(0, "");
        say(&mut ours, client, "pub.a", "1");
        say(&mut ours, client, "pub.a", "2");
        carry(&mut ours, to_first, &mut first, at_first);
        let taken = heard(&mut first);
        done(&mut first, 0, &taken[..1]);
        let mut last_words = first.take(at_first);
        end(&mut first);
        last_words.push_str(&first.take(at_first));
        begin(&mut second, 2, true);
        carry(&mut ours, to_second, &mut second, at_second);
        assert_eq!(payloads(&heard(&mut second)), [""; 0]);
        if has_ended {
            ours.send(to_first, last_words.as_bytes());
        } else {
            ours.pass(PREDECESSOR_ENDS_WITHIN);
        }
        carry(&mut ours, to_second, &mut second, at_second);
        let expected: &[&str] = if has_ended { &["2"] } else { &["1", "2"] };
        assert_eq!(payloads(&heard(&mut second)), expected);
    }
}

/// Goal: who sends too much while nobody serves is not read, and a route always is; what nobody
/// comes for is dropped at last, and the log says so.
#[test]
fn what_is_kept_is_bounded_in_bytes_and_time() {
    let (mut ours, mut first) = (member(1, "a"), member(1, "b"));
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    hang_up(&mut ours, to_first);
    let (client, other) = (ours.client(0, ""), ours.client(0, ""));
    let payload = "x".repeat(1024 * 1024 - 1024);
    let mut count = 0;
    while ours.flows.get(&client) != Some(&Flow::Paused) {
        say(&mut ours, client, "pub.a", &payload);
        count += 1;
    }
    assert_eq!(count - 2, LEDGER_SESSION_BYTES_MAX / payload.len());
    say(&mut ours, other, "pub.a", "other");
    assert_eq!(ours.flows[&other], Flow::NeedMore);
    ours.effects.clear();
    ours.pass(PARKED_FOR - Duration::from_millis(1));
    let is_resumed = |process: &Process| {
        let resumes = |effect: &Effect| matches!(effect, Effect::Resume { .. });
        process.effects.iter().any(resumes)
    };
    assert!(!is_resumed(&ours));
    ours.pass(Duration::from_millis(1));
    assert!(is_resumed(&ours));
    let is_said = |effect: &Effect| format!("{effect:?}").contains("are dropped");
    assert!(ours.effects.iter().any(is_said));
    ours.read(client);
    hang_up(&mut first, at_first);
    begin(&mut first, 2, true);
    let (to_first, at_first) = join(&mut ours, &mut first);
    say(&mut ours, client, "pub.a", "late");
    carry(&mut ours, to_first, &mut first, at_first);
    assert_eq!(payloads(&heard(&mut first)), ["late"]);
}

/// Goal: who is no member of the group hears what it always has, and its messages come as ever.
#[test]
fn others_hear_nothing_of_it() {
    let mut first = member(1, "b");
    let mut other = server(1, "c", |_, _| ());
    let (to_first, at_first) = join(&mut other, &mut first);
    begin(&mut first, 1, true);
    let said = first.take(at_first);
    for subject in ["beat", "sub.x", "pub.>", "ack.1"] {
        assert_eq!(said.matches(&format!("RS+ $G {subject}\r\n")).count(), 1, "{said}");
    }
    assert!(!said.contains("SE"), "{said}");
    other.send(to_first, said.as_bytes());
    carry(&mut other, to_first, &mut first, at_first);
    let client = other.client(0, "");
    say(&mut other, client, "pub.a", "1");
    carry(&mut other, to_first, &mut first, at_first);
    assert_eq!(heard(&mut first), [("1".to_owned(), None)]);
    let (near, theirs) = (first.client(0, ""), other.client(0, ""));
    first.send(near, b"SUB pub.> 1\r\nUNSUB 1\r\n");
    assert_eq!(first.take(at_first), "", "the engine still listens");
    end(&mut first);
    let said = first.take(at_first);
    assert!(said.contains("RS- $G pub.>\r\n") && !said.contains("SE"), "{said}");
    other.send(theirs, b"SUB x 1\r\n");
    carry(&mut other, to_first, &mut first, at_first);
}

/// Goal: nonsense of a member ends its route or is passed over, and nothing is lost by it.
#[test]
fn nonsense_of_a_peer_loses_nothing() {
    let (mut ours, mut first) = (member(2, "a"), member(1, "b"));
    let client = ours.client(1, "");
    for (nonsense, ends) in [
        ("DONE 1 281474976710657 999\r\n", false),
        ("DONE 9 281474976710657 1\r\n", false),
        ("DONE 1 281474976710699 1\r\n", false),
        ("DONE 1 1970324836974593 1\r\n", true),
        ("DONE 1\r\n", true),
        ("DONE 1 1 x\r\n", true),
        ("DONE 1 1 =\r\n", true),
        ("DONE 1 281474976710657 =999\r\n", false),
        ("KEPT 1 1\r\n", true),
        ("KEPT 1 1 18446744073709551616\r\n", true),
        ("KMSG $G a 0\r\n\r\n", true),
        ("KMSG $G 0\r\n\r\n", true),
        ("KEPT 1 1 1\r\nPING\r\n", false),
        ("KEPT 1 1 9\r\nKMSG $G a 0\r\n\r\nKEPT 1 1 2\r\nKMSG $G a 0\r\n\r\n", false),
        ("KEPT 1 1 18446744073709551615\r\nKMSG $G a 0\r\n\r\nKMSG $G a 0\r\n\r\n", false),
        ("SE+ 0 $G bad..subject\r\n", false),
        ("SE+ x $G a\r\n", true),
        ("SE= 1 soon\r\n", true),
        ("SE= 5 ready\r\n", false),
        ("SE- 5 $G pub.>\r\n", false),
    ] {
        let (to_first, at_first) = join(&mut ours, &mut first);
        ours.send(to_first, nonsense.as_bytes());
        assert_eq!(ours.is_open(to_first), !ends, "{nonsense}");
        hang_up(&mut ours, to_first);
        hang_up(&mut first, at_first);
    }
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    say(&mut ours, client, "pub.a", "kept");
    // A mark beyond what there is covers what was said, and nothing that is said later.
    ours.take(to_first);
    ours.send(to_first, b"DONE 1 281474976710657 999\r\n");
    say(&mut ours, client, "pub.a", "later");
    hang_up(&mut ours, to_first);
    hang_up(&mut first, at_first);
    end(&mut first);
    begin(&mut first, 2, true);
    join(&mut ours, &mut first);
    assert_eq!(payloads(&heard(&mut first)), ["later"]);
}

/// Goal: what is done for a member whose route is gone is told to nobody else.
#[test]
fn a_mark_is_told_to_nobody_but_whose_ledger_it_is() {
    let [mut gone, mut other, mut first] = ["a", "b", "c"].map(|name| member(1, name));
    let (gone_to_first, at_first_gone) = join(&mut gone, &mut first);
    let (to_first, at_first) = join(&mut other, &mut first);
    begin(&mut first, 1, true);
    carry(&mut gone, gone_to_first, &mut first, at_first_gone);
    carry(&mut other, to_first, &mut first, at_first);
    let (theirs, client) = (gone.client(0, ""), other.client(0, ""));
    (1..=3).for_each(|n| say(&mut gone, theirs, "pub.a", &format!("gone {n}")));
    (1..=3).for_each(|n| say(&mut other, client, "pub.a", &format!("other {n}")));
    carry(&mut gone, gone_to_first, &mut first, at_first_gone);
    carry(&mut other, to_first, &mut first, at_first);
    let taken = heard(&mut first);
    assert_eq!(taken.len(), 6);
    hang_up(&mut first, at_first_gone);
    // All three of the member that is gone, and the first one of the other.
    done(&mut first, 0, &taken[..4]);
    let said = first.take(at_first);
    let ledger = taken[3].1.unwrap().ledger;
    assert_eq!(said, format!("DONE 1 {ledger} 1\r\n"));
}

/// Goal: a successor that waits for the last word of its predecessor loses nothing of what another
/// member, which waits for nobody, sends it meanwhile.
#[test]
fn what_comes_while_a_predecessor_is_awaited_is_not_lost() {
    let [mut ours, mut first, mut second] = ["a", "b", "c"].map(|name| member(1, name));
    let (to_second, at_second) = join(&mut ours, &mut second);
    let (from_first, from_second) = join(&mut first, &mut second);
    begin(&mut first, 1, true);
    carry(&mut first, from_first, &mut second, from_second);
    // The former active says nothing more; its route to the successor is still there.
    begin(&mut second, 2, true);
    carry(&mut ours, to_second, &mut second, at_second);
    let client = ours.client(0, "");
    say(&mut ours, client, "pub.a", "1");
    carry(&mut ours, to_second, &mut second, at_second);
    second.pass(PREDECESSOR_ENDS_WITHIN);
    carry(&mut ours, to_second, &mut second, at_second);
    assert_eq!(payloads(&heard(&mut second)), ["1"]);
}

/// Goal: one publish each of very many clients of a member, as after a take-over, is taken; the
/// route stays.
#[test]
fn one_input_of_each_of_very_many_sessions_is_taken() {
    let (mut ours, mut first) = (member(1, "a"), member(1, "b"));
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    let mut said = String::new();
    for ledger in 1..=(crate::base::limits::ERRANDS_LEDGERS_MAX + 2) {
        said.push_str(&format!("KEPT 1 {ledger} 1\r\nKMSG $G pub.a 1\r\nx\r\n"));
    }
    first.send(at_first, said.as_bytes());
    assert!(first.is_open(at_first));
}

/// Goal: a number that no active can have, once said by a member that is gone, keeps nobody from
/// being served for ever.
#[test]
fn an_absurd_epoch_of_a_peer_loses_nothing() {
    let (mut ours, mut first) = (member(1, "a"), member(1, "b"));
    let (to_first, at_first) = join(&mut ours, &mut first);
    ours.send(to_first, b"SE+ 99999 $G pub.>\r\nSE= 99999 ready\r\n");
    hang_up(&mut ours, to_first);
    hang_up(&mut first, at_first);
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    let client = ours.client(0, "");
    say(&mut ours, client, "pub.a", "1");
    ours.pass(PARKED_FOR);
    carry(&mut ours, to_first, &mut first, at_first);
    assert_eq!(payloads(&heard(&mut first)), ["1"]);
}

/// Goal: a former active that hangs, and whose route still stands, is not believed again when its
/// successor is gone: what clients send meanwhile is for the next one.
#[test]
fn who_was_replaced_is_not_believed_when_its_successor_is_gone() {
    let names = ["a", "b", "c", "d"];
    let [mut ours, mut first, mut second, mut third] = names.map(|name| member(1, name));
    let (to_first, at_first) = join(&mut ours, &mut first);
    let (to_second, at_second) = join(&mut ours, &mut second);
    let (to_third, at_third) = join(&mut ours, &mut third);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    begin(&mut second, 2, true);
    carry(&mut ours, to_second, &mut second, at_second);
    ours.pass(PREDECESSOR_ENDS_WITHIN);
    let client = ours.client(0, "");
    say(&mut ours, client, "pub.a", "1");
    carry(&mut ours, to_second, &mut second, at_second);
    assert_eq!(payloads(&heard(&mut second)), ["1"]);
    hang_up(&mut ours, to_second);
    say(&mut ours, client, "pub.a", "2");
    ours.pass(PARKED_FOR - Duration::from_millis(1));
    carry(&mut ours, to_first, &mut first, at_first);
    assert_eq!(payloads(&heard(&mut first)), [""; 0]);
    begin(&mut third, 3, true);
    carry(&mut ours, to_third, &mut third, at_third);
    assert_eq!(payloads(&heard(&mut third)), ["1", "2"]);
    carry(&mut ours, to_first, &mut first, at_first);
    assert_eq!(payloads(&heard(&mut first)), [""; 0]);
}

/// Goal: an ack that a Go peer has sent before the engines began does no harm and is taken.
#[test]
fn an_ack_of_a_go_peer_from_before_is_taken() {
    let mut first = member(1, "b");
    let mut other = server(1, "c", |_, _| ());
    let (_to_first, at_first) = join(&mut other, &mut first);
    begin(&mut first, 1, true);
    first.take(at_first);
    // The PING of its beginning is not answered yet.
    first.send(at_first, b"RMSG $G ack.1 1\r\na\r\nRMSG $G beat 1\r\nb\r\n");
    assert_eq!(payloads(&heard(&mut first)), ["a", "b"]);
}

/// Goal: Go peers see nothing of it: what they send to a successor that waits for the last word of
/// its predecessor is not lost.
#[test]
fn what_a_go_peer_sends_while_a_predecessor_is_awaited_is_not_lost() {
    let [mut first, mut second] = ["b", "c"].map(|name| member(1, name));
    let mut other = server(1, "go", |_, _| ());
    let (from_first, from_second) = join(&mut first, &mut second);
    let (to_second, at_second) = join(&mut other, &mut second);
    begin(&mut first, 1, true);
    carry(&mut first, from_first, &mut second, from_second);
    begin(&mut second, 2, true);
    carry(&mut other, to_second, &mut second, at_second);
    let client = other.client(0, "");
    say(&mut other, client, "pub.a", "1");
    carry(&mut other, to_second, &mut second, at_second);
    second.pass(PREDECESSOR_ENDS_WITHIN);
    carry(&mut other, to_second, &mut second, at_second);
    say(&mut other, client, "pub.a", "2");
    carry(&mut other, to_second, &mut second, at_second);
    assert_eq!(payloads(&heard(&mut second)), ["1", "2"]);
}

/// Goal: what is done behind a gap comes to no successor; what of it a broken route has not brought
/// is told again.
#[test]
fn what_is_done_behind_a_gap_is_not_given_to_a_successor() {
    for is_told in [true, false] {
        let [mut ours, mut first, mut second] = ["a", "b", "c"].map(|name| member(2, name));
        let (mut to_first, mut at_first) = join(&mut ours, &mut first);
        let (to_second, at_second) = join(&mut ours, &mut second);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        let client = ours.client(1, "");
        (1..=4).for_each(|n| say(&mut ours, client, "pub.a", &n.to_string()));
        carry(&mut ours, to_first, &mut first, at_first);
        let taken = heard(&mut first);
        done(&mut first, 0, &[taken[2].clone(), taken[1].clone()]);
        if !is_told {
            hang_up(&mut ours, to_first);
            hang_up(&mut first, at_first);
            (to_first, at_first) = join(&mut ours, &mut first);
            let repeated = heard(&mut first);
            assert_eq!(payloads(&repeated), ["2", "3"], "their answers may be lost, too");
            done(&mut first, 0, &repeated);
        }
        carry(&mut ours, to_first, &mut first, at_first);
        hang_up(&mut ours, to_first);
        begin(&mut second, 2, true);
        carry(&mut ours, to_second, &mut second, at_second);
        assert_eq!(payloads(&heard(&mut second)), ["1", "4"]);
    }
}

/// Goal: members that say it in different ways keep nothing for each other, and hear each other as
/// others do.
#[test]
fn members_of_another_version_are_others() {
    let (mut ours, mut first) = (member(1, "a"), member(1, "b"));
    begin(&mut first, 1, true);
    let to_first = ours.open(0, route_to("right:6222"));
    let at_first = first.open(0, ConnectionKind::RouteAccepted);
    let said = ours.take(to_first);
    let version = |version: u64| format!("\"stanby_ledger_version\":{version}");
    let newer = said.replace(&version(LEDGER_VERSION), &version(LEDGER_VERSION + 1));
    assert_ne!(said, newer);
    first.take(at_first);
    first.send(at_first, newer.as_bytes());
    let heard = first.take(at_first);
    assert!(heard.contains("RS+ $G pub.>") && !heard.contains("SE"), "{heard}");
}

/// Goal: what a member keeps for an account that is not here is not passed over in silence.
#[test]
fn what_is_kept_for_an_unknown_account_ends_the_route() {
    let (mut ours, mut first) = (member(1, "a"), member(1, "b"));
    let (_, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    first.send(at_first, b"KEPT 1 1 1\r\nKMSG nobody pub.a 1\r\nx\r\n");
    assert!(!first.is_open(at_first));
}

/// Goal: what a message is in its ledger is said only where it does not follow from what was said
/// before, and is understood.
#[test]
fn numbers_are_said_where_they_do_not_follow() {
    let (mut ours, mut first) = (member(1, "a"), member(1, "b"));
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    let (one, other) = (ours.client(0, ""), ours.client(0, ""));
    for (client, payload) in [(one, "1"), (one, "2"), (other, "3"), (other, "4"), (one, "5")] {
        say(&mut ours, client, "pub.a", payload);
    }
    let said = ours.take(to_first);
    let lines = said.split("\r\n").filter(|line| line.starts_with('K'));
    let verbs: Vec<&str> = lines.map(|line| &line[..4]).collect();
    assert_eq!(verbs, ["KEPT", "KMSG", "KMSG", "KEPT", "KMSG", "KMSG", "KEPT", "KMSG"]);
    first.send(at_first, said.as_bytes());
    let taken = heard(&mut first);
    assert_eq!(payloads(&taken), ["1", "2", "3", "4", "5"]);
    let numbers: Vec<u64> = taken.iter().map(|(_, errand)| errand.unwrap().number).collect();
    assert_eq!(numbers, [1, 2, 1, 2, 3]);
}
