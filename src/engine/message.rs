//! bytes of stored messages, of their redelivery tails, and of publish acks
//!
//! A message is encoded once, when it is published: those bytes are written, replayed and
//! delivered (spec protocol, 4.7). Written by hand because this is the path of each message; the
//! tests hold it against the generated encoder.

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::id::Sequence;
use crate::base::time::WallTime;
use crate::engine::publication::Publication;

/// Bytes that short messages share in one allocation.
const CHUNK_LEN: usize = 64 * 1024;

/// Encodes messages into shared chunks, so that a short one costs no allocation of its own.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    chunk: BytesMut,
    /// Those of acks: the store's thread lets go of messages, and two threads that count holders of
    /// one chunk at once hold each other up.
    acks: BytesMut,
}

impl Encoder {
    /// The stored form of a publish.
    pub(super) fn message(
        &mut self,
        publish: &Publication,
        sequence: Sequence,
        timestamp: WallTime,
    ) -> Bytes {
        let stamp = timestamp.0.cast_unsigned();
        let len = varint_field_len(sequence.0)
            + bytes_field_len(publish.subject())
            + bytes_field_len(publish.reply())
            + bytes_field_len(publish.data())
            + varint_field_len(stamp);
        let target = room(&mut self.chunk, len);
        put_varint_field(target, 1, sequence.0);
        put_bytes_field(target, 2, publish.subject());
        put_bytes_field(target, 3, publish.reply());
        put_bytes_field(target, 4, publish.data());
        put_varint_field(target, 5, stamp);
        target.split().freeze()
    }

    /// A publish ack; an empty error means stored.
    pub(super) fn pub_ack(&mut self, guid: &[u8], error: &[u8]) -> Bytes {
        let target = room(&mut self.acks, bytes_field_len(guid) + bytes_field_len(error));
        put_bytes_field(target, 1, guid);
        put_bytes_field(target, 2, error);
        target.split().freeze()
    }
}

fn room(chunk: &mut BytesMut, len: usize) -> &mut BytesMut {
    if chunk.capacity() - chunk.len() < len {
        *chunk = BytesMut::with_capacity(len.max(CHUNK_LEN));
    }
    chunk
}

/// What a redelivery appends to the stored form: the flag and the count.
pub(super) fn redelivery_tail(count: u32) -> Bytes {
    let mut tail = BytesMut::with_capacity(2 + varint_field_len(u64::from(count)));
    put_varint_field(&mut tail, 6, 1);
    put_varint_field(&mut tail, 7, u64::from(count));
    tail.freeze()
}

fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn varint_field_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn bytes_field_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { 1 + varint_len(value.len() as u64) + value.len() }
}

fn put_varint(target: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        target.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    target.put_u8(value.to_le_bytes()[0]);
}

/// Field numbers here are below 16, so a tag is one byte.
fn put_varint_field(target: &mut BytesMut, number: u8, value: u64) {
    if value != 0 {
        target.put_u8(number << 3);
        put_varint(target, value);
    }
}

fn put_bytes_field(target: &mut BytesMut, number: u8, value: &[u8]) {
    if !value.is_empty() {
        target.put_u8(number << 3 | 2);
        put_varint(target, value.len() as u64);
        target.put_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::pb;

    fn publish(data: Vec<u8>, reply: &'static [u8]) -> pb::PubMsg {
        pb::PubMsg {
            subject: Bytes::from_static(b"orders"),
            reply: Bytes::from_static(reply),
            data: Bytes::from(data),
            ..Default::default()
        }
    }

    #[test]
    fn messages_are_encoded_as_the_generated_encoder_does() {
        let mut encoder = Encoder::default();
        for (sequence, stamp, data, reply) in [
            (1, 0, vec![], &b""[..]),
            (127, 1, vec![1; 10], b"re"),
            (128, i64::MAX, vec![2; 70_000], b"reply"),
            (u64::MAX, -1, vec![3; 127], b""),
        ] {
            let publish = publish(data, if reply.is_empty() { b"" } else { b"re" });
            let publication = Publication::decode(publish.encode_to_vec().into());
            let publication = publication.expect("it was encoded a line above");
            let encoded = encoder.message(&publication, Sequence(sequence), WallTime(stamp));
            let mut expected = pb::MsgProto {
                sequence,
                subject: publish.subject,
                reply: publish.reply,
                data: publish.data,
                timestamp: stamp,
                ..Default::default()
            };
            assert_eq!(encoded, expected.encode_to_vec());
            expected.redelivered = true;
            expected.redelivery_count = 300;
            let again = [&encoded[..], &redelivery_tail(300)].concat();
            assert_eq!(again, expected.encode_to_vec());
        }
    }

    #[test]
    fn publish_acks_are_encoded_as_the_generated_encoder_does() {
        let mut encoder = Encoder::default();
        let ack = pb::PubAck { guid: "g".into(), error: "no".into() };
        assert_eq!(encoder.pub_ack(b"g", b"no"), ack.encode_to_vec());
        assert!(encoder.pub_ack(b"", b"").is_empty());
    }
}
