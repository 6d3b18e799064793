//! what a subscription was delivered and has not acknowledged, and when each of it is due again
//!
//! Without a policy one timer looks at all of it now and then, as the reference does. With one each
//! message is due for itself, so they are kept in that order too; and where few may be out again at
//! once, the others that are due wait in theirs.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::base::id::Sequence;
use crate::base::limits::REDELIVERED_ASIDE_MAX;
use crate::base::sequence_map::SequenceMap;
use crate::base::time::Instant;

/// A message and when it is due.
pub(super) type DueAt = (Instant, Sequence);

/// The pending messages of one subscription.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// With the time of the next redelivery; `None` = unknown (recovered).
    all: SequenceMap<Option<Instant>>,
    unknown_count: usize,
    order: Option<Box<Order>>,
}

/// Those of a channel with a policy.
#[derive(Clone, Debug, Default)]
struct Order {
    /// All whose time is known, but for those that wait.
    by_due: BTreeSet<DueAt>,
    /// Redelivered as one of few, and not due once more.
    out: BTreeSet<Sequence>,
    /// Due, and waiting until fewer are out; the time stays as it is meanwhile.
    waiting: BTreeSet<DueAt>,
}

impl Order {
    /// Takes a message out; whether it was one of few.
    fn take_out(&mut self, due: Option<Instant>, sequence: Sequence) -> bool {
        if let Some(due) = due
            && !self.by_due.remove(&(due, sequence))
        {
            self.waiting.remove(&(due, sequence));
        }
        self.out.remove(&sequence)
    }
}

impl Pending {
    /// What was pending before this server began.
    pub(super) fn recovered(sequences: impl Iterator<Item = Sequence>) -> Self {
        let all: SequenceMap<_> = sequences.map(|sequence| (sequence, None)).collect();
        Self { unknown_count: all.len(), all, order: None }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a message is pending.
    pub(super) fn contains(&self, sequence: Sequence) -> bool {
        self.all.contains(sequence)
    }

    /// Whether it is not known of some when they are due.
    pub(super) fn has_unknown(&self) -> bool {
        self.unknown_count > 0
    }

    /// Ascending by sequence, each with the time when it is due, where that is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Sequence, Option<Instant>)> {
        self.all.iter().map(|(sequence, due)| (sequence, *due))
    }

    pub(super) fn sequences(&self) -> impl Iterator<Item = Sequence> {
        self.all.sequences()
    }

    /// Keeps them in the order in which they are due, from now on.
    pub(super) fn keep_order(&mut self) {
        if self.order.is_none() {
            let by_due = self.iter().filter_map(|(sequence, due)| Some((due?, sequence))).collect();
            self.order = Some(Box::new(Order { by_due, ..Order::default() }));
        }
    }

    fn order(&mut self) -> &mut Order {
        self.keep_order();
        self.order.get_or_insert_default()
    }

    /// A message is due at that time, whether it was pending or not. It waits for nobody.
    pub(super) fn set(&mut self, sequence: Sequence, due: Instant) {
        let former = self.all.get_mut(sequence).map(|found| found.replace(due));
        match former {
            Some(former) => self.unknown_count -= usize::from(former.is_none()),
            None => self.all.insert(sequence, Some(due)),
        }
        if let Some(order) = &mut self.order {
            if let Some(former) = former.flatten()
                && !order.by_due.remove(&(former, sequence))
            {
                order.waiting.remove(&(former, sequence));
            }
            order.by_due.insert((due, sequence));
        }
    }

    /// The same of one that is pending; false if it is not.
    pub(super) fn postpone(&mut self, sequence: Sequence, due: Instant) -> bool {
        let is_pending = self.contains(sequence);
        if is_pending {
            self.set(sequence, due);
        }
        is_pending
    }

    /// When a pending message is due, where that is known.
    pub(super) fn due(&mut self, sequence: Sequence) -> Option<Instant> {
        self.all.get_mut(sequence).copied().flatten()
    }

    /// A message is pending no longer: whether one of few is out no more. `None`: it was not there.
    pub(super) fn remove(&mut self, sequence: Sequence) -> Option<bool> {
        let due = self.all.remove(sequence)?;
        self.unknown_count -= usize::from(due.is_none());
        Some(self.order.as_mut().is_some_and(|order| order.take_out(due, sequence)))
    }

