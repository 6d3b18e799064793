//! Go's ways of reading and printing numbers, durations and quoted texts, which users see
//!
//! Compat: flags and keys take what the reference's own parsers took; pinned by the tests below.

use std::io;
use std::time::Duration;

use crate::base::civil::Civil;

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Why a number of the command line is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// It is no number.
    #[error("parse error")]
    Syntax,
    /// It does not fit into 64 bits.
    #[error("value out of range")]
    Range,
}

/// A signed duration in nanoseconds from Go's notation: `300ms`, `-1.5h`, `2h45m`, `0`.
///
/// # Errors
/// The reference's text.
pub fn duration(text: &str) -> Result<i64, String> {
    let quote = quote_bytes;
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (is_negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, tail) = rest.split_at(whole_end);
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => {
                let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
                tail.split_at(end)
            }
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            let unit = quote(unit);
            return Err(format!("time: unknown unit {unit} in duration {}", quote(text)));
        };
        let part = scaled(whole, fraction, i128::from(*scale)).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    let signed = if is_negative { -total } else { total };
    i64::try_from(signed).map_err(|_| invalid())
}

/// `whole.fraction` times `scale`; digits below a nanosecond are cut off.
fn scaled(whole: &str, fraction: &str, scale: i128) -> Option<i128> {
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = whole.checked_mul(scale)?;
    let digits: &str = fraction.get(..fraction.len().min(18))?;
    if digits.is_empty() {
        return Some(nanos);
    }
    let parts = 10_i128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let value: i128 = digits.parse().ok()?;
    nanos.checked_add(scale.checked_mul(value)? / parts)
}

