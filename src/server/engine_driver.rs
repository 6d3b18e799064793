//! drives one Engine inside its reactor: inputs in, effects out
//!
//! It decodes requests where they arrive, brings each to the engine that owns its channel or
//! client, hands commits and reads to the loop's store worker, and counts the bytes of publishes
//! that are not committed yet (credits). It decides nothing about streaming itself.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use bytes::Bytes;
use crossbeam_channel::Sender;
use prost::Message;

use crate::base::epoch::Epoch;
use crate::base::errand::{Errand, Finished};
use crate::base::id::{AccountIndex, LoopIndex, Subject};
use crate::base::limits;
use crate::base::planted::{self, Bug};
use crate::base::time::{Instant, Now};
use crate::broker::{self, Credit, EngineDelivery, EngineInterest, Post, UpstreamNews};
use crate::election::input::Question;
use crate::engine::administration::{self, Change};
use crate::engine::effect::{Effect, Interest, Level, Payload, Service};
use crate::engine::input::{Input, PeerMessage};
use crate::engine::request::{self, Placement, Request};
use crate::engine::snapshot::Snapshot;
use crate::engine::{self, Engine};
use crate::log::STREAM;
use crate::net::driver::{Driver, Outcome};
use crate::proto::pb;
use crate::server::administration_subjects::{SubjectQuestion, busy};
use crate::server::event::Event;
use crate::server::interest_key::{self, Listener};
use crate::server::loop_counts::{LoopCounts, Stage};
use crate::store::worker::{Job, Peek, Report, Stocktaking, Worker};

/// What the drivers of a process, the store workers and the server send to a driver.
pub enum Mail {
    /// For this loop's engine: a request that belongs to it, or a message on one of its inboxes.
    ToEngine(Box<Input>),
    /// From the engine of another loop, of the same activation.
    Peer {
        /// Which loop.
        from: LoopIndex,
        /// Which activation.
        term: u64,
        /// What.
        message: PeerMessage,
    },
    /// From this loop's store worker.
    Report {
        /// Which activation.
        term: u64,
        /// What.
        report: Report,
    },
    /// The engine of `engine` is full, or no longer.
    Pressure {
        /// Which engine.
        engine: LoopIndex,
        /// For what.
        credit: Credit,
        /// Whether those who send that have to wait.
        is_high: bool,
    },
    /// Become active; nothing leaves before `Serve`.
    Activate(Box<Activation>),
    /// All engines of the activation exist: let effects flow. Answered when the first of them were
    /// handed over.
    Serve {
        /// Which activation.
        term: u64,
    },
    /// Answered when everything that was mailed before is handled.
    Sync {
        /// Which activation.
        term: u64,
    },
    /// The lease is gone: drop the engine and everything it wanted to say. Answered with the store
    /// worker, whose end is to be waited for.
    Deactivate {
        /// Which activation.
        term: u64,
    },
    /// Another member serves, and this process ends: answered when all is done that clients of this
    /// loop have sent, of which no more is read.
    SeeThrough {
        /// Of which activation.
        term: u64,
    },
    /// To loop 0: the engine of a loop listens to all that it begins with.
    Listening {
        /// Which activation.
        term: u64,
    },
    /// A loop gives the engines nothing more: what it gave them is in their mailboxes.
    Gated {
        /// Of which activation.
        term: u64,
    },
    /// The engine of a loop is at its end: what it has said is in the mailboxes of the brokers.
    Quiet {
        /// Of which activation.
        term: u64,
    },
    /// A planned stop: commit what is staged, then close the store. Answered when it is closed, or
    /// with its failure.
    Drain {
        /// Which activation.
        term: u64,
    },
    /// A portion of the engine's state for monitoring; an empty one while there is no engine.
    Snapshot {
        /// What of it.
        wanted: engine::snapshot::Wanted,
        /// Where it begins.
        from: engine::snapshot::Mark,
        /// Gets it.
        done: Box<dyn FnOnce(Snapshot, Option<engine::snapshot::Mark>) + Send>,
    },
    /// An operator asks for a change; not answered if this member stops being active before it is
    /// made.
    Administer {
        /// What is to change.
        change: Change,
        /// Gets how it ended; must not block.
        done: Answered,
    },
    /// Somebody wants to see messages of a channel; unanswered while there is no engine, or no room
    /// in the mailbox of its store.
    Peek(Peek),
    /// Somebody wants to know what the store's share holds; unanswered as that.
    Inventory(Stocktaking),
    /// The server itself listens.
    Listen {
        /// On what.
        subject: Subject,
        /// As whom.
        listener: Listener,
    },
    /// The server itself no longer listens.
    Unlisten {
        /// On what.
        subject: Subject,
        /// As whom.
        listener: Listener,
    },
    /// The server itself tells others something, whether it holds the lease or not.
    Tell {
        /// Where to.
        subject: Subject,
        /// What.
        payload: Bytes,
    },
    /// The server itself publishes, while it holds the lease.
    Publish {
        /// Where to.
        subject: Subject,
        /// Where an answer goes.
        reply: Option<Subject>,
        /// What.
        payload: Bytes,
    },
}

