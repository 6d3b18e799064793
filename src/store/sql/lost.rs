//! What was acknowledged and the database no longer has: how much, and what stands in for it.
//!
//! A database that fails over to a copy behind the original loses commits. Whoever had them
//! acknowledged fills the missing sequences with empty messages, as the Go file store does (spec
//! stores, 5.5), so that sequences stay dense and none is given out twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;

use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{ChannelState, MessageRecord};
use crate::base::time::WallTime;
use crate::proto::{pb, spb};
use crate::store::sql::attempts::patiently;
use crate::store::sql::channel::Channel;
use crate::store::sql::dialect::{Dialect, Value};
use crate::store::sql::messages::{self, NumberedMessage};
use crate::store::sql::pending::Pending;
use crate::store::sql::recovery::Subscriptions;
use crate::store::sql::{RECOVERY_PATIENCE, fence};
use crate::store::{Notice, StoreError};

/// Most empty messages of one channel for what only a row knows of: one wrong cell can name any
/// number. What is missing before them stays a gap, which readers pass over.
const FILLERS_MAX: u64 = 100_000;
/// The same for what this process has acknowledged itself: more would keep everybody waiting.
const KNOWN_FILLERS_MAX: u64 = 1_000_000;
/// Of one transaction.
const FILLERS_AT_ONCE: usize = 4_096;

/// Adds a channel's row.
pub const ADD_CHANNEL: &str =
    "INSERT INTO Channels (id, name, maxmsgs, maxbytes, maxage) VALUES (?,?,?,?,?)";

/// What this process knows to be acknowledged, from one activation to the next.
#[derive(Clone, Debug, Default)]
pub struct Remembered(Arc<Memory>);

#[derive(Debug, Default)]
struct Memory {
    channels: Mutex<BTreeMap<ChannelName, Known>>,
    lost_count: AtomicU64,
}

/// One channel as an earlier epoch of this process left it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Which epoch.
    pub epoch: Epoch,
    /// Number of its row.
    pub id: i64,
    /// What was committed.
    pub state: ChannelState,
    /// Its subscriptions by their number.
    pub subscriptions: BTreeMap<u64, KnownSubscription>,
}

/// One of its subscriptions.
#[derive(Clone, Debug, Default)]
pub struct KnownSubscription {
    /// The record as it was stored.
    record: Bytes,
    /// Highest sequence that was sent.
    last_sent: u64,
    /// Sent and not acknowledged.
    live: Vec<u64>,
}

impl Remembered {
    /// How many acknowledged messages databases have lost, as far as this process found out.
    #[must_use]
    pub fn lost_count(&self) -> u64 {
        self.0.lost_count.load(Ordering::Relaxed)
    }

    /// All that is known.
    pub(super) fn known(&self) -> BTreeMap<ChannelName, Known> {
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The end of a share: its channels are known as it leaves them.
    pub(super) fn keep(&self, epoch: Epoch, channels: &BTreeMap<ChannelName, Channel>) {
        let mut known = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, channel) in channels {
            known.insert(name.clone(), Known::of(epoch, channel));
        }
    }

    /// Shares know it all from now on.
    pub(super) fn hand_over(&self) {
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn count(&self, lost: u64) {
        self.0.lost_count.fetch_add(lost, Ordering::Relaxed);
    }
}

impl Known {
    fn of(epoch: Epoch, channel: &Channel) -> Self {
        let subscription = |(number, pending): (&u64, &Pending)| {
            let record = channel.records.get(number).cloned().unwrap_or_default();
            let (last_sent, live) = (pending.last_sent, pending.live().collect());
            (*number, KnownSubscription { record, last_sent, live })
        };
        let subscriptions = channel.subscriptions.iter().map(subscription).collect();
        Self { epoch, id: channel.id, state: channel.state, subscriptions }
    }

