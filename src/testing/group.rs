//! A whole active/standby group in one thread: members, a shared store, wires, clients, faults.

use std::time::Duration;

use crate::base::channel_limits::StoreLimits;
use crate::base::random::Random;
use crate::base::time::{Instant, Now, WallTime};
use crate::engine::Settings;
use crate::testing::bus::{Bus, End, Parcel};
use crate::testing::checker::Checker;
use crate::testing::member::{LEASE_BOUND, Member};
use crate::testing::shared_store::SharedStore;
use crate::testing::workload::Client;

/// What a run is made of; everything else follows from the seed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Event loops of each member.
    pub loops: u16,
    /// Members of the group.
    pub members: usize,
    /// Client programs.
    pub clients: usize,
    /// Steps before the faults stop.
    pub steps: u32,
    /// Chance of a fault in a step, in ten-thousandths.
    pub faults_per_10k: u64,
}

/// A simulated group.
pub struct Group {
    plan: Plan,
    random: Random,
    now: Now,
    store: SharedStore,
    bus: Bus,
    members: Vec<Slot>,
    lock: Option<usize>,
    clients: Vec<Client>,
    checker: Checker,
    takeovers: u32,
    full_until: Instant,
}

/// A process of the group.
struct Slot {
    role: Role,
    /// It does nothing before this; it does not know that.
    paused_until: Instant,
    next_lease_check: Instant,
    /// When it last found its epoch to be the newest, as the group knows it.
    confirmed_at: Instant,
    /// How far its wall clock is ahead.
    clock_ahead: Duration,
}

enum Role {
    Down { until: Instant },
    Standby,
    Active(Box<Member>),
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Publishes that were acknowledged.
    pub acked_count: usize,
    /// How often a member became active.
    pub takeovers: u32,
}

const STEAL_AFTER: Duration = Duration::from_secs(5);
const FULL_MAX_MS: u64 = 2_000;
const CLOCK_AHEAD_MAX_MS: u64 = 5_000;
const STEP_MAX_MICROS: u64 = 3_000;
const DOWN_MAX_MS: u64 = 3_000;
const PAUSE_MAX_MS: u64 = 9_000;
const SETTLE_STEPS_MAX: u32 = 40_000;

impl Group {
    /// A group at its start.
    #[must_use]
    pub fn new(plan: Plan, seed: u64) -> Self {
        let now = Now { at: Instant(1_000_000_000), wall: WallTime(1_700_000_000_000_000_000) };
        let slot = |_| Slot {
            role: Role::Standby,
            paused_until: now.at,
            next_lease_check: now.at,
            confirmed_at: now.at,
            clock_ahead: Duration::ZERO,
        };
        Self {
            plan,
            random: Random::new(seed),
            now,
            store: SharedStore::default(),
            bus: Bus::default(),
            members: (0..plan.members).map(slot).collect(),
            lock: None,
            clients: (0..plan.clients).map(|number| Client::new(number, now.at)).collect(),
            checker: Checker::default(),
            takeovers: 0,
            full_until: now.at,
        }
    }

