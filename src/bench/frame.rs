//! One publish as bytes, of which only its number and its time differ from those of the next

use prost::Message as _;

use crate::proto::pb;

/// Digits of a number.
pub(crate) const NUMBER_LEN: usize = 16;

/// Bytes of a time at the front of a payload.
pub(crate) const STAMP_LEN: usize = 8;

const DIGITS: &[u8; NUMBER_LEN] = b"0123456789abcdef";

/// A `PUB` with its payload.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    payload_len: usize,
    /// Where the number stands, if there is one.
    number_at: Option<usize>,
    /// Where the time stands, if there is room for it.
    stamp_at: Option<usize>,
}

impl Frame {
    /// A publish to a streaming server: its number is the GUID.
    pub(crate) fn streaming(
        (prefix, channel): (&str, &str),
        (client_id, conn_id): (&str, &str),
        ack_inbox: &str,
        size: usize,
    ) -> Self {
        let message = pb::PubMsg {
            client_id: client_id.as_bytes().to_vec().into(),
            guid: vec![b'0'; NUMBER_LEN].into(),
            subject: channel.as_bytes().to_vec().into(),
            data: vec![b'x'; size].into(),
            conn_id: conn_id.as_bytes().to_vec().into(),
            ..pb::PubMsg::default()
        };
        let payload = message.encode_to_vec();
        // Tag and length stand before the client ID, and before the GUID.
        let guid_at = 2 + client_id.len() + 2;
        let conn_len = if conn_id.is_empty() { 0 } else { 2 + conn_id.len() };
        let data_at = payload.len() - conn_len - size;
        let head = format!("PUB {prefix}.{channel} {ack_inbox} {}\r\n", payload.len());
        Self::new(&head, &payload, Some(head.len() + guid_at), (head.len() + data_at, size))
    }

    /// A publish on a plain subject; with an inbox, answers come to that and its number.
    pub(crate) fn plain(subject: &str, inbox: Option<&str>, size: usize) -> Self {
        let zeros = "0".repeat(NUMBER_LEN);
        let (head, number_at) = match inbox {
            None => (format!("PUB {subject} {size}\r\n"), None),
            Some(inbox) => {
                let before = format!("PUB {subject} {inbox}.");
                let number_at = before.len();
                (format!("{before}{zeros} {size}\r\n"), Some(number_at))
            }
        };
        Self::new(&head, &vec![b'x'; size], number_at, (head.len(), size))
    }

    fn new(head: &str, payload: &[u8], number_at: Option<usize>, data: (usize, usize)) -> Self {
        let bytes = [head.as_bytes(), payload, b"\r\n"].concat();
        let (data_at, size) = data;
        let stamp_at = (STAMP_LEN <= size).then_some(data_at);
        Self { bytes, payload_len: payload.len(), number_at, stamp_at }
    }

    /// Bytes of its payload, as the server counts them.
    pub(crate) fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Appends it.
    pub(crate) fn append(&self, out: &mut Vec<u8>, number: u64, stamp: u64) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.number_at {
            write_number(&mut out[begin + at..begin + at + NUMBER_LEN], number);
        }
        if let Some(at) = self.stamp_at {
            out[begin + at..begin + at + STAMP_LEN].copy_from_slice(&stamp.to_le_bytes());
        }
    }
}

fn write_number(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(number & 15).unwrap_or(0)];
        number >>= 4;
    }
}

/// A number that a frame has brought.
pub(crate) fn read_number(digits: &[u8]) -> Option<u64> {
    if digits.len() != NUMBER_LEN {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let value = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u64::from(value))
    })
}

/// The time at the front of a payload that a frame has brought.
pub(crate) fn read_stamp(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_streaming_frame_is_what_the_library_would_write() {
        for (size, conn_id) in [(0, "conn"), (8, ""), (256, "conn"), (100_000, "conn")] {
            let frame = Frame::streaming(("_STAN.pub.x", "foo"), ("me", conn_id), "acks", size);
            let mut out = Vec::new();
            frame.append(&mut out, 0xabc, 77);
            let line_end = out.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let payload = &out[line_end..out.len() - 2];
            let line = format!("PUB _STAN.pub.x.foo acks {}\r\n", payload.len());
            assert_eq!(&out[..line_end], line.as_bytes());
            let message = pb::PubMsg::decode(payload).unwrap();
            assert_eq!(read_number(&message.guid), Some(0xabc));
            assert_eq!(message.client_id, "me".as_bytes());
            assert_eq!(message.conn_id, conn_id.as_bytes());
            assert_eq!((message.subject, message.data.len()), ("foo".into(), size));
            assert_eq!(read_stamp(&message.data), (STAMP_LEN <= size).then_some(77));
        }
    }

    #[test]
    fn a_plain_frame_may_ask_for_answers() {
        let mut out = Vec::new();
        Frame::plain("foo", None, 3).append(&mut out, 1, 2);
        Frame::plain("foo", Some("in"), 1).append(&mut out, 0xffff, 2);
        assert_eq!(out, b"PUB foo 3\r\nxxx\r\nPUB foo in.000000000000ffff 1\r\nx\r\n");
        assert_eq!(read_number(b"000000000000ffff"), Some(0xffff));
        assert_eq!(read_number(b"00000000000gffff"), None);
        assert_eq!(read_number(b"1"), None);
    }
}