    /// The first that are due by `limit`, behind one of them; `None`: no order is kept.
    pub(super) fn due_by(
        &self,
        limit: Instant,
        behind: Option<DueAt>,
        count_max: usize,
    ) -> Option<Vec<DueAt>> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let to = Bound::Included((limit, Sequence(u64::MAX)));
        let order = self.order.as_ref()?;
        // Behind the limit nothing is due.
        if behind.is_some_and(|behind| (limit, Sequence(u64::MAX)) <= behind) {
            return Some(Vec::new());
        }
        Some(order.by_due.range((from, to)).take(count_max).copied().collect())
    }

    /// When the first is due that is not by `limit`.
    pub(super) fn next_due(&self, limit: Instant) -> Option<Instant> {
        let Some(order) = &self.order else {
            return self.iter().filter_map(|(_, due)| due).filter(|due| limit < *due).min();
        };
        let from = Bound::Excluded((limit, Sequence(u64::MAX)));
        order.by_due.range((from, Bound::Unbounded)).next().map(|(due, _)| *due)
    }

    /// A pending message that is due waits, since when it was due: it is out no more.
    pub(super) fn wait(&mut self, sequence: Sequence, now: Instant) {
        if self.all.contains(sequence) {
            let since = self.due(sequence).unwrap_or(now).min(now);
            self.set(sequence, since);
            let order = self.order();
            order.out.remove(&sequence);
            order.by_due.remove(&(since, sequence));
            order.waiting.insert((since, sequence));
        }
    }

    /// A pending message has been redelivered as one of few.
    pub(super) fn begin_out(&mut self, sequence: Sequence) {
        if self.all.contains(sequence) {
            self.order().out.insert(sequence);
        }
    }

    /// It gives up its place among them.
    pub(super) fn end_out(&mut self, sequence: Sequence) {
        if let Some(order) = &mut self.order {
            order.out.remove(&sequence);
        }
    }

    /// How many are out as some of few.
    pub(super) fn out_count(&self) -> usize {
        self.order.as_ref().map_or(0, |order| order.out.len())
    }

    /// Those that wait, longest first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Sequence> {
        let order = self.order.iter();
        order.flat_map(|order| order.waiting.iter().map(|(_, sequence)| *sequence))
    }

    /// Whether any waits.
    pub(super) fn has_waiting(&self) -> bool {
        self.first_waiting().is_some()
    }

    /// The one that has waited longest, and since when it is due.
    pub(super) fn first_waiting(&self) -> Option<DueAt> {
        self.order.as_ref()?.waiting.first().copied()
    }

    /// Those that keep no new ones off: out as some of few, or waiting for that.
    pub(super) fn aside_count(&self) -> usize {
        let count = self.order.as_ref().map_or(0, |order| order.out.len() + order.waiting.len());
        count.min(REDELIVERED_ASIDE_MAX)
    }

    /// Whoever comes next begins with none that is out, and none that waits.
    pub(super) fn end_turns(&mut self) {
        if let Some(order) = &mut self.order {
            order.out.clear();
            order.by_due.append(&mut order.waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::base::random::Random;

    /// Goal: each message is in one place, whatever happens to it in which order.
    #[test]
    fn each_message_is_due_or_waits() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut pending = Pending::recovered((1..=5).map(Sequence));
            for step in 0..1_000 {
                let sequence = Sequence(1 + random.below(30));
                let at = Instant(random.below(100));
                match random.below(9) {
                    0..3 => pending.set(sequence, at),
                    3 => drop(pending.remove(sequence)),
                    4 | 5 => pending.wait(sequence, at),
                    6 => pending.begin_out(sequence),
                    7 => assert_eq!(pending.postpone(sequence, at), pending.contains(sequence)),
                    _ if step % 50 == 0 => pending.end_turns(),
                    _ => pending.keep_order(),
                }
                let known = pending.iter().filter(|(_, due)| due.is_some()).count();
                assert_eq!(pending.has_unknown(), known < pending.len());
                let Some(due) = pending.due_by(Instant(1_000), None, 1_000) else { continue };
                let waiting: Vec<Sequence> = pending.waiting().collect();
                assert_eq!(due.len() + waiting.len(), known);
                assert!(waiting.iter().all(|one| due.iter().all(|(_, other)| one != other)));
                assert!(due.iter().all(|(due, one)| pending.due(*one) == Some(*due)));
                assert!(waiting.iter().all(|one| pending.contains(*one)));
                let mut order = due.clone();
                order.sort_unstable();
                assert_eq!(order, due);
                let half = pending.due_by(Instant(50), None, 1_000).unwrap();
                let next = due.get(half.len()).map(|(due, _)| *due);
                assert_eq!(pending.next_due(Instant(50)), next);
                let rest = pending.due_by(Instant(1_000), half.last().copied(), 1_000).unwrap();
                assert_eq!(half.len() + rest.len(), due.len());
            }
        }
    }
}
