//! Transactions of the store, begun anew where another one was in the way.

use std::thread;
use std::time::Duration;

use crate::base::world;
use crate::store::sql::dialect::{Dialect, Failure, SqlError, transaction};
use crate::store::{Action, StoreError};

/// Pause before a transaction is begun anew; twice as long each further time.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The error of a transaction: of one of its statements, or of the fence.
#[derive(Debug)]
pub(super) enum Failed {
    Sql(SqlError),
    Store(StoreError),
}

impl From<SqlError> for Failed {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failed> for StoreError {
    fn from(error: Failed) -> Self {
        match error {
            Failed::Sql(error) => error.into_store_error(Action::Append),
            Failed::Store(error) => error,
        }
    }
}

/// Runs `work` in a transaction. After a deadlock, a serialisation failure or a lock that was not
/// given, all of it is undone, and it is begun anew for as long as `patience`.
///
/// # Errors
/// As `transaction`.
pub(super) fn patiently<T>(
    dialect: &mut dyn Dialect,
    patience: Duration,
    mut work: impl FnMut(&mut dyn Dialect) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let until = world::instant() + patience;
    let mut pause = PAUSE_MIN;
    loop {
        match transaction(dialect, &mut work) {
            Err(Failed::Sql(error))
                if error.failure == Failure::Busy && world::instant() + pause < until =>
            {
                thread::park_timeout(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            ended => return ended,
        }
    }
}
