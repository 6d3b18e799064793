//! One member of a simulated group: its engines, its jobs for the store, its lease.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::base::epoch::Epoch;
use crate::base::id::{LoopIndex, Subject, Ticket};
use crate::base::random::Random;
use crate::base::record::{Batch, RecoveredState};
use crate::base::subject;
use crate::base::time::{Instant, Now};
use crate::engine::effect::{Effect, Interest, Payload};
use crate::engine::input::{Input, PeerMessage};
use crate::engine::recovery;
use crate::engine::request::{self, Placement, Request};
use crate::engine::{Engine, Settings, Start};
use crate::testing::bus::Parcel;
use crate::testing::shared_store::{Refused, SharedStore, share_of};

/// The lease bound of simulated groups.
pub const LEASE_BOUND: Duration = Duration::from_millis(1_600);

/// Most letters that the loops of a member take out of their mailboxes in one turn.
const MAIL_PER_TURN_MAX: u64 = 12;

/// A member that is active, or believes so.
pub struct Member {
    epoch: Epoch,
    loops: u16,
    engines: Vec<Engine>,
    jobs: Vec<VecDeque<Job>>,
    /// By loop: what others handed over to it, in the order in which they did.
    mail: Vec<VecDeque<Mail>>,
    interests: Vec<(Subject, LoopIndex, Interest)>,
    out: VecDeque<(Subject, Option<Subject>, Payload)>,
    lease_valid_until: Instant,
}

/// What waits in the mailbox of a loop.
#[derive(Debug)]
enum Mail {
    Peer(LoopIndex, PeerMessage),
    Request(Request, Option<Subject>),
    Room(u64),
}

/// Work for the store, in the steps in which a pause or a kill can come between.
#[derive(Debug)]
enum Job {
    Write(Ticket, Batch),
    Sync(Ticket, Batch, Refused),
    Check(Ticket, Batch, Refused),
    Fetch(crate::base::record::FetchRequest),
    FindTime(Ticket, crate::base::id::ChannelName, crate::base::time::WallTime),
}

impl Member {
    /// A member that just took over with what it recovered.
    ///
    /// # Panics
    /// When the recovered server record is of another cluster: the simulation made it.
    #[must_use]
    pub fn activate(
        settings: &Settings,
        epoch: Epoch,
        recovered: &RecoveredState,
        random: &mut Random,
        now: Now,
    ) -> Self {
        let loops = settings.loops;
        let (info, info_is_new) =
            recovery::server_info(recovered.server.clone(), "test-cluster", "_STAN.discover")
                .expect("the simulation has one cluster");
        let subscription_ids = recovered.channels.iter().map(|c| c.subscription_id_max.0);
        let subscription_id_max = subscription_ids.max().unwrap_or(0);
        let start = |index: LoopIndex, seed: u64| Start {
            index,
            info: info.clone(),
            info_is_new,
            clients: recovered.clients.clone(),
            channels: share_of(index, loops, recovered),
            channel_count: recovered.channels.len() as u64,
            subscription_id_max,
            seed,
        };
        let mut engines = Vec::new();
        for index in (0..loops).map(LoopIndex) {
            engines.push(Engine::recover(settings.clone(), start(index, random.next_u64()), now));
        }
        let mut member = Self {
            epoch,
            loops,
            jobs: engines.iter().map(|_| VecDeque::new()).collect(),
            mail: engines.iter().map(|_| VecDeque::new()).collect(),
            engines,
            interests: Vec::new(),
            out: VecDeque::new(),
            lease_valid_until: now.at + LEASE_BOUND,
        };
        member.drain();
        member
    }

    /// The epoch under which it writes.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Reads the epoch beside the data; false if a later one was found and the role is lost.
    pub fn confirm_lease(&mut self, found: Epoch, now: Instant) -> bool {
        if found == self.epoch {
            self.lease_valid_until = now + LEASE_BOUND;
        }
        found == self.epoch
    }

    /// A message that arrived at this member. The answer is false if nobody listens.
    pub fn receive(&mut self, parcel: &Parcel, now: Now) -> bool {
        let mut heard = false;
        let matching: Vec<(LoopIndex, Interest)> = self
            .interests
            .iter()
            .filter(|(pattern, _, _)| {
                subject::matches(pattern.as_bytes(), parcel.subject.as_bytes())
            })
            .map(|(_, home, interest)| (*home, *interest))
            .collect();
        for (home, interest) in matching {
            heard = true;
            self.hand_in(home, interest, parcel, now);
        }
        self.drain();
        heard
    }

    fn hand_in(&mut self, home: LoopIndex, interest: Interest, parcel: &Parcel, now: Now) {
        let payload = parcel.payload.clone();
        match interest {
            Interest::Own(token) => {
                let subject = parcel.subject.clone();
                let input = Input::Inbox { token, subject, payload, origin: Arc::default() };
                self.engines[home.index()].handle(input, now);
            }
            Interest::Service(service) => {
                let request = request::decode(service, payload);
                let target = match request.placement(self.loops) {
                    Placement::Loop(target) => target,
                    Placement::Here => home,
                    Placement::Dropped => return,
                };
                let reply = parcel.reply.clone();
                if target == home {
                    let input = Input::Request { request, reply, origin: Arc::default() };
                    self.engines[home.index()].handle(input, now);
                } else {
                    self.mail[target.index()].push_back(Mail::Request(request, reply));
                }
            }
        }
    }

