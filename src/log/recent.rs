//! The last warnings and errors, kept for whoever looks at the server instead of its log
//!
//! The thread that writes the log puts them here, so nobody who logs waits for whoever looks.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Tag;
use super::queue::Line;
use crate::base::time::WallTime;

/// Lines that are kept: what fits a page that a person reads.
pub const LINES_MAX: usize = 100;

/// What is kept of a line.
const LINE_BYTES_MAX: usize = 1024;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// When.
    pub at: WallTime,
    /// `warning`, `error` or `fatal`.
    pub level: &'static str,
    /// As in the log, up to a bound.
    pub text: String,
}

#[derive(Debug)]
struct Kept {
    count: u64,
    lines: VecDeque<Complaint>,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { count: 0, lines: VecDeque::new() });

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last of them, oldest first.
#[must_use]
pub fn lines() -> Vec<Complaint> {
    kept().lines.iter().cloned().collect()
}

/// How many there were since the process began.
#[must_use]
pub fn count() -> u64 {
    kept().count
}

/// Keeps a line that is written, if it is a warning or worse.
pub(super) fn note(line: &Line) {
    match line.tag {
        Tag::Warning | Tag::Error | Tag::Fatal => kept().add(line),
        Tag::Info | Tag::Debug | Tag::Trace => (),
    }
}

impl Kept {
    fn add(&mut self, line: &Line) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let mut text = without_quotes(&line.text);
        let mut end = LINE_BYTES_MAX.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(text[..end].trim_end().len());
        self.lines.push_back(Complaint { at: line.at, level: line.tag.word(), text });
        self.count += 1;
    }
}

/// A line without what it quotes: that is what somebody else has said, a payload or a password
/// among it, and whoever may see this need not be let see that. Nothing between the first and the
/// last mark of a kind is shown, so that no mark inside ends it.
fn without_quotes(text: &str) -> String {
    let mut text = text.to_owned();
    for mark in ['"', '\''] {
        let Some(first) = text.find(mark) else { continue };
        let last = text.rfind(mark).filter(|last| first < *last);
        let rest = last.map_or(String::new(), |last| text[last..].to_owned());
        text.truncate(first + 1);
        text.push('…');
        text.push_str(&rest);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what clients have sent is not shown to whoever reaches the pages.
    #[test]
    fn what_a_line_quotes_is_not_kept() {
        for (line, kept) in [
            ("Received data:\"secret \\\" x\" connID:\"7\" at once", "Received data:\"…\" at once"),
            ("parse error: 'CONNECT {\"pass\":\"s\"}', i=0", "parse error: '…', i=0"),
            ("nothing is quoted", "nothing is quoted"),
            ("one \" alone", "one \"…"),
        ] {
            assert_eq!(without_quotes(line), kept);
        }
    }

    #[test]
    fn the_last_ones_are_kept_up_to_a_bound() {
        let mut kept = Kept { count: 0, lines: VecDeque::new() };
        for number in 0..=LINES_MAX {
            let text = format!("{number} {}", "é".repeat(LINE_BYTES_MAX));
            kept.add(&Line { at: WallTime(0), tag: Tag::Error, epoch: 0, text });
        }
        assert_eq!((kept.count, kept.lines.len()), (101, LINES_MAX));
        assert!(kept.lines.iter().all(|line| line.text.len() <= LINE_BYTES_MAX));
        assert!(kept.lines[0].text.starts_with("1 é"));
    }
}
