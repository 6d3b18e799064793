//! A channel's part of a commit is there as a whole, or not at all, or nobody is answered.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "support/limited_disk.rs"]
mod limited_disk;
#[path = "support/stores.rs"]
mod stores;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Predecessor, Unfenced};
use stanby::base::id::{Sequence, SubscriptionId};
use stanby::base::record::{Batch, ChannelOutcome, Lifecycle, SubscriptionWrite};
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, Remedy, Store};

use limited_disk::{LimitedDisk, Limits};
use stores::{NOTHING, batch, commit, fetch, now, open, part, subscription};

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// A store with slices of three messages that keeps six a channel.
fn open_small(root: &Path, limits: &Arc<Limits>) -> Opened {
    let mut options = FileOptions::new(root);
    options.slice_messages_max = 3;
    options.compact_bytes_min = 0;
    let mut kept = StoreLimits::default();
    kept.global.messages_max = 6;
    file::open_on(
        Arc::new(LimitedDisk(Arc::clone(limits))),
        Opening {
            options: &options,
            limits: &kept,
            fence: Arc::new(Unfenced),
            predecessor: Predecessor::Clean,
            loops: 1,
            now: now(1),
            survey: None,
        },
    )
    .unwrap()
}

fn outcomes(store: &mut dyn Store, batch: &Batch) -> Vec<ChannelOutcome> {
    store.commit(Epoch(1), batch).unwrap().channels
}

fn is_refused(outcome: &ChannelOutcome) -> bool {
    outcome.refused.is_some()
}

/// Messages on the disk, by somebody who knows the format and not the store.
fn stored(root: &Path, channel: &str) -> Vec<u64> {
    let found = format_checker::read_store(root);
    found.channels[channel].messages.iter().map(|message| message.sequence).collect()
}

/// Goal: what removes old slices after a commit may fail as it likes: the commit is answered with
/// what is true, in both channels, and the slices go later.
#[test]
fn no_commit_fails_because_old_slices_cannot_be_removed() {
    for code in [ENOSPC, EDQUOT, 5] {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits::roomy();
        let mut opened = open_small(root.path(), &limits);
        let store = opened.shares[0].as_mut();
        let both = |lifecycle, sequences: std::ops::RangeInclusive<u64>| {
            batch(vec![
                part("foo", lifecycle, sequences.clone()),
                part("bar", lifecycle, sequences),
            ])
        };
        commit(store, &both(Lifecycle::Create, 1..=6));
        limits.rename_error.store(code, Ordering::Relaxed);
        for first in (7..=19).step_by(3) {
            let report = commit(store, &both(Lifecycle::Keep, first..=first + 2));
            for outcome in report.channels {
                assert_eq!(outcome.state.last, Sequence(first + 2));
            }
        }
        for channel in ["foo", "bar"] {
            assert_eq!(fetch(store, channel, 0), (16..=21).collect::<Vec<_>>());
            assert_eq!(stored(root.path(), channel), (1..=21).collect::<Vec<_>>());
        }
        let next_in = store.maintain(now(2)).unwrap().next_in;
        assert!(next_in.is_some_and(|pause| !pause.is_zero()), "it is tried again");
        limits.rename_error.store(0, Ordering::Relaxed);
        store.maintain(now(3)).unwrap();
        for channel in ["foo", "bar"] {
            assert_eq!(stored(root.path(), channel), (16..=21).collect::<Vec<_>>());
            assert_eq!(fetch(store, channel, 0), (16..=21).collect::<Vec<_>>());
        }
    }
}

/// Goal: a compaction that fails costs nobody anything.
#[test]
fn no_commit_fails_because_subscriptions_cannot_be_compacted() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits::roomy();
    let mut opened = open_small(root.path(), &limits);
    let store = opened.shares[0].as_mut();
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=6)]);
    let sent = |n| SubscriptionWrite::Sent(SubscriptionId(1), Sequence(n));
    let acked = |n| SubscriptionWrite::Acked(SubscriptionId(1), Sequence(n));
    first.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
    first.channels[0].subscriptions.extend((1..=6).map(sent));
    commit(store, &first);
    limits.rename_error.store(ENOSPC, Ordering::Relaxed);
    let mut acks = batch(vec![part("foo", Lifecycle::Keep, NOTHING)]);
    acks.channels[0].subscriptions = (1..=5).map(acked).collect();
    commit(store, &acks);
    let found = format_checker::read_store(root.path());
    assert_eq!(found.channels["foo"].pending[&1], (6..=6).collect());
}

