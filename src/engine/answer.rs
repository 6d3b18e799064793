//! the answer to a subscribe request: together with the first messages, not before them
//!
//! The reference has a channel's newest messages at hand when it answers, and the first deliveries
//! follow in the same write; clients have come to count on it. Where ours have to be read from the
//! store first, the answer waits for that one read. It leaves before the first message, and in any
//! case when the read is over, when the subscription ends, or when this server stops delivering.

use bytes::Bytes;
use prost::Message;

use crate::engine::Engine;
use crate::engine::delivery::Reader;
use crate::engine::effect::Effect;
use crate::engine::reply::Reply;
use crate::engine::subscription::{Subscription, SubscriptionKey};
use crate::proto::pb;

impl Subscription {
    /// The answer to its request, if it was not given yet.
    pub(super) fn take_answer(&mut self) -> Option<Effect> {
        let subject = self.unanswered.take()?.to?;
        let ack_inbox = self.ack_inbox.to_bytes();
        let response = pb::SubscriptionResponse { ack_inbox, error: Bytes::new() };
        let payload = Bytes::from(response.encode_to_vec()).into();
        Some(Effect::Send { subject, reply: None, payload })
    }
}

impl Engine {
    /// Answers a request that comes again, for a subscription that is there.
    pub(super) fn answer_again(&mut self, key: SubscriptionKey, reply: Reply) {
        let Some(found) = self.subscriptions.by_key.get_mut(&key) else {
            return;
        };
        found.unanswered = Some(reply);
        self.answer(key);
    }

    /// Answers the request of a subscription, unless that was done.
    pub(super) fn answer(&mut self, key: SubscriptionKey) {
        if let Some(found) = self.subscriptions.by_key.get_mut(&key) {
            self.effects.extend(found.take_answer());
        }
    }

    /// Answers whoever waited for a read of `reader`.
    pub(super) fn answer_reader(&mut self, reader: Reader) {
        match reader {
            Reader::Plain(key) => self.answer(key),
            Reader::Group(group) => {
                let Some(group) = self.subscriptions.groups.get(&group) else {
                    return;
                };
                for key in group.members.iter() {
                    if let Some(found) = self.subscriptions.by_key.get_mut(key) {
                        self.effects.extend(found.take_answer());
                    }
                }
            }
        }
    }

    /// Answers everybody: nothing is delivered any more.
    pub(super) fn answer_all(&mut self) {
        for (_, channel) in &self.channels.slab {
            let members = channel
                .groups
                .values()
                .filter_map(|group| self.subscriptions.groups.get(group))
                .flat_map(|group| group.members.iter());
            for key in channel.plain.iter().chain(members) {
                if let Some(found) = self.subscriptions.by_key.get_mut(key) {
                    self.effects.extend(found.take_answer());
                }
            }
        }
    }

    /// Whether the first messages of a subscription are being read.
    pub(super) fn is_reading_first(&self, key: SubscriptionKey) -> bool {
        let Some(found) = self.subscriptions.by_key.get(&key) else {
            return false;
        };
        if let Some(pass) = &found.pass {
            return pass.is_fetching();
        }
        let group = found.group.and_then(|group| self.subscriptions.groups.get(&group));
        let cursor = group.map_or(&found.cursor, |group| &group.cursor);
        cursor.fetching.is_some()
    }
}
