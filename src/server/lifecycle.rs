//! becoming active, going back to standby, stopping

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::base::epoch::{Fence, Predecessor};
use crate::base::id::LoopIndex;
use crate::base::world;
use crate::config::{StoreKind, banner};
use crate::engine::effect::Level;
use crate::engine::recovery;
use crate::log::{CORE, STREAM};
use crate::server::activation::{ActivationError, Ground, Recovered};
use crate::server::engine_driver::Mail;
use crate::server::event::{self, Event};
use crate::server::logging::streaming;
use crate::server::{Next, Server, settings};
use crate::store::file::disk::RealDisk;
use crate::store::file::survey::Surveyor;
use crate::store::worker::Worker;
use crate::store::{self, Remedy};

/// How long the loops may take to answer before the process counts as broken.
const LOOPS_ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long a planned stop waits for the store to take what is staged.
const DRAIN_WITHIN: Duration = Duration::from_secs(20);

/// How long the end of a process that cannot go on waits for the threads of its store.
const STORE_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks whether they have ended.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Pauses after activations that failed for a reason that can pass.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The lease is not asked for again: the process stops.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long outboxes may take at the end.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

impl Server {
    /// The lease was won: open the store, recover, serve.
    pub(super) fn on_won(&mut self, fence: Arc<dyn Fence>, predecessor: Predecessor) -> Next {
        self.epoch = fence.epoch();
        if self.group.is_some() {
            streaming(Level::Info, "Server is active");
        }
        match self.activate(fence, predecessor) {
            Ok(()) => {
                self.failed_activations = 0;
                Next::GoOn
            }
            Err(error) => self.on_activation_failed(&error),
        }
    }

    fn activate(
        &mut self,
        fence: Arc<dyn Fence>,
        predecessor: Predecessor,
    ) -> Result<(), ActivationError> {
        self.term += 1;
        let activated_at = world::now();
        if let Some(group) = &mut self.group {
            group.on_active(activated_at.wall, activated_at.at);
        }
        streaming(Level::Info, "Recovering the state...");
        self.pages.set_recovering();
        let ground = Ground {
            config: &self.config,
            term: self.term,
            fence,
            predecessor,
            remembered: &self.remembered,
            mailboxes: &self.mailboxes,
            survey: self.surveyor.take().map(Surveyor::finish),
            vitals: &self.vitals,
        };
        let recovered = ground.recover(&mut self.random)?;
        self.log_recovered(&recovered);
        self.pages.set_lost(self.remembered.lost_count());
        self.is_active = true;
        let info = recovered.info;
        for (mailbox, activation) in self.mailboxes.iter().zip(recovered.activations) {
            mailbox.deliver(Mail::Activate(Box::new(activation)));
        }
        if self.group.is_none() {
            self.probe_alone(&info)?;
        }
        self.opening = Some(info.cluster_id);
        self.ask_all(|done| Mail::Serve { done });
        Ok(())
    }

    /// The engine that serves clients listens. On a new store that is later than its activation,
    /// because the server's record is written first.
    pub(super) fn on_opened(&mut self) {
        let Some(cluster_id) = self.opening.take() else { return };
        self.has_served = true;
        // Every loop has now mailed its interests to all others; a second round sees them in.
        self.ask_all(|done| Mail::Sync { done });
        self.pages.set_active(&self.config, &cluster_id);
        self.log_ready();
    }

    fn log_recovered(&self, recovered: &Recovered) {
        for notice in &recovered.notices {
            let level = if notice.is_warning { Level::Warning } else { Level::Info };
            streaming(level, &notice.text);
        }
        if recovered.lost_server_record {
            streaming(Level::Warning, LOST_SERVER_RECORD);
        }
        match recovered.channel_count {
            Some(count) => streaming(Level::Info, &format!("Recovered {count} channel(s)")),
            None => streaming(Level::Info, "No recovered state"),
        }
        let millis = recovered.duration.as_secs_f64() * 1_000.0;
        streaming(Level::Debug, &format!("Recovery took {millis:.1} ms"));
    }

