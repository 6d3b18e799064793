//! One channel of one store, copied into another and compared with what is there then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;

use crate::base::id::{ChannelName, Sequence, SubscriptionId};
use crate::base::record::{
    Batch, ChannelBatch, ChannelState, ClientWrite, Lifecycle, MessageRecord, RecoveredChannel,
    RecoveredState, RecoveredSubscription, SubscriptionWrite,
};
use crate::base::world;
use crate::config::Config;
use crate::proto::{pb, spb};
use crate::site::place::{Place, PlaceError};
use crate::store::encryption::payload::looks_encrypted;
use crate::transfer::error::TransferError;
use crate::transfer::origin::Origin;

/// Changes of subscriptions or clients that are written in one commit.
pub(super) const BATCH_WRITES: usize = 10_000;

/// What was brought over.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Its name.
    pub channel: String,
    /// Oldest and newest sequence; zeros in a channel without messages.
    pub first: u64,
    /// See [`Report::first`].
    pub last: u64,
    /// Messages.
    pub messages: u64,
    /// Their bytes, as the store counts them.
    pub bytes: u64,
    /// Subscriptions, online or not.
    pub subscriptions: usize,
    /// Deliveries that nobody has acknowledged.
    pub pending: usize,
}

/// What is encrypted must not be taken for clear text, and encrypted once more. The oldest and the
/// newest message are looked at before anything is written, each other one on its way.
pub(super) fn check_readable(
    source: &mut dyn Origin,
    is_in_clear: bool,
    channel: &RecoveredChannel,
) -> Result<(), TransferError> {
    if !is_in_clear || channel.state.message_count == 0 {
        return Ok(());
    }
    for sequence in [channel.state.first, channel.state.last] {
        let found = source.read(&channel.channel, sequence)?;
        if found.first().is_some_and(is_encrypted) {
            return Err(TransferError::Encrypted { channel: channel.channel.clone() });
        }
    }
    Ok(())
}

/// An empty payload is never encrypted.
pub(super) fn is_in_clear(message: &MessageRecord) -> bool {
    let decoded = pb::MsgProto::decode(message.encoded.clone());
    decoded.is_ok_and(|found| !found.data.is_empty()) && !is_encrypted(message)
}

fn is_encrypted(message: &MessageRecord) -> bool {
    let decoded = pb::MsgProto::decode(message.encoded.clone());
    decoded.is_ok_and(|decoded| looks_encrypted(&decoded.data, message.sequence))
}

/// Whether none is missing of messages that begin with `next`, and none is encrypted where no key
/// is given.
pub(super) fn check_messages(
    messages: &[MessageRecord],
    channel: &ChannelName,
    next: Sequence,
    is_in_clear: bool,
) -> Result<(), TransferError> {
    if is_in_clear && messages.iter().any(is_encrypted) {
        return Err(TransferError::Encrypted { channel: channel.clone() });
    }
    let mut expected = next;
    for message in messages {
        if message.sequence != expected {
            return Err(missing(channel, expected));
        }
        expected = expected.next();
    }
    Ok(())
}

pub(super) fn missing(channel: &ChannelName, sequence: Sequence) -> TransferError {
    TransferError::Missing { channel: channel.clone(), sequence }
}

/// Whether the target would let go of anything of it at once, or take nothing more.
pub(super) fn check_limits(
    source: &mut dyn Origin,
    target: &RecoveredState,
    to: &Config,
    channel: &RecoveredChannel,
) -> Result<(), TransferError> {
    let name = &channel.channel;
    let refuse = |why: String| Err(TransferError::Limits { channel: name.clone(), why });
    let limits = match to.streaming.limits.resolve() {
        Ok(limits) => limits,
        Err(error) => return refuse(format!("cannot be used ({error})")),
    };
    let channels = target.channels.iter().filter(|found| found.channel != *name);
    let (has, may) = (channels.count(), limits.channels_max);
    if may != 0 && may <= u64::try_from(has).unwrap_or(u64::MAX) {
        return refuse(format!("allow {may} channel(s), and it has {has}"));
    }
    let limits = limits.of(name);
    let (has, may) = (channel.state.message_count, limits.messages_max);
    if may != 0 && may < has {
        return refuse(format!("allow {may} message(s), and there are {has}"));
    }
    let (has, may) = (channel.state.byte_count, limits.bytes_max);
    if may != 0 && may < has {
        return refuse(format!("allow {may} byte(s), and there are {has}"));
    }
    let (has, may) = (channel.subscriptions.len(), limits.subscriptions_max);
    if may != 0 && may < u64::try_from(has).unwrap_or(u64::MAX) {
        return refuse(format!("allow {may} subscription(s), and there are {has}"));
    }
    if !limits.age_max.is_zero() && channel.state.message_count != 0 {
        let oldest = source.read(name, channel.state.first)?;
        let since = oldest.first().map_or(0, |oldest| oldest.timestamp.0);
        let age = world::now().wall.0.saturating_sub(since);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        if limits.age_max < age {
            return refuse(format!("let go of messages after {:?}", limits.age_max));
        }
    }
    Ok(())
}

