//! A question about a password, as both sides see it: who asked, and who answers.

use std::sync::atomic::{AtomicU8, Ordering};

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const DROPPED: u8 = 2;

/// A question about a password. It is either begun or dropped, never both.
#[derive(Debug, Default)]
pub struct Asked(AtomicU8);

impl Asked {
    /// The work begins; false if nobody waits for the answer any more.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.change(BEGUN)
    }

    /// Nobody waits for the answer any more; false if the work has begun: then the answer comes
    /// soon.
    pub fn drop_unbegun(&self) -> bool {
        self.change(DROPPED)
    }

    /// Whether somebody waits for the answer, and nobody has begun.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.load(Ordering::Acquire) == WAITS
    }

    fn change(&self, to: u8) -> bool {
        self.0.compare_exchange(WAITS, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
