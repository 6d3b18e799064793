//! The Driver trait: what a reactor drives beside its broker (an engine, or nothing).

use crate::base::id::{LoopIndex, Subject};
use crate::base::time::{Instant, Now};
use crate::broker::{EngineDelivery, Input, UpstreamNews};

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

    /// All that was listened to before an [`Input::Flush`] with this token is in force.
    fn on_flushed(&mut self, token: u64);

    /// All that clients had sent before an [`Input::SeeThrough`] with this token is done.
    fn on_through(&mut self, token: u64);
    /// What was answered before an [`Input::Outflow`] with this token is on the sockets.
    fn on_outflown(&mut self, token: u64);

    /// Something has become of the external server.
    fn on_upstream(&mut self, news: UpstreamNews);

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
    /// For the broker of this loop.
    Broker(Input),
    /// Mail for the driver of another loop.
    Mail {
        /// Which loop.
        to: LoopIndex,
        /// What.
        mail: M,
    },
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

    fn on_flushed(&mut self, _token: u64) {}

    fn on_through(&mut self, _token: u64) {}
    fn on_outflown(&mut self, _token: u64) {}

    fn on_upstream(&mut self, _news: UpstreamNews) {}

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
