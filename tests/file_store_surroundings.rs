//! What else may lie in, under or over the store's folders: mounts, foreign entries, and hands that
//! take files away.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/mounted_disk.rs"]
mod mounted_disk;
#[path = "support/stores.rs"]
mod stores;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor, Unfenced};
use stanby::base::record::Lifecycle;
use stanby::store::file::disk::Disk;
use stanby::store::file::survey::Survey;
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, OutcomeUnknown, StoreError};

use mounted_disk::{MountedDisk, Mounts};
use stores::{NOTHING, batch, commit, fetch, now, open, open_as, part};

/// A fence that is held under any epoch.
struct Held(u64);

impl Fence for Held {
    fn epoch(&self) -> Epoch {
        Epoch(self.0)
    }

    fn check(&self) -> Result<(), FenceError> {
        Ok(())
    }
}

fn open_on(
    mounts: &Arc<Mounts>,
    options: &FileOptions,
    predecessor: Predecessor,
    (fence, survey): (Arc<dyn Fence>, Option<Survey>),
) -> Result<Opened, StoreError> {
    let disk: Arc<dyn Disk> = Arc::new(MountedDisk(Arc::clone(mounts)));
    let limits = &StoreLimits::default();
    let now = now(1_000);
    let opening = Opening { options, limits, fence, predecessor, loops: 1, now, survey };
    file::open_on(disk, opening)
}

/// The store whose folder `foo` is another file system.
fn mounted(mounts: &Arc<Mounts>, root: &Path) -> Opened {
    let options = FileOptions::new(root);
    open_on(mounts, &options, Predecessor::Clean, (Arc::new(Unfenced), None)).unwrap()
}

fn many(count: usize) -> Vec<String> {
    let mut names: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
    names.push("foo".to_owned());
    names
}

/// Rule: a sync of a file system covers what lies on it, and nothing else.
#[test]
fn nothing_on_another_file_system_is_answered_for_before_it_is_synced_there() {
    let root = tempfile::tempdir().unwrap();
    let mounts = Mounts::of(&["foo"]);
    let mut opened = mounted(&mounts, root.path());
    let names = many(9);
    let parts = |kind, range: std::ops::RangeInclusive<u64>| {
        batch(names.iter().map(|name| part(name, kind, range.clone())).collect())
    };
    commit(opened.shares[0].as_mut(), &parts(Lifecycle::Create, 1..=1));
    assert_eq!(mounts.unsynced_count(), 0, "after the creation");
    for sequence in 2..=40 {
        let batch = parts(Lifecycle::Keep, sequence..=sequence);
        commit(opened.shares[0].as_mut(), &batch);
        assert_eq!(mounts.unsynced_count(), 0, "after message {sequence}");
    }
}

/// The same where its files were closed before the commit that answers for them.
#[test]
fn what_is_closed_on_another_file_system_is_synced_there() {
    let root = tempfile::tempdir().unwrap();
    let mounts = Mounts::of(&["foo"]);
    let mut options = FileOptions::new(root.path());
    options.descriptors_max = 10;
    let fence = Arc::new(Unfenced);
    let mut opened = open_on(&mounts, &options, Predecessor::Clean, (fence, None)).unwrap();
    let names = many(12);
    for kind in [Lifecycle::Create, Lifecycle::Keep] {
        let range = if kind == Lifecycle::Create { 1..=1 } else { 2..=2 };
        for name in names.iter().rev() {
            let mut batch = batch(vec![part(name, kind, range.clone())]);
            batch.durable = false;
            commit(opened.shares[0].as_mut(), &batch);
        }
    }
    commit(opened.shares[0].as_mut(), &batch(vec![part("c0", Lifecycle::Keep, 3..=3)]));
    assert_eq!(mounts.unsynced_count(), 0);
}

/// The same of what a predecessor has left, with and without a standby's view of it.
#[test]
fn a_take_over_makes_durable_what_lies_on_another_file_system() {
    for (count, has_survey) in [(3, false), (30, true), (100, false)] {
        let root = tempfile::tempdir().unwrap();
        let mounts = Mounts::of(&["foo"]);
        let mut opened = mounted(&mounts, root.path());
        let names = many(count);
        let parts = names.iter().map(|name| part(name, Lifecycle::Create, 1..=3));
        let mut batch = batch(parts.collect());
        batch.durable = false;
        commit(opened.shares[0].as_mut(), &batch);
        drop(opened);
        assert_ne!(mounts.unsynced_count(), 0);
        let options = FileOptions::new(root.path());
        let disk = MountedDisk(Arc::clone(&mounts));
        let survey = has_survey.then(|| Survey::take(&disk, &options, now(0).wall).unwrap());
        let rest: (Arc<dyn Fence>, _) = (Arc::new(Held(2)), survey.flatten());
        let mut opened = open_on(&mounts, &options, Predecessor::Gone, rest).unwrap();
        assert_eq!(mounts.unsynced_count(), 0, "{count} channels");
        assert_eq!(fetch(opened.shares[0].as_mut(), "foo", 1), [1, 2, 3]);
        // What nobody has seen being synced is written anew, into a slice of its own.
        let is_as_it_was = |name: &str| root.path().join(name).join("msgs.1.dat").exists();
        assert!(!is_as_it_was("foo"), "{count} channels");
        assert_eq!(is_as_it_was("c0"), has_survey, "{count} channels");
    }
}

