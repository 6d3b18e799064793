//! what a standby sees of a lease, and what it makes of it, as logic
//!
//! The leases of the sites look, and ask here what to do next ([`judge`]). Nothing here reads a
//! clock or a file.

use std::time::Duration;

use crate::base::epoch::{Epoch, Predecessor};
use crate::base::limits;
use crate::base::time::Instant;
use crate::election::lease::Holder;

/// What a standby sees of a lease that consists of a lock and numbered epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The lock that Go servers take too is ours.
    pub has_lock: bool,
    /// For how long that lock has been seen in the hands of another member of ours, and no epoch in
    /// anybody's; `None` where that is not so, or the lock does not tell.
    pub unclaimed_for: Option<Duration>,
    /// The newest epoch; `None` if there never was one.
    pub newest: Option<NewestEpoch>,
    /// Nothing of a store is there yet.
    pub is_fresh: bool,
    /// For how long the newest holder gave no sign of life.
    pub still_for: Duration,
    /// Its record says that its store makes no progress.
    pub is_stuck: bool,
    /// For how long what its record shows has been the same since we have written and synced in
    /// that very store ourselves; `None` before.
    pub proven_for: Option<Duration>,
    /// After which stillness its epoch is taken from it; zero = never.
    pub steal_after: Duration,
    /// We were fenced once though nobody took our lock away: locks here prove nothing.
    pub distrusts_locks: bool,
    /// How long a holder must have been still for us to believe that it is gone, if locks do not
    /// tell.
    pub patience: Duration,
}

/// What is seen of the newest epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestEpoch {
    /// Its owner lives: it holds the epoch's own lock.
    pub is_held: bool,
    /// Its owner released it with everything synced.
    pub is_released: bool,
    /// The owner of an earlier epoch, which was replaced, still lives and may write.
    pub has_living_predecessor: bool,
}

/// What a standby does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Claim the next epoch.
    Claim(Predecessor),
    /// Write and sync something in the store: only where that works is a hanging holder replaced,
    /// so that a disk that stalls for all moves no role.
    Prove,
    /// Wait for the lock; its holder owns the newest epoch.
    WaitForLock,
    /// Wait for the lock; its holder is none of ours and is never replaced.
    WaitForForeigner,
    /// Wait for the lock; its holder is one of ours, and about to claim the next epoch.
    WaitForClaim,
    /// Wait for the owner of the newest epoch, which goes on without the lock.
    WaitForEpoch,
    /// Wait until the owner of the newest epoch gives no sign of life.
    WaitForStillness,
}

/// A holder that was still for this share of the steal time is about to be replaced: time to prove
/// that the store works for us.
const SUSPECT_SHARE: u32 = 2;
/// After the proof its record must stand still for this share of the steal time: four times what
/// lies between two signs of life, of which one comes at once when a stall ends for all.
const PROOF_SHARE: u32 = 3;

