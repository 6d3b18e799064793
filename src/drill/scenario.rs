//! A scenario: who takes part, what is done to them, and what is expected; and its checks.

mod reading;

use std::time::Duration;

use super::expectation::Expectation;
use super::ledger::Parts;
use super::step::{FORMS, Step};

pub(crate) use self::reading::keeper;
pub(crate) use self::reading::parse;

/// Most members that a drill starts or attaches to.
pub(crate) const MEMBERS_MAX: usize = 5;

/// Most partitions, each with so many members.
pub(crate) const PARTITIONS_MAX: usize = 4;

/// What is wrong with a scenario, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{key}: {text}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub(crate) struct ScenarioError {
    /// Line of the file, from 1; none for what only the whole shows.
    pub(crate) line: Option<usize>,
    /// The key, with its table.
    pub(crate) key: String,
    pub(crate) text: String,
}

/// A whole scenario.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// What it is for, in a sentence.
    pub(crate) about: String,
    /// How often the steps are done.
    pub(crate) rounds: usize,
    /// One after the other.
    pub(crate) steps: Vec<Step>,
    /// Each has to hold.
    pub(crate) expect: Vec<Expectation>,
    /// The members that are started.
    pub(crate) members: Members,
    /// What they share.
    pub(crate) store: Store,
    /// What the clients of the drill do.
    pub(crate) clients: Clients,
    /// Members that run already; nothing is started then.
    pub(crate) attach: Option<Attach>,
}

/// The members that a drill starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) count: usize,
    /// The program; none: this one.
    pub(crate) server: Option<String>,
    /// When they replace one that hangs; only stanby has it.
    pub(crate) steal_after: Option<Duration>,
    /// The first of the ports, three for each; none: any that are free.
    pub(crate) first_port: Option<u16>,
    /// More arguments.
    pub(crate) arguments: Vec<String>,
    /// The program of a NATS server that is started for clients and members to connect to; none:
    /// the members are NATS servers themselves.
    pub(crate) external: Option<String>,
    /// Groups of so many members, each with its part of the channels.
    pub(crate) partitions: usize,
}

/// Where the members keep what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    Directory,
    /// A file of SQLite.
    Sqlite,
    /// A database of PostgreSQL.
    Postgres,
    /// A database of MySQL or MariaDB.
    Mysql,
}

/// The names of the keepers.
pub(crate) const KEEPERS: [(&str, Keeper); 4] = [
    ("file", Keeper::Directory),
    ("sqlite", Keeper::Sqlite),
    ("postgres", Keeper::Postgres),
    ("mysql", Keeper::Mysql),
];

/// What the members share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) keeper: Keeper,
    /// Source of a database that others run.
    pub(crate) source: Option<String>,
    /// Bytes of the file system that the drill makes for it.
    pub(crate) size: Option<u64>,
    /// Command that stops the database.
    pub(crate) stop: Option<String>,
    /// Command that starts it.
    pub(crate) start: Option<String>,
}

/// The clients of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clients {
    /// Each publishes to all channels in turn.
    pub(crate) publishers: usize,
    /// Durables, each on all channels.
    pub(crate) durables: usize,
    /// Members of one durable queue group on all channels.
    pub(crate) queue_members: usize,
    /// How many channels.
    pub(crate) channels: usize,
    /// Messages a second of each publisher.
    pub(crate) rate: u64,
    /// Bytes of a message.
    pub(crate) size: usize,
    /// The members that they connect to, from 1; none: all.
    pub(crate) at: Vec<usize>,
}

