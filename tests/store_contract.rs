//! One suite, every Store.
//!
//! A store joins by one line in `kinds`. Every goal runs with one loop and with several.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/databases.rs"]
mod databases;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use stanby::base::channel_limits::{ChannelLimits, ChannelOverrides, StoreLimits};
use stanby::base::delivery_count::{DeliveryCount, ReaderId};
use stanby::base::delivery_policy::PolicyOverrides;
use stanby::base::encryption::{Cipher, Secret, StoreKey};
use stanby::base::epoch::{Epoch, Predecessor, Unfenced};
use stanby::base::id::{ChannelName, ClientId, Sequence, SubscriptionId, Ticket};
use stanby::base::placement;
use stanby::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, ClientWrite, FetchRequest, Lifecycle,
    MessageRecord, Purge, RecoveredChannel, RecoveredState, SubscriptionWrite,
};
use stanby::base::time::{Now, WallTime};
use stanby::base::world;
use stanby::config::StoreKind;
use stanby::proto::{pb, spb};
use stanby::store::encryption::{self, payload::OVERHEAD};
use stanby::store::file::format::MESSAGE_OVERHEAD;
use stanby::store::file::{self, FileOptions};
use stanby::store::{self, Opened};

/// One kind of store, as the suite sees it.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    /// Whether what was committed is there after the store was opened again.
    persists: bool,
    /// What each message counts for beside its encoded form.
    overhead_bytes: u64,
    /// How much longer than that the form is which is stored.
    growth: usize,
    /// Opens what lies in the folder, or makes it; under a fence that holds epoch 1.
    open: fn(&Path, &StoreLimits, u16) -> Opened,
}

/// All kinds; a database server takes part if the environment says where it is.
fn kinds() -> Vec<Kind> {
    let lasting = |name, open| Kind { name, persists: true, overhead_bytes: 0, growth: 0, open };
    let mut kinds = vec![Kind { persists: false, ..lasting("memory", open_memory) }];
    kinds.push(Kind { overhead_bytes: MESSAGE_OVERHEAD, ..lasting("file", open_files) });
    kinds.push(lasting("sqlite", databases::open_sqlite));
    for kind in kinds.clone() {
        let (name, open): (_, fn(&Path, &StoreLimits, u16) -> Opened) = match kind.name {
            "memory" => {
                ("encrypted memory", |f, limits, loops| keyed(open_memory(f, limits, loops)))
            }
            "file" => ("encrypted file", |f, limits, loops| keyed(open_files(f, limits, loops))),
            _ => ("encrypted sqlite", |folder, limits, loops| {
                keyed(databases::open_sqlite(folder, limits, loops))
            }),
        };
        let overhead_bytes = kind.overhead_bytes + OVERHEAD as u64;
        kinds.push(Kind { name, open, overhead_bytes, growth: OVERHEAD, ..kind });
    }
    if databases::postgres_address().is_some() {
        kinds.push(lasting("postgres", databases::open_postgres));
    }
    if databases::mysql_address().is_some() {
        kinds.push(lasting("mysql", databases::open_mysql));
    }
    kinds
}

/// Goal: no kind of store that a configuration can ask for is left out of this suite.
#[test]
fn every_kind_of_store_takes_part() {
    let tested: Vec<&str> = kinds().iter().map(|kind| kind.name).collect();
    for kind in [StoreKind::Memory, StoreKind::File, StoreKind::Sql] {
        // Whoever adds a kind has to name it here.
        let name = match kind {
            StoreKind::Memory => "memory",
            StoreKind::File => "file",
            StoreKind::Sql => "sqlite",
        };
        assert!(tested.contains(&name), "{name} is not among {tested:?}");
        assert!(tested.contains(&&*format!("encrypted {name}")), "{name}: {tested:?}");
    }
}

/// The same store behind a key.
fn keyed(opened: Opened) -> Opened {
    let key = StoreKey::of(&Secret::new(b"a key".to_vec()), Cipher::ChaCha);
    encryption::around(opened, &key, world::entropy().unwrap())
}

fn open_memory(_folder: &Path, limits: &StoreLimits, loops: u16) -> Opened {
    store::memory::open(limits, loops).unwrap()
}

fn open_files(folder: &Path, limits: &StoreLimits, loops: u16) -> Opened {
    let options = FileOptions::new(folder.join("store"));
    file::prepare(&options).unwrap();
    let fence = Arc::new(Unfenced);
    file::open(&options, limits, fence, Predecessor::Clean, loops, world::now()).unwrap()
}

/// Runs `goal` for every kind of store, with one loop and with three.
fn for_every_store(goal: impl Fn(&mut Tested)) {
    for kind in kinds() {
        for loops in [1, 3] {
            goal(&mut Tested::new(kind, loops, StoreLimits::default()));
        }
    }
}

