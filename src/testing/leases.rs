//! The lock and the epochs of a simulated group, and the keeper of each process.
//!
//! The kernel's locks are simulated: a dead process loses its own, a paused one keeps them, and
//! now and then the service says yes to two. Who takes what when is judged by the real rules.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::epoch::{Epoch, Fence, FenceError, LeaseClock, Predecessor};
use crate::base::time::Instant;
use crate::election::keeper;
use crate::election::lease::Holder;
use crate::election::sight::{self, Mark, NewestEpoch, Proof, Sight, Stillness, Verdict, judge};
use crate::testing::disk::Operation;
use crate::testing::memory_disk::{Fate, ProcessId, before};

/// After so long without a sign of life a holder is replaced: soon, so that a run has many of them.
pub const STEAL_AFTER: Duration = Duration::from_secs(1);
/// How often a standby looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Between the lock and the epoch, for whoever takes both.
const CLAIM_TAKES: Duration = Duration::from_millis(1);
/// What the fence reads.
const EPOCH_FILE: &[u8] = b".stanby.epoch";

/// What a process is called by others.
#[must_use]
pub fn server_id(process: ProcessId) -> String {
    format!("N{:055}", process.0)
}

/// How long a lease lasts after its last confirmation.
#[must_use]
pub fn bound() -> Duration {
    keeper::lease_bound(STEAL_AFTER)
}

/// What lies beside the data.
#[derive(Clone, Debug, Default)]
pub struct Locks {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    root: Option<ProcessId>,
    epochs: BTreeMap<Epoch, Claim>,
}

#[derive(Debug)]
struct Claim {
    owner: ProcessId,
    counter: u64,
    /// When its owner found last that it is the newest.
    confirmed_at: Instant,
    /// Its owner lives and has not let go.
    is_held: bool,
    is_released: bool,
}

impl Locks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel frees what a process held.
    pub fn free(&self, process: ProcessId) {
        let mut state = self.state();
        if state.root == Some(process) {
            state.root = None;
        }
        let claims = state.epochs.values_mut().filter(|claim| claim.owner == process);
        claims.for_each(|claim| claim.is_held = false);
    }

    /// The service forgets who has the lock, as when its file is replaced: it says yes to another.
    /// With the lock of the epoch gone too, as when the machine behind a network file system has
    /// started anew, another may claim the next epoch at once.
    pub fn forget(&self, forgets_epoch: bool) {
        let mut state = self.state();
        state.root = None;
        if let Some(mut newest) = state.epochs.last_entry()
            && forgets_epoch
        {
            newest.get_mut().is_held = false;
        }
    }

    /// Whether `process` may answer clients: nobody has claimed a later epoch, or so shortly ago
    /// that its lease has not ended yet. What it has written since nobody may be told of.
    #[must_use]
    pub fn may_answer(&self, process: ProcessId, now: Instant) -> bool {
        let state = self.state();
        let Some((_, newest)) = state.epochs.last_key_value() else { return true };
        let is_confirmed = |claim: &Claim| now < claim.confirmed_at + bound();
        let mut own = state.epochs.values().rev().filter(|claim| claim.owner == process);
        newest.owner == process || own.next().is_some_and(is_confirmed)
    }

    /// The newest epoch, if there is one.
    #[must_use]
    pub fn newest(&self) -> Option<Epoch> {
        self.state().epochs.keys().next_back().copied()
    }
}

/// The fence of one epoch of a process.
#[derive(Debug)]
pub struct SimulatedFence {
    epoch: Epoch,
    owner: ProcessId,
    locks: Locks,
}

impl SimulatedFence {
    fn look(&self) -> Result<(), FenceError> {
        let state = self.locks.state();
        match state.epochs.last_key_value() {
            Some((epoch, claim)) if *epoch == self.epoch && claim.owner == self.owner => Ok(()),
            found => Err(FenceError::Superseded {
                ours: self.epoch,
                found: found.map_or(Epoch(0), |(epoch, _)| *epoch),
                owner: found.map_or_else(String::new, |(_, claim)| server_id(claim.owner)),
            }),
        }
    }
}

impl Fence for SimulatedFence {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn check(&self) -> Result<(), FenceError> {
        match before(self.owner, Operation::OpenRead, EPOCH_FILE) {
            Fate::Done | Fate::Lies | Fate::Flips(_) => self.look(),
            Fate::Dead | Fate::Fails(_) => {
                Err(FenceError::Unreadable(io::Error::from(io::ErrorKind::Other)))
            }
        }
    }
}

/// What a keeper tells its process.
#[derive(Debug)]
pub enum Told {
    /// The lease is its own.
    Won(Arc<SimulatedFence>, Predecessor),
    /// The lease is gone, and why.
    Lost(String),
    /// Another process has it, if anybody has ever had it.
    Waiting(Option<ProcessId>),
}

