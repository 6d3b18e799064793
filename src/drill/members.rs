//! Members that the drill starts, as processes on this machine; they end with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::DrillError;
use super::database;
use super::disk::Disk;
use super::external::External;
use super::load::channel_name;
use super::patience::Patience;
use super::process;
use super::relay::Relay;
use super::scenario::{Keeper, Scenario, Store};
use super::step::Step;
use crate::base::go;
use crate::programs::processes::Processes;
use crate::programs::{logs, ports};

/// The cluster ID of members that a drill starts.
pub(crate) const CLUSTER_ID: &str = "stanby-drill";

/// Lines of a log that are shown of a member that has ended.
const TAIL_LINES: usize = 5;

/// Bytes that they have at most.
const TAIL_LEN_MAX: u64 = 4 * 1024;

/// How long a program may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// Letters of what it says that are shown.
const VERSION_LEN_MAX: usize = 200;

/// How long a hand-over may take: the command gives up before that.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(60);

/// Client, route and monitoring port of a member.
type Ports = [u16; 3];

/// A server program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    /// What it says of itself.
    pub(crate) version: String,
    is_stanby: bool,
}

/// All members that a drill starts.
pub(crate) struct Started {
    members: Vec<Member>,
    relays: Vec<Relay>,
    store: Store,
    program: Program,
    disk: Option<Disk>,
    external: Option<External>,
}

struct Member {
    number: usize,
    ports: Ports,
    args: Vec<String>,
    log: PathBuf,
    control: PathBuf,
    processes: Option<Processes>,
}

impl Program {
    /// The program that a scenario names, or this one.
    pub(crate) fn find(server: Option<&str>, patience: &Patience) -> Result<Self, DrillError> {
        let path = match server {
            Some(server) => PathBuf::from(server),
            None => std::env::current_exe().map_err(DrillError::io("cannot find this program"))?,
        };
        // Both servers know this word, and say then who they are.
        let what = format!("run {}", path.display());
        let mut command = Command::new(&path);
        let said = process::run(&what, command.arg("version"), (patience, VERSION_WITHIN))?;
        let line = said.out.lines().next().unwrap_or_default().trim();
        let version: String = line.chars().take(VERSION_LEN_MAX).collect();
        let is_stanby = version.starts_with("stanby ");
        if !is_stanby && !version.starts_with("nats-streaming-server ") {
            return Err(DrillError::World(format!(
                "{} is no streaming server: asked for its version it says {version:?}",
                path.display()
            )));
        }
        Ok(Self { path, version, is_stanby })
    }

    /// Whether it can do what a scenario asks for: before anything is begun.
    fn check(&self, scenario: &Scenario) -> Result<(), DrillError> {
        if self.is_stanby {
            return Ok(());
        }
        let lacks = |text: &str| Err(DrillError::World(format!("{} {text}", self.version)));
        if scenario.store.keeper == Keeper::Sqlite {
            return lacks("keeps nothing in SQLite: drill it over file, postgres or mysql");
        }
        if scenario.steps.contains(&Step::StepDown) {
            return lacks("has no planned hand-over, and the scenario has the step step-down");
        }
        Ok(())
    }
}

impl Started {
    /// Makes what they share, and their command lines; starts none of them. `run` is in the names
    /// of the channels.
    pub(crate) fn prepare(
        scenario: &Scenario,
        (folder, run): (&Path, &str),
        patience: &Patience,
    ) -> Result<Self, DrillError> {
        let program = Program::find(scenario.members.server.as_deref(), patience)?;
        program.check(scenario)?;
        let store = scenario.store.clone();
        let mount = |size| Disk::mount(folder.join("disk"), size, patience);
        let disk = store.size.map(mount).transpose()?;
        let place = disk.as_ref().map_or(folder, Disk::root);
        let stores = stores(scenario, (place, run), patience)?;
        let (all_ports, more) = free_ports(scenario.member_count(), scenario.members.first_port)?;
        let start = |external| External::start(external, (folder, more), patience);
        let external = scenario.members.external.as_deref().map(start).transpose()?;
        let cuts_routes = scenario.cuts_routes();
        let relays = all_ports.iter().filter(|_| cuts_routes).map(|ports| Relay::to(ports[1]));
        let relays: Vec<Relay> = relays.collect::<Result<_, _>>()?;
        let routes: Vec<u16> = match cuts_routes {
            true => relays.iter().map(|relay| relay.port).collect(),
            false => all_ports.iter().map(|ports| ports[1]).collect(),
        };
        let member = |(place, ports): (usize, &Ports)| {
            let number = place + 1;
            let control = folder.join(format!("{number}.sock"));
            let part = scenario.parts().of_member(place);
            let mut args = group_args(part, ports[2]);
            match &external {
                Some(external) => {
                    args.extend(["-ns".to_owned(), format!("nats://127.0.0.1:{}", external.port)]);
                }
                None => args.extend(network_args(*ports, &routes, (place, cuts_routes))),
            }
            args.extend_from_slice(&stores[part]);
            if program.is_stanby {
                args.extend(["-control_socket".to_owned(), control.display().to_string()]);
                if let Some(time) = scenario.members.steal_after {
                    args.extend(["-ft_steal_after".to_owned(), go::show(time)]);
                }
            }
            args.extend_from_slice(&scenario.members.arguments);
            let log = folder.join(format!("member-{number}.log"));
            Member { number, ports: *ports, args, log, control, processes: None }
        };
        let members = all_ports.iter().enumerate().map(member).collect();
        Ok(Self { members, relays, store, program, disk, external })
    }

