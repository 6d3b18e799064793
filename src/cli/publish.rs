//! `stanby pub`: publishes a message, once or many times.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;

use super::connection::{self, CommandError, ConnectionArgs};

/// Publish a message to a channel
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
    let failed = Arc::new(AtomicU64::new(0));
    let first_error = Arc::new(Mutex::new(None));
    for _ in 0..args.count {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if args.is_async {
            let (failed, first_error) = (Arc::clone(&failed), Arc::clone(&first_error));
            client.publish_async(&args.subject, args.message.clone(), move |_, result| {
                if let Err(error) = result {
                    failed.fetch_add(1, Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            })?;
        } else {
            let guid = client.publish(&args.subject, args.message.clone())?;
            say(&format!("Published [{}] : '{}' ({guid})", args.subject, args.message))?;
        }
    }
    // Each publish ends by its own time-out at the latest.
    while !client.wait_acked(std::time::Duration::from_millis(100)) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    if let Some(error) = first_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let count = failed.load(Ordering::Relaxed);
        say(&format!("{count} of {} messages were not acknowledged", args.count))?;
        return Err(error.into());
    }
    if args.is_async {
        say(&format!("Published [{}] : {} messages", args.subject, args.count))?;
    }
    Ok(client.close()?)
}

fn say(line: &str) -> Result<(), CommandError> {
    writeln!(io::stdout(), "{line}").map_err(CommandError::io("cannot write to stdout"))
}