/// Runs `goal` for every store that persists; what does not must be empty when opened again.
fn for_every_lasting_store(goal: impl Fn(&mut Tested)) {
    for_every_store(|store| {
        if store.kind.persists {
            goal(store);
            return;
        }
        store.create("foo");
        store.publish("foo", 1, 1);
        assert_eq!(*store.reopen(StoreLimits::default()), RecoveredState::default());
    });
}

/// A store under test, with the words of the domain.
struct Tested {
    kind: Kind,
    loops: u16,
    folder: tempfile::TempDir,
    opened: Opened,
    /// When it was made; message `n` is stamped `n` minutes later.
    wall: WallTime,
    /// Of the last commit, share by share.
    outcomes: Vec<ChannelOutcome>,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Tested {
    fn new(kind: Kind, loops: u16, limits: StoreLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let opened = (kind.open)(folder.path(), &limits, loops);
        Self { kind, loops, folder, opened, wall: world::now().wall, outcomes: Vec::new() }
    }

    /// Another store of that kind with other limits.
    fn limited(&self, change: impl Fn(&mut StoreLimits)) -> Self {
        Self::new(self.kind, self.loops, limited(change))
    }

    /// Closes the store and opens it again with `limits`.
    fn reopen(&mut self, limits: StoreLimits) -> &RecoveredState {
        for share in &mut self.opened.shares {
            share.close().unwrap();
        }
        self.opened.shares.clear();
        self.opened = (self.kind.open)(self.folder.path(), &limits, self.loops);
        &self.opened.recovered
    }

    /// Commits `batch`: each channel's part to the share that owns it, the rest to the first.
    fn commit(&mut self, batch: &Batch) {
        self.outcomes.clear();
        for (index, share) in self.opened.shares.iter_mut().enumerate() {
            let mut part = Batch { durable: batch.durable, ..Batch::default() };
            if index == 0 {
                part.server.clone_from(&batch.server);
                part.clients.clone_from(&batch.clients);
            }
            let owner = |c: &ChannelBatch| placement::of_channel(&c.channel, self.loops).index();
            let own = batch.channels.iter().filter(|c| owner(c) == index);
            part.channels = own.cloned().collect();
            if part.is_empty() {
                continue;
            }
            let report = share.commit(Epoch(1), &part).unwrap();
            assert_eq!(report.clients_refused, None);
            let told: Vec<_> = report.channels.iter().map(|o| &o.channel).collect();
            let asked: Vec<_> = part.channels.iter().map(|c| &c.channel).collect();
            assert_eq!(told, asked, "one outcome for each channel, in the batch's order");
            self.outcomes.extend(report.channels);
        }
    }

    fn outcome(&self, channel: &str) -> ChannelOutcome {
        let name = ChannelName::from(channel);
        self.outcomes.iter().find(|outcome| outcome.channel == name).unwrap().clone()
    }

    fn commit_one(&mut self, part: ChannelBatch) -> ChannelOutcome {
        let name = part.channel.to_string();
        self.commit(&Batch { channels: vec![part], durable: true, ..Batch::default() });
        self.outcome(&name)
    }

    fn create(&mut self, channel: &str) {
        let outcome = self.commit_one(part(channel, Lifecycle::Create));
        assert_eq!((outcome.refused, outcome.state), (None, ChannelState::default()));
    }

    /// Publishes the messages numbered `first` to `last`.
    fn publish(&mut self, channel: &str, first: u64, last: u64) -> ChannelOutcome {
        let messages = self.messages(channel, first, last);
        self.commit_one(ChannelBatch { messages, ..part(channel, Lifecycle::Keep) })
    }

    fn minute(&self, n: u64) -> WallTime {
        self.wall + MINUTE * u32::try_from(n).unwrap()
    }

    fn message(&self, channel: &str, n: u64) -> MessageRecord {
        let timestamp = self.minute(n);
        let proto = pb::MsgProto {
            sequence: n,
            subject: channel.as_bytes().to_vec().into(),
            data: format!("message {n}").into_bytes().into(),
            timestamp: timestamp.0,
            ..pb::MsgProto::default()
        };
        let encoded = Bytes::from(proto.encode_to_vec());
        MessageRecord { sequence: Sequence(n), timestamp, encoded }
    }

    fn messages(&self, channel: &str, first: u64, last: u64) -> Vec<MessageRecord> {
        (first..=last).map(|n| self.message(channel, n)).collect()
    }

    /// The state of a channel that keeps the messages `first` to `last`.
    fn state(&self, channel: &str, first: u64, last: u64) -> ChannelState {
        let len = |message: &MessageRecord| u64::try_from(message.encoded.len()).unwrap();
        let messages = self.messages(channel, first, last);
        ChannelState {
            first: Sequence(first),
            last: Sequence(last),
            message_count: last + 1 - first,
            byte_count: messages.iter().map(|m| len(m) + self.kind.overhead_bytes).sum(),
        }
    }

    fn share(&mut self, channel: &str) -> &mut dyn store::Store {
        let index = placement::of_channel(&ChannelName::from(channel), self.loops).index();
        &mut *self.opened.shares[index]
    }

    fn fetch(&mut self, channel: &str, from: u64) -> Vec<MessageRecord> {
        self.fetch_some(channel, from, (1_000, 1_000_000))
    }

    fn fetch_some(
        &mut self,
        channel: &str,
        from: u64,
        (count_max, bytes_max): (usize, usize),
    ) -> Vec<MessageRecord> {
        let request = FetchRequest {
            ticket: Ticket(1),
            channel: ChannelName::from(channel),
            from: Sequence(from),
            count_max,
            bytes_max,
        };
        self.share(channel).fetch(&request).unwrap()
    }

    fn find(&mut self, channel: &str, at: WallTime) -> u64 {
        self.share(channel).find_time(&ChannelName::from(channel), at).unwrap().0
    }

    /// Lets the store do what is due in minute `n`; what the channel then holds, if it changed.
    fn maintain(&mut self, channel: &str, n: u64) -> Option<ChannelState> {
        let now = Now { at: world::instant() + MINUTE * 1_000, wall: self.minute(n) };
        let name = ChannelName::from(channel);
        let maintained = self.share(channel).maintain(now).unwrap();
        maintained.trimmed.iter().rfind(|(found, _)| *found == name).map(|(_, state)| *state)
    }

    fn recovered(&self, channel: &str) -> RecoveredChannel {
        let name = ChannelName::from(channel);
        let mut channels = self.opened.recovered.channels.iter();
        channels.find(|found| found.channel == name).unwrap().clone()
    }

    /// The store told `state`, and holds exactly the messages `first` to `last`.
    #[track_caller]
    fn expect_held(&mut self, channel: &str, state: ChannelState, (first, last): (u64, u64)) {
        assert_eq!(state, self.state(channel, first, last), "{}", self.kind.name);
        assert_eq!(self.fetch(channel, 0), self.messages(channel, first, last));
    }
}

fn part(channel: &str, lifecycle: Lifecycle) -> ChannelBatch {
    ChannelBatch { channel: ChannelName::from(channel), lifecycle, ..ChannelBatch::default() }
}

fn limited(change: impl Fn(&mut StoreLimits)) -> StoreLimits {
    let mut limits = StoreLimits::default();
    change(&mut limits);
    limits
}

/// Goal: a fresh store has nothing, and one share for each loop.
#[test]
fn a_fresh_store_is_empty() {
    for_every_store(|store| {
        assert_eq!(store.opened.recovered, RecoveredState::default());
        assert_eq!(store.opened.shares.len(), usize::from(store.loops));
        assert_eq!(store.fetch("foo", 1), []);
        assert_eq!(store.find("foo", store.wall), 0);
    });
}

/// Goal: a channel that comes from another store can begin where that one's did, and only there.
#[test]
fn a_channel_begins_behind_what_another_store_has_let_go_of() {
    let begin = |store: &Tested, from: u64| ChannelBatch {
        begins_after: Sequence(from - 1),
        messages: store.messages("foo", from, from + 1),
        ..part("foo", Lifecycle::Create)
    };
    for_every_store(|store| {
        let gap = ChannelBatch { begins_after: Sequence(5), ..begin(store, 41) };
        let none = ChannelBatch { messages: Vec::new(), ..begin(store, 41) };
        let late = ChannelBatch { lifecycle: Lifecycle::Keep, ..begin(store, 41) };
        for wrong in [gap, none, late] {
            assert!(store.commit_one(wrong).refused.is_some(), "{}", store.kind.name);
        }
        let outcome = store.commit_one(begin(store, 41));
        assert_eq!(outcome.refused, None);
        store.expect_held("foo", outcome.state, (41, 42));
        let outcome = store.publish("foo", 43, 43);
        store.expect_held("foo", outcome.state, (41, 43));
    });
    for_every_lasting_store(|store| {
        store.commit_one(begin(store, 41));
        store.reopen(StoreLimits::default());
        assert_eq!(store.recovered("foo").state, store.state("foo", 41, 42));
    });
}

/// Everything before `first` goes.
fn purge(channel: &str, first: u64, stand_in: Option<MessageRecord>) -> ChannelBatch {
    let purge = Some(Purge { first: Sequence(first), stand_in });
    ChannelBatch { purge, ..part(channel, Lifecycle::Keep) }
}

/// Goal: what an operator lets go is gone, and everything else as before, also after a restart.
#[test]
fn the_oldest_messages_are_let_go() {
    for_every_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 5);
        let outcome = store.commit_one(purge("foo", 4, None));
        assert_eq!(outcome.refused, None);
        store.expect_held("foo", outcome.state, (4, 5));
        let again = store.commit_one(purge("foo", 4, None));
        store.expect_held("foo", again.state, (4, 5));
        let outcome = store.publish("foo", 6, 7);
        store.expect_held("foo", outcome.state, (4, 7));
        let outcome = store.commit_one(purge("foo", 6, None));
        store.expect_held("foo", outcome.state, (6, 7));
        assert_eq!(store.find("foo", store.wall), 6);
        for (first, messages) in [(8, vec![]), (0, vec![]), (7, store.messages("foo", 8, 8))] {
            let wrong = ChannelBatch { messages, ..purge("foo", first, None) };
            assert!(store.commit_one(wrong).refused.is_some(), "{first}");
        }
        assert!(store.commit_one(purge("bar", 1, None)).refused.is_some(), "there is no such one");
    });
    for_every_lasting_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 5);
        store.reopen(StoreLimits::default());
        let outcome = store.commit_one(purge("foo", 3, None));
        store.expect_held("foo", outcome.state, (3, 5));
        store.reopen(StoreLimits::default());
        let state = store.recovered("foo").state;
        store.expect_held("foo", state, (3, 5));
        let outcome = store.publish("foo", 6, 6);
        store.expect_held("foo", outcome.state, (3, 6));
    });
}

