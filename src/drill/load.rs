//! The clients of a drill: publishers, durables, a queue group, and who reads all at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::DrillError;
use super::ledger::{Delivery, LAST, Ledger, MessageId, Received};
use super::patience::Patience;
use super::scenario::Clients;
use crate::base::world;
use crate::client::{
    Client, ClientError, Message, Options, StartAt, Subscription, SubscriptionOptions,
};

/// After this long without an ack a publish has failed.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How soon unacknowledged messages come again: the least that the protocol allows.
const ACK_WAIT: Duration = Duration::from_secs(1);

/// Publishes of one publisher without an ack; more of them wait. So many that who publishes is not
/// held back by what was lost with a member: what is measured is when acks come again.
const IN_FLIGHT_MAX: usize = 65_536;

/// How long readers may take to get everything at the end.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

/// How far a publisher that was held back may be behind its rate; more it does not make up for.
const BEHIND_MAX: Duration = Duration::from_millis(100);

/// Publishes that are open when no ack has come for so long have failed, unless a take-over is
/// still under way.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// How often the last message of a channel is tried.
const LAST_TRIES: usize = 3;

/// The ledger, for all who write in it.
#[derive(Clone, Default)]
pub(crate) struct Notes {
    ledger: Arc<Mutex<Ledger>>,
}

impl Notes {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a channel of a run.
pub(crate) fn channel_name(run: &str, index: usize) -> String {
    format!("drill.{run}.{}", index + 1)
}

/// Where clients go, and what they are called.
#[derive(Clone)]
pub(crate) struct Place {
    /// Addresses, cluster ID, and who clients are.
    pub(crate) login: Options,
    /// Part of the names of all clients and channels: what is there already is left alone.
    pub(crate) run: String,
}

impl Place {
    /// The name of a channel.
    pub(crate) fn channel(&self, index: usize) -> String {
        channel_name(&self.run, index)
    }

    /// Connects a client that is patient enough for a take-over; the first of a kind to the first
    /// server, the second to the second.
    fn connect(&self, kind: &str, index: usize) -> Result<Client, DrillError> {
        let all = &self.login.servers;
        let count = all.len().max(1);
        let id = format!("drill-{}-{kind}-{}", self.run, index + 1);
        let options = Options {
            servers: all.iter().cycle().skip(index % count).take(count).cloned().collect(),
            name: id.clone(),
            client_id: id,
            ack_timeout: ACK_TIMEOUT,
            timeout: ACK_TIMEOUT,
            in_flight_max: IN_FLIGHT_MAX,
            ..self.login.clone()
        };
        let action = format!("no client ({kind} {}) can connect", index + 1);
        Client::connect(options).map_err(DrillError::client(action))
    }
}

/// All publishers, each on a thread of its own.
pub(crate) struct Publishers {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Client>>,
}

impl Publishers {
    /// Connects all, then lets them begin.
    pub(crate) fn start(
        clients: &Clients,
        place: &Place,
        notes: &Notes,
    ) -> Result<Self, DrillError> {
        let is_over = Arc::<AtomicBool>::default();
        let mut publishers = Self { is_over: Arc::clone(&is_over), threads: Vec::new() };
        let connected = (0..clients.publishers).map(|index| place.connect("publisher", index));
        let connected = connected.collect::<Result<Vec<_>, _>>()?;
        for (publisher, client) in connected.into_iter().enumerate() {
            let work = Work {
                publisher,
                pause: Duration::from_secs(1) / u32::try_from(clients.rate).unwrap_or(u32::MAX),
                size: clients.size,
                channels: (0..clients.channels).map(|index| place.channel(index)).collect(),
                notes: notes.clone(),
                is_over: Arc::clone(&is_over),
            };
            let thread = thread::Builder::new()
                .name("drill-publisher".to_owned())
                .spawn(move || {
                    work.publish_all(&client);
                    client
                })
                .map_err(DrillError::io("cannot start a thread"))?;
            publishers.threads.push(thread);
        }
        Ok(publishers)
    }

