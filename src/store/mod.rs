//! The Store trait and its promises in prose; StoreError, Remedy.
//!
//! A store is opened under a fence (`base::epoch::Fence`) that `election` made. Opening gives the
//! recovered state and one `Store` a loop; channels belong to loops by `base::placement`. Each
//! `Store` is owned by one worker thread and may block. Together they promise:
//!
//! - When `commit` returns `Ok` for a durable batch, everything in it that was not refused is
//!   synced, and the fence was still held after the sync (P1, P2).
//! - A channel's part of a batch ends in two ways that are answered: all of it is there, or nothing
//!   of it is, now and after a restart; then it is refused with the text for clients, and the other
//!   channels of the batch are not touched by it (P9). The same goes for the client records.
//! - [`OutcomeUnknown`] is everything else: nothing of the batch may be answered for, now or later.
//!   The process steps down, and the next activation reads what is there.
//! - What tidies up (removing old messages and files, compaction, closing files) is no part of a
//!   commit: it cannot fail one, and is tried again later.
//! - A purge is there as a whole or not at all, now and after a restart, like any part of a batch.
//!   That it is there for a Go server too may come a little later, as tidying does.
//! - Messages are taken only if they continue their channel ([`check_part`]); none is passed over.
//! - Writes of a process whose epoch was superseded change nothing that the successor reads (P3).
//! - Reads see everything committed, and give the stored bytes.

pub mod check;
pub mod encryption;
pub mod file;
pub mod memory;
pub mod metering;
pub mod progress;
mod report;
pub mod retention;
pub mod source;
pub mod sql;
pub mod worker;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::epoch::{Epoch, FenceError};
use crate::base::id::{ChannelName, Sequence};
use crate::base::planted::{self, Bug};
use crate::base::record::{
    Batch, ChannelBatch, ChannelState, CommitReport, FetchRequest, Lifecycle, MessageRecord, Purge,
    RecoveredChannel, RecoveredState,
};
use crate::base::time::{Now, WallTime};
use crate::proto::spb;

/// One share of a store: the channels of one loop.
pub trait Store: Send {
    /// Writes `batch`, syncs it if it is durable, and checks the fence. What is refused in the
    /// report is not there at all.
    ///
    /// # Errors
    /// [`OutcomeUnknown`], whatever the cause: some of the batch may be there.
    fn commit(&mut self, epoch: Epoch, batch: &Batch) -> Result<CommitReport, OutcomeUnknown>;

    /// Messages from `request.from` on that exist, ascending, within the request's budget; empty
    /// if there is none. Gaps are passed over.
    ///
    /// # Errors
    /// When the channel cannot be read; the text goes to the log, and delivery stops.
    fn fetch(&mut self, request: &FetchRequest) -> Result<Vec<MessageRecord>, StoreError>;

    /// The sequence that a start at `at` means (spec stores, 2.3, `GetSequenceFromTimestamp`).
    ///
    /// # Errors
    /// When the channel cannot be read.
    fn find_time(&mut self, channel: &ChannelName, at: WallTime) -> Result<Sequence, StoreError>;

    /// What it holds beside messages, between two commits; the fence is still held then.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] of a store that is not backed up by its server, with what is to be
    /// done instead.
    fn inventory(&mut self, _wanted: &Wanted) -> Result<Inventory, StoreError> {
        let text = "a store in memory is gone with its server: there is nothing to back up";
        Err(StoreError::Unusable(text.to_owned()))
    }

    /// Does what is due at `now`: expiry by age, periodic sync, compaction, closing idle files.
    ///
    /// # Errors
    /// See [`StoreError::remedy`]; a refusal is tried again later.
    fn maintain(&mut self, now: Now) -> Result<Maintained, StoreError>;

    /// Writes and syncs everything that is held back. The lease is released only after it.
    ///
    /// # Errors
    /// [`StoreError`]; then not everything is durable.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// What is to be known of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All clients; each share knows them.
    Clients,
    /// Names of its channels behind `after`, in their order.
    Names {
        /// The last one that is known.
        after: Option<ChannelName>,
        /// How many at most.
        count_max: usize,
    },
    /// One channel as opening would give it, if it is there.
    Channel(ChannelName),
}

