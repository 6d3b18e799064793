//! One share of the store: commits in one transaction each, reads, what is due later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message;

use crate::base::deadlines::Deadlines;
use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ChannelState, ClientWrite, CommitReport, FetchRequest,
    Lifecycle, MessageRecord, SubscriptionWrite,
};
use crate::base::time::{Instant, Now, WallTime};
use crate::proto::spb;
use crate::store::sql::attempts::Failed;
use crate::store::sql::channel::Channel;
use crate::store::sql::deliveries;
use crate::store::sql::dialect::{Dialect, Failure, SqlError, Value, insert_rows};
use crate::store::sql::fence::Fencing;
use crate::store::sql::messages::{self, NumberedMessage};
use crate::store::sql::purging;
use crate::store::sql::reading;
use crate::store::sql::recovery::{Found, limit_values};
use crate::store::sql::{Context, schema};
use crate::store::{
    Action, Inventory, Maintained, OutcomeUnknown, Remedy, Store, StoreError, Wanted, check_part,
};

/// How long pending sets and sums may wait; the reference's is one second (spec stores, 8.14).
const FLUSH_AFTER: Duration = Duration::from_millis(500);
/// Messages that one transaction removes: publishes wait for it, so it must be short. More only
/// where more than half as many came since the last one, so that what goes keeps up.
const REMOVED_MAX: u64 = 4_000;
/// Messages of one channel that are let go at once, for the same reason.
const TRIMMED_MAX: usize = 4_000;
/// Messages that are let go in any case for those that came: one large one for many small ones.
const TRIMMED_MIN: usize = 500;
/// Pause between two such parts, in which publishes have the database.
const PART_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two such transactions.
const DOOMED_PAUSE: Duration = Duration::from_millis(50);

/// The channels of one loop, over one connection.
pub struct Share {
    ctx: Arc<Context>,
    dialect: Box<dyn Dialect>,
    fencing: Fencing,
    channels: BTreeMap<ChannelName, Channel>,
    /// When each channel is to be trimmed, on the wall clock.
    trims: Deadlines<ChannelName>,
    /// Rows of deleted channels that still have messages.
    doomed: Vec<i64>,
    /// When what waits is written; `None` = nothing waits, or since the last commit.
    flush_at: Option<Instant>,
    is_dirty: bool,
    is_closed: bool,
    /// What the commit under way removes: if its answer is lost, nobody knows whether it is there.
    doubtful: Vec<Doubtful>,
    /// Messages that came since the last flush.
    appended: u64,
}

/// A channel, or one of its subscriptions.
type Doubtful = (ChannelName, Option<u64>);

/// A part of a batch that passed all checks, and the number of its channel's row.
struct Part<'a> {
    batch: &'a ChannelBatch,
    id: i64,
}

/// How parts ended that were written one by one.
#[derive(Default)]
struct Apart<'a> {
    clients_refused: Option<String>,
    written: Vec<Part<'a>>,
    refused: Vec<(ChannelName, String)>,
}

impl Share {
    pub(super) fn new(
        ctx: Arc<Context>,
        dialect: Box<dyn Dialect>,
        fencing: Fencing,
        channels: Vec<Found>,
        doomed: Vec<i64>,
    ) -> Self {
        let mut share = Self {
            ctx,
            dialect,
            fencing,
            channels: BTreeMap::new(),
            trims: Deadlines::default(),
            doomed,
            flush_at: None,
            is_dirty: true,
            is_closed: false,
            doubtful: Vec::new(),
            appended: 0,
        };
        for found in channels {
            let name = found.recovered.channel;
            // Its first look arms the right time.
            if found.channel.is_over() || !found.channel.limits.age_max.is_zero() {
                share.trims.arm(name.clone(), Instant(0));
            }
            share.channels.insert(name, found.channel);
        }
        share
    }

    /// What speaks against a channel's part before the database is asked.
    fn check(&self, part: &ChannelBatch) -> Result<(), String> {
        check_part(part, self.channels.get(&part.channel).map(|channel| channel.state.last))
    }

