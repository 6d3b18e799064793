//! A Store around another one: payloads are encrypted on their way in, and decrypted on their way
//! out.
//!
//! Facts: spec stores, section 10. Only the payload of a message is encrypted; one that is empty
//! stays so, as do the empty messages by which a store stands in for lost ones. All sizes are those
//! of what is stored. What was written in clear or with the other cipher is read too.

pub mod notice;
pub mod payload;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use crate::base::encryption::{Cipher, StoreKey};
use crate::base::epoch::Epoch;
use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{
    Batch, ChannelBatch, CommitReport, FetchRequest, Lifecycle, MessageRecord,
};
use crate::base::time::{Now, WallTime};
use crate::proto::pb;
use crate::store::{Inventory, Maintained, Opened, OutcomeUnknown, Store, StoreError, Wanted};

use self::payload::{DecryptError, Nonces, Sealer};

/// How much longer a message gets at most: its payload, and the number that says how long that is.
pub const MESSAGE_OVERHEAD_MAX: usize = payload::OVERHEAD + 1;

/// One share of a store whose payloads are encrypted.
struct Encrypted {
    inner: Box<dyn Store>,
    key: StoreKey,
    /// Of the nonces of the channel that is written next.
    prefix: u32,
    channels: BTreeMap<ChannelName, Channel>,
}

/// A store that was opened, behind a key; `chance` is another number each time.
#[must_use]
pub fn around(opened: Opened, key: &StoreKey, chance: u64) -> Opened {
    let prefix = u32::try_from(chance >> u32::BITS).unwrap_or_default();
    let encrypted = |inner: Box<dyn Store>| -> Box<dyn Store> {
        Box::new(Encrypted::new(inner, key.clone(), prefix))
    };
    Opened { shares: opened.shares.into_iter().map(encrypted).collect(), ..opened }
}

/// What was needed of one channel so far.
#[derive(Default)]
struct Channel {
    aes: Option<Sealer>,
    chacha: Option<Sealer>,
    nonces: Option<Nonces>,
}

impl Channel {
    fn sealer(&mut self, cipher: Cipher, key: &StoreKey, name: &ChannelName) -> &Sealer {
        let sealer = match cipher {
            Cipher::Aes => &mut self.aes,
            Cipher::ChaCha => &mut self.chacha,
        };
        sealer.get_or_insert_with(|| Sealer::new(cipher, &key.of_channel(name.as_bytes())))
    }
}

impl Encrypted {
    /// Puts `inner` behind a key. The prefix is drawn by chance, each time that a store is opened.
    fn new(inner: Box<dyn Store>, key: StoreKey, prefix: u32) -> Self {
        Self { inner, key, prefix, channels: BTreeMap::new() }
    }

    /// A channel's part with its payloads encrypted.
    fn encrypted(&mut self, epoch: Epoch, part: &ChannelBatch) -> ChannelBatch {
        let messages = part.messages.iter();
        let messages =
            messages.map(|message| self.encrypted_message(epoch, &part.channel, message));
        ChannelBatch {
            messages: messages.collect(),
            channel: part.channel.clone(),
            lifecycle: part.lifecycle,
            begins_after: part.begins_after,
            subscriptions: part.subscriptions.clone(),
            // What stands in for messages is empty, and passes as it is.
            purge: part.purge.clone(),
            deliveries: part.deliveries.clone(),
        }
    }

    fn encrypted_message(
        &mut self,
        epoch: Epoch,
        name: &ChannelName,
        message: &MessageRecord,
    ) -> MessageRecord {
        let mut decoded = pb::MsgProto::decode(message.encoded.clone())
            .expect("an engine stages what it has encoded");
        if decoded.data.is_empty() {
            return message.clone();
        }
        let channel = self.channels.entry(name.clone()).or_default();
        let mut nonces = channel.nonces.take().unwrap_or_else(|| {
            self.prefix = self.prefix.wrapping_add(1);
            Nonces::new(self.prefix, epoch, message.sequence)
        });
        let sealer = channel.sealer(self.key.cipher, &self.key, name);
        decoded.data = sealer.encrypt(&mut nonces, &decoded.data).into();
        channel.nonces = Some(nonces);
        MessageRecord { encoded: decoded.encode_to_vec().into(), ..message.clone() }
    }

    fn decrypted(
        &mut self,
        name: &ChannelName,
        message: &MessageRecord,
    ) -> Result<Option<Bytes>, DecryptError> {
        // What is no message is its reader's business.
        let Ok(mut decoded) = pb::MsgProto::decode(message.encoded.clone()) else {
            return Ok(None);
        };
        let Some(cipher) = payload::cipher_of(&decoded.data) else { return Ok(None) };
        let channel = self.channels.entry(name.clone()).or_default();
        decoded.data = channel.sealer(cipher, &self.key, name).decrypt(&decoded.data)?.into();
        Ok(Some(decoded.encode_to_vec().into()))
    }
}

impl Store for Encrypted {
    fn commit(&mut self, epoch: Epoch, batch: &Batch) -> Result<CommitReport, OutcomeUnknown> {
        let encrypted = Batch {
            server: batch.server.clone(),
            clients: batch.clients.clone(),
            channels: batch.channels.iter().map(|part| self.encrypted(epoch, part)).collect(),
            durable: batch.durable,
        };
        let report = self.inner.commit(epoch, &encrypted)?;
        for (part, outcome) in batch.channels.iter().zip(&report.channels) {
            let is_gone = match part.lifecycle {
                Lifecycle::Keep => false,
                Lifecycle::Create => outcome.refused.is_some(),
                Lifecycle::Delete => outcome.refused.is_none(),
            };
            // One of its name that is made later has its key, and gets nonces with another prefix.
            if is_gone {
                self.channels.remove(&part.channel);
            }
        }
        Ok(report)
    }

    /// A message that cannot be decrypted ends what is given; as the first, it is an error.
    fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError> {
        let mut messages = self.inner.fetch(request)?;
        for at in 0..messages.len() {
            match self.decrypted(&request.channel, &messages[at]) {
                Ok(None) => (),
                Ok(Some(encoded)) => messages[at].encoded = encoded,
                Err(error) if at == 0 => return Err(error.into()),
                Err(_) => {
                    messages.truncate(at);
                    break;
                }
            }
        }
        Ok(messages)
    }

    fn find_time(&mut self, channel: &ChannelName, at: WallTime) -> Result<Sequence, StoreError> {
        self.inner.find_time(channel, at)
    }

    fn inventory(&mut self, wanted: &Wanted) -> Result<Inventory, StoreError> {
        self.inner.inventory(wanted)
    }

    fn maintain(&mut self, now: Now) -> Result<Maintained, StoreError> {
        self.inner.maintain(now)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests;
