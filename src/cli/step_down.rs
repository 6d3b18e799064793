//! `stanby step-down`: another member becomes active.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;

use super::connection::{self, printable, printable_lines};
use super::control::{self, ControlError, ServerArgs};
use super::output;
use crate::server::control_protocol::SteppedDown;

/// Let another member of the group be active
///
/// Asked of any member on this machine; the active one has to run here too. It finishes what it has
/// taken, gives the lease back, and stands by; the command waits until another member serves.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby step-down", after_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Say what was done as a JSON document
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Example:
  stanby step-down
Exit code: 0 once another member is active, 1 if it was refused, or none was active in 15 s: then this
one serves on, or whoever gets the lease next.";

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>("stanby step-down", args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match step_down(&args.server) {
        Ok(done) => {
            let text = if args.json {
                connection::document(&done).trim_end().to_owned()
            } else {
                let SteppedDown { from, to, millis } = &done;
                printable(&format!("{from} stepped down, {to} is active after {millis:.0} ms"))
            };
            output::end_line(&text, ExitCode::SUCCESS)
        }
        Err(error) => {
            let text = printable_lines(&error.to_string());
            let _ = writeln!(io::stderr(), "stanby step-down: {text}");
            ExitCode::FAILURE
        }
    }
}

fn step_down(server: &ServerArgs) -> Result<SteppedDown, ControlError> {
    let found = server.find()?;
    control::step_down(&control::active_socket(&found, Some("stanby step-down"))?)
}
