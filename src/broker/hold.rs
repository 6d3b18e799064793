//! Publishers that have to wait: for an engine's credit, or for slow receivers.
//!
//! A held publisher's bytes stay in its buffer and its socket is not read, so TCP holds it back.

use std::sync::Arc;
use std::time::Duration;

use crate::base::id::{AccountIndex, SessionId};
use crate::broker::client::Stall;
use crate::broker::delivery::{first_part, is_spread, weight_of};
use crate::broker::kind::Kind;
use crate::broker::outbox::Gauge;
use crate::broker::session::Timer;
use crate::broker::sublist::{Interest, Matched, QueueMatch};
use crate::broker::{Broker, Credit};
use crate::wire::op::Publish;

/// How often a held publisher looks again whether its receivers have room.
const STALL_POLL: Duration = Duration::from_millis(5);

impl Broker {
    /// Whether the publish at the front of a session's buffer has to wait: for an engine, or for
    /// slow receivers.
    pub(super) fn must_wait(
        &mut self,
        id: SessionId,
        account: AccountIndex,
        publish: &Publish<'_>,
        matched: Option<&Matched>,
    ) -> bool {
        let Some(matched) = matched else { return false };
        if self.lacks_credit(matched, publish) || self.is_ledger_full(id, matched) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.is_paused = true;
                self.engines.paused.insert(id);
            }
            return true;
        }
        if !matched.has_receivers() {
            return false;
        }
        let weight = weight_of(publish);
        if is_spread(matched, publish, None) {
            // Of the others it is asked when their turn comes.
            let first = first_part(matched, weight);
            return self.must_stall(id, account, (first, &matched.routes, &[]));
        }
        self.must_stall(id, account, (&matched.plain, &matched.routes, &matched.queues))
    }

    fn lacks_credit(&self, matched: &Matched, publish: &Publish<'_>) -> bool {
        if self.engines.pressed.is_empty() {
            return false;
        }
        matched.engines.iter().chain(&matched.kept).any(|interest| match interest.credit {
            Credit::Free => false,
            Credit::Messages => {
                let body = &publish.payload[publish.header_len.unwrap_or(0)..];
                let owner = (self.settings.owner)(body, self.home, self.settings.loops);
                owner.is_some_and(|engine| {
                    self.engines.pressed.contains(&(Credit::Messages, engine))
                })
            }
            Credit::Requests => {
                self.engines.pressed.iter().any(|(credit, _)| *credit == Credit::Requests)
            }
        })
    }

    /// Holds a publisher back while a receiver has more than half of what may wait for it; not
    /// for ever: then its message is queued, and the receiver cut if that is too much.
    pub(super) fn must_stall(
        &mut self,
        id: SessionId,
        account: AccountIndex,
        (plain, routes, queues): (&[Arc<Interest>], &[Arc<Interest>], &[QueueMatch]),
    ) -> bool {
        let gate = self.settings.max_pending / 2;
        // Also of its own outbox: it goes on as soon as it reads.
        let is_slow = |interest: &&Arc<Interest>| interest.gauge.pending_bytes() > gate;
        // A queue gives to those of its members that have room.
        let sublist = &self.accounts[account];
        let members = queues.iter().map(|queue| sublist.listeners(&queue.groups));
        let queued = members.filter(|all| all.clone().all(|one| is_slow(&one))).flatten();
        let slow: Vec<Arc<Gauge>> = plain
            .iter()
            .chain(routes)
            .chain(queued)
            .filter(is_slow)
            .map(|interest| Arc::clone(&interest.gauge))
            .collect();
        let now = self.now.at;
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Kind::Client(client) = &mut session.kind else { return false };
        if std::mem::take(&mut client.is_stall_waived) || slow.is_empty() {
            return false;
        }
        let worst = slow.iter().map(|gauge| gauge.pending_bytes()).max().unwrap_or(0);
        // A read in between does not make the time longer.
        let until = match client.stall.take() {
            Some(stall) => stall.until,
            None => now + stall_duration(worst, self.settings.max_pending),
        };
        if until <= now {
            return false;
        }
        client.stall = Some(Stall { until, receivers: slow });
        session.is_paused = true;
        self.deadlines.arm((id, Timer::Stall), now + STALL_POLL);
        true
    }

    /// A held publisher looks again.
    pub(super) fn on_stall_due(&mut self, id: SessionId) {
        let gate = self.settings.max_pending / 2;
        let now = self.now.at;
        let Some(client) = self.sessions.client_mut(id) else { return };
        let Some(stall) = &client.stall else { return };
        let is_open = stall.receivers.iter().all(|gauge| gauge.pending_bytes() <= gate);
        if !is_open && now < stall.until {
            self.deadlines.arm((id, Timer::Stall), now + STALL_POLL);
            return;
        }
        client.is_stall_waived = !is_open;
        client.stall = None;
        self.resume(id);
    }
}

/// 100 ms, and as much again for each twentieth of what may wait, up to 1 s (spec core NATS, 5.3).
fn stall_duration(pending: usize, max_pending: usize) -> Duration {
    let over = pending.saturating_sub(max_pending / 2);
    let steps = over / (max_pending / 20).max(1);
    if pending >= max_pending {
        return Duration::from_secs(1);
    }
    Duration::from_millis(100) * (1 + u32::try_from(steps).unwrap_or(9)).min(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_grow_with_what_waits() {
        for (percent, expected) in [(50, 100), (55, 200), (60, 300), (70, 500), (90, 900)] {
            let found = stall_duration(percent * 10_000, 1_000_000);
            assert_eq!(found, Duration::from_millis(expected), "{percent}");
        }
        assert_eq!(stall_duration(990_000, 1_000_000), Duration::from_secs(1));
        assert_eq!(stall_duration(1_000_000, 1_000_000), Duration::from_secs(1));
    }
}
