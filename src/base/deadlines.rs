//! Many (deadline, key) pairs: earliest first, re-arm, cancel.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::time::Instant;

/// At most one deadline for each key; gives back the keys whose time has come, earliest first.
#[derive(Clone, Debug)]
pub struct Deadlines<K: Ord + Clone> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Default for Deadlines<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Deadlines<K> {
    /// Sets the deadline of `key`, in place of the one it may have.
    pub fn arm(&mut self, key: K, at: Instant) {
        if let Some(old) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(old, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    /// Removes the deadline of `key`; true if it had one.
    pub fn cancel(&mut self, key: &K) -> bool {
        match self.by_key.remove(key) {
            Some(at) => self.by_time.remove(&(at, key.clone())),
            None => false,
        }
    }

    /// The deadline of `key`.
    #[must_use]
    pub fn deadline(&self, key: &K) -> Option<Instant> {
        self.by_key.get(key).copied()
    }

    /// The earliest deadline of all.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one key whose deadline is not after `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, _) = self.by_time.first()?;
        if now < *at {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many keys have a deadline.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no key has a deadline.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_due_in_the_order_of_their_deadlines() {
        let mut deadlines = Deadlines::default();
        deadlines.arm("late", Instant(30));
        deadlines.arm("early", Instant(10));
        deadlines.arm("late", Instant(20));
        assert_eq!(deadlines.next_deadline(), Some(Instant(10)));
        assert_eq!(deadlines.pop_due(Instant(20)), Some("early"));
        assert_eq!(deadlines.pop_due(Instant(20)), Some("late"));
        assert_eq!(deadlines.pop_due(Instant(99)), None);
    }

    #[test]
    fn a_cancelled_key_never_comes_due() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(1, Instant(10));
        assert!(deadlines.cancel(&1));
        assert!(!deadlines.cancel(&1));
        assert!(deadlines.is_empty());
        assert_eq!(deadlines.pop_due(Instant(10)), None);
    }
}
