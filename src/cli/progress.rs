//! A line that says how far a command is, once a second

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::base::time::Instant;
use crate::base::world;

/// How often a line says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What was said, and when.
pub(super) struct Progress {
    said_at: Instant,
    has_said: bool,
}

impl Progress {
    /// Nothing is said in the first second.
    pub(super) fn new() -> Self {
        Self { said_at: world::instant(), has_said: false }
    }

    /// Says it, if it is time to.
    pub(super) fn say(&mut self, line: &str) {
        let now = world::instant();
        if now.since(self.said_at) < SAY_EVERY {
            return;
        }
        self.said_at = now;
        self.has_said = true;
        let mut stderr = io::stderr();
        // On a terminal one line is written over and over.
        let _ = if stderr.is_terminal() {
            write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
    }

    /// Leaves a terminal as it was.
    pub(super) fn end(&self) {
        let mut stderr = io::stderr();
        if self.has_said && stderr.is_terminal() {
            let _ = write!(stderr, "\r\x1b[K");
        }
    }
}
