//! Operating-system signals → Shutdown, Reload, ReopenLog
//!
//! Facts: spec configuration, section 6; core NATS, 18.2.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::sys::signal::{Signal as SystemSignal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGABRT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::base::files;
use crate::base::go::quote;
use crate::config::Program;
use crate::server::event::{self, Event};
use crate::server::start::StartError;

/// Signals that wait for the server; more of them are dropped by the kernel's own rules.
const WAITING_MAX: usize = 16;

/// Real-time signals, but for those that the C library and the reference's runtime use themselves.
const REAL_TIME: RangeInclusive<i32> = 35..=64;

/// Bytes of a file that holds a process id.
const PID_FILE_LEN_MAX: u64 = 4_096;

/// What somebody outside asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: stop, exit code 0.
    Interrupt,
    /// SIGTERM: stop, exit code 143 (streaming) or 1 (core).
    Terminate,
    /// SIGQUIT: stop at once, exit code 2.
    Quit,
    /// SIGHUP: read the configuration anew.
    Reload,
    /// SIGUSR1: open the log file anew.
    ReopenLog,
    /// SIGUSR2, core server only: send clients away, then stop.
    LameDuck,
}

impl Signal {
    /// The exit code of the process it ends; `None` if it does not end it.
    #[must_use]
    pub fn exit_code(self, program: Program) -> Option<u8> {
        match self {
            Self::Interrupt => Some(0),
            Self::Terminate => Some(program.terminated_code()),
            Self::Quit => Some(2),
            Self::Reload | Self::ReopenLog | Self::LameDuck => None,
        }
    }

    /// Whether it ends the process, of whichever program.
    #[must_use]
    pub fn ends_process(self) -> bool {
        self.exit_code(Program::Streaming).is_some()
    }

    fn from_number(number: i32, program: Program) -> Option<Self> {
        match number {
            SIGINT => Some(Self::Interrupt),
            SIGTERM => Some(Self::Terminate),
            SIGQUIT | SIGABRT => Some(Self::Quit),
            SIGHUP => Some(Self::Reload),
            SIGUSR1 => Some(Self::ReopenLog),
            // A streaming server ignores it, and goes on.
            SIGUSR2 if program == Program::Core => Some(Self::LameDuck),
            _ => None,
        }
    }
}

/// Signals that would end a process which has no handler for them, and do not end the reference:
/// they are heard and nothing is done. Handlers, other than ignored signals, are not inherited by
/// programs that we start.
fn survived() -> impl Iterator<Item = i32> {
    use SystemSignal::{SIGALRM, SIGIO, SIGPROF, SIGPWR, SIGVTALRM, SIGXCPU, SIGXFSZ};
    // A limit on the size of files refuses a write; one on the time of the CPU is told here.
    let named = [SIGALRM, SIGIO, SIGPROF, SIGPWR, SIGVTALRM, SIGXCPU, SIGXFSZ];
    named.into_iter().map(|signal| signal as i32).chain(REAL_TIME)
}

