//! how subscriptions end: unsubscribed, closed, or closed with their client
//!
//! Facts: spec protocol, section 13.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::id::{ChannelName, ClientId};
use crate::base::record::SubscriptionWrite;
use crate::base::time::Now;
use crate::engine::channel::Life;
use crate::engine::commit::After;
use crate::engine::delivery::Reader;
use crate::engine::effect::{Effect, Interest, Level};
use crate::engine::queue_group::GroupKey;
use crate::engine::refusal::Refusal;
use crate::engine::reply::Reply;
use crate::engine::request::Request;
use crate::engine::subscription::{SubscriptionKey, SubscriptionLife, durable_key};
use crate::engine::{Engine, Timer};
use crate::proto::pb;

impl Engine {
    /// An unsubscribe or sub close request.
    pub(super) fn on_leave(
        &mut self,
        request: pb::UnsubscribeRequest,
        is_unsubscribe: bool,
        reply: Reply,
        now: Now,
    ) {
        let is_here = self.channels.find(&request.subject).is_some();
        if !is_here && !self.has_in_partition(&request.subject) {
            // Another server may have it.
            return;
        }
        let name = ChannelName::from(request.subject.clone());
        if self.channels.is_wanted(&name) {
            let request = if is_unsubscribe {
                Request::Unsubscribe(Box::new(request))
            } else {
                Request::SubscriptionClose(Box::new(request))
            };
            return self.wait_for_channel(&name, request, reply);
        }
        match self.find_leaver(&request) {
            Ok(key) => {
                self.remove_subscription(key, is_unsubscribe, now);
                self.do_after(After::Left { reply }, now);
            }
            // A former active has done it, or the whole client has left since.
            Err(_) if reply.is_again() => self.respond(&reply, Bytes::new()),
            Err(refusal) => {
                let what = if is_unsubscribe { "unsub" } else { "sub close" };
                self.log_refused_leave(&request, what, &refusal);
                self.respond_refusal(&reply, &refusal);
            }
        }
    }

    fn log_refused_leave(
        &mut self,
        request: &pb::UnsubscribeRequest,
        what: &str,
        refusal: &Refusal,
    ) {
        let client = String::from_utf8_lossy(&request.client_id);
        let about = if *refusal == Refusal::UnknownChannel {
            format!("unknown channel {}", String::from_utf8_lossy(&request.subject))
        } else if *refusal == Refusal::InvalidSubscription {
            format!("unknown inbox {}", String::from_utf8_lossy(&request.inbox))
        } else {
            "unknown client".to_owned()
        };
        self.log(Level::Error, || format!("[Client:{client}] {what} request for {about}"));
    }

    /// The subscription that a request means: by its ack inbox, else by its delivery inbox.
    fn find_leaver(&self, request: &pb::UnsubscribeRequest) -> Result<SubscriptionKey, Refusal> {
        let index = self.channels.find(&request.subject).ok_or(Refusal::UnknownChannel)?;
        let channel = &self.channels.slab[index];
        if matches!(channel.life, Life::Deleting | Life::Refused) {
            return Err(Refusal::UnknownChannel);
        }
        let by_ack_inbox = self
            .subscriptions
            .by_ack_inbox
            .get(&request.inbox[..])
            .filter(|key| self.channel_of(**key) == Some(index));
        let members = channel
            .groups
            .values()
            .filter_map(|key| self.subscriptions.groups.get(key))
            .flat_map(|group| group.members.iter());
        let key = by_ack_inbox
            .or_else(|| {
                channel.plain.iter().chain(members).find(|key| {
                    self.subscriptions.by_key[*key].inbox.as_bytes() == &request.inbox[..]
                })
            })
            .ok_or(Refusal::InvalidSubscription)?;
        let is_owner = self
            .clients
            .known
            .get(&request.client_id[..])
            .is_some_and(|known| known.subscriptions.contains(key));
        if is_owner { Ok(*key) } else { Err(Refusal::UnknownClient) }
    }

