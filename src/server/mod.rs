//! builds the rooms from Config; starts threads; stops them in reverse
//!
//! A start has a thread of its own, so that a signal ends it whatever holds it up. Then one thread,
//! the caller's, owns the server. It tells the member ([`crate::election::Member`])
//! what happens ([`event::Event`]: signals, the lease keeper, loops, stores, heartbeats) and does
//! what that asks for (`lifecycle`). While the server runs, that thread waits for events and
//! deadlines only: what can take long (reading the store, waiting for its threads, looking at it)
//! runs on threads of its own and comes back as an event. At the end it waits for loops, keeper and
//! monitoring, each within a bound; a reload reads the configuration's own files on it.

pub mod activation;
mod administration;
pub mod administration_protocol;
pub mod administration_subjects;
mod backup;
pub mod channel_list;
mod channel_list_reader;
mod control;
pub mod control_protocol;
pub(crate) mod control_socket;
pub mod engine_driver;
pub mod event;
pub mod files;
mod group_news;
pub mod interest_key;
mod lame_duck;
pub mod lifecycle;
pub mod logging;
mod loop_counts;
pub mod pages;
mod partitions;
pub mod preparation;
mod probe;
pub mod reload;
mod rivals;
mod service_manager;
pub mod settings;
pub mod signals;
pub mod start;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use crate::base::epoch::{Fence, LeaseClock};
use crate::base::id::Subject;
use crate::base::meters::Meters;
use crate::base::pulse::Vitals;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::world;
use crate::config::{Config, Program};
use crate::election::Member;
use crate::election::input::{Ending, Failure, Input, Question};
use crate::election::keeper::{Keeper, KeeperEvent};
use crate::engine::effect::Level;
use crate::monitor::Monitor;
use crate::net::{Mailbox, Reactors};
use crate::server::activation::Recovered;
use crate::server::backup::Backup;
use crate::server::control::HandOver;
use crate::server::control_socket::ControlSocket;
use crate::server::engine_driver::{EngineDriver, Mail};
use crate::server::event::Event;
use crate::server::group_news::GroupNews;
use crate::server::interest_key::Listener;
use crate::server::lame_duck::LameDuck;
use crate::server::logging::streaming;
use crate::server::pages::Pages;
use crate::server::partitions::Partitions;
use crate::server::probe::Probe;
use crate::server::rivals::Rivals;
use crate::server::service_manager::ServiceManager;
use crate::server::settings::Found;
use crate::server::signals::Signal;
use crate::server::start::StartError;
use crate::site::Site;
use crate::store::Remedy;
use crate::store::worker::Worker;

/// Runs a server from its configuration to its end.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    let program = config.program;
    let started = begin(config).and_then(|(starting, signals)| {
        let mut early = Vec::new();
        let started = await_start(&starting, &signals, &mut early);
        let Some(server) = started.transpose()? else {
            let code = early.iter().find_map(|signal| signal.exit_code(program));
            streaming(Level::Info, "Stopped before the start has ended");
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        };
        signals::forward(early, signals, server.events_in.clone())?;
        Ok(server.run())
    });
    started.unwrap_or_else(|error| {
        crate::log::fatal(error.target(), &error.to_string());
        ExitCode::FAILURE
    })
}

/// How long a start that is asked to stop may take to end: then it is stopped in an orderly way.
const START_ENDS_WITHIN: Duration = Duration::from_millis(500);

type Started = Result<Server, StartError>;

/// Begins a start on a thread of its own, which a disk, a database or a name can hold up.
fn begin(config: Config) -> Result<(Receiver<Started>, Receiver<Signal>), StartError> {
    // Before anything is logged: whoever reads that the server is ready may signal it at once.
    let failed = |what| move |source| StartError::System { what, source };
    let signals = signals::listen(config.program).map_err(failed("cannot handle signals"))?;
    let (sender, starting) = bounded(1);
    let thread = std::thread::Builder::new().name("start".to_owned());
    // Nobody listens any more when the process was told to end meanwhile.
    let start = move || drop(sender.send(start::start(config)));
    thread.spawn(start).map_err(failed("cannot start a thread"))?;
    Ok((starting, signals))
}

