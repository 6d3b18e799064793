//! Whether engines have been told all that is kept for them.
//!
//! A subscription may be stored and its client not be answered: the active that did it has died, or
//! the route has broken with the answer in it. A client that is sent messages of a subscription
//! that it has no answer for does not know what to do with them. Its request comes again, because
//! its member keeps it. So engines deliver nothing to who is behind a route before the member
//! there has said all that it keeps (`TOLD`) and that is done, and nothing at all before what
//! clients of this process had asked for is answered. That it has come is not enough: a request
//! goes from one engine to the one that has its channel, on a way of its own.
//!
//! A member that hangs says nothing, and some requests take long. That is waited for a moment, and
//! longer only while more is said.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::epoch::Epoch;
use crate::base::id::{LoopIndex, SessionId};
use crate::base::limits::{HEARD_OUT_WITHIN, KEEPERS_TELL_WITHIN};
use crate::base::planted::{self, Bug};
use crate::base::time::Instant;
use crate::broker::mail::Mail;
use crate::broker::read::Step;
use crate::broker::route::HOME;
use crate::broker::serving::View;
use crate::broker::{Broker, Effect};
use crate::wire::{Op, encoder};

/// Who keeps something: the member behind a route, or this process.
type Keeping = Option<SessionId>;

/// Who has not said yet all that it keeps for whoever serves; loop 0 knows.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Loops of this process that have, since the view is what it is.
    loops: BTreeSet<LoopIndex>,
    /// Who has not told the engines of this process, or is not answered.
    waits: BTreeMap<Keeping, Wait>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    until: Instant,
    /// Up to which number of which ledgers it has to be answered, once it has said all.
    undone: Option<BTreeMap<u64, u64>>,
}

impl Untold {
    pub fn until(&self) -> Option<Instant> {
        self.waits.values().map(|wait| wait.until).min()
    }

    /// Whether anybody is waited for.
    pub fn is_waiting(&self) -> bool {
        !self.waits.is_empty()
    }

    /// Whether this process itself is waited for.
    pub fn is_own(&self) -> bool {
        self.waits.contains_key(&None)
    }

    /// Somebody else serves from now on, or nobody.
    pub fn on_view(&mut self) {
        self.loops.clear();
    }

    fn begin(&mut self, who: Keeping, now: Instant) {
        let wait = Wait { since: now, until: now + KEEPERS_TELL_WITHIN, undone: None };
        self.waits.insert(who, wait);
    }
}

impl Broker {
    /// Engines of this process are ready.
    pub(super) fn await_keepers(&mut self) {
        if planted::is(Bug::KeepersUnawaited) {
            return;
        }
        self.serving.untold.begin(None, self.now.at);
        for id in self.routes.registered() {
            self.await_keeper(id);
        }
    }

    /// A route has come, or engines that serve.
    pub(super) fn await_keeper(&mut self, id: SessionId) {
        if self.serving.own_epoch().is_none() || !self.is_sibling(id) {
            return;
        }
        self.serving.untold.begin(Some(id), self.now.at);
        self.on_untold(id, true);
        self.mail_all(&Mail::Untold(id, true));
    }

    /// A member is waited for no longer: its route is at its end, or it hangs.
    pub(super) fn on_keeper_lost(&mut self, id: SessionId) {
        self.end_wait(Some(id));
    }

    fn end_wait(&mut self, who: Keeping) {
        if self.serving.untold.waits.remove(&who).is_none() {
            return;
        }
        match who {
            Some(id) => {
                self.on_untold(id, false);
                self.mail_all(&Mail::Untold(id, false));
            }
            None => self.reconsider(),
        }
    }

    /// The engines of this process are gone.
    pub(super) fn await_nobody(&mut self) {
        while let Some((who, _)) = self.serving.untold.waits.first_key_value() {
            self.end_wait(*who);
        }
    }

    /// Something of a ledger is done that has come by a route.
    pub(super) fn on_answered(&mut self, id: SessionId, ledger: u64) {
        let Some(wait) = self.serving.untold.waits.get_mut(&Some(id)) else { return };
        let Some(undone) = &mut wait.undone else { return };
        if let Some(number) = undone.get(&ledger)
            && self.errands.is_done(id, (ledger, *number))
        {
            undone.remove(&ledger);
        }
        if undone.is_empty() {
            self.end_wait(Some(id));
        }
    }

    /// This loop has said all that it keeps to who serves.
    pub(super) fn tell_all_is_told(&mut self) {
        let view = self.serving.view();
        if self.home == HOME {
            return self.on_loop_told(HOME, view);
        }
        self.effects.push_back(Effect::Mail { to: HOME, mail: Mail::Told(self.home, view) });
    }

    /// To the owner of the routes: a loop has said all that it keeps.
    pub(super) fn on_loop_told(&mut self, home: LoopIndex, view: View) {
        if view != self.serving.view() {
            return;
        }
        let untold = &mut self.serving.untold;
        untold.loops.insert(home);
        if untold.loops.len() < usize::from(self.settings.loops) {
            return;
        }
        match view {
            View::Behind { route, epoch } => {
                let session = self.sessions.get_mut(route).filter(|found| !found.is_ending());
                let Some(session) = session else { return };
                encoder::encode(&Op::Told { epoch: epoch.0 }, session.outbox.tail());
                session.outbox.seal(false);
                self.mark_dirty(route);
            }
            View::Here(_) => self.end_wait(None),
            View::Away | View::Nobody => (),
        }
    }

    /// A peer has said all that it keeps for the engines of an epoch.
    pub(super) fn on_told(&mut self, id: SessionId, epoch: Epoch) -> Step {
        if !self.is_sibling(id) {
            return self.refuse_stranger(id);
        }
        if self.serving.begun_epoch() == Some(epoch)
            && let Some(wait) = self.serving.untold.waits.get_mut(&Some(id))
        {
            let undone = self.errands.undone(id);
            (wait.since, wait.until) = (self.now.at, self.now.at + KEEPERS_TELL_WITHIN);
            if undone.is_empty() {
                self.end_wait(Some(id));
            } else {
                wait.undone = Some(undone);
            }
        }
        Step::Done
    }

    /// Somebody who is waited for may not have said all in time, or not be answered.
    pub(super) fn on_telling_due(&mut self) {
        let now = self.now.at;
        // Members wait for a predecessor as long as this one does, and say nothing before.
        let has_elders = self.serving.own.is_some_and(|own| self.serving.has_elders(own.epoch));
        let mut ended = Vec::new();
        for (who, wait) in &mut self.serving.untold.waits {
            if now < wait.until {
                continue;
            }
            if has_elders {
                wait.since = now;
            }
            // Who has said all says nothing more that would be waited for.
            let speaks = who.filter(|_| wait.undone.is_none());
            let heard_at = speaks.and_then(|id| self.sessions.get(id)).map(|it| it.ping.heard_at);
            let last = heard_at.map_or(wait.since, |at| at.max(wait.since));
            wait.until = (last + KEEPERS_TELL_WITHIN).min(wait.since + HEARD_OUT_WITHIN);
            if wait.until <= now {
                ended.push(*who);
            }
        }
        ended.into_iter().for_each(|who| self.end_wait(who));
    }

    /// On each loop: whether the engine here delivers nothing yet to who is behind a route.
    pub(super) fn on_untold(&mut self, id: SessionId, is_so: bool) {
        let keys = self.engines.rooms.set_untold(id, is_so);
        if is_so {
            self.effects.extend(keys.into_iter().map(|key| Effect::Room { key, has_room: false }));
        } else {
            self.backlog.rooms.extend(keys);
            self.work_off();
        }
    }
}
