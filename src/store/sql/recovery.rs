//! Database → what was found in it, in statements of the order of the channels (spec stores, 8.6).

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use crate::base::channel_limits::{ChannelLimits, ResolvedLimits};
use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence, SubscriptionId};
use crate::base::record::{ChannelState, RecoveredChannel, RecoveredSubscription};
use crate::base::time::{Now, WallTime};
use crate::proto::spb;
use crate::store::sql::attempts::patiently;
use crate::store::sql::channel::Channel;
use crate::store::sql::deliveries;
use crate::store::sql::dialect::{Dialect, Row, SqlError, Value};
use crate::store::sql::lost::{self, Gap, Known};
use crate::store::sql::pending::{self, Pending};
use crate::store::sql::{RECOVERY_PATIENCE, fence, schema};
use crate::store::{Action, StoreError};

/// Messages of one channel that go before it is served; the others go soon after.
const TRIMMED_MAX: usize = 20_000;

/// What a recovery is told.
pub struct Recovery<'a> {
    /// Limits of the store.
    pub limits: &'a ResolvedLimits,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The time.
    pub now: Now,
    /// What this process acknowledged under earlier epochs.
    pub known: &'a BTreeMap<ChannelName, Known>,
}

/// One channel that was found.
pub struct Found {
    /// For the engine.
    pub recovered: RecoveredChannel,
    /// For the share that will own it.
    pub channel: Channel,
    /// What the database had lost of it.
    pub gap: Option<Gap>,
}

/// Everything that was found.
#[derive(Default)]
pub struct State {
    /// The server's record.
    pub server: Option<spb::ServerInfo>,
    /// Its clients.
    pub clients: Vec<spb::ClientInfo>,
    /// Its channels, ordered by name.
    pub channels: Vec<Found>,
    /// Rows of deleted channels whose messages are still to be removed.
    pub doomed: Vec<i64>,
    /// Highest number of a channel row.
    pub channel_id_max: i64,
    /// Highest subscription id.
    pub subscription_id_max: u64,
}

/// Records and pending sets by the subscription's number.
pub type Subscriptions = BTreeMap<u64, (spb::SubState, Pending)>;

/// What is known of a channel beside its messages.
#[derive(Default)]
struct Beside {
    subscriptions: Subscriptions,
    /// Highest sequence that any subscription row names.
    last_sent: u64,
    has_tombstones: bool,
    last_row: u64,
}

