//! `stanby move`: a channel from the store of one server into that of another, both stopped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::connection;
use super::progress::Progress;
use super::stopped;
use crate::base::id::ChannelName;
use crate::base::partition::Partition;
use crate::base::subject::is_channel_name;
use crate::config::{Config, machine};
use crate::transfer::channel::Report;
use crate::transfer::relocation;

/// Move a channel from one stopped server to another
///
/// With its sequences, times and subscriptions, and with what was delivered and not acknowledged.
/// It is read back from the other store before it goes from the first. What was broken off can be
/// begun again.
#[derive(Debug, Parser)]
#[command(name = "stanby move", after_help = EXAMPLES)]
struct Args {
    /// Which channel
    channel: String,
    /// Configuration of the server that has it
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Configuration of the server that is to have it
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Both servers are started with -encrypt, and the key in `NATS_STREAMING_ENCRYPTION_KEY`
    #[arg(long)]
    encrypt: bool,
    /// Say what was moved as a JSON document
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Example, between two partitions; the channel moves to the other list too:
  stanby move orders --from /etc/stanby/a.conf --to /etc/stanby/b.conf
Exit code: 0 if it was moved, 1 if not.";

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error)]
enum ArgsError {
    #[error("{0:?} is no name of a channel")]
    Name(String),
    #[error("{file}: {why}")]
    Config { file: PathBuf, why: String },
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>("stanby move", args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    stopped::end("stanby move", relocate(&args))
}

fn relocate(args: &Args) -> Result<String, String> {
    if !is_channel_name(args.channel.as_bytes()) {
        return Err(ArgsError::Name(args.channel.clone()).to_string());
    }
    let name = ChannelName::from(args.channel.as_str());
    let from = config(&args.from, args.encrypt).map_err(|error| error.to_string())?;
    let to = config(&args.to, args.encrypt).map_err(|error| error.to_string())?;
    let mut progress = Progress::new();
    let moved = relocation::move_channel(&name, &from, &to, &mut |done, all| {
        progress.say(&format!("{done} of {all} messages"));
    });
    progress.end();
    let report = moved.map_err(|error| error.to_string())?;
    if args.json { stopped::json(&report) } else { Ok(shown(args, (&from, &to), &report)) }
}

/// As a server reads it.
fn config(file: &Path, is_encrypted: bool) -> Result<Box<Config>, ArgsError> {
    let wrong = |why: String| ArgsError::Config { file: file.to_owned(), why };
    let mut arguments = vec!["-c".to_owned(), file.display().to_string()];
    arguments.extend(is_encrypted.then(|| "-encrypt".to_owned()));
    machine::with_world(|world| stopped::server(&arguments, world)).map_err(wrong)
}

fn shown(args: &Args, (from, to): (&Config, &Config), report: &Report) -> String {
    let mut text = format!("moved {}", stopped::line_of(report));
    let lists = |config: &Config| {
        let names = config.streaming.limits.per_channel.keys().map(ChannelName::to_bytes);
        config.streaming.partitioning && Partition::new(names).has(args.channel.as_bytes())
    };
    if lists(from) {
        text.push_str(&format!("take it from `channels` in {}\n", args.from.display()));
    }
    if to.streaming.partitioning && !lists(to) {
        text.push_str(&format!("add it to `channels` in {}\n", args.to.display()));
    }
    text
}
