//! What an operator lets go of a channel, inside of the transaction of its batch.
//!
//! All of it goes at once, so that a purge is there as a whole or not at all; publishes wait for
//! it, unlike for what the limits let go. No statement looks at more than `ROWS` rows: each has a
//! bound on its time, and is a sign of life.

use crate::base::id::Sequence;
use crate::base::record::{ChannelState, Purge};
use crate::store::sql::channel::ADD_TOTALS;
use crate::store::sql::dialect::{Dialect, SqlError, Value, insert_rows};
use crate::store::sql::messages;

/// Rows that one statement removes, or counts.
const ROWS: u32 = 5_000;

/// Removes the rows of what goes from the channel of row `id`, which holds `before`, and gives what
/// is left.
///
/// # Errors
/// [`SqlError`].
pub fn purge(
    dialect: &mut dyn Dialect,
    id: i64,
    before: ChannelState,
    purge: &Purge,
) -> Result<ChannelState, SqlError> {
    const OLDEST: &str = "SELECT MIN(seq) FROM Messages WHERE id=? HAVING MIN(seq) IS NOT NULL";
    let (row, last) = (Value::from(id), before.last);
    let end = if purge.stand_in.is_some() { purge.first.next() } else { purge.first };
    let (gone_count, gone_bytes) = remove_before(dialect, id, end, before.first)?;
    let mut state = ChannelState { first: last.next(), last, ..ChannelState::default() };
    if let Some(stand_in) = &purge.stand_in {
        messages::insert(dialect, &[(id, stand_in)], 0)?;
        state.message_count = 1;
        state.byte_count = messages::size(stand_in);
    } else {
        state.message_count = before.message_count.saturating_sub(gone_count);
        state.byte_count = before.byte_count.saturating_sub(gone_bytes);
    }
    let oldest = dialect.query(OLDEST, std::slice::from_ref(&row))?;
    if let Some(oldest) = oldest.first() {
        state.first = Sequence(oldest[0].unsigned());
    } else {
        state.message_count = 0;
        state.byte_count = 0;
        // The numbers go on from here even if the last row is gone.
        let statement = "UPDATE Channels SET maxseq=? WHERE id=?";
        dialect.execute(statement, &[last.0.into(), row.clone()])?;
    }
    dialect.execute("DELETE FROM StanbyTotals WHERE id=?", std::slice::from_ref(&row))?;
    let totals = [
        row,
        state.first.0.into(),
        last.0.into(),
        state.message_count.into(),
        state.byte_count.into(),
    ];
    insert_rows(dialect, ADD_TOTALS, &totals, 1)?;
    Ok(state)
}

/// Removes the rows in front of `end`; how many counted, from `first` on, and their bytes.
fn remove_before(
    dialect: &mut dyn Dialect,
    id: i64,
    end: Sequence,
    first: Sequence,
) -> Result<(u64, u64), SqlError> {
    const SUMS: &str = "SELECT COUNT(seq), COALESCE(SUM(size),0) FROM Messages \
                        WHERE id=? AND seq>=? AND seq<?";
    const REMOVE: &str = "DELETE FROM Messages WHERE id=? AND seq<?";
    let next =
        format!("SELECT seq FROM Messages WHERE id=? AND seq<? ORDER BY seq LIMIT 1 OFFSET {ROWS}");
    let row = Value::from(id);
    let (mut count, mut bytes) = (0, 0);
    loop {
        let found = dialect.query(&next, &[row.clone(), end.0.into()])?;
        let found = found.first().map(|columns| Sequence(columns[0].unsigned()));
        let until = found.unwrap_or(end);
        let sums = dialect.query(SUMS, &[row.clone(), first.0.into(), until.0.into()])?;
        if let Some(sums) = sums.first() {
            count += sums[0].unsigned();
            bytes += sums[1].unsigned();
        }
        dialect.execute(REMOVE, &[row.clone(), until.0.into()])?;
        if found.is_none() {
            return Ok((count, bytes));
        }
    }
}
