//! Everything that can happen to the engine (closed enum).

use std::sync::Arc;

use crate::base::errand::Errand;
use crate::base::id::{ChannelName, ClientId, ConnectionId, LoopIndex, Subject};
use crate::base::origin::Origin;
use crate::base::record::StoreAnswer;
use crate::engine::administration::Change;
use crate::engine::dead_letter::{Awaiting, DeadLetter};
use crate::engine::request::Request;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's request, decoded where it arrived and brought to the engine that
    /// [`crate::engine::request::Request::placement`] names.
    Request {
        /// What is asked.
        request: Request,
        /// Where the answer goes; `None` if the asker wants none.
        reply: Option<Subject>,
        /// Who asks.
        origin: Arc<Origin>,
        /// Who keeps it until it is done.
        errand: Option<Errand>,
    },
    /// A message on an inbox of this engine: an answer to a heartbeat or probe, or an ack.
    Inbox {
        /// What the engine gave with [`crate::engine::effect::Effect::Listen`].
        token: u64,
        /// The whole subject it came on.
        subject: Subject,
        /// Its payload.
        payload: bytes::Bytes,
        /// Who sent it.
        origin: Arc<Origin>,
        /// Who keeps it until it is done.
        errand: Option<Errand>,
    },
    /// The connections that read a subscription's inbox are full, or have room again.
    Room {
        /// What the engine gave with [`crate::engine::effect::Effect::Watch`].
        key: u64,
        /// Whether more may be sent.
        has_room: bool,
    },
    /// Nobody listens on the subject of a request that this engine sent with `reply`.
    NoResponders {
        /// The reply subject of that request.
        reply: Subject,
    },
    /// Another engine of this process tells something.
    Peer {
        /// Which one.
        from: LoopIndex,
        /// What.
        message: PeerMessage,
    },
    /// The store answers.
    Store(StoreAnswer),
    /// An operator asks for a change; answered with [`crate::engine::effect::Effect::Answer`].
    Administer {
        /// Comes back with the answer.
        token: u64,
        /// What is to change.
        change: Change,
    },
    /// The turn's inputs are through: staged work goes out.
    EndOfTurn,
    /// A planned stop: nothing more comes in, and what has come is finished.
    Drain,
}

/// What engines of one process tell each other. The order between two engines is kept.
#[derive(Clone, Debug)]
pub enum PeerMessage {
    /// A connect request of the client is examined or granted (true), or was refused (false); only
    /// where other servers have other channels.
    ClientJoining(ClientId, bool),
    /// A client was registered; sent by its home engine after its record was committed. The
    /// receiver answers with `ClientAddedSeen`; the connect request is answered after all did.
    ClientAdded(ClientEntry),
    /// See `ClientAdded`.
    ClientAddedSeen(ClientId),
    /// A client goes: the receiver refuses it from now on, removes its subscriptions, and answers
    /// with `ClientRemovedSeen` after what it staged for that is committed.
    ClientRemoved(ClientId),
    /// See `ClientRemoved`.
    ClientRemovedSeen(ClientId),
    /// The record of a client with this connection is gone: nothing is known of it any more.
    ClientGone(ConnectionId),
    /// The client's heartbeats began to fail (true) or work again (false).
    HeartbeatsFailing(ClientId, bool),
    /// The client pinged in spite of failed heartbeats: its home asks it again soon.
    PingedWhileFailing(ClientId),
    /// To the keeper of the channel count (engine 0): may I create one more?
    ChannelWanted(ChannelName),
    /// The keeper's answer.
    ChannelGranted(ChannelName, bool),
    /// To the keeper: one less.
    ChannelGone(ChannelName),
    /// A message that was delivered too often, for a channel of the receiver.
    DeadLetter(Box<DeadLetter>),
    /// The answer: it is durable there; or why it was refused.
    DeadLetterDone(Awaiting, Option<String>),
    /// The sender drains, and needs nobody any more for what had begun with it.
    Finished,
}

/// What every engine knows of each registered client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEntry {
    /// Its ID.
    pub client: ClientId,
    /// Its connection's ID; may be empty.
    pub connection: ConnectionId,
}