    fn numbered<'a>(&self, batch: &'a ChannelBatch) -> Part<'a> {
        let id = match self.channels.get(&batch.channel) {
            Some(channel) => channel.id,
            None => self.ctx.channel_id_max.fetch_add(1, Ordering::AcqRel) + 1,
        };
        Part { batch, id }
    }

    /// Writes these parts in one transaction. What is left of channels of which the oldest messages
    /// went is noted then.
    fn write(&mut self, epoch: Epoch, batch: &Batch, parts: &[Part<'_>]) -> Result<(), Failed> {
        let has_records = batch.server.is_some() || !batch.clients.is_empty();
        if !has_records && parts.iter().all(|part| writes_nothing(part.batch)) {
            return Ok(());
        }
        let (ctx, channels) = (&self.ctx, &self.channels);
        let limit = ctx.options.bulk_insert_limit;
        let patience = ctx.options.timeout();
        let purged = self.fencing.run(self.dialect.as_mut(), epoch, patience, |dialect| {
            if let Some(server) = &batch.server {
                write_server(dialect, server)?;
            }
            for client in &batch.clients {
                write_client(dialect, client)?;
            }
            for part in parts {
                write_lifecycle(dialect, ctx, part)?;
            }
            let mut all: Vec<NumberedMessage<'_>> = Vec::new();
            for part in parts {
                all.extend(part.batch.messages.iter().map(|message| (part.id, message)));
            }
            messages::insert(dialect, &all, limit)?;
            for part in parts {
                let has_tombstones =
                    channels.get(&part.batch.channel).is_some_and(|it| it.has_tombstones);
                write_subscriptions(dialect, ctx, part, has_tombstones)?;
                deliveries::write(dialect, part.id, part.batch)?;
            }
            let mut purged = Vec::new();
            for Part { batch, id } in parts {
                if let (Some(what), Some(channel)) = (&batch.purge, channels.get(&batch.channel)) {
                    let left = purging::purge(dialect, *id, channel.state, what)?;
                    purged.push((batch.channel.clone(), left));
                }
            }
            Ok(purged)
        })?;
        for (name, left) in purged {
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.on_purged(left);
            }
        }
        Ok(())
    }

    /// The database has these parts now.
    fn on_written(&mut self, parts: &[Part<'_>]) {
        for Part { batch, id } in parts {
            let name = &batch.channel;
            match batch.lifecycle {
                Lifecycle::Delete => {
                    self.channels.remove(name);
                    self.trims.cancel(name);
                    self.doomed.push(*id);
                    continue;
                }
                Lifecycle::Create => {
                    let limits = self.ctx.limits.of(name);
                    let channel = Channel::new(*id, limits, ChannelState::default());
                    self.channels.insert(name.clone(), channel);
                }
                Lifecycle::Keep => {}
            }
            let Some(channel) = self.channels.get_mut(name) else { continue };
            channel.on_appended(&batch.messages);
            self.appended += u64::try_from(batch.messages.len()).unwrap_or(0);
            channel.on_subscriptions(&batch.subscriptions);
            channel.on_deliveries(&batch.deliveries);
            let is_tombstone =
                |write: &SubscriptionWrite| matches!(write, SubscriptionWrite::Delete(_));
            channel.has_tombstones |= batch.subscriptions.iter().any(is_tombstone);
            self.is_dirty |= channel.is_dirty();
            if self.tidy(name, batch.messages.len()).is_err() {
                // No part of the commit: `maintain` tries it again, and says what is wrong.
                self.trims.arm(name.clone(), Instant(0));
            }
        }
    }

    /// Lets go of what is over the limits after `count` messages came.
    fn tidy(&mut self, name: &ChannelName, count: usize) -> Result<(), StoreError> {
        let Some(channel) = self.channels.get_mut(name) else { return Ok(()) };
        // More than came: so a channel comes down to limits that were lowered.
        let count_max = count * 2 + TRIMMED_MIN;
        channel.trim(self.dialect.as_mut(), name, None, count_max).map_err(read_error)?;
        self.is_dirty |= channel.is_dirty();
        let may_expire = channel.is_over() || !channel.limits.age_max.is_zero();
        if count > 0 && may_expire {
            self.arm_trim(name, WallTime(0))?;
        }
        Ok(())
    }

    /// Lets go of what is over the limits or too old, and arms the next look; what is left, if
    /// anything went.
    fn trim(
        &mut self,
        name: &ChannelName,
        now: WallTime,
    ) -> Result<Option<ChannelState>, StoreError> {
        let Some(channel) = self.channels.get_mut(name) else { return Ok(None) };
        let dialect = self.dialect.as_mut();
        let has_trimmed =
            channel.trim(dialect, name, Some(now), TRIMMED_MAX).map_err(read_error)?;
        self.is_dirty |= channel.is_dirty();
        let state = channel.state;
        self.arm_trim(name, now + PART_PAUSE)?;
        Ok(has_trimmed.then_some(state))
    }

    /// Arms the next look at a channel, at `soon` if there is much to do.
    fn arm_trim(&mut self, name: &ChannelName, soon: WallTime) -> Result<(), StoreError> {
        let Some(channel) = self.channels.get_mut(name) else { return Ok(()) };
        match channel.trim_at(self.dialect.as_mut(), soon).map_err(read_error)? {
            Some(at) => self.trims.arm(name.clone(), wall_as_instant(at)),
            None => drop(self.trims.cancel(name)),
        }
        Ok(())
    }

    /// Writes pending sets and sums of all channels; whether there is more to remove.
    fn flush(&mut self) -> Result<bool, StoreError> {
        let mut dirty: Vec<&mut Channel> =
            self.channels.values_mut().filter(|channel| channel.is_dirty()).collect();
        self.flush_at = None;
        let mut has_more = false;
        if !dirty.is_empty() {
            let (epoch, patience) = (self.ctx.epoch, self.ctx.options.timeout());
            let removed_max = REMOVED_MAX.max(self.appended * 2);
            let dialect = self.dialect.as_mut();
            let flushed = self.fencing.run(dialect, epoch, patience, |dialect| {
                let mut budget = removed_max;
                let flushed = dirty.iter().map(|channel| channel.flush(dialect, &mut budget));
                Ok(flushed.collect::<Result<Vec<_>, SqlError>>()?)
            })?;
            for (channel, flushed) in dirty.iter_mut().zip(flushed) {
                has_more |= flushed.is_behind;
                channel.on_flushed(flushed);
            }
            self.appended = 0;
        }
        self.is_dirty = false;
        Ok(has_more)
    }

    /// Removes a bounded part of what deleted channels left behind.
    fn purge(&mut self) -> Result<(), StoreError> {
        let Some(id) = self.doomed.last().copied() else { return Ok(()) };
        let (epoch, patience) = (self.ctx.epoch, self.ctx.options.timeout());
        let counts = self.ctx.limits.counts_deliveries();
        let is_gone = self.fencing.run(self.dialect.as_mut(), epoch, patience, |dialect| {
            Ok(remove_deleted(dialect, id, counts)?)
        })?;
        if is_gone {
            self.doomed.pop();
        }
        Ok(())
    }

    /// Each part in a transaction of its own, so that those with a value that the database does
    /// not take are refused alone. What was committed before one that fails stays answered for.
    fn write_apart<'a>(
        &mut self,
        epoch: Epoch,
        batch: &Batch,
        parts: Vec<Part<'a>>,
    ) -> Result<Apart<'a>, StoreError> {
        let records = Batch {
            server: batch.server.clone(),
            clients: batch.clients.clone(),
            ..Batch::default()
        };
        let clients_refused = refusal(self.write(epoch, &records, &[]))?;
        let mut apart = Apart { clients_refused, ..Apart::default() };
        for part in parts {
            match refusal(self.write(epoch, &Batch::default(), std::slice::from_ref(&part)))? {
                None => apart.written.push(part),
                Some(text) => apart.refused.push((part.batch.channel.clone(), text)),
            }
        }
        Ok(apart)
    }
}

