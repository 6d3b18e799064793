//! A NATS server between clients and members, which the drill starts and ends.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::DrillError;
use super::patience::Patience;
use super::process;
use crate::programs::logs;
use crate::programs::processes::Processes;

/// How long a program may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// Letters of what it says that are shown.
const VERSION_LEN_MAX: usize = 200;

/// How long it may take to open its port.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// Lines of its log that are shown when it has ended, and the bytes that they have at most.
const TAIL: (usize, u64) = (5, 4 * 1024);

/// A NATS server that runs.
pub(crate) struct External {
    pub(crate) port: u16,
    /// What it says of itself.
    pub(crate) version: String,
    log: PathBuf,
    processes: Processes,
}

impl External {
    /// Starts a program, and waits until it has opened that port.
    pub(crate) fn start(
        program: &str,
        (folder, port): (&Path, u16),
        patience: &Patience,
    ) -> Result<Self, DrillError> {
        let what = format!("run {program}");
        let mut command = Command::new(program);
        let said = process::run(&what, command.arg("version"), (patience, VERSION_WITHIN))?;
        let line = said.out.lines().next().unwrap_or_default().trim();
        let version: String = line.chars().take(VERSION_LEN_MAX).collect();
        let is_stanby = version.starts_with("stanby ");
        if !is_stanby && !version.starts_with("nats-server") {
            return Err(DrillError::World(format!(
                "{program} is no NATS server: asked for its version it says {version:?}"
            )));
        }
        let log = folder.join("external.log");
        let opened = logs::open(&log);
        let (out, err) = opened.map_err(DrillError::io("cannot write the log of a NATS server"))?;
        let mut command = Command::new(program);
        if is_stanby {
            command.arg("nats-server");
        }
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let processes = Processes::start(&mut command);
        let processes = processes.map_err(DrillError::io(format!("cannot start {program}")))?;
        let mut external = Self { port, version, log, processes };
        let mut is_open = false;
        // Why it is not open is looked at below.
        let _ = patience.is_so_within(OPEN_WITHIN, || {
            is_open = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            is_open || external.processes.status().is_some()
        });
        match external.last_words() {
            Some(words) => Err(DrillError::World(words)),
            None if is_open => Ok(external),
            None if patience.is_over() => Err(DrillError::Interrupted),
            None => Err(DrillError::World(format!("{program} opens no port for clients"))),
        }
    }

    /// What it said last, if it has ended.
    pub(crate) fn last_words(&mut self) -> Option<String> {
        let status = self.processes.status()?;
        let tail = logs::tail(&self.log, TAIL.0, TAIL.1);
        let tail: Vec<String> = tail.into_iter().map(|line| format!("  {line}")).collect();
        let log = self.log.display();
        let tail = tail.join("\n");
        Some(format!("the NATS server ended ({status}); the last it said, in {log}:\n{tail}"))
    }

    pub(crate) fn end(&mut self) {
        self.processes.kill();
    }
}

impl Drop for External {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_no_nats_server_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        for (program, part) in [
            ("/none/such", "cannot run /none/such: No such file"),
            ("/bin/echo", "/bin/echo is no NATS server: asked for its version it says"),
        ] {
            let started = External::start(program, (folder.path(), 1), &Patience::default());
            let error = started.err().expect(program).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
