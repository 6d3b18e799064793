//! Everything it can ask for (closed enum).

use bytes::Bytes;

use crate::base::id::{LoopIndex, Subject, Ticket};
use crate::base::record::{Batch, StoreRead};
use crate::engine::ANSWERS;
use crate::engine::administration::Outcome;
use crate::engine::input::PeerMessage;

/// One thing that the engine asks of the world; they are carried out in their order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Publish `payload` on `subject`.
    Send {
        /// Where to.
        subject: Subject,
        /// Where an answer should go. If nobody listens on `subject`, a request (one with a
        /// reply) comes back as [`crate::engine::input::Input::NoResponders`]. Seldom, so it takes
        /// one word.
        reply: Option<Box<Subject>>,
        /// What: one or two slices that make up one payload (a stored message, and what a
        /// redelivery adds to it), so that stored bytes need not be copied.
        payload: Payload,
    },
    /// Publish a message of a channel on the inbox of a subscription. Whether who reads it has
    /// room for more comes back as [`crate::engine::input::Input::Room`].
    Deliver {
        /// What the subscription was watched by.
        key: u64,
        /// Its inbox.
        inbox: Subject,
        /// The stored message, and what a redelivery adds to it.
        payload: Payload,
    },
    /// Say from now on, and at once, whether the connections that read `inbox` have room; answered
    /// with [`crate::engine::input::Input::Room`].
    Watch {
        /// What comes back with the answers.
        key: u64,
        /// Where a subscription's messages go.
        inbox: Subject,
        /// Whether there is no room while nobody listens.
        needs_listener: bool,
    },
    /// No longer.
    Unwatch {
        /// The key given with `Watch`.
        key: u64,
    },
    /// From now on give this engine what is published on `subject` (wildcards allowed).
    Listen {
        /// The subject.
        subject: Subject,
        /// What is listened for.
        interest: Interest,
    },
    /// No longer.
    Unlisten {
        /// The subject given with `Listen`.
        subject: Subject,
        /// What it was listened for.
        interest: Interest,
    },
    /// Make this durable. One is under way at a time.
    Commit {
        /// Its number.
        ticket: Ticket,
        /// What to write; boxed, because most effects are sends and small.
        batch: Box<Batch>,
    },
    /// Read from the store.
    Read(StoreRead),
    /// Tell another engine.
    Tell {
        /// Which one.
        to: LoopIndex,
        /// What.
        message: PeerMessage,
    },
    /// A line for the log, in the reference's words (spec protocol, section 23).
    Log {
        /// How important.
        level: Level,
        /// Without the `STREAM: ` prefix.
        text: String,
    },
    /// This many bytes of publishes are no longer uncommitted (credits of back-pressure).
    Credit {
        /// Payload bytes of the `Publish` requests that were answered.
        bytes: usize,
    },
    /// A change that an operator has asked for is made, or is not.
    Answer {
        /// What came with the question.
        token: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// `Drain` is done: nothing is staged or under way any more.
    Drained,
}

/// What an engine's interest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interest {
    /// A request subject of the server: decoded where it arrives, then brought to the engine that
    /// the request names.
    Service(Service),
    /// An inbox of this engine alone; the token comes back with each message.
    Own(u64),
}

impl Interest {
    /// Whether what clients send there is theirs to lose: a request, a publish, an ack. Pings are,
    /// too: a client ends its session after a few without an answer, and a take-over can fall on
    /// each. Answers to an engine's own questions mean nothing to another one.
    #[must_use]
    pub fn is_kept(self) -> bool {
        self != Self::Own(ANSWERS)
    }
}

/// The request subjects of the server (spec protocol, 1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// `<Discovery>`.
    Connect,
    /// `<Publish>.>`.
    Publish,
    /// `<Subscribe>`.
    Subscribe,
    /// `<Unsubscribe>`.
    Unsubscribe,
    /// `<SubClose>`.
    SubscriptionClose,
    /// `<Close>`.
    Close,
    /// `<Discovery>.pings`.
    Ping,
}

/// The payload of one message: the concatenation of both parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Usually all of it.
    pub head: Bytes,
    /// What a redelivery appends; empty otherwise.
    pub tail: Bytes,
}

impl Payload {
    /// Bytes of both parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether both parts are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Payload {
    fn from(head: Bytes) -> Self {
        Self { head, tail: Bytes::new() }
    }
}

/// How important a line is; the reference's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `ERR`.
    Error,
    /// `WRN`.
    Warning,
    /// `INF` (the reference's notices too).
    Info,
    /// `DBG`.
    Debug,
    /// `TRC`.
    Trace,
}
