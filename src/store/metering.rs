//! Times what a thread of a store does, for metrics.
//!
//! The meters belong to the thread, as its pulse does ([`crate::store::progress`]), so that what is
//! deep inside a store need not be told where to count. A thread without meters counts nothing.

use std::cell::RefCell;
use std::sync::Arc;

use crate::base::meters::{Histogram, StoreMeters};
use crate::base::world;

thread_local! {
    static CURRENT: RefCell<Option<Arc<StoreMeters>>> = const { RefCell::new(None) };
}

/// From now on this thread counts there.
pub fn adopt(meters: Arc<StoreMeters>) {
    CURRENT.set(Some(meters));
}

/// Does `work`, and counts how long it took where `choose` says.
pub fn timed<T>(choose: fn(&StoreMeters) -> &Histogram, work: impl FnOnce() -> T) -> T {
    let Some(meters) = CURRENT.with_borrow(Clone::clone) else { return work() };
    let began = world::instant();
    let done = work();
    choose(&meters).took(world::instant().since(began));
    done
}
