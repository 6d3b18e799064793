//! `stanby pub`: publishes a message, once or many times.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::connection::{self, CommandError, ConnectionArgs};
use crate::base::world;
use crate::client::{Client, ClientError};

/// Messages without an ack at most, where none is waited for before the next.
const UNDER_WAY_MAX: u64 = 8 * 1024;

/// So long after the last ack a command gives up.
const ACKED_WITHIN: Duration = Duration::from_secs(30);

/// So long without an ack messages are sent again: longer than a server that lives needs.
const SENT_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How often a signal, and another server, are noticed while acks are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Publish a message to a channel
///
/// What is under way when the server is lost is sent again to the next one: it may be stored twice.
#[derive(Debug, Parser)]
#[command(name = "stanby pub")]
struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// How many times
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u64,
    /// Do not wait for each ack before the next message
    #[arg(short = 'a', long = "async")]
    is_async: bool,
    /// Channel
    subject: String,
    /// Message
    message: String,
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby pub", args) {
        Ok(args) => connection::exit_code("stanby pub", publish(&args)),
        Err(code) => code,
    }
}

fn publish(args: &Args) -> Result<(), CommandError> {
    let stop = connection::stop_flag()?;
    let client = args.connection.connect("stanby-pub")?;
    let outcome = Arc::new(Outcome::default());
    let mut messages = Messages { client: &client, stop: &stop, outcome: &outcome, losses: 0 };
    let most = if args.is_async { UNDER_WAY_MAX } else { 0 };
    for _ in 0..args.count {
        let guid = messages.send(&args.subject, &args.message)?;
        if !messages.wait(most)? {
            break;
        }
        outcome.check(args.count)?;
        if !args.is_async {
            say(&format!("Published [{}] : '{}' ({guid})", args.subject, args.message))?;
        }
    }
    let is_done = messages.wait(0)?;
    outcome.check(args.count)?;
    if !is_done {
        return Err(CommandError::Interrupted { unacked: outcome.under_way() });
    }
    if args.is_async {
        say(&format!("Published [{}] : {} messages", args.subject, args.count))?;
    }
    Ok(client.close()?)
}

/// What became of the messages that were sent.
#[derive(Default)]
struct Outcome {
    under_way: AtomicU64,
    failed: AtomicU64,
    first_error: Mutex<Option<ClientError>>,
}

impl Outcome {
    fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Acquire)
    }

    fn note(&self, result: Result<(), ClientError>) {
        if let Err(error) = result {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
        self.under_way.fetch_sub(1, Ordering::Release);
    }

    fn check(&self, count: u64) -> Result<(), CommandError> {
        let error = self.first_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(error) = error else { return Ok(()) };
        if count > 1 {
            let failed = self.failed.load(Ordering::Relaxed);
            say(&format!("{failed} of {count} messages were not acknowledged"))?;
        }
        Err(error.into())
    }
}

/// The messages that one command publishes.
struct Messages<'a> {
    client: &'a Client,
    stop: &'a AtomicBool,
    outcome: &'a Arc<Outcome>,
    /// How often the client had moved to another server, or was not heard there, when it last sent
    /// again.
    losses: u64,
}

impl Messages<'_> {
    fn send(&self, channel: &str, message: &str) -> Result<String, CommandError> {
        let outcome = Arc::clone(self.outcome);
        outcome.under_way.fetch_add(1, Ordering::Relaxed);
        let sent = self.client.publish_async(channel, message.to_owned(), move |_, result| {
            outcome.note(result);
        });
        Ok(sent?)
    }

    /// Waits until at most so many messages are under way; false if a signal came. What is under
    /// way to a server that is gone is sent again, and may be stored twice. Behind a route nobody
    /// says that the server is gone: then silence does.
    fn wait(&mut self, most: u64) -> Result<bool, CommandError> {
        let mut left = self.outcome.under_way();
        let mut acked_at = world::instant();
        let mut sent_at = acked_at;
        loop {
            let (now, under_way) = (world::instant(), self.outcome.under_way());
            if under_way <= most {
                return Ok(true);
            }
            if under_way < left {
                (left, acked_at, sent_at) = (under_way, now, now);
            }
            if ACKED_WITHIN <= now.since(acked_at) {
                return Err(ClientError::AckTimeout.into());
            }
            let losses = self.client.reconnects() + self.client.unheard();
            let is_silent =
                SENT_AGAIN_AFTER <= now.since(sent_at) && self.client.server().is_some();
            if losses != self.losses || is_silent {
                (self.losses, sent_at) = (losses, now);
                self.send_again()?;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            // With more allowed than none, it is only looked at more often.
            let _ = self.client.wait_acked(LOOK_EVERY);
        }
    }

    fn send_again(&self) -> Result<(), CommandError> {
        for publish in self.client.unacked() {
            match self.client.resend(&publish.guid) {
                // It was acknowledged, or given up, meanwhile.
                Ok(()) | Err(ClientError::UnknownGuid(_)) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn say(line: &str) -> Result<(), CommandError> {
    writeln!(io::stdout(), "{line}").map_err(CommandError::io("cannot write to stdout"))
}
