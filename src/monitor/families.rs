//! Metric families, and the text that scrapers read, by `prometheus-client`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::base::meters::Observed;

/// The text form that every scraper reads.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// What one name measures.
#[derive(Debug)]
enum Samples {
    /// What may rise and fall, and what tools have always read as that.
    Gauges(Vec<(Labels, f64)>),
    /// What only grows while the process runs.
    Counters(Vec<(Labels, u64)>),
    /// Values by size, and how many of them make one of what the name says.
    Histograms(f64, Vec<(Labels, Observed)>),
}

#[derive(Debug)]
struct Family {
    name: String,
    help: String,
    samples: Samples,
}

/// All families of a page, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Families(Vec<Family>);

impl Families {
    fn add(&mut self, name: &str, help: &str, samples: Samples) {
        let (name, help) = (name.to_owned(), help.to_owned());
        self.0.push(Family { name, help, samples });
    }

    /// Values that are shown as they are.
    pub fn gauges(&mut self, name: &str, help: &str, values: Vec<(Labels, f64)>) {
        self.add(name, help, Samples::Gauges(values));
    }

    /// One value without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, vec![(Labels::new(), value)]);
    }

    /// Values that only grow.
    pub fn counters(&mut self, name: &str, help: &str, values: Vec<(Labels, u64)>) {
        self.add(name, help, Samples::Counters(values));
    }

    /// Values by size; `per_unit` of them make one of what the name says.
    pub fn histograms(
        &mut self,
        (name, help): (&str, &str),
        per_unit: f64,
        values: Vec<(Labels, Observed)>,
    ) {
        self.add(name, help, Samples::Histograms(per_unit, values));
    }

    /// As scrapers read it.
    #[must_use]
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("a text takes all that is written");
        text
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, samples } in &self.0 {
            let kind = match samples {
                Samples::Gauges(_) => MetricType::Gauge,
                Samples::Counters(_) => MetricType::Counter,
                Samples::Histograms(..) => MetricType::Histogram,
            };
            let mut encoder = encoder.encode_descriptor(name, help, None, kind)?;
            match samples {
                Samples::Gauges(values) => {
                    for (labels, value) in values {
                        encoder.encode_family(labels)?.encode_gauge(value)?;
                    }
                }
                Samples::Counters(values) => {
                    for (labels, value) in values {
                        let mut encoder = encoder.encode_family(labels)?;
                        encoder.encode_counter::<Labels, _, u64>(value, None)?;
                    }
                }
                Samples::Histograms(per_unit, values) => {
                    for (labels, Observed { bounds, counts, sum }) in values {
                        let ends = bounds.iter().map(|bound| number(*bound) / per_unit);
                        let ends = ends.chain([f64::INFINITY]).zip(counts.iter().copied());
                        let (sum, count) = (number(*sum) / per_unit, counts.iter().sum());
                        let buckets: Vec<(f64, u64)> = ends.collect();
                        let mut encoder = encoder.encode_family(labels)?;
                        encoder.encode_histogram::<Labels>(sum, count, &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// As metrics have it: beyond 2^53 the last digits are lost.
#[allow(clippy::cast_precision_loss, reason = "every metric is a floating number")]
#[must_use]
pub fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_text_that_scrapers_read() {
        let mut families = Families::default();
        let labels = vec![("name", "a \"quoted\"\n\\line".to_owned())];
        families.gauges("g_total", "a gauge", vec![(labels.clone(), 1.5), (labels, 2.0)]);
        families.counters("c", "a counter", vec![(Labels::new(), 7)]);
        let observed = Observed { bounds: vec![1, 10], counts: vec![2, 0, 1], sum: 30 };
        let values = vec![(vec![("loop", "0".to_owned())], observed)];
        families.histograms(("h_seconds", "times"), 1_000.0, values);
        let expected = "\
# HELP g_total a gauge
# TYPE g_total gauge
g_total{name=\"a \\\"quoted\\\"\\n\\\\line\"} 1.5
g_total{name=\"a \\\"quoted\\\"\\n\\\\line\"} 2.0
# HELP c_total a counter
# TYPE c_total counter
c_total 7
# HELP h_seconds times
# TYPE h_seconds histogram
h_seconds_bucket{loop=\"0\",le=\"0.001\"} 2
h_seconds_bucket{loop=\"0\",le=\"0.01\"} 2
h_seconds_bucket{loop=\"0\",le=\"+Inf\"} 3
h_seconds_sum{loop=\"0\"} 0.03
h_seconds_count{loop=\"0\"} 3
";
        assert_eq!(families.text(), expected);
    }
}
