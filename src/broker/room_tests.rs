//! Readers of deliveries: who is said to be full, who is not cut, and who goes on when.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use crate::base::id::{AccountIndex, LoopIndex, SessionId, Subject};
use crate::broker::tests::{Process, post};
use crate::broker::{Effect, Input, Settings};

/// A quarter of it is what may wait: 10,000 bytes.
const MAX_PENDING: usize = 40_000;

fn process(loops: u16) -> Process {
    Process::new(loops, Settings { max_pending: MAX_PENDING, ..Settings::default() })
}

/// What an engine was told since the last look: `key+` for room, `key-` for none.
pub(super) fn told(process: &mut Process) -> String {
    let words = process.effects.drain(..).filter_map(|effect| {
        let Effect::Room { key, has_room } = effect else { return None };
        Some(format!("{key}{}", if has_room { '+' } else { '-' }))
    });
    words.collect::<Vec<_>>().join(" ")
}

fn watch(process: &mut Process, engine: u16, key: u64, inbox: &str) -> String {
    process.loops[usize::from(engine)].watch(key, AccountIndex::GLOBAL, &Subject::from(inbox));
    process.settle();
    told(process)
}

pub(super) fn deliver(process: &mut Process, engine: u16, key: u64, inbox: &str, len: usize) {
    let now = process.now;
    let message = post(inbox, &vec![b'x'; len]);
    let input = Input::Deliver { key, post: message };
    process.loops[usize::from(engine)].handle(input, now);
}

/// Takes `len` bytes out of an outbox, as a socket does.
fn take(process: &mut Process, id: SessionId, len: usize) {
    let broker = process.broker(id);
    while broker.poll_dirty().is_some() {}
    broker.outbox(id).unwrap().advance(len);
    broker.wrote(id);
    process.settle();
}

#[test]
fn a_full_outbox_is_told_for_all_inboxes_of_the_connection_and_half_of_it_goes_on() {
    for home in [0, 1] {
        let mut process = process(2);
        let slow = process.client(home, "");
        let other = process.client(home, "");
        process.send(slow, b"SUB in.1 1\r\nSUB in.2 2\r\n");
        process.send(other, b"SUB in.3 1\r\n");
        for key in 1..=3 {
            assert_eq!(watch(&mut process, 0, key, &format!("in.{key}")), format!("{key}+"));
        }
        deliver(&mut process, 0, 1, "in.1", 6_000);
        process.settle();
        assert_eq!(told(&mut process), "");
        // In the mail it counts as much as in the outbox.
        deliver(&mut process, 0, 1, "in.1", 6_000);
        deliver(&mut process, 0, 3, "in.3", 6_000);
        process.settle();
        assert_eq!(told(&mut process), "1- 2-");
        assert_eq!(watch(&mut process, 0, 4, "in.2"), "4-", "who begins now is told so");
        take(&mut process, slow, 6_500);
        assert_eq!(told(&mut process), "", "more than half is left");
        take(&mut process, slow, 1_000);
        assert_eq!(told(&mut process), "2+ 4+ 1+", "whose message was one too many comes last");
        assert!(process.is_open(slow) && process.is_open(other));
    }
}

fn watch_counted(process: &mut Process, key: u64, inbox: &str) -> String {
    process.loops[0].watch_for(key, AccountIndex::GLOBAL, &Subject::from(inbox), true);
    process.settle();
    told(process)
}

/// Goal: an inbox that needs a listener has room as long as anybody listens to it, by its name or
/// by a pattern, on any loop, and the engine hears of each change once.
#[test]
fn an_inbox_that_needs_a_listener_has_no_room_without_one() {
    for home in [0, 1] {
        let mut process = process(2);
        assert_eq!(watch_counted(&mut process, 1, "in.1"), "1-");
        assert_eq!(watch_counted(&mut process, 2, "in.2"), "2-");
        assert_eq!(watch(&mut process, 0, 3, "in.3"), "3+", "others need none");
        let reader = process.client(home, "");
        process.send(reader, b"SUB in.1 1\r\nSUB other 2\r\nSUB out.* 3\r\n");
        process.settle();
        assert_eq!(told(&mut process), "1+");
        process.send(reader, b"UNSUB 1\r\n");
        process.settle();
        assert_eq!(told(&mut process), "1-");
        // Whoever listens to a pattern listens.
        process.send(reader, b"SUB in.* 4\r\n");
        process.settle();
        assert_eq!(told(&mut process), "1+ 2+");
        process.send(reader, b"SUB > q 5\r\nUNSUB 4\r\n");
        process.settle();
        assert_eq!(told(&mut process), "");
        let now = process.now;
        process.loops[0].handle(Input::Unwatch { key: 2 }, now);
        process.send(reader, b"UNSUB 5\r\n");
        process.settle();
        assert_eq!(told(&mut process), "1-");
        process.send(reader, b"SUB in.1 q 6\r\n");
        process.settle();
        assert_eq!(told(&mut process), "1+");
        process.broker(reader).closed(reader, "Client Closed", now);
        process.settle();
        assert_eq!(told(&mut process), "1-");
    }
}

