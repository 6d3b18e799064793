//! Who listens in one way: interests by session; found, added, taken out and drawn quickly.
//!
//! A group of few sessions is a list. One of many has an index beside it, so that nothing that a
//! client does costs more with each other client: a session is found by a hash, and a member is
//! drawn by its weight in a Fenwick tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use smallvec::SmallVec;

use crate::base::hash::QuickMap;
use crate::base::id::SessionId;
use crate::broker::sublist::Interest;

/// Up to so many sessions are looked through one by one, which is quicker than an index.
const LISTED_MAX: usize = 8;

/// Where an interest lies in the tree of each loop: its number among those of its session there.
/// Each loop writes and reads its own place only.
#[derive(Debug, Default)]
pub struct Places(SmallVec<[AtomicU32; 4]>);

impl Places {
    /// Places in the trees of so many loops.
    #[must_use]
    pub fn new(loops: u16) -> Self {
        Self((0..loops).map(|_| AtomicU32::new(0)).collect())
    }

    fn get(&self, home: u16) -> usize {
        self.0[usize::from(home)].load(Ordering::Relaxed) as usize
    }

    fn set(&self, home: u16, place: usize) {
        let place = u32::try_from(place).expect("fewer interests than four billion");
        self.0[usize::from(home)].store(place, Ordering::Relaxed);
    }
}

/// The interests of one session.
#[derive(Debug)]
pub(super) struct Slot {
    interests: SmallVec<[Arc<Interest>; 1]>,
    /// Members that it stands for.
    weight: u64,
}

impl Slot {
    /// Any of them: what they have in common is asked of it.
    pub fn first(&self) -> &Arc<Interest> {
        &self.interests[0]
    }

    pub fn interests(&self) -> &[Arc<Interest>] {
        &self.interests
    }
}

/// Interests by session; each session has one slot.
#[derive(Debug, Default)]
pub(super) struct Group {
    slots: Vec<Slot>,
    /// Made when there are many slots, and kept until there are none.
    index: Option<Box<Index>>,
}

#[derive(Debug, Default)]
struct Index {
    by_session: QuickMap<SessionId, usize>,
    weights: Fenwick,
}

impl Group {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The slot of a session.
    pub fn slot_of(&self, session: SessionId) -> Option<&Slot> {
        self.find(session).map(|at| &self.slots[at])
    }

    /// Members that all of them stand for.
    pub fn weight(&self) -> u64 {
        match &self.index {
            Some(index) => index.weights.total(),
            None => self.slots.iter().map(|slot| slot.weight).sum(),
        }
    }

    /// The slot in which the `member`-th of all members is, and its number there.
    pub fn draw(&self, mut member: u64) -> (usize, u64) {
        if let Some(index) = &self.index {
            return index.weights.find(member);
        }
        for (at, slot) in self.slots.iter().enumerate() {
            if member < slot.weight {
                return (at, member);
            }
            member -= slot.weight;
        }
        (0, 0)
    }

    pub fn insert(&mut self, interest: Arc<Interest>, home: u16) {
        let weight = weight_of(&interest);
        if let Some(at) = self.find(interest.session) {
            let slot = &mut self.slots[at];
            interest.places.set(home, slot.interests.len());
            slot.interests.push(interest);
            self.change_weight(at, i128::from(weight));
            return;
        }
        interest.places.set(home, 0);
        if self.slots.is_empty() {
            // Mostly there is one.
            self.slots.reserve_exact(1);
        }
        if let Some(index) = &mut self.index {
            index.by_session.insert(interest.session, self.slots.len());
            index.weights.push(weight);
        }
        self.slots.push(Slot { interests: SmallVec::from_buf([interest]), weight });
        if self.index.is_none() && LISTED_MAX < self.slots.len() {
            let mut index = Index::default();
            for (at, slot) in self.slots.iter().enumerate() {
                index.by_session.insert(slot.first().session, at);
                index.weights.push(slot.weight);
            }
            self.index = Some(Box::new(index));
        }
    }

    /// Takes an interest out; false if it is not there.
    pub fn remove(&mut self, interest: &Arc<Interest>, home: u16) -> bool {
        let Some(at) = self.find(interest.session) else { return false };
        let slot = &mut self.slots[at];
        let place = interest.places.get(home);
        if !slot.interests.get(place).is_some_and(|found| Arc::ptr_eq(found, interest)) {
            return false;
        }
        if slot.interests.len() == 1 {
            self.remove_slot(at);
            return true;
        }
        slot.interests.swap_remove(place);
        if let Some(moved) = slot.interests.get(place) {
            moved.places.set(home, place);
        }
        if slot.interests.spilled() && slot.interests.len() * 4 < slot.interests.capacity() {
            slot.interests.shrink_to_fit();
        }
        // Only clients have several, and each stands for one member.
        self.change_weight(at, -1);
        true
    }