/// Goal: without room at the sync, all of a batch is refused and gone, in every channel, and what
/// was created for it too; the same sequences are taken once there is room.
#[test]
fn a_batch_without_room_at_its_sync_leaves_nothing() {
    for code in [ENOSPC, EDQUOT] {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits::roomy();
        let mut opened = open_small(root.path(), &limits);
        let store = opened.shares[0].as_mut();
        commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
        let mut next =
            batch(vec![part("foo", Lifecycle::Keep, 3..=9), part("new", Lifecycle::Create, 1..=7)]);
        next.channels[0].subscriptions = vec![SubscriptionWrite::Create(subscription(1).into())];
        limits.sync_error.store(code, Ordering::Relaxed);
        let refused = outcomes(store, &next);
        assert!(refused.iter().all(is_refused), "{refused:?}");
        assert_eq!(refused[0].state.last, Sequence(2));
        assert_eq!(stored(root.path(), "foo"), [1, 2]);
        assert!(!root.path().join("new").exists());
        limits.sync_error.store(0, Ordering::Relaxed);
        commit(store, &next);
        assert_eq!(fetch(store, "foo", 0), (4..=9).collect::<Vec<_>>());
        assert_eq!(fetch(store, "new", 0), (2..=7).collect::<Vec<_>>());
        drop(opened);
        let again = open(root.path());
        assert_eq!(again.recovered.channels[0].state.last, Sequence(9));
        assert_eq!(again.recovered.channels[0].subscriptions.len(), 1);
    }
}

/// Goal: what can be neither kept nor taken back is answered by nobody, even on a full disk.
#[test]
fn what_cannot_be_taken_back_is_unknown() {
    for room in [1, 30, 60, 200] {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits::roomy();
        let mut opened = open_small(root.path(), &limits);
        let store = opened.shares[0].as_mut();
        commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=2)]));
        limits.room.store(room, Ordering::Relaxed);
        limits.truncate_error.store(ENOSPC, Ordering::Relaxed);
        let next = batch(vec![part("foo", Lifecycle::Keep, 3..=9)]);
        let error = store.commit(Epoch(1), &next).unwrap_err();
        assert_eq!(error.remedy(), Remedy::StepDown, "{error}");
    }
}

/// Goal: where nothing can be renamed, a slice that was begun for a refused batch is emptied and
/// its number not used again.
#[test]
fn a_slice_that_was_begun_in_vain_stays_empty_if_it_cannot_be_removed() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits::roomy();
    let mut opened = open_small(root.path(), &limits);
    let store = opened.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=3)]));
    limits.rename_error.store(ENOSPC, Ordering::Relaxed);
    let next = batch(vec![part("foo", Lifecycle::Keep, 4..=9)]);
    for room in [0, 2, 100, 300] {
        limits.room.store(room, Ordering::Relaxed);
        assert!(is_refused(&outcomes(store, &next)[0]), "room {room}");
        assert_eq!(stored(root.path(), "foo"), [1, 2, 3], "room {room}");
    }
    limits.room.store(i64::MAX, Ordering::Relaxed);
    commit(store, &next);
    assert_eq!(fetch(store, "foo", 0), (4..=9).collect::<Vec<_>>());
    drop(opened);
    let mut again = open(root.path());
    assert_eq!(fetch(again.shares[0].as_mut(), "foo", 4), (4..=9).collect::<Vec<_>>());
}

/// Goal: no sequence but the next one is taken, and none is passed over.
#[test]
fn a_sequence_that_is_not_the_next_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(root.path());
    let store = opened.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
    for sequences in [5..=6, 3..=3, 7..=7, 1..=9] {
        let outcome = &outcomes(store, &batch(vec![part("foo", Lifecycle::Keep, sequences)]))[0];
        let refused = outcome.refused.clone().unwrap();
        assert!(refused.starts_with("expected message 6, not "), "{refused}");
        assert_eq!(outcome.state.last, Sequence(5));
    }
    let mut broken = part("foo", Lifecycle::Keep, 6..=8);
    broken.messages.remove(1);
    assert!(is_refused(&outcomes(store, &batch(vec![broken]))[0]));
    assert_eq!(stored(root.path(), "foo"), [1, 2, 3, 4, 5]);
}

/// Goal: a channel is deleted whole or not at all, and what was answered stays so.
#[test]
fn a_channel_of_which_no_file_can_be_taken_away_is_not_deleted() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits::roomy();
    let mut opened = open_small(root.path(), &limits);
    let store = opened.shares[0].as_mut();
    commit(store, &batch(vec![part("foo", Lifecycle::Create, 1..=5)]));
    limits.rename_error.store(ENOSPC, Ordering::Relaxed);
    let delete = batch(vec![part("foo", Lifecycle::Delete, NOTHING)]);
    assert!(is_refused(&outcomes(store, &delete)[0]));
    assert_eq!(fetch(store, "foo", 0), [1, 2, 3, 4, 5]);
    commit(store, &batch(vec![part("foo", Lifecycle::Keep, 6..=6)]));
    assert_eq!(stored(root.path(), "foo"), [1, 2, 3, 4, 5, 6]);
    limits.rename_error.store(0, Ordering::Relaxed);
    commit(store, &delete);
    assert!(fetch(store, "foo", 0).is_empty());
    assert!(!root.path().join("foo").exists());
    let create = batch(vec![part("foo", Lifecycle::Create, 1..=2)]);
    commit(store, &create);
    assert_eq!(stored(root.path(), "foo"), [1, 2]);
}
