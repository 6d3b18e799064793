//! what was published again: it is acknowledged, and not stored
//!
//! A channel with a window remembers the payloads of its messages for so long, by their SHA-256.
//! Only what is stored counts, or is on its way there: so no publisher is told of a message that is
//! gone, and a successor, which reads the window from the store, judges alike. It reads that of a
//! channel when the first publish comes, which waits meanwhile.
//!
//! A [`Window`] alone says what has an entry. A message gets one when it is staged, and a message
//! that is refused takes with it what it has changed: its entry hides nobody else's any more, and
//! nothing was forgotten for it. What limits or an operator let go of has one until it is trimmed,
//! and counts no more from when the channel begins behind it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::base::channel_limits::ChannelLimits;
use crate::base::hash::QuickMap;
use crate::base::id::{Sequence, Ticket};
use crate::base::limits::{
    FETCH_BYTES_MAX, FETCH_MESSAGES_MAX, PASTS_READ_MAX, PAYLOADS_SEEN_MAX, PAYLOADS_UNREADABLE_MAX,
};
use crate::base::record::{ChannelState, FetchRequest, MessageRecord, StoreRead};
use crate::base::time::{Now, WallTime};
use crate::engine::Engine;
use crate::engine::channel::Life;
use crate::engine::commit::StagedPublish;
use crate::engine::effect::{Effect, Level};
use crate::engine::publication::Publication;
use crate::engine::refusal::quoted;
use crate::engine::reply::Reply;
use crate::proto::pb;

/// A payload's SHA-256, whole: nobody can make two payloads that are taken for one another.
type Digest = [u8; 32];

fn digest_of(payload: &[u8]) -> Digest {
    Sha256::digest(payload).into()
}

/// The beginning of a digest, by which messages are looked for. Where two begin alike, the later
/// one is found.
fn beginning_of(digest: &Digest) -> u64 {
    let mut beginning = [0; 8];
    beginning.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(beginning)
}

/// One message of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    sequence: Sequence,
    timestamp: WallTime,
    digest: Digest,
}

/// Whether a window knows what was stored before this engine began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    Known,
    /// Nobody has published since.
    Unread,
    /// Others are read first.
    Wanted,
    /// The last read is this one.
    Reading(Ticket),
}

/// Some messages of a window, which are forgotten together: so whatever a window holds, no publish
/// waits until it is moved or let go of.
#[derive(Debug, Default)]
struct Stretch {
    /// Ascending by sequence, and so by time.
    seen: Vec<Seen>,
    by_beginning: QuickMap<u64, Sequence>,
    /// By which message which earlier one is not found any more.
    hidden: Vec<(Sequence, Sequence)>,
}

impl Stretch {
    fn push(&mut self, seen: Seen) {
        let former = self.by_beginning.insert(beginning_of(&seen.digest), seen.sequence);
        self.hidden.extend(former.map(|former| (seen.sequence, former)));
        self.seen.push(seen);
    }

    /// Takes the last message out: what it has hidden is found again.
    fn pop(&mut self) {
        let Some(gone) = self.seen.pop() else { return };
        let beginning = beginning_of(&gone.digest);
        match self.hidden.pop_if(|(by, _)| *by == gone.sequence) {
            Some((_, former)) => self.by_beginning.insert(beginning, former),
            None => self.by_beginning.remove(&beginning),
        };
    }

    fn place(&self, sequence: Sequence) -> Option<usize> {
        self.seen.binary_search_by_key(&sequence, |seen| seen.sequence).ok()
    }

    fn find(&self, digest: &Digest) -> Option<&Seen> {
        let sequence = self.by_beginning.get(&beginning_of(digest))?;
        let seen = &self.seen[self.place(*sequence)?];
        (seen.digest == *digest).then_some(seen)
    }
}

/// Messages of a stretch at least, and at most; between these an eighth of all.
const STRETCH_MIN: usize = 256;
const STRETCH_MAX: usize = 56 * 1024;

/// Bytes that a message is counted with at least in any store, and at most beside what it holds.
const COUNTED_MIN: u64 = 16;
const COUNTED_BESIDE_MAX: usize = 256;

