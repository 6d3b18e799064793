//! A store that members share: what is not synced can be lost, and an epoch fences its writers.
//!
//! It keeps what the [`crate::store::Store`] contract promises and not more: a durable batch is
//! safe once its commit was reported, everything else of a killed member may vanish from the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, ClientId, LoopIndex, Sequence, SubscriptionId};
use crate::base::placement;
use crate::base::random::Random;
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, ClientWrite, CommitReport, FetchRequest,
    Lifecycle, MessageRecord, RecoveredChannel, RecoveredState, RecoveredSubscription,
    SubscriptionWrite,
};
use crate::base::time::WallTime;
use crate::proto::spb;

/// The shared store of a simulated group.
#[derive(Debug, Default)]
pub struct SharedStore {
    epoch: Epoch,
    synced: Content,
    /// Written and not synced, of each loop of the present epoch's holder, in order.
    unsynced: BTreeMap<LoopIndex, Vec<Batch>>,
    is_full: bool,
}

/// What a batch could not keep.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    clients: bool,
    channels: BTreeSet<ChannelName>,
}

/// What clients are told while the disk is full.
const FULL: &str = "no space left on device";

#[derive(Clone, Debug, Default)]
struct Content {
    server: Option<spb::ServerInfo>,
    clients: BTreeMap<ClientId, spb::ClientInfo>,
    channels: BTreeMap<ChannelName, Channel>,
}

#[derive(Clone, Debug, Default)]
struct Channel {
    messages: BTreeMap<Sequence, MessageRecord>,
    last: Sequence,
    subscriptions: BTreeMap<SubscriptionId, (spb::SubState, BTreeSet<Sequence>)>,
    subscription_id_max: SubscriptionId,
}

impl SharedStore {
    /// The epoch that holds the store.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Begins the next epoch. Of what its predecessor wrote and did not sync, a part chosen by
    /// `random` is lost, from the end of each loop's writes.
    pub fn take_over(&mut self, random: &mut Random) -> (Epoch, RecoveredState) {
        self.epoch = self.epoch.next();
        for (_, batches) in std::mem::take(&mut self.unsynced) {
            let kept = random.below(u64::try_from(batches.len() + 1).unwrap_or(1));
            for batch in batches.iter().take(usize::try_from(kept).unwrap_or(0)) {
                self.synced.apply(batch);
            }
        }
        (self.epoch, self.synced.recovered())
    }

    /// The disk is full from now on, or has room again.
    pub fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    /// Writes `batch` under `epoch`; what a former epoch writes changes nothing (P3). On a full
    /// disk a part of it, chosen by `random`, is refused.
    pub fn write(
        &mut self,
        epoch: Epoch,
        home: LoopIndex,
        batch: &Batch,
        random: &mut Random,
    ) -> Refused {
        let mut refused = Refused::default();
        if self.is_full {
            refused.clients = random.below(2) == 0;
            let names = batch.channels.iter().map(|part| &part.channel);
            refused.channels = names.filter(|_| random.below(2) == 0).cloned().collect();
        }
        if epoch == self.epoch {
            self.unsynced.entry(home).or_default().push(refused.rest_of(batch));
        }
        refused
    }

    /// Syncs what the loop `home` wrote, if `epoch` still holds the store.
    pub fn sync(&mut self, epoch: Epoch, home: LoopIndex) {
        if epoch == self.epoch {
            for batch in self.unsynced.remove(&home).unwrap_or_default() {
                self.synced.apply(&batch);
            }
        }
    }

    /// What a commit of `batch` reports once it was written but for what was `refused`.
    #[must_use]
    pub fn report(&self, home: LoopIndex, batch: &Batch, refused: &Refused) -> CommitReport {
        let text = |is_refused: bool| is_refused.then(|| FULL.to_owned());
        let outcome = |part: &ChannelBatch| ChannelOutcome {
            channel: part.channel.clone(),
            refused: text(refused.channels.contains(&part.channel)),
            state: self.view(home, &part.channel).map_or_else(ChannelState::default, |c| c.state()),
        };
        CommitReport {
            clients_refused: text(refused.clients),
            channels: batch.channels.iter().map(outcome).collect(),
        }
    }

    /// Messages for a fetch of the loop `home`.
    #[must_use]
    pub fn fetch(&self, home: LoopIndex, request: &FetchRequest) -> Vec<MessageRecord> {
        let Some(channel) = self.view(home, &request.channel) else { return Vec::new() };
        let mut byte_count = 0;
        let fits = |record: &&MessageRecord| {
            let had_room = byte_count < request.bytes_max;
            byte_count += record.encoded.len();
            had_room
        };
        let records = channel.messages.range(request.from..).map(|(_, record)| record);
        records.take(request.count_max.max(1)).take_while(fits).cloned().collect()
    }

    /// The first sequence at or after `at`.
    #[must_use]
    pub fn find_time(&self, home: LoopIndex, channel: &ChannelName, at: WallTime) -> Sequence {
        let Some(channel) = self.view(home, channel) else { return Sequence::ZERO };
        if channel.last == Sequence::ZERO {
            return Sequence::ZERO;
        }
        let found = channel.messages.values().find(|record| at <= record.timestamp);
        found.map_or(channel.last.next(), |record| record.sequence)
    }

