//! Many seeds, what they came to, and a run that breaks a promise made small.

use std::cell::RefCell;
use std::sync::Arc;

use crate::base::planted;
use crate::testing::group::Simulation;
use crate::testing::plan::{Outcome, Plan};
use crate::testing::trace::Trace;

/// Most runs that making one smaller may take.
const SHRINKING_RUNS_MAX: usize = 200;

thread_local! {
    /// What runs on this thread.
    static RUNNING: RefCell<Option<(Plan, Trace)>> = const { RefCell::new(None) };
}

/// What a person is told of the run that is under way on this thread and panics.
#[must_use]
pub fn last_words() -> Vec<String> {
    RUNNING.with_borrow(|running| {
        let Some((plan, trace)) = running else { return Vec::new() };
        let mut lines = trace.lines();
        lines.push(format!("seed {} panics; with --trace it shows how", plan.seed));
        lines
    })
}

/// Runs a plan to its end; a panic of the product is a broken promise too.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let simulation = Simulation::new(plan.clone());
    let running = (plan.clone(), simulation.trace());
    let carry = planted::carried();
    let prepare = move || {
        RUNNING.set(Some(running.clone()));
        carry();
    };
    let prepare: Arc<dyn Fn() + Send + Sync> = Arc::new(prepare);
    simulation.run(&prepare)
}

/// Makes a run that breaks a promise smaller: fewer faults, no more steps than it needs. Gives the
/// smallest plan that was found, and its outcome with a trace.
#[must_use]
pub fn shrink(plan: &Plan, first: Outcome) -> (Plan, Outcome) {
    let (mut best, mut outcome) = (plan.clone(), first);
    let mut left = SHRINKING_RUNS_MAX;
    let mut chunk_len = outcome.faults.len().max(1);
    while 0 < chunk_len && 0 < left {
        let mut has_shrunk = false;
        let numbers: Vec<u32> = outcome.faults.iter().map(|(number, _)| *number).collect();
        for chunk in numbers.chunks(chunk_len) {
            if left == 0 {
                break;
            }
            left -= 1;
            let mut smaller = best.clone();
            smaller.faults.left_out.extend(chunk);
            let found = run(&smaller);
            if found.violation.is_some() && found.faults.len() < outcome.faults.len() {
                (best, outcome, has_shrunk) = (smaller, found, true);
                break;
            }
        }
        if !has_shrunk {
            chunk_len /= 2;
        }
    }
    let mut low = 0;
    let mut high = best.steps;
    while low + 50 < high && 0 < left {
        left -= 1;
        let smaller = Plan { steps: (low + high) / 2, ..best.clone() };
        let found = run(&smaller);
        if found.violation.is_some() {
            high = smaller.steps;
            (best, outcome) = (smaller, found);
        } else {
            low = smaller.steps;
        }
    }
    best.is_traced = true;
    let traced = run(&best);
    if traced.violation.is_some() { (best, traced) } else { (best, outcome) }
}

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Summary {
    outcomes: Vec<(u64, Outcome)>,
}

impl Summary {
    /// Notes what a seed came to.
    pub fn add(&mut self, seed: u64, outcome: Outcome) {
        self.outcomes.push((seed, Outcome { trace: Vec::new(), ..outcome }));
    }

    /// Publishes that were acknowledged in all runs.
    #[must_use]
    pub fn acked_count(&self) -> usize {
        self.outcomes.iter().map(|(_, outcome)| outcome.acked_count).sum()
    }

    /// How often a member became active in all runs, the first time of each left out.
    #[must_use]
    pub fn takeover_count(&self) -> u32 {
        self.outcomes.iter().map(|(_, outcome)| outcome.takeovers.saturating_sub(1)).sum()
    }

    /// How many runs there were, and the figures of the median and of the shortest one.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut sorted: Vec<&(u64, Outcome)> = self.outcomes.iter().collect();
        sorted.sort_by_key(|(_, outcome)| outcome.steps);
        let figures = |(seed, outcome): &(u64, Outcome)| {
            format!(
                "{} steps, {} acks, {} take-overs, {} faults (seed {seed})",
                outcome.steps,
                outcome.acked_count,
                outcome.takeovers,
                outcome.faults.len()
            )
        };
        let mut lines = vec![format!("{} runs", sorted.len())];
        if let (Some(shortest), Some(median)) = (sorted.first(), sorted.get(sorted.len() / 2)) {
            lines.push(format!("median: {}", figures(median)));
            lines.push(format!("shortest: {}", figures(shortest)));
        }
        lines
    }
}

/// What a person is told of a run that broke a promise.
#[must_use]
pub fn report(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let mut lines = outcome.trace.clone();
    let violation = outcome.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    lines.push(format!("seed {}: {violation}", plan.seed));
    lines.push(format!(
        "{} steps, {} faults: {:?}",
        outcome.steps,
        outcome.faults.len(),
        outcome.faults
    ));
    lines
}