    /// Closes what a leaving client had here.
    pub(super) fn close_subscriptions(
        &mut self,
        client: &ClientId,
        keys: &BTreeSet<SubscriptionKey>,
        now: Now,
    ) {
        let mut groups = BTreeSet::new();
        for key in keys {
            if self.subscriptions.by_key.get(key).is_some_and(|found| found.client == *client) {
                groups.extend(self.take_leave(*key, false, now));
            }
        }
        // Once for each: every member of a large group may be this client's.
        for group in groups {
            self.deliver(Reader::Group(group), now);
        }
    }

    /// Ends an online subscription: deletes, suspends, or hands over to its group (13.1).
    pub(super) fn remove_subscription(
        &mut self,
        key: SubscriptionKey,
        is_unsubscribe: bool,
        now: Now,
    ) {
        if let Some(group) = self.take_leave(key, is_unsubscribe, now) {
            self.deliver(Reader::Group(group), now);
        }
    }

    /// As [`Engine::remove_subscription`]; the group that may get more now.
    fn take_leave(
        &mut self,
        key: SubscriptionKey,
        is_unsubscribe: bool,
        now: Now,
    ) -> Option<GroupKey> {
        let found = &self.subscriptions.by_key[&key];
        let (index, id, is_durable) = (found.channel, found.id, found.is_durable);
        let mut bereaved = None;
        match found.group {
            Some(group) => {
                bereaved = self.leave_group(key, group, is_unsubscribe, now).then_some(group);
            }
            None if is_durable && !is_unsubscribe => {
                self.log_life(key, "Suspended");
                self.suspend(key);
                self.update_record(key);
            }
            None => {
                self.log_life(key, "Removed");
                self.drop_subscription(key);
                self.delete_record(index, id);
            }
        }
        self.start_inactivity(index, now);
        bereaved
    }

    /// Whether others are left. The one that left may have been the only one that was not stalled,
    /// or the only one that held the others up: the group may get more now.
    fn leave_group(
        &mut self,
        key: SubscriptionKey,
        group: GroupKey,
        is_unsubscribe: bool,
        now: Now,
    ) -> bool {
        let found = &self.subscriptions.by_key[&key];
        let (index, id, is_durable) = (found.channel, found.id, found.is_durable);
        let (others_count, has_shadow) =
            self.subscriptions.groups.get(&group).map_or((0, false), |group| {
                (group.members.len().saturating_sub(1), group.shadow.is_some())
            });
        // Who is only being created gets nothing of a durable group: its record may be refused.
        let has_heir = self.online_members(group).any(|member| member != key);
        if has_heir || has_shadow || (others_count > 0 && !is_durable) {
            self.log_life(key, "Removed member from");
            self.go_offline(key);
            if let Some(found) = self.subscriptions.groups.get_mut(&group) {
                found.take_out(key);
            }
            let leaver = self.subscriptions.by_key.remove(&key);
            if let Some(leaver) = leaver {
                self.reads.forget(&leaver.cursor);
                self.release_group_hold(&leaver);
                self.transfer(group, &leaver, now);
            }
            // Last: what a torn write leaves of this has each message with one of them.
            self.delete_record(index, id);
            return true;
        }
        if is_durable && (!is_unsubscribe || others_count > 0) {
            self.log_life(key, "Suspended");
            self.suspend(key);
            self.update_record(key);
        } else {
            self.log_life(key, "Removed");
            self.drop_subscription(key);
            self.forget_group(group);
            self.delete_record(index, id);
        }
        false
    }

    fn update_record(&mut self, key: SubscriptionKey) {
        let found = &self.subscriptions.by_key[&key];
        let (index, write) = (found.channel, SubscriptionWrite::Update(found.record().into()));
        self.commits.subscription(index, &mut self.channels.slab[index], write);
    }

    /// Takes an online subscription out of everything that delivers to it.
    fn go_offline(&mut self, key: SubscriptionKey) {
        self.answer(key);
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        let channel = &mut self.channels.slab[found.channel];
        if found.life != SubscriptionLife::Offline {
            channel.active_count = channel.active_count.saturating_sub(1);
        }
        if found.group.is_none() {
            channel.plain.take_out(key);
        }
        if let Some(known) = self.clients.known.get_mut(&found.client) {
            known.subscriptions.remove(&key);
        }
        if self.subscriptions.by_ack_inbox.get(&found.ack_inbox) == Some(&key) {
            self.subscriptions.by_ack_inbox.remove(&found.ack_inbox);
        }
        if found.is_online() {
            let (subject, interest) = (found.ack_inbox.clone(), Interest::Own(key.0));
            self.effects.push_back(Effect::Unlisten { subject, interest });
            self.effects.push_back(Effect::Unwatch { key: key.0 });
        }
        found.is_congested = false;
        found.pending.end_turns();
        if let Some(pass) = found.pass.take() {
            self.reads.give_up(pass.kept_bytes());
        }
        self.reads.forget(&found.cursor);
        found.cursor.ahead.clear();
        found.cursor.fetching = None;
        self.timers.cancel(&Timer::Redelivery(key));
    }

