//! `stanby msg`: the messages that a running server keeps.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use super::administration::{self, Common, unexpected};
use super::connection::{self, document};
use super::control::ControlError;
use super::table::listed;
use crate::base::go;
use crate::server::administration_protocol::{Administered, Administration, MessageFacts};

/// Show messages that a running server keeps
///
/// Asked of the active server of this machine over its control socket, or over NATS of that of
/// --server. They are read between the commits of its store; nothing is delivered or acknowledged
/// by it.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby msg", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show one message
    Get {
        /// Name of the channel
        channel: String,
        /// Its number
        sequence: u64,
        #[command(flatten)]
        common: Common,
    },
    /// List messages, the newest if nothing says from where on
    Ls {
        /// Name of the channel
        channel: String,
        /// Number of the first one
        #[arg(long, value_name = "SEQ")]
        from: Option<u64>,
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        count: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Find messages by a text in their payload
    Find {
        /// Name of the channel
        channel: String,
        /// What is looked for, byte by byte
        text: String,
        /// Number of the first one that is looked at
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        from: u64,
        /// Stop after so many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        count: usize,
        #[command(flatten)]
        common: Common,
    },
}

const EXAMPLES: &str = "Examples:
  stanby msg ls orders -n 5
  stanby msg get orders 4711
  stanby msg find orders '\"customer\": 17' --from 4000 --json
Exit code: 0 if it was done, 1 if not; nothing found is no error.";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby msg", args) {
        Ok(args) => administration::end("msg", carry_out(args.what)),
        Err(code) => code,
    }
}

fn carry_out(what: What) -> Result<String, ControlError> {
    match what {
        What::Get { channel, sequence, common } => {
            let found = read(&common, &channel, (sequence, 1), None)?;
            let found = found.into_iter().find(|one| one.sequence == sequence);
            let found = found.ok_or_else(|| {
                ControlError::Refused(format!("channel {channel:?} has no message {sequence}"))
            })?;
            let told = || messages(std::slice::from_ref(&found));
            Ok(if common.json { document(&found) } else { told() })
        }
        What::Ls { channel, from, count, common } => {
            let from = match from {
                Some(from) => from,
                None => last_of(&common, &channel)?.saturating_sub(count as u64).saturating_add(1),
            };
            let found = read(&common, &channel, (from, count), None)?;
            Ok(if common.json { document(&found) } else { messages(&found) })
        }
        What::Find { channel, text, from, count, common } => {
            let found = read(&common, &channel, (from, count), Some(text))?;
            Ok(if common.json { document(&found) } else { messages(&found) })
        }
    }
}

fn last_of(common: &Common, channel: &str) -> Result<u64, ControlError> {
    let told = common.ask(Administration::Channel { channel: channel.to_owned() })?;
    let Administered::Channel(found) = told else { return Err(unexpected()) };
    Ok(found.last)
}

/// Asks as often as it takes: one answer reaches only so far.
fn read(
    common: &Common,
    channel: &str,
    (from, count): (u64, usize),
    contains: Option<String>,
) -> Result<Vec<MessageFacts>, ControlError> {
    let mut all = Vec::new();
    let mut next = Some(from);
    while let Some(from) = next.filter(|_| all.len() < count) {
        let told = common.ask(Administration::Messages {
            channel: channel.to_owned(),
            from,
            count: count - all.len(),
            contains: contains.clone(),
        })?;
        let Administered::Messages { mut found, next: behind } = told else {
            return Err(unexpected());
        };
        all.append(&mut found);
        next = behind.filter(|behind| from < *behind);
    }
    Ok(all)
}

fn messages(found: &[MessageFacts]) -> String {
    let row = |one: &MessageFacts| {
        let payload = match (&one.text, &one.hex) {
            (Some(text), _) => text.clone(),
            (None, Some(hex)) => format!("0x{hex}"),
            (None, None) => String::new(),
        };
        let at = go::show_time(one.timestamp);
        [one.sequence.to_string(), at, one.size.to_string(), payload]
    };
    listed(["MESSAGE", "STORED AT", "BYTES", "PAYLOAD"], found.iter().map(row))
}
