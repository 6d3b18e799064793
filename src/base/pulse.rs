//! Signs of progress of the threads that work, so that one that hangs is seen by all others.
//!
//! Each thread has a pulse of its own and beats where it gets on; whoever watches looks again and
//! again, and compares the time of the last beat with the bound. A thread that waits for work
//! rests, and cannot hang.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::time::Instant;

/// No thread works here.
const OFF: u64 = 0;
/// The thread waits for work.
const RESTING: u64 = 1;
/// The thread got on since anybody looked: whoever looks next notes the time, so that a thread that
/// beats often need not read a clock.
const FRESH: u64 = u64::MAX;

/// When one thread got on last.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// The thread got on at `now`, and goes on working.
    pub fn beat(&self, now: Instant) {
        self.0.store(now.0.max(RESTING + 1), Ordering::Relaxed);
    }

    /// The thread got on, and goes on working.
    pub fn touch(&self) {
        self.0.store(FRESH, Ordering::Relaxed);
    }

    /// The thread waits for work.
    pub fn rest(&self) {
        self.0.store(RESTING, Ordering::Relaxed);
    }

    /// Work comes to a thread that rests: it has to get on from now. Call this before the work
    /// arrives.
    pub fn expect(&self) {
        // A thread that works or is not there is left alone.
        let _ = self.0.compare_exchange(RESTING, FRESH, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The thread has ended.
    pub fn end(&self) {
        self.0.store(OFF, Ordering::Release);
    }

    /// Whether a thread works here, or waits for work.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire) != OFF
    }

    /// Since when it has not got on, as far as anybody has looked, if that is at least `bound` ago.
    #[must_use]
    pub fn stalled_since(&self, now: Instant, bound: Duration) -> Option<Instant> {
        let mut beat_at = self.0.load(Ordering::Relaxed);
        if beat_at == FRESH {
            beat_at = now.0.max(RESTING + 1);
            // If it has got on since, that is no stall either.
            let _ = self.0.compare_exchange(FRESH, beat_at, Ordering::Relaxed, Ordering::Relaxed);
        }
        let is_stalled = RESTING < beat_at && bound <= now.since(Instant(beat_at));
        is_stalled.then_some(Instant(beat_at))
    }
}

/// Wakes all loops.
#[derive(Clone)]
struct Knock(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Knock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Knock")
    }
}

/// The pulses of all threads that a service needs, and how long one may go without a beat.
#[derive(Clone, Debug)]
pub struct Vitals {
    loops: Vec<Arc<Pulse>>,
    stores: Vec<Arc<Pulse>>,
    opening: Arc<Pulse>,
    knock: Option<Knock>,
    bound: Duration,
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new(Vec::new(), Duration::MAX)
    }
}

/// Something that has not got on for longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// What it is.
    pub what: Stalled,
    /// Since when.
    pub since: Instant,
    /// How long that is.
    pub lasts: Duration,
}

/// What can hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// The event loop of this number: a fault of this process.
    Loop(usize),
    /// The store of the loop of this number: as a rule its disk or database.
    Store(usize),
    /// The opening of the store.
    Opening,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop(number) => write!(f, "event loop {number} hangs"),
            Self::Store(number) => write!(
                f,
                "the store of event loop {number} makes no progress: its disk or database does not \
                 answer"
            ),
            Self::Opening => f.write_str(
                "the opening of the store makes no progress: its disk or database does not answer",
            ),
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, for {} s", self.what, self.lasts.as_secs())
    }
}

impl Vitals {
    /// Of as many loops as there are pulses, each with a store; none may go without a beat for
    /// `bound`.
    #[must_use]
    pub fn new(loops: Vec<Arc<Pulse>>, bound: Duration) -> Self {
        let stores = loops.iter().map(|_| Arc::default()).collect();
        Self { loops, stores, opening: Arc::default(), knock: None, bound }
    }

    /// With a way to wake all loops, so that one that never wakes is noticed too.
    #[must_use]
    pub fn knocking(self, knock: impl Fn() + Send + Sync + 'static) -> Self {
        Self { knock: Some(Knock(Arc::new(knock))), ..self }
    }

    /// Expects a sign of progress of every loop, if only of a turn that finds nothing to do.
    pub fn knock(&self) {
        if let Some(Knock(knock)) = &self.knock {
            self.loops.iter().for_each(|pulse| pulse.expect());
            knock();
        }
    }

    /// Of the store of a loop.
    ///
    /// # Panics
    /// When there is no such loop.
    #[must_use]
    pub fn store(&self, index: usize) -> &Arc<Pulse> {
        &self.stores[index]
    }