/// Members that run already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attach {
    /// Where clients reach them.
    pub(crate) members: Vec<String>,
    /// Where each has its monitoring port.
    pub(crate) monitors: Vec<String>,
    pub(crate) cluster: String,
    /// Command that sends `{signal}` to `{member}`.
    pub(crate) signal: Option<String>,
    /// Command that starts `{member}`.
    pub(crate) start: Option<String>,
    /// Command that has the active one step down.
    pub(crate) step_down: Option<String>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            count: 2,
            server: None,
            steal_after: None,
            first_port: None,
            arguments: Vec::new(),
            external: None,
            partitions: 1,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { keeper: Keeper::Directory, source: None, size: None, stop: None, start: None }
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            publishers: 1,
            durables: 1,
            queue_members: 0,
            channels: 1,
            rate: 200,
            size: 64,
            at: Vec::new(),
        }
    }
}

impl Keeper {
    /// As it is written.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        KEEPERS.iter().find(|(_, keeper)| *keeper == self).map_or("", |(name, _)| name)
    }

    /// Whether a server of its own keeps it.
    #[must_use]
    pub(crate) fn is_served(self) -> bool {
        matches!(self, Self::Postgres | Self::Mysql)
    }
}

impl Scenario {
    /// How many members there are, of all partitions.
    #[must_use]
    pub(crate) fn member_count(&self) -> usize {
        let Members { count, partitions, .. } = self.members;
        self.attach.as_ref().map_or(count * partitions, |attach| attach.members.len())
    }

    /// What belongs to which partition.
    #[must_use]
    pub(crate) fn parts(&self) -> Parts {
        let (count, members) = match &self.attach {
            Some(attach) => (1, attach.members.len()),
            None => (self.members.partitions, self.members.count),
        };
        Parts { count, channels: self.clients.channels, members }
    }

    /// Whether the members' routes have to be in our hands.
    #[must_use]
    pub(crate) fn cuts_routes(&self) -> bool {
        self.steps.contains(&Step::Partition)
    }

    /// Sees whether the parts fit together: after whatever a command line has changed.
    ///
    /// # Errors
    /// The first thing that does not.
    pub(crate) fn check(&self) -> Result<(), ScenarioError> {
        let count = self.member_count();
        if let Some(number) = self.clients.at.iter().find(|number| count < **number) {
            return Err(wrong("clients.at", format!("there is no member {number} of {count}")));
        }
        match &self.attach {
            None => {
                self.check_store()?;
                self.check_partitions()?;
            }
            Some(attach) => attach.check()?,
        }
        for (index, step) in self.steps.iter().enumerate() {
            let key = format!("steps[{}]: {step}", index + 1);
            if let Some(number) = step.member().filter(|number| count < *number) {
                return Err(wrong(&key, format!("there is no member {number} of {count}")));
            }
            let trouble = match &self.attach {
                _ if self.parts().members < 2 && step.needs_another() => {
                    Some("there is one member only")
                }
                None => self.trouble_of(*step),
                Some(attach) => trouble_attached(*step, attach),
            };
            if let Some(text) = trouble {
                return Err(wrong(&key, text.to_owned()));
            }
        }
        Ok(())
    }

    fn check_store(&self) -> Result<(), ScenarioError> {
        let Store { keeper, source, size, .. } = &self.store;
        if keeper.is_served() && source.is_none() {
            let text = format!("store {} needs the source of a database", keeper.name());
            return Err(wrong("store.source", text));
        }
        if !keeper.is_served() && source.is_some() {
            let text = format!("store {} is made by the drill, and has none", keeper.name());
            return Err(wrong("store.source", text));
        }
        if keeper.is_served() && size.is_some() {
            let text = format!("store {} lies where its server keeps it", keeper.name());
            return Err(wrong("store.size", text));
        }
        Ok(())
    }

    fn check_partitions(&self) -> Result<(), ScenarioError> {
        let Members { external, partitions, .. } = &self.members;
        if *partitions == 1 {
            return Ok(());
        }
        if external.is_none() {
            let text = "partitions need a NATS server between them and their clients: \
                        members.external (--external)";
            return Err(wrong("members.partitions", text.to_owned()));
        }
        if self.store.keeper != Keeper::Directory || self.store.size.is_some() {
            let text = "each partition has a directory of its own: store file, without a size";
            return Err(wrong("members.partitions", text.to_owned()));
        }
        let channels = self.clients.channels;
        if channels < *partitions {
            let text = format!("{channels} channel(s) for {partitions} partitions: each needs one");
            return Err(wrong("clients.channels", text));
        }
        Ok(())
    }

