//! Keeps records in memory.
//!
//! Nothing survives the process, so nothing is recovered, and client and subscription records need
//! not be kept (spec stores, section 11).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::base::channel_limits::{ChannelLimits, ResolvedLimits, StoreLimits};
use crate::base::deadlines::Deadlines;
use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, CommitReport, FetchRequest, Lifecycle,
    MessageRecord, Purge, RecoveredState,
};
use crate::base::time::{Instant, Now, WallTime};
use crate::store::retention::{self, Accounting, Held};
use crate::store::{Maintained, Opened, OutcomeUnknown, Store, StoreError, check_part, report};

/// Empty shares for `loops` loops.
///
/// # Errors
/// [`StoreError::Unusable`] with the reference's text when the limits contradict themselves.
pub fn open(limits: &StoreLimits, loops: u16) -> Result<Opened, StoreError> {
    let limits = limits.resolve().map_err(|error| StoreError::Unusable(error.to_string()))?;
    let share = || Box::new(MemoryStore::new(limits.clone())) as Box<dyn Store>;
    Ok(Opened {
        recovered: RecoveredState::default(),
        shares: (0..loops.max(1)).map(|_| share()).collect(),
        notices: Vec::new(),
    })
}

/// One share of a store in memory.
struct MemoryStore {
    limits: ResolvedLimits,
    channels: BTreeMap<ChannelName, Channel>,
    /// When each channel's oldest message expires, on the wall clock.
    expiries: Deadlines<ChannelName>,
}

/// One channel's messages, ascending.
struct Channel {
    limits: ChannelLimits,
    state: ChannelState,
    messages: VecDeque<MessageRecord>,
    /// Whether the log says already that its limits were reached.
    is_limit_reported: bool,
}

impl MemoryStore {
    fn new(limits: ResolvedLimits) -> Self {
        Self { limits, channels: BTreeMap::new(), expiries: Deadlines::default() }
    }

    fn commit_channel(&mut self, batch: &ChannelBatch) -> ChannelOutcome {
        let refused = self.apply(batch).err();
        let channel = self.channels.get(&batch.channel);
        let state = channel.map(|channel| channel.state).unwrap_or_default();
        ChannelOutcome { channel: batch.channel.clone(), refused, state }
    }

    fn apply(&mut self, batch: &ChannelBatch) -> Result<(), String> {
        let name = &batch.channel;
        check_part(batch, self.channels.get(name).map(|channel| channel.state.last))?;
        if batch.lifecycle == Lifecycle::Delete {
            self.channels.remove(name);
            self.expiries.cancel(name);
            return Ok(());
        }
        let limits = &self.limits;
        let channel =
            self.channels.entry(name.clone()).or_insert_with(|| Channel::new(limits.of(name)));
        channel.append(&batch.messages);
        if let Some(purge) = &batch.purge {
            channel.purge(purge);
        }
        channel.keep_limits(name);
        self.arm_expiry(name);
        Ok(())
    }

    fn arm_expiry(&mut self, name: &ChannelName) {
        let oldest = self.channels.get(name).and_then(|channel| {
            let oldest = channel.messages.front()?;
            retention::expires_at(&channel.limits, oldest.timestamp)
        });
        match oldest {
            Some(at) => self.expiries.arm(name.clone(), wall_as_instant(at)),
            None => {
                self.expiries.cancel(name);
            }
        }
    }
}

/// The table of deadlines orders plain numbers; here they are wall-clock times, which messages
/// are stamped with.
fn wall_as_instant(at: WallTime) -> Instant {
    Instant(u64::try_from(at.0).unwrap_or(0))
}

impl Store for MemoryStore {
    fn commit(&mut self, _epoch: Epoch, batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
        let channels = batch.channels.iter().map(|part| self.commit_channel(part)).collect();
        Ok(CommitReport { clients_refused: None, channels })
    }

    fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
        let Some(channel) = self.channels.get(&request.channel) else {
            return Ok(Vec::new());
        };
        let mut fetched = Vec::new();
        let mut byte_count = 0;
        for message in channel.from(request.from).take(request.count_max.max(1)) {
            byte_count += message.encoded.len();
            fetched.push(message.clone());
            if request.bytes_max <= byte_count {
                break;
            }
        }
        Ok(fetched)
    }

    fn find_time(&mut self, channel: &ChannelName, at: WallTime) -> Result<Sequence, StoreError> {
        let Some(channel) = self.channels.get(channel) else {
            return Ok(Sequence::ZERO);
        };
        if channel.state.last == Sequence::ZERO {
            return Ok(Sequence::ZERO);
        }
        let index = channel.messages.partition_point(|message| message.timestamp < at);
        let found = channel.messages.get(index).map(|message| message.sequence);
        Ok(found.unwrap_or(channel.state.last.next()))
    }

    fn maintain(&mut self, now: Now) -> Result<Maintained, StoreError> {
        let mut trimmed = Vec::new();
        while let Some(name) = self.expiries.pop_due(wall_as_instant(now.wall)) {
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.expire(now.wall);
                trimmed.push((name.clone(), channel.state));
            }
            self.arm_expiry(&name);
        }
        let next_at = self.expiries.next_deadline();
        let next_in: Option<Duration> = next_at.map(|at| at.since(wall_as_instant(now.wall)));
        Ok(Maintained { trimmed, next_in })
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Channel {
    fn new(limits: ChannelLimits) -> Self {
        Self {
            limits,
            state: ChannelState::default(),
            messages: VecDeque::new(),
            is_limit_reported: false,
        }
    }

    /// Takes messages that continue the channel.
    fn append(&mut self, messages: &[MessageRecord]) {
        for message in messages {
            let is_first = self.state.last == Sequence::ZERO;
            assert!(is_first || message.sequence == self.state.last.next(), "checked before");
            if is_first {
                self.state.first = message.sequence;
            }
            self.state.last = message.sequence;
            self.state.message_count += 1;
            self.state.byte_count += size(message);
            // A copy of its own: the given bytes may be a slice of a large read buffer.
            self.messages.push_back(MessageRecord {
                encoded: bytes::Bytes::copy_from_slice(&message.encoded),
                ..message.clone()
            });
        }
    }

    /// Drops what is too much.
    fn keep_limits(&mut self, name: &ChannelName) {
        let excess = retention::excess(&self.limits, self.held(), self.messages.iter().map(size));
        for _ in 0..excess {
            self.remove_oldest();
        }
        if excess > 0 && !self.is_limit_reported {
            self.is_limit_reported = true;
            report::limits_reached(name, self.held(), &self.limits);
        }
    }

    /// Lets go of what lies before the message that stays.
    fn purge(&mut self, purge: &Purge) {
        while self.messages.front().is_some_and(|oldest| oldest.sequence < purge.first) {
            self.remove_oldest();
        }
        if let Some(stand_in) = &purge.stand_in {
            // Its place may be empty: age has taken that message.
            if self.messages.pop_back().is_none() {
                self.state.first = stand_in.sequence;
            }
            self.state.message_count = 1;
            self.state.byte_count = size(stand_in);
            self.messages.push_back(stand_in.clone());
        }
    }

    fn held(&self) -> Held {
        Held { message_count: self.state.message_count, byte_count: self.state.byte_count }
    }

    fn expire(&mut self, now: WallTime) {
        let limits = self.limits;
        while self
            .messages
            .front()
            .is_some_and(|oldest| retention::is_expired(&limits, oldest.timestamp, now))
        {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.state.message_count -= 1;
            self.state.byte_count -= size(&oldest);
            let next = self.messages.front().map(|message| message.sequence);
            self.state.first = next.unwrap_or(self.state.last.next());
        }
    }

    fn from(&self, from: Sequence) -> impl Iterator<Item = &MessageRecord> {
        let start = self.messages.partition_point(|message| message.sequence < from);
        self.messages.range(start..)
    }
}

fn size(message: &MessageRecord) -> u64 {
    Accounting::ENCODED.size(message.encoded.len())
}
