//! what the server's own thread is told, and by whom

use std::io;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::base::id::{SessionId, Subject};
use crate::broker::Search;
use crate::election::input::Question;
use crate::election::keeper::KeeperEvent;
use crate::server::activation::{ActivationError, Recovered};
use crate::server::administration_subjects::SubjectQuestion;
use crate::server::control_socket;
use crate::server::interest_key::Listener;
use crate::server::signals::Asked;
use crate::store::Remedy;
use crate::store::worker::Worker;

/// Something that the server's own thread has to act on.
pub enum Event {
    /// From the operating system.
    Signal(Asked),
    /// From the thread that waits for the lease and renews it.
    Keeper(KeeperEvent),
    /// From the thread that reads the store: it has ended.
    Recovered {
        /// In which activation.
        term: u64,
        /// The engines, if there are any.
        result: Result<Box<Recovered>, ActivationError>,
    },
    /// From a loop.
    Answered {
        /// In which activation.
        term: u64,
        /// To what.
        question: Question,
    },
    /// From a loop: it has no engine any more.
    Deactivated {
        /// In which activation.
        term: u64,
        /// Its store worker, whose end is to be waited for.
        worker: Option<Worker>,
    },
    /// Clients of the streaming server are listened to.
    Opened {
        /// In which activation.
        term: u64,
    },
    /// A loop's share of the store is closed and synced.
    Drained {
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
    /// From the thread that looked at the store of another active.
    Looked {
        /// Why this process could not take over.
        trouble: Option<String>,
        /// Whether it is read ahead of a take-over.
        survey: io::Result<()>,
    },
    /// From a loop: whom it serves.
    Clients {
        /// All of them.
        clients: Vec<SessionId>,
    },
    /// From loop 0: how far it is with the routes.
    RouteSearch(Search),
    /// From loop 0: whether an external NATS server took the first login, or why none did.
    Upstream(Result<(), String>),
    /// From loop 0: whether an external NATS server takes what is said.
    UpstreamReachable(bool),
    /// From loop 0: an external NATS server does not let us listen to something.
    UpstreamRefused,
    /// A message on a subject that the server itself listens on.
    Heard {
        /// As whom it listens.
        listener: Listener,
        /// The payload.
        payload: bytes::Bytes,
        /// Where its sender wants an answer.
        reply: Option<Subject>,
    },
    /// A user asks something on a subject.
    AskedBySubject(SubjectQuestion),
    /// A command of this machine asks something.
    Asked(control_socket::Asked),
    /// A request of the server itself found nobody.
    NobodyListens {
        /// The reply subject of that request.
        reply: Subject,
    },
}

/// Events that may wait. All but `Heard` and `AskedBySubject` are few by construction: a signal of
/// each kind, one keeper, one opening and one thread that waits an activation, a few answers and
/// one failure a loop.
const EVENTS_MAX: usize = 4_096;

/// `Heard` events that may wait: anybody can publish on those subjects.
const HEARD_MAX: usize = 64;
/// Small ones of these: a list of channels comes in many messages where these must be small.
const SMALL_HEARD_MAX: usize = 1_024;
/// Bytes of a small one.
const SMALL_BYTES: usize = 4 * 1024;
/// Questions of users, and of whoever is none of them.
const QUESTIONS_MAX: usize = 16;
/// Heartbeats of the group get through a flood of others.
const HEARTBEATS_MAX: usize = 2 * SMALL_HEARD_MAX;

/// How many others may wait before a message that anybody can send.
#[must_use]
pub const fn heard_max(payload_bytes: usize) -> usize {
    if payload_bytes <= SMALL_BYTES { SMALL_HEARD_MAX } else { HEARD_MAX }
}

/// A queue of events into the server's own thread.
#[must_use]
pub fn queue() -> (Sender<Event>, Receiver<Event>) {
    bounded(EVENTS_MAX)
}

/// Hands over a question without waiting; whether there was room for it.
pub fn post_question(events: &Sender<Event>, question: SubjectQuestion) -> bool {
    let has_room = events.len() <= QUESTIONS_MAX;
    if has_room {
        post(events, Event::AskedBySubject(question));
    }
    has_room
}

/// Hands over `event` without waiting.
///
/// # Panics
/// When thousands of events wait that are few by construction.
pub fn post(events: &Sender<Event>, event: Event) {
    if let Event::Heard { listener, payload, .. } = &event {
        let most = match listener {
            Listener::GroupHeartbeat | Listener::MemberNews if payload.len() <= SMALL_BYTES => {
                HEARTBEATS_MAX
            }
            Listener::ChannelLists | Listener::ChannelListAnswers => heard_max(payload.len()),
            Listener::GroupHeartbeat
            | Listener::MemberNews
            | Listener::StandAloneProbe
            | Listener::ForeignProbe
            | Listener::Administration
            | Listener::Rival => HEARD_MAX,
        };
        if most < events.len() {
            return;
        }
    }
    match events.try_send(event) {
        // The server's thread is gone: the process is at its end.
        Ok(()) | Err(TrySendError::Disconnected(_)) => (),
        Err(TrySendError::Full(_)) => unreachable!("no room for an event of the server"),
    }
}
