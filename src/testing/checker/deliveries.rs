//! What is delivered at most so often: nobody may see it once more, whoever serves, and it is a
//! dead letter once faults have stopped.

use bytes::Bytes;

use crate::base::id::{ChannelName, Sequence, Subject};
use crate::proto::pb;
use crate::testing::checker::{Audit, Checker, On, Promise};
use crate::testing::limits::{DEAD_LETTERS, POISON};

impl Checker {
    /// A message of a channel with a limit on deliveries came on `inbox`. Each client has one
    /// durable there, which it never unsubscribes.
    pub(super) fn check_deliveries(
        &mut self,
        channel: &ChannelName,
        inbox: &Subject,
        message: &pb::MsgProto,
    ) {
        let Some(policy) = self.limits.policy_of(channel).filter(|policy| policy.counts()) else {
            return;
        };
        let key = (client_of(inbox), message.sequence, message.data.clone());
        let count = self.deliveries.entry(key).or_default();
        *count += 1;
        let (count, sequence) = (*count, message.sequence);
        let on = On::Channel(channel);
        if policy.deliveries_max < count {
            let text = format!(
                "{channel}:{sequence} was delivered {count} times to the durable of {inbox}, and \
                 {} are the most",
                policy.deliveries_max
            );
            self.fail_on(Promise::Limits, on, text);
        } else if message.redelivery_count + 1 < count {
            let text = format!(
                "{channel}:{sequence} says on {inbox} that it is redelivery {}, and is delivery \
                 {count}",
                message.redelivery_count
            );
            self.fail_on(Promise::Limits, on, text);
        }
    }

    /// Whether the channel of dead letters has to be read in the end.
    #[must_use]
    pub fn expects_dead_letters(&self) -> bool {
        let poison = ChannelName::from(POISON);
        let is_counted = self.limits.policy_of(&poison).is_some_and(|policy| policy.counts());
        is_counted && self.asked.values().any(|asked| asked.channel == poison)
    }

    /// A message that was delivered as often as it may be to a durable that is there, and is no
    /// dead letter.
    pub(super) fn first_without_dead_letter(&self, audit: &Audit) -> Option<String> {
        let (poison, letters) = (ChannelName::from(POISON), ChannelName::from(DEAD_LETTERS));
        let most = self.limits.policy_of(&poison).filter(|it| it.counts())?.deliveries_max;
        if self.doubts.excuses(On::Channel(&poison)) || self.doubts.excuses(On::Channel(&letters)) {
            return None;
        }
        let is_open = |client: &Bytes| {
            let mut asked = self.asked.iter().filter(|(_, asked)| asked.channel == poison);
            asked.any(|(inbox, asked)| {
                let is_left = asked.in_flight_max == usize::MAX;
                asked.is_confirmed
                    && !is_left
                    && asked.doubts.is_empty()
                    && client_of(inbox) == *client
            })
        };
        let is_letter = |data: &Bytes| {
            audit.get(&letters).is_some_and(|found| found.values().any(|it| it == data))
        };
        let can_be = |sequence| !self.doubts.excuses(On::Delivery(&poison, Sequence(sequence)));
        let mut spent = self.deliveries.iter().filter(|(_, count)| most <= **count);
        let missing = spent.find(|((client, sequence, data), _)| {
            is_open(client) && can_be(*sequence) && !is_letter(data)
        });
        missing.map(|((_, sequence, _), _)| format!("{poison}:{sequence} as a dead letter"))
    }
}

/// Whose inbox it is.
fn client_of(inbox: &Subject) -> Bytes {
    let name = inbox.as_bytes().split(|byte| *byte == b'.').nth(1);
    Bytes::copy_from_slice(name.unwrap_or_default())
}
