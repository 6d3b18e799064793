//! `stanby status`: a group at a glance, from any of its members on this machine.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;

use super::connection::{self, printable, printable_lines};
use super::control::{ControlError, ServerArgs};
use super::output;
use super::table::table;
use crate::base::civil::Civil;
use crate::base::time::WallTime;
use crate::base::world;
use crate::election::membership::{Known, MemberNews, Standing, TakeOver};
use crate::server::control_protocol::GroupStatus;

/// Show the servers of a group: who is active, who would take over, and the last take-overs
///
/// It asks a server that runs on this machine, by its control socket; what that one knows of the
/// others they have told it, so of one that it cannot reach it shows nothing.
#[derive(Debug, clap::Parser)]
#[command(name = "stanby status", after_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// As a JSON document
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  stanby status
  stanby status --cluster orders --json
Exit code: 0 if somebody is active and each member is ready, 3 if not (also for two minutes after a
member has fallen silent), 1 if no server answers.";

/// Nobody is active, or a member is not ready.
const NOT_WELL: u8 = 3;

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command; `args` come without its name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match connection::parse::<Args>("stanby status", args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match show(&args) {
        Ok((text, is_well)) => {
            let code = if is_well { ExitCode::SUCCESS } else { ExitCode::from(NOT_WELL) };
            output::end(text.as_bytes(), code)
        }
        Err(error) => {
            let _ =
                writeln!(io::stderr(), "stanby status: {}", printable_lines(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn show(args: &Args) -> Result<(String, bool), ControlError> {
    let status = args.server.find()?.status;
    let is_well = is_well(&status);
    if args.json {
        return Ok((connection::document(&status), is_well));
    }
    Ok((told(&status, world::now().wall), is_well))
}

/// A member that has fallen silent is not well, until it is back or forgotten.
fn is_well(status: &GroupStatus) -> bool {
    let is_served = status.active().is_some() || serves_go(status).is_some();
    is_served && status.members.iter().all(Known::is_ready)
}

/// What a standby that is ready waits for, where that is no server of ours.
fn serves_go(status: &GroupStatus) -> Option<&String> {
    let own = &status.members.first()?.news;
    let is_ready = own.role == Standing::Standby && own.trouble.is_none() && own.active.is_none();
    own.waits_for.as_ref().filter(|_| is_ready)
}

/// The document as people read it.
fn told(status: &GroupStatus, now: WallTime) -> String {
    let GroupStatus { cluster_id, group, store, members } = status;
    let mut text = match group {
        Some(group) => format!("cluster {cluster_id}, group {group}, store {store}\n"),
        None => format!("cluster {cluster_id}, stand-alone, store {store}\n"),
    };
    let mut rows = vec![
        ["", "SERVER", "ROLE", "SINCE", "EPOCH", "PROCESS", "ROUTES", "READY"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(members.iter().enumerate().map(|(index, known)| row(known, index == 0, now)));
    text.push_str(&table(&rows));
    match (status.active(), serves_go(status)) {
        (Some(_), _) => (),
        (None, Some(why)) => {
            let _ = writeln!(text, "\nthis server stands by: {why}");
        }
        (None, None) => text.push_str(&nobody_active(members)),
    }
    let mut done: Vec<(&MemberNews, &TakeOver)> = members
        .iter()
        .flat_map(|known| known.news.take_overs.iter().map(|done| (&known.news, done)))
        .collect();
    done.sort_by_key(|(_, done)| std::cmp::Reverse(done.epoch));
    if !done.is_empty() {
        text.push_str("\nlast take-overs\n");
    }
    for (news, TakeOver { epoch, at, millis, after }) in done.iter().take(8) {
        let at = Civil::at(at.div_euclid(1_000_000_000));
        // Text never fails to be written to.
        let _ = writeln!(
            text,
            "  {at}  epoch {epoch} by {} in {millis:.1} ms; the one before: {after}",
            printable(news.name.as_ref().unwrap_or(&news.server_id))
        );
    }
    printable_lines(&text)
}

fn nobody_active(members: &[Known]) -> String {
    let named = members.first().and_then(|own| own.news.active.as_ref());
    match named {
        Some(active) => format!(
            "\nthe store names {} (epoch {}, process {} on {}) as active, and no route brings \
             anything of it\n",
            active.server_id, active.epoch, active.pid, active.host
        ),
        None => "\nnobody is active that this server knows of\n".to_owned(),
    }
}

fn row(known: &Known, is_asked: bool, now: WallTime) -> Vec<String> {
    let Known { news, silent_ms } = known;
    let ready = match &news.trouble {
        _ if news.role == Standing::Silent => format!("silent for {} s", silent_ms / 1_000),
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    let seconds = now.0.saturating_sub(news.since).max(0) / 1_000_000_000;
    let epoch = news.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
    vec![
        if is_asked { "*" } else { "" }.to_owned(),
        news.name.clone().unwrap_or_else(|| news.server_id.clone()),
        news.role.name().to_owned(),
        span(seconds),
        epoch,
        format!("{} on {}", news.pid, news.host),
        news.routes.to_string(),
        ready,
    ]
}

/// A time that has passed, in its two largest units.
fn span(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        86_400.. => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::membership::KnownActive;

    fn member(id: &str, role: Standing) -> Known {
        let news = MemberNews {
            server_id: id.to_owned(),
            host: "host".to_owned(),
            pid: 7,
            role,
            epoch: (role == Standing::Active).then_some(3),
            ..MemberNews::default()
        };
        Known { news, silent_ms: 0 }
    }

    fn group(members: Vec<Known>) -> GroupStatus {
        let group = Some("g".to_owned());
        GroupStatus { cluster_id: "c".to_owned(), group, store: "/data".to_owned(), members }
    }

    #[test]
    fn a_group_is_a_table() {
        let mut active = member("first", Standing::Active);
        active.news.take_overs.push(TakeOver {
            epoch: 3,
            at: 1_700_000_000_000_000_000,
            millis: 12.34,
            after: "it died".to_owned(),
        });
        let mut standby = member("second", Standing::Standby);
        standby.news.trouble = Some("no \u{1b}[31mlock".to_owned());
        let status = group(vec![active, standby]);
        let text = told(&status, WallTime(61_000_000_000));
        let expected = "\
cluster c, group g, store /data
   SERVER  ROLE     SINCE  EPOCH  PROCESS    ROUTES  READY
*  first   active   1m01s  3      7 on host  0       yes
   second  standby  1m01s  -      7 on host  0       no: no \\u{1b}[31mlock

last take-overs
  2023-11-14T22:13:20  epoch 3 by first in 12.3 ms; the one before: it died
";
        assert_eq!(text, expected);
        assert!(!is_well(&status));
    }

    #[test]
    fn an_active_that_nobody_hears_is_named_by_the_store() {
        let mut standby = member("second", Standing::Standby);
        let active =
            KnownActive { server_id: "first".to_owned(), epoch: 9, ..KnownActive::default() };
        standby.news.active = Some(active);
        let status = group(vec![standby]);
        let text = told(&status, WallTime(0));
        assert!(text.contains("the store names first (epoch 9, process 0 on )"), "{text}");
        assert!(!is_well(&status));
    }

    #[test]
    fn a_group_with_a_member_that_is_silent_is_not_well() {
        let mut gone = member("gone", Standing::Silent);
        gone.silent_ms = 75_000;
        let status = group(vec![member("first", Standing::Active), gone]);
        assert!(told(&status, WallTime(0)).contains("silent for 75 s"));
        assert!(!is_well(&status) && is_well(&group(vec![member("first", Standing::Active)])));
    }

    #[test]
    fn a_standby_behind_a_go_server_is_well() {
        let mut standby = member("second", Standing::Standby);
        standby.news.waits_for = Some("the lock is held, but not by a stanby server".to_owned());
        let status = group(vec![standby]);
        assert!(is_well(&status));
        assert!(told(&status, WallTime(0)).contains("stands by: the lock is held, but not by"));
    }
}