    pub(crate) fn version(&self) -> String {
        let version = &self.program.version;
        match &self.external {
            None => version.clone(),
            Some(external) => format!("{version}, over {}", external.version),
        }
    }

    pub(crate) fn has_routes(&self) -> bool {
        self.external.is_none()
    }

    /// Where clients connect.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let external = self.external.as_ref().map(|external| external.port);
        let port = |member: &Member| external.unwrap_or(member.ports[0]);
        self.members.iter().map(|member| format!("127.0.0.1:{}", port(member))).collect()
    }

    pub(crate) fn monitors(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.ports[2])).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// Starts a member that does not run.
    pub(crate) fn start(&mut self, place: usize) -> Result<(), DrillError> {
        let path = self.program.path.clone();
        self.member(place)?.start(&path)
    }

    /// Whether a member was started and has ended since; its log says why.
    pub(crate) fn has_ended(&mut self, place: usize) -> bool {
        let member = self.members.get_mut(place);
        let processes = member.and_then(|member| member.processes.as_mut());
        processes.is_none_or(Processes::have_ended)
    }

    /// How a member has ended that was told to.
    pub(crate) fn status(&mut self, place: usize) -> Option<ExitStatus> {
        self.members.get_mut(place)?.processes.as_mut()?.status()
    }

    /// What the NATS server between clients and members said last, if it has ended.
    pub(crate) fn external_ended(&mut self) -> Option<String> {
        self.external.as_mut()?.last_words()
    }

    /// Why a member has ended, as far as it has said.
    pub(crate) fn last_words(&mut self, place: usize) -> String {
        let Some(member) = self.members.get_mut(place) else { return String::new() };
        let status = member.processes.as_mut().and_then(Processes::status);
        let ended = |status: ExitStatus| format!(" ended ({status})");
        let ended = status.map_or_else(|| " does not start".to_owned(), ended);
        let tail = logs::tail(&member.log, TAIL_LINES, TAIL_LEN_MAX);
        let tail: Vec<String> = tail.into_iter().map(|line| format!("  {line}")).collect();
        format!(
            "member {}{ended}; the last it said, in {}:\n{}",
            member.number,
            member.log.display(),
            tail.join("\n")
        )
    }

    pub(crate) fn signal(&mut self, place: usize, signal: Signal) -> Result<(), DrillError> {
        self.member(place)?.signal(signal)
    }

    /// Has a member step down, and waits until another one is active.
    pub(crate) fn step_down(
        &mut self,
        place: usize,
        patience: &Patience,
    ) -> Result<(), DrillError> {
        let path = self.program.path.clone();
        let control = &self.member(place)?.control;
        let mut command = Command::new(path);
        command.args(["step-down", "--socket"]).arg(control);
        let what = "have a member step down";
        let said = process::run(what, &mut command, (patience, STEP_DOWN_WITHIN))?;
        if said.status.success() {
            return Ok(());
        }
        Err(DrillError::World(format!("member {} does not step down: {}", place + 1, said.err)))
    }

    /// No member reaches another one, or each does again.
    pub(crate) fn set_partitioned(&self, is_partitioned: bool) {
        for relay in &self.relays {
            if is_partitioned { relay.cut() } else { relay.heal() }
        }
    }

    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Ends all of them at once. What they keep is read back by then, and a kill is what they have
    /// to bear anyway; told to end, one would wait for another to take over.
    pub(crate) fn end(&mut self) {
        self.members.iter_mut().for_each(Member::reap);
        if let Some(external) = &mut self.external {
            external.end();
        }
    }

    fn member(&mut self, place: usize) -> Result<&mut Member, DrillError> {
        let missing = || DrillError::World(format!("there is no member {}", place + 1));
        self.members.get_mut(place).ok_or_else(missing)
    }
}