/// Goal: of engine deliveries only who does not read at all is cut.
#[test]
fn deliveries_cut_nobody_who_reads_a_little() {
    let mut process = process(1);
    let slow = process.client(0, "");
    process.send(slow, b"SUB in.1 1\r\n");
    watch(&mut process, 0, 1, "in.1");
    for _ in 0..20 {
        deliver(&mut process, 0, 1, "in.1", 6_000);
    }
    for _ in 0..10 {
        process.pass(Duration::from_secs(9));
        assert!(process.is_open(slow));
        take(&mut process, slow, 10);
    }
    process.pass(Duration::from_secs(21));
    assert!(!process.is_open(slow), "it read nothing for longer than the write deadline");
}

#[test]
fn a_listener_with_wildcards_holds_nobody_and_is_bounded_as_ever() {
    let mut process = process(1);
    let tool = process.client(0, "");
    process.send(tool, b"SUB in.* 1\r\n");
    watch(&mut process, 0, 1, "in.1");
    for _ in 0..6 {
        deliver(&mut process, 0, 1, "in.1", 6_000);
    }
    assert!(process.is_open(tool));
    deliver(&mut process, 0, 1, "in.1", 6_000);
    process.settle();
    assert_eq!(told(&mut process), "");
    assert!(!process.is_open(tool));
}

/// Goal: who hears much core traffic gets what is delivered all the same.
#[test]
fn core_traffic_does_not_hold_deliveries_up() {
    let mut process = process(1);
    let slow = process.client(0, "");
    process.send(slow, b"SUB in.1 1\r\nSUB a 2\r\n");
    let publish = format!("PUB a 18000\r\n{}\r\n", "x".repeat(18_000));
    process.send(slow, publish.as_bytes());
    assert_eq!(watch(&mut process, 0, 1, "in.1"), "1+");
    deliver(&mut process, 0, 1, "in.1", 6_000);
    assert_eq!(told(&mut process), "");
    deliver(&mut process, 0, 1, "in.1", 6_000);
    process.settle();
    assert_eq!(told(&mut process), "1-");
    take(&mut process, slow, 18_000 + 6_500);
    assert_eq!(told(&mut process), "");
    take(&mut process, slow, 1_500);
    assert_eq!(told(&mut process), "1+");
    assert!(process.is_open(slow));
}

#[test]
fn nobody_waits_for_a_reader_that_left() {
    for home in [0, 1] {
        let mut process = process(2);
        let first = process.client(home, "");
        let second = process.client(home, "");
        process.send(first, b"SUB in.1 1\r\nSUB in.2 2\r\n");
        watch(&mut process, 0, 1, "in.1");
        watch(&mut process, 0, 2, "in.2");
        deliver(&mut process, 0, 1, "in.1", 12_000);
        process.settle();
        assert_eq!(told(&mut process), "1- 2-");
        process.send(first, b"UNSUB 2\r\n");
        assert_eq!(told(&mut process), "2+");
        // The client has come back on another connection, which is known to have room.
        process.send(second, b"SUB in.1 1\r\n");
        assert_eq!(told(&mut process), "");
        let now = process.now;
        process.broker(first).closed(first, "Client Closed", now);
        process.settle();
        assert_eq!(told(&mut process), "1+");
        deliver(&mut process, 0, 1, "in.1", 12_000);
        process.settle();
        assert_eq!(told(&mut process), "1-");
        process.loops[0].handle(Input::Unwatch { key: 1 }, process.now);
        process.loops[0].handle(Input::Unwatch { key: 2 }, process.now);
        take(&mut process, second, 12_000);
        assert_eq!(told(&mut process), "");
        assert_eq!(process.loops[0].watched_count(), 0, "nothing is left of them");
    }
}

#[test]
fn several_engines_are_told_of_the_same_connection() {
    let mut process = process(3);
    let slow = process.client(0, "");
    process.send(slow, b"SUB in.1 1\r\nSUB in.2 2\r\n");
    watch(&mut process, 1, 1, "in.1");
    watch(&mut process, 2, 2, "in.2");
    deliver(&mut process, 1, 1, "in.1", 12_000);
    process.settle();
    assert_eq!(told(&mut process), "1-");
    deliver(&mut process, 2, 2, "in.2", 100);
    process.settle();
    assert_eq!(told(&mut process), "2-");
    assert_eq!(slow.home, LoopIndex(0));
    take(&mut process, slow, 12_000);
    assert_eq!(told(&mut process), "1+ 2+");
}
