//! One process of a simulated group: real brokers, engine drivers and store workers, turned by
//! hand.
//!
//! It stands for what `net::reactor`, `server` and the threads of the workers do in production: it
//! moves bytes and mail, in the order of a reactor's turn, and decides nothing. What it is in its
//! group the real member decides; what that asks for is done in `group/electing`.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::base::channel_limits::ResolvedLimits;
use crate::base::epoch::{Epoch, Fence, LeaseClock};
use crate::base::id::{LoopIndex, SessionId};
use crate::base::pulse::Pulse;
use crate::base::random::Random;
use crate::base::time::{Instant, Now};
use crate::broker::{self, Broker, ConnectionKind, Credit, Discovery, Effect, Flow, Hello, Input};
use crate::election::group::Group;
use crate::election::{Member, Role, heartbeat};
use crate::engine::recovery::{self, DISCOVER_PREFIX};
use crate::engine::{self, Engine};
use crate::net::driver::{Driver, Outcome};
use crate::server::activation;
use crate::server::engine_driver::{Activation, EngineDriver, Mail};
use crate::server::event::{self, Event};
use crate::server::interest_key::Listener;
use crate::store::Opened;
use crate::store::worker::{self, Unthreaded, Worker, WorkerSettings};
use crate::testing::checker::{Said, Seen};
use crate::testing::leases::{Keeper, Locks, SimulatedFence, server_id};
use crate::testing::memory_disk::ProcessId;
use crate::testing::wires::{End, Node, Wires};

/// The cluster ID of simulated groups.
pub const CLUSTER_ID: &str = "test-cluster";

/// Most sockets' worth of bytes that one write takes.
const WRITE_BYTES_MAX: usize = 32 * 1024;

/// The fault-tolerance group that all of its members name.
const GROUP: &str = "simulated";

/// One life of a member.
pub struct Process {
    /// Which life.
    pub id: ProcessId,
    /// Which member.
    pub number: usize,
    /// Decides what it is in its group.
    pub member: Member,
    /// What it has said of itself.
    pub said: Said,
    /// Of the lease that was won last.
    pub fence: Option<Arc<SimulatedFence>>,
    /// What waits for the lease.
    pub keeper: Keeper,
    /// When it knows whether it is alone, in which term.
    pub alone_at: Option<(u64, Instant)>,
    /// It takes no more clients, and those that are there go then.
    pub closed_at: Option<Instant>,
    /// By loop, while it is active: what owns the store. One is away while it works.
    pub workers: Vec<Option<(u64, Unthreaded)>>,
    /// A job of it is on the stack: nothing else of its store runs.
    pub is_busy: bool,
    /// What was recovered, until its engines are in their loops.
    recovered: Vec<Activation>,
    /// The way to workers whose engines are gone.
    ending: Vec<Worker>,
    /// The end of the store's threads is waited for, of this term.
    awaited: Option<u64>,
    lease: LeaseClock,
    loops: Vec<Loop>,
    events: Receiver<Event>,
}

/// What a loop wants of others.
pub enum Wish {
    /// Something lies in the mailbox of another loop.
    Mail(LoopIndex, Box<Letter>),
    /// A route.
    Dial {
        /// `host:port`.
        url: String,
        /// Whether it is configured.
        is_explicit: bool,
    },
}

/// What lies in a loop's mailbox.
pub enum Letter {
    /// From the broker of another loop.
    Broker(broker::Mail),
    /// For the driver.
    Driver(Mail),
}

struct Socket {
    end: End,
    input: BytesMut,
    is_arrived: bool,
    is_over: bool,
    is_paused: bool,
    is_closing: bool,
    is_route: bool,
}

struct Loop {
    home: LoopIndex,
    loop_count: u16,
    broker: Broker,
    driver: EngineDriver,
    mail: VecDeque<Letter>,
    reports: Receiver<Mail>,
    reports_in: Sender<Mail>,
    sockets: BTreeMap<SessionId, Socket>,
    sessions: BTreeMap<End, SessionId>,
    generation: u32,
    unsent: Vec<SessionId>,
    wishes: Vec<Wish>,
}

/// What a turn of a process works on.
pub struct Ground<'a> {
    /// The network.
    pub wires: &'a mut Wires,
    /// For delays.
    pub random: &'a mut Random,
    /// The process's own clocks.
    pub now: Now,
    /// Whether nobody else has the right to answer clients.
    pub may_answer: bool,
    /// It has answered all the same.
    pub has_answered_late: bool,
}

