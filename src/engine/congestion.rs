//! who cannot be sent more because the connection that reads is full
//!
//! What is not sent is not delivered: a new message waits in the store, one that is due again stays
//! with its old deadline, and nothing else of the engine waits with them.

use crate::base::time::Now;
use crate::engine::delivery::Reader;
use crate::engine::redelivery::PassKind;
use crate::engine::snapshot::Hold;
use crate::engine::subscription::SubscriptionKey;
use crate::engine::{Engine, Timer};

impl Engine {
    /// The connection that reads a subscription's inbox is full, or has room.
    pub(super) fn on_room(&mut self, key: SubscriptionKey, has_room: bool, now: Now) {
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        if !found.is_online() {
            return;
        }
        found.is_congested = !has_room;
        if has_room {
            let group = found.group;
            if found.hold == Some(Hold::Counted) && found.pass.is_none() {
                self.timers.arm(Timer::Redelivery(key), now.at);
            }
            self.run_pass(key, now);
            match group {
                Some(group) => {
                    let held = self.subscriptions.groups.get_mut(&group);
                    let held = held.map(|group| std::mem::take(&mut group.held_passes));
                    for member in held.unwrap_or_default() {
                        self.run_pass(member, now);
                    }
                    self.wake_waiter(group, now);
                    self.deliver(Reader::Group(group), now);
                }
                None => self.deliver(Reader::Plain(key), now),
            }
        }
        if !self.is_reading_first(key) {
            self.answer(key);
        }
    }

    /// Whether a pass has to wait for room: in the connection of its subscription, or in any of a
    /// group's where each member may get the message.
    pub(super) fn must_hold(&mut self, key: SubscriptionKey, kind: PassKind) -> bool {
        let by_key = &self.subscriptions.by_key;
        let Some(found) = by_key.get(&key) else {
            return false;
        };
        let group = found.group.filter(|_| kind == PassKind::Timer);
        let Some(group) = group.and_then(|group| self.subscriptions.groups.get_mut(&group)) else {
            return found.is_congested;
        };
        let mut members = group.members.iter().filter_map(|member| by_key.get(member));
        let mut is_congested = false;
        if members.any(|member| {
            is_congested |= member.is_online() && member.is_congested;
            member.is_ready()
        }) || !is_congested
        {
            return false;
        }
        group.held_passes.push(key);
        true
    }
}
