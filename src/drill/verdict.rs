//! What a ledger shows: how much of everything there was, and which messages were treated wrongly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::expectation::{Quantity, Value};
use super::ledger::{End, Event, LAST, Ledger, MessageId, Received, Role, Sent};
use crate::base::time::{Instant, Now, WallTime};

/// Messages and sentences that are named at most; all are counted.
const NAMED_MAX: usize = 1_000;

/// How far an ack that only just left may be from the second copy, or from what was done to the
/// members before that: how soon a successor stores the copy depends on the machine.
const JUST: Duration = Duration::from_secs(1);

/// What a drill has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// What was found; what could not be looked at is not here.
    pub(crate) values: BTreeMap<Quantity, Value>,
    /// Messages that were acknowledged and are not stored, by name.
    pub(crate) lost: Vec<String>,
    /// Publishes that failed, by name: whoever published them was told so.
    pub(crate) failures: Vec<String>,
    /// What else went wrong, in sentences.
    pub(crate) faults: Vec<String>,
    /// The time from each disturbance to the first ack after it.
    pub(crate) take_overs: Vec<(Event, Option<u64>)>,
}

impl Verdict {
    /// Judges a whole ledger.
    #[must_use]
    pub(crate) fn of(ledger: &Ledger) -> Self {
        let mut verdict = Self::default();
        verdict.judge_publishes(ledger);
        verdict.judge_take_overs(ledger);
        verdict.judge_members(ledger);
        let mut stored_order = true;
        if let Some(stored) = &ledger.stored {
            verdict.judge_losses(ledger, stored);
            stored_order = verdict.judge_stored(ledger, stored);
            verdict.judge_undelivered(ledger, stored);
        }
        let reader_order = verdict.judge_readers(ledger);
        if ledger.stored.is_some() {
            verdict.put(Quantity::Order, Value::Kept(stored_order && reader_order));
        }
        let again = ledger.readers.values().map(|reader| reader.again).sum();
        verdict.put(Quantity::Redelivered, Value::Count(again));
        verdict.put(Quantity::Reconnects, Value::Count(ledger.reconnects));
        verdict
    }

    fn put(&mut self, quantity: Quantity, value: Value) {
        self.values.insert(quantity, value);
    }

    fn count(&mut self, quantity: Quantity, count: usize) {
        self.put(quantity, Value::Count(count as u64));
    }

    fn fault(&mut self, text: impl FnOnce() -> String) {
        if self.faults.len() < NAMED_MAX {
            self.faults.push(text());
        }
    }

    fn judge_publishes(&mut self, ledger: &Ledger) {
        let all = || ledger.sent.iter().flatten();
        let mut times: Vec<u64> = all().filter_map(ack_time).collect();
        times.sort_unstable();
        self.count(Quantity::Published, all().count());
        self.count(Quantity::Acked, times.len());
        self.count(Quantity::Failed, all().count() - times.len());
        let at = |index: usize| times.get(index).map_or(Value::Never, |time| Value::Time(*time));
        self.put(Quantity::Ack, at(times.len().saturating_sub(1)));
        self.put(Quantity::AckP99, at((times.len() * 99).div_ceil(100).saturating_sub(1)));
        if ledger.is_full {
            let count = all().count();
            self.fault(|| format!("the book of the drill was full after {count} publishes"));
        }
        let pauses = ledger.sent.iter().map(|sent| pause(sent, ledger.ended));
        self.put(Quantity::Pause, Value::Time(pauses.max().unwrap_or(0)));
        let failures = ledger.failures.iter();
        self.failures = failures
            .map(|(message, why)| format!("{}: {why}", name_of(ledger, *message)))
            .collect();
    }

    fn judge_take_overs(&mut self, ledger: &Ledger) {
        for event in ledger.events.iter().filter(|event| event.is_disturbance) {
            let first = ledger.first_ack_after(event);
            self.take_overs.push((event.clone(), first));
        }
        if self.take_overs.is_empty() {
            return;
        }
        let mut times: Vec<u64> =
            self.take_overs.iter().map(|(_, time)| time.unwrap_or(u64::MAX)).collect();
        times.sort_unstable();
        let value = |time: u64| if time == u64::MAX { Value::Never } else { Value::Time(time) };
        let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
        self.put(Quantity::TakeOverMedian, value(middle));
        self.put(Quantity::TakeOver, value(last));
    }

