//! Seeds → group + workload + checker: what clients were told, held against the promises.
//!
//! `STANBY_SEED=7 cargo test --test simulation` runs one seed again; `STANBY_SEEDS=5000` runs more.

use std::env;

use stanby::testing::campaign::{self, Summary};
use stanby::testing::group::Plan;

const SEEDS: u64 = 200;

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_seed_breaks_a_promise() {
    let seeds: Vec<u64> = match number_of("STANBY_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number_of("STANBY_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let mut summary = Summary::default();
    let mut broken = Vec::new();
    for seed in seeds {
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
    let are_many = number_of("STANBY_SEED").or(number_of("STANBY_SEEDS")).is_none();
    let is_enough = !are_many || summary.takeover_count() > 0;
    assert!(is_enough, "a group in which nobody takes over proves little");
}