/// Goal: of a channel that is emptied an empty message stays, which keeps the last number.
#[test]
fn a_channel_that_is_emptied_goes_on_with_its_numbers() {
    let stand_in = |store: &Tested, n: u64| {
        MessageRecord::stand_in(&ChannelName::from("foo"), n, store.minute(n))
    };
    for_every_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 5);
        let empty = stand_in(store, 5);
        let early = purge("foo", 4, Some(stand_in(store, 4)));
        assert!(store.commit_one(early).refused.is_some(), "only the last one");
        for _ in 0..2 {
            let outcome = store.commit_one(purge("foo", 5, Some(empty.clone())));
            assert_eq!(outcome.refused, None);
            let ChannelState { first, last, message_count, byte_count } = outcome.state;
            assert_eq!((first.0, last.0, message_count), (5, 5, 1), "{}", store.kind.name);
            let overhead = store.kind.overhead_bytes - store.kind.growth as u64;
            assert_eq!(byte_count, empty.encoded.len() as u64 + overhead, "{}", store.kind.name);
            assert_eq!(store.fetch("foo", 0), std::slice::from_ref(&empty));
        }
        let outcome = store.publish("foo", 6, 6);
        assert_eq!((outcome.state.first.0, outcome.state.message_count), (5, 2));
        assert_eq!(store.fetch("foo", 0), [empty, store.message("foo", 6)]);
    });
    for_every_lasting_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 5);
        let empty = stand_in(store, 5);
        let outcome = store.commit_one(purge("foo", 5, Some(empty.clone())));
        for _ in 0..2 {
            store.reopen(StoreLimits::default());
            assert_eq!(store.recovered("foo").state, outcome.state, "{}", store.kind.name);
            assert_eq!(store.fetch("foo", 0), std::slice::from_ref(&empty));
        }
        store.publish("foo", 6, 6);
        store.reopen(StoreLimits::default());
        assert_eq!(store.fetch("foo", 0), [empty, store.message("foo", 6)]);
    });
}

