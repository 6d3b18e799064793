//! Values by sequence, where sequences come at the end and go near the front
//!
//! What was sent to a subscription and not acknowledged is like that. So the values lie in a
//! queue; one that is taken out of its middle leaves a gap, and gaps are swept out when they are
//! many: at most about twice the places that there are values.

use std::collections::VecDeque;

use crate::base::id::Sequence;

/// Gaps that may lie in the queue whatever its length.
const GAPS_MIN: usize = 32;

/// Places that an empty queue keeps.
const EMPTY_CAPACITY_MAX: usize = 64;

/// A map from sequences to small values, in the order of the sequences.
#[derive(Clone, Debug)]
pub struct SequenceMap<V> {
    /// Ascending; a gap is neither the first place nor the last.
    places: VecDeque<(Sequence, Option<V>)>,
    len: usize,
}

impl<V> Default for SequenceMap<V> {
    fn default() -> Self {
        Self { places: VecDeque::new(), len: 0 }
    }
}

impl<V> SequenceMap<V> {
    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the value of a sequence.
    pub fn insert(&mut self, sequence: Sequence, value: V) {
        match self.find(sequence) {
            Ok(at) => self.len += usize::from(self.places[at].1.replace(value).is_none()),
            Err(at) if at == self.places.len() => {
                self.places.push_back((sequence, Some(value)));
                self.len += 1;
            }
            Err(at) => {
                self.places.insert(at, (sequence, Some(value)));
                self.len += 1;
            }
        }
    }

    /// Whether a sequence has a value.
    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.find(sequence).is_ok_and(|at| self.places[at].1.is_some())
    }

    /// The value of a sequence.
    pub fn get_mut(&mut self, sequence: Sequence) -> Option<&mut V> {
        let at = self.find(sequence).ok()?;
        self.places[at].1.as_mut()
    }

    /// Takes the value of a sequence out.
    pub fn remove(&mut self, sequence: Sequence) -> Option<V> {
        let at = self.find(sequence).ok()?;
        let value = self.places[at].1.take()?;
        self.len -= 1;
        self.sweep();
        Some(value)
    }

    /// The sequences that have a value, ascending, with it.
    pub fn iter(&self) -> impl Iterator<Item = (Sequence, &V)> {
        self.places.iter().filter_map(|(sequence, value)| Some((*sequence, value.as_ref()?)))
    }

    /// The sequences that have a value, ascending.
    pub fn sequences(&self) -> impl Iterator<Item = Sequence> {
        self.iter().map(|(sequence, _)| sequence)
    }

    /// Where a sequence is, or where it would be.
    fn find(&self, sequence: Sequence) -> Result<usize, usize> {
        let (Some((first, _)), Some((last, _))) = (self.places.front(), self.places.back()) else {
            return Err(0);
        };
        if *last < sequence {
            return Err(self.places.len());
        }
        // Where none is left out, this is the place.
        if let Ok(guess) = usize::try_from(sequence.0.wrapping_sub(first.0))
            && self.places.get(guess).is_some_and(|(found, _)| *found == sequence)
        {
            return Ok(guess);
        }
        self.places.binary_search_by_key(&sequence, |(found, _)| *found)
    }

    fn sweep(&mut self) {
        while self.places.front().is_some_and(|(_, value)| value.is_none()) {
            self.places.pop_front();
        }
        while self.places.back().is_some_and(|(_, value)| value.is_none()) {
            self.places.pop_back();
        }
        if 2 * self.len + GAPS_MIN < self.places.len() {
            self.places.retain(|(_, value)| value.is_some());
        }
        if self.places.is_empty() && EMPTY_CAPACITY_MAX < self.places.capacity() {
            self.places = VecDeque::new();
        }
    }
}

impl<V> FromIterator<(Sequence, V)> for SequenceMap<V> {
    fn from_iter<I: IntoIterator<Item = (Sequence, V)>>(values: I) -> Self {
        let mut map = Self::default();
        values.into_iter().for_each(|(sequence, value)| map.insert(sequence, value));
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::random::Random;

    /// Goal: it is a map, whatever comes and goes in which order, and gaps stay few.
    #[test]
    fn it_does_what_a_tree_does() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let (mut map, mut model) = (SequenceMap::default(), BTreeMap::new());
            let mut next = 1;
            for step in 0..2_000 {
                let any = Sequence(1 + random.below(next));
                match random.below(10) {
                    0..4 => {
                        next += 1 + random.below(2);
                        map.insert(Sequence(next), step);
                        model.insert(Sequence(next), step);
                    }
                    4 => {
                        map.insert(any, step);
                        model.insert(any, step);
                    }
                    5 => assert_eq!(map.get_mut(any), model.get_mut(&any)),
                    6 if seed % 2 == 0 => {
                        let first = model.keys().next().copied().unwrap_or(any);
                        assert_eq!(map.remove(first), model.remove(&first));
                    }
                    _ => assert_eq!(map.remove(any), model.remove(&any)),
                }
                assert_eq!(map.contains(any), model.contains_key(&any));
                assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
                assert!(map.places.len() <= 2 * model.len() + GAPS_MIN);
            }
            assert!(map.iter().eq(model.iter().map(|(sequence, value)| (*sequence, value))));
            let again: SequenceMap<_> = model.clone().into_iter().collect();
            assert!(again.sequences().eq(model.into_keys()));
        }
    }
}
