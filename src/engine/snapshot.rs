//! current state as plain structs, for monitoring
//!
//! Raw facts only (spec configuration, 9.3 to 9.8): paging, sorting by request and the documents
//! are the monitor's. One engine tells what it owns; [`Snapshot::merge`] makes the whole of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::{ChannelName, ClientId, ConnectionId, QueueGroupName, Subject};
use crate::base::id::{DurableName, Sequence, SubscriptionId};
use crate::base::limits::PORTION_WORK_MAX;
use crate::base::record::ChannelState;
use crate::base::time::Instant;
use crate::engine::Engine;
use crate::engine::channel::Channel;
use crate::engine::subscription::{Subscription, SubscriptionLife};

/// What of an engine is wanted. A list costs turns of its loop in proportion to its length, so a
/// page asks for what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Only what went through, which is there without any list.
    Traffic,
    /// Counts only.
    Totals,
    /// Channels without their subscriptions.
    Names,
    /// These channels, with their subscriptions.
    Channels(Arc<[ChannelName]>),
    /// All channels, with their subscriptions.
    AllChannels,
    /// This channel, with its subscriptions and what each of them has not acknowledged.
    Pending(ChannelName),
    /// Clients.
    Clients,
    /// Channels with the subscriptions that are of these clients.
    Of(Arc<BTreeSet<ClientId>>),
    /// Everything.
    All,
}

/// Where the next portion begins. Lists may change between two of them: who leaves a channel with
/// very many subscriptions meanwhile can hide another one of them.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// The last client that was looked at.
    client: Option<ClientId>,
    /// Whether all of them were.
    are_clients_done: bool,
    /// The place of the next channel.
    channel: usize,
    /// How many of its subscriptions were looked at.
    subscriptions: usize,
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
    /// What it was to make it, in receivers of a message.
    pub work: u64,
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
    /// Of the deliveries, those of messages that had been sent before.
    pub redelivered_messages: u64,
    /// Messages that were delivered as often as they may be, and are in a channel of dead letters.
    pub dead_letters: u64,
    /// How often such a channel has refused one.
    pub dead_letters_refused: u64,
    /// Messages that were too old to be delivered, of channels with a time to live.
    pub outlived: u64,
    /// Publishes of what a channel had already, of channels with a window for that.
    pub duplicates: u64,
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
    /// Why it gets no new messages now, whatever there is for it.
    pub hold: Option<Hold>,
    /// Most pending messages.
    pub in_flight_max: i32,
    /// Seconds until a pending message is redelivered.
    pub ack_wait_secs: i32,
    /// Highest sequence delivered to it.
    pub last_sent: Sequence,
    /// Delivered and not acknowledged.
    pub pending_count: usize,
    /// The oldest of those, where they were asked for.
    pub pending: Vec<PendingSnapshot>,
}

/// Why a subscription gets no new messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// What it had pending when this server began goes first; its group waits too.
    Recovered,
    /// What a durable that has come back, or the last member of its group, had pending goes first.
    Resumed,
    /// A message that was counted and then found no room goes first.
    Counted,
    /// Its connection is full, or nobody listens where deliveries are counted.
    NoRoom,
    /// It has as many pending messages as it may have.
    Full,
}

impl Hold {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Recovered | Self::Resumed => "what it had pending goes first",
            Self::Counted => "a message that found no room goes first",
            Self::NoRoom => "its connection is full, or nobody listens",
            Self::Full => "as many are not acknowledged as it may have",
        }
    }
}

/// A message that was delivered and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingSnapshot {
    /// Its number.
    pub sequence: Sequence,
    /// When it was delivered last; `None`: before this member took over.
    pub sent_at: Option<Instant>,
    /// How often it was delivered again.
    pub redelivered: u32,
}

/// See [`Snapshot::subscriptions_by_client`].
pub type SubscriptionsByClient<'a> =
    BTreeMap<&'a ClientId, Vec<(&'a ChannelName, &'a SubscriptionSnapshot)>>;

impl Snapshot {
    /// Adds the next portion of the same engine.
    pub fn append(&mut self, next: Self) {
        self.totals.add(next.totals);
        self.clients.extend(next.clients);
        self.traffic = next.traffic;
        self.work += next.work;
        for mut found in next.channels {
            match self.channels.last_mut().filter(|last| last.channel == found.channel) {
                Some(last) => last.subscriptions.append(&mut found.subscriptions),
                None => self.channels.push(found),
            }
        }
    }

