//! A channel moves: it is copied, read back from the other store, and only then deleted.
//!
//! It keeps its sequences, times, subscriptions, and what was sent and not acknowledged. A move
//! that was broken off begins anew: as long as the source has the channel, what the target has of
//! it and the source has too is dropped; if the target has anything else, nobody touches either.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::base::epoch::FenceError;
use crate::base::id::{ChannelName, Sequence, SubscriptionId};
use crate::base::record::{
    Batch, ChannelBatch, ChannelState, ClientWrite, Lifecycle, MessageRecord, RecoveredChannel,
    RecoveredSubscription, SubscriptionWrite,
};
use crate::base::world;
use crate::config::Config;
use crate::proto::pb;
use crate::site;
use crate::site::place::{Place, PlaceError};
use crate::store::StoreError;
use crate::store::encryption::payload::looks_encrypted;

/// Changes of subscriptions that are written in one commit.
const BATCH_WRITES: usize = 10_000;

/// Why a channel did not move. The store that has had it still has it; the other one may have a
/// copy.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There is nothing to move from, or to.
    #[error("a store in memory is gone with its server")]
    Memory,
    /// The source cannot be used.
    #[error("the store that has it: {0}")]
    Source(#[source] PlaceError),
    /// The target cannot be used.
    #[error("the store that is to have it: {0}")]
    Target(#[source] PlaceError),
    /// What is made now would belong to another user than what is there.
    #[error("{} belongs to user {owner}, and this is user {user}: run it as that one", .path.display())]
    User {
        /// Where it lies.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Nothing of that name is there.
    #[error("there is no channel {0}")]
    NoChannel(ChannelName),
    /// A store without a server's record.
    #[error("the store that is to have it was never used: start its server once, and stop it")]
    NewTarget,
    /// Clients of one would not find the other.
    #[error("they are of different clusters: {from:?} and {to:?}")]
    Clusters {
        /// Of the source.
        from: String,
        /// Of the target.
        to: String,
    },
    /// The target has its own.
    #[error("the store that is to have {channel} has one already, with other {what}")]
    Taken {
        /// Which channel.
        channel: ChannelName,
        /// What differs.
        what: &'static str,
    },
    /// There is a key, and nobody has named it.
    #[error(
        "the messages of {channel} look encrypted, and no key is given for the store that has it: \
         name it in that server's file, or say --encrypt, with the key in \
         NATS_STREAMING_ENCRYPTION_KEY"
    )]
    Encrypted {
        /// Which channel.
        channel: ChannelName,
    },
    /// Both are one.
    #[error("both configurations name one store")]
    OneStore,
    /// The target would not keep it.
    #[error("limits of the store that is to have {channel} {why}: raise them")]
    Limits {
        /// Which channel.
        channel: ChannelName,
        /// Which limit, and what is beyond it.
        why: String,
    },
    /// What was read back is not what was written.
    #[error("{channel} was copied, and reads back with other {what}: both stores were left")]
    Differs {
        /// Which channel.
        channel: ChannelName,
        /// What differs.
        what: &'static str,
    },
}

/// What was moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
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

