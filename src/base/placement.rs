//! Which loop a channel or a client belongs to: by hash of its name.

use crate::base::id::{ChannelName, ClientId, LoopIndex};

/// The loop of a channel, by its case-folded name: names that differ only by case are refused, so
/// they must meet in one place.
#[must_use]
pub fn of_channel(channel: &ChannelName, loops: u16) -> LoopIndex {
    if loops <= 1 {
        return LoopIndex(0);
    }
    of_bytes(&channel.case_folded(), loops)
}

/// The home loop of a client: the only writer of its record.
#[must_use]
pub fn of_client(client: &ClientId, loops: u16) -> LoopIndex {
    of_bytes(client.as_bytes(), loops)
}

fn of_bytes(bytes: &[u8], loops: u16) -> LoopIndex {
    let hash = crc32fast::hash(bytes);
    let index = hash % u32::from(loops.max(1));
    LoopIndex(u16::try_from(index).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_only_by_case_meet_in_one_place() {
        for loops in 1..8 {
            let lower = of_channel(&ChannelName::from("orders.été"), loops);
            assert_eq!(lower, of_channel(&ChannelName::from("Orders.ÉTÉ"), loops));
            assert!(lower.0 < loops);
        }
    }
}
