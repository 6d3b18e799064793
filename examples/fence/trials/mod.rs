//! Brings two members into doubt about who is active, and checks that they never both are.
//!
//! Used by the example beside it and by the tests; it knows servers as processes only.

mod doubt;
#[path = "../../pair/mod.rs"]
pub mod drill;
mod witness;

pub use self::doubt::why_not_blinded;

use stanby::base::world;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::drill::ledger::Received;
use self::drill::load::{self, Notes, Publisher, Readers};
use self::drill::pair::Pair;
use self::drill::{DrillError, Plan};

/// After so long without a sign of life a living holder is replaced.
const STEAL_AFTER: &str = "1s";

/// What follows from it: nobody answers for longer without a confirmed lease.
const LEASE_BOUND: Duration = Duration::from_nanos(1_000_000_000 / 3);

/// Longest wait for a change of roles.
const ROLES_TIMEOUT: Duration = Duration::from_secs(30);

/// Acks between two doubts: more than a lease bound of load.
const ACKS_PER_ROUND: u64 = 150;

/// What makes two members believe that they are active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The active stands still (SIGSTOP) for longer than the steal time, and goes on.
    Paused,
    /// The standby sees other files in the place of the lock files: the kernel grants it "the"
    /// lock while the active holds it.
    Blinded,
    /// The lock file is removed under the active.
    LockRemoved,
    /// Another file is put in the place of the lock file.
    LockReplaced,
    /// Another file is put there, and another program locks that.
    LockUsurped,
}

/// What a trial found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Everything that is wrong; empty if nothing is.
    pub faults: Vec<String>,
    /// Messages that are stored at the end.
    pub stored: usize,
    /// Take-overs that were asked for.
    pub takeovers: usize,
}

/// What all trials run on.
pub fn plan(binary: PathBuf) -> Plan {
    Plan {
        loops: Some(2),
        channels: 2,
        durables: 1,
        queue_members: 2,
        server_args: vec!["-ft_steal_after".to_owned(), STEAL_AFTER.to_owned()],
        ..Plan::new(binary)
    }
}

/// Two members under load, and what they are asked to do.
struct Trial<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    pair: Pair,
    notes: Notes,
    active: usize,
    findings: Findings,
}

/// Makes `rounds` doubts of one kind under load, then two take-overs by SIGKILL.
///
/// Each member has a publisher of its own, so that one goes on while the other member stands
/// still; durable and queue group see all of it.
pub fn run(
    doubt: Doubt,
    rounds: usize,
    plan: &Plan,
    folder: &Path,
) -> Result<Findings, DrillError> {
    let mut trial = Trial::start(plan, folder)?;
    let servers = trial.pair.servers();
    let notes = trial.notes.clone();
    let readers = Readers::start(plan, &servers, &notes)?;
    let mut publishers = Vec::new();
    for (name, server) in ["first", "second"].into_iter().zip(&servers) {
        let only = [server.clone(), server.clone()];
        publishers.push(Publisher::start(plan, &only, &notes, name)?);
    }
    for _ in 0..rounds {
        trial.some_acks()?;
        trial.doubt(doubt)?;
    }
    for _ in 0..2 {
        trial.some_acks()?;
        trial.kill_active()?;
    }
    trial.some_acks()?;
    for publisher in publishers {
        publisher.finish()?;
    }
    let stored = load::replay(plan, &servers, &notes)?;
    notes.ledger().stored = stored;
    readers.finish(&notes)?;
    trial.judge()
}

/// As [`run`], but each member has clients of its own, no route leads from one to the other, and
/// what matters is when the former active spoke last.
pub use self::witness::run as run_witness;

impl<'a> Trial<'a> {
    fn start(plan: &'a Plan, folder: &'a Path) -> Result<Self, DrillError> {
        let pair = Pair::start(plan, folder)?;
        let (notes, findings) = (Notes::default(), Findings::default());
        Ok(Self { plan, folder, pair, notes, active: 0, findings })
    }

    fn some_acks(&self) -> Result<(), DrillError> {
        drill::wait_for_acks(&self.notes, ACKS_PER_ROUND)
    }

    /// An ordinary take-over.
    fn kill_active(&mut self) -> Result<(), DrillError> {
        drill::fail_over(&mut self.pair, self.active, &self.notes)?;
        self.findings.takeovers += 1;
        self.pair.wait_exit(self.active)?;
        self.pair.set_prefix(self.active, &[]);
        self.pair.restart(self.active)?;
        self.active = 1 - self.active;
        self.wait_roles()
    }

    /// Waits until the one that should be active is, and the other is a standby.
    fn wait_roles(&mut self) -> Result<(), DrillError> {
        self.pair.wait_active(self.active)?;
        self.pair.wait_standby(1 - self.active)
    }

    fn fault(&mut self, text: impl Into<String>) {
        self.findings.faults.push(text.into());
    }

    /// Notes a fault unless the log of a member holds one of `texts`.
    fn expect_log(&mut self, place: usize, texts: &[&str]) -> Result<(), DrillError> {
        let log = self.pair.log(place)?;
        if !texts.iter().any(|text| log.contains(text)) {
            self.fault(format!("the log of member {place} says nothing like {texts:?}"));
        }
        Ok(())
    }

    /// What is wrong at the end, with the ledger and with the roles.
    fn judge(mut self) -> Result<Findings, DrillError> {
        let (faults, stored) = {
            let ledger = self.notes.ledger();
            (ledger.faults(world::now()), ledger.stored.iter().map(Received::count).sum())
        };
        if !faults.are_none() {
            self.fault(format!("{faults:?}"));
        }
        self.findings.stored = stored;
        let logs = self.pair.log(0)? + &self.pair.log(1)?;
        let activations = logs.matches("Server is active").count();
        let wanted = 1 + self.findings.takeovers;
        if activations != wanted {
            self.fault(format!("{activations} times a member became active, not {wanted} times"));
        }
        Ok(self.findings)
    }
}
