//! when a batch is handed out: at once, or after those who were just answered had time to publish
//!
//! Publishers that have a number of messages in flight divide themselves in two: while one half is
//! written, the other half arrives, and each sync is for half of them. Where the sync is the longer
//! part it is quicker to let the answered half publish again first, and to write all with one sync;
//! where the processor is the bottleneck, or publishers take their time, it is slower. Which of the
//! two holds is measured.

use std::time::Duration;

use crate::base::time::Instant;

/// Commits that are quicker are not waited for: a wake-up takes as long.
const COMMIT_MIN: Duration = Duration::from_micros(100);

/// A batch waits for half of what a commit takes, and no longer than this.
const WAIT_DIVISOR: u32 = 2;
const WAIT_MAX: Duration = Duration::from_millis(5);

/// Commits after which a way is known, behind those that still have to do with the other one.
const MEASURED_COMMITS: u32 = 16;
const SETTLING_COMMITS: u32 = 4;

/// So often in a row waiting has to be the quicker way: disks have moods, and a single measurement
/// says little.
const ROUNDS: u32 = 3;

/// So many times the rate without waiting it has to reach: it is paid with the latency of who
/// comes alone.
const WORTH_IT: f64 = 1.05;

/// How long what a trial has shown is believed; at least so many times what the trial took.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);
const TRIAL_PAUSE_FACTOR: u32 = 10;

/// After so many waits in vain, one after the other, nobody waits until the next trial.
const VAIN_MAX: u32 = 4;

/// A measurement weighs one part in so many, what was known before the rest.
const BLEND: u32 = 8;

/// Whether a batch waits for those who were just answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Eager,
    Patient,
}

/// Both ways in turn, until waiting was quicker in each round, or once was not.
#[derive(Clone, Copy, Debug)]
struct Trial {
    begun_at: Instant,
    rounds_won: u32,
    /// What was done without waiting in this round.
    eager: Option<Tally>,
}

/// What was answered in which time, one way.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    commits: u32,
    publishes: u64,
    time: Duration,
}

impl Tally {
    fn rate(self) -> f64 {
        self.publishes as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Those who may publish again.
#[derive(Clone, Copy, Debug)]
struct Wait {
    answered: usize,
    /// How many publishes are staged when all of them have.
    wanted: usize,
    until: Instant,
}

/// Decides for each batch, and learns from each.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    way: Way,
    trial: Option<Trial>,
    tally: Tally,
    /// When the next trial begins: some time after the first commit, when everything has warmed up.
    trial_at: Option<Instant>,
    /// How long a commit takes.
    took: Duration,
    handed_out_at: Instant,
    /// When the commit before was through, if somebody was answered.
    answered_at: Option<Instant>,
    wait: Option<Wait>,
    vain_count: u32,
}

impl Gathering {
    /// Waits from the beginning if it is patient, and else once that is known to be quicker.
    pub(super) fn new(is_patient: bool) -> Self {
        let way = if is_patient { Way::Patient } else { Way::Eager };
        Self { way, ..Self::default() }
    }

    /// Until when a batch of so many publishes waits; `None` if it is handed out now.
    pub(super) fn waits_until(&self, staged: usize) -> Option<Instant> {
        self.wait.filter(|wait| staged < wait.wanted).map(|wait| wait.until)
    }

    /// A batch of so many publishes was handed out.
    pub(super) fn on_handed_out(&mut self, staged: usize, now: Instant) {
        self.handed_out_at = now;
        // What comes after a pause says nothing of either way.
        let longest = 2 * self.took;
        self.answered_at.take_if(|answered_at| longest < now.since(*answered_at));
        let Some(wait) = self.wait.take() else { return };
        let missing = wait.wanted.saturating_sub(staged);
        self.vain_count = if missing <= wait.answered / 4 { 0 } else { self.vain_count + 1 };
    }

    /// It is through: so many publishes were answered, and so many are staged already.
    pub(super) fn on_committed(&mut self, answered: usize, staged: usize, now: Instant) {
        let before = self.answered_at.take();
        if answered == 0 {
            return;
        }
        let took = now.since(self.handed_out_at);
        self.took = match self.took {
            Duration::ZERO => took,
            known => known - known / BLEND + took / BLEND,
        };
        let wanted = answered + staged;
        self.answered_at = Some(now);
        // One publisher alone has nobody to wait for.
        if wanted < 2 || self.took < COMMIT_MIN {
            return;
        }
        if let Some(before) = before {
            self.tally.commits += 1;
            if SETTLING_COMMITS < self.tally.commits {
                self.tally.publishes += answered as u64;
                self.tally.time += now.since(before);
            }
        }
        self.choose(now);
        if self.way == Way::Patient {
            let until = now + (self.took / WAIT_DIVISOR).min(WAIT_MAX);
            self.wait = Some(Wait { answered, wanted, until });
        }
    }

