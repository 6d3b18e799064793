//! The part of a load that speaks the protocol by hand, without any library.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prost::Message as _;
use stanby::proto::pb;

use super::ledger::{CHANNELS, Got, Ledger, Lost, Publish, Step, now, payload};
use super::stan::{Stan, Sub, all, unique};
use super::verdict::Stored;

const PUBLISHERS: usize = 4;
const PASSERS: usize = 2;

/// How long clients wait for the answer to a publish, whatever their language.
const ACK_PATIENCE: Duration = Duration::from_secs(30);
/// How long they wait for that of a request.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a listener may get nothing more at the end.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What the threads share.
#[derive(Default)]
pub struct Shared {
    is_over: AtomicBool,
    sent: AtomicU64,
    acked: AtomicU64,
    /// How much there is in each channel, once it is known.
    wanted: Mutex<Option<[usize; 4]>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    pub fn unacked(&self) -> u64 {
        self.sent.load(Ordering::Relaxed).saturating_sub(self.acked())
    }
}

/// The threads of all these clients.
pub struct Raw {
    pub shared: Arc<Shared>,
    senders: Vec<(String, JoinHandle<Ledger>)>,
    listener: JoinHandle<Ledger>,
}

impl Raw {
    /// All clients at that port, with so many publishes of each publisher unanswered.
    pub fn start(port: u16, in_flight: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let listening = Arc::clone(&shared);
        let listener = thread::spawn(move || listen(port, &listening));
        let mut senders = Vec::new();
        for number in 0..PUBLISHERS {
            let (name, shared) = (format!("raw-publisher-{number}"), Arc::clone(&shared));
            let own = name.clone();
            senders.push((name, thread::spawn(move || publish((port, in_flight), &own, &shared))));
        }
        for number in 0..PASSERS {
            let (name, shared) = (format!("raw-passer-{number}"), Arc::clone(&shared));
            let own = name.clone();
            senders.push((name, thread::spawn(move || pass(port, &own, &shared))));
        }
        Self { shared, senders, listener }
    }

    /// Ends all but the listener; gives what they did.
    pub fn stop(&mut self) -> Ledger {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut ledger = Ledger::default();
        for (name, thread) in self.senders.drain(..) {
            ledger.merge(ended(&name, thread));
        }
        ledger
    }

    /// Lets the listener get so much of each channel; gives what it got.
    pub fn end(self, wanted: [usize; 4]) -> Ledger {
        *self.shared.wanted.lock().unwrap() = Some(wanted);
        ended("raw-durable", self.listener)
    }
}

/// What a client did; one that could not go on was cut off.
fn ended(name: &str, thread: JoinHandle<Ledger>) -> Ledger {
    let text = |why: Box<dyn Any + Send>| {
        let text = why.downcast_ref::<String>().cloned();
        text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()))
    };
    thread.join().unwrap_or_else(|why| {
        let what = text(why).unwrap_or_default();
        let lost = vec![Lost { client: name.to_owned(), at: now(), what }];
        Ledger { lost, ..Ledger::default() }
    })
}

fn publish((port, in_flight): (u16, usize), name: &str, shared: &Shared) -> Ledger {
    let mut client = Stan::connect(port, name);
    let reply = client.own(&unique());
    let (mut open, mut ledger, mut count) = (BTreeMap::new(), Ledger::default(), 0);
    loop {
        while !shared.is_over() && open.len() < in_flight {
            let message = client.message(CHANNELS[count % CHANNELS.len()], payload(name, count));
            client.publish_async(&message, &reply);
            shared.sent.fetch_add(1, Ordering::Relaxed);
            open.insert(message.guid, (count, now()));
            count += 1;
        }
        if open.is_empty() {
            break;
        }
        let Some(arrived) = client.next_on(&reply, ACK_PATIENCE) else { break };
        let ack = pb::PubAck::decode(arrived.data).unwrap();
        let error = String::from_utf8_lossy(&ack.error).into_owned();
        // Of what is stored twice after a kill the second answer names nothing.
        if let Some((number, sent)) = open.remove(&ack.guid) {
            shared.acked.fetch_add(1, Ordering::Relaxed);
            let (publisher, ended) = (name.to_owned(), now());
            ledger.publishes.push(Publish { publisher, number, sent, ended, error });
        }
    }
    for (number, sent) in open.into_values() {
        let (publisher, error) = (name.to_owned(), format!("no answer in {ACK_PATIENCE:?}"));
        ledger.publishes.push(Publish { publisher, number, sent, ended: now(), error });
    }
    client.close().unwrap();
    ledger
}