    /// Why a step cannot be done with members that the drill starts.
    fn trouble_of(&self, step: Step) -> Option<&'static str> {
        let Store { keeper, size, stop, start, .. } = &self.store;
        let is_of_disk = matches!(step, Step::FillDisk | Step::FreeDisk);
        let troubles = [
            (
                step == Step::Partition && self.members.external.is_some(),
                "members over an external NATS server have no routes that could be cut",
            ),
            (
                is_of_disk && keeper.is_served(),
                "the disk of a database server is not the drill's to fill",
            ),
            (
                is_of_disk && size.is_none(),
                "store.size has to say how large the disk is that the drill makes and fills",
            ),
            (
                step == Step::StopDatabase && stop.is_none(),
                "store.stop (--stop-database) has to be the command that stops the database",
            ),
            (
                step == Step::StartDatabase && start.is_none(),
                "store.start (--start-database) has to be the command that starts the database",
            ),
        ];
        troubles.into_iter().find(|(is_so, _)| *is_so).map(|(_, text)| text)
    }
}

impl Attach {
    /// Whether what is given can be of use: who is told nothing of a member would do the same to
    /// each.
    fn check(&self) -> Result<(), ScenarioError> {
        for (index, monitor) in self.monitors.iter().enumerate() {
            if !is_monitor(monitor) {
                let text =
                    format!("{monitor:?} is no monitoring address: host:port, or http://host:port");
                return Err(wrong(&format!("attach.monitors[{}]", index + 1), text));
            }
        }
        let commands = [
            ("attach.signal (--signal-command)", &self.signal),
            ("attach.start (--start-command)", &self.start),
            ("attach.step_down (--step-down-command)", &self.step_down),
        ];
        for (key, command) in commands {
            let Some(command) = command else { continue };
            let names_member = ["{member}", "{address}"].iter().any(|it| command.contains(it));
            // A command that does nothing is none for any of them.
            let is_of_one = 1 < self.members.len()
                && !names_member
                && !["true", ":"].contains(&command.as_str());
            if is_of_one {
                let count = self.members.len();
                let text = format!(
                    "{command:?} does the same whichever of the {count} members is meant: it \
                     needs {{member}} or {{address}}"
                );
                return Err(wrong(key, text));
            }
        }
        match &self.signal {
            Some(command) if !command.contains("{signal}") => {
                let text = format!(
                    "{command:?} sends the same whatever is to be sent: it needs {{signal}}"
                );
                Err(wrong("attach.signal (--signal-command)", text))
            }
            _ => Ok(()),
        }
    }
}

/// Whether pages can be asked for there.
fn is_monitor(text: &str) -> bool {
    let place = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let parts = place.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && !host.contains(['/', '@', ' ']);
        is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// Why a step cannot be done with members that run already.
fn trouble_attached(step: Step, attach: &Attach) -> Option<&'static str> {
    match step {
        Step::Kill(_) | Step::Terminate(_) | Step::Pause(..) => attach.signal.is_none().then_some(
            "attach.signal (--signal-command) has to be the command that sends {signal} to \
             {member}",
        ),
        Step::Start(_) => attach
            .start
            .is_none()
            .then_some("attach.start (--start-command) has to be the command that starts {member}"),
        Step::StepDown => attach
            .step_down
            .is_none()
            .then_some("attach.step_down (--step-down-command) has to be the command that does it"),
        Step::Partition
        | Step::Heal
        | Step::FillDisk
        | Step::FreeDisk
        | Step::StopDatabase
        | Step::StartDatabase => Some("that is done only to members that the drill starts"),
        Step::Wait(..) | Step::Pass(_) => None,
    }
}

