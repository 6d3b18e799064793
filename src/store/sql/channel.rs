//! One channel: what it holds, what may go, what is not written yet.

use std::collections::{BTreeMap, VecDeque};

use crate::base::channel_limits::ChannelLimits;
use crate::base::id::Sequence;
use crate::base::record::{ChannelState, MessageRecord, SubscriptionWrite};
use crate::base::time::WallTime;
use crate::store::retention::{self, Held};
use crate::store::sql::dialect::{Dialect, SqlError, Value};
use crate::store::sql::messages::{self, Old};
use crate::store::sql::pending::{self, Flush, Pending};

/// Rows that one transaction removes from one channel.
const REMOVED_MAX: u64 = 20_000;
/// Old messages looked at first: most often the oldest one may stay.
const AHEAD_MIN: u64 = 4;
/// Old messages looked at at once while many must go.
const AHEAD_MAX: u64 = 1_024;

/// A channel's memory of what is in the database.
pub struct Channel {
    /// Number of its row.
    pub id: i64,
    /// Its limits.
    pub limits: ChannelLimits,
    /// What it holds; rows before `first` are still there until the next flush.
    pub state: ChannelState,
    /// Its subscriptions.
    pub subscriptions: BTreeMap<u64, Pending>,
    /// Whether there are rows of deleted subscriptions, kept for their number.
    pub has_tombstones: bool,
    /// Highest number of a pending row.
    pub last_row: u64,
    /// Up to where messages are really gone.
    pub removed_to: u64,
    /// The oldest messages, as far as read; begins with `state.first`.
    oldest: VecDeque<Old>,
    /// How many of them are read next.
    ahead: u64,
    /// Whether the row of sums is behind.
    pub totals_are_old: bool,
}

impl Channel {
    /// A new one, or one that was found.
    #[must_use]
    pub fn new(id: i64, limits: ChannelLimits, state: ChannelState) -> Self {
        Self {
            id,
            limits,
            state,
            subscriptions: BTreeMap::new(),
            has_tombstones: false,
            last_row: 0,
            removed_to: state.first.prev().0,
            oldest: VecDeque::new(),
            ahead: AHEAD_MIN,
            totals_are_old: false,
        }
    }

    /// Whether `messages` continue the channel: what was staged behind a refused batch carries
    /// numbers that were not used.
    ///
    /// # Errors
    /// The text for the refusal.
    pub fn check(last: Sequence, messages: &[MessageRecord]) -> Result<(), String> {
        let mut expected = last.next();
        for message in messages {
            if message.sequence != expected {
                return Err(format!("expected message {expected}, not {}", message.sequence));
            }
            expected = expected.next();
        }
        Ok(())
    }

    /// `messages` are in the database.
    pub fn on_appended(&mut self, messages: &[MessageRecord]) {
        for message in messages {
            if self.state.message_count == 0 {
                self.state.first = message.sequence;
                self.oldest.clear();
            }
            self.state.last = message.sequence;
            self.state.message_count += 1;
            self.state.byte_count += messages::size(message);
        }
        self.totals_are_old |= !messages.is_empty();
    }

    /// `writes` are in the database, as far as they are written at once.
    pub fn on_subscriptions(&mut self, writes: &[SubscriptionWrite]) {
        for write in writes {
            match write {
                SubscriptionWrite::Create(state) => {
                    self.subscriptions.insert(state.id, Pending::new(state.last_sent));
                }
                SubscriptionWrite::Update(state) => {
                    let last_sent = state.last_sent;
                    let pending = self.subscriptions.entry(state.id).or_default();
                    pending.last_sent = pending.last_sent.max(last_sent);
                }
                SubscriptionWrite::Delete(id) => drop(self.subscriptions.remove(&id.0)),
                SubscriptionWrite::Sent(id, sequence) => {
                    if let Some(pending) = self.subscriptions.get_mut(&id.0) {
                        pending.sent(sequence.0);
                    }
                }
                SubscriptionWrite::Acked(id, sequence) => {
                    if let Some(pending) = self.subscriptions.get_mut(&id.0) {
                        pending.acked(sequence.0);
                    }
                }
            }
        }
    }

    /// Lets go of what is over the limits of count and size, and with `now` of what is too old.
    /// Whether anything went.
    ///
    /// # Errors
    /// When the oldest messages cannot be read.
    pub fn trim(
        &mut self,
        dialect: &mut dyn Dialect,
        now: Option<WallTime>,
    ) -> Result<bool, SqlError> {
        let before = self.state.first;
        let now = now.filter(|_| !self.limits.age_max.is_zero());
        loop {
            let held =
                Held { message_count: self.state.message_count, byte_count: self.state.byte_count };
            let is_over = retention::is_over(&self.limits, held);
            if !is_over && now.is_none() {
                break;
            }
            let Some(oldest) = self.oldest(dialect)? else { break };
            let is_old =
                now.is_some_and(|now| retention::is_expired(&self.limits, oldest.timestamp, now));
            if !is_over && !is_old {
                break;
            }
            self.drop_oldest(oldest);
        }
        Ok(before != self.state.first)
    }

