//! Two servers of one group over one directory, as processes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::{DrillError, Plan, wait_until};

/// How long a server may take to become what it is waited for.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one monitoring request may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// The cluster ID of the pair.
pub const CLUSTER_ID: &str = "pair";

/// Both members, by place.
pub struct Pair {
    members: [Member; 2],
    /// What clients and members connect to, if the members are no NATS servers themselves.
    external: Option<External>,
}

/// A NATS server between clients and members.
pub struct External {
    port: u16,
    child: Child,
}

struct Member {
    command: PathBuf,
    args: Vec<String>,
    /// A command that runs this one, with its arguments.
    prefix: Vec<String>,
    log: PathBuf,
    client_port: u16,
    monitor_port: u16,
    has_routes: bool,
    child: Option<Child>,
}

impl Pair {
    /// Starts both over a directory; the first becomes the active.
    pub fn start(plan: &Plan, folder: &Path) -> Result<Self, DrillError> {
        let path = folder.join("store").display().to_string();
        Self::start_over(plan, folder, &["-store", "file", "-dir", &path].map(str::to_owned))
    }

    /// Starts both over the store that these flags name.
    pub fn start_over(plan: &Plan, folder: &Path, store: &[String]) -> Result<Self, DrillError> {
        let external = plan.external.as_ref();
        let external = external.map(|program| External::start(program, folder)).transpose()?;
        let ports = free_ports().map_err(DrillError::io("cannot find free ports"))?;
        let port = external.as_ref().map(|external| external.port);
        let member = |place| member(plan, folder, (store, port), (ports, place));
        let mut pair = Self { members: [member(0), member(1)], external };
        pair.members[0].start()?;
        pair.wait_active(0)?;
        pair.members[1].start()?;
        pair.wait_standby(1)?;
        Ok(pair)
    }

    /// Addresses for clients.
    pub fn servers(&self) -> [String; 2] {
        let external = self.external.as_ref().map(|external| external.port);
        let port = |member: &Member| external.unwrap_or(member.client_port);
        self.members.each_ref().map(|member| format!("127.0.0.1:{}", port(member)))
    }

    /// Kills a member with SIGKILL and does not wait for its end.
    pub fn kill(&mut self, place: usize) -> Result<(), DrillError> {
        let member = &mut self.members[place];
        let child = member.child.as_mut().ok_or(DrillError::said("the member is not running"))?;
        child.kill().map_err(DrillError::io("cannot kill a server"))
    }

    /// Sends a signal to a member.
    pub fn signal(&mut self, place: usize, signal: Signal) -> Result<(), DrillError> {
        let pid = i32::try_from(self.pid(place)?).map_err(|_| DrillError::said("a huge pid"))?;
        signal::kill(Pid::from_raw(pid), signal)
            .map_err(|error| DrillError(format!("cannot send {signal} to a server: {error}")))
    }

    /// The process of a member.
    pub fn pid(&self, place: usize) -> Result<u32, DrillError> {
        let child = self.members[place].child.as_ref();
        Ok(child.ok_or(DrillError::said("the member is not running"))?.id())
    }

    /// Waits for the end of a member that was killed or told to stop.
    pub fn wait_exit(&mut self, place: usize) -> Result<ExitStatus, DrillError> {
        let child = self.members[place].child.as_mut();
        let child = child.ok_or(DrillError::said("the member is not running"))?;
        let mut exit = None;
        wait_until(READY_TIMEOUT, || {
            exit = child.try_wait().ok().flatten();
            exit.is_some()
        });
        exit.ok_or_else(|| DrillError(format!("a server did not end in {READY_TIMEOUT:?}")))
    }

    /// From now on a member is started by another command line: `prefix` before its own.
    pub fn set_prefix(&mut self, place: usize, prefix: &[String]) {
        prefix.clone_into(&mut self.members[place].prefix);
    }

    /// What a member wrote to its log so far, over all its starts.
    pub fn log(&self, place: usize) -> Result<String, DrillError> {
        let read = fs::read_to_string(&self.members[place].log);
        read.map_err(DrillError::io("cannot read a server's log"))
    }

    /// Whether a member says that it serves as the active.
    pub fn is_active(&self, place: usize) -> bool {
        self.members[place].is("active=1", "200")
    }

    /// Whether a member knows that it is not the active.
    pub fn is_standby(&self, place: usize) -> bool {
        let state = self.members[place].fetch("/streaming/isFTActive");
        state.is_ok_and(|(status, _)| status == "204")
    }

    /// Collects a killed member and starts it again.
    pub fn restart(&mut self, place: usize) -> Result<(), DrillError> {
        self.members[place].reap();
        self.members[place].start()
    }

    /// Waits until a member serves as the active.
    pub fn wait_active(&mut self, place: usize) -> Result<(), DrillError> {
        self.members[place].wait("active=1", "200", "become the active")
    }

    /// Waits until a member would take over: it watches the lock and has a route to the active.
    pub fn wait_standby(&mut self, place: usize) -> Result<(), DrillError> {
        self.members[place].wait("ready=1", "204", "become a ready standby")
    }
}