    fn log_ready(&self) {
        let config = &self.config.streaming;
        for line in banner::subject_lines(&config.discover_prefix, &config.cluster_id) {
            streaming(Level::Debug, &line);
        }
        streaming(Level::Info, &format!("Message store is {}", config.store.name()));
        if let Some(directory) = &config.directory {
            streaming(Level::Info, &format!("Store location: {}", directory.display()));
        }
        for line in banner::limits_table(&config.limits) {
            streaming(Level::Info, &line);
        }
        streaming(Level::Info, "Streaming Server is ready");
    }

    fn on_activation_failed(&mut self, error: &ActivationError) -> Next {
        let text = error.to_string();
        let is_first_alone = self.group.is_none() && !self.has_served;
        if error.remedy() == Remedy::Stop || is_first_alone && error.lasts() {
            let line = if self.group.is_some() { text } else { format!("Failed to start: {text}") };
            return Next::End(self.fail(&line));
        }
        streaming(Level::Error, &text);
        let pause = PAUSE_MIN.saturating_mul(1 << self.failed_activations.min(10)).min(PAUSE_MAX);
        self.failed_activations += 1;
        self.step_down(Some(pause));
        self.pages.set_trouble(&text, error.lasts());
        Next::GoOn
    }

    /// A standby that could never serve says so as soon as it stands by, not when it is needed.
    pub(super) fn check_cluster(&self) {
        let config = &self.config.streaming;
        let recorded = match config.store {
            StoreKind::Memory => None,
            StoreKind::File => store::file::peek_server(&settings::file_options(&self.config)),
            StoreKind::Sql => {
                let options = settings::sql_options(&self.config).ok();
                options.and_then(|options| store::sql::peek_server(&options))
            }
        };
        let (id, prefix) = (&config.cluster_id, &config.discover_prefix);
        if let Err(error) = recovery::server_info(recorded, id, prefix) {
            let text = format!("this standby could not take over: {error}");
            streaming(Level::Error, &text);
            self.pages.set_trouble(&text, true);
        }
    }

    /// Another member is active: its files are looked at before they are needed. Without that a
    /// take-over only takes longer.
    pub(super) fn survey(&mut self) {
        let is_needed = self.config.streaming.store == StoreKind::File && self.group.is_some();
        if !is_needed || self.surveyor.is_some() {
            return;
        }
        match Surveyor::spawn(&RealDisk, &settings::file_options(&self.config)) {
            Ok(surveyor) => self.surveyor = surveyor,
            Err(error) => {
                let text = format!("The store is not looked at while standing by: {error}");
                streaming(Level::Warning, &text);
            }
        }
    }

    /// Back to standby. The lease, if it is still held, is given back when the store's threads have
    /// ended, and then left to others for `release_pause`.
    ///
    /// A thread in a system call that hangs (dead storage) is waited for, because a second one must
    /// not open the same files beside it; but not here, where signals are heard.
    pub(super) fn step_down(&mut self, release_pause: Option<Duration>) {
        self.release_pause = release_pause;
        let workers = self.deactivate();
        let (events, term) = (self.events_in.clone(), self.term);
        let wait = move || {
            workers.into_iter().for_each(Worker::join);
            event::post(&events, Event::Left { term });
        };
        let waiter = std::thread::Builder::new().name("store-end".to_owned()).spawn(wait);
        if let Err(error) = waiter {
            // The keeper takes no lease before they have ended, so only its return is delayed.
            let text = format!("unable to start a thread that waits for the store: {error}");
            streaming(Level::Error, &text);
            self.on_left();
        }
    }

    /// No thread of the former activation writes any more.
    pub(super) fn on_left(&mut self) {
        if let Some(pause) = self.release_pause.take() {
            self.release_lease(false, pause);
        }
    }

    /// Drops the engines and what they wanted to say; the connections stay. Gives the threads that
    /// are still about to end.
    ///
    /// # Panics
    /// When a loop does not answer for half a minute, as `ask_all`.
    fn deactivate(&mut self) -> Vec<Worker> {
        if let Some(group) = &mut self.group {
            group.on_inactive();
        }
        self.is_active = false;
        self.opening = None;
        self.pages.set_inactive();
        let (done, workers) = unbounded();
        for mailbox in &self.mailboxes {
            mailbox.deliver(Mail::Deactivate { done: done.clone() });
        }
        drop(done);
        let deadline = Self::deadline_in(LOOPS_ANSWER_WITHIN);
        let answer = |_| {
            let answer = workers.recv_timeout(deadline.since(world::instant()));
            answer.expect("an event loop that does not answer hangs, and this process with it")
        };
        self.loops().filter_map(answer).collect()
    }