/// Done, or nothing of it was kept, which its channel is told; any other failure is one of the
/// whole store.
fn refusal(result: Result<(), Failed>) -> Result<Option<String>, StoreError> {
    match result {
        Ok(()) => Ok(None),
        Err(Failed::Sql(error)) if is_of_value(error.failure) => Ok(Some(error.text)),
        Err(failed) => match StoreError::from(failed) {
            error if error.remedy() == Remedy::Refuse => Ok(Some(error.to_string())),
            error => Err(error),
        },
    }
}

/// Whether one of the values is to blame, so that the rest of the batch can do without it.
fn is_of_value(failure: Failure) -> bool {
    matches!(failure, Failure::BadValue | Failure::Duplicate)
}

/// What `batch` removes.
fn doubtful(batch: &Batch) -> Vec<Doubtful> {
    let of_part = |part: &ChannelBatch| {
        let name = part.channel.clone();
        let ended = part.subscriptions.iter().filter_map(|write| match write {
            SubscriptionWrite::Delete(id) => Some(Some(id.0)),
            SubscriptionWrite::Create(_)
            | SubscriptionWrite::Update(_)
            | SubscriptionWrite::Sent(..)
            | SubscriptionWrite::Acked(..) => None,
        });
        let is_deleted = part.lifecycle == Lifecycle::Delete;
        let all = is_deleted.then_some(None).into_iter().chain(ended);
        all.map(move |which| (name.clone(), which)).collect::<Vec<_>>()
    };
    batch.channels.iter().flat_map(of_part).collect()
}

