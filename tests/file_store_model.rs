//! Random histories of the file store against a model: commits, full disks, kills, take-overs.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/format_checker.rs"]
mod format_checker;
#[path = "support/limited_disk.rs"]
mod limited_disk;
#[path = "support/stores.rs"]
mod stores;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stanby::base::channel_limits::StoreLimits;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use stanby::base::id::{ChannelName, Sequence, SubscriptionId};
use stanby::base::random::Random;
use stanby::base::record::{Batch, ChannelBatch, Lifecycle, SubscriptionWrite};
use stanby::base::time::WallTime;
use stanby::store::Opened;
use stanby::store::file::survey::Survey;
use stanby::store::file::{self, FileOptions, Opening};

use limited_disk::{LimitedDisk, Limits};
use stores::{fetch, message_at, now, subscription};

const MESSAGES_MAX: u64 = 30;

struct AnyEpoch(AtomicU64);

impl Fence for AnyEpoch {
    fn epoch(&self) -> Epoch {
        Epoch(self.0.load(Ordering::Relaxed))
    }

    fn check(&self) -> Result<(), FenceError> {
        Ok(())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ModelChannel {
    first: u64,
    last: u64,
    pending: BTreeMap<u64, BTreeSet<u64>>,
}

struct History<'a> {
    root: &'a Path,
    random: Random,
    limits: Arc<Limits>,
    epoch: u64,
    store: Opened,
    survey: Option<Survey>,
    model: BTreeMap<String, ModelChannel>,
    clock: i64,
}

fn options(root: &Path) -> FileOptions {
    let mut options = FileOptions::new(root);
    options.slice_messages_max = 7;
    options.compact_bytes_min = 0;
    options.compact_interval_secs = 1;
    options.descriptors_max = 9;
    options
}

fn open(
    root: &Path,
    limits: &Arc<Limits>,
    epoch: u64,
    (predecessor, survey): (Predecessor, Option<Survey>),
) -> Opened {
    let options = options(root);
    let mut store_limits = StoreLimits::default();
    store_limits.global.messages_max = MESSAGES_MAX;
    let opening = Opening {
        options: &options,
        limits: &store_limits,
        fence: Arc::new(AnyEpoch(AtomicU64::new(epoch))),
        predecessor,
        loops: 1,
        now: now(1),
        survey,
    };
    file::open_on(Arc::new(LimitedDisk(Arc::clone(limits))), opening).unwrap()
}

impl History<'_> {
    fn channel_batch(&mut self, name: &str) -> (ChannelBatch, ModelChannel) {
        let known = self.model.get(name).cloned();
        let lifecycle = if known.is_some() { Lifecycle::Keep } else { Lifecycle::Create };
        let mut after = known.unwrap_or_default();
        let mut batch =
            ChannelBatch { channel: ChannelName::from(name), lifecycle, ..ChannelBatch::default() };
        for _ in 0..self.random.below(12) {
            after.last += 1;
            self.clock += i64::try_from(self.random.below(400_000_000)).unwrap();
            batch.messages.push(message_at(name, after.last, self.clock));
        }
        after.first = after.first.max(u64::from(after.last != 0));
        after.first = after.first.max((after.last + 1).saturating_sub(MESSAGES_MAX));
        for _ in 0..self.random.below(6) {
            let id = 1 + self.random.below(3);
            let sequence = 1 + self.random.below(40);
            let write = match (after.pending.get_mut(&id), self.random.below(5)) {
                (None, _) => {
                    after.pending.insert(id, BTreeSet::new());
                    SubscriptionWrite::Create(subscription(id).into())
                }
                (Some(_), 0) => {
                    after.pending.remove(&id);
                    SubscriptionWrite::Delete(SubscriptionId(id))
                }
                (Some(pending), 1 | 2) => {
                    pending.remove(&sequence);
                    SubscriptionWrite::Acked(SubscriptionId(id), Sequence(sequence))
                }
                (Some(pending), _) => {
                    pending.insert(sequence);
                    SubscriptionWrite::Sent(SubscriptionId(id), Sequence(sequence))
                }
            };
            batch.subscriptions.push(write);
        }
        (batch, after)
    }