pub(super) fn delete(place: &mut Place, name: &ChannelName) -> Result<(), PlaceError> {
    let channel = name.clone();
    let part = ChannelBatch { channel, lifecycle: Lifecycle::Delete, ..ChannelBatch::default() };
    place.write(part).map(drop)
}

/// Whether all that the target has of the channel is a copy of what the source has.
pub(super) fn check_begun(
    source: &mut dyn Origin,
    target: &mut Place,
    channel: &RecoveredChannel,
    begun: &RecoveredChannel,
) -> Result<(), TransferError> {
    let taken = |what| TransferError::Taken { channel: channel.channel.clone(), what };
    let known: BTreeSet<Vec<u8>> = channel.subscriptions.iter().map(identity).collect();
    if !begun.subscriptions.iter().all(|found| known.contains(&identity(found))) {
        return Err(taken("subscriptions"));
    }
    let (name, had, has) = (&channel.channel, begun.state, channel.state);
    if had.last == Sequence::ZERO {
        return Ok(());
    }
    if is_stand_in(channel) {
        let found = target.read(name, had.first).map_err(TransferError::Target)?;
        let only = MessageRecord::stand_in(name, has.last.get(), channel.last_timestamp);
        return if found == [only] { Ok(()) } else { Err(taken("messages")) };
    }
    // What a move has left ends within what the source has, though that may have let go of its
    // oldest since.
    let mut next = had.first.max(has.first);
    if had.message_count == 0 || had.last < next || has.last < had.last {
        return Err(taken("messages"));
    }
    loop {
        let copied = target.read(name, next).map_err(TransferError::Target)?;
        if copied.is_empty() {
            return Ok(());
        }
        let mut original = source.read(name, next)?;
        original.truncate(copied.len());
        match original.last() {
            Some(last) if copied.starts_with(&original) => next = last.sequence.next(),
            Some(_) | None => return Err(taken("messages")),
        }
        source.confirm()?;
        target.confirm().map_err(TransferError::Target)?;
    }
}

/// Whether a message of no length keeps the place of the next number: there is no other way to say
/// it in the Go server's formats.
fn is_stand_in(channel: &RecoveredChannel) -> bool {
    channel.state.message_count == 0 && channel.state.last != Sequence::ZERO
}

/// Of a subscription, what is its own in whatever store it lies.
fn identity(found: &RecoveredSubscription) -> Vec<u8> {
    let state = &found.state;
    [&state.client_id[..], &state.inbox, &state.ack_inbox, &state.durable_name, &state.q_group]
        .join(&b'\0')
}

/// Numbers of subscriptions in a store: where no two may have one, they are given anew.
pub(super) struct Numbering {
    is_as_one: bool,
    last: u64,
}

impl Numbering {
    pub fn of(target: &Place) -> Self {
        let used = target.recovered().channels.iter().flat_map(|found| &found.subscriptions);
        let last = used.map(|found| found.state.id).max().unwrap_or(0);
        Self { is_as_one: target.numbers_subscriptions_as_one(), last }
    }

    fn give(&mut self, own: u64) -> u64 {
        if !self.is_as_one {
            return own;
        }
        self.last += 1;
        self.last
    }
}

/// Writes those clients that a store did not know as they are when it was opened.
pub(super) fn write_clients(
    target: &mut Place,
    clients: Vec<spb::ClientInfo>,
) -> Result<(), PlaceError> {
    let known = target.recovered().clients.iter();
    let known: BTreeMap<&[u8], &spb::ClientInfo> =
        known.map(|client| (&client.id[..], client)).collect();
    let mut missing: Vec<ClientWrite> = clients
        .into_iter()
        .filter(|client| known.get(&client.id[..]).is_none_or(|known| *known != client))
        .map(ClientWrite::Add)
        .collect();
    while !missing.is_empty() {
        let rest = missing.split_off(missing.len().min(BATCH_WRITES));
        let clients = std::mem::replace(&mut missing, rest);
        target.commit(Batch { clients, durable: true, ..Batch::default() })?;
    }
    Ok(())
}

/// A channel on its way.
pub(super) struct ChannelCopy<'a> {
    pub source: &'a mut dyn Origin,
    pub target: &'a mut Place,
    pub channel: &'a RecoveredChannel,
    /// Whether no key is given.
    pub is_in_clear: bool,
    /// Whether somebody serves the source, which lets go of messages meanwhile.
    pub is_served: bool,
    pub numbering: &'a mut Numbering,
}

