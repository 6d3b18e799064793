//! which message goes to whom now, and when to stop
//!
//! Readers who keep up are served from memory; the others read from the store, one fetch at a
//! time, and never more than they have room for by much. What one turn sends is bounded: the rest
//! waits for the next one.

use std::collections::VecDeque;

use crate::base::deadlines::Deadlines;
use crate::base::hash::QuickMap;
use crate::base::id::{ChannelName, Sequence, SubscriptionId, Ticket};
use crate::base::limits::{
    AHEAD_BYTES_MAX, BURST_BYTES_MAX, FETCH_BYTES_MAX, FETCH_MESSAGES_MAX, FETCH_MESSAGES_MIN,
    FETCHES_MAX, LOOKS_A_MESSAGE, RECENT_BYTES_MAX, TURN_BYTES_MAX, TURN_MESSAGES_MAX,
};
use crate::base::planted::{self, Bug};
use crate::base::record::{FetchRequest, MessageRecord, StoreRead, SubscriptionWrite};
use crate::base::time::{Now, WallTime};
use crate::engine::channel::{Channel, Channels, Life};
use crate::engine::commit::Commits;
use crate::engine::dead_letter::DeadLettersUnderWay;
use crate::engine::effect::{Effect, Level, Payload};
use crate::engine::message::redelivery_tail;
use crate::engine::queue_group::{GroupKey, pick};
use crate::engine::snapshot::Traffic;
use crate::engine::subscription::{Cursor, Subscription, SubscriptionKey, Subscriptions};
use crate::engine::{Engine, Timer};

/// What a message in memory costs beside its bytes.
const RECORD_OVERHEAD: usize = 96;

/// Who reads a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Plain(SubscriptionKey),
    Group(GroupKey),
}

/// What waits for its share of a turn, or for a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Deliver(Reader),
    Pass(SubscriptionKey),
}

/// What a fetch is for. `until` is what was committed when it was asked for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Next {
        reader: Reader,
        until: Sequence,
    },
    Pass(SubscriptionKey),
    /// Which message of a channel (slot and incarnation) is the first from that time or later; what
    /// goes on then.
    Age {
        channel: (usize, u64),
        at: WallTime,
        work: Work,
    },
}

/// Reads from the store, and what is kept so that there are few.
#[derive(Debug, Default)]
pub(super) struct Reads {
    last_ticket: Ticket,
    purposes: QuickMap<Ticket, Purpose>,
    /// Waits for a fetch of another reader to end.
    starving: VecDeque<Work>,
    /// Goes on in the next turn.
    ready: VecDeque<Work>,
    ahead_bytes: usize,
    /// Messages kept in memory, oldest first: channel, its incarnation, sequence, bytes.
    recent: VecDeque<(usize, u64, Sequence, usize)>,
    recent_bytes: usize,
    turn_messages: usize,
    turn_bytes: usize,
    /// Too much waits for the store: nothing is sent that would have to be written too.
    is_crowded: bool,
}

impl Reads {
    pub(super) fn new_ticket(&mut self) -> Ticket {
        self.last_ticket = self.last_ticket.next();
        self.last_ticket
    }

    /// Whether something goes on in the next turn.
    pub(super) fn is_ready(&self) -> bool {
        let is_fed = !self.starving.is_empty() && self.free_fetches() > 0;
        !self.is_crowded && (is_fed || !self.ready.is_empty())
    }

    /// Whether deliveries have to wait for the store.
    pub(super) fn set_crowded(&mut self, is_crowded: bool) {
        self.is_crowded = is_crowded;
    }

    fn free_fetches(&self) -> usize {
        FETCHES_MAX.saturating_sub(self.purposes.len())
    }

    /// A reader is gone, or gives up what it read ahead.
    pub(super) fn forget(&mut self, cursor: &Cursor) {
        let bytes: usize = cursor.ahead.iter().map(|record| record.encoded.len()).sum();
        self.give_up(bytes);
    }

    /// Counts bytes that were read and wait; false if too many do.
    pub(super) fn try_keep(&mut self, bytes: usize) -> bool {
        let is_kept = self.ahead_bytes + bytes <= AHEAD_BYTES_MAX;
        self.ahead_bytes += if is_kept { bytes } else { 0 };
        is_kept
    }

    /// They no longer do.
    pub(super) fn give_up(&mut self, bytes: usize) {
        self.ahead_bytes = self.ahead_bytes.saturating_sub(bytes);
    }

