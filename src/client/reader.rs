//! The reader thread: hands over what comes in, pings the server, ends what took too long.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::codec::{Incoming, Received};
use super::error::ClientError;
use super::link::{End, ReadHalf};
use super::{Answer, Shared, Target, check_refusal};
use crate::base::time::Instant;
use crate::base::world;
use crate::proto::pb;

/// Reads until the client ends, over as many connections as it takes.
pub(super) fn run(shared: &Arc<Shared>, mut half: ReadHalf) {
    let mut next_ping = None;
    while shared.link.ended().is_none() {
        let result = match half.next() {
            Ok(incoming) => incoming.map_or(Ok(()), |incoming| handle(shared, incoming)),
            Err(error) => Err(error),
        };
        if result.is_err() && shared.link.ended().is_none() {
            // Why the old connection ended does not matter to anybody who gets a new one.
            let expire = || shared.publisher.expire(world::instant());
            match shared.link.reconnect(&mut half, expire) {
                Ok(()) => _ = shared.reconnects.fetch_add(1, Ordering::Relaxed),
                Err(error) => shared.link.end(End::Lost(error.to_string())),
            }
        }
        let now = world::instant();
        shared.publisher.expire(now);
        ping_if_due(shared, &mut next_ping, now);
    }
    let end = shared.link.ended().unwrap_or(End::Closed);
    shared.publisher.end(|| end.to_error());
    // Askers see their channel close.
    shared.inboxes().requests.clear();
}

fn handle(shared: &Arc<Shared>, incoming: Incoming) -> Result<(), ClientError> {
    match incoming {
        Incoming::Received(received) => on_message(shared, received),
        Incoming::Ping => shared.link.pong(),
        // What ends the connection is followed by its end; the rest (a permission) is answered by
        // a request's time-out.
        Incoming::Error(_) | Incoming::Info(_) | Incoming::Pong | Incoming::Other => (),
    }
    Ok(())
}

fn on_message(shared: &Arc<Shared>, received: Received) {
    let target = shared.inboxes().targets.get(&received.sid).cloned();
    match target {
        Some(Target::Heartbeat) => {
            if let Some(reply) = received.reply {
                // An answer that cannot be sent is asked for again.
                let _ = shared.link.publish(&reply, b"", b"");
            }
        }
        Some(Target::Request) => on_answer(shared, &received),
        // Compat: "no responders" on the ack subject names no publish (spec protocol, 24).
        Some(Target::PubAck) if received.is_no_responders => {
            shared.unheard.fetch_add(1, Ordering::Relaxed);
        }
        Some(Target::PubAck) => on_pub_ack(shared, received.payload),
        Some(Target::Ping) if !received.is_no_responders => on_pong(shared, received.payload),
        Some(Target::Delivery(delivery)) => delivery.deliver(shared, &received.payload),
        Some(Target::Ping) | None => (),
    }
}

fn on_answer(shared: &Shared, received: &Received) {
    let token = received.subject.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    let token = String::from_utf8_lossy(token);
    let handler = shared.inboxes().requests.remove(token.as_ref());
    if let Some(handler) = handler {
        handler(if received.is_no_responders {
            Answer::NoResponders
        } else {
            Answer::Payload(received.payload.clone())
        });
    }
}

fn on_pub_ack(shared: &Shared, payload: Bytes) {
    if let Ok(ack) = pb::PubAck::decode(payload) {
        let guid = String::from_utf8_lossy(&ack.guid);
        shared.publisher.settle(&guid, check_refusal(&ack.error));
    }
}

fn on_pong(shared: &Shared, payload: Bytes) {
    if shared.is_closing.load(Ordering::Relaxed) {
        // That of a ping which was under way when the client closed.
        return;
    }
    let answer = pb::PingResponse::decode(payload).unwrap_or_default();
    match check_refusal(&answer.error) {
        Ok(()) => shared.pings_out.store(0, Ordering::Relaxed),
        Err(error) => shared.link.end(End::Lost(error.to_string())),
    }
}

/// The interval and the bound that the server answered with count, not what we asked for.
fn ping_if_due(shared: &Shared, next_ping: &mut Option<Instant>, now: Instant) {
    let Some(session) = shared.session.get() else { return };
    let Ok(seconds @ 1..) = u64::try_from(session.ping_interval) else { return };
    if session.protocol < super::PROTOCOL || shared.is_closing.load(Ordering::Relaxed) {
        return;
    }
    let interval = Duration::from_secs(seconds);
    if now < *next_ping.get_or_insert(now + interval) {
        return;
    }
    *next_ping = Some(now + interval);
    if shared.pings_out.fetch_add(1, Ordering::Relaxed) >= session.ping_max_out {
        shared.link.end(End::Lost("stan: connection lost due to PING failure".to_owned()));
        return;
    }
    let ping = pb::Ping { conn_id: Bytes::copy_from_slice(shared.conn_id.as_bytes()) };
    let payload = ping.encode_to_vec();
    // Unsent or unanswered, it counts either way.
    let _ = shared.link.publish(&session.ping_requests, shared.ping_inbox.as_bytes(), &payload);
}