/// What waits for the lease and renews it.
#[derive(Debug)]
pub struct Keeper {
    process: ProcessId,
    locks: Locks,
    clock: LeaseClock,
    held: Option<Arc<SimulatedFence>>,
    /// The epoch that it is about to claim, whatever has happened since it looked.
    claiming: Option<(Epoch, Predecessor)>,
    stillness: Stillness,
    /// For how long a process has the lock and nobody an epoch.
    unclaimed: Stillness,
    /// Since when the store is known to work for this process.
    proof: Proof,
    distrusts_locks: bool,
    /// Whom it has told of.
    told: Option<Option<ProcessId>>,
    next_look: Instant,
}

impl Keeper {
    /// A keeper that holds nothing.
    #[must_use]
    pub fn new(process: ProcessId, locks: Locks, clock: LeaseClock, now: Instant) -> Self {
        Self {
            process,
            locks,
            clock,
            held: None,
            claiming: None,
            stillness: Stillness::default(),
            unclaimed: Stillness::default(),
            proof: Proof::default(),
            distrusts_locks: false,
            told: None,
            next_look: now,
        }
    }

    /// Does what is due. `may_take`: no thread of a former term runs any more.
    pub fn turn(&mut self, now: Instant, may_take: bool) -> Option<Told> {
        if now < self.next_look {
            return None;
        }
        if self.held.is_some() {
            self.next_look = now + bound() / 4;
            return self.confirm(now);
        }
        self.next_look = now + LOOK_EVERY;
        if let Some((epoch, predecessor)) = self.claiming.take() {
            return self.claim(epoch, predecessor, now);
        }
        if may_take { self.look(now) } else { None }
    }

    /// Whether it stands between the lock and the epoch.
    #[must_use]
    pub fn is_claiming(&self) -> bool {
        self.claiming.is_some()
    }

    /// The kernel refuses the second of one epoch.
    fn claim(&mut self, epoch: Epoch, predecessor: Predecessor, now: Instant) -> Option<Told> {
        let mut state = self.locks.state();
        if state.epochs.contains_key(&epoch) {
            return None;
        }
        let claim = Claim {
            owner: self.process,
            counter: 0,
            confirmed_at: now,
            is_held: true,
            is_released: false,
        };
        state.epochs.insert(epoch, claim);
        drop(state);
        let locks = self.locks.clone();
        let fence = Arc::new(SimulatedFence { epoch, owner: self.process, locks });
        self.held = Some(Arc::clone(&fence));
        self.clock.confirm(now, bound());
        self.next_look = now + bound() / 4;
        Some(Told::Won(fence, predecessor))
    }

    fn confirm(&mut self, now: Instant) -> Option<Told> {
        let fence = self.held.clone()?;
        let has_lock = {
            let mut state = self.locks.state();
            if state.root.is_none() {
                state.root = Some(self.process);
            }
            if let Some(claim) = state.epochs.get_mut(&fence.epoch) {
                claim.counter += 1;
            }
            state.root == Some(self.process)
        };
        let Err(why) = fence.look() else {
            if let Some(claim) = self.locks.state().epochs.get_mut(&fence.epoch) {
                claim.confirmed_at = now;
            }
            self.clock.confirm(now, bound());
            return None;
        };
        self.distrusts_locks |= has_lock;
        self.drop_lease(false, now + LOOK_EVERY);
        Some(Told::Lost(why.to_string()))
    }

    /// Gives the lease back; `is_clean`: everything is synced.
    pub fn drop_lease(&mut self, is_clean: bool, next_look: Instant) {
        self.clock.revoke();
        if let Some(fence) = self.held.take() {
            let mut state = self.locks.state();
            if state.root == Some(self.process) {
                state.root = None;
            }
            if let Some(claim) = state.epochs.get_mut(&fence.epoch) {
                claim.is_held = false;
                claim.is_released = is_clean;
            }
        }
        self.claiming = None;
        self.stillness.reset();
        self.unclaimed.reset();
        self.proof = Proof::default();
        self.told = None;
        self.next_look = next_look;
    }

    /// When it looks again.
    #[must_use]
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Somebody doubts that the lease is its own.
    pub fn check_now(&mut self, now: Instant) {
        if self.held.is_some() {
            self.next_look = now;
        }
    }

