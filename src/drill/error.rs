//! Why a drill could not be done; that an expectation does not hold is no error.

use std::io;

use crate::client::ClientError;

/// Why a drill could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrillError {
    /// What was being done when the machine refused.
    #[error("{action}: {source}")]
    Io {
        action: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A client of the drill itself.
    #[error("{action}: {source}")]
    Client {
        /// What it was to do.
        action: String,
        /// Why it could not.
        source: ClientError,
    },
    /// A member, the store, or what stands around them.
    #[error("{0}")]
    World(String),
    /// Whoever is at the terminal has enough.
    #[error("interrupted")]
    Interrupted,
}

impl DrillError {
    /// For `map_err`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action: action.into(), source }
    }

    /// For `map_err`.
    pub(crate) fn client(action: impl Into<String>) -> impl FnOnce(ClientError) -> Self {
        move |source| Self::Client { action: action.into(), source }
    }
}
