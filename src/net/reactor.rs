//! One core's loop: the eight steps of a turn
//!
//! 1. poll
//! 2. read: bytes of all ready sockets first, *then* the mailbox, and only then what the bytes
//!    say. So an interest that another loop mailed before its subscriber could tell anybody is
//!    always seen before the publish of whom it told.
//! 3. logic: broker and driver
//! 4. drain effects
//! 5. hand over staged work
//! 6. write
//! 7. due deadlines
//! 8. sleep until the earliest deadline (the poll of the next turn)
//!
//! Effects are performed in the order in which they arose, across broker and driver.

mod opening;
mod reading;
mod writing;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll};

use crate::base::deadlines::Deadlines;
use crate::base::epoch::LeaseClock;
use crate::base::id::{LoopIndex, SessionId};
use crate::base::pulse::Pulse;
use crate::base::random::Random;
use crate::base::time::{Instant, Now};
use crate::base::world;
use crate::broker::{Broker, ConnectionKind, Effect, Input};
use crate::net::connection::{Connection, ReadPool};
use crate::net::control::{Control, Mail, Rules};
use crate::net::dial::Resolver;
use crate::net::driver::{Driver, Outcome};
use crate::net::listener::Listener;
use crate::net::mailbox::{Receiver, Sender};
use crate::net::passwords::{Passwords, Question, Secret};
use crate::net::token::{self, Place, Table};

/// Events taken in one turn; what is beyond waits in the kernel.
const EVENTS_PER_TURN: usize = 1024;
/// How soon a loop looks again whether another loop's mailbox has room.
const HELD_RETRY: Duration = Duration::from_millis(1);
/// How soon a loop looks again whether the lease that its answers wait for is confirmed.
const LEASE_RETRY: Duration = Duration::from_millis(5);
/// The longest sleep, so that a deadline that nobody armed could do no lasting harm.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// A port that this loop accepts from.
pub struct Port {
    /// The port.
    pub listener: Listener,
    /// What comes from it.
    pub kind: ConnectionKind,
    /// By which events name it.
    pub token: mio::Token,
    is_ready: bool,
}

impl Port {
    /// A port for connections of `kind`.
    #[must_use]
    pub fn new(listener: Listener, kind: ConnectionKind, token: mio::Token) -> Self {
        Self { listener, kind, token, is_ready: false }
    }
}

/// What has a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A connection is to be made until then.
    Dial(Place),
    /// The handshake of a route is to be done until then.
    Handshake(Place),
    /// A connection that is being closed has time until then.
    Flush(Place),
    /// Accepting works again, perhaps.
    Accept(usize),
    /// The loop ends.
    Stop,
}

/// What a reactor is made of.
pub struct Parts<D: Driver> {
    /// Its number.
    pub home: LoopIndex,
    /// Its poll, in which its mailbox is registered.
    pub poll: Poll,
    /// Its mailbox.
    pub mailbox: Receiver<Mail<D::Mail>>,
    /// Beats where a turn begins.
    pub pulse: Arc<Pulse>,
    /// The mailboxes of all loops, its own included.
    pub peers: Vec<Sender<Mail<D::Mail>>>,
    /// Its broker.
    pub broker: Broker,
    /// What it drives.
    pub driver: D,
    /// Until when answers may leave.
    pub lease: LeaseClock,
    /// How connections are treated.
    pub rules: Arc<Rules>,
    /// The ports that it accepts from.
    pub ports: Vec<Port>,
    /// For names of routes.
    pub resolver: Resolver,
    /// For passwords that are known as hashes.
    pub passwords: Passwords,
    /// Our own port for routes.
    pub own_route_port: Option<u16>,
    /// For choices that must not be the same everywhere.
    pub seed: u64,
}