impl Process {
    /// A process that has just started.
    #[must_use]
    pub fn new(
        (number, id): (usize, ProcessId),
        (loops, members): (u16, usize),
        locks: &Locks,
        random: &mut Random,
        now: Now,
    ) -> Self {
        let lease = LeaseClock::default();
        let (events_in, events) = event::queue();
        let settings = Arc::new(broker_settings(number, id, loops, members));
        let make = |index| {
            let home = LoopIndex(index);
            let (reports_in, reports) = unbounded();
            Loop {
                home,
                loop_count: loops,
                broker: Broker::new(Arc::clone(&settings), home, random.next_u64(), now),
                driver: EngineDriver::new(home, loops, events_in.clone()),
                mail: VecDeque::new(),
                reports,
                reports_in,
                sockets: BTreeMap::new(),
                sessions: BTreeMap::new(),
                generation: 0,
                unsent: Vec::new(),
                wishes: Vec::new(),
            }
        };
        let own: Vec<Loop> = (0..loops).map(make).collect();
        let group = (1 < members).then(|| Group::new(CLUSTER_ID, GROUP, &server_id(id), random));
        let mut process = Self {
            id,
            number,
            member: Member::new(loops, group),
            said: Said::default(),
            fence: None,
            keeper: Keeper::new(id, locks.clone(), lease.clone(), now.at),
            alone_at: None,
            closed_at: None,
            workers: own.iter().map(|_| None).collect(),
            is_busy: false,
            recovered: Vec::new(),
            ending: Vec::new(),
            awaited: None,
            lease,
            loops: own,
            events,
        };
        if process.member.is_in_group() {
            let subject = heartbeat::subject(CLUSTER_ID, GROUP);
            process.post(0, Mail::Listen { subject, listener: Listener::GroupHeartbeat });
        }
        process
    }

