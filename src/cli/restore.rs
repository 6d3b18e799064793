//! `stanby restore`: a new store of an exported one, or of a backup.

use std::ffi::OsString;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use super::connection::{self, printable};
use super::progress::Progress;
use super::{copy, stopped, stores};
use crate::base::files::{self, Access, Links};
use crate::config::Config;
use crate::transfer::export::{self, Restoring};
use crate::transfer::store_copy::Report;
use crate::transfer::whole::{self, Request};

/// Make a new store of what `stanby export` has written, or of a backup
///
/// Each line is looked at before anything is written, and all is read back. Whole or nothing: until
/// the end no server takes the new store. What was broken off goes on when the same is said again.
#[derive(Debug, Parser)]
#[command(name = NAME, after_help = after_help())]
struct Args {
    /// File of `stanby export`, or directory of a backup
    from: PathBuf,
    /// The new store: empty, or not there yet
    to: OsString,
    /// The messages of the backup are encrypted, with the key in `NATS_STREAMING_ENCRYPTION_KEY`
    #[arg(long)]
    from_encrypted: bool,
    /// The new store is to be encrypted, with the key in `NATS_STREAMING_ENCRYPTION_KEY`
    #[arg(long)]
    to_encrypted: bool,
    /// Say what was restored as a JSON document
    #[arg(long)]
    json: bool,
}

const NAME: &str = "stanby restore";

fn after_help() -> String {
    format!(
        "{}\nTables of a database are made by `stanby sql init`.\n\nExamples:\n  \
         stanby restore store.jsonl /var/lib/stanby/data\n  \
         stanby restore /backups/monday sqlite:/var/lib/stanby/store.db\n\
         Exit code: 0 if all is there, 1 if not.",
        stores::HELP
    )
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
    stopped::end(NAME, restore(&args).map_err(|why| printable(&why)))
}

fn restore(args: &Args) -> Result<String, String> {
    let to = stores::config(&args.to, args.to_encrypted).map_err(|error| error.to_string())?;
    let report = match args.from.is_dir() {
        true => of_backup(args, &to)?,
        false => of_lines(&args.from, &to)?,
    };
    if args.json {
        return stopped::json(&report);
    }
    Ok(copy::shown("restored", &args.to, &report))
}

fn of_backup(args: &Args, to: &Config) -> Result<Report, String> {
    let name = args.from.as_os_str();
    let from = stores::config(name, args.from_encrypted).map_err(|error| error.to_string())?;
    let mut progress = Progress::new();
    let request = Request { from: &from, to, patterns: &[] };
    let done = whole::copy(&request, &mut |at| progress.say(&copy::line_of(at)));
    progress.end();
    done.map_err(|error| copy::explained(&error, name))
}

fn of_lines(path: &Path, to: &Config) -> Result<Report, String> {
    let failed = |error: &dyn std::error::Error| format!("{}: {error}", path.display());
    let file = files::open(path, Access::Read, Links::Followed).map_err(|error| failed(&error))?;
    let mut progress = Progress::new();
    let done = export::restore(BufReader::new(file), to, &mut |at| match at {
        Restoring::Looking(lines) => progress.say(&format!("looked at {lines} lines")),
        Restoring::Writing(at) => progress.say(&copy::line_of(&at)),
    });
    progress.end();
    done.map_err(|error| error.in_file(path))
}