    fn has_budget(&self) -> bool {
        self.turn_messages < TURN_MESSAGES_MAX
            && self.turn_bytes < TURN_BYTES_MAX
            && !self.is_crowded
    }

    /// What was sent in this turn before a reader's burst.
    pub(super) fn begin_burst(&self) -> (usize, usize) {
        (self.turn_messages, self.turn_bytes)
    }

    /// Whether a reader may send one more before others have had their turn.
    pub(super) fn may_send(&self, (messages, bytes): (usize, usize)) -> bool {
        self.turn_messages - messages < FETCH_MESSAGES_MAX
            && self.turn_bytes - bytes < BURST_BYTES_MAX
            && self.has_budget()
    }

    /// A message of so many bytes was sent, or is about to be.
    pub(super) fn count_sent(&mut self, bytes: usize) {
        self.turn_messages += 1;
        self.turn_bytes += bytes;
    }

    /// What it took to choose among so many members for one message.
    pub(super) fn count_choice(&mut self, member_count: usize) {
        self.turn_messages += member_count / LOOKS_A_MESSAGE;
    }

    pub(super) fn begin_turn(&mut self) {
        self.turn_messages = 0;
        self.turn_bytes = 0;
    }

    pub(super) fn go_on_later(&mut self, work: Work) {
        self.ready.push_back(work);
    }

    /// A fetch, or `None` if too many are under way; then the work is tried again.
    fn fetch(&mut self, purpose: Purpose, work: Work) -> Option<Ticket> {
        if FETCHES_MAX <= self.purposes.len() {
            self.starving.push_back(work);
            return None;
        }
        let ticket = self.new_ticket();
        self.purposes.insert(ticket, purpose);
        Some(ticket)
    }

    /// Asks, in place of a fetch, how far messages of a channel are too old; see [`Reads::fetch`].
    pub(super) fn find_age(
        &mut self,
        place: usize,
        channel: &Channel,
        at: WallTime,
        work: Work,
    ) -> Option<(Ticket, Effect)> {
        let purpose = Purpose::Age { channel: (place, channel.incarnation), at, work };
        let ticket = self.fetch(purpose, work)?;
        let channel = channel.name.clone();
        Some((ticket, Effect::Read(StoreRead::FindTime { ticket, channel, at })))
    }

    /// A fetch for a redelivery pass; see [`Reads::fetch`].
    pub(super) fn fetch_for_pass(&mut self, key: SubscriptionKey) -> Option<Ticket> {
        self.fetch(Purpose::Pass(key), Work::Pass(key))
    }
}

/// The parts of an engine that sending one message touches.
pub(super) struct Outgoing<'a> {
    pub(super) effects: &'a mut VecDeque<Effect>,
    pub(super) commits: &'a mut Commits,
    pub(super) timers: &'a mut Deadlines<Timer>,
    pub(super) traffic: &'a mut Traffic,
    pub(super) reads: &'a mut Reads,
    pub(super) dead_letters: &'a mut DeadLettersUnderWay,
    pub(super) loops: u16,
    pub(super) trace: bool,
    pub(super) now: Now,
}

/// The next message of a reader.
enum Next {
    Message(MessageRecord),
    Nothing,
    Fetch,
}

