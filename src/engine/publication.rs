//! Publishes and acks as views into the bytes in which they came
//!
//! These two are the traffic; everything else is rare. So they are read by hand, without a copy
//! and without a count of references for each field. What is not plainly one of them (a field
//! that is unknown, or of another type) goes to the generated decoder, which decides.

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::proto::pb;

/// A publish, in the bytes in which it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    bytes: Bytes,
    /// Bytes of the request, for the credits and the statistics.
    size: usize,
    client_id: Span,
    guid: Span,
    subject: Span,
    reply: Span,
    data: Span,
    connection_id: Span,
}

/// Where a field lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

/// Why a request is no publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPublish {
    /// As much of the GUID as was decoded.
    pub guid: Bytes,
    /// The decoder's words.
    pub reason: String,
    /// The request.
    pub bytes: Bytes,
}

impl Publication {
    /// Reads a publish request.
    ///
    /// # Errors
    /// [`NoPublish`] as the generated decoder sees it.
    pub fn decode(bytes: Bytes) -> Result<Self, NoPublish> {
        if let Some(found) = Self::read(&bytes) {
            return Ok(Self { bytes, ..found });
        }
        let mut message = pb::PubMsg::default();
        if let Err(error) = message.merge(bytes.clone()) {
            return Err(NoPublish { guid: message.guid, reason: error.to_string(), bytes });
        }
        let plain = Bytes::from(message.encode_to_vec());
        let found = Self::read(&plain).expect("what the generated encoder wrote is plain");
        Ok(Self { bytes: plain, size: bytes.len(), ..found })
    }

    /// The channel of a publish request, without a copy of it; `None` if that takes the generated
    /// decoder.
    pub(super) fn channel_in(bytes: &[u8]) -> Option<&[u8]> {
        let Span { start, end } = Self::read(bytes)?.subject;
        Some(&bytes[start as usize..end as usize])
    }

    /// Where the fields lie in the plain form: fields that we know, whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut found = Self { size: bytes.len(), ..Self::default() };
        let mut at = 0;
        while at < bytes.len() {
            let mut ignored = Span::default();
            let field = match bytes[at] {
                tag if tag == bytes_tag(1) => &mut found.client_id,
                tag if tag == bytes_tag(2) => &mut found.guid,
                tag if tag == bytes_tag(3) => &mut found.subject,
                tag if tag == bytes_tag(4) => &mut found.reply,
                tag if tag == bytes_tag(5) => &mut found.data,
                tag if tag == bytes_tag(6) => &mut found.connection_id,
                tag if tag == bytes_tag(10) => &mut ignored,
                _ => return None,
            };
            (*field, at) = read_span(bytes, at + 1)?;
        }
        Some(found)
    }

    /// Bytes of the request.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whose.
    #[must_use]
    pub fn client_id(&self) -> &[u8] {
        self.field(self.client_id)
    }

    /// By which the publisher knows its ack.
    #[must_use]
    pub fn guid(&self) -> &[u8] {
        self.field(self.guid)
    }

    /// The channel.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        self.field(self.subject)
    }

    /// Where subscribers may answer.
    #[must_use]
    pub fn reply(&self) -> &[u8] {
        self.field(self.reply)
    }

    /// The payload.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.field(self.data)
    }

    /// The publisher's connection; may be empty.
    #[must_use]
    pub fn connection_id(&self) -> &[u8] {
        self.field(self.connection_id)
    }

    fn field(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
}

/// An ack of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckView<'a> {
    pub(super) channel: &'a [u8],
    pub(super) sequence: u64,
}

