//! New engines deliver nothing before they have been told all that was kept for them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::ConnectionKind::RouteAccepted;
use super::ledger_tests::{begin, done, end, hang_up, heard, member, payloads, say};
use super::route_tests::{carry, join, route_to, server};
use super::tests::Process;
use super::*;
use crate::base::epoch::Epoch;
use crate::base::id::Subject;
use crate::base::limits::{HEARD_OUT_WITHIN, KEEPERS_TELL_WITHIN};

/// Nothing but portions.
const A_MOMENT: Duration = Duration::from_millis(1);

/// The engine of the last loop has a subscription of a client behind a route (7), and another one
/// (8).
fn watch(process: &mut Process) {
    for (key, inbox) in [(7, "far"), (8, "near")] {
        process.loops.last_mut().unwrap().watch(key, AccountIndex::GLOBAL, &Subject::from(inbox));
    }
    process.settle();
}

/// What it was told of the room of one of them since.
fn rooms(process: &Process, wanted: u64) -> Vec<bool> {
    let room = |effect: &Effect| {
        let Effect::Room { key, has_room } = effect else { return None };
        (*key == wanted).then_some(*has_room)
    };
    process.effects.iter().filter_map(room).collect()
}

/// Goal: what a dead active may not have answered comes to the engines of its successor before
/// these deliver: what clients of this process have sent before anything, what those of another
/// member have before anything to these.
#[test]
fn what_is_kept_comes_before_anything_is_delivered() {
    for loops in [1, 2] {
        let [mut ours, mut other, mut first] = ["a", "b", "c"].map(|name| member(loops, name));
        let (to_other, at_other) = join(&mut ours, &mut other);
        let (to_first, at_first) = join(&mut ours, &mut first);
        let (other_to_first, at_first_other) = join(&mut other, &mut first);
        begin(&mut first, 1, true);
        carry(&mut ours, to_first, &mut first, at_first);
        carry(&mut other, other_to_first, &mut first, at_first_other);
        let (near, far) = (ours.client(loops - 1, ""), other.client(loops - 1, ""));
        ours.send(near, b"SUB near 1\r\n");
        other.send(far, b"SUB far 1\r\n");
        carry(&mut ours, to_other, &mut other, at_other);
        say(&mut ours, near, "sub.x", "of near");
        say(&mut other, far, "sub.x", "of far");
        carry(&mut ours, to_first, &mut first, at_first);
        carry(&mut other, other_to_first, &mut first, at_first_other);
        hang_up(&mut ours, to_first);
        hang_up(&mut other, other_to_first);
        begin(&mut ours, 2, false);
        watch(&mut ours);
        assert_eq!((rooms(&ours, 7), rooms(&ours, 8)), (vec![false], vec![false]));
        let now = ours.now;
        ours.loops[0].handle(Input::Ready { epoch: Epoch(2) }, now);
        ours.settle();
        ours.pass(A_MOMENT);
        let taken = heard(&mut ours);
        assert_eq!(payloads(&taken), ["of near"]);
        assert_eq!((rooms(&ours, 7), rooms(&ours, 8)), (vec![], vec![]));
        // It may have gone to another engine, and is answered by that.
        done(&mut ours, 0, &taken);
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours, 8), [true]);
        assert!(!rooms(&ours, 7).contains(&true));
        let said = ours.take(to_other);
        other.send(at_other, said.as_bytes());
        let answer = other.take(at_other);
        let (kept, told) = answer.split_once("TOLD 2\r\n").unwrap();
        assert!(kept.contains("of far") && told.is_empty(), "{answer}");
        ours.send(to_other, kept.as_bytes());
        ours.pass(A_MOMENT);
        let taken = heard(&mut ours);
        assert_eq!(payloads(&taken), ["of far"]);
        // What is said of other engines is nothing to these.
        ours.send(to_other, b"TOLD 1\r\nTOLD 3\r\n");
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours, 7), [false; 0]);
        ours.send(to_other, b"TOLD 2\r\n");
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours, 7), [false; 0]);
        done(&mut ours, 0, &taken);
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours, 7), [true]);
    }
}