/// Takes over the process's signals; they come out of the channel, in order.
///
/// # Errors
/// When the system refuses the handlers or the thread.
pub fn listen(program: Program) -> io::Result<Receiver<Signal>> {
    let heard = [SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(heard)?;
    if std::process::id() == 1 {
        // The first process of a container has no default that would end it. Any other has, also
        // one that hangs, to which a watchdog sends it.
        signals.add_signal(SIGABRT)?;
    }
    for signal in survived() {
        // One that the system does not give is none that it sends.
        let _ = signals.add_signal(signal);
    }
    let (sender, receiver) = bounded(WAITING_MAX);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let wanted = signals.forever().filter_map(|n| Signal::from_number(n, program));
        for signal in wanted {
            if sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// A signal that waits for the server. Each kind waits once: what is asked twice is done once, and
/// no number of reloads is done before a stop.
#[derive(Debug)]
pub struct Asked {
    signal: Signal,
    is_waiting: Arc<AtomicBool>,
}

impl Asked {
    /// What is asked; from now on the same signal is another one.
    #[must_use]
    pub fn take(self) -> Signal {
        self.is_waiting.store(false, Ordering::Release);
        self.signal
    }
}

/// Makes events of what came since the start began, and of what will come.
///
/// # Errors
/// When the system refuses the thread.
pub fn forward(
    early: Vec<Signal>,
    signals: Receiver<Signal>,
    events: Sender<Event>,
) -> Result<(), StartError> {
    let relay = move || {
        let mut kinds: Vec<(Signal, Arc<AtomicBool>)> = Vec::new();
        for signal in early.into_iter().chain(signals) {
            let known = kinds.iter().position(|(kind, _)| *kind == signal);
            let at = known.unwrap_or_else(|| {
                kinds.push((signal, Arc::default()));
                kinds.len() - 1
            });
            let is_waiting = Arc::clone(&kinds[at].1);
            if !is_waiting.swap(true, Ordering::AcqRel) {
                event::post(&events, Event::Signal(Asked { signal, is_waiting }));
            }
        }
    };
    let thread = thread::Builder::new().name("signal-relay".to_owned());
    let what = "cannot start a thread";
    thread.spawn(relay).map(drop).map_err(|source| StartError::System { what, source })
}

/// Why no signal was sent. The texts are the reference's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// More than one equals sign.
    #[error("invalid signal parameters: [{0}]")]
    Parameters(String),
    /// What should be a process id is none.
    #[error("invalid pid: {0}")]
    Pid(String),
    /// No such command.
    #[error("unknown signal {}", quote(.0))]
    Command(String),
    /// No server runs.
    #[error("no {0} processes running")]
    NoProcess(&'static str),
    /// Several servers run; one has to be named.
    #[error("multiple {name} processes running:\n{pids}")]
    ManyProcesses {
        /// The program.
        name: &'static str,
        /// A line each.
        pids: String,
    },
    /// The system refused.
    #[error("{0}")]
    System(String),
}

/// Sends what `-sl <command>[=<pid or file>]` asks for.
///
/// # Errors
/// [`SendError`]; the program then exits with 1.
pub fn send(program: Program, request: &str) -> Result<(), SendError> {
    let parts: Vec<&str> = request.split('=').collect();
    let (command, process) = match parts.as_slice() {
        [command] => (*command, ""),
        [command, process] => (*command, *process),
        [_, _, rest @ ..] => return Err(SendError::Parameters(rest.join(" "))),
        [] => ("", ""),
    };
    let pid = if process.is_empty() { the_only_one(program)? } else { named(process)? };
    let signal = match command {
        "stop" => SystemSignal::SIGKILL,
        "quit" => SystemSignal::SIGINT,
        "term" => SystemSignal::SIGTERM,
        "reopen" => SystemSignal::SIGUSR1,
        "reload" => SystemSignal::SIGHUP,
        "ldm" => SystemSignal::SIGUSR2,
        other => return Err(SendError::Command(other.to_owned())),
    };
    kill(Pid::from_raw(pid), signal)
        .map_err(|error: Errno| SendError::System(error.desc().to_lowercase()))
}

/// A process id, or a file that holds one. Zero and negative ids would mean whole groups.
fn named(process: &str) -> Result<i32, SendError> {
    let read = files::read(Path::new(process), PID_FILE_LEN_MAX).ok();
    let text = read.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.unwrap_or_else(|| process.to_owned());
    let text = text.trim();
    match text.parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(SendError::Pid(text.to_owned())),
    }
}

fn the_only_one(program: Program) -> Result<i32, SendError> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .map_err(|_| SendError::System("unable to resolve pid, try providing one".to_owned()))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && is_server(*pid, program))
        .collect();
    pids.sort_unstable();
    match pids.as_slice() {
        [] => Err(SendError::NoProcess(program.name())),
        [pid] => Ok(*pid),
        many => {
            let pids: Vec<String> = many.iter().map(ToString::to_string).collect();
            Err(SendError::ManyProcesses { name: program.name(), pids: pids.join("\n") })
        }
    }
}

