//! members that share one position; whose turn it is

use std::collections::BTreeMap;

use crate::base::delivery_count::ReaderId;
use crate::base::hash::QuickMap;
use crate::base::id::{QueueGroupName, Sequence};
use crate::base::planted::{self, Bug};
use crate::base::record::SubscriptionWrite;
use crate::base::time::Now;
use crate::base::{id::SubscriptionId, limits::TRANSFER_REDELIVERY_DELAY};
use crate::engine::few_at_once::Waiters;
use crate::engine::roster::Roster;
use crate::engine::subscription::{Cursor, Subscription, SubscriptionKey, SubscriptionLife};
use crate::engine::{Engine, Timer};

/// Names a queue group within its engine; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupKey(pub(super) u64);

/// One queue group of one channel.
#[derive(Debug)]
pub(super) struct QueueGroup {
    pub(super) name: QueueGroupName,
    pub(super) channel: usize,
    /// In the order in which they are picked.
    pub(super) members: Roster,
    /// What is left of a durable group without members.
    pub(super) shadow: Option<SubscriptionKey>,
    pub(super) cursor: Cursor,
    pub(super) redeliveries: BTreeMap<Sequence, u32>,
    /// As whom its members read, where deliveries are counted.
    pub(super) reader: Option<ReaderId>,
    /// Members whose recovered messages have not been tried yet: nothing new goes out before.
    pub(super) hold_count: usize,
    /// Members with messages to be sent again, for which no member's connection has room.
    pub(super) held_passes: Vec<SubscriptionKey>,
    /// Members with messages that wait until fewer are out.
    pub(super) waiters: Waiters,
}

impl QueueGroup {
    /// A member is one no longer, and nothing that it had waits at it.
    pub(super) fn take_out(&mut self, key: SubscriptionKey) {
        self.members.take_out(key);
        self.waiters.remove(key);
    }
}

/// The member that gets the next message (spec protocol, 14.2); `None` if nobody can.
pub(super) fn pick(
    group: &mut QueueGroup,
    by_key: &QuickMap<SubscriptionKey, Subscription>,
) -> Option<SubscriptionKey> {
    let is_ready = |key: &&SubscriptionKey| by_key.get(*key).is_some_and(Subscription::is_ready);
    let best = group
        .members
        .iter()
        .filter(is_ready)
        .filter(|key| !by_key[*key].is_stalled && !by_key[*key].is_failing)
        // The first of equals: `min_by_key` gives it.
        .min_by_key(|key| by_key[*key].pending.len())
        .or_else(|| group.members.iter().find(is_ready))
        .copied()?;
    if group.members.first() == Some(best) && group.members.len() > 1 {
        group.members.turn();
    }
    Some(best)
}

impl Engine {
    /// Adds a member; the first one makes the group, and gives it its position.
    pub(super) fn join_group(
        &mut self,
        channel: usize,
        name: &QueueGroupName,
        key: SubscriptionKey,
        position: Sequence,
    ) -> GroupKey {
        let existing = self.channels.slab[channel].groups.get(name).copied();
        let is_counted = self.channels.slab[channel].counts();
        let group = existing.unwrap_or_else(|| {
            let group = GroupKey(self.subscriptions.new_key());
            self.channels.slab[channel].groups.insert(name.clone(), group);
            let fresh = QueueGroup {
                name: name.clone(),
                channel,
                members: Roster::default(),
                shadow: None,
                cursor: Cursor { last_sent: position, ..Cursor::default() },
                redeliveries: BTreeMap::new(),
                reader: is_counted.then(|| ReaderId::of_group(name.as_bytes())),
                hold_count: 0,
                held_passes: Vec::new(),
                waiters: Waiters::default(),
            };
            self.subscriptions.groups.insert(group, fresh);
            group
        });
        if let Some(found) = self.subscriptions.groups.get_mut(&group) {
            found.members.push(key);
        }
        if let Some(found) = self.subscriptions.by_key.get_mut(&key) {
            found.group = Some(group);
        }
        group
    }