/// Goal: so it is where a route between members that live breaks and comes again.
#[test]
fn who_comes_by_a_new_route_is_delivered_to_when_it_has_told() {
    let (mut ours, mut other) = (member(2, "a"), member(1, "b"));
    let (to_other, at_other) = join(&mut ours, &mut other);
    let far = other.client(0, "");
    other.send(far, b"SUB far 1\r\n");
    begin(&mut ours, 2, true);
    carry(&mut ours, to_other, &mut other, at_other);
    watch(&mut ours);
    ours.pass(A_MOMENT);
    assert_eq!(rooms(&ours, 7), [true]);
    say(&mut other, far, "sub.x", "under way");
    hang_up(&mut ours, to_other);
    hang_up(&mut other, at_other);
    ours.effects.clear();
    join(&mut ours, &mut other);
    ours.pass(A_MOMENT);
    let is_input = |effect: &Effect| matches!(effect, Effect::ToEngine(_));
    let before: Vec<&Effect> = ours.effects.iter().take_while(|effect| !is_input(effect)).collect();
    let is_free = |effect: &&Effect| matches!(effect, Effect::Room { key: 7, has_room: true });
    assert!(before.len() < ours.effects.len() && !before.iter().any(is_free), "{before:?}");
    let taken = heard(&mut ours);
    assert_eq!(payloads(&taken), ["under way"]);
    done(&mut ours, 0, &taken);
    ours.pass(A_MOMENT);
    assert_eq!(rooms(&ours, 7), [true]);
}

/// Goal: what takes long is waited for a moment only.
#[test]
fn a_request_that_takes_long_holds_up_nobody_for_long() {
    let (mut ours, mut first) = (member(2, "a"), member(1, "b"));
    let (to_first, at_first) = join(&mut ours, &mut first);
    begin(&mut first, 1, true);
    carry(&mut ours, to_first, &mut first, at_first);
    let client = ours.client(1, "");
    say(&mut ours, client, "sub.x", "slow");
    hang_up(&mut ours, to_first);
    begin(&mut ours, 2, true);
    watch(&mut ours);
    ours.pass(KEEPERS_TELL_WITHIN / 2);
    assert!(!rooms(&ours, 8).contains(&true));
    ours.pass(KEEPERS_TELL_WITHIN);
    ours.pass(A_MOMENT);
    assert!(rooms(&ours, 8).ends_with(&[true]));
    assert_eq!(payloads(&heard(&mut ours)), ["slow"]);
}

/// Goal: a member that hangs is waited for a moment only, one that says something longer, but not
/// for ever, and one whose route ends not at all; nobody else waits with it.
#[test]
fn who_hangs_is_waited_for_a_moment() {
    let held = |speaks: bool| {
        let (mut ours, mut other) = (member(2, "a"), member(1, "b"));
        let (to_other, at_other) = join(&mut ours, &mut other);
        let far = other.client(0, "");
        other.send(far, b"SUB far 1\r\n");
        carry(&mut ours, to_other, &mut other, at_other);
        begin(&mut ours, 2, true);
        watch(&mut ours);
        let step = KEEPERS_TELL_WITHIN / 3;
        let mut waited = Duration::ZERO;
        ours.pass(A_MOMENT);
        assert!(rooms(&ours, 8).ends_with(&[true]));
        while !rooms(&ours, 7).ends_with(&[true]) {
            assert!(waited < 2 * HEARD_OUT_WITHIN);
            if speaks {
                ours.send(to_other, b"PING\r\n");
            }
            ours.pass(step);
            waited += step;
        }
        waited
    };
    assert_eq!(held(false), KEEPERS_TELL_WITHIN);
    assert_eq!(held(true), HEARD_OUT_WITHIN);
}

