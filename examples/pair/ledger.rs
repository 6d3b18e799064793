//! What clients were told, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stanby::base::time::{Instant, Now};
use stanby::client::Message;

/// How far an ack that only just left may be from the second copy, or from the moment in which the
/// active was ended or paused: when its successor stores the copy depends on the machine.
const JUST: Duration = Duration::from_secs(1);

/// One message that was published.
#[derive(Clone, Debug)]
pub struct Published {
    /// When.
    pub sent_at: Instant,
    /// When its ack came, if one came.
    pub acked_at: Option<Instant>,
}

/// What one reader of a channel (a durable, a queue group, the replay at the end) got.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Content and timestamp by sequence.
    by_sequence: BTreeMap<u64, (Vec<u8>, i64)>,
    /// What came with another content under a sequence that was there before.
    conflicts: u64,
}

impl Received {
    /// Notes a message.
    pub fn note(&mut self, message: &Message) {
        let content = (message.data.to_vec(), message.timestamp);
        match self.by_sequence.get(&message.sequence) {
            Some(found) => self.conflicts += u64::from(*found != content),
            None => drop(self.by_sequence.insert(message.sequence, content)),
        }
    }

    /// Different sequences that came.
    pub fn count(&self) -> usize {
        self.by_sequence.len()
    }
}

/// Everything that clients were told.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// By channel and content, which is unique.
    pub published: BTreeMap<(usize, String), Published>,
    /// By channel: what the store holds at the end.
    pub stored: Vec<Received>,
    /// By channel and reader.
    pub readers: BTreeMap<(usize, String), Received>,
    /// Each kill, in order.
    pub kills: Vec<Kill>,
    /// When the active was paused for longer than it may be silent.
    pub pauses: Vec<Instant>,
    /// Acks that came.
    pub ack_count: usize,
}

/// One kill of the active.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// When the signal had been sent.
    pub at: Instant,
    /// When the first ack of a message that was published after it came.
    pub first_ack: Option<Instant>,
}

/// What is wrong; all of it should be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Acknowledged and not stored.
    pub lost: usize,
    /// Stored once more although it had long been acknowledged. What an active had stored and not
    /// acknowledged when it ended, or only just, its successor may store again.
    pub doubled: usize,
    /// Stored, but never published.
    pub strange: usize,
    /// Sequences that the store should have and has not.
    pub holes: usize,
    /// Messages older than their predecessor.
    pub falling_timestamps: usize,
    /// Sequences under which a reader saw something else than is stored.
    pub conflicts: u64,
    /// Stored messages that a durable or a queue group never got.
    pub undelivered: usize,
}

impl Faults {
    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Ledger {
    /// Notes the ack of a published message. Nothing is searched for here: the time from kill to
    /// ack must not hang on how much was published before.
    pub fn acked(&mut self, key: &(usize, String), now: Instant) {
        let Some(published) = self.published.get_mut(key) else { return };
        published.acked_at = Some(now);
        self.ack_count += 1;
        if let Some(kill) = self.kills.last_mut().filter(|kill| published.sent_at >= kill.at) {
            kill.first_ack.get_or_insert(now);
        }
    }

    /// How long it took from each kill to the first ack, where one came.
    pub fn first_acks(&self) -> Vec<Duration> {
        let times = self.kills.iter().map(|kill| Some(kill.first_ack?.since(kill.at)));
        times.flatten().collect()
    }

    /// Everything that is wrong; `now` says how the clocks of acks and of messages differ.
    pub fn faults(&self, now: Now) -> Faults {
        let stored = self.stored_contents();
        let acked = self.published.iter().filter(|(_, one)| one.acked_at.is_some());
        let mut faults = Faults {
            lost: acked.filter(|(key, _)| !stored.contains_key(*key)).count(),
            doubled: self.doubled(now),
            strange: stored.keys().filter(|key| !self.published.contains_key(*key)).count(),
            ..Faults::default()
        };
        for channel in &self.stored {
            faults.conflicts += channel.conflicts;
            let last = channel.by_sequence.last_key_value().map_or(0, |(last, _)| *last);
            let holes = usize::try_from(last).unwrap_or(usize::MAX) - channel.by_sequence.len();
            faults.holes += holes;
            let times: Vec<i64> = channel.by_sequence.values().map(|(_, time)| *time).collect();
            faults.falling_timestamps += times.windows(2).filter(|two| two[1] < two[0]).count();
        }
        for ((channel, _), reader) in &self.readers {
            let stored = &self.stored[*channel].by_sequence;
            faults.conflicts += reader.conflicts;
            let seen = reader.by_sequence.iter();
            let differs = seen.filter(|(sequence, content)| stored.get(sequence) != Some(content));
            faults.conflicts += u64::try_from(differs.count()).unwrap_or(u64::MAX);
            let got: BTreeSet<&u64> = reader.by_sequence.keys().collect();
            faults.undelivered += stored.keys().filter(|sequence| !got.contains(sequence)).count();
        }
        faults
    }

    /// Messages that were stored again although their publisher had its ack.
    fn doubled(&self, now: Now) -> usize {
        let wall_of = |at: Instant| {
            let ago = i64::try_from(now.at.since(at).as_nanos()).unwrap_or(i64::MAX);
            now.wall.0.saturating_sub(ago)
        };
        let just = i64::try_from(JUST.as_nanos()).unwrap_or(i64::MAX);
        let stops = self.kills.iter().map(|kill| kill.at).chain(self.pauses.iter().copied());
        let stops: Vec<i64> = stops.map(wall_of).collect();
        let mut doubled = 0;
        for (channel, received) in self.stored.iter().enumerate() {
            let mut seen = BTreeSet::new();
            for (data, stored_at) in received.by_sequence.values() {
                let content = String::from_utf8_lossy(data).into_owned();
                let key = (channel, content);
                let acked_at = self.published.get(&key).and_then(|one| one.acked_at);
                let was_acked = acked_at.map(wall_of).is_some_and(|acked_at| {
                    let only_just = |stop: &i64| {
                        *stop <= *stored_at && acked_at.abs_diff(*stop) <= just.unsigned_abs()
                    };
                    acked_at.saturating_add(just) < *stored_at && !stops.iter().any(only_just)
                });
                doubled += usize::from(!seen.insert(key) && was_acked);
            }
        }
        doubled
    }

    /// How often each content is stored in each channel.
    fn stored_contents(&self) -> BTreeMap<(usize, String), usize> {
        let mut contents = BTreeMap::new();
        for (channel, received) in self.stored.iter().enumerate() {
            for (data, _) in received.by_sequence.values() {
                let content = String::from_utf8_lossy(data).into_owned();
                *contents.entry((channel, content)).or_insert(0) += 1;
            }
        }
        contents
    }
}

#[cfg(test)]
mod tests {
    use stanby::base::time::WallTime;

