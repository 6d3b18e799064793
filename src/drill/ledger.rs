//! Everything that the clients of a drill did and were told, and what was done to the members.

use std::collections::BTreeMap;

use super::tally::Tally;
use crate::base::time::{Instant, Now};

/// Publishes that a ledger keeps at most. Publishers end there.
pub(crate) const PUBLISHES_MAX: usize = 4_000_000;

/// Entries of a ledger at most, with those of each reader and of what is stored: about a gigabyte.
const ENTRIES_MAX: usize = 12_000_000;

/// Failures that are kept with their words; the others are counted.
const FAILURES_KEPT: usize = 1_000;

/// The publisher of the messages that end channels.
pub(crate) const LAST: usize = usize::MAX;

/// Which message: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MessageId {
    /// Who published it, from 0.
    pub(crate) publisher: usize,
    /// Its number among those of that publisher, from 0.
    pub(crate) number: usize,
}

impl MessageId {
    /// What is published, padded to `size` bytes.
    #[must_use]
    pub(crate) fn encode(self, size: usize) -> Vec<u8> {
        let mut bytes = format!("{} {} ", self.publisher, self.number).into_bytes();
        bytes.resize(bytes.len().max(size), b'.');
        bytes
    }

    /// Which message this is; none of ours if it does not say.
    #[must_use]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.splitn(3, ' ');
        let publisher = words.next()?.parse().ok()?;
        let number = words.next()?.parse().ok()?;
        let padding = words.next()?;
        padding.bytes().all(|byte| byte == b'.').then_some(Self { publisher, number })
    }
}

/// What belongs to which partition: channels and members take turns, those of one group stand
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// How many partitions there are.
    pub(crate) count: usize,
    /// Channels of all of them.
    pub(crate) channels: usize,
    /// Members of each.
    pub(crate) members: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self { count: 1, channels: 1, members: usize::MAX }
    }
}

impl Parts {
    /// The partition of a channel.
    #[must_use]
    pub(crate) fn of_channel(self, channel: usize) -> usize {
        channel % self.count.max(1)
    }

    /// The partition to whose channel a message of that number goes.
    #[must_use]
    pub(crate) fn of_message(self, number: usize) -> usize {
        self.of_channel(number % self.channels.max(1))
    }

    /// The partition that a member serves.
    #[must_use]
    pub(crate) fn of_member(self, member: usize) -> usize {
        member / self.members.max(1)
    }

    /// The partition to which all of these members belong, if it is one.
    #[must_use]
    pub(crate) fn of_members(self, members: &[usize]) -> Option<usize> {
        let part = self.of_member(*members.first()?);
        members.iter().all(|member| self.of_member(*member) == part).then_some(part)
    }
}

/// How a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It has not.
    Open,
    /// A server acknowledged it.
    Acked(Instant),
    /// It was refused, or not acknowledged in time.
    Failed(Instant),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) end: End,
}

/// What one reader got of a channel: a durable, a queue group, or who read all at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// What came, and with which timestamp, by sequence.
    pub(crate) by_sequence: BTreeMap<u64, (Option<MessageId>, i64)>,
    /// Came again.
    pub(crate) again: u64,
    /// Came under a sequence under which something else had come.
    pub(crate) conflicts: u64,
    /// Came for the first time, not marked as a redelivery, behind a newer one.
    pub(crate) late: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) sequence: u64,
    pub(crate) message: Option<MessageId>,
    /// What the server stamped it with.
    pub(crate) timestamp: i64,
    /// Whether it was marked as one that had been delivered before.
    pub(crate) is_redelivered: bool,
}

impl Received {
    /// Notes a delivery.
    pub(crate) fn note(&mut self, delivery: Delivery) {
        let Delivery { sequence, message, timestamp, is_redelivered } = delivery;
        if let Some(found) = self.by_sequence.get(&sequence) {
            match *found == (message, timestamp) {
                true => self.again += 1,
                false => self.conflicts += 1,
            }
            return;
        }
        let newest = self.by_sequence.last_key_value().map_or(0, |(newest, _)| *newest);
        // What a member that died had sent and nobody got comes when its ack wait is over.
        self.late += u64::from(sequence < newest && !is_redelivered);
        self.by_sequence.insert(sequence, (message, timestamp));
    }
}

/// Something that was done.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When it had been done.
    pub(crate) at: Instant,
    pub(crate) what: String,
    /// Whether the time from here to the next ack is a take-over.
    pub(crate) is_disturbance: bool,
    /// The partition whose members it was done to, where it is one: others go on meanwhile.
    pub(crate) part: Option<usize>,
}

impl Event {
    /// Whether it was done where messages of that number go: an ack of one that was published after
    /// it says that it is over.
    pub(crate) fn is_of(&self, number: usize, parts: Parts) -> bool {
        self.part.is_none_or(|part| part == parts.of_message(number))
    }
}

