//! Planted bugs: that the simulation finds them, and that no program that is shipped has them.
//!
//! `cargo test --release --features planted --test planted -- --nocapture` makes the table:
//! each bug with the first seed that finds it. `STANBY_PROOF=full` tries 5,000 seeds for each,
//! otherwise 300; `STANBY_PLANTED=name,name` tries these bugs alone, `STANBY_PLANTED_SEEDS=7,8`
//! these seeds.

#[cfg(feature = "planted")]
mod planted {
    use std::env;

    use stanby::base::planted::{ALL, Bug, plant};
    use stanby::testing::campaign;
    use stanby::testing::checker::{Promise, Violation};
    use stanby::testing::plan::Plan;

    /// Those that have to be found; why the others are not `docs/simulation.md` says.
    const FOUND: [&str; 40] = [
        "ack-before-commit",
        "time-goes-back",
        "pending-forgotten-durable",
        "pending-forgotten-plain",
        "late-rename",
        "late-create-clears",
        "overlap-adopted",
        "whole-tail-cut",
        "refused-stays",
        "position-too-far",
        "index-before-data",
        "interest-lost",
        "mailbox-order",
        "sequence-passed-over",
        "lease-ignored",
        "delivered-early",
        "recovery-unfenced",
        "no-sync",
        "names-not-synced",
        "failed-sync-forgiven",
        "tail-not-rewritten",
        "refused-is-acked",
        "no-redelivery",
        "redelivery-unmarked",
        "leaver-keeps-pending",
        "one-too-many-in-flight",
        "durable-starts-anew",
        "slice-continued",
        "subscriptions-continued",
        "kept-twice",
        "kept-dropped",
        "kept-turned",
        "mark-early",
        "keepers-unawaited",
        "request-twice",
        "count-not-durable",
        "change-early",
        "purge-in-memory",
        "reset-keeps-pending",
        "no-epoch-check",
    ];

    fn violation(bug: Option<Bug>, seed: u64) -> Option<Violation> {
        plant(bug);
        let outcome = campaign::run(&Plan::of(seed));
        plant(None);
        outcome.violation
    }

    /// The first seed whose clients are told what breaks a promise, and without the bug are not. A
    /// panic of the product does not count: who watches from outside sees nothing of its reason.
    fn first_seed(bug: Bug, seeds: &[u64]) -> Option<(u64, Violation)> {
        seeds.iter().find_map(|&seed| {
            let found = violation(Some(bug), seed)?;
            let is_found = found.promise != Promise::Lives && violation(None, seed).is_none();
            is_found.then_some((seed, found))
        })
    }

    #[test]
    fn each_planted_bug_is_found() {
        assert!(!cfg!(debug_assertions), "it is the checker that is to find them");
        let is_full = env::var("STANBY_PROOF").is_ok_and(|value| value == "full");
        let seeds_max = if is_full { 5_000 } else { 300 };
        let given = env::var("STANBY_PLANTED_SEEDS").ok();
        let given: Option<Vec<u64>> =
            given.map(|text| text.split(',').filter_map(|seed| seed.parse().ok()).collect());
        let seeds = given.unwrap_or_else(|| (1..=seeds_max).collect());
        let only = env::var("STANBY_PLANTED").ok();
        let is_chosen =
            |name| only.as_deref().is_none_or(|only| only.split(',').any(|n| n == name));
        let (mut missed, mut early_count, mut count) = (Vec::new(), 0, 0);
        println!("| bug | first seed | what the checker says |\n|---|---|---|");
        // What needs real databases is in tests/replicated_databases.rs.
        let of_simulation = ALL.iter().filter(|(_, bug)| *bug != Bug::FenceOnlyRead);
        for (name, bug) in of_simulation.filter(|(name, _)| is_chosen(*name)) {
            count += 1;
            match first_seed(*bug, &seeds) {
                Some((seed, text)) => {
                    early_count += usize::from(seed <= 500);
                    println!("| {name} | {seed} | {text} |");
                }
                None => {
                    missed.push(*name);
                    println!("| {name} | – | not in {} seeds |", seeds.len());
                }
            }
        }
        let found_count = count - missed.len();
        println!("{found_count} of {count} found, {early_count} within 500 seeds");
        if is_full && only.is_none() {
            missed.retain(|name| FOUND.contains(name));
            assert_eq!(missed, [""; 0], "each of them is found");
            assert!(count <= 2 * early_count, "half of them within 500 seeds");
        }
    }
}

/// Goal: the names of the bugs are in no program that is built without the feature.
#[cfg(not(feature = "planted"))]
#[test]
fn the_program_knows_no_planted_bug() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_stanby")).expect("it was built");
    let source = include_str!("../src/base/planted.rs");
    let quoted = |line: &'static str| line.split_once(" = \"")?.1.strip_suffix("\",");
    let names: Vec<&str> = source.lines().filter_map(quoted).collect();
    assert!(20 <= names.len(), "{names:?}");
    for name in names {
        let is_there = memchr::memmem::find(&program, name.as_bytes()).is_some();
        assert!(!is_there, "{name} is in the program");
    }
    let manifest = include_str!("../Cargo.toml");
    assert!(manifest.contains("\nplanted = []\n") && !manifest.contains("\ndefault = "));
}