    /// One turn: loops take some of their mail, in an order chosen by `random` (each mailbox keeps
    /// its own: a cause comes before its effect everywhere); deadlines come due, turns end.
    pub fn turn(&mut self, random: &mut Random, now: Now) {
        for _ in 0..random.below(MAIL_PER_TURN_MAX) {
            let waiting: Vec<usize> =
                (0..self.mail.len()).filter(|index| !self.mail[*index].is_empty()).collect();
            if waiting.is_empty() {
                break;
            }
            let index = choose(random, &waiting);
            let input = match self.mail[index].pop_front() {
                Some(Mail::Peer(from, message)) => Input::Peer { from, message },
                Some(Mail::Request(request, reply)) => {
                    Input::Request { request, reply, origin: Arc::default() }
                }
                Some(Mail::Room(key)) => Input::Room { key, has_room: true },
                None => break,
            };
            self.engines[index].handle(input, now);
            self.drain();
        }
        for engine in &mut self.engines {
            if engine.next_deadline().is_some_and(|at| at <= now.at) {
                engine.handle_timeout(now);
            }
            engine.handle(Input::EndOfTurn, now);
        }
        self.drain();
    }

    /// Does one step of one job for the store; false if there is none.
    pub fn work(&mut self, store: &mut SharedStore, random: &mut Random, now: Now) -> bool {
        let busy: Vec<usize> =
            (0..self.jobs.len()).filter(|index| !self.jobs[*index].is_empty()).collect();
        if busy.is_empty() {
            return false;
        }
        let index = choose(random, &busy);
        let home = LoopIndex(u16::try_from(index).unwrap_or(0));
        let Some(job) = self.jobs[index].pop_front() else { return false };
        if let Some(input) = self.step(home, job, store, random) {
            self.engines[index].handle(input, now);
            self.drain();
        }
        true
    }

    fn step(
        &mut self,
        home: LoopIndex,
        job: Job,
        store: &mut SharedStore,
        random: &mut Random,
    ) -> Option<Input> {
        let next = match job {
            Job::Write(ticket, batch) => {
                let refused = store.write(self.epoch, home, &batch, random);
                match batch.durable {
                    true => Job::Sync(ticket, batch, refused),
                    false => Job::Check(ticket, batch, refused),
                }
            }
            Job::Sync(ticket, batch, refused) => {
                store.sync(self.epoch, home);
                Job::Check(ticket, batch, refused)
            }
            // A former active that finds another epoch reports nothing, ever (P2).
            Job::Check(ticket, batch, refused) => {
                return (store.epoch() == self.epoch).then(|| {
                    let report = store.report(home, &batch, &refused);
                    Input::Committed { ticket, report }
                });
            }
            Job::Fetch(request) => {
                let result = Ok(store.fetch(home, &request));
                return Some(Input::Fetched { ticket: request.ticket, result });
            }
            Job::FindTime(ticket, channel, at) => {
                let result = Ok(store.find_time(home, &channel, at));
                return Some(Input::FoundTime { ticket, result });
            }
        };
        self.jobs[home.index()].push_front(next);
        None
    }

    /// What may leave at `now`; with a lease in doubt nothing does.
    pub fn outgoing(&mut self, now: Instant) -> Vec<(Subject, Option<Subject>, Payload)> {
        if now < self.lease_valid_until { self.out.drain(..).collect() } else { Vec::new() }
    }

    /// A request of an engine found nobody.
    pub fn nobody_listens(&mut self, reply: &Subject, now: Now) {
        for engine in &mut self.engines {
            engine.handle(Input::NoResponders { reply: reply.clone() }, now);
        }
        self.drain();
    }

    fn drain(&mut self) {
        for index in 0..self.engines.len() {
            while let Some(effect) = self.engines[index].poll_effect() {
                self.carry_out(LoopIndex(u16::try_from(index).unwrap_or(0)), effect);
            }
        }
    }

    fn carry_out(&mut self, home: LoopIndex, effect: Effect) {
        let jobs = &mut self.jobs[home.index()];
        match effect {
            Effect::Send { subject, reply, payload } => {
                self.out.push_back((subject, reply, payload));
            }
            Effect::Deliver { inbox, payload, .. } => self.out.push_back((inbox, None, payload)),
            Effect::Watch { key, .. } => self.mail[home.index()].push_back(Mail::Room(key)),
            Effect::Listen { subject, interest } => self.interests.push((subject, home, interest)),
            Effect::Unlisten { subject, .. } => {
                self.interests.retain(|(other, owner, _)| *other != subject || *owner != home);
            }
            Effect::Commit { ticket, batch } => jobs.push_back(Job::Write(ticket, *batch)),
            Effect::Fetch(request) => jobs.push_back(Job::Fetch(request)),
            Effect::FindTime { ticket, channel, at } => {
                jobs.push_back(Job::FindTime(ticket, channel, at));
            }
            Effect::Tell { to, message } => {
                self.mail[to.index()].push_back(Mail::Peer(home, message));
            }
            Effect::Unwatch { .. }
            | Effect::Log { .. }
            | Effect::Credit { .. }
            | Effect::Drained => (),
        }
    }
}

fn choose(random: &mut Random, among: &[usize]) -> usize {
    let choice = random.below(among.len() as u64);
    among[usize::try_from(choice).unwrap_or(0)]
}
