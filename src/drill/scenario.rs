//! A scenario: who takes part, what is done to them, and what is expected; and its checks.

mod reading;

use std::time::Duration;

use super::expectation::Expectation;
use super::step::{FORMS, Step};

pub(crate) use self::reading::keeper;
pub use self::reading::parse;

/// Most members that a drill starts or attaches to.
pub const MEMBERS_MAX: usize = 5;

/// What is wrong with a scenario, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{key}: {text}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct ScenarioError {
    /// Line of the file, from 1; none for what only the whole shows.
    pub line: Option<usize>,
    /// The key, with its table.
    pub key: String,
    /// What is wrong.
    pub text: String,
}

/// A whole scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// A short name.
    pub name: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// How often the steps are done.
    pub rounds: usize,
    /// One after the other.
    pub steps: Vec<Step>,
    /// Each has to hold.
    pub expect: Vec<Expectation>,
    /// The members that are started.
    pub members: Members,
    /// What they share.
    pub store: Store,
    /// What the clients of the drill do.
    pub clients: Clients,
    /// Members that run already; nothing is started then.
    pub attach: Option<Attach>,
}

/// The members that a drill starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// How many.
    pub count: usize,
    /// The program; none: this one.
    pub server: Option<String>,
    /// When they replace one that hangs; only stanby has it.
    pub steal_after: Option<Duration>,
    /// The first of the ports, three for each; none: any that are free.
    pub first_port: Option<u16>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// Where the members keep what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A directory.
    Directory,
    /// A file of SQLite.
    Sqlite,
    /// A database of PostgreSQL.
    Postgres,
    /// A database of MySQL or MariaDB.
    Mysql,
}

/// The names of the keepers.
pub const KEEPERS: [(&str, Keeper); 4] = [
    ("file", Keeper::Directory),
    ("sqlite", Keeper::Sqlite),
    ("postgres", Keeper::Postgres),
    ("mysql", Keeper::Mysql),
];

/// What the members share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Of which kind.
    pub keeper: Keeper,
    /// Source of a database that others run.
    pub source: Option<String>,
    /// Bytes of the file system that the drill makes for it.
    pub size: Option<u64>,
    /// Command that stops the database.
    pub stop: Option<String>,
    /// Command that starts it.
    pub start: Option<String>,
}

/// The clients of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// Each publishes to all channels in turn.
    pub publishers: usize,
    /// Durables, each on all channels.
    pub durables: usize,
    /// Members of one durable queue group on all channels.
    pub queue_members: usize,
    /// How many channels.
    pub channels: usize,
    /// Messages a second of each publisher.
    pub rate: u64,
    /// Bytes of a message.
    pub size: usize,
    /// The members that they connect to, from 1; none: all.
    pub at: Vec<usize>,
}

/// Members that run already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Where clients reach them.
    pub members: Vec<String>,
    /// Where each has its monitoring port.
    pub monitors: Vec<String>,
    /// Cluster ID.
    pub cluster: String,
    /// Command that sends `{signal}` to `{member}`.
    pub signal: Option<String>,
    /// Command that starts `{member}`.
    pub start: Option<String>,
    /// Command that has the active one step down.
    pub step_down: Option<String>,
}

impl Default for Members {
    fn default() -> Self {
        Self { count: 2, server: None, steal_after: None, first_port: None, arguments: Vec::new() }
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
    pub fn name(self) -> &'static str {
        KEEPERS.iter().find(|(_, keeper)| *keeper == self).map_or("", |(name, _)| name)
    }

    /// Whether a server of its own keeps it.
    #[must_use]
    pub fn is_served(self) -> bool {
        matches!(self, Self::Postgres | Self::Mysql)
    }
}

impl Scenario {
    /// How many members there are.
    #[must_use]
    pub fn member_count(&self) -> usize {
        self.attach.as_ref().map_or(self.members.count, |attach| attach.members.len())
    }

    /// Whether the members' routes have to be in our hands.
    #[must_use]
    pub fn cuts_routes(&self) -> bool {
        self.steps.contains(&Step::Partition)
    }

    /// Sees whether the parts fit together: after whatever a command line has changed.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let count = self.member_count();
        if let Some(number) = self.clients.at.iter().find(|number| count < **number) {
            return Err(wrong("clients.at", format!("there is no member {number} of {count}")));
        }
        if self.attach.is_none() {
            self.check_store()?;
        }
        for (index, step) in self.steps.iter().enumerate() {
            let key = format!("steps[{}]: {step}", index + 1);
            if let Some(number) = step.member().filter(|number| count < *number) {
                return Err(wrong(&key, format!("there is no member {number} of {count}")));
            }
            let trouble = match &self.attach {
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

    /// Why a step cannot be done with members that the drill starts.
    fn trouble_of(&self, step: Step) -> Option<&'static str> {
        let Store { keeper, size, stop, start, .. } = &self.store;
        let is_of_disk = matches!(step, Step::FillDisk | Step::FreeDisk);
        let is_of_group = matches!(step, Step::StepDown | Step::Partition);
        let troubles = [
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
            (is_of_group && self.members.count < 2, "there is one member only"),
        ];
        troubles.into_iter().find(|(is_so, _)| *is_so).map(|(_, text)| text)
    }
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
            (
                steps("kill active") + "[attach]\nmembers = [\"a:1\"]\nmonitors = [\"a:2\"]",
                "attach.signal",
            ),
            (
                steps("partition") + "[attach]\nmembers = [\"a:1\"]\nmonitors = [\"a:2\"]",
                "only to members that the drill starts",
            ),
        ] {
            let error = trouble(&text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
