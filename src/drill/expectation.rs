//! What a drill is expected to show: a line such as `take_over < 100ms`, and whether it holds.

use std::fmt;

use crate::base::go;

use super::step::duration;

/// What can be expected of, and what it means.
pub(crate) const QUANTITIES: [(Quantity, &str, &str); 17] = [
    (Quantity::Lost, "lost", "acknowledged, and not stored"),
    (Quantity::Twice, "twice", "stored more than once"),
    (Quantity::StoredAgain, "stored_again", "stored once more, a second after its ack or later"),
    (Quantity::Strange, "strange", "stored, and published by nobody"),
    (Quantity::Undelivered, "undelivered", "stored, and not delivered to a durable or a group"),
    (Quantity::Redelivered, "redelivered", "delivered again"),
    (Quantity::Order, "order", "kept, if each order is: of publishers, sequences, times, readers"),
    (Quantity::Failed, "failed", "publishes that a server refused, or nobody acknowledged in time"),
    (Quantity::Published, "published", "publishes"),
    (Quantity::Acked, "acked", "publishes that were acknowledged"),
    (Quantity::Reconnects, "reconnects", "connections that clients had to replace"),
    (Quantity::TakeOvers, "take_overs", "how often another member was active than before"),
    (Quantity::TakeOver, "take_over", "the longest time from a disturbance to an ack after it"),
    (Quantity::TakeOverMedian, "take_over_median", "the same, in the middle"),
    (Quantity::Pause, "pause", "the longest time that a publisher was without an ack"),
    (Quantity::Ack, "ack", "the longest time that an ack took"),
    (Quantity::AckP99, "ack_p99", "the time within which 99 of 100 acks came"),
];

/// What can be expected of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Quantity {
    Lost,
    Twice,
    StoredAgain,
    Strange,
    Undelivered,
    Redelivered,
    Order,
    Failed,
    Published,
    Acked,
    Reconnects,
    TakeOvers,
    TakeOver,
    TakeOverMedian,
    Pause,
    Ack,
    AckP99,
}

/// What a drill found of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Of messages, publishes and the like.
    Count(u64),
    /// A time in nanoseconds.
    Time(u64),
    /// It did not come to an end: longer than any time.
    Never,
    /// Whether the order was kept.
    Kept(bool),
}

/// How what was found is to be to what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

const COMPARISONS: [(&str, Comparison); 5] = [
    ("<", Comparison::Less),
    ("<=", Comparison::AtMost),
    ("=", Comparison::Equal),
    (">=", Comparison::AtLeast),
    (">", Comparison::More),
];

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expectation {
    pub(crate) quantity: Quantity,
    comparison: Comparison,
    value: Value,
}

impl Quantity {
    fn named(name: &str) -> Option<Self> {
        QUANTITIES.iter().find(|(_, known, _)| *known == name).map(|(quantity, ..)| *quantity)
    }

    /// As it is written.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        let found = QUANTITIES.iter().find(|(quantity, ..)| *quantity == self);
        found.map_or("", |(_, name, _)| name)
    }

    fn is_time(self) -> bool {
        [Self::TakeOver, Self::TakeOverMedian, Self::Pause, Self::Ack, Self::AckP99].contains(&self)
    }
}

impl Expectation {
    /// Takes an expectation apart.
    ///
    /// # Errors
    /// What is wrong with it, in words for who wrote it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let from = text.find(['<', '=', '>']).ok_or_else(|| {
            format!("{text:?} compares nothing: expected a name, <, <=, =, >= or >, and a value")
        })?;
        let rest = &text[from..];
        let len = rest.bytes().take_while(|byte| b"<=>".contains(byte)).count();
        let (sign, value) = rest.split_at(len);
        let (name, value) = (text[..from].trim(), value.trim());
        let quantity = Quantity::named(name).ok_or_else(|| {
            let names: Vec<&str> = QUANTITIES.iter().map(|(_, name, _)| *name).collect();
            format!("nothing is called {name:?}: {}", names.join(", "))
        })?;
        let comparison = COMPARISONS.iter().find(|(known, _)| *known == sign);
        let comparison =
            comparison.ok_or_else(|| format!("{sign:?} compares nothing: <, <=, =, >= or >"))?;
        let value = parse_value(quantity, value)?;
        match (quantity, comparison.1) {
            (Quantity::Order, Comparison::Equal) => (),
            (Quantity::Order, _) => return Err("an order is kept or not: order = kept".to_owned()),
            _ => (),
        }
        Ok(Self { quantity, comparison: comparison.1, value })
    }

    /// Whether what was found is as expected.
    #[must_use]
    pub(crate) fn holds(&self, found: Value) -> bool {
        let (found, wanted) = match (found, self.value) {
            (Value::Count(found), Value::Count(wanted))
            | (Value::Time(found), Value::Time(wanted)) => (found, wanted),
            (Value::Never, Value::Time(wanted)) => (u64::MAX, wanted),
            (Value::Kept(found), Value::Kept(wanted)) => (u64::from(found), u64::from(wanted)),
            _ => return false,
        };
        match self.comparison {
            Comparison::Less => found < wanted,
            Comparison::AtMost => found <= wanted,
            Comparison::Equal => found == wanted,
            Comparison::AtLeast => found >= wanted,
            Comparison::More => found > wanted,
        }
    }
}

