//! What a channel's subs.dat says: subscriptions, what is pending, and how much of it is dead.

use std::collections::BTreeMap;

use crate::base::id::{Sequence, SubscriptionId};
use crate::base::record::{RecoveredSubscription, SubscriptionWrite};
use crate::base::sequence_map::SequenceMap;
use crate::proto::spb;
use crate::store::file::format::{
    Crc, RecordTooBig, SubscriptionRecord, encode_typed, subscription_kind,
};

#[derive(Clone, Debug)]
struct Subscription {
    state: spb::SubState,
    pending: SequenceMap<()>,
}

/// A channel's subscriptions, as replaying its file gives them.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    by_id: BTreeMap<u64, Subscription>,
    id_max: u64,
    /// Records that matter for compaction (spec stores, 5.4 and 5.13).
    record_count: u64,
    dead_count: u64,
}

impl Subscriptions {
    /// Takes one record of the file into account, as recovery does (spec stores, 4.7).
    pub fn replay(&mut self, record: SubscriptionRecord) {
        match record {
            SubscriptionRecord::New(state) => {
                self.record_count += 1;
                self.insert(state);
            }
            SubscriptionRecord::Update(state) => {
                self.record_count += 1;
                self.id_max = self.id_max.max(state.id);
                match self.by_id.get_mut(&state.id) {
                    Some(known) => {
                        known.state = state;
                        self.dead_count += 1;
                    }
                    None => self.insert(state),
                }
            }
            SubscriptionRecord::Delete(id) => {
                self.id_max = self.id_max.max(id);
                if let Some(known) = self.by_id.remove(&id) {
                    self.dead_count += 1 + count(&known.pending);
                }
            }
            SubscriptionRecord::Ack(id, sequence) => {
                if let Some(known) = self.by_id.get_mut(&id) {
                    known.pending.remove(Sequence(sequence));
                    self.dead_count += 1;
                }
            }
            SubscriptionRecord::Message(id, sequence) => {
                if let Some(known) = self.by_id.get_mut(&id) {
                    known.pending.insert(Sequence(sequence), ());
                    known.state.last_sent = known.state.last_sent.max(sequence);
                    self.record_count += 1;
                }
            }
        }
    }

    fn insert(&mut self, state: spb::SubState) {
        self.id_max = self.id_max.max(state.id);
        self.by_id.insert(state.id, Subscription { state, pending: SequenceMap::default() });
    }

    /// Takes one change into account; true if a compaction may be due after it.
    pub fn apply(&mut self, write: &SubscriptionWrite) -> bool {
        match write {
            SubscriptionWrite::Create(state) => {
                self.replay(SubscriptionRecord::New(detached(state)));
                false
            }
            SubscriptionWrite::Update(state) => {
                self.replay(SubscriptionRecord::Update(detached(state)));
                false
            }
            SubscriptionWrite::Delete(id) => {
                let is_known = self.by_id.contains_key(&id.0);
                self.replay(SubscriptionRecord::Delete(id.0));
                is_known
            }
            SubscriptionWrite::Sent(id, sequence) => {
                self.replay(SubscriptionRecord::Message(id.0, sequence.get()));
                false
            }
            SubscriptionWrite::Acked(id, sequence) => {
                let is_known = self.by_id.contains_key(&id.0);
                self.replay(SubscriptionRecord::Ack(id.0, sequence.get()));
                is_known
            }
        }
    }

    /// Whether so much of the file is dead that it should be rewritten.
    #[must_use]
    pub fn is_fragmented(&self, fragmentation_min: u64) -> bool {
        let percent = match self.record_count {
            0 => 100,
            records => self.dead_count.saturating_mul(100) / records,
        };
        fragmentation_min <= percent
    }

    /// What the counters say, for a compaction that comes to nothing.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.record_count, self.dead_count)
    }

    /// Takes back what [`Subscriptions::compacted`] has counted.
    pub fn restore_counts(&mut self, (record_count, dead_count): (u64, u64)) {
        self.record_count = record_count;
        self.dead_count = dead_count;
    }

    /// The records of a file that says the same and nothing dead; the counters follow it.
    ///
    /// # Errors
    /// [`RecordTooBig`], which a record that was once written cannot be.
    pub fn compacted(&mut self, crc: &Crc) -> Result<Vec<u8>, RecordTooBig> {
        let mut out = Vec::new();
        let mut record_count = 0;
        for (id, known) in &self.by_id {
            encode_typed(&mut out, subscription_kind::NEW, &known.state, crc)?;
            for Sequence(seqno) in known.pending.sequences() {
                let update = spb::SubStateUpdate { id: *id, seqno };
                encode_typed(&mut out, subscription_kind::MESSAGE, &update, crc)?;
            }
            record_count += 1 + count(&known.pending);
        }
        // Ids must not be used twice, even if the highest one is gone: its end stays on record.
        if self.by_id.keys().next_back().is_none_or(|last| *last < self.id_max) && self.id_max != 0
        {
            let delete = spb::SubStateDelete { id: self.id_max };
            encode_typed(&mut out, subscription_kind::DELETE, &delete, crc)?;
        }
        self.record_count = record_count;
        self.dead_count = 0;
        Ok(out)
    }

    /// As the engine gets them at recovery.
    #[must_use]
    pub fn recovered(&self) -> Vec<RecoveredSubscription> {
        self.by_id
            .values()
            .map(|known| RecoveredSubscription {
                state: known.state.clone(),
                pending: known.pending.sequences().collect(),
            })
            .collect()
    }

    /// Highest id ever used, as far as is known.
    #[must_use]
    pub fn id_max(&self) -> SubscriptionId {
        SubscriptionId(self.id_max)
    }
}

/// Appends the records of `writes` to `out`.
///
/// # Errors
/// [`RecordTooBig`].
pub fn encode(
    out: &mut Vec<u8>,
    writes: &[SubscriptionWrite],
    crc: &Crc,
) -> Result<(), RecordTooBig> {
    for write in writes {
        match write {
            SubscriptionWrite::Create(state) => {
                encode_typed(out, subscription_kind::NEW, state, crc)?;
            }
            SubscriptionWrite::Update(state) => {
                encode_typed(out, subscription_kind::UPDATE, state, crc)?;
            }
            SubscriptionWrite::Delete(id) => {
                let delete = spb::SubStateDelete { id: id.0 };
                encode_typed(out, subscription_kind::DELETE, &delete, crc)?;
            }
            SubscriptionWrite::Sent(id, sequence) => {
                let update = spb::SubStateUpdate { id: id.0, seqno: sequence.get() };
                encode_typed(out, subscription_kind::MESSAGE, &update, crc)?;
            }
            SubscriptionWrite::Acked(id, sequence) => {
                let update = spb::SubStateUpdate { id: id.0, seqno: sequence.get() };
                encode_typed(out, subscription_kind::ACK, &update, crc)?;
            }
        }
    }
    Ok(())
}

/// A copy that keeps no read buffer alive.
fn detached(state: &spb::SubState) -> spb::SubState {
    let copy = |bytes: &bytes::Bytes| bytes::Bytes::copy_from_slice(bytes);
    spb::SubState {
        client_id: copy(&state.client_id),
        q_group: copy(&state.q_group),
        inbox: copy(&state.inbox),
        ack_inbox: copy(&state.ack_inbox),
        durable_name: copy(&state.durable_name),
        ..state.clone()
    }
}

fn count(pending: &SequenceMap<()>) -> u64 {
    u64::try_from(pending.len()).unwrap_or(u64::MAX)
}
