//! Sees messages that nobody here can read: encrypted with another key, or without any here.
//!
//! It only warns, so a server looks once it serves: the worker of each share when it has nothing
//! else to do.

use prost::Message as _;

use crate::base::id::{ChannelName, Sequence, Ticket};
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

/// A channel to look into.
#[derive(Clone, Debug)]
pub struct Look {
    channel: ChannelName,
    first: Sequence,
    last: Sequence,
}

/// What is to be looked at, by share.
#[must_use]
pub fn looks(channels: &[RecoveredChannel], share_count: usize) -> Vec<Vec<Look>> {
    let loops = u16::try_from(share_count).unwrap_or(u16::MAX);
    let mut looks = vec![Vec::new(); share_count];
    let filled = channels.iter().filter(|found| found.state.message_count != 0);
    for found in filled.take(CHANNELS_MAX) {
        let (channel, state) = (found.channel.clone(), found.state);
        if let Some(share) = looks.get_mut(placement::of_channel(&channel, loops).index()) {
            share.push(Look { channel, first: state.first, last: state.last });
        }
    }
    looks
}

/// A warning, if the oldest or newest message of some channel cannot be read.
pub fn notice(channels: &[RecoveredChannel], shares: &mut [Box<dyn Store>]) -> Option<Notice> {
    let looks = looks(channels, shares.len());
    let mut shares = shares.iter_mut().zip(&looks);
    shares.find_map(|(share, looks)| looks.iter().find_map(|one| notice_of(share.as_mut(), one)))
}

/// The same of one channel.
pub fn notice_of(share: &mut dyn Store, one: &Look) -> Option<Notice> {
    let channel = &one.channel;
    let text = match look(share, one)? {
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

fn look(share: &mut dyn Store, one: &Look) -> Option<Seen> {
    let newest = (one.first != one.last).then_some(one.last);
    [one.first].into_iter().chain(newest).find_map(|from| {
        let request = FetchRequest {
            ticket: Ticket::default(),
            channel: one.channel.clone(),
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
