//! A disk without room for another file, or another byte: somebody becomes active all the same,
//! delivers and takes acknowledgements. Publishes are refused where they need what is not there,
//! and taken again as soon as there is room.
//!
//! The disk is a real one, in memory, that a neighbour has filled.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/left_out.rs"]
mod left_out;
#[path = "support/stores.rs"]
mod stores;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, Predecessor};
use stanby::base::id::{Sequence, SubscriptionId};
use stanby::base::record::{Batch, ClientWrite, CommitReport, Lifecycle, SubscriptionWrite};
use stanby::base::reserve;
use stanby::election::lease::{Attempt, Grant, Lease, Owner};
use stanby::proto::spb;
use stanby::site::file_lock::FileLease;
use stanby::store::file::{self, FileOptions};
use stanby::store::{Opened, Store};

use stores::{NOTHING, batch, fetch, now, part, subscription};

/// More than a take-over makes.
const FREE_FILES_MAX: usize = 40;
const FILES: usize = 200;
const PAGE: usize = 4_096;
const PAGES: usize = 1_000;
const NO_ROOM: &str = "no space left on device";

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    Files,
    Bytes,
}

/// One test at a time: until `mount` has begun it is a copy of this process, locks and all.
static ALONE: Mutex<()> = Mutex::new(());

/// A small file system of its own.
struct Mounted {
    root: PathBuf,
    filling: PathBuf,
    _folder: tempfile::TempDir,
}

impl Mounted {
    fn try_new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={},nr_inodes={FILES}", PAGES * PAGE);
        let mut mounting = Command::new("mount");
        mounting.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let output = mounting.output();
        if !output.as_ref().is_ok_and(|output| output.status.success()) {
            let _ = writeln!(io::stderr(), "no file system can be mounted: {output:?}");
            left_out::note("a file system in memory that can be mounted (root)");
            return None;
        }
        let [root, filling] = ["store", "filling"].map(|name| folder.path().join(name));
        fs::create_dir(&filling).unwrap();
        Some(Self { root, filling, _folder: folder })
    }

    /// Leaves room for so much, and no more.
    fn fill(&self, short: Short, free: usize) {
        let name = |number: usize| self.filling.join(number.to_string());
        let mut count = 0;
        let full = match short {
            Short::Files => loop {
                match fs::File::create_new(name(count)) {
                    Ok(_) => count += 1,
                    Err(error) => break error,
                }
            },
            Short::Bytes => {
                let mut file = fs::File::create_new(name(0)).unwrap();
                let full = loop {
                    match file.write_all(&[1; PAGE]) {
                        Ok(()) => count += 1,
                        Err(error) => break error,
                    }
                };
                file.set_len(u64::try_from((count - free) * PAGE).unwrap()).unwrap();
                full
            }
        };
        assert!(reserve::is_no_room(&full), "{full}");
        if short == Short::Files {
            (count - free..count).for_each(|number| fs::remove_file(name(number)).unwrap());
        }
    }

    fn make_room(&self) {
        for entry in fs::read_dir(&self.filling).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    fn lease(&self, member: &str) -> FileLease {
        let owner = Owner { server_id: member.to_owned(), ..Owner::default() };
        FileLease::new(&self.root, owner, Duration::from_secs(5))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mounted = self.root.parent().unwrap();
        let _ = Command::new("umount").arg("-l").arg(mounted).output();
    }
}

/// A member that serves.
struct Active {
    _lease: FileLease,
    epoch: Epoch,
    opened: Opened,
}

impl Active {
    fn new(mut lease: FileLease, root: &Path) -> Self {
        let (fence, predecessor) = match lease.try_take().unwrap() {
            Attempt::Won(Grant { fence, predecessor, .. }) => (fence, predecessor),
            Attempt::Held { why, .. } => panic!("somebody else is active: {why}"),
        };
        let epoch = fence.epoch();
        let opened = open(root, fence, predecessor);
        Self { _lease: lease, epoch, opened }
    }

    fn store(&mut self) -> &mut dyn Store {
        self.opened.shares[0].as_mut()
    }

    fn commit(&mut self, batch: &Batch) -> CommitReport {
        let epoch = self.epoch;
        let report = self.store().commit(epoch, batch).unwrap();
        self.store().maintain(now(2)).unwrap();
        report
    }

    /// Whether the message was taken; if not, it was for want of room.
    fn publish(&mut self, channel: &str, lifecycle: Lifecycle, sequence: u64) -> bool {
        let part = part(channel, lifecycle, sequence..=sequence);
        let report = self.commit(&batch(vec![part]));
        let refused = &report.channels[0].refused;
        assert!(refused.as_ref().is_none_or(|text| text.contains(NO_ROOM)), "{refused:?}");
        refused.is_none()
    }

