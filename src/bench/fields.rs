//! The fields of a protobuf message, read where they lie

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// Bytes, a text or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message in their order, up to the first that is none.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let len = self.number()?;
                Value::Bytes(self.take(usize::try_from(len).ok()?)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

/// Appends a number as protobuf has it.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while 0x7f < number {
        out.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::pb;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = pb::MsgProto {
            sequence: u64::MAX,
            subject: "foo".into(),
            data: vec![7; 300].into(),
            timestamp: 5,
            ..pb::MsgProto::default()
        };
        let bytes = message.encode_to_vec();
        let found: Vec<_> = Fields(&bytes).collect();
        let expected = [
            (1, Value::Number(u64::MAX)),
            (2, Value::Bytes(b"foo")),
            (4, Value::Bytes(&[7; 300])),
            (5, Value::Number(5)),
        ];
        assert_eq!(found, expected);
        // What is cut short ends, and is not read beyond its end.
        for len in 0..bytes.len() {
            assert!(Fields(&bytes[..len]).count() <= found.len());
        }
        assert_eq!(Fields(&[0xff; 20]).count(), 0);
    }

    proptest::proptest! {
        /// Goal: whatever a server sends, reading it ends, and gives nothing that was not sent.
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let read: usize = Fields(&bytes)
                .map(|(_, value)| match value {
                    Value::Number(_) => 2,
                    Value::Bytes(bytes) => 1 + bytes.len(),
                })
                .sum();
            proptest::prop_assert!(read <= bytes.len());
        }
    }

    #[test]
    fn an_ack_is_written_as_the_library_writes_it() {
        for sequence in [1, 127, 128, 16_383, 16_384, u64::MAX] {
            let mut bytes = vec![0x10];
            push_number(&mut bytes, sequence);
            let ack = pb::Ack { sequence, ..pb::Ack::default() };
            assert_eq!(bytes, ack.encode_to_vec());
        }
    }
}