    /// Whether it serves clients, or is about to.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        match self.member.role() {
            Role::Probing { .. }
            | Role::Opening { .. }
            | Role::Settling { .. }
            | Role::Active { .. } => true,
            Role::Standby
            | Role::Recovering { .. }
            | Role::Draining { .. }
            | Role::Leaving { .. }
            | Role::Ended => false,
        }
    }

    /// What somebody sees who asks it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen { number: self.number, role: self.member.role(), said: self.said }
    }

    /// Whether no thread of its store runs: only then it may take the lease.
    #[must_use]
    pub fn may_take_lease(&self) -> bool {
        !self.is_busy && self.workers.iter().all(Option::is_none)
    }

    /// How many loops it has.
    #[must_use]
    pub fn loop_count(&self) -> u16 {
        u16::try_from(self.loops.len()).unwrap_or(1)
    }

    /// A connection was made to, or by, one of its loops.
    pub fn accept(&mut self, end: End, home: LoopIndex, kind: ConnectionKind, now: Now) {
        self.loops[home.index()].open(end, kind, now);
    }

    /// A route was not made.
    pub fn dial_failed(&mut self, url: &str, now: Now) {
        let (url, reason) = (url.to_owned(), "connection refused".to_owned());
        self.loops[0].broker.handle(Input::DialFailed { url, reason }, now);
    }

    /// One turn of one loop; gives the routes that it wants.
    pub fn turn(&mut self, index: usize, ground: &mut Ground) -> Vec<(String, bool)> {
        let node = Node::Member(self.number);
        self.loops[index].turn(node, &self.lease, ground);
        let mut dials = Vec::new();
        for wish in std::mem::take(&mut self.loops[index].wishes) {
            match wish {
                Wish::Mail(to, letter) => self.loops[to.index()].mail.push_back(*letter),
                Wish::Dial { url, is_explicit } => dials.push((url, is_explicit)),
            }
        }
        dials
    }

    /// Makes engines and store workers of what was opened under its lease; none of them speaks yet.
    ///
    /// # Panics
    /// When the store is of another cluster: the simulation made it.
    pub fn recover(
        &mut self,
        (term, fence): (u64, &dyn Fence),
        opened: Opened,
        settings: &engine::Settings,
        random: &mut Random,
        now: Now,
    ) {
        let loops = self.loop_count();
        let server = opened.recovered.server.clone();
        let info = recovery::server_info(server, CLUSTER_ID, DISCOVER_PREFIX);
        let info = info.expect("the simulation has one cluster");
        let starts = activation::starts(loops, opened.recovered, &info, random);
        for (start, share) in starts.into_iter().zip(opened.shares) {
            let index = start.index.index();
            let mailbox = self.loops[index].reports_in.clone();
            let report = move |report| {
                // A loop that is gone needs no reports.
                let _ = mailbox.send(Mail::Report { term, report });
            };
            let settings_of_worker = WorkerSettings {
                name: String::new(),
                epoch: fence.epoch(),
                loops,
                pulse: Arc::new(Pulse::default()),
                meters: Arc::default(),
            };
            let (worker, unthreaded) = worker::unthreaded(share, settings_of_worker, report);
            self.workers[index] = Some((term, unthreaded));
            let engine = Engine::recover(settings.clone(), start, now);
            self.recovered.push(Activation { term, epoch: fence.epoch(), engine, worker });
        }
    }

    /// Gives each loop its engine.
    pub fn activate(&mut self) {
        for (index, activation) in std::mem::take(&mut self.recovered).into_iter().enumerate() {
            self.post(index, Mail::Activate(Box::new(activation)));
        }
    }

    /// Puts something into the mailbox of a loop.
    pub fn post(&mut self, index: usize, mail: Mail) {
        self.loops[index].mail.push_back(Letter::Driver(mail));
    }

    /// Puts something into the mailbox of each loop.
    pub fn post_all(&mut self, mail: impl Fn() -> Mail) {
        (0..self.loops.len()).for_each(|index| self.post(index, mail()));
    }

    /// The engine of a loop is gone; its worker ends when that is waited for.
    pub fn on_engine_gone(&mut self, worker: Option<Worker>) {
        self.ending.extend(worker);
    }

    /// The threads of its store end as soon as they are in no call any more.
    pub fn await_store(&mut self, term: u64) {
        self.recovered.clear();
        self.ending.clear();
        self.workers.iter_mut().for_each(|worker| *worker = None);
        self.awaited = Some(term);
    }

    /// The term whose threads were waited for, if they have ended.
    pub fn take_left(&mut self) -> Option<u64> {
        if self.may_take_lease() { self.awaited.take() } else { None }
    }

    /// A worker comes back from a call.
    pub fn on_worked(&mut self, index: usize, worker: Option<(u64, Unthreaded)>) {
        self.is_busy = false;
        self.workers[index] = worker.filter(|_| self.awaited.is_none());
    }

    /// Gives the lease of an epoch back, if it is still held.
    pub fn release(&mut self, epoch: Epoch, is_clean: bool, next_look: Instant) {
        if self.keeper.epoch() == Some(epoch) {
            self.keeper.drop_lease(is_clean, next_look);
        }
    }

    /// Clients are told to go elsewhere.
    pub fn see_off(&mut self, until: Instant, now: Now) {
        self.closed_at = Some(until);
        for own in &mut self.loops {
            own.broker.handle(Input::LameDuck, now);
            own.drain(now);
        }
    }

    /// Those that are still there are sent away.
    pub fn close_clients(&mut self) {
        for own in &mut self.loops {
            for (session, socket) in own.sockets.iter_mut().filter(|(_, it)| !it.is_route) {
                socket.is_closing = true;
                own.unsent.push(*session);
            }
        }
    }

    /// What the drivers told the server's own thread.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

impl Loop {
    fn open(&mut self, end: End, kind: ConnectionKind, now: Now) {
        self.generation += 1;
        let used: Vec<u32> = self.sockets.keys().map(|session| session.slot).collect();
        let slot = (0..).find(|slot| !used.contains(slot)).unwrap_or(u32::MAX);
        let session = SessionId { home: self.home, slot, generation: self.generation };
        let port = 10_000 + u16::try_from(end.connection % 50_000).unwrap_or(0);
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let socket = Socket {
            end,
            input: BytesMut::new(),
            is_arrived: false,
            is_over: false,
            is_paused: false,
            is_closing: false,
            is_route: !matches!(kind, ConnectionKind::Client),
        };
        self.sockets.insert(session, socket);
        self.sessions.insert(end, session);
        let hello = Hello { peer, kind };
        self.broker.handle(Input::Opened { session, hello }, now);
        self.drain(now);
    }

    fn turn(&mut self, node: Node, lease: &LeaseClock, ground: &mut Ground) {
        let now = ground.now;
        self.read(node, ground);
        self.take_mail(now);
        self.handle_arrived(now, ground.wires);
        self.driver.end_of_turn(now);
        self.drain(now);
        while let Some(session) = self.broker.poll_dirty() {
            self.unsent.push(session);
        }
        self.write(lease, ground);
        if self.broker.next_deadline().is_some_and(|at| at <= now.at) {
            self.broker.handle_timeout(now);
        }
        if self.driver.next_deadline().is_some_and(|at| at <= now.at) {
            self.driver.handle_timeout(now);
        }
        self.drain(now);
    }

