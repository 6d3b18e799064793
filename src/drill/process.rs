//! Programs that the drill runs, each with all that it starts: they are signalled as one, nobody of
//! them is left over, and whoever hangs or talks without end is ended.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::DrillError;
use super::patience::Patience;
use crate::base::files;
use crate::base::go;
use crate::base::time::Instant;
use crate::base::world;

/// How long what was killed may take until it is gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How long the last words of a program that has ended may take: what it has left running may hold
/// its output open.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(200);

/// Bytes that a program may print before it is ended.
const PRINTED_MAX: usize = 1 << 20;

/// Bytes of them that are kept.
const KEPT_MAX: usize = 16 * 1024;

/// How often it is looked at whether all of a program have ended whose first process has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Bytes of what the kernel says of a process in one line.
const STAT_LEN_MAX: u64 = 4096;

/// Bytes that are taken at a time.
const CHUNK_LEN: usize = 4 * 1024;

/// A program with all that it has started, but for what has left its process group.
#[derive(Debug)]
pub(crate) struct Processes {
    first: Child,
    status: Option<ExitStatus>,
    are_gone: bool,
    looked_at: Option<Instant>,
}

impl Processes {
    /// Starts a program in a process group of its own: a Ctrl-C is for the drill, which ends what
    /// it has started itself.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let first = command.process_group(0).spawn()?;
        Ok(Self { first, status: None, are_gone: false, looked_at: None })
    }

    /// How the program itself has ended; some of what it has started may still run.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.first.try_wait().ok().flatten();
        }
        self.status
    }

    /// Whether nothing of it runs any more.
    pub(crate) fn have_ended(&mut self) -> bool {
        if self.are_gone {
            return true;
        }
        let Ok(group) = self.group() else { return true };
        let now = world::instant();
        let is_known = self.looked_at.is_some_and(|at| now.since(at) < LOOK_EVERY);
        if self.status().is_none() || is_known {
            return false;
        }
        self.looked_at = Some(now);
        // From then on its number may be somebody else's.
        self.are_gone = signal::killpg(group, None) == Err(Errno::ESRCH) || is_dead(group);
        self.are_gone
    }

    /// Sends a signal to all of it.
    pub(crate) fn signal(&mut self, signal: Signal) -> nix::Result<()> {
        if self.have_ended() {
            return Err(Errno::ESRCH);
        }
        signal::killpg(self.group()?, signal)
    }

    /// Kills all of it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended already, or belong to another user, who can be killed by nobody here.
        let _ = self.signal(Signal::SIGKILL);
        let _ = Patience::default().is_so_within(GONE_WITHIN, || self.have_ended());
    }

    fn group(&self) -> nix::Result<Pid> {
        i32::try_from(self.first.id()).map(Pid::from_raw).map_err(|_| Errno::ESRCH)
    }
}

/// Whether all of a process group have ended, and only wait for whoever inherited them to collect
/// them; in a container that may be nobody.
fn is_dead(group: Pid) -> bool {
    let group = group.to_string();
    let is_live = |path: &Path| {
        let stat = files::read(&path.join("stat"), STAT_LEN_MAX).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        // Behind the name: the state, the parent, the group.
        let mut words = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let state = words.next().unwrap_or("X");
        words.nth(1) == Some(&group) && !["Z", "X"].contains(&state)
    };
    let Ok(all) = fs::read_dir("/proc") else { return false };
    !all.flatten().any(|entry| is_live(&entry.path()))
}

