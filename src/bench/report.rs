//! What a run came to, for people and for programs

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::plan::{Plan, Work};

/// One direction: everything that was published, or everything that was received.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// Messages.
    pub(crate) count: u64,
    /// Publishes that were answered with an error.
    pub(crate) failed: u64,
    /// The first of these errors.
    pub(crate) first_error: Option<String>,
    /// Deliveries that were made once more; they do not count as messages.
    pub(crate) redelivered: u64,
    /// From the common start to the last message.
    pub(crate) seconds: f64,
    /// In nanoseconds; empty where nothing says when a message was sent.
    pub(crate) latencies: Histogram<u64>,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            latencies: latencies(),
            count: 0,
            failed: 0,
            first_error: None,
            redelivered: 0,
            seconds: 0.0,
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// What was asked for.
    pub(crate) plan: Plan,
    /// What publishers, or those who asked, have measured.
    pub(crate) published: Option<Side>,
    /// What subscribers have measured.
    pub(crate) received: Option<Side>,
    /// Seconds of CPU time of this process.
    pub(crate) own_cpu: Option<f64>,
    /// Those of the server.
    pub(crate) server_cpu: Option<f64>,
    /// The most memory that the server has had, in bytes.
    pub(crate) server_memory: Option<u64>,
    /// What could not be removed from the server, and why.
    pub(crate) left: Option<String>,
}

/// The longest time that is told from longer ones, in nanoseconds: an hour.
const LATENCY_MAX: u64 = 3_600_000_000_000;

/// An empty histogram of nanoseconds, with three digits.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("these bounds are allowed")
}

/// The percentiles that are shown, in percent.
const PERCENTILES: [(&str, f64); 4] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

impl Side {
    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        if self.seconds <= 0.0 { 0.0 } else { float(self.count) / self.seconds }
    }

    fn document(&self, size: usize) -> Value {
        let mut latency = serde_json::Map::new();
        if !self.latencies.is_empty() {
            for (name, percent) in PERCENTILES {
                let nanos = self.latencies.value_at_percentile(percent);
                latency.insert(name.to_owned(), json!(float(nanos) / 1e3));
            }
            latency.insert("max".to_owned(), json!(float(self.latencies.max()) / 1e3));
        }
        json!({
            "messages": self.count,
            "failed": self.failed,
            "redelivered": self.redelivered,
            "seconds": self.seconds,
            "per_second": self.rate(),
            "megabytes_per_second": self.rate() * float(u64::try_from(size).unwrap_or(0)) / 1e6,
            "latency_microseconds": latency,
        })
    }

    fn line(&self, name: &str, size: usize) -> String {
        let megabytes = self.rate() * float(u64::try_from(size).unwrap_or(0)) / 1e6;
        let mut line = format!(
            "{name:<11} {} messages in {:.3} s: {:.0}/s, {megabytes:.1} MB/s",
            self.count,
            self.seconds,
            self.rate()
        );
        if self.failed != 0 {
            let first = self.first_error.as_deref().unwrap_or_default();
            line.push_str(&format!("; {} failed, the first: {first}", self.failed));
        }
        if self.redelivered != 0 {
            line.push_str(&format!("; {} delivered once more", self.redelivered));
        }
        line.push('\n');
        if !self.latencies.is_empty() {
            let shown = |(label, percent): (&str, f64)| {
                format!("{label} {}", micros(self.latencies.value_at_percentile(percent)))
            };
            let parts = PERCENTILES.map(shown).join(", ");
            line.push_str(&format!(
                "{:<11} {parts}, max {}\n",
                "  latency",
                micros(self.latencies.max())
            ));
        }
        line
    }
}

impl Summary {
    /// Lines for people.
    pub(crate) fn text(&self) -> String {
        let size = self.plan.size;
        let mut text = String::new();
        if let Some(side) = &self.published {
            let name = if self.plan.work == Work::Request { "answered" } else { "published" };
            text.push_str(&side.line(name, size));
        }
        if let Some(side) = &self.received {
            text.push_str(&side.line("received", size));
        }
        let per_message = |seconds: f64| seconds * 1e6 / float(self.plan.messages.max(1));
        if let Some(seconds) = self.server_cpu {
            text.push_str(&format!(
                "server      {seconds:.2} s of CPU time, {:.2} µs a message",
                per_message(seconds)
            ));
            let memory = self.server_memory.unwrap_or(0) >> 20;
            text.push_str(&format!("; {memory} MiB of memory at most\n"));
        }
        if let Some(seconds) = self.own_cpu {
            text.push_str(&format!(
                "this bench  {seconds:.2} s of CPU time, {:.2} µs a message\n",
                per_message(seconds)
            ));
        }
        if let Some(left) = &self.left {
            text.push_str(&format!("{left}\n"));
        }
        text
    }

    /// A document for programs; times in the units of their names.
    pub(crate) fn document(&self) -> Value {
        let plan = &self.plan;
        json!({
            "work": match plan.work {
                Work::Streaming => "streaming",
                Work::Core => "core",
                Work::Request => "request",
                Work::JetStream => "jetstream",
            },
            "publishers": plan.publishers,
            "subscribers": plan.subscribers,
            "queue_members": plan.queue_members,
            "channels": plan.channels,
            "messages": plan.messages,
            "size": plan.size,
            "in_flight": plan.in_flight,
            "rate": plan.rate,
            "replay": plan.replays,
            "published": self.published.as_ref().map(|side| side.document(plan.size)),
            "received": self.received.as_ref().map(|side| side.document(plan.size)),
            "server_cpu_seconds": self.server_cpu,
            "server_memory_bytes": self.server_memory,
            "bench_cpu_seconds": self.own_cpu,
            "left": self.left,
        })
    }
}

/// Nanoseconds as people read them.
fn micros(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{:.1} µs", float(nanos) / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", float(nanos) / 1e6),
        _ => format!("{:.2} s", float(nanos) / 1e9),
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people, of counts far below 2^52")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_their_units() {
        let mut side = Side { count: 1_000, seconds: 0.5, ..Side::default() };
        side.latencies.saturating_record(1_500);
        let text = side.line("published", 256);
        assert!(
            text.starts_with("published   1000 messages in 0.500 s: 2000/s, 0.5 MB/s\n"),
            "{text}"
        );
        assert!(text.contains("p50 1.5 µs"), "{text}");
        let document = side.document(256);
        assert_eq!(document["per_second"], json!(2000.0));
        assert_eq!(document["messages"], json!(1_000));
        assert_eq!([micros(2_000_000), micros(3_500_000_000)], ["2.00 ms", "3.50 s"]);
    }
}
