//! `stanby bench`: load for a server, and what it cost

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, ValueEnum};

use super::connection::{self, CommandError, LoginArgs, printable_lines};
use super::progress::Progress;
use super::table::table;
use crate::base::files;
use crate::base::random::Random;
use crate::base::world;
use crate::bench::compare::{self, Contender};
use crate::bench::plan::{Plan, Work};
use crate::bench::ratios::Table;
use crate::bench::usage::Usage;
use crate::bench::{BenchError, run};
use crate::client::Options;

/// Measure a server: publish and receive as fast as it goes, or at a given rate
///
/// It speaks to stanby, to nats-streaming-server and to nats-server. Rates are of what was
/// acknowledged (of plain subjects: taken); a latency is from when a message was due to its
/// acknowledgement, or to its delivery.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby bench", after_help = EXAMPLES)]
struct Args {
    /// What is measured
    #[arg(value_enum)]
    work: Kind,
    #[command(flatten)]
    login: LoginArgs,
    /// Cluster ID of the streaming server
    #[arg(short, long, default_value = "test-cluster")]
    cluster: String,
    #[command(flatten)]
    numbers: Numbers,
    #[command(flatten)]
    compared: Compared,
    /// Process ID of the server, if it is on this machine: its CPU time and memory are shown
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// Servers that are started here and measured in turn, in the place of one that runs.
#[derive(Debug, clap::Args)]
struct Compared {
    /// Start this server and measure it: NAME=COMMAND, with {port}, {http} and {dir} for what it
    /// gets; ratios are to the first one
    #[arg(long = "with", value_name = "NAME=COMMAND")]
    #[arg(value_parser = Contender::parse)]
    #[arg(conflicts_with_all = ["server", "pid"])]
    with: Vec<Contender>,
    /// How often each of them is measured
    #[arg(long, default_value_t = 5, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_000), requires = "with")]
    pairs: u16,
    /// Where they have their stores [default: the folder for temporary files]
    #[arg(long, value_name = "FOLDER", requires = "with")]
    folder: Option<PathBuf>,
    /// Write a line for each run
    #[arg(long, value_name = "FILE", requires = "with")]
    csv: Option<PathBuf>,
    /// Write a plot
    #[arg(long, value_name = "FILE", requires = "with")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Channels of a streaming server
    Streaming,
    /// Plain subjects
    Core,
    /// Questions and answers on plain subjects
    Request,
    /// Publishes to a stream of JetStream, which is made and removed
    Jetstream,
}

/// The numbers of a run.
#[derive(Debug, clap::Args)]
struct Numbers {
    /// Connections that publish, or ask
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    publishers: u16,
    /// Connections that get every message
    #[arg(long, default_value_t = 0, value_name = "N")]
    subscribers: u16,
    /// Connections that share the messages, or answer questions [default of `request`: 1]
    #[arg(long, value_name = "N")]
    queue_members: Option<u16>,
    /// Channels or subjects, taken in turn
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Messages of all publishers together
    #[arg(short = 'n', long, default_value_t = 100_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Bytes of a payload; a delivery's latency takes 8 at least
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    size: u32,
    /// Unacknowledged messages of one publisher at most; 1: it waits for each
    #[arg(long, default_value_t = 512, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: u32,
    /// Unacknowledged deliveries of one subscription at most
    #[arg(long, default_value_t = 1_024, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    deliveries_in_flight: i32,
    /// Messages a second of all publishers together, whatever the server does
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Subscribers begin with the first stored message; with `-p 0` they get what is there
    #[arg(long)]
    replay: bool,
    /// Channel or subject; of several it is the beginning
    #[arg(long, default_value = "bench", value_name = "NAME")]
    subject: String,
}

const EXAMPLES: &str = "\
Examples:
  stanby bench streaming                                one publisher, 512 in flight
  stanby bench streaming --in-flight 1 -p 64            64 that wait for each ack
  stanby bench streaming -p 4 --subscribers 4 -n 1000000 --pid $(pidof stanby)
  stanby bench streaming --rate 20000 --subscribers 1   what a delivery takes at that rate
  stanby bench streaming -p 0 --subscribers 8 --replay -n 1000000
  stanby bench core -p 1 --subscribers 10 --size 16
  stanby bench request --in-flight 1
  stanby bench jetstream -s nats://127.0.0.1:4333 --json
  stanby bench streaming --pairs 5 --svg rates.svg \\
      --with 'go=nats-streaming-server -p {port} -store file -dir {dir}' \\
      --with 'stanby=stanby -p {port} -store file -dir {dir}'";

impl Args {
    fn plan(&self) -> Plan {
        let numbers = &self.numbers;
        let work = match self.work {
            Kind::Streaming => Work::Streaming,
            Kind::Core => Work::Core,
            Kind::Request => Work::Request,
            Kind::Jetstream => Work::JetStream,
        };
        let members = numbers.queue_members.unwrap_or(u16::from(work == Work::Request));
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Plan {
            work,
            publishers: usize::from(numbers.publishers),
            subscribers: usize::from(numbers.subscribers),
            queue_members: usize::from(members),
            channels: count(numbers.channels),
            messages: numbers.messages,
            size: count(numbers.size),
            in_flight: count(numbers.in_flight),
            deliveries_in_flight: numbers.deliveries_in_flight,
            rate: numbers.rate,
            replays: numbers.replay,
            subject: numbers.subject.clone(),
        }
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
    match connection::parse::<Args>("stanby bench", args) {
        Ok(args) => connection::exit_code("stanby bench", measure(&args)),
        Err(code) => code,
    }
}

fn measure(args: &Args) -> Result<(), CommandError> {
    let plan = args.plan();
    plan.check().map_err(|error| CommandError::Bench(error.into()))?;
    let stop = connection::stop_flag()?;
    let login = args.login.load(&args.cluster, "stanby-bench")?;
    if !args.compared.with.is_empty() {
        return compared(args, (&plan, &login), &stop);
    }
    let Compared { csv, svg, .. } = &args.compared;
    if let Some(file) = csv.clone().or_else(|| svg.clone()) {
        let why = "it is of servers side by side: give them with --with".to_owned();
        return Err(CommandError::File { file, why });
    }
    if args.pid.is_some_and(|pid| Usage::of(Some(pid)).is_none()) {
        return Err(CommandError::Bench(BenchError::NoProcess));
    }
    let summary = run::run(&plan, &login, args.pid, &stop)?;
    let text = if args.json { connection::document(&summary.document()) } else { summary.text() };
    print(&if args.json { text } else { printable_lines(&text) })?;
    let published = summary.published.as_ref();
    match published.filter(|side| side.count == 0).and_then(|side| side.first_error.clone()) {
        Some(reason) => Err(BenchError::Refused { request: "publish", reason }.into()),
        None => Ok(()),
    }
}

fn compared(
    args: &Args,
    (plan, login): (&Plan, &Options),
    stop: &Arc<AtomicBool>,
) -> Result<(), CommandError> {
    let Compared { with, pairs, folder, csv, svg } = &args.compared;
    // What cannot be written is known before, and not after an hour.
    for path in csv.iter().chain(svg) {
        let file = path.clone();
        world::may_write(path)
            .map_err(|error| CommandError::File { file, why: error.to_string() })?;
    }
    if csv.is_some() && csv == svg {
        let file = csv.clone().unwrap_or_default();
        let why = "lines and a plot need a file each".to_owned();
        return Err(CommandError::File { file, why });
    }
    let folder = make_folder(folder.as_deref())?;
    let mut progress = Progress::new();
    let pairs = usize::from(*pairs);
    let tell = |line: &str| progress.say(line);
    let rounds = compare::run(with, pairs, (plan, login), (&folder, stop), tell);
    progress.end();
    // Somebody else may have put something there.
    let _ = fs::remove_dir_all(&folder);
    let rounds = rounds?;
    let found = Table::of(with, &rounds);
    if let Some(path) = csv {
        write(path, &found.csv(&rounds))?;
    }
    if let Some(path) = svg {
        write(path, &found.svg())?;
    }
    if args.json {
        return print(&connection::document(&found.document(&rounds)));
    }
    print(&table(&found.cells()))
}

/// A folder of our own, for stores and logs.
fn make_folder(below: Option<&Path>) -> Result<PathBuf, CommandError> {
    let failed = CommandError::io("cannot make a folder for stores");
    let name = Random::new(world::entropy().map_err(&failed)?).unique_id();
    let below = below.map_or_else(std::env::temp_dir, Path::to_owned);
    let path = below.join(format!("stanby-bench-{name}"));
    DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
    Ok(path)
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    let file = files::open_to_write(path, files::Access::Replace(0o644));
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CommandError::File { file: path.to_owned(), why: error.to_string() })
}

fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(CommandError::io("cannot write to stdout"))
}