/// Goal: what was committed is read back, byte for byte, and counted.
#[test]
fn messages_are_read_back_as_they_were_written() {
    for_every_store(|store| {
        for channel in ["foo", "bar.baz", "Été"] {
            store.create(channel);
            let outcome = store.publish(channel, 1, 3);
            assert_eq!(outcome.refused, None);
            store.expect_held(channel, outcome.state, (1, 3));
            let outcome = store.publish(channel, 4, 4);
            store.expect_held(channel, outcome.state, (1, 4));
            assert_eq!(store.fetch(channel, 3), store.messages(channel, 3, 4));
            assert_eq!(store.fetch(channel, 5), []);
        }
    });
}

/// Goal: a channel is created and written to in one batch, beside others.
#[test]
fn one_batch_creates_and_fills_channels() {
    for_every_store(|store| {
        let names = ["a", "b", "c.d", "e"];
        let filled = names.map(|name| ChannelBatch {
            messages: store.messages(name, 1, 2),
            ..part(name, Lifecycle::Create)
        });
        store.commit(&Batch { channels: filled.to_vec(), durable: true, ..Batch::default() });
        for name in names {
            let outcome = store.outcome(name);
            assert_eq!(outcome.refused, None);
            store.expect_held(name, outcome.state, (1, 2));
        }
    });
}