impl Outgoing<'_> {
    /// Sends one message to one subscription (spec protocol, 10.3). `redelivery` is its count
    /// where it was sent before.
    pub(super) fn send(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        record: MessageRecord,
        redelivery: Option<u32>,
    ) {
        if let Some(policed) = &mut channel.policed {
            if policed.is_outlived(record.timestamp, self.now.wall) {
                self.reads.count_sent(record.encoded.len());
                return self.pass_over(subscription, channel, record.sequence, 1);
            }
            if policed.policy.counts() {
                return self.send_counted(key, subscription, channel, record, redelivery.is_some());
            }
        }
        let sequence = record.sequence;
        self.reads.count_sent(record.encoded.len());
        self.emit(key, subscription, &channel.name, record, redelivery);
        self.enter(key, subscription, channel, sequence, redelivery);
    }

    /// A message leaves.
    pub(super) fn emit(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &ChannelName,
        record: MessageRecord,
        redelivery: Option<u32>,
    ) {
        let MessageRecord { sequence, encoded, .. } = record;
        if let Some(answer) = subscription.take_answer() {
            self.effects.push_back(answer);
        }
        let tail = redelivery.map(redelivery_tail).unwrap_or_default();
        let payload = Payload { head: encoded, tail };
        if self.trace {
            self.trace(subscription, channel, sequence, redelivery.is_some());
        }
        self.traffic.out_messages += 1;
        self.traffic.redelivered_messages += u64::from(redelivery.is_some());
        self.traffic.out_bytes += payload.len() as u64;
        let inbox = subscription.inbox.clone();
        self.effects.push_back(Effect::Deliver { key: key.0, inbox, payload });
    }

    /// So many messages, up to that one, are too old to be delivered: they count as acknowledged,
    /// in their order.
    fn pass_over(
        &mut self,
        subscription: &mut Subscription,
        channel: &mut Channel,
        sequence: Sequence,
        count: u64,
    ) {
        let id = subscription.id;
        self.traffic.outlived += count;
        let position = &mut subscription.cursor.last_sent;
        *position = (*position).max(sequence);
        let writes =
            [SubscriptionWrite::Sent(id, sequence), SubscriptionWrite::Acked(id, sequence)];
        self.commits.subscription_writes(subscription.channel, channel, writes);
    }

    /// A message is with a subscription, and waits for its ack. `redelivery` is its count where it
    /// was sent before.
    pub(super) fn enter(
        &mut self,
        key: SubscriptionKey,
        subscription: &mut Subscription,
        channel: &mut Channel,
        sequence: Sequence,
        redelivery: Option<u32>,
    ) {
        let is_again = redelivery.is_some();
        let wait = channel.wait(subscription, redelivery.unwrap_or(0).saturating_add(1));
        // Whoever has pending messages has a timer, or a pass under way that sets one at its end.
        if subscription.pending.is_empty()
            && self.timers.deadline(&Timer::Redelivery(key)).is_none()
            && !planted::is(Bug::NoRedelivery)
        {
            self.timers.arm(Timer::Redelivery(key), self.now.at + wait);
        } else if channel.policed.is_some() {
            // With a back-off what comes later may be due sooner.
            self.arm_by(key, self.now.at + wait);
        }
        let (pending, is_policed) = (&mut subscription.pending, channel.policed.is_some());
        if is_policed {
            pending.keep_order();
        }
        if pending.contains(sequence) {
            // From the old deadline, so an overdue message stays overdue (spec protocol, 11.2).
            let from = pending.due(sequence).filter(|_| !is_policed).unwrap_or(self.now.at);
            return pending.set(sequence, from + wait);
        }
        pending.set(sequence, self.now.at + wait);
        let position = &mut subscription.cursor.last_sent;
        *position = (*position).max(sequence);
        let write = SubscriptionWrite::Sent(subscription.id, sequence);
        self.commits.subscription(subscription.channel, channel, write);
        if !is_again && subscription.is_full() {
            subscription.is_stalled = true;
        }
    }

    fn trace(
        &mut self,
        subscription: &Subscription,
        channel: &ChannelName,
        sequence: Sequence,
        is_again: bool,
    ) {
        let verb = if is_again { "Redelivering" } else { "Delivering" };
        let text = trace_text(subscription, channel, sequence, verb);
        self.effects.push_back(Effect::Log { level: Level::Trace, text });
    }
}

fn trace_text(
    subscription: &Subscription,
    channel: &ChannelName,
    sequence: Sequence,
    verb: &str,
) -> String {
    let (client, id): (_, SubscriptionId) = (&subscription.client, subscription.id);
    format!("[Client:{client}] {verb} msg to subid={id}, subject={channel}, seq={sequence}")
}

/// The message after a cursor's position, passing over what is gone (spec protocol, 10.5).
fn next_of(cursor: &mut Cursor, channel: &Channel, ahead_bytes: &mut usize) -> Next {
    let state = &channel.state;
    if cursor.last_sent.next() < state.first {
        cursor.last_sent = state.first.prev();
    }
    let wanted = cursor.last_sent.next();
    if state.last < wanted {
        return Next::Nothing;
    }
    while let Some(record) = cursor.ahead.front() {
        if wanted <= record.sequence {
            break;
        }
        *ahead_bytes = ahead_bytes.saturating_sub(record.encoded.len());
        cursor.ahead.pop_front();
    }
    if let Some(record) = cursor.ahead.pop_front() {
        *ahead_bytes = ahead_bytes.saturating_sub(record.encoded.len());
        return Next::Message(record);
    }
    match channel.recent_at(wanted) {
        Some(record) => Next::Message(record.clone()),
        None => Next::Fetch,
    }
}

