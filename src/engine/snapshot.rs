//! current state as plain structs, for monitoring
//!
//! Raw facts only (spec configuration, 9.3 to 9.8): paging, sorting by request and the documents
//! are the monitor's. One engine tells what it owns; [`Snapshot::merge`] makes the whole of them.

use crate::base::id::{ChannelName, ClientId, ConnectionId, QueueGroupName, Subject};
use crate::base::id::{DurableName, Sequence, SubscriptionId};
use crate::base::record::ChannelState;
use crate::engine::Engine;
use crate::engine::channel::Channel;
use crate::engine::subscription::{Subscription, SubscriptionLife};

/// What one engine knows, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The registered clients whose home the engine is, ordered by ID.
    pub clients: Vec<ClientSnapshot>,
    /// The channels of the engine, ordered by name.
    pub channels: Vec<ChannelSnapshot>,
    /// Traffic since the engine started.
    pub traffic: Traffic,
}

/// Messages and bytes that went through, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Publishes received, counted before they are validated.
    pub in_messages: u64,
    /// Bytes of their whole requests.
    pub in_bytes: u64,
    /// Deliveries and redeliveries.
    pub out_messages: u64,
    /// Bytes of their whole payloads.
    pub out_bytes: u64,
}

/// One registered client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSnapshot {
    /// Its ID.
    pub client: ClientId,
    /// Where it is asked for heartbeats.
    pub heartbeat_inbox: Subject,
    /// Its connection's ID; may be empty.
    pub connection: ConnectionId,
    /// Heartbeats in a row that it did not answer.
    pub failed_heartbeats: u32,
}

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelSnapshot {
    /// Its name.
    pub channel: ChannelName,
    /// Messages, bytes, first and last sequence.
    pub state: ChannelState,
    /// Plain ones (online durables too) in order of creation, then offline durables, then queue
    /// members and the shadows of offline durable groups.
    pub subscriptions: Vec<SubscriptionSnapshot>,
}

/// One subscription, offline durable, or shadow of a durable queue group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionSnapshot {
    /// Its id in the store.
    pub id: SubscriptionId,
    /// Its client; of an offline durable or a shadow the last one. None of a recovered shadow.
    pub client: ClientId,
    /// Where it gets messages.
    pub inbox: Subject,
    /// Where it sends acks.
    pub ack_inbox: Subject,
    /// Empty unless it is a plain durable.
    pub durable_name: DurableName,
    /// Empty unless it is of a queue group; `<durable>:<group>` for durable ones.
    pub queue_name: QueueGroupName,
    /// Durable, in a queue group or not.
    pub is_durable: bool,
    /// A suspended durable or a shadow.
    pub is_offline: bool,
    /// Has as many pending messages as it may have.
    pub is_stalled: bool,
    /// Most pending messages.
    pub in_flight_max: i32,
    /// Seconds until a pending message is redelivered.
    pub ack_wait_secs: i32,
    /// Highest sequence delivered to it.
    pub last_sent: Sequence,
    /// Delivered and not acknowledged.
    pub pending_count: usize,
}

impl Snapshot {
    /// The whole of what several engines told: clients by ID, channels by name.
    #[must_use]
    pub fn merge(parts: Vec<Self>) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.clients.extend(part.clients);
            whole.channels.extend(part.channels);
            whole.traffic.add(part.traffic);
        }
        whole.clients.sort_by(|a, b| a.client.cmp(&b.client));
        whole.channels.sort_by(|a, b| a.channel.cmp(&b.channel));
        whole
    }

    /// Subscriptions as `serverz` counts them: online, offline durables, one per offline group.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.channels.iter().map(|channel| channel.subscriptions.len()).sum()
    }

    /// The online subscriptions of one client, with their channels, ordered by channel.
    pub fn subscriptions_of<'a>(
        &'a self,
        client: &'a ClientId,
    ) -> impl Iterator<Item = (&'a ChannelName, &'a SubscriptionSnapshot)> {
        self.channels.iter().flat_map(move |channel| {
            channel
                .subscriptions
                .iter()
                .filter(move |found| !found.is_offline && found.client == *client)
                .map(move |found| (&channel.channel, found))
        })
    }
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.in_messages += other.in_messages;
        self.in_bytes += other.in_bytes;
        self.out_messages += other.out_messages;
        self.out_bytes += other.out_bytes;
    }
}

