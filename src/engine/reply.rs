//! where an answer goes, and what is done once nobody holds that any more
//!
//! An input that somebody keeps (`base/errand.rs`) is done when its answer has left the engine, or
//! when it came to nothing. Whatever waits for the answer holds the [`Reply`], which nobody can
//! copy; so the input is done when its holder is gone, on whatever way that was, and no way can be
//! forgotten. Whoever must not take it gives it back instead.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::errand::{Again, Errand, Finished};
use crate::base::id::Subject;
use crate::base::planted::{self, Bug};
use crate::engine::dead_letter::DeadLetterSender;

/// Where the answer to an input goes; done when it is gone.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) to: Option<Subject>,
    receipt: Option<Receipt>,
    /// It is a dead letter of an engine.
    pub(super) dead_letter: Option<Box<DeadLetterSender>>,
}

#[derive(Debug)]
struct Receipt {
    errand: Errand,
    is_given_back: bool,
    /// It is a publish, and not in the store up to now.
    is_unstored: bool,
    done: Done,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.is_given_back {
            let (errand, is_unstored) = (self.errand, self.is_unstored);
            self.done.lock().push(Finished { errand, is_unstored });
        }
    }
}

impl Reply {
    /// Of a dead letter: an engine waits for it.
    pub(super) fn of_dead_letter(sender: DeadLetterSender) -> Self {
        Self { dead_letter: Some(Box::new(sender)), ..Self::default() }
    }

    fn again(&self) -> Again {
        self.receipt.as_ref().map_or(Again::First, |receipt| receipt.errand.again)
    }

    /// Whether what is asked for may be done already.
    pub(super) fn is_again(&self) -> bool {
        self.again() != Again::First && !planted::is(Bug::RequestTwice)
    }

    /// Whether these engines have done it: of a publish, that its message is in the store.
    pub(super) fn is_done(&self) -> bool {
        self.again() == Again::Done
    }

    /// The message of the publish is in the store.
    pub(super) fn on_stored(&mut self) {
        if let Some(receipt) = &mut self.receipt {
            receipt.is_unstored = false;
        }
    }

    /// The input is not taken: whoever keeps it goes on keeping it.
    pub(super) fn give_back(mut self) {
        if let Some(receipt) = &mut self.receipt {
            receipt.is_given_back = true;
        }
    }
}

/// The list of those begins with room for so many at most.
const DONE_ROOM_MAX: usize = 1024;

/// The inputs of one engine that are done and were not told yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Done(Arc<Mutex<Vec<Finished>>>);

impl Done {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Finished>> {
        // Nothing that can panic is done while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those since the last call, in the order in which they were done.
    pub(super) fn take(&self) -> Vec<Finished> {
        let mut done = self.lock();
        // The next list is mostly as long: grown anew each time, it would be moved several times.
        let next = Vec::with_capacity(done.len().min(DONE_ROOM_MAX));
        mem::replace(&mut *done, next)
    }

    /// The reply of an input that came in.
    pub(super) fn reply(
        &self,
        to: Option<Subject>,
        errand: Option<Errand>,
        is_publish: bool,
    ) -> Reply {
        let receipt = |errand| Receipt {
            errand,
            is_given_back: false,
            is_unstored: is_publish,
            done: self.clone(),
        };
        Reply { to, receipt: errand.map(receipt), dead_letter: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::errand::Keeper;

    fn errand(number: u64) -> Errand {
        Errand { keeper: Keeper::Own, ledger: 1, number, again: Again::First }
    }

    fn finished(number: u64, is_unstored: bool) -> Finished {
        Finished { errand: errand(number), is_unstored }
    }

    #[test]
    fn an_input_is_done_when_its_holder_is_gone() {
        let done = Done::default();
        let reply = done.reply(None, Some(errand(1)), false);
        assert_eq!(done.take(), []);
        drop(reply);
        assert_eq!(done.take(), [finished(1, false)]);
        assert_eq!(done.take(), []);
    }

    #[test]
    fn a_publish_is_unstored_until_it_is_said_to_be_stored() {
        let done = Done::default();
        drop(done.reply(None, Some(errand(1)), true));
        let mut reply = done.reply(None, Some(errand(2)), true);
        reply.on_stored();
        drop(reply);
        assert_eq!(done.take(), [finished(1, true), finished(2, false)]);
    }

    #[test]
    fn what_is_given_back_is_not_done() {
        let done = Done::default();
        let reply = done.reply(None, Some(errand(1)), false);
        reply.give_back();
        assert_eq!(done.take(), []);
    }
}
