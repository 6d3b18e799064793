//! An input of an engine that somebody keeps until it is done, and who that is.
//!
//! What clients send for the engines is kept by the member whose clients they are, so that a
//! successor gets what the active had not done (`broker/ledger.rs`).

/// Names an input that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errand {
    /// Who keeps it.
    pub keeper: Keeper,
    /// Which of the keeper's ledgers: each of its clients' sessions has one.
    pub ledger: u64,
    /// Its number there; they only grow.
    pub number: u64,
    /// Whether a former active may have taken it too: what it asks for may be done already.
    pub is_again: bool,
}

/// Who keeps an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeper {
    /// This process.
    Own,
    /// A peer, by the number that this process has given it.
    Peer(u32),
}