    /// The whole of what several engines told: clients by ID, channels by name.
    #[must_use]
    pub fn merge(parts: Vec<Self>) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.totals.add(part.totals);
            whole.clients.extend(part.clients);
            whole.channels.extend(part.channels);
            whole.traffic.add(part.traffic);
            whole.work += part.work;
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
        self.redelivered_messages += other.redelivered_messages;
        self.dead_letters += other.dead_letters;
        self.dead_letters_refused += other.dead_letters_refused;
        self.outlived += other.outlived;
        self.duplicates += other.duplicates;
    }
}

impl Engine {
    /// A portion of what the engine knows, for monitoring, and where the next one begins. Totals
    /// are those of the portion.
    #[must_use]
    pub fn list(&self, wanted: &Wanted, from: Mark) -> (Snapshot, Option<Mark>) {
        let mut portion =
            Portion { engine: self, wanted, mark: from, work: 0, list: Snapshot::default() };
        portion.list.traffic = self.traffic;
        if let Wanted::Traffic = wanted {
            return (portion.list, None);
        }
        let is_done = portion.add_clients() && portion.add_channels();
        let Portion { mut list, mark, work, .. } = portion;
        list.work = work;
        if is_done {
            list.totals.subscriptions = self.subscriptions.by_key.len();
        }
        (list, (!is_done).then_some(mark))
    }
}

/// Work of what is copied; what is looked at only is 1. A portion takes well below a millisecond.
const COPY_WORK: u64 = 4;

/// A part of a snapshot that is being made.
struct Portion<'a> {
    engine: &'a Engine,
    wanted: &'a Wanted,
    mark: Mark,
    work: u64,
    list: Snapshot,
}

impl Portion<'_> {
    fn is_full(&self) -> bool {
        PORTION_WORK_MAX <= self.work
    }

    /// Whether that is all of them.
    fn add_clients(&mut self) -> bool {
        if self.mark.are_clients_done {
            return true;
        }
        let clients = &self.engine.clients;
        let begin = self.mark.client.take();
        let begin = begin.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let are_listed = matches!(self.wanted, Wanted::Clients | Wanted::All);
        for (client, home) in clients.homes.range::<ClientId, _>((begin, Bound::Unbounded)) {
            self.work += 1;
            if clients.known.contains_key(client) {
                self.list.totals.clients += 1;
                if are_listed {
                    self.work += COPY_WORK;
                    self.list.clients.push(ClientSnapshot {
                        client: client.clone(),
                        heartbeat_inbox: Subject::from(home.info.hb_inbox.clone()),
                        connection: ConnectionId::from(home.info.conn_id.clone()),
                        failed_heartbeats: home.failed_heartbeats,
                    });
                }
            }
            if self.is_full() {
                self.mark.client = Some(client.clone());
                return false;
            }
        }
        self.mark.are_clients_done = true;
        true
    }

    /// Whether that is all of them.
    fn add_channels(&mut self) -> bool {
        let slab = &self.engine.channels.slab;
        let places = match self.wanted {
            Wanted::Channels(names) => names.len(),
            Wanted::Pending(_) => 1,
            Wanted::Traffic
            | Wanted::Totals
            | Wanted::Names
            | Wanted::Clients
            | Wanted::Of(_)
            | Wanted::AllChannels
            | Wanted::All => slab.capacity(),
        };
        while self.mark.channel < places {
            if self.is_full() {
                return false;
            }
            self.work += 1;
            let place = self.mark.channel;
            let at = match self.wanted {
                Wanted::Channels(names) => self.engine.channels.find(names[place].as_bytes()),
                Wanted::Pending(name) => self.engine.channels.find(name.as_bytes()),
                Wanted::Traffic
                | Wanted::Totals
                | Wanted::Names
                | Wanted::Clients
                | Wanted::Of(_)
                | Wanted::AllChannels
                | Wanted::All => Some(place),
            };
            if let Some(channel) = at.and_then(|at| slab.get(at))
                && !self.add_channel(channel)
            {
                return false;
            }
            self.mark.channel += 1;
        }
        true
    }

    /// Whether all subscriptions of the channel were looked at.
    fn add_channel(&mut self, channel: &Channel) -> bool {
        let is_first = self.mark.subscriptions == 0;
        if is_first {
            let totals = &mut self.list.totals;
            totals.channels += 1;
            totals.messages += channel.state.message_count;
            totals.bytes += channel.state.byte_count;
        }
        let (mut found, is_whole) = match self.wanted {
            Wanted::Traffic | Wanted::Totals | Wanted::Clients => return true,
            Wanted::Names => (Vec::new(), true),
            Wanted::Channels(_)
            | Wanted::Pending(_)
            | Wanted::Of(_)
            | Wanted::AllChannels
            | Wanted::All => self.subscriptions(channel),
        };
        self.work += COPY_WORK;
        if let Wanted::Of(_) = self.wanted
            && found.is_empty()
        {
            return is_whole;
        }
        found.shrink_to_fit();
        self.list.channels.push(channel_facts(channel, found));
        is_whole
    }

    /// The next subscriptions of a channel, and whether that is all.
    fn subscriptions(&mut self, channel: &Channel) -> (Vec<SubscriptionSnapshot>, bool) {
        let subscriptions = &self.engine.subscriptions;
        let by_key = &subscriptions.by_key;
        let offline = channel
            .durables
            .values()
            .filter(|key| by_key.get(*key).is_some_and(|found| found.life == OFFLINE));
        let members = channel
            .groups
            .values()
            .filter_map(|key| subscriptions.groups.get(key))
            .flat_map(|group| group.members.iter().chain(&group.shadow));
        let all = channel.plain.iter().chain(offline).chain(members);
        let mut list = Vec::new();
        self.work += self.mark.subscriptions as u64 / PASSED_FOR_ONE;
        for key in all.skip(self.mark.subscriptions) {
            if self.is_full() {
                return (list, false);
            }
            self.mark.subscriptions += 1;
            self.work += 1;
            let Some(found) = by_key.get(key) else { continue };
            if let Wanted::Of(clients) = self.wanted
                && !clients.contains(&found.client)
            {
                continue;
            }
            self.work += COPY_WORK;
            let mut told = subscription_snapshot(found);
            if let Wanted::Pending(_) = self.wanted {
                let group = found.group.and_then(|key| subscriptions.groups.get(&key));
                let redeliveries = group.map_or(&found.redeliveries, |group| &group.redeliveries);
                told.pending = match channel.policed.as_ref().filter(|_| channel.counts()) {
                    Some(policed) => {
                        let reader = found.reader;
                        pending_of(found, |sequence| policed.redelivered(reader, sequence))
                    }
                    None => pending_of(found, |sequence| {
                        redeliveries.get(&sequence).copied().unwrap_or(0)
                    }),
                };
                self.work += told.pending.len() as u64;
            }
            list.push(told);
        }
        self.mark.subscriptions = 0;
        (list, true)
    }
}

