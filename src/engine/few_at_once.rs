//! where only a few messages of a subscription may be out for more than the first time
//!
//! What is due again waits, in the order in which it was due, until one that is out is acknowledged
//! or due itself; what waits and what is out keep no new ones off. In a queue group it waits at the
//! member that has it, and goes to any that may take one more.

use crate::base::id::Sequence;
use crate::base::limits::NEXT_REDELIVERY_DELAY;
use crate::base::time::Now;
use crate::engine::queue_group::{GroupKey, pick};
use crate::engine::redelivery::PassKind;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::engine::{Engine, Timer};

/// How many more may be out at a subscription that may have so many.
fn places_of(found: &Subscription, most: usize) -> usize {
    if found.is_online() && !found.is_congested {
        most.saturating_sub(found.pending.out_count())
    } else {
        0
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
            group.waiters.insert(key);
        }
        // It counts as work of the turn.
        self.reads.count_sent(0);
        true
    }

    /// How many that wait at a subscription may go out now.
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

    /// Who gets a message that is due again: the member whose turn it is, whoever has it, or anyone
    /// who may take one more. `None` if nobody may.
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

    /// One of few is out no more: one that waits goes out soon.
    pub(super) fn free_place(&mut self, key: SubscriptionKey, now: Now) {
        let Some(found) = self.subscriptions.by_key.get(&key) else { return };
        if found.pending.has_waiting() {
            self.wake(key, now);
        } else if let Some(group) = found.group {
            self.wake_waiter(group, now);
        }
    }

    /// A member of a group may take one more: one that waits at any member goes out soon.
    pub(super) fn wake_waiter(&mut self, group: GroupKey, now: Now) {
        let Some(group) = self.subscriptions.groups.get_mut(&group) else { return };
        while let Some(waiter) = group.waiters.first().copied() {
            let found = self.subscriptions.by_key.get(&waiter);
            if found.is_some_and(|found| found.is_online() && found.pending.has_waiting()) {
                return self.wake(waiter, now);
            }
            group.waiters.pop_first();
        }
    }

    fn wake(&mut self, key: SubscriptionKey, now: Now) {
        let at = now.at + NEXT_REDELIVERY_DELAY;
        let armed = self.timers.deadline(&Timer::Redelivery(key));
        self.timers.arm(Timer::Redelivery(key), armed.map_or(at, |armed| at.min(armed)));
    }
}