/// What is staged of a channel and not written: it may push others out.
#[derive(Debug, Default)]
struct Ahead {
    messages_max: u64,
    bytes_max: u64,
    /// With the bytes that it is counted with at most.
    staged: VecDeque<(Sequence, u64)>,
    bytes: u64,
}

impl Ahead {
    fn push(&mut self, sequence: Sequence, bytes: u64) {
        if self.bytes_max != 0 {
            self.staged.push_back((sequence, bytes));
            self.bytes += bytes;
        }
    }

    /// The oldest message that is sure to be there once everything up to `last` is written.
    fn first_left(&mut self, state: &ChannelState, last: Sequence) -> Sequence {
        while self.staged.front().is_some_and(|(sequence, _)| *sequence <= state.last) {
            let (_, bytes) = self.staged.pop_front().unwrap_or_default();
            self.bytes -= bytes;
        }
        let mut first = state.first.get();
        if self.messages_max != 0 {
            first = first.max((last.get() + 1).saturating_sub(self.messages_max));
        }
        let beyond = (state.byte_count + self.bytes).saturating_sub(self.bytes_max);
        if self.bytes_max != 0 && beyond != 0 {
            first = first.max(state.first.get() + 1 + beyond / COUNTED_MIN);
        }
        Sequence(first)
    }

    fn forget_behind(&mut self, last: Sequence) {
        while self.staged.back().is_some_and(|(sequence, _)| last < *sequence) {
            let (_, bytes) = self.staged.pop_back().unwrap_or_default();
            self.bytes -= bytes;
        }
    }
}

/// The payloads of a channel within its window.
#[derive(Debug)]
pub(super) struct Window {
    length: Duration,
    ahead: Ahead,
    seen_max: usize,
    seen_count: usize,
    /// One behind the other.
    stretches: VecDeque<Stretch>,
    past: Past,
    /// Publishes that cannot be judged before the past is known.
    waiting: Vec<(Publication, Reply)>,
    unreadable_count: usize,
    /// It was said that the window holds more than is remembered.
    has_overflowed: bool,
}

impl Window {
    /// Of a channel without messages.
    pub(super) fn new(length: Duration, limits: &ChannelLimits) -> Box<Self> {
        let ChannelLimits { messages_max, bytes_max, age_max, .. } = *limits;
        // What is older is about to be removed, if it is there still.
        let length = if age_max.is_zero() { length } else { length.min(age_max) };
        let ahead = Ahead { messages_max, bytes_max, ..Ahead::default() };
        Self::empty(length, ahead)
    }

    fn empty(length: Duration, ahead: Ahead) -> Box<Self> {
        Box::new(Self {
            length,
            ahead,
            seen_max: PAYLOADS_SEEN_MAX,
            seen_count: 0,
            stretches: VecDeque::new(),
            past: Past::Known,
            waiting: Vec::new(),
            unreadable_count: 0,
            has_overflowed: false,
        })
    }

    /// The channel has messages, which are to be read.
    pub(super) fn expect_past(&mut self) {
        self.past = Past::Unread;
    }

    /// Whether publishes wait to be judged.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The publishes that wait to be judged.
    pub(super) fn take_waiting(&mut self) -> Vec<(Publication, Reply)> {
        std::mem::take(&mut self.waiting)
    }

    /// The newest message that is remembered.
    pub(super) fn newest(&self) -> Option<Sequence> {
        Some(self.stretches.back()?.seen.last()?.sequence)
    }

    /// The message with that payload, of those from `first` on that are within the window. Nothing
    /// is forgotten for it: a clock that is ahead may be set back.
    fn find(&self, digest: &Digest, now: WallTime, first: Sequence) -> Option<Sequence> {
        let oldest = now - self.length;
        let found = self.stretches.iter().rev().filter_map(|stretch| stretch.find(digest));
        let mut within = found.filter(|seen| first <= seen.sequence && oldest <= seen.timestamp);
        within.next().map(|seen| seen.sequence)
    }

