//! The operations of a Raft log, one after the other: what clients, channels and subscriptions
//! there are in the end.
//!
//! Facts: spec clustering, A5 and A7. This is what a node does that has started anew and is not
//! the leader, but for one thing: what a member of a queue group had not acknowledged when it left
//! is handed to the others, which a leader does as well, and a follower is told of too late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::base::time::WallTime;
use crate::proto::{pb, spb};

/// A subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscription {
    /// Its record, as a store has it.
    pub state: spb::SubState,
    /// Sent and not acknowledged.
    pub pending: BTreeSet<u64>,
    /// Whether a client has it: else it is an offline durable, or the shadow of a durable group.
    is_live: bool,
    /// Up to where it is known what was sent to it.
    told_to: u64,
}

impl Subscription {
    fn is_durable(&self) -> bool {
        self.state.is_durable || !self.state.durable_name.is_empty()
    }

    fn is_queue(&self) -> bool {
        !self.state.q_group.is_empty()
    }
}

/// What the members of a queue group have in common.
#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    last_sent: u64,
    /// Not acknowledged by members that left.
    orphans: BTreeSet<u64>,
    recent: Recent,
}

/// A channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Channel {
    /// Tells it from an earlier one of its name; 0 if that is not known.
    pub number: u64,
    /// Where the snapshot says that it begins; 0 if it does not.
    pub first: u64,
    /// The last message.
    pub last: u64,
    /// Subscriptions by their number.
    pub subscriptions: BTreeMap<u64, Subscription>,
    subscription_next: u64,
    groups: BTreeMap<Bytes, Group>,
}

/// All members tell once a second what was sent to them; that can take a while longer.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// Who has so much to tell does it at once, and so before others.
const TOLD_AT_ONCE: usize = 100;
/// More messages than a group is sent in that time.
const UNTOLD_MAX: u64 = 1_000_000;

/// What members of a group have told of before others could.
#[derive(Clone, Debug, Default, PartialEq)]
struct Recent {
    /// When its position was so raised, and what it was before.
    raised: VecDeque<(WallTime, u64)>,
    /// Sent or acknowledged since the first of them.
    told: BTreeSet<u64>,
}

impl Recent {
    fn note(&mut self, clock: WallTime, before: u64, told: &spb::SubSentAndAck) {
        while self.raised.front().is_some_and(|(at, _)| *at + TOLD_WITHIN < clock) {
            self.raised.pop_front();
        }
        let is_early = TOLD_AT_ONCE <= told.sent.len() + told.ack.len();
        if is_early && self.raised.back().is_none_or(|(at, _)| *at < clock) {
            self.raised.push_back((clock, before));
        }
        // Only what lies behind the oldest position that counts is asked for.
        match self.raised.front() {
            None => self.told.clear(),
            Some((_, begin)) => {
                self.told.extend(told.sent.iter().chain(&told.ack));
                self.told = self.told.split_off(begin);
            }
        }
    }

    /// Where the group was when what was sent afterwards may not have been told of.
    fn begin(&self, clock: WallTime, last_sent: u64) -> u64 {
        let mut recent = self.raised.iter().filter(|(at, _)| clock <= *at + TOLD_WITHIN);
        recent.next().map_or(last_sent, |(_, before)| *before)
    }
}

/// Everything but the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Clients by their ID.
    pub clients: BTreeMap<Bytes, spb::ClientInfo>,
    /// Channels by their name.
    pub channels: BTreeMap<Bytes, Channel>,
    /// The time of the newest message so far: the only clock that all nodes have.
    clock: WallTime,
}

impl State {
    /// What a snapshot says.
    #[must_use]
    pub fn of_snapshot(snapshot: &spb::RaftSnapshot) -> Self {
        let clients = snapshot.clients.iter();
        let mut state = Self {
            clients: clients.map(|client| (client.id.clone(), client.clone())).collect(),
            ..Self::default()
        };
        for saved in &snapshot.channels {
            let mut channel = Channel {
                number: saved.channel_id,
                first: saved.first,
                last: saved.last,
                subscription_next: saved.next_sub_id,
                ..Channel::default()
            };
            for subscription in &saved.subscriptions {
                channel.restore(subscription, &state.clients);
            }
            state.channels.insert(saved.channel.clone(), channel);
        }
        state
    }

