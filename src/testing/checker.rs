//! What must hold after every step and at the end: what clients were told, against P1 to P6.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence, Subject};
use crate::base::record::MessageRecord;
use crate::proto::pb;

/// Everything that clients of a simulated group were told.
#[derive(Debug, Default)]
pub struct Checker {
    /// Payloads whose publishers got a positive pub-ack; payloads are unique in a run.
    acked: BTreeMap<ChannelName, BTreeSet<Bytes>>,
    /// What was delivered under which sequence.
    told: BTreeMap<(ChannelName, Sequence), (Bytes, i64)>,
    /// Payloads whose publishers were told that they are not stored.
    refused: BTreeSet<Bytes>,
    /// By key of the durable: what its clients acknowledged.
    durables: BTreeMap<DurableKey, BTreeSet<Sequence>>,
    /// By inbox: subscriptions of clients, as far as they were asked for.
    asked: BTreeMap<Subject, Asked>,
    /// The epoch whose deliveries are counted in `asked`.
    epoch: Epoch,
}

/// A subscription that a client asked for.
#[derive(Debug)]
struct Asked {
    durable: Option<DurableKey>,
    in_flight_max: usize,
    /// Sent to it in the present epoch, and neither acknowledged nor sent to another member since.
    held: BTreeSet<Sequence>,
    acked: BTreeSet<Sequence>,
}

/// What a durable, or a durable queue group, is known by in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableKey {
    /// Its channel.
    pub channel: ChannelName,
    /// Client and durable name; of a queue group its name.
    pub name: String,
}

impl Checker {
    /// A publisher was told that `payload` is stored.
    pub fn on_acked(&mut self, channel: &ChannelName, payload: Bytes) {
        let is_new = self.acked.entry(channel.clone()).or_default().insert(payload);
        assert!(is_new, "a publish is acknowledged once");
    }

    /// A subscriber was given `message`.
    pub fn on_delivered(&mut self, message: &pb::MsgProto) {
        let channel = ChannelName::from(message.subject.clone());
        let key = (channel, Sequence(message.sequence));
        let told = (message.data.clone(), message.timestamp);
        let first_told = self.told.entry(key.clone()).or_insert_with(|| told.clone());
        assert_eq!(*first_told, told, "P4: two messages under one sequence: {key:?}");
    }

    /// A publisher was told that `payload` is not stored.
    pub fn on_refused(&mut self, payload: Bytes) {
        self.refused.insert(payload);
    }

    /// A client asks for a subscription on `inbox`.
    pub fn on_asked(
        &mut self,
        inbox: &Subject,
        durable: Option<&DurableKey>,
        in_flight_max: usize,
    ) {
        let (held, acked) = (BTreeSet::new(), BTreeSet::new());
        let asked = Asked { durable: durable.cloned(), in_flight_max, held, acked };
        self.asked.insert(inbox.clone(), asked);
    }

    /// A client left a subscription, or forgot all of a former life. Until the server knows that
    /// too, messages may still move there from other members of the group.
    pub fn on_left(&mut self, inbox: &Subject) {
        if let Some(asked) = self.asked.get_mut(inbox) {
            asked.in_flight_max = usize::MAX;
        }
    }

    /// A client acknowledges what it got on `inbox`; the ack may never arrive.
    pub fn on_acknowledged(&mut self, inbox: &Subject, sequence: Sequence) {
        let Some(asked) = self.asked.get_mut(inbox) else { return };
        asked.held.remove(&sequence);
        asked.acked.insert(sequence);
        if let Some(acked) = asked.durable.as_ref().and_then(|key| self.durables.get_mut(key)) {
            acked.insert(sequence);
        }
    }