/// Waits for the end of a start; `None` if it did not end although a signal asked for that.
fn await_start(
    starting: &Receiver<Started>,
    signals: &Receiver<Signal>,
    early: &mut Vec<Signal>,
) -> Option<Started> {
    loop {
        let signal = select! {
            recv(starting) -> started => return Some(started.expect("a panic ends the process")),
            recv(signals) -> signal => signal.expect("the thread of signals never ends"),
        };
        if !early.contains(&signal) {
            early.push(signal);
        }
        if signal.ends_process() {
            return starting.recv_timeout(START_ENDS_WITHIN).ok();
        }
    }
}

/// A server whose listeners are open.
pub struct Server {
    config: Arc<Config>,
    /// Where the data lies.
    site: Arc<dyn Site>,
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
    /// What is counted while the stores work.
    meters: Meters,
    keeper: Option<Keeper>,
    /// Decides what this process is in its group.
    member: Member,
    /// Of the lease that was won last.
    fence: Option<Arc<dyn Fence>>,
    /// What was recovered, until its engines are in their loops.
    recovered: Option<Box<Recovered>>,
    /// The cluster ID that clients are served under.
    cluster_id: Bytes,
    /// Where clients of that cluster look for a server.
    discovery: Subject,
    /// Threads of the store whose engines are gone.
    ending: Vec<Worker>,
    /// A look whether this server is alone.
    probe: Option<Probe>,
    /// A look whether another server is active too.
    rivals: Option<Rivals>,
    /// Where other servers of the cluster ID have other channels.
    partitions: Option<Partitions>,
    /// A thread looks at the store of another active.
    is_looking: bool,
    pages: Pages,
    monitor: Option<Monitor>,
    random: Random,
    files: files::Files,
    service_manager: ServiceManager,
    /// Set once clients are being sent away.
    lame_duck: Option<LameDuck>,
    /// What the members of the group tell each other.
    news: GroupNews,
    /// Where commands of this machine reach it.
    control: Option<ControlSocket>,
    /// Questions on subjects that are being answered.
    subject_askers: Arc<AtomicUsize>,
    /// Those that were refused, for the log.
    refused_questions: administration_subjects::RefusedQuestions,
    /// Somebody waits for another member to be active.
    hand_over: Option<HandOver>,
    /// The last backup that was asked for.
    backup: Option<Backup>,
}

