//! Programs that are started, each with all that it starts: they are signalled as one, and nobody
//! of them is left over.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::wait;
use crate::base::files;
use crate::base::time::Instant;
use crate::base::world;

/// How long what was killed may take until it is gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked at whether all of a program have ended whose first process has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Bytes of what the kernel says of a process in one line.
const STAT_LEN_MAX: u64 = 4096;

/// A program with all that it has started, but for what has left its process group.
#[derive(Debug)]
pub(crate) struct Processes {
    first: Child,
    status: Option<ExitStatus>,
    are_gone: bool,
    looked_at: Option<Instant>,
}

impl Processes {
    /// Starts a program in a process group of its own: a Ctrl-C is for us, who end what we have
    /// started ourselves.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let first = command.process_group(0).spawn()?;
        Ok(Self { first, status: None, are_gone: false, looked_at: None })
    }

    /// The number of the program itself.
    pub(crate) fn id(&self) -> u32 {
        self.first.id()
    }

    /// What the program prints, each once, where it was started with pipes.
    pub(crate) fn pipes(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.first.stdout.take(), self.first.stderr.take())
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
        let _ = wait::is_so_within(GONE_WITHIN, || false, || self.have_ended());
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

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Goal: of a program that has started another one, and ended, the other one is still it.
    #[test]
    fn a_program_has_ended_when_all_that_it_has_started_has() {
        let mut processes =
            Processes::start(Command::new("sh").args(["-c", "sleep 1000 &"])).expect("a shell");
        let is_soon = |is_so: &mut dyn FnMut() -> bool| wait::is_so_within(SOON, || false, is_so);
        assert!(is_soon(&mut || processes.status().is_some()));
        assert!(!processes.have_ended());
        processes.signal(Signal::SIGTERM).expect("it runs");
        assert!(is_soon(&mut || processes.have_ended()));
        assert_eq!(processes.signal(Signal::SIGTERM), Err(Errno::ESRCH));
    }
}
