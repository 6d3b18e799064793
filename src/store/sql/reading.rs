//! Messages as they are given to subscribers: checked, and what is missing is said.

use crate::base::id::{ChannelName, Sequence};
use crate::base::record::MessageRecord;
use crate::store::sql::channel::Channel;
use crate::store::sql::dialect::{Dialect, SqlError};
use crate::store::sql::messages;

/// Up to `count` messages from `from` on. A row that is damaged or that somebody has removed is
/// logged and passed over: behind it lie others that were acknowledged. None means that there is
/// none.
///
/// # Errors
/// When the rows cannot be read.
pub fn read_whole(
    dialect: &mut dyn Dialect,
    name: &ChannelName,
    channel: &Channel,
    from: u64,
    count: usize,
) -> Result<Vec<MessageRecord>, SqlError> {
    let last = channel.state.last.0;
    let mut expected = from;
    while expected <= last {
        let rows = messages::read(dialect, channel.id, expected, count)?;
        let is_end = rows.len() < count;
        let mut whole = Vec::with_capacity(rows.len());
        for row in rows {
            say_missing(name, expected, row.sequence.0);
            expected = row.sequence.next().0;
            match messages::damage(&row, name) {
                None => whole.push(row),
                Some(why) => say_damaged(name, row.sequence, &why),
            }
        }
        if is_end {
            say_missing(name, expected, last.saturating_add(1));
            return Ok(whole);
        }
        if !whole.is_empty() {
            return Ok(whole);
        }
    }
    Ok(Vec::new())
}

fn say_missing(name: &ChannelName, from: u64, until: u64) {
    if from < until {
        let last = until - 1;
        log::error!(
            "Error looking up messages {from} to {last} of channel {name}: somebody has removed \
             their rows from the table Messages; they are passed over. Restore them from a backup \
             while no server runs"
        );
    }
}

fn say_damaged(name: &ChannelName, sequence: Sequence, why: &str) {
    log::error!(
        "Error looking up message {sequence} of channel {name}: {why}; it is passed over. Restore \
         its row of the table Messages from a backup"
    );
}
