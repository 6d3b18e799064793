//! Whether engines have been told all that is kept for them.
//!
//! A subscription may be stored and its client not be answered: the active that did it has died, or
//! the route has broken with the answer in it. A client that is sent messages of a subscription
//! that it has no answer for does not know what to do with them. Its request comes again, because
//! its member keeps it. So engines deliver nothing to who is behind a route before the member
//! there has said all that it keeps (`TOLD`), and nothing at all before each loop of this process
//! has; what they are told then they handle in its order, and answer before they deliver.
//!
//! A member that hangs says nothing. It is waited for a moment, and longer only while something of
//! it comes.

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

/// Who has not said yet all that it keeps for whoever serves; loop 0 knows.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Loops of this process that have, since the view is what it is.
    loops: BTreeSet<LoopIndex>,
    /// Whether loops of this process have not told its engines.
    pub is_own: bool,
    /// Routes to members that have not; since when that is waited for, and until when.
    routes: BTreeMap<SessionId, (Instant, Instant)>,
}

impl Untold {
    pub fn until(&self) -> Option<Instant> {
        self.routes.values().map(|(_, until)| *until).min()
    }

    /// Somebody else serves from now on, or nobody.
    pub fn on_view(&mut self) {
        self.loops.clear();
    }
}

impl Broker {
    /// Engines of this process are ready.
    pub(super) fn await_keepers(&mut self) {
        if planted::is(Bug::KeepersUnawaited) {
            return;
        }
        self.serving.untold.is_own = true;
        for id in self.routes.registered() {
            self.await_keeper(id);
        }
    }

    /// A route has come, or engines that serve.
    pub(super) fn await_keeper(&mut self, id: SessionId) {
        if self.serving.own_epoch().is_none() || !self.is_sibling(id) {
            return;
        }
        let now = self.now.at;
        self.serving.untold.routes.insert(id, (now, now + KEEPERS_TELL_WITHIN));
        self.on_untold(id, true);
        self.mail_all(&Mail::Untold(id, true));
    }

    /// A member is waited for no longer: it has said all, it hangs, or its route is at its end.
    pub(super) fn on_keeper_told(&mut self, id: SessionId) {
        if self.serving.untold.routes.remove(&id).is_some() {
            self.on_untold(id, false);
            self.mail_all(&Mail::Untold(id, false));
        }
    }

    /// The engines of this process are gone.
    pub(super) fn await_nobody(&mut self) {
        self.serving.untold.is_own = false;
        while let Some((id, _)) = self.serving.untold.routes.first_key_value() {
            self.on_keeper_told(*id);
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
            View::Here(_) => {
                untold.is_own = false;
                self.reconsider();
            }
            View::Away | View::Nobody => (),
        }
    }

    /// A peer has said all that it keeps for the engines of an epoch.
    pub(super) fn on_told(&mut self, id: SessionId, epoch: Epoch) -> Step {
        if !self.is_sibling(id) {
            return self.refuse_stranger(id);
        }
        if self.serving.begun_epoch() == Some(epoch) {
            self.on_keeper_told(id);
        }
        Step::Done
    }

    /// Somebody who is waited for may not have said all in time.
    pub(super) fn on_telling_due(&mut self) {
        let now = self.now.at;
        // Members wait for a predecessor as long as this one does, and say nothing before.
        let has_elders = self.serving.own.is_some_and(|own| self.serving.has_elders(own.epoch));
        let routes = self.serving.untold.routes.iter();
        let due = routes.filter(|(_, (_, until))| *until <= now);
        let due: Vec<(SessionId, Instant)> = due.map(|(id, (since, _))| (*id, *since)).collect();
        for (id, since) in due {
            let since = if has_elders { now } else { since };
            let heard_at = self.sessions.get(id).map_or(since, |found| found.ping.heard_at);
            let until = heard_at.max(since) + KEEPERS_TELL_WITHIN;
            let until = until.min(since + HEARD_OUT_WITHIN);
            if now < until {
                self.serving.untold.routes.insert(id, (since, until));
            } else {
                self.on_keeper_told(id);
            }
        }
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
