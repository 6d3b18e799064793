//! The file store over a disk of which the power goes: whatever was answered is durable.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/fault_cases.rs"]
mod fault_cases;
#[path = "support/store_life.rs"]
mod store_life;
#[path = "support/stores.rs"]
mod stores;

use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;

use stanby::base::epoch::Predecessor;
use stanby::base::random::Random;
use stanby::base::world;
use stanby::store::file::disk::Disk;
use stanby::testing::disk::{Fault, Operation};
use stanby::testing::memory_disk::{self, Fate, MemoryDisk, ProcessId, World};

use fault_cases::go_through;
use store_life::{Ground, Life, Step, client, options, whole_life};

/// What goes wrong, and before which operation, counted from when a process begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    /// The process ends.
    Dies(usize),
    /// The next sync fails so, and the kernel forgets what was to be written.
    SyncFails(usize, Errno),
    /// There is no room for so many operations.
    Full(usize, usize),
}

#[derive(Debug)]
struct State {
    trouble: Trouble,
    /// Whoever is not this one is dead.
    process: ProcessId,
    count: usize,
    is_dead: bool,
    was_faulty: bool,
}

/// A disk in memory, and what goes wrong on it.
#[derive(Clone)]
struct Machine {
    disk: MemoryDisk,
    state: Arc<Mutex<State>>,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let disk = MemoryDisk::new(seed, seed.is_multiple_of(2));
        disk.keep_order();
        let state = State {
            trouble: Trouble::Nothing,
            process: ProcessId(0),
            count: 0,
            is_dead: false,
            was_faulty: false,
        };
        let machine = Self { disk, state: Arc::new(Mutex::new(state)) };
        memory_disk::rule(Some(Rc::new(machine.clone())));
        machine
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Another process begins; the one before has ended.
    fn begin(&self, trouble: Trouble) {
        let mut state = self.state();
        state.process.0 += 1;
        state.was_faulty |= state.is_dead;
        (state.trouble, state.count, state.is_dead) = (trouble, 0, false);
        drop(state);
        self.disk.set_full(false);
    }

    /// The power goes, and comes back.
    fn cut_power(&self) {
        self.begin(Trouble::Nothing);
        self.state().was_faulty = true;
        self.disk.cut_power();
    }
}

impl World for Machine {
    fn before(&self, process: ProcessId, operation: Operation, _name: &[u8]) -> Fate {
        let mut state = self.state();
        if process != state.process || state.is_dead {
            return Fate::Dead;
        }
        let number = state.count;
        state.count += 1;
        match state.trouble {
            Trouble::Dies(at) if at == number => {
                state.is_dead = true;
                return Fate::Dead;
            }
            Trouble::SyncFails(at, errno) if at <= number => {
                use Operation::{SyncFile, SyncFilesystem, SyncFolder};
                if [SyncFile, SyncFilesystem, SyncFolder].contains(&operation) {
                    state.trouble = Trouble::Nothing;
                    state.was_faulty = true;
                    return Fate::Fails(Fault::Refused(errno));
                }
            }
            Trouble::Full(from, count) if from <= number => {
                let is_full = number < from + count;
                state.was_faulty |= is_full;
                drop(state);
                self.disk.set_full(is_full);
            }
            Trouble::Nothing | Trouble::Dies(_) | Trouble::SyncFails(..) | Trouble::Full(..) => (),
        }
        Fate::Done
    }
}

impl Ground for Machine {
    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.mount(self.state().process))
    }

    fn mend(&self) {
        self.state().trouble = Trouble::Nothing;
        self.disk.set_full(false);
    }

    fn was_faulty(&self) -> bool {
        self.state().was_faulty
    }

    fn is_dead(&self) -> bool {
        self.state().is_dead
    }
}

/// What of [`whole_life`] happens by the store's own hands, and is waited for.
fn steps() -> Vec<Step> {
    let is_ours = |step: &Step| {
        !matches!(step, Step::Clutter(_) | Step::Litter(_) | Step::Steal(_) | Step::Crash)
    };
    let durable = |step| {
        if let Step::PublishLater(parts) = step { Step::Publish(parts) } else { step }
    };
    whole_life().into_iter().filter(is_ours).map(durable).collect()
}

