//! Member: the roles and their transitions, as logic
//!
//! Beside it the rules by which a standby judges what it sees of a lease (`judge`, `Stillness`).
//! Nothing here reads a clock or a file: `keeper` and `file_lock` do, and ask here.

pub mod epoch_files;
pub mod file_lock;
pub mod heartbeat;
pub mod keeper;
pub mod lease;
mod proof;
pub mod sql_lock;

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::epoch::{Epoch, Predecessor};
use crate::base::time::Instant;

/// First pause after an activation that failed for a reason that may pass; doubles each time.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between such activations.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a member that stepped down as asked leaves the lease to others.
const RETRY_AFTER_HAND_OVER: Duration = Duration::from_secs(2);

/// What happened to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The keeper won the lock and claimed this epoch.
    Won {
        /// Which one.
        epoch: Epoch,
        /// How the holder before left.
        predecessor: Predecessor,
    },
    /// The store was recovered, and every loop serves.
    Recovered,
    /// The activation failed; `may_pass` if another try may succeed.
    ActivationFailed {
        /// Whether to try again.
        may_pass: bool,
    },
    /// The lease is lost or in doubt; may cross our own release on its way.
    LeaseLost,
    /// The store can no longer be written under this epoch.
    StoreFailed {
        /// Whether another try may succeed.
        may_pass: bool,
    },
    /// Somebody asked for a planned hand-over or a stop.
    StepDownAsked {
        /// Which of both.
        reason: StepDownReason,
    },
    /// Nothing is staged or under way any more, and the store is closed; `clean` if it was synced.
    Drained {
        /// Whether all of it is synced.
        clean: bool,
    },
    /// A heartbeat of another server that says it is active: anybody can forge one.
    ForeignHeartbeat,
}

/// Why a member gives its role away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDownReason {
    /// To another member; this one stays as a standby.
    HandOver,
    /// The process ends.
    Stop,
}

/// What a member asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Recover the store under this epoch and serve.
    Activate {
        /// Under which epoch.
        epoch: Epoch,
        /// How the holder before left.
        predecessor: Predecessor,
    },
    /// Stop answering and writing at once; drop what is staged.
    Abandon,
    /// Stop taking publishes, commit what is staged, close the store.
    Drain,
    /// Look at lease and epoch at once.
    CheckLease,
    /// Give the lease back, and do not try again before `retry_after`.
    Release {
        /// Of which epoch: the keeper may have lost it and won another one meanwhile.
        epoch: Epoch,
        /// Whether everything is synced.
        clean: bool,
        /// How long to leave the lease alone.
        retry_after: Duration,
    },
    /// End the process: with its fatal line if the activation failed for good.
    End {
        /// Whether that is an error.
        is_failure: bool,
    },
}

