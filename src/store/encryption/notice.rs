//! Sees messages that nobody here can read: encrypted with another key, or without any here.

use prost::Message as _;

use crate::base::id::Ticket;
use crate::base::placement;
use crate::base::record::{FetchRequest, RecoveredChannel};
use crate::proto::pb;
use crate::store::encryption::payload::{DecryptError, looks_encrypted};
use crate::store::{Notice, Store, StoreError};

/// A store is encrypted as a whole, so a start need not look into every one of very many channels.
const CHANNELS_MAX: usize = 100;

/// What is seen of a channel's oldest or newest message.
enum Seen {
    /// It is given as it is stored, and looks encrypted.
    Ciphertext,
    /// There is a key, and it is not the one.
    OtherKey(DecryptError),
}

/// A warning, if the oldest or newest message of some channel cannot be read.
pub fn notice(channels: &[RecoveredChannel], shares: &mut [Box<dyn Store>]) -> Option<Notice> {
    let loops = u16::try_from(shares.len()).unwrap_or(u16::MAX);
    let (channel, seen) = channels.iter().take(CHANNELS_MAX).find_map(|found| {
        let share = placement::of_channel(&found.channel, loops).index();
        let seen = look(shares.get_mut(share)?.as_mut(), found)?;
        Some((&found.channel, seen))
    })?;
    let text = match seen {
        Seen::Ciphertext => format!(
            "The messages of channel {channel} look encrypted, and encryption at rest is off: \
             subscribers get them as they are stored, and new messages are stored in clear. Stop \
             the server, and start it with their key (-encrypt and the variable \
             NATS_STREAMING_ENCRYPTION_KEY, or -encryption_key)"
        ),
        Seen::OtherKey(error) => format!(
            "The messages of channel {channel} cannot be decrypted with this key ({error}): \
             delivery stops at each, and new messages are encrypted with this key. Stop the \
             server, and start it with the key that they were written with"
        ),
    };
    Some(Notice { is_warning: true, text })
}

fn look(share: &mut dyn Store, found: &RecoveredChannel) -> Option<Seen> {
    if found.state.message_count == 0 {
        return None;
    }
    [found.state.first, found.state.last].into_iter().find_map(|from| {
        let request = FetchRequest {
            ticket: Ticket::default(),
            channel: found.channel.clone(),
            from,
            count_max: 1,
            bytes_max: 1,
        };
        match share.fetch(&request) {
            Ok(messages) => messages.iter().find_map(|message| {
                let decoded = pb::MsgProto::decode(message.encoded.clone()).ok()?;
                looks_encrypted(&decoded.data, message.sequence).then_some(Seen::Ciphertext)
            }),
            Err(StoreError::Undecryptable(error)) => Some(Seen::OtherKey(error)),
            // What cannot be read is told to whoever subscribes.
            Err(_) => None,
        }
    })
}
