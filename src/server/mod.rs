//! builds the rooms from Config; starts threads; stops them in reverse
//!
//! One thread, the caller's, owns the server: it reacts to [`event::Event`]s (signals, the lease
//! keeper, failed stores, heartbeats of the group). Everything that it waits for is bounded.

pub mod activation;
pub mod engine_driver;
pub mod event;
pub mod files;
pub mod group;
pub mod interest_key;
mod lame_duck;
pub mod lifecycle;
pub mod logging;
pub mod pages;
pub mod probe;
pub mod reload;
pub mod settings;
pub mod signals;
pub mod start;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::base::epoch::{Epoch, LeaseClock};
use crate::base::id::LoopIndex;
use crate::base::pulse::Vitals;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::world;
use crate::config::{Config, Program};
use crate::election::keeper::{Keeper, KeeperEvent};
use crate::engine::effect::Level;
use crate::monitor::Monitor;
use crate::net::{Mailbox, Reactors};
use crate::server::engine_driver::{EngineDriver, Mail};
use crate::server::event::Event;
use crate::server::group::{Group, Meaning};
use crate::server::interest_key::Listener;
use crate::server::lame_duck::LameDuck;
use crate::server::logging::streaming;
use crate::server::pages::Pages;
use crate::server::settings::Found;
use crate::server::signals::Signal;
use crate::store::Remedy;
use crate::store::file::survey::Surveyor;
use crate::store::sql::lost::Remembered;

