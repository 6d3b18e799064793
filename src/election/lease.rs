//! The Lease trait: take, renew, release; the difference of "not now" and "never".

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::epoch::{Epoch, Fence, Predecessor};
use crate::base::time::{Instant, WallTime};

/// The right to be active, as one kind of shared store keeps it.
///
/// Whoever holds it also holds an epoch of its own. One thread, the keeper, owns it.
pub trait Lease: Send {
    /// Tries once, without waiting for anybody.
    ///
    /// # Errors
    /// [`LeaseError::NotNow`] and [`LeaseError::Never`].
    fn try_take(&mut self) -> Result<Attempt, LeaseError>;

    /// Sees to it that `wake` is called as soon as what `try_take` or `confirm` waits for may have
    /// changed. Gives back how long to wait at most before the next try.
    ///
    /// # Errors
    /// [`LeaseError::NotNow`] and [`LeaseError::Never`].
    fn wait(&mut self, wake: &Wake) -> Result<Duration, LeaseError>;

    /// What can be done after the news of a success went out: the record, old epochs.
    ///
    /// # Errors
    /// [`LeaseError::NotNow`]; the lease is held all the same.
    fn settle(&mut self) -> Result<(), LeaseError>;

    /// Whether it is still ours; renews the sign of life that standbys watch.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] if somebody else has it. After any other error it is not known.
    fn confirm(&mut self) -> Result<(), LeaseError>;

    /// Says in the holder's record since when its store makes no progress, on the boot-time clock;
    /// `None`: it does.
    ///
    /// # Errors
    /// [`LeaseError::NotNow`]; the record then says what it said before.
    fn mark_stuck(&mut self, since: Option<Instant>) -> Result<(), LeaseError>;

    /// Gives it back. `clean`: everything is synced, and the successor may rely on that.
    ///
    /// # Errors
    /// When the mark of a clean release could not be made; the lease is given back all the same.
    fn release(&mut self, clean: bool) -> Result<(), LeaseError>;
}

/// Wakes the keeper from another thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How a try ended.
pub enum Attempt {
    /// The lease and a new epoch are ours.
    Won(Grant),
    /// Somebody else has it.
    Held {
        /// What is known of the holder.
        holder: Option<Holder>,
        /// For the log: what we wait for.
        why: String,
    },
}

/// A lease that was won.
pub struct Grant {
    /// Names the epoch, and tells whether it was replaced.
    pub fence: Arc<dyn Fence>,
    /// How the holder before us left.
    pub predecessor: Predecessor,
    /// Before the read began that showed that the newest epoch is ours.
    pub checked_at: Instant,
}

/// Of everything that we write beside the Go server's own files and tables. It is raised by the
/// first release whose files an older one could not read, or would read wrong.
const FORMAT: u32 = 1;

/// Which release writes beside the Go server's files and tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Of what it writes; 0 from releases that did not say.
    #[serde(default)]
    pub format: u32,
    /// Its version.
    #[serde(default)]
    pub release: String,
}

impl Writer {
    /// What this process is.
    #[must_use]
    pub fn this_release() -> Self {
        Self { format: FORMAT, release: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// What a record says of its writer, however else it is laid out: a later release may have
    /// changed the rest.
    #[must_use]
    pub(crate) fn of_record(record: &serde_json::Value) -> Self {
        let found = &record["writer"];
        let format = found["format"].as_u64().unwrap_or(0);
        Self {
            format: u32::try_from(format).unwrap_or(u32::MAX),
            release: found["release"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// Whether this writer can go on with the data of `place` after `holder`.
    ///
    /// # Errors
    /// [`LeaseError::Never`], which names the release that can.
    pub(crate) fn can_follow(
        &self,
        holder: &Self,
        place: &dyn fmt::Display,
    ) -> Result<(), LeaseError> {
        if holder.format <= self.format.max(FORMAT) {
            return Ok(());
        }
        let Self { format, release } = self;
        let (later, needed) = (holder.format, holder.release.as_str());
        Err(LeaseError::Never(format!(
            "{place} was written by stanby {needed} (format {later}), and this is stanby {release} \
             (format {format}), which cannot go on with it: run that release or a later one"
        )))
    }
}

/// Who claims an epoch: what its record says of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Unique to this process: letters, digits, `-` and `_`.
    pub server_id: String,
    /// The machine's name.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// Where clients reach it.
    pub addresses: Vec<String>,
    /// Its control socket.
    pub control_path: Option<String>,
    /// For how long it may give no sign of life and still answer, in milliseconds: nobody replaces
    /// it sooner. 0: it does not say (a lease then fills in what it was made with).
    #[serde(default)]
    pub silence_max_ms: u64,
    /// Which release it is.
    #[serde(default)]
    pub writer: Writer,
}

impl Owner {
    /// This process.
    #[must_use]
    pub fn this_process(
        server_id: &str,
        addresses: Vec<String>,
        control_path: Option<String>,
    ) -> Self {
        // A machine without a name is still told by its process and addresses.
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let (server_id, pid) = (server_id.to_owned(), std::process::id());
        let writer = Writer::this_release();
        Self { server_id, host, pid, addresses, control_path, silence_max_ms: 0, writer }
    }

    /// This owner, with `silence_max` unless it says already for how long it may be silent.
    #[must_use]
    pub(crate) fn or_silent_for(mut self, silence_max: Duration) -> Self {
        if self.silence_max_ms == 0 {
            self.silence_max_ms = u64::try_from(silence_max.as_millis()).unwrap_or(u64::MAX);
        }
        self
    }
}

/// Who holds a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its server id; empty if its record cannot be read.
    pub server_id: String,
    /// On which machine.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its epoch.
    pub epoch: Epoch,
    /// Since when; 0 while it has only just begun.
    pub since: WallTime,
    /// Where clients reach it.
    pub addresses: Vec<String>,
    /// Its control socket.
    pub control_path: Option<String>,
    /// For how long it may give no sign of life and still answer; zero if it does not say.
    pub silence_max: Duration,
    /// Which release it is.
    pub writer: Writer,
    /// Grows with each sign of life.
    pub counter: u64,
    /// Since when its store makes no progress, on the boot-time clock of its machine.
    pub stuck_since: Option<Instant>,
    /// It gave the lease back, with everything synced; a mark of the lock's state at that moment.
    pub released_at: Option<u64>,
}

/// What went wrong with a lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// It may pass by itself.
    #[error("{0}")]
    NotNow(String),
    /// It stays until a person acts; tried again all the same, with longer pauses.
    #[error("{0}")]
    Never(String),
    /// Somebody else has begun a later epoch, or holds the lock.
    #[error("{0}")]
    Lost(String),
}