    /// Stops them, and waits until each publish is acknowledged or has failed; gives how often they
    /// moved to another connection.
    pub(crate) fn finish(mut self, notes: &Notes, patience: &Patience) {
        self.is_over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // One that panicked has said so, and its messages count as failed.
            let Ok(client) = thread.join() else { continue };
            // Each publish is acknowledged or ends by its own time-out; where no ack comes any more
            // the time-outs need not be waited for.
            let (mut count, mut since) = (0, world::instant());
            let _ = patience.is_so_within(ACK_TIMEOUT, || {
                let now = world::instant();
                let ledger = notes.ledger();
                if ledger.ack_count != count || ledger.is_disturbed() {
                    (count, since) = (ledger.ack_count, now);
                }
                drop(ledger);
                client.wait_acked(Duration::ZERO) || QUIET_MAX <= now.since(since)
            });
            notes.ledger().reconnects += client.reconnects();
            // What a server knows of it ends with its heartbeats otherwise.
            if !patience.is_over() && client.server().is_some() {
                let _ = client.close();
            }
        }
    }
}

impl Drop for Publishers {
    /// An error elsewhere must not leave them at work.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

/// What one publisher does.
struct Work {
    publisher: usize,
    pause: Duration,
    size: usize,
    channels: Vec<String>,
    notes: Notes,
    is_over: Arc<AtomicBool>,
}

impl Work {
    fn publish_all(&self, client: &Client) {
        let mut due = world::instant();
        while !self.is_over.load(Ordering::Acquire) {
            let now = world::instant();
            if now < due {
                thread::park_timeout(due.since(now));
                continue;
            }
            due = (due + self.pause).max(now - BEHIND_MAX);
            let Some(message) = self.notes.ledger().publish(self.publisher, now) else { return };
            self.publish(client, message);
            if client.lost().is_some() {
                return;
            }
        }
    }

    fn publish(&self, client: &Client, message: MessageId) {
        let channel = &self.channels[message.number % self.channels.len()];
        let notes = self.notes.clone();
        let on_ack = move |_: &str, result: Result<(), ClientError>| {
            let now = world::instant();
            match result {
                Ok(()) => notes.ledger().acked(message, now),
                // It is closed when nothing more was waited for.
                Err(ClientError::Closed) => {
                    notes.ledger().failed(message, now, "no ack came".to_owned());
                }
                Err(error) => notes.ledger().failed(message, now, error.to_string()),
            }
        };
        if let Err(error) = client.publish_async(channel, message.encode(self.size), on_ack) {
            self.notes.ledger().failed(message, world::instant(), error.to_string());
        }
    }
}

/// All durables, and the members of the queue group.
pub(crate) struct Readers {
    clients: Vec<(Client, Vec<Subscription>)>,
}

impl Readers {
    /// Subscribes all.
    pub(crate) fn start(
        clients: &Clients,
        place: &Place,
        notes: &Notes,
    ) -> Result<Self, DrillError> {
        let durable = SubscriptionOptions {
            start: StartAt::First,
            ack_wait: ACK_WAIT,
            durable: Some("drill".to_owned()),
            ..SubscriptionOptions::default()
        };
        let in_group = SubscriptionOptions { queue: Some("drill".to_owned()), ..durable.clone() };
        let group = "the queue group".to_owned();
        {
            let mut ledger = notes.ledger();
            ledger.groups.push(group.clone());
            ledger.reader_count = clients.durables + usize::from(clients.queue_members > 0);
        }
        let mut readers = Self { clients: Vec::new() };
        for index in 0..clients.durables {
            let client = place.connect("durable", index)?;
            let reader = format!("durable {}", index + 1);
            readers.subscribe(client, (place, clients.channels), notes, (&reader, &durable))?;
        }
        for index in 0..clients.queue_members {
            let client = place.connect("member", index)?;
            readers.subscribe(client, (place, clients.channels), notes, (&group, &in_group))?;
        }
        Ok(readers)
    }