/// One event loop with the connections that it owns.
pub struct Reactor<D: Driver> {
    home: LoopIndex,
    poll: Poll,
    mailbox: Receiver<Mail<D::Mail>>,
    pulse: Arc<Pulse>,
    peers: Vec<Sender<Mail<D::Mail>>>,
    broker: Broker,
    driver: D,
    lease: LeaseClock,
    rules: Arc<Rules>,
    ports: Vec<Port>,
    resolver: Resolver,
    passwords: Passwords,
    own_route_port: Option<u16>,
    /// Further addresses of the external server that is being dialled, and how long each may take.
    upstream_addresses: Vec<SocketAddr>,
    upstream_patience: Duration,
    random: Random,
    now: Now,
    table: Table<Connection>,
    /// Connections that a read may bring something of, in the order of their turns.
    ready: VecDeque<Place>,
    /// Those of them whose TLS handshake is to go on. That computes for as long as thousands of
    /// messages take, for anybody who asks: so it is one in each turn.
    greeting: VecDeque<Place>,
    /// Connections with bytes to handle, or with an end to be met.
    arrived: VecDeque<Place>,
    /// Connections with bytes to write.
    unsent: Vec<Place>,
    /// Connections whose next bytes wait for the lease.
    leaseless: Vec<Place>,
    timers: Deadlines<Timer>,
    pool: ReadPool,
    slices: Vec<IoSlice<'static>>,
    /// Loops that got mail and were not woken yet.
    posted: Vec<bool>,
    /// Which loop owns the next accepted connection.
    next_home: usize,
    /// Another loop's mailbox is full: nothing is read.
    is_held: bool,
    /// Something happened after its step of the turn: do not sleep.
    is_pressed: bool,
    is_stopping: bool,
}

impl<D: Driver> Reactor<D> {
    /// A loop without connections.
    ///
    /// # Errors
    /// When its ports cannot be polled.
    pub fn new(mut parts: Parts<D>) -> io::Result<Self> {
        for port in &mut parts.ports {
            let interest = mio::Interest::READABLE;
            parts.poll.registry().register(port.listener.source(), port.token, interest)?;
        }
        let loops = parts.peers.len();
        Ok(Self {
            home: parts.home,
            poll: parts.poll,
            mailbox: parts.mailbox,
            pulse: parts.pulse,
            peers: parts.peers,
            broker: parts.broker,
            driver: parts.driver,
            lease: parts.lease,
            rules: parts.rules,
            ports: parts.ports,
            resolver: parts.resolver,
            passwords: parts.passwords,
            own_route_port: parts.own_route_port,
            upstream_addresses: Vec::new(),
            upstream_patience: Duration::ZERO,
            random: Random::new(parts.seed),
            now: world::now(),
            table: Table::default(),
            ready: VecDeque::new(),
            greeting: VecDeque::new(),
            arrived: VecDeque::new(),
            unsent: Vec::new(),
            leaseless: Vec::new(),
            timers: Deadlines::default(),
            pool: ReadPool::default(),
            slices: Vec::new(),
            posted: vec![false; loops],
            next_home: 0,
            is_held: false,
            is_pressed: true,
            is_stopping: false,
        })
    }

