//! How the reference writes values: JSON escapes, numbers, times, durations, uptimes.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::base::civil::{Civil, Offset};
use crate::base::time::WallTime;

/// A moment as RFC 3339 in UTC, with up to nine digits behind the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time(pub WallTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LocalTime { at: self.0, utc_offset: 0 }.fmt(f)
    }
}

/// A moment as RFC 3339 in local time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalTime {
    /// When.
    pub at: WallTime,
    /// What local time is ahead of UTC then, in seconds.
    pub utc_offset: i64,
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: i64 = 1_000_000_000;
        let seconds = self.at.0.div_euclid(SECOND) + self.utc_offset;
        let nanos = self.at.0.rem_euclid(SECOND);
        write!(f, "{}", Civil::at(seconds))?;
        if nanos > 0 {
            let digits = format!("{nanos:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        Offset(self.utc_offset).fmt(f)
    }
}

impl Serialize for LocalTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whole seconds as `5s`, `2m5s`, `3h2m5s`, `4d3h2m5s`, `1y4d3h2m5s` (spec core NATS, 14.9).
#[must_use]
pub fn uptime(from: WallTime, to: WallTime) -> String {
    let seconds = to.0.saturating_sub(from.0).max(0) / 1_000_000_000;
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    let (years, year_days) = (days / 365, days % 365);
    if years > 0 {
        format!("{years}y{year_days}d{hours}h{minutes}m{rest}s")
    } else if days > 0 {
        format!("{days}d{hours}h{minutes}m{rest}s")
    } else if hours > 0 {
        format!("{hours}h{minutes}m{rest}s")
    } else if minutes > 0 {
        format!("{minutes}m{rest}s")
    } else {
        format!("{rest}s")
    }
}

/// A duration as Go prints it: `0s`, `274µs`, `3.19772ms`, `1.5s`, `2m0s`, `1h0m0.5s`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos < 1_000_000_000 {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
            _ => format!("{}ms", fraction(nanos, 1_000_000)),
        };
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value` in units of `unit` (a power of ten), without zeros at the end.
fn fraction(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.to_string().len() - 1;
    format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
}

/// A duration in nanoseconds, as the reference gives options.
#[must_use]
pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A floating-point number that has no `.0` when it is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < 1e15 {
            #[allow(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
            return serializer.serialize_i64(self.0 as i64);
        }
        serializer.serialize_f64(self.0)
    }
}

/// A document as the reference writes it: two blanks of indentation, its escapes, no line end.
#[must_use]
pub fn json(document: &impl Serialize) -> String {
    // Maps have string keys here, and no value of ours fails.
    let text = serde_json::to_string_pretty(document).unwrap_or_default();
    escaped(&text)
}

/// The reference also escapes what could end a script in a web page, and has no `\b` and `\f`.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut chars = json.chars();
    while let Some(next) = chars.next() {
        match next {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            '\\' => match chars.next() {
                Some('b') => text.push_str("\\u0008"),
                Some('f') => text.push_str("\\u000c"),
                Some(other) => text.extend(['\\', other]),
                None => text.push('\\'),
            },
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_reference_does() {
        for (nanos, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_366_372_652_659_558, "2026-11-22T16:52:52.652659558Z"),
            (951_782_400_500_000_000, "2000-02-29T00:00:00.5Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (4_107_542_400_000_001_000, "2100-03-01T00:00:00.000001Z"),
        ] {
            assert_eq!(Time(WallTime(nanos)).to_string(), expected);
        }
    }

    #[test]
    fn uptimes_print_all_lower_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (125, "2m5s"),
            (3_600, "1h0m0s"),
            (93_784, "1d2h3m4s"),
            (365 * 86_400 + 4 * 86_400 + 5, "1y4d0h0m5s"),
        ] {
            assert_eq!(uptime(WallTime(7), WallTime(7 + seconds * 1_000_000_000)), expected);
        }
        assert_eq!(uptime(WallTime(9), WallTime(0)), "0s");
    }

    #[test]
    fn durations_have_the_largest_unit_that_fits() {
        for (nanos, expected) in [
            (0, "0s"),
            (999, "999ns"),
            (274_000, "274µs"),
            (1_500, "1.5µs"),
            (3_197_720, "3.19772ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (120_000_000_000, "2m0s"),
            (3_600_500_000_000, "1h0m0.5s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
    }

    #[test]
    fn json_is_escaped_as_in_go() {
        assert_eq!(json(&"a.>\u{8}\u{c}\\b<&\"\n"), r#""a.\u003e\u0008\u000c\\b\u003c\u0026\"\n""#);
        assert_eq!(json(&[Number(2.0), Number(0.5)]), "[\n  2,\n  0.5\n]");
    }

    #[test]
    fn local_times_carry_their_distance_to_utc() {
        let at = WallTime(1_709_630_430_500_000_000);
        for (utc_offset, text) in [
            (0, "2024-03-05T09:20:30.5Z"),
            (3_600, "2024-03-05T10:20:30.5+01:00"),
            (-16_200, "2024-03-05T04:50:30.5-04:30"),
            (50_400, "2024-03-05T23:20:30.5+14:00"),
        ] {
            assert_eq!(LocalTime { at, utc_offset }.to_string(), text);
        }
    }
}
