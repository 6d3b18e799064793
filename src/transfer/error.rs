//! Why nothing is moved or copied from one store to another.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::id::{ChannelName, Sequence};
use crate::site::new_store::NewStoreError;
use crate::site::place::PlaceError;
use crate::store::StoreError;
use crate::transfer::lines::LinesError;

/// Why nothing was moved or copied, or not all. The store that has had it still has it; the other
/// one may have a copy.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is nothing to take it from, or to bring it to.
    #[error("a store in memory is gone with its server")]
    Memory,
    /// The source cannot be used.
    #[error("the store that has it: {0}")]
    Source(#[source] PlaceError),
    /// The target cannot be used.
    #[error("the store that is to have it: {0}")]
    Target(#[source] PlaceError),
    /// What is made now would belong to another user than what is there.
    #[error("{} belongs to user {owner}, and this is user {user}: run it as that one", .path.display())]
    User {
        /// Where it lies.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Nothing of that name is there.
    #[error("there is no channel {0}")]
    NoChannel(ChannelName),
    /// A store without a server's record.
    #[error("the store that is to have it was never used: start its server once, and stop it")]
    NewTarget,
    /// Clients of one would not find the other.
    #[error("they are of different clusters: {from:?} and {to:?}")]
    Clusters {
        /// Of the source.
        from: String,
        /// Of the target.
        to: String,
    },
    /// The target has its own.
    #[error("the store that is to have {channel} has one already, with other {what}")]
    Taken {
        /// Which channel.
        channel: ChannelName,
        /// What differs.
        what: &'static str,
    },
    /// There is a key, and nobody has named it.
    #[error(
        "the messages of {channel} look encrypted, and no key is given for the store that has it: \
         name it in that server's file, or say --encrypt, with the key in \
         NATS_STREAMING_ENCRYPTION_KEY"
    )]
    Encrypted {
        /// Which channel.
        channel: ChannelName,
    },
    /// Both are one.
    #[error("both are one store")]
    OneStore,
    /// The new one would be a channel of the other.
    #[error("{} lies in the store that is copied: name a place outside of it", .path.display())]
    Nested {
        /// Where it was to be.
        path: PathBuf,
    },
    /// There is no store.
    #[error("{} has no store: {why}", .path.display())]
    NoStore {
        /// Where it should be.
        path: PathBuf,
        /// What is there instead.
        why: String,
    },
    /// A store without a server's record.
    #[error("the store that has it was never used: it says of no cluster whose it is")]
    NewSource,
    /// What a command has begun and not ended.
    #[error("the store that has it is not complete: it is an {0}")]
    Unfinished(String),
    /// None has a name that was asked for.
    #[error("no channel matches {0:?}")]
    NoMatch(String),
    /// The target cannot be begun or ended.
    #[error(transparent)]
    NewStore(#[from] NewStoreError),
    /// The target is complete, and not of this source.
    #[error(
        "the store that is to have it is complete, and has other {0}: nothing was written to it"
    )]
    Complete(String),
    /// The source passes over it.
    #[error("message {sequence} of {channel} is not there, or damaged")]
    Missing {
        /// Which channel.
        channel: ChannelName,
        /// Which message.
        sequence: Sequence,
    },
    /// The server of the source does not say it.
    #[error("{0}")]
    Served(String),
    /// A channel changes faster than it is read.
    #[error("limits let go of messages of {0} faster than they are copied: ask again")]
    Fleeting(ChannelName),
    /// What is to be restored.
    #[error(transparent)]
    Lines(#[from] LinesError),
    /// Lines cannot be written.
    #[error("the lines cannot be written: {0}")]
    Output(#[source] io::Error),
    /// The target would not keep it.
    #[error("limits of the store that is to have {channel} {why}: raise them")]
    Limits {
        /// Which channel.
        channel: ChannelName,
        /// Which limit, and what is beyond it.
        why: String,
    },
    /// What was read back is not what was written.
    #[error("{channel} was copied, and reads back with other {what}: both stores were left")]
    Differs {
        /// Which channel.
        channel: ChannelName,
        /// What differs.
        what: &'static str,
    },
}

impl TransferError {
    /// Whether what lies in the source is not what it should be.
    #[must_use]
    pub fn is_of_a_damaged_source(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::Source(PlaceError::Store(StoreError::Corrupt(_)))
        )
    }

    /// What is said of a store that was to be made of a file.
    #[must_use]
    pub fn in_file(&self, path: &Path) -> String {
        if let Self::Lines(error) = self {
            return format!("{}: {error}", path.display());
        }
        self.to_string()
    }
}
