//! `stanby client`: the clients of a running server.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use super::administration::{self, Common, Done, unexpected};
use super::connection::{self, document, printable};
use super::control::ControlError;
use super::table::listed;
use crate::server::administration_protocol::{Administered, Administration, ClientFacts};

/// Show the clients of a running server, or close one
///
/// Asked of the active server of this machine over its control socket, or over NATS of that of
/// --server.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby client", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List clients
    Ls {
        #[command(flatten)]
        common: Common,
    },
    /// Close a client, as if it had asked for it: its subscriptions end, its durables stay
    Rm {
        /// Its ID, or several
        #[arg(value_name = "CLIENT", required = true)]
        clients: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
}

const EXAMPLES: &str = "Examples:
  stanby client ls
  stanby client rm worker-7
A client that still runs hears of it with its next ping, and may connect again.
Exit code: 0 if it was done, 1 if not; of several clients each has its line.";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby client", args) {
        Ok(args) => administration::end("client", carry_out(args.what)),
        Err(code) => code,
    }
}

fn carry_out(what: What) -> Result<String, ControlError> {
    match what {
        What::Ls { common } => {
            let Administered::Clients(found) = common.ask(Administration::Clients)? else {
                return Err(unexpected());
            };
            Ok(if common.json { document(&found) } else { clients(&found) })
        }
        What::Rm { clients, common } => {
            administration::each(("client", &clients), common.json, |id| {
                common.ask(Administration::CloseClient { client: id.to_owned() })?;
                let json = serde_json::json!({ "client": id, "removed": true });
                Ok(Done { json, text: format!("client {} is closed\n", printable(id)) })
            })
        }
    }
}

fn clients(found: &[ClientFacts]) -> String {
    let row = |one: &ClientFacts| {
        [one.client.clone(), one.heartbeat_inbox.clone(), one.failed_heartbeats.to_string()]
    };
    listed(["CLIENT", "HEARTBEAT INBOX", "FAILED HEARTBEATS"], found.iter().map(row))
}