    /// Makes the subscriptions of a channel that lost commits what they were: those that are
    /// missing come back, those that had ended go, and positions are those that were reached.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn restore(
        &self,
        dialect: &mut dyn Dialect,
        epoch: Epoch,
        id: i64,
        found: &mut Subscriptions,
    ) -> Result<(), StoreError> {
        let mut known: Subscriptions = BTreeMap::new();
        for (number, one) in &self.subscriptions {
            let decoded = spb::SubState::decode(one.record.clone());
            // What we wrote ourselves can be read.
            let Ok(state) = decoded else { continue };
            let pending = Pending::unwritten(one.last_sent, one.live.iter().copied());
            known.insert(*number, (state, pending));
        }
        patiently(dialect, RECOVERY_PATIENCE, |dialect| {
            fence::check(dialect, epoch)?;
            for number in found.keys().chain(known.keys()) {
                let values = [id.into(), (*number).into()];
                dialect.execute("DELETE FROM SubsPending WHERE subid=?", &values[1..])?;
                dialect.execute("DELETE FROM Subscriptions WHERE id=? AND subid=?", &values)?;
            }
            for (number, one) in &self.subscriptions {
                let record = Value::from(one.record.clone());
                let values = [id.into(), (*number).into(), one.last_sent.into(), record];
                dialect.execute(ADD_SUBSCRIPTION, &values)?;
            }
            Ok(())
        })?;
        *found = known;
        Ok(())
    }
}

const ADD_SUBSCRIPTION: &str =
    "INSERT INTO Subscriptions (id, subid, lastsent, proto) VALUES (?,?,?,?)";

/// The rows of a channel's messages as they were found.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Number of the channel's row.
    pub id: i64,
    /// Highest sequence of a message; 0 if there is none.
    pub last: u64,
    /// Its time.
    pub last_timestamp: WallTime,
    /// What the channel's row says of the time when it was empty.
    pub maxseq: u64,
    /// Highest sequence that a subscription was sent.
    pub last_sent: u64,
    /// The channel's limit; 0 = none.
    pub messages_max: u64,
}

/// What is missing at the end of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Up to here messages were acknowledged.
    pub acknowledged: u64,
    /// Up to here they are there.
    pub found: u64,
    /// Everything before was let go by limits; 0 if that is not known.
    kept_from: u64,
    /// From here on empty ones are written.
    fill_from: u64,
}

impl Rows {
    /// What is missing. `known` is of this channel, unless it was deleted and made anew since.
    #[must_use]
    pub fn gap(&self, known: Option<&Known>) -> Option<Gap> {
        let (known_last, kept_from) =
            known.map_or((0, 0), |known| (known.state.last.0, known.state.first.0));
        let (found, acknowledged) = if self.last > 0 {
            // While there are messages, the last is among them: what names a later one saw it.
            (self.last, known_last.max(self.maxseq).max(self.last_sent))
        } else {
            (self.maxseq, known_last)
        };
        if acknowledged <= found {
            return None;
        }
        let bound = if acknowledged <= known_last { KNOWN_FILLERS_MAX } else { FILLERS_MAX };
        let fillers_max = match self.messages_max {
            0 => bound,
            max => max.min(bound),
        };
        let fill_from =
            (found + 1).max(kept_from).max((acknowledged + 1).saturating_sub(fillers_max));
        Some(Gap { acknowledged, found, kept_from, fill_from })
    }
}

impl Gap {
    /// How many acknowledged messages are gone; 0 if limits had let go of all that is missing.
    #[must_use]
    pub fn lost_count(&self) -> u64 {
        (self.acknowledged + 1).saturating_sub(self.kept_from.max(self.found + 1))
    }

    /// The line for the operator, if anything is lost.
    #[must_use]
    pub fn notice(&self, channel: &ChannelName) -> Option<Notice> {
        let (lost, Self { acknowledged, found, .. }) = (self.lost_count(), self);
        let filled = (acknowledged + 1).saturating_sub(self.fill_from);
        let text = format!(
            "channel {channel:?}: acknowledged up to {acknowledged}, found {found}: the database \
             lost {lost} message(s); {filled} empty one(s) stand in for them, and the channel goes \
             on at {}",
            acknowledged + 1
        );
        (lost > 0).then_some(Notice { is_warning: true, text })
    }

    /// Writes the empty messages, oldest first, so that whoever is interrupted can go on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn fill(
        &self,
        dialect: &mut dyn Dialect,
        epoch: Epoch,
        (channel, rows): (&ChannelName, &Rows),
        now: WallTime,
    ) -> Result<(), StoreError> {
        let id = rows.id;
        patiently(dialect, RECOVERY_PATIENCE, |dialect| {
            fence::check(dialect, epoch)?;
            dialect.execute("DELETE FROM StanbyTotals WHERE id=?", &[id.into()])?;
            let statement = "DELETE FROM Messages WHERE id=? AND seq<?";
            dialect.execute(statement, &[id.into(), self.kept_from.into()])?;
            if self.acknowledged < self.fill_from {
                let statement = "UPDATE Channels SET maxseq=? WHERE id=?";
                dialect.execute(statement, &[self.acknowledged.into(), id.into()])?;
            }
            Ok(())
        })?;
        // Not earlier than what is before them (P4).
        let timestamp = now.max(rows.last_timestamp);
        let mut from = self.fill_from;
        while from <= self.acknowledged {
            let part: Vec<MessageRecord> = (from..=self.acknowledged)
                .take(FILLERS_AT_ONCE)
                .map(|sequence| empty(channel, Sequence(sequence), timestamp))
                .collect();
            let numbered: Vec<NumberedMessage<'_>> = part.iter().map(|it| (id, it)).collect();
            patiently(dialect, RECOVERY_PATIENCE, |dialect| {
                fence::check(dialect, epoch)?;
                Ok(messages::insert(dialect, &numbered, 0)?)
            })?;
            from += FILLERS_AT_ONCE as u64;
        }
        Ok(())
    }
}

