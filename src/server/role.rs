//! the role of this process as its server thread knows it

use crate::base::time::Instant;

/// What this process is, as far as streaming is concerned.
///
/// ```text
/// Standby ──lease won──► Activating ──recovered──► Active ──asked to stop──► (drained, released)
///    ▲                       │                        │
///    └───────────────────────┴────────lease lost──────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It waits for the lease; after an activation that failed not before the given moment.
    Standby {
        /// When the lease may be asked for again.
        not_before: Option<Instant>,
    },
    /// It has the lease and serves.
    Active,
}