/// The part of it that was wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// Who may write there.
    pub epoch: Epoch,
    /// See [`Wanted::Clients`].
    pub clients: Vec<spb::ClientInfo>,
    /// See [`Wanted::Names`].
    pub names: Vec<ChannelName>,
    /// See [`Wanted::Channel`].
    pub channel: Option<RecoveredChannel>,
}

/// What the cluster ID of a store begins with that is not complete: no cluster's own has a blank.
pub(crate) const UNFINISHED: &str = "unfinished ";

/// The reference's text when a channel is created that exists (spec stores, 2.1).
pub const ALREADY_EXISTS: &str = "already exists";
/// The reference's text for a channel that is not there (spec stores, 2.1).
pub const NOT_FOUND: &str = "not found";

/// What speaks against a channel's part before anything of it is written; `last` is the channel's
/// last sequence, `None` if the store has no such channel.
///
/// # Errors
/// The text of the refusal.
pub fn check_part(part: &ChannelBatch, last: Option<Sequence>) -> Result<(), String> {
    let last = match (part.lifecycle, last) {
        (Lifecycle::Create, Some(_)) => return Err(ALREADY_EXISTS.to_owned()),
        (Lifecycle::Keep | Lifecycle::Delete, None) => return Err(NOT_FOUND.to_owned()),
        (Lifecycle::Create, None) => part.begins_after,
        (Lifecycle::Keep | Lifecycle::Delete, Some(last)) => last,
    };
    if part.begins_after != Sequence::ZERO
        && (part.lifecycle != Lifecycle::Create || part.messages.is_empty())
    {
        // Where it begins is kept by its first message alone.
        let text = format!("only a channel that is created can begin after {last}");
        return Err(text);
    }
    if let Some(purge) = &part.purge {
        check_purge(part, purge, last)?;
    }
    let mut expected = last.next();
    for message in &part.messages {
        if planted::is(Bug::SequencePassedOver) {
            expected = message.sequence;
        }
        if message.sequence != expected {
            let text = format!("expected message {expected}, not {}", message.sequence);
            log::error!("Channel {} takes nothing of its batch: {text}", part.channel);
            return Err(text);
        }
        expected = expected.next();
    }
    Ok(())
}

fn check_purge(part: &ChannelBatch, purge: &Purge, last: Sequence) -> Result<(), String> {
    if part.lifecycle != Lifecycle::Keep || !part.messages.is_empty() {
        return Err("messages are let go by a part of a batch that does nothing else".to_owned());
    }
    if purge.first == Sequence::ZERO || last < purge.first {
        return Err(format!("message {} is not there: the last one is {last}", purge.first));
    }
    if purge.stand_in.as_ref().is_some_and(|one| one.sequence != last || purge.first != last) {
        return Err(format!("only the last message, {last}, can be left empty"));
    }
    Ok(())
}

/// What `maintain` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Channels whose messages were removed, with what is left.
    pub trimmed: Vec<(ChannelName, ChannelState)>,
    /// How long from now until there may be something to do again; `None` = only after a commit.
    pub next_in: Option<Duration>,
}

/// What opening a store gives.
pub struct Opened {
    /// Everything that was found.
    pub recovered: RecoveredState,
    /// One share a loop, in the order of the loops.
    pub shares: Vec<Box<dyn Store>>,
    /// Lines for the operator about what was repaired, adopted or set aside.
    pub notices: Vec<Notice>,
}

/// Something that the operator should know of a store that was opened all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// True for what deserves a warning or an error line.
    pub is_warning: bool,
    /// The line.
    pub text: String,
}