fn wrong(key: &str, text: String) -> ScenarioError {
    ScenarioError { line: None, key: key.to_owned(), text }
}

/// What is said where no step is given.
fn no_steps() -> String {
    format!("a drill without steps shows nothing: {FORMS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(text: &str) -> Scenario {
        parse(text).expect(text)
    }

    fn trouble(text: &str) -> String {
        scenario(text).check().expect_err(text).to_string()
    }

    const ONE: &str = "[attach]\nmembers = [\"a:1\"]\nmonitors = [\"a:2\"]\n";
    const TWO: &str =
        "[attach]\nmembers = [\"a:1\", \"b\"]\nmonitors = [\"a:2\", \"http://b:2/\"]\n";

    #[test]
    fn commands_that_name_a_member_will_do() {
        let text = "steps = [\"kill active\"]\n".to_owned() + TWO;
        let text = text + "signal = \"x {signal} {address}\"\nstart = \"true\"";
        assert_eq!(scenario(&text).check(), Ok(()));
    }

    #[test]
    fn parts_that_do_not_fit_together_are_named() {
        let steps = |step: &str| format!("steps = [\"{step}\"]\nexpect = [\"lost = 0\"]\n");
        for (text, part) in [
            (steps("kill -9 member 3"), "steps[1]: kill -9 member 3: there is no member 3 of 2"),
            (steps("fill the disk"), "store.size has to say"),
            (steps("stop the database"), "store.stop (--stop-database) has to be"),
            (steps("step-down") + "[members]\ncount = 1", "there is one member only"),
            (steps("wait 1s") + "[clients]\nat = [4]", "clients.at: there is no member 4 of 2"),
            (steps("wait 1s") + "[store]\nkind = \"mysql\"", "needs the source"),
            (steps("wait 1s") + "[store]\nsource = \"x\"", "is made by the drill"),
            (
                steps("wait 1s") + "[store]\nkind = \"mysql\"\nsource = \"x\"\nsize = \"9MiB\"",
                "store.size: store mysql lies where its server keeps it",
            ),
            (steps("wait until taken over") + "[members]\ncount = 1", "there is one member only"),
            (
                steps("step-down")
                    + "[members]\ncount = 1\npartitions = 2\nexternal = \"x\"\n\
                 [clients]\nchannels = 2",
                "there is one member only",
            ),
            (steps("wait 1s") + "[members]\npartitions = 2", "members.external (--external)"),
            (
                steps("wait 1s") + "[members]\npartitions = 2\nexternal = \"x\"",
                "clients.channels: 1 channel(s) for 2 partitions: each needs one",
            ),
            (
                steps("wait 1s")
                    + "[members]\npartitions = 2\nexternal = \"x\"\n\
                 [store]\nkind = \"sqlite\"",
                "members.partitions: each partition has a directory of its own",
            ),
            (
                steps("kill member 5") + "[members]\npartitions = 2\nexternal = \"x\"",
                "clients.channels: 1 channel(s) for 2",
            ),
            (
                steps("partition") + "[members]\nexternal = \"x\"",
                "have no routes that could be cut",
            ),
            (steps("kill active") + ONE, "attach.signal"),
            (steps("term standby") + ONE + "signal = \"x {signal}\"", "there is one member only"),
            (steps("wait 1s") + TWO + "signal = \"x {signal}\"", "it needs {member} or {address}"),
            (steps("wait 1s") + TWO + "start = \"x\"", "whichever of the 2 members is meant"),
            (steps("wait 1s") + TWO + "signal = \"kill {member}\"", "it needs {signal}"),
            (
                steps("wait 1s") + "[attach]\nmembers = [\"a\"]\nmonitors = [\"a\"]",
                "attach.monitors[1]: \"a\" is no monitoring address: host:port",
            ),
            (steps("partition") + TWO, "only to members that the drill starts"),
        ] {
            let error = trouble(&text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