    /// What follows from one operation.
    pub fn apply(&mut self, operation: &spb::RaftOperation) {
        use spb::raft_operation::Type;
        let number = operation.channel_id;
        let is_close = operation.op_type() == Type::CloseSubscription;
        match operation.op_type() {
            Type::Publish => self.publish(operation.publish_batch.as_ref(), number),
            Type::Subscribe => self.subscribe(operation.sub.as_ref(), number),
            Type::RemoveSubscription | Type::CloseSubscription => {
                if let Some(request) = &operation.unsub {
                    self.unsubscribe(request, is_close);
                }
            }
            Type::SendAndAck => {
                if let Some(told) = &operation.sub_sent_ack {
                    self.send_and_ack(told);
                }
            }
            Type::Connect => self.connect(operation.client_connect.as_ref()),
            Type::Disconnect => {
                if let Some(request) = &operation.client_disconnect {
                    self.close_client(&request.client_id);
                }
            }
            Type::DeleteChannel => {
                let found = self.channels.get(&operation.channel);
                if found.is_some_and(|channel| is_same(channel.number, number)) {
                    self.channels.remove(&operation.channel);
                }
            }
        }
    }

    /// The channel of that name and number; `None` if there is a later one of that name. An earlier
    /// one is gone.
    fn channel(&mut self, name: &Bytes, number: u64) -> Option<&mut Channel> {
        let found = self.channels.get(name).map(|channel| channel.number);
        match found {
            Some(found) if is_same(found, number) => (),
            Some(found) if number < found => return None,
            Some(_) | None => {
                let channel = Channel { number, subscription_next: 1, ..Channel::default() };
                self.channels.insert(name.clone(), channel);
            }
        }
        self.channels.get_mut(name)
    }

    fn publish(&mut self, batch: Option<&spb::RaftBatch>, number: u64) {
        let messages = batch.map(|batch| batch.messages.as_slice()).unwrap_or_default();
        let Some(first) = messages.first() else { return };
        let Some(channel) = self.channel(&first.subject, number) else { return };
        let last = messages.iter().map(|message| message.sequence).max().unwrap_or(0);
        channel.last = channel.last.max(last);
        let newest = messages.iter().map(|message| WallTime(message.timestamp)).max();
        self.clock = self.clock.max(newest.unwrap_or_default());
    }

    fn connect(&mut self, request: Option<&spb::AddClient>) {
        let Some(added) = request else { return };
        let Some(request) = &added.request else { return };
        if added.refresh {
            self.close_client(&request.client_id);
        }
        let info = spb::ClientInfo {
            id: request.client_id.clone(),
            hb_inbox: request.heartbeat_inbox.clone(),
            conn_id: request.conn_id.clone(),
            protocol: request.protocol,
            ping_interval: request.ping_interval,
            ping_max_out: request.ping_max_out,
            is_leaving: false,
        };
        // One that is known stays as it is.
        self.clients.entry(request.client_id.clone()).or_insert(info);
    }

    fn close_client(&mut self, id: &Bytes) {
        if self.clients.remove(id).is_none() {
            return;
        }
        for channel in self.channels.values_mut() {
            let is_its = |it: &Subscription| it.is_live && it.state.client_id == *id;
            let numbers = channel.numbers(is_its);
            numbers.into_iter().for_each(|number| channel.leave(number, false));
        }
    }

    fn subscribe(&mut self, added: Option<&spb::AddSubscription>, number: u64) {
        let Some(added) = added else { return };
        let Some(request) = &added.request else { return };
        let is_known = self.clients.contains_key(&request.client_id);
        let Some(channel) = self.channel(&request.subject, number) else { return };
        if is_known {
            channel.subscribe(request, added);
        }
    }

    fn unsubscribe(&mut self, request: &pb::UnsubscribeRequest, is_close: bool) {
        if !self.clients.contains_key(&request.client_id) {
            return;
        }
        let Some(channel) = self.channels.get_mut(&request.subject) else { return };
        let inbox = &request.inbox;
        let found = channel
            .live_at(|state| state.ack_inbox == *inbox)
            .or_else(|| channel.live_at(|state| state.inbox == *inbox));
        let Some(number) = found else { return };
        if channel.subscriptions[&number].state.client_id == request.client_id {
            channel.leave(number, !is_close);
        }
    }

