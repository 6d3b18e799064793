//! Statements on the rows of messages: many in, ranges out.

use std::collections::VecDeque;

use prost::Message as _;

use crate::base::id::{ChannelName, Sequence};
use crate::base::record::MessageRecord;
use crate::base::time::WallTime;
use crate::proto::pb;
use crate::store::sql::dialect::{Dialect, Failure, SqlError, Value, insert_rows};

/// Rows of one `INSERT` where the user does not say: more gain nothing.
const INSERT_ROWS: usize = 512;
/// Between these multiples a batch is split in two.
const INSERT_ROWS_STEP: usize = 64;
/// Rows of one `INSERT` that every database takes: five values each, of 32,766.
const INSERT_ROWS_MAX: usize = 4_096;
/// What a statement takes beside its rows, and a row beside its data, at most.
const INSERT_BYTES: usize = 1_024;
const ROW_BYTES: usize = 64;
/// A user's limit counts from here on (spec stores, 8.13).
const INSERT_ROWS_MIN: usize = 5;

/// What is needed to let a message go: not its data.
#[derive(Clone, Copy, Debug)]
pub struct Old {
    /// Its number.
    pub sequence: u64,
    /// Its accounted bytes.
    pub size: u64,
    /// When it was stored.
    pub timestamp: WallTime,
}

/// A message and the number of its channel's row.
pub type NumberedMessage<'a> = (i64, &'a MessageRecord);

