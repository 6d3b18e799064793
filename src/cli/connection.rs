//! The options that `pub` and `sub` share, and how both end: by themselves or by a signal.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;
use zeroize::Zeroizing;

use super::context::{self, Context, Surroundings};
use crate::base::files;
use crate::base::nkey::{Credentials, UserKey};
use crate::bench::BenchError;
use crate::client::{Client, ClientError, Options};
use crate::net::tls::{Dialling, Files, TlsError};

/// Where a server is that nobody has named.
const SERVER_DEFAULT: &str = "nats://127.0.0.1:4222";

/// How long a handshake may take; a client's own time-out is shorter.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach the servers. What is not given is taken from the environment, by the names that
/// other tools for NATS use, and then from a context of theirs.
#[derive(Clone, Debug, clap::Args)]
pub struct LoginArgs {
    /// Server URLs, separated by commas: `nats://[user:password@]host:port`, or `tls://…`
    /// [variable: `NATS_URL`] [default: nats://127.0.0.1:4222]
    #[arg(short, long, value_delimiter = ',')]
    pub server: Vec<String>,
    /// User name, where the URL has none [variable: `NATS_USER`]
    #[arg(long)]
    pub user: Option<String>,
    /// Password of the user [variable: `NATS_PASSWORD`]
    #[arg(long, alias = "pass")]
    pub password: Option<String>,
    /// Authentication token, where the URL has no user [variable: `NATS_TOKEN`]
    #[arg(long)]
    pub token: Option<String>,
    /// File with the credentials of a user (JWT and seed) [variable: `NATS_CREDS`]
    #[arg(long, value_name = "FILE", conflicts_with = "nkey")]
    pub creds: Option<PathBuf>,
    /// File with the seed of a user's key [variable: `NATS_NKEY`]
    #[arg(long, value_name = "FILE")]
    pub nkey: Option<PathBuf>,
    /// Speak TLS, and trust the certificates of this file; else those of the machine are trusted
    /// [variable: `NATS_CA`]
    #[arg(long, value_name = "FILE", alias = "tlscacert")]
    pub tlsca: Option<PathBuf>,
    /// Speak TLS, and show this certificate [variable: `NATS_CERT`]
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Key of that certificate [variable: `NATS_KEY`]
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Context of the `nats` tool for what is not given [variable: `NATS_CONTEXT`] [default: the
    /// one that is selected]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// How to reach a streaming server through them.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectionArgs {
    /// The servers, and as whom.
    #[command(flatten)]
    pub login: LoginArgs,
    /// Cluster ID of the streaming server
    #[arg(short, long, default_value = "test-cluster")]
    pub cluster: String,
    /// Client ID
    #[arg(short = 'i', long = "id", alias = "clientid")]
    pub id: Option<String>,
}

/// A variable of the environment that is not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

impl ConnectionArgs {
    /// Connects; `id_default` is the client ID where none was given.
    ///
    /// # Errors
    /// As [`Client::connect`], with what a person can do about it where that is known; and when a
    /// file cannot be used.
    pub fn connect(&self, id_default: &str) -> Result<Client, CommandError> {
        self.connect_as(id_default, &variable)
    }

    fn connect_as(
        &self,
        id_default: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Client, CommandError> {
        let around = Surroundings { variable, read: &context::read_file };
        let options = self.login.options(&self.cluster, self.client_id(id_default), &around)?;
        let servers = options.servers.join(",");
        Client::connect(options).map_err(|source| match self.hint(&source, &servers) {
            Some(hint) => CommandError::Connect { source, hint },
            None => CommandError::Client(source),
        })
    }

    /// The client ID that is used.
    pub(super) fn client_id<'a>(&'a self, id_default: &'a str) -> &'a str {
        self.id.as_deref().unwrap_or(id_default)
    }

    /// What a person can do about a connection that was not made.
    fn hint(&self, error: &ClientError, servers: &str) -> Option<String> {
        if let ClientError::RequestTimeout { .. } = error {
            return Some(format!(
                "no streaming server answers for cluster ID {:?} at {}: is the cluster ID right \
                 (-c), and if this is a standby, has it a route to the active server?",
                self.cluster,
                without_passwords(servers),
            ));
        }
        error
            .is_client_id_taken()
            .then(|| "another client has this ID: choose one with -i".to_owned())
    }
}

impl LoginArgs {
    /// Whether servers are named, and not only left to the environment.
    #[must_use]
    pub fn is_given(&self) -> bool {
        !self.server.is_empty() || self.context.is_some()
    }