/// Runs a server from its configuration to its end.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    match start::start(config) {
        Ok(server) => server.run(),
        Err(error) => {
            crate::log::fatal(error.target(), &error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// A server whose listeners are open.
pub struct Server {
    config: Arc<Config>,
    found: Found,
    server_id: String,
    events: Receiver<Event>,
    events_in: Sender<Event>,
    /// Gone once the server stops.
    reactors: Option<Reactors<EngineDriver>>,
    mailboxes: Vec<Mailbox<Mail>>,
    lease: LeaseClock,
    /// Whether loops and stores get on.
    vitals: Vitals,
    keeper: Option<Keeper>,
    /// While another member is active.
    surveyor: Option<Surveyor>,
    group: Option<Group>,
    pages: Pages,
    monitor: Option<Monitor>,
    random: Random,
    /// Counts activations, so that reports and messages of a former one are recognised.
    term: u64,
    /// The epoch that was won last.
    epoch: Epoch,
    is_active: bool,
    /// Clients were served by an activation of this process.
    has_served: bool,
    /// How long to leave the lease to others once the store of this activation is closed.
    release_pause: Option<Duration>,
    /// The cluster ID of an activation whose engine does not listen to clients yet.
    opening: Option<Bytes>,
    /// Until when the active counts as reachable without another heartbeat of it.
    route_until: Option<Instant>,
    /// What activations of this process have acknowledged in a database.
    remembered: Remembered,
    /// How often activations failed in a row for a reason that can pass.
    failed_activations: u32,
    files: files::Files,
    /// Set once clients are being sent away.
    lame_duck: Option<LameDuck>,
    /// Events that came while something else was waited for.
    postponed: VecDeque<Event>,
}

/// How long one heartbeat of the active shows that it is reachable: three of them.
const REACHABLE_FOR: Duration = Duration::from_secs(3);

/// What the loop does after an event.
enum Next {
    GoOn,
    End(ExitCode),
}

impl Server {
    fn run(mut self) -> ExitCode {
        loop {
            let next = match self.wait() {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => self.handle_timeout(),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the reactors hold senders"),
            };
            if let Next::End(code) = next {
                return code;
            }
        }
    }

    fn wait(&mut self) -> Result<Event, RecvTimeoutError> {
        if let Some(event) = self.postponed.pop_front() {
            return Ok(event);
        }
        let heartbeat_at = self.group.as_ref().and_then(Group::next_deadline);
        let lame_at = self.lame_duck.as_ref().map(LameDuck::next_deadline);
        match [heartbeat_at, self.route_until, lame_at].into_iter().flatten().min() {
            Some(at) => self.events.recv_timeout(at.since(world::instant())),
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn handle_timeout(&mut self) -> Next {
        if self.route_until.is_some_and(|until| until <= world::instant()) {
            self.route_until = None;
            self.pages.set_route(false);
        }
        if self.lame_duck.is_some() {
            return self.on_lame_duck_due();
        }
        let Some(group) = &mut self.group else { return Next::GoOn };
        let subject = group.subject().clone();
        if let Some(payload) = group.due(world::instant()) {
            self.mailboxes[0].deliver(Mail::Publish { subject, reply: None, payload });
        }
        Next::GoOn
    }

    fn handle(&mut self, event: Event) -> Next {
        match event {
            Event::Signal(signal) => self.on_signal(signal),
            Event::Keeper(event) => self.on_keeper(event),
            Event::Opened { term } if term == self.term => {
                self.on_opened();
                Next::GoOn
            }
            Event::StoreFailed { term, text, remedy } if term == self.term => {
                self.on_store_failed(&text, remedy)
            }
            Event::Left { term } if term == self.term => {
                self.on_left();
                Next::GoOn
            }
            Event::Heard { listener: Listener::GroupHeartbeat, payload, .. } => {
                self.on_group_heartbeat(&payload)
            }
            // Reports of a former activation; answers to a probe that is over.
            Event::Opened { .. }
            | Event::StoreFailed { .. }
            | Event::Left { .. }
            | Event::Heard { .. }
            | Event::NobodyListens { .. } => Next::GoOn,
        }
    }

    fn on_signal(&mut self, signal: Signal) -> Next {
        match signal {
            Signal::Interrupt => Next::End(self.stop(ExitCode::SUCCESS)),
            // Who is about to stop anyway goes on seeing its clients off.
            Signal::Terminate if self.lame_duck.is_some() => Next::GoOn,
            Signal::Terminate => {
                let code = self.config.program.terminated_code();
                Next::End(self.stop(ExitCode::from(code)))
            }
            Signal::Quit => Next::End(self.stop_at_once()),
            Signal::Reload => {
                self.reload();
                Next::GoOn
            }
            Signal::ReopenLog => {
                crate::log::reopen();
                Next::GoOn
            }
            Signal::LameDuck => self.enter_lame_duck(),
        }
    }

    fn on_keeper(&mut self, event: KeeperEvent) -> Next {
        match event {
            KeeperEvent::Waiting { holder, why } => {
                streaming(Level::Info, &why);
                self.pages.set_waiting(holder.as_ref());
                let holder_id = holder.as_ref().map(|holder| holder.server_id.as_str());
                if self.group.as_mut().is_some_and(|group| group.set_holder(holder_id)) {
                    // Whoever was believed before is not the one.
                    self.route_until = None;
                    self.pages.set_route(false);
                }
                if self.group.is_some() {
                    self.check_cluster();
                }
                self.survey();
                Next::GoOn
            }
            KeeperEvent::Won { fence, predecessor } => self.on_won(fence, predecessor),
            KeeperEvent::Lost { why } => {
                streaming(Level::Error, &why);
                self.step_down(None);
                Next::GoOn
            }
            KeeperEvent::RefusedStandAlone { why, .. } => {
                Next::End(self.fail(&format!("Failed to start: {why}")))
            }
            KeeperEvent::Impossible { why } => {
                Next::End(self.fail(&format!("Failed to start: {why}")))
            }
            KeeperEvent::Trouble { text, lasts } => {
                streaming(Level::Error, &text);
                self.pages.set_trouble(&text, lasts);
                Next::GoOn
            }
        }
    }

    fn on_store_failed(&mut self, text: &str, remedy: Remedy) -> Next {
        streaming(Level::Error, text);
        match remedy {
            Remedy::Stop => Next::End(self.fail(text)),
            Remedy::StepDown | Remedy::Refuse => {
                self.step_down(Some(Duration::ZERO));
                Next::GoOn
            }
        }
    }

    /// On a standby: clients of this process reach the active. On an active: another server claims
    /// to be active too; believe the data, not the message.
    fn on_group_heartbeat(&mut self, payload: &[u8]) -> Next {
        let now = world::instant();
        let Some(group) = &mut self.group else { return Next::GoOn };
        match group.hear(payload, self.is_active, now) {
            Meaning::Nothing => (),
            Meaning::ActiveIsReachable => {
                self.route_until = Some(now + REACHABLE_FOR);
                self.pages.set_route(true);
            }
            Meaning::OtherClaims { line } => {
                if let Some(line) = line {
                    streaming(Level::Error, &line);
                }
                if let Some(keeper) = &self.keeper {
                    keeper.check_now();
                }
            }
        }
        Next::GoOn
    }

    fn is_streaming(&self) -> bool {
        self.config.program == Program::Streaming
    }

    fn loops(&self) -> impl Iterator<Item = LoopIndex> + use<> {
        (0..self.config.loops).map(LoopIndex)
    }

    fn deadline_in(duration: Duration) -> Instant {
        world::instant() + duration
    }
}