    /// What goes on whatever there is no room for.
    fn acknowledge(&mut self, channel: &str, sequence: u64) {
        let mut part = part(channel, Lifecycle::Keep, NOTHING);
        part.subscriptions = vec![SubscriptionWrite::Acked(SubscriptionId(1), Sequence(sequence))];
        let report = self.commit(&batch(vec![part]));
        assert_eq!(report.channels[0].refused, None, "{channel}");
    }

    fn register(&mut self, client: &str) {
        let id = client.as_bytes().to_vec().into();
        let info = spb::ClientInfo { id, ..spb::ClientInfo::default() };
        let report = self.commit(&Batch { clients: vec![ClientWrite::Add(info)], ..batch(vec![]) });
        assert_eq!(report.clients_refused, None);
    }
}

fn open(root: &Path, fence: Arc<dyn Fence>, predecessor: Predecessor) -> Opened {
    let options = FileOptions::new(root);
    file::open(&options, &StoreLimits::default(), fence, predecessor, 1, now(1)).unwrap()
}

const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// Ten messages in each channel, all delivered, none acknowledged.
fn live(active: &mut Active) {
    active.register("before");
    let parts = CHANNELS.map(|channel| {
        let mut part = part(channel, Lifecycle::Create, 1..=10);
        part.subscriptions.push(SubscriptionWrite::Create(Box::new(subscription(1))));
        let sent = |sequence| SubscriptionWrite::Sent(SubscriptionId(1), Sequence(sequence));
        part.subscriptions.extend((1..=10).map(sent));
        part
    });
    let report = active.commit(&batch(Vec::from(parts)));
    assert!(report.channels.iter().all(|one| one.refused.is_none()), "{report:?}");
}

fn pending(opened: &Opened, channel: &str) -> Vec<u64> {
    let channels = &opened.recovered.channels;
    let found = channels.iter().find(|one| one.channel.as_bytes() == channel.as_bytes()).unwrap();
    found.subscriptions[0].pending.iter().map(|sequence| sequence.0).collect()
}

fn reserve_count(root: &Path) -> usize {
    let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| reserve::file_number(name.as_encoded_bytes()).is_some()).count()
}

/// Take-overs one after the other with so much room, by members that stand by (they have a claim
/// ready) or are started on the full disk.
fn take_over(short: Short, free: usize, stands_by: bool) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mounted) = Mounted::try_new() else { return };
    file::prepare(&FileOptions::new(&mounted.root)).unwrap();
    let mut active = Active::new(mounted.lease("m0"), &mounted.root);
    live(&mut active);
    let mut last = CHANNELS.map(|_| 10);
    let mut acknowledged = 0;
    let standbys: Vec<FileLease> = (1..=3)
        .map(|number| {
            let mut lease = mounted.lease(&format!("m{number}"));
            if stands_by {
                assert!(matches!(lease.try_take().unwrap(), Attempt::Held { .. }));
            }
            lease
        })
        .collect();
    mounted.fill(short, free);
    for (number, lease) in standbys.into_iter().enumerate() {
        // As a kill: nothing is released.
        drop(active);
        file::prepare(&FileOptions::new(&mounted.root)).unwrap();
        active = Active::new(lease, &mounted.root);
        active.register(&format!("client {number}"));
        for (channel, last) in CHANNELS.iter().zip(&mut last) {
            let all: Vec<u64> = (1..=*last).collect();
            assert_eq!(fetch(active.store(), channel, 1), all);
            assert_eq!(
                pending(&active.opened, channel),
                (acknowledged + 1..=10).collect::<Vec<_>>()
            );
            active.acknowledge(channel, acknowledged + 1);
            if active.publish(channel, Lifecycle::Keep, *last + 1) {
                *last += 1;
            }
            active.acknowledge(channel, acknowledged + 2);
        }
        acknowledged += 2;
        if active.publish(&format!("new{number}"), Lifecycle::Create, 1) {
            assert_eq!(fetch(active.store(), &format!("new{number}"), 1), [1]);
        }
    }
    mounted.make_room();
    active.store().maintain(now(3)).unwrap();
    for (channel, last) in CHANNELS.iter().zip(last) {
        assert!(active.publish(channel, Lifecycle::Keep, last + 1));
    }
    assert!(active.publish("roomy", Lifecycle::Create, 1));
    assert_eq!(reserve_count(&mounted.root), usize::from(reserve::FILE_COUNT));
}

/// Rule: everything that a take-over, deliveries and acknowledgements must create is set aside
/// beforehand.
#[test]
fn a_take_over_succeeds_however_few_files_can_be_made() {
    for free in 0..=FREE_FILES_MAX {
        for stands_by in [false, true] {
            take_over(Short::Files, free, stands_by);
        }
    }
}

#[test]
fn a_take_over_succeeds_however_few_bytes_are_left() {
    for free in 0..=FREE_FILES_MAX {
        for stands_by in [false, true] {
            take_over(Short::Bytes, free, stands_by);
        }
    }
}
