//! `stanby copy`: a store into a new one of any kind, both without a server.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::connection::{self, printable};
use super::progress::Progress;
use super::{stopped, stores};
use crate::base::subject::is_channel_pattern;
use crate::transfer::error::TransferError;
use crate::transfer::store_copy::{self, Report};
use crate::transfer::whole::{self, Request};

/// Copy a store, or some of its channels, into a new one of any kind
///
/// With sequences, times, clients, durables, queue groups, and what was delivered and not
/// acknowledged. Both without a server. All is read back from the new store; before that no server
/// takes it. What was broken off goes on when the same is said again. The first one stays as it is.
#[derive(Debug, Parser)]
#[command(name = NAME, after_help = after_help())]
struct Args {
    /// The store that is there
    from: OsString,
    /// The new store: empty, or not there yet
    to: OsString,
    /// Only channels of this name, which may have wildcards; can be given more than once
    #[arg(long, value_name = "PATTERN")]
    channel: Vec<String>,
    /// The messages that are there are encrypted, with the key in `NATS_STREAMING_ENCRYPTION_KEY`
    #[arg(long)]
    from_encrypted: bool,
    /// The new store is to be encrypted, with the key in `NATS_STREAMING_ENCRYPTION_KEY`
    #[arg(long)]
    to_encrypted: bool,
    /// Say what was copied as a JSON document
    #[arg(long)]
    json: bool,
}

const NAME: &str = "stanby copy";

fn after_help() -> String {
    format!(
        "{}\nTables of a database are made by `stanby sql init`.\n\nExamples:\n  \
         stanby copy /var/lib/stanby/data /mnt/new/data\n  \
         stanby copy --channel 'orders.>' old.conf 'postgres:dbname=stan host=db'\n\
         Exit code: 0 if all is there, 1 if not.",
        stores::HELP
    )
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>(NAME, args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    stopped::end(NAME, copy(&args).map_err(|why| printable(&why)))
}

fn copy(args: &Args) -> Result<String, String> {
    check_patterns(&args.channel)?;
    let config = |name: &OsString, is_encrypted| {
        stores::config(name, is_encrypted).map_err(|error| error.to_string())
    };
    let from = config(&args.from, args.from_encrypted)?;
    let to = config(&args.to, args.to_encrypted)?;
    let mut progress = Progress::new();
    let request = Request { from: &from, to: &to, patterns: &args.channel };
    let done = whole::copy(&request, &mut |at| progress.say(&line_of(at)));
    progress.end();
    let report = done.map_err(|error| explained(&error, &args.from))?;
    if args.json { stopped::json(&report) } else { Ok(shown("copied", &args.to, &report)) }
}

/// Each must be one that a channel can match.
pub(super) fn check_patterns(patterns: &[String]) -> Result<(), String> {
    let wrong = patterns.iter().find(|pattern| !is_channel_pattern(pattern.as_bytes()));
    wrong.map_or(Ok(()), |wrong| Err(format!("{wrong:?} is no name of channels")))
}

/// An error, and who says more of what is damaged.
pub(super) fn explained(error: &TransferError, source: &OsStr) -> String {
    if error.is_of_a_damaged_source() {
        let name = stores::shown(&source.to_string_lossy());
        return format!("{error}; `stanby check` says more of what is wrong with {name}");
    }
    error.to_string()
}

/// How far it is.
pub(super) fn line_of(at: &store_copy::Progress<'_>) -> String {
    let store_copy::Progress { channel, done, all, is_reading_back } = at;
    let doing = if *is_reading_back { "read back" } else { "written" };
    format!("{doing}: {done} of {all} messages, channel {channel}")
}

/// What was `done` into `to`, for a person.
pub(super) fn shown(done: &str, to: &OsStr, report: &Report) -> String {
    let mut text = String::new();
    if report.went_on {
        text.push_str("went on where it was broken off\n");
    }
    if report.was_there {
        text.push_str("all of it was there, and was only read back\n");
    }
    report.channels.iter().for_each(|channel| text.push_str(&stopped::line_of(channel)));
    let messages: u64 = report.channels.iter().map(|channel| channel.messages).sum();
    text.push_str(&format!(
        "{done} {} channel(s), {messages} message(s) and {} client(s) of cluster {} into {}\n",
        report.channels.len(),
        report.clients,
        report.cluster_id,
        stores::shown(&to.to_string_lossy()),
    ));
    connection::printable_lines(&text)
}
