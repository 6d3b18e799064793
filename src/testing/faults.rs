//! What goes wrong in a run, and when: from the seed, by a chance of its own.
//!
//! Each fault has a number in its run. A plan can leave some of them out, so that a run that breaks
//! a promise can be made smaller.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::errno::Errno;

use crate::base::random::Random;
use crate::testing::disk::Operation;

/// How much goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Chance of a fault in a step of the group, in millionths.
    pub per_step: u64,
    /// Chance of a fault before an operation of a disk, in millionths.
    pub per_operation: u64,
    /// What goes wrong more often than all else.
    pub focus: Option<Focus>,
    /// Whether nothing happens to members and disks: to a store in memory each of it is the end.
    pub spares_members: bool,
    /// Whether syncs may say that something is durable which is not.
    pub may_lie: bool,
    /// Chance that a bit of what is read has changed, in millionths of the reads.
    pub flips_per_read: u64,
    /// Nothing goes wrong but that routes break and the active changes, in this way: clients of
    /// others notice nothing.
    pub moves: Option<Moves>,
    /// Faults that are left out, by number.
    pub left_out: BTreeSet<u32>,
}

/// How the active changes in a run in which nothing else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// It hands over.
    HandOvers,
    /// It dies, or hands over.
    Deaths,
}

/// One operation before which much goes wrong in a run: most of what a member can be stopped in
/// the middle of is rare, and has to meet with something else that is rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Focus {
    /// Which one.
    pub operation: Operation,
    /// Chance of a fault before each, in millionths.
    pub per_operation: u64,
}

/// Of so many things that happen where nothing goes wrong one is that a route breaks.
const BREAKS: u64 = 12;

impl Focus {
    /// All of them, by how often they happen.
    const ALL: [Self; 17] = [
        Self::on(Operation::CreateFolder, 250_000),
        Self::on(Operation::RemoveFolder, 250_000),
        Self::on(Operation::Folder, 20_000),
        Self::on(Operation::OpenNew, 50_000),
        Self::on(Operation::Rename, 100_000),
        Self::on(Operation::RenameNew, 250_000),
        Self::on(Operation::RenameInto, 100_000),
        Self::on(Operation::Unlink, 100_000),
        Self::on(Operation::Truncate, 250_000),
        Self::on(Operation::Append, 10_000),
        Self::on(Operation::SyncFile, 15_000),
        Self::on(Operation::SyncFolder, 50_000),
        Self::on(Operation::SyncFilesystem, 50_000),
        Self::on(Operation::List, 50_000),
        Self::on(Operation::OpenRead, 20_000),
        Self::on(Operation::OpenAppend, 50_000),
        Self::on(Operation::ReadAt, 10_000),
    ];

    const fn on(operation: Operation, per_operation: u64) -> Self {
        Self { operation, per_operation }
    }
}

impl Plan {
    /// Whether nothing goes wrong.
    #[must_use]
    pub fn is_none(&self) -> bool {
        let is_none = self.per_step == 0 && self.per_operation == 0 && self.focus.is_none();
        is_none || self.moves.is_some()
    }

    /// The usual plan of a seed: nothing, little or much.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        // Most seeds have one, another for each.
        let place = usize::try_from(seed / 8 * 5 + seed % 8).unwrap_or(0) % Focus::ALL.len();
        let focus = (3 <= seed % 8).then_some(Focus::ALL[place]);
        let moves = match seed % 32 {
            8 => Some(Moves::HandOvers),
            24 => Some(Moves::Deaths),
            _ => None,
        };
        let (per_step, per_operation) = match seed % 8 {
            0 if moves.is_some() => (20_000, 0),
            0 => (0, 0),
            1 | 2 => (2_000, 500),
            3 => (1_000, 4_000),
            _ => (4_000, 1_500),
        };
        Self {
            per_step,
            per_operation,
            focus,
            spares_members: false,
            may_lie: seed % 16 == 11,
            flips_per_read: if seed % 32 == 17 { 5_000 } else { 0 },
            moves,
            left_out: BTreeSet::new(),
        }
    }
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process dies.
    Kill,
    /// A process stands still.
    Pause(Duration),
    /// An operation of the disk takes its time; everything else of the process goes on.
    Stall(Duration),
    /// The machine with the disk, and all of the group, loses its power.
    PowerCut,
    /// What renews the lease of a process stands still; everything else of the process goes on.
    KeeperStall(Duration),
    /// A process is asked to stop.
    Stop,
    /// The active is asked to hand over.
    HandOver,
    /// The lock service says yes to another; to one who claims the next epoch, too, or not.
    LockForgotten(bool),
    /// A wall clock is off by so many nanoseconds from now on.
    ClockJump(i64),
    /// The disk has no room.
    Full(Duration),
    /// Two members do not hear each other.
    PartMembers(Duration),
    /// The route between two members breaks, with what is on its way.
    BreakRoute,
    /// A client and a member do not hear each other.
    PartClient(Duration),
    /// A client reads slowly, or no longer.
    SlowReader(bool),
    /// An operation is not done.
    Error(Errno),
    /// It is done, and the answer is an error.
    ErrorAfter(Errno),
    /// A part is written.
    Short(Errno),
    /// A sync says that all is well, and does nothing.
    Lie,
    /// A bit of what is read has changed; which one follows from this.
    Flip(u64),
}

