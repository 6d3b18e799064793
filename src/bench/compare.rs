//! Servers side by side: each is started, measured and ended in turn, pair by pair

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::BenchError;
use super::connection::Connection;
use super::plan::{Plan, Work};
use super::report::Summary;
use super::run;
use super::streaming::Client;
use crate::base::random::Random;
use crate::base::world;
use crate::client::Options;
use crate::programs::processes::Processes;
use crate::programs::{logs, ports, wait};

/// How long a server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take to end before it is killed.
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// Lines of a log that are shown of a server that does not start.
const TAIL_LINES: usize = 10;

/// Bytes that they have at most.
const TAIL_LEN_MAX: u64 = 1_000;

/// A server that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    /// What it is called.
    pub(crate) name: String,
    /// The words that start it; `{port}`, `{http}` and `{dir}` stand for what it gets.
    pub(crate) words: Vec<String>,
}

impl Contender {
    /// Of `NAME=COMMAND`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("it is NAME=COMMAND")?;
        let words: Vec<String> = command.split_ascii_whitespace().map(str::to_owned).collect();
        if name.is_empty() || name.chars().any(char::is_control) || words.is_empty() {
            return Err("it is NAME=COMMAND".to_owned());
        }
        if !words.iter().any(|word| word.contains("{port}")) {
            return Err("the command has no {port}, on which the server is to listen".to_owned());
        }
        Ok(Self { name: name.to_owned(), words })
    }

    fn args(&self, port: u16, http: u16, folder: &Path) -> Vec<String> {
        let folder = folder.display().to_string();
        let (port, http) = (port.to_string(), http.to_string());
        let filled = |word: &String| {
            word.replace("{port}", &port).replace("{http}", &http).replace("{dir}", &folder)
        };
        self.words.iter().map(filled).collect()
    }
}

/// One run of one server.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Which pair; from 1 on.
    pub(crate) pair: usize,
    /// Which server.
    pub(crate) contender: usize,
    /// Seconds from its start until it took a client.
    pub(crate) ready: f64,
    /// What was measured.
    pub(crate) summary: Summary,
}

/// Measures all servers in turn, so often; in every other pair in the other order.
///
/// # Errors
/// When a server does not start, or a run fails.
pub(crate) fn run(
    contenders: &[Contender],
    pairs: usize,
    (plan, login): (&Plan, &Options),
    (folder, is_over): (&Path, &Arc<AtomicBool>),
    mut tell: impl FnMut(&str),
) -> Result<Vec<Round>, BenchError> {
    let mut rounds = Vec::new();
    for pair in 1..=pairs {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if pair % 2 == 0 {
            order.reverse();
        }
        for contender in order {
            let found = &contenders[contender];
            tell(&format!("pair {pair} of {pairs}: {}", found.name));
            let place = folder.join(format!("{pair}-{contender}"));
            let (ready, summary) = measure(found, plan, login, (&place, is_over))?;
            rounds.push(Round { pair, contender, ready, summary });
        }
    }
    Ok(rounds)
}

fn measure(
    contender: &Contender,
    plan: &Plan,
    login: &Options,
    (place, is_over): (&Path, &Arc<AtomicBool>),
) -> Result<(f64, Summary), BenchError> {
    std::fs::create_dir(place).map_err(BenchError::io("cannot make a folder for a server"))?;
    let mut server = Server::start(contender, place)?;
    let login = Options { servers: vec![format!("127.0.0.1:{}", server.port)], ..login.clone() };
    let ready = server.wait(contender, plan.work, &login, is_over)?;
    if plan.replays {
        let fill = Plan {
            publishers: 1,
            subscribers: 0,
            queue_members: 0,
            replays: false,
            rate: None,
            ..plan.clone()
        };
        run::run(&fill, &login, None, is_over)?;
    }
    let summary = run::run(plan, &login, Some(server.processes.id()), is_over);
    server.end();
    drop(server);
    // What a server leaves is of no use to anybody.
    let _ = std::fs::remove_dir_all(place);
    Ok((ready, summary?))
}

struct Server {
    processes: Processes,
    port: u16,
    log: PathBuf,
}

impl Server {
    fn start(contender: &Contender, place: &Path) -> Result<Self, BenchError> {
        let no_port = BenchError::io("cannot find a free port");
        let ports = ports::free(2, None).map_err(|error| no_port(error.source))?;
        let (port, http) = (ports[0], ports[1]);
        let log = place.join("log");
        let args = contender.args(port, http, &place.join("store"));
        let opened = logs::open(&log);
        let (out, err) = opened.map_err(BenchError::io("cannot write the log of a server"))?;
        let mut command = Command::new(&args[0]);
        command.args(&args[1..]).stdin(Stdio::null()).stdout(out).stderr(err);
        let started = Processes::start(&mut command);
        let processes = started.map_err(|source| BenchError::Ended {
            who: contender.name.clone(),
            reason: format!("cannot run {}: {source}", args[0]),
        })?;
        Ok(Self { processes, port, log })
    }

    /// Waits until it takes a client; how many seconds that took.
    fn wait(
        &mut self,
        contender: &Contender,
        work: Work,
        login: &Options,
        is_over: &AtomicBool,
    ) -> Result<f64, BenchError> {
        let began = world::instant();
        let entropy = world::entropy().map_err(BenchError::io("cannot read entropy"))?;
        let mut random = Random::new(entropy);
        let (mut error, mut has_ended) = (None, false);
        let has_decided = || {
            error = take_client(work, login, &mut random).err();
            has_ended = self.processes.have_ended();
            error.is_none() || has_ended
        };
        // Which of both it is, or neither, is looked at below.
        let is_interrupted = || is_over.load(Ordering::Relaxed);
        let _ = wait::is_so_within(READY_WITHIN, is_interrupted, has_decided);
        let Some(error) = error else {
            return Ok(world::instant().since(began).as_secs_f64());
        };
        if is_interrupted() {
            return Err(BenchError::Interrupted);
        }
        let end = if has_ended { "has ended" } else { "takes no client" };
        let tail = logs::tail(&self.log, TAIL_LINES, TAIL_LEN_MAX).join("\n");
        let reason = format!("it {end} ({error}); the last it said:\n{tail}");
        Err(BenchError::Ended { who: contender.name.clone(), reason })
    }

    fn end(&mut self) {
        // They may have ended already; who does not end in time is killed.
        let _ = self.processes.signal(Signal::SIGTERM);
        let _ = wait::is_so_within(ENDED_WITHIN, || false, || self.processes.have_ended());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.processes.kill();
    }
}

fn take_client(work: Work, login: &Options, random: &mut Random) -> Result<(), BenchError> {
    match work {
        Work::Streaming => {
            let id = format!("bench-ready-{}", random.unique_id());
            Client::connect(login, &id, random).and_then(Client::close)
        }
        Work::Core | Work::Request | Work::JetStream => {
            Connection::open(login, "bench-ready").map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_command_gets_its_port_and_folder() {
        let found = Contender::parse("go=nats-streaming-server -p {port} -dir {dir}/a").unwrap();
        let args = found.args(7, 8, Path::new("/x"));
        assert_eq!(args, ["nats-streaming-server", "-p", "7", "-dir", "/x/a"]);
        for wrong in ["a", "=b {port}", "a=", "a=b"] {
            assert!(Contender::parse(wrong).is_err(), "{wrong}");
        }
    }
}
