//! where in its channel a new subscription begins, and what is said of one that does not
//!
//! Facts: spec protocol, 9.3 and section 23. A position is resolved once, when the subscription
//! is created.

use crate::base::go::show_time;
use crate::base::id::Sequence;
use crate::base::time::{Now, WallTime};
use crate::engine::Engine;
use crate::engine::channel::Channel;
use crate::engine::effect::Level;
use crate::engine::refusal::{Refusal, quoted};
use crate::engine::reply::Reply;
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
                let text = format!("from time time='{}' seq={}", show_time(at.0), last.next());
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

impl Engine {
    /// Answers a subscribe request with an error, and says so in the log.
    pub(super) fn refuse_subscribe(
        &mut self,
        request: &pb::SubscriptionRequest,
        reply: &Reply,
        refusal: &Refusal,
    ) {
        let from = String::from_utf8_lossy(&self.info.subscribe).into_owned();
        // Compat: of a client that nobody knows the reference says nothing; pinned by
        // `tests::a_publish_of_a_stranger_is_traced_before_it_is_refused`.
        if !matches!(refusal, Refusal::UnknownClient | Refusal::CaseClash { .. }) {
            self.log(Level::Error, || refused_line(request, refusal, &from));
        }
        if is_late(refusal) {
            let channel = quoted(&request.subject);
            let text = refusal.text();
            let line = || format!("Unable to create subscription on {channel}: {text}");
            self.log(Level::Error, line);
        }
        self.respond_refusal(reply, refusal);
    }
}

/// Whether a refusal is about the channel and what it has already, not about the request alone.
fn is_late(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::ColonInDurable
            | Refusal::DuplicateDurable
            | Refusal::TooManyChannels
            | Refusal::TooManySubscriptions
            | Refusal::CaseClash { .. }
    )
}

fn refused_line(request: &pb::SubscriptionRequest, refusal: &Refusal, from: &str) -> String {
    let client = String::from_utf8_lossy(&request.client_id);
    let channel = String::from_utf8_lossy(&request.subject);
    let about = if *refusal == Refusal::ClientIdMissing {
        return format!("Missing ClientID in subscription request from {from}");
    } else if *refusal == Refusal::InvalidAckWait {
        format!(
            "Invalid AckWait ({}) in subscription request from {from}",
            request.ack_wait_in_secs
        )
    } else if *refusal == Refusal::InvalidInFlightMax {
        format!(
            "Invalid MaxInflight ({}) in subscription request from {from}",
            request.max_in_flight
        )
    } else if *refusal == Refusal::InvalidStart {
        let position = request.start_position;
        format!("Invalid StartPosition ({position}) in subscription request from {from}")
    } else if *refusal == Refusal::InvalidSubject {
        format!("Invalid channel {} in subscription request from {from}", quoted(&request.subject))
    } else if *refusal == Refusal::ColonInDurable {
        let durable = quoted(&request.durable_name);
        format!("Invalid DurableName ({durable}) for queue subscriber from {channel}")
    } else if *refusal == Refusal::DuplicateDurable {
        "Duplicate durable subscription registration".to_owned()
    } else if *refusal == Refusal::TooManyChannels {
        return creation_failed(&request.subject);
    } else {
        return format!("Unable to add subscription for {channel}: {}", refusal.text());
    };
    format!("[Client:{client}] {about}")
}

/// The line about a channel that there is no room for.
pub(super) fn creation_failed(channel: &[u8]) -> String {
    let reason = Refusal::TooManyChannels.text();
    format!("Creating channel {} failed: {reason}", quoted(channel))
}
