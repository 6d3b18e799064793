//! What happened in a run, for a person to follow.

use std::collections::VecDeque;

use crate::base::time::Instant;

/// Lines that are kept: the last ones say why.
const LINES_MAX: usize = 4_000;

/// The lines of a run, if they are wanted.
#[derive(Debug)]
pub struct Trace {
    lines: Option<VecDeque<String>>,
}

impl Trace {
    /// No line yet.
    #[must_use]
    pub fn new(is_wanted: bool) -> Self {
        Self { lines: is_wanted.then(VecDeque::new) }
    }

    /// Writes a line, if lines are wanted.
    pub fn say(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            let micros = now.0 / 1_000;
            lines.push_back(format!(
                "{:>6}.{:06} {}",
                micros / 1_000_000,
                micros % 1_000_000,
                text()
            ));
        }
    }

    /// All lines that were kept.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().flatten().cloned().collect()
    }
}
