//! What clients noticed of each event: how long nothing was acknowledged, and how long each waited.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ledger::Ledger;

/// For how long after an event what clients wait for counts as its doing.
const WINDOW_NS: i64 = 2_000_000_000;

/// Something that happened to the group.
#[derive(Clone, Debug)]
pub struct Event {
    pub what: &'static str,
    pub at: i64,
}

/// What was noticed of one; times in nanoseconds.
#[derive(Clone, Debug)]
struct Pause {
    unacked: usize,
    /// During which nobody was told anything.
    silence: i64,
    /// The longest of one publisher.
    of_one: i64,
    /// From a publish to its ack.
    ack: i64,
    /// From a request to its answer.
    call: i64,
}

/// All events of some loads.
#[derive(Default)]
pub struct Pauses(BTreeMap<&'static str, Vec<Pause>>);

impl Pauses {
    /// Adds those of one load.
    pub fn add(&mut self, events: &[Event], ledger: &Ledger) {
        let mut acks: Vec<i64> = acknowledged(ledger).map(|(_, _, ended)| ended).collect();
        acks.sort_unstable();
        let mut of: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (publisher, _, ended) in acknowledged(ledger) {
            of.entry(publisher).or_default().push(ended);
        }
        of.values_mut().for_each(|all| all.sort_unstable());
        let ends = events.iter().skip(1).map(|event| event.at).chain([i64::MAX]);
        for (event, next) in events.iter().zip(ends) {
            let window = (event.at, next.min(event.at + WINDOW_NS));
            let of_one = of.values().map(|all| longest_gap(all, window)).max();
            let steps = ledger.steps.iter().map(|step| (step.began, step.ended));
            let publishes = acknowledged(ledger).map(|(_, sent, ended)| (sent, ended));
            let is_open = |(sent, ended): &(i64, i64)| *sent < event.at && event.at < *ended;
            let pause = Pause {
                unacked: publishes.clone().filter(is_open).count(),
                silence: longest_gap(&acks, window),
                of_one: of_one.unwrap_or_default(),
                ack: longest(publishes, window),
                call: longest(steps, window),
            };
            self.0.entry(event.what).or_default().push(pause);
        }
    }

    /// The fewest publishes that were unacknowledged when something happened.
    pub fn least_unacked(&self) -> u64 {
        let least = self.0.values().flatten().map(|pause| pause.unacked as u64).min();
        least.unwrap_or_default()
    }

    /// The longest that anybody waited for an ack.
    pub fn longest_ack_ms(&self) -> i64 {
        let longest = self.0.values().flatten().map(|pause| pause.ack).max();
        longest.unwrap_or_default() / 1_000_000
    }

    /// A table: for each kind of event median and worst, in milliseconds.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| event | rounds | unacked, least | nobody told | one publisher | ack | call |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for (what, pauses) in &self.0 {
            let figure = |of: fn(&Pause) -> i64| {
                let mut all: Vec<i64> = pauses.iter().map(of).collect();
                all.sort_unstable();
                let ms = |ns: i64| format!("{}.{}", ns / 1_000_000, ns / 100_000 % 10);
                format!("{} / {}", ms(all[all.len() / 2]), ms(all[all.len() - 1]))
            };
            let least = pauses.iter().map(|pause| pause.unacked).min().unwrap_or_default();
            let figures = [
                figure(|pause| pause.silence),
                figure(|pause| pause.of_one),
                figure(|pause| pause.ack),
                figure(|pause| pause.call),
            ];
            let _ =
                writeln!(text, "| {what} | {} | {least} | {} |", pauses.len(), figures.join(" | "));
        }
        text
    }
}

/// Publisher, when it sent and when it was told, of what was acknowledged.
fn acknowledged(ledger: &Ledger) -> impl Iterator<Item = (&str, i64, i64)> + Clone {
    let publishes = ledger.publishes.iter().filter(|publish| publish.error.is_empty());
    publishes.map(|publish| (publish.publisher.as_str(), publish.sent, publish.ended))
}

/// The longest time between two of these moments that ends within the window.
fn longest_gap(sorted: &[i64], (at, until): (i64, i64)) -> i64 {
    let from = sorted.partition_point(|moment| *moment < at).saturating_sub(1);
    let to = sorted.partition_point(|moment| *moment < until);
    let gaps = sorted.get(from..to).unwrap_or_default().windows(2);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// The longest of these spans that touch the window and end behind its beginning.
fn longest(spans: impl Iterator<Item = (i64, i64)>, (at, until): (i64, i64)) -> i64 {
    let touches = |span: &(i64, i64)| at < span.1 && span.0 < until;
    spans.filter(touches).map(|(began, ended)| ended - began).max().unwrap_or_default()
}
