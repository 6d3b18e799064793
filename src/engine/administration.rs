//! what an operator changes: messages let go, channels, clients and subscriptions ended
//!
//! Each change is staged like what clients ask for, and answered after its commit: so an answered
//! one is there after a take-over, and one that is not answered is there as a whole or not at all.

use std::collections::BTreeMap;

use crate::base::delivery_count::DeliveryCount;
use crate::base::id::{ChannelName, ClientId, Sequence, SubscriptionId};
use crate::base::planted::{self, Bug};
use crate::base::record::{ChannelState, MessageRecord, Purge, SubscriptionWrite};
use crate::base::time::{Instant, Now};
use crate::engine::Engine;
use crate::engine::channel::Life;
use crate::engine::commit::After;
use crate::engine::effect::Effect;
use crate::engine::pending::Pending;
use crate::engine::queue_group::GroupKey;
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::subscription::{SubscriptionKey, SubscriptionLife};

/// To whoever counted on messages that were refused meanwhile.
const OVERTAKEN: &str = "messages that were being published were refused just now, and which ones \
                         are the newest has changed: nothing is let go; ask again";

/// What an operator asks of the engine that has the channel, or is the client's home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The oldest messages of a channel go.
    Purge {
        /// Which channel.
        channel: ChannelName,
        /// How many.
        extent: Extent,
    },
    /// A channel goes with everything in it.
    DeleteChannel {
        /// Which.
        channel: ChannelName,
        /// Whether its subscriptions go with it; else it has to have none.
        with_subscriptions: bool,
    },
    /// A client is closed, as if it had asked for it.
    CloseClient(ClientId),
    /// A subscription is closed, as if its client had asked for it: a durable stays, offline.
    CloseSubscription {
        /// Of which channel.
        channel: ChannelName,
        /// Its id in the store.
        id: SubscriptionId,
    },
    /// A durable that nobody uses goes on elsewhere, with nothing left to acknowledge.
    ResetDurable {
        /// Of which channel.
        channel: ChannelName,
        /// Its id in the store; it gets another one.
        id: SubscriptionId,
        /// Where it goes on.
        to: Position,
    },
    /// A durable that nobody uses goes, with what it has not acknowledged.
    RemoveDurable {
        /// Of which channel.
        channel: ChannelName,
        /// Its id in the store.
        id: SubscriptionId,
    },
}

/// How much of a channel is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything; an empty message stays, which keeps the number of the next one.
    All,
    /// All but so many of the newest.
    Keep(u64),
    /// What lies up to that message, with it.
    To(Sequence),
}

/// The message that a durable gets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The oldest one that is kept.
    First,
    /// The last one.
    Last,
    /// The next one that is published.
    New,
    /// That one; of one that is gone the oldest that is kept.
    At(Sequence),
}

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Messages are gone, or none had to go.
    Purged {
        /// How many.
        removed: u64,
        /// What is left.
        state: ChannelState,
    },
    /// What was to go is gone.
    Gone,
    /// Nothing is changed, and why.
    Refused(String),
}

/// A change that waits for its commit.
#[derive(Debug)]
pub(super) enum Staged {
    /// Of the channel at that place.
    Purge(usize),
    /// A purge that counted on what was refused: its numbers are no longer those that were meant.
    Overtaken,
    /// Of the channel at that place.
    Deletion(usize),
    /// Of the channel at that place.
    Reset(usize, Box<BeforeReset>),
    Other(usize),
}

impl Staged {
    fn channel(&self) -> Option<usize> {
        match self {
            Self::Purge(index)
            | Self::Deletion(index)
            | Self::Reset(index, _)
            | Self::Other(index) => Some(*index),
            Self::Overtaken => None,
        }
    }

    /// Whether it is a reset of that durable.
    pub(super) fn resets(&self, key: SubscriptionKey) -> bool {
        matches!(self, Self::Reset(_, before) if before.key == key)
    }
}

/// A durable as it was before it was reset, in case that is refused.
#[derive(Debug)]
pub(super) struct BeforeReset {
    key: SubscriptionKey,
    id: SubscriptionId,
    reset_id: SubscriptionId,
    last_sent: Sequence,
    pending: Pending,
    redeliveries: BTreeMap<Sequence, u32>,
    is_stalled: bool,
    group: Option<(GroupKey, Sequence, BTreeMap<Sequence, u32>)>,
    counts: Vec<DeliveryCount>,
}

