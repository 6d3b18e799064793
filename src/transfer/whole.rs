//! A store is copied: all of its channels, or some, into a new one.
//!
//! The source stays as it is. The target is marked as not complete until all was read back from
//! it. What was broken off goes on where it stopped, with what of it is equal still.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::epoch::FenceError;
use crate::base::id::ChannelName;
use crate::base::record::{ChannelState, RecoveredChannel, RecoveredState};
use crate::base::subject;
use crate::config::Config;
use crate::proto::spb;
use crate::site::new_store::{Found, NewStore, Work};
use crate::site::place::Place;
use crate::store::StoreError;
use crate::transfer::channel::{self, ChannelCopy, Numbering, Report as ChannelReport};
use crate::transfer::error::TransferError;
use crate::transfer::places;

/// What is to be copied.
pub struct Request<'a> {
    /// The store that has it.
    pub from: &'a Config,
    /// The store that is to have it.
    pub to: &'a Config,
    /// Which channels, as subjects with wildcards; all of them if there is none.
    pub patterns: &'a [String],
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// At which channel.
    pub channel: &'a ChannelName,
    /// Messages of all channels that were written, or read back.
    pub done: u64,
    /// Messages of all channels.
    pub all: u64,
    /// Whether all is written, and it is read back.
    pub is_reading_back: bool,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Of which cluster.
    pub cluster_id: String,
    /// How many clients.
    pub clients: usize,
    /// Whether a part of it was there, from a copy that was broken off.
    pub went_on: bool,
    /// Each channel.
    pub channels: Vec<ChannelReport>,
}

/// Copies a store; `tell` hears after each commit how far it is.
///
/// # Errors
/// [`TransferError`]; then the target is not complete, and says so.
pub fn copy(
    request: &Request<'_>,
    tell: &mut dyn FnMut(&Progress<'_>),
) -> Result<Report, TransferError> {
    let Request { from, to, patterns } = *request;
    places::check(from, to)?;
    let (mut source, server) = places::open_source(from)?;
    let channels = selected(source.recovered().channels.iter(), patterns)?;
    let is_in_clear = from.streaming.encryption.is_none();
    for channel in &channels {
        channel::check_readable(&mut source, is_in_clear, channel)?;
    }
    check_limits(&mut source, to, &channels)?;
    let (mut target, found) = NewStore::open_or_go_on(to, Work::Copy, &server.cluster_id)?;
    // Whoever opens a store ends the epoch of who had it open: by whatever name.
    match source.check() {
        Ok(()) => (),
        Err(FenceError::Superseded { .. }) => return Err(TransferError::OneStore),
        Err(error) => return Err(TransferError::Source(StoreError::from(error).into())),
    }
    let mut copy = StoreCopy { source: &mut source, server, channels: &channels, is_in_clear };
    if found != Found::Whole {
        copy.write(&mut target, tell)?;
        target.place().reopen().map_err(TransferError::Target)?;
    }
    let channels = match copy.read_back(target.place(), tell) {
        Err(TransferError::Differs { channel, what }) if found == Found::Whole => {
            return Err(TransferError::Complete(format!("{what} of {channel}")));
        }
        channels => channels?,
    };
    let report = Report {
        cluster_id: String::from_utf8_lossy(&copy.server.cluster_id).into_owned(),
        clients: target.place().recovered().clients.len(),
        went_on: found != Found::Nothing,
        channels,
    };
    let server = copy.server;
    match found {
        Found::Nothing | Found::Begun => target.finish(server)?,
        Found::Whole => drop(target),
    }
    source.close().map_err(TransferError::Source)?;
    Ok(report)
}

/// Whether a server of the new store would keep all of it.
fn check_limits(
    source: &mut Place,
    to: &Config,
    channels: &[RecoveredChannel],
) -> Result<(), TransferError> {
    let mut before = RecoveredState::default();
    for channel in channels {
        channel::check_limits(source, &before, to, channel)?;
        // All that counts of the others is how many there are.
        before.channels.push(RecoveredChannel {
            channel: channel.channel.clone(),
            ..RecoveredChannel::default()
        });
    }
    Ok(())
}

/// Those whose names match any of `patterns`.
pub(super) fn selected<'a>(
    channels: impl Iterator<Item = &'a RecoveredChannel>,
    patterns: &[String],
) -> Result<Vec<RecoveredChannel>, TransferError> {
    let matches = |pattern: &String, channel: &RecoveredChannel| {
        subject::matches(pattern.as_bytes(), channel.channel.as_bytes())
    };
    let is_meant = |channel: &&RecoveredChannel| {
        patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, channel))
    };
    let found: Vec<RecoveredChannel> = channels.filter(is_meant).cloned().collect();
    match patterns.iter().find(|pattern| !found.iter().any(|it| matches(pattern, it))) {
        None => Ok(found),
        Some(pattern) => Err(TransferError::NoMatch(pattern.clone())),
    }
}

