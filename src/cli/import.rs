//! `stanby import`: what the nodes of a Raft cluster have kept, into one new store.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::connection;
use super::progress::Progress;
use super::stopped;
use crate::base::encryption::{Cipher, Secret, StoreKey};
use crate::config::draft::KEY_VARIABLE;
use crate::config::{Config, World};
use crate::import::cluster::{self, Report};
use crate::import::node::Given;
use crate::store::source::Place;

/// Take over what the nodes of a Raft cluster have kept, into one new store
///
/// All nodes must be stopped. What they have is only read. Give as many as can be had: each with
/// its store and its Raft log, in the same order.
#[derive(Debug, Parser)]
#[command(name = "stanby import", after_help = EXAMPLES)]
struct Args {
    /// Directory of a node's file store (its -dir); once for each node
    #[arg(long, visible_alias = "dir", value_name = "DIR")]
    store: Vec<PathBuf>,
    /// Of nodes with an SQL store: postgres or mysql
    #[arg(long, visible_alias = "sql_driver", value_name = "DRIVER", conflicts_with = "store")]
    sql_driver: Option<String>,
    /// Source of a node's database; once for each node
    #[arg(long, visible_alias = "sql_source", value_name = "SOURCE", requires = "sql_driver")]
    sql_source: Vec<String>,
    /// Directory of a node's Raft log (its -cluster_log_path); once for each node
    #[arg(long, visible_alias = "cluster_log_path", value_name = "DIR")]
    log_path: Vec<PathBuf>,
    /// Directory of the new store: empty, or not there yet
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Instead of a directory, a database with empty tables: postgres, mysql or sqlite
    #[arg(long, value_name = "DRIVER", conflicts_with = "to", requires = "to_sql_source")]
    to_sql_driver: Option<String>,
    /// Source of that database
    #[arg(long, value_name = "SOURCE", requires = "to_sql_driver")]
    to_sql_source: Option<String>,
    /// Only say what would be imported
    #[arg(long, conflicts_with_all = ["to", "to_sql_driver"])]
    dry_run: bool,
    /// Take what there is, without a majority, without messages that are missing, and from a log
    /// that is damaged
    #[arg(long)]
    force: bool,
    /// The cluster is encrypted, and the new store will be, with the same key
    #[arg(long)]
    encrypt: bool,
    /// The key; better in the variable NATS_STREAMING_ENCRYPTION_KEY
    #[arg(long, visible_alias = "encryption_key", value_name = "KEY", requires = "encrypt")]
    encryption_key: Option<OsString>,
    /// Cipher of the new store: AES or CHACHA
    #[arg(long, visible_alias = "encryption_cipher", value_name = "CIPHER", requires = "encrypt")]
    encryption_cipher: Option<String>,
    /// Say what was imported as a JSON document
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Example, of three nodes:
  stanby import --store /a/store --log-path /a/log --store /b/store --log-path /b/log \\
      --store /c/store --log-path /c/log --to /var/lib/stanby/data
Exit code: 0 if all is there (with --force: all that could be had), else 1.";

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error)]
enum ArgsError {
    #[error("give --store (or --sql-source) and --log-path once for each node")]
    NoNode,
    #[error(
        "{stores} stores and {logs} log paths were given: each node has one of both, in the same \
         order"
    )]
    Pairs { stores: usize, logs: usize },
    #[error("say where the new store goes with --to, or --to-sql-driver and --to-sql-source")]
    NoTarget,
    #[error("{0}")]
    Source(String),
    #[error("--encrypt asks for a key: set {KEY_VARIABLE}, or give --encryption-key")]
    NoKey,
    #[error("unknown cipher {0:?}: AES or CHACHA")]
    Cipher(String),
    #[error("{what} {text:?} must be UTF-8")]
    Text { what: &'static str, text: PathBuf },
    #[error("the new store: {0}")]
    Config(String),
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>("stanby import", args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    stopped::end("stanby import", import(&args))
}

fn import(args: &Args) -> Result<String, String> {
    let text = |error: ArgsError| error.to_string();
    let nodes = nodes(args).map_err(text)?;
    let secret = secret(args).map_err(text)?;
    let key = secret.as_ref().map(|secret| key(args, secret)).transpose().map_err(text)?;
    let target = if args.dry_run { None } else { Some(target(args).map_err(text)?) };
    // Of the new server only the store counts; which cluster it serves the nodes say.
    let target = target.map(|mut config| {
        config.streaming.encryption = key.clone();
        config
    });
    let request = cluster::Request { nodes, key, is_forced: args.force, target: target.as_deref() };
    let mut progress = Progress::new();
    let done = cluster::import(&request, &mut |cluster::Progress { channel, done, all }| {
        progress.say(&format!("{done} of {all} messages, channel {channel}"));
    });
    progress.end();
    let report = done.map_err(|error| error.to_string())?;
    if args.json { stopped::json(&report) } else { Ok(shown(args, &report)) }
}

fn nodes(args: &Args) -> Result<Vec<Given>, ArgsError> {
    let mut stores: Vec<Place> = args.store.iter().cloned().map(Place::Directory).collect();
    for source in &args.sql_source {
        let driver = args.sql_driver.as_deref().unwrap_or_default();
        let place = Place::database(driver, source, &|name| env::var(name).ok());
        stores.push(place.map_err(ArgsError::Source)?);
    }
    let (stores_len, logs) = (stores.len(), args.log_path.len());
    if stores_len == 0 && logs == 0 {
        return Err(ArgsError::NoNode);
    }
    if stores_len != logs {
        return Err(ArgsError::Pairs { stores: stores_len, logs });
    }
    let given = |(store, log_path): (Place, &PathBuf)| Given {
        name: store.to_string(),
        store,
        log_path: log_path.clone(),
    };
    Ok(stores.into_iter().zip(&args.log_path).map(given).collect())
}

/// The variable counts before the option, as with the server.
fn secret(args: &Args) -> Result<Option<Secret>, ArgsError> {
    if !args.encrypt {
        return Ok(None);
    }
    let variable = env::var_os(KEY_VARIABLE).filter(|key| !key.is_empty());
    let given = variable.or_else(|| args.encryption_key.clone());
    let given = given.filter(|key| !key.is_empty()).ok_or(ArgsError::NoKey)?;
    Ok(Some(Secret::new(given.into_vec())))
}

fn key(args: &Args, secret: &Secret) -> Result<StoreKey, ArgsError> {
    let name = args.encryption_cipher.as_deref().unwrap_or_default();
    let cipher = Cipher::named(name).ok_or_else(|| ArgsError::Cipher(name.to_owned()))?;
    Ok(StoreKey::of(secret, cipher))
}

/// The configuration of a server that would have the new store.
fn target(args: &Args) -> Result<Box<Config>, ArgsError> {
    let text = |what, path: &Path| {
        let text = std::str::from_utf8(path.as_os_str().as_bytes());
        text.map(str::to_owned).map_err(|_| ArgsError::Text { what, text: path.to_owned() })
    };
    let mut line = vec!["-store".to_owned()];
    match (&args.to, &args.to_sql_driver, &args.to_sql_source) {
        (Some(folder), _, _) => {
            line.extend(["file".to_owned(), "-dir".to_owned(), text("--to", folder)?]);
        }
        (None, Some(driver), Some(source)) => {
            line.push("sql".to_owned());
            line.extend(["-sql_driver".to_owned(), driver.clone()]);
            line.extend(["-sql_source".to_owned(), source.clone()]);
        }
        _ => return Err(ArgsError::NoTarget),
    }
    let world = World {
        read: &|_| Err(io::ErrorKind::NotFound.into()),
        variable: &|name| env::var(name).ok(),
        secret: &|_| None,
        cores: 1,
    };
    stopped::server(&line, &world).map_err(ArgsError::Config)
}

fn shown(args: &Args, report: &Report) -> String {
    let Report { cluster_id, node_id, last_index, last_term, .. } = report;
    let mut text = format!(
        "node {node_id} has the newest log, up to entry {last_index} of term {last_term}; {} of {} \
         members were given ({})\n",
        report.given.len(),
        report.given.len() + report.absent.len(),
        report.given.join(", "),
    );
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    let (mut messages, mut subscriptions) = (0, 0);
    for channel in &report.channels {
        let count = if channel.last == 0 { 0 } else { channel.last + 1 - channel.first };
        messages += count;
        subscriptions += channel.subscriptions;
        let mut line = match count {
            0 => format!("channel {}: no messages", channel.name),
            _ => format!(
                "channel {}: messages {}",
                channel.name,
                cluster::shown((channel.first, channel.last))
            ),
        };
        line.push_str(&format!(", {} subscriptions", channel.subscriptions));
        for (count, whence) in
            [(channel.from_log, "the Raft log"), (channel.from_others, "stores of other nodes")]
        {
            if count > 0 {
                line.push_str(&format!(", {count} from {whence}"));
            }
        }
        if !channel.missing.is_empty() {
            let ranges: Vec<_> = channel.missing.iter().copied().map(cluster::shown).collect();
            line.push_str(&format!("; MISSING: {}", ranges.join(", ")));
        }
        text.push_str(&line);
        text.push('\n');
    }
    let (done, place) = match (&args.to, &args.to_sql_source) {
        (Some(folder), _) => ("imported", format!(" into {}", folder.display())),
        (None, Some(_)) => ("imported", " into the database".to_owned()),
        (None, None) => ("there would be", String::new()),
    };
    text.push_str(&format!(
        "{done} {} channels, {messages} messages, {subscriptions} subscriptions and {} clients of \
         cluster {cluster_id}{place}\n",
        report.channels.len(),
        report.clients,
    ));
    text
}
