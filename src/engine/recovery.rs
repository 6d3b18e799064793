//! RecoveredState → Engine
//!
//! Facts: spec protocol, sections 2.1 and 17.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::delivery_count::ReaderId;
use crate::base::id::{ClientId, DurableName, QueueGroupName, Sequence, Subject, SubscriptionId};
use crate::base::planted::{self, Bug};
use crate::base::record::{RecoveredChannel, RecoveredSubscription, SubscriptionWrite};
use crate::base::time::Now;
use crate::engine::Engine;
use crate::engine::channel::Life;
use crate::engine::effect::{Effect, Interest, Level};
use crate::engine::pending::Pending;
use crate::engine::queue_group::QueueGroup;
use crate::engine::redelivery::PassKind;
use crate::engine::snapshot::Hold;
use crate::engine::subscription::{
    Cursor, Subscription, SubscriptionKey, SubscriptionLife, durable_key,
};
use crate::proto::spb;

/// The discovery prefix where the configuration names none.
pub const DISCOVER_PREFIX: &str = "_STAN.discover";

/// The store belongs to another cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cluster ID \"{configured}\" does not match recovered value of \"{stored}\"")]
pub struct OtherCluster {
    /// What the configuration says.
    pub configured: String,
    /// What the store says.
    pub stored: String,
}

/// The server's record to serve with, and whether it has to be written (spec protocol, 2.1).
///
/// # Errors
/// When the recovered record is of another cluster.
pub fn server_info(
    recovered: Option<spb::ServerInfo>,
    cluster_id: &str,
    discover_prefix: &str,
) -> Result<(spb::ServerInfo, bool), OtherCluster> {
    let subject = |prefix: &str| Bytes::from(format!("{prefix}.{cluster_id}"));
    let Some(mut info) = recovered else {
        let info = spb::ServerInfo {
            cluster_id: Bytes::from(cluster_id.to_owned()),
            discovery: subject(discover_prefix),
            publish: subject("_STAN.pub"),
            subscribe: subject("_STAN.sub"),
            unsubscribe: subject("_STAN.unsub"),
            close: subject("_STAN.close"),
            sub_close: subject("_STAN.subclose"),
            acks_subs: subject("_STAN.ack"),
            node_id: Bytes::new(),
        };
        return Ok((info, true));
    };
    if info.cluster_id != cluster_id {
        return Err(OtherCluster {
            configured: cluster_id.to_owned(),
            stored: String::from_utf8_lossy(&info.cluster_id).into_owned(),
        });
    }
    let is_repaired = info.sub_close.is_empty();
    if is_repaired {
        info.sub_close = subject("_STAN.subclose");
    }
    Ok((info, is_repaired))
}

impl Engine {
    /// Restores one channel with its subscriptions (spec protocol, 17.2).
    pub(super) fn recover_channel(&mut self, recovered: RecoveredChannel, now: Now) {
        let mut channel = self.new_channel(recovered.channel.detached(), now);
        channel.life = Life::Open;
        channel.state = recovered.state;
        channel.last = recovered.state.last;
        channel.last_timestamp = recovered.last_timestamp;
        channel.subscription_id_max = recovered.subscription_id_max.0;
        channel.record_count = recovered.subscriptions.len() as u64;
        if let Some(window) = channel.window.as_mut().filter(|_| recovered.state.message_count > 0)
        {
            window.expect_past();
        }
        let index = self.channels.insert(channel);
        let mut subscriptions = recovered.subscriptions;
        subscriptions.sort_by_key(|found| found.state.id);
        let mut ghosts = Vec::new();
        for mut found in subscriptions {
            // After a power cut its record can be newer than the messages that were staged with
            // it: whoever comes back to such a position would miss what takes their place.
            let last = recovered.state.last.get();
            if last < found.state.last_sent {
                found.state.last_sent = last;
                // Nor may the next take-over believe it, when messages have come up to there.
                let write = SubscriptionWrite::Update(found.state.clone().into());
                self.commits.subscription(index, &mut self.channels.slab[index], write);
            }
            found.pending.retain(|sequence| *sequence <= recovered.state.last);
            let highest = &mut self.channels.slab[index].subscription_id_max;
            *highest = (*highest).max(found.state.id);
            if self.is_ghost(&found.state) {
                ghosts.push(found);
            } else {
                self.recover_subscription(index, found);
            }
        }
        for ghost in ghosts {
            self.remove_ghost(index, &ghost, now);
        }
        self.absorb_shadows(index, now);
        self.recover_deliveries(index, recovered.deliveries, now.at);
        self.start_inactivity(index, now);
    }

