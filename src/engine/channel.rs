//! one channel: next sequence, limits, inactivity
//!
//! A channel is created by the first publish or subscribe. How many there are in the whole
//! process is counted by engine 0, the keeper: the others ask it before they create one, and
//! requests for the channel wait for its answer in their order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use crate::base::delivery_count::DeliveryCount;
use crate::base::delivery_policy::DeliveryPolicy;
use crate::base::hash::QuickMap;
use crate::base::id::{ChannelName, LoopIndex, QueueGroupName, Sequence};
use crate::base::record::{ChannelState, MessageRecord, SubscriptionWrite};
use crate::base::time::{Instant, Now, WallTime};
use crate::engine::duplicates::Window;
use crate::engine::effect::{Effect, Level};
use crate::engine::input::PeerMessage;
use crate::engine::policy::Policed;
use crate::engine::queue_group::GroupKey;
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::reply::Reply;
use crate::engine::request::Request;
use crate::engine::roster::Roster;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::engine::{Engine, Timer};

/// The keeper of the channel count.
const KEEPER: LoopIndex = LoopIndex(0);

/// Where a channel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Its creation is staged or under way; messages and subscriptions are staged behind it.
    Creating,
    /// The store has it.
    Open,
    /// Its deletion is staged or under way; look-ups are refused.
    Deleting,
    /// The store refused to create it; it goes as soon as everybody was told.
    Refused,
}

/// One channel of this engine.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    /// Tells apart the channels that used one slot.
    pub(super) incarnation: u64,
    pub(super) life: Life,
    /// What is committed.
    pub(super) state: ChannelState,
    /// What it held before the last purge.
    pub(super) before_purge: ChannelState,
    /// Highest sequence given out, committed or not.
    pub(super) last: Sequence,
    /// Timestamps never fall (P4).
    pub(super) last_timestamp: WallTime,
    /// Number of the batch and place in it where this channel's writes go.
    pub(super) slot: Option<(u64, usize)>,
    /// Removals and updates that the store refused, and all that came while the channel is being
    /// deleted; they go into the next batch.
    pub(super) unwritten: Vec<SubscriptionWrite>,
    /// Counts that the store refused to let go of; they go with them.
    pub(super) unwritten_counts: Vec<DeliveryCount>,
    /// How many messages and writes of subscriptions the last batch had of it, within bounds.
    pub(super) part_lens: (usize, usize),
    /// The newest committed messages, dense.
    pub(super) recent: VecDeque<MessageRecord>,
    /// Plain subscriptions that are online, in order of creation.
    pub(super) plain: Roster,
    /// Durables, online and offline, by `<client>-<channel>-<durable>`.
    pub(super) durables: BTreeMap<Bytes, SubscriptionKey>,
    pub(super) groups: BTreeMap<QueueGroupName, GroupKey>,
    /// Subscription records in the store, also those that were not restored.
    pub(super) record_count: u64,
    pub(super) subscription_id_max: u64,
    pub(super) subscriptions_max: u64,
    pub(super) inactivity_max: Duration,
    /// What becomes of messages that nobody acknowledges, if anything does.
    pub(super) policed: Option<Box<Policed>>,
    /// The payloads that are not stored again, where the configuration says so.
    pub(super) window: Option<Box<Window>>,
    pub(super) last_activity: Instant,
    /// Online plain subscriptions and queue members.
    pub(super) active_count: usize,
    /// Subscribe requests that wait for something; deletion is blocked meanwhile.
    pub(super) request_count: usize,
}

impl Channel {
    /// Whether anybody may want its messages soon.
    pub(super) fn has_readers(&self) -> bool {
        self.active_count > 0
    }

    /// When a message that comes now was published: not before the one in front of it.
    pub(super) fn next_timestamp(&self, now: Now) -> WallTime {
        self.last_timestamp.max(now.wall)
    }

    /// Whether deliveries are counted durably.
    pub(super) fn counts(&self) -> bool {
        self.policed.as_ref().is_some_and(|policed| policed.policy.counts())
    }

    /// How long a message is waited for that a subscription was delivered so often.
    pub(super) fn wait(&self, subscription: &Subscription, deliveries: u32) -> Duration {
        let ack_wait = subscription.ack_wait();
        self.policed.as_ref().map_or(ack_wait, |policed| policed.policy.wait(ack_wait, deliveries))
    }

    /// The last message in memory is left without its payload.
    pub(super) fn empty_recent(&mut self, stand_in: Option<MessageRecord>) {
        if let (Some(stand_in), Some(newest)) = (stand_in, self.recent.back_mut())
            && newest.sequence == stand_in.sequence
        {
            *newest = stand_in;
        }
    }

