//! What is measured stands here: a database for each program, and servers as processes.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use stanby::store::sql::dialect::Driver;
use stanby::store::sql::dsn::Source;

use crate::drill::{DrillError, database};
use crate::publisher::Publisher;

/// The cluster ID of all servers.
pub const CLUSTER_ID: &str = "load";
/// How long a server may take to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A server that answers; killed with this.
pub struct Server {
    child: Child,
    /// Where clients connect.
    pub address: String,
}

/// A store for a server: its flags, and where it is.
pub struct Place {
    /// The server's flags.
    pub flags: Vec<String>,
    /// For the bare loop.
    pub source: Source,
}

impl Place {
    /// A database of its own, with its tables, which `stanby` makes.
    pub fn make(
        driver: &str,
        name: &str,
        stanby: &Path,
        folder: &Path,
    ) -> Result<Self, DrillError> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).map_err(DrillError::io("cannot make a folder"))?;
        let flags = database::make_named(driver, name, stanby, &folder)?;
        let text = flags.last().cloned().unwrap_or_default();
        let driver = Driver::named(driver).ok_or(DrillError::said("an unknown driver"))?;
        let source = Source::parse(driver, &text, &|_| None);
        let source = source.map_err(|error| DrillError(error.to_string()))?;
        Ok(Self { flags, source })
    }
}

impl Server {
    /// Starts `binary` over a store and waits until it answers.
    pub fn start(binary: &Path, flags: &[String], log: &Path) -> Result<Self, DrillError> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(DrillError::io("cannot find a free port"))?
            .port();
        let file = File::create(log).map_err(DrillError::io("cannot write a server's log"))?;
        let other = file.try_clone().map_err(DrillError::io("cannot write a server's log"))?;
        let child = Command::new(binary)
            .args(["-cluster_id", CLUSTER_ID, "-a", "127.0.0.1", "-p", &port.to_string()])
            .args(["-max_msgs", "0", "-max_bytes", "0", "-max_channels", "0"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(other)
            .spawn()
            .map_err(DrillError::io("cannot start a server"))?;
        let server = Self { child, address: format!("127.0.0.1:{port}") };
        let looks = READY_TIMEOUT.as_millis() / LOOK_PAUSE.as_millis();
        for _ in 0..looks {
            if let Ok(publisher) = Publisher::connect(&server.address, CLUSTER_ID) {
                publisher.close().map_err(DrillError::io("cannot close a client"))?;
                return Ok(server);
            }
            thread::park_timeout(LOOK_PAUSE);
        }
        let log = fs::read_to_string(log).unwrap_or_default();
        Err(DrillError(format!("a server did not answer in {READY_TIMEOUT:?}; its log:\n{log}")))
    }

    /// What the server used of the processors so far.
    pub fn processor_time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // Behind the name in brackets: state, ten numbers, then user and system time in ticks.
        let mut words = stat.rsplit(')').next()?.split_whitespace().skip(11);
        let mut ticks = || words.next()?.parse::<u64>().ok();
        Some(Duration::from_millis((ticks()? + ticks()?) * 10))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended already; either way it is collected.
            let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