    fn recover_subscription(&mut self, index: usize, recovered: RecoveredSubscription) {
        let state = &recovered.state;
        let client = ClientId::from(state.client_id.clone());
        let is_known = self.clients.known.contains_key(&client);
        let is_durable = is_durable(state);
        let is_queue = !state.q_group.is_empty();
        if is_queue && is_durable && client.is_empty() {
            return self.recover_shadow(index, &recovered);
        }
        if is_queue && !is_known {
            return;
        }
        if !is_queue && is_durable && (state.is_closed || !is_known) {
            let subscription = self.restored(index, &recovered, SubscriptionLife::Offline);
            let channel = &mut self.channels.slab[index];
            let name = durable_key(client.as_bytes(), channel.name.as_bytes(), &state.durable_name);
            let key = SubscriptionKey(self.subscriptions.new_key());
            let former = channel.durables.insert(name, key);
            self.subscriptions.by_key.insert(key, subscription);
            // An operator has made the later one, and its end was not written.
            if let Some(former) = former.and_then(|it| self.subscriptions.by_key.remove(&it)) {
                self.delete_record(index, former.id);
            }
            return;
        }
        if !is_known {
            // Its record stays in the store and counts, as with the reference.
            return;
        }
        let mut subscription = self.restored(index, &recovered, SubscriptionLife::Online);
        // Nothing is sent before it is known whether there is room: the next input says so.
        subscription.is_congested = true;
        let (ack_inbox, position) = (subscription.ack_inbox.clone(), subscription.cursor.last_sent);
        let inbox = subscription.inbox.clone();
        let key = self.adopt(subscription);
        let interest = Interest::Own(key.0);
        self.effects.push_back(Effect::Listen { subject: ack_inbox, interest });
        let needs_listener = self.channels.slab[index].counts();
        self.effects.push_back(Effect::Watch { key: key.0, inbox, needs_listener });
        self.raise_group(key, position);
    }

    /// The position of a group is the highest of its members and its shadow.
    fn raise_group(&mut self, key: SubscriptionKey, position: Sequence) {
        let group = self.subscriptions.by_key.get(&key).and_then(|found| found.group);
        if let Some(group) = group.and_then(|key| self.subscriptions.groups.get_mut(&key)) {
            group.cursor.last_sent = group.cursor.last_sent.max(position);
        }
    }

    /// A member of a durable group whose client is not known.
    fn is_ghost(&self, state: &spb::SubState) -> bool {
        let has_client = !state.client_id.is_empty();
        let is_member = !state.q_group.is_empty() && is_durable(state) && has_client;
        is_member && !self.clients.known.contains_key(&state.client_id[..])
    }

    /// Its messages go to the others of its group: its own end may not have been written, because
    /// the disk was full, before that of its client was.
    fn remove_ghost(&mut self, index: usize, ghost: &RecoveredSubscription, now: Now) {
        let state = &ghost.state;
        let subscription = self.restored(index, ghost, SubscriptionLife::Offline);
        let groups = &self.channels.slab[index].groups;
        if let Some(key) = groups.get(&subscription.queue).copied() {
            if let Some(group) = self.subscriptions.groups.get_mut(&key) {
                group.cursor.last_sent = group.cursor.last_sent.max(subscription.cursor.last_sent);
            }
            self.transfer(key, &subscription, now);
        }
        let name = self.channels.slab[index].name.clone();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let line = format!(
            "Not recovering ghost durable queue subscriber: [{}]:[{}] subject={name} inbox={}",
            text(&state.client_id),
            text(&state.q_group),
            text(&state.inbox),
        );
        self.log(Level::Warning, || line);
        self.delete_record(index, SubscriptionId(state.id));
    }

