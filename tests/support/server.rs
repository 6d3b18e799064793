//! Starts, watches and ends real servers for the tests: ports, logs, pages, signals.
//!
//! The binary is the one that cargo built for the tests, or what `STANBY_BIN` names. A server that
//! is dropped is killed, by its own pid and nothing else.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before a test fails; never a figure that is asserted. A machine that
/// is ten times slower, with a disk that takes a third of a second to sync, is well within it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The line after which a streaming server serves.
pub const READY: &str = "Streaming Server is ready";

/// The line after which a core server serves.
pub const CORE_READY: &str = "Server is ready";

/// Numbers of event loops with which what is global is tried.
pub const LOOPS: [u16; 3] = [1, 2, 4];

/// Between two looks at something that nobody can wait for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The binary under test.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("STANBY_BIN").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_stanby")))
}

/// Looks again and again until `look` gives something; panics with `what` when it never does.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::park_timeout(LOOK_EVERY);
    }
}

/// Ports that this program has given out. Each is below the range from which the kernel takes the
/// ports of outgoing connections, and its UDP twin stays bound, so that programs that run at the
/// same time choose others.
static CLAIMED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A TCP port of the loopback interface that stays ours while no server is on it.
pub fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    let from = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (from + step % COUNT) % COUNT;
        let Ok(twin) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            CLAIMED.lock().unwrap().push(twin);
            return port;
        }
    }
    panic!("no free port");
}

/// What a server wrote so far, line by line, and whether it has ended.
#[derive(Default)]
pub struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Default)]
struct OutputState {
    lines: Vec<String>,
    is_ended: bool,
}

