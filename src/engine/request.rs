//! request bytes → checked request, or refusal

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::base::id::{ChannelName, ClientId, LoopIndex};
use crate::base::placement;
use crate::engine::effect::Service;
use crate::engine::publication::{NoPublish, Publication};
use crate::engine::undecodable;
use crate::proto::{pb, spb};

/// A request as decoded where it arrived. What is long and rare is boxed, because publishes are
/// moved as what is longest.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Register a client.
    Connect(Box<pb::ConnectRequest>),
    /// Store a message.
    Publish(Publication),
    /// Create or resume a subscription.
    Subscribe(Box<pb::SubscriptionRequest>),
    /// Delete a subscription.
    Unsubscribe(Box<pb::UnsubscribeRequest>),
    /// Close a subscription; durables are suspended.
    SubscriptionClose(Box<pb::UnsubscribeRequest>),
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
    /// Nothing to answer: control messages of old servers, empty and malformed pings.
    Ignored,
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

/// Decodes what came in on a request subject (spec protocol, sections 3 and 4).
#[must_use]
pub fn decode(service: Service, payload: Bytes) -> Request {
    let decoded = match service {
        Service::Connect => boxed(&payload).map(Request::Connect),
        Service::Publish => return decode_publish(payload),
        Service::Subscribe => boxed(&payload).map(Request::Subscribe),
        Service::Unsubscribe => boxed(&payload).map(Request::Unsubscribe),
        Service::SubscriptionClose => boxed(&payload).map(Request::SubscriptionClose),
        Service::Close => pb::CloseRequest::decode(payload.clone()).map(Request::Close),
        Service::Ping if payload.is_empty() => return Request::Ignored,
        Service::Ping => match pb::Ping::decode(payload) {
            Ok(ping) => return Request::Ping(ping),
            Err(_) => return Request::Ignored,
        },
    };
    decoded.unwrap_or_else(|error| Request::Undecodable {
        service,
        guid: Bytes::new(),
        reason: undecodable::reason(service, &payload).unwrap_or_else(|| error.to_string()),
    })
}

fn boxed<M: Message + Default>(payload: &Bytes) -> Result<Box<M>, DecodeError> {
    M::decode(payload.clone()).map(Box::new)
}

/// The loop whose engine a publish belongs to, for whoever has to know that before it is decoded
/// there; `None` if it is none that anybody keeps. `home` is the loop on which it arrived.
#[must_use]
pub fn owner_of_publish(payload: &[u8], home: LoopIndex, loops: u16) -> Option<LoopIndex> {
    if loops <= 1 {
        return Some(home);
    }
    if let Some(channel) = Publication::channel_in(payload) {
        return Some(home_of_channel(channel, loops));
    }
    match decode(Service::Publish, Bytes::copy_from_slice(payload)).placement(loops) {
        Placement::Loop(owner) => Some(owner),
        Placement::Here => Some(home),
        Placement::Dropped => None,
    }
}

fn decode_publish(payload: Bytes) -> Request {
    match Publication::decode(payload) {
        Ok(publication) => Request::Publish(publication),
        Err(NoPublish { bytes, .. }) if is_control_message(bytes.clone()) => Request::Ignored,
        Err(NoPublish { guid, reason, bytes }) => {
            let service = Service::Publish;
            let reason = undecodable::reason(service, &bytes).unwrap_or(reason);
            Request::Undecodable { service, guid, reason }
        }
    }
}

fn home_of_channel(channel: &[u8], loops: u16) -> LoopIndex {
    placement::of_channel(&ChannelName::from(channel), loops)
}

/// Whether `payload` is what old servers may still send each other on these subjects.
#[must_use]
pub fn is_control_message(payload: Bytes) -> bool {
    spb::CtrlMsg::decode(payload).is_ok()
}

