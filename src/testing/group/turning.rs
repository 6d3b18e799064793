//! The threads that turn a group, of which one goes on at a time, and what a disk asks them.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::{Group, OPERATION_MAX_MICROS, ToLook, ToOpen, show};
use crate::base::epoch::Fence;
use crate::base::time::{Instant, Now};
use crate::base::world;
use crate::election::Role;
use crate::store::file::survey::Survey;
use crate::store::file::{self, FileOptions, Opening};
use crate::store::memory;
use crate::testing::baton;
use crate::testing::checker::Promise;
use crate::testing::disk::{Fault, Operation};
use crate::testing::faults::{self, Kind};
use crate::testing::memory_disk::{Fate, ProcessId, World, rule};
use crate::testing::plan::{Outcome, Plan};
use crate::testing::trace::Trace;

const ROOT: &str = "/data";

/// A simulated group.
#[derive(Clone)]
pub struct Simulation(Arc<Mutex<Group>>);

/// What a standby has read of the store while another member was active.
pub(super) struct Surveyed(Survey);

/// Who turned the group last goes on with it, or is no longer needed.
enum Turned {
    /// Everything was done.
    Over,
    /// Another thread turns it.
    ByAnother,
}

impl Simulation {
    /// A group at its start.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self(Arc::new(Mutex::new(Group::new(plan))))
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens is written there, if it is wanted.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.group().trace.clone()
    }

    /// Runs to the end: work under faults, then healing, then the last check. A panic of the
    /// product is a broken promise too. `prepare` is called on each thread of the run.
    #[must_use]
    pub fn run(self, prepare: &Arc<dyn Fn() + Send + Sync>) -> Outcome {
        let (ended, outcome) = bounded(1);
        self.turn_on_another_thread(Parts { prepare: Arc::clone(prepare), ended });
        outcome.recv().unwrap_or_default()
    }

    fn turn_on_another_thread(&self, parts: Parts) {
        let simulation = self.clone();
        let name = format!("seed-{}", self.group().plan.seed);
        let body = move || simulation.thread(&parts);
        let spawned = thread::Builder::new().name(name).spawn(body);
        // The one who waits for the outcome hears that nobody is left to tell it.
        drop(spawned);
    }

    /// A thread that turns the group, until it is over or another one does.
    fn thread(&self, parts: &Parts) {
        (parts.prepare)();
        rule(Some(Rc::new(Ruled { simulation: self.clone(), parts: parts.clone() })));
        let turned = panic::catch_unwind(AssertUnwindSafe(|| self.drive()));
        if let Err(cause) = &turned {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            self.group().checker.fail(Promise::Lives, text.unwrap_or_default());
        }
        let is_replaced = matches!(turned, Ok(Turned::ByAnother)) || baton::is_guest();
        if !is_replaced {
            let outcome = self.end();
            // Whoever does not wait for it does not want it.
            let _ = parts.ended.send(outcome);
        }
        rule(None);
        baton::give_back();
    }

    fn drive(&self) -> Turned {
        loop {
            let mut group = self.group();
            if group.is_at_end() {
                if group.is_healed || group.checker.violation().is_some() {
                    return Turned::Over;
                }
                group.heal();
            }
            drop(group);
            self.step();
            if baton::is_guest() {
                return Turned::ByAnother;
            }
        }
    }

    /// The last check; then nothing that still happens has an effect.
    fn end(&self) -> Outcome {
        let mut group = self.group();
        let outcome = group.finish();
        group.is_over = true;
        group.sleepers.end_by(Instant(0));
        drop(group);
        self.wake();
        outcome
    }

    /// Lets calls go on that have waited long enough.
    fn wake(&self) {
        loop {
            let mut group = self.group();
            let now = group.now.at;
            let Some(sleeper) = group.sleepers.take_due(now) else { return };
            drop(group);
            sleeper.go_on();
        }
    }

    fn step(&self) {
        self.group().step();
        self.wake();
        loop {
            let opening = self.group().openings.pop_front();
            let Some(opening) = opening else { break };
            self.open(&opening);
            if baton::is_guest() {
                return;
            }
        }
        loop {
            let look = self.group().looks.pop_front();
            let Some(look) = look else { break };
            self.look(&look);
            if baton::is_guest() {
                return;
            }
        }
        let count = self.group().slots.len();
        for number in 0..count {
            self.work(number);
            if baton::is_guest() {
                return;
            }
        }
    }

    /// Opens the store for a process that has just won the lease.
    fn open(&self, opening: &ToOpen) {
        let (disk, now, limits, loops, survey) = {
            let mut group = self.group();
            let now = group.clocks_of(opening.number);
            let Some(process) = group.process(opening.number, opening.id) else { return };
            let loops = process.loop_count();
            let survey = group.surveys.remove(&opening.id).map(|seen| seen.0);
            world::simulate(Some(now));
            let limits = group.limits.clone();
            if group.plan.is_in_memory {
                let opened = memory::open(&limits, loops);
                group.on_opened(opening, opened);
                return;
            }
            (group.disk.mount(opening.id), now, limits, loops, survey)
        };
        let options = file_options();
        if let Err(error) = file::prepare_on(&disk, &options) {
            // It says so and ends, as a server does that cannot start; somebody starts it again.
            self.group().end_start(opening, &error);
            return;
        }
        let parts = Opening {
            options: &options,
            limits: &limits,
            fence: Arc::clone(&opening.fence) as Arc<dyn Fence>,
            predecessor: opening.predecessor,
            loops,
            now,
            survey,
        };
        let opened = file::open_on(Arc::new(disk), parts);
        self.group().on_opened(opening, opened);
    }

    /// A standby looks at the store of another active.
    fn look(&self, look: &ToLook) {
        let (disk, now) = {
            let mut group = self.group();
            let now = group.clocks_of(look.number);
            let is_in_memory = group.plan.is_in_memory;
            let process = group.process(look.number, look.id);
            if is_in_memory || process.is_none_or(|it| it.member.role() != Role::Standby) {
                return;
            }
            world::simulate(Some(now));
            (group.disk.mount(look.id), now)
        };
        // What cannot be read, the take-over will meet.
        let survey = Survey::take(&disk, &file_options(), now.wall).ok().flatten();
        let mut group = self.group();
        if let Some(process) = group.process(look.number, look.id)
            && process.member.role() == Role::Standby
        {
            group.surveys.extend(survey.map(|survey| (look.id, Surveyed(survey))));
        }
    }

    /// A few turns of a member's store workers.
    fn work(&self, number: usize) {
        let count = self.group().random.below(3);
        for _ in 0..count {
            let Some((id, index, term, mut worker)) = self.group().take_worker(number) else {
                return;
            };
            let goes_on = worker.turn();
            let mut group = self.group();
            group.steps += 1;
            if let Some(process) = group.process(number, id) {
                process.on_worked(index, goes_on.then_some((term, worker)));
            }
            if baton::is_guest() {
                return;
            }
        }
    }
}