    /// Of the thread that opens the store.
    #[must_use]
    pub fn opening(&self) -> &Arc<Pulse> {
        &self.opening
    }

    /// Whether all of this process gets on.
    ///
    /// # Errors
    /// What does not, for a person: a loop before a store, since only a restart mends it.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let stall = self.hung_loop(now).or_else(|| self.stuck_store(now));
        stall.map_or(Ok(()), |stall| Err(stall.to_string()))
    }

    /// A loop that hangs.
    #[must_use]
    pub fn hung_loop(&self, now: Instant) -> Option<Stall> {
        self.longest(&self.loops, now, Stalled::Loop)
    }

    /// A store that makes no progress.
    #[must_use]
    pub fn stuck_store(&self, now: Instant) -> Option<Stall> {
        let opening = self.longest(std::slice::from_ref(&self.opening), now, |_| Stalled::Opening);
        self.longest(&self.stores, now, Stalled::Store).or(opening)
    }

    /// Whether a thread of a former activation still runs: it may be in the middle of a write.
    #[must_use]
    pub fn is_store_in_use(&self) -> bool {
        self.stores.iter().chain([&self.opening]).any(|pulse| pulse.is_on())
    }

    fn longest(
        &self,
        pulses: &[Arc<Pulse>],
        now: Instant,
        what: impl Fn(usize) -> Stalled,
    ) -> Option<Stall> {
        let stalls = pulses.iter().enumerate().filter_map(|(index, pulse)| {
            let since = pulse.stalled_since(now, self.bound)?;
            Some(Stall { what: what(index), since, lasts: now.since(since) })
        });
        stalls.max_by_key(|stall| stall.lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn vitals() -> Vitals {
        Vitals::new(vec![Arc::default(), Arc::default()], Duration::from_secs(5))
    }

    #[test]
    fn who_rests_or_gets_on_does_not_hang() {
        let vitals = vitals();
        assert_eq!(vitals.hung_loop(at(1_000)), None, "nothing has begun");
        vitals.loops[1].beat(at(10));
        assert_eq!(vitals.hung_loop(at(14)), None);
        let stall = vitals.hung_loop(at(15)).map(|stall| (stall.what, stall.since));
        assert_eq!(stall, Some((Stalled::Loop(1), at(10))));
        vitals.loops[1].beat(at(15));
        assert_eq!(vitals.hung_loop(at(19)), None);
        vitals.loops[1].rest();
        assert_eq!(vitals.hung_loop(at(1_000)), None);
    }

    #[test]
    fn who_does_not_wake_for_its_work_hangs() {
        let vitals = vitals().knocking(|| ());
        vitals.loops[0].rest();
        vitals.knock();
        assert_eq!(vitals.hung_loop(at(10)), None, "it had no time yet");
        vitals.knock();
        let stall = vitals.hung_loop(at(15)).map(|stall| (stall.what, stall.since));
        assert_eq!(stall, Some((Stalled::Loop(0), at(10))), "the other one is not there");
        vitals.loops[0].beat(at(16));
        vitals.knock();
        assert_eq!(vitals.hung_loop(at(20)), None);
        assert!(vitals.hung_loop(at(21)).is_some(), "who works is not expected anew");
    }

    #[test]
    fn who_got_on_since_the_last_look_does_not_hang() {
        let vitals = vitals();
        vitals.store(0).touch();
        assert_eq!(vitals.stuck_store(at(100)), None);
        assert_eq!(vitals.stuck_store(at(104)), None);
        assert!(vitals.stuck_store(at(105)).is_some(), "five seconds after it was seen");
        vitals.store(0).touch();
        assert_eq!(vitals.stuck_store(at(106)), None);
    }

    #[test]
    fn the_longest_stall_is_told() {
        let vitals = vitals();
        vitals.store(0).beat(at(10));
        vitals.store(1).beat(at(2));
        let stall = vitals.stuck_store(at(20)).map(|stall| stall.to_string());
        let expected = "the store of event loop 1 makes no progress: its disk or database does not \
                        answer, for 18 s";
        assert_eq!(stall.as_deref(), Some(expected));
        assert_eq!(vitals.hung_loop(at(20)), None);
    }

    #[test]
    fn a_store_is_in_use_until_its_thread_has_ended() {
        let vitals = vitals();
        assert!(!vitals.is_store_in_use());
        vitals.store(1).beat(at(1));
        assert!(vitals.is_store_in_use());
        vitals.store(1).rest();
        assert!(vitals.is_store_in_use());
        vitals.store(1).end();
        assert!(!vitals.is_store_in_use());
        vitals.opening().beat(at(1));
        assert!(vitals.is_store_in_use());
    }
}
