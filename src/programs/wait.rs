//! A wait for a condition that has a bound, and that whoever is at the terminal can end.

use std::thread;
use std::time::Duration;

use crate::base::world;

/// Pause between two looks at a condition.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// Looks until it is so, at most so long, and no longer than until `is_over`; whether it is so.
pub(crate) fn is_so_within(
    time: Duration,
    is_over: impl Fn() -> bool,
    mut is_so: impl FnMut() -> bool,
) -> bool {
    let deadline = world::instant() + time;
    loop {
        if is_so() {
            return true;
        }
        if deadline <= world::instant() || is_over() {
            return false;
        }
        thread::park_timeout(LOOK_PAUSE);
    }
}