/// What a member looked like from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Nobody listens there.
    #[default]
    Gone,
    /// It listens and does not answer.
    Hangs,
    /// It is not active, and would not take over.
    Unready,
    /// It would take over.
    Ready,
    /// It serves.
    Active,
}

/// From when on a member looked like that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    /// When that was seen first.
    pub(crate) at: Instant,
    /// Which one, from 0.
    pub(crate) member: usize,
    /// Like what.
    pub(crate) role: Role,
}

/// The one book of a drill.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// When the load began.
    pub(crate) begun: Instant,
    /// Both clocks at one moment: messages are stamped by the other one.
    pub(crate) clocks: Now,
    pub(crate) parts: Parts,
    pub(crate) ended: Instant,
    /// By publisher and number.
    pub(crate) sent: Vec<Vec<Sent>>,
    /// Some of the failures, in words.
    pub(crate) failures: Vec<(MessageId, String)>,
    /// Durables and groups that get every message: each of them has an entry for it.
    pub(crate) reader_count: usize,
    /// By reader and channel.
    pub(crate) readers: BTreeMap<(String, usize), Received>,
    /// Readers that are several clients, which get messages side by side.
    pub(crate) groups: Vec<String>,
    /// What is stored at the end, by channel; none if nobody could read it.
    pub(crate) stored: Option<Vec<Received>>,
    /// What was done, in order.
    pub(crate) events: Vec<Event>,
    /// What the members looked like, in order.
    pub(crate) sights: Vec<Sight>,
    /// How often clients moved to another connection.
    pub(crate) reconnects: u64,
    /// Publishes so far.
    pub(crate) publish_count: usize,
    pub(crate) ack_count: usize,
    /// Deliveries so far.
    pub(crate) delivery_count: usize,
    /// Deliveries over time, for the plot.
    pub(crate) deliveries: Tally,
    /// Publishes that failed so far.
    pub(crate) failure_count: usize,
    /// Whether there was no room for more publishes.
    pub(crate) is_full: bool,
    /// Whether something that was published after the last disturbance is acknowledged.
    pub(crate) has_recovered: bool,
}

impl Ledger {
    /// Enters a publish before it is sent; `None` when the book is full.
    pub(crate) fn publish(&mut self, publisher: usize, at: Instant) -> Option<MessageId> {
        // A message is entered here, as stored, and once by each reader.
        let room = PUBLISHES_MAX.min(ENTRIES_MAX / (self.reader_count + 2));
        if room <= self.publish_count {
            self.is_full = true;
            return None;
        }
        if self.sent.len() <= publisher {
            self.sent.resize(publisher + 1, Vec::new());
        }
        self.publish_count += 1;
        let sent = &mut self.sent[publisher];
        sent.push(Sent { at, end: End::Open });
        Some(MessageId { publisher, number: sent.len() - 1 })
    }

    /// Enters the ack of a publish. Nothing is searched for: what is measured must not hang on how
    /// much was published before.
    pub(crate) fn acked(&mut self, message: MessageId, at: Instant) {
        let Some(sent) = self.sent_mut(message) else { return };
        sent.end = End::Acked(at);
        let sent_at = sent.at;
        self.ack_count += 1;
        self.has_recovered |= self
            .disturbance()
            .is_some_and(|it| it.at <= sent_at && it.is_of(message.number, self.parts));
    }