/// A fault, with its number in the run.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
}

/// The faults of a run.
#[derive(Debug)]
pub struct Faults {
    plan: Plan,
    random: Random,
    count: u32,
    happened: Vec<(u32, Kind)>,
    is_over: bool,
}

/// More than twice what it takes to replace a holder.
const PAUSE_MAX_MS: u64 = 2_500;
/// Nearly as long as it takes to replace a holder.
const REPLACED_AFTER: Duration = Duration::from_millis(900);
/// How many of a million that have the lock do not come to claim the epoch at once.
const CLAIM_FAULTS: u64 = 100_000;
const DOWN_MAX_MS: u64 = 800;
const FULL_MAX_MS: u64 = 800;
const PART_MAX_MS: u64 = 1_500;
const CLOCK_OFF_MAX_MS: i64 = 5_000;

impl Faults {
    /// The faults of a plan.
    #[must_use]
    pub fn new(plan: Plan, seed: u64) -> Self {
        let random = Random::new(seed);
        Self { plan, random, count: 0, happened: Vec::new(), is_over: false }
    }

    /// Nothing goes wrong any more.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// What went wrong.
    #[must_use]
    pub fn happened(&self) -> &[(u32, Kind)] {
        &self.happened
    }

    /// One of so many.
    pub fn choose(&mut self, count: usize) -> usize {
        usize::try_from(self.random.below(count as u64)).unwrap_or(0)
    }

    /// For how long a dead process stays away.
    pub fn down_ms(&mut self) -> u64 {
        1 + self.random.below(DOWN_MAX_MS)
    }

    fn is_due(&mut self, per_million: u64) -> bool {
        !self.is_over && self.random.below(1_000_000) < per_million
    }

    fn number(&mut self, kind: Kind) -> Option<Fault> {
        self.count += 1;
        let number = self.count;
        if self.plan.left_out.contains(&number) {
            return None;
        }
        self.happened.push((number, kind));
        Some(Fault { number, kind })
    }

    fn ms(&mut self, max: u64) -> Duration {
        Duration::from_millis(1 + self.random.below(max))
    }

    /// Ahead or behind: so a clock jumps back too.
    fn clock_off(&mut self) -> i64 {
        let width = u64::try_from(2 * CLOCK_OFF_MAX_MS).unwrap_or(1);
        let ms = i64::try_from(self.random.below(width)).unwrap_or(0) - CLOCK_OFF_MAX_MS;
        ms * 1_000_000
    }

    /// Short ones are frequent, long ones happen.
    fn pause(&mut self) -> Duration {
        let max = [20, 400, PAUSE_MAX_MS, PAUSE_MAX_MS][self.choose(4)];
        self.ms(max)
    }

