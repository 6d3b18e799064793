//! What a drill has shown, as a document: for scripts as it is, for others as what is made of it.

mod html;
mod junit;

use std::collections::BTreeMap;

use serde::Serialize;

pub(crate) use self::html::page;
pub(crate) use self::junit::{junit, junit_of_error};

use super::expectation::{Expectation, Quantity, Value};
use super::ledger::{End, Ledger, Role};
use super::scenario::Scenario;
use super::verdict::Verdict;
use crate::base::time::Instant;

/// Points of a plot at most.
const BUCKETS_MAX: u64 = 400;

/// Milliseconds of a point at least.
const BUCKET_MILLIS_MIN: u64 = 20;

/// How a drill ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    /// Whoever was at the terminal had enough.
    Interrupted,
    /// Something that was waited for did not come.
    Broken(String),
}

impl Ending {
    /// What came first stays.
    pub(crate) fn or(self, text: String) -> Self {
        match self {
            Self::Whole => Self::Broken(text),
            ended @ (Self::Interrupted | Self::Broken(_)) => ended,
        }
    }
}

/// The report of a drill.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Name of the scenario.
    pub(crate) scenario: String,
    /// What it is for.
    pub(crate) about: String,
    /// What the servers say of themselves.
    pub(crate) server: String,
    /// How many there are.
    pub(crate) members: usize,
    /// Where they keep what they share; none where they ran before.
    pub(crate) store: Option<&'static str>,
    /// Whether each expectation holds, and all was done.
    pub(crate) held: bool,
    /// Whether somebody broke it off.
    pub(crate) interrupted: bool,
    /// What was waited for and did not come.
    pub(crate) broken_off: Option<String>,
    /// What was expected.
    pub(crate) expectations: Vec<Judged>,
    /// What was found, by name; times in milliseconds, `null` for one that never ended.
    pub(crate) found: BTreeMap<&'static str, Option<Number>>,
    pub(crate) events: Vec<Happened>,
    /// Messages that were acknowledged and are not stored; a thousand at most.
    pub(crate) lost: Vec<String>,
    /// Publishes that failed; a thousand at most.
    pub(crate) failures: Vec<String>,
    /// What else went wrong, in sentences; a thousand at most.
    pub(crate) faults: Vec<String>,
    /// How the load went.
    pub(crate) timeline: Timeline,
    /// What each member looked like.
    pub(crate) roles: Vec<Vec<Stretch>>,
}

/// An expectation with what was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    /// As it is written.
    pub(crate) expected: String,
    /// What was found; none if it could not be looked at.
    pub(crate) found: Option<String>,
    /// Whether it holds.
    pub(crate) held: bool,
}

/// A number that was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Count(u64),
    /// Milliseconds.
    Millis(f64),
    /// Whether something was kept.
    Kept(bool),
}

/// A step that was done.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Happened {
    /// Since the beginning of the load, milliseconds.
    pub(crate) at_ms: f64,
    pub(crate) what: String,
    /// Whether it is one after which the time to the next ack is a take-over.
    pub(crate) disturbs: bool,
    /// Until the first ack of what was published after it, milliseconds.
    pub(crate) first_ack_ms: Option<f64>,
}

/// The load, in steps of time.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Timeline {
    /// How long each point is.
    pub(crate) step_ms: u64,
    /// Acks that came in it.
    pub(crate) acks: Vec<u64>,
    /// Deliveries that came in it.
    pub(crate) deliveries: Vec<u64>,
    /// The longest that an ack took which came in it, milliseconds.
    pub(crate) ack_ms: Vec<f64>,
}

/// How long a member looked like something.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Stretch {
    /// Since the beginning of the load, milliseconds.
    pub(crate) from_ms: f64,
    pub(crate) to_ms: f64,
    /// `active`, `ready`, `unready`, `hangs` or `gone`.
    pub(crate) role: &'static str,
}

