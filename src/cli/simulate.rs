//! `stanby simulate`: whole groups, from seeds, held against the promises.

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::connection;
use crate::base::world;
use crate::testing::campaign::{self, Summary};
use crate::testing::plan::{Outcome, Plan};

/// A progress line after so many runs.
const TOLD_EVERY: u64 = 100;
/// Fresh seeds are short enough to be typed.
const SEED_DIGITS: u64 = 1_000_000_000;

/// Run simulated groups with faults, and say which seed breaks a promise
#[derive(Debug, Parser)]
#[command(name = "stanby simulate")]
struct Args {
    /// One seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seeds from A up to, but without, B
    #[arg(long, value_name = "A..B", value_parser = range, conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    /// So many seeds that nobody has run before
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["seed", "seeds"])]
    fresh: Option<u64>,
    /// Members of each group; otherwise 1 to 3, by the seed
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    members: Option<u8>,
    /// Event loops of each member; otherwise 1, 2 or 4, by the seed
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16))]
    loops: Option<u16>,
    /// Steps under faults: inputs handled, operations of disk, locks and network; otherwise 5,000,
    /// or 24,000 where nothing happens but that the active changes
    #[arg(long)]
    steps: Option<u64>,
    /// Let the disk write in any order what was not synced; otherwise one seed of four does
    #[arg(long)]
    unordered: bool,
    /// Show what happens in a run, even if all is well
    #[arg(long)]
    trace: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text:?} is no range of seeds: write it as 1..201");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (first, end) = (number(first)?, number(end)?);
    if first < end { Ok((first, end)) } else { Err(wrong()) }
}

impl Args {
    fn plan(&self, seed: u64) -> Plan {
        let usual = Plan::of(seed);
        Plan {
            members: self.members.map_or(usual.members, usize::from),
            loops: self.loops.unwrap_or(usual.loops),
            steps: self.steps.unwrap_or(usual.steps),
            lands_out_of_order: self.unordered || usual.lands_out_of_order,
            is_traced: self.trace,
            ..usual
        }
    }

    /// The first seed, and the end of the range.
    fn range(&self) -> io::Result<(u64, u64)> {
        let first = match self.fresh {
            Some(_) => world::entropy()? % SEED_DIGITS,
            None => self.seed,
        };
        let count = self.fresh.unwrap_or(1);
        Ok(self.seeds.unwrap_or((first, first.saturating_add(count))))
    }
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>("stanby simulate", args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    tell_of_panics();
    match simulate(&args, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        // If it is an error, whoever reads what we say is gone.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Where a panic ends the process nobody else can say which seed it was.
fn tell_of_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |cause| {
        for line in campaign::last_words() {
            eprintln!("{line}");
        }
        usual(cause);
    }));
}

/// Runs the seeds; true if all keep the promises.
fn simulate(args: &Args, out: &mut impl Write) -> io::Result<bool> {
    let (first, end) = args.range()?;
    writeln!(out, "seeds {first}..{end}")?;
    out.flush()?;
    let mut summary = Summary::default();
    let mut broken: Option<(Plan, Outcome)> = None;
    let mut broken_count = 0;
    for seed in first..end {
        let plan = args.plan(seed);
        let outcome = campaign::run(&plan);
        if let Some(text) = &outcome.violation {
            writeln!(out, "seed {seed}: {text}")?;
            out.flush()?;
            broken_count += 1;
            broken.get_or_insert((plan, outcome));
        } else {
            for line in &outcome.trace {
                writeln!(out, "{line}")?;
            }
            summary.add(seed, outcome);
        }
        let count = seed + 1 - first;
        if count.is_multiple_of(TOLD_EVERY) {
            eprintln!(
                "{count} of {} seeds, {} acks, {broken_count} broken",
                end - first,
                summary.acked_count()
            );
        }
    }
    for line in summary.lines() {
        writeln!(out, "{line}")?;
    }
    let Some((plan, outcome)) = broken else { return Ok(true) };
    writeln!(out, "{broken_count} seeds break a promise; the first one, made smaller:")?;
    let (plan, outcome) = campaign::shrink(&plan, outcome);
    for line in campaign::report(&plan, &outcome) {
        writeln!(out, "{line}")?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_that_is_not_empty() {
        assert_eq!(range("1..201"), Ok((1, 201)));
        for wrong in ["", "7", "3..3", "5..2", "a..b", "1..=4"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    /// Goal: a person sees which seeds were run, and what they came to.
    #[test]
    fn the_summary_has_steps_acks_takeovers_and_faults() {
        let args = Args::parse_from(["stanby simulate", "--seeds", "8..10", "--steps", "500"]);
        let mut out = Vec::new();
        assert!(simulate(&args, &mut out).expect("a buffer takes everything"));
        let text = String::from_utf8_lossy(&out);
        assert!(text.starts_with("seeds 8..10\n2 runs\nmedian: "), "{text}");
        assert!(text.contains(" steps, ") && text.contains(" acks, "), "{text}");
        assert!(text.contains(" take-overs, ") && text.contains(" faults (seed "), "{text}");
    }
}
