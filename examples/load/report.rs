//! The turns of each program → a table, and whether what was asked for is reached.

use std::io::{self, Write};
use std::time::Duration;

/// One turn of one program.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Messages or rows.
    pub messages: usize,
    /// How long all of them took.
    pub time: Duration,
    /// How much of it the database's own commit took, where we can see it.
    pub in_commit: Duration,
    /// What the server used of the processors.
    pub processor: Duration,
    /// Messages that were acknowledged together.
    pub batches: Vec<usize>,
}

impl Turn {
    fn rate(&self) -> f64 {
        ratio(self.messages, 1) / self.time.as_secs_f64()
    }
}

/// All turns.
#[derive(Debug, Default)]
pub struct Report {
    /// Our server's.
    pub ours: Vec<Turn>,
    /// The bare loop's.
    pub bare: Vec<Turn>,
    /// The other server's, if there was one.
    pub other: Vec<Turn>,
}

impl Report {
    /// Whether ours reached a part of the bare loop's rate, or so many times the other server's.
    pub fn reaches(&self, part: f64, times: f64) -> bool {
        part <= median_ratio(&self.ours, &self.bare)
            || times <= median_ratio(&self.ours, &self.other)
    }

    /// Writes the table.
    pub fn write(&self, out: &mut dyn Write, driver: &str) -> io::Result<()> {
        writeln!(out, "{driver:<14}    median/s     worst/s      best/s   processor")?;
        write_row(out, "stanby", &self.ours)?;
        write_row(out, "bare loop", &self.bare)?;
        if !self.other.is_empty() {
            write_row(out, "other server", &self.other)?;
        }
        let ours = median_ratio(&self.ours, &self.bare);
        writeln!(out, "stanby stores {ours:.2} of what the bare loop inserts (median of pairs)")?;
        if !self.other.is_empty() {
            let times = median_ratio(&self.ours, &self.other);
            writeln!(out, "stanby stores {times:.2} times what the other server does")?;
        }
        let share = |turn: &Turn| turn.in_commit.as_secs_f64() / turn.time.as_secs_f64();
        let share = median(self.bare.iter().map(share)) * 100.0;
        writeln!(out, "{share:.0} % of the bare loop's time is the database's own commit")?;
        let mut sizes: Vec<usize> =
            self.ours.iter().flat_map(|turn| turn.batches.iter().copied()).collect();
        sizes.sort_unstable();
        let at = |part: usize| sizes.get(sizes.len() * part / 100).copied().unwrap_or(0);
        let mean = ratio(sizes.iter().sum(), sizes.len());
        let largest = sizes.last().copied().unwrap_or(0);
        writeln!(
            out,
            "messages a batch: mean {mean:.0}, 10 % {}, median {}, 90 % {}, largest {largest}",
            at(10),
            at(50),
            at(90)
        )
    }
}

/// Writes one line.
pub fn write_row(out: &mut dyn Write, name: &str, turns: &[Turn]) -> io::Result<()> {
    let mut rates: Vec<f64> = turns.iter().map(Turn::rate).collect();
    rates.sort_by(f64::total_cmp);
    let (worst, best) = (rates.first().unwrap_or(&0.0), rates.last().unwrap_or(&0.0));
    let middle = median(rates.iter().copied());
    write!(out, "{name:<14} {middle:>11.0} {worst:>11.0} {best:>11.0}")?;
    let messages: usize = turns.iter().map(|turn| turn.messages).sum();
    let micros = turns.iter().map(|turn| turn.processor).sum::<Duration>().as_secs_f64() * 1e6;
    if micros == 0.0 {
        return writeln!(out);
    }
    writeln!(out, "  {:>4.1} µs a message", micros / ratio(messages, 1))
}

fn median_ratio(ours: &[Turn], others: &[Turn]) -> f64 {
    median(ours.iter().zip(others).map(|(ours, other)| ours.rate() / other.rate()))
}

/// 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[allow(clippy::cast_precision_loss, reason = "counts of messages are far below 2^52")]
fn ratio(count: usize, of: usize) -> f64 {
    count as f64 / of.max(1) as f64
}
