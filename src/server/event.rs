//! what the server's own thread is told, and by whom

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::base::id::Subject;
use crate::election::keeper::KeeperEvent;
use crate::server::interest_key::Listener;
use crate::server::signals::Signal;
use crate::store::Remedy;

/// Something that the server's own thread has to act on.
pub enum Event {
    /// From the operating system.
    Signal(Signal),
    /// From the thread that waits for the lease and renews it.
    Keeper(KeeperEvent),
    /// Clients of the streaming server are listened to.
    Opened {
        /// In which activation.
        term: u64,
    },
    /// A store worker stopped, and with it its engine's commits.
    StoreFailed {
        /// In which activation.
        term: u64,
        /// The line for the operator.
        text: String,
        /// What the store makes of it.
        remedy: Remedy,
    },
    /// The threads of the store of an activation that is over have ended.
    Left {
        /// Of which activation.
        term: u64,
    },
    /// A message on a subject that the server itself listens on.
    Heard {
        /// As whom it listens.
        listener: Listener,
        /// The payload.
        payload: bytes::Bytes,
        /// Where its sender wants an answer.
        reply: Option<Subject>,
    },
    /// A request of the server itself found nobody.
    NobodyListens {
        /// The reply subject of that request.
        reply: Subject,
    },
}

/// Events that may wait. All but `Heard` are few by construction: signals, one keeper, one opening
/// an activation, one failure a worker.
const EVENTS_MAX: usize = 512;

/// `Heard` events that may wait: anybody can publish on those subjects.
const HEARD_MAX: usize = 64;

/// A queue of events into the server's own thread.
#[must_use]
pub fn queue() -> (Sender<Event>, Receiver<Event>) {
    bounded(EVENTS_MAX)
}

/// Hands over `event` without waiting.
///
/// # Panics
/// When thousands of events wait that are few by construction.
pub fn post(events: &Sender<Event>, event: Event) {
    if matches!(event, Event::Heard { .. }) && HEARD_MAX < events.len() {
        return;
    }
    match events.try_send(event) {
        // The server's thread is gone: the process is at its end.
        Ok(()) | Err(TrySendError::Disconnected(_)) => (),
        Err(TrySendError::Full(_)) => unreachable!("no room for an event of the server"),
    }
}
