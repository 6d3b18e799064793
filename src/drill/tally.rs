//! How often something happened in each stretch of time, in bounded memory however long it goes on.

use std::time::Duration;

/// Stretches at most; there are as many more as a plot has points that none of them is uneven.
const STRETCHES_MAX: usize = 65_536;

/// How long the first stretches are: the shortest that a plot shows.
const FIRST_NANOS: u64 = 20_000_000;

/// Counts by stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    nanos: u64,
    counts: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { nanos: FIRST_NANOS, counts: Vec::new() }
    }
}

impl Tally {
    /// Counts one that happened so long after the beginning.
    pub(crate) fn add(&mut self, since: Duration) {
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        while STRETCHES_MAX as u64 <= nanos / self.nanos {
            // Each stretch is as long as two were.
            let halved = self.counts.chunks(2).map(|two| two.iter().sum()).collect();
            (self.nanos, self.counts) = (self.nanos * 2, halved);
        }
        let place = usize::try_from(nanos / self.nanos).unwrap_or(STRETCHES_MAX - 1);
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
    }

    /// When each stretch begins, and how many there were in it.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (Duration, u64)> {
        let begins = (0_u64..).map(|place| Duration::from_nanos(place * self.nanos));
        begins.zip(self.counts.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_of_days_takes_no_more_room_than_one_of_minutes() {
        let mut tally = Tally::default();
        for second in 0..1_000_000 {
            tally.add(Duration::from_secs(second));
        }
        assert!(tally.counts.len() <= STRETCHES_MAX);
        let counted: u64 = tally.stretches().map(|(_, count)| count).sum();
        assert_eq!(counted, 1_000_000);
        let first = Duration::from_secs(10);
        let early: u64 =
            tally.stretches().take_while(|(begin, _)| *begin < first).map(|(_, count)| count).sum();
        assert!((5..=40).contains(&early), "{early}");
        tally.add(Duration::MAX);
        assert!(tally.counts.len() <= STRETCHES_MAX);
    }
}
