//! `stanby pending`: which message waits for whom.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use super::administration::{self, Common, unexpected};
use super::connection::{self, document};
use super::control::ControlError;
use super::table::listed;
use crate::base::go;
use crate::server::administration_protocol::{Administered, Administration, PendingFacts};

/// Show which messages of a channel wait for an acknowledgement, of whom and since when
///
/// Asked of the active server of this machine over its control socket, or over NATS of that of
/// --server. Of each subscription the oldest 1000 are shown.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby pending", after_help = EXAMPLES)]
struct Args {
    /// Name of the channel
    channel: String,
    /// Only those of this client
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "Examples:
  stanby pending orders
  stanby pending orders --client worker-7 --json
What was delivered before this server became active has no time until it is delivered again, and its
count begins anew.
Exit code: 0 if it was done, 1 if not.";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby pending", args) {
        Ok(args) => administration::end("pending", carry_out(args)),
        Err(code) => code,
    }
}

fn carry_out(args: Args) -> Result<String, ControlError> {
    let Args { channel, client, common } = args;
    let Administered::Pending(mut found) = common.ask(Administration::Pending { channel })? else {
        return Err(unexpected());
    };
    found.retain(|one| client.as_ref().is_none_or(|client| *client == one.client));
    Ok(if common.json { document(&found) } else { pending(&found) })
}

fn pending(found: &[PendingFacts]) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let row = |one: &PendingFacts| {
        [
            one.sequence.to_string(),
            one.subscription.to_string(),
            or_dash(&one.client),
            or_dash(&one.durable),
            or_dash(&one.queue),
            one.since.map_or_else(|| "-".to_owned(), go::show_time),
            one.redelivered.to_string(),
        ]
    };
    let head = ["MESSAGE", "SUBSCRIPTION", "CLIENT", "DURABLE", "QUEUE", "SINCE", "REDELIVERED"];
    listed(head, found.iter().map(row))
}