impl Engine {
    /// An operator asks for a change; it is answered with [`Effect::Answer`] and the same token.
    pub(super) fn administer(&mut self, token: u64, change: Change, now: Now) {
        let is_one_step = !matches!(change, Change::Purge { .. });
        let begun = if self.is_draining {
            Err("this member is about to stand by: ask the one that is active then".to_owned())
        } else {
            self.begin_change(token, change, now)
        };
        match begun {
            Ok(None) if is_one_step && planted::is(Bug::ChangeEarly) => {
                self.answer_operator(token, Outcome::Gone);
            }
            Ok(None) => (),
            Ok(Some(outcome)) => self.answer_operator(token, outcome),
            Err(why) => self.answer_operator(token, Outcome::Refused(why)),
        }
    }

    fn answer_operator(&mut self, token: u64, outcome: Outcome) {
        self.effects.push_back(Effect::Answer { token, outcome });
    }

    fn begin_change(
        &mut self,
        token: u64,
        change: Change,
        now: Now,
    ) -> Result<Option<Outcome>, String> {
        match change {
            Change::Purge { channel, extent } => self.begin_purge(token, &channel, extent),
            Change::DeleteChannel { channel, with_subscriptions } => {
                self.begin_deletion(token, &channel, with_subscriptions, now)
            }
            Change::CloseClient(client) => self.close_for_operator(token, &client, now),
            Change::CloseSubscription { channel, id } => {
                let (index, key) = self.find_subscription(&channel, id)?;
                if self.subscriptions.by_key[&key].life != SubscriptionLife::Online {
                    return Err(format!("subscription {id} is not in use"));
                }
                self.remove_subscription(key, false, now);
                self.do_after(After::Administered { token, what: Staged::Other(index) }, now);
                Ok(None)
            }
            Change::ResetDurable { channel, id, to } => {
                let (index, key) = self.find_subscription(&channel, id)?;
                let before = self.reset_durable(index, key, to)?;
                let what = Staged::Reset(index, Box::new(before));
                self.do_after(After::Administered { token, what }, now);
                Ok(None)
            }
            Change::RemoveDurable { channel, id } => {
                let (index, key) = self.find_subscription(&channel, id)?;
                self.remove_durable(index, key)?;
                self.do_after(After::Administered { token, what: Staged::Other(index) }, now);
                Ok(None)
            }
        }
    }

    /// The channel of that name that is there and stays.
    fn find_for_operator(&self, name: &ChannelName) -> Result<usize, String> {
        let index = self
            .channels
            .find(name.as_bytes())
            .ok_or_else(|| format!("there is no channel {}", quoted(name.as_bytes())))?;
        match self.channels.slab[index].life {
            Life::Open => Ok(index),
            Life::Creating | Life::Refused => {
                Err(format!("channel {} is only being created: ask again", quoted(name.as_bytes())))
            }
            Life::Deleting => Err(format!("channel {} is being deleted", quoted(name.as_bytes()))),
        }
    }

    fn begin_purge(
        &mut self,
        token: u64,
        name: &ChannelName,
        extent: Extent,
    ) -> Result<Option<Outcome>, String> {
        let index = self.find_for_operator(name)?;
        let channel = &mut self.channels.slab[index];
        let (state, last) = (channel.state, channel.last);
        let shown = quoted(name.as_bytes());
        let to = match extent {
            Extent::All => last,
            Extent::Keep(count) => Sequence(last.0.saturating_sub(count)),
            Extent::To(to) if last < to => {
                return Err(format!("channel {shown} has no message {to}: its last one is {last}"));
            }
            Extent::To(to) => to,
        };
        // What is only staged is let go behind its own commit.
        let first = if to == last { last } else { to.next() };
        let is_idle = to.0 == 0 || (first <= state.first && to != last);
        if is_idle || (to == last && last.0 == 0) {
            return Ok(Some(Outcome::Purged { removed: 0, state }));
        }
        let stand_in =
            (to == last).then(|| MessageRecord::stand_in(name, last.0, channel.last_timestamp));
        let after = After::Administered { token, what: Staged::Purge(index) };
        self.commits.purge(index, channel, Purge { first, stand_in }, after);
        Ok(None)
    }

