//! every reason to say no, with the exact reply text
//!
//! Texts are the reference's (spec protocol, section 22). Those that the store chooses come from
//! the store, in the reports of commits.

use crate::base::id::ChannelName;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A connect request without heartbeat inbox, or no protobuf message.
    InvalidConnect,
    /// A client ID with other characters than letters, digits, `-` and `_`.
    InvalidClientId,
    /// The client ID belongs to a client that lives, or that is being examined.
    AlreadyRegistered,
    /// A publish without GUID, to an illegal channel, of an unknown client, or undecodable.
    InvalidPublish,
    /// A subscribe request that is no protobuf message, or names an illegal inbox.
    InvalidSubscribe,
    /// No client ID in a subscribe request.
    ClientIdMissing,
    /// Ack wait below a second.
    InvalidAckWait,
    /// Max in flight below 1.
    InvalidInFlightMax,
    /// A start position that does not exist.
    InvalidStart,
    /// An illegal channel name in a subscribe request.
    InvalidSubject,
    /// The client is not registered, or the subscription is not its own.
    UnknownClient,
    /// `:` in the durable name of a queue subscription.
    ColonInDurable,
    /// The durable is online.
    DuplicateDurable,
    /// The channel is being deleted.
    ChannelDeleting,
    /// An undecodable unsubscribe or sub close request.
    InvalidUnsubscribe,
    /// The channel of an unsubscribe or sub close request does not exist.
    UnknownChannel,
    /// No subscription has that inbox.
    InvalidSubscription,
    /// An undecodable close request.
    InvalidClose,
    /// A ping of a connection that is not registered.
    Replaced,
    /// The store's limit of channels is reached.
    TooManyChannels,
    /// The channel's limit of subscriptions is reached.
    TooManySubscriptions,
    /// Too much waits for the store; only requests that came by a route can meet this.
    TooManyRequests,
    /// A channel of the same name but for letter case exists.
    CaseClash {
        /// What was asked for.
        asked: ChannelName,
        /// What exists.
        existing: ChannelName,
    },
    /// What the store said.
    Store(String),
}

impl Refusal {
    /// The text that the client gets.
    #[must_use]
    pub fn text(&self) -> String {
        let fixed = match self {
            Self::InvalidConnect => "stan: invalid connection request",
            Self::InvalidClientId => {
                "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed"
            }
            Self::AlreadyRegistered => "stan: clientID already registered",
            Self::InvalidPublish => "stan: invalid publish request",
            Self::InvalidSubscribe => "stan: invalid subscription request",
            Self::ClientIdMissing => "stan: clientID missing",
            Self::InvalidAckWait => "stan: invalid ack wait time, should be >= 1s",
            Self::InvalidInFlightMax => "stan: invalid MaxInflight, should be >= 1",
            Self::InvalidStart => "stan: invalid start position",
            Self::InvalidSubject => "stan: invalid subject",
            Self::UnknownClient => "stan: unknown clientID",
            Self::ColonInDurable => {
                "stan: durable name of a durable queue subscriber can't contain the character ':'"
            }
            Self::DuplicateDurable => "stan: duplicate durable registration",
            Self::ChannelDeleting => "stan: channel is being deleted",
            Self::InvalidUnsubscribe => "stan: invalid unsubscribe request",
            Self::UnknownChannel => "stan: unknown channel",
            Self::InvalidSubscription => "stan: invalid subscription",
            Self::InvalidClose => "stan: invalid close request",
            Self::Replaced => "client has been replaced or is no longer registered",
            Self::TooManyChannels => "too many channels",
            Self::TooManyRequests => "stan: too many requests under way, try again",
            Self::TooManySubscriptions => "too many subscriptions per channel",
            // Compat: the misspelling is the reference's; pinned by
            // channel::tests::names_that_differ_only_by_case_are_refused.
            Self::CaseClash { asked, existing } => {
                return format!(
                    "rejecting channel {} because channel {} alreay exists \
                     (different cases not allowed)",
                    quoted(asked.as_bytes()),
                    quoted(existing.as_bytes()),
                );
            }
            Self::Store(text) => return text.clone(),
        };
        fixed.to_owned()
    }
}

/// A name in double quotes, with escapes for what is not printable.
#[must_use]
pub fn quoted(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for chunk in name.utf8_chunks() {
        for found in chunk.valid().chars() {
            match found {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{7}' => text.push_str("\\a"),
                '\u{8}' => text.push_str("\\b"),
                '\u{b}' => text.push_str("\\v"),
                '\u{c}' => text.push_str("\\f"),
                other if other.is_ascii_control() => {
                    text.push_str(&format!("\\x{:02x}", u32::from(other)));
                }
                other if other.is_control() => {
                    text.push_str(&format!("\\u{:04x}", u32::from(other)));
                }
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_with_escapes() {
        assert_eq!(quoted(b"foo.bar"), "\"foo.bar\"");
        assert_eq!(quoted(b"a\"\\\n\x01\xff"), "\"a\\\"\\\\\\n\\x01\\xff\"");
        assert_eq!(quoted("été".as_bytes()), "\"été\"");
    }
}
