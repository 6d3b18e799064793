//! A whole group, one thread at a time: processes, a disk, locks, a network, clients, faults.
//!
//! The store's calls are not cut into steps: they run as they are, over a disk that asks before
//! each operation. A pause there leaves the call where it is, while another thread turns
//! the group (`turning`); a death lets it run on against a disk that no longer does anything. So a
//! member can stop before any operation while another takes over, and several may at once.

mod administering;
mod electing;
mod turning;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::channel_limits::{ResolvedLimits, StoreLimits};
use crate::base::epoch::Predecessor;
use crate::base::id::LoopIndex;
use crate::base::random::Random;
use crate::base::time::{Instant, Now, WallTime};
use crate::base::world;
use crate::broker::ConnectionKind;
use crate::election::Role;
use crate::store::StoreError;
use crate::testing::baton::Sleepers;
use crate::testing::checker::{Checker, Promise, Seen};
use crate::testing::faults::{Faults, Kind};
use crate::testing::leases::{self, Locks, SimulatedFence};
use crate::testing::limits;
use crate::testing::memory_disk::{MemoryDisk, ProcessId};
use crate::testing::operator::Operator;
use crate::testing::plan::{Outcome, Plan};
use crate::testing::process::{self, Process};
use crate::testing::trace::Trace;
use crate::testing::wires::{End, Node, Wires};
use crate::testing::workload::Client;

pub use self::turning::Simulation;
use self::turning::Surveyed;

/// A member: a process, or none at present.
struct Slot {
    process: Option<Process>,
    up_at: Instant,
    /// It does nothing before this; it does not know that.
    paused_until: Instant,
    /// Its keeper does nothing before this.
    keeper_until: Instant,
    /// How far its wall clock is off, in nanoseconds.
    clock_off: i64,
}

struct Group {
    plan: Plan,
    random: Random,
    faults: Faults,
    now: Now,
    disk: MemoryDisk,
    locks: Locks,
    wires: Wires,
    slots: Vec<Slot>,
    clients: Vec<Client>,
    checker: Checker,
    trace: Trace,
    limits: StoreLimits,
    resolved: ResolvedLimits,
    process_count: u32,
    full_until: Instant,
    /// When the active changed last in a run in which nothing else happens.
    moved_at: Instant,
    /// When a route broke last in such a run.
    cut_at: Instant,
    operator: Option<Operator>,
    /// What dies, and when: each dies when that was decided first.
    doomed: BTreeMap<ProcessId, Instant>,
    steps: u64,
    steps_max: u64,
    takeovers: u32,
    /// Calls of stores that stand still.
    sleepers: Sleepers,
    /// Stores that were won and are not opened yet.
    openings: VecDeque<ToOpen>,
    /// Standbys that are to look at the store.
    looks: VecDeque<ToLook>,
    /// What they have seen there.
    surveys: BTreeMap<ProcessId, Surveyed>,
    is_healed: bool,
    /// Since when nothing but the members is waited for.
    restless_since: Option<Instant>,
    is_over: bool,
}

/// A store to be opened, outside of everything else.
struct ToOpen {
    number: usize,
    id: ProcessId,
    term: u64,
    fence: Arc<SimulatedFence>,
    predecessor: Predecessor,
}

/// A store to be looked at while another member is active.
struct ToLook {
    number: usize,
    id: ProcessId,
}

/// What a run begins at.
const STARTS_AT: Instant = Instant(1_000_000_000);
/// What a clock that is right shows then.
const STARTS_AT_WALL: WallTime = WallTime(1_700_000_000_000_000_000);
const STEP_MAX_MICROS: u64 = 2_000;
const SETTLE_STEP_MAX_MICROS: u64 = 15_000;
const IDLE_STEP_MAX_MICROS: u64 = 30_000;
/// Of so many steps a client acts in one, and in one of so many where time goes faster.
const STEPS_PER_ACT: u64 = 8;
const FAST_STEPS_PER_ACT: u64 = 2;
const OPERATION_MAX_MICROS: u64 = 60;
const STILL_FOR_LONG: Duration = Duration::from_millis(50);
const START_MAX_MS: u64 = 50;
/// Time for a member that died to come back, and to be joined to all others.
const MOVES_APART: Duration = Duration::from_millis(700);
/// Time for a route that broke to be dialled again, and for what it took with it to be answered.
const JOINED_WITHIN: Duration = Duration::from_millis(1_700);
/// What was published last has arrived, or never will.
const AUDIT_AFTER: Duration = Duration::from_secs(2);
/// Longer than a member waits for its loops or its store.
const UNREST_MAX: Duration = Duration::from_secs(40);
/// Steps after the faults within which everything must be delivered.
const SETTLE_STEPS_MAX: u64 = 400_000;
/// Steps after the faults if nobody can serve what is stored.
const REFUSED_STEPS: u64 = 5_000;