/// A durable on every channel that acknowledges by hand.
fn listen(port: u16, shared: &Shared) -> Ledger {
    let name = "raw-durable";
    let mut client = Stan::connect(port, name);
    let durable = |channel| pb::SubscriptionRequest { durable_name: "dur".into(), ..all(channel) };
    let subs: Vec<Sub> = CHANNELS.map(|channel| client.subscribe(durable(channel))).into();
    let (mut ledger, mut seen) = (Ledger::default(), [(); 4].map(|()| BTreeSet::new()));
    let mut newest_at = now();
    loop {
        for (channel, sub) in subs.iter().enumerate() {
            while let Some(arrived) = client.next_on(&sub.inbox, Duration::from_millis(2)) {
                let message = pb::MsgProto::decode(arrived.data).unwrap();
                client.ack(sub, message.sequence);
                seen[channel].insert(message.sequence);
                newest_at = now();
                ledger.got.push(Got {
                    listener: name.to_owned(),
                    channel,
                    sequence: message.sequence,
                    is_again: message.redelivered,
                    payload: String::from_utf8_lossy(&message.data).into_owned(),
                });
            }
        }
        let Some(wanted) = *shared.wanted.lock().unwrap() else { continue };
        let is_whole = seen.iter().zip(wanted).all(|(seen, wanted)| wanted <= seen.len());
        let quiet = Duration::from_nanos(u64::try_from(now() - newest_at).unwrap_or_default());
        if is_whole || CATCH_UP < quiet {
            return ledger;
        }
    }
}

/// Connects, subscribes, publishes, leaves and closes, again and again.
fn pass(port: u16, name: &str, shared: &Shared) -> Ledger {
    let mut ledger = Ledger::default();
    for count in 0_u64.. {
        if shared.is_over() {
            break;
        }
        let mut begun = now();
        let mut step = |what: &str, result: Result<(), String>| {
            let (began, ended) = (begun, now());
            let mut error = result.err().unwrap_or_default();
            if CLIENT_PATIENCE < Duration::from_nanos(u64::try_from(ended - began).unwrap_or(0)) {
                error.push_str("took longer than a client waits");
            }
            let (client, what) = (name.to_owned(), what.to_owned());
            ledger.steps.push(Step { client, what, began, ended, error });
            begun = now();
        };
        let session = Stan::try_connect(port, name);
        step("connect", session.as_ref().map(|_| ()).map_err(String::clone));
        let Ok(mut client) = session else { continue };
        let durable_name = if count % 2 == 0 { "" } else { "passing" };
        let request =
            pb::SubscriptionRequest { durable_name: durable_name.into(), ..all("passing") };
        let sub = client.try_subscribe(request);
        step("subscribe", sub.as_ref().map(|_| ()).map_err(String::clone));
        if let Ok(sub) = sub {
            step("publish", client.publish("passing", "x"));
            step("leave", client.leave(&sub, count % 3 == 0));
        }
        step("close", client.close());
    }
    ledger
}

/// What is in every channel, read by a client of that port from the first message on.
pub fn read_all(port: u16) -> Stored {
    let mut client = Stan::connect(port, "reader");
    let stored = CHANNELS.map(|channel| {
        let marker = unique();
        client.publish(channel, &marker).unwrap();
        let sub = client.subscribe(all(channel));
        let mut found: Vec<String> = Vec::new();
        while found.last() != Some(&marker) {
            let next = client.take(&sub, 1).remove(0).message;
            client.ack(&sub, next.sequence);
            assert_eq!(next.sequence, found.len() as u64 + 1, "{channel} has no gap");
            found.push(String::from_utf8_lossy(&next.data).into_owned());
        }
        client.leave(&sub, true).unwrap();
        found
    });
    client.close().unwrap();
    stored
}