/// Moves `name` from the store of one stopped server to that of another; `tell` hears after each
/// commit how many messages are written.
///
/// # Errors
/// [`MoveError`].
pub fn move_channel(
    name: &ChannelName,
    from: &Config,
    to: &Config,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Report, MoveError> {
    if !from.is_lasting() || !to.is_lasting() {
        return Err(MoveError::Memory);
    }
    let paths =
        [path_of(from).map_err(MoveError::Source)?, path_of(to).map_err(MoveError::Target)?];
    if paths[0].is_some() && paths[0] == paths[1] {
        return Err(MoveError::OneStore);
    }
    paths.into_iter().flatten().try_for_each(check_user)?;
    // The source is not touched before the target is known to be of use.
    let mut target = Place::open_to_take(to).map_err(MoveError::Target)?;
    let to_cluster = cluster_of(&target).ok_or(MoveError::NewTarget)?;
    let mut source = Place::open(from).map_err(MoveError::Source)?;
    // Whoever opens a store ends the epoch of who had it open: by whatever name.
    match target.check() {
        Ok(()) => (),
        Err(FenceError::Superseded { .. }) => return Err(MoveError::OneStore),
        Err(error) => return Err(MoveError::Target(StoreError::from(error).into())),
    }
    check_cluster(cluster_of(&source).unwrap_or_default(), to_cluster)?;
    let channel = source.channel(name).cloned();
    let channel = channel.ok_or_else(|| MoveError::NoChannel(name.clone()))?;
    check_readable(&mut source, from, &channel)?;
    check_limits(&mut source, &target, to, &channel)?;
    if let Some(begun) = target.channel(name).cloned() {
        check_begun(&mut source, &mut target, &channel, &begun)?;
        delete(&mut target, name).map_err(MoveError::Target)?;
    }
    let is_in_clear = from.streaming.encryption.is_none();
    let (from, to) = (&mut source, &mut target);
    let mut copy = Copy { source: from, target: to, channel: &channel, is_in_clear };
    if let Err(error) = copy.run(tell) {
        // What is left of it would be in the way of the target's server.
        let _ = delete(&mut target, name);
        return Err(error);
    }
    target.reopen().map_err(MoveError::Target)?;
    let report = read_back(&mut source, &mut target, &channel)?;
    target.close().map_err(MoveError::Target)?;
    delete(&mut source, name).map_err(MoveError::Source)?;
    source.close().map_err(MoveError::Source)?;
    Ok(report)
}

/// Where it lies on this machine, if it does.
fn path_of(config: &Config) -> Result<Option<PathBuf>, PlaceError> {
    Ok(site::of(config)?.path())
}

/// A server that may not read what we make would not start any more.
fn check_user(path: PathBuf) -> Result<(), MoveError> {
    let user = nix::unistd::geteuid().as_raw();
    // What is not there is told by whoever opens it.
    let Ok(found) = std::fs::metadata(&path) else { return Ok(()) };
    let owner = found.uid();
    if owner == user { Ok(()) } else { Err(MoveError::User { path, owner, user }) }
}

fn cluster_of(place: &Place) -> Option<Bytes> {
    place.recovered().server.as_ref().map(|server| server.cluster_id.clone())
}

fn check_cluster(from: Bytes, to: Bytes) -> Result<(), MoveError> {
    if from == to {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(MoveError::Clusters { from: text(&from), to: text(&to) })
}

/// What is encrypted must not be taken for clear text, and encrypted once more. The oldest and the
/// newest message are looked at before anything is written, each other one on its way.
fn check_readable(
    source: &mut Place,
    from: &Config,
    channel: &RecoveredChannel,
) -> Result<(), MoveError> {
    if from.streaming.encryption.is_some() || channel.state.message_count == 0 {
        return Ok(());
    }
    for sequence in [channel.state.first, channel.state.last] {
        let found = source.read(&channel.channel, sequence).map_err(MoveError::Source)?;
        if found.first().is_some_and(is_encrypted) {
            return Err(MoveError::Encrypted { channel: channel.channel.clone() });
        }
    }
    Ok(())
}

fn is_encrypted(message: &MessageRecord) -> bool {
    let decoded = pb::MsgProto::decode(message.encoded.clone());
    decoded.is_ok_and(|decoded| looks_encrypted(&decoded.data, message.sequence))
}

/// Whether the target would let go of anything of it at once, or take nothing more.
fn check_limits(
    source: &mut Place,
    target: &Place,
    to: &Config,
    channel: &RecoveredChannel,
) -> Result<(), MoveError> {
    let name = &channel.channel;
    let refuse = |why: String| Err(MoveError::Limits { channel: name.clone(), why });
    let limits = match to.streaming.limits.resolve() {
        Ok(limits) => limits,
        Err(error) => return refuse(format!("cannot be used ({error})")),
    };
    let channels = target.recovered().channels.iter().filter(|found| found.channel != *name);
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
        let oldest = source.read(name, channel.state.first).map_err(MoveError::Source)?;
        let since = oldest.first().map_or(0, |oldest| oldest.timestamp.0);
        let age = world::now().wall.0.saturating_sub(since);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        if limits.age_max < age {
            return refuse(format!("let go of messages after {:?}", limits.age_max));
        }
    }
    Ok(())
}

fn delete(place: &mut Place, name: &ChannelName) -> Result<(), PlaceError> {
    let channel = name.clone();
    let part = ChannelBatch { channel, lifecycle: Lifecycle::Delete, ..ChannelBatch::default() };
    place.write(part).map(drop)
}

/// Whether all that the target has of the channel is a copy of what the source has.
fn check_begun(
    source: &mut Place,
    target: &mut Place,
    channel: &RecoveredChannel,
    begun: &RecoveredChannel,
) -> Result<(), MoveError> {
    let taken = |what| MoveError::Taken { channel: channel.channel.clone(), what };
    let known: BTreeSet<Vec<u8>> = channel.subscriptions.iter().map(identity).collect();
    if !begun.subscriptions.iter().all(|found| known.contains(&identity(found))) {
        return Err(taken("subscriptions"));
    }
    let (name, had, has) = (&channel.channel, begun.state, channel.state);
    if had.last == Sequence::ZERO {
        return Ok(());
    }
    if is_stand_in(channel) {
        let found = target.read(name, had.first).map_err(MoveError::Target)?;
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
        let copied = target.read(name, next).map_err(MoveError::Target)?;
        if copied.is_empty() {
            return Ok(());
        }
        let mut original = source.read(name, next).map_err(MoveError::Source)?;
        original.truncate(copied.len());
        match original.last() {
            Some(last) if copied.starts_with(&original) => next = last.sequence.next(),
            Some(_) | None => return Err(taken("messages")),
        }
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

/// A channel on its way.
struct Copy<'a> {
    source: &'a mut Place,
    target: &'a mut Place,
    channel: &'a RecoveredChannel,
    /// Whether no key is given.
    is_in_clear: bool,
}

impl Copy<'_> {
    fn run(&mut self, tell: &mut dyn FnMut(u64, u64)) -> Result<(), MoveError> {
        self.clients().map_err(MoveError::Target)?;
        self.messages(tell)?;
        self.subscriptions().map_err(MoveError::Target)
    }

    /// All servers of a cluster ID know the same clients, unless one was away when a client came.
    fn clients(&mut self) -> Result<(), PlaceError> {
        let subscriptions = self.channel.subscriptions.iter();
        let subscribers: BTreeSet<&[u8]> =
            subscriptions.map(|found| &found.state.client_id[..]).collect();
        let known = self.target.recovered().clients.iter();
        let known: BTreeSet<&[u8]> = known.map(|client| &client.id[..]).collect();
        let missing = self.source.recovered().clients.iter();
        let missing: Vec<ClientWrite> = missing
            .filter(|client| {
                let id = &client.id[..];
                subscribers.contains(id) && !known.contains(id)
            })
            .map(|client| ClientWrite::Add(client.clone()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let batch = Batch { clients: missing, durable: true, ..Batch::default() };
        self.target.commit(batch).map(drop)
    }

    fn messages(&mut self, tell: &mut dyn FnMut(u64, u64)) -> Result<(), MoveError> {
        let name = &self.channel.channel;
        let ChannelState { first, last, message_count, .. } = self.channel.state;
        let mut part = ChannelBatch {
            channel: name.clone(),
            lifecycle: Lifecycle::Create,
            ..ChannelBatch::default()
        };
        if last == Sequence::ZERO {
            return self.target.write(part).map(drop).map_err(MoveError::Target);
        }
        if is_stand_in(self.channel) {
            part.begins_after = Sequence(last.get().saturating_sub(1));
            part.messages.push(MessageRecord::stand_in(
                name,
                last.get(),
                self.channel.last_timestamp,
            ));
            return self.target.write(part).map(drop).map_err(MoveError::Target);
        }
        part.begins_after = Sequence(first.get().saturating_sub(1));
        let (mut next, mut written) = (first, 0);
        loop {
            part.messages = self.source.read(name, next).map_err(MoveError::Source)?;
            if self.is_in_clear && part.messages.iter().any(is_encrypted) {
                return Err(MoveError::Encrypted { channel: name.clone() });
            }
            let Some(end) = part.messages.last() else { return Ok(()) };
            next = end.sequence.next();
            written += u64::try_from(part.messages.len()).unwrap_or(u64::MAX);
            let rest = ChannelBatch { channel: name.clone(), ..ChannelBatch::default() };
            let full = std::mem::replace(&mut part, rest);
            let state = self.target.write(full).map_err(MoveError::Target)?;
            if state.message_count != written {
                return Err(MoveError::Differs { channel: name.clone(), what: "messages" });
            }
            self.source.confirm().map_err(MoveError::Source)?;
            tell(written, message_count);
        }
    }

    fn subscriptions(&mut self) -> Result<(), PlaceError> {
        let is_as_one = self.target.numbers_subscriptions_as_one();
        let used = self.target.recovered().channels.iter().flat_map(|found| &found.subscriptions);
        let mut number = used.map(|found| found.state.id).max().unwrap_or(0);
        let mut writes = Vec::new();
        for RecoveredSubscription { state, pending } in &self.channel.subscriptions {
            let mut state = state.clone();
            if is_as_one {
                number += 1;
                state.id = number;
            }
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

/// Compares all that the target has with what the source has.
fn read_back(
    source: &mut Place,
    target: &mut Place,
    channel: &RecoveredChannel,
) -> Result<Report, MoveError> {
    let name = &channel.channel;
    let differs = |what| MoveError::Differs { channel: name.clone(), what };
    let found = target.channel(name).cloned().ok_or_else(|| differs("messages"))?;
    let (has, wanted) = (found.state, channel.state);
    let extent = |state: ChannelState| (state.first, state.last, state.message_count);
    if has.last != wanted.last || !is_stand_in(channel) && extent(has) != extent(wanted) {
        return Err(differs("messages"));
    }
    let mut next = wanted.first;
    while wanted.message_count != 0 && next <= wanted.last {
        let mut ours = source.read(name, next).map_err(MoveError::Source)?;
        let mut theirs = target.read(name, next).map_err(MoveError::Target)?;
        let count = ours.len().min(theirs.len());
        ours.truncate(count);
        theirs.truncate(count);
        match ours.last() {
            Some(last) if ours == theirs => next = last.sequence.next(),
            Some(_) | None => return Err(differs("messages")),
        }
        source.confirm().map_err(MoveError::Source)?;
        target.confirm().map_err(MoveError::Target)?;
    }
    let described = |it: &RecoveredChannel| {
        let shown = it.subscriptions.iter().map(|one| {
            let state = &one.state;
            (identity(one), state.last_sent, state.is_closed, one.pending.clone())
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        shown
    };
    if described(&found) != described(channel) {
        return Err(differs("subscriptions"));
    }
    Ok(Report {
        first: has.first.get(),
        last: has.last.get(),
        messages: has.message_count,
        bytes: has.byte_count,
        subscriptions: found.subscriptions.len(),
        pending: found.subscriptions.iter().map(|found| found.pending.len()).sum(),
    })
}
