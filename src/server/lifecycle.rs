//! what the member asks for, done

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::Predecessor;
use crate::base::id::Subject;
use crate::base::world;
use crate::config::banner;
use crate::election::Role;
use crate::election::effect::Effect;
use crate::election::input::{Ending, Failure, Input};
use crate::election::keeper::Keeper;
use crate::engine::effect::Level;
use crate::log::{CORE, STREAM};
use crate::server::Server;
use crate::server::activation::{self, ActivationError, Ground, Recovered};
use crate::server::engine_driver::Mail;
use crate::server::event::{self, Event};
use crate::server::logging::streaming;
use crate::store::Remedy;
use crate::store::worker::Worker;

/// How long outboxes may take at the end.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

impl Server {
    /// Does what the member asks for; the exit code once it asked for the end.
    pub(super) fn carry_out(&mut self) -> Option<ExitCode> {
        while let Some(effect) = self.member.poll_effect() {
            if let Effect::End { ending } = effect {
                return Some(self.end(ending));
            }
            self.carry_out_one(effect);
        }
        // What no loop wanted is of a term that is over.
        self.recovered = None;
        None
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Recover { term, predecessor, .. } => self.recover(term, predecessor),
            Effect::Activate { term } => self.activate(term),
            Effect::AskAround { term } if self.config.streaming.partitioning => {
                self.begin_partitions(Some(term));
            }
            Effect::AskAround { term } => self.ask_around(term),
            Effect::Serve { term } => {
                // The engine answers from then on: both would be one answer too many.
                self.end_probe();
                self.mail_all(|| Mail::Serve { term });
            }
            Effect::Sync { term } => self.mail_all(|| Mail::Sync { term }),
            Effect::Announce => {
                self.pages.set_active(&self.config, &self.cluster_id);
                self.news.on_serving(world::now());
                self.hear_administrators();
                self.log_ready();
                self.service_manager.ready("active");
                if self.member.is_in_group() {
                    self.begin_partitions(None);
                }
            }
            Effect::Withdraw => {
                self.end_administrators();
                self.end_probe();
                self.end_rivals();
                self.end_partitions();
                self.pages.set_inactive();
                self.service_manager.status("standby");
            }
            Effect::Deactivate { term } => self.mail_all(|| Mail::Deactivate { term }),
            Effect::SeeThrough { term } => self.mail_all(|| Mail::SeeThrough { term }),
            Effect::AwaitStore { term } => self.await_store(term),
            Effect::Drain { term } => self.mail_all(|| Mail::Drain { term }),
            Effect::Release { epoch, is_clean, retry_after } => {
                self.ask_keeper(|keeper| keeper.release(epoch, is_clean, retry_after));
            }
            Effect::StandByAgain => self.ask_keeper(Keeper::try_now),
            Effect::CheckLease => self.ask_keeper(Keeper::check_now),
            Effect::AskRival => self.ask_rivals(),
            Effect::ShowRival(text) => self.pages.set_rival(text),
            Effect::Survey => self.look(),
            Effect::Publish { subject, payload } => {
                self.mailboxes[0].deliver(Mail::Publish { subject, reply: None, payload });
            }
            Effect::ShowReachable(is_up) => self.pages.set_route(is_up),
            Effect::ShowTrouble { text, lasts } => self.pages.set_trouble(&text, lasts),
            Effect::Complain { text } => streaming(Level::Error, &text),
            Effect::Fail { line } => crate::log::fatal(STREAM, &line),
            Effect::SayStopping => {
                self.service_manager.stopping();
                if self.is_streaming() {
                    streaming(Level::Info, "Shutting down.");
                }
            }
            Effect::SeeOff => self.enter_lame_duck(),
            Effect::Break => {
                panic!("an event loop does not answer, and this process hangs with it")
            }
            Effect::End { .. } => unreachable!("it is the last one"),
        }
    }

    /// A store that nobody shares has no lease to be kept.
    fn ask_keeper(&self, ask: impl FnOnce(&Keeper)) {
        if let Some(keeper) = &self.keeper {
            ask(keeper);
        }
    }

    fn mail_all(&self, mail: impl Fn() -> Mail) {
        for mailbox in &self.mailboxes {
            mailbox.deliver(mail());
        }
    }

    /// The lease was won: the store is read, on a thread that has the fence of this term for its
    /// own. If the term is over when it comes to its end, what it made is dropped.
    fn recover(&mut self, term: u64, predecessor: Predecessor) {
        if self.member.is_in_group() {
            streaming(Level::Info, "Server is active");
        }
        streaming(Level::Info, "Recovering the state...");
        self.pages.set_recovering();
        let Some(fence) = self.fence.clone() else {
            unreachable!("whoever recovers has won a lease");
        };
        let ground = Ground {
            config: Arc::clone(&self.config),
            site: Arc::clone(&self.site),
            term,
            fence,
            predecessor,
            mailboxes: self.mailboxes.clone(),
            vitals: self.vitals.clone(),
            meters: self.meters.clone(),
            seed: self.random.next_u64(),
        };
        // From now on, so that no other term begins before the thread has.
        let opening = Arc::clone(self.vitals.opening());
        opening.rest();
        let events = self.events_in.clone();
        let work = move || {
            let result = ground.recover().map(Box::new);
            event::post(&events, Event::Recovered { term, result });
        };
        if let Err(error) = spawn("store-open", work) {
            opening.end();
            let error = ActivationError::Thread(error);
            let is_final = error.remedy() == Remedy::Stop;
            let failure = Failure { text: error.to_string(), is_final, lasts: error.lasts() };
            self.tell(Input::RecoveryFailed { term, failure });
        }
    }

    fn activate(&mut self, term: u64) {
        let Some(recovered) = self.recovered.take() else {
            unreachable!("term {term} was recovered in this turn");
        };
        self.log_recovered(&recovered);
        if let Some(count) = self.site.lost_count() {
            self.pages.set_lost(count);
        }
        self.cluster_id = recovered.info.cluster_id.clone();
        self.discovery = Subject::from(recovered.info.discovery.clone());
        for (mailbox, activation) in self.mailboxes.iter().zip(recovered.activations) {
            mailbox.deliver(Mail::Activate(Box::new(activation)));
        }
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
        for line in banner::subject_lines(config) {
            streaming(Level::Debug, &line);
        }
        streaming(Level::Info, &format!("Message store is {}", self.site.name()));
        if let Some(directory) = &config.directory {
            streaming(Level::Info, &format!("Store location: {}", directory.display()));
        }
        for line in banner::limits_table(&config.limits) {
            streaming(Level::Info, &line);
        }
        streaming(Level::Info, "Streaming Server is ready");
    }

    /// Another member is active: whether this one could take over is said as soon as it stands by,
    /// not when it is needed; and the store is looked at, without which a take-over only takes
    /// longer.
    fn look(&mut self) {
        if std::mem::replace(&mut self.is_looking, true) {
            return;
        }
        let (config, site) = (Arc::clone(&self.config), Arc::clone(&self.site));
        let events = self.events_in.clone();
        let work = move || {
            let trouble = activation::trouble(site.as_ref(), &config);
            let survey = site.survey();
            event::post(&events, Event::Looked { trouble, survey });
        };
        if let Err(error) = spawn("store-look", work) {
            self.on_looked(None, Err(error));
        }
    }

    pub(super) fn on_looked(&mut self, trouble: Option<String>, survey: std::io::Result<()>) {
        self.is_looking = false;
        if self.member.role() != Role::Standby {
            self.site.end_survey();
            return;
        }
        if let Some(text) = trouble {
            streaming(Level::Error, &text);
            self.pages.set_trouble(&text, true);
        }
        if let Err(error) = survey {
            let text = format!("The store is not looked at while standing by: {error}");
            streaming(Level::Warning, &text);
        }
    }

    /// A thread in a system call that hangs (dead storage) is waited for, because a second one must
    /// not open the same files beside it; but not here, where signals are heard.
    fn await_store(&mut self, term: u64) {
        let mut workers = std::mem::take(&mut self.ending);
        let unwanted = self.recovered.take().into_iter();
        workers.extend(unwanted.flat_map(|it| it.activations).map(|it| it.worker));
        let events = self.events_in.clone();
        let wait = move || {
            workers.into_iter().for_each(Worker::join);
            event::post(&events, Event::Left { term });
        };
        if let Err(error) = spawn("store-end", wait) {
            // The keeper takes no lease before they have ended, so only its return is delayed.
            let text = format!("unable to start a thread that waits for the store: {error}");
            streaming(Level::Error, &text);
            self.tell(Input::Left { term });
        }
    }

    fn end(&mut self, ending: Ending) -> ExitCode {
        match ending {
            Ending::AtOnce => {
                self.close(Duration::ZERO);
                ExitCode::from(2)
            }
            Ending::Failed => {
                self.stop_keeper();
                self.close(Duration::ZERO);
                ExitCode::FAILURE
            }
            Ending::Done | Ending::Terminated => {
                self.pages.set_shutdown();
                self.say_goodbye();
                self.stop_keeper();
                let is_own = self.found.upstream.is_none();
                if is_own {
                    log::info!(target: CORE, "Initiating Shutdown...");
                }
                self.close(FLUSH_WITHIN);
                if is_own {
                    log::info!(target: CORE, "Server Exiting..");
                }
                if ending == Ending::Terminated {
                    ExitCode::from(self.config.program.terminated_code())
                } else {
                    ExitCode::SUCCESS
                }
            }
        }
    }

    fn stop_keeper(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.stop();
        }
    }

    fn close(&mut self, flush_for: Duration) {
        self.monitor = None;
        self.control = None;
        if let Some(reactors) = self.reactors.take() {
            reactors.stop(flush_for);
        }
        self.files.remove();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

const LOST_SERVER_RECORD: &str = "Server information was not recovered, however channels are \
                                  present. Will initialize server and restart recovery!";