/// A duration in nanoseconds as Go prints it: `1h0m0s`, `1m30s`, `1.5s`, `250ms`, `0s`.
#[must_use]
pub fn show_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let text = match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// As [`show_duration`].
#[must_use]
pub fn show(duration: Duration) -> String {
    show_duration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

fn decimal(value: u64, unit: u64, name: &str) -> String {
    let width = unit.to_string().len() - 1;
    let fraction = format!("{:0width$}", value % unit);
    match fraction.trim_end_matches('0') {
        "" => format!("{}{name}", value / unit),
        fraction => format!("{}.{fraction}{name}", value / unit),
    }
}

/// A moment in nanoseconds since 1970 as Go prints it, in UTC.
#[must_use]
pub fn show_time(nanos: i64) -> String {
    let at = Civil::at(nanos.div_euclid(1_000_000_000));
    let [hour, minute, second] = at.clock();
    let fraction = format!(".{:09}", nanos.rem_euclid(1_000_000_000));
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let Civil { year, month, day, .. } = at;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC")
}

/// A 64-bit number with Go's prefixes: decimal, `0x`, `0o` or a leading 0, `0b`, underscores.
///
/// # Errors
/// [`NumberError`].
pub fn integer(text: &str) -> Result<i64, NumberError> {
    let (sign, rest) = match text.as_bytes().first() {
        Some(b'-') => ("-", &text[1..]),
        Some(b'+') => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = rest.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let has_prefix = digits.len() < lower.len();
    let inner = if has_prefix { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let is_number = !inner.is_empty()
        && inner
            .split('_')
            .all(|part| !part.is_empty() && part.chars().all(|digit| digit.is_digit(radix)));
    if !is_number {
        return Err(NumberError::Syntax);
    }
    let plain = format!("{sign}{}", inner.replace('_', ""));
    i64::from_str_radix(&plain, radix).map_err(|_| NumberError::Range)
}

/// A whole number without any prefix, as this function of Go's `strconv` reads it.
///
/// # Errors
/// The reference's text.
pub fn decimal_integer(function: &str, text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let reason = if is_number { "value out of range" } else { "invalid syntax" };
    let parsed = text.parse().ok().filter(|_| is_number);
    parsed.ok_or_else(|| format!("strconv.{function}: parsing {}: {reason}", quote(text)))
}

/// Go's words for true and false.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `text` in double quotes, as Go's `%q` prints it.
#[must_use]
pub fn quote(text: &str) -> String {
    quote_any(text.as_bytes())
}

/// What may be no text in double quotes, as Go's `%q` shows it: on a line whatever is in it, and
/// nothing that a terminal would obey.
#[must_use]
pub fn quote_any(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            push_quoted(&mut quoted, letter);
        }
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

fn push_quoted(quoted: &mut String, letter: char) {
    // Nearly all that is quoted: a flood of refused names must not hold up others.
    if matches!(letter, ' '..='~') && !matches!(letter, '"' | '\\') {
        quoted.push(letter);
        return;
    }
    let short = match letter {
        '"' => Some('"'),
        '\\' => Some('\\'),
        '\x07' => Some('a'),
        '\x08' => Some('b'),
        '\x0c' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        '\x0b' => Some('v'),
        _ => None,
    };
    let number = u32::from(letter);
    // Rust knows what cannot be printed; marks on other letters can.
    let is_shown = |letter: char| {
        let mut escaped = letter.escape_debug();
        (escaped.next(), escaped.next()) != (Some('\\'), Some('u'))
    };
    match short {
        Some(short) => quoted.extend(['\\', short]),
        None if number < 0x20 || number == 0x7f => quoted.push_str(&format!("\\x{number:02x}")),
        None if is_shown(letter) || (0x300..0x370).contains(&number) => quoted.push(letter),
        None if number < 0x1_0000 => quoted.push_str(&format!("\\u{number:04x}")),
        None => quoted.push_str(&format!("\\U{number:08x}")),
    }
}

/// `text` in double quotes, as errors of Go's durations show it.
fn quote_bytes(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..0x80 => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

/// The system's reason in the words that Go programs show.
#[must_use]
pub fn system_reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("300ms", 300_000_000),
            ("1.5h", 5_400_000_000_000),
            ("2h45m", 9_900_000_000_000),
            ("-1s", -1_000_000_000),
            ("+5us", 5_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("7µs", 7_000),
            ("1.123456789s", 1_123_456_789),
        ] {
            assert_eq!(duration(text), Ok(nanos), "{text}");
        }
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("x", "time: invalid duration \"x\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
            ("é\n", "time: invalid duration \"\\xc3\\xa9\\x0a\""),
        ] {
            assert_eq!(duration(text).unwrap_err(), error);
        }
    }

    #[test]
    fn durations_are_shown_as_go_shows_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (86_400_000_000_000, "24h0m0s"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(show_duration(nanos), text);
        }
    }

    #[test]
    fn moments_are_shown_as_go_shows_them() {
        for (nanos, text) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (1_795_947_710_400_723_769, "2026-11-29 10:21:50.400723769 +0000 UTC"),
            (1_795_947_710_400_000_000, "2026-11-29 10:21:50.4 +0000 UTC"),
            (-1, "1969-12-31 23:59:59.999999999 +0000 UTC"),
        ] {
            assert_eq!(show_time(nanos), text);
        }
    }

    #[test]
    fn numbers_have_gos_prefixes() {
        for (text, value) in
            [("10", 10), ("-1", -1), ("0x1F", 31), ("0b11", 3), ("0o17", 15), ("017", 15)]
        {
            assert_eq!(integer(text), Ok(value), "{text}");
        }
        assert_eq!(integer("1_000"), Ok(1_000));
        assert_eq!(integer("0x_ff"), Ok(255));
        for text in ["", "abc", "1.5", "12a", "0x", "1__0", "--1", "09"] {
            assert_eq!(integer(text), Err(NumberError::Syntax), "{text}");
        }
        assert_eq!(integer("99999999999999999999"), Err(NumberError::Range));
    }

    #[test]
    fn quoted_texts_show_what_cannot_be_printed() {
        assert_eq!(quote("a\"b\\\n\u{1}é"), "\"a\\\"b\\\\\\n\\x01é\"");
        for (bytes, text) in [
            (&b"foo\x7f"[..], r#""foo\x7f""#),
            (b"a\x00b", r#""a\x00b""#),
            (b"a\xe9b", r#""a\xe9b""#),
            (b"\x1b]0;x\x07", r#""\x1b]0;x\a""#),
            (b"\x08\x0b\x0c\r\t", r#""\b\v\f\r\t""#),
            (
                "\u{80}\u{a0}\u{200b}\u{e000}\u{10ffff}".as_bytes(),
                r#""\u0080\u00a0\u200b\ue000\U0010ffff""#,
            ),
            ("日本 é e\u{301} 😀".as_bytes(), "\"日本 é e\u{301} 😀\""),
            (b"\xff\xfe", r#""\xff\xfe""#),
        ] {
            assert_eq!(quote_any(bytes), text);
        }
    }
}
