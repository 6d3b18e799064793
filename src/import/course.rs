//! The numbers that the operations of a log give: of channels, which only grow and change with a
//! deletion, and of messages, which leave none out. What does not keep to that is damaged.
//!
//! A channel's number is the last index of the leader's log when it was made. A snapshot may
//! be of a little later than the entry at which it ends, as operations are applied while it is
//! written: then operations on a channel follow that it does not know any more, up to its deletion.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::import::replay::is_same;
use crate::proto::{pb, spb};

/// What is wrong with an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Another channel of that name.
    #[error(
        "it is for number {found} of channel {}, which has number {known} and was not deleted \
         before", shown(.channel)
    )]
    Number {
        /// The channel.
        channel: Bytes,
        /// Its number so far.
        known: u64,
        /// The number in the operation.
        found: u64,
    },
    /// A channel that was deleted.
    #[error("it is for number {found} of channel {}, and {gone} was deleted", shown(.channel))]
    Gone {
        /// The channel.
        channel: Bytes,
        /// The number of the one that was deleted.
        gone: u64,
        /// The number in the operation.
        found: u64,
    },
    /// Messages are left out.
    #[error(
        "it has message {found} of channel {}, where {expected} comes next", shown(.channel)
    )]
    Sequence {
        /// The channel.
        channel: Bytes,
        /// What follows.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// It says what it does, and not to what.
    #[error("nothing is in it")]
    Empty,
    /// Messages of more than one channel.
    #[error("it has messages of channel {} and of channel {}", shown(.channel), shown(.other))]
    Subject {
        /// That of the first message.
        channel: Bytes,
        /// That of a later one.
        other: Bytes,
    },
}

fn is_there<T>(content: &Option<T>) -> Result<(), Doubt> {
    content.as_ref().map(drop).ok_or(Doubt::Empty)
}

fn shown(name: &Bytes) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[derive(Clone, Debug, Default)]
struct Standing {
    number: u64,
    last: u64,
    is_of_snapshot: bool,
    /// The first operation on an earlier channel of that name that the snapshot does not know.
    passed: Option<(u64, u64)>,
}

/// What the operations so far say.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Where the snapshot ends.
    begin: u64,
    channels: BTreeMap<Bytes, Standing>,
    /// The numbers of channels that were deleted.
    gone: BTreeMap<Bytes, u64>,
}

/// What the log says of a channel that a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It has that channel, up to this message.
    UpTo(u64),
    /// The channel was deleted, or made anew.
    Gone,
    /// It has no word of it.
    Nothing,
}

impl Course {
    /// From a snapshot that ends at entry `begin`.
    #[must_use]
    pub fn new(begin: u64, snapshot: Option<&spb::RaftSnapshot>) -> Self {
        let saved = snapshot.map(|snapshot| snapshot.channels.as_slice()).unwrap_or_default();
        let standing = |saved: &spb::ChannelSnapshot| Standing {
            number: saved.channel_id,
            last: saved.last,
            is_of_snapshot: true,
            passed: None,
        };
        let channels = saved.iter().map(|it| (it.channel.clone(), standing(it))).collect();
        Self { begin, channels, gone: BTreeMap::new() }
    }

    /// Goes on to the operation in entry `index`.
    ///
    /// # Errors
    /// [`Doubt`]. It may go on nevertheless, as a server does.
    pub fn note(&mut self, index: u64, operation: &spb::RaftOperation) -> Result<(), Doubt> {
        use spb::raft_operation::Type;
        let number = operation.channel_id;
        match operation.op_type() {
            Type::Publish => {
                let batch = operation.publish_batch.as_ref();
                let messages = batch.map(|batch| batch.messages.as_slice()).unwrap_or_default();
                self.publish(index, number, messages)
            }
            Type::Subscribe => {
                let request = operation.sub.as_ref().and_then(|added| added.request.as_ref());
                let request = request.ok_or(Doubt::Empty)?;
                self.standing(index, &request.subject, number).map(drop)
            }
            Type::DeleteChannel => self.delete(&operation.channel, number),
            Type::RemoveSubscription | Type::CloseSubscription => is_there(&operation.unsub),
            Type::SendAndAck => is_there(&operation.sub_sent_ack),
            Type::Connect => is_there(&operation.client_connect),
            Type::Disconnect => is_there(&operation.client_disconnect),
        }
    }

