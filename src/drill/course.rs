//! A drill as it happens: starts the members and the load, does one step after the other, ends all.

mod waits;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::DrillError;
use super::attached::Attached;
use super::by_hand::ByHand;
use super::database::{self, COMMAND_WITHIN};
use super::group::Group;
use super::ledger::{Parts, Role};
use super::load::{Notes, Place, Publishers, Readers, read_back};
use super::members::Started;
use super::patience::Patience;
use super::report::{Ending, Report};
use super::scenario::Scenario;
use super::step::{Condition, Step, Target, WAIT_MAX};
use super::watch::Watch;
use crate::base::random::Random;
use crate::base::world;
use crate::client::Options;

/// How long a member may take until it is active or ready for the first time.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take until one of the members that run already is seen to be active.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

/// How long members may refuse a hand-over before that is what there is to say, and the pause
/// between two tries.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(15);
const STEP_DOWN_PAUSE: Duration = Duration::from_millis(100);

/// How long it may take until a member serves at the end.
const SERVE_WITHIN: Duration = Duration::from_secs(60);

/// How long a command may take that undoes what a step has done, once somebody has enough: what was
/// stopped must not stay so.
const MEND_WITHIN: Duration = Duration::from_secs(5);

/// How a drill ends before its last step.
enum Early {
    /// It could not be done.
    Error(DrillError),
    /// What a step waits for does not come: a finding.
    Broken(String),
    /// Whoever is at the terminal has enough.
    Interrupted,
}

impl From<DrillError> for Early {
    fn from(error: DrillError) -> Self {
        match error {
            DrillError::Interrupted => Self::Interrupted,
            error @ (DrillError::Io { .. } | DrillError::Client { .. } | DrillError::World(_)) => {
                Self::Error(error)
            }
        }
    }
}

/// A drill under way.
struct Course<'a> {
    scenario: &'a Scenario,
    group: Group,
    notes: Notes,
    patience: Patience,
    /// Members that are to run: one of them that ends is a finding.
    is_up: Vec<bool>,
    /// Who was active before the last disturbance.
    before: Option<usize>,
    is_database_stopped: bool,
    login: &'a Options,
    parts: Parts,
    /// The partition for whose members steps are that name none.
    turn: usize,
    /// Partitions whose members are there; others are not started yet.
    begun: usize,
    /// Once a step waits for it.
    by_hand: Option<ByHand>,
}

/// Does what a scenario says. `folder` is empty, and keeps the logs and the store; clients are made
/// after `login`; `tell` hears how far it is; the drill is broken off when `stop` is raised.
///
/// # Errors
/// When it could not be done. What it shows is in the report.
pub(crate) fn run(
    scenario: &Scenario,
    (folder, login): (&Path, &Options),
    stop: &Arc<AtomicBool>,
    tell: &mut dyn FnMut(&str),
) -> Result<Report, DrillError> {
    let patience = Patience(Arc::clone(stop));
    let seed = world::entropy().map_err(DrillError::io("cannot read entropy"))?;
    let name = Random::new(seed).unique_id();
    let name = name.get(..8).unwrap_or(&name);
    let group = match &scenario.attach {
        Some(attach) => Group::Attached(Attached::new(attach)),
        None => Group::Started(Started::prepare(scenario, (folder, name), &patience)?),
    };
    let count = scenario.member_count();
    let mut course = Course {
        scenario,
        group,
        notes: Notes::default(),
        patience,
        is_up: vec![false; count],
        before: None,
        is_database_stopped: false,
        login,
        parts: scenario.parts(),
        turn: 0,
        begun: 0,
        by_hand: None,
    };
    {
        let mut ledger = course.notes.ledger();
        (ledger.parts, ledger.clocks) = (course.parts, world::now());
    }
    let ending = course.run_all(name, tell)?;
    if let Group::Started(started) = &mut course.group {
        tell("the members end");
        started.end();
    }
    let version = course.group.version();
    let ledger = course.notes.ledger();
    Ok(Report::of(scenario, &version, &ledger, ending))
}