    fn recover_shadow(&mut self, index: usize, recovered: &RecoveredSubscription) {
        let subscription = self.restored(index, recovered, SubscriptionLife::Offline);
        let (name, position) = (subscription.queue.clone(), subscription.cursor.last_sent);
        let key = SubscriptionKey(self.subscriptions.new_key());
        self.subscriptions.by_key.insert(key, subscription);
        let group_key = self.join_group(index, &name, key, position);
        let Some(group) = self.subscriptions.groups.get_mut(&group_key) else {
            return;
        };
        group.take_out(key);
        group.cursor.last_sent = group.cursor.last_sent.max(position);
        let Some(other) = group.shadow.replace(key) else {
            return;
        };
        let text = format!(
            "Duplicate shadow durable queue consumer (subid={}) for group \"{name}\"",
            recovered.state.id
        );
        let last_of = |key: &SubscriptionKey| {
            self.subscriptions.by_key.get(key).map(|found| found.cursor.last_sent)
        };
        let loser = if last_of(&key) < last_of(&other) { key } else { other };
        if loser == key {
            group.shadow = Some(other);
        }
        self.subscriptions.by_key.remove(&loser);
        self.log(Level::Warning, || text);
    }

    /// Where a group has members the shadow's record is old, or whoever took it over was not
    /// written; then nobody else has its messages.
    fn absorb_shadows(&mut self, index: usize, now: Now) {
        let groups: Vec<_> = self.channels.slab[index].groups.values().copied().collect();
        for key in groups {
            let has_members = |group: &QueueGroup| !group.members.is_empty();
            if self.subscriptions.groups.get(&key).is_some_and(has_members) {
                self.absorb_shadow(key, now);
            }
        }
    }

    /// Redelivers what was pending, then delivers what is new (spec protocol, 17.3): nothing new
    /// goes to a group before what each member has was tried, whoever had it before.
    pub(super) fn start_recovered(&mut self, now: Now) {
        let mut keys: Vec<SubscriptionKey> = self
            .subscriptions
            .by_key
            .iter()
            .filter(|(_, found)| found.is_online() && !found.pending.is_empty())
            .map(|(key, _)| *key)
            .collect();
        keys.sort_unstable();
        for key in &keys {
            let Some(found) = self.subscriptions.by_key.get_mut(key) else { continue };
            found.hold = Some(Hold::Recovered);
            let group = found.group.and_then(|key| self.subscriptions.groups.get_mut(&key));
            if let Some(group) = group {
                group.hold_count += 1;
            }
        }
        for key in keys {
            self.arm_redelivery(key, now);
            self.begin_pass(key, PassKind::Startup, now);
        }
        let indices: Vec<usize> = self.channels.slab.iter().map(|(index, _)| index).collect();
        for index in indices {
            self.deliver_channel(index, now);
        }
    }

    fn restored(
        &self,
        index: usize,
        recovered: &RecoveredSubscription,
        life: SubscriptionLife,
    ) -> Subscription {
        let mut subscription = restored(index, recovered, life);
        if self.channels.slab[index].counts() {
            subscription.reader = subscription.reader_id();
        }
        subscription
    }
}

fn is_durable(state: &spb::SubState) -> bool {
    state.is_durable || !state.durable_name.is_empty()
}

fn restored(
    index: usize,
    recovered: &RecoveredSubscription,
    life: SubscriptionLife,
) -> Subscription {
    let state = &recovered.state;
    // What is pending was sent, whatever the record says that was written last.
    let pending_last = recovered.pending.last().copied().unwrap_or_default();
    let last_sent = Sequence(state.last_sent).max(pending_last);
    let mut subscription = Subscription {
        id: SubscriptionId(state.id),
        channel: index,
        client: ClientId::from(&state.client_id[..]),
        inbox: Subject::from(&state.inbox[..]),
        ack_inbox: Subject::from(&state.ack_inbox[..]),
        durable: DurableName::from(&state.durable_name[..]),
        queue: QueueGroupName::from(&state.q_group[..]),
        group: None,
        reader: ReaderId::default(),
        is_durable: is_durable(state),
        in_flight_max: state.max_in_flight,
        ack_wait_secs: state.ack_wait_in_secs,
        life,
        cursor: Cursor { last_sent, ..Cursor::default() },
        pending: Pending::recovered(recovered.pending.iter().copied()),
        redeliveries: BTreeMap::new(),
        is_stalled: false,
        is_congested: false,
        hold: None,
        is_failing: false,
        pass: None,
        start_text: String::new(),
        unanswered: None,
    };
    let forgets = if subscription.is_durable {
        planted::is(Bug::PendingForgottenDurable)
    } else {
        planted::is(Bug::PendingForgottenPlain)
    };
    if forgets {
        subscription.pending = Pending::default();
    }
    if planted::is(Bug::PositionTooFar) {
        subscription.cursor.last_sent = subscription.cursor.last_sent.next();
    }
    subscription.is_stalled = subscription.is_full();
    subscription
}
