//! The waits of a drill: whoever is at the terminal may have enough, and each of them hears it at
//! once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::DrillError;
use crate::programs::wait::{self, LOOK_PAUSE};

/// Over once the flag is raised: then no wait goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(pub(crate) Arc<AtomicBool>);

impl Patience {
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Looks until it is so, at most so long; whether it is.
    pub(crate) fn is_so_within(&self, time: Duration, is_so: impl FnMut() -> bool) -> bool {
        wait::is_so_within(time, || self.is_over(), is_so)
    }

    /// Waits for work that may block where nobody can wake it, as a look-up of a name or a server
    /// that does not answer: it has a thread of its own, which is left behind when somebody has
    /// enough.
    ///
    /// # Errors
    /// [`DrillError::Interrupted`], or that there is no thread for it.
    pub(crate) fn wait_for<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DrillError> {
        let (tell, told) = mpsc::sync_channel(1);
        // Who has enough hears no answer any more.
        let work = move || drop(tell.send(work()));
        let worker = thread::Builder::new().name("drill-worker".to_owned()).spawn(work);
        drop(worker.map_err(DrillError::io("cannot start a thread"))?);
        loop {
            match told.recv_timeout(LOOK_PAUSE) {
                Ok(done) => return Ok(done),
                Err(RecvTimeoutError::Timeout) if self.is_over() => {
                    return Err(DrillError::Interrupted);
                }
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(DrillError::World("a thread of the drill has failed".to_owned()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_enough_waits_for_nothing_that_blocks() {
        let patience = Patience::default();
        assert_eq!(patience.wait_for(|| 7).expect("it is done"), 7);
        let (hold, held) = mpsc::channel::<()>();
        let stop = patience.clone();
        let work = move || {
            stop.0.store(true, Ordering::Release);
            let _ = held.recv();
        };
        let error = patience.wait_for(work).expect_err("it never ends");
        assert!(matches!(error, DrillError::Interrupted), "{error}");
        drop(hold);
        assert!(!patience.is_so_within(Duration::from_secs(60), || false));
    }
}