/// Goal: a batch that is not durable is seen by reads at once.
#[test]
fn reads_see_what_is_not_synced_yet() {
    for_every_store(|store| {
        store.create("foo");
        let messages = store.messages("foo", 1, 2);
        let channels = vec![ChannelBatch { messages, ..part("foo", Lifecycle::Keep) }];
        store.commit(&Batch { channels, durable: false, ..Batch::default() });
        assert_eq!(store.fetch("foo", 1), store.messages("foo", 1, 2));
    });
}

/// Goal: what does not continue its channel is refused whole, and hurts no other channel.
#[test]
fn a_part_with_a_gap_is_refused_alone() {
    for_every_store(|store| {
        store.create("foo");
        store.create("bar");
        store.publish("foo", 1, 2);
        let messages = vec![store.message("foo", 3), store.message("foo", 5)];
        let foo = ChannelBatch { messages, ..part("foo", Lifecycle::Keep) };
        let messages = store.messages("bar", 1, 1);
        let bar = ChannelBatch { messages, ..part("bar", Lifecycle::Keep) };
        store.commit(&Batch { channels: vec![foo, bar], durable: true, ..Batch::default() });
        let (foo, bar) = (store.outcome("foo"), store.outcome("bar"));
        assert!(foo.refused.is_some());
        assert_eq!(bar.refused, None);
        store.expect_held("foo", foo.state, (1, 2));
        store.expect_held("bar", bar.state, (1, 1));
        let outcome = store.publish("foo", 4, 4);
        assert!(outcome.refused.is_some(), "message 3 was refused, so 4 cannot follow");
        let outcome = store.publish("foo", 3, 3);
        assert_eq!(outcome.refused, None);
        store.expect_held("foo", outcome.state, (1, 3));
    });
}

/// Goal: a channel is created once, and only one that exists is written to or deleted.
#[test]
fn the_life_cycle_of_a_channel_is_checked() {
    for_every_store(|store| {
        let unknown = store.publish("foo", 1, 1);
        assert_eq!(unknown.refused.as_deref(), Some("not found"));
        let unknown = store.commit_one(part("foo", Lifecycle::Delete));
        assert_eq!(unknown.refused.as_deref(), Some("not found"));
        store.create("foo");
        store.publish("foo", 1, 3);
        let again = store.commit_one(part("foo", Lifecycle::Create));
        assert_eq!(again.refused.as_deref(), Some("already exists"));
        store.expect_held("foo", again.state, (1, 3));
    });
}

/// Goal: a deleted channel is gone, and a new one of that name starts from nothing.
#[test]
fn a_deleted_channel_can_be_created_again() {
    for_every_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 5);
        let deleted = store.commit_one(part("foo", Lifecycle::Delete));
        assert_eq!((deleted.refused, deleted.state), (None, ChannelState::default()));
        assert_eq!(store.fetch("foo", 1), []);
        store.create("foo");
        assert_eq!(store.fetch("foo", 1), []);
        let outcome = store.publish("foo", 1, 1);
        store.expect_held("foo", outcome.state, (1, 1));
    });
}

/// Goal: count and size limits keep the newest messages, one at least.
#[test]
fn limits_drop_the_oldest_messages() {
    for_every_store(|store| {
        let mut few = store.limited(|limits| limits.global.messages_max = 3);
        few.create("foo");
        let outcome = few.publish("foo", 1, 5);
        few.expect_held("foo", outcome.state, (3, 5));
        let outcome = few.publish("foo", 6, 6);
        few.expect_held("foo", outcome.state, (4, 6));
        assert_eq!(few.fetch("foo", 2), few.messages("foo", 4, 6), "gaps are passed over");

        let two = store.state("foo", 1, 2).byte_count;
        for (bytes_max, first) in [(two, 4), (two - 1, 5), (1, 5)] {
            let mut small = store.limited(|limits| limits.global.bytes_max = bytes_max);
            small.create("foo");
            let outcome = small.publish("foo", 1, 5);
            small.expect_held("foo", outcome.state, (first, 5));
        }
    });
}

