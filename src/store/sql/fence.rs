//! The fence of the store's transactions: none of them takes effect after a later epoch has begun.
//!
//! One server: each transaction begins by reading the epoch with a lock that lasts until the
//! commit, so a later epoch can only begin before it, which ends it, or after it.
//!
//! A cluster that certifies (Galera): locks are one node's own, and what was only read is not
//! certified. So each writer has a row in `StanbyFence`, which each of its transactions changes and
//! a take-over changes too: of two that do not know of each other the cluster undoes the later one.
//! The row counts the transactions, so it also says whether one took effect of which the database
//! said that it had undone it.

use std::time::Duration;

use crate::base::epoch::{Epoch, FenceError};
use crate::base::planted::{self, Bug};
use crate::store::StoreError;
use crate::store::sql::attempts::{Failed, patiently};
use crate::store::sql::dialect::{Dialect, Driver, Failure, SqlError};

/// Rows of workers: as many loops as a process can have.
const WORKERS_MAX: u16 = 64;
/// The row of recoveries, of which there is one at a time.
const RECOVERY: u16 = WORKERS_MAX;

const CHANGE: &str =
    "UPDATE StanbyFence SET counter=counter+1 WHERE worker=? AND epoch=? AND counter=?";
const CHANGE_UNCOUNTED: &str =
    "UPDATE StanbyFence SET counter=counter+1 WHERE worker=? AND epoch=?";
const COUNTER: &str = "SELECT counter FROM StanbyFence WHERE worker=? AND epoch=?";
const EPOCH: &str = "SELECT e.epoch, e.owner, e.lockid, l.id FROM StanbyEpoch e, StoreLock l";

/// The fence of one worker's transactions under one epoch.
#[derive(Debug)]
pub(super) struct Fencing {
    worker: u16,
    /// Transactions of this epoch that took effect.
    counter: u64,
}

impl Fencing {
    pub(super) fn new(worker: u16) -> Self {
        Self { worker, counter: 0 }
    }

    /// Runs `work` in a transaction under `epoch`, as `patiently` does.
    ///
    /// # Errors
    /// As `patiently`; with [`Failure::Busy`] nothing of it was kept for certain.
    pub(super) fn run<T>(
        &mut self,
        dialect: &mut dyn Dialect,
        epoch: Epoch,
        patience: Duration,
        mut work: impl FnMut(&mut dyn Dialect) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let ran = patiently(dialect, patience, |dialect| {
            self.hold(dialect, epoch)?;
            work(dialect)
        });
        match ran {
            Ok(done) => {
                self.counter += 1;
                Ok(done)
            }
            Err(Failed::Sql(error)) if error.failure == Failure::Busy && certifies(dialect) => {
                self.see_undone(dialect, epoch, error)
            }
            failed => failed,
        }
    }

    /// Sees that `epoch` is the newest, and keeps it so until the transaction ends.
    fn hold(&self, dialect: &mut dyn Dialect, epoch: Epoch) -> Result<(), Failed> {
        if !certifies(dialect) {
            return read(dialect, epoch, true);
        }
        let values = [u64::from(self.worker).into(), epoch.0.into(), self.counter.into()];
        if dialect.execute(CHANGE, &values)? == 1 {
            return Ok(());
        }
        read(dialect, epoch, false)?;
        Err(self.not_undone().into())
    }

    /// After the last try: whether the transaction was undone, as the database said.
    fn see_undone<T>(
        &self,
        dialect: &mut dyn Dialect,
        epoch: Epoch,
        error: SqlError,
    ) -> Result<T, Failed> {
        let values = [u64::from(self.worker).into(), epoch.0.into()];
        let rows = dialect.query(COUNTER, &values).unwrap_or_default();
        let is_undone = rows.first().is_some_and(|row| row[0].whole() == Some(self.counter));
        Err(if is_undone { error.into() } else { self.not_undone().into() })
    }

    fn not_undone(&self) -> SqlError {
        let Self { worker, counter } = self;
        let why = format!(
            "the cluster said that it was undone, and row {worker} of StanbyFence does not count \
             {counter}"
        );
        SqlError::of_unknown_commit(&why)
    }
}

/// The same for the transactions of a recovery, which are few and can all be done again.
///
/// # Errors
/// [`Failed`].
pub(super) fn check(dialect: &mut dyn Dialect, epoch: Epoch) -> Result<(), Failed> {
    if !certifies(dialect) {
        return read(dialect, epoch, true);
    }
    let values = [u64::from(RECOVERY).into(), epoch.0.into()];
    if dialect.execute(CHANGE_UNCOUNTED, &values)? == 1 {
        return Ok(());
    }
    read(dialect, epoch, false)?;
    let why = "a row of StanbyFence is missing: it comes back with the next take-over";
    Err(SqlError::of_statement(Failure::Other, CHANGE_UNCOUNTED, &why).into())
}

