//! How often messages were delivered: a table of ours, which is only there where it is needed.
//!
//! Counts are written with their commit. A row goes in the transaction that says its message is
//! acknowledged, up to a second later, and never before it: else the message would be counted anew
//! if the process died in between. Only that of a reader that is gone goes at once.

use std::collections::BTreeMap;

use crate::base::delivery_count::{DeliveryCount, ReaderId};
use crate::base::id::Sequence;
use crate::base::record::ChannelBatch;
use crate::base::time::WallTime;
use crate::store::sql::dialect::{Dialect, Failure, SqlError, Value, insert_rows};

const ADD: &str =
    "INSERT INTO StanbyDeliveries (stamp, deliveries, id, reader, seq) VALUES (?,?,?,?,?)";
const CHANGE: &str =
    "UPDATE StanbyDeliveries SET stamp=?, deliveries=? WHERE id=? AND reader=? AND seq=?";
const REMOVE: &str = "DELETE FROM StanbyDeliveries WHERE id=? AND reader=? AND seq=?";
const REMOVE_READER: &str = "DELETE FROM StanbyDeliveries WHERE id=? AND reader=?";
/// Of a channel that is gone.
pub const REMOVE_ALL: &str = "DELETE FROM StanbyDeliveries WHERE id=?";
const ALL: &str = "SELECT id, reader, seq, stamp, deliveries FROM StanbyDeliveries";

const ANY: &str = "SELECT id FROM StanbyDeliveries LIMIT 1";
/// Of all channels.
pub const REMOVE_EVERY: &str = "DELETE FROM StanbyDeliveries";

/// A message that needs no count.
pub type Forgotten = (ReaderId, Sequence);

/// Writes the counts of a part, inside its transaction.
///
/// # Errors
/// [`SqlError`].
pub fn write(dialect: &mut dyn Dialect, id: i64, part: &ChannelBatch) -> Result<(), SqlError> {
    for count in &part.deliveries {
        if count.count == 0 {
            if count.is_of_all() {
                dialect.execute(REMOVE_READER, &[id.into(), count.reader.to_hex().into()])?;
            } else if count.is_gone {
                remove(dialect, id, std::iter::once(&(count.reader, count.sequence)))?;
            }
            continue;
        }
        let values = [
            Value::from(count.timestamp.0),
            i64::from(count.count).into(),
            id.into(),
            count.reader.to_hex().into(),
            count.sequence.0.into(),
        ];
        if dialect.execute(CHANGE, &values)? == 0 {
            insert_rows(dialect, ADD, &values, 1)?;
        }
    }
    Ok(())
}

/// Removes the rows of messages that need no count.
///
/// # Errors
/// [`SqlError`].
pub fn remove<'a>(
    dialect: &mut dyn Dialect,
    id: i64,
    forgotten: impl Iterator<Item = &'a Forgotten>,
) -> Result<(), SqlError> {
    for (reader, sequence) in forgotten {
        dialect.execute(REMOVE, &[id.into(), reader.to_hex().into(), sequence.0.into()])?;
    }
    Ok(())
}

/// Whether any count is there; there may be no such table.
///
/// # Errors
/// [`SqlError`].
pub fn is_any(dialect: &mut dyn Dialect) -> Result<bool, SqlError> {
    match dialect.query(ANY, &[]) {
        Ok(rows) => Ok(!rows.is_empty()),
        Err(error) if error.failure == Failure::Missing => Ok(false),
        Err(error) => Err(error),
    }
}

/// All that is there, by the number of the channel's row.
///
/// # Errors
/// [`SqlError`].
pub fn read(dialect: &mut dyn Dialect) -> Result<BTreeMap<i64, Vec<DeliveryCount>>, SqlError> {
    let mut found: BTreeMap<i64, Vec<DeliveryCount>> = BTreeMap::new();
    for row in dialect.query(ALL, &[])? {
        // What somebody else has put there is none of ours.
        let Some(reader) = ReaderId::from_hex(&row[1].text()) else { continue };
        found.entry(row[0].signed()).or_default().push(DeliveryCount {
            reader,
            sequence: Sequence(row[2].unsigned()),
            timestamp: WallTime(row[3].signed()),
            count: u32::try_from(row[4].unsigned()).unwrap_or(u32::MAX),
            is_gone: false,
        });
    }
    Ok(found)
}
