//! Goes through very many cases of a test: all of them, or a part that a seed draws.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "what was run is printed")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use stanby::base::random::Random;
use stanby::base::world;

/// How many of the cases are run if not all of them are: enough for each operation of the contract
/// and each error, and few enough for every build.
const SAMPLE: usize = 150;
/// How often it is said how far a run of all cases has come.
const SAID_EVERY: usize = 1_000;

/// Whether the environment asks for everything.
pub fn is_full() -> bool {
    std::env::var("STANBY_FAULTS").is_ok_and(|value| value == "full")
}

/// The cases that the environment asks for: all, one, or a part that a seed draws, which is another
/// one in each run and printed.
fn wanted<C: Debug>(test: &str, cases: Vec<C>) -> Vec<C> {
    let total = cases.len();
    if let Ok(case) = std::env::var("STANBY_FAULTS_CASE") {
        return cases.into_iter().filter(|found| format!("{found:?}") == case).collect();
    }
    if is_full() {
        println!("{test}: all {total} cases");
        return cases;
    }
    let seed = std::env::var("STANBY_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| world::entropy().unwrap() % 1_000_000);
    println!("{test}: {SAMPLE} at most of {total} cases, drawn by STANBY_FAULTS_SEED={seed}");
    // One of each stretch, so that all of the life is reached.
    let stretch = total.div_ceil(SAMPLE).max(1);
    let mut random = Random::new(seed);
    let mut drawn = usize::MAX;
    let mut is_drawn = |place: usize| {
        if place.is_multiple_of(stretch) {
            drawn = place + usize::try_from(random.below(stretch as u64)).unwrap();
        }
        place == drawn.min(total - 1)
    };
    cases
        .into_iter()
        .enumerate()
        .filter(|(place, _)| is_drawn(*place))
        .map(|(_, one)| one)
        .collect()
}

/// Goes through the cases, several at once; prints how many ended in which way, and fails with all
/// that went wrong, those of one cause once.
pub fn go_through<C: Debug + Sync>(
    (file, test): (&str, &str),
    cases: Vec<C>,
    run: impl Fn(&C) -> String + Sync,
) {
    let cases = wanted(test, cases);
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(BTreeMap::<String, u64>::new());
    let causes = Mutex::new(BTreeMap::<String, Vec<String>>::new());
    let began = world::instant();
    let work = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(place) else { break };
            match outcome_of(|| run(case)) {
                Ok(ending) => *counts.lock().unwrap().entry(ending).or_default() += 1,
                Err(text) => {
                    let cause = text.chars().take(160).collect();
                    causes.lock().unwrap().entry(cause).or_default().push(format!("{case:?}"));
                }
            }
            if (place + 1).is_multiple_of(SAID_EVERY) {
                let seconds = world::instant().since(began).as_secs();
                println!("{test}: {} of {} cases in {seconds} s", place + 1, cases.len());
            }
        }
    };
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        (0..count).for_each(|_| drop(scope.spawn(work)));
    });
    println!("{test}: {} cases: {:?}", cases.len(), counts.into_inner().unwrap());
    let causes = causes.into_inner().unwrap();
    for (cause, failed) in &causes {
        println!("{} cases: {cause}", failed.len());
        for case in failed.iter().take(5) {
            println!(
                "    STANBY_FAULTS_CASE='{case}' cargo test --test {file} {test} -- --nocapture"
            );
        }
    }
    assert!(causes.is_empty(), "{test}: {} cases failed", causes.values().flatten().count());
}

/// Runs `case`; gives what went wrong.
pub fn outcome_of<T>(case: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(case)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
    })
}
