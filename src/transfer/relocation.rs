//! A channel moves: it is copied, read back from the other store, and only then deleted.
//!
//! It keeps its sequences, times, subscriptions, and what was sent and not acknowledged. A move
//! that was broken off begins anew: as long as the source has the channel, what the target has of
//! it and the source has too is dropped; if the target has anything else, nobody touches either.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::epoch::FenceError;
use crate::base::id::ChannelName;
use crate::base::record::{ChannelState, RecoveredChannel};
use crate::config::Config;
use crate::site::place::{Place, PlaceError};
use crate::store::StoreError;
use crate::transfer::channel::{self, ChannelCopy, Numbering, Report};
use crate::transfer::error::TransferError;
use crate::transfer::places;

/// Moves `name` from the store of one stopped server to that of another; `tell` hears after each
/// commit how many messages are written.
///
/// # Errors
/// [`TransferError`].
pub fn move_channel(
    name: &ChannelName,
    from: &Config,
    to: &Config,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Report, TransferError> {
    places::check(from, to)?;
    // The source is not touched before the target is known to be of use.
    let mut target = Place::open_unlimited(to).map_err(TransferError::Target)?;
    let to_cluster = cluster_of(&target).ok_or(TransferError::NewTarget)?;
    let mut source = Place::open(from).map_err(TransferError::Source)?;
    // Whoever opens a store ends the epoch of who had it open: by whatever name.
    match target.check() {
        Ok(()) => (),
        Err(FenceError::Superseded { .. }) => return Err(TransferError::OneStore),
        Err(error) => return Err(TransferError::Target(StoreError::from(error).into())),
    }
    check_cluster(cluster_of(&source).unwrap_or_default(), to_cluster)?;
    let channel = source.channel(name).cloned();
    let channel = channel.ok_or_else(|| TransferError::NoChannel(name.clone()))?;
    let is_in_clear = from.streaming.encryption.is_none();
    channel::check_readable(&mut source, is_in_clear, &channel)?;
    channel::check_limits(&mut source, target.recovered(), to, &channel)?;
    if let Some(begun) = target.channel(name).cloned() {
        channel::check_begun(&mut source, &mut target, &channel, &begun)?;
        channel::delete(&mut target, name).map_err(TransferError::Target)?;
    }
    let done = copy(&mut source, &mut target, &channel, is_in_clear, tell);
    if let Err(error) = done {
        // What is left of it would be in the way of the target's server.
        let _ = channel::delete(&mut target, name);
        return Err(error);
    }
    target.reopen().map_err(TransferError::Target)?;
    let report = channel::read_back(&mut source, &mut target, &channel, &mut |_| ())?;
    target.close().map_err(TransferError::Target)?;
    channel::delete(&mut source, name).map_err(TransferError::Source)?;
    source.close().map_err(TransferError::Source)?;
    Ok(report)
}

fn copy(
    source: &mut Place,
    target: &mut Place,
    channel: &RecoveredChannel,
    is_in_clear: bool,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<(), TransferError> {
    add_clients(source, target, channel).map_err(TransferError::Target)?;
    let mut numbering = Numbering::of(target);
    let (numbering, is_served) = (&mut numbering, false);
    let mut copy = ChannelCopy { source, target, channel, is_in_clear, is_served, numbering };
    let all = channel.state.message_count;
    copy.run(ChannelState::default(), &mut |done| tell(done, all))
}

/// All servers of a cluster ID know the same clients, unless one was away when a client came.
fn add_clients(
    source: &Place,
    target: &mut Place,
    channel: &RecoveredChannel,
) -> Result<(), PlaceError> {
    let subscriptions = channel.subscriptions.iter();
    let subscribers: BTreeSet<&[u8]> =
        subscriptions.map(|found| &found.state.client_id[..]).collect();
    let clients = source.recovered().clients.iter();
    let clients = clients.filter(|client| subscribers.contains(&client.id[..]));
    channel::write_clients(target, clients.cloned().collect())
}

fn cluster_of(place: &Place) -> Option<Bytes> {
    place.recovered().server.as_ref().map(|server| server.cluster_id.clone())
}

fn check_cluster(from: Bytes, to: Bytes) -> Result<(), TransferError> {
    if from == to {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(TransferError::Clusters { from: text(&from), to: text(&to) })
}
