//! An input of an engine that somebody keeps until it is done, and who that is.
//!
//! What clients send for the engines is kept by the member whose clients they are, so that a
//! successor gets what the active had not done (`broker/ledger.rs`), and so that what a broken
//! route has taken with it is answered once more (`broker/repeats.rs`).

use std::num::NonZeroU32;

/// Names an input that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errand {
    /// Who keeps it.
    pub keeper: Keeper,
    /// Which of the keeper's ledgers: each of its clients' sessions has one.
    pub ledger: u64,
    /// Its number there; they only grow.
    pub number: u64,
    /// Whether it has come before.
    pub again: Again,
}

/// Who keeps an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeper {
    /// This process.
    Own,
    /// A peer, by the number that this process has given it.
    Peer(NonZeroU32),
}

/// What of an input may be done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Again {
    /// Nothing: it comes for the first time.
    First,
    /// All of it, by a former active, or by these engines, which do not know what became of it.
    Perhaps,
    /// All of it, by these engines: only the answer may not have been heard.
    Done,
}

impl Again {
    /// Of an input that another active may have had.
    #[must_use]
    pub fn perhaps(may_be: bool) -> Self {
        if may_be { Self::Perhaps } else { Self::First }
    }
}

/// An input that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which one.
    pub errand: Errand,
    /// It is a publish, or may be one, and its message is not in the store: if its answer was not
    /// heard, nothing is done.
    pub is_unstored: bool,
}
