//! What the commands have in common that ask the active member of this machine for its state, or to
//! change it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::connection::{self, CommandError, LoginArgs, printable, printable_lines};
use super::control::{self, ControlError, ServerArgs};
use crate::base::civil::Civil;
use crate::base::go;
use crate::base::time::WallTime;
use crate::base::world;
use crate::client::request::{self, Question};
use crate::client::{ClientError, Options};
use crate::server::administration_protocol::{Administered, Administration};
use crate::server::control_protocol::{Reply, Request, line};

/// The cluster ID of a server that is given none.
const CLUSTER_DEFAULT: &str = "test-cluster";

/// How long an answer may take: the server says itself before that that none came.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Longest answer over NATS.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What each of these commands takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    #[command(flatten)]
    server: ServerArgs,
    #[command(
        flatten,
        next_help_heading = "Over NATS, from any machine, with --server or --context"
    )]
    login: LoginArgs,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// Asks the active member.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn ask(&self, what: Administration) -> Result<Administered, ControlError> {
        if self.login.is_given() {
            return self.ask_over_nats(what);
        }
        let found = self.server.find()?;
        let socket = control::active_socket(&found, None)?;
        control::administer(&socket, what, ANSWER_WITHIN)
    }

    /// Asks one server after the other, until the active one has answered.
    fn ask_over_nats(&self, what: Administration) -> Result<Administered, ControlError> {
        if self.server.socket.is_some() {
            let text = "--socket asks a server of this machine, and --server or --context one over \
                        NATS: give one of them";
            return Err(ControlError::Refused(text.to_owned()));
        }
        let cluster = self.server.cluster.as_deref().unwrap_or(CLUSTER_DEFAULT);
        let options = self.login.load(cluster, "stanby-administration")?;
        let subject = what.subject(cluster);
        let payload = line(&Request::Administer(what));
        let name = "administration";
        let (within, bytes_max) = (ANSWER_WITHIN, REPLY_BYTES_MAX);
        let question = Question { name, subject: &subject, payload: &payload, within, bytes_max };
        let mut last = None;
        for server in &options.servers {
            let one = Options { servers: vec![server.clone()], ..options.clone() };
            let shown = connection::without_passwords(server);
            let failed = match request::ask(one, question) {
                Ok(Some(answer)) => match serde_json::from_slice(&answer) {
                    Ok(Reply::Elsewhere(why)) => ControlError::Refused(why),
                    Ok(reply) => return control::administered(reply, Path::new(&shown)),
                    Err(_) => ControlError::Other(PathBuf::from(shown)),
                },
                Ok(None) => ControlError::Refused(format!(
                    "{shown}: nobody listens on {subject}: the active server of {cluster:?} does \
                     where its configuration names administrators"
                )),
                // Whoever could not be reached was asked nothing.
                Err(error @ ClientError::NoServer(_)) => CommandError::Client(error).into(),
                Err(error) => return Err(CommandError::Client(error).into()),
            };
            last.get_or_insert(failed);
        }
        Err(last.unwrap_or_else(unexpected))
    }
}

/// The answer is of another kind than the question.
#[must_use]
pub fn unexpected() -> ControlError {
    ControlError::Refused("the server answers another question: is it of another release?".into())
}

/// A value as a JSON document.
#[must_use]
pub fn document(value: &impl Serialize) -> String {
    connection::document(value)
}

/// Prints what a command gives, or why it failed, and gives the exit code.
#[must_use]
pub fn end(command: &str, result: Result<String, ControlError>) -> ExitCode {
    match result {
        Ok(text) => {
            // A closed stdout leaves nobody to tell.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = printable_lines(&error.to_string());
            let _ = writeln!(io::stderr(), "stanby {command}: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Columns as wide as they have to be; the last one as it is.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A table with a head, of cells that may hold what clients have named.
#[must_use]
pub fn listed<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let head = head.map(str::to_owned).to_vec();
    let rows = rows.map(|row| row.map(|cell| printable(&cell)).to_vec());
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// A moment as an argument: so long ago (`90s`, `2h30m`), or a date of UTC
/// (`2026-01-31T12:00:00Z`).
///
/// # Errors
/// What is expected.
pub fn moment(text: &str) -> Result<WallTime, String> {
    if let Ok(nanos) = go::duration(text)
        && 0 <= nanos
    {
        return Ok(WallTime(world::now().wall.0.saturating_sub(nanos)));
    }
    date(text).ok_or_else(|| {
        format!(
            "invalid time {text:?}: expected how long ago, as in 2h30m, or 2026-01-31T12:00:00Z"
        )
    })
}

fn date(text: &str) -> Option<WallTime> {
    let (day, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let mut numbers = day.split('-').chain(clock.split(':')).map(|it| it.parse::<i64>().ok());
    let mut next = || numbers.next().flatten();
    let (year, month, day) = (next()?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    if numbers.next().is_some() || !(1970..=2260).contains(&year) {
        return None;
    }
    // Days from the first of March of year 0: the leap day is the last of its year.
    let (year, month_index) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leaps + (153 * month_index + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    // What is no date comes out as another one.
    (Civil::at(seconds).to_string() + "Z" == text).then(|| WallTime(seconds * 1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_date_or_so_long_ago() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(WallTime(1_000_000_000)));
        assert_eq!(moment("2024-02-29T12:30:00Z"), Ok(WallTime(1_709_209_800_000_000_000)));
        let before = world::now().wall;
        let ago = moment("1h").expect("a duration");
        assert!((before.0 - ago.0 - 3_600_000_000_000).abs() < 60_000_000_000);
        for wrong in
            ["", "yesterday", "2023-02-29T00:00:00Z", "2024-01-01", "-1h", "2024-13-01T00:00:00Z"]
        {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
