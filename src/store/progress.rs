//! What a thread of a store says when a system call or statement returns: it gets on.
//!
//! The pulse belongs to the thread, so that what is deep inside a store need not be told whose it
//! is; threads that help for a moment beat the pulse of the one that waits for them.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use crate::base::pulse::Pulse;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// The pulse that this thread beats, for threads that help it.
#[must_use]
pub fn current() -> Option<Arc<Pulse>> {
    CURRENT.with_borrow(Clone::clone)
}

/// From now on this thread beats `pulse`.
pub fn adopt(pulse: Option<Arc<Pulse>>) {
    CURRENT.set(pulse);
    note();
}

/// This thread has got on.
pub fn note() {
    CURRENT.with_borrow(|pulse| {
        if let Some(pulse) = pulse {
            pulse.touch();
        }
    });
}

/// This thread waits for work.
pub fn rest() {
    CURRENT.with_borrow(|pulse| {
        if let Some(pulse) = pulse {
            pulse.rest();
        }
    });
}

/// A call has returned, with whatever result.
pub fn noted<T>(result: T) -> T {
    note();
    result
}

/// Beats `pulse` on this thread as long as it lives.
pub struct Working(Arc<Pulse>);

impl Working {
    /// Begins.
    #[must_use]
    pub fn begin(pulse: Arc<Pulse>) -> Self {
        adopt(Some(Arc::clone(&pulse)));
        Self(pulse)
    }
}

/// Begins a thread that does a part of this thread's work, under the same pulse. One that cannot
/// be had costs speed and nothing else: the caller does that part itself.
///
/// # Errors
/// When the machine, or a limit, gives no further thread.
pub fn help<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    #[cfg(test)]
    if ALONE.get() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let pulse = current();
    thread::Builder::new().spawn_scoped(scope, move || {
        adopt(pulse);
        work()
    })
}

/// What a helper has found.
///
/// # Panics
/// If it panicked: but that has ended the process.
pub fn of_helper<T>(helper: ScopedJoinHandle<'_, T>) -> T {
    helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
thread_local! {
    /// Whether this thread gets no helpers.
    pub static ALONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

impl Drop for Working {
    fn drop(&mut self) {
        adopt(None);
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::time::Instant;
    use crate::store::file::disk::{Disk, RealDisk};

    /// Whether it works: then it hangs, if it may not take any time at all.
    fn is_beating(pulse: &Pulse) -> bool {
        pulse.stalled_since(Instant(u64::MAX - 1), Duration::ZERO).is_some()
    }

    #[test]
    fn each_return_from_the_disk_is_progress() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let pulse = Arc::new(Pulse::default());
        {
            let _working = Working::begin(Arc::clone(&pulse));
            let root = RealDisk.open_root(folder.path())?;
            rest();
            assert!(!is_beating(&pulse));
            root.sync()?;
            assert!(is_beating(&pulse), "a sync returned");
        }
        assert!(!pulse.is_on(), "the thread does something else now");
        Ok(())
    }

    #[test]
    fn who_helps_beats_for_the_one_who_waits() {
        let pulse = Arc::new(Pulse::default());
        let _working = Working::begin(Arc::clone(&pulse));
        rest();
        let helped = current();
        std::thread::scope(|scope| {
            scope.spawn(move || adopt(helped));
        });
        assert!(is_beating(&pulse));
    }
}
