//! `stanby check`: what is wrong with a store in a directory, and what it means.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use serde::Serialize;

use super::check_lock::{self, LockArgs};
use super::connection::{self, printable};
use super::progress::Progress;
use super::{stopped, stores};
use crate::base::go;
use crate::config::{Config, World};
use crate::site::mending;
use crate::site::writers;
use crate::store::check::{self, Change, Finding, Report, Rules, Weight};

/// How the text of an error ends where a process has as many files open as it may.
const NO_DESCRIPTORS: &str = "too many open files";

/// Look through a store in a directory: what is wrong, where, and what it means for clients
///
/// Nothing is changed without --repair. Its server should be stopped: what one writes meanwhile can
/// look damaged.
/// For a database there is `stanby sql check`, and --lock.
#[derive(Debug, clap::Parser)]
#[command(name = NAME, after_help = EXAMPLES)]
struct Args {
    /// Directory of the store (-dir of its server); with --lock also a database
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// It was written with -file_crc=false
    #[arg(long)]
    no_crc: bool,
    /// Its -file_crc_poly, if that is not the usual one
    #[arg(long, value_name = "NUMBER", conflicts_with = "no_crc", value_parser = polynomial)]
    crc_poly: Option<u32>,
    /// Mend it: what is whole goes into new files, the old ones are kept beside them
    ///
    /// Its server has to be stopped, and each that stands by. What nobody has any more is said, and
    /// empty messages stand in for it. Nothing is deleted.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    locks: LockArgs,
    /// As a JSON document
    #[arg(long)]
    json: bool,
}

impl Args {
    fn rules(&self) -> Rules {
        match self.crc_poly {
            _ if self.no_crc => Rules::without_checksums(),
            Some(polynomial) => Rules::with_polynomial(polynomial),
            None => Rules::default(),
        }
    }
}

const EXAMPLES: &str = "Example:
  stanby check /var/lib/stanby
  stanby check --repair /var/lib/stanby
  stanby check --lock /mnt/stan
  stanby check --lock 'postgres:host=db user=stan dbname=stan'
Exit code: 0 if nothing that was acknowledged is damaged, 3 if something is, 1 if not all was looked at;
with --lock 0 if a group may use the directory or database, 3 if not.
A database is named as postgres:SOURCE, mysql:SOURCE or sqlite:FILE with the -sql_source of its server, as
postgres://…, or by the file with the configuration of its server, which keeps a password off the command line.";

/// As the server takes it from its flag.
fn polynomial(text: &str) -> Result<u32, String> {
    let number = go::integer(text).ok().and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| *number != 0);
    number.ok_or_else(|| format!("it should be between 1 and {}", u32::MAX))
}

const NAME: &str = "stanby check";

/// Something is damaged.
const DAMAGED: u8 = 3;

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
    match ran(&args) {
        Ok((text, code)) => {
            let _ = stopped::end(NAME, Ok(text));
            code
        }
        Err(why) => stopped::end(NAME, Err(printable(&why))),
    }
}

/// What is said, and how it ends.
fn ran(args: &Args) -> Result<(String, ExitCode), String> {
    if args.locks.lock {
        return check_lock::ran(&args.directory, &args.locks, args.json);
    }
    if stores::is_database(args.directory.as_os_str()) {
        let text = "a database is looked through by stanby sql check, and its lease by --lock";
        return Err(text.to_owned());
    }
    let before = look(&args.directory, args.rules())?;
    if !args.repair {
        let text = if args.json { stopped::json(&before)? } else { shown(&before) };
        return Ok((text, code(&before)));
    }
    let changes = mended(args, &before)?;
    let after = look(&args.directory, args.rules())?;
    let text = match args.json {
        true => stopped::json(&Mended { before: &before, changes: &changes, after: &after })?,
        false => shown_mended(&before, &changes, &after),
    };
    Ok((text, code(&after)))
}

/// What a program is told of a store that was mended.
#[derive(Serialize)]
struct Mended<'a> {
    before: &'a Report,
    changes: &'a [Change],
    after: &'a Report,
}

fn code(report: &Report) -> ExitCode {
    match (report.is_damaged(), report.is_partial()) {
        (true, _) => ExitCode::from(DAMAGED),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    }
}