/// Goal: a channel's limits are those of the narrowest section that matches its name.
#[test]
fn a_channel_has_the_limits_of_its_narrowest_section() {
    for_every_store(|store| {
        let mut store = store.limited(|limits| {
            limits.global = ChannelLimits { messages_max: 1, ..limits.global };
            for (name, messages_max) in [(">", 3), ("foo.>", 2), ("baz", 0)] {
                let messages_max = Some(messages_max);
                let section = ChannelOverrides { messages_max, ..ChannelOverrides::default() };
                limits.per_channel.insert(ChannelName::from(name), section);
            }
        });
        for (channel, first) in [("foo.bar", 9), ("foo", 8), ("bar", 8), ("baz", 1)] {
            store.create(channel);
            let outcome = store.publish(channel, 1, 10);
            store.expect_held(channel, outcome.state, (first, 10));
        }
    });
}

/// Goal: messages go at their age, and numbers go on after all of them went.
#[test]
fn messages_expire_at_their_age() {
    for_every_store(|store| {
        let mut store = store.limited(|limits| limits.global.age_max = MINUTE * 10);
        store.create("foo");
        store.publish("foo", 1, 5);
        assert_eq!(store.maintain("foo", 10), None);
        let state = store.maintain("foo", 12).unwrap();
        store.expect_held("foo", state, (3, 5));
        let state = store.maintain("foo", 15).unwrap();
        store.expect_held("foo", state, (6, 5));
        assert_eq!(store.find("foo", store.minute(1)), 6, "all went: the one after the last");
        let outcome = store.publish("foo", 6, 7);
        store.expect_held("foo", outcome.state, (6, 7));
        let state = store.maintain("foo", 16).unwrap();
        store.expect_held("foo", state, (7, 7));
    });
}

/// Goal: expiry goes on rightly after the oldest were dropped for another limit.
#[test]
fn age_and_count_limits_work_together() {
    for_every_store(|store| {
        let mut store = store.limited(|limits| {
            limits.global.age_max = MINUTE * 10;
            limits.global.messages_max = 2;
        });
        store.create("foo");
        store.publish("foo", 1, 4);
        assert_eq!(store.maintain("foo", 12), None, "1 and 2 are gone already");
        let state = store.maintain("foo", 13).unwrap();
        store.expect_held("foo", state, (4, 4));
    });
}

/// Goal: a start time means the first message that is not older.
#[test]
fn a_time_is_found() {
    for_every_store(|store| {
        store.create("foo");
        assert_eq!(store.find("foo", store.wall), 0, "nothing was ever stored");
        store.publish("foo", 1, 9);
        let between = WallTime(store.minute(4).0 + 1);
        assert_eq!(store.find("foo", WallTime(1)), 1);
        assert_eq!(store.find("foo", store.minute(1)), 1);
        assert_eq!(store.find("foo", store.minute(4)), 4);
        assert_eq!(store.find("foo", between), 5);
        assert_eq!(store.find("foo", store.minute(9)), 9);
        assert_eq!(store.find("foo", WallTime(store.minute(9).0 + 1)), 10);
    });
}

/// Goal: a fetch stays within its budgets, but always gives one message.
#[test]
fn a_fetch_has_a_budget() {
    for_every_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 9);
        let len = store.message("foo", 1).encoded.len() + store.kind.growth;
        assert_eq!(store.fetch_some("foo", 2, (3, 1_000_000)), store.messages("foo", 2, 4));
        assert_eq!(store.fetch_some("foo", 2, (9, 1)), store.messages("foo", 2, 2));
        assert_eq!(store.fetch_some("foo", 2, (9, 2 * len)), store.messages("foo", 2, 3));
    });
}

/// Goal: closing twice is no error.
#[test]
fn a_store_can_be_closed_twice() {
    for_every_store(|store| {
        for share in &mut store.opened.shares {
            share.close().unwrap();
            share.close().unwrap();
        }
    });
}

/// Goal: writes to subscriptions and clients that are not known are no error.
#[test]
fn writes_to_unknown_subscriptions_and_clients_are_taken() {
    for_every_store(|store| {
        store.create("foo");
        let subscriptions = vec![
            SubscriptionWrite::Delete(SubscriptionId(7)),
            SubscriptionWrite::Sent(SubscriptionId(7), Sequence(1)),
            SubscriptionWrite::Acked(SubscriptionId(7), Sequence(1)),
        ];
        let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Keep) };
        assert_eq!(store.commit_one(foo).refused, None);
        let clients = vec![ClientWrite::Delete(ClientId::from("nobody"))];
        store.commit(&Batch { clients, durable: true, ..Batch::default() });
    });
}

/// What a channel with a limit on deliveries keeps of them.
fn counting() -> StoreLimits {
    let mut limits = StoreLimits::default();
    limits.policies.global = PolicyOverrides {
        deliveries_max: Some(5),
        dead_letter: Some(ChannelName::from("dead")),
        ..PolicyOverrides::default()
    };
    let never = PolicyOverrides { deliveries_max: Some(0), ..PolicyOverrides::default() };
    limits.per_channel.insert(ChannelName::from("dead"), ChannelOverrides::default());
    limits.policies.per_channel.insert(ChannelName::from("dead"), never);
    limits
}