/// Goal: each next activation of a process waits anew.
#[test]
fn each_activation_waits_anew() {
    let (mut ours, mut other) = (member(2, "a"), member(1, "b"));
    let (to_other, at_other) = join(&mut ours, &mut other);
    let far = other.client(0, "");
    other.send(far, b"SUB far 1\r\n");
    carry(&mut ours, to_other, &mut other, at_other);
    for epoch in [2, 4] {
        begin(&mut ours, epoch, false);
        watch(&mut ours);
        for key in [7, 8] {
            assert_eq!(rooms(&ours, key), [false], "epoch {epoch}");
        }
        let now = ours.now;
        ours.loops[0].handle(Input::Ready { epoch: Epoch(epoch) }, now);
        ours.settle();
        ours.pass(A_MOMENT);
        assert!(!rooms(&ours, 7).contains(&true), "epoch {epoch}");
        assert!(rooms(&ours, 8).ends_with(&[true]), "epoch {epoch}");
        carry(&mut ours, to_other, &mut other, at_other);
        ours.pass(A_MOMENT);
        assert!(rooms(&ours, 7).ends_with(&[true]), "epoch {epoch}");
        end(&mut ours);
        carry(&mut ours, to_other, &mut other, at_other);
        ours.effects.clear();
    }
}

/// Goal: without a group nobody is waited for.
#[test]
fn who_keeps_nothing_waits_for_nobody() {
    let mut alone = server(2, "a", |_, _| ());
    watch(&mut alone);
    assert_eq!((rooms(&alone, 7), rooms(&alone, 8)), (vec![true], vec![true]));
}

/// Goal: two members that dial each other at once keep one connection, and the same one, whatever
/// each of them has heard of first; where it breaks both look for each other again.
#[test]
fn members_that_dial_each_other_at_once_stay_joined() {
    for is_swapped in [false, true] {
        let dialling = |loops, name, url: &str| {
            server(loops, name, |settings, cluster| {
                settings.group = "test/group".to_owned();
                cluster.routes = vec![url.to_owned()];
            })
        };
        let (mut ours, mut other) = (dialling(2, "a", "b:6222"), dialling(1, "b", "a:6222"));
        ours.effects.clear();
        other.effects.clear();
        let first = (ours.open(0, route_to("b:6222")), other.open(0, RouteAccepted));
        let second = (ours.open(0, RouteAccepted), other.open(0, route_to("a:6222")));
        // Each has heard of one connection before it hears of the other, and not of the same.
        let (at_ours, at_other) = if is_swapped { (second, first) } else { (first, second) };
        let to_ours = [other.take(at_ours.1), other.take(at_other.1)];
        let to_other = [ours.take(at_other.0), ours.take(at_ours.0)];
        ours.send(at_ours.0, to_ours[0].as_bytes());
        other.send(at_other.1, to_other[0].as_bytes());
        ours.send(at_other.0, to_ours[1].as_bytes());
        other.send(at_ours.1, to_other[1].as_bytes());
        assert!(ours.is_open(first.0) && other.is_open(first.1));
        assert!(!ours.is_open(second.0) && !other.is_open(second.1));
        carry(&mut ours, first.0, &mut other, first.1);
        let client = ours.client(0, "");
        begin(&mut other, 1, true);
        carry(&mut ours, first.0, &mut other, first.1);
        say(&mut ours, client, "pub.a", "joined");
        carry(&mut ours, first.0, &mut other, first.1);
        assert_eq!(payloads(&heard(&mut other)), ["joined"]);
        for (process, gone, url) in [
            (&mut ours, [first.0, second.0], "b:6222"),
            (&mut other, [first.1, second.1], "a:6222"),
        ] {
            gone.into_iter().for_each(|route| hang_up(process, route));
            process.pass(Duration::from_secs(2));
            let dials =
                |effect: &Effect| matches!(effect, Effect::Dial { url: found, .. } if found == url);
            assert!(process.effects.iter().any(dials), "{url}");
        }
    }
}
