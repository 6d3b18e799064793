//! Which entry of a log has which message.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::import::replay::is_same;
use crate::proto::spb;

/// Messages of one channel: first sequence → last one, and the entry that has them.
type Ranges = BTreeMap<u64, (u64, u64)>;

/// Where the messages in a log are.
#[derive(Debug, Default)]
pub struct InLog {
    /// By name, and number of the channel.
    channels: BTreeMap<(Bytes, u64), Ranges>,
}

impl InLog {
    /// Notes what entry `index` has. A message that an earlier entry has is that one's: stores
    /// take no sequence twice.
    pub fn note(&mut self, index: u64, operation: &spb::RaftOperation) {
        let messages = operation.publish_batch.as_ref().map(|batch| batch.messages.as_slice());
        let Some([first, ..]) = messages else { return };
        let key = (first.subject.clone(), operation.channel_id);
        let ranges = self.channels.entry(key).or_default();
        for message in messages.unwrap_or_default() {
            let sequence = message.sequence;
            match ranges.range_mut(..=sequence).next_back() {
                Some((_, (last, _))) if sequence <= *last => (),
                Some((_, (last, entry))) if *entry == index && *last + 1 == sequence => {
                    *last = sequence;
                }
                Some(_) | None => drop(ranges.insert(sequence, (sequence, index))),
            }
        }
    }

    /// The entry that has a message of the channel with that number.
    #[must_use]
    pub fn find(&self, name: &[u8], number: u64, sequence: u64) -> Option<u64> {
        self.of(name, number).find_map(|ranges| {
            let (_, (last, index)) = ranges.range(..=sequence).next_back()?;
            (sequence <= *last).then_some(*index)
        })
    }

    /// First and last sequences of messages that lie one behind the other.
    pub fn ranges(&self, name: &[u8], number: u64) -> impl Iterator<Item = (u64, u64)> {
        self.of(name, number).flatten().map(|(first, (last, _))| (*first, *last))
    }

    fn of(&self, name: &[u8], number: u64) -> impl Iterator<Item = &Ranges> {
        let first = (Bytes::copy_from_slice(name), 0);
        let range = self.channels.range(first..);
        let name = name.to_vec();
        let is_its = move |key: &&(Bytes, u64)| key.0 == name;
        range
            .take_while(move |(key, _)| is_its(key))
            .filter(move |((_, found), _)| is_same(*found, number))
            .map(|(_, ranges)| ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pb;

    fn publish(channel: &'static str, number: u64, sequences: &[u64]) -> spb::RaftOperation {
        let message = |sequence: &u64| pb::MsgProto {
            sequence: *sequence,
            subject: Bytes::from(channel),
            ..pb::MsgProto::default()
        };
        let messages = sequences.iter().map(message).collect();
        spb::RaftOperation {
            publish_batch: Some(spb::RaftBatch { messages }),
            channel_id: number,
            ..spb::RaftOperation::default()
        }
    }

    #[test]
    fn each_message_is_found_in_the_first_entry_that_has_it() {
        let mut found = InLog::default();
        found.note(10, &publish("foo", 7, &[1, 2, 3]));
        found.note(11, &publish("foo", 7, &[3, 4]));
        found.note(12, &publish("foo", 9, &[1]));
        found.note(13, &publish("bar", 7, &[1]));
        found.note(14, &spb::RaftOperation::default());
        let at = |number, sequence| found.find(b"foo", number, sequence);
        assert_eq!((at(7, 3), at(7, 4), at(7, 5), at(7, 0)), (Some(10), Some(11), None, None));
        assert_eq!((at(9, 1), at(9, 2), at(8, 1)), (Some(12), None, None));
        let ranges: Vec<_> = found.ranges(b"foo", 7).collect();
        assert_eq!(ranges, [(1, 3), (4, 4)]);
    }
}