    /// The first entries that are for channels which the snapshot does not know and which were not
    /// deleted behind it.
    pub fn passed(&self) -> impl Iterator<Item = (u64, Doubt)> {
        self.channels.iter().filter_map(|(channel, standing)| {
            let (index, found) = standing.passed?;
            let (channel, known) = (channel.clone(), standing.number);
            Some((index, Doubt::Number { channel, known, found }))
        })
    }

    /// What it says of a channel with that number.
    #[must_use]
    pub fn word(&self, channel: &[u8], number: u64) -> Word {
        match self.channels.get(channel) {
            Some(known) if is_same(known.number, number) => return Word::UpTo(known.last),
            Some(known) if number < known.number => return Word::Gone,
            Some(_) | None => (),
        }
        let gone = self.gone.get(channel).copied();
        // Whatever was made before the snapshot, and is not in it, was deleted before it.
        if gone.is_some_and(|gone| number <= gone) || 0 < number && number < self.begin {
            return Word::Gone;
        }
        Word::Nothing
    }

    /// The channel that is meant; `None` where it is one that was replaced in the meantime.
    fn standing(
        &mut self,
        index: u64,
        channel: &Bytes,
        number: u64,
    ) -> Result<Option<&mut Standing>, Doubt> {
        let fresh = Standing { number, ..Standing::default() };
        let gone = self.gone.get(channel).copied().unwrap_or(0);
        let is_gone = 0 < number && number <= gone && !self.channels.contains_key(channel);
        let known = self.channels.entry(channel.clone()).or_insert_with(|| fresh.clone());
        if is_gone {
            return Err(Doubt::Gone { channel: channel.clone(), gone, found: number });
        }
        if is_same(known.number, number) {
            known.number = known.number.max(number);
            return Ok(Some(known));
        }
        if number < known.number && known.is_of_snapshot && self.begin <= known.number {
            known.passed = known.passed.or(Some((index, number)));
            return Ok(None);
        }
        let doubt = Doubt::Number { channel: channel.clone(), known: known.number, found: number };
        if known.number < number {
            *known = fresh;
        }
        Err(doubt)
    }

    fn publish(&mut self, index: u64, number: u64, messages: &[pb::MsgProto]) -> Result<(), Doubt> {
        let first = messages.first().ok_or(Doubt::Empty)?;
        let channel = &first.subject;
        let Some(standing) = self.standing(index, channel, number)? else { return Ok(()) };
        let expected = standing.last.saturating_add(1);
        let all = messages.iter().map(|message| message.sequence);
        standing.last = all.max().unwrap_or(0).max(standing.last);
        if expected < first.sequence || first.sequence == 0 {
            let found = first.sequence;
            return Err(Doubt::Sequence { channel: channel.clone(), expected, found });
        }
        for pair in messages.windows(2) {
            let (before, next) = (&pair[0], &pair[1]);
            let (expected, found) = (before.sequence.saturating_add(1), next.sequence);
            if found != expected {
                return Err(Doubt::Sequence { channel: channel.clone(), expected, found });
            }
            if next.subject != *channel {
                let other = next.subject.clone();
                return Err(Doubt::Subject { channel: channel.clone(), other });
            }
        }
        Ok(())
    }

    /// One of a channel that is not there any more may have been asked for twice.
    fn delete(&mut self, channel: &Bytes, number: u64) -> Result<(), Doubt> {
        let Some(known) = self.channels.get_mut(channel) else { return Ok(()) };
        if is_same(known.number, number) {
            let gone = self.gone.entry(channel.clone()).or_default();
            *gone = known.number.max(number).max(*gone);
            self.channels.remove(channel);
            return Ok(());
        }
        if number < known.number && known.is_of_snapshot && self.begin <= known.number {
            known.passed = known.passed.filter(|(_, passed)| *passed != number);
            return Ok(());
        }
        Err(Doubt::Number { channel: channel.clone(), known: known.number, found: number })
    }
}

#[cfg(test)]
mod tests;
