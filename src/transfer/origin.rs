//! What the messages of a channel are read from, on their way to another store.

use crate::base::id::{ChannelName, Sequence};
use crate::base::record::MessageRecord;
use crate::site::place::Place;
use crate::transfer::error::TransferError;

/// Gives messages.
pub trait Origin {
    /// The next messages of a channel from `from` on, ascending, as many as are read at once; none
    /// behind the last one.
    ///
    /// # Errors
    /// [`TransferError`].
    fn read(
        &mut self,
        channel: &ChannelName,
        from: Sequence,
    ) -> Result<Vec<MessageRecord>, TransferError>;

    /// Shows that it is still what it was, now and then.
    ///
    /// # Errors
    /// [`TransferError`].
    fn confirm(&mut self) -> Result<(), TransferError>;
}

impl Origin for Place {
    fn read(
        &mut self,
        channel: &ChannelName,
        from: Sequence,
    ) -> Result<Vec<MessageRecord>, TransferError> {
        Self::read(self, channel, from).map_err(TransferError::Source)
    }

    fn confirm(&mut self) -> Result<(), TransferError> {
        Self::confirm(self).map_err(TransferError::Source)
    }
}