fn read_error(error: SqlError) -> StoreError {
    error.into_store_error(Action::Append)
}

/// The table of deadlines orders plain numbers; here they are wall-clock times, which messages
/// are stamped with.
fn wall_as_instant(at: WallTime) -> Instant {
    Instant(u64::try_from(at.0).unwrap_or(0))
}

/// What was sent and acknowledged is written later.
fn writes_nothing(part: &ChannelBatch) -> bool {
    let waits = |write: &SubscriptionWrite| {
        matches!(write, SubscriptionWrite::Sent(..) | SubscriptionWrite::Acked(..))
    };
    part.lifecycle == Lifecycle::Keep
        && part.messages.is_empty()
        && part.purge.is_none()
        && part.deliveries.iter().all(|count| count.count == 0 && !count.is_gone)
        && part.subscriptions.iter().all(waits)
}

fn write_server(dialect: &mut dyn Dialect, server: &spb::ServerInfo) -> Result<(), SqlError> {
    let id = String::from_utf8_lossy(&server.cluster_id).into_owned();
    let proto = bytes::Bytes::from(server.encode_to_vec());
    let values = [id.into(), proto.into(), schema::VERSION.into()];
    let update = "UPDATE ServerInfo SET id=?, proto=?, version=? WHERE uniquerow=1";
    if dialect.execute(update, &values)? == 0 {
        let insert = "INSERT INTO ServerInfo (id, proto, version) VALUES (?,?,?)";
        insert_rows(dialect, insert, &values, 1)?;
    }
    Ok(())
}

fn write_client(dialect: &mut dyn Dialect, write: &ClientWrite) -> Result<(), SqlError> {
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
    const REMOVE: &str = "DELETE FROM Clients WHERE id=?";
    match write {
        ClientWrite::Add(client) => {
            dialect.execute(REMOVE, &[text(&client.id)])?;
            let proto = bytes::Bytes::from(client.encode_to_vec());
            let values = [text(&client.id), text(&client.hb_inbox), proto.into()];
            let insert = "INSERT INTO Clients (id, hbinbox, proto) VALUES (?,?,?)";
            insert_rows(dialect, insert, &values, 1)
        }
        ClientWrite::Delete(id) => dialect.execute(REMOVE, &[text(id.as_bytes())]).map(drop),
    }
}

fn write_lifecycle(
    dialect: &mut dyn Dialect,
    ctx: &Context,
    part: &Part<'_>,
) -> Result<(), SqlError> {
    match part.batch.lifecycle {
        Lifecycle::Keep => Ok(()),
        Lifecycle::Create => {
            let name =
                std::str::from_utf8(part.batch.channel.as_bytes()).map_err(|_| SqlError {
                    failure: Failure::BadValue,
                    text: "the SQL store takes only channel names in UTF-8".to_owned(),
                })?;
            let [messages, bytes, age] = limit_values(&ctx.limits.of(&part.batch.channel));
            let values = [part.id.into(), name.into(), messages, bytes, age];
            let insert =
                "INSERT INTO Channels (id, name, maxmsgs, maxbytes, maxage) VALUES (?,?,?,?,?)";
            insert_rows(dialect, insert, &values, 1)
        }
        Lifecycle::Delete => {
            let update = "UPDATE Channels SET deleted=TRUE WHERE id=?";
            dialect.execute(update, &[part.id.into()]).map(drop)
        }
    }
}