/// What was being done when the environment failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Opening, or creating a file.
    Open,
    /// Creating a folder.
    Folder,
    /// Reading.
    Read,
    /// Writing at the end.
    Append,
    /// Making durable.
    Sync,
    /// Renaming or removing.
    Replace,
}

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// This process no longer may write.
    #[error(transparent)]
    Fenced(#[from] FenceError),
    /// The file system said no.
    #[error("{text}")]
    Io {
        /// What we did.
        action: Action,
        /// On what.
        path: PathBuf,
        /// The whole line, in the reference's words where it has some.
        text: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A write failed, and what it had written could not be taken back.
    #[error("{0}; a part of it may have been written")]
    HalfDone(Box<StoreError>),
    /// What lies in the store is not what it should be; the text says what, where, and what to do.
    #[error("{0}")]
    Corrupt(String),
    /// Options or the store's kind do not allow this; the text is the reference's.
    #[error("{0}")]
    Unusable(String),
    /// The payload of a message cannot be decrypted; the text is the reference's.
    #[error(transparent)]
    Undecryptable(#[from] encryption::payload::DecryptError),
    /// The file has another length than we left it with: somebody else writes here.
    #[error(
        "{path}: expected {expected} bytes, found {found}: another process writes to this store"
    )]
    Intruder {
        /// Which file.
        path: PathBuf,
        /// The length that we left.
        expected: u64,
        /// The length that we found.
        found: u64,
    },
    /// The file that we write has no name any more, so nobody will find what is in it.
    #[error(
        "{path}: the file was removed or replaced while it is in use; restore it from a backup if \
         its messages matter, and leave the store's files alone"
    )]
    Vanished {
        /// Which file.
        path: PathBuf,
    },
}

/// A commit that broke off: what of its batch lies in the store is not known, so nobody is answered
/// and the process steps down. No cause makes a refusal of it, not even a full disk.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OutcomeUnknown(#[from] pub StoreError);

impl From<FenceError> for OutcomeUnknown {
    fn from(error: FenceError) -> Self {
        Self(error.into())
    }
}

impl OutcomeUnknown {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::StepDown
    }
}

/// What the server does next. Decided here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Refuse this, keep serving; it may pass (a full disk: the standby has the same one).
    Refuse,
    /// Stop answering, go back to standby.
    StepDown,
    /// The store cannot be served by anybody until a person acts.
    Stop,
}

impl StoreError {
    /// Whether no try succeeds before a person has changed something.
    #[must_use]
    pub fn lasts(&self) -> bool {
        match self {
            Self::Corrupt(_) | Self::Unusable(_) => true,
            Self::Fenced(_)
            | Self::Undecryptable(_)
            | Self::Intruder { .. }
            | Self::Vanished { .. }
            | Self::HalfDone(_) => false,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::Unsupported
            ),
        }
    }

    /// The same where something was written before: no cause makes a refusal of it.
    #[must_use]
    pub fn half_done(self) -> Self {
        if matches!(self, Self::HalfDone(_)) {
            return self;
        }
        Self::HalfDone(Box::new(self))
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Fenced(_) | Self::Intruder { .. } | Self::Vanished { .. } | Self::HalfDone(_) => {
                Remedy::StepDown
            }
            Self::Corrupt(_) | Self::Unusable(_) => Remedy::Stop,
            Self::Undecryptable(_) => Remedy::Refuse,
            Self::Io { action, source, .. } => match (action, source.kind()) {
                (
                    _,
                    io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::TooManyLinks
                    | io::ErrorKind::FileTooLarge,
                ) => Remedy::Refuse,
                (Action::Read, _) => Remedy::Refuse,
                // A database undid all of a transaction: no other member would get through.
                (Action::Append, io::ErrorKind::ResourceBusy) => Remedy::Refuse,
                // A channel's name that no folder can have is its publisher's mistake; a folder of
                // that name that takes no file is that channel's alone.
                (
                    Action::Folder,
                    io::ErrorKind::InvalidFilename
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::CrossesDevices
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::ResourceBusy,
                ) => Remedy::Refuse,
                // The kernel may have dropped the dirty pages: a second sync could succeed
                // without the data, so the standby must take over instead.
                (
                    Action::Sync | Action::Open | Action::Folder | Action::Append | Action::Replace,
                    _,
                ) => Remedy::StepDown,
            },
        }
    }
}
