//! What a standby saw of the channels, and a take-over that believes only what still holds.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/left_out.rs"]
mod left_out;
#[path = "support/limited_disk.rs"]
mod limited_disk;
#[path = "support/stores.rs"]
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Predecessor, Unfenced};
use stanby::base::id::{Sequence, SubscriptionId};
use stanby::base::record::{Lifecycle, SubscriptionWrite};
use stanby::base::time::WallTime;
use stanby::base::world;
use stanby::store::Opened;
use stanby::store::file::disk::{Disk, RealDisk};
use stanby::store::file::survey::{Survey, Surveyor};
use stanby::store::file::{self, FileOptions, Opening};

use limited_disk::{LimitedDisk, Limits};
use stores::{NOTHING, batch, commit, message_at, now, open, part, subscription};

const CHANNELS: usize = 20;

/// A disk whose stamps and syncs can be relied on.
fn disk() -> Arc<Limits> {
    let limits = Limits::roomy();
    limits.can_sync_filesystem.store(true, Ordering::Relaxed);
    limits
}

/// Channels with messages and subscriptions, some of which are pending; still open.
fn filled(root: &Path) -> Opened {
    let mut opened = open(root);
    let mut change = batch(Vec::new());
    for number in 0..CHANNELS {
        let mut part = part(&format!("c{number}"), Lifecycle::Create, 1..=5);
        part.subscriptions = vec![
            SubscriptionWrite::Create(Box::new(subscription(1))),
            SubscriptionWrite::Sent(SubscriptionId(1), Sequence(2)),
        ];
        change.channels.push(part);
    }
    commit(opened.shares[0].as_mut(), &change);
    opened
}

fn take(root: &Path, limits: &Arc<Limits>, at: WallTime) -> Survey {
    let disk = LimitedDisk(Arc::clone(limits));
    Survey::take(&disk, &FileOptions::new(root), at).unwrap().unwrap()
}

fn take_over(
    disk: Arc<dyn Disk>,
    root: &Path,
    predecessor: Predecessor,
    survey: Option<Survey>,
) -> Opened {
    let opening = Opening {
        options: &FileOptions::new(root),
        limits: &StoreLimits::default(),
        fence: Arc::new(Unfenced),
        predecessor,
        loops: 1,
        now: now(1),
        survey,
    };
    file::open_on(disk, opening).unwrap()
}

