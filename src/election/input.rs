//! everything that can happen to a member (closed enum)

use bytes::Bytes;

use crate::base::epoch::{Epoch, Predecessor};

/// What happened. A term is the number of an activation of this process: what belongs to a former
/// one is dropped by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Another member has the lease, and the keeper waits for it.
    Waiting {
        /// Its server id, if the lease shows it.
        holder: Option<String>,
    },
    /// The keeper won the lease and claimed this epoch.
    Won {
        /// Which one.
        epoch: Epoch,
        /// How the holder before left.
        predecessor: Predecessor,
    },
    /// The lease is lost or in doubt; may cross our own release on its way.
    Lost {
        /// A line for the log.
        why: String,
    },
    /// This process stands alone, and the lease cannot be had.
    Refused {
        /// A line for the log.
        why: String,
    },
    /// The store was read, and the engines are made.
    Recovered {
        /// In which term.
        term: u64,
    },
    /// It was not.
    RecoveryFailed {
        /// In which term.
        term: u64,
        /// Why.
        failure: Failure,
    },
    /// A server that stands alone has heard no other one of its cluster.
    FoundAlone {
        /// In which term.
        term: u64,
    },
    /// It has.
    FoundAnother {
        /// In which term.
        term: u64,
        /// A line for the log.
        text: String,
    },
    /// One event loop answers.
    Answered {
        /// In which term.
        term: u64,
        /// To what.
        question: Question,
    },
    /// The engine that serves clients listens: on a new store later than its activation, because
    /// the server's record is written first.
    Opened {
        /// In which term.
        term: u64,
    },
    /// One loop's share of the store is closed and synced, or is not.
    Drained {
        /// In which term.
        term: u64,
        /// A line for the log, if it is not.
        result: Result<(), String>,
    },
    /// The store can no longer be written under this epoch.
    StoreFailed {
        /// In which term.
        term: u64,
        /// A line for the log.
        text: String,
        /// Nobody can serve it until a person acts.
        is_final: bool,
    },
    /// The threads of the store have ended.
    Left {
        /// Of which term.
        term: u64,
    },
    /// The process is to end.
    StopAsked {
        /// In which way.
        ending: Ending,
    },
    /// Another member is to be active.
    HandOverAsked,
    /// The process is to end, and a standby is there that would take over: that comes first.
    StopAfterHandOver {
        /// In which way.
        ending: Ending,
    },
    /// Another member says that it serves clients: anybody can send that.
    OtherServes,
    /// Clients are to be sent away one by one, and then the process is to end.
    LameDuckAsked,
    /// They have been.
    SeenOff,
    /// Something came on the group's heartbeat subject: anybody can send it.
    Heartbeat {
        /// What.
        payload: Bytes,
    },
    /// A second server has answered [`crate::election::effect::Effect::AskRival`].
    RivalAnswered,
    /// Another server has channels of this one: to serve on would be to serve them twice.
    Conflict {
        /// A line for the log.
        text: String,
    },
    /// `next_deadline` has come.
    Due,
}

/// Why a store was not recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A line for the log.
    pub text: String,
    /// Nobody can serve it until a person acts.
    pub is_final: bool,
    /// No try of this process succeeds before a person has changed something.
    pub lasts: bool,
}

/// What every event loop is asked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// To let its engine speak; answered when its first effects were handed over.
    Serve,
    /// To answer when everything that was mailed before is handled.
    Sync,
    /// To drop its engine and everything that wanted to say.
    Deactivate,
    /// To read no more for engines, and to see what was read through.
    Through,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As asked.
    Done,
    /// As asked by the signal that has an exit code of its own.
    Terminated,
    /// Without writing anything any more.
    AtOnce,
    /// Because it cannot go on.
    Failed,
}