    /// Remembers a message, the newest, of a channel in which `first` to `last` are stored: for
    /// those alone others are forgotten, because what comes behind them may be refused. True if
    /// others that are within the window had to be forgotten, for the first time.
    fn remember(&mut self, seen: Seen, first: Sequence, last: Sequence) -> bool {
        let is_stored = seen.sequence <= last;
        let time = if is_stored { Some(seen.timestamp) } else { self.time_by(last) };
        if let Some(time) = time {
            self.trim(time, first);
        }
        let most = (self.seen_count / 8).clamp(STRETCH_MIN, STRETCH_MAX).min(self.seen_max);
        if self.stretches.back().is_none_or(|stretch| most <= stretch.seen.len()) {
            self.stretches.push_back(Stretch::default());
        }
        if let Some(stretch) = self.stretches.back_mut() {
            stretch.push(seen);
        }
        self.seen_count += 1;
        let oldest_count = self.stretches.front().map_or(0, |stretch| stretch.seen.len());
        let kept_count = self.seen_count - oldest_count;
        let is_too_much = self.seen_max <= kept_count
            && self.seen_max <= kept_count.saturating_sub(self.count_behind(last));
        if is_too_much {
            self.forget_oldest();
        }
        is_too_much && !std::mem::replace(&mut self.has_overflowed, true)
    }

    /// When the last message up to that one was published, if any such one is remembered.
    pub(super) fn time_by(&self, last: Sequence) -> Option<WallTime> {
        let stretches = self.stretches.iter().rev();
        let mut found = stretches.filter_map(|stretch| {
            let count = stretch.seen.partition_point(|seen| seen.sequence <= last);
            Some(stretch.seen[..count].last()?.timestamp)
        });
        found.next()
    }

    /// How many messages behind that one are remembered.
    fn count_behind(&self, last: Sequence) -> usize {
        let counts = self.stretches.iter().rev().map(|stretch| {
            stretch.seen.len() - stretch.seen.partition_point(|seen| seen.sequence <= last)
        });
        counts.take_while(|count| *count > 0).sum()
    }

    /// Forgets what is too old for a message of that time, or stored no more.
    fn trim(&mut self, time: WallTime, first: Sequence) {
        let oldest = time - self.length;
        let is_over = |seen: &Seen| seen.sequence < first || seen.timestamp < oldest;
        while self.stretches.front().is_some_and(|it| it.seen.last().is_none_or(is_over)) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let gone = self.stretches.pop_front();
        self.seen_count -= gone.map_or(0, |stretch| stretch.seen.len());
    }

    /// What came behind `last` was refused: others get its numbers.
    pub(super) fn forget_behind(&mut self, last: Sequence) {
        self.ahead.forget_behind(last);
        while let Some(stretch) = self.stretches.back_mut() {
            while stretch.seen.last().is_some_and(|seen| last < seen.sequence) {
                stretch.pop();
                self.seen_count -= 1;
            }
            if !stretch.seen.is_empty() {
                return;
            }
            self.stretches.pop_back();
        }
    }

    /// Everything up to that message was purged, and it is without its payload.
    fn begin_with(&mut self, stand_in: &MessageRecord) {
        let MessageRecord { sequence, timestamp, .. } = *stand_in;
        self.trim(timestamp, sequence.next());
        let mut stretch = Stretch::default();
        stretch.push(Seen { sequence, timestamp, digest: digest_of(b"") });
        // What was published behind it and is not written yet.
        let rest = std::mem::take(&mut self.stretches).into_iter().flat_map(|it| it.seen);
        rest.filter(|seen| sequence < seen.sequence).for_each(|seen| stretch.push(seen));
        self.seen_count = stretch.seen.len();
        self.stretches.push_back(stretch);
    }
}

/// Where a window is read: slot and incarnation of the channel.
type Place = (usize, u64);

/// The windows that are read from the store, few at once.
#[derive(Debug, Default)]
pub(super) struct Pasts {
    wanted: VecDeque<Place>,
    /// With the first message that is asked for.
    reading: BTreeMap<Ticket, (Place, Sequence)>,
}