impl Recovery<'_> {
    /// Reads everything, and writes down what limits are in force.
    ///
    /// Nobody else writes meanwhile: the epoch was raised before. It is not kept locked, because
    /// with SQLite that would keep the keeper from renewing the lease.
    ///
    /// # Errors
    /// [`StoreError`], with the reference's text where it has one.
    pub fn run(&self, dialect: &mut dyn Dialect) -> Result<State, StoreError> {
        let mut limit_updates = Vec::new();
        let mut state =
            State { server: server(dialect)?, clients: clients(dialect)?, ..State::default() };
        let mut known = subscriptions(dialect, &mut state.subscription_id_max)?;
        for row in ask(dialect, CHANNELS)? {
            let id = row[0].signed();
            state.channel_id_max = state.channel_id_max.max(id);
            if row[6].signed() != 0 {
                state.doomed.push(id);
                continue;
            }
            let known = known.remove(&id).unwrap_or_default();
            let limits = self.limits.of(&ChannelName::from(row[1].bytes()));
            limit_updates.extend(limits_update(&row, &limits));
            state.channels.push(self.channel(dialect, &row, known)?);
        }
        self.put_back(dialect, &mut state)?;
        state.channels.sort_by(|one, other| one.recovered.channel.cmp(&other.recovered.channel));
        if !limit_updates.is_empty() {
            patiently(dialect, RECOVERY_PATIENCE, |dialect| {
                fence::check(dialect, self.epoch)?;
                let update = "UPDATE Channels SET maxmsgs=?, maxbytes=?, maxage=? WHERE id=?";
                for values in &limit_updates {
                    dialect.execute(update, values)?;
                }
                Ok(())
            })?;
        }
        if self.limits.counts_deliveries() {
            let counts = deliveries::read(dialect);
            let mut counts = counts.map_err(|error| error.into_store_error(Action::Open))?;
            for found in &mut state.channels {
                found.recovered.deliveries = counts.remove(&found.channel.id).unwrap_or_default();
            }
        } else {
            self.forget_deliveries(dialect)?;
        }
        let id_max = SubscriptionId(state.subscription_id_max);
        for found in &mut state.channels {
            found.recovered.subscription_id_max = id_max;
        }
        Ok(state)
    }

    fn channel(
        &self,
        dialect: &mut dyn Dialect,
        row: &Row,
        mut beside: Beside,
    ) -> Result<Found, StoreError> {
        let id = row[0].signed();
        let name = ChannelName::from(row[1].bytes());
        let limits = self.limits.of(&name);
        let Stored { mut state, mut last_timestamp, mut was_summed } = stored(dialect, row)?;
        let rows = lost::Rows {
            id,
            last: state.last.0,
            last_timestamp,
            maxseq: row[2].unsigned(),
            last_sent: beside.last_sent,
            messages_max: limits.messages_max,
        };
        let gap = rows.gap(self.known_of(&name, id));
        if let Some(gap) = &gap {
            gap.fill(dialect, self.epoch, (&name, &rows), self.now.wall)?;
            let row = channel_row(dialect, id)?;
            Stored { state, last_timestamp, was_summed } = stored(dialect, &row)?;
        }
        let acknowledged = gap.map_or(0, |gap| gap.acknowledged);
        let last = state.last.0.max(rows.maxseq).max(beside.last_sent).max(acknowledged);
        if let Some(known) = self.known.get(&name).filter(|known| self.was_last(known)) {
            let mut numbers = known.subscriptions.keys();
            if gap.is_some() || numbers.any(|it| !beside.subscriptions.contains_key(it)) {
                known.restore(dialect, self.epoch, id, &mut beside.subscriptions)?;
            }
        }
        state.last = Sequence(last);
        if state.message_count == 0 && last > 0 {
            state.first = state.last.next();
        }
        let mut channel = Channel::new(id, limits, state);
        channel.totals_are_old = was_summed;
        channel.has_tombstones = beside.has_tombstones;
        channel.last_row = beside.last_row;
        let read_error = |error: SqlError| error.into_store_error(Action::Read);
        channel.trim(dialect, &name, Some(self.now.wall), TRIMMED_MAX).map_err(read_error)?;
        let mut subscriptions = Vec::new();
        for (subid, (mut state, pending)) in beside.subscriptions {
            channel.records.insert(subid, state.encode_to_vec().into());
            state.last_sent = pending.last_sent;
            let live = pending.live().map(Sequence).collect();
            subscriptions.push(RecoveredSubscription { state, pending: live });
            channel.subscriptions.insert(subid, pending);
        }
        let recovered = RecoveredChannel {
            channel: name,
            state: channel.state,
            last_timestamp,
            subscriptions,
            subscription_id_max: SubscriptionId::default(),
            // Read for all channels at once.
            deliveries: Vec::new(),
        };
        Ok(Found { recovered, channel, gap })
    }

    /// Without a limit on deliveries nobody counts on: the rows go, as the files of a directory do.
    fn forget_deliveries(&self, dialect: &mut dyn Dialect) -> Result<(), StoreError> {
        let is_there = deliveries::is_any(dialect);
        if !is_there.map_err(|error| error.into_store_error(Action::Open))? {
            return Ok(());
        }
        patiently(dialect, RECOVERY_PATIENCE, |dialect| {
            fence::check(dialect, self.epoch)?;
            dialect.execute(deliveries::REMOVE_EVERY, &[])?;
            Ok(())
        })?;
        Ok(())
    }

    /// What is known of this channel. If others were active since, it may have been deleted and
    /// made anew: then its row has another number.
    fn known_of(&self, name: &ChannelName, id: i64) -> Option<&Known> {
        self.known.get(name).filter(|known| known.id == id || self.was_last(known))
    }

    /// Nobody was active between the epoch of that and ours.
    fn was_last(&self, known: &Known) -> bool {
        known.epoch.next() == self.epoch
    }

    /// Makes the rows of channels anew that the database has lost whole.
    fn put_back(&self, dialect: &mut dyn Dialect, state: &mut State) -> Result<(), StoreError> {
        let found: BTreeSet<ChannelName> =
            state.channels.iter().map(|found| found.recovered.channel.clone()).collect();
        for (name, known) in self.known {
            let number_max = known.subscriptions.last_key_value().map_or(0, |(number, _)| *number);
            state.subscription_id_max = state.subscription_id_max.max(number_max);
            let is_used = known.state.last > Sequence::ZERO || !known.subscriptions.is_empty();
            let is_lost = self.was_last(known) && is_used;
            if !is_lost || found.contains(name) {
                continue;
            }
            state.channel_id_max += 1;
            let id = state.channel_id_max;
            let text = Value::from(String::from_utf8_lossy(name.as_bytes()).into_owned());
            let [messages, bytes, age] = limit_values(&self.limits.of(name));
            let values = [id.into(), text, messages, bytes, age];
            patiently(dialect, RECOVERY_PATIENCE, |dialect| {
                fence::check(dialect, self.epoch)?;
                dialect.execute(lost::ADD_CHANNEL, &values)?;
                Ok(())
            })?;
            let row = channel_row(dialect, id)?;
            state.channels.push(self.channel(dialect, &row, Beside::default())?);
        }
        Ok(())
    }
}

