//! The clients of a drill: a publisher, durables, queue groups, and the replay at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use stanby::base::time::Instant;
use stanby::base::world;
use stanby::client::{
    Client, ClientError, Message, Options, StartAt, Subscription, SubscriptionOptions,
};

use super::ledger::{Ledger, Published, Received};
use super::pair::CLUSTER_ID;
use super::{DrillError, Plan, wait_until};

/// After this long without an ack a message counts as unacknowledged.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How soon unacknowledged messages come again: the least that the protocol allows.
const ACK_WAIT: Duration = Duration::from_secs(1);

/// How long readers may take to get everything at the end.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// What the clients share.
#[derive(Clone, Default)]
pub struct Notes {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
}

impl Notes {
    /// The ledger, locked.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a message that is going to be published.
    fn publish(&self, key: &(usize, String), sent_at: Instant) {
        let published = Published { sent_at, acked_at: None };
        self.ledger().published.insert(key.clone(), published);
    }
}

/// The name of a channel.
pub fn channel_name(index: usize) -> String {
    format!("drill.{index}")
}

/// Connects a client that is patient enough for a take-over.
pub fn connect(servers: &[String; 2], client_id: &str) -> Result<Client, ClientError> {
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut options = Options::new(&servers, CLUSTER_ID, client_id);
    options.ack_timeout = ACK_TIMEOUT;
    options.timeout = ACK_TIMEOUT;
    Client::connect(options)
}

/// The publisher, on a thread of its own.
pub struct Publisher {
    thread: JoinHandle<Result<(), ClientError>>,
    stop: Arc<AtomicBool>,
}

impl Publisher {
    /// Publishes one message after the other to all channels in turn, without waiting for acks.
    pub fn start(
        plan: &Plan,
        servers: &[String; 2],
        notes: &Notes,
        name: &str,
    ) -> Result<Self, DrillError> {
        let client = connect(servers, &format!("drill-{name}"))?;
        let (notes, channels, pause) = (notes.clone(), plan.channels, plan.publish_every);
        let name = name.to_owned();
        let stop = Arc::clone(&notes.stop);
        let thread = thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || publish_all(client, &notes, channels, (&name, pause)))
            .map_err(DrillError::io("cannot start a thread"))?;
        Ok(Self { thread, stop })
    }

    /// Stops, and waits until each message is acknowledged or given up.
    pub fn finish(self) -> Result<(), DrillError> {
        self.stop.store(true, Ordering::Release);
        let result = self.thread.join().map_err(|_| DrillError::said("the publisher panicked"))?;
        Ok(result?)
    }
}

fn publish_all(
    client: Client,
    notes: &Notes,
    channels: usize,
    (name, pause): (&str, Duration),
) -> Result<(), ClientError> {
    let mut number = 0_usize;
    while !notes.stop.load(Ordering::Acquire) {
        let channel = number % channels;
        let content = format!("{name} {number}");
        number += 1;
        let sent_at = world::instant();
        let key = (channel, content.clone());
        notes.publish(&key, sent_at);
        let on_ack = notes.clone();
        client.publish_async(&channel_name(channel), content, move |_, result| {
            if result.is_ok() {
                on_ack.ledger().acked(&key, world::instant());
            }
        })?;
        thread::park_timeout(pause);
    }
    // Each publish is acknowledged or ends by its own time-out.
    let _ = client.wait_acked(ACK_TIMEOUT * 2);
    client.close()
}

/// All durables and queue groups.
pub struct Readers {
    clients: Vec<(Client, Vec<Subscription>)>,
}

impl Readers {
    /// Subscribes: for each channel so many durables, each of a client of its own, and one durable
    /// queue group with so many members.
    pub fn start(plan: &Plan, servers: &[String; 2], notes: &Notes) -> Result<Self, DrillError> {
        let mut clients = Vec::new();
        for index in 0..plan.durables {
            let options = SubscriptionOptions {
                durable: Some("durable".to_owned()),
                ..subscription_options()
            };
            let names = (format!("drill-durable-{index}"), format!("durable {index}"));
            clients.push(subscribe_all(plan.channels, servers, notes, names, &options)?);
        }
        for index in 0..plan.queue_members {
            let options = SubscriptionOptions {
                durable: Some("durable".to_owned()),
                queue: Some("group".to_owned()),
                ..subscription_options()
            };
            let names = (format!("drill-member-{index}"), "queue group".to_owned());
            clients.push(subscribe_all(plan.channels, servers, notes, names, &options)?);
        }
        Ok(Self { clients })
    }

    /// Waits until every reader got as many messages as are stored, and closes the clients.
    pub fn finish(self, notes: &Notes) -> Result<(), DrillError> {
        // Who did not get everything shows in the report.
        let _ = wait_until(CATCH_UP_TIMEOUT, || {
            let ledger = notes.ledger();
            let mut readers = ledger.readers.iter();
            readers.all(|((channel, _), reader)| reader.count() >= ledger.stored[*channel].count())
        });
        for (client, subscriptions) in self.clients {
            for subscription in subscriptions {
                subscription.close()?;
            }
            client.close()?;
        }
        Ok(())
    }
}

fn subscription_options() -> SubscriptionOptions {
    SubscriptionOptions { start: StartAt::First, ack_wait: ACK_WAIT, ..Default::default() }
}

fn subscribe_all(
    channels: usize,
    servers: &[String; 2],
    notes: &Notes,
    (client_id, reader): (String, String),
    options: &SubscriptionOptions,
) -> Result<(Client, Vec<Subscription>), DrillError> {
    let client = connect(servers, &client_id)?;
    let mut subscriptions = Vec::new();
    for channel in 0..channels {
        let key = (channel, reader.clone());
        notes.ledger().readers.entry(key.clone()).or_default();
        let notes = notes.clone();
        let handler = move |message: Message| {
            notes.ledger().readers.entry(key.clone()).or_default().note(&message);
        };
        subscriptions.push(client.subscribe(&channel_name(channel), options.clone(), handler)?);
    }
    Ok((client, subscriptions))
}

/// Reads every channel from its start up to a last message that is published here.
pub fn replay(
    plan: &Plan,
    servers: &[String; 2],
    notes: &Notes,
) -> Result<Vec<Received>, DrillError> {
    let client = connect(servers, "drill-replay")?;
    let mut stored = Vec::new();
    for channel in 0..plan.channels {
        let end = "end of the drill";
        notes.publish(&(channel, end.to_owned()), world::instant());
        client.publish(&channel_name(channel), end)?;
        let received = Arc::new(Mutex::new((Received::default(), false)));
        let noting = Arc::clone(&received);
        let options = SubscriptionOptions { start: StartAt::First, ..Default::default() };
        let handler = move |message: Message| {
            let mut noted = noting.lock().unwrap_or_else(PoisonError::into_inner);
            noted.1 |= message.data == end;
            noted.0.note(&message);
        };
        let subscription = client.subscribe(&channel_name(channel), options, handler)?;
        let read = || received.lock().unwrap_or_else(PoisonError::into_inner);
        if !wait_until(CATCH_UP_TIMEOUT, || read().1) {
            return Err(DrillError(format!(
                "the replay of {} stopped after {} messages",
                channel_name(channel),
                read().0.count()
            )));
        }
        subscription.close()?;
        stored.push(read().0.clone());
    }
    client.close()?;
    Ok(stored)
}
