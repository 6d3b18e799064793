//! what is staged for the next commit, and what waits for the one under way
//!
//! One commit is under way at a time; meanwhile the next batch fills. Nothing that depends on a
//! commit leaves before its report (P1).

mod answered;
mod gathering;

use std::collections::VecDeque;

use crate::base::delivery_count::DeliveryCount;
use crate::base::id::{ClientId, LoopIndex, Sequence, SubscriptionId, Ticket};
use crate::base::limits::{
    REQUEST_BYTES, UNSYNCED_BYTES_MAX, UNSYNCED_MESSAGES_MAX, unsynced_share,
};
use crate::base::record::{
    Batch, ChannelBatch, ChannelOutcome, ClientWrite, Lifecycle, MessageRecord, Purge,
    SubscriptionWrite,
};
use crate::base::time::Instant;
use crate::engine::Settings;
use crate::engine::administration;
use crate::engine::channel::{Channel, Life};
use crate::engine::commit::gathering::Gathering;
use crate::engine::policy::Counted;
use crate::engine::publication::Publication;
use crate::engine::reply::Reply;
use crate::engine::subscription::{Starting, SubscriptionKey};
use crate::proto::spb;

/// What a subscription's write counts for in the bound of a batch.
const WRITE_BYTES: usize = 64;

/// A publish that waits for its commit.
#[derive(Debug)]
pub(super) struct StagedPublish {
    pub(super) channel: usize,
    pub(super) publication: Publication,
    pub(super) reply: Reply,
}

/// What is done when a commit is through, in the order in which it was staged.
#[derive(Debug)]
pub(super) enum After {
    /// The server's record is written: serve.
    Serve,
    /// A client's record is written: announce it.
    Announce(ClientId),
    /// A client's record says that it leaves: end it.
    Marked(ClientId),
    /// All that a leaving client left here is written: tell its home, which may be this engine.
    Forgotten { home: LoopIndex, client: ClientId },
    /// The end of a leaving client's record is written: it is gone.
    Unregistered(ClientId),
    /// A subscription's record is written: answer, then deliver.
    Start(Starting),
    /// What an operator has asked for is written: answer.
    Administered { token: u64, what: administration::Staged },
    /// The count of a delivery is written: it leaves.
    Deliver(Box<Counted>),
    /// A subscription's end is written: answer with an empty response.
    Left { reply: Reply },
}

impl After {
    /// What it keeps in memory until its commit is through.
    fn bytes(&self) -> usize {
        match self {
            Self::Deliver(counted) => counted.bytes(),
            Self::Serve
            | Self::Announce(_)
            | Self::Marked(_)
            | Self::Forgotten { .. }
            | Self::Unregistered(_)
            | Self::Start(_)
            | Self::Administered { .. }
            | Self::Left { .. } => REQUEST_BYTES,
        }
    }
}

/// Room for so many publishes is kept from one batch to the next.
const PUBLISHES_KEPT_MAX: usize = 1024;

/// Lists of a part begin with room for so many at most.
const PART_ROOM_MAX: usize = 1024;

/// A batch that fills.
#[derive(Debug, Default)]
struct Staged {
    /// Counts the batches, so that a channel knows whether its slot is in this one.
    number: u64,
    batch: Batch,
    /// The channel of each part of the batch.
    keys: Vec<usize>,
    publishes: Vec<StagedPublish>,
    after: Vec<After>,
    /// Inputs that are done when this is committed.
    held: Vec<Reply>,
    bytes: usize,
    message_count: usize,
    /// What it holds in memory beside messages.
    held_bytes: usize,
}