impl Report {
    /// Makes one of a ledger.
    pub(crate) fn of(scenario: &Scenario, version: &str, ledger: &Ledger, ending: Ending) -> Self {
        let verdict = Verdict::of(ledger);
        let expectations: Vec<Judged> =
            scenario.expect.iter().map(|expectation| judged(expectation, &verdict)).collect();
        let (interrupted, broken_off) = match ending {
            Ending::Whole => (false, None),
            Ending::Interrupted => (true, None),
            Ending::Broken(text) => (false, Some(text)),
        };
        let is_whole = !interrupted && broken_off.is_none();
        let members = scenario.member_count();
        Self {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            server: version.to_owned(),
            members,
            store: scenario.attach.is_none().then(|| scenario.store.keeper.name()),
            held: is_whole && expectations.iter().all(|judged| judged.held),
            interrupted,
            broken_off,
            expectations,
            found: verdict.values.iter().map(|(key, value)| (key.name(), number(*value))).collect(),
            events: events(ledger, &verdict),
            lost: verdict.lost,
            failures: verdict.failures,
            faults: verdict.faults,
            timeline: timeline(ledger),
            roles: (0..members).map(|member| stretches(ledger, member)).collect(),
        }
    }

    /// What was found of a quantity, as a person reads it.
    #[must_use]
    pub(crate) fn shown(&self, quantity: Quantity) -> String {
        match self.found.get(quantity.name()) {
            None => "unknown".to_owned(),
            Some(None) => "never".to_owned(),
            Some(Some(Number::Count(count))) => count.to_string(),
            Some(Some(Number::Millis(millis))) => format!("{millis:.1} ms"),
            Some(Some(Number::Kept(is_kept))) => Value::Kept(*is_kept).to_string(),
        }
    }

    /// How it came out, in a line.
    #[must_use]
    pub(crate) fn verdict(&self) -> String {
        let failed = self.expectations.iter().filter(|judged| !judged.held);
        let failed: Vec<&str> = failed.map(|judged| judged.expected.as_str()).collect();
        match (&self.broken_off, self.interrupted) {
            (_, true) => "interrupted: this is what was until then".to_owned(),
            (Some(why), _) => format!("FAILED: broken off: {why}"),
            (None, _) if failed.is_empty() => "held".to_owned(),
            (None, _) => format!("FAILED: {}", failed.join(", ")),
        }
    }
}

fn judged(expectation: &Expectation, verdict: &Verdict) -> Judged {
    let found = verdict.values.get(&expectation.quantity);
    Judged {
        expected: expectation.to_string(),
        found: found.map(ToString::to_string),
        // What could not be looked at does not hold.
        held: found.is_some_and(|found| expectation.holds(*found)),
    }
}

fn number(value: Value) -> Option<Number> {
    match value {
        Value::Count(count) => Some(Number::Count(count)),
        Value::Time(nanos) => Some(Number::Millis(millis(nanos))),
        Value::Kept(is_kept) => Some(Number::Kept(is_kept)),
        Value::Never => None,
    }
}

/// Milliseconds with three digits behind the point.
#[expect(clippy::cast_precision_loss, reason = "the digits that are lost are not shown")]
fn millis(nanos: u64) -> f64 {
    (nanos / 1_000) as f64 / 1_000.0
}

fn events(ledger: &Ledger, verdict: &Verdict) -> Vec<Happened> {
    let mut take_overs = verdict.take_overs.iter().map(|(_, time)| *time);
    let happened = |event: &super::ledger::Event| {
        let first_ack = if event.is_disturbance { take_overs.next().flatten() } else { None };
        Happened {
            at_ms: millis(event.at.0.saturating_sub(ledger.begun.0)),
            what: event.what.clone(),
            disturbs: event.is_disturbance,
            first_ack_ms: first_ack.map(millis),
        }
    };
    ledger.events.iter().map(happened).collect()
}

fn timeline(ledger: &Ledger) -> Timeline {
    let acked = ledger.sent.iter().flatten().filter_map(|sent| match sent.end {
        End::Acked(at) => Some((at, at.0.saturating_sub(sent.at.0))),
        End::Open | End::Failed(_) => None,
    });
    let length = last_moment(ledger).saturating_sub(ledger.begun.0) / 1_000_000 + 1;
    let step_ms = length.div_ceil(BUCKETS_MAX).max(BUCKET_MILLIS_MIN);
    let count = usize::try_from(length.div_ceil(step_ms)).unwrap_or(0);
    let place = |at: Instant| {
        let since = at.0.saturating_sub(ledger.begun.0) / 1_000_000 / step_ms;
        usize::try_from(since).unwrap_or(usize::MAX).min(count.saturating_sub(1))
    };
    let mut acks = vec![0; count];
    let mut deliveries = vec![0; count];
    let mut ack_ms = vec![0.0_f64; count];
    for (at, took) in acked {
        acks[place(at)] += 1;
        ack_ms[place(at)] = ack_ms[place(at)].max(millis(took));
    }
    for (since, delivered) in ledger.deliveries.stretches() {
        deliveries[place(ledger.begun + since)] += delivered;
    }
    Timeline { step_ms, acks, deliveries, ack_ms }
}

