//! `stanby durable`: durables of a running server that nobody uses any more.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use super::administration::{self, Common, Done, moment};
use super::connection::{self, document, printable};
use super::control::ControlError;
use super::subscription;
use crate::server::administration_protocol::{Administration, Position, SubscriptionFacts};

/// Show the durables of a running server, reset or remove one
///
/// Asked of the active server of this machine over its control socket, or over NATS of that of
/// --server.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby durable", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List durables of all channels, or of one
    Ls {
        /// Name of the channel
        channel: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Let a durable that nobody uses go on elsewhere; nothing of before is delivered again
    Reset {
        #[command(flatten)]
        which: Which,
        /// The message that it gets first: its number, first, last, new, or of which time: so long
        /// ago (2h30m), or 2026-01-31T12:00:00Z
        #[arg(long, value_name = "WHERE", value_parser = position)]
        to: Position,
        #[command(flatten)]
        common: Common,
    },
    /// Remove a durable that nobody uses, with what it has not acknowledged
    Rm {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Name of the channel
    channel: String,
    /// Its name, or several; of a durable queue group durable:group
    #[arg(value_name = "DURABLE", required = true)]
    durables: Vec<String>,
    /// ID of its client, where several have one of that name
    #[arg(long, value_name = "ID")]
    client: Option<String>,
}

const EXAMPLES: &str = "Examples:
  stanby durable ls
  stanby durable rm orders billing --client worker-7
  stanby durable rm orders billing:workers
  stanby durable reset orders billing --to 4711
  stanby durable reset orders billing --to new
One that a client uses is neither reset nor removed: close the client first.
Exit code: 0 if it was done, 1 if not; of several durables each has its line.";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby durable", args) {
        Ok(args) => administration::end("durable", carry_out(args.what)),
        Err(code) => code,
    }
}

fn carry_out(what: What) -> Result<String, ControlError> {
    match what {
        What::Ls { channel, common } => {
            let mut found = subscription::all(&common, channel)?;
            found.retain(|one| one.is_durable);
            Ok(if common.json { document(&found) } else { subscription::subscriptions(&found) })
        }
        What::Reset { which, to, common } => {
            let all = subscription::all(&common, Some(which.channel.clone()))?;
            administration::each(("durable", &which.durables), common.json, |durable| {
                let (channel, id) = (which.channel.clone(), which.find(durable, &all)?);
                let reset = Administration::ResetDurable { channel, id, to };
                which.ask(durable, (&common, reset))?;
                let channel = &which.channel;
                let json =
                    serde_json::json!({ "channel": channel, "durable": durable, "reset": true });
                let (channel, durable) = (printable(channel), printable(durable));
                Ok(Done {
                    json,
                    text: format!("durable {durable} of channel {channel} is reset\n"),
                })
            })
        }
        What::Rm { which, common } => {
            let all = subscription::all(&common, Some(which.channel.clone()))?;
            administration::each(("durable", &which.durables), common.json, |durable| {
                let (channel, id) = (which.channel.clone(), which.find(durable, &all)?);
                let remove = Administration::RemoveDurable { channel, id };
                which.ask(durable, (&common, remove))?;
                let channel = &which.channel;
                let json =
                    serde_json::json!({ "channel": channel, "durable": durable, "removed": true });
                let (channel, durable) = (printable(channel), printable(durable));
                let text = format!("durable {durable} of channel {channel} is removed\n");
                Ok(Done { json, text })
            })
        }
    }
}

fn position(text: &str) -> Result<Position, String> {
    match text {
        "first" => Ok(Position::First),
        "last" => Ok(Position::Last),
        "new" => Ok(Position::New),
        _ => match text.parse() {
            Ok(sequence) => Ok(Position::At(sequence)),
            Err(_) => moment(text).map(|at| Position::Since(at.0)),
        },
    }
}

impl Which {
    /// Asks for a change of a durable. Of one that is gone by now, because it was named twice or
    /// somebody else was faster, the server says a number, which nobody here has given.
    fn ask(
        &self,
        durable: &str,
        (common, change): (&Common, Administration),
    ) -> Result<(), ControlError> {
        let Err(error) = common.ask(change) else { return Ok(()) };
        if matches!(error, ControlError::Refused(_)) {
            self.find(durable, &subscription::all(common, Some(self.channel.clone()))?)?;
        }
        Err(error)
    }

    /// The number of the durable of that name that is meant.
    fn find(&self, durable: &str, all: &[SubscriptionFacts]) -> Result<u64, ControlError> {
        let Self { channel, client, .. } = self;
        let is_meant = |one: &&SubscriptionFacts| {
            // Its name is that of its group where it has one; nobody has an empty one.
            let name = if one.queue.is_empty() { &one.durable } else { &one.queue };
            one.is_durable
                && !durable.is_empty()
                && name == durable
                && client.as_ref().is_none_or(|client| one.client == *client)
        };
        let found: Vec<&SubscriptionFacts> = all.iter().filter(is_meant).collect();
        match found.as_slice() {
            [one] => Ok(one.id),
            [] => {
                let text = format!("channel {channel:?} has no durable {durable:?}");
                Err(ControlError::Refused(text))
            }
            several => {
                let clients: Vec<&str> = several.iter().map(|one| one.client.as_str()).collect();
                let text = format!(
                    "several clients have a durable {durable:?}: choose one with --client: {}",
                    clients.join(", ")
                );
                Err(ControlError::Refused(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable(id: u64, client: &str, durable: &str, queue: &str) -> SubscriptionFacts {
        SubscriptionFacts {
            id,
            client: client.to_owned(),
            durable: durable.to_owned(),
            queue: queue.to_owned(),
            is_durable: true,
            ..SubscriptionFacts::default()
        }
    }

    #[test]
    fn a_position_is_a_number_a_word_or_a_time() {
        assert_eq!(position("7"), Ok(Position::At(7)));
        assert_eq!(position("new"), Ok(Position::New));
        assert_eq!(position("1970-01-01T00:00:01Z"), Ok(Position::Since(1_000_000_000)));
        assert!(matches!(position("2h"), Ok(Position::Since(_))));
        assert!(position("newest").is_err());
    }

    #[test]
    fn a_durable_is_found_by_its_name_and_client() {
        let all = [
            durable(1, "a", "d", ""),
            durable(2, "b", "d", ""),
            durable(3, "", "", "d:g"),
            durable(4, "", "", ""),
        ];
        let find = |name: &str, client: Option<&str>| {
            let client = client.map(str::to_owned);
            let which = Which { channel: "c".to_owned(), durables: Vec::new(), client };
            which.find(name, &all).map_err(|error| error.to_string())
        };
        assert_eq!(find("d", Some("b")), Ok(2));
        assert_eq!(find("d:g", None), Ok(3));
        let several = "several clients have a durable \"d\": choose one with --client: a, b";
        assert_eq!(find("d", None), Err(several.to_owned()));
        assert_eq!(find("e", None), Err("channel \"c\" has no durable \"e\"".to_owned()));
        assert_eq!(find("", None), Err("channel \"c\" has no durable \"\"".to_owned()));
    }
}