    /// Enters that a publish failed, and why.
    pub(crate) fn failed(&mut self, message: MessageId, at: Instant, why: String) {
        let Some(sent) = self.sent_mut(message) else { return };
        sent.end = End::Failed(at);
        self.failure_count += 1;
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push((message, why));
        }
    }

    /// Enters a delivery to a reader.
    pub(crate) fn delivered(&mut self, reader: &(String, usize), delivery: Delivery, at: Instant) {
        self.delivery_count += 1;
        self.deliveries.add(at.since(self.begun));
        if let Some(received) = self.readers.get_mut(reader) {
            received.note(delivery);
        }
    }

    /// Enters that something was done.
    pub(crate) fn happened(&mut self, what: String, at: Instant) {
        self.events.push(Event { at, what, is_disturbance: false, part: None });
    }

    /// Enters that something was done to members, of one partition or of several.
    pub(crate) fn disturbed(&mut self, what: String, part: Option<usize>, at: Instant) {
        self.has_recovered = false;
        self.events.push(Event { at, what, is_disturbance: true, part });
    }

    /// Enters what a member looks like, if that is new.
    pub(crate) fn seen(&mut self, member: usize, role: Role, at: Instant) {
        if self.role(member) != Some(role) {
            self.sights.push(Sight { at, member, role });
        }
    }

    /// What a member looked like last.
    #[must_use]
    pub(crate) fn role(&self, member: usize) -> Option<Role> {
        let mut sights = self.sights.iter().rev();
        sights.find(|sight| sight.member == member).map(|sight| sight.role)
    }

    /// Whether nothing that was published after the last disturbance is acknowledged yet.
    #[must_use]
    pub(crate) fn is_disturbed(&self) -> bool {
        !self.has_recovered && self.disturbance().is_some()
    }

    /// The last one.
    fn disturbance(&self) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.is_disturbance)
    }

    /// From a disturbance to the first ack of something that was published after it.
    #[must_use]
    pub(crate) fn first_ack_after(&self, event: &Event) -> Option<u64> {
        let of_publisher = |sent: &Vec<Sent>| {
            let from = sent.partition_point(|one| one.at < event.at);
            let acks =
                sent.iter().enumerate().skip(from).filter_map(|(number, one)| match one.end {
                    End::Acked(at) if event.is_of(number, self.parts) => Some(at.0),
                    End::Acked(_) | End::Open | End::Failed(_) => None,
                });
            acks.min()
        };
        let first = self.sent.iter().filter_map(of_publisher).min()?;
        Some(first.saturating_sub(event.at.0))
    }

    fn sent_mut(&mut self, message: MessageId) -> Option<&mut Sent> {
        self.sent.get_mut(message.publisher)?.get_mut(message.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_which_it_is() {
        let message = MessageId { publisher: 3, number: 70_000 };
        let bytes = message.encode(64);
        assert_eq!((bytes.len(), MessageId::decode(&bytes)), (64, Some(message)));
        assert_eq!(MessageId::decode(&message.encode(0)), Some(message));
        for other in ["", "3", "3 4", "3 4 x", "a 4 .", "3 -4 ."] {
            assert_eq!(MessageId::decode(other.as_bytes()), None, "{other}");
        }
        assert_eq!(MessageId::decode(b"\xff 1 "), None);
    }

    #[test]
    fn what_comes_again_late_or_as_something_else_is_told_apart() {
        let mut received = Received::default();
        let mut note = |sequence, number, is_redelivered| {
            let message = Some(MessageId { publisher: 0, number });
            received.note(Delivery { sequence, message, timestamp: 7, is_redelivered });
        };
        note(1, 0, false);
        note(4, 3, false);
        note(4, 3, true);
        note(4, 9, true);
        note(2, 1, true);
        note(3, 2, false);
        assert_eq!((received.again, received.conflicts, received.late), (1, 1, 1));
        assert_eq!(received.by_sequence.len(), 4);
    }

    #[test]
    fn an_ack_of_before_a_disturbance_is_no_recovery() {
        let mut ledger = Ledger::default();
        let before = ledger.publish(0, Instant(1)).expect("room");
        ledger.disturbed("kill".to_owned(), None, Instant(2));
        let after = ledger.publish(0, Instant(3)).expect("room");
        ledger.acked(before, Instant(4));
        assert!(!ledger.has_recovered);
        ledger.acked(after, Instant(5));
        assert!(ledger.has_recovered && ledger.ack_count == 2);
        ledger.disturbed("term".to_owned(), None, Instant(6));
        assert!(!ledger.has_recovered);
    }

    /// Goal: of two partitions one goes on while the active of the other is killed; its acks say
    /// nothing of the take-over.
    #[test]
    fn an_ack_of_another_partition_is_no_recovery() {
        let parts = Parts { count: 2, channels: 4, members: 2 };
        let mut ledger = Ledger { parts, ..Ledger::default() };
        let part = parts.of_members(&[3]);
        ledger.disturbed("kill".to_owned(), part, Instant(1));
        let messages: Vec<_> = (2..6).filter_map(|at| ledger.publish(0, Instant(at))).collect();
        ledger.acked(messages[0], Instant(10));
        ledger.acked(messages[2], Instant(11));
        assert!(ledger.is_disturbed());
        assert_eq!(ledger.first_ack_after(&ledger.events[0]), None);
        ledger.acked(messages[3], Instant(12));
        assert!(!ledger.is_disturbed());
        assert_eq!(ledger.first_ack_after(&ledger.events[0]), Some(11));
        assert_eq!((parts.of_members(&[0, 1]), parts.of_members(&[1, 2])), (Some(0), None));
    }

    #[test]
    fn a_book_has_room_for_what_all_readers_get() {
        let mut ledger = Ledger { reader_count: 100, ..Ledger::default() };
        let count = (0..).take_while(|at| ledger.publish(0, Instant(*at)).is_some()).count();
        assert!(count * 102 <= ENTRIES_MAX && ENTRIES_MAX < (count + 1) * 102, "{count}");
        assert!(ledger.is_full);
    }

    #[test]
    fn a_member_is_entered_when_it_looks_different() {
        let mut ledger = Ledger::default();
        for (role, at) in [(Role::Ready, 1), (Role::Ready, 2), (Role::Active, 3)] {
            ledger.seen(1, role, Instant(at));
        }
        assert_eq!(ledger.sights.len(), 2);
        assert_eq!((ledger.role(1), ledger.role(0)), (Some(Role::Active), None));
    }
}
