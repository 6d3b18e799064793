//! What a new subscription may be sent and has to be sent: by where it was asked to begin, and by
//! what the operator has limited.
//!
//! A message counts as older than a request if its publisher was told that it is stored before the
//! request was sent. One that was published again may be stored a second time later, so nothing is
//! said of it.

use bytes::Bytes;

use super::{Asked, Checker, Promise};
use crate::base::channel_limits::StoreLimits;
use crate::base::id::{ChannelName, Sequence, Subject};
use crate::base::time::Instant;
use crate::proto::pb;
use crate::testing::group::wall_at;

/// Where a client wants its subscription to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Something remembers its position, or others share it.
    Remembered,
    /// With what comes next.
    New,
    /// With the last message that is there.
    Last,
    /// With the first one.
    First,
    /// With that sequence, or the first one behind it.
    At(Sequence),
    /// With what is so many nanoseconds old.
    Ago(i64),
}

impl Start {
    /// What a request without a durable and a queue says.
    #[must_use]
    pub fn of(request: &pb::SubscriptionRequest) -> Self {
        if !request.durable_name.is_empty() || !request.q_group.is_empty() {
            return Self::Remembered;
        }
        match pb::StartPosition::try_from(request.start_position) {
            Ok(pb::StartPosition::LastReceived) => Self::Last,
            Ok(pb::StartPosition::First) => Self::First,
            Ok(pb::StartPosition::SequenceStart) => Self::At(Sequence(request.start_sequence)),
            Ok(pb::StartPosition::TimeDeltaStart) => Self::Ago(request.start_time_delta),
            Ok(pb::StartPosition::NewOnly) | Err(_) => Self::New,
        }
    }
}

/// How far two clocks may differ that both may be wrong and jump, and what an expiry may take.
const CLOCKS_APART_NANOS: i64 = 13_000_000_000;
/// What an expiry may take where every clock is right.
const EXPIRY_NANOS: i64 = 2_000_000_000;

impl Checker {
    /// Whether it was stored, as its publisher knew, before the subscription was asked for.
    fn is_older(&self, asked: &Asked, data: &Bytes) -> bool {
        let is_acked = |before| self.acked.get(data).is_some_and(|acked| acked.order < before);
        is_acked(asked.acked_before) && !self.doubts.may_be_twice(data)
    }

    /// What is wrong with sending a message to a subscription at all.
    pub(super) fn unwanted(&self, inbox: &Subject, message: &pb::MsgProto) -> Option<String> {
        let asked = self.asked.get(inbox)?;
        let sequence = Sequence(message.sequence);
        let told = self.told.get(&asked.channel);
        let is_older = |sequence: &Sequence| {
            let data = told.and_then(|told| told.get(sequence));
            data.is_some_and(|(data, _)| self.is_older(asked, data))
        };
        let is_unwanted = self.is_older(asked, &message.data)
            && match asked.start {
                Start::New => true,
                Start::Last => asked.seen.iter().any(|seen| *seen != sequence && is_older(seen)),
                Start::At(first) => sequence < first,
                Start::Ago(nanos) => {
                    self.doubts.is_calm() && message.timestamp < wall_at(asked.asked_at).0 - nanos
                }
                Start::Remembered | Start::First => false,
            };
        let text =
            || format!("{}:{sequence} for {inbox} lies before {:?}", asked.channel, asked.start);
        is_unwanted.then(text)
    }

    /// What is wrong with sending a message to a subscription by what the operator has limited.
    pub(super) fn beyond(&mut self, inbox: &Subject, message: &pb::MsgProto) -> Vec<String> {
        let crowd = self.crowd(inbox, message);
        let Some(asked) = self.asked.get(inbox) else { return Vec::new() };
        let outlived = self.outlived(asked, inbox, message);
        let lingering = || self.lingering(asked, message);
        outlived.or_else(lingering).into_iter().chain(crowd).collect()
    }

    /// What lies in a channel that was deleted, because nobody used it, is sent to nobody who asks
    /// then.
    fn lingering(&self, asked: &Asked, message: &pb::MsgProto) -> Option<String> {
        let published = self.published.get(&message.data)?;
        let is_older = published.order < asked.published_before;
        let is_gone = is_older && asked.was_unused;
        is_gone.then(|| format!("{} was used by nobody, and is still there", asked.channel))
    }

    /// What a limit has removed before a subscription was asked for is not sent to it.
    fn outlived(&self, asked: &Asked, inbox: &Subject, message: &pb::MsgProto) -> Option<String> {
        let (usual, limits) = (StoreLimits::default().global, self.limits.of(&asked.channel));
        let place = || format!("{}:{} for {inbox} is sent", asked.channel, message.sequence);
        let (sequence, last) = (Sequence(message.sequence), asked.told_before);
        let count = last.get().saturating_sub(sequence.get());
        if limits.messages_max < usual.messages_max && limits.messages_max <= count {
            let max = limits.messages_max;
            return Some(format!("{}, and {count} of at most {max} are newer", place()));
        }
        if limits.bytes_max < usual.bytes_max && sequence < last {
            let told = self.told.get(&asked.channel)?.range(sequence.next()..=last);
            let bytes: u64 = told.map(|(_, (data, _))| data.len() as u64).sum();
            if limits.bytes_max < bytes {
                return Some(format!("{}, and {bytes} bytes are newer", place()));
            }
        }
        if !limits.age_max.is_zero() {
            let slack = if self.doubts.is_calm() { EXPIRY_NANOS } else { CLOCKS_APART_NANOS };
            let age_max = i64::try_from(limits.age_max.as_nanos()).unwrap_or(i64::MAX);
            let age = wall_at(asked.asked_at).0 - message.timestamp;
            if age_max.saturating_add(slack) < age {
                return Some(format!("{}, {age} ns old", place()));
            }
        }
        None
    }

