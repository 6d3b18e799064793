//! A database that is only read: what a server of a Raft cluster has kept there.
//!
//! Such a server keeps its messages and its own record in its database, and nothing of clients and
//! subscriptions (spec clustering, A6). Nothing but `SELECT` is sent.

use std::collections::BTreeMap;

use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{
    Batch, ChannelState, CommitReport, FetchRequest, MessageRecord, RecoveredChannel,
    RecoveredState,
};
use crate::base::time::{Now, WallTime};
use crate::store::sql::dialect::{Dialect, Row, SqlError, Value};
use crate::store::sql::dsn::Source;
use crate::store::sql::{RECOVERY_CALL_TIMEOUT, connect, recovery};
use crate::store::{Action, Maintained, Opened, OutcomeUnknown, Store, StoreError};

/// Rows that are asked for at once: with the largest messages they fit into memory.
const ROWS_MAX: usize = 64;

/// The messages of one database.
struct ReadOnly {
    dialect: Box<dyn Dialect>,
    ids: BTreeMap<ChannelName, i64>,
}

/// Opens a database to be read.
///
/// # Errors
/// [`StoreError`].
pub fn open(source: &Source) -> Result<Opened, StoreError> {
    let failed = |error: SqlError| error.into_store_error(Action::Open);
    let mut dialect = connect(source, RECOVERY_CALL_TIMEOUT).map_err(failed)?;
    let server = recovery::server(dialect.as_mut())?;
    let statement = "SELECT id, name, maxseq, deleted FROM Channels";
    let rows = dialect.query(statement, &[]).map_err(failed)?;
    let (mut channels, mut ids) = (Vec::new(), BTreeMap::new());
    for row in rows.iter().filter(|row| row[3].signed() == 0) {
        let name = ChannelName::from(row[1].bytes());
        let (id, last_ever) = (row[0].signed(), row[2].unsigned());
        let state = state(dialect.as_mut(), id, last_ever).map_err(failed)?;
        ids.insert(name.clone(), id);
        channels.push(RecoveredChannel { channel: name, state, ..RecoveredChannel::default() });
    }
    channels.sort_by(|one, other| one.channel.cmp(&other.channel));
    let recovered = RecoveredState { server, clients: Vec::new(), channels };
    let share: Box<dyn Store> = Box::new(ReadOnly { dialect, ids });
    Ok(Opened { recovered, shares: vec![share], notices: Vec::new() })
}

fn state(dialect: &mut dyn Dialect, id: i64, last_ever: u64) -> Result<ChannelState, SqlError> {
    let statement = "SELECT COUNT(seq), MIN(seq), MAX(seq) FROM Messages WHERE id=?";
    let rows = dialect.query(statement, &[id.into()])?;
    let number =
        |at: usize| rows.first().and_then(|row: &Row| row.get(at)).map_or(0, Value::unsigned);
    let last = number(2).max(last_ever);
    let first = if number(0) == 0 && last != 0 { last + 1 } else { number(1) };
    Ok(ChannelState {
        first: Sequence(first),
        last: Sequence(last),
        message_count: number(0),
        byte_count: 0,
    })
}

fn only_read() -> StoreError {
    StoreError::Unusable("the store is only read".to_owned())
}

impl Store for ReadOnly {
    fn commit(&mut self, _epoch: Epoch, _batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
        Err(only_read().into())
    }

    fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
        let Some(id) = self.ids.get(&request.channel) else { return Ok(Vec::new()) };
        let count = request.count_max.clamp(1, ROWS_MAX);
        let statement = "SELECT seq, timestamp, data FROM Messages WHERE id=? AND seq>=? \
                         ORDER BY seq LIMIT ?";
        let count = Value::from(u64::try_from(count).unwrap_or(1));
        let values = [Value::from(*id), request.from.get().into(), count];
        let rows = self.dialect.query(statement, &values);
        let rows = rows.map_err(|error| error.into_store_error(Action::Read))?;
        let message = |row: Row| MessageRecord {
            sequence: Sequence(row[0].unsigned()),
            timestamp: WallTime(row[1].signed()),
            encoded: row[2].bytes(),
        };
        Ok(rows.into_iter().map(message).collect())
    }

    fn find_time(&mut self, _channel: &ChannelName, _at: WallTime) -> Result<Sequence, StoreError> {
        Err(only_read())
    }

    fn maintain(&mut self, _now: Now) -> Result<Maintained, StoreError> {
        Ok(Maintained::default())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