/// Everything that lies below a folder.
fn content(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

/// Goal: what was seen and has not changed is not read again; where the kernel watches, it is not
/// even looked at.
#[test]
fn what_still_holds_is_not_read_again() {
    for has_watch in [true, false] {
        let root = tempfile::tempdir().unwrap();
        drop(filled(root.path()));
        let limits = disk();
        limits.has_watch.store(has_watch, Ordering::Relaxed);
        let survey = take(root.path(), &limits, now(0).wall);
        assert_eq!(survey.channel_count(), CHANNELS);
        let counts = || {
            let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
            (of(&limits.open_count), of(&limits.stamp_count))
        };
        let before = counts();
        let disk = Arc::new(LimitedDisk(Arc::clone(&limits)));
        let warm = take_over(disk, root.path(), Predecessor::Clean, Some(survey));
        let after = counts();
        assert_eq!(warm.recovered, open(root.path()).recovered);
        let (opened, stamped) = (after.0 - before.0, after.1 - before.1);
        assert!(opened < CHANNELS, "{opened} files were opened");
        assert_eq!(stamped == 0, has_watch, "{stamped} stamps were taken");
    }
}

/// One way in which the owner may change a channel after it was looked at.
struct Change {
    name: &'static str,
    make: fn(&Path, &mut Opened),
}

const CHANGES: [Change; 7] = [
    Change { name: "a message", make: |_, owner| write(owner, |part| part.messages = more(6)) },
    Change {
        name: "an ack",
        make: |_, owner| {
            let acked = SubscriptionWrite::Acked(SubscriptionId(1), Sequence(2));
            write(owner, |part| part.subscriptions = vec![acked.clone()]);
        },
    },
    Change {
        name: "a new channel",
        make: |_, owner| {
            let create = batch(vec![part("new", Lifecycle::Create, 1..=3)]);
            commit(owner.shares[0].as_mut(), &create);
        },
    },
    Change {
        name: "a channel less",
        make: |_, owner| {
            let delete = batch(vec![part("c3", Lifecycle::Delete, NOTHING)]);
            commit(owner.shares[0].as_mut(), &delete);
        },
    },
    Change {
        name: "a channel made anew",
        make: |_, owner| {
            let delete = batch(vec![part("c3", Lifecycle::Delete, NOTHING)]);
            commit(owner.shares[0].as_mut(), &delete);
            let mut create = part("c3", Lifecycle::Create, 1..=5);
            create.subscriptions = vec![
                SubscriptionWrite::Create(Box::new(subscription(2))),
                SubscriptionWrite::Sent(SubscriptionId(2), Sequence(3)),
            ];
            commit(owner.shares[0].as_mut(), &batch(vec![create]));
        },
    },
    Change {
        name: "a lost index",
        make: |root, _| fs::remove_file(root.join("c3/msgs.1.idx")).unwrap(),
    },
    Change {
        name: "another file of the same length",
        make: |root, _| {
            let path = root.join("c3/subs.dat");
            let mut bytes = fs::read(root.join("c3/subs.dat")).unwrap();
            bytes.truncate(4);
            bytes.resize(fs::metadata(&path).unwrap().len().try_into().unwrap(), 0);
            fs::write(root.join("other"), bytes).unwrap();
            fs::rename(root.join("other"), path).unwrap();
        },
    },
];

fn more(sequence: u64) -> Vec<stanby::base::record::MessageRecord> {
    vec![message_at("c3", sequence, 0)]
}

fn write(owner: &mut Opened, change: impl Fn(&mut stanby::base::record::ChannelBatch)) {
    let mut part = part("c3", Lifecycle::Keep, NOTHING);
    change(&mut part);
    commit(owner.shares[0].as_mut(), &batch(vec![part]));
}

/// Waits until a change made now has another time than all before it.
fn next_tick(root: &Path) {
    let probe = root.join(".probe");
    let time = || {
        fs::File::create(&probe).unwrap().write_all(b"x").unwrap();
        RealDisk.open_root(root).unwrap().stamp(b".probe").unwrap().changed_at
    };
    let first = time();
    while time() == first {}
    fs::remove_file(&probe).unwrap();
}

/// Goal: whatever the owner changed after the look is found by the take-over, on the real disk: by
/// what the kernel tells, and by its stamps.
#[test]
fn what_changed_after_the_look_is_read_again() {
    for (change, has_watch) in CHANGES.iter().flat_map(|it| [(it, true), (it, false)]) {
        let root = tempfile::tempdir().unwrap();
        let mut owner = filled(root.path());
        let options = FileOptions::new(root.path());
        if !RealDisk.open_root(root.path()).unwrap().can_sync_filesystem() {
            assert!(Survey::take(&RealDisk, &options, now(0).wall).unwrap().is_none());
            left_out::note("a file system for temporary files that is ext4, xfs or btrfs");
            return;
        }
        let limits = disk();
        limits.has_watch.store(has_watch, Ordering::Relaxed);
        limits.has_real_stamps.store(true, Ordering::Relaxed);
        let later = WallTime(world::now().wall.0 * 2);
        let survey = take(root.path(), &limits, later);
        assert_eq!(survey.channel_count(), CHANNELS);
        next_tick(root.path());
        (change.make)(root.path(), &mut owner);
        drop(owner);
        let disk = Arc::new(LimitedDisk(limits));
        let warm = take_over(disk, root.path(), Predecessor::Clean, Some(survey));
        let cold = open(root.path());
        let how = if has_watch { "watched" } else { "by stamps" };
        assert_eq!(warm.recovered, cold.recovered, "after {}, {how}", change.name);
    }
}

/// Goal: a standby writes nothing; what has to be repaired is left to the take-over, which tells.
#[test]
fn a_standby_repairs_nothing() {
    let root = tempfile::tempdir().unwrap();
    drop(filled(root.path()));
    let path = |name: &str| root.path().join(name);
    let append = |name: &str, bytes: &[u8]| {
        let mut file = fs::File::options().append(true).open(path(name)).unwrap();
        file.write_all(bytes).unwrap();
    };
    append("c1/msgs.1.dat", b"a tail without an index");
    append("c2/subs.dat", b"torn");
    fs::remove_file(path("c3/msgs.1.idx")).unwrap();
    append("c4/msgs.1.idx", b"torn");
    fs::rename(path("c5/subs.dat"), path("c5/removed.9.subs.dat")).unwrap();
    fs::write(path("c6/msgs.2.dat"), b"").unwrap();
    let before = content(root.path());
    let limits = disk();
    let survey = take(root.path(), &limits, now(0).wall);
    assert_eq!(content(root.path()), before);
    let unseen = |number: &usize| !survey.has_seen(format!("c{number}").as_bytes());
    assert_eq!((0..CHANNELS).filter(unseen).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let disk = Arc::new(LimitedDisk(limits));
    let warm = take_over(disk, root.path(), Predecessor::Gone, Some(survey));
    assert!(warm.notices.len() >= 3, "{:?}", warm.notices);
    assert!(warm.recovered.channels.iter().all(|channel| channel.state.last == Sequence(5)));
}

/// Goal: who met a failed sync believes nothing of what it saw, as a later sync proves nothing; and
/// where stamps cannot be believed there is no survey.
#[test]
fn a_failed_sync_is_believed_by_nobody() {
    let root = tempfile::tempdir().unwrap();
    drop(filled(root.path()));
    let limits = disk();
    limits.sync_error.store(5, Ordering::Relaxed);
    let options = FileOptions::new(root.path());
    let limited = || LimitedDisk(Arc::clone(&limits));
    assert!(Survey::take(&limited(), &options, now(0).wall).is_err());
    limits.can_sync_filesystem.store(false, Ordering::Relaxed);
    assert!(Survey::take(&limited(), &options, now(0).wall).unwrap().is_none());
    assert!(Surveyor::spawn(&limited(), &options).unwrap().is_none());
}

fn slice_files(root: &Path) -> usize {
    let is_slice = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "dat");
    content(root).keys().filter(|path| is_slice(path) && !path.ends_with("subs.dat")).count()
}

/// Goal: a last batch over many channels is written anew only if a sync of it can have failed:
/// whoever had the root open all the while is told of that.
#[test]
fn a_wide_last_batch_is_written_anew_only_if_a_sync_can_have_failed() {
    // When this process began to watch, against messages of which the newest is at 0 s.
    for (watched_since, is_rewritten) in [(Some(-10), false), (Some(10), true), (None, true)] {
        let root = tempfile::tempdir().unwrap();
        drop(filled(root.path()));
        let limits = disk();
        let at = |seconds: i64| WallTime(now(0).wall.0 + seconds * 1_000_000_000);
        let survey = watched_since.map(|seconds| {
            let mut survey = take(root.path(), &limits, at(seconds));
            // The batch came after the last look.
            survey.forget();
            survey
        });
        let before = content(root.path());
        let numbers = slice_files(root.path());
        let disk = Arc::new(LimitedDisk(limits));
        let mut warm = take_over(disk, root.path(), Predecessor::Gone, survey);
        // What was written anew goes later.
        warm.shares[0].close().unwrap();
        let same = before.iter().all(|(path, bytes)| fs::read(path).is_ok_and(|now| now == *bytes));
        assert_eq!(same, !is_rewritten, "watched since {watched_since:?} s");
        assert_eq!(slice_files(root.path()), numbers);
        assert!(warm.recovered.channels.iter().all(|channel| channel.state.last == Sequence(5)));
        drop(warm);
        assert_eq!(open(root.path()).recovered.channels.len(), CHANNELS);
    }
}

/// Goal: a failure that is told at the take-over is not passed over.
#[test]
fn a_sync_that_failed_unseen_stops_the_take_over() {
    let root = tempfile::tempdir().unwrap();
    drop(filled(root.path()));
    let limits = disk();
    let mut survey = take(root.path(), &limits, WallTime(now(0).wall.0 - 10_000_000_000));
    survey.forget();
    limits.sync_error.store(5, Ordering::Relaxed);
    let opening = Opening {
        options: &FileOptions::new(root.path()),
        limits: &StoreLimits::default(),
        fence: Arc::new(Unfenced),
        predecessor: Predecessor::Gone,
        loops: 1,
        now: now(1),
        survey: Some(survey),
    };
    assert!(file::open_on(Arc::new(LimitedDisk(limits)), opening).is_err());
}
