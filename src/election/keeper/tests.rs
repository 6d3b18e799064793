//! A keeper, turn by turn, over a lease that answers as a test wants.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::base::pulse::Pulse;
use crate::base::time::{Now, WallTime};

const BOUND: Duration = Duration::from_secs(4);
const EPOCH: Epoch = Epoch(7);

/// What a lease will answer, and what was asked of it.
#[derive(Default)]
struct Script {
    tries: VecDeque<Result<Attempt, LeaseError>>,
    confirmations: VecDeque<LeaseError>,
    waits: VecDeque<LeaseError>,
    releases: Vec<bool>,
    is_superseded: bool,
}

/// Where its answers run out, it holds and has nothing to tell.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn wins(&self) {
        let fence = Arc::new(self.clone());
        let predecessor = Predecessor::Gone;
        let grant = Grant { fence, predecessor, checked_at: world::instant() };
        self.0.lock().unwrap().tries.push_back(Ok(Attempt::Won(grant)));
    }

    fn is_held(&self, why: &str) {
        let held = Attempt::Held { holder: None, why: why.to_owned() };
        self.0.lock().unwrap().tries.push_back(Ok(held));
    }

    fn confirms_not(&self, error: LeaseError) {
        self.0.lock().unwrap().confirmations.push_back(error);
    }

    fn releases(&self) -> Vec<bool> {
        self.0.lock().unwrap().releases.clone()
    }
}

impl Lease for Scripted {
    fn try_take(&mut self) -> Result<Attempt, LeaseError> {
        self.0.lock().unwrap().tries.pop_front().expect("the test says how a try ends")
    }

    fn wait(&mut self, _wake: &Wake) -> Result<Duration, LeaseError> {
        let error = self.0.lock().unwrap().waits.pop_front();
        error.map_or(Ok(Duration::from_secs(1)), Err)
    }

    fn settle(&mut self) -> Result<(), LeaseError> {
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), LeaseError> {
        let error = self.0.lock().unwrap().confirmations.pop_front();
        error.map_or(Ok(()), Err)
    }

    fn mark_stuck(&mut self, _since: Option<Instant>) -> Result<(), LeaseError> {
        Ok(())
    }

    fn release(&mut self, clean: bool) -> Result<(), LeaseError> {
        self.0.lock().unwrap().releases.push(clean);
        Ok(())
    }
}

impl Fence for Scripted {
    fn epoch(&self) -> Epoch {
        EPOCH
    }

    fn check(&self) -> Result<(), FenceError> {
        if self.0.lock().unwrap().is_superseded {
            let owner = "another".to_owned();
            return Err(FenceError::Superseded { ours: EPOCH, found: EPOCH.next(), owner });
        }
        Ok(())
    }
}

/// A keeper's task, its lease, and what it has told.
struct Desk {
    task: Task,
    lease: Scripted,
    told: Arc<Mutex<Vec<String>>>,
}

fn at(millis: u64) -> Instant {
    Instant(millis * 1_000_000)
}

/// The clocks of this thread stand at so many milliseconds.
fn stand_at(millis: u64) {
    world::simulate(Some(Now { at: at(millis), wall: WallTime(0) }));
}

fn line(event: KeeperEvent) -> String {
    match event {
        KeeperEvent::Waiting { why, .. } => format!("waiting: {why}"),
        KeeperEvent::Won { fence, .. } => format!("won {}", fence.epoch()),
        KeeperEvent::Lost { why } => format!("lost: {why}"),
        KeeperEvent::RefusedStandAlone { why, .. } => format!("refused: {why}"),
        KeeperEvent::Impossible { why } => format!("impossible: {why}"),
        KeeperEvent::Trouble { text, .. } => format!("trouble: {text}"),
    }
}