/// The last message that is known to be too old without reading it, and how many such ones are
/// behind a position.
fn outlived_behind(channel: &Channel, position: Sequence, now: Now) -> Option<(Sequence, u64)> {
    let fresh = channel.policed.as_ref()?.first_fresh(now.wall);
    let last = fresh.prev().min(channel.state.last);
    let from = position.max(channel.state.first.prev());
    (from < last).then(|| (last, last.0 - from.0))
}

impl Engine {
    /// Delivers what is new in a channel: plain subscriptions in their order, then groups.
    pub(super) fn deliver_channel(&mut self, index: usize, now: Now) {
        let channel = &self.channels.slab[index];
        if !channel.has_readers() {
            return;
        }
        let plain: Vec<SubscriptionKey> = channel.plain.iter().copied().collect();
        let groups: Vec<GroupKey> = channel.groups.values().copied().collect();
        for key in plain {
            self.deliver(Reader::Plain(key), now);
        }
        for key in groups {
            self.deliver(Reader::Group(key), now);
        }
    }

    /// Delivers to one reader as far as it has room and the turn has budget.
    pub(super) fn deliver(&mut self, reader: Reader, now: Now) {
        if self.is_draining {
            return;
        }
        match reader {
            Reader::Plain(key) => self.deliver_plain(key, now),
            Reader::Group(key) => self.deliver_group(key, now),
        }
    }

    /// What sending takes, and apart from it what is sent to and from.
    pub(super) fn outgoing(
        &mut self,
        now: Now,
    ) -> (Outgoing<'_>, &mut Subscriptions, &mut Channels) {
        let out = Outgoing {
            effects: &mut self.effects,
            commits: &mut self.commits,
            timers: &mut self.timers,
            traffic: &mut self.traffic,
            reads: &mut self.reads,
            dead_letters: &mut self.dead_letters,
            loops: self.settings.loops,
            trace: self.settings.trace,
            now,
        };
        (out, &mut self.subscriptions, &mut self.channels)
    }

    fn deliver_plain(&mut self, key: SubscriptionKey, now: Now) {
        let (mut out, subscriptions, channels) = self.outgoing(now);
        let Some(found) = subscriptions.by_key.get_mut(&key) else {
            return;
        };
        let channel = &mut channels.slab[found.channel];
        if channel.life == Life::Deleting || found.cursor.is_queued {
            return;
        }
        let burst = out.reads.begin_burst();
        while found.is_ready() && !found.is_stalled {
            if found.is_full() {
                found.is_stalled = true;
                return;
            }
            if !out.reads.may_send(burst) {
                found.cursor.is_queued = true;
                out.reads.go_on_later(Work::Deliver(Reader::Plain(key)));
                return;
            }
            if let Some((to, count)) = outlived_behind(channel, found.cursor.last_sent, now) {
                out.pass_over(found, channel, to, count);
            }
            match next_of(&mut found.cursor, channel, &mut out.reads.ahead_bytes) {
                Next::Nothing => return,
                Next::Message(record) => {
                    out.send(key, found, channel, record, None);
                }
                Next::Fetch => {
                    let room = usize::try_from(found.in_flight_max).unwrap_or(usize::MAX);
                    let room = room.saturating_sub(found.pending.len());
                    let (reader, place) = (Reader::Plain(key), found.channel);
                    fetch_next(&mut out, &mut found.cursor, (place, channel), reader, room);
                    return;
                }
            }
        }
    }