    /// What goes wrong between two steps.
    pub fn on_step(&mut self) -> Option<Fault> {
        if !self.is_due(self.plan.per_step) {
            return None;
        }
        if let Some(moves) = self.plan.moves {
            let dies = moves == Moves::Deaths && self.random.below(3) != 0;
            // After it the active does not change for long.
            if self.random.below(BREAKS) == 0 {
                return self.number(Kind::BreakRoute);
            }
            return self.number(if dies { Kind::Kill } else { Kind::HandOver });
        }
        if self.plan.spares_members {
            let kind = match self.random.below(3) {
                0 => Kind::ClockJump(self.clock_off()),
                1 => Kind::PartClient(self.ms(PART_MAX_MS)),
                _ => Kind::SlowReader(self.random.below(3) != 0),
            };
            return self.number(kind);
        }
        let kind = match self.random.below(18) {
            0..=2 => Kind::Kill,
            3 | 4 => Kind::Pause(self.pause()),
            5 => Kind::PowerCut,
            6 | 7 => Kind::Stop,
            8 => Kind::LockForgotten(self.random.below(2) == 0),
            9 => Kind::ClockJump(self.clock_off()),
            10 => Kind::Full(self.ms(FULL_MAX_MS)),
            11 | 12 => Kind::PartMembers(self.ms(PART_MAX_MS)),
            13 => Kind::PartClient(self.ms(PART_MAX_MS)),
            14 | 15 => Kind::KeeperStall(self.pause()),
            _ => Kind::SlowReader(self.random.below(3) != 0),
        };
        self.number(kind)
    }

    /// What goes wrong between the lock and the epoch, for whoever takes both.
    pub fn on_claim(&mut self) -> Option<Fault> {
        if self.plan.is_none() || self.plan.spares_members || !self.is_due(CLAIM_FAULTS) {
            return None;
        }
        let kind = match self.random.below(8) {
            0 => Kind::Kill,
            // Long enough for another to pass it over, or not.
            _ => Kind::Pause(REPLACED_AFTER + self.ms(PAUSE_MAX_MS)),
        };
        self.number(kind)
    }

    /// What goes wrong before `operation`.
    pub fn on_operation(&mut self, operation: Operation) -> Option<Fault> {
        let may_flip = operation == Operation::ReadAt && 0 < self.plan.flips_per_read;
        if may_flip && self.is_due(self.plan.flips_per_read) {
            let kind = Kind::Flip(self.random.next_u64());
            return self.number(kind);
        }
        if let Some(focus) = self.plan.focus.filter(|focus| focus.operation == operation)
            && self.is_due(focus.per_operation)
        {
            let kind = match self.random.below(8) {
                0 => Kind::Kill,
                1 => Kind::PowerCut,
                // Long enough for another to take over, or not.
                _ => Kind::Pause(REPLACED_AFTER + self.ms(PAUSE_MAX_MS)),
            };
            return self.number(kind);
        }
        if !self.is_due(self.plan.per_operation * weight(operation)) {
            return None;
        }
        let is_sync = matches!(
            operation,
            Operation::SyncFile | Operation::SyncFolder | Operation::SyncFilesystem
        );
        if self.plan.may_lie && is_sync && self.random.below(2) == 0 {
            return self.number(Kind::Lie);
        }
        let errors = operation.errors();
        let errno = errors[self.choose(errors.len())];
        let kind = match self.random.below(12) {
            0..=3 => Kind::Pause(self.pause()),
            4 | 5 => Kind::Stall(self.pause()),
            6 | 7 => Kind::Kill,
            8 => Kind::PowerCut,
            9 if operation == Operation::Append => Kind::Short(errno),
            10 if operation.is_change() => Kind::ErrorAfter(Errno::EIO),
            _ => Kind::Error(errno),
        };
        self.number(kind)
    }
}

/// How much more often something goes wrong before operations of which much hangs on each.
fn weight(operation: Operation) -> u64 {
    match operation {
        Operation::CreateRoot
        | Operation::OpenRoot
        | Operation::List
        | Operation::Folder
        | Operation::OpenRead
        | Operation::OpenAppend
        | Operation::Identity
        | Operation::Stamp
        | Operation::Watch
        | Operation::ReadAt
        | Operation::Describe
        | Operation::Size
        | Operation::Allocate => 1,
        Operation::Append => 2,
        Operation::SyncFolder | Operation::SyncFilesystem | Operation::SyncFile => 4,
        Operation::CreateFolder
        | Operation::RemoveFolder
        | Operation::OpenNew
        | Operation::Rename
        | Operation::RenameNew
        | Operation::RenameInto
        | Operation::Unlink
        | Operation::Truncate => 8,
    }
}