    /// Makes an online durable, or the last member of a durable group, an offline one.
    pub(super) fn suspend(&mut self, key: SubscriptionKey) {
        self.go_offline(key);
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        found.life = SubscriptionLife::Offline;
        found.hold = None;
        if let Some(group) = found.group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
            group.take_out(key);
            group.shadow = Some(key);
            group.hold_count = 0;
            found.cursor.last_sent = found.cursor.last_sent.max(group.cursor.last_sent);
        }
    }

    /// Takes a subscription out of all tables, and its group with it if it was the last member.
    pub(super) fn drop_subscription(&mut self, key: SubscriptionKey) {
        self.go_offline(key);
        let Some(found) = self.subscriptions.by_key.remove(&key) else {
            return;
        };
        if found.group.is_none() && self.channels.slab[found.channel].counts() {
            self.forget_reader(found.channel, found.reader);
        }
        let channel = &mut self.channels.slab[found.channel];
        if !found.durable.is_empty() {
            let name = durable_key(
                found.client.as_bytes(),
                channel.name.as_bytes(),
                found.durable.as_bytes(),
            );
            channel.durables.remove(&name);
        }
        if let Some(key_of_group) = found.group
            && let Some(group) = self.subscriptions.groups.get_mut(&key_of_group)
        {
            group.take_out(key);
            if group.members.is_empty() && group.shadow.is_none() {
                self.forget_group(key_of_group);
            }
        }
    }

    /// Takes a subscription of a channel that is gone out of the tables.
    pub(super) fn forget_subscription(&mut self, key: SubscriptionKey) {
        self.answer(key);
        let Some(found) = self.subscriptions.by_key.remove(&key) else {
            return;
        };
        if let Some(pass) = &found.pass {
            self.reads.give_up(pass.kept_bytes());
        }
        self.reads.forget(&found.cursor);
        self.timers.cancel(&Timer::Redelivery(key));
        if self.subscriptions.by_ack_inbox.get(&found.ack_inbox) == Some(&key) {
            self.subscriptions.by_ack_inbox.remove(&found.ack_inbox);
        }
        if found.is_online() {
            let (subject, interest) = (found.ack_inbox, Interest::Own(key.0));
            self.effects.push_back(Effect::Unlisten { subject, interest });
            self.effects.push_back(Effect::Unwatch { key: key.0 });
        }
        if let Some(known) = self.clients.known.get_mut(&found.client) {
            known.subscriptions.remove(&key);
        }
    }

    /// Positions beyond what a channel holds, after its sequence was rewound.
    pub(super) fn clamp_positions(&mut self, index: usize) {
        let channel = &self.channels.slab[index];
        let last = channel.last;
        for key in channel.plain.iter().chain(channel.durables.values()) {
            if let Some(found) = self.subscriptions.by_key.get_mut(key) {
                found.cursor.last_sent = found.cursor.last_sent.min(last);
            }
        }
        for key in channel.groups.values() {
            if let Some(group) = self.subscriptions.groups.get_mut(key) {
                group.cursor.last_sent = group.cursor.last_sent.min(last);
                for member in group.members.iter().chain(&group.shadow) {
                    if let Some(found) = self.subscriptions.by_key.get_mut(member) {
                        found.cursor.last_sent = found.cursor.last_sent.min(last);
                    }
                }
            }
        }
    }

    /// Sends `payload` to where an answer is wanted.
    pub(super) fn respond(&mut self, reply: &Reply, payload: Bytes) {
        if let Some(subject) = reply.to.clone() {
            let payload = payload.into();
            self.effects.push_back(Effect::Send { subject, reply: None, payload });
        }
    }
}
