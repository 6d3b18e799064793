//! current state as plain structs, for monitoring
//!
//! Raw facts only (spec configuration, 9.3 to 9.8): paging, sorting by request and the documents
//! are the monitor's. One engine tells what it owns; [`Snapshot::merge`] makes the whole of them.

use std::collections::BTreeMap;

use crate::base::id::{ChannelName, ClientId, ConnectionId, QueueGroupName, Subject};
use crate::base::id::{DurableName, Sequence, SubscriptionId};
use crate::base::record::ChannelState;
use crate::engine::Engine;
use crate::engine::channel::Channel;
use crate::engine::subscription::{Subscription, SubscriptionLife};

/// What of an engine is wanted. A list costs a turn of its loop in proportion to its length, so a
/// page asks for what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Counts only.
    Totals,
    /// Channels without their subscriptions.
    Names,
    /// One channel.
    Channel(ChannelName),
    /// Everything.
    All,
}

/// What is counted without any list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Registered clients.
    pub clients: usize,
    /// Channels.
    pub channels: usize,
    /// Online subscriptions, offline durables, one for each offline group.
    pub subscriptions: usize,
    /// Messages in all channels.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What one engine knows, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts of everything.
    pub totals: Totals,
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

/// See [`Snapshot::subscriptions_by_client`].
pub type SubscriptionsByClient<'a> =
    BTreeMap<&'a ClientId, Vec<(&'a ChannelName, &'a SubscriptionSnapshot)>>;

impl Snapshot {
    /// The whole of what several engines told: clients by ID, channels by name.
    #[must_use]
    pub fn merge(parts: Vec<Self>) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.totals.add(part.totals);
            whole.clients.extend(part.clients);
            whole.channels.extend(part.channels);
            whole.traffic.add(part.traffic);
        }
        whole.clients.sort_by(|a, b| a.client.cmp(&b.client));
        whole.channels.sort_by(|a, b| a.channel.cmp(&b.channel));
        whole
    }

    /// The listed subscriptions.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.channels.iter().map(|channel| channel.subscriptions.len()).sum()
    }

    /// The online subscriptions of each client, with their channels, ordered by channel.
    #[must_use]
    pub fn subscriptions_by_client(&self) -> SubscriptionsByClient<'_> {
        let mut all = SubscriptionsByClient::new();
        for channel in &self.channels {
            for found in channel.subscriptions.iter().filter(|found| !found.is_offline) {
                all.entry(&found.client).or_default().push((&channel.channel, found));
            }
        }
        all
    }
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.clients += other.clients;
        self.channels += other.channels;
        self.subscriptions += other.subscriptions;
        self.messages += other.messages;
        self.bytes += other.bytes;
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
    pub fn snapshot(&self, wanted: &Wanted) -> Snapshot {
        let mut snapshot =
            Snapshot { totals: self.totals(), traffic: self.traffic, ..Snapshot::default() };
        let all = self.channels.slab.iter().map(|(_, channel)| channel);
        match wanted {
            Wanted::Totals => {}
            Wanted::Names => {
                snapshot.channels = all.map(|channel| channel_facts(channel, Vec::new())).collect();
            }
            Wanted::Channel(name) => {
                let at = self.channels.find(name.as_bytes());
                let found = at.and_then(|at| self.channels.slab.get(at));
                snapshot.channels.extend(found.map(|found| self.channel_snapshot(found)));
            }
            Wanted::All => {
                snapshot.channels = all.map(|channel| self.channel_snapshot(channel)).collect();
                snapshot.clients = self.client_snapshots();
            }
        }
        snapshot.channels.sort_by(|a, b| a.channel.cmp(&b.channel));
        snapshot
    }

    fn totals(&self) -> Totals {
        let known = &self.clients.known;
        let registered = self.clients.homes.keys().filter(|id| known.contains_key(*id));
        let mut totals = Totals {
            clients: registered.count(),
            channels: self.channels.slab.len(),
            subscriptions: self.subscriptions.by_key.len(),
            ..Totals::default()
        };
        for (_, channel) in &self.channels.slab {
            totals.messages += channel.state.message_count;
            totals.bytes += channel.state.byte_count;
        }
        totals
    }

    fn client_snapshots(&self) -> Vec<ClientSnapshot> {
        let known = &self.clients.known;
        let registered = self.clients.homes.iter().filter(|(id, _)| known.contains_key(*id));
        let clients = registered.map(|(client, home)| ClientSnapshot {
            client: client.clone(),
            heartbeat_inbox: Subject::from(home.info.hb_inbox.clone()),
            connection: ConnectionId::from(home.info.conn_id.clone()),
            failed_heartbeats: home.failed_heartbeats,
        });
        clients.collect()
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
        let found = subscriptions.filter_map(|key| by_key.get(key)).map(subscription_snapshot);
        channel_facts(channel, found.collect())
    }
}

fn channel_facts(channel: &Channel, subscriptions: Vec<SubscriptionSnapshot>) -> ChannelSnapshot {
    ChannelSnapshot { channel: channel.name.clone(), state: channel.state, subscriptions }
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
            totals: Totals { clients: 1, channels: 1, subscriptions: 2, messages: 5, bytes: 50 },
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
        let counted =
            Totals { clients: 3, channels: 3, subscriptions: 6, messages: 15, bytes: 150 };
        assert_eq!(whole.totals, counted);
        let by_client = whole.subscriptions_by_client();
        let of_b: Vec<String> =
            by_client[&ClientId::from("b")].iter().map(|(c, _)| c.to_string()).collect();
        assert_eq!(of_b, ["a", "x"]);
    }
}
