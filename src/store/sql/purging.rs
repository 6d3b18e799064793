//! What an operator lets go of a channel, inside of the transaction of its batch.
//!
//! All of it goes at once, so that a purge is there as a whole or not at all; publishes wait for
//! it, unlike for what the limits let go.

use crate::base::id::Sequence;
use crate::base::record::{ChannelState, Purge};
use crate::store::sql::channel::ADD_TOTALS;
use crate::store::sql::dialect::{Dialect, SqlError, Value, insert_rows};
use crate::store::sql::messages;

/// Removes the rows of what goes from the channel of row `id`, whose last message is `last`, and
/// gives what is left.
///
/// # Errors
/// [`SqlError`].
pub fn purge(
    dialect: &mut dyn Dialect,
    id: i64,
    last: Sequence,
    purge: &Purge,
) -> Result<ChannelState, SqlError> {
    const SUMS: &str = "SELECT COUNT(seq), COALESCE(SUM(size),0), COALESCE(MIN(seq),0) \
                        FROM Messages WHERE id=?";
    let row = Value::from(id);
    let before = if purge.stand_in.is_some() { purge.first.next() } else { purge.first };
    let statement = "DELETE FROM Messages WHERE id=? AND seq<?";
    dialect.execute(statement, &[row.clone(), before.0.into()])?;
    if let Some(stand_in) = &purge.stand_in {
        messages::insert(dialect, &[(id, stand_in)], 0)?;
    }
    let mut state = ChannelState { first: last.next(), last, ..ChannelState::default() };
    let sums = dialect.query(SUMS, std::slice::from_ref(&row))?;
    if let Some(sums) = sums.first().filter(|sums| sums[0].unsigned() != 0) {
        state.message_count = sums[0].unsigned();
        state.byte_count = sums[1].unsigned();
        state.first = Sequence(sums[2].unsigned());
    } else {
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