fn count(reader: u8, sequence: u64, count: u32) -> DeliveryCount {
    let (reader, sequence) = (ReaderId([reader; 16]), Sequence(sequence));
    DeliveryCount { reader, sequence, timestamp: WallTime(-7), count, is_gone: false }
}

impl Tested {
    fn deliver(&mut self, channel: &str, deliveries: &[DeliveryCount], durable: bool) {
        let deliveries = deliveries.to_vec();
        let part = ChannelBatch { deliveries, ..part(channel, Lifecycle::Keep) };
        self.commit(&Batch { channels: vec![part], durable, ..Batch::default() });
        assert_eq!(self.outcome(channel).refused, None);
    }

    fn counted(&self, channel: &str) -> Vec<DeliveryCount> {
        let mut found = self.recovered(channel).deliveries;
        found.sort_by_key(|count| (count.reader, count.sequence));
        found
    }
}

/// Goal: how often messages were delivered is there after a restart, the last count of each; what
/// is let go of may be there as long as nothing says that its message is acknowledged.
#[test]
fn counts_of_deliveries_survive_a_restart() {
    for kind in kinds().into_iter().filter(|kind| kind.persists) {
        for loops in [1, 3] {
            let store = &mut Tested::new(kind, loops, counting());
            for channel in ["foo", "bar", "gone"] {
                store.create(channel);
                store.publish(channel, 1, 5);
                store.deliver(channel, &[count(1, 1, 1), count(1, 2, 1), count(2, 1, 4)], true);
            }
            store.deliver("foo", &[count(1, 1, 2)], true);
            store.deliver("foo", &[count(1, 2, 0)], false);
            // With something that has to be durable, what is let go of is gone for good.
            let deliveries = vec![DeliveryCount { is_gone: true, ..count(2, 1, 0) }];
            let messages = store.messages("bar", 6, 6);
            let let_go = ChannelBatch { deliveries, messages, ..part("bar", Lifecycle::Keep) };
            store.commit_one(let_go);
            store.reopen(counting());
            let expected = [count(1, 1, 1), count(1, 2, 1)];
            assert_eq!(store.counted("bar"), expected, "{}", kind.name);
            let mut found = store.counted("foo");
            found.retain(|found| found.sequence != Sequence(2));
            assert_eq!(found, [count(1, 1, 2), count(2, 1, 4)], "{}", kind.name);
            // Once more, over what the first restart has found.
            store.deliver("foo", &[count(1, 1, 3)], true);
            store.commit_one(part("gone", Lifecycle::Delete));
            store.create("gone");
            store.reopen(counting());
            assert_eq!(store.counted("bar"), expected, "{}", kind.name);
            assert_eq!(store.counted("foo")[0], count(1, 1, 3), "{}", kind.name);
            // A reader that begins anew leaves nothing, also of what was acknowledged before.
            store.deliver("foo", &[count(2, 1, 0)], false);
            store.deliver("foo", &[count(2, 2, 1), count(3, 1, 1)], true);
            store.deliver("foo", &[DeliveryCount::none_of(ReaderId([2; 16]))], true);
            store.reopen(counting());
            let readers = store.counted("foo").into_iter().map(|count| count.reader.0[0]);
            assert_eq!(readers.filter(|it| *it != 1).collect::<Vec<_>>(), [3], "{}", kind.name);
            // What lasts of a channel that is gone has other timestamps than its successor's.
            store.publish("gone", 1, 1);
            assert!(store.counted("gone").iter().all(|it| it.timestamp == WallTime(-7)));
        }
    }
}

/// Goal: where nothing is counted, nothing is kept of it, and opening such a store changes nothing.
#[test]
fn without_a_limit_on_deliveries_no_counts_are_found() {
    for_every_lasting_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 2);
        store.reopen(counting());
        assert_eq!(store.counted("foo"), []);
        store.deliver("foo", &[count(1, 1, 2)], true);
        store.reopen(StoreLimits::default());
        assert_eq!(store.counted("foo"), []);
        store.publish("foo", 3, 3);
        // A limit that comes back finds none of before.
        store.reopen(counting());
        assert_eq!(store.counted("foo"), []);
    });
}

