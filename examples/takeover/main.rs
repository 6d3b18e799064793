//! Measures take-overs: from the kill of the active to the first ack that a publisher sees, beside
//! a bare program that does the least that a take-over must do, in turns in the same run, and
//! beside another server if one is named.
//!
//! `cargo run --release --example takeover -- [--rounds N] [--messages N] [--channels N]
//! [--sql DRIVER] [--beside PATH] …`; where PostgreSQL and MariaDB are, `STANBY_TEST_POSTGRES` and
//! `STANBY_TEST_MYSQL` say (`tests/support/databases.sh`).

mod bare;
#[path = "../pair/mod.rs"]
mod drill;
mod report;
mod session;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::Signal;
use stanby::client::{Client, ClientError, Options};

use self::bare::{BarePair, Ground};
use self::drill::load::{Notes, Publisher};
use self::drill::pair::{CLUSTER_ID, Pair};
use self::drill::{DrillError, Plan, database};
use self::report::Report;

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
    /// Keep the store in a database and not in files: sqlite, postgres or mysql
    #[arg(long, value_parser = ["sqlite", "postgres", "mysql"])]
    sql: Option<String>,
    /// Another server whose take-overs are measured too, over a store of its own
    #[arg(long, value_name = "PATH")]
    beside: Option<PathBuf>,
    /// How often the active of that other pair is killed
    #[arg(long, default_value_t = 5)]
    beside_rounds: usize,
    /// Event loops of each server
    #[arg(long)]
    loops: Option<u16>,
    /// Acks between a take-over and the next kill; a standby that has just started needs some time
    /// to read a store of thousands of channels, and before that it takes over more slowly
    #[arg(long, value_name = "N", default_value_t = 50)]
    acks: u64,
    /// Messages stored before the first kill
    #[arg(long, default_value_t = 0)]
    messages: usize,
    /// Channels that hold them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    channels: u16,
    /// Does not measure a bare program in turns with the server
    #[arg(long)]
    no_bare: bool,
    /// Fail if the median is more than so many times the bare program's
    #[arg(long, default_value_t = f64::INFINITY)]
    at_most: f64,
    /// Fail if the other server's median is not so many times ours
    #[arg(long, default_value_t = 0.0)]
    shorter: f64,
    /// Be a bare program over this folder
    #[arg(long, hide = true)]
    bare: Option<PathBuf>,
    /// The bare program's database
    #[arg(long, hide = true)]
    bare_source: Option<String>,
    /// Memory of the bare program
    #[arg(long, hide = true, default_value_t = 0)]
    resident_bytes: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.bare {
        Some(folder) => {
            let database = args.sql.clone().zip(args.bare_source.clone());
            let resident_bytes = args.resident_bytes;
            bare::live(&Ground { folder: folder.clone(), database, resident_bytes })
                .map(|()| true)
                .map_err(|error| DrillError(format!("bare program: {error}")))
        }
        None => measure(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stderr(), "takeover: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what was asked for is reached.
fn measure(args: &Args) -> Result<bool, DrillError> {
    let folder = tempfile::tempdir().map_err(DrillError::io("cannot make a folder"))?;
    let more = ["-max_channels", "0", "-max_msgs", "0", "-max_bytes", "0"];
    let plan = Plan {
        loops: args.loops,
        // What is published before somebody listens is gone: the first ack comes up to so much
        // later than it could.
        publish_every: Duration::from_micros(250),
        server_args: more.map(str::to_owned).to_vec(),
        ..Plan::new(args.bin.clone().map_or_else(drill::own_server, Ok)?)
    };
    let mut report = Report::default();
    measure_ours(args, &plan, folder.path(), &mut report)?;
    if let Some(path) = &args.beside {
        measure_other(args, &plan, path, &folder.path().join("beside"), &mut report)?;
    }
    report.write(&mut io::stdout(), args).map_err(DrillError::io("cannot write"))?;
    Ok(report.reaches(args.at_most, args.shorter))
}

fn measure_ours(
    args: &Args,
    plan: &Plan,
    folder: &Path,
    report: &mut Report,
) -> Result<(), DrillError> {
    let store = make_store(args, plan, folder, "stanby")?;
    let mut pair = Pair::start_over(plan, folder, &store)?;
    fill(&pair, args)?;
    report.resident_bytes = resident_bytes(pair.pid(0)?)?;
    let mut bare = match args.no_bare {
        true => None,
        false => Some(start_bare(args, plan, folder, report.resident_bytes)?),
    };
    (report.ours, report.bare) =
        kill_in_turns(plan, &mut pair, (args.rounds, args.acks), bare.as_mut())?;
    Ok(())
}

/// The other server gets a store of the same size; ours fills it, because it is faster.
fn measure_other(
    args: &Args,
    plan: &Plan,
    path: &Path,
    folder: &Path,
    report: &mut Report,
) -> Result<(), DrillError> {
    fs::create_dir_all(folder).map_err(DrillError::io("cannot make a folder"))?;
    let store = make_store(args, plan, folder, "beside")?;
    let mut filling = Pair::start_over(plan, folder, &store)?;
    fill(&filling, args)?;
    for place in [1, 0] {
        filling.signal(place, Signal::SIGTERM)?;
        filling.wait_exit(place)?;
    }
    drop(filling);
    let plan = Plan { binary: path.to_owned(), loops: None, ..plan.clone() };
    let mut pair = Pair::start_over(&plan, folder, &store)?;
    (report.other, _) = kill_in_turns(&plan, &mut pair, (args.beside_rounds, args.acks), None)?;
    Ok(())
}

/// The flags of a new store.
fn make_store(
    args: &Args,
    plan: &Plan,
    folder: &Path,
    whose: &str,
) -> Result<Vec<String>, DrillError> {
    match &args.sql {
        Some(driver) => {
            let name = format!("takeover_{whose}_{}", std::process::id());
            database::make_named(driver, &name, &plan.binary, folder)
        }
        None => {
            let path = folder.join("store").display().to_string();
            Ok(["-store", "file", "-dir", &path].map(str::to_owned).to_vec())
        }
    }
}

fn start_bare(
    args: &Args,
    plan: &Plan,
    folder: &Path,
    resident_bytes: usize,
) -> Result<BarePair, DrillError> {
    let folder = folder.join("bare");
    fs::create_dir_all(&folder).map_err(DrillError::io("cannot make a folder"))?;
    let database = match &args.sql {
        Some(driver) => {
            let flags = make_store(args, plan, &folder, "bare")?;
            flags.last().cloned().map(|source| (driver.clone(), source))
        }
        None => None,
    };
    let started = BarePair::start(Ground { folder, database, resident_bytes });
    started.map_err(DrillError::io("bare program"))
}

/// Kills whoever is active, so many times and after so many acks each; how long each take-over
/// took, and the bare program's own after each.
fn kill_in_turns(
    plan: &Plan,
    pair: &mut Pair,
    (rounds, acks): (usize, u64),
    mut bare: Option<&mut BarePair>,
) -> Result<(Vec<Duration>, Vec<Duration>), DrillError> {
    let notes = Notes::default();
    let publisher = Publisher::start(plan, &pair.servers(), &notes, "publisher")?;
    let mut bare_times = Vec::new();
    let mut active = 0;
    for _ in 0..rounds {
        drill::wait_for_acks(&notes, acks)?;
        drill::fail_over(pair, active, &notes)?;
        pair.wait_exit(active)?;
        pair.restart(active)?;
        active = 1 - active;
        pair.wait_active(active)?;
        pair.wait_standby(1 - active)?;
        if let Some(bare) = &mut bare {
            bare_times.push(bare.fail_over().map_err(DrillError::io("bare program"))?);
        }
    }
    publisher.finish()?;
    let times = notes.ledger().first_acks();
    Ok((times, bare_times))
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
