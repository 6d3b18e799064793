//! What is delivered at most so often: nobody may see it once more, whoever serves.

use bytes::Bytes;

use crate::base::id::{ChannelName, Subject};
use crate::proto::pb;
use crate::testing::checker::{Checker, On, Promise};

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
}

/// Whose inbox it is.
fn client_of(inbox: &Subject) -> Bytes {
    let name = inbox.as_bytes().split(|byte| *byte == b'.').nth(1);
    Bytes::copy_from_slice(name.unwrap_or_default())
}
