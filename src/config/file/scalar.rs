//! Numbers and dates of the configuration grammar

use super::{FileError, Parser, is_bare_end};
use crate::config::tree::Value;

impl Parser<'_> {
    fn skip_digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.advance();
        }
    }

    fn skip_letters(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_alphabetic()) {
            self.advance();
        }
    }

    /// A number that begins with a minus sign.
    pub(super) fn negative(&mut self) -> Result<Value, FileError> {
        let start = self.pos;
        self.advance();
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.syntax(format!("Expected a digit but got '{}'.", self.shown()));
        }
        self.skip_digits();
        if self.peek() == Some(b'.') {
            return self.float(start);
        }
        let digits_end = self.pos;
        self.skip_letters();
        integer(self.slice(start)).unwrap_or_else(|| {
            self.pos = digits_end;
            integer(self.slice(start)).unwrap_or_else(|| self.syntax("Expected a number"))
        })
    }

    /// Whole number, float, date, or a string that begins with a digit.
    pub(super) fn number(&mut self) -> Result<Value, FileError> {
        let start = self.pos;
        self.skip_digits();
        match self.peek() {
            Some(b'.') => self.float(start),
            Some(b'-') if self.pos - start == 4 => self.date(start),
            _ => {
                self.skip_letters();
                if self.peek().is_none_or(is_bare_end)
                    && let Some(value) = integer(self.slice(start))
                {
                    return value;
                }
                self.bare(start)
            }
        }
    }

    fn float(&mut self, start: usize) -> Result<Value, FileError> {
        self.advance();
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.syntax(format!(
                "Floats must have a digit after the '.', but got '{}' instead.",
                self.shown()
            ));
        }
        self.skip_digits();
        if self.peek() == Some(b'.') {
            // A second point makes it an address or a version.
            return self.bare(start);
        }
        let text = self.slice(start);
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Value::Float(value)),
            _ => self.syntax(format!("float '{text}' is out of the range")),
        }
    }

    fn date(&mut self, start: usize) -> Result<Value, FileError> {
        for expected in b"-dd-ddTdd:dd:ddZ" {
            let found = self.peek();
            let matches = match expected {
                b'd' => found.is_some_and(|byte| byte.is_ascii_digit()),
                other => found == Some(*other),
            };
            if !matches {
                let what = match expected {
                    b'd' => "digit".to_owned(),
                    other => format!("'{}'", char::from(*other)),
                };
                return self.syntax(format!(
                    "Expected {what} in ISO8601 datetime, but found '{}' instead.",
                    self.shown()
                ));
            }
            self.advance();
        }
        Ok(Value::Date(self.slice(start).to_owned()))
    }
}

/// The whole number that `text` is, with its suffix multiplied in; `None` if it is none.
fn integer(text: &str) -> Option<Result<Value, FileError>> {
    let digits_end = text.trim_start_matches('-').trim_start_matches(|c: char| c.is_ascii_digit());
    let (digits, suffix) = text.split_at(text.len() - digits_end.len());
    let lower = suffix.to_ascii_lowercase();
    let (letter, binary) = match lower.as_bytes() {
        [] => (None, false),
        [letter] => (Some(*letter), false),
        [letter, b'b' | b'i'] | [letter, b'i', b'b'] => (Some(*letter), true),
        _ => return None,
    };
    let exponent = match letter {
        None => 0,
        Some(letter) => 1 + u32::try_from(b"kmgtpe".iter().position(|c| *c == letter)?).ok()?,
    };
    let base: i64 = if binary { 1024 } else { 1000 };
    let value =
        digits.parse::<i64>().ok().and_then(|value| value.checked_mul(base.checked_pow(exponent)?));
    Some(value.map(Value::Integer).ok_or_else(|| FileError::IntegerRange(text.to_owned())))
}