/// Rule: what replaces a file is made where it can be renamed.
#[test]
fn a_channel_in_a_mount_is_created_taken_over_and_deleted() {
    let root = tempfile::tempdir().unwrap();
    let mounts = Mounts::of(&["foo"]);
    fs::create_dir(root.path().join("foo")).unwrap();
    let mut opened = mounted(&mounts, root.path());
    commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=3)]));
    drop(opened);
    // What a predecessor was about to put in place.
    let left = root.path().join("foo/.stanby.replacement.1.7");
    fs::write(&left, b"left").unwrap();
    let options = FileOptions::new(root.path());
    for (epoch, predecessor) in [(2, Predecessor::Gone), (3, Predecessor::Replaced)] {
        let rest: (Arc<dyn Fence>, _) = (Arc::new(Held(epoch)), None);
        let mut opened = open_on(&mounts, &options, predecessor, rest).unwrap();
        assert!(!left.exists(), "epoch {epoch}");
        let next = epoch + 2;
        let batch = batch(vec![part("foo", Lifecycle::Keep, next..=next)]);
        opened.shares[0].commit(Epoch(epoch), &batch).unwrap();
        let all: Vec<u64> = (1..=next).collect();
        assert_eq!(fetch(opened.shares[0].as_mut(), "foo", 1), all);
    }
    let mut opened = mounted(&mounts, root.path());
    let share = opened.shares[0].as_mut();
    commit(share, &batch(vec![part("foo", Lifecycle::Delete, NOTHING)]));
    commit(share, &batch(vec![part("foo", Lifecycle::Create, 1..=1)]));
    assert_eq!(fetch(share, "foo", 1), [1]);
}

/// Rule: a channel that cannot be created is refused, and nothing else.
#[test]
fn a_mount_that_takes_no_file_refuses_its_channel_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("foo")).unwrap();
    let mounts = Mounts::read_only(&["foo"]);
    let mut opened = mounted(&mounts, root.path());
    let parts = ["foo", "bar"].map(|name| part(name, Lifecycle::Create, 1..=1));
    let report = opened.shares[0].commit(Epoch(1), &batch(Vec::from(parts))).unwrap();
    let refused: Vec<bool> = report.channels.iter().map(|one| one.refused.is_some()).collect();
    assert_eq!(refused, [true, false]);
}

/// Puts an entry of each kind that is not ours into a folder.
fn litter(folder: &Path, outside: &Path) {
    mkfifo(&folder.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    drop(UnixListener::bind(folder.join("socket")).unwrap());
    symlink(outside, folder.join("latest")).unwrap();
    symlink("/dev/zero", folder.join("zeros")).unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    symlink(folder.join("pipe"), folder.join("to_pipe")).unwrap();
    fs::write(folder.join("backup.tar"), b"old").unwrap();
}

/// Rule: nobody opens a name that the format does not define.
#[test]
fn foreign_entries_of_any_kind_keep_nobody_from_taking_over() {
    for predecessor in [Predecessor::Gone, Predecessor::Replaced] {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let mut opened = open(root.path());
        commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=3)]));
        drop(opened);
        litter(root.path(), outside.path());
        litter(&root.path().join("foo"), outside.path());
        let options = FileOptions::new(root.path());
        let mut opened = open_as(&options, &StoreLimits::default(), predecessor).unwrap();
        assert_eq!(fetch(opened.shares[0].as_mut(), "foo", 1), [1, 2, 3]);
    }
}

/// Rule: under a name that the format defines only a regular file is opened; nothing else is waited
/// for, and the error names it.
#[test]
fn what_is_no_regular_file_under_a_name_of_the_store_is_told_by_name() {
    for name in ["clients.dat", "foo/msgs.1.dat", "foo/subs.dat"] {
        let root = tempfile::tempdir().unwrap();
        let mut opened = open(root.path());
        commit(opened.shares[0].as_mut(), &batch(vec![part("foo", Lifecycle::Create, 1..=3)]));
        drop(opened);
        let path = root.path().join(name);
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let options = FileOptions::new(root.path());
        let opened = open_as(&options, &StoreLimits::default(), Predecessor::Gone);
        let text = opened.err().unwrap().to_string();
        assert!(text.contains(name) && text.contains("no regular file"), "{text}");
    }
}

/// Rule: what is written to a file that has no name any more is not answered for.
#[test]
fn a_file_that_is_taken_away_under_the_server_is_not_written_on() {
    let takes: [fn(&Path); 3] = [
        |folder| fs::remove_file(folder.join("msgs.1.dat")).unwrap(),
        |folder| {
            fs::copy(folder.join("msgs.1.dat"), folder.join("q")).unwrap();
            fs::rename(folder.join("q"), folder.join("msgs.1.dat")).unwrap();
        },
        |folder| fs::remove_dir_all(folder).unwrap(),
    ];
    for take in takes {
        let root = tempfile::tempdir().unwrap();
        let mut opened = open(root.path());
        let share = opened.shares[0].as_mut();
        commit(share, &batch(vec![part("foo", Lifecycle::Create, 1..=3)]));
        take(&root.path().join("foo"));
        let found = share.commit(Epoch(1), &batch(vec![part("foo", Lifecycle::Keep, 4..=4)]));
        let is_told = matches!(found, Err(OutcomeUnknown(StoreError::Vanished { .. })));
        assert!(is_told, "{found:?}");
    }
}
