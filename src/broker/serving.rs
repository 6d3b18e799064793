//! Who of the group serves, as its members tell each other by their routes.
//!
//! A member says what its engines listen to (`SE+`, `SE-`), when that is all (`SE= ready`), when
//! they take nothing more (`closed`) and when all that they had taken is done (`ended`). It says so
//! to members of its own group only, which are told nothing by `RS+` of those interests: what is
//! for engines goes to them by `KEPT`, and to nobody else.
//!
//! Loop 0, which owns the routes, decides whose engines get what clients of this process send, and
//! tells the other loops. From the loss of one until there is another one the interests of the
//! former stay, so that what they match is kept (`ledger`). A successor gets nothing before its
//! predecessor has said its last word, or its route is gone: what that has done must not be done
//! again (`last_word`). Epochs of one store only grow: while the newest is there, no former one
//! serves.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::epoch::Epoch;
use crate::base::id::{AccountIndex, SessionId};
use crate::base::limits::PARKED_FOR;
use crate::base::subject;
use crate::base::time::Instant;
use crate::broker::former::Forgotten;
use crate::broker::last_word::Hearing;
use crate::broker::mail::Mail;
use crate::broker::read::Step;
use crate::broker::route::HOME;
use crate::broker::told::Untold;
use crate::broker::{Broker, Effect, EngineInterest};
use crate::wire::connect::LEDGER_VERSION;
use crate::wire::{CloseReason, EngineState, Info, Op, encoder, errors};

/// Whose engines get what clients of this process send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Nobody is known.
    #[default]
    Nobody,
    /// Somebody was known, or is about to be.
    Away,
    /// Those of this process.
    Here(Epoch),
    /// Those of the peer of a route.
    Behind {
        /// Which route.
        route: SessionId,
        /// Their epoch.
        epoch: Epoch,
    },
}

/// The engines of another member, or those of this process that are closed.
#[derive(Debug)]
pub(super) struct Claim {
    number: u64,
    pub epoch: Epoch,
    subjects: BTreeSet<(AccountIndex, Bytes)>,
    pub is_ready: bool,
    is_closed: bool,
    /// Its last word was awaited for too long.
    pub is_given_up: bool,
    /// Whether the peer knows all that is wanted here: what engines answer before they do goes
    /// nowhere.
    is_told: bool,
}

impl Claim {
    fn is_open(&self) -> bool {
        self.is_ready && !self.is_closed && self.is_told
    }
}

/// The engines of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub epoch: Epoch,
    pub is_ready: bool,
    /// They take nothing more.
    is_closed: bool,
}

/// Who serves.
#[derive(Debug, Default)]
pub(super) struct Serving {
    view: View,
    /// The epoch of this process up to which its engines are given nothing more by this loop.
    parked: Option<Epoch>,
    /// What follows only loop 0 has.
    pub own: Option<Own>,
    /// Of an epoch of this process up to which its engines are closed, and the number under which
    /// is kept what clients say to them.
    closed: Option<(Epoch, u64)>,
    pub claims: BTreeMap<SessionId, Claim>,
    /// Those that are gone and whose interests stay for a while.
    former: Vec<Claim>,
    claim_count: u64,
    /// The route of those that served last, if they were not here.
    pub predecessor: Option<(SessionId, Epoch)>,
    /// Who is waited for that may have something to say.
    pub hearing: Hearing,
    /// Who has not said yet what it keeps.
    pub untold: Untold,
    /// Until when is kept what is sent while nobody serves.
    away_until: Option<Instant>,
    /// The highest epoch of those that have served and are gone, for as long as that.
    newest_gone: Option<Epoch>,
}

impl Serving {
    pub fn view(&self) -> View {
        self.view
    }

    /// The epoch of the engines of this process, if they take what is sent.
    pub fn own_epoch(&self) -> Option<Epoch> {
        self.own.filter(|own| own.is_ready && !own.is_closed).map(|own| own.epoch)
    }

    /// The same, if they have not said yet all that they listen to, too.
    pub fn open_epoch(&self) -> Option<Epoch> {
        self.own.filter(|own| !own.is_closed).map(|own| own.epoch)
    }

    /// Whether the engines of that epoch of this process are closed.
    pub fn is_over(&self, epoch: Epoch) -> bool {
        self.closed.is_some_and(|(closed, _)| epoch <= closed)
    }

    /// The same, if they are closed, too.
    pub fn begun_epoch(&self) -> Option<Epoch> {
        self.own.map(|own| own.epoch)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let all = [self.hearing.until(), self.untold.until(), self.away_until];
        all.into_iter().flatten().min()
    }

