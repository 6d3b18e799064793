//! Real servers as processes: ours and the Go peer, on ports that the system chooses.
//!
//! A node's log is kept, and is what a test waits for; a wait that fails shows it whole.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Nothing that a test waits for takes longer, even on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Which program a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our core server.
    Core,
    /// Our streaming server.
    Streaming,
    /// The Go `nats-server`, or the one that `STANBY_PEER` names.
    Go,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Log {
    /// A test that failed with the lock in its hand leaves the lines good.
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running server; it is killed when it goes out of scope.
pub struct Node {
    kind: Kind,
    child: Child,
    log: Arc<Log>,
    /// Where clients connect.
    pub client_port: u16,
    /// Where routes connect.
    pub route_port: u16,
    monitor_port: u16,
}

/// How a node is started; what is not said is chosen by the system.
#[derive(Clone, Debug)]
pub struct Start {
    kind: Kind,
    client_port: i32,
    route_port: i32,
    routes: Vec<String>,
    user: String,
    more: Vec<String>,
}

/// A node of `kind` on free ports of the loopback interface.
pub fn start(kind: Kind) -> Start {
    Start {
        kind,
        client_port: -1,
        route_port: -1,
        routes: Vec::new(),
        user: String::new(),
        more: Vec::new(),
    }
}

impl Start {
    /// Solicits a route to `node`.
    pub fn to(self, node: &Node) -> Self {
        let port = node.route_port;
        self.dialling(port)
    }

    /// Solicits a route to this port.
    pub fn dialling(mut self, port: u16) -> Self {
        self.routes.push(format!("nats-route://{}127.0.0.1:{port}", self.user));
        self
    }

    /// Asks `user:password` of its peers, and gives it to those that are named after this.
    pub fn user(mut self, user: &str) -> Self {
        self.user = format!("{user}@");
        self
    }

    /// Listens for routes on this port.
    pub fn at_route_port(mut self, port: u16) -> Self {
        self.route_port = i32::from(port);
        self
    }

    /// Uses the ports of a node that is gone.
    pub fn at(mut self, node: &Node) -> Self {
        self.client_port = i32::from(node.client_port);
        self.at_route_port(node.route_port)
    }

    /// More arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// A cluster name.
    pub fn named(self, name: &str) -> Self {
        self.with(&["--cluster_name", name])
    }

    /// Starts it and waits until it listens.
    pub fn run(self) -> Node {
        let waits =
            self.kind == Kind::Streaming && !self.more.iter().any(|word| word == "-ft_group");
        let mut node = self.spawn();
        node.client_port = node.port("Listening for client connections on ");
        node.route_port = node.port("Listening for route connections on ");
        node.monitor_port = node.port("Starting http monitor on ");
        if waits {
            node.wait_log("Streaming Server is ready");
        }
        node
    }

    /// Starts it; its ports are not known.
    pub fn spawn(self) -> Node {
        let mut command = program(self.kind);
        command.args(["-a", "127.0.0.1", "-m", "-1", "-D", "-p"]);
        command.arg(self.client_port.to_string()).args(&self.more);
        let listen = format!("nats://{}127.0.0.1:{}", self.user, self.route_port);
        command.args(["-cluster", &listen]);
        if !self.routes.is_empty() {
            command.args(["-routes", &self.routes.join(",")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().unwrap();
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().push(line);
                kept.changed.notify_all();
            }
        });
        Node { kind: self.kind, child, log, client_port: 0, route_port: 0, monitor_port: 0 }
    }
}

fn program(kind: Kind) -> Command {
    if kind == Kind::Go {
        return Command::new(go_server());
    }
    let own = env::var_os("STANBY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_stanby").into());
    let mut command = Command::new(own);
    if kind == Kind::Core {
        command.arg("nats-server");
    }
    command
}

fn go_server() -> PathBuf {
    if let Some(path) = env::var_os("STANBY_PEER") {
        return path.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join("nats-server")).find(|file| is_file(file));
    found.expect("these tests need the Go nats-server: `apt-get install -y nats-server`")
}

fn is_file(path: &Path) -> bool {
    path.is_file()
}

impl Node {
    /// Waits until its log has a line with `text`, and gives that line.
    pub fn wait_log(&self, text: &str) -> String {
        self.wait_log_times(text, 1)
    }

    /// Waits until its log has so many lines with `text`, and gives the last of them.
    pub fn wait_log_times(&self, text: &str, times: usize) -> String {
        let lines = self.log.lock();
        let has = |lines: &mut Vec<String>| {
            lines.iter().filter(|line| line.contains(text)).count() < times
        };
        let (lines, waited) = self.log.changed.wait_timeout_while(lines, PATIENCE, has).unwrap();
        let log = lines.join("\n");
        assert!(!waited.timed_out(), "{:?} did not log {text:?} {times} times:\n{log}", self.kind);
        let nth = lines.iter().filter(|line| line.contains(text)).nth(times - 1);
        nth.cloned().unwrap()
    }

    /// The lines so far that contain `text`.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let lines = self.log.lock();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        self.log.lock().join("\n")
    }

    fn port(&self, text: &str) -> u16 {
        let line = self.wait_log(text);
        line.rsplit(':').next().unwrap().trim().parse().unwrap()
    }

    /// One monitoring page, as it is.
    pub fn page(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.monitor_port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// How many routes it has, by its own account.
    pub fn routes(&self) -> u64 {
        let page = self.page("/routez");
        let (_, number) = page.split_once("\"num_routes\":").unwrap();
        let digits: String = number.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    /// Resident bytes of the process.
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, as `kill` knows it.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.unwrap().success(), "kill -s {name}");
    }

    /// Waits for its end and gives its exit code.
    pub fn wait_exit(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Kills it; its ports are free when this returns.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of {:?} ({})\n{}", self.kind, self.pid(), self.log());
        }
    }
}