    /// What a client needs, of this machine's environment and files.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn load(&self, cluster: &str, id: &str) -> Result<Options, CommandError> {
        let around = Surroundings { variable: &variable, read: &context::read_file };
        self.options(cluster, id, &around)
    }

    fn options(
        &self,
        cluster: &str,
        id: &str,
        around: &Surroundings<'_>,
    ) -> Result<Options, CommandError> {
        let variable = around.variable;
        let context = self.context(around)?;
        let text = |given: &Option<String>, name, rest: &str| {
            given.clone().or_else(|| variable(name)).or_else(|| context::set(rest))
        };
        let path = |given: &Option<PathBuf>, name, rest: &str| {
            let named = given.clone().or_else(|| variable(name).map(PathBuf::from));
            named.or_else(|| context::set(rest).map(PathBuf::from))
        };
        let mut servers = self.server.clone();
        if servers.is_empty() {
            let named = variable("NATS_URL").or_else(|| context::set(&context.url));
            let named = named.unwrap_or_else(|| SERVER_DEFAULT.to_owned());
            servers = named.split(',').map(str::to_owned).collect();
        }
        let (mut jwt, mut key) = (None, None);
        // An option goes before a variable of the other kind.
        let creds = path(&self.creds, "NATS_CREDS", &context.creds);
        if let Some(file) = creds.filter(|_| self.nkey.is_none()) {
            let found = Credentials::decode(&read(&file)?);
            let found = found.map_err(|why| CommandError::File { file, why: why.to_string() })?;
            (jwt, key) = (Some(found.jwt), Some(found.key));
        } else if let Some(file) = path(&self.nkey, "NATS_NKEY", &context.nkey) {
            let found = UserKey::find(&read(&file)?).and_then(UserKey::of_user);
            let found = found.map_err(|why| CommandError::File { file, why: why.to_string() })?;
            key = Some(found);
        }
        let cert = path(&self.tlscert, "NATS_CERT", &context.cert);
        let key_file = path(&self.tlskey, "NATS_KEY", &context.key);
        let (tls, is_secure) = tls(cert, key_file, path(&self.tlsca, "NATS_CA", &context.ca))?;
        let named: Vec<&str> = servers.iter().map(String::as_str).collect();
        Ok(Options {
            user: text(&self.user, "NATS_USER", &context.user),
            password: text(&self.password, "NATS_PASSWORD", &context.password),
            token: text(&self.token, "NATS_TOKEN", &context.token),
            jwt,
            key: key.map(Arc::new),
            tls,
            is_secure,
            ..Options::new(&named, cluster, id)
        })
    }

    /// The context for what is given in no other way: who logs in so is nobody else beside that.
    fn context(&self, around: &Surroundings<'_>) -> Result<Context, CommandError> {
        let context = Context::load(self.context.as_deref(), around)?;
        let is_given = self.user.is_some()
            || self.token.is_some()
            || self.creds.is_some()
            || self.nkey.is_some()
            || ["NATS_USER", "NATS_TOKEN", "NATS_CREDS", "NATS_NKEY"]
                .iter()
                .any(|name| (around.variable)(name).is_some());
        if !is_given {
            return Ok(context);
        }
        let Context { url, cert, key, ca, .. } = context;
        Ok(Context { url, cert, key, ca, ..Context::default() })
    }
}

/// TLS as these files want it, and whether it is asked for.
fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
) -> Result<(Option<Arc<rustls::ClientConfig>>, bool), CommandError> {
    if cert.is_some() != key.is_some() {
        return Err(CommandError::HalfAPair);
    }
    let is_secure = ca.is_some() || cert.is_some();
    let (cert, key) = (cert.unwrap_or_default(), key.unwrap_or_default());
    let files = Files { cert, key, ca, ..Files::default() };
    match Dialling::load(&files, false, TLS_TIMEOUT) {
        Ok(dialling) => Ok((Some(dialling.client_config()), is_secure)),
        // It matters only if a server asks for TLS.
        Err(TlsError::NoRoots) => Ok((None, is_secure)),
        Err(error) => Err(CommandError::Tls(error)),
    }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let text = files::read_text(file).map(Zeroizing::new);
    text.map_err(|error| CommandError::File { file: file.to_owned(), why: error.to_string() })
}

