//! New engines deliver nothing before they have been told all that was kept for them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use super::ledger_tests::{begin, end, hang_up, heard, member, payloads, say};
use super::route_tests::{carry, join};
use super::tests::Process;
use super::*;
use crate::base::id::Subject;
use crate::base::limits::{HEARD_OUT_WITHIN, KEEPERS_TELL_WITHIN};

/// Nothing but portions.
const A_MOMENT: Duration = Duration::from_millis(1);

/// The engine of the last loop has a subscription.
fn watch(process: &mut Process) {
    let inbox = Subject::from("inbox");
    process.loops.last_mut().unwrap().watch(7, AccountIndex::GLOBAL, &inbox);
    process.settle();
}

/// What it was told of the room of that since.
fn rooms(process: &Process) -> Vec<bool> {
    let room = |effect: &Effect| {
        let Effect::Room { key: 7, has_room } = effect else { return None };
        Some(*has_room)
    };
    process.effects.iter().filter_map(room).collect()
}

/// Goal: what a dead active may not have answered comes to the engines of its successor before
/// these may deliver anything, from each member and from each loop of this process.
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
        say(&mut ours, near, "sub.x", "near");
        say(&mut other, far, "sub.x", "far");
        carry(&mut ours, to_first, &mut first, at_first);
        carry(&mut other, other_to_first, &mut first, at_first_other);
        hang_up(&mut ours, to_first);
        hang_up(&mut other, other_to_first);
        begin(&mut ours, 2, true);
        watch(&mut ours);
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours), [false]);
        assert_eq!(payloads(&heard(&mut ours)), ["near"]);
        let said = ours.take(to_other);
        other.send(at_other, said.as_bytes());
        let answer = other.take(at_other);
        let (kept, told) = answer.split_once("TOLD 2\r\n").unwrap();
        assert!(kept.contains("far") && told.is_empty(), "{answer}");
        ours.send(to_other, kept.as_bytes());
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours), [false; 0]);
        assert_eq!(payloads(&heard(&mut ours)), ["far"]);
        // What is said of other engines is nothing to these.
        ours.send(to_other, b"TOLD 1\r\nTOLD 3\r\n");
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours), [false; 0]);
        ours.send(to_other, b"TOLD 2\r\n");
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours), [true]);
    }
}

/// Goal: a member that hangs is waited for a moment only, one that says something longer, but not
/// for ever, and one whose route ends not at all.
#[test]
fn who_hangs_is_waited_for_a_moment() {
    let held = |ends: bool, speaks: bool| {
        let (mut ours, mut other) = (member(2, "a"), member(1, "b"));
        let (to_other, _) = join(&mut ours, &mut other);
        begin(&mut ours, 2, true);
        watch(&mut ours);
        if ends {
            hang_up(&mut ours, to_other);
        }
        let step = KEEPERS_TELL_WITHIN / 3;
        let mut waited = Duration::ZERO;
        ours.pass(A_MOMENT);
        while rooms(&ours) != [false, true] {
            assert!(waited < 2 * HEARD_OUT_WITHIN);
            if speaks {
                ours.send(to_other, b"PING\r\n");
            }
            ours.pass(step);
            waited += step;
        }
        waited
    };
    assert_eq!(held(true, false), Duration::ZERO);
    assert_eq!(held(false, false), KEEPERS_TELL_WITHIN);
    assert_eq!(held(false, true), HEARD_OUT_WITHIN.max(4 * KEEPERS_TELL_WITHIN / 3));
}

/// Goal: each next activation of a process waits anew.
#[test]
fn each_activation_waits_anew() {
    let (mut ours, mut other) = (member(2, "a"), member(1, "b"));
    let (to_other, at_other) = join(&mut ours, &mut other);
    for epoch in [2, 4] {
        begin(&mut ours, epoch, true);
        watch(&mut ours);
        assert_eq!(rooms(&ours), [false], "epoch {epoch}");
        carry(&mut ours, to_other, &mut other, at_other);
        ours.pass(A_MOMENT);
        assert_eq!(rooms(&ours), [false, true], "epoch {epoch}");
        end(&mut ours);
        carry(&mut ours, to_other, &mut other, at_other);
        ours.effects.clear();
    }
}

/// Goal: without a group nobody is waited for.
#[test]
fn who_keeps_nothing_waits_for_nobody() {
    let mut alone = super::route_tests::server(2, "a", |_, _| ());
    watch(&mut alone);
    assert_eq!(rooms(&alone), [true]);
}