    /// The interest of a route stands for another number of members than before.
    pub fn reweigh(&mut self, interest: &Arc<Interest>) {
        let Some(at) = self.find(interest.session) else { return };
        let change = i128::from(weight_of(interest)) - i128::from(self.slots[at].weight);
        self.change_weight(at, change);
    }

    fn find(&self, session: SessionId) -> Option<usize> {
        match &self.index {
            Some(index) => index.by_session.get(&session).copied(),
            None => self.slots.iter().position(|slot| slot.first().session == session),
        }
    }

    fn change_weight(&mut self, at: usize, change: i128) {
        let slot = &mut self.slots[at];
        let weight = i128::from(slot.weight) + change;
        slot.weight = u64::try_from(weight).expect("what goes has come before");
        if let Some(index) = &mut self.index {
            index.weights.add(at, change);
        }
    }

    fn remove_slot(&mut self, at: usize) {
        let last = self.slots.len() - 1;
        let gone = self.slots.swap_remove(at);
        if self.slots.is_empty() {
            *self = Self::default();
            return;
        }
        if let Some(index) = &mut self.index {
            index.by_session.remove(&gone.first().session);
            if at < last {
                let moved = &self.slots[at];
                index.by_session.insert(moved.first().session, at);
                index.weights.add(at, i128::from(moved.weight) - i128::from(gone.weight));
            }
            index.weights.pop();
        }
        if self.slots.len() * 4 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }
}

fn weight_of(interest: &Interest) -> u64 {
    u64::from(interest.weight.load(Ordering::Relaxed))
}

/// Sums of a list whose entries change: each in the logarithm of its length.
#[derive(Debug, Default)]
struct Fenwick {
    /// Entry `i` is the sum of the `lowest_bit(i + 1)` weights that end with the `i`-th.
    sums: Vec<u64>,
}

impl Fenwick {
    fn push(&mut self, weight: u64) {
        let place = self.sums.len() + 1;
        let mut sum = weight;
        let mut before = place - 1;
        while before > place - lowest_bit(place) {
            sum += self.sums[before - 1];
            before -= lowest_bit(before);
        }
        self.sums.push(sum);
    }

    fn pop(&mut self) {
        self.sums.pop();
    }

    fn add(&mut self, at: usize, change: i128) {
        let mut place = at + 1;
        while let Some(sum) = self.sums.get_mut(place - 1) {
            let changed = i128::from(*sum) + change;
            *sum = u64::try_from(changed).expect("sums of weights are not negative");
            place += lowest_bit(place);
        }
    }

    fn total(&self) -> u64 {
        let mut place = self.sums.len();
        let mut total = 0;
        while place > 0 {
            total += self.sums[place - 1];
            place -= lowest_bit(place);
        }
        total
    }

    /// In whose part of all weights in a row `offset` lies, and how far from its begin.
    fn find(&self, mut offset: u64) -> (usize, u64) {
        let mut place = 0;
        let mut step = self.sums.len().checked_ilog2().map_or(0, |log| 1 << log);
        while step > 0 {
            if let Some(sum) = self.sums.get(place + step - 1).filter(|sum| **sum <= offset) {
                offset -= sum;
                place += step;
            }
            step /= 2;
        }
        (place, offset)
    }
}

fn lowest_bit(number: usize) -> usize {
    number & number.wrapping_neg()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;
    use crate::broker::sublist::tests::interest_of;

    proptest! {
        /// Goal: whoever comes and goes, each member is drawn by exactly one number.
        #[test]
        fn every_member_is_drawn_by_one_number(
            steps in prop::collection::vec((0..30_u32, 0..100_usize, any::<bool>()), 1..200),
        ) {
            let mut group = Group::default();
            let mut model: Vec<Arc<Interest>> = Vec::new();
            for (slot, victim, is_new) in steps {
                if is_new || model.is_empty() {
                    let new = interest_of(slot, "a", Some("q"));
                    group.insert(Arc::clone(&new), 0);
                    model.push(new);
                } else {
                    let gone = model.swap_remove(victim % model.len());
                    prop_assert!(group.remove(&gone, 0));
                    prop_assert!(!group.remove(&gone, 0));
                }
                prop_assert_eq!(group.weight(), model.len() as u64);
                let drawn = (0..group.weight()).map(|number| {
                    let (at, member) = group.draw(number);
                    let member = usize::try_from(member).unwrap();
                    Arc::as_ptr(&group.slots()[at].interests()[member])
                });
                let mut drawn: Vec<_> = drawn.collect();
                let mut expected: Vec<_> = model.iter().map(Arc::as_ptr).collect();
                drawn.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(drawn, expected);
            }
            for one in &model {
                let slot = group.slot_of(one.session).unwrap();
                prop_assert!(slot.interests().iter().any(|found| Arc::ptr_eq(found, one)));
            }
        }
    }
}
