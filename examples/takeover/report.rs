//! Times of take-overs → a table, and whether what was asked for is reached.

use std::io::{self, Write};
use std::time::Duration;

use crate::Args;

/// What was measured.
#[derive(Debug, Default)]
pub struct Report {
    /// Of one of our servers, before the first kill.
    pub resident_bytes: usize,
    /// From kill to first ack, of our pair.
    pub ours: Vec<Duration>,
    /// Of the bare program.
    pub bare: Vec<Duration>,
    /// Of another server's pair.
    pub other: Vec<Duration>,
}

impl Report {
    /// Whether ours take at most so many times as long as the bare program's, and the other
    /// server's so many times as long as ours.
    pub fn reaches(&self, at_most: f64, shorter: f64) -> bool {
        let is_near = self.bare.is_empty() || median(&self.ours) <= median(&self.bare) * at_most;
        let is_far = self.other.is_empty() || median(&self.ours) * shorter <= median(&self.other);
        is_near && is_far
    }

    /// Writes the table.
    pub fn write(&self, out: &mut dyn Write, args: &Args) -> io::Result<()> {
        let loops = args.loops.map_or_else(|| "default".to_owned(), |loops| loops.to_string());
        writeln!(
            out,
            "{} messages stored in {} channels, {}, loops: {loops}, {} KiB resident",
            args.messages,
            if args.messages == 0 { 0 } else { args.channels },
            args.sql.as_deref().unwrap_or("files"),
            self.resident_bytes / 1024
        )?;
        writeln!(out, "kill to first ack  take-overs    median       p90     worst")?;
        write_row(out, "stanby", &self.ours)?;
        if !self.bare.is_empty() {
            write_row(out, "bare program", &self.bare)?;
            let ratio = median(&self.ours) / median(&self.bare);
            writeln!(out, "ratio of the medians: {ratio:.2}")?;
        }
        if !self.other.is_empty() {
            write_row(out, "other server", &self.other)?;
            let ratio = median(&self.other) / median(&self.ours);
            writeln!(out, "its median is {ratio:.1} times ours")?;
        }
        Ok(())
    }
}

fn write_row(out: &mut dyn Write, name: &str, times: &[Duration]) -> io::Result<()> {
    let (median, late, worst) = (part(times, 50), part(times, 90), part(times, 100));
    let count = times.len();
    writeln!(out, "{name:<17} {count:>11} {median:>6.1} ms {late:>6.1} ms {worst:>6.1} ms")
}

fn median(times: &[Duration]) -> f64 {
    part(times, 50)
}

/// So many of a hundred take at most so many milliseconds.
fn part(times: &[Duration], part: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
}
