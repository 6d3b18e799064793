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
        let mut end = LINE_BYTES_MAX.min(line.text.len());
        while !line.text.is_char_boundary(end) {
            end -= 1;
        }
        let text = line.text[..end].trim_end().to_owned();
        self.lines.push_back(Complaint { at: line.at, level: line.tag.word(), text });
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
