//! request bytes → checked request, or refusal

use bytes::Bytes;

use crate::base::id::LoopIndex;
use crate::engine::effect::Service;
use crate::proto::pb;

/// A request as decoded where it arrived.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Register a client.
    Connect(pb::ConnectRequest),
    /// Store a message. `payload_size` counts for the credits and the input statistics.
    Publish {
        /// The message.
        message: pb::PubMsg,
        /// Size of the whole encoded request in bytes.
        payload_size: usize,
    },
    /// Create or resume a subscription.
    Subscribe(pb::SubscriptionRequest),
    /// Delete a subscription.
    Unsubscribe(pb::UnsubscribeRequest),
    /// Close a subscription; durables are suspended.
    SubscriptionClose(pb::UnsubscribeRequest),
    /// Close a client.
    Close(pb::CloseRequest),
    /// Is this connection still registered?
    Ping(pb::Ping),
    /// Not decodable: each service has its refusal. Publishes give back as much of the GUID as
    /// was decoded.
    Undecodable {
        /// Which service it was for.
        service: Service,
        /// What was decoded of a publish's GUID.
        guid: Bytes,
        /// The decoder's words, for the log.
        reason: String,
    },
}

/// Where a request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// To that loop's engine.
    Loop(LoopIndex),
    /// To the engine of the loop on which it arrived.
    Here,
    /// Nowhere: it is dropped in silence (control messages of old servers, empty pings).
    Dropped,
}