/// Takes how a change ended that an operator has asked for.
pub type Answered = Box<dyn FnOnce(administration::Outcome) + Send>;

/// What makes a loop's share of the server active.
pub struct Activation {
    /// Which activation of this process.
    pub term: u64,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The recovered engine.
    pub engine: Engine,
    /// The thread that owns this loop's share of the store.
    pub worker: Worker,
}

/// Drives the engine of one loop.
pub struct EngineDriver {
    home: LoopIndex,
    loops: u16,
    events: Sender<Event>,
    outcomes: VecDeque<Outcome<Mail>>,
    active: Option<Active>,
    /// What the server itself listens on here, with or without an engine.
    listening: Vec<(Subject, Listener)>,
}

struct Active {
    term: u64,
    epoch: Epoch,
    engine: Engine,
    worker: Worker,
    is_serving: bool,
    uncommitted_bytes: usize,
    pressure_is_high: bool,
    crowd_is_high: bool,
    /// It was asked to serve in this turn.
    is_asked_to_serve: bool,
    /// The engine began to listen to clients in this turn.
    has_opened: bool,
    /// Whether it has begun to listen to them at any time.
    is_open: bool,
    is_draining: bool,
    /// What the loops have said of this term; that engines listen is said to loop 0 alone.
    counts: LoopCounts,
    /// What operators have asked for and is not answered, by token.
    asked: BTreeMap<u64, Answered>,
    last_token: u64,
    /// Jobs that found the worker's mailbox full: one commit, and reads of subscriptions, of
    /// which each has one under way.
    unsubmitted: VecDeque<Job>,
}

impl EngineDriver {
    /// The driver of loop `home`, without an engine.
    #[must_use]
    pub fn new(home: LoopIndex, loops: u16, events: Sender<Event>) -> Self {
        Self { home, loops, events, outcomes: VecDeque::new(), active: None, listening: Vec::new() }
    }

    fn tell_broker(&mut self, input: broker::Input) {
        self.outcomes.push_back(Outcome::Broker(input));
    }

    fn handle(&mut self, input: Input, now: Now) {
        if let Some(active) = &mut self.active {
            active.engine.handle(input, now);
            self.carry_out(now);
        }
    }

    fn on_service(&mut self, service: Service, delivery: EngineDelivery, now: Now) {
        let EngineDelivery { names, payload, origin, errand, .. } = delivery;
        let request = request::decode(service, payload);
        let to = match request.placement(self.loops) {
            Placement::Dropped => return self.dismiss(errand),
            Placement::Here => self.home,
            Placement::Loop(to) => to,
        };
        let input = Input::Request { request, reply: names.into_reply(), origin, errand };
        if to == self.home {
            self.on_request(input, now);
        } else {
            let mail = Outcome::Mail { to, mail: Mail::ToEngine(Box::new(input)) };
            if planted::is(Bug::MailboxOrder) {
                return self.outcomes.push_front(mail);
            }
            self.outcomes.push_back(mail);
        }
    }

    fn on_request(&mut self, input: Input, now: Now) {
        let Some(active) = &mut self.active else { return };
        if let Input::Request { request: Request::Publish(publication), reply, errand, .. } = &input
        {
            // What is kept is bounded by who keeps it.
            if errand.is_none() && active.is_beyond_bound() {
                let guid = Bytes::copy_from_slice(publication.guid());
                return self.refuse_publish(guid, reply.clone());
            }
            active.uncommitted_bytes += publication.size();
            self.update_pressure();
        }
        self.handle(input, now);
        self.update_crowd();
    }