    fn commit(&mut self) {
        let mut batch = Batch { durable: self.random.below(4) != 0, ..Batch::default() };
        let mut after = Vec::new();
        for index in 0..1 + self.random.below(4) {
            let name = format!("channel.{}", index * 3 + self.random.below(3));
            if self.model.contains_key(&name) && self.random.below(12) == 0 {
                let channel = ChannelName::from(name.as_str());
                let lifecycle = Lifecycle::Delete;
                batch.channels.push(ChannelBatch { channel, lifecycle, ..ChannelBatch::default() });
                after.push((name, None));
            } else {
                let (part, model) = self.channel_batch(&name);
                batch.channels.push(part);
                after.push((name, Some(model)));
            }
        }
        let is_full = self.random.below(5) == 0;
        let room = if is_full { self.random.below(1_500).cast_signed() } else { i64::MAX };
        self.limits.room.store(room, Ordering::Relaxed);
        let report = self.store.shares[0].commit(Epoch(self.epoch), &batch).unwrap();
        self.limits.room.store(i64::MAX, Ordering::Relaxed);
        for (outcome, (name, model)) in report.channels.iter().zip(after) {
            assert!(is_full || outcome.refused.is_none(), "{outcome:?}");
            match (&outcome.refused, model) {
                (None, Some(model)) => drop(self.model.insert(name, model)),
                (None, None) => drop(self.model.remove(&name)),
                (Some(_), _) => (),
            }
        }
    }

    /// A successor after a clean stop, a kill, or while the former one has its files open.
    fn take_over(&mut self) {
        self.epoch += 1;
        let predecessor = match self.random.below(3) {
            0 => {
                self.store.shares[0].close().unwrap();
                Predecessor::Clean
            }
            1 => Predecessor::Gone,
            _ => Predecessor::Replaced,
        };
        let survey = self.survey.take();
        let next = open(self.root, &self.limits, self.epoch, (predecessor, survey));
        // What the former one has open is dropped without a close.
        self.store = next;
        self.check_recovered();
    }

    /// A standby looks at everything; much may change until it takes over.
    fn look(&mut self) {
        let disk = LimitedDisk(Arc::clone(&self.limits));
        // Opened before some last batches and after others.
        let at =
            WallTime(now(0).wall.0 + i64::try_from(self.random.below(5)).unwrap() * self.clock / 2);
        self.survey = Survey::take(&disk, &options(self.root), at).unwrap();
        assert!(self.survey.is_some());
    }

    fn check_recovered(&mut self) {
        let found = format_checker::read_store(self.root);
        let recovered: BTreeMap<String, _> = self
            .store
            .recovered
            .channels
            .iter()
            .map(|channel| (channel.channel.to_string(), channel.clone()))
            .collect();
        for (name, model) in &self.model {
            let channel = recovered.get(name).unwrap_or_else(|| panic!("{name} is lost"));
            let state = channel.state;
            assert_eq!((state.first.get(), state.last.get()), (model.first, model.last), "{name}");
            let pending: BTreeMap<u64, BTreeSet<u64>> = channel
                .subscriptions
                .iter()
                .map(|one| (one.state.id, one.pending.iter().map(|at| at.get()).collect()))
                .collect();
            assert_eq!(pending, model.pending, "{name}");
            assert_eq!(found.channels[name].pending, model.pending, "{name}");
            let last = found.channels[name].messages.last().map_or(0, |message| message.sequence);
            assert_eq!(last, model.last, "{name}");
        }
        for name in recovered.keys() {
            assert!(self.model.contains_key(name), "{name} came back");
        }
    }

    fn check_reads(&mut self) {
        let names: Vec<String> = self.model.keys().cloned().collect();
        for name in names {
            let model = &self.model[&name];
            let expected: Vec<u64> = (model.first.max(1)..=model.last).collect();
            assert_eq!(fetch(self.store.shares[0].as_mut(), &name, 0), expected, "{name}");
        }
    }
}

/// Goal: whatever happened, the store holds what it reported, and no more.
#[test]
fn random_histories_keep_what_was_reported() {
    for seed in 0..25 {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits::roomy();
        limits.can_sync_filesystem.store(seed % 4 != 0, Ordering::Relaxed);
        let store = open(root.path(), &limits, 1, (Predecessor::Clean, None));
        let mut history = History {
            root: root.path(),
            random: Random::new(seed),
            limits,
            epoch: 1,
            store,
            survey: None,
            model: BTreeMap::new(),
            clock: 0,
        };
        for _ in 0..40 {
            match history.random.below(8) {
                0 => history.take_over(),
                1 => history.check_reads(),
                2 if seed % 4 != 0 => history.look(),
                _ => history.commit(),
            }
        }
        history.check_reads();
    }
}