    /// Begins or goes on with a trial once enough was measured, and ends one that is lost.
    fn choose(&mut self, now: Instant) {
        let trial_at = *self.trial_at.get_or_insert(now + TRIAL_PAUSE);
        if VAIN_MAX <= self.vain_count {
            return self.settle(Way::Eager, now);
        }
        if self.tally.commits < SETTLING_COMMITS + MEASURED_COMMITS {
            return;
        }
        let tally = std::mem::take(&mut self.tally);
        if let Some(trial) = self.trial {
            self.go_on_with(trial, tally, now);
        } else if trial_at <= now {
            self.trial = Some(Trial { begun_at: now, rounds_won: 0, eager: None });
            self.way = Way::Eager;
        }
    }

    /// One way was measured.
    fn go_on_with(&mut self, mut trial: Trial, tally: Tally, now: Instant) {
        match trial.eager.take() {
            None => {
                trial.eager = Some(tally);
                self.way = Way::Patient;
            }
            Some(eager) if tally.rate() < eager.rate() * WORTH_IT => {
                return self.settle(Way::Eager, now);
            }
            Some(_) if trial.rounds_won + 1 == ROUNDS => return self.settle(Way::Patient, now),
            Some(_) => {
                trial.rounds_won += 1;
                self.way = Way::Eager;
            }
        }
        self.trial = Some(trial);
    }

    /// That is the way until the next trial.
    fn settle(&mut self, way: Way, now: Instant) {
        let took = self.trial.take().map_or(Duration::ZERO, |trial| now.since(trial.begun_at));
        self.way = way;
        self.tally = Tally::default();
        self.vain_count = 0;
        self.trial_at = Some(now + TRIAL_PAUSE.max(took.saturating_mul(TRIAL_PAUSE_FACTOR)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Publishers with `in_flight` messages under way, which send one after the other once they
    /// are answered; a processor that takes `each` for a message, and a disk that takes `sync` for
    /// a batch.
    struct Model {
        in_flight: u32,
        pause: Duration,
        apart: Duration,
        each: Duration,
        sync: Duration,
    }

    impl Model {
        /// Messages a second, and how many are in a batch, in the last one of three seconds.
        fn run(&self, gathering: &mut Gathering) -> (u32, u32) {
            let (begin, second) = (Instant(1), Duration::from_secs(1));
            let count_from = begin + 2 * second;
            let mut now = begin;
            let mut arriving: VecDeque<Instant> = (0..self.in_flight).map(|_| now).collect();
            let (mut staged, mut under_way) = (0, None::<(u32, Instant)>);
            let (mut answered, mut batches) = (0, 0);
            while now < begin + 3 * second {
                let until = gathering.waits_until(staged as usize).filter(|until| now < *until);
                if under_way.is_none() && staged > 0 && until.is_none() {
                    gathering.on_handed_out(staged as usize, now);
                    under_way = Some((std::mem::take(&mut staged), now + self.sync));
                }
                let through_at = under_way.map(|(_, at)| at);
                let until = until.filter(|_| staged > 0);
                let next = [through_at, arriving.front().copied(), until];
                now = next.into_iter().flatten().min().expect("there are publishers").max(now);
                // A turn takes a part of what is there.
                for _ in 0..64 {
                    if arriving.front().is_some_and(|at| *at <= now) {
                        arriving.pop_front();
                        staged += 1;
                        now = now + self.each;
                    }
                }
                if let Some((count, _)) = under_way.take_if(|(_, at)| *at <= now) {
                    gathering.on_committed(count as usize, staged as usize, now);
                    arriving
                        .extend((0..count).map(|number| now + self.pause + self.apart * number));
                    if count_from <= now {
                        answered += count;
                        batches += 1;
                    }
                }
            }
            (answered, answered / batches.max(1))
        }

        fn compare(&self) -> (f64, u32, u32) {
            // A trial that is never due: it never waits.
            let mut eager = Gathering { trial_at: Some(Instant(u64::MAX)), ..Gathering::default() };
            let (eager_rate, eager_batch) = self.run(&mut eager);
            let (rate, batch) = self.run(&mut Gathering::default());
            (f64::from(rate) / f64::from(eager_rate), eager_batch, batch)
        }
    }

    fn nanos(count: u64) -> Duration {
        Duration::from_nanos(count)
    }

    #[test]
    fn one_sync_is_for_all_where_it_takes_long() {
        let (pause, apart, each) = (nanos(50_000), nanos(200), nanos(400));
        let model = Model { in_flight: 512, pause, apart, each, sync: nanos(600_000) };
        let (ratio, eager, batch) = model.compare();
        assert!(480 <= batch && eager < 300 && 1.25 < ratio, "{ratio}, {eager}, {batch}");
    }

    #[test]
    fn nobody_waits_where_the_processor_is_the_bottleneck() {
        let (pause, apart, each) = (nanos(50_000), nanos(200), nanos(4_000));
        let model = Model { in_flight: 512, pause, apart, each, sync: nanos(600_000) };
        let (ratio, eager, batch) = model.compare();
        assert!(0.97 < ratio, "{ratio}, {eager}, {batch}");
    }

    #[test]
    fn nobody_waits_for_publishers_that_take_their_time() {
        let (pause, apart, each) = (nanos(5_000_000), nanos(100_000), nanos(400));
        let model = Model { in_flight: 50, pause, apart, each, sync: nanos(600_000) };
        let (ratio, eager, batch) = model.compare();
        assert!(0.97 < ratio, "{ratio}, {eager}, {batch}");
    }
}