    /// The member of `epoch` sends a message to `inbox`. Deliveries of former epochs are not
    /// counted: what the successor knows of them may be less.
    ///
    /// # Panics
    /// When a subscription gets more than it has room for.
    pub fn on_sent(&mut self, epoch: Epoch, inbox: &Subject, payload: &Bytes) {
        if self.epoch < epoch {
            self.epoch = epoch;
            self.asked.values_mut().for_each(|asked| asked.held.clear());
        }
        let Some(durable) = self.asked.get(inbox).map(|asked| asked.durable.clone()) else {
            return;
        };
        let Ok(message) = pb::MsgProto::decode(payload.clone()) else { return };
        if epoch < self.epoch {
            return;
        }
        let sequence = Sequence(message.sequence);
        for (other, asked) in &mut self.asked {
            if other != inbox && durable.is_some() && asked.durable == durable {
                asked.held.remove(&sequence);
            }
        }
        let Some(asked) = self.asked.get_mut(inbox) else { return };
        if !asked.acked.contains(&sequence) {
            asked.held.insert(sequence);
        }
        let (held, max) = (asked.held.len(), asked.in_flight_max);
        assert!(message.redelivered || held <= max, "{held} in flight of {max} on {inbox:?}");
    }

    /// Whether something is owed to `key`.
    #[must_use]
    pub fn counts_on(&self, key: &DurableKey) -> bool {
        self.durables.contains_key(key)
    }

    /// A durable was created, from the first message on.
    pub fn on_durable_made(&mut self, key: &DurableKey) {
        self.durables.entry(key.clone()).or_default();
    }

    /// Whether everything that is stored was acknowledged by every durable.
    #[must_use]
    pub fn owes_nothing(&self, stored: &BTreeMap<ChannelName, Vec<MessageRecord>>) -> bool {
        self.first_debt(stored).is_none()
    }

    /// A durable that did not acknowledge a stored message: it must be delivered until it does.
    #[must_use]
    pub fn first_debt(
        &self,
        stored: &BTreeMap<ChannelName, Vec<MessageRecord>>,
    ) -> Option<(DurableKey, Sequence)> {
        self.durables.iter().find_map(|(key, got)| {
            let records = stored.get(&key.channel)?.iter();
            let missing = records.map(|r| r.sequence).find(|sequence| !got.contains(sequence));
            missing.map(|sequence| (key.clone(), sequence))
        })
    }

    /// What must hold of the store at the end.
    ///
    /// # Panics
    /// When something does not.
    pub fn check_store(&self, stored: &BTreeMap<ChannelName, Vec<MessageRecord>>) {
        for (channel, records) in stored {
            check_order(channel, records);
            self.check_acked(channel, records);
        }
        for channel in self.acked.keys() {
            assert!(stored.contains_key(channel), "P1: channel {channel:?} is lost");
        }
        for ((channel, sequence), (payload, timestamp)) in &self.told {
            let record = stored[channel].iter().find(|record| record.sequence == *sequence);
            let record = record.unwrap_or_else(|| panic!("P1: {channel:?}:{sequence} was told"));
            let message = decode(record);
            assert_eq!((&message.data, message.timestamp), (payload, *timestamp), "P4: as told");
        }
        assert_eq!(self.first_debt(stored), None, "P5: at least once");
    }

    fn check_acked(&self, channel: &ChannelName, records: &[MessageRecord]) {
        let mut counts: BTreeMap<Bytes, usize> = BTreeMap::new();
        for record in records {
            *counts.entry(decode(record).data).or_default() += 1;
        }
        let kept = counts.keys().find(|payload| self.refused.contains(*payload));
        assert_eq!(kept, None, "P9: what was refused is not kept");
        for payload in self.acked.get(channel).into_iter().flatten() {
            let count = counts.get(payload).copied().unwrap_or(0);
            assert_eq!(count, 1, "P1: acked {payload:?} is in {channel:?} exactly once");
        }
    }

    /// How many publishes were acknowledged.
    #[must_use]
    pub fn acked_count(&self) -> usize {
        self.acked.values().map(BTreeSet::len).sum()
    }
}

fn check_order(channel: &ChannelName, records: &[MessageRecord]) {
    for pair in records.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert_eq!(after.sequence, before.sequence.next(), "P4: dense in {channel:?}");
        assert!(before.timestamp <= after.timestamp, "P4: time falls in {channel:?}");
    }
}

fn decode(record: &MessageRecord) -> pb::MsgProto {
    let message = pb::MsgProto::decode(record.encoded.clone()).expect("stored by an engine");
    assert_eq!(message.sequence, record.sequence.get());
    message
}