    /// The number under which is kept what clients say there to engines of this process that are
    /// gone, until somebody else serves.
    pub fn keep_for(
        &mut self,
        epoch: Option<Epoch>,
        subject: (AccountIndex, Bytes),
    ) -> Option<u64> {
        let (_, number) = self.closed.filter(|(closed, _)| Some(*closed) == epoch)?;
        let former = self.former.iter_mut().find(|former| former.number == number)?;
        former.subjects.insert(subject);
        Some(number)
    }

    /// The routes of members that say that they serve, of those that listen.
    pub fn claimants(&self, kept: &[EngineInterest]) -> Vec<(SessionId, Epoch)> {
        let listens = |claim: &Claim| {
            kept.iter().any(|interest| !interest.is_here() && interest.key == claim.number)
        };
        let open = self.claims.iter().filter(|(_, claim)| claim.is_ready && !claim.is_closed);
        open.filter(|(_, claim)| listens(claim)).map(|(id, claim)| (*id, claim.epoch)).collect()
    }

    /// The highest epoch of those that serve, or have served: what others say that have an older
    /// one is out of date, as what one that was replaced and hangs has said. Who is gone counts for
    /// a while only, so that no number keeps anybody from being served for ever.
    fn latest(&self) -> Option<Epoch> {
        let own = self.own.filter(|own| own.is_ready).map(|own| own.epoch);
        let ready = self.claims.values().filter(|claim| claim.is_ready);
        ready.map(|claim| claim.epoch).chain(own).chain(self.newest_gone).max()
    }

    /// The best of those that serve.
    pub fn wanted(&self) -> View {
        if let Some(epoch) = self.own_epoch() {
            return View::Here(epoch);
        }
        let open = self.claims.iter().filter(|(_, claim)| claim.is_open());
        let newest = open.max_by_key(|(_, claim)| claim.epoch);
        let latest = self.latest();
        if let Some((route, claim)) = newest.filter(|(_, claim)| latest <= Some(claim.epoch)) {
            return View::Behind { route: *route, epoch: claim.epoch };
        }
        let is_known = self.own.is_some()
            || !self.claims.is_empty()
            || !self.former.is_empty()
            || self.view != View::Nobody;
        if is_known { View::Away } else { View::Nobody }
    }

    /// Whether those that served last may have more to say.
    pub fn awaits_predecessor(&self, wanted: View) -> bool {
        let Some((route, epoch)) = self.predecessor else { return false };
        let is_there = |claim: &Claim| claim.epoch == epoch && !claim.is_given_up;
        wanted != View::Behind { route, epoch } && self.claims.get(&route).is_some_and(is_there)
    }
}

impl Broker {
    /// Whether the peer of a route is a member of our group that keeps what its clients send, and
    /// says so as we do.
    pub(super) fn is_sibling(&self, id: SessionId) -> bool {
        let info = self.sessions.route(id).and_then(|route| route.info.as_ref());
        let is_alike = |info: &Info| {
            info.stanby_ledger == self.settings.group
                && info.stanby_ledger_version == LEDGER_VERSION
        };
        self.keeps() && info.is_some_and(|info| is_alike(info))
    }

    /// Who says of engines what only a member of our group may say.
    pub(super) fn refuse_stranger(&mut self, id: SessionId) -> Step {
        let text = "Route Error: it says of engines what only members of one group tell each other";
        self.refuse(id, text, CloseReason::ProtocolViolation)
    }

    /// A peer's engine listens, or no longer.
    pub(super) fn on_engine_interest(
        &mut self,
        id: SessionId,
        epoch: Epoch,
        (account, subject, is_listening): (&[u8], &[u8], bool),
    ) -> Step {
        if !self.is_sibling(id) {
            return self.refuse_stranger(id);
        }
        self.work += 2;
        let Some(account) = self.accounts.find(account) else { return Step::Done };
        if !subject::is_valid(subject) {
            self.send_error(id, errors::INVALID_SUBSCRIPTION);
            return Step::Done;
        }
        let is_known = |claim: &Claim| claim.epoch == epoch;
        if !is_listening && !self.serving.claims.get(&id).is_some_and(is_known) {
            return Step::Done;
        }
        let Some(claim) = self.claim(id, epoch) else { return Step::Done };
        if claim.is_closed {
            return Step::Done;
        }
        let number = claim.number;
        let key = (account, Bytes::copy_from_slice(subject));
        let is_changed = if is_listening {
            claim.subjects.insert(key.clone())
        } else {
            claim.subjects.remove(&key)
        };
        if is_changed {
            let interest = EngineInterest::elsewhere(account, epoch, number);
            self.set_elsewhere(&key.1, interest, is_listening);
        }
        self.reconsider();
        Step::Done
    }