/// So many entries that were told before are passed over at the price of one.
const PASSED_FOR_ONE: u64 = 64;

fn channel_facts(channel: &Channel, subscriptions: Vec<SubscriptionSnapshot>) -> ChannelSnapshot {
    ChannelSnapshot { channel: channel.name.clone(), state: channel.state, subscriptions }
}

const OFFLINE: SubscriptionLife = SubscriptionLife::Offline;

/// Messages of one subscription that are told: with those of the portion well below a millisecond.
const PENDING_TOLD_MAX: usize = 1_000;

fn pending_of(found: &Subscription, redelivered: impl Fn(Sequence) -> u32) -> Vec<PendingSnapshot> {
    let told = found.pending.iter().take(PENDING_TOLD_MAX);
    told.map(|(sequence, due)| PendingSnapshot {
        sequence,
        sent_at: due.map(|due| Instant(due.0.saturating_sub(nanos(found.ack_wait())))),
        redelivered: redelivered(sequence),
    })
    .collect()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

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
        hold: found.holdup(),
        in_flight_max: found.in_flight_max,
        ack_wait_secs: found.ack_wait_secs,
        last_sent: found.cursor.last_sent,
        pending_count: found.pending.len(),
        pending: Vec::new(),
    }
}

#[cfg(test)]
impl Engine {
    /// All portions at once.
    pub(super) fn snapshot(&self, wanted: &Wanted) -> Snapshot {
        let mut whole = Snapshot::default();
        let mut mark = Some(Mark::default());
        while let Some(from) = mark {
            let (part, next) = self.list(wanted, from);
            assert!(part.work <= PORTION_WORK_MAX + 2 * COPY_WORK, "{} in a turn", part.work);
            whole.append(part);
            mark = next;
        }
        whole
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
            work: 0,
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