impl External {
    fn start(program: &Path, folder: &Path) -> Result<Self, DrillError> {
        let ports = free_ports().map_err(DrillError::io("cannot find free ports"))?;
        let port = ports[0][0];
        let cannot_log = DrillError::io("cannot write a server's log");
        let log = File::create(folder.join("external.log")).map_err(cannot_log)?;
        let mut command = Command::new(program);
        if program.file_name().is_some_and(|name| name == "stanby") {
            command.arg("nats-server");
        }
        let port_text = port.to_string();
        command.args(["-a", "127.0.0.1", "-p", &port_text]).stdin(Stdio::null());
        let started = command.stdout(Stdio::null()).stderr(log).spawn();
        let action = format!("cannot start {}", program.display());
        let child = started.map_err(|error| DrillError(format!("{action}: {error}")))?;
        let external = Self { port, child };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match wait_until(READY_TIMEOUT, || TcpStream::connect(address).is_ok()) {
            true => Ok(external),
            false => Err(DrillError(format!("{} opens no port", program.display()))),
        }
    }
}

impl Drop for External {
    fn drop(&mut self) {
        // It may have ended already; either way it is collected.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Member {
    fn start(&mut self) -> Result<(), DrillError> {
        let cannot_log = DrillError::io("cannot write a server's log");
        let log = File::options().append(true).create(true).open(&self.log).map_err(&cannot_log)?;
        let other = log.try_clone().map_err(&cannot_log)?;
        let mut words = self.prefix.iter().map(OsStr::new).chain([self.command.as_os_str()]);
        let first = words.next().unwrap_or_default();
        let child = Command::new(first)
            .args(words)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(other)
            .spawn();
        let action = format!("cannot start {}", self.command.display());
        self.child = Some(child.map_err(|error| DrillError(format!("{action}: {error}")))?);
        Ok(())
    }

    /// Waits for health, or for `plain` of `isFTActive` where a Go server has no health page.
    fn wait(&mut self, health: &str, plain: &str, what: &str) -> Result<(), DrillError> {
        let mut exit = None;
        let is_done = wait_until(READY_TIMEOUT, || {
            exit = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            exit.is_some() || self.is(health, plain)
        });
        match exit {
            Some(status) => Err(DrillError(format!(
                "a server ended ({status}); its log is {}",
                self.log.display()
            ))),
            None if is_done => Ok(()),
            None => Err(DrillError(format!(
                "a server did not {what} in {READY_TIMEOUT:?}; its log is {}",
                self.log.display()
            ))),
        }
    }

    fn is(&self, health: &str, plain: &str) -> bool {
        if !self.has_routes {
            // Without a route no standby is ready, but it is one.
            let state = self.fetch("/streaming/isFTActive");
            return state.is_ok_and(|(status, _)| status == plain);
        }
        match self.fetch(&format!("/streaming/healthz?{health}")) {
            Ok((status, _)) if status == "404" => {
                let has_route = self
                    .fetch("/routez")
                    .is_ok_and(|(_, body)| plain == "200" || body.contains("\"num_routes\": 1"));
                let state = self.fetch("/streaming/isFTActive");
                has_route && state.is_ok_and(|(status, _)| status == plain)
            }
            Ok((status, _)) => status == "200",
            Err(_) => false,
        }
    }

    /// Status and body of a monitoring page.
    fn fetch(&self, target: &str) -> io::Result<(String, String)> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.monitor_port));
        let mut socket = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
        socket.set_read_timeout(Some(HTTP_TIMEOUT))?;
        write!(socket, "GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut response = String::new();
        socket.read_to_string(&mut response)?;
        let status = response.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; either way it is collected.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.reap();
    }
}

/// Client, route and monitoring ports of both members.
type Ports = [[u16; 3]; 2];

fn member(
    plan: &Plan,
    folder: &Path,
    (store, external): (&[String], Option<u16>),
    (ports, place): (Ports, usize),
) -> Member {
    let [client_port, route_port, monitor_port] = ports[place];
    let other = ports[1 - place][1];
    let mut args: Vec<String> = [
        ("-cluster_id", CLUSTER_ID.to_owned()),
        ("-ft_group", "drill".to_owned()),
        ("-a", "127.0.0.1".to_owned()),
        ("-m", monitor_port.to_string()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect();
    args.extend_from_slice(store);
    if let Some(port) = external {
        args.extend(["-ns".to_owned(), format!("nats://127.0.0.1:{port}")]);
    } else {
        args.extend(["-p".to_owned(), client_port.to_string()]);
    }
    if plan.has_routes && external.is_none() {
        let own = format!("nats://127.0.0.1:{route_port}");
        let other = format!("nats://127.0.0.1:{other}");
        args.extend(["-cluster".to_owned(), own, "-routes".to_owned(), other]);
    }
    args.extend(plan.server_args.iter().cloned());
    if let Some(loops) = plan.loops {
        args.extend(["--loops".to_owned(), loops.to_string()]);
    }
    Member {
        command: plan.binary.clone(),
        args,
        prefix: Vec::new(),
        log: folder.join(format!("server-{place}.log")),
        client_port,
        monitor_port,
        has_routes: plan.has_routes,
        child: None,
    }
}

/// Ports that nobody had a moment ago; all are held until the last is found.
fn free_ports() -> io::Result<Ports> {
    let mut held = Vec::new();
    let mut ports = Ports::default();
    for port in ports.iter_mut().flatten() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