fn ask(dialect: &mut dyn Dialect, statement: &str) -> Result<Vec<Row>, StoreError> {
    dialect.query(statement, &[]).map_err(|error| error.into_store_error(Action::Open))
}

pub(super) fn server(dialect: &mut dyn Dialect) -> Result<Option<spb::ServerInfo>, StoreError> {
    let rows = ask(dialect, "SELECT id, proto, version FROM ServerInfo WHERE uniquerow=1")?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let version = row[2].signed();
    if version != schema::VERSION {
        let text = format!("sql: unsupported version: {version} (supports [1..1])");
        return Err(StoreError::Unusable(text));
    }
    let info = decoded::<spb::ServerInfo>(row[1].bytes(), "ServerInfo")?;
    if info.cluster_id != row[0].bytes() {
        let (column, data) = (row[0].text(), String::from_utf8_lossy(&info.cluster_id));
        return Err(StoreError::Unusable(format!(
            "sql: id {column:?} in column does not match cluster ID in data {data:?}"
        )));
    }
    Ok(Some(info))
}

fn clients(dialect: &mut dyn Dialect) -> Result<Vec<spb::ClientInfo>, StoreError> {
    let client = |row: Row| {
        let proto = row[2].bytes();
        if proto.is_empty() {
            // Compat: rows from before 0.10.0 have no more than the ID and the inbox.
            let (id, hb_inbox) = (row[0].bytes(), row[1].bytes());
            return Ok(spb::ClientInfo { id, hb_inbox, ..spb::ClientInfo::default() });
        }
        decoded(proto, "Clients")
    };
    ask(dialect, "SELECT id, hbinbox, proto FROM Clients")?.into_iter().map(client).collect()
}

fn decoded<T: Message + Default>(bytes: bytes::Bytes, table: &str) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|error| {
        StoreError::Corrupt(format!("sql: table {table}: column proto cannot be read: {error}"))
    })
}

/// All subscriptions with their pending sets, by channel row.
fn subscriptions(
    dialect: &mut dyn Dialect,
    id_max: &mut u64,
) -> Result<BTreeMap<i64, Beside>, StoreError> {
    let mut by_channel: BTreeMap<i64, Beside> = BTreeMap::new();
    let mut homes: BTreeMap<u64, i64> = BTreeMap::new();
    for row in ask(dialect, "SELECT id, subid, lastsent, proto, deleted FROM Subscriptions")? {
        let (id, subid, last_sent) = (row[0].signed(), row[1].unsigned(), row[2].unsigned());
        *id_max = (*id_max).max(subid);
        let known = by_channel.entry(id).or_default();
        if row[4].signed() != 0 {
            known.has_tombstones = true;
            continue;
        }
        known.last_sent = known.last_sent.max(last_sent);
        let proto = row[3].bytes();
        if proto.is_empty() {
            continue;
        }
        let state: spb::SubState = decoded(proto, "Subscriptions")?;
        let pending = Pending::new(last_sent.max(state.last_sent));
        homes.insert(subid, id);
        known.subscriptions.insert(subid, (state, pending));
    }
    const PENDING: &str = "SELECT subid, `row`, seq, lastsent, pending, acks FROM SubsPending \
                           ORDER BY subid, `row`";
    for row in ask(dialect, PENDING)? {
        let (subid, number) = (row[0].unsigned(), row[1].unsigned());
        let Some(known) = homes.get(&subid).and_then(|id| by_channel.get_mut(id)) else {
            // Left behind by a deletion that was cut short.
            continue;
        };
        known.last_row = known.last_row.max(number);
        if let Some((_, pending)) = known.subscriptions.get_mut(&subid) {
            let (added, taken) = (list(&row[4], subid)?, list(&row[5], subid)?);
            pending.recover_row(row[2].unsigned(), row[3].unsigned(), &added, &taken);
        }
    }
    for known in by_channel.values_mut() {
        let sent = known.subscriptions.values().map(|(_, pending)| pending.last_sent).max();
        known.last_sent = known.last_sent.max(sent.unwrap_or(0));
    }
    Ok(by_channel)
}

