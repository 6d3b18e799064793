//! A route breaks between two members that live, and comes back while the same engines serve: what
//! it took with it is answered all the same, and nothing is done twice.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::ledger_tests::{begin, done, finish, hang_up, heard, member, payloads, say};
use super::route_tests::{carry, join, route_to};
use super::tests::{Process, post};
use super::*;
use crate::base::errand::{Again, Errand};
use crate::base::limits::UNSTORED_KEPT_MAX;

type Heard = Vec<(String, Option<Errand>)>;

/// Two members, of which the second serves, and a client of the first that listens for answers.
struct Pair {
    ours: Process,
    first: Process,
    route: (SessionId, SessionId),
    client: SessionId,
}

impl Pair {
    fn new(loops: u16) -> Self {
        let (mut ours, mut first) = (member(loops, "a"), member(loops, "b"));
        let client = ours.client(loops - 1, "");
        ours.send(client, b"SUB re 1\r\n");
        let route = join(&mut ours, &mut first);
        begin(&mut first, 1, true);
        let mut pair = Self { ours, first, route, client };
        pair.carry();
        pair
    }

    fn carry(&mut self) {
        carry(&mut self.ours, self.route.0, &mut self.first, self.route.1);
    }

    fn say(&mut self, subject: &str, payload: &str) {
        say(&mut self.ours, self.client, subject, payload);
    }

    /// What engines are given of what was said.
    fn heard(&mut self) -> Heard {
        self.carry();
        heard(&mut self.first)
    }

    /// The engine of the last loop answers, and is done with it.
    fn answer(&mut self, taken: &Heard, is_unstored: bool) {
        let (now, home) = (self.first.now, self.first.loops.len() - 1);
        for (payload, _) in taken {
            let answer = post("re", payload.as_bytes());
            self.first.loops[home].publish(&answer, None, now);
            self.first.settle();
        }
        finish(&mut self.first, u16::try_from(home).unwrap(), taken, is_unstored);
    }

    /// The route breaks, with all that is on its way.
    fn cut(&mut self) {
        self.ours.take(self.route.0);
        self.first.take(self.route.1);
        hang_up(&mut self.ours, self.route.0);
        hang_up(&mut self.first, self.route.1);
    }

    fn join(&mut self) {
        self.route = join(&mut self.ours, &mut self.first);
    }

    /// The route is joined again up to where `word` is said; what is said then is not heard yet.
    fn join_until(&mut self, word: &str) -> String {
        let ours = self.ours.open(0, route_to("right:6222"));
        let theirs = self.first.open(0, ConnectionKind::RouteAccepted);
        self.route = (ours, theirs);
        loop {
            let (there, back) = (self.ours.take(ours), self.first.take(theirs));
            if there.contains(word) {
                return there;
            }
            assert!(!there.is_empty() || !back.is_empty(), "it is not said");
            self.first.send(theirs, there.as_bytes());
            self.ours.send(ours, back.as_bytes());
        }
    }

    /// The answers that the client has heard since the last call, in order.
    fn answers(&mut self) -> Vec<String> {
        self.carry();
        let said = self.ours.take(self.client);
        let lines: Vec<&str> = said.lines().collect();
        lines.chunks(2).map(|lines| lines[1].to_owned()).collect()
    }
}

fn again(heard: &Heard) -> Vec<Again> {
    heard.iter().map(|(_, errand)| errand.unwrap().again).collect()
}

/// Goal: an answer that was in a broken route, or was given while nobody had told where it goes, is
/// given once more; engines know that it is no more than that.
#[test]
fn what_was_answered_into_a_broken_route_is_answered_once_more() {
    for loops in [1, 2] {
        for is_broken_first in [false, true] {
            let mut pair = Pair::new(loops);
            pair.say("pub.a", "1");
            pair.say("sub.x", "2");
            let taken = pair.heard();
            if is_broken_first {
                pair.cut();
                pair.answer(&taken, false);
            } else {
                pair.answer(&taken, false);
                pair.cut();
            }
            pair.join();
            assert_eq!(pair.answers(), [""; 0]);
            let taken = pair.heard();
            assert_eq!(payloads(&taken), ["1", "2"], "{loops}");
            assert_eq!(again(&taken), [Again::Done; 2]);
            pair.say("pub.a", "3");
            let more = pair.heard();
            assert_eq!(again(&more), [Again::First]);
            pair.answer(&more, false);
            pair.answer(&taken, false);
            assert_eq!(pair.answers(), ["3", "1", "2"]);
            // All is marked: nothing comes again to anybody.
            pair.cut();
            pair.join();
            assert_eq!(payloads(&pair.heard()), [""; 0]);
        }
    }
}