    /// Only what arrives by routes can get here: connections of clients wait for credits.
    fn refuse_publish(&mut self, guid: Bytes, reply: Option<Subject>) {
        let Some(subject) = reply else { return };
        let error = Bytes::from_static(TOO_MUCH_UNDER_WAY.as_bytes());
        let head = Bytes::from(pb::PubAck { guid, error }.encode_to_vec());
        let post = post(subject, head.into());
        self.tell_broker(broker::Input::Publish { post, reply: None });
    }

    /// Nothing follows from an input.
    fn dismiss(&mut self, errand: Option<Errand>) {
        if let (Some(errand), Some(_)) = (errand, &self.active) {
            let finished = Finished { errand, is_unstored: true };
            self.tell_broker(broker::Input::Done(vec![finished]));
        }
    }

    fn update_pressure(&mut self) {
        let Some(active) = &mut self.active else { return };
        let is_high = if active.pressure_is_high {
            limits::ENGINE_UNCOMMITTED_BYTES_MAX / 2 < active.uncommitted_bytes
        } else {
            limits::ENGINE_UNCOMMITTED_BYTES_MAX < active.uncommitted_bytes
        };
        if is_high != active.pressure_is_high {
            active.pressure_is_high = is_high;
            self.spread_pressure(Credit::Messages, is_high);
        }
    }

    /// The same for requests other than publishes.
    fn update_crowd(&mut self) {
        let Some(active) = &mut self.active else { return };
        let held_bytes = active.engine.held_bytes();
        let is_high = if active.crowd_is_high {
            limits::ENGINE_REQUESTS_BYTES_MAX / 4 * 3 < held_bytes
        } else {
            limits::ENGINE_REQUESTS_BYTES_MAX < held_bytes
        };
        if is_high != active.crowd_is_high {
            active.crowd_is_high = is_high;
            self.spread_pressure(Credit::Requests, is_high);
        }
    }

    fn spread_pressure(&mut self, credit: Credit, is_high: bool) {
        let engine = self.home;
        self.tell_broker(broker::Input::Pressure { engine, credit, is_high });
        for to in (0..self.loops).map(LoopIndex).filter(|to| *to != engine) {
            let mail = Mail::Pressure { engine, credit, is_high };
            self.outcomes.push_back(Outcome::Mail { to, mail });
        }
    }

    /// Whoever looks gives way to those who work: what finds no room is dropped, and so its answer.
    fn on_peek(&mut self, job: Job) {
        if let Some(active) = self.active.as_ref().filter(|active| active.is_serving) {
            let _ = active.worker.try_submit(job);
        }
    }

    fn administer(&mut self, change: Change, done: Answered, now: Now) {
        let Some(active) = self.active.as_mut().filter(|active| active.is_serving) else {
            return done(administration::Outcome::Refused("this member is not active".to_owned()));
        };
        active.last_token += 1;
        let token = active.last_token;
        active.asked.insert(token, done);
        self.handle(Input::Administer { token, change }, now);
    }

    fn answer_operator(&mut self, token: u64, outcome: administration::Outcome) {
        let asked = self.active.as_mut().and_then(|active| active.asked.remove(&token));
        if let Some(done) = asked {
            done(outcome);
        }
    }

    fn carry_out(&mut self, now: Now) {
        loop {
            let Some(active) = &mut self.active else { return };
            if !active.is_serving {
                return;
            }
            let Some(effect) = active.engine.poll_effect() else { return };
            self.carry_out_one(effect, now);
        }
    }

    fn carry_out_one(&mut self, effect: Effect, now: Now) {
        match effect {
            Effect::Send { subject, reply, payload } => {
                let post = post(subject, payload);
                self.tell_broker(broker::Input::Publish { post, reply });
            }
            Effect::Deliver { key, inbox, payload } => {
                let post = post(inbox, payload);
                self.tell_broker(broker::Input::Deliver { key, post });
            }
            Effect::Watch { key, inbox, needs_listener } => {
                let account = ACCOUNT;
                self.tell_broker(broker::Input::Watch { key, account, inbox, needs_listener });
            }
            Effect::Unwatch { key } => self.tell_broker(broker::Input::Unwatch { key }),
            Effect::Listen { subject, interest } => {
                if let (Interest::Service(_), Some(active)) = (interest, &mut self.active) {
                    active.has_opened = true;
                }
                let interest = self.interest(interest);
                self.tell_broker(broker::Input::Listen { subject, interest });
            }
            Effect::Unlisten { subject, interest } => {
                let interest = self.interest(interest);
                self.tell_broker(broker::Input::Unlisten { subject, interest });
            }
            Effect::Commit { ticket, batch } => self.hand_over(Job::Commit { ticket, batch }),
            Effect::Read(read) => self.hand_over(Job::Read(read)),
            Effect::Tell { to, message } => self.tell(to, message, now),
            Effect::Log { level, text } => super::logging::streaming(level, &text),
            Effect::Credit { bytes } => self.on_credit(bytes),
            Effect::Answer { token, outcome } => self.answer_operator(token, outcome),
            Effect::Drained => self.hand_over(Job::Close),
        }
    }

