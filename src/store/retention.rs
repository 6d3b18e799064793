//! Count, size and age limits as a pure function: what must go.
//!
//! Facts: spec stores, 5.7 and 9.5. The newest message is never dropped for count or size, even if
//! it alone is above the limit; age takes that one too.

use crate::base::channel_limits::ChannelLimits;
use crate::base::time::WallTime;

/// The bytes that a message counts for, beside its encoded form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accounting {
    /// Added to the length of each encoded message.
    pub overhead_bytes: u64,
}

impl Accounting {
    /// Memory and SQL count the encoded message alone (spec stores, 2.3).
    pub const ENCODED: Self = Self { overhead_bytes: 0 };
    /// Files also count the record header (8) and the index record (32).
    pub const FILE: Self = Self { overhead_bytes: 40 };

    /// What a message of `encoded_len` bytes counts for.
    #[must_use]
    pub fn size(self, encoded_len: usize) -> u64 {
        u64::try_from(encoded_len).unwrap_or(u64::MAX).saturating_add(self.overhead_bytes)
    }
}

/// What a channel holds, as far as limits care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Messages.
    pub message_count: u64,
    /// Their accounted bytes.
    pub byte_count: u64,
}

/// How many of the oldest messages must go for count and size, given their accounted sizes,
/// oldest first; `sizes` is read no further than it must be.
pub fn excess(limits: &ChannelLimits, held: Held, sizes: impl IntoIterator<Item = u64>) -> u64 {
    let mut left = held;
    let mut dropped = 0;
    let mut sizes = sizes.into_iter();
    while is_over(limits, left) {
        let Some(size) = sizes.next() else {
            break;
        };
        left.message_count -= 1;
        left.byte_count = left.byte_count.saturating_sub(size);
        dropped += 1;
    }
    dropped
}

/// Whether the oldest message must go for count or size.
#[must_use]
pub fn is_over(limits: &ChannelLimits, held: Held) -> bool {
    held.message_count > 1
        && ((limits.messages_max > 0 && held.message_count > limits.messages_max)
            || (limits.bytes_max > 0 && held.byte_count > limits.bytes_max))
}

/// When a message of `timestamp` expires; `None` = never.
#[must_use]
pub fn expires_at(limits: &ChannelLimits, timestamp: WallTime) -> Option<WallTime> {
    (!limits.age_max.is_zero()).then(|| timestamp + limits.age_max)
}

/// Whether a message of `timestamp` is too old at `now`.
#[must_use]
pub fn is_expired(limits: &ChannelLimits, timestamp: WallTime, now: WallTime) -> bool {
    expires_at(limits, timestamp).is_some_and(|at| at <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(messages_max: u64, bytes_max: u64) -> ChannelLimits {
        ChannelLimits {
            messages_max,
            bytes_max,
            age_max: Duration::from_nanos(10),
            subscriptions_max: 0,
            inactivity_max: Duration::ZERO,
        }
    }

    fn check(limits: &ChannelLimits, sizes: &[u64], expected: u64) {
        let message_count = u64::try_from(sizes.len()).expect("a few");
        let held = Held { message_count, byte_count: sizes.iter().sum() };
        assert_eq!(excess(limits, held, sizes.iter().copied()), expected, "{limits:?} {sizes:?}");
    }

    #[test]
    fn the_oldest_go_until_count_and_size_fit() {
        check(&limits(0, 0), &[5, 5, 5], 0);
        check(&limits(3, 0), &[5, 5, 5], 0);
        check(&limits(2, 0), &[5, 5, 5], 1);
        check(&limits(0, 15), &[5, 5, 5], 0);
        check(&limits(0, 14), &[5, 5, 5], 1);
        check(&limits(2, 5), &[5, 5, 5], 2);
    }

    #[test]
    fn the_newest_stays_whatever_its_size() {
        check(&limits(0, 4), &[5], 0);
        check(&limits(1, 4), &[1, 1, 5], 2);
    }

    #[test]
    fn a_message_expires_at_its_age() {
        assert!(!is_expired(&limits(0, 0), WallTime(100), WallTime(109)));
        assert!(is_expired(&limits(0, 0), WallTime(100), WallTime(110)));
        let endless = ChannelLimits { age_max: Duration::ZERO, ..limits(0, 0) };
        assert!(!is_expired(&endless, WallTime(100), WallTime(i64::MAX)));
    }

    #[test]
    fn files_count_forty_bytes_more() {
        assert_eq!(Accounting::ENCODED.size(7), 7);
        assert_eq!(Accounting::FILE.size(7), 47);
    }
}
