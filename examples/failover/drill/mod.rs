//! Kills the active of a pair again and again under load, and checks what clients were told.
//!
//! Used by the example beside it and by the tests; it knows servers as processes only.

#![allow(dead_code, reason = "the examples and tests that share it use different parts")]

pub mod database;
pub mod ledger;
pub mod load;
pub mod pair;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use stanby::base::random::Random;
use stanby::base::world;
use stanby::client::ClientError;

use self::ledger::{Faults, Kill, Round};
use self::load::{Notes, Publisher, Readers};
use self::pair::Pair;

/// How long the first ack after a kill may take.
const FIRST_ACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two looks at a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// So many acks are waited for before each kill, and up to as many more by chance.
const ACKS_PER_ROUND: u64 = 50;

/// How the active ends in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By SIGKILL: it has no time for anything.
    Kill,
    /// By SIGTERM: it commits what is staged and hands the lease over.
    Terminate,
}

/// What a drill does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub binary: PathBuf,
    /// How often the active is killed.
    pub rounds: usize,
    /// Passed on to the servers.
    pub loops: Option<u16>,
    /// The database that keeps the store; `None` = files.
    pub sql_driver: Option<String>,
    /// The program of the external NATS server that clients and members connect to; `None` = the
    /// members are NATS servers themselves.
    pub external: Option<PathBuf>,
    /// Pairs that share the channels; more than one need an external server.
    pub partitions: usize,
    /// Channels that are published to in turn.
    pub channels: usize,
    /// Durable subscribers, each on every channel.
    pub durables: usize,
    /// Members of one durable queue group on every channel.
    pub queue_members: usize,
    /// Time between two messages.
    pub publish_every: Duration,
    /// How the active ends.
    pub ending: Ending,
    /// More flags for the servers.
    pub server_args: Vec<String>,
    /// Whether the servers are one NATS cluster.
    pub has_routes: bool,
}

impl Plan {
    /// Five rounds, one channel, one durable, a message every 5 ms.
    pub fn new(binary: PathBuf) -> Self {
        Self {
            binary,
            rounds: 5,
            loops: None,
            sql_driver: None,
            external: None,
            partitions: 1,
            channels: 1,
            durables: 1,
            queue_members: 0,
            publish_every: Duration::from_millis(5),
            ending: Ending::Kill,
            server_args: Vec::new(),
            has_routes: true,
        }
    }
}

/// Why a drill could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DrillError(pub String);

impl DrillError {
    /// An error that is nobody's but ours.
    pub fn said(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// What was being done when the system refused.
    pub fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self(format!("{action}: {error}"))
    }
}

/// The server of the same build as this example: `target/<profile>/stanby`.
pub fn own_server() -> Result<PathBuf, DrillError> {
    let own = std::env::current_exe().map_err(DrillError::io("where am I"))?;
    let folder = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let server = folder.join("stanby");
    match server.exists() {
        true => Ok(server),
        false => {
            let profile = folder.file_name().unwrap_or_default().to_string_lossy();
            let profile = if profile == "debug" { "dev".into() } else { profile };
            Err(DrillError(format!(
                "{} does not exist: run `cargo build --profile {profile} --bins --examples`, or \
                 name a server by --bin",
                server.display(),
            )))
        }
    }
}

