//! `stanby version`: which stanby this is, and whose place it takes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{connection, output};
use crate::config::banner;

/// Show which version this is
#[derive(Debug, clap::Parser)]
#[command(name = "stanby version")]
struct Args {}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    match connection::parse::<Args>("stanby version", args) {
        Ok(Args {}) => output::end_line(&banner::own_version(), ExitCode::SUCCESS),
        Err(code) => code,
    }
}