    /// What the peer of a route says of the engines of an epoch; `None` if that one is over.
    fn claim(&mut self, id: SessionId, epoch: Epoch) -> Option<&mut Claim> {
        let is_told = !self.backlog.is_telling(id);
        let serving = &mut self.serving;
        let known = serving.claims.get(&id).map(|claim| claim.epoch);
        if known.is_some_and(|known| epoch < known) {
            return None;
        }
        if known.is_none_or(|known| known < epoch) {
            serving.former.extend(serving.claims.remove(&id));
            serving.claim_count += 1;
            let claim = Claim {
                number: serving.claim_count,
                epoch,
                subjects: BTreeSet::new(),
                is_ready: false,
                is_closed: false,
                is_given_up: false,
                is_told,
            };
            serving.claims.insert(id, claim);
        }
        serving.claims.get_mut(&id)
    }

    /// Where the engines of a peer stand.
    pub(super) fn on_engine_state(
        &mut self,
        id: SessionId,
        epoch: Epoch,
        state: EngineState,
    ) -> Step {
        if !self.is_sibling(id) {
            return self.refuse_stranger(id);
        }
        let claims = &mut self.serving.claims;
        let Some(claim) = claims.get_mut(&id).filter(|claim| claim.epoch == epoch) else {
            return Step::Done;
        };
        match state {
            EngineState::Ready => claim.is_ready = true,
            EngineState::Closed => claim.is_closed = true,
            EngineState::Ended => self.end_claim(id),
        }
        self.reconsider();
        Step::Done
    }

    /// What clients say for those that have served is kept; of others nothing is left.
    fn end_claim(&mut self, id: SessionId) {
        let Some(claim) = self.serving.claims.remove(&id) else { return };
        if claim.is_ready {
            self.serving.newest_gone = self.serving.newest_gone.max(Some(claim.epoch));
        }
        if self.serving.predecessor == Some((id, claim.epoch)) {
            self.serving.former.push(claim);
        } else {
            self.forget(claim);
        }
    }

    /// A route is at its end.
    pub(super) fn on_claimant_gone(&mut self, id: SessionId) {
        if self.serving.claims.contains_key(&id) {
            self.end_claim(id);
            self.reconsider();
        }
    }

    /// On all loops: an engine of another member listens, or no longer.
    fn set_elsewhere(&mut self, subject: &Bytes, interest: EngineInterest, is_listening: bool) {
        self.on_elsewhere(subject, interest, is_listening);
        self.mail_all(&Mail::Elsewhere(subject.clone(), interest, is_listening));
    }

    pub(super) fn on_elsewhere(
        &mut self,
        subject: &Bytes,
        interest: EngineInterest,
        is_listening: bool,
    ) {
        self.work += 1;
        let tree = &mut self.accounts[interest.account];
        if is_listening {
            tree.listen(subject, interest);
        } else {
            tree.unlisten(subject, interest);
        }
    }

    /// An engine of this process listens to what is kept.
    pub(super) fn on_own_engine(&mut self, epoch: Epoch) {
        let serving = &mut self.serving;
        if self.home != HOME
            || serving.is_over(epoch)
            || serving.own.is_some_and(|own| epoch <= own.epoch)
        {
            return;
        }
        serving.own = Some(Own { epoch, is_ready: false, is_closed: false });
        self.errands.begin();
        self.reconsider();
    }

    /// The engines of this process have said all that they listen to.
    pub(super) fn on_ready_engines(&mut self, epoch: Epoch) {
        if !self.keeps() {
            return;
        }
        self.on_own_engine(epoch);
        let Some(own) = self.serving.own.as_mut().filter(|own| own.epoch == epoch) else { return };
        own.is_ready = true;
        self.await_keepers();
        self.tell_siblings(epoch, EngineState::Ready);
        self.reconsider();
    }

    /// The engines of an epoch of this process are given nothing more by this loop: what clients
    /// send for them is kept.
    pub(super) fn on_park(&mut self, epoch: Epoch) {
        if !self.keeps() {
            return;
        }
        self.serving.parked = Some(epoch);
        if self.home == HOME {
            self.close_own_engines();
        } else {
            self.on_view(self.serving.view);
        }
    }

    /// The engines of this process are gone, or go.
    pub(super) fn end_own_engines(&mut self) {
        if !self.keeps() {
            return;
        }
        if self.home != HOME {
            self.effects.push_back(Effect::Mail { to: HOME, mail: Mail::EnginesEnded });
            return;
        }
        self.close_own_engines();
        if let Some(own) = self.serving.own {
            // As theirs, while they are known.
            self.tell_done();
            self.serving.own = None;
            self.await_nobody();
            self.tell_siblings(own.epoch, EngineState::Ended);
            self.reconsider();
        }
    }