impl Member {
    fn start(&mut self, program: &Path) -> Result<(), DrillError> {
        self.reap();
        let opened = logs::open(&self.log);
        let (out, err) = opened.map_err(DrillError::io("cannot write the log of a member"))?;
        let mut command = Command::new(program);
        command.args(&self.args).stdin(Stdio::null()).stdout(out).stderr(err);
        let action = format!("cannot start {}", program.display());
        let processes = Processes::start(&mut command).map_err(DrillError::io(action))?;
        self.processes = Some(processes);
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<(), DrillError> {
        let number = self.number;
        let gone = || DrillError::World(format!("member {number} does not run"));
        let sent = self.processes.as_mut().ok_or_else(gone)?.signal(signal);
        sent.map_err(|error| {
            if error == Errno::ESRCH {
                return gone();
            }
            DrillError::World(format!("cannot send {signal} to member {number}: {error}"))
        })
    }

    fn reap(&mut self) {
        if let Some(mut processes) = self.processes.take() {
            processes.kill();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.reap();
    }
}

/// The arguments of the store of each partition, which is made as far as it has to be.
fn stores(
    scenario: &Scenario,
    (folder, run): (&Path, &str),
    patience: &Patience,
) -> Result<Vec<Vec<String>>, DrillError> {
    let parts = scenario.parts();
    if parts.count == 1 {
        return Ok(vec![database::make(&scenario.store, folder, patience)?]);
    }
    let store = |part: usize| {
        let cannot_make = || DrillError::io("cannot make the folder of a partition");
        let folder = folder.join(format!("partition-{}", part + 1));
        fs::create_dir(&folder).map_err(cannot_make())?;
        let channels = (0..parts.channels).filter(|channel| parts.of_channel(*channel) == part);
        let channels = channels.map(|channel| format!("\"{}\": {{}}", channel_name(run, channel)));
        let text = format!(
            "streaming {{ partitioning: true, store_limits {{ channels {{ {} }} }} }}\n",
            channels.collect::<Vec<_>>().join(", ")
        );
        let config = folder.join("partition.conf");
        fs::write(&config, text).map_err(cannot_make())?;
        let mut args = database::make(&scenario.store, &folder, patience)?;
        args.extend(["-sc".to_owned(), config.display().to_string()]);
        Ok(args)
    };
    (0..parts.count).map(store).collect()
}

/// The arguments of a member of that partition that say to whom it belongs.
fn group_args(part: usize, monitor: u16) -> Vec<String> {
    let pairs = [
        ("-cluster_id", CLUSTER_ID.to_owned()),
        ("-ft_group", format!("drill-{}", part + 1)),
        ("-a", "127.0.0.1".to_owned()),
        ("-m", monitor.to_string()),
    ];
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// The arguments of a member that is a NATS server itself.
fn network_args(ports: Ports, routes: &[u16], (place, has_relays): (usize, bool)) -> Vec<String> {
    let [client, route, _] = ports;
    let others = routes.iter().enumerate().filter(|(other, _)| *other != place);
    let others: Vec<String> = others.map(|(_, port)| format!("nats://127.0.0.1:{port}")).collect();
    let mut pairs =
        vec![("-p", client.to_string()), ("-cluster", format!("nats://127.0.0.1:{route}"))];
    if !others.is_empty() {
        pairs.push(("-routes", others.join(",")));
    }
    if has_relays {
        // What others hear of it leads through its relay too.
        pairs.push(("-cluster_advertise", format!("127.0.0.1:{}", routes[place])));
    }
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// Ports for so many members, and one more.
fn free_ports(count: usize, first: Option<u16>) -> Result<(Vec<Ports>, u16), DrillError> {
    let found = ports::free(Ports::default().len() * count + 1, first).map_err(|error| {
        let ports::NoPort { port, source } = error;
        let action = match first {
            Some(_) => format!("members.first_port: port {port} cannot be used"),
            None => "cannot find a free port".to_owned(),
        };
        DrillError::Io { action, source }
    })?;
    let (found, more) = found.as_chunks();
    Ok((found.to_vec(), more.first().copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let error = free_ports(1, Some(port)).expect_err("it is taken").to_string();
        assert!(error.starts_with(&format!("members.first_port: port {port} cannot")), "{error}");
    }

    #[test]
    fn a_program_that_is_no_server_is_named() {
        for (path, part) in [
            ("/none/such", "cannot run /none/such: No such file"),
            ("/bin/echo", "/bin/echo is no streaming server: asked for its version it says"),
        ] {
            let error = Program::find(Some(path), &Patience::default());
            let error = error.expect_err(path).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