    /// Everything that is synced, for the checker.
    #[must_use]
    pub fn messages(&self) -> BTreeMap<ChannelName, Vec<MessageRecord>> {
        let channels = self.synced.channels.iter();
        channels.map(|(name, c)| (name.clone(), c.messages.values().cloned().collect())).collect()
    }

    /// A channel with what the loop `home` wrote and did not sync yet.
    fn view(&self, home: LoopIndex, channel: &ChannelName) -> Option<Channel> {
        let mut content = Content::default();
        if let Some(found) = self.synced.channels.get(channel) {
            content.channels.insert(channel.clone(), found.clone());
        }
        for batch in self.unsynced.get(&home).into_iter().flatten() {
            for part in batch.channels.iter().filter(|part| part.channel == *channel) {
                content.apply_channel(part);
            }
        }
        content.channels.remove(channel)
    }
}

impl Refused {
    fn rest_of(&self, batch: &Batch) -> Batch {
        let mut rest = batch.clone();
        rest.channels.retain(|part| !self.channels.contains(&part.channel));
        if self.clients {
            rest.clients.clear();
            rest.server = None;
        }
        rest
    }
}

impl Content {
    fn apply(&mut self, batch: &Batch) {
        if let Some(server) = &batch.server {
            self.server = Some(server.clone());
        }
        for write in &batch.clients {
            match write {
                ClientWrite::Add(info) => {
                    self.clients.insert(ClientId::from(info.id.clone()), info.clone());
                }
                ClientWrite::Delete(client) => {
                    self.clients.remove(client);
                }
            }
        }
        for part in &batch.channels {
            self.apply_channel(part);
        }
    }

    fn apply_channel(&mut self, part: &ChannelBatch) {
        if part.lifecycle == Lifecycle::Delete {
            self.channels.remove(&part.channel);
            return;
        }
        let is_new = !self.channels.contains_key(&part.channel);
        let is_created = part.lifecycle == Lifecycle::Create;
        assert_eq!(is_new, is_created, "{:?} is created once, before it is written", part.channel);
        let channel = self.channels.entry(part.channel.clone()).or_default();
        for record in &part.messages {
            assert_eq!(record.sequence, channel.last.next(), "dense in {:?}", part.channel);
            channel.last = record.sequence;
            channel.messages.insert(record.sequence, record.clone());
        }
        for write in &part.subscriptions {
            channel.apply_subscription(write);
        }
    }

    fn recovered(&self) -> RecoveredState {
        RecoveredState {
            server: self.server.clone(),
            clients: self.clients.values().cloned().collect(),
            channels: self.channels.iter().map(|(name, c)| c.recovered(name)).collect(),
        }
    }
}

impl Channel {
    fn state(&self) -> ChannelState {
        ChannelState {
            first: self.messages.keys().next().copied().unwrap_or(self.last),
            last: self.last,
            message_count: u64::try_from(self.messages.len()).unwrap_or(u64::MAX),
            byte_count: self.messages.values().map(|r| r.encoded.len() as u64).sum(),
        }
    }

    fn apply_subscription(&mut self, write: &SubscriptionWrite) {
        match write {
            SubscriptionWrite::Create(state) | SubscriptionWrite::Update(state) => {
                let id = SubscriptionId(state.id);
                self.subscription_id_max = self.subscription_id_max.max(id);
                let pending = self.subscriptions.remove(&id).map_or_else(BTreeSet::new, |s| s.1);
                self.subscriptions.insert(id, ((**state).clone(), pending));
            }
            SubscriptionWrite::Delete(id) => {
                self.subscriptions.remove(id);
            }
            SubscriptionWrite::Sent(id, sequence) => {
                if let Some((state, pending)) = self.subscriptions.get_mut(id) {
                    pending.insert(*sequence);
                    state.last_sent = state.last_sent.max(sequence.get());
                }
            }
            SubscriptionWrite::Acked(id, sequence) => {
                if let Some((_, pending)) = self.subscriptions.get_mut(id) {
                    pending.remove(sequence);
                }
            }
        }
    }

    fn recovered(&self, name: &ChannelName) -> RecoveredChannel {
        let subscription =
            |(state, pending): &(spb::SubState, BTreeSet<Sequence>)| RecoveredSubscription {
                state: state.clone(),
                pending: pending.iter().copied().collect(),
            };
        RecoveredChannel {
            channel: name.clone(),
            state: self.state(),
            last_timestamp: self.messages.values().last().map(|r| r.timestamp).unwrap_or_default(),
            subscriptions: self.subscriptions.values().map(subscription).collect(),
            subscription_id_max: self.subscription_id_max,
        }
    }
}

/// The channels of one loop.
#[must_use]
pub fn share_of(home: LoopIndex, loops: u16, all: &RecoveredState) -> Vec<RecoveredChannel> {
    let is_ours = |c: &&RecoveredChannel| placement::of_channel(&c.channel, loops) == home;
    all.channels.iter().filter(is_ours).cloned().collect()
}