    /// The committed message of `sequence`, if it is still in memory.
    pub(super) fn recent_at(&self, sequence: Sequence) -> Option<&MessageRecord> {
        let first = self.recent.front()?.sequence;
        let offset = sequence.0.checked_sub(first.0)?;
        self.recent.get(usize::try_from(offset).ok()?)
    }
}

/// Of refused removals and updates the latest of each subscription.
pub(super) fn latest_of(writes: Vec<SubscriptionWrite>) -> Vec<SubscriptionWrite> {
    let mut latest: Vec<SubscriptionWrite> = Vec::new();
    for write in writes {
        let id = lasting_id(&write);
        latest.retain(|kept| lasting_id(kept) != id);
        latest.push(write);
    }
    latest
}

fn lasting_id(write: &SubscriptionWrite) -> u64 {
    match write {
        SubscriptionWrite::Create(state) | SubscriptionWrite::Update(state) => state.id,
        SubscriptionWrite::Delete(id)
        | SubscriptionWrite::Sent(id, _)
        | SubscriptionWrite::Acked(id, _) => id.0,
    }
}

/// A request that waits for the keeper's answer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    pub(super) reply: Reply,
}

/// The channels of one engine.
#[derive(Debug, Default)]
pub(super) struct Channels {
    pub(super) slab: Slab<Channel>,
    by_name: QuickMap<ChannelName, usize>,
    /// By case-folded name: how the first of them is written.
    folded: QuickMap<Bytes, ChannelName>,
    /// Channels that the keeper was asked for, with what waits for them.
    wanted: BTreeMap<ChannelName, Vec<Waiting>>,
    /// Publishes to channels that are being deleted: they make the channel anew.
    parked: BTreeMap<usize, Vec<Waiting>>,
    /// How many wait in both.
    pub(super) waiting_count: usize,
    /// Only the keeper's is right: channels in the whole process.
    pub(super) count: u64,
    last_incarnation: u64,
}

impl Channels {
    /// Where a channel is.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Where a channel is that takes messages.
    pub(super) fn find_open(&self, name: &[u8]) -> Option<usize> {
        self.find(name)
            .filter(|index| matches!(self.slab[*index].life, Life::Creating | Life::Open))
    }

    /// Where a channel is that is being deleted.
    pub(super) fn find_deleting(&self, name: &[u8]) -> Option<usize> {
        self.find(name).filter(|index| self.slab[*index].life == Life::Deleting)
    }

    /// Whether requests for a channel have to wait for the keeper.
    pub(super) fn is_wanted(&self, name: &ChannelName) -> bool {
        !self.wanted.is_empty() && self.wanted.contains_key(name)
    }

    /// Makes room for so many channels.
    pub(super) fn reserve(&mut self, count: usize) {
        self.slab.reserve(count);
        self.by_name.reserve(count);
        self.folded.reserve(count);
    }

    /// Adds a channel that is in the store, or will be.
    pub(super) fn insert(&mut self, mut channel: Channel) -> usize {
        self.last_incarnation += 1;
        channel.incarnation = self.last_incarnation;
        let name = channel.name.clone();
        self.folded.entry(name.case_folded()).or_insert_with(|| name.clone());
        let index = self.slab.insert(channel);
        self.by_name.insert(name, index);
        index
    }

    fn remove(&mut self, index: usize) -> Channel {
        let channel = self.slab.remove(index);
        self.by_name.remove(&channel.name);
        let folded = channel.name.case_folded();
        if self.folded.get(&folded) == Some(&channel.name) {
            self.folded.remove(&folded);
        }
        channel
    }
}

/// What a look-up for a publish or subscribe found.
pub(super) enum Found {
    Channel(usize),
    /// The keeper is asked: the request has to wait.
    Wait,
}