/// Goal: what engines are still at when it comes again is answered once more when they are done
/// with it, because one of them may not have known yet where the answer goes.
#[test]
fn what_is_under_way_when_a_route_comes_back_is_answered_by_it() {
    for loops in [1, 2] {
        let mut pair = Pair::new(loops);
        pair.say("pub.a", "1");
        pair.say("sub.x", "2");
        let taken = pair.heard();
        pair.cut();
        pair.join();
        assert_eq!(payloads(&pair.heard()), [""; 0], "they have it");
        // The first answer is given where it is not known yet that anybody listens.
        finish(&mut pair.first, loops - 1, &taken[..1], false);
        pair.answer(&taken[1..].to_vec(), false);
        let repeated = pair.heard();
        assert_eq!(payloads(&repeated), ["1", "2"]);
        assert_eq!(again(&repeated), [Again::Done; 2]);
        assert_eq!(pair.answers(), ["2"]);
        pair.answer(&repeated, false);
        assert_eq!(pair.answers(), ["1", "2"]);
        pair.cut();
        pair.join();
        assert_eq!(payloads(&pair.heard()), [""; 0]);
    }
}

/// Goal: a publish that was refused is taken as new: its client has heard nothing of that, and its
/// message is not there.
#[test]
fn a_publish_that_was_refused_into_a_broken_route_is_taken_as_new() {
    let mut pair = Pair::new(2);
    (1..=3).for_each(|n| pair.say("pub.a", &n.to_string()));
    let taken = pair.heard();
    pair.answer(&taken[..1].to_vec(), false);
    pair.answer(&taken[1..2].to_vec(), true);
    pair.cut();
    pair.join();
    assert_eq!(again(&pair.heard()), [Again::Done, Again::Perhaps]);
    // The third one is refused, and has come again meanwhile.
    pair.answer(&taken[2..].to_vec(), true);
    assert_eq!(again(&pair.heard()), [Again::Perhaps]);
    // It is stored this time, and the route breaks once more.
    pair.cut();
    pair.answer(&taken[1..].to_vec(), false);
    pair.join();
    assert_eq!(again(&pair.heard()), [Again::Done; 2]);
}

/// Goal: of more publishes that were refused than are remembered none counts as stored.
#[test]
fn what_is_not_known_any_more_is_not_called_stored() {
    let mut pair = Pair::new(1);
    let count = u64::try_from(UNSTORED_KEPT_MAX).unwrap() + 2;
    pair.say("pub.a", "first");
    let first = pair.heard();
    let errand = first[0].1.unwrap();
    // So many are refused, as if the client had said them.
    let route = pair.route.1;
    for number in 2..=count {
        let said = format!("KEPT 1 {} {number}\r\nKMSG $G pub.a re 1\r\nx\r\n", errand.ledger);
        pair.first.send(route, said.as_bytes());
    }
    let taken = heard(&mut pair.first);
    finish(&mut pair.first, 0, &first, true);
    finish(&mut pair.first, 0, &taken, true);
    // So much in one turn leaves no room in it for what a new route is told.
    pair.first.pass(Duration::from_millis(1));
    pair.cut();
    pair.join();
    assert_eq!(again(&pair.heard()), [Again::Perhaps]);
}

/// Goal: what wants no answer is marked again, and engines do not hear of it.
#[test]
fn what_wants_no_answer_is_only_marked_again() {
    let mut pair = Pair::new(2);
    for n in 1..=3 {
        let line = format!("PUB ack.1 1\r\n{n}\r\n");
        pair.ours.send(pair.client, line.as_bytes());
    }
    let taken = pair.heard();
    assert_eq!(payloads(&taken), ["1", "2", "3"]);
    done(&mut pair.first, 0, &[taken[0].clone(), taken[2].clone()]);
    pair.cut();
    pair.join();
    assert_eq!(payloads(&pair.heard()), [""; 0]);
    done(&mut pair.first, 0, &taken[1..2]);
    assert_eq!(payloads(&pair.heard()), [""; 0]);
    pair.cut();
    end_and_begin(&mut pair.first);
    pair.join();
    assert_eq!(payloads(&pair.heard()), [""; 0], "all of them were marked");
}

