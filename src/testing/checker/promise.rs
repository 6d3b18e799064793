//! What can be broken, by name, and what something that is said is about.

use std::fmt;

use crate::base::id::{ChannelName, Sequence};

/// What somebody relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What is acked is durable.
    P1,
    /// One member answers at a time.
    P2,
    /// Sequences are dense, time does not fall, what one publisher sent keeps its order.
    P4,
    /// What is not acknowledged comes again.
    P5,
    /// What is refused is not there.
    P9,
    /// What is delivered somebody has published, bit by bit.
    Genuine,
    /// A subscription begins where it was asked to, and gets what it may.
    Subscriptions,
    /// What the operator has limited.
    Limits,
    /// What the operator has changed.
    Changes,
    /// Who is answered, known and let in.
    Sessions,
    /// What becomes of members: one serves, the others stand by, nobody stays between.
    Roles,
    /// What clients say to each other beside streaming.
    Core,
    /// The product does not panic.
    Lives,
}

impl Promise {
    /// Whether it is kept where nobody can serve what a disk has changed, too.
    pub(super) fn holds_always(self) -> bool {
        match self {
            Self::P2 | Self::P9 | Self::Genuine | Self::Lives => true,
            Self::P1
            | Self::P4
            | Self::P5
            | Self::Subscriptions
            | Self::Limits
            | Self::Changes
            | Self::Sessions
            | Self::Roles
            | Self::Core => false,
        }
    }
}

/// A promise that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub promise: Promise,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.promise {
            Promise::P1 | Promise::P2 | Promise::P4 | Promise::P5 | Promise::P9 => {
                write!(f, "{:?}: {}", self.promise, self.text)
            }
            Promise::Lives => write!(f, "panicked: {}", self.text),
            Promise::Genuine
            | Promise::Subscriptions
            | Promise::Limits
            | Promise::Changes
            | Promise::Sessions
            | Promise::Roles
            | Promise::Core => f.write_str(&self.text),
        }
    }
}

/// What something that is said hangs on, of what a disk keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum On<'a> {
    /// On nothing.
    Nothing,
    /// On what one sequence of a channel is.
    Message(&'a ChannelName, Sequence),
    /// On that, and on what is known of a subscription.
    Delivery(&'a ChannelName, Sequence),
    /// On what is known of the subscriptions of a channel, and who their clients are.
    Subscriptions(&'a ChannelName),
    /// On all that lies in a channel.
    Channel(&'a ChannelName),
    /// On who is a client.
    Clients,
}
