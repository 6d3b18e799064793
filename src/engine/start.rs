//! start positions: where in its channel a new subscription begins
//!
//! Facts: spec protocol, 9.3. A position is resolved once, when the subscription is created.

use crate::base::id::Sequence;
use crate::base::time::{Now, WallTime};
use crate::engine::channel::Channel;
use crate::proto::pb;

/// What a start position means.
pub(super) enum Start {
    /// Deliver what comes after this.
    After(Sequence, String),
    /// The store has to look it up.
    Find(WallTime),
}

/// What a start position means now (spec protocol, 9.3). What is staged counts as stored, so that
/// a subscription starts exactly between two publishes.
pub(super) fn start_of(request: &pb::SubscriptionRequest, channel: &Channel, now: Now) -> Start {
    let last = channel.last;
    let first = if channel.state.first == Sequence::ZERO && last > Sequence::ZERO {
        Sequence(1)
    } else {
        channel.state.first
    };
    let position = pb::StartPosition::try_from(request.start_position);
    match position.unwrap_or(pb::StartPosition::NewOnly) {
        pb::StartPosition::NewOnly => Start::After(last, format!("new-only, seq={}", last.next())),
        pb::StartPosition::LastReceived => {
            let after = last.prev();
            Start::After(after, format!("last message, seq={}", after.next()))
        }
        pb::StartPosition::First => {
            let after = first.prev();
            Start::After(after, format!("from beginning, seq={}", after.next()))
        }
        pb::StartPosition::SequenceStart => {
            let asked = Sequence(request.start_sequence);
            let after = if asked < first {
                first.prev()
            } else if last < asked {
                last
            } else {
                asked.prev()
            };
            let text = format!("from sequence, asked_seq={asked} actual_seq={}", after.next());
            Start::After(after, text)
        }
        pb::StartPosition::TimeDeltaStart => {
            let at = WallTime(now.wall.0.saturating_sub(request.start_time_delta));
            let is_after_all = channel.last_timestamp < at;
            if last == Sequence::ZERO || is_after_all || last < first {
                let text = format!("from time time='{}' seq={}", at.0, last.next());
                return Start::After(last, text);
            }
            if channel.state.last == Sequence::ZERO || channel.state.last < channel.state.first {
                // Nothing is committed: what is staged was published just now.
                return Start::After(channel.state.last, "from time".to_owned());
            }
            Start::Find(at)
        }
    }
}