    /// Runs to the end: work under faults, then healing, then the last check.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn run(mut self) -> Outcome {
        for _ in 0..self.plan.steps {
            self.inject_faults();
            self.step();
        }
        self.heal();
        let mut steps = 0;
        while !self.is_settled() {
            self.step();
            steps += 1;
            assert!(steps < SETTLE_STEPS_MAX, "P5: not settled: {:?}", self.first_debt());
        }
        self.checker.check_store(&self.store.messages());
        Outcome { acked_count: self.checker.acked_count(), takeovers: self.takeovers }
    }

    fn first_debt(&self) -> String {
        format!("{:?}", self.checker.first_debt(&self.store.messages()))
    }

    fn is_settled(&self) -> bool {
        self.bus.next_arrival().is_none() && self.checker.owes_nothing(&self.store.messages())
    }

    fn heal(&mut self) {
        for slot in &mut self.members {
            slot.paused_until = self.now.at;
        }
        self.full_until = self.now.at;
        for client in &mut self.clients {
            client.retire();
        }
    }

    fn step(&mut self) {
        self.advance();
        self.elect();
        self.deliver();
        for number in 0..self.members.len() {
            self.run_member(number);
        }
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            let parcels = client.act(self.now.at, &mut self.random, &mut self.checker);
            self.send_to_server(number, parcels);
        }
    }

    /// Time goes on by a little, or to the next thing that is known to happen.
    fn advance(&mut self) {
        let little = Duration::from_micros(1 + self.random.below(STEP_MAX_MICROS));
        self.now = Now { at: self.now.at + little, wall: self.now.wall + little };
        self.store.set_full(self.now.at < self.full_until);
    }

    /// What the clocks of a member show.
    fn clocks_of(&self, number: usize) -> Now {
        Now { wall: self.now.wall + self.members[number].clock_ahead, ..self.now }
    }

    fn inject_faults(&mut self) {
        if self.plan.faults_per_10k <= self.random.below(10_000) {
            return;
        }
        let choice = self.random.below(self.members.len() as u64);
        let number = usize::try_from(choice).unwrap_or(0);
        match self.random.below(6) {
            0 | 1 => self.kill(number),
            2 | 3 => {
                let pause = Duration::from_millis(1 + self.random.below(PAUSE_MAX_MS));
                self.members[number].paused_until = self.now.at + pause;
            }
            // The lock is lost under its holder, as when its file is replaced: another member can
            // begin while the former one's lease still lasts.
            4 => self.lock = None,
            _ => {
                let ahead = Duration::from_millis(self.random.below(CLOCK_AHEAD_MAX_MS));
                self.members[number].clock_ahead = ahead;
                let full = Duration::from_millis(self.random.below(FULL_MAX_MS));
                self.full_until = self.now.at + full;
            }
        }
    }

    fn kill(&mut self, number: usize) {
        let until = self.now.at + Duration::from_millis(1 + self.random.below(DOWN_MAX_MS));
        let slot = &mut self.members[number];
        slot.role = Role::Down { until };
        slot.paused_until = self.now.at;
        if self.lock == Some(number) {
            self.lock = None;
        }
        self.bus.cut(End::Member(number));
    }

    /// The kernel's lock, and stealing it from a member that stood still for too long.
    fn elect(&mut self) {
        let now = self.now.at;
        for slot in &mut self.members {
            if matches!(slot.role, Role::Down { until } if until <= now) {
                slot.role = Role::Standby;
            }
        }
        let is_held = self
            .lock
            .is_some_and(|holder| now.since(self.members[holder].next_lease_check) < STEAL_AFTER);
        if is_held {
            return;
        }
        let can_take = |slot: &Slot| matches!(slot.role, Role::Standby) && slot.paused_until <= now;
        let Some(number) = self.members.iter().position(can_take) else { return };
        let (epoch, recovered) = self.store.take_over(&mut self.random);
        let settings = settings(self.plan.loops);
        let clocks = self.clocks_of(number);
        let member = Member::activate(&settings, epoch, &recovered, &mut self.random, clocks);
        let slot = &mut self.members[number];
        slot.role = Role::Active(Box::new(member));
        slot.next_lease_check = now;
        slot.confirmed_at = now;
        self.lock = Some(number);
        self.takeovers += 1;
    }

    fn run_member(&mut self, number: usize) {
        let now = self.clocks_of(number);
        let slot = &mut self.members[number];
        if now.at < slot.paused_until {
            return;
        }
        let Role::Active(member) = &mut slot.role else { return };
        let epoch = member.epoch();
        member.turn(&mut self.random, now);
        for _ in 0..self.random.below(4) {
            member.work(&mut self.store, &mut self.random, now);
        }
        let outgoing = member.outgoing(now.at);
        // The lease is confirmed after the turn's output, as by a keeper that runs late.
        if slot.next_lease_check <= now.at {
            let has_lock = self.lock == Some(number);
            if !has_lock || !member.confirm_lease(self.store.epoch(), now.at) {
                slot.role = Role::Standby;
                return;
            }
            slot.next_lease_check = now.at + LEASE_BOUND / 4;
        }
        let unconfirmed = now.at.since(slot.confirmed_at);
        assert!(
            outgoing.is_empty() || unconfirmed < LEASE_BOUND,
            "P2: member {number} speaks after {unconfirmed:?} without a look at its lease"
        );
        if epoch == self.store.epoch() {
            slot.confirmed_at = slot.next_lease_check - LEASE_BOUND / 4;
        }
        for (subject, reply, payload) in outgoing {
            let mut bytes = payload.head.to_vec();
            bytes.extend_from_slice(&payload.tail);
            let bytes = bytes.into();
            self.checker.on_sent(epoch, &subject, &bytes);
            self.send_from_server(number, Parcel { subject, reply, payload: bytes });
        }
    }

    fn send_from_server(&mut self, number: usize, parcel: Parcel) {
        let from = End::Member(number);
        let now = self.clocks_of(number);
        let receiver = self.clients.iter().position(|client| client.listens(&parcel.subject));
        if let Some(client) = receiver {
            let way = (from, End::Client(client));
            self.bus.send(way, parcel, self.now.at, &mut self.random);
        } else if let Some(reply) = &parcel.reply
            && let Role::Active(member) = &mut self.members[number].role
        {
            member.nobody_listens(reply, now);
        }
    }

    fn send_to_server(&mut self, client: usize, parcels: Vec<Parcel>) {
        let Some(holder) = self.lock else { return };
        for parcel in parcels {
            let way = (End::Client(client), End::Member(holder));
            self.bus.send(way, parcel, self.now.at, &mut self.random);
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        while let Some((_, to, parcel)) = self.bus.arrived(now.at, &mut self.random) {
            match to {
                End::Member(number) => {
                    let now = self.clocks_of(number);
                    let slot = &mut self.members[number];
                    // What reaches a paused process waits in its sockets.
                    if let Role::Active(member) = &mut slot.role {
                        member.receive(&parcel, now);
                    }
                }
                End::Client(number) => {
                    let client = &mut self.clients[number];
                    if !client.listens(&parcel.subject) {
                        continue;
                    }
                    let answer = client.receive(&parcel, now.at, &mut self.checker);
                    self.send_to_server(number, answer.into_iter().collect());
                }
            }
        }
    }
}

fn settings(loops: u16) -> Settings {
    Settings {
        loops,
        limits: StoreLimits::default().resolve().expect("no section can be wrong"),
        heartbeat_interval: Duration::from_secs(2),
        heartbeat_timeout: Duration::from_millis(500),
        heartbeat_failures_max: 2,
        replace_durable: false,
        inbox_len_max: 1_024,
        subscription_ids_store_wide: false,
        debug: false,
        trace: false,
    }
}