/// URLs as they may be shown.
pub(super) fn without_passwords(servers: &str) -> String {
    let shown = servers.split(',').map(|url| match url.rsplit_once('@') {
        None => url.to_owned(),
        Some((login, place)) => match login.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{place}"),
            None => place.to_owned(),
        },
    });
    shown.collect::<Vec<_>>().join(",")
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
    /// A measurement.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A file that says who the user is.
    #[error("{}: {why}", .file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// One of two options that belong together.
    #[error("--tlscert and --tlskey (or NATS_CERT and NATS_KEY) belong together: give both")]
    HalfAPair,
    /// A certificate or key.
    #[error("{0}")]
    Tls(TlsError),
    /// Somebody has ended it before all was published.
    #[error("interrupted: {unacked} messages have no ack")]
    Interrupted {
        /// So many of those that were sent.
        unacked: u64,
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
    parse_or(name, args, ExitCode::FAILURE)
}

/// As [`parse`], for a command that has an exit code of its own for what cannot be understood.
///
/// # Errors
/// As [`parse`].
pub fn parse_or<A: clap::Parser>(
    name: &str,
    args: Vec<OsString>,
    usage: ExitCode,
) -> Result<A, ExitCode> {
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
        if error.use_stderr() { usage } else { ExitCode::SUCCESS }
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

/// A flag that is raised by what a terminal, a service manager or somebody ends a program with.
///
/// # Errors
/// When the system does not let us listen for signals.
pub fn stop_flag() -> Result<Arc<AtomicBool>, CommandError> {
    let flag = Arc::new(AtomicBool::new(false));
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
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
        if letter.is_control() || turns_text(letter) {
            printable.extend(letter.escape_default());
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// Whether a letter changes the direction of those around it.
fn turns_text(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value as a JSON document for programs, and for people who look at it on a terminal.
#[must_use]
pub fn document(value: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(value).expect("texts and numbers are JSON");
    let mut text = String::with_capacity(json.len() + 1);
    for letter in json.chars() {
        if letter != '\n' && (letter.is_control() || turns_text(letter)) {
            // All of these have one unit in UTF-16, and stand in texts only.
            text.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            text.push(letter);
        }
    }
    text.push('\n');
    text
}

/// The same of a text of several lines.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
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
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a\\u{202e}b\\u{2066}c");
    }
    fn options(args: &[&str], variables: &[(&str, &str)]) -> Result<Options, String> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            connection: ConnectionArgs,
        }
        let args = args.iter().map(OsString::from).collect();
        let only = parse::<Only>("test", args).map_err(|_| "usage".to_owned())?;
        let variable = |name: &str| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, text)| (*text).to_owned())
        };
        let around = Surroundings { variable: &variable, read: &context::read_file };
        only.connection.login.options("c", "me", &around).map_err(|error| error.to_string())
    }

    /// Goal: what is not given comes from the environment, and what is given goes before it.
    #[test]
    fn options_go_before_variables() {
        let all = [
            ("NATS_URL", "tls://a:1,b:2"),
            ("NATS_USER", "u"),
            ("NATS_PASSWORD", "p"),
            ("NATS_TOKEN", "t"),
        ];
        let some = |text: &str| Some(text.to_owned());
        let found = options(&[], &all).expect("options");
        assert_eq!(found.servers, ["tls://a:1", "b:2"]);
        let login = (found.user, found.password, found.token);
        assert_eq!(login, (some("u"), some("p"), some("t")));
        let found = options(&["-s", "c:3", "--user", "me", "-password", "x"], &all);
        let found = found.expect("options");
        assert_eq!((found.servers, found.user), (vec!["c:3".to_owned()], some("me")));
        assert_eq!(found.password, some("x"));
        assert_eq!(options(&[], &[]).expect("options").servers, [SERVER_DEFAULT]);
    }

    #[test]
    fn files_that_are_of_no_use_are_named() {
        let none = |args: &[&str]| options(args, &[]).err().unwrap_or_default();
        for (option, file) in [("--creds", "/none"), ("--nkey", "/dev/null"), ("--tlsca", "/none")]
        {
            let error = none(&[option, file]);
            assert!(error.contains(file) || error.contains("seed"), "{option}: {error}");
        }
        assert!(none(&["--tlscert", "/none"]).contains("belong together"));
        assert_eq!(none(&["--creds", "a", "--nkey", "b"]), "usage");
        let error = options(&[], &[("NATS_CREDS", "/none")]).err().unwrap_or_default();
        assert!(error.starts_with("/none: "), "{error}");
    }

    #[test]
    fn urls_are_shown_without_passwords() {
        assert_eq!(without_passwords("nats://u:p@a:1,b:2,t@c"), "nats://a:1,b:2,c");
    }
}
