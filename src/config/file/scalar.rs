//! Numbers and dates of the configuration grammar

use super::FileError;
use super::lexer::{Kind, Lexer, Step, shown};
use crate::base::go;
use crate::config::tree::Value;

/// Where the decimal digits of each script but the Latin one begin; each has ten in a row.
const DIGITS: [u32; 67] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60, 0x16ac0,
    0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e950,
    0x1fbf0,
];

/// Compat: digits of all scripts begin a number, which is then refused for those that are not
/// Latin; pinned by `every_recorded_file_means_what_it_means_to_the_go_parser`.
pub(super) fn is_digit(found: char) -> bool {
    let code = u32::from(found);
    found.is_ascii_digit()
        || !found.is_ascii() && DIGITS.iter().any(|first| (*first..first + 10).contains(&code))
}

/// What ends a number, of all that may follow one.
fn is_number_end(found: char) -> bool {
    matches!(found, '\n' | '\r' | '\0' | '}' | ';' | ',' | ' ' | '\t')
}

fn is_suffix(found: char) -> bool {
    matches!(found.to_ascii_lowercase(), 'k' | 'm' | 'g' | 't' | 'p' | 'e')
}

impl Lexer {
    /// A number whose minus sign was read.
    pub(super) fn negative(&mut self) -> Step {
        match self.next() {
            '.' => return self.syntax("Floats must start with a digit, not '.'."),
            found if !is_digit(found) => {
                return self.syntax(format!("Expected a digit but got '{}'.", shown(found)));
            }
            _ => {}
        }
        loop {
            match self.next() {
                '.' => return self.fraction(),
                found if is_digit(found) => {}
                found if is_suffix(found) => return self.suffix(),
                _ => {
                    self.back();
                    return self.emit_value(Kind::Integer);
                }
            }
        }
    }

    /// A whole number, float, date, or a string that begins with the digit that was read.
    pub(super) fn number(&mut self) -> Step {
        loop {
            match self.next() {
                '-' if self.pos - self.start == 5 => return self.date(),
                '-' => return self.syntax("All ISO8601 dates must be in full Zulu form."),
                '.' => return self.fraction(),
                found if is_digit(found) => {}
                found if is_suffix(found) => return self.suffix(),
                found if is_number_end(found) || (found == ']' && self.is_lenient) => {
                    self.back();
                    return self.emit_value(Kind::Integer);
                }
                _ => return self.bare(),
            }
        }
    }

    /// What follows the first letter of a suffix.
    fn suffix(&mut self) -> Step {
        let mut found = self.next();
        while matches!(found, 'b' | 'B' | 'i' | 'I') {
            found = self.next();
        }
        self.back();
        if is_digit(found) && self.is_lenient && self.is_duration() {
            return self.bare();
        }
        if is_number_end(found) || is_digit(found) {
            return self.emit_value(Kind::Integer);
        }
        self.bare()
    }

    /// Whether the word that is being read is a duration such as `5m30s`.
    fn is_duration(&self) -> bool {
        let is_end = |byte: &u8| is_number_end(char::from(*byte)) || *byte == b']';
        let word = self.text[self.start..].split(is_end).next().unwrap_or_default();
        std::str::from_utf8(word).is_ok_and(|word| go::duration(word).is_ok())
    }

    /// The digits behind a point; a second point makes it an address or a version.
    fn fraction(&mut self) -> Step {
        let found = self.next();
        if !is_digit(found) {
            return self.syntax(format!(
                "Floats must have a digit after the '.', but got '{}' instead.",
                shown(found)
            ));
        }
        let mut found = self.next();
        while is_digit(found) {
            found = self.next();
        }
        let kind = if found == '.' { Kind::Text } else { Kind::Float };
        while kind == Kind::Text && (is_digit(found) || matches!(found, '.' | ':' | '-')) {
            found = self.next();
        }
        self.back();
        self.emit_value(kind)
    }

    /// A date whose year and dash were read.
    fn date(&mut self) -> Step {
        for expected in "00-00T00:00:00Z".chars() {
            let found = self.next();
            let what = match expected {
                '0' if is_digit(found) => continue,
                '0' => "digit".to_owned(),
                other if other == found => continue,
                other => format!("'{other}'"),
            };
            return self.syntax(format!(
                "Expected {what} in ISO8601 datetime, but found '{}' instead.",
                shown(found)
            ));
        }
        self.emit_value(Kind::Date)
    }
}

/// The whole number that `text` is, with its suffix multiplied in.
///
/// Compat: with a suffix that is none (`1kbb`) there is no value at all; pinned by
/// `every_recorded_file_means_what_it_means_to_the_go_parser`.
///
/// # Errors
/// It does not fit into 64 bits. The reference multiplies without a look at that.
pub(super) fn integer(text: &str) -> Result<Option<Value>, FileError> {
    let end = text.find(|c: char| !is_digit(c) && c != '-').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    if !digits.is_ascii() {
        return Err(FileError::IntegerExpected(text.to_owned()));
    }
    let lower = suffix.to_ascii_lowercase();
    let (letter, base) = match lower.as_bytes() {
        [] => (None, 1_i64),
        [letter] => (Some(letter), 1000),
        [letter, b'b' | b'i'] | [letter, b'i', b'b'] => (Some(letter), 1024),
        _ => (None, 0),
    };
    let out_of_range = || FileError::IntegerRange(text.to_owned());
    let value: i64 = digits.parse().map_err(|_| out_of_range())?;
    let exponent = match letter {
        _ if base == 0 => return Ok(None),
        None => 0,
        Some(letter) => match b"kmgtpe".iter().zip(1..).find(|(known, _)| *known == letter) {
            Some((_, exponent)) => exponent,
            None => return Ok(None),
        },
    };
    let value = base.checked_pow(exponent).and_then(|factor| value.checked_mul(factor));
    value.map(|value| Some(Value::Integer(value))).ok_or_else(out_of_range)
}

/// The number with a point that `text` is.
pub(super) fn float(text: &str) -> Result<Value, FileError> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Value::Float(value)),
        Ok(_) => Err(FileError::FloatRange(text.to_owned())),
        Err(_) => Err(FileError::FloatExpected(text.to_owned())),
    }
}

/// The date that `text` is, whose digits stand in the right places.
pub(super) fn date(text: String) -> Result<Value, FileError> {
    let part = |from: usize, to: usize| text.get(from..to).and_then(|part| part.parse().ok());
    let day_max = |year: u32, month: u32| match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        _ => 31,
    };
    let is_date = || -> Option<bool> {
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        let is_day = (1..=12).contains(&month) && (1..=day_max(year, month)).contains(&day);
        Some(is_day && hour < 24 && minute < 60 && second < 60)
    };
    if is_date() == Some(true) { Ok(Value::Date(text)) } else { Err(FileError::DateExpected(text)) }
}