    /// When the oldest message expires.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn expires_at(&mut self, dialect: &mut dyn Dialect) -> Result<Option<WallTime>, SqlError> {
        if self.limits.age_max.is_zero() {
            return Ok(None);
        }
        let oldest = self.oldest(dialect)?;
        Ok(oldest.and_then(|oldest| retention::expires_at(&self.limits, oldest.timestamp)))
    }

    fn oldest(&mut self, dialect: &mut dyn Dialect) -> Result<Option<Old>, SqlError> {
        if self.state.message_count == 0 {
            return Ok(None);
        }
        if self.oldest.is_empty() {
            self.oldest = messages::old(dialect, self.id, self.state.first.0, self.ahead)?;
            self.ahead = (self.ahead * 4).min(AHEAD_MAX);
        }
        Ok(self.oldest.front().copied())
    }

    fn drop_oldest(&mut self, oldest: Old) {
        self.oldest.pop_front();
        self.totals_are_old = true;
        self.state.message_count -= 1;
        self.state.byte_count = self.state.byte_count.saturating_sub(oldest.size);
        if self.state.message_count == 0 {
            self.state.first = self.state.last.next();
        } else {
            let next = self.oldest.front().map(|next| next.sequence);
            self.state.first = next.map_or(Sequence(oldest.sequence + 1), Sequence);
        }
    }

    /// Whether something is not in the database yet.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.totals_are_old || self.subscriptions.values().any(Pending::is_dirty)
    }

    /// Whether the pending sets are not in the database yet.
    #[must_use]
    pub fn has_dirty_subscriptions(&self) -> bool {
        self.subscriptions.values().any(Pending::is_dirty)
    }

    /// Writes the pending sets; inside a transaction whose failure ends this store.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn flush_subscriptions(&mut self, dialect: &mut dyn Dialect) -> Result<(), SqlError> {
        for (subid, pending) in &mut self.subscriptions {
            let subid = Value::from(*subid);
            let Flush { drops_rows, rows, sets_last_sent } = pending.flush();
            if drops_rows {
                let statement = "DELETE FROM SubsPending WHERE subid=?";
                dialect.execute(statement, std::slice::from_ref(&subid))?;
            }
            for row in &rows {
                self.last_row += 1;
                let list = |list: &[u64]| pending::encode(list).map_or(Value::Null, Value::from);
                let values = [
                    subid.clone(),
                    self.last_row.into(),
                    pending.last_sent.into(),
                    list(&row.pending),
                    list(&row.acks),
                ];
                dialect.execute(ADD_PENDING, &values)?;
            }
            if sets_last_sent {
                let statement = "UPDATE Subscriptions SET lastsent=? WHERE id=? AND subid=?";
                dialect.execute(statement, &[pending.last_sent.into(), self.id.into(), subid])?;
            }
        }
        Ok(())
    }

    /// Removes what was let go, a bounded number of rows, and writes the sums down. Whether there
    /// is more to remove.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn flush_messages(&mut self, dialect: &mut dyn Dialect) -> Result<bool, SqlError> {
        if !self.totals_are_old {
            return Ok(false);
        }
        let id = Value::from(self.id);
        let gone_to = self.state.first.prev().0;
        if self.removed_to < gone_to {
            if self.state.message_count == 0 {
                // The numbers go on from here even if the last row is gone.
                let statement = "UPDATE Channels SET maxseq=? WHERE id=?";
                dialect.execute(statement, &[self.state.last.0.into(), id.clone()])?;
            }
            let to = gone_to.min(self.removed_to.saturating_add(REMOVED_MAX));
            let statement = "DELETE FROM Messages WHERE id=? AND seq<=?";
            dialect.execute(statement, &[id.clone(), to.into()])?;
            self.removed_to = to;
        }
        dialect.execute("DELETE FROM StanbyTotals WHERE id=?", std::slice::from_ref(&id))?;
        if self.removed_to < gone_to {
            return Ok(true);
        }
        let ChannelState { first, last, message_count, byte_count } = self.state;
        let values = [id, first.0.into(), last.0.into(), message_count.into(), byte_count.into()];
        dialect.execute(ADD_TOTALS, &values)?;
        self.totals_are_old = false;
        Ok(false)
    }
}

const ADD_PENDING: &str =
    "INSERT INTO SubsPending (subid, `row`, lastsent, pending, acks) VALUES (?,?,?,?,?)";
const ADD_TOTALS: &str =
    "INSERT INTO StanbyTotals (id, firstseq, lastseq, messages, bytes) VALUES (?,?,?,?,?)";
