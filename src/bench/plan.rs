//! What is asked for: the kind of work, its numbers, and whether they fit together

use std::time::Duration;

use crate::base::subject;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Channels of a streaming server: each publish is acknowledged, each delivery too.
    Streaming,
    /// Plain subjects.
    Core,
    /// Questions on a plain subject, and their answers.
    Request,
    /// A stream of JetStream: each publish is acknowledged.
    JetStream,
}

/// The numbers of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is measured.
    pub(crate) work: Work,
    /// Connections that publish, or ask; 0: what is stored is only read.
    pub(crate) publishers: usize,
    /// Connections that get everything.
    pub(crate) subscribers: usize,
    /// Connections that share everything as one queue group, or answer questions.
    pub(crate) queue_members: usize,
    /// Channels or subjects, which publishers take in turn.
    pub(crate) channels: usize,
    /// Messages of all publishers together; where there are none, those that a subscriber gets.
    pub(crate) messages: u64,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// Unacknowledged messages of one publisher at most; 1: it waits for each.
    pub(crate) in_flight: usize,
    /// Unacknowledged deliveries of one subscription at most.
    pub(crate) deliveries_in_flight: i32,
    /// Messages a second of all publishers together, whatever the server does.
    pub(crate) rate: Option<u64>,
    /// Whether subscribers begin with the first stored message.
    pub(crate) replays: bool,
    /// How the names of channels and subjects begin.
    pub(crate) subject: String,
}

/// When the messages of one publisher are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Messages a second of all publishers together.
    rate: u64,
    /// So many publishers.
    count: u64,
    /// Which of them it is.
    place: u64,
}

impl Pace {
    /// How long after the begin one of its messages is due; what is lost by rounding does not add
    /// up.
    pub(crate) fn due(self, number: u64) -> Duration {
        let turn = u128::from(number) * u128::from(self.count) + u128::from(self.place);
        let nanos = turn * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A number of a plan that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("nobody publishes and nobody subscribes: give --publishers or --subscribers")]
    Nobody,
    #[error("without publishers there is only what is stored: give --replay, or --publishers")]
    NothingToRead,
    #[error("only channels of a streaming server are replayed")]
    NoReplay,
    #[error(
        "only publishes and deliveries are measured of a stream: leave --subscribers and --queue-members out"
    )]
    NoReaders,
    #[error("questions need somebody who answers: --queue-members is 1 at least")]
    NobodyAnswers,
    #[error("--rate needs publishers")]
    NobodyIsDue,
    #[error(
        "invalid name {0:?}: it takes words with dots between, without blanks, \"*\" and \">\""
    )]
    InvalidName(String),
    #[error("there are fewer messages than publishers")]
    TooFew,
}

impl Plan {
    /// Whether the numbers fit together.
    ///
    /// # Errors
    /// The first that does not.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let readers = self.subscribers + self.queue_members;
        let is_told = |is_so: bool, error| if is_so { Err(error) } else { Ok(()) };
        is_told(self.publishers == 0 && readers == 0, PlanError::Nobody)?;
        is_told(self.publishers == 0 && !self.replays, PlanError::NothingToRead)?;
        is_told(self.replays && self.work != Work::Streaming, PlanError::NoReplay)?;
        is_told(self.work == Work::JetStream && readers != 0, PlanError::NoReaders)?;
        let name = self.subject.as_bytes();
        let is_name = subject::is_channel_name(name) && subject::is_literal(name);
        is_told(!is_name, PlanError::InvalidName(self.subject.clone()))?;
        let asks = self.work == Work::Request;
        is_told(asks && self.queue_members == 0, PlanError::NobodyAnswers)?;
        is_told(self.rate.is_some() && self.publishers == 0, PlanError::NobodyIsDue)?;
        let publishers = u64::try_from(self.publishers).unwrap_or(u64::MAX);
        is_told(self.messages < publishers, PlanError::TooFew)
    }

    /// How many messages one of the publishers sends: the first ones one more, if it does not
    /// divide.
    pub(crate) fn share(&self, publisher: usize) -> u64 {
        let count = u64::try_from(self.publishers.max(1)).unwrap_or(u64::MAX);
        let place = u64::try_from(publisher).unwrap_or(u64::MAX);
        self.messages / count + u64::from(place < self.messages % count)
    }

    /// When one of the publishers sends its messages, if there is a rate: they take turns.
    pub(crate) fn pace(&self, publisher: usize) -> Option<Pace> {
        let count = u64::try_from(self.publishers).unwrap_or(u64::MAX);
        let place = u64::try_from(publisher).unwrap_or(u64::MAX);
        self.rate.map(|rate| Pace { rate: rate.max(1), count, place })
    }

    /// The name of a channel or subject.
    pub(crate) fn channel(&self, index: usize) -> String {
        match self.channels {
            1 => self.subject.clone(),
            _ => format!("{}.{}", self.subject, index + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn plan() -> Plan {
        Plan {
            work: Work::Streaming,
            publishers: 3,
            subscribers: 0,
            queue_members: 0,
            channels: 1,
            messages: 10,
            size: 16,
            in_flight: 1,
            deliveries_in_flight: 1,
            rate: None,
            replays: false,
            subject: "bench".to_owned(),
        }
    }

    #[test]
    fn publishers_share_all_messages() {
        let plan = plan();
        assert_eq!([0, 1, 2].map(|place| plan.share(place)), [4, 3, 3]);
        assert_eq!(plan.channel(0), "bench");
        assert_eq!(plan.pace(1), None);
        assert_eq!(Plan { channels: 2, ..plan }.channel(1), "bench.2");
    }

    /// Goal: all publishers together keep the rate from the first message to the last, and none of
    /// them sends while it is the turn of another.
    #[test]
    fn publishers_take_turns_at_a_rate() {
        for (publishers, rate) in [(1, 7), (3, 300), (7, 3_000_001), (64, 100_000_000)] {
            let plan = Plan { publishers, rate: Some(rate), ..plan() };
            let count = u64::try_from(publishers).unwrap();
            for turn in (0..1_000).chain(100_000_000..100_000_100) {
                let publisher = usize::try_from(turn % count).unwrap();
                let due = plan.pace(publisher).unwrap().due(turn / count);
                let nanos = u128::from(turn) * 1_000_000_000 / u128::from(rate);
                assert_eq!(due.as_nanos(), nanos, "{turn} of {publishers} at {rate}");
            }
        }
        let late = Plan { rate: Some(1), ..plan() }.pace(2).unwrap().due(u64::MAX);
        assert_eq!(late, Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let check = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            plan.check()
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|it| it.publishers = 0), Err(PlanError::Nobody));
        let only_reads = |it: &mut Plan| (it.publishers, it.subscribers) = (0, 1);
        assert_eq!(check(only_reads), Err(PlanError::NothingToRead));
        assert_eq!(
            check(|it| (it.work, it.replays) = (Work::Core, true)),
            Err(PlanError::NoReplay)
        );
        assert_eq!(
            check(|it| (it.work, it.subscribers) = (Work::JetStream, 1)),
            Err(PlanError::NoReaders)
        );
        assert_eq!(check(|it| it.work = Work::Request), Err(PlanError::NobodyAnswers));
        let named = |it: &mut Plan| it.subject = "a..b".to_owned();
        assert_eq!(check(named), Err(PlanError::InvalidName("a..b".to_owned())));
        assert_eq!(check(|it| it.messages = 2), Err(PlanError::TooFew));
    }
}