/// ```text
/// Standby ──lock won──► Activating ──recovered──► Active ──asked──► SteppingDown
///    ▲                      │                        │                   │
///    └──────────────────────┴──────lease lost────────┴──────drained──────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waits for the lease.
    Standby,
    /// Holds the lease and recovers the store.
    Activating {
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Serves.
    Active {
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Hands over or stops: commits what is staged.
    SteppingDown {
        /// Under this epoch.
        epoch: Epoch,
        /// What for.
        reason: StepDownReason,
    },
}

/// One process of the group.
#[derive(Clone, Debug)]
pub struct Member {
    role: Role,
    retry_after: Duration,
    effects: VecDeque<Effect>,
}

impl Default for Member {
    fn default() -> Self {
        Self { role: Role::Standby, retry_after: RETRY_MIN, effects: VecDeque::new() }
    }
}

impl Member {
    /// Its role now.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The next thing it asks for.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes one input.
    ///
    /// # Panics
    /// On an input that cannot come in this role: then this process is wrong about itself.
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Won { epoch, predecessor } => self.on_won(epoch, predecessor),
            Input::Recovered => self.on_recovered(),
            Input::ActivationFailed { may_pass } | Input::StoreFailed { may_pass } => {
                self.on_failed(may_pass);
            }
            Input::LeaseLost => self.on_lease_lost(),
            Input::StepDownAsked { reason } => self.on_step_down_asked(reason),
            Input::Drained { clean } => self.on_drained(clean),
            Input::ForeignHeartbeat => self.on_foreign_heartbeat(),
        }
    }

    fn on_won(&mut self, epoch: Epoch, predecessor: Predecessor) {
        assert!(self.role == Role::Standby, "lock won as {:?}", self.role);
        self.role = Role::Activating { epoch };
        self.effects.push_back(Effect::Activate { epoch, predecessor });
    }

    fn on_recovered(&mut self) {
        match self.role {
            Role::Activating { epoch } => {
                self.role = Role::Active { epoch };
                self.retry_after = RETRY_MIN;
            }
            // The lease was lost, or a stop asked for, while the store was recovered.
            Role::Standby | Role::SteppingDown { .. } => (),
            Role::Active { .. } => panic!("recovered as {:?}", self.role),
        }
    }

    /// A store that fails is left at once: what is staged cannot be committed any more.
    fn on_failed(&mut self, may_pass: bool) {
        let Some(epoch) = self.epoch() else {
            return;
        };
        let is_stopping = self.is_stopping();
        self.role = Role::Standby;
        self.effects.push_back(Effect::Abandon);
        let retry_after = self.retry_after;
        self.effects.push_back(Effect::Release { epoch, clean: false, retry_after });
        self.retry_after = (self.retry_after * 2).min(RETRY_MAX);
        if is_stopping || !may_pass {
            self.effects.push_back(Effect::End { is_failure: !may_pass });
        }
    }

    fn on_lease_lost(&mut self) {
        match self.role {
            // Nothing may be written or answered any more, so there is nothing to drain.
            Role::Activating { .. } | Role::Active { .. } | Role::SteppingDown { .. } => {
                let is_stopping = self.is_stopping();
                self.role = Role::Standby;
                self.effects.push_back(Effect::Abandon);
                if is_stopping {
                    self.effects.push_back(Effect::End { is_failure: false });
                }
            }
            // The keeper's report can cross our own release on its way.
            Role::Standby => (),
        }
    }

    fn on_step_down_asked(&mut self, reason: StepDownReason) {
        match (self.role, reason) {
            (Role::Standby, StepDownReason::HandOver) => (),
            (Role::Standby, StepDownReason::Stop) => {
                self.effects.push_back(Effect::End { is_failure: false });
            }
            (Role::Activating { epoch } | Role::Active { epoch }, _) => {
                self.role = Role::SteppingDown { epoch, reason };
                self.effects.push_back(Effect::Drain);
            }
            // A stop outweighs a hand-over that is under way; never the other way round.
            (Role::SteppingDown { epoch, .. }, StepDownReason::Stop) => {
                self.role = Role::SteppingDown { epoch, reason };
            }
            (Role::SteppingDown { .. }, StepDownReason::HandOver) => (),
        }
    }

    fn on_drained(&mut self, clean: bool) {
        let Role::SteppingDown { epoch, reason } = self.role else {
            return;
        };
        self.role = Role::Standby;
        let retry_after = RETRY_AFTER_HAND_OVER;
        self.effects.push_back(Effect::Release { epoch, clean, retry_after });
        if reason == StepDownReason::Stop {
            self.effects.push_back(Effect::End { is_failure: false });
        }
    }

    fn on_foreign_heartbeat(&mut self) {
        if self.role != Role::Standby {
            self.effects.push_back(Effect::CheckLease);
        }
    }

    /// Under which epoch it holds the lease, if it does.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self.role {
            Role::Standby => None,
            Role::Activating { epoch }
            | Role::Active { epoch }
            | Role::SteppingDown { epoch, .. } => Some(epoch),
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.role, Role::SteppingDown { reason: StepDownReason::Stop, .. })
    }
}