/// What a program has printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a program until it has ended; one that does not in time, talks without end, or of which
/// somebody has enough, is killed with all that it has started.
pub(crate) fn run(
    what: &str,
    command: &mut Command,
    (patience, within): (&Patience, Duration),
) -> Result<Said, DrillError> {
    if patience.is_over() {
        return Err(DrillError::Interrupted);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Processes::start(command);
    let mut processes = started.map_err(DrillError::io(format!("cannot {what}")))?;
    let out = Heard::from(processes.first.stdout.take());
    let err = Heard::from(processes.first.stderr.take());
    let is_too_much = || PRINTED_MAX < out.len() || PRINTED_MAX < err.len();
    let is_decided = || is_too_much() || processes.status().is_some();
    // Whether it has ended, and why not, is looked at below.
    let _ = patience.is_so_within(within, is_decided);
    let Some(status) = processes.status() else {
        processes.kill();
        let why = match is_too_much() {
            true => format!("it prints without end: more than {PRINTED_MAX} bytes"),
            false if patience.is_over() => return Err(DrillError::Interrupted),
            false => format!("it has not ended within {}", go::show(within)),
        };
        return Err(DrillError::World(format!("cannot {what}: {why}")));
    };
    let is_whole = || out.is_over() && err.is_over();
    // What comes later is not waited for.
    let _ = patience.is_so_within(LAST_WORDS_WITHIN, is_whole);
    Ok(Said { status, out: out.text(), err: err.text() })
}

/// The beginning of what comes out of a pipe; all of it is read, so that nobody waits for us.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Hearing>);

#[derive(Debug, Default)]
struct Hearing {
    kept: Mutex<Vec<u8>>,
    len: AtomicUsize,
    is_over: AtomicBool,
}

impl Heard {
    fn from(pipe: Option<impl Read + Send + 'static>) -> Self {
        let heard = Self::default();
        let hearing = Arc::clone(&heard.0);
        let read = move || {
            if let Some(pipe) = pipe {
                hearing.read(pipe);
            }
            hearing.is_over.store(true, Ordering::Release);
        };
        if thread::Builder::new().name("drill-pipe".to_owned()).spawn(read).is_err() {
            heard.0.is_over.store(true, Ordering::Release);
        }
        heard
    }

    fn len(&self) -> usize {
        self.0.len.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    fn text(&self) -> String {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

impl Hearing {
    fn read(&self, mut pipe: impl Read) {
        let mut chunk = [0; CHUNK_LEN];
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => return,
                Ok(len) => {
                    let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = KEPT_MAX.saturating_sub(kept.len());
                    kept.extend_from_slice(&chunk[..len.min(room)]);
                    self.len.fetch_add(len, Ordering::AcqRel);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Goal: whoever hangs, or talks without end, holds nobody up, and leaves nobody behind.
    #[test]
    fn a_program_is_bounded_in_time_and_bytes() {
        let patience = Patience::default();
        let short = Duration::from_millis(50);
        let error = run("wait", &mut shell("sleep 1000 & wait"), (&patience, short));
        let text = error.expect_err("it hangs").to_string();
        assert_eq!(text, "cannot wait: it has not ended within 50ms");
        let error = run("talk", &mut shell("yes & wait"), (&patience, SOON));
        let text = error.expect_err("it goes on").to_string();
        assert_eq!(text, "cannot talk: it prints without end: more than 1048576 bytes");
        let said = run("say", &mut shell("echo a; echo b >&2; exit 3"), (&patience, SOON));
        let said = said.expect("it ends");
        let found = (said.status.code(), said.out.as_str(), said.err.as_str());
        assert_eq!(found, (Some(3), "a", "b"));
        let error = run("go", &mut Command::new("/none/such"), (&patience, SOON));
        assert!(error.expect_err("nobody").to_string().starts_with("cannot go: No such file"));
        patience.0.store(true, Ordering::Release);
        let error = run("wait", &mut shell("sleep 1000"), (&patience, SOON));
        assert!(matches!(error, Err(DrillError::Interrupted)));
    }

    /// Goal: of a program that has started another one, and ended, the other one is still it.
    #[test]
    fn a_program_has_ended_when_all_that_it_has_started_has() {
        let mut processes = Processes::start(&mut shell("sleep 1000 &")).expect("a shell");
        let patience = Patience::default();
        assert!(patience.is_so_within(SOON, || processes.status().is_some()));
        assert!(!processes.have_ended());
        processes.signal(Signal::SIGTERM).expect("it runs");
        assert!(patience.is_so_within(SOON, || processes.have_ended()));
        assert_eq!(processes.signal(Signal::SIGTERM), Err(Errno::ESRCH));
    }
}
