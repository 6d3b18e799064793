//! Whether new engines have been told all that was kept for them.
//!
//! A former active may have stored a subscription and not answered its request. Its successor finds
//! the record and not the request, and a client that is sent messages of a subscription that it has
//! no answer for yet does not know what to do with them. The request comes again, because a member
//! keeps it. So the engines of a successor deliver nothing until each member that it has a route to
//! and each loop of this process has said all that it keeps (`TOLD`); what they are told then they
//! handle in its order, and answer before they deliver.
//!
//! A member that hangs says nothing. It is waited for a moment, and longer only while something of
//! it comes.

use std::collections::BTreeSet;

use crate::base::epoch::Epoch;
use crate::base::id::{LoopIndex, SessionId};
use crate::base::limits::{HEARD_OUT_WITHIN, KEEPERS_TELL_WITHIN};
use crate::base::time::Instant;
use crate::broker::mail::Mail;
use crate::broker::read::Step;
use crate::broker::route::HOME;
use crate::broker::serving::{Serving, View};
use crate::broker::{Broker, Effect};
use crate::wire::{Op, encoder};

/// Who has not said yet all that it keeps for whoever serves.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Loops of this process that have, since the view is what it is.
    loops: BTreeSet<LoopIndex>,
    /// Routes to members that have not told the engines of this process.
    routes: BTreeSet<SessionId>,
    /// Whether loops of this process have not told them.
    is_own: bool,
    /// Since when engines wait for nothing else, and until when.
    waits: Option<(Instant, Instant)>,
}

impl Untold {
    pub fn until(&self) -> Option<Instant> {
        self.waits.map(|(_, until)| until)
    }

    pub fn is_waiting(&self) -> bool {
        self.is_own || !self.routes.is_empty()
    }

    /// Engines of this process are ready, and members have these routes.
    pub fn begin(&mut self, routes: BTreeSet<SessionId>) {
        (self.routes, self.is_own, self.waits) = (routes, true, None);
    }

    /// Somebody else serves from now on, or nobody.
    pub fn on_view(&mut self) {
        self.loops.clear();
    }

    /// A member hangs, or has said all; true if it was waited for.
    pub fn forget(&mut self, route: SessionId) -> bool {
        self.routes.remove(&route)
    }

    /// Nobody is waited for any more.
    fn give_up(&mut self) {
        (self.routes, self.is_own, self.waits) = (BTreeSet::new(), false, None);
    }
}

impl Serving {
    /// Whether what is kept is all that engines of this process have to wait for.
    pub(super) fn awaits_keepers_only(&self) -> bool {
        self.untold.is_waiting() && self.own.is_some_and(|own| !self.has_elders(own.epoch))
    }
}

impl Broker {
    /// Engines of this process may be waiting for what is kept alone, or no longer.
    pub(super) fn await_keepers(&mut self) {
        let now = self.now.at;
        if self.serving.awaits_keepers_only() {
            let waits = &mut self.serving.untold.waits;
            waits.get_or_insert((now, now + KEEPERS_TELL_WITHIN));
        } else {
            self.serving.untold.waits = None;
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

    /// A member is waited for no longer: it has said all, or its route is at its end.
    pub(super) fn on_keeper_told(&mut self, id: SessionId) {
        if self.serving.untold.forget(id) {
            self.reconsider();
        }
    }

    /// Who is waited for has not said all in time.
    pub(super) fn on_telling_due(&mut self) {
        let now = self.now.at;
        let untold = &self.serving.untold;
        let Some((since, _)) = untold.waits.filter(|(_, until)| *until <= now) else { return };
        let heard_at = |id: &SessionId| self.sessions.get(*id).map(|found| found.ping.heard_at);
        // Loops of this process never hang alone.
        let own = untold.is_own.then_some(now);
        let last = untold.routes.iter().filter_map(heard_at).chain(own).max();
        let until = last.map_or(now, |last| last + KEEPERS_TELL_WITHIN);
        let until = until.min(since + HEARD_OUT_WITHIN);
        if now < until {
            self.serving.untold.waits = Some((since, until));
            return;
        }
        self.serving.untold.give_up();
        self.reconsider();
    }
}
