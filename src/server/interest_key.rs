//! what an interest of an engine or of the server itself is recognised by in the brokers

use crate::base::id::Subject;
use crate::engine::effect::{Interest, Service};

/// Who in the server room listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Heartbeats of the fault-tolerance group.
    GroupHeartbeat,
    /// Answers to the stand-alone probe (spec protocol, 17.4).
    StandAloneProbe,
    /// Probes of other servers, while this one looks whether it is alone.
    ForeignProbe,
    /// Answers to the question whether another server is active too.
    Rival,
    /// Lists of the channels of other servers.
    ChannelLists,
    /// Answers to our own list.
    ChannelListAnswers,
    /// What the members of the group tell of themselves.
    MemberNews,
    /// What users ask of the active member.
    Administration,
}

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An interest of an engine.
    Engine(Interest),
    /// An interest of the server room.
    Server(Listener),
}

/// Inboxes of the server room begin with this; those of engines have no second token like it.
pub const SERVER_INBOX_PREFIX: &str = "_INBOX.stanby.";

const SERVICES: [Service; 7] = [
    Service::Connect,
    Service::Publish,
    Service::Subscribe,
    Service::Unsubscribe,
    Service::SubscriptionClose,
    Service::Close,
    Service::Ping,
];
const LISTENERS: [Listener; 8] = [
    Listener::GroupHeartbeat,
    Listener::StandAloneProbe,
    Listener::ForeignProbe,
    Listener::Rival,
    Listener::ChannelLists,
    Listener::ChannelListAnswers,
    Listener::MemberNews,
    Listener::Administration,
];

/// Tokens of engines come behind the fixed keys.
const FIRST_TOKEN: u64 = 16;

/// The key of an engine's interest.
///
/// # Panics
/// When a service is missing from the table.
#[must_use]
pub fn of_engine(interest: Interest) -> u64 {
    match interest {
        Interest::Service(service) => position(&SERVICES, &service),
        Interest::Own(token) => FIRST_TOKEN + token,
    }
}

/// The key of an interest of the server room.
///
/// # Panics
/// When a listener is missing from the table.
#[must_use]
pub fn of_server(listener: Listener) -> u64 {
    position(&SERVICES, &Service::Ping) + 1 + position(&LISTENERS, &listener)
}

/// What a key stands for.
///
/// # Panics
/// When it is none of ours: brokers give back what they got.
#[must_use]
pub fn decode(key: u64) -> Decoded {
    if let Some(token) = key.checked_sub(FIRST_TOKEN) {
        return Decoded::Engine(Interest::Own(token));
    }
    let index = usize::try_from(key).expect("below the first token");
    match SERVICES.get(index) {
        Some(service) => Decoded::Engine(Interest::Service(*service)),
        None => Decoded::Server(LISTENERS[index - SERVICES.len()]),
    }
}

/// Whether `subject` is an inbox of the server room.
#[must_use]
pub fn is_server_inbox(subject: &Subject) -> bool {
    subject.as_bytes().starts_with(SERVER_INBOX_PREFIX.as_bytes())
}

fn position<T: PartialEq>(table: &[T], item: &T) -> u64 {
    let index = table.iter().position(|other| other == item).expect("the table is complete");
    u64::try_from(index).expect("a small table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_back_as_what_it_was_made_of() {
        for service in SERVICES {
            let interest = Interest::Service(service);
            assert_eq!(decode(of_engine(interest)), Decoded::Engine(interest));
        }
        for token in [0, 1, 1 << 40] {
            let interest = Interest::Own(token);
            assert_eq!(decode(of_engine(interest)), Decoded::Engine(interest));
        }
        for listener in LISTENERS {
            assert_eq!(decode(of_server(listener)), Decoded::Server(listener));
        }
    }
}
