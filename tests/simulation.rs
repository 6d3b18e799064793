//! Seeds → group + workload + checker: what clients were told, held against P1 to P6.
//!
//! `STANBY_SEED=7 cargo test --test simulation` runs one seed again; `STANBY_SEEDS=5000` runs more.

use std::env;

use stanby::testing::group::{Group, Plan};

const SEEDS: u64 = 200;

fn plan_of(seed: u64) -> Plan {
    Plan {
        loops: [1, 2, 4][usize::try_from(seed % 3).expect("below 3")],
        members: if seed.is_multiple_of(5) { 3 } else { 2 },
        clients: 3,
        steps: 4_000,
        faults_per_10k: if seed.is_multiple_of(4) { 0 } else { 40 },
    }
}

fn number_of(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_seed_breaks_a_promise() {
    let seeds = match number_of("STANBY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number_of("STANBY_SEEDS").unwrap_or(SEEDS),
    };
    let (mut acked_count, mut takeovers) = (0, 0);
    for seed in seeds {
        eprintln!("seed {seed}");
        let outcome = Group::new(plan_of(seed), seed).run();
        acked_count += outcome.acked_count;
        takeovers += outcome.takeovers;
    }
    eprintln!("{acked_count} publishes acknowledged, {takeovers} take-overs");
    assert!(acked_count > 0, "a simulation in which nothing happens proves nothing");
    // One seed alone may have no faults.
    let are_many = number_of("STANBY_SEED").or(number_of("STANBY_SEEDS")).is_none();
    assert!(!are_many || takeovers > 0, "a group in which nobody takes over proves little");
}
