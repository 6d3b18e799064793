//! The right to write under one epoch of a database.

use std::sync::{Mutex, PoisonError};

use super::Place;
use crate::base::epoch::{Epoch, Fence, FenceError};
use crate::store::sql;
use crate::store::sql::dialect::{Dialect, SqlError};

/// The right to write under one epoch, asked over a connection of its own.
pub(super) struct SqlFence {
    place: Place,
    epoch: Epoch,
    /// Our server id.
    owner: String,
    connection: Mutex<Option<Box<dyn Dialect>>>,
}

impl SqlFence {
    pub(super) fn new(place: Place, epoch: Epoch, owner: String) -> Self {
        Self { place, epoch, owner, connection: Mutex::new(None) }
    }

    fn look(&self) -> Result<Option<(Epoch, String)>, SqlError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dialect = match connection.take() {
            Some(dialect) => dialect,
            None => sql::connect(&self.place.source, self.place.call_timeout)?,
        };
        let rows = dialect.query("SELECT epoch, owner FROM StanbyEpoch", &[])?;
        *connection = Some(dialect);
        Ok(rows.first().map(|row| (Epoch(row[0].unsigned()), row[1].text())))
    }
}

impl Fence for SqlFence {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn check(&self) -> Result<(), FenceError> {
        let unreadable =
            |error: SqlError| FenceError::Unreadable(std::io::Error::other(error.to_string()));
        // A connection that broke meanwhile is replaced once.
        let found = self.look().or_else(|_| self.look()).map_err(unreadable)?;
        match found {
            Some((found, owner)) if found != self.epoch || owner != self.owner => {
                Err(FenceError::Superseded { ours: self.epoch, found, owner })
            }
            Some(_) => Ok(()),
            None => Err(FenceError::Unreadable(std::io::Error::other("StanbyEpoch is empty"))),
        }
    }
}
