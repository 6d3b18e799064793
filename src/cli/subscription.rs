//! `stanby subscription`: who subscribes to the channels of a running server.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use super::administration::{self, Common, Done, unexpected};
use super::connection::{self, document, printable};
use super::control::ControlError;
use super::table::listed;
use crate::server::administration_protocol::{Administered, Administration, SubscriptionFacts};

/// Show the subscriptions of a running server, or close one
///
/// Asked of the active server of this machine over its control socket, or over NATS of that of
/// --server.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby subscription", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List subscriptions of all channels, or of one
    Ls {
        /// Name of the channel
        channel: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Show one subscription
    Info {
        /// Name of the channel
        channel: String,
        /// Its number, as ls shows it
        id: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Close a subscription, as if its client had; a durable stays
    Rm {
        /// Name of the channel
        channel: String,
        /// Its number, as ls shows it, or several
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
        #[command(flatten)]
        common: Common,
    },
}

const EXAMPLES: &str = "Examples:
  stanby subscription ls
  stanby subscription ls orders --json
  stanby subscription rm orders 17
Its client is not told that a subscription is closed: it gets nothing more.
Exit code: 0 if it was done, 1 if not; of several subscriptions each has its line.";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby subscription", args) {
        Ok(args) => administration::end("subscription", carry_out(args.what)),
        Err(code) => code,
    }
}

fn carry_out(what: What) -> Result<String, ControlError> {
    match what {
        What::Ls { channel, common } => {
            let found = all(&common, channel)?;
            Ok(if common.json { document(&found) } else { subscriptions(&found) })
        }
        What::Info { channel, id, common } => {
            let found = all(&common, Some(channel.clone()))?.into_iter().find(|it| it.id == id);
            let found = found.ok_or_else(|| {
                ControlError::Refused(format!("channel {channel:?} has no subscription {id}"))
            })?;
            let told = || subscriptions(std::slice::from_ref(&found));
            Ok(if common.json { document(&found) } else { told() })
        }
        What::Rm { channel: name, ids, common } => {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            administration::each(("subscription", &ids), common.json, |id| {
                let (channel, id) = (name.clone(), id.parse().map_err(|_| unexpected())?);
                common.ask(Administration::CloseSubscription { channel, id })?;
                let json = serde_json::json!({ "channel": name, "id": id, "removed": true });
                let channel = printable(&name);
                Ok(Done {
                    json,
                    text: format!("subscription {id} of channel {channel} is closed\n"),
                })
            })
        }
    }
}

/// The subscriptions of a channel, or of all.
///
/// # Errors
/// [`ControlError`].
pub fn all(
    common: &Common,
    channel: Option<String>,
) -> Result<Vec<SubscriptionFacts>, ControlError> {
    let told = common.ask(Administration::Subscriptions { channel })?;
    let Administered::Subscriptions(found) = told else { return Err(unexpected()) };
    Ok(found)
}

/// A table of subscriptions.
#[must_use]
pub fn subscriptions(found: &[SubscriptionFacts]) -> String {
    let head = ["CHANNEL", "ID", "CLIENT", "DURABLE", "QUEUE", "STATE", "LAST SENT", "PENDING"];
    listed(head, found.iter().map(row))
}

fn row(found: &SubscriptionFacts) -> [String; 8] {
    let state = match (found.is_offline, found.is_stalled) {
        (true, _) => "offline",
        (false, true) => "stalled",
        (false, false) => "online",
    };
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        found.channel.clone(),
        found.id.to_string(),
        or_dash(&found.client),
        or_dash(&found.durable),
        or_dash(&found.queue),
        state.to_owned(),
        found.last_sent.to_string(),
        format!("{} of {}", found.pending, found.in_flight_max),
    ]
}