    fn interest(&self, interest: Interest) -> EngineInterest {
        let epoch = self.active.as_ref().map(|active| active.epoch);
        EngineInterest {
            engine: self.home,
            account: ACCOUNT,
            key: interest_key::of_engine(interest),
            credit: match interest {
                Interest::Service(Service::Publish) => Credit::Messages,
                Interest::Service(
                    Service::Connect
                    | Service::Subscribe
                    | Service::Unsubscribe
                    | Service::SubscriptionClose
                    | Service::Close,
                ) => Credit::Requests,
                // Pings are answered at once, acks are no more than deliveries.
                Interest::Service(Service::Ping) | Interest::Own(_) => Credit::Free,
            },
            // Publishes are let go when they are answered, acks and answers at once.
            is_brief: matches!(interest, Interest::Service(Service::Publish) | Interest::Own(_)),
            keeper: epoch.filter(|_| interest.is_kept()),
        }
    }

    fn hand_over(&mut self, job: Job) {
        let Some(active) = &mut self.active else { return };
        if active.unsubmitted.is_empty() {
            if let Err(job) = active.worker.try_submit(job) {
                active.unsubmitted.push_back(*job);
            }
        } else {
            active.unsubmitted.push_back(job);
        }
    }

    /// The worker reported something, so its mailbox has room again.
    fn submit_waiting(&mut self) {
        let Some(active) = &mut self.active else { return };
        while let Some(job) = active.unsubmitted.pop_front() {
            if let Err(job) = active.worker.try_submit(job) {
                active.unsubmitted.push_front(*job);
                return;
            }
        }
    }

    fn tell(&mut self, to: LoopIndex, message: PeerMessage, now: Now) {
        let Some(active) = &self.active else { return };
        let (from, term) = (self.home, active.term);
        if to == from {
            self.handle(Input::Peer { from, message }, now);
        } else {
            let mail = Mail::Peer { from, term, message };
            self.outcomes.push_back(Outcome::Mail { to, mail });
        }
    }

    fn on_credit(&mut self, bytes: usize) {
        if let Some(active) = &mut self.active {
            active.uncommitted_bytes = active.uncommitted_bytes.saturating_sub(bytes);
        }
        self.update_pressure();
    }

    fn on_report(&mut self, term: u64, report: Report, now: Now) {
        if self.active.as_ref().is_none_or(|active| active.term != term) {
            return;
        }
        self.submit_waiting();
        match report {
            Report::Answer(answer) => self.handle(Input::Store(answer), now),
            Report::Failed { text, remedy } => self.on_store_failure(term, text, remedy),
            Report::Trouble { text } => super::logging::streaming(Level::Warning, &text),
            Report::Closed => self.on_closed(),
        }
    }

    fn on_store_failure(&mut self, term: u64, text: String, remedy: crate::store::Remedy) {
        super::event::post(&self.events, Event::StoreFailed { term, text, remedy });
    }

    fn on_closed(&mut self) {
        let Some(active) = self.active.as_mut().filter(|active| active.is_draining) else { return };
        let term = active.term;
        if active.is_serving {
            self.tell_all(|| Mail::Quiet { term });
            self.on_quiet(term);
        } else {
            self.on_drained(term);
        }
    }

    fn on_drained(&mut self, term: u64) {
        let is_it = |active: &&mut Active| active.is_draining && active.term == term;
        if let Some(active) = self.active.as_mut().filter(is_it) {
            active.is_draining = false;
            super::event::post(&self.events, Event::Drained { term });
        }
    }

