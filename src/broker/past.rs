//! What a route still carries from before this process became active.
//!
//! The peer may have sent it while another member was active, to that one too: handled once more, a
//! message would be stored twice. A peer answers PINGs in the order of everything else it says. So
//! once it has answered one that was sent after this process became active, the rest came since.

use crate::broker::delivery::Source;
use crate::broker::route::HOME;
use crate::broker::{Broker, Credit, EngineInterest};
use crate::wire::{Op, encoder};

/// PINGs to the peer of a route and its answers, counted.
#[derive(Debug, Default)]
pub(super) struct Past {
    asked: u64,
    answered: u64,
    /// The answer with which it ends.
    end: u64,
}

impl Past {
    pub fn on_ping(&mut self) {
        self.asked += 1;
    }

    pub fn on_pong(&mut self) {
        self.answered = self.asked.min(self.answered + 1);
    }

    /// What was said before the answer to the latest PING belongs to it.
    fn extend(&mut self) {
        self.end = self.asked;
    }

    fn is_over(&self) -> bool {
        self.end <= self.answered
    }
}

impl Broker {
    /// An engine has begun, or ceased, to take messages or requests.
    pub(super) fn on_engine_count(&mut self, interest: EngineInterest, has_come: bool) {
        if interest.credit == Credit::Free || self.home != HOME {
            return;
        }
        // Each engine for itself: what a loop mails comes in its order, but the former engine of
        // one loop may end here after the next one of another has begun.
        let count = self.engines.serving_counts.entry(interest.engine).or_default();
        *count = if has_come { *count + 1 } else { count.saturating_sub(1) };
        if !has_come || *count != 1 {
            return;
        }
        for id in self.routes.registered() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if session.is_ending() {
                continue;
            }
            encoder::encode(&Op::Ping, session.outbox.tail());
            session.outbox.seal(false);
            if let Some(route) = session.route_mut() {
                route.past.on_ping();
                route.past.extend();
            }
            self.mark_dirty(id);
        }
    }

    /// Whether what comes from there may have been handled by another active. To handle what needs
    /// no credit twice (acks, heartbeats, pings) does no harm.
    pub(super) fn is_past(&self, source: &Source<'_>) -> bool {
        let Source::Route { session, .. } = source else { return false };
        self.sessions.route(*session).is_some_and(|route| !route.past.is_over())
    }
}