    fn close_own_engines(&mut self) {
        let Some(own) = self.serving.own.as_mut().filter(|own| !own.is_closed) else { return };
        own.is_closed = true;
        let epoch = own.epoch;
        // What clients say to them is kept until there are others: they listen as long as they are
        // there, and what then takes their place comes into this claim.
        self.serving.claim_count += 1;
        let number = self.serving.claim_count;
        self.serving.closed = Some((epoch, number));
        let (is_ready, is_closed, is_told, is_given_up) = (true, true, true, false);
        let subjects = BTreeSet::new();
        let claim = Claim { number, epoch, subjects, is_ready, is_closed, is_told, is_given_up };
        self.serving.former.push(claim);
        self.tell_siblings(epoch, EngineState::Closed);
        self.reconsider();
    }

    fn tell_siblings(&mut self, epoch: Epoch, state: EngineState) {
        for id in self.routes.registered() {
            // Who is still being told what they listen to hears of it behind that.
            if self.is_sibling(id) && !self.backlog.is_telling(id) {
                self.tell_engine_state(id, epoch, state);
            }
        }
    }

    /// A route was told all that is wanted here.
    pub(super) fn on_news_told(&mut self, id: SessionId) {
        if let Some(claim) = self.serving.claims.get_mut(&id) {
            claim.is_told = true;
            self.reconsider();
        }
        if let Some(epoch) = self.serving.own_epoch()
            && self.is_sibling(id)
        {
            self.tell_engine_state(id, epoch, EngineState::Ready);
        }
    }

    fn tell_engine_state(&mut self, id: SessionId, epoch: Epoch, state: EngineState) {
        let session = self.sessions.get_mut(id).filter(|found| !found.is_ending());
        let Some(session) = session else { return };
        encoder::encode(&Op::EngineState { epoch: epoch.0, state }, session.outbox.tail());
        session.outbox.seal(false);
        self.mark_dirty(id);
    }

    /// Something has changed: who serves now?
    pub(super) fn reconsider(&mut self) {
        let wanted = self.serving.wanted();
        let is_found = matches!(wanted, View::Here(_) | View::Behind { .. });
        let awaits =
            is_found && wanted != self.serving.view && self.serving.awaits_predecessor(wanted);
        self.hear_out(awaits);
        self.set_view(if awaits { View::Away } else { wanted });
    }

    fn set_view(&mut self, view: View) {
        let serving = &mut self.serving;
        if view == serving.view {
            return;
        }
        match view {
            View::Nobody => (serving.away_until, serving.newest_gone) = (None, None),
            View::Away => {
                serving.away_until.get_or_insert(self.now.at + PARKED_FOR);
            }
            View::Here(_) => {
                serving.predecessor = None;
                (serving.away_until, serving.newest_gone) = (None, None);
            }
            View::Behind { route, epoch } => {
                serving.predecessor = Some((route, epoch));
                (serving.away_until, serving.newest_gone) = (None, None);
            }
        }
        self.serving.untold.on_view();
        self.on_view(view);
        self.mail_all(&Mail::Serving(view));
        if view != View::Away {
            self.forget_former();
        }
    }

    /// On each loop: somebody else serves.
    pub(super) fn on_view(&mut self, view: View) {
        let parked = self.serving.parked;
        let is_over = matches!(view, View::Here(epoch) if parked.is_some_and(|at| epoch <= at));
        let view = if is_over { View::Away } else { view };
        self.serving.view = view;
        if view == View::Nobody {
            self.give_up_kept();
        }
        self.send_again();
    }

    /// Those who are gone are listened for no longer.
    fn forget_former(&mut self) {
        for claim in std::mem::take(&mut self.serving.former) {
            self.forget(claim);
        }
    }

    fn forget(&mut self, claim: Claim) {
        let subjects = claim.subjects.into_iter();
        let forgotten = Forgotten { epoch: claim.epoch, claim: claim.number, subjects };
        self.backlog.forgetting.push_back(forgotten);
        self.work_off();
    }

    /// What was waited for has not come.
    pub(super) fn on_serving_due(&mut self) {
        let now = self.now.at;
        self.on_hearing_due();
        self.on_telling_due();
        if self.serving.away_until.is_none_or(|at| now < at) {
            return;
        }
        self.serving.away_until = None;
        // Nobody newer has come: whoever is there is the best there is.
        self.serving.newest_gone = None;
        if matches!(self.serving.wanted(), View::Here(_) | View::Behind { .. }) {
            return self.reconsider();
        }
        self.set_view(View::Nobody);
        // Who has begun and has not come to its end keeps what is said from now on.
        self.reconsider();
    }
}