    /// To the drivers of all other loops.
    fn tell_all(&mut self, mail: impl Fn() -> Mail) {
        let home = self.home;
        let others = (0..self.loops).map(LoopIndex).filter(|to| *to != home);
        self.outcomes.extend(others.map(|to| Outcome::Mail { to, mail: mail() }));
    }

    /// A loop says that of its term; whether it was the last one.
    fn is_last(&mut self, term: u64, stage: Stage) -> bool {
        let active = self.active.as_mut().filter(|active| active.term == term);
        active.is_some_and(|active| active.counts.say(stage))
    }

    /// A loop gives this engine nothing more. Once all do, it finishes what it has.
    fn on_gated(&mut self, term: u64, now: Now) {
        if self.is_last(term, Stage::Gated) {
            self.handle(Input::Drain, now);
        }
    }

    /// An engine has come to its end. Once all have, what they said has still to leave.
    fn on_quiet(&mut self, term: u64) {
        if self.is_last(term, Stage::Quiet) {
            self.tell_broker(broker::Input::Outflow { token: term });
        }
    }

    fn on_activate(&mut self, activation: Activation) {
        assert!(self.active.is_none(), "a loop is activated once at a time");
        self.active = Some(Active {
            term: activation.term,
            epoch: activation.epoch,
            engine: activation.engine,
            worker: activation.worker,
            is_serving: false,
            uncommitted_bytes: 0,
            pressure_is_high: false,
            crowd_is_high: false,
            is_asked_to_serve: false,
            has_opened: false,
            is_open: false,
            is_draining: false,
            counts: LoopCounts::new(self.loops),
            asked: BTreeMap::new(),
            last_token: 0,
            unsubmitted: VecDeque::new(),
        });
    }

    fn on_serve(&mut self, now: Now) {
        if let Some(active) = &mut self.active {
            active.is_serving = true;
            active.is_asked_to_serve = true;
        }
        self.carry_out(now);
    }

    fn on_deactivate(&mut self, term: u64) {
        let active = self.active.take();
        let is_high = |active: &Active| (active.pressure_is_high, active.crowd_is_high);
        let (pressure_was_high, crowd_was_high) = active.as_ref().map(is_high).unwrap_or_default();
        let worker = active.map(|active| active.worker);
        if pressure_was_high {
            self.spread_pressure(Credit::Messages, false);
        }
        if crowd_was_high {
            self.spread_pressure(Credit::Requests, false);
        }
        self.tell_broker(broker::Input::EngineGone);
        // That took every interest of this loop; the server's own outlive the engine.
        for (subject, listener) in self.listening.clone() {
            let interest = self.server_interest(listener);
            self.tell_broker(broker::Input::Listen { subject, interest });
        }
        super::event::post(&self.events, Event::Deactivated { term, worker });
    }

    fn on_drain(&mut self, now: Now) {
        let Some(active) = &mut self.active else { return };
        active.is_draining = true;
        let (term, epoch) = (active.term, active.epoch);
        if active.is_serving {
            self.tell_broker(broker::Input::Park { epoch });
            self.tell_all(|| Mail::Gated { term });
            self.on_gated(term, now);
        } else {
            // It was never asked to serve: it has nothing to say, but a store to close.
            self.hand_over(Job::Close);
        }
    }

    /// The engine of a loop has said what it listens to.
    fn on_listening(&mut self, term: u64) {
        self.is_last(term, Stage::Listening);
        self.look_whether_ready();
    }

    /// Once all engines listen, what the brokers have kept for them comes to them.
    fn look_whether_ready(&mut self) {
        let Some(active) = &mut self.active else { return };
        if active.counts.take_ready(active.is_open) {
            let epoch = active.epoch;
            self.tell_broker(broker::Input::Ready { epoch });
        }
    }

    fn answer(&self, term: u64, question: Question) {
        super::event::post(&self.events, Event::Answered { term, question });
    }

    fn server_interest(&self, listener: Listener) -> EngineInterest {
        let key = interest_key::of_server(listener);
        let (engine, account) = (self.home, ACCOUNT);
        EngineInterest { engine, account, key, credit: Credit::Free, is_brief: false, keeper: None }
    }
}

/// The loop whose engine listens to clients for all, and whose broker owns the routes.
const KEEPER: LoopIndex = LoopIndex(0);

/// The account whose clients the engines serve.
const ACCOUNT: AccountIndex = AccountIndex::GLOBAL;

