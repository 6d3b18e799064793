//! The fencing number: only grows; a writer's epoch against the one found; the lease bound.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::planted::{self, Bug};
use crate::base::time::Instant;

/// Grows by one with each take-over, with or without the lock; stored beside the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one that a successor claims.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether no other can follow, so that nobody may have it: servers do not get so far.
    #[must_use]
    pub fn is_last(self) -> bool {
        self.0 == u64::MAX
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a writer may not go on.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A later epoch, or another owner of the same one, was found beside the data.
    #[error("epoch {ours} was replaced: epoch {found} belongs to {owner}")]
    Superseded {
        /// The epoch of this process.
        ours: Epoch,
        /// The highest epoch that was found.
        found: Epoch,
        /// The server id that the found epoch names.
        owner: String,
    },
    /// Whether there is a later epoch could not be found out.
    #[error("the epoch beside the data cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// The right to write under one epoch, as far as the data itself can tell.
///
/// A lease makes these; a store asks `check` after each write that it answers for, and
/// before each rename and unlink. A check looks through a fresh open of what lies beside the data.
pub trait Fence: Send + Sync {
    /// The epoch that this process holds or held.
    fn epoch(&self) -> Epoch;

    /// Whether no later epoch has begun.
    ///
    /// # Errors
    /// [`FenceError::Superseded`] if one has, [`FenceError::Unreadable`] if that is unknown:
    /// in both cases the caller must answer nothing.
    fn check(&self) -> Result<(), FenceError>;
}

/// How the holder before this one left, as far as its successor can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Predecessor {
    /// There was none, or it said that everything was synced when it released.
    Clean,
    /// It died, or was a Go server: what it wrote last may not be synced.
    #[default]
    Gone,
    /// It was replaced while it held its lock, and may still write.
    Replaced,
}

/// For stores that nobody else can open (memory): always held.
#[derive(Debug, Default)]
pub struct Unfenced;

impl Fence for Unfenced {
    fn epoch(&self) -> Epoch {
        Epoch(1)
    }

    fn check(&self) -> Result<(), FenceError> {
        Ok(())
    }
}

/// Until when the lease was last confirmed; written by its keeper, read before each answer.
///
/// One value for the whole process, on the boot-time clock.
#[derive(Clone, Debug, Default)]
pub struct LeaseClock {
    valid_until: Arc<AtomicU64>,
}

impl LeaseClock {
    /// A lease that never ends, for stores that need none.
    #[must_use]
    pub fn endless() -> Self {
        let clock = Self::default();
        clock.valid_until.store(u64::MAX, Ordering::Release);
        clock
    }

    /// Makes this lease endless, for all who share it.
    pub fn hold_for_ever(&self) {
        self.valid_until.store(u64::MAX, Ordering::Release);
    }

    /// Confirms the lease: `checked_at` is the moment *before* the confirming read began.
    pub fn confirm(&self, checked_at: Instant, bound: Duration) {
        self.valid_until.fetch_max((checked_at + bound).0, Ordering::AcqRel);
    }

    /// Ends the lease at once.
    pub fn revoke(&self) {
        self.valid_until.store(0, Ordering::Release);
    }

    /// Whether answers may leave at `now`.
    #[must_use]
    pub fn is_valid(&self, now: Instant) -> bool {
        now.0 < self.valid_until.load(Ordering::Acquire) || planted::is(Bug::LeaseIgnored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_one_bound_after_its_last_confirmation() {
        let clock = LeaseClock::default();
        assert!(!clock.is_valid(Instant(0)));
        clock.confirm(Instant(100), Duration::from_nanos(50));
        assert!(clock.is_valid(Instant(149)));
        assert!(!clock.is_valid(Instant(150)));
        clock.confirm(Instant(120), Duration::from_nanos(50));
        clock.revoke();
        assert!(!clock.is_valid(Instant(121)));
    }
}
