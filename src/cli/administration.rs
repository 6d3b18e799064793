//! What the commands have in common that ask the active member of this machine for its state, or to
//! change it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::connection::{self, CommandError, LoginArgs, printable_lines};
use super::control::{self, ControlError, ServerArgs};
use super::output;
use crate::base::civil::Civil;
use crate::base::go;
use crate::base::time::WallTime;
use crate::base::world;
use crate::client::request::{self, Question, Told};
use crate::client::{ClientError, Options};
use crate::server::administration_protocol::{Administered, Administration};
use crate::server::control_protocol::{Reply, Request, line};

/// The cluster ID of a server that is given none.
const CLUSTER_DEFAULT: &str = "test-cluster";

/// How long an answer may take: the server says itself before that that none came.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long a question that changes nothing is asked again once it was lost: a take-over is over by
/// then.
const AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// Pause before all servers are asked again.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);

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

    /// Asks one server after the other, until the active one has answered. A question that was lost
    /// on its way is asked again where that is safe: nothing is changed by it.
    fn ask_over_nats(&self, what: Administration) -> Result<Administered, ControlError> {
        if self.server.socket.is_some() {
            let text = "--socket asks a server of this machine, and --server or --context one over \
                        NATS: give one of them";
            return Err(ControlError::Refused(text.to_owned()));
        }
        let cluster = self.server.cluster.as_deref().unwrap_or(CLUSTER_DEFAULT);
        let options = self.login.load(cluster, "stanby-administration")?;
        let asked = Asked {
            cluster,
            subject: what.subject(cluster),
            is_change: what.is_change(),
            payload: line(&Request::Administer(what)),
        };
        let mut again_until = None;
        loop {
            let mut unasked = Vec::new();
            for server in &options.servers {
                let one = Options { servers: vec![server.clone()], ..options.clone() };
                match asked.ask(one, &connection::without_passwords(server)) {
                    Ok(told) => return Ok(told),
                    Err(Failed::ForAll(error)) => return Err(error),
                    Err(Failed::Here(error)) => unasked.push((server, error)),
                    Err(Failed::Lost(error)) => {
                        again_until.get_or_insert_with(|| world::instant() + AGAIN_WITHIN);
                        unasked.push((server, error));
                    }
                }
            }
            if again_until.is_none_or(|until| until <= world::instant()) {
                return Err(none_of(unasked));
            }
            thread::park_timeout(AGAIN_PAUSE);
        }
    }
}

/// What is asked over NATS.
struct Asked<'a> {
    cluster: &'a str,
    subject: String,
    payload: Vec<u8>,
    is_change: bool,
}

/// How a server was asked in vain.
enum Failed {
    /// Another one may answer.
    Here(ControlError),
    /// Its answer is lost, and the question changes nothing.
    Lost(ControlError),
    /// Asking others is of no use, or not safe.
    ForAll(ControlError),
}

impl Asked<'_> {
    /// Asks one server.
    fn ask(&self, one: Options, shown: &str) -> Result<Administered, Failed> {
        let question = Question {
            name: "administration",
            subject: &self.subject,
            payload: &self.payload,
            within: ANSWER_WITHIN,
            bytes_max: REPLY_BYTES_MAX,
            is_at_work: |reply| matches!(serde_json::from_slice(reply), Ok(Reply::Refused(_))),
        };
        match request::ask(one, question) {
            Ok(Told::Answer(answer)) => match serde_json::from_slice(&answer) {
                Ok(Reply::Elsewhere(why)) => Err(Failed::Here(ControlError::Refused(why))),
                Ok(reply) => control::administered(reply, Path::new(shown)).map_err(Failed::ForAll),
                Err(_) => Err(Failed::Here(ControlError::Other(PathBuf::from(shown)))),
            },
            Ok(Told::Nobody) => Err(Failed::Here(ControlError::Refused(format!(
                "{shown}: nobody listens on {}: the active server of {:?} does where its \
                 configuration names administrators",
                self.subject, self.cluster
            )))),
            Ok(Told::Unasked(why)) => {
                Err(Failed::Here(ControlError::Refused(format!("{shown}: {why}"))))
            }
            Ok(Told::Lost(why)) if self.is_change => {
                let (server, why) = (shown.to_owned(), why.to_string());
                Err(Failed::ForAll(ControlError::Unknown { server, why }))
            }
            Ok(Told::Lost(why)) => {
                Err(Failed::Lost(ControlError::Refused(format!("{shown}: {why}"))))
            }
            // Whoever could not be reached was asked nothing.
            Err(error @ ClientError::NoServer(_)) => {
                Err(Failed::Here(CommandError::Client(error).into()))
            }
            Err(error) => Err(Failed::ForAll(CommandError::Client(error).into())),
        }
    }
}

/// Why no server has answered: what each of them said.
fn none_of(mut failed: Vec<(&String, ControlError)>) -> ControlError {
    if failed.len() < 2 {
        return failed.pop().map_or_else(unexpected, |(_, error)| error);
    }
    let lines = failed.iter().map(|(server, error)| {
        let (server, said) = (connection::without_passwords(server), error.to_string());
        match said.starts_with(&server) {
            true => format!("\n  {said}"),
            false => format!("\n  {server}: {said}"),
        }
    });
    ControlError::Refused(format!("no server has answered:{}", lines.collect::<String>()))
}

/// What was done to one of several things, as a document and as a line.
pub struct Done {
    /// For programs.
    pub json: serde_json::Value,
    /// For people, with the end of the line.
    pub text: String,
}

/// Does the same to each of `names`, which are those of a `kind`: each has its line, and one that
/// fails keeps none of the others from it.
///
/// # Errors
/// [`ControlError::Some`] where one of several has failed.
pub fn each(
    (kind, names): (&str, &[String]),
    is_json: bool,
    mut does: impl FnMut(&str) -> Result<Done, ControlError>,
) -> Result<String, ControlError> {
    if let [name] = names {
        let Done { json, text } = does(name)?;
        return Ok(if is_json { connection::document(&json) } else { text });
    }
    let (mut documents, mut done, mut failed) = (Vec::new(), String::new(), Vec::new());
    for name in names {
        match does(name) {
            Ok(Done { json, text }) => {
                documents.push(json);
                done += &text;
            }
            Err(error) => {
                documents.push(serde_json::json!({ kind: name, "error": error.to_string() }));
                failed.push(format!("{kind} {name}: {error}"));
            }
        }
    }
    let done = if is_json { connection::document(&documents) } else { done };
    if failed.is_empty() { Ok(done) } else { Err(ControlError::Some { done, failed }) }
}

/// The answer is of another kind than the question.
#[must_use]
pub fn unexpected() -> ControlError {
    ControlError::Refused("the server answers another question: is it of another release?".into())
}

/// Prints what a command gives, or why it failed, and gives the exit code.
#[must_use]
pub fn end(command: &str, result: Result<String, ControlError>) -> ExitCode {
    match result {
        Ok(text) => output::end(text.as_bytes(), ExitCode::SUCCESS),
        Err(error) => {
            let mut lines = vec![error.to_string()];
            if let ControlError::Some { done, failed } = error {
                // What failed is said below, and so is the code.
                let _ = output::end(done.as_bytes(), ExitCode::FAILURE);
                lines = failed;
            }
            for line in lines {
                let _ = writeln!(io::stderr(), "stanby {command}: {}", printable_lines(&line));
            }
            ExitCode::FAILURE
        }
    }
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