fn post(subject: Subject, Payload { head, tail }: Payload) -> Post {
    Post { account: ACCOUNT, subject, head, tail, is_leased: true }
}

/// What a publisher behind a route is told when it sends faster than the store writes.
const TOO_MUCH_UNDER_WAY: &str = "stan: too many publishes under way, try again";

impl Active {
    fn is_beyond_bound(&self) -> bool {
        2 * limits::ENGINE_UNCOMMITTED_BYTES_MAX < self.uncommitted_bytes
    }
}

impl Driver for EngineDriver {
    type Mail = Mail;

    fn on_delivery(&mut self, delivery: EngineDelivery, now: Now) {
        match interest_key::decode(delivery.key) {
            interest_key::Decoded::Engine(Interest::Service(service)) => {
                self.on_service(service, delivery, now);
            }
            interest_key::Decoded::Engine(Interest::Own(token)) => {
                let EngineDelivery { engine: to, names, payload, origin, errand, .. } = delivery;
                let subject = names.into_subject();
                let input = Input::Inbox { token, subject, payload, origin, errand };
                if to == self.home {
                    self.handle(input, now);
                } else {
                    let mail = Mail::ToEngine(Box::new(input));
                    self.outcomes.push_back(Outcome::Mail { to, mail });
                }
            }
            interest_key::Decoded::Server(Listener::Administration) => {
                let EngineDelivery { names, payload, origin, .. } = delivery;
                let (subject, user) = (names.subject().to_vec().into(), origin.user.clone());
                let reply = names.into_reply();
                let question = SubjectQuestion { subject, payload, reply: reply.clone(), user };
                if !super::event::post_question(&self.events, question)
                    && let Some(reply) = reply
                {
                    let post = Post { is_leased: false, ..post(reply, busy().into()) };
                    self.tell_broker(broker::Input::Publish { post, reply: None });
                }
            }
            interest_key::Decoded::Server(listener) => {
                let (payload, reply) = (delivery.payload, delivery.names.into_reply());
                let event = Event::Heard { listener, payload, reply };
                super::event::post(&self.events, event);
            }
        }
    }

    fn on_no_responders(&mut self, reply: Subject, now: Now) {
        if interest_key::is_server_inbox(&reply) {
            super::event::post(&self.events, Event::NobodyListens { reply });
        } else {
            self.handle(Input::NoResponders { reply }, now);
        }
    }

    fn on_room(&mut self, key: u64, has_room: bool, now: Now) {
        self.handle(Input::Room { key, has_room }, now);
    }

    /// Clients reach the engine.
    fn on_flushed(&mut self, token: u64) {
        super::event::post(&self.events, Event::Opened { term: token });
    }

    fn on_through(&mut self, token: u64) {
        self.answer(token, Question::Through);
    }

    fn on_outflown(&mut self, token: u64) {
        self.on_drained(token);
    }

    fn on_upstream(&mut self, news: UpstreamNews) {
        match news {
            UpstreamNews::Said(level, text) => log::log!(target: STREAM, level, "{text}"),
            UpstreamNews::Reachable(is_reachable) => {
                super::event::post(&self.events, Event::UpstreamReachable(is_reachable));
            }
            UpstreamNews::Refused => super::event::post(&self.events, Event::UpstreamRefused),
            UpstreamNews::LoggedIn => super::event::post(&self.events, Event::Upstream(Ok(()))),
            UpstreamNews::Failed(why) => {
                super::event::post(&self.events, Event::Upstream(Err(why)));
            }
        }
    }

