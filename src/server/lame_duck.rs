//! Lame duck mode of the core server: clients are sent away one by one, then the server stops
//!
//! Facts: spec core NATS, 18.4.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::unbounded;

use crate::base::id::SessionId;
use crate::base::time::Instant;
use crate::base::world;
use crate::log::CORE;
use crate::net::Control;
use crate::server::{Next, Server};

/// Longest pause between two clients, however much time there is.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the loops may take to say whom they serve.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The reason that monitoring shows of a client that was sent away.
const REASON: &str = "Server Shutdown";

/// A server that takes no more clients.
#[derive(Debug)]
pub(super) struct LameDuck {
    /// When the next client goes, the first one after the grace period.
    next_at: Instant,
    /// Who is still to go, the next one last; unknown before the grace period is over.
    clients: Option<Vec<SessionId>>,
    /// Most time between two of them.
    pause: Duration,
}

impl LameDuck {
    pub fn next_deadline(&self) -> Instant {
        self.next_at
    }
}

impl Server {
    /// SIGUSR2: what comes now goes by itself until the server has stopped.
    pub(super) fn enter_lame_duck(&mut self) -> Next {
        if self.lame_duck.is_some() {
            return Next::GoOn;
        }
        log::info!(target: CORE, "Entering lame duck mode, stop accepting new clients");
        for mailbox in &self.mailboxes {
            mailbox.control(Control::StopAccepting);
        }
        if self.found.counters.clients.load(Ordering::Relaxed) == 0 {
            return Next::End(self.stop(ExitCode::SUCCESS));
        }
        if let Some(reactors) = &self.reactors {
            reactors.tell_all(|| Control::EnterLameDuck);
        }
        let next_at = world::instant() + self.config.core.lame_duck_grace;
        self.lame_duck = Some(LameDuck { next_at, clients: None, pause: PAUSE_MAX });
        Next::GoOn
    }

    /// The next client goes, if it is time; after the last one, the server.
    pub(super) fn on_lame_duck_due(&mut self) -> Next {
        let now = world::instant();
        let Some(mut duck) = self.lame_duck.take_if(|duck| duck.next_at <= now) else {
            return Next::GoOn;
        };
        let mut clients = match duck.clients.take() {
            Some(clients) => clients,
            None => {
                log::info!(target: CORE, "Closing existing clients");
                let clients = self.clients();
                duck.pause = self.pause_between(clients.len());
                clients
            }
        };
        if let Some(session) = clients.pop() {
            let mailbox = &self.mailboxes[session.home.index()];
            mailbox.control(Control::Close { session, reason: REASON });
        }
        if clients.is_empty() {
            return Next::End(self.stop(ExitCode::SUCCESS));
        }
        let half = duck.pause / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        duck.next_at = now + half + Duration::from_nanos(self.random.below(spread));
        duck.clients = Some(clients);
        self.lame_duck = Some(duck);
        Next::GoOn
    }

    /// The clients of all loops; the one that goes first stands last.
    fn clients(&self) -> Vec<SessionId> {
        let (tell, told) = unbounded();
        if let Some(reactors) = &self.reactors {
            reactors.tell_all(|| Control::Clients { done: tell.clone() });
        }
        let deadline = Self::deadline_in(ANSWER_WITHIN);
        let mut clients = Vec::new();
        for _ in self.loops() {
            match told.recv_timeout(deadline.since(world::instant())) {
                Ok(some) => clients.extend(some),
                Err(_) => break,
            }
        }
        clients
    }

    fn pause_between(&self, clients: usize) -> Duration {
        let core = &self.config.core;
        let whole = core.lame_duck_duration.saturating_sub(core.lame_duck_grace);
        let whole = if whole.is_zero() { PAUSE_MAX } else { whole };
        let count = u32::try_from(clients).unwrap_or(u32::MAX).max(1);
        (whole / count).min(PAUSE_MAX)
    }
}
