//! Seeds → group + workload + checker: what clients were told, held against the promises.
//!
//! A run has fresh seeds (from `STANBY_FIRST_SEED` on, or drawn), and the recorded ones. With what
//! is printed `STANBY_SEED=7 cargo test --test simulation` runs one seed again; `STANBY_SEEDS=5000`
//! runs more. `tests/run` runs many more of them by `stanby simulate`.

use std::env;

use stanby::base::world;
use stanby::testing::campaign::{self, Summary};
use stanby::testing::plan::Plan;

/// Fresh seeds of a run.
const SEEDS: u64 = 8;
/// Short enough to be typed.
const SEED_DIGITS: u64 = 1_000_000_000;

/// Seeds that have broken a promise once, or shown that the checker was wrong.
const RECORDED: [u64; 17] = [
    223,
    262,
    385,
    391,
    462,
    724,
    983,
    1_266,
    1635,
    11_151,
    78_001_314,
    152_745_782,
    198_055_372,
    415_620_631,
    415_620_645,
    529,
    849,
];

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = number_of("STANBY_SEED") {
        return vec![seed];
    }
    let drawn = || world::entropy().expect("there is entropy") % SEED_DIGITS;
    let first = number_of("STANBY_FIRST_SEED").unwrap_or_else(drawn);
    let count = number_of("STANBY_SEEDS").unwrap_or(SEEDS);
    eprintln!("seeds {first}..{} and {} recorded ones", first + count, RECORDED.len());
    (first..first + count).chain(RECORDED).collect()
}

#[test]
fn no_seed_breaks_a_promise() {
    let mut summary = Summary::default();
    let mut broken = Vec::new();
    for seed in seeds() {
        let plan = Plan::of(seed);
        let outcome = campaign::run(&plan);
        match &outcome.violation {
            Some(text) => {
                eprintln!("seed {seed}: {text}");
                broken.push((plan, outcome));
            }
            None => summary.add(seed, outcome),
        }
    }
    summary.lines().iter().for_each(|line| eprintln!("{line}"));
    let count = broken.len();
    if let Some((plan, outcome)) = broken.into_iter().next() {
        let (plan, outcome) = campaign::shrink(&plan, outcome);
        for line in campaign::report(&plan, &outcome) {
            eprintln!("{line}");
        }
        panic!("{count} seeds break a promise");
    }
    assert!(summary.acked_count() > 0, "a simulation in which nothing happens proves nothing");
    // One seed alone may have no faults.
    let is_enough = number_of("STANBY_SEED").is_some() || summary.takeover_count() > 0;
    assert!(is_enough, "a group in which nobody takes over proves little");
}