    fn subscribe(
        &mut self,
        client: Client,
        (place, channels): (&Place, usize),
        notes: &Notes,
        (reader, options): (&str, &SubscriptionOptions),
    ) -> Result<(), DrillError> {
        let mut subscriptions = Vec::new();
        for channel in 0..channels {
            let key = (reader.to_owned(), channel);
            notes.ledger().readers.entry(key.clone()).or_default();
            let notes = notes.clone();
            let handler = move |message: Message| {
                notes.ledger().delivered(&key, delivery(&message), world::instant());
            };
            let subscribed = client.subscribe(&place.channel(channel), options.clone(), handler);
            let action = format!("{reader} cannot subscribe");
            subscriptions.push(subscribed.map_err(DrillError::client(action))?);
        }
        self.clients.push((client, subscriptions));
        Ok(())
    }

    /// Waits until every reader got what is stored, and takes all of them back.
    pub(crate) fn finish(self, notes: &Notes, patience: &Patience) {
        // Who did not get everything shows in the verdict.
        let _ = patience.is_so_within(CATCH_UP_WITHIN, || {
            let ledger = notes.ledger();
            let Some(stored) = &ledger.stored else { return true };
            let has_all = |channel: usize, reader: &Received| {
                let wanted = stored.get(channel).map_or(0, |stored| stored.by_sequence.len());
                wanted <= reader.by_sequence.len()
            };
            ledger.readers.iter().all(|((_, channel), reader)| has_all(*channel, reader))
        });
        for (client, subscriptions) in self.clients {
            notes.ledger().reconnects += client.reconnects();
            if patience.is_over() {
                continue;
            }
            // The verdict is made; what a server does not answer now its heartbeats end.
            for subscription in subscriptions {
                let _ = subscription.unsubscribe();
            }
            let _ = client.close();
        }
    }
}

fn delivery(message: &Message) -> Delivery {
    Delivery {
        sequence: message.sequence,
        message: MessageId::decode(&message.data),
        timestamp: message.timestamp,
        is_redelivered: message.is_redelivered,
    }
}

/// Reads every channel from its start up to a last message, which is published here.
pub(crate) fn read_back(
    channels: usize,
    place: &Place,
    patience: &Patience,
) -> Result<Vec<Received>, DrillError> {
    let client = place.connect("reader", 0)?;
    let mut stored = Vec::new();
    for index in 0..channels {
        let channel = place.channel(index);
        let last = publish_last(&client, &channel)?;
        let received = Arc::new(Mutex::new((Received::default(), false)));
        let noting = Arc::clone(&received);
        let options = SubscriptionOptions { start: StartAt::First, ..Default::default() };
        let handler = move |message: Message| {
            let delivery = delivery(&message);
            let mut noted = noting.lock().unwrap_or_else(PoisonError::into_inner);
            noted.1 |= delivery.message == Some(last);
            noted.0.note(delivery);
        };
        let subscribed = client.subscribe(&channel, options, handler);
        let subscription =
            subscribed.map_err(DrillError::client(format!("{channel} cannot be read back")))?;
        let read = || received.lock().unwrap_or_else(PoisonError::into_inner);
        if !patience.is_so_within(CATCH_UP_WITHIN, || read().1) {
            let count = read().0.by_sequence.len();
            return Err(DrillError::World(format!(
                "{channel} cannot be read back: {count} messages came, and no more"
            )));
        }
        // It ends with its client otherwise.
        let _ = subscription.close();
        stored.push(read().0.clone());
    }
    let _ = client.close();
    Ok(stored)
}

/// Publishes what ends a channel; gives which message it is.
fn publish_last(client: &Client, channel: &str) -> Result<MessageId, DrillError> {
    let mut number = 0;
    loop {
        let last = MessageId { publisher: LAST, number };
        match client.publish(channel, last.encode(0)) {
            Ok(_) => return Ok(last),
            Err(_) if number + 1 < LAST_TRIES => number += 1,
            Err(error) => {
                let action = format!("{channel} takes nothing at the end");
                return Err(DrillError::client(action)(error));
            }
        }
    }
}