    fn send_and_ack(&mut self, told: &spb::SubSentAndAck) {
        let clock = self.clock;
        let Some(channel) = self.channel(&told.channel, 0) else { return };
        let Some(number) = channel.live_at(|state| state.ack_inbox == told.ack_inbox) else {
            return;
        };
        let Some(subscription) = channel.subscriptions.get_mut(&number) else { return };
        let last = told.sent.iter().copied().max().unwrap_or(0);
        subscription.state.last_sent = subscription.state.last_sent.max(last);
        subscription.told_to = subscription.told_to.max(last);
        subscription.pending.extend(&told.sent);
        for sequence in &told.ack {
            subscription.pending.remove(sequence);
        }
        if let Some(group) = channel.groups.get_mut(&subscription.state.q_group) {
            group.recent.note(clock, group.last_sent, told);
            group.last_sent = group.last_sent.max(last);
            // Somebody of the group has them now.
            for sequence in told.sent.iter().chain(&told.ack) {
                group.orphans.remove(sequence);
            }
        }
    }

    /// Clients, and channels with their subscriptions as a store has them: a position of a group is
    /// that of a member of it, and what nobody of it has is somebody's.
    #[must_use]
    pub fn finish(mut self) -> Self {
        for channel in self.channels.values_mut() {
            for (name, group) in std::mem::take(&mut channel.groups) {
                let untold = channel.untold(&name, &group, self.clock);
                let mut members = channel.subscriptions.values_mut();
                let Some(member) = members.find(|it| it.state.q_group == name) else { continue };
                member.state.last_sent = member.state.last_sent.max(group.last_sent);
                member.pending.extend(group.orphans);
                member.pending.extend(untold);
            }
        }
        self
    }
}

/// Whether two numbers can be of one channel: servers before 0.16 gave none.
#[must_use]
pub fn is_same(one: u64, other: u64) -> bool {
    one == 0 || other == 0 || one == other
}

impl Channel {
    fn numbers(&self, is_meant: impl Fn(&Subscription) -> bool) -> Vec<u64> {
        let all = self.subscriptions.iter();
        all.filter(|(_, found)| is_meant(found)).map(|(number, _)| *number).collect()
    }

    /// What may have been sent to members of a group that have not told of it yet, though others
    /// have told of later messages.
    fn untold(&self, name: &Bytes, group: &Group, clock: WallTime) -> Vec<u64> {
        let members = || self.subscriptions.values().filter(|it| it.state.q_group == *name);
        let lagging = members().filter(|it| it.is_live).map(|it| it.told_to).min();
        let begin = group.recent.begin(clock, group.last_sent).max(lagging.unwrap_or(u64::MAX));
        let end = group.last_sent.min(self.last);
        let begin = begin.max(end.saturating_sub(UNTOLD_MAX));
        let is_pending = |sequence| members().any(|it| it.pending.contains(&sequence));
        let untold = begin.saturating_add(1)..=end;
        untold.filter(|it| !group.recent.told.contains(it) && !is_pending(*it)).collect()
    }

    fn live_at(&self, is_meant: impl Fn(&spb::SubState) -> bool) -> Option<u64> {
        let mut all = self.subscriptions.iter();
        all.find(|(_, found)| found.is_live && is_meant(&found.state)).map(|(number, _)| *number)
    }

    fn member_of(&self, group: &Bytes) -> impl Fn(&Subscription) -> bool + use<> {
        let group = group.clone();
        move |it| it.state.q_group == group
    }

    /// Takes over a subscription of a snapshot, as a node does at its start.
    fn restore(
        &mut self,
        saved: &spb::SubscriptionSnapshot,
        clients: &BTreeMap<Bytes, spb::ClientInfo>,
    ) {
        let Some(state) = &saved.state else { return };
        let mut restored = Subscription {
            state: state.clone(),
            pending: saved.acks_pending.iter().copied().collect(),
            is_live: false,
            told_to: state.last_sent,
        };
        let is_known = clients.contains_key(&state.client_id);
        let is_durable = restored.is_durable();
        restored.state.is_durable = is_durable;
        self.subscription_next = self.subscription_next.max(state.id.saturating_add(1));
        if !restored.is_queue() {
            if !is_known && !is_durable {
                return;
            }
            restored.is_live = is_known && !state.is_closed;
            restored.state.is_closed = !restored.is_live;
            self.subscriptions.insert(state.id, restored);
            return;
        }
        let group = self.groups.entry(state.q_group.clone()).or_default();
        group.last_sent = group.last_sent.max(state.last_sent);
        let is_shadow = state.client_id.is_empty();
        if is_known || is_shadow && is_durable {
            restored.is_live = is_known;
            self.subscriptions.insert(state.id, restored);
        } else {
            group.orphans.extend(restored.pending);
        }
    }