impl Desk {
    /// One that begins at 0.
    fn new(mode: Mode, vitals: Vitals) -> Self {
        stand_at(0);
        let lease = Scripted::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = Arc::clone(&told);
        let is_replaced_when_hung = mode == Mode::Group;
        let (_, inbox) = crossbeam_channel::unbounded();
        let task = Task {
            lease: Box::new(lease.clone()),
            is_check_wanted: Arc::default(),
            refuse_at: (mode == Mode::StandAlone).then_some(at(2_000)),
            terms: Terms { bound: BOUND, mode, is_replaced_when_hung, vitals },
            clock: LeaseClock::default(),
            report: Box::new(move |event| teller.lock().unwrap().push(line(event))),
            inbox,
            wake: Arc::new(|| ()),
            state: State::Standby { next_try_at: at(0), not_before: at(0) },
            stuck_since: None,
            told: None,
        };
        Self { task, lease, told }
    }

    /// One that has won the lease at 0.
    fn holding(mode: Mode, vitals: Vitals) -> Self {
        let mut desk = Self::new(mode, vitals);
        desk.lease.wins();
        desk.turn_at(0, &["won 7"]);
        desk
    }

    /// A turn at that time tells this; whether it was not the last one.
    fn turn_at(&mut self, millis: u64, expected: &[&str]) -> bool {
        stand_at(millis);
        let goes_on = self.task.turn().is_some();
        assert_eq!(std::mem::take(&mut *self.told.lock().unwrap()), expected, "at {millis} ms");
        goes_on
    }