/// In the transaction in which `epoch` begins: changes what each transaction of an earlier one
/// changes too.
///
/// # Errors
/// [`SqlError`].
pub(crate) fn raise(dialect: &mut dyn Dialect, epoch: Epoch) -> Result<(), SqlError> {
    if dialect.node().is_none() {
        return Ok(());
    }
    let rows = (0..=RECOVERY).map(|worker| format!("({worker},{epoch},0)"));
    let rows = rows.collect::<Vec<_>>().join(",");
    let statement = format!(
        "INSERT INTO StanbyFence (worker, epoch, counter) VALUES {rows} \
         ON DUPLICATE KEY UPDATE epoch=VALUES(epoch), counter=0"
    );
    dialect.run(&statement)
}

/// What a worker's transactions begin with, to be made ready before the first one.
pub(super) fn statement(dialect: &dyn Dialect) -> String {
    if certifies(dialect) { CHANGE.to_owned() } else { reading(dialect.driver(), true) }
}

/// Whether this is a cluster's node, whose locks say nothing of the other nodes.
fn certifies(dialect: &dyn Dialect) -> bool {
    dialect.node().is_some() && !planted::is(Bug::FenceOnlyRead)
}

/// Sees that `ours` is the newest epoch and that nobody took the lock row; `keeps` it so until the
/// transaction ends.
fn read(dialect: &mut dyn Dialect, ours: Epoch, keeps: bool) -> Result<(), Failed> {
    let rows = dialect.query(&reading(dialect.driver(), keeps), &[])?;
    let Some(row) = rows.first() else {
        let none = std::io::Error::other("the tables StanbyEpoch and StoreLock are empty");
        return Err(StoreError::Fenced(FenceError::Unreadable(none)).into());
    };
    let found = Epoch(row[0].unsigned());
    if found != ours {
        let owner = row[1].text();
        return Err(StoreError::Fenced(FenceError::Superseded { ours, found, owner }).into());
    }
    if let Some(thief) = rows.iter().find(|row| row[2] != row[3]) {
        let owner = format!("the server that wrote {:?} into StoreLock", thief[3].text());
        return Err(StoreError::Fenced(FenceError::Superseded { ours, found, owner }).into());
    }
    Ok(())
}

fn reading(driver: Driver, keeps: bool) -> String {
    format!("{EPOCH}{}", if keeps { driver.share_lock() } else { "" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::store::sql::dialect::{Row, Value};

    /// A node that says of its first commit that it undid it, and did or did not.
    struct Cluster {
        is_undone: bool,
        busy_commits: u32,
        counter: u64,
        is_changed: bool,
        works: u32,
    }

    impl Dialect for Cluster {
        fn driver(&self) -> Driver {
            Driver::Mysql
        }
        fn node(&self) -> Option<&str> {
            Some("one")
        }
        fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, SqlError> {
            if statement == CHANGE {
                self.is_changed = values[2] == self.counter.into();
                return Ok(u64::from(self.is_changed));
            }
            self.works += 1;
            Ok(1)
        }
        fn query(&mut self, statement: &str, _: &[Value]) -> Result<Vec<Row>, SqlError> {
            let text = |text: &str| Value::from(text);
            Ok(vec![match statement {
                COUNTER => vec![self.counter.into()],
                _ => vec![Value::Integer(7), text("we"), text("id"), text("id")],
            }])
        }
        fn prepare(&mut self, _: &str) -> Result<(), SqlError> {
            Ok(())
        }
        fn run(&mut self, _: &str) -> Result<(), SqlError> {
            Ok(())
        }
        fn commit(&mut self) -> Result<(), SqlError> {
            let is_busy = self.busy_commits > 0;
            self.busy_commits = self.busy_commits.saturating_sub(1);
            self.counter += u64::from(self.is_changed && !(is_busy && self.is_undone));
            match is_busy {
                true => Err(SqlError::of_statement(Failure::Busy, "COMMIT", &"Deadlock found")),
                false => Ok(()),
            }
        }
    }

    fn ran(is_undone: bool, busy_commits: u32) -> (Result<(), Failed>, u64, u32) {
        let mut cluster =
            Cluster { is_undone, busy_commits, counter: 0, is_changed: false, works: 0 };
        let mut fencing = Fencing::new(3);
        let patience = Duration::from_millis(40);
        let ran = fencing.run(&mut cluster, Epoch(7), patience, |dialect| {
            dialect.execute("INSERT", &[])?;
            Ok(())
        });
        (ran, fencing.counter, cluster.works)
    }

    /// Goal: a deadlock at the end is tried again only after the row said that nothing was kept,
    /// and what was kept all the same is never written twice, and never refused.
    #[test]
    fn a_deadlock_at_commit_is_believed_only_if_the_row_says_so_too() {
        assert!(matches!(ran(true, 0), (Ok(()), 1, 1)));
        assert!(matches!(ran(true, 1), (Ok(()), 1, 2)));
        let class = |failed: Failed| match failed {
            Failed::Sql(error) => error.failure,
            Failed::Store(error) => panic!("{error}"),
        };
        let (failed, _, works) = ran(false, 1);
        assert_eq!((class(failed.unwrap_err()), works), (Failure::Unknown, 1));
        // For ever in the way: nothing was kept, and this is a refusal.
        let (failed, _, _) = ran(true, u32::MAX);
        assert_eq!(class(failed.unwrap_err()), Failure::Busy);
    }
}