    fn subscribe(&mut self, request: &pb::SubscriptionRequest, added: &spb::AddSubscription) {
        let (mut queue, mut durable) = (request.q_group.clone(), request.durable_name.clone());
        let is_durable = !durable.is_empty();
        if !queue.is_empty() && is_durable {
            if durable.contains(&b':') {
                return;
            }
            queue = Bytes::from([&durable[..], b":", &queue[..]].concat());
            durable = Bytes::new();
        }
        let mut is_in_group = false;
        let remembered = if queue.is_empty() {
            let is_it = |it: &Subscription| {
                !it.is_queue()
                    && is_durable
                    && it.state.durable_name == durable
                    && it.state.client_id == request.client_id
            };
            self.numbers(is_it).first().copied()
        } else {
            is_in_group = self.groups.contains_key(&queue);
            let is_member = self.member_of(&queue);
            self.numbers(|it| is_member(it) && !it.is_live).first().copied()
        };
        if let Some(number) = remembered {
            let Some(found) = self.subscriptions.get_mut(&number) else { return };
            if found.is_live {
                // A durable that somebody has.
                return;
            }
            found.is_live = true;
            found.told_to = found.state.last_sent;
            found.state.client_id = request.client_id.clone();
            found.state.inbox = request.inbox.clone();
            found.state.ack_inbox = added.ack_inbox.clone();
            found.state.max_in_flight = request.max_in_flight;
            found.state.ack_wait_in_secs = request.ack_wait_in_secs;
            found.state.is_durable = true;
            found.state.is_closed = false;
            return;
        }
        let last_sent = if is_in_group { 0 } else { start_of(request, self.last) };
        let mut told_to = last_sent;
        if !queue.is_empty() {
            let group = self.groups.entry(queue.clone()).or_default();
            group.last_sent = group.last_sent.max(last_sent);
            told_to = group.last_sent;
        }
        let id = if added.id == 0 { self.subscription_next } else { added.id };
        self.subscription_next = self.subscription_next.max(id.saturating_add(1));
        let state = spb::SubState {
            id,
            client_id: request.client_id.clone(),
            q_group: queue,
            inbox: request.inbox.clone(),
            ack_inbox: added.ack_inbox.clone(),
            max_in_flight: request.max_in_flight,
            ack_wait_in_secs: request.ack_wait_in_secs,
            durable_name: durable,
            last_sent,
            is_durable,
            is_closed: false,
        };
        let pending = BTreeSet::new();
        let subscription = Subscription { state, pending, is_live: true, told_to };
        self.subscriptions.insert(id, subscription);
    }

    /// The subscription ends, or a durable goes offline.
    fn leave(&mut self, number: u64, is_unsubscribe: bool) {
        let Some(mut leaver) = self.subscriptions.remove(&number) else { return };
        leaver.is_live = false;
        let keeps = leaver.is_durable() && !is_unsubscribe;
        if !leaver.is_queue() {
            if keeps {
                leaver.state.is_closed = true;
                self.subscriptions.insert(number, leaver);
            }
            return;
        }
        let name = leaver.state.q_group.clone();
        let is_member = self.member_of(&name);
        if !self.numbers(|it| is_member(it) && it.is_live).is_empty() {
            let group = self.groups.entry(name).or_default();
            group.orphans.extend(leaver.pending);
        } else if keeps {
            let group = self.groups.entry(name).or_default();
            leaver.state.client_id = Bytes::new();
            leaver.state.last_sent = leaver.state.last_sent.max(group.last_sent);
            leaver.pending.extend(std::mem::take(&mut group.orphans));
            self.subscriptions.insert(number, leaver);
        } else {
            self.groups.remove(&name);
        }
    }
}

/// Up to where a new subscription counts as served; leaders write down where it starts.
fn start_of(request: &pb::SubscriptionRequest, last: u64) -> u64 {
    match request.start_position() {
        pb::StartPosition::NewOnly => last,
        pb::StartPosition::LastReceived => last.saturating_sub(1),
        pb::StartPosition::SequenceStart => request.start_sequence.saturating_sub(1).min(last),
        // From which message on a time meant is not known any more.
        pb::StartPosition::TimeDeltaStart | pb::StartPosition::First => 0,
    }
}

#[cfg(test)]
mod tests;