impl Request {
    /// Which engine it belongs to: a channel's requests to the channel's, a client's to its home.
    /// This is the only place that decides it. Which channel a request is for, its document says,
    /// whatever subject it came on.
    #[must_use]
    pub fn placement(&self, loops: u16) -> Placement {
        if loops <= 1 && matches!(self, Self::Publish(_)) {
            return Placement::Here;
        }
        let channel = |subject: &[u8]| Placement::Loop(home_of_channel(subject, loops));
        let client =
            |id: &Bytes| Placement::Loop(placement::of_client(&ClientId::from(id.clone()), loops));
        match self {
            Self::Connect(request) => client(&request.client_id),
            Self::Publish(publication) => channel(publication.subject()),
            Self::Subscribe(request) => channel(&request.subject),
            Self::Unsubscribe(request) | Self::SubscriptionClose(request) => {
                channel(&request.subject)
            }
            Self::Close(request) => client(&request.client_id),
            Self::Ping(_) | Self::Undecodable { .. } => Placement::Here,
            Self::Ignored => Placement::Dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::wildcard_enum_match_arm, reason = "whatever else it is, the test fails")]

    use super::*;

    const GARBAGE: &[u8] = b"\x0a\x7fgarbage";

    #[test]
    fn garbage_is_undecodable_for_every_service_but_ping() {
        for service in [
            Service::Connect,
            Service::Publish,
            Service::Subscribe,
            Service::Unsubscribe,
            Service::SubscriptionClose,
            Service::Close,
        ] {
            let request = decode(service, Bytes::from_static(GARBAGE));
            assert!(matches!(request, Request::Undecodable { .. }), "{service:?}");
            assert_eq!(request.placement(4), Placement::Here);
        }
        assert_eq!(decode(Service::Ping, Bytes::from_static(GARBAGE)), Request::Ignored);
        assert_eq!(decode(Service::Ping, Bytes::new()), Request::Ignored);
    }

    #[test]
    fn a_known_field_of_another_wire_type_spoils_the_whole_publish() {
        let publish =
            pb::PubMsg { client_id: "me".into(), guid: "g1".into(), ..Default::default() };
        let mut payload = publish.encode_to_vec();
        for spoiler in [&b"\x28\x07"[..], b"\x0c", b"\x00\x01"] {
            let mut spoiled = payload.clone();
            spoiled.extend_from_slice(spoiler);
            match decode(Service::Publish, Bytes::from(spoiled)) {
                Request::Undecodable { guid, .. } => assert_eq!(guid, "g1"),
                other => panic!("{other:?}"),
            }
        }
        // Unknown fields are skipped, and the last of a repeated field counts.
        payload.extend_from_slice(b"\x12\x02g2\x98\x06\x01");
        match decode(Service::Publish, Bytes::from(payload)) {
            Request::Publish(publication) => assert_eq!(publication.guid(), b"g2"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn control_messages_of_old_servers_are_ignored() {
        let control = spb::CtrlMsg {
            msg_type: 1,
            server_id: "server".into(),
            data: "x".into(),
            ref_id: "ref".into(),
        };
        let payload = Bytes::from(control.encode_to_vec());
        assert_eq!(decode(Service::Publish, payload), Request::Ignored);
        assert_eq!(Request::Ignored.placement(2), Placement::Dropped);
    }

    #[test]
    fn requests_of_one_channel_meet_in_one_engine() {
        let publish = pb::PubMsg { subject: "Orders".into(), ..Default::default() };
        let publish = decode(Service::Publish, publish.encode_to_vec().into());
        let subscribe = pb::SubscriptionRequest { subject: "orders".into(), ..Default::default() };
        let subscribe = Request::Subscribe(Box::new(subscribe));
        assert_eq!(publish.placement(4), subscribe.placement(4));
    }

    #[test]
    fn who_asks_whose_a_publish_is_is_told_what_becomes_of_it() {
        let home = LoopIndex(2);
        for channel in ["a", "b", "c", "d", "E"] {
            let publish = pb::PubMsg { subject: channel.into(), ..Default::default() };
            let payload = publish.encode_to_vec();
            let found = owner_of_publish(&payload, home, 4).map(Placement::Loop);
            assert_eq!(found, Some(decode(Service::Publish, payload.into()).placement(4)));
        }
        assert_eq!(owner_of_publish(GARBAGE, home, 4), Some(home));
        let control = spb::CtrlMsg { msg_type: 1, ..Default::default() }.encode_to_vec();
        assert_eq!(owner_of_publish(&control, home, 4), None);
    }
}
