//! Three members over one directory, joined by routes: ended, started again, asked to step down.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::ledger::now;
use super::server::{self, Launch, Server, free_port, wait_for};

/// How many members there are.
pub const MEMBERS: usize = 3;

/// Answers of a step-down that say: not yet.
const EARLY: [&str; 5] =
    ["not ready", "no other member of", "not active", "between two roles", "already"];

/// The group.
pub struct Trio {
    pub members: [Server; MEMBERS],
    launches: [Launch; MEMBERS],
    sockets: [PathBuf; MEMBERS],
}

impl Trio {
    /// Three members; the first is active.
    pub fn start(root: &Path, loops: u16) -> Self {
        let ports = [(); MEMBERS].map(|()| free_port());
        let url = |port: &u16| format!("nats://127.0.0.1:{port}");
        let sockets = ports.map(|port| root.join(format!("{port}.sock")));
        let launches = [0, 1, 2].map(|place| {
            let port = &ports[place];
            let others: Vec<String> =
                ports.iter().filter(|other| *other != port).map(url).collect();
            let launch = Launch::new(&["-ft_group", "trio", "-cluster", &url(port)]);
            let launch = launch.arg("-routes").arg(others.join(",")).loops(loops);
            let launch = launch.arg("-control_socket").arg(&sockets[place]);
            launch.file_store(Some(&root.join("store")))
        });
        let first = launches[0].start();
        let [_, second, third] = launches.each_ref();
        let members = [first, second.spawn(), third.spawn()];
        let trio = Self { members, launches, sockets };
        trio.wait_ready();
        trio
    }

    /// The address of a member for clients.
    pub fn url(&self, place: usize) -> String {
        format!("nats://127.0.0.1:{}", self.port(place))
    }

    /// Addresses of all of them for clients, that of `first` in front.
    pub fn urls(&self, first: usize) -> String {
        let places = (0..MEMBERS).map(|step| (first + step) % MEMBERS);
        places.map(|place| self.url(place)).collect::<Vec<_>>().join(",")
    }

    pub fn port(&self, place: usize) -> u16 {
        self.launches[place].port
    }

    /// Whether a health page of a member says so.
    pub fn is(&self, place: usize, what: &str) -> bool {
        self.members[place].get(&format!("/streaming/healthz?{what}=1")).status == 200
    }

    /// Who serves, if anybody does.
    pub fn active(&self) -> Option<usize> {
        (0..MEMBERS).find(|place| self.is(*place, "active"))
    }

    /// Waits until one member serves, and gives its place.
    pub fn wait_active(&self) -> usize {
        wait_for("somebody who serves", || self.active())
    }

    /// Waits until one member serves, the others would take over, and clients of each reach it.
    pub fn wait_ready(&self) {
        wait_for("a group that is ready", || {
            let is_ready = (0..MEMBERS).all(|place| self.is(place, "ready"));
            (is_ready && self.active().is_some()).then_some(())
        });
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self, place: usize) {
        self.members[place].kill();
    }

    /// SIGTERM, and waits for the end; the exit code.
    pub fn terminate(&mut self, place: usize) -> Option<i32> {
        self.members[place].stop(Signal::SIGTERM)
    }

    /// Starts a member again that has ended.
    pub fn restart(&mut self, place: usize) {
        self.members[place] = self.launches[place].spawn();
    }

    /// Has whoever is active step down, asked again while nobody is ready to follow; gives when.
    pub fn step_down(&self) -> i64 {
        wait_for("a successor that is ready", || {
            let at = now();
            let mut asked = Command::new(server::binary());
            let output = asked.args(["step-down", "--socket"]).arg(&self.sockets[0]).output();
            let output = output.unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            let is_early = EARLY.iter().any(|word| said.contains(word));
            assert!(output.status.success() || is_early, "{said}");
            output.status.success().then_some(at)
        })
    }
}
