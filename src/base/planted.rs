//! Bugs that are planted to prove that the simulation finds them.
//!
//! Each stands at the place where somebody could really make it, as `if planted::is(Bug::…)`. Only
//! with the cargo feature `planted`, which no release has, can one be chosen; without it the answer
//! is no at compile time, and nothing of it is left in the program.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        /// All of them, by name.
        #[cfg(feature = "planted")]
        pub const ALL: &[(&str, Bug)] = &[$(($text, Bug::$name),)*];
    };
}

bugs! {
    /// A publish is acknowledged when it is staged.
    AckBeforeCommit = "ack-before-commit",
    /// A commit is reported without a look at the epoch.
    NoEpochCheck = "no-epoch-check",
    /// Messages are stamped with the clock, wherever that stands.
    TimeGoesBack = "time-goes-back",
    /// What was pending for a durable is forgotten by a take-over.
    PendingForgottenDurable = "pending-forgotten-durable",
    /// The same for subscriptions that are no durables.
    PendingForgottenPlain = "pending-forgotten-plain",
    /// A take-over leaves files that a former active is about to put in place, who does not ask
    /// the fence; and nobody looks whether what it writes still has a name.
    LateRename = "late-rename",
    /// Who creates a channel clears what lies in its folder.
    LateCreateClears = "late-create-clears",
    /// The end of an old slice that a later one holds too is adopted.
    OverlapAdopted = "overlap-adopted",
    /// The last message of a slice is cut though it is whole.
    WholeTailCut = "whole-tail-cut",
    /// What was refused stays in the files.
    RefusedStays = "refused-stays",
    /// A position that is recovered is one too far.
    PositionTooFar = "position-too-far",
    /// Data files are not synced, their indexes are.
    IndexBeforeData = "index-before-data",
    /// Other loops are not told of some interests.
    InterestLost = "interest-lost",
    /// Requests for another loop are handed over in the wrong order.
    MailboxOrder = "mailbox-order",
    /// Sequences that were refused are not given again.
    SequencePassedOver = "sequence-passed-over",
    /// Answers leave however long ago the lease was confirmed.
    LeaseIgnored = "lease-ignored",
    /// Messages are delivered that are not durable yet.
    DeliveredEarly = "delivered-early",
    /// The recovery of a store does not look at the epoch any more, and clears what lies under the
    /// number of its copy.
    RecoveryUnfenced = "recovery-unfenced",
    /// A delivery leaves before its count is durable.
    CountNotDurable = "count-not-durable",
    /// Nothing is synced.
    NoSync = "no-sync",
    /// New names are not made durable.
    NamesNotSynced = "names-not-synced",
    /// A sync that failed is taken for one that succeeded.
    FailedSyncForgiven = "failed-sync-forgiven",
    /// What a predecessor may not have synced is believed.
    TailNotRewritten = "tail-not-rewritten",
    /// A publish that the store refused is acknowledged.
    RefusedIsAcked = "refused-is-acked",
    /// No message ever comes again.
    NoRedelivery = "no-redelivery",
    /// Redeliveries are not called so.
    RedeliveryUnmarked = "redelivery-unmarked",
    /// What a member of a queue group leaves behind nobody gets.
    LeaverKeepsPending = "leaver-keeps-pending",
    /// One message more than the limit is in flight.
    OneTooManyInFlight = "one-too-many-in-flight",
    /// A durable that comes back begins at the end.
    DurableStartsAnew = "durable-starts-anew",
    /// A successor copies nothing, and goes on in the slice of its predecessor.
    SliceContinued = "slice-continued",
    /// A successor goes on in the subs.dat of its predecessor.
    SubscriptionsContinued = "subscriptions-continued",
    /// One of what was kept while nobody served goes to the successor twice.
    KeptTwice = "kept-twice",
    /// One of it goes to nobody.
    KeptDropped = "kept-dropped",
    /// Two of it change places.
    KeptTurned = "kept-turned",
    /// An input is said to be done as soon as it has come.
    MarkEarly = "mark-early",
    /// Engines deliver before they have been told what is kept for them.
    KeepersUnawaited = "keepers-unawaited",
    /// A request that a former active has done is done once more.
    RequestTwice = "request-twice",
    /// An operator is told that something is done when it is staged.
    ChangeEarly = "change-early",
    /// No store is told of a purge.
    PurgeInMemory = "purge-in-memory",
    /// A durable that is reset keeps what it had not acknowledged.
    ResetKeepsPending = "reset-keeps-pending",
    /// A client that is closed has no mark, and is there in part after a take-over.
    ClientUnmarked = "client-unmarked",
    /// In a cluster of databases the epoch is only read, with a lock that no other node knows of.
    FenceOnlyRead = "fence-only-read",
}

/// Whether `bug` is planted.
#[cfg(not(feature = "planted"))]
#[inline]
#[must_use]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// What plants on another thread what is planted on this one.
#[cfg(not(feature = "planted"))]
pub fn carried() -> impl Fn() + Send + Sync {
    || ()
}

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::{ALL, Bug};

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// What is planted on each thread of this process.
    static EVERYWHERE: OnceLock<Bug> = OnceLock::new();

    /// Plants the bug of that name on each thread of this process, once and for all: in a server
    /// that a test runs as a process.
    pub fn plant_everywhere(name: &str) {
        if let Some((_, bug)) = ALL.iter().find(|(known, _)| *known == name) {
            // A second one would change nothing.
            let _ = EVERYWHERE.set(*bug);
        }
    }

    /// Plants a bug in what this thread does from now on.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// What plants on another thread what is planted on this one.
    pub fn carried() -> impl Fn() + Send + Sync {
        let bug = CHOSEN.get();
        move || plant(bug)
    }

    /// Whether `bug` is planted.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug) || EVERYWHERE.get() == Some(&bug)
    }
}

#[cfg(feature = "planted")]
pub use chosen::{carried, is, plant, plant_everywhere};
