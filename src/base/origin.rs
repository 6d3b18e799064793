//! Who sent a message: account, connection and user, as far as this process knows them.

use crate::base::id::{AccountIndex, SessionId};

/// Who sent a message. Whatever takes it in may ask; nobody has to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// In which account.
    pub account: AccountIndex,
    /// By which connection it came; `None` if this process sent it.
    pub connection: Option<SessionId>,
    /// The user there; `None` if it did not say who it is, as a server that only passes it on.
    pub user: Option<String>,
}