/// Goal: messages and their count are there after a restart, and numbers go on.
#[test]
fn messages_survive_a_restart() {
    for_every_lasting_store(|store| {
        for channel in ["foo", "bar", "gone"] {
            store.create(channel);
            store.publish(channel, 1, 5);
        }
        store.create("empty");
        store.commit_one(part("gone", Lifecycle::Delete));
        let recovered = store.reopen(StoreLimits::default());
        let names: Vec<_> = recovered.channels.iter().map(|c| c.channel.to_string()).collect();
        assert_eq!(names, ["bar", "empty", "foo"], "ordered by name");
        assert_eq!(store.recovered("empty").state, ChannelState::default());
        for channel in ["foo", "bar"] {
            let found = store.recovered(channel);
            assert_eq!(found.last_timestamp, store.minute(5));
            store.expect_held(channel, found.state, (1, 5));
            let outcome = store.publish(channel, 6, 6);
            store.expect_held(channel, outcome.state, (1, 6));
            assert_eq!(store.find(channel, store.minute(2)), 2);
        }
    });
}

/// Goal: tighter limits apply when the store is opened with them.
#[test]
fn limits_apply_at_a_restart() {
    for_every_lasting_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 5);
        store.reopen(limited(|limits| limits.global.messages_max = 2));
        let state = store.recovered("foo").state;
        store.expect_held("foo", state, (4, 5));
    });
}

/// Goal: the server's record and the clients survive a restart; the last write wins.
#[test]
fn server_and_clients_survive_a_restart() {
    let server = |id: &str| spb::ServerInfo {
        cluster_id: id.as_bytes().to_vec().into(),
        publish: b"_STAN.pub.x".to_vec().into(),
        ..spb::ServerInfo::default()
    };
    let client = |id: &str, inbox: &str| spb::ClientInfo {
        id: id.as_bytes().to_vec().into(),
        hb_inbox: inbox.as_bytes().to_vec().into(),
        conn_id: b"c1".to_vec().into(),
        protocol: 1,
        ping_interval: 5,
        ping_max_out: 3,
        is_leaving: false,
    };
    for_every_lasting_store(|store| {
        for (id, inbox) in [("old", "1"), ("me", "2")] {
            let clients = ["me", "you", "gone"].map(|name| ClientWrite::Add(client(name, inbox)));
            let (server, clients) = (Some(server(id)), clients.to_vec());
            store.commit(&Batch { server, clients, durable: true, ..Batch::default() });
        }
        let clients = vec![ClientWrite::Delete(ClientId::from("gone"))];
        store.commit(&Batch { clients, durable: true, ..Batch::default() });
        let recovered = store.reopen(StoreLimits::default());
        assert_eq!(recovered.server, Some(server("me")));
        let mut clients = recovered.clients.clone();
        clients.sort_by(|one, other| one.id.cmp(&other.id));
        assert_eq!(clients, [client("me", "2"), client("you", "2")]);
    });
}

/// Goal: subscriptions come back with what they were sent and have not acknowledged.
#[test]
fn subscriptions_survive_a_restart() {
    use SubscriptionWrite::{Acked, Create, Delete, Sent, Update};
    let state = |id: u64, client: &'static str, last_sent| spb::SubState {
        id,
        client_id: client.as_bytes().into(),
        inbox: b"in".to_vec().into(),
        ack_inbox: b"ack".to_vec().into(),
        max_in_flight: 7,
        ack_wait_in_secs: 30,
        last_sent,
        ..spb::SubState::default()
    };
    let [one, two, three] = [1, 2, 3].map(SubscriptionId);
    for_every_lasting_store(|store| {
        store.create("foo");
        store.publish("foo", 1, 9);
        let rounds = [
            [(1, "me"), (2, "you"), (3, "x")].map(|(id, c)| Create(state(id, c, 0).into())).into(),
            vec![Sent(one, Sequence(1)), Sent(one, Sequence(4)), Sent(one, Sequence(2))],
            vec![Acked(one, Sequence(1)), Sent(two, Sequence(5)), Sent(three, Sequence(5))],
            vec![Update(state(2, "her", 5).into()), Delete(three), Sent(three, Sequence(6))],
            vec![Acked(three, Sequence(6)), Delete(SubscriptionId(99))],
        ];
        for subscriptions in rounds {
            let foo = ChannelBatch { subscriptions, ..part("foo", Lifecycle::Keep) };
            assert_eq!(store.commit_one(foo).refused, None);
        }
        store.reopen(StoreLimits::default());
        let mut found = store.recovered("foo");
        found.subscriptions.sort_by_key(|subscription| subscription.state.id);
        let states: Vec<_> = found.subscriptions.iter().map(|s| s.state.clone()).collect();
        assert_eq!(states, [state(1, "me", 4), state(2, "her", 5)]);
        let pending: Vec<_> = found.subscriptions.iter().map(|s| s.pending.clone()).collect();
        assert_eq!(pending, [vec![Sequence(2), Sequence(4)], vec![Sequence(5)]]);
        assert!(found.subscription_id_max >= three, "the id of a deleted one is not used again");
    });
}