    use super::*;

    fn received(contents: &[(u64, &str, i64)]) -> Received {
        let entries = contents
            .iter()
            .map(|(sequence, content, time)| (*sequence, (content.as_bytes().to_vec(), *time)));
        Received { by_sequence: entries.collect(), conflicts: 0 }
    }

    /// Three acknowledged messages, stored in order and seen by one durable.
    fn sound() -> Ledger {
        let all = received(&[(1, "a", 10), (2, "b", 10), (3, "c", 11)]);
        let mut ledger = Ledger { stored: vec![all.clone()], ..Ledger::default() };
        ledger.readers.insert((0, "durable".to_owned()), all);
        ledger.kills = vec![Kill { at: Instant(50), first_ack: None }];
        for (content, sent_at) in [("a", 10), ("b", 60), ("c", 70)] {
            let published = Published { sent_at: Instant(sent_at), acked_at: None };
            let key = (0, content.to_owned());
            ledger.published.insert(key.clone(), published);
            ledger.acked(&key, Instant(sent_at + 100));
        }
        ledger
    }

    #[test]
    fn a_sound_run_has_no_faults() {
        let ledger = sound();
        assert_eq!(ledger.faults(Now::default()), Faults::default());
        assert_eq!(ledger.first_acks(), [Duration::from_nanos(110)]);
    }

    #[test]
    fn what_was_not_acked_may_be_stored_again() {
        let mut ledger = sound();
        ledger.stored[0] = received(&[(1, "a", 10), (2, "b", 10), (3, "c", 11), (4, "a", 300)]);
        assert_eq!(ledger.faults(Now::default()).doubled, 0);
    }

    /// However long its successor takes.
    #[test]
    fn what_was_acked_just_before_a_pause_may_be_stored_again() {
        let late: i64 = 60_000_000_000;
        let doubled = |paused_at: &[u64]| {
            let mut ledger = sound();
            ledger.kills.clear();
            ledger.pauses = paused_at.iter().copied().map(Instant).collect();
            ledger.stored[0] =
                received(&[(1, "a", 10), (2, "b", 10), (3, "c", 11), (4, "a", late)]);
            ledger.faults(Now { at: Instant(late.unsigned_abs()), wall: WallTime(late) }).doubled
        };
        assert_eq!(doubled(&[]), 1);
        assert_eq!(doubled(&[500_000_000]), 0);
        assert_eq!(doubled(&[2_000_000_000]), 1, "it was acknowledged long before");
        assert_eq!(doubled(&[70_000_000_000]), 1, "it was stored again before");
    }

    #[test]
    fn every_kind_of_fault_is_seen() {
        let mut ledger = sound();
        let late: i64 = 2_000_000_000;
        // It excuses no copy that was stored before it.
        ledger.kills[0].at = Instant(late.unsigned_abs() * 2);
        let now = Now { at: Instant(late.unsigned_abs() * 3), wall: WallTime(late * 3) };
        ledger.stored[0] = received(&[(1, "a", late + 1), (2, "a", late), (4, "x", late + 2)]);
        let expected = Faults {
            lost: 2,
            doubled: 1,
            strange: 1,
            holes: 1,
            falling_timestamps: 1,
            // Twice another message, and once another time.
            conflicts: 3,
            undelivered: 1,
        };
        assert_eq!(ledger.faults(now), expected);
    }
}