    fn on_mail(&mut self, mail: Mail, now: Now) {
        match mail {
            Mail::ToEngine(input) if matches!(*input, Input::Request { .. }) => {
                self.on_request(*input, now);
            }
            Mail::ToEngine(input) => self.handle(*input, now),
            Mail::Peer { from, term, message } => {
                if self.active.as_ref().is_some_and(|active| active.term == term) {
                    self.handle(Input::Peer { from, message }, now);
                }
            }
            Mail::Report { term, report } => self.on_report(term, report, now),
            Mail::Pressure { engine, credit, is_high } => {
                self.tell_broker(broker::Input::Pressure { engine, credit, is_high });
            }
            Mail::Activate(activation) => self.on_activate(*activation),
            Mail::Serve { .. } => self.on_serve(now),
            Mail::Sync { term } => self.answer(term, Question::Sync),
            Mail::Deactivate { term } => self.on_deactivate(term),
            Mail::SeeThrough { term } => {
                self.tell_broker(broker::Input::SeeThrough { token: term })
            }
            Mail::Listening { term } => self.on_listening(term),
            Mail::Gated { term } => self.on_gated(term, now),
            Mail::Quiet { term } => self.on_quiet(term),
            Mail::Drain { .. } => self.on_drain(now),
            Mail::Snapshot { wanted, from, done } => {
                let active = self.active.as_ref();
                let told = active.map(|active| active.engine.list(&wanted, from));
                let (part, next) = told.unwrap_or_default();
                done(part, next);
            }
            Mail::Administer { change, done } => self.administer(change, done, now),
            Mail::Peek(peek) => self.on_peek(Job::Peek(peek)),
            Mail::Inventory(wanted) => self.on_peek(Job::Inventory(wanted)),
            Mail::Listen { subject, listener } => {
                let interest = self.server_interest(listener);
                self.listening.push((subject.clone(), listener));
                self.tell_broker(broker::Input::Listen { subject, interest });
            }
            Mail::Unlisten { subject, listener } => {
                self.listening.retain(|known| *known != (subject.clone(), listener));
                let interest = self.server_interest(listener);
                self.tell_broker(broker::Input::Unlisten { subject, interest });
            }
            Mail::Tell { subject, payload } => {
                let post = Post { is_leased: false, ..post(subject, payload.into()) };
                self.tell_broker(broker::Input::Publish { post, reply: None });
            }
            Mail::Publish { subject, reply, payload } => {
                let post = post(subject, payload.into());
                self.tell_broker(broker::Input::Publish { post, reply: reply.map(Box::new) });
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        if let Some(active) = &mut self.active {
            active.engine.handle_timeout(now);
            self.carry_out(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.active.as_ref().and_then(|active| active.engine.next_deadline())
    }

    fn end_of_turn(&mut self, now: Now) {
        self.handle(Input::EndOfTurn, now);
        self.update_crowd();
        let Some(active) = &mut self.active else { return };
        let (term, has_opened) = (active.term, mem::take(&mut active.has_opened));
        active.is_open |= has_opened;
        let done = active.engine.take_done();
        if !done.is_empty() {
            self.tell_broker(broker::Input::Done(done));
        }
        let Some(active) = &mut self.active else { return };
        if mem::take(&mut active.is_asked_to_serve) {
            self.answer(term, Question::Serve);
            if self.home == KEEPER {
                self.on_listening(term);
            } else {
                self.outcomes
                    .push_back(Outcome::Mail { to: KEEPER, mail: Mail::Listening { term } });
            }
        }
        if has_opened {
            self.tell_broker(broker::Input::Flush { token: term });
        }
        self.look_whether_ready();
    }

    fn poll_outcome(&mut self) -> Option<Outcome<Mail>> {
        self.outcomes.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::id::SessionId;
    use crate::base::origin::Origin;
    use crate::base::placement;
    use crate::broker::Names;

    /// Goal: whichever loop a request belongs to, its engine learns who asks.
    #[test]
    fn a_request_that_goes_to_another_loop_keeps_its_origin() {
        let home = LoopIndex(1 - placement::of_channel(&"foo".into(), 2).0);
        let mut driver = EngineDriver::new(home, 2, crossbeam_channel::unbounded().0);
        let publish = pb::PubMsg { subject: "foo".into(), ..pb::PubMsg::default() };
        let connection = Some(SessionId { home, slot: 7, generation: 1 });
        let user = Some("me".to_owned());
        let origin = Arc::new(Origin { account: ACCOUNT, connection, user });
        let interest = driver.interest(Interest::Service(Service::Publish));
        let delivery = EngineDelivery {
            engine: interest.engine,
            key: interest.key,
            names: Names::from(Subject::from("pub.foo")),
            payload: publish.encode_to_vec().into(),
            origin: origin.clone(),
            errand: None,
        };
        driver.on_delivery(delivery, Now::default());
        let Some(Outcome::Mail { to, mail: Mail::ToEngine(input) }) = driver.poll_outcome() else {
            panic!("it is for the other loop");
        };
        let Input::Request { origin: brought, .. } = *input else { panic!("it is a request") };
        assert_eq!((to, brought), (LoopIndex(1 - home.0), origin));
    }
}
