//! A life of a file store in steps, over a disk that can fail, and what must be there afterwards.
//!
//! What was answered is known: it is there, or it is not. What was not answered may be there, whole
//! or its beginning; once it was found so or so, that is known too.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prost::Message;

use stanby::base::channel_limits::{ChannelOverrides, StoreLimits};
use stanby::base::delivery_count::{DeliveryCount, ReaderId};
use stanby::base::delivery_policy::PolicyOverrides;
use stanby::base::epoch::{Epoch, Fence, FenceError, Predecessor};
use stanby::base::id::{ChannelName, ClientId, Sequence, SubscriptionId, Ticket};
use stanby::base::record::{
    Batch, ChannelBatch, ClientWrite, FetchRequest, Lifecycle, MessageRecord, Purge,
    RecoveredChannel, SubscriptionWrite,
};
use stanby::base::time::WallTime;
use stanby::base::world;
use stanby::proto::{pb, spb};
use stanby::store::file::disk::Disk;
use stanby::store::file::survey::Survey;
use stanby::store::file::{self, FileOptions, Opening};
use stanby::store::{Opened, Remedy, StoreError};
use stanby::testing::disk::{FaultDisk, Faults};

use crate::stores::{START, now, subscription};

#[path = "store_model.rs"]
mod store_model;

use store_model::{Known, MESSAGES_MAX, Model, payload_of};

/// How long the messages of `aged` stay.
const AGE_MAX: u64 = 100;

/// The highest epoch of a group, and a member's own.
pub struct SharedFence {
    ours: u64,
    newest: Arc<AtomicU64>,
}

impl Fence for SharedFence {
    fn epoch(&self) -> Epoch {
        Epoch(self.ours)
    }

    fn check(&self) -> Result<(), FenceError> {
        let found = Epoch(self.newest.load(Ordering::SeqCst));
        if found == self.epoch() {
            return Ok(());
        }
        Err(FenceError::Superseded { ours: self.epoch(), found, owner: "successor".to_owned() })
    }
}

/// What a life lies on.
pub trait Ground: Send + Sync {
    /// The disk.
    fn disk(&self) -> Arc<dyn Disk>;
    /// From now on it works.
    fn mend(&self);
    /// Whether anything went wrong on it.
    fn was_faulty(&self) -> bool;
    /// Whether the process is dead, and all that it still does is without effect.
    fn is_dead(&self) -> bool {
        false
    }
}

impl Ground for Arc<Faults> {
    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(FaultDisk(Self::clone(self)))
    }

    fn mend(&self) {
        Faults::mend(self);
    }

    fn was_faulty(&self) -> bool {
        Faults::was_faulty(self)
    }
}