impl Engine {
    /// The channel of a publish or subscribe; created if there is none (spec protocol, 16.2).
    pub(super) fn find_or_create(
        &mut self,
        name: &ChannelName,
        now: Now,
    ) -> Result<Found, Refusal> {
        if let Some(index) = self.channels.find(name.as_bytes()) {
            return match self.channels.slab[index].life {
                Life::Creating | Life::Open => Ok(Found::Channel(index)),
                Life::Deleting | Life::Refused => Err(Refusal::ChannelDeleting),
            };
        }
        if self.channels.is_wanted(name) {
            return Ok(Found::Wait);
        }
        if let Some(existing) = self.channels.folded.get(&name.case_folded()) {
            let (asked, existing) = (name.clone(), existing.clone());
            return Err(Refusal::CaseClash { asked, existing });
        }
        if self.settings.limits.channels_max == 0 {
            return Ok(Found::Channel(self.create_channel(name, now)));
        }
        if self.index == KEEPER {
            if !self.grant_channel() {
                return Err(Refusal::TooManyChannels);
            }
            return Ok(Found::Channel(self.create_channel(name, now)));
        }
        let name = name.detached();
        self.channels.folded.insert(name.case_folded(), name.clone());
        self.channels.wanted.insert(name.clone(), Vec::new());
        self.tell(KEEPER, PeerMessage::ChannelWanted(name));
        Ok(Found::Wait)
    }

    fn grant_channel(&mut self) -> bool {
        let is_granted = self.channels.count < self.settings.limits.channels_max;
        if is_granted {
            self.channels.count += 1;
        }
        is_granted
    }

    /// Another engine asks for one more channel.
    pub(super) fn on_channel_wanted(&mut self, from: LoopIndex, name: ChannelName) {
        let is_granted = self.grant_channel();
        self.tell(from, PeerMessage::ChannelGranted(name, is_granted));
    }

    /// The keeper answered.
    pub(super) fn on_channel_granted(&mut self, name: &ChannelName, is_granted: bool, now: Now) {
        let waiting = self.channels.wanted.remove(name).unwrap_or_default();
        self.channels.waiting_count -= waiting.len();
        if is_granted {
            self.create_channel(name, now);
        } else {
            self.channels.folded.remove(&name.case_folded());
        }
        for Waiting { request, reply } in waiting {
            match request {
                Request::Publish(publication) => {
                    self.publish_valid(publication, reply, is_granted, now);
                }
                Request::Subscribe(request) if !is_granted => {
                    self.refuse_subscribe(&request, &reply, &Refusal::TooManyChannels);
                }
                Request::Subscribe(_)
                | Request::Unsubscribe(_)
                | Request::SubscriptionClose(_)
                | Request::Connect(_)
                | Request::Close(_)
                | Request::Ping(_)
                | Request::Undecodable { .. }
                | Request::Ignored => self.on_request(request, reply, now),
            }
        }
    }

    /// Keeps a publish until the deletion of its channel is through.
    pub(super) fn park(&mut self, index: usize, request: Request, reply: Reply) {
        self.channels.parked.entry(index).or_default().push(Waiting { request, reply });
        self.channels.waiting_count += 1;
    }

    /// What waited for a deletion; to be taken before the channel's place is used again.
    pub(super) fn take_parked(&mut self, index: usize) -> Vec<Waiting> {
        let parked = self.channels.parked.remove(&index).unwrap_or_default();
        self.channels.waiting_count -= parked.len();
        let window = self.channels.slab.get_mut(index).and_then(|found| found.window.as_mut());
        let unjudged = window.map(|window| window.take_waiting()).unwrap_or_default();
        let publish = |(publication, reply)| {
            let request = Request::Publish(publication);
            Waiting { request, reply }
        };
        let mut taken: Vec<Waiting> = unjudged.into_iter().map(publish).collect();
        taken.extend(parked);
        taken
    }

    /// Goes on with publishes that waited for a deletion.
    pub(super) fn unpark(&mut self, waiting: Vec<Waiting>, now: Now) {
        for Waiting { request, reply } in waiting {
            if let Request::Publish(publication) = request {
                self.publish_valid(publication, reply, true, now);
            }
        }
    }

    /// Keeps a request until the keeper answered.
    pub(super) fn wait_for_channel(&mut self, name: &ChannelName, request: Request, reply: Reply) {
        if let Some(waiting) = self.channels.wanted.get_mut(name) {
            waiting.push(Waiting { request, reply });
            self.channels.waiting_count += 1;
        }
    }

    /// One channel less in the process.
    pub(super) fn on_channel_gone(&mut self) {
        self.channels.count = self.channels.count.saturating_sub(1);
    }

    fn create_channel(&mut self, name: &ChannelName, now: Now) -> usize {
        let channel = self.new_channel(name.detached(), now);
        let index = self.channels.insert(channel);
        self.commits.create(index, &mut self.channels.slab[index]);
        self.start_inactivity(index, now);
        index
    }

