//! Measures publishing: messages acknowledged in a second, beside a bare loop that inserts the same
//! rows in the same batches by the same driver library, and beside another server if one is named;
//! in turns in the same run.
//!
//! `cargo run --release --example load -- --sql postgres [--beside PATH] …`; where PostgreSQL and
//! MariaDB are, `STANBY_TEST_POSTGRES` and `STANBY_TEST_MYSQL` say (`tests/support/databases.sh`).

mod bare;
#[path = "../pair/mod.rs"]
mod drill;
mod publisher;
mod report;
mod stage;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use prost::Message as _;
use stanby::proto::pb;

use self::bare::Bare;
use self::drill::DrillError;
use self::publisher::Publisher;
use self::report::Turn;
use self::stage::{CLUSTER_ID, Place, Server};

/// Measure how fast a server stores messages, beside a bare loop on the same database
#[derive(Debug, Parser)]
struct Args {
    /// Keep the store in a database: sqlite, postgres or mysql
    #[arg(long, value_parser = ["sqlite", "postgres", "mysql"], default_value = "sqlite")]
    sql: String,
    /// Publish to a server that runs already instead of starting one; nothing is beside it then
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The cluster ID of that server
    #[arg(long, default_value = CLUSTER_ID)]
    cluster_id: String,
    /// The server to start; without it `target/<profile>/stanby` of the same build
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Another server that is measured in turns with ours, over a database of its own
    #[arg(long, value_name = "PATH")]
    beside: Option<PathBuf>,
    /// A flag of that other server; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    beside_flag: Vec<String>,
    /// Messages of each turn
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// Turns of each program
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Bytes of each message
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// Messages without an ack
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Event loops of the server
    #[arg(long)]
    loops: Option<u16>,
    /// Fail if ours reaches neither this part of the bare loop's rows a second …
    #[arg(long)]
    at_least: Option<f64>,
    /// … nor as many times what the other server stores
    #[arg(long, default_value_t = f64::INFINITY)]
    or_times: f64,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stderr(), "load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what was asked for is reached.
fn measure(args: &Args) -> Result<bool, DrillError> {
    let out = &mut io::stdout();
    let failed = DrillError::io("cannot write");
    writeln!(
        out,
        "{} B, {} in flight, {} turns of {} messages",
        args.bytes, args.in_flight, args.turns, args.messages
    )
    .map_err(&failed)?;
    if let Some(address) = &args.server {
        let turns: Result<Vec<Turn>, _> = (0..args.turns)
            .map(|turn| publish(address, args, &format!("load.{}.{turn}", std::process::id())))
            .collect();
        report::write_row(out, "server", &turns?).map_err(failed)?;
        return Ok(true);
    }
    let folder = tempfile::tempdir().map_err(DrillError::io("cannot make a folder"))?;
    let report = beside(args, folder.path())?;
    report.write(out, &args.sql).map_err(failed)?;
    Ok(args.at_least.is_none_or(|part| report.reaches(part, args.or_times)))
}

/// All programs in turns.
fn beside(args: &Args, folder: &Path) -> Result<report::Report, DrillError> {
    let binary = args.bin.clone().map_or_else(drill::own_server, Ok)?;
    let name = |whose: &str| format!("load_{whose}_{}", std::process::id());
    let make = |whose| Place::make(&args.sql, &name(whose), &binary, folder);
    let mut flags = make("stanby")?.flags;
    if let Some(loops) = args.loops {
        flags.extend(["--loops".to_owned(), loops.to_string()]);
    }
    let ours = Server::start(&binary, &flags, &folder.join("stanby.log"))?;
    let bare_failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        DrillError(format!("the bare loop failed: {error}"))
    };
    let mut bare = Bare::connect(&make("bare")?.source).map_err(bare_failed)?;
    let other = match &args.beside {
        None => None,
        Some(path) => {
            let flags = [make("beside")?.flags, args.beside_flag.clone()].concat();
            Some(Server::start(path, &flags, &folder.join("beside.log"))?)
        }
    };
    let mut report = report::Report::default();
    for number in 0..args.turns {
        let channel = format!("load.{number}");
        let turn = publish_to(&ours, args, &channel)?;
        let row = i32::try_from(number + 1).unwrap_or(i32::MAX);
        let rows = bare.run(row, &turn.batches, &row_of(&channel, args.bytes));
        let rows = rows.map_err(bare_failed)?;
        report.bare.push(Turn {
            messages: turn.messages,
            time: rows.time,
            in_commit: rows.in_commit,
            ..Turn::default()
        });
        report.ours.push(turn);
        if let Some(other) = &other {
            report.other.push(publish_to(other, args, &channel)?);
        }
    }
    Ok(report)
}

/// What a row of a message holds.
fn row_of(channel: &str, len: usize) -> Bytes {
    let message = pb::MsgProto {
        sequence: 100_000,
        subject: channel.to_owned().into(),
        data: vec![b'x'; len].into(),
        timestamp: i64::MAX / 4,
        ..pb::MsgProto::default()
    };
    message.encode_to_vec().into()
}

fn publish_to(server: &Server, args: &Args, channel: &str) -> Result<Turn, DrillError> {
    let before = server.processor_time();
    let turn = publish(&server.address, args, channel)?;
    let used = server.processor_time().zip(before).map(|(after, before)| after - before);
    Ok(Turn { processor: used.unwrap_or(Duration::ZERO), ..turn })
}

fn publish(address: &str, args: &Args, channel: &str) -> Result<Turn, DrillError> {
    let failed = DrillError::io("publishing failed");
    let mut publisher = Publisher::connect(address, &args.cluster_id).map_err(&failed)?;
    let count = usize::try_from(args.messages).unwrap_or(usize::MAX);
    let window = usize::from(args.in_flight);
    let run = publisher.run(channel, count, args.bytes, window).map_err(&failed)?;
    publisher.close().map_err(&failed)?;
    Ok(Turn { messages: count, time: run.time, batches: run.batches, ..Turn::default() })
}