    /// More subscriptions than a channel may have were there when one message was published.
    fn crowd(&mut self, inbox: &Subject, message: &pb::MsgProto) -> Option<String> {
        let asked = self.asked.get(inbox)?;
        let (usual, limits) = (StoreLimits::default().global, self.limits.of(&asked.channel));
        let published = self.published.get(&message.data)?;
        let was_there = asked.is_owed_from().is_some_and(|from| from <= published.order);
        let has_few = (1..usual.subscriptions_max).contains(&limits.subscriptions_max);
        if !has_few || !was_there {
            return None;
        }
        let place = (asked.channel.clone(), Sequence(message.sequence));
        let text = format!("{}:{} went to", place.0, place.1);
        let got = self.crowds.entry(place).or_default();
        got.insert(inbox.clone());
        let count = got.len();
        let max = limits.subscriptions_max;
        (max < count as u64).then(|| format!("{text} {count} subscriptions of at most {max}"))
    }

    /// Whether a subscription that is there has to be sent a message that is there, though it may
    /// be older than the subscription.
    pub(super) fn is_due(&self, asked: &Asked, sequence: Sequence, data: &Bytes) -> bool {
        let published = self.published.get(data);
        let Some(confirmed) = asked.is_owed_from() else { return false };
        let timestamp = |channel: &ChannelName| {
            self.told.get(channel).and_then(|told| told.get(&sequence)).map(|(_, at)| *at)
        };
        let is_asked_for = match asked.start {
            // What was published while the request was under way may be the last one.
            Start::Remembered | Start::New | Start::Last => false,
            Start::First => true,
            Start::At(first) => first <= sequence,
            Start::Ago(nanos) => {
                let from = wall_at(asked.confirmed_at).0 - nanos;
                self.doubts.is_calm() && timestamp(&asked.channel).is_some_and(|at| from <= at)
            }
        };
        // What stands in for a lost message was published by nobody, and owed to nobody.
        published.is_some_and(|it| is_asked_for || confirmed <= it.order)
    }

    /// Somebody was not answered, or was told that it is unknown, though nothing goes wrong in this
    /// run.
    pub fn on_let_down(&mut self, now: Instant, text: impl FnOnce() -> String) {
        self.set_now(now);
        if self.doubts.is_calm() {
            self.fail(Promise::Sessions, text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::checker::Asking;
    use crate::testing::limits;
    use crate::testing::trace::Trace;

    fn message(channel: &'static str, sequence: u64) -> pb::MsgProto {
        pb::MsgProto {
            sequence,
            subject: Bytes::from_static(channel.as_bytes()),
            data: Bytes::from(format!("message {sequence}")),
            timestamp: wall_at(Instant(1_000_000_000 + sequence)).0,
            ..pb::MsgProto::default()
        }
    }

    /// Goal: what a checker says of a channel with so many messages that are acked and read, of
    /// which a subscription that asks for `start` then is sent some.
    fn told(channel: &'static str, count: u64, start: Start, sent: &[u64]) -> Option<String> {
        let limits = limits::tight().resolve().expect("no section is wrong");
        let mut checker = Checker::new(limits, Trace::new(false));
        let name = ChannelName::from(channel);
        let ask = |checker: &mut Checker, inbox: &Subject, start| {
            let asking = Asking {
                inbox,
                channel: &name,
                durable: None,
                in_queue: false,
                in_flight_max: 1_000,
                start,
            };
            checker.set_now(Instant(1_000_001_000));
            checker.on_asked(&asking);
            checker.on_confirmed(inbox);
        };
        let (reader, asker) = (Subject::from("reader"), Subject::from("asker"));
        ask(&mut checker, &reader, Start::First);
        for sequence in 1..=count {
            let message = message(channel, sequence);
            checker.on_published(message.data.clone(), 1, sequence);
            checker.on_acked(&name, message.data.clone());
            checker.on_delivered(&reader, &message);
        }
        assert_eq!(checker.violation(), None);
        ask(&mut checker, &asker, start);
        for sequence in sent {
            let message = message(channel, *sequence);
            if count < *sequence {
                checker.on_published(message.data.clone(), 1, *sequence);
            }
            checker.on_delivered(&asker, &message);
        }
        checker.violation().map(ToString::to_string)
    }

    #[test]
    fn a_subscription_begins_where_it_was_asked_to() {
        assert_eq!(told("orders", 5, Start::New, &[6, 7]), None);
        assert!(told("orders", 5, Start::New, &[5]).is_some());
        assert_eq!(told("orders", 5, Start::Last, &[5, 6]), None);
        assert!(told("orders", 5, Start::Last, &[4, 5]).is_some());
        assert_eq!(told("orders", 5, Start::At(Sequence(3)), &[3, 4]), None);
        assert!(told("orders", 5, Start::At(Sequence(3)), &[2]).is_some());
        assert_eq!(told("orders", 5, Start::First, &[1, 2, 3]), None);
    }

    #[test]
    fn what_a_limit_has_removed_is_sent_to_nobody_who_asks_then() {
        assert_eq!(told("Jobs", 25, Start::First, &[6, 7]), None);
        assert!(told("Jobs", 25, Start::First, &[5]).is_some());
        // Each has at least nine bytes, and 2,000 may stay.
        assert!(told("events.us", 250, Start::First, &[1]).is_some());
        assert_eq!(told("events.us", 250, Start::First, &[249]), None);
    }
}
