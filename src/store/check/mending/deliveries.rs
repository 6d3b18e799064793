//! what was delivered to whom, where a part of `subs.dat` is lost
//!
//! A message that a subscription was sent, and that no record says to be pending, counts as
//! acknowledged. Where records are lost, whatever may have been sent there has to be pending again:
//! that costs redeliveries, and no message.

use std::collections::{BTreeMap, BTreeSet};

use super::records::Take;
use crate::proto::spb;
use crate::store::file::format::{Crc, SubscriptionRecord, encode_typed, subscription_kind};

/// Deliveries of one subscription that are made up: beyond that a number is more likely wrong.
const MADE_MAX: u64 = 1_000_000;

#[derive(Debug, Default)]
struct Subscription {
    /// The last message that it was sent.
    sent: u64,
    /// Records are lost since it was sent this one, and it was sent no newer one since.
    doubt: Option<u64>,
    /// What it may have been sent where records are lost.
    made: BTreeSet<u64>,
    /// What it has acknowledged behind those.
    acked: BTreeSet<u64>,
}

impl Subscription {
    fn on_sent(&mut self, sequence: u64) {
        if let Some(from) = self.doubt.filter(|from| *from < sequence) {
            self.doubt = None;
            let missing = from + 1..sequence;
            if sequence - from <= MADE_MAX {
                self.made.extend(missing.filter(|one| !self.acked.contains(one)));
            }
        }
        self.made.remove(&sequence);
        self.sent = self.sent.max(sequence);
    }
}

/// What is known of all subscriptions of a channel.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    known: BTreeMap<u64, Subscription>,
    last: u64,
}

impl Deliveries {
    /// The last message that any subscription was sent: it was there, whatever became of the
    /// subscription.
    pub fn last(&self) -> u64 {
        self.last
    }
}

impl Take<SubscriptionRecord> for Deliveries {
    fn take(&mut self, record: SubscriptionRecord) {
        match record {
            SubscriptionRecord::New(state) | SubscriptionRecord::Update(state) => {
                self.last = self.last.max(state.last_sent);
                let known = self.known.entry(state.id).or_default();
                known.sent = known.sent.max(state.last_sent);
            }
            SubscriptionRecord::Message(id, sequence) => {
                if let Some(known) = self.known.get_mut(&id) {
                    self.last = self.last.max(sequence);
                    known.on_sent(sequence);
                }
            }
            SubscriptionRecord::Ack(id, sequence) => {
                if let Some(known) = self.known.get_mut(&id) {
                    known.made.remove(&sequence);
                    if known.doubt.is_some() {
                        known.acked.insert(sequence);
                    }
                }
            }
            SubscriptionRecord::Delete(id) => drop(self.known.remove(&id)),
        }
    }

    fn lose(&mut self) {
        for known in self.known.values_mut() {
            known.doubt.get_or_insert(known.sent);
        }
    }

    fn more(&self, crc: &Crc) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (&id, known) in &self.known {
            for &seqno in &known.made {
                let update = spb::SubStateUpdate { id, seqno };
                encode_typed(&mut bytes, subscription_kind::MESSAGE, &update, crc)
                    .expect("two numbers are no record that is too big");
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what may have been sent where records are lost is pending, unless it was acknowledged.
    #[test]
    fn what_may_have_been_sent_is_pending() {
        let mut deliveries = Deliveries::default();
        deliveries.take(SubscriptionRecord::New(spb::SubState {
            id: 1,
            last_sent: 4,
            ..spb::SubState::default()
        }));
        deliveries.take(SubscriptionRecord::Message(1, 5));
        deliveries.lose();
        deliveries.take(SubscriptionRecord::Ack(1, 7));
        deliveries.take(SubscriptionRecord::Message(1, 10));
        deliveries.take(SubscriptionRecord::Message(1, 11));
        deliveries.take(SubscriptionRecord::Ack(1, 8));
        assert_eq!(deliveries.known[&1].made, BTreeSet::from([6, 9]));
        assert_eq!(deliveries.last(), 11);
    }
}
