//! Shows a fail-over: a pair of servers on a temporary directory, a publisher, a durable
//! subscriber, and `kill -9` for whoever is active, five times. Exit code 1 if anything was lost.
//!
//! `cargo run --example failover -- [--rounds N] [--loops N] [--bin PATH] …`

mod drill;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use self::drill::{DrillError, Ending, Plan, Report};

/// Kill the active of a pair again and again, and count what is lost
#[derive(Debug, Parser)]
struct Args {
    /// How often the active is killed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The server to run; without it, the one that was built beside this example
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Keep the store in a database and not in files: sqlite, postgres or mysql
    #[arg(long, value_parser = ["sqlite", "postgres", "mysql"])]
    sql: Option<String>,
    /// Over an external NATS server: this program (`stanby`, or a `nats-server`)
    #[arg(long)]
    external: Option<PathBuf>,
    /// So many pairs, each with a part of the channels, over that server: they are killed in turns,
    /// and the first ack is then that of any channel
    #[arg(long, default_value_t = 1, requires = "external")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=8))]
    partitions: u8,
    /// Event loops of each server
    #[arg(long)]
    loops: Option<u16>,
    /// Channels
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    channels: u16,
    /// Durable subscribers, each on every channel
    #[arg(long, default_value_t = 1)]
    durables: usize,
    /// Members of a durable queue group, each on every channel
    #[arg(long, default_value_t = 0)]
    queue_members: usize,
    /// Milliseconds between two messages
    #[arg(long, default_value_t = 5)]
    every: u64,
    /// End the active by SIGTERM instead of SIGKILL
    #[arg(long)]
    terminate: bool,
    /// Start no servers and end none: load these two. Each line of the input is answered with the
    /// number of acks so far; its end is that of the load
    #[arg(long, num_args = 2, value_names = ["ADDRESS", "ADDRESS"])]
    servers: Option<Vec<String>>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(report) if report.is_sound() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stderr(), "failover: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Report, DrillError> {
    let cannot_write = |error| DrillError(format!("cannot write to stdout: {error}"));
    if let Some([one, other]) = args.servers.as_deref() {
        let plan = plan(args, PathBuf::new());
        let servers = [one.clone(), other.clone()];
        let report = drill::attend(&plan, &servers, &mut io::stdin().lock(), &mut io::stdout())?;
        report.write(&mut io::stdout()).map_err(cannot_write)?;
        return Ok(report);
    }
    let binary = args.bin.clone().map_or_else(drill::own_server, Ok)?;
    let plan = plan(args, binary);
    let cannot_make = |error| DrillError(format!("cannot make a temporary folder: {error}"));
    let mut folder = tempfile::tempdir().map_err(cannot_make)?;
    // Kept until everything went well: the servers' logs are in it.
    folder.disable_cleanup(true);
    let out = &mut io::stdout();
    let result = drill::run(&plan, folder.path(), &mut |line| {
        // Progress is not worth an error.
        let _ = writeln!(io::stderr(), "{line}");
    });
    if let Ok(report) = &result {
        report.write(out).map_err(cannot_write)?;
        if report.is_sound() {
            folder.disable_cleanup(false);
            return result;
        }
    }
    writeln!(out, "store and logs are kept in {}", folder.path().display())
        .map_err(cannot_write)?;
    result
}

fn plan(args: &Args, binary: PathBuf) -> Plan {
    Plan {
        rounds: args.rounds,
        loops: args.loops,
        sql_driver: args.sql.clone(),
        external: args.external.clone(),
        partitions: usize::from(args.partitions),
        channels: usize::from(args.channels.max(u16::from(args.partitions))),
        durables: args.durables,
        queue_members: args.queue_members,
        publish_every: Duration::from_millis(args.every),
        ending: if args.terminate { Ending::Terminate } else { Ending::Kill },
        ..Plan::new(binary)
    }
}