impl Server {
    fn run(mut self) -> ExitCode {
        loop {
            let event = match self.next_deadline() {
                Some(at) => self.events.recv_timeout(at.since(world::instant())),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(event) => self.on_event(event),
                Err(RecvTimeoutError::Timeout) => self.on_probe_due(world::instant()),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the server holds a sender"),
            }
            self.on_due();
            if let Some(code) = self.carry_out() {
                return code;
            }
            if self.is_streaming() {
                self.tell_members();
            }
            self.look_at_hand_over();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let probe_at = self.probe.as_ref().and_then(Probe::next_deadline);
        let list_at = self.partitions.as_ref().and_then(Partitions::next_deadline);
        let lame_at = self.lame_duck.as_ref().map(LameDuck::next_deadline);
        let told_at = self.service_manager.next_deadline();
        let news_at = self.is_streaming().then(|| self.news.next_deadline());
        let handed_at = self.hand_over.as_ref().map(HandOver::next_deadline);
        [self.member.next_deadline(), probe_at, list_at, lame_at, told_at, news_at, handed_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is due goes before what waits, however many events there are; but for the probe, whose
    /// answer may be among them.
    fn on_due(&mut self) {
        let now = world::instant();
        self.service_manager.due(now);
        self.on_partitions_due(now);
        if self.member.next_deadline().is_some_and(|at| at <= now) {
            self.tell(Input::Due);
        }
        if self.lame_duck.as_ref().is_some_and(|duck| duck.next_deadline() <= now) {
            self.on_lame_duck_due(now);
        }
    }

    /// Tells the member what happened; what it asks for is done at the end of the turn.
    fn tell(&mut self, input: Input) {
        self.member.handle(input, world::now());
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Signal(asked) => self.on_signal(asked.take()),
            Event::Keeper(event) => self.on_keeper(event),
            Event::Recovered { term, result } => match result {
                Ok(recovered) => {
                    self.recovered = Some(recovered);
                    self.tell(Input::Recovered { term });
                }
                Err(error) => {
                    let text = error.to_string();
                    let is_final = error.remedy() == Remedy::Stop;
                    let failure = Failure { text, is_final, lasts: error.lasts() };
                    self.tell(Input::RecoveryFailed { term, failure });
                }
            },
            Event::Answered { term, question } => self.tell(Input::Answered { term, question }),
            Event::Deactivated { term, worker } => {
                self.ending.extend(worker);
                self.tell(Input::Answered { term, question: Question::Deactivate });
            }
            Event::Opened { term } => self.tell(Input::Opened { term }),
            Event::Drained { term } => self.tell(Input::Drained { term, result: Ok(()) }),
            Event::StoreFailed { term, text, remedy } => {
                self.tell(Input::StoreFailed { term, text, is_final: remedy == Remedy::Stop });
            }
            Event::Left { term } => self.tell(Input::Left { term }),
            Event::Looked { trouble, survey } => self.on_looked(trouble, survey),
            Event::Clients { clients } => self.on_clients(clients),
            Event::RouteSearch(search) => {
                self.on_route_search(search, world::instant());
                self.on_partition_routes(search, world::instant());
            }
            Event::Heard { listener: Listener::GroupHeartbeat, payload, .. } => {
                self.tell(Input::Heartbeat { payload });
            }
            Event::Heard { listener: Listener::StandAloneProbe, payload, .. } => {
                self.on_probe_answered(payload);
            }
            Event::Heard { listener: Listener::ForeignProbe, payload, reply } => {
                self.on_foreign_probe(payload, reply);
            }
            Event::Heard { listener: Listener::Rival, .. } => self.on_rival_heard(),
            Event::Heard { listener: Listener::ChannelLists, payload, reply } => {
                self.on_channel_list(payload, reply);
            }
            Event::Heard { listener: Listener::ChannelListAnswers, payload, .. } => {
                self.on_channel_list_answer(payload);
            }
            Event::Heard { listener: Listener::MemberNews, payload, .. } => {
                self.on_member_news(&payload, world::instant());
            }
            // It comes with its sender, as a question.
            Event::Heard { listener: Listener::Administration, .. } => (),
            Event::Asked(asked) => self.on_asked(asked),
            Event::AskedBySubject(question) => self.on_subject_question(question),
            Event::UpstreamReachable(is_reachable) => self.pages.set_reachable(is_reachable),
            Event::UpstreamRefused => self.pages.set_refused(),
            // What came after the start: only its first word counts.
            Event::Upstream(_) => (),
            Event::NobodyListens { reply } => self.on_probe_unheard(&reply),
        }
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Interrupt => self.tell(Input::StopAsked { ending: Ending::Done }),
            Signal::Terminate if self.has_successor() => {
                self.tell(Input::StopAfterHandOver { ending: Ending::Terminated });
            }
            Signal::Terminate => self.tell(Input::StopAsked { ending: Ending::Terminated }),
            Signal::Quit => self.tell(Input::StopAsked { ending: Ending::AtOnce }),
            Signal::Reload => self.reload(),
            Signal::ReopenLog => crate::log::reopen(),
            Signal::LameDuck => self.tell(Input::LameDuckAsked),
        }
    }

    fn on_keeper(&mut self, event: KeeperEvent) {
        match event {
            KeeperEvent::Waiting { holder, why } => {
                streaming(Level::Info, &why);
                self.pages.set_waiting(holder.as_ref());
                self.news.set_holder(holder.as_ref(), &why);
                let holder = holder.map(|holder| holder.server_id);
                self.tell(Input::Waiting { holder });
            }
            KeeperEvent::Won { fence, predecessor } => {
                let epoch = fence.epoch();
                crate::log::set_epoch(Some(epoch.0));
                self.news.on_won(epoch, predecessor, world::instant());
                self.fence = Some(fence);
                self.tell(Input::Won { epoch, predecessor });
            }
            KeeperEvent::Lost { why } => self.tell(Input::Lost { why }),
            KeeperEvent::RefusedStandAlone { why, .. } | KeeperEvent::Impossible { why } => {
                self.tell(Input::Refused { why });
            }
            KeeperEvent::Trouble { text, lasts } => {
                streaming(Level::Error, &text);
                self.pages.set_trouble(&text, lasts);
            }
        }
    }

    fn is_streaming(&self) -> bool {
        self.config.program == Program::Streaming
    }
}