fn empty(channel: &ChannelName, sequence: Sequence, timestamp: WallTime) -> MessageRecord {
    let proto = pb::MsgProto {
        sequence: sequence.0,
        subject: Bytes::copy_from_slice(channel.as_bytes()),
        timestamp: timestamp.0,
        ..pb::MsgProto::default()
    };
    MessageRecord { sequence, timestamp, encoded: proto.encode_to_vec().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(last: u64, maxseq: u64, last_sent: u64, known: Option<(u64, u64)>) -> Option<Gap> {
        let rows = Rows {
            id: 1,
            last,
            last_timestamp: WallTime(0),
            maxseq,
            last_sent,
            messages_max: 1_000,
        };
        let state = |(first, last)| ChannelState {
            first: Sequence(first),
            last: Sequence(last),
            ..ChannelState::default()
        };
        let known = known.map(|range| Known { state: state(range), ..Known::default() });
        rows.gap(known.as_ref())
    }

    fn check(found: Option<Gap>, lost: u64, fill: std::ops::RangeInclusive<u64>) {
        let found = found.map(|gap| (gap.lost_count(), gap.fill_from..=gap.acknowledged));
        assert_eq!(found, Some((lost, fill)));
    }

    #[test]
    fn what_is_there_is_not_missed() {
        assert_eq!(gap(100, 0, 100, Some((1, 100))), None);
        assert_eq!(gap(100, 0, 90, Some((1, 90))), None);
        // All were too old: the channel's row says how far they went.
        assert_eq!(gap(0, 100, 100, Some((101, 100))), None);
        assert_eq!(gap(0, 0, 0, None), None);
        // A subscription alone shows nothing where no message is left.
        assert_eq!(gap(0, 0, 100, None), None);
    }

    #[test]
    fn what_is_missing_is_filled() {
        check(gap(90, 0, 100, Some((1, 100))), 10, 91..=100);
        check(gap(90, 0, 100, None), 10, 91..=100);
        check(gap(0, 0, 0, Some((1, 100))), 100, 1..=100);
    }

    #[test]
    fn what_limits_let_go_is_not_lost() {
        check(gap(90, 0, 0, Some((96, 100))), 5, 96..=100);
        let expired = gap(90, 0, 0, Some((101, 100)));
        assert_eq!(expired.map(|gap| (gap.lost_count(), gap.fill_from)), Some((0, 101)));
        check(gap(90, 0, 0, Some((1, 5_000))), 4_910, 4_001..=5_000);
    }

    /// Goal: one wrong cell takes no more than a moment and a bounded number of rows.
    #[test]
    fn what_a_row_says_is_filled_up_to_a_bound() {
        const WRONG: u64 = 1_000_000_000_000;
        for messages_max in [0, WRONG] {
            let rows = Rows {
                id: 1,
                last: 90,
                last_timestamp: WallTime(0),
                maxseq: WRONG,
                last_sent: 0,
                messages_max,
            };
            let gap = rows.gap(None).map(|gap| (gap.acknowledged, gap.fill_from));
            assert_eq!(gap, Some((WRONG, WRONG + 1 - FILLERS_MAX)));
        }
    }

    /// Goal: what this process has acknowledged itself is filled whole (P4), where a row alone
    /// could be wrong.
    #[test]
    fn what_was_acknowledged_here_is_filled_whole() {
        let rows = Rows {
            id: 1,
            last: 90,
            last_timestamp: WallTime(0),
            maxseq: 0,
            last_sent: 0,
            messages_max: 0,
        };
        let state =
            ChannelState { first: Sequence(1), last: Sequence(200_090), ..ChannelState::default() };
        let known = Known { state, ..Known::default() };
        check(rows.gap(Some(&known)), 200_000, 91..=200_090);
    }
}
