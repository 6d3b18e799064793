//! A store on its way: all that is to be in a new one, written and read back.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::ChannelName;
use crate::base::record::{ChannelState, RecoveredChannel, RecoveredState};
use crate::config::Config;
use crate::proto::spb;
use crate::site::new_store::{Found, NewStore, Work};
use crate::site::place::Place;
use crate::transfer::channel::{self, ChannelCopy, Numbering, Report as ChannelReport};
use crate::transfer::error::TransferError;
use crate::transfer::origin::Origin;

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

/// What was brought over.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Of which cluster.
    pub cluster_id: String,
    /// How many clients.
    pub clients: usize,
    /// Whether a part of it was there, from work that was broken off.
    pub went_on: bool,
    /// Whether all of it was there, and was only read back.
    pub was_there: bool,
    /// Each channel.
    pub channels: Vec<ChannelReport>,
}

/// Whether a server of the new store would keep all of it.
pub(super) fn check_limits(
    source: &mut dyn Origin,
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

/// Opens the new store, in which this work may be begun or done.
///
/// # Errors
/// [`TransferError`].
pub(super) fn open_target(
    to: &Config,
    work: Work,
    cluster: &[u8],
) -> Result<(NewStore, Found), TransferError> {
    let (target, found) = NewStore::open_or_go_on(to, work, cluster)?;
    if found != Found::Whole || to.streaming.encryption.is_none() {
        return Ok((target, found));
    }
    drop(target);
    check_encrypted(to)?;
    Ok(NewStore::open_or_go_on(to, work, cluster)?)
}

/// Who asks for an encrypted store is not told that one in clear is it: with the key both read the
/// same.
fn check_encrypted(to: &Config) -> Result<(), TransferError> {
    let mut as_it_lies = to.clone();
    as_it_lies.streaming.encryption = None;
    let mut place = Place::open_unlimited(&as_it_lies).map_err(TransferError::Target)?;
    for RecoveredChannel { channel, state, .. } in place.recovered().channels.clone() {
        for sequence in [state.first, state.last] {
            let found = place.read(&channel, sequence).map_err(TransferError::Target)?;
            if found.first().is_some_and(channel::is_in_clear) {
                let what = format!("messages ({channel} is in clear)");
                return Err(TransferError::Complete(what));
            }
        }
    }
    place.close().map_err(TransferError::Target)
}

/// A store on its way.
pub(super) struct StoreCopy<'a> {
    /// Gives the messages.
    pub source: &'a mut dyn Origin,
    /// The server's record.
    pub server: spb::ServerInfo,
    /// All clients.
    pub clients: Vec<spb::ClientInfo>,
    /// All channels, in the order in which the source has them.
    pub channels: &'a [RecoveredChannel],
    /// Whether no key is given for the source.
    pub is_in_clear: bool,
}

impl StoreCopy<'_> {
    /// Makes `target` of it, in which `found` was; `tell` hears how far it is.
    ///
    /// # Errors
    /// [`TransferError`]; then the target is not complete, and says so.
    pub fn run(
        mut self,
        mut target: NewStore,
        found: Found,
        tell: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Report, TransferError> {
        if found != Found::Whole {
            self.write(&mut target, tell)?;
            target.place().reopen().map_err(TransferError::Target)?;
        }
        let channels = match self.read_back(target.place(), tell) {
            Err(TransferError::Differs { channel, what }) if found == Found::Whole => {
                return Err(TransferError::Complete(format!("{what} of {channel}")));
            }
            channels => channels?,
        };
        let report = Report {
            cluster_id: String::from_utf8_lossy(&self.server.cluster_id).into_owned(),
            clients: target.place().recovered().clients.len(),
            went_on: found == Found::Begun,
            was_there: found == Found::Whole,
            channels,
        };
        match found {
            Found::Nothing | Found::Begun => target.finish(self.server)?,
            Found::Whole => drop(target),
        }
        Ok(report)
    }

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
        channel::write_clients(target, self.clients.clone()).map_err(TransferError::Target)?;
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
                is_served: false,
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
        if !has_clients(target, &self.clients) {
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

fn has_clients(target: &Place, clients: &[spb::ClientInfo]) -> bool {
    let sorted = |clients: &[spb::ClientInfo]| {
        let clients = clients.iter();
        let mut clients: Vec<_> = clients.map(|it| (it.id.clone(), it.hb_inbox.clone())).collect();
        clients.sort();
        clients
    };
    sorted(&target.recovered().clients) == sorted(clients)
}
