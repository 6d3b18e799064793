//! `stanby export`: the store of a stopped server as lines of JSON.

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::connection::{self, printable};
use super::progress::Progress;
use super::{copy, stopped, stores};
use crate::transfer::export::{self, Summary};

/// Write a store, or some of its channels, as lines of JSON
///
/// One line for each client, channel, message and subscription, with the payloads in base64 and a
/// checksum in each line. `stanby restore` makes a store of them again. Its server must be stopped.
#[derive(Debug, Parser)]
#[command(name = NAME, after_help = after_help())]
struct Args {
    /// The store
    store: OsString,
    /// Only channels of this name, which may have wildcards; can be given more than once
    #[arg(long, value_name = "PATTERN")]
    channel: Vec<String>,
    /// The messages are encrypted, with the key in `NATS_STREAMING_ENCRYPTION_KEY`; they are
    /// written in clear
    #[arg(long)]
    encrypted: bool,
}

const NAME: &str = "stanby export";

fn after_help() -> String {
    format!(
        "{}\n\nExample:\n  stanby export /var/lib/stanby/data > store.jsonl\n\
         Exit code: 0 if all was written, 1 if not; then the last line is missing.",
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
    match exported(&args) {
        // The lines have gone to stdout.
        Ok(summary) => {
            let Summary { cluster_id, clients, channels, messages } = summary;
            let _ = writeln!(
                io::stderr(),
                "exported {channels} channel(s), {messages} message(s) and {clients} client(s) of \
                 cluster {}",
                printable(&cluster_id)
            );
            ExitCode::SUCCESS
        }
        Err(why) => stopped::end(NAME, Err(printable(&why))),
    }
}

fn exported(args: &Args) -> Result<Summary, String> {
    copy::check_patterns(&args.channel)?;
    if io::stdout().is_terminal() {
        return Err("say where the lines go: stanby export STORE > FILE".to_owned());
    }
    let config = stores::config(&args.store, args.encrypted).map_err(|error| error.to_string())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut progress = Progress::new();
    let done = export::export(&config, &args.channel, &mut out, &mut |done, all| {
        progress.say(&format!("{done} of {all} messages"));
    });
    progress.end();
    done.map_err(|error| copy::explained(&error, &args.store))
}