    pub(super) fn release_lease(&mut self, is_clean: bool, pause: Duration) {
        if let Some(keeper) = &self.keeper {
            keeper.release(self.epoch, is_clean, pause);
        }
    }

    /// A planned stop: commit and sync first, then release, so that a standby takes over at once.
    pub(super) fn stop(&mut self, code: ExitCode) -> ExitCode {
        if self.is_streaming() {
            streaming(Level::Info, "Shutting down.");
        }
        if self.is_active {
            let is_clean = self.drain();
            self.release_lease(is_clean, FOR_EVER);
        }
        self.pages.set_shutdown();
        if let Some(keeper) = self.keeper.take() {
            keeper.stop();
        }
        log::info!(target: CORE, "Initiating Shutdown...");
        self.end(FLUSH_WITHIN);
        log::info!(target: CORE, "Server Exiting..");
        code
    }

    /// Whether everything is written and synced.
    fn drain(&mut self) -> bool {
        if let Some(group) = &mut self.group {
            group.on_inactive();
        }
        self.pages.set_inactive();
        let (done, results) = unbounded();
        for mailbox in &self.mailboxes {
            mailbox.deliver(Mail::Drain { done: done.clone() });
        }
        drop(done);
        let deadline = Self::deadline_in(DRAIN_WITHIN);
        for _ in self.loops() {
            let result = results.recv_timeout(deadline.since(world::instant()));
            let result = result.unwrap_or_else(|_| Err(NOT_CLOSED_IN_TIME.to_owned()));
            if let Err(text) = result {
                streaming(Level::Error, &text);
                return false;
            }
        }
        true
    }

    /// The last line, and the exit code of a server that cannot go on.
    pub(super) fn fail(&mut self, line: &str) -> ExitCode {
        crate::log::fatal(STREAM, line);
        drop(self.deactivate());
        self.await_store_end(STORE_ENDS_WITHIN);
        if let Some(keeper) = self.keeper.take() {
            keeper.stop();
        }
        self.end(Duration::ZERO);
        ExitCode::FAILURE
    }

    /// SIGQUIT: nothing is written any more; what was not acknowledged may be lost.
    pub(super) fn stop_at_once(&mut self) -> ExitCode {
        self.end(Duration::ZERO);
        ExitCode::from(2)
    }

    /// Waits for the store's threads, but not for those whose disk does not answer: they end with
    /// the process.
    fn await_store_end(&self, within: Duration) {
        let deadline = Self::deadline_in(within);
        while self.vitals.is_store_in_use() && world::instant() < deadline {
            std::thread::park_timeout(LOOK_PAUSE);
        }
    }

    fn end(&mut self, flush_for: Duration) {
        self.monitor = None;
        if let Some(reactors) = self.reactors.take() {
            reactors.stop(flush_for);
        }
        self.files.remove();
    }

    /// Asks every loop something and waits for all answers.
    ///
    /// # Panics
    /// When a loop does not answer for half a minute: it hangs, and a process that hangs with the
    /// lease is worse than none.
    fn ask_all(&self, mail: impl Fn(Sender<LoopIndex>) -> Mail) {
        let (done, answers): (_, Receiver<LoopIndex>) = unbounded();
        for mailbox in &self.mailboxes {
            mailbox.deliver(mail(done.clone()));
        }
        let deadline = Self::deadline_in(LOOPS_ANSWER_WITHIN);
        for _ in self.loops() {
            let answer = answers.recv_timeout(deadline.since(world::instant()));
            assert!(answer.is_ok(), "an event loop does not answer");
        }
    }
}

const NOT_CLOSED_IN_TIME: &str = "the store did not close in time";

const LOST_SERVER_RECORD: &str = "Server information was not recovered, however channels are \
                                  present. Will initialize server and restart recovery!";