    /// Turns until it is told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !(self.is_stopping && self.table.is_empty()) {
            self.turn(&mut events);
        }
    }

    fn turn(&mut self, events: &mut Events) {
        // 8 (of the turn before) and 1.
        self.poll(events);
        // 2: bytes, then mail, then what the bytes say, which is 3 and 4.
        self.accept();
        self.read();
        self.take_mail();
        self.handle_arrived();
        // 5.
        self.driver.end_of_turn(self.now);
        self.drain_effects();
        self.wake_peers();
        // 6.
        self.collect_dirty();
        self.write();
        // 7.
        self.handle_timeouts();
        self.wake_peers();
    }

    fn poll(&mut self, events: &mut Events) {
        let timeout = self.sleep_time(world::instant());
        self.is_pressed = false;
        self.pulse.rest();
        match self.poll.poll(events, Some(timeout)) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            Err(error) => panic!("a reactor cannot go on without its poll: {error}"),
        }
        self.now = world::now();
        self.pulse.beat(self.now.at);
        for event in events.iter() {
            match event.token() {
                token::MAILBOX => (),
                token::CLIENT_LISTENER | token::ROUTE_LISTENER => {
                    let ports = self.ports.iter_mut();
                    for port in ports.filter(|port| port.token == event.token()) {
                        port.is_ready = true;
                    }
                }
                other => self.on_event(Place::from_token(other), event),
            }
        }
    }

    fn on_event(&mut self, place: Place, event: &mio::event::Event) {
        let Some(connection) = self.table.get_mut(place) else {
            return;
        };
        let was_writable = connection.can_write();
        connection.on_event(event);
        let is_writable = connection.can_write();
        if connection.is_connecting() {
            self.on_dialled(place);
        } else if is_writable && !was_writable {
            self.mark_unsent(place);
        }
        self.mark_ready(place);
    }

    fn sleep_time(&self, now: Instant) -> Duration {
        let has_readers = !self.ready.is_empty() || !self.greeting.is_empty();
        let has_work = self.is_pressed
            || (!self.arrived.is_empty() && !self.is_held)
            || !self.unsent.is_empty()
            || self.ports.iter().any(|port| port.is_ready)
            || (has_readers && !self.is_held);
        if has_work {
            return Duration::ZERO;
        }
        let deadlines = [
            self.broker.next_deadline(),
            self.driver.next_deadline(),
            self.timers.next_deadline(),
            self.is_held.then(|| now + HELD_RETRY),
            (!self.leaseless.is_empty()).then(|| now + LEASE_RETRY),
        ];
        let earliest = deadlines.into_iter().flatten().min();
        earliest.map_or(SLEEP_MAX, |at| at.since(now).min(SLEEP_MAX))
    }

    fn mark_ready(&mut self, place: Place) {
        if let Some(connection) = self.table.get_mut(place)
            && connection.can_read()
            && !mem::replace(&mut connection.notes.is_ready, true)
        {
            self.ready.push_back(place);
        }
    }

    fn mark_arrived(&mut self, place: Place) {
        if let Some(connection) = self.table.get_mut(place)
            && !mem::replace(&mut connection.notes.is_arrived, true)
        {
            self.arrived.push_back(place);
        }
    }

    fn mark_unsent(&mut self, place: Place) {
        if let Some(connection) = self.table.get_mut(place)
            && !mem::replace(&mut connection.notes.is_unsent, true)
        {
            self.unsent.push(place);
        }
    }

    /// Takes all mail that there is now; what comes meanwhile waits for the next turn.
    fn take_mail(&mut self) {
        for _ in 0..self.mailbox.open() {
            match self.mailbox.take() {
                Some(Mail::Broker(mail)) => self.broker.handle(Input::Mail(mail), self.now),
                Some(Mail::Driver(mail)) => self.driver.on_mail(mail, self.now),
                Some(Mail::Control(control)) => self.on_control(control),
                None => break,
            }
            self.drain_effects();
        }
    }

    fn on_control(&mut self, control: Control) {
        match control {
            Control::Adopt { newcomer, kind } => self.adopt(newcomer, kind),
            Control::Found { route, found } => self.on_found(route, found),
            Control::Verified { session, hash, is_right } => {
                let input = Input::Verified { session, hash, is_right };
                self.broker.handle(input, self.now);
            }
            Control::List { wanted, from, done } => {
                let (part, next) = self.broker.list(self.now, &wanted, from);
                done(part, next);
            }
            Control::Clients { done } => done(self.broker.clients()),
            Control::RouteSearch { done } => done(self.broker.route_search()),
            Control::Settings(settings) => {
                self.broker.handle(Input::Settings(settings), self.now);
            }
            Control::EnterLameDuck => self.broker.handle(Input::LameDuck, self.now),
            Control::Close { session, reason } if session.home == self.home => {
                self.begin_close(session.into(), reason);
            }
            Control::Close { .. } => (),
            Control::Reload(rules) => self.rules = rules,
            Control::StopAccepting => {
                self.ports.retain(|port| port.kind != ConnectionKind::Client);
            }
            Control::Stop { flush_for } => self.on_stop(flush_for),
        }
    }

    /// Performs what broker and driver ask for, in the order in which it arose: what the broker
    /// makes of one outcome of the driver goes before the driver's next.
    fn drain_effects(&mut self) {
        loop {
            while let Some(effect) = self.broker.poll_effect() {
                self.perform(effect);
            }
            match self.driver.poll_outcome() {
                Some(outcome) => self.perform_outcome(outcome),
                None => return,
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ToEngine(delivery) => self.driver.on_delivery(delivery, self.now),
            Effect::NoResponders { reply } => self.driver.on_no_responders(reply, self.now),
            Effect::Room { key, has_room } => self.driver.on_room(key, has_room, self.now),
            Effect::Mail { to, mail } => self.send(to, Mail::Broker(mail)),
            Effect::Close { session, flush: true } => self.begin_close(session.into(), CLOSED),
            Effect::Close { session, flush: false } => self.finish(session.into(), CLOSED),
            Effect::Resume { session } => self.resume(session.into()),
            Effect::Dial { url, is_explicit } => {
                self.dial(ConnectionKind::RouteSolicited { url, is_explicit });
            }
            Effect::DialUpstream { address, tls_name } => {
                self.dial(ConnectionKind::Upstream { address, tls_name });
            }
            Effect::Upstream(news) => self.driver.on_upstream(news),
            Effect::Flushed { token } => self.driver.on_flushed(token),
            Effect::Through { token } => self.driver.on_through(token),
            Effect::Outflown { token } => self.driver.on_outflown(token),
            Effect::Verify { session, on_behalf, password, hash, asked } => {
                self.verify(session, Secret { on_behalf, password, hash, asked });
            }
            Effect::Log { level, text } => log::log!(level, "{text}"),
        }
    }

    /// Has a password looked at elsewhere.
    fn verify(&mut self, session: SessionId, secret: Secret) {
        let mailbox = self.peers[self.home.index()].clone();
        let hash = secret.hash.clone();
        let answer = move |is_right| {
            // Nobody is left to be told when the loop has ended meanwhile.
            let told = Control::Verified { session, hash, is_right };
            let _has_reader = mailbox.send(Mail::Control(told));
        };
        self.passwords.ask(Question { secret, answer: Box::new(answer) });
    }

    fn perform_outcome(&mut self, outcome: Outcome<D::Mail>) {
        match outcome {
            Outcome::Broker(input) => {
                let is_gone = matches!(input, Input::EngineGone);
                self.broker.handle(input, self.now);
                if is_gone {
                    self.on_engine_gone();
                }
            }
            Outcome::Mail { to, mail } => self.send(to, Mail::Driver(mail)),
        }
    }

    /// Hands mail over at once, so that order holds across all targets, and wakes each target
    /// once, when the turn's work is handed over.
    fn send(&mut self, to: LoopIndex, mail: Mail<D::Mail>) {
        let (Some(peer), Some(posted)) =
            (self.peers.get(to.index()), self.posted.get_mut(to.index()))
        else {
            unreachable!("mail for loop {} of {}", to.0, self.peers.len());
        };
        // A loop that has ended needs no mail: the process is stopping.
        *posted |= peer.post(mail);
    }

    fn wake_peers(&mut self) {
        let both = self.peers.iter().zip(&mut self.posted).enumerate();
        for (index, (peer, posted)) in both.filter(|(_, (_, posted))| **posted) {
            *posted = false;
            if index == self.home.index() {
                self.is_pressed = true;
            } else {
                peer.wake();
            }
        }
    }

    fn resume(&mut self, place: Place) {
        if let Some(connection) = self.table.get_mut(place) {
            connection.notes.is_paused = false;
            self.mark_arrived(place);
            self.mark_ready(place);
        }
    }

    fn collect_dirty(&mut self) {
        while let Some(session) = self.broker.poll_dirty() {
            self.mark_unsent(session.into());
        }
    }

    fn handle_timeouts(&mut self) {
        let now = self.now;
        while let Some(timer) = self.timers.pop_due(now.at) {
            self.on_timer(timer);
            self.is_pressed = true;
        }
        if self.broker.next_deadline().is_some_and(|at| at <= now.at) {
            self.broker.handle_timeout(now);
            self.is_pressed = true;
        }
        if self.driver.next_deadline().is_some_and(|at| at <= now.at) {
            self.driver.handle_timeout(now);
            self.is_pressed = true;
        }
        if self.is_pressed {
            self.drain_effects();
        }
    }

    fn session(&self, place: Place) -> SessionId {
        place.session(self.home)
    }
}

/// The reason where the broker asked for the end, and so knows better.
const CLOSED: &str = "Client Closed";
/// The reason where a handshake failed.
const TLS_FAILURE: &str = "TLS Handshake Failure";

#[cfg(test)]
mod tests;