    /// Takes a group out of its tables.
    pub(super) fn forget_group(&mut self, key: GroupKey) {
        if let Some(group) = self.subscriptions.groups.remove(&key) {
            self.reads.forget(&group.cursor);
            if let Some(reader) = group.reader {
                self.forget_reader(group.channel, reader);
            }
            let members = group.members.iter().chain(&group.shadow);
            for member in members.copied().collect::<Vec<_>>() {
                self.forget_subscription(member);
            }
            if let Some(channel) = self.channels.slab.get_mut(group.channel)
                && channel.groups.get(&group.name) == Some(&key)
            {
                channel.groups.remove(&group.name);
            }
        }
    }

    /// Members of a group whose records are written. Not all are looked at: a group can be large,
    /// and a client that closes may be each of its members.
    pub(super) fn online_members(&self, group: GroupKey) -> impl Iterator<Item = SubscriptionKey> {
        let members = self.subscriptions.groups.get(&group).map(|group| group.members.iter());
        let is_online = |key: &SubscriptionKey| {
            self.subscriptions.by_key.get(key).is_some_and(Subscription::is_online)
        };
        members.into_iter().flatten().copied().filter(is_online)
    }

    /// The shadow hands its messages to the members.
    pub(super) fn absorb_shadow(&mut self, group: GroupKey, now: Now) {
        let shadow = self.subscriptions.groups.get_mut(&group).and_then(|it| it.shadow.take());
        if let Some(shadow) = shadow.and_then(|key| self.subscriptions.by_key.remove(&key)) {
            self.transfer(group, &shadow, now);
            self.delete_record(shadow.channel, shadow.id);
        }
    }

    /// Deals the pending messages of a member that left among the others (spec protocol, 13.4).
    pub(super) fn transfer(&mut self, group: GroupKey, leaver: &Subscription, now: Now) {
        // One for each message, and one that keeps the position.
        let receivers_max = leaver.pending.len().max(1);
        let online: Vec<_> = self.online_members(group).take(receivers_max).collect();
        let Some(found) = self.subscriptions.groups.get_mut(&group) else {
            return;
        };
        let index = found.channel;
        let members = match found.shadow {
            _ if !online.is_empty() => online,
            Some(shadow) => vec![shadow],
            None => found.members.iter().copied().take(receivers_max).collect(),
        };
        let mut pending: Vec<_> = leaver.pending.iter().map(|(seq, due)| (due, seq)).collect();
        pending.sort_unstable();
        if planted::is(Bug::LeaverKeepsPending) {
            pending.clear();
        }
        let overdue = now.at - std::time::Duration::from_secs(1);
        let was_highest = leaver.cursor.last_sent == found.cursor.last_sent;
        let is_moved = leaver.pending.contains(found.cursor.last_sent);
        let position = found.cursor.last_sent;
        for ((_, sequence), key) in pending.iter().zip(members.iter().cycle()) {
            let Some(receiver) = self.subscriptions.by_key.get_mut(key) else {
                continue;
            };
            receiver.pending.set(*sequence, overdue);
            receiver.cursor.last_sent = receiver.cursor.last_sent.max(*sequence);
            let write = SubscriptionWrite::Sent(receiver.id, *sequence);
            self.commits.subscription(index, &mut self.channels.slab[index], write);
        }
        if was_highest && !is_moved {
            self.keep_position(&members, index, position);
        }
        let is_offline = |key: &SubscriptionKey| {
            self.subscriptions
                .by_key
                .get(key)
                .is_some_and(|it| it.life == SubscriptionLife::Offline)
        };
        for key in members.iter().filter(|key| !is_offline(key)).take(pending.len()) {
            self.timers.arm(Timer::Redelivery(*key), now.at + TRANSFER_REDELIVERY_DELAY);
        }
    }

    /// Writes the group's position to one member, so that a restart does not rewind the group.
    fn keep_position(&mut self, members: &[SubscriptionKey], index: usize, position: Sequence) {
        let Some(keeper) = members.first().and_then(|key| self.subscriptions.by_key.get_mut(key))
        else {
            return;
        };
        if keeper.cursor.last_sent < position {
            keeper.cursor.last_sent = position;
            let write = SubscriptionWrite::Update(keeper.record().into());
            self.commits.subscription(index, &mut self.channels.slab[index], write);
        }
    }

    /// Stages the end of a record.
    pub(super) fn delete_record(&mut self, index: usize, id: SubscriptionId) {
        let channel = &mut self.channels.slab[index];
        channel.record_count = channel.record_count.saturating_sub(1);
        self.commits.subscription(index, channel, SubscriptionWrite::Delete(id));
    }
}
