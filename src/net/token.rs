//! Slot and generation ↔ mio Token
//!
//! A reactor keeps its connections in a [`Table`]; a slot is used again, its generation is not,
//! so that an event or an effect for a connection that is gone finds nobody.

use mio::Token;

use crate::base::id::{LoopIndex, SessionId};

/// The mailbox of the reactor.
pub const MAILBOX: Token = Token(usize::MAX);
/// The listener for clients.
pub const CLIENT_LISTENER: Token = Token(usize::MAX - 1);
/// The listener for routes.
pub const ROUTE_LISTENER: Token = Token(usize::MAX - 2);

/// Most slots of one table; above it lie the tokens with a meaning of their own.
const SLOTS_MAX: usize = 0xFFFF_0000;

const _: () = assert!(usize::BITS == 64, "slot and generation share one machine word");

/// Where a connection is, and which use of that place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index of the slot.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

impl Place {
    /// The token by which `mio` names it.
    #[must_use]
    pub fn token(self) -> Token {
        Token((self.generation as usize) << 32 | self.slot as usize)
    }

    /// The place that `token` names; not for the tokens with a meaning of their own.
    #[must_use]
    pub fn from_token(token: Token) -> Self {
        let [a, b, c, d, e, f, g, h] = token.0.to_be_bytes();
        Self {
            generation: u32::from_be_bytes([a, b, c, d]),
            slot: u32::from_be_bytes([e, f, g, h]),
        }
    }

    /// The session of the connection at this place of loop `home`.
    #[must_use]
    pub fn session(self, home: LoopIndex) -> SessionId {
        SessionId { home, slot: self.slot, generation: self.generation }
    }
}

impl From<SessionId> for Place {
    fn from(session: SessionId) -> Self {
        Self { slot: session.slot, generation: session.generation }
    }
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Values at places; a place is found in constant time, or found to be gone.
#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Puts `value` at a free place.
    ///
    /// # Panics
    /// With more than four billion values, which no system's descriptors allow.
    pub fn insert(&mut self, value: T) -> Place {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.entries[slot as usize];
            assert!(entry.value.is_none(), "slot {slot} is free");
            entry.value = Some(value);
            return Place { slot, generation: entry.generation };
        }
        assert!(self.entries.len() < SLOTS_MAX, "more connections than slots");
        let slot = u32::try_from(self.entries.len()).expect("compared with the bound");
        self.entries.push(Entry { generation: 1, value: Some(value) });
        Place { slot, generation: 1 }
    }

    /// The value at `place`, if it is still there.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        let entry = self.entries.get_mut(place.slot as usize)?;
        if entry.generation != place.generation {
            return None;
        }
        entry.value.as_mut()
    }

    /// Takes the value away; its place is used again under another generation.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let entry = self.entries.get_mut(place.slot as usize)?;
        if entry.generation != place.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(place.slot);
        Some(value)
    }

    /// All places in use, by slot.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let used = self.entries.iter().zip(0..).filter(|(entry, _)| entry.value.is_some());
        used.map(|(entry, slot)| Place { slot, generation: entry.generation }).collect()
    }

    /// How many places are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether no place is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_place_survives_its_way_through_a_token() {
        let place = Place { slot: 7, generation: u32::MAX };
        assert_eq!(Place::from_token(place.token()), place);
        assert_eq!(Place::from(place.session(LoopIndex(3))), place);
    }

    #[test]
    fn no_place_has_the_token_of_a_listener_or_mailbox() {
        let last = Place { slot: u32::try_from(SLOTS_MAX).unwrap() - 1, generation: u32::MAX };
        assert!(last.token() < ROUTE_LISTENER);
        assert!(ROUTE_LISTENER < CLIENT_LISTENER && CLIENT_LISTENER < MAILBOX);
    }

    #[test]
    fn a_slot_is_used_again_and_its_old_name_finds_nobody() {
        let mut table = Table::default();
        let first = table.insert("first");
        let other = table.insert("other");
        assert_eq!(table.remove(first), Some("first"));
        assert_eq!(table.remove(first), None);
        let second = table.insert("second");
        assert_eq!(second.slot, first.slot);
        assert!(table.get_mut(first).is_none());
        assert_eq!(table.get_mut(second), Some(&mut "second"));
        assert_eq!(table.places(), vec![second, other]);
        assert_eq!(table.len(), 2);
    }
}