fn end_and_begin(first: &mut Process) {
    let now = first.now;
    for broker in &mut first.loops {
        broker.handle(Input::EngineGone, now);
    }
    first.settle();
    begin(first, 2, true);
}

/// Goal: of what has not come again by the new route nothing is marked: its answer is in the former
/// one, and whoever dies now has given none.
#[test]
fn what_has_not_come_again_is_not_marked() {
    let mut pair = Pair::new(1);
    (1..=3).for_each(|n| pair.say("pub.a", &n.to_string()));
    let taken = pair.heard();
    let ledger = taken[0].1.unwrap().ledger;
    pair.answer(&taken, false);
    pair.cut();
    // Only the first has arrived when it is answered.
    let said = pair.join_until("KEPT");
    let second = said.match_indices("KMSG").nth(1).unwrap().0;
    pair.first.send(pair.route.1, &said.as_bytes()[..second]);
    let repeated = heard(&mut pair.first);
    assert_eq!(payloads(&repeated), ["1"]);
    pair.answer(&repeated, false);
    let marks = pair.first.take(pair.route.1);
    assert!(marks.ends_with(&format!("DONE 1 {ledger} 1\r\n")), "{marks}");
    pair.first.send(pair.route.1, &said.as_bytes()[second..]);
    let repeated = heard(&mut pair.first);
    assert_eq!(payloads(&repeated), ["2", "3"]);
    done(&mut pair.first, 0, &repeated[1..]);
    let marks = pair.first.take(pair.route.1);
    assert_eq!(marks, format!("DONE 1 {ledger} =3\r\n"));
    done(&mut pair.first, 0, &repeated[..1]);
    let marks = pair.first.take(pair.route.1);
    assert_eq!(marks, format!("DONE 1 {ledger} 3\r\n"));
}

/// Goal: the second time that a route breaks is as the first.
#[test]
fn a_route_may_break_again_and_again() {
    let mut pair = Pair::new(2);
    pair.say("pub.a", "1");
    pair.say("pub.a", "2");
    let mut taken = pair.heard();
    pair.answer(&taken, false);
    for round in 0..3 {
        pair.cut();
        if round == 1 {
            // Answered into the second route, too.
            pair.answer(&taken, false);
        }
        pair.join();
        let more = pair.heard();
        match round {
            0 | 1 => assert_eq!(again(&more), [Again::Done; 2], "{round}"),
            _ => assert_eq!(payloads(&more), [""; 0], "they are at it"),
        }
        taken = if more.is_empty() { taken } else { more };
    }
    pair.answer(&taken, false);
    let more = pair.heard();
    assert_eq!(again(&more), [Again::Done; 2], "who was at it is asked once more");
    pair.answers();
    pair.answer(&more, false);
    assert_eq!(pair.answers(), ["1", "2"]);
    pair.cut();
    pair.join();
    assert_eq!(payloads(&pair.heard()), [""; 0]);
}

/// Goal: engines get nothing from a member before they have been told where its clients listen:
/// what they answered would go nowhere.
#[test]
fn nothing_is_said_to_engines_before_they_know_where_answers_go() {
    let mut ours = member(1, "a");
    let mut first = member(1, "b");
    begin(&mut first, 1, true);
    let client = ours.client(0, "");
    let inboxes: String = (0..50_000).map(|n| format!("SUB inbox.{n} {n}\r\n")).collect();
    ours.send(client, inboxes.as_bytes());
    let to_first = ours.open(0, route_to("right:6222"));
    let at_first = first.open(0, ConnectionKind::RouteAccepted);
    carry(&mut ours, to_first, &mut first, at_first);
    ours.send(client, b"PUB pub.a inbox.49999 1\r\nx\r\n");
    carry(&mut ours, to_first, &mut first, at_first);
    assert_eq!(payloads(&heard(&mut first)), [""; 0], "it is told in portions");
    for _ in 0..1_000 {
        ours.pass(Duration::from_millis(5));
        carry(&mut ours, to_first, &mut first, at_first);
    }
    let taken = heard(&mut first);
    assert_eq!(payloads(&taken), ["x"]);
    let now = first.now;
    first.loops[0].publish(&post("inbox.49999", b"ok"), None, now);
    carry(&mut ours, to_first, &mut first, at_first);
    assert!(ours.take(client).ends_with("ok\r\n"));
}
