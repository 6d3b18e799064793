//! Who is connected to the monitoring port, and who has to go when another one comes
//!
//! A crowd that opens connections and asks nothing must not lock out a health check: a newcomer
//! always gets a place, and whoever was without progress for longest, among those whose address
//! has most connections, loses his. Who is being answered keeps his place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::base::limits::MONITOR_ANSWER_BYTES_MAX;

/// All places.
pub(super) struct Places {
    max: usize,
    /// Counts what happens: who has the lower number was without progress for longer.
    clock: AtomicU64,
    held: Mutex<BTreeMap<u64, Held>>,
}

struct Held {
    peer: IpAddr,
    progress: u64,
    /// The page that waits for its peer.
    answer_bytes: usize,
    is_answered: bool,
    leave: Arc<Notify>,
}

/// One place; it is free again when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    requests: AtomicU64,
    leave: Arc<Notify>,
}

/// While it lives, its connection keeps its place.
pub(super) struct Answering<'a>(&'a Place);

impl Places {
    /// So many places.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, clock: AtomicU64::new(0), held: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for a newcomer; `None` if everybody is being answered.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let number = self.tick();
        let leave = Arc::new(Notify::new());
        let mut held = self.lock();
        if self.max <= held.len() {
            let number = whose_turn(&held)?;
            let gone = held.remove(&number)?;
            gone.leave.notify_one();
        }
        let entry = Held {
            peer,
            progress: number,
            answer_bytes: 0,
            is_answered: false,
            leave: Arc::clone(&leave),
        };
        held.insert(number, entry);
        Some(Place { places: Arc::clone(self), number, requests: AtomicU64::new(0), leave })
    }
}

fn whose_turn(held: &BTreeMap<u64, Held>) -> Option<u64> {
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for entry in held.values() {
        *counts.entry(entry.peer).or_default() += 1;
    }
    let waiting = held.iter().filter(|(_, entry)| !entry.is_answered);
    let found = waiting.max_by_key(|(_, entry)| {
        (counts.get(&entry.peer).copied(), std::cmp::Reverse(entry.progress))
    });
    found.map(|(number, _)| *number)
}

impl Place {
    fn update(&self, change: impl FnOnce(&mut Held)) {
        // Who was sent away has no entry any more.
        if let Some(entry) = self.places.lock().get_mut(&self.number) {
            change(entry);
        }
    }

    /// A part of an answer has left.
    pub(super) fn note_progress(&self) {
        let progress = self.places.tick();
        self.update(|entry| entry.progress = progress);
    }

    /// A whole request has come; it is being answered until the value is dropped.
    pub(super) fn answering(&self) -> Answering<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.note_progress();
        self.update(|entry| {
            entry.is_answered = true;
            entry.answer_bytes = 0;
        });
        Answering(self)
    }

    /// A page of this size waits for the peer from now on. If that is too much with all others,
    /// who has read nothing for longest is sent away.
    pub(super) fn hold(&self, answer_bytes: usize) {
        self.update(|entry| entry.answer_bytes = answer_bytes);
        let mut held = self.places.lock();
        let others = |held: &BTreeMap<u64, Held>| {
            let others = held.iter().filter(|(number, _)| **number != self.number);
            others.map(|(_, entry)| entry.answer_bytes).sum::<usize>()
        };
        while MONITOR_ANSWER_BYTES_MAX < others(&held).saturating_add(answer_bytes) {
            let holding = held
                .iter()
                .filter(|(number, entry)| **number != self.number && entry.answer_bytes != 0);
            let slowest = holding.min_by_key(|(_, entry)| entry.progress);
            let Some(number) = slowest.map(|(number, _)| *number) else { return };
            if let Some(gone) = held.remove(&number) {
                gone.leave.notify_one();
            }
        }
    }

    /// How many requests have come.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits until another one needs the place more.
    pub(super) async fn sent_away(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.update(|entry| entry.is_answered = false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn is_there(place: &Place) -> bool {
        place.places.lock().contains_key(&place.number)
    }

    #[test]
    fn a_newcomer_gets_the_place_of_who_was_without_progress_for_longest() {
        let places = Places::new(3);
        let all: Vec<Place> = (0..3).map(|_| places.take(address(1)).unwrap()).collect();
        all[0].note_progress();
        let newcomer = places.take(address(1)).unwrap();
        assert!(is_there(&newcomer) && is_there(&all[0]) && is_there(&all[2]));
        assert!(!is_there(&all[1]));
    }

    #[test]
    fn an_address_with_many_connections_gives_way_before_one_with_few() {
        let places = Places::new(4);
        let probe = places.take(address(1)).unwrap();
        let crowd: Vec<Place> = (0..100).map(|_| places.take(address(2)).unwrap()).collect();
        assert!(is_there(&probe), "older than all of the crowd");
        assert_eq!(crowd.iter().filter(|place| is_there(place)).count(), 3);
    }

    /// Goal: pages that nobody reads take a bounded amount of memory.
    #[test]
    fn large_pages_that_nobody_reads_go_before_new_ones() {
        let places = Places::new(100);
        let all: Vec<Place> = (0..10).map(|_| places.take(address(1)).unwrap()).collect();
        for place in &all {
            drop(place.answering());
            place.hold(MONITOR_ANSWER_BYTES_MAX / 4);
            all[0].note_progress();
        }
        let left: Vec<usize> = (0..10).filter(|index| is_there(&all[*index])).collect();
        assert_eq!(left, [0, 7, 8, 9], "the first one reads");
        all[9].hold(MONITOR_ANSWER_BYTES_MAX * 2);
        assert!(is_there(&all[9]) && !is_there(&all[0]), "one page may be larger");
    }

    #[test]
    fn who_is_being_answered_keeps_the_place() {
        let places = Places::new(2);
        let (busy, idle) = (places.take(address(1)).unwrap(), places.take(address(1)).unwrap());
        let answering = busy.answering();
        let newcomer = places.take(address(1)).unwrap();
        assert!(is_there(&busy) && !is_there(&idle));
        let newest = newcomer.answering();
        assert!(places.take(address(1)).is_none(), "everybody is being answered");
        drop(answering);
        assert!(places.take(address(1)).is_some());
        drop(newest);
        drop((busy, idle, newcomer));
        assert!(places.lock().is_empty());
    }
}