    fn deliver_group(&mut self, key: GroupKey, now: Now) {
        let (mut out, subscriptions, channels) = self.outgoing(now);
        let Some(group) = subscriptions.groups.get_mut(&key) else {
            return;
        };
        let by_key = &mut subscriptions.by_key;
        let channel = &mut channels.slab[group.channel];
        if channel.life == Life::Deleting || group.cursor.is_queued || group.hold_count > 0 {
            return;
        }
        let burst = out.reads.begin_burst();
        loop {
            let has_room = group
                .members
                .iter()
                .filter_map(|member| by_key.get(member))
                .any(|member| member.is_ready() && !member.is_stalled);
            if !has_room {
                return;
            }
            if !out.reads.may_send(burst) {
                group.cursor.is_queued = true;
                out.reads.go_on_later(Work::Deliver(Reader::Group(key)));
                return;
            }
            if let Some((to, count)) = outlived_behind(channel, group.cursor.last_sent, now)
                && let Some(member) = pick(group, by_key).and_then(|key| by_key.get_mut(&key))
            {
                out.pass_over(member, channel, to, count);
                group.cursor.last_sent = to;
            }
            let record = match next_of(&mut group.cursor, channel, &mut out.reads.ahead_bytes) {
                Next::Nothing => return,
                Next::Message(record) => record,
                Next::Fetch => {
                    let room = group.members.len().saturating_mul(FETCH_MESSAGES_MIN);
                    let (reader, place) = (Reader::Group(key), group.channel);
                    fetch_next(&mut out, &mut group.cursor, (place, channel), reader, room);
                    return;
                }
            };
            let picked = pick(group, by_key);
            out.reads.count_choice(group.members.len());
            let member = picked.and_then(|picked| Some((picked, by_key.get_mut(&picked)?)));
            let Some((picked, member)) = member else {
                return;
            };
            if member.is_full() {
                out.reads.ahead_bytes += record.encoded.len();
                group.cursor.ahead.push_front(record);
                // Compat: a stalled fallback stops the group (spec protocol, 14.2).
                if member.is_stalled {
                    return;
                }
                member.is_stalled = true;
                continue;
            }
            group.cursor.last_sent = group.cursor.last_sent.max(record.sequence);
            out.send(picked, member, channel, record, None);
        }
    }

    /// A fetch came back.
    pub(super) fn on_fetched(
        &mut self,
        ticket: Ticket,
        result: Result<Vec<MessageRecord>, String>,
        now: Now,
    ) {
        let Some(purpose) = self.reads.purposes.remove(&ticket) else {
            return self.on_past_fetched(ticket, result, now);
        };
        match purpose {
            Purpose::Pass(key) => {
                self.on_pass_fetched(key, ticket, result, now);
                self.answer(key);
            }
            Purpose::Next { reader, until } => {
                self.on_next_fetched(reader, ticket, until, result, now);
                self.answer_reader(reader);
            }
            // It is answered as a look-up by time.
            Purpose::Age { .. } => (),
        }
    }

    /// A look-up by time came back that no subscribe request waits for.
    pub(super) fn on_age_found(
        &mut self,
        ticket: Ticket,
        result: Result<Sequence, String>,
        now: Now,
    ) {
        let Some(Purpose::Age { channel, at, work }) = self.reads.purposes.remove(&ticket) else {
            return self.on_past_found(ticket, result, now);
        };
        let found = self.channels.slab.get_mut(channel.0);
        let found = found.filter(|found| found.incarnation == channel.1);
        // Where the store cannot tell, each is read as before.
        if let (Some(policed), Ok(first)) = (found.and_then(|it| it.policed.as_mut()), result) {
            policed.set_aged(at, first);
        }
        match work {
            Work::Pass(key) => {
                self.end_look_of_pass(key, ticket, now);
                self.answer(key);
            }
            Work::Deliver(reader) => {
                let cursor = self.subscriptions.cursor_mut(reader);
                if let Some(cursor) = cursor.filter(|cursor| cursor.fetching == Some(ticket)) {
                    cursor.fetching = None;
                    self.deliver(reader, now);
                }
                self.answer_reader(reader);
            }
        }
    }

    fn on_next_fetched(
        &mut self,
        reader: Reader,
        ticket: Ticket,
        until: Sequence,
        result: Result<Vec<MessageRecord>, String>,
        now: Now,
    ) {
        let (cursor, index) = match reader {
            Reader::Plain(key) => match self.subscriptions.by_key.get_mut(&key) {
                Some(found) => (&mut found.cursor, found.channel),
                None => return,
            },
            Reader::Group(key) => match self.subscriptions.groups.get_mut(&key) {
                Some(found) => (&mut found.cursor, found.channel),
                None => return,
            },
        };
        if cursor.fetching != Some(ticket) {
            return;
        }
        cursor.fetching = None;
        let channel = &self.channels.slab[index];
        match result {
            Err(text) => {
                let (name, wanted) = (channel.name.clone(), cursor.last_sent.next());
                self.log(Level::Error, || {
                    format!("Error looking up message {name}:{wanted} ({text})")
                });
                return;
            }
            Ok(records) => {
                let mut is_empty = true;
                // What the store has written and not reported yet is not ours to tell.
                for record in records.into_iter().filter(|r| r.sequence <= channel.state.last) {
                    is_empty = false;
                    self.reads.ahead_bytes += record.encoded.len();
                    cursor.ahead.push_back(record);
                }
                if is_empty {
                    cursor.last_sent = cursor.last_sent.max(until);
                }
            }
        }
        self.deliver(reader, now);
        self.trim_ahead(reader);
    }

