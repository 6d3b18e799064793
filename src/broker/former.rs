//! What engines listened to that are gone, of this process and of others.
//!
//! There are as many of these interests as subscriptions, so they go in portions. Where engines of
//! this process end, each of their interests gives way to one of theirs that is only kept for: to
//! who publishes there it makes no difference which of both it meets. What is kept for them no
//! longer may be met for a while, too: a successor takes it for done, and it is for nobody else.

use std::collections::{BTreeSet, VecDeque, btree_set};

use bytes::Bytes;

use crate::base::epoch::Epoch;
use crate::base::id::{AccountIndex, Subject};
use crate::broker::backlog::BATCH_LEN;
use crate::broker::mail::Mail;
use crate::broker::route::HOME;
use crate::broker::{Broker, Credit, Effect, EngineInterest};

/// Subjects, and which engine listened to each.
pub(super) type Interests = Vec<(Subject, EngineInterest)>;

/// What engines of a loop that are gone listened to.
#[derive(Debug, Default)]
pub(super) struct Retired(VecDeque<btree_set::IntoIter<(Subject, EngineInterest)>>);

impl Retired {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, interests: BTreeSet<(Subject, EngineInterest)>) {
        if !interests.is_empty() {
            self.0.push_back(interests.into_iter());
        }
    }

    fn next(&mut self) -> Option<Interests> {
        let front = self.0.front_mut()?;
        let batch: Interests = front.by_ref().take(BATCH_LEN).collect();
        if front.len() == 0 {
            self.0.pop_front();
        }
        Some(batch)
    }
}

/// What somebody listened to for whom nothing is kept any more.
#[derive(Debug)]
pub(super) struct Forgotten {
    pub epoch: Epoch,
    /// The number of what they said.
    pub claim: u64,
    pub subjects: btree_set::IntoIter<(AccountIndex, Bytes)>,
}

impl EngineInterest {
    /// Whether an engine has as many of them as subscriptions.
    pub(super) fn is_of_subscription(&self) -> bool {
        self.keeper.is_some() && self.credit == Credit::Free
    }
}

impl Broker {
    /// What the engine of this loop listened to, which is gone. Of what takes messages or requests
    /// there is little, and that is counted: it goes at once.
    pub(super) fn retire_engine(&mut self) {
        let mut services = Interests::new();
        for (subject, interest) in std::mem::take(&mut self.engines.listening) {
            if interest.keeper.is_some() {
                services.push((subject, interest));
                continue;
            }
            self.on_engine_unlistens(&subject, interest);
            self.mail_all(&Mail::Unlisten(subject, interest));
        }
        self.retire(services);
        let of_subscriptions = std::mem::take(&mut self.engines.of_subscriptions);
        self.backlog.retiring.add(of_subscriptions);
        self.work_off();
    }

    pub(super) fn retire_some(&mut self, limit: u64) {
        while self.work_done() < limit {
            let Some(batch) = self.backlog.retiring.next() else { return };
            self.retire(batch);
        }
    }

    /// A new engine of this loop begins, which may listen to the same: what is left of the former
    /// one goes before that. Mostly nothing is.
    pub(super) fn retire_rest(&mut self) {
        while let Some(batch) = self.backlog.retiring.next() {
            self.retire(batch);
        }
    }

    fn retire(&mut self, batch: Interests) {
        if batch.is_empty() {
            return;
        }
        self.work += batch.len() as u64;
        if self.home == HOME {
            return self.on_retiring(batch);
        }
        self.effects.push_back(Effect::Mail { to: HOME, mail: Mail::Retiring(batch) });
    }

    /// To the owner of the routes: engines of a loop are gone that have listened to this. If
    /// nobody serves yet, it is kept for.
    pub(super) fn on_retiring(&mut self, batch: Interests) {
        let mut heir = None;
        for (subject, interest) in &batch {
            let key = (interest.account, subject.to_bytes());
            heir = self.serving.keep_for(interest.keeper, key);
        }
        self.on_retired(&batch, heir);
        self.mail_all(&Mail::Retired(batch, heir));
    }

    /// On each loop: the same, and the number of those for whom it is kept.
    pub(super) fn on_retired(&mut self, batch: &[(Subject, EngineInterest)], heir: Option<u64>) {
        self.work += 2 * batch.len() as u64;
        for (subject, interest) in batch {
            if let (Some(number), Some(epoch)) = (heir, interest.keeper) {
                let account = interest.account;
                let kept = EngineInterest::elsewhere(account, epoch, number);
                self.accounts[account].listen(subject.as_bytes(), kept);
            }
            self.on_engine_unlistens(subject, *interest);
        }
    }

    pub(super) fn forget_some(&mut self, limit: u64) {
        while self.work_done() < limit {
            let Some(front) = self.backlog.forgetting.front_mut() else { return };
            let (epoch, claim) = (front.epoch, front.claim);
            let interest = |account| EngineInterest::elsewhere(account, epoch, claim);
            let some = front.subjects.by_ref().take(BATCH_LEN);
            let batch: Vec<_> =
                some.map(|(account, subject)| (subject, interest(account))).collect();
            if front.subjects.len() == 0 {
                self.backlog.forgetting.pop_front();
            }
            self.on_forgotten(&batch);
            self.mail_all(&Mail::Forgotten(batch));
        }
    }

    /// On each loop: for engines of another member nothing is kept any more there.
    pub(super) fn on_forgotten(&mut self, batch: &[(Bytes, EngineInterest)]) {
        for (subject, interest) in batch {
            self.on_elsewhere(subject, *interest, false);
        }
    }
}
