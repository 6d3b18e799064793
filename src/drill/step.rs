//! One step of a scenario: a line of words to what is to be done.

use std::fmt;
use std::time::Duration;

use crate::base::go;

/// How long a wait may take that names no bound of its own.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Longest time that a step may name.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// Which member a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Whoever is active.
    Active,
    /// The first that is not.
    Standby,
    /// That one; the first is 1.
    Member(usize),
    /// Each of them.
    All,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// A member is active.
    Active,
    /// A member is active, and each other one that runs would take over.
    Ready,
    /// Another member is active than before the last step that disturbed one, and a message that
    /// was published after it is acknowledged.
    TakenOver,
    /// So many more publishes are acknowledged.
    Acks(usize),
    /// So many more messages are delivered.
    Deliveries(usize),
    /// So many more publishes have failed.
    Failures(usize),
    /// A member has ended.
    Ended,
    /// Whoever is at the input has said that it is over.
    InputEnds,
}

/// Something that is done in a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "a step-down is what all call it")]
pub(crate) enum Step {
    /// SIGKILL.
    Kill(Target),
    /// SIGTERM.
    Terminate(Target),
    /// SIGSTOP, and SIGCONT after that time.
    Pause(Target, Duration),
    /// The active one lets another one be active.
    StepDown,
    /// Members that have ended are started again.
    Start(Target),
    /// The members cannot reach each other any more.
    Partition,
    /// They can again.
    Heal,
    /// Nothing fits on the store's disk any more.
    FillDisk,
    /// There is room again.
    FreeDisk,
    /// The database ends.
    StopDatabase,
    /// It is started again.
    StartDatabase,
    /// Until something is so; longer than this is a failure.
    Wait(Condition, Duration),
    /// A time, because the scenario wants it.
    Pass(Duration),
}

/// The forms of all steps, for who wrote another one.
pub(crate) const FORMS: &str = "kill -9 WHO, term WHO, pause WHO TIME, step-down, start [WHO], partition, \
                         heal, fill the disk, free the disk, stop the database, start the database, \
                         wait until CONDITION [within TIME], wait TIME; WHO is active, standby, all \
                         or member N";

/// The forms of all conditions.
const CONDITIONS: &str = "active, ready, taken over, ended, N acks, N deliveries, N failures \
                          or the input ends";

impl Step {
    /// Takes a step apart.
    ///
    /// # Errors
    /// What is wrong with it, in words for who wrote it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["kill", "-9" | "-KILL", who @ ..] | ["kill", who @ ..] => {
                target(who, "kill -9").map(Self::Kill)
            }
            ["term", who @ ..] => target(who, "term").map(Self::Terminate),
            ["pause", who @ .., time] if looks_like_a_time(time) && !is_a_member(who, time) => {
                Ok(Self::Pause(target(who, "pause")?, duration(time)?))
            }
            ["pause", ..] => Err("it has to say how long, as in pause active 8s".to_owned()),
            ["step-down"] => Ok(Self::StepDown),
            ["start"] => Ok(Self::Start(Target::All)),
            ["partition"] => Ok(Self::Partition),
            ["heal"] => Ok(Self::Heal),
            ["fill", "the", "disk"] => Ok(Self::FillDisk),
            ["free", "the", "disk"] => Ok(Self::FreeDisk),
            ["stop", "the", "database"] => Ok(Self::StopDatabase),
            ["start", "the", "database"] => Ok(Self::StartDatabase),
            ["start", who @ ..] => match target(who, "start")? {
                Target::Active | Target::Standby => {
                    Err("who has ended is neither: start, start all or start member N".to_owned())
                }
                who @ (Target::Member(_) | Target::All) => Ok(Self::Start(who)),
            },
            ["wait", "until", condition @ .., "within", time] => {
                Ok(Self::Wait(self::condition(condition)?, duration(time)?))
            }
            ["wait", "until", condition @ ..] => {
                Ok(Self::Wait(self::condition(condition)?, WAIT_MAX))
            }
            ["wait", time] => Ok(Self::Pass(duration(time)?)),
            _ => Err(format!("there is no such step: {FORMS}")),
        }
    }

    /// Whether clients are to notice nothing but a pause, which is measured.
    #[must_use]
    pub(crate) fn is_disturbance(&self) -> bool {
        match self {
            Self::Kill(_) | Self::Terminate(_) | Self::Pause(..) | Self::StepDown => true,
            Self::Start(_)
            | Self::Partition
            | Self::Heal
            | Self::FillDisk
            | Self::FreeDisk
            | Self::StopDatabase
            | Self::StartDatabase
            | Self::Wait(..)
            | Self::Pass(_) => false,
        }
    }

    /// Whether one member alone cannot do it.
    #[must_use]
    pub(crate) fn needs_another(&self) -> bool {
        match self {
            Self::Kill(target) | Self::Terminate(target) | Self::Pause(target, _) => {
                *target == Target::Standby
            }
            Self::Wait(condition, _) => *condition == Condition::TakenOver,
            Self::StepDown | Self::Partition => true,
            Self::Start(_)
            | Self::Heal
            | Self::FillDisk
            | Self::FreeDisk
            | Self::StopDatabase
            | Self::StartDatabase
            | Self::Pass(_) => false,
        }
    }

    /// The member that a step names by its number.
    #[must_use]
    pub(crate) fn member(&self) -> Option<usize> {
        let target = match self {
            Self::Kill(target)
            | Self::Terminate(target)
            | Self::Pause(target, _)
            | Self::Start(target) => *target,
            Self::StepDown
            | Self::Partition
            | Self::Heal
            | Self::FillDisk
            | Self::FreeDisk
            | Self::StopDatabase
            | Self::StartDatabase
            | Self::Wait(..)
            | Self::Pass(_) => return None,
        };
        match target {
            Target::Member(number) => Some(number),
            Target::Active | Target::Standby | Target::All => None,
        }
    }
}

