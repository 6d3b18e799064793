//! Requests that a server has to refuse: what nobody can decode, and what makes no sense.

use bytes::Bytes;
use prost::Message;

use crate::base::id::Subject;
use crate::base::random::Random;
use crate::proto::pb;
use crate::testing::parcels::Parcel;

/// A client that nobody has ever seen.
const UNKNOWN: &str = "nobody";
/// What can be no channel.
const NO_CHANNELS: [&str; 4] = ["", "a..b", "a.*", ".a"];

/// What is no start position.
const NO_POSITION: i32 = 5;

/// One of them, from `client` on its connection, answered to `reply`.
#[must_use]
pub fn request(
    info: &pb::ConnectResponse,
    (client, connection): (Bytes, Bytes),
    reply: Subject,
    random: &mut Random,
) -> Parcel {
    let publish_subject = Bytes::from([info.pub_prefix.as_ref(), b".orders"].concat());
    let no_channel = Bytes::from_static(choose(&NO_CHANNELS, random).as_bytes());
    let (subject, payload) = match random.below(7) {
        0 | 1 => {
            let subjects = [
                publish_subject.clone(),
                info.sub_requests.clone(),
                info.unsub_requests.clone(),
                info.sub_close_requests.clone(),
                info.close_requests.clone(),
                info.ping_requests.clone(),
            ];
            (choose(&subjects, random), vec![0xff; 9])
        }
        2 => {
            let id = choose(&["", "no id!", "a.b"], random).as_bytes();
            let request = pb::ConnectRequest {
                client_id: Bytes::copy_from_slice(id),
                heartbeat_inbox: Bytes::from_static(b"left"),
                ..pb::ConnectRequest::default()
            };
            (Bytes::from_static(b"_STAN.discover.test-cluster"), request.encode_to_vec())
        }
        3 => {
            let request = pb::CloseRequest { client_id: Bytes::from_static(UNKNOWN.as_bytes()) };
            (info.close_requests.clone(), request.encode_to_vec())
        }
        4 => (info.sub_requests.clone(), subscription(client, no_channel, random).encode_to_vec()),
        5 => {
            let request = pb::UnsubscribeRequest {
                client_id: client,
                subject: Bytes::from_static(b"orders"),
                inbox: Bytes::from_static(b"no.such.inbox"),
                ..pb::UnsubscribeRequest::default()
            };
            let subjects = [info.unsub_requests.clone(), info.sub_close_requests.clone()];
            (choose(&subjects, random), request.encode_to_vec())
        }
        _ => {
            let message = pb::PubMsg {
                client_id: client,
                guid: Bytes::from_static(b"none"),
                subject: no_channel,
                data: Bytes::from_static(b"nowhere"),
                conn_id: connection,
                ..pb::PubMsg::default()
            };
            (publish_subject, message.encode_to_vec())
        }
    };
    Parcel { subject: Subject::from(subject), reply: Some(reply), payload: payload.into() }
}

/// One that is wrong in one of its parts.
fn subscription(client: Bytes, no_channel: Bytes, random: &mut Random) -> pb::SubscriptionRequest {
    let right = pb::SubscriptionRequest {
        client_id: client,
        subject: Bytes::from_static(b"orders"),
        inbox: Bytes::from_static(b"no.such.inbox"),
        max_in_flight: 1,
        ack_wait_in_secs: 1,
        ..pb::SubscriptionRequest::default()
    };
    match random.below(6) {
        0 => pb::SubscriptionRequest { client_id: Bytes::from_static(b"nobody"), ..right },
        1 => pb::SubscriptionRequest { subject: no_channel, ..right },
        2 => pb::SubscriptionRequest { inbox: Bytes::new(), ..right },
        3 => pb::SubscriptionRequest { max_in_flight: -1, ..right },
        4 => pb::SubscriptionRequest { ack_wait_in_secs: 0, ..right },
        _ => pb::SubscriptionRequest { start_position: NO_POSITION, ..right },
    }
}

fn choose<T: Clone>(of: &[T], random: &mut Random) -> T {
    of[usize::try_from(random.below(of.len() as u64)).unwrap_or(0)].clone()
}
