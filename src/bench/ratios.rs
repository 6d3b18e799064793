//! Medians of servers side by side, and their ratios with the spread over the pairs

use serde_json::{Value, json};

use super::compare::{Contender, Round};
use super::report::{Side, Summary, float};
use crate::base::markup;

/// A figure of a run: what it is, with its unit; as a column of a table for programs; how it is
/// had.
type Figure = (&'static str, &'static str, Measure);

/// One direction of a run.
type Direction = fn(&Summary) -> Option<&Side>;

#[derive(Clone, Copy)]
enum Measure {
    /// Messages a second.
    Rate(Direction),
    /// So many percent took no longer, in microseconds.
    Latency(Direction, f64),
    /// Microseconds of CPU time of the server for each message.
    ServerCpu,
    /// The most memory that the server had, in MiB.
    ServerMemory,
    /// Milliseconds until the server took a client.
    Ready,
}

const PUBLISHED: Direction = |summary| summary.published.as_ref();
const RECEIVED: Direction = |summary| summary.received.as_ref();

const FIGURES: [Figure; 11] = [
    ("published a second", "published_per_second", Measure::Rate(PUBLISHED)),
    ("received a second", "received_per_second", Measure::Rate(RECEIVED)),
    ("answer, p50 (µs)", "answer_p50_microseconds", Measure::Latency(PUBLISHED, 50.0)),
    ("answer, p99 (µs)", "answer_p99_microseconds", Measure::Latency(PUBLISHED, 99.0)),
    ("answer, p99.9 (µs)", "answer_p999_microseconds", Measure::Latency(PUBLISHED, 99.9)),
    ("delivery, p50 (µs)", "delivery_p50_microseconds", Measure::Latency(RECEIVED, 50.0)),
    ("delivery, p99 (µs)", "delivery_p99_microseconds", Measure::Latency(RECEIVED, 99.0)),
    ("delivery, p99.9 (µs)", "delivery_p999_microseconds", Measure::Latency(RECEIVED, 99.9)),
    ("server CPU a message (µs)", "server_cpu_microseconds", Measure::ServerCpu),
    ("server memory, peak (MiB)", "server_memory_mebibytes", Measure::ServerMemory),
    ("start to ready (ms)", "ready_milliseconds", Measure::Ready),
];

impl Measure {
    fn of(self, round: &Round) -> Option<f64> {
        let summary = &round.summary;
        match self {
            Self::Rate(side) => side(summary).map(Side::rate),
            Self::Latency(side, percent) => {
                let side = side(summary).filter(|side| !side.latencies.is_empty())?;
                Some(float(side.latencies.value_at_percentile(percent)) / 1e3)
            }
            Self::ServerCpu => {
                let messages = float(summary.plan.messages.max(1));
                summary.server_cpu.map(|seconds| seconds * 1e6 / messages)
            }
            Self::ServerMemory => summary.server_memory.map(|bytes| float(bytes >> 10) / 1024.0),
            Self::Ready => Some(round.ready * 1e3),
        }
    }
}

/// One figure of one server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Compared {
    /// Of all pairs.
    pub(crate) median: f64,
    /// To the first server, pair by pair: median, least and most.
    pub(crate) ratio: [f64; 3],
}

/// All figures, each for all servers.
pub(crate) struct Table {
    names: Vec<String>,
    rows: Vec<(&'static str, &'static str, Vec<Compared>)>,
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => 0.0,
        _ if values.len() % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

impl Table {
    /// Of all runs.
    pub(crate) fn of(contenders: &[Contender], rounds: &[Round]) -> Self {
        let mut rows = Vec::new();
        for (name, key, measure) in FIGURES {
            let values = |contender: usize| -> Vec<(usize, f64)> {
                let own = rounds.iter().filter(|round| round.contender == contender);
                own.filter_map(|round| Some((round.pair, measure.of(round)?))).collect()
            };
            let first = values(0);
            let compared = |contender: usize| {
                let own = values(contender);
                let mut ratios: Vec<f64> = Vec::new();
                for (pair, value) in &own {
                    let base = first.iter().find(|(other, _)| other == pair);
                    ratios.extend(base.map(|(_, base)| value / base).filter(|it| it.is_finite()));
                }
                let middle = median(&mut ratios);
                let least = ratios.first().copied().unwrap_or(0.0);
                let most = ratios.last().copied().unwrap_or(0.0);
                let mut values: Vec<f64> = own.into_iter().map(|(_, value)| value).collect();
                Compared { median: median(&mut values), ratio: [middle, least, most] }
            };
            if !first.is_empty() {
                let all = (0..contenders.len()).map(compared).collect();
                rows.push((name, key, all));
            }
        }
        Self { names: contenders.iter().map(|one| one.name.clone()).collect(), rows }
    }

    /// Columns for people: the median of each server, and its ratio to the first one with the least
    /// and the most of all pairs.
    pub(crate) fn cells(&self) -> Vec<Vec<String>> {
        let mut head = vec!["median".to_owned()];
        for (place, name) in self.names.iter().enumerate() {
            head.push(name.clone());
            if place != 0 {
                head.push(format!("{name}/{}", self.names[0]));
            }
        }
        let row = |(name, _, all): &(&str, &str, Vec<Compared>)| {
            let mut cells = vec![(*name).to_owned()];
            for (place, Compared { median, ratio: [ratio, least, most] }) in all.iter().enumerate()
            {
                cells.push(shown(*median));
                if place != 0 {
                    cells.push(format!("{ratio:.2} ({least:.2} to {most:.2})"));
                }
            }
            cells
        };
        std::iter::once(head).chain(self.rows.iter().map(row)).collect()
    }