fn is_server(pid: i32, program: Program) -> bool {
    let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<String> =
        bytes.split(|byte| *byte == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    runs(&words, program)
}

/// Whether a command line is that of a server of `program`.
fn runs(words: &[String], program: Program) -> bool {
    let Some(executable) = words.first() else { return false };
    let name = executable.rsplit('/').next().unwrap_or_default();
    if name != "stanby" {
        return name == program.name();
    }
    match words.get(1).map(String::as_str) {
        Some(word) if !word.is_empty() && !word.starts_with('-') => {
            word == program.name() || (program == Program::Streaming && word == "stanby")
        }
        _ => program == Program::Streaming,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn bad_requests_are_refused_in_the_words_of_the_reference() {
        let send = |request| send(Program::Streaming, request).unwrap_err().to_string();
        assert_eq!(send("stop=a=b"), "invalid signal parameters: [b]");
        assert_eq!(send("stop=a=b=c"), "invalid signal parameters: [b c]");
        assert_eq!(send("stop=abc"), "invalid pid: abc");
        assert_eq!(send("stop=-1"), "invalid pid: -1");
        assert_eq!(send("zzz=1"), "unknown signal \"zzz\"");
        // Linux numbers processes up to 2^22.
        assert_eq!(send("term=99999999"), "no such process");
        let none = SendError::NoProcess(Program::Core.name());
        assert_eq!(none.to_string(), "no nats-server processes running");
        let many = SendError::ManyProcesses { name: "nats-server", pids: "1\n2".to_owned() };
        assert_eq!(many.to_string(), "multiple nats-server processes running:\n1\n2");
    }

    #[test]
    fn servers_are_found_by_any_of_their_names() {
        let is = |line: &str, program| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            runs(&words, program)
        };
        assert!(is("/usr/bin/nats-streaming-server -p 1", Program::Streaming));
        assert!(!is("/usr/bin/nats-streaming-server -p 1", Program::Core));
        assert!(is("nats-server", Program::Core));
        assert!(is("stanby", Program::Streaming));
        assert!(is("./stanby -p 1", Program::Streaming));
        assert!(is("stanby nats-server -p 1", Program::Core));
        assert!(!is("stanby nats-server -p 1", Program::Streaming));
        assert!(is("stanby nats-streaming-server", Program::Streaming));
        assert!(!is("stanby pub foo", Program::Streaming));
        assert!(!is("vi nats-server", Program::Core));
    }

    #[test]
    fn exit_codes_are_those_of_the_reference() {
        assert_eq!(Signal::Terminate.exit_code(Program::Streaming), Some(143));
        assert_eq!(Signal::Terminate.exit_code(Program::Core), Some(1));
        assert_eq!(Signal::Interrupt.exit_code(Program::Streaming), Some(0));
        assert_eq!(Signal::Reload.exit_code(Program::Core), None);
        assert_eq!(Signal::from_number(SIGUSR2, Program::Streaming), None);
        assert_eq!(Signal::from_number(SIGUSR2, Program::Core), Some(Signal::LameDuck));
        assert_eq!(Signal::from_number(SIGABRT, Program::Streaming), Some(Signal::Quit));
    }

    /// Goal: any number of reloads is one, and a stop waits for no more than that.
    #[test]
    fn signals_of_one_kind_wait_once() {
        let (sender, signals) = bounded(WAITING_MAX);
        let (events_in, events) = event::queue();
        let early = vec![Signal::ReopenLog, Signal::Reload, Signal::Reload];
        forward(early, signals, events_in).unwrap();
        for _ in 0..10_000 {
            sender.send(Signal::Reload).unwrap();
        }
        sender.send(Signal::Terminate).unwrap();
        drop(sender);
        let mut taken = Vec::new();
        while taken.last() != Some(&Signal::Terminate) {
            if let Event::Signal(asked) = events.recv().unwrap() {
                taken.push(asked.signal);
            }
        }
        assert_eq!(taken, [Signal::ReopenLog, Signal::Reload, Signal::Terminate]);
    }

    #[test]
    fn a_signal_to_the_process_comes_out_of_the_channel() {
        let receiver = listen(Program::Streaming).unwrap();
        let own = Pid::this();
        kill(own, SystemSignal::SIGUSR2).unwrap();
        kill(own, SystemSignal::SIGUSR1).unwrap();
        let signal = receiver.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert_eq!(signal, Signal::ReopenLog);
    }
}
