//! Inputs of a peer that come again by a new route, to the same engines.
//!
//! A route that breaks takes with it what was on its way: inputs, answers, and marks of what is
//! done. Its peer says everything again that it has no mark of. What never came is taken then; of
//! the rest the answer may have been lost, be it in the route, or because the engines gave it while
//! nobody had told them yet where it is wanted. So it is handed to them once more, and they answer
//! it without doing it twice (`Again::Done`). What they are still at when it comes again waits here
//! until that is done, because nobody can tell where its answer goes. What wants no answer is
//! marked once more, and no more than that.
//!
//! A publish whose message is not in the store has done nothing, and is taken as if it had not come
//! before. So it is remembered which these are. It is a bounded number: of what is beyond it is
//! taken that these engines know as little of it as a successor would.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::errand::Again;
use crate::base::id::{AccountIndex, SessionId};
use crate::base::limits::UNSTORED_KEPT_MAX;
use crate::broker::Names;

/// A ledger, and a number in it.
pub(super) type Place = (u64, u64);

/// An input that came again while engines were at it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) route: SessionId,
    pub(super) account: AccountIndex,
    pub(super) names: Names,
    pub(super) payload: Bytes,
}

/// What of the inputs of one peer has come again, or would have to be taken again.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// Done before, up to where all of the ledger was; engines answer them once more.
    answering: BTreeSet<Place>,
    waiting: BTreeMap<Place, Waiting>,
    /// Publishes that are done and not in the store.
    unstored: BTreeSet<Place>,
    /// By ledger: up to where it is not known any more which those are.
    unknown_to: BTreeMap<u64, u64>,
}

impl Repeats {
    /// One is done; the same input, if it has come again meanwhile.
    pub fn on_done(&mut self, place: Place, is_unstored: bool) -> Option<Waiting> {
        if is_unstored {
            self.unstored.insert(place);
            if UNSTORED_KEPT_MAX < self.unstored.len()
                && let Some((ledger, number)) = self.unstored.pop_first()
            {
                let up_to = self.unknown_to.entry(ledger).or_default();
                *up_to = number.max(*up_to);
            }
        } else if !self.unstored.is_empty() {
            self.unstored.remove(&place);
        }
        if self.waiting.is_empty() { None } else { self.waiting.remove(&place) }
    }

    /// What these engines make of one that they have done, when it comes again.
    pub fn again(&self, place: Place) -> Again {
        let (ledger, number) = place;
        let is_unknown = self.unknown_to.get(&ledger).is_some_and(|up_to| number <= *up_to);
        let is_open = is_unknown || self.unstored.contains(&place);
        if is_open { Again::Perhaps } else { Again::Done }
    }

    /// It waits until engines are done with it.
    pub fn wait(&mut self, place: Place, input: Waiting) {
        self.waiting.insert(place, input);
    }

    /// It is answered once more.
    pub fn begin(&mut self, place: Place) {
        self.answering.insert(place);
    }

    /// Whether it is being answered once more.
    pub fn is_answering(&self, place: Place) -> bool {
        !self.answering.is_empty() && self.answering.contains(&place)
    }

    /// Whether any is.
    pub fn is_answering_some(&self) -> bool {
        !self.answering.is_empty()
    }

    /// That has been done; false if it was not under way.
    pub fn end(&mut self, place: Place) -> bool {
        !self.answering.is_empty() && self.answering.remove(&place)
    }

    /// The first one of a ledger that is answered once more.
    pub fn first_answering(&self, ledger: u64) -> Option<u64> {
        let mut of_ledger = self.answering.range((ledger, 0)..=(ledger, u64::MAX));
        of_ledger.next().map(|(_, number)| *number)
    }

    /// The route is gone: what waits comes again by the next one.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Nothing is known any more of ledgers that are not needed.
    pub fn tidy(&mut self, is_needed: impl Fn(u64) -> bool) {
        self.unstored.retain(|(ledger, _)| is_needed(*ledger));
        self.unknown_to.retain(|ledger, _| is_needed(*ledger));
    }
}