fn looks_like_a_time(word: &str) -> bool {
    word.starts_with(|letter: char| letter.is_ascii_digit())
}

/// The number of a member is no time.
fn is_a_member(who: &[&str], time: &str) -> bool {
    who == ["member"] && time.bytes().all(|byte| byte.is_ascii_digit())
}

fn target(words: &[&str], what: &str) -> Result<Target, String> {
    match words {
        ["active"] => Ok(Target::Active),
        ["standby"] => Ok(Target::Standby),
        ["all"] => Ok(Target::All),
        ["member", number] => match number.parse() {
            Ok(number @ 1..) => Ok(Target::Member(number)),
            _ => Err(format!("{number:?} is no number of a member: the first is 1")),
        },
        [] => Err(format!("it has to say whom: {what} active, standby, all or member N")),
        other => {
            Err(format!("{:?} is no member: active, standby, all or member N", other.join(" ")))
        }
    }
}

fn condition(words: &[&str]) -> Result<Condition, String> {
    let count = |text: &str| match text.parse::<usize>() {
        Ok(count @ 1..) => Ok(count),
        _ => Err(format!("{text:?} is no number from 1 on")),
    };
    match words {
        ["active"] => Ok(Condition::Active),
        ["ready"] => Ok(Condition::Ready),
        ["taken", "over"] => Ok(Condition::TakenOver),
        ["ended"] => Ok(Condition::Ended),
        ["the", "input", "ends"] => Ok(Condition::InputEnds),
        [number, "acks"] => count(number).map(Condition::Acks),
        [number, "deliveries"] => count(number).map(Condition::Deliveries),
        [number, "failures"] => count(number).map(Condition::Failures),
        other => Err(format!("{:?} is nothing to wait for: {CONDITIONS}", other.join(" "))),
    }
}

/// A time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text != "0" && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("{text} has no unit: write {text}ms or {text}s"));
    }
    let nanos =
        go::duration(text).map_err(|_| format!("{text:?} is no time, as 100ms or 8s are"))?;
    let time = u64::try_from(nanos).map(Duration::from_nanos);
    match time.map_err(|_| format!("{text} is negative"))? {
        time if time <= TIME_MAX => Ok(time),
        _ => Err(format!("{text} is longer than {}", go::show(TIME_MAX))),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Standby => f.write_str("standby"),
            Self::All => f.write_str("all"),
            Self::Member(number) => write!(f, "member {number}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Ready => f.write_str("ready"),
            Self::TakenOver => f.write_str("taken over"),
            Self::Ended => f.write_str("ended"),
            Self::InputEnds => f.write_str("the input ends"),
            Self::Acks(count) => write!(f, "{count} acks"),
            Self::Deliveries(count) => write!(f, "{count} deliveries"),
            Self::Failures(count) => write!(f, "{count} failures"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(who) => write!(f, "kill -9 {who}"),
            Self::Terminate(who) => write!(f, "term {who}"),
            Self::Pause(who, time) => write!(f, "pause {who} {}", go::show(*time)),
            Self::StepDown => f.write_str("step-down"),
            Self::Start(Target::All) => f.write_str("start"),
            Self::Start(who) => write!(f, "start {who}"),
            Self::Partition => f.write_str("partition"),
            Self::Heal => f.write_str("heal"),
            Self::FillDisk => f.write_str("fill the disk"),
            Self::FreeDisk => f.write_str("free the disk"),
            Self::StopDatabase => f.write_str("stop the database"),
            Self::StartDatabase => f.write_str("start the database"),
            Self::Wait(condition, WAIT_MAX) => write!(f, "wait until {condition}"),
            Self::Wait(condition, time) => {
                write!(f, "wait until {condition} within {}", go::show(*time))
            }
            Self::Pass(time) => write!(f, "wait {}", go::show(*time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_read_as_it_is_shown() {
        for text in [
            "kill -9 active",
            "term member 2",
            "pause active 8s",
            "step-down",
            "start",
            "start member 3",
            "partition",
            "heal",
            "fill the disk",
            "free the disk",
            "stop the database",
            "start the database",
            "wait until taken over",
            "wait until 300 acks within 5s",
            "wait until the input ends within 1h0m0s",
            "wait 200ms",
        ] {
            assert_eq!(Step::parse(text).map(|step| step.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(Step::parse("kill active"), Ok(Step::Kill(Target::Active)));
        assert_eq!(Step::parse(" wait  until ready "), Ok(Step::Wait(Condition::Ready, WAIT_MAX)));
    }

    #[test]
    fn what_is_no_step_is_named_with_what_would_be() {
        for (text, part) in [
            ("explode active", "there is no such step: kill -9 WHO"),
            ("", "there is no such step"),
            ("kill", "has to say whom"),
            ("kill -9 everybody", "\"everybody\" is no member"),
            ("kill member 0", "the first is 1"),
            ("pause active", "how long, as in pause active 8s"),
            ("pause member 2", "how long"),
            ("pause active 8", "8 has no unit: write 8ms or 8s"),
            ("wait 5", "5 has no unit"),
            ("wait 5parsecs", "is no time"),
            ("wait -5s", "is negative"),
            ("wait 2h", "longer than 1h0m0s"),
            ("wait until", "is nothing to wait for"),
            ("wait until lunch", "\"lunch\" is nothing to wait for: active, ready"),
            ("wait until 0 acks", "is no number from 1 on"),
            ("wait until ready within 5", "5 has no unit"),
            ("start active", "who has ended is neither"),
        ] {
            let error = Step::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