impl Engine {
    /// What the engine knows now, for monitoring.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let known = &self.clients.known;
        let registered = self.clients.homes.iter().filter(|(id, _)| known.contains_key(*id));
        let clients = registered.map(|(client, home)| ClientSnapshot {
            client: client.clone(),
            heartbeat_inbox: Subject::from(home.info.hb_inbox.clone()),
            connection: ConnectionId::from(home.info.conn_id.clone()),
            failed_heartbeats: home.failed_heartbeats,
        });
        let mut channels: Vec<ChannelSnapshot> =
            self.channels.slab.iter().map(|(_, channel)| self.channel_snapshot(channel)).collect();
        channels.sort_by(|a, b| a.channel.cmp(&b.channel));
        Snapshot { clients: clients.collect(), channels, traffic: self.traffic }
    }

    fn channel_snapshot(&self, channel: &Channel) -> ChannelSnapshot {
        let by_key = &self.subscriptions.by_key;
        let offline = channel
            .durables
            .values()
            .filter(|key| by_key.get(*key).is_some_and(|found| found.life == OFFLINE));
        let members = channel
            .groups
            .values()
            .filter_map(|key| self.subscriptions.groups.get(key))
            .flat_map(|group| group.members.iter().chain(&group.shadow));
        let subscriptions = channel.plain.iter().chain(offline).chain(members);
        ChannelSnapshot {
            channel: channel.name.clone(),
            state: channel.state,
            subscriptions: subscriptions
                .filter_map(|key| by_key.get(key))
                .map(subscription_snapshot)
                .collect(),
        }
    }
}

const OFFLINE: SubscriptionLife = SubscriptionLife::Offline;

fn subscription_snapshot(found: &Subscription) -> SubscriptionSnapshot {
    SubscriptionSnapshot {
        id: found.id,
        client: found.client.clone(),
        inbox: found.inbox.clone(),
        ack_inbox: found.ack_inbox.clone(),
        durable_name: found.durable.clone(),
        queue_name: found.queue.clone(),
        is_durable: found.is_durable,
        is_offline: found.life == OFFLINE,
        is_stalled: found.is_stalled,
        in_flight_max: found.in_flight_max,
        ack_wait_secs: found.ack_wait_secs,
        last_sent: found.cursor.last_sent,
        pending_count: found.pending.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(client: &str, channel: &str) -> Snapshot {
        let online = SubscriptionSnapshot { client: ClientId::from(client), ..Default::default() };
        let offline = SubscriptionSnapshot { is_offline: true, ..online.clone() };
        Snapshot {
            clients: vec![ClientSnapshot { client: ClientId::from(client), ..Default::default() }],
            channels: vec![ChannelSnapshot {
                channel: ChannelName::from(channel),
                subscriptions: vec![online, offline],
                ..Default::default()
            }],
            traffic: Traffic { in_messages: 1, ..Default::default() },
        }
    }

    #[test]
    fn parts_of_several_engines_make_one_ordered_whole() {
        let whole = Snapshot::merge(vec![part("b", "x"), part("a", "y"), part("b", "a")]);
        let names: Vec<String> = whole.channels.iter().map(|c| c.channel.to_string()).collect();
        assert_eq!(names, ["a", "x", "y"]);
        assert_eq!(whole.clients[0].client, ClientId::from("a"));
        assert_eq!(whole.traffic.in_messages, 3);
        assert_eq!(whole.subscription_count(), 6);
        let of_b: Vec<String> =
            whole.subscriptions_of(&ClientId::from("b")).map(|(c, _)| c.to_string()).collect();
        assert_eq!(of_b, ["a", "x"]);
    }
}