/// One channel's part of the batch under way.
#[derive(Debug)]
struct Part {
    channel: usize,
    lifecycle: Lifecycle,
    /// First and last of its messages.
    sequences: Option<(Sequence, Sequence)>,
    /// What an operator lets go.
    purge: Option<Purge>,
    /// Kept for subscribers; empty where nobody subscribes.
    messages: Vec<MessageRecord>,
    /// Removals and updates, which are tried again if the store refuses the part.
    lasting: Vec<SubscriptionWrite>,
    /// Readers that are gone, or begin anew: tried again likewise.
    gone: Vec<DeliveryCount>,
}

impl Part {
    /// A store keeps all of a part or nothing. On anything else publishers would be told of
    /// messages that are not there, or sequences would be given twice.
    fn assert_whole(&self, outcome: &ChannelOutcome) {
        let Some((first, last)) = self.sequences else { return };
        let (held, channel) = (outcome.state.last, &outcome.channel);
        match &outcome.refused {
            None => assert_eq!(held, last, "channel {channel}: what was written is not all there"),
            Some(_) => assert!(held < first, "channel {channel}: {held} was refused and is there"),
        }
    }
}

#[derive(Debug)]
struct UnderWay {
    ticket: Ticket,
    parts: Vec<Part>,
    publishes: Vec<StagedPublish>,
    after: Vec<After>,
    /// Let go of when it is through.
    held: Vec<Reply>,
    held_bytes: usize,
}

/// All batches of one engine.
#[derive(Debug)]
pub(super) struct Commits {
    /// Bounds of one batch.
    bytes_max: usize,
    messages_max: usize,
    /// What a message is longer in the store.
    overhead_max: usize,
    queue: VecDeque<Staged>,
    under_way: Option<UnderWay>,
    last_ticket: Ticket,
    last_number: u64,
    held_bytes: usize,
    /// The list of a batch that is through, emptied, for the next one: grown anew for each batch,
    /// it is moved several times.
    spare: Vec<StagedPublish>,
    gathering: Gathering,
}

impl Commits {
    pub(super) fn new(settings: &Settings) -> Self {
        let loops = settings.loops;
        Self {
            bytes_max: unsynced_share(UNSYNCED_BYTES_MAX, loops),
            messages_max: unsynced_share(UNSYNCED_MESSAGES_MAX, loops),
            overhead_max: settings.message_overhead_max,
            queue: VecDeque::new(),
            under_way: None,
            last_ticket: Ticket::default(),
            last_number: 0,
            held_bytes: 0,
            spare: Vec::new(),
            gathering: Gathering::new(settings.gathers_first),
        }
    }