    fn read(&mut self, node: Node, ground: &mut Ground) {
        for end in ground.wires.of_loop(node, self.home) {
            let Some(session) = self.sessions.get(&end) else { continue };
            let Some(socket) = self.sockets.get_mut(session) else { continue };
            if socket.is_paused {
                continue;
            }
            let arrived = ground.wires.receive(end, ground.now.at, ground.random);
            socket.is_over |= arrived.is_over;
            socket.is_arrived |= arrived.is_over || !arrived.bytes.is_empty();
            arrived.bytes.iter().for_each(|bytes| socket.input.extend_from_slice(bytes));
        }
        let gone =
            self.sockets.values_mut().filter(|socket| ground.wires.peer(socket.end).is_none());
        for socket in gone {
            socket.is_over = true;
            socket.is_arrived = true;
        }
    }

    fn take_mail(&mut self, now: Now) {
        let reports = self.reports.try_iter().map(Letter::Driver);
        self.mail.extend(reports);
        for _ in 0..self.mail.len() {
            match self.mail.pop_front() {
                Some(Letter::Broker(mail)) => self.broker.handle(Input::Mail(mail), now),
                Some(Letter::Driver(mail)) => self.driver.on_mail(mail, now),
                None => break,
            }
            self.drain(now);
        }
    }

    fn handle_arrived(&mut self, now: Now, wires: &mut Wires) {
        let arrived: Vec<SessionId> =
            self.sockets.iter().filter(|(_, s)| s.is_arrived).map(|(id, _)| *id).collect();
        self.broker.share_turn(arrived.len());
        for session in arrived {
            let Some(socket) = self.sockets.get_mut(&session) else { continue };
            socket.is_arrived = false;
            let flow = if socket.input.is_empty() || socket.is_closing {
                Flow::NeedMore
            } else {
                self.broker.read(session, &mut socket.input, now)
            };
            match flow {
                Flow::NeedMore if socket.is_over => self.finish(session, now, wires),
                Flow::NeedMore => (),
                Flow::Paused => socket.is_paused = true,
                Flow::Yielded => socket.is_arrived = true,
                Flow::StartTls | Flow::Close => socket.is_closing = true,
            }
            self.drain(now);
        }
    }

    fn finish(&mut self, session: SessionId, now: Now, wires: &mut Wires) {
        if let Some(socket) = self.sockets.remove(&session) {
            self.sessions.remove(&socket.end);
            wires.close(socket.end);
            let reason = "Client Closed".to_owned();
            self.broker.handle(Input::Closed { session, reason }, now);
        }
    }

    fn write(&mut self, lease: &LeaseClock, ground: &mut Ground) {
        for session in std::mem::take(&mut self.unsent) {
            let Some(socket) = self.sockets.get(&session) else { continue };
            let (end, is_closing, is_route) = (socket.end, socket.is_closing, socket.is_route);
            let Some(outbox) = self.broker.outbox(session) else { continue };
            let mut slices = Vec::new();
            outbox.slices(lease.is_valid(ground.now.at), &mut slices);
            let room = ground.wires.room(end).min(WRITE_BYTES_MAX);
            let bytes = first(&slices, room);
            outbox.advance(bytes.len());
            let is_rest = !outbox.is_empty();
            let has_written = !bytes.is_empty();
            ground.has_answered_late |= is_route && !ground.may_answer && answers(&bytes);
            if has_written {
                ground.wires.send(end, bytes, ground.now.at, ground.random);
                self.broker.wrote(session);
            }
            if is_closing && (!is_rest || !has_written) {
                self.finish(session, ground.now, ground.wires);
            } else if is_rest {
                self.unsent.push(session);
            }
        }
        let closing = self.sockets.iter().filter(|(_, socket)| socket.is_closing);
        for session in closing.map(|(session, _)| *session).collect::<Vec<_>>() {
            if self.broker.outbox(session).is_none_or(|outbox| outbox.is_empty()) {
                self.finish(session, ground.now, ground.wires);
            }
        }
    }

    /// Performs what broker and driver ask for, in the order of a reactor: what the broker makes
    /// of one outcome of the driver goes before the driver's next.
    fn drain(&mut self, now: Now) {
        loop {
            while let Some(effect) = self.broker.poll_effect() {
                self.perform(effect, now);
            }
            match self.driver.poll_outcome() {
                Some(outcome) => self.perform_outcome(outcome, now),
                None => return,
            }
        }
    }

