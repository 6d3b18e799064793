//! The options that `pub` and `sub` share, and how both end: by themselves or by a signal.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::client::{Client, ClientError, Options};

/// How to reach the servers.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectionArgs {
    /// Server URLs, separated by commas: `nats://[user:password@]host:port`
    #[arg(short, long, default_value = "nats://127.0.0.1:4222", value_delimiter = ',')]
    pub server: Vec<String>,
    /// Cluster ID of the streaming server
    #[arg(short, long, default_value = "test-cluster")]
    pub cluster: String,
    /// Client ID
    #[arg(short = 'i', long = "id", alias = "clientid")]
    pub id: Option<String>,
    /// User name, where the URL has none
    #[arg(long)]
    pub user: Option<String>,
    /// Password of the user
    #[arg(long, alias = "pass")]
    pub password: Option<String>,
    /// Authentication token, where the URL has no user
    #[arg(long)]
    pub token: Option<String>,
}

impl ConnectionArgs {
    /// Connects; `id_default` is the client ID where none was given.
    ///
    /// # Errors
    /// As [`Client::connect`], with what a person can do about it where that is known.
    pub fn connect(&self, id_default: &str) -> Result<Client, CommandError> {
        let servers: Vec<&str> = self.server.iter().map(String::as_str).collect();
        let id = self.client_id(id_default);
        let options = Options {
            user: self.user.clone(),
            password: self.password.clone(),
            token: self.token.clone(),
            ..Options::new(&servers, &self.cluster, id)
        };
        Client::connect(options).map_err(|source| match self.hint(&source) {
            Some(hint) => CommandError::Connect { source, hint },
            None => CommandError::Client(source),
        })
    }

    /// The client ID that is used.
    pub(super) fn client_id<'a>(&'a self, id_default: &'a str) -> &'a str {
        self.id.as_deref().unwrap_or(id_default)
    }

    /// What a person can do about a connection that was not made.
    fn hint(&self, error: &ClientError) -> Option<String> {
        if let ClientError::RequestTimeout { .. } = error {
            return Some(format!(
                "no streaming server answers for cluster ID {:?} at {}: is the cluster ID right \
                 (-c), and if this is a standby, has it a route to the active server?",
                self.cluster,
                self.server.join(","),
            ));
        }
        error
            .is_client_id_taken()
            .then(|| "another client has this ID: choose one with -i".to_owned())
    }
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The streaming client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The streaming client could not connect, and there is something to be said about it.
    #[error("{source}; {hint}")]
    Connect {
        /// Why.
        source: ClientError,
        /// What to do.
        hint: String,
    },
    /// The machine.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl CommandError {
    /// For `map_err`.
    pub fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// Takes what a command was called with apart: `args` without the command's own name.
///
/// Compat: Go programs take their long options with one dash (`-cluster`), as users type them.
///
/// # Errors
/// The exit code, after the usage or the error was printed.
pub fn parse<A: clap::Parser>(name: &str, args: Vec<OsString>) -> Result<A, ExitCode> {
    let long: Vec<String> = A::command()
        .get_arguments()
        .flat_map(|arg| {
            let names = arg.get_long_and_visible_aliases().unwrap_or_default();
            let hidden = arg.get_all_aliases().unwrap_or_default();
            names.into_iter().chain(hidden).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let words = args.into_iter().map(|arg| with_two_dashes(arg, &long));
    let words = std::iter::once(OsString::from(name)).chain(words);
    A::try_parse_from(words).map_err(|error| {
        // Nothing is left to be told to anybody if the terminal is gone.
        let _ = error.print();
        if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}

fn with_two_dashes(arg: OsString, long: &[String]) -> OsString {
    let Some(name) = arg.to_str().and_then(|text| text.strip_prefix('-')) else { return arg };
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    if name.len() > 1 && long.iter().any(|known| known == name) {
        let mut dashed = OsString::from("-");
        dashed.push(&arg);
        return dashed;
    }
    arg
}

/// A flag that SIGINT and SIGTERM raise.
///
/// # Errors
/// When the system does not let us listen for signals.
pub fn stop_flag() -> Result<Arc<AtomicBool>, CommandError> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .map_err(CommandError::io("cannot listen for signals"))?;
    }
    Ok(flag)
}

/// A text that may hold what a server said: nothing in it is obeyed by the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            printable.extend(letter.escape_default());
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// Prints why a command failed, and gives the exit code.
#[must_use]
pub fn exit_code(name: &str, result: Result<(), CommandError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told to anybody if the terminal is gone.
            let _ = writeln!(io::stderr(), "{name}: {}", printable(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever answers cannot make a terminal do anything.
    #[test]
    fn what_a_server_says_is_shown_and_not_obeyed() {
        let said = printable("a\u{1b}]0;x\u{7}\r\nb\u{9b}é");
        assert_eq!(said, "a\\u{1b}]0;x\\u{7}\\r\\nb\\u{9b}é");
    }
}
