//! `stanby check`: what is wrong with a store in a directory, and what it means.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use super::connection::{self, printable};
use super::progress::Progress;
use super::stopped;
use crate::base::go;
use crate::site::writers;
use crate::store::check::{self, Finding, Report, Rules, Weight};

/// Look through a store in a directory: what is wrong, where, and what it means for clients
///
/// Nothing is changed. Its server should be stopped: what one writes meanwhile can look damaged.
/// For a database there is `stanby sql check`.
#[derive(Debug, clap::Parser)]
#[command(name = NAME, after_help = EXAMPLES)]
struct Args {
    /// Directory of the store (-dir of its server)
    directory: PathBuf,
    /// It was written with -file_crc=false
    #[arg(long)]
    no_crc: bool,
    /// Its -file_crc_poly, if that is not the usual one
    #[arg(long, value_name = "NUMBER", conflicts_with = "no_crc", value_parser = polynomial)]
    crc_poly: Option<u32>,
    /// As a JSON document
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Example:
  stanby check /var/lib/stanby
Exit code: 0 if nothing that was acknowledged is damaged, 3 if something is, 1 if not all was looked at.";

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
    let rules = match args.crc_poly {
        _ if args.no_crc => Rules::without_checksums(),
        Some(polynomial) => Rules::with_polynomial(polynomial),
        None => Rules::default(),
    };
    let mut progress = Progress::new();
    let found = check::directory(&args.directory, rules, &mut |what| {
        progress.say(&format!("looking at {what}"));
    });
    progress.end();
    match found {
        Ok(mut report) => {
            report.writer = writers::find(&args.directory).map(|writer| writer.who());
            let text = if args.json { stopped::json(&report) } else { Ok(shown(&report)) };
            let (is_told, is_damaged, is_partial) =
                (text.is_ok(), report.is_damaged(), report.is_partial());
            let code = stopped::end(NAME, text);
            match (is_told && is_damaged, is_told && is_partial) {
                (true, _) => ExitCode::from(DAMAGED),
                (false, true) => ExitCode::FAILURE,
                (false, false) => code,
            }
        }
        Err(error) => stopped::end(NAME, Err(printable(&error.to_string()))),
    }
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
