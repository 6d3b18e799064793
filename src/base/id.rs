//! Newtypes: ClientId, ChannelName, Subject, Sequence, SubscriptionId, Ticket, LoopIndex …

use std::borrow::Borrow;
use std::fmt;

use bytes::Bytes;

/// Defines a name that is a shared byte string: cheap to clone, ordered, not necessarily UTF-8.
macro_rules! byte_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Bytes);

        impl $name {
            /// The bytes of the name.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// The bytes, shared with this name.
            #[must_use]
            pub fn to_bytes(&self) -> Bytes {
                self.0.clone()
            }

            /// A copy of its own, so that the name does not keep a read buffer alive.
            #[must_use]
            pub fn detached(&self) -> Self {
                Self(Bytes::copy_from_slice(&self.0))
            }

            /// Whether the name has no byte at all.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl From<Bytes> for $name {
            fn from(bytes: Bytes) -> Self {
                Self(bytes)
            }
        }

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                Self(Bytes::copy_from_slice(bytes))
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Bytes::copy_from_slice(text.as_bytes()))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Bytes::from(text))
            }
        }

        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&String::from_utf8_lossy(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", String::from_utf8_lossy(&self.0))
            }
        }
    };
}

byte_name! {
    /// The ID of a streaming client: `[a-zA-Z0-9_-]+` (spec: protocol, 6.1).
    ClientId
}
byte_name! {
    /// What a client chose to tell this connection of its from others (`connID`); may be empty.
    ConnectionId
}
byte_name! {
    /// The name of a streaming channel; any bytes that spec protocol 16.1 allows.
    ChannelName
}
byte_name! {
    /// A core NATS subject, with or without wildcards.
    Subject
}
byte_name! {
    /// The name of a streaming queue group; of a durable one `<durable>:<group>`.
    QueueGroupName
}
byte_name! {
    /// The name of a durable subscription.
    DurableName
}

impl ChannelName {
    /// The name in lower case, as the rule against names that differ only by case compares it.
    // Compat: as Go's `strings.ToLower`: one letter for each, whatever is beside it, and U+FFFD for
    // each byte that is no UTF-8; pinned by names_are_folded_as_by_the_reference.
    #[must_use]
    pub fn case_folded(&self) -> Bytes {
        if self.0.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
            return self.0.clone();
        }
        let mut folded = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            // The first of what a letter becomes: only U+0130 becomes more than one.
            folded.extend(chunk.valid().chars().filter_map(|letter| letter.to_lowercase().next()));
            folded.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        }
        Bytes::from(folded)
    }
}

/// The place of a message in its channel; the first is 1, 0 stands for "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// No message: what comes before the first.
    pub const ZERO: Self = Self(0);

    /// The number as stored.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before this; of 0 it is 0.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a subscription: unique within its channel (SQL: within the database).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a commit of one engine; grows by one with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which event loop; the reactor of that number drives the engine of that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoopIndex(pub u16);

impl LoopIndex {
    /// As an index into a table of loops.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Which account a subject belongs to: a place in the broker's table of accounts. Subjects of two
/// accounts are two subjects, however alike they look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountIndex(pub u16);

impl AccountIndex {
    /// The account of everybody who is given no other.
    pub const GLOBAL: Self = Self(0);

    /// As an index into a table of accounts.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One connection's session: its loop, its slot there, and a generation that tells reuses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The loop that owns the connection for its whole life.
    pub home: LoopIndex,
    /// Index of its slot in that loop's table.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_as_by_the_reference() {
        for (name, folded) in [
            ("orders.Eu", "orders.eu"),
            // No final sigma, and one letter for one.
            ("\u{39f}\u{394}\u{39f}\u{3a3}", "\u{3bf}\u{3b4}\u{3bf}\u{3c3}"),
            ("\u{130}q", "iq"),
            ("Stra\u{df}e \u{1e9e}", "stra\u{df}e \u{df}"),
            ("\u{212a}\u{1c5}\u{2167}", "k\u{1c6}\u{2177}"),
        ] {
            assert_eq!(ChannelName::from(name).case_folded(), folded, "{name}");
        }
        for (name, folded) in [
            (&b"\xff\xfe"[..], "\u{fffd}\u{fffd}"),
            (b"A\xe2\x82b", "a\u{fffd}\u{fffd}b"),
            (b"\xf0\x9f\x98", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            let name = ChannelName::from(Bytes::copy_from_slice(name));
            assert_eq!(name.case_folded(), folded, "{name:?}");
        }
    }
}
