//! Calls of a store that take their time, each on a thread of its own, of which one goes on at a
//! time.
//!
//! A run is turned by one thread. Where a call of a store has to wait, its thread stays where it is
//! and another one turns the run. When the wait is over, that one lets the call go on as its guest,
//! until it waits again or ends. So calls of several members that stand still in the middle of what
//! they do go on in any order, and everything still follows from the seed.

use std::cell::RefCell;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::time::Instant;
use crate::testing::memory_disk::ProcessId;

thread_local! {
    /// Whom this thread is a guest of.
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// Who goes on when its guest waits or ends.
#[derive(Debug)]
struct Host(Sender<()>);

/// A call that waits.
#[derive(Debug)]
pub struct Sleeper {
    process: ProcessId,
    until: Instant,
    wake: Sender<Host>,
}

/// The calls that wait, in the order in which they began to.
#[derive(Debug, Default)]
pub struct Sleepers(Vec<Sleeper>);

/// What a call waits for.
#[derive(Debug)]
pub struct Wait(Receiver<Host>);

impl Sleepers {
    /// A call of `process` is about to wait.
    pub fn add(&mut self, process: ProcessId, until: Instant) -> Wait {
        let (wake, wait) = bounded(1);
        self.0.push(Sleeper { process, until, wake });
        Wait(wait)
    }

    /// Takes out one of those whose time has come.
    pub fn take_due(&mut self, now: Instant) -> Option<Sleeper> {
        let place = self.0.iter().position(|sleeper| sleeper.until <= now)?;
        Some(self.0.remove(place))
    }

    /// Nobody waits longer than until then.
    pub fn end_by(&mut self, at: Instant) {
        self.0.iter_mut().for_each(|sleeper| sleeper.until = sleeper.until.min(at));
    }

    /// A call of `process` waits no longer than until then.
    pub fn end_of(&mut self, process: ProcessId, at: Instant) {
        let own = self.0.iter_mut().filter(|sleeper| sleeper.process == process);
        own.for_each(|sleeper| sleeper.until = sleeper.until.min(at));
    }

    /// Whether somebody waits beyond then.
    #[must_use]
    pub fn wait_beyond(&self, at: Instant) -> bool {
        self.0.iter().any(|sleeper| at < sleeper.until)
    }
}

impl Sleeper {
    /// Lets the call go on until it waits again or ends.
    pub fn go_on(self) {
        let (back, ended) = bounded(1);
        if self.wake.send(Host(back)).is_ok() {
            // It cannot end without a word; if it did, it would have ended all the same.
            let _ = ended.recv();
        }
    }
}

impl Wait {
    /// Waits. Afterwards this thread is a guest.
    pub fn sleep(self) {
        if let Ok(host) = self.0.recv() {
            HOST.set(Some(host));
        }
    }
}

/// Whether another thread turns the run.
#[must_use]
pub fn is_guest() -> bool {
    HOST.with_borrow(Option::is_some)
}

/// Lets the host go on; false if this thread has none, as it turns the run.
pub fn give_back() -> bool {
    let host = HOST.take();
    // A host waits until it hears this.
    host.is_some_and(|host| host.0.send(()).is_ok())
}
