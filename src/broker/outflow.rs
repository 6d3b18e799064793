//! When what engines have answered is on the sockets.
//!
//! A planned end gives the lease back, and nothing of an engine leaves without one. So before that
//! it is waited until clients and peers have taken their answers, for a bounded time.

use crate::base::id::SessionId;
use crate::base::limits::OUTFLOW_WITHIN;
use crate::base::time::Instant;
use crate::broker::{Broker, Effect};

/// What is waited for.
#[derive(Debug)]
pub(super) struct Outflow {
    token: u64,
    until: Instant,
    /// Sessions, and where the stream of each has to be.
    waiting: Vec<(SessionId, u64)>,
}

impl Outflow {
    pub fn until(&self) -> Instant {
        self.until
    }
}

impl Broker {
    pub(super) fn on_outflow(&mut self, token: u64) {
        self.tell_done();
        let end =
            |session: &super::session::Session| Some((session.id, session.outbox.answers_end()?));
        let waiting = self.sessions.iter().filter_map(end).collect();
        self.outflow = Some(Outflow { token, until: self.now.at + OUTFLOW_WITHIN, waiting });
        self.look_at_outflow();
    }

    /// Whether it has come to that.
    pub(super) fn look_at_outflow(&mut self) {
        let Some(outflow) = &mut self.outflow else { return };
        let sessions = &self.sessions;
        let waits = |(id, end): &(SessionId, u64)| {
            sessions.get(*id).is_some_and(|session| session.outbox.taken() < *end)
        };
        // All have to be there in the end: the others are looked at when this one is.
        while outflow.waiting.pop_if(|last| !waits(last)).is_some() {}
        if outflow.waiting.is_empty() || outflow.until <= self.now.at {
            let token = outflow.token;
            self.outflow = None;
            self.effects.push_back(Effect::Outflown { token });
        }
    }
}