/// Judges what a standby sees (design, "Election and fencing").
#[must_use]
pub fn judge(sight: &Sight) -> Verdict {
    let hangs_for = |share: u32| sight.is_stuck || sight.steal_after / share <= sight.still_for;
    let is_proven = sight.proven_for.is_some_and(|lasts| sight.steal_after / PROOF_SHARE <= lasts);
    let may_steal = !sight.steal_after.is_zero() && hangs_for(1) && is_proven;
    let must_prove =
        !sight.steal_after.is_zero() && hangs_for(SUSPECT_SHARE) && sight.proven_for.is_none();
    let is_silent = sight.patience <= sight.still_for;
    match (sight.has_lock, sight.newest) {
        (true, None) if sight.is_fresh => Verdict::Claim(Predecessor::Clean),
        (true, None) => Verdict::Claim(Predecessor::Gone),
        (_, Some(newest)) if newest.is_held && may_steal => Verdict::Claim(Predecessor::Replaced),
        (_, Some(newest)) if newest.is_held && must_prove => Verdict::Prove,
        (true, Some(newest)) if newest.is_held => Verdict::WaitForEpoch,
        (false, Some(newest)) if newest.is_held => Verdict::WaitForLock,
        (true, Some(newest)) if newest.is_released || !sight.distrusts_locks => {
            Verdict::Claim(match (newest.has_living_predecessor, newest.is_released) {
                (true, _) => Predecessor::Replaced,
                (false, true) => Predecessor::Clean,
                (false, false) => Predecessor::Gone,
            })
        }
        (true, Some(_)) if is_silent => Verdict::Claim(Predecessor::Replaced),
        (true, Some(_)) => Verdict::WaitForStillness,
        // The lock is that of the one who was replaced before, not a Go server's: whoever has
        // replaced it is gone, and to wait for it would be to wait for one that hangs.
        (false, Some(newest)) if newest.has_living_predecessor && !sight.steal_after.is_zero() => {
            if is_silent || !sight.distrusts_locks {
                Verdict::Claim(Predecessor::Replaced)
            } else {
                Verdict::WaitForStillness
            }
        }
        (false, _) => sight.unclaimed_for.map_or(Verdict::WaitForForeigner, |lasts| {
            let is_due = |share: u32| sight.steal_after / share <= lasts;
            // Where locks prove nothing, the owner of the newest epoch may live.
            let is_over = sight.newest.is_none() || !sight.distrusts_locks || is_silent;
            if sight.steal_after.is_zero() {
                Verdict::WaitForClaim
            } else if is_due(1) && is_proven && is_over {
                Verdict::Claim(Predecessor::Replaced)
            } else if is_due(SUSPECT_SHARE) && sight.proven_for.is_none() {
                Verdict::Prove
            } else {
                Verdict::WaitForClaim
            }
        }),
    }
}

/// After how long without a sign of life `holder` is replaced by a member that was told
/// `steal_after`: never before the holder has stopped answering, whatever its own setting is. One
/// that does not say is taken for one with the default. Zero stays "never".
#[must_use]
pub fn patience_with(holder: &Holder, steal_after: Duration) -> Duration {
    match (steal_after.is_zero(), holder.silence_max.is_zero()) {
        (true, _) => Duration::ZERO,
        (false, true) => steal_after.max(limits::STEAL_AFTER_DEFAULT),
        (false, false) => steal_after.max(holder.silence_max),
    }
}

/// What the log says of a holder that is waited for longer than `steal_after`; else nothing.
#[must_use]
pub fn of_longer_patience(holder: &Holder, steal_after: Duration) -> String {
    let patience = patience_with(holder, steal_after);
    if patience <= steal_after {
        return String::new();
    }
    format!(
        "; should it hang, it is replaced after {patience:?}, because its own ft_steal_after is \
         longer than the {steal_after:?} of this server: set the same for all members"
    )
}

/// Measures for how long a holder gave no sign of life.
///
/// It counts only what was watched: a gap between two reads (this process or its machine stood
/// still) starts it anew, and so does a read that failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stillness {
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    epoch: Epoch,
    counter: u64,
    /// When the first read of this counter had ended.
    since: Instant,
    last_read_at: Instant,
}

impl Stillness {
    /// Forgets what was seen.
    pub fn reset(&mut self) {
        self.seen = None;
    }

    /// Takes what a read between `began_at` and `ended_at` showed.
    pub fn observe(
        &mut self,
        (epoch, counter): (Epoch, u64),
        (began_at, ended_at): (Instant, Instant),
        gap_max: Duration,
    ) -> Duration {
        let known = self.seen.filter(|seen| {
            seen.epoch == epoch
                && seen.counter == counter
                && began_at.since(seen.last_read_at) <= gap_max
        });
        let since = known.map_or(ended_at, |seen| seen.since);
        self.seen = Some(Seen { epoch, counter, since, last_read_at: ended_at });
        began_at.since(since)
    }
}

