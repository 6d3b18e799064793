//! Wires in memory: messages travel with delays, in order between two ends.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::base::id::Subject;
use crate::base::random::Random;
use crate::base::time::Instant;

/// One end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A member of the group, by number.
    Member(usize),
    /// A client program, by number.
    Client(usize),
}

/// One message on its way.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Where to.
    pub subject: Subject,
    /// Where an answer goes.
    pub reply: Option<Subject>,
    /// What.
    pub payload: Bytes,
}

/// All wires of a simulated group.
#[derive(Debug, Default)]
pub struct Bus {
    wires: BTreeMap<(End, End), VecDeque<(Instant, Parcel)>>,
}

/// Longest way of a message.
const DELAY_MAX: Duration = Duration::from_millis(4);

impl Bus {
    /// Sends `parcel`; it arrives after a random time, never before what went the same way earlier.
    pub fn send(&mut self, way: (End, End), parcel: Parcel, now: Instant, random: &mut Random) {
        let delay_max = u64::try_from(DELAY_MAX.as_nanos()).unwrap_or(u64::MAX);
        let at = now + Duration::from_nanos(random.below(delay_max));
        let wire = self.wires.entry(way).or_default();
        let at = wire.back().map_or(at, |(last, _)| at.max(*last));
        wire.push_back((at, parcel));
    }

    /// Takes out one message that has arrived, from a wire chosen by `random`.
    pub fn arrived(&mut self, now: Instant, random: &mut Random) -> Option<(End, End, Parcel)> {
        let is_due = |wire: &VecDeque<(Instant, Parcel)>| wire.front().is_some_and(|(t, _)| *t <= now);
        let due: Vec<(End, End)> =
            self.wires.iter().filter(|(_, wire)| is_due(wire)).map(|(way, _)| *way).collect();
        if due.is_empty() {
            return None;
        }
        let choice = random.below(u64::try_from(due.len()).unwrap_or(1));
        let way = due[usize::try_from(choice).unwrap_or(0)];
        let (_, parcel) = self.wires.get_mut(&way)?.pop_front()?;
        Some((way.0, way.1, parcel))
    }

    /// When the next message arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        self.wires.values().filter_map(|wire| wire.front().map(|(at, _)| *at)).min()
    }

    /// Loses everything that is on its way from or to `end`.
    pub fn cut(&mut self, end: End) {
        self.wires.retain(|(from, to), _| *from != end && *to != end);
    }
}