impl ChannelCopy<'_> {
    /// Goes on behind what the target has of it, `begun`; `tell` hears after each commit how many
    /// messages are written.
    pub fn run(
        &mut self,
        begun: ChannelState,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), TransferError> {
        self.messages(begun, tell)?;
        self.subscriptions().map_err(TransferError::Target)
    }

    fn messages(
        &mut self,
        begun: ChannelState,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), TransferError> {
        let name = &self.channel.channel;
        let ChannelState { first, last, .. } = self.channel.state;
        let is_begun = begun.last != Sequence::ZERO;
        let mut part = ChannelBatch {
            channel: name.clone(),
            lifecycle: if is_begun { Lifecycle::Keep } else { Lifecycle::Create },
            ..ChannelBatch::default()
        };
        if last == Sequence::ZERO {
            return self.target.write(part).map(drop).map_err(TransferError::Target);
        }
        if is_stand_in(self.channel) {
            return self.stand_in(part);
        }
        let (mut next, mut written) = match is_begun {
            true => (begun.last.next(), begun.message_count),
            false => (first, 0),
        };
        loop {
            let is_first = written == 0 && !is_begun;
            part.messages = self.source.read(name, next)?;
            if let Some(found) = part.messages.first()
                && is_first
                && self.is_served
            {
                // Limits have let go of those before, as they do of the oldest of all channels.
                next = next.max(found.sequence);
            }
            check_messages(&part.messages, name, next, self.is_in_clear)?;
            let Some(end) = part.messages.last() else {
                return match (next <= last, is_first && self.is_served) {
                    (false, _) => Ok(()),
                    (true, true) => self.stand_in(part),
                    (true, false) => Err(missing(name, next)),
                };
            };
            if is_first {
                part.begins_after = Sequence(next.get().saturating_sub(1));
            }
            next = end.sequence.next();
            written += u64::try_from(part.messages.len()).unwrap_or(u64::MAX);
            let rest = ChannelBatch { channel: name.clone(), ..ChannelBatch::default() };
            let full = std::mem::replace(&mut part, rest);
            let state = self.target.write(full).map_err(TransferError::Target)?;
            if state.message_count != written {
                return Err(TransferError::Differs { channel: name.clone(), what: "messages" });
            }
            self.source.confirm()?;
            tell(written);
        }
    }

    /// A message of no length keeps the next number.
    fn stand_in(&mut self, mut part: ChannelBatch) -> Result<(), TransferError> {
        let (name, last) = (&self.channel.channel, self.channel.state.last.get());
        part.begins_after = Sequence(last.saturating_sub(1));
        part.messages.push(MessageRecord::stand_in(name, last, self.channel.last_timestamp));
        self.target.write(part).map(drop).map_err(TransferError::Target)
    }

    fn subscriptions(&mut self) -> Result<(), PlaceError> {
        let mut writes = Vec::new();
        for RecoveredSubscription { state, pending } in &self.channel.subscriptions {
            let mut state = state.clone();
            state.id = self.numbering.give(state.id);
            let id = SubscriptionId(state.id);
            writes.push(SubscriptionWrite::Create(state.into()));
            writes.extend(pending.iter().map(|sequence| SubscriptionWrite::Sent(id, *sequence)));
        }
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(BATCH_WRITES));
            self.target.write(ChannelBatch {
                channel: self.channel.channel.clone(),
                subscriptions: std::mem::replace(&mut writes, rest),
                ..ChannelBatch::default()
            })?;
        }
        Ok(())
    }
}

/// Compares all that the target has with what the source has; `tell` hears now and then how many
/// messages were compared.
pub(super) fn read_back(
    source: &mut dyn Origin,
    target: &mut Place,
    channel: &RecoveredChannel,
    tell: &mut dyn FnMut(u64),
) -> Result<Report, TransferError> {
    let name = &channel.channel;
    let differs = |what| TransferError::Differs { channel: name.clone(), what };
    let found = target.channel(name).cloned().ok_or_else(|| differs("messages"))?;
    let (has, wanted) = (found.state, channel.state);
    let extent = |state: ChannelState| (state.first, state.last, state.message_count);
    if has.last != wanted.last || !is_stand_in(channel) && extent(has) != extent(wanted) {
        return Err(differs("messages"));
    }
    let (mut next, mut compared) = (wanted.first, 0);
    while wanted.message_count != 0 && next <= wanted.last {
        let mut ours = source.read(name, next)?;
        let mut theirs = target.read(name, next).map_err(TransferError::Target)?;
        let count = ours.len().min(theirs.len());
        ours.truncate(count);
        theirs.truncate(count);
        match ours.last() {
            Some(last) if ours == theirs => next = last.sequence.next(),
            Some(_) | None => return Err(differs("messages")),
        }
        source.confirm()?;
        target.confirm().map_err(TransferError::Target)?;
        compared += u64::try_from(count).unwrap_or(u64::MAX);
        tell(compared);
    }
    if !has_equal_subscriptions(&found, channel) {
        return Err(differs("subscriptions"));
    }
    Ok(Report {
        channel: name.to_string(),
        first: has.first.get(),
        last: has.last.get(),
        messages: has.message_count,
        bytes: has.byte_count,
        subscriptions: found.subscriptions.len(),
        pending: found.subscriptions.iter().map(|found| found.pending.len()).sum(),
    })
}

/// Whether both have the same subscriptions, at the same places; their numbers are the store's.
pub(super) fn has_equal_subscriptions(one: &RecoveredChannel, other: &RecoveredChannel) -> bool {
    let described = |it: &RecoveredChannel| {
        let shown = it.subscriptions.iter().map(|one| {
            let state = &one.state;
            (identity(one), state.last_sent, state.is_closed, one.pending.clone())
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        shown
    };
    described(one) == described(other)
}