fn parse_value(quantity: Quantity, text: &str) -> Result<Value, String> {
    if quantity == Quantity::Order {
        return match text {
            "kept" => Ok(Value::Kept(true)),
            _ => Err("an order is kept or not: order = kept".to_owned()),
        };
    }
    if quantity.is_time() {
        let time = duration(text)?;
        return Ok(Value::Time(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
    }
    let count = text.parse().map(Value::Count);
    count.map_err(|_| format!("{text:?} is no number, as {} wants one", quantity.name()))
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Time(nanos) => f.write_str(&shown_time(*nanos)),
            Self::Never => f.write_str("never"),
            Self::Kept(true) => f.write_str("kept"),
            Self::Kept(false) => f.write_str("broken"),
        }
    }
}

/// A time with no more digits than a person reads.
pub(super) fn shown_time(nanos: u64) -> String {
    let rounded = match nanos {
        ..100_000 => nanos,
        100_000..1_000_000_000 => (nanos + 50_000) / 100_000 * 100_000,
        1_000_000_000.. => nanos.saturating_add(5_000_000) / 10_000_000 * 10_000_000,
    };
    go::show_duration(i64::try_from(rounded).unwrap_or(i64::MAX))
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = COMPARISONS.iter().find(|(_, comparison)| *comparison == self.comparison);
        let sign = found.map_or("", |(sign, _)| sign);
        match self.value {
            Value::Time(nanos) => {
                let time = go::show_duration(i64::try_from(nanos).unwrap_or(i64::MAX));
                write!(f, "{} {sign} {time}", self.quantity.name())
            }
            value @ (Value::Count(_) | Value::Never | Value::Kept(_)) => {
                write!(f, "{} {sign} {value}", self.quantity.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str, found: Value) -> bool {
        Expectation::parse(text).expect(text).holds(found)
    }

    #[test]
    fn an_expectation_holds_or_not() {
        let ms = |count: u64| Value::Time(count * 1_000_000);
        assert!(holds("take_over < 100ms", ms(99)) && !holds("take_over < 100ms", ms(100)));
        assert!(holds("pause<=1s", ms(1_000)) && !holds("pause<=1s", Value::Never));
        assert!(holds("lost = 0", Value::Count(0)) && !holds("lost = 0", Value::Count(1)));
        assert!(holds("take_overs >= 3", Value::Count(3)));
        assert!(!holds("acked > 3", Value::Count(3)));
        assert!(holds("order = kept", Value::Kept(true)));
        assert!(!holds("order = kept", Value::Kept(false)));
    }

    #[test]
    fn an_expectation_is_read_as_it_is_shown() {
        for text in ["take_over < 100ms", "lost = 0", "order = kept", "ack_p99 <= 1.5s"] {
            let read = Expectation::parse(text).map(|expectation| expectation.to_string());
            assert_eq!(read, Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_no_expectation_is_named_with_what_would_be() {
        for (text, part) in [
            ("lost", "compares nothing"),
            ("lots = 0", "nothing is called \"lots\": lost, twice"),
            ("lost == 0", "\"==\" compares nothing"),
            ("lost = none", "\"none\" is no number, as lost wants one"),
            ("lost = -1", "is no number"),
            ("take_over < 100", "100 has no unit: write 100ms or 100s"),
            ("take_over < soon", "is no time"),
            ("order = mostly", "order = kept"),
            ("order < kept", "order = kept"),
        ] {
            let error = Expectation::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_shown_as_people_read_them() {
        assert_eq!(shown_time(18_234_567), "18.2ms");
        assert_eq!(shown_time(2_345_678_901), "2.35s");
    }
}
