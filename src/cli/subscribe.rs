//! `stanby sub`: prints the messages of a channel.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::connection::{self, CommandError, ConnectionArgs};
use crate::base::go::quote;
use crate::client::{Client, Message, StartAt, SubscriptionOptions};

/// How often a waiting command looks whether it shall stop.
const TICK: Duration = Duration::from_millis(50);

/// The client ID where none is given.
const ID_DEFAULT: &str = "stanby-sub";

/// Print the messages of a channel
#[derive(Debug, Parser)]
#[command(name = "stanby sub")]
#[command(group(clap::ArgGroup::new("start").multiple(false)))]
struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Stop after this many messages
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// Start with the oldest message
    #[arg(long, group = "start")]
    all: bool,
    /// Start with the last message
    #[arg(long, group = "start")]
    last: bool,
    /// Start with this sequence
    #[arg(long, group = "start")]
    seq: Option<u64>,
    /// Start with messages of this long ago: 90s, 10m, 1h30m
    #[arg(long, group = "start", value_parser = duration)]
    since: Option<Duration>,
    /// Start with new messages (this is what happens without an option)
    #[arg(long = "new_only", alias = "new-only", group = "start")]
    new_only: bool,
    /// Queue group
    #[arg(long, alias = "queue")]
    qgroup: Option<String>,
    /// Durable name
    #[arg(long)]
    durable: Option<String>,
    /// Unsubscribe at the end: the server forgets the durable
    #[arg(long, alias = "unsub")]
    unsubscribe: bool,
    /// Messages that may come before the first is acknowledged
    #[arg(long = "max_in_flight", alias = "max-in-flight", default_value_t = 1024)]
    max_in_flight: i32,
    /// After how long the server redelivers: 30s
    #[arg(long = "ack_wait", alias = "ack-wait", default_value = "30s", value_parser = duration)]
    ack_wait: Duration,
    /// Channel
    subject: String,
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby sub", args) {
        Ok(args) => connection::exit_code("stanby sub", subscribe(&args)),
        Err(code) => code,
    }
}

fn subscribe(args: &Args) -> Result<(), CommandError> {
    let stop = connection::stop_flag()?;
    let client = args.connection.connect(ID_DEFAULT)?;
    // Unacknowledged messages are bounded by the server, so this queue is too.
    let (tell, told) = mpsc::channel();
    let subscribed = client.subscribe(&args.subject, options(args), move |message| {
        // What comes while the command ends is not acknowledged and comes again.
        let _ = tell.send(message);
    });
    let subscription = match subscribed {
        Ok(subscription) => subscription,
        Err(error) => {
            // So that the next attempt finds the client ID free; the first error counts.
            let _ = client.close();
            return Err(error.into());
        }
    };
    say(&listening(args, &client));
    let mut received = 0;
    let mut watch = Watch::new(&client);
    while !stop.load(Ordering::Relaxed) && args.count.is_none_or(|count| received < count) {
        match told.recv_timeout(TICK) {
            Ok(message) => {
                received += 1;
                show(received, &message)?;
                message.ack()?;
            }
            Err(RecvTimeoutError::Timeout) => {
                watch.look(&client);
                if let Some(error) = client.lost() {
                    return Err(error.into());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if args.unsubscribe {
        subscription.unsubscribe()?
    } else {
        subscription.close()?
    }
    Ok(client.close()?)
}

/// What the command waits for, so that a silent channel and a wrong name can be told apart.
fn listening(args: &Args, client: &Client) -> String {
    let server = client.server().unwrap_or_default();
    let mut line = format!(
        "Listening on [{}], cluster=[{}] clientID=[{}] at {server}",
        args.subject,
        args.connection.cluster,
        args.connection.client_id(ID_DEFAULT),
    );
    for (name, value) in [("qgroup", &args.qgroup), ("durable", &args.durable)] {
        if let Some(value) = value {
            line.push_str(&format!(" {name}=[{value}]"));
        }
    }
    line
}

/// What was last said of the connection.
struct Watch {
    is_connected: bool,
    reconnects: u64,
}

impl Watch {
    fn new(client: &Client) -> Self {
        Self { is_connected: true, reconnects: client.reconnects() }
    }

    /// Says what has changed; a quick change is seen by its count only.
    fn look(&mut self, client: &Client) {
        let (server, reconnects) = (client.server(), client.reconnects());
        if self.is_connected && (server.is_none() || reconnects != self.reconnects) {
            say("Connection lost; looking for another server");
            self.is_connected = false;
        }
        if let (false, Some(server)) = (self.is_connected, server)
            && reconnects != self.reconnects
        {
            say(&format!("Connected again, to {server}"));
            *self = Self { is_connected: true, reconnects };
        }
    }
}

/// What is not a message goes to stderr, so that stdout has messages only.
fn say(line: &str) {
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(io::stderr(), "{}", connection::printable(line));
}

fn options(args: &Args) -> SubscriptionOptions {
    let start = match (args.seq, args.since) {
        (Some(sequence), _) => StartAt::Sequence(sequence),
        (None, Some(ago)) => StartAt::TimeDelta(ago),
        (None, None) if args.all => StartAt::First,
        (None, None) if args.last => StartAt::LastReceived,
        (None, None) => StartAt::NewOnly,
    };
    SubscriptionOptions {
        start,
        queue: args.qgroup.clone(),
        durable: args.durable.clone(),
        manual_acks: true,
        in_flight_max: args.max_in_flight,
        ack_wait: args.ack_wait,
    }
}

fn show(number: u64, message: &Message) -> Result<(), CommandError> {
    let redelivered = if message.is_redelivered {
        format!(" redelivered:{}", message.redelivery_count)
    } else {
        String::new()
    };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "[#{number}] Received: sequence:{} subject:{} data:\"{}\" timestamp:{}{redelivered}",
        message.sequence,
        quote(&message.channel),
        message.data.escape_ascii(),
        message.timestamp,
    )
    .and_then(|()| out.flush())
    .map_err(CommandError::io("cannot write to stdout"))
}

/// `1h30m`, `90s`, `250ms`; a bare number is not accepted, as in Go.
fn duration(text: &str) -> Result<Duration, String> {
    let invalid =
        || format!("invalid duration {text:?}: expected a number and a unit, as in 1h30m");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let number: u32 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return Err(invalid()),
        };
        total = unit
            .checked_mul(number)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(invalid)?;
        rest = &rest[unit_len..];
    }
    if text.is_empty() { Err(invalid()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn parse(args: &[&str]) -> Args {
        connection::parse("stanby sub", args.iter().map(OsString::from).collect()).unwrap()
    }

    #[test]
    fn long_options_are_taken_with_one_dash_and_with_two() {
        for cluster in ["-cluster", "--cluster", "-c"] {
            let args = parse(&[cluster, "mine", "-id", "me", "-durable=dur", "-all", "foo"]);
            assert_eq!(args.connection.cluster, "mine");
            assert_eq!(args.connection.id.as_deref(), Some("me"));
            assert_eq!(args.durable.as_deref(), Some("dur"));
            assert_eq!(options(&args).start, StartAt::First);
            assert_eq!(args.subject, "foo");
        }
        assert_eq!(parse(&["-s", "a:1,b:2", "foo"]).connection.login.server, ["a:1", "b:2"]);
        assert_eq!(parse(&["-clientid", "me", "foo"]).connection.id.as_deref(), Some("me"));
    }

    #[test]
    fn a_second_start_position_is_refused() {
        let args = ["-all", "-last", "foo"].iter().map(OsString::from).collect();
        assert!(connection::parse::<Args>("stanby sub", args).is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "5", "s", "5x", "99999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