fn write_subscriptions(
    dialect: &mut dyn Dialect,
    ctx: &Context,
    part: &Part<'_>,
    has_tombstones: bool,
) -> Result<(), SqlError> {
    let id = Value::from(part.id);
    for write in &part.batch.subscriptions {
        match write {
            SubscriptionWrite::Create(state) | SubscriptionWrite::Update(state) => {
                ctx.subscription_id_max.fetch_max(state.id, Ordering::AcqRel);
                if has_tombstones && matches!(write, SubscriptionWrite::Create(_)) {
                    let purge = "DELETE FROM Subscriptions WHERE id=? AND deleted=TRUE";
                    dialect.execute(purge, std::slice::from_ref(&id))?;
                }
                let proto = Value::from(bytes::Bytes::from(state.encode_to_vec()));
                let values = [proto, id.clone(), state.id.into()];
                let update = "UPDATE Subscriptions SET proto=? WHERE id=? AND subid=?";
                if dialect.execute(update, &values)? == 0 {
                    let insert = "INSERT INTO Subscriptions (proto, id, subid) VALUES (?,?,?)";
                    insert_rows(dialect, insert, &values, 1)?;
                }
            }
            SubscriptionWrite::Delete(subid) => {
                // The row with the highest number stays, so that the number is not used again.
                let is_highest = subid.0 == ctx.subscription_id_max.load(Ordering::Acquire);
                let statement = if is_highest {
                    "UPDATE Subscriptions SET deleted=TRUE WHERE id=? AND subid=?"
                } else {
                    "DELETE FROM Subscriptions WHERE id=? AND subid=?"
                };
                dialect.execute(statement, &[id.clone(), subid.0.into()])?;
                dialect.execute("DELETE FROM SubsPending WHERE subid=?", &[subid.0.into()])?;
            }
            SubscriptionWrite::Sent(..) | SubscriptionWrite::Acked(..) => {}
        }
    }
    Ok(())
}

/// A bounded part of what a deleted channel left behind; whether all of it is gone now.
fn remove_deleted(
    dialect: &mut dyn Dialect,
    id: i64,
    counts_deliveries: bool,
) -> Result<bool, SqlError> {
    const FIRST: &str = "SELECT seq FROM Messages WHERE id=? ORDER BY seq LIMIT 1";
    let row = Value::from(id);
    if let Some(first) = dialect.query(FIRST, std::slice::from_ref(&row))?.first() {
        let to = first[0].unsigned().saturating_add(REMOVED_MAX);
        dialect.execute("DELETE FROM Messages WHERE id=? AND seq<=?", &[row, to.into()])?;
        return Ok(false);
    }
    if counts_deliveries {
        dialect.execute(deliveries::REMOVE_ALL, std::slice::from_ref(&row))?;
    }
    for statement in [
        "DELETE FROM SubsPending WHERE subid IN (SELECT subid FROM Subscriptions WHERE id=?)",
        "DELETE FROM Subscriptions WHERE id=?",
        "DELETE FROM StanbyTotals WHERE id=?",
        "DELETE FROM Channels WHERE id=?",
    ] {
        dialect.execute(statement, std::slice::from_ref(&row))?;
    }
    Ok(true)
}

impl Drop for Share {
    fn drop(&mut self) {
        for (name, which) in std::mem::take(&mut self.doubtful) {
            match (which, self.channels.get_mut(&name)) {
                (None, _) => drop(self.channels.remove(&name)),
                (Some(number), Some(channel)) => {
                    channel.records.remove(&number);
                    channel.subscriptions.remove(&number);
                }
                (Some(_), None) => {}
            }
        }
        self.ctx.options.remembered.keep(self.ctx.epoch, &self.channels);
    }
}

impl Store for Share {
    fn commit(&mut self, epoch: Epoch, batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
        let mut refused: BTreeMap<ChannelName, String> = BTreeMap::new();
        let mut parts = Vec::new();
        for part in &batch.channels {
            match self.check(part) {
                Ok(()) => parts.push(self.numbered(part)),
                Err(text) => drop(refused.insert(part.channel.clone(), text)),
            }
        }
        let mut clients_refused = None;
        self.doubtful = doubtful(batch);
        match self.write(epoch, batch, &parts) {
            Ok(()) => {}
            Err(Failed::Sql(error)) if is_of_value(error.failure) => {
                let apart = self.write_apart(epoch, batch, parts)?;
                clients_refused = apart.clients_refused;
                parts = apart.written;
                refused.extend(apart.refused);
            }
            // The transaction was rolled back: nothing of the batch is there.
            Err(Failed::Sql(error)) if error.failure == Failure::Full => {
                let parts = std::mem::take(&mut parts).into_iter();
                refused.extend(parts.map(|part| (part.batch.channel.clone(), error.text.clone())));
                let has_records = batch.server.is_some() || !batch.clients.is_empty();
                clients_refused = has_records.then_some(error.text);
            }
            Err(Failed::Sql(error)) => return Err(error.into_store_error(Action::Append).into()),
            Err(Failed::Store(error)) => return Err(error.into()),
        }
        self.doubtful.clear();
        // What follows is no part of the commit: it cannot fail what is in the database.
        self.on_written(&parts);
        if self.ctx.options.no_caching
            && self.channels.values().any(Channel::has_dirty_subscriptions)
            && self.flush().is_err()
        {
            // `maintain` tries it again, and says what is wrong.
            self.is_dirty = true;
            self.flush_at = Some(Instant(0));
        }
        let outcome = |part: &ChannelBatch| ChannelOutcome {
            channel: part.channel.clone(),
            refused: refused.get(&part.channel).cloned(),
            state: self.channels.get(&part.channel).map(|it| it.state).unwrap_or_default(),
        };
        let channels = batch.channels.iter().map(outcome).collect();
        Ok(CommitReport { clients_refused, channels })
    }

    fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
        let Some(channel) = self.channels.get(&request.channel) else {
            return Ok(Vec::new());
        };
        let state = channel.state;
        if state.message_count == 0 {
            return Ok(Vec::new());
        }
        // Twice as many as fit if all are of average size: what is too much is left away again.
        let average = usize::try_from(state.byte_count / state.message_count).unwrap_or(1);
        let fitting = (request.bytes_max / average.max(1)).saturating_mul(2);
        let count = request.count_max.min(fitting).max(1);
        let from = request.from.0.max(state.first.0);
        let dialect = self.dialect.as_mut();
        let read = reading::read_whole(dialect, &request.channel, channel, from, count);
        let mut found = read.map_err(|error| error.into_store_error(Action::Read))?;
        let mut byte_count = 0;
        let within = found.iter().take_while(|message| {
            let has_room = byte_count < request.bytes_max.max(1);
            byte_count += message.encoded.len();
            has_room
        });
        let len = within.count();
        found.truncate(len);
        Ok(found)
    }

    /// By halves: the timestamps of a channel never go back.
    fn find_time(&mut self, channel: &ChannelName, at: WallTime) -> Result<Sequence, StoreError> {
        let Some(channel) = self.channels.get(channel) else {
            return Ok(Sequence::ZERO);
        };
        let state = channel.state;
        if state.last == Sequence::ZERO {
            return Ok(Sequence::ZERO);
        }
        let (mut low, mut high) = (state.first.0, state.last.next().0);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = messages::old(self.dialect.as_mut(), channel.id, middle, 1);
            let found = found.map_err(|error| error.into_store_error(Action::Read))?;
            match found.front() {
                Some(message) if message.timestamp < at => low = message.sequence + 1,
                Some(_) | None => high = middle,
            }
        }
        Ok(Sequence(low))
    }

    fn inventory(&mut self, _: &Wanted) -> Result<Inventory, StoreError> {
        let text = "a database is backed up by its own tool (PostgreSQL: pg_dump; MariaDB and MySQL: \
                    mariadb-dump --single-transaction; SQLite: VACUUM INTO), while its server runs";
        Err(StoreError::Unusable(text.to_owned()))
    }

    fn maintain(&mut self, now: Now) -> Result<Maintained, StoreError> {
        let mut trimmed = Vec::new();
        let mut due = Vec::new();
        while let Some(name) = self.trims.pop_due(wall_as_instant(now.wall)) {
            due.push(name);
        }
        for index in 0..due.len() {
            match self.trim(&due[index], now.wall) {
                Ok(state) => trimmed.extend(state.map(|state| (due[index].clone(), state))),
                Err(error) => {
                    for name in due.drain(index..) {
                        self.trims.arm(name, Instant(0));
                    }
                    return Err(error);
                }
            }
        }
        if self.is_dirty {
            let at = *self.flush_at.get_or_insert(now.at + FLUSH_AFTER);
            if at <= now.at && self.flush()? {
                self.is_dirty = true;
                self.flush_at = Some(now.at + PART_PAUSE);
            }
        }
        self.purge()?;
        let mut pauses = Vec::new();
        pauses.extend(self.flush_at.filter(|_| self.is_dirty).map(|at| at.since(now.at)));
        pauses.extend((!self.doomed.is_empty()).then_some(DOOMED_PAUSE));
        let expiry = self.trims.next_deadline();
        pauses.extend(expiry.map(|at| at.since(wall_as_instant(now.wall))));
        Ok(Maintained { trimmed, next_in: pauses.into_iter().min() })
    }

    fn close(&mut self) -> Result<(), StoreError> {
        if self.is_closed {
            return Ok(());
        }
        while self.flush()? {}
        self.is_closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
