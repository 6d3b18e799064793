//! Lines that every store logs in the reference's words

use std::fmt::Display;

use crate::base::channel_limits::ChannelLimits;
use crate::store::retention::Held;

/// Says that a channel has reached its limits, of which it holds `held` now.
pub fn limits_reached(channel: &dyn Display, held: Held, limits: &ChannelLimits) {
    log::warn!(
        "Reached limits for store \"{channel}\" (msgs={}/{} bytes={}/{}), dropping old messages to \
         make room for new ones",
        held.message_count,
        limits.messages_max,
        friendly_bytes(held.byte_count),
        friendly_bytes(limits.bytes_max),
    );
}

/// A size as the reference prints it (spec stores, 9.6).
fn friendly_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10).min(6);
    let unit = UNITS.get(usize::try_from(exponent - 1).unwrap_or(0)).unwrap_or(&"EB");
    // Exact to two decimals for any size: the remainder is below the divisor.
    let divisor = 1_u128 << (10 * exponent);
    let hundredths = (u128::from(bytes) * 100 + divisor / 2) / divisor;
    format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_the_reference_does() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KB"),
            (1_024_000_000, "976.56 MB"),
            (u64::MAX, "16.00 EB"),
        ] {
            assert_eq!(friendly_bytes(bytes), expected);
        }
    }
}
