//! everything that a member can ask for (closed enum)

use std::time::Duration;

use bytes::Bytes;

use crate::base::epoch::{Epoch, Predecessor};
use crate::base::id::Subject;
use crate::election::input::Ending;

/// What is wanted. None of it is waited for: what can take long comes back as an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read the store under this epoch, on a thread of its own.
    Recover {
        /// Counts activations.
        term: u64,
        /// Under which epoch.
        epoch: Epoch,
        /// How the holder before left.
        predecessor: Predecessor,
    },
    /// Give each loop its engine of what was recovered; nothing leaves yet.
    Activate {
        /// In which term.
        term: u64,
    },
    /// Ask whether another server of the cluster is there.
    AskAround {
        /// In which term.
        term: u64,
    },
    /// Ask every loop to let its engine speak.
    Serve {
        /// In which term.
        term: u64,
    },
    /// Ask every loop whether it has heard of the interests of all others.
    Sync {
        /// In which term.
        term: u64,
    },
    /// Say that clients are served.
    Announce,
    /// Say that they are not, ask around no more, and show no other active.
    Withdraw,
    /// Ask every loop to drop its engine and everything that wanted to say.
    Deactivate {
        /// In which term.
        term: u64,
    },
    /// Ask every loop to read no more for engines, and to say when what it has read is done.
    SeeThrough {
        /// Of which term.
        term: u64,
    },
    /// Wait for the threads of the store, on a thread of its own.
    AwaitStore {
        /// Of which term.
        term: u64,
    },
    /// Ask every loop to commit what is staged and to close its share of the store.
    Drain {
        /// In which term.
        term: u64,
    },
    /// Give the lease back, and leave it to others for a while.
    Release {
        /// Of which epoch: the keeper may have lost it and won another one meanwhile.
        epoch: Epoch,
        /// Whether everything is synced.
        is_clean: bool,
        /// For how long.
        retry_after: Duration,
    },
    /// Stand by again now, although the lease was given back for a while.
    StandByAgain,
    /// Look at lease and epoch soon.
    CheckLease,
    /// Ask whether another server answers clients of this cluster ID.
    AskRival,
    /// Show that another server is active too, and what to do; `None`: no longer.
    ShowRival(Option<String>),
    /// Look at the store while another member is active: whether this one could take over, and
    /// what a take-over would have to read.
    Survey,
    /// Publish to the group.
    Publish {
        /// Where to.
        subject: Subject,
        /// What.
        payload: Bytes,
    },
    /// Show whether clients of this process reach the active.
    ShowReachable(bool),
    /// Show why this process does not serve.
    ShowTrouble {
        /// Why.
        text: String,
        /// It stays until a person acts.
        lasts: bool,
    },
    /// A line of the log that says what went wrong.
    Complain {
        /// The line.
        text: String,
    },
    /// The last line of a process that cannot go on.
    Fail {
        /// The line.
        line: String,
    },
    /// Say that the process is about to stop.
    SayStopping,
    /// Take no more clients, and send those that are there away one by one.
    SeeOff,
    /// An event loop does not answer: this process is broken, and others are better off without it.
    Break,
    /// End the process; the last effect there is.
    End {
        /// In which way.
        ending: Ending,
    },
}
