//! Sees messages that the Go server has encrypted, whose key nobody has here.

use prost::Message as _;

use crate::base::id::{Sequence, Ticket};
use crate::base::placement;
use crate::base::record::{FetchRequest, RecoveredChannel};
use crate::proto::pb;
use crate::store::{Notice, Store};

/// A store is encrypted as a whole, so a start need not look into every one of very many channels.
const CHANNELS_MAX: usize = 100;

/// Cipher, nonce and the cipher's tag stand around what was published.
const LEN_MIN: usize = 1 + 12 + 16;

/// A warning, if the oldest or newest message of some channel looks encrypted.
pub fn notice(channels: &[RecoveredChannel], shares: &mut [Box<dyn Store>]) -> Option<Notice> {
    let found = channels.iter().take(CHANNELS_MAX).find(|found| {
        let loops = u16::try_from(shares.len()).unwrap_or(u16::MAX);
        let share = placement::of_channel(&found.channel, loops).index();
        shares.get_mut(share).is_some_and(|share| has_encrypted(share.as_mut(), found))
    })?;
    let text = format!(
        "The messages of channel {} look encrypted by the Go server (encrypt, encryption_key), \
         which is not supported: subscribers get them as they are stored, and new messages are \
         stored in clear. Serve this store with the Go server and its key",
        found.channel
    );
    Some(Notice { is_warning: true, text })
}

fn has_encrypted(share: &mut dyn Store, found: &RecoveredChannel) -> bool {
    found.state.message_count > 0
        && [found.state.first, found.state.last].into_iter().any(|from| {
            let request = FetchRequest {
                ticket: Ticket::default(),
                channel: found.channel.clone(),
                from,
                count_max: 1,
                bytes_max: 1,
            };
            // What cannot be read is told to whoever subscribes.
            let messages = share.fetch(&request).unwrap_or_default();
            messages.iter().any(|message| {
                let decoded = pb::MsgProto::decode(message.encoded.clone());
                decoded.is_ok_and(|decoded| looks_encrypted(&decoded.data, message.sequence))
            })
        })
}

/// One byte names the cipher; the nonce ends with the number of encrypted messages up to this one,
/// which is its sequence if none was empty.
fn looks_encrypted(data: &[u8], sequence: Sequence) -> bool {
    let count = data.get(5..13).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    data.len() >= LEN_MIN
        && matches!(data.first(), Some(1 | 2))
        && count.is_some_and(|count| (1..=sequence.0).contains(&count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first message of a store of the Go server with AES, as it stands in the file.
    const RECORDED: [u8; 34] = [
        1, 0xad, 0x95, 0xf1, 0xce, 0, 0, 0, 0, 0, 0, 0, 1, 0x34, 0xcc, 0x50, 0x58, 0x4a, 0x54,
        0xf2, 0x6f, 0x94, 0x6b, 0x7b, 0x3c, 0x34, 0xa8, 0xaa, 0x98, 0xe5, 0x87, 0xd4, 0x74, 0x93,
    ];

    #[test]
    fn what_the_go_server_encrypts_is_told_from_what_it_does_not() {
        assert!(looks_encrypted(&RECORDED, Sequence(1)));
        assert!(looks_encrypted(&RECORDED, Sequence(7)), "after six that were empty");
        let mut other = RECORDED;
        other[0] = 2;
        assert!(looks_encrypted(&other, Sequence(1)), "the other cipher");
        other[12] = 2;
        assert!(!looks_encrypted(&other, Sequence(1)), "a count that cannot be");
        other[12] = 0;
        assert!(!looks_encrypted(&other, Sequence(1)), "a count that cannot be");
        assert!(!looks_encrypted(&RECORDED[..28], Sequence(1)), "too short for cipher and tag");
        for text in ["", "\u{1}", "a message of a person who says more than a few words"] {
            assert!(!looks_encrypted(text.as_bytes(), Sequence(1)), "{text:?}");
        }
    }
}