    /// A document for programs.
    pub(crate) fn document(&self, rounds: &[Round]) -> Value {
        let mut figures = serde_json::Map::new();
        for (_, key, all) in &self.rows {
            let mut of = serde_json::Map::new();
            for (name, Compared { median, ratio: [ratio, least, most] }) in
                self.names.iter().zip(all)
            {
                let one = json!({"median": median, "ratio": ratio, "ratio_min": least, "ratio_max": most});
                of.insert(name.clone(), one);
            }
            figures.insert((*key).to_owned(), Value::Object(of));
        }
        let runs = rounds.iter().map(|round| {
            let mut run = round.summary.document();
            run["pair"] = json!(round.pair);
            run["server"] = json!(self.names.get(round.contender));
            run["ready_seconds"] = json!(round.ready);
            run
        });
        json!({"servers": self.names, "figures": figures, "runs": runs.collect::<Vec<_>>()})
    }

    /// A line for each run, with a head.
    pub(crate) fn csv(&self, rounds: &[Round]) -> String {
        let keys = FIGURES.map(|(_, key, _)| key).join(",");
        let mut text = format!("pair,server,{keys}\n");
        for round in rounds {
            let name = self.names.get(round.contender).map_or("", String::as_str);
            let name = name.replace('"', "\"\"");
            text.push_str(&format!("{},\"{name}\"", round.pair));
            for (.., measure) in FIGURES {
                let value = measure.of(round).map(|value| value.to_string()).unwrap_or_default();
                text.push_str(&format!(",{value}"));
            }
            text.push('\n');
        }
        text
    }

    /// A plot for a slide: bars of each figure, the longest of a figure as long as all others are.
    pub(crate) fn svg(&self) -> String {
        const COLOURS: [&str; 5] = ["#2563eb", "#f59e0b", "#10b981", "#8b5cf6", "#64748b"];
        let bar_height = 18;
        let group_height = self.names.len() * bar_height + 34;
        let height = self.rows.len() * group_height + 20;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        for (place, (name, _, all)) in self.rows.iter().enumerate() {
            let top = place * group_height + 24;
            svg.push_str(&format!(
                "<text x=\"16\" y=\"{top}\" font-weight=\"bold\">{}</text>\n",
                markup::escaped(name)
            ));
            let most = all.iter().map(|one| one.median).fold(f64::MIN_POSITIVE, f64::max);
            for (server, one) in all.iter().enumerate() {
                let y = top + 8 + server * bar_height;
                let width = one.median / most * 480.0;
                let colour = COLOURS[server % COLOURS.len()];
                let label = markup::escaped(self.names.get(server).map_or("", String::as_str));
                svg.push_str(&format!(
                    "<text x=\"16\" y=\"{0}\">{label}</text><rect x=\"150\" y=\"{y}\" width=\"{width:.1}\" \
                     height=\"14\" fill=\"{colour}\"/><text x=\"{1:.1}\" y=\"{0}\">{2}</text>\n",
                    y + 12,
                    156.0 + width,
                    shown(one.median)
                ));
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn shown(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::{Plan, Work};

    fn round(pair: usize, contender: usize, count: u64) -> Round {
        let side = Side { count, seconds: 1.0, ..Side::default() };
        let plan = Plan {
            work: Work::Core,
            publishers: 1,
            subscribers: 0,
            queue_members: 0,
            channels: 1,
            messages: count,
            size: 1,
            in_flight: 1,
            deliveries_in_flight: 1,
            rate: None,
            replays: false,
            subject: "a".to_owned(),
        };
        let summary = Summary {
            plan,
            published: Some(side),
            received: None,
            own_cpu: None,
            server_cpu: None,
            server_memory: None,
            left: None,
        };
        Round { pair, contender, ready: 0.001, summary }
    }

    /// Goal: a pair that a neighbour on the machine has disturbed moves no median, and is seen.
    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let server = |name: &str| Contender { name: name.to_owned(), words: Vec::new() };
        let contenders = [server("a"), server("<b>")];
        let counts = [(1, 0, 100), (1, 1, 200), (2, 1, 20), (2, 0, 10), (3, 0, 100), (3, 1, 500)];
        let rounds = counts.map(|(pair, contender, count)| round(pair, contender, count));
        let table = Table::of(&contenders, &rounds);
        let cells = table.cells();
        assert_eq!(cells[0], ["median", "a", "<b>", "<b>/a"]);
        assert_eq!(cells[1], ["published a second", "100", "200", "2.00 (2.00 to 5.00)"]);
        assert_eq!(cells.len(), 3, "what was not measured is left out: {cells:?}");
        assert!(
            table.csv(&rounds).lines().nth(1).is_some_and(|line| line.starts_with("1,\"a\",100,"))
        );
        assert_eq!(table.document(&rounds)["figures"]["published_per_second"]["<b>"]["ratio"], 2.0);
        assert!(table.svg().contains("&lt;b&gt;") && !table.svg().contains("<b>"));
    }
}
