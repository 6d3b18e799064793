//! Publishes that wait for their ack: bounded, timed, and ready to be sent again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::error::ClientError;
use crate::base::deadlines::Deadlines;
use crate::base::time::Instant;
use crate::base::world;

/// Called once with the GUID of a publish and how it ended.
pub(super) type AckHandler = Box<dyn FnOnce(&str, Result<(), ClientError>) + Send>;

/// A publish whose ack has not come.
#[derive(Clone, Debug)]
pub struct Unacked {
    /// What the ack will name.
    pub guid: String,
    /// Where it was published.
    pub channel: String,
    /// The message.
    pub data: Bytes,
}

struct InFlight {
    channel: String,
    data: Bytes,
    handler: AckHandler,
}

#[derive(Default)]
struct Table {
    by_guid: BTreeMap<String, InFlight>,
    deadlines: Deadlines<String>,
    /// Set once, when no ack can come any more.
    is_ended: bool,
}

/// The table of unacknowledged publishes.
#[derive(Default)]
pub(super) struct Publisher {
    table: Mutex<Table>,
    changed: Condvar,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("in_flight", &self.table().by_guid.len()).finish()
    }
}

/// How long one publish may take, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) ack_timeout: Duration,
    pub(super) in_flight_max: usize,
    /// Whether the caller may wait for room.
    pub(super) may_wait: bool,
}

impl Publisher {
    /// Enters a publish, waiting for room at most the ack time-out.
    pub(super) fn enter(
        &self,
        publish: Unacked,
        handler: AckHandler,
        bounds: Bounds,
    ) -> Result<(), ClientError> {
        let table = self.table();
        let wait = if bounds.may_wait { bounds.ack_timeout } else { Duration::ZERO };
        let is_full =
            |table: &mut Table| !table.is_ended && table.by_guid.len() >= bounds.in_flight_max;
        let (mut table, _) = self
            .changed
            .wait_timeout_while(table, wait, is_full)
            .unwrap_or_else(PoisonError::into_inner);
        if table.is_ended {
            return Err(ClientError::Closed);
        }
        if table.by_guid.len() >= bounds.in_flight_max {
            return Err(ClientError::TooManyInFlight(table.by_guid.len()));
        }
        let Unacked { guid, channel, data } = publish;
        table.deadlines.arm(guid.clone(), world::instant() + bounds.ack_timeout);
        table.by_guid.insert(guid, InFlight { channel, data, handler });
        Ok(())
    }

    /// Gives one more ack time-out to a publish, which the caller then sends again.
    pub(super) fn renew(&self, guid: &str, ack_timeout: Duration) -> Option<Unacked> {
        let mut table = self.table();
        let entry = table.by_guid.get(guid)?;
        let publish = Unacked {
            guid: guid.to_owned(),
            channel: entry.channel.clone(),
            data: entry.data.clone(),
        };
        table.deadlines.arm(guid.to_owned(), world::instant() + ack_timeout);
        Some(publish)
    }

    /// All that is not acknowledged, by GUID.
    pub(super) fn unacked(&self) -> Vec<Unacked> {
        let table = self.table();
        let publishes = table.by_guid.iter().map(|(guid, entry)| Unacked {
            guid: guid.clone(),
            channel: entry.channel.clone(),
            data: entry.data.clone(),
        });
        publishes.collect()
    }

    /// Takes a publish out without telling its handler: it was never sent.
    pub(super) fn forget(&self, guid: &str) {
        let mut table = self.table();
        table.deadlines.cancel(&guid.to_owned());
        table.by_guid.remove(guid);
        drop(table);
        self.changed.notify_all();
    }

    /// An ack came in: tells the handler. Late and unknown acks are harmless.
    pub(super) fn settle(&self, guid: &str, result: Result<(), ClientError>) {
        let mut table = self.table();
        table.deadlines.cancel(&guid.to_owned());
        let entry = table.by_guid.remove(guid);
        drop(table);
        self.changed.notify_all();
        if let Some(entry) = entry {
            (entry.handler)(guid, result);
        }
    }

    /// Tells the handlers of publishes whose time is over.
    pub(super) fn expire(&self, now: Instant) {
        loop {
            let due = self.table().deadlines.pop_due(now);
            let Some(guid) = due else { return };
            self.settle(&guid, Err(ClientError::AckTimeout));
        }
    }

    /// No ack can come any more: tells all handlers.
    pub(super) fn end(&self, error: impl Fn() -> ClientError) {
        let mut table = self.table();
        table.is_ended = true;
        let entries = std::mem::take(&mut table.by_guid);
        table.deadlines = Deadlines::default();
        drop(table);
        self.changed.notify_all();
        for (guid, entry) in entries {
            (entry.handler)(&guid, Err(error()));
        }
    }

    /// Waits until nothing is in flight, at most `timeout`; whether that is so.
    pub(super) fn wait_idle(&self, timeout: Duration) -> bool {
        let table = self.table();
        let (table, _) = self
            .changed
            .wait_timeout_while(table, timeout, |table| !table.by_guid.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        table.by_guid.is_empty()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::mpsc;

    use super::*;

    fn bounds(in_flight_max: usize) -> Bounds {
        Bounds { ack_timeout: Duration::from_secs(30), in_flight_max, may_wait: false }
    }

    fn publish(guid: &str) -> Unacked {
        Unacked { guid: guid.into(), channel: "foo".into(), data: Bytes::from_static(b"x") }
    }

    fn enter(publisher: &Publisher, guid: &str, max: usize) -> mpsc::Receiver<String> {
        let (told, heard) = mpsc::channel();
        let handler = Box::new(move |guid: &str, result: Result<(), ClientError>| {
            let text = result.map_or_else(|error| error.to_string(), |()| "acked".to_owned());
            told.send(format!("{guid} {text}")).unwrap();
        });
        publisher.enter(publish(guid), handler, bounds(max)).unwrap();
        heard
    }

    #[test]
    fn an_ack_reaches_its_handler_once_and_makes_room() {
        let publisher = Publisher::default();
        let heard = enter(&publisher, "a", 1);
        let refused = publisher.enter(publish("b"), Box::new(|_, _| ()), bounds(1));
        assert!(matches!(refused, Err(ClientError::TooManyInFlight(1))));
        publisher.settle("a", Ok(()));
        publisher.settle("a", Ok(()));
        assert_eq!(heard.iter().collect::<Vec<_>>(), ["a acked"]);
        enter(&publisher, "b", 1);
        assert_eq!(publisher.unacked()[0].guid, "b");
    }

    #[test]
    fn a_publish_without_ack_times_out_later_when_it_was_renewed() {
        let publisher = Publisher::default();
        let heard = enter(&publisher, "a", 9);
        let first_end = world::instant() + Duration::from_secs(30);
        publisher.renew("a", Duration::from_secs(90)).unwrap();
        publisher.expire(first_end);
        assert!(heard.try_recv().is_err());
        publisher.expire(first_end + Duration::from_secs(90));
        assert_eq!(heard.recv().unwrap(), "a publish ack timeout");
        assert!(publisher.renew("a", Duration::ZERO).is_none());
    }

    #[test]
    fn the_end_tells_every_handler() {
        let publisher = Publisher::default();
        let heard = enter(&publisher, "a", 9);
        publisher.end(|| ClientError::Closed);
        assert_eq!(heard.recv().unwrap(), "a the client is closed");
        let late = publisher.enter(publish("b"), Box::new(|_, _| ()), bounds(9));
        assert!(matches!(late, Err(ClientError::Closed)));
    }
}