/// One step of a life.
#[derive(Clone, Debug)]
pub enum Step {
    /// So many messages to each of these channels, which are made if they are not there.
    Publish(Vec<(&'static str, u64)>),
    /// The same, and nobody waits for it.
    PublishLater(Vec<(&'static str, u64)>),
    /// Changes of the subscriptions of a channel.
    Subscribe(&'static str, Vec<SubscriptionWrite>),
    /// The server's record and clients.
    Register(Vec<ClientWrite>),
    /// An operator lets go of all messages of a channel but so many; `None`: of everything.
    Purge(&'static str, Option<u64>),
    /// A reader of a channel got these messages, each so often that its count is this; 0 = it needs
    /// none any more: the first reader because it begins anew, the others because of their acks.
    Deliver(&'static str, u8, Vec<(u64, u32)>),
    /// From the next process on deliveries are counted, or are not.
    Count(bool),
    /// The channel goes.
    Delete(&'static str),
    /// Somebody puts a folder with a file into that of a channel.
    Clutter(&'static str),
    /// Somebody makes a folder with a file under the root.
    Litter(&'static str),
    /// A former active takes all files of a channel away.
    Steal(&'static str),
    /// So many seconds go by.
    Wait(u64),
    /// Everything is read.
    Read,
    /// A standby looks at everything.
    Look,
    /// A standby has the root open since before anything was written, and sees nothing.
    Watch,
    /// The process ends, and another one takes over.
    Reopen(Predecessor),
    /// The process is killed, and the files are as a crash leaves them.
    Crash,
}

/// A member of a group over one directory.
pub struct Life {
    root: PathBuf,
    ground: Box<dyn Ground>,
    options: FileOptions,
    newest: Arc<AtomicU64>,
    epoch: u64,
    store: Option<Opened>,
    survey: Option<Survey>,
    pub model: Arc<Mutex<Model>>,
    stamps: i64,
    name: &'static str,
    payloads: u64,
    counts_deliveries: bool,
    pub refused_count: u64,
    pub down_count: u64,
    /// Payloads that were answered for since another member has taken over.
    pub late_acks: Vec<String>,
}

pub fn options(root: &Path) -> FileOptions {
    let mut options = FileOptions::new(root);
    options.slice_messages_max = 3;
    options.compact_bytes_min = 0;
    options.compact_interval_secs = 1;
    options.descriptors_max = 9;
    options
}

impl Life {
    /// The first member; its directory is empty.
    pub fn new(root: &Path, ground: impl Ground + 'static, options: FileOptions) -> Self {
        Self {
            root: root.to_owned(),
            ground: Box::new(ground),
            options,
            newest: Arc::default(),
            epoch: 0,
            store: None,
            survey: None,
            model: Arc::default(),
            stamps: 0,
            name: "a",
            payloads: 0,
            counts_deliveries: true,
            refused_count: 0,
            down_count: 0,
            late_acks: Vec::new(),
        }
    }

    /// A member that knows what the clients of this one were told, over a disk of its own.
    pub fn other(&self, name: &'static str, ground: impl Ground + 'static) -> Self {
        Self {
            newest: Arc::clone(&self.newest),
            stamps: self.stamps + 1_000_000,
            name,
            ..Self::new(&self.root, ground, self.options.clone())
        }
    }

    /// From now on it lies on this.
    pub fn stand_on(&mut self, ground: impl Ground + 'static) {
        self.ground = Box::new(ground);
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn is_superseded(&self) -> bool {
        self.newest.load(Ordering::SeqCst) != self.epoch
    }

    /// Does all steps; ends early if another member has taken over.
    pub fn live(&mut self, steps: &[Step]) {
        for step in steps {
            if self.ground.is_dead() || (self.epoch != 0 && self.is_superseded()) {
                return;
            }
            if self.store.is_none() && self.take_over(Predecessor::Gone).is_err() {
                return;
            }
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(parts) => self.publish(parts, true),
            Step::PublishLater(parts) => self.publish(parts, false),
            Step::Subscribe(channel, writes) => self.subscribe(channel, writes),
            Step::Register(writes) => self.register(writes),
            Step::Delete(channel) => {
                if self.model().channels.contains_key(*channel) {
                    let part = part_of(channel, Lifecycle::Delete);
                    self.commit(Batch { channels: vec![part], durable: true, ..Batch::default() });
                }
            }
            Step::Purge(channel, keep) => self.purge(channel, *keep),
            Step::Deliver(channel, reader, counts) => self.deliver(channel, *reader, counts),
            Step::Count(counts) => self.counts_deliveries = *counts,
            Step::Clutter(channel) => {
                if self.root.join(channel).exists() {
                    fs::create_dir_all(self.root.join(channel).join("backup/of")).unwrap();
                    fs::write(self.root.join(channel).join("backup/of/note"), "mine").unwrap();
                }
            }
            Step::Litter(channel) => {
                fs::create_dir_all(self.root.join(channel)).unwrap();
                fs::write(self.root.join(channel).join("note"), "mine").unwrap();
            }
            Step::Steal(channel) => {
                let folder = self.root.join(channel);
                for entry in fs::read_dir(&folder).into_iter().flatten() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    if name == "subs.dat" || name.starts_with("msgs.") {
                        let away = format!("removed.{}.{name}", self.epoch - 1);
                        fs::rename(folder.join(name), folder.join(away)).unwrap();
                    }
                }
            }
            Step::Wait(seconds) => self.wait(*seconds),
            Step::Read => self.read(),
            Step::Look | Step::Watch => {
                // Later than the last change on the real disk.
                let later = world::now().wall + Duration::from_secs(10);
                let at = if matches!(step, Step::Look) { later } else { WallTime(START) };
                self.survey =
                    Survey::take(self.ground.disk().as_ref(), &self.options, at).ok().flatten();
            }
            Step::Reopen(predecessor) => {
                let mut predecessor = *predecessor;
                if predecessor == Predecessor::Clean && !self.close() {
                    predecessor = Predecessor::Gone;
                }
                let _ = self.take_over(predecessor);
            }
            Step::Crash => {
                self.store = None;
                self.damage();
                let _ = self.take_over(Predecessor::Gone);
            }
        }
    }

    /// What cannot be answered for ends the process.
    fn down(&mut self, error: &StoreError) {
        assert_ne!(error.remedy(), Remedy::Stop, "a fault that passes is not for ever: {error}");
        self.down_count += 1;
        self.store = None;
    }

    fn record(&mut self, channel: &str, sequence: u64) -> (MessageRecord, String) {
        self.payloads += 1;
        self.stamps += 1;
        let payload = format!("{} {}", self.name, self.payloads);
        let seconds = i64::try_from(self.model().seconds).unwrap();
        let timestamp = START + seconds * 1_000_000_000 + self.stamps;
        let encoded = pb::MsgProto {
            sequence,
            subject: channel.as_bytes().to_vec().into(),
            data: payload.as_bytes().to_vec().into(),
            timestamp,
            ..pb::MsgProto::default()
        }
        .encode_to_vec();
        let (sequence, timestamp) = (Sequence(sequence), WallTime(timestamp));
        (MessageRecord { sequence, timestamp, encoded: encoded.into() }, payload)
    }

    pub fn publish(&mut self, parts: &[(&'static str, u64)], durable: bool) {
        let mut batch = Batch { durable, ..Batch::default() };
        for (channel, count) in parts {
            let known = self.model().channels.get(*channel).map(|known| known.last);
            let lifecycle = if known.is_some() { Lifecycle::Keep } else { Lifecycle::Create };
            let mut part = part_of(channel, lifecycle);
            for ahead in 1..=*count {
                let (record, _) = self.record(channel, known.unwrap_or(0) + ahead);
                part.messages.push(record);
            }
            batch.channels.push(part);
        }
        self.commit(batch);
    }

    fn purge(&mut self, channel: &str, keep: Option<u64>) {
        let last = self.model().channels.get(channel).map_or(0, |known| known.last);
        let first = last.saturating_sub(keep.map_or(0, |keep| keep - 1));
        if first == 0 {
            return;
        }
        let stand_in = keep.is_none().then(|| {
            let (record, _) = self.record(channel, last);
            MessageRecord::stand_in(&ChannelName::from(channel), last, record.timestamp)
        });
        let purge = Some(Purge { first: Sequence(first), stand_in });
        let part = ChannelBatch { purge, ..part_of(channel, Lifecycle::Keep) };
        self.commit(Batch { channels: vec![part], durable: true, ..Batch::default() });
    }

    fn subscribe(&mut self, channel: &str, writes: &[SubscriptionWrite]) {
        if !self.model().channels.contains_key(channel) {
            return;
        }
        let mut part = part_of(channel, Lifecycle::Keep);
        part.subscriptions = writes.to_vec();
        self.commit(Batch { channels: vec![part], durable: true, ..Batch::default() });
    }

    fn deliver(&mut self, channel: &str, reader: u8, counts: &[(u64, u32)]) {
        let Some(made) = self.model().made(channel) else { return };
        let count_of = |(sequence, count): &(u64, u32)| DeliveryCount {
            reader: ReaderId([reader; 16]),
            sequence: Sequence(*sequence),
            timestamp: WallTime(made),
            count: *count,
            // The second reader's messages are acknowledged.
            is_gone: *count == 0 && reader == 1,
        };
        let mut part = part_of(channel, Lifecycle::Keep);
        part.deliveries = counts.iter().map(count_of).collect();
        self.commit(Batch { channels: vec![part], durable: true, ..Batch::default() });
    }

    fn register(&mut self, writes: &[ClientWrite]) {
        let server = spb::ServerInfo { cluster_id: "test".into(), ..spb::ServerInfo::default() };
        let server = (!self.model().has_server).then_some(server);
        let clients = writes.to_vec();
        self.commit(Batch { server, clients, durable: true, ..Batch::default() });
    }

    fn commit(&mut self, batch: Batch) {
        let Some(store) = &mut self.store else { return };
        self.model.lock().unwrap().ask(&batch);
        match store.shares[0].commit(Epoch(self.epoch), &batch) {
            Err(error) => self.down(&error.0),
            Ok(report) => {
                if self.is_superseded() {
                    let kept = batch.channels.iter().zip(&report.channels);
                    let kept = kept.filter(|(_, outcome)| outcome.refused.is_none());
                    let messages = kept.flat_map(|(part, _)| &part.messages);
                    self.late_acks.extend(messages.map(payload_of));
                }
                let mut model = self.model.lock().unwrap();
                model.was_faulty |= self.ground.was_faulty();
                model.answer_clients(&batch, report.clients_refused.is_some());
                for (part, outcome) in batch.channels.iter().zip(&report.channels) {
                    assert_eq!(part.channel, outcome.channel);
                    self.refused_count += u64::from(outcome.refused.is_some());
                    model.answer(part, outcome.refused.is_some());
                }
            }
        }
    }

    fn wait(&mut self, seconds: u64) {
        let at = {
            let mut model = self.model();
            model.seconds += seconds;
            model.seconds
        };
        // A share is asked as soon as it is at work.
        for at in [at - seconds, at] {
            let Some(store) = &mut self.store else { return };
            match store.shares[0].maintain(now(at)) {
                Err(error) => self.down(&error),
                Ok(maintained) => {
                    for (name, state) in maintained.trimmed {
                        let mut model = self.model();
                        let known = model.channels.get_mut(&name.to_string()).unwrap();
                        assert!(state.first.get() <= known.last + 1, "{name}");
                        known.first = state.first.get().max(known.first);
                    }
                }
            }
        }
    }

    /// All messages of a channel; `None` if the disk did not let it be read.
    fn fetch(&mut self, name: &str) -> Option<Vec<(u64, String)>> {
        let mut found = Vec::new();
        let mut from = Sequence(1);
        loop {
            let request = FetchRequest {
                ticket: Ticket(0),
                channel: ChannelName::from(name),
                from,
                count_max: 4,
                bytes_max: 1_000,
            };
            match self.store.as_mut()?.shares[0].fetch(&request) {
                Ok(records) => {
                    let Some(last) = records.last() else { return Some(found) };
                    from = last.sequence.next();
                    found.extend(records.iter().map(|one| (one.sequence.get(), payload_of(one))));
                }
                Err(error) if error.remedy() == Remedy::Refuse => return None,
                Err(error) => {
                    self.down(&error);
                    return None;
                }
            }
        }
    }

    fn read(&mut self) {
        let names: Vec<String> = self.model().channels.keys().cloned().collect();
        for name in names {
            let found = self.fetch(&name);
            if self.is_superseded() {
                return;
            }
            if let Some(found) = found {
                let mut model = self.model();
                let may_lose = model.may_lose_unanswered;
                let known = model.channels.get_mut(&name).unwrap();
                known.check_messages(&name, &found, may_lose);
            }
            if let Some(store) = &mut self.store {
                let found = store.shares[0].find_time(&ChannelName::from(&*name), WallTime(START));
                if let Err(error) = found
                    && error.remedy() != Remedy::Refuse
                {
                    self.down(&error);
                }
            }
        }
    }

    /// The process ends without a word.
    pub fn end(&mut self) {
        self.store = None;
        self.survey = None;
    }

    /// Whether everything was synced before the lease was let go.
    pub fn close(&mut self) -> bool {
        let store = self.store.take();
        store.is_some_and(|mut store| store.shares[0].close().is_ok())
    }

    /// The next epoch. A disk that fails is mended after the first try; then nothing may.
    pub fn take_over(&mut self, predecessor: Predecessor) -> Result<(), StoreError> {
        self.store = None;
        for is_last in [false, false, true] {
            let epoch = self.newest.load(Ordering::SeqCst);
            if self.epoch != 0 && self.epoch != epoch && self.name == "a" {
                let (ours, found) = (Epoch(self.epoch), Epoch(epoch));
                let owner = String::new();
                return Err(FenceError::Superseded { ours, found, owner }.into());
            }
            let next =
                self.newest.compare_exchange(epoch, epoch + 1, Ordering::SeqCst, Ordering::SeqCst);
            if next.is_err() {
                continue;
            }
            self.epoch = epoch + 1;
            self.model().seconds += 1;
            match self.open(predecessor) {
                Ok(opened) => {
                    let recovered = opened.recovered.clone();
                    self.store = Some(opened);
                    self.check_recovered(&recovered.channels);
                    let ids = recovered.clients.iter().map(|client| client.id.to_vec()).collect();
                    self.model().check_clients(ids, recovered.server.is_some());
                    return Ok(());
                }
                Err(StoreError::Fenced(error)) if self.is_superseded() => return Err(error.into()),
                Err(error) if self.ground.is_dead() => return Err(error),
                Err(error) => {
                    assert_ne!(
                        error.remedy(),
                        Remedy::Stop,
                        "what passes is not for ever: {error}"
                    );
                    assert!(!is_last, "the disk works, and the store cannot be opened: {error}");
                    self.down_count += 1;
                    self.ground.mend();
                }
            }
        }
        unreachable!("the last try succeeds or panics");
    }

    fn open(&mut self, predecessor: Predecessor) -> Result<Opened, StoreError> {
        let mut limits = StoreLimits::default();
        limits.global.messages_max = u64::try_from(MESSAGES_MAX).unwrap();
        let age_max = Some(Duration::from_secs(AGE_MAX));
        let section = ChannelOverrides { age_max, ..ChannelOverrides::default() };
        limits.per_channel.insert(ChannelName::from("aged"), section);
        if self.counts_deliveries {
            let dead_letter = Some(ChannelName::from("dead"));
            let policy = PolicyOverrides {
                deliveries_max: Some(9),
                dead_letter,
                ..PolicyOverrides::default()
            };
            limits.per_channel.insert(ChannelName::from("foo"), ChannelOverrides::default());
            limits.policies.per_channel.insert(ChannelName::from("foo"), policy);
        } else {
            let mut model = self.model();
            model.channels.values_mut().for_each(|known| known.counts.clear());
        }
        let disk = self.ground.disk();
        if file::prepare_on(disk.as_ref(), &self.options).is_err() {
            // The process ends, and is started again.
            self.ground.mend();
            self.down_count += 1;
            if self.ground.is_dead() {
                return Err(StoreError::Unusable("it is dead".to_owned()));
            }
            file::prepare_on(disk.as_ref(), &self.options).unwrap();
        }
        let at = now(self.model().seconds);
        let opening = Opening {
            options: &self.options,
            limits: &limits,
            fence: Arc::new(SharedFence { ours: self.epoch, newest: Arc::clone(&self.newest) }),
            predecessor,
            loops: 1,
            now: at,
            survey: self.survey.take(),
        };
        file::open_on(disk, opening)
    }

    fn check_recovered(&mut self, recovered: &[RecoveredChannel]) {
        let by_name: BTreeMap<String, &RecoveredChannel> =
            recovered.iter().map(|found| (found.channel.to_string(), found)).collect();
        for (name, found) in &by_name {
            let mut model = self.model();
            if let Some(mut ways) = model.deleted.remove(name)
                && self.ground.was_faulty()
            {
                // Whole, or not at all; or as a creation that nobody was told of has made it.
                if model.channels.get(name).is_some_and(|known| known.may_be_missing) {
                    ways.extend(model.channels.remove(name));
                }
                let last = found.state.last.get();
                let fits = |known: &Known| {
                    let ahead = u64::try_from(known.unknown.len()).unwrap();
                    (known.last..=known.last + ahead).contains(&last)
                };
                let mut known = ways.swap_remove(ways.iter().position(fits).unwrap_or(0));
                // They were let go of with it, and nobody needs to know what is left of them.
                known.counts.clear();
                known.made = 0;
                model.channels.entry(name.clone()).or_insert(known);
            }
            assert!(model.channels.contains_key(name), "{name} came back, or from nowhere");
        }
        self.model().deleted.clear();
        let (has_late_one, may_lose) = {
            let model = self.model();
            (model.has_late_one, model.may_lose_unanswered)
        };
        let names: Vec<String> = self.model().channels.keys().cloned().collect();
        for name in names {
            let Some(found) = by_name.get(&name) else {
                let known = self.model().channels.remove(&name).unwrap();
                assert!(known.may_be_missing, "{name} is lost: {known:?}");
                continue;
            };
            let mut messages = self.fetch(&name);
            if messages.is_none() && self.store.is_some() {
                messages = self.fetch(&name);
            }
            let Some(messages) = messages else { return };
            if self.is_superseded() {
                return;
            }
            let mut model = self.model();
            let known = model.channels.get_mut(&name).unwrap();
            known.may_be_missing = false;
            let late = std::mem::take(&mut known.late);
            known.unknown.extend(late);
            let left = known.check_messages(&name, &messages, may_lose);
            if has_late_one {
                known.late = left;
            }
            assert_eq!(known.last, found.state.last.get(), "{name}");
            if !messages.is_empty() && name != "aged" {
                assert_eq!(messages.len() as u64, found.state.message_count, "{name}: as counted");
            }
            known.first = known.first.max(found.state.first.get());
            known.check_pending(&name, found, (has_late_one, may_lose));
            known.check_counts(&name, &found.deliveries, has_late_one || may_lose);
            model.kept.extend(messages.into_iter().map(|(_, payload)| payload));
        }
    }

    fn path_of(&self, channel: &str, number: u64, kind: &str) -> PathBuf {
        self.root.join(channel).join(format!("msgs.{number}.{kind}"))
    }

    /// The numbers of a channel's slices.
    fn slices(&self, channel: &str) -> Vec<u64> {
        let names = fs::read_dir(self.root.join(channel)).into_iter().flatten();
        let mut numbers: Vec<u64> = names
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.strip_prefix("msgs.")?.strip_suffix(".dat")?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// What a crash of the machine may leave, behind and beside what was answered for.
    fn damage(&self) {
        let write = |path: &str, bytes: &[u8]| {
            if self.root.join(path).parent().unwrap().exists() {
                fs::write(self.root.join(path), bytes).unwrap();
            }
        };
        append(self.root.join("clients.dat"), &[0; 8]);
        fs::write(self.root.join("cut.1.clients.dat.99"), "of an earlier release").unwrap();
        // What was prepared to replace a file, in a folder that is a mount.
        write("foo/.stanby.replacement.1.1", &[1, 0, 0, 0]);
        // A header that came later than the length of its file.
        if self.root.join("bar/subs.dat").exists() {
            write("bar/subs.dat", &[0; 9]);
        }
        // A deletion that was decided, and not finished.
        fs::create_dir_all(self.root.join("gone")).unwrap();
        write("gone/deleted.1.subs.dat", &[1, 0, 0, 0]);
        write("gone/removed.1.msgs.1.dat", &[1, 0, 0, 0]);
        // Removals that were not finished, slices that were just begun, a header that was cut off.
        if self.root.join("qux/subs.dat").exists() {
            write("qux/removed.1.msgs.777.idx", &[1, 0, 0, 0]);
            write("qux/removed.1.subs.dat", &[1, 0, 0, 0]);
            write("qux/msgs.900000.idx", &[1, 0, 0, 0]);
            write("qux/subs.dat", &[1, 0]);
        }
        if self.root.join("foo/subs.dat").exists() {
            // The index of a copy that was not in use yet, whose data was never written.
            if let Some(last) = self.slices("foo").last() {
                let copy = self.path_of("foo", 850_000, "idx");
                let _ = fs::copy(self.path_of("foo", *last, "idx"), copy);
            }
            write("foo/msgs.800000.dat", &[1, 0, 0, 0]);
            write("foo/msgs.800000.idx", &[]);
            write("foo/msgs.700000.dat", &[0; 4]);
            write("foo/msgs.700000.idx", &[1, 0, 0, 0]);
        }
        append(self.root.join("foo/subs.dat"), &[40, 0, 0, 5, 1]);
        self.damage_slices();
    }

    fn damage_slices(&self) {
        if let [first, .., last] = self.slices("foo")[..] {
            append(self.path_of("foo", last, "dat"), b"half a record");
            for kind in ["dat", "idx"] {
                let away = format!("foo/removed.{}.msgs.{first}.{kind}", self.epoch);
                let _ = fs::rename(self.path_of("foo", first, kind), self.root.join(away));
            }
        }
        if let Some(last) = self.slices("bar").last() {
            spoil(&self.path_of("bar", *last, "idx"), 12..13);
        }
        if let Some(last) = self.slices("aged").last() {
            let _ = fs::remove_file(self.path_of("aged", *last, "idx"));
            spoil(&self.path_of("aged", *last, "dat"), 0..4);
        }
        if let Some(last) = self.slices("qux").last() {
            let index = fs::read(self.path_of("qux", *last, "idx")).unwrap_or_default();
            let _ = fs::remove_file(self.path_of("qux", *last, "dat"));
            let records = index.get(4..).unwrap_or_default().chunks_exact(32);
            let named = records.map(|record| u64::from_le_bytes(*record.first_chunk().unwrap()));
            if let Some(known) = self.model().channels.get_mut("qux") {
                named.for_each(|sequence| known.lose(sequence));
            }
        }
    }
}

fn append(path: PathBuf, bytes: &[u8]) {
    if let Ok(mut file) = fs::File::options().append(true).open(path) {
        file.write_all(bytes).unwrap();
    }
}

/// Writes zeros into a file.
fn spoil(path: &Path, range: Range<usize>) {
    if let Ok(mut bytes) = fs::read(path)
        && let Some(part) = bytes.get_mut(range)
    {
        part.fill(0);
        fs::write(path, bytes).unwrap();
    }
}

fn part_of(channel: &str, lifecycle: Lifecycle) -> ChannelBatch {
    ChannelBatch { channel: ChannelName::from(channel), lifecycle, ..ChannelBatch::default() }
}

/// A client of that ID is added.
pub fn client(id: &'static str) -> ClientWrite {
    let (id, hb_inbox) = (id.as_bytes().into(), "inbox".into());
    ClientWrite::Add(spb::ClientInfo { id, hb_inbox, ..spb::ClientInfo::default() })
}

fn new(number: u64) -> SubscriptionWrite {
    SubscriptionWrite::Create(subscription(number).into())
}

fn sent(number: u64, at: u64) -> SubscriptionWrite {
    SubscriptionWrite::Sent(SubscriptionId(number), Sequence(at))
}

fn acked(number: u64, at: u64) -> SubscriptionWrite {
    SubscriptionWrite::Acked(SubscriptionId(number), Sequence(at))
}

/// All that can happen to channels, subscriptions and clients.
pub fn whole_life() -> Vec<Step> {
    let mut steps = life_of_one_member();
    steps.extend(life_of_successors());
    steps
}

fn life_of_one_member() -> Vec<Step> {
    use Step::{
        Clutter, Delete, Deliver, Publish, PublishLater, Read, Register, Reopen, Subscribe, Wait,
    };
    use SubscriptionWrite::{Delete as Forget, Update};
    vec![
        Register(vec![client("me"), client("you")]),
        Publish(vec![("foo", 2), ("bar", 1)]),
        Subscribe("foo", vec![new(1), new(2), sent(1, 1), sent(1, 2)]),
        Deliver("foo", 1, vec![(1, 1), (2, 1)]),
        PublishLater(vec![("foo", 4)]),
        Deliver("foo", 1, vec![(1, 2)]),
        PublishLater(vec![("foo", 5), ("bar", 1)]),
        Subscribe("foo", vec![sent(2, 1), acked(1, 1), Update(subscription(2).into())]),
        Wait(2),
        Register(vec![ClientWrite::Delete(ClientId::from("you")), client("her")]),
        Publish(vec![("foo", 6)]),
        Subscribe("foo", vec![acked(1, 2), Forget(SubscriptionId(2))]),
        Publish(vec![("aged", 4)]),
        Wait(60),
        Publish(vec![("aged", 2), ("bar", 2)]),
        Read,
        Deliver("bar", 1, vec![(1, 3)]),
        Wait(60),
        Clutter("bar"),
        Delete("bar"),
        Publish(vec![("bar", 2), ("baz", 1)]),
        Delete("baz"),
        Reopen(Predecessor::Clean),
        Register(vec![client("them")]),
        // What was found is let go of, and its file written anew.
        Deliver("foo", 1, vec![(1, 0), (2, 2), (3, 1)]),
        Deliver("foo", 2, (1..8).map(|sequence| (sequence, 1)).collect()),
        Deliver("foo", 2, (1..8).map(|sequence| (sequence, 0)).collect()),
        Deliver("foo", 1, vec![(3, 2)]),
        // By now those of the second reader are let go of, and this says so.
        Deliver("foo", 1, vec![(3, 2)]),
        Wait(1),
        Deliver("foo", 1, vec![(3, 3)]),
    ]
}

fn life_of_successors() -> Vec<Step> {
    use Step::{
        Crash, Delete, Deliver, Litter, Look, Publish, Purge, Read, Register, Reopen, Steal,
        Subscribe, Wait,
    };
    vec![
        Litter("lit"),
        Litter("lost+found"),
        Publish(vec![("foo", 1), ("bar", 1), ("lit", 1)]),
        Reopen(Predecessor::Gone),
        Publish(vec![("foo", 4), ("aged", 1)]),
        Subscribe("foo", vec![new(3), sent(3, 7)]),
        Look,
        Reopen(Predecessor::Gone),
        Publish(vec![("bar", 1)]),
        Reopen(Predecessor::Replaced),
        Publish(vec![("foo", 4), ("qux", 1)]),
        Deliver("foo", 1, vec![(2, 3)]),
        Purge("foo", Some(3)),
        // What could not be finished is tried again while what it was about is still open.
        Wait(2),
        Publish(vec![("foo", 1)]),
        Purge("foo", Some(2)),
        Publish(vec![("foo", 1)]),
        Crash,
        Register(vec![client("him")]),
        Steal("foo"),
        Read,
        Publish(vec![("foo", 1), ("bar", 1), ("aged", 1), ("qux", 1), ("lit", 1)]),
        Subscribe("foo", vec![acked(3, 7)]),
        Purge("qux", None),
        Purge("bar", Some(1)),
        Wait(101),
        Delete("aged"),
        Publish(vec![("aged", 1)]),
        Read,
    ]
}

/// A short life with a channel that is a mount.
pub fn mounted_life() -> Vec<Step> {
    let publish = |count| Step::Publish(vec![("foo", count), ("mnt", count)]);
    vec![
        Step::Register(vec![client("me")]),
        publish(2),
        Step::Subscribe("mnt", vec![new(1)]),
        publish(4),
        Step::Reopen(Predecessor::Gone),
        publish(2),
        Step::Reopen(Predecessor::Clean),
        publish(4),
        Step::Deliver("mnt", 1, vec![(9, 1)]),
        Step::Purge("mnt", Some(2)),
        Step::Delete("mnt"),
        publish(1),
        // What could not be read of the oldest messages is read again.
        Step::Count(false),
        Step::Reopen(Predecessor::Gone),
        Step::Read,
    ]
}

/// A short life in which files are set aside when the next one takes over: what comes before that,
/// and what comes then.
pub fn reserved_life() -> [Vec<Step>; 2] {
    let before = vec![
        Step::Register(vec![client("me")]),
        Step::Publish(vec![("foo", 2), ("bar", 1)]),
        Step::Deliver("foo", 1, vec![(1, 1)]),
        Step::Wait(1),
    ];
    [before, vec![Step::Reopen(Predecessor::Gone), Step::Read]]
}

/// A short life with more channels than are synced one by one.
pub fn wide_life() -> Vec<Step> {
    let names = (0..70).map(|number| &*format!("wide.{number}").leak());
    let wide: Vec<(&'static str, u64)> = names.map(|name| (name, 1)).collect();
    vec![
        Step::Register(vec![client("me")]),
        Step::Publish(wide.clone()),
        Step::Reopen(Predecessor::Gone),
        Step::Publish(wide),
        Step::Watch,
        Step::Reopen(Predecessor::Gone),
        Step::Read,
    ]
}
