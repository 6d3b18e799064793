//! The Driver trait: what a reactor drives beside its broker (an engine, or nothing).

use crate::base::id::{AccountIndex, LoopIndex, Subject};
use crate::base::time::{Instant, Now};
use crate::broker::{Credit, EngineDelivery, EngineInterest, Post};

/// What a reactor drives beside its broker. It never blocks.
///
/// Two implementations: the driver of a streaming engine, and [`CoreOnly`] for a process that is
/// a core NATS server and nothing else.
pub trait Driver: Send {
    /// What drivers of other loops, store workers and the server send to this one.
    type Mail: Send + 'static;

    /// A message that arrived on this loop matched an engine's interest.
    fn on_delivery(&mut self, delivery: EngineDelivery, now: Now);

    /// A request of this loop's engine found nobody.
    fn on_no_responders(&mut self, reply: Subject, now: Now);

    /// Those who listen to an inbox that was watched under `key` are full, or have room.
    fn on_room(&mut self, key: u64, has_room: bool, now: Now);

    /// Mail came in.
    fn on_mail(&mut self, mail: Self::Mail, now: Now);

    /// Deadlines that are due.
    fn handle_timeout(&mut self, now: Now);

    /// When [`Driver::handle_timeout`] wants to be called next.
    fn next_deadline(&self) -> Option<Instant>;

    /// The turn's inputs are through: staged work is handed over.
    fn end_of_turn(&mut self, now: Now);

    /// The next thing that the driver asks for, in order.
    fn poll_outcome(&mut self) -> Option<Outcome<Self::Mail>>;
}

/// What a driver asks of its reactor.
#[derive(Debug)]
pub enum Outcome<M> {
    /// Publish in the broker of this loop.
    Publish {
        /// What.
        post: Post,
        /// Where an answer goes.
        reply: Option<Subject>,
    },
    /// A message of a channel for the inbox of a subscription.
    Deliver {
        /// What the inbox is watched under.
        key: u64,
        /// The message; its subject is the inbox.
        post: Post,
    },
    /// Tell whether those who listen to an inbox have room.
    Watch {
        /// What comes back with the answers.
        key: u64,
        /// Its account.
        account: AccountIndex,
        /// The inbox.
        inbox: Subject,
    },
    /// No longer.
    Unwatch {
        /// The key given with `Watch`.
        key: u64,
    },
    /// The engine of this loop listens.
    Listen {
        /// On what.
        subject: Subject,
        /// For what.
        interest: EngineInterest,
    },
    /// It no longer listens.
    Unlisten {
        /// On what.
        subject: Subject,
        /// For what.
        interest: EngineInterest,
    },
    /// Mail for the driver of another loop.
    Mail {
        /// Which loop.
        to: LoopIndex,
        /// What.
        mail: M,
    },
    /// What needs a credit of an engine has to wait, or no longer.
    Pressure {
        /// Which engine.
        engine: LoopIndex,
        /// Which credit.
        credit: Credit,
        /// Whether they have to wait.
        is_high: bool,
    },
    /// The engine of this loop is gone; see [`crate::broker::Broker::engine_gone`].
    EngineGone,
}

/// The driver of a process without a streaming engine.
#[derive(Debug, Default)]
pub struct CoreOnly;

/// Mail that nobody can send.
#[derive(Debug)]
pub enum NoMail {}

impl Driver for CoreOnly {
    type Mail = NoMail;

    fn on_delivery(&mut self, _delivery: EngineDelivery, _now: Now) {}

    fn on_no_responders(&mut self, _reply: Subject, _now: Now) {}

    fn on_room(&mut self, _key: u64, _has_room: bool, _now: Now) {}

    fn on_mail(&mut self, mail: NoMail, _now: Now) {
        match mail {}
    }

    fn handle_timeout(&mut self, _now: Now) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn end_of_turn(&mut self, _now: Now) {}

    fn poll_outcome(&mut self) -> Option<Outcome<NoMail>> {
        None
    }
}