impl Course<'_> {
    fn run_all(&mut self, run: &str, tell: &mut dyn FnMut(&str)) -> Result<Ending, DrillError> {
        let monitors = self.group.monitors();
        let watch = Watch::start((&monitors, self.group.has_routes()), &self.notes)?;
        match self.start_all(tell) {
            Ok(()) => (),
            Err(Early::Error(error)) => return Err(error),
            Err(Early::Broken(text)) => return Err(DrillError::World(text)),
            Err(Early::Interrupted) => return Ok(Ending::Interrupted),
        }
        let place = self.place(run);
        let (readers, publishers) = match self.start_load(&place) {
            Ok(load) => load,
            Err(DrillError::Interrupted) => return Ok(Ending::Interrupted),
            Err(error) => return Err(error),
        };
        let mut ending = match self.do_steps(tell) {
            Ok(()) => Ending::Whole,
            Err(Early::Interrupted) => Ending::Interrupted,
            Err(Early::Broken(text)) => Ending::Broken(text),
            Err(Early::Error(error)) => {
                self.start_stopped_database();
                return Err(error);
            }
        };
        tell("the load ends");
        self.notes.ledger().ended = world::instant();
        // Whoever has enough waits for no client.
        let (notes, patience) = (self.notes.clone(), self.patience.clone());
        let _ = self.patience.wait_for(move || publishers.finish(&notes, &patience));
        if !self.patience.is_over()
            && let Err(text) = self.read_back(&place, tell)
        {
            ending = ending.or(text);
        }
        let (notes, patience) = (self.notes.clone(), self.patience.clone());
        let _ = self.patience.wait_for(move || readers.finish(&notes, &patience));
        // Members that end now are no part of what was seen.
        drop(watch);
        self.start_stopped_database();
        if self.patience.is_over() {
            ending = Ending::Interrupted;
        }
        Ok(ending)
    }

    /// Begins the load: what reads, then what publishes.
    fn start_load(&self, place: &Place) -> Result<(Readers, Publishers), DrillError> {
        let (clients, notes, at) =
            (self.scenario.clients.clone(), self.notes.clone(), place.clone());
        let readers = self.patience.wait_for(move || Readers::start(&clients, &at, &notes))??;
        self.notes.ledger().begun = world::instant();
        let (clients, notes, at) =
            (self.scenario.clients.clone(), self.notes.clone(), place.clone());
        let started = self.patience.wait_for(move || Publishers::start(&clients, &at, &notes));
        Ok((readers, started??))
    }

    /// A database that a step has stopped is not left so.
    fn start_stopped_database(&mut self) {
        if let Some(command) =
            self.scenario.store.start.as_ref().filter(|_| self.is_database_stopped)
        {
            self.is_database_stopped = false;
            // What there is to report is how the drill has ended.
            let bounds = (&Patience::default(), MEND_WITHIN);
            let _ = database::run("start the database", command, bounds);
        }
    }

    fn place(&self, run: &str) -> Place {
        let all = self.group.addresses();
        let at = &self.scenario.clients.at;
        let servers = match at.is_empty() {
            true => all,
            false => at.iter().filter_map(|number| all.get(number - 1).cloned()).collect(),
        };
        let login =
            Options { servers, cluster_id: self.group.cluster().to_owned(), ..self.login.clone() };
        Place { login, run: run.to_owned() }
    }

    /// Starts all members, the first of them before the others; or sees that those which run serve.
    fn start_all(&mut self, tell: &mut dyn FnMut(&str)) -> Result<(), Early> {
        if let Group::Attached(_) = &self.group {
            tell("looking for an active member");
            self.is_up.fill(true);
            self.begun = 1;
            let is_there = |course: &mut Self| course.active().is_some();
            return self.wait(FOUND_WITHIN, is_there).map_err(|early| match early {
                Early::Broken(_) => Early::Broken(format!(
                    "no member is active: asked at {}",
                    self.group.monitors().join(", ")
                )),
                early @ (Early::Error(_) | Early::Interrupted) => early,
            });
        }
        for member in 0..self.is_up.len() {
            tell(&format!("starting member {} of {}", member + 1, self.is_up.len()));
            self.group.start(member, &self.patience)?;
            self.is_up[member] = true;
            let is_first = member % self.parts.members == 0;
            self.begun += usize::from(is_first);
            let what = if is_first { Condition::Active } else { Condition::Ready };
            self.wait_until(what, START_WITHIN)?;
        }
        Ok(())
    }

    fn do_steps(&mut self, tell: &mut dyn FnMut(&str)) -> Result<(), Early> {
        let rounds = self.scenario.rounds;
        for round in 1..=rounds {
            self.turn = (round - 1) % self.parts.count;
            for step in &self.scenario.steps {
                match rounds {
                    1 => tell(&step.to_string()),
                    _ => tell(&format!("round {round} of {rounds}: {step}")),
                }
                self.do_step(*step).map_err(|early| match early {
                    Early::Broken(text) => Early::Broken(format!("round {round}, {step}: {text}")),
                    early @ (Early::Error(_) | Early::Interrupted) => early,
                })?;
            }
        }
        Ok(())
    }

    fn do_step(&mut self, step: Step) -> Result<(), Early> {
        match step {
            Step::Kill(target) => self.end_members(target, Signal::SIGKILL, step),
            Step::Terminate(target) => self.end_members(target, Signal::SIGTERM, step),
            Step::Pause(target, time) => self.pause(target, time, step),
            Step::StepDown => self.step_down(step),
            Step::Start(target) => self.start_ended(target, step),
            Step::Partition => self.set_partitioned(true, step),
            Step::Heal => self.set_partitioned(false, step),
            Step::FillDisk | Step::FreeDisk => {
                if let Some(disk) = self.group.started()?.disk() {
                    if step == Step::FillDisk { disk.fill()? } else { disk.free()? }
                }
                self.note(step, &[], None);
                Ok(())
            }
            Step::StopDatabase | Step::StartDatabase => self.set_database(step),
            Step::Wait(condition, within) => self.wait_until(condition, within),
            Step::Pass(time) => self.pass(time),
        }
    }

    /// Enters a step into the ledger, with whom it was for; what is done to a member shows there at
    /// once.
    fn note(&self, step: Step, members: &[usize], role: Option<Role>) {
        let now = world::instant();
        let mut ledger = self.notes.ledger();
        if let Some(role) = role {
            members.iter().for_each(|member| ledger.seen(*member, role, now));
        }
        match step.is_disturbance() {
            true => ledger.disturbed(step.to_string(), self.parts.of_members(members), now),
            false => ledger.happened(step.to_string(), now),
        }
    }

    fn end_members(&mut self, target: Target, signal: Signal, step: Step) -> Result<(), Early> {
        let members = self.targets(target)?;
        self.before = self.active();
        for member in &members {
            self.is_up[*member] = false;
            self.group.signal((*member, signal), (&self.patience, COMMAND_WITHIN))?;
        }
        // One that is told to end serves on until it has handed over.
        let role = (signal == Signal::SIGKILL).then_some(Role::Gone);
        self.note(step, &members, role);
        Ok(())
    }

    fn pause(&mut self, target: Target, time: Duration, step: Step) -> Result<(), Early> {
        let members = self.targets(target)?;
        self.before = self.active();
        for (place, member) in members.iter().enumerate() {
            let bounds = (&self.patience, COMMAND_WITHIN);
            if let Err(error) = self.group.signal((*member, Signal::SIGSTOP), bounds) {
                // The last one may have been stopped too, by a command that was not waited for.
                for member in &members[..=place] {
                    // What has failed first is what is told.
                    let _ = self.go_on(*member);
                }
                return Err(error.into());
            }
        }
        self.note(step, &members, Some(Role::Hangs));
        let passed = self.pass(time);
        // Each of them, also when somebody has enough: what was stopped must not stay so.
        let gone_on: Vec<_> = members.into_iter().map(|member| self.go_on(member)).collect();
        gone_on.into_iter().chain([passed]).collect()
    }

    /// Lets a member go on that was stopped. Over SQLite a successor ends the process of one that
    /// hangs.
    fn go_on(&mut self, member: usize) -> Result<(), Early> {
        let has_ended = match &mut self.group {
            Group::Started(started) => started.has_ended(member),
            Group::Attached(_) => false,
        };
        let what = match has_ended {
            true => format!("member {} was ended by its successor", member + 1),
            false => format!("member {} goes on", member + 1),
        };
        if has_ended {
            self.is_up[member] = false;
        } else {
            let sent = (member, Signal::SIGCONT);
            let mut result = self.group.signal(sent, (&self.patience, COMMAND_WITHIN));
            if matches!(result, Err(DrillError::Interrupted)) {
                result = self.group.signal(sent, (&Patience::default(), MEND_WITHIN));
            }
            result?;
        }
        self.notes.ledger().happened(what, world::instant());
        Ok(())
    }

    /// Has the active one hand over. Members that have changed their roles a moment ago refuse it
    /// until they hear each other.
    fn step_down(&mut self, step: Step) -> Result<(), Early> {
        let deadline = world::instant() + STEP_DOWN_WITHIN;
        loop {
            let member = self.targets(Target::Active)?[0];
            self.before = Some(member);
            // Clients notice it before the command returns.
            self.note(step, &[member], None);
            match self.group.step_down(member, &self.patience) {
                Ok(()) => return Ok(()),
                Err(error) if deadline <= world::instant() => return Err(error.into()),
                Err(_) => drop(self.notes.ledger().events.pop()),
            }
            self.pass(STEP_DOWN_PAUSE)?;
        }
    }

    fn start_ended(&mut self, target: Target, step: Step) -> Result<(), Early> {
        let members: Vec<usize> = match target {
            Target::Member(number) => vec![number - 1],
            Target::Active | Target::Standby | Target::All => {
                (0..self.is_up.len()).filter(|member| !self.is_up[*member]).collect()
            }
        };
        for member in members {
            if self.is_up[member] {
                return Err(Early::Broken(format!("member {} runs", member + 1)));
            }
            if let Group::Started(started) = &mut self.group {
                let is_gone = self.patience.is_so_within(WAIT_MAX, || started.has_ended(member));
                if self.patience.is_over() {
                    return Err(Early::Interrupted);
                }
                if !is_gone {
                    let text = format!("member {} was told to end, and does not", member + 1);
                    return Err(Early::Broken(text));
                }
                // Of one that was killed it is no news.
                let told = started.status(member).filter(|status| status.signal().is_none());
                if let Some(status) = told {
                    let what = format!("member {} had ended: {status}", member + 1);
                    self.notes.ledger().happened(what, world::instant());
                }
            }
            self.group.start(member, &self.patience)?;
            self.is_up[member] = true;
            self.notes.ledger().seen(member, Role::Gone, world::instant());
        }
        self.note(step, &[], None);
        Ok(())
    }

    fn set_partitioned(&mut self, is_partitioned: bool, step: Step) -> Result<(), Early> {
        self.group.started()?.set_partitioned(is_partitioned);
        self.note(step, &[], None);
        Ok(())
    }

    fn set_database(&mut self, step: Step) -> Result<(), Early> {
        let store = self.group.started()?.store().clone();
        let is_stop = step == Step::StopDatabase;
        let command = if is_stop { store.stop } else { store.start };
        self.note(step, &[], None);
        // It may be stopped although the command has failed.
        self.is_database_stopped |= is_stop;
        let bounds = (&self.patience, COMMAND_WITHIN);
        database::run(&step.to_string(), command.as_deref().unwrap_or_default(), bounds)?;
        self.is_database_stopped = is_stop;
        Ok(())
    }

    fn pass(&self, time: Duration) -> Result<(), Early> {
        // Nothing is looked for: it ends when the time is over, or somebody has enough.
        let _ = self.patience.is_so_within(time, || false);
        if self.patience.is_over() { Err(Early::Interrupted) } else { Ok(()) }
    }

    /// Undoes what was done to the members, and reads what they have kept.
    fn read_back(&mut self, place: &Place, tell: &mut dyn FnMut(&str)) -> Result<(), String> {
        tell("reading everything back");
        let told = |error: DrillError| format!("at the end: {error}");
        if let Group::Started(started) = &mut self.group {
            started.set_partitioned(false);
            if let Some(disk) = started.disk() {
                disk.free().map_err(told)?;
            }
        }
        if self.is_database_stopped
            && let Some(command) = &self.scenario.store.start
        {
            let bounds = (&self.patience, COMMAND_WITHIN);
            database::run("start the database", command, bounds).map_err(told)?;
            self.is_database_stopped = false;
        }
        for part in 0..self.parts.count {
            let first = self.members_of(part).start;
            let is_left = self.members_of(part).any(|member| self.runs(member));
            if let Group::Started(started) = &mut self.group
                && !is_left
            {
                started.start(first).map_err(told)?;
                self.is_up[first] = true;
            }
        }
        self.wait_until(Condition::Active, SERVE_WITHIN).map_err(|early| match early {
            Early::Broken(text) => {
                format!("at the end no member serves, so nothing could be read back: {text}")
            }
            Early::Error(error) => told(error),
            Early::Interrupted => "interrupted".to_owned(),
        })?;
        let channels = self.scenario.clients.channels;
        // Whoever publishes last may be at any member.
        let mut everywhere = place.clone();
        everywhere.login.servers = self.group.addresses();
        let patience = self.patience.clone();
        let read = move || read_back(channels, &everywhere, &patience);
        let stored = self.patience.wait_for(read).flatten().map_err(told)?;
        self.notes.ledger().stored = Some(stored);
        Ok(())
    }
}