impl<'a> AckView<'a> {
    /// Reads an ack and lets `act` see it.
    ///
    /// # Errors
    /// The generated decoder's.
    pub(super) fn decode<R>(
        bytes: &'a Bytes,
        act: impl FnOnce(AckView<'_>) -> R,
    ) -> Result<R, DecodeError> {
        if let Some(found) = Self::read(bytes) {
            return Ok(act(found));
        }
        let ack = pb::Ack::decode(bytes.clone())?;
        Ok(act(AckView { channel: &ack.subject, sequence: ack.sequence }))
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut found = Self { channel: b"", sequence: 0 };
        let mut at = 0;
        while at < bytes.len() {
            let tag = bytes[at];
            if tag == bytes_tag(1) {
                let (span, next) = read_span(bytes, at + 1)?;
                found.channel = &bytes[span.start as usize..span.end as usize];
                at = next;
            } else if tag == number_tag(2) {
                (found.sequence, at) = read_number(bytes, at + 1)?;
            } else {
                return None;
            }
        }
        Some(found)
    }
}

const fn bytes_tag(number: u8) -> u8 {
    number << 3 | 2
}

const fn number_tag(number: u8) -> u8 {
    number << 3
}

/// The field at `at` and where the next one begins; `None` if it is not whole.
fn read_span(bytes: &[u8], at: usize) -> Option<(Span, usize)> {
    let (len, start) = read_number(bytes, at)?;
    let end = start.checked_add(usize::try_from(len).ok()?).filter(|end| *end <= bytes.len())?;
    let span = Span { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? };
    Some((span, end))
}

/// The number at `at` and where it ends. The longest form, which only the largest numbers need,
/// is left to the generated decoder with its rules for what is beyond 64 bits.
fn read_number(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.get(at..)?.iter().take(NUMBER_LEN_MAX).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * index);
        if *byte < 0x80 {
            return Some((value, at + index + 1));
        }
    }
    None
}

/// Bytes with 7 bits each that fit into 64 bits.
const NUMBER_LEN_MAX: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> pb::PubMsg {
        pb::PubMsg {
            client_id: "me".into(),
            guid: "g1".into(),
            subject: "orders".into(),
            reply: "re".into(),
            data: vec![7; len].into(),
            conn_id: "c1".into(),
            sha256: "sum".into(),
        }
    }

    fn check(found: &Publication, expected: &pb::PubMsg) {
        let fields = [
            (found.client_id(), &expected.client_id),
            (found.guid(), &expected.guid),
            (found.subject(), &expected.subject),
            (found.reply(), &expected.reply),
            (found.data(), &expected.data),
            (found.connection_id(), &expected.conn_id),
        ];
        assert!(fields.iter().all(|(found, expected)| found == expected), "{found:?}");
    }

    /// Goal: whatever the bytes, the view says what the generated decoder says.
    #[test]
    fn publishes_are_read_as_the_generated_decoder_reads_them() {
        let mut seen = [0; 2];
        let whole = message(3).encode_to_vec();
        let long = message(70_000).encode_to_vec();
        let mut inputs = vec![Vec::new(), long.clone(), [&whole[..], &long].concat()];
        inputs.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
        for at in 0..whole.len() {
            for change in [1, 2, 3, 8, 0x80, 0xFF] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                inputs.push(changed);
            }
        }
        for input in inputs {
            let mut expected = pb::PubMsg::default();
            let is_valid = expected.merge(&input[..]).is_ok();
            seen[usize::from(is_valid)] += 1;
            match Publication::decode(input.clone().into()) {
                Ok(found) => {
                    assert!(is_valid, "{input:?}");
                    assert_eq!(found.size(), input.len());
                    check(&found, &expected);
                }
                Err(error) => {
                    assert!(!is_valid, "{input:?}");
                    assert_eq!(error.guid, expected.guid);
                }
            }
        }
        assert!(seen.iter().all(|count| 20 < *count), "both kinds were tried: {seen:?}");
    }

    #[test]
    fn acks_are_read_as_the_generated_decoder_reads_them() {
        let ack = |sequence| pb::Ack { subject: "orders".into(), sequence }.encode_to_vec();
        let mut inputs: Vec<Vec<u8>> =
            [0, 1, 127, 128, 1 << 40, 1 << 62, 1 << 63, u64::MAX].into_iter().map(ack).collect();
        let whole = ack(300);
        inputs.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
        inputs.push([&whole[..], &ack(5)].concat());
        inputs.push([&whole[..], b"\x18\x07"].concat());
        inputs.push([&b"\x10"[..], &[0xFF; 10]].concat());
        for input in inputs {
            let expected = pb::Ack::decode(&input[..]);
            let input = Bytes::from(input);
            let found = AckView::decode(&input, |ack| (ack.channel.to_vec(), ack.sequence));
            let expected = expected.map(|ack| (ack.subject.to_vec(), ack.sequence));
            assert_eq!(found, expected, "{input:?}");
        }
    }
}
