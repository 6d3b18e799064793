//! who is served, and in which order

use std::collections::VecDeque;

use crate::base::hash::QuickMap;
use crate::engine::subscription::SubscriptionKey;

/// Subscriptions in the order in which they are served. Whatever is done to it costs the same
/// however many there are, but for a walk: a client that leaves may have been most of them.
#[derive(Debug, Default)]
pub(super) struct Roster {
    list: VecDeque<SubscriptionKey>,
    /// Where each stands in the list, counted from where the first one stood in the beginning.
    places: QuickMap<SubscriptionKey, usize>,
    /// How often the first one went to the end.
    turn_count: usize,
}

impl Roster {
    /// Puts one at the end.
    pub(super) fn push(&mut self, key: SubscriptionKey) {
        self.places.insert(key, self.turn_count.wrapping_add(self.list.len()));
        self.list.push_back(key);
    }

    /// Takes one out.
    // Compat: the last takes its place, as with the reference, so that the same members of a group
    // are next in turn; pinned by groups::the_last_member_takes_the_turn_of_one_that_left.
    pub(super) fn take_out(&mut self, key: SubscriptionKey) {
        let Some(place) = self.places.remove(&key) else {
            return;
        };
        let index = place.wrapping_sub(self.turn_count);
        self.list.swap_remove_back(index);
        if let Some(moved) = self.list.get(index) {
            self.places.insert(*moved, place);
        }
    }

    /// The first one goes to the end.
    pub(super) fn turn(&mut self) {
        if let Some(first) = self.list.pop_front() {
            self.turn_count = self.turn_count.wrapping_add(1);
            self.push(first);
        }
    }

    /// Who is next.
    pub(super) fn first(&self) -> Option<SubscriptionKey> {
        self.list.front().copied()
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SubscriptionKey> + Clone {
        self.list.iter().inspect(|_| looked())
    }

    /// Whether it is one of them.
    pub(super) fn contains(&self, key: SubscriptionKey) -> bool {
        self.places.contains_key(&key)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

#[cfg(not(test))]
fn looked() {}

#[cfg(test)]
fn looked() {
    tests::LOOKS.set(tests::LOOKS.get() + 1);
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        /// How many this thread has looked at in all walks.
        pub(in crate::engine) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        TakeOut(usize),
        Turn,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Push),
            2 => (0_usize..40).prop_map(Step::TakeOut),
            2 => Just(Step::Turn),
        ];
        proptest::collection::vec(step, 0..120)
    }

    proptest! {
        /// Goal: the order is that of a plain list on which the same was done.
        #[test]
        fn the_order_is_that_of_a_list(steps in steps()) {
            let (mut roster, mut list, mut next) = (Roster::default(), Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Push => {
                        let key = SubscriptionKey(next);
                        next += 1;
                        roster.push(key);
                        list.push(key);
                    }
                    Step::TakeOut(place) if place < list.len() => {
                        roster.take_out(list[place]);
                        list.swap_remove(place);
                    }
                    Step::TakeOut(_) => roster.take_out(SubscriptionKey(next)),
                    Step::Turn if list.is_empty() => roster.turn(),
                    Step::Turn => {
                        roster.turn();
                        list.rotate_left(1);
                    }
                }
                prop_assert_eq!(roster.iter().copied().collect::<Vec<_>>(), list.clone());
                prop_assert_eq!(roster.first(), list.first().copied());
                prop_assert_eq!((roster.len(), roster.is_empty()), (list.len(), list.is_empty()));
            }
        }
    }
}