    /// When the next turn is due.
    fn due_at(&self) -> Instant {
        match self.task.state {
            State::Standby { next_try_at, .. } => next_try_at,
            State::Holding { next_confirm_at, .. } => next_confirm_at,
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        world::simulate(None);
    }
}

fn not_now(text: &str) -> LeaseError {
    LeaseError::NotNow(text.to_owned())
}

/// Goal: what a stop leaves behind is not believed to be synced; nobody has closed the store.
#[test]
fn a_keeper_that_is_stopped_leaves_no_clean_mark() {
    let mut desk = Desk::holding(Mode::Group, Vitals::default());
    desk.task.stop();
    assert_eq!(desk.lease.releases(), [false]);
    assert!(!desk.task.clock.is_valid(at(0)), "and nothing is answered any more");
}

/// Goal: the answer to a confirmation that says nothing is asked for again soon, and the role is
/// given up when the lease has ended by then, not before.
#[test]
fn a_confirmation_that_fails_is_repeated_as_long_as_the_lease_lasts() {
    let mut desk = Desk::holding(Mode::Group, Vitals::default());
    assert_eq!(desk.due_at(), at(1_000), "a quarter of the bound");
    (0..3).for_each(|_| desk.lease.confirms_not(not_now("no answer")));
    assert!(desk.turn_at(1_000, &["trouble: no answer"]));
    assert_eq!(desk.due_at(), at(1_020));
    assert!(desk.turn_at(3_999, &[]), "what was told is not repeated");
    assert!(desk.task.clock.is_valid(at(3_999)));
    assert!(desk.turn_at(4_000, &["lost: no answer"]));
    assert_eq!(desk.lease.releases(), [false]);
    assert_eq!(desk.due_at(), at(4_000), "it tries to get the lease again at once");
}

/// Goal: a lease that was confirmed counts from before the question, and troubles are over then.
#[test]
fn a_confirmation_that_succeeds_lasts_one_bound_more() {
    let mut desk = Desk::holding(Mode::Group, Vitals::default());
    desk.lease.confirms_not(not_now("no answer"));
    desk.turn_at(1_000, &["trouble: no answer"]);
    desk.turn_at(1_020, &[]);
    assert!(desk.task.clock.is_valid(at(5_019)) && !desk.task.clock.is_valid(at(5_020)));
    assert_eq!(desk.due_at(), at(2_020));
    desk.lease.confirms_not(not_now("no answer"));
    desk.turn_at(2_020, &["trouble: no answer"]);
}

/// Goal: who stands alone waits for a predecessor that may be dying, then refuses; who has had the
/// lease once waits as long as it takes.
#[test]
fn only_who_never_had_the_lease_refuses_to_start() {
    let mut desk = Desk::new(Mode::StandAlone, Vitals::default());
    (0..3).for_each(|_| desk.lease.is_held("held by another"));
    assert!(desk.turn_at(0, &["waiting: held by another"]));
    assert!(desk.turn_at(1_999, &[]));
    assert_eq!(desk.due_at(), at(2_000), "no later than it has to know");
    assert!(!desk.turn_at(2_000, &["refused: held by another"]));

    let mut desk = Desk::holding(Mode::StandAlone, Vitals::default());
    desk.lease.confirms_not(LeaseError::Lost("taken away".to_owned()));
    desk.turn_at(1_000, &["lost: taken away"]);
    desk.lease.is_held("held by another");
    assert!(desk.turn_at(9_000, &["waiting: held by another"]));
}

/// Goal: a heartbeat of another server makes the keeper look soon, each time.
#[test]
fn each_check_that_is_asked_for_is_made() {
    let mut desk = Desk::holding(Mode::Group, Vitals::default());
    desk.task.is_check_wanted.store(true, Ordering::Release);
    desk.task.on_check_wanted();
    assert_eq!(desk.due_at(), at(100));
    assert!(!desk.task.is_check_wanted.load(Ordering::Acquire), "the next one may be asked for");
}

/// Goal: a lock that cannot be waited for is told of, whether the lease is held or not.
#[test]
fn what_keeps_a_keeper_from_waiting_is_told() {
    let mut desk = Desk::new(Mode::Group, Vitals::default());
    desk.lease.0.lock().unwrap().waits.push_back(not_now("no lock file"));
    desk.lease.is_held("held by another");
    desk.turn_at(0, &["waiting: held by another", "trouble: no lock file"]);
    assert_eq!(desk.due_at(), at(500));
    desk.lease.0.lock().unwrap().waits.push_back(not_now("no lock file"));
    desk.lease.wins();
    desk.turn_at(500, &["won 7", "trouble: no lock file"]);
}

/// Goal: whoever has a loop that hangs gives no sign of life, and goes when another has come.
#[test]
fn a_loop_that_hangs_ends_the_renewal_and_not_the_role() {
    let pulse = Arc::<Pulse>::default();
    let vitals = || Vitals::new(vec![Arc::clone(&pulse)], Duration::from_secs(12));
    let mut desk = Desk::holding(Mode::Group, vitals());
    pulse.beat(at(1_000));
    let text = "trouble: the lease is not renewed any more: event loop 0 hangs";
    assert!(desk.turn_at(13_000, &[text]));
    assert!(!desk.task.clock.is_valid(at(13_000)), "not renewed");
    assert_eq!(desk.due_at(), at(14_000));
    desk.lease.0.lock().unwrap().is_superseded = true;
    desk.turn_at(14_000, &["lost: epoch 7 was replaced: epoch 8 belongs to another"]);

    let mut desk = Desk::holding(Mode::StandAlone, vitals());
    desk.turn_at(13_000, &[]);
    assert!(desk.task.clock.is_valid(at(13_000)), "nobody waits for the role");
}

/// Goal: as long as a thread of its own former term runs, a standby does not try.
#[test]
fn nobody_takes_the_lease_beside_a_thread_of_its_former_term() {
    let vitals = Vitals::new(vec![Arc::default()], Duration::from_secs(12));
    let mut desk = Desk::new(Mode::Group, vitals.clone());
    vitals.store(0).rest();
    assert!(desk.turn_at(0, &[]));
    assert_eq!(desk.due_at(), at(50));
    vitals.store(0).end();
    desk.lease.wins();
    desk.turn_at(50, &["won 7"]);
}

/// Goal: who hands over leaves the lease to others for a while, whatever wakes it meanwhile.
#[test]
fn a_released_lease_is_left_to_others_for_the_time_that_was_asked_for() {
    let mut desk = Desk::holding(Mode::Group, Vitals::default());
    desk.task.release(EPOCH.next(), true, Duration::from_secs(2));
    assert!(desk.lease.releases().is_empty(), "of an epoch that is not held");
    desk.task.release(EPOCH, true, Duration::from_secs(2));
    assert_eq!(desk.lease.releases(), [true]);
    assert!(!desk.task.clock.is_valid(at(0)));
    assert!(desk.turn_at(1_999, &[]), "it does not try");
    desk.lease.wins();
    desk.turn_at(2_000, &["won 7"]);
}