/// What a standby sees of a lease that consists of a lock and numbered epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The lock that Go servers take too is ours.
    pub has_lock: bool,
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
        (false, _) => Verdict::WaitForForeigner,
    }
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

    fn won() -> Input {
        Input::Won { epoch: EPOCH, predecessor: Predecessor::Gone }
    }

    fn asked(reason: StepDownReason) -> Input {
        Input::StepDownAsked { reason }
    }

    /// Gives `inputs` to a new member; its role, and what it asked for after the last one.
    fn play(inputs: &[Input]) -> (Role, Vec<Effect>) {
        let mut member = Member::default();
        let mut effects = Vec::new();
        for input in inputs {
            effects.clear();
            member.handle(input.clone());
            effects.extend(std::iter::from_fn(|| member.poll_effect()));
        }
        (member.role(), effects)
    }

    #[test]
    fn a_member_that_wins_recovers_and_serves() {
        let activate = Effect::Activate { epoch: EPOCH, predecessor: Predecessor::Gone };
        assert_eq!(play(&[won()]), (Role::Activating { epoch: EPOCH }, vec![activate]));
        assert_eq!(play(&[won(), Input::Recovered]), (Role::Active { epoch: EPOCH }, vec![]));
    }

    #[test]
    fn losing_the_lease_leads_back_from_every_role() {
        let before: [&[Input]; 3] = [
            &[won()],
            &[won(), Input::Recovered],
            &[won(), Input::Recovered, asked(StepDownReason::HandOver)],
        ];
        for inputs in before {
            let inputs = [inputs, &[Input::LeaseLost]].concat();
            assert_eq!(play(&inputs), (Role::Standby, vec![Effect::Abandon]));
        }
        assert_eq!(play(&[Input::LeaseLost]), (Role::Standby, vec![]));
        let late = [won(), Input::LeaseLost, Input::Recovered];
        assert_eq!(play(&late), (Role::Standby, vec![]));
    }

    #[test]
    fn a_hand_over_releases_after_the_drain_and_leaves_the_lease_to_others() {
        let asked = [won(), Input::Recovered, asked(StepDownReason::HandOver)];
        assert_eq!(play(&asked).1, [Effect::Drain]);
        let drained = [&asked[..], &[Input::Drained { clean: true }]].concat();
        let retry_after = RETRY_AFTER_HAND_OVER;
        let release = Effect::Release { epoch: EPOCH, clean: true, retry_after };
        assert_eq!(play(&drained), (Role::Standby, vec![release]));
    }

    #[test]
    fn a_stop_ends_the_process_from_every_role() {
        let end = Effect::End { is_failure: false };
        let stop = asked(StepDownReason::Stop);
        assert_eq!(play(std::slice::from_ref(&stop)).1, std::slice::from_ref(&end));
        let handing_over = [won(), Input::Recovered, asked(StepDownReason::HandOver), stop];
        let drained = [&handing_over[..], &[Input::Drained { clean: true }]].concat();
        assert_eq!(play(&drained).1.last(), Some(&end));
        let lost = [&handing_over[..], &[Input::LeaseLost]].concat();
        assert_eq!(play(&lost).1, [Effect::Abandon, end]);
    }

    #[test]
    fn an_activation_that_may_succeed_later_is_tried_with_growing_pauses() {
        let mut member = Member::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            member.handle(won());
            member.handle(Input::ActivationFailed { may_pass: true });
            pauses.extend(std::iter::from_fn(|| member.poll_effect()).filter_map(|effect| {
                if let Effect::Release { retry_after, .. } = effect {
                    Some(retry_after)
                } else {
                    None
                }
            }));
        }
        assert_eq!(pauses[..3], [RETRY_MIN, RETRY_MIN * 2, RETRY_MIN * 4]);
        assert_eq!(pauses[8], RETRY_MAX);
        let failed = play(&[won(), Input::ActivationFailed { may_pass: false }]);
        assert_eq!(failed.1.last(), Some(&Effect::End { is_failure: true }));
    }

    #[test]
    fn a_forged_heartbeat_only_makes_an_active_look() {
        let heartbeat = Input::ForeignHeartbeat;
        assert_eq!(play(std::slice::from_ref(&heartbeat)), (Role::Standby, vec![]));
        let active = play(&[won(), Input::Recovered, heartbeat]);
        assert_eq!(active, (Role::Active { epoch: EPOCH }, vec![Effect::CheckLease]));
    }

    const FREE: NewestEpoch =
        NewestEpoch { is_held: false, is_released: false, has_living_predecessor: false };
    const HELD: NewestEpoch = NewestEpoch { is_held: true, ..FREE };

    fn check(has_lock: bool, newest: Option<NewestEpoch>, still_seconds: u64, expected: Verdict) {
        for (steal_seconds, distrusts_locks) in [(5, false), (5, true)] {
            let sight = Sight {
                has_lock,
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