/// What a thread of the run hands on to the next one.
#[derive(Clone)]
struct Parts {
    prepare: Arc<dyn Fn() + Send + Sync>,
    ended: Sender<Outcome>,
}

/// What decides about the operations of a thread.
struct Ruled {
    simulation: Simulation,
    parts: Parts,
}

impl Ruled {
    /// A member meets a fault before an operation of the disk.
    fn suffer(&self, (number, id): (usize, ProcessId), fault: faults::Fault, place: &str) -> Fate {
        let mut group = self.simulation.group();
        let now = group.now.at;
        group.trace.say(now, || format!("fault {fault:?} before m{number} {place}"));
        if matches!(fault.kind, Kind::Error(_) | Kind::ErrorAfter(_) | Kind::Short(_)) {
            group.checker.on_troubled();
        }
        match fault.kind {
            Kind::Pause(lasts) => {
                group.slots[number].paused_until = now + lasts;
                drop(group);
                self.wait(id, now + lasts);
                Fate::Done
            }
            Kind::Stall(lasts) => {
                drop(group);
                self.wait(id, now + lasts);
                Fate::Done
            }
            Kind::Kill => {
                group.kill(number);
                Fate::Dead
            }
            Kind::PowerCut => {
                group.cut_power();
                Fate::Dead
            }
            Kind::Error(errno) => Fate::Fails(Fault::Refused(errno)),
            Kind::ErrorAfter(errno) => Fate::Fails(Fault::Done(errno)),
            Kind::Short(errno) => Fate::Fails(Fault::Short(errno)),
            Kind::Lie => Fate::Lies,
            Kind::Flip(chance) => Fate::Flips(chance),
            Kind::Stop
            | Kind::HandOver
            | Kind::KeeperStall(_)
            | Kind::LockForgotten(_)
            | Kind::ClockJump(_)
            | Kind::Full(_)
            | Kind::PartMembers(_)
            | Kind::BreakRoute
            | Kind::PartClient(_)
            | Kind::SlowReader(_) => Fate::Done,
        }
    }

    /// Stands still, while another thread turns the group.
    fn wait(&self, id: ProcessId, until: Instant) {
        let wait = self.simulation.group().sleepers.add(id, until);
        if !baton::give_back() {
            self.simulation.turn_on_another_thread(self.parts.clone());
        }
        wait.sleep();
    }
}

impl World for Ruled {
    fn before(&self, id: ProcessId, operation: Operation, name: &[u8]) -> Fate {
        let mut group = match self.simulation.0.try_lock() {
            Ok(group) => group,
            Err(TryLockError::Poisoned(group)) => group.into_inner(),
            // The group itself does something that ends in an operation.
            Err(TryLockError::WouldBlock) => return Fate::Done,
        };
        if group.is_over {
            return Fate::Dead;
        }
        group.steps += 1;
        let Some(number) = group.number_of(id) else { return Fate::Dead };
        let little = Duration::from_nanos(group.random.below(OPERATION_MAX_MICROS * 1_000));
        group.now = Now { at: group.now.at + little, wall: group.now.wall + little };
        let fault = group.faults.on_operation(operation);
        drop(group);
        let fate = fault.map_or(Fate::Done, |fault| {
            let place = format!("{} {}", operation.method(), show(name));
            self.suffer((number, id), fault, &place)
        });
        let group = self.simulation.group();
        let is_dead = group.is_over || group.number_of(id).is_none();
        let now = group.clocks_of(number);
        group.trace.say(now.at, || {
            let late = if is_dead { ", dead" } else { "" };
            format!("m{number} {} {}{late}", operation.method(), show(name))
        });
        world::simulate(Some(now));
        if is_dead { Fate::Dead } else { fate }
    }
}

/// Small slices, and few files open, so that both happen often.
fn file_options() -> FileOptions {
    FileOptions {
        slice_messages_max: 12,
        compact_interval_secs: 1,
        compact_bytes_min: 256,
        descriptors_max: 24,
        ..FileOptions::new(Path::new(ROOT))
    }
}
