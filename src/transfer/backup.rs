//! A backup: the store that somebody serves is copied into a new one, while it is served.
//!
//! Each channel is copied as it is at a moment of its own behind the begin: what was acknowledged
//! before the begin is there, its messages are a prefix, and no subscription is ahead of them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::base::id::{ChannelName, Sequence};
use crate::base::record::{ChannelState, MessageRecord, RecoveredChannel};
use crate::base::time::WallTime;
use crate::config::Config;
use crate::proto::spb;
use crate::site::new_store::{NewStore, Work};
use crate::site::place::Place;
use crate::transfer::channel::{self, ChannelCopy, Numbering};
use crate::transfer::error::TransferError;
use crate::transfer::origin::Origin;
use crate::transfer::places;

/// How often a channel is begun anew whose limits let go of what is being copied.
const TRIES_MAX: u32 = 8;

/// A store that somebody serves.
pub trait Served: Origin {
    /// All clients.
    ///
    /// # Errors
    /// [`TransferError`].
    fn clients(&mut self) -> Result<Vec<spb::ClientInfo>, TransferError>;

    /// Names of all channels.
    ///
    /// # Errors
    /// [`TransferError`].
    fn names(&mut self) -> Result<Vec<ChannelName>, TransferError>;

    /// A channel as it is now, between two commits; `None` if it is gone. What is read of it from
    /// now on ends with its last message.
    ///
    /// # Errors
    /// [`TransferError`].
    fn channel(&mut self, name: &ChannelName) -> Result<Option<RecoveredChannel>, TransferError>;

    /// Whether nobody else has served it since the begin.
    ///
    /// # Errors
    /// [`TransferError`] if somebody may have.
    fn check(&mut self) -> Result<(), TransferError>;
}

/// How far a backup is, or what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Channels that are copied.
    pub channels: u64,
    /// Channels when it began.
    pub channels_all: u64,
    /// Messages.
    pub messages: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Clients.
    pub clients: u64,
}

/// Copies what is served into the new store that `to` describes; `tell` hears how far it is.
///
/// # Errors
/// [`TransferError`]; then the new store is not complete, and says so.
pub fn back_up(
    served: &mut dyn Served,
    server: spb::ServerInfo,
    to: &Config,
    tell: &mut dyn FnMut(&Progress),
) -> Result<Progress, TransferError> {
    places::check_target(to)?;
    let mut target = NewStore::open(to, Work::Backup, &server.cluster_id)?;
    target.begin(&server)?;
    // One that is broken off is begun in another place.
    target.place().put_off_syncs();
    let names = served.names()?;
    let channels_all = names.len() as u64;
    let mut progress = Progress { channels_all, ..Progress::default() };
    let mut numbering = Numbering::of(target.place());
    let mut copied = Vec::with_capacity(names.len());
    for name in &names {
        let before = progress.messages;
        let one = copy(served, target.place(), name, &mut numbering, &mut |done| {
            progress.messages = before + done;
            tell(&progress);
        })?;
        progress.channels += 1;
        let Some(one) = one else { continue };
        progress.subscriptions += one.channel.subscriptions.len() as u64;
        copied.push(one);
        tell(&progress);
    }
    let clients = served.clients()?;
    progress.clients = clients.len() as u64;
    channel::write_clients(target.place(), clients).map_err(TransferError::Target)?;
    // What others acknowledge who serve instead would not be there.
    served.check()?;
    target.place().reopen().map_err(TransferError::Target)?;
    copied.iter().try_for_each(|one| read_back(target.place(), one))?;
    target.finish(server)?;
    Ok(progress)
}

/// A channel that was copied.
struct Copied {
    channel: RecoveredChannel,
    /// Of its messages.
    digest: u64,
}

