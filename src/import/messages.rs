//! The messages of one channel, put together from all that nodes have of them.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;

use crate::base::id::{ChannelName, Sequence, Ticket};
use crate::base::record::{FetchRequest, MessageRecord};
use crate::import::bolt::ReadAt;
use crate::import::in_log::InLog;
use crate::import::raft_log::{Content, LogError, RaftLog};
use crate::proto::{pb, spb};
use crate::store::{Store, StoreError};

/// What is read of a store at once.
const COUNT_MAX: usize = 512;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why messages cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// From a store.
    #[error("channel {channel}: {source}")]
    Store {
        /// Which channel.
        channel: ChannelName,
        /// Why.
        source: Box<StoreError>,
    },
    /// From a log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Where a message was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the store of the node whose log counts.
    Store,
    /// In its log.
    Log,
    /// In the store of another node.
    OtherStore,
}

/// The messages of one channel in one store, ascending.
pub struct Cursor<'a> {
    store: &'a mut dyn Store,
    channel: &'a ChannelName,
    ahead: VecDeque<MessageRecord>,
    is_at_end: bool,
}

impl<'a> Cursor<'a> {
    /// From wherever it is asked first.
    pub fn new(store: &'a mut dyn Store, channel: &'a ChannelName) -> Self {
        Self { store, channel, ahead: VecDeque::new(), is_at_end: false }
    }

    /// The message of that sequence, which is higher each time.
    fn take(&mut self, sequence: u64) -> Result<Option<MessageRecord>, ReadError> {
        Ok(self.next_from(sequence)?.filter(|found| found.sequence.get() == sequence))
    }

    /// The first message from `sequence` on, which never gets lower.
    pub fn next_from(&mut self, sequence: u64) -> Result<Option<MessageRecord>, ReadError> {
        loop {
            while let Some(front) = self.ahead.front() {
                if sequence <= front.sequence.get() {
                    return Ok(Some(front.clone()));
                }
                self.ahead.pop_front();
            }
            if self.is_at_end {
                return Ok(None);
            }
            let request = FetchRequest {
                ticket: Ticket(0),
                channel: self.channel.clone(),
                from: Sequence(sequence),
                count_max: COUNT_MAX,
                bytes_max: BYTES_MAX,
            };
            let failed = |source| ReadError::Store {
                channel: self.channel.clone(),
                source: Box::new(source),
            };
            let fetched = self.store.fetch(&request).map_err(failed)?;
            let is_behind = |found: &MessageRecord| sequence <= found.sequence.get();
            self.is_at_end = !fetched.iter().any(is_behind);
            self.ahead = fetched.into();
        }
    }
}

/// Gives the messages of one channel one after the other.
pub struct Gathering<'a, S> {
    channel: &'a ChannelName,
    number: u64,
    store: Option<Cursor<'a>>,
    log: &'a RaftLog<S>,
    in_log: &'a InLog,
    others: Vec<Cursor<'a>>,
    /// The entry that was read last.
    entry: Option<(u64, Vec<pb::MsgProto>)>,
}

impl<'a, S: ReadAt> Gathering<'a, S> {
    /// Of the channel with that name and number; `store` is that of the node whose log counts.
    pub fn new(
        (channel, number): (&'a ChannelName, u64),
        store: Option<Cursor<'a>>,
        (log, in_log): (&'a RaftLog<S>, &'a InLog),
        others: Vec<Cursor<'a>>,
    ) -> Self {
        Self { channel, number, store, log, in_log, others, entry: None }
    }

    /// The message of that sequence, which is higher each time; `None` if nobody has it. An empty
    /// one may stand for one that was lost: then the others are asked too.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn take(&mut self, sequence: u64) -> Result<Option<(MessageRecord, Origin)>, ReadError> {
        let mut empty = None;
        if let Some(store) = &mut self.store
            && let Some(found) = store.take(sequence)?
        {
            if !is_empty(&found) {
                return Ok(Some((found, Origin::Store)));
            }
            empty = Some((found, Origin::Store));
        }
        if let Some(found) = self.take_from_log(sequence)? {
            // The log knows whether it was empty from the beginning.
            return Ok(Some((found, Origin::Log)));
        }
        for other in &mut self.others {
            let Some(found) = other.take(sequence)? else { continue };
            if !is_empty(&found) {
                return Ok(Some((found, Origin::OtherStore)));
            }
            empty = empty.or(Some((found, Origin::OtherStore)));
        }
        Ok(empty)
    }

    fn take_from_log(&mut self, sequence: u64) -> Result<Option<MessageRecord>, ReadError> {
        let found = self.in_log.find(self.channel.as_bytes(), self.number, sequence);
        let Some(index) = found else { return Ok(None) };
        if self.entry.as_ref().is_none_or(|(read, _)| *read != index) {
            let messages = match self.log.entry(index)?.content {
                Content::Operation(operation) => messages(*operation),
                Content::Members(_) | Content::Nothing => Vec::new(),
            };
            self.entry = Some((index, messages));
        }
        let messages = self.entry.as_ref().map(|(_, messages)| messages.as_slice());
        let mut messages = messages.unwrap_or_default().iter();
        Ok(messages.find(|message| message.sequence == sequence).map(MessageRecord::of))
    }
}

fn messages(operation: spb::RaftOperation) -> Vec<pb::MsgProto> {
    operation.publish_batch.map(|batch| batch.messages).unwrap_or_default()
}

fn is_empty(message: &MessageRecord) -> bool {
    let decoded = pb::MsgProto::decode(Bytes::clone(&message.encoded));
    decoded.is_ok_and(|decoded| decoded.data.is_empty())
}