    fn judge_members(&mut self, ledger: &Ledger) {
        let actives = ledger.sights.iter().filter(|sight| sight.role == Role::Active);
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        let changes = actives.filter(|sight| {
            let before = last.insert(ledger.parts.of_member(sight.member), sight.member);
            before.is_some_and(|before| before != sight.member)
        });
        let count = changes.count();
        self.count(Quantity::TakeOvers, count);
    }

    fn judge_losses(&mut self, ledger: &Ledger, stored: &[Received]) {
        let there: BTreeSet<MessageId> = stored.iter().flat_map(messages).collect();
        let mut count = 0;
        for (publisher, sent) in ledger.sent.iter().enumerate() {
            for (number, one) in sent.iter().enumerate() {
                let message = MessageId { publisher, number };
                if !matches!(one.end, End::Acked(_)) || there.contains(&message) {
                    continue;
                }
                count += 1;
                if self.lost.len() < NAMED_MAX {
                    self.lost.push(name_of(ledger, message));
                }
            }
        }
        self.count(Quantity::Lost, count);
    }

    /// Whether what is stored is in its order.
    fn judge_stored(&mut self, ledger: &Ledger, stored: &[Received]) -> bool {
        let (mut twice, mut strange, mut is_kept) = (0, 0, true);
        let mut stored_again = 0;
        for (channel, received) in stored.iter().enumerate() {
            let mut seen = BTreeSet::new();
            let mut newest: BTreeMap<usize, usize> = BTreeMap::new();
            let (mut expected, mut time) = (1, i64::MIN);
            for (sequence, (message, timestamp)) in &received.by_sequence {
                if *sequence != expected {
                    is_kept = false;
                    self.fault(|| {
                        format!(
                            "channel {}: sequence {sequence} follows {}",
                            channel + 1,
                            expected - 1
                        )
                    });
                }
                if *timestamp < time {
                    is_kept = false;
                    self.fault(|| {
                        format!(
                            "channel {}: sequence {sequence} is older than the one before it",
                            channel + 1
                        )
                    });
                }
                (expected, time) = (sequence + 1, *timestamp);
                let known = message.filter(|message| is_known(ledger, *message));
                let Some(message) = known else {
                    strange += 1;
                    continue;
                };
                if !seen.insert(message) {
                    twice += 1;
                    if was_long_acked(ledger, message, *timestamp) {
                        stored_again += 1;
                        self.fault(|| {
                            format!("{} is stored again as {sequence}", name_of(ledger, message))
                        });
                    }
                    continue;
                }
                let before = newest.insert(message.publisher, message.number);
                if let Some(before) = before.filter(|before| message.number < *before) {
                    is_kept = false;
                    self.fault(|| {
                        let before = MessageId { number: before, ..message };
                        format!("{} is stored behind {}", shown(message), shown(before))
                    });
                }
            }
        }
        self.count(Quantity::Twice, twice);
        self.count(Quantity::StoredAgain, stored_again);
        self.count(Quantity::Strange, strange);
        is_kept
    }

    fn judge_undelivered(&mut self, ledger: &Ledger, stored: &[Received]) {
        let mut count = 0;
        for ((reader, channel), received) in &ledger.readers {
            let Some(all) = stored.get(*channel) else { continue };
            for (sequence, (message, _)) in &all.by_sequence {
                if received.by_sequence.contains_key(sequence) {
                    continue;
                }
                count += 1;
                let name = message.map_or_else(String::new, |it| format!(" ({})", shown(it)));
                self.fault(|| format!("{reader} did not get sequence {sequence}{name}"));
            }
        }
        self.count(Quantity::Undelivered, count);
    }

    /// Whether each reader got everything in its order, and as it is stored.
    fn judge_readers(&mut self, ledger: &Ledger) -> bool {
        let mut is_kept = true;
        for ((reader, channel), received) in &ledger.readers {
            // Who shares messages with others gets them side by side.
            let late = if ledger.groups.contains(reader) { 0 } else { received.late };
            let stored = ledger.stored.as_ref().and_then(|stored| stored.get(*channel));
            let differs = |stored: &Received| {
                let mut got = received.by_sequence.iter();
                got.any(|(sequence, content)| stored.by_sequence.get(sequence) != Some(content))
            };
            if late > 0 {
                self.fault(|| format!("{reader} got {late} new messages behind newer ones"));
            }
            let is_different = received.conflicts > 0 || stored.is_some_and(differs);
            if is_different {
                self.fault(|| format!("{reader} got something else than is stored"));
            }
            is_kept &= late == 0 && !is_different;
        }
        is_kept
    }
}

