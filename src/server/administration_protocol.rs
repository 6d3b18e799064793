//! what an operator asks of the active member, over its control socket or by a subject, and what
//! comes back

use serde::{Deserialize, Serialize};

/// What is asked. Names are texts: what has a name that is none is not reached this way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Administration {
    /// All channels, or those that a pattern means.
    Channels {
        /// As in limits: `foo.*`, `foo.>`.
        pattern: Option<String>,
    },
    /// One channel with its subscriptions.
    Channel {
        /// Its name.
        channel: String,
    },
    /// Let go of the oldest messages of a channel.
    Purge {
        /// Its name.
        channel: String,
        /// How many.
        extent: Extent,
    },
    /// Delete a channel.
    RemoveChannel {
        /// Its name.
        channel: String,
        /// Together with its subscriptions.
        force: bool,
    },
    /// All clients.
    Clients,
    /// Close a client.
    CloseClient {
        /// Its ID.
        client: String,
    },
    /// Subscriptions of one channel, or of all.
    Subscriptions {
        /// Its name.
        channel: Option<String>,
    },
    /// Close a subscription; a durable stays.
    CloseSubscription {
        /// Of which channel.
        channel: String,
        /// Its id in the store.
        id: u64,
    },
    /// Messages of a channel, as far as one look at the store reaches.
    Messages {
        /// Its name.
        channel: String,
        /// The first that is looked at.
        from: u64,
        /// How many at most.
        count: usize,
        /// Only those whose payload has this in it.
        contains: Option<String>,
    },
    /// What subscriptions of a channel have not acknowledged.
    Pending {
        /// Its name.
        channel: String,
    },
    /// Let a durable that nobody uses go on elsewhere.
    ResetDurable {
        /// Of which channel.
        channel: String,
        /// Its id in the store.
        id: u64,
        /// Where.
        to: Position,
    },
    /// Remove a durable that nobody uses.
    RemoveDurable {
        /// Of which channel.
        channel: String,
        /// Its id in the store.
        id: u64,
    },
}

impl Administration {
    /// As documents and subjects name it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Channels { .. } => "channels",
            Self::Channel { .. } => "channel",
            Self::Purge { .. } => "purge",
            Self::RemoveChannel { .. } => "remove-channel",
            Self::Clients => "clients",
            Self::CloseClient { .. } => "close-client",
            Self::Subscriptions { .. } => "subscriptions",
            Self::CloseSubscription { .. } => "close-subscription",
            Self::Messages { .. } => "messages",
            Self::Pending { .. } => "pending",
            Self::ResetDurable { .. } => "reset-durable",
            Self::RemoveDurable { .. } => "remove-durable",
        }
    }

    /// Whether something is not as it was before, once it was done.
    #[must_use]
    pub fn is_change(&self) -> bool {
        match self {
            Self::Channels { .. }
            | Self::Channel { .. }
            | Self::Clients
            | Self::Subscriptions { .. }
            | Self::Messages { .. }
            | Self::Pending { .. } => false,
            Self::Purge { .. }
            | Self::RemoveChannel { .. }
            | Self::CloseClient { .. }
            | Self::CloseSubscription { .. }
            | Self::ResetDurable { .. }
            | Self::RemoveDurable { .. } => true,
        }
    }

    /// Where that is asked of the active server of a cluster.
    #[must_use]
    pub fn subject(&self, cluster_id: &str) -> String {
        format!("_STAN.admin.{cluster_id}.{}", self.word())
    }
}

/// How much of a channel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// Everything.
    All,
    /// All but so many of the newest messages.
    Keep(u64),
    /// Everything up to a message, with it.
    To(u64),
    /// What was stored before a time: Unix nanoseconds.
    Before(i64),
}

