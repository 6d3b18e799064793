//! Whether what the clients were told and what is stored keep what a group promises.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::ledger::{CHANNELS, Ledger, payload};

/// What is stored in each channel, by sequence from 1 on.
pub type Stored = [Vec<String>; 4];

/// From when to when the clients' own member was away, Unix nanoseconds.
pub type Away = RangeInclusive<i64>;

/// What a promise was broken by, in words; and what is only counted.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged, and not stored.
    pub lost: Vec<String>,
    /// A publisher's messages in another order than it sent them.
    pub turned: Vec<String>,
    /// Not delivered, delivered in another order, or as something else.
    pub undelivered: Vec<String>,
    /// What a client would call an error: publishes, calls, ends of connections.
    pub errors: Vec<String>,
    pub closed: Vec<String>,
    pub acked: usize,
    pub twice: usize,
    pub delivered_again: usize,
    /// What a durable got behind newer ones, as a redelivery.
    pub late: usize,
    pub calls: usize,
    /// Errors and ends of connections that were to be expected, because the own member was ended.
    pub excused: usize,
}

impl Verdict {
    /// Judges a load that had its time to end. What went wrong while the clients' own member was
    /// away is excused.
    pub fn of(ledger: &Ledger, stored: &Stored, away: Option<Away>) -> Self {
        let mut verdict = Self::of_cut_load(ledger, stored, away);
        verdict.judge_gaps(ledger);
        verdict.judge_deliveries(ledger, stored);
        verdict
    }

    /// Judges a load whose clients were cut off: they need not have been told or have got all.
    pub fn of_cut_load(ledger: &Ledger, stored: &Stored, away: Option<Away>) -> Self {
        let mut verdict = Self { calls: ledger.steps.len(), ..Self::default() };
        let is_excused = |began, ended| {
            away.as_ref().is_some_and(|away| began <= *away.end() && *away.start() <= ended)
        };
        verdict.judge_publishes(ledger, stored, is_excused);
        for step in ledger.steps.iter().filter(|step| !step.error.is_empty()) {
            if is_excused(step.began, step.ended) {
                verdict.excused += 1;
                continue;
            }
            let took = (step.ended - step.began) / 1_000_000;
            let said = format!("{}: {} after {took} ms: {}", step.client, step.what, step.error);
            verdict.errors.push(said);
        }
        for lost in &ledger.lost {
            if is_excused(lost.at, lost.at) {
                verdict.excused += 1;
            } else {
                verdict.closed.push(format!("{}: {}", lost.client, lost.what));
            }
        }
        verdict
    }

