//! Lame duck mode of the core server: clients are sent away one by one, then the server stops
//!
//! Facts: spec core NATS, 18.4.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::id::SessionId;
use crate::base::time::Instant;
use crate::base::world;
use crate::election::input::Input;
use crate::log::CORE;
use crate::net::Control;
use crate::server::Server;
use crate::server::event::{self, Event};

/// Longest pause between two clients, however much time there is.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the loops may take to say whom they serve.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The reason that monitoring shows of a client that was sent away.
const REASON: &str = "Server Shutdown";

/// A server that takes no more clients.
#[derive(Debug)]
pub(super) enum LameDuck {
    /// Clients may still go by themselves.
    Grace {
        /// Until then.
        until: Instant,
    },
    /// The loops are asked whom they serve.
    Asking {
        /// So many have not answered.
        missing: u16,
        /// Those of the others.
        clients: Vec<SessionId>,
        /// How long they may take.
        until: Instant,
    },
    /// One client after the other goes.
    Closing {
        /// Who is still to go, the next one last.
        clients: Vec<SessionId>,
        /// When the next one goes.
        next_at: Instant,
        /// Most time between two of them.
        pause: Duration,
    },
}

impl LameDuck {
    pub fn next_deadline(&self) -> Instant {
        match self {
            Self::Grace { until } | Self::Asking { until, .. } => *until,
            Self::Closing { next_at, .. } => *next_at,
        }
    }
}

impl Server {
    /// What comes now goes by itself until the server stops.
    pub(super) fn enter_lame_duck(&mut self) {
        log::info!(target: CORE, "Entering lame duck mode, stop accepting new clients");
        self.pages.set_closed("server");
        for mailbox in &self.mailboxes {
            mailbox.control(Control::StopAccepting);
        }
        if self.found.counters.clients.load(Ordering::Relaxed) == 0 {
            return self.tell(Input::SeenOff);
        }
        if let Some(reactors) = &self.reactors {
            reactors.tell_all(|| Control::EnterLameDuck);
        }
        let until = world::instant() + self.config.core.lame_duck_grace;
        self.lame_duck = Some(LameDuck::Grace { until });
    }

    /// The next step, if it is time.
    pub(super) fn on_lame_duck_due(&mut self, now: Instant) {
        match self.lame_duck.take() {
            Some(LameDuck::Grace { .. }) => self.ask_for_clients(now),
            // Those of a loop that hangs cannot be sent away.
            Some(LameDuck::Asking { clients, .. }) => self.begin_closing(clients, now),
            Some(LameDuck::Closing { clients, pause, .. }) => self.close_one(clients, pause, now),
            None => (),
        }
    }

    fn ask_for_clients(&mut self, now: Instant) {
        log::info!(target: CORE, "Closing existing clients");
        if let Some(reactors) = &self.reactors {
            let events = &self.events_in;
            reactors.tell_all(|| {
                let events = events.clone();
                let done = move |clients| event::post(&events, Event::Clients { clients });
                Control::Clients { done: Box::new(done) }
            });
        }
        let (missing, until) = (self.config.loops, now + ANSWER_WITHIN);
        self.lame_duck = Some(LameDuck::Asking { missing, clients: Vec::new(), until });
    }

    pub(super) fn on_clients(&mut self, of_one_loop: Vec<SessionId>) {
        let Some(LameDuck::Asking { missing, clients, .. }) = &mut self.lame_duck else { return };
        clients.extend(of_one_loop);
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            let clients = std::mem::take(clients);
            self.begin_closing(clients, world::instant());
        }
    }

    fn begin_closing(&mut self, clients: Vec<SessionId>, now: Instant) {
        let pause = self.pause_between(clients.len());
        self.close_one(clients, pause, now);
    }

    /// The next client goes; after the last one, the server.
    fn close_one(&mut self, mut clients: Vec<SessionId>, pause: Duration, now: Instant) {
        if let Some(session) = clients.pop() {
            let mailbox = &self.mailboxes[session.home.index()];
            mailbox.control(Control::Close { session, reason: REASON });
        }
        if clients.is_empty() {
            self.lame_duck = None;
            return self.tell(Input::SeenOff);
        }
        let half = pause / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        let next_at = now + half + Duration::from_nanos(self.random.below(spread));
        self.lame_duck = Some(LameDuck::Closing { clients, next_at, pause });
    }

    fn pause_between(&self, clients: usize) -> Duration {
        let core = &self.config.core;
        let whole = core.lame_duck_duration.saturating_sub(core.lame_duck_grace);
        let whole = if whole.is_zero() { PAUSE_MAX } else { whole };
        let count = u32::try_from(clients).unwrap_or(u32::MAX).max(1);
        (whole / count).min(PAUSE_MAX)
    }
}
