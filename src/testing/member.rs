//! One member of a simulated group: its engines, its jobs for the store, its lease.

use std::collections::VecDeque;
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
use crate::engine::request::{self, Placement};
use crate::engine::{Engine, Settings, Start};
use crate::testing::bus::Parcel;
use crate::testing::shared_store::{SharedStore, share_of};

/// The lease bound of simulated groups.
pub const LEASE_BOUND: Duration = Duration::from_millis(1_600);

/// A member that is active, or believes so.
pub struct Member {
    epoch: Epoch,
    loops: u16,
    engines: Vec<Engine>,
    jobs: Vec<VecDeque<Job>>,
    peers: VecDeque<(LoopIndex, LoopIndex, PeerMessage)>,
    interests: Vec<(Subject, LoopIndex, Interest)>,
    out: VecDeque<(Subject, Option<Subject>, Payload)>,
    lease_valid_until: Instant,
}

/// Work for the store, in the steps in which a pause or a kill can come between.
#[derive(Debug)]
enum Job {
    Write(Ticket, Batch),
    Sync(Ticket, Batch),
    Check(Ticket, Batch),
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
            engines,
            peers: VecDeque::new(),
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
                let input = Input::Inbox { token, subject, payload };
                self.engines[home.index()].handle(input, now);
            }
            Interest::Service(service) => {
                let request = request::decode(service, payload);
                let target = match request.placement(self.loops) {
                    Placement::Loop(target) => target,
                    Placement::Here => home,
                    Placement::Dropped => return,
                };
                let input = Input::Request { request, reply: parcel.reply.clone() };
                self.engines[target.index()].handle(input, now);
            }
        }
    }

    /// One turn: engines exchange what they tell each other, deadlines come due, turns end.
    pub fn turn(&mut self, now: Now) {
        while let Some((from, to, message)) = self.peers.pop_front() {
            self.engines[to.index()].handle(Input::Peer { from, message }, now);
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
        let choice = random.below(busy.len() as u64);
        let index = busy[usize::try_from(choice).unwrap_or(0)];
        let home = LoopIndex(u16::try_from(index).unwrap_or(0));
        let Some(job) = self.jobs[index].pop_front() else { return false };
        if let Some(input) = self.step(home, job, store) {
            self.engines[index].handle(input, now);
            self.drain();
        }
        true
    }

    fn step(&mut self, home: LoopIndex, job: Job, store: &mut SharedStore) -> Option<Input> {
        let next = match job {
            Job::Write(ticket, batch) => {
                store.write(self.epoch, home, &batch);
                if batch.durable { Job::Sync(ticket, batch) } else { Job::Check(ticket, batch) }
            }
            Job::Sync(ticket, batch) => {
                store.sync(self.epoch, home);
                Job::Check(ticket, batch)
            }
            // A former active that finds another epoch reports nothing, ever (P2).
            Job::Check(ticket, batch) => {
                return (store.epoch() == self.epoch)
                    .then(|| Input::Committed { ticket, report: store.report(home, &batch) });
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

    /// The earliest moment at which an engine wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.engines.iter().filter_map(Engine::next_deadline).min()
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
            Effect::Listen { subject, interest } => self.interests.push((subject, home, interest)),
            Effect::Unlisten { subject, .. } => {
                self.interests.retain(|(other, owner, _)| *other != subject || *owner != home);
            }
            Effect::Commit { ticket, batch } => jobs.push_back(Job::Write(ticket, batch)),
            Effect::Fetch(request) => jobs.push_back(Job::Fetch(request)),
            Effect::FindTime { ticket, channel, at } => {
                jobs.push_back(Job::FindTime(ticket, channel, at));
            }
            Effect::Tell { to, message } => self.peers.push_back((home, to, message)),
            Effect::Log { .. } | Effect::Credit { .. } | Effect::Drained => (),
        }
    }
}