    /// Whether nothing is staged or under way.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_none()
    }

    /// When the next batch is handed out, if there is one and none is under way.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if self.under_way.is_some() {
            return None;
        }
        let staged = self.queue.front()?;
        // Full batches wait for nothing more, nor do those in which nobody publishes.
        let is_filling = self.queue.len() == 1 && !staged.publishes.is_empty();
        let waits_until = self.gathering.waits_until(staged.publishes.len());
        Some(waits_until.filter(|_| is_filling).unwrap_or_default())
    }

    /// What is held in memory until it is written, beside messages.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn back(&mut self) -> &mut Staged {
        let is_full = self.queue.back().is_none_or(|staged| {
            self.bytes_max <= staged.bytes || self.messages_max <= staged.message_count
        });
        if is_full {
            self.begin();
        }
        self.queue.back_mut().expect("one was begun if there was none")
    }

    fn begin(&mut self) {
        self.last_number += 1;
        let publishes = std::mem::take(&mut self.spare);
        self.queue.push_back(Staged { number: self.last_number, publishes, ..Staged::default() });
    }

    /// Keeps the list of a batch that is through, unless that was an unusual one.
    fn reuse(&mut self, mut publishes: Vec<StagedPublish>) {
        if publishes.capacity() <= PUBLISHES_KEPT_MAX {
            publishes.clear();
            self.spare = publishes;
        }
    }

    /// The part of `channel` in the batch that fills.
    fn part(&mut self, index: usize, channel: &mut Channel) -> (&mut Staged, usize) {
        let staged = self.back();
        let slot = match channel.slot {
            Some((number, slot)) if number == staged.number => slot,
            Some(_) | None => {
                let slot = staged.keys.len();
                staged.keys.push(index);
                // A list that grows anew for each batch is moved several times.
                let (message_count, write_count) = channel.part_lens;
                let mut subscriptions = std::mem::take(&mut channel.unwritten);
                subscriptions.reserve(write_count);
                staged.batch.channels.push(ChannelBatch {
                    channel: channel.name.clone(),
                    lifecycle: Lifecycle::Keep,
                    messages: Vec::with_capacity(message_count),
                    subscriptions,
                    deliveries: std::mem::take(&mut channel.unwritten_counts),
                    ..ChannelBatch::default()
                });
                channel.slot = Some((staged.number, slot));
                slot
            }
        };
        (staged, slot)
    }

    /// Stages one message.
    pub(super) fn message(
        &mut self,
        channel: &mut Channel,
        record: MessageRecord,
        publish: StagedPublish,
    ) {
        let len = record.encoded.len() + self.overhead_max;
        let has_no_room =
            |staged: &Staged| staged.message_count != 0 && self.bytes_max < staged.bytes + len;
        if self.queue.back().is_some_and(has_no_room) {
            self.begin();
        }
        let (staged, slot) = self.part(publish.channel, channel);
        staged.bytes += len;
        staged.message_count += 1;
        staged.batch.durable = true;
        staged.batch.channels[slot].messages.push(record);
        staged.publishes.push(publish);
    }

    /// Keeps a publish whose message is staged by another one: what becomes of that is answered to
    /// both. The last batch that has something of the channel is that message's, or a later one.
    pub(super) fn duplicate(&mut self, channel: &Channel, publish: StagedPublish) {
        let of_channel = channel.slot.map(|(number, _)| number);
        let found = self.queue.iter().rposition(|staged| Some(staged.number) == of_channel);
        match (found, &mut self.under_way) {
            (Some(at), _) => self.queue[at].publishes.push(publish),
            (None, Some(under_way)) => under_way.publishes.push(publish),
            (None, None) => self.back().publishes.push(publish),
        }
    }

    /// Stages a change of a subscription's record.
    pub(super) fn subscription(
        &mut self,
        index: usize,
        channel: &mut Channel,
        write: SubscriptionWrite,
    ) {
        self.subscription_writes(index, channel, [write]);
    }

    /// Stages changes that are written together, or none of them.
    pub(super) fn subscription_writes<const COUNT: usize>(
        &mut self,
        index: usize,
        channel: &mut Channel,
        writes: [SubscriptionWrite; COUNT],
    ) {
        if channel.life == Life::Deleting {
            // It goes with the channel, or is written once that stays after all.
            return channel.unwritten.extend(writes);
        }
        let (staged, slot) = self.part(index, channel);
        let mut held_bytes = 0;
        for write in writes {
            let (is_durable, bytes) = match write {
                SubscriptionWrite::Create(_)
                | SubscriptionWrite::Update(_)
                | SubscriptionWrite::Delete(_) => (true, REQUEST_BYTES),
                // Lost ones cost a redelivery, which is allowed at any time.
                SubscriptionWrite::Sent(..) | SubscriptionWrite::Acked(..) => (false, WRITE_BYTES),
            };
            staged.batch.durable |= is_durable;
            staged.bytes += WRITE_BYTES;
            staged.batch.channels[slot].subscriptions.push(write);
            held_bytes += bytes;
        }
        staged.held_bytes += held_bytes;
        self.held_bytes += held_bytes;
    }

    /// Stages how often a message was delivered; one that leaves waits for it.
    pub(super) fn delivery(&mut self, index: usize, channel: &mut Channel, write: DeliveryCount) {
        if channel.life == Life::Deleting {
            if write.is_gone {
                // As what a subscription has written: for a channel that stays after all.
                channel.unwritten_counts.push(write);
            }
            return;
        }
        let (staged, slot) = self.part(index, channel);
        staged.batch.durable |= write.count > 0;
        staged.bytes += WRITE_BYTES;
        staged.batch.channels[slot].deliveries.push(write);
        staged.held_bytes += WRITE_BYTES;
        self.held_bytes += WRITE_BYTES;
    }

    /// Takes deliveries of these messages of a channel out whose counts are not handed out yet.
    pub(super) fn take_counted(
        &mut self,
        channel: usize,
        is_one: impl Fn(Sequence) -> bool,
    ) -> Vec<Counted> {
        let mut taken = Vec::new();
        for staged in &mut self.queue {
            let parts = staged.keys.iter().zip(&mut staged.batch.channels);
            for (_, part) in parts.filter(|(key, _)| **key == channel) {
                part.deliveries.retain(|count| count.count == 0 || !is_one(count.sequence));
            }
            let is_it = |after: &After| match after {
                After::Deliver(counted) => counted.is_of(channel, &is_one),
                After::Serve
                | After::Announce(_)
                | After::Marked(_)
                | After::Forgotten { .. }
                | After::Unregistered(_)
                | After::Start(_)
                | After::Administered { .. }
                | After::Left { .. } => false,
            };
            let all = std::mem::take(&mut staged.after).into_iter();
            let (gone, kept): (Vec<After>, Vec<After>) = all.partition(is_it);
            staged.after = kept;
            let counted =
                |after| if let After::Deliver(counted) = after { Some(*counted) } else { None };
            taken.extend(gone.into_iter().filter_map(counted));
        }
        taken
    }

    /// The record of a subscription was to go, and stays after all.
    pub(super) fn keep_record(&mut self, index: usize, channel: &mut Channel, id: SubscriptionId) {
        let stays = |write: &SubscriptionWrite| *write != SubscriptionWrite::Delete(id);
        channel.unwritten.retain(stays);
        for staged in &mut self.queue {
            let parts = staged.keys.iter().zip(&mut staged.batch.channels);
            for (_, part) in parts.filter(|(key, _)| **key == index) {
                part.subscriptions.retain(stays);
            }
        }
    }

    /// Whether a reset of that durable waits for its commit.
    pub(super) fn resets(&self, key: SubscriptionKey) -> bool {
        let staged = self.queue.iter().flat_map(|staged| &staged.after);
        let under_way = self.under_way.iter().flat_map(|under_way| &under_way.after);
        let is_it =
            |after: &After| matches!(after, After::Administered { what, .. } if what.resets(key));
        staged.chain(under_way).any(is_it)
    }

    /// The last messages of a channel were refused: what an operator lets go of it behind them was
    /// counted from them, and stays.
    fn overtake_purges(&mut self, channel: usize) {
        for staged in &mut self.queue {
            let parts = staged.keys.iter().zip(&mut staged.batch.channels);
            for (_, part) in parts.filter(|(key, _)| **key == channel) {
                let stand_in = part.purge.take().and_then(|purge| purge.stand_in);
                if let Some(stand_in) = stand_in {
                    // Its message stays, and so do the counts of that.
                    let is_of_it =
                        |it: &DeliveryCount| it.is_gone && it.sequence == stand_in.sequence;
                    part.deliveries.retain(|count| !is_of_it(count));
                }
            }
            for after in &mut staged.after {
                if let After::Administered { what, .. } = after
                    && matches!(what, administration::Staged::Purge(index) if *index == channel)
                {
                    *what = administration::Staged::Overtaken;
                }
            }
        }
    }

    /// Stages the creation of a channel.
    pub(super) fn create(&mut self, index: usize, channel: &mut Channel) {
        let (staged, slot) = self.part(index, channel);
        staged.batch.durable = true;
        staged.batch.channels[slot].lifecycle = Lifecycle::Create;
    }

    /// Stages the deletion of a channel, in a batch where nothing else of it is.
    pub(super) fn delete(&mut self, index: usize, channel: &mut Channel) {
        if channel.slot.is_some_and(|(number, _)| number == self.last_number) {
            self.begin();
        }
        channel.unwritten.clear();
        let (staged, slot) = self.part(index, channel);
        staged.batch.durable = true;
        staged.batch.channels[slot].lifecycle = Lifecycle::Delete;
    }

    /// Stages that messages go, in a batch where nothing else of the channel is; and what is done
    /// then.
    pub(super) fn purge(
        &mut self,
        index: usize,
        channel: &mut Channel,
        purge: Purge,
        after: After,
    ) {
        // What stands in for the last message was delivered to nobody.
        let stand_in = purge.stand_in.as_ref().zip(channel.policed.as_ref());
        let deliveries = stand_in.map(|(record, policed)| policed.without(record.sequence));
        if channel.slot.is_some_and(|(number, _)| number == self.last_number) {
            self.begin();
        }
        let (staged, slot) = self.part(index, channel);
        staged.batch.durable = true;
        staged.batch.channels[slot].purge = Some(purge);
        staged.batch.channels[slot].deliveries.extend(deliveries.unwrap_or_default());
        staged.after.push(after);
        staged.held_bytes += REQUEST_BYTES;
        self.held_bytes += REQUEST_BYTES;
        self.begin();
    }

    /// Stages a change of the client registry.
    pub(super) fn client(&mut self, write: ClientWrite) {
        let staged = self.back();
        staged.batch.durable = true;
        staged.batch.clients.push(write);
        staged.held_bytes += REQUEST_BYTES;
        self.held_bytes += REQUEST_BYTES;
    }

    /// Stages the server's record.
    pub(super) fn server(&mut self, info: spb::ServerInfo) {
        let staged = self.back();
        staged.batch.durable = true;
        staged.batch.server = Some(info);
    }

    /// Remembers what is done when everything staged so far is committed. If nothing is staged or
    /// under way, it is given back: do it now.
    pub(super) fn after(&mut self, after: After) -> Option<After> {
        let bytes = after.bytes();
        if let Some(staged) = self.queue.back_mut() {
            staged.after.push(after);
            staged.held_bytes += bytes;
        } else if let Some(under_way) = &mut self.under_way {
            under_way.after.push(after);
            under_way.held_bytes += bytes;
        } else {
            return Some(after);
        }
        self.held_bytes += bytes;
        None
    }

    /// What an input has staged last is what it was for: it is done when that is committed.
    pub(super) fn hold(&mut self, reply: Reply) {
        if let Some(staged) = self.queue.back_mut() {
            staged.held.push(reply);
        } else if let Some(under_way) = &mut self.under_way {
            under_way.held.push(reply);
        }
    }

    /// The next batch, if none is under way and it need not wait.
    fn hand_out(
        &mut self,
        channels: &mut slab::Slab<Channel>,
        now: Instant,
        is_hurried: bool,
    ) -> Option<(Ticket, Batch)> {
        if now < self.due_at()? && !is_hurried {
            return None;
        }
        let staged = self.queue.pop_front()?;
        self.gathering.on_handed_out(staged.publishes.len(), now);
        let ticket = self.last_ticket.next();
        self.last_ticket = ticket;
        let parts = staged
            .keys
            .iter()
            .zip(&staged.batch.channels)
            .map(|(&channel, part)| Part {
                channel,
                lifecycle: part.lifecycle,
                sequences: part
                    .messages
                    .first()
                    .zip(part.messages.last())
                    .map(|(first, last)| (first.sequence, last.sequence)),
                messages: match channels.get_mut(channel) {
                    Some(found) => {
                        found.part_lens = (
                            part.messages.len().min(PART_ROOM_MAX),
                            part.subscriptions.len().min(PART_ROOM_MAX),
                        );
                        if found.has_readers() { part.messages.clone() } else { Vec::new() }
                    }
                    None => Vec::new(),
                },
                purge: part.purge.clone(),
                lasting: lasting_of(&part.subscriptions),
                gone: part.deliveries.iter().filter(|count| count.is_gone).copied().collect(),
            })
            .collect();
        let Staged { publishes, after, held, batch, held_bytes, .. } = staged;
        self.under_way = Some(UnderWay { ticket, parts, publishes, after, held, held_bytes });
        Some((ticket, batch))
    }

    /// So many publishes are answered: those who sent them may publish again.
    fn on_answered(&mut self, count: usize, now: Instant) {
        let staged = self.queue.front().map_or(0, |staged| staged.publishes.len());
        self.gathering.on_committed(count, staged, now);
    }

    /// Takes what waits for a refused channel out of the batches that fill: its publishes.
    fn take_publishes(&mut self, channel: usize) -> Vec<StagedPublish> {
        let mut taken = Vec::new();
        for staged in &mut self.queue {
            for (key, part) in staged.keys.iter().zip(&mut staged.batch.channels) {
                if *key == channel {
                    staged.message_count -= part.messages.len();
                    staged.bytes -= part.messages.iter().map(|m| m.encoded.len()).sum::<usize>();
                    part.messages.clear();
                }
            }
            let (gone, kept) = std::mem::take(&mut staged.publishes)
                .into_iter()
                .partition(|publish| publish.channel == channel);
            staged.publishes = kept;
            taken.extend::<Vec<StagedPublish>>(gone);
        }
        taken
    }

    /// Lowers staged positions of a channel whose sequence was rewound.
    fn clamp(&mut self, channel: usize, last: u64) {
        for staged in &mut self.queue {
            let parts = staged.keys.iter().zip(&mut staged.batch.channels);
            for (_, part) in parts.filter(|(key, _)| **key == channel) {
                for write in &mut part.subscriptions {
                    if let SubscriptionWrite::Create(state) | SubscriptionWrite::Update(state) =
                        write
                    {
                        state.last_sent = state.last_sent.min(last);
                    }
                }
            }
        }
    }

    /// Stages `writes` before everything that is staged of a channel.
    fn put_first(&mut self, index: usize, channel: &mut Channel, writes: Vec<SubscriptionWrite>) {
        let mut parts = self.queue.iter_mut().filter_map(|staged| {
            let slot = staged.keys.iter().position(|key| *key == index)?;
            Some(&mut staged.batch.channels[slot].subscriptions)
        });
        let place = parts.next().unwrap_or(&mut channel.unwritten);
        place.splice(0..0, writes);
    }

    /// Stages counts before all others that are staged of a channel.
    fn put_counts_first(
        &mut self,
        index: usize,
        channel: &mut Channel,
        counts: Vec<DeliveryCount>,
    ) {
        for staged in &mut self.queue {
            if let Some(slot) = staged.keys.iter().position(|key| *key == index) {
                staged.batch.channels[slot].deliveries.splice(0..0, counts);
                return;
            }
        }
        channel.unwritten_counts.splice(0..0, counts);
    }

    /// Takes a channel that does not exist after all out of the batches that fill.
    fn forget_channel(&mut self, channel: usize) {
        for staged in &mut self.queue {
            while let Some(slot) = staged.keys.iter().position(|key| *key == channel) {
                staged.keys.remove(slot);
                staged.batch.channels.remove(slot);
            }
        }
        // Slots behind the removed one moved: every channel takes a new one in a new batch.
        self.begin();
    }
}

fn lasting_of(writes: &[SubscriptionWrite]) -> Vec<SubscriptionWrite> {
    writes
        .iter()
        .filter(|write| {
            matches!(write, SubscriptionWrite::Update(_) | SubscriptionWrite::Delete(_))
        })
        .cloned()
        .collect()
}
