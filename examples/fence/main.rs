//! Shows that two members never both are active: hung, blinded, robbed of their lock file.
//!
//! `cargo run --release --example fence -- [--rounds N] [--bin PATH] [--external PATH]`

mod trials;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use self::trials::drill::DrillError;
use self::trials::{Doubt, Findings};

/// Bring two members into doubt about who is active, and count what goes wrong
#[derive(Debug, Parser)]
struct Args {
    /// How often, of each kind
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The server to run; without it `target/<profile>/stanby` of the same build
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Over an external NATS server: this program (`stanby`, or a `nats-server`)
    #[arg(long)]
    external: Option<PathBuf>,
    /// Event loops of each server
    #[arg(long, default_value_t = 2)]
    loops: u16,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok((passed, failed)) => {
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stdout(), "{passed} passed, {failed} failed");
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "fence: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(usize, usize), DrillError> {
    let own = std::env::current_exe().map_err(DrillError::io("where am I"))?;
    let beside = own.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("stanby");
    let mut plan = trials::plan(args.bin.clone().unwrap_or(beside));
    plan.loops = Some(args.loops);
    plan.external.clone_from(&args.external);
    let mut counts = (0, 0);
    let doubts = [
        Doubt::Paused,
        Doubt::Blinded,
        Doubt::LockRemoved,
        Doubt::LockReplaced,
        Doubt::LockUsurped,
    ];
    for doubt in doubts {
        let result = with_folder(doubt, |folder| trials::run(doubt, args.rounds, &plan, folder));
        tell(&format!("{doubt:?}, {} rounds under load", args.rounds), result, &mut counts)?;
        // Over one external server no member has clients of its own.
        let has_witness = matches!(doubt, Doubt::Paused | Doubt::Blinded);
        if has_witness && args.external.is_none() {
            for _ in 0..args.rounds {
                let result = with_folder(doubt, |folder| trials::run_witness(doubt, &plan, folder));
                tell(&format!("{doubt:?}, who speaks last"), result, &mut counts)?;
            }
        }
    }
    Ok(counts)
}

/// Runs a trial in a folder of its own, which stays if something is wrong.
fn with_folder(
    doubt: Doubt,
    trial: impl FnOnce(&Path) -> Result<Findings, DrillError>,
) -> Result<Findings, DrillError> {
    let failed = DrillError::io("cannot make a folder");
    let mut folder = tempfile::tempdir().map_err(failed)?;
    if let (Doubt::Blinded, Some(why)) = (doubt, trials::why_not_blinded(folder.path())) {
        return Err(DrillError(format!("skipped, there are no mount namespaces: {why}")));
    }
    folder.disable_cleanup(true);
    let mut result = trial(folder.path());
    let kept = format!("store and logs are kept in {}", folder.path().display());
    match &mut result {
        Ok(findings) if findings.faults.is_empty() => folder.disable_cleanup(false),
        Ok(findings) => findings.faults.push(kept),
        Err(DrillError(text)) => *text = format!("{text}; {kept}"),
    }
    result
}

fn tell(
    name: &str,
    result: Result<Findings, DrillError>,
    (passed, failed): &mut (usize, usize),
) -> Result<(), DrillError> {
    let out = &mut io::stdout();
    let written = match result {
        Ok(findings) if findings.faults.is_empty() => {
            *passed += 1;
            let Findings { stored, takeovers, .. } = findings;
            writeln!(out, "ok      {name}: {takeovers} take-overs, {stored} messages stored")
        }
        Ok(findings) => {
            *failed += 1;
            writeln!(out, "FAILED  {name}: {}", findings.faults.join("; "))
        }
        Err(error) if error.0.starts_with("skipped") => writeln!(out, "-       {name}: {error}"),
        Err(error) => {
            *failed += 1;
            writeln!(out, "FAILED  {name}: {error}")
        }
    };
    written.map_err(DrillError::io("cannot write to stdout"))
}
