//! `stanby top`: a server at a glance, once a second, from its monitoring pages.

mod fetch;
mod keys;
mod sample;
mod screen;
mod view;

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{CommandFactory, Parser, ValueEnum};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::connection::{self, printable_lines};
use super::output;
use crate::base::world;
use fetch::{Address, FetchError, Limits};
use keys::Reaction;
use sample::Sample;
use view::{Sort, View};

const NAME: &str = "stanby top";

/// How soon a key is answered while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Show a server at a glance: rates, channels, and who does not keep up
///
/// It asks the monitoring port (-m) of a stanby or of a Go server, and draws anew until `q` is
/// pressed.
#[derive(Debug, Parser)]
#[command(name = NAME, after_help = EXAMPLES)]
struct Args {
    /// Where its monitoring pages are: http://HOST:PORT, with its http_base_path if it has one
    #[arg(default_value = "http://127.0.0.1:8222")]
    url: String,
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 1, value_parser = within(1..=3_600))]
    interval: u64,
    /// Order of the channels
    #[arg(short, long, value_enum, default_value_t = Sort::Rate)]
    sort: Sort,
    /// Channels that are asked for, in the order of their names
    #[arg(long, value_name = "COUNT", default_value_t = 2_000, value_parser = within(1..=100_000))]
    channels: u64,
    /// Authorities for https [variable: `NATS_CA`]
    #[arg(long, value_name = "FILE")]
    tlsca: Option<PathBuf>,
    /// Look twice, write one table, and end; so it is where the output is no terminal, too
    #[arg(long)]
    once: bool,
    /// The same as a JSON document
    #[arg(long)]
    json: bool,
}

fn within(range: RangeInclusive<u64>) -> RangedU64ValueParser {
    clap::value_parser!(u64).range(range)
}

const EXAMPLES: &str =
    "Keys: q ends, arrows and page keys move, Enter shows the subscriptions of a channel and Esc
leaves them, / finds by a part of the name, s changes the order, space stops and goes on.

Examples:
  stanby top
  stanby top http://stan-1:8222 --sort pending
  stanby top --once --json | jq .server.state
Exit code: 1 if no server answers.";

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
        Ok(code) => code,
        Err(why) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "{NAME}: {}", printable_lines(&why));
            ExitCode::FAILURE
        }
    }
}

fn ran(args: &Args) -> Result<ExitCode, String> {
    let ca = args
        .tlsca
        .clone()
        .or_else(|| env::var_os("NATS_CA").filter(|name| !name.is_empty()).map(PathBuf::from));
    let address = Address::parse(&args.url, ca).map_err(|error| error.to_string())?;
    let limits = Limits { channels: args.channels };
    let interval = Duration::from_secs(args.interval);
    let view = View::new(args.url.clone(), args.sort);
    if args.once || args.json || !io::stdout().is_terminal() {
        return once(&address, limits, interval, (view, args.json));
    }
    let first = fetch::sample(&address, limits).map_err(|error| error.to_string())?;
    watch(address, limits, interval, (view, first)).map(|()| ExitCode::SUCCESS)
}

/// Looks twice, since a rate needs two looks, and writes what there is.
fn once(
    address: &Address,
    limits: Limits,
    interval: Duration,
    (mut view, as_json): (View, bool),
) -> Result<ExitCode, String> {
    let look = || fetch::sample(address, limits).map_err(|error| error.to_string());
    view.take(Ok(look()?));
    thread::park_timeout(interval);
    view.take(Ok(look()?));
    let text = match as_json {
        true => super::stopped::json(&view.document())?,
        false => printable_lines(&view.text()),
    };
    Ok(output::end(text.as_bytes(), ExitCode::SUCCESS))
}

/// Draws until it is told to end.
fn watch(
    address: Address,
    limits: Limits,
    interval: Duration,
    (mut view, first): (View, Sample),
) -> Result<(), String> {
    view.take(Ok(first));
    view.has_colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (ask, asked) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let looker = thread::Builder::new().name("top".to_owned());
    let look = move || look_often(&address, limits, interval, (&asked, &tell));
    looker.spawn(look).map_err(|error| error.to_string())?;
    let mut terminal = ratatui::try_init().map_err(|error| format!("the terminal: {error}"))?;
    let ended = draw_until_quit(&mut terminal, &mut view, &told);
    ratatui::restore();
    // The thread ends when nobody can ask it any more.
    drop(ask);
    ended.map_err(|error| format!("the terminal: {error}"))
}

/// Looks once an interval, until whoever listens is gone.
fn look_often(
    address: &Address,
    limits: Limits,
    interval: Duration,
    (asked, tell): (&Receiver<()>, &Sender<Result<Sample, FetchError>>),
) {
    while asked.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
        if tell.send(fetch::sample(address, limits)).is_err() {
            return;
        }
    }
}

fn draw_until_quit(
    terminal: &mut ratatui::DefaultTerminal,
    view: &mut View,
    told: &Receiver<Result<Sample, FetchError>>,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| screen::draw(frame, view, world::instant()))?;
        if event::poll(LOOK_EVERY)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && keys::press(view, key) == Reaction::End
        {
            return Ok(());
        }
        told.try_iter().for_each(|sample| view.take(sample.map_err(|error| error.to_string())));
    }
}

impl ValueEnum for Sort {
    fn value_variants<'a>() -> &'a [Self] {
        &Sort::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}