impl Output {
    /// Reads `from` to its end on a thread.
    pub fn follow(from: impl Read + Send + 'static) -> (Arc<Self>, JoinHandle<()>) {
        let output = Arc::new(Self::default());
        let writing = Arc::clone(&output);
        let thread = thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                writing.state().lines.push(line);
                writing.changed.notify_all();
            }
            writing.state().is_ended = true;
            writing.changed.notify_all();
        });
        (output, thread)
    }

    /// A test that failed while it held the lock must not hide what the others say.
    fn state(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.state().lines.join("\n")
    }

    /// How many lines there are; a mark for [`Output::wait_after`].
    pub fn len(&self) -> usize {
        self.state().lines.len()
    }

    /// Waits for a line with `part` in it, and gives the first; `None` when the server ends first.
    pub fn find(&self, part: &str, after: usize) -> Option<String> {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            let found = state.lines.iter().skip(after).find(|line| line.contains(part));
            if let Some(line) = found {
                return Some(line.clone());
            }
            if state.is_ended {
                return None;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let said = state.lines.join("\n");
            assert!(!left.is_zero(), "no line with {part:?} in {PATIENCE:?}; the log:\n{said}");
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits until the writer has closed its end.
    pub fn wait_end(&self) {
        wait_for("end of the output", || self.state().is_ended.then_some(()));
    }

    /// Waits for a line with `part` in it behind the first `after` lines.
    pub fn wait_after(&self, after: usize, part: &str) -> String {
        let found = self.find(part, after);
        found.unwrap_or_else(|| panic!("ended without {part:?}; the log:\n{}", self.text()))
    }

    /// Waits for a line with `part` in it.
    pub fn wait(&self, part: &str) -> String {
        self.wait_after(0, part)
    }
}

/// How a server will be started; a restart uses the same ports, folder and arguments.
#[derive(Clone)]
pub struct Launch {
    name: String,
    binary: PathBuf,
    wrapper: Vec<OsString>,
    args: Vec<OsString>,
    config: Option<String>,
    ready: &'static str,
    folder: Arc<TempDir>,
    /// For clients.
    pub port: u16,
    /// For monitoring.
    pub http: u16,
}

impl Launch {
    /// A streaming server with a memory store on ports of its own, and these arguments besides.
    pub fn new(args: &[&str]) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self {
            name: "nats-streaming-server".to_owned(),
            binary: binary(),
            wrapper: Vec::new(),
            args: args.iter().map(OsString::from).collect(),
            config: None,
            ready: READY,
            folder,
            port: free_port(),
            http: free_port(),
        }
    }

    /// A core server.
    pub fn core(args: &[&str]) -> Self {
        Self { name: "nats-server".to_owned(), ready: CORE_READY, ..Self::new(args) }
    }

    /// With a file store in a folder of its own, or `directory`.
    pub fn file_store(self, directory: Option<&Path>) -> Self {
        let own = self.folder.path().join("store");
        let directory = directory.map_or(own, Path::to_path_buf);
        self.arg("-store").arg("file").arg("-dir").arg(directory)
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With this number of event loops.
    pub fn loops(self, loops: u16) -> Self {
        self.arg("--loops").arg(loops.to_string())
    }

    /// With a configuration file of this text.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// With another program, such as a reference server; its flags must be the same.
    pub fn program(mut self, path: &Path) -> Self {
        self.binary = path.to_path_buf();
        self.name = path.file_name().unwrap().to_string_lossy().into_owned();
        self
    }

    /// With another argv\[0\].
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Started through another program, such as `prlimit` with its arguments.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// The folder of this server: configuration, store, logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its configuration file lies.
    pub fn config_path(&self) -> PathBuf {
        self.folder().join("server.conf")
    }

    /// Writes the configuration file anew, for a reload.
    pub fn rewrite_config(&self, text: &str) {
        // The server must never see half a file.
        let new = self.folder().join("server.conf.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.config_path()).unwrap();
    }

    fn command(&self) -> Command {
        let mut words: Vec<OsString> = self.wrapper.clone();
        let mut command = if words.is_empty() {
            let mut command = Command::new(&self.binary);
            command.arg0(&self.name);
            command
        } else {
            let mut command = Command::new(words.remove(0));
            command.args(words).arg(&self.binary);
            command
        };
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        command.args(["-m", &self.http.to_string()]).args(&self.args);
        if let Some(text) = &self.config {
            fs::write(self.config_path(), text).unwrap();
            let flag = if self.ready == CORE_READY { "-c" } else { "-sc" };
            command.arg(flag).arg(self.config_path());
        }
        command.current_dir(self.folder());
        command
    }

    /// Starts the process and does not wait.
    pub fn spawn(&self) -> Server {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (log, log_thread) = Output::follow(child.stderr.take().unwrap());
        let (stdout, stdout_thread) = Output::follow(child.stdout.take().unwrap());
        let threads = vec![log_thread, stdout_thread];
        Server { launch: self.clone(), child, log, stdout, threads, exit: None }
    }

    /// Starts the process and waits until it serves.
    pub fn start(&self) -> Server {
        let server = self.spawn();
        server.log.wait(self.ready);
        server
    }

    /// Runs the process to its end, which must come by itself.
    pub fn run(&self) -> Server {
        let mut server = self.spawn();
        server.wait_exit();
        server
    }
}

/// A server process.
pub struct Server {
    /// How it was started.
    pub launch: Launch,
    child: Child,
    /// Its stderr.
    pub log: Arc<Output>,
    /// Its stdout, where nothing belongs.
    pub stdout: Arc<Output>,
    threads: Vec<JoinHandle<()>>,
    exit: Option<ExitStatus>,
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `host:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.launch.port)
    }

    /// Sends a signal to this process.
    pub fn signal(&self, signal: Signal) {
        assert!(self.exit.is_none(), "the process has been collected");
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().unwrap();
        }
        self.exit.is_none()
    }

    /// Waits for its end and for the last of its output.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let name = self.launch.name.clone();
        wait_for(&format!("end of {name}"), || (!self.is_running()).then_some(()));
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.exit.unwrap()
    }

    /// Sends a signal and waits for the end: the exit code.
    pub fn stop(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.wait_exit().code()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if self.is_running() {
            self.child.kill().unwrap();
            self.wait_exit();
        }
    }

    /// A page of the monitoring port.
    pub fn get(&self, target: &str) -> Reply {
        get(self.launch.http, target)
    }

    /// A page of the monitoring port as JSON.
    pub fn json(&self, target: &str) -> serde_json::Value {
        let reply = self.get(target);
        serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    /// A figure of `/proc/PID/status`, in KiB: `VmRSS`, `VmHWM`.
    pub fn memory_kib(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.exit.is_none() {
            // Both fail only when the process has ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("---- log of {}\n{}", self.launch.name, self.log.text());
        }
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    /// Such as 200; 0 when nobody answers.
    pub status: u16,
    /// The header lines.
    pub head: String,
    /// The rest.
    pub body: String,
}

/// One request to a monitoring port; status 0 when nobody answers.
pub fn get(port: u16, target: &str) -> Reply {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        write!(socket, "GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut response = Vec::new();
        socket.read_to_end(&mut response)?;
        Ok(String::from_utf8_lossy(&response).into_owned())
    };
    let Ok(response) = ask() else {
        return Reply { status: 0, head: String::new(), body: String::new() };
    };
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}