    fn judge_publishes(
        &mut self,
        ledger: &Ledger,
        stored: &Stored,
        is_excused: impl Fn(i64, i64) -> bool,
    ) {
        let mut count_of: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, messages) in CHANNELS.iter().zip(stored) {
            let mut newest: BTreeMap<&str, &str> = BTreeMap::new();
            for message in messages {
                let Some((publisher, number)) = message.split_once(':') else { continue };
                let count = count_of.entry(message).or_default();
                *count += 1;
                if *count > 1 {
                    self.twice += 1;
                    continue;
                }
                let before = newest.insert(publisher, number);
                if let Some(before) = before.filter(|before| number < *before) {
                    self.turned.push(format!("{name}: {message} behind {before}"));
                }
            }
        }
        for publish in &ledger.publishes {
            let message = payload(&publish.publisher, publish.number);
            if !publish.error.is_empty() && is_excused(publish.sent, publish.ended) {
                self.excused += 1;
            } else if !publish.error.is_empty() {
                let took = (publish.ended - publish.sent) / 1_000_000;
                self.errors.push(format!("{message} after {took} ms: {}", publish.error));
            } else if count_of.contains_key(message.as_str()) {
                self.acked += 1;
            } else {
                self.lost.push(message);
            }
        }
    }

    /// A publish that never ended is as good as one with an error.
    fn judge_gaps(&mut self, ledger: &Ledger) {
        let mut ended: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for publish in &ledger.publishes {
            ended.entry(&publish.publisher).or_default().insert(publish.number);
        }
        for (publisher, numbers) in ended {
            let end = numbers.last().map_or(0, |last| last + 1);
            let open = (0..end).filter(|number| !numbers.contains(number));
            self.errors.extend(open.map(|number| format!("{publisher}:{number} never ended")));
        }
    }

    /// Each listener gets all of each channel, as it is stored; a durable in its order. What a
    /// member that died had sent and nobody got comes as a redelivery when its ack wait is over.
    fn judge_deliveries(&mut self, ledger: &Ledger, stored: &Stored) {
        let mut seen: BTreeMap<(&str, usize), BTreeSet<u64>> = BTreeMap::new();
        for listener in ledger.got.iter().map(|got| got.listener.as_str()) {
            if !seen.contains_key(&(listener, 0)) {
                seen.extend((0..4).map(|channel| ((listener, channel), BTreeSet::new())));
            }
        }
        for got in &ledger.got {
            let said = format!("{}: {}:{}", got.listener, CHANNELS[got.channel], got.sequence);
            let place = usize::try_from(got.sequence).unwrap().checked_sub(1);
            let wanted = place.and_then(|place| stored[got.channel].get(place));
            if wanted.is_none_or(|wanted| *wanted != got.payload) {
                self.undelivered.push(format!("{said} is {:?}, not {wanted:?}", got.payload));
            }
            let own = seen.get_mut(&(got.listener.as_str(), got.channel)).unwrap();
            let newest = own.last().copied().unwrap_or_default();
            if !own.insert(got.sequence) {
                self.delivered_again += 1;
            } else if got.listener.ends_with("durable") && got.sequence < newest {
                if got.is_again {
                    self.late += 1;
                    continue;
                }
                self.undelivered.push(format!("{said} came first behind {newest}"));
            }
        }
        for ((listener, channel), own) in seen {
            let all = 1..=stored[channel].len() as u64;
            let missing: Vec<u64> = all.filter(|sequence| !own.contains(sequence)).collect();
            if let Some(first) = missing.first() {
                let (name, count) = (CHANNELS[channel], missing.len());
                let said = format!("{listener}: {name}:{first} and others, {count} in all, never");
                self.undelivered.push(said);
            }
        }
    }

    /// All that breaks a promise, the first of each kind.
    pub fn broken(&self) -> Vec<String> {
        let kinds = [
            ("lost", &self.lost),
            ("out of order", &self.turned),
            ("deliveries", &self.undelivered),
            ("errors", &self.errors),
            ("connections closed", &self.closed),
        ];
        let is_broken = |(_, all): &(&str, &Vec<String>)| !all.is_empty();
        let say = |(what, all): (&str, &Vec<String>)| {
            let first = all.iter().take(8).cloned().collect::<Vec<_>>().join("; ");
            format!("{what} ({}): {first}", all.len())
        };
        kinds.into_iter().filter(is_broken).map(say).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Got, Lost, Publish, Step};
    use super::*;

    /// Eight publishes of one client, and a durable that has got all of them.
    fn sound() -> (Ledger, Stored) {
        let (mut ledger, mut stored) = (Ledger::default(), Stored::default());
        for number in 0..8 {
            let (publisher, sent, ended) = ("raw-0".to_owned(), 1, 2);
            let message = payload(&publisher, number);
            stored[number % 4].push(message.clone());
            let (channel, sequence) = (number % 4, number as u64 / 4 + 1);
            ledger.got.push(Got {
                listener: "raw-durable".into(),
                channel,
                sequence,
                is_again: false,
                payload: message,
            });
            let error = String::new();
            ledger.publishes.push(Publish { publisher, number, sent, ended, error });
        }
        (ledger, stored)
    }

    fn broken(change: impl FnOnce(&mut Ledger, &mut Stored)) -> String {
        let (mut ledger, mut stored) = sound();
        change(&mut ledger, &mut stored);
        Verdict::of(&ledger, &stored, None).broken().join("\n")
    }

    #[test]
    fn what_breaks_a_promise_is_seen() {
        assert_eq!(broken(|_, _| ()), "");
        let lost = broken(|_, stored| stored[3][1] = "end".to_owned());
        assert!(lost.contains("lost (1): raw-0:00000007"), "{lost}");
        let turned = broken(|_, stored| stored[0].swap(0, 1));
        assert!(turned.contains("out of order (1)"), "{turned}");
        let refused = broken(|ledger, _| ledger.publishes[2].error = "stan: timeout".to_owned());
        assert!(refused.contains("raw-0:00000002 after 0 ms: stan: timeout"), "{refused}");
        let unanswered = broken(|ledger, _| drop(ledger.publishes.remove(3)));
        assert!(unanswered.contains("raw-0:3 never ended"), "{unanswered}");
        let missing = broken(|ledger, _| drop(ledger.got.remove(5)));
        assert!(missing.contains("events:2 and others, 1 in all, never"), "{missing}");
        let late = broken(|ledger, _| ledger.got.swap(0, 4));
        assert!(late.contains("orders:1 came first behind 2"), "{late}");
        let other = broken(|ledger, _| ledger.got[1].payload.push('x'));
        assert!(other.contains("raw-durable: events:1 is"), "{other}");
        let closed = broken(|ledger, _| {
            let (client, what) = ("go-durable".to_owned(), "EOF".to_owned());
            ledger.lost.push(Lost { client, at: 1, what });
        });
        assert!(closed.contains("connections closed (1): go-durable: EOF"), "{closed}");
        let timed_out = broken(|ledger, _| {
            let (client, what) = ("go-passer-0".to_owned(), "connect".to_owned());
            let error = "timeout".to_owned();
            ledger.steps.push(Step { client, what, began: 0, ended: 2_000_000_000, error });
        });
        assert!(timed_out.contains("connect after 2000 ms: timeout"), "{timed_out}");
    }

    #[test]
    fn what_is_stored_twice_is_counted_and_breaks_no_order() {
        let (ledger, mut stored) = sound();
        let again = stored[0][0].clone();
        stored[0].push(again.clone());
        let mut ledger = ledger;
        let (listener, channel) = ("raw-durable".to_owned(), 0);
        let (sequence, is_again) = (3, false);
        ledger.got.push(Got { listener, channel, sequence, is_again, payload: again });
        let verdict = Verdict::of(&ledger, &stored, None);
        assert_eq!((verdict.twice, verdict.broken()), (1, Vec::new()));
    }
}