/// Copies a channel; `None` if it is gone.
fn copy(
    served: &mut dyn Served,
    target: &mut Place,
    name: &ChannelName,
    numbering: &mut Numbering,
    tell: &mut dyn FnMut(u64),
) -> Result<Option<Copied>, TransferError> {
    for _ in 0..TRIES_MAX {
        let Some(channel) = served.channel(name)? else { return Ok(None) };
        let mut tally = Tally { served, digest: DefaultHasher::new(), first: None, end: None };
        let mut copy = ChannelCopy {
            source: &mut tally,
            target,
            channel: &channel,
            // It is decrypted by who serves it.
            is_in_clear: false,
            is_served: true,
            numbering,
        };
        match copy.run(ChannelState::default(), tell) {
            Ok(()) => {
                let digest = tally.digest.finish();
                let begins_at = tally.first.unwrap_or(channel.state.last);
                let end = (channel.state.last, channel.last_timestamp);
                let is_other = tally.end.is_some_and(|found| found != end)
                    || (channel.state.first < begins_at
                        && is_made_anew(served, &channel, begins_at.prev())?);
                if !is_other {
                    return Ok(Some(Copied { digest, channel }));
                }
            }
            Err(TransferError::Missing { sequence, .. }) => {
                let _ = is_made_anew(served, &channel, sequence)?;
            }
            Err(error) => return Err(error),
        }
        // Of what is begun anew nothing stays.
        channel::delete(target, name).map_err(TransferError::Target)?;
    }
    Err(TransferError::Fleeting(name.clone()))
}

/// Whether the channel is gone by now, or is another one that was made under its name; if not, that
/// a message which was not read has been let go of meanwhile, by limits or an operator: else it is
/// damaged.
fn is_made_anew(
    served: &mut dyn Served,
    former: &RecoveredChannel,
    sequence: Sequence,
) -> Result<bool, TransferError> {
    let name = &former.channel;
    let Some(now) = served.channel(name)? else { return Ok(true) };
    let (last, time) = (former.state.last, former.last_timestamp);
    if now.state.last < last || (now.state.last == last && now.last_timestamp != time) {
        return Ok(true);
    }
    if has_let_go(&now, sequence) {
        return Ok(false);
    }
    let found = served.read(name, last)?;
    let is_of_another = match found.first().filter(|message| message.sequence == last) {
        Some(message) => message.timestamp != time,
        // It may have been let go of since the channel was looked at, a moment ago.
        None => served.channel(name)?.is_none_or(|now| has_let_go(&now, last)),
    };
    if is_of_another {
        return Ok(true);
    }
    Err(TransferError::Missing { channel: name.clone(), sequence })
}

/// Whether a channel begins behind a message.
fn has_let_go(now: &RecoveredChannel, sequence: Sequence) -> bool {
    now.state.message_count == 0 || sequence < now.state.first
}

/// Counts what is read.
struct Tally<'a> {
    served: &'a mut dyn Served,
    digest: DefaultHasher,
    /// Where that begins.
    first: Option<Sequence>,
    /// The last of it, and when that was published.
    end: Option<(Sequence, WallTime)>,
}

impl Origin for Tally<'_> {
    fn read(
        &mut self,
        channel: &ChannelName,
        from: Sequence,
    ) -> Result<Vec<MessageRecord>, TransferError> {
        let messages = self.served.read(channel, from)?;
        count(&mut self.digest, &messages);
        self.first = self.first.or_else(|| messages.first().map(|first| first.sequence));
        self.end = messages.last().map(|last| (last.sequence, last.timestamp)).or(self.end);
        Ok(messages)
    }

    fn confirm(&mut self) -> Result<(), TransferError> {
        self.served.confirm()
    }
}

fn count(digest: &mut DefaultHasher, messages: &[MessageRecord]) {
    for message in messages {
        (message.sequence.get(), message.timestamp.0, &message.encoded).hash(digest);
    }
}

