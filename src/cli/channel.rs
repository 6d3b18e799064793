//! `stanby channel`: the channels of a running server, and what an operator does to them.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use super::administration::{self, Common, Done, moment, unexpected};
use super::connection::{self, document};
use super::control::ControlError;
use super::subscription;
use super::table::listed;
use crate::base::time::WallTime;
use crate::server::administration_protocol::{
    Administered, Administration, ChannelFacts, Extent, Purged,
};

/// Show the channels of a running server, purge or delete one
///
/// Asked of the active server of this machine over its control socket, or over NATS of that of
/// --server. A change is answered once it is as durable as a published message, and is there after
/// a take-over.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby channel", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List channels
    Ls {
        /// Only those that this means, as in foo.* or foo.>
        pattern: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Show one channel with its subscriptions
    Info {
        /// Its name
        channel: String,
        #[command(flatten)]
        common: Common,
    },
    /// Let go of the oldest messages; of all, if nothing says how many
    Purge {
        /// Its name, or several
        #[arg(value_name = "CHANNEL", required = true)]
        channels: Vec<String>,
        /// Keep so many of the newest messages
        #[arg(long, value_name = "N", group = "extent")]
        keep: Option<u64>,
        /// Let go of what was stored before: so long ago (2h30m), or 2026-01-31T12:00:00Z
        #[arg(long, value_name = "TIME", group = "extent", value_parser = moment)]
        before: Option<WallTime>,
        /// Let go of everything up to this message, with it
        #[arg(long, value_name = "SEQ", group = "extent")]
        to_seq: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a channel with all its messages
    Rm {
        /// Its name, or several
        #[arg(value_name = "CHANNEL", required = true)]
        channels: Vec<String>,
        /// With its subscriptions, too; their clients are not told
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: Common,
    },
}

const EXAMPLES: &str = "Examples:
  stanby channel ls
  stanby channel ls 'orders.>' --json
  stanby channel info orders
  stanby channel purge orders --keep 1000
  stanby channel purge orders --before 24h
  stanby channel rm old.orders older.orders
A channel that is purged of everything keeps one empty message, which is delivered like any other: so
its numbers go on where they were.
Exit code: 0 if it was done, 1 if not; of several channels each has its line, and one that fails keeps
none of the others from it.";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby channel", args) {
        Ok(args) => administration::end("channel", carry_out(args.what)),
        Err(code) => code,
    }
}

fn carry_out(what: What) -> Result<String, ControlError> {
    match what {
        What::Ls { pattern, common } => {
            let Administered::Channels(found) = common.ask(Administration::Channels { pattern })?
            else {
                return Err(unexpected());
            };
            Ok(if common.json { document(&found) } else { channels(&found) })
        }
        What::Info { channel, common } => {
            let Administered::Channel(found) = common.ask(Administration::Channel { channel })?
            else {
                return Err(unexpected());
            };
            Ok(if common.json { document(&found) } else { channel_with_subscriptions(&found) })
        }
        What::Purge { channels, keep, before, to_seq, common } => {
            let extent = match (keep, before, to_seq) {
                (Some(count), _, _) => Extent::Keep(count),
                (_, Some(WallTime(at)), _) => Extent::Before(at),
                (_, _, Some(sequence)) => Extent::To(sequence),
                (None, None, None) => Extent::All,
            };
            administration::each(("channel", &channels), common.json, |channel| {
                let channel = channel.to_owned();
                let told = common.ask(Administration::Purge { channel, extent })?;
                let Administered::Purged(done) = told else { return Err(unexpected()) };
                let json = serde_json::to_value(&done).map_err(|_| unexpected())?;
                Ok(Done { json, text: purged(&done) })
            })
        }
        What::Rm { channels, force, common } => {
            administration::each(("channel", &channels), common.json, |name| {
                let channel = name.to_owned();
                common.ask(Administration::RemoveChannel { channel, force })?;
                let json = serde_json::json!({ "channel": name, "removed": true });
                let text = format!("channel {} is deleted\n", connection::printable(name));
                Ok(Done { json, text })
            })
        }
    }
}

fn channels(found: &[ChannelFacts]) -> String {
    let head = ["CHANNEL", "MESSAGES", "BYTES", "FIRST", "LAST"];
    listed(head, found.iter().map(row))
}

fn row(found: &ChannelFacts) -> [String; 5] {
    let ChannelFacts { channel, messages, bytes, first, last, .. } = found;
    let numbers = [messages, bytes, first, last].map(u64::to_string);
    let [messages, bytes, first, last] = numbers;
    [channel.clone(), messages, bytes, first, last]
}

fn channel_with_subscriptions(found: &ChannelFacts) -> String {
    let text = channels(std::slice::from_ref(found));
    match found.subscriptions.as_deref() {
        None | Some([]) => text + "\nno subscriptions\n",
        Some(all) => text + "\n" + &subscription::subscriptions(all),
    }
}

fn purged(done: &Purged) -> String {
    let Purged { channel, removed, messages, first, last } = done;
    let channel = connection::printable(channel);
    let plural = if *removed == 1 { "message is" } else { "messages are" };
    let left = match messages {
        0 => format!("none is left; the next one is {}", last.saturating_add(1)),
        1 => format!("1 is left: {last}"),
        count => format!("{count} are left: {first} to {last}"),
    };
    format!("channel {channel}: {removed} {plural} gone, {left}\n")
}