/// What the record of a holder shows that hangs, or may hang: it gives no sign of life, or says
/// that its store makes no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// How often this epoch's holder gave a sign of life.
    Life(Epoch, u64),
    /// Since when this epoch's store makes no progress.
    Stuck(Epoch, Instant),
    /// A member of ours has the lock, and nobody has an epoch; this one is the newest.
    Unclaimed(Epoch),
}

/// That the store took a write of ours, and for how long the holder's mark stood still since.
///
/// As [`Stillness`], it counts only what was watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof {
    given: Option<Given>,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    mark: Mark,
    at: Instant,
    last_read_at: Instant,
}

impl Proof {
    /// What was written is durable; `mark` was read after that, at `now`.
    pub fn give(&mut self, mark: Mark, now: Instant) {
        self.given = Some(Given { mark, at: now, last_read_at: now });
    }

    /// Takes what a read between `began_at` and `ended_at` showed.
    pub fn observe(
        &mut self,
        mark: Mark,
        (began_at, ended_at): (Instant, Instant),
        gap_max: Duration,
    ) -> Option<Duration> {
        let holds =
            |given: &Given| given.mark == mark && began_at.since(given.last_read_at) <= gap_max;
        self.given = self.given.filter(holds);
        let given = self.given.as_mut()?;
        given.last_read_at = ended_at;
        Some(began_at.since(given.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(7);

    const FREE: NewestEpoch =
        NewestEpoch { is_held: false, is_released: false, has_living_predecessor: false };
    const HELD: NewestEpoch = NewestEpoch { is_held: true, ..FREE };

    fn check(has_lock: bool, newest: Option<NewestEpoch>, still_seconds: u64, expected: Verdict) {
        for (steal_seconds, distrusts_locks) in [(5, false), (5, true)] {
            let sight = Sight {
                has_lock,
                unclaimed_for: None,
                newest,
                is_fresh: false,
                still_for: Duration::from_secs(still_seconds),
                is_stuck: false,
                proven_for: Some(Duration::from_secs(2)),
                steal_after: Duration::from_secs(steal_seconds),
                distrusts_locks,
                patience: Duration::from_secs(5),
            };
            if !(distrusts_locks && has_lock && newest == Some(FREE)) {
                assert_eq!(judge(&sight), expected, "{sight:?}");
            }
            // Without stealing, stillness changes nothing while the epoch is held.
            let patient = Sight { steal_after: Duration::ZERO, ..sight };
            if newest == Some(HELD) {
                assert_ne!(judge(&patient), Verdict::Claim(Predecessor::Replaced));
            }
        }
    }

    #[test]
    fn the_lock_alone_makes_nobody_active() {
        check(true, None, 0, Verdict::Claim(Predecessor::Gone));
        check(true, Some(FREE), 0, Verdict::Claim(Predecessor::Gone));
        check(true, Some(HELD), 4, Verdict::WaitForEpoch);
        check(false, Some(HELD), 4, Verdict::WaitForLock);
    }

    #[test]
    fn a_clean_release_is_not_believed_while_one_who_was_replaced_before_lives() {
        let released = NewestEpoch { is_released: true, ..FREE };
        check(true, Some(released), 0, Verdict::Claim(Predecessor::Clean));
        for newest in [released, FREE] {
            let newest = NewestEpoch { has_living_predecessor: true, ..newest };
            let judged = judge(&Sight {
                has_lock: true,
                unclaimed_for: None,
                newest: Some(newest),
                is_fresh: false,
                still_for: Duration::ZERO,
                is_stuck: false,
                proven_for: None,
                steal_after: Duration::from_secs(5),
                distrusts_locks: false,
                patience: Duration::from_secs(5),
            });
            assert_eq!(judged, Verdict::Claim(Predecessor::Replaced));
        }
    }

    #[test]
    fn the_lock_of_one_who_was_replaced_is_not_taken_for_a_go_servers() {
        let newest = NewestEpoch { has_living_predecessor: true, ..FREE };
        let seen = Sight {
            has_lock: false,
            unclaimed_for: None,
            newest: Some(newest),
            is_fresh: false,
            still_for: Duration::ZERO,
            is_stuck: false,
            proven_for: None,
            steal_after: Duration::from_secs(5),
            distrusts_locks: false,
            patience: Duration::from_secs(5),
        };
        let replace = Verdict::Claim(Predecessor::Replaced);
        assert_eq!(judge(&seen), replace);
        let never = Sight { steal_after: Duration::ZERO, ..seen };
        assert_eq!(judge(&never), Verdict::WaitForForeigner);
        let distrustful = Sight { distrusts_locks: true, ..seen };
        assert_eq!(judge(&distrustful), Verdict::WaitForStillness);
        assert_eq!(judge(&Sight { still_for: seen.patience, ..distrustful }), replace);
        let held = NewestEpoch { is_held: true, ..newest };
        assert_eq!(judge(&Sight { newest: Some(held), ..seen }), Verdict::WaitForLock);
    }

    /// A member that stands still between the lock and the epoch is passed over as one that hangs
    /// with an epoch is; what it does when it goes on, the epoch decides.
    #[test]
    fn one_of_ours_that_claims_nothing_is_passed_over_as_one_that_hangs() {
        let seconds = Duration::from_secs;
        let released = NewestEpoch { is_released: true, ..FREE };
        for newest in [None, Some(FREE), Some(released)] {
            let seen = Sight {
                has_lock: false,
                unclaimed_for: Some(seconds(0)),
                newest,
                is_fresh: newest.is_none(),
                still_for: seconds(99),
                is_stuck: false,
                proven_for: None,
                steal_after: seconds(6),
                distrusts_locks: false,
                patience: seconds(6),
            };
            let judged = |lasts, proven_for: Option<u64>| {
                let unclaimed_for = Some(seconds(lasts));
                judge(&Sight { unclaimed_for, proven_for: proven_for.map(seconds), ..seen })
            };
            assert_eq!(judged(0, None), Verdict::WaitForClaim, "it is about to claim");
            assert_eq!(judged(2, None), Verdict::WaitForClaim);
            assert_eq!(judged(3, None), Verdict::Prove);
            assert_eq!(judged(5, Some(2)), Verdict::WaitForClaim);
            assert_eq!(judged(6, Some(1)), Verdict::WaitForClaim);
            assert_eq!(judged(6, Some(2)), Verdict::Claim(Predecessor::Replaced));
            let unknown = Sight { proven_for: Some(seconds(9)), unclaimed_for: None, ..seen };
            assert_eq!(judge(&unknown), Verdict::WaitForForeigner);
            let late = Sight { unclaimed_for: Some(seconds(99)), ..unknown };
            let never = Sight { steal_after: Duration::ZERO, ..late };
            assert_eq!(judge(&never), Verdict::WaitForClaim);
            let distrustful = Sight { distrusts_locks: true, still_for: seconds(5), ..late };
            let expected = match newest {
                Some(_) => Verdict::WaitForClaim,
                None => Verdict::Claim(Predecessor::Replaced),
            };
            assert_eq!(judge(&distrustful), expected);
        }
    }

    #[test]
    fn only_a_still_holder_of_ours_is_replaced() {
        check(false, Some(HELD), 5, Verdict::Claim(Predecessor::Replaced));
        check(true, Some(HELD), 5, Verdict::Claim(Predecessor::Replaced));
        check(false, Some(FREE), 99, Verdict::WaitForForeigner);
        check(false, None, 99, Verdict::WaitForForeigner);
    }

    #[test]
    fn a_hanging_holder_is_replaced_only_where_the_store_works_for_us_and_its_mark_stands_still() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let judged = |is_stuck, still_seconds, proven_seconds, steal_seconds| {
            judge(&Sight {
                has_lock: false,
                unclaimed_for: None,
                newest: Some(HELD),
                is_fresh: false,
                still_for: Duration::from_secs(still_seconds),
                is_stuck,
                proven_for: seconds(proven_seconds),
                steal_after: Duration::from_secs(steal_seconds),
                distrusts_locks: false,
                patience: Duration::from_secs(5),
            })
        };
        let replace = Verdict::Claim(Predecessor::Replaced);
        for is_stuck in [false, true] {
            assert_eq!(judged(is_stuck, 99, None, 6), Verdict::Prove);
            assert_eq!(judged(is_stuck, 99, Some(1), 6), Verdict::WaitForLock);
            assert_eq!(judged(is_stuck, 99, Some(2), 6), replace);
            assert_eq!(judged(is_stuck, 99, None, 0), Verdict::WaitForLock, "never");
            assert_eq!(judged(is_stuck, 99, Some(99), 0), Verdict::WaitForLock, "never");
        }
        assert_eq!(judged(false, 2, None, 6), Verdict::WaitForLock, "nothing is suspected");
        assert_eq!(judged(false, 3, None, 6), Verdict::Prove, "in time for the replacement");
        assert_eq!(judged(false, 5, Some(9), 6), Verdict::WaitForLock, "not still for long enough");
        assert_eq!(judged(true, 0, Some(2), 6), replace, "its keeper lives, its store does not");
    }

    #[test]
    fn a_proof_lasts_as_long_as_the_mark_stands_still_under_our_eyes() {
        let gap_max = Duration::from_nanos(10);
        let mut proof = Proof::default();
        let stuck = Mark::Stuck(EPOCH, Instant(50));
        let read = |at| (Instant(at), Instant(at + 1));
        assert_eq!(proof.observe(stuck, read(100), gap_max), None, "nothing is written");
        proof.give(stuck, Instant(101));
        let nanos = |lasts: Option<Duration>| lasts.map(|lasts| lasts.as_nanos());
        assert_eq!(nanos(proof.observe(stuck, read(105), gap_max)), Some(4));
        assert_eq!(nanos(proof.observe(stuck, read(115), gap_max)), Some(14));
        assert_eq!(proof.observe(stuck, read(130), gap_max), None, "we were paused ourselves");
        proof.give(stuck, Instant(131));
        let progress = Mark::Stuck(EPOCH, Instant(132));
        assert_eq!(proof.observe(progress, read(135), gap_max), None, "it got on in between");
    }

    #[test]
    fn who_was_fenced_with_the_lock_in_hand_waits_for_stillness() {
        let sight = Sight {
            has_lock: true,
            unclaimed_for: None,
            newest: Some(FREE),
            is_fresh: false,
            still_for: Duration::from_secs(4),
            is_stuck: false,
            proven_for: None,
            steal_after: Duration::ZERO,
            distrusts_locks: true,
            patience: Duration::from_secs(5),
        };
        assert_eq!(judge(&sight), Verdict::WaitForStillness);
        let later = Sight { still_for: Duration::from_secs(5), ..sight };
        assert_eq!(judge(&later), Verdict::Claim(Predecessor::Replaced));
    }

    #[test]
    fn stillness_counts_only_what_was_watched() {
        let gap_max = Duration::from_nanos(10);
        let mut stillness = Stillness::default();
        let mut at = |counter, nanos| {
            let read = (Instant(nanos), Instant(nanos + 1));
            stillness.observe((EPOCH, counter), read, gap_max).as_nanos()
        };
        assert_eq!(at(1, 100), 0);
        assert_eq!(at(1, 108), 7);
        assert_eq!(at(1, 116), 15);
        assert_eq!(at(2, 120), 0, "a sign of life");
        assert_eq!(at(2, 130), 9);
        assert_eq!(at(2, 150), 0, "we were paused ourselves");
    }
}