    fn begin_deletion(
        &mut self,
        token: u64,
        name: &ChannelName,
        with_subscriptions: bool,
        now: Now,
    ) -> Result<Option<Outcome>, String> {
        let index = self.find_for_operator(name)?;
        let channel = &mut self.channels.slab[index];
        let shown = quoted(name.as_bytes());
        let has_some =
            channel.active_count != 0 || !channel.durables.is_empty() || !channel.groups.is_empty();
        if has_some && !with_subscriptions {
            let why = "it goes with them only if forced";
            return Err(format!("channel {shown} has subscriptions: {why}"));
        }
        if channel.request_count != 0 || channel.last != channel.state.last {
            return Err(format!("channel {shown} is in use just now: ask again"));
        }
        // Its subscriptions end once it is gone: until then they go on, and nothing of them is
        // written.
        channel.life = Life::Deleting;
        self.commits.delete(index, channel);
        self.do_after(After::Administered { token, what: Staged::Deletion(index) }, now);
        Ok(None)
    }

    fn find_subscription(
        &self,
        name: &ChannelName,
        id: SubscriptionId,
    ) -> Result<(usize, SubscriptionKey), String> {
        let index = self.find_for_operator(name)?;
        let is_it = |key: &SubscriptionKey| {
            self.subscriptions.by_key.get(key).is_some_and(|it| it.id == id)
        };
        let key = self.subscriptions_of(index).find(is_it);
        let shown = quoted(name.as_bytes());
        Ok((index, key.ok_or_else(|| format!("channel {shown} has no subscription {id}"))?))
    }

    /// The group of a durable that nobody uses, if it is one of a group.
    fn unused_durable(&self, key: SubscriptionKey) -> Result<Option<GroupKey>, String> {
        let found = &self.subscriptions.by_key[&key];
        let id = found.id;
        if !found.is_durable {
            return Err(format!("subscription {id} is no durable"));
        }
        let members = found.group.and_then(|group| self.subscriptions.groups.get(&group));
        let members = members.into_iter().flat_map(|group| group.members.iter());
        let members = members.filter_map(|member| self.subscriptions.by_key.get(member));
        // Of a group one can be about to join whose record is on its way.
        let mut used = std::iter::once(found).chain(members);
        if let Some(user) = used.find(|found| found.life != SubscriptionLife::Offline) {
            return Err(format!("durable {id} is in use by client {}", user.client));
        }
        Ok(found.group)
    }

