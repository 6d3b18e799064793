//! A drill as it happens: starts the members and the load, does one step after the other, ends all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::DrillError;
use super::attached::Attached;
use super::database::{self, COMMAND_WITHIN};
use super::group::Group;
use super::ledger::Role;
use super::load::{Notes, Place, Publishers, Readers, read_back};
use super::members::Started;
use super::patience::Patience;
use super::report::{Ending, Report};
use super::scenario::Scenario;
use super::step::{Condition, Step, Target, WAIT_MAX};
use super::watch::Watch;
use crate::base::go;
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
    let group = match &scenario.attach {
        Some(attach) => Group::Attached(Attached::new(attach)),
        None => Group::Started(Started::prepare(scenario, folder, &patience)?),
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
    };
    let ending = course.run_all(tell)?;
    if let Group::Started(started) = &mut course.group {
        tell("the members end");
        started.end();
    }
    let version = course.group.version();
    let ledger = course.notes.ledger();
    Ok(Report::of(scenario, &version, &ledger, ending))
}

impl Course<'_> {
    fn run_all(&mut self, tell: &mut dyn FnMut(&str)) -> Result<Ending, DrillError> {
        let watch = Watch::start(&self.group.monitors(), &self.notes)?;
        match self.start_all(tell) {
            Ok(()) => (),
            Err(Early::Error(error)) => return Err(error),
            Err(Early::Broken(text)) => return Err(DrillError::World(text)),
            Err(Early::Interrupted) => return Ok(Ending::Interrupted),
        }
        let seed = world::entropy().map_err(DrillError::io("cannot read entropy"))?;
        let run = Random::new(seed).unique_id();
        let place = self.place(run.get(..8).unwrap_or(&run));
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
            let what = if member == 0 { Condition::Active } else { Condition::Ready };
            self.wait_until(what, START_WITHIN)?;
        }
        Ok(())
    }

    fn do_steps(&mut self, tell: &mut dyn FnMut(&str)) -> Result<(), Early> {
        let rounds = self.scenario.rounds;
        for round in 1..=rounds {
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
                self.note(step, None);
                Ok(())
            }
            Step::StopDatabase | Step::StartDatabase => self.set_database(step),
            Step::Wait(condition, within) => self.wait_until(condition, within),
            Step::Pass(time) => self.pass(time),
        }
    }

    /// Enters a step into the ledger; what is done to a member shows there at once.
    fn note(&self, step: Step, changed: Option<(&[usize], Role)>) {
        let now = world::instant();
        let mut ledger = self.notes.ledger();
        if let Some((members, role)) = changed {
            members.iter().for_each(|member| ledger.seen(*member, role, now));
        }
        ledger.happened(step.to_string(), step.is_disturbance(), now);
    }

    fn end_members(&mut self, target: Target, signal: Signal, step: Step) -> Result<(), Early> {
        let members = self.targets(target)?;
        self.before = self.active();
        for member in &members {
            self.is_up[*member] = false;
            self.group.signal((*member, signal), (&self.patience, COMMAND_WITHIN))?;
        }
        // One that is told to end serves on until it has handed over.
        let role = (signal == Signal::SIGKILL).then_some((members.as_slice(), Role::Gone));
        self.note(step, role);
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
        self.note(step, Some((&members, Role::Hangs)));
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
        self.notes.ledger().happened(what, false, world::instant());
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
            self.note(step, None);
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
            }
            self.group.start(member, &self.patience)?;
            self.is_up[member] = true;
            self.notes.ledger().seen(member, Role::Gone, world::instant());
        }
        self.note(step, None);
        Ok(())
    }

    fn set_partitioned(&mut self, is_partitioned: bool, step: Step) -> Result<(), Early> {
        self.group.started()?.set_partitioned(is_partitioned);
        self.note(step, None);
        Ok(())
    }

    fn set_database(&mut self, step: Step) -> Result<(), Early> {
        let store = self.group.started()?.store().clone();
        let is_stop = step == Step::StopDatabase;
        let command = if is_stop { store.stop } else { store.start };
        self.note(step, None);
        // It may be stopped although the command has failed.
        self.is_database_stopped |= is_stop;
        let bounds = (&self.patience, COMMAND_WITHIN);
        database::run(&step.to_string(), command.as_deref().unwrap_or_default(), bounds)?;
        self.is_database_stopped = is_stop;
        Ok(())
    }

    /// The members that a step is for, from 0; waits until somebody is what it names.
    fn targets(&mut self, target: Target) -> Result<Vec<usize>, Early> {
        match target {
            Target::Active => {
                self.wait_until(Condition::Active, WAIT_MAX)?;
                Ok(self.active().into_iter().collect())
            }
            Target::Standby => {
                let is_there = |course: &mut Self| course.standby().is_some();
                self.wait(WAIT_MAX, is_there).map_err(|early| match early {
                    Early::Broken(_) => Early::Broken("no member stands by".to_owned()),
                    early @ (Early::Error(_) | Early::Interrupted) => early,
                })?;
                Ok(self.standby().into_iter().collect())
            }
            Target::Member(number) => Ok(vec![number - 1]),
            Target::All => Ok((0..self.is_up.len()).filter(|member| self.runs(*member)).collect()),
        }
        .and_then(|members: Vec<usize>| match members.is_empty() {
            true => Err(Early::Broken(format!("nobody is {target}"))),
            false => Ok(members),
        })
    }

    /// Whether a member is there to be told anything.
    fn runs(&self, member: usize) -> bool {
        match &self.group {
            Group::Started(_) => self.is_up[member],
            Group::Attached(_) => self.role(member) != Role::Gone,
        }
    }

    fn role(&self, member: usize) -> Role {
        self.notes.ledger().role(member).unwrap_or_default()
    }

    fn active(&self) -> Option<usize> {
        (0..self.is_up.len())
            .find(|member| self.runs(*member) && self.role(*member) == Role::Active)
    }

    fn standby(&self) -> Option<usize> {
        let stands_by = |role| role == Role::Ready || role == Role::Unready;
        (0..self.is_up.len()).find(|member| self.runs(*member) && stands_by(self.role(*member)))
    }

    fn wait_until(&mut self, condition: Condition, within: Duration) -> Result<(), Early> {
        let (acks, deliveries, failures) = {
            let ledger = self.notes.ledger();
            (ledger.ack_count, ledger.delivery_count, ledger.failure_count)
        };
        let is_so = move |course: &mut Self| match condition {
            Condition::Active => course.active().is_some(),
            Condition::Ready => course.is_ready(),
            Condition::TakenOver => {
                let active = course.active();
                let has_recovered = course.notes.ledger().has_recovered;
                has_recovered && active.is_some() && active != course.before
            }
            Condition::Ended => course.has_one_ended(),
            Condition::Acks(count) => acks + count <= course.notes.ledger().ack_count,
            Condition::Deliveries(count) => {
                deliveries + count <= course.notes.ledger().delivery_count
            }
            Condition::Failures(count) => failures + count <= course.notes.ledger().failure_count,
        };
        // Nobody publishes any more when the book is full: what hangs on that may never come.
        let hangs_on_load =
            !matches!(condition, Condition::Active | Condition::Ready | Condition::Ended);
        let full_book = move |course: &Self| {
            let ledger = course.notes.ledger();
            (hangs_on_load && ledger.is_full).then_some(ledger.publish_count)
        };
        self.wait(within, |course| full_book(course).is_some() || is_so(course))?;
        match full_book(self) {
            None => Ok(()),
            Some(count) => Err(Early::Broken(format!(
                "the book of the drill is full: after {count} publishes there are no more"
            ))),
        }
    }

    fn is_ready(&self) -> bool {
        self.active().is_some()
            && (0..self.is_up.len())
                .filter(|member| self.runs(*member))
                .all(|member| matches!(self.role(member), Role::Active | Role::Ready))
    }

    fn has_one_ended(&mut self) -> bool {
        let Group::Started(started) = &mut self.group else {
            return (0..self.is_up.len()).any(|member| self.role(member) == Role::Gone);
        };
        (0..self.is_up.len()).any(|member| !self.is_up[member] && started.has_ended(member))
    }

    fn wait(
        &mut self,
        within: Duration,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Early> {
        let patience = self.patience.clone();
        let mut crashed = None;
        let is_done = patience.is_so_within(within, || {
            crashed = self.crashed();
            crashed.is_some() || is_so(self)
        });
        match crashed {
            Some(text) => Err(Early::Broken(text)),
            None if is_done => Ok(()),
            None if patience.is_over() => Err(Early::Interrupted),
            None => {
                Err(Early::Broken(format!("not within {}; {}", go::show(within), self.described())))
            }
        }
    }

    /// What a member said last that nobody has ended and that has ended.
    fn crashed(&mut self) -> Option<String> {
        let Group::Started(started) = &mut self.group else { return None };
        let place = (0..started.count()).find(|it| self.is_up[*it] && started.has_ended(*it))?;
        Some(started.last_words(place))
    }

    /// What the members look like, for a person.
    fn described(&self) -> String {
        let member = |member: usize| {
            let role = match self.role(member) {
                Role::Gone => "is not there",
                Role::Hangs => "does not answer",
                Role::Unready => "is not active, and not ready",
                Role::Ready => "stands by",
                Role::Active => "is active",
            };
            format!("member {} {role}", member + 1)
        };
        (0..self.is_up.len()).map(member).collect::<Vec<_>>().join(", ")
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
        let is_left = (0..self.is_up.len()).any(|member| self.runs(member));
        if let Group::Started(started) = &mut self.group
            && !is_left
        {
            started.start(0).map_err(told)?;
            self.is_up[0] = true;
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
