//! the store of a script: what engines of one test share, and what a restart starts from
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a failed unwrap is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::delivery_count::{DeliveryCount, ReaderId};
use crate::base::id::{ChannelName, Sequence, SubscriptionId};
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, ClientWrite, CommitReport, FetchRequest,
    Lifecycle, MessageRecord, RecoveredChannel, RecoveredSubscription, SubscriptionWrite,
};
use crate::base::time::WallTime;
use crate::proto::spb;

#[derive(Clone, Default)]
pub(super) struct StoredChannel {
    pub(super) messages: BTreeMap<Sequence, MessageRecord>,
    pub(super) last: Sequence,
    pub(super) subscriptions: BTreeMap<u64, (spb::SubState, BTreeSet<Sequence>)>,
    pub(super) id_max: u64,
    pub(super) deliveries: BTreeMap<(ReaderId, Sequence), DeliveryCount>,
}

impl StoredChannel {
    pub(super) fn state(&self) -> ChannelState {
        ChannelState {
            first: self.messages.keys().next().copied().unwrap_or(if self.last.0 == 0 {
                Sequence::ZERO
            } else {
                self.last.next()
            }),
            last: self.last,
            message_count: self.messages.len() as u64,
            byte_count: self.messages.values().map(|m| m.encoded.len() as u64).sum(),
        }
    }
}

/// The store of a script: shared by its engines, and what a restart starts from.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) server: Option<spb::ServerInfo>,
    pub(super) clients: BTreeMap<Bytes, spb::ClientInfo>,
    pub(super) channels: BTreeMap<ChannelName, StoredChannel>,
    pub(super) messages_max: usize,
    pub(super) refusals: BTreeMap<ChannelName, String>,
    /// So many writes of a refused part are there all the same, as after a crash in the middle.
    pub(super) torn_after: usize,
    pub(super) clients_refused: Option<String>,
}

impl Shelf {
    pub(super) fn commit(&mut self, batch: &Batch) -> CommitReport {
        if let Some(server) = &batch.server {
            self.server = Some(server.clone());
        }
        let clients_refused = self.clients_refused.clone().filter(|_| !batch.clients.is_empty());
        if clients_refused.is_none() {
            for write in &batch.clients {
                match write {
                    ClientWrite::Add(info) => {
                        self.clients.insert(info.id.clone(), info.clone());
                    }
                    ClientWrite::Delete(client) => {
                        self.clients.remove(client.as_bytes());
                    }
                }
            }
        }
        let channels = batch.channels.iter().map(|part| self.commit_part(part)).collect();
        CommitReport { clients_refused, channels }
    }

    fn commit_part(&mut self, part: &ChannelBatch) -> ChannelOutcome {
        let name = part.channel.clone();
        let refused = self.refusals.get(&name).cloned();
        if refused.is_some() {
            if let Some(channel) = self.channels.get_mut(&name) {
                let torn = part.subscriptions.iter().take(self.torn_after);
                torn.for_each(|write| apply(channel, write));
            }
            let state = self.channels.get(&name).map(StoredChannel::state).unwrap_or_default();
            return ChannelOutcome { channel: name, refused, state };
        }
        match part.lifecycle {
            Lifecycle::Delete => {
                assert!(part.messages.is_empty() && part.subscriptions.is_empty());
                self.channels.remove(&name).expect("a channel that is deleted exists");
                let state = ChannelState::default();
                return ChannelOutcome { channel: name, refused: None, state };
            }
            Lifecycle::Create => {
                let old = self.channels.insert(name.clone(), StoredChannel::default());
                assert!(old.is_none(), "{name} is created twice");
            }
            Lifecycle::Keep => (),
        }
        let channel = self.channels.get_mut(&name).expect("a channel is created before it is used");
        for record in &part.messages {
            assert_eq!(record.sequence, channel.last.next(), "sequences are dense");
            let newest = channel.messages.values().next_back();
            assert!(newest.is_none_or(|old| old.timestamp <= record.timestamp), "P4");
            channel.last = record.sequence;
            channel.messages.insert(record.sequence, record.clone());
            while self.messages_max > 0 && self.messages_max < channel.messages.len() {
                channel.messages.pop_first();
            }
        }
        if let Some(purge) = &part.purge {
            assert!(purge.first <= channel.last && part.messages.is_empty(), "nothing else");
            channel.messages.retain(|sequence, _| purge.first <= *sequence);
            channel.messages.extend(purge.stand_in.clone().map(|one| (one.sequence, one)));
        }
        for write in &part.subscriptions {
            apply(channel, write);
        }
        for count in &part.deliveries {
            let key = (count.reader, count.sequence);
            if count.is_of_all() {
                channel.deliveries.retain(|(reader, _), _| *reader != count.reader);
            } else if count.count == 0 {
                channel.deliveries.remove(&key);
            } else {
                channel.deliveries.insert(key, *count);
            }
        }
        ChannelOutcome { channel: name, refused: None, state: channel.state() }
    }

    pub(super) fn fetch(&self, request: &FetchRequest) -> Vec<MessageRecord> {
        let Some(channel) = self.channels.get(&request.channel) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let mut found = Vec::new();
        for record in channel.messages.range(request.from..).map(|(_, record)| record) {
            if request.count_max <= found.len() || request.bytes_max <= bytes {
                break;
            }
            bytes += record.encoded.len();
            found.push(record.clone());
        }
        found
    }

    pub(super) fn find_time(&self, channel: &ChannelName, at: WallTime) -> Sequence {
        let channel = &self.channels[channel];
        let found = channel.messages.values().find(|record| at <= record.timestamp);
        found.map_or(channel.last.next(), |record| record.sequence)
    }
}

fn apply(channel: &mut StoredChannel, write: &SubscriptionWrite) {
    match write {
        SubscriptionWrite::Create(state) => {
            assert!(channel.id_max < state.id, "ids grow");
            channel.id_max = state.id;
            channel.subscriptions.insert(state.id, ((**state).clone(), BTreeSet::new()));
        }
        SubscriptionWrite::Update(state) => {
            channel.subscriptions.entry(state.id).or_default().0 = (**state).clone();
        }
        SubscriptionWrite::Delete(id) => {
            channel.subscriptions.remove(&id.0);
        }
        SubscriptionWrite::Sent(id, sequence) => {
            if let Some((state, pending)) = channel.subscriptions.get_mut(&id.0) {
                state.last_sent = state.last_sent.max(sequence.0);
                pending.insert(*sequence);
            }
        }
        SubscriptionWrite::Acked(id, sequence) => {
            if let Some((_, pending)) = channel.subscriptions.get_mut(&id.0) {
                pending.remove(sequence);
            }
        }
    }
}

pub(super) fn recovered(name: &ChannelName, stored: &StoredChannel) -> RecoveredChannel {
    let subscriptions = stored.subscriptions.values().map(|(state, pending)| {
        RecoveredSubscription { state: state.clone(), pending: pending.iter().copied().collect() }
    });
    RecoveredChannel {
        channel: name.clone(),
        state: stored.state(),
        last_timestamp: stored.messages.values().next_back().map_or(WallTime(0), |m| m.timestamp),
        subscriptions: subscriptions.collect(),
        subscription_id_max: SubscriptionId(stored.id_max),
        deliveries: stored.deliveries.values().copied().collect(),
    }
}
