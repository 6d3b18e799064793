//! How many loops have come how far in one term: a stage is over when all of them have said so.

/// What each loop says once in a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its engine listens to all that it begins with.
    Listening,
    /// It gives the engines nothing more.
    Gated,
    /// Its engine has come to its end.
    Quiet,
}

/// The loops of one term.
#[derive(Debug)]
pub(super) struct LoopCounts {
    loops: u16,
    listening: u16,
    gated: u16,
    quiet: u16,
    /// That all listen was told.
    is_ready: bool,
}

impl LoopCounts {
    /// None of so many has said anything.
    pub(super) fn new(loops: u16) -> Self {
        Self { loops, listening: 0, gated: 0, quiet: 0, is_ready: false }
    }

    /// A loop says it; whether it was the last one.
    pub(super) fn say(&mut self, stage: Stage) -> bool {
        let count = match stage {
            Stage::Listening => &mut self.listening,
            Stage::Gated => &mut self.gated,
            Stage::Quiet => &mut self.quiet,
        };
        *count += 1;
        *count == self.loops
    }

    /// Whether all listen, the one that serves clients too; true once.
    pub(super) fn take_ready(&mut self, is_open: bool) -> bool {
        let is_ready = is_open && self.listening == self.loops && !self.is_ready;
        self.is_ready |= is_ready;
        is_ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_over_with_the_last_loop_and_only_once() {
        let mut counts = LoopCounts::new(2);
        assert!(!counts.say(Stage::Gated));
        assert!(!counts.say(Stage::Quiet), "each stage has a count of its own");
        assert!(counts.say(Stage::Gated));
        assert!(counts.say(Stage::Quiet));
        counts.say(Stage::Listening);
        assert!(!counts.take_ready(true));
        counts.say(Stage::Listening);
        assert!(!counts.take_ready(false));
        assert!(counts.take_ready(true));
        assert!(!counts.take_ready(true), "it was told");
    }
}
