//! One channel: what it holds, what may go, what is not written yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;

use crate::base::channel_limits::ChannelLimits;
use crate::base::delivery_count::DeliveryCount;
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{ChannelState, MessageRecord, SubscriptionWrite};
use crate::base::time::WallTime;
use crate::store::report;
use crate::store::retention::{self, Held};
use crate::store::sql::deliveries::{self, Forgotten};
use crate::store::sql::dialect::{Dialect, Failure, SqlError, Value, insert_rows};
use crate::store::sql::messages::{self, Old};
use crate::store::sql::pending::{self, Flush, Pending};

/// Old messages looked at first: most often the oldest one may stay.
const AHEAD_MIN: u64 = 4;
/// Old messages looked at at once while many must go.
const AHEAD_MAX: u64 = 1_024;

/// What a flush wrote; nothing of it counts before its transaction was committed.
#[derive(Debug)]
pub struct Flushed {
    subscriptions: Vec<(u64, Flush)>,
    last_row: u64,
    removed_to: u64,
    waste: Held,
    /// Messages whose counts are removed.
    forgotten: BTreeSet<Forgotten>,
    /// There is more to remove.
    pub is_behind: bool,
}

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
    /// Their records, as they are stored.
    pub records: BTreeMap<u64, Bytes>,
    /// Whether there are rows of deleted subscriptions, kept for their number.
    pub has_tombstones: bool,
    /// Highest number of a pending row.
    pub last_row: u64,
    /// Up to where messages are really gone.
    pub removed_to: u64,
    /// What was let go and is still there.
    waste: Held,
    /// The oldest messages, as far as read; begins with `state.first`.
    oldest: VecDeque<Old>,
    /// How many of them are read next.
    ahead: u64,
    /// Whether the row of sums is behind.
    pub totals_are_old: bool,
    /// Messages that need no count once what is pending is written.
    forgotten: BTreeSet<Forgotten>,
    /// Whether the log says already that its limits were reached.
    is_limit_reported: bool,
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
            records: BTreeMap::new(),
            has_tombstones: false,
            last_row: 0,
            removed_to: state.first.prev().0,
            waste: Held::default(),
            oldest: VecDeque::new(),
            ahead: AHEAD_MIN,
            totals_are_old: false,
            forgotten: BTreeSet::new(),
            is_limit_reported: false,
        }
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

    /// The database holds this, after rows were removed before what stays.
    pub fn on_purged(&mut self, state: ChannelState) {
        self.state = state;
        self.removed_to = state.first.prev().0;
        self.waste = Held::default();
        self.oldest.clear();
        self.totals_are_old = false;
    }

    /// `writes` are in the database, as far as they are written at once.
    pub fn on_subscriptions(&mut self, writes: &[SubscriptionWrite]) {
        for write in writes {
            match write {
                SubscriptionWrite::Create(state) => {
                    self.records.insert(state.id, state.encode_to_vec().into());
                    self.subscriptions.insert(state.id, Pending::new(state.last_sent));
                }
                SubscriptionWrite::Update(state) => {
                    self.records.insert(state.id, state.encode_to_vec().into());
                    let last_sent = state.last_sent;
                    let pending = self.subscriptions.entry(state.id).or_default();
                    pending.last_sent = pending.last_sent.max(last_sent);
                }
                SubscriptionWrite::Delete(id) => {
                    self.records.remove(&id.0);
                    self.subscriptions.remove(&id.0);
                }
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

    /// `counts` are in the database; those of messages that need none go with the next flush.
    pub fn on_deliveries(&mut self, counts: &[DeliveryCount]) {
        for count in counts {
            let key = (count.reader, count.sequence);
            if count.is_of_all() {
                self.forgotten.retain(|(reader, _)| *reader != count.reader);
            } else if count.count == 0 {
                self.forgotten.insert(key);
            } else {
                self.forgotten.remove(&key);
            }
        }
    }

    /// Lets go of what is over the limits of count and size, and with `now` of what is too old, but
    /// of no more than `count_max` messages. Whether anything went.
    ///
    /// # Errors
    /// When the oldest messages cannot be read.
    pub fn trim(
        &mut self,
        dialect: &mut dyn Dialect,
        name: &ChannelName,
        now: Option<WallTime>,
        count_max: usize,
    ) -> Result<bool, SqlError> {
        let before = self.state.first;
        let was_over = self.is_over();
        let now = now.filter(|_| !self.limits.age_max.is_zero());
        for _ in 0..count_max {
            let is_over = self.is_over();
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
        if was_over && before != self.state.first && !self.is_limit_reported {
            self.is_limit_reported = true;
            let ChannelState { message_count, byte_count, .. } = self.state;
            report::limits_reached(name, Held { message_count, byte_count }, &self.limits);
        }
        Ok(before != self.state.first)
    }

    /// Whether there is more than the limits of count and size allow.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let ChannelState { message_count, byte_count, .. } = self.state;
        retention::is_over(&self.limits, Held { message_count, byte_count })
    }

    /// When the channel is to be trimmed next: at `soon`, if it is over its limits, else when the
    /// oldest message expires.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn trim_at(
        &mut self,
        dialect: &mut dyn Dialect,
        soon: WallTime,
    ) -> Result<Option<WallTime>, SqlError> {
        if self.is_over() {
            return Ok(Some(soon));
        }
        if self.limits.age_max.is_zero() {
            return Ok(None);
        }
        let oldest = self.oldest(dialect)?;
        let at = oldest.and_then(|oldest| retention::expires_at(&self.limits, oldest.timestamp));
        Ok(at.map(|at| at.max(soon)))
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
        self.waste.message_count += 1;
        self.waste.byte_count += oldest.size;
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
        self.totals_are_old
            || !self.forgotten.is_empty()
            || self.subscriptions.values().any(Pending::is_dirty)
    }

    /// Whether the pending sets are not in the database yet.
    #[must_use]
    pub fn has_dirty_subscriptions(&self) -> bool {
        self.subscriptions.values().any(Pending::is_dirty)
    }

    /// Writes the pending sets, removes what was let go, as many rows as `budget` has left, and
    /// writes the sums down; inside a transaction. What is known changes by `on_flushed` alone, so
    /// that one that failed can be begun anew.
    ///
    /// # Errors
    /// [`SqlError`].
    pub fn flush(&self, dialect: &mut dyn Dialect, budget: &mut u64) -> Result<Flushed, SqlError> {
        let mut flushed = Flushed {
            subscriptions: Vec::new(),
            last_row: self.last_row,
            removed_to: self.removed_to,
            waste: self.waste,
            forgotten: self.forgotten.clone(),
            is_behind: false,
        };
        self.flush_subscriptions(dialect, &mut flushed)?;
        deliveries::remove(dialect, self.id, flushed.forgotten.iter())?;
        self.flush_messages(dialect, budget, &mut flushed)?;
        Ok(flushed)
    }

    /// What `flush` wrote is committed.
    pub fn on_flushed(&mut self, flushed: Flushed) {
        for (subid, flush) in &flushed.subscriptions {
            if let Some(pending) = self.subscriptions.get_mut(subid) {
                pending.on_flushed(flush);
            }
        }
        self.last_row = flushed.last_row;
        self.removed_to = flushed.removed_to;
        self.waste = flushed.waste;
        self.totals_are_old = flushed.is_behind;
        self.forgotten = self.forgotten.difference(&flushed.forgotten).copied().collect();
    }

    fn flush_subscriptions(
        &self,
        dialect: &mut dyn Dialect,
        flushed: &mut Flushed,
    ) -> Result<(), SqlError> {
        for (number, pending) in &self.subscriptions {
            let Some(flush) = pending.plan() else { continue };
            let subid = Value::from(*number);
            if flush.drops_rows {
                let statement = "DELETE FROM SubsPending WHERE subid=?";
                dialect.execute(statement, std::slice::from_ref(&subid))?;
            }
            for row in &flush.rows {
                flushed.last_row += 1;
                let list = |list: &[u64]| pending::encode(list).map_or(Value::Null, Value::from);
                let values = [
                    subid.clone(),
                    flushed.last_row.into(),
                    pending.last_sent.into(),
                    list(&row.pending),
                    list(&row.acks),
                ];
                // Tried again later, as on a full database: nobody waits for it.
                insert_rows(dialect, ADD_PENDING, &values, 1).map_err(|error| match error {
                    SqlError { failure: Failure::BadValue, text } => {
                        SqlError { failure: Failure::Full, text }
                    }
                    other => other,
                })?;
            }
            if flush.sets_last_sent {
                let statement = "UPDATE Subscriptions SET lastsent=? WHERE id=? AND subid=?";
                dialect.execute(statement, &[pending.last_sent.into(), self.id.into(), subid])?;
            }
            flushed.subscriptions.push((*number, flush));
        }
        Ok(())
    }

    fn flush_messages(
        &self,
        dialect: &mut dyn Dialect,
        budget: &mut u64,
        flushed: &mut Flushed,
    ) -> Result<(), SqlError> {
        if !self.totals_are_old {
            return Ok(());
        }
        let id = Value::from(self.id);
        let gone_to = self.state.first.prev().0;
        if self.removed_to < gone_to {
            if *budget == 0 {
                flushed.is_behind = true;
                return Ok(());
            }
            if self.state.message_count == 0 {
                // The numbers go on from here even if the last row is gone.
                let statement = "UPDATE Channels SET maxseq=? WHERE id=?";
                dialect.execute(statement, &[self.state.last.0.into(), id.clone()])?;
            }
            let to = gone_to.min(self.removed_to.saturating_add(*budget));
            *budget -= to - self.removed_to;
            self.remove(dialect, to, flushed)?;
        }
        flushed.is_behind = flushed.removed_to < gone_to;
        let is_behind = flushed.is_behind;
        let first = if is_behind { flushed.removed_to + 1 } else { self.state.first.0 };
        let values = [
            id.clone(),
            first.into(),
            self.state.last.0.into(),
            (self.state.message_count + flushed.waste.message_count).into(),
            (self.state.byte_count + flushed.waste.byte_count).into(),
        ];
        dialect.execute("DELETE FROM StanbyTotals WHERE id=?", &[id])?;
        insert_rows(dialect, ADD_TOTALS, &values, 1)
    }

    /// Removes the rows up to `to`, and knows what is left of those that were let go.
    fn remove(
        &self,
        dialect: &mut dyn Dialect,
        to: u64,
        flushed: &mut Flushed,
    ) -> Result<(), SqlError> {
        // Without the lower end PostgreSQL would pass over all rows that were removed lately.
        const SUMS: &str = "SELECT COUNT(seq), COALESCE(SUM(size),0) FROM Messages \
                            WHERE id=? AND seq>? AND seq<=?";
        let values = [self.id.into(), self.removed_to.into(), to.into()];
        if to == self.state.first.prev().0 {
            flushed.waste = Held::default();
        } else if let Some(row) = dialect.query(SUMS, &values)?.first() {
            let Held { message_count, byte_count } = &mut flushed.waste;
            *message_count = message_count.saturating_sub(row[0].unsigned());
            *byte_count = byte_count.saturating_sub(row[1].unsigned());
        }
        let statement = "DELETE FROM Messages WHERE id=? AND seq>? AND seq<=?";
        dialect.execute(statement, &values)?;
        flushed.removed_to = to;
        Ok(())
    }
}

const ADD_PENDING: &str =
    "INSERT INTO SubsPending (subid, `row`, lastsent, pending, acks) VALUES (?,?,?,?,?)";
pub(super) const ADD_TOTALS: &str =
    "INSERT INTO StanbyTotals (id, firstseq, lastseq, messages, bytes) VALUES (?,?,?,?,?)";
