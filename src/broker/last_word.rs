//! Whether those who served before have said all.
//!
//! What a former active has delivered comes by its own route, and what its successor delivers by
//! another one, or from here: which of both is read first nobody can say. So that no message
//! overtakes one before it, the successor's are held back until its predecessor has said that it
//! has ended, which comes behind all else, or its route is at its end: the route of a successor is
//! not read, so that TCP holds it back, and engines of this process are told that no inbox has
//! room. What clients send waits in the same way (`serving`).
//!
//! Who hangs says nothing: it is waited for only as long as something of it comes, and never long.

use std::collections::BTreeSet;

use crate::base::epoch::Epoch;
use crate::base::id::SessionId;
use crate::base::limits::{HEARD_OUT_WITHIN, PREDECESSOR_ENDS_WITHIN};
use crate::base::time::Instant;
use crate::broker::mail::Mail;
use crate::broker::serving::{Claim, Own, Serving};
use crate::broker::{Broker, Effect};

/// Work of an engine that goes on with a subscription, in receivers of a message.
pub(super) const ROOM_WORK: u64 = 16;

/// Who waits until those before have said all.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Since when somebody waits, and until when.
    waits: Option<(Instant, Instant)>,
    /// Routes that are not read meanwhile.
    held: BTreeSet<SessionId>,
    /// Whether the engines of this process deliver nothing meanwhile.
    holds_engines: bool,
}

impl Hearing {
    pub fn until(&self) -> Option<Instant> {
        self.waits.map(|(_, until)| until)
    }
}

impl Serving {
    /// Those that have served before this epoch, by other routes, and may have more to say.
    fn elders(
        &self,
        (route, epoch): (Option<SessionId>, Epoch),
    ) -> impl Iterator<Item = SessionId> {
        let is_elder = move |id: SessionId, claim: &Claim| {
            Some(id) != route && claim.is_ready && claim.epoch < epoch && !claim.is_given_up
        };
        let elders = self.claims.iter().filter(move |(id, claim)| is_elder(**id, claim));
        elders.map(|(id, _)| *id)
    }

    /// Those that anybody waits for who has begun.
    fn awaited(&self) -> BTreeSet<SessionId> {
        let begun = self.claims.iter().map(|(id, claim)| (Some(*id), claim.epoch));
        let begun = begun.chain(self.own.map(|own| (None, own.epoch)));
        begun.flat_map(|heir| self.elders(heir)).collect()
    }

    /// Whether what comes by a route has to wait for what comes by others.
    fn is_held(&self, route: SessionId) -> bool {
        let claim = self.claims.get(&route);
        claim.is_some_and(|claim| self.elders((Some(route), claim.epoch)).next().is_some())
    }

    /// Whether anybody has served before an epoch of this process who may have more to say.
    pub(super) fn has_elders(&self, epoch: Epoch) -> bool {
        self.elders((None, epoch)).next().is_some()
    }

    /// Whether engines of this process have to wait, or would if there were any.
    fn must_hold_engines(&self) -> bool {
        let is_free = |own: Own| own.is_ready && !self.has_elders(own.epoch);
        !self.own.is_some_and(is_free) || self.untold.is_own()
    }
}

impl Broker {
    /// Engines deliver nothing before it is known that they may.
    pub(super) fn hold_engines(&mut self) {
        self.serving.hearing.holds_engines = self.keeps();
        self.engines.rooms.is_hearing_out = self.keeps();
    }

    /// Something has changed; clients wait for a predecessor, or do not.
    pub(super) fn hear_out(&mut self, clients_wait: bool) {
        let now = self.now.at;
        if clients_wait || !self.serving.awaited().is_empty() {
            let waits = &mut self.serving.hearing.waits;
            waits.get_or_insert((now, now + PREDECESSOR_ENDS_WITHIN));
        } else {
            self.serving.hearing.waits = None;
        }
        let holds_engines = self.keeps() && self.serving.must_hold_engines();
        if holds_engines != self.serving.hearing.holds_engines {
            self.serving.hearing.holds_engines = holds_engines;
            self.on_hearing_out(holds_engines);
            self.mail_all(&Mail::HearingOut(holds_engines));
        }
        let held = std::mem::take(&mut self.serving.hearing.held);
        for route in held {
            if self.serving.is_held(route) {
                self.serving.hearing.held.insert(route);
            } else {
                self.resume(route);
            }
        }
    }

    /// Whether a message at the front of a route's buffer has to wait.
    pub(super) fn must_hear_out(&mut self, route: SessionId) -> bool {
        if self.serving.hearing.waits.is_none() || !self.serving.is_held(route) {
            return false;
        }
        if let Some(session) = self.sessions.get_mut(route) {
            session.is_paused = true;
        }
        self.serving.hearing.held.insert(route);
        true
    }

    /// Who is waited for has not said all in time.
    pub(super) fn on_hearing_due(&mut self) {
        let now = self.now.at;
        let Some((since, _)) = self.serving.hearing.waits.filter(|(_, until)| *until <= now) else {
            return;
        };
        let mut awaited = self.serving.awaited();
        let predecessor = self.serving.predecessor.map(|(route, _)| route);
        let wanted = self.serving.wanted();
        awaited.extend(predecessor.filter(|_| self.serving.awaits_predecessor(wanted)));
        let heard_at = |id: &SessionId| self.sessions.get(*id).map(|found| found.ping.heard_at);
        let last = awaited.iter().filter_map(heard_at).max();
        let until = last.map_or(now, |last| last + PREDECESSOR_ENDS_WITHIN);
        let until = until.min(since + HEARD_OUT_WITHIN);
        if now < until {
            self.serving.hearing.waits = Some((since, until));
            return;
        }
        for id in awaited {
            self.on_keeper_lost(id);
            if let Some(claim) = self.serving.claims.get_mut(&id) {
                claim.is_given_up = true;
            }
        }
        self.reconsider();
    }

    /// On each loop: whether the engine here delivers nothing yet.
    pub(super) fn on_hearing_out(&mut self, is_so: bool) {
        self.engines.rooms.is_hearing_out = is_so;
        if !is_so {
            self.backlog.rooms.extend(self.engines.rooms.sorted_keys());
            self.work_off();
        }
    }

    /// Tells the engine of inboxes that have room again.
    pub(super) fn tell_rooms(&mut self, limit: u64) {
        while self.work_done() < limit {
            let Some(key) = self.backlog.rooms.pop_front() else { return };
            self.work += ROOM_WORK;
            if self.engines.rooms.is_watched(key) && self.engines.rooms.has_room(key) {
                self.effects.push_back(Effect::Room { key, has_room: true });
            }
        }
    }
}
