//! Names of our files are no names of channels, whatever a channel is called.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/stores.rs"]
mod stores;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use stanby::base::record::{ClientWrite, Lifecycle};
use stanby::proto::spb;
use stanby::store::Opened;
use stanby::store::file::{self, FileOptions};

use stores::{batch, fetch, now, part};

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

fn open_epoch(root: &Path, epoch: u64, predecessor: Predecessor) -> Opened {
    let options = FileOptions::new(root);
    let fence = Arc::new(Held(epoch));
    file::open(&options, &StoreLimits::default(), fence, predecessor, 1, now(1)).unwrap()
}

/// Goal: channels that are called as our files were, or are, live through take-overs.
#[test]
fn channels_may_be_called_like_our_files() {
    let root = tempfile::tempdir().unwrap();
    let mut names: Vec<String> = (1..=3)
        .flat_map(|epoch| (0..40).map(move |n| format!("stanby.replacement.{epoch}.{n}")))
        .collect();
    names.extend(
        ["cut.1.clients.dat.4", "removed.1.subs.dat", "stanby.epoch.2", "subs.dat", "msgs.1.dat"]
            .map(str::to_owned),
    );
    let all = |lifecycle, sequence: u64| {
        let parts = names.iter().map(|name| part(name, lifecycle, sequence..=sequence));
        batch(parts.collect())
    };
    let mut opened = open_epoch(root.path(), 1, Predecessor::Clean);
    let report = opened.shares[0].commit(Epoch(1), &all(Lifecycle::Create, 1)).unwrap();
    assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
    drop(opened);
    for (epoch, predecessor) in [(2, Predecessor::Gone), (3, Predecessor::Replaced)] {
        let mut opened = open_epoch(root.path(), epoch, predecessor);
        assert_eq!(opened.recovered.channels.len(), names.len());
        let next = all(Lifecycle::Keep, epoch);
        let report = opened.shares[0].commit(Epoch(epoch), &next).unwrap();
        assert!(report.channels.iter().all(|outcome| outcome.refused.is_none()), "{report:?}");
        for name in &names {
            assert_eq!(fetch(opened.shares[0].as_mut(), name, 0), (1..=epoch).collect::<Vec<_>>());
        }
    }
}

/// Goal: every file that we make under the root has a name that no channel can have: it begins
/// with a dot, as no subject does.
#[test]
fn files_of_ours_under_the_root_begin_with_a_dot() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open_epoch(root.path(), 1, Predecessor::Clean);
    let mut first = batch(vec![part("foo", Lifecycle::Create, 1..=3)]);
    let info = spb::ClientInfo { id: "me".into(), ..spb::ClientInfo::default() };
    first.clients = vec![ClientWrite::Add(info)];
    opened.shares[0].commit(Epoch(1), &first).unwrap();
    drop(opened);
    let clients = root.path().join("clients.dat");
    let whole = fs::read(&clients).unwrap();
    fs::write(&clients, [whole.as_slice(), b"torn"].concat()).unwrap();
    // As an earlier release left them.
    fs::write(root.path().join("stanby.replacement.1.7"), "late").unwrap();
    fs::write(root.path().join("cut.1.clients.dat.99"), "kept").unwrap();
    let mut opened = open_epoch(root.path(), 2, Predecessor::Gone);
    opened.shares[0].commit(Epoch(2), &batch(vec![part("foo", Lifecycle::Keep, 4..=4)])).unwrap();
    let mut names: Vec<String> = fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    assert_eq!(names, ["clients.dat", "foo", "server.dat"]);
    let kept = root.path().join(".stanby.cut.1.clients.dat.99");
    assert_eq!(fs::read(kept).unwrap(), b"kept");
    let torn = root.path().join(format!(".stanby.cut.2.clients.dat.{}", whole.len()));
    assert_eq!(fs::read(torn).unwrap(), b"torn");
}