/// What a clock that is right shows.
#[must_use]
pub fn wall_at(at: Instant) -> WallTime {
    STARTS_AT_WALL + at.since(STARTS_AT)
}

impl Group {
    /// A group at its start.
    fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let now = Now { at: STARTS_AT, wall: wall_at(STARTS_AT) };
        let slot = |_| Slot {
            process: None,
            up_at: now.at,
            paused_until: now.at,
            keeper_until: now.at,
            clock_off: 0,
        };
        let trace = Trace::new(plan.is_traced);
        let limits = if plan.is_limited { limits::tight() } else { StoreLimits::default() };
        let resolved = limits.resolve().expect("no section is wrong");
        let client = |number| {
            let client = Client::new(number, now.at).administered(plan.is_administered);
            if plan.is_limited { client.roaming() } else { client }
        };
        let disk = MemoryDisk::new(random.next_u64(), random.below(2) == 0);
        if !plan.lands_out_of_order {
            disk.keep_order();
        }
        Self {
            faults: Faults::new(plan.faults.clone(), random.next_u64()),
            now,
            disk,
            locks: Locks::default(),
            wires: Wires::default(),
            slots: (0..plan.members).map(slot).collect(),
            clients: (0..plan.clients).map(client).collect(),
            checker: Checker::new(resolved.clone(), trace.clone())
                .calm(plan.faults.is_none())
                .moved(plan.faults.moves),
            trace,
            limits,
            resolved,
            process_count: 0,
            full_until: now.at,
            moved_at: now.at,
            cut_at: now.at,
            operator: plan.is_administered.then(|| Operator::new(!plan.seed)),
            doomed: BTreeMap::new(),
            steps: 0,
            steps_max: plan.steps,
            takeovers: 0,
            sleepers: Sleepers::default(),
            openings: VecDeque::new(),
            looks: VecDeque::new(),
            surveys: BTreeMap::new(),
            is_healed: false,
            restless_since: None,
            is_over: false,
            random,
            plan,
        }
    }

    /// Whether no step is left of this part of the run, or nothing left to wait for.
    fn is_at_end(&mut self) -> bool {
        let is_done = self.steps_max <= self.steps || (self.is_healed && self.is_settled());
        is_done || self.checker.violation().is_some()
    }

    fn number_of(&self, id: ProcessId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.process.as_ref().is_some_and(|p| p.id == id))
    }

    fn process(&mut self, number: usize, id: ProcessId) -> Option<&mut Process> {
        self.slots[number].process.as_mut().filter(|process| process.id == id)
    }

    /// What the clocks of a member show.
    fn clocks_of(&self, number: usize) -> Now {
        Now { wall: WallTime(self.now.wall.0 + self.slots[number].clock_off), ..self.now }
    }

    /// Everything but the store's work.
    fn step(&mut self) {
        let step_max = self.step_max_micros();
        let little = Duration::from_micros(1 + self.random.below(step_max));
        self.now = Now { at: self.now.at + little, wall: self.now.wall + little };
        self.disk.set_full(self.now.at < self.full_until);
        self.hear_of_harm();
        self.inject_faults();
        self.administer();
        for number in 0..self.slots.len() {
            self.start(number);
            if self.slots[number].paused_until <= self.now.at {
                self.turn_member(number);
            }
        }
        let is_fast = !self.is_healed && STEP_MAX_MICROS < step_max;
        for number in 0..self.clients.len() {
            let acts_in = if is_fast { FAST_STEPS_PER_ACT } else { STEPS_PER_ACT };
            self.turn_client(number, acts_in);
        }
    }

    /// Where somebody stands still for long time goes faster, so that it ends in this run, and
    /// fastest while nobody serves.
    fn step_max_micros(&self) -> u64 {
        if self.is_healed {
            return SETTLE_STEP_MAX_MICROS;
        }
        if !self.is_somebody_still() {
            return STEP_MAX_MICROS;
        }
        let mut processes = self.slots.iter().filter_map(|slot| slot.process.as_ref());
        let is_served = processes.any(Process::is_serving);
        if is_served { SETTLE_STEP_MAX_MICROS } else { IDLE_STEP_MAX_MICROS }
    }

    /// Whether somebody stands still for long.
    fn is_somebody_still(&self) -> bool {
        let soon = self.now.at + STILL_FOR_LONG;
        let waits = |process: &Process| {
            soon < process.keeper.next_look() && process.member.role() == Role::Standby
        };
        let is_still = |slot: &Slot| {
            let until = slot.paused_until.max(slot.keeper_until);
            soon < until || slot.process.as_ref().is_some_and(waits)
        };
        self.slots.iter().any(is_still) || self.sleepers.wait_beyond(soon)
    }

    fn start(&mut self, number: usize) {
        let slot = &self.slots[number];
        if slot.process.is_some() || self.now.at < slot.up_at {
            return;
        }
        self.process_count += 1;
        let id = ProcessId(self.process_count);
        let now = self.clocks_of(number);
        let shape = (self.plan.loops, self.plan.members);
        let process = Process::new((number, id), shape, &self.locks, &mut self.random, now);
        self.slots[number].process = Some(process);
        self.slots[number].paused_until = now.at;
        self.slots[number].keeper_until = now.at;
        self.trace.say(now.at, || format!("m{number} starts as process {}", id.0));
    }

    fn inject_faults(&mut self) {
        let Some(fault) = self.faults.on_step() else { return };
        self.ask_before(fault.kind);
        let number = self.faults.choose(self.slots.len());
        let client = self.faults.choose(self.plan.clients.max(1));
        let now = self.now.at;
        if self.plan.faults.moves.is_some() {
            return self.move_active(fault.kind);
        }
        self.trace.say(now, || format!("fault {fault:?} at m{number} or c{client}"));
        match fault.kind {
            Kind::Kill => self.kill_soon(number),
            Kind::PowerCut => self.cut_power(),
            Kind::Pause(lasts) => self.slots[number].paused_until = now + lasts,
            Kind::KeeperStall(lasts) => self.slots[number].keeper_until = now + lasts,
            Kind::Stop => self.ask_to_stop(number),
            Kind::HandOver => self.ask_to_hand_over(number),
            Kind::LockForgotten(forgets_epoch) => self.forget_locks(forgets_epoch),
            Kind::ClockJump(off) => self.slots[number].clock_off = off,
            Kind::Full(lasts) => {
                self.checker.on_troubled();
                self.full_until = now + lasts;
            }
            Kind::PartMembers(lasts) => {
                let other = (number + 1) % self.slots.len();
                self.wires.part([Node::Member(number), Node::Member(other)], now + lasts);
            }
            Kind::PartClient(lasts) => {
                self.wires.part([Node::Member(number), Node::Client(client)], now + lasts);
            }
            Kind::SlowReader(is_slow) => {
                if let Some(end) = self.clients[client].link() {
                    self.wires.set_slow(end, is_slow);
                }
            }
            Kind::Stall(_)
            | Kind::BreakRoute
            | Kind::Error(_)
            | Kind::ErrorAfter(_)
            | Kind::Short(_)
            | Kind::Lie
            | Kind::Flip(_) => {}
        }
    }

    /// The lock service forgets who has the lock. Where the machine behind it has started anew, who
    /// is active hears nothing of it at first, and may believe in its lease for as long as that
    /// lasts, beside whoever claims the next epoch at once.
    fn forget_locks(&mut self, forgets_epoch: bool) {
        self.locks.forget(forgets_epoch);
        if forgets_epoch {
            let until = self.now.at + leases::bound();
            let serves = |slot: &&mut Slot| slot.process.as_ref().is_some_and(Process::is_serving);
            for slot in self.slots.iter_mut().filter(serves) {
                slot.keeper_until = slot.keeper_until.max(until);
            }
        }
    }

    /// The active hands over or dies, once all is well; not where all clients are, if it dies.
    fn move_active(&mut self, kind: Kind) {
        let now = self.now.at;
        let is_of = |slot: &Slot, role: fn(Role) -> bool| {
            slot.process.as_ref().is_some_and(|process| role(process.member.role()))
        };
        let is_active = |slot: &Slot| is_of(slot, |role| matches!(role, Role::Active { .. }));
        let is_standby = |slot: &Slot| is_of(slot, |role| role == Role::Standby);
        let Some(number) = self.slots.iter().position(is_active) else { return };
        let standbys = self.slots.iter().filter(|slot| is_standby(slot)).count();
        let is_quiet = self.moved_at + MOVES_APART <= now && self.cut_at + JOINED_WITHIN <= now;
        let is_well = standbys + 1 == self.slots.len() && is_quiet;
        if kind == Kind::BreakRoute {
            if is_well {
                self.break_route(number);
            }
            return;
        }
        let has_clients = number + 1 == self.slots.len();
        if !is_well || has_clients && kind == Kind::Kill {
            return;
        }
        // What is half done when it dies its successor has to make up for.
        let is_late = self.moved_at + 3 * MOVES_APART <= now;
        if kind == Kind::Kill && !is_late && !self.checker.is_asked_for_some() {
            return;
        }
        self.moved_at = now;
        self.checker.on_moved();
        self.trace.say(now, || format!("{kind:?} of m{number}, which is active"));
        if kind == Kind::Kill {
            self.checker.on_active_killed();
            self.kill(number);
        } else {
            self.ask_to_hand_over(number);
        }
    }

    /// The route from the active to where all clients are breaks, or that to the other one.
    fn break_route(&mut self, active: usize) {
        let (now, count) = (self.now.at, self.slots.len());
        let step = 1 + self.faults.choose(count - 1);
        let other = if active + 1 == count { (active + step) % count } else { count - 1 };
        if self.wires.cut([Node::Member(active), Node::Member(other)]) {
            self.cut_at = now;
            self.checker.on_route_broken();
            self.trace.say(now, || format!("the route between m{active} and m{other} breaks"));
        }
    }

    fn bury(&mut self, number: usize, is_machine_gone: bool) {
        let Some(process) = self.slots[number].process.take() else { return };
        self.surveys.remove(&process.id);
        self.locks.free(process.id);
        self.sleepers.end_of(process.id, self.now.at);
        self.wires.kill(Node::Member(number), is_machine_gone);
        let down = Duration::from_millis(self.faults.down_ms());
        self.slots[number].up_at = self.now.at + down;
        self.slots[number].paused_until = self.now.at;
    }

    fn kill(&mut self, number: usize) {
        self.bury(number, false);
    }

    fn cut_power(&mut self) {
        for number in 0..self.slots.len() {
            self.bury(number, true);
        }
        self.disk.cut_power();
        self.hear_of_harm();
    }

    /// What the disk does not give back as it was given clients cannot count on.
    fn hear_of_harm(&mut self) {
        for harm in self.disk.take_harms() {
            self.checker.on_harm(&harm);
        }
    }

    fn turn_member(&mut self, number: usize) {
        let now = self.clocks_of(number);
        world::simulate(Some(now));
        // A thread of its own: sooner or later than the loops.
        if self.slots[number].keeper_until <= self.now.at && self.random.below(4) != 0 {
            self.turn_keeper(number);
        }
        for index in 0..usize::from(self.plan.loops) {
            // A loop turns now and then, as on a busy machine.
            if self.random.below(4) == 0 {
                continue;
            }
            let Some(process) = &mut self.slots[number].process else { return };
            let may_answer = self.locks.may_answer(process.id, now.at);
            let (wires, random) = (&mut self.wires, &mut self.random);
            let mut ground =
                process::Ground { wires, random, now, may_answer, has_answered_late: false };
            let dials = process.turn(index, &mut ground);
            if ground.has_answered_late {
                let text = format!("m{number} answers, and a later epoch is another's");
                self.checker.fail(Promise::P2, text);
            }
            self.steps += 1;
            for (url, is_explicit) in dials {
                self.dial(number, url, is_explicit);
            }
        }
        self.hear_events(number);
        self.look_at_deadlines(number);
    }

    fn end_start(&mut self, opening: &ToOpen, error: &StoreError) {
        let (number, now) = (opening.number, self.now.at);
        if self.process(number, opening.id).is_some() {
            self.bury(number, false);
            self.trace.say(now, || format!("m{number} cannot start: {error}"));
        }
    }

    fn dial(&mut self, number: usize, url: String, is_explicit: bool) {
        let now = self.now;
        let other = (0..self.slots.len()).find(|other| process::url_of(*other) == url);
        let nodes = other.map(|other| [Node::Member(number), Node::Member(other)]);
        let can_reach = other.is_some_and(|other| self.slots[other].process.is_some())
            && nodes.is_some_and(|nodes| self.wires.can_reach(nodes, now.at));
        let (Some(other), Some(nodes), true) = (other, nodes, can_reach) else {
            if let Some(process) = &mut self.slots[number].process {
                process.dial_failed(&url, now);
            }
            return;
        };
        let connection = self.wires.open(nodes, [LoopIndex(0); 2]);
        let kinds =
            [ConnectionKind::RouteSolicited { url, is_explicit }, ConnectionKind::RouteAccepted];
        for ((side, node), kind) in [number, other].into_iter().enumerate().zip(kinds) {
            if let Some(process) = &mut self.slots[node].process {
                process.accept(End { connection, side }, LoopIndex(0), kind, now);
            }
        }
    }

    fn turn_client(&mut self, number: usize, acts_in: u64) {
        let now = self.now.at;
        self.checker.set_now(now);
        let client = &mut self.clients[number];
        if let Some(end) = client.link() {
            let arrived = self.wires.receive(end, now, &mut self.random);
            for bytes in &arrived.bytes {
                self.steps += 1;
                let answer = client.receive(bytes, now, &mut self.checker);
                send(&mut self.wires, end, answer, now, &mut self.random);
            }
            if arrived.is_over {
                self.wires.close(end);
                client.on_linked(None, now, &mut self.random);
            }
        }
        if client.seeks_link(now) {
            self.link_client(number);
        }
        let client = &mut self.clients[number];
        if self.random.below(acts_in) != 0 {
            return;
        }
        let doing = client.act(now, &mut self.random, &mut self.checker);
        if let Some(end) = client.link() {
            self.steps += u64::from(!doing.bytes.is_empty());
            send(&mut self.wires, end, doing.bytes, now, &mut self.random);
            if doing.hangs_up {
                self.wires.close(end);
                client.on_linked(None, now, &mut self.random);
            }
        }
    }

    /// Any member will do.
    fn link_client(&mut self, number: usize) {
        let count = self.slots.len() as u64;
        let drawn = usize::try_from(self.random.below(count)).unwrap_or(0);
        let is_moved = self.plan.faults.moves.is_some();
        let member = if is_moved { self.slots.len() - 1 } else { drawn };
        let home =
            LoopIndex(u16::try_from(self.random.below(u64::from(self.plan.loops))).unwrap_or(0));
        let nodes = [Node::Client(number), Node::Member(member)];
        let now = self.clocks_of(member);
        let client = &mut self.clients[number];
        let is_reached = self.wires.can_reach(nodes, now.at);
        let is_open = |process: &&mut Process| is_reached && process.closed_at.is_none();
        let Some(process) = self.slots[member].process.as_mut().filter(is_open) else {
            client.on_linked(None, now.at, &mut self.random);
            return;
        };
        let connection = self.wires.open(nodes, [LoopIndex(0), home]);
        process.accept(End { connection, side: 1 }, home, ConnectionKind::Client, now);
        let end = End { connection, side: 0 };
        self.checker.on_linked(connection, member);
        let bytes = client.on_linked(Some(end), now.at, &mut self.random);
        send(&mut self.wires, end, bytes, now.at, &mut self.random);
        self.trace.say(now.at, || format!("c{number} connects to m{member}"));
    }

    fn take_worker(
        &mut self,
        number: usize,
    ) -> Option<(ProcessId, usize, u64, crate::store::worker::Unthreaded)> {
        let now = self.clocks_of(number);
        if now.at < self.slots[number].paused_until {
            return None;
        }
        world::simulate(Some(now));
        let process = self.slots[number].process.as_mut().filter(|process| !process.is_busy)?;
        let ready: Vec<usize> = (0..process.workers.len())
            .filter(|index| process.workers[*index].as_ref().is_some_and(|(_, w)| w.has_work()))
            .collect();
        if ready.is_empty() {
            return None;
        }
        let choice = usize::try_from(self.random.below(ready.len() as u64)).unwrap_or(0);
        let index = ready[choice];
        let (term, worker) = process.workers[index].take()?;
        process.is_busy = true;
        Some((process.id, index, term, worker))
    }

    fn heal(&mut self) {
        self.faults.end();
        self.wires.heal();
        self.is_healed = true;
        let now = self.now.at;
        self.checker.set_now(now);
        self.checker.on_healed();
        for slot in &mut self.slots {
            slot.paused_until = now;
            slot.keeper_until = now;
            slot.up_at = slot.up_at.min(now + Duration::from_millis(START_MAX_MS));
        }
        self.full_until = now;
        self.sleepers.end_by(now);
        self.clients.iter_mut().for_each(Client::retire);
        let from = now + AUDIT_AFTER;
        self.clients.push(Client::auditor(self.clients.len(), from));
        self.steps_max = self.steps + SETTLE_STEPS_MAX;
        self.trace.say(now, || "the faults are over".to_owned());
    }

    fn is_settled(&mut self) -> bool {
        if self.checker.is_refused() {
            return self.steps_max < self.steps + SETTLE_STEPS_MAX - REFUSED_STEPS;
        }
        let Some(auditor) = self.clients.last() else { return true };
        let is_read = auditor.has_read_all(&self.checker)
            && !self.checker.knows_more_than(auditor.audit())
            && self.checker.first_debt(auditor.audit()).is_none()
            && (auditor.has_probed() || !self.checker.may_linger());
        if !is_read || self.first_unrest().is_none() {
            return is_read;
        }
        let since = *self.restless_since.get_or_insert(self.now.at);
        since + UNREST_MAX < self.now.at
    }

    /// What is wrong with the members, as somebody sees who asks those that live.
    fn first_unrest(&self) -> Option<String> {
        let living = self.slots.iter().filter_map(|slot| slot.process.as_ref());
        let seen: Vec<Seen> = living.map(Process::seen).collect();
        self.checker.first_unrest(&seen, 1 < self.plan.members)
    }

    fn finish(&mut self) -> Outcome {
        if let Some(operator) = &mut self.operator {
            operator.give_up(&mut self.checker);
        }
        if self.checker.violation().is_none() {
            let auditor = self.clients.pop();
            let audit = auditor.as_ref().map(Client::audit).cloned().unwrap_or_default();
            self.checker.check_audit(&audit);
            if let Some(debt) = self.checker.first_debt(&audit) {
                self.checker.fail(Promise::P5, format!("{debt} was never delivered"));
            } else if !auditor.is_some_and(|it| it.has_read_all(&self.checker)) {
                let active = self.slots.iter().map(|slot| {
                    slot.process.as_ref().map(|process| format!("{:?}", process.member.role()))
                });
                let roles: Vec<_> = active.collect();
                let text = format!("the channels cannot be read to their ends: {roles:?}");
                self.checker.fail(Promise::P5, text);
            } else if let Some(text) = self.first_unrest() {
                self.checker.fail(Promise::Roles, text);
            }
        }
        Outcome {
            violation: self.checker.violation().cloned(),
            steps: self.steps,
            acked_count: self.checker.acked_count(),
            takeovers: self.takeovers,
            faults: self.faults.happened().to_vec(),
            trace: self.trace.lines(),
        }
    }
}

fn send(wires: &mut Wires, end: End, bytes: bytes::Bytes, now: Instant, random: &mut Random) {
    if !bytes.is_empty() {
        wires.send(end, bytes, now, random);
    }
}

fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