fn messages(received: &Received) -> impl Iterator<Item = MessageId> {
    received.by_sequence.values().filter_map(|(message, _)| *message)
}

fn is_known(ledger: &Ledger, message: MessageId) -> bool {
    let is_sent = |sent: &Vec<Sent>| message.number < sent.len();
    message.publisher == LAST || ledger.sent.get(message.publisher).is_some_and(is_sent)
}

/// Whether a message had been acknowledged for a while when a server stamped it with that.
fn was_long_acked(ledger: &Ledger, message: MessageId, stamped: i64) -> bool {
    let sent = ledger.sent.get(message.publisher).and_then(|sent| sent.get(message.number));
    let Some(End::Acked(at)) = sent.map(|sent| sent.end) else { return false };
    let Now { at: now, wall } = ledger.clocks;
    let wall_of = |at: Instant| if at < now { wall - now.since(at) } else { wall + at.since(now) };
    let acked = wall_of(at);
    let only_just = |event: &Event| {
        let stopped = wall_of(event.at);
        event.is_disturbance
            && event.is_of(message.number, ledger.parts)
            && stopped <= WallTime(stamped)
            && acked - JUST <= stopped
            && stopped <= acked + JUST
    };
    acked + JUST < WallTime(stamped) && !ledger.events.iter().any(only_just)
}

/// How long an ack took, in nanoseconds.
fn ack_time(sent: &Sent) -> Option<u64> {
    match sent.end {
        End::Acked(at) => Some(at.0.saturating_sub(sent.at.0)),
        End::Open | End::Failed(_) => None,
    }
}

/// The longest time that a publisher was without an ack, while it published.
fn pause(sent: &[Sent], ended: Instant) -> u64 {
    let Some(first) = sent.first() else { return 0 };
    let mut acks: Vec<u64> = sent
        .iter()
        .filter_map(|one| match one.end {
            End::Acked(at) => Some(at.0),
            End::Open | End::Failed(_) => None,
        })
        .collect();
    acks.sort_unstable();
    let last = sent.last().map_or(0, |one| one.at.0).min(ended.0);
    let from = std::iter::once(first.at.0).chain(acks.iter().copied());
    let to = acks.iter().copied().chain([last]);
    from.zip(to).map(|(from, to)| to.saturating_sub(from)).max().unwrap_or(0)
}

fn shown(message: MessageId) -> String {
    format!("message {} of publisher {}", message.number + 1, message.publisher + 1)
}