/// The message that a durable gets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// The oldest one.
    First,
    /// The last one.
    Last,
    /// The next one that is published.
    New,
    /// That one.
    At(u64),
    /// The first one that was stored then or later: Unix nanoseconds.
    Since(i64),
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Administered {
    /// Channels by name, without their subscriptions.
    Channels(Vec<ChannelFacts>),
    /// One channel.
    Channel(ChannelFacts),
    /// Messages are gone.
    Purged(Purged),
    /// What was asked for is done.
    Done,
    /// Clients by ID.
    Clients(Vec<ClientFacts>),
    /// Subscriptions by channel.
    Subscriptions(Vec<SubscriptionFacts>),
    /// Messages, ascending.
    Messages {
        /// Those that were found.
        found: Vec<MessageFacts>,
        /// Where the next look begins; `None`: that is all.
        next: Option<u64>,
    },
    /// By subscription, each ascending.
    Pending(Vec<PendingFacts>),
}

/// A channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelFacts {
    /// Its name.
    pub channel: String,
    /// Messages kept.
    pub messages: u64,
    /// Their bytes, as the store counts.
    pub bytes: u64,
    /// The oldest message kept.
    pub first: u64,
    /// The last message that was ever stored.
    pub last: u64,
    /// Its subscriptions, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<Vec<SubscriptionFacts>>,
}

/// A client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientFacts {
    /// Its ID.
    pub client: String,
    /// Where it is asked for heartbeats.
    pub heartbeat_inbox: String,
    /// Heartbeats in a row that it did not answer.
    pub failed_heartbeats: u32,
}

/// A subscription, or a durable that nobody uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionFacts {
    /// Of which channel.
    pub channel: String,
    /// Its id in the store.
    pub id: u64,
    /// Its client, or the last one.
    pub client: String,
    /// Name of a durable that is in no queue group.
    pub durable: String,
    /// Its queue group; of a durable one `durable:group`.
    pub queue: String,
    /// Whether it outlives its client.
    pub is_durable: bool,
    /// Whether nobody uses it now.
    pub is_offline: bool,
    /// Whether it has as many messages as it may have without an acknowledgement.
    pub is_stalled: bool,
    /// How many those are.
    pub in_flight_max: i32,
    /// Seconds until a message is delivered again.
    pub ack_wait_secs: i32,
    /// The last message that was delivered to it.
    pub last_sent: u64,
    /// Delivered and not acknowledged.
    pub pending: usize,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageFacts {
    /// Its number.
    pub sequence: u64,
    /// When it was stored, Unix nanoseconds.
    pub timestamp: i64,
    /// Bytes of its payload.
    pub size: usize,
    /// Its payload, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its payload in hexadecimal digits, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
}

/// A message that waits for an acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PendingFacts {
    /// Its number.
    pub sequence: u64,
    /// Number of the subscription.
    pub subscription: u64,
    /// Its client, or the last one.
    pub client: String,
    /// Name of a durable that is in no queue group.
    pub durable: String,
    /// Its queue group.
    pub queue: String,
    /// When it was delivered last, Unix nanoseconds; `None`: before this member took over.
    pub since: Option<i64>,
    /// How often it was delivered again.
    pub redelivered: u32,
}

/// What a purge has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Purged {
    /// Of which channel.
    pub channel: String,
    /// How many messages are gone.
    pub removed: u64,
    /// Messages kept; after everything was let go an empty one, which keeps the last number.
    pub messages: u64,
    /// The oldest of them.
    pub first: u64,
    /// The last message.
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a permission to publish on the subject of a word is one to ask for that.
    #[test]
    fn the_word_of_a_subject_is_that_of_the_document() {
        let channel = || "c".to_owned();
        let all = [
            Administration::Channels { pattern: None },
            Administration::Channel { channel: channel() },
            Administration::Purge { channel: channel(), extent: Extent::All },
            Administration::RemoveChannel { channel: channel(), force: false },
            Administration::Clients,
            Administration::CloseClient { client: channel() },
            Administration::Subscriptions { channel: None },
            Administration::CloseSubscription { channel: channel(), id: 1 },
            Administration::Messages { channel: channel(), from: 1, count: 1, contains: None },
            Administration::Pending { channel: channel() },
            Administration::ResetDurable { channel: channel(), id: 1, to: Position::First },
            Administration::RemoveDurable { channel: channel(), id: 1 },
        ];
        for what in all {
            let document = serde_json::to_value(&what).expect("texts and numbers are JSON");
            assert_eq!(document["what"], what.word());
            assert_eq!(what.subject("x"), format!("_STAN.admin.x.{}", what.word()));
        }
    }
}