impl Engine {
    /// Stages a publish to a channel with a window, or answers it as the one that is like it.
    pub(super) fn judge_publish(
        &mut self,
        index: usize,
        publication: Publication,
        reply: Reply,
        now: Now,
    ) {
        let channel = &mut self.channels.slab[index];
        channel.last_activity = now.at;
        let Some(window) = &channel.window else {
            self.stage_message(index, publication, reply, now);
            return;
        };
        if window.past != Past::Known {
            return self.await_past(index, publication, reply, now);
        }
        let digest = digest_of(publication.data());
        let at = channel.next_timestamp(now);
        let Some(window) = &mut channel.window else { return };
        // What limits let go of before this one would be stored counts as gone.
        let first = window.ahead.first_left(&channel.state, channel.last);
        let found = window.find(&digest, at, first);
        // A dead letter says where it comes from, and is the only one from there.
        if let Some(sequence) = found.filter(|_| reply.dead_letter.is_none()) {
            let publish = StagedPublish { channel: index, publication, reply };
            return self.answer_duplicate(sequence, publish);
        }
        let bytes = publication.data().len() + channel.name.as_bytes().len() + COUNTED_BESIDE_MAX;
        let (sequence, timestamp) = self.stage_message(index, publication, reply, now);
        if let Some(window) = &mut self.channels.slab[index].window {
            window.ahead.push(sequence, u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        self.remember(index, Seen { sequence, timestamp, digest });
    }

    /// Acknowledges a publish when the message that is like it is durable.
    fn answer_duplicate(&mut self, sequence: Sequence, publish: StagedPublish) {
        self.traffic.duplicates += 1;
        let channel = &self.channels.slab[publish.channel];
        let (name, is_stored) = (channel.name.clone(), sequence <= channel.state.last);
        self.log(Level::Debug, || {
            let client = String::from_utf8_lossy(publish.publication.client_id());
            let guid = String::from_utf8_lossy(publish.publication.guid());
            format!(
                "[Client:{client}] Not storing duplicate of message {sequence} subj={name} \
                 guid={guid}"
            )
        });
        if is_stored {
            self.ack_publish(publish);
        } else {
            let channel = &self.channels.slab[publish.channel];
            self.commits.duplicate(channel, publish);
        }
    }

    fn remember(&mut self, index: usize, seen: Seen) {
        let channel = &mut self.channels.slab[index];
        let (first, last) = (channel.state.first, channel.state.last);
        let Some(window) = &mut channel.window else { return };
        if !window.remember(seen, first, last) {
            return;
        }
        let (name, count) = (quoted(channel.name.as_bytes()), window.seen_max);
        self.log(Level::Warning, || {
            format!(
                "Channel {name}: more than {count} messages came within its dedup_window: \
                 duplicates of the oldest of them are stored"
            )
        });
    }

    /// Keeps a publish until it is known what was stored before.
    fn await_past(&mut self, index: usize, publication: Publication, reply: Reply, now: Now) {
        if self.is_draining {
            return reply.give_back();
        }
        let channel = &mut self.channels.slab[index];
        let Some(window) = &mut channel.window else { return };
        window.waiting.push((publication, reply));
        if window.past == Past::Unread {
            window.past = Past::Wanted;
            self.pasts.wanted.push_back((index, channel.incarnation));
            self.read_pasts(now);
        }
    }

    /// Begins to read what windows wait for, as far as may be under way at once.
    fn read_pasts(&mut self, now: Now) {
        while self.pasts.reading.len() < PASTS_READ_MAX && !self.is_draining {
            let Some(place) = self.pasts.wanted.pop_front() else { return };
            let channel = self.channels.slab.get_mut(place.0);
            let Some(channel) = channel.filter(|found| found.incarnation == place.1) else {
                continue;
            };
            let Some(window) = &mut channel.window else { continue };
            let ticket = self.reads.new_ticket();
            window.past = Past::Reading(ticket);
            let length = window.length;
            let at = channel.next_timestamp(now) - length;
            let channel = channel.name.clone();
            self.pasts.reading.insert(ticket, (place, Sequence::ZERO));
            self.effects.push_back(Effect::Read(StoreRead::FindTime { ticket, channel, at }));
        }
    }

    /// The window that was read with that ticket, if it still waits for it.
    fn end_read(&mut self, ticket: Ticket) -> Option<(Place, Sequence)> {
        let (place, from) = self.pasts.reading.remove(&ticket)?;
        let channel = self.channels.slab.get(place.0);
        let channel = channel.filter(|found| found.incarnation == place.1)?;
        let is_wanted = channel.window.as_ref()?.past == Past::Reading(ticket);
        (is_wanted && !self.is_draining).then_some((place, from))
    }

    /// The store says with which message a window begins.
    pub(super) fn on_past_found(
        &mut self,
        ticket: Ticket,
        result: Result<Sequence, String>,
        now: Now,
    ) {
        let Some((place, _)) = self.end_read(ticket) else { return self.read_pasts(now) };
        let channel = &self.channels.slab[place.0];
        // Where the store cannot tell, all that may be remembered is read: each has its time.
        let from = result.unwrap_or(Sequence::ZERO).max(channel.state.first);
        let most = PAYLOADS_SEEN_MAX as u64;
        let from = from.max(Sequence(channel.state.last.0.saturating_sub(most) + 1));
        self.read_past(place, from, now);
    }

    /// Reads the next messages of a window; if there are none, publishes go on.
    fn read_past(&mut self, place: Place, from: Sequence, now: Now) {
        let channel = &mut self.channels.slab[place.0];
        let Some(window) = &mut channel.window else { return };
        if from <= channel.state.last {
            let ticket = self.reads.new_ticket();
            window.past = Past::Reading(ticket);
            self.pasts.reading.insert(ticket, (place, from));
            let (count_max, bytes_max) = (FETCH_MESSAGES_MAX, FETCH_BYTES_MAX);
            let channel = channel.name.clone();
            let request = FetchRequest { ticket, channel, from, count_max, bytes_max };
            return self.effects.push_back(Effect::Read(StoreRead::Fetch(request)));
        }
        window.past = Past::Known;
        let is_open = matches!(channel.life, Life::Creating | Life::Open);
        for (publication, reply) in window.take_waiting() {
            if is_open {
                self.judge_publish(place.0, publication, reply, now);
            } else {
                self.publish_valid(publication, reply, true, now);
            }
        }
        self.read_pasts(now);
    }

    /// Messages of a window came from the store.
    pub(super) fn on_past_fetched(
        &mut self,
        ticket: Ticket,
        result: Result<Vec<MessageRecord>, String>,
        now: Now,
    ) {
        let Some((place, from)) = self.end_read(ticket) else { return self.read_pasts(now) };
        let last = self.channels.slab[place.0].state.last;
        let next = match result {
            Ok(records) => {
                let mut next = records.last().map_or(last, |record| record.sequence).next();
                for record in records.into_iter().filter(|record| record.sequence <= last) {
                    let MessageRecord { sequence, timestamp, encoded } = record;
                    match pb::MsgProto::decode(encoded) {
                        Ok(message) => {
                            let digest = digest_of(&message.data);
                            self.remember(place.0, Seen { sequence, timestamp, digest });
                        }
                        Err(error) => {
                            let text = error.to_string();
                            next = next.max(self.pass_over_unreadable(place.0, sequence, &text));
                        }
                    }
                }
                next
            }
            Err(text) => self.pass_over_unreadable(place.0, from, &text),
        };
        self.read_past(place, next, now);
    }

    /// What a message was like that the store cannot read is not known; where to go on.
    fn pass_over_unreadable(&mut self, index: usize, at: Sequence, text: &str) -> Sequence {
        let channel = &mut self.channels.slab[index];
        let (name, last) = (quoted(channel.name.as_bytes()), channel.state.last);
        let Some(window) = &mut channel.window else { return last.next() };
        window.unreadable_count += 1;
        let is_too_much = PAYLOADS_UNREADABLE_MAX <= window.unreadable_count;
        let which =
            if is_too_much { format!("messages from {at} on") } else { format!("message {at}") };
        self.log(Level::Error, || {
            format!("Channel {name}: duplicates of {which} are stored: it cannot be read ({text})")
        });
        if is_too_much { last.next() } else { at.next() }
    }

    /// A channel was purged of everything: its last message is there without its payload.
    pub(super) fn purge_window(&mut self, index: usize, stand_in: &MessageRecord) {
        let channel = &mut self.channels.slab[index];
        let Some(window) = &mut channel.window else { return };
        match window.past {
            Past::Known => window.begin_with(stand_in),
            Past::Unread | Past::Wanted => (),
            // What is being read is from before.
            Past::Reading(_) => {
                let mut fresh = Window::empty(window.length, std::mem::take(&mut window.ahead));
                fresh.past = Past::Wanted;
                fresh.waiting = window.take_waiting();
                *window = fresh;
                self.pasts.wanted.push_back((index, channel.incarnation));
            }
        }
    }

    /// No publish is judged any more: those that wait go to a successor.
    pub(super) fn give_back_unjudged(&mut self) {
        let reading = self.pasts.reading.values().map(|(place, _)| place);
        let places: Vec<Place> = reading.chain(&self.pasts.wanted).copied().collect();
        for (index, incarnation) in places {
            let channel = self.channels.slab.get_mut(index);
            let channel = channel.filter(|found| found.incarnation == incarnation);
            let window = channel.and_then(|found| found.window.as_mut());
            for (_, reply) in window.map(|window| window.take_waiting()).unwrap_or_default() {
                reply.give_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(secs: u64, seen_max: usize) -> Box<Window> {
        let mut window = Window::empty(Duration::from_secs(secs), Ahead::default());
        window.seen_max = seen_max;
        window
    }

    fn at(secs: i64) -> WallTime {
        WallTime(secs * 1_000_000_000)
    }

    fn seen(sequence: u64, secs: i64, payload: &str) -> Seen {
        let digest = digest_of(payload.as_bytes());
        Seen { sequence: Sequence(sequence), timestamp: at(secs), digest }
    }

    impl Window {
        /// One that is stored.
        fn keep(&mut self, seen: Seen) -> bool {
            self.remember(seen, Sequence(1), seen.sequence)
        }
    }

    fn find(window: &Window, payload: &str, secs: i64) -> Option<u64> {
        let found = window.find(&digest_of(payload.as_bytes()), at(secs), Sequence(1));
        found.map(|sequence| sequence.0)
    }

    #[test]
    fn a_payload_is_seen_for_the_length_of_the_window() {
        let mut window = window(10, 100);
        window.keep(seen(1, 0, "a"));
        window.keep(seen(2, 5, "b"));
        assert_eq!(find(&window, "a", 10), Some(1));
        assert_eq!(find(&window, "c", 10), None);
        assert_eq!(find(&window, "a", 11), None);
        assert_eq!(find(&window, "b", 11), Some(2));
        // It was stored twice before there was a window: the later one counts.
        window.keep(seen(3, 12, "b"));
        assert_eq!(find(&window, "b", 20), Some(3));
        assert_eq!(find(&window, "b", 23), None);
        // It is forgotten with the next message that is stored.
        window.keep(seen(4, 23, "c"));
        assert_eq!(window.seen_count, 1);
    }

    #[test]
    fn what_is_too_much_is_forgotten_and_said_once() {
        let mut window = window(1_000, 3);
        let said: Vec<bool> = (1..=6)
            .map(|number| {
                let seen = seen(number, 0, &number.to_string());
                window.keep(seen)
            })
            .collect();
        // So many at least are remembered, and fewer than twice as many.
        assert_eq!(said, [false, false, false, false, false, true]);
        assert_eq!(find(&window, "3", 0), None);
        assert_eq!(find(&window, "4", 0), Some(4));
        assert_eq!(window.seen_count, 3);
    }

    /// Goal: a clock that jumps ahead while duplicates come and is set back forgets nothing, as a
    /// successor would not; and one that is behind lets time stand still.
    #[test]
    fn a_clock_that_jumps_changes_no_window() {
        let mut window = window(10, 100);
        window.keep(seen(1, 100, "a"));
        assert_eq!(find(&window, "a", 5_000), None);
        assert_eq!(find(&window, "a", 105), Some(1));
        // The message that is stored ahead of the others ends their windows.
        window.keep(seen(2, 5_000, "b"));
        assert_eq!((find(&window, "a", 5_000), find(&window, "b", 5_000)), (None, Some(2)));
        window.keep(seen(3, 5_000, "c"));
        assert_eq!((find(&window, "b", 5_000), find(&window, "b", 5_010)), (Some(2), Some(2)));
        assert_eq!(find(&window, "b", 5_011), None);
    }

    /// Goal: two payloads are the same by the whole of their digests.
    #[test]
    fn what_only_begins_alike_is_not_the_same() {
        let mut window = window(10, 100);
        let (mut one, mut other) = (seen(1, 0, "a"), seen(2, 0, "a"));
        one.digest[31] ^= 1;
        other.digest[8] ^= 1;
        window.keep(one);
        window.keep(other);
        assert_eq!(find(&window, "a", 0), None);
        assert_eq!(window.find(&other.digest, at(0), Sequence(1)), Some(Sequence(2)));
    }

    /// Goal: a million messages take some 100 bytes each, and whatever leaves at once does not keep
    /// anybody waiting: a publish lets go of whole stretches, of which there are few.
    #[test]
    fn a_million_messages_are_few_stretches() {
        let mut window = window(1_000, PAYLOADS_SEEN_MAX);
        let mut digest = digest_of(b"");
        let count = PAYLOADS_SEEN_MAX as u64 + 500_000;
        for number in 1..=count {
            digest[..8].copy_from_slice(&number.to_le_bytes());
            let (sequence, timestamp) = (Sequence(number), at(0));
            window.keep(Seen { sequence, timestamp, digest });
            assert!(window.seen_count < PAYLOADS_SEEN_MAX + STRETCH_MAX);
        }
        assert!(PAYLOADS_SEEN_MAX <= window.seen_count);
        assert!(window.stretches.len() <= 40, "{}", window.stretches.len());
        let bytes: usize = window
            .stretches
            .iter()
            .map(|it| {
                it.seen.capacity() * size_of::<Seen>() + it.by_beginning.capacity() * 8 / 7 * 17
            })
            .sum();
        assert!(bytes / window.seen_count <= 110, "{} each", bytes / window.seen_count);
        window.keep(seen(count + 1, 2_000, "b"));
        assert_eq!((window.seen_count, window.stretches.len()), (1, 1));
    }

    #[test]
    fn what_is_not_stored_is_not_seen() {
        let mut window = window(1_000, 100);
        for number in 1..=6 {
            window.keep(seen(number, 0, &number.to_string()));
        }
        window.forget_behind(Sequence(5));
        assert_eq!(find(&window, "6", 0), None);
        for (payload, expected) in [("2", None), ("3", Some(Sequence(3)))] {
            let found = window.find(&digest_of(payload.as_bytes()), at(0), Sequence(3));
            assert_eq!(found, expected);
        }
        let (sequence, timestamp) = (Sequence(4), at(0));
        window.begin_with(&MessageRecord { sequence, timestamp, encoded: bytes::Bytes::new() });
        assert_eq!((find(&window, "4", 0), find(&window, "", 0)), (None, Some(4)));
        assert_eq!(find(&window, "5", 0), Some(5));
    }

    /// Goal: what a refused message has hidden or pushed out is there as before, also if it is one
    /// of several that are alike, and whatever its time was.
    #[test]
    fn what_is_refused_leaves_nothing() {
        let refusals = [&["a"][..], &["a", "a", "b"], &["c", "a", "c"]];
        // In a stretch of its own, and in that of what is stored.
        for (seen_max, refused) in
            [2, 100].into_iter().flat_map(|most| refusals.map(|it| (most, it)))
        {
            let mut window = window(10, seen_max);
            window.keep(seen(1, 0, "a"));
            window.keep(seen(2, 1, "b"));
            for (number, payload) in (3..).zip(refused) {
                window.remember(seen(number, 9_000, payload), Sequence(1), Sequence(2));
            }
            window.forget_behind(Sequence(2));
            assert_eq!((find(&window, "a", 5), find(&window, "b", 5)), (Some(1), Some(2)));
            assert_eq!((find(&window, "c", 5), window.seen_count), (None, 2));
            assert_eq!(window.time_by(Sequence(9)), Some(at(1)));
            assert!(window.stretches.iter().all(|it| it.hidden.is_empty()));
        }
    }
}
