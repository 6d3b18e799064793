//! Logs of recorded nodes, whole and with flipped bits.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

use super::*;

fn recorded(node: &str) -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/raft");
    fs::read(data.join(node).join("log/imp/raft.log")).unwrap()
}

fn log(bytes: &[u8]) -> RaftLog<Vec<u8>> {
    RaftLog::open(bytes.to_vec(), None).unwrap()
}

/// Changes a part of a file wherever it is: pages that do not count any more have copies.
fn replace(bytes: &mut [u8], part: &[u8], with: &[u8]) {
    let places: Vec<_> =
        (0..bytes.len() - part.len()).filter(|at| bytes[*at..].starts_with(part)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + part.len()].copy_from_slice(with);
    }
}

/// The entry, behind the key by which it is found.
fn fields(index: u8, term: u8) -> Vec<u8> {
    [&b"\xa5Index"[..], &[0xcc, index], b"\xa4Term", &[term]].concat()
}

#[test]
fn nodes_of_one_cluster_have_the_same_entries() {
    for nodes in [["stopped/a", "stopped/b", "stopped/c"], ["young/a", "young/b", "young/a"]] {
        let logs = nodes.map(|node| log(&recorded(node)));
        let found = compare(&logs.each_ref());
        assert!(found.difference.is_none() && found.unread.is_empty(), "{found:?}");
    }
}

#[test]
fn a_payload_that_one_node_has_otherwise_is_a_difference() {
    let whole = log(&recorded("young/b"));
    let mut damaged = recorded("young/a");
    replace(&mut damaged, b"lim:44", b"lim:45");
    let damaged = log(&damaged);
    let found = compare(&[&damaged, &whole]).difference.unwrap();
    assert_eq!(found.alike, [[0], [1]]);
    let found = compare(&[&whole, &damaged, &whole]).difference.unwrap();
    assert_eq!(found.alike, [vec![1], vec![0, 2]]);
}

/// Goal: entries of different terms are allowed at the end of logs alone.
#[test]
fn another_term_is_a_difference_where_later_ones_agree() {
    let whole = log(&recorded("young/b"));
    let (_, last) = whole.ends().unwrap();
    let last = u8::try_from(last.index).unwrap();
    for (index, expected) in [(last - 10, Some(u64::from(last - 10))), (last, None)] {
        let mut damaged = recorded("young/a");
        replace(&mut damaged, &fields(index, 2), &fields(index, 1));
        let found = compare(&[&log(&damaged), &whole]).difference;
        assert_eq!(found.map(|it| it.index), expected);
    }
}

#[test]
fn a_log_that_cannot_be_read_is_compared_up_to_there() {
    let whole = log(&recorded("young/b"));
    let mut damaged = recorded("young/a");
    replace(&mut damaged, &fields(150, 2), &fields(151, 2));
    let found = compare(&[&whole, &log(&damaged)]);
    assert!(found.difference.is_none());
    let (at, error) = &found.unread[0];
    assert_eq!(
        (*at, error.to_string().as_str()),
        (1, "entry 150 is damaged: it has another index")
    );
}