/// A store on its way.
struct StoreCopy<'a> {
    source: &'a mut Place,
    server: spb::ServerInfo,
    channels: &'a [RecoveredChannel],
    is_in_clear: bool,
}

impl StoreCopy<'_> {
    fn all(&self) -> u64 {
        self.channels.iter().map(|channel| channel.state.message_count).sum()
    }

    fn write(
        &mut self,
        target: &mut NewStore,
        tell: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<(), TransferError> {
        target.begin(&self.server)?;
        let target = target.place();
        let clients = self.source.recovered().clients.clone();
        channel::write_clients(target, clients).map_err(TransferError::Target)?;
        let begun = self.keep_begun(target)?;
        let (mut before, all) = (0, self.all());
        let mut numbering = Numbering::of(target);
        for channel in self.channels {
            let begun = begun.get(&channel.channel);
            let Some(begun) = self.begun(target, channel, begun)? else {
                before += channel.state.message_count;
                continue;
            };
            let mut copy = ChannelCopy {
                source: self.source,
                target,
                channel,
                is_in_clear: self.is_in_clear,
                numbering: &mut numbering,
            };
            copy.run(begun, &mut |done| {
                let (channel, done) = (&channel.channel, before + done);
                tell(&Progress { channel, done, all, is_reading_back: false });
            })?;
            before += channel.state.message_count;
        }
        Ok(())
    }

    /// What a copy that was broken off has left of these channels; what it has left of others goes.
    fn keep_begun(
        &self,
        target: &mut Place,
    ) -> Result<BTreeMap<ChannelName, RecoveredChannel>, TransferError> {
        let names: BTreeSet<&ChannelName> = self.channels.iter().map(|it| &it.channel).collect();
        let found = target.recovered().channels.clone();
        let (kept, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| names.contains(&found.channel));
        for other in others {
            channel::delete(target, &other.channel).map_err(TransferError::Target)?;
        }
        Ok(kept.into_iter().map(|found| (found.channel.clone(), found)).collect())
    }

    /// What the target has of a channel and the source has too; `None` if that is all of it. Of
    /// anything else nothing stays.
    fn begun(
        &mut self,
        target: &mut Place,
        channel: &RecoveredChannel,
        begun: Option<&RecoveredChannel>,
    ) -> Result<Option<ChannelState>, TransferError> {
        let Some(begun) = begun else {
            return Ok(Some(ChannelState::default()));
        };
        let (had, has) = (begun.state, channel.state);
        let is_begun = had.message_count != 0 && had.first == has.first && has.message_count != 0;
        if is_begun && channel::check_begun(self.source, target, channel, begun).is_ok() {
            if begun.subscriptions.is_empty() && !channel.subscriptions.is_empty() {
                return Ok(Some(had));
            }
            let is_equal = channel::has_equal_subscriptions(begun, channel);
            if is_equal && (had.last, had.message_count) == (has.last, has.message_count) {
                return Ok(None);
            }
            if is_equal && channel.subscriptions.is_empty() {
                return Ok(Some(had));
            }
        }
        channel::delete(target, &channel.channel).map_err(TransferError::Target)?;
        Ok(Some(ChannelState::default()))
    }

    fn read_back(
        &mut self,
        target: &mut Place,
        tell: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Vec<ChannelReport>, TransferError> {
        let names: BTreeSet<&ChannelName> = self.channels.iter().map(|it| &it.channel).collect();
        let has = &target.recovered().channels;
        if let Some(other) = has.iter().find(|found| !names.contains(&found.channel)) {
            return Err(TransferError::Complete(format!("channels ({})", other.channel)));
        }
        if !has_clients(target, self.source) {
            return Err(TransferError::Complete("clients".to_owned()));
        }
        let (mut before, all) = (0, self.all());
        let mut reports = Vec::with_capacity(self.channels.len());
        for channel in self.channels {
            let found = channel::read_back(self.source, target, channel, &mut |done| {
                let (channel, done) = (&channel.channel, before + done);
                tell(&Progress { channel, done, all, is_reading_back: true });
            });
            reports.push(found?);
            before += channel.state.message_count;
        }
        Ok(reports)
    }
}

fn has_clients(target: &Place, source: &Place) -> bool {
    let sorted = |place: &Place| {
        let clients = place.recovered().clients.iter();
        let mut clients: Vec<_> = clients.map(|it| (it.id.clone(), it.hb_inbox.clone())).collect();
        clients.sort();
        clients
    };
    sorted(target) == sorted(source)
}