    /// A channel without anything in it.
    pub(super) fn new_channel(&self, name: ChannelName, now: Now) -> Channel {
        let resolved = self.settings.limits.of(&name);
        let policy = self.settings.limits.policy_of(&name);
        let length = policy.as_ref().map(|policy| policy.dedup_window).unwrap_or_default();
        let window = (!length.is_zero()).then(|| Window::new(length, &resolved));
        let policed = policy.filter(DeliveryPolicy::acts).map(Policed::new);
        Channel {
            name,
            incarnation: 0,
            life: Life::Creating,
            state: ChannelState::default(),
            before_purge: ChannelState::default(),
            last: Sequence::ZERO,
            last_timestamp: WallTime::default(),
            slot: None,
            unwritten: Vec::new(),
            unwritten_counts: Vec::new(),
            part_lens: (0, 0),
            recent: VecDeque::new(),
            plain: Roster::default(),
            durables: BTreeMap::new(),
            groups: BTreeMap::new(),
            record_count: 0,
            subscription_id_max: 0,
            subscriptions_max: resolved.subscriptions_max,
            inactivity_max: resolved.inactivity_max,
            policed,
            window,
            last_activity: now.at,
            active_count: 0,
            request_count: 0,
        }
    }

    /// Takes a channel out, with all that hangs on it, and tells the keeper.
    pub(super) fn remove_channel(&mut self, index: usize) {
        let channel = self.channels.remove(index);
        for key in channel.durables.values().chain(channel.plain.iter()) {
            self.forget_subscription(*key);
        }
        for key in channel.groups.values() {
            self.forget_group(*key);
        }
        let incarnation = channel.incarnation;
        self.timers.cancel(&Timer::Inactivity(index, incarnation));
        if self.index == KEEPER {
            self.on_channel_gone();
        } else if self.settings.limits.channels_max != 0 {
            self.tell(KEEPER, PeerMessage::ChannelGone(channel.name));
        }
    }

    /// The store deleted a channel.
    pub(super) fn on_channel_deleted(&mut self, index: usize) {
        let name = quoted(self.channels.slab[index].name.as_bytes());
        self.remove_channel(index);
        self.log(Level::Info, || format!("Channel {name} has been deleted"));
    }

    /// Starts the time after which a channel without subscriptions is deleted.
    pub(super) fn start_inactivity(&mut self, index: usize, now: Now) {
        let channel = &mut self.channels.slab[index];
        if channel.inactivity_max.is_zero() || channel.active_count > 0 {
            return;
        }
        channel.last_activity = now.at;
        let timer = Timer::Inactivity(index, channel.incarnation);
        self.timers.arm(timer, now.at + channel.inactivity_max);
    }

    /// Stops it: somebody subscribes.
    pub(super) fn stop_inactivity(&mut self, index: usize) {
        let incarnation = self.channels.slab[index].incarnation;
        self.timers.cancel(&Timer::Inactivity(index, incarnation));
    }

    /// The time is over: delete the channel, unless it was used meanwhile (spec protocol, 16.3).
    pub(super) fn on_inactive(&mut self, index: usize, incarnation: u64, now: Now) {
        let Some(channel) = self.channels.slab.get_mut(index) else {
            return;
        };
        if channel.incarnation != incarnation
            || channel.life == Life::Deleting
            || channel.active_count > 0
            || channel.request_count > 0
        {
            return;
        }
        let idle = now.at.since(channel.last_activity);
        let is_waited_for = channel.window.as_ref().is_some_and(|window| window.is_waited_for());
        let is_busy =
            channel.life != Life::Open || channel.last != channel.state.last || is_waited_for;
        if idle < channel.inactivity_max || is_busy {
            let rest = channel.inactivity_max.saturating_sub(idle);
            let rest = if is_busy { channel.inactivity_max } else { rest };
            self.timers.arm(Timer::Inactivity(index, incarnation), now.at + rest);
            return;
        }
        channel.life = Life::Deleting;
        self.commits.delete(index, channel);
    }

    /// The store removed messages outside of a commit.
    pub(super) fn on_trimmed(&mut self, name: &ChannelName, state: ChannelState) {
        if let Some(index) = self.channels.find(name.as_bytes()) {
            let channel = &mut self.channels.slab[index];
            // What is written and not reported yet is not ours to tell, and a report that came
            // before this may be newer.
            let last = channel.state.last;
            if last <= state.last && channel.state.first <= state.first {
                let first = state.first.min(last.next());
                channel.state = ChannelState { first, last, ..state };
                self.trim_recent(index);
            }
        }
    }

    pub(super) fn tell(&mut self, to: LoopIndex, message: PeerMessage) {
        self.effects.push_back(Effect::Tell { to, message });
    }
}
