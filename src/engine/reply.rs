//! where an answer goes, and what is done once nobody holds that any more
//!
//! An input that somebody keeps (`base/errand.rs`) is done when its answer has left the engine, or
//! when it came to nothing. Whatever waits for the answer holds the [`Reply`]; so the input is done
//! when the last holder is gone, on whatever way that was, and no way can be forgotten. Whoever
//! must not take it gives it back instead.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::errand::Errand;
use crate::base::id::Subject;
use crate::base::planted::{self, Bug};

/// Where the answer to an input goes; done when it and its clones are gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    pub(super) to: Option<Subject>,
    receipt: Option<Arc<Receipt>>,
}

#[derive(Debug)]
struct Receipt {
    errand: Errand,
    is_given_back: AtomicBool,
    done: Done,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !*self.is_given_back.get_mut() {
            self.done.lock().push(self.errand);
        }
    }
}

impl Reply {
    /// Whether a former active may have done already what is asked for.
    pub(super) fn is_again(&self) -> bool {
        let is_again = self.receipt.as_ref().is_some_and(|receipt| receipt.errand.is_again);
        is_again && !planted::is(Bug::RequestTwice)
    }

    /// The input is not taken: whoever keeps it goes on keeping it.
    pub(super) fn give_back(self) {
        if let Some(receipt) = &self.receipt {
            receipt.is_given_back.store(true, Ordering::Relaxed);
        }
    }
}

/// The inputs of one engine that are done and were not told yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Done(Arc<Mutex<Vec<Errand>>>);

impl Done {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Errand>> {
        // Nothing that can panic is done while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those since the last call, in the order in which they were done.
    pub(super) fn take(&self) -> Vec<Errand> {
        mem::take(&mut *self.lock())
    }

    /// The reply of an input that came in.
    pub(super) fn reply(&self, to: Option<Subject>, errand: Option<Errand>) -> Reply {
        let receipt = |errand| {
            let done = self.clone();
            Arc::new(Receipt { errand, is_given_back: AtomicBool::new(false), done })
        };
        Reply { to, receipt: errand.map(receipt) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::errand::Keeper;

    fn errand(number: u64) -> Errand {
        Errand { keeper: Keeper::Own, ledger: 1, number, is_again: false }
    }

    #[test]
    fn an_input_is_done_when_its_last_holder_is_gone() {
        let done = Done::default();
        let reply = done.reply(None, Some(errand(1)));
        let other = reply.clone();
        drop(reply);
        assert_eq!(done.take(), []);
        drop(other);
        assert_eq!(done.take(), [errand(1)]);
        assert_eq!(done.take(), []);
    }

    #[test]
    fn what_is_given_back_is_not_done() {
        let done = Done::default();
        let reply = done.reply(None, Some(errand(1)));
        let other = reply.clone();
        reply.give_back();
        drop(other);
        assert_eq!(done.take(), []);
    }
}
