//! How often a message was delivered: durable facts of channels with a limit on it.

use sha2::{Digest, Sha256};

use crate::base::id::Sequence;
use crate::base::time::WallTime;

/// Who reads a channel, by what stays the same over restarts and take-overs: a durable by its
/// client and name, a queue group by its name, another subscription by its inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub [u8; 16]);

impl ReaderId {
    /// Of the words that name it; no two lists of words give the same.
    #[must_use]
    pub fn of(words: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for word in words {
            digest.update((word.len() as u64).to_le_bytes());
            digest.update(word);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&digest.finalize()[..16]);
        Self(id)
    }

    /// Of a queue group.
    #[must_use]
    pub fn of_group(name: &[u8]) -> Self {
        Self::of(&[b"queue", name])
    }

    /// Of a durable that is in no queue group.
    #[must_use]
    pub fn of_durable(client: &[u8], name: &[u8]) -> Self {
        Self::of(&[b"durable", client, name])
    }

    /// Of a subscription that is neither.
    #[must_use]
    pub fn of_inbox(client: &[u8], inbox: &[u8]) -> Self {
        Self::of(&[b"inbox", client, inbox])
    }

    /// In hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut id = [0; 16];
        if digits.len() != 2 * id.len() {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(id))
    }
}

/// How often one message was delivered to one reader; the last one written counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryCount {
    /// To whom.
    pub reader: ReaderId,
    /// Which message; 0 with a count of 0: all of them.
    pub sequence: Sequence,
    /// Its timestamp: a channel that was made anew has other messages under the same numbers.
    pub timestamp: WallTime,
    /// How often; 0 = nobody needs to know any more.
    pub count: u32,
    /// With a count of 0: the reader is gone, or begins anew. Else the message was acknowledged,
    /// and a store forgets its count with that acknowledgement, never before.
    pub is_gone: bool,
}

impl DeliveryCount {
    /// A reader is gone, or begins anew: none of its counts is needed.
    #[must_use]
    pub fn none_of(reader: ReaderId) -> Self {
        let (sequence, timestamp) = (Sequence::ZERO, WallTime(0));
        Self { reader, sequence, timestamp, count: 0, is_gone: true }
    }

    /// Whether this is about all messages of its reader.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.count == 0 && self.sequence == Sequence::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_differ_by_their_words() {
        let (one, other) = (ReaderId::of(&[b"ab", b"c"]), ReaderId::of(&[b"a", b"bc"]));
        assert_ne!(one, other);
        assert_eq!(ReaderId::from_hex(&one.to_hex()), Some(one));
        for wrong in ["", "0", &"g".repeat(32), &"é".repeat(16), &"0".repeat(33)] {
            assert_eq!(ReaderId::from_hex(wrong), None, "{wrong}");
        }
    }
}
