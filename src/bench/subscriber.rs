//! A connection that gets messages, acknowledges or answers them, and counts

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::BenchError;
use super::connection::{Connection, Said, push_publish};
use super::fields::{Fields, Value, push_number};
use super::frame::read_stamp;
use super::report;
use super::streaming::{DELIVERIES, HEARTBEATS};
use crate::base::time::Instant;
use crate::base::world;

/// So long without a message is the end.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// How often an interrupt, and what others got, are noticed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is done with each message.
pub(crate) enum Duty {
    /// It is counted.
    Count,
    /// It is acknowledged, on the subject of its subscription.
    Acknowledge(Vec<AckFrame>),
    /// It is sent back.
    Answer,
}

/// An acknowledgement, without the sequence.
pub(crate) struct AckFrame {
    subject: Vec<u8>,
    begin: Vec<u8>,
}

impl AckFrame {
    pub(crate) fn new(ack_inbox: Vec<u8>, channel: &str) -> Self {
        let mut begin = vec![0x0a];
        push_number(&mut begin, u64::try_from(channel.len()).unwrap_or(0));
        begin.extend_from_slice(channel.as_bytes());
        begin.push(0x10);
        Self { subject: ack_inbox, begin }
    }

    fn append(&self, out: &mut Vec<u8>, scratch: &mut Vec<u8>, sequence: u64) {
        scratch.clear();
        scratch.extend_from_slice(&self.begin);
        push_number(scratch, sequence);
        push_publish(out, &self.subject, None, scratch);
    }
}

/// How many messages are wanted, and how many came: of one subscriber, or of a whole group.
pub(crate) struct Count<'a> {
    /// Until so many.
    pub(crate) wanted: u64,
    /// So far.
    pub(crate) done: &'a AtomicU64,
    /// Of those that are wanted so many were refused.
    pub(crate) refused: &'a AtomicU64,
}

impl Count<'_> {
    fn is_reached(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        self.wanted.saturating_sub(refused) <= self.done.load(Ordering::Relaxed)
    }
}

/// What one subscriber got.
pub(crate) struct Received {
    /// Nanoseconds from when each was due to when it was read; none where it does not say when.
    pub(crate) latencies: Histogram<u64>,
    /// How many, of which none is one of those that follow.
    pub(crate) count: u64,
    /// Those that were delivered once more.
    pub(crate) redelivered: u64,
    /// When the last one came.
    pub(crate) last_at: Instant,
}

/// Takes messages until all are there, or until `is_over`.
pub(crate) fn run(
    connection: &mut Connection,
    duty: &Duty,
    count: &Count<'_>,
    (has_stamps, is_over): (bool, &AtomicBool),
) -> Result<Received, BenchError> {
    let began = world::instant();
    let latencies = report::latencies();
    let mut received = Received { latencies, count: 0, redelivered: 0, last_at: began };
    let (mut scratch, mut heard_at, mut done) = (Vec::new(), began, 0);
    while !count.is_reached() {
        let (mut taken, mut read_at) = (0, None);
        let has_read = connection.receive(|said, out| {
            let Said::Message { sid, reply, payload, .. } = said else {
                return ControlFlow::Continue(());
            };
            let data = match (sid, duty, reply) {
                (HEARTBEATS, Duty::Acknowledge(_), Some(reply)) => {
                    push_publish(out, reply, None, b"");
                    return ControlFlow::Continue(());
                }
                (_, Duty::Count, _) => payload,
                (_, Duty::Answer, Some(reply)) => {
                    push_publish(out, reply, None, payload);
                    payload
                }
                (_, Duty::Acknowledge(frames), _) => {
                    let place = sid.checked_sub(DELIVERIES).and_then(|at| usize::try_from(at).ok());
                    let Some(frame) = place.and_then(|place| frames.get(place)) else {
                        return ControlFlow::Continue(());
                    };
                    let Delivered { sequence, data, is_again } = Delivered::read(payload);
                    frame.append(out, &mut scratch, sequence);
                    if is_again {
                        received.redelivered += 1;
                        return ControlFlow::Continue(());
                    }
                    data
                }
                (_, Duty::Answer, None) => return ControlFlow::Continue(()),
            };
            taken += 1;
            if let Some(stamp) = read_stamp(data).filter(|_| has_stamps) {
                let now = *read_at.get_or_insert_with(world::instant);
                received.latencies.saturating_record(now.0.saturating_sub(stamp).max(1));
            }
            ControlFlow::Continue(())
        })?;
        let has_sent = connection.send()?;
        if taken != 0 {
            count.done.fetch_add(taken, Ordering::Relaxed);
            received.count += taken;
            received.last_at = read_at.unwrap_or_else(world::instant);
        }
        let now = world::instant();
        // What other members got is progress too; a heartbeat is none.
        let all_done = count.done.load(Ordering::Relaxed);
        if done < all_done {
            (done, heard_at) = (all_done, now);
        }
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        if STALLED_AFTER <= now.since(heard_at) {
            let seconds = STALLED_AFTER.as_secs();
            let wanted = count.wanted - count.refused.load(Ordering::Relaxed);
            // Who answers questions does not know how many there will be.
            let wanted = (count.wanted != u64::MAX).then_some(wanted);
            return Err(BenchError::Stalled { seconds, done, wanted, what: "messages" });
        }
        if !has_read && !has_sent {
            connection.wait(now + LOOK_EVERY)?;
        }
    }
    // The last acknowledgements, too.
    connection.flush()?;
    Ok(received)
}

/// What is needed of a delivered message.
struct Delivered<'a> {
    sequence: u64,
    data: &'a [u8],
    is_again: bool,
}

impl<'a> Delivered<'a> {
    fn read(payload: &'a [u8]) -> Self {
        let mut found = Self { sequence: 0, data: b"", is_again: false };
        for (field, value) in Fields(payload) {
            match (field, value) {
                (1, Value::Number(sequence)) => found.sequence = sequence,
                (4, Value::Bytes(data)) => found.data = data,
                (6, Value::Number(again)) => found.is_again = again != 0,
                _ => (),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use prost::Message as _;

    use super::*;
    use crate::proto::pb;

    #[test]
    fn a_delivery_is_acknowledged_as_the_library_would() {
        let message = pb::MsgProto {
            sequence: 300,
            data: "data".into(),
            redelivered: true,
            ..pb::MsgProto::default()
        };
        let bytes = message.encode_to_vec();
        let found = Delivered::read(&bytes);
        assert_eq!((found.sequence, found.data, found.is_again), (300, &b"data"[..], true));
        let mut out = Vec::new();
        AckFrame::new(b"acks.1".to_vec(), "foo").append(&mut out, &mut Vec::new(), 300);
        let ack = pb::Ack { subject: "foo".into(), sequence: 300 }.encode_to_vec();
        let line = format!("PUB acks.1 {}\r\n", ack.len());
        assert_eq!(out, [line.as_bytes(), &ack, b"\r\n"].concat());
    }
}
