//! What commands on the stores of stopped servers have in one way: the configuration that they
//! read, and how they end.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::{connection, output};
use crate::config::options::{self, Request};
use crate::config::{Config, Program, World};
use crate::transfer::channel::Report;

/// A streaming server's configuration, as the server would read it.
pub(super) fn server(arguments: &[String], world: &World<'_>) -> Result<Box<Config>, String> {
    let loaded = options::load(Program::Streaming, arguments, world);
    match loaded.map_err(|error| error.to_string())? {
        Request::Serve(config) => match &config.start_error {
            Some(error) => Err(error.fatal_line().1),
            None => Ok(config),
        },
        Request::Check { .. }
        | Request::Help
        | Request::HelpTls
        | Request::Version
        | Request::Signal(_) => Err("it does not describe a server".to_owned()),
    }
}

/// A report as a program wants it.
pub(super) fn json(report: &impl Serialize) -> Result<String, String> {
    // A path that is no text is an error, which a document cannot show.
    let value = serde_json::to_value(report).map_err(|error| error.to_string())?;
    Ok(connection::document(&value))
}

/// A channel that was brought over, as a line.
pub(super) fn line_of(report: &Report) -> String {
    let Report { channel, first, last, messages, subscriptions, pending, .. } = report;
    let extent = match messages {
        0 => "no messages".to_owned(),
        _ => format!("messages {first} to {last}"),
    };
    format!(
        "channel {channel}: {extent}, {subscriptions} subscription(s), {pending} delivery(ies) that \
         nobody has acknowledged\n"
    )
}

/// What was done, or why not.
pub(super) fn end(command: &str, result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => output::end(text.as_bytes(), ExitCode::SUCCESS),
        Err(text) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "{command}: {text}");
            ExitCode::FAILURE
        }
    }
}