/// A message with when it was published, and acknowledged.
fn name_of(ledger: &Ledger, message: MessageId) -> String {
    let sent = ledger.sent.get(message.publisher).and_then(|sent| sent.get(message.number));
    let Some(sent) = sent else { return shown(message) };
    let millis = |at: Instant| at.since(ledger.begun).as_millis();
    let end = match sent.end {
        End::Open => String::new(),
        End::Acked(at) => format!(", acknowledged at {} ms", millis(at)),
        End::Failed(at) => format!(", failed at {} ms", millis(at)),
    };
    // Publishers publish to all channels in turn.
    let channels = ledger.stored.as_ref().map_or(1, Vec::len).max(1);
    let channel = match channels {
        1 => String::new(),
        _ => format!(" in channel {}", message.number % channels + 1),
    };
    format!("{}{channel}, published at {} ms{end}", shown(message), millis(sent.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::ledger::{Delivery, Parts};

    const MS: u64 = 1_000_000;

    /// Three messages, acknowledged, stored and delivered; a kill between the first two.
    fn sound() -> Ledger {
        let mut ledger = Ledger { ended: Instant(1_000 * MS), ..Ledger::default() };
        ledger.readers.insert(("durable 1".to_owned(), 0), Received::default());
        for (at, acked_at) in [(10, 11), (60, 90), (65, 91)] {
            if at == 60 {
                ledger.disturbed("kill -9 active".to_owned(), None, Instant(50 * MS));
            }
            let message = ledger.publish(0, Instant(at * MS)).expect("room");
            ledger.acked(message, Instant(acked_at * MS));
        }
        let mut stored = Received::default();
        for number in 0..3 {
            let delivery = delivery(number as u64 + 1, number);
            stored.note(delivery);
            ledger.delivered(&("durable 1".to_owned(), 0), delivery, Instant(95 * MS));
        }
        ledger.stored = Some(vec![stored]);
        ledger
    }

    fn delivery(sequence: u64, number: usize) -> Delivery {
        let message = Some(MessageId { publisher: 0, number });
        Delivery { sequence, message, timestamp: 7, is_redelivered: false }
    }

    fn value(ledger: &Ledger, quantity: Quantity) -> Value {
        Verdict::of(ledger).values[&quantity]
    }

    #[test]
    fn a_sound_drill_has_no_faults() {
        let verdict = Verdict::of(&sound());
        for (quantity, expected) in [
            (Quantity::Lost, Value::Count(0)),
            (Quantity::Twice, Value::Count(0)),
            (Quantity::Strange, Value::Count(0)),
            (Quantity::Undelivered, Value::Count(0)),
            (Quantity::Failed, Value::Count(0)),
            (Quantity::Acked, Value::Count(3)),
            (Quantity::Order, Value::Kept(true)),
            (Quantity::TakeOver, Value::Time(40 * MS)),
            (Quantity::Pause, Value::Time(79 * MS)),
            (Quantity::Ack, Value::Time(30 * MS)),
        ] {
            assert_eq!(verdict.values[&quantity], expected, "{}", quantity.name());
        }
        assert_eq!((verdict.lost.len(), verdict.faults.len()), (0, 0));
    }

    #[test]
    fn what_was_acknowledged_and_is_not_stored_is_named() {
        let mut ledger = sound();
        ledger.stored.as_mut().expect("stored")[0].by_sequence.remove(&3);
        let verdict = Verdict::of(&ledger);
        assert_eq!(verdict.values[&Quantity::Lost], Value::Count(1));
        let named = "message 3 of publisher 1, published at 65 ms, acknowledged at 91 ms";
        assert_eq!(verdict.lost, [named]);
    }

    #[test]
    fn what_was_never_acknowledged_is_not_lost() {
        let mut ledger = sound();
        let open = ledger.publish(0, Instant(100 * MS)).expect("room");
        assert_eq!(value(&ledger, Quantity::Lost), Value::Count(0));
        assert_eq!(value(&ledger, Quantity::Failed), Value::Count(1));
        ledger.failed(open, Instant(200 * MS), "publish ack timeout".to_owned());
        let verdict = Verdict::of(&ledger);
        assert_eq!(verdict.values[&Quantity::Failed], Value::Count(1));
        assert!(verdict.failures[0].ends_with("failed at 200 ms: publish ack timeout"));
    }

    #[test]
    fn what_is_stored_twice_strange_or_turned_is_seen() {
        let mut ledger = sound();
        let mut stored = Received::default();
        for (sequence, number) in [(1, 0), (2, 2), (3, 1), (4, 1), (6, 77)] {
            stored.note(delivery(sequence, number));
        }
        ledger.stored = Some(vec![stored]);
        let verdict = Verdict::of(&ledger);
        assert_eq!(verdict.values[&Quantity::Twice], Value::Count(1));
        assert_eq!(verdict.values[&Quantity::Strange], Value::Count(1));
        assert_eq!(verdict.values[&Quantity::Undelivered], Value::Count(2));
        assert_eq!(verdict.values[&Quantity::Order], Value::Kept(false));
        let all = verdict.faults.join("\n");
        assert!(all.contains("message 2 of publisher 1 is stored behind message 3"), "{all}");
        assert!(all.contains("channel 1: sequence 6 follows 4"), "{all}");
        assert!(all.contains("durable 1 got something else than is stored"), "{all}");
    }

    #[test]
    fn a_group_gets_messages_side_by_side_and_a_durable_in_order() {
        let mut ledger = sound();
        ledger.readers.get_mut(&("durable 1".to_owned(), 0)).expect("reader").late = 1;
        assert_eq!(value(&ledger, Quantity::Order), Value::Kept(false));
        ledger.groups.push("durable 1".to_owned());
        assert_eq!(value(&ledger, Quantity::Order), Value::Kept(true));
    }

    #[test]
    fn a_take_over_that_never_ended_is_longer_than_any() {
        let mut ledger = sound();
        ledger.disturbed("kill -9 active".to_owned(), None, Instant(100 * MS));
        assert_eq!(value(&ledger, Quantity::TakeOver), Value::Never);
        ledger.publish(0, Instant(900 * MS)).expect("room");
        assert_eq!(value(&ledger, Quantity::Pause), Value::Time(809 * MS));
    }

    #[test]
    fn what_nobody_could_read_back_is_not_judged() {
        let ledger = Ledger { stored: None, ..sound() };
        let values = Verdict::of(&ledger).values;
        for quantity in [Quantity::Lost, Quantity::Twice, Quantity::Order, Quantity::Undelivered] {
            assert!(!values.contains_key(&quantity), "{}", quantity.name());
        }
        assert_eq!(values[&Quantity::Acked], Value::Count(3));
    }

    /// However long its successor takes.
    #[test]
    fn what_was_acked_just_before_a_stop_may_be_stored_again() {
        let stored_again = |stopped_at: u64| {
            let mut ledger = sound();
            ledger.events.clear();
            // It was acknowledged at 90 ms.
            ledger.clocks = Now { at: Instant(90 * MS), wall: WallTime(5_000_000_000) };
            ledger.disturbed("pause 60s active".to_owned(), None, Instant(stopped_at * MS));
            let late = Delivery { timestamp: 65_000_000_000, ..delivery(4, 1) };
            ledger.stored.as_mut().expect("stored")[0].note(late);
            value(&ledger, Quantity::StoredAgain)
        };
        assert_eq!(stored_again(500), Value::Count(0));
        assert_eq!(stored_again(2_000), Value::Count(1), "it was acknowledged long before");
        assert_eq!(stored_again(70_000), Value::Count(1), "it was stored again before");
    }

    #[test]
    fn what_is_stored_again_long_after_its_ack_is_told_from_what_a_kill_may_do() {
        let mut ledger = sound();
        ledger.events.clear();
        // It was acknowledged at 90 ms.
        let wall = WallTime(5_000_000_000);
        ledger.clocks = Now { at: Instant(90 * MS), wall };
        let copy = |sequence, timestamp| Delivery { timestamp, ..delivery(sequence, 1) };
        let stored = &mut ledger.stored.as_mut().expect("stored")[0];
        stored.note(copy(4, wall.0 + 1_000_000_000));
        assert_eq!(value(&ledger, Quantity::Twice), Value::Count(1));
        assert_eq!(value(&ledger, Quantity::StoredAgain), Value::Count(0));
        let stored = &mut ledger.stored.as_mut().expect("stored")[0];
        stored.note(copy(5, wall.0 + 1_000_000_001));
        assert_eq!(value(&ledger, Quantity::StoredAgain), Value::Count(1));
        let faults = Verdict::of(&ledger).faults;
        let named = "message 2 of publisher 1, published at 60 ms, acknowledged at 90 ms is stored \
                     again as 5";
        assert!(faults.contains(&named.to_owned()), "{faults:?}");
    }

    #[test]
    fn a_take_over_of_each_partition_is_counted() {
        let parts = Parts { count: 2, channels: 2, members: 2 };
        let mut ledger = Ledger { parts, ..sound() };
        for (at, member) in [0, 2, 3, 0, 2].into_iter().enumerate() {
            ledger.seen(member, Role::Active, Instant(at as u64));
            ledger.seen(member, Role::Ready, Instant(at as u64));
        }
        assert_eq!(value(&ledger, Quantity::TakeOvers), Value::Count(2));
    }

    #[test]
    fn a_take_over_is_counted_when_another_member_is_active() {
        let mut ledger = sound();
        let sights = [(0, Role::Active), (0, Role::Gone), (1, Role::Active), (1, Role::Hangs)];
        for (at, (member, role)) in sights.into_iter().enumerate() {
            ledger.seen(member, role, Instant(at as u64));
        }
        ledger.seen(1, Role::Active, Instant(9));
        assert_eq!(value(&ledger, Quantity::TakeOvers), Value::Count(1));
    }
}
