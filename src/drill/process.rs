//! Programs that the drill runs until they have ended: whoever hangs or talks without end is ended.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::DrillError;
use super::patience::Patience;
use crate::base::go;
use crate::programs::processes::Processes;

/// How long the last words of a program that has ended may take: what it has left running may hold
/// its output open.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(200);

/// Bytes that a program may print before it is ended.
const PRINTED_MAX: usize = 1 << 20;

/// Bytes of them that are kept.
const KEPT_MAX: usize = 16 * 1024;

/// Bytes that are taken at a time.
const CHUNK_LEN: usize = 4 * 1024;

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
    let (out, err) = processes.pipes();
    let (out, err) = (Heard::from(out), Heard::from(err));
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
}