    /// Gives up what a reader has no room for, if all of them hold too much.
    fn trim_ahead(&mut self, reader: Reader) {
        if self.reads.ahead_bytes <= AHEAD_BYTES_MAX {
            return;
        }
        if let Some(cursor) = self.subscriptions.cursor_mut(reader) {
            self.reads.forget(cursor);
            cursor.ahead = VecDeque::new();
        }
    }

    /// Goes on with what did not fit in the last turn.
    pub(super) fn go_on(&mut self, now: Now) {
        self.reads.begin_turn();
        if !self.reads.is_ready() {
            return;
        }
        let fed_count = self.reads.free_fetches().min(self.reads.starving.len());
        self.reads.ready.extend(self.reads.starving.drain(..fed_count));
        for _ in 0..self.reads.ready.len() {
            let Some(work) = self.reads.ready.pop_front() else {
                return;
            };
            match work {
                Work::Pass(key) => self.run_pass(key, now),
                Work::Deliver(reader) => {
                    if let Some(cursor) = self.subscriptions.cursor_mut(reader) {
                        cursor.is_queued = false;
                        self.deliver(reader, now);
                    }
                }
            }
        }
    }

    /// Keeps committed messages of a channel in memory for its readers.
    pub(super) fn keep_recent(&mut self, index: usize, messages: Vec<MessageRecord>) {
        let channel = &mut self.channels.slab[index];
        // Dense or nothing: a gap would make positions wrong.
        let is_dense = match (channel.recent.back(), messages.first()) {
            (Some(old), Some(new)) => old.sequence.next() == new.sequence,
            (Some(_), None) => {
                channel.recent.back().map(|r| r.sequence) == Some(channel.state.last)
            }
            (None, _) => true,
        };
        if !is_dense {
            channel.recent = VecDeque::new();
        }
        for record in messages {
            let bytes = record.encoded.len() + RECORD_OVERHEAD;
            self.reads.recent.push_back((index, channel.incarnation, record.sequence, bytes));
            self.reads.recent_bytes += bytes;
            channel.recent.push_back(record);
        }
        self.trim_recent(index);
        while RECENT_BYTES_MAX < self.reads.recent_bytes {
            let Some((index, incarnation, sequence, bytes)) = self.reads.recent.pop_front() else {
                break;
            };
            self.reads.recent_bytes -= bytes;
            if let Some(channel) = self.channels.slab.get_mut(index)
                && channel.incarnation == incarnation
                && channel.recent.front().is_some_and(|front| front.sequence <= sequence)
            {
                channel.recent.pop_front();
                if channel.recent.is_empty() {
                    channel.recent = VecDeque::new();
                }
            }
        }
    }

    /// Drops from memory what the store no longer holds.
    pub(super) fn trim_recent(&mut self, index: usize) {
        let channel = &mut self.channels.slab[index];
        while channel.recent.front().is_some_and(|front| front.sequence < channel.state.first) {
            channel.recent.pop_front();
        }
    }
}

fn fetch_next(
    out: &mut Outgoing<'_>,
    cursor: &mut Cursor,
    (place, channel): (usize, &mut Channel),
    reader: Reader,
    room: usize,
) {
    if cursor.fetching.is_some() {
        return;
    }
    let policed = channel.policed.as_mut();
    if let Some(at) = policed.and_then(|policed| policed.time_to_find(out.now.wall)) {
        match out.reads.find_age(place, channel, at, Work::Deliver(reader)) {
            Some((ticket, read)) => {
                cursor.fetching = Some(ticket);
                out.effects.push_back(read);
            }
            None => cursor.is_queued = true,
        }
        return;
    }
    let until = channel.state.last;
    let purpose = Purpose::Next { reader, until };
    let Some(ticket) = out.reads.fetch(purpose, Work::Deliver(reader)) else {
        cursor.is_queued = true;
        return;
    };
    cursor.fetching = Some(ticket);
    let least = if out.reads.ahead_bytes < AHEAD_BYTES_MAX { FETCH_MESSAGES_MIN } else { 1 };
    let request = FetchRequest {
        ticket,
        channel: channel.name.clone(),
        from: cursor.last_sent.next(),
        count_max: room.clamp(least, FETCH_MESSAGES_MAX),
        bytes_max: FETCH_BYTES_MAX,
    };
    out.effects.push_back(Effect::Read(StoreRead::Fetch(request)));
}
