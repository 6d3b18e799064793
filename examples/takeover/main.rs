//! Measures take-overs: from the kill of the active to the first ack that a publisher sees, beside
//! a bare program that does the least that a take-over must do, in turns in the same run.
//!
//! `cargo run --release --example takeover -- [--rounds N] [--messages N] [--channels N] …`

mod bare;
#[path = "../failover/drill/mod.rs"]
mod drill;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use stanby::client::{Client, ClientError, Options};

use self::bare::BarePair;
use self::drill::load::{Notes, Publisher};
use self::drill::pair::{CLUSTER_ID, Pair};
use self::drill::{DrillError, Ending, Plan};

/// Acks between take-over and kill.
const ACKS_PER_ROUND: u64 = 50;

/// How long the store may take to be filled.
const FILL_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of each stored message.
const STORED_LEN: usize = 100;

/// Measure how long take-overs take, beside the least that they could take
#[derive(Debug, Parser)]
struct Args {
    /// How often the active is killed
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The server to run; without it `target/<profile>/stanby` of the same build
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Event loops of each server
    #[arg(long)]
    loops: Option<u16>,
    /// Messages stored before the first kill
    #[arg(long, default_value_t = 0)]
    messages: usize,
    /// Channels that hold them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    channels: u16,
    /// Does not measure a bare program in turns with the server
    #[arg(long)]
    no_bare: bool,
    /// Be a bare program over this folder
    #[arg(long, hide = true)]
    bare: Option<PathBuf>,
    /// Memory of the bare program
    #[arg(long, hide = true, default_value_t = 0)]
    resident_bytes: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.bare {
        Some(folder) => bare::live(folder, args.resident_bytes)
            .map_err(|error| DrillError(format!("bare program: {error}"))),
        None => measure(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stderr(), "takeover: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<(), DrillError> {
    let folder = tempfile::tempdir().map_err(DrillError::io("cannot make a folder"))?;
    let more = ["-max_channels", "0", "-max_msgs", "0", "-max_bytes", "0"];
    let plan = Plan {
        loops: args.loops,
        publish_every: Duration::from_millis(1),
        server_args: more.map(str::to_owned).to_vec(),
        ..Plan::new(args.bin.clone().map_or_else(own_server, Ok)?)
    };
    let mut pair = Pair::start(&plan, folder.path())?;
    fill(&pair, args)?;
    let notes = Notes::default();
    let publisher = Publisher::start(&plan, &pair.servers(), &notes, "publisher")?;
    let resident_bytes = resident_bytes(pair.pid(0)?)?;
    let bare_failed = DrillError::io("bare program");
    let bare_folder = folder.path().join("bare");
    let mut bare = match args.no_bare {
        true => None,
        false => Some(BarePair::start(&bare_folder, resident_bytes).map_err(&bare_failed)?),
    };
    let mut bare_times = Vec::new();
    let mut active = 0;
    for round in 1..=args.rounds {
        notes.begin_round(round);
        drill::wait_for_acks(&notes, ACKS_PER_ROUND)?;
        drill::fail_over(&mut pair, active, &notes, Ending::Kill)?;
        pair.wait_exit(active)?;
        pair.restart(active)?;
        active = 1 - active;
        pair.wait_active(active)?;
        pair.wait_standby(1 - active)?;
        if let Some(bare) = &mut bare {
            bare_times.push(bare.fail_over().map_err(&bare_failed)?);
        }
    }
    publisher.finish()?;
    let times = notes.ledger().rounds().iter().filter_map(|round| round.first_ack).collect();
    report(args, resident_bytes, times, bare_times).map_err(DrillError::io("cannot write"))
}

/// Stores what the scenario asks for.
fn fill(pair: &Pair, args: &Args) -> Result<(), DrillError> {
    if args.messages == 0 {
        return Ok(());
    }
    let client = connect(pair)?;
    let content = vec![b'x'; STORED_LEN];
    for number in 0..args.messages {
        let channel = format!("stored.{}", number % usize::from(args.channels));
        // One that is refused shows in the count below.
        client.publish_async(&channel, content.clone(), |_, _| ())?;
    }
    if !client.wait_acked(FILL_TIMEOUT) {
        return Err(DrillError(format!("the store was not filled in {FILL_TIMEOUT:?}")));
    }
    client.close()?;
    Ok(())
}

fn connect(pair: &Pair) -> Result<Client, ClientError> {
    let servers = pair.servers();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut options = Options::new(&servers, CLUSTER_ID, "takeover-fill");
    options.ack_timeout = FILL_TIMEOUT;
    Client::connect(options)
}

fn resident_bytes(pid: u32) -> Result<usize, DrillError> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(DrillError::io("cannot read the server's memory"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    Ok(kib.ok_or(DrillError::said("the kernel does not tell the server's memory"))? * 1024)
}

fn own_server() -> Result<PathBuf, DrillError> {
    let own = std::env::current_exe().map_err(DrillError::io("where am I"))?;
    let folder = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let server = folder.join("stanby");
    match server.exists() {
        true => Ok(server),
        false => Err(DrillError(format!("{} does not exist; name one by --bin", server.display()))),
    }
}

fn report(
    args: &Args,
    resident_bytes: usize,
    mut times: Vec<Duration>,
    mut bare_times: Vec<Duration>,
) -> io::Result<()> {
    let out = &mut io::stdout();
    let loops = args.loops.map_or_else(|| "default".to_owned(), |loops| loops.to_string());
    writeln!(
        out,
        "{} messages stored in {} channels, loops: {loops}, {} KiB resident",
        args.messages,
        if args.messages == 0 { 0 } else { args.channels },
        resident_bytes / 1024
    )?;
    writeln!(out, "kill to first ack  take-overs    median       p90     worst")?;
    let median = write_row(out, "stanby", &mut times)?;
    if !bare_times.is_empty() {
        let bare_median = write_row(out, "bare program", &mut bare_times)?;
        writeln!(out, "ratio of the medians: {:.2}", median / bare_median)?;
    }
    Ok(())
}

/// Writes one line; gives the median in milliseconds.
fn write_row(out: &mut dyn Write, name: &str, times: &mut [Duration]) -> io::Result<f64> {
    times.sort();
    let at = |part: usize| {
        let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
    };
    let (median, late, worst) = (at(50), at(90), at(100));
    let count = times.len();
    writeln!(out, "{name:<17} {count:>11} {median:>6.1} ms {late:>6.1} ms {worst:>6.1} ms")?;
    Ok(median)
}