/// The end of what is plotted: that of the load, or the last ack.
fn last_moment(ledger: &Ledger) -> u64 {
    let acks = ledger.sent.iter().flatten().filter_map(|sent| match sent.end {
        End::Acked(at) => Some(at.0),
        End::Open | End::Failed(_) => None,
    });
    acks.max().unwrap_or(0).max(ledger.ended.0)
}

/// What a member looked like while there was a load.
fn stretches(ledger: &Ledger, member: usize) -> Vec<Stretch> {
    let end = last_moment(ledger);
    let sights: Vec<_> = ledger.sights.iter().filter(|sight| sight.member == member).collect();
    let ends = sights.iter().skip(1).map(|sight| sight.at.0).chain([end]);
    let since =
        |at: u64| millis(at.clamp(ledger.begun.0, end.max(ledger.begun.0)) - ledger.begun.0);
    let all = sights.iter().zip(ends).map(|(sight, to)| Stretch {
        from_ms: since(sight.at.0),
        to_ms: since(to),
        role: role_name(sight.role),
    });
    all.filter(|stretch| stretch.from_ms < stretch.to_ms).collect()
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Gone => "gone",
        Role::Hangs => "hangs",
        Role::Unready => "unready",
        Role::Ready => "ready",
        Role::Active => "active",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::scenario;

    const MS: u64 = 1_000_000;

    /// Ten publishes, one a hundred milliseconds; a kill in the middle.
    pub(super) fn ledger() -> Ledger {
        let begun = Instant(1_000 * MS);
        let mut ledger = Ledger { begun, ended: Instant(2_000 * MS), ..Ledger::default() };
        ledger.seen(0, Role::Active, Instant(0));
        ledger.seen(1, Role::Ready, Instant(0));
        for number in 0..10 {
            let at = 1_000 + number * 100;
            if number == 5 {
                ledger.disturbed("kill -9 active".to_owned(), None, Instant((at - 50) * MS));
                ledger.seen(0, Role::Gone, Instant((at - 50) * MS));
                ledger.seen(1, Role::Active, Instant((at - 10) * MS));
            }
            let message = ledger.publish(0, Instant(at * MS)).expect("room");
            ledger.acked(message, Instant((at + 2) * MS));
        }
        ledger
    }

    pub(super) fn report(ending: Ending) -> Report {
        let text = "name = \"a <b> & \\\"c\\\"\"\nsteps = [\"kill active\"]\n\
                    expect = [\"take_over < 60ms\", \"acked = 11\", \"lost = 0\"]";
        let scenario = scenario::parse(text).expect("a scenario");
        Report::of(&scenario, "stanby 1", &ledger(), ending)
    }

    #[test]
    fn a_report_has_what_was_expected_and_found() {
        let report = report(Ending::Whole);
        let held: Vec<bool> = report.expectations.iter().map(|judged| judged.held).collect();
        assert_eq!(held, [true, false, false]);
        // Nobody has read back what is stored.
        assert_eq!(report.expectations[2].found, None);
        assert_eq!(report.verdict(), "FAILED: acked = 11, lost = 0");
        assert_eq!(report.shown(Quantity::TakeOver), "52.0 ms");
        assert_eq!(report.shown(Quantity::Lost), "unknown");
        assert_eq!(report.events[0].first_ack_ms, Some(52.0));
        let roles = &report.roles[0];
        let gone = Stretch { from_ms: 450.0, to_ms: 1_000.0, role: "gone" };
        assert_eq!((roles.len(), &roles[1]), (2, &gone));
    }

    #[test]
    fn a_timeline_has_every_ack_once() {
        let timeline = timeline(&ledger());
        assert_eq!(timeline.step_ms, BUCKET_MILLIS_MIN);
        assert_eq!((timeline.acks.iter().sum::<u64>(), timeline.acks.len()), (10, 51));
        assert_eq!(timeline.ack_ms[0], 2.0);
    }

    #[test]
    fn what_was_broken_off_has_not_held() {
        let report = report(Ending::Broken("nobody is active".to_owned()));
        assert_eq!((report.held, report.interrupted), (false, false));
        assert_eq!(report.verdict(), "FAILED: broken off: nobody is active");
        let report = super::tests::report(Ending::Interrupted);
        assert!(report.interrupted && report.verdict().starts_with("interrupted"));
    }
}
