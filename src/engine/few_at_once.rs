//! where only a few messages of a subscription may be out for more than the first time
//!
//! A message that was redelivered and not acknowledged yet is *out*: it has one of the few *places*
//! of the subscription that it was sent to. What is due again and finds no place *waits*, in the
//! order in which it was due, until a message that is out is acknowledged or due itself, which
//! frees its place. What waits and what is out keep no new ones off.
//!
//! In a queue group each member has places of its own. A message waits at the member that had it
//! last, but may go to any member with a free place, who has it from then on. So there are two
//! questions: how many that wait at a subscription may go out ([`Engine::places`]), and to whom the
//! next one goes ([`Engine::taker`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::Sequence;
use crate::base::limits::NEXT_REDELIVERY_DELAY;
use crate::base::time::Now;
use crate::engine::pending::DueAt;
use crate::engine::queue_group::{GroupKey, pick};
use crate::engine::redelivery::PassKind;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::engine::{Engine, Timer};

/// How many places are free at a subscription that has so many. Who is away or has no room takes
/// nothing, so its places are no use to anybody.
fn places_of(found: &Subscription, most: usize) -> usize {
    if found.is_online() && !found.is_congested {
        most.saturating_sub(found.pending.out_count())
    } else {
        0
    }
}

/// Members of a group with messages that wait until fewer are out, by when the first of them was
/// due.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_due: BTreeSet<(DueAt, SubscriptionKey)>,
    noted: BTreeMap<SubscriptionKey, DueAt>,
}

impl Waiters {
    /// What waits at a member was due first then; nothing waits there if that is `None`.
    fn note(&mut self, key: SubscriptionKey, due: Option<DueAt>) {
        self.remove(key);
        if let Some(due) = due {
            self.noted.insert(key, due);
            self.by_due.insert((due, key));
        }
    }

    pub(super) fn remove(&mut self, key: SubscriptionKey) {
        if let Some(due) = self.noted.remove(&key) {
            self.by_due.remove(&(due, key));
        }
    }

    /// The member with what was due first. What was noted of it may have left since; `since` knows.
    fn longest(
        &mut self,
        since: impl Fn(SubscriptionKey) -> Option<DueAt>,
    ) -> Option<SubscriptionKey> {
        while let Some((noted, key)) = self.by_due.first().copied() {
            let due = since(key);
            if due == Some(noted) {
                return Some(key);
            }
            self.note(key, due);
        }
        None
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SubscriptionKey> + '_ {
        self.noted.keys().copied()
    }
}

impl Engine {
    /// How many messages of a subscription may be redelivered at once; 0 = all.
    pub(super) fn redelivered_max(&self, key: SubscriptionKey) -> usize {
        let policed = self.channel_of(key).and_then(|it| self.channels.slab[it].policed.as_ref());
        let most = policed.map_or(0, |policed| policed.policy.redelivered_max);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Lets a message wait that is due again, where few may be out. False where it needs no place:
    /// there all may, or it is to be a dead letter.
    pub(super) fn set_aside(&mut self, key: SubscriptionKey, sequence: Sequence, now: Now) -> bool {
        if self.redelivered_max(key) == 0 {
            return false;
        }
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else { return false };
        let (ack_wait, counted) = (found.ack_wait(), &self.channels.slab[found.channel].policed);
        if let Some(policed) = counted.as_ref().filter(|policed| policed.policy.counts()) {
            if policed.is_being_counted(found.reader, sequence) {
                // It has not left yet, and keeps its place.
                return found.pending.postpone(sequence, now.at + ack_wait);
            }
            if policed.policy.deliveries_max <= policed.redelivered(found.reader, sequence) + 1 {
                found.pending.end_out(sequence);
                return false;
            }
        }
        found.pending.wait(sequence, now.at);
        if let Some(group) = found.group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
            group.waiters.note(key, found.pending.first_waiting());
        }
        // It counts as work of the turn.
        self.reads.count_sent(0);
        true
    }

    /// How many of those that wait at a subscription may go out now: as many as it has free places,
    /// or in a queue group as many as all members have together. After a restart, and where a
    /// durable comes back, a pass is for the subscription alone.
    pub(super) fn places(&mut self, key: SubscriptionKey, kind: PassKind) -> usize {
        let most = self.redelivered_max(key);
        let by_key = &self.subscriptions.by_key;
        let Some(found) = by_key.get(&key).filter(|found| found.pending.has_waiting()) else {
            return 0;
        };
        let group = found.group.filter(|_| kind == PassKind::Timer);
        let Some(group) = group.and_then(|key| self.subscriptions.groups.get(&key)) else {
            return most.saturating_sub(found.pending.out_count());
        };
        self.reads.count_choice(group.members.len());
        let members = group.members.iter().filter_map(|key| by_key.get(key));
        members.map(|member| places_of(member, most)).sum()
    }

    /// Who gets a message of this subscription that is due again. In a queue group it is the first
    /// of these that has a free place: the member whose turn it is, the one that has the message,
    /// and of the others the one that has least to do. `None` if nobody has one: then it waits.
    pub(super) fn taker(
        &mut self,
        key: SubscriptionKey,
        kind: PassKind,
    ) -> Option<SubscriptionKey> {
        let most = self.redelivered_max(key);
        let group = self.subscriptions.by_key.get(&key)?.group.filter(|_| kind == PassKind::Timer);
        let by_key = &self.subscriptions.by_key;
        let has_place = |key: &SubscriptionKey| {
            by_key.get(key).is_some_and(|found| most == 0 || 0 < places_of(found, most))
        };
        let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) else {
            let is_free = most == 0 || by_key.get(&key)?.pending.out_count() < most;
            return is_free.then_some(key);
        };
        self.reads.count_choice(group.members.len());
        let picked = pick(group, by_key)?;
        if let Some(taker) = [picked, key].into_iter().find(has_place) {
            return Some(taker);
        }
        self.reads.count_choice(group.members.len());
        let free = group.members.iter().filter(|member| has_place(member));
        free.min_by_key(|member| {
            let found = &by_key[*member];
            (found.is_failing, found.is_stalled, found.pending.len())
        })
        .copied()
    }

    /// One of few is out no more: the one that has waited longest goes out soon.
    pub(super) fn free_place(&mut self, key: SubscriptionKey, now: Now) {
        let Some(found) = self.subscriptions.by_key.get(&key) else { return };
        match found.group {
            Some(group) => self.wake_waiter(group, now),
            None if found.pending.has_waiting() => self.wake(key, now),
            None => (),
        }
    }

    /// A member of a group may take one more: of all that wait, at whichever member, the one that
    /// was due first goes out soon.
    pub(super) fn wake_waiter(&mut self, group: GroupKey, now: Now) {
        let Some(group) = self.subscriptions.groups.get_mut(&group) else { return };
        let by_key = &self.subscriptions.by_key;
        let since = |waiter| by_key.get(&waiter)?.pending.first_waiting();
        if let Some(longest) = group.waiters.longest(since) {
            self.wake(longest, now);
        }
    }

    fn wake(&mut self, key: SubscriptionKey, now: Now) {
        let at = now.at + NEXT_REDELIVERY_DELAY;
        let armed = self.timers.deadline(&Timer::Redelivery(key));
        self.timers.arm(Timer::Redelivery(key), armed.map_or(at, |armed| at.min(armed)));
    }
}