    /// The record that says so is a new one, and the old one goes behind it: none of the changes
    /// that a record can have takes all that is pending at once.
    fn reset_durable(
        &mut self,
        index: usize,
        key: SubscriptionKey,
        to: Position,
    ) -> Result<BeforeReset, String> {
        let group_key = self.unused_durable(key)?;
        // What would be taken back if both are refused is what only the first one has found.
        if self.commits.resets(key) {
            return Err("it is being reset just now: ask again".to_owned());
        }
        let channel = &self.channels.slab[index];
        let (first, last) = (channel.state.first, channel.last);
        let next = match to {
            Position::First => first,
            Position::Last => last,
            Position::New => last.next(),
            Position::At(at) if last.next() < at => {
                return Err(format!("there is no message {at}: the last one is {last}"));
            }
            Position::At(at) => at.max(first),
        };
        let reset_id = self.new_subscription_id(index);
        let group = group_key.and_then(|key| self.reset_group(key, next.prev()));
        let reader = self.subscriptions.by_key.get(&key).map(|found| found.reader);
        let counts = reader.map(|reader| self.forget_reader(index, reader)).unwrap_or_default();
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return Err("it is gone".to_owned());
        };
        let before = BeforeReset {
            key,
            id: std::mem::replace(&mut found.id, reset_id),
            reset_id,
            last_sent: std::mem::replace(&mut found.cursor.last_sent, next.prev()),
            pending: if planted::is(Bug::ResetKeepsPending) {
                found.pending.clone()
            } else {
                std::mem::take(&mut found.pending)
            },
            redeliveries: std::mem::take(&mut found.redeliveries),
            is_stalled: std::mem::take(&mut found.is_stalled),
            group,
            counts,
        };
        let create = SubscriptionWrite::Create(found.record().into());
        let writes = [create, SubscriptionWrite::Delete(before.id)];
        self.commits.subscription_writes(index, &mut self.channels.slab[index], writes);
        Ok(before)
    }

    /// A group goes on behind that message; where it was. What was read ahead for a member that had
    /// no room is not what comes next any more.
    fn reset_group(
        &mut self,
        key: GroupKey,
        last_sent: Sequence,
    ) -> Option<(GroupKey, Sequence, BTreeMap<Sequence, u32>)> {
        let group = self.subscriptions.groups.get_mut(&key)?;
        self.reads.forget(&group.cursor);
        group.cursor.ahead.clear();
        group.cursor.fetching = None;
        let former = std::mem::replace(&mut group.cursor.last_sent, last_sent);
        Some((key, former, std::mem::take(&mut group.redeliveries)))
    }

    /// A reset was refused: the durable is where it was, unless somebody uses it already. Then it
    /// stays where that one goes on, and its next record says so.
    fn take_back_reset(&mut self, index: usize, before: BeforeReset, now: Instant) -> bool {
        let Some(found) = self.subscriptions.by_key.get_mut(&before.key) else { return false };
        if found.life != SubscriptionLife::Offline || found.id != before.reset_id {
            return false;
        }
        found.id = before.id;
        found.cursor.last_sent = before.last_sent;
        found.pending = before.pending;
        found.redeliveries = before.redeliveries;
        found.is_stalled = before.is_stalled;
        if let Some((key, last_sent, redeliveries)) = before.group {
            let _ = self.reset_group(key, last_sent);
            if let Some(group) = self.subscriptions.groups.get_mut(&key) {
                group.redeliveries = redeliveries;
            }
        }
        self.commits.keep_record(index, &mut self.channels.slab[index], before.id);
        self.take_back_reader(index, before.counts, now);
        true
    }

    fn remove_durable(&mut self, index: usize, key: SubscriptionKey) -> Result<(), String> {
        let group = self.unused_durable(key)?;
        let id = self.subscriptions.by_key[&key].id;
        self.drop_subscription(key);
        if let Some(group) = group {
            self.forget_group(group);
        }
        self.delete_record(index, id);
        Ok(())
    }

    /// What was staged for an operator is written, or was refused.
    pub(super) fn administered(
        &mut self,
        token: u64,
        what: Staged,
        refused: &[(usize, Refusal)],
        now: Now,
    ) {
        let index = what.channel();
        if let Some((_, refusal)) = refused.iter().find(|(found, _)| Some(*found) == index) {
            let text = refusal.text().to_string();
            let why = match what {
                Staged::Purge(_) | Staged::Overtaken | Staged::Deletion(_) => text,
                Staged::Reset(index, before) => {
                    if self.take_back_reset(index, *before, now.at) {
                        text
                    } else {
                        format!(
                            "a client uses it as it was reset, which is not written yet: {text}"
                        )
                    }
                }
                // As for a client that asks for it: nothing is delivered any more.
                Staged::Other(_) => format!("it is ended, and not written yet: {text}"),
            };
            return self.answer_operator(token, Outcome::Refused(why));
        }
        let outcome = match what {
            Staged::Overtaken => Outcome::Refused(OVERTAKEN.to_owned()),
            Staged::Purge(index) => {
                let channel = &self.channels.slab[index];
                let removed =
                    channel.before_purge.message_count.saturating_sub(channel.state.message_count);
                Outcome::Purged { removed, state: channel.state }
            }
            Staged::Deletion(_) | Staged::Reset(..) | Staged::Other(_) => Outcome::Gone,
        };
        self.answer_operator(token, outcome);
    }

    /// A client that an operator has closed is gone, of which the store may know nothing.
    pub(super) fn closed_for_operators(&mut self, tokens: Vec<u64>, refused: Option<&Refusal>) {
        let outcome = match refused {
            Some(refusal) => {
                Outcome::Refused(format!("it is ended, and not written: {}", refusal.text()))
            }
            None => Outcome::Gone,
        };
        for token in tokens {
            self.answer_operator(token, outcome.clone());
        }
    }
}