/// Inserts all of `messages`, in as few statements as `limit` allows.
pub fn insert(
    dialect: &mut dyn Dialect,
    messages: &[NumberedMessage<'_>],
    limit: usize,
) -> Result<(), SqlError> {
    let rows_max = if limit < INSERT_ROWS_MIN { INSERT_ROWS } else { limit.min(INSERT_ROWS_MAX) };
    let mut rest = messages;
    while !rest.is_empty() {
        // A multiple of a step and what is left of it: at most two statements for a batch of the
        // usual size, and few different ones to prepare.
        let count = fitting(rest, dialect.statement_bytes_max()).min(rows_max);
        let steps = count / INSERT_ROWS_STEP * INSERT_ROWS_STEP;
        let len = if steps == 0 { count } else { steps };
        let (part, behind) = rest.split_at(len);
        insert_part(dialect, part)?;
        rest = behind;
    }
    Ok(())
}

/// How many of the first messages one statement can hold: at least one, which is refused alone if
/// it is too large.
fn fitting(messages: &[NumberedMessage<'_>], bytes_max: usize) -> usize {
    let mut bytes = INSERT_BYTES;
    let more = messages.iter().take_while(|(_, message)| {
        bytes += ROW_BYTES + message.encoded.len();
        bytes <= bytes_max
    });
    more.count().max(1)
}

/// How a statement begins that inserts messages.
pub const INSERT: &str = "INSERT INTO Messages (id, seq, timestamp, size, data) VALUES ";
/// Values of a row.
pub const ROW_VALUES: usize = 5;

/// The statement that inserts so many messages.
pub fn insert_statement(row_count: usize) -> String {
    let mut statement = String::with_capacity(64 + row_count * 12);
    statement.push_str(INSERT);
    for index in 0..row_count {
        statement.push_str(if index == 0 { "(?,?,?,?,?)" } else { ",(?,?,?,?,?)" });
    }
    statement
}

fn insert_part(dialect: &mut dyn Dialect, part: &[NumberedMessage<'_>]) -> Result<(), SqlError> {
    let statement = insert_statement(part.len());
    let mut values = Vec::with_capacity(part.len() * ROW_VALUES);
    for (id, message) in part {
        values.push(Value::Integer(*id));
        values.push(message.sequence.0.into());
        values.push(Value::Integer(message.timestamp.0));
        values.push(Value::from(size(message)));
        values.push(message.encoded.clone().into());
    }
    let inserted = insert_rows(dialect, &statement, &values, part.len()).or_else(|error| {
        // Where a trigger puts the rows into parts of the table, they are there all the same.
        let is_of_count = error.failure == Failure::BadValue;
        let are_there = is_of_count && are_there(dialect, part).unwrap_or(false);
        if are_there { Ok(()) } else { Err(error) }
    });
    inserted.map_err(|error| {
        // The statement of a large batch would fill a screen.
        let text = error.text.replace(&format!("{statement:?}"), "\"INSERT INTO Messages …\"");
        if error.failure != Failure::Duplicate {
            return SqlError { text, ..error };
        }
        // No publisher's mistake: what this process knows of the channel is wrong.
        let text = format!("{text}; somebody else writes to this database");
        SqlError { failure: Failure::Other, text }
    })
}

fn are_there(
    dialect: &mut dyn Dialect,
    messages: &[NumberedMessage<'_>],
) -> Result<bool, SqlError> {
    for (id, message) in messages {
        let values = [Value::Integer(*id), message.sequence.0.into()];
        if dialect.query("SELECT seq FROM Messages WHERE id=? AND seq=?", &values)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a message counts for (spec stores, 2.3).
#[must_use]
pub fn size(message: &MessageRecord) -> u64 {
    u64::try_from(message.encoded.len()).unwrap_or(u64::MAX)
}

/// Up to `count` rows of messages of a channel from `from` on, as they are stored.
pub fn read(
    dialect: &mut dyn Dialect,
    id: i64,
    from: u64,
    count: usize,
) -> Result<Vec<MessageRecord>, SqlError> {
    const READ: &str =
        "SELECT seq, timestamp, data FROM Messages WHERE id=? AND seq>=? ORDER BY seq LIMIT ?";
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let rows = dialect.query(READ, &[id.into(), from.into(), count.into()])?;
    let record = |row: Vec<Value>| MessageRecord {
        sequence: Sequence(row[0].unsigned()),
        timestamp: WallTime(row[1].signed()),
        encoded: row[2].bytes(),
    };
    Ok(rows.into_iter().map(record).collect())
}

/// What is wrong with a row, if it does not hold the message of its number in `channel`.
#[must_use]
pub fn damage(row: &MessageRecord, channel: &ChannelName) -> Option<String> {
    match pb::MsgProto::decode(row.encoded.clone()) {
        Err(error) => Some(format!("its data is damaged ({error})")),
        Ok(message) if message.sequence != row.sequence.0 => {
            Some(format!("its data is that of message {}", message.sequence))
        }
        Ok(message) if message.subject != channel.as_bytes() => {
            let subject = String::from_utf8_lossy(&message.subject);
            Some(format!("its data is that of a message of channel {subject}"))
        }
        Ok(_) => None,
    }
}

/// Up to `count` old messages of a channel from `from` on.
pub fn old(
    dialect: &mut dyn Dialect,
    id: i64,
    from: u64,
    count: u64,
) -> Result<VecDeque<Old>, SqlError> {
    const OLD: &str =
        "SELECT seq, size, timestamp FROM Messages WHERE id=? AND seq>=? ORDER BY seq LIMIT ?";
    let rows = dialect.query(OLD, &[id.into(), from.into(), count.into()])?;
    let old = |row: Vec<Value>| Old {
        sequence: row[0].unsigned(),
        size: row[1].unsigned(),
        timestamp: WallTime(row[2].signed()),
    };
    Ok(rows.into_iter().map(old).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no statement is longer than what the session takes, but for a message that is so
    /// alone.
    #[test]
    fn a_statement_holds_what_its_bytes_allow() {
        let of_len = |len: usize| MessageRecord {
            sequence: Sequence(1),
            timestamp: WallTime(0),
            encoded: vec![0; len].into(),
        };
        let (small, large) = (of_len(1_000), of_len(100_000));
        let all = |message, count| vec![(1, message); count];
        let room = |count: usize, len: usize| INSERT_BYTES + count * (ROW_BYTES + len);
        assert_eq!(fitting(&all(&small, 9), usize::MAX), 9);
        assert_eq!(fitting(&all(&small, 9), room(5, 1_000)), 5);
        assert_eq!(fitting(&all(&small, 9), room(5, 1_000) - 1), 4);
        assert_eq!(fitting(&all(&large, 9), 10_000), 1);
        assert_eq!(fitting(&[(1, &small), (1, &large), (1, &small)], 10_000), 1);
    }
}