fn work() -> [Step; 6] {
    const NAMES: [&str; 5] = ["foo", "bar", "aged", "baz", "qux"];
    let publish = |count| Step::Publish(NAMES.map(|name| (name, count)).to_vec());
    [
        Step::Read,
        publish(2),
        Step::Register(vec![client("successor's")]),
        Step::Wait(1),
        publish(4),
        Step::Read,
    ]
}

/// One way in which the power goes.
#[derive(Clone, Copy, Debug)]
struct Case {
    first: Trouble,
    /// Whether the power goes when the first process has ended.
    is_cut: bool,
    /// Of the process after it, which ends without a word, and the power goes.
    second: Trouble,
    seed: u64,
}

fn life_on(machine: &Machine) -> Life {
    // Two clocks that stand still: which way of syncing is the quicker one is not measured.
    world::simulate(Some(stores::now(0)));
    let life = Life::new(Path::new("/data"), machine.clone(), options(Path::new("/data")));
    life.model.lock().unwrap().may_lose_unanswered = true;
    life
}

fn live(case: &Case, steps: &[Step]) -> String {
    let machine = Machine::new(case.seed);
    let mut life = life_on(&machine);
    machine.begin(case.first);
    life.live(steps);
    let ending = if machine.is_dead() {
        "died"
    } else if !machine.was_faulty() {
        "not reached"
    } else if life.down_count != 0 {
        "stepped down"
    } else if life.refused_count != 0 {
        "refused"
    } else {
        "nobody noticed"
    };
    life.end();
    if case.is_cut {
        machine.cut_power();
    }
    machine.begin(case.second);
    life.live(&work());
    life.end();
    machine.cut_power();
    machine.begin(Trouble::Nothing);
    life.take_over(Predecessor::Gone).unwrap();
    life.live(&work());
    life.end();
    machine.cut_power();
    machine.begin(Trouble::Nothing);
    life.take_over(Predecessor::Gone).unwrap();
    life.live(&[Step::Read, Step::Reopen(Predecessor::Clean), Step::Read]);
    memory_disk::rule(None);
    world::simulate(None);
    ending.to_owned()
}

/// Goal: whenever a process dies, a sync fails or the disk is full, and whenever the power goes
/// after that, also in the middle of the take-over: what was answered is there, and what a
/// successor has counted and delivered is, too.
#[test]
fn a_power_failure_takes_nothing_that_was_answered() {
    let steps = steps();
    let machine = Machine::new(2);
    let mut life = life_on(&machine);
    machine.begin(Trouble::Nothing);
    life.live(&steps);
    assert_eq!((life.refused_count, life.down_count), (0, 0), "nothing fails by itself");
    let count = machine.state().count;
    let mut random = Random::new(1);
    let mut below = |bound: u64| usize::try_from(random.below(bound)).unwrap();
    let mut cases = Vec::new();
    for number in 0..count {
        let full = Trouble::Full(number, 1 + below(400));
        let [lost, refused] = [Errno::EIO, Errno::ENOSPC].map(|it| Trouble::SyncFails(number, it));
        for first in [Trouble::Dies(number), lost, refused, full] {
            for is_cut in [false, true] {
                let at = below(500);
                let full = Trouble::Full(at, 1 + below(400));
                let [lost, refused] =
                    [Errno::EIO, Errno::ENOSPC].map(|it| Trouble::SyncFails(at, it));
                let ways = [Trouble::Dies(at), lost, refused, full, Trouble::Nothing];
                let seed = (number * 2 + below(2)) as u64;
                cases.push(Case { first, is_cut, second: ways[below(5)], seed });
            }
        }
    }
    let test = ("file_store_power_cuts", "a_power_failure_takes_nothing_that_was_answered");
    go_through(test, cases, |case| live(case, &steps));
}
