//! What happened in a run, for a person to follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::time::Instant;

/// Lines that are kept: the last ones say why.
const LINES_MAX: usize = 20_000;

/// The lines of a run, if they are wanted; its clones are the same trace.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    lines: Option<Arc<Mutex<VecDeque<String>>>>,
}

impl Trace {
    /// No line yet.
    #[must_use]
    pub fn new(is_wanted: bool) -> Self {
        Self { lines: is_wanted.then(Arc::default) }
    }

    /// Writes a line, if lines are wanted.
    pub fn say(&self, now: Instant, text: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let mut lines = locked(lines);
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
        self.lines.iter().flat_map(|lines| locked(lines).clone()).collect()
    }
}

fn locked(lines: &Mutex<VecDeque<String>>) -> MutexGuard<'_, VecDeque<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