fn look(directory: &Path, rules: Rules) -> Result<Report, String> {
    let mut progress = Progress::new();
    let found = check::directory(directory, rules, &mut |what| {
        progress.say(&format!("looking at {what}"));
    });
    progress.end();
    let mut report = found.map_err(|error| error.to_string())?;
    // It is this process that fails then, and not the store.
    if let Some(why) = report.start_fails.as_ref().filter(|why| why.ends_with(NO_DESCRIPTORS)) {
        return Err(format!("{why}: let it have more (ulimit -n), and look again"));
    }
    report.writer = writers::find(directory).map(|writer| writer.who());
    Ok(report)
}

fn mended(args: &Args, found: &Report) -> Result<Vec<Change>, String> {
    let config = directory_of(args)?;
    let mut progress = Progress::new();
    let say = &mut |what: &str| progress.say(&format!("working at {what}"));
    let changes = mending::mend(&config, found, args.rules(), say);
    progress.end();
    changes.map_err(|error| format!("{}: {error}", args.directory.display()))
}

/// The configuration of a server over this directory alone.
fn directory_of(args: &Args) -> Result<Box<Config>, String> {
    let path = args.directory.to_str();
    let path = path.ok_or("the name of the directory is not UTF-8: give another")?;
    let polynomial = args.crc_poly.map(|number| number.to_string());
    let mut line = vec!["-store".to_owned(), "file".to_owned(), "-dir".to_owned(), path.to_owned()];
    line.extend(args.no_crc.then(|| "-file_crc=false".to_owned()));
    line.extend(polynomial.into_iter().flat_map(|number| ["-file_crc_poly".to_owned(), number]));
    let world = World {
        read: &|_| Err(io::ErrorKind::NotFound.into()),
        variable: &|_| None,
        secret: &|_| None,
        cores: 1,
    };
    stopped::server(&line, &world)
}

fn shown_mended(before: &Report, changes: &[Change], after: &Report) -> String {
    let mut text = shown(before);
    // Text never fails to be written to.
    match changes {
        [] => text.push_str("Nothing was changed.\n"),
        _ => text.push_str("\nmended:\n"),
    }
    for Change { file, what, means } in changes {
        let _ = writeln!(
            text,
            "  {}: {}; {means}",
            printable(&file.to_string_lossy()),
            printable(what)
        );
    }
    if !changes.is_empty() {
        text.push_str("\nafterwards:\n");
        text.push_str(&shown(after));
    }
    text
}

fn shown(report: &Report) -> String {
    let Report { directory, channels, messages, subscriptions, clients, .. } = report;
    let mut text = String::new();
    // Text never fails to be written to.
    let _ = writeln!(
        text,
        "{}: {channels} channel(s), {messages} message(s), {subscriptions} subscription(s), {clients} client(s)",
        directory.display()
    );
    if report.is_in_use {
        text.push_str("a server has its lock: what it writes meanwhile can look damaged\n");
    }
    if let Some(who) = &report.writer {
        let _ = writeln!(text, "{who}: what it writes meanwhile can look damaged");
    }
    let titles = [
        (Weight::Damage, "damaged"),
        (Weight::Unread, "not looked at"),
        (Weight::Mended, "put right by a start, without loss of what was acknowledged"),
        (Weight::Note, "to be known"),
    ];
    for (weight, title) in titles {
        let of_weight: Vec<&Finding> =
            report.findings.iter().filter(|finding| finding.weight == weight).collect();
        if of_weight.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}:");
        for Finding { file, offset, what, means, .. } in of_weight {
            let at = offset.map(|offset| format!(", byte {offset}")).unwrap_or_default();
            let file = if file.as_os_str().is_empty() { directory } else { file };
            let _ = writeln!(text, "  {}{at}: {what}; {means}", file.display());
        }
    }
    if !report.start.is_empty() {
        text.push_str("\na start would say:\n");
        report.start.iter().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
    if let Some(why) = &report.start_fails {
        let _ = writeln!(text, "\na start would fail: {why}");
    }
    let verdict = match (report.is_damaged(), report.is_partial()) {
        (true, _) => "damaged",
        (false, true) => "not all was looked at; nothing else is damaged",
        (false, false) => "nothing is damaged",
    };
    let _ = writeln!(
        text,
        "\n{verdict}. What no look at files can find: {}.",
        report.unseen.join("; ")
    );
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}