fn list(value: &Value, subid: u64) -> Result<Vec<u64>, StoreError> {
    pending::decode(&value.bytes()).map_err(|error| {
        let text = format!("sql: table SubsPending: subid {subid}: not a list of numbers: {error}");
        StoreError::Corrupt(text)
    })
}

/// All rows of channels, each with its row of sums and its first and last message: one statement,
/// because one for each channel would be as many round trips. (`MIN` and `MAX` in place of the
/// ordered look-ups would make MariaDB read all rows of a channel.)
const CHANNELS: &str = "SELECT c.id, c.name, c.maxseq, c.maxmsgs, c.maxbytes, c.maxage, c.deleted, \
    t.firstseq, t.lastseq, t.messages, t.bytes, \
    (SELECT m.seq FROM Messages m WHERE m.id=c.id ORDER BY m.seq LIMIT 1), \
    (SELECT m.seq FROM Messages m WHERE m.id=c.id ORDER BY m.seq DESC LIMIT 1), \
    (SELECT m.timestamp FROM Messages m WHERE m.id=c.id ORDER BY m.seq DESC LIMIT 1) \
    FROM Channels c LEFT JOIN StanbyTotals t ON t.id=c.id";

/// The row of `CHANNELS` of one channel, as it is now.
fn channel_row(dialect: &mut dyn Dialect, id: i64) -> Result<Row, StoreError> {
    let rows = dialect.query(&format!("{CHANNELS} WHERE c.id=?"), &[id.into()]);
    let rows = rows.map_err(|error| error.into_store_error(Action::Open))?;
    rows.into_iter().next().ok_or_else(|| {
        StoreError::Corrupt(format!("sql: table Channels: the row {id} has just been removed"))
    })
}

/// What the rows of messages hold.
#[derive(Default)]
struct Stored {
    state: ChannelState,
    last_timestamp: WallTime,
    /// The row of sums did not say it all; the next recovery shall find one that does.
    was_summed: bool,
}

/// What the rows of messages hold, by a row of `CHANNELS`. The row of sums spares adding them up,
/// as far as it reaches: it is believed if the first message is the one that it names.
fn stored(dialect: &mut dyn Dialect, row: &Row) -> Result<Stored, StoreError> {
    const SUMS: &str =
        "SELECT COUNT(seq), COALESCE(SUM(size),0) FROM Messages WHERE id=? AND seq>=?";
    if row[12] == Value::Null {
        return Ok(Stored::default());
    }
    let (first, last) = (row[11].unsigned(), row[12].unsigned());
    let (summed_from, summed_to) = (row[7].unsigned(), row[8].unsigned());
    let is_believed = row[7] != Value::Null && summed_from == first;
    let (summed_to, mut count, mut bytes) = if is_believed && (first..=last).contains(&summed_to) {
        (summed_to, row[9].unsigned(), row[10].unsigned())
    } else {
        (first.saturating_sub(1), 0, 0)
    };
    let was_summed = summed_to < last;
    if was_summed {
        let rest = dialect.query(SUMS, &[row[0].clone(), (summed_to + 1).into()]);
        let rest = rest.map_err(|error| error.into_store_error(Action::Open))?;
        let rest = rest.first().map_or((0, 0), |row| (row[0].unsigned(), row[1].unsigned()));
        count += rest.0;
        bytes += rest.1;
    }
    let state = ChannelState {
        first: Sequence(first),
        last: Sequence(last),
        message_count: count,
        byte_count: bytes,
    };
    Ok(Stored { state, last_timestamp: WallTime(row[13].signed()), was_summed })
}

/// The limits as a channel's row tells them to a Go server.
#[must_use]
pub fn limit_values(limits: &ChannelLimits) -> [Value; 3] {
    // The column has 32 bits.
    let messages = i32::try_from(limits.messages_max).unwrap_or(i32::MAX);
    let age = i64::try_from(limits.age_max.as_nanos()).unwrap_or(i64::MAX);
    [i64::from(messages).into(), limits.bytes_max.into(), age.into()]
}

/// What makes a channel's row tell these limits, if it tells others.
fn limits_update(row: &Row, limits: &ChannelLimits) -> Option<Vec<Value>> {
    let values = limit_values(limits);
    let found = [&row[3], &row[4], &row[5]].map(Value::signed);
    let is_same = found == values.each_ref().map(Value::signed);
    (!is_same).then(|| values.into_iter().chain([row[0].clone()]).collect())
}