    fn perform(&mut self, effect: Effect, now: Now) {
        match effect {
            Effect::ToEngine(delivery) => self.driver.on_delivery(delivery, now),
            Effect::NoResponders { reply } => self.driver.on_no_responders(reply, now),
            Effect::Room { key, has_room } => self.driver.on_room(key, has_room, now),
            Effect::Mail { to, mail } => {
                self.wishes.push(Wish::Mail(to, Box::new(Letter::Broker(mail))));
            }
            Effect::Close { session, .. } => {
                if let Some(socket) = self.sockets.get_mut(&session) {
                    socket.is_closing = true;
                    self.unsent.push(session);
                }
            }
            Effect::Resume { session } => {
                if let Some(socket) = self.sockets.get_mut(&session) {
                    socket.is_paused = false;
                    socket.is_arrived = true;
                }
            }
            Effect::Dial { url, is_explicit } => self.wishes.push(Wish::Dial { url, is_explicit }),
            Effect::Flushed { token } => self.driver.on_flushed(token),
            Effect::Through { token } => self.driver.on_through(token),
            Effect::Outflown { token } => self.driver.on_outflown(token),
            Effect::DialUpstream { .. } | Effect::Upstream(_) => {
                unreachable!("there is no external server here")
            }
            // Nobody has a password here, and the log is for people.
            Effect::Verify { .. } | Effect::Log { .. } => (),
        }
    }

    fn perform_outcome(&mut self, outcome: Outcome<Mail>, now: Now) {
        match outcome {
            Outcome::Broker(input) => {
                let is_gone = matches!(input, Input::EngineGone);
                self.broker.handle(input, now);
                if is_gone {
                    self.free_publishers(now);
                }
            }
            Outcome::Mail { to, mail } => {
                self.wishes.push(Wish::Mail(to, Box::new(Letter::Driver(mail))));
            }
        }
    }

    /// No engine is left that could give a credit.
    fn free_publishers(&mut self, now: Now) {
        for engine in (0..self.loop_count).map(LoopIndex) {
            for credit in [Credit::Messages, Credit::Requests] {
                self.broker.handle(Input::Pressure { engine, credit, is_high: false }, now);
            }
        }
    }
}

/// Whether these bytes of a route bring something of an engine to a client: nobody else speaks to
/// the inboxes of clients, and nothing is passed on from one route to another.
fn answers(bytes: &[u8]) -> bool {
    let begin = b"RMSG $G _INBOX.c";
    memchr::memmem::find_iter(bytes, begin).any(|at| {
        // Inboxes of servers have no number and point there.
        let rest = &bytes[at + begin.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (1..3).contains(&digits) && rest.get(digits) == Some(&b'.')
    })
}

/// The first bytes of what waits, at most so many.
fn first(slices: &[IoSlice<'_>], len_max: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    for slice in slices {
        let len = slice.len().min(len_max - bytes.len());
        bytes.extend_from_slice(&slice[..len]);
    }
    bytes.freeze()
}

fn broker_settings(number: usize, id: ProcessId, loops: u16, members: usize) -> broker::Settings {
    let others = (0..members).filter(|other| *other != number);
    broker::Settings {
        loops,
        server_name: format!("m{number}"),
        server_id: server_id(id),
        cluster: Some(broker::settings::Cluster {
            name: "simulated".to_owned(),
            host: format!("m{number}"),
            routes: others.map(url_of).collect(),
            ..broker::settings::Cluster::default()
        }),
        discovery: Some(Discovery {
            prefix: DISCOVER_PREFIX.to_owned(),
            cluster_id: CLUSTER_ID.to_owned(),
            is_alone: false,
        }),
        group: if 1 < members { format!("{CLUSTER_ID}/{GROUP}") } else { String::new() },
        ..broker::Settings::default()
    }
}

/// Where the routes of a member end.
#[must_use]
pub fn url_of(number: usize) -> String {
    format!("m{number}:6222")
}

/// What engines are told.
#[must_use]
pub fn engine_settings(loops: u16, limits: &ResolvedLimits, seed: u64) -> engine::Settings {
    use std::time::Duration;
    let tells_all = seed.is_multiple_of(4);
    engine::Settings {
        loops,
        limits: limits.clone(),
        heartbeat_interval: Duration::from_millis(700),
        heartbeat_timeout: Duration::from_millis(400),
        heartbeat_failures_max: 2,
        replace_durable: false,
        inbox_len_max: 1_024,
        subscription_ids_store_wide: false,
        partition: None,
        message_overhead_max: 0,
        gathers_first: seed % 4 == 3,
        debug: tells_all,
        trace: tells_all,
    }
}