    fn look(&mut self, now: Instant) -> Option<Told> {
        let locks = self.locks.clone();
        let mut state = locks.state();
        let has_lock = state.root.is_none_or(|holder| holder == self.process);
        if has_lock {
            state.root = Some(self.process);
        }
        let newest = state.epochs.last_key_value().map(|(epoch, claim)| (*epoch, claim));
        let mark = newest.map_or((Epoch(0), 0), |(epoch, claim)| (epoch, claim.counter));
        let holder = newest.map(|(_, claim)| claim.owner);
        let still_for = self.stillness.observe(mark, (now, now), 4 * LOOK_EVERY);
        let is_unclaimed = !has_lock && newest.is_none_or(|(_, claim)| !claim.is_held);
        let unclaimed_for =
            is_unclaimed.then(|| self.unclaimed.observe((mark.0, 0), (now, now), 4 * LOOK_EVERY));
        if !is_unclaimed {
            self.unclaimed.reset();
        }
        let life = if is_unclaimed { Mark::Unclaimed(mark.0) } else { Mark::Life(mark.0, mark.1) };
        let proven_for = self.proof.observe(life, (now, now), 4 * LOOK_EVERY);
        let patience = sight::patience_with(
            &Holder { silence_max: STEAL_AFTER, ..Holder::default() },
            STEAL_AFTER,
        );
        let epoch_of = |(epoch, claim): (Epoch, &Claim)| NewestEpoch {
            is_held: claim.is_held,
            is_released: claim.is_released,
            has_living_predecessor: state.epochs.range(..epoch).any(|(_, claim)| claim.is_held),
        };
        let sight = Sight {
            has_lock,
            unclaimed_for,
            newest: newest.map(epoch_of),
            is_fresh: state.epochs.is_empty(),
            still_for,
            is_stuck: false,
            proven_for,
            steal_after: patience,
            distrusts_locks: self.distrusts_locks,
            patience,
        };
        match judge(&sight) {
            Verdict::Claim(predecessor) => {
                self.claiming = Some((mark.0.next(), predecessor));
                self.next_look = now + CLAIM_TAKES;
                None
            }
            Verdict::Prove => {
                self.proof.give(life, now);
                None
            }
            Verdict::WaitForLock
            | Verdict::WaitForForeigner
            | Verdict::WaitForClaim
            | Verdict::WaitForEpoch
            | Verdict::WaitForStillness => {
                // The lock is left to whoever is active without it.
                if has_lock {
                    state.root = None;
                }
                let is_known = self.told.replace(holder) == Some(holder);
                (!is_known).then_some(Told::Waiting(holder))
            }
        }
    }

    /// The epoch that it holds, or believes to.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.held.as_ref().map(|fence| fence.epoch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// A group of keepers, of which those that are not turned stand still.
    struct Members {
        keepers: Vec<Keeper>,
        locks: Locks,
        now: Instant,
    }

    impl Members {
        fn new(count: u32) -> Self {
            let (locks, now) = (Locks::default(), Instant::default());
            let keeper = |n| Keeper::new(ProcessId(n), locks.clone(), LeaseClock::default(), now);
            Self { keepers: (0..count).map(keeper).collect(), locks, now }
        }

        fn turn(&mut self, number: usize) -> Option<Told> {
            self.now = self.now + Duration::from_millis(1);
            self.keepers[number].turn(self.now, true)
        }

        fn wins_within(&mut self, number: usize, patience: Duration) -> Option<Predecessor> {
            let until = self.now + patience;
            while self.now < until {
                if let Some(Told::Won(_, predecessor)) = self.turn(number) {
                    return Some(predecessor);
                }
            }
            None
        }
    }

    /// Goal: who stands still between the lock and the epoch keeps nobody from serving, and when it
    /// goes on it is a standby, that has the lock no more.
    #[test]
    fn who_is_paused_between_the_lock_and_the_epoch_is_passed_over() {
        let patience = 3 * STEAL_AFTER;
        let mut members = Members::new(3);
        assert_eq!(members.wins_within(0, patience), Some(Predecessor::Clean));
        members.locks.free(ProcessId(0));
        while !members.keepers[1].is_claiming() {
            assert!(members.turn(1).is_none());
        }
        let paused_at = members.now;
        assert_eq!(members.wins_within(2, patience), Some(Predecessor::Replaced));
        assert!(paused_at + STEAL_AFTER <= members.now, "it is given time");
        for _ in 0..100 {
            assert!(!matches!(members.turn(1), Some(Told::Won(..) | Told::Lost(_))));
            assert!(!matches!(members.turn(2), Some(Told::Won(..) | Told::Lost(_))));
        }
        assert_eq!(members.keepers[2].epoch(), Some(Epoch(2)));
        let rooted = members.locks.state().root;
        assert!(rooted != Some(ProcessId(1)), "{rooted:?}");
        members.locks.free(ProcessId(2));
        assert_eq!(members.wins_within(1, patience), Some(Predecessor::Gone));
    }
}
