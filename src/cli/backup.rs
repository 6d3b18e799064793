//! `stanby backup`: the store of a server that runs is copied by that server.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::CommandFactory;

use super::connection::{self, printable, printable_lines};
use super::control::{self, ControlError, ServerArgs};
use super::output;
use super::progress::Progress;
use crate::server::control_protocol::{BackupEnd, BackupStatus, Request};

/// Copy the store of a server that runs into a new directory
///
/// The active server does it, as its own user and between its commits: clients notice nothing.
/// What was acknowledged before is there. The directory is a store: a server can be started over
/// it, and `stanby restore` makes one of any kind of it.
#[derive(Debug, clap::Parser)]
#[command(name = NAME, after_help = EXAMPLES)]
struct Args {
    /// The new directory: empty, or not there yet
    directory: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    /// Say what was copied as a JSON document
    #[arg(long)]
    json: bool,
}

const NAME: &str = "stanby backup";

const EXAMPLES: &str = "Example:
  stanby backup /backups/monday
For a store in a database there are the database's own tools. Who ends the command does not end the backup.
Exit code: 0 if all is there, 1 if not; what is there then is taken by no server.";

/// How often the server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{}: {source}", .path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("{0:?} is not UTF-8: give another name for it")]
    Text(PathBuf),
    #[error("{0}")]
    Failed(String),
    #[error("the server has begun another backup, into {0}")]
    Other(String),
    #[error("the server ended before the backup was complete: {0}")]
    Ended(ControlError),
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
    match back_up(&args) {
        Ok(done) => {
            let text = if args.json {
                connection::document(&done).trim_end().to_owned()
            } else {
                shown(&args.directory, &done)
            };
            output::end_line(&text, ExitCode::SUCCESS)
        }
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "{NAME}: {}", printable_lines(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn shown(directory: &Path, done: &BackupStatus) -> String {
    let BackupStatus { to, channels, messages, subscriptions, clients, millis, .. } = done;
    let where_else = match directory.exists() {
        true => "",
        false => {
            ", which is not there for this command: the server has a /tmp or a root of its own"
        }
    };
    printable(&format!(
        "copied {channels} channel(s), {messages} message(s), {subscriptions} subscription(s) and \
         {clients} client(s) into {to} in {millis} ms{where_else}"
    ))
}

fn back_up(args: &Args) -> Result<BackupStatus, BackupError> {
    let to = whole(&args.directory)?;
    let found = args.server.find()?;
    let socket = control::active_socket(&found, Some(NAME))?;
    let mut status = control::backup(&socket, Request::Backup { to: to.clone() })?;
    let mut progress = Progress::new();
    let end = loop {
        if status.to != to {
            break Err(BackupError::Other(status.to));
        }
        match status.end {
            BackupEnd::Open => (),
            BackupEnd::Done => break Ok(status),
            BackupEnd::Failed(why) => break Err(BackupError::Failed(why)),
        }
        let BackupStatus { channels, channels_all, messages, .. } = status;
        progress.say(&format!("{channels} of {channels_all} channels, {messages} messages"));
        thread::park_timeout(ASK_EVERY);
        status = match control::backup(&socket, Request::BackupStatus) {
            Ok(status) => status,
            Err(error) => break Err(BackupError::Ended(error)),
        };
    };
    progress.end();
    end
}

/// The path as the server understands it, wherever it runs.
fn whole(path: &Path) -> Result<String, BackupError> {
    let whole = std::path::absolute(path)
        .map_err(|source| BackupError::Path { path: path.to_owned(), source })?;
    let text = whole.to_str().map(str::to_owned);
    text.ok_or(BackupError::Text(whole))
}