impl From<ClientError> for DrillError {
    fn from(error: ClientError) -> Self {
        Self(format!("client: {error}"))
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// One row a kill.
    pub rounds: Vec<Round>,
    /// What is wrong.
    pub faults: Faults,
    /// Messages that are stored.
    pub stored: usize,
    /// How the ended servers ended, by round.
    pub exits: Vec<ExitStatus>,
}

/// Does what `plan` says, in `folder`, which stays; `tell` hears how far it is.
pub fn run(plan: &Plan, folder: &Path, tell: &mut dyn FnMut(&str)) -> Result<Report, DrillError> {
    let seed = world::entropy().map_err(DrillError::io("cannot read entropy"))?;
    let mut random = Random::new(seed);
    let mut pairs = match plan.partitions {
        0 | 1 => vec![Pair::start(plan, folder)?],
        _ => Pair::start_partitions(plan, folder)?,
    };
    let servers = pairs[0].servers();
    let notes = Notes::default();
    notes.begin_round(1);
    let readers = Readers::start(plan, &servers, &notes)?;
    let publisher = Publisher::start(plan, &servers, &notes, "publisher")?;
    let mut actives = vec![0; pairs.len()];
    let mut exits = Vec::new();
    for round in 1..=plan.rounds {
        notes.begin_round(round);
        let place = round % pairs.len();
        let (pair, active) = (&mut pairs[place], actives[place]);
        wait_for_acks(&notes, ACKS_PER_ROUND + random.below(ACKS_PER_ROUND))?;
        fail_over(pair, active, &notes, plan.ending)?;
        tell(&format!("round {round} of {}: the standby has taken over", plan.rounds));
        exits.push(pair.wait_exit(active)?);
        pair.restart(active)?;
        actives[place] = 1 - active;
        pair.wait_active(1 - active)?;
        pair.wait_standby(active)?;
    }
    Ok(Report { exits, ..finish(plan, &servers, &notes, publisher, readers)? })
}

/// Loads servers that somebody else starts and ends, until `orders` end; each line of them is
/// answered with the number of acks so far.
pub fn attend(
    plan: &Plan,
    servers: &[String; 2],
    orders: &mut dyn BufRead,
    answers: &mut dyn Write,
) -> Result<Report, DrillError> {
    let notes = Notes::default();
    let readers = Readers::start(plan, servers, &notes)?;
    let publisher = Publisher::start(plan, servers, &notes, "publisher")?;
    for line in orders.lines() {
        line.map_err(DrillError::io("cannot read the orders"))?;
        let count = notes.ledger().ack_count;
        let answered = writeln!(answers, "{count}").and_then(|()| answers.flush());
        answered.map_err(DrillError::io("cannot answer"))?;
    }
    finish(plan, servers, &notes, publisher, readers)
}

/// Ends the load, reads everything again and compares.
fn finish(
    plan: &Plan,
    servers: &[String; 2],
    notes: &Notes,
    publisher: Publisher,
    readers: Readers,
) -> Result<Report, DrillError> {
    publisher.finish()?;
    let stored = load::replay(plan, servers, notes)?;
    notes.ledger().stored = stored;
    readers.finish(notes)?;
    let ledger = notes.ledger();
    Ok(Report {
        rounds: ledger.rounds(),
        faults: ledger.faults(world::now()),
        stored: ledger.stored.iter().map(ledger::Received::count).sum(),
        exits: Vec::new(),
    })
}

/// Waits until the servers have worked for a while: from now on, `count` acks.
pub fn wait_for_acks(notes: &Notes, count: u64) -> Result<(), DrillError> {
    let before = notes.ledger().ack_count;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = || notes.ledger().ack_count - before;
    if wait_until(FIRST_ACK_TIMEOUT, || found() >= count) {
        return Ok(());
    }
    Err(DrillError(format!("only {} of {count} acks in {FIRST_ACK_TIMEOUT:?}", found())))
}

/// Ends the active and waits for the first ack of a message published after that.
pub fn fail_over(
    pair: &mut Pair,
    active: usize,
    notes: &Notes,
    ending: Ending,
) -> Result<(), DrillError> {
    match ending {
        Ending::Kill => pair.kill(active)?,
        Ending::Terminate => pair.signal(active, Signal::SIGTERM)?,
    }
    notes.ledger().kills.push(Kill { at: world::instant(), first_ack: None });
    let is_over = || notes.ledger().kills.last().is_some_and(|kill| kill.first_ack.is_some());
    if wait_until(FIRST_ACK_TIMEOUT, is_over) {
        return Ok(());
    }
    Err(DrillError(format!("no ack in {FIRST_ACK_TIMEOUT:?} after the active was killed")))
}

/// Looks until `is_done`, at most `timeout`; whether it is.
pub fn wait_until(timeout: Duration, mut is_done: impl FnMut() -> bool) -> bool {
    let deadline = world::instant() + timeout;
    loop {
        if is_done() {
            return true;
        }
        if world::instant() >= deadline {
            return false;
        }
        thread::park_timeout(LOOK_PAUSE);
    }
}

impl Report {
    /// Median and worst time from kill to first ack.
    pub fn first_ack(&self) -> Option<(Duration, Duration)> {
        let mut times: Vec<Duration> =
            self.rounds.iter().filter_map(|round| round.first_ack).collect();
        times.sort();
        Some((*times.get(times.len() / 2)?, *times.last()?))
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.are_none() && self.rounds.iter().all(|round| round.first_ack.is_some())
    }

    /// Writes the table and the verdict.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "round  first ack     acked   lost  redelivered")?;
        for round in &self.rounds {
            let first_ack = round
                .first_ack
                .map_or_else(|| "never".to_owned(), |time| format!("{:.1} ms", millis(time)));
            writeln!(
                out,
                "{:>5}  {first_ack:>9}  {:>8}  {:>5}  {:>11}",
                round.number, round.acked, round.lost, round.redelivered
            )?;
        }
        if let Some((median, worst)) = self.first_ack() {
            let (median, worst) = (millis(median), millis(worst));
            writeln!(out, "kill to first ack: median {median:.1} ms, worst {worst:.1} ms")?;
        }
        if self.is_sound() {
            return writeln!(
                out,
                "verdict: {} messages stored; none lost, stored again after its ack or out of order, and every \
                 subscriber got all of them",
                self.stored
            );
        }
        let faults = &self.faults;
        writeln!(
            out,
            "verdict: FAILED: {} acknowledged messages lost, {} stored again after their ack, {} never \
             published, {} sequences missing, {} timestamps \
             fall, {} conflicting deliveries, {} deliveries missing",
            faults.lost,
            faults.doubled,
            faults.strange,
            faults.holes,
            faults.falling_timestamps,
            faults.conflicts,
            faults.undelivered
        )
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
