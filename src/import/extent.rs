//! From which message to which a channel reaches, and which of them no node has.

/// First and last sequence.
pub type Range = (u64, u64);

/// What a channel will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Its first message; 0 if it never had one.
    pub first: u64,
    /// Its last message.
    pub last: u64,
    /// What nobody has of it.
    pub missing: Vec<Range>,
}

impl Extent {
    /// How many messages it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        if self.last == 0 { 0 } else { self.last + 1 - self.first }
    }
}

/// What is known of a channel's messages.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Where the snapshot says that it begins; 0 if it does not.
    pub snapshot_first: u64,
    /// The last message by snapshot and log.
    pub last: u64,
    /// The first message and the last one ever of each store that has the channel.
    pub stores: Vec<Range>,
    /// What stores and log have.
    pub held: Vec<Range>,
}

/// The extent of a channel.
///
/// It begins where the oldest of the stores does, as limits let go of the oldest messages; what a
/// snapshot says was let go before it counts as gone. If all are gone the last one stays, or an
/// empty one in its place: without it the numbers would begin anew.
#[must_use]
pub fn of(known: &Known) -> Extent {
    let last = known.stores.iter().map(|(_, last)| *last).fold(known.last, u64::max);
    if last == 0 {
        return Extent::default();
    }
    let mut held: Vec<Range> =
        known.held.iter().copied().filter(|(first, last)| 0 < *first && first <= last).collect();
    held.sort_unstable();
    let in_stores = known.stores.iter().map(|(first, _)| *first).filter(|first| 0 < *first);
    // Where no store has it, nothing of it was let go of.
    let by_snapshot = Some(known.snapshot_first).filter(|first| 0 < *first);
    let oldest = in_stores.min().or(by_snapshot).or(held.first().map(|(first, _)| *first));
    let oldest = oldest.unwrap_or(1);
    let first = oldest.max(known.snapshot_first).min(last);
    let mut missing = Vec::new();
    let mut next = first;
    for (from, to) in held {
        if next < from {
            missing.push((next, (from - 1).min(last)));
        }
        next = next.max(to.saturating_add(1));
        if last < next {
            break;
        }
    }
    if next <= last {
        missing.push((next, last));
    }
    // Nothing is missing of a channel whose last message was let go.
    if missing == [(last, last)] && first == last && known.stores.iter().any(|(it, _)| last < *it) {
        missing.clear();
    }
    Extent { first, last, missing }
}

/// Who has which messages of a channel, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The store of the node whose log counts.
    pub store: Vec<Range>,
    /// Its log.
    pub log: Vec<Range>,
    /// The stores of other nodes.
    pub others: Vec<Range>,
}

impl Holders {
    /// How many messages of a channel its log has and its store has not, and how many only the
    /// stores of others have.
    #[must_use]
    pub fn from_log_and_others(&self, extent: &Extent) -> (u64, u64) {
        if extent.last == 0 {
            return (0, 0);
        }
        let not_stored = without(&[(extent.first, extent.last)], &self.store);
        let not_logged = without(&not_stored, &self.log);
        let nowhere = without(&not_logged, &self.others);
        let count = |ranges: &[Range]| ranges.iter().map(|(from, to)| to - from + 1).sum::<u64>();
        let left = count(&not_logged);
        (count(&not_stored) - left, left - count(&nowhere))
    }
}

/// What of ranges that ascend is in none of the others.
fn without(ranges: &[Range], held: &[Range]) -> Vec<Range> {
    let mut held: Vec<Range> = held.to_vec();
    held.sort_unstable();
    let mut ahead = held.into_iter().peekable();
    let (mut left, mut covered) = (Vec::new(), 0);
    for (from, to) in ranges.iter().copied() {
        let mut next = from.max(covered + 1);
        while let Some((first, last)) = ahead.next_if(|(first, _)| *first <= to) {
            if next < first {
                left.push((next, first - 1));
            }
            covered = covered.max(last);
            next = next.max(covered.saturating_add(1));
        }
        if next <= to {
            left.push((next, to));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_counted_where_it_is_found_first() {
        let holders = Holders {
            store: vec![(1, 4), (20, 25)],
            log: vec![(3, 6), (10, 12), (12, 15)],
            others: vec![(1, 30)],
        };
        let extent = |first, last| Extent { first, last, missing: Vec::new() };
        assert_eq!(holders.from_log_and_others(&extent(1, 30)), (8, 12));
        assert_eq!(holders.from_log_and_others(&extent(5, 12)), (5, 3));
        assert_eq!(holders.from_log_and_others(&extent(31, 40)), (0, 0), "nobody has them");
        assert_eq!(holders.from_log_and_others(&Extent::default()), (0, 0));
        assert_eq!(without(&[(5, 9)], &[(1, 5), (2, 3), (8, 8)]), [(6, 7), (9, 9)]);
    }

    fn extent(snapshot_first: u64, last: u64, stores: &[Range], log: &[Range]) -> Extent {
        let held = stores.iter().chain(log).copied().collect();
        of(&Known { snapshot_first, last, stores: stores.to_vec(), held })
    }

    #[test]
    fn a_channel_reaches_from_the_oldest_store_to_the_end_of_the_log() {
        let found = extent(0, 30, &[(1, 20), (5, 10)], &[(18, 30)]);
        assert_eq!(found, Extent { first: 1, last: 30, missing: vec![] });
        let found = extent(7, 30, &[(1, 30)], &[]);
        assert_eq!((found.first, found.missing), (7, vec![]), "the snapshot knows what was let go");
        assert_eq!(extent(0, 0, &[], &[]), Extent::default());
        assert_eq!(extent(0, 4, &[], &[(2, 4)]).first, 2);
    }

    #[test]
    fn what_nobody_has_is_missing() {
        let found = extent(1, 30, &[(1, 10)], &[(15, 20), (18, 25)]);
        assert_eq!(found.missing, [(11, 14), (26, 30)]);
        assert_eq!(extent(3, 5, &[], &[]).missing, [(3, 5)]);
        assert_eq!(extent(1, 30, &[], &[(21, 30)]).missing, [(1, 20)], "no store has it");
        assert_eq!(extent(1, 5, &[(1, 3)], &[(9, 9)]).missing, [(4, 5)]);
    }

    /// Goal: a channel whose messages have all expired keeps its numbers.
    #[test]
    fn of_a_channel_without_messages_the_last_number_stays() {
        let found = extent(6, 5, &[(6, 5)], &[]);
        assert_eq!(found, Extent { first: 5, last: 5, missing: vec![] });
        let found = extent(6, 5, &[(4, 5)], &[]);
        assert_eq!(found, Extent { first: 5, last: 5, missing: vec![] });
    }
}