/// Compares what the new store has with what was read.
fn read_back(target: &mut Place, copied: &Copied) -> Result<(), TransferError> {
    let name = &copied.channel.channel;
    let differs = |what| TransferError::Differs { channel: name.clone(), what };
    let found = target.channel(name).cloned().ok_or_else(|| differs("messages"))?;
    if found.state.last != copied.channel.state.last {
        return Err(differs("messages"));
    }
    let (mut digest, mut next) = (DefaultHasher::new(), found.state.first);
    loop {
        let messages = target.read(name, next).map_err(TransferError::Target)?;
        let Some(last) = messages.last() else { break };
        next = last.sequence.next();
        count(&mut digest, &messages);
        target.confirm().map_err(TransferError::Target)?;
    }
    // One that stands in for all was not read.
    let is_stand_in =
        found.state.message_count == 1 && DefaultHasher::new().finish() == copied.digest;
    if !is_stand_in && digest.finish() != copied.digest {
        return Err(differs("messages"));
    }
    match channel::has_equal_subscriptions(&found, &copied.channel) {
        true => Ok(()),
        false => Err(differs("subscriptions")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io;
    use std::path::Path;

    use bytes::Bytes;

    use super::*;
    use crate::base::id::SubscriptionId;
    use crate::base::record::RecoveredSubscription;
    use crate::config::options::{self, Request};
    use crate::config::{Program, World};
    use crate::proto::pb;

    /// A channel from 1 to `last`, whose limits let go of messages while it is read.
    struct Trimmed {
        first: u64,
        last: u64,
        /// How many each read lets go of, for the next ones.
        lets_go: Vec<u64>,
        /// The same of each look at what it has.
        lets_go_behind_a_look: Vec<u64>,
        /// This one cannot be read, though it is there.
        damaged: u64,
        /// How often it is still served by the same.
        checks: u32,
        /// After so many reads it is deleted and made anew, with so many messages.
        remade: Option<(u32, u64)>,
        /// When messages are published, in this life.
        time: i64,
    }

    impl Trimmed {
        fn new() -> Self {
            Self {
                first: 1,
                last: 10,
                lets_go: Vec::new(),
                lets_go_behind_a_look: Vec::new(),
                damaged: 0,
                checks: 1,
                remade: None,
                time: 7,
            }
        }
    }

    impl Origin for Trimmed {
        fn read(
            &mut self,
            channel: &ChannelName,
            from: Sequence,
        ) -> Result<Vec<MessageRecord>, TransferError> {
            let (first, timestamp) = (from.get().max(self.first), self.time);
            let readable = (first..=self.last).filter(|sequence| *sequence != self.damaged);
            let messages = readable.take(100).map(|sequence| {
                let subject = channel.to_bytes();
                MessageRecord::of(&pb::MsgProto {
                    sequence,
                    subject,
                    timestamp,
                    ..pb::MsgProto::default()
                })
            });
            let messages = messages.collect();
            self.first += self.lets_go.pop().unwrap_or(0);
            match &mut self.remade {
                Some((0, last)) => {
                    (self.first, self.last, self.time) = (1, *last, self.time + 1);
                    self.remade = None;
                }
                Some((reads, _)) => *reads -= 1,
                None => (),
            }
            Ok(messages)
        }

        fn confirm(&mut self) -> Result<(), TransferError> {
            Ok(())
        }
    }

    impl Served for Trimmed {
        fn clients(&mut self) -> Result<Vec<spb::ClientInfo>, TransferError> {
            let id = Bytes::from("me");
            Ok(vec![spb::ClientInfo { id, ..spb::ClientInfo::default() }])
        }

        fn names(&mut self) -> Result<Vec<ChannelName>, TransferError> {
            Ok(vec!["gone".into(), "orders".into()])
        }

        fn channel(
            &mut self,
            name: &ChannelName,
        ) -> Result<Option<RecoveredChannel>, TransferError> {
            let (first, last) = (Sequence(self.first), Sequence(self.last));
            let message_count = (self.last + 1).saturating_sub(self.first);
            let state = spb::SubState { id: 1, last_sent: 9, ..spb::SubState::default() };
            let pending = vec![Sequence(8), Sequence(9)];
            let found = RecoveredChannel {
                channel: name.clone(),
                state: ChannelState { first, last, message_count, byte_count: 0 },
                last_timestamp: WallTime(self.time),
                subscriptions: vec![RecoveredSubscription { state, pending }],
                subscription_id_max: SubscriptionId(1),
                ..RecoveredChannel::default()
            };
            if *name != ChannelName::from("orders") {
                return Ok(None);
            }
            self.first += self.lets_go_behind_a_look.pop().unwrap_or(0);
            Ok(Some(found))
        }

        fn check(&mut self) -> Result<(), TransferError> {
            let replaced = || TransferError::Served("replaced".to_owned());
            self.checks = self.checks.checked_sub(1).ok_or_else(replaced)?;
            Ok(())
        }
    }

    fn config(folder: &Path) -> Box<Config> {
        let world = World {
            read: &|_| Err(io::ErrorKind::NotFound.into()),
            variable: &|_| None,
            secret: &|_| None,
            cores: 1,
        };
        let line = ["-store", "file", "-dir", folder.to_str().unwrap()].map(str::to_owned);
        let Request::Serve(config) = options::load(Program::Streaming, &line, &world).unwrap()
        else {
            panic!("{line:?} starts no server");
        };
        config
    }

    /// What a backup has of the channel, or why there is none; and the cluster ID that it says.
    fn backed_up(mut served: Trimmed) -> (Result<(u64, u64), String>, Bytes) {
        let folder = tempfile::tempdir().unwrap();
        let server = spb::ServerInfo { cluster_id: "c".into(), ..spb::ServerInfo::default() };
        let to = config(&folder.path().join("to"));
        let done = back_up(&mut served, server, &to, &mut |_| ());
        let place = Place::open_unlimited(&to).unwrap();
        let cluster = place.recovered().server.clone().unwrap().cluster_id;
        let has = |_| {
            let found = place.channel(&"orders".into()).unwrap();
            assert_eq!(found.subscriptions[0].pending, [Sequence(8), Sequence(9)]);
            assert_eq!(place.recovered().clients.len(), 1);
            (found.state.first.get(), found.state.last.get())
        };
        (done.map(has).map_err(|error| error.to_string()), cluster)
    }

    /// Goal: what limits let go of is not missed, and there is never a hole.
    #[test]
    fn a_channel_that_is_trimmed_meanwhile_begins_later() {
        let trimmed =
            |lets_go: Vec<u64>| Trimmed { last: 1_000, lets_go, checks: 1, ..Trimmed::new() };
        assert_eq!(backed_up(trimmed(vec![])).0, Ok((1, 1_000)));
        // Within what was read already.
        assert_eq!(backed_up(trimmed(vec![50])).0, Ok((1, 1_000)));
        // Beyond it: begun anew.
        assert_eq!(backed_up(trimmed(vec![0, 700])).0, Ok((701, 1_000)));
        // All of it.
        assert_eq!(backed_up(trimmed(vec![1_000])).0, Ok((1_000, 1_000)));
        let (refused, cluster) = backed_up(trimmed([0, 101].repeat(8)));
        assert!(refused.is_err_and(|why| why.contains("faster than they are copied")));
        assert_eq!(cluster, "unfinished backup of c");
    }

    /// Goal: of a channel that is deleted and made anew meanwhile there is one life and no mixture
    /// of both, whatever was read already.
    #[test]
    fn a_channel_that_is_made_anew_meanwhile_is_copied_anew() {
        for last in [10, 300, 450, 1_000, 2_000] {
            // The eleventh read finds nothing more: the life before was copied whole.
            for (reads, whole) in (0..9).map(|reads| (reads, last)).chain([(10, 1_000)]) {
                let remade = Some((reads, last));
                let served = Trimmed { last: 1_000, remade, ..Trimmed::new() };
                assert_eq!(backed_up(served).0, Ok((1, whole)), "{last} after {reads}");
            }
        }
    }

    /// Goal: what is let go of between two looks is not called damaged.
    #[test]
    fn a_message_that_is_let_go_of_while_it_is_looked_for_is_not_damaged() {
        let served = Trimmed {
            last: 1_000,
            lets_go: vec![700],
            remade: Some((1, 2_000)),
            lets_go_behind_a_look: vec![1_500, 0],
            ..Trimmed::new()
        };
        assert_eq!(backed_up(served).0, Ok((1_501, 2_000)));
    }

    #[test]
    fn a_message_that_is_there_and_cannot_be_read_is_named() {
        for damaged in [2, 500, 1_000] {
            let (refused, _) = backed_up(Trimmed { last: 1_000, damaged, ..Trimmed::new() });
            let is_named = |why: &String| why.contains(&format!("message {damaged} "));
            assert!(refused.as_ref().is_err_and(is_named), "{refused:?}");
        }
    }

    /// Goal: where somebody else may have acknowledged messages meanwhile there is no backup.
    #[test]
    fn a_backup_whose_server_was_replaced_is_not_complete() {
        let replaced = Trimmed { checks: 0, ..Trimmed::new() };
        let (refused, cluster) = backed_up(replaced);
        assert_eq!(refused, Err("replaced".to_owned()));
        assert_eq!(cluster, "unfinished backup of c");
        let held = Trimmed::new();
        assert_eq!(backed_up(held), (Ok((1, 10)), "c".into()));
    }
}
